//! Servers with settings of their own, and servers that take nobody in.

use anyhow::{Context, Result, ensure};
use postern_tests::audit::TIMEOUT;
use postern_tests::events::{cleanup, cleanup_principal, grant, revoke_grant};
use postern_tests::postgres::Postgres;
use postern_tests::stage::{INTEGRATION, Stage};
use serde_json::json;

use crate::{allowed, denied, explained};

/// Settings of the connector's sessions that Postern's own transactions must not depend on, and from which version.
const SETTINGS: [(u16, &str); 17] = [
    (14, "statement_timeout = '250ms'"),
    (14, "lock_timeout = '1ms'"),
    (14, "idle_in_transaction_session_timeout = '20ms'"),
    (14, "idle_session_timeout = '100ms'"),
    (17, "transaction_timeout = '250ms'"),
    (14, "default_transaction_read_only = on"),
    (14, "default_transaction_isolation = 'serializable'"),
    (14, "synchronous_commit = off"),
    (14, "search_path = 'trap'"),
    (14, "role = 'weak'"),
    (14, "standard_conforming_strings = off"),
    (14, "datestyle = 'SQL, DMY'"),
    (14, "timezone = 'Asia/Kathmandu'"),
    (14, "intervalstyle = 'sql_standard'"),
    (14, "bytea_output = 'escape'"),
    (14, "row_security = off"),
    (16, "createrole_self_grant = 'set, inherit'"),
];

/// Makes every grant slow, and fails where a result could be lost by a crash.
const WATCH: &str = "
    CREATE FUNCTION public.watch() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
      IF current_setting('synchronous_commit') = 'off' THEN RAISE 'a result could be lost'; END IF;
      IF current_user <> 'postern_connector' THEN RAISE 'as %', current_user; END IF;
      PERFORM pg_sleep(0.3); RETURN NULL; END $$;
    CREATE TRIGGER watch AFTER INSERT ON postern.access_grant EXECUTE FUNCTION public.watch()";

#[tokio::test]
async fn postern_sets_what_it_relies_on() -> Result<()> {
    let mut stage = Stage::start().await?;
    stage.workers(1).await?;
    let superuser = stage.pg.superuser("postgres").await?;
    superuser
        .batch_execute(
            "CREATE ROLE weak; GRANT weak TO postern_connector;
             CREATE SCHEMA trap; GRANT USAGE ON SCHEMA trap TO PUBLIC;
             CREATE FUNCTION trap.now() RETURNS timestamptz LANGUAGE sql AS 'SELECT timestamptz ''1970-01-01''';
             CREATE VIEW trap.pg_roles AS SELECT 1 AS oid; GRANT SELECT ON trap.pg_roles TO PUBLIC",
        )
        .await?;
    stage.expect(&grant(INTEGRATION, "first", "first").database("orders", "read_only"), "succeeded").await?;
    superuser.batch_execute(WATCH).await?;
    let major = stage.pg.version().major();
    for (index, (_, setting)) in SETTINGS.iter().enumerate().filter(|(_, (since, _))| *since <= major) {
        superuser.batch_execute(&format!("ALTER ROLE postern_connector SET {setting}")).await?;
        let ending = "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE usename = 'postern_connector'";
        superuser.query(ending, &[]).await?;
        story(&stage, &stage.pg, &format!(r"o'neil\{index}")).await.with_context(|| format!("with {setting}"))?;
        if major >= 16 {
            let joined = "SELECT count(*) FROM pg_auth_members m JOIN pg_roles r ON r.oid = m.roleid \
                          WHERE r.rolname LIKE 'o''neil%' AND (m.inherit_option OR m.set_option)";
            assert_eq!(superuser.query_one(joined, &[]).await?.get::<_, i64>(0), 0, "nobody joins a person's role: {setting}");
        }
        superuser.batch_execute("ALTER ROLE postern_connector RESET ALL").await?;
    }
    explained(&stage).await?;
    stage.finish().await
}

/// Grant, login, revoke, clean-up; one attempt each.
async fn story(stage: &Stage, pg: &Postgres, who: &str) -> Result<()> {
    let asked = grant(INTEGRATION, who, who).schema("orders", "sales", "read_only").age(&stage.identity.recipient());
    let granted = stage.expect(&asked, "succeeded").await?;
    let credential = stage.credential(&granted)?;
    let session = pg.login(&credential.username, &credential.password, "orders").await?;
    allowed(&session, "SELECT * FROM sales.invoices").await?;
    denied(&session, "DELETE FROM sales.invoices").await?;
    let revoked = stage.expect(&revoke_grant(INTEGRATION, who), "succeeded").await?;
    assert_eq!(revoked["sessions_terminated"], 1, "{revoked:#}");
    ensure!(session.batch_execute("SELECT 1").await.is_err());
    let cleaned = stage.expect(&cleanup_principal(INTEGRATION, who), "succeeded").await?;
    for result in [&granted, &revoked, &cleaned] {
        assert_eq!(result["attempt"], 1, "{result:#}");
    }
    stage.send(&cleanup(INTEGRATION)).await?;
    Ok(())
}

