//! Groups end to end over an in-memory vault and real files: write, ship, recover elsewhere, fail back, against a plain
//! byte array.

mod lab;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use lab::{Lab, PATIENCE, Random, SIZE, assert_same, content, scribble, until, volume};
use lifeboat_engine::points::{PointInfo, list_points};
use lifeboat_engine::{ErrorKind, Group, RehydrateMode, RetrySettings, VolumeSpec, branch};
use lifeboat_model::PointKind;
use lifeboat_model::state::{GroupState, Health};
use lifeboat_vault::{Effect, OpKind, Rule};

#[tokio::test(flavor = "multi_thread")]
async fn points_hold_what_was_written_and_a_restart_loses_nothing() {
    let lab = Lab::new().await;
    let mut random = Random(0x5eed_0001);
    let mut model = vec![0; SIZE];
    let mut group = lab.create().await;
    let mut points: Vec<(PointInfo, Vec<u8>)> = Vec::new();
    for round in 0..4 {
        scribble(&volume(&group, &lab), &mut model, &mut random, 60).await;
        let point = group.take_point(PointKind::Manual, &format!("round {round}")).await.expect("takes a point");
        points.push((point, model.clone()));
        scribble(&volume(&group, &lab), &mut model, &mut random, 10).await;
        assert_same(&content(&volume(&group, &lab)).await, &model, "before the restart");
        group.close(Duration::ZERO).await;
        group = Group::open(lab.config(lab.primary)).await.expect("opens again");
        assert_eq!(group.status().state, GroupState::Active);
        assert_same(&content(&volume(&group, &lab)).await, &model, "after the restart");
    }
    for (point, expected) in &points {
        assert_same(&lab.content_at(point).await, expected, &point.label);
    }
    let listed = list_points(&lab.vault, lab.group, group.status().branch).await.expect("lists");
    for (point, _) in &points {
        assert!(listed.iter().any(|one| one.id == point.id && one.label == point.label));
    }
    group.close(Duration::ZERO).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn failover_and_failback_forth_and_back_move_only_what_differs() {
    let lab = Lab::new().await;
    let mut random = Random(0x5eed_0002);
    let mut model = vec![0; SIZE];
    let primary = lab.create().await;
    scribble(&volume(&primary, &lab), &mut model, &mut random, 200).await;
    primary.take_point(PointKind::CrashConsistent, "").await.expect("a point");
    let at_point = model.clone();
    let branch = primary.status().branch;

    // The site is gone, with writes that never reached the vault.
    scribble(&volume(&primary, &lab), &mut model, &mut random, 5).await;
    let lost = model.clone();
    primary.close(Duration::ZERO).await;

    let recovery = lab.fail_over(branch, false).await;
    assert_same(&content(&volume(&recovery, &lab)).await, &at_point, "at the recovery site");
    let mut model = at_point;
    scribble(&volume(&recovery, &lab), &mut model, &mut random, 12).await;
    assert_same(&content(&volume(&recovery, &lab)).await, &model, "written at the recovery site");
    recovery.take_point(PointKind::CrashConsistent, "").await.expect("a point");

    // The primary returns: it may not write, and its own writes are kept.
    let primary = Group::open(lab.config(lab.primary)).await.expect("opens");
    assert_eq!(primary.status().state, GroupState::Fenced);
    let error = volume(&primary, &lab).write(0, Bytes::from_static(&[1; 4096])).await.expect_err("fenced");
    assert_eq!(error.kind(), ErrorKind::Fenced);
    assert_same(&content(&volume(&primary, &lab)).await, &lost, "still readable at the primary");

    let target = recovery.status().branch;
    let first = primary.rehydrate(target, RehydrateMode::Delta).await.expect("a first pass");
    let orphan = first.orphan.expect("the tail is kept");
    let orphaned = list_points(&lab.vault, lab.group, orphan).await.expect("lists").pop().expect("a point of the tail");
    assert_same(&lab.content_at(&orphaned).await, &lost, "the orphan branch");
    assert!(first.blocks_moved * 4096 < SIZE as u64 * 3 / 4, "{} blocks moved", first.blocks_moved);

    // One block more, while the recovery site is in use: that is all the second pass moves.
    volume(&recovery, &lab).write(4096 * 9, Bytes::from(vec![0xEE; 4096])).await.expect("writes");
    model[4096 * 9..4096 * 10].fill(0xEE);
    let released = recovery.release(PATIENCE).await.expect("releases");
    assert_eq!(released.kind, PointKind::Final);
    assert!(volume(&recovery, &lab).write(0, Bytes::from_static(&[1; 4096])).await.is_err(), "released: read-only");
    let second = primary.rehydrate(target, RehydrateMode::Delta).await.expect("a second pass");
    assert_eq!(second.blocks_moved, 1);
    primary.take_over().await.expect("takes over");
    assert_eq!(primary.status().state, GroupState::Active);
    assert_same(&content(&volume(&primary, &lab)).await, &model, "back at the primary");

    // And once more in the other direction, from the same directories.
    scribble(&volume(&primary, &lab), &mut model, &mut random, 20).await;
    primary.release(PATIENCE).await.expect("releases");
    recovery.rehydrate(target, RehydrateMode::Delta).await.expect("follows");
    recovery.take_over().await.expect("takes over");
    assert_same(&content(&volume(&recovery, &lab)).await, &model, "at the recovery site again");
    primary.close(Duration::ZERO).await;
    recovery.close(Duration::ZERO).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn storage_that_refuses_is_critical_at_once_and_asked_again_only_by_the_probe() {
    let lab = Lab::new().await;
    let mut config = lab.config(lab.primary);
    config.settings.retry = RetrySettings { pauses: vec![Duration::ZERO], probe: Duration::from_secs(3600) };
    let primary = Group::create(config, lab.specs()).await.expect("creates the group");
    primary.take_point(PointKind::Manual, "before").await.expect("a point");

    lab.store.inject(Rule::new(Effect::Forbidden).key(format!("groups/{}", lab.group)));
    lab.store.reset_counts();
    volume(&primary, &lab).write(0, Bytes::from(vec![7; 8192])).await.expect("writes go on");
    volume(&primary, &lab).flush().await.expect("and flushes");
    let error = primary.take_point(PointKind::Manual, "refused").await.expect_err("403");
    assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
    let status = primary.status();
    assert_eq!(status.health, Health::Critical, "{status:?}");
    assert!(status.reasons.iter().any(|reason| reason.contains("until somebody helps")), "{status:?}");
    let asked = lab.store.requests().len();
    assert!(asked <= 4, "{asked} requests to a storage that said no");

    // What failed for good is not asked for again in a hurry, whatever is written.
    volume(&primary, &lab).write(8192, Bytes::from(vec![8; 4096])).await.expect("writes go on");
    lab.store.clear();
    primary.close(Duration::ZERO).await;

    let primary = Group::open(lab.config(lab.primary)).await.expect("opens again, with permissions as they should be");
    primary.take_point(PointKind::Manual, "after").await.expect("a point");
    assert_eq!(primary.status().health, Health::Healthy);
    primary.close(Duration::ZERO).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_primary_that_lives_on_is_fenced_at_its_next_seal() {
    let lab = Lab::new().await;
    let primary = lab.create().await;
    volume(&primary, &lab).write(0, Bytes::from(vec![7; 8192])).await.expect("writes");
    primary.take_point(PointKind::CrashConsistent, "").await.expect("a point");
    let recovery = lab.fail_over(primary.status().branch, false).await;
    volume(&primary, &lab).write(0, Bytes::from(vec![8; 4096])).await.expect("it doesn't know yet");
    let error = primary.take_point(PointKind::CrashConsistent, "").await.expect_err("another gateway has the branch");
    assert_eq!(error.kind(), ErrorKind::Fenced);
    assert_eq!(primary.status().state, GroupState::Fenced);
    assert_eq!(primary.status().health, Health::Critical);
    assert!(volume(&primary, &lab).read_only());
    assert_eq!(volume(&recovery, &lab).read(0, 1).await.expect("reads")[..], [7]);
    primary.close(Duration::ZERO).await;
    recovery.close(Duration::ZERO).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_primary_finds_out_when_somebody_doubts_it() {
    let lab = Lab::new().await;
    let primary = lab.create().await;
    volume(&primary, &lab).write(0, Bytes::from(vec![7; 4096])).await.expect("writes");
    primary.doubt().expect("asks");
    // Commands are taken in order: when the point has landed, the doubt was settled before.
    primary.take_point(PointKind::CrashConsistent, "").await.expect("a point");
    let recovery = lab.fail_over(primary.status().branch, false).await;
    assert_eq!(primary.status().state, GroupState::Active, "nobody has told it yet");
    let deadline = std::time::Instant::now() + PATIENCE;
    while primary.status().state != GroupState::Fenced {
        assert!(std::time::Instant::now() < deadline, "it never finds out");
        let _ = primary.doubt();
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(volume(&primary, &lab).read_only());
    primary.close(Duration::ZERO).await;
    recovery.close(Duration::ZERO).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vault_that_was_rolled_back_is_noticed_at_the_next_start() {
    let lab = Lab::new().await;
    let group = lab.create().await;
    for byte in 1..4 {
        volume(&group, &lab).write(0, Bytes::from(vec![byte; 4096])).await.expect("writes");
        group.take_point(PointKind::CrashConsistent, "").await.expect("a point");
    }
    group.close(Duration::ZERO).await;
    let store = lab.vault.store();
    let segments = store.list("groups").await.expect("lists");
    let newest = segments
        .iter()
        .filter(|object| object.key.contains("/log/"))
        .max_by_key(|object| object.key.clone())
        .expect("segments");
    store.delete(&newest.key).await.expect("deletes");
    let error = Group::open(lab.config(lab.primary)).await.expect_err("a segment that had landed is gone");
    assert_eq!(error.kind(), ErrorKind::Tampered, "{error}");
    assert!(error.to_string().contains("rolled back"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_test_failover_disturbs_nobody() {
    let lab = Lab::new().await;
    let primary = lab.create().await;
    volume(&primary, &lab).write(4096, Bytes::from(vec![7; 4096])).await.expect("writes");
    primary.take_point(PointKind::CrashConsistent, "").await.expect("a point");
    let drill = lab.fail_over(primary.status().branch, true).await;
    volume(&drill, &lab).write(4096, Bytes::from(vec![9; 4096])).await.expect("writes");
    assert_eq!(volume(&primary, &lab).read(4096, 1).await.expect("reads")[..], [7]);
    primary.take_point(PointKind::CrashConsistent, "").await.expect("still the writer");
    assert_eq!(primary.status().state, GroupState::Active);
    let branches = branch::list_branches(&lab.vault, lab.group).await.expect("lists");
    assert_eq!(branches.len(), 2);
    drill.close(Duration::ZERO).await;
    Group::forget(&lab.config(lab.recovery).dir).await.expect("forgets");
    assert!(!Group::exists(&lab.config(lab.recovery).dir));
    primary.close(Duration::ZERO).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_crash_within_a_deletion_left_is_deleted_too() {
    let lab = Lab::new().await;
    let group = lab.create().await;
    volume(&group, &lab).write(4096, Bytes::from(vec![7; 4096])).await.expect("writes");
    group.close(Duration::ZERO).await;
    drop(group);
    let dir = lab.config(lab.primary).dir;
    std::fs::remove_file(dir.join("group.state")).expect("the state goes first");
    assert!(!Group::exists(&dir) && std::fs::read_dir(&dir).expect("lists").count() > 0);
    Group::forget(&dir).await.expect("forgets");
    assert!(!dir.exists());
    Group::forget(&dir).await.expect("nothing is left to do");
    assert!(!dir.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_vault_is_away_writes_go_on_and_everything_lands_later() {
    let lab = Lab::new().await;
    let mut random = Random(0x5eed_0003);
    let mut model = vec![0; SIZE];
    let group = lab.create().await;
    lab.store.inject(Rule::new(Effect::FailBefore).on(OpKind::Create));
    scribble(&volume(&group, &lab), &mut model, &mut random, 30).await;
    let waiting = {
        let group = Arc::clone(&group);
        tokio::spawn(async move { group.take_point(PointKind::Manual, "late").await })
    };
    let deadline = std::time::Instant::now() + PATIENCE;
    while group.status().health == Health::Healthy {
        assert!(std::time::Instant::now() < deadline, "the outage is never noticed");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(group.status().reasons[0].contains("writes go on"), "{:?}", group.status().reasons);
    scribble(&volume(&group, &lab), &mut model, &mut random, 3).await;
    lab.store.clear();
    let point = waiting.await.expect("joins").expect("lands after all");
    let newest = group.take_point(PointKind::Manual, "newest").await.expect("lands");
    assert_eq!(point.label, "late");
    assert_same(&lab.content_at(&newest).await, &model, "after the outage");
    assert_eq!(group.status().health, Health::Healthy);
    group.close(Duration::ZERO).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_group_sends_no_request() {
    let lab = Lab::new().await;
    let mut config = lab.config(lab.primary);
    config.settings.point_interval = Duration::from_millis(50);
    let spec = VolumeSpec { id: lab.volume, name: "db".into(), size_bytes: SIZE as u64, source: None };
    let group = Group::create(config, vec![spec]).await.expect("creates");
    volume(&group, &lab).write(0, Bytes::from(vec![1; 4096])).await.expect("writes");
    let point = group.take_point(PointKind::Manual, "").await.expect("lands");
    let deadline = std::time::Instant::now() + PATIENCE;
    // What was written before the point may need one interval more.
    loop {
        let status = group.status();
        if status.shipped_lsn == status.last_lsn && status.shipped_lsn >= point.lsn {
            break;
        }
        assert!(std::time::Instant::now() < deadline, "never idle: {status:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    lab.store.reset_counts();
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(lab.store.counts().total(), 0, "{:?}", lab.store.counts());
    assert_eq!(group.status().landed_rpo_seconds, Some(0.0));
    group.close(Duration::ZERO).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_found_at_a_start_are_as_old_as_they_are() {
    let lab = Lab::new().await;
    let group = lab.create().await;
    volume(&group, &lab).write(0, Bytes::from(vec![1; 4096])).await.expect("writes");
    group.take_point(PointKind::Manual, "").await.expect("lands");
    group.close(Duration::ZERO).await;

    // Nothing but the sizes that a start writes down is behind the point.
    let group = Group::open(lab.config(lab.primary)).await.expect("opens");
    assert_eq!(group.status().landed_rpo_seconds, Some(0.0));
    let begun = std::time::Instant::now();
    volume(&group, &lab).write(4096, Bytes::from(vec![2; 4096])).await.expect("writes");
    let written = std::time::Instant::now();
    group.close(Duration::ZERO).await;
    until("some time passes", || written.elapsed() > Duration::from_millis(50)).await;

    let group = Group::open(lab.config(lab.primary)).await.expect("opens");
    let (at_least, status) = (written.elapsed().as_secs_f64(), group.status());
    let at_most = begun.elapsed().as_secs_f64() + 0.01;
    for age in [status.landed_rpo_seconds, status.flow.oldest_unshipped_seconds] {
        let age = age.expect("is known");
        assert!(age >= at_least - 0.01 && age <= at_most, "{age} is not within {at_least} and {at_most}");
    }
    group.take_point(PointKind::Manual, "").await.expect("lands");
    assert_eq!(group.status().landed_rpo_seconds, Some(0.0));
    group.close(Duration::ZERO).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_that_was_released_can_be_resumed_and_volumes_grow_in_use() {
    let lab = Lab::new().await;
    let group = lab.create().await;
    volume(&group, &lab).write(0, Bytes::from(vec![3; 4096])).await.expect("writes");
    group.release(PATIENCE).await.expect("releases");
    assert_eq!(group.status().state, GroupState::Standby);
    group.close(Duration::ZERO).await;
    let group = Group::open(lab.config(lab.primary)).await.expect("opens");
    assert_eq!(group.status().state, GroupState::Standby);
    group.resume().await.expect("resumes");
    volume(&group, &lab).write(0, Bytes::from(vec![4; 4096])).await.expect("writes again");
    group.grow_volume(lab.volume, 2 * SIZE as u64).await.expect("grows");
    assert_eq!(group.grow_volume(lab.volume, SIZE as u64).await.expect_err("can't shrink").kind(), ErrorKind::Invalid);
    volume(&group, &lab)
        .write(2 * SIZE as u64 - 4096, Bytes::from(vec![5; 4096]))
        .await
        .expect("writes at the new end");
    let point = group.take_point(PointKind::Manual, "").await.expect("a point");
    let content = lab.content_at(&point).await;
    assert_eq!((content.len(), content[0], content[2 * SIZE - 1]), (2 * SIZE, 4, 5));
    group.close(Duration::ZERO).await;
}
