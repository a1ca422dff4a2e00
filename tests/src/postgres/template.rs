//! The prepared data directory of each version and platform, made once and copied for every cluster.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::server::{self, SUPERUSER, Server};
use super::version::{self, Platform, Version};
use super::{ADMIN, CONNECTOR, CONNECTOR_PASSWORD, SAMPLE_DATABASE, as_admin, database_sql};
use crate::process::Signal;

const PLATFORM_AZURE: &str = include_str!("../../fixtures/bootstrap/platform-azure.sql");
const PLATFORM_RDS: &str = include_str!("../../fixtures/bootstrap/platform-rds.sql");
const PLATFORM_SELF_HOSTED: &str = include_str!("../../fixtures/bootstrap/platform-postgresql.sql");
const CONNECTOR_AZURE: &str = include_str!("../../../deploy/bootstrap/connector-azure.sql");
const CONNECTOR_RDS: &str = include_str!("../../../deploy/bootstrap/connector-rds.sql");
const CONNECTOR_SELF_HOSTED: &str = include_str!("../../../deploy/bootstrap/connector-postgresql.sql");
const SAMPLE: &str = include_str!("../../fixtures/sample.sql");

/// Small, quick, and telling everything: `log_statement = all` shows in the log whatever secret was sent in a statement.
const SETTINGS: &str = "
listen_addresses = '127.0.0.1'
max_connections = 100
max_prepared_transactions = 10
shared_buffers = 16MB
fsync = off
full_page_writes = off
jit = off
log_statement = all
log_line_prefix = '%m [%p] %u@%d '
log_timezone = UTC
";

/// The directory to copy; made now if it is not there.
pub(super) async fn directory(version: Version, platform: Platform) -> Result<PathBuf> {
    let cache = version::cache_dir()?.join("clusters");
    fs::create_dir_all(&cache).with_context(|| format!("cannot make {}", cache.display()))?;
    let template = cache.join(format!("{version}-{:016x}", fingerprint(version, platform)?));
    // Test processes that run at the same time must not make it twice.
    let lock = fs::File::create(cache.join(format!("{version}.lock")))?;
    let _locked = tokio::task::spawn_blocking(move || lock.lock().map(|()| lock)).await??;
    if !template.exists() {
        make(version, platform, &template).await.with_context(|| format!("preparing a cluster of PostgreSQL {version}"))?;
    }
    Ok(template)
}

/// Changes when the template has to be made anew.
fn fingerprint(version: Version, platform: Platform) -> Result<u64> {
    let mut hasher = DefaultHasher::new();
    version.full()?.hash(&mut hasher);
    (SETTINGS, SAMPLE, CONNECTOR_PASSWORD, database_sql(platform.admin_role())).hash(&mut hasher);
    scripts(platform).hash(&mut hasher);
    Ok(hasher.finish())
}

/// What the platform's maker runs, and what the operator runs for the connector.
fn scripts(platform: Platform) -> (&'static str, &'static str) {
    match platform {
        Platform::Azure => (PLATFORM_AZURE, CONNECTOR_AZURE),
        Platform::Rds => (PLATFORM_RDS, CONNECTOR_RDS),
        Platform::SelfHosted => (PLATFORM_SELF_HOSTED, CONNECTOR_SELF_HOSTED),
    }
}

async fn make(version: Version, platform: Platform, template: &Path) -> Result<()> {
    let mut server = Server::new(version)?;
    let data = server.data();
    fs::create_dir(&data)?;
    server::give_away(&data)?;
    let output = server::command(&version.bin_dir()?.join("initdb"))?
        .arg("-D")
        .arg(&data)
        .args(["-U", SUPERUSER, "--auth-local=trust", "--auth-host=scram-sha-256"])
        .args(["--encoding=UTF8", "--locale=C", "--wal-segsize=1", "--no-sync"])
        .output()?;
    if !output.status.success() {
        bail!("initdb failed: {}", String::from_utf8_lossy(&output.stderr));
    }
    let settings = data.join("postgresql.conf");
    let defaults = fs::read_to_string(&settings)?;
    fs::write(&settings, defaults + SETTINGS)?;

    server.start().await?;
    let (roles, connector) = scripts(platform);
    let database = database_sql(platform.admin_role());
    let superuser = server.superuser("postgres").await?;
    // Statement by statement: CREATE DATABASE may not share a transaction with others.
    for statement in roles.split_inclusive(";\n") {
        superuser.batch_execute(statement).await.with_context(|| statement.to_owned())?;
    }
    let connector = format!("{connector}; ALTER ROLE {CONNECTOR} PASSWORD '{CONNECTOR_PASSWORD}'");
    let operator = match platform {
        Platform::Azure | Platform::Rds => as_admin(server.port, "postgres").await?,
        Platform::SelfHosted => server.superuser("postgres").await?,
    };
    operator.batch_execute(&connector).await.context("connector")?;
    superuser.batch_execute(&database).await.context("database.sql in postgres")?;
    server.superuser("template1").await?.batch_execute(&database).await.context("database.sql in template1")?;
    superuser.batch_execute(&format!("CREATE DATABASE {SAMPLE_DATABASE} OWNER {ADMIN}")).await?;
    let admin = as_admin(server.port, SAMPLE_DATABASE).await?;
    admin.batch_execute(SAMPLE).await.context("sample.sql")?;
    admin.batch_execute(&database).await.context("database.sql in the sample")?;
    server.stop(Signal::INT).await?;

    // Complete under another name first: whoever looks finds all of it or nothing.
    let unfinished = template.with_extension("unfinished");
    if unfinished.exists() {
        fs::remove_dir_all(&unfinished)?;
    }
    copy(&data, &unfinished)?;
    fs::rename(&unfinished, template)?;
    Ok(())
}

/// Copies a directory with owners and modes, sharing blocks where the file system can.
pub(super) fn copy(from: &Path, to: &Path) -> Result<()> {
    let output = Command::new("cp").args(["-a", "--reflink=auto", "-T"]).arg(from).arg(to).output()?;
    if !output.status.success() {
        bail!("cannot copy a cluster: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}
