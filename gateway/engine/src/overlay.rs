//! The overlay of one volume: what was written and has not reached its image yet.
//!
//! Two layers of runs. Writes go to the *open* layer, where a later run replaces what it overlaps. Destaging *freezes* it:
//! the layer, which stands for every record up to the freeze, is written to the image as a whole while a new open layer
//! takes the writes, and is dropped once the image is durable. The image then stands for exactly those records. (With one
//! layer, a block that is written all the time could hold the image back for ever: its durable version is always
//! replaced by one that is not.) Reads look at the open layer, then the frozen one, then the image.

use std::collections::BTreeMap;

use bytes::Bytes;
use lifeboat_model::{BLOCK_SIZE_U64, Extent, Lsn};

/// What a run of blocks holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Content {
    /// These bytes, whole blocks.
    Data(Bytes),
    /// Zeroes.
    Zero,
}

/// A run of blocks written by one record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) extent: Extent,
    pub(crate) lsn: Lsn,
    pub(crate) content: Content,
}

impl Run {
    /// The part of the run within `[from, to)`, which must overlap it.
    fn slice(&self, from: u64, to: u64) -> Run {
        let start = self.extent.lba.max(from);
        let end = self.extent.end().min(to);
        let content = match &self.content {
            Content::Zero => Content::Zero,
            Content::Data(data) => {
                Content::Data(data.slice(bytes_of(start - self.extent.lba)..bytes_of(end - self.extent.lba)))
            }
        };
        Run { extent: Extent { lba: start, blocks: end - start }, lsn: self.lsn, content }
    }

    pub(crate) fn data_bytes(&self) -> u64 {
        match self.content {
            Content::Data(_) => self.extent.blocks * BLOCK_SIZE_U64,
            Content::Zero => 0,
        }
    }
}

fn bytes_of(blocks: u64) -> usize {
    usize::try_from(blocks * BLOCK_SIZE_U64).unwrap_or(usize::MAX)
}

#[derive(Debug, Default)]
pub(crate) struct Overlay {
    open: Layer,
    frozen: Layer,
}

impl Overlay {
    /// Bytes of data that it holds.
    pub(crate) fn data_bytes(&self) -> u64 {
        self.open.data_bytes + self.frozen.data_bytes
    }

    /// Whether nothing waits for the image.
    pub(crate) fn is_empty(&self) -> bool {
        self.open.runs.is_empty() && self.frozen.runs.is_empty()
    }

    /// Adds a run; it covers whatever was there.
    pub(crate) fn insert(&mut self, run: Run) {
        self.open.insert(run);
    }

    /// The runs within `extent`, cut to it, in address order.
    pub(crate) fn within(&self, extent: Extent) -> Vec<Run> {
        if self.frozen.runs.is_empty() {
            return self.open.within(extent).collect();
        }
        let mut merged = Layer::default();
        self.frozen.within(extent).chain(self.open.within(extent)).for_each(|run| merged.insert(run));
        merged.runs.into_values().collect()
    }

    /// Freezes the open layer when none of its records is after `upto`, and gives the frozen runs in address order. A
    /// destage that failed and is tried again finds the earlier layer still frozen, and younger records in the open one.
    pub(crate) fn freeze_at(&mut self, upto: Lsn) -> Vec<Run> {
        if self.frozen.runs.is_empty() && self.open.newest <= upto {
            self.frozen = std::mem::take(&mut self.open);
        }
        self.frozen.runs.values().cloned().collect()
    }

    /// Whether a frozen layer waits for the image.
    #[cfg(test)]
    pub(crate) fn has_frozen(&self) -> bool {
        !self.frozen.runs.is_empty()
    }

    /// Drops the frozen layer: the image has it.
    pub(crate) fn thaw(&mut self) {
        self.frozen = Layer::default();
    }
}

/// Runs that neither overlap nor repeat, by first block.
#[derive(Debug, Default)]
struct Layer {
    runs: BTreeMap<u64, Run>,
    data_bytes: u64,
    newest: Lsn,
}

impl Layer {
    fn insert(&mut self, run: Run) {
        if run.extent.blocks > 0 {
            self.cut(run.extent);
            self.newest = self.newest.max(run.lsn);
            self.data_bytes += run.data_bytes();
            self.runs.insert(run.extent.lba, run);
        }
    }

