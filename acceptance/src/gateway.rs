//! A gateway under test: the real `lifeboat serve`, on loopback or on a host of its own, with directories of its own.
//!
//! ```text
//! DIR/state/   ca.pem, admin.token, journals, images        survives kill9() and restart(): the "machine"
//! DIR/mnt/     the FUSE mount: volumes/ points/ branches/
//! DIR/log      everything that it printed, all starts
//! ```
//! Owns the process and the mount. Both are gone when the value is dropped, however the test ended: first everything
//! mounted below `mnt`, while the gateway still answers, then the process, then a mount that its death left behind.

use std::ffi::OsString;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::command::{Daemon, Outcome, Run};
use crate::hosts::Host;
use crate::{binaries, cleanup, device, eventually, mounts};

/// How long a gateway may take from its start to its first answer. A debug build on a busy machine needs a few seconds;
/// the deadline only bounds a failure.
const READY_WITHIN: Duration = Duration::from_secs(60);
const STOP_WITHIN: Duration = Duration::from_secs(60);
/// A command waits for its job; a failback of a test's volume takes seconds.
const COMMAND_WITHIN: Duration = Duration::from_secs(240);

/// A running gateway, or one that was stopped or killed and can be started again.
#[derive(Debug)]
pub struct Gateway {
    site: String,
    name: String,
    dir: PathBuf,
    state: PathBuf,
    management: SocketAddr,
    host: Option<Host>,
    more_args: Vec<OsString>,
    prefix: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
    // Dropped in this order: mounts, process, remains of its mount.
    unmount_users: Option<cleanup::Guard>,
    process: Option<Daemon>,
    _machines: cleanup::Guard,
    _unmount: cleanup::Guard,
}

/// Ends the machines that a gateway has started: they outlive it, as they should.
fn end_machines(runs: &Path) {
    let Ok(runs) = runs.canonicalize() else { return };
    let Ok(processes) = std::fs::read_dir("/proc") else { return };
    for process in processes.flatten() {
        let pid = process.file_name().to_str().and_then(|name| name.parse::<i32>().ok()).and_then(Pid::from_raw);
        // A machine's process has the directory of its run as its own.
        let inside = std::fs::read_link(process.path().join("cwd")).is_ok_and(|cwd| cwd.starts_with(&runs));
        if let Some(pid) = pid.filter(|_| inside) {
            let _ = kill_process(pid, Signal::KILL);
        }
    }
}

impl Gateway {
    /// Starts a gateway named `name` at site `site`, with everything it keeps below `dir`, and waits until it is ready.
    ///
    /// # Errors
    /// When this machine can't mount, or the gateway doesn't get ready; with the end of its log.
    pub fn start(site: &str, name: &str, dir: &Path) -> Result<Self> {
        let mut gateway = Self::prepare(site, name, dir)?;
        gateway.restart()?;
        Ok(gateway)
    }

    /// Everything but the start itself: for tests of starts that fail ([`Gateway::refused_start`]).
    ///
    /// # Errors
    /// When this machine can't mount, or a directory can't be made.
    pub fn prepare(site: &str, name: &str, dir: &Path) -> Result<Self> {
        device::require()?;
        for part in ["state", "mnt"] {
            let path = dir.join(part);
            std::fs::create_dir_all(&path).with_context(|| format!("create {}", path.display()))?;
        }
        let mount = dir.join("mnt");
        let unmount = cleanup::defer(format!("unmount {}", mount.display()), move || mounts::unmount_below(&mount));
        let runs = dir.join("state/compute");
        let machines = cleanup::defer(format!("end the machines of {name}"), move || end_machines(&runs));
        Ok(Self {
            site: site.to_owned(),
            name: name.to_owned(),
            dir: dir.to_owned(),
            state: dir.join("state"),
            management: free_address()?,
            host: None,
            more_args: Vec::new(),
            prefix: Vec::new(),
            environment: Vec::new(),
            unmount_users: None,
            process: None,
            _machines: machines,
            _unmount: unmount,
        })
    }

    /// Makes it run on this host from the next start on. It listens there at the port that it has, where this process
    /// reaches it whatever happens to the host's line.
    pub fn on(&mut self, host: &Host) -> &mut Self {
        self.management.set_ip(host.address().into());
        self.host = Some(host.clone());
        self
    }

    /// Has it keep its state in this directory, from its first start on. It starts no machines there.
    pub fn keep_in(&mut self, state: &Path) -> &mut Self {
        self.state = state.to_owned();
        self
    }

    /// A further argument of `lifeboat serve`, from the next start on.
    pub fn arg(&mut self, arg: impl Into<OsString>) -> &mut Self {
        self.more_args.push(arg.into());
        self
    }

