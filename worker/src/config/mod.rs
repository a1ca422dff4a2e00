//! Configuration: one TOML file and a few environment variables, read into values that can only be legal.
//!
//! | file | section |
//! |---|---|
//! | [`broker`] | `[broker]` |
//! | [`worker`] | `[worker]` |
//! | [`integration`] | `[integrations.<id>]` |
//! | [`policy`] | `[integrations.<id>.policy]` |
//! | [`secret`] | `secret = { … }` |
//! | [`vault`] | `HASHICORP_VAULT_CONFIG` |
//! | [`tls`] | `ssl_mode` |
//! | `rds` | `region`, `instance_id`, `auth = "iam"` |
//! | [`resolve`] | `POSTERN_RESOLVE` |
//! | [`role_name`] | `role_name` |
//! | `unavailable` | keys of the contract that this version refuses |
//!
//! | variable | overrides |
//! |---|---|
//! | `POSTERN_CONFIG` | the file's path, unless `--config` is given; default `postern.toml` |
//! | `POSTERN_BROKER_URL` | `broker.url` |
//! | `POSTERN_LISTEN` | `worker.listen` |
//! | `POSTERN_RESOLVE` | where names lead to, for tests and private networks; see [`resolve`] |
//! | `HASHICORP_VAULT_CONFIG`, `…_FILE_PATH`, `VAULT_NAMESPACE` | nothing in the file: the servers of HashiCorp Vault |
//! | `POSTERN_LOG` | nothing in the file: what is logged, such as `info,postern=debug` |
//!
//! Every mistake is reported, not only the first, each with its key's path. No message repeats a text that may be
//! secret: the broker's URL is described, never quoted.

pub mod broker;
pub mod integration;
pub mod policy;
mod rds;
mod read;
pub mod resolve;
pub mod role_name;
pub mod secret;
mod source;
pub mod tls;
mod unavailable;
pub mod vault;
pub mod worker;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use postern_schemas::IntegrationId;
use postern_schemas::fields::{Fields, Problem, Problems};
use postern_schemas::store::StoreRef;
use serde_json::Value;

pub use integration::{HostPort, Instance, Integration, Platform};
pub use policy::Policy;
pub use resolve::Resolve;
pub use role_name::RoleTemplate;
pub use secret::SecretSource;
pub use tls::SslMode;
pub use vault::VaultConfig;
pub use worker::WorkerConfig;

/// The file that is read when neither `--config` nor `POSTERN_CONFIG` names one.
pub const DEFAULT_PATH: &str = "postern.toml";
/// The tag or label that a readable secret carries unless `secret_mark` says otherwise.
const DEFAULT_SECRET_MARK: &str = "apono-connector-read";

/// Looks up an environment variable. `std::env::var(name).ok()` outside tests.
pub type Env<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Everything the worker and the command line are told.
#[derive(Clone, Debug)]
pub struct Config {
    /// The tag or label that a secret must carry, with the value `true`, before it is read.
    pub secret_mark: String,
    /// How to reach the broker.
    pub broker: crate::broker::Settings,
    /// The worker's limits.
    pub worker: WorkerConfig,
    /// The database servers that can be asked for.
    pub integrations: BTreeMap<IntegrationId, Arc<Integration>>,
    /// The servers of HashiCorp Vault; the environment's alone, since they hold tokens.
    pub vault: VaultConfig,
    /// `POSTERN_LOG`, already checked.
    pub log: Option<String>,
}

/// Why the configuration is refused. The process ends with code 78 (`EX_CONFIG` of sysexits.h).
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file could not be read.
    #[error("{}: cannot be read: {source}; name another with --config or POSTERN_CONFIG", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is not TOML.
    #[error("{}:{line}:{column}: is not TOML: {message}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Where, from 1.
        line: usize,
        /// Where in the line, in characters from 1.
        column: usize,
        /// What the parser met and expected.
        message: String,
    },
    /// The values are wrong.
    #[error("{}: {}", path.display(), Lines(problems))]
    Mistakes {
        /// The file.
        path: PathBuf,
        /// All mistakes, in the order of reading; never empty.
        problems: Vec<Problem>,
    },
}

/// One mistake a line.
struct Lines<'a>(&'a [Problem]);

