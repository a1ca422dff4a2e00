//! Certificates for servers and clients, made by the test that uses them.

use anyhow::Result;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, IsCa, KeyPair, KeyUsagePurpose, date_time_ymd,
};

/// When a certificate counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Valid {
    /// Now.
    #[default]
    Now,
    /// It did, from 2020 to 2021.
    Past,
    /// It will, from 2200 on.
    Future,
}

/// What is written into a certificate.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// The subject's common name.
    pub common_name: String,
    /// Names and IP addresses, as subjectAltName.
    pub names: Vec<String>,
    /// When it counts.
    pub valid: Valid,
    /// Whether it says that it may issue others, as what `openssl req -x509` makes.
    pub issuer: bool,
}

impl Wanted {
    /// A certificate that counts now.
    pub fn new(common_name: &str, names: &[&str]) -> Self {
        let names = names.iter().map(|name| (*name).to_owned()).collect();
        Self { common_name: common_name.to_owned(), names, ..Self::default() }
    }

    /// The same for another time.
    #[must_use]
    pub fn valid(self, valid: Valid) -> Self {
        Self { valid, ..self }
    }

    /// The same, saying that it may issue others.
    #[must_use]
    pub fn as_issuer(self) -> Self {
        Self { issuer: true, ..self }
    }

    /// Signs it with its own key.
    pub fn self_signed(&self) -> Result<Issued> {
        let key = KeyPair::generate()?;
        Ok(Issued { chain: self.params()?.self_signed(&key)?.pem(), key: key.serialize_pem() })
    }

    fn params(&self) -> Result<CertificateParams> {
        let mut params = CertificateParams::new(self.names.clone())?;
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, self.common_name.as_str());
        (params.not_before, params.not_after) = match self.valid {
            Valid::Now => (date_time_ymd(2020, 1, 1), date_time_ymd(2220, 1, 1)),
            Valid::Past => (date_time_ymd(2020, 1, 1), date_time_ymd(2021, 1, 1)),
            Valid::Future => (date_time_ymd(2200, 1, 1), date_time_ymd(2220, 1, 1)),
        };
        if self.issuer {
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        }
        Ok(params)
    }
}

/// A certificate and its key, both PEM.
#[derive(Clone, Debug)]
pub struct Issued {
    /// The certificate first, then what leads to its issuer.
    pub chain: String,
    /// The private key, not encrypted.
    pub key: String,
}

/// Who issues certificates.
#[derive(Debug)]
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    /// PEM of the issuers between the root and this one, its own first; empty for a root.
    above: String,
}

impl Authority {
    /// A root with a key of its own.
    pub fn root(common_name: &str, valid: Valid) -> Result<Self> {
        let params = Wanted::new(common_name, &[]).valid(valid).as_issuer().params()?;
        Ok(Self { issuer: CertifiedIssuer::self_signed(params, KeyPair::generate()?)?, above: String::new() })
    }

    /// An authority that this one vouches for.
    pub fn intermediate(&self, common_name: &str, valid: Valid) -> Result<Self> {
        let params = Wanted::new(common_name, &[]).valid(valid).as_issuer().params()?;
        let issuer = CertifiedIssuer::signed_by(params, KeyPair::generate()?, &self.issuer)?;
        let above = issuer.pem() + &self.above;
        Ok(Self { issuer, above })
    }

    /// Issues a certificate; the chain leads up to the root, without it.
    pub fn issue(&self, wanted: &Wanted) -> Result<Issued> {
        let key = KeyPair::generate()?;
        let certificate = wanted.params()?.signed_by(&key, &self.issuer)?;
        Ok(Issued { chain: certificate.pem() + &self.above, key: key.serialize_pem() })
    }

    /// Its own certificate, for those who are to trust it.
    pub fn pem(&self) -> String {
        self.issuer.pem()
    }
}
