//! A mobility agent in front of a disk, with two process servers: real processes, real mounts, mutual TLS. One of the process servers is
//! killed under load, then the agent's machine burns, and the recovery site has what the disk had.

use std::ffi::OsString;
use std::fs::File;
use std::net::TcpListener;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use lifeboat_acceptance::command::Daemon;
use lifeboat_acceptance::content::{content, scribble};
use lifeboat_acceptance::estate::{Estate, Place};
use lifeboat_acceptance::{binaries, cleanup, eventually, mounts};
use serde_json::Value;

const SIZE: u64 = 24 << 20;
const SETTLES_WITHIN: Duration = Duration::from_secs(120);

/// A port that is free now.
fn free() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("an address").to_string()
}

/// An agent's machine: its directories, and the process while it runs.
struct Agent {
    dir: PathBuf,
    servers: [String; 2],
    endpoints: String,
    process: Option<Daemon>,
    _unmount: cleanup::Guard,
}

impl Agent {
    fn start(&mut self) -> Result<()> {
        let path = |name: &str| self.dir.join(name).display().to_string();
        let args = [
            "agent",
            "run",
            "--state",
            &path("state"),
            "--mount",
            &path("mnt"),
            "--disk",
            &format!("erp-data={}", path("disk.raw")),
            "--group",
            "erp",
            "--policy",
            "standard",
            "--process-server",
            &self.servers.join(","),
            "--endpoint",
            &self.endpoints,
            "--point-interval",
            "1s",
        ]
        .map(OsString::from);
        self.process = Some(Daemon::start("agent", &binaries::lifeboat()?, &args, &[], &self.dir.join("log"))?);
        Ok(())
    }

    fn log(&self) -> String {
        self.process.as_ref().map_or_else(String::new, |process| process.log_tail(30))
    }

    fn file(&self) -> PathBuf {
        self.dir.join("mnt/volumes/erp-data.img")
    }

    fn disk(&self) -> PathBuf {
        self.dir.join("disk.raw")
    }

    fn status(&self) -> Option<Value> {
        serde_json::from_slice(&std::fs::read(self.dir.join("state/status.json")).ok()?).ok()
    }

    /// Waits until the vault has everything that was written, and a recovery point behind it, through a process server that is one
    /// of these.
    fn settled(&self, through: &[&str]) -> Result<String> {
        let begun = jiff::Timestamp::now();
        eventually("everything to be in the vault", SETTLES_WITHIN, || {
            let Some(status) = self.status() else { return Ok(None) };
            let time = |field: &str| status[field].as_str().and_then(|text| text.parse::<jiff::Timestamp>().ok());
            let server = status["process_server"].as_str().unwrap_or_default().to_owned();
            let all = status["shipped"] == status["durable"] && status["resync_bytes_left"].is_null();
            let later = time("time").is_some_and(|time| time > begun) && status["last_point"].is_string();
            Ok((all && later && status["health"] == "healthy" && through.contains(&&*server)).then_some(server))
        })
        .with_context(|| format!("{:?}\n{}", self.status(), self.log()))
    }
}

fn refuses_writes(path: &Path) -> Result<()> {
    eventually(&format!("{} to refuse writes", path.display()), SETTLES_WITHIN, || {
        let Ok(file) = File::options().write(true).open(path) else { return Ok(Some(())) };
        Ok(file.write_all_at(&[1; 4096], 0).is_err().then_some(()))
    })
}

