//! A replication group of a gateway's own group and an agent's: an application that writes to both machines, points that both take at
//! one moment, a member that stands still, and a site that burns. What comes up is one moment of the application.

use std::ffi::OsString;
use std::fs::File;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lifeboat_acceptance::command::Daemon;
use lifeboat_acceptance::content::content;
use lifeboat_acceptance::estate::{Estate, GROUP, Place};
use lifeboat_acceptance::gateway::Gateway;
use lifeboat_acceptance::points::shares_anew;
use lifeboat_acceptance::{binaries, cleanup, eventually, mounts};
use rustix::process::Signal;
use serde_json::Value;

const SIZE: u64 = 1 << 20;
const BLOCKS: u64 = SIZE / 4096;
const WITHIN: Duration = Duration::from_secs(120);

/// An application with data on two machines: number n goes to the file n % 2, and is on disk before n + 1 is begun.
struct Application {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
    writing: Option<JoinHandle<()>>,
}

impl Application {
    /// Goes on after number `after`.
    fn start(files: [PathBuf; 2], after: u64) -> Result<Self> {
        let open = |path: &PathBuf| File::options().write(true).open(path).with_context(|| path.display().to_string());
        let files = [open(&files[0])?, open(&files[1])?];
        let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(after)));
        let writing = {
            let (stop, done) = (Arc::clone(&stop), Arc::clone(&done));
            std::thread::spawn(move || {
                for number in after + 1.. {
                    let (file, block) = place(number);
                    let file = &files[file];
                    let written = file.write_all_at(&number.to_le_bytes().repeat(512), block * 4096);
                    if stop.load(Ordering::SeqCst) || written.and_then(|()| file.sync_data()).is_err() {
                        return;
                    }
                    done.store(number, Ordering::SeqCst);
                }
            })
        };
        Ok(Self { stop, done, writing: Some(writing) })
    }

    fn goes_on(&self) -> Result<()> {
        let before = self.done.load(Ordering::SeqCst);
        eventually("the application to go on", WITHIN, || {
            Ok((self.done.load(Ordering::SeqCst) > before + 10).then_some(()))
        })
    }

    fn end(mut self) -> u64 {
        self.stop.store(true, Ordering::SeqCst);
        if let Some(writing) = self.writing.take() {
            writing.join().expect("it doesn't panic");
        }
        self.done.load(Ordering::SeqCst)
    }
}

/// Which file, and which of its blocks, a number goes to.
fn place(number: u64) -> (usize, u64) {
    (usize::from(number % 2 == 1), number / 2 % BLOCKS)
}

/// The newest number in two disks, which hold everything up to it and nothing else.
fn one_moment(disks: [&Path; 2]) -> Result<u64> {
    let found = [content(disks[0])?, content(disks[1])?];
    let stamp = |file: usize, block: u64| -> Result<u64> {
        let at = usize::try_from(block * 4096)?;
        let block = found[file].get(at..at + 4096).context("the disk is too short")?;
        ensure!(block.chunks(8).all(|word| word == &block[..8]), "a block is a mixture");
        Ok(u64::from_le_bytes(block[..8].try_into()?))
    };
    let mut newest = 0;
    for file in 0..2 {
        for block in 0..BLOCKS {
            newest = newest.max(stamp(file, block)?);
        }
    }
    let mut expected = [vec![0; usize::try_from(BLOCKS)?], vec![0; usize::try_from(BLOCKS)?]];
    for number in 1..=newest {
        let (file, block) = place(number);
        expected[file][usize::try_from(block)?] = number;
    }
    for (file, expected) in expected.iter().enumerate() {
        for (block, expected) in (0..).zip(expected) {
            let there = stamp(file, block)?;
            ensure!(
                there == *expected,
                "with number {newest} there, block {block} of disk {file} has {there} instead of {expected}"
            );
        }
    }
    Ok(newest)
}

