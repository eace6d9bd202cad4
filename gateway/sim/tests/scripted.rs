//! One whole story of a group (create, write, ship, map, crash, fail over, write there, come home), with one thing going
//! wrong: every kind of trouble at requests all along it, once and from then on, and the disk failing at calls all along it.
//!
//! `LIFEBOAT_EVERY=1` walks through every single request and call; without it the walk takes strides, so that it is short,
//! and `LIFEBOAT_WALK_FROM=N` begins it at another place.

use lifeboat_sim::disk::Fault;
use lifeboat_sim::store::{PlannedTrouble, TROUBLES, Trouble};
use lifeboat_sim::world::{ERRNOS, Wrong, scripted_run};

const SEED: u64 = 7;

/// Where to begin, and how far to go at a time.
fn walk(short: u64) -> (u64, usize) {
    let number = |name: &str| std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(0);
    let stride = if number("LIFEBOAT_EVERY") == 1 { 1 } else { short };
    (1 + number("LIFEBOAT_WALK_FROM") % stride, usize::try_from(stride).unwrap_or(1))
}

fn every_request(trouble: Trouble) {
    let (requests, _) = scripted_run(SEED, Wrong::Nothing).unwrap_or_else(|violation| panic!("{violation}"));
    assert!(requests > 100, "the story has become short: {requests} requests");
    let mut broken = Vec::new();
    let mut runs = 0;
    for for_good in [false, true] {
        let (first, stride) = walk(61);
        for at in (first..=requests).step_by(stride) {
            runs += 1;
            let planned = PlannedTrouble { at, trouble, for_good };
            if let Err(violation) = scripted_run(SEED, Wrong::Store(planned)) {
                broken.push(violation.to_string());
            }
        }
    }
    eprintln!("{runs} runs");
    assert!(broken.is_empty(), "{} runs failed:\n{}", broken.len(), broken.join("\n"));
}

macro_rules! troubles {
    ($($name:ident: $trouble:ident,)*) => {
        $(#[test]
        fn $name() {
            every_request(Trouble::$trouble);
        })*

        #[test]
        fn every_trouble_has_its_test() {
            assert_eq!([$(Trouble::$trouble),*], TROUBLES);
        }
    };
}

troubles! {
    throttled_requests_along_a_story: Throttle,
    requests_without_an_answer_along_a_story: Timeout,
    lost_replies_along_a_story: LostReply,
    late_creates_along_a_story: Late,
    truncated_reads_along_a_story: Truncated,
    corrupt_reads_along_a_story: Corrupt,
    stale_listings_along_a_story: StaleList,
    a_store_that_was_rolled_back_along_a_story: RolledBack,
    slow_requests_along_a_story: Slow,
    refused_requests_along_a_story: Forbidden,
    objects_that_seem_missing_along_a_story: Missing,
}

#[test]
fn the_disk_fails_along_a_story() {
    let (_, calls) = scripted_run(SEED, Wrong::Nothing).unwrap_or_else(|violation| panic!("{violation}"));
    assert!(calls > 100, "the story has become short: {calls} calls");
    let mut broken = Vec::new();
    for errno in ERRNOS {
        for for_good in [false, true] {
            let (first, stride) = walk(101);
            for at in (first..=calls).step_by(stride) {
                let fault = Fault { at, errno, for_good, short: at % 2 == 0 };
                if let Err(violation) = scripted_run(SEED, Wrong::Disk(fault)) {
                    broken.push(violation.to_string());
                }
            }
        }
    }
    assert!(broken.is_empty(), "{} runs failed:\n{}", broken.len(), broken.join("\n"));
}

/// A group whose making fails once its first point is in the vault: what is there holds what was asked for, nothing else.
#[test]
fn the_disk_fails_for_good_while_the_group_is_made() {
    for at in 10..=24 {
        let fault = Fault { at, errno: ERRNOS[0], for_good: true, short: at % 2 == 0 };
        if let Err(violation) = scripted_run(SEED, Wrong::Disk(fault)) {
            panic!("{violation}");
        }
    }
}
