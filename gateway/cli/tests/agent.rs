//! A machine enrols with the binary, and is revoked with it. No root and no FUSE needed.

mod support;

use std::os::unix::fs::PermissionsExt;

use support::{Gateway, binary, said, write_passphrase};

#[test]
fn a_machine_enrols_once_and_its_key_is_printed_nowhere_else() {
    let gateway = Gateway::start();
    let passphrase = write_passphrase(gateway.dir.path());
    let url = format!("file://{}", gateway.dir.path().join("vault").display());
    gateway.json(&["vault", "create", &url, "--name", "main", "--key", &passphrase]);
    gateway.json(&["site", "create", "--name", "onprem"]);

    let made = gateway.run(&["registration-key", "create", "--site", "onprem", "--name", "web", "--ttl", "10m"]);
    let key = String::from_utf8(made.stdout.clone()).expect("UTF-8").trim().to_owned();
    assert!(key.starts_with("lbr_") && key.lines().count() == 1, "{}", said(&made));
    assert!(said(&made).contains("registration key web") && !said(&made).contains(&key), "{}", said(&made));
    let file = gateway.dir.path().join("key");
    std::fs::write(&file, format!("{key}\n")).expect("written");
    let address = std::fs::read_to_string(gateway.dir.path().join("state/management.address")).expect("an address");
    let endpoint = format!("https://{}", address.trim());
    let home = gateway.dir.path().join("agent");
    let enrol = |key_file: &str, home: &std::path::Path| {
        let outcome = binary()
            .args(["agent", "enrol", "--endpoint", &endpoint, "--key-file", key_file, "--name", "web"])
            .arg("--state")
            .arg(home)
            .output()
            .expect("the binary runs");
        (outcome.status.code(), format!("{}{}", String::from_utf8_lossy(&outcome.stdout), said(&outcome)))
    };
    let file = file.display().to_string();
    let (code, printed) = enrol(&file, &home);
    assert!(code == Some(0) && printed.contains("agent web enrolled: agt-"), "{printed}{}", gateway.log());
    let mode = std::fs::metadata(home.join("identity.pem")).expect("kept").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let listed = gateway.json(&["agent", "list"]);
    assert_eq!(listed[0]["spec"]["name"], "web", "{listed}");
    assert!(gateway.text(&["agent", "list"]).contains("onprem"));
    let keys = gateway.json(&["registration-key", "list"]);
    assert_eq!(keys[0]["status"]["used_by"], listed[0]["id"], "{keys}");

    let (code, printed) = enrol(&file, &home);
    assert!(code == Some(4) && printed.contains("holds the identity"), "{code:?} {printed}");
    let (code, printed) = enrol(&file, &gateway.dir.path().join("another"));
    assert!(code == Some(4) && printed.contains("was used by another machine"), "{code:?} {printed}");
    let (code, printed) = enrol(&passphrase, &gateway.dir.path().join("third"));
    assert!(code == Some(2) && printed.contains("lbr_") && !printed.contains("horse"), "{code:?} {printed}");
    let (code, _) = enrol("/nonexistent", &gateway.dir.path().join("third"));
    assert_eq!(code, Some(3));

    gateway.text(&["agent", "delete", "web"]);
    assert_eq!(gateway.text(&["agent", "list"]), "no agent has enrolled\n");
    gateway.text(&["registration-key", "delete", "web"]);
    gateway.refused(&["registration-key", "create", "--site", "onprem", "--ttl", "2h"], 2);
    gateway.refused(&["registration-key", "create", "--site", "nowhere"], 3);
    let log = gateway.log();
    let secret = &key[70..113];
    assert!(!log.contains(secret) && log.contains("registration key web"), "{log}");
    let private = std::fs::read_to_string(home.join("identity.pem")).expect("kept");
    assert!(!log.contains(private.lines().nth(1).expect("the key itself")));
}
