//! Events that are one transaction: two round trips, after a look whether the event is a repeat.

use jiff::Timestamp;
use postern_schemas::event::EXPIRY_SOURCE;
use postern_schemas::request::{Revoke, Rotate};
use postern_schemas::result::{AuditEvent, Change};
use postern_schemas::{Code, Deliver, Event, EventKey, GrantId, IntegrationId, Outcome, Reason, Request, Verb};

use crate::access::state::{Observed, Oid};
use crate::access::{Decision, Plan, Rules, expiry, grant, revoke, rotate};
use crate::audit::{self, Draft};
use crate::execution::credential::{Drawn, Recipient};
use crate::execution::{Expires, Settled, Stop, fault, wide};
use crate::postgres::apply::{self, Context};
use crate::postgres::events::{self, EventRow, Phase};
use crate::postgres::observe::{Found, Question, observe};
use crate::postgres::probe::Probes;
use crate::postgres::target::Session;
use crate::postgres::{Rounds, Target, TargetError, bundle, sessions};

/// How often an event looks, makes the bundles it lacks and looks again, before others change too much of it.
const ROUNDS: u32 = 24;

/// An event, or an expiry, as the single transaction sees it.
pub(super) struct Task<'a> {
    target: &'a Target,
    key: EventKey,
    digest: [u8; 32],
    asked_at: Timestamp,
    verb: Verb,
    event: Option<&'a Event>,
    /// The grant and revision whose time is up, for an expiry.
    expiry: Option<(&'a GrantId, i32)>,
    role_name: String,
}

/// Carries out a grant, a revoke of a grant or a person, or a person's rotation.
pub async fn event(event: &Event, target: &Target, rules: &Rules) -> Result<Settled, Stop> {
    task(event, target).run(rules).await
}

pub(super) fn task<'a>(event: &'a Event, target: &'a Target) -> Task<'a> {
    let principal = match &event.request {
        Request::Grant(grant) => Some(&grant.principal),
        Request::Revoke(Revoke::Principal(revoke)) => Some(&revoke.principal),
        Request::Rotate(Rotate::Principal(rotate)) => Some(&rotate.principal),
        _ => None,
    };
    let role_name = principal.map(|p| target.integration().role_name.role_name(p).to_string()).unwrap_or_default();
    let key = event.key();
    let verb = event.request.verb();
    Task { target, key, digest: event.digest, asked_at: event.time, verb, event: Some(event), expiry: None, role_name }
}

/// Ends a grant whose time is up, if the ledger agrees.
pub async fn expire(
    integration: &IntegrationId,
    grant_id: &GrantId,
    revision: i32,
    target: &Target,
    rules: &Rules,
) -> Result<Settled, Stop> {
    let task = Task {
        target,
        key: expiry_key(integration, grant_id, revision),
        digest: [0; 32],
        asked_at: Timestamp::UNIX_EPOCH,
        verb: Verb::Revoke,
        event: None,
        expiry: Some((grant_id, revision)),
        role_name: String::new(),
    };
    let mut rounds = Rounds::of(target);
    loop {
        match Box::pin(task.run(rules)).await {
            Err(Stop::Target(error)) => rounds.after_lost_session(error).await?,
            done => return done,
        }
    }
}

/// The key of an expiry's result.
pub fn expiry_key(integration: &IntegrationId, grant_id: &GrantId, revision: i32) -> EventKey {
    EventKey { integration: integration.clone(), source: EXPIRY_SOURCE.to_owned(), id: format!("{grant_id}#{revision}") }
}

