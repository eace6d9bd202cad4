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
