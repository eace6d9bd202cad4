//! What the benchmarks of the engine and of the mount have in common: the report, rigs, and a store that waits.

#![allow(dead_code, unreachable_pub, reason = "each benchmark uses its own part")]
#![allow(clippy::unwrap_used, reason = "a benchmark that can't measure ends with a panic")]

pub mod fio;
pub mod log;
pub mod report;
pub mod rig;
pub mod store;

use std::time::Duration;

#[allow(unused_imports, reason = "each benchmark uses its own part")]
pub use report::{Report, Row, median, rounds, row, timed, wanted};

/// A directory on the build directory's disk, which is a real one; /tmp may be memory.
pub fn scratch() -> tempfile::TempDir {
    tempfile::Builder::new().prefix("bench-").tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

/// The figure below which so much of all lies.
pub fn quantile(figures: &[f64], part: f64) -> f64 {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss, reason = "an index")]
    let at = ((sorted.len() as f64 * part).ceil() as usize).clamp(1, sorted.len().max(1)) - 1;
    sorted.get(at).copied().unwrap_or(f64::NAN)
}

/// Bytes over time, in MiB a second.
pub fn mib_per_second(bytes: u64, time: Duration) -> f64 {
    mib(bytes) / time.as_secs_f64()
}

#[allow(clippy::cast_precision_loss, reason = "a figure to print")]
pub fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// Data as disks hold it: compressible about as text and code are, no two blocks alike.
pub fn disk_like(seed: u64, blocks: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let words: Vec<[u8; 8]> = (0..512_u64).map(|word| (word * 0x0101_0307_1115_2329).to_le_bytes()).collect();
    let mut data = Vec::with_capacity(blocks * 4096);
    while data.len() < blocks * 4096 {
        let draw = next();
        if draw % 3 == 0 {
            data.extend_from_slice(&next().to_le_bytes());
        } else {
            data.extend_from_slice(&words[usize::try_from(draw >> 32).unwrap() % words.len()]);
        }
    }
    data
}
