//! Files and block devices that existed before their volume: a volume's image may be one of them, in place.
//!
//! Owns the hold on such a *source* and what may be done to it. A regular file is held with a lock on the whole file, which
//! is refused while a loop device has the file; a block device is opened for exclusive use, which is refused while it is mounted or
//! part of something else. The hold ends with the last handle, and so with the process. A source may grow and is never made
//! shorter, never deleted: names that stand for it are links.
//!
//! Refused: what is no regular file or block device, what is empty or no whole number of blocks, what is in use. Nothing was
//! changed then. A crash leaves the source with everything that reached it, as it does an image.

use std::fs::{File, OpenOptions};
use std::io::{self, Seek};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use lifeboat_model::BLOCK_SIZE_U64;
use rustix::fs::{FlockOperation, SeekFrom, flock, seek};

use crate::disk::{DiskFile, LocalFile};
use crate::error::{EngineError, ErrorKind, Result};

/// A source that this process holds.
#[derive(Debug)]
pub(crate) struct Source {
    file: LocalFile,
    path: PathBuf,
    device: bool,
}

impl Source {
    /// Takes hold of a file or block device.
    ///
    /// # Errors
    /// `NotFound`; `Invalid` for what can't be a volume; `Retry` while somebody else has it.
    pub(crate) fn hold(path: &Path) -> Result<Self> {
        let shown = path.display();
        let invalid = |why: String| EngineError::new(ErrorKind::Invalid, format!("{shown} can't be adopted: {why}"));
        let kind = std::fs::metadata(path).map_err(|error| missing(path, error))?.file_type();
        if !kind.is_file() && !kind.is_block_device() {
            return Err(invalid("it is neither a regular file nor a block device".to_owned()));
        }
        let device = kind.is_block_device();
        let flags = if device { libc::O_EXCL } else { 0 };
        let opened = OpenOptions::new().read(true).write(true).custom_flags(flags).open(path);
        let file = opened.map_err(|error| match error.kind() {
            io::ErrorKind::ResourceBusy => in_use(
                path,
                "it is mounted, or part of something that is: unmount it; `lsblk` and `findmnt` show what has it",
            ),
            io::ErrorKind::NotFound => missing(path, error),
            _ => invalid(format!("{error}: the gateway must be able to read and write it")).with_source(error),
        })?;
        if !device {
            lock(path, &file)?;
        }
        let source = Self { file: LocalFile::new(file), path: path.to_owned(), device };
        let len = source.len().map_err(|error| EngineError::io(format!("ask for the size of {shown}"), error))?;
        if len == 0 || !len.is_multiple_of(BLOCK_SIZE_U64) {
            return Err(invalid(format!(
                "it has {len} bytes, and a volume has a multiple of {BLOCK_SIZE_U64}: extend it to {} bytes",
                len.next_multiple_of(BLOCK_SIZE_U64).max(BLOCK_SIZE_U64)
            )));
        }
        Ok(source)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

fn lock(path: &Path, file: &File) -> Result<()> {
    match flock(file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => {
            return Err(in_use(
                path,
                "another volume or process holds it: one of them can have it; `lslocks` and `fuser` show who has it",
            ));
        }
        Err(error) => return Err(EngineError::io(format!("lock {}", path.display()), error.into())),
    }
    // Loop devices lock nothing, and what is mounted through one changes the file behind a volume's back.
    match loop_device(path) {
        None => Ok(()),
        Some(device) => Err(in_use(
            path,
            &format!("the loop device {device} has it: unmount it, then detach it with `losetup -d {device}`"),
        )),
    }
}

/// The loop device that has a file, if there is one.
fn loop_device(path: &Path) -> Option<String> {
    let path = std::fs::canonicalize(path).ok()?;
    std::fs::read_dir("/sys/block").ok()?.flatten().find_map(|device| {
        let backing = std::fs::read_to_string(device.path().join("loop/backing_file")).ok()?;
        (Path::new(backing.trim_end_matches('\n')) == path)
            .then(|| format!("/dev/{}", device.file_name().to_string_lossy()))
    })
}

fn missing(path: &Path, error: io::Error) -> EngineError {
    let kind = if error.kind() == io::ErrorKind::NotFound { ErrorKind::NotFound } else { ErrorKind::Invalid };
    EngineError::new(
        kind,
        format!(
            "{} can't be adopted: {error}: name a file or block device of the gateway's machine by its absolute path",
            path.display()
        ),
    )
    .with_source(error)
}

fn in_use(path: &Path, why: &str) -> EngineError {
    EngineError::new(ErrorKind::Retry, format!("{} is in use: {why}", path.display()))
}

impl DiskFile for Source {
    fn len(&self) -> io::Result<u64> {
        // A device's metadata has no length; its end has. Nothing here uses the position of the handle.
        self.file.inner().seek(io::SeekFrom::End(0))
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let now = self.len()?;
        if len <= now {
            return Ok(());
        }
        if self.device {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("{} has {now} bytes and can't have {len}: enlarge the device first", self.path.display()),
            ));
        }
        self.file.set_len(len)?;
        // Unlike an image's, its length is never made up for at the next start.
        self.file.sync()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_at(buf, offset)
    }

    fn read_at_once(&self, buf: &mut [u8], offset: u64) -> io::Result<bool> {
        self.file.read_at_once(buf, offset)
    }

    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        self.file.write_at(data, offset)
    }

    fn punch(&self, offset: u64, len: u64) -> io::Result<()> {
        self.file.punch(offset, len)
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync()
    }

    fn each_data(&self, each: &mut dyn FnMut(u64, u64)) -> io::Result<()> {
        each_data(self.file.inner(), self.len()?, each)
    }
}

/// Tells the ranges, offset and length, of a file of `end` bytes outside of which it has holes; all of it on a file system
/// that knows none.
pub(crate) fn each_data(file: &File, end: u64, each: &mut dyn FnMut(u64, u64)) -> io::Result<()> {
    let mut at = 0;
    while at < end {
        let data = match seek(file, SeekFrom::Data(at)) {
            Ok(data) => data,
            // Nothing but a hole from there on.
            Err(rustix::io::Errno::NXIO) => return Ok(()),
            // A file system that knows no holes.
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::OPNOTSUPP) => {
                each(at, end - at);
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        };
        let hole = seek(file, SeekFrom::Hole(data))?.min(end);
        if hole <= data {
            return Ok(());
        }
        each(data, hole - data);
        at = hole;
    }
    Ok(())
}
