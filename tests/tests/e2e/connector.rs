//! Another account takes the connector's place and goes on with everything the old one made.

use anyhow::{Context, Result, ensure};
use jiff::SignedDuration;
use postern_tests::broker::Message;
use postern_tests::events::{Event, cleanup, cleanup_principal, grant, revoke_all, revoke_grant, rotate_principal};
use postern_tests::postgres::CONNECTOR;
use postern_tests::stage::{INTEGRATION, Stage};
use postern_tests::worker::{Worker, binary, run_cli};
use postern_tests::{audit, process};
use serde_json::Value;

use crate::{allowed, denied, ended, explained};

const SUCCESSOR: &str = "gate two";

/// Makes the account as the bootstrap does, without the membership in the owner role, and closes the old one.
async fn bootstrap(stage: &Stage) -> Result<()> {
    let admin = stage.pg.version().platform().admin_role();
    let password = stage.pg.connector_password();
    let sql = format!("CREATE ROLE \"{SUCCESSOR}\" LOGIN CREATEROLE; GRANT {admin} TO \"{SUCCESSOR}\"");
    stage.pg.admin("postgres").await?.batch_execute(&sql).await?;
    // The old one's verifier, because the harness looks for the password in the server's log.
    let verifier = "SELECT rolpassword FROM pg_authid WHERE rolname = $1";
    let superuser = stage.pg.superuser("postgres").await?;
    let verifier: String = superuser.query_one(verifier, &[&CONNECTOR]).await?.get(0);
    superuser.batch_execute(&format!("ALTER ROLE \"{SUCCESSOR}\" PASSWORD '{verifier}'; ALTER ROLE {CONNECTOR} NOLOGIN")).await?;
    drop(stage.pg.login(SUCCESSOR, password, "postgres").await?);
    Ok(())
}

fn config(stage: &Stage) -> String {
    stage.config().replace(&format!("\"{CONNECTOR}\""), &format!("\"{SUCCESSOR}\""))
}

/// Ends the old worker and starts one that works as the new account.
async fn replace_worker(stage: &mut Stage) -> Result<()> {
    for worker in &mut stage.workers {
        if worker.is_running() {
            worker.terminate().await?;
        }
    }
    let config = config(stage);
    ensure!(config.contains(SUCCESSOR), "{config}");
    stage.workers.push(Worker::spawn(&binary()?, &config, &[])?);
    stage.workers.last_mut().context("no worker")?.ready().await
}

/// What an operator runs to be rid of the old account: in every database.
async fn drop_old(stage: &Stage) -> Result<()> {
    for database in ["orders", "postgres"] {
        stage.pg.superuser(database).await?.batch_execute(&format!("DROP OWNED BY {CONNECTOR}")).await?;
    }
    Ok(stage.pg.superuser("postgres").await?.batch_execute(&format!("DROP ROLE {CONNECTOR}")).await?)
}

fn reads(stage: &Stage, id: &str, who: &str) -> Event {
    grant(INTEGRATION, id, who).schema("orders", "sales", "read_only").age(&stage.identity.recipient())
}

