//! What a connector may and sees on its server, compared with what it needs. Changes nothing, the ledger included.

mod aws;
mod databases;
mod facts;
mod item;
mod judge;
mod reassign;
mod replicas;
mod server;

use jiff::Timestamp;
use postern_schemas::Identifier;
use tokio_postgres::Client;
use tokio_postgres::types::Type;

use self::databases::Wanted;
use self::facts::{DATABASES, Database, FACTS, Facts, LEDGERS};
use crate::access::Rules;
use crate::config::Integration;
use crate::postgres::TargetError;
use crate::postgres::batch::{self, Statement};
use crate::postgres::connect::{ConnectError, ConnectFailure, Purpose, connect};
use crate::postgres::error::BEGINNING;
use crate::postgres::ledger::{self, BEGIN_READING, OWNER};
use crate::postgres::locate::look_up;
use crate::postgres::names::ident;
use crate::postgres::observe::role_chains;
use crate::postgres::rows;
use crate::secrets::{Connector, Credential, Known, SecretFailure, Stores};

pub use item::{Item, Status};

/// How the server's administrator sees these sessions.
const APPLICATION: &str = "postern check";

/// Looks at an integration's secret and server. Takes seconds if the server cannot be reached.
pub async fn integration(integration: &Integration, stores: &Stores, rules: &Rules) -> Vec<Item> {
    let mut items = Vec::new();
    let found = match &integration.instance {
        None => integration.clone(),
        Some(instance) => match Box::pin(look_up(instance)).await {
            Ok(endpoint) => {
                items.push(Item::ok(
                    "endpoint",
                    format!("{} in {} is at {}:{}", instance.id, instance.region, endpoint.host, endpoint.port),
                ));
                integration.at(&endpoint)
            }
            Err(error) => return vec![aws::no_endpoint(&error, instance)],
        },
    };
    let integration = &found;
    let (found, known) = secret(integration, &stores.connector(integration)).await;
    items.extend(found);
    let Some(known) = known else { return items };
    let mut credential = known.current;
    let mut connected = connect(integration, Purpose::Changing, &integration.database, &credential, APPLICATION).await;
    // In the middle of a rotation the server knows one or the other, as a worker finds out too.
    if let (Some(pending), true) = (known.pending, connected.as_ref().is_err_and(ConnectError::is_authentication)) {
        credential = pending;
        connected = connect(integration, Purpose::Changing, &integration.database, &credential, APPLICATION).await;
    }
    let client = match connected {
        Ok((client, _task)) => client,
        Err(error) => {
            items.push(if integration.is_iam() { aws::no_login(&error, no_session(&error)) } else { no_session(&error) });
            return items;
        }
    };
    let at = format!("{} at {}, database {}", credential.username, integration.address(), integration.database);
    items.push(Item::ok("login", at));
    match look(&client, integration, &credential, rules).await {
        Ok(found) => items.extend(found),
        Err(error) => items.push(Item::fail("catalog", error.to_string())),
    }
    items.extend(pooler(integration, &credential).await);
    items.extend(replicas::look(&client, integration, &credential).await);
    items
}

/// A connection pooler between here and the server, where it can be told: it refuses what the server takes (08P01).
async fn pooler(integration: &Integration, credential: &Credential) -> Option<Item> {
    let probe = connect(integration, Purpose::Probing, &integration.database, credential, "postern check").await;
    probe.err().filter(|error| error.sqlstate() == Some("08P01")).map(|_| {
        let message = "a connection pooler such as PgBouncer stands between; Postern works through it, in transaction mode too, and people \
                       who get this address need it to know them (auth_query)";
        Item::warn("pooler", message)
    })
}

/// Looks at the connector's secret: whether it is found, marked, readable, and writable if it is to be rotated.
async fn secret(integration: &Integration, connector: &Connector) -> (Vec<Item>, Option<Known>) {
    let known = match connector.read().await {
        Ok(known) => known,
        Err(error) => {
            let item = Item::fail("secret", error.to_string());
            let command = match &error.what {
                SecretFailure::Unmarked(_) => connector.mark_command(),
                _ => None,
            };
            return (vec![command.into_iter().fold(item, Item::mend)], None);
        }
    };
    let mark = match known.marked {
        Some(true) => ", and carries the mark",
        Some(false) | None => "",
    };
    let pending = if known.pending.is_some() { "; a rotation has begun" } else { "" };
    let does = if integration.is_iam() { "signs logins of" } else { "names the login" };
    let message = format!("{} {does} {}{mark}{pending}", integration.secret, known.current.username);
    let mut items = vec![Item::ok("secret", message)];
    if integration.connector_rotation_days.is_some() {
        items.push(match connector.secret().may_write().await {
            Ok(Some(true)) => Item::ok("secret writable", "the store lets it be written"),
            Ok(Some(false)) => Item::fail("secret writable", "may not be written, so it cannot be rotated; see docs/secret-stores.md"),
            Ok(None) => Item::warn("secret writable", "whether it may be written shows only when it is; see docs/secret-stores.md"),
            Err(error) => Item::fail("secret writable", error.to_string()),
        });
    }
    (items, Some(known))
}

