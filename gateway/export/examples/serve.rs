//! Serves one volume in memory for tools that exercise or measure a mount (fsx, fio), until it is unmounted or interrupted.
//!
//! `cargo run --release -p lifeboat-export --example serve -- DIR MIB [null]`: the file is `DIR/volumes/disk.img`. With `null`
//! the volume keeps nothing and answers at once: what is then measured is the price of the mount itself.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use lifeboat_engine::error::{EngineError, ErrorKind, Result};
use lifeboat_engine::volume::BlockVolume;
use lifeboat_export::{Dir, DirStat, ExportTree, File, FileStat, Mount, MountOptions};
use support::MemoryVolume;

#[path = "../tests/support/mod.rs"]
mod support;

/// Reads as zeroes and forgets what is written.
#[derive(Debug)]
struct NullVolume {
    size: u64,
    zeroes: Bytes,
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

/// `volumes/disk.img` and nothing else.
#[derive(Debug)]
struct OneDisk(Arc<dyn BlockVolume>);

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

#[tokio::main]
async fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let (Some(dir), Some(mib)) = (args.first(), args.get(1)) else {
        return Err("usage: serve DIR MIB [null]".into());
    };
    let size = mib.parse::<usize>()? << 20;
    let volume: Arc<dyn BlockVolume> = match args.get(2).map(String::as_str) {
        None => MemoryVolume::new(size),
        Some("null") => Arc::new(NullVolume { size: u64::try_from(size)?, zeroes: vec![0; 1 << 20].into() }),
        Some(other) => return Err(format!("unknown kind of volume: {other}").into()),
    };
    let mount = Mount::start(&PathBuf::from(dir), Arc::new(OneDisk(volume)), MountOptions::default()).await?;
    eprintln!("serving {}", mount.path().join("volumes/disk.img").display());
    tokio::select! {
        () = mount.ended() => {}
        interrupted = tokio::signal::ctrl_c() => interrupted?,
    }
    mount.unmount(Duration::from_secs(5)).await;
    Ok(())
}
