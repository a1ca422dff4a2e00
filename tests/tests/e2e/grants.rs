//! What a grant gives, and nothing else.

use anyhow::Result;
use jiff::SignedDuration;
use postern_tests::events::{cleanup, cleanup_principal, grant, revoke_grant, revoke_principal, rotate_principal};
use postern_tests::stage::{INTEGRATION, Stage};
use serde_json::json;

use crate::{allowed, denied};

#[tokio::test]
async fn a_person_reads_what_was_granted_and_nothing_else() -> Result<()> {
    let mut stage = Stage::start().await?;
    stage.workers(1).await?;
    let asked = grant(INTEGRATION, "AR-1/1", "Jane.Doe@example.com")
        .tables("orders", "sales", &["invoices"], "read_only")
        .age(&stage.identity.recipient())
        .expires_in(SignedDuration::from_hours(1));
    let result = stage.expect(&asked, "succeeded").await?;
    assert_eq!(result["role"], "jane.doe@example.com");
    assert_eq!(result["access"]["databases"], json!(["orders"]));
    assert_eq!(result["credential"]["status"], "delivered");
    assert_eq!(result["credential"]["generation"], 1);
    let jane = stage.login_as(&result).await?;
    allowed(&jane, "SELECT * FROM sales.invoices").await?;
    denied(&jane, "SELECT * FROM sales.lines").await?;
    denied(&jane, "SELECT * FROM hr.salaries").await?;
    denied(&jane, "INSERT INTO sales.invoices DEFAULT VALUES").await?;
    denied(&jane, "CREATE TABLE sales.mine ()").await?;
    stage.finish().await
}

#[tokio::test]
async fn each_level_gives_what_the_contract_says_on_each_scope() -> Result<()> {
    let mut stage = Stage::start().await?;
    stage.workers(1).await?;
    let recipient = stage.identity.recipient();

    let reader = grant(INTEGRATION, "db-ro", "reader").database("orders", "read_only").age(&recipient);
    let client = stage.login_as(&stage.expect(&reader, "succeeded").await?).await?;
    for sql in
        ["SELECT * FROM sales.invoices", "SELECT * FROM hr.salaries", "SELECT * FROM sales.big_invoices", "SELECT * FROM sales.totals"]
    {
        allowed(&client, sql).await?;
    }
    allowed(&client, "SELECT last_value FROM sales.tickets").await?;
    for sql in ["SELECT nextval('sales.tickets')", "SELECT sales.invoice_total(1)", "DELETE FROM sales.lines", "CREATE TEMP TABLE t ()"] {
        // PUBLIC has TEMPORARY on a new database, and what PUBLIC has nobody lacks.
        if !sql.contains("TEMP") {
            denied(&client, sql).await?;
        }
    }
    denied(&client, "CREATE SCHEMA mine").await?;

    let writer = grant(INTEGRATION, "schema-rw", "writer").schema("orders", "sales", "read_write").age(&recipient);
    let client = stage.login_as(&stage.expect(&writer, "succeeded").await?).await?;
    for sql in [
        "INSERT INTO sales.invoices (customer) VALUES ('Alan')",
        "UPDATE sales.invoices SET total = 1 WHERE customer = 'Alan'",
        "DELETE FROM sales.invoices WHERE customer = 'Alan'",
        "INSERT INTO sales.shipments VALUES (9, '2026-02-02')",
        "SELECT nextval('sales.tickets')",
        "SELECT sales.invoice_total(1)",
        "CALL sales.clear_totals()",
    ] {
        allowed(&client, sql).await?;
    }
    for sql in ["SELECT * FROM hr.salaries", "TRUNCATE sales.lines", "CREATE TABLE sales.mine ()"] {
        denied(&client, sql).await?;
    }

    let admin = grant(INTEGRATION, "schema-admin", "chief").schema("orders", "sales", "admin").age(&recipient);
    let client = stage.login_as(&stage.expect(&admin, "succeeded").await?).await?;
    for sql in ["TRUNCATE sales.lines", "CREATE TABLE sales.mine (id int REFERENCES sales.invoices)", "DROP TABLE sales.mine"] {
        allowed(&client, sql).await?;
    }
    if stage.pg.version().major() >= 17 {
        allowed(&client, "ANALYZE sales.lines; REFRESH MATERIALIZED VIEW sales.totals").await?;
    }
    denied(&client, "CREATE SCHEMA mine").await?;

    let tables =
        grant(INTEGRATION, "tables-rw", "clerk").tables("orders", "sales", &["invoices", "shipments"], "read_write").age(&recipient);
    let client = stage.login_as(&stage.expect(&tables, "succeeded").await?).await?;
    // The sequence of a serial column goes with its table.
    allowed(&client, "INSERT INTO sales.invoices (customer) VALUES ('Barbara')").await?;
    for sql in ["SELECT * FROM sales.lines", "SELECT nextval('sales.tickets')", "SELECT sales.invoice_total(1)"] {
        denied(&client, sql).await?;
    }

    let owner = grant(INTEGRATION, "db-admin", "boss").database("orders", "admin").age(&recipient);
    let client = stage.login_as(&stage.expect(&owner, "succeeded").await?).await?;
    allowed(&client, "CREATE SCHEMA mine").await?;
    allowed(&client, "CREATE TABLE hr.more ()").await?;
    stage.finish().await
}

