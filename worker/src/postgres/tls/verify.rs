//! Which certificates are believed, by `ssl_mode`.

use std::sync::{Arc, OnceLock};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};

use crate::config::SslMode;

/// Trusted certificates.
#[derive(Clone, Debug)]
pub struct Roots {
    issuers: Arc<RootCertStore>,
    /// The same as they stand in the file: a server may show one of them itself.
    pinned: Arc<[CertificateDer<'static>]>,
}

impl Roots {
    /// Reads PEM certificates; the error says what is wrong with the text.
    pub fn from_pem(pem: &[u8]) -> Result<Self, String> {
        let certificates: Vec<_> =
            CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>().map_err(|error| format!("is not PEM: {error}"))?;
        if certificates.is_empty() {
            return Err("holds no certificate".to_owned());
        }
        let mut issuers = RootCertStore::empty();
        for (index, certificate) in certificates.iter().enumerate() {
            issuers.add(certificate.clone()).map_err(|error| format!("its certificate number {} cannot be used: {error}", index + 1))?;
        }
        Ok(Self { issuers: Arc::new(issuers), pinned: certificates.into() })
    }

    /// The system's trusted issuers, read once; `None` if there are none.
    pub fn of_the_system() -> Option<Self> {
        static SYSTEM: OnceLock<Option<Roots>> = OnceLock::new();
        SYSTEM
            .get_or_init(|| {
                let mut issuers = RootCertStore::empty();
                let (added, _) = issuers.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
                (added > 0).then(|| Self { issuers: Arc::new(issuers), pinned: Arc::from([]) })
            })
            .clone()
    }
}

/// The client's side of TLS for a mode that encrypts. Without `roots` any certificate is believed.
pub(super) fn client_config(mode: SslMode, roots: Option<Roots>) -> Result<ClientConfig, Error> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = Verifier { provider: Arc::clone(&provider), roots, names: mode == SslMode::VerifyFull };
    Ok(ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth())
}

#[derive(Debug)]
struct Verifier {
    provider: Arc<CryptoProvider>,
    /// Whom to believe; `None`: anybody.
    roots: Option<Roots>,
    /// Whether the certificate has to be the host's.
    names: bool,
}

impl Verifier {
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
            let parsed = ParsedCertificate::try_from(leaf)?;
            self.check_issuer(roots, leaf, &parsed, intermediates, now)?;
            if self.names {
                check_name(roots, leaf, &parsed, host)?;
            }
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
