//! A journal that fills while the vault is away, and how the vault catches up: against the history of every write.

mod lab;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use lifeboat_engine::check::Fault;
use lifeboat_engine::points::list_points;
use lifeboat_engine::{
    BlockVolume, ErrorKind, FailOver, Group, GroupConfig, GroupSettings, RehydrateMode, ResyncCause, ResyncStatus,
    RetrySettings, VolumeSpec,
};
use lifeboat_model::state::{GroupState, Health};
use lifeboat_model::{BranchId, GatewayId, Lsn, PointKind};
use lifeboat_vault::{Effect, OpKind, Rule};

use lab::{Lab, PATIENCE, Random, assert_same, checked, content, until};

const BLOCK: usize = 4096;
const BLOCKS: usize = 512;

/// Every write in order, with the newest record after it.
#[derive(Default)]
struct History {
    writes: Vec<(Lsn, usize, Vec<u8>)>,
}

impl History {
    /// What the volume held at a record.
    fn at(&self, lsn: Lsn) -> Vec<u8> {
        let mut content = vec![0; BLOCKS * BLOCK];
        for (_, at, data) in self.writes.iter().take_while(|(at, _, _)| *at <= lsn) {
            content[*at..at + data.len()].copy_from_slice(data);
        }
        content
    }

    fn now(&self) -> Vec<u8> {
        self.at(Lsn(u64::MAX))
    }
}

fn config(lab: &Lab, gateway: GatewayId) -> GroupConfig {
    let short = [5, 10, 20, 50].map(Duration::from_millis);
    let settings = GroupSettings {
        journal_bytes: 8 << 20,
        cache_bytes: 2 << 20,
        point_interval: Duration::from_millis(200),
        retry: RetrySettings { pauses: short.to_vec(), probe: Duration::from_millis(50) },
        ..GroupSettings::default()
    };
    GroupConfig { settings, ..lab.config(gateway) }
}

async fn create(lab: &Lab) -> Arc<Group> {
    let spec = VolumeSpec { id: lab.volume, name: "db".into(), size_bytes: (BLOCKS * BLOCK) as u64, source: None };
    Group::create(config(lab, lab.primary), vec![spec]).await.expect("creates the group")
}

fn volume(group: &Arc<Group>, lab: &Lab) -> Arc<dyn BlockVolume> {
    group.volume(lab.volume).expect("the volume is open")
}

/// One write of whole blocks, data or zeroes, which is one record.
async fn write_one(group: &Arc<Group>, lab: &Lab, history: &mut History, random: &mut Random) {
    let at = random.below(BLOCKS);
    let blocks = (1 + random.below(16)).min(BLOCKS - at);
    let fill = u8::try_from(random.below(256)).expect("a byte");
    let data = vec![if random.below(5) == 0 { 0 } else { fill }; blocks * BLOCK];
    let volume = volume(group, lab);
    if data[0] == 0 {
        volume.zero((at * BLOCK) as u64, data.len() as u64, fill % 2 == 0).await.expect("zeroes");
    } else {
        volume.write((at * BLOCK) as u64, Bytes::from(data.clone())).await.expect("writes");
    }
    history.writes.push((group.status().last_lsn, at * BLOCK, data));
}

fn vault_away(lab: &Lab) {
    lab.store.inject(Rule::new(Effect::FailBefore));
}

/// Writes until the journal was collapsed, and a little more.
async fn write_until_collapsed(group: &Arc<Group>, lab: &Lab, history: &mut History, random: &mut Random) {
    let before = group.status().resync.map(|resync| resync.collapsed);
    for round in 0.. {
        write_one(group, lab, history, random).await;
        let now = group.status();
        if now.resync.as_ref().map(|resync| resync.collapsed) != before && now.resync.is_some() {
            break;
        }
        assert!(round < 5_000, "the journal never fills: {now:?}");
    }
    for _ in 0..20 {
        write_one(group, lab, history, random).await;
    }
}

