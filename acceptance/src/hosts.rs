//! Hosts of their own for gateways: network namespaces, each on two lines.
//!
//! ```text
//!   namespace lbacc-PID-N            this machine
//!   line  198.18.x.2/30 ──────────── 198.18.x.1/30    everything that a gateway does; can be cut
//!   hand  198.18.y.2/30 ──────────── 198.18.y.1/30    this process reaches the gateway, always
//! ```
//! Files and mounts are this machine's: only the network is apart. Addresses are of the range for benchmarks (RFC 2544), which no
//! network uses.
//!
//! A host goes when its last handle is dropped, or when the process is interrupted; what a killed run has left behind goes when
//! the next one makes its first host. Needs root and `iproute2`.

use std::ffi::OsString;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Once};

use anyhow::{Context, Result};

use crate::cleanup;
use crate::command::Run;

const PREFIX: &str = "lbacc-";
const NAMESPACES: &str = "/run/netns";
/// Networks of four addresses in 198.18.0.0/15.
const NETWORKS: u32 = 1 << 15;
const FIRST: u32 = u32::from_be_bytes([198, 18, 0, 0]);

static MADE: AtomicU32 = AtomicU32::new(0);
static SWEEP: Once = Once::new();

/// How a line is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// Packets vanish both ways and nothing says so: a broken path behind the next router.
    Silent,
    /// The host sees that its interface is down, and refuses at once to send: a pulled cable.
    Plain,
}

/// A host; clones are handles on the same one.
#[derive(Clone, Debug)]
pub struct Host(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    name: String,
    line: Wire,
    hand: Wire,
    _remove: cleanup::Guard,
}

/// A pair of interfaces between a host and this machine.
#[derive(Debug)]
struct Wire {
    /// The interface of this machine.
    near: String,
    /// The interface of the host.
    far: &'static str,
    near_address: Ipv4Addr,
    far_address: Ipv4Addr,
}

impl Wire {
    fn new(number: u32, far: &'static str) -> Self {
        let network = FIRST + 4 * (std::process::id().wrapping_mul(8).wrapping_add(number) % NETWORKS);
        let near = format!("lb{}-{number}", std::process::id());
        Self { near, far, near_address: (network + 1).into(), far_address: (network + 2).into() }
    }

    fn lay(&self, host: &str) -> Result<()> {
        ip(&["link", "add", &self.near, "type", "veth", "peer", "name", self.far, "netns", host])?;
        ip(&["addr", "add", &format!("{}/30", self.near_address), "dev", &self.near])?;
        ip(&["link", "set", &self.near, "up"])?;
        ip(&["-n", host, "addr", "add", &format!("{}/30", self.far_address), "dev", self.far])?;
        ip(&["-n", host, "link", "set", self.far, "up"])
    }
}

impl Host {
    /// Makes one.
    ///
    /// # Errors
    /// This process may not, or `ip` is missing.
    pub fn new() -> Result<Self> {
        SWEEP.call_once(sweep);
        let number = MADE.fetch_add(2, Ordering::Relaxed);
        let name = format!("{PREFIX}{}-{number}", std::process::id());
        let doomed = name.clone();
        let remove = cleanup::defer(format!("remove the host {name}"), move || remove(&doomed));
        ip(&["netns", "add", &name])?;
        ip(&["-n", &name, "link", "set", "lo", "up"])?;
        let (line, hand) = (Wire::new(number, "line"), Wire::new(number + 1, "hand"));
        line.lay(&name)?;
        hand.lay(&name)?;
        Ok(Self(Arc::new(Inner { name, line, hand, _remove: remove })))
    }

    /// Its network namespace.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Where this process reaches it, whatever happens to its line.
    #[must_use]
    pub fn address(&self) -> Ipv4Addr {
        self.0.hand.far_address
    }

    /// Where it reaches this machine over its line.
    #[must_use]
    pub fn upstream(&self) -> Ipv4Addr {
        self.0.line.near_address
    }

    /// A program and its arguments as they have to be run for the program to run on this host. It keeps its process id, and
    /// unlike with `ip netns exec` its mounts are seen outside.
    #[must_use]
    pub fn inside(&self, program: &Path, args: Vec<OsString>) -> (PathBuf, Vec<OsString>) {
        let namespace = format!("--net={NAMESPACES}/{}", self.0.name);
        ("nsenter".into(), [vec![namespace.into(), program.into()], args].concat())
    }

    /// A program to run on this host.
    #[must_use]
    pub fn run(&self, program: impl AsRef<Path>) -> Run {
        let (program, args) = self.inside(program.as_ref(), Vec::new());
        Run::new(program).args(args)
    }

