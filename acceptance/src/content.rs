//! Content of volumes, through their files.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Context, Result};

/// Writes incompressible content into `blocks` blocks of 4 KiB spread over the file, the same for the same seed, and
/// flushes it.
///
/// # Errors
/// When the file can't be opened or written.
pub fn scribble(path: &Path, seed: u64, blocks: u64) -> Result<()> {
    let file = File::options().write(true).open(path).with_context(|| format!("open {}", path.display()))?;
    let total = file.metadata().context("size of the volume")?.len() / 4096;
    let mut state = seed;
    let mut random = move || {
        // splitmix64: small, and the same everywhere.
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    };
    for _ in 0..blocks {
        let lba = random() % total;
        let bytes: Vec<u8> = (0..512).flat_map(|_| random().to_le_bytes()).collect();
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
