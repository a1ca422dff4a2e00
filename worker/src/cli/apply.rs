//! `postern apply`: one event without a broker.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;
use postern_schemas::{Code, Event, Outcome, Reason};

use super::{CliError, DONE, FAILED, output};
use crate::access::Rules;
use crate::audit::{self, Receipt};
use crate::config::Config;
use crate::execution::{self, Stop};
use crate::postgres::Target;
use crate::secrets::Stores;

/// Arguments of `postern apply`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The event, a CloudEvent in JSON; - for standard input.
    event: PathBuf,
}

/// Carries the event out and prints its result. Fails unless it was done or needed nothing.
pub async fn run(config: &Config, args: &Args) -> Result<u8, CliError> {
    let body = read(&args.event)?;
    let result = match decode(&body) {
        Ok(event) => Box::pin(carry_out(config, &event, &body)).await?,
        Err(rejected) => *rejected,
    };
    let receipt = Receipt { attempt: 1, received_at: Timestamp::now(), worker: "postern apply".to_owned() };
    let outcome = result.data.outcome;
    let message = audit::message(result, &receipt, Timestamp::now(), true);
    let value: serde_json::Value = serde_json::from_slice(&message.body).map_err(CliError::failed)?;
    output::json(&value);
    Ok(if matches!(outcome, Outcome::Rejected | Outcome::Failed) { FAILED } else { DONE })
}

async fn carry_out(config: &Config, event: &Event, body: &[u8]) -> Result<postern_schemas::result::AuditEvent, CliError> {
    let (target, rules) = target(config, event)?;
    match Box::pin(execution::carry_out(event, &target, &rules)).await {
        Ok(settled) => Ok(settled.result),
        Err(Stop::Conflict) => {
            let reason = Reason::new(Code::IdConflict, "this id was used before with another type, time or data; use a new id");
            Ok(audit::of_body(body, &event.readable(), reason.at("id")))
        }
        Err(stop) => {
            let reason = match &stop {
                Stop::Target(error) => error.reason(),
                Stop::SessionSurvives { .. } => Reason::new(Code::SessionSurvives, stop.describe()),
                _ => Reason::new(Code::Internal, stop.describe()),
            };
            let key = event.key();
            Ok(audit::failed([key.integration.as_str(), &key.source, &key.id], event.request.verb(), Some(event), reason))
        }
    }
}

/// Reads a file, or standard input.
pub fn read(path: &Path) -> Result<Vec<u8>, CliError> {
    let read = if path.as_os_str() == "-" {
        let mut body = Vec::new();
        std::io::Read::read_to_end(&mut std::io::stdin().lock(), &mut body).map(|_| body)
    } else {
        std::fs::read(path)
    };
    read.map_err(|error| CliError::Failed(format!("{}: {error}", path.display())))
}

/// Decodes an event; one that is wrong becomes its rejection.
pub fn decode(body: &[u8]) -> Result<Event, Box<postern_schemas::result::AuditEvent>> {
    let event = Event::decode(body).map_err(|error| Box::new(audit::of_body(body, &error.readable(), error.reason())))?;
    execution::check_body(&event).map_err(|reason| Box::new(audit::of_body(body, &event.readable(), reason)))?;
    Ok(event)
}

/// The event's target and its rules.
pub fn target(config: &Config, event: &Event) -> Result<(Target, Rules), CliError> {
    let integration = super::integration(config, event.request.integration())?;
    Ok((Target::new(Arc::clone(integration), &Stores::new(config)), execution::rules(integration, config)))
}
