//! What a directory as a vault takes besides what `object_store` does.
//!
//! **Durability.** `LocalFileSystem` with fsync writes a staging file `KEY#n`, syncs it, hard-links it to its name
//! (which fails if the name is taken: create-only) and syncs the directory. It syncs the directories above only if
//! that very call made them: after a crash, or when two writers race, a durable file could stand in a directory
//! whose own entry is not durable. So after each create the chain of directories up to the root is synced, once per
//! directory and process. A name that was found taken is made durable too before that is reported, because a caller
//! may go on to treat the object as its own landed write. Deletes are synced: a destroyed key stays destroyed.
//!
//! **No lock.** Gateways share a directory, on one machine or over a network mount, so a lock held while open would
//! shut the second one out, and a lock per request would add nothing: the only exclusive act, taking a name, is one
//! `link(2)`, atomic between processes and over NFS. Who may write to a branch is decided by epochs, not by the store.
//!
//! **Identity.** A directory that vanishes or is replaced (its file system was unmounted) must never pass for an
//! empty vault: each request checks that the root is still the one that was opened. What is answered is true of it
//! too: a write counts, and something is missing, only if the root was the same one afterwards as well. A file system that
//! is unmounted in between would take the write below its mount point, where nobody finds it again.
//!
//! **Crash.** A kill between staging and unlinking leaves a `KEY#n` file, invisible to listings; [`Directory::sweep`]
//! deletes old ones.

use std::collections::HashMap;
use std::fs::{self, DirBuilder, File, Metadata};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use crate::backend::failure::{classify_io, describe};
use crate::error::{StoreClass, StoreError};
use crate::store::Access;

/// Inode number and, where the file system has it, birth time. Not the device: a network mount gets a new one when
/// it is mounted again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Identity(u64, Option<SystemTime>);

impl Identity {
    fn of(metadata: &Metadata) -> Self {
        Self(metadata.ino(), metadata.created().ok())
    }
}

#[derive(Debug)]
pub(crate) struct Directory {
    root: PathBuf,
    identity: Identity,
    /// Directories whose own entry is known to be durable.
    settled: Mutex<HashMap<PathBuf, Identity>>,
}

