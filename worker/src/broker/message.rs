//! Messages as the rest of the program sees them, and what a copy of one carries out again.

use lapin::{
    BasicProperties,
    types::{AMQPValue, FieldTable, ShortString},
};
use uuid::Uuid;

/// Headers beginning with this are Postern's own.
pub const OWN: &str = "postern-";
/// When a waiting message is due: milliseconds since the epoch.
pub(super) const DUE: &str = "postern-due";
/// The line it waits in, by [`super::Line::as_str`].
pub(super) const LINE: &str = "postern-line";
/// The routing key it was first published with.
pub(super) const ROUTING_KEY: &str = "postern-routing-key";
/// How often its handler panicked.
pub(super) const PANICS: &str = "postern-panics";
/// Names a dead message.
pub(super) const DEAD_ID: &str = "postern-dead-id";

const DELIVERY_COUNT: &str = "x-delivery-count";

/// One message from the work queue.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// When this process got it, by its clock.
    pub arrived: jiff::Timestamp,
    /// The body, untouched.
    pub body: Vec<u8>,
    /// The producer's headers and Postern's own. On a [`Delivery::fresh`] message there are none of Postern's: whoever
    /// may publish could have forged them, so they are removed on arrival and the rest can be trusted.
    pub headers: Headers,
    /// The broker handed it out before. `false` promises nothing.
    pub redelivered: bool,
    /// How often it was handed out before and not ended (`x-delivery-count` of quorum queues). On 3.10 that includes
    /// having been prefetched by a worker that stopped.
    pub delivery_count: u64,
    /// It comes from a producer, through an exchange; otherwise from a waiting level.
    pub fresh: bool,
    /// The routing key the producer used; empty for a timer.
    pub routing_key: String,
    /// AMQP `content_type`.
    pub content_type: Option<String>,
    /// AMQP `message_id`.
    pub message_id: Option<String>,
    /// All properties, for copies.
    properties: BasicProperties,
}

impl Delivery {
    /// A producer's message that no broker delivered: for one-shot runs and tests.
    #[must_use]
    pub fn local(body: Vec<u8>) -> Self {
        Self::from_amqp(body, BasicProperties::default(), "events", "", false)
    }

    pub(super) fn split(raw: lapin::message::Delivery) -> (Self, lapin::Acker) {
        let (exchange, routing_key) = (raw.exchange.as_str(), raw.routing_key.as_str());
        (Self::from_amqp(raw.data, raw.properties, exchange, routing_key, raw.redelivered), raw.acker)
    }

    fn from_amqp(body: Vec<u8>, properties: BasicProperties, exchange: &str, routing_key: &str, redelivered: bool) -> Self {
        let table = properties.headers().clone().unwrap_or_default();
        let delivery_count = table.inner().get(DELIVERY_COUNT).and_then(integer).and_then(|count| u64::try_from(count).ok()).unwrap_or(0);
        // What dead-letters out of a waiting level, or is replayed, comes through the default exchange.
        let fresh = !exchange.is_empty();
        let headers = Headers::received(&table, fresh);
        let routing_key = if fresh { routing_key } else { headers.get_str(ROUTING_KEY).unwrap_or_default() }.to_owned();
        Self {
            arrived: jiff::Timestamp::now(),
            body,
            redelivered,
            delivery_count,
            fresh,
            routing_key,
            content_type: properties.content_type().as_ref().map(ToString::to_string),
            message_id: properties.message_id().as_ref().map(ToString::to_string),
            headers,
            properties,
        }
    }

    /// Properties of a copy that waits, is dead, or is replayed: the producer's, with `headers`.
    ///
    /// Left out are `expiration` (the copy's life is its queue's business), `user_id` (the broker refuses one that is not
    /// the connection's own user) and `cluster_id` (deprecated).
    pub(super) fn copy_properties(&self, headers: &Headers) -> BasicProperties {
        let from = &self.properties;
        let mut to = persistent(headers);
        if let Some(value) = from.content_type() {
            to = to.with_content_type(value.clone());
        }
        if let Some(value) = from.content_encoding() {
            to = to.with_content_encoding(value.clone());
        }
        if let Some(value) = from.correlation_id() {
            to = to.with_correlation_id(value.clone());
        }
        if let Some(value) = from.reply_to() {
            to = to.with_reply_to(value.clone());
        }
        if let Some(value) = from.message_id() {
            to = to.with_message_id(value.clone());
        }
        if let Some(value) = from.timestamp() {
            to = to.with_timestamp(*value);
        }
        if let Some(value) = from.kind() {
            to = to.with_type(value.clone());
        }
        if let Some(value) = from.app_id() {
            to = to.with_app_id(value.clone());
        }
        if let Some(value) = from.priority() {
            to = to.with_priority(*value);
        }
        to
    }

