//! Rebuilding: every byte stays what it was, through faults, other collectors, stalls, forks and pins at every moment, and
//! planted bugs are noticed.

use lifeboat_vault::Store;

use super::history::EAGERLY;
use super::*;

/// As [`aged`], with rebuilding of whatever has a dead block.
async fn eager(seed: u64) -> History {
    let mut history = aged(seed).await;
    history.rebuild = EAGERLY;
    history
}

/// Rebuilt segments in the vault: name, generation.
async fn rebuilt_there(history: &History) -> Vec<String> {
    history.objects().await.into_iter().filter(|key| key.contains("/rebuilt/")).collect()
}

/// Bytes of rebuilt segments.
async fn rebuilt_bytes(history: &History) -> u64 {
    let objects = history.bench.vault.store().list("groups").await.unwrap();
    objects.iter().filter(|object| object.key.contains("/rebuilt/")).map(|object| object.size).sum()
}

/// Collections without grace until nothing is left to do.
async fn settle(history: &mut History) {
    for _ in 0..3 {
        history.collect_with(&ONLY_THE_NEWEST, Duration::ZERO).await.unwrap();
    }
}

#[tokio::test]
async fn random_histories_stay_exact_while_everything_sparse_is_rebuilt() {
    let mut rebuilt = 0;
    for (seed, grace) in [(51, Duration::ZERO), (52, HOUR / 4), (53, Duration::ZERO)] {
        let mut history = History::new(seed).await;
        history.rebuild = EAGERLY;
        for step in 0..24 {
            history.step().await;
            history.collect(grace).await.unwrap_or_else(|error| panic!("seed {seed}, step {step}: {error}"));
            history.check(step == 23).await.unwrap_or_else(|what| panic!("seed {seed}, step {step}: {what}"));
        }
        rebuilt += history.rebuilt;
        let options = crate::check::CheckOptions { read_data: true, ..Default::default() };
        let report = crate::check::check_vault(&history.bench.vault, &[], &options, &Arc::default()).await;
        assert!(report.sound && report.complete, "seed {seed}: {report:?}");
    }
    assert!(rebuilt > 10, "{rebuilt} segments were rebuilt");
}

/// A segment goes the usual way: doomed once its rebuilt one was read back, deleted after the grace and not before. Whoever has
/// a dropped point open reads on for that long, and whoever reads a kept one at any time.
#[tokio::test]
async fn a_segment_goes_after_the_grace_and_readers_go_on_with_what_was_rebuilt() {
    let mut history = eager(30).await;
    history.pass(HOUR);
    let points = history.points(0).await;
    let (old, newest) = (points[2].clone(), points.last().unwrap().clone());
    let (vault, group) = (history.bench.vault.clone(), history.bench.group);
    let before = history.objects().await;
    let report = history.collect_with(&ONLY_THE_NEWEST, HOUR).await.unwrap();
    assert!(report.rebuilt.objects > 2 && report.to_rebuild.objects >= report.rebuilt.objects, "{report:?}");
    let segments = |keys: &[String]| keys.iter().filter(|key| key.contains("/log/")).count();
    let dropped = PointView::open(vault.clone(), group, &old).await.unwrap();
    // This one has every index in memory when its segments go.
    let kept = PointView::open(vault.clone(), group, &newest).await.unwrap();
    assert!(same(&Bench::content(&kept).await, history.model(newest.id)));
    history.pass(HOUR / 2);
    history.collect_with(&ONLY_THE_NEWEST, HOUR).await.unwrap();
    assert!(same(&Bench::content(&dropped).await, history.model(old.id)), "within the grace nothing is gone");
    history.pass(HOUR / 2);
    let report = history.collect_with(&ONLY_THE_NEWEST, HOUR).await.unwrap();
    assert!(report.deleted.objects > 2, "{report:?}");
    let reader = Reader::open(&vault, group, ReaderLimits { frame_bytes: 0, ..Default::default() }).await.unwrap();
    let fresh = PointView::open_point(&reader, &newest).await.unwrap();
    for view in [kept, fresh] {
        assert!(same(&Bench::content(&view).await, history.model(newest.id)));
    }
    history.check(true).await.unwrap();
    let after = history.objects().await;
    assert!(segments(&after) * 2 < segments(&before), "{after:?}");
}

