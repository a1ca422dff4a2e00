//! The files that the configuration names, and the system's issuers.

use anyhow::{Result, ensure};
use postern_tests::certificates::{Authority, Valid, Wanted};
use postern_tests::postgres::Access;
use postern_tests::stage::Stage;
use postern_tests::worker::run_cli;

use super::{Met, check, configured, shown};

#[tokio::test]
async fn a_file_that_cannot_be_used_is_refused_at_start_with_its_key() -> Result<()> {
    let stage = Stage::start().await?;
    let root = Authority::root("Test Root", Valid::Now)?;
    let (one, two) = (root.issue(&Wanted::new("one", &[]))?, root.issue(&Wanted::new("two", &[]))?);
    let file = |name: &str, text: &str| Ok::<_, anyhow::Error>(stage.scratch().write_private(name, text)?.display().to_string());
    let missing = stage.scratch().join("missing.pem").display().to_string();
    let directory = stage.scratch().path().display().to_string();
    let empty = file("empty.pem", "")?;
    let garbage = file("garbage.pem", "-----BEGIN CERTIFICATE-----\nbm90IGEgY2VydGlmaWNhdGU=\n-----END CERTIFICATE-----\n")?;
    let no_pem = file("no-pem.pem", "0\u{82}\u{1}\n not PEM")?;
    let (chain, key) = (file("one.pem", &one.chain)?, file("one.key", &one.key)?);
    let others_key = file("two.key", &two.key)?;
    let locked = file("locked.key", &one.key.replace("PRIVATE KEY", "ENCRYPTED PRIVATE KEY"))?;
    for (settings, expected) in [
        (vec![("ssl_root_cert", &missing)], format!("ssl_root_cert: {missing}: cannot be read")),
        (vec![("ssl_root_cert", &directory)], format!("ssl_root_cert: {directory}: cannot be read")),
        (vec![("ssl_root_cert", &empty)], format!("ssl_root_cert: {empty}: holds no PEM certificate")),
        (vec![("ssl_root_cert", &no_pem)], format!("ssl_root_cert: {no_pem}: holds no PEM certificate")),
        (vec![("ssl_root_cert", &garbage)], format!("ssl_root_cert: {garbage}: its certificate number 1 cannot be used")),
        (vec![("ssl_root_cert", &key)], format!("ssl_root_cert: {key}: holds no PEM certificate")),
        (vec![("ssl_cert", &chain)], "ssl_key: is missing; it goes with ssl_cert".to_owned()),
        (vec![("ssl_key", &key)], "ssl_cert: is missing; it goes with ssl_key".to_owned()),
        (vec![("ssl_cert", &missing), ("ssl_key", &key)], format!("ssl_cert: {missing}: cannot be read")),
        (vec![("ssl_cert", &key), ("ssl_key", &key)], format!("ssl_cert: {key}: holds no PEM certificate")),
        (vec![("ssl_cert", &chain), ("ssl_key", &chain)], format!("ssl_key: {chain}: holds no PEM private key")),
        (
            vec![("ssl_cert", &chain), ("ssl_key", &locked)],
            format!("ssl_key: {locked}: holds no PEM private key that can be read; one with"),
        ),
        (vec![("ssl_cert", &chain), ("ssl_key", &others_key)], format!("ssl_key: {others_key}: is not the key of the certificate")),
    ] {
        let settings: Vec<_> = settings.into_iter().map(|(key, value)| (key, value.as_str())).collect();
        let output = run_cli(&configured(&stage, "wrong.toml", &settings)?, &["run"], &[]).await?;
        ensure!(output.status.code() == Some(78), "{settings:?}: {}", shown(&output));
        let expected = format!("\n  integrations.orders-prod.{expected}");
        ensure!(shown(&output).contains(&expected), "{settings:?}: expected {expected:?} in {}", shown(&output));
    }
    stage.finish().await
}

#[tokio::test]
async fn without_a_file_the_systems_issuers_count() -> Result<()> {
    let stage = Stage::start().await?;
    let root = Authority::root("Test Root", Valid::Now)?;
    let issued = root.issue(&Wanted::new("server", &["localhost"]))?;
    stage.pg.set_access(Access { tls: Some(&issued), ..Access::default() }).await?;
    let bundle = stage.scratch().write_private("system.pem", &root.pem())?.display().to_string();
    let none = stage.scratch().write_private("none.pem", "")?.display().to_string();
    let empty = stage.scratch().join("no-issuers");
    std::fs::create_dir(&empty)?;
    let empty = empty.display().to_string();
    // Both variables are OpenSSL's; they say where the system's issuers are.
    let issuers = [("SSL_CERT_FILE", bundle.as_str()), ("SSL_CERT_DIR", &empty)];
    let settings = [("hostname", "localhost"), ("ssl_mode", "verify-full")];
    let met = check(&stage, "system.toml", &settings, &issuers).await?;
    assert_eq!(met, Met::Tls);
    let elsewhere = [("hostname", "127.0.0.1"), ("ssl_mode", "verify-full")];
    let met = check(&stage, "system.toml", &elsewhere, &issuers).await?;
    ensure!(matches!(&met, Met::Refused(why) if why.contains("is for localhost, not for 127.0.0.1")), "{met:?}");
    let met = check(&stage, "system.toml", &settings, &[("SSL_CERT_FILE", &none), ("SSL_CERT_DIR", &empty)]).await?;
    ensure!(matches!(&met, Met::Refused(why) if why.contains("this system has no trusted certificates; name a file")), "{met:?}");
    stage.finish().await
}
