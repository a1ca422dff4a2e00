//! PostgreSQL: the only place with SQL.
//!
//! | module | does |
//! |---|---|
//! | [`connect`], [`tls`] | one session, with libpq's meaning of `ssl_mode` |
//! | [`locate`] | where a server is: an RDS instance's endpoint is looked up |
//! | [`target`] | one server: its sessions, its circuit, its credential |
//! | [`batch`] | statements that travel in one round trip |
//! | [`ledger`] | the ledger's schema: made once, checked at the first session |
//! | [`observe`] | locks, then reads, in one round trip |
//! | [`rows`] | rows as the types of `access::state` |
//! | [`apply`] | a plan as statements, in the transaction of the observation |
//! | [`events`] | the ledger's event rows: found, claimed, settled |
//! | [`bundle`], [`privileges`] | bundle roles: made, compared object by object, dropped |
//! | [`probe`] | what a grant has to know of the databases it names |
//! | [`sessions`] | ending a person's sessions, and proof that they ended |
//! | [`drift`] | what was changed by hand, or forgotten by a restored ledger |
//! | [`replicas`] | the same on read replicas, or why not |
//! | [`dispose`] | roles that are dropped without leaving anything behind |
//! | [`sweep`] | the questions of wide revokes and clean-ups: who is concerned |
//! | [`report`] | what the ledger says of people: who holds what |
//! | [`check`] | what a connector may and sees, compared with what it needs |
//! | [`rounds`] | another round after a conflict with somebody else |
//! | [`names`] | quoting |
//! | [`error`] | one enum for this boundary; SQLSTATE decides |

pub mod apply;
pub mod batch;
pub mod bundle;
pub mod check;
pub mod connect;
pub mod dispose;
pub mod drift;
pub mod error;
pub mod events;
pub mod ledger;
pub mod locate;
pub mod names;
pub mod observe;
pub mod privileges;
pub mod probe;
pub mod replicas;
pub mod report;
pub mod rounds;
pub mod rows;
pub mod sessions;
pub mod sweep;
pub mod target;
pub mod tls;

pub use error::TargetError;
pub use rounds::Rounds;
pub use target::Target;
