//! Gateways register by key with the binary: one that runs, one that doesn't. No root and no FUSE needed.

mod support;

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::Instant;

use serde_json::Value;
use support::{DEADLINE, Gateway, binary, said, write_passphrase};

fn key_file(dir: &Path) -> String {
    let path = dir.join("vault.key");
    let file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
    file.and_then(|mut file| file.write_all(&[0x5a; 32])).expect("written");
    path.display().to_string()
}

/// The gateway that has the vault, and its address.
fn first() -> (Gateway, String) {
    let gateway = Gateway::start();
    let key = key_file(gateway.dir.path());
    let url = format!("file://{}", gateway.dir.path().join("vault").display());
    gateway.json(&["vault", "create", &url, "--name", "main", "--key-file", &key]);
    gateway.json(&["site", "create", "--name", "recovery"]);
    let address = std::fs::read_to_string(gateway.dir.path().join("state/management.address")).expect("an address");
    let endpoint = format!("https://{}", address.trim());
    (gateway, endpoint)
}

fn registration_key(gateway: &Gateway, name: &str, roles: &str) -> String {
    let create = ["registration-key", "create", "--site", "recovery", "--name", name, "--roles", roles];
    let made = gateway.run(&create);
    assert_eq!(made.status.code(), Some(0), "{}", said(&made));
    let path = gateway.dir.path().join(format!("{name}.registration"));
    std::fs::write(&path, &made.stdout).expect("written");
    path.display().to_string()
}

fn enrol(state: &str, endpoint: &str, key: &str, more: &[&str]) -> (Option<i32>, String) {
    let line = ["gateway", "enrol", "--state", state, "--endpoint", endpoint, "--key-file", key];
    let outcome = binary().args([&line[..], more].concat()).output().expect("the binary runs");
    (outcome.status.code(), format!("{}{}", String::from_utf8_lossy(&outcome.stdout), said(&outcome)))
}

fn eventually(what: &str, gateway: &Gateway, check: impl Fn() -> bool) {
    let since = Instant::now();
    while !check() {
        assert!(since.elapsed() < DEADLINE, "{what}: {}", gateway.log());
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
}

fn registered(gateway: &Gateway, name: &str) -> bool {
    let found: Value = gateway.json(&["gateway", "list"]);
    let found = found.as_array().and_then(|all| all.iter().find(|one| one["spec"]["name"] == name).cloned());
    found.is_some_and(|one| one["status"]["registered"] == true)
}

#[test]
fn a_running_gateway_registers_and_finds_the_vaults_key_where_the_other_one_has_it() {
    let (first, endpoint) = first();
    let key = registration_key(&first, "gw-b", "configuration_server,process_server,master_target");
    let second = Gateway::start_as("recovery", "gw-b", &[]);
    let (code, printed) = enrol(&second.state(), &endpoint, &key, &["--name", "other"]);
    assert!(code == Some(2) && printed.contains("is gw-b at the site recovery"), "{code:?} {printed}");
    // Nobody there, and somebody who is no gateway of that vault.
    let (code, printed) = enrol(&second.state(), "https://127.0.0.1:1", &key, &[]);
    assert!(code == Some(5) && printed.contains("can't reach"), "{code:?} {printed}");
    let stranger = Gateway::start_as("recovery", "stranger", &[]);
    let address = std::fs::read_to_string(stranger.dir.path().join("state/management.address")).expect("an address");
    let (code, printed) = enrol(&second.state(), &format!("https://{}", address.trim()), &key, &[]);
    assert!(code == Some(5) && printed.contains("127.0.0.1"), "{code:?} {printed}");
    let (code, printed) = enrol(&second.state(), &endpoint, &write_passphrase(second.dir.path()), &[]);
    assert!(
        code == Some(2) && printed.contains("no registration key") && !printed.contains("horse"),
        "{code:?} {printed}"
    );

    let (code, printed) = enrol(&second.state(), &endpoint, &key, &[]);
    assert!(code == Some(0) && printed.contains("registered as the gateway gw-b at the site recovery"), "{printed}");
    eventually("both show it", &second, || registered(&first, "gw-b") && registered(&second, "gw-b"));
    let keys = first.json(&["registration-key", "list"]);
    assert!(keys[0]["status"]["used_by_gateway"].as_str().is_some_and(|id| id.starts_with("gw-")), "{keys}");
    let (code, printed) = enrol(&stranger.state(), &endpoint, &key, &[]);
    assert!(code == Some(4) && printed.contains("was used by another machine"), "{code:?} {printed}");
    let text = std::fs::read_to_string(&key).expect("there");
    for gateway in [&first, &second, &stranger] {
        assert!(!gateway.log().contains(text.trim()), "a key is in a log");
    }
}

#[test]
fn a_gateway_that_never_ran_registers_and_opens_the_vault_when_it_starts() {
    let (first, endpoint) = first();
    let key = registration_key(&first, "gw-c", "process_server");
    let dir = tempfile::tempdir().expect("a directory");
    let state = dir.path().join("state").display().to_string();
    let (code, printed) = enrol(&state, &endpoint, &key, &["--name", "gw-c", "--site", "elsewhere"]);
    assert!(code == Some(1) && printed.contains("was started for elsewhere"), "{code:?} {printed}");
    let (code, printed) = enrol(&state, &endpoint, &key, &["--name", "gw-c", "--site", "recovery"]);
    assert!(code == Some(0) && printed.contains("known as the gateway gw-c"), "{code:?} {printed}");
    assert!(!registered(&first, "gw-c"));

    // Where the first one has the key there is none any more; it is named by the gateway's own settings.
    let own = dir.path().join("own.key");
    std::fs::rename(first.dir.path().join("vault.key"), &own).expect("moved");
    let own = own.display().to_string();
    let start = |more: &[&str]| {
        let log = std::fs::File::create(dir.path().join("log")).expect("a log");
        binary()
            .args(["serve", "--listen-management", "127.0.0.1:0", "--site", "recovery", "--name", "gw-c"])
            .args(["--reconcile-interval", "200ms", "--state", &state])
            .args(more)
            .stdout(log.try_clone().expect("a second handle"))
            .stderr(log)
            .spawn()
            .expect("the binary runs")
    };
    let mut process = start(&[]);
    let log = || std::fs::read_to_string(dir.path().join("log")).unwrap_or_default();
    let said_in_log = |what: &str| {
        let since = Instant::now();
        while !log().contains(what) {
            assert!(since.elapsed() < DEADLINE, "{what}: {}", log());
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
    };
    said_in_log("its key is missing");
    process.kill().and_then(|()| process.wait()).expect("killed");
    let mut process = start(&["--vault-key-file", &own]);
    eventually("it is registered", &first, || registered(&first, "gw-c"));
    process.kill().and_then(|()| process.wait()).expect("killed");
}
