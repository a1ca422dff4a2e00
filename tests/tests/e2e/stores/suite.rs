//! What every store has to do, in the product's hands.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use postern_tests::events::{Event, grant};
use postern_tests::stage::{INTEGRATION, Stage};
use postern_tests::stores::wire::State;
use postern_tests::stores::{Env, Store};
use postern_tests::worker::run_cli;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use toml::Table;

const CONNECTOR: &str = "postern_connector";
/// What no output may show.
const WRONG: &str = "hunter2-hunter2";
/// Far more than the worker gives a store, its server and the machine's load included.
const PATIENCE: Duration = Duration::from_secs(30);

pub(super) fn fresh() -> String {
    format!("pg-{}", uuid::Uuid::new_v4().simple())
}

fn body(username: &str, password: &str) -> String {
    json!({ "username": username, "password": password }).to_string()
}

fn borrowed(env: &Env) -> Vec<(&str, &str)> {
    env.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect()
}

/// `secret = { … }` for a place, with more keys of the integration after it.
pub(super) fn integration(place: &Value, username: Option<&str>, more: &str) -> Result<String> {
    let mut secret = Table::try_from(place)?;
    if let Some(username) = username {
        secret.insert("username".to_owned(), username.into());
    }
    Ok(format!("{more}\n{}", toml::to_string(&Table::from_iter([("secret".to_owned(), secret.into())]))?))
}

/// The item `secret` of `postern check`: whether it is well, its message and what mends it.
async fn check(stage: &Stage, integration: &str, env: &Env) -> Result<(bool, String, Vec<String>)> {
    let began = Instant::now();
    let output = run_cli(stage.config_file(), &["check", integration, "--json"], &borrowed(env)).await?;
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(began.elapsed() < PATIENCE, "check took {:?}", began.elapsed());
    ensure!(!format!("{output:?}").contains(WRONG), "a value is shown: {text}");
    let items: Value = serde_json::from_str(&text).with_context(|| format!("{output:?}"))?;
    let is_secret = |item: &&Value| item["item"] == "secret";
    let item = items.as_array().and_then(|items| items.iter().find(is_secret)).with_context(|| format!("no item `secret` in {text}"))?;
    let message = item["message"].as_str().context("no message")?.to_owned();
    Ok((item["status"] == "ok", message, serde_json::from_value(item["mend"].clone())?))
}

pub(super) async fn fails_with(stage: &Stage, integration: &str, env: &Env, expected: &str) -> Result<Vec<String>> {
    let (well, message, mend) = check(stage, integration, env).await?;
    ensure!(!well && message.contains(expected), "expected {expected:?}, met {message:?}");
    Ok(mend)
}

pub(super) async fn is_well(stage: &Stage, integration: &str, env: &Env) -> Result<()> {
    let (well, message, _) = check(stage, integration, env).await?;
    ensure!(well, "expected a secret that is well, met {message:?}");
    Ok(())
}

fn read_only(integration: &str, id: &str, who: &str) -> Event {
    grant(integration, id, who).schema("orders", "sales", "read_only")
}

