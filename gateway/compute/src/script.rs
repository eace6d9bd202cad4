//! The `script` driver: machines of any hypervisor or cloud, started and stopped by programs of the administrator's.
//!
//! A directory holds them under fixed names. Each gets the run's order as JSON on its standard input, and in its
//! environment `LIFEBOAT_RUN_ID`, `LIFEBOAT_MACHINE` (the machine's name) and `LIFEBOAT_ACTION` (the program's name).
//!
//! | Program | Also gets | Has to | Prints |
//! |---|---|---|---|
//! | `start` | | start the machine, let it go on when it is paused, do nothing when it runs | |
//! | `stop` | `LIFEBOAT_PATIENCE_SECONDS` | ask it to go down, wait so long, switch it off | `graceful`, `forced` or `was-off`; nothing is `graceful` |
//! | `status` | | look | `running`, `paused WHY`, `stopped HOW` or `absent` |
//! | `check` | | look what speaks against a start | a sentence a line |
//! | `forget` | | remove what is left of the machine | |
//! | `console` | `LIFEBOAT_BYTES` | | the end of the serial console |
//! | `screen` | | | a PNG, or nothing |
//! | `reach` | `LIFEBOAT_INTERFACE`, `LIFEBOAT_PORT` | make the port reachable | `ADDRESS:PORT` |
//!
//! The first three are needed. Exit code 0 is success; 75 (`EX_TEMPFAIL`) asks to be tried again; 78 (`EX_CONFIG`) says
//! that the order or this host has to be changed first; anything else needs a person. The last line on standard error
//! is the reason that people see. Who may own the programs and how they are ended is in `program.rs`.
//!
//! The driver keeps the orders; so machines are listed and stopped by a gateway that did not start them. A crash of the
//! gateway while `start` runs leaves the order: `status` says what came of it, and `start` is run again if need be.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;
use lifeboat_program::{Call, Ended, Unrun, check};

use crate::blocking::blocking;
use crate::runs::Runs;
use crate::turns::Turns;
use crate::{ComputeError, Driver, Join, Order, RunId, RunState, StopOutcome};

/// What every call may say on its standard output, but for consoles and screens.
const OUTPUT_BYTES: usize = 64 << 10;
const SCREEN_BYTES: usize = 16 << 20;
/// `EX_TEMPFAIL` and `EX_CONFIG` of sysexits.h.
const TRY_AGAIN: i32 = 75;
const CHANGE_FIRST: i32 = 78;
const PNG: &[u8] = b"\x89PNG\r\n\x1a\n";

/// How long programs may take.
#[derive(Clone, Copy, Debug)]
pub struct ScriptLimits {
    /// `start`.
    pub start: Duration,
    /// `stop`, beyond the patience that it was given.
    pub stop_beyond: Duration,
    /// Every other one.
    pub other: Duration,
}

impl Default for ScriptLimits {
    fn default() -> Self {
        Self { start: Duration::from_secs(600), stop_beyond: Duration::from_secs(120), other: Duration::from_secs(60) }
    }
}

/// Machines by programs of the administrator's: `start`, `stop`, `status` and a few that may be missing.
#[derive(Debug)]
pub struct ScriptDriver {
    programs: PathBuf,
    limits: ScriptLimits,
    runs: Runs,
    turns: Turns,
}

impl ScriptDriver {
    /// A driver with the programs in one directory that keeps its runs in another; that one is made when needed.
    #[must_use]
    pub fn new(programs: PathBuf, runs: PathBuf, limits: ScriptLimits) -> Self {
        Self { programs, limits, runs: Runs::new(runs), turns: Turns::default() }
    }

    fn has(&self, program: &str) -> bool {
        self.programs.join(program).exists()
    }

    /// Runs a program to its end, whatever that is.
    async fn call(&self, program: &'static str, order: &Order, more: More) -> Result<Ended, ComputeError> {
        let input = serde_json::to_vec(order)
            .map_err(|error| ComputeError::refused(format!("machine {}: the order is no JSON: {error}", order.name)))?;
        let mut environment: Vec<(&'static str, OsString)> = vec![
            ("LIFEBOAT_RUN_ID", order.id.as_str().into()),
            ("LIFEBOAT_MACHINE", order.name.as_str().into()),
            ("LIFEBOAT_ACTION", program.into()),
        ];
        environment.extend(more.environment);
        let call = Call {
            program: self.programs.join(program),
            arguments: Vec::new(),
            input,
            environment: environment.into_iter().map(|(name, value)| (name.to_owned(), value)).collect(),
            limit: more.limit,
            output_bytes: more.output_bytes,
        };
        let machine = &order.name;
        call.run().await.map_err(|error| match error {
            Unrun::Unusable(_) => ComputeError::refused(format!("machine {machine}: {error}")),
            Unrun::TooSlow { .. } => ComputeError::retry(format!("machine {machine}: {error}")),
        })
    }

