//! One session on a target database.

mod error;

use std::io;
use std::net::IpAddr;
use std::time::Duration;

use postern_schemas::Identifier;
use secrecy::ExposeSecret as _;
use tokio::task::JoinHandle;
use tokio_postgres::config::{SslMode as DriverSslMode, SslNegotiation};
use tokio_postgres::{Client, Config};

use super::tls::{Connector, Encryption, TlsError};
use crate::config::{Integration, SslMode};
use crate::secrets::Credential;

pub use error::{ConnectError, ConnectFailure};

/// Name, address, encryption and login together, over all of a host's addresses.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// One address of a host: short, so that a dead one leaves time for the next.
const ADDRESS_TIMEOUT: Duration = Duration::from_secs(2);
/// A session that is silent for this long is asked whether it still lives; three more silences of ten seconds end it.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(30);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
/// What was sent and is not acknowledged for this long ends the session.
const SEND_TIMEOUT: Duration = Duration::from_secs(30);

/// What a session is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Changes: a server that is in recovery (a read replica) is refused where it says so itself, from PostgreSQL 14.
    Changing,
    /// Looking, and ending sessions: a read replica will do.
    Looking,
    /// Finding out whether a connection pooler stands between: the login carries a parameter that the server takes and
    /// `PgBouncer` refuses (its docs, `ignore_startup_parameters`).
    Probing,
}

/// Connects to `database` of the integration's server. The task drives the connection and ends with it, soon after the
/// client is dropped. Takes at most five seconds.
pub async fn connect(
    integration: &Integration,
    purpose: Purpose,
    database: &Identifier,
    credential: &Credential,
    application_name: &str,
) -> Result<(Client, JoinHandle<()>), ConnectError> {
    let at = |failure| ConnectError::new(integration.address(), database.as_str(), &credential.username, failure);
    let mut config = Config::new();
    config
        .user(&credential.username)
        .password(credential.password.expose_secret())
        .dbname(database.as_str())
        .application_name(application_name)
        .host(&integration.hostname)
        .port(integration.resolve.destination(&integration.hostname, integration.port).1)
        .connect_timeout(ADDRESS_TIMEOUT)
        .tcp_user_timeout(SEND_TIMEOUT)
        .keepalives_idle(KEEPALIVE_IDLE)
        .keepalives_interval(KEEPALIVE_INTERVAL)
        .keepalives_retries(3)
        // The driver is to leave encryption to `tls`, see there.
        .ssl_mode(DriverSslMode::Require)
        .ssl_negotiation(SslNegotiation::Direct);
    if purpose == Purpose::Probing {
        config.options("-c geqo=on");
    }
    let connecting = async {
        let connector = Connector::new(integration).await.map_err(|error| ConnectFailure::Tls(Box::new(error)))?;
        any_address(integration, &config, &connector).await
    };
    match tokio::time::timeout(CONNECT_TIMEOUT, connecting).await {
        // Reported by the server without being asked (PostgreSQL docs, "Protocol Flow", section "Asynchronous Operations").
        Ok(Ok((_, true, _))) if purpose == Purpose::Changing => Err(at(ConnectFailure::ReadOnly)),
        Ok(connected) => connected.map(|(client, _, task)| (client, task)).map_err(at),
        Err(_) => Err(at(ConnectFailure::unreachable(format!("no login within {} s", CONNECT_TIMEOUT.as_secs())))),
    }
}

/// A session, whether the server calls itself a read replica, and the task.
type Connected = (Client, bool, JoinHandle<()>);

/// Tries the host's addresses until a server answers on one, whatever it answers.
async fn any_address(integration: &Integration, config: &Config, connector: &Connector) -> Result<Connected, ConnectFailure> {
    let unresolved = |why: String| ConnectFailure::unreachable(format!("the name {} cannot be resolved: {why}", integration.hostname));
    let destination = integration.resolve.destination(&integration.hostname, integration.port);
    let found = tokio::net::lookup_host(destination).await;
    let addresses: Vec<IpAddr> = found.map_err(|error| unresolved(error.to_string()))?.map(|address| address.ip()).collect();
    let mut last = unresolved("it has no address".to_owned());
    for address in addresses {
        let mut config = config.clone();
        config.hostaddr(address);
        match by_mode(integration.ssl_mode, &config, connector).await {
            Err(failure) if failure.is_no_answer() => last = failure,
            other => return other,
        }
    }
    Err(last)
}

/// `allow` and `prefer` try twice, as libpq does: when the server refuses the login on the first kind of connection
/// (`pg_hba.conf` can tell them apart) or cannot agree on encryption.
async fn by_mode(mode: SslMode, config: &Config, connector: &Connector) -> Result<Connected, ConnectFailure> {
    let (first, second) = match mode {
        SslMode::Disable => (Encryption::Never, None),
        SslMode::Allow => (Encryption::Never, Some(Encryption::Always)),
        SslMode::Prefer => (Encryption::IfOffered, Some(Encryption::Never)),
        SslMode::Require | SslMode::VerifyCa | SslMode::VerifyFull => (Encryption::Always, None),
    };
    let trying = connector.with(first);
    let failure = match login(config, trying.clone()).await {
        Ok(connected) => return Ok(connected),
        Err(failure) => failure,
    };
    let Some(second) = second else { return Err(failure) };
    let worth = match &failure {
        ConnectFailure::Authentication { .. } => first == Encryption::Never || trying.was_encrypted(),
        ConnectFailure::Tls(error) => matches!(**error, TlsError::Certificate(_) | TlsError::Handshake(_) | TlsError::Interrupted(_)),
        _ => false,
    };
    if !worth {
        return Err(failure);
    }
    match login(config, connector.with(second)).await {
        Ok(connected) => Ok(connected),
        // A wrong password says more than that the other kind of connection is not served.
        Err(other) if other.sqlstate() == Some("28P01") => Err(other),
        // Neither does it say more that there is no encryption; that it went wrong does.
        Err(other) if mode == SslMode::Allow && !other.is_not_offered() && failure.sqlstate() != Some("28P01") => Err(other),
        Err(_) => Err(failure),
    }
}

async fn login(config: &Config, connector: Connector) -> Result<Connected, ConnectFailure> {
    let (client, connection) = config.connect(connector).await.map_err(ConnectFailure::of)?;
    let standby = connection.parameter("in_hot_standby") == Some("on");
    let task = tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a database session ended");
        }
    });
    Ok((client, standby, task))
}

/// The kinds of I/O errors that mean that nobody answered, or stopped to.
fn is_about_the_network(error: &io::Error) -> bool {
    !matches!(
        error.kind(),
        io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData | io::ErrorKind::Other | io::ErrorKind::PermissionDenied
    )
}

#[cfg(test)]
mod tests;
