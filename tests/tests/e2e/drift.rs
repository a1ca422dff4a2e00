//! What people change by hand: found, taken away where the ledger does not explain it, never given back.

mod restored;

use anyhow::{Context, Result, ensure};
use postern_tests::events::{Event, cleanup, grant, revoke_grant, revoke_principal};
use postern_tests::stage::{INTEGRATION, Stage};
use serde_json::Value;
use tokio_postgres::Client;

use crate::{allowed, denied, ended, explained, sessions_of};

fn reads(stage: &Stage, id: &str, who: &str) -> Event {
    grant(INTEGRATION, id, who).schema("orders", "sales", "read_only").age(&stage.identity.recipient())
}

/// `kind target` of each difference.
fn differences(result: &Value) -> Vec<String> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let drift = result["drift"].as_array().cloned().unwrap_or_default();
    drift.iter().map(|one| format!("{} {}", text(&one["kind"]), text(&one["target"]))).collect()
}

fn reports(result: &Value, expected: &[&str]) -> Result<()> {
    let met = differences(result);
    for one in expected {
        ensure!(met.iter().any(|met| met == one), "expected `{one}` in {result:#}");
    }
    Ok(())
}

/// A second clean-up finds nothing: the first has repaired everything.
async fn settled(stage: &Stage) -> Result<()> {
    let result = stage.send(&cleanup(INTEGRATION)).await?;
    ensure!(result["drift_total"] == 0 && differences(&result).is_empty(), "not repaired: {result:#}");
    Ok(())
}

async fn bundle(superuser: &Client) -> Result<String> {
    let sql = "SELECT r.rolname::text FROM postern.bundle b JOIN pg_roles r ON r.oid = b.role_oid WHERE b.state = 'ready' ORDER BY b.id DESC LIMIT 1";
    Ok(superuser.query_one(sql, &[]).await?.get(0))
}

/// From 16 on only who has the grantor's rights takes a membership back: what a superuser gave is named, not taken.
fn by_owner(stage: &Stage) -> &'static str {
    if stage.pg.version().major() >= 16 { " GRANTED BY postern_owner" } else { "" }
}

/// What the warnings of a result tell a superuser to run, done.
async fn follow(superuser: &Client, result: &Value, statement: &str) -> Result<()> {
    ensure!(result["warnings"].to_string().replace("\\\"", "\"").contains(statement), "expected `{statement}` in {result:#}");
    Ok(superuser.batch_execute(statement).await?)
}

async fn flag(client: &Client, sql: &str) -> Result<bool> {
    Ok(client.query_one(sql, &[]).await.with_context(|| sql.to_owned())?.get(0))
}

#[tokio::test]
async fn what_was_added_to_people_is_taken_away_and_what_was_taken_stays_away() -> Result<()> {
    let mut stage = Stage::start().await?;
    stage.workers(1).await?;
    let superuser = stage.pg.superuser("orders").await?;
    let maintenance = stage.pg.superuser("postgres").await?;
    for who in ["gone", "more", "less", "late"] {
        stage.expect(&reads(&stage, who, who), "succeeded").await?;
    }
    let late = reads(&stage, "late", "late").revision(2).expires_in(jiff::SignedDuration::from_hours(1));
    stage.expect(&late, "succeeded").await?;
    stage.expect(&revoke_grant(INTEGRATION, "gone"), "succeeded").await?;
    settled(&stage).await?;

    let bundle = bundle(&maintenance).await?;
    let by = by_owner(&stage);
    superuser
        .batch_execute(&format!(
            "ALTER ROLE gone LOGIN PASSWORD 'by-hand' VALID UNTIL 'infinity'; GRANT \"{bundle}\" TO gone{by};
             ALTER ROLE more CREATEROLE; GRANT pg_monitor TO more; CREATE ROLE friend; GRANT more TO friend{by};
             REVOKE \"{bundle}\" FROM less{by};
             ALTER ROLE late VALID UNTIL 'infinity'"
        ))
        .await?;
    let session = stage.pg.login("gone", "by-hand", "orders").await?;
    allowed(&session, "SELECT * FROM sales.invoices").await?;
    let result = stage.expect(&cleanup(INTEGRATION), "succeeded").await?;
    let removed = format!("membership_removed {bundle}");
    let added = format!("membership_added {bundle}");
    reports(
        &result,
        &[
            "login_enabled gone",
            &added,
            "attribute_added more: CREATEROLE",
            "membership_added pg_monitor",
            "member_added friend in more",
            &removed,
            "valid_until_changed late",
        ],
    )?;
    if stage.pg.version().major() >= 16 {
        follow(&maintenance, &result, "REVOKE \"pg_monitor\" FROM \"more\" GRANTED BY \"postgres\"").await?;
    }
    assert!(flag(&superuser, "SELECT NOT pg_has_role('more', 'pg_monitor', 'MEMBER')").await?);
    assert!(ended(&superuser, "gone").await?);
    assert_eq!(sessions_of(&superuser, "gone").await?, 0);
    assert!(flag(&superuser, "SELECT NOT rolcreaterole AND rolcanlogin FROM pg_roles WHERE rolname = 'more'").await?);
    assert!(flag(&superuser, "SELECT NOT pg_has_role('friend', 'more', 'MEMBER')").await?);
    assert!(flag(&superuser, "SELECT rolvaliduntil < now() + interval '2 hours' FROM pg_roles WHERE rolname = 'late'").await?);
    let less = "SELECT has_table_privilege('less', 'sales.invoices', 'SELECT')";
    assert!(!flag(&superuser, less).await?, "what somebody took away stays away");
    // Neither another clean-up nor somebody else's grant gives it back; the person's own does.
    let again = stage.send(&cleanup(INTEGRATION)).await?;
    assert_eq!(differences(&again), [removed]);
    stage.expect(&reads(&stage, "other", "other"), "succeeded").await?;
    assert!(!flag(&superuser, less).await?);
    stage.expect(&reads(&stage, "less again", "less"), "succeeded").await?;
    assert!(flag(&superuser, less).await?);
    settled(&stage).await?;
    explained(&stage).await?;
    stage.finish().await
}

