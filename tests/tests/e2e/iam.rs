//! RDS: logins by IAM token, of the connector and of people, and instances that are found by their id. The server is
//! real and so are its rules about `rds_iam`; the gate in front of it judges tokens, and AWS's services are imitated.

mod instances;
mod trap;

use anyhow::{Context, Result, ensure};
use jiff::{SignedDuration, Timestamp};
use postern_tests::aws::gate::Gate;
use postern_tests::aws::signature::{self, Expected};
use postern_tests::aws::{SECRET_KEY, credentials, library_tokens};
use postern_tests::events::{cleanup, cleanup_principal, grant, revoke_grant};
use postern_tests::postgres::CONNECTOR;
use postern_tests::stage::{INTEGRATION, Stage};
use postern_tests::worker::run_cli;
use serde_json::{Value, json};

use crate::cli::{exits, json as parsed};
use crate::{allowed, ended, explained, sessions_of};

const HOST: &str = "orders.c9akciq32.eu-central-1.rds.amazonaws.com";
const REGION: &str = "eu-central-1";
const PORT: u16 = 5432;

/// A stage whose server asks for tokens, and what its workers have to know.
struct Rds {
    stage: Stage,
    gate: Gate,
    env: Vec<(String, String)>,
}

impl Rds {
    /// An integration with `auth = "iam"` on the endpoint [`HOST`].
    async fn start() -> Result<Self> {
        Self::with(&format!("hostname = '{HOST}'\nport = {PORT}"), HOST, "").await
    }

    /// The same, found by `place`, with `others` laid over the configuration.
    async fn with(place: &str, host: &str, others: &str) -> Result<Self> {
        let mut gate = Gate::new(Expected { host: host.to_owned(), port: PORT, region: REGION.to_owned() }).await?;
        let tls = format!("ssl_mode = 'verify-full'\nssl_root_cert = '{}'", gate.issuer().display());
        let integration = format!("type = 'aws-rds-postgresql'\nauth = 'iam'\n{tls}\n{place}");
        let mut stage = Stage::builder().integration(INTEGRATION, &integration).config(others).start().await?;
        let superuser = stage.pg.superuser("postgres").await?;
        // Versions that play Azure otherwise have no such role.
        superuser
            .batch_execute(&format!(
                "DO $$ BEGIN CREATE ROLE rds_iam; EXCEPTION WHEN duplicate_object THEN NULL; END $$; GRANT rds_iam TO {CONNECTOR} WITH ADMIN OPTION"
            ))
            .await?;
        drop(superuser);
        stage.pg.ask_for_tokens().await?;
        gate.open(stage.pg.port())?;
        stage.keep_secret(SECRET_KEY);
        let mut env: Vec<(String, String)> = credentials().into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        env.push(("POSTERN_RESOLVE".to_owned(), gate.resolve(&[PORT, PORT + 1])));
        Ok(Self { stage, gate, env })
    }

    fn env(&self) -> Vec<(&str, &str)> {
        self.env.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect()
    }

    async fn worker(&mut self) -> Result<()> {
        let env = self.env.clone();
        let env: Vec<(&str, &str)> = env.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        self.stage.spawn(&env)?.ready().await
    }

    /// The items of `postern check`, with other variables laid over.
    async fn check(&self, code: i32, over: &[(&str, &str)]) -> Result<Vec<Value>> {
        let args = ["check", INTEGRATION, "--json"];
        let env: Vec<(&str, &str)> = self.env().into_iter().chain(over.iter().copied()).collect();
        let items = parsed(&exits(run_cli(self.stage.config_file(), &args, &env).await?, code, &args)?)?;
        Ok(items.as_array().context("not a list")?.clone())
    }

    async fn finish(self) -> Result<()> {
        for (_, token) in self.gate.tried() {
            let (_, signature) = token.rsplit_once('=').context("no signature")?;
            self.stage.keep_secret(signature);
        }
        self.stage.finish().await
    }
}

/// A token for the endpoint, now, but for what `login` says.
fn token(login: &Value) -> Result<String> {
    let now = Timestamp::now().strftime("%Y%m%dT%H%M%SZ").to_string();
    let mut whole = json!({ "host": HOST, "port": PORT, "region": REGION, "session_token": null, "time": now });
    if let (Some(whole), Some(login)) = (whole.as_object_mut(), login.as_object()) {
        whole.extend(login.clone());
    }
    library_tokens(&[whole])?.pop().context("no token")
}

/// A person's token, made by AWS's own library.
fn token_of(user: &str) -> Result<String> {
    token(&json!({ "user": user }))
}

async fn in_rds_iam(stage: &Stage, role: &str) -> Result<bool> {
    let sql = "SELECT EXISTS (SELECT FROM pg_auth_members WHERE member = $1::text::regrole AND roleid = 'rds_iam'::regrole)";
    Ok(stage.pg.superuser("postgres").await?.query_one(sql, &[&role]).await?.get(0))
}

