//! A result in the making: what the event asked, joined with what the plan does.

use postern_schemas::request::{Revoke, Rotate};
use postern_schemas::result::{AccessDetails, AuditEvent, Credential};
use postern_schemas::{AuditResult, Deliver, Event, EventKey, Grant, Identifier, Principal, Request, Verb};

use super::{envelope, uri};
use crate::access::Plan;
use crate::access::state::scopes_of;
use crate::config::Integration;

/// Whose result it is, and what it needs beside the plan.
#[derive(Clone, Copy, Debug)]
pub struct Draft<'a> {
    /// The key whose result this is.
    pub key: &'a EventKey,
    /// The verb of the result.
    pub verb: Verb,
    /// The event; none for an expiry.
    pub event: Option<&'a Event>,
    /// The integration's configuration.
    pub integration: &'a Integration,
}

impl Draft<'_> {
    /// The result of `plan` at the target's `now`. `sealed` is the credential, sealed to its recipient.
    pub fn of(&self, plan: &Plan, principal: Option<&Principal>, now: jiff::Timestamp, sealed: Option<String>) -> AuditEvent {
        let mut data = AuditResult::new(self.verb, self.key.integration.as_str(), &self.key.source, &self.key.id);
        if let Some(event) = self.event {
            name(&mut data, event);
        }
        if data.principal.is_none() {
            data.principal = principal.map(ToString::to_string);
        }
        data.outcome = plan.outcome();
        data.reason.clone_from(&plan.reason);
        data.role.clone_from(&plan.role);
        data.changes.clone_from(&plan.changes);
        data.drift.clone_from(&plan.drift);
        data.ended.clone_from(&plan.ended);
        data.warnings.clone_from(&plan.warnings);
        data.expires_at = plan.expires_at;
        if let (Some(grant), Some(role), true) = (self.grant(), &plan.role, plan.in_effect) {
            data.access = Some(access(self.integration, grant, role));
        }
        data.credential =
            plan.credential.map(|(status, generation)| Credential { status, generation, sealed, secret: self.secret(status) });
        envelope(self.key.result_id(), data, Some(now), self.event)
    }

    fn grant(&self) -> Option<&Grant> {
        match self.event.map(|event| &event.request) {
            Some(Request::Grant(grant)) => Some(grant),
            _ => None,
        }
    }

    fn secret(&self, status: postern_schemas::result::CredentialStatus) -> Option<postern_schemas::store::StoreRef> {
        let deliver = match self.event.map(|event| &event.request) {
            Some(Request::Grant(grant)) => &grant.credential,
            Some(Request::Rotate(Rotate::Principal(rotate))) => &rotate.credential,
            _ => return None,
        };
        match deliver {
            Deliver::Secret { to } if status == postern_schemas::result::CredentialStatus::Delivered => Some(to.clone()),
            _ => None,
        }
    }
}

/// Writes what the event names into its result.
pub(super) fn name(data: &mut AuditResult, event: &Event) {
    match &event.request {
        Request::Grant(grant) => {
            data.grant_id = Some(grant.grant_id.to_string());
            data.revision = Some(grant.revision);
            data.principal = Some(grant.principal.to_string());
        }
        Request::Revoke(Revoke::Grant(revoke)) => data.grant_id = Some(revoke.grant_id.to_string()),
        Request::Revoke(Revoke::Principal(revoke)) => data.principal = Some(revoke.principal.to_string()),
        Request::Rotate(Rotate::Principal(rotate)) => data.principal = Some(rotate.principal.to_string()),
        Request::Cleanup(cleanup) => data.principal = cleanup.principal.as_ref().map(ToString::to_string),
        Request::Revoke(Revoke::All(_)) | Request::Rotate(_) | Request::Discover(_) => {}
    }
}

fn access(integration: &Integration, grant: &Grant, role: &str) -> AccessDetails {
    let mut databases: Vec<Identifier> = scopes_of(&grant.permissions).map(|scope| scope.database.clone()).collect();
    let mut seen = std::collections::BTreeSet::new();
    databases.retain(|name| seen.insert(name.clone()));
    let first = databases.first().unwrap_or(&integration.database);
    AccessDetails {
        host: integration.hostname.clone(),
        port: integration.port,
        username: role.to_owned(),
        uri: uri(integration, role, None, first),
        instructions: integration.custom_access_details.clone(),
        databases,
    }
}
