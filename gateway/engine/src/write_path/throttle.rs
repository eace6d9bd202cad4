//! Slowing writers down before the journal is full: the fuller it is, the longer every byte takes.
//!
//! All writers of a group share one line. A byte costs nothing up to [`BEGINS`] of the limit; from there its cost
//! grows with the square of what is used beyond, so that the rate falls continuously to about what the vault takes,
//! instead of all at once to nothing. What one request waits is bounded. The clock is the caller's.

use std::time::{Duration, Instant};

/// Share of the journal's limit, percent, from which writers are slowed.
const BEGINS: u64 = 70;
/// What a MiB takes when the journal is all but full.
const MIB_AT_FULL: Duration = Duration::from_secs(1);
/// The longest wait of one request.
const WAIT_MAX: Duration = Duration::from_millis(500);

/// The line of a group's writers.
#[derive(Debug, Default)]
pub(super) struct Throttle {
    free_at: Option<Instant>,
}

impl Throttle {
    /// How long a request of so many bytes waits, with so much of the journal used.
    pub(super) fn wait(&mut self, now: Instant, bytes: u64, used: u64, limit: u64) -> Duration {
        let cost = cost(bytes, used, limit);
        let free_at = self.free_at.filter(|at| *at > now).unwrap_or(now);
        // A line longer than anybody waits would punish those who come after the journal has room again.
        let free_at = (free_at + cost).min(now + WAIT_MAX);
        self.free_at = Some(free_at);
        free_at - now
    }
}

fn cost(bytes: u64, used: u64, limit: u64) -> Duration {
    let begins = limit / 100 * BEGINS;
    let range = limit.saturating_sub(begins).max(1);
    let beyond = used.saturating_sub(begins).min(range);
    // In parts of 1000, so that it is a whole number's square.
    let part = u128::from(beyond) * 1000 / u128::from(range);
    let nanos = MIB_AT_FULL.as_nanos() * u128::from(bytes) / (1 << 20) * part * part / 1_000_000;
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: u64 = 1 << 30;
    const MIB: u64 = 1 << 20;

    #[test]
    fn nothing_is_slowed_below_the_threshold_and_the_cost_grows_without_a_step() {
        assert_eq!(cost(MIB, 0, LIMIT), Duration::ZERO);
        assert_eq!(cost(MIB, LIMIT * 69 / 100, LIMIT), Duration::ZERO);
        assert_eq!(cost(MIB, LIMIT, LIMIT), MIB_AT_FULL);
        let costs: Vec<Duration> = (0..=1000).map(|step| cost(MIB, LIMIT / 1000 * step, LIMIT)).collect();
        assert!(costs.windows(2).all(|pair| pair[0] <= pair[1] && pair[1] - pair[0] < Duration::from_millis(10)));
        assert_eq!(cost(MIB, 2 * LIMIT, LIMIT), MIB_AT_FULL, "more than the limit costs no more");
    }

    /// Many writers who want everything, and a vault that takes 20 MiB/s: they come down to that, none waits long, and
    /// the journal never fills.
    #[test]
    fn writers_come_down_to_what_the_vault_takes() {
        let start = Instant::now();
        let mut throttle = Throttle::default();
        let (mut used, mut accepted_late, mut longest) = (0_u64, 0_u64, Duration::ZERO);
        let mut writers = [start; 8];
        let takes_per_ms = 20 * MIB / 1000;
        for ms in 0..120_000_u64 {
            let now = start + Duration::from_millis(ms);
            used = used.saturating_sub(takes_per_ms);
            for ready in &mut writers {
                while *ready <= now && used + 64 * 1024 <= LIMIT {
                    used += 64 * 1024;
                    accepted_late += if ms >= 60_000 { 64 * 1024 } else { 0 };
                    let wait = throttle.wait(now, 64 * 1024, used, LIMIT);
                    longest = longest.max(wait);
                    // Without the throttle a write takes a millisecond.
                    *ready = now + wait + Duration::from_millis(1);
                }
            }
            assert!(used < LIMIT * 95 / 100, "the journal fills: {used} after {ms} ms");
        }
        let rate = accepted_late / 60 / MIB;
        assert!((18..=22).contains(&rate), "{rate} MiB/s where the vault takes 20");
        assert!(longest <= WAIT_MAX, "{longest:?}");
    }

    #[test]
    fn a_line_is_forgotten_when_the_journal_has_room_again() {
        let start = Instant::now();
        let mut throttle = Throttle::default();
        for _ in 0..100 {
            throttle.wait(start, 8 * MIB, LIMIT, LIMIT);
        }
        assert!(throttle.wait(start, 4096, 0, LIMIT) <= WAIT_MAX);
        assert_eq!(throttle.wait(start + WAIT_MAX, 4096, 0, LIMIT), Duration::ZERO);
    }
}
