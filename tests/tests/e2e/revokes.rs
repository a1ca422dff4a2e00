//! Revoked means gone.

use anyhow::{Result, ensure};
use jiff::SignedDuration;
use postern_tests::events::{grant, revoke_all, revoke_grant, revoke_principal};
use postern_tests::process::{self, Signal};
use postern_tests::stage::{INTEGRATION, Stage};
use serde_json::json;

use crate::{allowed, ended, sessions_of};

#[tokio::test]
async fn a_revoke_ends_every_open_session_before_its_result() -> Result<()> {
    let mut stage = Stage::builder().policy("roles = ['reporting']").start().await?;
    stage.pg.create_handable_role("reporting").await?;
    stage.workers(1).await?;
    let asked =
        grant(INTEGRATION, "AR-1", "jane").schema("orders", "sales", "read_write").role("reporting").age(&stage.identity.recipient());
    let result = stage.expect(&asked, "succeeded").await?;
    let credential = stage.credential(&result)?;
    let login = async || stage.pg.login(&credential.username, &credential.password, "orders").await;

    let idle = login().await?;
    let in_transaction = login().await?;
    in_transaction.batch_execute("BEGIN; DELETE FROM sales.lines").await?;
    let in_role = login().await?;
    // From 16 on the membership comes without SET.
    if stage.pg.version().major() < 16 {
        allowed(&in_role, "SET ROLE reporting").await?;
    }
    let admin = stage.pg.admin("postgres").await?;
    assert_eq!(sessions_of(&admin, "jane").await?, 3);

    let revoked = stage.expect(&revoke_grant(INTEGRATION, "AR-1"), "succeeded").await?;
    assert_eq!(sessions_of(&admin, "jane").await?, 0, "no session is left when the result is published");
    assert_eq!(revoked["sessions_terminated"], 3, "{revoked:#}");
    assert_eq!(revoked["ended"], json!(["AR-1"]));
    for client in [&idle, &in_transaction, &in_role] {
        ensure!(client.batch_execute("SELECT 1").await.is_err());
    }
    ensure!(login().await.is_err(), "the account has no login");
    let lines: i64 = stage.pg.admin("orders").await?.query_one("SELECT count(*) FROM sales.lines", &[]).await?.get(0);
    assert_eq!(lines, 3, "the transaction was rolled back");

    let again = stage.expect(&revoke_grant(INTEGRATION, "AR-1"), "unchanged").await?;
    assert_eq!(again["reason"]["code"], "revoked");
    stage.finish().await
}

#[tokio::test]
async fn a_revoke_before_its_grant_wins() -> Result<()> {
    let mut stage = Stage::start().await?;
    stage.workers(1).await?;
    stage.expect(&revoke_grant(INTEGRATION, "AR-9"), "succeeded").await?;
    for revision in [1, 2] {
        let late = grant(INTEGRATION, "AR-9", "jane").revision(revision).database("orders", "read_only");
        let result = stage.expect(&late, "superseded").await?;
        assert_eq!(result["reason"]["code"], "revoked");
    }
    let admin = stage.pg.admin("postgres").await?;
    let made: bool = admin.query_one("SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = 'jane')", &[]).await?.get(0);
    assert!(!made);
    stage.finish().await
}

#[tokio::test]
async fn wide_revokes_end_what_was_asked_before_them_and_nothing_later() -> Result<()> {
    let mut stage = Stage::start().await?;
    stage.workers(2).await?;
    let now = jiff::Timestamp::now();
    let at = |seconds: i64| now + SignedDuration::from_secs(seconds);
    let recipient = stage.identity.recipient();
    let asked = |id: &str, who: &str, seconds: i64| {
        grant(INTEGRATION, id, who).database("orders", "read_only").age(&recipient).asked_at(at(seconds))
    };

    let early = stage.expect(&asked("j1", "jane", -100), "succeeded").await?;
    stage.expect(&asked("j2", "jane", -10), "succeeded").await?;
    stage.expect(&asked("k1", "kim", -100), "succeeded").await?;
    let session = stage.login_as(&early).await?;

    let result = stage.expect(&revoke_principal(INTEGRATION, "Jane").asked_at(at(-50)), "succeeded").await?;
    assert_eq!(result["ended"], json!(["j1"]));
    // The other grant keeps the same bundle, so nothing was taken away.
    allowed(&session, "SELECT * FROM sales.invoices").await?;
    let late = stage.expect(&asked("j3", "jane", -60), "superseded").await?;
    assert_eq!(late["reason"]["code"], "revoked");
    let reopened = asked("j1", "jane", -20).revision(2);
    stage.expect(&reopened, "succeeded").await?;

    let panic = stage.expect(&revoke_all(INTEGRATION).asked_at(at(-5)), "succeeded").await?;
    assert_eq!(panic["ended"], json!(["j1", "j2", "k1"]), "{panic:#}");
    assert_eq!(panic["ended_total"], 3);
    assert!(session.batch_execute("SELECT 1").await.is_err());
    let admin = stage.pg.admin("postgres").await?;
    assert!(ended(&admin, "jane").await? && ended(&admin, "kim").await?);
    stage.expect(&asked("k2", "kim", -6), "superseded").await?;
    stage.expect(&asked("k3", "kim", -4), "succeeded").await?;
    stage.expect(&revoke_all(INTEGRATION).asked_at(at(-5)), "unchanged").await?;
    stage.finish().await
}