    /// Runs a program that has to succeed, and returns what it printed.
    async fn output(&self, program: &'static str, order: &Order, more: More) -> Result<Vec<u8>, ComputeError> {
        let ended = self.call(program, order, more).await?;
        if ended.status.success() {
            return Ok(ended.output);
        }
        let path = self.programs.join(program);
        let message = format!("machine {}: {} ended with {}: {}", order.name, path.display(), ended.status, ended.said);
        Err(match ended.status.code() {
            Some(TRY_AGAIN) => ComputeError::retry(message),
            Some(CHANGE_FIRST) => ComputeError::refused(message),
            _ => ComputeError::fatal(message),
        })
    }

    async fn status(&self, order: &Order) -> Result<RunState, ComputeError> {
        let output = self.output("status", order, More::within(self.limits.other)).await?;
        let said = first_line(&output);
        let (word, rest) = said.split_once(char::is_whitespace).unwrap_or((&said, ""));
        let rest = |otherwise: &str| if rest.trim().is_empty() { otherwise.to_owned() } else { rest.trim().to_owned() };
        match word {
            "running" => Ok(RunState::Running),
            "paused" => Ok(RunState::Paused { reason: rest("status doesn't say why") }),
            "stopped" => Ok(RunState::Stopped { how: rest("it is off") }),
            "absent" => Ok(RunState::Absent),
            _ => Err(self.misprint("status", order, &said, "running, paused WHY, stopped HOW or absent")),
        }
    }

    fn misprint(&self, program: &str, order: &Order, said: &str, expected: &str) -> ComputeError {
        let shown = self.programs.join(program);
        let shown = shown.display();
        ComputeError::fatal(format!("machine {}: {shown} printed {said:?}; it has to print {expected}", order.name))
    }
}

