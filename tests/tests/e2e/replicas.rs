//! Read replicas: what a revoke does there, and what is said where it cannot.

use anyhow::{Context, Result, ensure};
use postern_tests::audit::TIMEOUT;
use postern_tests::events::{cleanup, cleanup_principal, grant, revoke_all, revoke_grant};
use postern_tests::postgres::Postgres;
use postern_tests::process::{self, Signal};
use postern_tests::stage::{INTEGRATION, Stage};
use serde_json::Value;

use crate::{allowed, denied, sessions_of};

/// A stage with one worker whose integration names a running replica.
async fn with_replica() -> Result<(Stage, Postgres)> {
    let mut stage = Stage::start().await?;
    let replica = stage.pg.replica().await?;
    stage.configure(&format!("[integrations.{INTEGRATION}]\nreplicas = ['127.0.0.1:{}']", replica.port()))?;
    stage.workers(1).await?;
    Ok((stage, replica))
}

fn warned(result: &Value, words: &[&str]) -> bool {
    result["warnings"].as_array().is_some_and(|all| all.iter().any(|one| words.iter().all(|word| one.to_string().contains(word))))
}

#[tokio::test]
async fn revoke_wide_revoke_narrowing_and_cleanup_end_sessions_on_the_replica_too() -> Result<()> {
    let (stage, replica) = with_replica().await?;
    let recipient = stage.identity.recipient();
    let asked = |who: &str| grant(INTEGRATION, who, who).schema("orders", "sales", "read_only").age(&recipient);
    let mut people = Vec::new();
    for who in ["ann", "ben", "cat", "dan"] {
        let result = stage.expect(&asked(who), "succeeded").await?;
        replica.follows(&stage.pg).await?;
        let credential = stage.credential(&result)?;
        let session = replica.login(&credential.username, &credential.password, "orders").await?;
        allowed(&session, "BEGIN; SELECT * FROM sales.invoices").await?;
        people.push((credential, session));
    }
    let there = replica.superuser("postgres").await?;

    let narrowed = asked("ann").revision(2).with("permissions", serde_json::json!([])).tables("orders", "sales", &["lines"], "read_only");
    let ended = [
        ("ann", stage.expect(&narrowed, "succeeded").await?),
        ("ben", stage.expect(&revoke_grant(INTEGRATION, "ben"), "succeeded").await?),
        ("cat", stage.expect(&cleanup_principal(INTEGRATION, "cat"), "succeeded").await?),
        ("dan", stage.expect(&revoke_all(INTEGRATION), "succeeded").await?),
    ];
    for ((who, result), (credential, session)) in ended.iter().zip(&people) {
        assert_eq!(result["sessions_terminated"], 1, "{result:#}");
        assert_eq!(result["warnings"], serde_json::json!([]), "{result:#}");
        ensure!(session.batch_execute("SELECT 1").await.is_err(), "{who} goes on reading");
        assert_eq!(sessions_of(&there, who).await?, 0);
        ensure!(replica.login(&credential.username, &credential.password, "orders").await.is_err(), "{who} gets in again");
    }
    stage.finish().await
}

#[tokio::test]
async fn an_expiry_ends_sessions_on_the_replica_too() -> Result<()> {
    let (stage, replica) = with_replica().await?;
    let asked = grant(INTEGRATION, "1", "jane").database("orders", "read_only").age(&stage.identity.recipient());
    let result = stage.expect(&asked.expires_in(jiff::SignedDuration::from_secs(4)), "succeeded").await?;
    replica.follows(&stage.pg).await?;
    let credential = stage.credential(&result)?;
    let session = replica.login(&credential.username, &credential.password, "orders").await?;
    let expired = stage.audit.wait_where(|m| m.data()["reason"]["code"] == "expired", TIMEOUT).await?;
    assert_eq!(expired.data()["sessions_terminated"], 1, "{:#}", expired.data());
    ensure!(session.batch_execute("SELECT 1").await.is_err());
    stage.finish().await
}

#[tokio::test]
async fn a_replica_that_lags_is_named_and_the_next_cleanup_makes_up_for_it() -> Result<()> {
    let (stage, replica) = with_replica().await?;
    let asked = grant(INTEGRATION, "1", "jane").database("orders", "read_only").age(&stage.identity.recipient());
    let result = stage.expect(&asked, "succeeded").await?;
    replica.follows(&stage.pg).await?;
    let credential = stage.credential(&result)?;
    let login = async || replica.login(&credential.username, &credential.password, "orders").await;
    let session = login().await?;
    let there = replica.superuser("postgres").await?;
    there.batch_execute("SELECT pg_wal_replay_pause()").await?;

    let revoked = stage.expect(&revoke_grant(INTEGRATION, "1"), "succeeded").await?;
    ensure!(warned(&revoked, &[&replica.port().to_string(), "lags behind"]), "{revoked:#}");
    assert_eq!(revoked["sessions_terminated"], 1, "what was there has ended");
    ensure!(session.batch_execute("SELECT 1").await.is_err());

    let again = login().await.context("the replica does not know of the revoke yet")?;
    there.batch_execute("SELECT pg_wal_replay_resume()").await?;
    let swept = stage.send(&cleanup(INTEGRATION)).await?;
    assert_eq!(swept["sessions_terminated"], 1, "{swept:#}");
    ensure!(again.batch_execute("SELECT 1").await.is_err() && login().await.is_err());
    stage.finish().await
}

