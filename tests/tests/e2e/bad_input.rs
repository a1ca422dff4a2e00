//! What bad input gets: a clear refusal, nothing lost, nothing changed, no crash.

use anyhow::{Result, ensure};
use jiff::SignedDuration;
use postern_tests::broker::properties;
use postern_tests::events::{Event, discover, grant, revoke_principal, rotate_principal};
use postern_tests::stage::{INTEGRATION, Stage};
use serde_json::{Value, json};

/// Everything that an event could have changed.
async fn catalog(stage: &Stage) -> Result<Vec<String>> {
    let client = stage.pg.superuser("postgres").await?;
    let rows = client
        .query(
            "SELECT rolname::text || rolcanlogin::text FROM pg_roles \
             UNION ALL SELECT roleid::text || ' ' || member::text FROM pg_auth_members \
             UNION ALL SELECT datname || ' ' || coalesce(datacl::text, '') FROM pg_database ORDER BY 1",
            &[],
        )
        .await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

fn plain() -> Event {
    grant(INTEGRATION, "AR-1", "jane").database("orders", "read_only")
}

#[tokio::test]
async fn wrong_events_are_rejected_with_code_field_and_expectation() -> Result<()> {
    let mut stage =
        Stage::builder().policy("access = ['read_only', 'read_write']\nmax_duration_hours = 8\nroles = ['absent']").start().await?;
    stage.workers(1).await?;
    let fine = plain().expires_in(SignedDuration::from_hours(1));
    stage.expect(&fine, "succeeded").await?;
    let before = catalog(&stage).await?;

    let ok = || grant(INTEGRATION, "AR-2", "kim").expires_in(SignedDuration::from_hours(1));
    let long = "x".repeat(64);
    let cases: Vec<(Event, &str, &str)> = vec![
        (ok().database("orders", "read_only").with("revision", json!("1")), "invalid_event", "data.revision"),
        (ok().database("orders", "read_only").with("permisions", json!([])), "invalid_event", "data.permisions"),
        (ok().database("orders", "read_only").without("grant_id"), "invalid_event", "data.grant_id"),
        (ok().database("orders", "read_only").with("credential", Value::Null), "invalid_event", "data.credential"),
        (ok().without("permissions"), "invalid_event", "data.permissions"),
        (ok(), "invalid_event", "data.permissions"),
        (ok().database("ord\0ers", "read_only"), "invalid_event", "data.permissions[0].database"),
        (ok().database(&long, "read_only"), "invalid_event", "data.permissions[0].database"),
        (ok().schema("orders", &long, "read_only"), "invalid_event", "data.permissions[0].schema"),
        (ok().tables("orders", "sales", &[&long], "read_only"), "invalid_event", "data.permissions[0].tables[0]"),
        (ok().role(&long), "invalid_event", "data.permissions[0].role"),
        (ok().database("orders", "owner"), "invalid_event", "data.permissions[0].access"),
        (ok().database("orders", "admin"), "policy_denied", "data.permissions[0].access"),
        (ok().database("template1", "read_only"), "policy_denied", "data.permissions[0].database"),
        (ok().schema("postgres", "postern", "read_only"), "policy_denied", "data.permissions[0].schema"),
        (ok().role("postgres"), "policy_denied", "data.permissions[0].role"),
        (ok().database("orders", "read_only").expires_in(SignedDuration::from_hours(-1)), "invalid_event", "data.expires_at"),
        (ok().database("orders", "read_only").expires_in(SignedDuration::from_hours(9)), "policy_denied", "data.expires_at"),
        (ok().database("orders", "read_only").without("expires_at"), "policy_denied", "data.expires_at"),
        (
            ok().database("orders", "read_only").asked_in(SignedDuration::from_mins(5)).expires_in(SignedDuration::from_hours(1)),
            "invalid_event",
            "time",
        ),
        (
            ok().database("orders", "read_only").asked_in(SignedDuration::from_hours(-30)).expires_in(SignedDuration::from_hours(-23)),
            "event_too_old",
            "time",
        ),
        (ok().database("nowhere", "read_only"), "not_found", "data.permissions[0].database"),
        (ok().schema("orders", "nowhere", "read_only"), "not_found", "data.permissions[0]"),
        (ok().tables("orders", "sales", &["invoices", "nothing"], "read_only"), "not_found", "data.permissions[0]"),
        (ok().role("absent"), "not_found", "data.permissions[0].role"),
        (ok().database("orders", "read_only").age("age1wrong"), "invalid_event", "data.credential.recipient"),
        (
            ok().database("orders", "read_only")
                .with("principal", json!("jane"))
                .with("grant_id", json!("AR-1"))
                .with("principal", json!("eve")),
            "invalid_event",
            "data.grant_id",
        ),
        (discover(INTEGRATION, &["table"]), "invalid_event", "type"),
        (ok().database("orders", "read_only").attribute("specversion", json!("0.3")), "invalid_event", "specversion"),
        (ok().database("orders", "read_only").attribute("time", json!("yesterday")), "invalid_event", "time"),
        (ok().database("orders", "read_only").attribute("source", json!("//postern/expiry")), "invalid_event", "source"),
        (revoke_principal(INTEGRATION, "jane").attribute("subject", json!("a\0b")), "invalid_event", "subject"),
        (revoke_principal(INTEGRATION, "jane").with("all", json!(true)), "invalid_event", "data"),
        (revoke_principal(INTEGRATION, "jane").with("all", json!(false)), "invalid_event", "data.all"),
        (rotate_principal(INTEGRATION, "jane", "age1wrong"), "invalid_event", "data.credential.recipient"),
        (ok().database("orders", "read_only").with("integration", json!("nope")), "unknown_integration", "data.integration"),
        (ok().database("orders", "read_only").attribute("type", json!("postern.access.grant.v9")), "unknown_type", "type"),
    ];
    for (event, ..) in &cases {
        stage.publish(event).await?;
    }
    for (event, code, field) in &cases {
        let result = stage.result_of(event).await?;
        assert_eq!(result["outcome"], "rejected", "{:#}\n{result:#}", event.json());
        assert_eq!(result["reason"]["code"], *code, "{:#}\n{result:#}", event.json());
        let named = result["reason"]["field"].as_str().unwrap_or_default();
        ensure!(named == *field, "{field} should be named, met {named}: {result:#}");
        assert_eq!(result["final"], true);
    }
    assert_eq!(catalog(&stage).await?, before, "nothing changed in the target");
    assert_eq!(stage.broker.depth("dead").await?, Some(0));
    // Repeats of a refusal carry the same id.
    for (event, ..) in &cases {
        stage.publish(event).await?;
    }
    for (event, code, _) in &cases {
        let copies = stage.audit.wait_for_copies(event.id(), 2).await?;
        assert_eq!(copies[0].message_id(), copies[1].message_id(), "{code}");
        assert_eq!(crate::stripped(&copies[0].json), crate::stripped(&copies[1].json), "{code}");
    }
    stage.finish().await
}

#[tokio::test]
async fn three_mistakes_are_named_at_once() -> Result<()> {
    let mut stage = Stage::start().await?;
    stage.workers(1).await?;
    let event = plain().with("revision", json!(0)).with("expires_at", json!("soon")).with("reson", json!("typo"));
    let result = stage.expect(&event, "rejected").await?;
    let message = result["reason"]["message"].as_str().unwrap_or_default();
    for path in ["data.revision", "data.expires_at", "data.reson"] {
        ensure!(message.contains(path), "{path} is not named: {message}");
    }
    stage.finish().await
}

#[tokio::test]
async fn what_cannot_be_decoded_is_rejected_and_kept_byte_for_byte() -> Result<()> {
    let mut stage = Stage::start().await?;
    stage.workers(1).await?;
    let huge = vec![b' '; 300 * 1024];
    let twice = plain().json().to_string().replace(r#""principal":"#, r#""principal":"eve","principal":"#);
    let bodies: [&[u8]; 6] = [b"\xff\xfe\x00", b"not json", b"[1, 2]", b"", &huge, twice.as_bytes()];
    for (index, body) in bodies.iter().enumerate() {
        stage.broker.publish_raw(body, "access.grant.orders-prod", properties(&format!("m{index}"))).await?;
    }
    for body in bodies {
        let id = postern_schemas::id::result_id(&["unknown", "", "", &postern_schemas::id::sha256_hex(body)]).to_string();
        let result = stage.audit.wait_where(|m| m.message_id() == Some(&id), postern_tests::audit::TIMEOUT).await?;
        assert_eq!(result.routing_key, "audit.unknown.rejected._");
        assert_eq!(result.data()["reason"]["code"], "invalid_event");
        assert_eq!(result.data()["integration"], "unknown");
    }
    let mut kept: Vec<Vec<u8>> = Vec::new();
    while kept.len() < bodies.len() {
        kept.extend(stage.broker.drain("dead").await?.into_iter().map(|message| message.body));
    }
    for body in bodies {
        ensure!(kept.iter().any(|k| k == body), "{} bytes are not kept", body.len());
    }
    stage.expect(&plain(), "succeeded").await?;
    stage.finish().await
}

#[tokio::test]
async fn a_revoke_from_the_future_counts_as_asked_now() -> Result<()> {
    let mut stage = Stage::start().await?;
    stage.workers(1).await?;
    stage.expect(&plain(), "succeeded").await?;
    let revoke = revoke_principal(INTEGRATION, "jane").asked_in(SignedDuration::from_hours(5));
    stage.expect(&revoke, "succeeded").await?;
    stage.expect(&plain().with("grant_id", json!("AR-2")), "succeeded").await?;
    stage.finish().await
}

#[tokio::test]
async fn an_expiry_at_the_end_of_all_time_is_an_expiry() -> Result<()> {
    let mut stage = Stage::start().await?;
    stage.workers(1).await?;
    let result = stage.expect(&plain().with("expires_at", json!("9999-12-30T21:59:59Z")), "succeeded").await?;
    assert_eq!(result["expires_at"], "9999-12-30T21:59:59Z");
    // It waits in the largest level; the result may be seen before its place there.
    let deadline = std::time::Instant::now() + postern_tests::audit::TIMEOUT;
    while stage.broker.depth("expiry.2097152000").await? != Some(1) {
        ensure!(std::time::Instant::now() < deadline, "the expiry does not wait");
        tokio::time::sleep(postern_tests::process::POLL).await;
    }
    stage.finish().await
}
