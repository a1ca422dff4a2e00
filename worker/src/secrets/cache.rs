//! Remembers a credential for a while, so that a store is not asked for every connection.

use std::time::{Duration, Instant};

use tokio::sync::Mutex;

use super::connector::Connector;
use super::{Credential, SecretError};

/// A connector's credential, remembered for `secret_cache_seconds`. Shared by all sessions of an integration.
#[derive(Debug)]
pub struct CachedCredential {
    connector: Connector,
    keep: Duration,
    kept: Mutex<Option<Kept>>,
}

/// What is remembered: the current credential, and the other one while a rotation is under way. What worked is first.
#[derive(Clone, Debug)]
struct Kept {
    since: Instant,
    first: Credential,
    other: Option<Credential>,
}

impl CachedCredential {
    /// Keeps what the store says for `keep`; zero: not at all.
    pub fn new(connector: Connector, keep: Duration) -> Self {
        Self { connector, keep, kept: Mutex::new(None) }
    }

    /// The connector's secret in its store.
    pub fn connector(&self) -> &Connector {
        &self.connector
    }

    /// Logs in with `attempt`. As long as it is `refused`, every credential is tried that may be right, each once: those
    /// remembered, then those that the store says now, be it the current one or the pending one of a rotation. So a
    /// rotated secret costs one more attempt. What worked is tried first the next time.
    pub async fn login<T, E, F>(&self, attempt: impl Fn(Credential) -> F, refused: impl Fn(&E) -> bool) -> Result<T, E>
    where
        F: Future<Output = Result<T, E>>,
        E: From<SecretError>,
    {
        let mut tried: Vec<Credential> = Vec::new();
        let mut last = None;
        for _ in ["remembered", "read anew"] {
            let kept = self.get(Instant::now()).await?;
            for candidate in std::iter::once(kept.first).chain(kept.other) {
                if tried.iter().any(|tried| tried.is(&candidate)) {
                    continue;
                }
                match attempt(candidate.clone()).await {
                    Ok(done) => {
                        self.prefer(&candidate).await;
                        return Ok(done);
                    }
                    Err(error) if refused(&error) => last = Some(error),
                    Err(error) => return Err(error),
                }
                tried.push(candidate);
            }
            self.invalidate().await;
        }
        match last {
            Some(error) => Err(error),
            None => unreachable!("the first candidate was not tried yet"),
        }
    }

    /// Whether the store is known to name another account than `username` by now.
    pub fn names_another(&self, username: &str) -> bool {
        self.kept.try_lock().is_ok_and(|kept| kept.as_ref().is_some_and(|kept| kept.first.username != username))
    }

    /// Forgets what is remembered: the store may hold something newer.
    pub async fn invalidate(&self) {
        *self.kept.lock().await = None;
    }

    /// Only one caller asks the store, the others wait for its answer. A failure is not remembered.
    async fn get(&self, now: Instant) -> Result<Kept, SecretError> {
        let mut kept = self.kept.lock().await;
        if let Some(kept) = kept.as_ref()
            && now.duration_since(kept.since) < self.keep
        {
            return Ok(kept.clone());
        }
        *kept = None;
        let known = self.connector.read().await?;
        let read = Kept { since: now, first: known.current, other: known.pending };
        *kept = Some(read.clone());
        Ok(read)
    }

    async fn prefer(&self, worked: &Credential) {
        if let Some(kept) = self.kept.lock().await.as_mut()
            && let Some(other) = kept.other.as_mut()
            && other.is(worked)
        {
            std::mem::swap(&mut kept.first, other);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex as Lock};

    use secrecy::{ExposeSecret as _, SecretString};

    use super::*;
    use crate::secrets::store::{Answer, SecretStore, Stored, Version};
    use crate::secrets::{Secret, SecretFailure};

    /// Holds one body, and counts how often it was read.
    #[derive(Debug, Default)]
    struct Counting(Lock<(String, u32)>);

    impl SecretStore for Counting {
        fn read(&self) -> Answer<'_, Stored> {
            let mut lock = self.0.lock().unwrap();
            lock.1 += 1;
            let body = SecretString::from(lock.0.clone());
            Box::pin(std::future::ready(Ok(Stored { body, labels: None, version: Version(String::new()), pending: None })))
        }
    }

