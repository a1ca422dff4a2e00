//! Postern's public contract as Rust types.
//!
//! | module | holds |
//! |---|---|
//! | [`event`] | the inbound CloudEvents envelope and [`Event::decode`](event::Event::decode) |
//! | [`request`] | what an event asks: revoke, rotate, cleanup, discover, and |
//! | [`grant`] | grants, and how a password travels |
//! | [`permission`] | access levels and their scopes |
//! | [`names`] | validated names: they can only hold legal values |
//! | [`store`] | where a secret lives |
//! | [`result`] | the outbound audit result |
//! | [`id`] | result identifiers and the digest that tells two bodies apart |
//! | [`fields`] | the reader that names every mistake at once |
//! | [`schema`] | JSON Schemas and the AsyncAPI document, generated from these types |
//! | [`examples`] | one valid event of every shape |
//!
//! Decoding is written by hand over [`fields::Fields`] instead of derived, because a producer's author is
//! served best by all mistakes of an event at once, each with its path. Serialization and the JSON Schemas are
//! derived from the same types; a test mutates every example and demands that schema and decoder agree.

pub mod event;
pub mod examples;
pub mod fields;
pub mod grant;
pub mod id;
pub mod names;
pub mod permission;
pub mod request;
pub mod result;
pub mod schema;
pub mod store;
mod strict;

pub use event::{DecodeError, Event, EventKey};
pub use grant::{Deliver, Grant};
pub use names::{GrantId, Identifier, IntegrationId, Principal};
pub use permission::{Access, Permission, Scope};
pub use request::{Cleanup, Discover, Request, Revoke, Rotate, Verb};
pub use result::{AuditResult, Code, Outcome, Reason};
