use postern_schemas::permission::Permission;
use postern_schemas::result::CredentialStatus;
use postern_schemas::{Grant, Identifier};

use super::*;
use crate::access::plan::{Decision, Plan, Step};
use crate::access::state::{Account, Role, RoleFacts};
use crate::access::world::{World, at, integration, rules};
use crate::access::{cleanup, grant, rotate};

const JANE: &str = "jane";

fn by_token() -> Rules {
    Rules { iam: true, ..rules() }
}

fn age() -> Deliver {
    Deliver::Age { recipient: "age1".to_owned() }
}

fn asked(credential: Deliver) -> Grant {
    let role: Identifier = "reporting".parse().unwrap_or_else(|e| panic!("{e}"));
    Grant {
        integration: integration(),
        grant_id: "AR-1".parse().unwrap_or_else(|e| panic!("{e}")),
        revision: 1,
        principal: JANE.parse().unwrap_or_else(|e| panic!("{e}")),
        permissions: vec![Permission::Role(postern_schemas::permission::RoleMembership { role })],
        expires_at: None,
        credential,
        justification: None,
        requested_by: None,
        approved_by: None,
    }
}

fn facts(can_hand_on: bool) -> RoleFacts {
    RoleFacts { chain: Vec::new(), can_hand_on, pass: false }
}

/// A server with `rds_iam`, and Jane's account as `account` says, or none.
fn seen(account: Option<Account>) -> Observed {
    let mut world = World::new(10);
    if let Some(account) = account {
        world.account = Account { role_name: Some(JANE.to_owned()), role_oid: Some(42), ..account };
        let comment = Some(crate::access::state::comment_prefix(uuid::Uuid::nil()) + JANE);
        world.role = Some(Role { name: JANE.to_owned(), can_login: false, ..crate::access::world::role(42, comment, true) });
    }
    let mut seen = world.observe(Some(1));
    seen.roles.insert(ROLE.parse().unwrap_or_else(|e: String| panic!("{e}")), facts(true));
    seen
}

fn of_token(asked_at: Timestamp) -> Account {
    Account { iam: true, login_asked_at: Some(asked_at), generation: 1, ..Account::default() }
}

fn of_password(asked_at: Timestamp) -> Account {
    Account { password_set_at: Some(asked_at), login_asked_at: Some(asked_at), generation: 1, ..Account::default() }
}

fn plan(deliver: Deliver, asked_at: Timestamp, seen: &Observed, rules: &Rules) -> Plan {
    match grant::plan(&asked(deliver), asked_at, JANE, seen, rules) {
        Decision::Do(plan) => plan,
        other => panic!("{other:?}"),
    }
}

fn gives(plan: &Plan) -> bool {
    plan.steps.iter().any(|step| matches!(step, Step::GrantIam { .. }))
}

fn saved(plan: &Plan) -> Option<bool> {
    plan.steps.iter().find_map(|step| match step {
        Step::SaveLogin { iam, .. } => Some(*iam),
        _ => None,
    })
}

#[test]
fn who_needs_no_credential_logs_in_by_token_where_the_integration_does() {
    let met = plan(Deliver::None, at(9), &seen(None), &by_token());
    assert!(gives(&met) && saved(&met) == Some(true), "{met:?}");
    assert_eq!(met.credential, Some((CredentialStatus::NotApplicable, 0)));
    let elsewhere = plan(Deliver::None, at(9), &seen(None), &rules());
    assert!(!gives(&elsewhere) && saved(&elsewhere).is_none());
    let delivered = plan(age(), at(9), &seen(None), &by_token());
    assert!(!gives(&delivered) && delivered.credential == Some((CredentialStatus::Delivered, 1)), "{delivered:?}");
}

#[test]
fn a_password_goes_when_the_token_comes_and_back() {
    let met = plan(Deliver::None, at(9), &seen(Some(of_password(at(1)))), &by_token());
    assert!(gives(&met) && met.steps.contains(&Step::DropPassword { name: JANE.to_owned() }), "{met:?}");

    let mut back = seen(Some(of_token(at(1))));
    back.memberships.push(crate::access::state::Membership { role: ROLE.to_owned(), grantor: "g".to_owned(), revocable: true });
    let met = plan(age(), at(9), &back, &by_token());
    assert_eq!(met.credential, Some((CredentialStatus::Delivered, 2)));
    assert!(saved(&met) == Some(false) && !gives(&met));
    let leaves = |step: &Step| matches!(step, Step::RevokeMembership { roles, .. } if roles == &[ROLE.to_owned()]);
    assert!(met.steps.iter().any(leaves) && met.end_sessions, "{met:?}");
}

