//! Which store a place is in. Clients are made once and shared by all secrets of a store.

use std::sync::Arc;

use postern_schemas::store::StoreRef;

use super::aws::AwsSecret;
use super::iam::IamLogin;
use super::local::LocalStore;
use super::store::{Answer, SecretStore, Stored};
use super::vault::{Vault, VaultSecret};
use super::{Connector, Secret, SecretFailure};
use crate::config::{Config, HostPort, Integration, SecretSource};

/// The secret stores that this process can use. Cheap to clone; no store is contacted before it is asked.
#[derive(Clone, Debug)]
pub struct Stores {
    mark: Arc<str>,
    vault: Arc<Vault>,
}

impl Stores {
    /// The stores as configured.
    pub fn new(config: &Config) -> Self {
        let vault = Vault::new(&config.vault, &config.secret_mark, elsewhere);
        Self { mark: config.secret_mark.as_str().into(), vault: Arc::new(vault) }
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
        match place {
            StoreRef::HashicorpVault { secret_engine, path } => {
                let store = VaultSecret::new(Arc::clone(&self.vault), secret_engine, path);
                Secret::new(place.store(), name(place), Arc::new(store))
            }
            other => elsewhere(other),
        }
    }
}

/// A place that is not in Vault, so that Vault's servers can be read from it.
fn elsewhere(place: &StoreRef) -> Secret {
    let store: Arc<dyn SecretStore> = match place {
        StoreRef::Aws { region, secret_id } => Arc::new(AwsSecret::new(region, secret_id)),
        StoreRef::Azure { .. } | StoreRef::Gcp { .. } | StoreRef::Kubernetes { .. } | StoreRef::HashicorpVault { .. } => Arc::new(NotYet),
    };
    Secret::new(place.store(), name(place), store)
}

/// The place without its store's name, which every error says too.
fn name(place: &StoreRef) -> String {
    let shown = place.to_string();
    shown.split_once(':').map_or_else(|| shown.clone(), |(_, name)| name.to_owned())
}

/// A store that this version cannot use. Configuration refuses to read from one.
#[derive(Debug)]
struct NotYet;

impl SecretStore for NotYet {
    fn read(&self) -> Answer<'_, Stored> {
        Box::pin(std::future::ready(Err(SecretFailure::Unsupported("this store is not available in this version".to_owned()))))
    }
}