#[tokio::test]
async fn overlapping_grants_live_and_end_apart() -> Result<()> {
    let mut stage = Stage::start().await?;
    stage.workers(1).await?;
    let wide = grant(INTEGRATION, "wide", "jane").schema("orders", "sales", "read_only").age(&stage.identity.recipient());
    let narrow =
        grant(INTEGRATION, "narrow", "jane").tables("orders", "sales", &["invoices"], "read_only").age(&stage.identity.recipient());
    let first = stage.expect(&wide, "succeeded").await?;
    let credential = stage.credential(&first)?;
    let second = stage.expect(&narrow, "succeeded").await?;
    assert_eq!(second["credential"]["status"], "unchanged", "the person has a password");

    stage.expect(&revoke_grant(INTEGRATION, "wide"), "succeeded").await?;
    let jane = stage.pg.login(&credential.username, &credential.password, "orders").await?;
    allowed(&jane, "SELECT * FROM sales.invoices").await?;
    denied(&jane, "SELECT * FROM sales.lines").await?;
    stage.expect(&revoke_grant(INTEGRATION, "narrow"), "succeeded").await?;
    assert!(stage.pg.login(&credential.username, &credential.password, "orders").await.is_err());
    stage.finish().await
}

#[tokio::test]
async fn a_higher_revision_narrows_widens_and_extends() -> Result<()> {
    let mut stage = Stage::start().await?;
    stage.workers(1).await?;
    let asked = |revision| grant(INTEGRATION, "AR-2", "jane").revision(revision).age(&stage.identity.recipient());
    let first = asked(1).schema("orders", "sales", "read_only").expires_in(SignedDuration::from_hours(1));
    let result = stage.expect(&first, "succeeded").await?;
    let credential = stage.credential(&result)?;
    let login = async || stage.pg.login(&credential.username, &credential.password, "orders").await;
    let jane = login().await?;

    let narrower = asked(2).tables("orders", "sales", &["lines"], "read_only").expires_in(SignedDuration::from_hours(1));
    let result = stage.expect(&narrower, "succeeded").await?;
    assert!(result["sessions_terminated"].as_u64() >= Some(1), "narrowing ends sessions: {result:#}");
    assert!(jane.batch_execute("SELECT 1").await.is_err());
    let jane = login().await?;
    denied(&jane, "SELECT * FROM sales.invoices").await?;
    allowed(&jane, "SELECT * FROM sales.lines").await?;

    let wider = asked(3).schema("orders", "sales", "read_write").expires_in(SignedDuration::from_hours(2));
    let result = stage.expect(&wider, "succeeded").await?;
    assert_eq!(result["revision"], 3);
    let jane = login().await?;
    allowed(&jane, "DELETE FROM sales.lines").await?;

    let again =
        stage.expect(&asked(3).schema("orders", "sales", "read_write").expires_in(SignedDuration::from_hours(2)), "unchanged").await?;
    assert_eq!(again["credential"]["status"], "unchanged");
    let lower = stage.expect(&asked(2).database("orders", "read_only"), "superseded").await?;
    assert_eq!(lower["reason"]["code"], "lower_revision");

    let extended = asked(4).schema("orders", "sales", "read_write").expires_in(SignedDuration::from_hours(5));
    stage.expect(&extended, "succeeded").await?;
    let admin = stage.pg.admin("postgres").await?;
    let hours: f64 = admin
        .query_one("SELECT (extract(epoch FROM rolvaliduntil - now()) / 3600)::float8 FROM pg_roles WHERE rolname = 'jane'", &[])
        .await?
        .get(0);
    assert!((4.9..=5.0).contains(&hours), "{hours}");
    stage.finish().await
}

