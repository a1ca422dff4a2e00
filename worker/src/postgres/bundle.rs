//! Bundle roles: made when a grant first needs them, compared with what they stand for, dropped when nobody does.
//!
//! A row goes making → ready → retired and never back, and the role's name carries the row's number: `GRANT` beside
//! `DROP ROLE` succeeds on both sides and leaves a membership of a dead OID (measured on 14 to 18), so a grant holds
//! the rows it needs until its commit, and dropping retires the row first.

use std::collections::BTreeMap;

use postern_schemas::fields::FromText as _;
use postern_schemas::result::{Blocker, Change};
use postern_schemas::{Code, Identifier, Reason};
use tokio_postgres::Client;
use tokio_postgres::types::Type;

use crate::access::state::{BundleKey, Oid};
use crate::config::integration::OwnedObjects;
use crate::postgres::apply::mark_role;
use crate::postgres::batch::{self, Statement};
use crate::postgres::dispose;
use crate::postgres::error::{BEGINNING, Disposition};
use crate::postgres::ledger::{BEGIN, Ledger, OWNER};
use crate::postgres::names::ident;
use crate::postgres::privileges::{self, Difference};
use crate::postgres::probe::MARK;
use crate::postgres::{Rounds, Target, TargetError, rows};

/// A bundle row that is being made or compared.
struct Making {
    id: i64,
    key: BundleKey,
    role: String,
    oid: Oid,
}

/// Makes the bundles and brings their privileges to what they stand for. Gives nobody anything.
/// Returns what was found that nobody of ours had given.
pub async fn ensure(target: &Target, keys: &[BundleKey]) -> Result<Vec<Change>, TargetError> {
    let mut by_database: BTreeMap<Oid, Vec<&BundleKey>> = BTreeMap::new();
    for key in keys {
        by_database.entry(key.database).or_default().push(key);
    }
    let mut drift = Vec::new();
    for (database, keys) in by_database {
        let mut rounds = Rounds::of(target);
        loop {
            match ensure_database(target, database, &keys).await {
                Ok(found) => {
                    drift.extend(found);
                    break;
                }
                Err(error) => rounds.after(error).await?,
            }
        }
    }
    Ok(drift)
}

async fn ensure_database(target: &Target, database: Oid, keys: &[&BundleKey]) -> Result<Vec<Change>, TargetError> {
    let _alone = target.heavy().await;
    let (mut session, ledger) = target.maintenance().await?;
    let client = session.begin();
    lock(client, database).await?;
    let mut making = Vec::new();
    for key in keys {
        making.push(find_or_make(client, &ledger, key).await?);
    }
    // The roles have to be committed before another session can give them anything. The lock goes with the commit, so
    // it is taken again, and the rows are checked at the end.
    commit(client).await?;
    lock(client, database).await?;
    let Some(name) = keys.first().map(|key| key.database_name.clone()) else { return Ok(Vec::new()) };
    let (mark, differences) = compare(target, &name, &ledger, &making).await?;
    let mut drift = Vec::new();
    let mut statements = Vec::new();
    for (bundle, difference) in making.iter().zip(&differences) {
        drift.extend(difference.taken.iter().map(|what| Change::new("privilege_added", format!("{}: {what}", bundle.role))));
        statements.push(
            Statement::query(
                "recording the bundle",
                "WITH done AS (UPDATE postern.bundle SET state = 'ready', mark = $2, warnings = $3, checked_at = now() \
                               WHERE id = $1 AND state <> 'retired' RETURNING 1) \
                 SELECT count(*) FROM done",
            )
            .bind(bundle.id, Type::INT8)
            .bind(mark, Type::INT8)
            .bind(serde_json::json!(difference.withheld), Type::JSONB),
        );
    }
    batch::run(client, &statements).await?;
    commit(client).await?;
    session.ended();
    Ok(drift)
}

