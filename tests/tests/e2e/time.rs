//! What happens by itself, or by policy: expiry, rotation, clean-up.

use anyhow::{Result, ensure};
use jiff::{SignedDuration, Timestamp};
use postern_tests::events::{cleanup, cleanup_principal, grant, revoke_grant, rotate_policy, rotate_principal};
use postern_tests::stage::{INTEGRATION, Stage};
use serde_json::json;

use crate::{allowed, ended, explained, sessions_of};

#[tokio::test]
async fn a_grant_expires_by_itself_and_says_so() -> Result<()> {
    let mut stage = Stage::start().await?;
    stage.workers(1).await?;
    let asked = grant(INTEGRATION, "AR-1/1", "jane")
        .database("orders", "read_only")
        .age(&stage.identity.recipient())
        .expires_in(SignedDuration::from_secs(3));
    let session = stage.login_as(&stage.expect(&asked, "succeeded").await?).await?;
    allowed(&session, "SELECT * FROM sales.invoices").await?;

    let expired = stage.audit.wait_for("AR-1/1#1").await?;
    assert_eq!(expired["verb"], "revoke");
    assert_eq!(expired["outcome"], "succeeded");
    assert_eq!(expired["reason"]["code"], "expired");
    assert_eq!(expired["event_source"], "//postern/expiry");
    assert_eq!(expired["grant_id"], "AR-1/1");
    assert_eq!(expired["sessions_terminated"], 1);
    ensure!(session.batch_execute("SELECT 1").await.is_err());
    let admin = stage.pg.admin("postgres").await?;
    assert!(ended(&admin, "jane").await?);
    let message = &stage.audit.all_for("AR-1/1#1")[0];
    let id = postern_schemas::id::result_id(&[INTEGRATION, "//postern/expiry", "AR-1/1#1"]);
    assert_eq!(message.message_id(), Some(id.to_string().as_str()));

    // A higher revision opens again; the same one does not.
    let same = stage.expect(&grant(INTEGRATION, "AR-1/1", "jane").database("orders", "read_only"), "superseded").await?;
    assert_eq!(same["reason"]["code"], "expired");
    stage.expect(&grant(INTEGRATION, "AR-1/1", "jane").revision(2).database("orders", "read_only"), "succeeded").await?;
    stage.finish().await
}

#[tokio::test]
async fn an_extended_grant_outlives_its_first_expiry() -> Result<()> {
    let mut stage = Stage::start().await?;
    stage.workers(1).await?;
    let asked =
        |revision| grant(INTEGRATION, "AR-2", "jane").revision(revision).database("orders", "read_only").age(&stage.identity.recipient());
    let first = stage.expect(&asked(1).expires_in(SignedDuration::from_secs(2)), "succeeded").await?;
    stage.expect(&asked(2).expires_in(SignedDuration::from_secs(6)), "succeeded").await?;
    let session = stage.login_as(&first).await?;
    let expired = stage.audit.wait_for("AR-2#2").await?;
    assert_eq!(expired["revision"], 2);
    assert!(stage.audit.all_for("AR-2#1").is_empty(), "the replaced revision has no expiry of its own");
    ensure!(session.batch_execute("SELECT 1").await.is_err());
    stage.finish().await
}

#[tokio::test]
async fn a_cleanup_ends_what_the_broker_forgot() -> Result<()> {
    let mut stage = Stage::start().await?;
    stage.workers(1).await?;
    let asked = grant(INTEGRATION, "AR-3", "jane").database("orders", "read_only").expires_in(SignedDuration::from_secs(2));
    stage.expect(&asked, "succeeded").await?;
    // The broker loses the announced expiry.
    for level in postern_tests::broker::levels() {
        stage.broker.drain(&format!("expiry.{level}")).await?;
    }
    let admin = stage.pg.admin("postgres").await?;
    admin.query("SELECT pg_sleep(2)", &[]).await?;
    let result = stage.send(&cleanup(INTEGRATION)).await?;
    assert_eq!(result["ended"], json!(["AR-3"]), "{result:#}");
    assert!(ended(&admin, "jane").await?);
    let expired = stage.audit.wait_for("AR-3#1").await?;
    assert_eq!(expired["reason"]["code"], "expired");
    stage.finish().await
}

