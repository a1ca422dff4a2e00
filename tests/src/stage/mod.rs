//! What nearly every test starts with: a cluster with something in it, a broker prefix, workers, the audit results.

mod builder;

use std::path::{Path, PathBuf};
use std::process::Output;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tokio_postgres::Client;

use crate::audit::Audit;
use crate::broker::Broker;
use crate::events::Event;
use crate::identity::{Credential, Identity};
use crate::postgres::Postgres;
use crate::scratch::Scratch;
use crate::worker::{self, Worker};

pub use self::builder::Builder;

/// The integration of every stage.
pub const INTEGRATION: &str = "orders-prod";

/// How [`Stage::finish`] calls the server's log.
const POSTGRES_LOG: &str = "PostgreSQL's log";

/// A prepared test. End it with [`Stage::finish`].
pub struct Stage {
    /// The cluster. Its database `orders` holds `fixtures/sample.sql`.
    pub pg: Postgres,
    /// The stage's own prefix on the broker.
    pub broker: Broker,
    /// Every audit result.
    pub audit: Audit,
    /// All workers ever started, running or not, oldest first.
    pub workers: Vec<Worker>,
    /// The person's age key.
    pub identity: Identity,
    config: String,
    config_file: PathBuf,
    /// What must not be found in anything written.
    secrets: Mutex<Vec<String>>,
    scratch: Scratch,
}

impl Stage {
    /// A cluster of the version under test and one integration on it; no worker yet.
    pub async fn start() -> Result<Self> {
        Self::builder().start().await
    }

    /// The same with differences.
    pub fn builder() -> Builder {
        Builder::default()
    }

    // The program under test.

    /// Starts so many workers more and waits until all are ready.
    pub async fn workers(&mut self, count: usize) -> Result<()> {
        let first = self.workers.len();
        for _ in 0..count {
            self.spawn(&[])?;
        }
        for worker in &mut self.workers[first..] {
            worker.ready().await?;
        }
        Ok(())
    }

    /// Starts one more worker with variables of its own, such as a fault point; it may not be ready yet.
    pub fn spawn(&mut self, env: &[(&str, &str)]) -> Result<&mut Worker> {
        let worker = Worker::spawn(&worker::binary()?, &self.config, env)?;
        self.workers.push(worker);
        self.workers.last_mut().context("no worker")
    }

    /// The configuration that the workers get.
    pub fn config(&self) -> &str {
        &self.config
    }

    /// The same as a file.
    pub fn config_file(&self) -> &Path {
        &self.config_file
    }

    /// Lays TOML over the configuration of the workers that start from now on, for what is only known once the cluster
    /// runs.
    pub fn configure(&mut self, toml: &str) -> Result<()> {
        self.config = builder::over(&self.config, toml)?;
        std::fs::write(&self.config_file, &self.config)?;
        Ok(())
    }

    /// A directory for the test's own files.
    pub fn scratch(&self) -> &Scratch {
        &self.scratch
    }

    /// Runs `postern` with the stage's configuration and waits for its end.
    pub async fn cli(&self, args: &[&str]) -> Result<Output> {
        worker::run_cli(&self.config_file, args, &[]).await
    }

    // Events and results.

    /// Publishes an event. The queue has to be there: start a worker first.
    pub async fn publish(&self, event: &Event) -> Result<()> {
        self.broker.publish(event).await
    }

    /// `data` of an event's final result.
    pub async fn result_of(&self, event: &Event) -> Result<Value> {
        self.audit.wait_for(event.id()).await.with_context(|| self.worker_logs())
    }

    /// Publishes an event and waits for its final result.
    pub async fn send(&self, event: &Event) -> Result<Value> {
        self.publish(event).await?;
        self.result_of(event).await
    }

    /// The same, and the outcome has to be this one.
    pub async fn expect(&self, event: &Event, outcome: &str) -> Result<Value> {
        let result = self.send(event).await?;
        ensure!(result["outcome"] == outcome, "expected `{outcome}`, got {result:#}\nfor {:#}\n{}", event.json(), self.worker_logs());
        Ok(result)
    }

    // The person.

    /// Opens the sealed credential of a result, and remembers that its password must not be found anywhere.
    pub fn credential(&self, result: &Value) -> Result<Credential> {
        let credential = self.identity.open_credential(result)?;
        self.keep_secret(&credential.password);
        Ok(credential)
    }

    /// Logs in with a result's sealed credential, to the first database that it names.
    pub async fn login_as(&self, result: &Value) -> Result<Client> {
        let Credential { username, password, .. } = self.credential(result)?;
        let database = result["access"]["databases"][0].as_str().context("the result names no database")?;
        Ok(self.pg.login(&username, &password, database).await?)
    }

    // What is left behind.

    /// [`Stage::finish`] will look for this text in everything that was written.
    pub fn keep_secret(&self, text: &str) {
        self.secrets.lock().unwrap_or_else(PoisonError::into_inner).push(text.to_owned());
    }

    /// Everything that the servers and workers have written where others can read it, by name.
    async fn written(&self) -> Result<Vec<(String, String)>> {
        let mut written = vec![(POSTGRES_LOG.to_owned(), self.pg.log()?)];
        for (index, worker) in self.workers.iter().enumerate() {
            written.push((format!("log of worker {index}"), worker.log()));
        }
        for message in self.audit.all() {
            let name = format!("audit result {}", message.routing_key);
            written.push((name, String::from_utf8_lossy(&message.body).into_owned()));
        }
        for (queue, message) in self.broker.drain_all().await? {
            // Debug, so that the headers are looked at too.
            let text = format!("{:?} {}", message.properties, String::from_utf8_lossy(&message.body));
            written.push((queue, text));
        }
        Ok(written)
    }

    /// Ends the test: stops the workers, shows that no secret was written anywhere, and removes everything.
    pub async fn finish(mut self) -> Result<()> {
        for worker in &mut self.workers {
            if worker.is_running() {
                worker.terminate().await?;
            }
        }
        let secrets = self.secrets.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for (name, text) in self.written().await? {
            // The server's own log may show a verifier, nothing else may.
            ensure!(name == POSTGRES_LOG || !text.contains("SCRAM-SHA-256$"), "a verifier was written to: {name}");
            for secret in &secrets {
                ensure!(!text.contains(secret.as_str()), "the secret {secret} was written to: {name}");
            }
        }
        Ok(())
    }

    /// The end of each worker's log, for error messages.
    pub fn worker_logs(&self) -> String {
        let logs = self.workers.iter().enumerate().map(|(index, worker)| format!("worker {index}:\n{}", worker.tail()));
        logs.collect::<Vec<_>>().join("\n")
    }
}

impl Drop for Stage {
    #[expect(clippy::print_stderr, reason = "a failed assertion has no other way to show what the workers said")]
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.worker_logs());
        }
        // Workers first: they would declare the queues again.
        self.workers.clear();
        let (url, name) = (self.broker.url().to_owned(), self.broker.name(""));
        // A test may have stopped its own broker, so what fails here fails silently. The runtime of the test cannot
        // wait inside `drop`, so there is another.
        let cleaner = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(Broker::new(&url, name.trim_end_matches('.')).delete_topology())
        });
        let _ = cleaner.join();
    }
}
