//! HashiCorp Vault, on OpenBao: key/value engines of version 2 and 1, TLS by a private issuer.

use anyhow::{Result, ensure};
use postern_tests::scratch::Scratch;
use postern_tests::stage::{INTEGRATION, Stage};
use postern_tests::stores::Store as _;
use postern_tests::stores::aws::Aws;
use postern_tests::stores::vault::Vault;
use postern_tests::worker::run_cli;
use serde_json::{Value, json};

use super::suite::{fails_with, fresh, integration, is_well};

/// A stage whose connector's secret is in the store.
async fn stage(store: &Vault) -> Result<Stage> {
    let name = fresh();
    let stage = Stage::builder().integration(INTEGRATION, &integration(&store.place(&name), None, "")?).start().await?;
    let body = json!({ "username": "postern_connector", "password": stage.pg.connector_password() });
    store.put(&name, &body.to_string(), true)?;
    Ok(stage)
}

#[tokio::test]
async fn the_first_server_that_has_the_path_answers() -> Result<()> {
    let store = Vault::versioned().await?;
    let stage = stage(&store).await?;
    let dead = json!({ "address": "http://127.0.0.1:1", "token": "x" });
    let mut stranger = store.entry();
    stranger["token"] = json!("no-such-token");
    is_well(&stage, INTEGRATION, &Vault::config(&json!([dead, stranger, store.entry()]))).await?;
    // Nobody knows what a server that does not answer has.
    fails_with(&stage, INTEGRATION, &Vault::config(&json!([stranger, dead])), "127.0.0.1:1 cannot be asked").await?;
    fails_with(&stage, INTEGRATION, &Vault::config(&json!([stranger])), "refuses the token").await?;
    stage.finish().await
}

#[tokio::test]
async fn an_unknown_issuer_is_refused_unless_verification_is_switched_off() -> Result<()> {
    let store = Vault::versioned().await?;
    let stage = stage(&store).await?;
    let mut entry = store.entry();
    entry.as_object_mut().map(|entry| entry.remove("ca_cert_base64"));
    fails_with(&stage, INTEGRATION, &Vault::config(&json!([entry])), "certificate").await?;
    entry["skip_verify"] = json!("true");
    is_well(&stage, INTEGRATION, &Vault::config(&json!([entry]))).await?;
    stage.finish().await
}

#[tokio::test]
async fn a_server_is_read_from_another_store_if_that_secret_is_marked() -> Result<()> {
    let (store, aws) = (Vault::versioned().await?, Aws::start().await?);
    let stage = stage(&store).await?;
    let entry = store.entry();
    let upper: Value = entry.as_object().into_iter().flatten().map(|(key, value)| (key.to_uppercase(), value.clone())).collect();
    let mut env = aws.env();
    env.extend(Vault::config(&json!([{ "FROM_SECRET_STORE": "AWS", "REGION": "eu-central-1", "SECRET_ID": "vault" }])));
    fails_with(&stage, INTEGRATION, &env, "a server cannot be read from its own store").await?;
    aws.put("vault", &upper.to_string(), false)?;
    fails_with(&stage, INTEGRATION, &env, "lacks the mark").await?;
    aws.put("vault", &upper.to_string(), true)?;
    is_well(&stage, INTEGRATION, &env).await?;
    aws.put("vault", "hunter2-hunter2", true)?;
    fails_with(&stage, INTEGRATION, &env, "is not JSON").await?;
    stage.finish().await
}

#[tokio::test]
async fn a_wrong_list_of_servers_is_refused_at_start_and_not_shown() -> Result<()> {
    let scratch = Scratch::new("vault")?;
    let place = json!({ "hashicorp_vault": { "secret_engine": "secret", "path": "pg" } });
    let table = integration(&place, None, "type = 'postgresql'\nhostname = 'h'")?;
    let table = table.replace("[secret", "[integrations.a.secret");
    let file = scratch.write_private("postern.toml", &format!("[integrations.a]\n{table}"))?;
    for (list, expected) in [
        ("", "integrations.a.secret.hashicorp_vault: no server is known"),
        ("[{\"address\": \"https://a\", \"token\": \"hunter2\"", "HASHICORP_VAULT_CONFIG: is not JSON"),
        (
            "[{\"address\": \"http://a\", \"token\": \"hunter2\", \"skip_verify\": \"true\"}]",
            "HASHICORP_VAULT_CONFIG[0].skip_verify: goes with https",
        ),
    ] {
        for command in ["check", "run"] {
            let output = run_cli(&file, &[command], &[("HASHICORP_VAULT_CONFIG", list)]).await?;
            let told = String::from_utf8_lossy(&output.stderr);
            ensure!(output.status.code() == Some(78) && told.contains(expected) && !told.contains("hunter2"), "{output:?}");
        }
    }
    Ok(())
}

mod versioned {
    use postern_tests::stores::vault::Vault;

    crate::stores::conformance!(Vault::versioned());
    crate::stores::delivery!(Vault::versioned());
}

mod legacy {
    use postern_tests::stores::vault::Vault;

    crate::stores::conformance!(Vault::legacy());
}
