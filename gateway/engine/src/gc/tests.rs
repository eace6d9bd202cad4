//! Collections against a model of every byte: random histories, planted bugs, faults at every request, stalled runners,
//! stores that deny deletes.

mod history;
mod rebuild;
mod repair;
mod space;

use std::sync::Arc;
use std::time::Duration;

use lifeboat_model::BranchId;
use lifeboat_vault::{Effect, OpKind, Rule};

use super::*;
use crate::branch::{Origin, drop_branch, list_branches, log_end};
use crate::marks::{Pin, pin, relabel, unpin};
use crate::points::{find_point, list_points};
use crate::ship::tests::harness::{Bench, gateway, same};
use crate::ship::{BranchWriter, Open};
use crate::view::PointView;
use history::{History, ONLY_THE_NEWEST, settings};

const HOUR: Duration = Duration::from_secs(3600);

#[tokio::test]
async fn random_histories_stay_exact_through_every_collection() {
    let mut deleted = 0;
    for (seed, grace) in [(1, Duration::ZERO), (2, HOUR / 4), (3, Duration::ZERO)] {
        let mut history = History::new(seed).await;
        for step in 0..24 {
            history.step().await;
            history.collect(grace).await.unwrap_or_else(|error| panic!("seed {seed}, step {step}: {error}"));
            history.check(step == 23).await.unwrap_or_else(|what| panic!("seed {seed}, step {step}: {what}"));
        }
        deleted += history.deleted;
    }
    assert!(deleted > 0, "nothing was ever collected");
}

/// Collects with a planted bug, and gives what the check says then.
async fn collected_with(mut history: History, bug: Option<Planted>) -> Result<(), String> {
    PLANTED.set(bug);
    let mut done = Ok(());
    for _ in 0..3 {
        done = done.and(history.collect_with(&ONLY_THE_NEWEST, Duration::ZERO).await.map(drop));
    }
    PLANTED.set(None);
    done.map_err(|error| error.to_string())?;
    history.check(true).await
}

/// The same for a history in which everything is needed for a reason of its own: a pin, a fork, segments after the newest
/// map, older maps.
async fn with_bug(bug: Option<Planted>) -> Result<(), String> {
    let mut history = aged(10).await;
    let fork = history.fork_at(0, 1).await;
    history.ship(fork, 2).await;
    history.write_map(fork).await;
    history.write_map(fork).await;
    history.pin(0, 3).await;
    history.ship(0, 3).await;
    collected_with(history, bug).await
}

#[tokio::test]
async fn planted_bugs_are_caught_and_a_sound_run_is_not_accused() {
    assert_eq!(with_bug(None).await, Ok(()));
    let mut missed = Vec::new();
    for bug in [Planted::ForgetsPins, Planted::ForgetsReplay, Planted::ForgetsOlderMaps] {
        if with_bug(Some(bug)).await.is_ok() {
            missed.push(bug);
        }
    }
    assert!(missed.is_empty(), "not caught: {missed:?}");
}

/// A fork without a map of its own lives on its parent's map and on segments of both.
#[tokio::test]
async fn a_collector_that_forgets_forks_is_caught() {
    let forked = async |bug: Option<Planted>| -> Result<(), String> {
        let mut history = aged(10).await;
        let fork = history.fork_at(0, 2).await;
        history.ship(fork, 2).await;
        history.ship(0, 3).await;
        history.write_map(0).await;
        collected_with(history, bug).await
    };
    assert_eq!(forked(None).await, Ok(()));
    assert!(forked(Some(Planted::ForgetsForks)).await.is_err(), "the fork's data is gone, and nobody noticed");
}

