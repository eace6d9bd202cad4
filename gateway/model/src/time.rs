//! Wall-clock time as it is stored and shown. Reading the clock is the caller's business.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Microseconds since the Unix epoch, UTC. Shown as RFC 3339, with as many digits as it needs.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Timestamp(i64);

/// A text that is no RFC 3339 time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no time: expected RFC 3339, for example 2026-11-20T10:05:00Z")]
pub struct ParseTimestampError(String);

impl Timestamp {
    /// The time so many microseconds after 1970-01-01T00:00:00Z.
    #[must_use]
    pub const fn from_micros(micros: i64) -> Self {
        Self(micros)
    }

    /// Microseconds after 1970-01-01T00:00:00Z.
    #[must_use]
    pub const fn as_micros(self) -> i64 {
        self.0
    }

    /// What the system's clock says now.
    #[must_use]
    pub fn now() -> Self {
        Self(jiff::Timestamp::now().as_microsecond())
    }

    /// Seconds from `earlier` to `self`; 0 when the clock ran backwards.
    #[must_use]
    pub fn seconds_since(self, earlier: Self) -> f64 {
        let micros = self.0.saturating_sub(earlier.0).max(0);
        std::time::Duration::from_micros(micros.unsigned_abs()).as_secs_f64()
    }

    /// The time so much later; the last one there is, at the latest.
    #[must_use]
    pub fn plus(self, duration: std::time::Duration) -> Self {
        Self(self.0.saturating_add(i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)))
    }

    pub(crate) fn civil(self) -> jiff::Timestamp {
        // Out-of-range values come from damaged bytes only; they show as the nearest end of the calendar.
        jiff::Timestamp::from_microsecond(self.0).unwrap_or(if self.0 < 0 {
            jiff::Timestamp::MIN
        } else {
            jiff::Timestamp::MAX
        })
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.civil(), f)
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Timestamp {
    type Err = ParseTimestampError;

    fn from_str(text: &str) -> Result<Self, ParseTimestampError> {
        text.parse::<jiff::Timestamp>()
            .map(|time| Self(time.as_microsecond()))
            .map_err(|_| ParseTimestampError(text.to_owned()))
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rfc_3339_round_trips_to_the_microsecond() {
        let time = Timestamp::from_micros(1_795_000_000_123_456);
        assert_eq!(time.to_string().parse(), Ok(time));
        assert_eq!("2026-11-20T10:05:00Z".parse::<Timestamp>().expect("a time").to_string(), "2026-11-20T10:05:00Z");
    }

    #[test]
    fn a_clock_that_ran_backwards_gives_no_negative_age() {
        assert_eq!(Timestamp::from_micros(5).seconds_since(Timestamp::from_micros(9)), 0.0);
    }

    #[test]
    fn damaged_times_show_without_a_panic() {
        assert!(!Timestamp::from_micros(i64::MIN).to_string().is_empty());
        assert!(!Timestamp::from_micros(i64::MAX).to_string().is_empty());
    }
}
