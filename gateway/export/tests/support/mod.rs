//! Doubles for tests and measurements: a volume in memory that can be made to fail, and a tree of such volumes.
//!
//! The double keeps its bytes in one vector under one lock, so that what it holds is easy to believe.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(dead_code, unreachable_pub, reason = "each test program uses its own part of the doubles")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use lifeboat_engine::error::{EngineError, ErrorKind, Result};
use lifeboat_engine::volume::BlockVolume;
use lifeboat_export::{Dir, DirStat, ExportTree, File, FileStat, Space};

/// A volume in memory.
#[derive(Debug, Default)]
pub struct MemoryVolume {
    pub bytes: Mutex<Vec<u8>>,
    pub read_only: AtomicBool,
    pub flushes: AtomicU64,
    pub writes: AtomicU64,
    /// Writes that have come, whether done or not.
    pub arrived: AtomicU64,
    pub largest_write: AtomicU64,
    pub zeroed: Mutex<Vec<(u64, u64, bool)>>,
    /// The kind of error that the next operations answer, and how many of them.
    pub failing: Mutex<Option<(ErrorKind, u64)>>,
    /// Reads answer one byte less than asked.
    pub short_reads: AtomicBool,
    /// Every write waits here for others, for as long as ten seconds.
    pub meet: Mutex<Option<Arc<tokio::sync::Barrier>>>,
}

impl MemoryVolume {
    pub fn new(size: usize) -> Arc<Self> {
        Arc::new(Self { bytes: Mutex::new(vec![0; size]), ..Self::default() })
    }

    pub fn grow(&self, size: usize) {
        self.bytes.lock().unwrap().resize(size, 0);
    }

    pub fn fail(&self, kind: ErrorKind, times: u64) {
        *self.failing.lock().unwrap() = Some((kind, times));
    }

    fn check(&self) -> Result<()> {
        let mut failing = self.failing.lock().unwrap();
        match &mut *failing {
            Some((kind, left)) if *left > 0 => {
                *left -= 1;
                Err(EngineError::new(*kind, "the test asked for this"))
            }
            _ => Ok(()),
        }
    }

    fn check_write(&self) -> Result<()> {
        self.check()?;
        if self.read_only() { Err(EngineError::new(ErrorKind::Fenced, "read-only")) } else { Ok(()) }
    }
}

fn range(offset: u64, len: usize, size: usize) -> Result<std::ops::Range<usize>> {
    let start = usize::try_from(offset).unwrap();
    let end = start.checked_add(len).filter(|end| *end <= size);
    end.map(|end| start..end).ok_or_else(|| EngineError::new(ErrorKind::Invalid, "past the end"))
}

#[async_trait]
impl BlockVolume for MemoryVolume {
    fn size_bytes(&self) -> u64 {
        self.bytes.lock().unwrap().len() as u64
    }

    fn read_only(&self) -> bool {
        self.read_only.load(Ordering::SeqCst)
    }

    async fn read(&self, offset: u64, len: u32) -> Result<Bytes> {
        self.check()?;
        let len = len as usize - usize::from(self.short_reads.load(Ordering::SeqCst));
        let bytes = self.bytes.lock().unwrap();
        Ok(Bytes::copy_from_slice(&bytes[range(offset, len, bytes.len())?]))
    }

    async fn write(&self, offset: u64, data: Bytes) -> Result<()> {
        self.arrived.fetch_add(1, Ordering::SeqCst);
        self.check_write()?;
        let meet = self.meet.lock().unwrap().clone();
        if let Some(meet) = meet {
            let met = tokio::time::timeout(std::time::Duration::from_secs(10), meet.wait()).await;
            met.map_err(|_| EngineError::new(ErrorKind::Damaged, "no other write came"))?;
        }
        let mut bytes = self.bytes.lock().unwrap();
        let range = range(offset, data.len(), bytes.len())?;
        bytes[range].copy_from_slice(&data);
        self.writes.fetch_add(1, Ordering::SeqCst);
        self.largest_write.fetch_max(data.len() as u64, Ordering::SeqCst);
        Ok(())
    }

