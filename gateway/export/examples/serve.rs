//! Serves one volume in memory for tools that exercise or measure a mount (fsx, fio), until it is unmounted or interrupted.
//!
//! `cargo run --release -p lifeboat-export --example serve -- DIR MIB [null]`: the file is `DIR/volumes/disk.img`. With `null`
//! the volume keeps nothing and answers at once: what is then measured is the price of the mount itself.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use lifeboat_engine::volume::BlockVolume;
use lifeboat_export::{Mount, MountOptions};
use support::MemoryVolume;
use volumes::{NullVolume, OneDisk};

#[path = "../tests/support/mod.rs"]
mod support;
#[path = "../benches/support/mod.rs"]
mod volumes;

#[tokio::main]
async fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let (Some(dir), Some(mib)) = (args.first(), args.get(1)) else {
        return Err("usage: serve DIR MIB [null]".into());
    };
    let size = mib.parse::<usize>()? << 20;
    let volume: Arc<dyn BlockVolume> = match args.get(2).map(String::as_str) {
        None => MemoryVolume::new(size),
        Some("null") => NullVolume::new(u64::try_from(size)?),
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
