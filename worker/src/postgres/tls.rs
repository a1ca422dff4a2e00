//! Encryption of database connections: libpq's six `sslmode`s over rustls.
//!
//! The driver knows three modes and would answer any server's question for the password in clear text. So it is told that
//! its connection is encrypted from the first byte ("direct"), and this module does the rest itself: it asks the server
//! for encryption (PostgreSQL docs, "Message Flow", section "SSL Session Encryption"), checks the certificate
//! ([`verify`]), and watches the login (`guard`).

mod guard;
pub mod verify;

use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustls::CertificateError;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_postgres::Socket;
use tokio_postgres::tls::{MakeTlsConnect, TlsConnect};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::config::{Integration, SslMode};
use guard::{Guarded, Wire};

pub use guard::CleartextRefused;

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
    /// The file of trusted certificates cannot be used.
    #[error("ssl_root_cert {}: {problem}; expected a file of PEM certificates", path.display())]
    Roots {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// There is neither a file nor a system store of trusted certificates.
    #[error("this system has no trusted certificates; name a file in ssl_root_cert")]
    NoRoots,
    /// The certificate is refused, or the handshake failed.
    #[error("{}", explained(.0))]
    Handshake(rustls::Error),
    /// The connection broke during the handshake.
    #[error("the TLS handshake broke off: {0}")]
    Interrupted(io::Error),
}

/// What to do about a refused certificate.
fn explained(error: &rustls::Error) -> String {
    const PIN: &str = "put the issuer's certificate, or the server's own one, into the file that ssl_root_cert names";
    let rustls::Error::InvalidCertificate(why) = error else { return format!("the TLS handshake failed: {error}") };
    match why {
        CertificateError::UnknownIssuer => format!("the server's certificate comes from an issuer that is not trusted; {PIN}"),
        CertificateError::NotValidForNameContext { expected, presented } if presented.is_empty() => format!(
            "the server's certificate names no host (a common name alone is not looked at), expected {}; issue one with a subjectAltName, or put \
             the server's own certificate into the file that ssl_root_cert names",
            expected.to_str()
        ),
        CertificateError::NotValidForNameContext { expected, presented } => format!(
            "the server's certificate is for {}, not for {}; use a name that it holds as hostname, or issue another",
            presented.join(", "),
            expected.to_str()
        ),
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "the server's certificate has expired; renew it there".to_owned()
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "the server's certificate is not valid yet; compare the clocks".to_owned()
        }
        other => format!("the server's certificate is refused: {other}; if it is self-signed, {PIN}"),
    }
}

/// What a try needs to know of encryption. Made anew for each connection, so that a renewed file of issuers counts at once.
#[derive(Clone)]
pub(super) struct Connector {
    encryption: Encryption,
    rustls: Option<MakeRustlsConnect>,
    cleartext_allowed: bool,
    encrypted: Arc<AtomicBool>,
}

impl Connector {
    /// Reads the trusted certificates that the integration's mode asks for.
    pub(super) async fn new(integration: &Integration) -> Result<Self, TlsError> {
        let mode = integration.ssl_mode;
        let rustls = match mode {
            SslMode::Disable => None,
            _ => Some(MakeRustlsConnect::new(verify::client_config(mode, roots(integration).await?).map_err(TlsError::Handshake)?)),
        };
        // Only verify-full knows who would read the password: issuers such as a cloud's sign for all its customers.
        let cleartext_allowed = mode == SslMode::VerifyFull;
        Ok(Self { encryption: Encryption::Never, rustls, cleartext_allowed, encrypted: Arc::default() })
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
            _ => return Err(TlsError::NotPostgres),
        }
        let Ok(connect) = <MakeRustlsConnect as MakeTlsConnect<Socket>>::make_tls_connect(&mut rustls, &hostname);
        let stream = connect.connect(socket).await.map_err(|error| {
            match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
                Some(refused) => TlsError::Handshake(refused.clone()),
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
        let failed = |problem: String| TlsError::Roots { path: path.clone(), problem };
        let pem = tokio::fs::read(Path::new(path)).await.map_err(|error| failed(format!("cannot be read: {error}")))?;
        return verify::Roots::from_pem(&pem).map(Some).map_err(failed);
    }
    match integration.ssl_mode {
        SslMode::VerifyCa | SslMode::VerifyFull => verify::Roots::of_the_system().map(Some).ok_or(TlsError::NoRoots),
        _ => Ok(None),
    }
}
