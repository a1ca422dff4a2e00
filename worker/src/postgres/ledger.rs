//! The ledger's schema: made at the first session with a target, and checked by every worker that starts.

use tokio_postgres::Client;
use tokio_postgres::types::Type;
use uuid::Uuid;

use crate::postgres::TargetError;
use crate::postgres::batch::{self, Statement};
use crate::postgres::error::BEGINNING;
use crate::postgres::names::ident;

/// The NOLOGIN role that owns the ledger, makes every role of ours and gives every membership.
pub const OWNER: &str = "postern_owner";

/// The ledger's migrations in order; the schema version is how many of them ran.
const MIGRATIONS: [&str; 3] = [
    include_str!("../../migrations/0001_ledger.sql"),
    include_str!("../../migrations/0002_seals.sql"),
    include_str!("../../migrations/0003_iam.sql"),
];

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

/// How a transaction begins, whatever server, database and login set for their sessions. Everything is local, so a
/// connection pooler may stand between. What could fail comes after `BEGIN`, never in it: behind a failed `BEGIN` the
/// statements that travel with it would run outside a transaction.
macro_rules! begin {
    ($begin:literal, $mode:literal) => {
        concat!(
            $begin,
            "; SET LOCAL ROLE NONE; SET LOCAL search_path = pg_catalog, pg_temp; SET LOCAL client_min_messages = warning; ",
            "SET LOCAL timezone = 'UTC'; SET LOCAL standard_conforming_strings = on; SET LOCAL lock_timeout = '3s'; ",
            "SET LOCAL statement_timeout = '20s'; SET LOCAL idle_in_transaction_session_timeout = '30s'",
            $mode,
            // Settings that not every version has, and one that may be stricter than what is needed here.
            "; SELECT set_config('createrole_self_grant', '', true) WHERE current_setting('server_version_num')::int4 >= 160000",
            // A timer that runs is not set anew by another value (17 and 18): it has to be turned off first.
            "; SELECT set_config('transaction_timeout', '0', true), set_config('transaction_timeout', '5min', true) WHERE current_setting('server_version_num')::int4 >= 170000",
            // A result may only say what a crash does not undo.
            "; SELECT set_config('synchronous_commit', 'on', true) WHERE current_setting('synchronous_commit') = 'off'"
        )
    };
}

/// Begins a transaction as every one of ours begins that changes something. On a read replica it fails with SQLSTATE
/// 0A000.
pub const BEGIN: &str = begin!("BEGIN ISOLATION LEVEL READ COMMITTED", "; SET LOCAL transaction_read_only = off");

/// Begins one that only looks, on a read replica too.
pub const BEGIN_READING: &str = begin!("BEGIN ISOLATION LEVEL READ COMMITTED READ ONLY", "");

/// Finds the ledger, or makes it.
pub async fn open(client: &Client) -> Result<Ledger, TargetError> {
    let Seen { version, connector, standby, found } = see(client).await?;
    if standby {
        return Err(TargetError::Standby);
    }
    let (id, met) = found.unwrap_or((Uuid::nil(), 0));
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
/// owner role is refused: whoever made the schema could have prepared what we would trust. Runs inside a transaction.
async fn found(client: &Client) -> Result<Option<(Uuid, i32)>, TargetError> {
    let there = Statement::query(
        "looking for the ledger",
        "SELECT pg_get_userbyid(n.nspowner)::text AS owner, c.oid IS NOT NULL AS there FROM pg_namespace n \
         LEFT JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = 'fact' WHERE n.nspname = 'postern'",
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
    let Seen { version, connector, found, .. } = see(client).await?;
    Ok(found.map(|(id, _)| Ledger { id, version, connector }))
}

/// A server and its ledger as they are.
#[derive(Debug)]
pub struct Seen {
    /// `server_version_num`.
    pub version: i32,
    /// The login.
    pub connector: String,
    /// Whether it is a read replica.
    pub standby: bool,
    /// The ledger's identity and schema version, if there is one.
    pub found: Option<(Uuid, i32)>,
}

/// Looks at a server and its ledger, on a read replica too.
pub async fn see(client: &Client) -> Result<Seen, TargetError> {
    batch::run(client, &[Statement::plain(BEGINNING, BEGIN_READING)]).await?;
    let seen = see_inside(client).await;
    let ended = batch::run(client, &[Statement::plain("ending the transaction", "ROLLBACK")]).await;
    let seen = seen?;
    ended.map(|_| seen)
}

async fn see_inside(client: &Client) -> Result<Seen, TargetError> {
    let (version, connector, standby) = who(client).await?;
    match found(client).await {
        Err(error) if error.sqlstate() == Some("42501") => Err(not_owner(&connector)),
        found => found.map(|found| Seen { version, connector, standby, found }),
    }
}

async fn who(client: &Client) -> Result<(i32, String, bool), TargetError> {
    let sql = "SELECT current_setting('server_version_num')::int4, session_user::text, pg_is_in_recovery()";
    let rows = batch::run(client, &[Statement::query("asking who we are", sql)]).await?;
    let row = rows.iter().flatten().next().ok_or_else(|| TargetError::Unreadable("no server version".to_owned()))?;
    Ok((row.get(0), row.get(1), row.get(2)))
}

/// Runs what is missing in one transaction. Workers that make the ledger at the same time make the same names: one
/// commits, the others meet 23505, 42710, 42P06 or 42P07 and find it made. An advisory lock would let anybody who may
/// connect hold all of them up.
async fn migrate(client: &Client, version: i32, connector: &str) -> Result<Uuid, TargetError> {
    batch::run(client, &[Statement::plain(BEGINNING, BEGIN)]).await?;
    let done = migrate_locked(client, version, connector).await;
    let end = if done.is_ok() { "COMMIT" } else { "ROLLBACK" };
    let ended = batch::run(client, &[Statement::plain("ending the migration", end)]).await;
    let id = done?;
    ended?;
    Ok(id)
}

async fn migrate_locked(client: &Client, version: i32, connector: &str) -> Result<Uuid, TargetError> {
    let mut met = found(client).await?.map_or(0, |(_, met)| met);
    if met > 0 {
        let lock = [
            Statement::plain("becoming the owner role", format!("SET LOCAL ROLE {}", ident(OWNER))),
            Statement::plain("locking the ledger", "LOCK TABLE postern.fact IN EXCLUSIVE MODE"),
            Statement::plain("becoming the connector", "SET LOCAL ROLE NONE"),
        ];
        batch::run(client, &lock).await?;
        met = found(client).await?.map_or(0, |(_, met)| met);
    }
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
    steps.push("SET LOCAL ROLE NONE".to_owned());
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
