//! The work of one event on its target: observe → plan → apply, and what has to follow the commit.
//!
//! | module | events |
//! |---|---|
//! | [`single`] | those that are one transaction: grant, revoke of a grant or a person, a person's rotation, expiry |
//! | [`wide`] | a revoke of all: one transaction a person |
//! | [`cleanup`] | clean-ups, and rotation by policy: many small steps under a claim |
//! | `drift` | the clean-up's look for what was changed by hand or forgotten |
//! | [`preview`] | any of them, changing nothing |
//! | [`credential`] | passwords: drawn, hashed, sealed |
//!
//! Nothing here knows the broker: `postern apply` runs the same work without one.

pub mod cleanup;
pub mod credential;
mod drift;
pub mod fault;
pub mod preview;
pub mod single;
pub mod wide;

use jiff::Timestamp;
use postern_schemas::request::{Revoke, Rotate};
use postern_schemas::result::AuditEvent;
use postern_schemas::{Code, Event, Reason, Request};

use crate::access::Rules;
use crate::config::{Config, Integration};
use crate::postgres::{Rounds, Target, TargetError};

/// What came of an event.
#[derive(Clone, Debug)]
pub struct Settled {
    /// Its result.
    pub result: AuditEvent,
    /// Results of grants whose time was found to be up on the way.
    pub expired: Vec<AuditEvent>,
    /// A grant that now ends by itself: when, by this process's clock.
    pub expires: Option<Expires>,
    /// The result was there before: this is a repeat.
    pub repeated: bool,
}

/// A grant's own end, to be announced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expires {
    /// The grant.
    pub grant_id: String,
    /// Its revision.
    pub revision: i32,
    /// By this process's clock.
    pub due: Timestamp,
}

/// Why an event has no result yet, or never gets one of its own.
#[derive(Debug)]
pub enum Stop {
    /// The target failed.
    Target(TargetError),
    /// Access is taken away, but sessions of the person are still there.
    SessionSurvives {
        /// What is committed so far.
        draft: Box<AuditEvent>,
        /// How many.
        surviving: u32,
    },
    /// Another body was carried out under this key.
    Conflict,
    /// An expiry that came early: by this process's clock.
    NotYet(Timestamp),
    /// An expiry of something that ended, or goes on, for other reasons.
    Moot,
    /// A password could not be made.
    Credential(credential::CredentialError),
}

impl Stop {
    /// For a reader.
    pub fn describe(&self) -> String {
        match self {
            Self::Target(error) => error.to_string(),
            Self::SessionSurvives { surviving, .. } => {
                format!("access is taken away, but {surviving} sessions of the person are still there")
            }
            Self::Conflict => "another body was carried out under this key".to_owned(),
            Self::NotYet(due) => format!("it is due at {due}"),
            Self::Moot => "there is nothing to do".to_owned(),
            Self::Credential(error) => error.to_string(),
        }
    }
}

impl<E: Into<TargetError>> From<E> for Stop {
    fn from(error: E) -> Self {
        Self::Target(error.into())
    }
}

/// What of a wrong event can only be seen here, but follows from its body alone.
pub fn check_body(event: &Event) -> Result<(), Reason> {
    let deliver = match &event.request {
        Request::Grant(grant) => &grant.credential,
        Request::Rotate(Rotate::Principal(rotate)) => &rotate.credential,
        Request::Discover(_) => {
            return Err(Reason::new(Code::InvalidEvent, "discover is not available in this version").at("type"));
        }
        _ => return Ok(()),
    };
    credential::Recipient::of(deliver).map(|_| ())
}

/// Carries an event out on its target, or finds that it was.
///
/// Begins anew where a session ended under the work, which the ledger makes safe: what was committed is found there. A
/// server that is gone refuses the new session.
pub async fn carry_out(event: &Event, target: &Target, rules: &Rules) -> Result<Settled, Stop> {
    let mut rounds = Rounds::of(target);
    loop {
        match Box::pin(once(event, target, rules)).await {
            Err(Stop::Target(error)) => rounds.after_lost_session(error).await?,
            done => return done,
        }
    }
}

async fn once(event: &Event, target: &Target, rules: &Rules) -> Result<Settled, Stop> {
    match &event.request {
        Request::Grant(_)
        | Request::Revoke(Revoke::Grant(_) | Revoke::Principal(_))
        | Request::Rotate(Rotate::Principal(_) | Rotate::Connector(_))
        | Request::Discover(_) => single::event(event, target, rules).await,
        Request::Revoke(Revoke::All(_)) => Box::pin(wide::all(event, target)).await,
        Request::Rotate(Rotate::Policy(_)) => Box::pin(cleanup::rotate_by_policy(event, target, rules)).await,
        Request::Cleanup(cleanup) => match &cleanup.principal {
            Some(principal) => Box::pin(cleanup::person(event, principal, target)).await,
            None => Box::pin(cleanup::by_policy(event, target, rules)).await,
        },
    }
}

/// The rules of an integration.
pub fn rules(integration: &Integration, config: &Config) -> Rules {
    let days = |days: u32| jiff::SignedDuration::from_hours(24 * i64::from(days));
    let seconds = |d: std::time::Duration| jiff::SignedDuration::try_from(d).unwrap_or(jiff::SignedDuration::MAX);
    Rules {
        max_duration: integration.policy.max_duration,
        iam: integration.is_iam(),
        access: integration.policy.access.clone(),
        roles: integration.policy.roles.clone(),
        databases: integration.policy.databases.clone(),
        deliver_to: integration.policy.deliver_to.clone(),
        max_event_age: seconds(config.worker.max_event_age),
        credential_rotation: integration.credential_rotation_days.map(days),
        connection_limit: integration.connection_limit,
    }
}
