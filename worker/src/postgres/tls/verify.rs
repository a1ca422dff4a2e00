//! Which certificates are believed, by `ssl_mode`.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};

use super::identity::Identity;
use super::shown::{Described, Refused};
use crate::config::SslMode;

/// Where a refusal is left for whoever reports the failed handshake: the error that comes out of it does not say what
/// was met.
pub(super) type Refusal = Arc<Mutex<Option<Box<Refused>>>>;

/// Trusted certificates.
#[derive(Clone, Debug)]
pub struct Roots {
    issuers: Arc<RootCertStore>,
    /// The same as they stand in the file: a server may show one of them itself.
    pinned: Arc<[CertificateDer<'static>]>,
    /// Those of the file that have expired. As with OpenSSL they vouch for nobody.
    outdated: Arc<[Described]>,
}

impl Roots {
    /// Reads PEM certificates, for use `now`; the error says what is wrong with the text.
    pub fn from_pem(pem: &[u8], now: UnixTime) -> Result<Self, String> {
        let certificates: Vec<_> =
            CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>().map_err(|error| format!("is not PEM: {error}"))?;
        if certificates.is_empty() {
            return Err("holds no PEM certificate".to_owned());
        }
        let mut issuers = RootCertStore::empty();
        let mut outdated = Vec::new();
        for (index, certificate) in certificates.iter().enumerate() {
            if let Some(described) = Described::of(certificate).filter(|described| described.has_expired(now)) {
                outdated.push(described);
                continue;
            }
            issuers.add(certificate.clone()).map_err(|error| format!("its certificate number {} cannot be used: {error}", index + 1))?;
        }
        Ok(Self { issuers: Arc::new(issuers), pinned: certificates.into(), outdated: outdated.into() })
    }

    /// The system's trusted issuers, read once; `None` if there are none.
    pub fn of_the_system() -> Option<Self> {
        static SYSTEM: OnceLock<Option<Roots>> = OnceLock::new();
        SYSTEM
            .get_or_init(|| {
                let mut issuers = RootCertStore::empty();
                let (added, _) = issuers.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
                (added > 0).then(|| Self { issuers: Arc::new(issuers), pinned: Arc::default(), outdated: Arc::default() })
            })
            .clone()
    }
}

/// The client's side of TLS for a mode that encrypts. Without `roots` any certificate is believed.
pub(super) fn client_config(
    mode: SslMode,
    roots: Option<Roots>,
    identity: Option<Identity>,
    refusal: Refusal,
) -> Result<ClientConfig, Error> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = Verifier { provider: Arc::clone(&provider), roots, names: mode == SslMode::VerifyFull, refusal };
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    Ok(match identity {
        Some(Identity(shown)) => builder.with_client_cert_resolver(shown),
        None => builder.with_no_client_auth(),
    })
}

#[derive(Debug)]
struct Verifier {
    provider: Arc<CryptoProvider>,
    /// Whom to believe; `None`: anybody.
    roots: Option<Roots>,
    /// Whether the certificate has to be the host's.
    names: bool,
    refusal: Refusal,
}

impl Verifier {
    fn check(
        &self,
        roots: &Roots,
        leaf: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        host: &ServerName<'_>,
        now: UnixTime,
    ) -> Result<(), Error> {
        let parsed = ParsedCertificate::try_from(leaf)?;
        self.check_issuer(roots, leaf, &parsed, others, now)?;
        if self.names { check_name(roots, leaf, &parsed, host) } else { Ok(()) }
    }

    /// The certificate comes from a trusted issuer, or is itself in the file. The latter is for self-signed ones, as
    /// `openssl req -x509` makes them: they claim to be an issuer, which a server's certificate must not (RFC 5280,
    /// 4.2.1.9), but the operator vouches for this very one. Its dates count all the same, and they are checked first.
    fn check_issuer(
        &self,
        roots: &Roots,
        leaf: &CertificateDer<'_>,
        parsed: &ParsedCertificate<'_>,
        others: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Error> {
        let algorithms = self.provider.signature_verification_algorithms.all;
        match verify_server_cert_signed_by_trust_anchor(parsed, &roots.issuers, others, now, algorithms) {
            Err(Error::InvalidCertificate(why)) if is_about_dates(&why) => Err(Error::InvalidCertificate(why)),
            Err(_) if roots.pins(leaf) => Ok(()),
            other => other,
        }
    }
}

impl Roots {
    fn pins(&self, leaf: &CertificateDer<'_>) -> bool {
        self.pinned.iter().any(|certificate| certificate.as_ref() == leaf.as_ref())
    }
}

/// The certificate is the host's, or it names no host at all and is itself in the file.
fn check_name(roots: &Roots, leaf: &CertificateDer<'_>, parsed: &ParsedCertificate<'_>, host: &ServerName<'_>) -> Result<(), Error> {
    match verify_server_name(parsed, host) {
        Err(Error::InvalidCertificate(CertificateError::NotValidForNameContext { presented, .. }))
            if presented.is_empty() && roots.pins(leaf) =>
        {
            Ok(())
        }
        other => other,
    }
}

fn is_about_dates(why: &CertificateError) -> bool {
    use CertificateError::{Expired, ExpiredContext, NotValidYet, NotValidYetContext};
    matches!(why, Expired | ExpiredContext { .. } | NotValidYet | NotValidYetContext { .. })
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        host: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if let Some(roots) = &self.roots {
            self.check(roots, leaf, intermediates, host, now).inspect_err(|error| {
                if let Error::InvalidCertificate(why) = error {
                    let chain = std::iter::once(leaf).chain(intermediates);
                    let refused = Refused::new(why.clone(), now, chain, &roots.outdated);
                    *self.refusal.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(refused));
                }
            })?;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, signed, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, signed, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests;
