//! What the worker says of itself: log lines on standard error, and metrics for `/metrics`.

use std::collections::BTreeSet;
use std::io::IsTerminal as _;
use std::sync::Arc;
use std::time::Duration;

use postern_schemas::{IntegrationId, Outcome, Verb};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;
use tracing_subscriber::EnvFilter;

use crate::broker::Line;

/// What is logged unless `POSTERN_LOG` says otherwise.
pub const DEFAULT_FILTER: &str = "info,lapin=off";

/// The label of an integration that is not configured: its name came from outside and could be any number of names.
const UNKNOWN: &str = "_";

/// Why logging could not begin.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The filter is malformed.
    #[error("POSTERN_LOG: {0}")]
    Filter(String),
    /// Something in this process logs already.
    #[error("logging has begun already")]
    Begun,
}

/// Begins to log to standard error: text on a terminal, JSON lines elsewhere. `filter` is `POSTERN_LOG`.
pub fn init(filter: Option<&str>) -> Result<(), TelemetryError> {
    let filter = parse_filter(filter.unwrap_or(DEFAULT_FILTER)).map_err(TelemetryError::Filter)?;
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let begun = if std::io::stderr().is_terminal() {
        lines.compact().try_init()
    } else {
        lines.json().flatten_event(true).with_current_span(true).with_span_list(false).with_ansi(false).try_init()
    };
    begun.map_err(|_| TelemetryError::Begun)
}

/// Says what is wrong with a filter, if anything.
pub fn check_filter(text: &str) -> Result<(), String> {
    parse_filter(text).map(|_| ())
}