/// What keeps the connector out, and what lets it in again.
const CLOSED: [(&str, &str); 4] = [
    ("ALTER DATABASE postgres RENAME TO elsewhere", "ALTER DATABASE elsewhere RENAME TO postgres"),
    ("UPDATE pg_database SET datallowconn = false WHERE datname = 'postgres'", "UPDATE pg_database SET datallowconn = true"),
    ("ALTER ROLE postern_connector CONNECTION LIMIT 0", "ALTER ROLE postern_connector CONNECTION LIMIT -1"),
    ("ALTER ROLE postern_connector NOLOGIN", "ALTER ROLE postern_connector LOGIN"),
];

#[tokio::test]
async fn a_server_that_takes_nobody_in_is_waited_for_without_counting_attempts() -> Result<()> {
    let mut stage = Stage::builder().config("[worker]\nmax_attempts = 1").start().await?;
    stage.workers(1).await?;
    let superuser = stage.pg.superuser("orders").await?;
    for (index, (close, open)) in CLOSED.into_iter().enumerate() {
        let ending = "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = 'postgres' AND pid <> pg_backend_pid()";
        let deadline = std::time::Instant::now() + TIMEOUT;
        // A database in use cannot be renamed.
        while let Err(error) = superuser.batch_execute(close).await {
            ensure!(std::time::Instant::now() < deadline, "{close}: {error}");
            superuser.query(ending, &[]).await?;
        }
        superuser.query(ending, &[]).await?;
        let seen = stage.workers[0].log().matches("target_unreachable").count();
        let asked = grant(INTEGRATION, &format!("closed-{index}"), "jane").database("orders", "read_only");
        stage.publish(&asked).await?;
        let deadline = std::time::Instant::now() + TIMEOUT;
        while stage.workers[0].log().matches("target_unreachable").count() < seen + 2 {
            ensure!(std::time::Instant::now() < deadline, "{close}: {}", stage.worker_logs());
            tokio::time::sleep(postern_tests::process::POLL).await;
        }
        assert!(stage.audit.all_for(asked.id()).is_empty(), "nothing is said while it waits: {close}");
        superuser.batch_execute(open).await?;
        let result = stage.result_of(&asked).await.context(close)?;
        assert_eq!((&result["outcome"], &result["attempt"]), (&json!("succeeded"), &json!(1)), "{close}: {result:#}");
    }
    stage.finish().await
}

#[tokio::test]
async fn a_server_without_a_free_connection_delays_its_own_events_alone() -> Result<()> {
    let mut stage = Stage::builder().integration("full", "").start().await?;
    let full = Postgres::start(stage.pg.version()).await?;
    stage.configure(&format!("[integrations.full]\nport = {}", full.port()))?;
    stage.workers(1).await?;
    full.superuser("postgres").await?.batch_execute("CREATE ROLE guest LOGIN PASSWORD 'guest'").await?;
    let mut guests = Vec::new();
    while let Ok(guest) = full.login("guest", "guest", "postgres").await {
        guests.push(guest);
    }
    let waiting = grant("full", "1", "jane").database("orders", "read_only");
    stage.publish(&waiting).await?;
    let began = std::time::Instant::now();
    for n in 0..10 {
        stage.expect(&grant(INTEGRATION, &n.to_string(), "jane").database("orders", "read_only"), "succeeded").await?;
    }
    ensure!(began.elapsed() < std::time::Duration::from_secs(15), "{:?}", began.elapsed());
    assert!(stage.audit.all_for(waiting.id()).is_empty());
    drop(guests);
    let result = stage.result_of(&waiting).await?;
    assert_eq!((&result["outcome"], &result["attempt"]), (&json!("succeeded"), &json!(1)));
    stage.finish().await
}

#[tokio::test]
async fn a_connection_limit_keeps_one_person_from_taking_all_connections() -> Result<()> {
    let mut stage = Stage::builder().integration(INTEGRATION, "connection_limit = 2").start().await?;
    stage.workers(1).await?;
    let asked = |id: &str| grant(INTEGRATION, id, "jane").database("orders", "read_only").age(&stage.identity.recipient());
    let credential = stage.credential(&stage.expect(&asked("1"), "succeeded").await?)?;
    let login = async || stage.pg.login(&credential.username, &credential.password, "orders").await;
    let (_first, _second) = (login().await?, login().await?);
    let third = login().await.err().context("a third session")?;
    assert_eq!(third.code().map(tokio_postgres::error::SqlState::code), Some("53300"));

    let superuser = stage.pg.superuser("postgres").await?;
    let limit =
        async || -> Result<i32> { Ok(superuser.query_one("SELECT rolconnlimit FROM pg_roles WHERE rolname = 'jane'", &[]).await?.get(0)) };
    superuser.batch_execute("ALTER ROLE jane CONNECTION LIMIT 1").await?;
    stage.send(&cleanup(INTEGRATION)).await?;
    assert_eq!(limit().await?, 1, "what a DBA set by hand stays until a grant");
    let granted = stage.expect(&asked("2"), "succeeded").await?;
    ensure!(granted["changes"].to_string().contains("set_connection_limit"), "{granted:#}");
    assert_eq!(limit().await?, 2);
    stage.finish().await
}