/// One worker at a time changes privileges in a database: concurrent GRANTs on one object fail
/// (`tuple concurrently updated`, measured).
pub(super) async fn lock(client: &Client, database: Oid) -> Result<(), TargetError> {
    let statements = [
        Statement::plain(BEGINNING, BEGIN),
        Statement::query("noting the database", "INSERT INTO postern.bundle_database (database_oid) VALUES ($1) ON CONFLICT DO NOTHING")
            .bind(database, Type::OID),
        Statement::query("locking the database's bundles", "SELECT FROM postern.bundle_database WHERE database_oid = $1 FOR UPDATE")
            .bind(database, Type::OID),
    ];
    batch::run(client, &statements).await.map(|_| ())
}

async fn commit(client: &Client) -> Result<(), TargetError> {
    batch::run(client, &[Statement::plain("committing", "COMMIT")]).await.map(|_| ())
}

async fn find_or_make(client: &Client, ledger: &Ledger, key: &BundleKey) -> Result<Making, TargetError> {
    let find = of_key(
        "looking for the bundle",
        "SELECT b.id, coalesce(r.rolname::text, b.role_name) AS role_name, b.role_oid, r.oid IS NOT NULL AS there FROM postern.bundle b LEFT JOIN pg_roles r ON r.oid = b.role_oid \
         WHERE b.database_oid = $1 AND b.schema_name = $2 AND b.table_name = $3 AND b.access = $4 AND b.state <> 'retired'",
        key,
    );
    let found = batch::run(client, &[find]).await?;
    if let Some(row) = found.iter().flatten().next() {
        if row.get("there") {
            return Ok(Making { id: row.get("id"), key: key.clone(), role: row.get("role_name"), oid: row.get("role_oid") });
        }
        // Somebody dropped the role. The row never comes back: another one takes its place.
        let retire = Statement::query("retiring a lost bundle", "UPDATE postern.bundle SET state = 'retired' WHERE id = $1");
        batch::run(client, &[retire.bind(row.get::<_, i64>("id"), Type::INT8)]).await?;
    }
    make(client, ledger, key).await
}

async fn make(client: &Client, ledger: &Ledger, key: &BundleKey) -> Result<Making, TargetError> {
    // After the ledger was restored from a backup the sequence is behind the roles, whose names carry its numbers.
    let next = Statement::query(
        "numbering the bundle",
        "SELECT setval(s, greatest(nextval(s), 1 + (SELECT max((regexp_match(rolname, '#' || $1 || '-([0-9]{1,15})$'))[1]::bigint) \
                                                    FROM pg_roles WHERE starts_with(rolname, 'postern:')))) AS id \
         FROM CAST(pg_get_serial_sequence('postern.bundle', 'id') AS regclass) AS s",
    )
    .text(digits(ledger));
    let rows = batch::run(client, &[next]).await?;
    let id: i64 = rows.iter().flatten().next().map(|row| row.get("id")).ok_or_else(|| TargetError::Unreadable("no number".to_owned()))?;
    let role = role_name(key, ledger, id);
    let whom = format!("{} on {}", key.access.as_str(), scope_text(key));
    let statements = [
        Statement::plain("becoming the owner role", format!("SET LOCAL ROLE {}", ident(OWNER))),
        Statement::plain("making a bundle role", format!("CREATE ROLE {} NOLOGIN", ident(&role))),
        mark_role(&role, "bundle", &whom),
        of_key(
            "recording the bundle",
            "INSERT INTO postern.bundle (id, database_oid, schema_name, table_name, access, role_name, role_oid, state) \
             OVERRIDING SYSTEM VALUE SELECT $5, $1, $2, $3, $4, $6, oid, 'making' FROM pg_roles WHERE rolname = $6 RETURNING role_oid",
            key,
        )
        .bind(id, Type::INT8)
        .text(role.as_str()),
        Statement::plain("becoming the connector", "SET LOCAL ROLE NONE"),
    ];
    let answers = batch::run(client, &statements).await?;
    let oid = answers.get(3).and_then(|rows| rows.first()).map(|row| row.get("role_oid"));
    let oid = oid.ok_or_else(|| TargetError::Unreadable("no OID of a new role".to_owned()))?;
    Ok(Making { id, key: key.clone(), role, oid })
}

