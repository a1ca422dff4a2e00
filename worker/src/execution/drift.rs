//! The part of a periodic clean-up that looks for what is not as the ledger says: roles that a restored ledger has
//! forgotten, memberships and attributes given by hand, roles that have become powerful. It only takes away.

use std::collections::BTreeSet;

use postern_schemas::result::Change;
use postern_schemas::{EventKey, Principal};

use crate::access::state::{Oid, Role};
use crate::execution::Stop;
use crate::execution::cleanup::{Swept, keep, of_one, repair};
use crate::execution::single::by;
use crate::execution::wide::{Done, transaction, transaction_as};
use crate::postgres::error::Disposition;
use crate::postgres::{Target, TargetError, drift, sessions, sweep};

/// Looks at everything and repairs it. What cannot be repaired now is said, and looked at again next time.
pub(super) async fn repair_all(key: &EventKey, target: &Target, swept: &mut Swept) -> Result<(), Stop> {
    claim_forgotten(key, target, swept).await?;
    keep(key, target).await?;
    mend_bundles(target, swept).await?;
    remove_strays(target, swept).await?;
    keep(key, target).await?;
    repair_people(key, target, swept).await?;
    say_other_ledgers(target, swept).await.map_err(Stop::from)
}

/// A ledger restored from a backup does not know the roles that were made since. They lose login and memberships: who
/// still should have access is granted it anew.
async fn claim_forgotten(key: &EventKey, target: &Target, swept: &mut Swept) -> Result<(), Stop> {
    let (session, _) = target.maintenance().await?;
    let forgotten = drift::forgotten(session.client()).await?;
    let count = forgotten.people.len() + forgotten.bundles.len();
    if count == 0 {
        return Ok(());
    }
    swept.plan.warnings.push(format!(
        "{count} roles carry this ledger's seal, but it did not know them: it was restored from a backup. They lose their access. \
         Revokes since the backup are not known any more; see docs/operations.md"
    ));
    let bundles: Vec<_> = forgotten.bundles.iter().map(|(oid, _)| *oid).collect();
    drift::retire_forgotten(session.client(), &bundles).await?;
    drop(session);
    swept.plan.drift.extend(forgotten.bundles.into_iter().map(|(_, name)| Change::new("bundle_unknown", name)));
    for (principal, oid, name) in forgotten.people {
        let done = transaction_as(target, &key.integration, &principal, &name, &by(key), repair).await;
        let Some(done) = of_one(&principal, done, swept)? else { continue };
        if done.role.as_ref().is_none_or(|role| role.oid != oid) {
            swept.plan.warnings.push(format!("role {name:?} was {principal}'s, who has another account: it is closed; drop it"));
            let (session, _) = target.maintenance().await?;
            match drift::close_forgotten(session.client(), &name).await {
                Ok(()) => {}
                Err(error) => said(error, &format!("role {name:?} could not be closed"), swept)?,
            }
            drop(session);
            end(target, oid, &name, swept).await?;
        }
        finish_person(target, done, swept).await?;
        keep(key, target).await?;
    }
    Ok(())
}

async fn repair_people(key: &EventKey, target: &Target, swept: &mut Swept) -> Result<(), Stop> {
    let (session, _) = target.maintenance().await?;
    let mut people: BTreeSet<Principal> = sweep::drifted(session.client()).await?.into_iter().collect();
    people.extend(drift::with_forbidden_roles(session.client()).await?);
    drop(session);
    for principal in people {
        repair_person(key, target, &principal, swept).await?;
    }
    Ok(())
}

/// Brings one person down to what the ledger explains and ends the sessions that lost something by it. Returns the
/// person's role, if it is ours; `None` where the person has to wait.
pub(super) async fn repair_person(
    key: &EventKey,
    target: &Target,
    principal: &Principal,
    swept: &mut Swept,
) -> Result<Option<Option<Role>>, Stop> {
    let done = transaction(target, &key.integration, principal, &by(key), repair).await;
    let Some(done) = of_one(principal, done, swept)? else { return Ok(None) };
    let role = done.role.clone();
    finish_person(target, done, swept).await?;
    Ok(Some(role))
}

