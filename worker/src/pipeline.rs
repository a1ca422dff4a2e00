//! The way of one event, top to bottom:
//!
//! decode → observe → plan → apply → report → ack
//!
//! A delivery comes in, a [`Conclusion`] goes out: the results to publish and how the delivery ends. The broker's
//! session publishes, waits for the confirms, and only then ends the delivery.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use postern_schemas::event::{DecodeError, Readable};
use postern_schemas::result::AuditEvent;
use postern_schemas::{Code, Event, IntegrationId, Reason, Verb};

use crate::access::Rules;
use crate::audit::{self, Receipt};
use crate::broker::{Conclusion, Delivery, End, Handler, Line, Timer};
use crate::config::Config;
use crate::execution::{self, Settled, Stop, single};
use crate::postgres::{Target, TargetError};
use crate::retry::{self, Failure, Trouble};
use crate::secrets::Stores;
use crate::telemetry::Metrics;

/// Marks the message that announces a grant's own end. Trusted only where the broker's session says that Postern
/// itself published the message, and believed only if the ledger agrees.
const EXPIRY: &str = "postern-expiry";
/// No event may take longer: far below the broker's consumer timeout of 30 minutes.
const LONGEST: Duration = Duration::from_mins(5);

/// Everything that one event needs, shared by all.
#[derive(Debug)]
pub struct Pipeline {
    config: Config,
    targets: BTreeMap<IntegrationId, (Arc<Target>, Rules)>,
    metrics: Metrics,
    worker: String,
}

impl Pipeline {
    /// A pipeline for the configured integrations. No target is contacted yet.
    pub fn new(config: Config, metrics: Metrics, worker: String) -> Self {
        let stores = Stores::new(&config);
        let target = |(id, integration): (&IntegrationId, &Arc<crate::config::Integration>)| {
            (id.clone(), (Arc::new(Target::new(Arc::clone(integration), &stores)), execution::rules(integration, &config)))
        };
        let targets = config.integrations.iter().map(target).collect();
        Self { config, targets, metrics, worker }
    }

    /// The targets, for the housekeeping of their sessions.
    pub fn targets(&self) -> Vec<Arc<Target>> {
        self.targets.values().map(|(target, _)| Arc::clone(target)).collect()
    }

    async fn run(&self, delivery: &Delivery) -> Conclusion {
        if delivery.headers.get_str(EXPIRY).is_some() {
            return Box::pin(self.run_expiry(delivery)).await;
        }
        let event = match Event::decode(&delivery.body) {
            Ok(event) => event,
            Err(error) => {
                let (readable, reason) = (error.readable(), error.reason());
                return match error {
                    DecodeError::UnknownType { .. } => self.reject_unknown(delivery, &readable, reason),
                    DecodeError::Undecodable(_) => self.reject_body(delivery, &readable, reason, retry::dead("invalid_event")),
                    DecodeError::Invalid { .. } => self.reject_body(delivery, &readable, reason, End::Ack),
                };
            }
        };
        execution::fault::point(&format!("event {}", event.id));
        if let Err(reason) = execution::check_body(&event) {
            return self.reject_body(delivery, &event.readable(), reason, End::Ack);
        }
        let Some((target, rules)) = self.targets.get(event.request.integration()) else {
            let message = format!("integration {:?} is not configured here", event.request.integration().as_str());
            let reason = Reason::new(Code::UnknownIntegration, message).at("data.integration");
            return self.reject_unknown(delivery, &event.readable(), reason);
        };
        match self.timed(target, Box::pin(execution::carry_out(&event, target, rules))).await {
            Ok(settled) => self.report(delivery, settled),
            Err(Stop::Conflict) => {
                let message = "this id was used before with another type, time or data; use a new id".to_owned();
                self.reject_body(delivery, &event.readable(), Reason::new(Code::IdConflict, message).at("id"), End::Ack)
            }
            Err(stop) => self.fail(delivery, &Trouble::of_event(&event), stop, Some(target)),
        }
    }

    /// A grant's own end: the ledger decides whether it is due.
    async fn run_expiry(&self, delivery: &Delivery) -> Conclusion {
        let announced: Option<(IntegrationId, postern_schemas::GrantId, i32)> = parse_expiry(&delivery.body);
        let Some((integration, grant_id, revision)) = announced else {
            tracing::warn!("an announced expiry cannot be read; the next clean-up finds the grant");
            return Conclusion::of(End::Ack);
        };
        let Some((target, rules)) = self.targets.get(&integration) else {
            // The integration is not configured (any more): without its secret there is nothing to be done here.
            tracing::warn!(%integration, %grant_id, "an expiry of an integration that is not configured here");
            return Conclusion::of(retry::later(delivery, Duration::from_mins(5)));
        };
        match self.timed(target, Box::pin(single::expire(&integration, &grant_id, revision, target, rules))).await {
            Ok(settled) => self.report(delivery, settled),
            Err(Stop::Moot) => Conclusion::of(End::Ack),
            Err(Stop::NotYet(due)) => Conclusion::of(End::Wait { line: Line::Expiry, due, headers: Vec::new() }),
            Err(stop) => {
                let trouble = Trouble::of_expiry(single::expiry_key(&integration, &grant_id, revision));
                self.fail(delivery, &trouble, stop, Some(target))
            }
        }
    }

