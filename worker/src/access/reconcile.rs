//! From "which grants are active" to role attributes and memberships.
//!
//! What a person should be a member of is the union of the bundles and roles of the active grants. Repair only
//! removes: what somebody took away by hand is reported as drift and stays away until a new grant event for that
//! person, which restores everything the active grants say.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use postern_schemas::result::Change;
use postern_schemas::{Code, Reason};

use crate::access::iam;
use crate::access::plan::{Plan, Step};
use crate::access::policy::forbidden;
use crate::access::state::{Bundle, BundleKey, GrantRow, Observed, Role};

/// What the person should have when the plan is carried out.
#[derive(Clone, Debug, Default)]
pub struct Goal<'a> {
    /// The active grants that stay.
    pub grants: Vec<&'a GrantRow>,
    /// Whether missing access is given, as only a grant event may.
    pub restore: bool,
    /// Whether the role gets a new password.
    pub password: bool,
    /// The most sessions the person may have at once, where a grant event says so.
    pub connection_limit: Option<u32>,
    /// Whether the person logs in by IAM token; `None`: as before.
    pub iam: Option<bool>,
}

/// Adds to `plan` what brings role and memberships to the goal. `role_name` is the name that a new role gets.
/// Returns the bundles that must be made first, if any.
pub fn reconcile(seen: &Observed, goal: &Goal<'_>, role_name: &str, plan: &mut Plan) -> Result<(), Vec<BundleKey>> {
    let mut wanted = Wanted::of(seen, &goal.grants, goal.restore)?;
    let by_token = goal.iam.unwrap_or_else(|| seen.logs_in_by_token());
    if by_token && !goal.grants.is_empty() {
        wanted.roles.insert(iam::ROLE.to_owned());
    }
    let expected = Wanted::before(seen);
    plan.hold = wanted.rows.iter().copied().collect();
    plan.steps.extend(wanted.rebound.iter().cloned());
    plan.warnings.extend(wanted.warnings.iter().cloned());

    let role = seen.our_role();
    let name = role.map_or(role_name, |role| role.name.as_str()).to_owned();
    note_drift(seen, role, &expected, plan);

    let valid_until = last_expiry(&goal.grants);
    let opens = !goal.grants.is_empty();
    match role {
        None if goal.restore && opens => {
            plan.steps.push(Step::CreateRole {
                name: name.clone(),
                valid_until,
                password: goal.password,
                whom: seen.principal.as_ref().map(ToString::to_string).unwrap_or_default(),
                connection_limit: goal.connection_limit,
            });
            if let Some(principal) = &seen.principal {
                plan.steps.push(Step::ClaimRole { principal: principal.clone(), role: name.clone() });
            }
            plan.changes.push(Change::new("create_role", &name));
        }
        None => {
            // Dropped by hand: its sessions go on without it.
            plan.end_sessions |= !seen.session_roles().is_empty();
            return Ok(());
        }
        Some(role) => {
            claim(seen, plan);
            alter(role, goal, opens, valid_until, plan);
            if by_token && seen.account.as_ref().is_some_and(|account| account.password_set_at.is_some()) {
                plan.steps.push(Step::DropPassword { name: name.clone() });
                plan.changes.push(Change::new("drop_password", &name));
            }
        }
    }
    plan.role = Some(name.clone());
    memberships(seen, role.is_some(), &wanted, goal.restore, &name, plan);
    if role.is_some() {
        members(seen, goal.restore, &name, plan);
    }
    Ok(())
}

/// Nobody is a member of a person's role: whoever is has all that the person has, and keeps what a session of theirs has set.
/// Up to 14 people can hand their own role on.
fn members(seen: &Observed, restore: bool, name: &str, plan: &mut Plan) {
    for member in &seen.members {
        let Some(grantor) = &member.grantor else { continue };
        plan.drift.push(Change::new("member_added", format!("{} in {name}", member.name)));
        if member.revocable {
            plan.steps.push(Step::RevokeMember { role: name.to_owned(), member: member.name.clone(), grantor: grantor.clone() });
            plan.changes.push(Change::new("revoke_membership", format!("{} in {name}", member.name)));
            plan.end_sessions = true;
        } else {
            let message = format!(
                "{:?} is a member of {name:?}, made so by {grantor:?}, and the connector cannot take that back; \
                 as a superuser: REVOKE \"{name}\" FROM \"{}\" GRANTED BY \"{grantor}\"",
                member.name, member.name
            );
            plan.warnings.push(message.clone());
            if !restore {
                unfinished(plan, message);
            }
        }
    }
}

