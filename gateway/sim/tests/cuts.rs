//! Points that groups of several machines share, from seeds: lines that are slow, stalled and cut, members and coordinators that are
//! killed, clocks that are hours apart.

use std::time::{SystemTime, UNIX_EPOCH};

use lifeboat_sim::world::{CutTally, cuts_run};

fn run_all(seeds: impl Iterator<Item = u64>) -> CutTally {
    let mut tally = CutTally::default();
    let mut broken = Vec::new();
    for seed in seeds {
        match cuts_run(seed) {
            Ok(run) => tally.add(run),
            Err(violation) => broken.push(violation.to_string()),
        }
    }
    eprintln!("{tally:?}");
    assert!(broken.is_empty(), "{} seeds failed:\n{}", broken.len(), broken.join("\n"));
    tally
}

#[test]
fn what_groups_share_is_one_cut_through_what_applications_did() {
    let tally = run_all(0..30);
    assert!(tally.shared > 150 && tally.missed > 50 && tally.crashes > 20, "{tally:?}");
    assert!(tally.compared > tally.shared / 2 && tally.partial > 0, "{tally:?}");
}

#[test]
fn fresh_seeds_keep_the_promise_too() {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |time| u64::from(time.subsec_nanos()));
    let seed = now << 20;
    eprintln!("seeds from {seed:#x}");
    run_all(seed..seed + 10);
}

#[test]
fn one_seed_is_one_run() {
    let runs = [(); 2].map(|()| cuts_run(7).unwrap_or_else(|violation| panic!("{violation}")));
    assert_eq!(runs[0], runs[1]);
}
