//! `postern plan`: what an event would do.

use std::path::PathBuf;

use super::{CliError, DONE, FAILED, apply, output};
use crate::config::Config;

/// Arguments of `postern plan`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The event, a CloudEvent in JSON; - for standard input.
    event: PathBuf,
}

/// Prints the SQL that the event would run on its target as it is now, changing nothing.
pub async fn run(config: &Config, args: &Args) -> Result<u8, CliError> {
    let body = apply::read(&args.event)?;
    let event = match apply::decode(&body) {
        Ok(event) => event,
        Err(rejected) => {
            let reason = rejected.data.reason.map(|r| format!("{}: {}", r.code.as_str(), r.message)).unwrap_or_default();
            output::line(format_args!("-- rejected: {reason}"));
            return Ok(FAILED);
        }
    };
    let (target, rules) = apply::target(config, &event)?;
    let preview = crate::execution::preview::preview(&event, &target, &rules).await.map_err(CliError::failed)?;
    preview.iter().for_each(output::line);
    Ok(DONE)
}
