//! The ledger's schema: made at the first session with a target, and checked by every worker that starts.

use tokio_postgres::Client;
use tokio_postgres::types::Type;
use uuid::Uuid;

use crate::postgres::TargetError;
use crate::postgres::batch::{self, Statement};
use crate::postgres::names::ident;

/// The NOLOGIN role that owns the ledger, makes every role of ours and gives every membership.
pub const OWNER: &str = "postern_owner";

/// The ledger's migrations in order; the schema version is how many of them ran.
const MIGRATIONS: [&str; 2] = [include_str!("../../migrations/0001_ledger.sql"), include_str!("../../migrations/0002_seals.sql")];

/// What a session has to know of its server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ledger {
    /// The ledger's own identity.
    pub id: Uuid,
    /// `server_version_num`, such as 150018.
    pub version: i32,
    /// The connector's login.
    pub connector: String,
}

impl Ledger {
    /// From 16 on a membership has INHERIT and SET options, and CREATEROLE alone grants nothing (PostgreSQL docs,
    /// release notes of 16).
    pub fn has_membership_options(&self) -> bool {
        self.version >= 160_000
    }

    /// From 17 on tables have the MAINTAIN privilege.
    pub fn has_maintain(&self) -> bool {
        self.version >= 170_000
    }
}

/// Begins a transaction as every one of ours begins. The settings are local, so a connection pooler may stand between.
pub const BEGIN: &str = "BEGIN ISOLATION LEVEL READ COMMITTED; \
     SET LOCAL search_path = pg_catalog, pg_temp; SET LOCAL client_min_messages = warning; SET LOCAL timezone = 'UTC'; \
     SET LOCAL lock_timeout = '3s'; SET LOCAL statement_timeout = '20s'; SET LOCAL idle_in_transaction_session_timeout = '30s'";

/// Finds the ledger, or makes it.
pub async fn open(client: &Client) -> Result<Ledger, TargetError> {
    let (version, connector, standby) = who(client).await?;
    if standby {
        return Err(TargetError::MissingRight {
            what: "the server is a standby and takes no changes".to_owned(),
            mend: "name the primary as hostname of the integration".to_owned(),
        });
    }
    let (id, met) = match found(client).await {
        Ok(found) => found.unwrap_or((Uuid::nil(), 0)),
        Err(error) if error.sqlstate() == Some("42501") => return Err(not_owner(&connector)),
        Err(error) => return Err(error),
    };
    let known = known_version();
    if met > known {
        return Err(TargetError::NewerLedger { met, known });
    }
    let id = if met < known { migrate(client, version, &connector).await? } else { id };
    Ok(Ledger { id, version, connector })
}

/// The schema version that this version of Postern works with.
pub fn known_version() -> i32 {
    i32::try_from(MIGRATIONS.len()).unwrap_or(i32::MAX)
}

/// The ledger's identity and schema version, if there is one that this login may read. One that does not belong to the
/// owner role is refused: whoever made the schema could have prepared what we would trust.
///
/// Runs inside and outside transactions, so it names everything in full.
pub async fn found(client: &Client) -> Result<Option<(Uuid, i32)>, TargetError> {
    let there = Statement::query(
        "looking for the ledger",
        "SELECT pg_catalog.pg_get_userbyid(n.nspowner)::text AS owner, c.oid IS NOT NULL AS there FROM pg_catalog.pg_namespace n \
         LEFT JOIN pg_catalog.pg_class c ON c.relnamespace OPERATOR(pg_catalog.=) n.oid AND c.relname OPERATOR(pg_catalog.=) 'fact' \
         WHERE n.nspname OPERATOR(pg_catalog.=) 'postern'",
    );
    let rows = batch::run(client, &[there]).await?;
    let Some(row) = rows.iter().flatten().next() else { return Ok(None) };
    let owner: String = row.get("owner");
    if owner != OWNER {
        return Err(TargetError::MissingRight {
            what: format!("the schema postern of the maintenance database belongs to {owner:?}, not to {OWNER}"),
            mend: format!("as its owner, if nothing else is in it: ALTER SCHEMA postern OWNER TO {}", ident(OWNER)),
        });
    }
    if !row.get::<_, bool>("there") {
        return Ok(None);
    }
    let facts = Statement::query("reading the ledger's facts", "SELECT ledger_id, schema_version FROM postern.fact");
    let rows = batch::run(client, &[facts]).await?;
    rows.iter().flatten().next().map(|row| Some((row.get(0), row.get(1)))).ok_or(TargetError::LostFacts)
}

