//! Scripted runs through crashes: fixed seeds, one fresh seed, and every small workload at every boundary.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use lifeboat_sim::scenario::{Plan, Tally, every_small_workload, random_run};

/// Seeds of CI. Those that once found a bug are in [`SEEDS_OF_BUGS`] too, in case this range changes.
const SEEDS: std::ops::Range<u64> = 0..200;

const SEEDS_OF_BUGS: [u64; 0] = [];

#[test]
fn fixed_seeds_keep_every_promise() {
    let begun = Instant::now();
    let mut tally = Tally::default();
    let mut broken = Vec::new();
    for seed in SEEDS.chain(SEEDS_OF_BUGS) {
        match random_run(seed, &Plan::default()) {
            Ok(run) => tally.add(run),
            Err(violation) => broken.push(violation.to_string()),
        }
    }
    println!("{tally:?} in {:?}", begun.elapsed());
    assert!(broken.is_empty(), "{} seeds failed:\n{}", broken.len(), broken.join("\n"));
    assert!(tally.power_states >= 100_000, "{tally:?}");
    assert!(tally.waits > 100, "writers hardly ever waited: {tally:?}");
}

/// One run nobody has seen before. Repeat it with `LIFEBOAT_SEED=0x…`; `LIFEBOAT_SEEDS=n` makes it n runs.
#[test]
fn a_fresh_seed_keeps_every_promise() {
    let number = |name| {
        std::env::var(name).ok().map(|text| match text.strip_prefix("0x") {
            Some(hex) => u64::from_str_radix(hex, 16).expect("a hexadecimal number"),
            None => text.parse().expect("a number"),
        })
    };
    let clock = || SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_nanos();
    let first = number("LIFEBOAT_SEED").unwrap_or_else(|| u64::try_from(clock() & 0xffff_ffff_ffff_ffff).expect("64 bits"));
    for seed in (0..number("LIFEBOAT_SEEDS").unwrap_or(1)).map(|at| first.wrapping_add(at)) {
        println!("seed: {seed:#x}");
        if let Err(violation) = random_run(seed, &Plan::default()) {
            panic!("{violation}; repeat it with LIFEBOAT_SEED={seed:#x}");
        }
    }
}

#[test]
fn one_seed_is_one_run() {
    let plan = Plan { probes: 1, ..Plan::default() };
    assert_eq!(random_run(7, &plan), random_run(7, &plan));
}

#[test]
fn every_small_workload_survives_a_stop_at_every_call() {
    let begun = Instant::now();
    let tally = every_small_workload(3, 6).unwrap_or_else(|violation| panic!("{violation}"));
    println!("{tally:?} in {:?}", begun.elapsed());
    assert!(tally.runs == 8 + 64 + 512 && tally.power_states > 20_000, "{tally:?}");
}