/// No writer is needed: pins, forks and points of a branch that nobody writes are rebuilt like any.
#[tokio::test]
async fn what_only_a_pin_or_a_fork_needs_is_rebuilt_in_an_idle_group() {
    let mut history = eager(31).await;
    let fork = history.fork_at(0, 2).await;
    history.pin(0, 5).await;
    for _ in 0..4 {
        history.collect_with(&ONLY_THE_NEWEST, Duration::ZERO).await.unwrap();
        history.check(true).await.unwrap();
    }
    assert!(history.rebuilt > 4 && !rebuilt_there(&history).await.is_empty());
    // What is dropped later goes too, rebuilt or not.
    let before = rebuilt_bytes(&history).await;
    let branch = history.branch(fork);
    drop_branch(&history.bench.vault, history.bench.group, branch, gateway(1)).await.unwrap();
    history.forget(fork);
    settle(&mut history).await;
    history.check(true).await.unwrap();
    assert!(rebuilt_bytes(&history).await < before);
}

#[tokio::test]
async fn one_run_does_a_bounded_part_and_the_next_ones_the_rest() {
    let mut whole = eager(32).await;
    settle(&mut whole).await;
    let mut history = eager(32).await;
    history.rebuild.segments_max = 1;
    let mut runs = 0;
    loop {
        let report = history.collect_with(&ONLY_THE_NEWEST, Duration::ZERO).await.unwrap();
        assert!(report.rebuilt.objects <= 1);
        history.check(true).await.unwrap();
        runs += 1;
        if !report.unfinished && report.rebuilt.objects == 0 {
            break;
        }
    }
    settle(&mut history).await;
    assert!(runs > 3, "{runs} runs");
    assert_eq!(rebuilt_there(&history).await.len(), rebuilt_there(&whole).await.len());
}

/// What a collection rebuilds, the store loses, refuses or garbles, at each request: once, and then from there on until the
/// collector has given up. Every point that is offered reads right after that, and the next collections finish the work.
#[tokio::test]
async fn any_trouble_at_every_request_of_rebuilding_harms_no_point() {
    for lasting in [false, true] {
        let mut troubles = TROUBLES.iter().cycle();
        for request in (1..).step_by(if lasting { 3 } else { 2 }) {
            let effect = *troubles.next().expect("endless");
            let mut history = History::new(33).await;
            for _ in 0..2 {
                history.ship(0, 3).await;
                history.write_map(0).await;
            }
            history.rebuild = EAGERLY;
            history.collect_with(&ONLY_THE_NEWEST, Duration::ZERO).await.unwrap();
            history.ship(0, 2).await;
            history.write_map(0).await;
            history.bench.faults.reset_counts();
            let rule = Rule::new(effect);
            history.bench.faults.inject(if lasting { rule.nth(request) } else { rule.at_request(request) });
            let outcome = history.collect_with(&ONLY_THE_NEWEST, Duration::ZERO).await;
            let made = history.bench.faults.counts().total();
            history.bench.faults.clear();
            let what = format!("{effect:?} at {request}, lasting {lasting}, which gave {outcome:?}");
            history.check(true).await.unwrap_or_else(|found| panic!("{what}: {found}"));
            for _ in 0..4 {
                let done = history.collect_with(&ONLY_THE_NEWEST, Duration::ZERO).await;
                done.unwrap_or_else(|found| panic!("{what}: {found}"));
            }
            history.check(true).await.unwrap_or_else(|found| panic!("{what}: {found}"));
            let waste = history.waste().await;
            assert!(waste < 3, "{what}: {waste} objects stay behind: {:?}", history.objects().await);
            if made < request {
                let again = rebuilt_there(&history).await.iter().any(|key| key.ends_with("/000002"));
                assert!(again, "nothing was rebuilt twice");
                break;
            }
        }
    }
}

