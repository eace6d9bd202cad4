//! Hosts of their own on one network, each with a packet filter that lets through what the guide on networks says and nothing else:
//! two protected servers, two process servers of which one is the configuration server, object storage, a recovery site.
//!
//! ```text
//! server ─┐ 443, 9443, ┌─ config ─┐
//!         ├── 20004 ──>┤          ├─ storage ─> vault <─ storage ─ recovery
//! server ─┘            └─ second ─┘
//! ```
//! Each of them is killed or cut off in turn while applications write, and everything recovers by itself; then both servers' groups are
//! failed over, and every write that was acknowledged and had landed is there. Nobody calls a protected server, and no gateway is called
//! by the storage or from the recovery site.

use std::ffi::OsString;
use std::fs::File;
use std::net::Ipv4Addr;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lifeboat_acceptance::command::{Daemon, Run};
use lifeboat_acceptance::content::{content, scribble};
use lifeboat_acceptance::estate::{Api, Estate, Place};
use lifeboat_acceptance::gateway::Gateway;
use lifeboat_acceptance::hosts::Host;
use lifeboat_acceptance::lan::{Lan, Port, Rules};
use lifeboat_acceptance::points::shares_anew;
use lifeboat_acceptance::{binaries, cleanup, eventually, mounts};
use lifeboat_api::types::{Gateway as GatewayView, GatewaySpec, Site};
use lifeboat_lab::{Fault, FaultProxy, Moto};
use serde_json::Value;

const SIZE: u64 = 16 << 20;
const BLOCKS: u64 = SIZE / 4096;
const SETTLES_WITHIN: Duration = Duration::from_secs(120);
const MANAGEMENT: u16 = 443;
const DATA: u16 = 9443;
const CONSISTENCY: u16 = 20004;

/// A protected server.
struct Server {
    name: &'static str,
    dir: PathBuf,
    port: Port,
    host: Host,
    process_servers: String,
    coordinators: String,
    endpoints: String,
    agent: Option<Daemon>,
    _unmount: cleanup::Guard,
}

impl Server {
    fn new(name: &'static str, dir: PathBuf, lan: &Lan, last: u8, gateways: [Ipv4Addr; 2]) -> Result<Self> {
        std::fs::create_dir_all(dir.join("mnt"))?;
        File::create(dir.join("disk.raw"))?.set_len(SIZE)?;
        scribble(&dir.join("disk.raw"), u64::from(last), 200)?;
        let host = Host::new()?;
        let port = lan.join(&host, last)?;
        let outbound =
            gateways.iter().flat_map(|gateway| [MANAGEMENT, DATA, CONSISTENCY].map(|port| (*gateway, port))).collect();
        port.filter(&Rules { inbound: Vec::new(), outbound })?;
        let mount = dir.join("mnt");
        let each = |what: fn(Ipv4Addr) -> String| gateways.map(what).join(",");
        Ok(Self {
            name,
            port,
            host,
            process_servers: each(|gateway| format!("{gateway}:{DATA}")),
            coordinators: each(|gateway| format!("{gateway}:{CONSISTENCY}")),
            endpoints: each(|gateway| format!("https://{gateway}:{MANAGEMENT}")),
            agent: None,
            _unmount: cleanup::defer("unmount an agent's disks", move || mounts::unmount_below(&mount)),
            dir,
        })
    }

    fn path(&self, name: &str) -> String {
        self.dir.join(name).display().to_string()
    }

    fn file(&self) -> PathBuf {
        self.dir.join(format!("mnt/volumes/{}-data.img", self.name))
    }

    fn enrol(&self, key: &str) -> Result<()> {
        let (endpoints, state) = (&self.endpoints, self.path("state"));
        let args =
            ["agent", "enrol", "--endpoint", endpoints, "--key-file", "-", "--name", self.name, "--state", &state];
        self.host.run(binaries::lifeboat()?).args(args).input(key).ok().map(drop)
    }

    fn start(&mut self) -> Result<()> {
        let disk = format!("{}-data={}", self.name, self.path("disk.raw"));
        let (state, mount) = (self.path("state"), self.path("mnt"));
        let args = ["agent", "run", "--state", &state, "--mount", &mount, "--disk", &disk, "--group", self.name];
        let more = ["--policy", "standard", "--point-interval", "1s", "--process-server", &self.process_servers];
        let rest = ["--endpoint", &self.endpoints, "--consistency-server", &self.coordinators];
        let args = [&args[..], &more, &rest].concat().into_iter().map(OsString::from).collect();
        let (program, args) = self.host.inside(&binaries::lifeboat()?, args);
        self.agent = Some(Daemon::start(self.name, &program, &args, &[], &self.dir.join("log"))?);
        eventually("the disk to be mounted", SETTLES_WITHIN, || Ok(self.file().exists().then_some(())))
            .with_context(|| self.log())
    }

