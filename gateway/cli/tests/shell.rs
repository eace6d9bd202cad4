//! What the binary says of itself: completions that shells understand, manual pages without faults.

#![allow(clippy::unwrap_used, reason = "a failure here is the test's")]

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};

fn lifeboat(args: &[&str]) -> Output {
    let output = Command::new(env!("CARGO_BIN_EXE_lifeboat")).args(args).env_clear().output().unwrap();
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    output
}

/// Runs a script in bash; gives its standard output.
fn bash(script: &str) -> String {
    let mut shell = Command::new("bash")
        .args(["--noprofile", "--norc", "-eu"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    shell.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
    let output = shell.wait_with_output().unwrap();
    assert!(output.status.success(), "{script}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn bash_completes_verbs_flags_and_values() {
    let script = String::from_utf8(lifeboat(&["completion", "bash"]).stdout).unwrap();
    let completed = |words: &[&str]| -> Vec<String> {
        let (last, count) = (words.last().unwrap(), words.len() - 1);
        let before = words[count - 1];
        let call = format!(
            "{script}\nCOMP_WORDS=({}); COMP_CWORD={count}; COMPREPLY=()\n_lifeboat lifeboat '{last}' '{before}'\nprintf '%s\\n' \"${{COMPREPLY[@]}}\"\n",
            words.iter().map(|word| format!("'{word}'")).collect::<Vec<_>>().join(" ")
        );
        bash(&call).lines().map(str::to_owned).collect()
    };
    assert!(completed(&["lifeboat", "stat"]).contains(&"status".to_owned()));
    let points = completed(&["lifeboat", "point", ""]);
    assert!(["list", "take", "verify"].iter().all(|verb| points.contains(&(*verb).to_owned())), "{points:?}");
    assert_eq!(completed(&["lifeboat", "point", "list", "--gr"]), ["--group"]);
    assert_eq!(completed(&["lifeboat", "status", "--output", "js"]), ["json"]);
}

#[test]
fn zsh_and_fish_have_scripts_of_their_own() {
    let zsh = String::from_utf8(lifeboat(&["completion", "zsh"]).stdout).unwrap();
    assert!(zsh.starts_with("#compdef lifeboat") && zsh.contains("failover"), "{}", &zsh[..200]);
    let fish = String::from_utf8(lifeboat(&["completion", "fish"]).stdout).unwrap();
    assert!(fish.contains("complete -c lifeboat") && fish.contains("failover"));
    for (shell, script) in [("zsh", &zsh), ("fish", &fish)] {
        // Where that shell is installed it says itself whether it understands.
        if !Path::new("/usr/bin").join(shell).exists() {
            continue;
        }
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("script");
        std::fs::write(&file, script).unwrap();
        let read = Command::new(shell).arg("-n").arg(&file).output().unwrap();
        assert!(read.status.success(), "{shell}: {}", String::from_utf8_lossy(&read.stderr));
    }
}

#[test]
fn every_verb_has_a_manual_page_that_refers_to_pages_that_are_there() {
    let dir = tempfile::tempdir().unwrap();
    lifeboat(&["man", &dir.path().display().to_string()]);
    let pages: Vec<String> =
        std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    for page in ["lifeboat.1", "lifeboat-serve.1", "lifeboat-point-list.1", "lifeboat-failover-unplanned.1"] {
        assert!(pages.contains(&page.to_owned()), "{page}: {pages:?}");
    }
    for page in &pages {
        let text = std::fs::read_to_string(dir.path().join(page)).unwrap();
        assert!(text.contains(".SH NAME") && text.contains(".SH SYNOPSIS"), "{page}");
        let named = text.lines().filter_map(|line| line.strip_prefix("lifeboat\\-")?.strip_suffix("(1)"));
        for name in named {
            let name = format!("lifeboat-{}.1", name.replace("\\-", "-"));
            assert!(pages.contains(&name), "{page} refers to {name}, which isn't there");
        }
    }
    if Path::new("/usr/bin/man").exists() {
        for page in &pages {
            let read = Command::new("man")
                .args(["--warnings", "-E", "UTF-8", "-l"])
                .arg(dir.path().join(page))
                .env("MANROFFSEQ", "")
                .env("MANPAGER", "cat")
                .output()
                .unwrap();
            let said = String::from_utf8_lossy(&read.stderr).into_owned();
            assert!(read.status.success() && said.trim().is_empty(), "{page}: {said}");
        }
    }
}

#[test]
fn a_directory_that_is_not_there_is_said() {
    let output = Command::new(env!("CARGO_BIN_EXE_lifeboat")).args(["man", "/nowhere"]).env_clear().output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("/nowhere"));
}
