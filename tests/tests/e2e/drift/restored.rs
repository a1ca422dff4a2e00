//! The ledger was restored from a backup, lost a row or was dropped: who got access since does not keep it.

use anyhow::{Context, Result, ensure};
use postern_tests::events::{cleanup, grant, revoke_grant, revoke_principal};
use postern_tests::stage::{INTEGRATION, Stage};
use serde_json::Value;
use tokio_postgres::Client;

use super::{bundle, differences, flag, reads, reports, settled};
use crate::{allowed, ended, explained, sessions_of};

async fn tables(superuser: &Client) -> Result<Vec<String>> {
    let sql = "SELECT c.relname::text FROM pg_class c WHERE c.relnamespace = 'postern'::regnamespace AND c.relkind = 'r' \
               ORDER BY c.relname = 'access_grant', 1";
    Ok(superuser.query(sql, &[]).await?.iter().map(|row| row.get(0)).collect())
}

/// Keeps every row and the sequence, as a dump of the schema does.
async fn back_up(superuser: &Client) -> Result<()> {
    superuser.batch_execute("CREATE SCHEMA yesterday").await?;
    for table in tables(superuser).await? {
        superuser.batch_execute(&format!("CREATE TABLE yesterday.{table} AS TABLE postern.{table}")).await?;
    }
    let sequence = "CREATE TABLE yesterday.at AS SELECT last_value, is_called FROM postern.bundle_id_seq";
    Ok(superuser.batch_execute(sequence).await?)
}

async fn restore(superuser: &Client) -> Result<()> {
    let tables = tables(superuser).await?;
    superuser.batch_execute(&format!("TRUNCATE postern.{}", tables.join(", postern."))).await?;
    for table in tables {
        let sql = format!("INSERT INTO postern.{table} OVERRIDING SYSTEM VALUE TABLE yesterday.{table}");
        superuser.batch_execute(&sql).await.context(sql)?;
    }
    Ok(superuser.batch_execute("SELECT setval('postern.bundle_id_seq', last_value, is_called) FROM yesterday.at").await?)
}

#[tokio::test]
async fn whoever_got_access_since_the_backup_loses_it_and_a_grant_takes_the_account_up_again() -> Result<()> {
    let mut stage = Stage::start().await?;
    stage.workers(1).await?;
    let recipient = stage.identity.recipient();
    let superuser = stage.pg.superuser("postgres").await?;
    stage.expect(&reads(&stage, "jane", "jane"), "succeeded").await?;
    stage.expect(&reads(&stage, "kim", "kim"), "succeeded").await?;
    back_up(&superuser).await?;

    let hr = |id: &str, who: &str| grant(INTEGRATION, id, who).schema("orders", "hr", "read_only").age(&recipient);
    let lee = stage.login_as(&stage.expect(&hr("lee", "lee"), "succeeded").await?).await?;
    let of_today = bundle(&superuser).await?;
    let max = stage.login_as(&stage.expect(&hr("max", "max"), "succeeded").await?).await?;
    stage.expect(&hr("kim too", "kim"), "succeeded").await?;
    stage.expect(&revoke_principal(INTEGRATION, "jane"), "succeeded").await?;
    allowed(&lee, "SELECT * FROM hr.salaries").await?;
    restore(&superuser).await?;

    // A grant before any clean-up takes the account up, under a new bundle whose number was given before.
    let result = stage.expect(&hr("max again", "max"), "succeeded").await?;
    reports(&result, &["account_unknown max"])?;
    ensure!(differences(&result).contains(&format!("membership_added {of_today}")), "{result:#}");
    assert_eq!(result["credential"]["status"], "delivered", "nobody knows which password it has");
    assert!(max.batch_execute("SELECT 1").await.is_err(), "what the ledger does not explain ends with its sessions");
    allowed(&stage.login_as(&result).await?, "SELECT * FROM hr.salaries").await?;

    let result = stage.expect(&cleanup(INTEGRATION), "succeeded").await?;
    let unknown = format!("bundle_unknown {of_today}");
    let added = format!("membership_added {of_today}");
    reports(&result, &["account_unknown lee", &unknown, &added, "login_disabled jane"])?;
    ensure!(result["warnings"].to_string().contains("restored from a backup"), "{result:#}");
    assert!(ended(&superuser, "lee").await?);
    assert_eq!(sessions_of(&superuser, "lee").await?, 0);
    // Revoked today, active in yesterday's ledger: nothing is given back.
    assert!(ended(&superuser, "jane").await?);
    let orders = stage.pg.superuser("orders").await?;
    assert!(!flag(&orders, "SELECT has_table_privilege('kim', 'hr.salaries', 'SELECT')").await?);
    assert!(flag(&orders, "SELECT has_table_privilege('kim', 'sales.invoices', 'SELECT')").await?);
    assert!(!flag(&superuser, &format!("SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = '{of_today}')")).await?);

    let result = stage.expect(&hr("lee again", "lee"), "succeeded").await?;
    allowed(&stage.login_as(&result).await?, "SELECT * FROM hr.salaries").await?;
    stage.expect(&revoke_grant(INTEGRATION, "jane"), "succeeded").await?;
    settled(&stage).await?;
    explained(&stage).await?;
    stage.finish().await
}

