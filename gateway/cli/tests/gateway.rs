//! The binary against itself: `lifeboat serve` without a mount, and the verbs that ask it. No root and no FUSE needed.

mod support;

use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;
use support::{DEADLINE, Gateway, binary, said, write_passphrase};

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

#[test]
fn a_token_is_printed_once_and_does_what_its_roles_say() {
    let gateway = Gateway::start();
    let key = write_passphrase(gateway.dir.path());
    let url = format!("file://{}", gateway.dir.path().join("vault").display());
    let line = gateway.refused(&["token", "create", "--name", "ci", "--role", "reader"], 3);
    assert!(line.contains("lifeboat vault open"), "{line}");
    gateway.json(&["vault", "create", &url, "--name", "main", "--key", &key]);

    let made = gateway.run(&["token", "create", "--name", "ci", "--role", "reader", "--ttl", "1h"]);
    assert_eq!(made.status.code(), Some(0), "{}", said(&made));
    let printed = String::from_utf8(made.stdout.clone()).expect("UTF-8");
    let secret = printed.trim_end().to_owned();
    assert!(secret.starts_with("lbt_") && printed == format!("{secret}\n"), "alone on its line");
    assert!(said(&made).contains("token ci (tok-") && !said(&made).contains(&secret), "{}", said(&made));

    let address = std::fs::read_to_string(gateway.dir.path().join("state/management.address")).expect("an address");
    let authority = gateway.dir.path().join("state/ca.pem").display().to_string();
    let by = |secret: &str, args: &[&str]| {
        let mut command = binary();
        command.args(args).env("LIFEBOAT_ENDPOINT", format!("https://{}", address.trim()));
        command.env("LIFEBOAT_CA_CERT", &authority).env("LIFEBOAT_TOKEN", secret).output().expect("the binary runs")
    };
    let who = by(&secret, &["whoami"]);
    let text = String::from_utf8_lossy(&who.stdout).into_owned();
    assert!(text.contains("the token ci (tok-") && text.contains("reader") && text.contains("until"), "{text}");
    assert_eq!(by(&secret, &["vault", "list"]).status.code(), Some(0));
    let refused = by(&secret, &["site", "create", "--name", "onprem"]);
    assert_eq!(refused.status.code(), Some(4), "{}", said(&refused));
    for word in ["POST /v1/sites", "the role operator", "has reader"] {
        assert!(said(&refused).contains(word), "{word}: {}", said(&refused));
    }

    let rotated = gateway.json(&["token", "rotate", "ci", "--grace", "0s"]);
    let newer = rotated["secret"].as_str().expect("a secret").to_owned();
    let old = by(&secret, &["whoami"]);
    assert!(old.status.code() == Some(4) && !said(&old).contains(&secret), "{}", said(&old));
    assert_eq!(by(&newer, &["whoami"]).status.code(), Some(0));
    gateway.text(&["token", "renew", "ci", "--ttl", "2d"]);
    let listed = gateway.text(&["token", "list"]);
    assert!(listed.contains("ci") && listed.contains("reader"), "{listed}");
    let shown = gateway.text(&["token", "show", "ci"]);
    assert!(shown.contains("status") || shown.contains("expired"), "{shown}");
    let events = gateway.text(&["event", "list", "--since", "1h"]);
    assert!(events.contains("made the token ci") && events.contains("rotated the token ci"), "{events}");
    gateway.text(&["token", "delete", "ci"]);
    assert_eq!(by(&newer, &["whoami"]).status.code(), Some(4));
    assert_eq!(gateway.text(&["token", "list"]), "there is no token but the administrators'\n");
    for place in [&listed, &shown, &events, &gateway.log()] {
        assert!(!place.contains(&secret) && !place.contains(&newer), "{place}");
    }
    let administrators = std::fs::read_to_string(gateway.dir.path().join("state/admin.token")).expect("made");
    assert_eq!(gateway.text(&["token", "show"]).trim(), administrators.trim());
    assert!(gateway.text(&["whoami"]).contains("the administrator of gateway primary"));
}

