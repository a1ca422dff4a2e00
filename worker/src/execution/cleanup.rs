//! Clean-ups and rotation by policy: many small steps, each of which may be repeated, under one claim.

use jiff::{SignedDuration, Timestamp};
use postern_schemas::result::{AuditEvent, Blocker, Change};
use postern_schemas::{Code, Event, EventKey, Outcome, Principal, Reason};

use crate::access::policy::check_account;
use crate::access::state::Oid;
use crate::access::state::Role;
use crate::access::{Observed, Plan, Rules, cleanup, revoke, rotate};
use crate::execution::single::{by, expire, finish};
use crate::execution::wide::{Done, Taken, claim, close, draft, settled, transaction};
use crate::execution::{Settled, Stop, drift};
use crate::postgres::apply::{self, Context};
use crate::postgres::error::{BEGINNING, Disposition};
use crate::postgres::events::{self, Phase};
use crate::postgres::ledger::BEGIN;
use crate::postgres::{Target, TargetError, batch, bundle, dispose, replicas, sessions, sweep};

/// How long a claim holds without a sign of life. A worker that dies delays the event by at most this.
const LEASE_SECONDS: u32 = 30;
/// Results are kept at least this long, so that late duplicates find theirs.
const KEEP: SignedDuration = SignedDuration::from_hours(24 * 30);

/// Applies the policy: ends what has expired, repairs what drifted, deletes what was left, compares and drops bundles,
/// prunes the ledger.
pub async fn by_policy(event: &Event, target: &Target, rules: &Rules) -> Result<Settled, Stop> {
    let key = event.key();
    let now = match claim(event, &key, target, LEASE_SECONDS).await? {
        Taken::Ours(now) => now,
        Taken::Repeat(settled) => return Ok(*settled),
    };
    let done = apply_policy(&key, target, rules).await;
    if done.is_err() {
        release(&key, target).await;
    }
    let Swept { plan, blocked, expired, terminated, .. } = done?;
    let mut draft = draft(event, &key, target, &plan, now);
    if !blocked.is_empty() {
        draft.data.reason = Some(owned(&blocked));
    }
    draft.data.blocked_total = blocked.len();
    draft.data.blocked = blocked;
    draft.data.sessions_terminated = terminated;
    let draft = AuditEvent { data: draft.data.capped(), ..draft };
    let (session, _) = target.maintenance().await?;
    let stored = events::settle(session.client(), &key, &crate::audit::to_stored(&draft)).await?;
    let result = crate::audit::from_stored(stored).ok_or_else(|| TargetError::Unreadable("a result".to_owned()))?;
    Ok(Settled { expired, ..settled(result) })
}

/// What one clean-up did.
#[derive(Default)]
pub(super) struct Swept {
    pub(super) plan: Plan,
    blocked: Vec<Blocker>,
    expired: Vec<AuditEvent>,
    pub(super) terminated: u32,
    /// Roles whose sessions were ended on the primary, and are to end on the replicas.
    pub(super) ended: Vec<Oid>,
}

async fn apply_policy(key: &EventKey, target: &Target, rules: &Rules) -> Result<Swept, Stop> {
    let mut swept = Swept::default();
    end_expired(key, target, rules, &mut swept).await?;
    keep(key, target).await?;
    drift::repair_all(key, target, &mut swept).await?;
    keep(key, target).await?;
    if let Some(days) = target.integration().user_cleanup_days {
        delete_left(key, target, SignedDuration::from_hours(24 * i64::from(days)), &mut swept).await?;
    }
    keep(key, target).await?;
    follow_up(target, &mut swept).await?;
    keep(key, target).await?;
    let (drift, warnings) = bundle::refresh(target).await?;
    swept.plan.drift.extend(drift);
    swept.plan.warnings.extend(warnings);
    keep(key, target).await?;
    let (dropped, blocked) = bundle::drop_unneeded(target).await?;
    swept.plan.changes.extend(dropped);
    swept.blocked.extend(blocked);
    let (mut session, _) = target.maintenance().await?;
    let pruned = sweep::prune(session.begin(), KEEP.max(rules.max_event_age * 2)).await?;
    session.ended();
    if pruned > 0 {
        swept.plan.changes.push(Change::new("prune_ledger", format!("{pruned} rows")));
    }
    Ok(swept)
}

