//! Each SQLSTATE that a conflict with somebody else raises, provoked: the event goes on, and is said once.

use anyhow::{Result, ensure};
use jiff::SignedDuration;
use postern_tests::events::{Event, cleanup_principal, grant, revoke_grant};
use postern_tests::postgres::CONNECTOR;
use postern_tests::stage::{INTEGRATION, Stage};
use serde_json::Value;
use tokio_postgres::Client;

use super::{blocked_connector, retries};
use crate::{ended, explained};

/// A stage with one worker and `jane`, who may read one table.
async fn stage() -> Result<Stage> {
    let mut stage = Stage::start().await?;
    stage.workers(1).await?;
    stage.expect(&lines("first", "jane"), "succeeded").await?;
    Ok(stage)
}

fn lines(id: &str, who: &str) -> Event {
    grant(INTEGRATION, id, who).tables("orders", "sales", &["lines"], "read_only")
}

/// An event that changes jane's role itself.
fn change_of_role(id: &str) -> Event {
    lines(id, "jane").with("credential", serde_json::json!({ "deliver": "none" })).expires_in(SignedDuration::from_hours(1)).revision(2)
}

/// Publishes `event` while `outsider` holds what `hold` locked, and does `then` when the connector waits for it.
async fn beside(stage: &Stage, outsider: &Client, hold: &str, event: &Event, then: &str) -> Result<Value> {
    let superuser = stage.pg.superuser("postgres").await?;
    outsider.batch_execute(&format!("BEGIN; {hold}")).await?;
    stage.publish(event).await?;
    let pid = blocked_connector(&superuser).await?;
    match then {
        "COMMIT" | "ROLLBACK" => outsider.batch_execute(then).await?,
        signal => {
            superuser.execute(&format!("SELECT {signal}({pid})"), &[]).await?;
            outsider.batch_execute("ROLLBACK").await?;
        }
    }
    stage.result_of(event).await
}

fn at_once(result: &Value, outcome: &str) -> Result<()> {
    ensure!(result["outcome"] == outcome && result["attempt"] == 1, "{result:#}");
    Ok(())
}

#[tokio::test]
async fn privileges_of_one_table_changed_at_the_same_time_are_tried_again() -> Result<()> {
    let stage = stage().await?;
    let outsider = stage.pg.admin("orders").await?;
    outsider.batch_execute("CREATE ROLE team").await?;
    let event = grant(INTEGRATION, "2", "kim").tables("orders", "sales", &["invoices"], "read_write");
    at_once(&beside(&stage, &outsider, "GRANT SELECT ON sales.invoices TO team", &event, "COMMIT").await?, "succeeded")?;
    assert!(retries(&stage, "XX000").await? > 0, "tuple concurrently updated");
    let has: bool = outsider.query_one("SELECT has_table_privilege('kim', 'sales.invoices', 'INSERT')", &[]).await?.get(0);
    assert!(has);
    explained(&stage).await?;
    stage.finish().await
}

#[tokio::test]
async fn a_role_of_the_same_name_made_at_the_same_time_is_somebody_elses() -> Result<()> {
    let stage = stage().await?;
    let outsider = stage.pg.admin("postgres").await?;
    let refused = beside(&stage, &outsider, "CREATE ROLE kim", &lines("2", "kim"), "COMMIT").await?;
    at_once(&refused, "rejected")?;
    assert_eq!(refused["reason"]["code"], "role_not_managed");
    assert!(retries(&stage, "23505").await? + retries(&stage, "42710").await? > 0);
    at_once(&beside(&stage, &outsider, "CREATE ROLE lee", &lines("3", "lee"), "ROLLBACK").await?, "succeeded")?;
    explained(&stage).await?;
    stage.finish().await
}

#[tokio::test]
async fn a_role_that_is_dropped_or_changed_in_between_is_looked_at_again() -> Result<()> {
    let stage = stage().await?;
    let outsider = stage.pg.superuser("postgres").await?;
    let changed = beside(&stage, &outsider, "ALTER ROLE jane CONNECTION LIMIT 7", &change_of_role("first"), "COMMIT").await?;
    at_once(&changed, "succeeded")?;
    assert!(retries(&stage, "XX000").await? > 0);
    let dropped =
        beside(&stage, &outsider, "DROP ROLE jane", &lines("2", "jane").expires_in(SignedDuration::from_hours(2)), "COMMIT").await?;
    at_once(&dropped, "succeeded")?;
    ensure!(dropped["drift"].to_string().contains("role_missing"), "{dropped:#}");
    explained(&stage).await?;
    stage.finish().await
}

#[tokio::test]
async fn a_statement_that_is_cancelled_and_a_session_that_is_ended_are_begun_anew() -> Result<()> {
    let stage = stage().await?;
    let outsider = stage.pg.superuser("postgres").await?;
    let hold = "ALTER ROLE jane CONNECTION LIMIT 7";
    at_once(&beside(&stage, &outsider, hold, &change_of_role("first"), "pg_cancel_backend").await?, "succeeded")?;
    assert_eq!(retries(&stage, "57014").await?, 1);
    let again = change_of_role("first").revision(3).expires_in(SignedDuration::from_hours(2));
    at_once(&beside(&stage, &outsider, hold, &again, "pg_terminate_backend").await?, "succeeded")?;
    assert_eq!(retries(&stage, "57P01").await?, 1);
    let (_, metrics) = stage.workers[0].get("/metrics").await?;
    ensure!(metrics.contains("postern_waiting_total{line=\"retry\"} 0"), "nothing went through the queues:\n{metrics}");
    explained(&stage).await?;
    stage.finish().await
}

