//! Puts an update into the slot that isn't in use, has it started once, and settles what came of that.
//!
//! ```text
//! nothing on trial ─> root into the other slot's partition ─> kernel, initrd, slot.cfg ─> "try that one, once" ─> restart
//!        any other end: the slot that runs is started ever after           ready: "start this one" <──┘
//!                                                           not ready, not started: the next start is the old one's
//! ```
//! The boot loader's variables change last, in one sector. Until then nothing names what was written: whatever is interrupted leaves the slot
//! that runs as it was, and is done anew from its beginning. The disk is the one whose slot is this system's root, whatever other disks
//! carry the same names.

use std::fs::{self, File};
use std::io::{ErrorKind, Read, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, anyhow, ensure};
use aws_lc_rs::digest;

use crate::machine::{self, run};
use crate::update::{
    BLOCK_BYTES, BOOT_FILES, Content, LABEL, MANIFEST_BYTES_MAX, ROOT, Slots, Trial, Trust, hex, key, manifest, other,
};

/// Where the boot partition and the medium are mounted meanwhile.
const BOOT: &str = "/run/lifeboat-boot";
const MEDIUM: &str = "/run/lifeboat-update";
const LOCK: &str = "/run/lifeboat-update.lock";
/// The key of updates, in the image.
const KEY: &str = "/usr/share/lifeboat/update.key";
const CHUNK_BYTES: usize = 1 << 20;

/// What was installed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Installed {
    /// Its version.
    pub version: String,
    /// Where.
    pub slot: String,
    /// Why it is trusted.
    pub trust: Trust,
}

/// What became of a trial.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Settled {
    /// There was none.
    Nothing,
    /// This slot is started from now on.
    Confirmed(String),
    /// That slot didn't come up; this one is started from now on.
    FellBack {
        /// The one that didn't.
        failed: String,
        /// The one that runs.
        running: String,
    },
}

/// The system's disk.
#[derive(Debug)]
struct System {
    slot: String,
    boot: PathBuf,
    /// The partition of the slot that isn't in use.
    spare: PathBuf,
    spare_slot: &'static str,
}

/// Installs the update that a directory has, or a CD with its label. `named` is the manifest's SHA-256, from whoever vouches for it.
///
/// # Errors
/// One sentence: it isn't trusted, isn't whole, doesn't fit, or this system can't be updated now. What runs is as it was.
pub fn install(from: Option<&Path>, named: Option<&str>) -> Result<Installed> {
    let lock = File::create(LOCK).context("take the lock of updates")?;
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive)
        .map_err(|_| anyhow!("another update is being installed: wait for its end"))?;
    match from {
        Some(directory) => install_from(directory, named),
        None => {
            let label = Path::new("/dev/disk/by-label").join(LABEL);
            let device = fs::canonicalize(&label).map_err(|_| {
                anyhow!("no CD with an update is attached: attach lifeboat-VERSION-update.iso (its label is {LABEL})")
            })?;
            machine::directory(Path::new(MEDIUM), 0o700)?;
            let options = "ro,nosuid,nodev,noexec";
            run("mount", &["-t", "iso9660", "-o", options, &device.display().to_string(), MEDIUM])?;
            let installed = install_from(Path::new(MEDIUM), named);
            run("umount", &[MEDIUM])?;
            installed
        }
    }
}

