//! The supervised session: connect, declare, consume; on any error drop everything and begin again.

use std::{sync::Arc, time::Duration};

use futures_util::StreamExt as _;
use lapin::{
    Channel, Consumer,
    options::{BasicCancelOptions, BasicConsumeOptions, BasicQosOptions},
    types::FieldTable,
};
use tokio::{sync::watch, time::Instant};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{info, warn};

use super::{
    Settings,
    conclusion::Handler,
    consumer::{Memory, Shift, jittered},
    error::BrokerError,
    link::{Link, answer},
    publisher::Publisher,
    topology::{self, Names, short},
};

const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// A session that lived this long was a good one: the next pause is short again.
const GOOD: Duration = Duration::from_mins(1);
/// `basic.cancel`, and giving back a lone run when the grace is over.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// What the session does, for readiness.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionState {
    /// No connection yet, or none any more.
    Connecting,
    /// Events are taken.
    Consuming,
    /// Shutting down: nothing new is taken, what runs may finish.
    Draining,
}

/// Consumes the work queue until `shutdown`, through any number of connections.
///
/// Returns `Ok` after a shutdown: at the latest `grace` and a few seconds later, with everything that was not concluded
/// back in its queue. Returns an error only when no attempt can succeed: the URL, a certificate file or the prefix cannot
/// be used. Everything else, a refused login included, is logged and tried again, after 0.2 s at first and 10 s at most.
pub async fn run<H: Handler>(
    settings: Settings,
    handler: Arc<H>,
    state: watch::Sender<SessionState>,
    shutdown: CancellationToken,
    grace: Duration,
) -> Result<(), BrokerError> {
    let names = Names::new(&settings.prefix)?;
    let memory = Memory::default();
    let mut pause = FIRST_PAUSE;
    loop {
        state.send_replace(SessionState::Connecting);
        let began = Instant::now();
        let opened = tokio::select! {
            opened = open(&settings, &names, &handler, &memory, &shutdown) => opened,
            () = shutdown.cancelled() => return Ok(()),
        };
        let ended = match opened {
            Ok((shift, consumer)) => session(shift, consumer, &state, grace).await,
            Err(error) => Err(error),
        };
        let Err(error) = ended else { return Ok(()) };
        if error.is_permanent() {
            return Err(error);
        }
        if began.elapsed() >= GOOD {
            pause = FIRST_PAUSE;
        }
        let wait = jittered(pause);
        warn!(%error, retry_in_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX), "no broker session");
        state.send_replace(SessionState::Connecting);
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = shutdown.cancelled() => return Ok(()),
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Connects, declares, asks whether the broker takes messages, and begins to consume.
async fn open<H: Handler>(
    settings: &Settings,
    names: &Names,
    handler: &Arc<H>,
    memory: &Memory,
    shutdown: &CancellationToken,
) -> Result<(Arc<Shift<H>>, Consumer), BrokerError> {
    let began = Instant::now();
    let link = Link::open(settings).await?;
    let publisher = Publisher::new(names.clone());
    let prepared = prepare(&link, &publisher, names, settings.prefetch).await;
    let (channel, consumer) = prepared.map_err(|error| link.explain(error))?;
    info!(
        queue = names.work(),
        prefetch = settings.prefetch,
        ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX),
        "consuming"
    );
    let shift = Shift {
        link,
        names: names.clone(),
        publisher,
        handler: Arc::clone(handler),
        memory: memory.clone(),
        shutdown: shutdown.clone(),
        grace_over: CancellationToken::new(),
        suspects: tokio::sync::Notify::new(),
        channel,
    };
    Ok((Arc::new(shift), consumer))
}

async fn prepare(link: &Link, publisher: &Publisher, names: &Names, prefetch: u16) -> Result<(Channel, Consumer), BrokerError> {
    topology::declare(link, names).await?;
    publisher.probe(link).await?;
    let work = names.work();
    let queue = short("queue", &work)?;
    let channel = link.channel().await?;
    let consuming = async {
        channel.basic_qos(prefetch, BasicQosOptions::default()).await?;
        channel.basic_consume(queue, "".into(), BasicConsumeOptions::default(), FieldTable::default()).await
    };
    let consumer = answer("starting to consume", consuming).await?.map_err(|error| BrokerError::of_channel(error, "consuming", &work))?;
    Ok((channel, consumer))
}

/// Consumes until the shutdown (`Ok`) or an error.
async fn session<H: Handler>(
    shift: Arc<Shift<H>>,
    mut consumer: Consumer,
    state: &watch::Sender<SessionState>,
    grace: Duration,
) -> Result<(), BrokerError> {
    state.send_replace(SessionState::Consuming);
    let tasks = TaskTracker::new();
    let suspects = TaskTracker::new();
    suspects.spawn(Arc::clone(&shift).watch_suspects());
    suspects.close();
    let ended = loop {
        tokio::select! {
            biased;
            () = shift.shutdown.cancelled() => break Ok(()),
            () = shift.link.failed().cancelled() => break Err(failure(&shift)),
            next = consumer.next() => match next {
                Some(Ok(raw)) => {
                    tasks.spawn(Arc::clone(&shift).take(raw));
                }
                Some(Err(error)) => break Err(BrokerError::of_channel(error, "consuming", &shift.names.work())),
                None => break Err(BrokerError::Cancelled { queue: shift.names.work() }),
            },
        }
    };
    if ended.is_err() {
        // Tasks of this session may run on for a while and hold the link; the broker must have its messages back now.
        shift.link.cut();
        return ended;
    }
    state.send_replace(SessionState::Draining);
    drain(&shift, &consumer, &tasks, &suspects, grace).await;
    Ok(())
}

fn failure<H>(shift: &Shift<H>) -> BrokerError {
    shift.link.take_failure().unwrap_or_else(|| BrokerError::Lost { doing: "consuming".to_owned(), source: "the connection ended".into() })
}

async fn drain<H: Handler>(shift: &Shift<H>, consumer: &Consumer, tasks: &TaskTracker, suspects: &TaskTracker, grace: Duration) {
    info!(running = tasks.len(), "draining");
    let until = Instant::now() + grace;
    // What the broker still sends is not started, and goes back when the connection closes.
    let cancel = shift.channel.basic_cancel(consumer.tag(), BasicCancelOptions::default());
    let _ = tokio::time::timeout(LAST_WORDS.min(grace), cancel).await;
    tasks.close();
    let finished = async {
        tasks.wait().await;
        suspects.wait().await;
    };
    tokio::select! {
        () = finished => {}
        () = tokio::time::sleep_until(until) => {
            shift.grace_over.cancel();
            let _ = tokio::time::timeout(LAST_WORDS, suspects.wait()).await;
            warn!(unfinished = tasks.len(), "the grace period is over; what is unfinished goes back to the queue");
        }
        () = shift.link.failed().cancelled() => {
            warn!(error = %failure(shift), unfinished = tasks.len(), "lost the broker while draining");
        }
    }
    shift.link.close().await;
}
