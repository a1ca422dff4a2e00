//! JSON Schemas and the AsyncAPI document, generated from the types.
//!
//! The schemas are of draft 2020-12 and use nothing that draft 7 does not know in the same meaning, because that is what
//! AsyncAPI 3.0 embeds. A schema accepts what [`crate::Event::decode`] accepts, but for the rules that no schema can say;
//! each stands in a `$comment`.

mod asyncapi;
mod documents;
mod result_example;

use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use crate::grant::Grant;
use crate::names::Attribute;
use crate::request::{Cleanup, Discover, Revoke, Rotate, Verb};
use crate::result::{AuditEvent, MAX_LIST};

pub use asyncapi::asyncapi;
pub use documents::{examples, write_all};

/// The name of the results' schema.
const AUDIT: &str = "audit.v1";

/// RFC 3339 with an offset, as [`crate::fields`] reads it.
const TIME: &str = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,9})?([Zz]|[+-]([01][0-9]|2[0-3]):[0-5][0-9])$";

/// The schemas' names: one for each verb's event, one for results.
pub fn names() -> [&'static str; 6] {
    ["grant.v1", "revoke.v1", "rotate.v1", "cleanup.v1", "discover.v1", AUDIT]
}

/// The schema of whole CloudEvents: of a verb's events, or of results. `None` for a name that is none of [`names`].
pub fn schema(name: &str) -> Option<Value> {
    let mut schema = bare(name)?;
    let head = schema.as_object_mut()?;
    head.insert("$schema".to_owned(), json!("https://json-schema.org/draft/2020-12/schema"));
    head.insert("$id".to_owned(), json!(format!("urn:postern:schema:{name}")));
    Some(schema)
}

/// The same without its dialect and identity, to be embedded.
fn bare(name: &str) -> Option<Value> {
    if name == AUDIT {
        return Some(result());
    }
    Verb::ALL.into_iter().find(|verb| name == format!("{verb}.v1")).map(event)
}

/// No control characters.
const VISIBLE: &str = r"^[^\x00-\x1f\x7f-\x9f]*$";

fn event(verb: Verb) -> Value {
    let attribute = |description: &str| with_description(of::<Attribute>(false), description);
    let examples: Vec<Value> =
        crate::examples::events().into_iter().map(|(_, example)| example).filter(|e| e["type"] == kind(verb)).collect();
    json!({
        "title": format!("Postern access event: {verb}"),
        "description": "CloudEvents 1.0, JSON structured mode. Integration, source and id together are the idempotency key.",
        "$comment": "No schema can say: at most 256 KiB; lengths count bytes of UTF-8, not characters; expires_at is after time; a principal is \
                     compared after NFC and ASCII lower-casing; the same key with another type, time or data is refused.",
        "type": "object",
        "properties": {
            "specversion": { "type": "string", "const": "1.0" },
            "id": attribute("Unique with source and integration; the same id again is the same event."),
            "source": attribute("Who asks; //postern/expiry is Postern's own."),
            "type": { "type": "string", "const": kind(verb) },
            "time": with_description(time(), "When it was asked, to less than a second. Orders what the queue does not."),
            "subject": { "type": "string", "pattern": VISIBLE, "description": "Echoed in the result." },
            "traceparent": { "type": "string", "pattern": VISIBLE, "description": "W3C trace context, echoed in the result." },
            "datacontenttype": { "type": "string", "pattern": r"^\s*[Aa][Pp][Pp][Ll][Ii][Cc][Aa][Tt][Ii][Oo][Nn]/[Jj][Ss][Oo][Nn]\s*(;|$)" },
            "data": data(verb)
        },
        "required": ["specversion", "id", "source", "type", "time", "data"],
        "examples": examples
    })
}

fn data(verb: Verb) -> Value {
    match verb {
        Verb::Grant => of::<Grant>(false),
        Verb::Revoke => of::<Revoke>(false),
        Verb::Rotate => of::<Rotate>(false),
        Verb::Cleanup => of::<Cleanup>(false),
        Verb::Discover => of::<Discover>(false),
        // No event has it.
        Verb::Unknown => Value::Bool(false),
    }
}

