//! AWS Secrets Manager, on moto.

use anyhow::{Result, ensure};
use postern_tests::stage::{INTEGRATION, Stage};
use postern_tests::stores::Store as _;
use postern_tests::stores::aws::Aws;
use postern_tests::worker::run_cli;
use serde_json::json;

super::conformance!(Aws::start());
super::delivery!(Aws::start());

#[tokio::test]
async fn the_documented_policy_is_enough_and_nothing_less_is() -> Result<()> {
    let store = Aws::start().await?;
    let secret = "secret = { aws = { region = 'eu-central-1', secret_id = 'pg' } }";
    let stage = Stage::builder().integration(INTEGRATION, secret).start().await?;
    let body = json!({ "username": "postern_connector", "password": stage.pg.connector_password() });
    store.put("pg", &body.to_string(), true)?;
    let (able, stranger) = store.enforce()?;
    for (env, status) in [(able, 0), (stranger, 1)] {
        let env: Vec<(&str, &str)> = env.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let output = run_cli(stage.config_file(), &["check", INTEGRATION], &env).await?;
        ensure!(output.status.code() == Some(status), "{output:?}");
    }
    stage.finish().await
}
