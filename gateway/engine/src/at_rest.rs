//! Local files that are encrypted on their way to the disk, below everything else in this crate.
//!
//! [`Encrypted`] is a machine whose directories are encrypted: a new one gets its marker before anything else, one that has a
//! marker is opened with the key, and one that was filled without is served as it is, until [`convert`] has encrypted it. Disks
//! that are adopted in place stay as they are: they are somebody's own. `lifeboat_format::at_rest` has the bytes.
//!
//! Offsets and holes are the file's own, so that crashes, torn sectors and punched ranges look to the engine as they do on a
//! plain disk. Lengths are rounded up to 16 bytes, with zeroes: every reader bears that. A crash while a directory gets its marker
//! leaves it with nothing else in it, and the marker is made again.

mod convert;
#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use lifeboat_format::FormatError;
use lifeboat_format::at_rest::{DirectoryKey, FileCipher, MARKER_LEN, Marker, UNIT};
pub use lifeboat_format::at_rest::{MARKER_NAME, is_sealed_text, open_text, seal_text};
pub use lifeboat_format::keys::{LocalKey, Salt};
use lifeboat_model::Timestamp;

use crate::disk::{AlignedBuf, Disk, DiskFile, Io};
use crate::error::EngineError;
use crate::machine::{Drive, Host, Machine};
use crate::sync::Lock;

pub use convert::{Conversion, convert, encrypted_now};

/// Bytes that are encrypted before they are written, at most.
const CHUNK: usize = 1 << 20;
const UNIT_U64: u64 = UNIT as u64;

/// Fresh random bytes for the salts of directories.
pub type Salts = Arc<dyn Fn() -> io::Result<Salt> + Send + Sync>;

/// The system's generator.
#[must_use]
pub fn system_salts() -> Salts {
    Arc::new(|| {
        let mut salt = Salt::default();
        aws_lc_rs::rand::fill(&mut salt).map_err(|_| io::Error::other("the system's random generator failed"))?;
        Ok(salt)
    })
}

/// A machine whose directories are encrypted.
#[derive(Clone)]
pub struct Encrypted {
    inner: Arc<dyn Machine>,
    key: LocalKey,
    salts: Salts,
}

impl std::fmt::Debug for Encrypted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Encrypted").field("inner", &self.inner).finish_non_exhaustive()
    }
}

impl Encrypted {
    /// That machine, encrypted with a key.
    #[must_use]
    pub fn new(inner: Arc<dyn Machine>, key: LocalKey, salts: Salts) -> Self {
        Self { inner, key, salts }
    }

    /// The machine that this process runs on: encrypted when there is a key.
    #[must_use]
    pub fn host(key: Option<LocalKey>) -> Arc<dyn Machine> {
        match key {
            Some(key) => Arc::new(Self::new(Arc::new(Host), key, system_salts())),
            None => Arc::new(Host),
        }
    }
}

impl Machine for Encrypted {
    fn open(&self, dir: &Path) -> io::Result<Arc<dyn Disk>> {
        let disk = self.inner.raw(dir)?;
        match read_marker(&*disk)? {
            Found::Marker(marker) => Ok(Arc::new(EncryptedDisk::new(disk, &marker, &self.key)?)),
            Found::Nothing if disk.list()?.iter().all(|name| name == MARKER_NAME) => {
                let marker = Marker::new(&self.key, (self.salts)()?);
                write_marker(&*disk, &marker)?;
                Ok(Arc::new(EncryptedDisk::new(disk, &marker, &self.key)?))
            }
            Found::Nothing => {
                tracing::warn!(
                    directory = %dir.display(),
                    "local files are not encrypted: they were there before the local key; stop and run `lifeboat encrypt`"
                );
                Ok(disk)
            }
        }
    }

    fn raw(&self, dir: &Path) -> io::Result<Arc<dyn Disk>> {
        self.inner.raw(dir)
    }

    fn has(&self, dir: &Path) -> bool {
        self.inner.has(dir)
    }

    fn holds(&self, dir: &Path, name: &str) -> bool {
        self.inner.holds(dir, name)
    }

    fn remove(&self, dir: &Path) -> io::Result<()> {
        empty(&*self.inner.raw(dir)?)?;
        self.inner.remove(dir)
    }

    fn drive(&self) -> Drive {
        self.inner.drive()
    }
}

/// What stands where a directory's marker would be.
enum Found {
    Marker(Marker),
    /// No marker, or one that was never whole.
    Nothing,
}

