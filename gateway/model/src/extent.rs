//! Runs of blocks, and sets of them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// A run of blocks of one volume: `blocks` blocks from block address `lba`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Extent {
    /// First block.
    pub lba: u64,
    /// Number of blocks.
    pub blocks: u64,
}

impl Extent {
    /// First block after the run.
    #[must_use]
    pub const fn end(self) -> u64 {
        self.lba.saturating_add(self.blocks)
    }
}

/// A set of blocks, kept as the fewest runs, in address order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExtentSet {
    /// start → end (exclusive); runs neither touch nor overlap.
    runs: BTreeMap<u64, u64>,
}

impl ExtentSet {
    /// The empty set.
    #[must_use]
    pub const fn new() -> Self {
        Self { runs: BTreeMap::new() }
    }

    /// Adds every block of `extent`.
    pub fn insert(&mut self, extent: Extent) {
        if extent.blocks == 0 {
            return;
        }
        let (mut start, mut end) = (extent.lba, extent.end());
        while let Some((&run_start, &run_end)) = self.runs.range(..=end).next_back() {
            if run_end < start {
                break;
            }
            start = start.min(run_start);
            end = end.max(run_end);
            self.runs.remove(&run_start);
        }
        self.runs.insert(start, end);
    }

    /// Takes every block of `extent` out.
    pub fn remove(&mut self, extent: Extent) {
        if extent.blocks == 0 {
            return;
        }
        let (start, end) = (extent.lba, extent.end());
        while let Some((&run_start, &run_end)) = self.runs.range(..end).next_back() {
            if run_end <= start {
                break;
            }
            self.runs.remove(&run_start);
            if run_start < start {
                self.runs.insert(run_start, start);
            }
            if run_end > end {
                self.runs.insert(end, run_end);
            }
        }
    }

    /// Whether the set holds that block.
    #[must_use]
    pub fn contains(&self, lba: u64) -> bool {
        self.runs.range(..=lba).next_back().is_some_and(|(_, &end)| lba < end)
    }

    /// The runs, in address order.
    pub fn iter(&self) -> impl Iterator<Item = Extent> + '_ {
        self.runs.iter().map(|(&lba, &end)| Extent { lba, blocks: end.saturating_sub(lba) })
    }

    /// Number of blocks in the set.
    #[must_use]
    pub fn blocks(&self) -> u64 {
        self.iter().map(|extent| extent.blocks).sum()
    }

    /// Number of runs.
    #[must_use]
    pub fn runs(&self) -> usize {
        self.runs.len()
    }

    /// The first run that begins at or after `lba`, or the rest of the one that holds it.
    #[must_use]
    pub fn next(&self, lba: u64) -> Option<Extent> {
        let within = self.runs.range(..=lba).next_back().filter(|&(_, &end)| lba < end);
        let (start, end) = match within {
            Some((_, &end)) => (lba, end),
            None => self.runs.range(lba..).next().map(|(&start, &end)| (start, end))?,
        };
        Some(Extent { lba: start, blocks: end.saturating_sub(start) })
    }

    /// Whether the set holds no block.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }
}

impl FromIterator<Extent> for ExtentSet {
    fn from_iter<I: IntoIterator<Item = Extent>>(extents: I) -> Self {
        let mut set = Self::new();
        extents.into_iter().for_each(|extent| set.insert(extent));
        set
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every short run of inserts and removes, against a plain bit per block.
    #[test]
    fn equals_a_bitmap_under_generated_operations() {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut random = move |below: u64| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state % below
        };
        for _ in 0..200 {
            let mut set = ExtentSet::new();
            let mut bits = [false; 64];
            for _ in 0..40 {
                let lba = random(64);
                let blocks = random(64 - lba + 1);
                let insert = random(2) == 0;
                let extent = Extent { lba, blocks };
                if insert {
                    set.insert(extent)
                } else {
                    set.remove(extent)
                }
                for block in lba..lba + blocks {
                    bits[usize::try_from(block).expect("small")] = insert;
                }
                let expected: Vec<u64> = (0..64).filter(|&b| bits[usize::try_from(b).expect("small")]).collect();
                let found: Vec<u64> = set.iter().flat_map(|e| e.lba..e.end()).collect();
                assert_eq!(found, expected);
                assert_eq!(set.blocks(), u64::try_from(expected.len()).expect("small"));
                assert_eq!(set.runs(), set.iter().count());
                let from = random(64);
                let next = expected.iter().copied().find(|&block| block >= from);
                assert_eq!(set.next(from).map(|run| run.lba), next);
                assert!(set.next(from).is_none_or(|run| set.contains(run.end() - 1) && !set.contains(run.end())));
                let ends: Vec<_> = set.iter().collect();
                assert!(ends.windows(2).all(|pair| pair[0].end() < pair[1].lba), "runs that touch were not joined");
            }
        }
    }
}