impl Task<'_> {
    async fn run(&self, rules: &Rules) -> Result<Settled, Stop> {
        let (session, _) = self.target.maintenance().await?;
        let known = events::find(session.client(), &self.key).await?;
        // Probing and ensuring take sessions of their own: nobody holds one while waiting for another.
        drop(session);
        if let Some(row) = known.filter(EventRow::is_known) {
            return self.resume(row).await;
        }
        let mut probes = Probes::ask(self.target, self.permissions()).await?;
        let drawn = self.draw().map_err(Stop::Credential)?;
        let mut drift = Vec::new();
        let mut refusal = None;
        let mut rounds = Rounds::of(self.target);
        let mut held = false;
        for _ in 0..ROUNDS {
            let given = Given { drawn: drawn.as_ref(), drift: &drift, refusal: refusal.as_ref(), held };
            match Box::pin(self.round(rules, &probes, given)).await {
                Ok(Round::Settled(settled)) => return Ok(*settled),
                Ok(Round::Known(row)) => return self.resume(row).await,
                Ok(Round::Ensure(keys)) => match bundle::ensure(self.target, &keys).await {
                    Ok(found) => {
                        drift.extend(found);
                        probes.note_ensured(&keys);
                    }
                    Err(TargetError::Rejected(reason)) => refusal = Some(*reason),
                    Err(error) => rounds.after(error).await?,
                },
                Err(Stop::Target(error)) => {
                    held = error.is_lock_timeout();
                    rounds.after(error).await?;
                }
                Err(stop) => return Err(stop),
            }
        }
        Err(TargetError::Restless(ROUNDS).into())
    }

    /// One observation, and its plan carried out.
    async fn round(&self, rules: &Rules, probes: &Probes, given: Given<'_>) -> Result<Round, Stop> {
        let Given { drawn, drift, refusal, held } = given;
        let (mut session, ledger) = self.target.maintenance().await?;
        let seen = match observe(session.begin(), &ledger, &self.question(), probes).await? {
            Found::New(seen) => seen,
            Found::Known(row) => {
                roll_back(&mut session).await?;
                return Ok(Round::Known(row));
            }
        };
        let mut plan = match self.decide(&seen, rules) {
            Decision::Do(plan) => plan,
            Decision::Ensure(keys) => {
                let Some(reason) = refusal else {
                    roll_back(&mut session).await?;
                    return Ok(Round::Ensure(keys));
                };
                Plan::rejected(reason.clone())
            }
            Decision::NotYet(expires) => {
                roll_back(&mut session).await?;
                return Err(Stop::NotYet(by_our_clock(expires, seen.now)));
            }
            Decision::Moot => {
                roll_back(&mut session).await?;
                return Err(Stop::Moot);
            }
        };
        plan.drift.extend_from_slice(drift);
        let put_off = held && plan.put_role_off();
        let draft = self.draft(&plan, &seen, drawn)?;
        let phase = if plan.end_sessions { Phase::Terminating } else { Phase::Done };
        let by = by(&self.key);
        let context = Context { ledger: &ledger, verifier: drawn.map(Drawn::verifier), by: &by };
        let row =
            events::record(&self.key, phase, seen.principal.as_ref().map(postern_schemas::Principal::as_str), &audit::to_stored(&draft));
        apply::apply(session.client(), &plan, context, vec![row]).await?;
        session.ended();
        fault::point("after_commit");
        let expires = self.expires(&draft, Some(seen.now));
        let result = if plan.end_sessions {
            drop(session);
            let roles = seen.session_roles();
            Box::pin(self.finish_person(draft, &roles, put_off)).await?
        } else {
            draft
        };
        Ok(Round::Settled(Box::new(Settled { result, expired: Vec::new(), expires, repeated: false })))
    }

    pub(super) fn question(&self) -> Question<'_> {
        Question {
            key: &self.key,
            digest: self.digest,
            verb: self.verb,
            asked_at: self.asked_at,
            principal: self.principal(),
            grant_id: self.grant_id(),
            role_name: &self.role_name,
            permissions: self.permissions(),
        }
    }

    pub(super) fn decide(&self, seen: &Observed, rules: &Rules) -> Decision {
        if let Some((grant_id, revision)) = self.expiry {
            return expiry::plan(&self.key.integration, grant_id, revision, &self.role_name, seen);
        }
        match self.event.map(|event| &event.request) {
            Some(Request::Grant(request)) => match cannot_deliver(&request.credential, rules) {
                Some(reason) => Decision::Do(Plan::rejected(reason)),
                None => grant::plan(request, self.asked_at, &self.role_name, seen, rules),
            },
            Some(Request::Revoke(Revoke::Grant(request))) => {
                Decision::Do(revoke::one(&request.integration, &request.grant_id, &self.role_name, seen))
            }
            Some(Request::Revoke(Revoke::Principal(request))) => {
                let until = revoke::effective(self.asked_at, seen.now);
                Decision::Do(revoke::person(&request.integration, &request.principal, until, true, &self.role_name, seen))
            }
            Some(Request::Rotate(Rotate::Principal(request))) => match cannot_deliver(&request.credential, rules) {
                Some(reason) => Decision::Do(Plan::rejected(reason)),
                None => rotate::person(request, self.asked_at, &self.role_name, seen, rules),
            },
            Some(Request::Rotate(Rotate::Connector(_))) => {
                let message =
                    "rotating the connector's own credential is not available in this version; rotate it where the secret is kept";
                Decision::Do(Plan::rejected(Reason::new(Code::PolicyDenied, message).at("data.connector")))
            }
            _ => Decision::Moot,
        }
    }

    fn draw(&self) -> Result<Option<Drawn>, crate::execution::credential::CredentialError> {
        let needed = match self.event.map(|event| &event.request) {
            Some(Request::Grant(grant)) => grant.credential != Deliver::None,
            Some(Request::Rotate(Rotate::Principal(_))) => true,
            _ => false,
        };
        needed.then(Drawn::new).transpose()
    }

    fn draft(&self, plan: &Plan, seen: &Observed, drawn: Option<&Drawn>) -> Result<AuditEvent, Stop> {
        let draft = Draft { key: &self.key, verb: self.verb, event: self.event, integration: &self.target.located() };
        let mut result = draft.of(plan, seen.principal.as_ref(), seen.now, self.seal(plan, drawn)?);
        if let Some((grant_id, revision)) = self.expiry {
            result.data.grant_id = Some(grant_id.to_string());
            result.data.revision = Some(revision);
        }
        Ok(result)
    }

    fn seal(&self, plan: &Plan, drawn: Option<&Drawn>) -> Result<Option<String>, Stop> {
        let delivered = matches!(plan.credential, Some((postern_schemas::result::CredentialStatus::Delivered, _)));
        let (Some(drawn), Some(role), true) = (drawn, &plan.role, delivered) else { return Ok(None) };
        let recipient = self.deliver().map(Recipient::of).transpose().map_err(|reason| Stop::Target(reason.into()))?.flatten();
        let Some(recipient) = recipient else { return Ok(None) };
        let integration = self.target.located();
        let scope = crate::access::state::scopes_of(self.permissions()).next();
        let database = scope.map_or(&integration.database, |scope| &scope.database);
        drawn.seal(&recipient, &integration, role, database).map(Some).map_err(Stop::Credential)
    }

    /// Goes on with an event that was taken up before.
    async fn resume(&self, row: EventRow) -> Result<Settled, Stop> {
        if row.digest != self.digest {
            return Err(Stop::Conflict);
        }
        let draft = row.result.and_then(audit::from_stored).ok_or_else(|| TargetError::Unreadable("a result".to_owned()))?;
        let result = if row.phase == Phase::Done {
            draft
        } else {
            let (session, _) = self.target.maintenance().await?;
            let roles = role_of(&session, draft.data.principal.as_deref()).await?;
            drop(session);
            // Whether the login had to wait is not known any more.
            Box::pin(self.finish_person(draft, &roles, true)).await?
        };
        let expires = self.expires(&result, None);
        Ok(Settled { result, expired: Vec::new(), expires, repeated: true })
    }

    /// Ends the person's sessions, closes the login if that had to wait for them, and fixes the result.
    async fn finish_person(&self, draft: AuditEvent, roles: &[Oid], put_off: bool) -> Result<AuditEvent, Stop> {
        let principal = draft.data.principal.as_deref().and_then(|p| postern_schemas::Principal::new(p).ok());
        let mut first = 0;
        if let (true, Some(principal)) = (put_off, principal) {
            first = sessions::end_on_primary(self.target, roles).await?.terminated;
            wide::close(self.target, &self.key.integration, &principal, &by(&self.key)).await?;
        }
        finish(self.target, &self.key, draft, roles, first).await
    }

    fn expires(&self, result: &AuditEvent, target_now: Option<Timestamp>) -> Option<Expires> {
        let (Verb::Grant, Some(expires_at), Some(grant_id), Some(revision)) =
            (self.verb, result.data.expires_at, result.data.grant_id.clone(), result.data.revision)
        else {
            return None;
        };
        if !matches!(result.data.outcome, Outcome::Succeeded | Outcome::Unchanged) {
            return None;
        }
        // The target's clock decides; this process's clock only says when to look.
        let due = target_now.map_or(expires_at, |target_now| by_our_clock(expires_at, target_now));
        Some(Expires { grant_id, revision, due })
    }

    fn deliver(&self) -> Option<&Deliver> {
        match self.event.map(|event| &event.request) {
            Some(Request::Grant(grant)) => Some(&grant.credential),
            Some(Request::Rotate(Rotate::Principal(rotate))) => Some(&rotate.credential),
            _ => None,
        }
    }

    pub(super) fn permissions(&self) -> &[postern_schemas::Permission] {
        match self.event.map(|event| &event.request) {
            Some(Request::Grant(grant)) => &grant.permissions,
            _ => &[],
        }
    }

    fn principal(&self) -> Option<&postern_schemas::Principal> {
        match self.event.map(|event| &event.request) {
            Some(Request::Grant(grant)) => Some(&grant.principal),
            Some(Request::Revoke(Revoke::Principal(revoke))) => Some(&revoke.principal),
            Some(Request::Rotate(Rotate::Principal(rotate))) => Some(&rotate.principal),
            _ => None,
        }
    }

    fn grant_id(&self) -> Option<&GrantId> {
        match self.event.map(|event| &event.request) {
            Some(Request::Grant(grant)) => Some(&grant.grant_id),
            Some(Request::Revoke(Revoke::Grant(revoke))) => Some(&revoke.grant_id),
            _ => self.expiry.map(|(grant_id, _)| grant_id),
        }
    }
}

