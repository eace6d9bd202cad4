//! Groups of an agent, through process servers, against a plain byte array: whatever breaks on the way, each point in the
//! vault equals the model, nothing is lost, and nothing is shipped twice.

mod lab;
mod relayed;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use lab::{Lab, PATIENCE, Random, assert_same, content, scribble, until, volume};
use lifeboat_engine::points::{PointInfo, list_points};
use lifeboat_engine::relay::{Relay as _, survey};
use lifeboat_engine::{ErrorKind, Group, VolumeSpec};
use lifeboat_model::PointKind;
use lifeboat_model::state::{GroupState, Health};
use lifeboat_vault::{Effect, Rule};
use relayed::{Strike, Yard};

/// A small volume: there are many lives to live.
const SIZE: usize = 1 << 20;
const CACHE: u64 = 64 << 20;

/// Points that were taken, and what was there.
type Taken = Vec<(PointInfo, Vec<u8>)>;

fn specs(lab: &Lab, size: usize) -> Vec<VolumeSpec> {
    let mut specs = lab.specs();
    specs[0].size_bytes = size as u64;
    specs
}

async fn create(lab: &Lab, yard: &Arc<Yard>) -> Arc<Group> {
    Group::create(yard.config(lab), specs(lab, SIZE)).await.expect("creates the group")
}

/// Takes a point; what a strike made of the answer is asked again.
async fn point(group: &Arc<Group>, label: &str, model: &[u8], taken: &mut Taken) {
    let point = tokio::time::timeout(PATIENCE, group.take_point(PointKind::Manual, label)).await;
    let point = point.unwrap_or_else(|_| panic!("{label}: no answer: {:?}", group.status()));
    taken.push((point.unwrap_or_else(|error| panic!("{label}: {error}")), model.to_vec()));
}

/// Everything that was taken is in the vault once, in order, as the model has it; the log itself is whole.
async fn check(lab: &Lab, group: &Arc<Group>, taken: &Taken) {
    let listed = list_points(&lab.vault, lab.group, group.status().branch).await.expect("lists");
    let manual: Vec<_> = listed.iter().filter(|point| point.kind == PointKind::Manual).collect();
    let ids: Vec<_> = manual.iter().map(|point| point.id).collect();
    assert_eq!(ids, taken.iter().map(|(point, _)| point.id).collect::<Vec<_>>(), "each once, in order");
    assert!(listed.iter().all(|point| point.consistent));
    for (point, model) in taken {
        assert_same(&lab.content_at(point).await, model, &point.label);
    }
}

