//! `postern send`: an event as a producer would publish it.

mod event;

use std::time::Duration;

use futures_util::StreamExt as _;
use postern_schemas::event::DecodeError;
use postern_schemas::result::AuditEvent;
use postern_schemas::{Event, Outcome, Request};
use serde_json::Value;

use super::{CliError, DONE, FAILED, duration, output};
use crate::broker::Client;
use crate::config::Config;
use crate::execution;

/// Arguments of `postern send`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    verb: event::Verb,
    /// The event's id; a new one by default. The same id again is the same event.
    #[arg(long, global = true)]
    id: Option<String>,
    /// The event's source; default //postern/send.
    #[arg(long, global = true)]
    source: Option<String>,
    /// Wait for the result and print it; fails when it is rejected or failed.
    #[arg(long, global = true)]
    wait: bool,
    /// How long to wait.
    #[arg(long, global = true, value_name = "TIME", default_value = "60s", value_parser = duration::wait)]
    timeout: Duration,
    /// Print the event without publishing it.
    #[arg(long, global = true, visible_alias = "json", conflicts_with = "wait")]
    dry_run: bool,
}

/// Publishes the event and prints its id, or its result. Nothing is published that is not valid.
pub async fn run(config: impl FnOnce() -> Result<Config, CliError>, args: &Args) -> Result<u8, CliError> {
    let body = args.verb.body(args.id.as_deref(), args.source.as_deref())?;
    let event = check(&body)?;
    if args.dry_run {
        let shown: Value = serde_json::from_slice(&body).map_err(CliError::failed)?;
        output::json(&shown);
        return Ok(DONE);
    }
    let config = config()?;
    let client = Client::connect(&config.broker).await.map_err(CliError::failed)?;
    let sent = if args.wait {
        publish_and_wait(&client, &event, &body, args.timeout).await
    } else {
        publish(&client, &event, &body).await.map(|()| {
            output::line(&event.id);
            DONE
        })
    };
    client.close().await;
    sent
}

/// Decodes the event as a worker would. All mistakes are named.
fn check(body: &[u8]) -> Result<Event, CliError> {
    let event = Event::decode(body).map_err(|error| match error {
        DecodeError::Undecodable(message) => CliError::Usage(message),
        DecodeError::UnknownType { met, .. } => {
            CliError::Usage(format!("type: {met:?} is not known; expected postern.access.{{grant,revoke,rotate,cleanup,discover}}.v1"))
        }
        DecodeError::Invalid { problems, .. } => {
            let lines: Vec<String> = problems.iter().map(|problem| format!("\n  {problem}")).collect();
            CliError::Usage(format!("the event is not valid:{}", lines.concat()))
        }
    })?;
    // Whether a verb is available is the worker's to say: it may be of another version.
    if !matches!(event.request, Request::Discover(_)) {
        execution::check_body(&event).map_err(|reason| {
            CliError::Usage(format!("the event is not valid:\n  {}: {}", reason.field.unwrap_or_default(), reason.message))
        })?;
    }
    Ok(event)
}

async fn publish(client: &Client, event: &Event, body: &[u8]) -> Result<(), CliError> {
    let routing_key = format!("access.{}.{}", event.request.verb(), event.request.integration());
    client.publish_event(&routing_key, body, event.id.as_str()).await.map_err(CliError::failed)
}

async fn publish_and_wait(client: &Client, event: &Event, body: &[u8], timeout: Duration) -> Result<u8, CliError> {
    let (verb, integration) = (event.request.verb(), event.request.integration());
    // The second: a worker that does not know the integration says so under another key.
    let keys = [format!("audit.{verb}.*.{integration}"), format!("audit.{verb}.*._")];
    let mut results = client.audit(&[&keys[0], &keys[1]]).await.map_err(CliError::failed)?;
    publish(client, event, body).await?;
    let waiting = async {
        while let Some(record) = results.next().await {
            let record =
                record.map_err(|error| CliError::Failed(format!("event {} is published, but its result was missed: {error}", event.id)))?;
            if let Some(outcome) = outcome_of(event, &record.body) {
                return Ok((outcome, record.body));
            }
        }
        Err(CliError::Failed(format!("event {} is published, but the broker ended the queue of results", event.id)))
    };
    let (outcome, result) = tokio::time::timeout(timeout, waiting).await.map_err(|_| {
        CliError::Failed(format!(
            "no result of event {} within {} s; it is published and will be carried out once a worker can: `postern watch` shows its result",
            event.id,
            timeout.as_secs()
        ))
    })??;
    let result: Value = serde_json::from_slice(&result).map_err(CliError::failed)?;
    output::json(&result);
    Ok(if matches!(outcome, Outcome::Rejected | Outcome::Failed) { FAILED } else { DONE })
}

