//! People and objects that were made to hold Postern up.

use anyhow::{Result, ensure};
use postern_tests::events::{cleanup, grant, revoke_grant};
use postern_tests::stage::{INTEGRATION, Stage};

use crate::{allowed, denied, ended, explained, sessions_of};

#[tokio::test]
async fn advisory_locks_that_anybody_may_take_hold_nobody_up() -> Result<()> {
    let mut stage = Stage::start().await?;
    let superuser = stage.pg.superuser("postgres").await?;
    superuser.batch_execute("CREATE ROLE eve LOGIN PASSWORD 'eve'").await?;
    let eve = stage.pg.login("eve", "eve", "postgres").await?;
    // The numbers that programs take: small ones, and "postern" on a telephone.
    eve.batch_execute("SELECT count(pg_advisory_lock(n)), count(pg_advisory_lock(n, n)) FROM generate_series(0, 500) n").await?;
    eve.batch_execute("SELECT pg_advisory_lock(7678376)").await?;
    stage.workers(2).await?;
    let result = stage.expect(&grant(INTEGRATION, "1", "jane").database("orders", "read_only"), "succeeded").await?;
    assert_eq!(result["attempt"], 1);
    stage.expect(&cleanup(INTEGRATION), "unchanged").await?;
    stage.finish().await
}

#[tokio::test]
async fn a_person_with_many_sessions_and_everything_open_is_gone_after_the_revoke() -> Result<()> {
    let mut stage = Stage::start().await?;
    stage.workers(1).await?;
    let asked = grant(INTEGRATION, "1", "jane").schema("orders", "sales", "admin").age(&stage.identity.recipient());
    let result = stage.expect(&asked, "succeeded").await?;
    let credential = stage.credential(&result)?;
    let mut sessions = Vec::new();
    for number in 0..20 {
        let session = stage.pg.login(&credential.username, &credential.password, "orders").await?;
        session.batch_execute("LISTEN news; CREATE TEMP TABLE mine (id int)").await?;
        let open = match number % 4 {
            0 => "BEGIN; LOCK TABLE sales.lines IN ROW EXCLUSIVE MODE; DELETE FROM sales.lines WHERE false",
            1 => "BEGIN; SELECT pg_advisory_lock(1, 2) WHERE false; SELECT * FROM sales.invoices FOR UPDATE SKIP LOCKED",
            2 => "SET ROLE NONE; DECLARE c CURSOR WITH HOLD FOR SELECT * FROM sales.invoices",
            _ => "PREPARE mine AS SELECT * FROM sales.invoices",
        };
        allowed(&session, open).await?;
        sessions.push(session);
    }
    // Two of them hold what the revoke needs: the row of the own role, and the bundles' tables.
    sessions[3].batch_execute("BEGIN; ALTER ROLE CURRENT_USER SET work_mem = '8MB'; COMMIT").await?;
    let revoked = stage.expect(&revoke_grant(INTEGRATION, "1"), "succeeded").await?;
    assert_eq!(revoked["sessions_terminated"], 20, "{revoked:#}");
    let admin = stage.pg.admin("postgres").await?;
    assert_eq!(sessions_of(&admin, "jane").await?, 0);
    assert!(ended(&admin, "jane").await?);
    explained(&stage).await?;
    stage.finish().await
}

