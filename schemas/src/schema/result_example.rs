//! One result, as it follows from the first example of a grant.

use serde_json::{Value, json};

/// The result of [`crate::examples::grant`].
pub(super) fn grant() -> Value {
    let event = crate::examples::grant();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (id, source) = (text(&event["id"]), text(&event["source"]));
    json!({
        "specversion": "1.0",
        "id": crate::id::result_id(&["orders-prod", &source, &id]),
        "source": "//postern/orders-prod",
        "type": "postern.audit.grant.v1",
        "time": "2026-11-21T09:00:00.151Z",
        "subject": event["subject"],
        "datacontenttype": "application/json",
        "data": {
            "event_id": id, "event_source": source, "verb": "grant", "integration": "orders-prod",
            "grant_id": "AR-123/1", "revision": 1, "principal": "jane.doe@example.com", "role": "jane.doe@example.com",
            "outcome": "succeeded", "final": true, "reason": null,
            "access": {
                "host": "orders.postgres.database.azure.com", "port": 5432, "databases": ["orders"],
                "username": "jane.doe@example.com",
                "uri": "postgresql://jane.doe%40example.com@orders.postgres.database.azure.com:5432/orders?sslmode=verify-full",
                "instructions": "Use the VPN first."
            },
            "credential": {
                "status": "delivered", "generation": 1,
                "sealed": "-----BEGIN AGE ENCRYPTED FILE-----\n…\n-----END AGE ENCRYPTED FILE-----\n"
            },
            "expires_at": "2026-11-21T17:00:00Z",
            "changes": [
                { "kind": "create_role", "target": "jane.doe@example.com" },
                { "kind": "grant_membership", "target": "reporting" }
            ],
            "changes_total": 2,
            "ended": [], "ended_total": 0, "drift": [], "drift_total": 0,
            "blocked": [], "blocked_total": 0, "warnings": [], "warnings_total": 0,
            "sessions_terminated": 0, "attempt": 1,
            "received_at": "2026-11-21T09:00:00.142Z", "finished_at": "2026-11-21T09:00:00.151Z", "worker": "pod-7"
        }
    })
}
