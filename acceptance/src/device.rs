//! A file system on a loop device on a volume: how a database uses a protected volume.
//!
//! Owns the loop device and the mount; both are gone when the value is dropped or the process interrupted, also when
//! the gateway below has died. The loop device uses direct I/O, so that a flush reaches the volume and nothing is cached
//! twice.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::command::Run;
use crate::{cleanup, mounts};

/// A mounted file system on a loop device.
#[derive(Debug)]
pub struct LoopFs {
    // Dropped in this order: the mount first, then the device.
    _unmount: cleanup::Guard,
    _detach: cleanup::Guard,
    device: String,
    target: PathBuf,
}

impl LoopFs {
    /// Makes an ext4 file system in `image` and mounts it at `target` (created if missing).
    ///
    /// # Errors
    /// When the system has no loop device to give, or a step fails; everything done until then is undone.
    pub fn format(image: &Path, target: &Path) -> Result<Self> {
        Self::attach(image, target, true)
    }

    /// Mounts the ext4 file system that `image` holds; its journal is replayed, as after a power cut.
    ///
    /// # Errors
    /// As [`LoopFs::format`].
    pub fn open(image: &Path, target: &Path) -> Result<Self> {
        Self::attach(image, target, false)
    }

    fn attach(image: &Path, target: &Path, format: bool) -> Result<Self> {
        require()?;
        std::fs::create_dir_all(target).with_context(|| format!("create {}", target.display()))?;
        let output = Run::new("losetup")
            .args(["--direct-io=on", "--find", "--show"])
            .arg(image)
            .ok()
            .with_context(|| format!("attach a loop device to {}", image.display()))?;
        let device = output.trim().to_owned();
        let attached = device.clone();
        let detach = cleanup::defer(format!("detach {device}"), move || {
            if let Err(error) = Run::new("losetup").arg("-d").arg(&attached).within(Duration::from_secs(20)).ok() {
                eprintln!("detach {attached}: {error:#}");
            }
        });
        if format {
            // Nothing is initialised later in the background: what a test measures is its own writes.
            Run::new("mkfs.ext4")
                .args(["-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0,nodiscard"])
                .arg(&device)
                .ok()?;
        }
        let root = target.to_owned();
        let unmount = cleanup::defer(format!("unmount {}", target.display()), move || mounts::unmount_below(&root));
        Run::new("mount").args(["-t", "ext4", "-o", "noatime"]).arg(&device).arg(target).ok()?;
        Ok(Self { _unmount: unmount, _detach: detach, device, target: target.to_owned() })
    }

    /// Where it is mounted.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.target
    }

    /// Writes everything that the kernel holds for it down to the volume, and flushes.
    ///
    /// # Errors
    /// When the file system reports a write that failed.
    pub fn sync(&self) -> Result<()> {
        Run::new("sync").arg("-f").arg(&self.target).ok().map(drop)
    }

    /// Unmounts it in order and detaches the device.
    ///
    /// # Errors
    /// When it is in use.
    pub fn close(self) -> Result<()> {
        Run::new("umount").arg(&self.target).ok()?;
        drop(self);
        Ok(())
    }

    /// Checks the file system's structure without changing it (it must not be mounted: call it after
    /// [`LoopFs::close`] on the image).
    ///
    /// # Errors
    /// When `e2fsck` finds a fault.
    pub fn check(image: &Path) -> Result<()> {
        Run::new("e2fsck").args(["-f", "-n"]).arg(image).ok().map(drop)
    }

    /// The loop device.
    #[must_use]
    pub fn device(&self) -> &str {
        &self.device
    }
}

/// Says what is missing on this machine, if something is.
///
/// # Errors
/// When the process is not root, or there is no FUSE or no loop device.
pub fn require() -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        bail!("mounting needs root: run it as root");
    }
    for (device, package) in [("/dev/fuse", "the kernel's fuse module"), ("/dev/loop-control", "the loop module")] {
        if !Path::new(device).exists() {
            bail!("{device} is missing: this machine lacks {package}");
        }
    }
    Ok(())
}

/// Compares two files byte for byte, a MiB at a time: on a mount without page cache `cmp` would ask for each 4 KiB.
///
/// # Errors
/// When one can't be read, or naming the first MiB in which they differ.
pub fn same_content(left: &Path, right: &Path) -> Result<()> {
    use std::os::unix::fs::FileExt;
    let open = |path: &Path| File::open(path).with_context(|| format!("open {}", path.display()));
    let (a, b) = (open(left)?, open(right)?);
    let size = a.metadata()?.len();
    ensure!(size == b.metadata()?.len(), "{} and {} differ in size", left.display(), right.display());
    let (mut x, mut y) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    let mut at = 0;
    while at < size {
        let len = usize::try_from((size - at).min(1 << 20))?;
        a.read_exact_at(&mut x[..len], at).with_context(|| format!("read {}", left.display()))?;
        b.read_exact_at(&mut y[..len], at).with_context(|| format!("read {}", right.display()))?;
        ensure!(x[..len] == y[..len], "{} and {} differ within the MiB at byte {at}", left.display(), right.display());
        at += len as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_system_leaves_neither_mount_nor_device_behind() {
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().join("disk.img");
        std::fs::File::create(&image).unwrap().set_len(32 << 20).unwrap();
        let target = dir.path().join("mnt");
        let fs = LoopFs::format(&image, &target).unwrap();
        std::fs::write(fs.path().join("hello"), "world").unwrap();
        fs.sync().unwrap();
        let device = fs.device().to_owned();
        // Busy when dropped: an open file makes the plain unmount fail.
        let held = std::fs::File::open(fs.path().join("hello")).unwrap();
        drop(fs);
        assert!(!mounts::is_mounted(&target).unwrap());
        drop(held);
        let attached = || Run::new("losetup").args(["-n", "-O", "BACK-FILE"]).arg(&device).outcome();
        crate::eventually("the device to be free", Duration::from_secs(10), || {
            Ok((!attached()?.stdout.contains("disk.img")).then_some(()))
        })
        .unwrap();
        let again = LoopFs::open(&image, &target).unwrap();
        assert_eq!(std::fs::read_to_string(again.path().join("hello")).unwrap(), "world");
        again.close().unwrap();
        LoopFs::check(&image).unwrap();
    }
}
