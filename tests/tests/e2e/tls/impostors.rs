//! Whoever stands between a worker and its server, or in its place.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use postern_tests::certificates::{Authority, Issued, Valid, Wanted};
use postern_tests::postgres::Access;
use postern_tests::stage::Stage;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::{Met, check};

const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];
/// Type of a TLS record that carries a handshake (RFC 8446, 5.1).
const HANDSHAKE: u8 = 22;

/// An error of the server's own kind: its text could be the man's in the middle.
const LIE: &[u8] = b"E\0\0\0\x3cSFATAL\0C28P01\0Mmail your password to eve@example.com\0\0\0";
/// A login that has succeeded, to be taken for what came over TLS (CVE-2021-23222).
const STUFFED: &[u8] = b"SR\0\0\0\x08\0\0\0\0Z\0\0\0\x05I";

/// Answers one client's question for TLS with these bytes; the task gives what the client said then.
async fn answering(answer: &'static [u8]) -> Result<(String, JoinHandle<Result<Vec<u8>>>)> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let port = listener.local_addr()?.port().to_string();
    let task = tokio::spawn(async move {
        let (mut client, _) = listener.accept().await?;
        let mut request = [0; 8];
        client.read_exact(&mut request).await?;
        ensure!(request == SSL_REQUEST, "expected a question for TLS, met {request:?}");
        client.write_all(answer).await?;
        let mut said = Vec::new();
        // A client that breaks off is what is expected; what it had said by then counts.
        let _ = client.read_to_end(&mut said).await;
        Ok(said)
    });
    Ok((port, task))
}

async fn check_at(stage: &Stage, port: &str, mode: &str, more: &[(&str, &str)]) -> Result<Met> {
    let mut config: toml::Table = std::fs::read_to_string(super::configured(stage, "base.toml", more)?)?.parse()?;
    let integration = config["integrations"]["orders-prod"].as_table_mut().context("no table")?;
    integration.insert("port".to_owned(), port.parse::<i64>()?.into());
    integration.insert("ssl_mode".to_owned(), mode.into());
    let file = stage.scratch().write_private("impostor.toml", &toml::to_string(&config)?)?;
    super::check_with(&file, &[]).await
}

#[tokio::test]
async fn what_comes_before_encryption_is_not_believed() -> Result<()> {
    let stage = Stage::start().await?;
    for mode in ["require", "verify-full"] {
        for (answer, expected) in [
            (&b"N"[..], "does not offer TLS"),
            (LIE, "answers the question for TLS with an error"),
            (STUFFED, "does not speak TLS"),
            (b"HTTP/1.1 400 Bad Request\r\n\r\n", "does not speak PostgreSQL's protocol"),
        ] {
            let (port, server) = answering(answer).await?;
            let met = check_at(&stage, &port, mode, &[]).await?;
            let Met::Refused(why) = &met else { anyhow::bail!("{mode}, {answer:?}: {met:?}") };
            ensure!(why.contains(expected) && !why.contains("eve@example.com"), "{mode}, {answer:?}: {why}");
            let said = server.await??;
            ensure!(said.is_empty() || said[0] == HANDSHAKE, "{mode}, {answer:?}: said in clear {said:?}");
        }
    }
    stage.finish().await
}

/// One client, over TLS with a certificate of its own, to the server, over TLS too. With `strip` the server's offer of
/// channel binding does not reach the client.
async fn relay(server: u16, trusted: &str, own: &Issued, strip: bool) -> Result<(String, JoinHandle<Result<()>>)> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let chain = CertificateDer::pem_slice_iter(own.chain.as_bytes()).collect::<Result<Vec<_>, _>>()?;
    let key = PrivateKeyDer::from_pem_slice(own.key.as_bytes())?;
    let towards_client = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(trusted.as_bytes())?)?;
    let towards_server = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let (acceptor, connector) = (TlsAcceptor::from(Arc::new(towards_client)), TlsConnector::from(Arc::new(towards_server)));

    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let port = listener.local_addr()?.port().to_string();
    let task = tokio::spawn(async move {
        let (mut client, _) = listener.accept().await?;
        let mut request = [0; 8];
        client.read_exact(&mut request).await?;
        client.write_all(b"S").await?;
        let client = acceptor.accept(client).await?;
        let mut upstream = TcpStream::connect(("127.0.0.1", server)).await?;
        upstream.write_all(&SSL_REQUEST).await?;
        ensure!(upstream.read_u8().await? == b'S', "the server has no TLS");
        let upstream = connector.connect(ServerName::try_from("localhost")?, upstream).await?;
        let (from_client, to_client) = tokio::io::split(client);
        let (from_server, to_server) = tokio::io::split(upstream);
        // Either side may end first, in whatever way.
        let _ = tokio::join!(pass(from_client, to_server, false), pass(from_server, to_client, strip));
        Ok(())
    });
    Ok((port, task))
}

/// Passes on what comes; with `strip` the first message without `SCRAM-SHA-256-PLUS`.
async fn pass(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin, mut strip: bool) -> Result<()> {
    const OFFER: &[u8] = b"SCRAM-SHA-256-PLUS\0";
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let length = from.read(&mut buffer).await?;
        if length == 0 {
            return Ok(to.shutdown().await?);
        }
        let mut bytes = buffer[..length].to_vec();
        if strip && let Some(at) = bytes.windows(OFFER.len()).position(|window| window == OFFER) {
            bytes.drain(at..at + OFFER.len());
            let shorter = u32::from_be_bytes(bytes[1..5].try_into()?) - u32::try_from(OFFER.len())?;
            bytes[1..5].copy_from_slice(&shorter.to_be_bytes());
            strip = false;
        }
        to.write_all(&bytes).await?;
    }
}

#[tokio::test]
async fn a_login_is_bound_to_the_servers_certificate() -> Result<()> {
    let stage = Stage::start().await?;
    let root = Authority::root("Test Root", Valid::Now)?;
    let server = root.issue(&Wanted::new("server", &["localhost"]))?;
    let own = Wanted::new("in the middle", &["localhost"]).self_signed()?;
    stage.pg.set_access(Access { tls: Some(&server), ..Access::default() }).await?;
    let settings = [("hostname", "localhost"), ("ssl_mode", "require")];
    assert_eq!(check(&stage, "direct.toml", &settings, &[]).await?, Met::Tls);

    // The very certificate of the server: the relay is not noticed, so it is not the relay that fails below.
    let (port, _relay) = relay(stage.pg.port(), &root.pem(), &server, false).await?;
    assert_eq!(check_at(&stage, &port, "require", &[]).await?, Met::Tls);
    // `require` believes anybody, and SCRAM does not: it proves over which certificate the login came.
    for strip in [false, true] {
        let (port, _relay) = relay(stage.pg.port(), &root.pem(), &own, strip).await?;
        let met = check_at(&stage, &port, "require", &[]).await?;
        ensure!(matches!(&met, Met::Refused(why) if why.contains("SQLSTATE")), "strip {strip}: {met:?}");
    }
    let log = stage.pg.log()?;
    ensure!(log.contains("SCRAM channel binding check failed") && log.contains("SCRAM channel binding negotiation error"), "{log}");
    stage.finish().await
}