#[async_trait]
impl Driver for ScriptDriver {
    fn name(&self) -> &'static str {
        "script"
    }

    async fn check(&self, order: &Order) -> Vec<String> {
        let mut against = order.faults();
        for program in ["start", "stop", "status"] {
            let path = self.programs.join(program);
            against.extend(
                blocking(move || check(&path).map_err(ComputeError::refused)).await.err().map(|e| e.to_string()),
            );
        }
        if !against.is_empty() || !self.has("check") {
            return against;
        }
        match self.call("check", order, More::within(self.limits.other)).await {
            Ok(ended) => {
                let output = String::from_utf8_lossy(&ended.output);
                against.extend(output.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned));
                if against.is_empty() && !ended.status.success() {
                    against.push(format!("machine {}: check ended with {}: {}", order.name, ended.status, ended.said));
                }
            }
            Err(error) => against.push(error.to_string()),
        }
        against
    }

    async fn start(&self, order: &Order) -> Result<(), ComputeError> {
        let faults = order.faults();
        if !faults.is_empty() {
            return Err(ComputeError::refused(faults.join("; ")));
        }
        let _turn = self.turns.take(&order.id).await;
        if let Some(known) = self.runs.read(&order.id).await?
            && self.status(&known).await? == RunState::Running
        {
            return Ok(());
        }
        let (runs, kept) = (self.runs.clone(), order.clone());
        blocking(move || runs.begin(&kept)).await?;
        self.output("start", order, More::within(self.limits.start)).await?;
        Ok(())
    }

    /// By `start`, which is told that the machine is paused by its own `status` alone.
    async fn resume(&self, id: &RunId) -> Result<(), ComputeError> {
        let Some(_turn) = self.turns.try_take(id) else {
            return Err(ComputeError::retry(format!("run {id} is being started or stopped: try again later")));
        };
        let Some(order) = self.runs.read(id).await? else { return Ok(()) };
        if let RunState::Paused { .. } = self.status(&order).await? {
            self.output("start", &order, More::within(self.limits.start)).await?;
        }
        Ok(())
    }

    async fn stop(&self, id: &RunId, patience: Duration) -> Result<StopOutcome, ComputeError> {
        let _turn = self.turns.take(id).await;
        let Some(order) = self.runs.read(id).await? else { return Ok(StopOutcome::WasOff) };
        let seconds = patience.as_secs().to_string();
        let more =
            More::within(patience.saturating_add(self.limits.stop_beyond)).with("LIFEBOAT_PATIENCE_SECONDS", seconds);
        let output = self.output("stop", &order, more).await?;
        let said = first_line(&output);
        match said.as_str() {
            "graceful" | "" => Ok(StopOutcome::Graceful),
            "forced" => Ok(StopOutcome::Forced),
            "was-off" => Ok(StopOutcome::WasOff),
            _ => Err(self.misprint("stop", &order, &said, "graceful, forced, was-off or nothing")),
        }
    }

    /// A run whose machine `status` calls absent has stopped: it was started here, and nothing is left of it there.
    async fn state(&self, id: &RunId) -> Result<RunState, ComputeError> {
        let Some(order) = self.runs.read(id).await? else { return Ok(RunState::Absent) };
        match self.status(&order).await? {
            RunState::Absent => Ok(RunState::Stopped { how: "nothing is left of it".to_owned() }),
            state => Ok(state),
        }
    }

    async fn list(&self) -> Result<Vec<RunId>, ComputeError> {
        let runs = self.runs.clone();
        blocking(move || runs.list()).await
    }

    async fn console(&self, id: &RunId, last_bytes: usize) -> Result<Vec<u8>, ComputeError> {
        let order = self.runs.known(id).await?;
        if !self.has("console") {
            return Ok(Vec::new());
        }
        let more = More { output_bytes: last_bytes, ..More::within(self.limits.other) };
        self.output("console", &order, more.with("LIFEBOAT_BYTES", last_bytes.to_string())).await
    }

    async fn screen(&self, id: &RunId) -> Result<Option<Vec<u8>>, ComputeError> {
        let order = self.runs.known(id).await?;
        if !self.has("screen") {
            return Ok(None);
        }
        let more = More { output_bytes: SCREEN_BYTES, ..More::within(self.limits.other) };
        let picture = self.output("screen", &order, more).await?;
        if picture.is_empty() {
            return Ok(None);
        }
        if !picture.starts_with(PNG) {
            return Err(self.misprint("screen", &order, &first_line(&picture), "a PNG of at most 16 MiB, or nothing"));
        }
        Ok(Some(picture))
    }

    /// Without the program `reach`, the address that the order says, except in a network of the machine's own.
    async fn reach(&self, id: &RunId, interface: usize, port: u16) -> Result<SocketAddr, ComputeError> {
        let order = self.runs.known(id).await?;
        let machine = &order.name;
        let found = order.interfaces.get(interface);
        let found =
            found.ok_or_else(|| ComputeError::refused(format!("machine {machine} has no interface {interface}")))?;
        if self.has("reach") {
            let more = More::within(self.limits.other)
                .with("LIFEBOAT_INTERFACE", interface.to_string())
                .with("LIFEBOAT_PORT", port.to_string());
            let said = first_line(&self.output("reach", &order, more).await?);
            return said.parse().map_err(|_| self.misprint("reach", &order, &said, "ADDRESS:PORT"));
        }
        match (&found.join, found.address) {
            (Join::Bridge { .. }, Some(address)) => Ok(SocketAddr::new(address, port)),
            _ => Err(ComputeError::refused(format!(
                "machine {machine}: where interface {interface} answers is not known: write the program {}",
                self.programs.join("reach").display()
            ))),
        }
    }

    async fn forget(&self, id: &RunId) -> Result<(), ComputeError> {
        let _turn = self.turns.take(id).await;
        let Some(order) = self.runs.read(id).await? else { return Ok(()) };
        if let RunState::Running | RunState::Paused { .. } = self.status(&order).await? {
            return Err(ComputeError::refused(format!("machine {} ({id}) still runs: stop it first", order.name)));
        }
        if self.has("forget") {
            self.output("forget", &order, More::within(self.limits.other)).await?;
        }
        let (runs, id) = (self.runs.clone(), id.clone());
        blocking(move || runs.remove(&id)).await
    }
}

/// What one call has beyond every other.
struct More {
    limit: Duration,
    output_bytes: usize,
    environment: Vec<(&'static str, OsString)>,
}

impl More {
    const fn within(limit: Duration) -> Self {
        Self { limit, output_bytes: OUTPUT_BYTES, environment: Vec::new() }
    }

    fn with(mut self, name: &'static str, value: String) -> Self {
        self.environment.push((name, value.into()));
        self
    }
}

fn first_line(output: &[u8]) -> String {
    String::from_utf8_lossy(output).lines().next().unwrap_or_default().trim().chars().take(200).collect()
}

#[cfg(test)]
mod tests;