/// Whatever the list offers is what the volume held there.
async fn every_point_is_exact(lab: &Lab, branch: BranchId, history: &History) -> usize {
    let points = list_points(&lab.vault, lab.group, branch).await.expect("lists");
    for point in &points {
        assert!(point.consistent);
        assert_same(&lab.content_at(point).await, &history.at(point.lsn), &format!("point at {}", point.lsn));
    }
    points.len()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_journal_stops_nobody_and_the_vault_catches_up() {
    let lab = Lab::new().await;
    let (mut history, mut random) = (History::default(), Random(0x5eed_1001));
    let group = create(&lab).await;
    for _ in 0..50 {
        write_one(&group, &lab, &mut history, &mut random).await;
    }
    group.take_point(PointKind::Manual, "before").await.expect("lands");
    vault_away(&lab);
    let take = |label: &'static str| {
        let group = Arc::clone(&group);
        tokio::spawn(async move { group.take_point(PointKind::Manual, label).await })
    };
    // The first may be in a segment already, which may have landed for all that is known; the other is in the journal alone.
    write_one(&group, &lab, &mut history, &mut random).await;
    let perhaps = take("perhaps");
    until("the outage is noticed", || group.status().health > Health::Healthy).await;
    let late = take("never");
    write_until_collapsed(&group, &lab, &mut history, &mut random).await;
    let waits = |resync: ResyncStatus| resync.waits_for.is_some();
    until("the resync says what it waits for", || group.status().resync.is_some_and(waits)).await;
    let status = group.status();
    let resync = status.resync.clone().expect("a resync is needed");
    assert_eq!(resync.cause, ResyncCause::JournalFull);
    assert!(resync.progress.total_bytes > 0, "{resync:?}");
    assert!(status.health >= Health::Warning);
    assert!(status.reasons.iter().any(|why| why.contains("resync needed")), "{:?}", status.reasons);
    assert!(status.journal_bytes_used <= 8 << 20);
    let error = late.await.expect("joins").expect_err("the point was given up");
    assert_eq!(error.kind(), ErrorKind::Retry, "{error}");
    let error = group.take_point(PointKind::Manual, "now").await.expect_err("no point would be consistent");
    assert!(error.to_string().contains("resync"), "{error}");

    // Again, while it lasts: the map grows, the volumes go on.
    write_until_collapsed(&group, &lab, &mut history, &mut random).await;
    lab.store.clear();
    while group.status().resync.is_some() {
        write_one(&group, &lab, &mut history, &mut random).await;
    }
    match perhaps.await.expect("joins") {
        Ok(point) => assert!(point.consistent),
        Err(error) => assert_eq!(error.kind(), ErrorKind::Retry, "{error}"),
    }
    let newest = group.take_point(PointKind::Manual, "after").await.expect("lands");
    assert_same(&lab.content_at(&newest).await, &history.now(), "after the resync");
    assert_same(&content(&volume(&group, &lab)).await, &history.now(), "the volume");
    assert!(every_point_is_exact(&lab, group.status().branch, &history).await >= 2);
    // The journal's files are given back once the images hold what is in them.
    until("all is well", || group.status().health == Health::Healthy).await;
    assert_eq!(group.status().backlog_bytes, 0);
    group.close(Duration::ZERO).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resync_goes_on_over_restarts_and_progress_never_goes_back() {
    let lab = Lab::new().await;
    let (mut history, mut random) = (History::default(), Random(0x5eed_1002));
    let mut group = create(&lab).await;
    vault_away(&lab);
    for round in 0..6 {
        if round < 2 {
            write_until_collapsed(&group, &lab, &mut history, &mut random).await;
        }
        let before = group.status().resync.expect("still needed").progress;
        // No last point, no last save: as after SIGKILL, but for what the tasks had done already.
        group.close(Duration::ZERO).await;
        group = Group::open(config(&lab, lab.primary)).await.expect("opens without the vault");
        let after = group.status().resync.expect("is known after the restart").progress;
        assert!(
            after.done_bytes >= before.done_bytes && after.total_bytes >= before.total_bytes,
            "{before:?} {after:?}"
        );
        assert_same(&content(&volume(&group, &lab)).await, &history.now(), "after the restart");
        if round >= 3 {
            // Some of it lands, then the vault is away again.
            lab.store.clear();
            for _ in 0..5 {
                write_one(&group, &lab, &mut history, &mut random).await;
            }
            if group.status().resync.is_none() {
                break;
            }
            vault_away(&lab);
        }
    }
    lab.store.clear();
    group.resynced(PATIENCE).await.expect("the resync ends");
    let newest = group.take_point(PointKind::Manual, "after").await.expect("lands");
    assert_same(&lab.content_at(&newest).await, &history.now(), "after the resync");
    every_point_is_exact(&lab, group.status().branch, &history).await;
    group.close(Duration::ZERO).await;
}

/// The files of a map that counts: sound as they are, torn the one or the other, both, and of another group.
fn the_check_tells_what_became_of_the_map(dir: &Path) {
    let report = checked(dir);
    assert_eq!(report.damage.len(), 0, "{report:#?}");
    let kept: Vec<(PathBuf, Vec<u8>)> = ["dirty-a", "dirty-b"]
        .iter()
        .filter_map(|name| Some((dir.join(name), std::fs::read(dir.join(name)).ok()?)))
        .collect();
    let tear = |all: bool| {
        for (path, bytes) in kept.iter().take(if all { kept.len() } else { 1 }) {
            std::fs::write(path, &bytes[..bytes.len() - 1]).expect("torn");
        }
    };
    tear(true);
    let report = checked(dir);
    assert_eq!(report.damage.len(), kept.len(), "{report:#?}");
    assert!(report.damage.iter().all(|damage| damage.kind == "dirty map"), "{report:#?}");
    let consequence = report.damage[0].consequence.as_deref().unwrap_or_default();
    assert!(consequence.contains("nothing is lost"), "{consequence}");
    // A copy of the sound one in the place of the other: then a torn one is what a crash leaves.
    let (sound, other) =
        (&kept[kept.len() - 1], dir.join(if kept[0].0.ends_with("dirty-a") { "dirty-b" } else { "dirty-a" }));
    tear(false);
    std::fs::write(if kept.len() > 1 { &sound.0 } else { &other }, &sound.1).expect("put back");
    let report = checked(dir);
    assert_eq!((report.damage.len(), report.notes.len()), (0, 1), "{report:#?}");
    for (path, bytes) in &kept {
        std::fs::write(path, bytes).expect("put back");
    }
    if kept.len() == 1 {
        std::fs::remove_file(other).expect("taken away");
    }
    assert_eq!(checked(dir).damage.len(), 0);
}

/// A lost map costs time, never blocks.
#[tokio::test(flavor = "multi_thread")]
async fn without_its_map_everything_is_copied() {
    let lab = Lab::new().await;
    let (mut history, mut random) = (History::default(), Random(0x5eed_1003));
    let group = create(&lab).await;
    vault_away(&lab);
    write_until_collapsed(&group, &lab, &mut history, &mut random).await;
    group.close(Duration::ZERO).await;
    let dir = config(&lab, lab.primary).dir;
    the_check_tells_what_became_of_the_map(&dir);
    for name in ["dirty-a", "dirty-b"] {
        let _ = std::fs::remove_file(dir.join(name));
    }
    let report = checked(&dir);
    let [damage] = &report.damage[..] else { panic!("{report:#?}") };
    assert_eq!((damage.kind, damage.fault), ("dirty map", Fault::Missing));
    let group = Group::open(config(&lab, lab.primary)).await.expect("opens");
    let resync = group.status().resync.expect("is needed");
    assert_eq!((resync.cause, resync.progress.total_bytes), (ResyncCause::ListLost, (BLOCKS * BLOCK) as u64));
    lab.store.clear();
    group.resynced(PATIENCE).await.expect("the resync ends");
    let newest = group.take_point(PointKind::Manual, "after").await.expect("lands");
    assert_same(&lab.content_at(&newest).await, &history.now(), "after the resync");
    group.close(Duration::ZERO).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_finishes_the_resync_first() {
    let lab = Lab::new().await;
    let (mut history, mut random) = (History::default(), Random(0x5eed_1004));
    let group = create(&lab).await;
    vault_away(&lab);
    write_until_collapsed(&group, &lab, &mut history, &mut random).await;
    let error = group.release(Duration::from_millis(200)).await.expect_err("the vault lacks blocks");
    assert_eq!(error.kind(), ErrorKind::Retry);
    assert!(error.to_string().contains("MiB copied"), "{error}");
    write_one(&group, &lab, &mut history, &mut random).await;
    lab.store.clear();
    let point = group.release(PATIENCE).await.expect("is released");
    assert_same(&lab.content_at(&point).await, &history.now(), "the final point");
    assert_eq!(group.status().state, GroupState::Standby);
    group.close(Duration::ZERO).await;
}

/// What a fenced gateway had written and neither shipped nor could ship as a log is kept exactly all the same.
#[tokio::test(flavor = "multi_thread")]
async fn fenced_in_the_middle_of_a_resync_the_tail_is_kept_and_the_failback_is_exact() {
    for copied in [false, true] {
        let lab = Lab::new().await;
        let (mut history, mut random) = (History::default(), Random(0x5eed_1005));
        let group = create(&lab).await;
        for _ in 0..50 {
            write_one(&group, &lab, &mut history, &mut random).await;
        }
        let base = group.take_point(PointKind::Manual, "base").await.expect("lands");
        vault_away(&lab);
        write_until_collapsed(&group, &lab, &mut history, &mut random).await;
        if copied {
            // A part of what came since is in the vault's log when the other gateway takes over.
            lab.store.clear();
            lab.store.inject(Rule::new(Effect::FailBefore).on(OpKind::Create).key("/log/").nth(3));
            until("something landed", || group.status().shipped_lsn > base.lsn).await;
        }
        assert!(group.status().resync.is_some());
        // The primary's log takes nothing any more; everything else of the vault is there.
        let branch = group.status().branch;
        lab.store.clear();
        lab.store.inject(Rule::new(Effect::FailBefore).on(OpKind::Create).key(format!("{branch}/log/")));
        let request = FailOver { from_branch: branch, point: Some(base.id), test: false, branch: BranchId::new() };
        let recovery = Group::fail_over(config(&lab, lab.recovery), request).await.expect("fails over");
        until("the primary is fenced", || {
            let _ = group.doubt();
            group.status().state == GroupState::Fenced
        })
        .await;
        let lost = content(&volume(&group, &lab)).await;
        assert_same(&lost, &history.now(), "the fenced volume");

        let mut theirs = History { writes: vec![(Lsn::ZERO, 0, history.at(base.lsn))] };
        for _ in 0..10 {
            write_one(&recovery, &lab, &mut theirs, &mut random).await;
        }
        recovery.take_point(PointKind::Manual, "theirs").await.expect("lands");
        let pass = group.rehydrate(recovery.status().branch, RehydrateMode::Delta).await.expect("brings it back");
        let orphan = pass.orphan.expect("the tail is kept");
        let points = list_points(&lab.vault, lab.group, orphan).await.expect("lists");
        let kept = points.last().expect("the tail has a point");
        assert_same(&lab.content_at(kept).await, &lost, "the orphan branch");
        recovery.release(PATIENCE).await.expect("is released");
        group.rehydrate(recovery.status().branch, RehydrateMode::Delta).await.expect("the last pass");
        group.take_over().await.expect("takes over");
        assert_same(&content(&volume(&group, &lab)).await, &theirs.now(), "after the failback");
        assert!(group.status().resync.is_none());
        write_one(&group, &lab, &mut theirs, &mut random).await;
        let newest = group.take_point(PointKind::Manual, "home").await.expect("lands");
        assert_same(&lab.content_at(&newest).await, &theirs.now(), "the vault after the failback");
        recovery.close(Duration::ZERO).await;
        group.close(Duration::ZERO).await;
    }
}

/// A volume that was added, and one that grew, while their records were being given up.
#[tokio::test(flavor = "multi_thread")]
async fn volumes_that_appear_and_grow_within_the_gap_reach_the_vault() {
    let lab = Lab::new().await;
    let (mut history, mut random) = (History::default(), Random(0x5eed_1006));
    let group = create(&lab).await;
    vault_away(&lab);
    let size = (BLOCKS * BLOCK) as u64;
    group.grow_volume(lab.volume, 2 * size).await.expect("grows");
    volume(&group, &lab).write(2 * size - 4096, Bytes::from(vec![7; 4096])).await.expect("writes");
    write_until_collapsed(&group, &lab, &mut history, &mut random).await;
    volume(&group, &lab).write(2 * size - 8192, Bytes::from(vec![8; 4096])).await.expect("writes");
    lab.store.clear();
    group.resynced(PATIENCE).await.expect("the resync ends");
    let newest = group.take_point(PointKind::Manual, "after").await.expect("lands");
    let found = lab.content_at(&newest).await;
    assert_eq!(found.len(), 2 * BLOCKS * BLOCK);
    assert_same(&found[..BLOCKS * BLOCK], &history.now(), "the old part");
    assert_eq!((found[2 * BLOCKS * BLOCK - 1], found[2 * BLOCKS * BLOCK - 4097]), (7, 8));
    group.close(Duration::ZERO).await;
}

/// Blocks that changed behind the gateway's back are found by their hashes, and only they are moved.
#[tokio::test(flavor = "multi_thread")]
async fn a_comparison_finds_what_differs_and_moves_nothing_else() {
    let lab = Lab::new().await;
    let (mut history, mut random) = (History::default(), Random(0x5eed_1007));
    let group = create(&lab).await;
    for _ in 0..100 {
        write_one(&group, &lab, &mut history, &mut random).await;
    }
    assert_eq!(group.compare().await.expect("compares"), 0, "an equal volume");
    assert!(group.status().resync.is_none());
    until("the image has everything", || group.status().image_lsn == group.status().last_lsn).await;
    let image = config(&lab, lab.primary).dir.join(format!("{}.img", lab.volume));
    let file = std::fs::OpenOptions::new().write(true).open(image).expect("the image is there");
    let mut expected = history.now();
    for (block, byte) in [(3_usize, 0xa5), (4, 0xa6), (400, 0xa7)] {
        expected[block * BLOCK..][..BLOCK].fill(byte);
        let at = (block * BLOCK) as u64;
        std::os::unix::fs::FileExt::write_all_at(&file, &[byte; BLOCK], at).expect("changes behind its back");
    }
    assert_eq!(group.compare().await.expect("compares"), 3);
    group.resynced(PATIENCE).await.expect("the resync ends");
    let newest = group.take_point(PointKind::Manual, "after").await.expect("lands");
    assert_same(&lab.content_at(&newest).await, &expected, "after the resync");
    group.close(Duration::ZERO).await;
}
