//! `postern watch`: audit results as they come.

use std::fmt::Write as _;
use std::time::Duration;

use futures_util::StreamExt as _;
use postern_schemas::result::AuditEvent;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::{CliError, DONE, output};
use crate::broker::{AuditRecord, BrokerError, Client};
use crate::config::Config;

/// How long to wait before the broker is tried again; doubled each time, up to the last.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Arguments of `postern watch`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Only this integration's; unknown: those of events whose integration no worker knows.
    #[arg(long)]
    integration: Option<String>,
    /// Only this verb's.
    #[arg(long, value_parser = ["grant", "revoke", "rotate", "cleanup", "discover", "unknown"])]
    verb: Option<String>,
    /// Only this outcome.
    #[arg(long, value_parser = ["succeeded", "unchanged", "superseded", "rejected", "failed"])]
    outcome: Option<String>,
    /// Print whole results, one JSON document a line.
    #[arg(long)]
    json: bool,
}

impl Args {
    /// `audit.<verb>.<outcome>.<integration>`, with `*` for what does not matter.
    fn binding_key(&self) -> String {
        let integration = self.integration.as_deref().map(|name| if name == "unknown" { "_" } else { name });
        let [verb, outcome, integration] = [self.verb.as_deref(), self.outcome.as_deref(), integration].map(|part| part.unwrap_or("*"));
        format!("audit.{verb}.{outcome}.{integration}")
    }
}

/// Prints results until SIGINT or SIGTERM. A broker that goes away is waited for.
pub async fn run(config: &Config, args: &Args) -> Result<u8, CliError> {
    let mut interrupt = signal(SignalKind::interrupt()).map_err(CliError::failed)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(CliError::failed)?;
    tokio::select! {
        failed = follow(config, args) => failed,
        () = either(&mut interrupt, &mut terminate) => Ok(DONE),
    }
}

async fn either(one: &mut Signal, other: &mut Signal) {
    tokio::select! { _ = one.recv() => {}, _ = other.recv() => {} }
}

/// How following goes.
struct Following {
    /// It began once, so the settings are right and what fails now may pass.
    begun: bool,
    /// That the broker is away was said.
    said: bool,
    /// How long to wait before the next try.
    pause: Duration,
}

async fn follow(config: &Config, args: &Args) -> Result<u8, CliError> {
    let key = args.binding_key();
    let mut state = Following { begun: false, said: false, pause: FIRST_PAUSE };
    loop {
        let error = match until_lost(config, &key, args.json, &mut state).await {
            Err(error) if !state.begun || error.is_permanent() => return Err(CliError::failed(error)),
            Err(error) => error,
            Ok(()) => BrokerError::Cancelled { queue: "the results".to_owned() },
        };
        if !state.said {
            output::error(format_args!("{error}; following again as soon as the broker is back"));
            state.said = true;
        }
        tokio::time::sleep(state.pause).await;
        state.pause = (state.pause * 2).min(LONGEST_PAUSE);
    }
}

/// Returns when the broker ended the queue of results.
async fn until_lost(config: &Config, key: &str, json: bool, state: &mut Following) -> Result<(), BrokerError> {
    let client = Client::connect(&config.broker).await?;
    let mut records = client.audit(&[key]).await?;
    if !state.begun {
        output::note(format_args!("following {key}; Ctrl-C ends"));
    }
    *state = Following { begun: true, said: false, pause: FIRST_PAUSE };
    while let Some(record) = records.next().await {
        let record = record?;
        output::line(if json { on_one_line(&record) } else { line(&record) });
    }
    Ok(())
}

fn on_one_line(record: &AuditRecord) -> String {
    match serde_json::from_slice::<serde_json::Value>(&record.body) {
        Ok(value) => value.to_string(),
        Err(_) => serde_json::json!({ "unreadable": record.routing_key }).to_string(),
    }
}

/// Time, verb, outcome, integration, person, grant, code and message; what a result does not have is left out.
fn line(record: &AuditRecord) -> String {
    let Ok(result) = serde_json::from_slice::<AuditEvent>(&record.body) else {
        return output::plain(&format!("{}: a result that this version cannot read", record.routing_key));
    };
    let data = &result.data;
    let finished = data.finished_at.strftime("%Y-%m-%dT%H:%M:%SZ");
    let mut text = format!("{finished}  {:<8} {:<10} {}", data.verb.as_str(), data.outcome.as_str(), data.integration);
    for named in [&data.principal, &data.grant_id].into_iter().flatten() {
        let _ = write!(text, "  {named}");
    }
    if let Some(reason) = &data.reason {
        let _ = write!(text, "  {}: {}", reason.code.as_str(), reason.message);
    }
    output::plain(&text)
}

#[cfg(test)]
mod tests {
    use postern_schemas::{AuditResult, Code, Outcome, Reason, Verb};

    use super::*;

    fn args(integration: Option<&str>, verb: Option<&str>) -> Args {
        Args { integration: integration.map(Into::into), verb: verb.map(Into::into), outcome: None, json: false }
    }

    #[test]
    fn filters_are_the_brokers_to_apply() {
        assert_eq!(args(None, None).binding_key(), "audit.*.*.*");
        assert_eq!(args(Some("orders-prod"), Some("grant")).binding_key(), "audit.grant.*.orders-prod");
        assert_eq!(args(Some("unknown"), None).binding_key(), "audit.*.*._");
    }

    #[test]
    fn a_line_names_what_the_result_is_about() {
        let mut data = AuditResult::new(Verb::Grant, "orders-prod", "//source", "id-1");
        data.outcome = Outcome::Rejected;
        data.principal = Some("jane".to_owned());
        data.grant_id = Some("AR-1".to_owned());
        data.reason = Some(Reason::new(Code::PolicyDenied, "not\nallowed"));
        let event = crate::audit::envelope(uuid::Uuid::nil(), data, None, None);
        let body = serde_json::to_vec(&event).unwrap();
        let record = AuditRecord { routing_key: String::new(), message_id: None, correlation_id: None, body };
        assert_eq!(line(&record), "1970-01-01T00:00:00Z  grant    rejected   orders-prod  jane  AR-1  policy_denied: not allowed");
    }
}
