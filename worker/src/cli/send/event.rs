//! The verbs of `postern send` and the events they make.

use std::path::PathBuf;

use jiff::{SignedDuration, Timestamp};
use serde_json::{Map, Value, json};

use crate::cli::{CliError, apply, duration, permission};

/// The `source` of events that are sent by hand.
const SOURCE: &str = "//postern/send";

/// What is asked.
#[derive(Debug, clap::Subcommand)]
pub(in crate::cli) enum Verb {
    /// Give a person access.
    Grant(Grant),
    /// End a grant, a person's grants, or all.
    Revoke(Revoke),
    /// Replace a person's password, the connector's own, or mark those that are due.
    Rotate(Rotate),
    /// Apply the clean-up policy, or delete a person's account.
    Cleanup(Cleanup),
    /// List what can be granted.
    Discover(Discover),
    /// Send an event from a file, as it is.
    File(File),
}

/// Options of `postern send grant`.
#[derive(Debug, clap::Args)]
#[expect(clippy::struct_field_names, reason = "grant_id is the contract's word")]
pub(super) struct Grant {
    /// The integration.
    #[arg(long)]
    integration: String,
    /// Your name of the grant.
    #[arg(long)]
    grant_id: String,
    /// Who gets access.
    #[arg(long)]
    principal: String,
    /// A higher one replaces the grant; default 1.
    #[arg(long)]
    revision: Option<i64>,
    /// What is given: `database[.schema[.table,table]]:level`, or JSON. Repeatable.
    #[arg(long = "permission", value_name = "SCOPE:LEVEL", value_parser = permission::parse)]
    permissions: Vec<Value>,
    /// An existing role to be a member of. Repeatable.
    #[arg(long = "role", value_name = "ROLE")]
    roles: Vec<String>,
    /// How long it lasts, such as 90m, 2h or 7d.
    #[arg(long, value_name = "TIME", value_parser = duration::parse, conflicts_with = "expires_at")]
    expires_in: Option<SignedDuration>,
    /// When it ends, in RFC 3339.
    #[arg(long, value_name = "MOMENT")]
    expires_at: Option<String>,
    /// Return a password in the result, sealed to this age recipient.
    #[arg(long, value_name = "RECIPIENT")]
    age: Option<String>,
    /// Why it was asked.
    #[arg(long, value_name = "TEXT")]
    justification: Option<String>,
    /// Who asked.
    #[arg(long, value_name = "WHO")]
    requested_by: Option<String>,
    /// Who approved. Repeatable.
    #[arg(long, value_name = "WHO")]
    approved_by: Vec<String>,
}

/// Options of `postern send revoke`.
#[derive(Debug, clap::Args)]
pub(super) struct Revoke {
    /// The integration.
    #[arg(long)]
    integration: String,
    /// End this grant for good.
    #[arg(long)]
    grant_id: Option<String>,
    /// End all grants of this person.
    #[arg(long)]
    principal: Option<String>,
    /// End all grants of the integration.
    #[arg(long)]
    all: bool,
    /// Why, for the audit.
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
}

/// Options of `postern send rotate`.
#[derive(Debug, clap::Args)]
pub(super) struct Rotate {
    /// The integration.
    #[arg(long)]
    integration: String,
    /// Reset this person's password now.
    #[arg(long)]
    principal: Option<String>,
    /// Return the password in the result, sealed to this age recipient.
    #[arg(long, value_name = "RECIPIENT")]
    age: Option<String>,
    /// Rotate Postern's own credential.
    #[arg(long)]
    connector: bool,
}

/// Options of `postern send cleanup`.
#[derive(Debug, clap::Args)]
pub(super) struct Cleanup {
    /// The integration.
    #[arg(long)]
    integration: String,
    /// Delete this person's account now.
    #[arg(long)]
    principal: Option<String>,
}

