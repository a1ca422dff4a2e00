//! Where a target is, and what goes with that: an RDS instance's endpoint is looked up, and may change.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::aws::{self, AwsError};
use crate::config::{HostPort, Instance, Integration};
use crate::secrets::{CachedCredential, Stores};

/// A target where it was found.
#[derive(Debug)]
pub struct Located {
    /// Its configuration, with the endpoint that was found.
    pub integration: Arc<Integration>,
    /// The connector's credential for that endpoint.
    pub credential: CachedCredential,
}

impl Located {
    fn at(integration: Arc<Integration>, stores: &Stores) -> Arc<Self> {
        // A login token costs nothing to make, and one that is remembered grows old.
        let keep = if integration.is_iam() { Duration::ZERO } else { integration.secret_cache };
        let credential = CachedCredential::new(stores.connector(&integration), keep);
        Arc::new(Self { integration, credential })
    }
}

/// Finds a target, and remembers where it was.
#[derive(Debug)]
pub struct Locator {
    configured: Arc<Integration>,
    stores: Stores,
    /// The last that was found, right or not: for whoever only wants to name it.
    last: Mutex<Arc<Located>>,
    /// Whether `last` is to be believed. Held while AWS is asked, so that only one caller asks.
    believed: tokio::sync::Mutex<bool>,
}

impl Locator {
    /// Nobody is asked yet. A host's name needs no looking up.
    pub fn new(configured: Arc<Integration>, stores: &Stores) -> Self {
        let believed = configured.instance.is_none();
        let last = Mutex::new(Located::at(Arc::clone(&configured), stores));
        Self { configured, stores: stores.clone(), last, believed: tokio::sync::Mutex::new(believed) }
    }

    /// Where the target is. Asks AWS if it has to: at most ten seconds.
    pub async fn locate(&self) -> Result<Arc<Located>, AwsError> {
        let mut believed = self.believed.lock().await;
        if let (false, Some(instance)) = (*believed, &self.configured.instance) {
            let endpoint = Box::pin(look_up(instance)).await?;
            if !self.last().integration.is_at(&endpoint) {
                tracing::info!(integration = %self.configured.id, host = %endpoint.host, port = endpoint.port, "found the instance");
                *self.last.lock().unwrap_or_else(PoisonError::into_inner) =
                    Located::at(Arc::new(self.configured.at(&endpoint)), &self.stores);
            }
            *believed = true;
        }
        Ok(self.last())
    }

    /// Where the target was when it was last looked for; before the first time what stands for it.
    pub fn last(&self) -> Arc<Located> {
        Arc::clone(&self.last.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Nobody was reached, or the wrong one: an instance that was restored or renamed has another endpoint.
    pub async fn doubt(&self) {
        *self.believed.lock().await = self.configured.instance.is_none();
    }
}

/// Asks AWS where an instance is.
pub async fn look_up(instance: &Instance) -> Result<HostPort, AwsError> {
    let found = aws::rds::endpoint(&instance.region, &instance.id).await?;
    Ok(HostPort { port: instance.port.unwrap_or(found.port), ..found })
}
