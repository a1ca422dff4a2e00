//! What a connector may and sees on its server, compared with what it needs. Changes nothing, the ledger included.

mod judge;

use postern_schemas::Identifier;
use serde::Serialize;
use tokio_postgres::types::Type;
use tokio_postgres::{Client, Row};

use crate::access::Rules;
use crate::config::{Integration, SslMode};
use crate::postgres::TargetError;
use crate::postgres::batch::{self, Statement};
use crate::postgres::connect::{ConnectError, ConnectFailure, connect};
use crate::postgres::ledger::{self, BEGIN, OWNER};
use crate::postgres::names::ident;
use crate::secrets;

/// How an item was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// As it should be.
    Ok,
    /// It works, but somebody should know.
    Warn,
    /// Something does not work.
    Fail,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Item {
    /// What was looked at.
    pub item: String,
    /// How it was found.
    pub status: Status,
    /// What was met, and what that means.
    pub message: String,
    /// What mends it: statements or commands, in this order; what is no statement is an SQL comment.
    pub mend: Vec<String>,
}

impl Item {
    /// As it should be.
    pub fn ok(item: impl Into<String>, message: impl Into<String>) -> Self {
        Self { item: item.into(), status: Status::Ok, message: message.into(), mend: Vec::new() }
    }

    /// Somebody should know.
    pub fn warn(item: impl Into<String>, message: impl Into<String>) -> Self {
        Self { status: Status::Warn, ..Self::ok(item, message) }
    }

    /// Something does not work.
    pub fn fail(item: impl Into<String>, message: impl Into<String>) -> Self {
        Self { status: Status::Fail, ..Self::ok(item, message) }
    }

    /// Adds a line of what mends it.
    #[must_use]
    pub fn mend(mut self, line: impl Into<String>) -> Self {
        self.mend.push(line.into());
        self
    }
}

/// What the server says of itself and of the connector.
#[derive(Clone, Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "each is one answer of the server")]
struct Facts {
    version: i32,
    version_text: String,
    login: String,
    database: String,
    standby: bool,
    superuser: bool,
    createrole: bool,
    ends_sessions: bool,
    sees_sessions: bool,
    creates_schemas: bool,
    /// The owner role, if it is there.
    owner: Option<Owner>,
    /// Who owns the schema `postern`, if it is there.
    schema_owner: Option<String>,
    has_ledger: bool,
    /// Protocol and cipher, if the session is encrypted.
    encryption: Option<String>,
}

#[derive(Clone, Debug, Default)]
struct Owner {
    createrole: bool,
    /// The connector may become it.
    sets: bool,
    /// The connector has its rights without becoming it.
    inherits: bool,
    /// Who may give membership in it, superusers aside.
    admins: Vec<String>,
}

impl Facts {
    /// From 16 on CREATEROLE alone grants nothing, and memberships have options.
    fn has_membership_options(&self) -> bool {
        self.version >= 160_000
    }
}

/// A role or database that policy names.
#[derive(Clone, Debug)]
struct Named {
    name: String,
    there: bool,
    /// For a role: may be handed on. For a database: lets the connector in.
    usable: bool,
    /// For a database: bundles get in.
    open: bool,
}

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

