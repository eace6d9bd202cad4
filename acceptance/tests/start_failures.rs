//! Starts that can't succeed: one clear error each, and nothing changed.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lifeboat_acceptance::binaries;
use lifeboat_acceptance::command::{Outcome, Run};
use lifeboat_acceptance::device::LoopFs;
use lifeboat_acceptance::estate::Estate;
use lifeboat_acceptance::gateway::Gateway;
use lifeboat_acceptance::mounts;
use lifeboat_acceptance::scratch::Scratch;

/// Every file below a directory with its content.
fn tree(root: &Path) -> Result<BTreeMap<PathBuf, Vec<u8>>> {
    let mut found = BTreeMap::new();
    let mut next = vec![root.to_owned()];
    while let Some(dir) = next.pop() {
        for entry in std::fs::read_dir(&dir).with_context(|| format!("list {}", dir.display()))? {
            let path = entry.context("list a directory")?.path();
            if path.is_dir() {
                next.push(path);
            } else {
                let content = std::fs::read(&path).with_context(|| format!("read {}", path.display()))?;
                found.insert(path, content);
            }
        }
    }
    Ok(found)
}

/// One line on standard error, for a person; a failing exit code; nothing mounted.
fn one_clear_error(outcome: &Outcome, words: &[&str]) -> Result<()> {
    ensure!(outcome.code() == 1, "exit code {}: {}{}", outcome.code(), outcome.stdout, outcome.stderr);
    let lines: Vec<&str> = outcome.stderr.lines().filter(|line| !line.trim().is_empty()).collect();
    ensure!(lines.len() == 1, "one line is expected:\n{}", outcome.stderr);
    for word in words {
        ensure!(lines[0].contains(word), "{:?} should say {word:?}", lines[0]);
    }
    ensure!(!lines[0].contains("panicked"), "{}", lines[0]);
    Ok(())
}

#[test]
fn a_port_in_use_is_named_and_nothing_is_changed() {
    let scratch = Scratch::new("port").unwrap();
    let mut gateway = Gateway::start("onprem", "primary", scratch.path()).unwrap();
    gateway.stop().unwrap();
    let before = tree(&gateway.state()).unwrap();
    let holder = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = holder.local_addr().unwrap();
    gateway.listen_at(taken);
    let outcome = gateway.refused_start().unwrap();
    one_clear_error(&outcome, &[&taken.to_string()]).unwrap();
    let mut after = tree(&gateway.state()).unwrap();
    // What a start notes about itself is no state.
    for noted in ["lock", "management.address"] {
        after.remove(&gateway.state().join(noted));
    }
    let before: BTreeMap<_, _> = before.into_iter().filter(|(path, _)| after.contains_key(path)).collect();
    assert!(before == after, "the refused start changed the state directory");
    assert!(!mounts::is_mounted(&gateway.mount()).unwrap());
}

#[test]
fn a_missing_fuse_device_is_named() {
    let scratch = Scratch::new("nofuse").unwrap();
    let gateway = Gateway::prepare("onprem", "primary", scratch.path()).unwrap();
    // A mount namespace of its own, with a /dev that has no fuse in it.
    let script = "mount -t tmpfs tmpfs /dev && mknod -m 666 /dev/null c 1 3 && mknod -m 666 /dev/urandom c 1 9 && \
                  mknod -m 666 /dev/random c 1 8 && exec \"$@\"";
    let outcome = Run::new("unshare")
        .args(["--mount", "sh", "-c", script, "sh"])
        .arg(binaries::lifeboat().unwrap())
        .arg("serve")
        .arg("--state")
        .arg(gateway.state())
        .arg("--mount")
        .arg(gateway.mount())
        .args(["--site", "onprem", "--name", "primary", "--listen-management", "127.0.0.1:0"])
        .within(Duration::from_secs(20))
        .outcome()
        .unwrap();
    one_clear_error(&outcome, &["/dev/fuse"]).unwrap();
}

