//! Blocks that are written again so that what is left of old segments can go.
//!
//! A segment goes as a whole, and one block that is still current keeps it. Such blocks are carried: a later segment of the
//! same branch holds them once more, as if the application had written what is there already. Content, roots and points
//! stay what they are, only the place changes; no reader, no other branch and no writer that was cut off has to know of it,
//! since every position that names the old place goes on finding it there for as long as it is kept.
//!
//! Refuses: a block that is elsewhere by now (it was overwritten, or carried), one whose content isn't what its hash says,
//! and to carry while there is a backlog. What is left out costs space until it is found again. A block that the interval
//! itself changes is the interval's.
//!
//! The list is in memory only: a crash loses it, and the next collection finds it again.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use lifeboat_model::{BLOCK_SIZE, Extent, VolumeId};

use super::{BranchWriter, Working};
use crate::error::Result;
use crate::tree::{Location, Run, Tree};

/// Most blocks that one segment carries: 4 MiB.
const BLOCKS_PER_SEGMENT: usize = 1024;

/// A block that is worth writing again, and where it was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct CarriedBlock {
    /// Its volume.
    pub volume: VolumeId,
    /// Its address.
    pub lba: u64,
    /// Where its content was when it was found.
    pub at: Location,
}

/// What one segment carries.
pub(super) type Load = Vec<(VolumeId, u64, Bytes)>;

impl BranchWriter {
    /// Writes these blocks again with the segments to come, in place of those that were asked for before.
    pub fn carry(&mut self, blocks: Vec<CarriedBlock>) {
        self.to_carry = VecDeque::from(blocks);
    }

    /// Blocks that wait to be written again.
    #[must_use]
    pub fn carries(&self) -> usize {
        self.to_carry.len()
    }

    /// The load of the next segment. What can't be read is left out: nothing that an application wrote waits for it.
    pub(super) async fn next_load(&mut self) -> Load {
        let count = BLOCKS_PER_SEGMENT.min(self.segment_blocks() / 4).min(self.to_carry.len());
        if count == 0 {
            return Load::new();
        }
        let batch: Vec<CarriedBlock> = self.to_carry.drain(..count).collect();
        let Working::Ready(trees) = &self.working else { return Load::new() };
        match self.read_load(trees, batch).await {
            Ok(load) => load,
            Err(error) => {
                tracing::info!(group = %self.group(), %error, "blocks are carried another time");
                Load::new()
            }
        }
    }

    async fn read_load(&self, trees: &BTreeMap<VolumeId, Tree>, batch: Vec<CarriedBlock>) -> Result<Load> {
        let mut current = Vec::new();
        for block in batch {
            let Some(tree) = trees.get(&block.volume) else { continue };
            let found = tree.lookup(&*self.reader, Extent { lba: block.lba, blocks: 1 }).await?;
            if let Some(Run::Block { slot, .. }) = found.first()
                && slot.at == block.at
            {
                current.push((block, slot.hash));
            }
        }
        let wanted: BTreeSet<_> = current.iter().map(|(block, _)| (block.at.segment, block.at.frame)).collect();
        let frames = self.reader.frames(&wanted).await?;
        let mut load = Load::with_capacity(current.len());
        for (CarriedBlock { volume, lba, at }, hash) in current {
            let Some(hasher) = self.reader.hasher_unless_erased(volume).await? else { continue };
            let data = frames.block(at.segment, at.frame, at.slot)?;
            // Damage is the check's to report; written again, it would only be hidden.
            if <&[u8; BLOCK_SIZE]>::try_from(data.as_ref()).is_ok_and(|block| hasher.block(block) == hash) {
                load.push((volume, lba, data));
            }
        }
        Ok(load)
    }
}
