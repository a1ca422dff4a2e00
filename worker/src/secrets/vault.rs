//! HashiCorp Vault and `OpenBao`: key/value engines of version 2 and 1 (Vault docs, "KV secrets engine - HTTP API").
//!
//! Version 2 has compare-and-set (`cas`) and custom metadata. Version 1 has neither: a write is read, compare, write,
//! and whoever wrote reads back; and there is no mark to look for. Deleting has no compare-and-set in either.

mod kv;
mod server;

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use secrecy::{ExposeSecret as _, SecretString};
use tokio::sync::Mutex;

use self::kv::Engine;
use self::server::Server;
use super::store::{Answer, Described, Labels, SecretStore, Stored, Version};
use super::{Secret, SecretFailure};
use crate::config::vault::{VaultConfig, VaultEntry, VaultServer};

/// How long a server that was read from another store is remembered.
const REMEMBERED: Duration = Duration::from_mins(5);

/// The configured servers, shared by all secrets in them.
#[derive(Debug)]
pub(super) struct Vault {
    entries: Vec<Entry>,
    namespace: Option<String>,
}

#[derive(Debug)]
enum Entry {
    Server(Arc<Server>),
    From { secret: Secret, mark: String, kept: Mutex<Option<(Instant, Arc<Server>)>> },
}

impl Vault {
    /// `at` makes the secret of a place in another store.
    pub(super) fn new(config: &VaultConfig, mark: &str, at: impl Fn(&postern_schemas::store::StoreRef) -> Secret) -> Self {
        let namespace = config.namespace.clone();
        let entry = |entry: &VaultEntry| match entry {
            VaultEntry::Server(server) => Entry::Server(Arc::new(Server::new(server.clone(), namespace.clone()))),
            VaultEntry::From(place) => Entry::From { secret: at(place), mark: mark.to_owned(), kept: Mutex::default() },
        };
        Self { entries: config.servers.iter().map(entry).collect(), namespace }
    }

    /// The server of an entry, read from its store if it has to be.
    async fn server(&self, entry: &Entry) -> Result<Arc<Server>, SecretFailure> {
        let (secret, mark, kept) = match entry {
            Entry::Server(server) => return Ok(Arc::clone(server)),
            Entry::From { secret, mark, kept } => (secret, mark, kept),
        };
        let mut kept = kept.lock().await;
        if let Some((_, server)) = kept.as_ref().filter(|(since, _)| since.elapsed() < REMEMBERED) {
            return Ok(Arc::clone(server));
        }
        let read = secret.read_marked(Some(mark)).await.and_then(|stored| {
            VaultServer::from_secret(stored.body.expose_secret()).map_err(|what| secret.error(SecretFailure::Malformed(what)))
        });
        let server = read.map_err(|error| SecretFailure::Unavailable(format!("a server cannot be read from its own store: {error}")))?;
        let server = Arc::new(Server::new(server, self.namespace.clone()));
        *kept = Some((Instant::now(), Arc::clone(&server)));
        Ok(server)
    }

    /// A server that was read from another store may have been replaced there.
    async fn forget(&self) {
        for entry in &self.entries {
            if let Entry::From { kept, .. } = entry {
                *kept.lock().await = None;
            }
        }
    }
}

/// One path below the mount of one engine.
#[derive(Debug)]
pub(super) struct VaultSecret {
    vault: Arc<Vault>,
    engine: String,
    path: String,
}

impl VaultSecret {
    pub(super) fn new(vault: Arc<Vault>, engine: &str, path: &str) -> Self {
        Self { vault, engine: engine.trim_matches('/').to_owned(), path: path.trim_matches('/').to_owned() }
    }

    /// The engine on each server, in the configured order.
    async fn engines(&self) -> Vec<Result<Engine, SecretFailure>> {
        let engine = async |entry: &Entry| {
            let server = self.vault.server(entry).await?;
            Engine::find(server, &self.engine, &self.path).await
        };
        join_all(self.vault.entries.iter().map(engine)).await
    }