/// The outcome, if the body is this event's result.
fn outcome_of(event: &Event, body: &[u8]) -> Option<Outcome> {
    let result: AuditEvent = serde_json::from_slice(body).ok()?;
    let data = result.data;
    let same = data.event_id == event.id.as_str()
        && data.event_source == event.source.as_str()
        && data.integration == event.request.integration().as_str();
    same.then_some(data.outcome)
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(Debug, clap::Parser)]
    struct Sending {
        #[command(flatten)]
        args: Args,
    }

    fn parse(line: &[&str]) -> Args {
        Sending::try_parse_from(["send"].iter().chain(line)).unwrap().args
    }

    fn event(line: &[&str]) -> Result<Value, String> {
        let args = parse(line);
        let body = args.verb.body(args.id.as_deref(), args.source.as_deref()).unwrap();
        check(&body).map_err(|error| error.to_string())?;
        Ok(serde_json::from_slice(&body).unwrap())
    }

    #[test]
    fn every_verb_makes_a_valid_event() {
        for line in [
            vec!["grant", "--integration", "i", "--grant-id", "g", "--principal", "p", "--permission", "d.s:read_only", "--role", "r"],
            vec!["revoke", "--integration", "i", "--grant-id", "g", "--reason", "done"],
            vec!["revoke", "--integration", "i", "--principal", "p"],
            vec!["revoke", "--integration", "i", "--all"],
            vec!["rotate", "--integration", "i", "--principal", "p"],
            vec!["rotate", "--integration", "i", "--connector"],
            vec!["rotate", "--integration", "i"],
            vec!["cleanup", "--integration", "i"],
            vec!["cleanup", "--integration", "i", "--principal", "p"],
            vec!["discover", "--integration", "i", "--type", "table", "--type", "role"],
        ] {
            let made = event(&line).unwrap_or_else(|error| panic!("{line:?}: {error}"));
            assert_eq!(made["type"], format!("postern.access.{}.v1", line[0]));
            assert_eq!(made["source"], "//postern/send");
        }
    }

    #[test]
    fn options_reach_the_event() {
        let made = event(&[
            "grant",
            "--id",
            "x-1",
            "--source",
            "//me",
            "--integration",
            "i",
            "--grant-id",
            "g",
            "--revision",
            "3",
            "--principal",
            "p",
            "--permission",
            r#"{"database":"a.b","access":"admin"}"#,
            "--expires-in",
            "2h",
            "--justification",
            "INC-1",
            "--requested-by",
            "me",
            "--approved-by",
            "a",
            "--approved-by",
            "b",
        ])
        .unwrap();
        assert_eq!((&made["id"], &made["source"]), (&"x-1".into(), &"//me".into()));
        let data = &made["data"];
        assert_eq!((&data["revision"], &data["permissions"][0]["database"]), (&3.into(), &"a.b".into()));
        assert_eq!((&data["justification"], &data["approved_by"]), (&"INC-1".into(), &serde_json::json!(["a", "b"])));
        let time = |text: &Value| text.as_str().and_then(|t| t.parse::<jiff::Timestamp>().ok()).unwrap();
        assert_eq!(time(&data["expires_at"]).duration_since(time(&made["time"])), jiff::SignedDuration::from_hours(2));
    }

    #[test]
    fn all_mistakes_are_named() {
        let message =
            event(&["grant", "--integration", "No!", "--grant-id", "", "--principal", "p", "--revision", "0", "--age", "x"]).unwrap_err();
        for path in ["data.integration:", "data.grant_id:", "data.revision:", "data.permissions:"] {
            assert!(message.contains(path), "{path} not in {message}");
        }
        let recipient = ["rotate", "--integration", "i", "--principal", "p", "--age", "age1nonsense"];
        assert!(event(&recipient).unwrap_err().contains("recipient"));
        assert!(event(&["revoke", "--integration", "i"]).unwrap_err().contains("exactly one of"));
    }

    #[test]
    fn a_result_is_known_by_the_whole_key() {
        let body = parse(&["revoke", "--integration", "i", "--all", "--id", "1"]).verb.body(Some("1"), None).unwrap();
        let event = check(&body).unwrap();
        let result = |integration: &str, source: &str, id: &str| {
            let data = postern_schemas::AuditResult::new(event.request.verb(), integration, source, id);
            serde_json::to_vec(&crate::audit::envelope(uuid::Uuid::nil(), data, None, None)).unwrap()
        };
        assert_eq!(outcome_of(&event, &result("i", "//postern/send", "1")), Some(Outcome::Unchanged));
        for other in [result("j", "//postern/send", "1"), result("i", "//other", "1"), result("i", "//postern/send", "2"), b"{".to_vec()] {
            assert_eq!(outcome_of(&event, &other), None);
        }
    }
}
