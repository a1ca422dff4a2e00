//! One connection's deliveries, from arrival to their end.
//!
//! Architecture invariant: deliveries are ended by [`acknowledge`] only, and every way there leads past the confirms
//! of what had to be published first. There is no nack: it would redeliver at once and spin.

use std::{panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures_util::{FutureExt as _, future::try_join_all};
use jiff::Timestamp;
use lapin::{Acker, Channel, options::BasicGetOptions};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::{
    client::look_at_queue,
    conclusion::{Conclusion, End, Handler, Line},
    delay,
    error::BrokerError,
    link::{Link, acknowledge, answer},
    message::{self, Delivery},
    publisher::Publisher,
    suspect::{self, Solitude, Survived, Verdict},
    topology::{Names, short},
};

/// Panics in a row before a message is poison.
const PANICS: i64 = 3;

/// What lives as long as the process and is handed from session to session.
#[derive(Debug, Clone, Default)]
pub(super) struct Memory {
    pub(super) solitude: Solitude,
    pub(super) survived: Survived,
}

/// The work of one connection. Tasks that outlive their connection keep their own shift and can reach no other.
pub(super) struct Shift<H> {
    pub(super) link: Link,
    pub(super) names: Names,
    pub(super) publisher: Publisher,
    pub(super) handler: Arc<H>,
    pub(super) memory: Memory,
    /// Nothing new is started.
    pub(super) shutdown: CancellationToken,
    /// What still runs is given up.
    pub(super) grace_over: CancellationToken,
    /// A message was sent to the suspect queue.
    pub(super) suspects: Notify,
    /// The channel the work queue is consumed on.
    pub(super) channel: Channel,
}

impl<H: Handler> Shift<H> {
    /// Brings one delivery of the work queue to its end, or leaves it unacknowledged.
    pub(super) async fn take(self: Arc<Self>, raw: lapin::message::Delivery) {
        let (delivery, acker) = Delivery::split(raw);
        if let Err(error) = self.work(&delivery, &acker).await {
            self.link.fail(error);
        }
    }

    async fn work(&self, delivery: &Delivery, acker: &Acker) -> Result<(), BrokerError> {
        if let Some(early) = early(delivery, Timestamp::now()) {
            return self.conclude(delivery, acker, Conclusion::of(early)).await;
        }
        if suspect::is_suspicious(delivery.delivery_count) {
            warn!(
                delivery_count = delivery.delivery_count,
                message_id = delivery.message_id.as_deref().unwrap_or_default(),
                "a message came back without an end; it will run alone"
            );
            self.to_suspects(delivery, acker, 0).await?;
            self.suspects.notify_one();
            return Ok(());
        }
        let _together = self.memory.solitude.together().await;
        if self.stopping() {
            return Ok(());
        }
        let conclusion = self.run(delivery).await;
        self.conclude(delivery, acker, conclusion).await
    }

    /// Runs suspects, one at a time and nothing beside them, until the shift ends.
    pub(super) async fn watch_suspects(self: Arc<Self>) {
        let ended = async {
            let channel = self.link.channel().await?;
            loop {
                tokio::select! {
                    () = self.shutdown.cancelled() => return Ok(()),
                    () = self.link.failed().cancelled() => return Ok(()),
                    () = self.suspects.notified() => {}
                    () = tokio::time::sleep(jittered(suspect::LOOK_EVERY)) => {}
                }
                while !self.stopping() && self.any_suspect(&channel).await? {
                    self.run_one_suspect(&channel).await?;
                }
            }
        };
        let ended: Result<(), BrokerError> = ended.await;
        if let Err(error) = ended {
            self.link.fail(error);
        }
    }

    async fn any_suspect(&self, channel: &Channel) -> Result<bool, BrokerError> {
        // Asking is free for the queue; fetching from it would be an entry in its replicated log even when it is empty.
        let (ready, _) = look_at_queue(channel, &self.names.suspect()).await?;
        Ok(ready > 0)
    }

    async fn run_one_suspect(&self, channel: &Channel) -> Result<(), BrokerError> {
        let name = self.names.suspect();
        let alone = tokio::select! {
            alone = self.memory.solitude.alone() => alone,
            () = self.shutdown.cancelled() => return Ok(()),
            () = self.link.failed().cancelled() => return Ok(()),
        };
        let fetching = channel.basic_get(short("queue", &name)?, BasicGetOptions::default());
        let fetched = answer(&format!("fetching from {name}"), fetching)
            .await?
            .map_err(|error| BrokerError::of_channel(error, "fetching from", &name))?;
        if let Some(fetched) = fetched {
            let (delivery, acker) = Delivery::split(fetched.delivery);
            self.run_alone(&delivery, &acker).await?;
        }
        drop(alone);
        Ok(())
    }

    async fn run_alone(&self, delivery: &Delivery, acker: &Acker) -> Result<(), BrokerError> {
        let survived = self.memory.survived.count(delivery);
        let kills = suspect::kills(&delivery.headers);
        let conclusion = match suspect::verdict(kills, delivery.delivery_count, survived) {
            Verdict::Poisoned => {
                error!(
                    message_id = delivery.message_id.as_deref().unwrap_or_default(),
                    "a message killed a worker three times while it ran alone; it is given up"
                );
                self.poisoned(delivery)
            }
            Verdict::Run => {
                info!(message_id = delivery.message_id.as_deref().unwrap_or_default(), "running a suspect alone");
                tokio::select! {
                    conclusion = self.run(delivery) => conclusion,
                    () = self.grace_over.cancelled() => {
                        let kills = (kills + delivery.delivery_count).saturating_sub(survived);
                        return self.to_suspects(delivery, acker, kills).await;
                    }
                }
            }
        };
        let concluded = self.conclude(delivery, acker, conclusion).await;
        if concluded.is_ok() && !self.link.failed().is_cancelled() {
            self.memory.survived.forget(delivery);
        } else {
            self.memory.survived.add(delivery);
        }
        concluded
    }

    async fn to_suspects(&self, delivery: &Delivery, acker: &Acker, kills: u64) -> Result<(), BrokerError> {
        let properties = delivery.copy_properties(&suspect::suspected(delivery, kills));
        self.publisher.queue(&self.link, &self.names.suspect(), &delivery.body, properties).await?;
        acknowledge(acker).await
    }

    async fn run(&self, delivery: &Delivery) -> Conclusion {
        // The handler holds no state of ours, so nothing is left half-changed by its panic.
        let running = AssertUnwindSafe(async { self.handler.handle(delivery).await });
        match running.catch_unwind().await {
            Ok(conclusion) => conclusion,
            Err(_) => self.panicked(delivery),
        }
    }

    fn panicked(&self, delivery: &Delivery) -> Conclusion {
        let panics = delivery.headers.get_i64(message::PANICS).unwrap_or(0).saturating_add(1);
        error!(panics, message_id = delivery.message_id.as_deref().unwrap_or_default(), "handling a message panicked");
        if panics >= PANICS {
            return self.poisoned(delivery);
        }
        let due = Timestamp::now().saturating_add(Duration::from_secs(1)).unwrap_or(Timestamp::MAX);
        Conclusion::of(End::Wait { line: Line::Retry, due, headers: vec![(message::PANICS, panics.into())] })
    }

    fn poisoned(&self, delivery: &Delivery) -> Conclusion {
        std::panic::catch_unwind(AssertUnwindSafe(|| self.handler.poisoned(delivery))).unwrap_or_else(|_| {
            error!("concluding a poisoned message panicked; it is parked without a result");
            Conclusion::of(End::Dead { headers: Vec::new() })
        })
    }

    /// Publishes what the conclusion says, waits for the confirms, and ends the delivery. On a link that has failed it does
    /// nothing: the broker delivers the message again, and that delivery comes to the same conclusion.
    async fn conclude(&self, delivery: &Delivery, acker: &Acker, conclusion: Conclusion) -> Result<(), BrokerError> {
        if self.link.failed().is_cancelled() {
            return Ok(());
        }
        let Conclusion { results, timers, end } = conclusion;
        tokio::try_join!(
            try_join_all(results.iter().map(|result| self.publisher.audit(&self.link, result))),
            try_join_all(timers.iter().map(|timer| self.publisher.timer(&self.link, timer))),
        )?;
        match end {
            End::Ack => {}
            End::Wait { line, due, headers: set } => {
                let mut headers = delivery.copy_headers();
                suspect::clear(&mut headers);
                headers.remove(message::PANICS);
                headers.set_all(&set);
                let properties = |headers: &_| delivery.copy_properties(headers);
                self.publisher.wait(&self.link, line, due, headers, properties, &delivery.body).await?;
            }
            End::Dead { headers: set } => {
                let mut headers = delivery.copy_headers();
                suspect::clear(&mut headers);
                headers.remove(message::DUE);
                headers.remove(message::LINE);
                headers.set(message::DEAD_ID, uuid::Uuid::now_v7().to_string());
                headers.set_all(&set);
                let properties = delivery.copy_properties(&headers);
                self.publisher.queue(&self.link, &self.names.dead(), &delivery.body, properties).await?;
            }
        }
        acknowledge(acker).await
    }

    fn stopping(&self) -> bool {
        self.shutdown.is_cancelled() || self.link.failed().is_cancelled()
    }
}

/// The rest of its wait, for a message that came back before it is due. Panics so far go with it.
fn early(delivery: &Delivery, now: Timestamp) -> Option<End> {
    let due = Timestamp::from_millisecond(delivery.headers.get_i64(message::DUE)?).ok()?;
    let line = Line::parse(delivery.headers.get_str(message::LINE)?)?;
    if delay::remaining(due, now) == 0 {
        return None;
    }
    let panics = delivery.headers.get_i64(message::PANICS).map(|panics| (message::PANICS, panics.into()));
    Some(End::Wait { line, due, headers: panics.into_iter().collect() })
}

/// Between half and all of `duration`, so that many workers do not keep step.
pub(super) fn jittered(duration: Duration) -> Duration {
    use std::hash::{BuildHasher as _, Hasher as _};
    // Seeded from the system's randomness each time; nothing here needs better.
    let random = std::hash::RandomState::new().build_hasher().finish() % 1_000;
    let half = duration / 2;
    half + half.mul_f64(f64::from(u32::try_from(random).unwrap_or(0)) / 1_000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waiting(due: i64, line: &str) -> Delivery {
        let mut delivery = Delivery::local(Vec::new());
        delivery.headers.set_i64(message::DUE, due);
        delivery.headers.set_str(message::LINE, line);
        delivery
    }

    #[test]
    fn what_is_early_waits_on_in_its_own_line() {
        let now = Timestamp::from_millisecond(10_000).unwrap_or_default();
        for (due, line, expected) in
            [(9_999, "retry", None), (10_000, "expiry", None), (10_001, "expiry", Some(Line::Expiry)), (10_001, "x", None)]
        {
            let met = early(&waiting(due, line), now);
            let met = met.map(|end| if let End::Wait { line, .. } = end { Some(line) } else { None });
            assert_eq!(met.flatten(), expected, "{due} {line}");
        }
    }

    #[test]
    fn an_early_message_keeps_its_panics() {
        let mut delivery = waiting(20_000, "retry");
        delivery.headers.set_i64(message::PANICS, 2);
        let end = early(&delivery, Timestamp::UNIX_EPOCH);
        assert!(matches!(end, Some(End::Wait { headers, .. }) if headers == [(message::PANICS, 2.into())]));
    }

    #[test]
    fn jitter_stays_between_half_and_all() {
        let whole = Duration::from_secs(2);
        for _ in 0..100 {
            let jittered = jittered(whole);
            assert!(jittered >= whole / 2 && jittered <= whole);
        }
    }
}
