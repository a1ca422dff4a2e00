//! Secret stores: where the connector's own credential comes from. One file per store behind one trait.

mod cache;
mod iam;
mod local;

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;

use secrecy::SecretString;

use crate::config::{HostPort, Integration, SecretSource};

pub use cache::CachedCredential;
pub use iam::IamLogin;
pub use local::LocalStore;

/// A name and its password.
#[derive(Clone, Debug)]
pub struct Credential {
    /// The role to log in as.
    pub username: String,
    /// Its password; never shown.
    pub password: SecretString,
}

/// Why a secret could not be had. Names the store and the secret, never its value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("secret {name} in store {store}: {what}")]
pub struct SecretError {
    /// The store's name, as in the configuration.
    pub store: &'static str,
    /// The secret's name in that store.
    pub name: String,
    /// What went wrong.
    pub what: SecretFailure,
}

/// What went wrong with a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecretFailure {
    /// The store has no such secret.
    NotFound(String),
    /// The store refuses to show it to us.
    Denied(String),
    /// The store did not answer; it may later.
    Unavailable(String),
    /// It is there and holds nothing usable.
    Malformed(String),
}

impl fmt::Display for SecretFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotFound(what) | Self::Denied(what) | Self::Unavailable(what) | Self::Malformed(what) => f.write_str(what),
        }
    }
}

impl SecretError {
    /// The result's code: one for everything about secrets.
    pub fn code(&self) -> postern_schemas::Code {
        postern_schemas::Code::SecretUnavailable
    }

    /// Whether somebody has to mend something before another try can succeed. All are worth another try: whoever mends
    /// it does so outside of Postern.
    pub fn needs_mending(&self) -> bool {
        !matches!(self.what, SecretFailure::Unavailable(_))
    }

    /// The text for results and logs.
    pub fn public_message(&self) -> String {
        self.to_string()
    }
}

/// The future of a trait object's method.
pub type Reading<'a> = Pin<Box<dyn Future<Output = Result<Credential, SecretError>> + Send + 'a>>;

/// One secret in one store.
pub trait SecretStore: fmt::Debug + Send + Sync {
    /// Reads the connector's credential as it is now. Takes at most a few seconds.
    fn connector(&self) -> Reading<'_>;
}

/// Where an integration's credential comes from. The integration's endpoint has been found. Configuration has refused the stores that this version cannot read.
pub fn store(integration: &Integration) -> Arc<dyn SecretStore> {
    match &integration.secret {
        SecretSource::Local { username, password } => Arc::new(LocalStore::new(username.clone(), password.clone())),
        SecretSource::Store(place) => Arc::new(NotYet(place.clone())),
        SecretSource::Iam { username, region } => {
            let server = HostPort { host: integration.hostname.clone(), port: integration.port };
            Arc::new(IamLogin::new(server, username.clone(), region.clone()))
        }
    }
}

/// A store that this version cannot read.
#[derive(Debug)]
struct NotYet(postern_schemas::store::StoreRef);

impl SecretStore for NotYet {
    fn connector(&self) -> Reading<'_> {
        let name = self.0.to_string();
        let what = SecretFailure::Denied("reading this store is not available in this version".to_owned());
        Box::pin(std::future::ready(Err(SecretError { store: "remote", name, what })))
    }
}
