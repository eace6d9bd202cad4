//! What the vault lacks: collapsing the unshipped part of the journal, and copying it later at its place in the write order.
//!
//! ```text
//! collapse   C := newest record, durable ─> extents of (shipped, C] join the dirty map ─> map saved ─> state saved ─> space
//! copy       watch blocks ─> read them ─> COPY record of what nobody wrote meanwhile ─> they leave the map
//! ```
//! **Exactness.** Every record of a block that is ordered after C ships. So a dirty block is made good either by a COPY, which
//! holds what the block held at the COPY's own place in the order, or by any other record that covers it. The blocks
//! under way are watched: what is written while they are read is left out of the COPY, which no lock for writers could do
//! better.
//!
//! **Points.** A point is consistent only if no block is dirty at the moment in which it gets its place. That is decided under
//! `core`, as is every change of the map, and stands in the journal.
//!
//! **Crashes.** A block leaves the map in memory at once, and the map on disk only after the record is durable that brings it.
//! The state names C only after a map is durable that holds all of (shipped, C], and the space is given back only after that:
//! in between, the records are still there, and the map names more than it needs to.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bytes::Bytes;
use lifeboat_model::{BLOCK_SIZE, BLOCK_SIZE_U64, Extent, ExtentSet, Lsn, VOLUME_BLOCKS_MAX, VolumeId};

use super::{Ack, Piece, Submitted, WritePath};
use crate::dirty::{DirtyFile, DirtyMap};
use crate::error::{EngineError, ErrorKind, Result};
use crate::journal::ReadHint;
use crate::record::{LogRecord, Op};

#[cfg(test)]
mod tests;

/// What the vault lacks, as `core` guards it.
#[derive(Debug, Default)]
pub(super) struct Missing {
    dirty: DirtyMap,
    collapsed: Lsn,
    /// Sizes of the volumes at `collapsed`.
    sizes: BTreeMap<VolumeId, u64>,
    /// The journal is being looked through: whatever comes next comes after records that won't ship.
    collapsing: bool,
    watch: Option<Watch>,
    /// Dirty blocks in the map on disk.
    saved_blocks: u64,
}

/// Blocks that are being read to be copied.
#[derive(Debug)]
struct Watch {
    volume: VolumeId,
    extent: Extent,
    /// Those among them that a record has brought since.
    brought: ExtentSet,
}

impl Missing {
    /// Whether a point would be consistent.
    pub(super) fn is_empty(&self) -> bool {
        self.dirty.is_empty() && !self.collapsing
    }

    pub(super) fn blocks(&self) -> u64 {
        self.dirty.blocks()
    }

    pub(super) const fn collapsed(&self) -> Lsn {
        self.collapsed
    }

    /// A record brings these blocks.
    pub(super) fn brought(&mut self, volume: VolumeId, extent: Extent) {
        if !self.dirty.is_empty() {
            self.dirty.remove(volume, extent);
        }
        if let Some(watch) = self.watch.as_mut().filter(|watch| watch.volume == volume) {
            let lba = extent.lba.max(watch.extent.lba);
            let end = extent.end().min(watch.extent.end());
            watch.brought.insert(Extent { lba, blocks: end.saturating_sub(lba) });
        }
    }

    pub(super) fn forget(&mut self, volume: VolumeId) {
        self.dirty.remove_volume(volume);
        self.sizes.remove(&volume);
        if self.watch.as_ref().is_some_and(|watch| watch.volume == volume) {
            self.watch = None;
        }
    }
}

/// What one step of a copy came to.
#[derive(Debug)]
pub enum CopyStep {
    /// A record was placed; there may be more to place.
    Copied(Lsn, u64, Ack),
    /// No room just now: wait for [`WritePath::room`], then go on.
    Wait,
    /// Every block that was watched has been brought, by this or another record.
    Done,
}

/// Records read back for the vault.
#[derive(Debug, Default)]
pub struct LogChunk {
    /// The records; the first may lie behind a gap.
    pub records: Vec<LogRecord>,
    /// Behind a gap: the least sizes of the volumes there, blocks.
    pub sizes: Vec<(VolumeId, u64)>,
}