fn read_marker(disk: &dyn Disk) -> io::Result<Found> {
    let file = match disk.open(MARKER_NAME, false, Io::Buffered) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::Nothing),
        file => file?,
    };
    let damaged = |why: String| {
        let path = disk.path().join(MARKER_NAME);
        io::Error::new(
            io::ErrorKind::InvalidData,
            format!("{}: {why}: restore it, or recover the volumes from the vault", path.display()),
        )
    };
    let len = usize::try_from(file.len()?).unwrap_or(usize::MAX);
    let mut bytes = vec![0; len.min(MARKER_LEN + 1)];
    file.read_at(&mut bytes, 0)?;
    match Marker::decode(&bytes) {
        Ok(marker) => Ok(Found::Marker(marker)),
        Err(_) if disk.list()?.iter().all(|name| name == MARKER_NAME) => Ok(Found::Nothing),
        Err(error) => Err(damaged(error.to_string())),
    }
}

fn write_marker(disk: &dyn Disk, marker: &Marker) -> io::Result<()> {
    let file = disk.open(MARKER_NAME, true, Io::Buffered)?;
    file.set_len(0)?;
    file.write_at(&marker.encode(), 0)?;
    file.sync()?;
    disk.sync_names()
}

/// Deletes everything but the marker, for good, before the marker goes: a crash must not leave encrypted files behind that look
/// like a directory which was filled without a key.
pub(crate) fn empty(disk: &dyn Disk) -> io::Result<()> {
    for name in disk.list()?.iter().filter(|name| *name != MARKER_NAME) {
        disk.remove(name)?;
    }
    disk.sync_names()
}

/// Whether a directory of this machine is encrypted.
#[must_use]
pub fn is_encrypted(dir: &Path) -> bool {
    dir.join(MARKER_NAME).exists()
}

/// A disk as its directory's marker says: decrypted with the key, or as it is when there is no marker.
///
/// # Errors
/// `NotFound` for the key of a directory that is encrypted, `InvalidData` for a wrong one or a damaged marker.
pub fn revealed(disk: Arc<dyn Disk>, key: Option<&LocalKey>) -> io::Result<Arc<dyn Disk>> {
    match (read_marker(&*disk)?, key) {
        (Found::Nothing, _) => Ok(disk),
        (Found::Marker(marker), Some(key)) => Ok(Arc::new(EncryptedDisk::new(disk, &marker, key)?)),
        (Found::Marker(_), None) => Err(key_is_missing(&disk.path())),
    }
}

/// What to say of an encrypted directory where no key was given.
pub(crate) fn key_is_missing(dir: &Path) -> io::Error {
    io::Error::new(
        io::ErrorKind::NotFound,
        format!(
            "the files in {} are encrypted: give what opens the local key, --local-key-file or --local-passphrase-file",
            dir.display()
        ),
    )
}

/// A directory whose files are encrypted, each with keys of its own.
#[derive(Debug)]
struct EncryptedDisk {
    inner: Arc<dyn Disk>,
    key: DirectoryKey,
}

impl EncryptedDisk {
    fn new(inner: Arc<dyn Disk>, marker: &Marker, key: &LocalKey) -> io::Result<Self> {
        let key = marker.open(key).map_err(|error| {
            let why = match error {
                FormatError::WrongKey { .. } => {
                    "was encrypted with another local key: put that local.key back".to_owned()
                }
                error => error.to_string(),
            };
            io::Error::new(io::ErrorKind::InvalidData, format!("{} {why}", inner.path().display()))
        })?;
        Ok(Self { inner, key })
    }
}

impl Disk for EncryptedDisk {
    fn open(&self, name: &str, create: bool, io: Io) -> io::Result<Arc<dyn DiskFile>> {
        let inner = self.inner.open(name, create, io)?;
        Ok(Arc::new(EncryptedFile { inner, cipher: self.key.file(name), edges: Lock::new(()) }))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = self.inner.list()?;
        names.retain(|name| name != MARKER_NAME);
        Ok(names)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.inner.remove(name)
    }

    fn sync_names(&self) -> io::Result<()> {
        self.inner.sync_names()
    }

    fn path(&self) -> PathBuf {
        self.inner.path()
    }

    fn hold(&self, name: &str, source: &Path) -> Result<Arc<dyn DiskFile>, EngineError> {
        self.inner.hold(name, source)
    }

    fn adopt(&self, name: &str, source: &Path) -> io::Result<()> {
        self.inner.adopt(name, source)
    }

