//! What a connector may and sees on its server, compared with what it needs. Changes nothing, the ledger included.

mod facts;
mod item;
mod judge;

use postern_schemas::Identifier;
use tokio_postgres::Client;
use tokio_postgres::types::Type;

use self::facts::{DATABASES, FACTS, Facts, LEDGERS, Named, ROLES, named};
use crate::access::Rules;
use crate::config::Integration;
use crate::postgres::TargetError;
use crate::postgres::batch::{self, Statement};
use crate::postgres::connect::{ConnectError, ConnectFailure, connect};
use crate::postgres::ledger::{self, BEGIN, OWNER};
use crate::postgres::names::ident;
use crate::secrets;

pub use item::{Item, Status};

/// Looks at an integration's secret and server. Takes seconds if the server cannot be reached.
pub async fn integration(integration: &Integration, rules: &Rules) -> Vec<Item> {
    let credential = match secrets::store(integration).connector().await {
        Ok(credential) => credential,
        Err(error) => return vec![Item::fail("secret", error.to_string())],
    };
    let mut items = vec![Item::ok("secret", format!("{} names the login {}", integration.secret, credential.username))];
    let client = match connect(integration, &integration.database, &credential, "postern check").await {
        Ok((client, _task)) => client,
        Err(error) => {
            items.push(no_session(&error));
            return items;
        }
    };
    let at = format!("{} at {}, database {}", credential.username, integration.address(), integration.database);
    items.push(Item::ok("login", at));
    match look(&client, integration, rules).await {
        Ok(found) => items.extend(found),
        Err(error) => items.push(Item::fail("catalog", error.to_string())),
    }
    items
}

/// Why there is no session, and what gives one.
fn no_session(error: &ConnectError) -> Item {
    let user = ident(&error.user);
    match &error.failure {
        ConnectFailure::Tls(_) | ConnectFailure::Cleartext(_) => Item::fail("tls", error.to_string()),
        ConnectFailure::ReadOnly => Item::fail("primary", error.to_string()),
        ConnectFailure::Authentication { sqlstate, .. } if sqlstate == "28P01" => Item::fail("login", error.to_string())
            .mend("-- in psql, as an administrator; it asks for the password, which is to be the secret's")
            .mend(format!("\\password {user}")),
        ConnectFailure::Authentication { .. } => Item::fail("login", error.to_string())
            .mend("-- as an administrator, unless pg_hba.conf is what refuses")
            .mend(format!("ALTER ROLE {user} LOGIN;")),
        ConnectFailure::Forbidden { .. } => Item::fail("login", error.to_string())
            .mend("-- as the database's owner")
            .mend(format!("GRANT CONNECT ON DATABASE {} TO {user};", ident(&error.database))),
        ConnectFailure::NoDatabase => Item::fail("login", error.to_string())
            .mend("-- as an administrator, unless another database is meant: see `database` in the configuration")
            .mend(format!("CREATE DATABASE {};", ident(&error.database))),
        ConnectFailure::Unreachable { .. } | ConnectFailure::Refused { .. } => Item::fail("login", error.to_string()),
    }
}

async fn look(client: &Client, integration: &Integration, rules: &Rules) -> Result<Vec<Item>, TargetError> {
    let offered: Vec<String> = integration.policy.roles.iter().map(ToString::to_string).collect();
    let databases: Option<Vec<String>> = integration.policy.databases.as_ref().map(|names| names.iter().map(ToString::to_string).collect());
    let by_name = databases.is_some();
    let statements = [
        Statement::plain("beginning a transaction", format!("{BEGIN}; SET TRANSACTION READ ONLY")),
        Statement::query("looking at the connector", FACTS).text(OWNER),
        Statement::query("looking at the policy's roles", ROLES).bind(offered, Type::TEXT_ARRAY),
        Statement::query("looking at databases", DATABASES).bind(databases, Type::TEXT_ARRAY),
        Statement::query("looking for other ledgers", LEDGERS),
        Statement::plain("ending the transaction", "ROLLBACK"),
    ];
    let answers = batch::run(client, &statements).await?;
    let [_, facts, of_roles, of_databases, ledgers, _] = answers.as_slice() else {
        return Err(TargetError::Unreadable("fewer answers than questions".to_owned()));
    };
    let facts = facts.first().map(Facts::of).ok_or_else(|| TargetError::Unreadable("no answer about the connector".to_owned()))?;
    let ledger = match &facts.owner {
        // Nobody else may read it.
        Some(owner) if facts.has_ledger && (owner.inherits || facts.superuser) => ledger::found(client).await?,
        _ => None,
    };

    let mut items = judge::server(&facts, integration.ssl_mode, integration.ssl_root_cert.is_some());
    items.extend(judge::rights(&facts));
    items.push(judge::ledger(&facts, ledger));
    let others = ledgers.iter().map(|row| row.get("ledger")).filter(|other: &String| ledger.is_none_or(|(id, _)| *other != id.to_string()));
    items.extend(judge::others(&facts, &others.collect::<Vec<_>>(), ledger.is_some()));
    items.extend(of_roles.iter().map(|row| judge::role(&facts, &named(row))));
    let allowed = |named: &Named| by_name || Identifier::new(&named.name).is_ok_and(|name| rules.allows_database(&name));
    items.extend(of_databases.iter().map(named).filter(allowed).map(|named| judge::database(&facts, &named, by_name)));
    Ok(items)
}
