//! The binary from outside, where no gateway is needed: exit codes, streams, and what is said.
//!
//! What it does with a gateway is tested by the acceptance crate, with real ones.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// The certificate of an authority that signed nothing, in a file.
fn authority(dir: &Path) -> String {
    let certificate = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).expect("a certificate");
    let file = dir.join("ca.pem");
    std::fs::write(&file, certificate.cert.pem()).expect("written");
    file.display().to_string()
}

/// Runs it without anything of this process's environment.
fn lifeboat(args: &[&str], environment: &[(&str, &str)]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_lifeboat"))
        .args(args)
        .env_clear()
        .envs(environment.iter().copied())
        .stdin(Stdio::null())
        .output()
        .expect("the binary runs")
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("UTF-8")
}

/// The one line on standard error of a run that failed with `code` and printed no result.
fn refused(outcome: &Output, code: i32) -> String {
    let said = text(&outcome.stderr);
    assert_eq!(outcome.status.code(), Some(code), "{said}");
    assert_eq!(text(&outcome.stdout), "");
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines.len(), 1, "one line is expected:\n{said}");
    assert!(lines[0].starts_with("lifeboat: "), "{said}");
    lines[0].to_owned()
}

fn vectors() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../format/vectors/v1")
}

#[test]
fn wrong_usage_is_2_and_one_line() {
    let line = refused(&lifeboat(&["failback", "--group", "g", "--mode", "fast"], &[]), 2);
    assert!(line.contains("full-download"), "{line}");
    let line = refused(&lifeboat(&["status"], &[]), 2);
    assert!(line.contains("LIFEBOAT_ENDPOINT") && line.contains("--state"), "{line}");
    let line = refused(&lifeboat(&["serve"], &[]), 2);
    assert!(line.contains("--state"), "{line}");
    let outcome = lifeboat(&[], &[]);
    assert_eq!(outcome.status.code(), Some(2));
    assert!(text(&outcome.stderr).contains("Fail over and back:"));
}

#[test]
fn help_and_version_are_results() {
    for (args, word) in [(["--help", "--output=text"], "Exit codes"), (["point", "--help"], "verify")] {
        let outcome = lifeboat(&args, &[]);
        assert_eq!(outcome.status.code(), Some(0));
        assert!(text(&outcome.stdout).contains(word) && outcome.stderr.is_empty());
    }
    let outcome = lifeboat(&["--version"], &[]);
    assert_eq!(text(&outcome.stdout), format!("lifeboat {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn a_gateway_that_does_not_answer_is_5() {
    // A port that was free a moment ago, and that nobody listens on.
    let port = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port").port();
    let dir = tempfile::tempdir().expect("a directory");
    let endpoint = format!("https://127.0.0.1:{port}");
    let authority = authority(dir.path());
    let environment = [
        ("LIFEBOAT_ENDPOINT", endpoint.as_str()),
        ("LIFEBOAT_TOKEN", "hunter2-token"),
        ("LIFEBOAT_CA_CERT", authority.as_str()),
    ];
    for args in [&["status", "--output", "json"][..], &["volume", "list"], &["failover", "test", "--group", "g"]] {
        let line = refused(&lifeboat(args, &environment), 5);
        assert!(line.contains(&endpoint), "{line}");
        assert!(!line.contains("hunter2"), "{line}");
    }
}

#[test]
fn a_state_directory_without_a_gateway_is_5() {
    let dir = tempfile::tempdir().expect("a directory");
    let state = dir.path().display().to_string();
    let line = refused(&lifeboat(&["status", "--state", &state], &[]), 5);
    assert!(line.contains(&state) && line.contains("lifeboat serve"), "{line}");
}

#[test]
fn an_authority_that_is_none_is_wrong_usage() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("ca.pem");
    std::fs::write(&file, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n").expect("written");
    let file = file.display().to_string();
    let environment = [("LIFEBOAT_TOKEN", "t")];
    let args = ["status", "--endpoint", "https://127.0.0.1:1", "--ca-cert", &file];
    let line = refused(&lifeboat(&args, &environment), 2);
    assert!(line.contains("certificate"), "{line}");
}

#[test]
fn inspect_names_the_kind_of_every_golden_vector() {
    let kinds = [
        ("segment.bin", "segment"),
        ("map.bin", "map"),
        ("epoch-intent-fence.bin", "epoch intent"),
        ("epoch-intent-branch.bin", "epoch intent"),
        ("epoch-cut.bin", "epoch cut"),
        ("group-state.bin", "group state of a gateway"),
        ("journal-file-header.bin", "journal file"),
        ("journal-batch.bin", "journal batch"),
        ("presence-header.bin", "presence file"),
    ];
    for (name, kind) in kinds {
        let file = vectors().join(name).display().to_string();
        let outcome = lifeboat(&["inspect", &file], &[]);
        let (said, complained) = (text(&outcome.stdout), text(&outcome.stderr));
        assert_eq!(said.lines().next(), Some(kind), "{name}: {complained}");
        let outcome = lifeboat(&["inspect", &file, "--output", "json"], &[]);
        let document: serde_json::Value = serde_json::from_slice(&outcome.stdout).expect("one document");
        assert_eq!(document["kind"], kind);
        assert!(document["fields"].as_array().is_some_and(|fields| fields.len() > 1), "{document}");
        let sound = document["problems"].as_array().is_some_and(Vec::is_empty);
        assert_eq!(outcome.status.code(), Some(i32::from(!sound)), "{name}");
    }
}

#[test]
fn inspect_refuses_what_is_not_ours() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("x");
    let line = refused(&lifeboat(&["inspect", &file.display().to_string()], &[]), 3);
    assert!(line.contains("x"), "{line}");
    std::fs::write(&file, b"#!/bin/sh\n").expect("written");
    refused(&lifeboat(&["inspect", &file.display().to_string()], &[]), 1);
    refused(&lifeboat(&["inspect", &dir.path().display().to_string()], &[]), 1);
}

#[test]
fn a_damaged_file_shows_what_is_whole_and_fails() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("segment");
    let mut bytes = std::fs::read(vectors().join("segment.bin")).expect("a vector");
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    std::fs::write(&file, bytes).expect("written");
    let outcome = lifeboat(&["inspect", &file.display().to_string()], &[]);
    assert_eq!(outcome.status.code(), Some(1));
    assert!(text(&outcome.stdout).starts_with("segment\n"));
    assert!(text(&outcome.stderr).contains("damaged"), "{}", text(&outcome.stderr));
}

