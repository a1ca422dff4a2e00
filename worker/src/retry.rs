//! When to try again, and when to give up.
//!
//! Waiting for a target that cannot be reached is no attempt. Grants and rotations are given up when they are too old
//! or were tried too often; revokes, expiries and a person's clean-up never are.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use postern_schemas::result::AuditEvent;
use postern_schemas::{Code, Event, EventKey, Outcome, Reason, Request, Verb};

use crate::audit;
use crate::broker::{Delivery, End, HeaderValue, Line};
use crate::config::WorkerConfig;
use crate::execution::Stop;
use crate::postgres::TargetError;
use crate::postgres::error::Disposition;

/// How many attempts were counted before this one.
const ATTEMPTS: &str = "postern-attempts";
/// How often the event waited without counting an attempt.
const WAITS: &str = "postern-waits";
/// When a worker first took the event up, in milliseconds since the epoch.
const RECEIVED: &str = "postern-received";
/// Set once a `failed` result has been published: it is said once, not at every try.
const FAILED: &str = "postern-failed";

/// The headers that only mean something between two tries: left out when an event is replayed.
pub const FORGET: [&str; 4] = [ATTEMPTS, WAITS, RECEIVED, FAILED];

const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_mins(5);
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// Whose trouble it is.
#[derive(Debug)]
pub struct Trouble<'a> {
    key: EventKey,
    verb: Verb,
    event: Option<&'a Event>,
    never_given_up: bool,
}

impl<'a> Trouble<'a> {
    /// An event's.
    pub fn of_event(event: &'a Event) -> Self {
        let never_given_up = match &event.request {
            Request::Revoke(_) => true,
            Request::Cleanup(cleanup) => cleanup.principal.is_some(),
            _ => false,
        };
        Self { key: event.key(), verb: event.request.verb(), event: Some(event), never_given_up }
    }

    /// An expiry's.
    pub fn of_expiry(key: EventKey) -> Self {
        Self { key, verb: Verb::Revoke, event: None, never_given_up: true }
    }

    fn failed(&self, reason: Reason) -> AuditEvent {
        audit::failed([self.key.integration.as_str(), &self.key.source, &self.key.id], self.verb, self.event, reason)
    }
}

/// What becomes of an event without a result.
#[derive(Debug)]
pub struct Failure {
    /// What is said about it, if anything.
    pub failed: Option<AuditEvent>,
    /// How the delivery ends.
    pub end: End,
}

/// Decides what becomes of an event that stopped. `pause`: how long the target's circuit stays open.
pub fn judge(delivery: &Delivery, trouble: &Trouble<'_>, stop: Stop, pause: Option<Duration>, limits: &WorkerConfig) -> Failure {
    let circuit_open = matches!(stop, Stop::Target(TargetError::CircuitOpen(_)));
    let (reason, disposition, draft) = match stop {
        Stop::Target(error) => (error.reason(), error.disposition(), None),
        Stop::SessionSurvives { draft, surviving } => {
            let message = format!("access is taken away, but {surviving} sessions of the person are still there");
            (Reason::new(Code::SessionSurvives, message), Disposition::Later, Some(draft))
        }
        Stop::Credential(error) => (Reason::new(Code::Internal, error.to_string()), Disposition::Later, None),
        // They have conclusions of their own and do not come here.
        Stop::Conflict | Stop::NotYet(_) | Stop::Moot => (Reason::new(Code::Internal, "unexpected stop"), Disposition::Later, None),
    };
    let counts = matches!(disposition, Disposition::Again | Disposition::Later | Disposition::Reject);
    let attempts = attempt(delivery);
    let too_often = counts && attempts >= limits.max_attempts;
    let too_old = !counts && disposition == Disposition::Unreachable && is_too_old(trouble, limits);
    let survives = reason.code == Code::SessionSurvives;
    // One line for a target that is down, not one for each event that waits for it.
    let quiet = circuit_open && !too_old;
    if !quiet {
        tracing::warn!(
            event_id = %trouble.key.id, integration = %trouble.key.integration, code = reason.code.as_str(),
            sqlstate = reason.sqlstate, attempt = attempts, "{}", reason.message
        );
    }
    if (too_often || too_old) && !trouble.never_given_up {
        let end = dead(reason.code.as_str());
        return Failure { failed: Some(trouble.failed(reason)), end };
    }
    let said = delivery.headers.get_i64(FAILED).is_some();
    let failed = ((too_often || survives) && !said).then(|| match draft {
        Some(draft) => of_draft(trouble, *draft, reason),
        None => trouble.failed(reason),
    });
    let mut headers = kept(delivery);
    if failed.is_some() || said {
        headers.push((FAILED, 1.into()));
    }
    let waits = delivery.headers.get_i64(WAITS).unwrap_or(0);
    headers.push((WAITS, if counts { 0 } else { waits + 1 }.into()));
    headers.push((ATTEMPTS, (i64::from(attempts) - i64::from(!counts)).into()));
    let pause = match disposition {
        Disposition::Wait => Duration::from_millis(400),
        Disposition::Unreachable => pause.unwrap_or_default().max(growing(waits, LONGEST_WAIT)),
        _ => growing(i64::from(attempts) - 1, if survives { LONGEST_WAIT } else { LONGEST_PAUSE }),
    };
    Failure { failed, end: End::Wait { line: Line::Retry, due: after(pause), headers } }
}

