//! Encryption of database connections: libpq's six `sslmode`s over rustls.
//!
//! The driver knows three modes and would answer any server's question for the password in clear text. So it is told that
//! its connection is encrypted from the first byte ("direct"), and this module does the rest itself: it asks the server
//! for encryption (PostgreSQL docs, "Message Flow", section "SSL Session Encryption"), checks the certificate
//! ([`verify`]), shows one of its own ([`identity`]), and watches the login (`guard`).

mod guard;
pub mod identity;
mod shown;
pub mod verify;

use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError};

use rustls::AlertDescription;
use rustls::pki_types::UnixTime;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_postgres::Socket;
use tokio_postgres::tls::{MakeTlsConnect, TlsConnect};
use tokio_postgres_rustls::MakeRustlsConnect;
use zeroize::Zeroizing;

use crate::config::{Integration, SslMode};
use guard::{Guarded, Wire};
use identity::{Identity, Part};

pub use guard::CleartextRefused;
pub use shown::{Described, Refused};

/// `SSLRequest`: its length, and the code 80877103 (PostgreSQL docs, "Message Formats").
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];

/// Whether one try is to be encrypted. The modes `allow` and `prefer` are made of two tries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Encryption {
    /// Not.
    Never,
    /// If the server offers it.
    IfOffered,
    /// Or the try fails.
    Always,
}

/// Why a connection is not encrypted as it should be.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The connection broke before encryption was agreed on.
    #[error("the connection ended while encryption was being asked for: {0}")]
    Broken(io::Error),
    /// The server has no TLS.
    #[error("the server does not offer TLS; switch it on there (ssl = on), or lower ssl_mode")]
    NotOffered,
    /// Whoever answers does not speak PostgreSQL's protocol.
    #[error("what answers does not speak PostgreSQL's protocol; check hostname and port")]
    NotPostgres,
    /// An error came back before encryption. Its text could be anybody's, so nobody gets to read it (CVE-2024-10977).
    #[error("the server answers the question for TLS with an error; it may be overloaded: look at its log, and check hostname and port")]
    ErrorBefore,
    /// A file that the configuration names cannot be used.
    #[error("{key} {}: {problem}", path.display())]
    File {
        /// `ssl_root_cert`, `ssl_cert` or `ssl_key`.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// There is neither a file nor a system store of trusted certificates.
    #[error("this system has no trusted certificates; name a file in ssl_root_cert")]
    NoRoots,
    /// The server's certificate is refused.
    #[error(transparent)]
    Certificate(Box<Refused>),
    /// The handshake failed otherwise.
    #[error("{}", explained(.0))]
    Handshake(rustls::Error),
    /// The connection broke during the handshake.
    #[error("the TLS handshake broke off: {0}")]
    Interrupted(io::Error),
}

/// What to do about a failed handshake.
fn explained(error: &rustls::Error) -> String {
    match error {
        rustls::Error::AlertReceived(AlertDescription::ProtocolVersion) => {
            "the server speaks no version of TLS from 1.2 on; look at ssl_min_protocol_version and ssl_max_protocol_version there"
                .to_owned()
        }
        // A server says these of a client's certificate, or of its absence (RFC 8446, 6.2).
        rustls::Error::AlertReceived(
            alert @ (AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            | AlertDescription::UnknownCA
            | AlertDescription::CertificateRequired),
        ) => format!(
            "the server refuses the client certificate ({alert:?}); name one in ssl_cert and ssl_key that is in date and from an issuer in its \
             ssl_ca_file"
        ),
        rustls::Error::InvalidMessage(_) => {
            format!("the TLS handshake failed: what answers does not speak TLS ({error}); look at what stands between here and the server")
        }
        other => format!("the TLS handshake failed: {other}"),
    }
}

/// What a try needs to know of encryption. Made anew for each connection, so that a renewed file of issuers counts at once.
#[derive(Clone)]
pub(super) struct Connector {
    encryption: Encryption,
    rustls: Option<MakeRustlsConnect>,
    cleartext_allowed: bool,
    encrypted: Arc<AtomicBool>,
    refused: verify::Refusal,
}

impl Connector {
    /// Reads the certificates that the integration's mode asks for.
    pub(super) async fn new(integration: &Integration) -> Result<Self, TlsError> {
        let mode = integration.ssl_mode;
        let refused = Arc::default();
        let rustls = if mode == SslMode::Disable {
            None
        } else {
            let (roots, identity) = (roots(integration).await?, identity(integration).await?);
            let config = verify::client_config(mode, roots, identity, Arc::clone(&refused)).map_err(TlsError::Handshake)?;
            Some(MakeRustlsConnect::new(config))
        };
        // Only verify-full knows who would read the password: issuers such as a cloud's sign for all its customers.
        let cleartext_allowed = mode == SslMode::VerifyFull;
        Ok(Self { encryption: Encryption::Never, rustls, cleartext_allowed, encrypted: Arc::default(), refused })
    }

