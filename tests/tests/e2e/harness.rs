//! The harness itself: what the other tests take for granted.

use anyhow::{Result, ensure};
use futures_util::future::join_all;
use lapin::BasicProperties;
use lapin::options::{BasicAckOptions, BasicGetOptions, BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Connection, ConnectionProperties};
use postern_tests::audit::{Audit, TIMEOUT};
use postern_tests::broker::{Broker, shared_url};
use postern_tests::identity::Identity;
use postern_tests::postgres::{CONNECTOR, Platform, Postgres, Version};
use postern_tests::rabbit::Rabbit;
use postern_tests::scratch::Scratch;
use postern_tests::stage::{INTEGRATION, Stage};
use postern_tests::worker::Worker;
use postern_tests::{events, process};
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

async fn one<T: for<'a> tokio_postgres::types::FromSql<'a>>(client: &Client, sql: &str) -> Result<T> {
    Ok(client.query_one(sql, &[]).await?.try_get(0)?)
}

#[tokio::test]
async fn cluster_is_the_version_under_test_and_its_connector_is_no_superuser() -> Result<()> {
    let pg = Postgres::start(Version::under_test()?).await?;
    let connector = pg.connector("postgres").await?;
    let number: String = one(&connector, "SHOW server_version_num").await?;
    assert_eq!(number.parse::<u32>()? / 10_000, u32::from(pg.version().major()));
    let rights: String = one(
        &connector,
        "SELECT concat_ws(' ', rolsuper, rolcreaterole, rolcreatedb, rolreplication, rolbypassrls)
         FROM pg_roles WHERE rolname = current_user",
    )
    .await?;
    assert_eq!(rights, "f t f f f");
    Ok(())
}

#[tokio::test]
async fn connector_can_make_its_ledger_and_hand_on_what_the_admin_owns() -> Result<()> {
    let pg = Postgres::start(Version::under_test()?).await?;
    let connector = pg.connector("postgres").await?;
    connector.batch_execute("CREATE SCHEMA postern; CREATE TABLE postern.t (); CREATE ROLE reader NOLOGIN").await?;

    // Tables from before and after the bootstrap alike.
    pg.admin("orders").await?.batch_execute("CREATE TABLE sales.later (id int)").await?;
    pg.create_database("other", "CREATE TABLE before (id int)").await?;
    pg.admin("other").await?.batch_execute("CREATE SCHEMA s CREATE TABLE after (id int)").await?;
    let orders = pg.connector("orders").await?;
    let other = pg.connector("other").await?;
    for (client, grant) in [
        (&orders, "GRANT CONNECT ON DATABASE orders TO reader"),
        (&orders, "GRANT USAGE ON SCHEMA sales TO reader"),
        (&orders, "GRANT SELECT ON sales.invoices, sales.later, sales.shipments, sales.totals TO reader"),
        (&orders, "GRANT EXECUTE ON FUNCTION sales.invoice_total TO reader"),
        (&other, "GRANT CREATE ON DATABASE other TO reader"),
        (&other, "GRANT USAGE ON SCHEMA public, s TO reader"),
        (&other, "GRANT SELECT ON before, s.after TO reader"),
    ] {
        client.batch_execute(grant).await?;
    }
    assert!(one::<bool>(&orders, "SELECT has_table_privilege('reader', 'sales.invoices', 'SELECT')").await?);
    assert!(!one::<bool>(&orders, "SELECT has_table_privilege('reader', 'sales.invoices', 'INSERT')").await?);
    assert!(one::<bool>(&orders, "SELECT has_table_privilege('reader', 'sales.later', 'SELECT')").await?);
    assert!(one::<bool>(&other, "SELECT has_table_privilege('reader', 'before', 'SELECT')").await?);
    assert!(one::<bool>(&other, "SELECT has_table_privilege('reader', 's.after', 'SELECT')").await?);
    Ok(())
}

#[tokio::test]
async fn connector_can_hand_on_a_role_that_a_policy_names() -> Result<()> {
    let pg = Postgres::start(Version::under_test()?).await?;
    pg.create_handable_role("reporting").await?;
    let connector = pg.connector("postgres").await?;
    connector.batch_execute("CREATE ROLE jane LOGIN; GRANT reporting TO jane").await?;
    assert!(one::<bool>(&connector, "SELECT pg_has_role('jane', 'reporting', 'MEMBER')").await?);
    Ok(())
}

#[tokio::test]
async fn connector_cannot_do_what_the_platform_keeps_to_itself() -> Result<()> {
    let pg = Postgres::start(Version::under_test()?).await?;
    let connector = pg.connector("postgres").await?;
    let denied =
        |result: Result<(), tokio_postgres::Error>| result.is_err_and(|error| error.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE));
    assert!(denied(connector.batch_execute("CREATE ROLE root SUPERUSER").await));
    // On RDS the admin role reads and writes every table, catalogs included.
    if pg.platform() == Platform::Azure {
        assert!(denied(connector.batch_execute("SELECT * FROM pg_authid").await));
        let orders = pg.connector("orders").await?;
        orders.batch_execute("SELECT * FROM sales.invoices").await?;
        assert!(denied(orders.batch_execute("DROP TABLE sales.invoices CASCADE").await));
    }
    Ok(())
}