#[tokio::test]
async fn objects_with_names_made_to_break_statements_are_granted_and_taken_back() -> Result<()> {
    let mut stage = Stage::start().await?;
    let names = [
        "\"; DROP ROLE postern_owner; --",
        "select",
        "new\nline\tand tab",
        "größe 表 🐘",
        "back\\slash '' $$",
        &"x".repeat(63),
        "%s %I {} $1",
    ];
    let admin = stage.pg.admin("orders").await?;
    let quoted = |name: &str| format!("\"{}\"", name.replace('"', "\"\""));
    for name in names {
        let name = quoted(name);
        admin
            .batch_execute(&format!(
                "CREATE TABLE sales.{name} (id serial); CREATE VIEW sales.{} AS SELECT 1 AS one; \
                 CREATE FUNCTION sales.{name}(\"{}\" int) RETURNS int LANGUAGE sql AS 'SELECT 1'; CREATE RULE {name} AS ON DELETE TO sales.{name} DO INSTEAD NOTHING",
                quoted(&format!("v{}", names.iter().position(|n| quoted(n) == name).unwrap_or_default())),
                "in; --"
            ))
            .await?;
    }
    stage.workers(1).await?;
    let asked = grant(INTEGRATION, "1", "jane").schema("orders", "sales", "read_write").age(&stage.identity.recipient());
    let result = stage.expect(&asked, "succeeded").await?;
    assert_eq!(result["warnings_total"], 0, "{result:#}");
    let jane = stage.login_as(&result).await?;
    for name in names {
        allowed(&jane, &format!("INSERT INTO sales.{} DEFAULT VALUES", quoted(name))).await?;
        allowed(&jane, &format!("SELECT sales.{}(1)", quoted(name))).await?;
        denied(&jane, &format!("TRUNCATE sales.{}", quoted(name))).await?;
    }
    stage.expect(&revoke_grant(INTEGRATION, "1"), "succeeded").await?;
    let result = stage.send(&cleanup(INTEGRATION)).await?;
    ensure!(result["blocked_total"] == 0 && result["changes"].to_string().contains("drop_bundle"), "{result:#}");
    explained(&stage).await?;
    stage.finish().await
}

/// How many tables. `POSTERN_TEST_TABLES` overrides it.
fn tables() -> usize {
    std::env::var("POSTERN_TEST_TABLES").ok().and_then(|n| n.parse().ok()).unwrap_or(2000)
}

#[tokio::test]
#[expect(clippy::print_stderr, reason = "figures of a measurement")]
async fn a_database_with_thousands_of_tables_costs_its_first_grant_only() -> Result<()> {
    let mut stage = Stage::start().await?;
    let tables = tables();
    let admin = stage.pg.admin("orders").await?;
    // In pieces: one transaction holds a lock for each table that it makes.
    for from in (1..=tables).step_by(1000) {
        let to = tables.min(from + 999);
        let sql = format!("DO $$ BEGIN FOR n IN {from}..{to} LOOP EXECUTE 'CREATE TABLE sales.t' || n || ' (id int)'; END LOOP; END $$");
        admin.batch_execute(&sql).await?;
    }
    stage.workers(1).await?;
    let mut took = Vec::new();
    for who in ["jane", "kim"] {
        let asked = grant(INTEGRATION, who, who).database("orders", "read_write");
        let began = std::time::Instant::now();
        let result = stage.expect(&asked, "succeeded").await?;
        assert_eq!(result["attempt"], 1, "{result:#}");
        took.push(began.elapsed());
    }
    admin.batch_execute("CREATE TABLE sales.one_more (id int)").await?;
    let began = std::time::Instant::now();
    stage.expect(&grant(INTEGRATION, "lee", "lee").database("orders", "read_write"), "succeeded").await?;
    took.push(began.elapsed());
    eprintln!(
        "PostgreSQL {}: {tables} tables: first grant {:?}, second {:?}, after one table more {:?}",
        stage.pg.version(),
        took[0],
        took[1],
        took[2]
    );
    let superuser = stage.pg.superuser("orders").await?;
    let grantees = "SELECT count(*) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace, aclexplode(relacl) a \
                    WHERE n.nspname = 'sales' AND c.relname = $1 AND a.privilege_type = 'SELECT'";
    let mut entries: Vec<i64> = Vec::new();
    for table in ["t1", "one_more"] {
        entries.push(superuser.query_one(grantees, &[&table]).await?.get(0));
    }
    assert_eq!(entries, [3, 3], "owner, the platform's admin role and one bundle, however many people");
    explained(&stage).await?;
    stage.finish().await
}
