//! The appliance's console, as a person at its serial line has it.

use std::fs;
use std::io::{Read, Write as _};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use lifeboat_acceptance::command::Run;
use lifeboat_acceptance::eventually;

use super::{Appliance, SETTLES_WITHIN, TOKEN, UNDECLARED};

/// How long a port that should be closed is listened to.
const SILENCE: Duration = Duration::from_secs(5);

/// A person who types on the serial line and reads what comes.
pub(super) struct Terminal {
    line: UnixStream,
    log: PathBuf,
    read: usize,
}

impl Terminal {
    pub(super) fn open(appliance: &Appliance) -> Result<Self> {
        let line = UnixStream::connect(&appliance.line).context("open the serial line")?;
        // What comes is in the log; nobody may wait for it to be taken from here.
        let mut drain = line.try_clone()?;
        std::thread::spawn(move || drop(std::io::copy(&mut drain, &mut std::io::sink())));
        let read = fs::read(&appliance.serial)?.len();
        Ok(Self { line, log: appliance.serial.clone(), read })
    }

    pub(super) fn types(&mut self, text: &str) -> Result<()> {
        self.line.write_all(format!("{text}\n").as_bytes()).context("type")
    }

    /// Reads until this stands there; all that came until then.
    pub(super) fn sees(&mut self, what: &str) -> Result<String> {
        eventually(&format!("{what:?} on the console"), SETTLES_WITHIN, || {
            let all = fs::read(&self.log)?;
            let new = String::from_utf8_lossy(all.get(self.read..).unwrap_or_default()).into_owned();
            Ok(new.find(what).map(|at| {
                let seen = new.get(..at + what.len()).unwrap_or_default().to_owned();
                self.read += seen.len();
                seen
            }))
        })
    }

    /// Types, and reads until something stands there. What is typed stands there too: the words that a command prints at its end are
    /// typed with quotes in them.
    pub(super) fn answers(&mut self, answer: &str, then: &str) -> Result<String> {
        self.types(answer)?;
        self.sees(then)
    }
}

/// Status, network, shell with a wrong and the right token, ports, support bundle. The line of the status that says how much memory is used.
pub(super) fn walk(appliance: &Appliance, place: &Path, fetch: &dyn Fn(&Path) -> Result<()>) -> Result<String> {
    let mut terminal = Terminal::open(appliance)?;
    terminal.answers("", "Choice: ")?;
    let status = terminal.answers("", "Choice: ")?;
    for part in ["State      ready", "gw-test at onprem", "slot a", "main healthy", "DHCP (by the", "SHA-256"] {
        ensure!(status.contains(part), "{part:?} isn't on the console:\n{status}");
    }
    let memory =
        status.lines().find_map(|line| line.trim().strip_prefix("Memory")).context("no memory")?.trim().to_owned();

    // Who has no token gets no shell, and what is typed isn't shown.
    terminal.answers("7", "token (it is not shown")?;
    let refused = terminal.answers("not-the-token-of-this-appliance", "Enter goes on: ")?;
    ensure!(refused.contains("that is not the administrator's token"), "{refused}");
    terminal.answers("", "Choice: ")?;
    terminal.answers("7", "token (it is not shown")?;
    terminal.answers(TOKEN, "/data# ")?;
    let root = terminal
        .answers("echo user=$(id -u) failed=$(systemctl --failed --plain --no-legend | wc -l)", "failed=0\r\n")?;
    ensure!(root.contains("user=0"), "{root}");
    let log = terminal.answers("cat /data/appliance/console.log; echo that''=all", "that=all\r\n")?;
    ensure!(log.contains("a shell was refused") && log.contains("a shell was opened"), "{log}");
    ports(appliance, &mut terminal)?;
    terminal.answers("exit", "Choice: ")?;

    let made = terminal.answers("3", "Enter goes on: ")?;
    ensure!(made.contains("The support bundle is made"), "{made}");
    let bundle = place.join("bundle.tar.zst");
    fetch(&bundle)?;
    let listed = Run::new("tar").args(["--zstd", "-tf"]).arg(&bundle).ok()?;
    for part in ["bundle.json", "api/status.json", "logs/journal.txt", "settings/gateway.toml", "console.log"] {
        ensure!(listed.contains(part), "{part} isn't in the bundle:\n{listed}");
    }
    terminal.answers("", "Choice: ")?;

    // The address that DHCP gave, fixed: this machine's ports lead there.
    terminal.answers("1", "Choice (Enter goes back): ")?;
    terminal.answers("2", "Address with")?;
    ensure!(
        terminal.answers("10.0.2.15", "Address with")?.contains("length of its network"),
        "an address is no network"
    );
    terminal.answers("10.0.2.15/24", "Router")?;
    terminal.answers("10.0.2.2", "DNS servers")?;
    terminal.answers("10.0.2.3", "(y/n)? ")?;
    terminal.answers("y", "The network is set: 10.0.2.15/24")?;
    terminal.sees("Enter goes on: ")?;
    terminal.answers("", "Choice: ")?;
    let mut status = String::new();
    eventually("the gateway on its fixed address", SETTLES_WITHIN, || {
        status = terminal.answers("", "Choice: ")?;
        Ok(["State      ready", "enp0s", "10.0.2.15/24, router 10.0.2.2, DNS 10.0.2.3 (set here)"]
            .iter()
            .all(|part| status.contains(part))
            .then_some(()))
    })
    .with_context(|| status.clone())?;
    Ok(memory)
}

/// The network that the console set is there after a restart with another system's disk.
pub(super) fn kept(appliance: &Appliance) -> Result<()> {
    let mut terminal = Terminal::open(appliance)?;
    terminal.answers("", "Choice: ")?;
    let status = terminal.answers("", "Choice: ")?;
    ensure!(status.contains("10.0.2.15/24, router 10.0.2.2, DNS 10.0.2.3 (set here)"), "{status}");
    Ok(())
}

/// What listens on a port that nobody declared isn't reached; it is once the firewall lets it.
fn ports(appliance: &Appliance, terminal: &mut Terminal) -> Result<()> {
    terminal.answers(
        &format!("systemd-socket-activate -l {UNDECLARED} --accept --inetd /usr/bin/echo lifeboat-is-open & sleep 1; echo it''=listens"),
        "it=listens\r\n",
    )?;
    ensure!(!answers(appliance.undeclared, SILENCE)?, "port {UNDECLARED}, which nobody declared, is open");
    terminal.answers(
        &format!("nft insert rule inet lifeboat input tcp dport {UNDECLARED} accept; echo it''=opened"),
        "it=opened\r\n",
    )?;
    eventually("the port to be open once the firewall lets it", SETTLES_WITHIN, || {
        Ok(answers(appliance.undeclared, SILENCE)?.then_some(()))
    })?;
    terminal.answers("nft -f /etc/nftables.conf; kill %1; wait; echo it''=closed", "it=closed\r\n")?;
    Ok(())
}

/// Whether somebody answers there within a time.
fn answers(port: u16, within: Duration) -> Result<bool> {
    let mut line = TcpStream::connect(("127.0.0.1", port))?;
    line.set_read_timeout(Some(within))?;
    let mut said = [0; 64];
    match line.read(&mut said) {
        Ok(0) => Ok(false),
        Ok(length) if said.get(..length).is_some_and(|said| said.starts_with(b"lifeboat-is-open")) => Ok(true),
        Ok(length) => bail!("another one answers: {:?}", said.get(..length)),
        // Nobody answers, or the way there was closed.
        Err(_) => Ok(false),
    }
}
