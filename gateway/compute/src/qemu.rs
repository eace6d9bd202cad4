//! The `qemu` driver: a QEMU process for each machine on this host, which outlives the gateway that started it.
//!
//! ```text
//! RUNS/RUN ID/
//!   order.json             the order (`runs`)
//!   pid                    QEMU's; gone after an orderly end
//!   qmp.sock               QEMU's control connection
//!   console.log            the serial port; its head is given back to the disk beyond 8 MiB
//!   qemu.log               what QEMU says
//!   uefi-variables.fd      a machine's own
//!   ended                  how a stop ended it, for people
//! ```
//! A start writes the order, starts QEMU with the machine standing still, plugs its taps into their bridges, and lets it
//! run. A crash of the gateway in between leaves a machine that never ran an instruction: the next start kills it and
//! begins anew. A crash afterwards leaves a machine that runs; whoever comes next finds it by its directory
//! (`process`), gives it commands over its socket (`qmp`), and sees its end by its process. QEMU itself locks a disk that
//! it uses, so that even two hosts' worth of mistakes can't run two machines on one file.
//!
//! ```text
//! dhcp      questions for addresses, and answers
//! disks     the files and devices behind disks, also those that were mounted anew
//! host      what this host offers: QEMU, KVM that works, UEFI, memory, rights
//! leases    who answers them on a bridge
//! line      QEMU's command line for an order
//! logs      consoles and logs, bounded
//! network   taps and bridges, networks of a machine's own
//! process   starting, finding and killing QEMU
//! qmp       commands to QEMU
//! status    what QEMU says that a machine does
//! ```

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use serde_json::{Value, json};
use tokio::sync::OnceCell;

use crate::blocking::blocking;
use crate::driver::LISTENS_WITHIN;
use crate::runs::Runs;
use crate::turns::Turns;
use crate::{ComputeError, DiskSource, Driver, Firmware, Join, Order, RunId, RunState, StopOutcome};

mod dhcp;
mod disks;
mod host;
mod leases;
mod line;
mod logs;
mod network;
mod process;
mod qmp;
mod status;

pub use host::{Acceleration, UefiFiles};
use leases::Leases;
use line::{CONSOLE, Facts, VARIABLES};
use logs::{KEPT_BYTES, bound, last_words, tail};
use network::UserNetwork;
use process::{LOG, PID_FILE, Process};
use qmp::{Qmp, QmpError};
use status::{Status, status};

const ENDED: &str = "ended";
/// Longest that QEMU may take from its start to its first answer.
const BEGIN_LIMIT: Duration = Duration::from_secs(30);
/// How long a paused machine has to keep running after it was let go on.
const RESUMED: Duration = Duration::from_secs(1);
/// Longest that QEMU may take to write its disks' caches and end, once it was told to.
const QUIT_LIMIT: Duration = Duration::from_secs(10);
/// Longest that a killed process may take to go: one that waits for a disk goes when the disk answers.
const KILL_LIMIT: Duration = Duration::from_secs(20);
/// Between two presses of the power button: a guest that is still booting doesn't hear the first.
const PRESS_EVERY: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(20);
/// Time between two looks at whether a machine took a connection.
const LISTENS_LOOK: Duration = Duration::from_millis(200);

/// What an administrator may set; everything is found out otherwise.
#[derive(Clone, Debug, Default)]
pub struct QemuSettings {
    /// The program; `qemu-system-x86_64` on the path otherwise.
    pub program: Option<PathBuf>,
    /// UEFI; where distributions put it otherwise.
    pub uefi: Option<UefiFiles>,
    /// How processors are made; KVM where a trial with it succeeds otherwise.
    pub acceleration: Option<Acceleration>,
}

/// Machines by QEMU on this host.
#[derive(Debug)]
pub struct QemuDriver {
    settings: QemuSettings,
    scratch: PathBuf,
    runs: Runs,
    /// Calls that change a run.
    turns: Turns,
    /// Connections to a run's QEMU, which serves one at a time. Taken after `turns`.
    connections: Turns,
    acceleration: OnceCell<Acceleration>,
    leases: Leases,
    /// Counts what needs a name of its own.
    made: AtomicU64,
}