    fn within(&self, extent: Extent) -> impl Iterator<Item = Run> + '_ {
        let (start, end) = (extent.lba, extent.end());
        let first = self.runs.range(..=start).next_back().map_or(start, |(&lba, _)| lba);
        self.runs
            .range(first..end)
            .filter(move |(_, run)| run.extent.end() > start)
            .map(move |(_, run)| run.slice(start, end))
    }

    /// Takes the blocks of `extent` out of every run.
    fn cut(&mut self, extent: Extent) {
        let (start, end) = (extent.lba, extent.end());
        while let Some((&lba, run)) = self.runs.range(..end).next_back() {
            if run.extent.end() <= start {
                break;
            }
            let Some(run) = self.runs.remove(&lba) else { break };
            self.data_bytes -= run.data_bytes();
            let before = (lba < start).then(|| run.slice(lba, start));
            let after = (run.extent.end() > end).then(|| run.slice(end, run.extent.end()));
            for rest in before.into_iter().chain(after) {
                self.data_bytes += rest.data_bytes();
                self.runs.insert(rest.extent.lba, rest);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(lba: u64, blocks: u64, lsn: u64, byte: Option<u8>) -> Run {
        let content = byte.map_or(Content::Zero, |byte| Content::Data(Bytes::from(vec![byte; bytes_of(blocks)])));
        Run { extent: Extent { lba, blocks }, lsn: Lsn(lsn), content }
    }

    /// Generated writes against one (lsn, byte) per block.
    #[test]
    fn equals_a_plain_array_under_generated_writes() {
        let mut seed = 1_u64;
        let mut random = move |below: u64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) % below
        };
        for _ in 0..100 {
            let mut overlay = Overlay::default();
            let mut frozen_at = 0;
            let mut model: Vec<Option<(u64, Option<u8>)>> = vec![None; 48];
            for lsn in 1..60 {
                let lba = random(48);
                let blocks = random(48 - lba) + 1;
                match random(8) {
                    0 => {
                        frozen_at =
                            overlay.freeze_at(Lsn(lsn - 1)).iter().map(|run| run.lsn.0).max().unwrap_or(frozen_at)
                    }
                    1 if overlay.has_frozen() => {
                        overlay.thaw();
                        model
                            .iter_mut()
                            .filter(|cell| cell.is_some_and(|(lsn, _)| lsn <= frozen_at))
                            .for_each(|cell| *cell = None);
                    }
                    _ => {}
                }
                let byte = (random(3) > 0).then(|| u8::try_from(random(250)).expect("small"));
                overlay.insert(run(lba, blocks, lsn, byte));
                (lba..lba + blocks).for_each(|b| model[usize::try_from(b).expect("small")] = Some((lsn, byte)));
                let from = random(48);
                let extent = Extent { lba: from, blocks: random(48 - from) + 1 };
                let mut found: Vec<Option<(u64, Option<u8>)>> = vec![None; 48];
                for piece in overlay.within(extent) {
                    for (index, block) in (piece.extent.lba..piece.extent.end()).enumerate() {
                        let byte = match &piece.content {
                            Content::Data(data) => Some(data[index * 4096]),
                            Content::Zero => None,
                        };
                        found[usize::try_from(block).expect("small")] = Some((piece.lsn.0, byte));
                    }
                }
                let range = usize::try_from(extent.lba).expect("small")..usize::try_from(extent.end()).expect("small");
                assert_eq!(found[range.clone()], model[range]);
            }
        }
    }

    #[test]
    fn a_frozen_layer_stays_until_the_image_has_it() {
        let mut overlay = Overlay::default();
        overlay.insert(run(0, 4, 5, Some(1)));
        assert_eq!(overlay.freeze_at(Lsn(9)).len(), 1);
        overlay.insert(run(2, 1, 9, Some(2)));
        assert_eq!(overlay.freeze_at(Lsn(9))[0].lsn, Lsn(5), "a second freeze gives the first layer again");
        assert_eq!(overlay.within(Extent { lba: 0, blocks: 4 }).len(), 3);
        assert_eq!(overlay.data_bytes(), 5 * 4096);
        overlay.thaw();
        assert_eq!(overlay.within(Extent { lba: 0, blocks: 4 }), [run(2, 1, 9, Some(2))]);
        assert_eq!(overlay.freeze_at(Lsn(9)).len(), 1);
        overlay.thaw();
        assert!(overlay.is_empty());
    }
}
