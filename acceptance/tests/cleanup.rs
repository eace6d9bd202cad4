//! The harness itself: an interrupted run leaves no mount, no loop device, no process and no file.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use lifeboat_acceptance::command::{Daemon, Run};
use lifeboat_acceptance::device::LoopFs;
use lifeboat_acceptance::scratch::Scratch;
use lifeboat_acceptance::{eventually, mounts};
use rustix::process::{Pid, Signal, kill_process};

const REPORT: &str = "LIFEBOAT_ACCEPTANCE_REPORT";

/// What the interrupted process does: it mounts, starts a program, tells where, and waits for its end.
fn victim(report: &Path) -> ! {
    let scratch = Scratch::new("interrupted").unwrap_or_else(|error| panic!("{error:#}"));
    let image = scratch.path().join("disk.img");
    let prepared = std::fs::File::create(&image).and_then(|file| file.set_len(16 << 20));
    prepared.unwrap_or_else(|error| panic!("{error}"));
    let fs = LoopFs::format(&image, &scratch.path().join("mnt")).unwrap_or_else(|error| panic!("{error:#}"));
    let sleeper = Daemon::start("sleeper", Path::new("sleep"), &["600".into()], &[], &scratch.path().join("log"))
        .unwrap_or_else(|error| panic!("{error:#}"));
    let text = format!("{}\n{}\n{}\n", scratch.path().display(), fs.device(), sleeper.pid());
    let draft = report.with_extension("draft");
    std::fs::write(&draft, text).and_then(|()| std::fs::rename(&draft, report)).unwrap_or_else(|e| panic!("{e}"));
    lifeboat_acceptance::cleanup::park()
}

fn interrupted_by(signal: Signal, code: i32) {
    let dir = tempfile::tempdir().expect("a directory");
    let report = dir.path().join("report");
    // Should this test fail half-way, the process it started ends too, and cleans up.
    let mut child = Command::new("setpriv")
        .args(["--pdeathsig", "TERM"])
        .arg(std::env::current_exe().expect("this program"))
        .args(["--exact", "the_interrupted_process", "--nocapture"])
        .env(REPORT, &report)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("start the process to interrupt");
    let told = eventually("the process to have mounted", Duration::from_secs(60), || {
        anyhow::ensure!(child.try_wait()?.is_none(), "the process ended by itself");
        Ok(std::fs::read_to_string(&report).ok())
    })
    .expect("the process mounts");
    let mut lines = told.lines();
    let mut next = || lines.next().expect("three lines").to_owned();
    let (scratch, device, sleeper) = (PathBuf::from(next()), next(), next());
    assert!(mounts::is_mounted(&scratch.join("mnt")).expect("the list of mounts"));

    let pid = Pid::from_raw(i32::try_from(child.id()).expect("a process id")).expect("a process id");
    kill_process(pid, signal).expect("signal the process");
    let status = eventually("the process to end", Duration::from_secs(60), || Ok(child.try_wait()?)).expect("it ends");
    assert_eq!(status.code(), Some(code));
    assert!(!mounts::is_mounted(&scratch.join("mnt")).expect("the list of mounts"));
    assert!(!scratch.exists(), "{} is still there", scratch.display());
    assert!(!Path::new("/proc").join(&sleeper).exists(), "process {sleeper} is still there");
    // The kernel detaches a loop device with its last close, and whoever lists devices just then has it open for a moment.
    eventually(&format!("{device} to be detached"), Duration::from_secs(20), || {
        let attached = Run::new("losetup").args(["-n", "-O", "BACK-FILE"]).arg(&device).outcome()?;
        Ok((!attached.stdout.contains("interrupted")).then_some(()))
    })
    .expect("the loop device is detached");
}

/// Not a test by itself: passes at once unless [`interrupted_by`] starts it.
#[test]
fn the_interrupted_process() {
    if let Some(report) = std::env::var_os(REPORT) {
        victim(Path::new(&report));
    }
}

#[test]
fn ctrl_c_leaves_nothing_behind() {
    interrupted_by(Signal::INT, 130);
}

#[test]
fn a_termination_leaves_nothing_behind() {
    interrupted_by(Signal::TERM, 143);
}
