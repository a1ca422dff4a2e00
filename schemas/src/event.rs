//! The inbound event: a CloudEvents 1.0 envelope in JSON structured mode.

use jiff::Timestamp;
use serde_json::Value;
use uuid::Uuid;

use crate::fields::{Fields, Problem, Problems};
use crate::id;
use crate::names::{Attribute, IntegrationId};
use crate::request::{Request, Verb};
use crate::result::{Code, Reason};
use crate::strict::Strict;

/// The most bytes an event may have.
pub const MAX_BYTES: usize = 256 * 1024;

/// The `source` of the events that announce a grant's own end. Producers cannot use it.
pub const EXPIRY_SOURCE: &str = "//postern/expiry";

/// The idempotency key: one effect and one final result, however often the event arrives.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct EventKey {
    /// The integration.
    pub integration: IntegrationId,
    /// CloudEvents `source`.
    pub source: String,
    /// CloudEvents `id`.
    pub id: String,
}

impl EventKey {
    /// The id of this event's final result.
    pub fn result_id(&self) -> Uuid {
        id::result_id(&[self.integration.as_str(), &self.source, &self.id])
    }
}

/// A decoded, valid event.
#[derive(Clone, Debug)]
pub struct Event {
    /// CloudEvents `id`.
    pub id: Attribute,
    /// CloudEvents `source`.
    pub source: Attribute,
    /// When it was asked. Orders what the queue does not.
    pub time: Timestamp,
    /// CloudEvents `subject`, echoed in the result.
    pub subject: Option<String>,
    /// W3C trace context, echoed in the result.
    pub traceparent: Option<String>,
    /// What is asked.
    pub request: Request,
    /// SHA-256 of `type`, `time` and `data` as values: tells a duplicate from another event under the same key.
    pub digest: [u8; 32],
}

/// What could be read of an event that is wrong, for its result.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Readable {
    /// CloudEvents `source`, or empty.
    pub source: String,
    /// CloudEvents `id`, or empty.
    pub id: String,
    /// `data.integration` when it is a legal id.
    pub integration: Option<IntegrationId>,
    /// The verb when `type` is one of the contract's.
    pub verb: Option<Verb>,
}

/// Why a body is not an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DecodeError {
    /// Not even a JSON object within the size limit.
    Undecodable(String),
    /// `type` is not one that this version knows; a newer worker may.
    UnknownType {
        /// The `type` that was met.
        met: String,
        /// What could be read.
        readable: Readable,
    },
    /// Readable, but wrong. Every mistake is named.
    Invalid {
        /// All mistakes, in the order of reading; never empty.
        problems: Vec<Problem>,
        /// What could be read.
        readable: Readable,
    },
}

impl DecodeError {
    /// The reason for the event's result.
    pub fn reason(&self) -> Reason {
        match self {
            Self::Undecodable(message) => Reason::new(Code::InvalidEvent, message),
            Self::UnknownType { met, .. } => {
                let verbs = Verb::ALL.map(Verb::as_str).join(",");
                Reason::new(Code::UnknownType, format!("type {met:?} is not known; expected postern.access.{{{verbs}}}.v1")).at("type")
            }
            Self::Invalid { problems, .. } => {
                let message = problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
                let first = problems.first().map(|problem| problem.path.clone()).unwrap_or_default();
                Reason::new(Code::InvalidEvent, message).at(first)
            }
        }
    }

    /// What could be read of the event.
    pub fn readable(&self) -> Readable {
        match self {
            Self::Undecodable(_) => Readable::default(),
            Self::UnknownType { readable, .. } | Self::Invalid { readable, .. } => readable.clone(),
        }
    }
}

