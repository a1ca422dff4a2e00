//! A rotation replaces passwords: one person's now, or marks what policy finds too old.

use jiff::Timestamp;
use postern_schemas::request::RotatePrincipal;
use postern_schemas::result::Change;
use postern_schemas::{Code, Deliver, Outcome, Reason};

use crate::access::grant::{finish_credential, finish_login};
use crate::access::plan::{Decision, Plan, Step};
use crate::access::policy::{Rules, check_account};
use crate::access::reconcile::{Goal, claim, reconcile};
use crate::access::state::Observed;

/// Decides what a rotation of one person's password asked at `asked` does.
pub fn person(request: &RotatePrincipal, asked: Timestamp, role_name: &str, seen: &Observed, rules: &Rules) -> Decision {
    match judge(request, asked, role_name, seen, rules) {
        Ok(None) => {}
        Ok(Some(superseded)) => return Decision::Do(Plan::settled(Outcome::Superseded, superseded)),
        Err(reason) => return Decision::Do(Plan::rejected(reason)),
    }
    let Some(role) = seen.our_role() else { return Decision::Do(Plan::rejected(no_account(request))) };
    let mut plan = Plan { role: Some(role.name.clone()), ..Plan::default() };
    claim(seen, &mut plan);
    if seen.logs_in_by_token() {
        return Decision::Do(of_token(request, asked, role_name, seen, rules, plan));
    }
    plan.steps.push(Step::AlterRole {
        name: role.name.clone(),
        login: None,
        valid_until: None,
        connection_limit: None,
        password: true,
        without: Vec::new(),
    });
    plan.changes.push(Change::new("set_password", &role.name));
    if request.credential == Deliver::None {
        plan.warnings.push("the new password was not delivered anywhere: the old one is dead and nobody knows the new one".to_owned());
    }
    finish_credential(&request.principal, &request.credential, true, asked, seen, &mut plan);
    Decision::Do(plan)
}

/// A person without a password: one that is to be delivered takes the token's place, or there is nothing to rotate.
fn of_token(request: &RotatePrincipal, asked: Timestamp, role_name: &str, seen: &Observed, rules: &Rules, mut plan: Plan) -> Plan {
    let password = request.credential != Deliver::None;
    if password {
        let goal = Goal { grants: seen.in_force().collect(), restore: false, password, connection_limit: None, iam: Some(false) };
        // Without restoring, no bundle is ever missing.
        let _ = reconcile(seen, &goal, role_name, &mut plan);
    } else {
        plan.warnings.push("the person logs in by IAM token and has no password to rotate".to_owned());
    }
    finish_credential(&request.principal, &request.credential, password, asked, seen, &mut plan);
    if password {
        finish_login(&request.principal, &request.credential, false, asked, seen, rules, &mut plan);
    }
    plan
}

fn judge(request: &RotatePrincipal, asked: Timestamp, role_name: &str, seen: &Observed, rules: &Rules) -> Result<Option<Reason>, Reason> {
    rules.check_age(asked, seen.now, seen.horizon)?;
    rules.check_delivery(&request.credential)?;
    check_account(seen, role_name)?;
    if seen.our_role().is_none() {
        return Err(no_account(request));
    }
    let last =
        seen.account.as_ref().and_then(|account| if seen.logs_in_by_token() { account.login_asked_at } else { account.password_asked_at });
    Ok(last.filter(|last| asked < *last).map(|last| {
        let message = format!("the password was replaced by an event asked at {last}, after this one");
        Reason::new(Code::LowerRevision, message)
    }))
}

fn no_account(request: &RotatePrincipal) -> Reason {
    Reason::new(Code::NotFound, format!("{:?} has no account on this server", request.principal.as_str())).at("data.principal")
}

/// Marks the accounts in `due` (role names with passwords older than policy allows): each gets a new password at
/// its next request that delivers one, never during active access.
pub fn policy(due: &[String], before: Timestamp) -> Plan {
    let mut plan = Plan::default();
    if !due.is_empty() {
        plan.steps.push(Step::MarkRotationDue { before });
        plan.changes.extend(due.iter().map(|role| Change::new("mark_rotation_due", role)));
    }
    plan
}
