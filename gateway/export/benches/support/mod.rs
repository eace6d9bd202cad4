//! Volumes to measure a mount with, and a tree of one disk.

#![allow(dead_code, unreachable_pub, reason = "each benchmark uses its own part")]
#![allow(clippy::unwrap_used, reason = "a benchmark that can't measure ends with a panic")]

use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use lifeboat_engine::error::{EngineError, ErrorKind, Result};
use lifeboat_engine::volume::BlockVolume;
use lifeboat_export::{Dir, DirStat, ExportTree, File, FileStat, Mount, MountOptions};

/// Reads as zeroes and forgets what is written: what is measured is the price of the mount itself.
#[derive(Debug)]
pub struct NullVolume {
    size: u64,
    zeroes: Bytes,
}

impl NullVolume {
    pub fn new(size: u64) -> Arc<Self> {
        Arc::new(Self { size, zeroes: vec![0; 1 << 20].into() })
    }
}

#[async_trait]
impl BlockVolume for NullVolume {
    fn size_bytes(&self) -> u64 {
        self.size
    }

    fn read_only(&self) -> bool {
        false
    }

    async fn read(&self, _: u64, len: u32) -> Result<Bytes> {
        Ok(self.zeroes.slice(..len as usize))
    }

    async fn write(&self, _: u64, _: Bytes) -> Result<()> {
        Ok(())
    }

    async fn flush(&self) -> Result<()> {
        Ok(())
    }

    async fn zero(&self, _: u64, _: u64, _: bool) -> Result<()> {
        Ok(())
    }
}

/// A plain file behind the same mount: pass-through.
#[derive(Debug)]
pub struct PlainVolume {
    size: u64,
    file: Arc<std::fs::File>,
}

impl PlainVolume {
    pub fn new(path: &Path) -> Arc<Self> {
        let file = std::fs::File::options().read(true).write(true).open(path).unwrap();
        Arc::new(Self { size: file.metadata().unwrap().len(), file: Arc::new(file) })
    }
}

#[async_trait]
impl BlockVolume for PlainVolume {
    fn size_bytes(&self) -> u64 {
        self.size
    }

    fn read_only(&self) -> bool {
        false
    }

    async fn read(&self, offset: u64, len: u32) -> Result<Bytes> {
        let mut data = BytesMut::zeroed(len as usize);
        self.file.read_exact_at(&mut data, offset).unwrap();
        Ok(data.freeze())
    }

    async fn write(&self, offset: u64, data: Bytes) -> Result<()> {
        self.file.write_all_at(&data, offset).unwrap();
        Ok(())
    }

    async fn flush(&self) -> Result<()> {
        let file = Arc::clone(&self.file);
        tokio::task::spawn_blocking(move || file.sync_data().unwrap()).await.unwrap();
        Ok(())
    }

    async fn zero(&self, _: u64, _: u64, _: bool) -> Result<()> {
        Ok(())
    }
}

/// `volumes/disk.img` and nothing else.
#[derive(Debug)]
pub struct OneDisk(pub Arc<dyn BlockVolume>);

impl OneDisk {
    fn get(&self, file: &File) -> Result<Arc<dyn BlockVolume>> {
        match file {
            File::Volume { volume } if volume == "disk" => Ok(Arc::clone(&self.0)),
            _ => Err(EngineError::new(ErrorKind::NotFound, format!("no {file}"))),
        }
    }
}

#[async_trait]
impl ExportTree for OneDisk {
    async fn list(&self, dir: &Dir) -> Result<Vec<String>> {
        Ok(if *dir == Dir::Volumes { vec!["disk".to_owned()] } else { Vec::new() })
    }

    async fn stat_dir(&self, dir: &Dir) -> Result<DirStat> {
        Err(EngineError::new(ErrorKind::NotFound, format!("no {dir}")))
    }

    async fn stat_file(&self, file: &File) -> Result<FileStat> {
        let volume = self.get(file)?;
        Ok(FileStat { identity: [1; 16], size_bytes: volume.size_bytes(), read_only: false, modified: None })
    }

    async fn open(&self, file: &File) -> Result<Arc<dyn BlockVolume>> {
        self.get(file)
    }
}

/// A mount of one disk, and its file.
pub async fn mounted(dir: &Path, disk: Arc<dyn BlockVolume>) -> (Mount, PathBuf) {
    let mount = Mount::start(dir, Arc::new(OneDisk(disk)), MountOptions::default()).await.unwrap();
    (mount, dir.join("volumes/disk.img"))
}

/// A loop device over a file.
pub struct Loop(pub PathBuf);

impl Loop {
    pub fn over(file: &Path) -> Self {
        let output = Command::new("losetup").args(["--find", "--show", "--direct-io=on"]).arg(file).output().unwrap();
        assert!(output.status.success(), "losetup: {}", String::from_utf8_lossy(&output.stderr));
        Self(PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()))
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").arg("-d").arg(&self.0).status();
    }
}
