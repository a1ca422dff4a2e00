//! A grant's own end. The message that announces it is believed only if the ledger agrees.

use postern_schemas::result::Change;
use postern_schemas::{Code, GrantId, IntegrationId, Outcome, Reason};

use crate::access::plan::{Decision, Plan};
use crate::access::revoke::{end, take_away};
use crate::access::state::{Ending, GrantRow, Observed};

/// Ends `revision` of the grant if it is in force and its time is up.
pub fn plan(integration: &IntegrationId, grant_id: &GrantId, revision: i32, role_name: &str, seen: &Observed) -> Decision {
    let this = |row: &&GrantRow| row.grant_id == *grant_id && row.integration == *integration;
    let Some(row) = seen.active.iter().find(this).filter(|row| row.revision == revision) else { return Decision::Moot };
    match row.expires_at {
        None => return Decision::Moot,
        Some(expires) if expires > seen.now => return Decision::NotYet(expires),
        Some(_) => {}
    }
    let mut plan = Plan {
        outcome: Some(Outcome::Succeeded),
        reason: Some(Reason::new(Code::Expired, "the grant's time was up")),
        ended: vec![grant_id.to_string()],
        changes: vec![Change::new("end_grant", grant_id.as_str())],
        steps: vec![end(integration, grant_id, Ending::Expired)],
        ..Plan::default()
    };
    take_away(seen, seen.in_force().filter(|row| !this(row)).collect(), role_name, &mut plan);
    Decision::Do(plan)
}