async fn finish_person(target: &Target, done: Done<()>, swept: &mut Swept) -> Result<(), Stop> {
    let Done { plan, sessions: roles, role, .. } = done;
    if plan.end_sessions {
        match sessions::end_on_primary(target, &roles).await {
            Ok(ended) => {
                swept.ended.extend(&roles);
                swept.terminated += ended.terminated;
                if ended.surviving > 0 {
                    let name = role.map(|role| role.name).unwrap_or_default();
                    swept.plan.warnings.push(format!("{} sessions of {name:?} survive", ended.surviving));
                }
            }
            Err(error) => said(error, "sessions of a person could not be ended", swept)?,
        }
    }
    swept.plan.changes.extend(plan.changes);
    swept.plan.drift.extend(plan.drift);
    swept.plan.warnings.extend(plan.warnings);
    if swept.plan.reason.is_none() {
        swept.plan.reason = plan.reason;
    }
    Ok(())
}

async fn mend_bundles(target: &Target, swept: &mut Swept) -> Result<(), Stop> {
    let (session, ledger) = target.maintenance().await?;
    for bundle in drift::changed_bundles(session.client(), &ledger).await? {
        if bundle.known != bundle.name {
            swept.plan.drift.push(Change::new("bundle_renamed", format!("{} is now {}", bundle.known, bundle.name)));
        }
        if bundle.can_login {
            swept.plan.drift.push(Change::new("login_enabled", &bundle.name));
        }
        for attribute in bundle.added.iter().chain(&bundle.stuck) {
            swept.plan.drift.push(Change::new("attribute_added", format!("{}: {attribute}", bundle.name)));
        }
        for attribute in &bundle.stuck {
            swept.plan.warnings.push(format!("as a superuser: ALTER ROLE \"{}\" NO{attribute}", bundle.name));
        }
        match drift::mend_bundle(session.client(), &bundle).await {
            Ok(()) => {
                swept.plan.changes.push(Change::new("mend_bundle", &bundle.name));
                if bundle.can_login {
                    end(target, bundle.oid, &bundle.name, swept).await?;
                }
            }
            Err(error) => said(error, &format!("bundle role {:?} could not be mended", bundle.name), swept)?,
        }
    }
    Ok(())
}

async fn remove_strays(target: &Target, swept: &mut Swept) -> Result<(), Stop> {
    let (session, ledger) = target.maintenance().await?;
    for stray in drift::strays(session.client(), &ledger).await? {
        let what = format!("{} in {}", stray.member, stray.role);
        swept.plan.drift.push(Change::new("member_added", &what));
        if !stray.revocable {
            swept.plan.warnings.push(format!("the connector cannot take this membership back; as a superuser: {}", stray.revoke()));
            continue;
        }
        match drift::remove_stray(session.client(), &stray).await {
            Ok(()) => {
                swept.plan.changes.push(Change::new("revoke_membership", what));
                // A session that has set the role keeps it.
                if let Some(oid) = stray.sessions_of {
                    end(target, oid, &stray.member, swept).await?;
                }
            }
            Err(error) => said(error, &format!("the membership of {what} could not be taken back"), swept)?,
        }
    }
    Ok(())
}

/// Roles of a ledger that is gone are not touched: nothing here can tell whether another Postern works with them.
async fn say_other_ledgers(target: &Target, swept: &mut Swept) -> Result<(), TargetError> {
    let (session, ledger) = target.maintenance().await?;
    for (other, roles) in drift::of_other_ledgers(session.client(), &ledger).await? {
        swept.plan.warnings.push(format!(
            "{roles} roles on this server belong to another ledger ({other}) and are not touched; if that one was lost, they keep \
             their access: see docs/operations.md"
        ));
    }
    Ok(())
}

/// Ends a role's sessions here, and on the replicas at the end of the clean-up.
async fn end(target: &Target, oid: Oid, name: &str, swept: &mut Swept) -> Result<(), Stop> {
    swept.ended.push(oid);
    match sessions::end_on_primary(target, &[oid]).await {
        Ok(ended) => {
            swept.terminated += ended.terminated;
            if ended.surviving > 0 {
                swept.plan.warnings.push(format!("{} sessions of {name:?} survive", ended.surviving));
            }
            Ok(())
        }
        Err(error) => said(error, &format!("sessions of {name:?} could not be ended"), swept),
    }
}

/// One role's trouble keeps no other from being looked at.
fn said(error: TargetError, what: &str, swept: &mut Swept) -> Result<(), Stop> {
    if error.disposition() == Disposition::Unreachable {
        return Err(error.into());
    }
    swept.plan.warnings.push(format!("{what}: {error}"));
    Ok(())
}