/// Why there is no session, and what gives one.
fn no_session(error: &ConnectError) -> Item {
    let user = ident(&error.user);
    match &error.failure {
        ConnectFailure::Tls(_) | ConnectFailure::Cleartext(_) => Item::fail("tls", error.to_string()),
        ConnectFailure::ReadOnly => Item::fail("primary", error.to_string()),
        ConnectFailure::Authentication { sqlstate, .. } if sqlstate == "28P01" => Item::fail("login", error.to_string())
            .mend("-- as an administrator; the password may have ended")
            .mend(format!("ALTER ROLE {user} VALID UNTIL 'infinity';"))
            .mend("-- in psql; it asks for the password, which is to be the secret's")
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

async fn look(client: &Client, integration: &Integration, credential: &Credential, rules: &Rules) -> Result<Vec<Item>, TargetError> {
    let offered: Vec<String> = integration.policy.roles.iter().map(ToString::to_string).collect();
    let databases: Option<Vec<String>> = integration.policy.databases.as_ref().map(|names| names.iter().map(ToString::to_string).collect());
    let listed = databases.is_some();
    let admin_role = integration.kind.admin_role();
    let statements = [
        Statement::plain(BEGINNING, BEGIN_READING),
        Statement::query("looking at the connector", FACTS).text(OWNER).text(admin_role),
        Statement::query("looking at the policy's roles", role_chains("SELECT unnest($1::text[]) AS name", ""))
            .bind(offered, Type::TEXT_ARRAY),
        Statement::query("looking at databases", DATABASES).bind(databases, Type::TEXT_ARRAY),
        Statement::query("looking for other ledgers", LEDGERS),
        Statement::plain("ending the transaction", "ROLLBACK"),
    ];
    let answers = batch::run(client, &statements).await?;
    let now = Timestamp::now();
    let [_, facts, of_roles, of_databases, ledgers, _] = answers.as_slice() else {
        return Err(TargetError::Unreadable("fewer answers than questions".to_owned()));
    };
    let facts = facts.first().map(|row| Facts::of(row, admin_role));
    let facts = facts.ok_or_else(|| TargetError::Unreadable("no answer about the connector".to_owned()))?;
    let mut lost = None;
    let ledger = match &facts.owner {
        // Nobody else may read it.
        Some(owner) if facts.has_ledger && (owner.inherits || facts.superuser) => match ledger::see(client).await {
            Err(TargetError::LostFacts) => {
                lost = Some(judge::lost_facts(&facts, ledger::lost_identity(client).await?));
                None
            }
            seen => seen?.found,
        },
        _ => None,
    };

    let mut items = server::server(&facts, integration, now);
    items.extend(judge::rights(&facts, integration.kind));
    if integration.is_iam() {
        items.push(aws::hands_iam_on(&facts));
    }
    items.push(lost.unwrap_or_else(|| judge::ledger(&facts, ledger)));
    let others = ledgers.iter().map(|row| row.get("ledger")).filter(|other: &String| ledger.is_none_or(|(id, _)| *other != id.to_string()));
    items.extend(judge::others(&facts, &others.collect::<Vec<_>>(), ledger.is_some()));
    items.extend(reassign::look(client, integration, &facts).await?);
    let roles = rows::roles(of_roles)?;
    items.extend(integration.policy.roles.iter().map(|name| judge::role(&facts, name.as_str(), roles.get(name))));
    let wanted = Wanted::of(&rules.access, &facts);
    for database in of_databases.iter().map(Database::of) {
        let Ok(name) = Identifier::new(&database.name) else { continue };
        if !listed && !rules.allows_database(&name) {
            continue;
        }
        match judge::closed_database(&facts, &database, &wanted, listed) {
            Some(closed) => items.push(closed),
            None => match connect(integration, Purpose::Changing, &name, credential, APPLICATION).await {
                Ok((client, _task)) => items.extend(databases::survey(&client, &facts, &database, &wanted, listed).await?),
                Err(error) => items.push(Item { item: format!("database {name}"), ..no_session(&error) }),
            },
        }
    }
    items.extend(judge::admin_role(&facts, &items));
    Ok(items)
}
