//! Local files as the engine sees them: a directory of named files with positional reads and writes.
//!
//! Everything that the engine keeps on a disk goes through [`Disk`] and [`DiskFile`], so that a simulated disk can drop,
//! reorder and tear what was not synced. A failed sync is final for the file (the kernel forgets dirty pages that it
//! could not write): callers poison the group and never retry it. A name may stand for a *source*: a file or block device
//! elsewhere that was there before.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

use lifeboat_model::Timestamp;

use crate::adopt::Source;
use crate::error::{EngineError, ErrorKind};
use crate::sync::Lock;

/// A directory of files.
pub trait Disk: Send + Sync + std::fmt::Debug {
    /// Opens a file for reading and writing; creates it, empty, when `create` is set and it is missing.
    ///
    /// # Errors
    /// What the system says; `NotFound` for a missing file.
    fn open(&self, name: &str, create: bool, io: Io) -> io::Result<Arc<dyn DiskFile>>;

    /// Names of the files, in order.
    ///
    /// # Errors
    /// What the system says.
    fn list(&self) -> io::Result<Vec<String>>;

    /// Deletes a file; a missing one is no error.
    ///
    /// # Errors
    /// What the system says.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Makes created and removed names survive the loss of power.
    ///
    /// # Errors
    /// What the system says.
    fn sync_names(&self) -> io::Result<()>;

    /// Where it is, for messages.
    fn path(&self) -> PathBuf;

    /// Takes hold of a file or block device that is to have that name: nobody else has it while a handle is open, nor has
    /// another name. Under one name it can be held several times.
    ///
    /// # Errors
    /// `NotFound`; `Invalid` for what can't be a volume, also on a disk that is no machine's; `Retry` while it is in use.
    fn hold(&self, _name: &str, source: &Path) -> Result<Arc<dyn DiskFile>, EngineError> {
        let why = format!("{} can't be adopted: this disk holds nothing but its own files", source.display());
        Err(EngineError::new(ErrorKind::Invalid, why))
    }

    /// Makes a name stand for a source, by its absolute path; removing the name leaves the source alone.
    ///
    /// # Errors
    /// What the system says; `AlreadyExists`.
    fn adopt(&self, _name: &str, _source: &Path) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// The source that a name stands for; none for a file of the directory's own.
    ///
    /// # Errors
    /// What the system says.
    fn adopted(&self, _name: &str) -> io::Result<Option<PathBuf>> {
        Ok(None)
    }

    /// The time by its machine's clock, which files are marked with.
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }
}

/// How a file is read and written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Io {
    /// Through the page cache.
    Buffered,
    /// Past the page cache where the file system can; addresses, offsets and lengths are multiples of the block size.
    Direct,
}

/// One file.
#[expect(clippy::len_without_is_empty, reason = "a length that can fail, of a file that is never empty")]
pub trait DiskFile: Send + Sync + std::fmt::Debug {
    /// Length, bytes.
    ///
    /// # Errors
    /// What the system says.
    fn len(&self) -> io::Result<u64>;

    /// Sets the length; what is added reads as zeroes.
    ///
    /// # Errors
    /// What the system says.
    fn set_len(&self, len: u64) -> io::Result<()>;

    /// Fills `buf` from `offset` on.
    ///
    /// # Errors
    /// `UnexpectedEof` past the end.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()>;

    /// Fills `buf` from `offset` on if that needs no waiting for the device; false when it does, or can't be told.
    ///
    /// # Errors
    /// What the system says.
    fn read_at_once(&self, _buf: &mut [u8], _offset: u64) -> io::Result<bool> {
        Ok(false)
    }

    /// Writes all of `data` at `offset`.
    ///
    /// # Errors
    /// What the system says; the range is undefined then.
    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()>;

    /// Makes the range read as zeroes and gives its space back where the file system can.
    ///
    /// # Errors
    /// What the system says.
    fn punch(&self, offset: u64, len: u64) -> io::Result<()>;

    /// Makes everything written so far survive the loss of power.
    ///
    /// # Errors
    /// What the system says. After an error nothing since the last success may be taken as durable.
    fn sync(&self) -> io::Result<()>;

    /// Tells the ranges, offset and length, outside of which everything reads as zeroes; all of it where that isn't known.
    ///
    /// # Errors
    /// What the system says.
    fn each_data(&self, each: &mut dyn FnMut(u64, u64)) -> io::Result<()> {
        each(0, self.len()?);
        Ok(())
    }
}

