//! A gateway whose disk is stolen: with a local key, what was written shows nowhere in its state directory; the key opens it
//! again, after kills, a conversion and a change of what opens the key.

use std::fs::File;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lifeboat_acceptance::binaries;
use lifeboat_acceptance::command::{Outcome, Run};
use lifeboat_acceptance::estate::Estate;
use lifeboat_acceptance::eventually;
use lifeboat_acceptance::gateway::Gateway;

const SIZE: u64 = 16 << 20;
const PATIENCE: Duration = Duration::from_secs(60);
const KEY_FILE: &str = "LIFEBOAT_LOCAL_KEY_FILE";
const PASSPHRASE_FILE: &str = "LIFEBOAT_LOCAL_PASSPHRASE_FILE";
const FIRST: &[u8; 32] = b"first canary, written in clear..";
const SECOND: &[u8; 32] = b"second canary, written encrypted";

/// Files below a directory that hold some bytes.
fn holding(root: &Path, canary: &[u8]) -> Result<Vec<PathBuf>> {
    let (mut found, mut next) = (Vec::new(), vec![root.to_owned()]);
    while let Some(dir) = next.pop() {
        for entry in std::fs::read_dir(&dir).with_context(|| format!("list {}", dir.display()))? {
            let path = entry?.path();
            if path.is_dir() {
                next.push(path);
            } else if path.is_file() && std::fs::read(&path)?.windows(canary.len()).any(|bytes| bytes == canary) {
                found.push(path);
            }
        }
    }
    Ok(found)
}

fn secret_file(path: &Path, content: &[u8]) -> Result<()> {
    std::fs::write(path, content)?;
    Ok(std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?)
}

/// Writes a canary into a whole block of the volume, and flushes.
fn write(gateway: &Gateway, block: u64, canary: &[u8; 32]) -> Result<()> {
    let file = File::options().write(true).open(gateway.volume("data"))?;
    file.write_all_at(&canary.repeat(128), block * 4096)?;
    Ok(file.sync_all()?)
}

fn read(gateway: &Gateway, block: u64) -> Result<Vec<u8>> {
    let path = gateway.volume("data");
    eventually("the volume to be served", PATIENCE, || {
        Ok(std::fs::metadata(&path).is_ok_and(|found| found.len() == SIZE).then_some(()))
    })
    .with_context(|| gateway.log_tail())?;
    let mut bytes = vec![0; 4096];
    File::open(path)?.read_exact_at(&mut bytes, block * 4096)?;
    Ok(bytes)
}

/// A verb that looks at the state directory itself.
fn offline(gateway: &Gateway, verb: &[&str], key: &[(&str, &Path)]) -> Result<Outcome> {
    let run = Run::new(binaries::lifeboat()?).args(verb).arg("--state").arg(gateway.state());
    key.iter().fold(run, |run, (name, path)| run.env(name, path)).outcome()
}

fn succeeds(outcome: &Outcome) -> Result<()> {
    ensure!(outcome.code() == 0, "exit code {}: {}{}", outcome.code(), outcome.stdout, outcome.stderr);
    Ok(())
}

#[test]
fn what_is_written_shows_nowhere_on_the_disk_and_opens_with_the_key_alone() {
    let mut estate = Estate::protect("at-rest", &[("data", SIZE)]).unwrap();
    let (key, passphrase) = (estate.dir().join("local.key"), estate.dir().join("passphrase"));
    secret_file(&key, &[0x5a; 64]).unwrap();
    secret_file(&passphrase, b"correct horse battery staple\n").unwrap();

    // In clear, as long as nobody gives a key. That the canary is found shows that the search finds.
    write(&estate.primary, 7, FIRST).unwrap();
    estate.primary.kill9().unwrap();
    assert!(!holding(&estate.primary.state(), FIRST).unwrap().is_empty());

    // A key is given: what was there is served, and named in the log.
    estate.primary.env(KEY_FILE, &key).restart().unwrap();
    assert_eq!(read(&estate.primary, 7).unwrap(), FIRST.repeat(128));
    let log = std::fs::read_to_string(estate.primary.log()).unwrap();
    assert!(log.contains("local files are not encrypted"), "{log}");
    let busy = offline(&estate.primary, &["encrypt"], &[(KEY_FILE, &key)]).unwrap();
    assert!(busy.code() == 1 && busy.stderr.contains("in use by another gateway"), "{}", busy.stderr);

    // Encrypted while it is stopped, journal and all.
    estate.primary.kill9().unwrap();
    let converted = offline(&estate.primary, &["encrypt", "--output", "json"], &[(KEY_FILE, &key)]).unwrap();
    succeeds(&converted).unwrap();
    let said: serde_json::Value = serde_json::from_str(&converted.stdout).unwrap();
    assert_eq!(said["encrypted"].as_array().map(Vec::len), Some(1), "{said}");
    assert_eq!(holding(&estate.primary.state(), FIRST).unwrap(), Vec::<PathBuf>::new());
    let again = offline(&estate.primary, &["encrypt", "--output", "json"], &[(KEY_FILE, &key)]).unwrap();
    assert!(again.stdout.contains("\"already\": 1"), "{}", again.stdout);

    // It works on as before, and a kill in the middle leaves ciphertext.
    estate.primary.restart().unwrap();
    assert_eq!(read(&estate.primary, 7).unwrap(), FIRST.repeat(128));
    write(&estate.primary, 9, SECOND).unwrap();
    estate.primary.kill9().unwrap();
    for canary in [FIRST, SECOND] {
        assert_eq!(holding(&estate.primary.state(), canary).unwrap(), Vec::<PathBuf>::new());
    }
    let sound = offline(&estate.primary, &["check"], &[(KEY_FILE, &key)]).unwrap();
    succeeds(&sound).unwrap();
    let closed = offline(&estate.primary, &["check"], &[]).unwrap();
    assert!(closed.code() == 1 && closed.stderr.contains("is encrypted: give what opens its key"), "{}", closed.stderr);

    // Without the key, or with another, it doesn't start and changes nothing.
    let other = estate.dir().join("other.key");
    secret_file(&other, &[0xa5; 64]).unwrap();
    for (given, words) in
        [("", "is encrypted: give what opens its key"), (other.to_str().unwrap(), "this key file does not open")]
    {
        let refused = estate.primary.env(KEY_FILE, given).refused_start().unwrap();
        assert_eq!(refused.stderr.lines().count(), 1, "{}", refused.stderr);
        assert!(refused.stderr.contains(words), "{}", refused.stderr);
    }

    // A passphrase in place of the key file.
    let new = ["encrypt", "--new-local-passphrase-file", passphrase.to_str().unwrap()];
    succeeds(&offline(&estate.primary, &new, &[(KEY_FILE, &key)]).unwrap()).unwrap();
    let old = offline(&estate.primary, &["check"], &[(KEY_FILE, &key)]).unwrap();
    assert!(old.stderr.contains("a passphrase is needed"), "{}", old.stderr);
    estate.primary.env(KEY_FILE, "").env(PASSPHRASE_FILE, &passphrase).restart().unwrap();
    assert_eq!(read(&estate.primary, 7).unwrap(), FIRST.repeat(128));
    assert_eq!(read(&estate.primary, 9).unwrap(), SECOND.repeat(128));
    // The vault has it, as from any gateway.
    estate.take_point(&estate.primary, "all of it").unwrap();
}