pub(crate) async fn reads_what_is_there_and_says_what_is_wrong(store: &impl Store) -> Result<()> {
    let name = fresh();
    let place = store.place(&name);
    let stage = Stage::builder()
        .integration(INTEGRATION, &integration(&place, None, "")?)
        .integration("named", &integration(&place, Some(CONNECTOR), "")?)
        .integration("lenient", &integration(&place, None, "require_mark = false")?)
        .start()
        .await?;
    let env = store.env();
    let password = stage.pg.connector_password().to_owned();

    fails_with(&stage, INTEGRATION, &env, &name).await?;
    store.put(&name, &body(CONNECTOR, &password), true)?;
    is_well(&stage, INTEGRATION, &env).await?;
    let event = stage.scratch().write_private("event.json", &read_only(INTEGRATION, "AR-1", "jane").json().to_string())?;
    let apply = ["apply", event.to_str().context("no path")?];
    let output = run_cli(stage.config_file(), &apply, &borrowed(&env)).await?;
    ensure!(output.status.success(), "{output:?}");

    let mut malformed = vec![
        (json!({ "username": CONNECTOR, "passwort": WRONG }).to_string(), "lacks the key \"password\""),
        (json!({ "password": WRONG }).to_string(), "lacks the key \"username\""),
        (json!({ "username": CONNECTOR, "password": "" }).to_string(), "its password is empty"),
        (json!({ "username": CONNECTOR, "password": format!("{WRONG}\0") }).to_string(), "its password contains a NUL"),
    ];
    if store.holds_any_text() {
        malformed.push((WRONG.to_owned(), "is not JSON"));
        malformed.push((format!("\"{WRONG}\""), "is JSON, but no object"));
    }
    for (body, expected) in malformed {
        store.put(&name, &body, true)?;
        fails_with(&stage, INTEGRATION, &env, expected).await?;
    }
    let alone = if store.holds_any_text() { password.clone() } else { json!({ "password": password }).to_string() };
    store.put(&name, &alone, true)?;
    is_well(&stage, "named", &env).await?;
    fails_with(&stage, INTEGRATION, &env, if store.holds_any_text() { "is not JSON" } else { "lacks the key \"username\"" }).await?;
    store.put(&name, &body("somebody_else", WRONG), true)?;
    fails_with(&stage, "named", &env, "but the configuration says \"postern_connector\"").await?;

    store.put(&name, &body(CONNECTOR, &password), false)?;
    if store.has_marks() {
        let mend = fails_with(&stage, INTEGRATION, &env, "lacks the mark apono-connector-read").await?;
        is_well(&stage, "lenient", &env).await?;
        store.run(mend.first().context("nothing mends it")?)?;
    }
    is_well(&stage, INTEGRATION, &env).await?;

    store.remove(&name)?;
    fails_with(&stage, INTEGRATION, &env, &name).await?;
    let event = stage.scratch().write_private("event.json", &read_only(INTEGRATION, "AR-2", "kim").json().to_string())?;
    let output = run_cli(stage.config_file(), &["apply", event.to_str().context("no path")?], &borrowed(&env)).await?;
    let result: Value = serde_json::from_slice(&output.stdout)?;
    ensure!(output.status.code() == Some(1) && result["data"]["reason"]["code"] == "secret_unavailable", "{output:?}");
    ensure!(result["data"]["reason"]["message"].as_str().is_some_and(|message| message.contains(&name)), "{result:#}");

    store.put(&name, &body(CONNECTOR, &password), true)?;
    let (well, message, _) = check(&stage, INTEGRATION, &store.stranger()?).await?;
    ensure!(!well && !message.contains("no answer"), "a stranger reads it, or is not told that it is denied: {message:?}");
    stage.finish().await
}

pub(crate) async fn a_slow_store_or_none_delays_its_own_events_only(store: &impl Store) -> Result<()> {
    let name = fresh();
    let mut stage =
        Stage::builder().integration(INTEGRATION, &integration(&store.place(&name), None, "")?).integration("local", "").start().await?;
    let env = store.env();
    store.put(&name, &body(CONNECTOR, stage.pg.connector_password()), true)?;
    is_well(&stage, INTEGRATION, &env).await?;

    for state in [State::Silent, State::Cut] {
        store.wire().set(state).await?;
        fails_with(&stage, INTEGRATION, &env, &name).await?;
    }
    let worker = stage.spawn(&borrowed(&env))?;
    worker.ready().await?;
    let waits = read_only(INTEGRATION, "AR-1", "jane");
    stage.publish(&waits).await?;
    stage.expect(&read_only("local", "AR-2", "kim"), "succeeded").await?;
    store.wire().set(State::Silent).await?;
    stage.expect(&read_only("local", "AR-3", "lee"), "succeeded").await?;
    store.wire().set(State::Open).await?;
    let result = stage.result_of(&waits).await?;
    ensure!(result["outcome"] == "succeeded", "{result:#}");
    stage.finish().await
}

