//! `PgBouncer` between workers and server. People go to the server itself.

use anyhow::{Result, ensure};
use postern_tests::events::{Event, cleanup, cleanup_principal, grant, revoke_all, revoke_grant, rotate_principal};
use postern_tests::pgbouncer::PgBouncer;
use postern_tests::stage::{INTEGRATION, Stage};

use crate::{allowed, explained, sessions_of};

async fn behind(mode: &str, workers: usize) -> Result<(Stage, PgBouncer)> {
    let mut stage = Stage::start().await?;
    // Fewer sessions than the workers would open: they are handed from one to the other.
    let pooler = PgBouncer::start(&stage.pg, mode, if mode == "session" { 20 } else { 3 }).await?;
    stage.configure(&format!("[integrations.{INTEGRATION}]\nport = {}", pooler.port))?;
    stage.workers(workers).await?;
    Ok((stage, pooler))
}

async fn whole_story(stage: &Stage) -> Result<()> {
    let recipient = stage.identity.recipient();
    let asked = grant(INTEGRATION, "1", "jane").schema("orders", "sales", "read_only").age(&recipient);
    let result = stage.expect(&asked, "succeeded").await?;
    stage.publish(&asked).await?;
    let copies = stage.audit.wait_for_copies(asked.id(), 2).await?;
    assert_eq!(crate::stripped(&serde_json::from_slice(&copies[0].body)?), crate::stripped(&serde_json::from_slice(&copies[1].body)?));
    let jane = stage.login_as(&result).await?;
    allowed(&jane, "SELECT * FROM sales.invoices").await?;
    let rotated = stage.expect(&rotate_principal(INTEGRATION, "jane", &recipient), "succeeded").await?;
    stage.credential(&rotated)?;

    let people: Vec<Event> =
        (0..40).map(|n| grant(INTEGRATION, &format!("p{n}"), &format!("p{}", n % 10)).database("orders", "read_write")).collect();
    stage.broker.publish_all(&people).await?;
    for event in &people {
        assert_eq!(stage.result_of(event).await?["outcome"], "succeeded");
    }
    let revoked = stage.expect(&revoke_grant(INTEGRATION, "1"), "succeeded").await?;
    assert_eq!(revoked["sessions_terminated"], 1, "{revoked:#}");
    let superuser = stage.pg.superuser("postgres").await?;
    assert_eq!(sessions_of(&superuser, "jane").await?, 0);
    stage.expect(&cleanup_principal(INTEGRATION, "jane"), "succeeded").await?;
    let all = stage.expect(&revoke_all(INTEGRATION), "succeeded").await?;
    assert_eq!(all["ended_total"], 40);
    stage.send(&cleanup(INTEGRATION)).await?;
    explained(stage).await
}

#[tokio::test]
async fn several_workers_work_through_pgbouncer_in_transaction_mode() -> Result<()> {
    let (stage, pooler) = behind("transaction", 3).await?;
    let check = String::from_utf8(stage.cli(&["check", INTEGRATION]).await?.stdout)?;
    ensure!(check.contains("pooler: a connection pooler such as PgBouncer") && !check.contains("FAIL"), "{check}");
    whole_story(&stage).await?;
    drop(pooler);
    stage.finish().await
}

#[tokio::test]
async fn pgbouncer_in_session_mode_works_too() -> Result<()> {
    let (stage, _pooler) = behind("session", 1).await?;
    whole_story(&stage).await?;
    stage.finish().await
}
