//! The client certificate that a worker shows to a server which asks for one.

use std::fmt;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::{CertifiedKey, SingleCertAndKey};

/// Which of the two files is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The chain.
    Certificate,
    /// The private key.
    Key,
}

/// A certificate with its chain, and the key that belongs to it.
#[derive(Clone)]
pub struct Identity(pub(super) Arc<SingleCertAndKey>);

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Identity")
    }
}

impl Identity {
    /// Reads a chain, the client's own certificate first, and an unencrypted key, both PEM. The error says which of the
    /// two is wrong, and what is; it repeats nothing of the key.
    pub fn from_pem(chain: &[u8], key: &[u8]) -> Result<Self, (Part, String)> {
        let chain: Vec<_> = CertificateDer::pem_slice_iter(chain)
            .collect::<Result<_, _>>()
            .map_err(|error| (Part::Certificate, format!("is not PEM: {error}")))?;
        if chain.is_empty() {
            return Err((Part::Certificate, "holds no PEM certificate".to_owned()));
        }
        let key = PrivateKeyDer::from_pem_slice(key)
            .map_err(|_| (Part::Key, "holds no PEM private key that can be read; one with a passphrase cannot".to_owned()))?;
        CertifiedKey::from_der(chain, key, &rustls::crypto::aws_lc_rs::default_provider())
            .map(|certified| Self(Arc::new(SingleCertAndKey::from(certified))))
            .map_err(|error| match error {
                rustls::Error::InconsistentKeys(_) => (Part::Key, "is not the key of the certificate in ssl_cert".to_owned()),
                rustls::Error::InvalidCertificate(why) => (Part::Certificate, format!("cannot be used: {why}")),
                other => (Part::Key, format!("cannot be used: {other}")),
            })
    }
}
