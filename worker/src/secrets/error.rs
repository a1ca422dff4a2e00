//! What can go wrong with a secret.

use std::fmt;

/// Why a secret could not be read or written. Names the store and the secret, never a value.
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

/// What went wrong with a secret: what was met, what was expected, and what mends it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecretFailure {
    /// The store has no such secret.
    NotFound(String),
    /// The store refuses to show it to us, or to let us write it.
    Denied(String),
    /// The store did not answer; it may later. After a write it is not known whether the write was done.
    Unavailable(String),
    /// It is there and holds nothing usable.
    Malformed(String),
    /// It lacks the mark that says that Postern may read it.
    Unmarked(String),
    /// It is not, or no longer, at the version that was read: somebody else wrote meanwhile.
    Conflict(String),
    /// It was not written by this Postern, so it is neither overwritten nor deleted.
    NotOurs(String),
    /// The store, or this kind of secret in it, cannot do that.
    Unsupported(String),
}

impl fmt::Display for SecretFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotFound(what)
            | Self::Denied(what)
            | Self::Unavailable(what)
            | Self::Malformed(what)
            | Self::Unmarked(what)
            | Self::Conflict(what)
            | Self::NotOurs(what)
            | Self::Unsupported(what) => f.write_str(what),
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
        !matches!(self.what, SecretFailure::Unavailable(_) | SecretFailure::Conflict(_))
    }

    /// Whether the store has no such secret.
    pub fn is_not_found(&self) -> bool {
        matches!(self.what, SecretFailure::NotFound(_))
    }

    /// Whether somebody else wrote the secret meanwhile.
    pub fn is_conflict(&self) -> bool {
        matches!(self.what, SecretFailure::Conflict(_))
    }

    /// The text for results and logs.
    pub fn public_message(&self) -> String {
        self.to_string()
    }
}

/// A store's own words: one line, and not a long one.
pub(super) fn spoken(text: &str) -> String {
    let line: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(300).collect();
    line.trim().to_owned()
}
