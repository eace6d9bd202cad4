//! Long work that is broken off again and again: what was told as done stays done.

mod lab;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use lab::{Lab, PATIENCE, Random, SIZE, assert_same, content, scribble, volume};
use lifeboat_engine::{Group, Progress, RehydrateMode, VolumeSpec};
use lifeboat_model::PointKind;
use lifeboat_vault::{Effect, OpKind, Rule};

#[tokio::test(flavor = "multi_thread")]
async fn what_was_told_as_hydrated_is_there_after_a_crash() {
    let lab = Lab::new().await;
    let mut random = Random(0x5eed_0021);
    let primary = lab.create().await;
    let mut model = vec![0; SIZE];
    scribble(&volume(&primary, &lab), &mut model, &mut random, 200).await;
    let branch = primary.release(PATIENCE).await.expect("is released").branch;
    let mut recovery = lab.fail_over(branch, false).await;
    let mut told = 0;
    for round in 0..6_usize {
        // A part is read here, perhaps some more in the background, and is kept in the image without a sync.
        lab.store.clear();
        let part = 1 << 20;
        let at = round * part;
        let read = volume(&recovery, &lab).read(at as u64, u32::try_from(part).expect("small")).await.expect("reads");
        assert_same(&read, &model[at..at + part], "while it is hydrated");
        lab.store.inject(Rule::new(Effect::FailBefore).on(OpKind::GetRange));
        let now = recovery.status();
        assert!(now.hydrated_bytes.is_none_or(|bytes| bytes >= told), "{now:?} after {told}");
        told = now.hydrated_bytes.unwrap_or(SIZE as u64);
        recovery.close(Duration::ZERO).await;
        recovery = Group::open(lab.config(lab.recovery)).await.expect("opens");
        let found = recovery.status().hydrated_bytes.unwrap_or(SIZE as u64);
        assert!(found >= told, "{found} bytes are here after the crash, and {told} were told before");
        told = found;
    }
    lab.store.clear();
    lab::until("everything is here", || recovery.status().hydrated_bytes.is_none()).await;
    assert_same(&content(&volume(&recovery, &lab)).await, &model, "hydrated");
    recovery.close(PATIENCE).await;
}

const BLOCK: usize = 1 << 20;
const BLOCKS: usize = 56;

/// Runs a pass to its end or its first error, and gives the progress that could be seen, in order.
async fn watched(group: &Arc<Group>, branch: lifeboat_model::BranchId) -> (bool, Vec<Progress>) {
    let pass = {
        let group = Arc::clone(group);
        tokio::spawn(async move { group.rehydrate(branch, RehydrateMode::Full).await })
    };
    let mut seen = Vec::new();
    while !pass.is_finished() {
        seen.extend(group.status().progress);
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let ended = pass.await.expect("joins").is_ok();
    // What its last sync made durable is told at the very end.
    seen.extend(group.status().progress);
    (ended, seen)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rehydration_that_is_broken_off_tells_what_it_goes_on_from() {
    let lab = Lab::new().await;
    let size = (BLOCKS * BLOCK) as u64;
    let spec = VolumeSpec { id: lab.volume, name: "db".into(), size_bytes: size, source: None };
    let mut config = lab.config(lab.primary);
    config.settings.journal_bytes = 256 << 20;
    let mut home = Group::create(config.clone(), vec![spec]).await.expect("creates the group");
    let mut model = Vec::new();
    for block in 0..BLOCKS {
        let mut random = Random(0x5eed_0022 + block as u64);
        // Nothing that could be compressed, so that frames are read one by one.
        let data: Vec<u8> = (0..BLOCK / 8).flat_map(|_| random.below(usize::MAX).to_le_bytes()).collect();
        volume(&home, &lab).write((block * BLOCK) as u64, Bytes::from(data.clone())).await.expect("writes");
        model.extend(data);
    }
    home.take_point(PointKind::Manual, "all").await.expect("lands");
    home.release(PATIENCE).await.expect("is released");
    let recovery = lab.fail_over(home.status().branch, false).await;
    recovery.release(PATIENCE).await.expect("is released");
    let branch = recovery.status().branch;

    let mut told = 0;
    let mut gone_on = 0;
    // Each time it gets a little further before the vault is away.
    for requests in (2..).step_by(2) {
        lab.store.inject(Rule::new(Effect::FailBefore).on(OpKind::GetRange).nth(requests));
        let (ended, seen) = watched(&home, branch).await;
        lab.store.clear();
        gone_on += usize::from(told > 0);
        for progress in seen {
            assert!(progress.done_bytes >= told && progress.total_bytes == size, "{progress:?} after {told}");
            told = progress.done_bytes;
        }
        if ended {
            break;
        }
        home.close(Duration::ZERO).await;
        home = Group::open(config.clone()).await.expect("opens");
    }
    assert!(gone_on >= 1, "{told} bytes were told, and none of the passes went on in the middle");
    home.rehydrate(branch, RehydrateMode::Delta).await.expect("the last pass");
    home.take_over().await.expect("takes over");
    assert_same(&content(&volume(&home, &lab)).await, &model, "at home");
    home.close(PATIENCE).await;
    recovery.close(PATIENCE).await;
}
