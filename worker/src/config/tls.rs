//! `ssl_mode` and its files: how much a connection to PostgreSQL proves about its other end, and to it.

use std::path::{Path, PathBuf};

use postern_schemas::fields::Fields;
use rustls::pki_types::UnixTime;
use zeroize::Zeroizing;

use super::read;
use crate::postgres::tls::identity::{Identity, Part};
use crate::postgres::tls::verify::Roots;

/// libpq's `sslmode` (PostgreSQL docs, "SSL Support", table "SSL Mode Descriptions").
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SslMode {
    /// Never encrypted.
    Disable,
    /// Encrypted only if the server refuses otherwise.
    Allow,
    /// Encrypted if the server can.
    Prefer,
    /// Encrypted; whoever answers is believed, unless `ssl_root_cert` is set: then as [`SslMode::VerifyCa`].
    Require,
    /// Encrypted, and the certificate's issuer is trusted.
    VerifyCa,
    /// Encrypted, the issuer is trusted, and the certificate is the host's.
    #[default]
    VerifyFull,
}

impl SslMode {
    /// All modes, from least to most.
    pub const ALL: [Self; 6] = [Self::Disable, Self::Allow, Self::Prefer, Self::Require, Self::VerifyCa, Self::VerifyFull];

    /// libpq's spelling.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Disable => "disable",
            Self::Allow => "allow",
            Self::Prefer => "prefer",
            Self::Require => "require",
            Self::VerifyCa => "verify-ca",
            Self::VerifyFull => "verify-full",
        }
    }

    fn parse(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|mode| mode.as_str() == text).ok_or_else(|| {
            let known: Vec<&str> = Self::ALL.into_iter().map(Self::as_str).collect();
            format!("{text:?} is not an SSL mode; expected one of {}", known.join(", "))
        })
    }
}

impl std::fmt::Display for SslMode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// `ssl_mode`, or its default.
pub(super) fn mode(fields: &Fields<'_>) -> SslMode {
    let mode = read::parsed(fields, "ssl_mode", SslMode::parse);
    if mode == Some(SslMode::VerifyCa) && !fields.has("ssl_root_cert") {
        let why = "is missing; by the system's issuers verify-ca would believe anybody who has a certificate";
        fields.problem("ssl_root_cert", format!("{why}: name the file of the server's issuer, or use verify-full"));
    }
    mode.unwrap_or_default()
}

/// `ssl_root_cert`: a file of PEM certificates that can be used.
pub(super) fn root_cert(fields: &Fields<'_>) -> Option<PathBuf> {
    let (path, pem) = pem(fields, "ssl_root_cert")?;
    let unusable = |problem: String| fields.problem("ssl_root_cert", unusable(&path, &problem));
    Roots::from_pem(&pem, UnixTime::now()).map_err(unusable).ok()?;
    Some(path)
}

/// `ssl_cert` and `ssl_key`, which belong together.
pub(super) fn client(fields: &Fields<'_>) -> Option<(PathBuf, PathBuf)> {
    for (name, other) in [("ssl_cert", "ssl_key"), ("ssl_key", "ssl_cert")] {
        if fields.has(name) && !fields.has(other) {
            fields.problem(other, format!("is missing; it goes with {name}"));
        }
    }
    let (certificate, key) = (pem(fields, "ssl_cert"), pem(fields, "ssl_key"));
    let ((certificate, chain), (key, secret)) = certificate.zip(key)?;
    match Identity::from_pem(&chain, &secret) {
        Ok(_) => Some((certificate, key)),
        Err((part, problem)) => {
            let (name, path) = match part {
                Part::Certificate => ("ssl_cert", &certificate),
                Part::Key => ("ssl_key", &key),
            };
            fields.problem(name, unusable(path, &problem));
            None
        }
    }
}

/// A file that is read anew for every connection, looked at now.
fn pem(fields: &Fields<'_>, name: &'static str) -> Option<(PathBuf, Zeroizing<Vec<u8>>)> {
    let path = read::path(fields, name)?;
    match std::fs::read(&path) {
        Ok(text) => Some((path, Zeroizing::new(text))),
        Err(error) => {
            fields.problem(name, unusable(&path, &format!("cannot be read: {error}")));
            None
        }
    }
}

fn unusable(path: &Path, problem: &str) -> String {
    format!("{}: {problem}", path.display())
}