/// A fork or a pin at any moment of a collection that rebuilds, with a planted bug or without.
async fn with_late_needs(bug: Option<Planted>) -> Result<(), String> {
    let (mut held, mut refused) = (0, 0);
    for pins in [false, true] {
        for moment in (1..).step_by(13) {
            let mut history = eager(34).await;
            let point = history.points(0).await[3].clone();
            let (vault, group) = (history.bench.vault.clone(), history.bench.group);
            let outcome = Arc::new(std::sync::Mutex::new(None));
            let (told, chosen) = (Arc::clone(&outcome), point.clone());
            history.bench.hook.before(moment, async move {
                let done = if pins {
                    let forever = Pin { until: None, reason: String::new() };
                    pin(&vault, group, chosen.id, gateway(3), &forever).await.map(drop)
                } else {
                    let open = Open::New { origin: Some(Origin { at: chosen.position(), point: Some(chosen.id) }) };
                    let (branch, settings) = (BranchId::from_bytes([77; 16]), crate::ship::ShipSettings::default());
                    let opened = BranchWriter::open(&vault, group, branch, gateway(3), open, settings).await;
                    opened.map(drop).map_err(EngineError::from)
                };
                *told.lock().unwrap() = Some(done);
            });
            PLANTED.set(bug);
            for _ in 0..5 {
                let done = history.collect_with(&ONLY_THE_NEWEST, Duration::ZERO).await;
                done.map_err(|error| format!("collecting: {error}"))?;
            }
            PLANTED.set(None);
            if history.bench.hook.waiting() {
                break;
            }
            let outcome = outcome.lock().unwrap().take().expect("the hook ran");
            match outcome {
                Ok(()) => {
                    held += 1;
                    let vault = history.bench.vault.clone();
                    let view = PointView::open(vault, group, &point).await.map_err(|error| error.to_string())?;
                    for volume in view.volumes() {
                        view.read_blocks(volume.id, 0, u64::MAX).await.map_err(|error| error.to_string())?;
                    }
                    if !same(&Bench::content(&view).await, history.model(point.id)) {
                        return Err(format!("pins {pins}, moment {moment}: the point is not what was written"));
                    }
                }
                Err(error) => {
                    refused += 1;
                    assert_eq!(error.kind(), ErrorKind::NotFound, "pins {pins}, moment {moment}: {error}");
                }
            }
            history.check(false).await?;
        }
    }
    assert!(refused > 1 && held > 1, "{refused} refused, {held} held");
    Ok(())
}

#[tokio::test]
async fn a_fork_or_a_pin_at_any_moment_of_rebuilding_is_refused_or_has_every_block() {
    assert_eq!(with_late_needs(None).await, Ok(()));
    assert!(with_late_needs(Some(Planted::TrustsRebuilt)).await.is_err(), "rebuilt ones lacked blocks, unnoticed");
}

/// What is replayed is needed as a whole; and what stands for a segment must not go on account of it.
#[tokio::test]
async fn planted_bugs_of_rebuilding_are_caught() {
    for bug in [None, Some(Planted::RebuildsReplayed), Some(Planted::ForgetsTheOrder)] {
        let mut history = eager(35).await;
        history.pass(HOUR);
        // Replayed from the map before it, while newer maps name blocks of it.
        for number in (1..history.points(0).await.len()).step_by(2) {
            history.pin(0, number).await;
        }
        PLANTED.set(bug);
        let mut done = Ok(());
        // Intents of two runs are due in one.
        for time in [HOUR / 8, 2 * HOUR, HOUR / 8, 2 * HOUR] {
            done = done.and(history.collect_with(&ONLY_THE_NEWEST, HOUR).await.map(drop));
            history.pass(time);
        }
        PLANTED.set(None);
        let found = match done {
            Ok(()) => history.check(true).await,
            Err(error) => Err(error.to_string()),
        };
        assert_eq!(found.is_err(), bug.is_some(), "{bug:?}: {found:?}");
    }
}

