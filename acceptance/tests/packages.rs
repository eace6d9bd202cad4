//! The Debian package, and its units: what is installed, the same bytes each time, and a gateway that works within what its unit leaves it.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Context, Result};
use lifeboat_acceptance::binaries::{lifeboat, provider, repository};
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

/// What the registry's documentation asks for, and what `terraform` itself takes from a mirror that is packed.
#[test]
fn the_providers_archive_is_as_the_registry_wants_it() {
    let scratch = Scratch::new("archive").unwrap();
    let dir = scratch.path().join("dist");
    let build = |dir: &Path, platform: &str| {
        let run = Run::new(repository().join("appliance-image/build-provider"));
        let run = run.arg(provider().unwrap()).args(["1.2.3", platform]).arg(dir);
        let run = run.env("COMPRESSION_LEVEL", "1").env("SOURCE_DATE_EPOCH", "1700000000");
        run.within(std::time::Duration::from_secs(120)).ok().unwrap().trim().to_owned()
    };
    let archive = build(&dir, "linux_amd64");
    let again = build(&scratch.path().join("again"), "linux_amd64");
    assert!(Run::new("cmp").args([&archive, &again]).outcome().unwrap().status.success(), "two builds differ");
    assert!(archive.ends_with("/terraform-provider-lifeboat_1.2.3_linux_amd64.zip"), "{archive}");

    build(&dir, "linux_arm64");
    let sums = std::fs::read_to_string(dir.join("terraform-provider-lifeboat_1.2.3_SHA256SUMS")).unwrap();
    let named: Vec<&str> = sums.lines().filter_map(|line| line.split("  ").nth(1)).collect();
    let expected = ["linux_amd64.zip", "linux_arm64.zip", "manifest.json"];
    assert_eq!(named, expected.map(|end| format!("terraform-provider-lifeboat_1.2.3_{end}")), "{sums}");
    Run::new("sha256sum")
        .args(["--check", "--strict", "terraform-provider-lifeboat_1.2.3_SHA256SUMS"])
        .dir(&dir)
        .ok()
        .unwrap();

    let manifest = std::fs::read_to_string(dir.join("terraform-provider-lifeboat_1.2.3_manifest.json")).unwrap();
    let manifest: serde_json::Value = serde_json::from_str(&manifest).unwrap();
    assert_eq!(manifest["version"], 1);
    assert_eq!(manifest["metadata"]["protocol_versions"], serde_json::json!(["5.0"]));

    // Packed as it is, in a mirror: `terraform init` unpacks it, finds its name and mode right, and it starts.
    let mirror = scratch.path().join("mirror");
    let place = mirror.join("registry.terraform.io/lifeboat-dr/lifeboat");
    std::fs::create_dir_all(&place).unwrap();
    std::fs::copy(&archive, place.join("terraform-provider-lifeboat_1.2.3_linux_amd64.zip")).unwrap();
    let work = scratch.path().join("work");
    std::fs::create_dir_all(&work).unwrap();
    std::fs::write(
        work.join("main.tf"),
        "terraform {\n  required_providers {\n    lifeboat = { source = \"lifeboat-dr/lifeboat\" }\n  }\n}\n\
         output \"mbps\" {\n  value = provider::lifeboat::required_bandwidth_mbps(10000000, 2, \"5m\")\n}\n",
    )
    .unwrap();
    let rc = scratch.path().join("terraform.rc");
    std::fs::write(&rc, format!("provider_installation {{\n  filesystem_mirror {{\n    path = {mirror:?}\n  }}\n}}\n"))
        .unwrap();
    if cfg!(target_arch = "x86_64") {
        let terraform = |args: &[&str]| {
            Run::new("terraform")
                .args(args)
                .dir(&work)
                .env("TF_CLI_CONFIG_FILE", &rc)
                .env("CHECKPOINT_DISABLE", "1")
                .ok()
                .unwrap()
        };
        let said = terraform(&["init", "-no-color"]);
        assert!(said.contains("Installed lifeboat-dr/lifeboat v1.2.3"), "{said}");
        terraform(&["apply", "-no-color", "-auto-approve"]);
        assert_eq!(terraform(&["output", "mbps"]).trim(), "40");
    }
}

/// Over an older package, and away again: as `dpkg` does it, in a root of its own.
#[test]
fn an_upgrade_keeps_settings_and_state_and_so_does_a_removal() {
    let scratch = Scratch::new("upgrade").unwrap();
    let root = scratch.path().join("root");
    for part in ["var/lib/dpkg/info", "var/lib/dpkg/updates", "etc/lifeboat", "var/lib/lifeboat"] {
        std::fs::create_dir_all(root.join(part)).unwrap();
    }
    for file in ["status", "available"] {
        std::fs::write(root.join("var/lib/dpkg").join(file), "").unwrap();
    }
    let kept = [("etc/lifeboat/gateway.toml", "site = \"onprem\"\n"), ("var/lib/lifeboat/admin.token", "secret\n")];
    for (file, text) in kept {
        std::fs::write(root.join(file), text).unwrap();
    }
    let dpkg = |args: &[&str]| {
        Run::new("dpkg")
            .arg(format!("--root={}", root.display()))
            // Only this package is there, and its scripts run as they would on this machine.
            .args(["--force-depends", "--force-script-chrootless", "--force-bad-path", "--log=/dev/null"])
            .args(args)
            .within(std::time::Duration::from_secs(120))
            .ok()
            .unwrap()
    };
    for version in ["1.0.0", "1.1.0"] {
        let package = Run::new(repository().join("appliance-image/build-deb"))
            .args([&lifeboat().unwrap(), Path::new(version), &scratch.path().join("packages")])
            .env("COMPRESSION", "none")
            .within(std::time::Duration::from_secs(300))
            .ok()
            .unwrap();
        dpkg(&["--install", package.trim()]);
        let installed = std::fs::read_to_string(root.join("var/lib/dpkg/status")).unwrap();
        assert!(installed.contains(&format!("Version: {version}\n")), "{installed}");
        assert!(root.join("usr/bin/lifeboat").exists());
        std::fs::remove_file(package.trim()).unwrap();
    }
    dpkg(&["--remove", "lifeboat"]);
    assert!(!root.join("usr/bin/lifeboat").exists());
    dpkg(&["--purge", "lifeboat"]);
    for (file, text) in kept {
        assert_eq!(std::fs::read_to_string(root.join(file)).unwrap(), text, "{file}");
    }
}
