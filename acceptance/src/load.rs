//! An application that writes numbered blocks, so that every write that it was promised can be looked for afterwards.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::content::content;
use crate::eventually;

/// Of the disk that it writes on, in bytes.
pub const SIZE: u64 = 16 << 20;
const BLOCKS: u64 = SIZE / 4096;
const GOES_ON_WITHIN: Duration = Duration::from_secs(120);

/// An application: numbered blocks one after the other, each synced before the next, over a whole disk of [`SIZE`] again and again.
#[derive(Debug)]
pub struct Load {
    stop: Arc<AtomicBool>,
    last: Arc<AtomicU64>,
    writing: Option<JoinHandle<()>>,
}

impl Load {
    /// Begins after block `after`; ends by itself when a write fails.
    ///
    /// # Errors
    /// The disk doesn't open for writing.
    pub fn start(path: &Path, after: u64) -> Result<Self> {
        let file = File::options().write(true).open(path).with_context(|| format!("open {}", path.display()))?;
        let (stop, last) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(after)));
        let writing = {
            let (stop, last) = (Arc::clone(&stop), Arc::clone(&last));
            std::thread::spawn(move || {
                let mut number = after + 1;
                while !stop.load(Ordering::SeqCst) {
                    let written = file.write_all_at(&numbered(number), number % BLOCKS * 4096);
                    if written.and_then(|()| file.sync_data()).is_err() {
                        return;
                    }
                    last.store(number, Ordering::SeqCst);
                    number += 1;
                }
            })
        };
        Ok(Self { stop, last, writing: Some(writing) })
    }

    /// Waits for some more writes.
    ///
    /// # Errors
    /// None come.
    pub fn goes_on(&self) -> Result<()> {
        let before = self.last.load(Ordering::SeqCst);
        eventually("the application to write on", GOES_ON_WITHIN, || {
            Ok((self.last.load(Ordering::SeqCst) > before + 20).then_some(()))
        })
    }

    /// Ends it: the last write that was acknowledged.
    ///
    /// # Panics
    /// It did.
    #[must_use]
    pub fn end(mut self) -> u64 {
        self.stop.store(true, Ordering::SeqCst);
        if let Some(writing) = self.writing.take() {
            writing.join().expect("it doesn't panic");
        }
        self.last.load(Ordering::SeqCst)
    }
}

fn numbered(number: u64) -> [u8; 4096] {
    let mut block = [0x5a; 4096];
    block[..8].copy_from_slice(&number.to_le_bytes());
    block
}

/// Whether a disk has every one of the last writes up to `last`.
///
/// # Errors
/// It hasn't, or can't be read.
pub fn holds(path: &Path, last: u64) -> Result<()> {
    let found = content(path)?;
    // The one that was being written at the end may be there too, in place of the oldest.
    for number in last.saturating_sub(BLOCKS - 2).max(1)..=last {
        let at = usize::try_from(number % BLOCKS * 4096)?;
        let there = found.get(at..at + 4096).is_some_and(|block| block == numbered(number));
        ensure!(there, "write {number} of {last} is not in {}", path.display());
    }
    Ok(())
}