    /// Takes an argument away again, and the value behind it, from the next start on.
    pub fn without(&mut self, name: &str) -> &mut Self {
        if let Some(at) = self.more_args.iter().position(|arg| arg == name) {
            self.more_args.drain(at..(at + 2).min(self.more_args.len()));
        }
        self
    }

    /// A command that becomes it in the end, for example [`crate::confine::Unit::prefix`], from the next start on.
    pub fn under(&mut self, prefix: Vec<OsString>) -> &mut Self {
        self.prefix = prefix;
        self
    }

    /// A variable of its environment, from the next start on.
    pub fn env(&mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> &mut Self {
        self.environment.push((name.into(), value.into()));
        self
    }

    /// Starts it (again) on the same state, and waits until it is ready.
    ///
    /// # Errors
    /// When it runs already, ends instead of getting ready, or isn't ready in time; with the end of its log.
    pub fn restart(&mut self) -> Result<()> {
        if self.process.is_some() {
            bail!("gateway {} runs already", self.name);
        }
        let (program, args) = match &self.host {
            Some(host) => host.inside(&binaries::lifeboat()?, self.serve_args()),
            None => (binaries::lifeboat()?, self.serve_args()),
        };
        let mut line: Vec<OsString> = self.prefix.clone();
        line.push(program.into());
        line.extend(args);
        let program = PathBuf::from(line.remove(0));
        let process = Daemon::start(&self.name, &program, &line, &self.environment, &self.log())?;
        let mount = self.mount();
        self.unmount_users = Some(cleanup::defer(format!("unmount what uses {}", mount.display()), move || {
            mounts::unmount_below(&mount);
        }));
        self.process = Some(process);
        self.wait_ready()
    }

    /// Starts it and expects it to refuse: gives how it ended and what it printed on standard error.
    ///
    /// # Errors
    /// When it runs on instead of ending within twenty seconds.
    pub fn refused_start(&self) -> Result<Outcome> {
        Run::new(binaries::lifeboat()?)
            .args(self.serve_args())
            .envs(&self.environment)
            .within(Duration::from_secs(20))
            .outcome()
    }

    fn serve_args(&self) -> Vec<OsString> {
        let mut args: Vec<OsString> = vec![
            "serve".into(),
            "--state".into(),
            self.state().into(),
            "--mount".into(),
            self.mount().into(),
            "--site".into(),
            self.site.clone().into(),
            "--name".into(),
            self.name.clone().into(),
            "--listen-management".into(),
            self.management.to_string().into(),
        ];
        args.extend(self.more_args.iter().cloned());
        args
    }

    fn wait_ready(&self) -> Result<()> {
        let process = self.running()?;
        eventually(&format!("gateway {} to be ready", self.name), READY_WITHIN, || {
            if let Some(status) = process.ended()? {
                bail!("gateway {} ended instead of getting ready: {status}", self.name);
            }
            let listens = TcpStream::connect_timeout(&self.management, Duration::from_millis(200)).is_ok();
            if !listens || !self.token_file().exists() || !self.ca_file().exists() {
                return Ok(None);
            }
            let status = self.run(&["status", "--output", "json"])?;
            let ready = status.status.success()
                && serde_json::from_str::<serde_json::Value>(&status.stdout)
                    .is_ok_and(|report| report["ready"] == true);
            Ok((ready && mounts::is_mounted(&self.mount())?).then_some(()))
        })
        .with_context(|| process.log_tail(40))
    }

    /// SIGKILL: as if the machine's power was cut, but for the kernel's page cache. Its mount is left behind dead; that
    /// is what a next start has to cope with.
    ///
    /// # Errors
    /// When it doesn't run.
    pub fn kill9(&mut self) -> Result<Instant> {
        let process = self.process.take().with_context(|| format!("gateway {} doesn't run", self.name))?;
        let at = Instant::now();
        process.kill9()?;
        Ok(at)
    }

    /// SIGTERM, and waits for its orderly end with exit code 0.
    ///
    /// # Errors
    /// When it doesn't end in time or reports a failure; with the end of its log.
    pub fn stop(&mut self) -> Result<()> {
        let process = self.process.take().with_context(|| format!("gateway {} doesn't run", self.name))?;
        let status = process.stop(STOP_WITHIN)?;
        if !status.success() {
            bail!("gateway {} stopped with {status}\n{}", self.name, process.log_tail(40));
        }
        Ok(())
    }

    fn running(&self) -> Result<&Daemon> {
        self.process.as_ref().with_context(|| format!("gateway {} doesn't run", self.name))
    }

    /// Its process id.
    ///
    /// # Errors
    /// When it doesn't run.
    pub fn pid(&self) -> Result<u32> {
        Ok(self.running()?.pid())
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where it answers: `https://ADDRESS:PORT`.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("https://{}", self.management)
    }

    /// The address it listens on for management.
    #[must_use]
    pub fn management(&self) -> SocketAddr {
        self.management
    }

    /// Makes it listen elsewhere from the next start on (a port in use, for example).
    pub fn listen_at(&mut self, address: SocketAddr) {
        self.management = address;
    }

    /// Its state directory.
    #[must_use]
    pub fn state(&self) -> PathBuf {
        self.state.clone()
    }

    /// Its mount.
    #[must_use]
    pub fn mount(&self) -> PathBuf {
        self.dir.join("mnt")
    }

    /// What it printed.
    #[must_use]
    pub fn log(&self) -> PathBuf {
        self.dir.join("log")
    }

    /// The certificate of its authority.
    #[must_use]
    pub fn ca_file(&self) -> PathBuf {
        self.state().join("ca.pem")
    }

    /// The administrator's token.
    #[must_use]
    pub fn token_file(&self) -> PathBuf {
        self.state().join("admin.token")
    }

    /// The file of a volume.
    #[must_use]
    pub fn volume(&self, name: &str) -> PathBuf {
        self.mount().join("volumes").join(format!("{name}.img"))
    }

    /// The file of a volume on a branch.
    #[must_use]
    pub fn branch_volume(&self, branch: &str, name: &str) -> PathBuf {
        self.mount().join("branches").join(branch).join(format!("{name}.img"))
    }

    /// The directories of a group's points, oldest first.
    ///
    /// # Errors
    /// When the mount can't be read.
    pub fn point_directories(&self, group: &str) -> Result<Vec<PathBuf>> {
        let dir = self.mount().join("points").join(group);
        let mut found = Vec::new();
        for entry in std::fs::read_dir(&dir).with_context(|| format!("list {}", dir.display()))? {
            found.push(entry.with_context(|| format!("list {}", dir.display()))?.path());
        }
        found.sort();
        Ok(found)
    }

    /// The environment that points the command line and Terraform at this gateway.
    #[must_use]
    pub fn client_environment(&self) -> Vec<(OsString, OsString)> {
        client_environment(&[self])
    }

    /// Runs `lifeboat ARGS` against this gateway, whatever its exit code.
    ///
    /// # Errors
    /// When it can't be run or overruns its deadline.
    pub fn run(&self, args: &[&str]) -> Result<Outcome> {
        Run::new(binaries::lifeboat()?).args(args).envs(&self.client_environment()).within(COMMAND_WITHIN).outcome()
    }

    /// Runs `lifeboat ARGS --output json` against this gateway and reads the document that it prints.
    ///
    /// # Errors
    /// When the exit code is not 0 or the output is no JSON.
    pub fn json(&self, args: &[&str]) -> Result<Value> {
        let mut all = args.to_vec();
        all.extend(["--output", "json"]);
        let text = self.run(&all)?.ok().with_context(|| self.log_tail())?;
        serde_json::from_str(&text).with_context(|| format!("`lifeboat {}` printed no JSON:\n{text}", all.join(" ")))
    }

    /// The last lines of its log.
    #[must_use]
    pub fn log_tail(&self) -> String {
        match &self.process {
            Some(process) => process.log_tail(30),
            None => format!("gateway {} doesn't run; its log is {}", self.name, self.log().display()),
        }
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        drop(self.unmount_users.take());
        drop(self.process.take());
        // `_unmount` follows: the mount that the process left behind, if any.
    }
}

/// The environment that points clients at several gateways, tried in this order.
#[must_use]
pub fn client_environment(gateways: &[&Gateway]) -> Vec<(OsString, OsString)> {
    let join = |part: &dyn Fn(&Gateway) -> OsString| {
        gateways.iter().map(|gateway| part(gateway)).collect::<Vec<_>>().join(std::ffi::OsStr::new(","))
    };
    vec![
        ("LIFEBOAT_ENDPOINT".into(), join(&|gateway| gateway.endpoint().into())),
        ("LIFEBOAT_TOKEN_FILE".into(), join(&|gateway| gateway.token_file().into())),
        ("LIFEBOAT_CA_CERT".into(), join(&|gateway| gateway.ca_file().into())),
    ]
}

/// A loopback address whose port is free now. Another program may take it before it is used: the start then fails and
/// says so.
///
/// # Errors
/// When the system has no port to give.
pub fn free_address() -> Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("find a free port")?;
    listener.local_addr().context("find a free port")
}
