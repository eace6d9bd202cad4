//! Hosts of their own on one network, each with a packet filter that lets through what the guide on networks says and nothing else:
//! two protected servers, two process servers of which one is the configuration server, a master target, object storage, a recovery site.
//!
//! ```text
//! server ─┐ 443, 9443, ┌─ config ─┐          ┌─ master target
//!         ├── 20004 ──>┤          ├─> vault <┤
//! server ─┘            └─ second ─┘          └─ recovery
//! ```
//! Each of them is killed, stopped or cut off in turn while applications write, and everything recovers by itself; the second process
//! server's clock is minutes ahead all the time. Then all groups are failed over, and every write that was acknowledged and had landed is
//! there; a server gets its disk back, and the gateway's group comes home at the master target, both under load. Nobody calls a protected
//! server, and no gateway is called by the storage or from the recovery site.

use std::ffi::OsString;
use std::fs::File;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lifeboat_acceptance::agent::once_heard;
use lifeboat_acceptance::command::{Daemon, Run};
use lifeboat_acceptance::content::scribble;
use lifeboat_acceptance::estate::{Api, Estate, GROUP, Place};
use lifeboat_acceptance::gateway::Gateway;
use lifeboat_acceptance::hosts::Host;
use lifeboat_acceptance::lan::{Lan, Port, Rules};
use lifeboat_acceptance::load::{Load, SIZE, holds};
use lifeboat_acceptance::points::shares_anew;
use lifeboat_acceptance::{binaries, cleanup, eventually, mounts};
use lifeboat_api::types::{
    FailbackMode, FailbackRequest, Gateway as GatewayView, GatewayRole, GatewaySpec, Group, Job, Site,
};
use lifeboat_lab::Moto;
use serde_json::Value;

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