    /// Runs an event within the longest time, and tells the target's circuit how it went. While the circuit is open
    /// nothing is tried, and no slot is held.
    async fn timed(&self, target: &Target, work: impl Future<Output = Result<Settled, Stop>>) -> Result<Settled, Stop> {
        if let Some(why) = target.open_because() {
            return Err(Stop::Target(TargetError::CircuitOpen(Box::new(why))));
        }
        let done = match tokio::time::timeout(LONGEST, work).await {
            Ok(done) => done,
            Err(_) => Err(Stop::Target(TargetError::Busy(LONGEST.as_secs()))),
        };
        let unreachable = match &done {
            Err(Stop::Target(error)) if error.closes_circuit() => Some(error.reason()),
            _ => None,
        };
        let reached = unreachable.is_none();
        if matches!(&done, Err(Stop::Target(error)) if error.lost_ledger()) {
            target.forget_ledger().await;
        }
        for (sqlstate, count) in target.take_retries() {
            self.metrics.retries(&target.integration().id, &sqlstate, count);
        }
        target.note(unreachable);
        self.metrics.target_up(&target.integration().id, reached);
        done
    }

    fn report(&self, delivery: &Delivery, settled: Settled) -> Conclusion {
        let Settled { result, expired, expires, repeated } = settled;
        self.metrics.sessions_terminated(if repeated { 0 } else { result.data.sessions_terminated });
        let integration = result.data.integration.clone();
        // A repeat announces the expiry again only if an earlier try of this very message may have ended before it did.
        let earlier = delivery.redelivered || !delivery.fresh;
        let timers = expires.filter(|_| !repeated || earlier).map(|expires| Timer {
            line: Line::Expiry,
            due: expires.due,
            body: serde_json::json!([integration, expires.grant_id, expires.revision]).to_string().into_bytes(),
            headers: vec![(EXPIRY, "1".into())],
        });
        let results = expired.into_iter().chain([result]).map(|result| self.message(delivery, result, true)).collect();
        Conclusion { results, timers: timers.into_iter().collect(), end: End::Ack }
    }

    fn reject_body(&self, delivery: &Delivery, readable: &Readable, reason: Reason, end: End) -> Conclusion {
        let result = audit::of_body(&delivery.body, readable, reason);
        let known = readable.integration.as_ref().is_some_and(|id| self.targets.contains_key(id));
        Conclusion { results: vec![self.message(delivery, result, known)], timers: Vec::new(), end }
    }

    /// What this worker does not know a newer one may: a rolling upgrade gets time.
    fn reject_unknown(&self, delivery: &Delivery, readable: &Readable, reason: Reason) -> Conclusion {
        let waited = Timestamp::now().duration_since(retry::received_at(delivery));
        if waited.unsigned_abs() < self.config.worker.unknown_grace {
            let pause = Duration::from_secs(1).max(waited.unsigned_abs()).min(self.config.worker.unknown_grace);
            return Conclusion::of(retry::later(delivery, pause));
        }
        self.reject_body(delivery, readable, reason, End::Ack)
    }

    /// No result yet: the delivery waits, or is given up within its limits.
    fn fail(&self, delivery: &Delivery, trouble: &Trouble<'_>, stop: Stop, target: Option<&Target>) -> Conclusion {
        let failure = retry::judge(delivery, trouble, stop, target.and_then(Target::pause), &self.config.worker);
        let Failure { failed, end } = failure;
        let results = failed.into_iter().map(|result| self.message(delivery, result, true)).collect();
        Conclusion { results, timers: Vec::new(), end }
    }

    fn message(&self, delivery: &Delivery, result: AuditEvent, known: bool) -> crate::broker::AuditMessage {
        let receipt = Receipt { attempt: retry::attempt(delivery), received_at: retry::received_at(delivery), worker: self.worker.clone() };
        let data = &result.data;
        let elapsed = Timestamp::now().duration_since(receipt.received_at).unsigned_abs();
        self.metrics.event(data.verb, data.outcome, if known { &data.integration } else { "_" }, elapsed);
        tracing::info!(
            event_id = %data.event_id, verb = %data.verb, integration = %data.integration, outcome = data.outcome.as_str(),
            code = data.reason.as_ref().map(|r| r.code.as_str()), attempt = receipt.attempt, "settled"
        );
        audit::message(result, &receipt, Timestamp::now(), known)
    }
}

impl Handler for Pipeline {
    async fn handle(&self, delivery: &Delivery) -> Conclusion {
        let began = Instant::now();
        let conclusion = self.run(delivery).await;
        match &conclusion.end {
            End::Ack => {}
            End::Wait { line, .. } => self.metrics.waiting(*line),
            End::Dead { .. } => self.metrics.dead(),
        }
        for _ in &conclusion.results {
            self.metrics.result_published();
        }
        tracing::debug!(elapsed_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX), "handled");
        conclusion
    }

    fn poisoned(&self, delivery: &Delivery) -> Conclusion {
        let reason = Reason::new(Code::Poison, "the event ended a worker three times while it ran alone; it waits in the dead queue");
        let event = Event::decode(&delivery.body).ok();
        let known = event.as_ref().map(Event::readable).unwrap_or_default();
        let integration = known.integration.as_ref().map_or("unknown", |i| i.as_str());
        let verb = known.verb.unwrap_or(Verb::Unknown);
        let result = audit::failed([integration, &known.source, &known.id], verb, event.as_ref(), reason);
        let is_configured = known.integration.as_ref().is_some_and(|id| self.targets.contains_key(id));
        Conclusion { results: vec![self.message(delivery, result, is_configured)], timers: Vec::new(), end: retry::dead("poison") }
    }
}

fn parse_expiry(body: &[u8]) -> Option<(IntegrationId, postern_schemas::GrantId, i32)> {
    serde_json::from_slice(body).ok()
}
