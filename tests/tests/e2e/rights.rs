//! Each right of the bootstrap on its own: taken away, `postern check` finds it, and what it prints, run as whom it
//! says, gives it back. On all three platforms, and how Postern is removed again.
//!
//! The table that comes out of it is printed, and written to the directory `POSTERN_TEST_RIGHTS` if that is set:
//! platform, version, right, item, statement, separated by tabs.

mod odd;
mod uninstall;

use std::fmt::Write as _;

use anyhow::{Context, Result, bail, ensure};
use postern_tests::events::{cleanup_principal, grant, revoke_grant};
use postern_tests::postgres::{ADMIN, CONNECTOR, Platform};
use postern_tests::stage::{INTEGRATION, Stage};
use serde_json::Value;
use tokio_postgres::Client;

use crate::{allowed, denied, explained};

/// One right, and how it is taken away by a superuser.
struct Right {
    name: &'static str,
    database: &'static str,
    removal: String,
    /// The item that tells of it.
    item: &'static str,
    status: &'static str,
}

fn right(name: &'static str, database: &'static str, removal: impl Into<String>, item: &'static str) -> Right {
    Right { name, database, removal: removal.into(), item, status: "fail" }
}

/// Every right that `deploy/bootstrap` gives, in the order of the scripts.
fn rights(platform: Platform, major: u16) -> Vec<Right> {
    let admin = platform.admin_role();
    let by = if major >= 16 && platform != Platform::SelfHosted { format!(" GRANTED BY {ADMIN}") } else { String::new() };
    let mut all = vec![
        right("LOGIN", "postgres", format!("ALTER ROLE {CONNECTOR} NOLOGIN"), "login"),
        right("CREATEROLE", "postgres", format!("ALTER ROLE {CONNECTOR} NOCREATEROLE"), "createrole"),
        right("membership in the admin role", "postgres", format!("REVOKE {admin} FROM {CONNECTOR}{by}"), "admin role"),
    ];
    if major >= 16 {
        let without = format!("GRANT {admin} TO {CONNECTOR} WITH INHERIT FALSE{by}");
        all.push(right("its rights through the membership", "postgres", without, "admin role"));
        let by = format!(" GRANTED BY {ADMIN}");
        all.push(right(
            "a policy's role: ADMIN OPTION",
            "postgres",
            format!("REVOKE ADMIN OPTION FOR reporting FROM {CONNECTOR}{by}"),
            "role reporting",
        ));
    } else {
        all.push(right("its rights through the membership", "postgres", format!("ALTER ROLE {CONNECTOR} NOINHERIT"), "admin role"));
    }
    if platform == Platform::SelfHosted {
        for (role, item) in [("pg_read_all_stats", "activity"), ("pg_signal_backend", "terminate")] {
            all.push(right(role, "postgres", format!("REVOKE {role} FROM {CONNECTOR}"), item));
        }
    }
    let from = |what: &str, more: &str| format!("REVOKE {what} FROM {admin}{more} CASCADE");
    all.extend([
        right("maintenance database: CONNECT", "postgres", from("CONNECT ON DATABASE postgres", ", PUBLIC"), "login"),
        right("maintenance database: CREATE", "postgres", from("CREATE ON DATABASE postgres", ""), "ledger"),
        right("database: CONNECT", "orders", from("CONNECT ON DATABASE orders", ", PUBLIC"), "database orders"),
        right(
            "database: CONNECT, grant option",
            "orders",
            format!("REVOKE CONNECT ON DATABASE orders FROM PUBLIC; {}", from("GRANT OPTION FOR CONNECT ON DATABASE orders", "")),
            "database orders",
        ),
        right("database: TEMPORARY", "orders", from("TEMPORARY ON DATABASE orders", ", PUBLIC"), "database orders"),
        right("database: CREATE", "orders", from("CREATE ON DATABASE orders", ""), "database orders"),
        right("schema: USAGE", "orders", from("USAGE ON SCHEMA sales", ""), "database orders"),
        right("schema: CREATE", "orders", from("CREATE ON SCHEMA sales", ""), "database orders"),
        right("table: SELECT", "orders", from("SELECT ON sales.invoices", ""), "database orders"),
        right("tables: grant option", "orders", from("GRANT OPTION FOR ALL ON ALL TABLES IN SCHEMA sales, hr", ""), "database orders"),
        right("sequences", "orders", from("ALL ON ALL SEQUENCES IN SCHEMA sales", ""), "database orders"),
        right("routines", "orders", from("ALL ON ALL ROUTINES IN SCHEMA sales", ""), "database orders"),
    ]);
    if major >= 17 {
        all.push(right("table: MAINTAIN", "orders", from("MAINTAIN ON sales.invoices", ""), "database orders"));
    }
    for (name, kind) in [
        ("tables made later", "TABLES"),
        ("sequences made later", "SEQUENCES"),
        ("routines made later", "ROUTINES"),
        ("schemas made later", "SCHEMAS"),
    ] {
        let removal = format!("ALTER DEFAULT PRIVILEGES FOR ROLE {ADMIN} REVOKE ALL ON {kind} FROM {admin}");
        all.push(Right { status: "warn", ..right(name, "orders", removal, "default privileges in orders") });
    }
    all
}