fn of_key(doing: &'static str, sql: &str, key: &BundleKey) -> Statement {
    let optional = |name: &Option<Identifier>| name.as_ref().map(ToString::to_string).unwrap_or_default();
    Statement::query(doing, sql)
        .bind(key.database, Type::OID)
        .text(optional(&key.schema))
        .text(optional(&key.table))
        .text(key.access.as_str())
}

/// Compares all bundles of one database in one transaction there.
async fn compare(target: &Target, name: &Identifier, ledger: &Ledger, making: &[Making]) -> Result<(i64, Vec<Difference>), TargetError> {
    let mut session = target.session(name).await.map_err(|error| no_entry(error, name))?;
    let client = session.begin();
    let begin = [
        Statement::plain(BEGINNING, BEGIN),
        // Before the comparison: what is made meanwhile moves the mark and is looked at next time.
        Statement::query("reading the mark", format!("SELECT {MARK} AS mark")),
    ];
    let answers = batch::run(client, &begin).await?;
    let mark = answers.iter().flatten().next().map(|row| row.get("mark")).unwrap_or_default();
    let mut differences = Vec::new();
    for bundle in making {
        let difference = privileges::make_exact(client, ledger, &bundle.key, &bundle.role, bundle.oid).await?;
        if difference.unusable {
            let message = format!("{} cannot be granted: {}", scope_text(&bundle.key), difference.withheld.join("; "));
            return Err(Reason::new(Code::PermissionMissing, message).at("data.permissions").into());
        }
        differences.push(difference);
    }
    commit(client).await?;
    session.ended();
    Ok((mark, differences))
}

/// The connector may not even connect: an operator has to let it, so the event is refused instead of tried again.
fn no_entry(error: TargetError, database: &Identifier) -> TargetError {
    if error.sqlstate() != Some("42501") {
        return error;
    }
    let message = format!("the connector may not connect to database {:?}; run the bootstrap for it", database.as_str());
    Reason::new(Code::PermissionMissing, message).at("data.permissions").into()
}

/// `orders`, `orders.sales` or `orders.sales.invoices`.
fn scope_text(key: &BundleKey) -> String {
    let parts = [Some(&key.database_name), key.schema.as_ref(), key.table.as_ref()];
    parts.into_iter().flatten().map(Identifier::as_str).collect::<Vec<_>>().join(".")
}

/// `postern:read_only:orders.sales#1f3a-17`: for people who list roles. The number and the ledger's first digits make
/// it unique; the text in front is cut where it is too long.
fn role_name(key: &BundleKey, ledger: &Ledger, id: i64) -> String {
    let tail = format!("#{}-{id}", digits(ledger));
    let mut head = format!("postern:{}:{}", key.access.as_str(), scope_text(key));
    let room = postern_schemas::names::MAX_IDENTIFIER_BYTES - tail.len();
    while head.len() > room {
        head.pop();
    }
    head + &tail
}

/// The ledger's first digits.
fn digits(ledger: &Ledger) -> String {
    ledger.id.simple().to_string()[..4].to_owned()
}

/// Compares every bundle that is in use, for the periodic clean-up. Returns what was found, and warnings.
pub async fn refresh(target: &Target) -> Result<(Vec<Change>, Vec<String>), TargetError> {
    let (session, _) = target.maintenance().await?;
    let sql = "SELECT DISTINCT b.database_oid, d.datname::text AS database_name, b.schema_name, b.table_name, b.access \
               FROM postern.bundle b JOIN pg_catalog.pg_database d ON d.oid = b.database_oid \
               WHERE b.state = 'ready' AND d.datallowconn \
                 AND EXISTS (SELECT FROM postern.access_grant g WHERE g.ending IS NULL AND g.bundles @> ARRAY[b.id])";
    let rows = batch::alone(session.client(), vec![Statement::query("listing bundles", sql)]).await?;
    drop(session);
    let keys: Vec<BundleKey> = rows.iter().flatten().map(rows::key).collect::<Result<_, _>>()?;
    let mut drift = Vec::new();
    let mut warnings = Vec::new();
    for key in &keys {
        // One table that is gone or withheld keeps no other bundle from being compared.
        match ensure(target, std::slice::from_ref(key)).await {
            Ok(found) => drift.extend(found),
            Err(TargetError::Rejected(reason)) => warnings.push(reason.message),
            Err(error) if error.disposition() == Disposition::Unreachable => return Err(error),
            Err(error) => warnings.push(format!("{} was not compared: {error}", scope_text(key))),
        }
    }
    Ok((drift, warnings))
}

