//! What the command line needs of the broker: publish an event, follow results, look whether everything is there.

use futures_util::{StreamExt as _, stream::BoxStream};
use lapin::{
    Channel, ExchangeKind,
    options::{BasicConsumeOptions, ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions},
    types::FieldTable,
};
use uuid::Uuid;

use super::{
    Settings,
    error::BrokerError,
    link::{Link, answer},
    message::{Headers, persistent},
    publisher::{CLOUDEVENT, Publisher},
    topology::{Names, short},
};

/// A connection for one command. It declares nothing of the topology; the worker does.
pub struct Client {
    pub(super) link: Link,
    pub(super) names: Names,
    pub(super) publisher: Publisher,
}

/// One result from the audit exchange.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditRecord {
    /// `audit.<verb>.<outcome>.<integration>`.
    pub routing_key: String,
    /// The result's `id`.
    pub message_id: Option<String>,
    /// The inbound event's `id`.
    pub correlation_id: Option<String>,
    /// The CloudEvent as JSON.
    pub body: Vec<u8>,
}

/// One exchange or queue that [`Client::check`] looked at.
#[derive(Debug)]
pub struct Finding {
    /// Its name.
    pub name: String,
    /// Messages ready and consumers, for a queue that is there.
    pub queue: Option<(u32, u32)>,
    /// Why it cannot be used: usually [`BrokerError::Missing`].
    pub problem: Option<BrokerError>,
}

impl Client {
    /// Connects and logs in.
    pub async fn connect(settings: &Settings) -> Result<Self, BrokerError> {
        let names = Names::new(&settings.prefix)?;
        let link = Link::open(settings).await?;
        Ok(Self { link, publisher: Publisher::new(names.clone()), names })
    }

    /// Publishes an event persistent and mandatory, and waits until the broker has it.
    ///
    /// `routing_key` is `access.<verb>.<integration>`. [`BrokerError::Missing`]: there is no events exchange;
    /// [`BrokerError::Unroutable`]: no queue is bound to it. In both cases no worker has started yet.
    pub async fn publish_event(&self, routing_key: &str, body: &[u8], message_id: &str) -> Result<(), BrokerError> {
        let properties =
            persistent(&Headers::default()).with_content_type(CLOUDEVENT.into()).with_message_id(short("message id", message_id)?);
        self.publisher.event(&self.link, routing_key, body, properties).await
    }

    /// Follows results whose routing key matches one of `binding_keys` (topic patterns such as `audit.#`).
    ///
    /// When this returns the queue is bound, so nothing published later is missed. The queue belongs to this connection
    /// and goes with it. The stream ends after its first error.
    pub async fn audit(&self, binding_keys: &[&str]) -> Result<BoxStream<'_, Result<AuditRecord, BrokerError>>, BrokerError> {
        let exchange = self.names.audit();
        let queue = format!("{}.{}", exchange, Uuid::now_v7());
        let channel = self.link.channel().await?;
        let options = QueueDeclareOptions::exclusive().auto_delete();
        let declaring = channel.queue_declare(short("queue", &queue)?, options, FieldTable::default());
        answer("declaring a queue for results", declaring).await?.map_err(|error| BrokerError::of_channel(error, "declaring", &queue))?;
        for key in binding_keys {
            let binding = channel.queue_bind(
                short("queue", &queue)?,
                short("exchange", &exchange)?,
                short("binding key", key)?,
                QueueBindOptions::default(),
                FieldTable::default(),
            );
            answer("binding a queue for results", binding)
                .await?
                .map_err(|error| BrokerError::of_channel(error, "binding to", &exchange))?;
        }
        let options = BasicConsumeOptions { no_ack: true, exclusive: true, ..BasicConsumeOptions::default() };
        let consuming = channel.basic_consume(short("queue", &queue)?, "".into(), options, FieldTable::default());
        let consumer =
            answer("following results", consuming).await?.map_err(|error| BrokerError::of_channel(error, "consuming", &queue))?;
        let records = consumer.map(move |next| next.map(record).map_err(|error| BrokerError::of_channel(error, "consuming", &queue)));
        Ok(records.boxed())
    }

    /// Looks at every exchange and queue of the topology without declaring or changing anything.
    pub async fn check(&self) -> Result<Vec<Finding>, BrokerError> {
        let mut findings = Vec::new();
        for name in self.names.exchanges() {
            let channel = self.link.channel().await?;
            let problem = look_at_exchange(&channel, &name).await.err();
            findings.push(Finding { name, queue: None, problem });
        }
        // A refusal closes its channel; until then one serves for all.
        let mut channel = self.link.channel().await?;
        for name in self.names.queues() {
            let (queue, problem) = match look_at_queue(&channel, &name).await {
                Ok(counts) => (Some(counts), None),
                Err(problem) => {
                    channel = self.link.channel().await?;
                    (None, Some(problem))
                }
            };
            findings.push(Finding { name, queue, problem });
        }
        Ok(findings)
    }

    /// Closes the connection politely.
    pub async fn close(self) {
        self.link.close().await;
    }
}

/// Connects, looks at everything, and closes again.
pub async fn check(settings: &Settings) -> Result<Vec<Finding>, BrokerError> {
    let client = Client::connect(settings).await?;
    let findings = client.check().await;
    client.close().await;
    findings
}

async fn look_at_exchange(channel: &Channel, name: &str) -> Result<(), BrokerError> {
    let options = ExchangeDeclareOptions { passive: true, ..ExchangeDeclareOptions::default() };
    let looking = channel.exchange_declare(short("exchange", name)?, ExchangeKind::Topic, options, FieldTable::default());
    answer(&format!("looking at {name}"), looking).await?.map_err(|error| BrokerError::of_channel(error, "looking at", name))
}

/// Messages ready and consumers of a queue.
pub(super) async fn look_at_queue(channel: &Channel, name: &str) -> Result<(u32, u32), BrokerError> {
    let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
    let looking = channel.queue_declare(short("queue", name)?, options, FieldTable::default());
    answer(&format!("looking at {name}"), looking)
        .await?
        .map(|queue| (queue.message_count(), queue.consumer_count()))
        .map_err(|error| BrokerError::of_channel(error, "looking at", name))
}

fn record(raw: lapin::message::Delivery) -> AuditRecord {
    AuditRecord {
        routing_key: raw.routing_key.to_string(),
        message_id: raw.properties.message_id().as_ref().map(ToString::to_string),
        correlation_id: raw.properties.correlation_id().as_ref().map(ToString::to_string),
        body: raw.data,
    }
}
