//! `postern check` finds what is missing, and what it prints mends it.

use anyhow::{Context, Result, ensure};
use postern_tests::events::{grant, revoke_grant};
use postern_tests::stage::{INTEGRATION, Stage};
use postern_tests::worker::run_cli;
use serde_json::Value;
use tokio_postgres::Client;

use super::{cli, event_file, everything, exits, json, out};

/// The items that fail, each with the statements that mend it.
async fn failing(stage: &Stage) -> Result<Vec<(String, Vec<String>)>> {
    let args = ["check", INTEGRATION, "--json"];
    let output = stage.cli(&args).await?;
    let items = json(&output)?;
    let items = items.as_array().context("not a list")?;
    let failing: Vec<&Value> = items.iter().filter(|item| item["status"] == "fail").collect();
    exits(output, i32::from(!failing.is_empty()), &args)?;
    failing
        .into_iter()
        .map(|item| Ok((serde_json::from_value(item["item"].clone())?, serde_json::from_value(item["mend"].clone())?)))
        .collect()
}

#[tokio::test]
async fn check_says_what_is_missing_and_what_mends_it() -> Result<()> {
    let stage = Stage::builder().policy("databases = ['orders']\nroles = ['the \"desk\"']").start().await?;
    stage.pg.create_handable_role("the \"desk\"").await?;
    let before = everything(&stage).await?;
    let output = cli(&stage, 0, &["check"]).await?;
    ensure!(out(&output).contains("ok    orders-prod: ledger: not there yet"), "{}", out(&output));
    ensure!(everything(&stage).await? == before, "check changed something");

    let major = stage.pg.version().major();
    let admin = stage.pg.platform().admin_role();
    let superuser = stage.pg.superuser("postgres").await?;
    let mut broken = vec![
        ("terminate", format!("REVOKE pg_signal_backend FROM {admin}")),
        ("activity", format!("REVOKE pg_monitor FROM {admin}")),
        ("createrole", "ALTER ROLE postern_connector NOCREATEROLE".to_owned()),
        ("ledger", format!("REVOKE CREATE ON DATABASE postgres FROM {admin} CASCADE")),
        ("database orders", format!("REVOKE CONNECT ON DATABASE orders FROM {admin}, PUBLIC CASCADE")),
        ("login", "ALTER ROLE postern_connector NOLOGIN".to_owned()),
        ("login", format!("REVOKE CONNECT ON DATABASE postgres FROM {admin}, PUBLIC CASCADE")),
    ];
    if major >= 16 {
        broken.push((
            "role the \"desk\"",
            "REVOKE ADMIN OPTION FOR \"the \"\"desk\"\"\" FROM postern_connector GRANTED BY server_admin".to_owned(),
        ));
    }
    broken.push(("role the \"desk\"", "DROP ROLE \"the \"\"desk\"\"\"".to_owned()));
    for (item, sql) in &broken {
        breaks_and_mends(&stage, &superuser, item, sql).await?;
    }

    // With a ledger, for a connector that was replaced.
    let asked = grant(INTEGRATION, "AR-1", "jane").schema("orders", "sales", "read_only");
    cli(&stage, 0, &["apply", &event_file(&stage, "event.json", &asked)?]).await?;
    assert_eq!(failing(&stage).await?, []);
    let by = if major >= 16 { " GRANTED BY postern_connector" } else { "" };
    let sql = format!("REVOKE postern_owner FROM postern_connector{by}");
    superuser.batch_execute(&sql).await?;
    let met = failing(&stage).await?;
    assert_eq!(met.iter().map(|(item, _)| item.as_str()).collect::<Vec<_>>(), ["owner", "ledger"]);
    superuser.batch_execute(&met[0].1.join("\n")).await?;
    assert_eq!(failing(&stage).await?, []);
    let revoke = revoke_grant(INTEGRATION, "AR-1");
    cli(&stage, 0, &["apply", &event_file(&stage, "revoke.json", &revoke)?]).await?;
    stage.finish().await
}

async fn breaks_and_mends(stage: &Stage, superuser: &Client, item: &str, sql: &str) -> Result<()> {
    superuser.batch_execute(sql).await.with_context(|| sql.to_owned())?;
    let met = failing(stage).await?;
    let [(failed, mend)] = met.as_slice() else { anyhow::bail!("after `{sql}` expected only {item} to fail, met {met:?}") };
    ensure!(failed == item, "after `{sql}` expected {item} to fail, met {failed}");
    let mend = mend.join("\n");
    superuser.batch_execute(&mend).await.with_context(|| format!("what mends `{sql}`: {mend}"))?;
    let after = failing(stage).await?;
    ensure!(after.is_empty(), "`{mend}` did not mend `{sql}`: {after:?}");
    Ok(())
}

#[tokio::test]
async fn check_sees_the_broker_and_two_ledgers_on_one_server() -> Result<()> {
    let mut stage = Stage::builder().integration("other", "database = 'orders'").start().await?;
    stage.workers(1).await?;
    let items = json(&cli(&stage, 0, &["check", "--json"]).await?)?;
    let status =
        |name: &str| items.as_array().and_then(|items| items.iter().find(|item| item["item"] == name)).map(|item| item["status"].clone());
    for (item, expected) in [("broker", "ok"), ("topology", "ok"), ("workers", "ok"), ("neighbour", "warn"), ("tls", "warn")] {
        assert_eq!(status(item), Some(expected.into()), "{item}");
    }
    let away = [("POSTERN_BROKER_URL", "amqp://guest:hunter2@127.0.0.1:1/%2f")];
    let args = ["check"];
    let output = exits(run_cli(stage.config_file(), &args, &away).await?, 1, &args)?;
    ensure!(out(&output).contains("FAIL  broker: ") && !out(&output).contains("hunter2"), "{}", out(&output));

    let password = stage.scratch().join("connector-password");
    std::fs::write(&password, "wrong")?;
    let shown = out(&cli(&stage, 1, &["check", INTEGRATION]).await?);
    ensure!(shown.contains("FAIL  orders-prod: login: ") && shown.contains("\\password \"postern_connector\""), "{shown}");
    std::fs::remove_file(&password)?;
    let shown = out(&cli(&stage, 1, &["check", INTEGRATION]).await?);
    ensure!(shown.contains("FAIL  orders-prod: secret: "), "{shown}");
    stage.finish().await
}
