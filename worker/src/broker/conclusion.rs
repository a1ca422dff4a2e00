//! How a delivery ends, and who decides it.

use std::future::Future;

use jiff::Timestamp;

use super::message::{Delivery, HeaderValue};

/// Turns deliveries into conclusions. It never talks to the broker: the session publishes and acknowledges.
pub trait Handler: Send + Sync + 'static {
    /// Handles one delivery. Called concurrently, up to `prefetch` at once, and again for the same message after a lost
    /// connection: possibly while the first call still runs, so it must be idempotent.
    ///
    /// A panic is caught: the message waits and is tried again, and the third panic asks [`Handler::poisoned`].
    fn handle(&self, delivery: &Delivery) -> impl Future<Output = Conclusion> + Send;

    /// The conclusion for a message that panicked three times, or killed a worker three times while it ran alone.
    /// Must not do what [`Handler::handle`] does: usually a `failed` result and [`End::Dead`].
    fn poisoned(&self, delivery: &Delivery) -> Conclusion;
}

/// How a delivery ends. The session publishes `results` and `timers`, waits for all confirms, and then ends the
/// delivery. If anything fails in between, the delivery stays unacknowledged and the broker delivers it again.
#[derive(Debug, Clone, PartialEq)]
pub struct Conclusion {
    /// Results for the audit exchange.
    pub results: Vec<AuditMessage>,
    /// New messages that come to the work queue later.
    pub timers: Vec<Timer>,
    /// What becomes of the delivery itself.
    pub end: End,
}

impl Conclusion {
    /// A conclusion that publishes nothing but what its end needs.
    #[must_use]
    pub fn of(end: End) -> Self {
        Self { results: Vec::new(), timers: Vec::new(), end }
    }
}

/// What becomes of a delivery. `headers` are set on the copy, over those the message came with.
#[derive(Debug, Clone, PartialEq)]
pub enum End {
    /// It is done with.
    Ack,
    /// A copy comes back to the work queue when it is due, never earlier.
    Wait {
        /// Which set of levels it waits in.
        line: Line,
        /// When it comes back, by this process's clock.
        due: Timestamp,
        /// For example the number of the attempt.
        headers: Vec<(&'static str, HeaderValue)>,
    },
    /// A copy goes to the dead-letter queue, body byte for byte.
    Dead {
        /// Why it is given up.
        headers: Vec<(&'static str, HeaderValue)>,
    },
}

/// The two sets of waiting levels, apart so that a backlog of one never delays the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Line {
    /// Events to be tried again.
    Retry,
    /// Grants to be ended.
    Expiry,
}

impl Line {
    /// As it stands in queue names and in the header `postern-line`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Retry => "retry",
            Self::Expiry => "expiry",
        }
    }

    /// The inverse of [`Line::as_str`].
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Retry, Self::Expiry].into_iter().find(|line| line.as_str() == text)
    }
}

/// One result for the audit exchange, published persistent with content type `application/cloudevents+json`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditMessage {
    /// `audit.<verb>.<outcome>.<integration>`, at most 255 bytes.
    pub routing_key: String,
    /// The result's `id`, at most 255 bytes.
    pub message_id: String,
    /// The inbound event's `id`; AMQP has no room for more than 255 bytes, a longer one is left out.
    pub correlation_id: String,
    /// The CloudEvent as JSON.
    pub body: Vec<u8>,
}

/// A new message that comes to the work queue when it is due, such as a grant's expiry.
#[derive(Debug, Clone, PartialEq)]
pub struct Timer {
    /// Which set of levels it waits in.
    pub line: Line,
    /// When it comes, by this process's clock.
    pub due: Timestamp,
    /// What [`Delivery::body`] will be.
    pub body: Vec<u8>,
    /// What [`Delivery::headers`] will hold.
    pub headers: Vec<(&'static str, HeaderValue)>,
}
