//! Which waiting level a message takes next.
//!
//! A level is a queue whose messages all live equally long, so it never holds one back behind another. A message takes
//! the largest level that is not longer than what remains; when it comes back early it is levelled again. The halving
//! keeps the hops few: at most one a level, since what remains after a level is shorter than it. Under the smallest level
//! the wait is that level, so a message is late by at most 250 ms, and never early.

use jiff::Timestamp;

/// Lifetimes of the levels in milliseconds, ascending: 250 ms, 500 ms, then 1 s doubling to 2^21 s (24 days).
pub(super) const LEVELS: [u64; 24] = levels();

const fn levels() -> [u64; 24] {
    let mut levels = [0; 24];
    let mut index = 0;
    while index < levels.len() {
        levels[index] = 250 << index;
        index += 1;
    }
    levels
}

/// Milliseconds from `now` until `due`; zero when it is past.
pub(super) fn remaining(due: Timestamp, now: Timestamp) -> u64 {
    u64::try_from(due.as_millisecond().saturating_sub(now.as_millisecond())).unwrap_or(0)
}

/// The level for what remains, both in milliseconds.
pub(super) fn level(remaining: u64) -> u64 {
    LEVELS.into_iter().rev().find(|level| *level <= remaining).unwrap_or(LEVELS[0])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_row_is_the_contract_s() {
        assert_eq!(LEVELS[..4], [250, 500, 1_000, 2_000]);
        assert_eq!(LEVELS[23], (1 << 21) * 1_000);
    }

    #[test]
    fn the_largest_level_that_is_not_longer() {
        for (remaining, expected) in [
            (0, 250),
            (249, 250),
            (250, 250),
            (499, 250),
            (500, 500),
            (999, 500),
            (1_000, 1_000),
            (3_999, 2_000),
            (86_400_000, 65_536_000),
            (u64::MAX, 2_097_152_000),
        ] {
            assert_eq!(level(remaining), expected, "{remaining} ms");
        }
    }

    #[test]
    fn each_level_is_taken_at_most_once_and_only_the_smallest_overshoots() {
        for start in [86_400_000, 86_399_999, 65_535_999, 43_200_001, 251, 1] {
            let (mut left, mut hops) = (start, 0);
            while left > 0 {
                let step = level(left);
                assert!(step <= left || step == 250);
                left = left.saturating_sub(step);
                hops += 1;
            }
            assert!(hops <= 19, "{start} ms took {hops} hops");
        }
    }

    #[test]
    fn what_is_past_remains_zero() {
        let now = Timestamp::from_millisecond(1_000).unwrap_or_default();
        let due = Timestamp::from_millisecond(400).unwrap_or_default();
        assert_eq!(remaining(due, now), 0);
        assert_eq!(remaining(now, due), 600);
    }
}
