//! One valid event of every shape. Written to the documents, used by tests, safe to copy.

use serde_json::{Value, json};

/// Every example by name.
pub fn events() -> Vec<(&'static str, Value)> {
    vec![
        ("grant", grant()),
        (
            "grant-none",
            event(
                "grant",
                json!({
                    "integration": "orders-prod", "grant_id": "AR-124/1", "principal": "lee@example.com",
                    "permissions": [{ "database": "orders", "access": "read_only" }]
                }),
            ),
        ),
        (
            "grant-secret",
            event(
                "grant",
                json!({
                    "integration": "orders-prod", "grant_id": "AR-125/1", "principal": "kim@example.com",
                    "permissions": [{ "database": "orders", "schema": "sales", "access": "admin" }],
                    "expires_at": "2026-11-21T17:00:00Z",
                    "credential": { "deliver": "secret", "to": { "hashicorp_vault": { "secret_engine": "secret", "path": "jit/kim" } } }
                }),
            ),
        ),
        ("revoke-grant", event("revoke", json!({ "integration": "orders-prod", "grant_id": "AR-123/1", "reason": "ticket closed" }))),
        ("revoke-principal", event("revoke", json!({ "integration": "orders-prod", "principal": "jane.doe@example.com" }))),
        ("revoke-all", event("revoke", json!({ "integration": "orders-prod", "all": true, "reason": "incident" }))),
        (
            "rotate-principal",
            event(
                "rotate",
                json!({
                    "integration": "orders-prod", "principal": "jane.doe@example.com",
                    "credential": { "deliver": "age", "recipient": RECIPIENT }
                }),
            ),
        ),
        ("rotate-connector", event("rotate", json!({ "integration": "orders-prod", "connector": true }))),
        ("rotate-policy", event("rotate", json!({ "integration": "orders-prod" }))),
        ("cleanup-policy", event("cleanup", json!({ "integration": "orders-prod" }))),
        ("cleanup-principal", event("cleanup", json!({ "integration": "orders-prod", "principal": "jane.doe@example.com" }))),
        (
            "discover",
            event(
                "discover",
                json!({ "integration": "orders-prod", "resource_types": ["database", "schema", "table", "role", "function"] }),
            ),
        ),
    ]
}

/// The recipient of the age specification's test vectors; nobody should seal anything real to it.
const RECIPIENT: &str = "age1t7rxyev2z3rw82stdlrrepyc39nvn86l5078zqkf5uasdy86jp6svpy7pa";

/// A grant with every optional field.
pub fn grant() -> Value {
    event(
        "grant",
        json!({
            "integration": "orders-prod",
            "grant_id": "AR-123/1",
            "revision": 1,
            "principal": "jane.doe@example.com",
            "permissions": [
                { "database": "orders", "access": "read_only" },
                { "database": "orders", "schema": "sales", "access": "read_write" },
                { "database": "orders", "schema": "sales", "tables": ["invoices", "lines"], "access": "read_only" },
                { "role": "reporting" }
            ],
            "expires_at": "2026-11-21T17:00:00Z",
            "credential": { "deliver": "age", "recipient": RECIPIENT },
            "justification": "INC-42",
            "requested_by": "jane.doe@example.com",
            "approved_by": ["lee@example.com"]
        }),
    )
}

#[expect(clippy::needless_pass_by_value, reason = "a literal reads better than a reference to one")]
fn event(verb: &str, data: Value) -> Value {
    json!({
        "specversion": "1.0",
        "id": format!("0198f2b0-7d8a-7c1e-9a57-{:012x}", verb.len()),
        "source": "//access.example.com/requests",
        "type": format!("postern.access.{verb}.v1"),
        "time": "2026-11-21T09:00:00.123456Z",
        "subject": "AR-123",
        "datacontenttype": "application/json",
        "data": data
    })
}