pub(crate) async fn a_secret_rotated_under_our_feet_costs_no_event(store: &impl Store) -> Result<()> {
    const NEW: &str = "a-new-password-0123456789-abcdefghijklmnop";
    const PENDING: &str = "a-pending-password-0123456789-abcdefghijkl";
    let name = fresh();
    let mut stage = Stage::builder().integration(INTEGRATION, &integration(&store.place(&name), None, "")?).start().await?;
    stage.keep_secret(NEW);
    stage.keep_secret(PENDING);
    store.put(&name, &body(CONNECTOR, stage.pg.connector_password()), true)?;
    let env = store.env();
    stage.spawn(&borrowed(&env))?.ready().await?;
    stage.expect(&read_only(INTEGRATION, "AR-1", "jane"), "succeeded").await?;

    let superuser = stage.pg.superuser("postgres").await?;
    // The server logs role DDL as it was sent.
    superuser.batch_execute("SET log_statement = 'none'").await?;
    superuser.batch_execute(&format!("ALTER ROLE {CONNECTOR} PASSWORD '{NEW}'")).await?;
    store.put(&name, &body(CONNECTOR, NEW), true)?;
    let ended = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = $1";
    superuser.execute(ended, &[&CONNECTOR]).await?;
    let result = stage.expect(&read_only(INTEGRATION, "AR-2", "kim"), "succeeded").await?;
    ensure!(result["attempt"] == 1, "{result:#}");

    // A rotation that stopped between the server and the store: only the pending password is right.
    let staged = [json!({ "do": "read", "as": "a" }), json!({ "do": "stage", "from": "a", "body": PENDING, "as": "b" })];
    let answers = steps(&stage, &env, &staged).await?;
    assert_eq!(answers[1]["done"], json!({ "current": NEW, "pending": PENDING }), "{answers:?}");
    superuser.batch_execute(&format!("ALTER ROLE {CONNECTOR} PASSWORD '{PENDING}'")).await?;
    superuser.execute(ended, &[&CONNECTOR]).await?;
    let result = stage.expect(&read_only(INTEGRATION, "AR-3", "lee"), "succeeded").await?;
    ensure!(result["attempt"] == 1, "{result:#}");
    let output = run_cli(stage.config_file(), &["check", INTEGRATION], &borrowed(&env)).await?;
    ensure!(output.status.success(), "{output:?}");
    stage.finish().await
}

/// Runs steps in `postern-secret`; an answer for each.
async fn steps(stage: &Stage, env: &Env, steps: &[Value]) -> Result<Vec<Value>> {
    // This is <target>/debug/deps/e2e-<hash>.
    let own = std::env::current_exe()?;
    let program: PathBuf = own.ancestors().nth(2).context("no directory")?.join("postern-secret");
    let mut child = tokio::process::Command::new(program)
        .env("POSTERN_CONFIG", stage.config_file())
        .envs(borrowed(env))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let input = steps.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
    child.stdin.take().context("no stdin")?.write_all(input.as_bytes()).await?;
    let output = child.wait_with_output().await?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    text.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
}

pub(crate) async fn a_connectors_password_is_staged_beside_the_current_one(store: &impl Store) -> Result<()> {
    let name = fresh();
    let stage = Stage::builder().integration(INTEGRATION, &integration(&store.place(&name), None, "")?).start().await?;
    store.put(&name, &json!({ "username": CONNECTOR, "password": "one", "host": "kept" }).to_string(), true)?;
    let answers = steps(
        &stage,
        &store.env(),
        &[
            json!({ "do": "read", "as": "a" }),
            json!({ "do": "read", "as": "b" }),
            json!({ "do": "stage", "from": "a", "body": "two", "as": "a2" }),
            json!({ "do": "stage", "from": "b", "body": "three", "as": "b2" }),
            json!({ "do": "stage", "from": "a2", "body": "three", "as": "b2" }),
            json!({ "do": "discard", "from": "a2", "as": "c" }),
            json!({ "do": "stage", "from": "c", "body": "four", "as": "d" }),
            json!({ "do": "promote", "from": "d", "as": "e" }),
            json!({ "do": "promote", "from": "d", "as": "f" }),
            json!({ "do": "look", "place": store.place(&name) }),
            json!({ "do": "may_write", "place": store.place(&name) }),
        ],
    )
    .await?;
    assert_eq!(answers[10], json!({ "done": store.tells_rights().then_some(true) }));
    let done = |current: &str, pending: Option<&str>| json!({ "done": { "current": current, "pending": pending } });
    assert_eq!(answers[0], done("one", None));
    assert_eq!(answers[2], done("one", Some("two")));
    assert_eq!(answers[3]["failure"], "Conflict", "a stale reading: {}", answers[3]);
    assert_eq!(answers[4]["failure"], "Conflict", "one is pending: {}", answers[4]);
    assert_eq!(answers[5], done("one", None));
    assert_eq!(answers[6], done("one", Some("four")));
    assert_eq!(answers[7], done("four", None));
    assert_eq!(answers[8]["failure"], "Conflict", "it is current already: {}", answers[8]);
    let stored = &answers[9]["done"];
    let body: Value = serde_json::from_str(stored["body"].as_str().context("no body")?)?;
    assert_eq!(body, json!({ "username": CONNECTOR, "password": "four", "host": "kept" }));
    if store.has_marks() {
        assert_eq!(stored["labels"]["apono-connector-read"], "true", "the labels stay");
    }
    // Whoever is denied is told so, and nothing is written.
    let denied = steps(&stage, &store.stranger()?, &[json!({ "do": "read", "as": "x" })]).await?;
    assert_eq!(denied[0]["failure"], "Denied", "{}", denied[0]);
    stage.finish().await
}

