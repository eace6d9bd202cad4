//! `make sim SEED=… CASES=… STATES=…`: the simulation at length, and any seed of it again.
//!
//! Runs `CASES` scenarios of the whole engine, a tenth as many of replication groups, and journal crash states until there are `STATES`, from `SEED` on; without a
//! seed, from one that the clock gives and that is printed. A broken promise is printed with its seed and its steps, and
//! ends with exit code 1: `make sim SEED=<that seed> CASES=1` repeats it.

use std::io::Write;
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use lifeboat_sim::scenario::{Plan, Tally, random_run};
use lifeboat_sim::world::{CutTally, EngineTally, Profile, cuts_run, engine_run};

/// Time between two lines of progress.
const PROGRESS: Duration = Duration::from_secs(10);

fn main() -> ExitCode {
    let number = |name: &str| {
        let text = std::env::var(name).ok().filter(|text| !text.is_empty())?;
        let parsed = match text.strip_prefix("0x") {
            Some(hex) => u64::from_str_radix(hex, 16),
            None => text.parse(),
        };
        match parsed {
            Ok(number) => Some(number),
            Err(error) => {
                say(&format!("{name}={text} is no number: {error}"));
                std::process::exit(2);
            }
        }
    };
    let fresh = || {
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(1, |time| u64::from(time.subsec_nanos()) ^ (time.as_secs() << 30))
    };
    let seed = number("SEED").unwrap_or_else(fresh);
    let cases = number("CASES").unwrap_or(1000);
    let states = number("STATES").unwrap_or(if cases == 1 { 0 } else { 1_000_000 });
    say(&format!("seed {seed:#x}, {cases} scenarios of the engine, {states} crash states of the journal"));
    let broken = engine(seed, cases) + cuts(seed, cases.div_ceil(10)) + journal(seed, states);
    if broken == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn say(text: &str) {
    let _ = writeln!(std::io::stdout().lock(), "{text}");
}

fn engine(seed: u64, cases: u64) -> u64 {
    let (mut tally, mut broken) = (EngineTally::default(), 0);
    let (begun, mut told) = (Instant::now(), Instant::now());
    for case in (0..cases).map(|at| seed.wrapping_add(at)) {
        match engine_run(case, Profile::default()) {
            Ok(run) => tally.add(run),
            Err(violation) => {
                broken += 1;
                say(&format!("VIOLATION {violation}\n  repeat it with: make sim SEED={case:#x} CASES=1"));
            }
        }
        if told.elapsed() > PROGRESS {
            told = Instant::now();
            say(&format!("engine: {} of {cases} scenarios, {broken} broken, at {case:#x}", tally.runs + broken));
        }
    }
    say(&format!("engine: {broken} of {cases} scenarios broken in {:.0?}: {tally:?}", begun.elapsed()));
    broken
}

/// Points that groups share.
fn cuts(seed: u64, cases: u64) -> u64 {
    let (mut tally, mut broken, begun) = (CutTally::default(), 0, Instant::now());
    for case in (0..cases).map(|at| seed.wrapping_add(at)) {
        match cuts_run(case) {
            Ok(run) => tally.add(run),
            Err(violation) => {
                broken += 1;
                say(&format!("VIOLATION {violation}\n  repeat it with: make sim SEED={case:#x} CASES=1"));
            }
        }
    }
    say(&format!("replication groups: {broken} of {cases} runs broken in {:.0?}: {tally:?}", begun.elapsed()));
    broken
}

fn journal(seed: u64, states: u64) -> u64 {
    let (mut tally, mut broken) = (Tally::default(), 0);
    let (begun, mut told) = (Instant::now(), Instant::now());
    let mut case = seed;
    while tally.power_states < states {
        let stops = case.is_multiple_of(2);
        match random_run(case, &Plan { stops, ..Plan::default() }) {
            Ok(run) => tally.add(run),
            Err(violation) => {
                broken += 1;
                say(&format!("VIOLATION {violation}"));
            }
        }
        case = case.wrapping_add(1);
        if told.elapsed() > PROGRESS {
            told = Instant::now();
            say(&format!("journal: {} of {states} states, {broken} broken", tally.power_states));
        }
    }
    say(&format!("journal: {broken} runs broken in {:.0?}: {tally:?}", begun.elapsed()));
    broken
}
