//! A PostgreSQL cluster of its own that imitates a managed service: the test's superuser stays outside the story, the
//! account that a customer gets is `server_admin`, and Postern works as the account that the shipped bootstrap makes.

mod replica;
mod server;
mod template;
mod tls;
mod version;

use std::fs;

use anyhow::{Context, Result};
use tokio_postgres::{Client, Config};

use self::server::Server;
pub use self::tls::Access;
pub use self::version::{Platform, Version, cache_dir};
use crate::process::Signal;

/// Postern's own account.
pub const CONNECTOR: &str = "postern_connector";
/// The database of `fixtures/sample.sql`, in every cluster.
pub const SAMPLE_DATABASE: &str = "orders";
/// The account that a customer of the platform gets; owns the sample.
pub const ADMIN: &str = "server_admin";

const ADMIN_PASSWORD: &str = "admin";
/// What the operator types at `\\password`. It is found only where it leaked to.
const CONNECTOR_PASSWORD: &str = "gatekeeper-7f3a9c51d2";
const DATABASE: &str = include_str!("../../../deploy/bootstrap/database.sql");

/// A running cluster.
#[derive(Debug)]
pub struct Postgres {
    version: Version,
    platform: Platform,
    server: Server,
}

impl Postgres {
    /// Starts a cluster of the platform that the version plays.
    pub async fn start(version: Version) -> Result<Self> {
        Self::start_as(version, version.platform()).await
    }

    /// Starts a cluster with the platform's roles, the connector and the sample database.
    pub async fn start_as(version: Version, platform: Platform) -> Result<Self> {
        let template = template::directory(version, platform).await?;
        let mut server = Server::new(version)?;
        template::copy(&template, &server.data())?;
        if let Err(error) = server.start().await {
            // Another program took the port since it was found free.
            anyhow::ensure!(error.to_string().contains("could not bind"), error);
            server.port = crate::process::free_port()?;
            server.start().await?;
        }
        Ok(Self { version, platform, server })
    }

    /// Which PostgreSQL it is.
    pub fn version(&self) -> Version {
        self.version
    }

    /// Whose server it plays.
    pub fn platform(&self) -> Platform {
        self.platform
    }

    /// Where it listens, on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.server.port
    }

    /// The password that the bootstrap gives [`CONNECTOR`].
    pub fn connector_password(&self) -> &'static str {
        CONNECTOR_PASSWORD
    }

    /// A session of the superuser, for looking.
    pub async fn superuser(&self, database: &str) -> Result<Client> {
        self.server.superuser(database).await
    }

    /// A session of [`ADMIN`].
    pub async fn admin(&self, database: &str) -> Result<Client> {
        as_admin(self.port(), database).await
    }

    /// A session of [`CONNECTOR`].
    pub async fn connector(&self, database: &str) -> Result<Client> {
        Ok(self.login(CONNECTOR, CONNECTOR_PASSWORD, database).await?)
    }

    /// Logs in over TCP with a password. The error is the server's own, for its SQLSTATE.
    pub async fn login(&self, user: &str, password: &str, database: &str) -> Result<Client, tokio_postgres::Error> {
        login_at(self.port(), user, password, database).await
    }

    /// Makes a database owned by [`ADMIN`], fills it as [`ADMIN`], and runs the bootstrap of managed databases in it.
    pub async fn create_database(&self, name: &str, setup: &str) -> Result<()> {
        let name_quoted = name.replace('"', "\"\"");
        self.admin("postgres").await?.batch_execute(&format!("CREATE DATABASE \"{name_quoted}\"")).await?;
        let admin = self.admin(name).await?;
        admin.batch_execute(setup).await.with_context(|| format!("setting up {name}"))?;
        admin.batch_execute(&database_sql(self.platform.admin_role())).await.context("database.sql")
    }

    /// Makes a role that a policy may hand out: the connector gets it with ADMIN OPTION, which it needs from 16 on.
    pub async fn create_handable_role(&self, name: &str) -> Result<()> {
        let name = name.replace('"', "\"\"");
        let sql = format!("CREATE ROLE \"{name}\" NOLOGIN; GRANT \"{name}\" TO {CONNECTOR} WITH ADMIN OPTION");
        Ok(self.admin("postgres").await?.batch_execute(&sql).await?)
    }

    /// From now on the server's logins are those of RDS: a member of `rds_iam`, directly or through others, comes by
    /// token and never by password, and everybody else the other way round. The token is the gate's to judge, which comes
    /// from an address of its own.
    pub async fn ask_for_tokens(&mut self) -> Result<()> {
        let file = self.server.data().join("pg_hba.conf");
        let gate = crate::aws::gate::ADDRESS;
        let rules = format!(
            "host all +rds_iam {gate}/32 trust\nhost all all {gate}/32 reject\nhost all +rds_iam 127.0.0.1/32 reject\n{}",
            fs::read_to_string(&file)?
        );
        fs::write(&file, rules)?;
        self.restart().await
    }

    /// Everything the server logged so far; every statement is in it.
    pub fn log(&self) -> Result<String> {
        Ok(String::from_utf8_lossy(&fs::read(self.server.log())?).into_owned())
    }

    /// Stops the server (sessions are ended) and starts it again.
    pub async fn restart(&mut self) -> Result<()> {
        self.server.stop(Signal::INT).await?;
        self.server.start().await
    }

    /// Stops the server as a crash would.
    pub async fn stop_immediate(&mut self) -> Result<()> {
        self.server.stop(Signal::QUIT).await
    }

    /// Starts the server on the same port and data, after [`Postgres::stop_immediate`].
    pub async fn start_again(&mut self) -> Result<()> {
        self.server.start().await
    }
}

/// The same as [`Postgres::login`] where only the port is known.
pub async fn login_at(port: u16, user: &str, password: &str, database: &str) -> Result<Client, tokio_postgres::Error> {
    server::connect(&tcp(port, user, password, database)).await
}

fn tcp(port: u16, user: &str, password: &str, database: &str) -> Config {
    let mut config = Config::new();
    config.host("127.0.0.1").port(port).user(user).password(password).dbname(database);
    config
}

async fn as_admin(port: u16, database: &str) -> Result<Client> {
    server::connect(&tcp(port, ADMIN, ADMIN_PASSWORD, database)).await.with_context(|| format!("{ADMIN} in {database}"))
}

/// `deploy/bootstrap/database.sql` for a server without `psql`, whose variable `:'admin'` it uses.
pub fn database_sql(admin_role: &str) -> String {
    DATABASE.replace(":'admin'", &format!("'{admin_role}'"))
}