#[tokio::test]
async fn one_grant_opens_two_databases() -> Result<()> {
    let mut stage = Stage::start().await?;
    stage.pg.create_database("billing", "CREATE TABLE bills (id int); INSERT INTO bills VALUES (7)").await?;
    stage.workers(1).await?;
    let asked = grant(INTEGRATION, "two", "jane")
        .database("orders", "read_only")
        .tables("billing", "public", &["bills"], "read_only")
        .age(&stage.identity.recipient());
    let result = stage.expect(&asked, "succeeded").await?;
    assert_eq!(result["access"]["databases"], json!(["orders", "billing"]));
    let credential = stage.credential(&result)?;
    for (database, sql) in [("orders", "SELECT * FROM sales.invoices"), ("billing", "SELECT * FROM bills")] {
        let jane = stage.pg.login(&credential.username, &credential.password, database).await?;
        allowed(&jane, sql).await?;
    }
    stage.finish().await
}

#[tokio::test]
async fn a_table_made_later_is_readable_after_the_next_grant_or_cleanup() -> Result<()> {
    let mut stage = Stage::start().await?;
    stage.workers(1).await?;
    let asked = |id: &str, who: &str| grant(INTEGRATION, id, who).schema("orders", "sales", "read_only").age(&stage.identity.recipient());
    let jane = stage.login_as(&stage.expect(&asked("1", "jane"), "succeeded").await?).await?;
    let admin = stage.pg.admin("orders").await?;

    admin.batch_execute("CREATE TABLE sales.later (id int)").await?;
    denied(&jane, "SELECT * FROM sales.later").await?;
    stage.expect(&asked("2", "kim"), "succeeded").await?;
    allowed(&jane, "SELECT * FROM sales.later").await?;

    admin.batch_execute("CREATE TABLE sales.latest (id int)").await?;
    denied(&jane, "SELECT * FROM sales.latest").await?;
    stage.send(&cleanup(INTEGRATION)).await?;
    allowed(&jane, "SELECT * FROM sales.latest").await?;
    stage.finish().await
}

#[tokio::test]
async fn an_existing_role_is_handed_on_only_if_policy_lists_it_and_it_is_harmless() -> Result<()> {
    let mut stage = Stage::builder().policy("roles = ['reporting', 'sneaky', 'powerful', 'absent']").start().await?;
    stage.pg.create_handable_role("reporting").await?;
    stage.pg.create_handable_role("sneaky").await?;
    let superuser = stage.pg.superuser("postgres").await?;
    superuser
        .batch_execute("CREATE ROLE middle; GRANT pg_write_all_data TO middle; GRANT middle TO sneaky; CREATE ROLE powerful SUPERUSER")
        .await?;
    let admin = stage.pg.admin("orders").await?;
    admin.batch_execute("GRANT USAGE ON SCHEMA hr TO reporting; GRANT SELECT ON hr.salaries TO reporting").await?;
    stage.workers(1).await?;

    let asked = grant(INTEGRATION, "role", "jane").role("reporting").age(&stage.identity.recipient());
    let result = stage.expect(&asked, "succeeded").await?;
    let credential = stage.credential(&result)?;
    let jane = stage.pg.login(&credential.username, &credential.password, "orders").await?;
    allowed(&jane, "SELECT * FROM hr.salaries").await?;
    for (role, code) in
        [("sneaky", "forbidden_role"), ("powerful", "forbidden_role"), ("absent", "not_found"), ("unlisted", "policy_denied")]
    {
        let refused = stage.expect(&grant(INTEGRATION, role, "kim").role(role), "rejected").await?;
        assert_eq!(refused["reason"]["code"], code, "{role}: {refused:#}");
    }
    stage.expect(&revoke_grant(INTEGRATION, "role"), "succeeded").await?;
    assert!(jane.batch_execute("SELECT 1").await.is_err());
    stage.finish().await
}

#[tokio::test]
async fn a_role_that_postern_did_not_make_is_never_touched() -> Result<()> {
    let mut stage = Stage::start().await?;
    let superuser = stage.pg.superuser("postgres").await?;
    superuser.batch_execute("CREATE ROLE jane LOGIN PASSWORD 'hers'; GRANT pg_monitor TO jane").await?;
    stage.workers(1).await?;
    for event in [
        grant(INTEGRATION, "1", "jane").database("orders", "read_only").age(&stage.identity.recipient()),
        rotate_principal(INTEGRATION, "jane", &stage.identity.recipient()),
        cleanup_principal(INTEGRATION, "jane"),
    ] {
        let result = stage.expect(&event, "rejected").await?;
        assert_eq!(result["reason"]["code"], "role_not_managed", "{result:#}");
    }
    stage.expect(&revoke_principal(INTEGRATION, "jane"), "unchanged").await?;
    stage.send(&cleanup(INTEGRATION)).await?;
    let jane = stage.pg.login("jane", "hers", "postgres").await?;
    allowed(&jane, "SELECT * FROM pg_stat_activity").await?;
    let monitor: bool = superuser.query_one("SELECT pg_has_role('jane', 'pg_monitor', 'MEMBER')", &[]).await?.get(0);
    assert!(monitor);
    stage.finish().await
}