async fn has_password(stage: &Stage, role: &str) -> Result<bool> {
    let sql = "SELECT rolpassword IS NOT NULL FROM pg_authid WHERE rolname = $1";
    Ok(stage.pg.superuser("postgres").await?.query_one(sql, &[&role]).await?.get(0))
}

#[tokio::test]
async fn the_connector_logs_in_by_tokens_that_awss_own_library_would_make() -> Result<()> {
    let mut rds = Rds::start().await?;
    rds.worker().await?;
    let recipient = rds.stage.identity.recipient();
    let asked = grant(INTEGRATION, "AR-1", "jane").schema("orders", "sales", "read_only").age(&recipient);
    let result = rds.stage.expect(&asked, "succeeded").await?;
    assert_eq!(result["access"]["host"], HOST);
    ensure!(result["access"]["uri"].as_str().is_some_and(|uri| uri.contains(&format!("@{HOST}:{PORT}/"))), "{result:#}");

    // Delivered a password, a person is not in rds_iam and logs in as anywhere.
    ensure!(!in_rds_iam(&rds.stage, "jane").await?);
    allowed(&rds.stage.login_as(&result).await?, "SELECT * FROM sales.invoices").await?;

    // Another login, a second or more later, has a token of its own.
    let first = rds.gate.tried();
    let date = signature::date(&first.first().context("nobody logged in")?.1)?.to_owned();
    let mut later = first;
    while later.iter().all(|(_, token)| signature::date(token).is_ok_and(|met| met == date)) {
        let args = ["ledger", INTEGRATION];
        exits(run_cli(rds.stage.config_file(), &args, &rds.env()).await?, 0, &args)?;
        later = rds.gate.tried();
    }
    let mut logins = Vec::new();
    for (user, token) in &later {
        assert_eq!(user, CONNECTOR);
        let time = signature::date(token)?;
        logins.push(json!({ "host": HOST, "port": PORT, "user": user, "region": REGION, "session_token": null, "time": time }));
    }
    let met: Vec<&String> = later.iter().map(|(_, token)| token).collect();
    assert_eq!(met, library_tokens(&logins)?.iter().collect::<Vec<_>>());
    explained(&rds.stage).await?;
    rds.finish().await
}

#[tokio::test]
async fn a_server_takes_the_right_token_and_no_other() -> Result<()> {
    let rds = Rds::start().await?;
    let right = token_of(CONNECTOR)?;
    allowed(&rds.gate.login(CONNECTOR, &right, "postgres").await?, "SELECT 1").await?;
    let (unsigned, _) = right.rsplit_once('=').context("no signature")?;
    let wrong = [
        ("signature", format!("{unsigned}={}", "0".repeat(64))),
        ("user", token_of("jane")?),
        ("region", token(&json!({ "user": CONNECTOR, "region": "us-east-1" }))?),
        ("host", token(&json!({ "user": CONNECTOR, "host": "other.rds.amazonaws.com" }))?),
        (
            "age",
            token(
                &json!({ "user": CONNECTOR, "time": (Timestamp::now() - SignedDuration::from_secs(901)).strftime("%Y%m%dT%H%M%SZ").to_string() }),
            )?,
        ),
    ];
    let refused = async |what: &str, token: &str| -> Result<()> {
        let error = rds.gate.login(CONNECTOR, token, "postgres").await.err();
        let code = error.as_ref().and_then(|error| error.code()).map(|code| code.code().to_owned());
        ensure!(code.as_deref() == Some("28000"), "a wrong {what} was met with {error:?}");
        Ok(())
    };
    for (what, token) in &wrong {
        refused(what, token).await?;
    }
    rds.gate.advance(SignedDuration::from_secs(900));
    refused("age", &right).await?;
    rds.gate.advance(SignedDuration::ZERO);
    allowed(&rds.gate.login(CONNECTOR, &right, "postgres").await?, "SELECT 1").await?;
    rds.finish().await
}