/// The pin comes after the decision and before the list of kept points: what the intent names is needed when it is due.
#[tokio::test]
async fn trusting_an_intent_is_caught() {
    for bug in [None, Some(Planted::TrustsIntents)] {
        let mut caught = false;
        for moment in (1..80).step_by(6) {
            let mut history = aged(10).await;
            let point = history.points(0).await[3].clone();
            let (vault, group) = (history.bench.vault.clone(), history.bench.group);
            let (at, id) = (point.position(), point.id);
            history.bench.hook.before(moment, async move {
                let open = Open::New { origin: Some(Origin { at, point: Some(id) }) };
                let branch = BranchId::from_bytes([77; 16]);
                let settings = crate::ship::ShipSettings::default();
                drop(BranchWriter::open(&vault, group, branch, gateway(3), open, settings).await);
            });
            PLANTED.set(bug);
            for _ in 0..3 {
                caught |= history.collect_with(&ONLY_THE_NEWEST, Duration::ZERO).await.is_err();
            }
            PLANTED.set(None);
            let forked = list_branches(&history.bench.vault, history.bench.group).await.unwrap().len() == 2;
            let view = PointView::open(history.bench.vault.clone(), history.bench.group, &point).await;
            caught |= forked
                && (view.is_err()
                    || view.unwrap().read_blocks(crate::ship::tests::harness::volume(1), 0, u64::MAX).await.is_err());
        }
        assert_eq!(caught, bug.is_some());
    }
}

/// Two points old, one new: the old ones are garbage for a schedule that keeps the newest only.
async fn aged(seed: u64) -> History {
    let mut history = History::new(seed).await;
    for _ in 0..4 {
        history.ship(0, 4).await;
        history.write_map(0).await;
    }
    history
}