impl WritePath {
    /// Takes up the dirty map again after a restart. `collapsed`: what the group's state says of a resync.
    ///
    /// True when the state says that there is a resync and the map is lost: then every block counts as dirty.
    ///
    /// # Errors
    /// `NewerFormat`, what the disk says.
    pub fn restore_dirty(&self, collapsed: Option<Lsn>) -> Result<bool> {
        let mut file = self.dirty.lock();
        let saved = file.load()?;
        let Some(collapsed) = collapsed else { return Ok(false) };
        let mut core = self.core.lock();
        let whole: Vec<(VolumeId, u64)> = core.volumes.iter().map(|(id, entry)| (*id, entry.image.blocks())).collect();
        let found = saved.filter(|saved| saved.collapsed >= collapsed);
        let lost = found.is_none();
        let mut found = found.unwrap_or_default();
        if lost {
            whole.iter().for_each(|(id, blocks)| found.dirty.insert(*id, Extent { lba: 0, blocks: *blocks }));
            found.sizes = whole.iter().copied().collect();
        }
        let gone: Vec<VolumeId> =
            found.dirty.volumes().map(|(id, _)| id).filter(|id| !core.volumes.contains_key(id)).collect();
        gone.into_iter().for_each(|id| found.dirty.remove_volume(id));
        found.sizes.retain(|id, _| core.volumes.contains_key(id));
        core.missing.saved_blocks = found.dirty.blocks();
        core.missing.dirty = found.dirty;
        core.missing.collapsed = collapsed;
        core.missing.sizes = found.sizes;
        Ok(lost)
    }

    /// Gives up everything up to the newest record, but for what the vault has (`shipped`), as a log: its blocks
    /// join the dirty map. `save` makes the group's state say so, with the number of dirty blocks; after it, the space of
    /// those records may be given back once the images hold them. Returns the newest record given up.
    ///
    /// # Errors
    /// What the disk says, and what `save` does: then nothing was given up.
    pub fn collapse(&self, shipped: Lsn, save: &mut dyn FnMut(Lsn, u64) -> Result<()>) -> Result<Lsn> {
        let mut file = self.dirty.lock();
        let (upto, from, dirty, sizes) = {
            let mut core = self.core.lock();
            core.refuse_poisoned(self)?;
            core.missing.collapsing = true;
            let sizes = core.volumes.iter().map(|(id, entry)| (*id, entry.image.blocks())).collect();
            (core.next.previous(), shipped.max(core.missing.collapsed), core.missing.dirty.clone(), sizes)
        };
        let done = self.collapse_upto(&mut file, (from, upto), dirty, &sizes, save);
        let mut core = self.core.lock();
        core.missing.collapsing = false;
        let dirty = done?;
        // Blocks that were brought since are in it again: copied once more, they hold the same.
        core.missing.saved_blocks = dirty.blocks();
        core.missing.dirty = dirty;
        core.missing.collapsed = upto;
        core.missing.sizes = sizes;
        Ok(upto)
    }

    fn collapse_upto(
        &self,
        file: &mut DirtyFile,
        (from, upto): (Lsn, Lsn),
        mut dirty: DirtyMap,
        sizes: &BTreeMap<VolumeId, u64>,
        save: &mut dyn FnMut(Lsn, u64) -> Result<()>,
    ) -> Result<DirtyMap> {
        self.make_durable(upto)?;
        if from < upto {
            // Records of volumes that are gone bring nothing that anybody could copy.
            self.reader(from).each_extent(from, upto, &mut |volume, extent| {
                if sizes.contains_key(&volume) {
                    dirty.insert(volume, extent);
                }
            })?;
        }
        file.save(&dirty, upto, sizes)?;
        save(upto, dirty.blocks())?;
        Ok(dirty)
    }

    /// Marks blocks that the vault lacks for another reason. `save` makes the group's state say so, with the number of dirty
    /// blocks. Blocks of volumes that are about to be added may be among them.
    ///
    /// # Errors
    /// What the disk says, and what `save` does: then nothing was marked.
    pub fn mark_dirty(&self, add: &DirtyMap, save: &mut dyn FnMut(u64) -> Result<()>) -> Result<()> {
        let mut file = self.dirty.lock();
        let (mut dirty, collapsed, sizes, upto) = self.map_to_save()?;
        self.make_durable(upto)?;
        dirty.merge(add);
        file.save(&dirty, collapsed, &sizes)?;
        save(dirty.blocks())?;
        let mut core = self.core.lock();
        core.missing.saved_blocks = dirty.blocks();
        core.missing.dirty.merge(add);
        Ok(())
    }