    /// What the first server says that has the path. All are asked at once, so that one that is down costs no more than
    /// its own time limit. If none has it, a server that did not answer counts first: it may be the one.
    async fn first<T>(&self, ask: impl AsyncFn(&Engine) -> Result<T, SecretFailure>) -> Result<(usize, T), SecretFailure> {
        let engines = self.engines().await;
        let answers = join_all(engines.iter().map(async |engine| match engine {
            Ok(engine) => ask(engine).await,
            Err(failure) => Err(failure.clone()),
        }))
        .await;
        let mut worst = SecretFailure::NotFound("no server of HASHICORP_VAULT_CONFIG has this path".to_owned());
        for (index, answer) in answers.into_iter().enumerate() {
            match answer {
                Ok(found) => return Ok((index, found)),
                Err(failure) if gravity(&failure) > gravity(&worst) => worst = failure,
                Err(_) => {}
            }
        }
        if matches!(worst, SecretFailure::Denied(_)) {
            self.vault.forget().await;
        }
        Err(worst)
    }

    /// The engine that a version was read from, and the version there.
    async fn at(&self, version: &Version) -> Result<(Engine, String), SecretFailure> {
        let gone = || SecretFailure::Conflict("the version names no server".to_owned());
        let (index, version) = version.0.split_once(':').ok_or_else(gone)?;
        let entry = index.parse().ok().and_then(|index: usize| self.vault.entries.get(index)).ok_or_else(gone)?;
        let server = self.vault.server(entry).await?;
        Ok((Engine::find(server, &self.engine, &self.path).await?, version.to_owned()))
    }
}

/// Nothing there is said only if every server says so.
fn gravity(failure: &SecretFailure) -> u8 {
    match failure {
        SecretFailure::NotFound(_) => 0,
        SecretFailure::Denied(_) => 1,
        SecretFailure::Unavailable(_) => 2,
        _ => 3,
    }
}

fn version(index: usize, version: &str) -> Version {
    Version(format!("{index}:{version}"))
}

impl SecretStore for VaultSecret {
    fn read(&self) -> Answer<'_, Stored> {
        Box::pin(async {
            let (index, (body, labels, at)) = self.first(async |engine| engine.read().await).await?;
            Ok(Stored { body, labels, version: version(index, &at), pending: None })
        })
    }

    fn describe(&self) -> Answer<'_, Described> {
        Box::pin(async {
            let (index, (labels, at)) = self.first(async |engine| engine.describe().await).await?;
            Ok(Described { labels, version: version(index, &at) })
        })
    }

    /// On the first server whose token may see that the path is free.
    fn create<'a>(&'a self, body: &'a SecretString, labels: &'a Labels) -> Answer<'a, Version> {
        Box::pin(async {
            match self.describe().await {
                Err(SecretFailure::NotFound(_)) => {}
                Ok(_) => return Err(SecretFailure::Conflict("is there already".to_owned())),
                Err(other) => return Err(other),
            }
            let mut denied = SecretFailure::Denied("no server lets the path be seen".to_owned());
            for (index, engine) in self.engines().await.into_iter().enumerate() {
                let engine = match engine {
                    Ok(engine) => engine,
                    Err(failure) => {
                        denied = failure;
                        continue;
                    }
                };
                match engine.describe().await {
                    Err(SecretFailure::NotFound(_)) => return engine.create(body, labels).await.map(|at| version(index, &at)),
                    Err(failure) => denied = failure,
                    Ok(_) => return Err(SecretFailure::Conflict("is there already".to_owned())),
                }
            }
            Err(denied)
        })
    }

    fn replace<'a>(&'a self, at: &'a Version, body: &'a SecretString, labels: Option<&'a Labels>) -> Answer<'a, Version> {
        Box::pin(async move {
            let (engine, at_there) = self.at(at).await?;
            let index = at.0.split_once(':').map_or("0", |(index, _)| index);
            engine.replace(&at_there, body, labels).await.map(|now| Version(format!("{index}:{now}")))
        })
    }

    fn delete<'a>(&'a self, at: &'a Version) -> Answer<'a, ()> {
        Box::pin(async move {
            let (engine, at) = self.at(at).await?;
            engine.delete(&at).await
        })
    }

    fn may_write(&self) -> Answer<'_, Option<bool>> {
        Box::pin(async {
            let (index, _read) = self.first(async |engine| engine.read().await).await?;
            match self.engines().await.into_iter().nth(index) {
                Some(engine) => engine?.may_write().await.map(Some),
                None => Ok(None),
            }
        })
    }

    fn mark_command(&self, mark: &str) -> Option<String> {
        Some(format!("vault kv metadata patch -mount={} -custom-metadata={mark}=true {}", self.engine, self.path))
    }
}