/// The file of a volume that a failover made.
fn path_of(job: &Value, volume: &str) -> Result<PathBuf> {
    let name = format!("{volume}.img");
    let paths = job["result"]["paths"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let path = paths.into_iter().find(|path| path.ends_with(&name));
    path.map(PathBuf::from).with_context(|| format!("the job names no path: {job}"))
}

/// What has a process's clock be four minutes ahead, but for measuring time that passes.
fn wrong_clock() -> Result<[(String, String); 3]> {
    let found = std::fs::read_dir("/usr/lib")?.flatten().map(|one| one.path().join("faketime/libfaketimeMT.so.1"));
    let library = found.into_iter().find(|path| path.exists()).context("libfaketime is missing: run `make deps`")?;
    let library = library.display().to_string();
    let variables = [("LD_PRELOAD", &*library), ("FAKETIME", "+240"), ("FAKETIME_DONT_FAKE_MONOTONIC", "1")];
    Ok(variables.map(|(name, value)| (name.to_owned(), value.to_owned())))
}

/// Storage, gateways and servers, each on a host of its own behind its filter.
struct Network {
    servers: [Server; 2],
    estate: Estate,
    second: Gateway,
    target: Gateway,
    /// The configuration server's, the second process server's, the master target's, the recovery site's.
    ports: [Port; 4],
    storage: Port,
    vault_port: u16,
    moto: Moto,
    environment: Vec<(String, String)>,
    _directory: tempfile::TempDir,
    _lan: Lan,
}

impl Network {
    fn new() -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (lan, directory) = (Lan::new()?, tempfile::tempdir()?);
        // The storage calls nobody.
        let host = Host::new()?;
        let storage = lan.join(&host, 9)?;
        let inside = |program: PathBuf, args| host.inside(&program, args);
        let moto = runtime.block_on(Moto::start_inside(inside, host.address(), &["vaults"]))?;
        let vault_port = moto.address().port();
        storage.filter(&Rules { inbound: vec![vault_port], outbound: Vec::new() })?;
        // An administrator's machine.
        lan.here(1)?;

        // Who runs gateways: two at home that are called on three ports, a third one at home and one at the recovery site that nobody
        // on the network calls.
        let hosts = [Host::new()?, Host::new()?, Host::new()?, Host::new()?];
        let vault = (storage.address, vault_port);
        let join = |n: usize, inbound: Vec<u16>| -> Result<Port> {
            let port = lan.join(&hosts[n], u8::try_from(n)? + 2)?;
            port.filter(&Rules { inbound, outbound: vec![vault] })?;
            Ok(port)
        };
        let called = || vec![MANAGEMENT, DATA, CONSISTENCY];
        let ports = [join(0, called())?, join(1, called())?, join(2, Vec::new())?, join(3, Vec::new())?];
        let environment = [
            ("AWS_ACCESS_KEY_ID", "AKLAB".to_owned()),
            ("AWS_SECRET_ACCESS_KEY", "canary-bucket-secret".to_owned()),
            ("LIFEBOAT_ALLOW_HTTP_STORAGE", "1".to_owned()),
            ("LIFEBOAT_STORAGE_STALL_SECONDS", "5".to_owned()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .to_vec();
        let endpoint = format!("http://{}:{vault_port}", storage.address);
        let place = |n: usize| {
            let at = |listen: &str, number: u16| [listen.to_owned(), format!("{}:{number}", ports[n].address)];
            Place {
                host: Some(hosts[n].clone()),
                listen: (n < 2).then(|| (ports[n].address, MANAGEMENT).into()),
                args: match n {
                    0 | 1 => [at("--listen-data", DATA), at("--listen-consistency", CONSISTENCY)].concat(),
                    _ => Vec::new(),
                },
                environment: environment.clone(),
                storage_endpoint: Some(endpoint.clone()),
                state: None,
            }
        };
        let url = "s3://vaults/acme";
        let mut estate = Estate::protect_between("network", url, [place(0), place(3)], &[("other", SIZE)])?;
        estate.add_standby()?;
        estate.open_vault_at_standby()?;
        let key = estate.key_file().display().to_string();
        let another = |place: Place, name: &str, roles: Option<Vec<GatewayRole>>| -> Result<Gateway> {
            Api::of(&estate.primary)?.call(async |client| {
                let site = client.find_by_name::<Site>("onprem").await?.expect("declared");
                let spec = GatewaySpec { site_id: site.id, name: name.into(), roles, mount_path: None };
                client.create::<GatewayView>(&spec).await.map(drop)
            })?;
            let mut gateway = place.prepare("onprem", name, &directory.path().join(name))?;
            gateway.restart()?;
            gateway.run(&["vault", "open", url, "--key-file", &key, "--storage-endpoint", &endpoint])?.ok()?;
            Ok(gateway)
        };
        let mut wrong = place(1);
        wrong.environment.extend(wrong_clock()?);
        let second = another(wrong, "second", None)?;
        let target = another(place(2), "target", Some(vec![GatewayRole::MasterTarget]))?;

        // Two servers, which nobody calls.
        let gateways = [ports[0].address, ports[1].address];
        let server = |name, last| Server::new(name, directory.path().join(name), &lan, last, gateways);
        let mut servers = [server("erp", 11)?, server("shop", 12)?];
        for server in &mut servers {
            let create = ["registration-key", "create", "--site", "onprem", "--name", server.name, "--ttl", "10m"];
            server.enrol(&estate.primary.run(&create)?.ok()?)?;
            server.start()?;
        }
        Ok(Self {
            servers,
            estate,
            second,
            target,
            ports,
            storage,
            vault_port,
            moto,
            environment,
            _directory: directory,
            _lan: lan,
        })
    }

    /// What isn't in the guide gets nowhere.
    fn is_filtered(&self) -> Result<()> {
        let [config, second, target, recovery] = &self.ports;
        let vault = |port: &Port| port.reaches(self.storage.address, self.vault_port);
        for server in &self.servers {
            ensure!(server.port.reaches(config.address, DATA)? && server.port.reaches(second.address, MANAGEMENT)?);
            ensure!(!vault(&server.port)?, "a protected server reaches the storage");
            ensure!(!server.port.reaches(recovery.address, MANAGEMENT)?);
            ensure!(!config.reaches(server.port.address, 22)?);
        }
        ensure!(vault(config)? && vault(target)? && vault(recovery)?);
        ensure!(!recovery.reaches(config.address, MANAGEMENT)?, "the recovery site needs nobody at home");
        ensure!(!recovery.reaches(target.address, MANAGEMENT)?, "nor does a failback");
        ensure!(!config.reaches(second.address, DATA)?, "process servers don't call one another");
        ensure!(!self.storage.reaches(config.address, MANAGEMENT)?, "the storage calls nobody");
        Ok(())
    }

    /// Waits until the applications write on, and everything that they wrote is in the vault.
    fn settled(&self, loads: &[Load], what: &str) -> Result<()> {
        for (server, load) in self.servers.iter().zip(loads) {
            load.goes_on().with_context(|| format!("after {what}: {}", server.log()))?;
            server.catches_up().with_context(|| format!("after {what}"))?;
        }
        Ok(())
    }

    /// Waits for points that both servers have.
    fn share(&self, what: &str) -> Result<()> {
        shares_anew(self.estate.standby()?, ["erp", "shop"], SETTLES_WITHIN, what)
    }

    /// Has the storage do nothing for a while: nothing is refused, and nothing answered.
    fn pause_storage(&self, paused: bool) -> Result<()> {
        use rustix::process::{Pid, Signal, kill_process};
        let pid = Pid::from_raw(self.moto.pid().cast_signed()).context("it runs")?;
        kill_process(pid, if paused { Signal::STOP } else { Signal::CONT }).context("signal the storage")
    }

    /// Kills, stops and cuts off one after the other.
    fn everything_in_turn(&mut self, loads: &mut Vec<Load>) -> Result<()> {
        self.settled(loads, "the start")?;
        self.share("a first point that both have")?;

        self.estate.primary.kill9()?;
        self.settled(loads, "the death of the configuration server")?;
        self.share("points that the second gateway has them take, whose clock is wrong")?;
        self.estate.primary.restart()?;

        self.ports[1].cut()?;
        self.settled(loads, "a cut line of the second process server")?;
        self.ports[1].mend()?;

        let go_on = |loads: &[Load]| loads.iter().try_for_each(Load::goes_on);
        self.storage.cut()?;
        go_on(loads)?;
        self.storage.mend()?;
        self.settled(loads, "the storage was cut off")?;

        self.pause_storage(true)?;
        go_on(loads)?;
        self.pause_storage(false)?;
        self.settled(loads, "the storage stood still")?;

        self.second.kill9()?;
        self.settled(loads, "the death of the second process server")?;
        self.second.restart()?;

        self.servers[1].port.cut()?;
        go_on(loads)?;
        self.servers[1].port.mend()?;
        self.settled(loads, "a server's cable was pulled")?;

        // A server whose agent is killed has writes fail, and goes on where it was.
        self.servers[0].kill()?;
        let last = loads.remove(0).end();
        self.servers[0].start()?;
        holds(&self.servers[0].file(), last).context("after the agent was killed")?;
        loads.insert(0, Load::start(&self.servers[0].file(), last)?);
        self.estate.standby_mut()?.kill9()?;
        self.estate.standby_mut()?.restart()?;
        self.settled(loads, "an agent and the recovery site were killed")?;
        self.share("points that both have in the end")
    }

    /// A server's group goes over in order and comes home, the application writing on wherever it may: not one acknowledged write is
    /// lost.
    fn there_and_back(&self, load: Load) -> Result<Load> {
        let (server, standby) = (&self.servers[0], self.estate.standby()?);
        let job = once_heard(standby, &["failover", "planned", "--group", "erp"], || server.log())?;
        let (last, path) = (load.end(), path_of(&job, "erp-data")?);
        holds(&path, last).context("after the planned failover")?;
        let load = Load::start(&path, last)?;
        load.goes_on()?;
        once_heard(standby, &["failback", "--group", "erp"], || server.log())?;
        let last = load.end();
        holds(&server.file(), last).context("after the failback")?;
        let load = Load::start(&server.file(), last)?;
        load.goes_on().with_context(|| server.log())?;
        server.catches_up().context("after the failback")?;
        Ok(load)
    }

    /// The gateway's own group goes over, and home to the master target, which is killed on the way.
    fn home_elsewhere(&mut self) -> Result<()> {
        let load = Load::start(&self.estate.primary.volume("other"), 0)?;
        load.goes_on()?;
        let job = self.estate.standby()?.json(&["failover", "planned", "--group", GROUP])?;
        let (last, path) = (load.end(), path_of(&job, "other")?);
        holds(&path, last).context("after the planned failover")?;
        let load = Load::start(&path, last)?;
        load.goes_on()?;
        let api = Api::of(self.estate.standby()?)?;
        let job = api.call(async |client| {
            let target = client.find_by_name::<GatewayView>("target").await?.expect("declared");
            let group = client.find_by_name::<Group>(GROUP).await?.expect("declared");
            let request = FailbackRequest::to(FailbackMode::MinimizeDowntime, target.id);
            client.group_verb(&group.id.to_string(), "failback", &request).await
        })?;
        self.target.kill9()?;
        self.target.restart()?;
        let done: Job = api.call(async |client| client.wait_for_job(&job.id.to_string(), |_| ()).await)?;
        ensure!(done.state == lifeboat_api::JobState::Succeeded, "{done:?}\n{}", self.target.log_tail());
        let (last, file) = (load.end(), self.target.volume("other"));
        eventually("the volume to be served", SETTLES_WITHIN, || Ok(file.exists().then_some(())))?;
        holds(&file, last).context("at the master target")?;
        let load = Load::start(&file, last)?;
        load.goes_on().with_context(|| self.target.log_tail())?;
        holds(&file, load.end()).context("written at the master target")
    }
}

#[test]
fn everything_recovers_behind_packet_filters_whoever_is_killed_or_cut_off() {
    let mut network = Network::new().unwrap();
    network.is_filtered().unwrap();
    let mut loads: Vec<Load> = network.servers.iter().map(|server| Load::start(&server.file(), 0).unwrap()).collect();
    // Both servers take points together, whoever coordinates them.
    for server in &network.servers {
        let share = ["group", "share", server.name, "--replication-group", "shop", "--shared-every", "5s"];
        network.estate.primary.run(&share).unwrap().ok().unwrap();
    }
    network.everything_in_turn(&mut loads).unwrap();

    let erp = network.there_and_back(loads.remove(0)).unwrap();
    network.home_elsewhere().unwrap();

    // A server burns once it has caught up; what it had shipped by then is there.
    let last = loads.remove(0).end();
    let shop = &mut network.servers[1];
    shop.catches_up().unwrap();
    shop.kill().unwrap();
    shop.port.cut().unwrap();
    let job = network.estate.standby().unwrap().json(&["failover", "unplanned", "--group", "shop"]).unwrap();
    holds(&path_of(&job, "shop-data").unwrap(), last).context("after the unplanned failover").unwrap();
    holds(&network.servers[0].file(), erp.end()).context("on the server that came home").unwrap();

    // Every log is one chain from its beginning: nothing is missing, nothing there twice.
    let key = network.estate.key_file().display().to_string();
    let check =
        Run::new(binaries::lifeboat().unwrap()).args(["vault", "check", "s3://vaults/acme", "--key-file", &key]);
    let check = network.environment.iter().fold(check, |check, (name, value)| check.env(name, value));
    let endpoint = format!("http://{}:{}", network.storage.address, network.vault_port);
    check.env("AWS_ENDPOINT_URL_S3", endpoint).within(SETTLES_WITHIN).ok().unwrap();
}
