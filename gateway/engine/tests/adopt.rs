//! Files that existed before their volume: adopted in place, replicated while they are written, and never taken away.

mod lab;

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use lifeboat_engine::pace::{Pace, PaceRule};
use lifeboat_engine::points::list_points;
use lifeboat_engine::{
    EngineError, ErrorKind, Group, GroupConfig, GroupSettings, ResyncCause, ResyncSettings, RetrySettings, VolumeSpec,
};
use lifeboat_model::{Hours, PointKind, VolumeId};
use lifeboat_vault::{Effect, OpKind, Rule};

use lab::{Lab, PATIENCE, Random, SIZE, assert_same, content, scribble, volume};

const BLOCK: usize = 4096;

/// A sparse file: data, a hole, data, and a hole to the end.
fn source(lab: &Lab, name: &str) -> (PathBuf, Vec<u8>) {
    let path = lab.dir.path().join(name);
    let file = std::fs::File::create_new(&path).expect("is new");
    file.set_len(SIZE as u64).expect("has its length");
    let mut model = vec![0; SIZE];
    for (at, len, seed) in [(0, SIZE / 4, 3_usize), (SIZE / 2 + 5 * BLOCK, SIZE / 4, 7)] {
        for (index, byte) in model[at..at + len].iter_mut().enumerate() {
            *byte = u8::try_from((index * seed + index / BLOCK) % 251).expect("a byte");
        }
        file.write_all_at(&model[at..at + len], at as u64).expect("writes");
    }
    file.sync_all().expect("syncs");
    (path, model)
}

fn spec(lab: &Lab, path: &Path) -> VolumeSpec {
    VolumeSpec { id: lab.volume, name: "db".into(), size_bytes: 0, source: Some(path.to_owned()) }
}

fn config(lab: &Lab) -> GroupConfig {
    let short = [5, 10, 20, 50].map(Duration::from_millis);
    let settings = GroupSettings {
        journal_bytes: 8 << 20,
        cache_bytes: 2 << 20,
        point_interval: Duration::from_millis(100),
        retry: RetrySettings { pauses: short.to_vec(), probe: Duration::from_millis(50) },
        ..GroupSettings::default()
    };
    GroupConfig { settings, ..lab.config(lab.primary) }
}

/// Opens the group again, once the last task of its earlier life has let go of the file.
async fn open_again(lab: &Lab) -> Result<Arc<Group>, EngineError> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match Group::open(config(lab)).await {
            Err(error) if error.to_string().contains("is in use") && Instant::now() < deadline => {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            opened => return opened,
        }
    }
}

