//! What a history looks like when keys change under it: new data keys, volumes whose keys are destroyed.

use std::collections::BTreeSet;

use lifeboat_model::SegmentId;

use super::*;
use crate::segments::Reader;

/// The data keys that the segments of the branch name for a volume, in order.
async fn keys_in_log(bench: &Bench, volume: VolumeId) -> Vec<u32> {
    let reader = Reader::open(&bench.vault, bench.group, ReaderLimits::default()).await.unwrap();
    let mut found = Vec::new();
    let log = format!("groups/{}/{}/log", bench.group, bench.branch);
    for object in bench.vault.store().list(&log).await.unwrap() {
        let (epoch, seq) = crate::segments::names::parse_segment(&object.key).unwrap();
        let segment = reader.segment(SegmentId { branch: bench.branch, epoch, seq }, None).await.unwrap();
        found.extend(segment.index.volumes.iter().filter(|entry| entry.volume == volume).map(|entry| entry.key));
    }
    found
}

#[tokio::test]
async fn points_are_exact_across_new_data_keys_and_a_running_writer_takes_them_up() {
    let bench = Bench::new().await;
    let mut script = Script::new(41);
    let (mut writer, _) = bench.open(gateway(1), NEW).await.unwrap();
    // A reader from before: it learns of the keys that it meets.
    let old = Reader::open(&bench.vault, bench.group, ReaderLimits::default()).await.unwrap();
    for round in 1..=4 {
        for _ in 0..4 {
            script.interval();
        }
        ship(&mut writer, &script).await.unwrap();
        assert_eq!(bench.vault.rotate_volume_key(volume(1), round).await.unwrap(), round + 1);
        if round == 2 {
            (writer, _) = bench.open(gateway(1), Open::Continue).await.unwrap();
        }
        let newest = bench.points().await.pop().unwrap();
        let view = PointView::open_point(&old, &newest).await.unwrap();
        assert!(same(&Bench::content(&view).await, script.at(newest.id)), "round {round}");
    }
    script.interval();
    ship(&mut writer, &script).await.unwrap();
    bench.check_points(&script, script.lsn).await;

    let named = keys_in_log(&bench, volume(1)).await;
    assert!(named.is_sorted(), "{named:?}");
    assert!(named.iter().collect::<BTreeSet<_>>().len() >= 4, "{named:?}");
    assert!(keys_in_log(&bench, volume(2)).await.iter().all(|key| *key == 1));
}

#[tokio::test]
async fn an_erased_volume_is_listed_as_such_and_the_others_stay_readable() {
    let bench = Bench::new().await;
    let mut script = Script::new(42).with(8);
    let (mut writer, _) = bench.open(gateway(1), NEW).await.unwrap();
    ship(&mut writer, &script).await.unwrap();
    let points = bench.points().await;
    let gone = volume(2);
    assert!(script.model.contains_key(&gone) && script.model.len() > 1);
    bench.vault.erase_volume(gone, "ann").await.unwrap();

    let mut seen = 0;
    for point in &points {
        let view = PointView::open(bench.vault.clone(), bench.group, point).await.unwrap();
        let mut expected = script.at(point.id).clone();
        let was_there = expected.remove(&gone).is_some();
        assert_eq!(view.erased().contains(&gone), was_there);
        assert!(same(&Bench::content(&view).await, &expected));
        assert!(view.volume(gone).is_none());
        let error = view.read_blocks(gone, 0, 1).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        if was_there {
            seen += 1;
            assert!(error.to_string().contains("was erased"), "{error}");
        }
    }
    assert!(seen > 0);

    // The writer goes on with the other volumes, and so does the one after it: no key is made anew.
    for again in 0..2 {
        for _ in 0..3 {
            script.interval();
        }
        ship(&mut writer, &script).await.unwrap();
        let newest = bench.points().await.pop().unwrap();
        let view = PointView::open(bench.vault.clone(), bench.group, &newest).await.unwrap();
        let mut expected = script.at(newest.id).clone();
        expected.remove(&gone);
        assert!(same(&Bench::content(&view).await, &expected), "{again}");
        for shown in view.volumes() {
            assert_eq!(shown.root, Some(bench.root(shown.id, &expected[&shown.id]).await));
        }
        (writer, _) = bench.open(gateway(1), Open::Continue).await.unwrap();
    }
    assert!(bench.vault.volume_keys(gone).await.is_err());
}
