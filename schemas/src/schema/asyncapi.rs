//! The AsyncAPI 3.0 document: what is exchanged over RabbitMQ, seen from the worker.

use serde_json::{Map, Value, json};

use super::{AUDIT, bare, kind, names, result_example};
use crate::request::Verb;

/// AsyncAPI's AMQP bindings, of the specification's version.
const AMQP: &str = "0.3.0";
const CONTENT_TYPE: &str = "application/cloudevents+json";

/// The document. Schemas are embedded, so that it can be read alone; prefix and virtual host are the default ones.
pub fn asyncapi() -> Value {
    let verbs: Vec<&str> = Verb::ALL.into_iter().map(Verb::as_str).collect();
    let result_verbs: Vec<&str> = verbs.iter().copied().chain([Verb::Unknown.as_str()]).collect();
    let events: Vec<&str> = names().into_iter().filter(|name| *name != AUDIT).collect();
    json!({
        "asyncapi": "3.0.0",
        "info": {
            "title": "Postern",
            "version": "1.0.0",
            "description": "Just-in-time access to PostgreSQL. Producers publish access events; every event is answered with one final result. \
                            A field or a code may be added within a version, and consumers ignore what they do not know.",
            "license": { "name": "Apache-2.0", "url": "https://www.apache.org/licenses/LICENSE-2.0" }
        },
        "defaultContentType": CONTENT_TYPE,
        "channels": {
            "postern.events": {
                "address": "access.{verb}.{integration}",
                "title": "Access events",
                "description": "A topic exchange. Publish persistent, mandatory and confirmed: an event that is not confirmed may be lost, one that \
                                is published twice is carried out once.",
                "parameters": {
                    "verb": { "enum": verbs, "description": "The verb of the event's type." },
                    "integration": { "description": "data.integration." }
                },
                "messages": references(&events, "#/components/messages"),
                "bindings": exchange("postern.events")
            },
            "postern.audit": {
                "address": "audit.{verb}.{outcome}.{integration}",
                "title": "Audit results",
                "description": "A topic exchange. Bind a queue of your own; what no queue is bound for is dropped.",
                "parameters": {
                    "verb": { "enum": result_verbs, "description": "The event's verb." },
                    "outcome": { "enum": ["succeeded", "unchanged", "superseded", "rejected", "failed"], "description": "data.outcome." },
                    "integration": { "description": "The event's integration; _ for one that is not configured." }
                },
                "messages": references(&[AUDIT], "#/components/messages"),
                "bindings": exchange("postern.audit")
            }
        },
        "operations": {
            "receiveAccessEvent": {
                "action": "receive",
                "summary": "Carries out an access event, once.",
                "channel": { "$ref": "#/channels/postern.events" },
                "messages": list_of_references(&events, "#/channels/postern.events/messages"),
                "bindings": { "amqp": { "ack": true, "bindingVersion": AMQP } }
            },
            "sendAuditResult": {
                "action": "send",
                "summary": "Says what became of an event. correlation_id is the event's id.",
                "channel": { "$ref": "#/channels/postern.audit" },
                "messages": list_of_references(&[AUDIT], "#/channels/postern.audit/messages"),
                "bindings": { "amqp": { "deliveryMode": 2, "mandatory": false, "bindingVersion": AMQP } }
            }
        },
        "components": { "messages": messages() }
    })
}

fn exchange(name: &str) -> Value {
    json!({ "amqp": {
        "is": "routingKey",
        "exchange": { "name": name, "type": "topic", "durable": true, "autoDelete": false, "vhost": "/" },
        "bindingVersion": AMQP
    } })
}

fn references(names: &[&str], to: &str) -> Value {
    names.iter().map(|name| ((*name).to_owned(), json!({ "$ref": format!("{to}/{name}") }))).collect::<Map<_, _>>().into()
}

fn list_of_references(names: &[&str], to: &str) -> Value {
    names.iter().map(|name| json!({ "$ref": format!("{to}/{name}") })).collect()
}

fn messages() -> Value {
    let events = Verb::ALL.into_iter().map(|verb| {
        let name = format!("{verb}.v1");
        let examples = crate::examples::events().into_iter().filter(|(_, event)| event["type"] == kind(verb)).collect();
        let message = message(&name, &kind(verb), examples);
        (name, message)
    });
    let result = (AUDIT.to_owned(), message(AUDIT, "postern.audit.{verb}.v1", vec![("audit-grant", result_example::grant())]));
    events.chain([result]).collect::<Map<_, _>>().into()
}

fn message(name: &str, kind: &str, examples: Vec<(&str, Value)>) -> Value {
    let mut payload = bare(name).unwrap_or(Value::Bool(false));
    let title = payload["title"].clone();
    if let Some(schema) = payload.as_object_mut() {
        // They stand beside it.
        schema.remove("examples");
    }
    json!({
        "name": kind,
        "title": title,
        "contentType": CONTENT_TYPE,
        "correlationId": { "description": "The event's id; AMQP correlation_id in results.", "location": "$message.payload#/id" },
        "payload": payload,
        "bindings": { "amqp": { "contentEncoding": "utf-8", "messageType": kind, "bindingVersion": AMQP } },
        "examples": examples.into_iter().map(|(name, payload)| json!({ "name": name, "payload": payload })).collect::<Vec<_>>()
    })
}
