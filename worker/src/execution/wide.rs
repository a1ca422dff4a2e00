//! A revoke of all: the watermark first, with the integration to itself; then one transaction a person, resumable at
//! any point, because what is left to do is what the ledger still shows as active.

use jiff::Timestamp;
use postern_schemas::result::{AuditEvent, Change};
use postern_schemas::{Event, EventKey, IntegrationId, Principal, Request};

use crate::access::state::{Oid, Role};
use crate::access::{Observed, Plan, cleanup, revoke};
use crate::audit::{self, Draft};
use crate::execution::single::{by, finish};
use crate::execution::{Settled, Stop};
use crate::postgres::apply::{self, Context};
use crate::postgres::events::{self, Claim, Phase};
use crate::postgres::observe::{self, Question};
use crate::postgres::{Rounds, Target, TargetError, sessions, sweep};

/// Ends every grant of the integration that was asked until the event's time.
pub async fn all(event: &Event, target: &Target) -> Result<Settled, Stop> {
    let key = event.key();
    // Several workers may be at it at once, each finds what is left. So the claim is not exclusive.
    let now = match claim(event, &key, target, 0).await? {
        Taken::Ours(now) => now,
        Taken::Repeat(settled) => return Ok(*settled),
    };
    let until = revoke::effective(event.time, now);
    let (mut session, _) = target.maintenance().await?;
    sweep::raise_for_all(session.begin(), &key.integration, until).await?;
    session.ended();

    let by = by(&key);
    let people = sweep::people_with_grants(session.client(), &key.integration, until).await?;
    drop(session);
    let mut plan = Plan::default();
    let (mut terminated, mut failed) = (0, None);
    for principal in people {
        // Nobody's trouble keeps the others' access open.
        match person(target, &key.integration, &principal, until, &by).await {
            Ok((done, ended)) => {
                terminated += ended;
                plan.changes.extend(done.changes);
                plan.drift.extend(done.drift);
                plan.warnings.extend(done.warnings);
            }
            Err(stop) => {
                tracing::warn!(%principal, ?stop, "a person's grants could not be ended yet");
                failed = Some(stop);
            }
        }
    }
    if let Some(stop) = failed {
        return Err(stop);
    }
    let (session, _) = target.maintenance().await?;
    let (ended, roles) = sweep::ended_by(session.client(), &key.integration, &by).await?;
    if plan.changes.is_empty() {
        // An earlier try did the work and was cut off before its result.
        plan.changes.extend(ended.iter().map(|grant_id| Change::new("end_grant", grant_id)));
    }
    plan.ended = ended;
    let draft = draft(event, &key, target, &plan, now);
    drop(session);
    Ok(settled(finish(target, &key, draft, &roles, terminated).await?))
}

/// Ends one person's grants that were asked until then, and the person's sessions. The watermark stands already.
/// Returns the plan and how many sessions ended.
async fn person(
    target: &Target,
    integration: &IntegrationId,
    principal: &Principal,
    until: Timestamp,
    by: &str,
) -> Result<(Plan, u32), Stop> {
    let decide = |role_name: &str, seen: &Observed| (revoke::person(integration, principal, until, false, role_name, seen), ());
    let done = transaction(target, integration, principal, by, decide).await?;
    let terminated = if done.plan.end_sessions { end_sessions(target, &done.sessions).await? } else { 0 };
    if done.put_off {
        close(target, integration, principal, by).await?;
    }
    Ok((done.plan, terminated))
}

/// Ends sessions on the primary. Survivors, and replicas, are looked at once at the end of the event.
pub(super) async fn end_sessions(target: &Target, roles: &[Oid]) -> Result<u32, TargetError> {
    sessions::end_on_primary(target, roles).await.map(|ended| ended.terminated)
}

/// Brings a role down to what the ledger explains once its sessions are gone: the login, where it had to wait for them.
/// Where somebody else than the person holds the role's row, this fails and is tried again.
pub(super) async fn close(target: &Target, integration: &IntegrationId, principal: &Principal, by: &str) -> Result<(), Stop> {
    let done = transaction(target, integration, principal, by, |role_name, seen| (cleanup::repair(role_name, seen), ())).await?;
    if done.plan.end_sessions {
        end_sessions(target, &done.sessions).await?;
    }
    if done.put_off { Err(TargetError::Held.into()) } else { Ok(()) }
}

