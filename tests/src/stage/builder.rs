//! How a stage differs from the plain one, and the worker's configuration that follows.

use std::path::Path;
use std::sync::Mutex;

use anyhow::{Context, Result};
use toml::{Table, Value};

use super::{INTEGRATION, Stage};
use crate::audit::Audit;
use crate::broker::{self, Broker};
use crate::identity::Identity;
use crate::postgres::{CONNECTOR, Platform, Postgres, Version};
use crate::scratch::Scratch;

/// What every stage's worker is told; the rest is the product's default.
const PLAIN: &str = "
[worker]
listen = '127.0.0.1:0'
unknown_grace_seconds = 1
[integrations.orders-prod.policy]
access = ['read_only', 'read_write', 'admin']
";

/// Collects the differences; made by [`Stage::builder`].
#[derive(Debug, Default)]
pub struct Builder {
    version: Option<Version>,
    platform: Option<Platform>,
    amqp_url: Option<String>,
    config: Table,
    /// Set on a wrong snippet, reported at the start.
    error: Option<toml::de::Error>,
}

impl Builder {
    /// Another version than the one under test.
    #[must_use]
    pub fn version(mut self, version: Version) -> Self {
        self.version = Some(version);
        self
    }

    /// Another platform than the one that the version plays.
    #[must_use]
    pub fn platform(mut self, platform: Platform) -> Self {
        self.platform = Some(platform);
        self
    }

    /// Another broker than the shared one, such as one that the test restarts.
    #[must_use]
    pub fn broker(mut self, amqp_url: &str) -> Self {
        self.amqp_url = Some(amqp_url.to_owned());
        self
    }

    /// Lays TOML over the whole configuration: tables are merged, anything else replaces what was there.
    #[must_use]
    pub fn config(mut self, toml: &str) -> Self {
        match toml.parse() {
            Ok(table) => merge(&mut self.config, table),
            Err(error) => self.error = Some(error),
        }
        self
    }

    /// Lays TOML over one integration. Any id may be named: each integration gets the type, address and secret of the
    /// stage's cluster.
    #[must_use]
    pub fn integration(self, id: &str, toml: &str) -> Self {
        self.nested(&["integrations", id], toml)
    }

    /// Lays TOML over the policy of [`INTEGRATION`].
    #[must_use]
    pub fn policy(self, toml: &str) -> Self {
        self.nested(&["integrations", INTEGRATION, "policy"], toml)
    }

    fn nested(mut self, path: &[&str], toml: &str) -> Self {
        match toml.parse::<Table>() {
            Ok(table) => {
                let wrap = |inner, key: &&str| Table::from_iter([((*key).to_owned(), Value::Table(inner))]);
                merge(&mut self.config, path.iter().rev().fold(table, wrap));
            }
            Err(error) => self.error = Some(error),
        }
        self
    }

    /// Starts the cluster and the collector of audit results; no worker yet.
    pub async fn start(self) -> Result<Stage> {
        if let Some(error) = self.error {
            return Err(error).context("the stage's configuration");
        }
        let amqp_url = self.amqp_url.map_or_else(broker::shared_url, Ok)?;
        let version = self.version.map_or_else(Version::under_test, Ok)?;
        let pg = Postgres::start_as(version, self.platform.unwrap_or(version.platform())).await?;
        let scratch = Scratch::new("stage")?;
        let password_file = scratch.write_private("connector-password", pg.connector_password())?;
        let prefix = format!("t{}", &uuid::Uuid::new_v4().simple().to_string()[..10]);

        let mut config: Table = PLAIN.parse()?;
        merge(&mut config, self.config);
        let target = target(&pg, &password_file);
        if let Some(Value::Table(integrations)) = config.get_mut("integrations") {
            for integration in integrations.iter_mut().filter_map(|(_, value)| value.as_table_mut()) {
                let differences = std::mem::replace(integration, target.clone());
                if differences.get("auth").and_then(Value::as_str) == Some("iam") {
                    integration.remove("secret");
                }
                if differences.contains_key("instance_id") {
                    integration.remove("hostname");
                    integration.remove("port");
                }
                if differences.contains_key("secret") {
                    integration.remove("secret");
                }
                merge(integration, differences);
            }
        }
        let mut whole = Table::new();
        whole.insert("broker".into(), broker_table(&amqp_url, &prefix).into());
        merge(&mut whole, config);
        let config = toml::to_string(&whole)?;

        Ok(Stage {
            audit: Audit::start(&amqp_url, &prefix).await?,
            broker: Broker::new(&amqp_url, &prefix),
            workers: Vec::new(),
            identity: Identity::generate(),
            config_file: scratch.write_private("postern.toml", &config)?,
            config,
            secrets: Mutex::new(vec![pg.connector_password().to_owned()]),
            pg,
            scratch,
        })
    }
}

/// `toml` laid over a configuration.
pub(super) fn over(config: &str, toml: &str) -> Result<String> {
    let mut whole: Table = config.parse()?;
    merge(&mut whole, toml.parse().context("the stage's configuration")?);
    Ok(toml::to_string(&whole)?)
}

fn broker_table(amqp_url: &str, prefix: &str) -> Table {
    Table::from_iter([("url".to_owned(), amqp_url.into()), ("prefix".to_owned(), prefix.into())])
}

/// Where an integration finds the stage's cluster, and as whom.
fn target(pg: &Postgres, password_file: &Path) -> Table {
    let local = Table::from_iter([
        ("username".to_owned(), CONNECTOR.into()),
        ("password_file".to_owned(), password_file.display().to_string().into()),
    ]);
    let secret = Table::from_iter([("local".to_owned(), Value::Table(local))]);
    Table::from_iter([
        ("type".to_owned(), pg.platform().integration_type().into()),
        ("hostname".to_owned(), "127.0.0.1".into()),
        ("port".to_owned(), i64::from(pg.port()).into()),
        ("ssl_mode".to_owned(), "disable".into()),
        ("secret".to_owned(), Value::Table(secret)),
    ])
}

fn merge(base: &mut Table, over: Table) {
    for (key, value) in over {
        match (base.get_mut(&key), value) {
            (Some(Value::Table(base)), Value::Table(over)) => merge(base, over),
            (_, value) => {
                base.insert(key, value);
            }
        }
    }
}
