//! Exchanges, queues and waiting levels: their names, their arguments, and declaring them.
//!
//! Declaring is idempotent. RabbitMQ compares arguments by class of type, so an integer of another width sent by another
//! client library is the same argument (`rabbit_misc:assert_args_equivalence`).

use futures_util::future::try_join_all;
use lapin::{
    Channel, ExchangeKind,
    options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions},
    types::{AMQPValue, FieldTable, ShortString},
};

use super::{
    conclusion::Line,
    delay::LEVELS,
    error::BrokerError,
    link::{Link, answer},
};

/// What every access event's routing key begins with.
const ACCESS: &str = "access.#";
/// Far above what any honest message reaches: past it the broker itself parks the message.
const DELIVERY_LIMIT: i64 = 1_000;
/// Queues are declared over this many channels side by side: one channel does them one by one, and a new quorum queue
/// waits for its log to reach the disk.
const LANES: usize = 12;

/// The names in use, from the configured prefix.
#[derive(Debug, Clone)]
pub(super) struct Names {
    prefix: String,
}

/// A queue and the arguments Postern wants it to have.
struct Queue {
    name: String,
    arguments: Vec<(&'static str, Argument)>,
}

enum Argument {
    Text(String),
    Number(i64),
}

impl Names {
    /// Checks that every name fits into an AMQP short string.
    pub(super) fn new(prefix: &str) -> Result<Self, BrokerError> {
        let names = Self { prefix: prefix.to_owned() };
        short("queue", &names.level(Line::Expiry, LEVELS[LEVELS.len() - 1]))?;
        Ok(names)
    }

    /// The topic exchange producers publish to.
    pub(super) fn events(&self) -> String {
        format!("{}.events", self.prefix)
    }

    /// The topic exchange results are published to.
    pub(super) fn audit(&self) -> String {
        format!("{}.audit", self.prefix)
    }

    /// The queue all workers consume.
    pub(super) fn work(&self) -> String {
        format!("{}.work", self.prefix)
    }

    /// The dead-letter queue.
    pub(super) fn dead(&self) -> String {
        format!("{}.dead", self.prefix)
    }

    /// The queue of messages that run alone; see [`super::suspect`].
    pub(super) fn suspect(&self) -> String {
        format!("{}.suspect", self.prefix)
    }

    /// A waiting level.
    pub(super) fn level(&self, line: Line, milliseconds: u64) -> String {
        format!("{}.{}.{milliseconds}", self.prefix, line.as_str())
    }

    /// A routing key of the default exchange where nothing listens: publishing to it asks only whether the broker takes
    /// messages.
    pub(super) fn probe(&self) -> String {
        format!("{}.probe", self.prefix)
    }

    pub(super) fn exchanges(&self) -> [String; 2] {
        [self.events(), self.audit()]
    }

    /// Every queue's name, the work queue first.
    pub(super) fn queues(&self) -> Vec<String> {
        self.all().into_iter().map(|queue| queue.name).collect()
    }

