//! A grant opens access, or replaces an earlier revision of itself.
//!
//! Whatever the order of arrival, the state afterwards is that of the highest revision seen, unless a later fact
//! ends it: a revoke by id for good; a wide revoke or its own expiry until a higher revision is asked later.

use std::collections::BTreeSet;

use jiff::Timestamp;
use postern_schemas::result::{Change, CredentialStatus};
use postern_schemas::{Code, Deliver, Grant, Outcome, Principal, Reason};

use crate::access::iam;
use crate::access::plan::{Decision, GrantRecord, Plan, Step};
use crate::access::policy::{Rules, check_account, forbidden};
use crate::access::reconcile::{Goal, reconcile};
use crate::access::state::{BundleKey, Ending, GrantRow, Observed, roles_of, scopes_of};

/// Decides what a grant event asked at `asked` does. `role_name` is the name that the person's role would get.
pub fn plan(grant: &Grant, asked: Timestamp, role_name: &str, seen: &Observed, rules: &Rules) -> Decision {
    match judge(grant, asked, role_name, seen, rules) {
        Ok(Verdict::Open) => open(grant, asked, role_name, seen, rules),
        Ok(Verdict::Again) => again(grant, asked, role_name, seen, rules),
        Ok(Verdict::Over(ending, reason)) => over(grant, asked, ending, reason, role_name, seen),
        Ok(Verdict::Superseded(reason)) => Decision::Do(Plan::settled(Outcome::Superseded, reason)),
        Err(reason) => Decision::Do(Plan::rejected(reason)),
    }
}

enum Verdict {
    /// It takes effect.
    Open,
    /// This revision is in force already.
    Again,
    /// The highest revision so far, but over as it comes.
    Over(Ending, Reason),
    /// Something later has been carried out.
    Superseded(Reason),
}

fn judge(grant: &Grant, asked: Timestamp, role_name: &str, seen: &Observed, rules: &Rules) -> Result<Verdict, Reason> {
    rules.check_age(asked, seen.now, seen.horizon)?;
    rules.check(grant, asked)?;
    let key = seen.grant_key.clone().unwrap_or_default();
    if key.principal.as_ref().is_some_and(|owner| *owner != grant.principal) {
        let message = format!("grant_id {:?} belongs to another principal", grant.grant_id.as_str());
        return Err(Reason::new(Code::InvalidEvent, message).at("data.grant_id"));
    }
    if key.ending == Some(Ending::Revoked) {
        return Ok(Verdict::Superseded(Reason::new(Code::Revoked, "the grant was revoked by its id and does not open again")));
    }
    if grant.revision < key.revision {
        let message = format!("revision {} came before; this is revision {}", key.revision, grant.revision);
        return Ok(Verdict::Superseded(Reason::new(Code::LowerRevision, message)));
    }
    let expired = || Reason::new(Code::Expired, "the grant's own expiry has passed");
    if grant.revision == key.revision {
        return Ok(match key.ending {
            Some(Ending::Expired) => Verdict::Superseded(expired()),
            Some(_) => Verdict::Superseded(swept()),
            None if current(grant, seen).is_some_and(|row| row.is_over(seen.now)) => Verdict::Superseded(expired()),
            None => {
                check_account(seen, role_name)?;
                iam::check(iam::decide(&grant.credential, asked, seen, rules), seen)?;
                Verdict::Again
            }
        });
    }
    if seen.watermark.is_some_and(|watermark| asked <= watermark) {
        return Ok(Verdict::Over(Ending::Swept, swept()));
    }
    if grant.expires_at.is_some_and(|expires| expires <= seen.now) {
        return Ok(Verdict::Over(Ending::Expired, expired()));
    }
    check_account(seen, role_name)?;
    check_databases(grant, seen)?;
    check_roles(grant, seen)?;
    iam::check(iam::decide(&grant.credential, asked, seen, rules), seen)?;
    Ok(Verdict::Open)
}

fn swept() -> Reason {
    Reason::new(Code::Revoked, "a revoke of the person's or of all grants was asked later than this grant")
}

/// The revision of this grant that is in force.
fn current<'a>(grant: &Grant, seen: &'a Observed) -> Option<&'a GrantRow> {
    seen.active.iter().find(|row| row.grant_id == grant.grant_id && row.integration == grant.integration)
}

fn others<'a>(grant: &'a Grant, seen: &'a Observed) -> impl Iterator<Item = &'a GrantRow> {
    seen.in_force().filter(|row| row.grant_id != grant.grant_id || row.integration != grant.integration)
}

