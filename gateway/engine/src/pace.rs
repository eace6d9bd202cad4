//! How fast data may be sent to the vault: limits by the hours of the week.
//!
//! Owns the books of one limit: whoever sends asks [`Pace::take`] first and sends when it returns. What was sent is a
//! debt that time pays off at the limit's rate, so the average never exceeds it, over any number of groups that share the pace.
//! Nothing is lost with it: a crash forgets at most the debt of the last object.

use std::time::Duration;

use lifeboat_model::{Hours, Timestamp};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::sync::Lock;

/// Longest sleep before the hours are looked at again.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// A limit and when it counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PaceRule {
    /// When.
    pub hours: Hours,
    /// Bytes a second; at least 1.
    pub bytes_per_second: u64,
}

/// A limit on what is sent, shared by everything that it holds back. Two are equal if they are the same one.
#[derive(Debug)]
pub struct Pace {
    rules: Lock<Vec<PaceRule>>,
    /// When the debt is paid.
    free_at: Lock<Option<Instant>>,
    changed: Notify,
}

impl PartialEq for Pace {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self, other)
    }
}

impl Eq for Pace {}

impl Default for Pace {
    fn default() -> Self {
        Self::new(Vec::new())
    }
}

impl Pace {
    /// Limits in order: the first whose hours it is counts; none: no limit.
    #[must_use]
    pub fn new(rules: Vec<PaceRule>) -> Self {
        Self { rules: Lock::new(rules), free_at: Lock::new(None), changed: Notify::new() }
    }

    /// Other limits from now on, also for those who wait.
    pub fn set(&self, rules: Vec<PaceRule>) {
        if std::mem::replace(&mut *self.rules.lock(), rules.clone()) != rules {
            self.changed.notify_waiters();
        }
    }

    /// The limit at that time, bytes a second.
    #[must_use]
    pub fn rate(&self, now: Timestamp) -> Option<u64> {
        let rules = self.rules.lock();
        rules.iter().find(|rule| rule.hours.contains(now)).map(|rule| rule.bytes_per_second.max(1))
    }

    /// Waits until so many bytes may be sent, and puts them on the books. `now` tells the wall clock's time. Dropping the
    /// future takes nothing.
    pub async fn take(&self, bytes: u64, now: impl Fn() -> Timestamp) {
        loop {
            let changed = self.changed.notified();
            let Some(rate) = self.rate(now()) else { return };
            let wait = {
                let mut free_at = self.free_at.lock();
                let at = Instant::now();
                match free_at.filter(|free_at| *free_at > at) {
                    Some(free_at) => free_at - at,
                    None => {
                        *free_at = Some(at + cost(bytes, rate));
                        return;
                    }
                }
            };
            tokio::select! {
                biased;
                () = tokio::time::sleep(wait.min(LOOK_AGAIN)) => {}
                () = changed => {}
            }
        }
    }
}

/// The time that so many bytes take at a rate; at most a day, so that no object can hold a group up for ever.
fn cost(bytes: u64, rate: u64) -> Duration {
    let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(rate);
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX)).min(Duration::from_secs(86_400))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn limit(bytes_per_second: u64) -> Vec<PaceRule> {
        vec![PaceRule { hours: Hours::always(), bytes_per_second }]
    }

    #[tokio::test(start_paused = true)]
    async fn the_average_stays_within_the_limit_however_many_share_it() {
        let pace = Arc::new(Pace::new(limit(1 << 20)));
        let start = Instant::now();
        let senders: Vec<_> = (0..4)
            .map(|_| {
                let pace = Arc::clone(&pace);
                tokio::spawn(async move {
                    for _ in 0..5 {
                        pace.take(1 << 20, Timestamp::now).await;
                    }
                })
            })
            .collect();
        for sender in senders {
            sender.await.expect("a sender ends");
        }
        let took = start.elapsed();
        assert!(took >= Duration::from_secs(19), "20 MiB at 1 MiB/s: the last one waits for nineteen, not {took:?}");
        assert!(took < Duration::from_secs(21), "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_limit_that_is_lifted_lets_go_at_once() {
        let pace = Arc::new(Pace::new(limit(1)));
        pace.take(1 << 30, Timestamp::now).await;
        let waiting = {
            let pace = Arc::clone(&pace);
            tokio::spawn(async move { pace.take(1, Timestamp::now).await })
        };
        tokio::task::yield_now().await;
        let start = Instant::now();
        pace.set(Vec::new());
        waiting.await.expect("it ends");
        assert!(start.elapsed() < LOOK_AGAIN);
    }

    #[test]
    fn the_first_rule_whose_hours_it_is_counts() {
        let office = Hours::new(&[], Some((8 * 60, 18 * 60)), None).expect("hours");
        let mut rules = vec![PaceRule { hours: office, bytes_per_second: 10 }];
        let pace = Pace::new(rules.clone());
        let (noon, night) = (Timestamp::from_micros(12 * 3_600_000_000), Timestamp::from_micros(0));
        assert_eq!((pace.rate(noon), pace.rate(night)), (Some(10), None));
        rules.extend(limit(50));
        pace.set(rules);
        assert_eq!((pace.rate(noon), pace.rate(night)), (Some(10), Some(50)));
    }
}
