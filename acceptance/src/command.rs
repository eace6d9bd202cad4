//! Running other programs: to their end within a deadline, or as a daemon that dies with this process.
//!
//! Owns capture of output, deadlines and the way a child ends. A program that overruns its deadline is killed and the
//! failure shows what it had printed. Nothing is run through a shell.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use rustix::process::{Pid, Signal, kill_process};

use crate::{cleanup, eventually};

/// What `lifeboat` exits with when something is in the way.
pub const CONFLICT: i32 = 4;
/// What it exits with when nobody answers, or the vault behind the gateway can't be reached: the same may work later.
pub const UNREACHABLE: i32 = 5;

/// How a program ended and what it printed.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// The command line, for messages.
    pub line: String,
    /// Exit status.
    pub status: ExitStatus,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
    /// Wall-clock time from start to end.
    pub took: Duration,
}

impl Outcome {
    /// The exit code; 128 + the signal's number when a signal ended it.
    #[must_use]
    pub fn code(&self) -> i32 {
        self.status.code().unwrap_or_else(|| 128 + self.status.signal().unwrap_or(0))
    }

    /// Standard output, if the program succeeded.
    ///
    /// # Errors
    /// When the exit code is not 0, with everything that was printed.
    pub fn ok(self) -> Result<String> {
        if self.status.success() { Ok(self.stdout) } else { Err(self.failure()) }
    }

    /// The failure as an error that shows everything that was printed.
    #[must_use]
    pub fn failure(&self) -> anyhow::Error {
        anyhow!("`{}` ended with {}\n{}{}", self.line, self.code(), self.stdout, self.stderr)
    }
}

/// A program to run to its end.
#[derive(Debug)]
pub struct Run {
    command: Command,
    line: String,
    input: Option<Vec<u8>>,
    limit: Duration,
}

impl Run {
    /// A program by name or path; the deadline is one minute unless [`Run::within`] says otherwise.
    #[must_use]
    pub fn new(program: impl AsRef<OsStr>) -> Self {
        let line = program.as_ref().to_string_lossy().into_owned();
        Self { command: Command::new(program), line, input: None, limit: Duration::from_secs(60) }
    }

    /// One more argument.
    #[must_use]
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.line.push(' ');
        self.line.push_str(&arg.as_ref().to_string_lossy());
        self.command.arg(arg);
        self
    }

    /// More arguments.
    #[must_use]
    pub fn args<A: AsRef<OsStr>>(self, args: impl IntoIterator<Item = A>) -> Self {
        args.into_iter().fold(self, Run::arg)
    }

    /// A variable of its environment.
    #[must_use]
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// Several variables of its environment.
    #[must_use]
    pub fn envs<'a>(mut self, variables: impl IntoIterator<Item = &'a (OsString, OsString)>) -> Self {
        for (name, value) in variables {
            self.command.env(name, value);
        }
        self
    }

    /// Its working directory.
    #[must_use]
    pub fn dir(mut self, dir: &Path) -> Self {
        self.command.current_dir(dir);
        self
    }

    /// What it reads on standard input (nothing otherwise).
    #[must_use]
    pub fn input(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.input = Some(bytes.into());
        self
    }

    /// Its deadline.
    #[must_use]
    pub fn within(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Starts it and waits for its end, whatever its exit code.
    ///
    /// # Errors
    /// When it can't be started, or when it overran its deadline and was killed.
    pub fn outcome(mut self) -> Result<Outcome> {
        let started = Instant::now();
        let stdin = if self.input.is_some() { Stdio::piped() } else { Stdio::null() };
        let mut child = self
            .command
            .stdin(stdin)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("start `{}`", self.line))?;
        let writer = child.stdin.take().zip(self.input).map(|(mut pipe, bytes)| {
            // A program may end without reading all of its input; that shows in its exit code.
            std::thread::spawn(move || drop(pipe.write_all(&bytes)))
        });
        let stdout = collect(child.stdout.take());
        let stderr = collect(child.stderr.take());
        let status = loop {
            if let Some(status) = child.try_wait().with_context(|| format!("wait for `{}`", self.line))? {
                break Some(status);
            }
            if started.elapsed() >= self.limit {
                drop(child.kill());
                drop(child.wait());
                break None;
            }
            std::thread::sleep(Duration::from_millis(2));
        };
        let text = |reader: std::thread::JoinHandle<Vec<u8>>| {
            String::from_utf8_lossy(&reader.join().unwrap_or_default()).into_owned()
        };
        let (stdout, stderr) = (text(stdout), text(stderr));
        drop(writer.map(std::thread::JoinHandle::join));
        let Some(status) = status else {
            bail!("`{}` did not end within {:?}\n{stdout}{stderr}", self.line, self.limit);
        };
        if cleanup::stopping() {
            cleanup::park();
        }
        Ok(Outcome { line: self.line, status, stdout, stderr, took: started.elapsed() })
    }

    /// Starts it, waits for its end, and gives its standard output.
    ///
    /// # Errors
    /// As [`Run::outcome`], and when the exit code is not 0.
    pub fn ok(self) -> Result<String> {
        self.outcome()?.ok()
    }
}

