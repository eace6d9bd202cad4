//! The net effect of a run of the log on one volume: the last word for every block that was touched.
//!
//! Used twice: by the shipper, which merges overwrites between two recovery points, and by readers, which lay what was
//! shipped after a map over it.

use std::collections::BTreeMap;

use lifeboat_model::Extent;

/// What each touched block became: zeroes (any run) or one block's content `T`.
#[derive(Clone, Debug)]
pub struct Changes<T> {
    /// The volume's size after them, in blocks.
    blocks: u64,
    /// start → (end, content); `None` is zeroes, content is one block long. Runs don't overlap.
    runs: BTreeMap<u64, (u64, Option<T>)>,
    contents: usize,
}

impl<T: Clone> Changes<T> {
    /// None yet, to a volume of `blocks` blocks.
    #[must_use]
    pub const fn new(blocks: u64) -> Self {
        Self { blocks, runs: BTreeMap::new(), contents: 0 }
    }

    /// The volume's size after the changes, in blocks.
    #[must_use]
    pub const fn blocks(&self) -> u64 {
        self.blocks
    }

    /// Blocks that got content.
    #[must_use]
    pub const fn contents(&self) -> usize {
        self.contents
    }

    /// Runs held.
    #[must_use]
    pub fn len(&self) -> usize {
        self.runs.len()
    }

    /// Whether no block was touched.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// One block gets content.
    pub fn set(&mut self, lba: u64, content: T) {
        self.clear(Extent { lba, blocks: 1 });
        self.runs.insert(lba, (lba.saturating_add(1), Some(content)));
        self.contents = self.contents.saturating_add(1);
    }

    /// The blocks become zero.
    pub fn zero(&mut self, extent: Extent) {
        if extent.blocks == 0 {
            return;
        }
        self.clear(extent);
        let (mut start, mut end) = (extent.lba, extent.end());
        if let Some((&before, &(before_end, None))) = self.runs.range(..start).next_back()
            && before_end == start
        {
            self.runs.remove(&before);
            start = before;
        }
        if let Some(&(after_end, None)) = self.runs.get(&end) {
            self.runs.remove(&end);
            end = after_end;
        }
        self.runs.insert(start, (end, None));
    }

    /// The volume has another size from here on. What shrinking cuts off reads as zeroes when it grows again.
    pub fn resize(&mut self, blocks: u64) {
        let cut = self.blocks.saturating_sub(blocks);
        self.zero(Extent { lba: blocks, blocks: cut });
        self.blocks = blocks;
    }

    /// Forgets what was said about the blocks.
    fn clear(&mut self, extent: Extent) {
        let (start, end) = (extent.lba, extent.end());
        if let Some((&before, &(before_end, None))) = self.runs.range(..start).next_back()
            && before_end > start
        {
            self.runs.insert(before, (start, None));
            if before_end > end {
                self.runs.insert(end, (before_end, None));
            }
        }
        while let Some((&at, (run_end, content))) = self.runs.range(start..end).next() {
            let (run_end, had_content) = (*run_end, content.is_some());
            self.runs.remove(&at);
            if had_content {
                self.contents = self.contents.saturating_sub(1);
            } else if run_end > end {
                self.runs.insert(end, (run_end, None));
            }
        }
    }

    /// The changes in address order, within the volume's size: extents, `None` for zeroes.
    pub fn iter(&self) -> impl Iterator<Item = (Extent, Option<&T>)> + '_ {
        self.runs.range(..self.blocks).map(|(&lba, (end, content))| {
            let blocks = (*end).min(self.blocks).saturating_sub(lba);
            (Extent { lba, blocks }, content.as_ref())
        })
    }

    /// Those that touch `extent`, cut to it.
    pub fn within(&self, extent: Extent) -> impl Iterator<Item = (Extent, Option<&T>)> + '_ {
        let first = match self.runs.range(..extent.lba).next_back() {
            Some((&at, &(end, _))) if end > extent.lba => at,
            _ => extent.lba,
        };
        let stop = extent.end();
        self.runs.range(first..stop.max(first)).map(move |(&lba, (end, content))| {
            let lba = lba.max(extent.lba);
            (Extent { lba, blocks: (*end).min(stop).saturating_sub(lba) }, content.as_ref())
        })
    }
}
