//! The whole engine from seeds: two gateways, one vault, crashes and bad networks.

use std::time::{SystemTime, UNIX_EPOCH};

use lifeboat_sim::world::{EngineTally, Profile, engine_run};

#[test]
fn one_seed_is_one_run_request_by_request() {
    for seed in [3, 4] {
        let first = engine_run(seed, Profile::default()).unwrap_or_else(|violation| panic!("{violation}"));
        let second = engine_run(seed, Profile::default()).unwrap_or_else(|violation| panic!("{violation}"));
        assert_eq!(first, second);
        assert!(first.requests > 50, "{first:?}");
    }
}

fn run_all(seeds: std::ops::Range<u64>) {
    let mut tally = EngineTally::default();
    let mut broken = Vec::new();
    for seed in seeds {
        match engine_run(seed, Profile::default()) {
            Ok(run) => tally.add(run),
            Err(violation) => broken.push(violation.to_string()),
        }
    }
    eprintln!("{tally:?}");
    assert!(broken.is_empty(), "{} seeds failed:\n{}", broken.len(), broken.join("\n"));
    assert!(tally.failovers > 5 && tally.crashes > 10 && tally.points_compared > 50, "{tally:?}");
}

macro_rules! fixed_seeds {
    ($($name:ident: $from:literal,)*) => {$(
        #[test]
        fn $name() {
            run_all($from..$from + 25);
        }
    )*};
}

// In parts that run side by side.
fixed_seeds! {
    seeds_from_0_keep_every_promise: 0,
    seeds_from_25_keep_every_promise: 25,
    seeds_from_50_keep_every_promise: 50,
    seeds_from_75_keep_every_promise: 75,
    seeds_from_100_keep_every_promise: 100,
    seeds_from_125_keep_every_promise: 125,
    seeds_from_150_keep_every_promise: 150,
    seeds_from_175_keep_every_promise: 175,
}

#[test]
fn a_fresh_seed_keeps_every_promise() {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock is behind 1970");
    let seed = u64::from(now.subsec_nanos()) ^ (now.as_secs() << 30);
    eprintln!("fresh seed {seed:#x}: make sim SEED={seed:#x} CASES=1 repeats it");
    let run = engine_run(seed, Profile::default()).unwrap_or_else(|violation| panic!("{violation}"));
    assert!(run.requests > 0, "{run:?}");
}
