//! Confinement as a systemd unit asks for it, for a process that systemd doesn't start: what the unit takes away is taken away here by
//! the same means of the kernel, so that tests run what users run.
//!
//! ```text
//! CapabilityBoundingSet=, NoNewPrivileges=   setpriv
//! SystemCallFilter=, SystemCallErrorNumber=  seccomp, by the binary `confine`; groups such as @mount are systemd's own
//! ```
//! Left out: DeviceAllow= (a control group's), RestrictAddressFamilies=, RestrictNamespaces= and RestrictSUIDSGID=.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use crate::command::Run;

/// A unit's settings, by name; lists that are given several times are one.
#[derive(Debug)]
pub struct Unit {
    lines: Vec<(String, String)>,
}

impl Unit {
    /// Reads a unit's file.
    ///
    /// # Errors
    /// It can't be read.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
        let lines = text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.split_once('='));
        Ok(Self { lines: lines.map(|(name, value)| (name.trim().to_owned(), value.trim().to_owned())).collect() })
    }

    /// The words that a setting lists.
    pub fn words<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.lines.iter().filter(move |(given, _)| given == name).flat_map(|(_, value)| value.split_whitespace())
    }

    /// The capabilities that it keeps, as setpriv(1) and /proc name them: without `CAP_`, small.
    #[must_use]
    pub fn capabilities(&self) -> Vec<String> {
        self.words("CapabilityBoundingSet").map(|one| one.trim_start_matches("CAP_").to_lowercase()).collect()
    }

    /// What to run before a program, so that it runs confined; `confine` is that binary, and `scratch` a directory for its list.
    ///
    /// # Errors
    /// systemd isn't installed, or knows a group of system calls not.
    pub fn prefix(&self, confine: &Path, scratch: &Path) -> Result<Vec<OsString>> {
        let mut calls = BTreeSet::new();
        for word in self.words("SystemCallFilter") {
            ensure!(!word.starts_with('~'), "this harness knows lists of what is allowed, not of what isn't");
            add_calls(word, &mut calls)?;
        }
        ensure!(calls.len() > 100, "the unit allows {} system calls", calls.len());
        let list = scratch.join("system-calls");
        std::fs::write(&list, calls.into_iter().collect::<Vec<_>>().join("\n")).context("write the list")?;
        let kept: String = self.capabilities().iter().map(|one| format!(",+{one}")).collect();
        Ok(vec![
            "setpriv".into(),
            "--bounding-set".into(),
            format!("-all{kept}").into(),
            "--no-new-privs".into(),
            confine.into(),
            list.into(),
        ])
    }
}

/// Adds a system call, or all of a group and of the groups in it.
fn add_calls(word: &str, calls: &mut BTreeSet<String>) -> Result<()> {
    if !word.starts_with('@') {
        calls.insert(word.to_owned());
        return Ok(());
    }
    let group = Run::new("systemd-analyze").args(["syscall-filter", word]).outcome()?.ok()?;
    let inside = group.lines().skip(1).map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    inside.into_iter().try_for_each(|line| add_calls(line, calls))
}
