//! One connection to the broker: TLS, timeouts, and an end that cannot hang.
//!
//! The client library's own recovery is not used: a [`Link`] lives once, and whoever notices that it fails says so with
//! [`Link::fail`]. While the broker blocks a connection (`connection.blocked`) the library writes nothing to it, not even
//! the close; so the link keeps a second handle of the socket and ends with shutting that down.

use std::{
    net::{Shutdown, TcpStream},
    path::Path,
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::Duration,
};

use futures_util::StreamExt as _;
use lapin::{
    Acker, Channel, Connection, ConnectionProperties, Event,
    options::BasicAckOptions,
    tcp::{AMQPUriTcpExt as _, AsyncTcpStream, RustlsConnector, RustlsConnectorConfig},
    uri::{AMQPScheme, AMQPUri},
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use secrecy::ExposeSecret as _;
use tokio::task::AbortHandle;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{Settings, error::BrokerError};

/// DNS, TCP, TLS and the AMQP handshake together.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// The broker and we give each other up after two of these without a byte.
const HEARTBEAT_SECONDS: u16 = 15;
/// How long a polite close may take.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);
/// Any other question to the broker. Declaring a quorum queue on a busy cluster takes seconds.
pub(super) const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// An open connection. Dropping it ends the connection at once; the broker then requeues what was not acknowledged.
pub(super) struct Link {
    connection: Connection,
    socket: Arc<OnceLock<TcpStream>>,
    watcher: AbortHandle,
    health: Arc<Health>,
}

#[derive(Default)]
struct Health {
    failed: CancellationToken,
    first: Mutex<Option<BrokerError>>,
    blocked: Mutex<Option<String>>,
}

impl Link {
    /// Connects and logs in.
    pub(super) async fn open(settings: &Settings) -> Result<Self, BrokerError> {
        let uri = parse(settings.url.expose_secret())?;
        let address = format!("{}:{}", uri.authority.host, uri.authority.port);
        let tls = match uri.scheme {
            AMQPScheme::AMQP => None,
            AMQPScheme::AMQPS => Some(Arc::new(connector(settings)?)),
        };
        let socket = Arc::new(OnceLock::new());
        let connecting = connect(uri.clone(), tls, Arc::clone(&socket));
        let connected = tokio::time::timeout(CONNECT_TIMEOUT, connecting).await;
        let connection = match connected {
            Ok(Ok(connection)) => connection,
            Ok(Err(error)) => return Err(refused(error, address, &uri)),
            Err(_) => {
                shut(&socket);
                return Err(BrokerError::Timeout { doing: format!("connecting to {address}"), after: CONNECT_TIMEOUT });
            }
        };
        let health = Arc::new(Health::default());
        let watcher = tokio::spawn(watch(connection.events_listener(), Arc::clone(&health))).abort_handle();
        Ok(Self { connection, socket, watcher, health })
    }

    /// Opens a channel.
    pub(super) async fn channel(&self) -> Result<Channel, BrokerError> {
        answer("opening a channel", self.connection.create_channel())
            .await?
            .map_err(|error| BrokerError::of_channel(error, "opening", "a channel"))
    }

    /// Marks the link as failed; the first error stays.
    pub(super) fn fail(&self, error: BrokerError) {
        self.health.fail(error);
    }

    /// Becomes cancelled when the link has failed.
    pub(super) fn failed(&self) -> &CancellationToken {
        &self.health.failed
    }

    /// Why the link failed, for the one who reports it.
    pub(super) fn take_failure(&self) -> Option<BrokerError> {
        lock(&self.health.first).take()
    }

    /// Names the reason why an answer did not come, if the broker gave one by blocking the connection.
    pub(super) fn explain(&self, error: BrokerError) -> BrokerError {
        match (error, lock(&self.health.blocked).clone()) {
            (BrokerError::Timeout { .. }, Some(reason)) => BrokerError::Blocked { reason },
            (error, _) => error,
        }
    }

    /// Ends the connection at once, whoever else still holds the link. The broker requeues what was not acknowledged.
    pub(super) fn cut(&self) {
        self.watcher.abort();
        self.health.failed.cancel();
        shut(&self.socket);
    }

    /// Closes politely, within five seconds.
    pub(super) async fn close(&self) {
        // From here on the library's own report of the closed connection is no failure.
        self.watcher.abort();
        let closing = self.connection.close(200, "OK".into());
        if !matches!(tokio::time::timeout(CLOSE_TIMEOUT, closing).await, Ok(Ok(()))) {
            tracing::debug!("the broker connection did not close politely and was cut");
        }
        self.cut();
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.cut();
    }
}

impl Health {
    fn fail(&self, error: BrokerError) {
        lock(&self.first).get_or_insert(error);
        self.failed.cancel();
    }
}

/// Waits for an answer of the broker, but not for ever.
pub(super) async fn answer<T>(doing: &str, question: impl Future<Output = T>) -> Result<T, BrokerError> {
    tokio::time::timeout(ANSWER_TIMEOUT, question)
        .await
        .map_err(|_| BrokerError::Timeout { doing: doing.to_owned(), after: ANSWER_TIMEOUT })
}

/// Ends a delivery. Returns when the acknowledgement is written; AMQP confirms none.
pub(super) async fn acknowledge(acker: &Acker) -> Result<(), BrokerError> {
    let doing = "acknowledging a delivery";
    let lost = |source| BrokerError::Lost { doing: doing.to_owned(), source };
    match answer(doing, acker.ack(BasicAckOptions::default())).await? {
        Ok(true) => Ok(()),
        Ok(false) => Err(lost("its channel is closed".into())),
        Err(error) => Err(lost(Box::new(error))),
    }
}

async fn watch(events: impl futures_util::Stream<Item = Event>, health: Arc<Health>) {
    let mut events = std::pin::pin!(events);
    while let Some(event) = events.next().await {
        match event {
            Event::ConnectionBlocked(reason) => {
                warn!(reason, "the broker takes no messages for now (memory or disk alarm)");
                *lock(&health.blocked) = Some(reason);
            }
            Event::ConnectionUnblocked => {
                info!("the broker takes messages again");
                *lock(&health.blocked) = None;
            }
            Event::Error(error) => {
                health.fail(BrokerError::Lost { doing: "connected".to_owned(), source: Box::new(error) });
            }
            _ => {}
        }
    }
}

async fn connect(uri: AMQPUri, tls: Option<Arc<RustlsConnector>>, socket: Arc<OnceLock<TcpStream>>) -> lapin::Result<Connection> {
    let host = std::env::var("HOSTNAME").unwrap_or_default();
    let properties = ConnectionProperties::default().with_connection_name(format!("postern {host}").trim_end().to_owned().into());
    let plain = AMQPUri { scheme: AMQPScheme::AMQP, ..uri.clone() };
    Connection::connector(
        uri,
        lapin::runtime::default_runtime()?,
        async move |uri, runtime| {
            // The library gives this future a thread of its own, which our timeout around the whole does not end.
            let opening = async {
                let stream = plain.connect_async(&runtime).await?;
                if let AsyncTcpStream::Plain(tcp) = &stream {
                    // Small confirms and acks must not wait for each other (Nagle).
                    tcp.get_ref().set_nodelay(true)?;
                    let second = std::os::fd::AsFd::as_fd(tcp.get_ref()).try_clone_to_owned()?;
                    // Set once: without the library's recovery a link connects once.
                    let _ = socket.set(TcpStream::from(second));
                }
                match &tls {
                    Some(tls) => stream.into_rustls(tls, &uri.authority.host).await,
                    None => Ok(stream),
                }
            };
            match tokio::time::timeout(CONNECT_TIMEOUT, opening).await {
                Ok(opened) => opened.map_err(lapin::Error::from),
                Err(_) => Err(std::io::Error::from(std::io::ErrorKind::TimedOut).into()),
            }
        },
        properties,
    )
    .await
}

fn refused(error: lapin::Error, address: String, uri: &AMQPUri) -> BrokerError {
    let user = uri.authority.userinfo.username.clone();
    match error.kind() {
        lapin::ErrorKind::ProtocolError(amqp) if amqp.get_id() == 403 => BrokerError::Login { address, user },
        lapin::ErrorKind::ProtocolError(amqp) if amqp.get_id() == 530 => BrokerError::Vhost { address, user, vhost: uri.vhost.clone() },
        _ => BrokerError::Unreachable { address, source: Box::new(error) },
    }
}

/// Reads the URL. The library's own errors are not shown: they repeat the text, password and all.
fn parse(url: &str) -> Result<AMQPUri, BrokerError> {
    let Some((scheme, rest)) = url.split_once("://") else {
        return Err(BrokerError::Url { problem: "it has no scheme" });
    };
    if !matches!(scheme, "amqp" | "amqps") {
        return Err(BrokerError::Url { problem: "its scheme is neither amqp nor amqps" });
    }
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    if host.is_empty() || host.starts_with(':') {
        return Err(BrokerError::Url { problem: "it names no host" });
    }
    let mut uri: AMQPUri = url.parse().map_err(|_| BrokerError::Url { problem: "it is malformed" })?;
    // The library takes an IPv6 literal for no host at all and would connect to localhost.
    if let Some((address, _)) = host.strip_prefix('[').and_then(|host| host.split_once(']')) {
        address.clone_into(&mut uri.authority.host);
    }
    uri.query.heartbeat.get_or_insert(HEARTBEAT_SECONDS);
    Ok(uri)
}

/// The system's roots and `ca`; the client's certificate, if there is one. Built here rather than by the library because
/// that refuses to work in an image without system roots, and ignores a `ca` file with nothing in it.
fn connector(settings: &Settings) -> Result<RustlsConnector, BrokerError> {
    let mut config = RustlsConnectorConfig::default();
    config.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if let Some(path) = &settings.ca {
        config.add_parsable_certificates(certificates("broker.ca", path)?);
    }
    let Some((certificate, key_path)) = &settings.client_certificate else {
        return config.connector_with_no_client_auth().map_err(|error| BrokerError::File {
            purpose: "broker.ca",
            path: settings.ca.clone().unwrap_or_default(),
            problem: error.to_string(),
        });
    };
    let chain = certificates("the broker's client certificate", certificate)?;
    let unusable =
        |problem: String| BrokerError::File { purpose: "the key of the broker's client certificate", path: key_path.clone(), problem };
    let pem = std::fs::read(key_path).map_err(|error| unusable(error.to_string()))?;
    let key = PrivateKeyDer::from_pem_slice(&pem).map_err(|error| unusable(error.to_string()))?;
    config.connector_with_single_cert(chain, key).map_err(|error| unusable(error.to_string()))
}

fn certificates(purpose: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, BrokerError> {
    let unusable = |problem: String| BrokerError::File { purpose, path: path.to_owned(), problem };
    let pem = std::fs::read(path).map_err(|error| unusable(error.to_string()))?;
    let found = CertificateDer::pem_slice_iter(&pem).collect::<Result<Vec<_>, _>>().map_err(|error| unusable(error.to_string()))?;
    if found.is_empty() {
        return Err(unusable("it holds no PEM certificate".to_owned()));
    }
    Ok(found)
}

fn shut(socket: &OnceLock<TcpStream>) {
    if let Some(socket) = socket.get() {
        // An error means that it is closed already.
        let _ = socket.shutdown(Shutdown::Both);
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // Nothing here panics with the lock held, and no value is ever left half-written.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls() {
        let good = |url: &str| parse(url).map(|uri| (uri.authority.host, uri.authority.port, uri.vhost)).ok();
        let expect = |host: &str, port, vhost: &str| Some((host.to_owned(), port, vhost.to_owned()));
        assert_eq!(good("amqp://guest:guest@127.0.0.1:5672/%2f"), expect("127.0.0.1", 5672, "/"));
        assert_eq!(good("amqps://u:p%40ss@mq.example.com/prod"), expect("mq.example.com", 5671, "prod"));
        assert_eq!(good("amqp://[::1]:5673/%2f"), expect("::1", 5673, "/"));
        for bad in ["", "mq.example.com", "http://h/", "amqp://", "amqp://:5672/", "amqp://u:p@/x", "amqp://h:port/"] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn no_error_shows_the_password() {
        for url in ["amqp://u:hunter2@h:port/", "amqp:u:hunter2@h", "http://u:hunter2@h/", "amqp://u:hunter2@/"] {
            let error = parse(url).err().map(|error| format!("{error} {error:?}")).unwrap_or_default();
            assert!(!error.is_empty() && !error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn a_heartbeat_is_always_asked_for() {
        let heartbeat = |url: &str| parse(url).ok().and_then(|uri| uri.query.heartbeat);
        assert_eq!(heartbeat("amqp://h"), Some(HEARTBEAT_SECONDS));
        assert_eq!(heartbeat("amqp://h?heartbeat=5"), Some(5));
    }
}
