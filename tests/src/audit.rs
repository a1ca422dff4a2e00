//! Collects every audit result of a prefix.

use std::fmt::Write as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use futures_util::StreamExt as _;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::FieldTable;
use lapin::{Connection, ConnectionProperties, Consumer, ExchangeKind};
use serde_json::Value;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::broker::Message;

/// The collector's queue, after the prefix.
pub const QUEUE: &str = "test-audit";
/// How long a test waits for a result unless it says otherwise.
pub const TIMEOUT: Duration = Duration::from_secs(30);

/// A consumer in the background. Its queue is durable, so that nothing is missed while the broker restarts.
pub struct Audit {
    seen: Arc<Seen>,
    consumer: JoinHandle<()>,
}

struct Seen {
    messages: Mutex<Vec<Message>>,
    arrivals: watch::Sender<usize>,
}

impl Audit {
    /// Declares the exchange and a queue bound to all of it, and starts to consume.
    pub async fn start(url: &str, prefix: &str) -> Result<Self> {
        let seen = Arc::new(Seen { messages: Mutex::default(), arrivals: watch::Sender::new(0) });
        let (url, prefix) = (url.to_owned(), prefix.to_owned());
        let mut session = consume(&url, &prefix).await.context("consuming the audit results")?;
        let consumer = tokio::spawn({
            let seen = Arc::clone(&seen);
            async move {
                loop {
                    seen.collect(&mut session.1).await;
                    session = loop {
                        tokio::time::sleep(Duration::from_millis(100)).await;
                        if let Ok(session) = consume(&url, &prefix).await {
                            break session;
                        }
                    };
                }
            }
        });
        Ok(Self { seen, consumer })
    }

    /// How many messages came so far.
    pub fn count(&self) -> usize {
        self.seen.messages().len()
    }

    /// All messages so far, in the order of arrival.
    pub fn all(&self) -> Vec<Message> {
        self.seen.messages().clone()
    }

    /// All results of an inbound event so far, final or not.
    pub fn all_for(&self, event_id: &str) -> Vec<Message> {
        self.seen.messages().iter().filter(|message| message.data()["event_id"] == event_id).cloned().collect()
    }

    /// `data` of the final result of an inbound event.
    pub async fn wait_for(&self, event_id: &str) -> Result<Value> {
        let message = self
            .wait_where(|message| is_final(message, event_id), TIMEOUT)
            .await
            .with_context(|| format!("no final result of event {event_id}"))?;
        Ok(message.data().clone())
    }

    /// The first message that is as wanted, whether it came already or not.
    pub async fn wait_where(&self, wanted: impl Fn(&Message) -> bool, timeout: Duration) -> Result<Message> {
        self.wait_until(timeout, |messages| messages.iter().find(|message| wanted(message)).cloned()).await
    }

    /// Final results of an inbound event, at least so many.
    pub async fn wait_for_copies(&self, event_id: &str, copies: usize) -> Result<Vec<Message>> {
        self.wait_until(TIMEOUT, |messages| {
            let found: Vec<_> = messages.iter().filter(|message| is_final(message, event_id)).cloned().collect();
            (found.len() >= copies).then_some(found)
        })
        .await
        .with_context(|| format!("fewer than {copies} results of event {event_id}"))
    }

    /// Waits until `choose` finds in all messages what it wants.
    pub async fn wait_until<T>(&self, timeout: Duration, choose: impl Fn(&[Message]) -> Option<T>) -> Result<T> {
        let mut arrivals = self.seen.arrivals.subscribe();
        let search = async {
            loop {
                arrivals.borrow_and_update();
                if let Some(found) = choose(&self.seen.messages()) {
                    return Ok(found);
                }
                arrivals.changed().await?;
            }
        };
        match tokio::time::timeout(timeout, search).await {
            Ok(found) => found,
            Err(_) => bail!("it did not arrive within {timeout:?}; what did arrive:\n{}", self.summary()),
        }
    }

    /// One line a message, for errors.
    fn summary(&self) -> String {
        let mut text = String::new();
        for message in self.seen.messages().iter() {
            let data = message.data();
            let _ =
                writeln!(text, "  {} event {} final {} reason {}", message.routing_key, data["event_id"], data["final"], data["reason"]);
        }
        if text.is_empty() { "  nothing".to_owned() } else { text }
    }
}

impl Drop for Audit {
    fn drop(&mut self) {
        self.consumer.abort();
    }
}

fn is_final(message: &Message, event_id: &str) -> bool {
    message.data()["event_id"] == event_id && message.data()["final"] == true
}

impl Seen {
    fn messages(&self) -> MutexGuard<'_, Vec<Message>> {
        self.messages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns when the consumer has ended, which is when the connection has.
    async fn collect(&self, consumer: &mut Consumer) {
        while let Some(Ok(delivery)) = consumer.next().await {
            let acker = delivery.acker.clone();
            let message = Message::new(delivery.routing_key.as_str(), delivery.properties, delivery.data);
            // Results may come twice, but two publications differ in their time. What is redelivered and equal to the
            // byte is one message whose acknowledgement was lost.
            let known = delivery.redelivered && self.messages().iter().any(|other| other.body == message.body);
            if !known {
                self.messages().push(message);
                self.arrivals.send_modify(|count| *count += 1);
            }
            if acker.ack(BasicAckOptions::default()).await.is_err() {
                return;
            }
        }
    }
}

async fn consume(url: &str, prefix: &str) -> Result<(Connection, Consumer)> {
    let connection = Connection::connect(url, ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    let exchange = format!("{prefix}.audit");
    let queue = format!("{prefix}.{QUEUE}");
    let none = FieldTable::default;
    let durable = ExchangeDeclareOptions { durable: true, ..Default::default() };
    channel.exchange_declare(exchange.as_str().into(), ExchangeKind::Topic, durable, none()).await?;
    let durable = QueueDeclareOptions { durable: true, ..Default::default() };
    channel.queue_declare(queue.as_str().into(), durable, none()).await?;
    let all = "audit.#".into();
    channel.queue_bind(queue.as_str().into(), exchange.into(), all, QueueBindOptions::default(), none()).await?;
    let consumer = channel.basic_consume(queue.into(), "".into(), BasicConsumeOptions::default(), none()).await?;
    Ok((connection, consumer))
}
