//! `ssl_mode`: how much a connection to PostgreSQL proves about its other end.

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

    pub(super) fn parse(text: &str) -> Result<Self, String> {
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