/// Binds the account to a role of ours that the ledger has forgotten. What password it has is not known any more.
pub(super) fn claim(seen: &Observed, plan: &mut Plan) {
    if let (Some(role), Some(principal)) = (seen.forgotten_role(), &seen.principal) {
        plan.steps.push(Step::ClaimRole { principal: principal.clone(), role: role.name.clone() });
        plan.drift.push(Change::new("account_unknown", &role.name));
        plan.changes.push(Change::new("claim_role", &role.name));
    }
}

fn alter(role: &Role, goal: &Goal<'_>, opens: bool, valid_until: Option<Timestamp>, plan: &mut Plan) {
    let login = match (opens, role.can_login) {
        (true, false) if goal.restore => Some(true),
        (false, true) => Some(false),
        _ => None,
    };
    // A shorter life is always enforced; a longer one only by a grant, or a DBA's own VALID UNTIL would be undone.
    let differs = opens && !same_moment(role.valid_until, valid_until);
    let shorter = later(role.valid_until, valid_until);
    let valid_until = (differs && (goal.restore || shorter)).then_some(valid_until);
    if !role.stuck.is_empty() {
        let stuck = role.stuck.join(", ");
        let without = role.stuck.iter().map(|a| format!("NO{a}")).collect::<Vec<_>>().join(" ");
        plan.warnings.push(format!("somebody made {:?} {stuck}; as a superuser: ALTER ROLE \"{}\" {without}", role.name, role.name));
    }
    if !role.alterable {
        // Memberships and sessions end all the same; the login is closed when somebody has mended the role.
        if login == Some(false) {
            plan.end_sessions = true;
            unfinished(plan, format!("role {:?} can be changed by a superuser alone, so it can still log in", role.name));
        }
        return;
    }
    for attribute in &role.added {
        plan.changes.push(Change::new("remove_attribute", format!("{}: {attribute}", role.name)));
    }
    let connection_limit = goal.connection_limit.filter(|limit| i64::from(role.connection_limit) != i64::from(*limit));
    if login.is_none() && valid_until.is_none() && connection_limit.is_none() && !goal.password && role.added.is_empty() {
        return;
    }
    let without = role.added.clone();
    plan.steps.push(Step::AlterRole { name: role.name.clone(), login, valid_until, connection_limit, password: goal.password, without });
    match login {
        Some(true) => plan.changes.push(Change::new("enable_login", &role.name)),
        Some(false) => {
            plan.changes.push(Change::new("disable_login", &role.name));
            plan.end_sessions = true;
        }
        None => {}
    }
    if valid_until.is_some() {
        plan.changes.push(Change::new("set_valid_until", &role.name));
    }
    if connection_limit.is_some() {
        plan.changes.push(Change::new("set_connection_limit", &role.name));
    }
    if goal.password {
        plan.changes.push(Change::new("set_password", &role.name));
    }
}

