//! A person's password: drawn here, hashed here, sealed here. The server only ever sees the SCRAM verifier, and nobody
//! but the recipient can open what is stored.

use std::fmt;
use std::str::FromStr as _;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use postern_schemas::{Code, Deliver, Identifier, Reason};
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::json;
use zeroize::Zeroizing;

use crate::audit::uri;
use crate::config::Integration;

/// A new password with its verifier.
pub struct Drawn {
    password: SecretString,
    verifier: String,
}

impl fmt::Debug for Drawn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Drawn(‹password›)")
    }
}

/// The operating system gave no random bytes, or hashing went wrong.
#[derive(Debug, thiserror::Error)]
pub enum CredentialError {
    /// See [`getrandom::Error`].
    #[error("the operating system gives no random bytes: {0}")]
    Random(getrandom::Error),
    /// The hash is not a SCRAM verifier. The server would take it for a password, so it is never sent.
    #[error("the SCRAM verifier is malformed")]
    Verifier,
    /// The password could not be sealed.
    #[error("the credential cannot be sealed: {0}")]
    Seal(String),
}

impl Drawn {
    /// Draws 256 bits, as 43 characters of the URL-safe alphabet: nothing in it needs escaping in a URI or `.pgpass`.
    pub fn new() -> Result<Self, CredentialError> {
        let mut bytes = Zeroizing::new([0_u8; 32]);
        getrandom::fill(bytes.as_mut()).map_err(CredentialError::Random)?;
        let password = SecretString::from(URL_SAFE_NO_PAD.encode(bytes.as_slice()));
        let verifier = postgres_protocol::password::scram_sha_256(password.expose_secret().as_bytes());
        if is_verifier(&verifier) { Ok(Self { password, verifier }) } else { Err(CredentialError::Verifier) }
    }

    /// What the server is given.
    pub fn verifier(&self) -> &str {
        &self.verifier
    }

    /// Seals name, password and URI to the recipient, as an ASCII-armored age file.
    pub fn seal(
        &self,
        recipient: &Recipient,
        integration: &Integration,
        username: &str,
        database: &Identifier,
    ) -> Result<String, CredentialError> {
        let body = json!({
            "username": username,
            "password": self.password.expose_secret(),
            "uri": uri(integration, username, Some(self.password.expose_secret()), database),
        });
        let body = Zeroizing::new(body.to_string());
        let failed = |error: age::EncryptError| CredentialError::Seal(error.to_string());
        match recipient {
            Recipient::X25519(recipient) => age::encrypt_and_armor(recipient, body.as_bytes()).map_err(failed),
            Recipient::Ssh(recipient) => age::encrypt_and_armor(recipient, body.as_bytes()).map_err(failed),
        }
    }
}

/// `SCRAM-SHA-256$4096:<salt>$<StoredKey>:<ServerKey>` (PostgreSQL docs, "`pg_authid`").
fn is_verifier(text: &str) -> bool {
    let is_base64 = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/' | b'='));
    let Some((head, keys)) = text.strip_prefix("SCRAM-SHA-256$4096:").and_then(|rest| rest.split_once('$')) else { return false };
    let Some((stored, server)) = keys.split_once(':') else { return false };
    [head, stored, server].into_iter().all(is_base64)
}

/// Whom a credential is sealed to.
pub enum Recipient {
    /// `age1…`
    X25519(age::x25519::Recipient),
    /// `ssh-ed25519 …`
    Ssh(age::ssh::Recipient),
}

impl Recipient {
    /// The recipient of a delivery by age; `None` for other deliveries. A wrong one follows from the event's body.
    pub fn of(deliver: &Deliver) -> Result<Option<Self>, Reason> {
        let Deliver::Age { recipient } = deliver else { return Ok(None) };
        if let Ok(recipient) = age::x25519::Recipient::from_str(recipient) {
            return Ok(Some(Self::X25519(recipient)));
        }
        match age::ssh::Recipient::from_str(recipient) {
            Ok(recipient @ age::ssh::Recipient::SshEd25519(..)) => Ok(Some(Self::Ssh(recipient))),
            Ok(_) => Err(wrong("is an ssh key of another kind; expected an age X25519 recipient (age1…) or an ssh-ed25519 public key")),
            Err(_) => Err(wrong("is not a recipient; expected an age X25519 recipient (age1…) or an ssh-ed25519 public key")),
        }
    }
}

fn wrong(what: &str) -> Reason {
    Reason::new(Code::InvalidEvent, format!("data.credential.recipient {what}")).at("data.credential.recipient")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verifier_is_told_from_a_password() -> Result<(), CredentialError> {
        let drawn = Drawn::new()?;
        assert!(is_verifier(drawn.verifier()));
        assert_eq!(drawn.password.expose_secret().len(), 43);
        assert!(!is_verifier("SCRAM-SHA-256$4096:abc"));
        assert!(!is_verifier(drawn.password.expose_secret()));
        assert!(!format!("{drawn:?}").contains(drawn.password.expose_secret()));
        Ok(())
    }

    #[test]
    fn only_recipients_that_can_be_served_are_taken() {
        let of = |text: &str| Recipient::of(&Deliver::Age { recipient: text.to_owned() });
        let own = age::x25519::Identity::generate().to_public().to_string();
        assert!(matches!(of(&own), Ok(Some(Recipient::X25519(_)))));
        assert!(of("age1nonsense").is_err());
        assert!(of("ssh-rsa AAAA").is_err());
        assert!(matches!(Recipient::of(&Deliver::None), Ok(None)));
    }
}
