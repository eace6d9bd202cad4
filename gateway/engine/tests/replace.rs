//! The disk of a lost gateway at the one that takes its place: what it holds counts where it is what the vault has, and nowhere else.

mod lab;

use std::collections::BTreeMap;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use lab::{Lab, PATIENCE, Random, SIZE, assert_same, content, scribble, until, volume};
use lifeboat_engine::{FailOver, Group, GroupConfig, VolumeSpec};
use lifeboat_model::state::GroupState;
use lifeboat_model::{BranchId, PointKind};

const BLOCK: usize = 4096;

fn filled(path: &Path, seed: usize) -> Vec<u8> {
    let model: Vec<u8> = (0..SIZE).map(|at| u8::try_from((at * seed + at / BLOCK) % 251).expect("a byte")).collect();
    std::fs::write(path, &model).expect("writes");
    model
}

fn instance(lab: &Lab, name: &str) -> GroupConfig {
    let mut config = lab.config(lab.recovery);
    config.dir = lab.dir.path().join(name);
    config
}

/// A group on an adopted disk, all of which is in the vault; what it held then, and what was written and never shipped.
async fn lost(lab: &Lab, disk: &Path) -> (BranchId, Vec<u8>, Arc<Group>) {
    let mut model = filled(disk, 3);
    let spec = VolumeSpec { id: lab.volume, name: "db".into(), size_bytes: 0, source: Some(disk.to_owned()) };
    let group = Group::create(lab.config(lab.primary), vec![spec]).await.expect("creates");
    group.resynced(PATIENCE).await.expect("copied");
    let mut random = Random(0x5eed_0077);
    scribble(&volume(&group, lab), &mut model, &mut random, 30).await;
    group.take_point(PointKind::Manual, "landed").await.expect("lands");
    (group.status().branch, model, group)
}

async fn take(lab: &Lab, name: &str, from: BranchId, disks: &[&Path]) -> Arc<Group> {
    let request = FailOver { from_branch: from, point: None, test: false, branch: BranchId::new() };
    let disks: BTreeMap<_, PathBuf> = disks.iter().map(|disk| (lab.volume, (*disk).to_owned())).collect();
    Group::fail_over_on(instance(lab, name), request, disks).await.expect("takes over")
}

/// Until every block is here.
async fn whole(group: &Arc<Group>) {
    until("every block is here", || group.status().progress.is_none()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_moved_is_brought_to_the_vaults_point_by_hashes() {
    let lab = Lab::new().await;
    let disk = lab.dir.path().join("disk.raw");
    let (branch, model, primary) = lost(&lab, &disk).await;
    // The disk as it is found at the other machine: what was never shipped stands on it, too.
    let moved = lab.dir.path().join("moved.raw");
    let mut found = model.clone();
    for at in [0, 100, 101, SIZE / BLOCK - 1] {
        found[at * BLOCK..][..BLOCK].fill(0xee);
    }
    std::fs::write(&moved, &found).expect("writes");

    let group = take(&lab, "taken", branch, &[&moved]).await;
    assert_eq!(group.volumes()[0].source.as_deref(), Some(moved.as_path()));
    assert_same(&content(&volume(&group, &lab)).await, &model, "at once");
    let mut model = model;
    let mut random = Random(0x5eed_0078);
    scribble(&volume(&group, &lab), &mut model, &mut random, 30).await;
    whole(&group).await;
    assert_same(&content(&volume(&group, &lab)).await, &model, "once it is whole");
    let point = group.take_point(PointKind::Manual, "after").await.expect("lands");
    assert_same(&lab.content_at(&point).await, &model, "in the vault");
    group.close(PATIENCE).await;
    drop(group);
    assert_same(&std::fs::read(&moved).expect("is there"), &model, "the disk");

    // The lost one is back: fenced, it shows what it had, and keeps nothing twice.
    primary.doubt().expect("it asks");
    until("it is fenced", || primary.status().state == GroupState::Fenced).await;
    let kept = primary.keep_unshipped().await.expect("keeps its tail");
    assert_eq!(primary.keep_unshipped().await.expect("again"), kept);
    assert_eq!(primary.status().state, GroupState::Fenced);
    assert!(volume(&primary, &lab).read_only());
    primary.close(Duration::ZERO).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_while_the_disk_is_compared_changes_nothing() {
    let lab = Lab::new().await;
    let disk = lab.dir.path().join("disk.raw");
    let (branch, mut model, primary) = lost(&lab, &disk).await;
    primary.close(Duration::ZERO).await;
    drop(primary);
    let mut random = Random(0x5eed_0079);
    let mut group = take(&lab, "taken", branch, &[&disk]).await;
    for _ in 0..6 {
        scribble(&volume(&group, &lab), &mut model, &mut random, 15).await;
        assert_same(&content(&volume(&group, &lab)).await, &model, "before the restart");
        group.close(Duration::ZERO).await;
        drop(group);
        let deadline = std::time::Instant::now() + PATIENCE;
        group = loop {
            match Group::open(instance(&lab, "taken")).await {
                Err(error) if error.to_string().contains("is in use") && std::time::Instant::now() < deadline => {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                opened => break opened.expect("opens"),
            }
        };
        assert_same(&content(&volume(&group, &lab)).await, &model, "after the restart");
    }
    whole(&group).await;
    group.close(PATIENCE).await;
    drop(group);
    assert_same(&std::fs::read(&disk).expect("is there"), &model, "the disk");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_disk_under_the_same_path_is_left_alone() {
    let lab = Lab::new().await;
    let disk = lab.dir.path().join("disk.raw");
    let (branch, model, primary) = lost(&lab, &disk).await;
    primary.close(Duration::ZERO).await;
    drop(primary);
    let [other, short, empty] = ["other.raw", "short.raw", "empty.raw"].map(|name| lab.dir.path().join(name));
    let foreign = filled(&other, 7);
    std::fs::write(&short, &model[..SIZE / 2]).expect("writes");
    std::fs::File::create_new(&empty).expect("is new").set_len(SIZE as u64).expect("has its length");
    let missing = lab.dir.path().join("missing.raw");
    let used = lab.dir.path().join("used.raw");
    std::fs::write(&used, &model).expect("writes");
    let user = std::fs::File::open(&used).expect("opens");
    user.lock().expect("is used by somebody");
    let mut from = branch;
    for path in [&other, &short, &empty, &missing, &used] {
        let name = path.file_name().expect("a name").to_str().expect("text");
        let group = take(&lab, &format!("beside {name}"), from, &[path]).await;
        assert_eq!(group.volumes()[0].source, None, "{name}");
        assert_same(&content(&volume(&group, &lab)).await, &model, name);
        from = group.status().branch;
        group.take_point(PointKind::Manual, name).await.expect("lands");
        group.close(PATIENCE).await;
    }
    assert_same(&std::fs::read(&other).expect("is there"), &foreign, "the other disk");
    assert_eq!(std::fs::metadata(&short).expect("is there").len(), SIZE as u64 / 2);
    let mut block = [1; BLOCK];
    std::fs::File::open(&empty).expect("opens").read_exact_at(&mut block, 0).expect("reads");
    assert_eq!(block, [0; BLOCK], "nothing is written to an empty one");
    assert!(!missing.exists());
}