    /// Brings the map on disk up to date, so that a restart copies less again. Gives the number of dirty blocks in it.
    ///
    /// # Errors
    /// What the disk says.
    pub fn save_dirty(&self) -> Result<u64> {
        let mut file = self.dirty.lock();
        let (dirty, collapsed, sizes, upto) = self.map_to_save()?;
        // A record that took blocks out of the map must not be lost once the map on disk lacks them.
        self.make_durable(upto)?;
        file.save(&dirty, collapsed, &sizes)?;
        self.core.lock().missing.saved_blocks = dirty.blocks();
        Ok(dirty.blocks())
    }

    fn map_to_save(&self) -> Result<(DirtyMap, Lsn, BTreeMap<VolumeId, u64>, Lsn)> {
        let core = self.core.lock();
        core.refuse_poisoned(self)?;
        let Missing { dirty, collapsed, sizes, .. } = &core.missing;
        Ok((dirty.clone(), *collapsed, sizes.clone(), core.next.previous()))
    }

    /// Dirty blocks in the map on disk: where a restart would go on.
    pub fn saved_dirty_blocks(&self) -> u64 {
        self.core.lock().missing.saved_blocks
    }

    /// Ends the resync if nothing is dirty and the vault has everything up to `landed`, a consistent point; `save`
    /// makes the state say so. True when it ended.
    ///
    /// # Errors
    /// What the disk says, and what `save` does.
    pub fn finish_resync(&self, landed: Lsn, save: &mut dyn FnMut() -> Result<()>) -> Result<bool> {
        let mut file = self.dirty.lock();
        let upto = {
            let core = self.core.lock();
            core.refuse_poisoned(self)?;
            if !core.missing.is_empty() || landed <= core.missing.collapsed {
                return Ok(false);
            }
            core.next.previous()
        };
        self.make_durable(upto)?;
        save()?;
        // A crash before this leaves files that nobody asks for.
        file.remove()?;
        Ok(true)
    }

    /// Dirty blocks of each volume.
    pub fn dirty(&self) -> DirtyMap {
        self.core.lock().missing.dirty.clone()
    }

    /// The same as the map on disk has it: more of them, and also those that only records brought which are not durable.
    ///
    /// # Errors
    /// `NewerFormat`, what the disk says.
    pub fn dirty_on_disk(&self) -> Result<DirtyMap> {
        Ok(self.dirty.lock().load()?.unwrap_or_default().dirty)
    }

    /// Whether a point placed now would be consistent.
    pub fn is_complete(&self) -> bool {
        self.core.lock().missing.is_empty()
    }

    /// Records up to here that were not shipped are no longer needed.
    pub fn collapsed(&self) -> Lsn {
        self.core.lock().missing.collapsed
    }

    /// The next dirty blocks from there on, at most `blocks`, within the volume; watched from now on: read them, then
    /// [`WritePath::copy`]. Only one run is watched at a time.
    pub fn watch_dirty(&self, from: (VolumeId, u64), blocks: u64) -> Option<(VolumeId, Extent)> {
        let mut core = self.core.lock();
        let mut from = from;
        loop {
            let (volume, mut extent) = core.missing.dirty.next(from, blocks)?;
            let size = core.volumes.get(&volume).map_or(0, |entry| entry.image.blocks());
            if size == 0 {
                // Its introduction is still to come.
                from = (volume, VOLUME_BLOCKS_MAX);
                continue;
            }
            if extent.lba >= size {
                // A coarse map reaches past the end.
                core.missing.dirty.remove(volume, Extent { lba: size, blocks: u64::MAX - size });
                from = (volume, extent.end());
                continue;
            }
            extent.blocks = extent.blocks.min(size - extent.lba);
            core.missing.watch = Some(Watch { volume, extent, brought: ExtentSet::new() });
            return Some((volume, extent));
        }
    }

    /// What a branch volume does not have here is what its origin has: the vault lacks nothing of it.
    pub fn brought(&self, volume: VolumeId, extent: Extent) {
        self.core.lock().missing.brought(volume, extent);
    }

    /// Places a record with the next run of watched blocks that nobody has brought; `content` is that of all of them.
    ///
    /// # Errors
    /// As [`WritePath::submit_control`].
    pub fn copy(&self, content: &[u8]) -> Result<CopyStep> {
        let mut core = self.core.lock();
        core.refuse_poisoned(self)?;
        let Some(watch) = core.missing.watch.as_ref() else { return Ok(CopyStep::Done) };
        let (volume, extent) = (watch.volume, watch.extent);
        let Some(run) = next_run(watch, content, self.limits.record_bytes_max()) else {
            core.missing.watch = None;
            return Ok(CopyStep::Done);
        };
        let bytes = &content[bytes_of(run.lba - extent.lba)..][..bytes_of(run.blocks)];
        let data = (!is_zero(bytes)).then(|| Bytes::copy_from_slice(bytes));
        let blocks = run.blocks;
        match self.place(core, &Op::Copy { volume, extent: run, data })? {
            Submitted::Accepted(lsn, ack) => Ok(CopyStep::Copied(lsn, blocks, ack)),
            Submitted::Wait => Ok(CopyStep::Wait),
        }
    }