/// The identity of a ledger that has lost its row of facts, by the comments of the roles that it knows.
pub async fn lost_identity(client: &Client) -> Result<Option<Uuid>, TargetError> {
    let sql = "SELECT id FROM (SELECT substring(shobj_description(role_oid, 'pg_authid') FROM '^postern ([0-9a-f-]{36}): ')::uuid AS id \
                               FROM (SELECT role_oid FROM postern.account UNION SELECT role_oid FROM postern.bundle) AS known) AS named \
               WHERE id IS NOT NULL GROUP BY id ORDER BY count(*) DESC LIMIT 1";
    let rows = batch::alone(client, vec![Statement::query("looking for the ledger's identity", sql)]).await?;
    Ok(rows.iter().flatten().next().and_then(|row| row.get("id")))
}

/// The ledger as it is, without making it; `None` when there is none.
pub async fn look(client: &Client) -> Result<Option<Ledger>, TargetError> {
    let (version, connector, _) = who(client).await?;
    match found(client).await {
        Err(error) if error.sqlstate() == Some("42501") => Err(not_owner(&connector)),
        found => Ok(found?.map(|(id, _)| Ledger { id, version, connector })),
    }
}

async fn who(client: &Client) -> Result<(i32, String, bool), TargetError> {
    let sql = "SELECT pg_catalog.current_setting('server_version_num')::int4, session_user::text, pg_catalog.pg_is_in_recovery()";
    let rows = batch::run(client, &[Statement::query("asking who we are", sql)]).await?;
    let row = rows.iter().flatten().next().ok_or_else(|| TargetError::Unreadable("no server version".to_owned()))?;
    Ok((row.get(0), row.get(1), row.get(2)))
}

/// Runs what is missing in one transaction, one worker at a time.
async fn migrate(client: &Client, version: i32, connector: &str) -> Result<Uuid, TargetError> {
    let begin = [
        Statement::plain("beginning a transaction", BEGIN),
        // There is no table of ours yet that could be locked. The number is "postern" on a telephone.
        Statement::plain("taking the migration lock", "SELECT pg_advisory_xact_lock(7678376)"),
    ];
    batch::run(client, &begin).await?;
    let done = migrate_locked(client, version, connector).await;
    let end = if done.is_ok() { "COMMIT" } else { "ROLLBACK" };
    let ended = batch::run(client, &[Statement::plain("ending the migration", end)]).await;
    let id = done?;
    ended?;
    Ok(id)
}

async fn migrate_locked(client: &Client, version: i32, connector: &str) -> Result<Uuid, TargetError> {
    let met = found(client).await?.map_or(0, |(_, met)| met);
    let mut steps = Vec::new();
    if met == 0 {
        own(client, version, connector).await?;
        // The schema may have been made by an operator beforehand, for a connector without CREATE on the database (which
        // even IF NOT EXISTS asks for); it was seen to belong to the owner role.
        let there = Statement::query("looking for the schema", "SELECT FROM pg_namespace WHERE nspname = 'postern'");
        if batch::run(client, &[there]).await?.iter().all(Vec::is_empty) {
            steps.push(format!("CREATE SCHEMA postern AUTHORIZATION {}", ident(OWNER)));
        }
    }
    steps.push(format!("SET LOCAL ROLE {}", ident(OWNER)));
    let pending = MIGRATIONS.iter().skip(usize::try_from(met).unwrap_or(0));
    steps.extend(pending.map(|sql| (*sql).to_owned()));
    let known = MIGRATIONS.len();
    steps.push(format!(
        "INSERT INTO postern.fact (schema_version) VALUES ({known}) ON CONFLICT (one) DO UPDATE SET schema_version = excluded.schema_version"
    ));
    steps.push("RESET ROLE".to_owned());
    let statements: Vec<_> = steps.into_iter().map(|sql| Statement::plain("making the ledger", sql)).collect();
    batch::run(client, &statements).await.map_err(|error| needs_create(error, connector))?;
    say_others(client).await?;
    found(client).await?.map(|(id, _)| id).ok_or_else(|| TargetError::Unreadable("no facts".to_owned()))
}

