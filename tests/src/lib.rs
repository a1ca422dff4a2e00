//! The harness of Postern's end-to-end tests: real servers, private to a test and gone after it.
//!
//! | module | holds |
//! |---|---|
//! | [`stage`] | what nearly every test starts with: a cluster, a broker prefix, workers, the audit results |
//! | [`events`] | builders for access events |
//! | [`audit`] | collects every audit result |
//! | [`broker`] | publishing, looking into queues, deleting a prefix's topology |
//! | [`certificates`] | issues certificates |
//! | [`worker`] | one `postern run`, and `postern` as a command |
//! | [`identity`] | a person's age key: opens sealed credentials |
//! | [`postgres`] | a cluster of PostgreSQL 14 to 18 that imitates Azure or RDS |
//! | [`aws`] | AWS's services, and the gate in front of an RDS server |
//! | [`pgbouncer`] | a `PgBouncer` before a cluster |
//! | [`stores`] | secret stores: real servers, and a wire to them that can be cut |
//! | [`rabbit`] | a RabbitMQ node |
//! | [`proxy`] | a relay that forgets connections, as firewalls do |
//! | [`scratch`], [`process`] | directories and processes that do not outlive the test, however it ends |
//!
//! The suite shares one broker, started by the binary `postern-services`; see [`broker::shared_url`].

pub mod audit;
pub mod aws;
pub mod broker;
pub mod certificates;
pub mod events;
pub mod identity;
pub mod pgbouncer;
pub mod postgres;
pub mod process;
pub mod proxy;
pub mod rabbit;
pub mod scratch;
pub mod stage;
pub mod stores;
pub mod worker;

pub use anyhow::Result;
