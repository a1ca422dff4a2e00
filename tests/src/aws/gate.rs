//! Stands where an RDS endpoint would: proves its name by a certificate, asks for the password in clear text, takes a
//! login token for it, and hands the session to the real server, which believes it by its address.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result, ensure};
use jiff::{SignedDuration, Timestamp};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinHandle;
use tokio_postgres::Client;
use tokio_postgres::config::SslMode;
use tokio_postgres_rustls::MakeRustlsConnect;
use tokio_rustls::TlsAcceptor;

use super::signature::{self, Expected};
use crate::scratch::Scratch;

/// The address from which the gate goes to the server; see [`crate::postgres::Postgres::ask_for_tokens`].
pub const ADDRESS: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
/// `SSLRequest` (PostgreSQL docs, "Message Formats").
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];
/// `AuthenticationCleartextPassword`.
const ASK: [u8; 9] = [b'R', 0, 0, 0, 8, 0, 0, 0, 3];
/// How RDS refuses: PAM fails, with this SQLSTATE.
const REFUSAL: &[u8] = b"SFATAL\0VFATAL\0C28000\0MPAM authentication failed\0\0";

/// A gate with a certificate for its fictitious name.
#[derive(Debug)]
pub struct Gate {
    scratch: Scratch,
    state: Arc<State>,
    address: SocketAddr,
    roots: RootCertStore,
    waiting: Option<(TcpListener, Arc<ServerConfig>)>,
    task: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct State {
    expected: Mutex<Expected>,
    ahead: Mutex<SignedDuration>,
    /// User and token of every login that was tried.
    tried: Mutex<Vec<(String, String)>>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Gate {
    /// A gate that listens and lets nobody in yet.
    pub async fn new(expected: Expected) -> Result<Self> {
        let scratch = Scratch::new("gate")?;
        let mut authority = CertificateParams::new(Vec::new())?;
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority_key = KeyPair::generate()?;
        let certificate = authority.self_signed(&authority_key)?;
        scratch.write_private("ca.pem", &certificate.pem())?;
        let issuer = Issuer::new(authority, authority_key);
        let key = KeyPair::generate()?;
        let own = CertificateParams::new(vec![expected.host.clone()])?.signed_by(&key, &issuer)?;
        let key = PrivateKeyDer::try_from(key.serialize_der()).map_err(|error| anyhow::anyhow!("{error}"))?;
        let config = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(vec![own.der().clone()], key)?;
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from(certificate.der().to_vec()))?;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let state = State { expected: Mutex::new(expected), ahead: Mutex::default(), tried: Mutex::default() };
        let waiting = Some((listener, Arc::new(config)));
        Ok(Self { scratch, state: Arc::new(state), address, roots, waiting, task: None })
    }

    /// Lets sessions through to the server on this port.
    pub fn open(&mut self, server: u16) -> Result<()> {
        let (listener, config) = self.waiting.take().context("the gate is open")?;
        let acceptor = TlsAcceptor::from(config);
        let state = Arc::clone(&self.state);
        self.task = Some(tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, state) = (acceptor.clone(), Arc::clone(&state));
                // A session that breaks is the business of its client.
                tokio::spawn(async move { pass(stream, acceptor, &state, server).await });
            }
        }));
        Ok(())
    }

    /// The file of the certificate's issuer.
    pub fn issuer(&self) -> PathBuf {
        self.scratch.join("ca.pem")
    }

    /// For `POSTERN_RESOLVE`: the fictitious name, on each of these ports, leads here.
    pub fn resolve(&self, ports: &[u16]) -> String {
        let host = locked(&self.state.expected).host.clone();
        ports.iter().map(|port| format!("{host}:{port}={}", self.address)).collect::<Vec<_>>().join(",")
    }

    /// Everybody who tried to log in so far, with the token.
    pub fn tried(&self) -> Vec<(String, String)> {
        locked(&self.state.tried).clone()
    }

    /// From now on the server's clock is so much ahead.
    pub fn advance(&self, ahead: SignedDuration) {
        *locked(&self.state.ahead) = ahead;
    }

    /// The server moved to another port: tokens for the old one are wrong.
    pub fn move_to(&self, port: u16) {
        locked(&self.state.expected).port = port;
    }

    /// Logs in as a person would. The error is the server's own, for its SQLSTATE.
    pub async fn login(&self, user: &str, token: &str, database: &str) -> Result<Client, tokio_postgres::Error> {
        let host = locked(&self.state.expected).host.clone();
        let tls = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map(|builder| builder.with_root_certificates(self.roots.clone()).with_no_client_auth());
        let tls = tls.unwrap_or_else(|error| unreachable!("the provider has the default versions: {error}"));
        let mut config = tokio_postgres::Config::new();
        config.host(host).hostaddr(self.address.ip()).port(self.address.port()).ssl_mode(SslMode::Require);
        let (client, connection) = config.user(user).password(token).dbname(database).connect(MakeRustlsConnect::new(tls)).await?;
        tokio::spawn(connection);
        Ok(client)
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
        }
    }
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// One session, from its first byte to its last.
async fn pass(mut stream: TcpStream, acceptor: TlsAcceptor, state: &State, server: u16) -> Result<()> {
    let mut request = [0; 8];
    stream.read_exact(&mut request).await?;
    ensure!(request == SSL_REQUEST, "RDS takes tokens inside TLS only");
    stream.write_all(b"S").await?;
    let mut client = acceptor.accept(stream).await?;
    let startup = message(&mut client, &[]).await?;
    let user = parameter(&startup, "user").context("no user")?;
    client.write_all(&ASK).await?;
    let kind = client.read_u8().await?;
    let password = message(&mut client, &[kind]).await?;
    let token = String::from_utf8(password.get(5..password.len() - 1).context("no password")?.to_vec())?;
    locked(&state.tried).push((user.clone(), token.clone()));
    let expected = locked(&state.expected).clone();
    let now = Timestamp::now() + *locked(&state.ahead);
    if signature::check(&token, &user, &expected, now).is_err() {
        let mut refusal = vec![b'E'];
        refusal.extend(u32::try_from(REFUSAL.len() + 4)?.to_be_bytes());
        refusal.extend(REFUSAL);
        client.write_all(&refusal).await?;
        return Ok(client.shutdown().await?);
    }
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::from((ADDRESS, 0)))?;
    let mut server = socket.connect(SocketAddr::from((Ipv4Addr::LOCALHOST, server))).await?;
    server.write_all(&startup).await?;
    tokio::io::copy_bidirectional(&mut client, &mut server).await?;
    Ok(())
}

/// A whole message: `head`, its length (which counts itself), its body.
async fn message(stream: &mut (impl AsyncRead + Unpin), head: &[u8]) -> Result<Vec<u8>> {
    let length = stream.read_u32().await?;
    ensure!((4..65_536).contains(&length), "no message has {length} bytes");
    let mut whole = [head, &length.to_be_bytes()].concat();
    let body = whole.len();
    whole.resize(body + usize::try_from(length)? - 4, 0);
    stream.read_exact(&mut whole[body..]).await?;
    Ok(whole)
}

/// A parameter of the startup message: after length and version, names and values that end in NUL.
fn parameter(startup: &[u8], name: &str) -> Option<String> {
    let mut texts = startup.get(8..)?.split(|byte| *byte == 0);
    while let (Some(met), Some(value)) = (texts.next(), texts.next()) {
        if met == name.as_bytes() {
            return String::from_utf8(value.to_vec()).ok();
        }
    }
    None
}
