//! The command line: one file a command.

pub mod apply;
pub mod check;
pub mod dead;
pub mod duration;
pub mod ledger;
pub mod output;
pub mod permission;
pub mod plan;
pub mod run;
pub mod schema;
pub mod send;
pub mod watch;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Parser, Subcommand};
use postern_schemas::IntegrationId;

use crate::config::{Config, ConfigError, Integration};

/// The process did what was asked.
pub const DONE: u8 = 0;
/// It was understood, and failed.
pub const FAILED: u8 = 1;
/// The command line is wrong. Also clap's own code.
pub const USAGE: u8 = 2;
/// The configuration is wrong (`EX_CONFIG`, sysexits.h).
pub const CONFIG: u8 = 78;

/// Just-in-time access to PostgreSQL.
#[derive(Debug, Parser)]
#[command(name = "postern", version, about, disable_help_subcommand = true)]
pub struct Cli {
    /// The configuration file; default: `POSTERN_CONFIG`, or postern.toml.
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the worker until SIGTERM.
    Run,
    /// Print the SQL an event would run, changing nothing.
    Plan(plan::Args),
    /// Run one event without a broker and print its result.
    Apply(apply::Args),
    /// Publish an event and, with --wait, print its result.
    Send(Box<send::Args>),
    /// Follow audit results, one line each, until Ctrl-C.
    Watch(watch::Args),
    /// Print who holds what now, and since when.
    Ledger(ledger::Args),
    /// Look at broker, secrets and servers, changing nothing; print what is missing and what mends it.
    Check(check::Args),
    /// List, show, replay or drop the events that were given up.
    Dead(dead::Args),
    /// Print the JSON Schema of an event or of the results.
    Schema(schema::Args),
}

/// Why a command ended early.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// See [`ConfigError`].
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// It failed, in the words of whatever failed.
    #[error("{0}")]
    Failed(String),
    /// The command line makes no sense.
    #[error("{0}")]
    Usage(String),
}

impl CliError {
    /// From any failure that speaks for itself.
    pub fn failed(error: impl std::fmt::Display) -> Self {
        Self::Failed(error.to_string())
    }

    fn exit_code(&self) -> u8 {
        match self {
            Self::Config(_) => CONFIG,
            Self::Failed(_) => FAILED,
            Self::Usage(_) => USAGE,
        }
    }
}

impl Cli {
    /// Runs the command and turns its outcome into an exit code.
    pub async fn run(self) -> ExitCode {
        match Box::pin(self.dispatch()).await {
            Ok(code) => ExitCode::from(code),
            Err(error) => {
                output::error(&error);
                ExitCode::from(error.exit_code())
            }
        }
    }

    async fn dispatch(self) -> Result<u8, CliError> {
        // Read when it is needed: some commands go without.
        let config = || Config::load(self.config.as_deref(), &|name| std::env::var(name).ok()).map_err(CliError::from);
        match self.command {
            Command::Run => run::run(config()?).await,
            Command::Plan(args) => plan::run(&config()?, &args).await,
            Command::Apply(args) => Box::pin(apply::run(&config()?, &args)).await,
            Command::Send(args) => send::run(config, &args).await,
            Command::Watch(args) => watch::run(&config()?, &args).await,
            Command::Ledger(args) => ledger::run(&config()?, &args).await,
            Command::Check(args) => check::run(&config()?, &args).await,
            Command::Dead(args) => dead::run(&config()?, args).await,
            Command::Schema(args) => schema::run(&args),
        }
    }
}

/// A configured integration by its id.
fn integration<'a>(config: &'a Config, id: &IntegrationId) -> Result<&'a Arc<Integration>, CliError> {
    config.integrations.get(id).ok_or_else(|| {
        let known: Vec<_> = config.integrations.keys().map(ToString::to_string).collect();
        CliError::Failed(format!("integration {:?} is not configured; known: {}", id.as_str(), known.join(", ")))
    })
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_consistent() {
        super::Cli::command().debug_assert();
    }
}
