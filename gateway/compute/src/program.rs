//! Running a program of the administrator's: bounded in time and in output, and only what nobody else could have put there.
//!
//! A program gets no shell. It runs in a process group of its own; when it takes too long, fails or is given up, the
//! whole group is killed. What it started in the background outlives it only if it succeeds. Its output is read to the
//! end of the program and not further: a child that keeps the pipe open doesn't hold the caller up.

use std::ffi::OsString;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};

/// What is kept of a program's standard error: its end.
const SAID_BYTES: usize = 16 << 10;
/// What was written before a program's end is in the pipe by then; reading it takes moments.
const REST_LIMIT: Duration = Duration::from_millis(500);

/// One call of a program.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) program: PathBuf,
    pub(crate) arguments: Vec<OsString>,
    pub(crate) input: Vec<u8>,
    pub(crate) environment: Vec<(&'static str, OsString)>,
    pub(crate) limit: Duration,
    /// How much of the end of its output is kept.
    pub(crate) output_bytes: usize,
}

/// How a program ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) status: ExitStatus,
    /// The end of its standard output.
    pub(crate) output: Vec<u8>,
    /// The last line of its standard error.
    pub(crate) said: String,
}

/// Why a program didn't come to an end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unrun {
    /// It can't be run, or must not be.
    #[error("{0}")]
    Unusable(String),
    /// It took longer than it may.
    #[error("{program} was ended: it took longer than {limit:?}; the last it said: {said}")]
    TooSlow { program: String, limit: Duration, said: String },
}

impl Call {
    /// Runs the program to its end. Giving up the future kills it and everything in its process group.
    pub(crate) async fn run(self) -> Result<Ended, Unrun> {
        let shown = self.program.display().to_string();
        let unusable = |error: std::io::Error| Unrun::Unusable(format!("{shown} can't be run: {error}"));
        let program = self.program.clone();
        let checked = tokio::task::spawn_blocking(move || check(&program)).await;
        checked.map_err(|error| Unrun::Unusable(format!("{shown}: {error}")))?.map_err(Unrun::Unusable)?;
        let mut child = tokio::process::Command::new(&self.program)
            .args(self.arguments)
            .envs(self.environment)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(unusable)?;
        let mut group = ProcessGroup(child.id());
        let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let mut output = Tail::new(self.output_bytes);
        let mut errors = Tail::new(SAID_BYTES);
        let input = self.input;
        let ended = {
            let talk = async {
                let feed = async {
                    if let Some(mut stdin) = stdin {
                        // A program that doesn't care for its input may have closed it.
                        let _ = stdin.write_all(&input).await;
                    }
                };
                tokio::join!(feed, output.fill(stdout), errors.fill(stderr));
            };
            tokio::pin!(talk);
            let run = async {
                let mut talking = true;
                let status = loop {
                    tokio::select! {
                        status = child.wait() => break status,
                        () = &mut talk, if talking => talking = false,
                    }
                };
                if talking {
                    // Not to the end: something in the background may have the pipe.
                    let _ = tokio::time::timeout(REST_LIMIT, &mut talk).await;
                }
                status
            };
            tokio::time::timeout(self.limit, run).await
        };
        let said = last_line(&errors.bytes);
        let Ok(status) = ended else {
            return Err(Unrun::TooSlow { program: shown, limit: self.limit, said });
        };
        let status = status.map_err(unusable)?;
        if status.success() {
            group.0 = None;
        }
        Ok(Ended { status, output: output.bytes, said })
    }
}

/// The last of a stream, up to a limit.
struct Tail {
    bytes: Vec<u8>,
    limit: usize,
}

impl Tail {
    const fn new(limit: usize) -> Self {
        Self { bytes: Vec::new(), limit }
    }

    /// Reads to the end, or to an error, which ends a pipe as well.
    async fn fill(&mut self, from: Option<impl AsyncRead + Unpin>) {
        let Some(mut from) = from else { return };
        let mut piece = vec![0; 8 << 10];
        while let Ok(length @ 1..) = from.read(&mut piece).await {
            self.bytes.extend(piece.iter().take(length));
            let surplus = self.bytes.len().saturating_sub(self.limit);
            self.bytes.drain(..surplus);
        }
    }
}

fn last_line(said: &[u8]) -> String {
    let said = String::from_utf8_lossy(said);
    said.lines().rev().map(str::trim).find(|line| !line.is_empty()).unwrap_or("it said nothing").to_owned()
}

/// Ends what a program started, unless it was let go.
struct ProcessGroup(Option<u32>);

impl Drop for ProcessGroup {
    fn drop(&mut self) {
        let group = self.0.and_then(|id| i32::try_from(id).ok()).and_then(rustix::process::Pid::from_raw);
        if let Some(group) = group {
            // Nothing is left of it as a rule.
            let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        }
    }
}

/// Refuses what is no program and what somebody else could have put there.
pub(crate) fn check(path: &Path) -> Result<(), String> {
    let shown = path.display();
    let directory = path.parent().unwrap_or(path);
    let own = rustix::process::geteuid().as_raw();
    let unsafe_for = |metadata: &std::fs::Metadata| {
        metadata.permissions().mode() & 0o022 != 0 || (metadata.uid() != own && metadata.uid() != 0)
    };
    let metadata = |path: &Path| {
        std::fs::metadata(path).map_err(|error| format!("the program {} can't be used: {error}", path.display()))
    };
    if unsafe_for(&metadata(directory)?) {
        return Err(format!(
            "the directory of programs {} could be changed by others: make it root's, mode 0755 at most",
            directory.display()
        ));
    }
    let found = metadata(path)?;
    if !found.is_file() || found.permissions().mode() & 0o111 == 0 {
        return Err(format!("{shown} is no program: make it executable (chmod 755)"));
    }
    if unsafe_for(&found) {
        return Err(format!("the program {shown} could be changed by others: make it root's, mode 0755 at most"));
    }
    Ok(())
}