/// What was done to one person.
pub(super) struct Done<T> {
    /// The plan that was carried out.
    pub(super) plan: Plan,
    /// The person's role as it was, if it is ours.
    pub(super) role: Option<Role>,
    /// Whose sessions end where the plan says so.
    pub(super) sessions: Vec<Oid>,
    /// What the decision wanted to know beside.
    pub(super) answer: T,
    /// The role's row was held by somebody: the login is closed after the sessions.
    pub(super) put_off: bool,
}

/// One person looked at and changed in a transaction of its own.
pub(super) async fn transaction<T>(
    target: &Target,
    integration: &IntegrationId,
    principal: &Principal,
    by: &str,
    decide: impl Fn(&str, &Observed) -> (Plan, T),
) -> Result<Done<T>, Stop> {
    let role_name = target.integration().role_name.role_name(principal).to_string();
    transaction_as(target, integration, principal, &role_name, by, decide).await
}

/// The same for a person whose role has this name, whatever name a new one would get.
pub(super) async fn transaction_as<T>(
    target: &Target,
    integration: &IntegrationId,
    principal: &Principal,
    role_name: &str,
    by: &str,
    decide: impl Fn(&str, &Observed) -> (Plan, T),
) -> Result<Done<T>, Stop> {
    let mut rounds = Rounds::of(target);
    let mut held = false;
    loop {
        let (mut session, ledger) = target.maintenance().await?;
        let attempt = async {
            let seen = observe::person(session.begin(), &ledger, integration, principal, role_name).await?;
            let (mut plan, answer) = decide(role_name, &seen);
            let put_off = held && plan.put_role_off();
            apply::apply(session.client(), &plan, Context { ledger: &ledger, verifier: None, by }, Vec::new()).await?;
            Ok(Done { plan, role: seen.our_role().cloned(), sessions: seen.session_roles(), answer, put_off })
        };
        match attempt.await {
            Ok(done) => {
                session.ended();
                return Ok(done);
            }
            Err(error) => {
                let error: TargetError = error;
                held = error.is_lock_timeout();
                rounds.after(error).await?;
            }
        }
    }
}

/// Who does the work of an event that takes several transactions.
pub(super) enum Taken {
    /// This worker does, from the target's clock.
    Ours(Timestamp),
    /// It is done.
    Repeat(Box<Settled>),
}

/// Claims an event for `lease` seconds, or finds its result.
pub(super) async fn claim(event: &Event, key: &EventKey, target: &Target, lease: u32) -> Result<Taken, Stop> {
    let (session, _) = target.maintenance().await?;
    let principal = match &event.request {
        Request::Cleanup(cleanup) => cleanup.principal.as_ref(),
        _ => None,
    };
    let question = Question {
        key,
        digest: event.digest,
        verb: event.request.verb(),
        asked_at: event.time,
        principal,
        grant_id: None,
        role_name: "",
        permissions: &[],
    };
    match events::claim(session.client(), &question, lease).await? {
        Claim::Ours { now } => Ok(Taken::Ours(now)),
        Claim::Theirs(row) if row.digest != event.digest => Err(Stop::Conflict),
        Claim::Theirs(row) if row.phase == Phase::Done => {
            let result = row.result.and_then(audit::from_stored).ok_or_else(|| TargetError::Unreadable("a result".to_owned()))?;
            Ok(Taken::Repeat(Box::new(Settled { repeated: true, ..settled(result) })))
        }
        Claim::Theirs(_) => Err(TargetError::Claimed.into()),
    }
}

pub(super) fn draft(event: &Event, key: &EventKey, target: &Target, plan: &Plan, now: Timestamp) -> AuditEvent {
    let draft = Draft { key, verb: event.request.verb(), event: Some(event), integration: &target.located() };
    draft.of(plan, None, now, None)
}

pub(super) fn settled(result: AuditEvent) -> Settled {
    Settled { result, expired: Vec::new(), expires: None, repeated: false }
}
