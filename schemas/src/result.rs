//! The outbound audit result.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

use crate::names::Identifier;
use crate::request::Verb;
use crate::store::StoreRef;

/// The most entries that any list of a result holds; the `…_total` beside it counts all.
pub const MAX_LIST: usize = 100;

/// A result as published: CloudEvents 1.0, JSON structured mode.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct AuditEvent {
    /// Always `1.0`.
    pub specversion: String,
    /// `UUIDv5`, see the contract: equal for every repeat of one result.
    pub id: Uuid,
    /// `//postern/<integration>`, `_` for an unknown one.
    pub source: String,
    /// `postern.audit.<verb>.v1`.
    #[serde(rename = "type")]
    pub kind: String,
    /// When the outcome was settled; absent where it follows from the event's body alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time: Option<Timestamp>,
    /// The event's `subject`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// The event's trace context.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<String>,
    /// Always `application/json`.
    pub datacontenttype: String,
    /// The result itself.
    pub data: AuditResult,
}

/// What became of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Something changed.
    Succeeded,
    /// It was already so.
    Unchanged,
    /// A later fact wins.
    Superseded,
    /// The event is wrong or policy forbids it.
    Rejected,
    /// It could not be done, or not entirely, within its limits. Never final.
    Failed,
}

impl Outcome {
    /// The contract's spelling, also in routing keys.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Succeeded => "succeeded",
            Self::Unchanged => "unchanged",
            Self::Superseded => "superseded",
            Self::Rejected => "rejected",
            Self::Failed => "failed",
        }
    }
}

/// Why; the closed list of codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the names are the contract's words")]
pub enum Code {
    InvalidEvent,
    IdConflict,
    EventTooOld,
    UnknownIntegration,
    UnknownType,
    PolicyDenied,
    SignatureInvalid,
    RoleNotManaged,
    ForbiddenRole,
    NotFound,
    PermissionMissing,
    SecretUnavailable,
    TargetUnreachable,
    SessionSurvives,
    ObjectsOwned,
    Revoked,
    Expired,
    LowerRevision,
    Poison,
    Internal,
}

impl Code {
    /// The contract's spelling.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::InvalidEvent => "invalid_event",
            Self::IdConflict => "id_conflict",
            Self::EventTooOld => "event_too_old",
            Self::UnknownIntegration => "unknown_integration",
            Self::UnknownType => "unknown_type",
            Self::PolicyDenied => "policy_denied",
            Self::SignatureInvalid => "signature_invalid",
            Self::RoleNotManaged => "role_not_managed",
            Self::ForbiddenRole => "forbidden_role",
            Self::NotFound => "not_found",
            Self::PermissionMissing => "permission_missing",
            Self::SecretUnavailable => "secret_unavailable",
            Self::TargetUnreachable => "target_unreachable",
            Self::SessionSurvives => "session_survives",
            Self::ObjectsOwned => "objects_owned",
            Self::Revoked => "revoked",
            Self::Expired => "expired",
            Self::LowerRevision => "lower_revision",
            Self::Poison => "poison",
            Self::Internal => "internal",
        }
    }
}

/// The reason of an outcome. Its texts never hold a password, a verifier or a secret's value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Reason {
    /// The code that programs decide on.
    pub code: Code,
    /// One sentence for people.
    pub message: String,
    /// The path of the event's field that is meant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    /// The server's SQLSTATE where one decided.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sqlstate: Option<String>,
}

impl Reason {
    /// A reason without field and SQLSTATE.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), field: None, sqlstate: None }
    }

    /// Names the event's field that is meant.
    #[must_use]
    pub fn at(mut self, field: impl Into<String>) -> Self {
        self.field = Some(field.into());
        self
    }
}

/// How the person connects.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AccessDetails {
    /// Host name of the server.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// The databases that the person's grant opens.
    pub databases: Vec<Identifier>,
    /// The name to log in with.
    pub username: String,
    /// A connection URI without a password.
    pub uri: String,
    /// The operator's own words, at most 400 characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instructions: Option<String>,
}

/// What happened to the person's password.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CredentialStatus {
    /// A new one was made and handed over.
    Delivered,
    /// The person keeps the one in hand.
    Unchanged,
    /// None was asked for.
    NotApplicable,
}

/// The credential part of a result.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Credential {
    /// What happened.
    pub status: CredentialStatus,
    /// How many passwords the account has had; 0 for none.
    pub generation: i32,
    /// The sealed credential (ASCII-armored age file); JSON `{"username","password","uri"}` inside.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sealed: Option<String>,
    /// Where the credential was written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<StoreRef>,
}

