//! Confirmed publishing.
//!
//! A publish has a channel to itself until it is confirmed; channels are kept and reused. Sharing one would be wrong twice
//! with this client library (lapin 4.12): it numbers a publish and queues its frames in two steps, so two publishes at once
//! can swap their confirms; and it hands a `basic.return` to whichever confirm comes next, so an unroutable message could
//! be taken for a stored one. With one publish at a time neither can happen, and the broker works on the channels side
//! by side.

use std::{sync::Mutex, time::Duration};

use jiff::Timestamp;
use lapin::{
    BasicProperties, Channel, Confirmation,
    options::{BasicPublishOptions, ConfirmSelectOptions},
    types::ShortString,
};
use tokio::sync::Semaphore;

use super::{
    conclusion::{AuditMessage, Line, Timer},
    delay,
    error::BrokerError,
    link::{ANSWER_TIMEOUT, Link, answer, lock},
    message::{self, Headers, persistent},
    topology::{Names, short},
};

/// A quorum queue confirms in milliseconds; one that has no majority never does.
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(30);
/// The first publish of a connection, which finds out whether the broker takes messages at all.
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);
/// More publishes at once than this wait for each other. RabbitMQ allows 2,047 channels a connection by default.
const CHANNELS: usize = 128;
/// Content type of events and results.
pub(super) const CLOUDEVENT: &str = "application/cloudevents+json";

/// Publishes on one link. Lives as long as it: what an old session publishes late fails instead of reaching the new one.
pub(super) struct Publisher {
    names: Names,
    idle: Mutex<Vec<Channel>>,
    permits: Semaphore,
}

/// Where a message goes, and whether a queue must be there.
struct Target {
    exchange: String,
    routing_key: String,
    mandatory: bool,
}

impl Publisher {
    pub(super) fn new(names: Names) -> Self {
        Self { names, idle: Mutex::default(), permits: Semaphore::new(CHANNELS) }
    }

    /// Asks whether the broker takes messages. One with a memory or disk alarm lets us connect and consume, so without
    /// asking first every delivery would be taken, tried, and given back, again and again.
    pub(super) async fn probe(&self, link: &Link) -> Result<(), BrokerError> {
        let target = Target { exchange: String::new(), routing_key: self.names.probe(), mandatory: false };
        self.send(link, target, &[], BasicProperties::default(), PROBE_TIMEOUT).await
    }

    /// Publishes a result. Nobody has to listen.
    pub(super) async fn audit(&self, link: &Link, result: &AuditMessage) -> Result<(), BrokerError> {
        let mut properties =
            persistent(&Headers::default()).with_content_type(CLOUDEVENT.into()).with_message_id(short("message id", &result.message_id)?);
        if let Ok(id) = ShortString::try_new(result.correlation_id.as_str()) {
            properties = properties.with_correlation_id(id);
        }
        let target = Target { exchange: self.names.audit(), routing_key: result.routing_key.clone(), mandatory: false };
        self.send(link, target, &result.body, properties, CONFIRM_TIMEOUT).await
    }

    /// Publishes a new message that waits.
    pub(super) async fn timer(&self, link: &Link, timer: &Timer) -> Result<(), BrokerError> {
        let mut headers = Headers::default();
        headers.set_all(&timer.headers);
        self.wait(link, timer.line, timer.due, headers, persistent, &timer.body).await
    }

    /// Puts a message into the waiting level for what remains until it is due.
    pub(super) async fn wait(
        &self,
        link: &Link,
        waiting: Line,
        due: Timestamp,
        mut headers: Headers,
        properties: impl FnOnce(&Headers) -> BasicProperties,
        body: &[u8],
    ) -> Result<(), BrokerError> {
        headers.set(message::DUE, due.as_millisecond());
        headers.set(message::LINE, waiting.as_str());
        let level = delay::level(delay::remaining(due, Timestamp::now()));
        self.queue(link, &self.names.level(waiting, level), body, properties(&headers)).await
    }

    /// Publishes straight to a queue, which must exist.
    pub(super) async fn queue(&self, link: &Link, queue: &str, body: &[u8], properties: BasicProperties) -> Result<(), BrokerError> {
        let target = Target { exchange: String::new(), routing_key: queue.to_owned(), mandatory: true };
        self.send(link, target, body, properties, CONFIRM_TIMEOUT).await
    }

    /// Publishes an event the way a producer does; a queue must be bound.
    pub(super) async fn event(&self, link: &Link, routing_key: &str, body: &[u8], properties: BasicProperties) -> Result<(), BrokerError> {
        let target = Target { exchange: self.names.events(), routing_key: routing_key.to_owned(), mandatory: true };
        self.send(link, target, body, properties, CONFIRM_TIMEOUT).await
    }

    async fn send(
        &self,
        link: &Link,
        target: Target,
        body: &[u8],
        properties: BasicProperties,
        timeout: Duration,
    ) -> Result<(), BrokerError> {
        let name = if target.exchange.is_empty() { &target.routing_key } else { &target.exchange };
        let exchange = short("exchange", &target.exchange)?;
        let routing_key = short("routing key", &target.routing_key)?;
        let options = BasicPublishOptions { mandatory: target.mandatory, immediate: false };
        let publishing = async {
            // Never closed, so it can only be acquired.
            let _permit = self.permits.acquire().await.ok();
            let channel = self.channel(link).await?;
            let confirm = channel
                .basic_publish(exchange, routing_key, options, body, properties)
                .await
                .map_err(|error| BrokerError::of_channel(error, "publishing to", name))?;
            let confirmation = confirm.await.map_err(|error| BrokerError::of_channel(error, "publishing to", name))?;
            // Only a channel whose publish was answered goes back: another one's late confirm must not meet a new publish.
            lock(&self.idle).push(channel);
            Ok(confirmation)
        };
        let confirmation = tokio::time::timeout(timeout, publishing)
            .await
            .unwrap_or_else(|_| Err(link.explain(BrokerError::Timeout { doing: format!("publishing to {name}"), after: timeout })))?;
        match confirmation {
            Confirmation::Ack(None) => Ok(()),
            // An acked but unroutable message is gone (RabbitMQ docs, "Publisher Confirms").
            Confirmation::Ack(Some(_)) | Confirmation::Nack(Some(_)) => {
                Err(BrokerError::Unroutable { exchange: target.exchange, routing_key: target.routing_key })
            }
            // Every channel here is in confirm mode, so what was not confirmed was not taken.
            Confirmation::Nack(None) | Confirmation::NotRequested => Err(BrokerError::Nacked { routing_key: target.routing_key }),
        }
    }

    async fn channel(&self, link: &Link) -> Result<Channel, BrokerError> {
        if let Some(channel) = lock(&self.idle).pop() {
            return Ok(channel);
        }
        let channel = link.channel().await?;
        answer("switching a channel to confirms", channel.confirm_select(ConfirmSelectOptions::default()))
            .await?
            .map_err(|error| BrokerError::of_channel(error, "opening", "a channel"))?;
        Ok(channel)
    }
}

// A publish may open its channel first, so it must be given at least as long as that.
const _: () = assert!(CONFIRM_TIMEOUT.as_secs() >= ANSWER_TIMEOUT.as_secs());