fn check_databases(grant: &Grant, seen: &Observed) -> Result<(), Reason> {
    for (index, scope) in
        grant.permissions.iter().enumerate().filter_map(|(i, p)| scopes_of(std::slice::from_ref(p)).next().map(|s| (i, s)))
    {
        let field = format!("data.permissions[{index}]");
        let Some(database) = seen.databases.get(&scope.database) else {
            let message = format!("database {:?} does not exist on this server", scope.database.as_str());
            return Err(Reason::new(Code::NotFound, message).at(format!("{field}.database")));
        };
        if database.closed {
            let message = format!("database {:?} is a template or takes no connections", scope.database.as_str());
            return Err(Reason::new(Code::PolicyDenied, message).at(format!("{field}.database")));
        }
        if let Some(missing) = database.missing.iter().find(|name| named_by(scope, name)) {
            let message = format!("{missing} does not exist in database {:?}", scope.database.as_str());
            return Err(Reason::new(Code::NotFound, message).at(field));
        }
    }
    Ok(())
}

/// Whether a missing thing (`schema "x"`, `table "x"."y"`) is one that this scope names.
fn named_by(scope: &postern_schemas::Scope, missing: &str) -> bool {
    let Some(schema) = &scope.schema else { return false };
    missing == missing_schema(schema.as_str())
        || scope.tables.iter().flatten().any(|table| missing == missing_table(schema.as_str(), table.as_str()))
}

/// How a missing schema is written in [`crate::access::state::Database::missing`].
pub fn missing_schema(schema: &str) -> String {
    format!("schema {schema:?}")
}

/// How a missing table is written in [`crate::access::state::Database::missing`].
pub fn missing_table(schema: &str, table: &str) -> String {
    format!("table {schema:?}.{table:?}")
}

fn check_roles(grant: &Grant, seen: &Observed) -> Result<(), Reason> {
    for role in roles_of(&grant.permissions) {
        let field = grant.permissions.iter().position(|p| roles_of(std::slice::from_ref(p)).any(|r| r == role));
        let field = format!("data.permissions[{}].role", field.unwrap_or_default());
        let Some(facts) = seen.roles.get(role) else {
            return Err(Reason::new(Code::NotFound, format!("role {:?} does not exist on this server", role.as_str())).at(field));
        };
        if let Some((link, why)) = forbidden(facts) {
            let via = if link.name == role.as_str() { String::new() } else { format!(" is a member of {:?}, which", link.name) };
            let message = format!("role {:?}{via} {why}; it is never granted", role.as_str());
            return Err(Reason::new(Code::ForbiddenRole, message).at(field));
        }
        if !facts.can_hand_on {
            let message = format!(
                "the connector may not hand role {:?} on; as its owner run: GRANT \"{role}\" TO <connector> WITH ADMIN OPTION",
                role.as_str()
            );
            return Err(Reason::new(Code::PermissionMissing, message).at(field));
        }
    }
    Ok(())
}

fn open(grant: &Grant, asked: Timestamp, role_name: &str, seen: &Observed, rules: &Rules) -> Decision {
    let keys: BTreeSet<BundleKey> = scopes_of(&grant.permissions)
        .filter_map(|scope| seen.databases.get(&scope.database).map(|database| BundleKey::of(scope, database.oid)))
        .flatten()
        .collect();
    let mut rows = Vec::new();
    let mut missing = Vec::new();
    let mut warnings = BTreeSet::new();
    for key in keys {
        match seen.bundle(&key).filter(|bundle| bundle.fresh) {
            Some(bundle) => {
                rows.push(bundle.id);
                warnings.extend(bundle.warnings.iter().cloned());
            }
            None => missing.push(key),
        }
    }
    if !missing.is_empty() {
        return Decision::Ensure(missing);
    }
    rows.sort_unstable();

    let record = GrantRow {
        integration: grant.integration.clone(),
        grant_id: grant.grant_id.clone(),
        revision: grant.revision,
        permissions: grant.permissions.clone(),
        bundles: rows,
        expires_at: grant.expires_at,
        asked_at: asked,
    };
    let mut grants: Vec<&GrantRow> = others(grant, seen).collect();
    let in_use = !grants.is_empty() || current(grant, seen).is_some_and(|row| !row.is_over(seen.now));
    let by_token = iam::decide(&grant.credential, asked, seen, rules);
    let password = grant.credential != Deliver::None && !by_token && password_due(seen, rules, in_use);
    grants.push(&record);

    let mut plan = Plan { warnings: warnings.into_iter().collect(), ..Plan::default() };
    plan.changes.push(Change::new(if current(grant, seen).is_some() { "replace_grant" } else { "open_grant" }, grant.grant_id.as_str()));
    let goal = Goal { grants, restore: true, password, connection_limit: rules.connection_limit, iam: Some(by_token) };
    if let Err(keys) = reconcile(seen, &goal, role_name, &mut plan) {
        return Decision::Ensure(keys);
    }
    finish_credential(&grant.principal, &grant.credential, password, asked, seen, &mut plan);
    finish_login(&grant.principal, &grant.credential, by_token, asked, seen, rules, &mut plan);
    plan.steps.push(Step::SaveGrant(record_of(grant, asked, record.bundles.clone(), None)));
    plan.in_effect = true;
    plan.expires_at = grant.expires_at;
    Decision::Do(plan)
}

