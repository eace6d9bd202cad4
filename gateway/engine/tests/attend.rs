//! What an agent is told over the line beside its stream: points, releases, resumptions, resyncs; with lines that break at any
//! message, and a vault that is away.

mod lab;
mod relayed;

use std::sync::Arc;
use std::time::Duration;

use lab::{Lab, PATIENCE, Random, assert_same, content, scribble, until, volume};
use lifeboat_engine::points::{PointInfo, list_points};
use lifeboat_engine::relay::{Abilities, Attendant, Relay as _, Ruled, Rules, attend};
use lifeboat_engine::{EngineError, ErrorKind, Group, RehydrateMode};
use lifeboat_model::state::GroupState;
use lifeboat_model::{BranchId, PointKind};
use lifeboat_vault::{Effect, Rule};
use relayed::{Strike, Yard};
use tokio::task::JoinHandle;

const SIZE: usize = 1 << 20;

async fn create(lab: &Lab, yard: &Arc<Yard>) -> Arc<Group> {
    let mut specs = lab.specs();
    specs[0].size_bytes = SIZE as u64;
    Group::create(yard.config(lab), specs).await.expect("creates the group")
}

/// The settings of an agent's machine: a program that may take a second, and what was told.
#[derive(Debug, Default)]
struct Own(std::sync::Mutex<Option<Rules>>);

impl Ruled for Own {
    fn abilities(&self) -> Abilities {
        Abilities { hooks_ms: Some(1000), compares: false }
    }

