//! Content of volumes, through their files.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Context, Result};

use crate::random::Random;

/// Writes incompressible content into `blocks` blocks of 4 KiB spread over the file, the same for the same seed, and
/// flushes it.
///
/// # Errors
/// When the file can't be opened or written.
pub fn scribble(path: &Path, seed: u64, blocks: u64) -> Result<()> {
    let file = File::options().write(true).open(path).with_context(|| format!("open {}", path.display()))?;
    let total = file.metadata().context("size of the volume")?.len() / 4096;
    let mut random = Random(seed);
    for _ in 0..blocks {
        let lba = random.below(total);
        let bytes: Vec<u8> = (0..512).flat_map(|_| random.number().to_le_bytes()).collect();
        file.write_all_at(&bytes, lba * 4096).with_context(|| format!("write block {lba}"))?;
    }
    file.sync_data().context("flush the volume")
}

/// All of a volume.
///
/// # Errors
/// When the file can't be read.
pub fn content(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("read {}", path.display()))
}