/// A directory of the host's file system.
#[derive(Debug)]
pub struct LocalDisk {
    dir: PathBuf,
    /// Sources that are held, by name, for whoever opens them once more.
    held: Lock<BTreeMap<String, Weak<Source>>>,
}

impl LocalDisk {
    /// The directory `dir`, created when it is missing (its parent must exist).
    ///
    /// # Errors
    /// What the system says.
    pub fn open(dir: &Path) -> io::Result<Arc<Self>> {
        match std::fs::create_dir(dir) {
            Ok(()) => {
                if let Some(parent) = dir.parent() {
                    File::open(parent)?.sync_all()?;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
        Ok(Arc::new(Self { dir: dir.to_owned(), held: Lock::new(BTreeMap::new()) }))
    }
}

impl Disk for LocalDisk {
    fn open(&self, name: &str, create: bool, io: Io) -> io::Result<Arc<dyn DiskFile>> {
        let path = self.dir.join(name);
        let options = |flags: i32| {
            let mut options = OpenOptions::new();
            options.read(true).write(true).create(create).mode(0o600).custom_flags(flags);
            options
        };
        let file = match io {
            Io::Buffered => options(0).open(&path)?,
            // tmpfs and some network file systems refuse O_DIRECT with EINVAL: buffered is as safe, only slower.
            Io::Direct => match options(libc::O_DIRECT).open(&path) {
                Err(error) if error.raw_os_error() == Some(libc::EINVAL) => options(0).open(&path)?,
                opened => opened?,
            },
        };
        Ok(Arc::new(LocalFile::new(file)))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = std::fs::read_dir(&self.dir)?
            .map(|entry| entry.map(|entry| entry.file_name().to_string_lossy().into_owned()))
            .collect::<io::Result<Vec<_>>>()?;
        names.sort_unstable();
        Ok(names)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        match std::fs::remove_file(self.dir.join(name)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            done => done,
        }
    }

    fn sync_names(&self) -> io::Result<()> {
        File::open(&self.dir)?.sync_all()
    }

    fn path(&self) -> PathBuf {
        self.dir.clone()
    }

    fn hold(&self, name: &str, source: &Path) -> Result<Arc<dyn DiskFile>, EngineError> {
        let mut held = self.held.lock();
        if let Some(file) = held.get(name).and_then(Weak::upgrade).filter(|file| file.path() == source) {
            return Ok(file);
        }
        let file = Arc::new(Source::hold(source)?);
        held.insert(name.to_owned(), Arc::downgrade(&file));
        Ok(file)
    }

    fn adopt(&self, name: &str, source: &Path) -> io::Result<()> {
        std::os::unix::fs::symlink(source, self.dir.join(name))
    }

    fn adopted(&self, name: &str) -> io::Result<Option<PathBuf>> {
        match std::fs::read_link(self.dir.join(name)) {
            Ok(source) => Ok(Some(source)),
            // Missing, or no link.
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::InvalidInput) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// A file of the host's file system.
#[derive(Debug)]
pub(crate) struct LocalFile {
    file: File,
}

impl LocalFile {
    pub(crate) const fn new(file: File) -> Self {
        Self { file }
    }

    pub(crate) const fn inner(&self) -> &File {
        &self.file
    }
}

impl DiskFile for LocalFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_exact_at(buf, offset)
    }

    fn read_at_once(&self, buf: &mut [u8], offset: u64) -> io::Result<bool> {
        use rustix::io::{Errno, ReadWriteFlags, preadv2};
        let len = buf.len();
        match preadv2(&self.file, &mut [io::IoSliceMut::new(buf)], offset, ReadWriteFlags::NOWAIT) {
            // A part of it would have to be waited for: the caller reads all of it again.
            Ok(read) => Ok(read == len),
            Err(Errno::AGAIN | Errno::OPNOTSUPP | Errno::INTR | Errno::NOSYS) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        self.file.write_all_at(data, offset)
    }

    fn punch(&self, offset: u64, len: u64) -> io::Result<()> {
        use rustix::fs::{FallocateFlags, fallocate};
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        match fallocate(&self.file, flags, offset, len) {
            Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => write_zeroes(self, offset, len),
            done => Ok(done?),
        }
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }
}

/// For file systems that can't punch holes.
fn write_zeroes(file: &dyn DiskFile, offset: u64, len: u64) -> io::Result<()> {
    const CHUNK: u64 = 1 << 20;
    let zeroes = AlignedBuf::zeroed(usize::try_from(CHUNK.min(len)).unwrap_or(usize::MAX));
    let mut done = 0;
    while done < len {
        let step = CHUNK.min(len - done);
        file.write_at(&zeroes.as_slice()[..usize::try_from(step).unwrap_or(usize::MAX)], offset + done)?;
        done += step;
    }
    Ok(())
}

/// A growable buffer whose first byte lies on a 4 KiB boundary, as direct I/O wants it.
///
/// It over-allocates by one alignment and starts inside, which needs no unsafe code and wastes at most 4 KiB. Memory that nothing was put
/// into is not touched.
#[derive(Debug)]
pub struct AlignedBuf {
    /// From `start` on what is in it. Never longer than its capacity: it would move, and not lie on a boundary any more.
    bytes: Vec<u8>,
    start: usize,
}

const ALIGN: usize = 4096;

impl AlignedBuf {
    /// An empty buffer with room for `capacity` bytes.
    #[must_use]
    pub fn with_capacity(capacity: usize) -> Self {
        let mut bytes: Vec<u8> = Vec::with_capacity(capacity + ALIGN);
        let start = bytes.as_ptr().align_offset(ALIGN);
        bytes.resize(start, 0);
        Self { bytes, start }
    }

    /// A buffer of `len` zeroes.
    #[must_use]
    pub fn zeroed(len: usize) -> Self {
        // Fresh memory is zeroes already where it comes from the system.
        let mut bytes: Vec<u8> = vec![0; len + ALIGN];
        let start = bytes.as_ptr().align_offset(ALIGN);
        bytes.truncate(start + len);
        Self { bytes, start }
    }

    /// Appends `data`.
    pub fn extend(&mut self, data: &[u8]) {
        self.reserve(data.len());
        self.bytes.extend_from_slice(data);
    }

    /// Appends zeroes up to the next multiple of the alignment.
    pub fn pad(&mut self) {
        let more = self.len().next_multiple_of(ALIGN) - self.len();
        self.reserve(more);
        self.bytes.resize(self.bytes.len() + more, 0);
    }

    /// Empties the buffer and keeps its memory.
    pub fn clear(&mut self) {
        self.bytes.truncate(self.start);
    }

    /// What is in it.
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        &self.bytes[self.start..]
    }

    /// What is in it, to be overwritten.
    #[must_use]
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..]
    }

    /// Bytes in it.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.bytes.len() - self.start
    }