impl Directory {
    /// Opens the directory; with [`Access::Create`] makes its last component, for the owner alone.
    pub(crate) fn open(path: &Path, access: Access) -> Result<Self, StoreError> {
        if access == Access::Create {
            match DirBuilder::new().mode(0o700).create(path) {
                Ok(()) => {
                    if let Some(parent) = path.parent() {
                        sync(parent).map_err(|error| failed(error, "write", path))?;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    let parent = path.parent().unwrap_or(path).display();
                    return Err(StoreError::new(
                        StoreClass::NotFound,
                        format!(
                            "can't make the directory {}: {parent} doesn't exist; make it or mount it first",
                            path.display()
                        ),
                    ));
                }
                Err(error) => return Err(failed(error, "make", path)),
            }
        }
        let missing = |error: io::Error| match error.kind() {
            io::ErrorKind::NotFound => StoreError::new(
                StoreClass::NotFound,
                format!("there is no directory {}; check the storage URL and that it is mounted", path.display()),
            ),
            _ => failed(error, "open", path),
        };
        let root = fs::canonicalize(path).map_err(missing)?;
        let metadata = fs::metadata(&root).map_err(missing)?;
        if !metadata.is_dir() {
            return Err(StoreError::new(
                StoreClass::Fatal,
                format!("{} is no directory; check the storage URL", path.display()),
            ));
        }
        Ok(Self { root, identity: Identity::of(&metadata), settled: Mutex::default() })
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Whether the root is still there and still the same.
    pub(crate) fn check(&self) -> Result<(), StoreError> {
        self.is_ours(fs::metadata(&self.root))
    }

    /// Whether an object is there, or isn't, in the directory that was opened, whatever stands at its path since.
    pub(crate) fn confirm(&self, key: &str, is_there: bool) -> Result<(), StoreError> {
        let root = match File::open(&self.root) {
            Ok(root) => root,
            Err(error) => return self.is_ours(Err(error)),
        };
        self.is_ours(root.metadata())?;
        // Beneath the open directory itself: its path may mean another one by now.
        let beneath = PathBuf::from(format!("/proc/self/fd/{}", root.as_raw_fd())).join(key);
        match fs::metadata(&beneath) {
            // A directory is no object.
            Ok(found) if found.is_file() == is_there => Ok(()),
            Err(error) if !is_there && error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(failed(error, "look at", &self.root.join(key)))
            }
            _ => Err(StoreError::new(
                StoreClass::Retry,
                format!(
                    "{}: the directory was unmounted, or somebody else changed the object, while that was done",
                    describe("be sure of", key, &self.url())
                ),
            )),
        }
    }

    fn is_ours(&self, root: io::Result<Metadata>) -> Result<(), StoreError> {
        match root {
            Ok(metadata) if metadata.is_dir() && Identity::of(&metadata) == self.identity => Ok(()),
            Ok(_) => Err(self.gone(None)),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Err(failed(error, "open", &self.root)),
            Err(error) => Err(self.gone(Some(error))),
        }
    }

    fn gone(&self, error: Option<io::Error>) -> StoreError {
        let message = format!(
            "the vault directory {} is gone or another one is in its place; mount it again, or restart the gateway if it \
             was replaced on purpose",
            self.root.display()
        );
        let gone = StoreError::new(StoreClass::Retry, message);
        match error {
            Some(error) => gone.with_source(error),
            None => gone,
        }
    }

    /// Makes the entries of the directories above `key` durable, and with `entry_too` that of `key` itself.
    pub(crate) fn settle(&self, key: &str, entry_too: bool) -> Result<(), StoreError> {
        let path = self.root.join(key);
        let settled = self.settle_path(&path, entry_too);
        if settled.is_ok() {
            return self.confirm(key, true);
        }
        settled.map_err(|error| match error.kind() {
            // Deleted again between the write and now: by somebody who saw it, so it was there.
            io::ErrorKind::NotFound if self.check().is_ok() => StoreError::new(
                StoreClass::Retry,
                format!("{} was deleted while it was being written", describe("write", key, &self.url())),
            ),
            _ => failed(error, "write", &path),
        })
    }

    fn settle_path(&self, path: &Path, entry_too: bool) -> io::Result<()> {
        let mut directory = path.parent().unwrap_or(&self.root);
        if entry_too {
            sync(directory)?;
        }
        while directory != self.root {
            let identity = Identity::of(&fs::metadata(directory)?);
            let known = self.settled().get(directory) == Some(&identity);
            let Some(parent) = directory.parent() else { break };
            if !known {
                sync(parent)?;
                self.settled().insert(directory.to_owned(), identity);
            }
            directory = parent;
        }
        Ok(())
    }

    /// Makes the deletion of `key` durable. Directories that it left empty may be gone as well.
    pub(crate) fn settle_delete(&self, key: &str) -> Result<(), StoreError> {
        let path = self.root.join(key);
        let mut directory = path.parent().unwrap_or(&self.root);
        loop {
            match sync(directory) {
                Ok(()) => return self.confirm(key, false),
                Err(error) if error.kind() == io::ErrorKind::NotFound && directory != self.root => {
                    self.settled().remove(directory);
                    directory = directory.parent().unwrap_or(&self.root);
                }
                Err(error) => return Err(failed(error, "delete", &path)),
            }
        }
    }

    /// Deletes staging files of interrupted writes that nobody has touched for `older_than`.
    pub(crate) fn sweep(&self, older_than: Duration) -> Result<u64, StoreError> {
        self.check()?;
        let mut deleted = 0;
        let mut queue = vec![self.root.clone()];
        while let Some(directory) = queue.pop() {
            let entries = match fs::read_dir(&directory) {
                Ok(entries) => entries,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(failed(error, "list", &directory)),
            };
            for entry in entries {
                let entry = entry.map_err(|error| failed(error, "list", &directory))?;
                // Gone meanwhile: somebody else's staging file that became an object.
                let Ok(metadata) = entry.metadata() else { continue };
                if metadata.is_dir() {
                    queue.push(entry.path());
                } else if is_staging(&entry.file_name().to_string_lossy())
                    && metadata.modified().is_ok_and(|at| at.elapsed().is_ok_and(|age| age >= older_than))
                    && fs::remove_file(entry.path()).is_ok()
                {
                    deleted += 1;
                }
            }
        }
        Ok(deleted)
    }

    fn url(&self) -> String {
        format!("file://{}", self.root.display())
    }

    fn settled(&self) -> std::sync::MutexGuard<'_, HashMap<PathBuf, Identity>> {
        self.settled.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether `object_store` gives this name to a file that it is still writing.
fn is_staging(name: &str) -> bool {
    name.rsplit_once('#').is_some_and(|(base, number)| {
        !base.is_empty() && !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())
    })
}

fn sync(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

fn failed(error: io::Error, verb: &str, path: &Path) -> StoreError {
    let (class, advice) = classify_io(error.kind());
    StoreError::new(class, format!("can't {verb} {}: {advice} ({error})", path.display())).with_source(error)
}

#[cfg(test)]
mod tests;
