//! Updates: into the other slot, and back by themselves when they don't come up.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use lifeboat_acceptance::command::Run;
use serde_json::{Value, json};

use super::console::Terminal;
use super::{Appliance, DATA_BYTES, FORMS, More, Source, TOKEN, file_ending, say, settings};

/// The label of CDs with updates that are broken on purpose: the installer looks for another one.
const BROKEN: [&str; 3] = ["BROKEN-KERNEL", "BROKEN-ROOT", "BROKEN-COPY"];

/// Boots the older image, has it try what can't start and what can, and sees which slot runs.
pub(super) fn tried(older: &Path, newer: &Path, place: &Path) -> Result<()> {
    let image = file_ending(older, ".raw")?;
    let update = file_ending(newer, "-update.iso")?;
    let name = update.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let version =
        name.strip_prefix("lifeboat-").and_then(|name| name.strip_suffix("-update.iso")).context(name.clone())?;
    File::create(place.join("data.raw"))?.set_len(DATA_BYTES)?;
    settings(Source::NoCloud, place)?;
    let files = place.join("update");
    Run::new("xorriso").args(["-osirrox", "on", "-indev"]).arg(&update).args(["-extract", "/"]).arg(&files).ok()?;
    let mut broken = Vec::new();
    for label in BROKEN {
        broken.push(break_it(&files, label, place)?);
    }
    let mut cds: Vec<PathBuf> = broken.iter().map(|(iso, _)| iso.clone()).collect();
    cds.push(update);
    let more = More { cds, restarts: true };
    let appliance = Appliance::start_with(&FORMS[0], &image, place, &more)?;
    appliance.ready()?;
    let tried = from_slot_to_slot(&appliance, version, &broken);
    tried.with_context(|| appliance.tail())?;
    say(
        "updates: damaged and unsigned ones refused, two that don't start left by themselves, a sound one confirmed and kept",
    );
    Ok(())
}

fn from_slot_to_slot(appliance: &Appliance, version: &str, broken: &[(PathBuf, String)]) -> Result<()> {
    let mut terminal = Terminal::open(appliance)?;
    terminal.answers("", "Choice: ")?;
    let [(_, kernel), (_, root), (_, copy)] = broken else { anyhow::bail!("three of them") };
    for (label, sum) in [(BROKEN[0], kernel), (BROKEN[1], root)] {
        shell(&mut terminal, label)?;
        let refused = terminal.answers("lifeboat appliance update /tmp/u; echo code''=$?", "code=1\r\n")?;
        ensure!(refused.contains("--sha256"), "what isn't signed was taken: {refused}");
        let refused = terminal
            .answers(&format!("lifeboat appliance update /tmp/u --sha256 {copy}; echo code''=$?"), "code=1\r\n")?;
        ensure!(refused.contains("another update"), "{refused}");
        let taken =
            terminal.answers(&format!("lifeboat appliance update /tmp/u --sha256 {sum}; echo code''=$?"), "code=")?;
        ensure!(taken.contains("is in slot b: the next restart tries it, once"), "{taken}");
        terminal.answers("umount /tmp/u; exit", "Choice: ")?;
        restart(&mut terminal)?;
        terminal.sees("the update in slot b didn't come up: slot a runs")?;
        terminal.sees("lifeboat: ready: https://")?;
        let status = status(&mut terminal)?;
        ensure!(status.contains("slot a") && status.contains("State      ready"), "{status}");
    }
    shell(&mut terminal, BROKEN[2])?;
    let refused =
        terminal.answers(&format!("lifeboat appliance update /tmp/u --sha256 {copy}; echo code''=$?"), "code=1\r\n")?;
    ensure!(refused.contains("is damaged"), "{refused}");
    terminal.answers("exit", "Choice: ")?;

    // From the menu: the CD with the right label, by the signature of the key in the image.
    terminal.answers("4", "token (it is not shown")?;
    let installed = terminal.answers(TOKEN, "Enter goes on: ")?;
    let plain = installed.replace("\r\n", " ");
    ensure!(
        plain.contains(&format!("version {version} (signed by the key in this image) is in slot b")),
        "{installed}"
    );
    terminal.answers("", "Choice: ")?;
    restart(&mut terminal)?;
    terminal.sees("the update in slot b is ready and stays")?;
    let runs = |status: &str| {
        ensure!(status.contains(&format!("{version}, slot b")) && status.contains("State      ready"), "{status}");
        Ok(())
    };
    runs(&status(&mut terminal)?)?;
    // It stays, without being on trial.
    restart(&mut terminal)?;
    terminal.sees("lifeboat: ready: https://")?;
    runs(&status(&mut terminal)?)
}

/// A shell, with the CD of that label at `/tmp/u`.
fn shell(terminal: &mut Terminal, label: &str) -> Result<()> {
    terminal.answers("7", "token (it is not shown")?;
    terminal.answers(TOKEN, "/data# ")?;
    let mount = format!("mkdir -p /tmp/u; mount -o ro /dev/disk/by-label/{label} /tmp/u; echo it''=$?");
    terminal.answers(&mount, "it=0\r\n").map(drop)
}

fn restart(terminal: &mut Terminal) -> Result<()> {
    terminal.answers("5", "(y/n)? ")?;
    terminal.answers("y", "It restarts.")?;
    terminal.sees("Enter goes on: ")?;
    // The system stops, and the next one says who it is.
    terminal.sees("lifeboat: this is gw-test").map(drop)
}

fn status(terminal: &mut Terminal) -> Result<String> {
    terminal.answers("", "Choice: ")?;
    terminal.answers("", "Choice: ")
}

/// A copy of an update that has a fault, on a CD with that label: the CD, and its manifest's SHA-256.
fn break_it(files: &Path, label: &str, place: &Path) -> Result<(PathBuf, String)> {
    let copy = place.join(label);
    Run::new("cp").arg("-r").arg(files).arg(&copy).ok()?;
    for entry in fs::read_dir(&copy)?.flatten() {
        fs::set_permissions(entry.path(), fs::Permissions::from_mode(0o644))?;
    }
    drop(fs::remove_file(copy.join("manifest.sig")));
    let path = copy.join("manifest.json");
    let mut manifest: Value = serde_json::from_slice(&fs::read(&path)?)?;
    let (file, is_told) = match label {
        "BROKEN-KERNEL" => ("vmlinuz", true),
        "BROKEN-ROOT" => ("root", true),
        _ => ("initrd", false),
    };
    let broken = File::options().read(true).write(true).open(copy.join(file))?;
    // The kernel's head, and blocks all over the root that its hashes don't know.
    let length = broken.metadata()?.len();
    let step = if file == "root" { 1 << 20 } else { length };
    for at in (0..length).step_by(usize::try_from(step)?) {
        broken.write_all_at(&[0x5a; 4096], at)?;
    }
    if is_told {
        let sum = sha256(&copy.join(file))?;
        manifest["files"][file] = json!({"bytes": broken.metadata()?.len(), "sha256": sum});
        manifest["version"] = json!("9.9.9-broken");
        fs::write(&path, serde_json::to_vec(&manifest)?)?;
    }
    let iso = place.join(format!("{label}.iso"));
    Run::new("xorriso").args(["-as", "mkisofs", "-quiet", "-r", "-V", label, "-o"]).arg(&iso).arg(&copy).ok()?;
    Ok((iso, sha256(&path)?))
}

fn sha256(path: &Path) -> Result<String> {
    let said = Run::new("sha256sum").arg(path).ok()?;
    Ok(said.split_whitespace().next().unwrap_or_default().to_owned())
}