#[tokio::test]
async fn login_refuses_a_wrong_password_with_the_servers_own_error() -> Result<()> {
    let pg = Postgres::start(Version::under_test()?).await?;
    let error = pg.login(CONNECTOR, "wrong", "postgres").await.err();
    let code = error.as_ref().and_then(|error| error.code());
    assert_eq!(code, Some(&SqlState::INVALID_PASSWORD));
    Ok(())
}

#[tokio::test]
async fn cluster_keeps_its_data_over_a_restart_and_a_crash() -> Result<()> {
    let mut pg = Postgres::start(Version::under_test()?).await?;
    pg.admin("orders").await?.batch_execute("CREATE TABLE kept (id int); INSERT INTO kept VALUES (1)").await?;
    let before = pg.admin("orders").await?;
    pg.restart().await?;
    assert!(before.batch_execute("SELECT 1").await.is_err(), "the old session is gone");
    pg.admin("orders").await?.batch_execute("INSERT INTO kept VALUES (2)").await?;
    pg.stop_immediate().await?;
    assert!(pg.admin("orders").await.is_err());
    pg.start_again().await?;
    assert_eq!(one::<i64>(&pg.admin("orders").await?, "SELECT count(*) FROM kept").await?, 2);
    Ok(())
}

#[tokio::test]
async fn log_holds_every_statement() -> Result<()> {
    let pg = Postgres::start(Version::under_test()?).await?;
    pg.connector("postgres").await?.batch_execute("SELECT 'a statement to find'").await?;
    let log = pg.log()?;
    let line = log.lines().find(|line| line.contains("a statement to find")).unwrap_or_default();
    assert!(line.contains(&format!("{CONNECTOR}@postgres ")), "{line}");
    Ok(())
}

#[tokio::test]
async fn clusters_that_start_together_are_apart() -> Result<()> {
    let version = Version::under_test()?;
    let started = join_all((0..3).map(|_| Postgres::start(version))).await;
    let clusters = started.into_iter().collect::<Result<Vec<_>>>()?;
    for (index, pg) in clusters.iter().enumerate() {
        pg.create_database(&format!("d{index}"), "").await?;
    }
    for pg in &clusters {
        let count: i64 = one(&pg.admin("postgres").await?, "SELECT count(*) FROM pg_database WHERE datname ~ '^d[0-9]$'").await?;
        assert_eq!(count, 1);
    }
    Ok(())
}

#[tokio::test]
async fn broker_keeps_a_message_of_a_quorum_queue_over_a_restart_and_a_kill() -> Result<()> {
    let mut rabbit = Rabbit::start().await?;
    let quorum = FieldTable::from(std::collections::BTreeMap::from([("x-queue-type".into(), AMQPValue::LongString("quorum".into()))]));
    let durable = QueueDeclareOptions { durable: true, ..Default::default() };
    {
        let connection = Connection::connect(&rabbit.amqp_url(), ConnectionProperties::default()).await?;
        let channel = connection.create_channel().await?;
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
        channel.queue_declare("kept".into(), durable, quorum.clone()).await?;
        let properties = BasicProperties::default().with_delivery_mode(2);
        for body in [b"one", b"two"] {
            let publish = channel.basic_publish("".into(), "kept".into(), BasicPublishOptions::default(), body, properties.clone());
            ensure!(publish.await?.await?.is_ack());
        }
    }
    rabbit.restart().await?;
    take(&rabbit, b"one").await?;
    rabbit.kill().await?;
    rabbit.start_again().await?;
    take(&rabbit, b"two").await
}

