//! Secret stores as the tests need them: each starts its real server and writes to it with that server's own client.
//!
//! | module | server |
//! |---|---|
//! | [`aws`] | `moto`, an imitation of AWS |
//! | [`vault`] | OpenBao, which has HashiCorp Vault's API |
//! | [`wire`] | what stands between Postern and a server, and can be cut |

pub mod aws;
pub mod vault;
pub mod wire;

use anyhow::Result;
use serde_json::Value;

use self::wire::Wire;

/// Variables for Postern's process.
pub type Env = Vec<(String, String)>;

/// One kind of store, empty, behind a wire of its own.
pub trait Store {
    /// Where the secret `name` is, as events and configuration write it.
    fn place(&self, name: &str) -> Value;

    /// What Postern needs to reach it, with no more rights than the documentation says it needs.
    fn env(&self) -> Env;

    /// The same as somebody who may read nothing.
    fn stranger(&self) -> Result<Env>;

    /// Writes a secret with the store's own client, with the mark or without, over whatever is there.
    fn put(&self, name: &str, body: &str, marked: bool) -> Result<()>;

    /// Deletes it.
    fn remove(&self, name: &str) -> Result<()>;

    /// Whether its secrets carry marks.
    fn has_marks(&self) -> bool;

    /// Whether a body can be any text; otherwise it is always a JSON object.
    fn holds_any_text(&self) -> bool;

    /// Whether it says who may write without being written to.
    fn tells_rights(&self) -> bool;

    /// Runs a command that Postern printed, in the store's own client.
    fn run(&self, command: &str) -> Result<()>;

    /// What Postern reaches it through.
    fn wire(&self) -> &Wire;
}
