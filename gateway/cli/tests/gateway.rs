//! The binary against itself: `lifeboat serve` without a mount, and the verbs that ask it. No root and no FUSE needed.

use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

const DEADLINE: Duration = Duration::from_secs(60);

/// A gateway that ends with the test.
struct Gateway {
    process: Child,
    dir: tempfile::TempDir,
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn binary() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lifeboat"));
    command.env_clear().stdin(Stdio::null());
    command
}

impl Gateway {
    fn start() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let state = dir.path().join("state");
        let log = std::fs::File::create(dir.path().join("log")).expect("a log");
        let process = binary()
            .args(["serve", "--listen-management", "127.0.0.1:0", "--site", "onprem", "--name", "primary"])
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

    fn state(&self) -> String {
        self.dir.path().join("state").display().to_string()
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    fn run(&self, args: &[&str]) -> Output {
        binary().args(args).env("LIFEBOAT_STATE", self.state()).output().expect("the binary runs")
    }

    fn json(&self, args: &[&str]) -> Value {
        let outcome = self.run(&[args, &["--output", "json"]].concat());
        assert_eq!(outcome.status.code(), Some(0), "{args:?}: {}{}", said(&outcome), self.log());
        serde_json::from_slice(&outcome.stdout).expect("one JSON document")
    }

    fn text(&self, args: &[&str]) -> String {
        let outcome = self.run(args);
        assert_eq!(outcome.status.code(), Some(0), "{args:?}: {}{}", said(&outcome), self.log());
        String::from_utf8(outcome.stdout).expect("UTF-8")
    }

    /// The one line of a verb that fails with `code`.
    fn refused(&self, args: &[&str], code: i32) -> String {
        let outcome = self.run(args);
        assert_eq!(outcome.status.code(), Some(code), "{args:?}: {}", said(&outcome));
        let line = said(&outcome);
        assert_eq!(line.trim_end().lines().count(), 1, "{line}");
        line
    }
}

fn said(outcome: &Output) -> String {
    String::from_utf8_lossy(&outcome.stderr).into_owned()
}

fn write_passphrase(dir: &Path) -> String {
    let file = dir.join("passphrase");
    std::fs::write(&file, "correct horse battery\n").expect("written");
    file.display().to_string()
}

#[test]
fn declare_show_and_delete() {
    let gateway = Gateway::start();
    assert!(gateway.text(&["status"]).contains("no vault is attached"));
    assert_eq!(gateway.json(&["status"])["name"], "primary");
    let line = gateway.refused(&["site", "create", "--name", "onprem"], 3);
    assert!(line.contains("lifeboat vault open"), "{line}");

    let key = write_passphrase(gateway.dir.path());
    let url = format!("file://{}", gateway.dir.path().join("vault").display());
    let vault = gateway.json(&["vault", "create", &url, "--name", "main", "--key", &key]);
    assert_eq!(vault["spec"]["name"], "main");
    let line = gateway.refused(&["vault", "create", &url, "--name", "other", "--key", &key], 4);
    assert!(line.contains("lifeboat vault open"), "{line}");
    let again = gateway.json(&["vault", "open", &url, "--passphrase-file", &key]);
    assert_eq!(again["id"], vault["id"]);

    let site = gateway.json(&["site", "create", "--name", "onprem", "--description", "at home"]);
    gateway.json(&["gateway", "create", "--name", "primary", "--site", "onprem"]);
    gateway.json(&["policy", "create", "--name", "standard", "--interval", "1s", "--retain", "all:1h"]);
    gateway.json(&["group", "create", "--name", "ledger", "--site", "onprem", "--policy", "standard"]);
    assert_eq!(
        gateway.json(&["site", "show", "onprem"]),
        gateway.json(&["site", "show", site["id"].as_str().expect("an id")])
    );
    let shown = gateway.text(&["policy", "show", "standard"]);
    assert!(shown.contains("declared\n") && shown.contains("retention[0].every"), "{shown}");
    let listed = gateway.text(&["gateway", "list"]);
    let cells: Vec<&str> = listed.lines().nth(1).expect("a row").split_whitespace().collect();
    assert_eq!(cells.get(..2), Some(&["primary", "onprem"][..]), "{listed}");
    assert_eq!(gateway.json(&["group", "list"]).as_array().map(Vec::len), Some(1));
    assert_eq!(gateway.json(&["point", "list", "--group", "ledger"]), serde_json::json!([]));
    gateway.text(&["event", "list", "--since", "1h"]);
    gateway.text(&["job", "list"]);

    let line = gateway.refused(&["site", "delete", "onprem"], 4);
    assert!(line.contains("primary"), "what is in the way is named: {line}");
    let line = gateway.refused(&["volume", "show", "nothing"], 3);
    assert!(line.contains("lifeboat volume list"), "{line}");
    gateway.refused(&["failover", "test", "--group", "nothing"], 3);
    gateway.refused(&["commit", "--group", "ledger"], 4);
    let line = gateway.refused(&["policy", "create", "--name", "bad", "--interval", "5d", "--retain", "all:1h"], 2);
    assert!(line.contains("recovery_point_interval"), "{line}");

    assert_eq!(gateway.json(&["group", "delete", "ledger"])["deleted"], true);
    assert_eq!(gateway.text(&["group", "list"]), "no group is declared\n");
    gateway.refused(&["vault", "detach", "main"], 4);
    for (noun, name) in [("policy", "standard"), ("gateway", "primary"), ("site", "onprem")] {
        gateway.text(&[noun, "delete", name]);
    }
    assert_eq!(gateway.json(&["vault", "detach", "main"])["detached"], true);
    assert_eq!(gateway.text(&["vault", "list"]), "no vault is attached\n");
    assert!(!gateway.log().contains("horse"));
}

#[test]
fn a_wrong_token_is_refused_and_not_printed() {
    let gateway = Gateway::start();
    let address = std::fs::read_to_string(gateway.dir.path().join("state/management.address")).expect("an address");
    let endpoint = format!("https://{}", address.trim());
    let authority = gateway.dir.path().join("state/ca.pem").display().to_string();
    let outcome = binary()
        .args(["status", "--endpoint", &endpoint, "--ca-cert", &authority])
        .env("LIFEBOAT_TOKEN", "hunter2")
        .output()
        .expect("the binary runs");
    assert_eq!(outcome.status.code(), Some(4), "{}", said(&outcome));
    assert!(!said(&outcome).contains("hunter2"));
}

#[test]
fn a_signal_ends_it_in_order() {
    let mut gateway = Gateway::start();
    let pid = gateway.process.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &pid]).status().expect("kill runs").success());
    let since = Instant::now();
    let status = loop {
        if let Some(status) = gateway.process.try_wait().expect("a child") {
            break status;
        }
        assert!(since.elapsed() < DEADLINE, "still there: {}", gateway.log());
        std::thread::sleep(Duration::from_millis(20));
    };
    assert_eq!(status.code(), Some(0), "{}", gateway.log());
    // Not a terminal: every line of the log is a JSON object.
    let log = gateway.log();
    assert!(!log.is_empty());
    for line in log.lines() {
        assert!(serde_json::from_str::<Value>(line).is_ok_and(|line| line.is_object()), "{line}");
    }
    gateway.refused(&["status"], 5);
}