fn install_from(medium: &Path, named: Option<&str>) -> Result<Installed> {
    let system = system()?;
    let bytes = small(&medium.join("manifest.json"))?.ok_or_else(|| anyhow!("there is no manifest.json on it"))?;
    let signature = small(&medium.join("manifest.sig"))?;
    let key = fs::read_to_string(KEY).ok().and_then(|text| key(&text));
    let (manifest, trust) =
        manifest(&bytes, signature.as_deref(), key.as_deref(), named).map_err(|why| anyhow!("{why}"))?;
    let content = |name: &str| manifest.files.get(name).with_context(|| format!("the manifest names no {name}"));
    with_boot(&system, true, |boot| {
        let slots = read_slots(boot)?;
        ensure!(
            slots.of_trial(&system.slot) != Trial::Running,
            "the slot that runs is itself on trial: wait until it is ready and confirmed"
        );
        // What is on trial and wasn't started yet must not be started half written.
        write_slots(boot, &Slots::settled(&system.slot))
    })?;
    let spare = File::options().write(true).open(&system.spare).context("open the other slot's partition")?;
    copy(&medium.join(ROOT), content(ROOT)?, spare)?;
    with_boot(&system, true, |boot| {
        let home = boot.join("lifeboat").join(system.spare_slot);
        fs::create_dir_all(&home)?;
        // Room first: two kernels of one slot needn't fit.
        for name in BOOT_FILES {
            fs::remove_file(home.join(name))
                .or_else(|error| if error.kind() == ErrorKind::NotFound { Ok(()) } else { Err(error) })?;
        }
        for name in BOOT_FILES {
            let file = File::options().write(true).create_new(true).open(home.join(name))?;
            copy(&medium.join(name), content(name)?, file)?;
        }
        File::open(&home)?.sync_all()?;
        write_slots(boot, &Slots::trying(&system.slot, system.spare_slot))
    })?;
    Ok(Installed { version: manifest.version, slot: system.spare_slot.to_owned(), trust })
}

/// Looks whether this system is on trial, or the other slot was and failed.
///
/// # Errors
/// The boot partition can't be read.
pub fn trial() -> Result<Trial> {
    let system = system()?;
    with_boot(&system, false, |boot| Ok(read_slots(boot)?.of_trial(&system.slot)))
}

/// Has this slot started from now on, if it is on trial or the other one failed.
///
/// # Errors
/// The boot partition can't be written: then the next start is the other slot's.
pub fn settle() -> Result<Settled> {
    let system = system()?;
    let trial = with_boot(&system, false, |boot| Ok(read_slots(boot)?.of_trial(&system.slot)))?;
    if trial == Trial::None {
        return Ok(Settled::Nothing);
    }
    with_boot(&system, true, |boot| write_slots(boot, &Slots::settled(&system.slot)))?;
    Ok(match trial {
        Trial::Failed => Settled::FellBack { failed: system.spare_slot.to_owned(), running: system.slot },
        _ => Settled::Confirmed(system.slot),
    })
}

/// Finds the disk that this system's root is on.
fn system() -> Result<System> {
    let line = fs::read_to_string("/proc/cmdline").context("read the kernel's command line")?;
    let slot = line.split_whitespace().find_map(|word| word.strip_prefix("lifeboat.slot=")).unwrap_or("none");
    let spare_slot = other(slot).map_err(|why| anyhow!("{why}"))?;
    let block = Path::new("/sys/class/block");
    let mapped = fs::read_dir(block)?
        .flatten()
        .map(|entry| entry.path())
        .find(|path| fs::read_to_string(path.join("dm/name")).is_ok_and(|name| name.trim() == "root"));
    let mapped = mapped.context("the root isn't a verified slot")?;
    let below = fs::read_dir(mapped.join("slaves"))?.flatten().next().context("the root is on no partition")?;
    let partition = fs::canonicalize(block.join(below.file_name()))?;
    let disk = partition.parent().context("the root's partition is on no disk")?;
    let named = |name: &str| -> Result<PathBuf> {
        let wanted = format!("PARTNAME={name}");
        let found = fs::read_dir(disk)?.flatten().map(|entry| entry.path()).find(|path| {
            fs::read_to_string(path.join("uevent")).is_ok_and(|text| text.lines().any(|line| line == wanted))
        });
        let found = found.with_context(|| format!("the system's disk has no partition {name}"))?;
        Ok(Path::new("/dev").join(found.file_name().context("a partition without a name")?))
    };
    Ok(System {
        slot: slot.to_owned(),
        boot: named("lifeboat-boot")?,
        spare: named(&format!("lifeboat-{spare_slot}"))?,
        spare_slot,
    })
}

/// Does something with the boot partition, which is mounted no longer than that.
fn with_boot<T>(system: &System, is_written: bool, act: impl FnOnce(&Path) -> Result<T>) -> Result<T> {
    machine::directory(Path::new(BOOT), 0o700)?;
    let options = if is_written { "rw,nosuid,nodev,noexec" } else { "ro,nosuid,nodev,noexec" };
    run("mount", &["-t", "vfat", "-o", options, &system.boot.display().to_string(), BOOT])
        .context("mount the boot partition")?;
    let done = act(Path::new(BOOT));
    let away = run("umount", &[BOOT]).context("unmount the boot partition");
    done.and_then(|done| away.map(|()| done))
}

