//! How long somebody waits who typed a wrong token.
//!
//! The count is kept where both consoles see it, and lives as long as the system runs: a console that is ended and comes back has not
//! forgotten it. The token has 128 bits or more and isn't guessed; this keeps the log from filling and says that somebody tries.

use serde::{Deserialize, Serialize};

/// Tries without waiting.
const FREE: u32 = 3;
/// The first wait, and the longest, seconds.
const WAIT_SECONDS: u64 = 5;
const WAIT_SECONDS_MAX: u64 = 300;

/// Failures so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Attempts {
    /// How many in a row.
    pub failures: u32,
    /// The last one, in seconds on the system's own clock since it started.
    pub last: u64,
}

impl Attempts {
    /// Seconds until the next try is taken.
    #[must_use]
    pub fn wait(self, now: u64) -> u64 {
        let Some(beyond) = self.failures.checked_sub(FREE) else { return 0 };
        let wait = WAIT_SECONDS.checked_shl(beyond.min(16)).unwrap_or(WAIT_SECONDS_MAX).min(WAIT_SECONDS_MAX);
        (self.last + wait).saturating_sub(now)
    }

    /// One more.
    #[must_use]
    pub fn failed(self, now: u64) -> Self {
        Self { failures: self.failures.saturating_add(1), last: now }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_fails_often_waits_longer_and_not_for_ever() {
        let mut attempts = Attempts::default();
        let mut waits = Vec::new();
        for _ in 0..12 {
            attempts = attempts.failed(100);
            waits.push(attempts.wait(100));
        }
        assert_eq!(waits, [0, 0, 5, 10, 20, 40, 80, 160, 300, 300, 300, 300]);
        assert_eq!(attempts.wait(399), 1);
        assert_eq!(attempts.wait(400), 0);
    }
}
