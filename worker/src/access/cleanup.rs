//! A clean-up leaves nothing behind: a person who leaves loses the account, and policy ends what was forgotten.

use jiff::Timestamp;
use postern_schemas::{IntegrationId, Principal};

use crate::access::plan::Plan;
use crate::access::revoke;
use crate::access::state::{GrantRow, Observed};

/// Ends a leaving person's earlier grants, as the wide revoke does. The account goes when no session is left, unless it
/// [`stays`].
pub fn person(integration: &IntegrationId, principal: &Principal, until: Timestamp, role_name: &str, seen: &Observed) -> Plan {
    revoke::person(integration, principal, until, true, role_name, seen)
}

/// Brings one person's role down to what the ledger explains, for the periodic clean-up. Gives nothing back.
pub fn repair(role_name: &str, seen: &Observed) -> Plan {
    let mut plan = Plan::default();
    revoke::take_away(seen, seen.in_force().collect::<Vec<&GrantRow>>(), role_name, &mut plan);
    plan
}

/// Whether the account stays although the person leaves: a grant was asked later, or through another integration.
pub fn stays(integration: &IntegrationId, until: Timestamp, seen: &Observed) -> bool {
    seen.active.iter().any(|grant| grant.integration != *integration || grant.asked_at > until)
}