/// One thing done, or one thing found different from the ledger.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub struct Change {
    /// What kind, such as `create_role`, `grant_membership`.
    pub kind: String,
    /// On what.
    pub target: String,
}

impl Change {
    /// A change of `kind` on `target`.
    pub fn new(kind: &str, target: impl Into<String>) -> Self {
        Self { kind: kind.to_owned(), target: target.into() }
    }
}

/// One object that keeps an account from being dropped.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub struct Blocker {
    /// The database it is in; absent for what belongs to the whole server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub database: Option<String>,
    /// The object, as PostgreSQL describes it.
    pub object: String,
}

/// The `data` of a result.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct AuditResult {
    /// The event's `id`; empty when it could not be read.
    pub event_id: String,
    /// The event's `source`; empty when it could not be read.
    pub event_source: String,
    /// The event's verb.
    pub verb: Verb,
    /// The event's integration; `unknown` when it could not be read.
    pub integration: String,
    /// The grant it is about.
    pub grant_id: Option<String>,
    /// The grant's revision.
    pub revision: Option<i32>,
    /// The person it is about.
    pub principal: Option<String>,
    /// The person's role on the server.
    pub role: Option<String>,
    /// What became of the event.
    pub outcome: Outcome,
    /// Whether no other result follows.
    #[serde(rename = "final")]
    pub is_final: bool,
    /// Why, where there is something to say.
    pub reason: Option<Reason>,
    /// How to connect, for a grant in effect.
    pub access: Option<AccessDetails>,
    /// The person's credential, for grants and rotations.
    pub credential: Option<Credential>,
    /// When the grant ends by itself.
    pub expires_at: Option<Timestamp>,
    /// What was done.
    pub changes: Vec<Change>,
    /// How many things were done.
    pub changes_total: usize,
    /// The `grant_id`s that a wide revoke or a cleanup ended.
    pub ended: Vec<String>,
    /// How many grants were ended.
    pub ended_total: usize,
    /// What was found different from the ledger.
    pub drift: Vec<Change>,
    /// How many differences were found.
    pub drift_total: usize,
    /// What keeps an account from being dropped.
    pub blocked: Vec<Blocker>,
    /// How many objects do.
    pub blocked_total: usize,
    /// What the reader should know.
    pub warnings: Vec<String>,
    /// How many warnings there are.
    pub warnings_total: usize,
    /// Sessions ended on the server.
    pub sessions_terminated: u32,
    /// Which try this result comes from.
    #[serde(default)]
    pub attempt: u32,
    /// When a worker first took the event up.
    #[serde(default)]
    pub received_at: Timestamp,
    /// When this copy of the result was made.
    #[serde(default)]
    pub finished_at: Timestamp,
    /// Which worker made it.
    #[serde(default)]
    pub worker: String,
    /// What was listed, for `discover`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<Vec<Value>>,
}

impl AuditResult {
    /// A result that says nothing yet but whose event it is.
    pub fn new(verb: Verb, integration: &str, source: &str, id: &str) -> Self {
        Self {
            event_id: id.to_owned(),
            event_source: source.to_owned(),
            verb,
            integration: integration.to_owned(),
            grant_id: None,
            revision: None,
            principal: None,
            role: None,
            outcome: Outcome::Unchanged,
            is_final: true,
            reason: None,
            access: None,
            credential: None,
            expires_at: None,
            changes: Vec::new(),
            changes_total: 0,
            ended: Vec::new(),
            ended_total: 0,
            drift: Vec::new(),
            drift_total: 0,
            blocked: Vec::new(),
            blocked_total: 0,
            warnings: Vec::new(),
            warnings_total: 0,
            sessions_terminated: 0,
            attempt: 1,
            received_at: Timestamp::UNIX_EPOCH,
            finished_at: Timestamp::UNIX_EPOCH,
            worker: String::new(),
            resources: None,
        }
    }

    /// Cuts every list to [`MAX_LIST`] entries, sorted where the order says nothing; the totals keep the full count.
    #[must_use]
    pub fn capped(mut self) -> Self {
        fn cap<T>(list: &mut Vec<T>, total: &mut usize) {
            *total = (*total).max(list.len());
            list.truncate(MAX_LIST);
        }
        cap(&mut self.changes, &mut self.changes_total);
        cap(&mut self.ended, &mut self.ended_total);
        cap(&mut self.drift, &mut self.drift_total);
        cap(&mut self.blocked, &mut self.blocked_total);
        cap(&mut self.warnings, &mut self.warnings_total);
        self
    }
}
