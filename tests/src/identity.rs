//! A person's age key: seals are made to it, and only it opens them.

use age::secrecy::ExposeSecret as _;
use age::x25519;
use anyhow::{Context, Result};
use serde_json::Value;

/// An age identity.
#[derive(Clone)]
pub struct Identity(x25519::Identity);

/// What a sealed credential holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credential {
    /// The account.
    pub username: String,
    /// Its password.
    pub password: String,
    /// The connection string, with the password.
    pub uri: String,
}

impl Identity {
    /// A new one.
    pub fn generate() -> Self {
        Self(x25519::Identity::generate())
    }

    /// `age1…`, for `credential.recipient`.
    pub fn recipient(&self) -> String {
        self.0.to_public().to_string()
    }

    /// `AGE-SECRET-KEY-1…`, as in the file that the `age` command reads.
    pub fn secret_key(&self) -> String {
        self.0.to_string().expose_secret().to_owned()
    }

    /// Opens an armored text.
    pub fn open(&self, sealed: &str) -> Result<String> {
        let plain = age::decrypt(&self.0, sealed.as_bytes()).context("the seal does not open")?;
        Ok(String::from_utf8(plain)?)
    }

    /// Opens `credential.sealed` of a result.
    pub fn open_credential(&self, result: &Value) -> Result<Credential> {
        let sealed = result["credential"]["sealed"].as_str().with_context(|| format!("no sealed credential in {result:#}"))?;
        let json: Value = serde_json::from_str(&self.open(sealed)?)?;
        let field = |name: &str| {
            let value = json[name].as_str().with_context(|| format!("no `{name}` in the sealed credential"));
            value.map(str::to_owned)
        };
        Ok(Credential { username: field("username")?, password: field("password")?, uri: field("uri")? })
    }
}