#[tokio::test]
async fn what_was_dropped_goes_after_the_grace_and_not_before() {
    let mut history = aged(7).await;
    let before = history.points(0).await;
    let report = history.collect_with(&ONLY_THE_NEWEST, HOUR).await.unwrap();
    assert_eq!((report.points, report.dropped_points), (1, u64::try_from(before.len()).unwrap() - 1));
    assert!(report.doomed.objects > 1 && report.deleted == Count::default(), "{report:?}");
    assert_eq!(history.points(0).await, vec![before.last().unwrap().clone()], "a dropped point is offered no more");
    // Whoever had it open goes on reading within the grace.
    let view = PointView::open(history.bench.vault.clone(), history.bench.group, &before[2]).await.unwrap();
    assert!(same(&Bench::content(&view).await, history.model(before[2].id)));

    history.pass(HOUR / 2);
    let report = history.collect_with(&ONLY_THE_NEWEST, HOUR).await.unwrap();
    assert!(report.waiting.objects > 1 && report.deleted == Count::default(), "{report:?}");
    history.pass(HOUR / 2);
    let report = history.collect_with(&ONLY_THE_NEWEST, HOUR).await.unwrap();
    assert!(report.deleted.objects > 1 && report.rescued == Count::default(), "{report:?}");
    history.check(true).await.unwrap();
    let error = find_point(&history.bench.vault, history.bench.group, before[2].id).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn a_dry_run_changes_nothing_and_says_the_same() {
    let mut history = aged(8).await;
    let before = history.objects().await;
    let dry = GcSettings {
        retention: ONLY_THE_NEWEST.clone(),
        grace: Duration::ZERO,
        dry_run: true,
        ..GcSettings::default()
    };
    let report = history.run(&dry).await.unwrap();
    assert_eq!(history.objects().await, before);
    let real = history.collect_with(&ONLY_THE_NEWEST, HOUR).await.unwrap();
    assert_eq!((real.total, real.needed, real.dropped_points), (report.total, report.needed, report.dropped_points));
}

#[tokio::test]
async fn a_pin_keeps_its_point_until_it_is_taken_back_or_over() {
    let mut history = aged(9).await;
    let (vault, group) = (history.bench.vault.clone(), history.bench.group);
    let points = history.points(0).await;
    let (kept, timed) = (points[1].id, points[4].id);
    let good = Pin { until: None, reason: "audit".to_owned() };
    assert!(pin(&vault, group, kept, gateway(1), &good).await.unwrap().pinned);
    let until = Some(history.now() + 2 * HOUR.as_secs());
    let until = until.map(|seconds| Timestamp::from_micros(i64::try_from(seconds).unwrap() * 1_000_000));
    pin(&vault, group, timed, gateway(1), &Pin { until, reason: String::new() }).await.unwrap();
    relabel(&vault, group, kept, gateway(2), "before the upgrade").await.unwrap();
    for _ in 0..4 {
        history.collect_with(&ONLY_THE_NEWEST, Duration::ZERO).await.unwrap();
    }
    let listed = history.points(0).await;
    assert_eq!(
        listed.iter().map(|point| (point.id, point.pinned)).collect::<Vec<_>>(),
        vec![(kept, true), (timed, true), (points.last().unwrap().id, false)]
    );
    assert_eq!(listed[0].label, "before the upgrade");
    history.check(true).await.unwrap();

    history.pass(3 * HOUR);
    unpin(&vault, group, kept, gateway(1)).await.unwrap();
    for _ in 0..4 {
        history.collect_with(&ONLY_THE_NEWEST, Duration::ZERO).await.unwrap();
    }
    assert_eq!(history.points(0).await.len(), 1);
    history.check(true).await.unwrap();
    assert!(!history.objects().await.iter().any(|key| key.contains("/marks/")), "marks of dropped points stay behind");
    let error = pin(&vault, group, kept, gateway(1), &good).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
}

/// A fork or a pin that comes at any moment of a collection: either it is refused, or its point stays exact for ever.
#[tokio::test]
async fn a_fork_or_a_pin_at_any_moment_of_a_collection_is_refused_or_safe() {
    let (mut refused, mut held) = (0, 0);
    for pins in [false, true] {
        for moment in (1..).step_by(9) {
            let mut history = aged(10).await;
            let point = history.points(0).await[3].clone();
            let (vault, group) = (history.bench.vault.clone(), history.bench.group);
            let branch = BranchId::from_bytes([77; 16]);
            let outcome = Arc::new(std::sync::Mutex::new(None));
            let (told, chosen) = (Arc::clone(&outcome), point.clone());
            history.bench.hook.before(moment, async move {
                let done = if pins {
                    pin(&vault, group, chosen.id, gateway(3), &Pin { until: None, reason: String::new() })
                        .await
                        .map(drop)
                } else {
                    let open = Open::New { origin: Some(Origin { at: chosen.position(), point: Some(chosen.id) }) };
                    let settings = crate::ship::ShipSettings::default();
                    let opened = BranchWriter::open(&vault, group, branch, gateway(3), open, settings).await;
                    opened.map(drop).map_err(EngineError::from)
                };
                *told.lock().unwrap() = Some(done);
            });
            for _ in 0..3 {
                history.collect_with(&ONLY_THE_NEWEST, Duration::ZERO).await.unwrap();
            }
            if history.bench.hook.waiting() {
                break;
            }
            let outcome = outcome.lock().unwrap().take().expect("the hook ran");
            match outcome {
                Ok(()) => {
                    held += 1;
                    for _ in 0..3 {
                        history.collect_with(&ONLY_THE_NEWEST, Duration::ZERO).await.unwrap();
                    }
                    let view = PointView::open(history.bench.vault.clone(), group, &point).await;
                    let view = view.unwrap_or_else(|error| panic!("pins {pins}, moment {moment}: {error}"));
                    assert!(
                        same(&Bench::content(&view).await, history.model(point.id)),
                        "pins {pins}, moment {moment}"
                    );
                }
                Err(error) => {
                    refused += 1;
                    assert_eq!(error.kind(), ErrorKind::NotFound, "pins {pins}, moment {moment}: {error}");
                    let branches = list_branches(&history.bench.vault, group).await.unwrap();
                    assert!(branches.iter().all(|info| info.id != branch), "a refused fork is listed");
                }
            }
            history.check(false).await.unwrap_or_else(|what| panic!("pins {pins}, moment {moment}: {what}"));
        }
    }
    assert!(refused > 1 && held > 1, "{refused} refused, {held} held");
}

/// The store fails once, at any request, in every way; then the collector dies there for good and another one goes on.
#[tokio::test]
async fn a_fault_at_any_request_harms_nothing_and_the_next_run_goes_on() {
    for effect in [Effect::FailBefore, Effect::FailAfter] {
        for request in (1..).step_by(6) {
            let mut history = aged(11).await;
            history.collect_with(&ONLY_THE_NEWEST, Duration::ZERO).await.unwrap();
            history.bench.faults.reset_counts();
            history.bench.faults.inject(Rule::new(effect).at_request(request).times(1));
            let first = history.collect_with(&ONLY_THE_NEWEST, Duration::ZERO).await;
            let made = history.bench.faults.counts().total();
            history.bench.faults.clear();
            if let Err(error) = &first {
                assert_eq!(error.kind(), ErrorKind::Retry, "{effect:?} at {request}: {error}");
            }
            history.check(false).await.unwrap_or_else(|what| panic!("{effect:?} at {request}: {what}"));
            for _ in 0..3 {
                history.collect_with(&ONLY_THE_NEWEST, Duration::ZERO).await.unwrap();
            }
            history.check(true).await.unwrap_or_else(|what| panic!("{effect:?} at {request}: {what}"));
            assert!(history.waste().await < 3, "{effect:?} at {request}: garbage stays behind");
            if made < request {
                break;
            }
        }
    }
}

#[tokio::test]
async fn two_collectors_at_once_do_no_more_than_one() {
    for moment in [3, 9, 15, 25, 40, 60] {
        let mut history = aged(12).await;
        history.collect_with(&ONLY_THE_NEWEST, Duration::ZERO).await.unwrap();
        beside_another(history, moment).await;
    }
}

/// A whole collection, and one more, at a moment of another. False if that was over before.
async fn beside_another(mut history: History, moment: u64) -> bool {
    let (vault, group, runner) = (history.bench.vault.clone(), history.bench.group, history.runner());
    let settings = history.settings(&ONLY_THE_NEWEST, Duration::ZERO);
    history.bench.hook.before(moment, async move {
        for _ in 0..2 {
            run(&vault, group, runner, &settings, &mut Memory::default()).await.map(drop).unwrap_or_default();
        }
    });
    match history.collect_with(&ONLY_THE_NEWEST, Duration::ZERO).await {
        Ok(_) => {}
        Err(error) => assert_eq!(error.kind(), ErrorKind::Retry, "{error}"),
    }
    let ran = !history.bench.hook.waiting();
    history.check(true).await.unwrap_or_else(|what| panic!("moment {moment}: {what}"));
    for _ in 0..3 {
        history.collect_with(&ONLY_THE_NEWEST, Duration::ZERO).await.unwrap();
    }
    history.check(true).await.unwrap_or_else(|what| panic!("moment {moment}: {what}"));
    ran
}

#[tokio::test]
async fn a_collector_that_wakes_up_late_deletes_nothing_needed() {
    for moment in (1..400).step_by(29) {
        if !stalled(aged(13).await, moment).await {
            break;
        }
    }
}

/// A collector stalls at a moment, and the world goes on without it: points, maps, a fork, other collectors, a takeover. False if
/// the collection was over before.
async fn stalled(history: History, moment: u64) -> bool {
    let history = Arc::new(tokio::sync::Mutex::new(history));
    let (bench, runner, settings) = {
        let mut history = history.lock().await;
        history.collect_with(&ONLY_THE_NEWEST, Duration::ZERO).await.unwrap();
        (history.bench.clone(), history.runner(), history.settings(&ONLY_THE_NEWEST, Duration::ZERO))
    };
    let inner = Arc::clone(&history);
    bench.hook.before(moment, async move {
        let mut history = inner.lock().await;
        history.ship(0, 4).await;
        history.fork(0).await;
        history.write_map(0).await;
        history.collect_with(&ONLY_THE_NEWEST, Duration::ZERO).await.unwrap();
        history.take_over(0).await;
        history.ship(0, 3).await;
        history.write_map(0).await;
        for _ in 0..3 {
            history.collect_with(&ONLY_THE_NEWEST, Duration::ZERO).await.unwrap();
        }
    });
    let result = run(&bench.vault, bench.group, runner, &settings, &mut Memory::default()).await;
    if bench.hook.waiting() {
        return false;
    }
    if let Err(error) = result {
        let expected = matches!(error.kind(), ErrorKind::Retry | ErrorKind::Fenced | ErrorKind::Tampered);
        assert!(expected, "moment {moment}: {error}");
    }
    let mut history = history.lock().await;
    history.check(true).await.unwrap_or_else(|what| panic!("moment {moment}: {what}"));
    for _ in 0..2 {
        history.collect_with(&ONLY_THE_NEWEST, Duration::ZERO).await.unwrap();
        history.check(true).await.unwrap_or_else(|what| panic!("moment {moment}: {what}"));
    }
    true
}

#[tokio::test]
async fn a_store_that_denies_deletes_costs_space_and_nothing_else() {
    let mut history = aged(14).await;
    history.bench.faults.inject(Rule::new(Effect::Forbidden).on(OpKind::Delete));
    for _ in 0..3 {
        history.collect_with(&ONLY_THE_NEWEST, Duration::ZERO).await.unwrap();
        history.check(true).await.unwrap();
    }
    let report = history.collect_with(&ONLY_THE_NEWEST, Duration::ZERO).await.unwrap();
    assert!(report.denied.objects > 1 && report.deleted == Count::default(), "{report:?}");
    history.bench.faults.clear();
    let report = history.collect_with(&ONLY_THE_NEWEST, Duration::ZERO).await.unwrap();
    assert!(report.deleted.objects > 1 && report.denied == Count::default(), "{report:?}");
    history.check(true).await.unwrap();
}

#[tokio::test]
async fn a_branch_that_was_given_up_goes_as_a_whole_and_nothing_of_its_parent_does() {
    let mut history = aged(15).await;
    let fork = history.fork(0).await;
    history.ship(fork, 7).await;
    let branch = history.branch(fork);
    let (vault, group) = (history.bench.vault.clone(), history.bench.group);
    drop_branch(&vault, group, branch, gateway(1)).await.unwrap();
    drop_branch(&vault, group, branch, gateway(2)).await.unwrap();
    let error = list_points(&vault, group, branch).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.to_string().contains("given up"), "{error}");
    let error = history.bench.open_on(branch, gateway(1), Open::Continue).await.unwrap_err();
    assert!(error.to_string().contains("given up"), "{error}");
    let parent = history.branch(0);
    let error = drop_branch(&vault, group, parent, gateway(1)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    history.forget(fork);
    for _ in 0..6 {
        history.collect(Duration::ZERO).await.unwrap();
        history.check(true).await.unwrap();
    }
    let left: Vec<String> =
        history.objects().await.into_iter().filter(|key| key.contains(&branch.to_string())).collect();
    assert!(left.is_empty(), "{left:?}");
}

#[tokio::test]
async fn a_fenced_gateway_collects_nothing() {
    let mut history = aged(16).await;
    let stale = history.runner();
    history.take_over(0).await;
    let (settings, bench) = (settings(Duration::ZERO), history.bench.clone());
    let error = run(&bench.vault, bench.group, stale, &settings, &mut Memory::default()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Fenced);
}

#[tokio::test]
async fn the_end_of_a_log_is_known_when_its_last_segments_are_gone() {
    let mut history = aged(17).await;
    for _ in 0..3 {
        history.collect_with(&ONLY_THE_NEWEST, Duration::ZERO).await.unwrap();
    }
    let end = log_end(&history.bench.vault, history.bench.group, history.branch(0)).await.unwrap();
    assert_eq!(end.lsn, history.lsn(0));
    history.take_over(0).await;
    history.ship(0, 2).await;
    history.check(true).await.unwrap();
}

#[tokio::test]
async fn a_check_of_the_vault_takes_nothing_that_was_collected_for_damage() {
    let mut history = aged(19).await;
    for _ in 0..3 {
        history.collect_with(&ONLY_THE_NEWEST, Duration::ZERO).await.unwrap();
    }
    assert!(history.deleted > 0);
    let options = crate::check::CheckOptions { read_data: true, ..Default::default() };
    let report = crate::check::check_vault(&history.bench.vault, &[], &options, &Arc::default()).await;
    assert!(report.sound && report.complete, "{report:?}");
}

/// What collecting left is needed, and a check says so of each object that goes missing.
#[tokio::test]
async fn an_object_that_is_needed_and_gone_is_noticed_by_a_check_of_the_vault() {
    let mut history = aged(20).await;
    let fork = history.fork_at(0, 2).await;
    history.ship(fork, 2).await;
    for _ in 0..3 {
        history.collect_with(&ONLY_THE_NEWEST, Duration::ZERO).await.unwrap();
    }
    let store = Arc::clone(history.bench.vault.store());
    let options = crate::check::CheckOptions { read_data: true, ..Default::default() };
    let mut noticed = 0;
    let objects = history.objects().await;
    for key in objects.iter().filter(|key| key.contains("/log/") || key.contains("/map/")).step_by(2) {
        let bytes = store.get(key, 1 << 30).await.unwrap();
        store.delete(key).await.unwrap();
        let unreadable = history.check(true).await.is_err();
        let report = crate::check::check_vault(&history.bench.vault, &[], &options, &Arc::default()).await;
        assert!(report.complete, "{key}: {report:?}");
        if unreadable {
            assert!(!report.sound, "{key} is gone, a point can't be read, and the check found nothing");
            noticed += 1;
        }
        store.create(key, bytes).await.unwrap();
    }
    assert!(noticed > 2, "only {noticed} objects were needed");
    history.check(true).await.unwrap();
}

/// Troubles that a store can have with a request.
const TROUBLES: [Effect; 9] = [
    Effect::FailBefore,
    Effect::TimeoutAfter,
    Effect::Forbidden,
    Effect::FailAfter,
    Effect::Missing,
    Effect::Throttle,
    Effect::Truncate,
    Effect::TimeoutBefore,
    Effect::Corrupt,
];

/// Every request of a collection that deletes, decides and finds what to carry meets a trouble: once, and then from there on
/// until the collector has given up. Each trouble has its turn. Every point that is offered reads right after that, and the
/// next collections finish the work.
#[tokio::test]
async fn any_trouble_at_every_request_once_or_for_good_harms_no_point() {
    for lasting in [false, true] {
        let mut troubles = TROUBLES.iter().cycle();
        for request in 1.. {
            let effect = *troubles.next().expect("endless");
            let mut history = History::new(21).await;
            for _ in 0..3 {
                history.ship(0, 3).await;
                history.write_map(0).await;
            }
            history.collect_with(&ONLY_THE_NEWEST, Duration::ZERO).await.unwrap();
            history.bench.faults.reset_counts();
            let rule = Rule::new(effect);
            history.bench.faults.inject(if lasting { rule.nth(request) } else { rule.at_request(request) });
            let outcome = history.collect_with(&ONLY_THE_NEWEST, Duration::ZERO).await;
            let made = history.bench.faults.counts().total();
            history.bench.faults.clear();
            let what = format!("{effect:?} at {request}, lasting {lasting}, which gave {outcome:?}");
            history.check(true).await.unwrap_or_else(|found| panic!("{what}: {found}"));
            for _ in 0..3 {
                history
                    .collect_with(&ONLY_THE_NEWEST, Duration::ZERO)
                    .await
                    .unwrap_or_else(|found| panic!("{what}: {found}"));
            }
            history.check(true).await.unwrap_or_else(|found| panic!("{what}: {found}"));
            assert!(history.waste().await < 3, "{what}: garbage stays behind");
            if made < request {
                break;
            }
        }
    }
}

/// Listing is a handful of requests, however many points there are.
#[tokio::test]
async fn ten_thousand_points_are_listed_with_a_handful_of_requests() {
    let mut history = History::new(18).await;
    history.ship(0, 2).await;
    history.many_points(0, 10_000).await;
    history.write_map(0).await;
    let reader = Reader::open(&history.bench.vault, history.bench.group, ReaderLimits::default()).await.unwrap();
    history.collect_with(&history::everything(), Duration::ZERO).await.unwrap();
    history.bench.faults.reset_counts();
    let listed = crate::points::list_points_with(&reader, history.branch(0)).await.unwrap();
    assert!(listed.len() >= 10_000);
    let counts = history.bench.faults.counts();
    assert!(counts.total() <= 20, "{counts:?}");
}
