//! A grant: who gets what, until when, and how a password reaches the person.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::fields::Fields;
use crate::names::{GrantId, IntegrationId, Principal};
use crate::permission::Permission;
use crate::store::StoreRef;

/// The most permissions that one grant may name.
pub const MAX_PERMISSIONS: usize = 200;

/// Gives a person access until it expires or is revoked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Grant {
    /// The integration whose server is meant.
    pub integration: IntegrationId,
    /// The producer's name of this grant; belongs to one principal for good.
    pub grant_id: GrantId,
    /// A higher one replaces the grant; default 1.
    #[schemars(range(min = 1, max = 2_147_483_647), extend("default" = 1))]
    pub revision: i32,
    /// Who gets access.
    pub principal: Principal,
    /// What is given: 1 to 200 entries.
    #[schemars(length(min = 1, max = 200))]
    pub permissions: Vec<Permission>,
    /// When it ends by itself, judged by the target's clock.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("$comment" = "later than the event's time"))]
    pub expires_at: Option<Timestamp>,
    /// How a password reaches the person; default `none`.
    #[schemars(default)]
    pub credential: Deliver,
    /// Why it was asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub justification: Option<String>,
    /// Who asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requested_by: Option<String>,
    /// Who approved.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub approved_by: Option<Vec<String>>,
}

impl Grant {
    pub(crate) fn read(data: Fields<'_>) -> Option<Self> {
        let integration = data.required_text("integration");
        let grant_id = data.required_text("grant_id");
        let revision = data.integer("revision", 1, i64::from(i32::MAX)).and_then(|n| i32::try_from(n).ok());
        let principal = data.required_text("principal");
        let permissions =
            data.required("permissions").and_then(|_| data.list("permissions", |item, path| Permission::read(item, path, data.problems())));
        match data.value("permissions").and_then(|v| v.as_array()).map(Vec::len) {
            Some(0) => data.problem("permissions", "is an empty list; name at least one, or revoke the grant"),
            Some(n) if n > MAX_PERMISSIONS => data.problem("permissions", format!("has {n} entries; expected at most {MAX_PERMISSIONS}")),
            _ => {}
        }
        let expires_at = data.text("expires_at").map(crate::event::to_microseconds);
        let credential = data.object("credential").map_or(Some(Deliver::None), Deliver::read);
        let justification = data.text("justification");
        let requested_by = data.text("requested_by");
        let approved_by = data.texts("approved_by");
        data.finish();
        Some(Self {
            integration: integration?,
            grant_id: grant_id?,
            revision: revision.unwrap_or(1),
            principal: principal?,
            permissions: permissions?,
            expires_at,
            credential: credential?,
            justification,
            requested_by,
            approved_by,
        })
    }
}

/// How a person's password travels.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "deliver", rename_all = "snake_case", deny_unknown_fields)]
pub enum Deliver {
    /// Not at all: the person has one, or logs in by IAM.
    #[default]
    None,
    /// Sealed to the recipient's age key and returned in the result.
    Age {
        /// An age X25519 recipient (`age1…`) or an `ssh-ed25519` public key.
        #[schemars(length(min = 1))]
        recipient: String,
    },
    /// Written to a secret store.
    Secret {
        /// Where.
        to: StoreRef,
    },
}

impl Deliver {
    pub(crate) fn read(fields: Fields<'_>) -> Option<Self> {
        let how: Option<String> = fields.required_text("deliver");
        let read = match how.as_deref() {
            Some("none") => Some(Self::None),
            Some("age") => fields.required_text("recipient").map(|recipient: String| Self::Age { recipient }),
            Some("secret") => fields.required_object("to").and_then(|to| {
                let mut keys = to.keys();
                let known = keys.next().and_then(|key| StoreRef::NAMES.into_iter().find(|name| *name == key));
                let Some(name) = known.filter(|_| keys.next().is_none()) else {
                    to.problem_here(format!("expected exactly one of {}", StoreRef::NAMES.join(", ")));
                    return None;
                };
                to.object(name).and_then(|place| StoreRef::read(name, place)).map(|to| Self::Secret { to })
            }),
            Some(other) => {
                fields.problem("deliver", format!("{other:?} is not a way of delivery; expected age, secret or none"));
                return None;
            }
            None => return None,
        };
        if matches!(&read, Some(Self::Age { recipient }) if recipient.is_empty()) {
            fields.problem("recipient", "is empty; expected an age recipient");
        }
        fields.finish();
        read
    }
}
