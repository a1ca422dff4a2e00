//! One postmaster on one data directory.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tokio_postgres::{Client, Config, NoTls};

use super::version::Version;
use crate::process::{self, Signal};
use crate::scratch::Scratch;

/// The superuser that `initdb` makes. Only the harness is ever logged in as it.
pub(super) const SUPERUSER: &str = "postgres";
pub(super) const TIMEOUT: Duration = Duration::from_mins(1);

/// A command that runs as the user PostgreSQL may run as.
pub(super) fn command(program: &Path) -> Result<Command> {
    let mut command = Command::new(program);
    command.current_dir("/").stdin(Stdio::null()).process_group(0);
    if let Some((user, group)) = process::unprivileged_user()? {
        command.uid(user).gid(group);
    }
    Ok(command)
}

/// Makes a file the server's own.
pub(super) fn give_away(path: &Path) -> Result<()> {
    if let Some((user, group)) = process::unprivileged_user()? {
        std::os::unix::fs::chown(path, Some(user), Some(group))?;
    }
    Ok(())
}

/// A server and where it is found. Everything it needs is in a scratch directory: `data`, its socket, `postgres.log`.
#[derive(Debug)]
pub(super) struct Server {
    pub(super) scratch: Scratch,
    pub(super) port: u16,
    binary: PathBuf,
    child: Option<Child>,
}

impl Server {
    /// Makes the scratch directory and chooses the port; [`Server::data`] is to be filled before the start.
    pub(super) fn new(version: Version) -> Result<Self> {
        let scratch = Scratch::new(&format!("pg{version}"))?;
        let sockets = scratch.join("socket");
        fs::create_dir(&sockets)?;
        give_away(&sockets)?;
        let port = process::free_port()?;
        Ok(Self { scratch, port, binary: version.bin_dir()?.join("postgres"), child: None })
    }

    pub(super) fn data(&self) -> PathBuf {
        self.scratch.join("data")
    }

    pub(super) fn log(&self) -> PathBuf {
        self.scratch.join("postgres.log")
    }

    /// Starts the server and waits until it takes connections.
    pub(super) async fn start(&mut self) -> Result<()> {
        let log = fs::OpenOptions::new().create(true).append(true).open(self.log())?;
        let child = command(&self.binary)?
            .arg("-D")
            .arg(self.data())
            .args(["-p", &self.port.to_string()])
            .arg("-k")
            .arg(self.scratch.join("socket"))
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("cannot start {}", self.binary.display()))?;
        self.scratch.record("postgres", child.id())?;
        let child = self.child.insert(child);

        let deadline = Instant::now() + TIMEOUT;
        let config = superuser(self.scratch.path(), self.port, "postgres");
        let log = self.scratch.join("postgres.log");
        loop {
            if let Some(status) = child.try_wait()? {
                bail!("PostgreSQL ended while starting ({status}):\n{}", process::tail(&log, 30));
            }
            if config.connect(NoTls).await.is_ok() {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!("PostgreSQL took no connection within {TIMEOUT:?}:\n{}", process::tail(&log, 30));
            }
            tokio::time::sleep(process::POLL).await;
        }
    }

    /// Stops the server: SIGINT ends the sessions and writes a checkpoint ("fast"), SIGQUIT is as a crash
    /// ("immediate"). PostgreSQL docs, section "Shutting Down the Server".
    pub(super) async fn stop(&mut self, signal: Signal) -> Result<()> {
        let child = self.child.as_mut().context("PostgreSQL does not run")?;
        process::signal(child.id(), signal)?;
        if process::wait(child, TIMEOUT).await?.is_none() {
            bail!("PostgreSQL did not stop on {signal:?}:\n{}", process::tail(&self.log(), 30));
        }
        self.child = None;
        self.scratch.forget("postgres");
        Ok(())
    }

    pub(super) fn signal(&self, signal: Signal) -> Result<()> {
        process::signal(self.child.as_ref().context("PostgreSQL does not run")?.id(), signal)
    }

    pub(super) async fn superuser(&self, database: &str) -> Result<Client> {
        connect(&superuser(self.scratch.path(), self.port, database)).await.with_context(|| format!("superuser in {database}"))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            process::end(&mut child, Signal::QUIT);
        }
    }
}

/// The superuser comes through the Unix socket, where the directory's owner decides who may.
fn superuser(scratch: &Path, port: u16, database: &str) -> Config {
    let mut config = Config::new();
    config.host_path(scratch.join("socket")).port(port).user(SUPERUSER).dbname(database);
    config
}

/// Connects and drives the connection in a task of its own.
pub(super) async fn connect(config: &Config) -> Result<Client, tokio_postgres::Error> {
    let (client, connection) = config.connect(NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}