    fn all(&self) -> Vec<Queue> {
        // What is delivered and comes back too often ends in the dead-letter queue, whatever the workers do.
        let delivered = || {
            let mut arguments = dead_lettering(self.dead());
            arguments.push(("x-delivery-limit", Argument::Number(DELIVERY_LIMIT)));
            arguments
        };
        let mut queues =
            vec![Queue::new(self.work(), delivered()), Queue::new(self.suspect(), delivered()), Queue::new(self.dead(), Vec::new())];
        for line in [Line::Retry, Line::Expiry] {
            for level in LEVELS {
                let mut arguments = dead_lettering(self.work());
                // The largest level is far below i64's end.
                arguments.push(("x-message-ttl", Argument::Number(i64::try_from(level).unwrap_or(i64::MAX))));
                queues.push(Queue::new(self.level(line, level), arguments));
            }
        }
        queues
    }
}

fn dead_lettering(to: String) -> Vec<(&'static str, Argument)> {
    // At-least-once dead-lettering works only with reject-publish (RabbitMQ docs, "Quorum Queues").
    vec![
        ("x-overflow", Argument::Text("reject-publish".to_owned())),
        ("x-dead-letter-strategy", Argument::Text("at-least-once".to_owned())),
        ("x-dead-letter-exchange", Argument::Text(String::new())),
        ("x-dead-letter-routing-key", Argument::Text(to)),
    ]
}

impl Queue {
    fn new(name: String, mut arguments: Vec<(&'static str, Argument)>) -> Self {
        arguments.push(("x-queue-type", Argument::Text("quorum".to_owned())));
        Self { name, arguments }
    }

    fn table(&self) -> FieldTable {
        let mut table = FieldTable::default();
        for (key, value) in &self.arguments {
            let value = match value {
                Argument::Text(text) => AMQPValue::LongString(text.as_str().into()),
                Argument::Number(number) => AMQPValue::LongLongInt(*number),
            };
            table.insert((*key).into(), value);
        }
        table
    }

    fn expected(&self) -> String {
        let shown = self.arguments.iter().map(|(key, value)| match value {
            Argument::Text(text) => format!("{key}={text:?}"),
            Argument::Number(number) => format!("{key}={number}"),
        });
        format!("a durable queue with {}", shown.collect::<Vec<_>>().join(", "))
    }

    async fn declare(&self, channel: &Channel) -> Result<(), BrokerError> {
        let declaring = channel.queue_declare(short("queue", &self.name)?, QueueDeclareOptions::durable(), self.table());
        answer(&format!("declaring {}", self.name), declaring)
            .await?
            .map(|_| ())
            .map_err(|error| different(error, &self.name, || self.expected()))
    }
}

/// Declares everything that is missing.
pub(super) async fn declare(link: &Link, names: &Names) -> Result<(), BrokerError> {
    let queues = names.all();
    let lanes = (0..LANES).map(|lane| {
        // Every LANES-th queue: within a lane one after the other, so that a refusal names the queue it is about.
        let queues = queues.iter().skip(lane).step_by(LANES);
        async move {
            let channel = link.channel().await?;
            for queue in queues {
                queue.declare(&channel).await?;
            }
            Ok::<(), BrokerError>(())
        }
    });
    let (channel, ()) = tokio::try_join!(exchanges(link, names), async { try_join_all(lanes).await.map(|_| ()) })?;
    let binding = channel.queue_bind(
        short("queue", &names.work())?,
        short("exchange", &names.events())?,
        ACCESS.into(),
        QueueBindOptions::default(),
        FieldTable::default(),
    );
    answer("binding the work queue", binding).await?.map_err(|error| BrokerError::of_channel(error, "binding", &names.work()))
}

async fn exchanges(link: &Link, names: &Names) -> Result<Channel, BrokerError> {
    let channel = link.channel().await?;
    for name in names.exchanges() {
        let options = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
        let declaring = channel.exchange_declare(short("exchange", &name)?, ExchangeKind::Topic, options, FieldTable::default());
        answer(&format!("declaring {name}"), declaring)
            .await?
            .map_err(|error| different(error, &name, || "a durable topic exchange".to_owned()))?;
    }
    Ok(channel)
}

fn different(error: lapin::Error, name: &str, expected: impl FnOnce() -> String) -> BrokerError {
    match error.kind() {
        lapin::ErrorKind::ProtocolError(amqp) if amqp.get_id() == 406 => {
            BrokerError::Different { name: name.to_owned(), expected: expected(), reply: amqp.get_message().to_string() }
        }
        _ => BrokerError::of_channel(error, "declaring", name),
    }
}

/// A name as AMQP's short string.
pub(super) fn short(what: &'static str, name: &str) -> Result<ShortString, BrokerError> {
    ShortString::try_new(name).map_err(|_| BrokerError::TooLong { what, name: name.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names() -> Names {
        Names { prefix: "postern".to_owned() }
    }

    #[test]
    fn the_contract_s_queues() {
        let queues = names().queues();
        assert_eq!(queues.len(), 3 + 2 * 24);
        for name in ["postern.work", "postern.dead", "postern.retry.250", "postern.expiry.2097152000"] {
            assert!(queues.iter().any(|queue| queue == name), "{name}");
        }
    }

    #[test]
    fn every_queue_but_the_last_resort_dead_letters_at_least_once() {
        for queue in names().all() {
            let table = queue.table();
            let text = |key: &str| table.inner().get(key).and_then(AMQPValue::as_long_string).map(ToString::to_string);
            assert_eq!(text("x-queue-type").as_deref(), Some("quorum"));
            let (strategy, target) = (text("x-dead-letter-strategy"), text("x-dead-letter-routing-key"));
            match queue.name.as_str() {
                "postern.dead" => assert_eq!((strategy, target), (None, None)),
                "postern.work" | "postern.suspect" => {
                    assert_eq!((strategy.as_deref(), target.as_deref()), (Some("at-least-once"), Some("postern.dead")));
                }
                _ => assert_eq!((strategy.as_deref(), target.as_deref()), (Some("at-least-once"), Some("postern.work"))),
            }
        }
    }

    #[test]
    fn a_prefix_that_leaves_no_room_is_refused() {
        assert!(Names::new(&"p".repeat(230)).is_ok());
        assert!(Names::new(&"p".repeat(240)).is_err());
    }
}