/// Parameter: the owner role's name. A privilege that an older version does not know is never asked there: CASE.
const FACTS: &str = "
SELECT current_setting('server_version_num')::int4 AS version, current_setting('server_version') AS version_text,
  r.rolname::text AS login, current_database()::text AS database, pg_is_in_recovery() AS standby,
  r.rolsuper AS superuser, r.rolcreaterole AS createrole,
  pg_has_role(r.oid, 'pg_signal_backend', 'USAGE') AS ends_sessions, pg_has_role(r.oid, 'pg_read_all_stats', 'USAGE') AS sees_sessions,
  has_database_privilege(r.oid, current_database(), 'CREATE') AS creates_schemas,
  o.rolcreaterole AS owner_createrole, pg_has_role(r.oid, o.oid, 'USAGE') AS owner_inherits,
  CASE WHEN current_setting('server_version_num')::int4 >= 160000 THEN pg_has_role(r.oid, o.oid, 'SET')
       ELSE pg_has_role(r.oid, o.oid, 'MEMBER') END AS owner_sets,
  ARRAY(SELECT DISTINCT a.rolname::text FROM pg_auth_members m JOIN pg_roles a ON a.oid = m.member
        WHERE m.roleid = o.oid AND m.admin_option AND a.oid <> r.oid ORDER BY 1) AS owner_admins,
  (SELECT pg_get_userbyid(nspowner)::text FROM pg_namespace WHERE nspname = 'postern') AS schema_owner,
  EXISTS (SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = 'postern' AND c.relname = 'fact') AS has_ledger,
  (SELECT version || ', ' || cipher FROM pg_stat_ssl WHERE pid = pg_backend_pid() AND ssl) AS encryption
FROM pg_roles r LEFT JOIN pg_roles o ON o.rolname = $1 WHERE r.rolname = session_user";

const ROLES: &str = "
SELECT n.name, r.oid IS NOT NULL AS there, coalesce(pg_has_role(session_user, r.oid, 'MEMBER WITH ADMIN OPTION'), false) AS usable,
  true AS open
FROM unnest($1::text[]) AS n (name) LEFT JOIN pg_roles r ON r.rolname = n.name ORDER BY 1";

/// Parameter: the names that policy lists; null for all that take connections. `open`: who is let in by a bundle gets
/// in, because the connector may give that away or everybody has it.
const DATABASES: &str = "
SELECT n.name, coalesce(d.datallowconn AND NOT d.datistemplate, false) AS there,
  coalesce(has_database_privilege(session_user, d.oid, 'CONNECT'), false) AS usable,
  coalesce(has_database_privilege(session_user, d.oid, 'CONNECT WITH GRANT OPTION'), false)
    OR EXISTS (SELECT FROM aclexplode(coalesce(d.datacl, acldefault('d', d.datdba))) a WHERE a.grantee = 0 AND a.privilege_type = 'CONNECT') AS open
FROM (SELECT unnest($1::text[]) UNION SELECT datname FROM pg_database WHERE $1 IS NULL AND datallowconn AND NOT datistemplate) AS n (name)
LEFT JOIN pg_database d ON d.datname = n.name ORDER BY 1";

/// Roles are cluster-wide, and each says in its comment which ledger it belongs to.
const LEDGERS: &str = "
SELECT DISTINCT substring(description FROM '^postern ([0-9a-f-]{36}): ') AS ledger FROM pg_shdescription
WHERE classoid = 'pg_authid'::regclass AND description ~ '^postern [0-9a-f-]{36}: ' ORDER BY 1";

impl Facts {
    fn of(row: &Row) -> Self {
        let owner = row.get::<_, Option<bool>>("owner_createrole").map(|createrole| Owner {
            createrole,
            sets: row.get("owner_sets"),
            inherits: row.get("owner_inherits"),
            admins: row.get("owner_admins"),
        });
        Self {
            version: row.get("version"),
            version_text: row.get("version_text"),
            login: row.get("login"),
            database: row.get("database"),
            standby: row.get("standby"),
            superuser: row.get("superuser"),
            createrole: row.get("createrole"),
            ends_sessions: row.get("ends_sessions"),
            sees_sessions: row.get("sees_sessions"),
            creates_schemas: row.get("creates_schemas"),
            owner,
            schema_owner: row.get("schema_owner"),
            has_ledger: row.get("has_ledger"),
            encryption: row.get("encryption"),
        }
    }
}

fn named(row: &Row) -> Named {
    Named { name: row.get("name"), there: row.get("there"), usable: row.get("usable"), open: row.get("open") }
}