/// The store keeps something else than what it was given: that is noticed before anything is deleted for it.
#[tokio::test]
async fn what_does_not_read_back_stands_for_nothing() {
    for bug in [None, Some(Planted::ReadsNothingBack)] {
        let mut history = eager(36).await;
        history.rebuild.segments_max = 1;
        history.bench.faults.reset_counts();
        let mut trial = eager(36).await;
        trial.rebuild.segments_max = 1;
        trial.bench.faults.reset_counts();
        trial.collect_with(&ONLY_THE_NEWEST, Duration::ZERO).await.unwrap();
        let requests = trial.bench.faults.requests();
        let created =
            requests.iter().position(|request| request.op == OpKind::Create && request.key.contains("/rebuilt/"));
        let after = u64::try_from(created.expect("one was rebuilt")).unwrap() + 2;
        let store = Arc::clone(history.bench.vault.store());
        history.bench.hook.before(after, async move { garble(&*store).await });
        PLANTED.set(bug);
        for _ in 0..3 {
            history.collect_with(&ONLY_THE_NEWEST, Duration::ZERO).await.unwrap();
        }
        PLANTED.set(None);
        assert_eq!(history.check(true).await.is_err(), bug.is_some(), "{bug:?}");
    }
}

/// Flips a bit in a frame of each rebuilt segment.
async fn garble(store: &dyn Store) {
    for object in store.list("groups").await.unwrap().iter().filter(|object| object.key.contains("/rebuilt/")) {
        let mut bytes = store.get(&object.key, 1 << 30).await.unwrap().to_vec();
        bytes[lifeboat_format::rebuilt::REBUILT_HEADER_LEN + 3] ^= 1;
        store.delete(&object.key).await.unwrap();
        store.create(&object.key, bytes.into()).await.unwrap();
    }
}

#[tokio::test]
async fn two_collectors_that_rebuild_at_once_do_no_more_than_one() {
    for moment in (3..).step_by(17) {
        let mut history = eager(37).await;
        history.collect_with(&ONLY_THE_NEWEST, Duration::ZERO).await.unwrap();
        history.ship(0, 2).await;
        history.write_map(0).await;
        if !beside_another(history, moment).await {
            break;
        }
    }
}

#[tokio::test]
async fn a_collector_that_wakes_up_late_while_rebuilding_harms_nothing() {
    for moment in (1..).step_by(31) {
        if !stalled(eager(38).await, moment).await {
            break;
        }
    }
}

/// A check of the vault takes nothing that was rebuilt for damage, and says of each rebuilt one that is gone or damaged.
#[tokio::test]
async fn a_check_of_the_vault_knows_rebuilt_segments() {
    let mut history = eager(39).await;
    let fork = history.fork_at(0, 6).await;
    history.ship(fork, 2).await;
    settle(&mut history).await;
    let store = Arc::clone(history.bench.vault.store());
    let options = crate::check::CheckOptions { read_data: true, ..Default::default() };
    let vault = history.bench.vault.clone();
    let check = || async { crate::check::check_vault(&vault, &[], &options, &Arc::default()).await };
    let report = check().await;
    assert!(report.sound && report.complete, "{report:?}");
    let all = rebuilt_there(&history).await;
    assert!(all.len() > 2);
    for key in &all {
        let bytes = store.get(key, 1 << 30).await.unwrap();
        let mut damaged = bytes.to_vec();
        damaged[lifeboat_format::rebuilt::REBUILT_HEADER_LEN + 3] ^= 1;
        for other in [None, Some(damaged)] {
            store.delete(key).await.unwrap();
            if let Some(other) = other {
                store.create(key, other.into()).await.unwrap();
            }
            let report = check().await;
            assert!(!report.sound && report.complete, "{key}: {report:?}");
            assert!(report.damage.iter().any(|damage| !damage.costs.is_empty()), "{key}: {report:?}");
            assert!(history.check(true).await.is_err(), "{key} is needed");
        }
        store.delete(key).await.unwrap();
        store.create(key, bytes).await.unwrap();
    }
    let report = check().await;
    assert!(report.sound && report.complete, "{report:?}");
    history.check(true).await.unwrap();
}
