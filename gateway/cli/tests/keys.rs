//! Keys through the binary: slots, rotation and erasure at a gateway, and a recovery at another that knows nothing but
//! the vault's place and a key.

mod support;

use std::path::Path;
use std::time::Instant;

use serde_json::Value;
use support::{DEADLINE, Gateway, said, write_passphrase};

const PROGRAM: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../vault/testing/kms.sh");

fn service(dir: &Path) -> String {
    let files = dir.join("service");
    std::fs::create_dir_all(&files).expect("a directory");
    format!("command:{PROGRAM}?key={}", files.display())
}

/// Declares a volume at the gateway and waits until it is protected and in the vault.
fn protect(gateway: &Gateway) -> String {
    for site in ["onprem", "cloud"] {
        gateway.text(&["site", "create", "--name", site]);
    }
    gateway.text(&["gateway", "create", "--name", "primary", "--site", "onprem"]);
    gateway.text(&["gateway", "create", "--name", "standby", "--site", "cloud"]);
    gateway.text(&["policy", "create", "--name", "standard", "--interval", "1s", "--retain", "all:1h"]);
    let made = ["--name", "db", "--gateway", "primary", "--size", "16MiB", "--policy", "standard"];
    let volume = gateway.json(&[&["volume", "create"][..], &made].concat());
    gateway.text(&["point", "take", "--group", "db", "--label", "first"]);
    volume["id"].as_str().expect("an id").to_owned()
}

fn slots(keys: &Value) -> Vec<(u64, String)> {
    let slots = keys["slots"].as_array().expect("a list");
    let read = |slot: &Value| Some((slot["slot"].as_u64()?, slot["source"].as_str()?.to_owned()));
    slots.iter().map(|slot| read(slot).expect("a slot")).collect()
}