/// The draft says what was done so far.
fn of_draft(trouble: &Trouble<'_>, draft: AuditEvent, reason: Reason) -> AuditEvent {
    let mut failed = trouble.failed(reason.clone());
    failed.data = draft.data;
    failed.data.outcome = Outcome::Failed;
    failed.data.is_final = false;
    failed.data.reason = Some(reason);
    failed
}

/// By this process's clock: the target's cannot be asked.
fn is_too_old(trouble: &Trouble<'_>, limits: &WorkerConfig) -> bool {
    let age = trouble.event.map(|event| Timestamp::now().duration_since(event.time));
    let longest = SignedDuration::try_from(limits.max_event_age).unwrap_or(SignedDuration::MAX);
    age.is_some_and(|age| age > longest)
}

/// Wait without counting an attempt.
pub fn later(delivery: &Delivery, pause: Duration) -> End {
    let mut headers = kept(delivery);
    headers.push((ATTEMPTS, (i64::from(attempt(delivery)) - 1).into()));
    End::Wait { line: Line::Retry, due: after(pause), headers }
}

/// Given up: kept in the dead queue with why.
pub fn dead(code: &str) -> End {
    End::Dead { headers: vec![("postern-reason", code.into()), ("postern-dead-at", Timestamp::now().to_string().into())] }
}

/// Which try this is, from 1.
pub fn attempt(delivery: &Delivery) -> u32 {
    let before = delivery.headers.get_i64(ATTEMPTS).unwrap_or(0);
    u32::try_from(before).unwrap_or(0).saturating_add(1)
}

/// When a worker first took the event up.
pub fn received_at(delivery: &Delivery) -> Timestamp {
    delivery.headers.get_i64(RECEIVED).and_then(|ms| Timestamp::from_millisecond(ms).ok()).unwrap_or(delivery.arrived)
}

fn kept(delivery: &Delivery) -> Vec<(&'static str, HeaderValue)> {
    vec![(RECEIVED, received_at(delivery).as_millisecond().into())]
}

fn growing(n: i64, longest: Duration) -> Duration {
    FIRST_PAUSE.saturating_mul(1 << n.clamp(0, 16)).min(longest)
}

/// A fifth more or less, so that what failed together does not come back together.
fn after(pause: Duration) -> Timestamp {
    let random = u32::from(uuid::Uuid::new_v4().as_bytes()[0]);
    let pause = pause.mul_f64(0.8 + 0.4 * f64::from(random) / 255.0);
    Timestamp::now() + SignedDuration::try_from(pause).unwrap_or(SignedDuration::ZERO)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits() -> WorkerConfig {
        WorkerConfig {
            listen: ([127, 0, 0, 1], 0).into(),
            shutdown_grace: Duration::from_secs(1),
            max_attempts: 3,
            max_event_age: Duration::from_hours(1),
            unknown_grace: Duration::ZERO,
        }
    }

    fn event(verb: &str, ago: i64) -> Event {
        let (_, mut event) = postern_schemas::examples::events().into_iter().find(|(name, _)| *name == verb).unwrap_or_default();
        event["time"] = (Timestamp::now() - SignedDuration::from_secs(ago)).to_string().into();
        event["data"].as_object_mut().map(|data| data.remove("expires_at"));
        Event::from_value(&event).unwrap_or_else(|e| panic!("{e:?}"))
    }

    fn delivery(attempts: i64) -> Delivery {
        let mut delivery = Delivery::local(Vec::new());
        delivery.headers.set_i64(ATTEMPTS, attempts);
        delivery
    }

    fn is_dead(failure: &Failure) -> bool {
        matches!(failure.end, End::Dead { .. })
    }

    #[test]
    fn attempts_are_counted_and_end() {
        let grant = event("grant-none", 10);
        let stop = || Stop::Target(TargetError::Restless(1));
        let first = judge(&delivery(0), &Trouble::of_event(&grant), stop(), None, &limits());
        assert!(!is_dead(&first) && first.failed.is_none());
        let last = judge(&delivery(2), &Trouble::of_event(&grant), stop(), None, &limits());
        assert!(is_dead(&last) && last.failed.is_some());
    }

    #[test]
    fn a_revoke_is_never_given_up_and_says_so_once() {
        let revoke = event("revoke-grant", 1_000_000);
        let stop = || Stop::Target(TargetError::Restless(1));
        let mut again = delivery(50);
        let failure = judge(&again, &Trouble::of_event(&revoke), stop(), None, &limits());
        assert!(!is_dead(&failure) && failure.failed.is_some());
        again.headers.set_i64(FAILED, 1);
        assert!(judge(&again, &Trouble::of_event(&revoke), stop(), None, &limits()).failed.is_none());
    }

    #[test]
    fn waiting_for_a_target_is_no_attempt_but_ends_with_age() {
        let stop = || Stop::Target(TargetError::Busy(1));
        let young = event("grant-none", 10);
        let waiting = judge(&delivery(2), &Trouble::of_event(&young), stop(), None, &limits());
        assert!(matches!(&waiting.end, End::Wait { headers, .. } if headers.contains(&(ATTEMPTS, 2.into()))));
        let old = event("grant-none", 7200);
        assert!(is_dead(&judge(&delivery(0), &Trouble::of_event(&old), stop(), None, &limits())));
        let revoke = event("revoke-all", 7200);
        assert!(!is_dead(&judge(&delivery(0), &Trouble::of_event(&revoke), stop(), None, &limits())));
    }
}