    fn kill(&mut self) -> Result<()> {
        self.agent.take().context("it runs")?.kill9()?;
        mounts::unmount_below(&self.dir.join("mnt"));
        Ok(())
    }

    fn log(&self) -> String {
        self.agent.as_ref().map_or_else(String::new, |agent| agent.log_tail(30))
    }

    fn status(&self) -> Option<Value> {
        serde_json::from_slice(&std::fs::read(self.dir.join("state/status.json")).ok()?).ok()
    }

    /// Waits until everything that was acknowledged before is in the vault, while more is written.
    fn catches_up(&self) -> Result<()> {
        // What the agent wrote before now may know nothing of the last writes.
        let begun = jiff::Timestamp::now();
        let mut written = None;
        eventually(&format!("{} to catch up", self.name), SETTLES_WITHIN, || {
            let Some(status) = self.status() else { return Ok(None) };
            let time = status["time"].as_str().and_then(|text| text.parse::<jiff::Timestamp>().ok());
            if time.is_none_or(|time| time <= begun) {
                return Ok(None);
            }
            let durable = *written.get_or_insert(status["durable"].as_u64().context("the newest record")?);
            let there = status["shipped"].as_u64().is_some_and(|shipped| shipped >= durable);
            Ok((there && status["state"] == "active" && status["health"] == "healthy").then_some(()))
        })
        .with_context(|| format!("{:?}\n{}", self.status(), self.log()))
    }
}

/// An application: numbered blocks one after the other, each synced before the next, over the whole disk again and again.
struct Load {
    stop: Arc<AtomicBool>,
    last: Arc<AtomicU64>,
    writing: Option<JoinHandle<()>>,
}

impl Load {
    /// Begins after block `after`; ends by itself when a write fails.
    fn start(path: &Path, after: u64) -> Result<Self> {
        let file = File::options().write(true).open(path).with_context(|| format!("open {}", path.display()))?;
        let (stop, last) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(after)));
        let writing = {
            let (stop, last) = (Arc::clone(&stop), Arc::clone(&last));
            std::thread::spawn(move || {
                let mut number = after + 1;
                while !stop.load(Ordering::SeqCst) {
                    let written = file.write_all_at(&numbered(number), number % BLOCKS * 4096);
                    if written.and_then(|()| file.sync_data()).is_err() {
                        return;
                    }
                    last.store(number, Ordering::SeqCst);
                    number += 1;
                }
            })
        };
        Ok(Self { stop, last, writing: Some(writing) })
    }

    /// Waits for some more writes.
    fn goes_on(&self) -> Result<()> {
        let before = self.last.load(Ordering::SeqCst);
        eventually("the application to write on", SETTLES_WITHIN, || {
            Ok((self.last.load(Ordering::SeqCst) > before + 20).then_some(()))
        })
    }

    /// Ends it: the last write that was acknowledged.
    fn end(mut self) -> u64 {
        self.stop.store(true, Ordering::SeqCst);
        if let Some(writing) = self.writing.take() {
            writing.join().expect("it doesn't panic");
        }
        self.last.load(Ordering::SeqCst)
    }
}

fn numbered(number: u64) -> [u8; 4096] {
    let mut block = [0x5a; 4096];
    block[..8].copy_from_slice(&number.to_le_bytes());
    block
}

/// Whether a disk has every one of the last writes up to `last`.
fn holds(path: &Path, last: u64) -> Result<()> {
    let found = content(path)?;
    // The one that was being written at the end may be there too, in place of the oldest.
    for number in last.saturating_sub(BLOCKS - 2).max(1)..=last {
        let at = usize::try_from(number % BLOCKS * 4096)?;
        let there = found.get(at..at + 4096).is_some_and(|block| block == numbered(number));
        ensure!(there, "write {number} of {last} is not in {}", path.display());
    }
    Ok(())
}

