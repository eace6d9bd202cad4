//! Volumes under writes whose every loss shows: numbered blocks, and a model of what has to be there.
//!
//! One writer writes block after block, here and there in all of its volumes; each block names the volume, its address and
//! the number of the write. The [`History`] notes which writes were acknowledged. A copy of the volumes is held against it: each
//! block has to be of the last acknowledged write to it, or of one after it whose outcome nobody was told. What was lost by intention is
//! forgotten ([`History::forget_after`]), and its numbers are never used again, so that it shows if it comes back.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::eventually;

const BLOCK: usize = 4096;
/// Between two writes: enough of them to matter, few enough to leave the processors to others.
const PACE: Duration = Duration::from_millis(4);
/// Between two tries to write where it is refused.
const REFUSED: Duration = Duration::from_millis(40);

/// A block: which volume, and which of its blocks.
type Place = (usize, u64);

#[derive(Clone, Copy, Debug)]
struct Write {
    number: u64,
    place: Place,
    acknowledged: bool,
}

/// Every write that counts, in the order in which they were made.
#[derive(Clone, Debug, Default)]
pub struct History {
    writes: Vec<Write>,
}

impl History {
    /// The last acknowledged write; 0 when there is none.
    #[must_use]
    pub fn last(&self) -> u64 {
        self.writes.iter().rev().find(|write| write.acknowledged).map_or(0, |write| write.number)
    }

    /// Writes after this one are lost and may not come back.
    pub fn forget_after(&mut self, number: u64) {
        self.writes.retain(|write| write.number <= number);
    }

    /// Holds the volumes against it, and takes what they say for the outcome of writes that nobody was told of.
    ///
    /// # Errors
    /// A block is not of a write that it may be of.
    pub fn check(&mut self, volumes: &[Vec<u8>]) -> Result<()> {
        let mut may: BTreeMap<Place, Vec<u64>> = BTreeMap::new();
        for write in &self.writes {
            let numbers = may.entry(write.place).or_insert_with(|| vec![0]);
            if write.acknowledged {
                numbers.clear();
            }
            numbers.push(write.number);
        }
        let mut found = Vec::new();
        let mut wrong = Vec::new();
        for (place, number) in stamps(volumes)? {
            let allowed = may.get(&place).map_or(&[0][..], Vec::as_slice);
            if !allowed.contains(&number) {
                wrong.push(format!("block {} of volume {} is of write {number}, not of {allowed:?}", place.1, place.0));
            }
            if number > 0 {
                found.push(Write { number, place, acknowledged: true });
            }
        }
        let last = self.last();
        ensure!(wrong.is_empty(), "{} blocks are wrong, {last} was the last write: {}", wrong.len(), wrong.join("; "));
        found.sort_by_key(|write| write.number);
        self.writes = found;
        Ok(())
    }

    /// Finds out up to which write the volumes go, forgets what comes after, and holds them against that. They have to be what
    /// they were at one moment, not before write `at_least`.
    ///
    /// # Errors
    /// They go less far, or are of no one moment.
    pub fn check_prefix(&mut self, volumes: &[Vec<u8>], at_least: u64) -> Result<()> {
        let last = stamps(volumes)?.into_iter().map(|(_, number)| number).max().unwrap_or(0);
        ensure!(last >= at_least, "the volumes go up to write {last}, and {at_least} was safe");
        self.forget_after(last);
        self.check(volumes)
    }
}

/// The writes that the blocks are of; 0 for one that is empty.
fn stamps(volumes: &[Vec<u8>]) -> Result<Vec<(Place, u64)>> {
    let mut found = Vec::new();
    for (volume, content) in volumes.iter().enumerate() {
        for (lba, bytes) in (0..).zip(content.chunks(BLOCK)) {
            let number = bytes.get(16..24).and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_le_bytes);
            let place = (volume, lba);
            ensure!(
                bytes == if number == 0 { vec![0; BLOCK] } else { block(place, number) },
                "block {lba} of volume {volume} is of no write at all: it begins with {:?}",
                bytes.get(..24)
            );
            found.push((place, number));
        }
    }
    Ok(found)
}

fn block((volume, lba): Place, number: u64) -> Vec<u8> {
    let stamp = [volume as u64, lba, number, number.wrapping_mul(0x9e37_79b9_7f4a_7c15)];
    let stamp: Vec<u8> = stamp.into_iter().flat_map(u64::to_le_bytes).collect();
    stamp.repeat(BLOCK / stamp.len())
}

#[derive(Debug, Default)]
struct State {
    history: History,
    /// Where it writes; nowhere for now when there is nothing.
    files: Vec<PathBuf>,
    /// Raised when that changes.
    turn: u64,
    /// A write is under way.
    busy: bool,
    next: u64,
    ended: bool,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes for as long as it has somewhere to; where it is refused it tries again, as an application would.
#[derive(Debug)]
pub struct Writer {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    /// Starts it, with nowhere to write yet.
    ///
    /// # Errors
    /// There is no thread for it.
    pub fn start() -> Result<Self> {
        let shared = Arc::new(Shared::default());
        shared.lock().next = 1;
        let mine = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("stamps".into()).spawn(move || write(&mine));
        Ok(Self { shared, thread: Some(thread.context("start a writer")?) })
    }

    /// Writes here from now on.
    pub fn resume(&self, files: &[PathBuf]) {
        let mut state = self.shared.lock();
        state.files = files.to_vec();
        state.turn += 1;
        self.shared.changed.notify_all();
    }

