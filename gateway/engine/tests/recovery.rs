//! Ways to serve a group from the vault alone: several branches at a time, a branch of a branch, another point after a
//! failover, an orphan's tail, a home on a new disk; against a plain byte array.

mod lab;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use lab::{Lab, PATIENCE, Random, SIZE, assert_same, content, scribble, volume};
use lifeboat_engine::points::{PointInfo, list_points};
use lifeboat_engine::{ErrorKind, FailOver, Group, GroupConfig, RehydrateMode};
use lifeboat_model::state::GroupState;
use lifeboat_model::{BranchId, PointKind};
use lifeboat_vault::{Effect, Rule};

/// Another instance of the group at the recovery gateway.
fn instance(lab: &Lab, name: &str) -> GroupConfig {
    let mut config = lab.config(lab.recovery);
    config.dir = lab.dir.path().join(name);
    config
}

async fn branch_at(lab: &Lab, name: &str, from: BranchId, point: &PointInfo, test: bool) -> Arc<Group> {
    let request = FailOver { from_branch: from, point: Some(point.id), test, branch: BranchId::new() };
    Group::fail_over(instance(lab, name), request).await.expect("branches")
}

async fn point(group: &Arc<Group>, label: &str) -> PointInfo {
    group.take_point(PointKind::Manual, label).await.expect("a point")
}