fn collect(pipe: Option<impl Read + Send + 'static>) -> std::thread::JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe {
            // What was read before an error is still worth showing.
            drop(pipe.read_to_end(&mut bytes));
        }
        bytes
    })
}

/// A program that keeps running, its output in a log file. It is killed when this is dropped, when the process is
/// interrupted, and by the kernel when the thread that started it dies.
#[derive(Debug)]
pub struct Daemon {
    name: String,
    log: PathBuf,
    child: Arc<Mutex<Child>>,
    _kill: cleanup::Guard,
}

impl Daemon {
    /// Starts `program` with `args` and more variables, its output appended to `log`.
    ///
    /// # Errors
    /// When the log can't be written or the program can't be started.
    pub fn start(
        name: &str,
        program: &Path,
        args: &[OsString],
        variables: &[(OsString, OsString)],
        log: &Path,
    ) -> Result<Self> {
        let output =
            File::options().create(true).append(true).open(log).with_context(|| format!("open {}", log.display()))?;
        let errors = output.try_clone().context("share the log")?;
        // `setpriv` becomes the program itself: the process id is the program's.
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL"])
            .arg(program)
            .args(args)
            .envs(variables.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(errors)
            .spawn()
            .with_context(|| format!("start {}", program.display()))?;
        let child = Arc::new(Mutex::new(child));
        let victim = Arc::clone(&child);
        let kill = cleanup::defer(format!("end {name}"), move || {
            let mut child = victim.lock().unwrap_or_else(PoisonError::into_inner);
            drop(child.kill());
            drop(child.wait());
        });
        Ok(Self { name: name.to_owned(), log: log.to_owned(), child, _kill: kill })
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.lock().id()
    }

    /// How it ended, if it has.
    ///
    /// # Errors
    /// When the system can't tell.
    pub fn ended(&self) -> Result<Option<ExitStatus>> {
        self.lock().try_wait().with_context(|| format!("look after {}", self.name))
    }

    /// SIGKILL, as a power cut would end it, and waits until it is gone.
    ///
    /// # Errors
    /// When it can't be signalled.
    pub fn kill9(&self) -> Result<()> {
        let mut child = self.lock();
        child.kill().with_context(|| format!("kill {}", self.name))?;
        child.wait().with_context(|| format!("wait for {}", self.name))?;
        Ok(())
    }

    /// SIGTERM, and waits for its end, at most `limit`.
    ///
    /// # Errors
    /// When it is still there after `limit`.
    pub fn stop(&self, limit: Duration) -> Result<ExitStatus> {
        self.signal(Signal::TERM)?;
        eventually(&format!("{} to end after SIGTERM", self.name), limit, || self.ended())
            .with_context(|| self.log_tail(30))
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// When it is not there any more.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = i32::try_from(self.pid()).ok().and_then(Pid::from_raw).context("a process id out of range")?;
        kill_process(pid, signal).with_context(|| format!("signal {}", self.name))
    }

    /// The last `lines` of its log, headed by its name.
    #[must_use]
    pub fn log_tail(&self, lines: usize) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let all: Vec<&str> = text.lines().collect();
        let tail = all.get(all.len().saturating_sub(lines)..).unwrap_or_default().join("\n");
        format!("log of {} ({}):\n{tail}", self.name, self.log.display())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Child> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_and_exit_code_are_kept_apart() {
        let outcome = Run::new("sh").args(["-c", "echo out; echo err >&2; exit 3"]).outcome().unwrap();
        assert_eq!((outcome.code(), outcome.stdout.as_str(), outcome.stderr.as_str()), (3, "out\n", "err\n"));
        assert!(outcome.failure().to_string().contains("err"));
    }

    #[test]
    fn a_program_that_overruns_its_deadline_is_killed() {
        let error = Run::new("sleep").arg("60").within(Duration::from_millis(50)).outcome().unwrap_err();
        assert!(error.to_string().contains("did not end"), "{error}");
    }

    #[test]
    fn input_larger_than_a_pipe_reaches_the_program() {
        let count = Run::new("wc").arg("-c").input(vec![b'x'; 1 << 20]).ok().unwrap();
        assert_eq!(count.trim(), "1048576");
    }

    #[test]
    fn a_dropped_daemon_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let daemon =
            Daemon::start("sleeper", Path::new("sleep"), &["60".into()], &[], &dir.path().join("log")).unwrap();
        let proc = PathBuf::from(format!("/proc/{}", daemon.pid()));
        assert!(proc.exists());
        drop(daemon);
        assert!(!proc.exists());
    }
}
