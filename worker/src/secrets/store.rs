//! What every store can do: one trait, and the name and the time limit that every call of it gets.

use std::collections::BTreeMap;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use secrecy::SecretString;

use super::{SecretError, SecretFailure};

/// The longest that one operation on a store may take, all its requests and their repetitions together.
pub const LIMIT: Duration = Duration::from_secs(5);

/// Tags, labels or custom metadata of a secret, by key. A store whose labels cannot hold any text keeps the rest as
/// annotations and shows both here.
pub type Labels = BTreeMap<String, String>;

/// The answer of a store.
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, SecretFailure>> + Send + 'a>>;

/// A version of a secret in its store's own words, for compare-and-set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version(pub String);

/// A version of a secret that is not the current one yet, in a store that has stages.
#[derive(Clone, Debug)]
pub struct Pending {
    /// Which version that is.
    pub version: Version,
    /// Its body.
    pub body: SecretString,
}

/// A secret as a store showed it at one moment.
#[derive(Clone, Debug)]
pub struct Stored {
    /// The text, whole; zeroized when dropped.
    pub body: SecretString,
    /// `None`: this store has none.
    pub labels: Option<Labels>,
    /// The current version.
    pub version: Version,
    /// The pending stage, where the store has stages and one is there.
    pub pending: Option<Pending>,
}

/// The same without its value, for whoever may not or need not read it.
#[derive(Clone, Debug)]
pub struct Described {
    /// `None`: this store has none.
    pub labels: Option<Labels>,
    /// The current version.
    pub version: Version,
}

impl Stored {
    /// Whether it carries the mark; `None`: its store has no marks.
    pub fn is_marked(&self, mark: &str) -> Option<bool> {
        self.labels.as_ref().map(|labels| labels.get(mark).is_some_and(|value| value == "true"))
    }

    /// All but the value.
    pub fn described(&self) -> Described {
        Described { labels: self.labels.clone(), version: self.version.clone() }
    }
}

/// One secret in one store. Implementations bound their own repetitions; [`Secret`] bounds the whole.
///
/// Every method names in its failures what was met and how to mend it, never a value. A write that ends in
/// [`SecretFailure::Unavailable`] may have been done: read before writing again.
pub trait SecretStore: fmt::Debug + Send + Sync {
    /// Reads the current version, and the pending one where the store has stages.
    fn read(&self) -> Answer<'_, Stored>;

    /// Reads labels and version alone, where the store can show them without the value.
    fn describe(&self) -> Answer<'_, Described> {
        Box::pin(async { self.read().await.map(|stored| stored.described()) })
    }

    /// Makes the secret. One that is there already is a [`SecretFailure::Conflict`].
    fn create<'a>(&'a self, _body: &'a SecretString, _labels: &'a Labels) -> Answer<'a, Version> {
        only_read()
    }

    /// Writes a new current version if the secret is still at `at`, else [`SecretFailure::Conflict`]. `labels` are put
    /// over those that the secret has, by key; `None`: those it has stay.
    fn replace<'a>(&'a self, _at: &'a Version, _body: &'a SecretString, _labels: Option<&'a Labels>) -> Answer<'a, Version> {
        only_read()
    }

    /// Deletes the secret if it is still at `at`, so that its value cannot be read any more. Where the store keeps
    /// deleted secrets, their versions are disabled.
    fn delete<'a>(&'a self, _at: &'a Version) -> Answer<'a, ()> {
        only_read()
    }

    /// The store's stages, if it has any. Without, a pending password stands in the body.
    fn stages(&self) -> Option<&dyn Stages> {
        None
    }

    /// Whether the secret may be written, as far as the store says so without writing. `None`: it does not.
    fn may_write(&self) -> Answer<'_, Option<bool>> {
        Box::pin(async { Ok(None) })
    }

    /// The store's own command that puts a mark on the secret; `None` where there are no marks.
    fn mark_command(&self, _mark: &str) -> Option<String> {
        None
    }
}

fn only_read<'a, T: Send + 'a>() -> Answer<'a, T> {
    let what = "is only read from here; keep it in a secret store to have it written".to_owned();
    Box::pin(std::future::ready(Err(SecretFailure::Unsupported(what))))
}

