//! The machine that groups live on: their directories, and what the loops of their write paths run on. A simulation puts
//! another in its place: directories that forget what was not synced, and loops that take a step whenever its seed says so.

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::at_rest::{empty, is_encrypted, key_is_missing};
use crate::disk::{Disk, LocalDisk};

/// A machine.
pub trait Machine: fmt::Debug + Send + Sync {
    /// The directory `dir`, created when it is missing (its parent must exist).
    ///
    /// # Errors
    /// What the system says.
    fn open(&self, dir: &Path) -> io::Result<Arc<dyn Disk>>;

    /// The directory as it lies on the disk, encrypted or not; created when it is missing.
    ///
    /// # Errors
    /// What the system says.
    fn raw(&self, dir: &Path) -> io::Result<Arc<dyn Disk>> {
        self.open(dir)
    }

    /// Whether there is a directory `dir`, whatever is in it.
    fn has(&self, dir: &Path) -> bool;

    /// Whether there is a file of that name in `dir`.
    fn holds(&self, dir: &Path, name: &str) -> bool;

    /// Deletes `dir` with everything in it.
    ///
    /// # Errors
    /// What the system says.
    fn remove(&self, dir: &Path) -> io::Result<()>;

    /// What loops run on.
    fn drive(&self) -> Drive {
        Drive::Threads
    }
}

/// What the loops of a write path run on.
#[derive(Clone)]
pub enum Drive {
    /// Each on a thread of its own, woken when there is something to do.
    Threads,
    /// As tasks of the runtime; each does one step after the pause that this says, and longer ones while it is idle.
    Steps(Arc<dyn Fn() -> Duration + Send + Sync>),
}

impl fmt::Debug for Drive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Threads => "Threads",
            Self::Steps(_) => "Steps",
        })
    }
}

/// The machine that this process runs on.
#[derive(Clone, Copy, Debug, Default)]
pub struct Host;

impl Machine for Host {
    /// Refuses a directory that is encrypted: nobody gave a key.
    fn open(&self, dir: &Path) -> io::Result<Arc<dyn Disk>> {
        if is_encrypted(dir) {
            return Err(key_is_missing(dir));
        }
        self.raw(dir)
    }

    fn raw(&self, dir: &Path) -> io::Result<Arc<dyn Disk>> {
        let disk: Arc<dyn Disk> = LocalDisk::open(dir)?;
        Ok(disk)
    }

    fn has(&self, dir: &Path) -> bool {
        dir.exists()
    }

    fn holds(&self, dir: &Path, name: &str) -> bool {
        dir.join(name).exists()
    }

    fn remove(&self, dir: &Path) -> io::Result<()> {
        if is_encrypted(dir) {
            empty(&*self.raw(dir)?)?;
        }
        std::fs::remove_dir_all(dir)
    }
}
