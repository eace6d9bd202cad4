//! A directory for one run: on a real disk, removed at the end.
//!
//! Owns a directory below `/var/tmp` (often `/tmp` is memory, which has no durability to test). It is removed when the
//! value is dropped or the process interrupted, after everything that was registered later: mounts inside it first.
//! `LIFEBOAT_KEEP` keeps it, to look at logs.

use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::{cleanup, mounts};

/// A directory that is removed at the end.
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
    _remove: cleanup::Guard,
}

impl Scratch {
    /// Makes one whose name begins with `lifeboat-` and `label`.
    ///
    /// # Errors
    /// When it can't be made.
    pub fn new(label: &str) -> Result<Self> {
        let prefix = format!("lifeboat-{label}-");
        let dir = tempfile::Builder::new().prefix(&prefix).tempdir_in("/var/tmp").context("make a directory")?;
        let path = dir.keep();
        let doomed = path.clone();
        let remove = cleanup::defer(format!("remove {}", path.display()), move || {
            // Never remove through a mount: what is still there is said, not deleted.
            let mounted = mounts::all().is_ok_and(|all| all.iter().any(|mount| mount.target.starts_with(&doomed)));
            if mounted || std::env::var_os("LIFEBOAT_KEEP").is_some() {
                eprintln!("kept: {}", doomed.display());
            } else if let Err(error) = std::fs::remove_dir_all(&doomed) {
                eprintln!("remove {}: {error}", doomed.display());
            }
        });
        Ok(Self { path, _remove: remove })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes a new key file for a vault, 32 random bytes, into it.
    ///
    /// # Errors
    /// When it can't be written or exists.
    pub fn write_key(&self, name: &str) -> Result<PathBuf> {
        let path = self.path.join(name);
        let mut key = [0; 32];
        let mut random = std::fs::File::open("/dev/urandom").context("open the random source")?;
        random.read_exact(&mut key).context("read the random source")?;
        let mut file = std::fs::File::options().write(true).create_new(true).mode(0o600).open(&path);
        let file = file.as_mut().map_err(|error| anyhow::anyhow!("create {}: {error}", path.display()))?;
        file.write_all(&key).context("write the key")?;
        Ok(path)
    }
}
