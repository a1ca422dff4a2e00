//! Why there is no session. Decided by SQLSTATE (PostgreSQL docs, appendix "PostgreSQL Error Codes"), never by text.

use std::error::Error as _;
use std::fmt;
use std::io;

use postern_schemas::Code;

use super::is_about_the_network;
use crate::postgres::tls::{CleartextRefused, TlsError};

/// Why there is no session, and where. Shown, it names host, port, database and user, never a password.
#[derive(Debug, thiserror::Error)]
#[error("cannot connect to {address}, database {database}, as {user}: {failure}")]
pub struct ConnectError {
    /// `host:port`.
    pub address: Box<str>,
    /// The database.
    pub database: Box<str>,
    /// The role.
    pub user: Box<str>,
    /// Why.
    pub failure: ConnectFailure,
}

/// Why there is no session.
#[derive(Debug)]
pub enum ConnectFailure {
    /// Nobody answers, or nobody who takes sessions now: it may later.
    Unreachable {
        /// What was met.
        what: String,
        /// The server's code, if it was the server that said so.
        sqlstate: Option<String>,
    },
    /// The server refuses this user: a wrong password, or `pg_hba.conf`. The remembered credential may be out of date.
    Authentication {
        /// The server's words.
        what: String,
        /// 28000 or 28P01.
        sqlstate: String,
    },
    /// The server asks for the password in clear text.
    Cleartext(CleartextRefused),
    /// The connection is not encrypted as it should be.
    Tls(Box<TlsError>),
    /// There is no such database.
    NoDatabase,
    /// The server is a replica.
    ReadOnly,
    /// The user may not connect to this database (42501).
    Forbidden {
        /// The server's words.
        what: String,
    },
    /// Anything else that the server says, or that is not PostgreSQL's protocol.
    Refused {
        /// What was met.
        what: String,
        /// The server's code, if it gave one.
        sqlstate: Option<String>,
    },
}

impl ConnectError {
    pub(super) fn new(address: String, database: &str, user: &str, failure: ConnectFailure) -> Self {
        Self { address: address.into(), database: database.into(), user: user.into(), failure }
    }

    /// Whether the server cannot be had now but may later, without anybody changing credential or configuration.
    pub fn is_unreachable(&self) -> bool {
        match &self.failure {
            ConnectFailure::Unreachable { .. } => true,
            ConnectFailure::Tls(error) => matches!(**error, TlsError::Broken(_) | TlsError::ErrorBefore | TlsError::Interrupted(_)),
            _ => false,
        }
    }

    /// Whether the server refuses the credential: the remembered one must be forgotten and read anew.
    pub fn is_authentication(&self) -> bool {
        matches!(self.failure, ConnectFailure::Authentication { .. })
    }

    /// Whether the server may have moved, or another one has taken its place.
    pub fn may_be_elsewhere(&self) -> bool {
        !matches!(self.failure, ConnectFailure::NoDatabase | ConnectFailure::Forbidden { .. })
    }

    /// Whether the database does not exist.
    pub fn is_no_database(&self) -> bool {
        matches!(self.failure, ConnectFailure::NoDatabase)
    }

    /// The server's code, if it was the server that refused.
    pub fn sqlstate(&self) -> Option<&str> {
        self.failure.sqlstate()
    }

    /// The result's code.
    pub fn code(&self) -> Code {
        match self.failure {
            ConnectFailure::NoDatabase => Code::NotFound,
            ConnectFailure::Forbidden { .. } => Code::PermissionMissing,
            _ => Code::TargetUnreachable,
        }
    }

    /// The text for results and logs.
    pub fn public_message(&self) -> String {
        self.to_string()
    }
}

impl ConnectFailure {
    pub(super) fn unreachable(what: impl Into<String>) -> Self {
        Self::Unreachable { what: what.into(), sqlstate: None }
    }