#[tokio::test]
async fn a_person_without_a_delivered_credential_logs_in_by_token_until_the_revoke() -> Result<()> {
    let mut rds = Rds::start().await?;
    rds.worker().await?;
    let who = "jane.doe@example.com";
    let asked = grant(INTEGRATION, "AR-1", who).schema("orders", "sales", "read_only");
    let result = rds.stage.expect(&asked, "succeeded").await?;
    assert_eq!(result["credential"]["status"], "not_applicable");
    ensure!(in_rds_iam(&rds.stage, &format!("\"{who}\"")).await? && !has_password(&rds.stage, who).await?);
    let jane = rds.gate.login(who, &token_of(who)?, "orders").await?;
    allowed(&jane, "SELECT * FROM sales.invoices").await?;
    explained(&rds.stage).await?;

    // The ledger explains it: a clean-up finds nothing, and the same grant again changes nothing.
    let swept = rds.stage.send(&cleanup(INTEGRATION)).await?;
    assert_eq!((&swept["drift"], &swept["sessions_terminated"]), (&json!([]), &json!(0)), "{swept:#}");
    let again = grant(INTEGRATION, "AR-1", who).schema("orders", "sales", "read_only");
    let again = rds.stage.expect(&again, "unchanged").await?;
    assert_eq!(again["drift"], json!([]));
    assert_eq!(sessions_of(&rds.stage.pg.superuser("postgres").await?, who).await?, 1);

    let revoked = rds.stage.expect(&revoke_grant(INTEGRATION, "AR-1"), "succeeded").await?;
    assert_eq!((&revoked["sessions_terminated"], &revoked["drift"]), (&json!(1), &json!([])), "{revoked:#}");
    let superuser = rds.stage.pg.superuser("postgres").await?;
    ensure!(ended(&superuser, who).await? && jane.batch_execute("SELECT 1").await.is_err());
    ensure!(rds.gate.login(who, &token_of(who)?, "orders").await.is_err());

    // Given by hand, it is taken back; and the account can go.
    superuser.batch_execute(&format!("SET ROLE {CONNECTOR}; GRANT rds_iam TO \"{who}\"")).await?;
    let swept = rds.stage.send(&cleanup(INTEGRATION)).await?;
    ensure!(swept["drift"].to_string().contains("rds_iam") && ended(&superuser, who).await?, "{swept:#}");
    rds.stage.expect(&cleanup_principal(INTEGRATION, who), "succeeded").await?;
    explained(&rds.stage).await?;
    rds.finish().await
}

#[tokio::test]
async fn a_person_moves_between_password_and_token() -> Result<()> {
    let mut rds = Rds::start().await?;
    rds.worker().await?;
    let recipient = rds.stage.identity.recipient();
    let asked = |revision| grant(INTEGRATION, "AR-1", "jane").schema("orders", "sales", "read_only").revision(revision);
    let first = rds.stage.expect(&asked(1).age(&recipient), "succeeded").await?;
    drop(rds.stage.login_as(&first).await?);

    let second = rds.stage.expect(&asked(2), "succeeded").await?;
    ensure!(second["changes"].to_string().contains("drop_password"), "{second:#}");
    ensure!(in_rds_iam(&rds.stage, "jane").await? && !has_password(&rds.stage, "jane").await?);
    ensure!(rds.stage.login_as(&first).await.is_err(), "the password still works");
    let jane = rds.gate.login("jane", &token_of("jane")?, "orders").await?;

    let third = rds.stage.expect(&asked(3).age(&recipient), "succeeded").await?;
    assert_eq!((&third["credential"]["status"], &third["credential"]["generation"]), (&json!("delivered"), &json!(2)));
    ensure!(!in_rds_iam(&rds.stage, "jane").await? && jane.batch_execute("SELECT 1").await.is_err());
    allowed(&rds.stage.login_as(&third).await?, "SELECT * FROM sales.invoices").await?;
    ensure!(rds.gate.login("jane", &token_of("jane")?, "orders").await.is_err());

    // One that was asked earlier and comes later decides nothing.
    let late = grant(INTEGRATION, "AR-2", "jane").schema("orders", "sales", "read_only").asked_in(SignedDuration::from_secs(-60));
    rds.stage.expect(&late, "succeeded").await?;
    ensure!(!in_rds_iam(&rds.stage, "jane").await?);
    explained(&rds.stage).await?;
    rds.finish().await
}

#[tokio::test]
async fn a_connector_that_may_not_hand_rds_iam_on_says_what_mends_it() -> Result<()> {
    let mut rds = Rds::start().await?;
    let superuser = rds.stage.pg.superuser("postgres").await?;
    superuser.batch_execute(&format!("REVOKE ADMIN OPTION FOR rds_iam FROM {CONNECTOR}")).await?;
    rds.worker().await?;
    let asked = |id: &str| grant(INTEGRATION, id, "jane").schema("orders", "sales", "read_only");
    if rds.stage.pg.version().major() <= 15 {
        // CREATEROLE is enough there.
        rds.stage.expect(&asked("AR-1"), "succeeded").await?;
        rds.check(0, &[]).await?;
        return rds.finish().await;
    }
    let refused = rds.stage.expect(&asked("AR-1"), "rejected").await?;
    assert_eq!(refused["reason"]["code"], "permission_missing", "{refused:#}");
    let said = refused["reason"]["message"].as_str().unwrap_or_default().to_owned();
    ensure!(said.ends_with("GRANT rds_iam TO \"postern_connector\" WITH ADMIN OPTION"), "{said}");
    let items = rds.check(1, &[]).await?;
    let failing: Vec<&Value> = items.iter().filter(|item| item["status"] == "fail").collect();
    ensure!(failing.len() == 1 && failing[0]["item"] == "rds_iam", "{failing:?}");
    let mend: Vec<String> = serde_json::from_value(failing[0]["mend"].clone())?;
    superuser.batch_execute(&mend.join("\n")).await?;
    rds.check(0, &[]).await?;
    rds.stage.expect(&asked("AR-2"), "succeeded").await?;
    rds.finish().await
}
