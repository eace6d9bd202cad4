//! Bugs planted in the engine's own code: each has to be caught by the whole engine's simulation, or that proves nothing.

use lifeboat_engine::planted::{BUGS, Bug, plant};
use lifeboat_sim::Violation;
use lifeboat_sim::world::{Profile, engine_run};

/// The first violation within so many seeds.
fn catch(bug: Bug, cases: u64) -> Option<(u64, Violation)> {
    let _awake = plant(bug);
    (0..cases).find_map(|seed| engine_run(seed, Profile::default()).err().map(|violation| (seed, violation)))
}

fn caught(bug: Bug) {
    let (seed, violation) = catch(bug, 300).unwrap_or_else(|| panic!("{bug:?} was not caught"));
    let text = violation.to_string();
    eprintln!("{bug:?}: {}", text.lines().next().unwrap_or_default());
    assert!(engine_run(seed, Profile::default()).is_ok(), "the seed fails without the bug too");
}

macro_rules! bugs {
    ($($name:ident: $bug:ident,)*) => {
        $(#[test]
        fn $name() {
            caught(Bug::$bug);
        })*

        #[test]
        fn every_bug_has_its_test() {
            assert_eq!([$(Bug::$bug),*], BUGS);
        }
    };
}

bugs! {
    a_flush_before_the_sync_is_caught: AcknowledgesBeforeSync,
    a_segment_without_a_look_at_the_fence_is_caught: SkipsFenceLook,
    counting_before_landing_is_caught: CountsBeforeLanding,
    a_salt_that_is_used_twice_is_caught: ReusesSalt,
    a_cut_one_too_few_is_caught: CutsOneTooFew,
    zeroes_that_are_left_out_are_caught: ForgetsZeroes,
    a_point_that_misses_a_record_is_caught: PointMissesARecord,
    presence_without_data_is_caught: PresentBeforeData,
    a_failover_without_a_fence_is_caught: FailsOverWithoutFence,
    a_pass_that_forgets_the_own_tail_is_caught: ForgetsOwnTail,
}