    /// Reads records after `after` back, up to `upto`; behind the gap of a collapse, from where the log goes on.
    ///
    /// # Errors
    /// `Damaged` when a record that was acknowledged can't be read.
    pub fn read_log(&self, after: Lsn, upto: Lsn, max_bytes: usize, hint: &mut Option<ReadHint>) -> Result<LogChunk> {
        let _no_reclaim = self.reading.lock();
        let (collapsed, sizes) = {
            let core = self.core.lock();
            (core.missing.collapsed, core.missing.sizes.clone())
        };
        let mut chunk = LogChunk::default();
        if after < collapsed {
            chunk.sizes = sizes.into_iter().collect();
        }
        let after = after.max(collapsed);
        if after < upto {
            chunk.records = self.reader(after).read(after, upto, max_bytes, hint)?;
        }
        Ok(chunk)
    }

    /// How long a writer of so many bytes is to wait before its next write, so that the journal does not fill all at once.
    pub fn pause(&self, now: Instant, bytes: u64) -> Duration {
        let mut core = self.core.lock();
        let used = core.journal_bytes + core.queued_bytes;
        core.throttle.wait(now, bytes, used, self.limits.journal.limit_bytes)
    }

    /// Share of the journal's limit that is used, percent.
    pub fn journal_percent(&self) -> u64 {
        self.core.lock().journal_percent(&self.limits)
    }

    /// Whether writers wait for room that only the vault could make.
    pub fn journal_is_full(&self) -> bool {
        let core = self.core.lock();
        core.journal_full.as_ref().is_some_and(|note| note.kind == ErrorKind::Retry)
    }

    /// Content of whole blocks that are here: what the overlay and the image hold. Blocks that a branch has not fetched stay
    /// zero in `out`, and are given back.
    ///
    /// # Errors
    /// `NotFound` for an unknown volume, `Damaged` when the disk fails.
    pub fn read_here(&self, volume: VolumeId, extent: Extent, out: &mut [u8]) -> Result<Vec<Extent>> {
        if out.len() != bytes_of(extent.blocks) {
            return Err(EngineError::new(ErrorKind::Invalid, "a buffer of another length than the blocks"));
        }
        let (image, pieces) = self.locate(volume, extent)?;
        let mut absent = Vec::new();
        for piece in pieces {
            match piece {
                Piece::Memory(part, Some(data)) => slice(out, extent, part).copy_from_slice(&data),
                Piece::Memory(part, None) => slice(out, extent, part).fill(0),
                Piece::Image(part) => image.read(part.lba, slice(out, extent, part))?,
                Piece::Absent(part) => absent.push(part),
            }
        }
        Ok(absent)
    }
}

/// The first run of watched blocks that nobody brought, all of them zero or none, and no longer than a record.
fn next_run(watch: &Watch, content: &[u8], record_bytes_max: usize) -> Option<Extent> {
    let first = (watch.extent.lba..watch.extent.end()).find(|lba| !watch.brought.contains(*lba))?;
    let block = |lba: u64| &content[bytes_of(lba - watch.extent.lba)..][..BLOCK_SIZE];
    let zero = is_zero(block(first));
    let longest = if zero { u64::MAX } else { (record_bytes_max / BLOCK_SIZE) as u64 };
    let blocks = (first..watch.extent.end())
        .take_while(|lba| !watch.brought.contains(*lba) && is_zero(block(*lba)) == zero)
        .count() as u64;
    Some(Extent { lba: first, blocks: blocks.min(longest) })
}

fn is_zero(bytes: &[u8]) -> bool {
    lifeboat_format::hash::is_zero(bytes)
}

fn slice(out: &mut [u8], all: Extent, part: Extent) -> &mut [u8] {
    &mut out[bytes_of(part.lba - all.lba)..][..bytes_of(part.blocks)]
}

fn bytes_of(blocks: u64) -> usize {
    usize::try_from(blocks * BLOCK_SIZE_U64).unwrap_or(usize::MAX)
}