    /// The same for one try.
    pub(super) fn with(&self, encryption: Encryption) -> Self {
        Self { encryption, encrypted: Arc::default(), ..self.clone() }
    }

    /// Whether this try got as far as being encrypted.
    pub(super) fn was_encrypted(&self) -> bool {
        self.encrypted.load(Ordering::Relaxed)
    }

    async fn negotiate(self, mut socket: Socket, hostname: String) -> Result<Guarded, TlsError> {
        let watched = !self.cleartext_allowed;
        let Some(mut rustls) = self.rustls.filter(|_| self.encryption != Encryption::Never) else {
            return Ok(Guarded::new(Wire::Plain(socket), watched));
        };
        socket.write_all(&SSL_REQUEST).await.map_err(TlsError::Broken)?;
        // Exactly one byte: what came after it in clear text would otherwise count as encrypted (CVE-2021-23222).
        match (socket.read_u8().await.map_err(TlsError::Broken)?, self.encryption) {
            (b'S', _) => {}
            (b'N', Encryption::IfOffered) => return Ok(Guarded::new(Wire::Plain(socket), watched)),
            (b'N', _) => return Err(TlsError::NotOffered),
            (b'E', _) => return Err(TlsError::ErrorBefore),
            _ => return Err(TlsError::NotPostgres),
        }
        let Ok(connect) = <MakeRustlsConnect as MakeTlsConnect<Socket>>::make_tls_connect(&mut rustls, &hostname);
        let stream = connect.connect(socket).await.map_err(|error| {
            match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
                Some(failed) => match self.refused.lock().unwrap_or_else(PoisonError::into_inner).take() {
                    Some(refused) => TlsError::Certificate(refused),
                    None => TlsError::Handshake(failed.clone()),
                },
                None => TlsError::Interrupted(error),
            }
        })?;
        self.encrypted.store(true, Ordering::Relaxed);
        Ok(Guarded::new(Wire::Tls(Box::new(stream)), watched))
    }
}

impl MakeTlsConnect<Socket> for Connector {
    type Stream = Guarded;
    type TlsConnect = Attempt;
    type Error = TlsError;

    fn make_tls_connect(&mut self, hostname: &str) -> Result<Attempt, TlsError> {
        Ok(Attempt { connector: self.clone(), hostname: hostname.to_owned() })
    }
}

/// One connection to be encrypted, or not.
pub(super) struct Attempt {
    connector: Connector,
    hostname: String,
}

impl TlsConnect<Socket> for Attempt {
    type Stream = Guarded;
    type Error = TlsError;
    type Future = Pin<Box<dyn Future<Output = Result<Guarded, TlsError>> + Send>>;

    fn connect(self, socket: Socket) -> Self::Future {
        Box::pin(self.connector.negotiate(socket, self.hostname))
    }
}

/// The certificates to trust. As with libpq, a file that is named is used in every mode that encrypts; without one the
/// system's are used, and only where the mode verifies.
async fn roots(integration: &Integration) -> Result<Option<verify::Roots>, TlsError> {
    if let Some(path) = &integration.ssl_root_cert {
        let failed = |problem| TlsError::File { key: "ssl_root_cert", path: path.clone(), problem };
        let pem = file("ssl_root_cert", path).await?;
        return verify::Roots::from_pem(&pem, UnixTime::now()).map(Some).map_err(failed);
    }
    match integration.ssl_mode {
        SslMode::VerifyCa | SslMode::VerifyFull => verify::Roots::of_the_system().map(Some).ok_or(TlsError::NoRoots),
        _ => Ok(None),
    }
}

/// What to show of ourselves.
async fn identity(integration: &Integration) -> Result<Option<Identity>, TlsError> {
    let Some((certificate, key)) = &integration.ssl_client else { return Ok(None) };
    let (chain, secret) = (file("ssl_cert", certificate).await?, file("ssl_key", key).await?);
    Identity::from_pem(&chain, &secret).map(Some).map_err(|(part, problem)| {
        let (key, path) = match part {
            Part::Certificate => ("ssl_cert", certificate),
            Part::Key => ("ssl_key", key),
        };
        TlsError::File { key, path: path.clone(), problem }
    })
}

async fn file(key: &'static str, path: &Path) -> Result<Zeroizing<Vec<u8>>, TlsError> {
    let failed = |error: io::Error| TlsError::File { key, path: path.to_owned(), problem: format!("cannot be read: {error}") };
    tokio::fs::read(path).await.map(Zeroizing::new).map_err(failed)
}
