//! A revoke ends one grant for good, or every grant that was asked until then.

use jiff::Timestamp;
use postern_schemas::result::Change;
use postern_schemas::{Code, GrantId, IntegrationId, Principal, Reason};

use crate::access::plan::{Plan, Step};
use crate::access::policy::MAX_AHEAD;
use crate::access::reconcile::{Goal, reconcile};
use crate::access::state::{Ending, GrantRow, Observed};

/// The moment that a revoke counts from: its own, or now if it claims to come from the future.
pub fn effective(asked: Timestamp, now: Timestamp) -> Timestamp {
    if asked.duration_since(now) > MAX_AHEAD { now } else { asked }
}

/// Ends `grant_id` for good, whether or not it ever came.
pub fn one(integration: &IntegrationId, grant_id: &GrantId, role_name: &str, seen: &Observed) -> Plan {
    let mut plan = Plan::default();
    let key = seen.grant_key.clone().unwrap_or_default();
    let ends = |row: &&GrantRow| row.grant_id == *grant_id && row.integration == *integration;
    if key.ending == Some(Ending::Revoked) {
        plan.reason = Some(Reason::new(Code::Revoked, "the grant had been revoked already"));
    } else {
        plan.steps.push(Step::BarGrant { integration: integration.clone(), grant_id: grant_id.clone() });
        if seen.active.iter().any(|row| ends(&row)) {
            plan.ended.push(grant_id.to_string());
            plan.changes.push(Change::new("end_grant", grant_id.as_str()));
            plan.steps.push(end(integration, grant_id, Ending::Revoked));
        } else {
            plan.changes.push(Change::new("bar_grant", grant_id.as_str()));
            if key.revision == 0 {
                plan.warnings.push("the grant has not arrived; it will be superseded when it comes".to_owned());
            }
        }
    }
    let stay = seen.in_force().filter(|row| !ends(row)).collect();
    take_away(seen, stay, role_name, &mut plan);
    plan
}

/// Ends every grant of one person in `integration` that was asked at or before `until`. With `raise`, the
/// watermark is raised too, so that those still on their way are over as they come.
pub fn person(integration: &IntegrationId, principal: &Principal, until: Timestamp, raise: bool, role_name: &str, seen: &Observed) -> Plan {
    let mut plan = Plan::default();
    if raise && seen.watermark.is_none_or(|watermark| watermark < until) {
        let (integration, principal) = (integration.clone(), Some(principal.clone()));
        plan.steps.push(Step::RaiseWatermark { integration, principal, asked_at: until });
    }
    let ends = |row: &&GrantRow| row.integration == *integration && row.asked_at <= until;
    for row in seen.active.iter().filter(ends) {
        plan.ended.push(row.grant_id.to_string());
        plan.changes.push(Change::new("end_grant", row.grant_id.as_str()));
        plan.steps.push(end(integration, &row.grant_id, Ending::Swept));
    }
    let stay = seen.in_force().filter(|row| !ends(row)).collect();
    take_away(seen, stay, role_name, &mut plan);
    plan
}

/// Brings role and memberships down to the grants that stay.
pub(super) fn take_away(seen: &Observed, stay: Vec<&GrantRow>, role_name: &str, plan: &mut Plan) {
    // Without restoring, no bundle is ever missing.
    let _ = reconcile(seen, &Goal { grants: stay, restore: false, ..Goal::default() }, role_name, plan);
}

pub(super) fn end(integration: &IntegrationId, grant_id: &GrantId, ending: Ending) -> Step {
    Step::EndGrant { integration: integration.clone(), grant_id: grant_id.clone(), ending }
}