fn memberships(seen: &Observed, exists: bool, wanted: &Wanted, restore: bool, name: &str, plan: &mut Plan) {
    let actual: BTreeSet<&str> = if exists { seen.memberships.iter().map(|m| m.role.as_str()).collect() } else { BTreeSet::new() };

    let mut leave: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for membership in seen.memberships.iter().filter(|m| exists && !wanted.has(&m.role)) {
        if membership.revocable {
            leave.entry(&membership.grantor).or_default().push(membership.role.clone());
            plan.changes.push(Change::new("revoke_membership", &membership.role));
        } else {
            let (role, grantor) = (&membership.role, &membership.grantor);
            let by = if grantor.is_empty() { String::new() } else { format!(" GRANTED BY \"{grantor}\"") };
            let message = format!(
                "membership in {role:?} was given by {grantor:?} and cannot be taken back by the connector; \
                 as a superuser, or as a member of {grantor:?} with ADMIN OPTION on {role:?}: REVOKE \"{role}\" FROM \"{name}\"{by}"
            );
            plan.warnings.push(message.clone());
            if !restore {
                unfinished(plan, message);
            }
        }
    }
    for (grantor, mut roles) in leave {
        roles.sort_unstable();
        plan.steps.push(Step::RevokeMembership { member: name.to_owned(), roles, grantor: grantor.to_owned() });
        plan.end_sessions = true;
    }
    if !restore {
        return;
    }
    let missing = |roles: &BTreeSet<String>| -> Vec<String> { roles.iter().filter(|r| !actual.contains(r.as_str())).cloned().collect() };
    let (roles, bundles) = (missing(&wanted.roles), missing(&wanted.bundles));
    for role in roles.iter().chain(&bundles) {
        plan.changes.push(Change::new("grant_membership", role));
    }
    let (by_token, roles): (Vec<String>, Vec<String>) = roles.into_iter().partition(|role| role == iam::ROLE);
    if !by_token.is_empty() {
        plan.steps.push(Step::GrantIam { member: name.to_owned() });
    }
    if !roles.is_empty() {
        let pass: Vec<String> = roles.iter().filter(|role| seen.passes(role)).cloned().collect();
        if !pass.is_empty() {
            plan.steps.push(Step::PassRoles { roles: pass });
        }
        plan.steps.push(Step::GrantRoles { member: name.to_owned(), roles });
    }
    if !bundles.is_empty() {
        plan.steps.push(Step::GrantBundles { member: name.to_owned(), bundles });
    }
}

/// Says in the result's reason that access is left which only somebody else can take away.
fn unfinished(plan: &mut Plan, message: String) {
    plan.reason.get_or_insert_with(|| Reason::new(Code::PermissionMissing, message));
}

/// Reports what differs from what the ledger said before this event. A role that was dropped by hand is one
/// difference, not one for each membership it took along.
fn note_drift(seen: &Observed, role: Option<&Role>, expected: &Wanted, plan: &mut Plan) {
    let Some(role) = role else {
        if let Some(name) = seen.account.as_ref().filter(|a| a.role_oid.is_some()).and_then(|a| a.role_name.as_deref()) {
            plan.drift.push(Change::new("role_missing", name));
        }
        return;
    };
    if let Some(known) = seen.account.as_ref().and_then(|a| a.role_name.as_deref())
        && known != role.name
    {
        plan.drift.push(Change::new("role_renamed", format!("{known} is now {}", role.name)));
    }
    let opens = !seen.active.is_empty();
    if role.can_login && !opens {
        plan.drift.push(Change::new("login_enabled", &role.name));
    }
    if !role.can_login && opens {
        plan.drift.push(Change::new("login_disabled", &role.name));
    }
    if role.can_login && opens && !same_moment(role.valid_until, last_expiry(&seen.active.iter().collect::<Vec<_>>())) {
        plan.drift.push(Change::new("valid_until_changed", &role.name));
    }
    for attribute in role.added.iter().chain(&role.stuck) {
        plan.drift.push(Change::new("attribute_added", format!("{}: {attribute}", role.name)));
    }
    let actual: BTreeSet<&str> = seen.memberships.iter().map(|m| m.role.as_str()).collect();
    for extra in actual.iter().filter(|name| !expected.has(name)) {
        plan.drift.push(Change::new("membership_added", *extra));
    }
    for forbidden in expected.forbidden.iter().filter(|name| actual.contains(name.as_str())) {
        plan.drift.push(Change::new("role_became_forbidden", forbidden));
    }
    for gone in expected.bundles.iter().chain(&expected.roles).filter(|name| !actual.contains(name.as_str())) {
        plan.drift.push(Change::new("membership_removed", gone));
    }
}

/// The memberships that grants call for.
#[derive(Default)]
struct Wanted {
    bundles: BTreeSet<String>,
    roles: BTreeSet<String>,
    rows: BTreeSet<i64>,
    warnings: BTreeSet<String>,
    /// Roles that have become powerful since they were granted.
    forbidden: BTreeSet<String>,
    /// Grants whose bundle was dropped by hand and made again under another row.
    rebound: Vec<Step>,
}