#[tokio::test]
async fn a_rotation_replaces_the_password_at_once_and_in_order() -> Result<()> {
    let mut stage = Stage::start().await?;
    stage.workers(1).await?;
    let recipient = stage.identity.recipient();
    let result = stage.expect(&grant(INTEGRATION, "1", "jane").database("orders", "read_only").age(&recipient), "succeeded").await?;
    let first = stage.credential(&result)?;
    let now = Timestamp::now();
    let result = stage.expect(&rotate_principal(INTEGRATION, "jane", &recipient).asked_at(now), "succeeded").await?;
    assert_eq!(result["credential"]["generation"], 2);
    let second = stage.credential(&result)?;
    assert_ne!(first.password, second.password);
    ensure!(second.password.len() >= 43 && second.password.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_'));
    ensure!(stage.pg.login("jane", &first.password, "orders").await.is_err());
    stage.pg.login("jane", &second.password, "orders").await?;
    let early = rotate_principal(INTEGRATION, "jane", &recipient).asked_at(now - SignedDuration::from_secs(1));
    stage.expect(&early, "superseded").await?;
    stage.pg.login("jane", &second.password, "orders").await?;
    let nobody = stage.expect(&rotate_principal(INTEGRATION, "nobody", &recipient), "rejected").await?;
    assert_eq!(nobody["reason"]["code"], "not_found");
    stage.finish().await
}

#[tokio::test]
async fn by_policy_a_password_is_replaced_at_the_next_grant_and_never_during_access() -> Result<()> {
    let mut stage = Stage::builder().integration(INTEGRATION, "credential_rotation_days = 1").start().await?;
    stage.workers(1).await?;
    let recipient = stage.identity.recipient();
    let asked = |id: &str| grant(INTEGRATION, id, "jane").database("orders", "read_only").age(&recipient);
    let first = stage.credential(&stage.expect(&asked("1"), "succeeded").await?)?;
    stage.expect(&rotate_policy(INTEGRATION), "unchanged").await?;
    let superuser = stage.pg.superuser("postgres").await?;
    superuser.batch_execute("UPDATE postern.account SET password_set_at = password_set_at - interval '2 days'").await?;

    let marked = stage.expect(&rotate_policy(INTEGRATION), "succeeded").await?;
    assert_eq!(marked["changes"], json!([{ "kind": "mark_rotation_due", "target": "jane" }]));
    let during = stage.expect(&asked("2"), "succeeded").await?;
    assert_eq!(during["credential"]["status"], "unchanged", "a password in use is not replaced");
    stage.pg.login("jane", &first.password, "orders").await?;
    for id in ["1", "2"] {
        stage.expect(&revoke_grant(INTEGRATION, id), "succeeded").await?;
    }
    let after = stage.expect(&asked("3"), "succeeded").await?;
    assert_eq!(after["credential"]["status"], "delivered");
    assert_eq!(after["credential"]["generation"], 2);
    ensure!(stage.pg.login("jane", &first.password, "orders").await.is_err());
    stage.login_as(&after).await?;
    stage.finish().await
}

#[tokio::test]
async fn a_cleanup_by_policy_leaves_nothing_behind() -> Result<()> {
    let mut stage = Stage::builder().integration(INTEGRATION, "user_cleanup_days = 0").start().await?;
    stage.pg.create_database("billing", "CREATE TABLE bills (id int)").await?;
    stage.workers(1).await?;
    let asked = |id: &str, who: &str| grant(INTEGRATION, id, who).database("orders", "read_write").database("billing", "read_only");
    stage.expect(&asked("1", "jane"), "succeeded").await?;
    stage.expect(&asked("2", "kim"), "succeeded").await?;
    // Given by hand, in another database than the ledger's, through the platform's admin role.
    stage.pg.connector("billing").await?.batch_execute("GRANT INSERT ON bills TO jane").await?;
    stage.expect(&revoke_grant(INTEGRATION, "1"), "succeeded").await?;
    let result = stage.expect(&cleanup(INTEGRATION), "succeeded").await?;
    assert_eq!(result["blocked_total"], 0, "{result:#}");
    let admin = stage.pg.admin("postgres").await?;
    let roles = async || -> Result<Vec<String>> {
        let rows = admin
            .query("SELECT rolname::text FROM pg_roles WHERE rolname IN ('jane', 'kim') OR rolname ~ '^postern:' ORDER BY 1", &[])
            .await?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    };
    let left = roles().await?;
    assert_eq!(left.len(), 3, "kim and two bundles in use: {left:?}");

    stage.expect(&revoke_grant(INTEGRATION, "2"), "succeeded").await?;
    let result = stage.expect(&cleanup(INTEGRATION), "succeeded").await?;
    assert_eq!(roles().await?, Vec::<String>::new(), "{result:#}");
    stage.expect(&cleanup(INTEGRATION), "unchanged").await?;
    let again = stage.expect(&asked("3", "jane").age(&stage.identity.recipient()), "succeeded").await?;
    stage.login_as(&again).await?;
    explained(&stage).await?;
    stage.finish().await
}

#[tokio::test]
async fn a_leaver_loses_grants_sessions_and_account_unless_asked_for_again() -> Result<()> {
    let mut stage = Stage::start().await?;
    stage.workers(1).await?;
    let asked = |id: &str| grant(INTEGRATION, id, "jane").database("orders", "read_only").age(&stage.identity.recipient());
    let session = stage.login_as(&stage.expect(&asked("1"), "succeeded").await?).await?;
    let result = stage.expect(&cleanup_principal(INTEGRATION, "jane"), "succeeded").await?;
    assert_eq!(result["ended"], json!(["1"]));
    ensure!(session.batch_execute("SELECT 1").await.is_err());
    let admin = stage.pg.admin("postgres").await?;
    let there: bool = admin.query_one("SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = 'jane')", &[]).await?.get(0);
    assert!(!there, "{result:#}");

    let later = stage.expect(&asked("2"), "succeeded").await?;
    assert_eq!(later["credential"]["generation"], 2, "generations never count down");
    let early = cleanup_principal(INTEGRATION, "jane").asked_in(SignedDuration::from_secs(-30));
    stage.expect(&early, "superseded").await?;
    stage.login_as(&later).await?;
    stage.finish().await
}

#[tokio::test]
async fn an_account_that_owns_something_stays_disabled_and_says_what_blocks_it() -> Result<()> {
    let mut stage = Stage::start().await?;
    stage.workers(1).await?;
    let asked = grant(INTEGRATION, "1", "jane").schema("orders", "sales", "admin").age(&stage.identity.recipient());
    let jane = stage.login_as(&stage.expect(&asked, "succeeded").await?).await?;
    jane.batch_execute("CREATE TABLE sales.hers (id int)").await?;
    let result = stage.send(&cleanup_principal(INTEGRATION, "jane")).await?;
    assert_eq!(result["reason"]["code"], "objects_owned");
    assert_eq!(result["blocked"], json!([{ "database": "orders", "object": "table sales.hers" }]));
    let admin = stage.pg.admin("postgres").await?;
    assert!(ended(&admin, "jane").await?);
    assert_eq!(sessions_of(&admin, "jane").await?, 0);
    stage.finish().await
}

#[tokio::test]
async fn a_privilege_that_the_connector_cannot_take_back_is_named() -> Result<()> {
    let mut stage = Stage::start().await?;
    stage.workers(1).await?;
    stage.expect(&grant(INTEGRATION, "1", "jane").database("orders", "read_only"), "succeeded").await?;
    // Given by the table's owner, whose grants nobody else can revoke.
    stage.pg.admin("orders").await?.batch_execute("GRANT INSERT ON hr.salaries TO jane").await?;
    let result = stage.send(&cleanup_principal(INTEGRATION, "jane")).await?;
    assert_eq!(result["reason"]["code"], "objects_owned", "{result:#}");
    assert_eq!(result["blocked"], json!([{ "database": "orders", "object": "INSERT on table hr.salaries, given by \"server_admin\"" }]));
    let admin = stage.pg.admin("postgres").await?;
    assert!(ended(&admin, "jane").await?);
    stage.pg.admin("orders").await?.batch_execute("REVOKE INSERT ON hr.salaries FROM jane").await?;
    let result = stage.send(&cleanup_principal(INTEGRATION, "jane")).await?;
    assert_eq!(result["blocked_total"], 0, "{result:#}");
    let there: bool = admin.query_one("SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = 'jane')", &[]).await?.get(0);
    assert!(!there);
    stage.finish().await
}

#[tokio::test]
async fn what_was_done_by_hand_is_taken_back_or_left_and_reported() -> Result<()> {
    let mut stage = Stage::start().await?;
    stage.workers(1).await?;
    stage.expect(&grant(INTEGRATION, "1", "jane").schema("orders", "sales", "read_only"), "succeeded").await?;
    stage.expect(&grant(INTEGRATION, "2", "kim").schema("orders", "sales", "read_only"), "succeeded").await?;
    let superuser = stage.pg.superuser("postgres").await?;
    let bundle: String = superuser.query_one("SELECT role_name FROM postern.bundle", &[]).await?.get(0);
    superuser.batch_execute(&format!("ALTER ROLE jane NOLOGIN; REVOKE \"{bundle}\" FROM kim GRANTED BY postern_owner")).await.ok();
    if stage.pg.version().major() < 16 {
        superuser.batch_execute(&format!("REVOKE \"{bundle}\" FROM kim")).await?;
    }
    let result = stage.send(&cleanup(INTEGRATION)).await?;
    let drift = result["drift"].to_string();
    ensure!(drift.contains("login_disabled") && drift.contains("membership_removed"), "{result:#}");
    let still: bool = superuser.query_one("SELECT NOT rolcanlogin FROM pg_roles WHERE rolname = 'jane'", &[]).await?.get(0);
    assert!(still, "a clean-up gives nothing back");
    stage.expect(&grant(INTEGRATION, "3", "jane").schema("orders", "sales", "read_only"), "succeeded").await?;
    stage.expect(&grant(INTEGRATION, "4", "kim").schema("orders", "sales", "read_only"), "succeeded").await?;
    explained(&stage).await?;
    stage.finish().await
}
