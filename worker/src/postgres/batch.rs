//! Statements that travel together: sent one behind the other without waiting, answered in order.
//!
//! Everything goes through unnamed statements or the simple protocol, so that a connection pooler in transaction
//! mode may stand between (`PgBouncer` docs, "Features").

use std::future::Future;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Error, Row};

use crate::postgres::TargetError;
use crate::postgres::error::BEGINNING;
use crate::postgres::ledger::{BEGIN, BEGIN_READING};

/// More than the server itself allows a statement (`statement_timeout` of [`BEGIN`]): only a server or a network that is
/// silent takes longer.
const ANSWER: Duration = Duration::from_secs(45);

/// A parameter with its type, owned until the batch is done.
type Param = (Box<dyn ToSql + Sync + Send>, Type);

/// One statement. Without parameters it travels in the simple protocol and returns no rows.
pub struct Statement {
    /// What it is for, to name it in an error.
    pub doing: &'static str,
    /// The text.
    pub sql: String,
    params: Option<Vec<Param>>,
}

impl Statement {
    /// A statement that takes no parameters, such as DDL.
    pub fn plain(doing: &'static str, sql: impl Into<String>) -> Self {
        Self { doing, sql: sql.into(), params: None }
    }

    /// A statement whose parameters are added with [`Statement::bind`].
    pub fn query(doing: &'static str, sql: impl Into<String>) -> Self {
        Self { doing, sql: sql.into(), params: Some(Vec::new()) }
    }

    /// Adds the next parameter.
    #[must_use]
    pub fn bind(mut self, value: impl ToSql + Sync + Send + 'static, kind: Type) -> Self {
        self.params.get_or_insert_default().push((Box::new(value), kind));
        self
    }

    /// Adds a text.
    #[must_use]
    pub fn text(self, value: impl Into<String>) -> Self {
        self.bind(value.into(), Type::TEXT)
    }

    /// Whether it only concerns the ledger: catalog changes take no parameters.
    pub fn is_ledger(&self) -> bool {
        self.params.is_some()
    }

    async fn run(&self, client: &Client) -> Result<Vec<Row>, Error> {
        match &self.params {
            None => client.batch_execute(&self.sql).await.map(|()| Vec::new()),
            Some(params) => {
                let params: Vec<_> = params.iter().map(|(value, kind)| (value.as_ref() as &(dyn ToSql + Sync), kind.clone())).collect();
                client.query_typed(&self.sql, &params).await
            }
        }
    }
}

impl std::fmt::Debug for Statement {
    /// The text without the parameters: one of them may be a verifier.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.doing, self.sql)
    }
}

/// Runs the statements in one round trip. The first error is returned, with what it was for: inside a transaction
/// the statements behind it fail too, and a COMMIT behind it rolls back, so nothing was done.
pub async fn run(client: &Client, statements: &[Statement]) -> Result<Vec<Vec<Row>>, TargetError> {
    let answers = in_order(statements.iter().map(|statement| statement.run(client)).collect());
    let answers = tokio::time::timeout(ANSWER, answers).await.map_err(|_| TargetError::Silent(ANSWER.as_secs()))?;
    answers
        .into_iter()
        .zip(statements)
        .map(|(answer, statement)| answer.map_err(|source| TargetError::sql(statement.doing, source)))
        .collect()
}

/// Runs the statements in a short transaction of their own, in one round trip.
///
/// Nothing runs outside a transaction: only inside one is the search path ours. On the server's own path an operator or
/// function that somebody made in `public` could be the better match for one of ours, and would run with the
/// connector's rights.
pub async fn alone(client: &Client, statements: Vec<Statement>) -> Result<Vec<Vec<Row>>, TargetError> {
    transaction(client, BEGIN, statements).await
}

/// The same for statements that only look: they work on a read replica too.
pub async fn reading(client: &Client, statements: Vec<Statement>) -> Result<Vec<Vec<Row>>, TargetError> {
    transaction(client, BEGIN_READING, statements).await
}

async fn transaction(client: &Client, begin: &str, statements: Vec<Statement>) -> Result<Vec<Vec<Row>>, TargetError> {
    let mut all = Vec::with_capacity(statements.len() + 2);
    all.push(Statement::plain(BEGINNING, begin));
    all.extend(statements);
    // Behind a failed statement this rolls back, so the session is clean in any case.
    all.push(Statement::plain("committing", "COMMIT"));
    let mut answers = run(client, &all).await?;
    answers.pop();
    answers.drain(..1);
    Ok(answers)
}

/// A future and what came of it.
type Slot<F> = (Pin<Box<F>>, Option<<F as Future>::Output>);

/// Polls the futures in their order on every wake, so that their requests are sent in that order: a request is sent
/// when its future is first polled (`tokio_postgres`, "Pipelining").
async fn in_order<F: Future>(futures: Vec<F>) -> Vec<F::Output> {
    let mut pending: Vec<Slot<F>> = futures.into_iter().map(|f| (Box::pin(f), None)).collect();
    std::future::poll_fn(move |context| {
        let mut waiting = false;
        for (future, output) in &mut pending {
            if output.is_none() {
                match future.as_mut().poll(context) {
                    Poll::Ready(value) => *output = Some(value),
                    Poll::Pending => waiting = true,
                }
            }
        }
        if waiting { Poll::Pending } else { Poll::Ready(pending.iter_mut().filter_map(|(_, output)| output.take()).collect()) }
    })
    .await
}