async fn end_expired(key: &EventKey, target: &Target, rules: &Rules, swept: &mut Swept) -> Result<(), Stop> {
    let (session, _) = target.maintenance().await?;
    let due = sweep::expired(session.client(), &key.integration).await?;
    drop(session);
    for (grant_id, revision) in due {
        match expire(&key.integration, &grant_id, revision, target, rules).await {
            Ok(settled) => {
                swept.plan.ended.push(grant_id.to_string());
                swept.plan.changes.push(Change::new("end_grant", grant_id.as_str()));
                swept.terminated += settled.result.data.sessions_terminated;
                swept.expired.push(settled.result);
            }
            // Somebody else ended or extended it in the meantime.
            Err(Stop::Moot | Stop::NotYet(_)) => {}
            Err(Stop::Target(error)) if error.disposition() == Disposition::Unreachable => return Err(error.into()),
            // One that cannot be ended now keeps no other from ending; its own expiry goes on trying.
            Err(stop) => swept.plan.warnings.push(format!("grant {grant_id} has expired and could not be ended yet: {}", stop.describe())),
        }
    }
    Ok(())
}

pub(super) fn repair(role_name: &str, seen: &Observed) -> (Plan, ()) {
    (cleanup::repair(role_name, seen), ())
}

/// One person's trouble keeps no other from being cleaned up: it is said, and looked at again next time.
pub(super) fn of_one<T>(principal: &Principal, done: Result<T, Stop>, swept: &mut Swept) -> Result<Option<T>, Stop> {
    match done {
        Ok(done) => Ok(Some(done)),
        Err(Stop::Target(error)) if error.disposition() == Disposition::Unreachable => Err(error.into()),
        Err(stop) => {
            swept.plan.warnings.push(format!("{principal} could not be cleaned up yet: {}", stop.describe()));
            Ok(None)
        }
    }
}

/// Ends on the replicas what an earlier event could not, because one was down or lagged: the sessions of everybody without
/// access.
async fn follow_up(target: &Target, swept: &mut Swept) -> Result<(), Stop> {
    if target.replicas().is_empty() {
        return Ok(());
    }
    let (session, _) = target.maintenance().await?;
    let mut roles = sweep::without_access(session.client()).await?;
    drop(session);
    roles.append(&mut swept.ended);
    let ended = replicas::end(target, &roles).await?;
    swept.terminated += ended.terminated;
    swept.plan.warnings.extend(ended.warnings);
    if ended.surviving > 0 {
        swept.plan.warnings.push(format!("{} sessions on replicas survive", ended.surviving));
    }
    Ok(())
}

async fn delete_left(key: &EventKey, target: &Target, age: SignedDuration, swept: &mut Swept) -> Result<(), Stop> {
    let (session, _) = target.maintenance().await?;
    let people = sweep::deletable(session.client(), age).await?;
    drop(session);
    for principal in people {
        let Some(role) = drift::repair_person(key, target, &principal, swept).await? else { continue };
        swept.ended.extend(role.as_ref().map(|role| role.oid));
        let deleted = delete(target, &principal, role.as_ref(), &mut swept.terminated, &mut swept.plan.changes).await;
        let blocked = of_one(&principal, deleted, swept)?.unwrap_or_default();
        swept.blocked.extend(dispose::of_role(blocked, role.as_ref().map_or("", |role| &role.name)));
        keep(key, target).await?;
    }
    Ok(())
}

/// Ends what sessions are left on the primary and drops the account. `role`: ours, or there is nothing to drop but the record of it.
async fn delete(
    target: &Target,
    principal: &Principal,
    role: Option<&Role>,
    terminated: &mut u32,
    changes: &mut Vec<Change>,
) -> Result<Vec<Blocker>, Stop> {
    let Some(role) = role else {
        let (session, _) = target.maintenance().await?;
        events::forget_lost_role(session.client(), principal).await?;
        return Ok(Vec::new());
    };
    *terminated += sessions::end_on_primary(target, &[role.oid]).await?.terminated;
    let blockers = dispose::drop_role(target, role.oid, &target.integration().owned_objects, dispose::Record::Person(principal)).await?;
    if blockers.is_empty() {
        changes.push(Change::new("drop_role", &role.name));
    }
    Ok(blockers)
}

/// Ends a leaving person's grants and deletes the account, unless a grant was asked later.
pub async fn person(event: &Event, principal: &Principal, target: &Target) -> Result<Settled, Stop> {
    let key = event.key();
    let now = match claim(event, &key, target, LEASE_SECONDS).await? {
        Taken::Ours(now) => now,
        Taken::Repeat(settled) => return Ok(*settled),
    };
    let done = Box::pin(leave(event, &key, principal, target, now)).await;
    if done.is_err() {
        release(&key, target).await;
    }
    done.map(settled)
}