pub(crate) async fn only_what_is_ours_is_overwritten_or_deleted(store: &impl Store) -> Result<()> {
    let (name, theirs, stale) = (fresh(), fresh(), fresh());
    let place = store.place(&name);
    let stage = Stage::builder().integration(INTEGRATION, &integration(&place, None, "")?).start().await?;
    store.put(&theirs, &body("root", "theirs"), true)?;
    let jane = "jane.doe+x@example.com";
    let write =
        |place: &Value, owner: &str, body: &str| json!({ "do": "write", "place": place, "owner": owner, "generation": 2, "body": body });
    let remove = |place: &Value, owner: &str| json!({ "do": "remove", "place": place, "owner": owner });
    let look = |place: &Value| json!({ "do": "look", "place": place });
    let (one, two) = (body("jane", "one"), body("jane", "two"));
    let answers = steps(
        &stage,
        &store.env(),
        &[
            remove(&place, jane),
            write(&place, jane, &one),
            look(&place),
            write(&place, jane, &two),
            look(&place),
            write(&place, "kim", &one),
            remove(&place, "kim"),
            look(&place),
            write(&store.place(&theirs), jane, &one),
            remove(&store.place(&theirs), jane),
            look(&store.place(&theirs)),
            remove(&place, jane),
            look(&place),
            write(&place, jane, &one),
            json!({ "do": "create", "place": place, "owner": jane, "body": two }),
            look(&place),
            write(&store.place(&stale), jane, &one),
        ],
    )
    .await?;
    assert_eq!(answers[0], json!({ "done": false }));
    let shows = |answer: &Value, body: &str| {
        answer["done"]["body"].as_str().and_then(|text| serde_json::from_str::<Value>(text).ok()) == serde_json::from_str(body).ok()
    };
    ensure!(shows(&answers[2], &one) && shows(&answers[4], &two) && shows(&answers[7], &two), "{answers:#?}");
    let labels = &answers[4]["done"]["labels"];
    for (label, expected) in
        [("managed-by", "postern"), ("postern-owner", jane), ("postern-grant", "AR-1/1#2"), ("postern-generation", "2")]
    {
        assert_eq!(labels[label], expected, "{labels:#}");
    }
    ensure!(labels.get("apono-connector-read").is_none(), "a person's secret has the connectors' mark");
    for refused in [5, 6, 8, 9] {
        assert_eq!(answers[refused]["failure"], "NotOurs", "{}", answers[refused]);
    }
    ensure!(shows(&answers[10], &body("root", "theirs")), "{}", answers[10]);
    assert_eq!(answers[11], json!({ "done": true }));
    assert_eq!(answers[12]["failure"], "NotFound");
    assert_eq!(answers[14]["failure"], "Conflict", "{}", answers[14]);
    ensure!(shows(&answers[15], &one), "{}", answers[15]);

    // Somebody else's write in between is not lost.
    let at = answers[16]["done"].as_str().context("no version")?.to_owned();
    store.put(&stale, &two, false)?;
    let place = store.place(&stale);
    let late = [
        json!({ "do": "replace", "place": place, "at": at, "body": one }),
        json!({ "do": "delete", "place": place, "at": at }),
        look(&place),
    ];
    let answers = steps(&stage, &store.env(), &late).await?;
    ensure!(answers[0]["failure"] == "Conflict" && answers[1]["failure"] == "Conflict" && shows(&answers[2], &two), "{answers:#?}");
    stage.finish().await
}