    fn follow(&self, _: &Group, rules: Rules) {
        *self.0.lock().expect("a lock") = Some(rules);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_says_what_it_can_do_and_goes_by_the_rules_that_it_is_told() {
    let lab = Lab::new().await;
    let yard = Yard::new(&lab, 1, 64 << 20).await;
    let group = create(&lab, &yard).await;
    let rules = Rules { point_ms: 5000, app_point_ms: Some(60_000), journal_percent: 50, resync: None };
    let own = Arc::new(Own::default());
    let (line, server) = yard.connect().await.expect("a line");
    let listening = {
        let (group, agent, own) = (Arc::clone(&group), lab.primary, Arc::clone(&own));
        tokio::spawn(async move { attend(&group, agent, line, &server, Some(own)).await })
    };
    let told = attendant(&lab, &yard).await;
    assert_eq!(told.abilities(), Some(Abilities { hooks_ms: Some(1000), compares: false }));
    assert!(!told.follows(&rules));
    told.rule(rules.clone()).await.expect("followed");
    assert!(told.follows(&rules));
    assert_eq!(own.0.lock().expect("a lock").as_ref(), Some(&rules));
    listening.abort();

    // One of before isn't asked, and does nothing of it.
    let (line, server) = yard.connect().await.expect("a line");
    let (older, agent) = (Arc::clone(&group), lab.primary);
    let listening = tokio::spawn(async move { attend(&older, agent, line, &server, None).await });
    until("the newer line", || {
        let found = yard.running(0).and_then(|server| server.attendant(lab.group));
        found.is_some_and(|found| found.abilities().is_none() && found.status().is_some())
    })
    .await;
    let error = attendant(&lab, &yard).await.rule(rules).await.expect_err("older");
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    listening.abort();
    group.close(PATIENCE).await;
}

/// Blocks that changed behind the agent's back are found by their hashes, and only they are moved; whatever breaks amid it.
#[tokio::test(flavor = "multi_thread")]
async fn an_agent_compares_its_disk_with_the_vault_when_it_is_told() {
    let lab = Lab::new().await;
    let yard = Yard::new(&lab, 1, 64 << 20).await;
    let (mut random, mut model) = (Random(0x5eed_0a29), vec![0; SIZE]);
    let group = create(&lab, &yard).await;
    let attending = attending(&lab, &yard, &group);
    scribble(&volume(&group, &lab), &mut model, &mut random, 40).await;
    assert_eq!(asked(&lab, &yard, async |agent| agent.compare().await).await, 0, "an equal disk");
    until("the image has everything", || group.status().image_lsn == group.status().last_lsn).await;
    let image = yard.config(&lab).dir.join(format!("{}.img", lab.volume));
    let file = std::fs::OpenOptions::new().write(true).open(image).expect("the image is there");
    let mut change = |block: usize, byte: u8| {
        model[block * 4096..][..4096].fill(byte);
        std::os::unix::fs::FileExt::write_all_at(&file, &[byte; 4096], (block * 4096) as u64).expect("changes");
    };
    [(3, 0xa5), (4, 0xa6), (200, 0xa7)].into_iter().for_each(|(block, byte)| change(block, byte));
    assert_eq!(asked(&lab, &yard, async |agent| agent.compare().await).await, 3);
    group.resynced(PATIENCE).await.expect("the resync ends");

    // A line that breaks, and somebody who doesn't wait any more, leave nothing that the next one wouldn't find.
    change(77, 0xb1);
    for message in 1..12 {
        yard.strike_at(message, Strike::CutAfter);
        let told = attendant(&lab, &yard).await;
        match told.compare().await {
            Ok(_) => {}
            Err(error) => assert_eq!(error.kind(), ErrorKind::Retry, "{error}"),
        }
    }
    let told = attendant(&lab, &yard).await;
    let _ = tokio::time::timeout(Duration::ZERO, told.compare()).await;
    group.resynced(PATIENCE).await.expect("a resync that was begun ends");
    asked(&lab, &yard, async |agent| agent.compare().await).await;
    group.resynced(PATIENCE).await.expect("the resync ends");
    let after = point(&lab, &yard, "after").await;
    assert_same(&lab.content_at(&after).await, &model, "what the disk has");
    attending.abort();
    group.close(PATIENCE).await;
}

/// An agent that is there to be told what to do, over one line after the other.
fn attending(lab: &Lab, yard: &Arc<Yard>, group: &Arc<Group>) -> JoinHandle<()> {
    let (yard, group, agent) = (Arc::clone(yard), Arc::clone(group), lab.primary);
    tokio::spawn(async move {
        loop {
            if let Ok((line, server)) = yard.connect().await {
                attend(&group, agent, line, &server, None).await;
            }
            tokio::task::yield_now().await;
        }
    })
}

/// The agent, once it has said how it is.
async fn attendant(lab: &Lab, yard: &Yard) -> Arc<Attendant> {
    let deadline = std::time::Instant::now() + PATIENCE;
    loop {
        let found = yard.running(0).and_then(|server| server.attendant(lab.group));
        if let Some(found) = found.filter(|found| found.status().is_some()) {
            return found;
        }
        assert!(std::time::Instant::now() < deadline, "the agent was never heard");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Asks until it is answered, as a job does.
async fn asked<T, F: Future<Output = Result<T, EngineError>>>(
    lab: &Lab,
    yard: &Yard,
    ask: impl Fn(Arc<Attendant>) -> F,
) -> T {
    let deadline = std::time::Instant::now() + PATIENCE;
    loop {
        match ask(attendant(lab, yard).await).await {
            Ok(done) => return done,
            Err(error) if error.kind() == ErrorKind::Retry && std::time::Instant::now() < deadline => {}
            Err(error) => panic!("{error}"),
        }
    }
}

async fn point(lab: &Lab, yard: &Yard, label: &str) -> PointInfo {
    asked(lab, yard, async |agent| agent.take_point(PointKind::Manual, label).await).await
}

async fn release(lab: &Lab, yard: &Yard) -> PointInfo {
    asked(lab, yard, async |agent| agent.release(PATIENCE).await).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_takes_points_stops_in_order_and_goes_on_when_it_is_told() {
    let lab = Lab::new().await;
    let yard = Yard::new(&lab, 1, 64 << 20).await;
    let (mut random, mut model) = (Random(0x5eed_0a01), vec![0; SIZE]);
    let group = create(&lab, &yard).await;
    let attending = attending(&lab, &yard, &group);

    scribble(&volume(&group, &lab), &mut model, &mut random, 10).await;
    let taken = point(&lab, &yard, "before the upgrade").await;
    assert_eq!(
        (taken.kind, &*taken.label, taken.branch),
        (PointKind::Manual, "before the upgrade", group.status().branch)
    );
    assert_same(&lab.content_at(&taken).await, &model, "the point");
    asked(&lab, &yard, async |agent| agent.resync(true).await).await;
    asked(&lab, &yard, async |agent| agent.doubt().await).await;

    scribble(&volume(&group, &lab), &mut model, &mut random, 10).await;
    let last = release(&lab, &yard).await;
    assert_eq!((last.kind, group.status().state), (PointKind::Final, GroupState::Standby));
    assert!(volume(&group, &lab).read_only(), "no write comes after the final point");
    assert_same(&lab.content_at(&last).await, &model, "everything that was written");
    assert_eq!(release(&lab, &yard).await.id, last.id, "asked again, it comes to the same");
    let told = attendant(&lab, &yard).await;
    until("it is reported", || told.status().is_some_and(|seen| seen.state == GroupState::Standby)).await;
    let seen = told.status().expect("said");
    assert_eq!((seen.shipped_lsn, seen.last_point.map(|point| point.id)), (last.lsn, Some(last.id)));
    let error = told.take_point(PointKind::Manual, "too late").await.expect_err("released");
    assert_eq!(error.kind(), ErrorKind::Fenced, "{error}");

    asked(&lab, &yard, async |agent| agent.resume().await).await;
    asked(&lab, &yard, async |agent| agent.resume().await).await;
    scribble(&volume(&group, &lab), &mut model, &mut random, 10).await;
    let after = point(&lab, &yard, "after").await;
    assert_same(&lab.content_at(&after).await, &model, "it goes on where it was");

    // Taken over, it stays what it is, and says so.
    let recovery = lab.fail_over(group.status().branch, false).await;
    assert_same(&content(&volume(&recovery, &lab)).await, &model, "at the recovery site");
    asked(&lab, &yard, async |agent| agent.doubt().await).await;
    let told = attendant(&lab, &yard).await;
    until("it is fenced", || told.status().is_some_and(|seen| seen.state == GroupState::Fenced)).await;
    let error = told.resume().await.expect_err("another gateway has it");
    assert_eq!(error.kind(), ErrorKind::Fenced, "{error}");
    attending.abort();
    recovery.close(Duration::ZERO).await;
    group.close(Duration::ZERO).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_whose_line_is_cut_ends_by_itself_and_writes_go_on() {
    let lab = Lab::new().await;
    let yard = Yard::new(&lab, 1, 64 << 20).await;
    let (mut random, mut model) = (Random(0x5eed_0a02), vec![0; SIZE]);
    let group = create(&lab, &yard).await;
    let first = attending(&lab, &yard, &group);
    point(&lab, &yard, "before").await;
    lab.store.inject(Rule::new(Effect::FailBefore).key("groups/"));
    scribble(&volume(&group, &lab), &mut model, &mut random, 10).await;
    let agent = attendant(&lab, &yard).await;
    let releasing = tokio::spawn(async move { agent.release(Duration::from_millis(700)).await });
    until("writes are refused", || volume(&group, &lab).read_only()).await;
    first.abort();
    let error = releasing.await.expect("ends").expect_err("its line is cut");
    assert_eq!(error.kind(), ErrorKind::Retry, "{error}");
    // Nobody is there to tell it to: its time is up.
    until("writes are taken again", || !volume(&group, &lab).read_only()).await;
    assert_eq!(group.status().state, GroupState::Active);
    scribble(&volume(&group, &lab), &mut model, &mut random, 10).await;
    let second = attending(&lab, &yard, &group);
    let refused = attendant(&lab, &yard).await.release(Duration::from_millis(50)).await.expect_err("the vault is away");
    assert_eq!(refused.kind(), ErrorKind::Retry, "{refused}");
    assert!(refused.to_string().contains("active again"), "{refused}");
    lab.store.clear();
    let last = release(&lab, &yard).await;
    assert_same(&lab.content_at(&last).await, &model, "everything that was written, once the vault is back");
    second.abort();
    group.close(Duration::ZERO).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_line_takes_the_place_of_an_older_one() {
    let lab = Lab::new().await;
    let yard = Yard::new(&lab, 1, 64 << 20).await;
    let group = create(&lab, &yard).await;
    let first = attending(&lab, &yard, &group);
    let old = attendant(&lab, &yard).await;
    lab.store.inject(Rule::new(Effect::FailBefore).key("groups/"));
    let waiting = {
        let old = Arc::clone(&old);
        tokio::spawn(async move { old.take_point(PointKind::Manual, "on the old line").await })
    };
    let (line, server) = yard.connect().await.expect("a line");
    let second = {
        let (group, agent) = (Arc::clone(&group), lab.primary);
        tokio::spawn(async move { attend(&group, agent, line, &server, None).await })
    };
    let error = waiting.await.expect("ends").expect_err("its line is over");
    assert_eq!(error.kind(), ErrorKind::Retry, "{error}");
    let error = old.take_point(PointKind::Manual, "").await.expect_err("its line is over");
    assert_eq!(error.kind(), ErrorKind::Retry, "{error}");
    first.abort();
    second.abort();
    lab.store.clear();
    let third = attending(&lab, &yard, &group);
    point(&lab, &yard, "on another one").await;
    third.abort();
    group.close(Duration::ZERO).await;
}

/// A switch whose lines break at every message of it, in either direction.
#[tokio::test(flavor = "multi_thread")]
async fn a_switch_comes_to_its_end_whichever_message_is_lost() {
    for strike in [Strike::CutBefore, Strike::CutAfter, Strike::Kill] {
        let mut struck = 0;
        for message in 1.. {
            let lab = Lab::new().await;
            let yard = Yard::new(&lab, 1, 64 << 20).await;
            let (mut random, mut model) = (Random(0x5eed_0a03), vec![0; SIZE]);
            let group = create(&lab, &yard).await;
            let attending = attending(&lab, &yard, &group);
            scribble(&volume(&group, &lab), &mut model, &mut random, 6).await;
            attendant(&lab, &yard).await;
            yard.strike_at(message, strike);
            point(&lab, &yard, "before").await;
            scribble(&volume(&group, &lab), &mut model, &mut random, 6).await;
            let last = release(&lab, &yard).await;
            assert_same(&lab.content_at(&last).await, &model, &format!("{strike:?} at {message}"));
            let recovery = lab.fail_over(last.branch, false).await;
            assert_same(&content(&volume(&recovery, &lab)).await, &model, &format!("{strike:?} at {message}"));
            let listed = list_points(&lab.vault, lab.group, last.branch).await.expect("lists");
            assert_eq!(listed.last().map(|point| point.id), Some(last.id), "nothing came after the final point");
            attending.abort();
            recovery.close(Duration::ZERO).await;
            group.close(Duration::ZERO).await;
            if !yard.has_struck() {
                break;
            }
            struck += 1;
        }
        assert!(struck >= 8, "{strike:?} struck at {struck} messages");
    }
}

/// Passes until the disks stand at the recovery side's final point, then the takeover, as a failback's job does it.
async fn fail_back(lab: &Lab, yard: &Yard, recovery: &Arc<Group>) -> Option<BranchId> {
    let branch = recovery.status().branch;
    let pass = async || asked(lab, yard, async |agent| agent.rehydrate(branch, RehydrateMode::Delta).await).await;
    let first = pass().await;
    let last = recovery.release(PATIENCE).await.expect("releases");
    while pass().await.point.id != last.id {}
    asked(lab, yard, async |agent| agent.take_over().await).await;
    first.orphan
}

/// An agent that was taken over while a process server was away: what it wrote then is nowhere else.
async fn taken_over_with_a_tail(
    lab: &Lab,
    yard: &Arc<Yard>,
    group: &Arc<Group>,
    random: &mut Random,
    model: &mut Vec<u8>,
) -> (Arc<Group>, Vec<u8>) {
    scribble(&volume(group, lab), model, random, 10).await;
    group.take_point(PointKind::Manual, "before").await.expect("a point");
    yard.kill(0);
    let before = model.clone();
    scribble(&volume(group, lab), model, random, 10).await;
    let own = std::mem::replace(model, before);
    let recovery = lab.fail_over(group.status().branch, false).await;
    scribble(&volume(&recovery, lab), model, random, 10).await;
    recovery.take_point(PointKind::Manual, "there").await.expect("a point");
    yard.start(0).await;
    (recovery, own)
}

/// An agent's disks, brought back, equal the recovery side's; what it had not shipped is kept.
async fn check_return(lab: &Lab, group: &Arc<Group>, model: &[u8], own: &[u8], orphan: Option<BranchId>) {
    assert_eq!(group.status().state, GroupState::Active);
    assert_same(&content(&volume(group, lab)).await, model, "at the agent again");
    let orphan = orphan.expect("what was not shipped is kept");
    let kept = list_points(&lab.vault, lab.group, orphan).await.expect("lists");
    let kept = kept.last().expect("a point of its own");
    assert_eq!((kept.branch, kept.kind), (orphan, PointKind::Final));
    assert_same(&lab.content_at(kept).await, own, "what the agent had not shipped");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_disks_of_an_agent_are_brought_back_and_what_it_had_not_shipped_is_kept() {
    let lab = Lab::new().await;
    let yard = Yard::new(&lab, 1, 64 << 20).await;
    let (mut random, mut model) = (Random(0x5eed_0a04), vec![0; SIZE]);
    let group = create(&lab, &yard).await;
    let attending = attending(&lab, &yard, &group);
    let (recovery, own) = taken_over_with_a_tail(&lab, &yard, &group, &mut random, &mut model).await;
    let _ = group.doubt();
    until("it is fenced", || group.status().state == GroupState::Fenced).await;
    assert_same(&content(&volume(&group, &lab)).await, &own, "readable, with its own writes");
    let orphan = fail_back(&lab, &yard, &recovery).await;
    check_return(&lab, &group, &model, &own, orphan).await;
    recovery.close(Duration::ZERO).await;
    // It is the primary again, also after a restart of its own, and can be taken over again.
    for round in 0..2 {
        scribble(&volume(&group, &lab), &mut model, &mut random, 10).await;
        let taken = point(&lab, &yard, &format!("round {round}")).await;
        assert_same(&lab.content_at(&taken).await, &model, "on the branch that it took over");
    }
    attending.abort();
    group.close(Duration::ZERO).await;
    let group = Group::open(yard.config(&lab)).await.expect("opens");
    let second = self::attending(&lab, &yard, &group);
    assert_same(&content(&volume(&group, &lab)).await, &model, "after a restart");
    let last = release(&lab, &yard).await;
    let recovery = lab.fail_over(last.branch, false).await;
    scribble(&volume(&recovery, &lab), &mut model, &mut random, 10).await;
    assert_eq!(fail_back(&lab, &yard, &recovery).await, None, "released in order, there is nothing to keep");
    assert_same(&content(&volume(&group, &lab)).await, &model, "back for the second time");
    second.abort();
    recovery.close(Duration::ZERO).await;
    group.close(Duration::ZERO).await;
}

/// The way back, struck at every third message of it, in either direction.
async fn brought_back_struck(strike: Strike, first: i64) {
    let mut struck = 0;
    for message in (first..).step_by(3) {
        let lab = Lab::new().await;
        let yard = Yard::new(&lab, 1, 64 << 20).await;
        let (mut random, mut model) = (Random(0x5eed_0a05), vec![0; SIZE]);
        let group = create(&lab, &yard).await;
        let (recovery, own) = taken_over_with_a_tail(&lab, &yard, &group, &mut random, &mut model).await;
        let attending = attending(&lab, &yard, &group);
        let _ = group.doubt();
        until("it is fenced", || group.status().state == GroupState::Fenced).await;
        yard.strike_at(message, strike);
        let orphan = fail_back(&lab, &yard, &recovery).await;
        check_return(&lab, &group, &model, &own, orphan).await;
        attending.abort();
        recovery.close(Duration::ZERO).await;
        group.close(Duration::ZERO).await;
        if !yard.has_struck() {
            break;
        }
        struck += 1;
    }
    assert!(struck >= 6, "{strike:?} struck at {struck} messages");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_disks_of_an_agent_are_brought_back_though_lines_are_cut_before_a_message() {
    brought_back_struck(Strike::CutBefore, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_disks_of_an_agent_are_brought_back_though_lines_are_cut_after_a_message() {
    brought_back_struck(Strike::CutAfter, 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_disks_of_an_agent_are_brought_back_though_process_servers_are_killed() {
    brought_back_struck(Strike::Kill, 3).await;
}
