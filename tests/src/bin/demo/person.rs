//! A person at a terminal: logs in, runs statements, and sees what comes back.

use anyhow::{Result, ensure};
use tokio::task::JoinHandle;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Error, NoTls, SimpleQueryMessage};

use crate::servers::Servers;

/// An open session.
pub(crate) struct Session {
    client: Client,
    connection: JoinHandle<Result<(), Error>>,
}

impl Session {
    /// Logs in. The error is the server's own.
    pub(crate) async fn open(servers: &Servers, user: &str, password: &str, database: &str) -> Result<Self, Error> {
        let (client, connection) = servers.config(user, password, database).connect(NoTls).await?;
        Ok(Self { client, connection: tokio::spawn(connection) })
    }

    /// Runs a statement: its rows, a line each.
    pub(crate) async fn query(&self, statement: &str) -> Result<String, Error> {
        rows(&self.client, statement).await
    }

    /// Runs a statement that has to be refused: the server's answer.
    pub(crate) async fn refused(&self, statement: &str) -> Result<String> {
        match self.query(statement).await {
            Ok(rows) => anyhow::bail!("`{statement}` should be refused, and gave {rows}"),
            Err(error) => {
                ensure!(error.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE), "`{statement}` met {error:?}");
                Ok(answer(&error))
            }
        }
    }

    /// The server has to have ended this session: what it said when it did.
    pub(crate) async fn cut(self) -> Result<String> {
        match self.client.simple_query("SELECT 1").await {
            Ok(_) => anyhow::bail!("the session should have been ended, and still answers"),
            Err(error) => match self.connection.await? {
                Err(said) => Ok(answer(&said)),
                Ok(()) => Ok(answer(&error)),
            },
        }
    }
}

/// Runs a statement: its rows, a line each.
pub(crate) async fn rows(client: &Client, statement: &str) -> Result<String, Error> {
    let messages = client.simple_query(statement).await?;
    let rows: Vec<String> = messages
        .iter()
        .filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => {
                let values: Vec<&str> = (0..row.len()).map(|column| row.get(column).unwrap_or("NULL")).collect();
                Some(values.join(" | "))
            }
            _ => None,
        })
        .collect();
    Ok(if rows.is_empty() { "no rows".to_owned() } else { rows.join("\n") })
}

/// The server's answer as `psql` shows it, with its SQLSTATE.
pub(crate) fn answer(error: &Error) -> String {
    match error.as_db_error() {
        Some(db) => format!("{}: {} ({})", db.severity(), db.message(), db.code().code()),
        None => error.to_string(),
    }
}
