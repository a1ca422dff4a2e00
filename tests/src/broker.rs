//! One prefix on a broker: publishing events as a producer does, and looking into the queues.

use anyhow::{Context, Result, bail};
use futures_util::future::try_join_all;
use lapin::options::{
    BasicAckOptions, BasicGetOptions, BasicPublishOptions, ConfirmSelectOptions, ExchangeDeleteOptions, QueueDeclareOptions,
    QueueDeleteOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Confirmation, Connection, ConnectionProperties};
use serde_json::Value;
use tokio::sync::Mutex;

use crate::events::Event;

/// Deleting a queue is a round trip; so many are on the way at once.
const PARALLEL: usize = 8;

/// Where the broker is that the whole suite shares.
pub fn shared_url() -> Result<String> {
    std::env::var("POSTERN_TEST_AMQP").context("POSTERN_TEST_AMQP is not set: run `make test`, or `postern-services -- cargo test …`")
}

/// A message that was taken from a queue.
#[derive(Clone, Debug)]
pub struct Message {
    /// Its routing key.
    pub routing_key: String,
    /// Its properties, the headers among them.
    pub properties: BasicProperties,
    /// Its body.
    pub body: Vec<u8>,
    /// Its body as JSON; null when it is none.
    pub json: Value,
}

impl Message {
    pub(crate) fn new(routing_key: &str, properties: BasicProperties, body: Vec<u8>) -> Self {
        let json = serde_json::from_slice(&body).unwrap_or_default();
        Self { routing_key: routing_key.to_owned(), properties, body, json }
    }

    /// `data` of the CloudEvent.
    pub fn data(&self) -> &Value {
        &self.json["data"]
    }

    /// AMQP `message_id`.
    pub fn message_id(&self) -> Option<&str> {
        self.properties.message_id().as_ref().map(lapin::types::ShortString::as_str)
    }

    /// AMQP `correlation_id`.
    pub fn correlation_id(&self) -> Option<&str> {
        self.properties.correlation_id().as_ref().map(lapin::types::ShortString::as_str)
    }

    /// A header.
    pub fn header(&self, name: &str) -> Option<&AMQPValue> {
        self.properties.headers().as_ref()?.inner().get(name)
    }
}

/// A connection that is made anew when the broker was restarted.
pub struct Broker {
    url: String,
    prefix: String,
    connection: Mutex<Option<Connection>>,
    publisher: Mutex<Option<Channel>>,
}

impl Broker {
    /// Nothing is connected yet.
    pub fn new(url: &str, prefix: &str) -> Self {
        Self { url: url.to_owned(), prefix: prefix.to_owned(), connection: Mutex::default(), publisher: Mutex::default() }
    }

    /// Where the broker is.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// `<prefix>.<name>`.
    pub fn name(&self, name: &str) -> String {
        format!("{}.{name}", self.prefix)
    }

    /// A new channel, for whatever a test wants to do with the broker.
    pub async fn channel(&self) -> Result<Channel> {
        let mut slot = self.connection.lock().await;
        let connection = match slot.take() {
            Some(connection) if connection.status().connected() => slot.insert(connection),
            _ => slot.insert(Connection::connect(&self.url, ConnectionProperties::default()).await?),
        };
        Ok(connection.create_channel().await?)
    }

    /// Publishes an event and waits until the broker has it.
    pub async fn publish(&self, event: &Event) -> Result<()> {
        self.publish_all(std::slice::from_ref(event)).await
    }

    /// Publishes events in this order and waits until the broker has them all. After an error each of them may have
    /// arrived or not.
    pub async fn publish_all(&self, events: &[Event]) -> Result<()> {
        let messages = events.iter().map(|event| (event.bytes(), event.routing_key(), properties(event.id())));
        self.send(messages).await
    }

    /// Publishes any bytes. `properties` are [`properties`] if it has none of its own.
    pub async fn publish_raw(&self, body: &[u8], routing_key: &str, properties: BasicProperties) -> Result<()> {
        self.send(std::iter::once((body.to_vec(), routing_key.to_owned(), properties))).await
    }

