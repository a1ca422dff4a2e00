//! The connector's password in a file, changed while a worker runs.

use anyhow::{Result, ensure};
use postern_tests::events::grant;
use postern_tests::stage::{INTEGRATION, Stage};

use crate::logged;

/// Changes the connector's password on the server, past Postern, and ends its sessions, so that it must log in anew.
async fn change_password(stage: &Stage, password: &str) -> Result<()> {
    let superuser = stage.pg.superuser("postgres").await?;
    superuser.batch_execute(&format!("ALTER ROLE postern_connector PASSWORD '{password}'")).await?;
    superuser.batch_execute("SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE usename = 'postern_connector'").await?;
    Ok(())
}

#[tokio::test]
async fn a_password_file_that_changes_is_read_without_a_restart() -> Result<()> {
    let mut stage = Stage::start().await?;
    stage.workers(1).await?;
    let asked = |id: &str| grant(INTEGRATION, id, "jane").database("orders", "read_only");
    stage.expect(&asked("AR-1"), "succeeded").await?;

    // File and role together: the remembered password is refused once, and forgotten.
    stage.scratch().write_private("connector-password", "rotated-once\n")?;
    change_password(&stage, "rotated-once").await?;
    let result = stage.expect(&asked("AR-2"), "succeeded").await?;
    ensure!(result["attempt"].as_u64().is_some_and(|attempt| attempt <= 2), "{result:#}");

    // The role first: events wait for the file, and lose no attempt by it.
    change_password(&stage, "rotated-twice").await?;
    let waiting = asked("AR-3");
    stage.publish(&waiting).await?;
    logged(&stage, "28P01").await?;
    stage.scratch().write_private("connector-password", "rotated-twice")?;
    let result = stage.result_of(&waiting).await?;
    ensure!(result["outcome"] == "succeeded" && result["attempt"] == 1, "{result:#}");
    for secret in ["rotated-once", "rotated-twice"] {
        ensure!(!stage.worker_logs().contains(secret), "{}", stage.worker_logs());
    }
    stage.finish().await
}