    #[derive(Debug, PartialEq)]
    enum Trouble {
        Refused,
        Down,
        Secret(SecretFailure),
    }

    impl From<SecretError> for Trouble {
        fn from(error: SecretError) -> Self {
            Self::Secret(error.what)
        }
    }

    struct Case {
        store: Arc<Counting>,
        cached: CachedCredential,
    }

    impl Case {
        fn new(keep: Duration) -> Self {
            let store = Arc::new(Counting::default());
            let connector = Connector::new(Secret::new("test", "test", store.clone()), None, None);
            Self { store, cached: CachedCredential::new(connector, keep) }
        }

        fn holds(&self, password: &str, pending: Option<&str>) {
            let pending = pending.map(|pending| format!(r#","pending_password":"{pending}""#)).unwrap_or_default();
            self.store.0.lock().unwrap().0 = format!(r#"{{"username":"u","password":"{password}"{pending}}}"#);
        }

        fn reads(&self) -> u32 {
            self.store.0.lock().unwrap().1
        }

        /// Logs in where `right` is the password; what was tried, and how it ended.
        async fn login(&self, right: &str) -> (Vec<String>, Result<(), Trouble>) {
            let tried = Lock::new(Vec::new());
            let attempt = async |credential: Credential| {
                let password = credential.password.expose_secret().to_owned();
                let answer = match password.as_str() {
                    _ if right == "down" => Err(Trouble::Down),
                    met if met == right => Ok(()),
                    _ => Err(Trouble::Refused),
                };
                tried.lock().unwrap().push(password);
                answer
            };
            let answer = self.cached.login(attempt, |error| *error == Trouble::Refused).await;
            (tried.into_inner().unwrap(), answer)
        }
    }

    fn tried(passwords: &[&str]) -> Vec<String> {
        passwords.iter().map(|&password| password.to_owned()).collect()
    }

    #[tokio::test]
    async fn a_rotated_secret_costs_one_more_attempt() {
        let case = Case::new(Duration::from_mins(5));
        case.holds("a", None);
        assert_eq!(case.login("a").await, (tried(&["a"]), Ok(())));
        assert_eq!(case.login("a").await, (tried(&["a"]), Ok(())));
        assert_eq!(case.reads(), 1);
        case.holds("b", None);
        assert_eq!(case.login("b").await, (tried(&["a", "b"]), Ok(())));
        assert_eq!(case.login("b").await, (tried(&["b"]), Ok(())));
        assert_eq!(case.reads(), 2);
    }

    #[tokio::test]
    async fn a_pending_password_that_works_is_tried_first_afterwards() {
        let case = Case::new(Duration::from_mins(5));
        case.holds("a", Some("b"));
        assert_eq!(case.login("a").await, (tried(&["a"]), Ok(())));
        assert_eq!(case.login("b").await, (tried(&["a", "b"]), Ok(())));
        assert_eq!(case.login("b").await, (tried(&["b"]), Ok(())));
        assert_eq!(case.reads(), 1);
    }

    #[tokio::test]
    async fn a_wrong_password_is_tried_once_and_not_remembered() {
        let case = Case::new(Duration::from_mins(5));
        case.holds("a", None);
        assert_eq!(case.login("x").await, (tried(&["a"]), Err(Trouble::Refused)));
        assert_eq!(case.reads(), 2);
        assert_eq!(case.login("down").await, (tried(&["a"]), Err(Trouble::Down)));
        assert_eq!(case.login("a").await, (tried(&["a"]), Ok(())));
        assert_eq!(case.reads(), 3);
    }

    #[tokio::test]
    async fn zero_seconds_remember_nothing() {
        let case = Case::new(Duration::ZERO);
        case.holds("a", None);
        assert_eq!(case.login("a").await, (tried(&["a"]), Ok(())));
        assert_eq!(case.login("a").await, (tried(&["a"]), Ok(())));
        assert_eq!(case.reads(), 2);
        case.store.0.lock().unwrap().0 = "nonsense".to_owned();
        let (tried, answer) = case.login("a").await;
        assert!(tried.is_empty() && matches!(answer, Err(Trouble::Secret(SecretFailure::Malformed(_)))), "{answer:?}");
    }
}