    async fn send(&self, messages: impl Iterator<Item = (Vec<u8>, String, BasicProperties)>) -> Result<()> {
        let exchange = self.name("events");
        let mut slot = self.publisher.lock().await;
        let channel = match slot.take() {
            Some(channel) if channel.status().connected() => slot.insert(channel),
            _ => {
                let channel = self.channel().await?;
                channel.confirm_select(ConfirmSelectOptions::default()).await?;
                slot.insert(channel)
            }
        };
        let options = BasicPublishOptions { mandatory: true, ..Default::default() };
        let mut confirms = Vec::new();
        for (body, key, properties) in messages {
            let confirm = channel.basic_publish(exchange.as_str().into(), key.into(), options, &body, properties).await;
            confirms.push(confirm.context("publishing")?);
        }
        for confirm in confirms {
            match confirm.await.context("waiting for the confirm")? {
                Confirmation::Ack(None) => {}
                other => bail!("the broker did not take an event on {exchange}: {other:?}"),
            }
        }
        Ok(())
    }

    /// How many messages are ready in `<prefix>.<queue>`; `None` when there is no such queue.
    pub async fn depth(&self, queue: &str) -> Result<Option<u32>> {
        let options = QueueDeclareOptions { passive: true, ..Default::default() };
        let queue = self.name(queue);
        // A missing queue closes the channel, which is why each call has its own.
        let channel = self.channel().await?;
        match channel.queue_declare(queue.into(), options, FieldTable::default()).await {
            Ok(queue) => Ok(Some(queue.message_count())),
            Err(error) if is_not_found(&error) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Takes every message that is ready in `<prefix>.<queue>`.
    pub async fn drain(&self, queue: &str) -> Result<Vec<Message>> {
        let channel = self.channel().await?;
        let queue = self.name(queue);
        let mut messages = Vec::new();
        while let Some(got) = channel.basic_get(queue.as_str().into(), BasicGetOptions::default()).await? {
            got.ack(BasicAckOptions::default()).await?;
            let delivery = got.delivery;
            messages.push(Message::new(delivery.routing_key.as_str(), delivery.properties, delivery.data));
        }
        Ok(messages)
    }

    /// Takes every message that is ready in any queue of the prefix, each with its queue's name.
    pub async fn drain_all(&self) -> Result<Vec<(String, Message)>> {
        let mut messages = Vec::new();
        let names = queues("").into_iter().map(|name| name.trim_start_matches('.').to_owned());
        for queue in names {
            if self.depth(&queue).await?.is_some_and(|depth| depth > 0) {
                messages.extend(self.drain(&queue).await?.into_iter().map(|message| (queue.clone(), message)));
            }
        }
        Ok(messages)
    }

    /// Deletes all queues and exchanges of the prefix.
    pub async fn delete_topology(&self) -> Result<()> {
        let queues = queues(&self.prefix);
        try_join_all((0..PARALLEL).map(|lane| {
            let queues = &queues;
            async move {
                let channel = self.channel().await?;
                for queue in queues.iter().skip(lane).step_by(PARALLEL) {
                    channel.queue_delete(queue.as_str().into(), QueueDeleteOptions::default()).await?;
                }
                anyhow::Ok(())
            }
        }))
        .await?;
        let channel = self.channel().await?;
        for exchange in ["events", "audit"] {
            channel.exchange_delete(self.name(exchange).into(), ExchangeDeleteOptions::default()).await?;
        }
        Ok(())
    }
}

/// The properties of an event as a producer sets them.
pub fn properties(message_id: &str) -> BasicProperties {
    BasicProperties::default()
        .with_content_type("application/cloudevents+json".into())
        .with_delivery_mode(2)
        .with_message_id(message_id.into())
}

/// The levels of the waiting queues, in milliseconds: 250, 500, 1000 and on in powers of two to 2²¹ seconds.
pub fn levels() -> impl Iterator<Item = u64> {
    [250, 500].into_iter().chain((0..=21).map(|power| 1000 << power))
}

/// Every queue of a prefix, that of the tests' own audit collector included.
pub fn queues(prefix: &str) -> Vec<String> {
    let waiting = ["retry", "expiry"].into_iter().flat_map(|kind| levels().map(move |ms| format!("{kind}.{ms}")));
    let names = ["work", "dead", crate::audit::QUEUE].into_iter().map(str::to_owned).chain(waiting);
    names.map(|name| format!("{prefix}.{name}")).collect()
}

/// AMQP reply code 404.
fn is_not_found(error: &lapin::Error) -> bool {
    matches!(error.kind(), lapin::ErrorKind::ProtocolError(error) if error.get_id() == 404)
}