#[tokio::test]
async fn a_replica_that_is_down_holds_no_revoke_up() -> Result<()> {
    let (stage, mut replica) = with_replica().await?;
    let asked = |id: &str| grant(INTEGRATION, id, "jane").database("orders", "read_only").age(&stage.identity.recipient());
    stage.expect(&asked("1"), "succeeded").await?;
    replica.follows(&stage.pg).await?;
    replica.stop_immediate().await?;
    let revoked = stage.expect(&revoke_grant(INTEGRATION, "1"), "succeeded").await?;
    ensure!(warned(&revoked, &["was not looked at", &replica.port().to_string()]), "{revoked:#}");
    let check = String::from_utf8(stage.cli(&["check", INTEGRATION]).await?.stdout)?;
    ensure!(check.contains(&format!("FAIL  {INTEGRATION}: replica 127.0.0.1:{}", replica.port())), "{check}");

    replica.start_again().await?;
    replica.follows(&stage.pg).await?;
    let check = String::from_utf8(stage.cli(&["check", INTEGRATION]).await?.stdout)?;
    ensure!(check.contains(&format!("ok    {INTEGRATION}: replica 127.0.0.1:{}", replica.port())), "{check}");
    // Once its circuit has closed again nothing is warned about.
    let deadline = std::time::Instant::now() + TIMEOUT;
    for turn in 2.. {
        stage.expect(&asked(&turn.to_string()), "succeeded").await?;
        let revoked = stage.expect(&revoke_grant(INTEGRATION, &turn.to_string()), "succeeded").await?;
        if revoked["warnings"] == serde_json::json!([]) {
            break;
        }
        ensure!(std::time::Instant::now() < deadline, "{revoked:#}");
    }
    stage.finish().await
}

#[tokio::test]
async fn a_backend_on_the_replica_that_does_not_die_survives_as_one_on_the_primary() -> Result<()> {
    let (stage, replica) = with_replica().await?;
    let asked = grant(INTEGRATION, "1", "jane").database("orders", "read_only").age(&stage.identity.recipient());
    let result = stage.expect(&asked, "succeeded").await?;
    replica.follows(&stage.pg).await?;
    let credential = stage.credential(&result)?;
    let session = replica.login(&credential.username, &credential.password, "orders").await?;
    let pid: i32 = session.query_one("SELECT pg_backend_pid()", &[]).await?.get(0);
    process::signal(u32::try_from(pid)?, Signal::STOP)?;
    let revoke = revoke_grant(INTEGRATION, "1");
    stage.publish(&revoke).await?;
    let failed = |m: &postern_tests::broker::Message| m.data()["event_id"] == revoke.id() && m.data()["final"] == false;
    let failed = stage.audit.wait_where(failed, TIMEOUT).await?;
    assert_eq!(failed.data()["reason"]["code"], "session_survives");
    process::signal(u32::try_from(pid)?, Signal::CONT)?;
    assert_eq!(stage.result_of(&revoke).await?["outcome"], "succeeded");
    stage.finish().await
}

#[tokio::test]
async fn replicas_that_nobody_named_and_strangers_are_warned_about() -> Result<()> {
    let mut stage = Stage::builder().integration("stranger", "").integration("none", "replicas = []").start().await?;
    let replica = stage.pg.replica().await?;
    let other = Postgres::start(stage.pg.version()).await?;
    stage.configure(&format!("[integrations.stranger]\nreplicas = ['127.0.0.1:{}']", other.port()))?;
    stage.workers(1).await?;
    let there = other.superuser("postgres").await?;
    for (integration, expected) in [(INTEGRATION, "replicas were not looked at: replica"), ("stranger", "no read replica"), ("none", "")] {
        stage.expect(&grant(integration, "1", "jane").database("orders", "read_only"), "succeeded").await?;
        let revoked = stage.expect(&revoke_grant(integration, "1"), "succeeded").await?;
        if expected.is_empty() {
            assert_eq!(revoked["warnings"], serde_json::json!([]));
        } else {
            ensure!(warned(&revoked, &[expected]), "{revoked:#}");
        }
    }
    let ledger: bool = there.query_one("SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname = 'postern')", &[]).await?.get(0);
    assert!(!ledger, "nothing was made on a server that is no replica");
    let check = String::from_utf8(stage.cli(&["check", INTEGRATION]).await?.stdout)?;
    ensure!(check.contains(&format!("warn  {INTEGRATION}: replicas: replica")), "{check}");
    drop(replica);
    stage.finish().await
}

#[tokio::test]
async fn a_replica_as_hostname_is_named_as_one_and_works_once_it_is_promoted() -> Result<()> {
    let mut stage = Stage::builder().integration("copy", "").start().await?;
    let replica = stage.pg.replica().await?;
    stage.configure(&format!("[integrations.copy]\nport = {}", replica.port()))?;
    stage.workers(1).await?;
    let asked = grant("copy", "1", "jane").database("orders", "read_only").age(&stage.identity.recipient());
    stage.publish(&asked).await?;
    let deadline = std::time::Instant::now() + TIMEOUT;
    while !stage.workers[0].log().contains("is a read replica (in recovery) and takes no changes; name the primary") {
        ensure!(std::time::Instant::now() < deadline, "{}", stage.worker_logs());
        tokio::time::sleep(process::POLL).await;
    }
    let output = stage.cli(&["check", "copy"]).await?;
    let shown = String::from_utf8(output.stdout)?;
    ensure!(shown.contains("FAIL  copy: primary: ") && shown.contains("name the primary as hostname"), "{shown}");

    replica.superuser("postgres").await?.batch_execute("SELECT pg_promote()").await?;
    let result = stage.result_of(&asked).await?;
    assert_eq!((&result["outcome"], &result["attempt"]), (&"succeeded".into(), &1.into()), "waiting is no attempt: {result:#}");
    let credential = stage.credential(&result)?;
    let session = replica.login(&credential.username, &credential.password, "orders").await?;
    allowed(&session, "SELECT * FROM sales.invoices").await?;
    denied(&session, "DELETE FROM sales.invoices").await?;
    stage.finish().await
}
