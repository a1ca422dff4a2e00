//! What `deploy/` holds is what works.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use postern_tests::certificates::Wanted;
use postern_tests::events::{cleanup_principal, grant, revoke_grant};
use postern_tests::postgres::{CONNECTOR, database_sql};
use postern_tests::scratch::Scratch;
use postern_tests::stage::{INTEGRATION, Stage};
use postern_tests::worker::run_cli;

use crate::{allowed, denied, explained};

const EXAMPLE: &str = include_str!("../../../deploy/postern.example.toml");
const COMPOSE: &str = include_str!("../../../deploy/compose/postern.toml");
const CONNECTOR_POSTGRESQL: &str = include_str!("../../../deploy/bootstrap/connector-postgresql.sql");

/// Exit code of a wrong configuration.
const EX_CONFIG: i32 = 78;

/// Whether `postern` takes a configuration: it reads that before it finds the event wrong.
async fn accepts(scratch: &Scratch, config: &str) -> Result<()> {
    let config = scratch.write_private("postern.toml", config)?;
    let event = scratch.write_private("event.json", "no event")?;
    let event = event.to_str().context("the path is no text")?;
    let output = run_cli(&config, &["plan", event], &[]).await?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.code().is_some_and(|code| code != EX_CONFIG), "{} {said}", output.status);
    ensure!(!said.contains("panicked"), "{said}");
    Ok(())
}

/// The example with everything set that stands behind a `#`, its files replaced by one that exists.
fn everything_set(file: &Path) -> String {
    let uncommented = EXAMPLE.lines().map(|line| match line.strip_prefix('#') {
        Some(setting) if setting.starts_with(|c: char| c.is_ascii_lowercase()) => setting,
        _ => line,
    });
    let file = format!("= \"{}\"", file.display());
    let set = uncommented.map(|line| match line.split_once("= \"/etc/postern/") {
        Some((key, _)) => format!("{key}{file}"),
        None => line.to_owned(),
    });
    set.collect::<Vec<_>>().join("\n")
}

#[tokio::test]
async fn the_shipped_configurations_are_accepted() -> Result<()> {
    let scratch = Scratch::new("deploy")?;
    accepts(&scratch, EXAMPLE).await?;
    accepts(&scratch, COMPOSE).await?;
    let issued = Wanted::new("localhost", &["localhost"]).self_signed()?;
    let file = scratch.write_private("some.pem", &(issued.chain + &issued.key))?;
    let all = everything_set(&file);
    ensure!(all.lines().filter(|line| line.contains(" = ")).count() > 30, "settings are missing:\n{all}");
    accepts(&scratch, &all).await?;

    let wrong = accepts(&scratch, &all.replace("prefetch", "perfetch")).await;
    ensure!(wrong.is_err(), "a misspelt key should be refused");
    fs::remove_file(&file)?;
    ensure!(accepts(&scratch, &all).await.is_err(), "a missing file should be refused");
    Ok(())
}

#[tokio::test]
async fn the_bootstrap_of_a_server_of_one_s_own_gives_all_that_is_needed() -> Result<()> {
    // The cluster has the account of another platform already, so this one has another name.
    const GATE: &str = "postern_gate";
    let changes = format!("type = 'postgresql'\nsecret = {{ local = {{ username = '{GATE}' }} }}");
    let mut stage = Stage::builder().integration(INTEGRATION, &changes).start().await?;
    let superuser = stage.pg.superuser("postgres").await?;
    superuser.batch_execute(&CONNECTOR_POSTGRESQL.replace(CONNECTOR, GATE)).await?;
    let password = stage.pg.connector_password();
    superuser.batch_execute("SET log_statement = none").await?;
    superuser.batch_execute(&format!("ALTER ROLE {GATE} PASSWORD '{password}'")).await?;
    for database in ["postgres", "orders"] {
        let client = stage.pg.superuser(database).await?;
        client.batch_execute(&database_sql("postern_admin")).await?;
        client.batch_execute(&database_sql("postern_admin")).await.context("a second time")?;
    }
    stage.workers(1).await?;

    let asked = grant(INTEGRATION, "AR-1", "jane")
        .schema("orders", "sales", "read_write")
        .tables("orders", "hr", &["salaries"], "read_only")
        .age(&stage.identity.recipient());
    let result = stage.expect(&asked, "succeeded").await?;
    ensure!(result["warnings_total"] == 0, "{result:#}");
    let session = stage.login_as(&result).await?;
    allowed(&session, "INSERT INTO sales.invoices (customer) VALUES ('Barbara')").await?;
    allowed(&session, "SELECT * FROM hr.salaries").await?;
    denied(&session, "DELETE FROM hr.salaries").await?;
    explained(&stage).await?;

    let revoked = stage.expect(&revoke_grant(INTEGRATION, "AR-1"), "succeeded").await?;
    assert_eq!(revoked["sessions_terminated"], 1);
    ensure!(session.batch_execute("SELECT 1").await.is_err());
    let gone = stage.expect(&cleanup_principal(INTEGRATION, "jane"), "succeeded").await?;
    assert_eq!(gone["blocked_total"], 0, "{gone:#}");
    stage.finish().await
}