#[tokio::test(flavor = "multi_thread")]
async fn branches_of_branches_live_side_by_side_and_know_nothing_of_each_other() {
    let lab = Lab::new().await;
    let mut random = Random(0x5eed_0011);
    let primary = lab.create().await;
    let mut model = vec![0; SIZE];
    scribble(&volume(&primary, &lab), &mut model, &mut random, 60).await;
    let at_home = point(&primary, "home").await;
    let mut open: Vec<(Arc<Group>, Vec<u8>, PointInfo)> = Vec::new();
    // Each forks from the point that the one before it took, the first from the primary's.
    for generation in 0..4 {
        let (from, fork, mut model) = match open.last() {
            None => (primary.status().branch, &at_home, model.clone()),
            Some((parent, model, fork)) => (parent.status().branch, fork, model.clone()),
        };
        let child = branch_at(&lab, &format!("drill-{generation}"), from, fork, true).await;
        assert_same(&content(&volume(&child, &lab)).await, &model, "at the fork");
        scribble(&volume(&child, &lab), &mut model, &mut random, 25).await;
        let taken = point(&child, &format!("generation {generation}")).await;
        open.push((child, model, taken));
    }
    // A second one from the same point as the first.
    let twin = branch_at(&lab, "twin", primary.status().branch, &at_home, true).await;
    assert_same(&content(&volume(&twin, &lab)).await, &model, "the twin");
    for (group, expected, taken) in &open {
        assert_same(&content(&volume(group, &lab)).await, expected, &taken.label);
        assert_same(&lab.content_at(taken).await, expected, &format!("{} in the vault", taken.label));
    }
    // The youngest knows its ancestors' points up to each fork, and only those.
    let (youngest, _, _) = open.last().expect("four");
    let labels: Vec<String> = list_points(&lab.vault, lab.group, youngest.status().branch)
        .await
        .expect("lists")
        .into_iter()
        .filter(|point| point.kind == PointKind::Manual)
        .map(|point| point.label)
        .collect();
    assert_eq!(labels, ["home", "generation 0", "generation 1", "generation 2", "generation 3"]);
    assert_eq!(primary.status().state, GroupState::Active, "nobody was fenced");
    for group in open.iter().map(|(group, _, _)| group).chain([&twin, &primary]) {
        group.close(Duration::ZERO).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_point_can_be_chosen_after_a_failover_also_a_later_one() {
    let lab = Lab::new().await;
    let mut random = Random(0x5eed_0012);
    let primary = lab.create().await;
    let mut model = vec![0; SIZE];
    let mut points = Vec::new();
    for round in 0..3 {
        scribble(&volume(&primary, &lab), &mut model, &mut random, 40).await;
        points.push((point(&primary, &format!("round {round}")).await, model.clone()));
    }
    let origin = primary.status().branch;
    primary.close(Duration::ZERO).await;

    let first = branch_at(&lab, "first", origin, &points[0].0, false).await;
    assert_same(&content(&volume(&first, &lab)).await, &points[0].1, "the first choice");
    let mut written = points[0].1.clone();
    scribble(&volume(&first, &lab), &mut written, &mut random, 10).await;
    first.release(PATIENCE).await.expect("releases");
    let kept = first.status().last_point.expect("the final point");

    let second = branch_at(&lab, "second", first.status().branch, &points[2].0, false).await;
    assert_same(&content(&volume(&second, &lab)).await, &points[2].1, "the second choice, later than the first");
    let error = first.resume().await.expect_err("it was left");
    assert_eq!(error.kind(), ErrorKind::Fenced);
    assert_same(&lab.content_at(&kept).await, &written, "what was written on the first choice is kept");

    // Home comes back from whichever was chosen in the end.
    let mut model = points[2].1.clone();
    scribble(&volume(&second, &lab), &mut model, &mut random, 10).await;
    second.release(PATIENCE).await.expect("releases");
    let primary = Group::open(lab.config(lab.primary)).await.expect("opens");
    assert_eq!(primary.status().state, GroupState::Fenced);
    primary.rehydrate(second.status().branch, RehydrateMode::Delta).await.expect("a pass");
    primary.take_over().await.expect("takes over");
    assert_same(&content(&volume(&primary, &lab)).await, &model, "at home");
    for group in [&first, &second, &primary] {
        group.close(Duration::ZERO).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn home_on_a_new_disk_is_usable_before_its_blocks_are_there_and_its_tail_is_kept() {
    let lab = Lab::new().await;
    let mut random = Random(0x5eed_0013);
    let primary = lab.create().await;
    let mut model = vec![0; SIZE];
    scribble(&volume(&primary, &lab), &mut model, &mut random, 120).await;
    point(&primary, "before").await;
    let origin = primary.status().branch;
    let at_point = model.clone();
    scribble(&volume(&primary, &lab), &mut model, &mut random, 5).await;
    let lost = model;
    primary.close(Duration::ZERO).await;

    let recovery = lab.fail_over(origin, false).await;
    let mut model = at_point;
    scribble(&volume(&recovery, &lab), &mut model, &mut random, 40).await;
    recovery.release(PATIENCE).await.expect("releases");
    let branch = recovery.status().branch;

    let (primary, orphan) =
        Group::take_over_lazily(lab.config(lab.primary), branch, BTreeMap::new()).await.expect("takes over at once");
    assert_eq!((primary.status().state, primary.status().branch), (GroupState::Active, branch));
    // In use at once, while the rest is on its way.
    scribble(&volume(&primary, &lab), &mut model, &mut random, 30).await;
    assert_same(&content(&volume(&primary, &lab)).await, &model, "in use");
    let tail = list_points(&lab.vault, lab.group, orphan.expect("the tail is kept")).await.expect("lists");
    assert_same(&lab.content_at(tail.last().expect("a point")).await, &lost, "the tail");

    // Killed and started again, also by the same call.
    primary.close(Duration::ZERO).await;
    let (primary, _) =
        Group::take_over_lazily(lab.config(lab.primary), branch, BTreeMap::new()).await.expect("comes to the same");
    assert_same(&content(&volume(&primary, &lab)).await, &model, "after a restart");
    let deadline = std::time::Instant::now() + PATIENCE;
    while primary.status().hydrated_bytes.is_some() {
        assert!(std::time::Instant::now() < deadline, "it is never whole: {:?}", primary.status());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let newest = point(&primary, "whole").await;
    assert_same(&lab.content_at(&newest).await, &model, "shipped from home");
    assert!(recovery.resume().await.is_err(), "the recovery side was left");
    for group in [&recovery, &primary] {
        group.close(Duration::ZERO).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn home_on_another_disk_has_nothing_of_what_that_disk_held() {
    let lab = Lab::new().await;
    let mut random = Random(0x5eed_0014);
    let primary = lab.create().await;
    let mut model = vec![0; SIZE];
    // Much of it was never written, so that it comes as zeroes.
    scribble(&volume(&primary, &lab), &mut model, &mut random, 30).await;
    point(&primary, "before").await;
    let origin = primary.status().branch;
    primary.close(Duration::ZERO).await;
    let recovery = lab.fail_over(origin, false).await;
    scribble(&volume(&recovery, &lab), &mut model, &mut random, 10).await;
    recovery.release(PATIENCE).await.expect("releases");
    let branch = recovery.status().branch;

    // Longer than the volume, and full of something else.
    let path = lab.dir.path().join("another.raw");
    std::fs::write(&path, vec![0xa5; SIZE + (1 << 20)]).expect("writes");
    let disks = BTreeMap::from([(lab.volume, path.clone())]);
    let busy = std::fs::File::open(&path).expect("opens");
    rustix::fs::flock(&busy, rustix::fs::FlockOperation::NonBlockingLockExclusive).expect("locks");
    let refused = Group::take_over_lazily(lab.config(lab.primary), branch, disks.clone()).await.expect_err("in use");
    assert_eq!(refused.kind(), ErrorKind::Retry, "{refused}");
    drop(busy);
    let (primary, _) =
        Group::take_over_lazily(lab.config(lab.primary), branch, disks.clone()).await.expect("takes over");
    scribble(&volume(&primary, &lab), &mut model, &mut random, 10).await;
    assert_same(&content(&volume(&primary, &lab)).await, &model, "in use");
    primary.close(Duration::ZERO).await;
    let (primary, _) =
        Group::take_over_lazily(lab.config(lab.primary), branch, disks).await.expect("comes to the same");
    let deadline = std::time::Instant::now() + PATIENCE;
    while primary.status().hydrated_bytes.is_some() {
        assert!(std::time::Instant::now() < deadline, "it is never whole: {:?}", primary.status());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_same(&content(&volume(&primary, &lab)).await, &model, "whole");
    assert_eq!(primary.volumes()[0].source.as_deref(), Some(path.as_path()));
    let newest = point(&primary, "whole").await;
    assert_same(&lab.content_at(&newest).await, &model, "shipped from home");

    // It grows into the rest of the disk, which is empty to the volume.
    primary.grow_volume(lab.volume, (SIZE + (1 << 20)) as u64).await.expect("grows");
    let mut grown = model.clone();
    grown.resize(SIZE + (1 << 20), 0);
    assert_same(&content(&volume(&primary, &lab)).await, &grown, "grown");
    primary.release(PATIENCE).await.expect("releases");
    for group in [&recovery, &primary] {
        group.close(Duration::ZERO).await;
    }
    drop((recovery, primary));
    assert_same(&std::fs::read(&path).expect("reads"), &grown, "on the disk itself");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_orphan_keeps_can_be_mounted_and_written_on() {
    let lab = Lab::new().await;
    let primary = lab.create().await;
    volume(&primary, &lab).write(0, Bytes::from(vec![1; 4096])).await.expect("writes");
    point(&primary, "shipped").await;
    let origin = primary.status().branch;
    volume(&primary, &lab).write(4096, Bytes::from(vec![2; 4096])).await.expect("writes");
    primary.close(Duration::ZERO).await;
    let recovery = lab.fail_over(origin, false).await;
    let primary = Group::open(lab.config(lab.primary)).await.expect("opens");
    let pass = primary.rehydrate(recovery.status().branch, RehydrateMode::Delta).await.expect("a pass");
    let orphan = pass.orphan.expect("kept");
    let tail = list_points(&lab.vault, lab.group, orphan).await.expect("lists").pop().expect("a point");
    let writable = branch_at(&lab, "salvage", orphan, &tail, true).await;
    assert_eq!(volume(&writable, &lab).read(4096, 1).await.expect("reads")[..], [2]);
    volume(&writable, &lab).write(8192, Bytes::from(vec![3; 4096])).await.expect("writes");
    let salvaged = point(&writable, "salvaged").await;
    assert_eq!(lab.content_at(&salvaged).await[..12288], [vec![1; 4096], vec![2; 4096], vec![3; 4096]].concat()[..]);
    for group in [&writable, &recovery, &primary] {
        group.close(Duration::ZERO).await;
    }
}

/// Applications as counters: how often they were asked to hold still, and to go on.
#[derive(Debug, Default)]
struct Application {
    held: std::sync::atomic::AtomicUsize,
    let_go: std::sync::atomic::AtomicUsize,
    refuses: std::sync::atomic::AtomicBool,
    /// What the application writes while it is asked to hold still.
    last_words: std::sync::Mutex<Option<Arc<dyn lifeboat_engine::BlockVolume>>>,
}

#[async_trait::async_trait]
impl lifeboat_engine::quiesce::Quiesce for Application {
    async fn freeze(&self) -> Result<(), String> {
        self.held.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        let volume = self.last_words.lock().expect("sound").clone();
        if let Some(volume) = volume {
            volume.write(0, Bytes::from(vec![0xAA; 4096])).await.map_err(|error| error.to_string())?;
        }
        if self.refuses.load(std::sync::atomic::Ordering::SeqCst) {
            return Err("it is busy".to_owned());
        }
        Ok(())
    }

    async fn thaw(&self) -> Result<(), String> {
        self.let_go.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_application_consistent_point_has_what_the_hook_wrote_and_a_refusal_takes_none() {
    use std::sync::atomic::Ordering::SeqCst;
    let lab = Lab::new().await;
    let group = lab.create().await;
    let error = group.take_point(PointKind::AppConsistent, "").await.expect_err("no hooks");
    assert!(error.to_string().contains("app_consistency"), "{error}");
    let application = Arc::new(Application::default());
    *application.last_words.lock().expect("sound") = Some(volume(&group, &lab));
    let settings = |every| {
        let mut settings = lab.config(lab.primary).settings;
        settings.app_points = Some(lifeboat_engine::quiesce::AppPoints {
            every,
            timeout: PATIENCE,
            hooks: Arc::clone(&application) as Arc<dyn lifeboat_engine::quiesce::Quiesce>,
        });
        settings
    };
    group.set_settings(settings(None));
    let taken = group.take_point(PointKind::AppConsistent, "quiet").await.expect("a point");
    assert_eq!((taken.kind, lab.content_at(&taken).await[0]), (PointKind::AppConsistent, 0xAA));
    assert_eq!((application.held.load(SeqCst), application.let_go.load(SeqCst)), (1, 1));

    application.refuses.store(true, SeqCst);
    let error = group.take_point(PointKind::AppConsistent, "").await.expect_err("refused");
    assert!(error.to_string().contains("it is busy"), "{error}");
    assert_eq!(application.let_go.load(SeqCst), 2, "it goes on all the same");

    // By itself, at its interval, and again while there are writes.
    application.refuses.store(false, SeqCst);
    group.set_settings(settings(Some(Duration::from_millis(50))));
    let deadline = std::time::Instant::now() + PATIENCE;
    while application.let_go.load(SeqCst) < 5 {
        assert!(std::time::Instant::now() < deadline, "it is never asked: {:?}", group.status());
        volume(&group, &lab).write(8192, Bytes::from(vec![0xBB; 4096])).await.expect("writes");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    group.take_point(PointKind::Manual, "").await.expect("a point");
    let listed = list_points(&lab.vault, lab.group, group.status().branch).await.expect("lists");
    assert!(listed.iter().filter(|point| point.kind == PointKind::AppConsistent).count() >= 3, "{listed:?}");
    group.close(Duration::ZERO).await;
}

/// With every request a second later, seconds are round trips: how long a failover takes where the vault is far away.
#[tokio::test(start_paused = true)]
async fn a_failover_takes_few_round_trips() {
    let lab = Lab::new().await;
    let mut random = Random(0x5eed_0019);
    let primary = lab.create().await;
    let mut model = vec![0; SIZE];
    scribble(&volume(&primary, &lab), &mut model, &mut random, 40).await;
    let first = point(&primary, "first").await;
    let before = model.clone();
    scribble(&volume(&primary, &lab), &mut model, &mut random, 40).await;
    point(&primary, "newest").await;
    let branch = primary.status().branch;
    primary.close(Duration::ZERO).await;

    lab.store.inject(Rule::new(Effect::Delay(Duration::from_secs(1))));
    for (name, wanted, expected, limit) in [("newest", None, &model, 14), ("chosen", Some(first.id), &before, 14)] {
        let asked = lab.store.requests().len();
        let started = tokio::time::Instant::now();
        let request = FailOver { from_branch: branch, point: wanted, test: false, branch: BranchId::new() };
        let recovery = Group::fail_over(instance(&lab, name), request).await.expect("fails over");
        let trips = started.elapsed().as_secs();
        assert!(trips <= limit, "{name}: {trips} round trips: {:#?}", lab.store.requests().split_off(asked));
        assert_same(&content(&volume(&recovery, &lab)).await, expected, name);
        recovery.close(Duration::ZERO).await;
    }
}