impl QemuDriver {
    /// A driver that keeps its runs in a directory; that is made when needed.
    #[must_use]
    pub fn new(runs: PathBuf, settings: QemuSettings) -> Self {
        Self {
            settings,
            scratch: runs.clone(),
            runs: Runs::new(runs),
            turns: Turns::default(),
            connections: Turns::default(),
            acceleration: OnceCell::new(),
            leases: Leases::default(),
            made: AtomicU64::new(0),
        }
    }

    fn program(&self) -> Result<PathBuf, String> {
        host::program(self.settings.program.as_deref().unwrap_or(Path::new("qemu-system-x86_64")))
    }

    /// A name that nothing else has in a run, whoever made it.
    fn mark(&self) -> String {
        format!("{}-{}", std::process::id(), self.made.fetch_add(1, Ordering::Relaxed))
    }

    async fn acceleration(&self, qemu: &Path) -> Acceleration {
        if let Some(set) = self.settings.acceleration {
            return set;
        }
        let found = self.acceleration.get_or_init(|| async {
            let (found, why) = host::acceleration(qemu, &self.scratch).await;
            tracing::info!(acceleration = ?found, why, "how machines get their processors");
            found
        });
        *found.await
    }

    async fn process(&self, id: &RunId) -> Result<Option<Process>, ComputeError> {
        let run = self.runs.of(id);
        blocking(move || Ok(Process::find(&run))).await
    }

    /// What QEMU says that the machine does, with its reason when it stands still.
    async fn status(&self, id: &RunId) -> Result<Status, QmpError> {
        let _turn = self.connections.take(id).await;
        status(&mut Qmp::connect(&self.runs.of(id)).await?).await
    }

    async fn command(&self, id: &RunId, command: &str, arguments: Value) -> Result<Value, QmpError> {
        let _turn = self.connections.take(id).await;
        Qmp::connect(&self.runs.of(id)).await?.execute(command, arguments).await
    }

    /// Takes a machine that is there already further. Returns whether it runs now; otherwise it can only begin anew.
    ///
    /// # Errors
    /// What it waits for is still away: it goes on standing still, with everything in its memory.
    async fn adopt(&self, id: &RunId, process: &Process) -> Result<bool, ComputeError> {
        let busy = |error: QmpError| ComputeError::retry(format!("run {id} is there and doesn't answer: {error}"));
        let found = self.status(id).await.map_err(busy)?;
        if matches!(found, Status::Unstarted | Status::Broken { .. }) {
            return Ok(false);
        }
        let disks = self.runs.read(id).await?.map(|order| order.disks).unwrap_or_default();
        let replaced = disks::replaced(process, disks).await;
        if found == Status::Running && replaced.is_empty() {
            return Ok(true);
        }
        for (n, source) in &replaced {
            if let Err(error) = self.exchange(id, *n, source).await {
                tracing::warn!(run = %id, disk = n, %error, "a disk that was mounted anew can't be taken up");
                // One that runs has not missed its disk yet.
                return Ok(found == Status::Running);
            }
            tracing::info!(run = %id, disk = n, "a disk that was mounted anew was taken up");
        }
        // What failed is asked of the disks once more.
        self.command(id, "cont", json!({})).await.map_err(busy)?;
        let began = Instant::now();
        while began.elapsed() < RESUMED {
            tokio::time::sleep(PAUSE).await;
            match self.status(id).await.map_err(busy)? {
                Status::Running => {}
                Status::Paused { reason } => {
                    return Err(ComputeError::retry(format!("run {id} still stands still: {reason}")));
                }
                Status::Held => return Err(ComputeError::retry(format!("run {id} was paused by hand just now"))),
                Status::Unstarted | Status::Broken { .. } => return Ok(false),
            }
        }
        Ok(true)
    }

