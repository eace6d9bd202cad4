//! Lists and intents that were damaged in the vault: told by a check, put right by a repair, and no point lost by it.

use bytes::Bytes;

use super::history::EAGERLY;
use super::*;
use crate::check::{CheckOptions, CheckProgress, check_vault};
use crate::points::PointInfo;
use crate::segments::names;

/// Changes a byte of an object.
async fn spoil(history: &History, key: &str) {
    let store = history.bench.vault.store();
    let mut bytes = store.get(key, 1 << 20).await.unwrap().to_vec();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 4;
    store.delete(key).await.unwrap();
    store.create(key, Bytes::from(bytes)).await.unwrap();
}

async fn below(history: &History, prefix: &str) -> Vec<String> {
    let found = history.bench.vault.store().list(prefix).await.unwrap();
    found.into_iter().map(|object| object.key).collect()
}

async fn found_by_a_check(history: &History) -> Vec<(&'static str, bool)> {
    let progress = Arc::new(CheckProgress::default());
    let report = check_vault(&history.bench.vault, &[], &CheckOptions::default(), &progress).await;
    let repairable = report.repairable().contains(&history.bench.group);
    report.damage.iter().map(|damage| (damage.kind, repairable)).collect()
}

/// A history of which much was dropped and deleted, with a fork and a pin.
async fn collected() -> History {
    collected_with(RebuildRule::default()).await
}

async fn collected_with(rebuild: RebuildRule) -> History {
    let mut history = aged(10).await;
    history.rebuild = rebuild;
    history.pin(0, 3).await;
    let fork = history.fork_at(0, 5).await;
    history.ship(fork, 2).await;
    for _ in 0..4 {
        history.ship(0, 4).await;
        history.write_map(0).await;
        history.pass(Duration::from_secs(50));
        history.collect(Duration::ZERO).await.unwrap();
    }
    assert!(history.deleted > 0);
    history
}

#[tokio::test]
async fn a_damaged_list_of_kept_points_is_written_anew_and_offers_every_point_that_is_there() {
    for (with_older, rule) in
        [(true, RebuildRule::default()), (false, RebuildRule::default()), (true, EAGERLY), (false, EAGERLY)]
    {
        let mut history = collected_with(rule).await;
        assert_eq!(history.rebuilt > 0, rule == EAGERLY);
        let group = history.bench.group;
        let before = history.points(0).await;
        let prefix = names::kept(group);
        let mut lists = below(&history, &prefix).await;
        let newest = lists.pop().unwrap();
        if with_older {
            // The list that comes after it, equal to it but for its number.
            history.ship(0, 2).await;
            let reader = Reader::open(&history.bench.vault, group, ReaderLimits::default()).await.unwrap();
            let world = World::read(&reader, true).await.unwrap();
            let positions = world.positions(&reader, &settings(Duration::ZERO), reader.vault().now()).await.unwrap();
            let revision = world.kept.next_revision();
            kept::write(&reader, revision, reader.vault().now(), positions.to_kept(&[])).await.unwrap();
            spoil(&history, &names::kept_revision(group, revision)).await;
        } else {
            spoil(&history, &newest).await;
            for older in lists {
                history.bench.vault.store().delete(&older).await.unwrap();
            }
        }
        let error = list_points(&history.bench.vault, group, history.branch(0)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Tampered, "{error}");
        let found = found_by_a_check(&history).await;
        // Without the list, points that were dropped count as offered, and what they alone needed as lost.
        let alone = found.len() == 1 || rule == EAGERLY;
        assert!(found.contains(&("list of kept points", true)) && alone, "{found:?}");

        let repaired = repair(&history.bench.vault, group).await.unwrap();
        let list = repaired.list.expect("a list was written");
        assert_eq!(list.from.as_deref(), with_older.then_some(newest.as_str()));
        // Points whose blocks were left out of what was rebuilt had been dropped before.
        assert!(list.left_out.is_empty() || rule == EAGERLY, "{list:?}");
        assert_eq!(found_by_a_check(&history).await, []);
        let after = history.points(0).await;
        assert!(before.iter().all(|point| after.iter().any(|one| one.id == point.id)), "a point was lost");
        for point in &after {
            history.bench.check_point(point, history.model(point.id)).await;
        }
        // And collecting goes on as if nothing had been.
        for _ in 0..2 {
            history.ship(0, 3).await;
            history.collect(Duration::ZERO).await.unwrap();
            history.check(true).await.unwrap();
        }
    }
}

/// A point that needs what is gone is offered no more; one that needs what is damaged is.
#[tokio::test]
async fn points_of_which_objects_are_gone_are_left_out_and_damaged_ones_are_not() {
    for gone in [true, false] {
        let history = collected().await;
        let group = history.bench.group;
        let before = history.points(0).await;
        for list in below(&history, &names::kept(group)).await {
            spoil(&history, &list).await;
        }
        let log = below(&history, &names::log(group, history.branch(0))).await;
        if gone {
            history.bench.vault.store().delete(&log[0]).await.unwrap();
        } else {
            spoil(&history, &log[0]).await;
        }
        let list = repair(&history.bench.vault, group).await.unwrap().list.expect("a list was written");
        assert_eq!((list.from.clone(), list.left_out.is_empty()), (None, !gone), "{list:?}");
        let after = history.points(0).await;
        assert!(!after.iter().any(|point| list.left_out.contains(&point.id)));
        let kept = |point: &&PointInfo| !list.left_out.contains(&point.id);
        assert!(before.iter().filter(kept).all(|point| after.iter().any(|one| one.id == point.id)));
    }
}

#[tokio::test]
async fn a_damaged_intent_is_taken_away_and_its_garbage_found_again() {
    let mut history = collected().await;
    let group = history.bench.group;
    history.ship(0, 12).await;
    history.write_map(0).await;
    let report = history.collect_with(&ONLY_THE_NEWEST, HOUR).await.unwrap();
    assert!(report.doomed.objects > 0);
    let intent = below(&history, &names::delete_intents(group)).await.pop().unwrap();
    spoil(&history, &intent).await;
    let error = history.collect_with(&ONLY_THE_NEWEST, HOUR).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Tampered, "{error}");
    assert_eq!(found_by_a_check(&history).await, [("delete intent", true)]);
    let repaired = repair(&history.bench.vault, group).await.unwrap();
    assert_eq!((repaired.list, repaired.intents), (None, vec![intent]));
    assert_eq!(found_by_a_check(&history).await, []);
    let again = history.collect_with(&ONLY_THE_NEWEST, HOUR).await.unwrap();
    assert!(again.doomed.objects >= report.doomed.objects, "{again:?}");
    history.check(true).await.unwrap();
}

/// Nothing is written where nothing is damaged, and nothing at all where a point's own objects are: that is data.
#[tokio::test]
async fn a_repair_touches_nothing_else() {
    let history = collected().await;
    let objects = history.objects().await;
    let segment = objects.iter().find(|key| key.contains("/log/")).unwrap();
    spoil(&history, segment).await;
    let repaired = repair(&history.bench.vault, history.bench.group).await.unwrap();
    assert_eq!((repaired.list, repaired.intents.len()), (None, 0));
    assert_eq!(history.objects().await, objects);
}