#[tokio::test]
async fn what_only_a_superuser_can_undo_is_named_and_holds_nothing_else_up() -> Result<()> {
    let mut stage = Stage::start().await?;
    stage.workers(1).await?;
    let superuser = stage.pg.superuser("postgres").await?;
    stage.expect(&reads(&stage, "1", "jane"), "succeeded").await?;
    stage.expect(&reads(&stage, "2", "kim"), "succeeded").await?;
    superuser.batch_execute("ALTER ROLE jane SUPERUSER; ALTER ROLE kim BYPASSRLS").await?;
    let result = stage.expect(&revoke_principal(INTEGRATION, "jane"), "succeeded").await?;
    reports(&result, &["attribute_added jane: SUPERUSER"])?;
    assert_eq!(result["reason"]["code"], "permission_missing", "the login is still open, and the result says so: {result:#}");
    assert!(flag(&superuser, "SELECT NOT EXISTS (SELECT FROM pg_auth_members WHERE member = 'jane'::regrole)").await?);
    let result = stage.expect(&revoke_principal(INTEGRATION, "kim"), "succeeded").await?;
    ensure!(result["warnings"].to_string().contains("NOBYPASSRLS"), "{result:#}");
    assert!(ended(&superuser, "kim").await?);

    let result = stage.send(&cleanup(INTEGRATION)).await?;
    reports(&result, &["attribute_added jane: SUPERUSER", "attribute_added kim: BYPASSRLS"])?;
    superuser.batch_execute("ALTER ROLE jane NOSUPERUSER; ALTER ROLE kim NOBYPASSRLS").await?;
    stage.expect(&cleanup(INTEGRATION), "succeeded").await?;
    assert!(ended(&superuser, "jane").await?);
    settled(&stage).await?;
    stage.finish().await
}

