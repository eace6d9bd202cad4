//! How long something took, counted: a histogram of fixed buckets that many threads write without a lock.
//!
//! One observation is two relaxed additions. Nothing is kept over a restart, and nothing here decides anything.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Upper bounds of the buckets, microseconds; what takes longer is in one more bucket behind them.
pub const BOUNDS_MICROS: [u64; 16] = [
    50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000,
    10_000_000,
];

/// A histogram of durations.
#[derive(Debug, Default)]
pub struct Histogram {
    buckets: [AtomicU64; BOUNDS_MICROS.len() + 1],
    sum_micros: AtomicU64,
}

/// What a histogram held at a moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Durations {
    /// Observations in each bucket, not added up; the last one has no upper bound.
    pub counts: [u64; BOUNDS_MICROS.len() + 1],
    /// Sum of all observations, microseconds.
    pub sum_micros: u64,
}

impl Histogram {
    /// Counts one.
    pub fn note(&self, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let bucket = BOUNDS_MICROS.partition_point(|bound| *bound < micros);
        if let Some(bucket) = self.buckets.get(bucket) {
            bucket.fetch_add(1, Ordering::Relaxed);
        }
        self.sum_micros.fetch_add(micros, Ordering::Relaxed);
    }

    /// What it holds. An observation that is being counted at the same time may be in the sum only.
    #[must_use]
    pub fn read(&self) -> Durations {
        Durations {
            counts: std::array::from_fn(|at| self.buckets[at].load(Ordering::Relaxed)),
            sum_micros: self.sum_micros.load(Ordering::Relaxed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_observation_is_in_the_bucket_whose_bound_it_does_not_exceed() {
        let histogram = Histogram::default();
        for micros in [0, 50, 51, 10_000_000, 10_000_001] {
            histogram.note(Duration::from_micros(micros));
        }
        let found = histogram.read();
        assert_eq!((found.counts[0], found.counts[1], found.counts[15], found.counts[16]), (2, 1, 1, 1));
        assert_eq!(found.counts.iter().sum::<u64>(), 5);
        assert_eq!(found.sum_micros, 20_000_102);
    }
}