impl Event {
    /// Decodes and validates `body`.
    pub fn decode(body: &[u8]) -> Result<Self, DecodeError> {
        if body.len() > MAX_BYTES {
            return Err(DecodeError::Undecodable(format!("the event is {} bytes long; expected at most {MAX_BYTES}", body.len())));
        }
        let Strict(value) =
            serde_json::from_slice(body).map_err(|e| DecodeError::Undecodable(format!("the event is not readable JSON: {e}")))?;
        if !value.is_object() {
            return Err(DecodeError::Undecodable("the event is not a JSON object; expected CloudEvents 1.0 in structured mode".to_owned()));
        }
        Self::from_value(&value)
    }

    /// Validates an event that is JSON already.
    pub fn from_value(value: &Value) -> Result<Self, DecodeError> {
        let readable = Readable::of(value);
        let problems = Problems::default();
        let read = Self::read(value, &problems);
        if let Some(Err(met)) = read {
            return Err(DecodeError::UnknownType { met, readable });
        }
        match read {
            Some(Ok(event)) if problems.is_empty() => Ok(event),
            _ => Err(DecodeError::Invalid { problems: problems.into_vec(), readable }),
        }
    }

    /// `None`: mistakes were recorded. `Some(Err)`: the type is unknown, so its data cannot be judged.
    fn read(value: &Value, problems: &Problems) -> Option<Result<Self, String>> {
        let envelope = Fields::new(value, "", problems)?;
        let version: Option<String> = envelope.required_text("specversion");
        if version.as_ref().is_some_and(|v| v != "1.0") {
            envelope.problem("specversion", "expected \"1.0\"");
        }
        let id = envelope.required_text("id");
        let source: Option<Attribute> = envelope.required_text("source");
        if source.as_ref().is_some_and(|source| source.as_str() == EXPIRY_SOURCE) {
            envelope.problem("source", "is Postern's own, for grants that expire; expected the producer's");
        }
        let kind: Option<String> = envelope.required_text("type");
        let time: Option<Timestamp> = envelope.required_text("time");
        let subject = envelope.text("subject").map(|text: String| visible(&envelope, "subject", text));
        let traceparent = envelope.text("traceparent").map(|text: String| visible(&envelope, "traceparent", text));
        let content: Option<String> = envelope.text("datacontenttype");
        if content.is_some_and(|c| !c.split(';').next().is_some_and(|c| c.trim().eq_ignore_ascii_case("application/json"))) {
            envelope.problem("datacontenttype", "expected application/json");
        }
        let data = envelope.required_object("data");
        // Unknown CloudEvents extension attributes are legal, so the envelope is not finished.
        let kind = kind?;
        let Some(verb) = Verb::of_type(&kind) else { return Some(Err(kind)) };
        let request = Request::read(verb, data?);
        let (request, time) = request.zip(time)?;
        if let Request::Grant(grant) = &request
            && grant.expires_at.is_some_and(|expires| expires <= time)
        {
            problems.add("data.expires_at", "is not after the event's time; expected a moment in the future");
        }
        let digest = id::digest(&kind, time, value.get("data").unwrap_or(&Value::Null));
        Some(Ok(Self { id: id?, source: source?, time: to_microseconds(time), subject, traceparent, request, digest }))
    }

    /// What a result says of it.
    pub fn readable(&self) -> Readable {
        Readable {
            source: self.source.to_string(),
            id: self.id.to_string(),
            integration: Some(self.request.integration().clone()),
            verb: Some(self.request.verb()),
        }
    }

    /// The idempotency key.
    pub fn key(&self) -> EventKey {
        EventKey {
            integration: self.request.integration().clone(),
            source: self.source.as_str().to_owned(),
            id: self.id.as_str().to_owned(),
        }
    }
}

/// What is echoed in the result is stored on the way, and PostgreSQL's jsonb takes no NUL.
fn visible(envelope: &Fields<'_>, name: &str, text: String) -> String {
    if text.chars().any(char::is_control) {
        envelope.problem(name, "contains a control character; expected none");
    }
    text
}