#[tokio::test]
async fn a_bundle_is_made_exact_again_whatever_was_done_to_it() -> Result<()> {
    let mut stage = Stage::start().await?;
    stage.workers(1).await?;
    let superuser = stage.pg.superuser("orders").await?;
    let maintenance = stage.pg.superuser("postgres").await?;
    let admin = stage.pg.admin("orders").await?;
    let result = stage.expect(&reads(&stage, "1", "jane"), "succeeded").await?;
    let jane = stage.login_as(&result).await?;
    let name = bundle(&maintenance).await?;
    admin.batch_execute(&format!("GRANT UPDATE ON sales.invoices TO \"{name}\"")).await?;
    let by_admin =
        format!("SET ROLE {}; REVOKE SELECT ON sales.lines FROM \"{name}\"; RESET ROLE", stage.pg.version().platform().admin_role());
    superuser.batch_execute(&by_admin).await?;
    let by = by_owner(&stage);
    superuser
        .batch_execute(&format!(
            "ALTER ROLE \"{name}\" RENAME TO \"my bundle\"; ALTER ROLE \"my bundle\" LOGIN CREATEROLE PASSWORD 'by-hand';
             CREATE ROLE friend; GRANT \"my bundle\" TO friend{by}; GRANT pg_monitor TO \"my bundle\""
        ))
        .await?;
    let through = stage.pg.login("my bundle", "by-hand", "orders").await?;
    denied(&jane, "SELECT * FROM sales.lines").await?;
    let result = stage.expect(&cleanup(INTEGRATION), "succeeded").await?;
    let renamed = format!("bundle_renamed {name} is now my bundle");
    reports(
        &result,
        &[
            &renamed,
            "login_enabled my bundle",
            "attribute_added my bundle: CREATEROLE",
            "member_added friend in my bundle",
            "member_added my bundle in pg_monitor",
        ],
    )?;
    ensure!(differences(&result).iter().any(|one| one.contains("UPDATE ON TABLE sales.invoices")), "{result:#}");
    if stage.pg.version().major() >= 16 {
        follow(&maintenance, &result, "REVOKE \"pg_monitor\" FROM \"my bundle\" GRANTED BY \"postgres\"").await?;
    }
    assert!(through.batch_execute("SELECT 1").await.is_err(), "its sessions are ended");
    assert!(flag(&superuser, "SELECT NOT rolcanlogin AND NOT rolcreaterole FROM pg_roles WHERE rolname = 'my bundle'").await?);
    assert!(
        flag(
            &superuser,
            "SELECT NOT pg_has_role('friend', 'my bundle', 'MEMBER') AND NOT pg_has_role('my bundle', 'pg_monitor', 'MEMBER')"
        )
        .await?
    );
    allowed(&jane, "SELECT * FROM sales.lines; SELECT * FROM sales.invoices").await?;
    // What an admin gave past us only that admin can take back; it is said each time.
    admin.batch_execute("REVOKE UPDATE ON sales.invoices FROM \"my bundle\"").await?;
    denied(&jane, "UPDATE sales.invoices SET total = 0").await?;
    settled(&stage).await?;
    stage.expect(&reads(&stage, "2", "kim"), "succeeded").await?;
    stage.expect(&revoke_grant(INTEGRATION, "1"), "succeeded").await?;
    stage.expect(&revoke_grant(INTEGRATION, "2"), "succeeded").await?;
    let result = stage.expect(&cleanup(INTEGRATION), "succeeded").await?;
    assert_eq!(result["blocked_total"], 0, "{result:#}");
    assert!(!flag(&superuser, "SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = 'my bundle')").await?);
    explained(&stage).await?;
    stage.finish().await
}

