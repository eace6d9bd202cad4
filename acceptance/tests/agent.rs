//! A mobility agent in front of a disk, with two process servers: real processes, real mounts, mutual TLS. One of the process servers is
//! killed under load, then the agent's machine burns, and the recovery site has what the disk had. And what an agent is told: points,
//! a resync, and to stop for a switch that loses nothing.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result};
use lifeboat_acceptance::agent::{Agent, SETTLES_WITHIN, once_heard};
use lifeboat_acceptance::content::{content, scribble};
use lifeboat_acceptance::estate::{Estate, Place};
use lifeboat_acceptance::eventually;
use lifeboat_acceptance::gateway::{Gateway, free_address};
use serde_json::Value;

const SIZE: u64 = 24 << 20;

fn refuses_writes(path: &Path) -> Result<()> {
    eventually(&format!("{} to refuse writes", path.display()), SETTLES_WITHIN, || {
        let Ok(file) = File::options().write(true).open(path) else { return Ok(Some(())) };
        Ok(file.write_all_at(&[1; 4096], 0).is_err().then_some(()))
    })
}

/// Two process servers with a vault, at home and at a recovery site, and a server with a disk that has content of its own, enrolled.
struct Shop {
    estate: Estate,
    servers: [String; 2],
    agent: Agent,
    // Dropped last: everything is inside.
    _directory: tempfile::TempDir,
}

impl Shop {
    fn open(label: &str) -> Result<Self> {
        let servers = [free_address()?.to_string(), free_address()?.to_string()];
        let place =
            |server: &String| Place { args: vec!["--listen-data".to_owned(), server.clone()], ..Place::default() };
        let directory = tempfile::tempdir()?;
        let vault = format!("file://{}", directory.path().join("vault").display());
        let places = [place(&servers[0]), place(&servers[1])];
        let mut estate = Estate::protect_between(label, &vault, places, &[("other", 1 << 20)])?;
        estate.add_standby()?;
        estate.open_vault_at_standby()?;

        let endpoints = [estate.primary.endpoint(), estate.standby()?.endpoint()];
        let known = [&*servers[0], &*servers[1]];
        let agent = Agent::enrol(&directory.path().join("server"), "erp", SIZE, &estate.primary, &known, &endpoints)?;
        Ok(Self { estate, servers, agent, _directory: directory })
    }

    /// Waits until the group is shown as protected.
    fn shown(&self) -> Result<()> {
        let standby = self.estate.standby()?;
        eventually("the group to be shown as protected", SETTLES_WITHIN, || {
            let group = standby.json(&["group", "show", "erp"])?;
            Ok(group["status"]["active_branch_id"].is_string().then_some(()))
        })
        .with_context(|| format!("{:?}", standby.json(&["group", "show", "erp"])))
    }
}

