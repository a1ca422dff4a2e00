//! The command line: what each command prints, changes and exits with.

mod check;

use std::process::{Output, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use jiff::SignedDuration;
use postern_tests::broker::properties;
use postern_tests::events::{Event, grant};
use postern_tests::process::{self, Signal};
use postern_tests::rabbit::Rabbit;
use postern_tests::stage::{INTEGRATION, Stage};
use postern_tests::worker::{self, run_cli};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStderr, ChildStdout, Command};

const TIMEOUT: Duration = Duration::from_secs(30);

fn out(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn err(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

pub(crate) fn json(output: &Output) -> Result<Value> {
    serde_json::from_slice(&output.stdout).with_context(|| format!("not JSON: {}{}", out(output), err(output)))
}

/// Runs a command, which has to exit with `code`.
async fn cli(stage: &Stage, code: i32, args: &[&str]) -> Result<Output> {
    exits(stage.cli(args).await?, code, args)
}

pub(crate) fn exits(output: Output, code: i32, args: &[&str]) -> Result<Output> {
    ensure!(
        output.status.code() == Some(code),
        "postern {} exited with {}, expected {code}:\n{}{}",
        args.join(" "),
        output.status,
        out(&output),
        err(&output)
    );
    Ok(output)
}

fn event_file(stage: &Stage, name: &str, event: &Event) -> Result<String> {
    Ok(stage.scratch().write_private(name, &event.json().to_string())?.display().to_string())
}

/// Everything that Postern could change in the cluster: roles with their passwords, memberships, comments, privileges,
/// and every row and sequence of the ledger.
async fn everything(stage: &Stage) -> Result<String> {
    const SHARED: &str = "SELECT coalesce(string_agg(line, E'\\n' ORDER BY line), '') FROM (
        SELECT a::text AS line FROM pg_authid a UNION ALL SELECT m::text FROM pg_auth_members m
        UNION ALL SELECT d::text FROM pg_shdescription d UNION ALL SELECT d.datname || coalesce(d.datacl::text, '') FROM pg_database d
        UNION ALL SELECT c.oid::regclass || coalesce(c.relacl::text, '') FROM pg_class c WHERE c.relkind IN ('r', 'v', 'S')
        UNION ALL SELECT n.nspname || coalesce(n.nspacl::text, '') FROM pg_namespace n WHERE n.nspname !~ '^pg_(toast_)?temp_'
        UNION ALL SELECT s.sequencename || coalesce(s.last_value, 0) FROM pg_sequences s) AS lines";
    let mut text = String::new();
    for database in ["postgres", "orders"] {
        let client = stage.pg.superuser(database).await?;
        text += client.query_one(SHARED, &[]).await?.get(0);
        let tables = "SELECT c.relname::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = 'postern' AND c.relkind = 'r' ORDER BY 1";
        for table in client.query(tables, &[]).await? {
            let table: String = table.get(0);
            let rows = format!("SELECT coalesce(string_agg(t::text, E'\\n' ORDER BY t::text), '') FROM postern.{table} t");
            text += client.query_one(&rows, &[]).await?.get(0);
        }
    }
    Ok(text)
}

#[tokio::test]
async fn plan_shows_the_statements_and_changes_nothing() -> Result<()> {
    let stage = Stage::start().await?;
    let recipient = stage.identity.recipient();
    let asked = grant(INTEGRATION, "AR-1", "jane").tables("orders", "sales", &["invoices"], "read_only").age(&recipient);
    let file = event_file(&stage, "event.json", &asked)?;
    let before = everything(&stage).await?;
    let output = cli(&stage, 0, &["plan", &file]).await?;
    ensure!(out(&output).contains("ledger"), "{}", out(&output));
    ensure!(everything(&stage).await? == before, "plan on a server without a ledger changed something");

    let other = grant(INTEGRATION, "AR-0", "lee").schema("orders", "sales", "read_only").age(&recipient);
    cli(&stage, 0, &["apply", &event_file(&stage, "other.json", &other)?]).await?;
    let before = everything(&stage).await?;
    let shown = out(&cli(&stage, 0, &["plan", &file]).await?);
    for expected in ["CREATE ROLE \"jane\" LOGIN PASSWORD '‹password›'", "GRANT \"", " TO \"jane\""] {
        ensure!(shown.contains(expected), "{expected} not in\n{shown}");
    }
    ensure!(!shown.contains("SCRAM-SHA-256"), "{shown}");
    ensure!(everything(&stage).await? == before, "plan changed something");

    cli(&stage, 0, &["apply", &file]).await?;
    let shown = out(&cli(&stage, 0, &["plan", &file]).await?);
    ensure!(shown.contains("carried out before"), "{shown}");
    stage.finish().await
}

#[tokio::test]
async fn apply_needs_no_broker_and_answers_a_repeat_alike() -> Result<()> {
    let stage = Stage::start().await?;
    let no_broker = [("POSTERN_BROKER_URL", "amqp://nobody:nothing@127.0.0.1:1/%2f")];
    let asked = grant(INTEGRATION, "AR-1", "jane").schema("orders", "sales", "read_only").age(&stage.identity.recipient());
    let file = event_file(&stage, "event.json", &asked)?;
    let args = ["apply", file.as_str()];
    let apply = async || exits(run_cli(stage.config_file(), &args, &no_broker).await?, 0, &args);
    let result = json(&apply().await?)?;
    assert_eq!((&result["data"]["outcome"], &result["data"]["final"]), (&"succeeded".into(), &true.into()));
    stage.login_as(&result["data"]).await?.batch_execute("SELECT * FROM sales.lines").await?;
    let again = json(&apply().await?)?;
    assert_eq!((&again["id"], &again["data"]["credential"]), (&result["id"], &result["data"]["credential"]));

    let wrong = event_file(&stage, "wrong.json", &grant(INTEGRATION, "AR-2", "jane"))?;
    let rejected = json(&cli(&stage, 1, &["apply", &wrong]).await?)?;
    assert_eq!(rejected["data"]["reason"]["code"], "invalid_event");
    stage.finish().await
}

/// `postern watch` in the background.
struct Watch {
    child: Child,
    results: Lines<BufReader<ChildStdout>>,
    notes: Lines<BufReader<ChildStderr>>,
}

impl Watch {
    /// Returns when it follows.
    async fn start(stage: &Stage, args: &[&str]) -> Result<Self> {
        let mut child = Command::new(worker::binary()?)
            .arg("watch")
            .args(args)
            .arg("--config")
            .arg(stage.config_file())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let results = BufReader::new(child.stdout.take().context("no stdout")?).lines();
        let notes = BufReader::new(child.stderr.take().context("no stderr")?).lines();
        let mut watch = Self { child, results, notes };
        let note = watch.note().await?;
        ensure!(note.starts_with("following audit."), "{note}");
        Ok(watch)
    }

    async fn result(&mut self) -> Result<String> {
        tokio::time::timeout(TIMEOUT, self.results.next_line()).await?.map(Option::unwrap_or_default).context("no result")
    }

    async fn note(&mut self) -> Result<String> {
        tokio::time::timeout(TIMEOUT, self.notes.next_line()).await?.map(Option::unwrap_or_default).context("no note")
    }

    /// Interrupts it, as Ctrl-C does.
    async fn stop(mut self) -> Result<()> {
        process::signal(self.child.id().context("it has ended")?, Signal::INT)?;
        let status = tokio::time::timeout(TIMEOUT, self.child.wait()).await??;
        ensure!(status.code() == Some(0), "{status}");
        Ok(())
    }
}

#[tokio::test]
async fn send_watch_and_ledger_tell_one_story() -> Result<()> {
    let mut stage = Stage::start().await?;
    let permission = ["--permission", "orders.sales.invoices,lines:read_only"];
    let sent =
        ["send", "grant", "--integration", INTEGRATION, "--grant-id", "AR-7", "--principal", "Jane@example.com", "--expires-in", "2h"];
    let sent = [&sent[..], &permission].concat();

    // No worker was ever there: nothing would take the event.
    let refused = cli(&stage, 1, &sent).await?;
    ensure!(err(&refused).contains("postern run"), "{}", err(&refused));
    let ledger = cli(&stage, 0, &["ledger", INTEGRATION, "--json"]).await?;
    assert_eq!(json(&ledger)?, Value::Array(Vec::new()));
    ensure!(err(&ledger).contains("no ledger yet"), "{}", err(&ledger));

    stage.workers(1).await?;
    let mut all = Watch::start(&stage, &["--json"]).await?;
    let mut rejections = Watch::start(&stage, &["--outcome", "rejected", "--integration", INTEGRATION]).await?;
    let recipient = stage.identity.recipient();
    let result = json(&cli(&stage, 0, &[&sent[..], &["--wait", "--age", &recipient]].concat()).await?)?;
    assert_eq!((&result["data"]["outcome"], &result["data"]["event_source"]), (&"succeeded".into(), &"//postern/send".into()));
    stage.login_as(&result["data"]).await?.batch_execute("SELECT * FROM sales.lines").await?;
    let watched: Value = serde_json::from_str(&all.result().await?)?;
    assert_eq!((&watched["id"], &watched["data"]["grant_id"]), (&result["id"], &"AR-7".into()));

    let held = json(&cli(&stage, 0, &["ledger", INTEGRATION, "--json"]).await?)?;
    assert_eq!(held.as_array().map(Vec::len), Some(1));
    assert_eq!((&held[0]["state"], &held[0]["role"], &held[0]["revision"]), (&"active".into(), &"jane@example.com".into(), &1.into()));
    assert_eq!((&held[0]["permissions"][0]["tables"][1], &held[0]["expires_at"].is_string()), (&"lines".into(), &true));
    let shown = out(&cli(&stage, 0, &["ledger", INTEGRATION]).await?);
    ensure!(shown.lines().count() == 2 && shown.contains("orders.sales.invoices,lines:read_only"), "{shown}");

    // Without --wait the id is printed, under which the result comes.
    let revoke = ["send", "revoke", "--integration", INTEGRATION, "--principal", "jane@example.com", "--reason", "left early"];
    let id = out(&cli(&stage, 0, &revoke).await?);
    assert_eq!(stage.audit.wait_for(id.trim()).await?["outcome"], "succeeded");
    let held = json(&cli(&stage, 0, &["ledger", INTEGRATION, "--json"]).await?)?;
    assert_eq!((held.as_array().map(Vec::len), &held[0]["state"]), (Some(1), &"without_access".into()));
    let held = json(&cli(&stage, 0, &["ledger", INTEGRATION, "--json", "--all"]).await?)?;
    assert_eq!((&held[0]["state"], &held[1]["state"]), (&"swept".into(), &"without_access".into()));
    cli(&stage, 0, &["ledger", INTEGRATION, "--all"]).await?;

    // What is rejected fails the command, also where no worker knows the integration.
    let denied =
        ["send", "grant", "--wait", "--integration", INTEGRATION, "--grant-id", "AR-8", "--principal", "lee", "--role", "postgres"];
    let result = json(&cli(&stage, 1, &denied).await?)?;
    assert_eq!(result["data"]["reason"]["code"], "policy_denied");
    let line = rejections.result().await?;
    ensure!(line.contains("  grant    rejected   orders-prod  lee  AR-8  policy_denied: "), "{line}");
    let unknown = json(&cli(&stage, 1, &["send", "cleanup", "--wait", "--integration", "nowhere"]).await?)?;
    assert_eq!(unknown["data"]["reason"]["code"], "unknown_integration");

    // A file goes out as it is.
    let event = grant(INTEGRATION, "AR-9", "lee").schema("orders", "hr", "read_only");
    let file = event_file(&stage, "event.json", &event)?;
    let result = json(&cli(&stage, 0, &["send", "--wait", "file", &file]).await?)?;
    assert_eq!(result["data"]["event_id"], event.id());

    all.stop().await?;
    rejections.stop().await?;
    stage.finish().await
}

#[tokio::test]
async fn send_that_waits_in_vain_says_that_the_event_is_on_its_way() -> Result<()> {
    let mut stage = Stage::start().await?;
    stage.workers(1).await?;
    stage.workers[0].terminate().await?;
    let output = cli(&stage, 1, &["send", "cleanup", "--integration", INTEGRATION, "--wait", "--timeout", "1s", "--id", "late-1"]).await?;
    ensure!(err(&output).contains("no result of event late-1 within 1 s"), "{}", err(&output));
    stage.workers(1).await?;
    assert_eq!(stage.audit.wait_for("late-1").await?["verb"], "cleanup");
    stage.finish().await
}

#[tokio::test]
async fn watch_goes_on_after_the_broker_was_away() -> Result<()> {
    let mut rabbit = Rabbit::start().await?;
    let mut stage = Stage::builder().broker(&rabbit.amqp_url()).start().await?;
    stage.workers(1).await?;
    let mut watch = Watch::start(&stage, &["--json"]).await?;
    rabbit.restart().await?;
    let note = watch.note().await?;
    ensure!(note.contains("following again"), "{note}");
    // Its queue went with its connection, so what is published before it is back is not seen: send until one is.
    let seen = async {
        loop {
            // The worker may not be back either.
            stage.cli(&["send", "revoke", "--integration", INTEGRATION, "--grant-id", "none", "--wait", "--timeout", "5s"]).await?;
            if let Ok(line) = tokio::time::timeout(Duration::from_millis(100), watch.results.next_line()).await {
                return anyhow::Ok(line?.unwrap_or_default());
            }
        }
    };
    let line = tokio::time::timeout(2 * TIMEOUT, seen).await??;
    assert_eq!(serde_json::from_str::<Value>(&line)?["data"]["grant_id"], "none");
    watch.stop().await?;
    stage.finish().await
}

#[tokio::test]
async fn schemas_are_printed_without_a_configuration() -> Result<()> {
    let stage = Stage::start().await?;
    let nowhere = std::path::Path::new("/nonexistent/postern.toml");
    let schema = async |code: i32, args: &[&str]| exits(run_cli(nowhere, args, &[]).await?, code, args);
    let names = out(&schema(0, &["schema"]).await?);
    assert_eq!(names.lines().next(), Some("grant.v1"));
    for name in names.lines() {
        let printed = json(&schema(0, &["schema", name]).await?)?;
        ensure!(printed.get("$schema").or(printed.get("asyncapi")).is_some(), "{name}: {printed}");
    }
    let dir = stage.scratch().join("schemas").display().to_string();
    let written = out(&schema(0, &["schema", "--all", &dir]).await?);
    ensure!(written.lines().count() > 7 && written.lines().all(|path| std::path::Path::new(path).is_file()), "{written}");
    let unknown = schema(2, &["schema", "grant.v9"]).await?;
    ensure!(err(&unknown).contains("grant.v1"), "{}", err(&unknown));
    stage.finish().await
}

#[tokio::test]
async fn exit_codes_tell_whose_mistake_it_is() -> Result<()> {
    let stage = Stage::start().await?;
    for args in [&["send"][..], &["ledger"], &["dead", "drop"], &["nonsense"], &["watch", "--verb", "nonsense"], &["ledger", "Not An Id"]] {
        cli(&stage, 2, args).await?;
    }
    let invalid = ["send", "grant", "--dry-run", "--integration", "Orders", "--grant-id", "g", "--principal", "p", "--revision", "0"];
    let mistakes = err(&cli(&stage, 2, &invalid).await?);
    for path in ["data.integration: ", "data.revision: ", "data.permissions: "] {
        ensure!(mistakes.contains(path), "{path} not in {mistakes}");
    }
    let valid = ["send", "rotate", "--dry-run", "--integration", INTEGRATION, "--connector"];
    assert_eq!(json(&cli(&stage, 0, &valid).await?)?["data"]["connector"], true);
    let unknown = cli(&stage, 1, &["ledger", "elsewhere"]).await?;
    ensure!(err(&unknown).contains("known: orders-prod"), "{}", err(&unknown));

    let wrong = stage.scratch().write_private("wrong.toml", "[broker]\nurl = 'http://x'\nprefecth = 1\n")?;
    for (config, expected) in [(wrong.as_path(), "broker.prefecth"), (std::path::Path::new("/nonexistent/postern.toml"), "cannot be read")]
    {
        for args in [&["check"][..], &["watch"], &["dead", "list"], &["run"], &["send", "cleanup", "--integration", "x"]] {
            let output = exits(run_cli(config, args, &[]).await?, 78, args)?;
            ensure!(err(&output).contains(expected), "{}", err(&output));
        }
    }
    stage.finish().await
}

#[tokio::test]
async fn the_dead_are_listed_shown_replayed_and_dropped() -> Result<()> {
    let mut stage = Stage::start().await?;
    stage.workers(1).await?;
    let list = async || -> Result<Vec<Value>> { Ok(serde_json::from_value(json(&cli(&stage, 0, &["dead", "list", "--json"]).await?)?)?) };
    let rejections = async |count: usize| {
        let rejected = |m: &postern_tests::broker::Message| m.data()["reason"]["code"] == "invalid_event";
        stage.audit.wait_until(TIMEOUT, |all| (all.iter().filter(|m| rejected(m)).count() >= count).then_some(())).await
    };
    assert_eq!(list().await?.len(), 0);
    let body = b"\xff not { an event \x1b[2J";
    stage.broker.publish_raw(body, "access.grant.orders-prod", properties("raw-1")).await?;
    rejections(1).await?;

    // Looking does not take it away.
    let mut listed = list().await?;
    while listed.is_empty() {
        listed = list().await?;
    }
    assert_eq!(list().await?, listed);
    let dead = &listed[0];
    assert_eq!(
        (&dead["reason"], &dead["routing_key"], &dead["event"]),
        (&"invalid_event".into(), &"access.grant.orders-prod".into(), &"raw-1".into())
    );
    let id = dead["id"].as_str().context("no id")?;
    let shown = out(&cli(&stage, 0, &["dead", "list"]).await?);
    ensure!(shown.lines().count() == 2 && shown.contains(id), "{shown}");
    assert_eq!(cli(&stage, 0, &["dead", "show", id, "--body"]).await?.stdout, body);
    assert_eq!(json(&cli(&stage, 0, &["dead", "show", id]).await?)?["headers"]["postern-reason"], "invalid_event");

    // It comes back as it was, and is found wrong again.
    assert_eq!(out(&cli(&stage, 0, &["dead", "replay", id]).await?).trim(), id);
    rejections(2).await?;
    let mut listed = list().await?;
    while listed.is_empty() {
        listed = list().await?;
    }
    assert_eq!(listed.len(), 1);
    let id = listed[0]["id"].as_str().context("no id")?;
    assert_eq!(cli(&stage, 0, &["dead", "show", id, "--body"]).await?.stdout, body);

    assert_eq!(out(&cli(&stage, 0, &["dead", "drop", id]).await?).trim(), id);
    assert_eq!(list().await?.len(), 0);
    let gone = cli(&stage, 1, &["dead", "drop", id]).await?;
    ensure!(err(&gone).contains(id), "{}", err(&gone));
    cli(&stage, 1, &["dead", "show", id]).await?;
    for all in [["dead", "replay", "--all"], ["dead", "drop", "--all"]] {
        ensure!(out(&cli(&stage, 0, &all).await?).is_empty());
    }
    cli(&stage, 2, &["dead", "drop", "--all", id]).await?;
    stage.finish().await
}

#[tokio::test]
async fn an_event_that_was_given_up_is_carried_out_when_it_is_replayed() -> Result<()> {
    // Given up at the first try, because the connector lacks a right; replayed when it has it.
    let mut stage = Stage::builder().config("[worker]\nmax_attempts = 1\n").start().await?;
    stage.workers(1).await?;
    let superuser = stage.pg.superuser("postgres").await?;
    superuser.batch_execute("ALTER ROLE postern_connector NOCREATEROLE").await?;
    let asked = grant(INTEGRATION, "AR-1", "jane").schema("orders", "sales", "read_only").expires_in(SignedDuration::from_hours(1));
    stage.publish(&asked).await?;
    let failed = stage.audit.wait_where(|m| m.data()["event_id"] == asked.id() && m.data()["outcome"] == "failed", TIMEOUT).await?;
    assert_eq!(failed.data()["final"], false);
    superuser.batch_execute("ALTER ROLE postern_connector CREATEROLE").await?;
    while out(&cli(&stage, 0, &["dead", "replay", "--all"]).await?).is_empty() {}
    assert_eq!(stage.result_of(&asked).await?["outcome"], "succeeded");
    stage.finish().await
}