fn read_slots(boot: &Path) -> Result<Slots> {
    let block = fs::read(boot.join("lifeboat/slots")).context("read the boot loader's variables")?;
    Slots::read(&block).map_err(|why| anyhow!("{why}"))
}

/// In place: the boot loader knows where the file's blocks are, and writes them itself.
fn write_slots(boot: &Path, slots: &Slots) -> Result<()> {
    let written = (|| {
        let mut file = File::options().read(true).write(true).open(boot.join("lifeboat/slots"))?;
        let block = slots.block();
        let mut now = Vec::with_capacity(BLOCK_BYTES);
        (&mut file).take(BLOCK_BYTES as u64 + 1).read_to_end(&mut now)?;
        if now == block {
            return Ok(());
        }
        file.seek(SeekFrom::Start(0))?;
        file.write_all(&block)?;
        file.sync_all()
    })();
    written.context("write the boot loader's variables")
}

/// A small file; nothing where there is none.
fn small(path: &Path) -> Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    match File::open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        opened => opened
            .and_then(|file| file.take(MANIFEST_BYTES_MAX as u64 + 1).read_to_end(&mut bytes))
            .with_context(|| format!("read {}", path.display()))?,
    };
    ensure!(bytes.len() <= MANIFEST_BYTES_MAX, "{} is larger than {} KiB", path.display(), MANIFEST_BYTES_MAX >> 10);
    Ok(Some(bytes))
}

/// Copies a file of the update, and holds what was read against its sum.
fn copy(from: &Path, content: &Content, mut to: File) -> Result<()> {
    let name = from.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let mut input = File::open(from).with_context(|| format!("read the update's {name}"))?.take(content.bytes + 1);
    let mut sum = digest::Context::new(&digest::SHA256);
    let (mut chunk, mut copied) = (vec![0; CHUNK_BYTES], 0_u64);
    loop {
        let length = input.read(&mut chunk).with_context(|| format!("read the update's {name}"))?;
        let part = chunk.get(..length).unwrap_or_default();
        if part.is_empty() {
            break;
        }
        sum.update(part);
        copied += length as u64;
        to.write_all(part).with_context(|| format!("write the update's {name}: it may not fit"))?;
    }
    ensure!(
        copied == content.bytes && hex(sum.finish().as_ref()) == content.sha256,
        "the update's {name} isn't what its manifest says: it is damaged; take it from its source again"
    );
    to.sync_all().with_context(|| format!("write the update's {name}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::update::sha256;

    #[test]
    fn a_file_that_is_not_what_the_manifest_says_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("root"), dir.path().join("to"));
        fs::write(&from, b"content").unwrap();
        let content = Content { bytes: 7, sha256: sha256(b"content") };
        copy(&from, &content, File::create(&to).unwrap()).unwrap();
        assert_eq!(fs::read(&to).unwrap(), b"content");
        for other in [
            Content { bytes: 6, ..content.clone() },
            Content { bytes: 8, ..content.clone() },
            Content { sha256: sha256(b"x"), ..content },
        ] {
            let refused = copy(&from, &other, File::create(&to).unwrap()).expect_err("another");
            assert!(refused.to_string().contains("damaged"), "{refused}");
        }
    }

    #[test]
    fn the_boot_loaders_variables_are_written_in_place() {
        use std::os::unix::fs::MetadataExt as _;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lifeboat/slots");
        fs::create_dir(dir.path().join("lifeboat")).unwrap();
        assert!(read_slots(dir.path()).is_err());
        fs::write(&path, Slots::settled("a").block()).unwrap();
        let before = fs::metadata(&path).unwrap().ino();
        write_slots(dir.path(), &Slots::trying("a", "b")).unwrap();
        assert_eq!(read_slots(dir.path()).unwrap(), Slots::trying("a", "b"));
        assert_eq!(fs::metadata(&path).unwrap().ino(), before);
    }
}
