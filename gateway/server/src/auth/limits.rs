//! How much one caller may ask, and how often a stranger may knock.
//!
//! Generous: a `terraform plan` of thousands of resources goes through at full speed. What it stops is a loop that has gone wild,
//! or somebody who tries tokens: whoever shows a valid token is let in however many wrong ones came from the same address.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use lifeboat_api::Principal;

/// Requests that weren't let in, counted by address and minute.
#[derive(Debug, Default)]
pub(crate) struct Strangers(Mutex<HashMap<Option<IpAddr>, (Instant, u64)>>);

/// How long requests of an address are counted together.
const WINDOW: Duration = Duration::from_secs(60);
/// Addresses that are counted apart; those past that are counted as one.
const ADDRESSES_MAX: usize = 1024;

impl Strangers {
    /// Counts one; gives how many there have been from there in this minute.
    pub(crate) fn knocked(&self, from: Option<IpAddr>, now: Instant) -> u64 {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_old = |since: Instant| now.duration_since(since) >= WINDOW;
        if all.len() >= ADDRESSES_MAX {
            all.retain(|_, (since, _)| !is_old(*since));
        }
        let from = if all.len() >= ADDRESSES_MAX && !all.contains_key(&from) { None } else { from };
        let (since, count) = all.entry(from).or_insert((now, 0));
        if is_old(*since) {
            (*since, *count) = (now, 0);
        }
        *count += 1;
        *count
    }
}

/// Requests of a caller that are answered at once, after a pause.
const BURST: f64 = 5000.0;
/// Requests a second that are answered for as long as they come.
const RATE: f64 = 1000.0;

/// Requests of those who were let in, by caller.
#[derive(Debug, Default)]
pub(crate) struct Haste(Mutex<HashMap<Option<String>, (Instant, f64)>>);

impl Haste {
    /// Whether one more request of this caller is answered now.
    pub(crate) fn admits(&self, who: &Principal, now: Instant) -> bool {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let full = |(since, left): &(Instant, f64)| {
            now.saturating_duration_since(*since).as_secs_f64().mul_add(RATE, *left).min(BURST)
        };
        if all.len() >= ADDRESSES_MAX {
            all.retain(|_, book| full(book) < BURST);
        }
        let book = all.entry(who.id.clone()).or_insert((now, BURST));
        let left = full(book);
        let admitted = left >= 1.0;
        *book = (now, if admitted { left - 1.0 } else { left });
        admitted
    }
}

#[cfg(test)]
mod tests {
    use lifeboat_api::PrincipalKind;

    use super::*;

    #[test]
    fn strangers_are_counted_by_address_and_minute() {
        let (strangers, start) = (Strangers::default(), Instant::now());
        let address = |last: u8| Some(IpAddr::from([192, 0, 2, last]));
        assert_eq!((1..=3).map(|_| strangers.knocked(address(1), start)).collect::<Vec<_>>(), [1, 2, 3]);
        assert_eq!(strangers.knocked(address(2), start), 1);
        assert_eq!(strangers.knocked(address(1), start + WINDOW), 1, "another minute");
        // However many addresses there are, memory is bounded and the known ones are counted on.
        for n in 0..4000_u32 {
            strangers.knocked(Some(IpAddr::from(n.to_be_bytes())), start + WINDOW);
        }
        assert!(strangers.0.lock().expect("sound").len() <= ADDRESSES_MAX + 1);
        assert_eq!(strangers.knocked(address(1), start + WINDOW), 2);
    }

    #[test]
    fn a_caller_has_a_burst_and_then_a_rate() {
        let (haste, start) = (Haste::default(), Instant::now());
        let who = |id: &str| Principal { kind: PrincipalKind::Token, id: Some(id.to_owned()), name: id.to_owned() };
        let admitted = |who: &Principal, now: Instant| (0..6000).filter(|_| haste.admits(who, now)).count();
        assert_eq!(admitted(&who("a"), start), 5000);
        assert_eq!(admitted(&who("b"), start), 5000, "each for itself");
        assert_eq!(admitted(&who("a"), start + Duration::from_secs(1)), 1000);
        assert_eq!(admitted(&who("a"), start + Duration::from_secs(60)), 5000);
    }
}