async fn all_points_equal(lab: &Lab, group: &Arc<Group>, model: &[u8]) {
    let point = group.take_point(PointKind::Manual, "whole").await.expect("lands");
    assert_same(&lab.content_at(&point).await, model, "the point");
    assert_same(&content(&volume(group, lab)).await, model, "the volume");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_is_its_volume_and_writes_go_on_while_it_is_replicated() {
    let lab = Lab::new().await;
    let (path, mut model) = source(&lab, "disk.raw");
    let mut random = Random(0xad0b_0001);
    let group = Group::create(config(&lab), vec![spec(&lab, &path)]).await.expect("creates the group");
    assert_same(&content(&volume(&group, &lab)).await, &model, "at once");
    assert_eq!(group.volumes()[0].source.as_deref(), Some(path.as_path()));
    while group.status().resync.is_some() {
        scribble(&volume(&group, &lab), &mut model, &mut random, 5).await;
    }
    scribble(&volume(&group, &lab), &mut model, &mut random, 50).await;
    all_points_equal(&lab, &group, &model).await;
    for point in list_points(&lab.vault, lab.group, group.status().branch).await.expect("lists") {
        assert!(point.consistent, "{point:?} is offered and isn't whole");
    }
    group.close(PATIENCE).await;
    drop(group);
    // In place: its bytes are the volume's, wherever they are read.
    assert_same(&std::fs::read(&path).expect("is there"), &model, "the file");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_data_is_replicated_and_a_crash_in_the_middle_loses_neither_writes_nor_progress() {
    let lab = Lab::new().await;
    let (path, mut model) = source(&lab, "disk.raw");
    let mut random = Random(0xad0b_0002);
    lab.store.inject(Rule::new(Effect::FailBefore).on(OpKind::Create).key("/log/"));
    let mut group = Group::create(config(&lab), vec![spec(&lab, &path)]).await.expect("creates the group");
    let first = group.status().resync.expect("the vault lacks everything");
    assert_eq!(first.cause, ResyncCause::Initial);
    let held = first.progress.total_bytes;
    assert!(held >= SIZE as u64 / 2 && held < SIZE as u64 * 3 / 4, "{held} of {SIZE} bytes are data");
    let mut done = 0;
    for round in 0..5 {
        scribble(&volume(&group, &lab), &mut model, &mut random, 20).await;
        let before = group.status().resync.expect("it is needed").progress;
        group.close(Duration::ZERO).await;
        drop(group);
        group = open_again(&lab).await.expect("opens");
        assert_same(&content(&volume(&group, &lab)).await, &model, "after the restart");
        let Some(after) = group.status().resync else { panic!("round {round}: forgotten, with {before:?}") };
        assert!(after.progress.done_bytes >= before.done_bytes.max(done), "{before:?} {after:?}");
        done = after.progress.done_bytes;
        assert!(list_points(&lab.vault, lab.group, group.status().branch).await.expect("lists").is_empty());
        // Refused while blocks are to be copied; once all have their place it waits for the vault with them.
        match tokio::time::timeout(Duration::from_millis(300), group.take_point(PointKind::Manual, "early")).await {
            Ok(Ok(point)) => panic!("{point:?} landed, and the vault lacks the rest"),
            Ok(Err(error)) => assert_eq!(error.kind(), ErrorKind::Retry, "{error}"),
            Err(_) => {}
        }
    }
    lab.store.clear();
    group.resynced(PATIENCE).await.expect("the vault has it");
    all_points_equal(&lab, &group, &model).await;
    group.close(PATIENCE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn replication_keeps_to_its_limit() {
    let lab = Lab::new().await;
    let (path, model) = source(&lab, "disk.raw");
    let mut config = config(&lab);
    let pace = Arc::new(Pace::new(vec![PaceRule { hours: Hours::always(), bytes_per_second: 1 }]));
    config.settings.resync = ResyncSettings { pace: Arc::clone(&pace), ..ResyncSettings::default() };
    let group = Group::create(config, vec![spec(&lab, &path)]).await.expect("creates the group");
    let total = group.status().resync.expect("is needed").progress.total_bytes;
    lab::until("the first run is placed", || group.status().backlog_bytes > 0).await;
    group.take_point(PointKind::Manual, "slow").await.expect_err("the rest has to wait");
    assert!(group.status().resync.expect("is needed").progress.done_bytes < total);
    pace.set(Vec::new());
    group.resynced(PATIENCE).await.expect("without a limit it ends");
    all_points_equal(&lab, &group, &model).await;
    group.close(PATIENCE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_volume_or_in_use_is_refused_and_nothing_is_left_behind() {
    let lab = Lab::new().await;
    let (path, model) = source(&lab, "disk.raw");
    let odd = lab.dir.path().join("odd.raw");
    std::fs::write(&odd, vec![1; 5000]).expect("writes");
    let other = |path: &Path, size_bytes| VolumeSpec { size_bytes, ..spec(&lab, path) };
    let size = SIZE as u64;
    for (wanted, kind, says) in [
        (other(&lab.dir.path().join("none.raw"), 0), ErrorKind::NotFound, "none.raw"),
        (other(&odd, 0), ErrorKind::Invalid, "8192"),
        (other(lab.dir.path(), 0), ErrorKind::Invalid, "neither a regular file nor a block device"),
        (other(Path::new("disk.raw"), 0), ErrorKind::Invalid, "absolute"),
        (other(&path, size - 4096), ErrorKind::Invalid, "declare a size of"),
    ] {
        let error = Group::create(config(&lab), vec![wanted]).await.expect_err(says);
        assert_eq!((error.kind(), error.to_string().contains(says)), (kind, true), "{error}");
    }
    // A failed try holds nothing: it is adopted once it is asked for rightly.
    let _ = std::fs::remove_dir_all(config(&lab).dir);
    let group = Group::create(config(&lab), vec![spec(&lab, &path)]).await.expect("creates the group");
    let twice = VolumeSpec { id: VolumeId::new(), ..spec(&lab, &path) };
    let elsewhere =
        GroupConfig { group: lifeboat_model::GroupId::new(), dir: lab.dir.path().join("another"), ..config(&lab) };
    for error in [
        Group::create(elsewhere, vec![twice.clone()]).await.expect_err("another group has it"),
        group.add_volume(twice).await.expect_err("another volume of the group has it"),
    ] {
        assert_eq!((error.kind(), error.to_string().contains("in use")), (ErrorKind::Retry, true), "{error}");
    }
    assert_eq!(std::fs::read(&odd).expect("is there"), vec![1; 5000]);
    group.resynced(PATIENCE).await.expect("the vault has it");
    all_points_equal(&lab, &group, &model).await;
    group.close(PATIENCE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_adopted_volume_joins_grows_and_leaves_and_its_file_stays() {
    let lab = Lab::new().await;
    let (path, mut model) = source(&lab, "disk.raw");
    let first = VolumeSpec { id: VolumeId::new(), name: "first".into(), size_bytes: 1 << 20, source: None };
    let group = Group::create(config(&lab), vec![first.clone()]).await.expect("creates the group");
    group.take_point(PointKind::Manual, "before").await.expect("lands");
    group.add_volume(spec(&lab, &path)).await.expect("joins");
    group.add_volume(spec(&lab, &path)).await.expect("is there already");
    let grown = SIZE as u64 + (1 << 20);
    group.grow_volume(lab.volume, grown).await.expect("grows");
    model.resize(SIZE + (1 << 20), 0);
    volume(&group, &lab).write(grown - 4096, Bytes::from(vec![9; 4096])).await.expect("writes");
    model[SIZE + (1 << 20) - 4096..].fill(9);
    group.resynced(PATIENCE).await.expect("the vault has it");
    all_points_equal(&lab, &group, &model).await;
    group.close(PATIENCE).await;
    drop(group);

    let group = open_again(&lab).await.expect("opens");
    all_points_equal(&lab, &group, &model).await;
    lab::until("the file has everything", || group.status().image_lsn == group.status().last_lsn).await;
    group.remove_volume(lab.volume).await.expect("leaves");
    assert_same(&std::fs::read(&path).expect("is there"), &model, "after it left");
    // Nobody holds it any more: it can be adopted again, also when its group is forgotten.
    group.add_volume(VolumeSpec { id: VolumeId::new(), ..spec(&lab, &path) }).await.expect("joins again");
    group.close(Duration::ZERO).await;
    drop(group);
    Group::forget(&config(&lab).dir).await.expect("forgets");
    assert_same(&std::fs::read(&path).expect("is there"), &model, "after its group was forgotten");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_was_cut_short_or_lost_is_told_apart_from_a_volume() {
    let lab = Lab::new().await;
    let (path, _) = source(&lab, "disk.raw");
    let group = Group::create(config(&lab), vec![spec(&lab, &path)]).await.expect("creates the group");
    group.close(PATIENCE).await;
    drop(group);
    let file = std::fs::OpenOptions::new().write(true).open(&path).expect("is there");
    file.set_len(4096).expect("is cut short");
    let error = open_again(&lab).await.expect_err("it lost its end");
    assert_eq!((error.kind(), error.to_string().contains("disk.raw")), (ErrorKind::Damaged, true), "{error}");
    std::fs::remove_file(&path).expect("is deleted");
    let error = open_again(&lab).await.expect_err("it is gone");
    assert_eq!((error.kind(), error.to_string().contains("disk.raw")), (ErrorKind::NotFound, true), "{error}");
    assert!(!path.exists(), "no empty file takes its place");
}

/// A failed-over group comes home into the file that was adopted.
#[tokio::test(flavor = "multi_thread")]
async fn a_failback_brings_the_adopted_file_to_the_branch() {
    let lab = Lab::new().await;
    let (path, mut model) = source(&lab, "disk.raw");
    let mut random = Random(0xad0b_0003);
    let group = Group::create(config(&lab), vec![spec(&lab, &path)]).await.expect("creates the group");
    group.resynced(PATIENCE).await.expect("the vault has it");
    group.release(PATIENCE).await.expect("is released");
    let recovery = lab.fail_over(group.status().branch, false).await;
    assert_same(&content(&volume(&recovery, &lab)).await, &model, "at the recovery site");
    scribble(&volume(&recovery, &lab), &mut model, &mut random, 100).await;
    recovery.release(PATIENCE).await.expect("is released");
    let branch = recovery.status().branch;
    group.rehydrate(branch, lifeboat_engine::RehydrateMode::Delta).await.expect("comes back");
    group.take_over().await.expect("takes over");
    all_points_equal(&lab, &group, &model).await;
    group.close(PATIENCE).await;
    recovery.close(PATIENCE).await;
    assert_same(&std::fs::read(&path).expect("is there"), &model, "the file");
}