    /// Whether it is empty.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Makes room for so many bytes more.
    fn reserve(&mut self, more: usize) {
        if self.bytes.len() + more > self.bytes.capacity() {
            let mut larger = Self::with_capacity((self.len() + more).max(self.bytes.capacity() * 2));
            larger.bytes.extend_from_slice(self.as_slice());
            *self = larger;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aligned_buffers_stay_aligned_while_they_grow() {
        let mut buf = AlignedBuf::with_capacity(10);
        for round in 0..200_usize {
            buf.extend(&vec![u8::try_from(round).expect("small"); 1000]);
            assert_eq!(buf.as_slice().as_ptr().align_offset(ALIGN), 0);
        }
        assert_eq!(buf.as_slice()[199 * 1000], 199);
        buf.pad();
        assert_eq!(buf.len() % ALIGN, 0);
    }

    #[test]
    fn a_local_directory_keeps_punches_and_lists_files() {
        let dir = tempfile::tempdir().expect("a directory");
        let disk = LocalDisk::open(&dir.path().join("group")).expect("opens");
        let file = disk.open("a.img", true, Io::Direct).expect("creates");
        file.set_len(16384).expect("grows");
        let mut ones = AlignedBuf::with_capacity(8192);
        ones.extend(&[1; 8192]);
        file.write_at(ones.as_slice(), 4096).expect("writes");
        file.punch(4096, 4096).expect("punches");
        file.sync().expect("syncs");
        let mut read = AlignedBuf::zeroed(16384);
        file.read_at(read.as_mut_slice(), 0).expect("reads");
        assert!(read.as_slice()[..8192].iter().all(|byte| *byte == 0));
        assert!(read.as_slice()[8192..12288].iter().all(|byte| *byte == 1));
        assert_eq!(disk.list().expect("lists"), ["a.img"]);
        disk.remove("a.img").expect("removes");
        disk.remove("a.img").expect("a missing file is no error");
        assert!(disk.open("a.img", false, Io::Buffered).is_err());
    }
}