#[tokio::test]
async fn a_comment_that_somebody_wrote_makes_no_role_ours() -> Result<()> {
    let mut stage = Stage::start().await?;
    stage.workers(1).await?;
    let superuser = stage.pg.superuser("postgres").await?;
    stage.expect(&reads(&stage, "jane", "jane"), "succeeded").await?;
    let comment: String = superuser.query_one("SELECT shobj_description('jane'::regrole, 'pg_authid')", &[]).await?.get(0);
    superuser
        .batch_execute(
            "DROP ROLE jane; CREATE ROLE jane LOGIN PASSWORD 'hers'; CREATE ROLE eve LOGIN PASSWORD 'hers'; GRANT pg_monitor TO eve, jane",
        )
        .await?;
    for (role, forged) in [("jane", comment.clone()), ("eve", comment.replace("jane", "eve"))] {
        superuser.batch_execute(&format!("COMMENT ON ROLE {role} IS '{forged}'")).await?;
    }
    for who in ["jane", "eve"] {
        let refused = stage.expect(&reads(&stage, &format!("{who} again"), who), "rejected").await?;
        assert_eq!(refused["reason"]["code"], "role_not_managed", "{refused:#}");
    }
    stage.expect(&revoke_principal(INTEGRATION, "eve"), "unchanged").await?;
    let result = stage.send(&cleanup(INTEGRATION)).await?;
    ensure!(!differences(&result).iter().any(|one| one.contains("unknown")), "{result:#}");
    for who in ["jane", "eve"] {
        let session = stage.pg.login(who, "hers", "postgres").await?;
        assert!(flag(&session, "SELECT pg_has_role('pg_monitor', 'MEMBER')").await?);
    }
    stage.finish().await
}

/// The items of `postern check`.
async fn check(stage: &Stage) -> Result<Vec<Value>> {
    let output = stage.cli(&["check", INTEGRATION, "--json"]).await?;
    Ok(serde_json::from_slice(&output.stdout)?)
}

#[tokio::test]
async fn roles_of_a_ledger_that_was_dropped_are_not_touched_and_everybody_is_told() -> Result<()> {
    let mut stage = Stage::start().await?;
    stage.workers(1).await?;
    let superuser = stage.pg.superuser("postgres").await?;
    let result = stage.expect(&reads(&stage, "jane", "jane"), "succeeded").await?;
    let jane = stage.login_as(&result).await?;
    let old: String = superuser.query_one("SELECT ledger_id::text FROM postern.fact", &[]).await?.get(0);
    superuser.batch_execute("DROP SCHEMA postern CASCADE").await?;
    let before_any_event = check(&stage).await?;
    let refused = stage.expect(&reads(&stage, "again", "jane"), "rejected").await?;
    assert_eq!(refused["reason"]["code"], "role_not_managed");
    ensure!(refused["reason"]["message"].to_string().contains(&old), "{refused:#}");
    let result = stage.send(&cleanup(INTEGRATION)).await?;
    ensure!(result["warnings"].to_string().contains(&old), "{result:#}");
    for items in [before_any_event, check(&stage).await?] {
        let item = items.iter().find(|item| item["item"] == "other ledgers").context("no item")?;
        ensure!(item["status"] == "warn" && item["message"].to_string().contains(&old), "{item:#}");
        ensure!(item["mend"].to_string().contains("pg_restore"), "{item:#}");
    }
    allowed(&jane, "SELECT * FROM sales.invoices").await?;
    stage.expect(&reads(&stage, "kim", "kim"), "succeeded").await?;
    stage.finish().await
}

#[tokio::test]
async fn a_lost_row_of_facts_is_put_back_by_what_check_prints() -> Result<()> {
    let mut stage = Stage::start().await?;
    stage.workers(1).await?;
    let superuser = stage.pg.superuser("postgres").await?;
    stage.expect(&reads(&stage, "jane", "jane"), "succeeded").await?;
    superuser.batch_execute("DELETE FROM postern.fact").await?;
    let items = check(&stage).await?;
    let item = items.iter().find(|item| item["item"] == "ledger").context("no item")?;
    assert_eq!(item["status"], "fail", "{item:#}");
    let revoke = revoke_grant(INTEGRATION, "jane");
    stage.publish(&revoke).await?;
    let mend: Vec<&str> = item["mend"].as_array().context("no list")?.iter().filter_map(Value::as_str).collect();
    superuser.batch_execute(&mend.join("\n")).await?;
    assert_eq!(stage.result_of(&revoke).await?["outcome"], "succeeded");
    assert!(ended(&superuser, "jane").await?);
    stage.expect(&reads(&stage, "again", "jane"), "succeeded").await?;
    stage.finish().await
}

#[tokio::test]
async fn a_forgotten_role_whose_person_has_another_account_is_closed() -> Result<()> {
    let mut stage = Stage::start().await?;
    stage.workers(1).await?;
    let superuser = stage.pg.superuser("postgres").await?;
    // The first event makes the ledger.
    stage.expect(&revoke_grant(INTEGRATION, "AR-0"), "succeeded").await?;
    back_up(&superuser).await?;
    let old = stage.login_as(&stage.expect(&reads(&stage, "AR-1", "jane"), "succeeded").await?).await?;
    restore(&superuser).await?;
    superuser.batch_execute("ALTER ROLE jane RENAME TO jane_old").await?;
    stage.expect(&reads(&stage, "AR-2", "jane"), "succeeded").await?;

    let result = stage.send(&cleanup(INTEGRATION)).await?;
    ensure!(result["warnings"].to_string().contains("jane_old"), "{result:#}");
    ensure!(old.batch_execute("SELECT 1").await.is_err(), "the session goes on: {result:#}");
    assert!(ended(&superuser, "jane_old").await?, "{result:#}");
    stage.finish().await
}