impl fmt::Display for Lines<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.0.len(), if self.0.len() == 1 { "mistake" } else { "mistakes" })?;
        self.0.iter().try_for_each(|problem| write!(f, "\n  {problem}"))
    }
}

impl Config {
    /// Reads and checks the file at `path` (else at `POSTERN_CONFIG`, else at [`DEFAULT_PATH`]) and the environment.
    pub fn load(path: Option<&Path>, env: Env<'_>) -> Result<Self, ConfigError> {
        let path = path
            .map(Path::to_path_buf)
            .or_else(|| read::variable(env, "POSTERN_CONFIG").map(PathBuf::from))
            .unwrap_or_else(|| PathBuf::from(DEFAULT_PATH));
        let text = std::fs::read_to_string(&path).map_err(|source| ConfigError::Unreadable { path: path.clone(), source })?;
        Self::parse(&text, &path, env)
    }

    /// Checks `text`, which stands in the file `path`, and the environment.
    pub fn parse(text: &str, path: &Path, env: Env<'_>) -> Result<Self, ConfigError> {
        let document = source::to_json(text).map_err(|at| at.in_file(path))?;
        let problems = Problems::default();
        let config = Self::read(&document, env, &problems);
        match config {
            Some(config) if problems.is_empty() => Ok(config),
            _ => Err(ConfigError::Mistakes { path: path.to_owned(), problems: problems.into_vec() }),
        }
    }

    fn read(document: &Value, env: Env<'_>, problems: &Problems) -> Option<Self> {
        let fields = Fields::new(document, "", problems)?;
        let secret_mark = read::parsed(&fields, "secret_mark", mark);
        let broker = broker::read(&fields, env);
        let worker = WorkerConfig::read(&fields, env);
        let integrations = integrations(&fields, &Resolve::read(env, problems));
        let vault = VaultConfig::read(env, problems);
        let nowhere = |integration: &Integration| {
            matches!(integration.secret, SecretSource::Store { place: StoreRef::HashicorpVault { .. }, .. }) && vault.servers.is_empty()
        };
        for integration in integrations.values().filter(|integration| nowhere(integration)) {
            let path = format!("integrations.{}.secret.hashicorp_vault", integration.id);
            problems.add(path, "no server is known; set HASHICORP_VAULT_CONFIG or HASHICORP_VAULT_CONFIG_FILE_PATH");
        }
        let log = log(env, problems);
        fields.finish();
        Some(Self {
            secret_mark: secret_mark.unwrap_or_else(|| DEFAULT_SECRET_MARK.to_owned()),
            broker: broker?,
            worker: worker?,
            integrations,
            vault,
            log,
        })
    }
}

fn integrations(fields: &Fields<'_>, resolve: &Resolve) -> BTreeMap<IntegrationId, Arc<Integration>> {
    let problems = fields.problems();
    let Some(tables) = fields.object("integrations") else { return BTreeMap::new() };
    let read = |name: &str, table: &Value| {
        let path = tables.path(name);
        match IntegrationId::new(name) {
            Ok(id) => Integration::read(id, table, path, resolve, problems),
            Err(message) => {
                problems.add(path.clone(), message);
                // Under any other name, so that the mistakes inside are listed too.
                IntegrationId::new("unnamed").ok().and_then(|id| Integration::read(id, table, path, resolve, problems))
            }
        }
    };
    // Not `Fields::object` for each: the names are the operator's, not ours.
    let map = fields.value("integrations").and_then(Value::as_object);
    map.into_iter().flatten().filter_map(|(name, table)| read(name, table)).map(|i| (i.id.clone(), Arc::new(i))).collect()
}

/// The mark has to be legal as a tag of AWS and Azure and as a label of Kubernetes.
fn mark(text: &str) -> Result<String, String> {
    let legal = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'/');
    if (1..=63).contains(&text.len()) && text.bytes().all(legal) {
        Ok(text.to_owned())
    } else {
        Err(format!("{text:?} cannot be a tag or label; expected 1 to 63 of a-z, A-Z, 0-9, - _ . /"))
    }
}

fn log(env: Env<'_>, problems: &Problems) -> Option<String> {
    let text = read::variable(env, "POSTERN_LOG")?;
    if let Err(message) = crate::telemetry::check_filter(&text) {
        problems.add("POSTERN_LOG", message);
    }
    Some(text)
}