#[test]
fn the_latest_event_decides_whatever_the_order() {
    let late_token = plan(Deliver::None, at(3), &seen(Some(of_password(at(5)))), &by_token());
    assert!(!gives(&late_token) && saved(&late_token) == Some(false), "{late_token:?}");
    let late_password = plan(age(), at(3), &seen(Some(of_token(at(5)))), &by_token());
    assert!(gives(&late_password) && late_password.warnings.len() == 1, "{late_password:?}");
    for account in [of_token(at(5)), of_password(at(5))] {
        let tied = (
            decide(&Deliver::None, at(5), &seen(Some(account.clone())), &by_token()),
            decide(&age(), at(5), &seen(Some(account.clone())), &by_token()),
        );
        assert_eq!(tied, (account.iam, false));
    }
}

#[test]
fn membership_in_rds_iam_is_explained_while_a_grant_is_active_and_no_longer() {
    let mut now = seen(Some(of_token(at(1))));
    now.memberships.push(crate::access::state::Membership { role: ROLE.to_owned(), grantor: "g".to_owned(), revocable: true });
    let drift = |seen: &Observed| cleanup::repair(JANE, seen).drift.iter().map(|d| d.kind.clone()).collect::<Vec<_>>();
    assert_eq!(drift(&now), ["membership_added"]);
    let Decision::Do(opened) = grant::plan(&asked(Deliver::None), at(9), JANE, &now, &by_token()) else { panic!("no plan") };
    let record = opened.steps.iter().find_map(|step| match step {
        Step::SaveGrant(record) => Some(record.clone()),
        _ => None,
    });
    let record = record.unwrap_or_else(|| panic!("{opened:?}"));
    now.active.push(crate::access::state::GrantRow {
        integration: record.integration,
        grant_id: record.grant_id,
        revision: 1,
        permissions: Vec::new(),
        bundles: Vec::new(),
        expires_at: None,
        asked_at: at(9),
    });
    if let Some(role) = &mut now.role {
        role.can_login = true;
    }
    assert_eq!(drift(&now), [""; 0]);
    assert!(cleanup::repair(JANE, &now).steps.is_empty());
}

#[test]
fn what_the_server_cannot_do_is_refused_with_what_mends_it() {
    let mut without = seen(None);
    without.roles.retain(|name, _| name.as_str() != ROLE);
    let reason = plan(Deliver::None, at(9), &without, &by_token()).reason.unwrap_or_else(|| panic!("no reason"));
    assert!(reason.code == Code::PermissionMissing && reason.message.ends_with("run: CREATE ROLE rds_iam"), "{reason:?}");
    let mut bound = seen(None);
    bound.roles.values_mut().for_each(|facts| facts.can_hand_on = false);
    bound.roles.insert("reporting".parse().unwrap_or_else(|e: String| panic!("{e}")), facts(true));
    let reason = plan(Deliver::None, at(9), &bound, &by_token()).reason.unwrap_or_else(|| panic!("no reason"));
    assert!(reason.message.ends_with("run: GRANT rds_iam TO \"postern_connector\" WITH ADMIN OPTION"), "{reason:?}");
}

#[test]
fn a_token_is_not_rotated() {
    let rotate = |credential: Deliver| {
        let principal = JANE.parse().unwrap_or_else(|e| panic!("{e}"));
        let request = postern_schemas::request::RotatePrincipal { integration: integration(), principal, credential };
        match rotate::person(&request, at(9), JANE, &seen(Some(of_token(at(1)))), &by_token()) {
            Decision::Do(plan) => plan,
            other => panic!("{other:?}"),
        }
    };
    let nothing = rotate(Deliver::None);
    assert!(nothing.steps.is_empty() && nothing.warnings.len() == 1);
    let password = rotate(age());
    assert!(saved(&password) == Some(false) && password.credential == Some((CredentialStatus::Delivered, 2)), "{password:?}");
}
