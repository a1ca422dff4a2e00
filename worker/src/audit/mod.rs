//! Audit results: made once, stored in the ledger, published as stored.

mod draft;

use jiff::Timestamp;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use postern_schemas::event::Readable;
use postern_schemas::id::{result_id, sha256_hex};
use postern_schemas::result::AuditEvent;
use postern_schemas::{AuditResult, Event, Identifier, Outcome, Reason, Verb};
use serde_json::Value;
use uuid::Uuid;

use crate::broker::AuditMessage;
use crate::config::Integration;

pub use draft::Draft;

/// How one copy of a result came about: what differs between repeats.
#[derive(Clone, Debug)]
pub struct Receipt {
    /// Which try this is, from 1.
    pub attempt: u32,
    /// When a worker first took the event up.
    pub received_at: Timestamp,
    /// This worker's name.
    pub worker: String,
}

/// Wraps a result in its envelope.
pub fn envelope(id: Uuid, data: AuditResult, time: Option<Timestamp>, event: Option<&Event>) -> AuditEvent {
    AuditEvent {
        specversion: "1.0".to_owned(),
        id,
        source: format!("//postern/{}", data.integration),
        kind: format!("postern.audit.{}.v1", data.verb),
        time,
        subject: event.and_then(|e| e.subject.clone()),
        traceparent: event.and_then(|e| e.traceparent.clone()),
        datacontenttype: "application/json".to_owned(),
        data: data.capped(),
    }
}

/// The result of a body that decides by itself: not decodable, invalid, unknown, or another body under a known key.
pub fn of_body(body: &[u8], readable: &Readable, reason: Reason) -> AuditEvent {
    let verb = readable.verb.unwrap_or(Verb::Unknown);
    let integration = readable.integration.as_ref().map_or("unknown", |i| i.as_str());
    let id = result_id(&[integration, &readable.source, &readable.id, &sha256_hex(body)]);
    let mut data = AuditResult::new(verb, integration, &readable.source, &readable.id);
    data.outcome = Outcome::Rejected;
    data.reason = Some(reason);
    envelope(id, data, None, None)
}

/// A result that is not final: the event could not be done within its limits.
pub fn failed(key: [&str; 3], verb: Verb, event: Option<&Event>, reason: Reason) -> AuditEvent {
    let [integration, source, id] = key;
    let mut data = AuditResult::new(verb, integration, source, id);
    if let Some(event) = event {
        draft::name(&mut data, event);
    }
    data.outcome = Outcome::Failed;
    data.is_final = false;
    data.reason = Some(reason);
    envelope(result_id(&[integration, source, id, "failed"]), data, None, event)
}

/// The result as the ledger keeps it: without what differs between repeats.
pub fn to_stored(event: &AuditEvent) -> Value {
    let mut value = serde_json::to_value(event).unwrap_or_default();
    if let Some(data) = value.get_mut("data").and_then(Value::as_object_mut) {
        for volatile in ["attempt", "received_at", "finished_at", "worker"] {
            data.remove(volatile);
        }
    }
    value
}

/// The inverse of [`to_stored`]; `None` for what a newer version wrote.
pub fn from_stored(value: Value) -> Option<AuditEvent> {
    serde_json::from_value(value).ok()
}

/// A result ready to be published.
pub fn message(mut event: AuditEvent, receipt: &Receipt, finished_at: Timestamp, known_integration: bool) -> AuditMessage {
    event.data.attempt = receipt.attempt;
    event.data.received_at = receipt.received_at;
    event.data.finished_at = finished_at;
    event.data.worker.clone_from(&receipt.worker);
    let integration = if known_integration { event.data.integration.as_str() } else { "_" };
    AuditMessage {
        routing_key: format!("audit.{}.{}.{integration}", event.data.verb, event.data.outcome.as_str()),
        message_id: event.id.to_string(),
        correlation_id: event.data.event_id.clone(),
        body: serde_json::to_vec(&event).unwrap_or_default(),
    }
}

/// Everything but the unreserved characters of RFC 3986 is escaped.
pub const UNRESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// A connection URI (PostgreSQL docs, "Connection URIs").
pub fn uri(integration: &Integration, username: &str, password: Option<&str>, database: &Identifier) -> String {
    let escaped = |text: &str| utf8_percent_encode(text, UNRESERVED).to_string();
    let password = password.map(|p| format!(":{}", escaped(p))).unwrap_or_default();
    let host = if integration.hostname.contains(':') { format!("[{}]", integration.hostname) } else { integration.hostname.clone() };
    format!(
        "postgresql://{}{password}@{host}:{}/{}?sslmode={}",
        escaped(username),
        integration.port,
        escaped(database.as_str()),
        integration.ssl_mode.as_str()
    )
}
