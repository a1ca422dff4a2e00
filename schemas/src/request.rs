//! What an event asks for: its `data`.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::fields::{Fields, FromText};
use crate::grant::{Deliver, Grant};
use crate::names::{GrantId, IntegrationId, Principal};

/// The five verbs of `postern.access.<verb>.v1`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Verb {
    /// Opens or replaces a grant.
    Grant,
    /// Ends grants.
    Revoke,
    /// Replaces passwords.
    Rotate,
    /// Applies the clean-up policy, or removes one person.
    Cleanup,
    /// Lists what can be granted.
    Discover,
    /// A result's verb when the event's could not be read.
    Unknown,
}

impl Verb {
    /// The verbs that an event may have.
    pub const ALL: [Self; 5] = [Self::Grant, Self::Revoke, Self::Rotate, Self::Cleanup, Self::Discover];

    /// The contract's spelling.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Grant => "grant",
            Self::Revoke => "revoke",
            Self::Rotate => "rotate",
            Self::Cleanup => "cleanup",
            Self::Discover => "discover",
            Self::Unknown => "unknown",
        }
    }

    /// The verb of a CloudEvents `type`, if it is one of this contract's version.
    pub fn of_type(kind: &str) -> Option<Self> {
        let verb = kind.strip_prefix("postern.access.")?.strip_suffix(".v1")?;
        Self::ALL.into_iter().find(|v| v.as_str() == verb)
    }
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The decoded `data` of an event, by verb.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Request {
    /// See [`Grant`].
    Grant(Grant),
    /// See [`Revoke`].
    Revoke(Revoke),
    /// See [`Rotate`].
    Rotate(Rotate),
    /// See [`Cleanup`].
    Cleanup(Cleanup),
    /// See [`Discover`].
    Discover(Discover),
}

impl Request {
    /// The verb it was sent under.
    pub fn verb(&self) -> Verb {
        match self {
            Self::Grant(_) => Verb::Grant,
            Self::Revoke(_) => Verb::Revoke,
            Self::Rotate(_) => Verb::Rotate,
            Self::Cleanup(_) => Verb::Cleanup,
            Self::Discover(_) => Verb::Discover,
        }
    }

    /// The integration it is for.
    pub fn integration(&self) -> &IntegrationId {
        match self {
            Self::Grant(grant) => &grant.integration,
            Self::Revoke(revoke) => revoke.integration(),
            Self::Rotate(rotate) => rotate.integration(),
            Self::Cleanup(cleanup) => &cleanup.integration,
            Self::Discover(discover) => &discover.integration,
        }
    }

    /// Reads `data` of the given verb. `None` when a mistake was recorded.
    pub(crate) fn read(verb: Verb, data: Fields<'_>) -> Option<Self> {
        match verb {
            Verb::Grant => Grant::read(data).map(Self::Grant),
            Verb::Revoke => Revoke::read(data).map(Self::Revoke),
            Verb::Rotate => Rotate::read(data).map(Self::Rotate),
            Verb::Cleanup => Cleanup::read(data).map(Self::Cleanup),
            Verb::Discover => Discover::read(data).map(Self::Discover),
            Verb::Unknown => None,
        }
    }
}

/// A marker that can only be `true`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(transparent)]
pub struct True(#[schemars(extend("const" = true))] bool);

/// Ends grants: exactly one of one grant, one person's, or all.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum Revoke {
    /// Ends one grant for good.
    Grant(RevokeGrant),
    /// Ends all grants of one person that were asked until now.
    Principal(RevokePrincipal),
    /// Ends all grants of the integration that were asked until now: the panic button.
    All(RevokeAll),
}

/// See [`Revoke::Grant`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RevokeGrant {
    /// The integration.
    pub integration: IntegrationId,
    /// The grant.
    pub grant_id: GrantId,
    /// Free text for the audit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// See [`Revoke::Principal`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RevokePrincipal {
    /// The integration.
    pub integration: IntegrationId,
    /// The person.
    pub principal: Principal,
    /// Free text for the audit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// See [`Revoke::All`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RevokeAll {
    /// The integration.
    pub integration: IntegrationId,
    /// Always `true`.
    pub all: True,
    /// Free text for the audit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl Revoke {
    /// The integration it is for.
    pub fn integration(&self) -> &IntegrationId {
        match self {
            Self::Grant(r) => &r.integration,
            Self::Principal(r) => &r.integration,
            Self::All(r) => &r.integration,
        }
    }

    fn read(data: Fields<'_>) -> Option<Self> {
        let integration = data.required_text("integration");
        let grant_id = data.text("grant_id");
        let principal = data.text("principal");
        let all = data.only_true("all");
        let reason = data.text("reason");
        one_of(&data, &["grant_id", "principal", "all"], true);
        data.finish();
        let integration = integration?;
        match (grant_id, principal, all) {
            (Some(grant_id), None, false) => Some(Self::Grant(RevokeGrant { integration, grant_id, reason })),
            (None, Some(principal), false) => Some(Self::Principal(RevokePrincipal { integration, principal, reason })),
            (None, None, true) => Some(Self::All(RevokeAll { integration, all: True(true), reason })),
            _ => None,
        }
    }
}