/// What `check` says: the items, without those that are as they should be.
async fn found(stage: &Stage) -> Result<Vec<Value>> {
    let output = stage.cli(&["check", INTEGRATION, "--json"]).await?;
    let items: Vec<Value> = serde_json::from_slice(&output.stdout)
        .with_context(|| format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr)))?;
    let fails = items.iter().any(|item| item["status"] == "fail");
    ensure!(output.status.code() == Some(i32::from(fails)), "exit code {:?} for {items:#?}", output.status);
    // The imitation is not encrypted, and up to 14 everybody may make objects in schema public.
    let expected =
        |item: &Value| item["status"] == "ok" || item["item"] == "tls" || item["item"].as_str().is_some_and(|i| i.starts_with("public in"));
    Ok(items.into_iter().filter(|item| !expected(item)).collect())
}

fn lines(item: &Value) -> Vec<String> {
    item["mend"].as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

/// Runs what was printed, in the database and as the account that the comments name. Returns the statements.
async fn mend(stage: &Stage, items: &[Value]) -> Result<Vec<String>> {
    let mut ran = Vec::new();
    for item in items {
        let mut session = None;
        for line in lines(item) {
            if line.starts_with("\\password") {
                continue;
            }
            if let Some(who) = line.strip_prefix("-- ") {
                session = operator(stage, who).await?.or(session);
                continue;
            }
            let session = session.as_ref().with_context(|| format!("nobody is named to run `{line}`"))?;
            session.batch_execute(&line).await.with_context(|| format!("{line}, printed for {item:#}"))?;
            ran.push(line);
        }
    }
    Ok(ran)
}

/// Whom a comment names: `an administrator…`, `in database "x", as "y"`, `"y"…`; `None` for another remark.
async fn operator(stage: &Stage, who: &str) -> Result<Option<Client>> {
    let quoted =
        |text: &str| text.trim_start_matches('"').split("\", as ").next().unwrap_or_default().trim_end_matches('"').replace("\"\"", "\"");
    let (database, role) = match who.strip_prefix("in database ") {
        Some(rest) => (quoted(rest), rest.rsplit(", as ").next().unwrap_or_default().to_owned()),
        None => ("postgres".to_owned(), who.trim_start_matches("as ").to_owned()),
    };
    if role.starts_with("an administrator") && stage.pg.platform() != Platform::SelfHosted || role.starts_with(&format!("\"{ADMIN}\"")) {
        return Ok(Some(stage.pg.admin(&database).await?));
    }
    let is_superuser = ["an administrator", "a superuser", "\"postgres\"", "the database's owner"].iter().any(|s| role.starts_with(s));
    if is_superuser { Ok(Some(stage.pg.superuser(&database).await?)) } else { Ok(None) }
}

/// Takes the right away, finds it missing, runs what is printed, and finds nothing missing.
async fn taken_and_given_back(stage: &Stage, right: &Right) -> Result<String> {
    stage.pg.superuser(right.database).await?.batch_execute(&right.removal).await.with_context(|| right.removal.clone())?;
    let missing = found(stage).await?;
    let Some(told) = missing.iter().find(|item| item["item"] == right.item) else {
        bail!("without {} nothing is said of `{}`: {missing:#?}", right.name, right.item);
    };
    ensure!(told["status"] == right.status, "{}: {told:#}", right.name);
    let statements = mend(stage, &missing).await.with_context(|| right.name.to_owned())?;
    ensure!(!statements.is_empty(), "{}: nothing was printed: {missing:#?}", right.name);
    let after = found(stage).await?;
    ensure!(after.is_empty(), "{}: {statements:?} did not mend it: {after:#?}", right.name);
    // For the administrator of the imitation, who connects as everybody does.
    stage.pg.superuser("postgres").await?.batch_execute("GRANT CONNECT ON DATABASE postgres, orders TO PUBLIC").await?;
    Ok(statements.join(" "))
}

async fn every_right_is_found_and_mended(platform: Platform) -> Result<()> {
    let stage = Stage::builder().platform(platform).policy("databases = ['orders']\nroles = ['reporting']").start().await?;
    stage.pg.create_handable_role("reporting").await?;
    let major = stage.pg.version().major();
    let before = found(&stage).await?;
    ensure!(before.is_empty(), "the bootstrap left something out: {before:#?}");

    let mut table = String::new();
    let mut note = |name: &str, item: &str, statements: &str| {
        let _ = writeln!(table, "{}\t{major}\t{name}\t{item}\t{statements}", platform.integration_type());
    };
    for right in rights(platform, major) {
        let statements = taken_and_given_back(&stage, &right).await?;
        note(right.name, right.item, &statements);
    }

    // What an event makes of it: a table that is named cannot be granted, and can be when what was printed has run.
    stage
        .pg
        .superuser("orders")
        .await?
        .batch_execute(&format!("REVOKE SELECT ON hr.salaries FROM {} CASCADE", platform.admin_role()))
        .await?;
    let asked = |id: &str| grant(INTEGRATION, id, "jane").tables("orders", "hr", &["salaries"], "read_only");
    ensure!(apply(&stage, &asked("AR-1")).await?["data"]["reason"]["code"] == "permission_missing");
    mend(&stage, &found(&stage).await?).await?;
    ensure!(apply(&stage, &asked("AR-2")).await?["data"]["outcome"] == "succeeded");

    // What the first event made.
    let by = if major >= 16 { format!(" GRANTED BY {CONNECTOR}") } else { String::new() };
    let owner = right("membership in postern_owner", "postgres", format!("REVOKE postern_owner FROM {CONNECTOR}{by}"), "owner");
    let statements = taken_and_given_back(&stage, &owner).await?;
    note(owner.name, owner.item, &statements);
    ensure!(apply(&stage, &revoke_grant(INTEGRATION, "AR-2")).await?["data"]["outcome"] == "succeeded");
    publish(platform, major, &table)?;
    stage.finish().await
}

async fn apply(stage: &Stage, event: &postern_tests::events::Event) -> Result<Value> {
    let file = stage.scratch().write_private(&format!("{}.json", event.id()), &event.json().to_string())?;
    let output = stage.cli(&["apply", file.to_str().context("the path is no text")?]).await?;
    serde_json::from_slice(&output.stdout).with_context(|| format!("{}", String::from_utf8_lossy(&output.stderr)))
}

#[expect(clippy::print_stdout, reason = "the table is what the test is for, beside its verdict")]
fn publish(platform: Platform, major: u16, table: &str) -> Result<()> {
    print!("{table}");
    if let Some(directory) = std::env::var_os("POSTERN_TEST_RIGHTS") {
        let file = std::path::Path::new(&directory).join(format!("{}-{major}.tsv", platform.integration_type()));
        std::fs::write(&file, table).with_context(|| format!("cannot write {}", file.display()))?;
    }
    Ok(())
}

#[tokio::test]
async fn every_right_on_azure_is_found_and_mended() -> Result<()> {
    every_right_is_found_and_mended(Platform::Azure).await
}

#[tokio::test]
async fn every_right_on_rds_is_found_and_mended() -> Result<()> {
    every_right_is_found_and_mended(Platform::Rds).await
}

#[tokio::test]
async fn every_right_on_a_server_of_one_s_own_is_found_and_mended() -> Result<()> {
    every_right_is_found_and_mended(Platform::SelfHosted).await
}

#[tokio::test]
async fn the_bootstrap_of_a_server_of_one_s_own_gives_all_that_is_needed() -> Result<()> {
    let own = Stage::builder().platform(Platform::SelfHosted).integration(INTEGRATION, "owned_objects = 'drop'");
    let mut stage = own.policy("access = ['read_only', 'read_write', 'admin']\nroles = ['reporting']").start().await?;
    stage.pg.create_handable_role("reporting").await?;
    stage.workers(1).await?;
    let levels = grant(INTEGRATION, "AR-1", "jane")
        .database("orders", "admin")
        .schema("orders", "sales", "read_write")
        .tables("orders", "hr", &["salaries"], "read_only")
        .role("reporting")
        .age(&stage.identity.recipient());
    let result = stage.expect(&levels, "succeeded").await?;
    ensure!(result["warnings_total"] == 0, "{result:#}");
    let session = stage.login_as(&result).await?;
    allowed(&session, "INSERT INTO sales.invoices (customer) VALUES ('Barbara')").await?;
    allowed(&session, "CREATE SCHEMA mine; CREATE TABLE mine.notes (id int)").await?;
    allowed(&session, "TRUNCATE hr.salaries").await?;
    denied(&session, "CREATE ROLE other").await?;

    let revoked = stage.expect(&revoke_grant(INTEGRATION, "AR-1"), "succeeded").await?;
    assert_eq!(revoked["sessions_terminated"], 1);
    ensure!(session.batch_execute("SELECT 1").await.is_err());
    let gone = stage.expect(&cleanup_principal(INTEGRATION, "jane"), "succeeded").await?;
    assert_eq!(gone["blocked_total"], 0, "{gone:#}");
    let people = stage.pg.superuser("orders").await?.query("SELECT FROM pg_roles WHERE rolname = 'jane'", &[]).await?;
    ensure!(people.is_empty());

    let narrow = grant(INTEGRATION, "AR-2", "lee").schema("orders", "sales", "read_only").age(&stage.identity.recipient());
    let session = stage.login_as(&stage.expect(&narrow, "succeeded").await?).await?;
    allowed(&session, "SELECT * FROM sales.invoices").await?;
    denied(&session, "SELECT * FROM hr.salaries").await?;
    explained(&stage).await?;
    stage.finish().await
}