    /// Cuts its line.
    ///
    /// # Errors
    /// It can't be cut.
    pub fn cut(&self, how: Cut) -> Result<()> {
        let Inner { name, line, .. } = &*self.0;
        match how {
            // A queue that has no room for any packet.
            Cut::Silent => {
                tc(&["qdisc", "replace", "dev", &line.near, "root", "bfifo", "limit", "1"])?;
                tc(&["-n", name, "qdisc", "replace", "dev", line.far, "root", "bfifo", "limit", "1"])
            }
            Cut::Plain => ip(&["-n", name, "link", "set", line.far, "down"]),
        }
    }

    /// Mends its line, however it was cut.
    ///
    /// # Errors
    /// It can't be mended.
    pub fn mend(&self) -> Result<()> {
        let Inner { name, line, .. } = &*self.0;
        tc(&["qdisc", "replace", "dev", &line.near, "root", "pfifo"])?;
        tc(&["-n", name, "qdisc", "replace", "dev", line.far, "root", "pfifo"])?;
        ip(&["-n", name, "link", "set", line.far, "up"])
    }

    /// Makes a bridge on it, with an address of the host's such as `10.30.0.1/24`.
    ///
    /// # Errors
    /// It can't be made.
    pub fn bridge(&self, bridge: &str, address: &str) -> Result<()> {
        let name = &self.0.name;
        ip(&["-n", name, "link", "add", bridge, "type", "bridge"])?;
        ip(&["-n", name, "addr", "add", address, "dev", bridge])?;
        ip(&["-n", name, "link", "set", bridge, "up"])
    }

    /// Plugs another host into a bridge of this one, with an address of its own there.
    ///
    /// # Errors
    /// It can't be plugged in.
    pub fn plug(&self, other: &Self, bridge: &str, address: &str) -> Result<()> {
        let (name, other) = (&self.0.name, &other.0.name);
        let port = format!("p{}", MADE.fetch_add(1, Ordering::Relaxed));
        ip(&["-n", name, "link", "add", &port, "type", "veth", "peer", "name", &port, "netns", other])?;
        ip(&["-n", name, "link", "set", &port, "master", bridge, "up"])?;
        ip(&["-n", other, "addr", "add", address, "dev", &port])?;
        ip(&["-n", other, "link", "set", &port, "up"])
    }
}

fn ip(args: &[&str]) -> Result<()> {
    Run::new("ip").args(args).ok().map(drop).context("hosts of their own need root and iproute2: run `make deps`")
}

fn tc(args: &[&str]) -> Result<()> {
    Run::new("tc").args(args).ok().map(drop)
}

/// Ends what runs on a host and removes it; its lines go with it.
fn remove(name: &str) {
    if !Path::new(NAMESPACES).join(name).exists() {
        return;
    }
    // Whatever runs there was started by the process that made the host.
    let pids = Run::new("ip").args(["netns", "pids", name]).ok().unwrap_or_default();
    for pid in pids.lines().filter_map(|pid| rustix::process::Pid::from_raw(pid.trim().parse().ok()?)) {
        // It may have ended by itself.
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
    }
    if let Err(error) = ip(&["netns", "del", name]) {
        eprintln!("remove the host {name}: {error:#}");
    }
}

/// Removes the hosts of processes that are gone.
fn sweep() {
    let Ok(entries) = std::fs::read_dir(NAMESPACES) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let owner = name.strip_prefix(PREFIX).and_then(|rest| rest.split_once('-')).map(|(pid, _)| pid);
        if owner.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            remove(&name);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    /// Whether a connection over the host's line comes up within a second.
    fn connects(host: &Host, port: u16) -> bool {
        let connect = format!("exec 3<>/dev/tcp/{}/{port}", host.upstream());
        host.run("timeout").args(["1", "bash", "-c", &connect]).outcome().unwrap().status.success()
    }

    #[test]
    fn a_line_is_cut_and_mended() {
        let host = Host::new().unwrap();
        let listener = TcpListener::bind((host.upstream(), 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        assert!(connects(&host, port));
        for how in [Cut::Silent, Cut::Plain] {
            host.cut(how).unwrap();
            assert!(!connects(&host, port), "{how:?}");
            host.mend().unwrap();
            assert!(connects(&host, port), "mended after {how:?}");
        }
    }

    #[test]
    fn a_host_goes_with_its_last_handle_and_those_of_dead_processes_with_the_next_run() {
        let dead = Run::new("sh").args(["-c", "echo $$"]).ok().unwrap();
        let left = format!("{PREFIX}{}-0", dead.trim());
        ip(&["netns", "add", &left]).unwrap();
        sweep();
        assert!(!Path::new(NAMESPACES).join(left).exists());
        let host = Host::new().unwrap();
        let there = Path::new(NAMESPACES).join(&host.0.name);
        let other = host.clone();
        drop(host);
        assert!(there.exists());
        drop(other);
        assert!(!there.exists());
    }
}