/// Replaces passwords: one person's now, the connector's own, or what policy finds due.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum Rotate {
    /// Resets one person's password now.
    Principal(RotatePrincipal),
    /// Rotates Postern's own credential in the integration's secret store.
    Connector(RotateConnector),
    /// Applies the policy `credential_rotation_days`.
    Policy(RotatePolicy),
}

/// See [`Rotate::Principal`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RotatePrincipal {
    /// The integration.
    pub integration: IntegrationId,
    /// The person.
    pub principal: Principal,
    /// How the new password reaches the person; default `none`.
    #[schemars(default)]
    pub credential: Deliver,
}

/// See [`Rotate::Connector`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RotateConnector {
    /// The integration.
    pub integration: IntegrationId,
    /// Always `true`.
    pub connector: True,
}

/// See [`Rotate::Policy`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RotatePolicy {
    /// The integration.
    pub integration: IntegrationId,
}

impl Rotate {
    /// The integration it is for.
    pub fn integration(&self) -> &IntegrationId {
        match self {
            Self::Principal(r) => &r.integration,
            Self::Connector(r) => &r.integration,
            Self::Policy(r) => &r.integration,
        }
    }

    fn read(data: Fields<'_>) -> Option<Self> {
        let integration = data.required_text("integration");
        let principal = data.text("principal");
        let connector = data.only_true("connector");
        let credential = data.object("credential").map_or(Some(Deliver::None), Deliver::read);
        one_of(&data, &["principal", "connector"], false);
        if data.has("credential") && !data.has("principal") {
            data.problem("credential", "goes with principal only");
        }
        data.finish();
        let integration = integration?;
        match (principal, connector) {
            (Some(principal), false) => Some(Self::Principal(RotatePrincipal { integration, principal, credential: credential? })),
            (None, true) => Some(Self::Connector(RotateConnector { integration, connector: True(true) })),
            (None, false) => Some(Self::Policy(RotatePolicy { integration })),
            (Some(_), true) => None,
        }
    }
}

/// Applies the clean-up policy, or removes one person.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Cleanup {
    /// The integration.
    pub integration: IntegrationId,
    /// The person to remove now; absent: apply the policy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub principal: Option<Principal>,
}

impl Cleanup {
    fn read(data: Fields<'_>) -> Option<Self> {
        let integration = data.required_text("integration");
        let principal = data.text("principal");
        data.finish();
        Some(Self { integration: integration?, principal })
    }
}

/// What [`Discover`] can list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the names say it")]
pub enum ResourceType {
    Database,
    Schema,
    Table,
    Role,
    Function,
}

impl FromText for ResourceType {
    fn from_text(text: &str) -> Result<Self, String> {
        match text {
            "database" => Ok(Self::Database),
            "schema" => Ok(Self::Schema),
            "table" => Ok(Self::Table),
            "role" => Ok(Self::Role),
            "function" => Ok(Self::Function),
            other => Err(format!("{other:?} is not a resource type; expected database, schema, table, role or function")),
        }
    }
}

/// Lists the resources of an integration and the levels that can be granted on each.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Discover {
    /// The integration.
    pub integration: IntegrationId,
    /// What to list; absent: everything.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resource_types: Option<Vec<ResourceType>>,
}

impl Discover {
    fn read(data: Fields<'_>) -> Option<Self> {
        let integration = data.required_text("integration");
        let resource_types = data.texts("resource_types");
        data.finish();
        Some(Self { integration: integration?, resource_types })
    }
}

/// Records a mistake unless exactly one (or, when not `needed`, at most one) of `names` is there.
fn one_of(data: &Fields<'_>, names: &[&str], needed: bool) {
    let met: Vec<&str> = names.iter().copied().filter(|name| data.has(name)).collect();
    if met.len() > 1 || (needed && met.is_empty()) {
        let met = if met.is_empty() { "none".to_owned() } else { met.join(" and ") };
        let bound = if needed { "exactly" } else { "at most" };
        data.problem_here(format!("expected {bound} one of {}, met {met}", names.join(", ")));
    }
}
