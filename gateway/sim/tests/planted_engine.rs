//! Bugs planted in the engine's own code: each has to be caught by the whole engine's simulation, or that proves nothing.

use lifeboat_engine::planted::{BUGS, Bug, plant};
use lifeboat_sim::world::{Life, Profile, Story, cuts_run, life_run, story_run};
use lifeboat_sim::{Checked, Violation};

/// The first violation within so many seeds.
fn catch<T>(bug: Bug, cases: u64, run: &dyn Fn(u64) -> Checked<T>) -> Option<(u64, Violation)> {
    let _awake = plant(bug);
    (0..cases).find_map(|seed| run(seed).err().map(|violation| (seed, violation)))
}

fn caught<T>(bug: Bug, cases: u64, run: &dyn Fn(u64) -> Checked<T>) {
    let (seed, violation) = catch(bug, cases, run).unwrap_or_else(|| panic!("{bug:?} was not caught"));
    let text = violation.to_string();
    eprintln!("{bug:?}: {}", text.lines().next().unwrap_or_default());
    run(seed).map(drop).unwrap_or_else(|violation| panic!("the seed fails without the bug too: {violation}"));
}

/// By random lives.
fn in_a_life(bug: Bug) {
    caught(bug, 300, &|seed| life_run(seed, Life::Short, Profile::default()));
}

/// By a story that leads to it; few seeds, since what a loss of power takes is drawn.
fn in_a_story(bug: Bug, story: Story) {
    caught(bug, 12, &|seed| story_run(seed, story));
}

/// By replication groups.
fn in_a_cut(bug: Bug) {
    caught(bug, 20, &cuts_run);
}

macro_rules! bugs {
    (
        lives { $($name:ident: $bug:ident,)* }
        stories { $($told:ident: $planted:ident in $story:ident,)* }
        cuts { $($seen:ident: $shown:ident,)* }
    ) => {
        $(#[test]
        fn $name() {
            in_a_life(Bug::$bug);
        })*
        $(#[test]
        fn $told() {
            in_a_story(Bug::$planted, Story::$story);
        })*

        $(#[test]
        fn $seen() {
            in_a_cut(Bug::$shown);
        })*

        #[test]
        fn every_bug_has_its_test() {
            assert_eq!([$(Bug::$bug,)* $(Bug::$planted,)* $(Bug::$shown),*], BUGS);
        }
    };
}

bugs! {
    lives {
        a_flush_before_the_sync_is_caught: AcknowledgesBeforeSync,
        a_segment_without_a_look_at_the_fence_is_caught: SkipsFenceLook,
        counting_before_landing_is_caught: CountsBeforeLanding,
        a_salt_that_is_used_twice_is_caught: ReusesSalt,
        a_cut_one_too_few_is_caught: CutsOneTooFew,
        zeroes_that_are_left_out_are_caught: ForgetsZeroes,
        a_point_that_misses_a_record_is_caught: PointMissesARecord,
        presence_without_data_is_caught: PresentBeforeData,
        a_pass_that_forgets_the_own_tail_is_caught: ForgetsOwnTail,
    }
    stories {
        a_failover_without_a_fence_is_caught: FailsOverWithoutFence in FoundOut,
        journal_space_given_back_before_it_is_shipped_is_caught: ReclaimsUnshipped in Backlog,
        a_reader_that_looks_behind_a_cut_is_caught: IgnoresCuts in LateSegment,
        a_tail_one_record_short_is_caught: TailOneShort in KeptTail,
        images_that_count_before_they_are_synced_are_caught: ImageMarkAhead in PowerAfterDestage,
        a_pass_that_counts_before_it_is_synced_is_caught: PassBeforeSync in PowerAfterPass,
        a_growth_that_is_forgotten_is_caught: ForgetsGrownSize in GrownVolume,
        a_segment_that_names_the_wrong_key_is_caught: NamesFirstKey in ReplacedKey,
        points_offered_in_a_resync_are_caught: OffersPointsInResync in LookDuringResync,
        a_takeover_behind_the_end_is_caught: TakesOverBehind in BranchWentOn,
        a_pin_that_is_dropped_is_caught: DropsPinned in PinnedPoint,
        a_collection_of_what_is_needed_is_caught: DeletesLive in CollectedGarbage,
        a_collection_without_grace_is_caught: DeletesWithoutGrace in ReadWhileDropped,
    }
    cuts {
        a_barrier_that_holds_nothing_is_caught: MarksWithoutHold,
    }
}