/// A machine with an agent.
struct Agent {
    dir: PathBuf,
    process: Daemon,
    _unmount: cleanup::Guard,
}

impl Agent {
    fn start(dir: PathBuf, gateway: &Gateway, process_server: &str, coordinator: &str) -> Result<Self> {
        std::fs::create_dir_all(dir.join("mnt"))?;
        File::create(dir.join("disk.raw"))?.set_len(SIZE)?;
        let path = |name: &str| dir.join(name).display().to_string();
        let create = ["registration-key", "create", "--site", "onprem", "--name", "web", "--ttl", "10m"];
        std::fs::write(dir.join("key"), gateway.run(&create)?.ok()?)?;
        let (endpoint, state, key) = (gateway.endpoint(), path("state"), path("key"));
        let enrol = ["agent", "enrol", "--endpoint", &endpoint, "--key-file", &key, "--name", "web", "--state", &state];
        gateway.run(&enrol)?.ok()?;
        let (mnt, disk) = (path("mnt"), format!("erp-data={}", path("disk.raw")));
        let args = ["agent", "run", "--state", &state, "--mount", &mnt, "--disk", &disk, "--group", "erp"];
        let more = ["--policy", "standard", "--process-server", process_server, "--endpoint", &endpoint];
        let rest = ["--consistency-server", coordinator, "--point-interval", "1s"];
        let args: Vec<OsString> = [&args[..], &more, &rest].concat().into_iter().map(OsString::from).collect();
        let process = Daemon::start("agent", &binaries::lifeboat()?, &args, &[], &dir.join("log"))?;
        let mount = dir.join("mnt");
        let unmount = cleanup::defer("unmount the agent's disks", move || mounts::unmount_below(&mount));
        let agent = Self { dir, process, _unmount: unmount };
        eventually("the disk to be mounted", WITHIN, || Ok(agent.file().exists().then_some(())))
            .with_context(|| agent.process.log_tail(30))?;
        Ok(agent)
    }

    fn file(&self) -> PathBuf {
        self.dir.join("mnt/volumes/erp-data.img")
    }
}

fn events(gateway: &Gateway, kind: &str) -> Result<Vec<Value>> {
    let events = gateway.json(&["event", "list"])?;
    let events = events.as_array().cloned().unwrap_or_default();
    Ok(events.into_iter().filter(|event| event["kind"] == kind).collect())
}

fn reasons(gateway: &Gateway, group: &str) -> Result<String> {
    Ok(gateway.json(&["group", "show", group])?["status"]["reasons"].to_string())
}