/// Drops bundles that no active grant needs. One that was just made for a grant on its way is left alone for a minute.
pub async fn drop_unneeded(target: &Target) -> Result<(Vec<Change>, Vec<Blocker>), TargetError> {
    let (session, _) = target.maintenance().await?;
    let sql = "SELECT id, role_name, role_oid FROM postern.bundle b \
               WHERE b.state = 'retired' OR (b.state = 'ready' OR b.checked_at < now() - interval '1 min') \
                 AND NOT EXISTS (SELECT FROM postern.access_grant g WHERE g.ending IS NULL AND g.bundles @> ARRAY[b.id]) ORDER BY id";
    let rows = batch::alone(session.client(), vec![Statement::query("listing bundles without grants", sql)]).await?;
    drop(session);
    let mut changes = Vec::new();
    let mut blocked = Vec::new();
    for row in rows.iter().flatten() {
        let (id, role, oid): (i64, String, Oid) = (row.get("id"), row.get("role_name"), row.get("role_oid"));
        // One that cannot be dropped now is dropped next time; it keeps no other from going.
        match retire_and_drop(target, id, oid).await {
            Ok(None) => {}
            Ok(Some(blockers)) if blockers.is_empty() => changes.push(Change::new("drop_bundle", role)),
            Ok(Some(blockers)) => blocked.extend(dispose::of_role(blockers, &role)),
            Err(error) if error.disposition() == Disposition::Unreachable => return Err(error),
            Err(error) => blocked.push(Blocker { database: None, object: format!("bundle role {role}: {error}") }),
        }
    }
    Ok((changes, blocked))
}

/// `None`: it is needed after all.
async fn retire_and_drop(target: &Target, id: i64, oid: Oid) -> Result<Option<Vec<Blocker>>, TargetError> {
    if !retire(target, id).await? {
        return Ok(None);
    }
    dispose::drop_role(target, oid, &OwnedObjects::Keep, dispose::Record::Bundle(id)).await.map(Some)
}

/// Retires a bundle unless an active grant needs it: the row is locked first, and the question is a statement of its
/// own, or it would be answered from before the lock.
async fn retire(target: &Target, id: i64) -> Result<bool, TargetError> {
    let (mut session, _) = target.maintenance().await?;
    let client = session.begin();
    let statements = [
        Statement::plain(BEGINNING, BEGIN),
        Statement::query("locking the bundle", "SELECT FROM postern.bundle WHERE id = $1 FOR UPDATE").bind(id, Type::INT8),
        Statement::query(
            "retiring the bundle",
            "UPDATE postern.bundle SET state = 'retired' WHERE id = $1 \
             AND NOT EXISTS (SELECT FROM postern.access_grant g WHERE g.ending IS NULL AND g.bundles @> ARRAY[$1]) RETURNING id",
        )
        .bind(id, Type::INT8),
        Statement::plain("committing", "COMMIT"),
    ];
    let answers = batch::run(client, &statements).await?;
    session.ended();
    Ok(answers.get(2).is_some_and(|rows| !rows.is_empty()))
}

/// The name of a database by OID, if it takes connections.
pub async fn database_name(client: &Client, oid: Oid) -> Result<Option<Identifier>, TargetError> {
    let sql = "SELECT datname::text FROM pg_catalog.pg_database WHERE oid = $1 AND datallowconn";
    let rows = batch::alone(client, vec![Statement::query("naming a database", sql).bind(oid, Type::OID)]).await?;
    Ok(rows.iter().flatten().next().and_then(|row| Identifier::from_text(row.get(0)).ok()))
}