impl Wanted {
    fn has(&self, role: &str) -> bool {
        self.bundles.contains(role) || self.roles.contains(role)
    }

    /// What the ledger says the person had before this event.
    fn before(seen: &Observed) -> Self {
        let mut wanted = Self::default();
        for grant in &seen.active {
            wanted.bundles.extend(rows(seen, grant).map(|b| b.role.clone()));
            wanted.roles.extend(grant.roles().map(ToString::to_string));
            let powerful = grant.roles().filter(|role| seen.roles.get(role).is_some_and(|facts| forbidden(facts).is_some()));
            wanted.forbidden.extend(powerful.map(ToString::to_string));
        }
        if seen.logs_in_by_token() && !seen.active.is_empty() {
            wanted.roles.insert(iam::ROLE.to_owned());
        }
        wanted
    }

    /// What `grants` call for. Where access is restored, a bundle that is gone has to be made again first.
    fn of(seen: &Observed, grants: &[&GrantRow], restore: bool) -> Result<Self, Vec<BundleKey>> {
        let mut wanted = Self::default();
        let mut ensure = BTreeSet::new();
        for grant in grants {
            let mut ids = Vec::new();
            for bundle in rows(seen, grant) {
                match seen.bundle(&bundle.key) {
                    Some(usable) => {
                        wanted.add(usable);
                        ids.push(usable.id);
                    }
                    None if restore && !bundle.key.is_gone() => {
                        ensure.insert(bundle.key.clone());
                    }
                    None => {
                        if restore {
                            let what = &bundle.role;
                            wanted.warnings.insert(format!("grant {} keeps nothing of {what}: its database is gone", grant.grant_id));
                        }
                        ids.push(bundle.id);
                    }
                }
            }
            ids.sort_unstable();
            ids.dedup();
            if restore && ids != grant.bundles && seen.active.iter().any(|g| same_grant(g, grant)) {
                let (integration, grant_id) = (grant.integration.clone(), grant.grant_id.clone());
                wanted.rebound.push(Step::RebindGrant { integration, grant_id, bundles: ids });
            }
            // A role that has become powerful since it was granted is no longer wanted.
            let harmless = grant.roles().filter(|role| seen.roles.get(role).is_some_and(|facts| forbidden(facts).is_none()));
            wanted.roles.extend(harmless.map(ToString::to_string));
        }
        if ensure.is_empty() { Ok(wanted) } else { Err(ensure.into_iter().collect()) }
    }

    fn add(&mut self, bundle: &Bundle) {
        self.bundles.insert(bundle.role.clone());
        self.rows.insert(bundle.id);
    }
}

fn same_grant(a: &GrantRow, b: &GrantRow) -> bool {
    (&a.integration, &a.grant_id, a.revision) == (&b.integration, &b.grant_id, b.revision)
}

fn rows<'a>(seen: &'a Observed, grant: &'a GrantRow) -> impl Iterator<Item = &'a Bundle> {
    seen.bundles.iter().filter(|b| grant.bundles.contains(&b.id))
}

/// The moment after which none of the grants is in force; `None` when one of them has no expiry.
fn last_expiry(grants: &[&GrantRow]) -> Option<Timestamp> {
    grants
        .iter()
        .map(|g| g.expires_at)
        .try_fold(Timestamp::MIN, |last, expires| expires.map(|e| last.max(e)))
        .filter(|t| *t != Timestamp::MIN)
}

/// PostgreSQL keeps microseconds; an event may carry nanoseconds.
fn same_moment(a: Option<Timestamp>, b: Option<Timestamp>) -> bool {
    a.map(Timestamp::as_microsecond) == b.map(Timestamp::as_microsecond)
}

/// Whether `a` is later than `b`; `None` is never.
fn later(a: Option<Timestamp>, b: Option<Timestamp>) -> bool {
    match (a, b) {
        (None, Some(_)) => true,
        (Some(a), Some(b)) => a.as_microsecond() > b.as_microsecond(),
        _ => false,
    }
}