    /// Lets a machine's disk go on with the file that is under its path now.
    async fn exchange(&self, id: &RunId, n: usize, source: &DiskSource) -> Result<(), QmpError> {
        let mark = self.mark();
        let (known, from) = (source.clone(), source.clone());
        let known = tokio::task::spawn_blocking(move || disks::facts(&known)).await.unwrap_or_default();
        let _turn = self.connections.take(id).await;
        disks::exchange(&mut Qmp::connect(&self.runs.of(id)).await?, n, &mark, &from, known).await
    }

    /// Starts QEMU in a run's fresh directory and lets the machine run.
    async fn launch(&self, order: &Order, run: &Path) -> Result<(), ComputeError> {
        let refused = |error: String| ComputeError::refused(format!("machine {}: {error}", order.name));
        let qemu = self.program().map_err(refused)?;
        let acceleration = self.acceleration(&qemu).await;
        let uefi = match order.firmware {
            Firmware::Bios => None,
            Firmware::Uefi => Some(host::uefi(self.settings.uefi.as_ref()).map_err(refused)?),
        };
        let (disks, run_of, variables) = (order.disks.clone(), run.to_owned(), uefi.clone());
        let disks = blocking(move || {
            if let Some(uefi) = variables {
                let copy = run_of.join(VARIABLES);
                fs::copy(&uefi.variables, &copy).map_err(|error| {
                    ComputeError::refused(format!(
                        "{} can't be copied to {}: {error}",
                        uefi.variables.display(),
                        copy.display()
                    ))
                })?;
            }
            Ok(disks.iter().map(|disk| disks::facts(&disk.source)).collect::<Vec<_>>())
        })
        .await?;
        if acceleration == Acceleration::Emulated && order.cpus > 1 {
            tracing::info!(machine = order.name, wanted = order.cpus, "an emulated machine gets one processor");
        }
        let facts = Facts { acceleration, uefi: uefi.as_ref(), disks: &disks };
        let arguments = line::arguments(order, &facts).map_err(refused)?;
        let _turn = self.connections.take(&order.id).await;
        let spawned = process::spawn(&qemu, &arguments, run);
        let mut child = spawned.map_err(|error| refused(format!("{} can't be started: {error}", qemu.display())))?;
        let begun = begin(order, run, &mut child).await;
        if let Err(error) = begun {
            // It never ran an instruction: nothing is lost.
            let _ = child.start_kill();
            let _ = tokio::time::timeout(KILL_LIMIT, child.wait()).await;
            return Err(error);
        }
        Ok(())
    }

    /// Ends a machine without asking it: QEMU writes what it has and goes, or is killed.
    async fn switch_off(&self, id: &RunId, process: &Process) -> Result<(), ComputeError> {
        if self.command(id, "quit", json!({})).await.is_ok() && in_time(QUIT_LIMIT, process).await {
            return Ok(());
        }
        process.kill();
        if in_time(KILL_LIMIT, process).await {
            return Ok(());
        }
        Err(ComputeError::fatal(format!(
            "run {id}: QEMU was killed and doesn't go: the kernel waits for one of its disks; bring that back or restart \
             this host"
        )))
    }

    /// How a machine that runs no more has ended.
    fn how_it_ended(run: &Path) -> String {
        if let Ok(how) = fs::read_to_string(run.join(ENDED)) {
            return how.trim().to_owned();
        }
        if run.join(PID_FILE).exists() {
            return format!("QEMU was killed or crashed: {}", last_words(run));
        }
        "it went down by itself".to_owned()
    }

    /// Takes presses of the power button to the machine until it has gone or patience has.
    async fn ask_to_go(&self, id: &RunId, process: &Process, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        loop {
            // One that can't be asked just now may hear the next.
            let _ = self.command(id, "system_powerdown", json!({})).await;
            let left = deadline.saturating_duration_since(Instant::now());
            if in_time(left.min(PRESS_EVERY), process).await {
                return true;
            }
            if Instant::now() >= deadline {
                return false;
            }
        }
    }
}