/// What earlier rounds have found.
#[derive(Clone, Copy)]
struct Given<'a> {
    drawn: Option<&'a Drawn>,
    drift: &'a [Change],
    /// Why a bundle cannot be made.
    refusal: Option<&'a Reason>,
    /// Somebody holds the role's row.
    held: bool,
}

/// How one round ended.
enum Round {
    Settled(Box<Settled>),
    Known(EventRow),
    Ensure(Vec<crate::access::state::BundleKey>),
}

/// Delivery to a secret store: refused by policy unless `deliver_to` lists the place, and else because this version
/// cannot write there.
fn cannot_deliver(deliver: &Deliver, rules: &Rules) -> Option<Reason> {
    let Deliver::Secret { to } = deliver else { return None };
    let unavailable =
        || Reason::new(Code::SecretUnavailable, format!("writing to {to} is not available in this version")).at("data.credential.to");
    Some(rules.check_delivery(deliver).err().unwrap_or_else(unavailable))
}

/// `source id`, kept with grants that a wide revoke ends.
pub fn by(key: &EventKey) -> String {
    format!("{} {}", key.source, key.id)
}

/// Ends sessions after the commit, and fixes the result. `before`: how many were ended on the way.
pub async fn finish(target: &Target, key: &EventKey, mut draft: AuditEvent, roles: &[Oid], before: u32) -> Result<AuditEvent, Stop> {
    let ended = sessions::end(target, roles).await?;
    draft.data.sessions_terminated = before + ended.terminated;
    draft.data.warnings.extend(ended.warnings);
    let draft = AuditEvent { data: draft.data.capped(), ..draft };
    if ended.surviving > 0 {
        return Err(Stop::SessionSurvives { draft: Box::new(draft), surviving: ended.surviving });
    }
    fault::point("after_terminate");
    let (session, _) = target.maintenance().await?;
    let stored = events::settle(session.client(), key, &audit::to_stored(&draft)).await?;
    audit::from_stored(stored).ok_or_else(|| TargetError::Unreadable("a result".to_owned()).into())
}

/// The role of a person, by the ledger.
async fn role_of(session: &Session, principal: Option<&str>) -> Result<Vec<Oid>, TargetError> {
    match principal {
        Some(principal) => events::role_of(session.client(), principal).await,
        None => Ok(Vec::new()),
    }
}

async fn roll_back(session: &mut Session) -> Result<(), TargetError> {
    apply::rollback(session.client()).await?;
    session.ended();
    Ok(())
}

/// A moment of the target's clock by this process's. Near the end of all time both are the same.
fn by_our_clock(moment: Timestamp, target_now: Timestamp) -> Timestamp {
    Timestamp::now().checked_add(moment.duration_since(target_now)).unwrap_or(moment)
}