async fn leave(event: &Event, key: &EventKey, principal: &Principal, target: &Target, now: Timestamp) -> Result<AuditEvent, Stop> {
    let until = revoke::effective(event.time, now);
    let by = by(key);
    let decide = |role_name: &str, seen: &Observed| {
        let stays = cleanup::stays(&key.integration, until, seen);
        let refused = check_account(seen, role_name).err();
        (cleanup::person(&key.integration, principal, until, role_name, seen), (stays, refused))
    };
    let Done { mut plan, role, sessions: role_oids, answer: (stays, refused), put_off } =
        transaction(target, &key.integration, principal, &by, decide).await?;
    if let (Some(reason), None) = (refused, &role) {
        plan.outcome = Some(Outcome::Rejected);
        plan.reason = Some(reason);
    }
    let (session, _) = target.maintenance().await?;
    let (ended, _) = sweep::ended_by(session.client(), &key.integration, &by).await?;
    // What an earlier try did before it was cut off is this event's work too.
    let missing = ended.iter().map(|grant_id| Change::new("end_grant", grant_id)).filter(|change| !plan.changes.contains(change));
    let missing: Vec<Change> = missing.collect();
    plan.changes.extend(missing);
    plan.ended = ended;
    let mut terminated = 0;
    let mut blocked = Vec::new();
    drop(session);
    let gone = sessions::end(target, &role_oids).await?;
    plan.warnings.extend(gone.warnings);
    if put_off {
        close(target, &key.integration, principal, &by).await?;
    }
    terminated += gone.terminated;
    if stays {
        plan.warnings.push("the account stays: a grant was asked later, or through another integration".to_owned());
        if plan.changes.is_empty() {
            plan.outcome = Some(Outcome::Superseded);
        }
    } else if gone.surviving == 0 && plan.outcome != Some(Outcome::Rejected) {
        blocked = delete(target, principal, role.as_ref(), &mut terminated, &mut plan.changes).await?;
    }
    if !blocked.is_empty() {
        plan.reason = Some(owned(&blocked));
    }
    let mut draft = draft(event, key, target, &plan, now);
    draft.data.role = draft.data.role.or_else(|| role.as_ref().map(|role| role.name.clone()));
    draft.data.blocked_total = blocked.len();
    draft.data.blocked = blocked;
    draft.data.sessions_terminated = terminated;
    let draft = AuditEvent { data: draft.data.capped(), ..draft };
    if gone.surviving > 0 {
        return Err(Stop::SessionSurvives { draft: Box::new(draft), surviving: gone.surviving });
    }
    let (session, _) = target.maintenance().await?;
    let stored = events::settle(session.client(), key, &crate::audit::to_stored(&draft)).await?;
    crate::audit::from_stored(stored).ok_or_else(|| TargetError::Unreadable("a result".to_owned()).into())
}

fn owned(blocked: &[Blocker]) -> Reason {
    let message =
        format!("{} objects keep accounts from being dropped; they stay without access (owned_objects says what to do)", blocked.len());
    Reason::new(Code::ObjectsOwned, message)
}

/// Marks the passwords that policy finds too old: each is replaced at the person's next request that delivers one.
pub async fn rotate_by_policy(event: &Event, target: &Target, rules: &Rules) -> Result<Settled, Stop> {
    let key = event.key();
    let now = match claim(event, &key, target, LEASE_SECONDS).await? {
        Taken::Ours(now) => now,
        Taken::Repeat(settled) => return Ok(*settled),
    };
    let (mut session, ledger) = target.maintenance().await?;
    let plan = match (rules.check_age(event.time, now, Timestamp::MIN), rules.credential_rotation) {
        (Err(reason), _) => Plan::rejected(reason),
        (Ok(()), None) => Plan {
            warnings: vec!["the integration sets no credential_rotation_days: there is nothing to rotate".to_owned()],
            ..Plan::default()
        },
        (Ok(()), Some(age)) => {
            let before = now.checked_sub(age).unwrap_or(Timestamp::MIN);
            rotate::policy(&sweep::old_passwords(session.client(), before).await?, before)
        }
    };
    let draft = draft(event, &key, target, &plan, now);
    let by = by(&key);
    let row = events::record(&key, Phase::Done, None, &crate::audit::to_stored(&draft));
    batch::run(session.begin(), &[batch::Statement::plain(BEGINNING, BEGIN)]).await?;
    apply::apply(session.client(), &plan, Context { ledger: &ledger, verifier: None, by: &by }, vec![row]).await?;
    session.ended();
    drop(session);
    Ok(settled(finish(target, &key, draft, &[], 0).await?))
}

pub(super) async fn keep(key: &EventKey, target: &Target) -> Result<(), TargetError> {
    let (session, _) = target.maintenance().await?;
    events::keep_claim(session.client(), key, LEASE_SECONDS).await
}

/// So that the next try need not wait for the lease to end. If this fails, it does.
async fn release(key: &EventKey, target: &Target) {
    if let Ok((session, _)) = target.maintenance().await {
        let released = events::release_claim(session.client(), key).await;
        tracing::debug!(?released, "released the claim");
    }
}