#[async_trait]
impl Driver for QemuDriver {
    fn name(&self) -> &'static str {
        "qemu"
    }

    async fn prepare(&self) {
        // Where a hypervisor below only pretends to have KVM, the trial takes seconds.
        if let Ok(qemu) = self.program() {
            self.acceleration(&qemu).await;
        }
    }

    async fn check(&self, order: &Order) -> Vec<String> {
        let mut against = order.faults();
        let named = |error: String| format!("machine {}: {error}", order.name);
        match self.program() {
            Ok(qemu) => {
                let acceleration = self.acceleration(&qemu).await;
                // What a machine that runs already uses is not wanted again.
                if !matches!(self.state(&order.id).await, Ok(RunState::Running | RunState::Paused { .. })) {
                    against.extend(host::room(order, acceleration));
                }
            }
            Err(error) => against.push(named(error)),
        }
        if order.firmware == Firmware::Uefi {
            against.extend(host::uefi(self.settings.uefi.as_ref()).err().map(named));
        }
        let mut bridged = false;
        for (n, interface) in order.interfaces.iter().enumerate() {
            if let Join::Bridge { name } = &interface.join {
                bridged = true;
                against.extend(network::bridge(name).await.err().map(named));
            }
            if let Some(Err(error)) = UserNetwork::of(interface) {
                against.push(named(format!("interface {n}: {error}")));
            }
        }
        if bridged {
            against.extend(host::may_make_taps().err().map(named));
        }
        against
    }

    async fn start(&self, order: &Order) -> Result<(), ComputeError> {
        let faults = order.faults();
        if !faults.is_empty() {
            return Err(ComputeError::refused(faults.join("; ")));
        }
        let _turn = self.turns.take(&order.id).await;
        self.leases.serve(order, &self.runs, true);
        if let Some(process) = self.process(&order.id).await? {
            if self.adopt(&order.id, &process).await? {
                return Ok(());
            }
            self.switch_off(&order.id, &process).await?;
        }
        let (runs, kept) = (self.runs.clone(), order.clone());
        let run = blocking(move || runs.begin(&kept)).await?;
        self.launch(order, &run).await.inspect_err(|error| {
            // For whoever asks later how this machine ended.
            let _ = fs::write(run.join(ENDED), format!("it was not started: {error}"));
        })
    }

    async fn resume(&self, id: &RunId) -> Result<(), ComputeError> {
        let Some(_turn) = self.turns.try_take(id) else {
            return Err(ComputeError::retry(format!("run {id} is being started or stopped: try again later")));
        };
        let Some(process) = self.process(id).await? else { return Ok(()) };
        if matches!(self.status(id).await, Ok(Status::Held)) {
            return Err(ComputeError::refused(format!("run {id} was paused by hand: start it")));
        }
        if self.adopt(id, &process).await? {
            return Ok(());
        }
        Err(ComputeError::refused(format!("run {id} can only begin anew: start it")))
    }

    async fn stop(&self, id: &RunId, patience: Duration) -> Result<StopOutcome, ComputeError> {
        let _turn = self.turns.take(id).await;
        let Some(process) = self.process(id).await? else { return Ok(StopOutcome::WasOff) };
        // One that stands still hears nothing.
        let hears = !matches!(
            self.status(id).await,
            Ok(Status::Paused { .. } | Status::Held | Status::Unstarted | Status::Broken { .. })
        );
        let (outcome, how) = if hears && self.ask_to_go(id, &process, patience).await {
            (StopOutcome::Graceful, "it went down when it was asked to")
        } else {
            self.switch_off(id, &process).await?;
            (StopOutcome::Forced, "it was switched off")
        };
        let ended = self.runs.of(id).join(ENDED);
        if let Err(error) = fs::write(&ended, how) {
            tracing::warn!(%error, path = %ended.display(), "how a machine ended can't be noted");
        }
        Ok(outcome)
    }

    async fn state(&self, id: &RunId) -> Result<RunState, ComputeError> {
        let run = self.runs.of(id);
        let bounded = run.clone();
        blocking(move || {
            for file in [CONSOLE, LOG] {
                bound(&bounded.join(file));
            }
            Ok(())
        })
        .await?;
        if self.process(id).await?.is_some() {
            if let Some(order) = self.runs.read(id).await? {
                // Of a machine that an earlier process started.
                self.leases.serve(&order, &self.runs, false);
            }
            match self.status(id).await {
                Ok(Status::Running) => return Ok(RunState::Running),
                Ok(Status::Paused { reason } | Status::Broken { reason }) => {
                    return Ok(RunState::Paused { reason });
                }
                Ok(Status::Held) => {
                    return Ok(RunState::Paused { reason: "it was paused by hand: start it".to_owned() });
                }
                Ok(Status::Unstarted) => {
                    return Ok(RunState::Paused { reason: "its start was not finished: start it again".to_owned() });
                }
                // It may have ended just now.
                Err(error) if self.process(id).await?.is_some() => {
                    return Err(ComputeError::retry(format!("run {id} is there and doesn't answer: {error}")));
                }
                Err(_) => {}
            }
        }
        Ok(match self.runs.read(id).await? {
            None => RunState::Absent,
            Some(_) => RunState::Stopped { how: Self::how_it_ended(&run) },
        })
    }

    async fn list(&self) -> Result<Vec<RunId>, ComputeError> {
        let runs = self.runs.clone();
        blocking(move || runs.list()).await
    }

    async fn console(&self, id: &RunId, last_bytes: usize) -> Result<Vec<u8>, ComputeError> {
        self.runs.known(id).await?;
        let path = self.runs.of(id).join(CONSOLE);
        blocking(move || {
            bound(&path);
            let last = u64::try_from(last_bytes).unwrap_or(u64::MAX).min(KEPT_BYTES);
            match tail(&path, last) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
                read => read.map_err(|error| ComputeError::fatal(format!("{} can't be read: {error}", path.display()))),
            }
        })
        .await
    }

    async fn screen(&self, id: &RunId) -> Result<Option<Vec<u8>>, ComputeError> {
        self.runs.known(id).await?;
        if self.process(id).await?.is_none() {
            return Ok(None);
        }
        let name = format!("screen-{}.png", self.mark());
        let taken = self.command(id, "screendump", json!({"filename": name, "format": "png"})).await;
        let path = self.runs.of(id).join(name);
        let read = blocking(move || {
            let read = fs::read(&path);
            // After a failure there may be none.
            let _ = fs::remove_file(&path);
            Ok(read)
        })
        .await?;
        match (taken, read) {
            (Ok(_), Ok(picture)) => Ok(Some(picture)),
            (Err(error), _) => Err(ComputeError::retry(format!("run {id}: no picture of its screen: {error}"))),
            (_, Err(error)) => Err(ComputeError::retry(format!("run {id}: no picture of its screen: {error}"))),
        }
    }

    async fn reach(&self, id: &RunId, interface: usize, port: u16) -> Result<SocketAddr, ComputeError> {
        let order = self.runs.known(id).await?;
        let name = &order.name;
        let refused = |error: String| ComputeError::refused(format!("machine {name}: {error}"));
        let found = order.interfaces.get(interface);
        let found = found.ok_or_else(|| refused(format!("it has no interface {interface}")))?;
        let Some(network) = UserNetwork::of(found) else {
            return match (&found.join, found.address) {
                (Join::Bridge { .. }, Some(address)) => Ok(SocketAddr::new(address, port)),
                (Join::Nothing, _) => Err(refused(format!("interface {interface} is plugged into nothing"))),
                _ => Err(refused(format!("the address of interface {interface} is not known: give it one"))),
            };
        };
        let network = network.map_err(refused)?;
        if self.process(id).await?.is_none() {
            return Err(refused("it doesn't run: start it first".to_owned()));
        }
        let _turn = self.connections.take(id).await;
        let failed =
            |error: QmpError| ComputeError::retry(format!("machine {name}: port {port} can't be reached: {error}"));
        let mut qmp = Qmp::connect(&self.runs.of(id)).await.map_err(failed)?;
        let netdev = line::netdev(interface);
        // QEMU itself knows what it forwards already, also from an earlier process.
        let look = |said: &str| network::forwarded(said, &netdev, network.machine, port);
        if let Some(there) = look(&qmp.monitor("info usernet").await.map_err(failed)?) {
            return Ok(there);
        }
        let add = format!("hostfwd_add {netdev} tcp:127.0.0.1:0-{}:{port}", network.machine);
        let said = qmp.monitor(&add).await.map_err(failed)?;
        look(&qmp.monitor("info usernet").await.map_err(failed)?).ok_or_else(|| {
            ComputeError::retry(format!("machine {name}: port {port} can't be reached: {}", said.trim()))
        })
    }

    async fn listens(&self, id: &RunId, interface: usize, port: u16) -> Result<bool, ComputeError> {
        let there = self.reach(id, interface, port).await?;
        let order = self.runs.known(id).await?;
        let connected = tokio::time::timeout(LISTENS_WITHIN, tokio::net::TcpStream::connect(there)).await;
        let Ok(Ok(connection)) = connected else { return Ok(false) };
        let Some(Ok(network)) = order.interfaces.get(interface).and_then(UserNetwork::of) else {
            // On a bridge it is the machine that takes it.
            return Ok(true);
        };
        let failed = |error: QmpError| ComputeError::retry(format!("machine {}: port {port}: {error}", order.name));
        let until = tokio::time::Instant::now() + LISTENS_WITHIN;
        loop {
            let said = {
                let _turn = self.connections.take(id).await;
                let mut qmp = Qmp::connect(&self.runs.of(id)).await.map_err(failed)?;
                qmp.monitor("info usernet").await.map_err(failed)?
            };
            let taken = network::taken(&said, there, network.machine, port);
            if taken || tokio::time::Instant::now() >= until {
                drop(connection);
                return Ok(taken);
            }
            tokio::time::sleep(LISTENS_LOOK).await;
        }
    }

    async fn forget(&self, id: &RunId) -> Result<(), ComputeError> {
        let _turn = self.turns.take(id).await;
        if self.process(id).await?.is_some() {
            return Err(ComputeError::refused(format!("run {id} still runs: stop it first")));
        }
        let (runs, id) = (self.runs.clone(), id.clone());
        blocking(move || runs.remove(&id)).await
    }
}