/// Options of `postern send discover`.
#[derive(Debug, clap::Args)]
pub(super) struct Discover {
    /// The integration.
    #[arg(long)]
    integration: String,
    /// database, schema, table, role or function; default all. Repeatable.
    #[arg(long = "type", value_name = "TYPE")]
    types: Vec<String>,
}

/// Options of `postern send file`.
#[derive(Debug, clap::Args)]
pub(super) struct File {
    /// A CloudEvent in JSON; - for standard input.
    event: PathBuf,
}

/// Collects the fields of `data` that were given.
#[derive(Default)]
struct Data(Map<String, Value>);

impl Data {
    fn of(integration: &str) -> Self {
        Self::default().with("integration", Some(integration))
    }

    fn with(mut self, name: &str, value: Option<impl Into<Value>>) -> Self {
        if let Some(value) = value {
            self.0.insert(name.to_owned(), value.into());
        }
        self
    }
}

impl Verb {
    /// The event's body. Nothing is checked that the event's own rules check.
    pub(super) fn body(&self, id: Option<&str>, source: Option<&str>) -> Result<Vec<u8>, CliError> {
        let now = Timestamp::now();
        let (verb, data) = match self {
            Self::Grant(grant) => ("grant", grant.data(now)),
            Self::Revoke(revoke) => ("revoke", revoke.data()),
            Self::Rotate(rotate) => ("rotate", rotate.data()),
            Self::Cleanup(cleanup) => ("cleanup", Data::of(&cleanup.integration).with("principal", cleanup.principal.as_deref())),
            Self::Discover(discover) => ("discover", discover.data()),
            Self::File(file) => {
                if id.is_some() || source.is_some() {
                    return Err(CliError::Usage("--id and --source stand in the file; leave them out".to_owned()));
                }
                return apply::read(&file.event);
            }
        };
        let event = json!({
            "specversion": "1.0",
            "id": id.map_or_else(|| uuid::Uuid::now_v7().to_string(), ToOwned::to_owned),
            "source": source.unwrap_or(SOURCE),
            "type": format!("postern.access.{verb}.v1"),
            "time": now.to_string(),
            "datacontenttype": "application/json",
            "data": data.0,
        });
        serde_json::to_vec(&event).map_err(CliError::failed)
    }
}

fn sealed_to(recipient: Option<&String>) -> Option<Value> {
    recipient.map(|recipient| json!({ "deliver": "age", "recipient": recipient }))
}

impl Grant {
    fn data(&self, now: Timestamp) -> Data {
        let roles = self.roles.iter().map(|role| json!({ "role": role }));
        let permissions: Vec<Value> = self.permissions.iter().cloned().chain(roles).collect();
        // Out of range: the event's rules say so.
        let expires = self.expires_in.map(|after| now.checked_add(after).unwrap_or(Timestamp::MAX).to_string());
        Data::of(&self.integration)
            .with("grant_id", Some(self.grant_id.as_str()))
            .with("revision", self.revision)
            .with("principal", Some(self.principal.as_str()))
            .with("permissions", Some(permissions))
            .with("expires_at", expires.or_else(|| self.expires_at.clone()))
            .with("credential", sealed_to(self.age.as_ref()))
            .with("justification", self.justification.as_deref())
            .with("requested_by", self.requested_by.as_deref())
            .with("approved_by", (!self.approved_by.is_empty()).then(|| self.approved_by.clone()))
    }
}

impl Revoke {
    fn data(&self) -> Data {
        Data::of(&self.integration)
            .with("grant_id", self.grant_id.as_deref())
            .with("principal", self.principal.as_deref())
            .with("all", self.all.then_some(true))
            .with("reason", self.reason.as_deref())
    }
}

impl Rotate {
    fn data(&self) -> Data {
        Data::of(&self.integration)
            .with("principal", self.principal.as_deref())
            .with("connector", self.connector.then_some(true))
            .with("credential", sealed_to(self.age.as_ref()))
    }
}

impl Discover {
    fn data(&self) -> Data {
        Data::of(&self.integration).with("resource_types", (!self.types.is_empty()).then(|| self.types.clone()))
    }
}
