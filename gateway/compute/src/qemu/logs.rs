//! What machines and QEMU say, in files that only grow: their ends, and giving their heads back to the disk.

use std::fs;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

use super::process::LOG;

/// What is kept of a console and of a log.
pub(super) const KEPT_BYTES: u64 = 8 << 20;

/// The end of QEMU's log in one line.
pub(super) fn last_words(run: &Path) -> String {
    let said = tail(&run.join(LOG), 4 << 10).unwrap_or_default();
    let said = String::from_utf8_lossy(&said);
    let lines: Vec<&str> = said.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let last = lines.get(lines.len().saturating_sub(3)..).unwrap_or_default();
    if last.is_empty() { "QEMU said nothing".to_owned() } else { last.join("; ") }
}

pub(super) fn tail(path: &Path, last: u64) -> io::Result<Vec<u8>> {
    let mut file = fs::File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(last)))?;
    let mut bytes = Vec::new();
    file.take(last).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Gives the head of a long log back to the disk. QEMU appends, so the length goes on growing and means nothing.
pub(super) fn bound(path: &Path) {
    let Ok(file) = fs::OpenOptions::new().write(true).open(path) else { return };
    let length = file.metadata().map_or(0, |metadata| metadata.len());
    if length > 2 * KEPT_BYTES {
        let mode = rustix::fs::FallocateFlags::PUNCH_HOLE | rustix::fs::FallocateFlags::KEEP_SIZE;
        if rustix::fs::fallocate(&file, mode, 0, length - KEPT_BYTES).is_err() {
            // A file system without holes: its tail goes too.
            let _ = file.set_len(0);
        }
    }
}
