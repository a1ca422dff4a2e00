//! The ledger's event rows: found, claimed, settled.
//!
//! `open` is only seen inside the transaction that made it. `working`: a worker has claimed it, for work that takes
//! several transactions. `terminating`: its changes are committed, sessions are being ended. `done`: the result is
//! fixed, and every repeat is answered with it.

use jiff::Timestamp;
use postern_schemas::{EventKey, Principal};
use serde_json::Value;
use tokio_postgres::types::Type;
use tokio_postgres::{Client, Row};

use crate::postgres::TargetError;
use crate::postgres::batch::{self, Statement};
use crate::postgres::observe::Question;

/// How far an event has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Made by the transaction that looks at it.
    Open,
    /// Claimed.
    Working,
    /// Committed; sessions are being ended.
    Terminating,
    /// Settled.
    Done,
}

impl Phase {
    /// As stored.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Working => "working",
            Self::Terminating => "terminating",
            Self::Done => "done",
        }
    }
}

/// A row of `postern.event`.
#[derive(Clone, Debug)]
pub struct EventRow {
    /// How far it has come.
    pub phase: Phase,
    /// The digest of the body that was carried out.
    pub digest: Vec<u8>,
    /// The result; a draft until the phase is done.
    pub result: Option<Value>,
}

impl EventRow {
    /// Whether the event was taken up before this transaction.
    pub fn is_known(&self) -> bool {
        self.phase != Phase::Open
    }
}

/// Columns: `phase, digest, result`.
pub fn row(row: &Row) -> Result<EventRow, TargetError> {
    let phase: &str = row.get("phase");
    let phase = [Phase::Open, Phase::Working, Phase::Terminating, Phase::Done]
        .into_iter()
        .find(|p| p.as_str() == phase)
        .ok_or_else(|| TargetError::Unreadable(format!("phase {phase:?}")))?;
    Ok(EventRow { phase, digest: row.get("digest"), result: row.get("result") })
}

fn keyed(doing: &'static str, sql: &str, key: &EventKey) -> Statement {
    Statement::query(doing, sql).text(key.integration.as_str()).text(key.source.as_str()).text(key.id.as_str())
}

/// Makes the event's row, or locks the one that is there and returns it.
pub fn lock(question: &Question<'_>) -> Statement {
    keyed(
        "locking the event",
        "INSERT INTO postern.event AS e (integration, source, id, digest, verb, principal, asked_at) VALUES ($1, $2, $3, $4, $5, $6, $7) \
         ON CONFLICT (integration, source, id) DO UPDATE SET verb = e.verb RETURNING phase, digest, result",
        question.key,
    )
    .bind(question.digest.to_vec(), Type::BYTEA)
    .text(question.verb.as_str())
    .bind(question.principal.map(ToString::to_string), Type::TEXT)
    .bind(question.asked_at, Type::TIMESTAMPTZ)
}

/// Looks without locking: a duplicate is answered before anything else is done for it.
pub async fn find(client: &Client, key: &EventKey) -> Result<Option<EventRow>, TargetError> {
    let sql = "SELECT phase, digest, result FROM postern.event WHERE integration = $1 AND source = $2 AND id = $3";
    let rows = batch::alone(client, vec![keyed("looking the event up", sql, key)]).await?;
    rows.iter().flatten().next().map(row).transpose()
}

/// Records how far the event has come, with its result or a draft of it. Part of the event's own transaction.
pub fn record(key: &EventKey, phase: Phase, principal: Option<&str>, result: &Value) -> Statement {
    keyed(
        "recording the event",
        "UPDATE postern.event SET phase = $4, principal = coalesce($5, principal), result = $6, settled_at = now() \
         WHERE integration = $1 AND source = $2 AND id = $3 AND phase <> 'done'",
        key,
    )
    .text(phase.as_str())
    .bind(principal.map(ToOwned::to_owned), Type::TEXT)
    .bind(result.clone(), Type::JSONB)
}

/// Fixes the result, if nobody did before. Returns what is stored: that is what is published.
pub async fn settle(client: &Client, key: &EventKey, result: &Value) -> Result<Value, TargetError> {
    let settle = keyed(
        "settling the event",
        "UPDATE postern.event SET phase = 'done', result = $4, settled_at = clock_timestamp(), claimed_until = NULL \
         WHERE integration = $1 AND source = $2 AND id = $3 AND phase <> 'done' RETURNING result",
        key,
    )
    .bind(result.clone(), Type::JSONB);
    let read = keyed("reading the result", "SELECT result FROM postern.event WHERE integration = $1 AND source = $2 AND id = $3", key);
    let answers = batch::alone(client, vec![settle, read]).await?;
    let stored = answers.last().and_then(|rows| rows.first()).and_then(|row| row.get::<_, Option<Value>>(0));
    stored.ok_or_else(|| TargetError::Unreadable("no result of a settled event".to_owned()))
}

