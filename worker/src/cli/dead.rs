//! `postern dead`: the events that were given up.

use postern_schemas::Event;
use serde_json::{Value, json};

use super::{CliError, DONE, output};
use crate::broker::{Client, DeadMessage, Selection};
use crate::config::Config;
use crate::retry::FORGET;

/// How many messages `list` takes out to look at unless told otherwise.
const LISTED: usize = 1000;

/// Arguments of `postern dead`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// One line an event: its id here, when and why it was given up, what it is.
    List {
        /// At most so many, oldest first.
        #[arg(long, default_value_t = LISTED)]
        max: usize,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// One event with its headers and body.
    Show {
        /// As `list` shows it.
        id: String,
        /// Print the body alone, byte for byte.
        #[arg(long)]
        body: bool,
    },
    /// Try events again, as if they had just come.
    Replay(Which),
    /// Remove events for good.
    Drop(Which),
}

#[derive(Debug, clap::Args)]
struct Which {
    /// As `list` shows them.
    #[arg(required_unless_present = "all")]
    ids: Vec<String>,
    /// All that are there now.
    #[arg(long, conflicts_with = "ids")]
    all: bool,
}

impl Which {
    fn selection(&self) -> Selection<'_> {
        if self.all { Selection::All } else { Selection::Ids(&self.ids) }
    }

    /// Prints what was done; an id that was not there is a failure.
    fn report(&self, done: &[String]) -> Result<u8, CliError> {
        done.iter().for_each(output::line);
        let missing: Vec<&str> = self.ids.iter().filter(|id| !done.contains(id)).map(String::as_str).collect();
        if !missing.is_empty() {
            return Err(not_there(&missing));
        }
        if done.is_empty() {
            output::note("nothing has been given up");
        }
        Ok(DONE)
    }
}

/// Runs one of the four.
pub async fn run(config: &Config, args: Args) -> Result<u8, CliError> {
    let client = Client::connect(&config.broker).await.map_err(CliError::failed)?;
    let done = on(&client, args.command).await;
    client.close().await;
    done
}

async fn on(client: &Client, command: Command) -> Result<u8, CliError> {
    match command {
        Command::List { max, json } => {
            list(&client.dead_peek(max).await.map_err(CliError::failed)?, json);
            Ok(DONE)
        }
        Command::Show { id, body } => {
            let messages = client.dead_peek(usize::MAX).await.map_err(CliError::failed)?;
            let message = messages.iter().find(|message| message.id == id).ok_or_else(|| not_there(&[&id]))?;
            if body {
                output::bytes(&message.body);
            } else {
                output::json(&whole(message));
            }
            Ok(DONE)
        }
        Command::Replay(which) => {
            let done = client.dead_replay(which.selection(), &FORGET).await.map_err(CliError::failed)?;
            which.report(&done)
        }
        Command::Drop(which) => {
            let done = client.dead_drop(which.selection()).await.map_err(CliError::failed)?;
            which.report(&done)
        }
    }
}

fn not_there(ids: &[&str]) -> CliError {
    CliError::Failed(format!("not among the dead: {}; `postern dead list` shows what is", ids.join(", ")))
}

fn list(messages: &[DeadMessage], json: bool) {
    if json {
        output::json(&messages.iter().map(summary).collect::<Vec<_>>());
        return;
    }
    if messages.is_empty() {
        output::note("nothing has been given up");
        return;
    }
    let rows: Vec<_> =
        messages.iter().map(summary).map(|s| ["id", "dead_at", "reason", "routing_key", "event"].map(|key| text(&s, key))).collect();
    output::table(["ID", "GIVEN UP", "REASON", "ROUTING KEY", "EVENT"], &rows);
}

fn text(summary: &Value, key: &str) -> String {
    summary[key].as_str().unwrap_or_default().to_owned()
}

/// What `list` shows of a message.
fn summary(message: &DeadMessage) -> Value {
    let event = Event::decode(&message.body).ok();
    json!({
        "id": message.id,
        "dead_at": message.headers.get_str("postern-dead-at"),
        "reason": if message.by_broker { Some("delivery_limit") } else { message.headers.get_str("postern-reason") },
        "routing_key": message.routing_key,
        "event": event.map(|event| event.id.to_string()).or_else(|| message.message_id.clone()),
        "bytes": message.body.len(),
    })
}

/// What `show` shows: the body as JSON where it is some, as text otherwise.
fn whole(message: &DeadMessage) -> Value {
    let mut shown = summary(message);
    let headers: serde_json::Map<_, _> = message.headers.iter().map(|(name, value)| (name.to_owned(), value.into())).collect();
    shown["headers"] = headers.into();
    shown["body"] = serde_json::from_slice(&message.body).unwrap_or_else(|_| String::from_utf8_lossy(&message.body).into_owned().into());
    shown
}
