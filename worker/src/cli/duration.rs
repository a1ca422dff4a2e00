//! Lengths of time as people write them: `90s`, `2h`, `1h30m`, `7d`.

use std::time::Duration;

use jiff::{SignedDuration, Span, SpanRelativeTo};

/// Parses a length of time over zero. A day has 24 hours.
pub fn parse(text: &str) -> Result<SignedDuration, String> {
    let expected = || format!("{text:?} is not a length of time; expected such as 90s, 30m, 2h, 1h30m or 7d");
    let span: Span = text.parse().map_err(|_| expected())?;
    let length = span.to_duration(SpanRelativeTo::days_are_24_hours()).map_err(|_| expected())?;
    if length > SignedDuration::ZERO { Ok(length) } else { Err(expected()) }
}

/// The same for a wait.
pub fn wait(text: &str) -> Result<Duration, String> {
    parse(text).map(SignedDuration::unsigned_abs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_of_time() {
        for (text, seconds) in [("90s", 90), ("30m", 1800), ("2h", 7200), ("1h30m", 5400), ("7d", 604_800), ("1d12h", 129_600)] {
            assert_eq!(parse(text), Ok(SignedDuration::from_secs(seconds)), "{text}");
        }
        for text in ["", "2", "h", "0s", "-2h", "2 parsecs", "1mo", "1y"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
