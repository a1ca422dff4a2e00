//! Messages that may have killed a worker run alone, and only those that kill while alone are given up.
//!
//! # The protocol
//! A message whose worker dies comes back with a higher `x-delivery-count`; but so does every other one that worker held,
//! and on RabbitMQ 3.10 those it had only prefetched. The count of the work queue therefore only raises suspicion:
//!
//! 1. A delivery of the work queue with a count of [`SUSPICIOUS`] or more is not run. Its copy goes to the suspect queue
//!    with `postern-kills: 0` and a `postern-suspect-id`; when that is confirmed it is acknowledged.
//! 2. Nobody consumes the suspect queue, so nothing of it is ever prefetched. A worker that sees messages there first
//!    waits until none of its deliveries runs and lets none start ([`Solitude`]), and **only then** fetches one
//!    (`basic.get`) and runs it. So in this queue the broker's count is exact: a message is handed out only to be run,
//!    alone, and counts up when that run did not end. No header of ours has to be written at the right instant, and
//!    other suspects beside it, in any number, gain nothing from its kills.
//! 3. The verdict is on `postern-kills` + count − runs known to have been survived: [`KILLS`] or more, and the handler is
//!    asked for its conclusion about a poisoned message, without running it. It is fetched a fourth time for that.
//! 4. A lone run that ends, ends the message like any other: done, waiting (its copy carries no suspicion any more) or
//!    dead. The worker fetches the next.
//!
//! What could be mistaken for a kill:
//! - The worker drains while a lone run is under way: when the grace is over, the message goes back to the suspect queue as
//!   a copy with `postern-kills` as it was, before the connection closes.
//! - The connection is lost during a lone run that the worker survives: the worker remembers it ([`Survived`]) and subtracts
//!   it when it fetches that message again. Another worker cannot know and counts it; three lost connections in a row,
//!   each within one lone run of the same message, each followed by another worker, would park it. The dead-letter queue
//!   keeps it for a replay.
//! - Something outside kills the worker (out of memory, node loss) three times during lone runs of the same message: there
//!   is no other suspect, it is parked.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::sync::{OwnedRwLockReadGuard, OwnedRwLockWriteGuard, RwLock};
use uuid::Uuid;

use super::{
    link::lock,
    message::{Delivery, Headers},
};

/// Deliveries that came to nothing before a message is suspected.
pub(super) const SUSPICIOUS: u64 = 3;
/// Lone runs that did not end before a message is poison.
pub(super) const KILLS: u64 = 3;
/// How often the suspect queue is looked at. The worker that sends one there looks at once.
pub(super) const LOOK_EVERY: Duration = Duration::from_secs(2);

const KILLS_HEADER: &str = "postern-kills";
const ID_HEADER: &str = "postern-suspect-id";

/// What to do with a message fetched from the suspect queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Run it alone.
    Run,
    /// It killed three times.
    Poisoned,
}

/// A delivery of the work queue must not run beside others.
pub(super) fn is_suspicious(delivery_count: u64) -> bool {
    delivery_count >= SUSPICIOUS
}

/// The verdict on a message of the suspect queue. `kills` is its header, `delivery_count` the broker's, `survived` what
/// this worker knows to have outlived.
pub(super) fn verdict(kills: u64, delivery_count: u64, survived: u64) -> Verdict {
    if kills.saturating_add(delivery_count).saturating_sub(survived) >= KILLS { Verdict::Poisoned } else { Verdict::Run }
}

/// The kills a message came to the suspect queue with.
pub(super) fn kills(headers: &Headers) -> u64 {
    headers.get_i64(KILLS_HEADER).and_then(|kills| u64::try_from(kills).ok()).unwrap_or(0)
}

/// Headers for a copy into the suspect queue.
pub(super) fn suspected(delivery: &Delivery, kills: u64) -> Headers {
    let mut headers = delivery.copy_headers();
    let id = headers.get_str(ID_HEADER).map_or_else(|| Uuid::now_v7().to_string(), ToOwned::to_owned);
    headers.set_str(ID_HEADER, id);
    headers.set_i64(KILLS_HEADER, i64::try_from(kills).unwrap_or(i64::MAX));
    headers
}

/// Removes the suspicion from a message whose run ended.
pub(super) fn clear(headers: &mut Headers) {
    headers.remove(KILLS_HEADER);
    headers.remove(ID_HEADER);
}

