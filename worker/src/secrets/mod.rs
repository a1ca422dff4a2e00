//! Secret stores: where the connector's own credential comes from, and where people's may be delivered.
//!
//! | file | holds |
//! |---|---|
//! | [`store`] | what every store can do: one trait, with a name and a time limit on every call |
//! | [`stores`] | which store a place is in; the clients that are shared |
//! | [`connector`] | the connector's secret: guarded by the mark, parsed, rotated in stages |
//! | [`delivery`] | secrets written for people: labelled, and only our own overwritten or deleted |
//! | [`cache`] | the connector's credential, remembered for a while |
//! | [`body`] | the text of a connector's secret |
//! | `local`, `aws`, `vault` | one file a store |
//! | `iam` | no store: a login token, signed each time |

mod aws;
pub mod body;
pub mod cache;
pub mod connector;
pub mod delivery;
mod error;
mod iam;
mod local;
pub mod store;
pub mod stores;
mod vault;

use secrecy::{ExposeSecret as _, SecretString};

pub use cache::CachedCredential;
pub use connector::{Connector, Known};
pub use error::{SecretError, SecretFailure};
pub use iam::IamLogin;
pub use local::LocalStore;
pub use store::{Described, Labels, Secret, SecretStore, Stored, Version};
pub use stores::Stores;

/// A name and its password.
#[derive(Clone, Debug)]
pub struct Credential {
    /// The role to log in as.
    pub username: String,
    /// Its password; never shown.
    pub password: SecretString,
}

impl Credential {
    /// Whether both are the same credential.
    fn is(&self, other: &Self) -> bool {
        self.username == other.username && self.password.expose_secret() == other.password.expose_secret()
    }
}
