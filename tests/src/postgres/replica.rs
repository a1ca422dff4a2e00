//! A streaming read replica of a cluster.

use std::fs;

use anyhow::{Context, Result};

use super::server::{self, SUPERUSER, Server};
use super::{Postgres, template};

impl Postgres {
    /// Starts a hot standby that streams from this cluster through its socket. It is a copy of the data directory, made
    /// with the server's own backup functions (PostgreSQL docs, "Making a Base Backup Using the Low Level API"): not every
    /// build that the tests run on has `pg_basebackup`.
    pub async fn replica(&self) -> Result<Self> {
        let (start, stop) = if self.version.major() < 15 {
            ("SELECT pg_start_backup('replica', true, false)", "SELECT labelfile FROM pg_stop_backup(false, false)")
        } else {
            ("SELECT pg_backup_start('replica', true)", "SELECT labelfile FROM pg_backup_stop(false)")
        };
        let mut server = Server::new(self.version)?;
        let data = server.data();
        // Both calls belong into one session.
        let superuser = self.superuser("postgres").await?;
        superuser.batch_execute(start).await?;
        template::copy(&self.server.data(), &data)?;
        let label: String = superuser.query_one(stop, &[]).await?.get(0);
        fs::remove_file(data.join("postmaster.pid"))?;
        let socket = self.server.scratch.join("socket");
        let source = format!("host={} port={} user={SUPERUSER} application_name=replica", socket.display(), self.port());
        let settings = data.join("postgresql.auto.conf");
        let before = fs::read_to_string(&settings).context("postgresql.auto.conf")?;
        fs::write(&settings, format!("{before}primary_conninfo = '{source}'\n"))?;
        for (name, text) in [("backup_label", label.as_str()), ("standby.signal", "")] {
            fs::write(data.join(name), text)?;
            server::give_away(&data.join(name))?;
        }
        server.start().await?;
        Ok(Self { version: self.version, platform: self.platform, server })
    }

    /// Waits until this replica has replayed what its primary has written so far.
    pub async fn follows(&self, primary: &Self) -> Result<()> {
        let written: String = primary.superuser("postgres").await?.query_one("SELECT pg_current_wal_lsn()::text", &[]).await?.get(0);
        let here = self.superuser("postgres").await?;
        let deadline = std::time::Instant::now() + crate::audit::TIMEOUT;
        let sql = format!("SELECT pg_last_wal_replay_lsn() >= '{written}'");
        while !here.query_one(&sql, &[]).await?.get::<_, bool>(0) {
            anyhow::ensure!(std::time::Instant::now() < deadline, "the replica does not follow");
            tokio::time::sleep(crate::process::POLL).await;
        }
        Ok(())
    }
}
