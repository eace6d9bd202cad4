//! The process of a machine: started on its own, found again by whoever comes later, never taken for another one.
//!
//! QEMU is told to write its pid into the run's directory, which is its working directory as well. So the process of a
//! run is the one whose pid stands there *and* which works in that directory *and* was started to write that file. A
//! pid that was given to somebody else meanwhile passes none of that, and a directory that was renamed still does. A
//! signal goes through a descriptor that was opened before the look, so it can't reach a successor either.

use std::collections::HashSet;
use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::process::{Child, Command};

/// In a run's directory: the pid, as QEMU writes it and removes it at an orderly end.
pub(super) const PID_FILE: &str = "pid";
/// In a run's directory: what QEMU says.
pub(super) const LOG: &str = "qemu.log";
const LOOK_EVERY: Duration = Duration::from_millis(25);
/// Looks at a process without a command line, a millisecond apart.
const BECOMES_LOOKS: usize = 200;

/// A machine's process that was alive when it was looked at.
#[derive(Debug)]
pub(super) struct Process {
    pid: i32,
    fd: OwnedFd,
    /// Device and number of the directory that it works in.
    directory: (u64, u64),
}

impl Process {
    /// Finds the process of a run. Blocks for a moment.
    pub(super) fn find(run: &Path) -> Option<Self> {
        let directory = fs::metadata(run).ok()?;
        let written = fs::read_to_string(run.join(PID_FILE)).ok().and_then(|text| text.trim().parse().ok());
        if let Some(found) = written.and_then(|pid| Self::of(pid, &directory)) {
            return Some(found);
        }
        // One that was killed before it wrote its pid, or that is just being started, has no file.
        let running = fs::read_dir("/proc").ok()?.flatten();
        running.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).find_map(|pid| Self::of(pid, &directory))
    }

    fn of(pid: i32, directory: &fs::Metadata) -> Option<Self> {
        let directory = (directory.dev(), directory.ino());
        if working_directory(pid) != Some(directory) {
            return None;
        }
        let fd = pidfd_open(Pid::from_raw(pid)?, PidfdFlags::empty()).ok()?;
        let line = command_line(pid, directory)?;
        let arguments: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
        let writes_it = arguments.windows(2).any(|pair| pair == [b"-pidfile".as_slice(), PID_FILE.as_bytes()]);
        let found = Self { pid, fd, directory };
        (writes_it && found.lives()).then_some(found)
    }

    /// Whether it still works in its directory. A dead process that nobody has waited for works nowhere.
    fn lives(&self) -> bool {
        working_directory(self.pid) == Some(self.directory)
    }

    /// The files that it has open.
    pub(super) fn open_files(&self) -> OpenFiles {
        let entries = fs::read_dir(format!("/proc/{}/fd", self.pid)).into_iter().flatten().flatten();
        // One whose file system is dead can't be looked at, and is none that anybody finds by a path.
        OpenFiles(
            entries.filter_map(|entry| fs::metadata(entry.path()).ok()).map(|file| (file.dev(), file.ino())).collect(),
        )
    }

    /// Kills it; that it is gone already is fine.
    pub(super) fn kill(&self) {
        let _ = pidfd_send_signal(&self.fd, Signal::KILL);
    }

    /// Returns when it has ended. It need not be a child of this process, so nothing tells: it is looked at.
    pub(super) async fn ended(&self) {
        while self.lives() {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}

/// Device and number of each file that a process has open.
#[derive(Debug)]
pub(super) struct OpenFiles(HashSet<(u64, u64)>);

impl OpenFiles {
    pub(super) fn holds(&self, file: &fs::Metadata) -> bool {
        self.0.contains(&(file.dev(), file.ino()))
    }
}

/// The command line of what works in a directory. A process that is just becoming another program (`setsid` does) has none for a moment,
/// and is the same before and after it.
fn command_line(pid: i32, directory: (u64, u64)) -> Option<Vec<u8>> {
    let mut line = Vec::new();
    for _ in 0..BECOMES_LOOKS {
        line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        if !line.is_empty() || working_directory(pid) != Some(directory) {
            break;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Some(line)
}

fn working_directory(pid: i32) -> Option<(u64, u64)> {
    fs::metadata(format!("/proc/{pid}/cwd")).ok().map(|directory| (directory.dev(), directory.ino()))
}

/// Starts a program in a run's directory and in a session of its own, so that nothing that ends this process or its
/// terminal reaches it. What it says goes to the run's log; of this process's environment it gets the path only, so
/// that no secret of the gateway's gets into another process.
pub(super) fn spawn(program: &Path, arguments: &[OsString], run: &Path) -> io::Result<Child> {
    let log = OpenOptions::new().append(true).create(true).mode(0o600).open(run.join(LOG))?;
    let errors = log.try_clone()?;
    let mut command = Command::new("setsid");
    command.arg(program).args(arguments).current_dir(run).stdin(Stdio::null()).stdout(log).stderr(errors).env_clear();
    if let Some(path) = std::env::var_os("PATH") {
        command.env("PATH", path);
    }
    command.spawn()
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    async fn until(what: &str, mut holds: impl FnMut() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(30);
        while !holds() {
            assert!(Instant::now() < deadline, "not in time: {what}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// A process that waits and, like QEMU, starts no other.
    fn waiting(run: &Path) -> Child {
        let made = std::process::Command::new("mkfifo").arg(run.join("never")).status().expect("run");
        assert!(made.success());
        // To the shell the arguments after the script mean nothing; to whoever looks they are those of a machine.
        let arguments = ["-c", "read line < never", "-pidfile", "pid"].map(OsString::from);
        spawn(Path::new("/bin/sh"), &arguments, run).expect("started")
    }

    /// `setsid` becomes the shell while somebody looks all the time.
    #[tokio::test]
    async fn a_process_that_becomes_another_program_is_found_throughout() {
        for _ in 0..40 {
            let dir = tempfile::tempdir().expect("tempdir");
            let mut child = waiting(dir.path());
            until("found", || Process::find(dir.path()).is_some()).await;
            let end = Instant::now() + Duration::from_millis(20);
            while Instant::now() < end {
                assert!(Process::find(dir.path()).is_some(), "lost while it became another program");
            }
            Process::find(dir.path()).expect("there").kill();
            child.wait().await.expect("waited");
        }
    }

    #[tokio::test]
    async fn a_process_is_found_by_its_directory_and_by_nothing_else() {
        let dir = tempfile::tempdir().expect("tempdir");
        let (one, two) = (dir.path().join("one"), dir.path().join("two"));
        fs::create_dir(&one).expect("made");
        fs::create_dir(&two).expect("made");
        let mut child = waiting(&one);
        until("found without its pid", || Process::find(&one).is_some()).await;
        // Another run's file has that pid, as after a reboot.
        fs::write(two.join(PID_FILE), child.id().expect("it runs").to_string()).expect("written");
        assert!(Process::find(&two).is_none(), "a reused pid is not ours");
        fs::write(one.join(PID_FILE), std::process::id().to_string()).expect("written");
        assert!(Process::find(&one).is_some(), "a wrong pid doesn't hide it");
        let moved = dir.path().join("moved");
        fs::rename(&one, &moved).expect("renamed");
        let found = Process::find(&moved).expect("found where it is now");
        let held = |path: &Path| found.open_files().holds(&fs::metadata(path).expect("there"));
        assert!(held(&moved.join(LOG)) && !held(&two.join(PID_FILE)));
        found.kill();
        tokio::time::timeout(Duration::from_secs(30), found.ended()).await.expect("in time");
        assert!(Process::find(&moved).is_none(), "a dead process that nobody has waited for is dead");
        child.wait().await.expect("waited");
        found.kill();
    }
}