/// The same revision under another event: a new grant event for the person, so what was lost is restored.
fn again(grant: &Grant, asked: Timestamp, role_name: &str, seen: &Observed, rules: &Rules) -> Decision {
    let mut plan = Plan::default();
    let by_token = iam::decide(&grant.credential, asked, seen, rules);
    // Who logged in by token has no password to go on with.
    let password = seen.logs_in_by_token() && !by_token;
    let goal =
        Goal { grants: seen.in_force().collect(), restore: true, password, connection_limit: rules.connection_limit, iam: Some(by_token) };
    if let Err(keys) = reconcile(seen, &goal, role_name, &mut plan) {
        return Decision::Ensure(keys);
    }
    finish_credential(&grant.principal, &grant.credential, password, asked, seen, &mut plan);
    finish_login(&grant.principal, &grant.credential, by_token, asked, seen, rules, &mut plan);
    plan.in_effect = true;
    plan.expires_at = current(grant, seen).and_then(|row| row.expires_at);
    Decision::Do(plan)
}

/// The highest revision so far, over as it comes: it still replaces the one in force, or the order of arrival
/// would decide what is left.
fn over(grant: &Grant, asked: Timestamp, ending: Ending, reason: Reason, role_name: &str, seen: &Observed) -> Decision {
    let mut plan = Plan::settled(Outcome::Superseded, reason);
    if current(grant, seen).is_some() {
        plan.ended.push(grant.grant_id.to_string());
        plan.changes.push(Change::new("end_grant", grant.grant_id.as_str()));
        let goal = Goal { grants: others(grant, seen).collect(), ..Goal::default() };
        // Without restoring, nothing is ever missing.
        let _ = reconcile(seen, &goal, role_name, &mut plan);
    }
    plan.steps.push(Step::SaveGrant(record_of(grant, asked, Vec::new(), Some(ending))));
    Decision::Do(plan)
}

fn record_of(grant: &Grant, asked: Timestamp, bundles: Vec<i64>, ending: Option<Ending>) -> GrantRecord {
    GrantRecord {
        integration: grant.integration.clone(),
        grant_id: grant.grant_id.clone(),
        revision: grant.revision,
        principal: grant.principal.clone(),
        permissions: grant.permissions.clone(),
        bundles,
        expires_at: grant.expires_at,
        asked_at: asked,
        ending,
    }
}

/// A password is made if the account has none, or it is due for replacement and no access is in use.
fn password_due(seen: &Observed, rules: &Rules, in_use: bool) -> bool {
    let Some(set_at) = seen.our_role().and(seen.account.as_ref()).and_then(|account| account.password_set_at) else { return true };
    let flagged = seen.account.as_ref().is_some_and(|account| account.rotation_due);
    let too_old = rules.credential_rotation.is_some_and(|longest| seen.now.duration_since(set_at) >= longest);
    (flagged || too_old) && !in_use
}

/// Records how the person logs in, where anybody asks for tokens at all.
pub(super) fn finish_login(
    principal: &Principal,
    deliver: &Deliver,
    by_token: bool,
    asked: Timestamp,
    seen: &Observed,
    rules: &Rules,
    plan: &mut Plan,
) {
    let before = seen.logs_in_by_token();
    let decided = rules.iam || *deliver != Deliver::None;
    if before != by_token || decided && (rules.iam || before) {
        plan.steps.push(Step::SaveLogin { principal: principal.clone(), iam: by_token, asked_at: asked });
    }
    if by_token && *deliver != Deliver::None {
        plan.warnings.push("no password was made: an event asked later than this one says that the person logs in by IAM token".to_owned());
    }
}

/// Says what happened to the password, and counts a new one.
pub(super) fn finish_credential(principal: &Principal, deliver: &Deliver, made: bool, asked: Timestamp, seen: &Observed, plan: &mut Plan) {
    let generation = seen.account.as_ref().map_or(0, |account| account.generation);
    plan.credential = Some(match (deliver, made) {
        (_, true) => {
            plan.steps.push(Step::SaveCredential { principal: principal.clone(), asked_at: asked });
            let status = if *deliver == Deliver::None { CredentialStatus::NotApplicable } else { CredentialStatus::Delivered };
            (status, generation + 1)
        }
        (Deliver::None, false) => (CredentialStatus::NotApplicable, generation),
        (_, false) => (CredentialStatus::Unchanged, generation),
    });
}
