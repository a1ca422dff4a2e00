//! What `deploy/` holds is what works.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use postern_tests::certificates::Wanted;
use postern_tests::scratch::Scratch;
use postern_tests::worker::run_cli;

const EXAMPLE: &str = include_str!("../../../deploy/postern.example.toml");
const COMPOSE: &str = include_str!("../../../deploy/compose/postern.toml");

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