    /// The headers of a copy, before anything is set on it: everything kept, and where the message came from.
    pub(super) fn copy_headers(&self) -> Headers {
        let mut headers = self.headers.clone();
        if !self.routing_key.is_empty() {
            headers.set(ROUTING_KEY, self.routing_key.as_str());
        }
        headers
    }

    /// A name that stays the same however often the message is looked at: the one it was parked with, else one made of
    /// its body (the broker parks without asking us when the delivery limit is reached).
    pub(super) fn dead_id(&self) -> String {
        self.headers.get_str(DEAD_ID).map_or_else(|| Uuid::new_v5(&Uuid::NAMESPACE_OID, &self.body).to_string(), ToOwned::to_owned)
    }
}

/// Persistent (`delivery_mode` 2) properties with these headers.
pub(super) fn persistent(headers: &Headers) -> BasicProperties {
    BasicProperties::default().with_delivery_mode(2).with_headers(headers.0.clone())
}

/// A header's value, as far as Postern sets any.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HeaderValue {
    /// AMQP long string, UTF-8.
    Text(String),
    /// AMQP signed 64-bit integer.
    Int(i64),
}

impl From<&str> for HeaderValue {
    fn from(value: &str) -> Self {
        Self::Text(value.to_owned())
    }
}

impl From<String> for HeaderValue {
    fn from(value: String) -> Self {
        Self::Text(value)
    }
}

impl From<i64> for HeaderValue {
    fn from(value: i64) -> Self {
        Self::Int(value)
    }
}

/// Message headers. Values of every AMQP type survive the way through Postern unchanged.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Headers(FieldTable);

impl Headers {
    fn received(table: &FieldTable, fresh: bool) -> Self {
        let kept = table
            .inner()
            .iter()
            .filter(|(key, _)| !(brokers_own(key.as_str()) || fresh && key.as_str().starts_with(OWN)))
            .map(|(key, value)| (key.clone(), value.clone()));
        Self(FieldTable::from(kept.collect::<std::collections::BTreeMap<_, _>>()))
    }

    /// A text header; `None` also when it is of another type or not UTF-8.
    #[must_use]
    pub fn get_str(&self, key: &str) -> Option<&str> {
        match self.0.inner().get(key)? {
            AMQPValue::LongString(text) => std::str::from_utf8(text.as_bytes()).ok(),
            AMQPValue::ShortString(text) => Some(text.as_str()),
            _ => None,
        }
    }

    /// An integer header of any AMQP width; `None` also when it is of another type.
    #[must_use]
    pub fn get_i64(&self, key: &str) -> Option<i64> {
        self.0.inner().get(key).and_then(integer)
    }

    /// Sets a text header.
    pub fn set_str(&mut self, key: &'static str, value: impl Into<String>) {
        self.set(key, value.into());
    }

    /// Sets an integer header.
    pub fn set_i64(&mut self, key: &'static str, value: i64) {
        self.set(key, value);
    }

    /// Removes a header, if it is there.
    pub fn remove(&mut self, key: &str) {
        let mut kept = self.0.inner().clone();
        kept.remove(key);
        self.0 = FieldTable::from(kept);
    }

    /// Names and values as text, for people to read.
    pub fn iter(&self) -> impl Iterator<Item = (&str, String)> {
        self.0.inner().iter().map(|(key, value)| {
            let text = match value {
                AMQPValue::LongString(text) => text.to_string(),
                AMQPValue::ShortString(text) => text.to_string(),
                AMQPValue::Boolean(value) => value.to_string(),
                other => integer(other).map_or_else(|| format!("{other:?}"), |value| value.to_string()),
            };
            (key.as_str(), text)
        })
    }

    pub(super) fn set(&mut self, key: &'static str, value: impl Into<HeaderValue>) {
        let value = match value.into() {
            HeaderValue::Text(text) => AMQPValue::LongString(text.into()),
            HeaderValue::Int(number) => AMQPValue::LongLongInt(number),
        };
        // A name over 255 bytes cannot be written in AMQP; ours are constants and none comes near.
        if let Ok(key) = ShortString::try_new(key) {
            self.0.insert(key, value);
        }
    }

