//! The broker and the database of the story: started here, or given by whoever started them in containers.

use anyhow::{Context as _, Result};
use postern_tests::postgres::{CONNECTOR, Postgres, Version};
use postern_tests::rabbit::Rabbit;
use tokio_postgres::{Client, Config, NoTls};

/// Where servers are that somebody else has started; set together by `scripts/demo.sh`.
const AMQP_URL: &str = "POSTERN_DEMO_AMQP_URL";
const POSTGRES_PORT: &str = "POSTERN_DEMO_POSTGRES_PORT";
const CONNECTOR_PASSWORD: &str = "POSTERN_DEMO_CONNECTOR_PASSWORD";

/// Both servers, listening on 127.0.0.1. Dropping them ends them, if they are ours.
pub(crate) struct Servers {
    pub(crate) amqp_url: String,
    pub(crate) port: u16,
    /// The integration's `type`.
    pub(crate) kind: &'static str,
    pub(crate) connector_password: String,
    /// What they are, for people.
    pub(crate) described: String,
    _own: Option<(Rabbit, Postgres)>,
}

impl Servers {
    pub(crate) async fn start() -> Result<Self> {
        match std::env::var(AMQP_URL) {
            Ok(amqp_url) => Self::given(amqp_url),
            Err(_) => Self::own().await,
        }
    }

    async fn own() -> Result<Self> {
        let version = Version::under_test()?;
        let (rabbit, pg) = tokio::try_join!(Rabbit::start(), Postgres::start(version))?;
        let full = version.full()?;
        // Behind it Debian names its package.
        let full = full.split(" (Debian").next().unwrap_or_default().trim_start_matches("postgres (PostgreSQL) ");
        let kind = version.platform().integration_type();
        Ok(Self {
            amqp_url: rabbit.amqp_url(),
            port: pg.port(),
            kind,
            connector_password: pg.connector_password().to_owned(),
            described: format!("RabbitMQ, PostgreSQL {full} (with the rights that an {kind} gives)"),
            _own: Some((rabbit, pg)),
        })
    }

    fn given(amqp_url: String) -> Result<Self> {
        let variable = |name: &str| std::env::var(name).with_context(|| format!("{AMQP_URL} is set, and {name} is not"));
        Ok(Self {
            amqp_url,
            port: variable(POSTGRES_PORT)?.parse().with_context(|| format!("{POSTGRES_PORT} is no port"))?,
            kind: "postgresql",
            connector_password: variable(CONNECTOR_PASSWORD)?,
            described: "RabbitMQ and PostgreSQL in containers".to_owned(),
            _own: None,
        })
    }

    /// A session of Postern's own account, for looking.
    pub(crate) async fn connector(&self, database: &str) -> Result<Client> {
        let mut config = self.config(CONNECTOR, &self.connector_password, database);
        let (client, connection) = config.application_name("demo").connect(NoTls).await.context("logging in as the connector")?;
        tokio::spawn(connection);
        Ok(client)
    }

    pub(crate) fn config(&self, user: &str, password: &str, database: &str) -> Config {
        let mut config = Config::new();
        config.host("127.0.0.1").port(self.port).user(user).password(password).dbname(database);
        config
    }
}