    /// What the driver's error means.
    pub(super) fn of(error: tokio_postgres::Error) -> Self {
        if let Some(server) = error.as_db_error() {
            return Self::of_sqlstate(server.code().code(), spoken(server.message()));
        }
        if error.is_closed() {
            return Self::unreachable("the server ended the connection during the login");
        }
        if let Some(refused) = error.source().and_then(|source| source.downcast_ref::<io::Error>()) {
            if refused.get_ref().is_some_and(<dyn std::error::Error + Send + Sync>::is::<CleartextRefused>) {
                return Self::Cleartext(CleartextRefused);
            }
            // With TLS 1.3 a server judges the client's certificate when the client believes to be done.
            if let Some(failed) = refused.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
                return Self::Tls(Box::new(TlsError::Handshake(failed.clone())));
            }
            if is_about_the_network(refused) {
                return Self::unreachable(refused.to_string());
            }
        }
        let what = error.source().map_or_else(|| error.to_string(), |source| spoken(&source.to_string()));
        match error.into_source().map(<dyn std::error::Error + Send + Sync>::downcast::<TlsError>) {
            Some(Ok(tls)) => Self::Tls(tls),
            _ => Self::Refused { what: format!("the login failed: {what}"), sqlstate: None },
        }
    }

    /// What the server's refusal of a session means.
    fn of_sqlstate(sqlstate: &str, what: String) -> Self {
        match sqlstate {
            "28000" | "28P01" => Self::Authentication { what, sqlstate: sqlstate.to_owned() },
            "3D000" => Self::NoDatabase,
            "25006" => Self::ReadOnly,
            "42501" => Self::Forbidden { what },
            // Connection exceptions, insufficient resources, operator intervention, system errors.
            _ if ["08", "53", "57", "58"].iter().any(|class| sqlstate.starts_with(class)) => {
                Self::Unreachable { what, sqlstate: Some(sqlstate.to_owned()) }
            }
            _ => Self::Refused { what, sqlstate: Some(sqlstate.to_owned()) },
        }
    }

    /// Whether no server answered, so that another of the host's addresses may.
    pub(super) fn is_no_answer(&self) -> bool {
        match self {
            Self::Unreachable { sqlstate, .. } => sqlstate.is_none(),
            Self::Tls(error) => matches!(**error, TlsError::Broken(_)),
            _ => false,
        }
    }

    /// Whether the server has no TLS.
    pub(super) fn is_not_offered(&self) -> bool {
        matches!(self, Self::Tls(error) if matches!(**error, TlsError::NotOffered))
    }

    pub(super) fn sqlstate(&self) -> Option<&str> {
        match self {
            Self::Authentication { sqlstate, .. } => Some(sqlstate),
            Self::Unreachable { sqlstate, .. } | Self::Refused { sqlstate, .. } => sqlstate.as_deref(),
            Self::NoDatabase => Some("3D000"),
            Self::ReadOnly => Some("25006"),
            Self::Forbidden { .. } => Some("42501"),
            Self::Cleartext(_) | Self::Tls(_) => None,
        }
    }
}

impl fmt::Display for ConnectFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable { what, sqlstate: Some(sqlstate) } => {
                write!(f, "the server takes no session now: {what} (SQLSTATE {sqlstate})")
            }
            Self::Unreachable { what, sqlstate: None } => write!(f, "the server cannot be reached: {what}"),
            Self::Authentication { what, sqlstate } => {
                let mend = if sqlstate == "28P01" {
                    "compare the secret with the role, and look at pg_hba.conf"
                } else {
                    "look at pg_hba.conf; for a client certificate, ssl_cert and ssl_key name one that is the role's"
                };
                write!(f, "the server refuses the login: {what} (SQLSTATE {sqlstate}); {mend}")
            }
            Self::Cleartext(refused) => refused.fmt(f),
            Self::Tls(error) => error.fmt(f),
            Self::NoDatabase => f.write_str("the database does not exist"),
            Self::ReadOnly => f.write_str(
                "the server is a read replica (in recovery) and takes no changes; name the primary as hostname of the integration",
            ),
            Self::Forbidden { what } => write!(f, "{what} (SQLSTATE 42501); GRANT CONNECT on the database to this user"),
            Self::Refused { what, sqlstate: Some(sqlstate) } => write!(f, "{what} (SQLSTATE {sqlstate})"),
            Self::Refused { what, sqlstate: None } => f.write_str(what),
        }
    }
}

/// A foreign text, of which nobody knows what it is: one line, and not a long one.
fn spoken(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(300).collect()
}
