//! The store for development: a name in the configuration, the password in a file or a variable.

use std::io::ErrorKind;
use std::sync::Arc;

use secrecy::SecretString;
use zeroize::Zeroizing;

use super::store::{Answer, SecretStore, Stored, Version};
use super::{Secret, SecretFailure};
use crate::config::secret::LocalPassword;

/// More than any password; what is longer is some other file.
const MAX_BYTES: u64 = 64 * 1024;

/// Reads the password afresh each time, so a changed file is taken over without a restart.
#[derive(Debug)]
pub struct LocalStore {
    password: LocalPassword,
}

impl LocalStore {
    /// The secret that is kept there.
    pub fn secret(password: LocalPassword) -> Secret {
        let name = match &password {
            LocalPassword::File(path) => path.display().to_string(),
            LocalPassword::Env(name) => format!("${name}"),
        };
        Secret::new("local", name, Arc::new(Self { password }))
    }

    async fn text(&self) -> Result<Zeroizing<String>, SecretFailure> {
        match &self.password {
            LocalPassword::File(path) => {
                let failed = |error: std::io::Error| match error.kind() {
                    ErrorKind::NotFound => SecretFailure::NotFound("the file does not exist".to_owned()),
                    ErrorKind::PermissionDenied => SecretFailure::Denied("the file may not be read by this process".to_owned()),
                    ErrorKind::InvalidData => SecretFailure::Malformed("the file is not UTF-8 text".to_owned()),
                    _ => SecretFailure::Unavailable(format!("the file cannot be read: {error}")),
                };
                let length = tokio::fs::metadata(path).await.map_err(failed)?.len();
                if length > MAX_BYTES {
                    return Err(SecretFailure::Malformed(format!("the file has {length} bytes; expected a password alone")));
                }
                tokio::fs::read_to_string(path).await.map(Zeroizing::new).map_err(failed)
            }
            LocalPassword::Env(name) => std::env::var(name)
                .map(Zeroizing::new)
                .map_err(|_| SecretFailure::NotFound("the environment variable is not set, or not UTF-8".to_owned())),
        }
    }
}

impl SecretStore for LocalStore {
    fn read(&self) -> Answer<'_, Stored> {
        Box::pin(async move {
            let body = SecretString::from(self.text().await?.as_str().to_owned());
            Ok(Stored { body, labels: None, version: Version(String::new()), pending: None })
        })
    }

    fn may_write(&self) -> Answer<'_, Option<bool>> {
        Box::pin(std::future::ready(Ok(Some(false))))
    }
}

#[cfg(test)]
mod tests {
    use postern_schemas::Identifier;
    use secrecy::ExposeSecret as _;

    use super::*;
    use crate::secrets::Connector;

    fn store(password: LocalPassword) -> Connector {
        Connector::new(LocalStore::secret(password), Identifier::new("postern").ok(), Some("mark".to_owned()))
    }

    #[tokio::test]
    async fn the_file_is_read_afresh_without_its_newline() {
        let path = std::env::temp_dir().join(format!("postern-local-{}", std::process::id()));
        let store = store(LocalPassword::File(path.clone()));
        for (text, expected) in [("one\n", "one"), ("two\r\n", "two"), (" three ", " three "), ("four\n\n", "four\n")] {
            std::fs::write(&path, text).unwrap();
            assert_eq!(store.read().await.unwrap().current.password.expose_secret(), expected);
        }
        for (text, expected) in [("", "empty"), ("\n", "empty"), ("a\0b", "NUL")] {
            std::fs::write(&path, text).unwrap();
            let error = store.read().await.unwrap_err().to_string();
            assert!(error.contains(expected) && error.contains(path.to_str().unwrap()) && error.contains("store local"), "{error}");
        }
        std::fs::write(&path, [0xff, 0xfe]).unwrap();
        assert!(matches!(store.read().await.unwrap_err().what, SecretFailure::Malformed(_)));
        std::fs::remove_file(&path).unwrap();
        assert!(matches!(store.read().await.unwrap_err().what, SecretFailure::NotFound(_)));
    }

    #[tokio::test]
    async fn a_variable_that_is_not_set_is_named() {
        let error = store(LocalPassword::Env("POSTERN_TEST_NOT_SET".to_owned())).read().await.unwrap_err();
        assert_eq!(error.to_string(), "secret $POSTERN_TEST_NOT_SET in store local: the environment variable is not set, or not UTF-8");
    }
}