/// Three points with writes between them.
async fn script(group: &Arc<Group>, lab: &Lab, random: &mut Random, model: &mut [u8], taken: &mut Taken) {
    for round in 0..3 {
        scribble(&volume(group, lab), model, random, 6).await;
        point(group, &format!("point {}", taken.len()), model, taken).await;
        assert_same(&content(&volume(group, lab)).await, model, &format!("round {round}"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn points_hold_what_was_written_through_a_process_server_and_restarts_of_the_agent() {
    let lab = Lab::new().await;
    let yard = Yard::new(&lab, 1, CACHE).await;
    let (mut random, mut model, mut taken) = (Random(0x5eed_0101), vec![0; SIZE], Taken::new());
    let mut group = create(&lab, &yard).await;
    for _ in 0..3 {
        script(&group, &lab, &mut random, &mut model, &mut taken).await;
        scribble(&volume(&group, &lab), &mut model, &mut random, 10).await;
        let epoch = group.status().epoch;
        group.close(Duration::ZERO).await;
        group = Group::open(yard.config(&lab)).await.expect("opens again");
        assert_eq!((group.status().state, group.status().epoch), (GroupState::Active, epoch), "the tenure goes on");
        assert_same(&content(&volume(&group, &lab)).await, &model, "after the restart");
    }
    point(&group, "last", &model, &mut taken).await;
    check(&lab, &group, &taken).await;
    let status = group.status();
    assert_eq!(status.health, Health::Healthy, "{status:?}");
    until("the cache is given back", || yard.running(0).is_some_and(|server| server.cache_bytes().0 == 0)).await;

    // What only the vault could answer is refused by name, and harms nothing.
    let refused = group.collect_garbage(Duration::ZERO, true).await.map(drop).map_err(|error| error.to_string());
    assert!(refused.expect_err("no vault here").contains("ask a gateway"));
    group.release(PATIENCE).await.expect("releases");
    group.resume().await.expect("resumes");
    assert_eq!(group.status().state, GroupState::Active);
    group.close(Duration::ZERO).await;
}

/// Each message of a life once, in either direction, with everything that can happen to it.
async fn struck_at_every_message(strike: Strike) {
    let mut struck = 0;
    for message in 1.. {
        let lab = Lab::new().await;
        let yard = Yard::new(&lab, if strike == Strike::Lose { 2 } else { 1 }, CACHE).await;
        let (mut random, mut model, mut taken) = (Random(0x5eed_0200), vec![0; SIZE], Taken::new());
        yard.strike_at(message, strike);
        let group = match Group::create(yard.config(&lab), specs(&lab, SIZE)).await {
            Ok(group) => group,
            // Creating is the caller's to repeat.
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Retry, "{error}");
                until("it struck", || yard.has_struck()).await;
                create(&lab, &yard).await
            }
        };
        script(&group, &lab, &mut random, &mut model, &mut taken).await;
        check(&lab, &group, &taken).await;
        group.close(Duration::ZERO).await;
        if !yard.has_struck() {
            break;
        }
        struck += 1;
    }
    assert!(struck >= 8, "{strike:?} struck at {struck} messages");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_that_is_cut_before_any_message_loses_nothing() {
    struck_at_every_message(Strike::CutBefore).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_that_is_cut_after_any_message_loses_nothing() {
    struck_at_every_message(Strike::CutAfter).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_server_killed_at_any_message_goes_on_with_its_cache() {
    struck_at_every_message(Strike::Kill).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_server_lost_with_its_disk_at_any_message_loses_nothing() {
    struck_at_every_message(Strike::Lose).await;
}

/// It dies at each of its requests to the vault, carried out or not; it comes back with its cache, or another one takes its place.
async fn killed_at_every_request(carried_out: bool, with_cache: bool) {
    let mut killed = 0;
    for request in 1.. {
        let lab = Lab::new().await;
        let yard = Yard::new(&lab, 2, CACHE).await;
        yard.kill(0);
        let mortal = yard.start_mortal(0, request, carried_out).await;
        let undertaker = {
            let (yard, mortal) = (Arc::clone(&yard), Arc::clone(&mortal));
            tokio::spawn(async move {
                mortal.died().await;
                if with_cache {
                    yard.kill(0);
                    yard.start(0).await;
                } else {
                    yard.lose(0);
                    yard.prefer(1);
                }
            })
        };
        let (mut random, mut model, mut taken) = (Random(0x5eed_0300), vec![0; SIZE], Taken::new());
        let mut created = Group::create(yard.config(&lab), specs(&lab, SIZE)).await;
        for _ in 0..20 {
            match &created {
                Err(error) if error.kind() == ErrorKind::Retry => {
                    created = Group::create(yard.config(&lab), specs(&lab, SIZE)).await;
                }
                _ => break,
            }
        }
        let group = created.expect("creates the group in the end");
        script(&group, &lab, &mut random, &mut model, &mut taken).await;
        check(&lab, &group, &taken).await;
        group.close(Duration::ZERO).await;
        undertaker.abort();
        if !mortal.is_dead() {
            break;
        }
        killed += 1;
    }
    assert!(killed >= 10, "killed at {killed} requests");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_server_killed_before_any_request_loses_nothing() {
    killed_at_every_request(false, true).await;
    killed_at_every_request(false, false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_server_killed_after_any_request_ships_nothing_twice() {
    killed_at_every_request(true, true).await;
    killed_at_every_request(true, false).await;
}

/// A vault that is away for everybody.
fn away(lab: &Lab) {
    lab.store.inject(Rule::new(Effect::FailBefore).key("groups/"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_cached_is_shipped_after_the_agent_burned_and_the_process_server_was_killed() {
    let lab = Lab::new().await;
    let yard = Yard::new(&lab, 1, CACHE).await;
    let (mut random, mut model, mut taken) = (Random(0x5eed_0401), vec![0; SIZE], Taken::new());
    let group = create(&lab, &yard).await;
    script(&group, &lab, &mut random, &mut model, &mut taken).await;
    away(&lab);
    scribble(&volume(&group, &lab), &mut model, &mut random, 20).await;
    let waiting = {
        let group = Arc::clone(&group);
        tokio::spawn(async move { group.take_point(PointKind::Manual, "cached").await })
    };
    let server = yard.running(0).expect("runs");
    let last = || group.status().last_lsn;
    let deadline = std::time::Instant::now() + PATIENCE;
    while !server.status().await.iter().any(|stream| stream.cached == last() && stream.shipped < stream.cached) {
        assert!(std::time::Instant::now() < deadline, "nothing was cached: {:?}", server.status().await);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    until("health tells why", || group.status().health != Health::Healthy).await;
    assert!(group.status().shipped_lsn < group.status().last_lsn, "the journal is kept until the vault has it (I-4)");
    let branch = group.status().branch;
    drop(server);
    // The agent never comes back; the process server is killed, and comes back.
    group.close(Duration::ZERO).await;
    waiting.abort();
    yard.kill(0);
    yard.start(0).await;
    lab.store.clear();
    let deadline = std::time::Instant::now() + PATIENCE;
    let found = loop {
        let listed = list_points(&lab.vault, lab.group, branch).await.expect("lists");
        if let Some(found) = listed.into_iter().find(|point| point.label == "cached") {
            break found;
        }
        assert!(std::time::Instant::now() < deadline, "what was cached never landed");
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    assert_same(&lab.content_at(&found).await, &model, "cached by the process server, written by nobody else");
    // And failed over to, as any other group.
    let recovery = lab.fail_over(branch, false).await;
    assert_same(&content(&volume(&recovery, &lab)).await, &model, "at the recovery site");
    recovery.close(Duration::ZERO).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_cached_is_shipped_by_nobody_once_another_epoch_was_opened() {
    for by_recovery in [false, true] {
        let lab = Lab::new().await;
        let yard = Yard::new(&lab, 2, CACHE).await;
        let (mut random, mut model, mut taken) = (Random(0x5eed_0402), vec![0; SIZE], Taken::new());
        let group = create(&lab, &yard).await;
        script(&group, &lab, &mut random, &mut model, &mut taken).await;
        // The first one can't reach the vault any more, and caches on. The second one isn't there yet.
        yard.kill(1);
        yard.kill(0);
        let mortal = yard.start_mortal(0, 1 << 40, false).await;
        scribble(&volume(&group, &lab), &mut model, &mut random, 5).await;
        point(&group, "before", &model, &mut taken).await;
        mortal.kill();
        let before = model.clone();
        scribble(&volume(&group, &lab), &mut model, &mut random, 5).await;
        let waiting = {
            let group = Arc::clone(&group);
            tokio::spawn(async move { group.take_point(PointKind::Manual, "in between").await })
        };
        let server = yard.running(0).expect("runs");
        let deadline = std::time::Instant::now() + PATIENCE;
        while !server.status().await.iter().any(|stream| stream.cached > stream.shipped) {
            assert!(std::time::Instant::now() < deadline, "nothing was cached");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        drop(server);
        let branch = group.status().branch;
        if by_recovery {
            let recovery = lab.fail_over(branch, false).await;
            assert_same(&content(&volume(&recovery, &lab)).await, &before, "at the recovery site");
            // It comes back, with its cache, and finds that the branch is another's.
            yard.kill(0);
            yard.start(0).await;
            let server = yard.running(0).expect("runs");
            let deadline = std::time::Instant::now() + PATIENCE;
            while !server.status().await.iter().any(|stream| stream.trouble.contains("taken the branch over")) {
                assert!(std::time::Instant::now() < deadline, "{:?}", server.status().await);
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            assert!(server.status().await.iter().all(|stream| stream.cached_bytes > 0), "what it holds is kept");
            until("the agent is fenced", || group.status().state == GroupState::Fenced).await;
            assert!(volume(&group, &lab).read_only());
            assert_same(&content(&volume(&group, &lab)).await, &model, "still readable at the agent");
            waiting.await.expect("ends").expect_err("fenced");
            assert_same(&content(&volume(&recovery, &lab)).await, &before, "nothing was added there");
            recovery.close(Duration::ZERO).await;
        } else {
            // The agent goes to the second one; the first one comes back meanwhile.
            yard.start(1).await;
            yard.prefer(1);
            yard.kill(0);
            let between = waiting.await.expect("ends").expect("the point lands through the other one");
            taken.push((between, model.clone()));
            yard.start(0).await;
            let server = yard.running(0).expect("runs");
            let deadline = std::time::Instant::now() + PATIENCE;
            while !server.status().await.iter().any(|stream| stream.trouble.contains("another process server")) {
                assert!(std::time::Instant::now() < deadline, "{:?}", server.status().await);
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            until("what belongs to no history takes no room", || server.cache_bytes().0 == 0).await;
            script(&group, &lab, &mut random, &mut model, &mut taken).await;
            // And back to the first one, which begins anew.
            yard.prefer(0);
            yard.kill(1);
            script(&group, &lab, &mut random, &mut model, &mut taken).await;
        }
        check(&lab, &group, &taken).await;
        group.close(Duration::ZERO).await;
    }
}

/// Waits until the agent streams to a process server.
async fn streams_to(yard: &Arc<Yard>, number: usize) {
    let deadline = std::time::Instant::now() + PATIENCE;
    let server = yard.running(number).expect("runs");
    while !server.status().await.iter().any(|stream| stream.attached && stream.open) {
        assert!(std::time::Instant::now() < deadline, "nobody streams to {number}: {:?}", server.status().await);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_is_sent_away_goes_on_elsewhere_and_nothing_is_lost_or_shipped_twice() {
    let lab = Lab::new().await;
    let yard = Yard::new(&lab, 2, CACHE).await;
    let (mut random, mut model, mut taken) = (Random(0x5eed_0601), vec![0; SIZE], Taken::new());
    let group = create(&lab, &yard).await;
    for round in 0..6 {
        let (here, there) = (round % 2, (round + 1) % 2);
        streams_to(&yard, here).await;
        scribble(&volume(&group, &lab), &mut model, &mut random, 5).await;
        let sent = yard.running(here).expect("runs").send_away(lab.group, "the test says so").await;
        assert!(sent, "it was there");
        // In the middle of it, writes and points go on.
        script(&group, &lab, &mut random, &mut model, &mut taken).await;
        streams_to(&yard, there).await;
        assert_eq!(yard.sent_away.load(std::sync::atomic::Ordering::SeqCst), round + 1, "and stays there");
        assert!(!yard.running(here).expect("runs").send_away(lab.group, "once more").await, "it is gone");
    }
    check(&lab, &group, &taken).await;
    // What is cached while the vault is away is shipped by one of them, whichever comes first, and takes no room after that.
    away(&lab);
    scribble(&volume(&group, &lab), &mut model, &mut random, 5).await;
    let waiting = {
        let group = Arc::clone(&group);
        tokio::spawn(async move { group.take_point(PointKind::Manual, "in between").await })
    };
    let server = yard.running(0).expect("runs");
    until("something is cached", || server.cache_bytes().0 > 0).await;
    assert!(server.send_away(lab.group, "the test says so").await, "it was there");
    lab.store.clear();
    let between = waiting.await.expect("ends").expect("the point lands");
    taken.push((between, model.clone()));
    streams_to(&yard, 1).await;
    until("what was left behind is given up", || server.cache_bytes().0 == 0).await;
    point(&group, "last", &model, &mut taken).await;
    check(&lab, &group, &taken).await;
    group.close(Duration::ZERO).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_is_sent_away_from_the_only_process_server_is_taken_in_again() {
    let lab = Lab::new().await;
    let yard = Yard::new(&lab, 1, CACHE).await;
    let (mut random, mut model, mut taken) = (Random(0x5eed_0602), vec![0; SIZE], Taken::new());
    let group = create(&lab, &yard).await;
    for _ in 0..3 {
        streams_to(&yard, 0).await;
        assert!(yard.running(0).expect("runs").send_away(lab.group, "the test says so").await);
        script(&group, &lab, &mut random, &mut model, &mut taken).await;
    }
    check(&lab, &group, &taken).await;
    group.close(Duration::ZERO).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_server_says_how_it_is_before_a_line_is_used() {
    let lab = Lab::new().await;
    let yard = Yard::new(&lab, 1, CACHE).await;
    let (mut line, server) = yard.connect().await.expect("a line");
    let standing = survey(&mut line, &server).await.expect("answers");
    assert_eq!((standing.agents, standing.cache_bytes, standing.cache_bytes_limit), (0, 0, CACHE));
    let group = create(&lab, &yard).await;
    streams_to(&yard, 0).await;
    let (mut line, server) = yard.connect().await.expect("a line");
    assert_eq!(survey(&mut line, &server).await.expect("answers").agents, 1);
    // Once, and then the line is for something.
    survey(&mut line, &server).await.expect_err("asked twice");
    group.close(Duration::ZERO).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_cache_holds_the_agent_back_whose_journal_collapses_and_is_resynced() {
    let lab = Lab::new().await;
    let yard = Yard::new(&lab, 1, 1 << 20).await;
    let (mut random, mut model, mut taken) = (Random(0x5eed_0501), vec![0; 8 << 20], Taken::new());
    let mut config = yard.config(&lab);
    config.settings.point_interval = Duration::from_millis(200);
    config.settings.journal_bytes = 8 << 20;
    config.settings.resync.collapse_after = Duration::from_millis(200);
    let group = Group::create(config, specs(&lab, 8 << 20)).await.expect("creates the group");
    point(&group, "before", &model, &mut taken).await;
    away(&lab);
    let begun = std::time::Instant::now();
    while group.resync_status().is_none() {
        assert!(begun.elapsed() < PATIENCE, "the journal never collapsed: {:?}", group.status());
        scribble(&volume(&group, &lab), &mut model, &mut random, 20).await;
        group.doubt().expect("asks");
    }
    let (used, limit) = yard.running(0).expect("runs").cache_bytes();
    assert!(used <= limit + (25 << 20), "{used} bytes are cached, {limit} may be");
    lab.store.clear();
    group.resynced(PATIENCE).await.expect("is resynced");
    point(&group, "after", &model, &mut taken).await;
    check(&lab, &group, &taken).await;
    group.close(Duration::ZERO).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_writes_its_own_volumes_and_an_idle_one_learns_that_it_is_fenced() {
    let lab = Lab::new().await;
    let yard = Yard::new(&lab, 1, CACHE).await;
    let group = create(&lab, &yard).await;
    volume(&group, &lab).write(0, Bytes::from(vec![7; 4096])).await.expect("writes");
    group.take_point(PointKind::Manual, "own").await.expect("a point");
    let mut foreign = lab.specs();
    foreign[0].id = lifeboat_model::VolumeId::new();
    group.add_volume(foreign.remove(0)).await.expect("the agent doesn't know");
    let waiting = {
        let group = Arc::clone(&group);
        tokio::spawn(async move { group.take_point(PointKind::Manual, "foreign").await })
    };
    until("the process server refuses", || {
        group.status().reasons.iter().any(|reason| reason.contains("may not write"))
    })
    .await;
    waiting.abort();
    group.close(Duration::ZERO).await;

    let lab = Lab::new().await;
    let yard = Yard::new(&lab, 1, CACHE).await;
    let group = create(&lab, &yard).await;
    group.take_point(PointKind::Manual, "own").await.expect("a point");
    let recovery = lab.fail_over(group.status().branch, false).await;
    group.doubt().expect("asks");
    until("it learns", || group.status().state == GroupState::Fenced).await;
    group.close(Duration::ZERO).await;
    let group = Group::open(yard.config(&lab)).await.expect("opens, fenced");
    assert_eq!(group.status().state, GroupState::Fenced);
    group.close(Duration::ZERO).await;
    recovery.close(Duration::ZERO).await;
}

/// Everything at once, by seed: cuts, kills, lost disks, a vault that fails, an agent that is closed and opened.
#[tokio::test(flavor = "multi_thread")]
async fn whatever_happens_in_whatever_order_each_point_is_the_model() {
    for seed in 1..=8 {
        let lab = Lab::new().await;
        let yard = Yard::new(&lab, 2, CACHE).await;
        let (mut random, mut model, mut taken) = (Random(0x5eed_0600 + seed), vec![0; SIZE], Taken::new());
        let mut group = create(&lab, &yard).await;
        let mut log = Vec::new();
        for _ in 0..14 {
            let event = random.below(9);
            log.push(event);
            match event {
                0 => yard.strike_at(1 + random.below(4) as i64, Strike::CutBefore),
                1 => yard.strike_at(1 + random.below(4) as i64, Strike::CutAfter),
                2 => yard.strike_at(1 + random.below(4) as i64, Strike::Kill),
                3 => yard.prefer(random.below(2)),
                4 => {
                    let number = random.below(2);
                    yard.kill(number);
                    yard.prefer(1 - number);
                    yard.start(number).await;
                }
                5 => {
                    let number = random.below(2);
                    yard.lose(number);
                    yard.start(number).await;
                }
                6 => {
                    group.close(Duration::ZERO).await;
                    group =
                        Group::open(yard.config(&lab)).await.unwrap_or_else(|error| panic!("{seed} {log:?}: {error}"));
                }
                7 => lab.store.inject(Rule::new(Effect::FailAfter).key("groups/").times(2)),
                _ => lab.store.inject(Rule::new(Effect::FailBefore).key("groups/").times(4)),
            }
            scribble(&volume(&group, &lab), &mut model, &mut random, 6).await;
            if random.below(3) > 0 {
                println!("seed {seed}: {log:?}");
                point(&group, &format!("point {}", taken.len()), &model, &mut taken).await;
            }
        }
        lab.store.clear();
        point(&group, "last", &model, &mut taken).await;
        check(&lab, &group, &taken).await;
        group.close(Duration::ZERO).await;
    }
}
