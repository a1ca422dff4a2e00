//! Ending a person's sessions, and proof that they ended.
//!
//! Membership taken away and NOLOGIN leave live sessions running; one inside `SET ROLE` keeps what it set even after
//! `DROP ROLE` (measured on 14 to 18). So after the commit: terminate, read back, and again until none is left.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;
use tokio_postgres::Client;
use tokio_postgres::types::Type;

use crate::access::state::Oid;
use crate::postgres::batch::{self, Statement};
use crate::postgres::{Target, TargetError, replicas};

/// How long a backend may take to die before the result says that it survives.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a backend that is only starting is waited for. One that passed the login check before our commit needs
/// milliseconds; one that is still at its password meets NOLOGIN. Without a bound, anybody who opens a connection
/// and stays silent would hold every revoke up. One that waits for a lock is past its password: it is waited for like a
/// session that does not die.
const STARTING_PATIENCE: Duration = Duration::from_secs(1);
const PAUSE: Duration = Duration::from_millis(20);

/// What became of the sessions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ended {
    /// How many were told to end, on all servers.
    pub terminated: u32,
    /// How many are still there.
    pub surviving: u32,
    /// Which replicas were not looked at, and why.
    pub warnings: Vec<String>,
}

impl Ended {
    /// Adds what became of others.
    pub fn add(&mut self, other: Self) {
        self.terminated += other.terminated;
        self.surviving += other.surviving;
        self.warnings.extend(other.warnings);
    }
}

/// Tells the sessions of roles ($1) that began at or before $2 to end, and returns them.
const ALIVE: &str = "SELECT pid, pg_catalog.pg_terminate_backend(pid) FROM pg_catalog.pg_stat_activity \
     WHERE usesysid = ANY ($1) AND backend_start <= $2 AND pid <> pg_catalog.pg_backend_pid()";

/// Backends that are starting and may have passed the login check before the commit: those without a user in
/// `pg_stat_activity` (from 18), and those that hold a transaction and are not in that view at all (up to 17). And whether
/// they wait for a lock.
const STARTING: &str = "SELECT s.pid, EXISTS (SELECT FROM pg_catalog.pg_locks w WHERE w.pid = s.pid AND NOT w.granted) AS held FROM ( \
     SELECT pid FROM pg_catalog.pg_stat_activity WHERE backend_type = 'client backend' AND usesysid IS NULL AND backend_start <= $1 \
     UNION SELECT l.pid FROM pg_catalog.pg_locks l WHERE l.locktype = 'virtualxid' AND l.pid IS NOT NULL \
       AND NOT EXISTS (SELECT FROM pg_catalog.pg_stat_activity a WHERE a.pid = l.pid)) AS s";

/// Terminates every session of `roles` that began before now, and waits until they are gone: on the server, then on its
/// replicas. Takes sessions of its own. What cannot be done on a replica is a warning, and holds nothing up for long.
pub async fn end(target: &Target, roles: &[Oid]) -> Result<Ended, TargetError> {
    if roles.is_empty() {
        return Ok(Ended::default());
    }
    let mut ended = end_on_primary(target, roles).await?;
    ended.add(replicas::end(target, roles).await?);
    Ok(ended)
}

/// The same on the server alone, where a later step looks at its replicas for many people at once.
pub async fn end_on_primary(target: &Target, roles: &[Oid]) -> Result<Ended, TargetError> {
    let (session, _) = target.maintenance().await?;
    end_on(session.client(), roles).await
}

/// The same on one server, in a session with it.
pub(super) async fn end_on(client: &Client, roles: &[Oid]) -> Result<Ended, TargetError> {
    let cut = Statement::query("reading the clock", "SELECT pg_catalog.clock_timestamp()");
    let rows = batch::reading(client, vec![cut]).await?;
    let cut: jiff::Timestamp =
        rows.iter().flatten().next().map(|row| row.get(0)).ok_or_else(|| TargetError::Unreadable("no clock".to_owned()))?;
    let began = Instant::now();
    let mut told = BTreeSet::new();
    let mut awaited: Option<Vec<i32>> = None;
    loop {
        let (alive, starting) = look(client, roles, cut).await?;
        told.extend(alive.iter().copied());
        // Only those that were starting at the first look can have read the catalog from before the commit.
        let mut pending = awaited.take().unwrap_or_else(|| starting.keys().copied().collect());
        pending.retain(|pid| starting.contains_key(pid));
        let held = pending.iter().filter(|pid| starting.get(pid) == Some(&true)).count();
        let waited = began.elapsed();
        let starts_over = pending.is_empty() || held == 0 && waited >= STARTING_PATIENCE;
        if alive.is_empty() && starts_over || waited >= PATIENCE {
            let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
            return Ok(Ended { terminated: count(told.len()), surviving: count(alive.len() + held), warnings: Vec::new() });
        }
        awaited = Some(pending);
        tokio::time::sleep(PAUSE).await;
    }
}

/// Tells the sessions of `roles` to end and returns who was alive, and which backends are starting, with whether they wait
/// for a lock.
async fn look(client: &Client, roles: &[Oid], cut: jiff::Timestamp) -> Result<(Vec<i32>, BTreeMap<i32, bool>), TargetError> {
    // A backend that ended between the look and the signal only makes a warning.
    let alive = Statement::query("ending sessions", ALIVE).bind(roles.to_vec(), Type::OID_ARRAY).bind(cut, Type::TIMESTAMPTZ);
    let starting = Statement::query("looking for starting backends", STARTING).bind(cut, Type::TIMESTAMPTZ);
    let answers = batch::reading(client, vec![alive, starting]).await?;
    let rows = |index: usize| answers.get(index).into_iter().flatten();
    Ok((rows(0).map(|row| row.get(0)).collect(), rows(1).map(|row| (row.get(0), row.get(1))).collect()))
}