#[tokio::test]
async fn a_session_that_does_not_die_is_said_and_the_work_goes_on() -> Result<()> {
    let mut stage = Stage::start().await?;
    stage.workers(1).await?;
    let asked = grant(INTEGRATION, "AR-1", "jane").database("orders", "read_only").age(&stage.identity.recipient());
    let session = stage.login_as(&stage.expect(&asked, "succeeded").await?).await?;
    let pid: i32 = session.query_one("SELECT pg_backend_pid()", &[]).await?.get(0);
    process::signal(u32::try_from(pid)?, Signal::STOP)?;

    let revoke = revoke_grant(INTEGRATION, "AR-1");
    stage.publish(&revoke).await?;
    let wanted = |m: &postern_tests::broker::Message| m.data()["event_id"] == revoke.id() && m.data()["final"] == false;
    let failed = stage.audit.wait_where(wanted, postern_tests::audit::TIMEOUT).await?;
    assert_eq!(failed.data()["reason"]["code"], "session_survives");
    let admin = stage.pg.admin("postgres").await?;
    assert!(ended(&admin, "jane").await?, "access is removed already");

    process::signal(u32::try_from(pid)?, Signal::CONT)?;
    let result = stage.result_of(&revoke).await?;
    assert_eq!(result["outcome"], "succeeded");
    assert_eq!(sessions_of(&admin, "jane").await?, 0);
    stage.finish().await
}

#[tokio::test]
async fn a_login_under_way_at_the_commit_does_not_come_up_after_the_result() -> Result<()> {
    let mut stage = Stage::start().await?;
    stage.workers(1).await?;
    let asked = grant(INTEGRATION, "AR-1", "jane").database("orders", "read_only").age(&stage.identity.recipient());
    let credential = stage.credential(&stage.expect(&asked, "succeeded").await?)?;
    let superuser = stage.pg.superuser("postgres").await?;
    let looking = stage.pg.superuser("postgres").await?;

    // A backend locks its database after the login check, and before it shows in `pg_stat_activity` (up to 17) or has a user
    // there (from 18). That is where this one is held: it came past NOLOGIN.
    superuser.batch_execute("CREATE DATABASE side").await?;
    superuser.batch_execute("BEGIN; ALTER DATABASE side RENAME TO aside").await?;
    let (user, password) = (credential.username.clone(), credential.password.clone());
    let port = stage.pg.port();
    let login = tokio::spawn(async move { postern_tests::postgres::login_at(port, &user, &password, "side").await });
    let held = "SELECT EXISTS (SELECT FROM pg_locks l WHERE l.classid = 'pg_database'::regclass AND NOT l.granted \
                AND NOT EXISTS (SELECT FROM pg_stat_activity a WHERE a.pid = l.pid AND a.usesysid IS NOT NULL))";
    until(&looking, held).await?;
    let revoke = revoke_grant(INTEGRATION, "AR-1");
    stage.publish(&revoke).await?;
    let failed = stage.audit.wait_where(|m| m.data()["event_id"] == revoke.id(), postern_tests::audit::TIMEOUT).await?;
    assert_eq!(failed.data()["reason"]["code"], "session_survives", "nothing is proven while a login is under way: {:#}", failed.data());
    assert!(ended(&looking, "jane").await?, "access is removed already");
    superuser.batch_execute("ROLLBACK").await?;

    stage.result_of(&revoke).await?;
    assert_eq!(sessions_of(&looking, "jane").await?, 0);
    if let Ok(client) = login.await? {
        ensure!(client.batch_execute("SELECT 1").await.is_err(), "the session came up after the result");
    }
    stage.finish().await
}

#[tokio::test]
async fn a_revoke_is_never_too_old_and_a_grant_is() -> Result<()> {
    let mut stage = Stage::start().await?;
    stage.workers(1).await?;
    let days = |days: i64| jiff::Timestamp::now() - SignedDuration::from_hours(24 * days);
    stage.expect(&grant(INTEGRATION, "AR-1", "jane").database("orders", "read_only"), "succeeded").await?;
    let old = stage.expect(&grant(INTEGRATION, "AR-2", "jane").database("orders", "read_only").asked_at(days(2)), "rejected").await?;
    assert_eq!(old["reason"]["code"], "event_too_old");
    stage.expect(&revoke_grant(INTEGRATION, "AR-1").asked_at(days(400)), "succeeded").await?;
    assert!(ended(&stage.pg.admin("postgres").await?, "jane").await?);
    stage.finish().await
}

/// Waits until the query says so.
async fn until(client: &tokio_postgres::Client, sql: &str) -> Result<()> {
    let deadline = std::time::Instant::now() + postern_tests::audit::TIMEOUT;
    while !client.query_one(sql, &[]).await?.get::<_, bool>(0) {
        ensure!(std::time::Instant::now() < deadline, "still not so: {sql}");
        tokio::time::sleep(process::POLL).await;
    }
    Ok(())
}
