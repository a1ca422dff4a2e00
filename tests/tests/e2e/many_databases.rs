//! A clean-up's cost grows with what there is to do, not with the databases of the server.

use std::collections::BTreeMap;
use std::time::Instant;

use anyhow::{Result, ensure};
use postern_tests::events::{cleanup, cleanup_principal, grant, revoke_principal};
use postern_tests::postgres::CONNECTOR;
use postern_tests::process::POLL;
use postern_tests::stage::{INTEGRATION, Stage};

const FEW: usize = 10;

/// Making databases is nearly all of this test's time, so that one version has the full number.
fn many(stage: &Stage) -> usize {
    if stage.pg.version().major() == 15 { 200 } else { 40 }
}

#[tokio::test]
async fn only_the_databases_with_something_to_dispose_of_are_visited() -> Result<()> {
    let mut stage = Stage::builder().integration(INTEGRATION, "owned_objects = 'drop'").start().await?;
    let superuser = stage.pg.superuser("postgres").await?;
    superuser.batch_execute("ALTER SYSTEM SET log_connections = 'on'").await?;
    superuser.batch_execute("SELECT pg_reload_conf()").await?;
    let deadline = Instant::now() + postern_tests::audit::TIMEOUT;
    while stage.pg.superuser("postgres").await?.query_one("SHOW log_connections", &[]).await?.get::<_, &str>(0) == "off" {
        ensure!(Instant::now() < deadline, "the server did not read its settings again");
        tokio::time::sleep(POLL).await;
    }
    stage.workers(1).await?;
    let mut made = 0;
    let mut visits = Vec::new();
    for (count, who) in [(FEW, "jane"), (many(&stage), "kim")] {
        while made < count {
            superuser.batch_execute(&format!("CREATE DATABASE d{made}")).await?;
            made += 1;
        }
        stage.expect(&grant(INTEGRATION, who, who).database("orders", "read_only"), "succeeded").await?;
        let base = visits.len() * 3;
        let owned: Vec<String> = (base..base + 3).map(|index| format!("d{index}")).collect();
        for database in &owned {
            let sql = format!("CREATE TABLE {who} (id int); ALTER TABLE {who} OWNER TO {who}");
            stage.pg.superuser(database).await?.batch_execute(&sql).await?;
        }
        let (visited, took) = visited(&stage, async || {
            stage.expect(&cleanup_principal(INTEGRATION, who), "succeeded").await?;
            Ok(())
        })
        .await?;
        let there: bool = superuser.query_one("SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = $1)", &[&who]).await?.get(0);
        assert!(!there);
        print(&format!("{count} databases: {visited:?} in {took:?} ms"));
        for database in &owned {
            assert_eq!(visited.get(database), Some(&1), "{visited:?}");
        }
        let others: Vec<_> = visited.keys().filter(|name| !owned.contains(name) && *name != "postgres").collect();
        ensure!(others.is_empty(), "visited without need: {others:?}");
        visits.push(visited.len() - visited.keys().filter(|name| *name == "postgres").count());
    }
    assert_eq!(visits, [3, 3]);

    // A bundle: its own database and no other.
    stage.expect(&grant(INTEGRATION, "lee", "lee").database("d7", "read_only"), "succeeded").await?;
    stage.expect(&revoke_principal(INTEGRATION, "lee"), "succeeded").await?;
    let (visited, took) = visited(&stage, async || {
        let result = stage.expect(&cleanup(INTEGRATION), "succeeded").await?;
        ensure!(result["changes"].to_string().contains("drop_bundle"), "{result:#}");
        Ok(())
    })
    .await?;
    print(&format!("bundles, {made} databases: {visited:?} in {took:?} ms"));
    ensure!(visited.keys().all(|name| ["postgres", "orders", "d7"].contains(&name.as_str())), "{visited:?}");
    stage.finish().await
}

/// Connections that the connector opened during `work`, by database, and how many milliseconds it took.
async fn visited(stage: &Stage, work: impl AsyncFnOnce() -> Result<()>) -> Result<(BTreeMap<String, usize>, u128)> {
    let before = stage.pg.log()?.len();
    let began = Instant::now();
    work().await?;
    let took = began.elapsed().as_millis();
    let log = stage.pg.log()?;
    let mut visited = BTreeMap::new();
    let marker = format!("connection authorized: user={CONNECTOR} database=");
    for line in log[before..].lines() {
        if let Some((_, rest)) = line.split_once(&marker) {
            let database = rest.split_whitespace().next().unwrap_or_default();
            *visited.entry(database.to_owned()).or_default() += 1;
        }
    }
    Ok((visited, took))
}

#[expect(clippy::print_stdout, reason = "the figures are what the test is read for")]
fn print(line: &str) {
    println!("{line}");
}