fn result() -> Value {
    let mut schema = of::<AuditEvent>(true);
    let verbs: Vec<&str> = Verb::ALL.into_iter().chain([Verb::Unknown]).map(Verb::as_str).collect();
    let fixed = [
        ("specversion", json!({ "const": "1.0" })),
        ("type", json!({ "pattern": format!(r"^postern\.audit\.({})\.v1$", verbs.join("|")) })),
        ("source", json!({ "pattern": r"^//postern/([a-z0-9-]{1,63}|_)$" })),
        ("datacontenttype", json!({ "const": "application/json" })),
    ];
    for (name, more) in fixed {
        merge(&mut schema["properties"][name], more);
    }
    let data = &mut schema["properties"]["data"]["properties"];
    for list in ["changes", "ended", "drift", "blocked", "warnings"] {
        data[list]["maxItems"] = json!(MAX_LIST);
    }
    let head = json!({
        "title": "Postern audit result",
        "description": "CloudEvents 1.0, JSON structured mode. Consumers ignore fields that they do not know.",
        "examples": [result_example::grant()]
    });
    merge(&mut schema, head);
    schema
}

/// A verb's CloudEvents `type`.
fn kind(verb: Verb) -> String {
    format!("postern.access.{verb}.v1")
}

/// A type's schema, self-contained. The serialized form is taken because the names' patterns are only known to it.
fn of<T: JsonSchema>(nullable: bool) -> Value {
    let mut settings = SchemaSettings::draft2020_12().for_serialize();
    settings.inline_subschemas = true;
    settings.meta_schema = None;
    let mut schema = settings.into_generator().into_root_schema_for::<T>().to_value();
    if let Some(head) = schema.as_object_mut() {
        head.remove("title");
    }
    tidy(&mut schema, nullable);
    schema
}

/// Makes a generated schema say what the contract says: `null` is not "absent" (unless `nullable`, for results), what has
/// a default need not be there, and only formats that JSON Schema knows.
fn tidy(schema: &mut Value, nullable: bool) {
    match schema {
        Value::Array(items) => items.iter_mut().for_each(|item| tidy(item, nullable)),
        Value::Object(map) => {
            for (key, value) in map.iter_mut() {
                if !matches!(key.as_str(), "const" | "default" | "enum" | "examples" | "required") {
                    tidy(value, nullable);
                }
            }
            if !nullable {
                without_null(map);
            }
            requires_no_defaults(map);
            match map.get("format").and_then(Value::as_str) {
                Some("date-time") => {
                    map.insert("pattern".to_owned(), json!(TIME));
                }
                Some("uuid") | None => {}
                // Widths of integers: a generator's own formats.
                Some(_) => {
                    map.remove("format");
                }
            }
        }
        _ => {}
    }
}

fn without_null(schema: &mut Map<String, Value>) {
    let is_null = |value: &Value| value == "null" || value.get("type").is_some_and(|kind| kind == "null");
    for key in ["type", "anyOf", "oneOf"] {
        let Some(Value::Array(choices)) = schema.get_mut(key) else { continue };
        let before = choices.len();
        choices.retain(|choice| !is_null(choice));
        if choices.len() == before || choices.len() > 1 {
            continue;
        }
        let Some(only) = choices.pop() else { continue };
        schema.remove(key);
        match only {
            Value::Object(only) => only.into_iter().for_each(|(key, value)| {
                schema.entry(key).or_insert(value);
            }),
            kind => {
                schema.insert(key.to_owned(), kind);
            }
        }
    }
}

fn requires_no_defaults(schema: &mut Map<String, Value>) {
    let has_default = |name: &Value| {
        let property = name.as_str().and_then(|name| schema.get("properties")?.get(name));
        property.is_some_and(|property| property.get("default").is_some())
    };
    let Some(Value::Array(required)) = schema.get("required") else { return };
    let kept: Vec<Value> = required.iter().filter(|name| !has_default(name)).cloned().collect();
    if kept.is_empty() {
        schema.remove("required");
    } else {
        schema.insert("required".to_owned(), Value::Array(kept));
    }
}

fn time() -> Value {
    json!({ "type": "string", "format": "date-time", "pattern": TIME })
}

fn with_description(mut schema: Value, description: &str) -> Value {
    schema["description"] = json!(description);
    schema
}

/// Adds `more`'s keys; those that are there already are replaced.
fn merge(schema: &mut Value, more: Value) {
    if let (Value::Object(map), Value::Object(more)) = (schema, more) {
        map.extend(more);
    }
}