/// A blank machine that is given the vault's place and one key takes the volume over.
fn recover(primary: Gateway, url: &str, key: &[&str]) {
    let mut primary = primary;
    primary.process.kill().expect("killed");
    primary.process.wait().expect("gone");
    let standby = Gateway::start_as("cloud", "standby", &["--kms-programs", PROGRAM]);
    let opened = standby.json(&[&["vault", "open", url], key].concat());
    assert_eq!(opened["status"]["health"], "healthy", "{opened}");
    let since = Instant::now();
    while standby.json(&["gateway", "show", "standby"])["status"]["registered"] != true {
        assert!(since.elapsed() < DEADLINE, "not registered: {}", standby.log());
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    let job = standby.json(&["failover", "unplanned", "--group", "db"]);
    assert_eq!(job["state"], "succeeded", "{job}");
    let volume = standby.json(&["volume", "show", "db"]);
    assert_eq!(volume["status"]["active_site"], "cloud", "{volume}");
    let log = standby.log();
    assert!(!log.contains("horse"), "{log}");
}

#[test]
fn a_passphrase_recovers_on_a_blank_machine_after_its_master_key_was_replaced() {
    let gateway = Gateway::start();
    let place = tempfile::tempdir().expect("a directory");
    let key = write_passphrase(place.path());
    let url = format!("file://{}", place.path().join("vault").display());
    gateway.text(&["vault", "create", &url, "--name", "main", "--key", &key]);
    protect(&gateway);
    let done = gateway.json(&["vault", "key", "rotate", "main"]);
    assert_eq!((&done["master_key"], &done["made"]), (&Value::from(2), &Value::from(true)), "{done}");
    gateway.text(&["point", "take", "--group", "db", "--label", "under the new key"]);
    recover(gateway, &url, &["--key", &key]);
}

#[test]
fn a_kms_key_recovers_on_a_blank_machine() {
    let gateway = Gateway::start_as("onprem", "primary", &["--kms-programs", PROGRAM]);
    let place = tempfile::tempdir().expect("a directory");
    let kms = service(place.path());
    let url = format!("file://{}", place.path().join("vault").display());
    let vault = gateway.json(&["vault", "create", &url, "--name", "main", "--kms-key", &kms]);
    assert_eq!(vault["spec"]["encryption"]["key_source"], "kms");
    assert_eq!(vault["spec"]["encryption"]["kms_key"], kms.as_str());
    protect(&gateway);
    recover(gateway, &url, &["--kms-key", &kms]);
}

#[test]
fn slots_are_listed_added_verified_removed_and_rotated() {
    let gateway = Gateway::start_as("onprem", "primary", &["--kms-programs", PROGRAM]);
    let dir = gateway.dir.path().to_owned();
    let key = write_passphrase(&dir);
    let url = format!("file://{}", dir.join("vault").display());
    gateway.text(&["vault", "create", &url, "--name", "main", "--key", &key]);
    let first = gateway.json(&["vault", "key", "list", "main"]);
    assert_eq!((slots(&first), &first["master_key"]), (vec![(1, "passphrase".to_owned())], &Value::from(1)));
    gateway.refused(&["vault", "key", "remove", "main", "1"], 4);
    gateway.refused(&["vault", "key", "remove", "main", "7"], 3);

    let other = dir.join("other").display().to_string();
    std::fs::write(&other, "another horse battery").expect("written");
    let kms = service(&dir);
    assert_eq!(gateway.run(&["vault", "key", "verify", "main", "--kms-key", &kms]).status.code(), Some(1));
    let added = gateway.json(&["vault", "key", "add", "main", "--kms-key", &kms]);
    assert_eq!(slots(&added)[1], (2, "kms".to_owned()));
    assert_eq!(gateway.json(&["vault", "key", "add", "main", "--kms-key", &kms]), added, "it is there already");
    assert_eq!(gateway.json(&["vault", "key", "verify", "main", "--kms-key", &kms])["slots"], serde_json::json!([2]));
    let used = gateway.json(&["vault", "key", "add", "main", "--key", &other, "--use"]);
    assert_eq!(slots(&used).len(), 3);

    // What the API may not choose: a program that the gateway wasn't started with.
    let line = gateway.refused(&["vault", "key", "add", "main", "--kms-key", "command:/bin/sh?key=x"], 2);
    assert!(line.contains("--kms-programs /bin/sh"), "{line}");

    let line = gateway.refused(&["vault", "key", "rotate", "main"], 4);
    assert!(line.contains("slot 1 (passphrase), 2 (kms)"), "{line}");
    let done = gateway.json(&["vault", "key", "rotate", "main", "--with-kms-key", &kms, "--drop-others"]);
    assert_eq!((&done["master_key"], &done["dropped_slots"]), (&Value::from(2), &serde_json::json!([1])), "{done}");
    let listed = gateway.json(&["vault", "key", "list", "main"]);
    assert_eq!(slots(&listed).iter().map(|slot| slot.0).collect::<Vec<_>>(), [4, 5]);
    assert_eq!(gateway.run(&["vault", "key", "verify", "main", "--key", &key]).status.code(), Some(1));
    let text = gateway.text(&["vault", "key", "list", "main"]);
    assert!(text.contains("master key 2"), "{text}");
    let left = slots(&listed).into_iter().find(|slot| slot.1 == "kms").expect("a kms slot").0.to_string();
    let removed = gateway.json(&["vault", "key", "remove", "main", &left]);
    assert_eq!(slots(&removed).len(), 1);
    assert_eq!(gateway.json(&["vault", "key", "remove", "main", &left]), removed, "it is gone already");

    // The gateway starts again with the key that it was told to use.
    let state = gateway.state();
    let kept = std::fs::read_to_string(Path::new(&state).join("vaults.json")).expect("attachments");
    assert!(kept.contains("another horse") && !kept.contains("correct horse"));
    let told = gateway.text(&["event", "list", "--since", "1h"]);
    for kind in ["vault.key-added", "vault.key-rotated", "vault.key-removed"] {
        assert!(told.contains(kind), "{told}");
    }
    assert!(!told.contains("horse") && !gateway.log().contains("horse"));
}

#[test]
fn a_volume_gets_another_data_key_and_is_erased() {
    let gateway = Gateway::start();
    let dir = gateway.dir.path().to_owned();
    let key = write_passphrase(&dir);
    let url = format!("file://{}", dir.join("vault").display());
    gateway.text(&["vault", "create", &url, "--name", "main", "--key", &key]);
    let id = protect(&gateway);
    assert_eq!(gateway.json(&["volume", "rotate-key", "db"])["data_key"], 2);
    assert_eq!(gateway.json(&["volume", "rotate-key", &id])["data_key"], 3);
    gateway.text(&["point", "take", "--group", "db", "--label", "under key 3"]);

    let line = gateway.refused(&["volume", "erase", "db", "--confirm", "dB"], 2);
    assert!(line.contains("confirm"), "{line}");
    let line = gateway.refused(&["volume", "erase", "db", "--confirm", "db"], 4);
    assert!(line.contains("delete it first"), "{line}");
    gateway.text(&["volume", "delete", "db"]);
    let erased = gateway.json(&["volume", "erase", &id, "--confirm", "db"]);
    assert_eq!((&erased["volume_id"], &erased["left_behind"]), (&Value::from(id.clone()), &serde_json::json!([])));
    assert_eq!(gateway.json(&["volume", "erase", &id, "--confirm", "db"]), erased, "it was erased before");
    let keys: Vec<_> = std::fs::read_dir(dir.join("vault/keys").join(&id)).expect("keys").collect();
    assert_eq!(keys.len(), 1, "{keys:?}");
    let told = gateway.text(&["event", "list", "--since", "1h"]);
    assert!(told.contains("volume.erased") && told.contains("volume.key-rotated"), "{told}");

    let outcome = gateway.run(&["point", "verify", "--group", &group_of(&id), "--vault", &url, "--key", &key]);
    assert_eq!(outcome.status.code(), Some(0), "{}", said(&outcome));
    assert!(String::from_utf8_lossy(&outcome.stdout).contains("erased"), "{outcome:?}");
    let line = gateway.refused(&["volume", "erase", "vol-00000000000000000000000000000001", "--confirm", "x"], 3);
    assert!(line.contains("there is no volume"), "{line}");
}

/// The group of a volume that stands by itself has the volume's id.
fn group_of(volume: &str) -> String {
    volume.replacen("vol-", "grp-", 1)
}
