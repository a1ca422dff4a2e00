//! Encrypted sessions on real servers: the six `ssl_mode`s beside libpq, certificates of all kinds, impostors, and what
//! becomes of events when a certificate is wrong.

mod clients;
mod files;
mod impostors;
mod modes;
mod waiting;

use std::path::{Path, PathBuf};
use std::process::Output;

use anyhow::{Context, Result};
use postern_tests::stage::{INTEGRATION, Stage};
use postern_tests::worker::run_cli;
use serde_json::Value;

/// How `postern check` found a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Met {
    /// Encrypted, as the server says.
    Tls,
    /// Not encrypted, as the server says.
    Plain,
    /// No session. The text is what the operator gets to read.
    Refused(String),
}

/// The stage's configuration with other settings of its integration; `file` is its name in the stage's scratch.
fn configured(stage: &Stage, file: &str, settings: &[(&str, &str)]) -> Result<PathBuf> {
    let mut config: toml::Table = stage.config().parse()?;
    let integration = config["integrations"][INTEGRATION].as_table_mut().context("no table")?;
    for (key, value) in settings {
        integration.insert((*key).to_owned(), (*value).into());
    }
    stage.scratch().write_private(file, &toml::to_string(&config)?)
}

/// Connects as `postern check` does, with these settings and variables.
async fn check(stage: &Stage, file: &str, settings: &[(&str, &str)], env: &[(&str, &str)]) -> Result<Met> {
    check_with(&configured(stage, file, settings)?, env).await
}

async fn check_with(config: &Path, env: &[(&str, &str)]) -> Result<Met> {
    let output = run_cli(config, &["check", INTEGRATION, "--json"], env).await?;
    let items: Vec<Value> = serde_json::from_slice(&output.stdout).with_context(|| shown(&output))?;
    let named = |name: &str| items.iter().find(|item| item["item"] == name);
    let text = |item: &Value| item["message"].as_str().unwrap_or_default().to_owned();
    if let Some(failed) = items.iter().find(|item| item["status"] == "fail" && (item["item"] == "tls" || item["item"] == "login")) {
        return Ok(Met::Refused(text(failed)));
    }
    let tls = named("tls").map(text).with_context(|| shown(&output))?;
    Ok(if tls.starts_with("TLSv1.") { Met::Tls } else { Met::Plain })
}

fn shown(output: &Output) -> String {
    format!("{}: {}{}", output.status, String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}