/// PostgreSQL keeps microseconds. What it would round is cut off here, so that a moment from an event and the same one
/// from the ledger compare as equal.
pub(crate) fn to_microseconds(moment: Timestamp) -> Timestamp {
    Timestamp::from_microsecond(moment.as_microsecond()).unwrap_or(moment)
}

impl Readable {
    fn of(value: &Value) -> Self {
        let attribute = |name: &str| {
            let text = value.get(name).and_then(Value::as_str).unwrap_or_default();
            Attribute::new(text).map(|a| a.to_string()).unwrap_or_default()
        };
        Self {
            source: attribute("source"),
            id: attribute("id"),
            integration: value.pointer("/data/integration").and_then(Value::as_str).and_then(|i| IntegrationId::new(i).ok()),
            verb: value.get("type").and_then(Value::as_str).and_then(Verb::of_type),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::examples;

    fn problems(value: &Value) -> Vec<String> {
        match Event::from_value(value) {
            Err(DecodeError::Invalid { problems, .. }) => problems.iter().map(ToString::to_string).collect(),
            other => vec![format!("{other:?}")],
        }
    }

    #[test]
    fn every_example_decodes() {
        for (name, event) in examples::events() {
            assert!(Event::from_value(&event).is_ok(), "{name}: {:?}", problems(&event));
        }
    }

    #[test]
    fn all_mistakes_are_named_at_once() {
        let mut event = examples::grant();
        event["data"]["permisions"] = event["data"]["permissions"].take();
        event["data"]["revision"] = json!("two");
        event["time"] = json!("yesterday");
        let met = problems(&event).join("\n");
        for path in ["time:", "data.revision:", "data.permissions:", "data.permisions: unknown field"] {
            assert!(met.contains(path), "{path} not named in\n{met}");
        }
    }

    #[test]
    fn a_duplicate_is_told_by_value_not_by_bytes() {
        let event = examples::grant();
        let spaced = serde_json::to_string_pretty(&event).unwrap_or_default();
        let digest = |body: &str| Event::decode(body.as_bytes()).map(|e| e.digest);
        assert_eq!(digest(&spaced), digest(&event.to_string()));
        let mut other = event.clone();
        other["data"]["revision"] = json!(7);
        assert_ne!(digest(&other.to_string()), digest(&event.to_string()));
        let mut same_instant = event;
        same_instant["time"] = json!("2026-11-21T10:00:00.123456+01:00");
        assert_eq!(digest(&spaced), digest(&same_instant.to_string()));
    }

    #[test]
    fn a_key_that_stands_twice_is_refused_at_any_depth() {
        let twice = examples::grant().to_string().replace(r#""principal":"#, r#""principal":"eve","principal":"#);
        assert!(matches!(Event::decode(twice.as_bytes()), Err(DecodeError::Undecodable(why)) if why.contains("principal")));
    }

    #[test]
    fn what_is_stored_and_echoed_has_no_control_characters() {
        for name in ["subject", "traceparent"] {
            let mut event = examples::grant();
            event[name] = json!("a\u{0}b");
            assert!(problems(&event).join("").starts_with(name), "{name}");
        }
    }

    #[test]
    fn the_source_of_expiries_is_not_a_producers() {
        let mut event = examples::grant();
        event["source"] = json!(EXPIRY_SOURCE);
        assert!(problems(&event).join("").starts_with("source:"));
    }

    #[test]
    fn an_unknown_version_is_not_an_invalid_event() {
        let mut event = examples::grant();
        event["type"] = json!("postern.access.grant.v2");
        event["data"]["new_field"] = json!(1);
        assert!(matches!(Event::from_value(&event), Err(DecodeError::UnknownType { .. })));
    }

    #[test]
    fn an_expiry_not_after_the_events_time_is_a_mistake() {
        let mut event = examples::grant();
        event["data"]["expires_at"] = event["time"].clone();
        assert!(problems(&event).join("").starts_with("data.expires_at:"));
    }
}