async fn goes_on(drop_old_account: bool) -> Result<()> {
    let mut stage = Stage::start().await?;
    stage.workers(1).await?;
    for who in ["jane", "kim", "lee", "max", "sue"] {
        stage.expect(&reads(&stage, who, who), "succeeded").await?;
    }
    let short = reads(&stage, "short", "eve").expires_in(SignedDuration::from_secs(8));
    stage.expect(&short, "succeeded").await?;
    let hr = grant(INTEGRATION, "hr", "jane").tables("orders", "hr", &["salaries"], "read_write");
    stage.expect(&hr, "succeeded").await?;

    bootstrap(&stage).await?;
    let superuser = stage.pg.superuser("orders").await?;
    superuser.batch_execute(&format!("GRANT postern_owner TO \"{SUCCESSOR}\"")).await?;
    if drop_old_account {
        drop_old(&stage).await?;
    }
    replace_worker(&mut stage).await?;
    // What the old account had granted to bundles may have gone with it: any grant puts it right.
    let result = stage.expect(&reads(&stage, "new", "nora"), "succeeded").await?;
    allowed(&stage.login_as(&result).await?, "SELECT * FROM sales.invoices").await?;
    let rotated = stage.expect(&rotate_principal(INTEGRATION, "jane", &stage.identity.recipient()), "succeeded").await?;
    let credential = stage.credential(&rotated)?;
    let jane = stage.pg.login(&credential.username, &credential.password, "orders").await?;
    allowed(&jane, "SELECT * FROM sales.invoices; UPDATE hr.salaries SET amount = 1").await?;

    stage.expect(&revoke_grant(INTEGRATION, "hr"), "succeeded").await?;
    let jane = stage.pg.login(&credential.username, &credential.password, "orders").await?;
    denied(&jane, "SELECT * FROM hr.salaries").await?;
    let expired = |message: &Message| message.data()["reason"]["code"] == "expired" && message.data()["grant_id"] == "short";
    stage.audit.wait_where(expired, audit::TIMEOUT).await?;
    assert!(ended(&superuser, "eve").await?);
    let left = stage.expect(&cleanup_principal(INTEGRATION, "kim"), "succeeded").await?;
    ensure!(left["changes"].to_string().contains("drop_role"), "{left:#}");
    let all = stage.expect(&revoke_all(INTEGRATION), "succeeded").await?;
    assert_eq!(all["ended_total"], 5, "{all:#}");
    let cleaned = stage.expect(&cleanup(INTEGRATION), "succeeded").await?;
    assert_eq!(cleaned["blocked_total"], 0, "{cleaned:#}");
    ensure!(cleaned["changes"].to_string().contains("drop_bundle"), "{cleaned:#}");
    explained(&stage).await?;
    let left: i64 = superuser.query_one("SELECT count(*) FROM pg_roles WHERE rolname LIKE 'postern:%'", &[]).await?.get(0);
    assert_eq!(left, 0);
    stage.finish().await
}

#[tokio::test]
async fn a_replaced_connector_goes_on_while_the_old_one_may_not_log_in() -> Result<()> {
    goes_on(false).await
}

#[tokio::test]
async fn a_replaced_connector_goes_on_after_the_old_one_was_dropped() -> Result<()> {
    goes_on(true).await
}

#[tokio::test]
async fn without_the_owner_role_nothing_is_done_until_an_operator_runs_what_check_prints() -> Result<()> {
    let mut stage = Stage::start().await?;
    stage.workers(1).await?;
    stage.expect(&reads(&stage, "1", "jane"), "succeeded").await?;
    bootstrap(&stage).await?;
    replace_worker(&mut stage).await?;
    let superuser = stage.pg.superuser("postgres").await?;
    let everything = "SELECT (SELECT count(*) FROM postern.event) || ' ' || (SELECT count(*) FROM pg_roles) || ' ' || (SELECT count(*) FROM pg_auth_members)";
    let before: String = superuser.query_one(everything, &[]).await?.get(0);
    let (asked, revoke) = (reads(&stage, "2", "kim"), revoke_grant(INTEGRATION, "1"));
    stage.publish(&asked).await?;
    stage.publish(&revoke).await?;
    let worker = stage.workers.last().context("no worker")?;
    let deadline = std::time::Instant::now() + audit::TIMEOUT;
    while worker.log().matches("permission_missing").count() < 4 {
        ensure!(std::time::Instant::now() < deadline, "{}", stage.worker_logs());
        tokio::time::sleep(process::POLL).await;
    }
    let after: String = superuser.query_one(everything, &[]).await?.get(0);
    assert_eq!(before, after, "nothing is half done");

    let file = stage.scratch().write_private("successor.toml", &config(&stage))?;
    let output = run_cli(&file, &["check", INTEGRATION, "--json"], &[]).await?;
    let items: Value = serde_json::from_slice(&output.stdout)?;
    let owner = items.as_array().and_then(|items| items.iter().find(|item| item["item"] == "owner")).context("no item")?;
    let statement = owner["mend"][1].as_str().context("no statement")?;
    ensure!(statement.starts_with(&format!("GRANT \"postern_owner\" TO \"{SUCCESSOR}\"")), "{owner:#}");
    superuser.batch_execute(statement).await?;
    assert_eq!(stage.result_of(&asked).await?["outcome"], "succeeded");
    assert_eq!(stage.result_of(&revoke).await?["outcome"], "succeeded");
    explained(&stage).await?;
    stage.finish().await
}