/// Keeps lone runs alone within a process. It outlives sessions, because a run may outlive the session it came with.
/// The lock is fair: once a lone run waits, later deliveries wait behind it.
#[derive(Debug, Clone, Default)]
pub(super) struct Solitude(Arc<RwLock<()>>);

impl Solitude {
    /// Waits until no lone run is under way or waiting; hold it while running.
    pub(super) async fn together(&self) -> OwnedRwLockReadGuard<()> {
        Arc::clone(&self.0).read_owned().await
    }

    /// Waits until nothing runs; nothing starts while it is held.
    pub(super) async fn alone(&self) -> OwnedRwLockWriteGuard<()> {
        Arc::clone(&self.0).write_owned().await
    }
}

/// Lone runs that this process outlived although their delivery could not be ended, by `postern-suspect-id`.
#[derive(Debug, Clone, Default)]
pub(super) struct Survived(Arc<Mutex<HashMap<String, u64>>>);

impl Survived {
    /// How many of the broker's count were survived.
    pub(super) fn count(&self, delivery: &Delivery) -> u64 {
        let id = delivery.headers.get_str(ID_HEADER).unwrap_or_default();
        lock(&self.0).get(id).copied().unwrap_or(0)
    }

    /// One more run was survived.
    pub(super) fn add(&self, delivery: &Delivery) {
        if let Some(id) = delivery.headers.get_str(ID_HEADER) {
            *lock(&self.0).entry(id.to_owned()).or_default() += 1;
        }
    }

    /// The message is done with.
    pub(super) fn forget(&self, delivery: &Delivery) {
        if let Some(id) = delivery.headers.get_str(ID_HEADER) {
            lock(&self.0).remove(id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_count_below_three_is_nobody_s_fault() {
        assert_eq!([0, 1, 2, 3, 900].map(is_suspicious), [false, false, false, true, true]);
    }

    #[test]
    fn exactly_three_lone_runs_that_do_not_end() {
        // The broker's count before each fetch of a message that kills every time.
        assert_eq!([0, 1, 2, 3].map(|count| verdict(0, count, 0)), [Verdict::Run, Verdict::Run, Verdict::Run, Verdict::Poisoned]);
    }

    #[test]
    fn a_drain_in_between_neither_counts_nor_forgets() {
        // Two kills, then a copy with two on record and a count that starts anew.
        assert_eq!(verdict(2, 0, 0), Verdict::Run);
        assert_eq!(verdict(2, 1, 0), Verdict::Poisoned);
    }

    #[test]
    fn a_survived_run_is_no_kill() {
        assert_eq!(verdict(0, 3, 1), Verdict::Run);
        assert_eq!(verdict(0, 4, 1), Verdict::Poisoned);
        assert_eq!(verdict(0, 1, 5), Verdict::Run);
    }

    #[test]
    fn suspicion_is_written_on_the_copy_and_removed_again() {
        let delivery = Delivery::local(b"{}".to_vec());
        let mut headers = suspected(&delivery, 2);
        assert_eq!(kills(&headers), 2);
        assert!(headers.get_str(ID_HEADER).is_some());
        clear(&mut headers);
        assert_eq!((kills(&headers), headers.get_str(ID_HEADER)), (0, None));
    }

    #[tokio::test]
    async fn a_lone_run_waits_for_the_others_and_holds_new_ones_back() {
        let solitude = Solitude::default();
        let running = solitude.together().await;
        let mut lone = std::pin::pin!(solitude.alone());
        let mut late = std::pin::pin!(solitude.together());
        assert!(poll(lone.as_mut()).is_none());
        assert!(poll(late.as_mut()).is_none(), "nothing starts once a lone run waits");
        drop(running);
        let alone = poll(lone.as_mut());
        assert!(alone.is_some());
        assert!(poll(late.as_mut()).is_none());
        drop(alone);
        assert!(poll(late.as_mut()).is_some());
    }

    fn poll<T>(future: std::pin::Pin<&mut impl Future<Output = T>>) -> Option<T> {
        match future.poll(&mut std::task::Context::from_waker(std::task::Waker::noop())) {
            std::task::Poll::Ready(value) => Some(value),
            std::task::Poll::Pending => None,
        }
    }
}