/// Every verb that reads, and what it needs besides: one JSON document and nothing else, and a text without anything that moves a cursor.
#[test]
fn whatever_reads_gives_one_json_document() {
    let gateway = Gateway::start();
    let key = write_passphrase(gateway.dir.path());
    let url = format!("file://{}", gateway.dir.path().join("vault").display());
    gateway.json(&["vault", "create", &url, "--name", "main", "--key", &key]);
    gateway.json(&["site", "create", "--name", "onprem"]);
    gateway.json(&["gateway", "create", "--name", "primary", "--site", "onprem"]);
    gateway.json(&["policy", "create", "--name", "standard", "--interval", "1s", "--retain", "all:1h"]);
    gateway.json(&["group", "create", "--name", "ledger", "--site", "onprem", "--policy", "standard"]);
    for line in [
        "status",
        "whoami",
        "vault list",
        "vault show main",
        "vault key list main",
        "site list",
        "site show onprem",
        "gateway list",
        "gateway show primary",
        "policy list",
        "policy show standard",
        "group list",
        "group list --deleted",
        "group show ledger",
        "volume list",
        "machine list",
        "network list",
        "network-mapping list",
        "plan list",
        "drill list",
        "deleted list",
        "point list --group ledger",
        "job list",
        "event list",
        "approval list",
        "audit list",
        "token list",
        "registration-key list",
        "agent list",
    ] {
        let args: Vec<&str> = line.split(' ').collect();
        let document = gateway.json(&args);
        assert!(document.is_object() || document.is_array(), "{line}: {document}");
        let text = gateway.text(&args);
        assert!(!text.is_empty() && !text.contains('\u{1b}'), "{line}: {text}");
    }
    let status = gateway.json(&["status"]);
    assert_eq!(status["summary"]["groups"], 1, "{status}");
    assert!(status["jobs"].is_array() && status["drills_due"].is_array() && status["next"].is_array(), "{status}");
    let checked = binary().args(["vault", "check", &url, "--key", &key, "--output", "json"]).output().expect("it runs");
    assert!(serde_json::from_slice::<Value>(&checked.stdout).is_ok(), "{}", said(&checked));

    let line = gateway.refused(&["group", "show", "legder"], 3);
    assert!(line.contains("did you mean \"ledger\"?"), "{line}");
    let line = gateway.refused(&["policy", "show", "standrad"], 3);
    assert!(line.contains("did you mean \"standard\"?"), "{line}");
    assert!(!gateway.refused(&["site", "show", "xyz"], 3).contains("did you mean"));

    let group = gateway.json(&["group", "set-hooks", "ledger", "--pre-script", "freeze", "--post-script", "thaw"]);
    assert_eq!(group["spec"]["app_consistency"]["pre_script"], "freeze");
    assert_eq!(gateway.json(&["group", "set-hooks", "ledger", "--none"])["spec"]["app_consistency"], Value::Null);
}

#[test]
fn a_watched_status_goes_on_until_it_is_interrupted() {
    use std::io::{BufRead as _, BufReader};
    let gateway = Gateway::start();
    let mut watching = binary()
        .args(["status", "--watch", "1", "--output", "json", "--state", &gateway.state()])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("the binary runs");
    let mut lines = BufReader::new(watching.stdout.take().expect("a pipe")).lines();
    let first = lines.next().expect("a line").expect("text");
    let document: Value = serde_json::from_str(&first).expect("a document a line");
    assert_eq!(document["summary"]["sentence"], "Nothing is protected: no vault is attached.");
    // Only what has changed is told.
    let key = write_passphrase(gateway.dir.path());
    let url = format!("file://{}", gateway.dir.path().join("vault").display());
    gateway.json(&["vault", "create", &url, "--name", "main", "--key", &key]);
    let changed = lines.find_map(|line| line.ok().filter(|line| line.contains("\"main\""))).expect("a line");
    assert!(changed.contains("no group is declared"), "{changed}");
    watching.kill().expect("it can be ended");
    watching.wait().expect("its end");
}
