//! Running a program of the administrator's: bounded in time and in output, and only what nobody else could have put there.
//!
//! Owns how such a program is started, watched and ended ([`Call`]), and the two that run around an application-consistent
//! point ([`Hooks`]). Whoever names one names a file of a directory, never a path or a command: what isn't there, and what
//! others than the administrator could change, is refused.
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
pub struct Call {
    /// The file.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<OsString>,
    /// Its standard input.
    pub input: Vec<u8>,
    /// Variables beside those of this process.
    pub environment: Vec<(String, OsString)>,
    /// How long it may take.
    pub limit: Duration,
    /// How much of the end of its output is kept; with 0 it has none.
    pub output_bytes: usize,
}

/// How a program ended.
#[derive(Debug)]
pub struct Ended {
    /// Its exit status.
    pub status: ExitStatus,
    /// The end of its standard output.
    pub output: Vec<u8>,
    /// The last line of its standard error.
    pub said: String,
}

/// Why a program didn't come to an end.
#[derive(Debug, thiserror::Error)]
pub enum Unrun {
    /// It can't be run, or must not be.
    #[error("{0}")]
    Unusable(String),
    /// It took longer than it may.
    #[error("{program} was ended: it took longer than {limit:?}; the last it said: {said}")]
    TooSlow {
        /// Which one.
        program: String,
        /// How long it had.
        limit: Duration,
        /// The last line of its standard error.
        said: String,
    },
}

impl Call {
    /// Runs the program to its end. Giving up the future kills it and everything in its process group.
    ///
    /// # Errors
    /// It can't be run or must not be, or it took longer than its limit.
    pub async fn run(self) -> Result<Ended, Unrun> {
        let shown = self.program.display().to_string();
        let unusable = |error: std::io::Error| Unrun::Unusable(format!("{shown} can't be run: {error}"));
        let program = self.program.clone();
        let checked = tokio::task::spawn_blocking(move || check(&program)).await;
        checked.map_err(|error| Unrun::Unusable(format!("{shown}: {error}")))?.map_err(Unrun::Unusable)?;
        let mut child = tokio::process::Command::new(&self.program)
            .args(self.arguments)
            .envs(self.environment)
            .stdin(if self.input.is_empty() { Stdio::null() } else { Stdio::piped() })
            .stdout(if self.output_bytes == 0 { Stdio::null() } else { Stdio::piped() })
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

/// Runs a program of a directory to its end, without input and output; an error says what it said last. Giving up the future
/// kills it and everything that it started.
///
/// # Errors
/// It can't be run, must not be, or ended with another exit code than 0.
pub async fn run_in(directory: &Path, name: &str, environment: &[(String, String)]) -> Result<(), String> {
    let call = Call {
        program: directory.join(name),
        arguments: Vec::new(),
        input: Vec::new(),
        environment: environment.iter().map(|(name, value)| (name.clone(), value.into())).collect(),
        limit: Duration::MAX,
        output_bytes: 0,
    };
    let path = call.program.clone();
    let ended = call.run().await.map_err(|error| error.to_string())?;
    if ended.status.success() {
        return Ok(());
    }
    Err(format!("{} ended with {}: {}", path.display(), ended.status, ended.said))
}

/// The programs around an application-consistent point, files of one directory: the first has the applications of a group hold
/// still, the second has them go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hooks {
    /// Where they are.
    pub directory: PathBuf,
    /// The first; nothing is asked of the applications without.
    pub pre: Option<String>,
    /// The second.
    pub post: Option<String>,
    /// The group's name, which they find in their environment.
    pub group: String,
    /// Where the group's volumes are mounted, as far as they are.
    pub mount: Option<PathBuf>,
}

impl Hooks {
    /// Runs the first to its end; giving up the future kills it.
    ///
    /// # Errors
    /// Why the applications may not hold still.
    pub async fn before(&self) -> Result<(), String> {
        self.run(self.pre.as_deref(), "pre").await
    }

    /// Runs the second to its end; giving up the future kills it.
    ///
    /// # Errors
    /// Why the applications may still be held.
    pub async fn after(&self) -> Result<(), String> {
        self.run(self.post.as_deref(), "post").await
    }

    /// Refuses programs that could not be run.
    ///
    /// # Errors
    /// What is wrong with which one.
    pub fn check(&self) -> Result<(), String> {
        [&self.pre, &self.post].into_iter().flatten().try_for_each(|name| check(&self.directory.join(name)))
    }