    fn adopted(&self, name: &str) -> io::Result<Option<PathBuf>> {
        self.inner.adopted(name)
    }

    fn now(&self) -> Timestamp {
        self.inner.now()
    }
}

/// One file, encrypted.
#[derive(Debug)]
struct EncryptedFile {
    inner: Arc<dyn DiskFile>,
    cipher: FileCipher,
    /// Held by whoever reads a unit to write a part of it.
    edges: Lock<()>,
}

thread_local! {
    /// Where a thread encrypts what it writes: data is somebody else's and stays as it is.
    static SCRATCH: RefCell<AlignedBuf> = RefCell::new(AlignedBuf::with_capacity(0));
}

fn is_aligned(offset: u64, len: usize) -> bool {
    offset.is_multiple_of(UNIT_U64) && len.is_multiple_of(UNIT)
}

impl EncryptedFile {
    /// Whole units, in chunks.
    fn write_units(&self, data: &[u8], offset: u64) -> io::Result<()> {
        SCRATCH.with_borrow_mut(|scratch| {
            let mut at = offset;
            for chunk in data.chunks(CHUNK) {
                scratch.clear();
                scratch.extend(chunk);
                self.cipher.encrypt(at, scratch.as_mut_slice());
                self.inner.write_at(scratch.as_slice(), at)?;
                at += chunk.len() as u64;
            }
            Ok(())
        })
    }

    /// The units around a range, with what is there; zeroes behind the end.
    fn around(&self, offset: u64, len: usize) -> io::Result<(u64, Vec<u8>)> {
        let start = offset - offset % UNIT_U64;
        let end = (offset + len as u64).next_multiple_of(UNIT_U64);
        let mut units = vec![0; usize::try_from(end - start).unwrap_or(usize::MAX)];
        let there = usize::try_from(end.min(self.inner.len()?).saturating_sub(start)).unwrap_or(usize::MAX);
        let known = &mut units[..there];
        self.inner.read_at(known, start)?;
        self.cipher.decrypt(start, known);
        Ok((start, units))
    }
}

impl DiskFile for EncryptedFile {
    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let whole = len.next_multiple_of(UNIT_U64);
        if whole != len && self.inner.len()? > len {
            // What is cut off within the last unit that stays.
            let _alone = self.edges.lock();
            let (start, mut units) = self.around(len, 0)?;
            units.resize(UNIT, 0);
            units[usize::try_from(len - start).unwrap_or(0)..].fill(0);
            self.write_units(&units, start)?;
        }
        self.inner.set_len(whole)
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        if is_aligned(offset, buf.len()) {
            self.inner.read_at(buf, offset)?;
            self.cipher.decrypt(offset, buf);
            return Ok(());
        }
        if offset + buf.len() as u64 > self.inner.len()? {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let (start, units) = self.around(offset, buf.len())?;
        let from = usize::try_from(offset - start).unwrap_or(usize::MAX);
        buf.copy_from_slice(&units[from..from + buf.len()]);
        Ok(())
    }

    fn read_at_once(&self, buf: &mut [u8], offset: u64) -> io::Result<bool> {
        if !is_aligned(offset, buf.len()) || !self.inner.read_at_once(buf, offset)? {
            return Ok(false);
        }
        self.cipher.decrypt(offset, buf);
        Ok(true)
    }

    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        if data.is_empty() || is_aligned(offset, data.len()) {
            return self.write_units(data, offset);
        }
        let _alone = self.edges.lock();
        let (start, mut units) = self.around(offset, data.len())?;
        let from = usize::try_from(offset - start).unwrap_or(usize::MAX);
        units[from..from + data.len()].copy_from_slice(data);
        self.write_units(&units, start)
    }

    fn punch(&self, offset: u64, len: u64) -> io::Result<()> {
        let (end, first) = (offset + len, offset.next_multiple_of(UNIT_U64));
        let last = end - end % UNIT_U64;
        if first > last {
            return self.write_at(&vec![0; usize::try_from(len).unwrap_or(0)], offset);
        }
        for (from, to) in [(offset, first), (last, end)] {
            if from < to {
                self.write_at(&vec![0; usize::try_from(to - from).unwrap_or(0)], from)?;
            }
        }
        if first < last { self.inner.punch(first, last - first) } else { Ok(()) }
    }

    fn sync(&self) -> io::Result<()> {
        self.inner.sync()
    }

    fn each_data(&self, each: &mut dyn FnMut(u64, u64)) -> io::Result<()> {
        self.inner.each_data(each)
    }
}
