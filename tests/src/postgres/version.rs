//! Which PostgreSQL, where its binaries are, and which platform it plays.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::str::FromStr;

use anyhow::{Context, Result, bail};

/// A major version that Postern supports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Version(u16);

/// Whose server a cluster plays, as far as rights go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Platform {
    /// Azure Database for PostgreSQL.
    Azure,
    /// Amazon RDS for PostgreSQL.
    Rds,
    /// A server of one's own, where a superuser runs the bootstrap.
    SelfHosted,
}

impl Platform {
    /// All platforms.
    pub const ALL: [Self; 3] = [Self::Azure, Self::Rds, Self::SelfHosted];

    /// The platform's admin role, which holds the grant options.
    pub fn admin_role(self) -> &'static str {
        match self {
            Self::Azure => "azure_pg_admin",
            Self::Rds => "rds_superuser",
            Self::SelfHosted => "postern_admin",
        }
    }

    /// The `type` of an integration on this platform.
    pub fn integration_type(self) -> &'static str {
        match self {
            Self::Azure => "azure-postgresql",
            Self::Rds => "aws-rds-postgresql",
            Self::SelfHosted => "postgresql",
        }
    }
}

impl Version {
    /// All versions, oldest first.
    pub const ALL: [Self; 5] = [Self(14), Self(15), Self(16), Self(17), Self(18)];

    /// The version that this run of the suite is about: `POSTERN_TEST_PG`, or 15.
    pub fn under_test() -> Result<Self> {
        std::env::var("POSTERN_TEST_PG").map_or(Ok(Self(15)), |text| text.parse())
    }

    /// 14 to 18.
    pub fn major(self) -> u16 {
        self.0
    }

    /// The platform that a cluster of this version plays unless a test asks for another.
    pub fn platform(self) -> Platform {
        if self.0.is_multiple_of(2) { Platform::Azure } else { Platform::Rds }
    }

    /// The directory of `postgres` and `initdb`: what `scripts/setup.sh` fetched, or else the system's.
    pub fn bin_dir(self) -> Result<PathBuf> {
        let fetched = cache_dir()?.join("postgres").join(self.0.to_string()).join("bin");
        let system = Path::new("/usr/lib/postgresql").join(self.0.to_string()).join("bin");
        [fetched, system]
            .into_iter()
            .find(|dir| dir.join("initdb").exists() && dir.join("postgres").exists())
            .with_context(|| format!("PostgreSQL {self} is not installed: run scripts/setup.sh test"))
    }

    /// `psql`, beside the server or the system's, if there is any.
    pub fn psql(self) -> Option<PathBuf> {
        let beside = self.bin_dir().ok()?.join("psql");
        [beside, PathBuf::from("/usr/bin/psql")].into_iter().find(|path| path.exists())
    }

    /// What `postgres --version` prints, such as `postgres (PostgreSQL) 15.18`.
    pub fn full(self) -> Result<String> {
        let output = Command::new(self.bin_dir()?.join("postgres")).arg("--version").output()?;
        Ok(String::from_utf8(output.stdout)?.trim().to_owned())
    }
}

impl FromStr for Version {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        match text.parse() {
            Ok(major @ 14..=18) => Ok(Self(major)),
            _ => bail!("PostgreSQL version `{text}`: expected 14, 15, 16, 17 or 18"),
        }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Where binaries and prepared clusters are kept between runs; the same rule as in `scripts/lib.sh`. Root's home is
/// closed to the user that PostgreSQL runs as, so root's cache is elsewhere.
pub fn cache_dir() -> Result<PathBuf> {
    if let Some(dir) = std::env::var_os("POSTERN_CACHE") {
        return Ok(dir.into());
    }
    if rustix::process::geteuid().is_root() {
        return Ok("/var/cache/postern".into());
    }
    let base = match std::env::var_os("XDG_CACHE_HOME") {
        Some(dir) => PathBuf::from(dir),
        None => PathBuf::from(std::env::var_os("HOME").context("HOME is not set")?).join(".cache"),
    };
    Ok(base.join("postern"))
}