    async fn run(&self, name: Option<&str>, moment: &str) -> Result<(), String> {
        let Some(name) = name else { return Ok(()) };
        let mut environment =
            vec![("LIFEBOAT_GROUP".to_owned(), self.group.clone()), ("LIFEBOAT_HOOK".to_owned(), moment.to_owned())];
        if let Some(mount) = &self.mount {
            environment.push(("LIFEBOAT_MOUNT".to_owned(), mount.display().to_string()));
        }
        run_in(&self.directory, name, &environment).await
    }
}

/// Refuses what is no program and what somebody else could have put there.
///
/// # Errors
/// What is wrong with which file.
pub fn check(path: &Path) -> Result<(), String> {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn scripts(directory: &Path, pre: &str, post: Option<&str>) -> Hooks {
        Hooks {
            directory: directory.to_owned(),
            pre: Some(pre.to_owned()),
            post: post.map(str::to_owned),
            group: "ledger".to_owned(),
            mount: Some("/mnt/lifeboat".into()),
        }
    }

    fn script(directory: &Path, name: &str, text: &str, mode: u32) {
        let path = directory.join(name);
        // Written under another name first: a program can't be run while it is open for writing, here or in a child.
        let draft = directory.join(format!("{name}.draft"));
        std::fs::write(&draft, format!("#!/bin/sh\n{text}\n")).expect("written");
        std::fs::set_permissions(&draft, std::fs::Permissions::from_mode(mode)).expect("mode");
        std::fs::copy(&draft, &path).expect("copied");
        std::fs::remove_file(draft).expect("removed");
    }

    #[tokio::test]
    async fn a_hook_knows_its_group_and_a_failure_says_its_last_line() {
        let dir = tempfile::tempdir().expect("tempdir");
        script(dir.path(), "pre", "echo \"$LIFEBOAT_GROUP $LIFEBOAT_HOOK $LIFEBOAT_MOUNT\" > \"$0.out\"", 0o755);
        script(dir.path(), "post", "echo first >&2; echo 'the database is down' >&2; exit 3", 0o755);
        let hooks = scripts(dir.path(), "pre", Some("post"));
        hooks.before().await.expect("ran");
        let out = std::fs::read_to_string(dir.path().join("pre.out")).expect("read");
        assert_eq!(out, "ledger pre /mnt/lifeboat\n");
        let failed = hooks.after().await.expect_err("exit code 3");
        assert!(failed.contains("exit status: 3") && failed.ends_with("the database is down"), "{failed}");
    }

    #[tokio::test]
    async fn what_others_could_change_and_what_is_no_program_is_not_run() {
        let dir = tempfile::tempdir().expect("tempdir");
        script(dir.path(), "open", "exit 0", 0o777);
        script(dir.path(), "text", "exit 0", 0o644);
        for (name, why) in [("open", "changed by others"), ("text", "no program"), ("missing", "can't be used")] {
            let refused = scripts(dir.path(), name, None).before().await.expect_err(name);
            assert!(refused.contains(why), "{refused}");
        }
        script(dir.path(), "fine", "exit 0", 0o755);
        scripts(dir.path(), "fine", None).before().await.expect("runs");
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o777)).expect("mode");
        let refused = scripts(dir.path(), "fine", None).before().await.expect_err("anybody's directory");
        assert!(refused.contains("directory of programs"), "{refused}");
    }

    #[tokio::test]
    async fn what_a_hook_that_succeeded_left_in_the_background_goes_on() {
        let dir = tempfile::tempdir().expect("tempdir");
        // As one that holds a lock of a database: it keeps the pipe of standard error, and lives until the second hook ends it.
        script(dir.path(), "pre", "sleep 600 & echo $! > \"$0.pid\"", 0o755);
        script(dir.path(), "post", "kill \"$(cat \"${0%post}pre.pid\")\"", 0o755);
        let hooks = scripts(dir.path(), "pre", Some("post"));
        tokio::time::timeout(Duration::from_secs(30), hooks.before()).await.expect("it isn't waited for").expect("ran");
        hooks.after().await.expect("it was there to be ended");
    }

    #[tokio::test]
    async fn a_hook_that_is_given_up_ends_with_all_that_it_started() {
        let dir = tempfile::tempdir().expect("tempdir");
        script(dir.path(), "slow", "sleep 600 & echo $! > \"$0.pid\"; wait", 0o755);
        let hooks = scripts(dir.path(), "slow", None);
        let pid = dir.path().join("slow.pid");
        let started = async {
            loop {
                if let Some(pid) = std::fs::read_to_string(&pid).ok().filter(|text| text.ends_with('\n')) {
                    return pid.trim().to_owned();
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let pid = tokio::select! {
            pid = tokio::time::timeout(Duration::from_secs(30), started) => pid.expect("it starts"),
            ended = hooks.before() => panic!("it ended: {ended:?}"),
        };
        let stat = PathBuf::from(format!("/proc/{pid}/stat"));
        let gone = || std::fs::read_to_string(&stat).map_or(true, |stat| stat.contains(") Z "));
        let deadline = std::time::Instant::now() + Duration::from_secs(30);
        while !gone() {
            assert!(std::time::Instant::now() < deadline, "what it started goes on");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}
