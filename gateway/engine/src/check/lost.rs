//! Which blocks of a volume can't be read at a position of the log, and which damage is to blame for each.

use std::collections::BTreeMap;

use lifeboat_model::Extent;

/// Unreadable blocks: runs that don't overlap, each with the number of a damage.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Lost {
    /// start → (end, damage)
    runs: BTreeMap<u64, (u64, usize)>,
}

impl Lost {
    /// These blocks can't be read because of `damage`.
    pub(super) fn set(&mut self, extent: Extent, damage: usize) {
        self.clear(extent);
        let (mut start, mut end) = (extent.lba, extent.end());
        if end == start {
            return;
        }
        if let Some((&before, &(before_end, blame))) = self.runs.range(..start).next_back()
            && before_end == start
            && blame == damage
        {
            self.runs.remove(&before);
            start = before;
        }
        if let Some(&(after_end, blame)) = self.runs.get(&end)
            && blame == damage
        {
            self.runs.remove(&end);
            end = after_end;
        }
        self.runs.insert(start, (end, damage));
    }

    /// These blocks were written anew, or are gone.
    pub(super) fn clear(&mut self, extent: Extent) {
        let (start, end) = (extent.lba, extent.end());
        if start == end {
            return;
        }
        if let Some((&before, &(before_end, blame))) = self.runs.range(..start).next_back()
            && before_end > start
        {
            self.runs.insert(before, (start, blame));
            if before_end > end {
                self.runs.insert(end, (before_end, blame));
            }
        }
        while let Some((&at, &(run_end, blame))) = self.runs.range(start..end).next() {
            self.runs.remove(&at);
            if run_end > end {
                self.runs.insert(end, (run_end, blame));
            }
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// The runs in address order, within a volume of `blocks` blocks.
    pub(super) fn iter(&self, blocks: u64) -> impl Iterator<Item = (Extent, usize)> + '_ {
        self.runs
            .range(..blocks)
            .map(move |(&lba, &(end, damage))| (Extent { lba, blocks: end.min(blocks).saturating_sub(lba) }, damage))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::tests::Dice;

    #[test]
    fn runs_are_as_a_plain_array_says() {
        let mut dice = Dice(7);
        for _ in 0..200 {
            let mut lost = Lost::default();
            let mut model = [None; 64];
            for _ in 0..30 {
                let lba = dice.below(64);
                let extent = Extent { lba, blocks: dice.below(65 - lba) };
                let range = usize::try_from(lba).unwrap()..usize::try_from(extent.end()).unwrap();
                if dice.below(2) == 0 {
                    lost.clear(extent);
                    model[range].fill(None);
                } else {
                    let damage = usize::try_from(dice.below(3)).unwrap();
                    lost.set(extent, damage);
                    model[range].fill(Some(damage));
                }
                let mut found = [None; 64];
                let mut end = 0;
                for (extent, damage) in lost.iter(64) {
                    assert!(extent.lba >= end && extent.blocks > 0, "{lost:?}");
                    end = extent.end();
                    found[usize::try_from(extent.lba).unwrap()..usize::try_from(end).unwrap()].fill(Some(damage));
                }
                assert_eq!(found, model);
            }
            assert_eq!(lost.is_empty(), model.iter().all(Option::is_none));
        }
    }
}
