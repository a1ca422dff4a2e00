//! What a server showed of itself, in words for the operator who has to mend it.

use std::fmt;
use std::net::IpAddr;

use rustls::CertificateError;
use rustls::pki_types::{CertificateDer, UnixTime};
use x509_cert::Certificate;
use x509_cert::der::Decode as _;
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;
use x509_cert::time::Time;

/// The most characters of a foreign name that are repeated.
const LONGEST_NAME: usize = 200;

/// Subject, issuer and dates of a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Described {
    /// RFC 4514, such as `CN=db.example.com,O=Example`.
    pub subject: String,
    /// The same of who signed it.
    pub issuer: String,
    /// The hosts and addresses that it is for, as text.
    pub hosts: Vec<String>,
    not_before: Time,
    not_after: Time,
}

impl Described {
    /// `None` for what is no X.509 certificate.
    pub fn of(der: &CertificateDer<'_>) -> Option<Self> {
        let certificate = Certificate::from_der(der).ok()?.tbs_certificate;
        let names = certificate.get::<SubjectAltName>().ok().flatten().map(|(_, names)| names.0);
        Some(Self {
            hosts: names.into_iter().flatten().filter_map(|name| host(&name)).collect(),
            subject: tidy(&certificate.subject.to_string()),
            issuer: tidy(&certificate.issuer.to_string()),
            not_before: certificate.validity.not_before,
            not_after: certificate.validity.not_after,
        })
    }

    /// Whether its time is over.
    pub fn has_expired(&self, now: UnixTime) -> bool {
        self.not_after.to_unix_duration().as_secs() < now.as_secs()
    }

    fn is_early(&self, now: UnixTime) -> bool {
        self.not_before.to_unix_duration().as_secs() > now.as_secs()
    }
}

impl fmt::Display for Described {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { subject, issuer, not_before, not_after, .. } = self;
        write!(f, "subject {subject}, issuer {issuer}, valid from {not_before} to {not_after}")
    }
}

/// A server's certificate that is not believed: why, and what was met.
#[derive(Clone, Debug)]
pub struct Refused {
    why: CertificateError,
    now: UnixTime,
    /// The server's own certificate first, then what it showed of its issuers.
    chain: Vec<Described>,
    /// What the file of trusted certificates holds and what is too old to count.
    outdated: Vec<Described>,
}

impl Refused {
    pub(super) fn new<'a>(
        why: CertificateError,
        now: UnixTime,
        chain: impl Iterator<Item = &'a CertificateDer<'a>>,
        outdated: &[Described],
    ) -> Self {
        Self { why, now, chain: chain.filter_map(Described::of).collect(), outdated: outdated.to_vec() }
    }

    /// The trusted certificate that would have counted, were it not too old.
    fn outdated_issuer(&self) -> Option<&Described> {
        self.outdated.iter().find(|trusted| self.chain.iter().any(|shown| shown.issuer == trusted.subject))
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const PIN: &str = "put the issuer's certificate, or the server's own one, into the file that ssl_root_cert names";
        match &self.why {
            CertificateError::UnknownIssuer => match self.outdated_issuer() {
                Some(issuer) => {
                    let Described { subject, not_after, .. } = issuer;
                    write!(
                        f,
                        "the server's issuer {subject} has expired at {not_after} in the file that ssl_root_cert names; renew it there"
                    )?;
                }
                None => write!(f, "the server's certificate comes from an issuer that is not trusted; {PIN}")?,
            },
            CertificateError::NotValidForNameContext { expected, presented } if presented.is_empty() => write!(
                f,
                "the server's certificate names no host (a common name alone is not looked at), expected {}; issue one with a subjectAltName, or \
                 put the server's own certificate into the file that ssl_root_cert names",
                expected.to_str()
            )?,
            CertificateError::NotValidForNameContext { expected, .. } => write!(
                f,
                "the server's certificate is for {}, not for {}; use a name that it holds as hostname, or issue another",
                self.chain.first().map(|leaf| tidy(&leaf.hosts.join(", "))).unwrap_or_default(),
                expected.to_str()
            )?,
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                match self.chain.iter().position(|shown| shown.has_expired(self.now)) {
                    Some(index @ 1..) => {
                        let Described { subject, not_after, .. } = &self.chain[index];
                        write!(f, "an issuer's certificate that the server shows has expired ({subject}, at {not_after}); renew it there")?;
                    }
                    _ => f.write_str("the server's certificate has expired; renew it there")?,
                }
            }
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                match self.chain.iter().position(|shown| shown.is_early(self.now)) {
                    Some(index @ 1..) => {
                        let Described { subject, not_before, .. } = &self.chain[index];
                        write!(
                            f,
                            "an issuer's certificate that the server shows is not valid yet ({subject}, from {not_before}); compare the clocks"
                        )?;
                    }
                    _ => f.write_str("the server's certificate is not valid yet; compare the clocks")?,
                }
            }
            other => write!(f, "the server's certificate is refused: {other}; if it is self-signed, {PIN}")?,
        }
        match self.chain.first() {
            Some(leaf) => write!(f, " (met: {leaf})"),
            None => f.write_str(" (met: a certificate that cannot be read)"),
        }
    }
}

impl std::error::Error for Refused {}

fn host(name: &GeneralName) -> Option<String> {
    match name {
        GeneralName::DnsName(name) => Some(name.to_string()),
        GeneralName::IpAddress(octets) => match octets.as_bytes() {
            four if four.len() == 4 => <[u8; 4]>::try_from(four).ok().map(|four| IpAddr::from(four).to_string()),
            more => <[u8; 16]>::try_from(more).ok().map(|sixteen| IpAddr::from(sixteen).to_string()),
        },
        _ => None,
    }
}

/// A foreign text, of which nobody knows what it is: one line, and not a long one.
fn tidy(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(LONGEST_NAME).collect()
}
