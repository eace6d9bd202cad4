//! The Debian package, and its units: what is installed, the same bytes each time, and a gateway that works within what its unit leaves it.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Context, Result};
use lifeboat_acceptance::binaries::{lifeboat, repository};
use lifeboat_acceptance::command::Run;
use lifeboat_acceptance::confine::Unit;
use lifeboat_acceptance::estate::{Estate, GROUP};
use lifeboat_acceptance::scratch::Scratch;

const UNITS: [&str; 3] = ["lifeboat-gateway", "lifeboat-agent", "lifeboat-iscsi"];
/// Of systemd's scale from 0 to 10, tenths: what there is to lose without a mount namespace, which would hide the mounts.
const EXPOSURE: &str = "60";

fn build(directory: &Path) -> Result<String> {
    let printed = Run::new(repository().join("appliance-image/build-deb"))
        .args([&lifeboat()?, Path::new("1.2.3"), directory])
        // Packing a debug build takes longer than the test is worth.
        .env("COMPRESSION", "none")
        .env("SOURCE_DATE_EPOCH", "1700000000")
        .within(std::time::Duration::from_secs(300))
        .outcome()?
        .ok()?;
    Ok(printed.trim().to_owned())
}

fn dpkg(args: &[&str]) -> Result<String> {
    Run::new("dpkg-deb").args(args).outcome()?.ok()
}

#[test]
fn the_package_is_the_same_each_time_and_installs_what_users_need() {
    let scratch = Scratch::new("deb").unwrap();
    let (first, second) = (build(&scratch.path().join("a")).unwrap(), build(&scratch.path().join("b")).unwrap());
    assert!(Run::new("cmp").args([&first, &second]).outcome().unwrap().status.success(), "two builds differ");
    std::fs::remove_file(&second).unwrap();

    let fields = dpkg(&["--field", &first]).unwrap();
    for field in ["Package: lifeboat\n", "Version: 1.2.3\n", "Depends: libc6 (>= 2."] {
        assert!(fields.contains(field), "{fields}");
    }
    let contents = dpkg(&["--contents", &first]).unwrap();
    let mode_of = |path: &str| {
        let line = contents.lines().find(|line| line.ends_with(&format!(" .{path}")))?;
        let mut words = line.split_whitespace();
        Some((words.next()?.to_owned(), words.next()?.to_owned()))
    };
    for (path, mode) in [
        ("/usr/bin/lifeboat", "-rwxr-xr-x"),
        ("/usr/lib/systemd/system/lifeboat-gateway.service", "-rw-r--r--"),
        ("/usr/lib/systemd/system/lifeboat-agent.service", "-rw-r--r--"),
        ("/usr/lib/systemd/system/lifeboat-iscsi.service", "-rw-r--r--"),
        ("/usr/share/doc/lifeboat/examples/gateway.toml", "-rw-r--r--"),
        ("/usr/share/doc/lifeboat/examples/agent.toml", "-rw-r--r--"),
        ("/usr/share/doc/lifeboat/copyright", "-rw-r--r--"),
        ("/usr/share/man/man1/lifeboat.1.gz", "-rw-r--r--"),
        ("/usr/share/man/man1/lifeboat-point-list.1.gz", "-rw-r--r--"),
        ("/usr/share/bash-completion/completions/lifeboat", "-rw-r--r--"),
        ("/usr/share/zsh/vendor-completions/_lifeboat", "-rw-r--r--"),
        ("/usr/share/fish/vendor_completions.d/lifeboat.fish", "-rw-r--r--"),
        ("/etc/lifeboat/", "drwxr-xr-x"),
    ] {
        assert_eq!(mode_of(path), Some((mode.to_owned(), "root/root".to_owned())), "{path}: {contents}");
    }

    // As it would be installed: what the examples say is understood, and says what to do next.
    let root = scratch.path().join("root");
    dpkg(&["--extract", &first, &root.display().to_string()]).unwrap();
    let installed = root.join("usr/bin/lifeboat");
    assert!(Run::new(&installed).arg("--version").outcome().unwrap().status.success());
    let state = scratch.path().join("agent").display().to_string();
    let example = root.join("usr/share/doc/lifeboat/examples/agent.toml").display().to_string();
    let refused =
        Run::new(&installed).args(["agent", "run", "--config", &example, "--state", &state]).outcome().unwrap();
    assert!(refused.code() != 0 && refused.stderr.contains("enrol"), "{}", refused.stderr);
}

#[test]
fn units_are_understood_and_leave_little() {
    for unit in UNITS {
        let file = repository().join(format!("appliance-image/debian/{unit}.service"));
        let outcome = Run::new("systemd-analyze")
            .args(["security", "--offline=true", "--threshold", EXPOSURE])
            .arg(&file)
            .outcome()
            .unwrap();
        // What isn't understood is ignored, and said on standard error.
        assert!(outcome.status.success() && outcome.stderr.trim().is_empty(), "{}{}", outcome.stdout, outcome.stderr);
    }
}

/// The kernel's word for a process: of /proc/PID/status.
fn status(pid: u32, name: &str) -> Result<String> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = text.lines().find_map(|line| line.strip_prefix(&format!("{name}:"))).context("a known field")?;
    Ok(line.trim().to_owned())
}

#[test]
fn a_gateway_does_its_work_within_what_its_unit_leaves_it() {
    let unit = Unit::read(&repository().join("appliance-image/debian/lifeboat-gateway.service")).unwrap();
    let confine = Path::new(env!("CARGO_BIN_EXE_confine"));
    let mut estate = Estate::protect("confined", &[("data", 4 << 20)]).unwrap();
    estate.primary.kill9().unwrap();
    let scratch = Scratch::new("confine").unwrap();
    estate.primary.under(unit.prefix(confine, scratch.path()).unwrap());
    let example = repository().join("appliance-image/debian/gateway.toml");
    estate.primary.arg("--config").arg(example);
    // It replaces the dead mount, opens the journal, mounts.
    estate.primary.restart().unwrap();
    let pid = estate.primary.pid().unwrap();
    assert_eq!((status(pid, "NoNewPrivs").unwrap().as_str(), status(pid, "Seccomp").unwrap().as_str()), ("1", "2"));
    let bound = |pid: u32| u64::from_str_radix(&status(pid, "CapBnd").unwrap(), 16).unwrap();
    let (kept, here) = (bound(pid), bound(std::process::id()));
    assert!(kept & !here == 0 && kept != here, "{kept:x} of {here:x}");
    // In a container some of them are missing from the start.
    assert!(kept.count_ones() as usize <= unit.capabilities().len(), "{kept:x}");
    assert_eq!(status(pid, "CapEff").unwrap(), status(pid, "CapBnd").unwrap(), "root has no more than that");

    let volume = estate.primary.volume("data");
    let file = File::options().write(true).open(&volume).unwrap();
    file.write_all_at(&vec![7; 1 << 20], 1 << 20).unwrap();
    file.sync_all().unwrap();
    drop(file);
    estate.take_point(&estate.primary, "confined").unwrap();
    let held = std::fs::read(&volume).unwrap();
    assert!(held[1 << 20..2 << 20].iter().all(|byte| *byte == 7), "what was written");
    let points = estate.primary.point_directories(GROUP).unwrap();
    let newest = points.last().expect("a point");
    assert!(std::fs::read(newest.join("data.img")).unwrap() == held, "{}", newest.display());
    estate.primary.stop().unwrap();
}