/// Waits for a QEMU that was just started, plugs the machine in, and lets it run.
async fn begin(order: &Order, run: &Path, child: &mut tokio::process::Child) -> Result<(), ComputeError> {
    let name = &order.name;
    let began = Instant::now();
    let mut qmp = loop {
        let connected = Qmp::connect(run).await;
        let error = match connected {
            Ok(qmp) => break qmp,
            Err(error) => error,
        };
        let ended = child.try_wait().map_err(|error| ComputeError::fatal(format!("machine {name}: {error}")))?;
        if let Some(status) = ended {
            let message = format!("machine {name}: QEMU ended with {status}: {}", last_words(run));
            // QEMU itself ends with 1 when it doesn't like what it was given.
            return Err(if status.code().is_some() {
                ComputeError::refused(message)
            } else {
                ComputeError::fatal(message)
            });
        }
        if began.elapsed() > BEGIN_LIMIT {
            return Err(ComputeError::retry(format!(
                "machine {name}: {error} after {BEGIN_LIMIT:?}: {}",
                last_words(run)
            )));
        }
        tokio::time::sleep(PAUSE).await;
    };
    let failed = |error: QmpError| ComputeError::retry(format!("machine {name}: {error}: {}", last_words(run)));
    for (n, interface) in order.interfaces.iter().enumerate() {
        match &interface.join {
            Join::Bridge { name: bridge } => {
                network::plug(&network::tap(&order.id, n), bridge).await.map_err(|error| {
                    ComputeError::refused(format!(
                        "machine {name}: interface {n} can't be plugged into {bridge}: {error}"
                    ))
                })?
            }
            Join::Nothing => {
                qmp.execute("set_link", json!({"name": line::nic(n), "up": false})).await.map_err(failed)?;
            }
            Join::User { .. } => {}
        }
    }
    qmp.execute("cont", json!({})).await.map_err(failed)?;
    Ok(())
}

async fn in_time(limit: Duration, process: &Process) -> bool {
    tokio::time::timeout(limit, process.ended()).await.is_ok()
}

#[cfg(test)]
mod tests;