#[test]
fn machines_of_a_replication_group_come_up_at_one_moment_of_their_application() {
    // Addresses of their own, so that no two of them are given the same port.
    let [data, consistency] = [[127, 0, 0, 2], [127, 0, 0, 3]].map(|ip| {
        let listener = TcpListener::bind(SocketAddr::from((ip, 0))).unwrap();
        listener.local_addr().unwrap().to_string()
    });
    let directory = tempfile::tempdir().unwrap();
    let args = ["--listen-data", &data, "--listen-consistency", &consistency].map(str::to_owned).to_vec();
    let vault = format!("file://{}", directory.path().join("vault").display());
    let places = [Place { args, ..Place::default() }, Place::default()];
    let mut estate = Estate::protect_between("together", &vault, places, &[("orders", SIZE + 4096)]).unwrap();
    estate.add_standby().unwrap();
    estate.open_vault_at_standby().unwrap();
    let agent = Agent::start(directory.path().join("server"), &estate.primary, &data, &consistency).unwrap();
    for gateway in [&estate.primary, estate.standby().unwrap()] {
        eventually("the agent's group to be shown", WITHIN, || {
            let group = gateway.run(&["group", "show", "erp", "--output", "json"])?;
            let group: Value = group.ok().ok().and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default();
            Ok(group["status"]["active_branch_id"].is_string().then_some(()))
        })
        .unwrap();
    }

    // Alone nobody shares anything, and to ask for that says so.
    let standby = estate.standby().unwrap();
    let refused = standby.run(&["failover", "test", "--group", "erp", "--point", "latest-shared"]).unwrap();
    assert!(refused.failure().to_string().contains("shares no points"), "{}", refused.failure());

    for group in [GROUP, "erp"] {
        let share = ["group", "share", group, "--replication-group", "site", "--shared-every", "5s"];
        estate.primary.run(&share).unwrap().ok().unwrap();
    }
    let application = Application::start([estate.primary.volume("orders"), agent.file()], 0).unwrap();
    application.goes_on().unwrap();
    shares_anew(&estate.primary, [GROUP, "erp"], WITHIN, "a first point that both have")
        .with_context(|| format!("{}\n{}", agent.process.log_tail(30), estate.primary.log_tail()))
        .unwrap();

    // A member stands still. Nobody else's writes wait for it for longer than they may, and people are told.
    agent.process.signal(Signal::STOP).unwrap();
    let own = File::options().write(true).open(estate.primary.volume("orders")).unwrap();
    let begun = Instant::now();
    let mut slowest = Duration::ZERO;
    let told = eventually("a word that nothing is shared", WITHIN, || {
        let write = Instant::now();
        // A block that the application doesn't use.
        own.write_all_at(&[7; 4096], SIZE)?;
        own.sync_data()?;
        slowest = slowest.max(write.elapsed());
        Ok(events(&estate.primary, "shared-points.missed")?.into_iter().next())
    })
    .unwrap();
    assert!(told["message"].as_str().is_some_and(|text| text.contains("erp")), "{told}");
    assert!(slowest < begun.elapsed() / 2, "a write waited for {slowest:?}");
    assert!(reasons(&estate.primary, GROUP).unwrap().contains("replication group site"));
    agent.process.signal(Signal::CONT).unwrap();
    application.goes_on().unwrap();
    shares_anew(&estate.primary, [GROUP, "erp"], WITHIN, "points that both have, again").unwrap();
    eventually("the end of the trouble", WITHIN, || {
        let over = !reasons(&estate.primary, GROUP)?.contains("replication group site");
        Ok((over && !events(&estate.primary, "shared-points.resumed")?.is_empty()).then_some(()))
    })
    .unwrap();

    // The coordinator is killed and is back; then the whole site burns while the application writes.
    estate.primary.kill9().unwrap();
    estate.primary.restart().unwrap();
    let last = application.end();
    let files = [estate.primary.volume("orders"), agent.file()];
    let started =
        eventually("the volume to be served again", WITHIN, || Ok(Application::start(files.clone(), last).ok()));
    let application = started.unwrap();
    application.goes_on().unwrap();
    shares_anew(&estate.primary, [GROUP, "erp"], WITHIN, "points that both have after the coordinator was killed")
        .unwrap();
    agent.process.kill9().unwrap();
    mounts::unmount_below(&agent.dir.join("mnt"));
    estate.primary.kill9().unwrap();
    let written = application.end();
    assert!(last > 0 && written > 0);

    let standby = estate.standby().unwrap();
    let up = |group: &str| -> Result<(String, PathBuf)> {
        let job = standby.json(&["failover", "unplanned", "--group", group, "--point", "latest-shared"])?;
        let point = job["result"]["point_id"].as_str().context("the job names its point")?.to_owned();
        let path = job["result"]["paths"][0].as_str().context("the job names a path")?;
        Ok((point, PathBuf::from(path)))
    };
    let ((first, orders), (second, erp)) = (up(GROUP).unwrap(), up("erp").unwrap());
    assert_eq!(first, second, "both come up at the same point");
    let newest = one_moment([&orders, &erp]).unwrap();
    assert!(newest > 0 && newest <= written, "{newest} of {written}");
}
