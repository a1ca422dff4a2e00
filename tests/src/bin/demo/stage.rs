//! The worker, the queue in front of it, and the results behind it.

use anyhow::{Context as _, Result, ensure};
use postern_tests::audit::{Audit, TIMEOUT};
use postern_tests::broker::{Broker, Message};
use postern_tests::events::Event;
use postern_tests::postgres::CONNECTOR;
use postern_tests::scratch::Scratch;
use postern_tests::worker::{self, Worker};

use crate::servers::Servers;

/// The integration of the story.
pub(crate) const INTEGRATION: &str = "orders-prod";
const PREFIX: &str = "postern";

/// One worker and who talks to it.
pub(crate) struct Stage {
    worker: Worker,
    broker: Broker,
    audit: Audit,
    _scratch: Scratch,
}

impl Stage {
    /// Starts the worker and waits until it is ready.
    pub(crate) async fn start(servers: &Servers) -> Result<Self> {
        let scratch = Scratch::new("demo")?;
        let password_file = scratch.write_private("connector-password", &servers.connector_password)?;
        let config = format!(
            "[broker]\n\
             url = '{url}'\n\
             prefix = '{PREFIX}'\n\
             [worker]\n\
             listen = '127.0.0.1:0'\n\
             [integrations.{INTEGRATION}]\n\
             type = '{kind}'\n\
             hostname = '127.0.0.1'\n\
             port = {port}\n\
             ssl_mode = 'disable'\n\
             secret = {{ local = {{ username = '{CONNECTOR}', password_file = '{file}' }} }}\n",
            url = servers.amqp_url,
            kind = servers.kind,
            port = servers.port,
            file = password_file.display(),
        );
        let audit = Audit::start(&servers.amqp_url, PREFIX).await?;
        let mut worker = Worker::spawn(&worker::binary()?, &config, &[])?;
        worker.ready().await?;
        Ok(Self { worker, broker: Broker::new(&servers.amqp_url, PREFIX), audit, _scratch: scratch })
    }

    /// Publishes an event and waits for its final result, which has to have this outcome.
    pub(crate) async fn send(&self, event: &Event, outcome: &str) -> Result<Message> {
        let before = self.audit.all_for(event.id()).len();
        self.broker.publish(event).await?;
        let results = self.audit.wait_for_copies(event.id(), before + 1).await?;
        let result = results.into_iter().last().context("no result")?;
        expect(result, outcome)
    }

    /// Waits for the result that an expiry yields by itself.
    pub(crate) async fn expiry(&self, grant_id: &str) -> Result<Message> {
        let id = format!("{grant_id}#1");
        let result = self.audit.wait_where(|message| message.data()["event_id"] == id.as_str(), TIMEOUT).await?;
        expect(result, "succeeded")
    }

    /// Stops the worker as an orchestrator does.
    pub(crate) async fn drain(&mut self) -> Result<()> {
        let status = self.worker.terminate().await?;
        ensure!(status.success(), "the worker ended with {status} on SIGTERM");
        Ok(())
    }

    /// What the worker said last, for the report of a failure.
    pub(crate) fn last_words(&self) -> String {
        self.worker.tail()
    }
}

fn expect(result: Message, outcome: &str) -> Result<Message> {
    ensure!(result.data()["outcome"] == outcome, "the outcome should be `{outcome}`; the result is {:#}", result.data());
    Ok(result)
}