#[test]
fn a_second_gateway_on_the_same_state_is_refused() {
    let scratch = Scratch::new("twice").unwrap();
    let gateway = Gateway::start("onprem", "primary", scratch.path()).unwrap();
    let outcome = gateway.refused_start().unwrap();
    one_clear_error(&outcome, &["state"]).unwrap();
    // The first one goes on.
    gateway.run(&["status"]).unwrap().ok().unwrap();
}

#[test]
fn a_wrong_key_opens_nothing_and_changes_nothing() {
    let mut estate = Estate::protect("wrongkey", &[("v", 4 << 20)]).unwrap();
    estate.add_standby().unwrap();
    estate.primary.stop().unwrap();
    let before = tree(&estate.vault_dir()).unwrap();
    let wrong = estate.dir().join("wrong.key");
    std::fs::write(&wrong, [7u8; 32]).unwrap();
    std::fs::set_permissions(&wrong, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let standby = estate.standby().unwrap();
    let args = ["vault", "open", estate.vault_url(), "--key-file", &wrong.display().to_string()];
    let outcome = standby.run(&args).unwrap();
    assert_ne!(outcome.code(), 0);
    assert!(outcome.stderr.contains("key"), "{}", outcome.stderr);
    assert!(before == tree(&estate.vault_dir()).unwrap(), "the vault was changed");
    // The right one opens it afterwards.
    estate.open_vault_at_standby().unwrap();
}

#[test]
fn a_vault_of_a_newer_format_is_left_alone() {
    let mut estate = Estate::protect("newer", &[("v", 4 << 20)]).unwrap();
    estate.add_standby().unwrap();
    estate.primary.stop().unwrap();
    // As a future version would leave it: every revision of the vault's description says format 999.
    let mut changed = 0;
    for (path, content) in tree(&estate.vault_dir().join("vault")).unwrap() {
        let text = String::from_utf8(content).unwrap();
        let newer = text.replacen("\"format_version\":2,", "\"format_version\":999,", 1);
        let newer = newer.replacen("\"format_version\": 2,", "\"format_version\": 999,", 1);
        assert_ne!(text, newer, "no format version in {text}");
        std::fs::write(path, newer).unwrap();
        changed += 1;
    }
    assert!(changed > 0);
    let before = tree(&estate.vault_dir()).unwrap();
    let standby = estate.standby().unwrap();
    let key = estate.key_file().display().to_string();
    let outcome = standby.run(&["vault", "open", estate.vault_url(), "--key-file", &key]).unwrap();
    assert_ne!(outcome.code(), 0);
    assert!(outcome.stderr.contains("999"), "the version should be named: {}", outcome.stderr);
    assert!(before == tree(&estate.vault_dir()).unwrap(), "the vault was changed");
}

#[test]
fn a_disk_without_room_is_said_before_anything_is_protected() {
    let scratch = Scratch::new("full").unwrap();
    // A state directory on a file system of 24 MiB, most of it taken.
    let image = scratch.path().join("small.img");
    std::fs::File::create(&image).unwrap().set_len(24 << 20).unwrap();
    let dir = scratch.path().join("gateway");
    let fs = LoopFs::format(&image, &dir).unwrap();
    let gateway = Gateway::prepare("onprem", "primary", &dir).unwrap();
    let room = Run::new("df").args(["--output=avail", "-B1"]).arg(&dir).ok().unwrap();
    let room: u64 = room.lines().nth(1).unwrap().trim().parse().unwrap();
    let filler = dir.join("filler");
    std::fs::write(&filler, vec![1; usize::try_from(room - 8192).unwrap()]).unwrap();
    fs.sync().unwrap();
    let outcome = gateway.refused_start().unwrap();
    one_clear_error(&outcome, &["space"]).unwrap();
    std::fs::remove_file(&filler).unwrap();
    drop(gateway);
    fs.close().unwrap();
}
