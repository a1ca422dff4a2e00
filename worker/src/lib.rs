//! Postern: just-in-time access to PostgreSQL.
pub mod access;
pub mod audit;
pub mod broker;
pub mod cli;
pub mod config;
pub mod health;
pub mod pipeline;
pub mod postgres;
pub mod retry;
pub mod secrets;
pub mod telemetry;
pub mod work;
