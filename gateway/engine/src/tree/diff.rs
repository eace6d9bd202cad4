//! Differences between two trees of one volume, walked side by side.

use std::borrow::Cow;
use std::sync::Arc;

use futures::future::try_join_all;
use lifeboat_format::hash::{LEAF_SLOTS, blocks_under};
use lifeboat_model::{BlockHash, Extent, MAP_FANOUT, VolumeId};

use super::node::{Child, Node};
use super::{NodeStore, Tree, open_child};
use crate::error::Result;

/// Pairs of nodes loaded ahead of the walk, so that the vault's latency is paid once for so many.
const AHEAD: usize = 16;

/// A pair of subtrees at the same place whose hashes differ.
#[derive(Clone, Debug)]
struct Pair {
    level: u8,
    base: u64,
    from: Child,
    to: Child,
}

/// A walk over the blocks that differ, in address order. Memory: a path of children, whatever the volume's size.
#[derive(Clone, Debug)]
pub struct Diff {
    volume: VolumeId,
    end: u64,
    /// Blocks that were found equal or different so far.
    compared: u64,
    /// What is left, the next on top.
    pairs: Vec<Pair>,
    /// How many pairs on top of the stack have their nodes in the store's cache.
    warm: usize,
    /// Extents of the leaf at hand, the next one last.
    found: Vec<Extent>,
}

impl Diff {
    pub(super) fn new(from: &Tree, to: &Tree) -> Self {
        let mut diff =
            Self { volume: to.volume, end: to.blocks, compared: 0, pairs: Vec::new(), warm: 0, found: Vec::new() };
        if from.root_hash() != to.root_hash() {
            diff.pairs.push(Pair { level: to.levels, base: 0, from: from.root.clone(), to: to.root.clone() });
        }
        diff
    }

    /// Leaves out everything before `lba`: a walk that goes on where an earlier one stopped.
    pub fn skip_to(&mut self, lba: u64) {
        self.compared = lba;
        self.pairs.retain(|pair| pair.base.saturating_add(blocks_under(pair.level)) > lba);
        self.found.retain(|extent| extent.end() > lba);
    }

    /// Every block before this one has been compared.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.compared.min(self.end)
    }

    /// The next blocks that differ. On an error the walk stays where it is, and may be gone on with.
    ///
    /// # Errors
    /// As [`NodeStore::load`].
    pub async fn next(&mut self, store: &dyn NodeStore) -> Result<Option<Extent>> {
        let start = self.compared;
        loop {
            while let Some(mut extent) = self.found.pop() {
                let lba = extent.lba.max(start);
                extent.blocks = extent.end().min(self.end).saturating_sub(lba);
                extent.lba = lba;
                if extent.blocks > 0 {
                    self.compared = extent.end();
                    return Ok(Some(extent));
                }
            }
            let Some(pair) = self.pairs.last().cloned() else {
                self.compared = self.end;
                return Ok(None);
            };
            if pair.base >= self.end {
                self.pairs.clear();
                continue;
            }
            self.compared = self.compared.max(pair.base);
            self.open(store, pair).await?;
        }
    }

    /// Replaces the pair on top of the stack by what is below it.
    async fn open(&mut self, store: &dyn NodeStore, pair: Pair) -> Result<()> {
        if self.warm == 0 {
            self.warm_up(store).await?;
        }
        let from = open_child(store, self.volume, pair.level, &pair.from).await?;
        let to = open_child(store, self.volume, pair.level, &pair.to).await?;
        self.pairs.pop();
        self.warm = self.warm.saturating_sub(1);
        if pair.level == 0 {
            self.found = leaf_extents(pair.base, from.as_deref(), to.as_deref());
            self.found.reverse();
            return Ok(());
        }
        let level = pair.level.saturating_sub(1);
        let step = blocks_under(level);
        let children = |node: Option<&Arc<Node>>, index: usize| {
            node.and_then(|node| node.children().get(index)).cloned().unwrap_or(Child::Empty)
        };
        let before = self.pairs.len();
        let mut base = pair.base.saturating_add(blocks_under(pair.level));
        for index in (0..MAP_FANOUT).rev() {
            base = base.saturating_sub(step);
            let pair = Pair { level, base, from: children(from.as_ref(), index), to: children(to.as_ref(), index) };
            let ahead = pair.base.saturating_add(step) > self.compared;
            if pair.from.hash() != pair.to.hash() && ahead {
                self.pairs.push(pair);
            }
        }
        if self.pairs.len() > before {
            self.warm = 0;
        }
        Ok(())
    }

    /// Loads the nodes of the next pairs side by side; they stay in the store's cache until their turn.
    async fn warm_up(&mut self, store: &dyn NodeStore) -> Result<()> {
        let first = self.pairs.len().saturating_sub(AHEAD);
        let next = self.pairs.get(first..).unwrap_or_default();
        let mut loads = Vec::with_capacity(next.len().saturating_mul(2));
        for pair in next {
            loads.push(open_child(store, self.volume, pair.level, &pair.from));
            loads.push(open_child(store, self.volume, pair.level, &pair.to));
        }
        try_join_all(loads).await?;
        self.warm = next.len();
        Ok(())
    }
}

fn leaf_extents(base: u64, from: Option<&Node>, to: Option<&Node>) -> Vec<Extent> {
    fn hashes(node: Option<&Node>) -> Cow<'_, [BlockHash; LEAF_SLOTS]> {
        match node {
            Some(Node::Leaf(leaf)) => leaf.hashes(),
            Some(Node::Inner(_)) | None => Cow::Owned([BlockHash::ZERO; LEAF_SLOTS]),
        }
    }
    let mut extents: Vec<Extent> = Vec::new();
    for ((from, to), lba) in hashes(from).iter().zip(hashes(to).iter()).zip(base..) {
        if from == to {
            continue;
        }
        match extents.last_mut() {
            Some(last) if last.end() == lba => last.blocks = last.blocks.saturating_add(1),
            _ => extents.push(Extent { lba, blocks: 1 }),
        }
    }
    extents
}
