//! Every call to the disk fails, once and for good: nothing flushed is lost, nothing wrong is read.

use lifeboat_sim::scenario::{Tally, every_fault};

#[test]
fn every_call_fails_once_and_for_good() {
    let mut tally = Tally::default();
    for seed in 0..6 {
        match every_fault(seed, 60) {
            Ok(run) => tally.add(run),
            Err(violation) => panic!("{violation}"),
        }
    }
    println!("{tally:?}");
    assert!(tally.faults > 500, "{tally:?}");
}