/// Claims an event for work that takes several transactions, until the lease ends.
/// Returns the row as it is: `working` if the claim is ours.
pub async fn claim(client: &Client, question: &Question<'_>, lease_seconds: u32) -> Result<Claim, TargetError> {
    let sql = "INSERT INTO postern.event AS e (integration, source, id, digest, verb, principal, asked_at, phase, claimed_until) \
               VALUES ($1, $2, $3, $4, $5, $6, $7, 'working', clock_timestamp() + make_interval(secs => $8)) \
               ON CONFLICT (integration, source, id) DO UPDATE SET claimed_until = excluded.claimed_until \
               WHERE e.phase <> 'done' AND e.digest = excluded.digest AND (e.claimed_until IS NULL OR e.claimed_until <= clock_timestamp()) \
               RETURNING clock_timestamp() AS now";
    let statement = keyed("claiming the event", sql, question.key)
        .bind(question.digest.to_vec(), Type::BYTEA)
        .text(question.verb.as_str())
        .bind(question.principal.map(ToString::to_string), Type::TEXT)
        .bind(question.asked_at, Type::TIMESTAMPTZ)
        .bind(f64::from(lease_seconds), Type::FLOAT8);
    let rows = batch::alone(client, vec![statement]).await?;
    if let Some(row) = rows.iter().flatten().next() {
        return Ok(Claim::Ours { now: row.get("now") });
    }
    match find(client, question.key).await? {
        Some(row) => Ok(Claim::Theirs(row)),
        None => Err(TargetError::Claimed),
    }
}

/// Lengthens the lease of a claim that is ours, between two steps of the work.
pub async fn keep_claim(client: &Client, key: &EventKey, lease_seconds: u32) -> Result<(), TargetError> {
    let sql = "UPDATE postern.event SET claimed_until = clock_timestamp() + make_interval(secs => $4) \
               WHERE integration = $1 AND source = $2 AND id = $3 AND phase <> 'done'";
    batch::alone(client, vec![keyed("keeping the claim", sql, key).bind(f64::from(lease_seconds), Type::FLOAT8)]).await.map(|_| ())
}

/// Lets go of a claim, so that the next try need not wait for the lease to end.
pub async fn release_claim(client: &Client, key: &EventKey) -> Result<(), TargetError> {
    let sql = "UPDATE postern.event SET claimed_until = NULL WHERE integration = $1 AND source = $2 AND id = $3 AND phase <> 'done'";
    batch::alone(client, vec![keyed("releasing the claim", sql, key)]).await.map(|_| ())
}

/// The role of a person whose result is being finished.
pub async fn role_of(client: &Client, principal: &str) -> Result<Vec<crate::access::state::Oid>, TargetError> {
    let sql = "SELECT role_oid FROM postern.account WHERE principal = $1 AND role_oid IS NOT NULL";
    let rows = batch::alone(client, vec![Statement::query("finding the person's role", sql).text(principal)]).await?;
    Ok(rows.iter().flatten().map(|row| row.get(0)).collect())
}

/// The account's role was dropped by hand: the record of it goes too.
pub async fn forget_lost_role(client: &Client, principal: &Principal) -> Result<(), TargetError> {
    let sql = "UPDATE postern.account a SET role_name = NULL, role_oid = NULL, password_set_at = NULL, rotation_due = false, iam = false \
               WHERE principal = $1 AND NOT EXISTS (SELECT FROM pg_catalog.pg_roles r WHERE r.oid = a.role_oid) \
                 AND NOT EXISTS (SELECT FROM postern.access_grant g WHERE g.principal = a.principal AND g.ending IS NULL)";
    batch::alone(client, vec![Statement::query("forgetting a lost role", sql).text(principal.as_str())]).await.map(|_| ())
}

/// Who works at an event.
#[derive(Debug)]
pub enum Claim {
    /// This worker, from the target's `now`.
    Ours {
        /// The target's clock.
        now: Timestamp,
    },
    /// Another one, or it is done, or its body is another.
    Theirs(EventRow),
}