fn parse_filter(text: &str) -> Result<EnvFilter, String> {
    EnvFilter::builder()
        .parse(text)
        .map_err(|error| format!("{text:?} is not a log filter ({error}); expected such as info or {DEFAULT_FILTER},postern=debug"))
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct EventLabels {
    verb: &'static str,
    outcome: &'static str,
    integration: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct VerbLabel {
    verb: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LineLabel {
    line: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RetryLabels {
    integration: String,
    sqlstate: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct IntegrationLabel {
    integration: String,
}

/// The worker's metrics. A copy counts into the same numbers. Labels have closed sets of values: verbs, outcomes, lines,
/// configured integrations, and the SQLSTATEs after which another round may help.
#[derive(Clone, Debug)]
pub struct Metrics {
    registry: Arc<Registry>,
    integrations: Arc<BTreeSet<IntegrationId>>,
    events: Family<EventLabels, Counter>,
    seconds: Family<VerbLabel, Histogram>,
    published: Counter,
    waiting: Family<LineLabel, Counter>,
    dead: Counter,
    sessions: Counter,
    retries: Family<RetryLabels, Counter>,
    target_up: Family<IntegrationLabel, Gauge>,
    broker: Gauge,
}

impl Metrics {
    /// All at zero, for these integrations.
    pub fn new<'a>(integrations: impl IntoIterator<Item = &'a IntegrationId>) -> Self {
        let mut registry = Registry::with_prefix("postern");
        let events = Family::default();
        // 1 ms to 65 s: a grant takes a few milliseconds, a wide revoke seconds.
        let seconds = Family::new_with_constructor((|| Histogram::new(exponential_buckets(0.001, 2.0, 17))) as fn() -> Histogram);
        let (published, dead, sessions) = (Counter::default(), Counter::default(), Counter::default());
        let waiting = Family::default();
        let target_up = Family::default();
        let retries = Family::default();
        let broker = Gauge::default();
        // The library adds `_total` to counters and the final dot to the help.
        registry.register("events", "Events concluded with a result, by outcome", events.clone());
        registry.register("event_seconds", "Seconds from taking an event up to its conclusion", seconds.clone());
        registry.register("results_published", "Results confirmed by the broker", published.clone());
        registry.register("waiting", "Messages put into a waiting queue", waiting.clone());
        registry.register("dead", "Events given up", dead.clone());
        registry.register("sessions_terminated", "Database sessions ended by revokes", sessions.clone());
        registry.register("retries", "Rounds repeated at once after a conflict on the server, by SQLSTATE", retries.clone());
        registry.register("target_up", "Whether the integration's server could be reached when last tried", target_up.clone());
        registry.register("broker_connected", "Whether events are being consumed", broker.clone());
        for line in [Line::Retry, Line::Expiry] {
            drop(waiting.get_or_create(&LineLabel { line: line.as_str() }));
        }
        Self {
            registry: Arc::new(registry),
            integrations: Arc::new(integrations.into_iter().cloned().collect()),
            events,
            seconds,
            published,
            waiting,
            dead,
            sessions,
            retries,
            target_up,
            broker,
        }
    }

    /// An event was concluded with a result, `elapsed` after it was taken up.
    pub fn event(&self, verb: Verb, outcome: Outcome, integration: &str, elapsed: Duration) {
        let labels = EventLabels { verb: verb.as_str(), outcome: outcome.as_str(), integration: self.known(integration) };
        self.events.get_or_create(&labels).inc();
        self.seconds.get_or_create(&VerbLabel { verb: verb.as_str() }).observe(elapsed.as_secs_f64());
    }

    /// A result was confirmed by the broker.
    pub fn result_published(&self) {
        self.published.inc();
    }

    /// A message was put into a waiting queue.
    pub fn waiting(&self, line: Line) {
        self.waiting.get_or_create(&LineLabel { line: line.as_str() }).inc();
    }

    /// An event was given up.
    pub fn dead(&self) {
        self.dead.inc();
    }

    /// So many database sessions were ended.
    pub fn sessions_terminated(&self, count: u32) {
        self.sessions.inc_by(count.into());
    }

    /// So many rounds were repeated after this SQLSTATE.
    pub fn retries(&self, integration: &IntegrationId, sqlstate: &str, count: u64) {
        let labels = RetryLabels { integration: self.known(integration.as_str()), sqlstate: sqlstate.to_owned() };
        self.retries.get_or_create(&labels).inc_by(count);
    }

    /// Whether the integration's server could be reached just now.
    pub fn target_up(&self, integration: &IntegrationId, up: bool) {
        self.target_up.get_or_create(&IntegrationLabel { integration: self.known(integration.as_str()) }).set(up.into());
    }

    /// Whether events are being consumed.
    pub fn broker_connected(&self, connected: bool) {
        self.broker.set(connected.into());
    }

    /// All numbers in `OpenMetrics` 1.0 text.
    pub fn render(&self) -> String {
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = prometheus_client::encoding::text::encode(&mut text, &self.registry);
        text
    }

    fn known(&self, integration: &str) -> String {
        let known = IntegrationId::new(integration).is_ok_and(|id| self.integrations.contains(&id));
        if known { integration.to_owned() } else { UNKNOWN.to_owned() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_have_the_documented_names_and_no_foreign_labels() {
        let orders = IntegrationId::new("orders").unwrap();
        let metrics = Metrics::new([&orders]);
        metrics.event(Verb::Grant, Outcome::Succeeded, "orders", Duration::from_millis(3));
        metrics.clone().event(Verb::Revoke, Outcome::Rejected, "made-up-by-a-producer", Duration::from_millis(3));
        metrics.result_published();
        metrics.waiting(Line::Expiry);
        metrics.dead();
        metrics.sessions_terminated(2);
        metrics.retries(&orders, "40P01", 2);
        metrics.target_up(&orders, true);
        metrics.broker_connected(true);
        let text = metrics.render();
        for line in [
            "postern_events_total{verb=\"grant\",outcome=\"succeeded\",integration=\"orders\"} 1",
            "postern_events_total{verb=\"revoke\",outcome=\"rejected\",integration=\"_\"} 1",
            "postern_event_seconds_count{verb=\"grant\"} 1",
            "postern_results_published_total 1",
            "postern_waiting_total{line=\"expiry\"} 1",
            "postern_waiting_total{line=\"retry\"} 0",
            "postern_dead_total 1",
            "postern_sessions_terminated_total 2",
            "postern_retries_total{integration=\"orders\",sqlstate=\"40P01\"} 2",
            "postern_target_up{integration=\"orders\"} 1",
            "postern_broker_connected 1",
        ] {
            assert!(text.lines().any(|met| met == line), "{line} not in\n{text}");
        }
        assert!(text.ends_with("# EOF\n"));
    }

    #[test]
    fn filters() {
        assert_eq!(check_filter(DEFAULT_FILTER), Ok(()));
        assert_eq!(check_filter("postern=debug"), Ok(()));
        assert!(check_filter("a=b=c").is_err());
    }
}