    async fn flush(&self) -> Result<()> {
        self.check()?;
        self.flushes.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }

    async fn zero(&self, offset: u64, len: u64, trim: bool) -> Result<()> {
        self.check_write()?;
        let mut bytes = self.bytes.lock().unwrap();
        let range = range(offset, usize::try_from(len).unwrap(), bytes.len())?;
        bytes[range].fill(0);
        self.zeroed.lock().unwrap().push((offset, len, trim));
        Ok(())
    }
}

type Exported = (File, [u8; 16], Arc<MemoryVolume>);

/// A tree of volumes in memory. A directory is there for as long as a file is in it.
#[derive(Debug, Default)]
pub struct MemoryTree {
    files: Mutex<BTreeMap<String, Exported>>,
    pub stats: AtomicU64,
    /// Whether what isn't there is to come.
    pub expecting: AtomicBool,
}

impl MemoryTree {
    pub fn put(&self, file: File, identity: u8, volume: &Arc<MemoryVolume>) {
        self.files.lock().unwrap().insert(file.to_string(), (file, [identity; 16], Arc::clone(volume)));
    }

    pub fn remove(&self, file: &File) {
        self.files.lock().unwrap().remove(&file.to_string());
    }

    pub fn get(&self, file: &File) -> Result<([u8; 16], Arc<MemoryVolume>)> {
        let files = self.files.lock().unwrap();
        let found = files.get(&file.to_string()).map(|(_, identity, volume)| (*identity, Arc::clone(volume)));
        found.ok_or_else(|| EngineError::new(ErrorKind::NotFound, format!("no {file}")))
    }
}

pub fn volume(name: &str) -> File {
    File::Volume { volume: name.to_owned() }
}

pub fn point(group: &str, time: &str, name: &str) -> File {
    File::Point { group: group.to_owned(), time: time.to_owned(), volume: name.to_owned() }
}

pub fn branch(branch: &str, name: &str) -> File {
    File::Branch { branch: branch.to_owned(), volume: name.to_owned() }
}

#[async_trait]
impl ExportTree for MemoryTree {
    async fn list(&self, dir: &Dir) -> Result<Vec<String>> {
        let files = self.files.lock().unwrap();
        let name = |file: &File| match (dir, file) {
            (Dir::Volumes, File::Volume { volume }) => Some(volume.clone()),
            (Dir::Points, File::Point { group, .. }) => Some(group.clone()),
            (Dir::PointGroup { group: g }, File::Point { group, time, .. }) if g == group => Some(time.clone()),
            (Dir::Point { group: g, time: t }, File::Point { group, time, volume }) if g == group && t == time => {
                Some(volume.clone())
            }
            (Dir::Branches, File::Branch { branch, .. }) => Some(branch.clone()),
            (Dir::Branch { branch: b }, File::Branch { branch, volume }) if b == branch => Some(volume.clone()),
            _ => None,
        };
        Ok(files.values().filter_map(|(file, ..)| name(file)).collect::<BTreeSet<_>>().into_iter().collect())
    }

    async fn stat_dir(&self, dir: &Dir) -> Result<DirStat> {
        if self.list(dir).await?.is_empty() {
            return Err(EngineError::new(ErrorKind::NotFound, format!("no {dir}")));
        }
        Ok(DirStat { identity: [7; 16], modified: None })
    }

    async fn stat_file(&self, file: &File) -> Result<FileStat> {
        self.stats.fetch_add(1, Ordering::SeqCst);
        let (identity, volume) = self.get(file)?;
        Ok(FileStat { identity, size_bytes: volume.size_bytes(), read_only: volume.read_only(), modified: None })
    }

    async fn open(&self, file: &File) -> Result<Arc<dyn BlockVolume>> {
        Ok(self.get(file)?.1)
    }

    fn expects(&self, _file: &File) -> bool {
        self.expecting.load(Ordering::SeqCst)
    }

    fn space(&self) -> Space {
        Space { total_bytes: 1 << 30, free_bytes: 1 << 29 }
    }
}
