//! Another round after a conflict with somebody else: how often, and after which pause.
//!
//! Other people change roles, tables and privileges while events run, and PostgreSQL answers some of that with an
//! error that is over when it is read. Such a round is repeated here, with its observations made anew. What still
//! fails then goes through the waiting queues, which count it as one attempt.

use std::time::Duration;

use tokio::time::Instant;

use crate::postgres::error::Disposition;
use crate::postgres::{Target, TargetError};

/// How many rounds there are at most.
const MOST: u32 = 12;
/// No round begins later than this after the first: a worker's slot and session are for others too. Several lock
/// time-outs fit in, a statement time-out does not.
const LONGEST: Duration = Duration::from_secs(12);
/// The first pause is shorter than this; each further one may be twice as long, up to 32 times.
const PAUSE: Duration = Duration::from_millis(16);

/// The rounds of one piece of work.
#[derive(Debug)]
pub struct Rounds<'a> {
    target: &'a Target,
    began: Instant,
    done: u32,
}

impl<'a> Rounds<'a> {
    /// The first round begins.
    pub fn of(target: &'a Target) -> Self {
        Self { target, began: Instant::now(), done: 0 }
    }

    /// A round ended with `error`: waits a moment and returns where another one may help, or gives the error back.
    pub async fn after(&mut self, error: TargetError) -> Result<(), TargetError> {
        if error.disposition() == Disposition::Again { self.next(error).await } else { Err(error) }
    }

    /// The same where the session itself ended under the round: a new one tells whether the server is still there.
    pub async fn after_lost_session(&mut self, error: TargetError) -> Result<(), TargetError> {
        if error.lost_session() { self.next(error).await } else { Err(error) }
    }

    async fn next(&mut self, error: TargetError) -> Result<(), TargetError> {
        self.done += 1;
        if self.done >= MOST || self.began.elapsed() >= LONGEST {
            return Err(error);
        }
        tracing::debug!(%error, round = self.done, "starting over");
        self.target.note_retry(&error);
        if error.lost_ledger() {
            self.target.forget_ledger().await;
        }
        tokio::time::sleep(pause(self.done, uuid::Uuid::new_v4().as_bytes()[0])).await;
        Ok(())
    }
}

/// Longer with each round, and not the same for everybody.
fn pause(round: u32, random: u8) -> Duration {
    PAUSE.saturating_mul(1 << round.saturating_sub(1).min(5)).mul_f64(f64::from(random) / 255.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_half_a_second_and_differ() {
        assert_eq!(pause(1, 255), PAUSE);
        assert_eq!(pause(3, 255), PAUSE * 4);
        assert_eq!(pause(60, 255), PAUSE * 32);
        assert_eq!(pause(60, 0), Duration::ZERO);
        assert!(pause(4, 10) < pause(4, 20));
    }
}