#[tokio::test]
async fn existing_roles_are_handed_on_so_that_a_replaced_connector_takes_them_back() -> Result<()> {
    let mut stage = Stage::builder().policy("roles = ['reporting']").start().await?;
    stage.pg.create_handable_role("reporting").await?;
    stage.workers(1).await?;
    let recipient = stage.identity.recipient();
    let asked = |id: &str, who: &str| grant(INTEGRATION, id, who).schema("orders", "sales", "read_only").role("reporting").age(&recipient);
    for who in ["jane", "kim"] {
        stage.expect(&asked(who, who), "succeeded").await?;
    }
    let superuser = stage.pg.superuser("postgres").await?;
    let inherits: bool = superuser.query_one("SELECT pg_has_role('postern_owner', 'reporting', 'USAGE')", &[]).await?.get(0);
    assert!(!inherits, "the owner role hands it on and has nothing of it");
    if stage.pg.version().major() >= 16 {
        // As versions before handed it on.
        superuser.batch_execute("REVOKE reporting FROM kim GRANTED BY postern_owner").await?;
        stage
            .pg
            .connector("postgres")
            .await?
            .batch_execute("GRANT reporting TO kim WITH INHERIT TRUE, SET FALSE GRANTED BY postern_connector")
            .await?;
    }
    bootstrap(&stage).await?;
    superuser.batch_execute(&format!("GRANT postern_owner TO \"{SUCCESSOR}\"")).await?;
    replace_worker(&mut stage).await?;
    let member = async |who: &str| -> Result<bool> {
        Ok(superuser.query_one("SELECT pg_has_role($1::name, 'reporting', 'MEMBER')", &[&who]).await?.get(0))
    };
    stage.expect(&asked("nora", "nora"), "succeeded").await?;
    assert!(member("nora").await?);
    let result = stage.expect(&revoke_grant(INTEGRATION, "jane"), "succeeded").await?;
    assert!(!member("jane").await? && result["reason"].is_null(), "{result:#}");

    let result = stage.expect(&revoke_grant(INTEGRATION, "kim"), "succeeded").await?;
    if stage.pg.version().major() >= 16 {
        assert_eq!(result["reason"]["code"], "permission_missing", "{result:#}");
        let message = result["reason"]["message"].as_str().context("no message")?;
        let (_, statement) = message.split_once(": ").context("no statement")?;
        superuser.batch_execute(statement).await.with_context(|| statement.to_owned())?;
    }
    assert!(!member("kim").await?);
    assert!(ended(&superuser, "kim").await?);

    // Without the old account nobody can hand it on, until the new one is given it.
    drop_old(&stage).await?;
    if stage.pg.version().major() >= 16 {
        let refused = stage.expect(&asked("omar", "omar"), "rejected").await?;
        assert_eq!(refused["reason"]["code"], "permission_missing", "{refused:#}");
        let admin = stage.pg.admin("postgres").await?;
        admin.batch_execute(&format!("GRANT reporting TO \"{SUCCESSOR}\" WITH ADMIN OPTION")).await?;
    }
    stage.expect(&asked("pia", "pia"), "succeeded").await?;
    for who in ["pia", "nora"] {
        stage.expect(&revoke_grant(INTEGRATION, who), "succeeded").await?;
        assert!(!member(who).await?, "{who}");
    }
    explained(&stage).await?;
    stage.finish().await
}
