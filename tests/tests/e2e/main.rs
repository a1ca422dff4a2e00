//! End-to-end tests, one file a capability. Each runs against the PostgreSQL version in `POSTERN_TEST_PG` and a real
//! RabbitMQ; `make test` runs them all against every version.

mod bad_input;
mod cli;
mod conditions;
mod connector;
mod deploy;
mod drift;
mod faults;
mod forbidden;
mod grants;
mod harness;
mod iam;
mod idempotence;
mod language;
mod many_databases;
mod outside;
mod owned;
mod pgbouncer;
mod races;
mod replicas;
mod revokes;
mod rights;
mod secret_file;
mod servers;
mod shapes;
mod stores;
mod time;
mod tls;

use anyhow::{Result, ensure};
use postern_tests::stage::Stage;
use serde_json::Value;
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

/// The statement works.
async fn allowed(client: &Client, sql: &str) -> Result<()> {
    match client.batch_execute(sql).await {
        Ok(()) => Ok(()),
        Err(error) => anyhow::bail!("`{sql}` should be allowed: {error:?}"),
    }
}

/// The server refuses the statement for want of a privilege.
async fn denied(client: &Client, sql: &str) -> Result<()> {
    let error = client.batch_execute(sql).await.err();
    let code = error.as_ref().and_then(|error| error.code());
    ensure!(code == Some(&SqlState::INSUFFICIENT_PRIVILEGE), "`{sql}` should be denied, met {error:?}");
    Ok(())
}

/// How many sessions of the role there are.
async fn sessions_of(client: &Client, role: &str) -> Result<i64> {
    let sql = "SELECT count(*) FROM pg_stat_activity WHERE usename = $1";
    Ok(client.query_one(sql, &[&role]).await?.get(0))
}

/// The role can neither log in nor is a member of anything.
async fn ended(client: &Client, role: &str) -> Result<bool> {
    let sql =
        "SELECT NOT rolcanlogin AND NOT EXISTS (SELECT FROM pg_auth_members m WHERE m.member = r.oid) FROM pg_roles r WHERE rolname = $1";
    Ok(client.query_one(sql, &[&role]).await?.get(0))
}

/// Waits until the first worker has logged this text.
async fn logged(stage: &Stage, text: &str) -> Result<()> {
    let deadline = std::time::Instant::now() + postern_tests::audit::TIMEOUT;
    while !stage.workers[0].log().contains(text) {
        ensure!(std::time::Instant::now() < deadline, "expected {text:?} in\n{}", stage.worker_logs());
        tokio::time::sleep(postern_tests::process::POLL).await;
    }
    Ok(())
}

/// A result without what may differ between repeats.
fn stripped(result: &Value) -> Value {
    let mut result = result.clone();
    if let Some(data) = result["data"].as_object_mut() {
        for volatile in ["attempt", "worker", "received_at", "finished_at"] {
            data.remove(volatile);
        }
    }
    result
}

/// Ledger and catalog agree: every person is a member of exactly what the active grants say, no membership is of a dead
/// role, and whoever has a grant can log in, and nobody else.
async fn explained(stage: &Stage) -> Result<()> {
    let client = stage.pg.superuser("postgres").await?;
    let sql = "WITH wanted AS (
                 SELECT a.role_oid AS member, b.role_oid AS roleid FROM postern.access_grant g
                   JOIN postern.account a USING (principal) JOIN postern.bundle b ON b.id = ANY (g.bundles) WHERE g.ending IS NULL
                 UNION SELECT a.role_oid, r.oid FROM postern.access_grant g JOIN postern.account a USING (principal), pg_roles r
                   WHERE a.iam AND r.rolname = 'rds_iam' AND g.ending IS NULL),
               actual AS (SELECT m.member, m.roleid FROM pg_auth_members m JOIN postern.account a ON a.role_oid = m.member)
               SELECT 'missing' AS what, member::text, roleid::text FROM (TABLE wanted EXCEPT TABLE actual) AS x
               UNION ALL SELECT 'unexplained', member::text, roleid::text FROM (TABLE actual EXCEPT TABLE wanted) AS x
               UNION ALL SELECT 'dead', m.member::regrole::text, m.roleid::regrole::text FROM pg_auth_members m
                 WHERE NOT EXISTS (SELECT FROM pg_roles r WHERE r.oid = m.roleid) OR NOT EXISTS (SELECT FROM pg_roles r WHERE r.oid = m.member)
               UNION ALL SELECT 'login', r.rolname, r.rolcanlogin::text FROM postern.account a JOIN pg_roles r ON r.oid = a.role_oid
                 WHERE r.rolcanlogin <> EXISTS (SELECT FROM postern.access_grant g WHERE g.principal = a.principal AND g.ending IS NULL)
               UNION ALL SELECT 'no role', a.principal, '' FROM postern.account a
                 WHERE EXISTS (SELECT FROM postern.access_grant g WHERE g.principal = a.principal AND g.ending IS NULL)
                   AND NOT EXISTS (SELECT FROM pg_roles r WHERE r.oid = a.role_oid)";
    let rows = client.query(sql, &[]).await?;
    let differences: Vec<String> =
        rows.iter().map(|row| format!("{} {} {}", row.get::<_, String>(0), row.get::<_, String>(1), row.get::<_, String>(2))).collect();
    ensure!(differences.is_empty(), "ledger and catalog differ: {differences:?}");
    Ok(())
}
