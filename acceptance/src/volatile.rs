//! A small file system of a test's own that can be filled, freed and enlarged.
//!
//! Owns the mount, and the image or memory below it. All of it is gone when the value is dropped or the process interrupted, after everything that
//! was registered later.

use std::fs::File;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::command::Run;
use crate::scratch::Scratch;
use crate::{cleanup, mounts};

/// The file that takes all room.
const BALLAST: &str = "ballast";

/// A file system.
#[derive(Debug)]
pub struct Disk {
    target: PathBuf,
    _unmount: cleanup::Guard,
    _scratch: Scratch,
}

impl Disk {
    /// In memory, so that it can be enlarged.
    ///
    /// # Errors
    /// It can't be mounted.
    pub fn memory(label: &str, bytes: u64) -> Result<Self> {
        Self::mount(label, |_, target| {
            Run::new("mount").args(["-t", "tmpfs", "-o", &format!("size={bytes},mode=0700"), "tmpfs"]).arg(target).ok()
        })
    }

    /// ext4 on a file: its syncs are real ones.
    ///
    /// # Errors
    /// It can't be made or mounted.
    pub fn ext4(label: &str, bytes: u64) -> Result<Self> {
        Self::mount(label, |scratch, target| {
            let image = scratch.join("image");
            File::create(&image)?.set_len(bytes)?;
            Run::new("mkfs.ext4").args(["-q", "-m", "0"]).arg(&image).ok()?;
            Run::new("mount").args(["-o", "loop"]).arg(&image).arg(target).ok()
        })
    }

    fn mount(label: &str, mount: impl FnOnce(&Path, &Path) -> Result<String>) -> Result<Self> {
        let scratch = Scratch::new(label)?;
        let target = scratch.path().join("disk");
        std::fs::create_dir(&target)?;
        let doomed = target.clone();
        let unmount = cleanup::defer(format!("unmount {}", target.display()), move || mounts::unmount_below(&doomed));
        mount(scratch.path(), &target)?;
        Ok(Self { target, _unmount: unmount, _scratch: scratch })
    }

    /// Where it is mounted.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.target
    }

    /// Takes all the room that there is.
    ///
    /// # Errors
    /// There is still room afterwards.
    pub fn fill(&self) -> Result<()> {
        let path = self.target.join(BALLAST);
        let mut file = File::options().create(true).append(true).open(&path).context("take room")?;
        for step in [1 << 20, 4096] {
            let bytes = vec![0x5a; step];
            loop {
                match file.write_all(&bytes) {
                    Ok(()) => {}
                    Err(error) if error.kind() == ErrorKind::StorageFull => break,
                    Err(error) => bail!("take room in {}: {error}", path.display()),
                }
            }
        }
        // What was promised and not given yet counts too.
        match file.sync_all() {
            Err(error) if error.kind() != ErrorKind::StorageFull => bail!("take room in {}: {error}", path.display()),
            _ => Ok(()),
        }
    }

    /// Gives the room back that was taken.
    ///
    /// # Errors
    /// It wasn't.
    pub fn free(&self) -> Result<()> {
        std::fs::remove_file(self.target.join(BALLAST)).context("give room back")
    }

    /// Enlarges one in memory.
    ///
    /// # Errors
    /// It isn't in memory.
    pub fn grow(&self, bytes: u64) -> Result<()> {
        Run::new("mount").args(["-o", &format!("remount,size={bytes}")]).arg(&self.target).ok().map(drop)
    }
}
