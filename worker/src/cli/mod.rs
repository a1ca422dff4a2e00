//! The command line: one file a command.

pub mod apply;
pub mod output;
pub mod plan;
pub mod run;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::config::{Config, ConfigError};

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
    /// The configuration file; default: POSTERN_CONFIG, or postern.toml.
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
        let config = || Config::load(self.config.as_deref(), &|name| std::env::var(name).ok()).map_err(CliError::from);
        let done = match self.command {
            Command::Run => match config() {
                Ok(config) => run::run(config).await,
                Err(error) => Err(error),
            },
            Command::Plan(args) => match config() {
                Ok(config) => plan::run(&config, &args).await,
                Err(error) => Err(error),
            },
            Command::Apply(args) => match config() {
                Ok(config) => apply::run(&config, &args).await,
                Err(error) => Err(error),
            },
        };
        match done {
            Ok(code) => ExitCode::from(code),
            Err(error) => {
                output::error(&error);
                ExitCode::from(error.exit_code())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_consistent() {
        super::Cli::command().debug_assert();
    }
}