    pub(super) fn set_all(&mut self, values: &[(&'static str, HeaderValue)]) {
        for (key, value) in values {
            self.set(key, value.clone());
        }
    }
}

/// Headers that are never copied. The broker's own tell of one delivery and would be believed on the next. `CC` and
/// `BCC` are no headers but extra routing keys (RabbitMQ, sender-selected distribution): on a copy they would send
/// another one to any queue a producer named, the work queue included, each time it waits.
fn brokers_own(key: &str) -> bool {
    matches!(key, "x-death" | "x-acquired-count" | "CC" | "BCC" | DELIVERY_COUNT)
        || key.starts_with("x-first-death-")
        || key.starts_with("x-last-death-")
}

fn integer(value: &AMQPValue) -> Option<i64> {
    match *value {
        AMQPValue::LongLongInt(number) => Some(number),
        AMQPValue::LongInt(number) => Some(number.into()),
        AMQPValue::LongUInt(number) => Some(number.into()),
        AMQPValue::ShortInt(number) => Some(number.into()),
        AMQPValue::ShortUInt(number) => Some(number.into()),
        AMQPValue::ShortShortInt(number) => Some(number.into()),
        AMQPValue::ShortShortUInt(number) => Some(number.into()),
        AMQPValue::Timestamp(number) => i64::try_from(number).ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(entries: &[(&str, AMQPValue)]) -> FieldTable {
        let mut table = FieldTable::default();
        for (key, value) in entries {
            table.insert((*key).into(), value.clone());
        }
        table
    }

    fn every_type() -> Vec<(&'static str, AMQPValue)> {
        vec![
            ("flag", AMQPValue::Boolean(true)),
            ("i8", AMQPValue::ShortShortInt(-1)),
            ("u32", AMQPValue::LongUInt(7)),
            ("double", AMQPValue::Double(0.5)),
            ("bytes", AMQPValue::ByteArray(vec![0, 255].into())),
            ("list", AMQPValue::FieldArray(vec![AMQPValue::Void, AMQPValue::Timestamp(9)].into())),
            ("nested", AMQPValue::FieldTable(table(&[("k", AMQPValue::LongString("v".into()))]))),
            ("raw", AMQPValue::LongString(vec![0xff, 0xfe].into())),
        ]
    }

    fn delivery(headers: &[(&str, AMQPValue)], exchange: &str) -> Delivery {
        let properties = BasicProperties::default()
            .with_headers(table(headers))
            .with_message_id("m".into())
            .with_user_id("producer".into())
            .with_expiration("5000".into());
        Delivery::from_amqp(b"{}".to_vec(), properties, exchange, "access.grant.x", true)
    }

    #[test]
    fn every_value_type_survives_a_copy() {
        let delivery = delivery(&every_type(), "postern.events");
        let copy = delivery.copy_properties(&delivery.copy_headers());
        let headers = copy.headers().clone().unwrap_or_default();
        for (key, value) in every_type() {
            assert_eq!(headers.inner().get(key), Some(&value));
        }
        assert_eq!(copy.message_id().as_ref().map(ShortString::as_str), Some("m"));
        assert_eq!(*copy.delivery_mode(), Some(2));
        assert_eq!(*copy.user_id(), None);
        assert_eq!(*copy.expiration(), None);
    }

    #[test]
    fn the_broker_s_own_headers_and_extra_routing_keys_are_never_copied() {
        let broker = ["x-death", "x-first-death-queue", "x-last-death-reason", "x-delivery-count", "x-acquired-count", "CC", "BCC"];
        let headers: Vec<_> = broker.iter().map(|key| (*key, AMQPValue::LongLongInt(4))).collect();
        let delivery = delivery(&headers, "postern.events");
        assert_eq!(delivery.delivery_count, 4);
        let keys: Vec<_> = delivery.copy_headers().iter().map(|(key, _)| key.to_owned()).collect();
        assert_eq!(keys, [ROUTING_KEY]);
    }

    #[test]
    fn a_producer_cannot_forge_our_headers_but_a_waiting_copy_keeps_them() {
        let forged = [("postern-attempt", AMQPValue::LongInt(11)), ("mine", AMQPValue::LongInt(1))];
        let fresh = delivery(&forged, "postern.events");
        assert_eq!(fresh.headers.get_i64("postern-attempt"), None);
        assert_eq!(fresh.headers.get_i64("mine"), Some(1));
        assert_eq!(fresh.routing_key, "access.grant.x");

        let waited = delivery(&forged, "");
        assert_eq!(waited.headers.get_i64("postern-attempt"), Some(11));
        assert_eq!(waited.routing_key, "");
    }

    #[test]
    fn headers_are_set_read_and_removed() {
        let mut headers = Headers::default();
        headers.set_str("postern-a", "x");
        headers.set_i64("postern-b", -3);
        assert_eq!((headers.get_str("postern-a"), headers.get_i64("postern-b")), (Some("x"), Some(-3)));
        assert_eq!((headers.get_i64("postern-a"), headers.get_str("postern-b")), (None, None));
        headers.remove("postern-a");
        assert_eq!(headers.get_str("postern-a"), None);
    }

    #[test]
    fn a_dead_message_has_one_name() {
        let mut parked = delivery(&[], "");
        assert_eq!(parked.dead_id(), delivery(&[], "").dead_id());
        parked.headers.set_str(DEAD_ID, "d-1");
        assert_eq!(parked.dead_id(), "d-1");
    }
}