/// The file of the agent's volume that a job made.
fn path_of(job: &Value) -> Result<PathBuf> {
    let paths = job["result"]["paths"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let path = paths.into_iter().find(|path| path.ends_with("erp-data.img"));
    path.map(PathBuf::from).with_context(|| format!("the job names no path: {job}"))
}

#[test]
fn a_disk_behind_an_agent_outlives_a_process_server_and_its_own_machine() {
    let mut shop = Shop::open("agent").unwrap();
    let before = content(&shop.agent.disk()).unwrap();
    let notify = shop.agent.dir.join("notify");
    let told = UnixDatagram::bind(&notify).unwrap();
    told.set_read_timeout(Some(SETTLES_WITHIN)).unwrap();
    shop.agent.env("NOTIFY_SOCKET", &notify);
    shop.agent.start().unwrap();
    // The service is up with its mount, and says so once.
    let mut heard = String::new();
    while heard != "READY=1" {
        let mut bytes = [0; 2048];
        let length = told.recv(&mut bytes).unwrap();
        heard = String::from_utf8_lossy(&bytes[..length]).into_owned();
        assert!(heard == "READY=1" || heard.starts_with("STATUS="), "{heard}");
    }
    drop(told);
    let Shop { mut estate, servers, mut agent, _directory } = shop;
    assert!(content(&agent.file()).unwrap() == before, "the disk's own content, in place");
    scribble(&agent.file(), 2, 200).unwrap();
    let first = agent.settled(&[&servers[0], &servers[1]]).unwrap();

    // The process server that it is at is killed while writes go on; the other one goes on with the stream.
    scribble(&agent.file(), 3, 300).unwrap();
    let at_home = first == servers[0];
    if at_home {
        estate.primary.kill9().unwrap();
    } else {
        estate.standby_mut().unwrap().kill9().unwrap();
    }
    scribble(&agent.file(), 4, 300).unwrap();
    let other = if at_home { &*servers[1] } else { &*servers[0] };
    agent.settled(&[other]).unwrap();
    if !at_home {
        estate.standby_mut().unwrap().restart().unwrap();
    }
    let written = content(&agent.file()).unwrap();
    assert!(written != before, "the writes arrived");

    let standby = estate.standby().unwrap();
    eventually("the group to be shown as protected", SETTLES_WITHIN, || {
        let group = standby.json(&["group", "show", "erp"])?;
        Ok(group["status"]["active_branch_id"].is_string().then_some(()))
    })
    .with_context(|| format!("{:?}", standby.json(&["group", "show", "erp"])))
    .unwrap();
    // That it was declared stands in the audit log, under the agent's name, with what came of it.
    let log = standby.json(&["audit", "list", "--who", "erp", "--limit", "1000"]).unwrap();
    let log = log["items"].as_array().or(log.as_array()).cloned().unwrap_or_default();
    let asked = log.iter().find(|record| record["kind"] == "asked" && record["who"]["kind"] == "agent");
    let asked = asked.unwrap_or_else(|| panic!("{log:?}"));
    assert!(asked["what"].as_str().is_some_and(|what| what.starts_with("declare the group erp (")), "{asked}");
    assert!(asked["what"].as_str().is_some_and(|what| what.ends_with(", with erp-data")), "{asked}");
    let answered = log.iter().find(|record| record["kind"] == "answered" && record["request"] == asked["request"]);
    assert_eq!(answered.map(|record| &record["detail"]), Some(&Value::from("declared")), "{log:?}");
    // What its process server puts into the vault is told as for any group: from the catalog, and as counters where that is.
    eventually("what is shipped to be told", SETTLES_WITHIN, || {
        let status = standby.json(&["status"])?;
        let groups = status["protection"].as_array().into_iter().flatten();
        let erp = groups.into_iter().find(|group| group["group"] == "erp").context("the status lacks the group")?;
        let ratio = erp["compression_ratio"].as_f64().is_some_and(|ratio| ratio > 0.0);
        Ok((ratio && erp["shipped_bytes_per_second"].is_f64()).then_some(()))
    })
    .unwrap();
    // The machine burns. The recovery site has everything.
    agent.kill9().unwrap();
    let job = standby.json(&["failover", "unplanned", "--group", "erp"]).unwrap();
    let path = path_of(&job).unwrap();
    let recovered = content(&path).unwrap();
    let differ = written.chunks(4096).zip(recovered.chunks(4096)).filter(|(a, b)| a != b).count();
    assert!(recovered == written, "{differ} blocks differ at the recovery site");
    scribble(&path, 5, 20).unwrap();

    // The agent comes back, and may only be read.
    agent.start().unwrap();
    eventually("the agent to say that it is fenced", SETTLES_WITHIN, || {
        Ok(agent.status().filter(|status| status["state"] == "fenced").map(drop))
    })
    .with_context(|| agent.log())
    .unwrap();
    refuses_writes(&agent.file()).unwrap();
    assert!(content(&agent.file()).unwrap() == written, "still readable");

    // The server was repaired, after all: its own disk is brought to what the recovery site has now.
    let there = content(&path).unwrap();
    assert!(there != written, "the recovery site went on");
    comes_back(standby, &agent).unwrap();
    assert!(content(&agent.file()).unwrap() == there, "back on the server's own disk");
    scribble(&agent.file(), 6, 20).unwrap();
    agent.settled(&[&servers[0], &servers[1]]).unwrap();
    agent.stop().unwrap();
}

/// Writes numbered blocks, each synced before the next, until writes are refused. Gives the last one that was acknowledged.
fn write_until_refused(path: &Path, progress: &AtomicU64) -> u64 {
    let file = File::options().write(true).open(path).expect("opens");
    let mut last = 0_u64;
    loop {
        let number = last + 1;
        let mut block = [0_u8; 4096];
        block[..8].copy_from_slice(&number.to_le_bytes());
        let at = (number % (SIZE / 4096)) * 4096;
        if file.write_all_at(&block, at).and_then(|()| file.sync_data()).is_err() {
            return last;
        }
        last = number;
        progress.store(last, Ordering::SeqCst);
    }
}

#[test]
fn an_agent_takes_a_point_and_stops_for_a_switch_without_loss_when_it_is_told() {
    let mut shop = Shop::open("agent-told").unwrap();
    shop.agent.start().unwrap();
    shop.agent.settled(&[&shop.servers[0], &shop.servers[1]]).unwrap();
    shop.shown().unwrap();
    let standby = shop.estate.standby().unwrap();
    eventually("the agent to be heard", SETTLES_WITHIN, || {
        let asked = standby.run(&["resync", "--group", "erp"])?;
        Ok((asked.code() == 0).then_some(()))
    })
    .with_context(|| shop.agent.log())
    .unwrap();
    scribble(&shop.agent.file(), 2, 50).unwrap();
    let at_the_point = content(&shop.agent.file()).unwrap();
    let point = standby.json(&["point", "take", "--group", "erp", "--label", "before the switch"]).unwrap();
    let id = point["result"]["point_id"].as_str().expect("a point").to_owned();
    let points = standby.json(&["point", "list", "--group", "erp"]).unwrap();
    let points = points["items"].as_array().or(points.as_array()).cloned().unwrap_or_default();
    let listed = points.iter().find(|one| one["id"] == id.as_str()).unwrap_or_else(|| panic!("{points:?}"));
    assert_eq!((&listed["label"], &listed["kind"]), (&Value::from("before the switch"), &Value::from("manual")));
    // It has no hooks.
    assert_eq!(standby.run(&["point", "take", "--group", "erp", "--app-consistent"]).unwrap().code(), 4);

    // Changed behind the agent's back: found by comparing, and replicated.
    shop.agent.stop().unwrap();
    let changed = File::options().write(true).open(shop.agent.disk()).unwrap();
    changed.write_all_at(&[0xbe; 8192], 5 << 20).unwrap();
    changed.sync_all().unwrap();
    shop.agent.start().unwrap();
    let compared = standby.json(&["resync", "--group", "erp", "--compare"]).unwrap();
    let result = &compared["result"];
    assert_eq!((&compared["state"], &result["bytes_changed"]), (&Value::from("succeeded"), &8192.into()), "{compared}");
    assert_eq!(result["bytes_compared"], SIZE, "{compared}");

    // It is told to stop, and goes on: nothing was decided that only a failover could undo.
    let stopped = standby.json(&["release", "--group", "erp"]).unwrap();
    assert_eq!(stopped["state"], "succeeded", "{stopped}");
    refuses_writes(&shop.agent.file()).unwrap();
    let resumed = standby.json(&["resume", "--group", "erp"]).unwrap();
    assert_eq!(resumed["state"], "succeeded", "{resumed}");
    scribble(&shop.agent.file(), 3, 20).unwrap();

    // The switch, while an application writes as fast as it can.
    let written = AtomicU64::new(0);
    let (last, job) = std::thread::scope(|scope| {
        let file = shop.agent.file();
        let writing = scope.spawn(|| write_until_refused(&{ file }, &written));
        eventually("writes", SETTLES_WITHIN, || Ok((written.load(Ordering::SeqCst) > 20).then_some(()))).unwrap();
        let job = standby.json(&["failover", "planned", "--group", "erp"]).unwrap();
        (writing.join().expect("no panic"), job)
    });
    assert_eq!((&job["state"], &job["result"]["rpo_seconds"]), (&Value::from("succeeded"), &Value::from(0.0)), "{job}");
    assert!(last > 20, "writes went on until the switch");
    let path = path_of(&job).unwrap();
    let (here, there) = (content(&shop.agent.file()).unwrap(), content(&path).unwrap());
    assert!(here == there, "everything that the agent had is at the recovery site");
    let at = usize::try_from((last % (SIZE / 4096)) * 4096).unwrap();
    assert_eq!(there[at..at + 8], last.to_le_bytes(), "the last write that was acknowledged");
    assert!(there != at_the_point, "and not the point before");
    scribble(&path, 5, 20).unwrap();
    eventually("the agent to say that it was released", SETTLES_WITHIN, || {
        Ok(shop.agent.status().filter(|status| status["state"] == "standby").map(drop))
    })
    .with_context(|| shop.agent.log())
    .unwrap();

    // Started again it stays what it is.
    shop.agent.kill9().unwrap();
    shop.agent.start().unwrap();
    refuses_writes(&shop.agent.file()).unwrap();

    // And back to the server's own disk: only what differs moves, and the agent is the primary again.
    let there = content(&path).unwrap();
    let standby = shop.estate.standby().unwrap();
    let back = comes_back(standby, &shop.agent).unwrap();
    assert!(back["result"]["orphan_branch_id"].is_null(), "released in order, it had nothing of its own: {back}");
    let moved = back["result"]["bytes_changed"].as_u64().unwrap();
    assert!(moved > 0 && moved < SIZE / 8, "{moved} of {SIZE} bytes moved for 20 blocks: {back}");
    assert!(content(&shop.agent.file()).unwrap() == there, "what the recovery site had");
    scribble(&shop.agent.file(), 6, 20).unwrap();
    let last = shop.agent.settled(&[&shop.servers[0], &shop.servers[1]]);
    last.unwrap();
    let here = content(&shop.agent.file()).unwrap();
    shop.agent.stop().unwrap();
    // It is the disk itself.
    assert!(content(&shop.agent.disk()).unwrap() == here, "after the stop everything is on the disk");
}

/// Fails the group back to its agent.
fn comes_back(gateway: &Gateway, agent: &Agent) -> Result<Value> {
    once_heard(gateway, &["failback", "--group", "erp"], || agent.log())
}