#[test]
fn the_token_is_shown_when_asked_for() {
    let dir = tempfile::tempdir().expect("a directory");
    let state = dir.path().display().to_string();
    refused(&lifeboat(&["token", "show", "--state", &state], &[]), 3);
    std::fs::write(dir.path().join("admin.token"), "abc\n").expect("written");
    assert_eq!(text(&lifeboat(&["token", "show", "--state", &state], &[]).stdout), "abc\n");
    let outcome = lifeboat(&["token", "show", "--output", "json"], &[("LIFEBOAT_STATE", &state)]);
    let document: serde_json::Value = serde_json::from_slice(&outcome.stdout).expect("one document");
    assert_eq!(document, serde_json::json!({ "token": "abc" }));
}

#[test]
fn serve_refuses_an_unknown_setting_by_name() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("lifeboat.toml");
    std::fs::write(&file, "state = \"/nonexistent\"\nlisten_managment = \"127.0.0.1:0\"\n").expect("written");
    let line = refused(&lifeboat(&["serve", "--config", &file.display().to_string()], &[]), 2);
    assert!(line.contains("listen_managment") && line.contains(":2:"), "{line}");
}

#[test]
fn serve_that_cannot_start_is_1_and_one_line() {
    let holder = TcpListener::bind("127.0.0.1:0").expect("a port");
    let taken = holder.local_addr().expect("an address").to_string();
    let dir = tempfile::tempdir().expect("a directory");
    let state = dir.path().join("state");
    let args = ["serve", "--state", &state.display().to_string(), "--listen-management", &taken];
    let line = refused(&lifeboat(&args, &[]), 1);
    assert!(line.contains(&taken), "{line}");
    assert!(!state.exists(), "a refused start made {}", state.display());
}

#[test]
fn verify_needs_a_vault_that_is_there() {
    let dir = tempfile::tempdir().expect("a directory");
    let key = dir.path().join("passphrase");
    std::fs::write(&key, "correct horse battery").expect("written");
    let vault = format!("file://{}", dir.path().join("none").display());
    let args = ["point", "verify", "--group", "g", "--vault", &vault, "--key", &key.display().to_string()];
    let outcome = lifeboat(&args, &[]);
    assert!(matches!(outcome.status.code(), Some(1 | 3)), "{outcome:?}");
    assert!(!text(&outcome.stderr).contains("horse"));
}
