//! The broker: the only place that knows AMQP and its client library.
//!
//! ```text
//!  events ──► work ──► consumer ──► Handler ──► Conclusion ──► publisher ──► ack
//!               ▲                                                  │
//!               └──────────── waiting levels ◄─────────────────────┘
//! ```
//! - [`message`]: what comes in ([`Delivery`], [`Headers`]) and what a copy of it carries out again
//! - [`conclusion`]: how a delivery ends ([`Conclusion`], [`End`]), and the [`Handler`] that decides it
//! - `topology`: exchanges, queues and waiting levels, their names and arguments
//! - `delay`: which waiting level comes next
//! - `link`: one connection: TLS, timeouts, and an end that cannot hang
//! - `publisher`: confirmed publishing
//! - [`session`]: connect, declare, consume; on any error drop all and begin again
//! - `consumer`: one connection's deliveries, from arrival to their end
//! - `suspect`: deliveries that may have killed a worker run alone
//! - [`client`], [`dead`]: what the command line needs
//! - [`error`]: one enum for this boundary
//!
//! Invariants: only this module ends deliveries, each exactly once, and only after everything the conclusion publishes
//! is confirmed. A delivery that was not ended goes back to its queue when the connection closes. No type of the client
//! library appears in a public signature.

pub mod client;
pub mod conclusion;
mod consumer;
pub mod dead;
mod delay;
pub mod error;
mod link;
pub mod message;
mod publisher;
pub mod session;
mod suspect;
mod topology;

use std::path::PathBuf;

use secrecy::SecretString;

pub use client::{AuditRecord, Client, Finding};
pub use conclusion::{AuditMessage, Conclusion, End, Handler, Line, Timer};
pub use dead::{DeadMessage, Selection};
pub use error::BrokerError;
pub use message::{Delivery, HeaderValue, Headers};
pub use session::{SessionState, run};

/// Connection settings, already validated by configuration.
#[derive(Debug, Clone)]
pub struct Settings {
    /// `amqp://` or `amqps://`. Query parameters `heartbeat` (seconds) and `auth_mechanism=external` are honoured.
    pub url: SecretString,
    /// First part of every exchange's and queue's name, `postern` by default.
    pub prefix: String,
    /// Unacknowledged deliveries a worker holds at most; also how many run at once.
    pub prefetch: u16,
    /// A PEM file with certificates to trust beside the system's.
    pub ca: Option<PathBuf>,
    /// PEM files with the certificate chain and the private key (PKCS#8, PKCS#1 or SEC1) for mutual TLS.
    pub client_certificate: Option<(PathBuf, PathBuf)>,
}
