//! Encrypting a directory that was filled without a key, while nobody uses it.
//!
//! ```text
//! DIR                  files as they are
//! DIR.encrypting       marker, copies of all files, synced ── exchanged with DIR ──> what was in DIR, deleted
//! ```
//! Broken off before the exchange, the directory is as it was and the copies are thrown away at the next run; after it, it is
//! encrypted and only the deletion is left. Links to adopted disks are links again. The space that the plain files had is given
//! back to the file system, not overwritten.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags, renameat_with};

use super::{Encrypted, LocalKey, Salts, is_encrypted};
use crate::adopt::each_data;
use crate::disk::{Disk, Io, LocalDisk};
use crate::error::{EngineError, ErrorKind, Result};
use crate::machine::{Host, Machine};

/// Bytes copied at a time.
const STEP: usize = 1 << 20;
/// What is left free for others, bytes.
const SPARE: u64 = 64 << 20;

/// What [`convert`] found and did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Conversion {
    /// It is encrypted now; that many bytes were copied.
    Encrypted(u64),
    /// It was encrypted before.
    Already,
}

fn draft(dir: &Path) -> PathBuf {
    let mut name = dir.as_os_str().to_owned();
    name.push(".encrypting");
    PathBuf::from(name)
}

/// Directories below `root` that hold files, and whether each is encrypted: a gateway's groups, an agent's.
///
/// # Errors
/// What the disk says.
pub fn encrypted_now(root: &Path) -> io::Result<Vec<(PathBuf, bool)>> {
    let mut found = Vec::new();
    look(root, &mut found)?;
    found.sort();
    Ok(found)
}

fn look(dir: &Path, found: &mut Vec<(PathBuf, bool)>) -> io::Result<()> {
    let mut holds_files = false;
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        if !entry.file_type()?.is_dir() {
            holds_files = true;
        } else if entry.path().extension().is_none_or(|extension| extension != "encrypting") {
            look(&entry.path(), found)?;
        }
    }
    if holds_files {
        found.push((dir.to_owned(), is_encrypted(dir)));
    }
    Ok(())
}

/// Encrypts the files of a directory that nobody uses; `progress` hears of bytes done and bytes in all.
///
/// # Errors
/// `NoSpace` when there is no room for copies; what the disk says. The directory is as it was then.
pub fn convert(dir: &Path, key: &LocalKey, salts: &Salts, progress: &mut dyn FnMut(u64, u64)) -> Result<Conversion> {
    let failed = |error| EngineError::io(format!("encrypt {}", dir.display()), error);
    let copies = draft(dir);
    if copies.exists() {
        std::fs::remove_dir_all(&copies).map_err(failed)?;
    }
    if is_encrypted(dir) {
        return Ok(Conversion::Already);
    }
    let from = LocalDisk::open(dir).map_err(failed)?;
    let names = from.list().map_err(failed)?;
    let mut needed = 0;
    for name in &names {
        if from.adopted(name).map_err(failed)?.is_none() {
            needed += std::fs::metadata(dir.join(name)).map_err(failed)?.blocks() * 512;
        }
    }
    let space = rustix::fs::statvfs(dir).map_err(|error| failed(error.into()))?;
    let free = space.f_bavail.saturating_mul(space.f_frsize);
    if free < needed.saturating_add(SPARE) {
        return Err(EngineError::new(
            ErrorKind::NoSpace,
            format!(
                "{} can't be encrypted: its files have {needed} bytes, for copies of which {free} bytes are free, less {SPARE} \
                 to spare: free some, or recover the group into an empty state directory",
                dir.display()
            ),
        ));
    }
    let machine = Encrypted::new(std::sync::Arc::new(Host), key.clone(), std::sync::Arc::clone(salts));
    let to = machine.open(&copies).map_err(failed)?;
    let mut done = 0;
    for name in &names {
        match from.adopted(name).map_err(failed)? {
            Some(source) => to.adopt(name, &source).map_err(failed)?,
            None => copy(&*from, &*to, name, &mut |bytes| {
                done += bytes;
                progress(done, needed);
            })
            .map_err(failed)?,
        }
    }
    to.sync_names().map_err(failed)?;
    let parent = dir.parent().unwrap_or(dir);
    renameat_with(CWD, &copies, CWD, dir, RenameFlags::EXCHANGE).map_err(|error| failed(error.into()))?;
    File::open(parent).and_then(|parent| parent.sync_all()).map_err(failed)?;
    std::fs::remove_dir_all(&copies).map_err(failed)?;
    Ok(Conversion::Encrypted(done))
}

fn copy(from: &dyn Disk, to: &dyn Disk, name: &str, copied: &mut dyn FnMut(u64)) -> io::Result<()> {
    let path = from.path().join(name);
    let (source, target) = (from.open(name, false, Io::Buffered)?, to.open(name, true, Io::Buffered)?);
    let len = source.len()?;
    target.set_len(len)?;
    let mut buffer = vec![0; STEP];
    let mut result = Ok(());
    each_data(&File::open(&path)?, len, &mut |offset, bytes| {
        let mut at = offset;
        while at < offset + bytes && result.is_ok() {
            let step = usize::try_from(offset + bytes - at).unwrap_or(usize::MAX).min(STEP);
            let part = &mut buffer[..step];
            result = source.read_at(part, at).and_then(|()| target.write_at(part, at));
            at += step as u64;
            copied(step as u64);
        }
    })?;
    result?;
    target.sync()
}
