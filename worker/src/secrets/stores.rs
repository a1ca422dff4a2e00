//! Which store a place is in. Clients are made once and shared by all secrets of a store.

use std::sync::Arc;

use postern_schemas::store::StoreRef;
use secrecy::SecretString;

use super::iam::IamLogin;
use super::local::LocalStore;
use super::store::{Answer, SecretStore, Stored};
use super::{Connector, Labels, Secret, SecretFailure, Version};
use crate::config::{Config, HostPort, Integration, SecretSource};

/// The secret stores that this process can use. Cheap to clone; no store is contacted before it is asked.
#[derive(Clone, Debug)]
pub struct Stores {
    mark: Arc<str>,
}

impl Stores {
    /// The stores as configured.
    pub fn new(config: &Config) -> Self {
        Self { mark: config.secret_mark.as_str().into() }
    }

    /// The secret of an integration's connector. The integration's endpoint has been found.
    pub fn connector(&self, integration: &Integration) -> Connector {
        let mark = integration.require_mark.then(|| self.mark.to_string());
        match &integration.secret {
            SecretSource::Local { username, password } => {
                Connector::new(LocalStore::secret(password.clone()), Some(username.clone()), mark)
            }
            SecretSource::Store { place, username } => Connector::new(self.at(place), username.clone(), mark),
            SecretSource::Iam { username, region } => {
                let server = HostPort { host: integration.hostname.clone(), port: integration.port };
                Connector::new(IamLogin::secret(server, username.clone(), region.clone()), Some(username.clone()), None)
            }
        }
    }

    /// The secret at a place, for reading and writing.
    pub fn at(&self, place: &StoreRef) -> Secret {
        let name = place.to_string();
        let (kind, name) = (place.store(), name.split_once(':').map_or(name.as_str(), |(_, name)| name));
        Secret::new(kind, name, Arc::new(NotYet))
    }
}

/// A store that this version cannot use. Configuration refuses to read from one.
#[derive(Debug)]
struct NotYet;

impl NotYet {
    fn answer<'a, T: Send + 'a>() -> Answer<'a, T> {
        Box::pin(std::future::ready(Err(SecretFailure::Unsupported("this store is not available in this version".to_owned()))))
    }
}

impl SecretStore for NotYet {
    fn read(&self) -> Answer<'_, Stored> {
        Self::answer()
    }

    fn create<'a>(&'a self, _: &'a SecretString, _: &'a Labels) -> Answer<'a, Version> {
        Self::answer()
    }

    fn replace<'a>(&'a self, _: &'a Version, _: &'a SecretString, _: Option<&'a Labels>) -> Answer<'a, Version> {
        Self::answer()
    }

    fn delete<'a>(&'a self, _: &'a Version) -> Answer<'a, ()> {
        Self::answer()
    }

    fn mark_command(&self, _: &str) -> Option<String> {
        None
    }
}
