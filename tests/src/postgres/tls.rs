//! Encryption of a cluster's connections, and who may come how: changed while it runs.

use std::fs;
use std::os::unix::fs::{OpenOptionsExt as _, chown};
use std::path::Path;
use std::time::Instant;

use anyhow::{Result, ensure};

use super::{Postgres, server};
use crate::certificates::Issued;
use crate::process::{self, POLL, Signal};

/// Says in a session which configuration its server has read.
const MARK: &str = "postern_tests.reload";

/// What is to be changed in a running cluster. What is not named goes back to how the cluster was made: no TLS, and
/// SCRAM for whoever comes over TCP.
#[derive(Clone, Copy, Debug, Default)]
pub struct Access<'a> {
    /// The server's certificate and key; without it TLS is off.
    pub tls: Option<&'a Issued>,
    /// PEM of who issues clients' certificates.
    pub client_issuer: Option<&'a str>,
    /// Lines of `pg_hba.conf` for TCP; the superuser's socket stays open.
    pub rules: Option<&'a str>,
}

impl Postgres {
    /// Has the server read these settings, and waits until new sessions follow them.
    pub async fn set_access(&self, access: Access<'_>) -> Result<()> {
        let data = self.server.data();
        let mark = uuid::Uuid::new_v4().simple().to_string();
        let mut settings = format!("{MARK} = '{mark}'\n");
        if let Some(Issued { chain, key }) = access.tls {
            write_private(&data.join("server.crt"), chain)?;
            write_private(&data.join("server.key"), key)?;
            settings += "ssl = on\n";
        }
        if let Some(pem) = access.client_issuer {
            write_private(&data.join("clients.crt"), pem)?;
            settings += "ssl_ca_file = 'clients.crt'\n";
        }
        let rules = access.rules.unwrap_or("host all all 127.0.0.1/32 scram-sha-256");
        write_private(&data.join("pg_hba.conf"), &format!("local all all trust\n{rules}\n"))?;
        // Read after postgresql.conf; otherwise ALTER SYSTEM writes it.
        write_private(&data.join("postgresql.auto.conf"), &settings)?;
        self.server.signal(Signal::HUP)?;

        let deadline = Instant::now() + server::TIMEOUT;
        loop {
            let client = self.superuser("postgres").await?;
            let row = client.query_one("SELECT current_setting($1, true), current_setting('ssl')", &[&MARK]).await?;
            if row.get::<_, Option<String>>(0).is_some_and(|met| met == mark) {
                let (on, wanted) = (row.get::<_, String>(1) == "on", access.tls.is_some());
                ensure!(on == wanted, "the server's TLS is {on}, expected {wanted}:\n{}", process::tail(&self.server.log(), 10));
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "the server did not read its configuration:\n{}", process::tail(&self.server.log(), 10));
            tokio::time::sleep(POLL).await;
        }
    }
}

/// Only the user that PostgreSQL runs as can read it: of a key the server demands that.
fn write_private(path: &Path, text: &str) -> Result<()> {
    use std::io::Write as _;
    if path.exists() {
        fs::remove_file(path)?;
    }
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())?;
    if let Some((user, group)) = process::unprivileged_user()? {
        chown(path, Some(user), Some(group))?;
    }
    Ok(())
}