#[tokio::test]
async fn what_is_gone_already_ends_well() -> Result<()> {
    let mut stage = Stage::start().await?;
    for database in ["billing", "stock"] {
        stage.pg.create_database(database, "CREATE SCHEMA s; CREATE TABLE s.t (id int); INSERT INTO s.t VALUES (1)").await?;
    }
    stage.workers(1).await?;
    let recipient = stage.identity.recipient();
    let superuser = stage.pg.superuser("postgres").await?;
    let in_billing = grant(INTEGRATION, "billing", "jane").schema("billing", "s", "read_only").age(&recipient);
    stage.expect(&in_billing, "succeeded").await?;
    let tables = |id: &str, who: &str| grant(INTEGRATION, id, who).tables("stock", "s", &["t"], "read_only").age(&recipient);
    let result = stage.expect(&tables("stock", "kim"), "succeeded").await?;
    let kim = stage.login_as(&result).await?;
    stage.expect(&grant(INTEGRATION, "all of it", "lee").schema("stock", "s", "read_only").age(&recipient), "succeeded").await?;

    // A database is dropped, and another one gets its name: it is not what was granted.
    drop(stage.pg.superuser("billing").await);
    superuser.batch_execute("DROP DATABASE billing WITH (FORCE)").await?;
    let missing = stage.expect(&grant(INTEGRATION, "late", "max").schema("billing", "s", "read_only"), "rejected").await?;
    assert_eq!(missing["reason"]["code"], "not_found", "{missing:#}");
    stage.pg.create_database("billing", "CREATE SCHEMA s; CREATE TABLE s.t (id int)").await?;
    assert!(!flag(&stage.pg.superuser("billing").await?, "SELECT has_table_privilege('jane', 's.t', 'SELECT')").await?);
    stage.expect(&in_billing.clone().with_id("again"), "unchanged").await?;
    assert!(!flag(&stage.pg.superuser("billing").await?, "SELECT has_table_privilege('jane', 's.t', 'SELECT')").await?);
    stage.expect(&grant(INTEGRATION, "billing 2", "jane").schema("billing", "s", "read_only"), "succeeded").await?;
    assert!(flag(&stage.pg.superuser("billing").await?, "SELECT has_table_privilege('jane', 's.t', 'SELECT')").await?);

    // A table is renamed: what was granted is the name. Another one of that name is made, and a schema renamed.
    let stock = stage.pg.admin("stock").await?;
    stock.batch_execute("ALTER TABLE s.t RENAME TO secret").await?;
    let result = stage.send(&cleanup(INTEGRATION)).await?;
    ensure!(differences(&result).iter().any(|one| one.contains("SELECT ON TABLE s.secret")), "{result:#}");
    denied(&kim, "SELECT * FROM s.secret").await?;
    stock.batch_execute("CREATE TABLE s.t (id int)").await?;
    settled(&stage).await?;
    allowed(&kim, "SELECT * FROM s.t").await?;
    stock.batch_execute("ALTER SCHEMA s RENAME TO hidden").await?;
    stage.send(&cleanup(INTEGRATION)).await?;
    let lee = stage.pg.superuser("stock").await?;
    assert!(
        !flag(&lee, "SELECT has_schema_privilege('lee', 'hidden', 'USAGE') OR has_table_privilege('lee', 'hidden.t', 'SELECT')").await?
    );
    let missing = stage.expect(&tables("stock 2", "max"), "rejected").await?;
    assert_eq!(missing["reason"]["code"], "not_found", "{missing:#}");
    superuser.batch_execute("DROP DATABASE stock WITH (FORCE)").await?;

    // A role is dropped with its session open, and a foreign one gets its name.
    let result = stage.expect(&reads(&stage, "nora", "nora"), "succeeded").await?;
    let nora = stage.login_as(&result).await?;
    superuser.batch_execute("DROP ROLE nora; CREATE ROLE nora LOGIN PASSWORD 'hers'").await?;
    let hers = stage.pg.login("nora", "hers", "postgres").await?;
    let result = stage.expect(&revoke_grant(INTEGRATION, "nora"), "succeeded").await?;
    reports(&result, &["role_missing nora"])?;
    assert!(nora.batch_execute("SELECT 1").await.is_err(), "the session of a dropped role is ended");
    allowed(&hers, "SELECT 1").await?;

    for id in ["billing", "billing 2", "stock", "all of it"] {
        stage.expect(&revoke_grant(INTEGRATION, id), "succeeded").await?;
    }
    let result = stage.expect(&cleanup(INTEGRATION), "succeeded").await?;
    assert_eq!(result["blocked_total"], 0, "{result:#}");
    assert!(!flag(&superuser, "SELECT EXISTS (SELECT FROM pg_roles WHERE rolname LIKE 'postern:%')").await?);
    explained(&stage).await?;
    stage.finish().await
}

#[tokio::test]
async fn whoever_was_made_a_member_of_a_person_or_a_bundle_loses_the_session_too() -> Result<()> {
    let mut stage = Stage::start().await?;
    stage.workers(1).await?;
    let superuser = stage.pg.superuser("postgres").await?;
    superuser.batch_execute("CREATE ROLE app LOGIN PASSWORD 'app'; CREATE ROLE job LOGIN PASSWORD 'job'").await?;
    let jane = stage.login_as(&stage.expect(&reads(&stage, "AR-1", "jane"), "succeeded").await?).await?;
    stage.expect(&reads(&stage, "AR-2", "kim"), "succeeded").await?;
    let bundle = bundle(&superuser).await?;
    // Up to 14 people can hand their own role on.
    if stage.pg.version().major() == 14 {
        jane.batch_execute("GRANT jane TO app").await?;
    } else {
        superuser.batch_execute("GRANT jane TO app").await?;
    }
    superuser.batch_execute(&format!("GRANT \"{bundle}\" TO job")).await?;
    let app = stage.pg.login("app", "app", "orders").await?;
    allowed(&app, "SET ROLE jane; SELECT * FROM sales.invoices").await?;
    let job = stage.pg.login("job", "job", "orders").await?;
    allowed(&job, &format!("SET ROLE \"{bundle}\"; SELECT * FROM sales.invoices")).await?;

    let result = stage.expect(&revoke_grant(INTEGRATION, "AR-1"), "succeeded").await?;
    reports(&result, &["member_added app in jane"])?;
    ensure!(app.batch_execute("SELECT 1").await.is_err(), "a session as jane outlives her access: {result:#}");
    let result = stage.send(&cleanup(INTEGRATION)).await?;
    reports(&result, &[&format!("member_added job in {bundle}")])?;
    if stage.pg.version().major() < 16 {
        ensure!(job.batch_execute("SELECT 1").await.is_err(), "a session in the bundle goes on: {result:#}");
        ensure!(stage.pg.login("app", "app", "orders").await?.batch_execute("SET ROLE jane").await.is_err());
    } else {
        // What a superuser gave only a superuser can take.
        ensure!(result["warnings"].to_string().contains("job"), "{result:#}");
    }
    stage.finish().await
}
