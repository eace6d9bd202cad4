//! A mobility agent on a server of its own: its directories, its disk, and the process while it runs.

use std::ffi::OsString;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::command::{CONFLICT, Daemon};
use crate::content::scribble;
use crate::gateway::Gateway;
use crate::{binaries, cleanup, eventually, mounts};

/// How long an agent may take for anything that is waited for.
pub const SETTLES_WITHIN: Duration = Duration::from_secs(120);

/// Asks a gateway for something of an agent's group, once its agent is heard; gives the JSON of the answer. `log` is the agent's, for
/// messages.
///
/// # Errors
/// It isn't heard, or what was asked fails.
pub fn once_heard(gateway: &Gateway, args: &[&str], log: impl FnOnce() -> String) -> Result<Value> {
    let asked = eventually("the agent to be heard", SETTLES_WITHIN, || {
        let asked = gateway.run(&[args, &["--output", "json"]].concat())?;
        Ok((asked.code() != CONFLICT).then_some(asked))
    });
    let text = asked?.ok().with_context(|| format!("{}\n{}", gateway.log_tail(), log()))?;
    serde_json::from_str(&text).context("no JSON")
}

/// A machine that has no credential of the vault.
#[derive(Debug)]
pub struct Agent {
    /// Its directory.
    pub dir: PathBuf,
    name: String,
    servers: Vec<String>,
    endpoints: String,
    policy: String,
    environment: Vec<(OsString, OsString)>,
    more: Vec<OsString>,
    process: Option<Daemon>,
    _unmount: cleanup::Guard,
}

impl Agent {
    /// Enrols a machine of this name at a gateway; its disk has so many bytes, and content of its own. It knows these process servers, and
    /// these gateways.
    ///
    /// # Errors
    /// When a step fails.
    pub fn enrol(
        dir: &Path,
        name: &str,
        bytes: u64,
        gateway: &Gateway,
        servers: &[&str],
        endpoints: &[String],
    ) -> Result<Self> {
        std::fs::create_dir_all(dir.join("mnt"))?;
        let mount = dir.join("mnt");
        let agent = Self {
            dir: dir.to_owned(),
            name: name.to_owned(),
            servers: servers.iter().map(|server| (*server).to_owned()).collect(),
            endpoints: endpoints.join(","),
            policy: "standard".to_owned(),
            environment: Vec::new(),
            more: Vec::new(),
            process: None,
            _unmount: cleanup::defer(format!("unmount the disks of {name}"), move || mounts::unmount_below(&mount)),
        };
        File::create(agent.disk())?.set_len(bytes)?;
        scribble(&agent.disk(), 1, 100)?;
        let create = ["registration-key", "create", "--site", "onprem", "--name", name, "--ttl", "10m"];
        let key_file = dir.join("key");
        std::fs::write(&key_file, gateway.run(&create)?.ok()?)?;
        let (state, key_file) = (dir.join("state").display().to_string(), key_file.display().to_string());
        let endpoint = gateway.endpoint();
        let enrol =
            ["agent", "enrol", "--endpoint", &endpoint, "--key-file", &key_file, "--name", name, "--state", &state];
        gateway.run(&enrol)?.ok()?;
        Ok(agent)
    }

    /// The policy of its group; `standard` otherwise.
    pub fn under_policy(&mut self, policy: &str) -> &mut Self {
        policy.clone_into(&mut self.policy);
        self
    }

    /// Further arguments, from the next start on.
    pub fn args(&mut self, args: &[&str]) -> &mut Self {
        self.more.extend(args.iter().map(OsString::from));
        self
    }

    /// A variable of its environment, from the next start on.
    pub fn env(&mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> &mut Self {
        self.environment.push((name.into(), value.into()));
        self
    }

    /// Starts it, and waits until its disk is mounted.
    ///
    /// # Errors
    /// When that doesn't happen; with the end of its log.
    pub fn start(&mut self) -> Result<()> {
        let path = |name: &str| self.dir.join(name).display().to_string();
        let args = [
            "agent",
            "run",
            "--state",
            &path("state"),
            "--mount",
            &path("mnt"),
            "--disk",
            &format!("{}-data={}", self.name, path("disk.raw")),
            "--group",
            &self.name,
            "--policy",
            &self.policy,
            "--process-server",
            &self.servers.join(","),
            "--endpoint",
            &self.endpoints,
            "--point-interval",
            "1s",
        ]
        .map(OsString::from);
        let args: Vec<OsString> = args.into_iter().chain(self.more.iter().cloned()).collect();
        self.process =
            Some(Daemon::start(&self.name, &binaries::lifeboat()?, &args, &self.environment, &self.dir.join("log"))?);
        eventually("the disk to be mounted", SETTLES_WITHIN, || Ok(self.file().exists().then_some(())))
            .with_context(|| self.log())
    }

    /// Stops it in order.
    ///
    /// # Errors
    /// When it doesn't run, or doesn't end.
    pub fn stop(&mut self) -> Result<()> {
        let process = self.process.take().with_context(|| format!("the agent {} doesn't run", self.name))?;
        process.stop(Duration::from_secs(60)).map(drop)
    }

    /// SIGKILL; its mount is left behind dead, and taken away.
    ///
    /// # Errors
    /// When it doesn't run.
    pub fn kill9(&mut self) -> Result<()> {
        let process = self.process.take().with_context(|| format!("the agent {} doesn't run", self.name))?;
        process.kill9()?;
        mounts::unmount_below(&self.dir.join("mnt"));
        Ok(())
    }

    /// The end of its log.
    #[must_use]
    pub fn log(&self) -> String {
        self.process.as_ref().map_or_else(String::new, |process| process.log_tail(30))
    }

    /// Its disk, in its mount.
    #[must_use]
    pub fn file(&self) -> PathBuf {
        self.dir.join(format!("mnt/volumes/{}-data.img", self.name))
    }

    /// Its disk itself.
    #[must_use]
    pub fn disk(&self) -> PathBuf {
        self.dir.join("disk.raw")
    }

    /// What it says of itself.
    #[must_use]
    pub fn status(&self) -> Option<Value> {
        serde_json::from_slice(&std::fs::read(self.dir.join("state/status.json")).ok()?).ok()
    }

    /// The process server that it is at.
    #[must_use]
    pub fn server(&self) -> Option<String> {
        self.status()?["process_server"].as_str().map(str::to_owned)
    }

    /// Waits until the vault has everything that was written, and a recovery point behind it, through a process server that is one
    /// of these; gives which one.
    ///
    /// # Errors
    /// When that doesn't happen; with what it says of itself, and the end of its log.
    pub fn settled(&self, through: &[&str]) -> Result<String> {
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
