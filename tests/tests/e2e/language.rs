//! A server that speaks German: Debian's PostgreSQL 15 carries translations, and nothing may depend on a message.

use anyhow::{Context, Result, ensure};
use postern_tests::events::{cleanup, cleanup_principal, grant, revoke_grant, revoke_principal};
use postern_tests::stage::{INTEGRATION, Stage};

use crate::{allowed, explained};

#[tokio::test]
async fn a_server_that_speaks_german_changes_nothing() -> Result<()> {
    let mut stage = Stage::builder().version("15".parse()?).policy("roles = ['reporting', 'strong']").start().await?;
    let superuser = stage.pg.superuser("postgres").await?;
    superuser.batch_execute("CREATE ROLE strong CREATEROLE").await?;
    superuser.batch_execute("ALTER SYSTEM SET lc_messages = 'de_DE.UTF-8'").await?;
    stage.pg.restart().await?;
    let superuser = stage.pg.superuser("postgres").await?;
    let german = superuser.batch_execute("SELECT * FROM nowhere").await.err().context("a missing table")?;
    let german = german.as_db_error().map(|error| error.message().to_owned()).unwrap_or_default();
    ensure!(german.contains("existiert nicht"), "the server does not speak German: {german}; run scripts/setup.sh test");

    stage.workers(2).await?;
    let recipient = stage.identity.recipient();
    let asked = |id: &str, who: &str| grant(INTEGRATION, id, who).schema("orders", "sales", "read_write").age(&recipient);
    let first = asked("1", "jane");
    let result = stage.expect(&first, "succeeded").await?;
    stage.publish(&first).await?;
    stage.audit.wait_for_copies(first.id(), 2).await?;
    let session = stage.login_as(&result).await?;
    allowed(&session, "SELECT * FROM sales.invoices").await?;

    for (event, code) in [
        (asked("2", "jane").with_id(first.id()), "id_conflict"),
        (grant(INTEGRATION, "3", "jane").role("strong"), "forbidden_role"),
        (grant(INTEGRATION, "4", "jane").role("reporting"), "not_found"),
        (grant(INTEGRATION, "5", "jane").tables("orders", "sales", &["nowhere"], "read_only"), "not_found"),
        (grant(INTEGRATION, "6", "jane").database("nowhere", "read_only"), "not_found"),
        (grant(INTEGRATION, "7", "postgres").database("orders", "read_only"), "role_not_managed"),
    ] {
        if code == "id_conflict" {
            stage.publish(&event).await?;
            stage.audit.wait_where(|m| m.data()["reason"]["code"] == code, postern_tests::audit::TIMEOUT).await?;
            continue;
        }
        let refused = stage.expect(&event, "rejected").await?;
        assert_eq!(refused["reason"]["code"], code, "{refused:#}");
    }

    // Concurrent changes of one role meet errors that are told apart by code alone.
    let crowd: Vec<_> = (0..30).map(|n| asked(&format!("c{n}"), if n % 2 == 0 { "kim" } else { "lee" })).collect();
    stage.broker.publish_all(&crowd).await?;
    for event in &crowd {
        let result = stage.result_of(event).await?;
        assert_eq!(result["outcome"], "succeeded", "{result:#}");
    }
    stage.expect(&revoke_principal(INTEGRATION, "kim"), "succeeded").await?;

    let orders = stage.pg.superuser("orders").await?;
    orders.batch_execute("CREATE TABLE public.hers (id int); ALTER TABLE public.hers OWNER TO jane").await?;
    let revoked = stage.expect(&revoke_grant(INTEGRATION, "1"), "succeeded").await?;
    assert_eq!(revoked["sessions_terminated"], 1);
    let kept = stage.send(&cleanup_principal(INTEGRATION, "jane")).await?;
    ensure!(kept["blocked"].to_string().contains("hers") && kept["reason"]["code"] == "objects_owned", "{kept:#}");
    orders.batch_execute("DROP TABLE public.hers").await?;
    stage.expect(&cleanup_principal(INTEGRATION, "jane"), "succeeded").await?;
    stage.send(&cleanup(INTEGRATION)).await?;
    explained(&stage).await?;

    // A wrong password is no reason to give up, in whatever words.
    std::fs::write(stage.scratch().join("connector-password"), "falsch")?;
    let output = stage.cli(&["check", INTEGRATION]).await?;
    let shown = String::from_utf8(output.stdout)?;
    ensure!(shown.contains("FAIL  orders-prod: login: ") && shown.contains("28P01"), "{shown}");
    stage.finish().await
}