async fn take(rabbit: &Rabbit, body: &[u8]) -> Result<()> {
    let connection = Connection::connect(&rabbit.amqp_url(), ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    let deadline = std::time::Instant::now() + TIMEOUT;
    // After a start the queue needs a moment to elect its leader.
    loop {
        if let Some(message) = channel.basic_get("kept".into(), BasicGetOptions::default()).await? {
            message.ack(BasicAckOptions::default()).await?;
            if message.data == body {
                break;
            }
            // An acknowledgement that was on its way at the kill is lost, and its message comes again.
            assert!(message.redelivered, "{:?} came first", message.data);
            continue;
        }
        ensure!(std::time::Instant::now() < deadline, "the message is lost");
        tokio::time::sleep(process::POLL).await;
    }
    connection.close(200, "done".into()).await?;
    Ok(())
}

#[tokio::test]
async fn audit_collector_sees_what_is_published_and_names_what_came_when_it_waits_in_vain() -> Result<()> {
    let (url, prefix) = (shared_url()?, format!("h{}", uuid::Uuid::new_v4().simple()));
    let audit = Audit::start(&url, &prefix).await?;
    let broker = Broker::new(&url, &prefix);
    let channel = broker.channel().await?;
    let body = br#"{"data":{"event_id":"e1","final":true,"outcome":"succeeded"}}"#;
    for _ in 0..2 {
        let options = BasicPublishOptions { mandatory: true, ..Default::default() };
        let key = "audit.grant.succeeded.orders-prod".into();
        channel.basic_publish(broker.name("audit").into(), key, options, body, BasicProperties::default()).await?.await?;
    }
    assert_eq!(audit.wait_for("e1").await?["outcome"], "succeeded");
    assert_eq!(audit.wait_for_copies("e1", 2).await?.len(), 2);
    let nothing = audit.wait_where(|_| false, std::time::Duration::from_millis(50)).await;
    assert!(nothing.is_err_and(|error| error.to_string().contains("audit.grant.succeeded.orders-prod")));
    broker.delete_topology().await?;
    // The broker answers before every one of its processes has heard of it.
    let deadline = std::time::Instant::now() + postern_tests::audit::TIMEOUT;
    while broker.depth(postern_tests::audit::QUEUE).await?.is_some() {
        ensure!(std::time::Instant::now() < deadline, "the queue is still there");
        tokio::time::sleep(process::POLL).await;
    }
    Ok(())
}

#[test]
fn sealed_credentials_open_with_the_identity_they_were_made_for() -> Result<()> {
    let identity = Identity::generate();
    let recipient: age::x25519::Recipient = identity.recipient().parse().map_err(anyhow::Error::msg)?;
    let plain = r#"{"username":"jane","password":"p","uri":"postgresql://"}"#;
    let sealed = age::encrypt_and_armor(&recipient, plain.as_bytes())?;
    let result = serde_json::json!({ "credential": { "sealed": sealed } });
    assert_eq!(identity.open_credential(&result)?.username, "jane");
    assert!(Identity::generate().open_credential(&result).is_err());
    Ok(())
}

#[test]
fn events_are_what_the_contract_shows() {
    let event = events::grant("orders-prod", "AR-1", "jane@example.com").schema("orders", "sales", "read_only").revision(2).with_id("e-1");
    assert_eq!(event.routing_key(), "access.grant.orders-prod");
    assert_eq!(event.id(), "e-1");
    assert_eq!(event.json()["type"], "postern.access.grant.v1");
    assert_eq!(event.json()["data"]["permissions"][0]["schema"], "sales");
    assert_eq!(event.json()["data"]["revision"], 2);
}

#[tokio::test]
async fn stage_lays_differences_over_the_plain_configuration() -> Result<()> {
    let builder = Stage::builder().policy("roles = ['reporting']").integration("second", "database = 'orders'");
    let stage = builder.config("[worker]\nmax_attempts = 2").start().await?;
    let config: toml::Table = stage.config().parse()?;
    let integration = &config["integrations"][INTEGRATION];
    assert_eq!(integration["policy"]["roles"][0].as_str(), Some("reporting"));
    assert_eq!(integration["policy"]["access"].as_array().map(Vec::len), Some(3));
    assert_eq!(config["integrations"]["second"]["port"].as_integer(), Some(i64::from(stage.pg.port())));
    assert_eq!(config["worker"]["max_attempts"].as_integer(), Some(2));
    assert_eq!(config["worker"]["listen"].as_str(), Some("127.0.0.1:0"));
    stage.finish().await
}

#[tokio::test]
async fn stage_finds_a_secret_that_was_written_to_a_log() -> Result<()> {
    let stage = Stage::start().await?;
    stage.keep_secret("open sesame");
    stage.pg.admin("orders").await?.batch_execute("SELECT 'open sesame'").await?;
    let found = stage.finish().await;
    assert!(found.is_err_and(|error| error.to_string().contains("PostgreSQL's log")));
    Ok(())
}

#[tokio::test]
async fn worker_is_found_by_the_address_it_logs_and_ends_on_a_signal() -> Result<()> {
    // Stands in for the worker: says where it listens and takes a moment to drain.
    const SCRIPT: &str =
        "#!/bin/sh\ntrap 'echo draining; exit 7' TERM\necho INFO listening addr=127.0.0.1:4711\nwhile :; do sleep 0.05; done\n";
    let scratch = Scratch::new("fake")?;
    let script = scratch.write_private("worker", SCRIPT)?;
    std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o700))?;
    let mut worker = Worker::spawn(&script, "", &[])?;
    while worker.address().is_none() {
        tokio::time::sleep(process::POLL).await;
    }
    assert_eq!(worker.address().map(|address| address.port()), Some(4711));
    assert!(worker.rss_kib()? > 0);
    assert_eq!(worker.terminate().await?.code(), Some(7));
    assert!(worker.log().ends_with("draining\n"));
    Ok(())
}