/// The file of a server's volume that a failover made.
fn path_of(job: &Value, server: &Server) -> Result<PathBuf> {
    let name = format!("{}-data.img", server.name);
    let paths = job["result"]["paths"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let path = paths.into_iter().find(|path| path.ends_with(&name));
    path.map(PathBuf::from).with_context(|| format!("the job names no path: {job}"))
}

#[test]
fn everything_recovers_behind_packet_filters_whoever_is_killed_or_cut_off() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let lan = Lan::new().unwrap();
    let directory = tempfile::tempdir().unwrap();

    // The storage has an address of its own, and calls nobody.
    let moto = runtime.block_on(Moto::start(&["vaults"])).unwrap();
    let storage = lan.here(9).unwrap();
    let storage = runtime.block_on(FaultProxy::start_at(storage.into(), moto.address())).unwrap();
    let (std::net::IpAddr::V4(vault), vault_port) = (storage.address().ip(), storage.address().port()) else {
        panic!("an IPv4 address")
    };
    // This process sees the gateways from here.
    lan.here(1).unwrap();

    // Who runs gateways: two at home that are called on two ports, one at the recovery site that nobody on the network calls.
    let hosts = [(); 3].map(|()| Host::new().unwrap());
    let [config, second, recovery] =
        [2, 3, 4].map(|last| lan.join(&hosts[last - 2], u8::try_from(last).unwrap()).unwrap());
    for port in [&config, &second] {
        port.filter(&Rules { inbound: vec![MANAGEMENT, DATA, CONSISTENCY], outbound: vec![(vault, vault_port)] })
            .unwrap();
    }
    recovery.filter(&Rules { inbound: Vec::new(), outbound: vec![(vault, vault_port)] }).unwrap();
    let environment = [
        ("AWS_ACCESS_KEY_ID", "AKLAB".to_owned()),
        ("AWS_SECRET_ACCESS_KEY", "canary-bucket-secret".to_owned()),
        ("LIFEBOAT_ALLOW_HTTP_STORAGE", "1".to_owned()),
        ("LIFEBOAT_STORAGE_STALL_SECONDS", "2".to_owned()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .to_vec();
    let place = |host: &Host, port: Option<&Port>| Place {
        host: Some(host.clone()),
        listen: port.map(|port| (port.address, MANAGEMENT).into()),
        args: port
            .map(|port| {
                let at = |listen: &str, number: u16| [listen.to_owned(), format!("{}:{number}", port.address)];
                [at("--listen-data", DATA), at("--listen-consistency", CONSISTENCY)].concat()
            })
            .unwrap_or_default(),
        environment: environment.clone(),
        storage_endpoint: Some(storage.endpoint()),
    };
    let places = [place(&hosts[0], Some(&config)), place(&hosts[2], None)];
    let mut estate = Estate::protect_between("network", "s3://vaults/acme", places, &[("other", 1 << 20)]).unwrap();
    estate.add_standby().unwrap();
    estate.open_vault_at_standby().unwrap();
    Api::of(&estate.primary)
        .unwrap()
        .call(async |client| {
            let site = client.find_by_name::<Site>("onprem").await?.expect("declared");
            let spec = GatewaySpec { site_id: site.id, name: "second".into(), roles: None, mount_path: None };
            client.create::<GatewayView>(&spec).await.map(drop)
        })
        .unwrap();
    let mut other =
        place(&hosts[1], Some(&second)).prepare("onprem", "second", &directory.path().join("second")).unwrap();
    other.restart().unwrap();
    let key = estate.key_file().display().to_string();
    let open = ["vault", "open", "s3://vaults/acme", "--key-file", &key, "--storage-endpoint", &storage.endpoint()];
    other.run(&open).unwrap().ok().unwrap();

    // Two servers, which nobody calls.
    let gateways = [config.address, second.address];
    let mut servers = [("erp", 11), ("shop", 12)]
        .map(|(name, last)| Server::new(name, directory.path().join(name), &lan, last, gateways).unwrap());
    for server in &mut servers {
        let create = ["registration-key", "create", "--site", "onprem", "--name", server.name, "--ttl", "10m"];
        server.enrol(&estate.primary.run(&create).unwrap().ok().unwrap()).unwrap();
        server.start().unwrap();
    }

    // The filters hold: what isn't in the guide gets nowhere.
    for server in &servers {
        assert!(
            server.port.reaches(config.address, DATA).unwrap()
                && server.port.reaches(second.address, MANAGEMENT).unwrap()
        );
        assert!(!server.port.reaches(vault, vault_port).unwrap(), "a protected server reaches the storage");
        assert!(!server.port.reaches(recovery.address, MANAGEMENT).unwrap());
        assert!(!config.reaches(server.port.address, 22).unwrap());
    }
    assert!(config.reaches(vault, vault_port).unwrap() && recovery.reaches(vault, vault_port).unwrap());
    assert!(!recovery.reaches(config.address, MANAGEMENT).unwrap(), "the recovery site needs nobody at home");
    assert!(!config.reaches(second.address, DATA).unwrap(), "process servers don't call one another");

    let mut loads: Vec<Load> = servers.iter().map(|server| Load::start(&server.file(), 0).unwrap()).collect();
    let settled = |servers: &[Server], loads: &[Load], what: &str| {
        for (server, load) in servers.iter().zip(loads) {
            load.goes_on().with_context(|| format!("after {what}: {}", server.log())).unwrap();
            server.catches_up().with_context(|| format!("after {what}")).unwrap();
        }
    };
    settled(&servers, &loads, "the start");

    // Both servers take points together, whoever coordinates them.
    for server in &servers {
        let share = ["group", "share", server.name, "--replication-group", "shop", "--shared-every", "5s"];
        estate.primary.run(&share).unwrap().ok().unwrap();
    }
    let share = |gateway: &Gateway, what: &str| shares_anew(gateway, ["erp", "shop"], SETTLES_WITHIN, what).unwrap();
    share(estate.standby().unwrap(), "a first point that both have");

    estate.primary.kill9().unwrap();
    settled(&servers, &loads, "the death of the configuration server");
    share(estate.standby().unwrap(), "points that the second gateway has them take");
    estate.primary.restart().unwrap();

    second.cut().unwrap();
    settled(&servers, &loads, "a cut line of the second process server");
    second.mend().unwrap();

    storage.plan(|_| Fault::ResetBefore);
    for load in &loads {
        load.goes_on().unwrap();
    }
    storage.plan(|_| Fault::Pass);
    settled(&servers, &loads, "the storage was away");

    other.kill9().unwrap();
    settled(&servers, &loads, "the death of the second process server");
    other.restart().unwrap();

    servers[1].port.cut().unwrap();
    for load in &loads {
        load.goes_on().unwrap();
    }
    servers[1].port.mend().unwrap();
    settled(&servers, &loads, "a server's cable was pulled");

    // A server whose agent is killed has writes fail, and goes on where it was.
    servers[0].kill().unwrap();
    let last = loads.remove(0).end();
    servers[0].start().unwrap();
    holds(&servers[0].file(), last).context("after the agent was killed").unwrap();
    loads.insert(0, Load::start(&servers[0].file(), last).unwrap());
    estate.standby_mut().unwrap().kill9().unwrap();
    estate.standby_mut().unwrap().restart().unwrap();
    settled(&servers, &loads, "an agent and the recovery site were killed");
    share(estate.standby().unwrap(), "points that both have in the end");

    // One goes over in order, under load: not one acknowledged write is lost.
    let standby = estate.standby().unwrap();
    let job = eventually("the agent to be heard", SETTLES_WITHIN, || {
        let asked = standby.run(&["failover", "planned", "--group", "erp", "--output", "json"])?;
        Ok((asked.code() != 4).then_some(asked))
    });
    let job: Value = serde_json::from_str(&job.unwrap().ok().with_context(|| servers[0].log()).unwrap()).unwrap();
    let last = loads.remove(0).end();
    holds(&path_of(&job, &servers[0]).unwrap(), last).context("after the planned failover").unwrap();

    // The other one burns once it has caught up; what it had shipped by then is there.
    let last = loads.remove(0).end();
    servers[1].catches_up().unwrap();
    servers[1].kill().unwrap();
    servers[1].port.cut().unwrap();
    let job = standby.json(&["failover", "unplanned", "--group", "shop"]).unwrap();
    holds(&path_of(&job, &servers[1]).unwrap(), last).context("after the unplanned failover").unwrap();

    // Every log is one chain from its beginning: nothing is missing, nothing there twice.
    let check =
        Run::new(binaries::lifeboat().unwrap()).args(["vault", "check", "s3://vaults/acme", "--key-file", &key]);
    let check = environment.iter().fold(check, |check, (name, value)| check.env(name, value));
    check.env("AWS_ENDPOINT_URL_S3", storage.endpoint()).within(SETTLES_WITHIN).ok().unwrap();
}
