//! A `PgBouncer` before a cluster.

use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, ensure};

use crate::postgres::{CONNECTOR, Postgres};
use crate::process::{self, Signal};
use crate::scratch::Scratch;

/// A running pooler that knows the connector alone.
#[derive(Debug)]
pub struct PgBouncer {
    scratch: Scratch,
    child: Child,
    /// Where it listens, on 127.0.0.1.
    pub port: u16,
}

impl PgBouncer {
    /// Starts one. `mode`: `session` or `transaction`; at most `pool` sessions with each database.
    pub async fn start(pg: &Postgres, mode: &str, pool: u16) -> Result<Self> {
        let scratch = Scratch::new("pgbouncer")?;
        let port = process::free_port()?;
        let (users, settings) = (scratch.join("users"), scratch.join("pgbouncer.ini"));
        // With the password itself it can log in by SCRAM on both sides.
        fs::write(&users, format!("\"{CONNECTOR}\" \"{}\"\n", pg.connector_password()))?;
        let text = format!(
            "[databases]\n* = host=127.0.0.1 port={}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n\
             auth_type = scram-sha-256\nauth_file = {}\npool_mode = {mode}\ndefault_pool_size = {pool}\nmax_client_conn = 200\n",
            pg.port(),
            users.display()
        );
        fs::write(&settings, text)?;
        let log = fs::File::create(scratch.join("log"))?;
        let mut command = Command::new("pgbouncer");
        command.arg(&settings).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).process_group(0);
        if let Some((user, group)) = process::unprivileged_user()? {
            command.uid(user).gid(group);
        }
        let child = command.spawn().context("cannot start pgbouncer: run scripts/setup.sh test")?;
        scratch.record("pgbouncer", child.id())?;
        let mut pooler = Self { scratch, child, port };
        pooler.ready().await?;
        Ok(pooler)
    }

    async fn ready(&mut self) -> Result<()> {
        let deadline = Instant::now() + crate::audit::TIMEOUT;
        let log = self.scratch.join("log");
        while tokio::net::TcpStream::connect(("127.0.0.1", self.port)).await.is_err() {
            let ended = self.child.try_wait()?;
            ensure!(ended.is_none() && Instant::now() < deadline, "pgbouncer does not listen:\n{}", tail(&log));
            tokio::time::sleep(process::POLL).await;
        }
        Ok(())
    }
}

fn tail(log: &Path) -> String {
    process::tail(log, 20)
}

impl Drop for PgBouncer {
    fn drop(&mut self) {
        process::end(&mut self.child, Signal::TERM);
    }
}
