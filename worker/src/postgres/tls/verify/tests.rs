use std::time::Duration;

use super::*;

// Made with `openssl req -x509` and `openssl x509 -req`; valid until 2124 and later. No private key is kept.
const ISSUER: &[u8] = include_bytes!("fixtures/issuer.pem");
/// From the issuer, for db.example.com and 127.0.0.1.
const NAMED: &[u8] = include_bytes!("fixtures/named.pem");
/// From the issuer, with the common name db.example.com and no other.
const COMMON_NAME: &[u8] = include_bytes!("fixtures/common-name.pem");
/// Claims to be an issuer, as `openssl req -x509` has it; common name db.example.com and no other.
const SELF_SIGNED: &[u8] = include_bytes!("fixtures/self-signed.pem");
/// The same, for db.example.com.
const SELF_SIGNED_NAMED: &[u8] = include_bytes!("fixtures/self-signed-named.pem");

// Roughly, after the epoch.
const IN_2100: Duration = Duration::from_hours(130 * 365 * 24);
const IN_2200: Duration = Duration::from_hours(230 * 365 * 24);

struct Case {
    mode: SslMode,
    roots: Option<&'static [u8]>,
    shown: &'static [u8],
    host: &'static str,
    now: Duration,
}

fn case(mode: SslMode, roots: Option<&'static [u8]>, shown: &'static [u8]) -> Case {
    Case { mode, roots, shown, host: "db.example.com", now: IN_2100 }
}

impl Case {
    fn verdict(&self) -> Result<(), CertificateError> {
        let roots = self.roots.map(|pem| Roots::from_pem(pem, UnixTime::since_unix_epoch(self.now)).unwrap());
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let verifier = Verifier { provider, roots, names: self.mode == SslMode::VerifyFull, refusal: Refusal::default() };
        let shown = CertificateDer::from_pem_slice(self.shown).unwrap();
        let host = ServerName::try_from(self.host).unwrap();
        match verifier.verify_server_cert(&shown, &[], &host, &[], UnixTime::since_unix_epoch(self.now)) {
            Ok(_) => Ok(()),
            Err(Error::InvalidCertificate(why)) => Err(why),
            Err(other) => panic!("{other}"),
        }
    }
}

use SslMode::{Require, VerifyCa, VerifyFull};

#[test]
fn without_roots_anybody_is_believed() {
    assert_eq!(case(Require, None, SELF_SIGNED).verdict(), Ok(()));
}

#[test]
fn the_issuer_counts_wherever_there_are_roots() {
    for mode in [SslMode::Prefer, Require, VerifyCa, VerifyFull] {
        assert_eq!(case(mode, Some(ISSUER), NAMED).verdict(), Ok(()), "{mode}");
        assert_eq!(case(mode, Some(SELF_SIGNED), NAMED).verdict(), Err(CertificateError::UnknownIssuer), "{mode}");
    }
}

#[test]
fn the_name_counts_in_verify_full_alone() {
    for (host, full) in
        [("db.example.com", true), ("127.0.0.1", true), ("other.example.com", false), ("127.0.0.2", false), ("ignored", false)]
    {
        assert!(Case { host, ..case(VerifyCa, Some(ISSUER), NAMED) }.verdict().is_ok());
        assert_eq!(Case { host, ..case(VerifyFull, Some(ISSUER), NAMED) }.verdict().is_ok(), full, "{host}");
    }
    assert!(case(VerifyCa, Some(ISSUER), COMMON_NAME).verdict().is_ok());
    let refused = case(VerifyFull, Some(ISSUER), COMMON_NAME).verdict();
    assert!(matches!(refused, Err(CertificateError::NotValidForNameContext { ref presented, .. }) if presented.is_empty()), "{refused:?}");
}

#[test]
fn a_certificate_in_the_file_is_believed_itself() {
    for shown in [SELF_SIGNED, SELF_SIGNED_NAMED] {
        for mode in [VerifyCa, VerifyFull] {
            assert_eq!(case(mode, Some(shown), shown).verdict(), Ok(()), "{mode}");
        }
    }
    assert_eq!(case(VerifyFull, Some(COMMON_NAME), COMMON_NAME).verdict(), Ok(()));
}

#[test]
fn a_certificate_in_the_file_must_still_be_the_hosts_if_it_names_one() {
    let elsewhere = Case { host: "other.example.com", ..case(VerifyFull, Some(SELF_SIGNED_NAMED), SELF_SIGNED_NAMED) };
    assert!(matches!(elsewhere.verdict(), Err(CertificateError::NotValidForNameContext { .. })));
}

#[test]
fn dates_count_for_every_verified_certificate() {
    for (roots, shown) in [(ISSUER, NAMED), (SELF_SIGNED, SELF_SIGNED), (COMMON_NAME, COMMON_NAME)] {
        for now in [Duration::ZERO, IN_2200] {
            let verdict = Case { now, ..case(VerifyCa, Some(roots), shown) }.verdict();
            assert!(matches!(&verdict, Err(why) if is_about_dates(why)), "{verdict:?}");
        }
    }
}

#[test]
fn what_is_wrong_with_a_file_is_said() {
    assert!(Roots::from_pem(b"", UnixTime::now()).unwrap_err().contains("no PEM certificate"));
    assert!(Roots::from_pem(b"-----BEGIN CERTIFICATE-----\n!!\n-----END CERTIFICATE-----\n", UnixTime::now()).is_err());
}