#[tokio::test]
async fn a_deadlock_with_somebody_else_is_begun_anew() -> Result<()> {
    let stage = stage().await?;
    let superuser = stage.pg.superuser("postgres").await?;
    let outsider = stage.pg.superuser("postgres").await?;
    // The opposite of the worker's order.
    outsider.batch_execute("BEGIN; SET LOCAL deadlock_timeout = '1h'; ALTER ROLE jane CONNECTION LIMIT 7").await?;
    let event = change_of_role("first");
    stage.publish(&event).await?;
    blocked_connector(&superuser).await?;
    outsider.batch_execute("SELECT FROM postern.account WHERE principal = 'jane' FOR UPDATE; COMMIT").await?;
    at_once(&stage.result_of(&event).await?, "succeeded")?;
    assert!(retries(&stage, "40P01").await? > 0);
    explained(&stage).await?;
    stage.finish().await
}

#[tokio::test]
async fn a_lock_that_is_held_for_long_goes_through_the_queue_and_a_revoke_takes_what_it_can() -> Result<()> {
    let stage = stage().await?;
    let outsider = stage.pg.superuser("postgres").await?;
    outsider.batch_execute("BEGIN; ALTER ROLE jane CONNECTION LIMIT 7").await?;
    let revoke = revoke_grant(INTEGRATION, "first");
    stage.publish(&revoke).await?;
    let looking = stage.pg.superuser("postgres").await?;
    let waits = async || -> Result<u64> {
        let (_, text) = stage.workers[0].get("/metrics").await?;
        let line = text.lines().find_map(|line| line.strip_prefix("postern_waiting_total{line=\"retry\"} "));
        Ok(line.unwrap_or("0").parse()?)
    };
    let deadline = std::time::Instant::now() + 2 * postern_tests::audit::TIMEOUT;
    while waits().await? == 0 {
        ensure!(std::time::Instant::now() < deadline, "{}", stage.worker_logs());
        tokio::time::sleep(postern_tests::process::POLL).await;
    }
    assert!(retries(&stage, "55P03").await? > 0);
    let memberships: i64 = looking
        .query_one("SELECT count(*) FROM pg_auth_members m JOIN pg_roles r ON r.oid = m.member WHERE r.rolname = 'jane'", &[])
        .await?
        .get(0);
    assert_eq!(memberships, 0, "access is taken away while the role's row is held");
    assert_eq!(stage.audit.all_for(revoke.id()).len(), 0, "no result yet");
    outsider.batch_execute("ROLLBACK").await?;
    let result = stage.result_of(&revoke).await?;
    assert_eq!(result["outcome"], "succeeded", "{result:#}");
    assert!(ended(&looking, "jane").await?);
    explained(&stage).await?;
    stage.finish().await
}

#[tokio::test]
async fn a_table_that_is_dropped_under_a_grant_stops_nothing() -> Result<()> {
    let stage = stage().await?;
    let admin = stage.pg.admin("orders").await?;
    admin.batch_execute("CREATE TABLE sales.passing (id int)").await?;
    let event = grant(INTEGRATION, "2", "kim").schema("orders", "sales", "read_only");
    // The transaction holds the table's row, which the GRANT has to change.
    at_once(&beside(&stage, &admin, "DROP TABLE sales.passing", &event, "COMMIT").await?, "succeeded")?;
    let has: bool = admin.query_one("SELECT has_table_privilege('kim', 'sales.invoices', 'SELECT')", &[]).await?.get(0);
    assert!(has);
    stage.finish().await
}

#[tokio::test]
async fn what_is_given_to_a_role_that_is_being_dropped_goes_too() -> Result<()> {
    let stage = stage().await?;
    let connector = stage.pg.connector("orders").await?;
    let hold = "GRANT SELECT ON hr.salaries TO jane";
    let result = beside(&stage, &connector, hold, &cleanup_principal(INTEGRATION, "jane"), "COMMIT").await?;
    ensure!(result["blocked_total"] == 0 && result["outcome"] == "succeeded", "{result:#}");
    let there: bool = connector.query_one("SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = 'jane')", &[]).await?.get(0);
    ensure!(!there, "{CONNECTOR} dropped the role: {result:#}");
    stage.finish().await
}

#[tokio::test]
async fn a_grant_option_that_goes_in_between_is_no_success() -> Result<()> {
    let stage = stage().await?;
    let admin = stage.pg.admin("orders").await?;
    let role = stage.pg.version().platform().admin_role();
    // Some privilege stays, so that the GRANT is a warning and no error.
    let hold = format!("REVOKE GRANT OPTION FOR INSERT, UPDATE, DELETE ON sales.invoices FROM {role} CASCADE");
    let event = grant(INTEGRATION, "2", "kim").tables("orders", "sales", &["invoices"], "read_write");
    let result = beside(&stage, &admin, &hold, &event, "COMMIT").await?;
    at_once(&result, "rejected")?;
    assert_eq!(result["reason"]["code"], "permission_missing", "{result:#}");
    stage.finish().await
}