/// A new ledger on a server with roles of another one: perhaps that one was lost.
async fn say_others(client: &Client) -> Result<(), TargetError> {
    let sql = "SELECT count(*) FROM pg_shdescription d JOIN pg_roles r ON r.oid = d.objoid, postern.fact \
               WHERE d.classoid = 'pg_authid'::regclass AND d.description ~ '^postern [0-9a-f-]{36}: ' \
                 AND NOT starts_with(d.description, 'postern ' || ledger_id || ': ')";
    let rows = batch::run(client, &[Statement::query("looking for other ledgers", sql)]).await?;
    let others: i64 = rows.iter().flatten().next().map_or(0, |row| row.get(0));
    if others > 0 {
        tracing::warn!(
            roles = others,
            "made a new ledger on a server with roles of another one; if that was lost, restore it: see docs/operations.md"
        );
    }
    Ok(())
}

fn needs_create(error: TargetError, connector: &str) -> TargetError {
    if error.sqlstate() != Some("42501") {
        return error;
    }
    TargetError::MissingRight {
        what: format!("{connector} may not make the schema postern in the maintenance database"),
        mend: format!(
            "as the database's owner: GRANT CREATE ON DATABASE <database> TO {}; if the schema exists: ALTER SCHEMA postern OWNER TO {}",
            ident(connector),
            ident(OWNER)
        ),
    }
}

/// Makes the owner role, or proves that it may be used.
async fn own(client: &Client, version: i32, connector: &str) -> Result<(), TargetError> {
    let sql = "SELECT pg_has_role(session_user, oid, 'MEMBER') FROM pg_roles WHERE rolname = $1";
    let rows = batch::run(client, &[Statement::query("looking for the owner role", sql).bind(OWNER, Type::TEXT)]).await?;
    match rows.iter().flatten().next().map(|row| row.get::<_, bool>(0)) {
        Some(true) => return Ok(()),
        Some(false) => return Err(not_owner(connector)),
        None => {}
    }
    let options = if version >= 160_000 { " WITH INHERIT TRUE, SET TRUE" } else { "" };
    let statements = [
        Statement::plain("making the owner role", format!("CREATE ROLE {} NOLOGIN CREATEROLE", ident(OWNER))),
        Statement::plain("joining the owner role", format!("GRANT {} TO {}{options}", ident(OWNER), ident(connector))),
    ];
    batch::run(client, &statements).await.map(|_| ()).map_err(|error| match error.sqlstate() {
        Some("42501") => TargetError::MissingRight {
            what: format!("{connector} may not make roles"),
            mend: format!("as an administrator: ALTER ROLE {} CREATEROLE", ident(connector)),
        },
        _ => error,
    })
}

/// What a connector lacks that is not a member of the owner role.
pub fn not_owner(connector: &str) -> TargetError {
    TargetError::MissingRight {
        what: format!("{connector} is not a member of {OWNER}, which owns everything that Postern made on this server"),
        mend: format!("as a superuser, or as a role with ADMIN OPTION on it: GRANT {} TO {}", ident(OWNER), ident(connector)),
    }
}
