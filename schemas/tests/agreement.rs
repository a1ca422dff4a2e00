//! A schema accepts exactly what the decoder accepts, as far as a schema can say it.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on says so")]

use std::collections::HashMap;
use std::sync::LazyLock;

use jsonschema::Validator;
use postern_schemas::{Event, examples, schema};
use proptest::prelude::*;
use serde_json::{Value, json};

fn validator(name: &str) -> Validator {
    let schema = schema::schema(name).unwrap_or_else(|| panic!("no schema {name}"));
    jsonschema::options().should_validate_formats(true).build(&schema).unwrap_or_else(|error| panic!("{name}: {error}"))
}

static VALIDATORS: LazyLock<HashMap<&'static str, Validator>> =
    LazyLock::new(|| schema::names().into_iter().map(|name| (name, validator(name))).collect());

/// The validator of an event's type.
fn validator_of(event: &Value) -> &'static Validator {
    let kind = event["type"].as_str().unwrap();
    &VALIDATORS[kind.strip_prefix("postern.access.").unwrap()]
}

/// The paths of all values below `value`, parents first.
fn paths(value: &Value, at: &str, found: &mut Vec<String>) {
    let children: Vec<(String, &Value)> = match value {
        Value::Object(map) => map.iter().map(|(key, child)| (key.clone(), child)).collect(),
        Value::Array(items) => items.iter().enumerate().map(|(index, child)| (index.to_string(), child)).collect(),
        _ => return,
    };
    for (key, child) in children {
        let path = format!("{at}/{key}");
        found.push(path.clone());
        paths(child, &path, found);
    }
}

/// The event with the value at `path` taken out.
fn without(event: &Value, path: &str) -> Value {
    let mut event = event.clone();
    let (parent, key) = path.rsplit_once('/').unwrap();
    match event.pointer_mut(parent).unwrap() {
        Value::Object(map) => drop(map.remove(key)),
        Value::Array(items) => drop(items.remove(key.parse().unwrap())),
        _ => unreachable!(),
    }
    event
}

/// The event with something else at `path`.
fn with(event: &Value, path: &str, value: Value) -> Value {
    let mut event = event.clone();
    *event.pointer_mut(path).unwrap() = value;
    event
}

fn mutants(event: &Value) -> Vec<(String, Value)> {
    let mut found = Vec::new();
    paths(event, "", &mut found);
    let mut mutants = Vec::new();
    for path in &found {
        mutants.push((format!("without {path}"), without(event, path)));
        let others = [
            Value::Null,
            json!(true),
            json!(false),
            json!(0),
            json!(1),
            json!(1.0),
            json!(1.5),
            json!(-1),
            json!(3_000_000_000_u64),
            json!(""),
            json!("x"),
            json!(" x"),
            json!("x\u{85}"),
            json!("x\0"),
            json!("x\n"),
            json!([]),
            json!([1]),
            json!(["x"]),
            json!({}),
            json!({ "x": 1 }),
            json!("2026-11-21T09:00:00"),
            json!("2026-11-21 19:00:00Z"),
            json!("2026-11-21T19:00Z"),
            json!("2026-11-21T19:00:00+03:00"),
            json!("2026-11-21t16:00:00.123456789z"),
            json!("2026-11-21T16:00:00.Z"),
            json!("2026-11-21T19:00:00+24:30"),
            json!("2026-13-21T19:00:00Z"),
            json!("2026-11-21T19:00:00Z[Europe/Paris]"),
            json!("x".repeat(64)),
            json!("x".repeat(201)),
            Value::from(vec!["x"; 201]),
        ];
        mutants.extend(others.into_iter().map(|other| (format!("{path} is {other}"), with(event, path, other))));
        match event.pointer(path) {
            Some(Value::Object(map)) => {
                let mut map = map.clone();
                map.insert("unknown".to_owned(), json!("x"));
                mutants.push((format!("{path} has an unknown field"), with(event, path, Value::Object(map.clone()))));
            }
            Some(Value::Array(items)) => {
                let doubled: Vec<Value> = items.iter().chain(items).cloned().collect();
                mutants.push((format!("{path} doubled"), with(event, path, Value::Array(doubled))));
            }
            _ => {}
        }
    }
    for name in ["extension", "dataschema"] {
        for value in [json!("x"), json!(1), Value::Null] {
            let mut extended = event.clone();
            extended[name] = value.clone();
            mutants.push((format!("extension {name} is {value}"), extended));
        }
    }
    mutants
}

#[test]
fn every_example_is_valid() {
    for (name, event) in examples::events() {
        let validator = validator_of(&event);
        let errors: Vec<String> = validator.iter_errors(&event).map(|error| error.to_string()).collect();
        assert!(errors.is_empty(), "{name}: {errors:?}");
    }
}

#[test]
fn schema_and_decoder_agree_on_every_mutation_of_every_example() {
    let mut disagreements = Vec::new();
    for (name, event) in examples::events() {
        let validator = validator_of(&event);
        let mutants = mutants(&event);
        assert!(mutants.len() > 100, "{name} has few mutants");
        for (what, mutant) in mutants {
            let (schema, decoder) = (validator.is_valid(&mutant), Event::from_value(&mutant));
            if schema != decoder.is_ok() {
                disagreements.push(format!("{name}, {what}: schema {schema}, decoder {:?}", decoder.map(|event| event.request)));
            }
        }
    }
    assert!(disagreements.is_empty(), "{} disagreements:\n{}", disagreements.len(), disagreements.join("\n"));
}