#[test]
fn a_disk_behind_an_agent_outlives_a_process_server_and_its_own_machine() {
    let servers = [free(), free()];
    let place = |server: &String| Place { args: vec!["--listen-data".to_owned(), server.clone()], ..Place::default() };
    let directory = tempfile::tempdir().unwrap();
    let vault = format!("file://{}", directory.path().join("vault").display());
    let places = [place(&servers[0]), place(&servers[1])];
    let mut estate = Estate::protect_between("agent", &vault, places, &[("other", 1 << 20)]).unwrap();
    estate.add_standby().unwrap();
    estate.open_vault_at_standby().unwrap();

    // A disk with content of its own, on a machine that has no credential of the vault.
    let dir = directory.path().join("server");
    std::fs::create_dir_all(dir.join("mnt")).unwrap();
    let mount = dir.join("mnt");
    let mut agent = Agent {
        dir: dir.clone(),
        servers: servers.clone(),
        endpoints: format!("{},{}", estate.primary.endpoint(), estate.standby().unwrap().endpoint()),
        process: None,
        _unmount: cleanup::defer("unmount the agent's disks", move || mounts::unmount_below(&mount)),
    };
    File::create(agent.disk()).unwrap().set_len(SIZE).unwrap();
    scribble(&agent.disk(), 1, 400).unwrap();
    let before = content(&agent.disk()).unwrap();
    let key = estate.primary.run(&["registration-key", "create", "--site", "onprem", "--name", "web", "--ttl", "10m"]);
    let key_file = dir.join("key");
    std::fs::write(&key_file, key.unwrap().ok().unwrap()).unwrap();
    let (state, key_file) = (dir.join("state").display().to_string(), key_file.display().to_string());
    let enrolled = estate.primary.run(&[
        "agent",
        "enrol",
        "--endpoint",
        &estate.primary.endpoint(),
        "--key-file",
        &key_file,
        "--name",
        "web",
        "--state",
        &state,
    ]);
    enrolled.unwrap().ok().unwrap();

    agent.start().unwrap();
    eventually("the disk to be mounted", SETTLES_WITHIN, || Ok(agent.file().exists().then_some(())))
        .with_context(|| agent.log())
        .unwrap();
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

    // What only a gateway could do is refused, and says why.
    let standby = estate.standby().unwrap();
    eventually("the group to be shown as protected", SETTLES_WITHIN, || {
        let group = standby.json(&["group", "show", "erp"])?;
        Ok(group["status"]["active_branch_id"].is_string().then_some(()))
    })
    .with_context(|| format!("{:?}", standby.json(&["group", "show", "erp"])))
    .unwrap();
    // That it was declared stands in the audit log, under the agent's name, with what came of it.
    let log = standby.json(&["audit", "list", "--who", "web", "--limit", "1000"]).unwrap();
    let log = log["items"].as_array().or(log.as_array()).cloned().unwrap_or_default();
    let asked = log.iter().find(|record| record["kind"] == "asked" && record["who"]["kind"] == "agent");
    let asked = asked.unwrap_or_else(|| panic!("{log:?}"));
    assert!(asked["what"].as_str().is_some_and(|what| what.starts_with("declare the group erp (")), "{asked}");
    assert!(asked["what"].as_str().is_some_and(|what| what.ends_with(", with erp-data")), "{asked}");
    let answered = log.iter().find(|record| record["kind"] == "answered" && record["request"] == asked["request"]);
    assert_eq!(answered.map(|record| &record["detail"]), Some(&Value::from("declared")), "{log:?}");
    // What only a gateway could do is refused, and says why.
    let planned = standby.run(&["failover", "planned", "--group", "erp"]).unwrap();
    assert_eq!(planned.code(), 4, "{planned:?}");

    // The machine burns. The recovery site has everything.
    agent.process.take().unwrap().kill9().unwrap();
    let job = standby.json(&["failover", "unplanned", "--group", "erp"]).unwrap();
    let path = job["result"]["paths"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let path = path.into_iter().find(|path| path.ends_with("erp-data.img")).expect("a path").to_owned();
    let recovered = content(Path::new(&path)).unwrap();
    let differ = written.chunks(4096).zip(recovered.chunks(4096)).filter(|(a, b)| a != b).count();
    assert!(recovered == written, "{differ} blocks differ at the recovery site");
    scribble(Path::new(&path), 5, 20).unwrap();

    // The agent comes back, and may only be read.
    mounts::unmount_below(&dir.join("mnt"));
    agent.start().unwrap();
    eventually("the agent to say that it is fenced", SETTLES_WITHIN, || {
        Ok(agent.status().filter(|status| status["state"] == "fenced").map(drop))
    })
    .with_context(|| agent.log())
    .unwrap();
    refuses_writes(&agent.file()).unwrap();
    assert!(content(&agent.file()).unwrap() == written, "still readable");
    agent.process.take().unwrap().stop(Duration::from_secs(60)).unwrap();
}