    /// Waits until the write under way is over and no other begins.
    ///
    /// # Errors
    /// A write hangs.
    pub fn pause(&self) -> Result<()> {
        self.resume(&[]);
        eventually("the write under way to be over", Duration::from_secs(60), || {
            Ok((!self.shared.lock().busy).then_some(()))
        })
    }

    /// Waits until so many more writes are acknowledged.
    ///
    /// # Errors
    /// They aren't.
    pub fn write(&self, more: u64) -> Result<()> {
        let until = self.shared.lock().history.last() + more;
        eventually(&format!("write {until}"), Duration::from_secs(60), || {
            Ok((self.shared.lock().history.last() >= until).then_some(()))
        })
    }

    /// A copy of what was written so far.
    #[must_use]
    pub fn history(&self) -> History {
        self.shared.lock().history.clone()
    }

    /// Goes on from another history, such as that of a point, or one that was checked.
    ///
    /// # Errors
    /// It isn't paused.
    pub fn go_on_from(&self, history: History) -> Result<()> {
        let mut state = self.shared.lock();
        if state.busy || !state.files.is_empty() {
            bail!("the writer isn't paused");
        }
        state.history = history;
        Ok(())
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.shared.lock().ended = true;
        self.shared.changed.notify_all();
        // A write may hang in a mount that goes only after this: it isn't waited for then.
        let over = eventually("the writer to end", Duration::from_secs(5), || {
            Ok(self.thread.as_ref().is_none_or(JoinHandle::is_finished).then_some(()))
        });
        if let Some(thread) = self.thread.take()
            && over.is_ok()
        {
            let _ = thread.join();
        }
    }
}

/// Files that are open, and their lengths in blocks.
type Open = Vec<(File, u64)>;

fn open(files: &[PathBuf]) -> std::io::Result<Open> {
    files
        .iter()
        .map(|path| {
            let file = File::options().write(true).open(path)?;
            let blocks = file.metadata()?.len() / BLOCK as u64;
            Ok((file, blocks))
        })
        .collect()
}

fn write(shared: &Shared) {
    let mut opened: Option<(u64, Open)> = None;
    loop {
        let (turn, files) = {
            let mut state = shared.lock();
            while state.files.is_empty() && !state.ended {
                opened = None;
                state = shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            if state.ended {
                return;
            }
            state.busy = true;
            (state.turn, state.files.clone())
        };
        if opened.as_ref().is_none_or(|(of, _)| *of != turn) {
            opened = open(&files).ok().map(|files| (turn, files));
        }
        let written = opened.as_ref().is_some_and(|(_, files)| write_one(shared, files));
        if !written {
            opened = None;
        }
        shared.lock().busy = false;
        std::thread::sleep(if written { PACE } else { REFUSED });
    }
}

/// Writes the next block; whether that was acknowledged.
fn write_one(shared: &Shared, files: &Open) -> bool {
    let (place, number) = {
        let mut state = shared.lock();
        let number = state.next;
        state.next += 1;
        let spread = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 16;
        let volume = usize::try_from(spread % files.len() as u64).unwrap_or(0);
        let Some((_, blocks)) = files.get(volume) else { return false };
        let place = (volume, (spread >> 8) % blocks.max(&1));
        state.history.writes.push(Write { number, place, acknowledged: false });
        (place, number)
    };
    let Some((file, _)) = files.get(place.0) else { return false };
    let done = file.write_all_at(&block(place, number), place.1 * BLOCK as u64).is_ok();
    // Now and then a flush, whose failure makes no write undone.
    let flushed = !done || number % 32 != 0 || file.sync_data().is_ok();
    let mut state = shared.lock();
    if let Some(write) = state.history.writes.last_mut() {
        write.acknowledged = done;
    }
    done && flushed
}

#[cfg(test)]
mod tests {
    use super::*;

    fn volumes(dir: &std::path::Path) -> Vec<PathBuf> {
        ["a", "b"]
            .map(|name| {
                let path = dir.join(name);
                File::create(&path).unwrap().set_len(1 << 20).unwrap();
                path
            })
            .to_vec()
    }

    fn read(files: &[PathBuf]) -> Vec<Vec<u8>> {
        files.iter().map(|path| std::fs::read(path).unwrap()).collect()
    }

    #[test]
    fn what_was_acknowledged_is_missed_when_it_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let files = volumes(dir.path());
        let writer = Writer::start().unwrap();
        writer.resume(&files);
        writer.write(30).unwrap();
        writer.pause().unwrap();
        let (early, known) = (read(&files), writer.history());
        writer.resume(&files);
        writer.write(30).unwrap();
        writer.pause().unwrap();
        let late = read(&files);
        let mut history = writer.history();
        history.clone().check(&late).unwrap();
        history.clone().check(&early).unwrap_err();
        // An older copy is a moment, and too old if more was safe.
        history.clone().check_prefix(&early, known.last()).unwrap();
        history.clone().check_prefix(&early, known.last() + 1).unwrap_err();
        // What is half old and half new is of no moment.
        history.clone().check_prefix(&[early[0].clone(), late[1].clone()], 0).unwrap_err();
        // What was given up may not be there.
        history.forget_after(known.last());
        history.check(&late).unwrap_err();
    }

    #[test]
    fn a_block_of_another_place_is_found() {
        let history = History::default();
        let volume = [block((0, 1), 7), vec![0; BLOCK]].concat();
        let error = history.clone().check(&[volume]).unwrap_err();
        assert!(error.to_string().contains("of no write at all"), "{error}");
    }
}
