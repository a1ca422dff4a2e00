//! Remembers a credential for a while, so that a store is not asked for every connection.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Mutex;

use super::{Credential, SecretError, SecretStore};

/// A store's credential, remembered for `secret_cache_seconds`. Shared by all sessions of an integration.
#[derive(Debug)]
pub struct CachedCredential {
    store: Arc<dyn SecretStore>,
    keep: Duration,
    kept: Mutex<Option<(Instant, Credential)>>,
}

impl CachedCredential {
    /// Keeps what `store` says for `keep`; zero: not at all.
    pub fn new(store: Arc<dyn SecretStore>, keep: Duration) -> Self {
        Self { store, keep, kept: Mutex::new(None) }
    }

    /// The credential. Only one caller asks the store, the others wait for its answer. A failure is not remembered.
    pub async fn get(&self) -> Result<Credential, SecretError> {
        self.get_at(Instant::now()).await
    }

    async fn get_at(&self, now: Instant) -> Result<Credential, SecretError> {
        let mut kept = self.kept.lock().await;
        if let Some((since, credential)) = kept.as_ref()
            && now.duration_since(*since) < self.keep
        {
            return Ok(credential.clone());
        }
        *kept = None;
        let credential = self.store.connector().await?;
        *kept = Some((now, credential.clone()));
        Ok(credential)
    }

    /// Whether the store is known to name another account than `username` by now.
    pub fn names_another(&self, username: &str) -> bool {
        self.kept.try_lock().is_ok_and(|kept| kept.as_ref().is_some_and(|(_, credential)| credential.username != username))
    }

    /// Forgets the credential: the server refused it, so the store may hold a newer one.
    pub async fn invalidate(&self) {
        *self.kept.lock().await = None;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use secrecy::{ExposeSecret as _, SecretString};

    use super::*;
    use crate::secrets::Reading;

    /// Another password each time it is asked.
    #[derive(Debug, Default)]
    struct Counting(AtomicU32);

    impl SecretStore for Counting {
        fn connector(&self) -> Reading<'_> {
            let asked = self.0.fetch_add(1, Ordering::SeqCst) + 1;
            let password = SecretString::from(asked.to_string());
            Box::pin(std::future::ready(Ok(Credential { username: "postern".to_owned(), password })))
        }
    }

    async fn password(cached: &CachedCredential, now: Instant) -> String {
        cached.get_at(now).await.unwrap().password.expose_secret().to_owned()
    }

    #[tokio::test]
    async fn the_store_is_asked_again_after_the_time_or_a_refusal() {
        let cached = CachedCredential::new(Arc::new(Counting::default()), Duration::from_mins(5));
        let start = Instant::now();
        assert_eq!(password(&cached, start).await, "1");
        assert_eq!(password(&cached, start + Duration::from_secs(299)).await, "1");
        assert_eq!(password(&cached, start + Duration::from_mins(5)).await, "2");
        cached.invalidate().await;
        assert_eq!(password(&cached, start + Duration::from_secs(301)).await, "3");
    }

    #[tokio::test]
    async fn zero_seconds_remember_nothing() {
        let cached = CachedCredential::new(Arc::new(Counting::default()), Duration::ZERO);
        let now = Instant::now();
        assert_eq!((password(&cached, now).await, password(&cached, now).await), ("1".to_owned(), "2".to_owned()));
    }
}