#[test]
fn every_field_of_a_results_example_is_known_and_typed() {
    let validator = validator("audit.v1");
    let (_, result) = schema::examples().into_iter().find(|(name, _)| *name == "audit-grant").unwrap();
    assert!(validator.is_valid(&result), "{:?}", validator.iter_errors(&result).map(|error| error.to_string()).collect::<Vec<_>>());
    let read: postern_schemas::result::AuditEvent = serde_json::from_value(result.clone()).unwrap();
    let written = serde_json::to_value(&read).unwrap();
    assert_eq!(written, result, "a field is lost on the way through the types");
    for (path, wrong) in [
        ("/data/outcome", json!("done")),
        ("/data/changes", json!(vec![json!({ "kind": "a", "target": "b" }); 101])),
        ("/type", json!("postern.access.grant.v1")),
        ("/data/event_id", Value::Null),
    ] {
        assert!(!validator.is_valid(&with(&result, path, wrong)), "{path}");
    }
    for path in ["/data/grant_id", "/data/access", "/data/reason"] {
        assert!(validator.is_valid(&with(&result, path, Value::Null)), "{path}");
    }
}

#[test]
fn every_result_that_the_code_makes_is_valid() {
    use postern_schemas::result::{AuditEvent, AuditResult, Blocker, Change, Code, MAX_LIST};
    let validator = validator("audit.v1");
    let mut data = AuditResult::new(postern_schemas::Verb::Unknown, "unknown", "", "");
    data.reason = Some(postern_schemas::Reason::new(Code::InvalidEvent, "no").at("data"));
    data.warnings = vec!["w".to_owned(); MAX_LIST + 1];
    data.drift.push(Change::new("k", "t"));
    data.blocked.push(Blocker { database: None, object: "o".to_owned() });
    data.resources = Some(vec![json!({ "any": "thing" })]);
    let event = AuditEvent {
        specversion: "1.0".to_owned(),
        id: postern_schemas::id::result_id(&["a"]),
        source: "//postern/_".to_owned(),
        kind: "postern.audit.unknown.v1".to_owned(),
        time: None,
        subject: None,
        traceparent: None,
        datacontenttype: "application/json".to_owned(),
        data: data.capped(),
    };
    let value = serde_json::to_value(&event).unwrap();
    assert!(validator.is_valid(&value), "{:?}", validator.iter_errors(&value).map(|error| error.to_string()).collect::<Vec<_>>());
}

#[test]
fn no_event_schema_lets_null_in() {
    for name in schema::names().into_iter().filter(|name| *name != "audit.v1") {
        let mut schema = schema::schema(name).unwrap();
        schema["examples"].take();
        schema.as_object_mut().unwrap().remove("examples");
        assert!(!schema.to_string().contains("null"), "{name}");
    }
}

#[test]
fn the_asyncapi_document_refers_to_what_it_holds() {
    let document = schema::asyncapi();
    let mut found = Vec::new();
    paths(&document, "", &mut found);
    let references: Vec<&str> =
        found.iter().filter(|path| path.ends_with("/$ref")).filter_map(|path| document.pointer(path)?.as_str()).collect();
    assert_eq!(references.len(), 2 + 2 * schema::names().len());
    for reference in references {
        assert!(reference.strip_prefix('#').and_then(|pointer| document.pointer(pointer)).is_some(), "{reference}");
    }
    for (name, message) in document["components"]["messages"].as_object().unwrap() {
        let validator = jsonschema::draft7::new(&message["payload"]).unwrap();
        for example in message["examples"].as_array().unwrap() {
            assert!(validator.is_valid(&example["payload"]), "{name}: {example}");
        }
    }
}

/// Texts around the limits of names. ASCII and single-byte limits agree; the schema counts characters, the decoder bytes.
fn name() -> impl Strategy<Value = String> {
    prop_oneof!["[ -~]{0,4}", "[a-z0-9-]{60,66}", "[ -~]{197,203}", "[\\x00-\\x7f]{1,3}", "[\u{80}-\u{a0}\u{e9}\u{3000}]{1,3}"]
}

proptest! {
    #[test]
    fn names_agree(text in name()) {
        for (example, path) in [
            ("grant", "/id"), ("grant", "/source"), ("grant", "/subject"), ("grant", "/data/grant_id"), ("grant", "/data/principal"),
            ("grant", "/data/integration"), ("grant", "/data/permissions/3/role"), ("grant", "/data/permissions/2/tables/0"),
            ("grant-secret", "/data/credential/to/hashicorp_vault/path"), ("grant", "/data/credential/recipient"),
        ] {
            let (_, event) = examples::events().into_iter().find(|(name, _)| *name == example).unwrap();
            let event = with(&event, path, json!(text));
            prop_assert_eq!(validator_of(&event).is_valid(&event), Event::from_value(&event).is_ok(), "{} is {:?}", path, text);
        }
    }
}