/// A version beside the current one. Every version is named by its stage or id, never by being the latest.
pub trait Stages: Send + Sync {
    /// Writes `body` as the pending version, if none is pending and the current one is still `at`; else
    /// [`SecretFailure::Conflict`].
    fn stage<'a>(&'a self, at: &'a Version, body: &'a SecretString) -> Answer<'a, Version>;

    /// Makes `pending` the current version, if the current one is still `at`; else [`SecretFailure::Conflict`].
    fn promote<'a>(&'a self, at: &'a Version, pending: &'a Version) -> Answer<'a, ()>;

    /// Ends the pending stage of `pending`, if it still is pending; else [`SecretFailure::Conflict`].
    fn discard<'a>(&'a self, pending: &'a Version) -> Answer<'a, ()>;
}

/// One secret in one store, with the name that errors give it and [`LIMIT`] on every call.
#[derive(Clone, Debug)]
pub struct Secret {
    kind: &'static str,
    name: String,
    store: Arc<dyn SecretStore>,
}

impl Secret {
    /// `kind` is the store's name as in the configuration, `name` the secret's in that store.
    pub fn new(kind: &'static str, name: impl Into<String>, store: Arc<dyn SecretStore>) -> Self {
        Self { kind, name: name.into(), store }
    }

    /// See [`SecretStore::read`].
    pub async fn read(&self) -> Result<Stored, SecretError> {
        self.limited(self.store.read()).await
    }

    /// The same, unless the store has marks and the secret lacks this one.
    pub async fn read_marked(&self, mark: Option<&str>) -> Result<Stored, SecretError> {
        let stored = self.read().await?;
        match mark {
            Some(mark) if stored.is_marked(mark) == Some(false) => {
                let command = self.mark_command(mark).map(|command| format!(": {command}")).unwrap_or_default();
                Err(self.error(SecretFailure::Unmarked(format!(
                    "lacks the mark {mark} = \"true\", without which it is not read; set it{command}"
                ))))
            }
            _ => Ok(stored),
        }
    }

    /// See [`SecretStore::describe`].
    pub async fn describe(&self) -> Result<Described, SecretError> {
        self.limited(self.store.describe()).await
    }

    /// See [`SecretStore::create`].
    pub async fn create(&self, body: &SecretString, labels: &Labels) -> Result<Version, SecretError> {
        self.limited(self.store.create(body, labels)).await
    }

    /// See [`SecretStore::replace`].
    pub async fn replace(&self, at: &Version, body: &SecretString, labels: Option<&Labels>) -> Result<Version, SecretError> {
        self.limited(self.store.replace(at, body, labels)).await
    }

    /// See [`SecretStore::delete`].
    pub async fn delete(&self, at: &Version) -> Result<(), SecretError> {
        self.limited(self.store.delete(at)).await
    }

    /// See [`SecretStore::may_write`].
    pub async fn may_write(&self) -> Result<Option<bool>, SecretError> {
        self.limited(self.store.may_write()).await
    }

    /// See [`SecretStore::stages`].
    pub fn has_stages(&self) -> bool {
        self.store.stages().is_some()
    }

    /// See [`Stages::stage`].
    pub async fn stage(&self, at: &Version, body: &SecretString) -> Result<Version, SecretError> {
        match self.store.stages() {
            Some(stages) => self.limited(stages.stage(at, body)).await,
            None => Err(self.no_stages()),
        }
    }

    /// See [`Stages::promote`].
    pub async fn promote(&self, at: &Version, pending: &Version) -> Result<(), SecretError> {
        match self.store.stages() {
            Some(stages) => self.limited(stages.promote(at, pending)).await,
            None => Err(self.no_stages()),
        }
    }

    /// See [`Stages::discard`].
    pub async fn discard(&self, pending: &Version) -> Result<(), SecretError> {
        match self.store.stages() {
            Some(stages) => self.limited(stages.discard(pending)).await,
            None => Err(self.no_stages()),
        }
    }

    /// See [`SecretStore::mark_command`].
    pub fn mark_command(&self, mark: &str) -> Option<String> {
        self.store.mark_command(mark)
    }

    /// This secret's error.
    pub fn error(&self, what: SecretFailure) -> SecretError {
        SecretError { store: self.kind, name: self.name.clone(), what }
    }

    fn no_stages(&self) -> SecretError {
        self.error(SecretFailure::Unsupported("the store has no stages; a pending password stands in the body".to_owned()))
    }

    async fn limited<T>(&self, answer: Answer<'_, T>) -> Result<T, SecretError> {
        let what = match tokio::time::timeout(LIMIT, answer).await {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(what)) => what,
            Err(_) => SecretFailure::Unavailable(format!("no answer within {} s", LIMIT.as_secs())),
        };
        Err(self.error(what))
    }
}
