//! Postern: just-in-time access to PostgreSQL.
//!
//! | module | does |
//! |---|---|
//! | [`pipeline`] | the way of one event, top to bottom; begin to read here |
//! | [`access`] | the rules of the trade, pure: what an event means |
//! | [`postgres`] | the only place with SQL: locks, reads, role DDL, the ledger |
//! | [`execution`] | rules and server put together: observe → plan → apply, and what follows the commit |
//! | [`broker`] | the only place that knows AMQP |
//! | [`retry`] | when to try again, and when to give up |
//! | [`audit`] | results |
//! | [`secrets`] | the connector's credential |
//! | [`aws`] | AWS credentials, login tokens, where an RDS instance is |
//! | [`config`] | file and environment |
//! | [`cli`] | one file a command |
//! | [`health`], [`telemetry`] | what an operator sees |

pub mod access;
pub mod audit;
pub mod aws;
pub mod broker;
pub mod cli;
pub mod config;
pub mod execution;
pub mod health;
pub mod pipeline;
pub mod postgres;
pub mod retry;
pub mod secrets;
pub mod telemetry;
