//! A clean-up leaves nothing behind: a person who leaves loses the account, and policy ends what was forgotten.

use jiff::Timestamp;
use postern_schemas::{IntegrationId, Principal};

use crate::access::plan::{Decision, Plan};
use crate::access::revoke;
use crate::access::state::{GrantRow, Observed};

/// Ends a leaving person's earlier grants, as the wide revoke does. Whether the account goes too is decided by
/// [`may_delete`] when no session is left.
pub fn person(integration: &IntegrationId, principal: &Principal, until: Timestamp, role_name: &str, seen: &Observed) -> Decision {
    revoke::person(integration, principal, until, true, role_name, seen)
}

/// Brings one person's role down to what the ledger explains, for the periodic clean-up. Gives nothing back.
pub fn repair(role_name: &str, seen: &Observed) -> Plan {
    let mut plan = Plan::default();
    revoke::take_away(seen, seen.in_force().collect::<Vec<&GrantRow>>(), role_name, &mut plan);
    plan
}

/// An account may be deleted when it is ours and no grant of it is active, in whatever integration.
pub fn may_delete(seen: &Observed) -> bool {
    seen.our_role().is_some() && seen.active.is_empty()
}
