//! Writes, stages and deletes secrets as the worker does, one JSON step a line of its input, for the tests of the stores.
//! The configuration is that of `postern`; its one integration has the connector's secret.

use std::collections::HashMap;
use std::io::{BufRead as _, Write as _};

use anyhow::{Context, Result, ensure};
use postern::config::Config;
use postern::secrets::delivery::{self, About, Owner};
use postern::secrets::{Connector, Known, SecretError, Stores, Version};
use postern_schemas::store::StoreRef;
use postern_schemas::{IntegrationId, Principal};
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::{Value, json};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    ensure!(rustls::crypto::aws_lc_rs::default_provider().install_default().is_ok(), "a TLS provider was installed before");
    let config = Config::load(None, &|name| std::env::var(name).ok())?;
    let stores = Stores::new(&config);
    let integration = config.integrations.values().next().context("no integration")?;
    let mut steps = Steps { connector: stores.connector(integration), stores, known: HashMap::new() };
    for line in std::io::stdin().lock().lines() {
        let step: Value = serde_json::from_str(&line?)?;
        let answer = match steps.run(&step).await? {
            Ok(value) => json!({ "done": value }),
            Err(error) => {
                let kind = format!("{:?}", error.what);
                json!({ "failure": kind.split('(').next(), "message": error.to_string() })
            }
        };
        writeln!(std::io::stdout(), "{answer}")?;
    }
    Ok(())
}

struct Steps {
    stores: Stores,
    connector: Connector,
    known: HashMap<String, Known>,
}

impl Steps {
    async fn run(&mut self, step: &Value) -> Result<Result<Value, SecretError>> {
        let text = |name: &str| step[name].as_str().with_context(|| format!("no {name} in {step}"));
        let secret = || SecretString::from(step["body"].as_str().unwrap_or_default().to_owned());
        let done = |()| json!(null);
        let place = || serde_json::from_value::<StoreRef>(step["place"].clone()).map(|place| self.stores.at(&place));
        Ok(match text("do")? {
            "write" => delivery::write(&place()?, &owner(step)?, &about(step), &secret()).await.map(|version| json!(version.0)),
            "remove" => delivery::remove(&place()?, &owner(step)?).await.map(|was| json!(was)),
            "look" => place()?
                .read()
                .await
                .map(|stored| json!({ "body": stored.body.expose_secret(), "labels": stored.labels, "version": stored.version.0 })),
            "create" => place()?.create(&secret(), &owner(step)?.labels(&about(step))).await.map(|version| json!(version.0)),
            "replace" => {
                let at = Version(text("at")?.to_owned());
                place()?.replace(&at, &secret(), None).await.map(|version| json!(version.0))
            }
            "delete" => place()?.delete(&Version(text("at")?.to_owned())).await.map(done),
            "may_write" => place()?.may_write().await.map(|may| json!(may)),
            "read" => {
                let known = self.connector.read().await;
                self.keep(text("as")?, known)
            }
            "stage" => {
                let known = self.connector.stage(self.known(text("from")?)?, &secret()).await;
                self.keep(text("as")?, known)
            }
            "promote" => {
                let known = self.connector.promote(self.known(text("from")?)?).await;
                self.keep(text("as")?, known)
            }
            "discard" => {
                let known = self.connector.discard(self.known(text("from")?)?).await;
                self.keep(text("as")?, known)
            }
            other => anyhow::bail!("unknown step {other}"),
        })
    }

    fn known(&self, name: &str) -> Result<&Known> {
        self.known.get(name).with_context(|| format!("{name} was not read"))
    }

    fn keep(&mut self, name: &str, known: Result<Known, SecretError>) -> Result<Value, SecretError> {
        let known = known?;
        let shown = json!({
            "current": known.current.password.expose_secret(),
            "pending": known.pending.as_ref().map(|pending| pending.password.expose_secret()),
        });
        self.known.insert(name.to_owned(), known);
        Ok(shown)
    }
}

fn owner(step: &Value) -> Result<Owner> {
    let wrong = |what: String| anyhow::anyhow!(what);
    Ok(Owner {
        ledger: "0b2f4c3e-6f6e-4c8f-9a53-1f3f4f0c7a11".to_owned(),
        integration: IntegrationId::new("orders-prod").map_err(wrong)?,
        principal: Principal::new(step["owner"].as_str().context("no owner")?).map_err(wrong)?,
    })
}

fn about(step: &Value) -> About {
    About { grant: Some("AR-1/1#2".to_owned()), expires_at: None, generation: step["generation"].as_i64().unwrap_or(1) }
}
