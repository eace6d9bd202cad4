//! A gateway as a process, for the tests of the binary. No mount: no root and no FUSE needed.

#![allow(dead_code, reason = "each test binary uses its part")]

use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

/// A gateway that ends with the test.
pub(crate) struct Gateway {
    pub(crate) process: Child,
    pub(crate) dir: tempfile::TempDir,
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

pub(crate) fn binary() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lifeboat"));
    command.env_clear().stdin(Stdio::null());
    command
}

impl Gateway {
    pub(crate) fn start() -> Self {
        Self::start_as("onprem", "primary", &[])
    }

    /// A gateway with this site, name and more settings, in a state directory of its own.
    pub(crate) fn start_as(site: &str, name: &str, more: &[&str]) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let state = dir.path().join("state");
        let log = std::fs::File::create(dir.path().join("log")).expect("a log");
        let process = binary()
            .args(["serve", "--listen-management", "127.0.0.1:0", "--site", site, "--name", name])
            .args(more)
            .args(["--reconcile-interval", "200ms"])
            .arg("--state")
            .arg(&state)
            .stdout(log.try_clone().expect("a second handle"))
            .stderr(log)
            .spawn()
            .expect("the binary runs");
        let mut gateway = Self { process, dir };
        let since = Instant::now();
        while gateway.run(&["status"]).status.code() != Some(0) {
            assert_eq!(gateway.process.try_wait().expect("a child"), None, "{}", gateway.log());
            assert!(since.elapsed() < DEADLINE, "not ready: {}", gateway.log());
            std::thread::sleep(Duration::from_millis(20));
        }
        gateway
    }

    pub(crate) fn state(&self) -> String {
        self.dir.path().join("state").display().to_string()
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    pub(crate) fn run(&self, args: &[&str]) -> Output {
        binary().args(args).env("LIFEBOAT_STATE", self.state()).output().expect("the binary runs")
    }

    pub(crate) fn json(&self, args: &[&str]) -> Value {
        let outcome = self.run(&[args, &["--output", "json"]].concat());
        assert_eq!(outcome.status.code(), Some(0), "{args:?}: {}{}", said(&outcome), self.log());
        serde_json::from_slice(&outcome.stdout).expect("one JSON document")
    }

    pub(crate) fn text(&self, args: &[&str]) -> String {
        let outcome = self.run(args);
        assert_eq!(outcome.status.code(), Some(0), "{args:?}: {}{}", said(&outcome), self.log());
        String::from_utf8(outcome.stdout).expect("UTF-8")
    }

    /// The one line of a verb that fails with `code`.
    pub(crate) fn refused(&self, args: &[&str], code: i32) -> String {
        let outcome = self.run(args);
        assert_eq!(outcome.status.code(), Some(code), "{args:?}: {}", said(&outcome));
        let line = said(&outcome);
        assert_eq!(line.trim_end().lines().count(), 1, "{line}");
        line
    }
}

pub(crate) fn said(outcome: &Output) -> String {
    String::from_utf8_lossy(&outcome.stderr).into_owned()
}

pub(crate) fn write_passphrase(dir: &Path) -> String {
    let file = dir.join("passphrase");
    std::fs::write(&file, "correct horse battery\n").expect("written");
    file.display().to_string()
}
