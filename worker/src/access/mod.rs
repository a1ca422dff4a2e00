//! The rules of the trade, pure: what an event means for one person on one server.
//!
//! Every function here takes what was observed under the locks and returns what is to be done. There is no I/O,
//! no clock and no randomness, so the rules are tested by tables, snapshots and properties, and `postern plan`
//! can print what would happen.
//!
//! | module | rule |
//! |---|---|
//! | [`state`] | what was observed: ledger rows and catalog rows |
//! | [`policy`] | what may be asked, and roles that are never handed out |
//! | [`plan`] | the vocabulary of what is to be done |
//! | [`reconcile`] | from "which grants are active" to role attributes and memberships |
//! | [`grant`], [`revoke`], [`expiry`], [`rotate`], [`cleanup`] | one verb each |

pub mod cleanup;
pub mod expiry;
pub mod grant;
pub mod iam;
pub mod plan;
pub mod policy;
#[cfg(test)]
mod properties;
pub mod reconcile;
pub mod revoke;
pub mod rotate;
pub mod state;
#[cfg(test)]
mod world;

pub use plan::{Decision, Plan, Step};
pub use policy::Rules;
pub use state::Observed;
