//! The map of one volume: a Merkle radix tree from block address to block hash and place in the log.
//!
//! ```text
//! level n   root: Child                 a Child is  Empty                    zeroes only
//!  …        Inner: 256 Child                        Stored { hash, at }      in a map object of the vault
//! level 0   Leaf: 512 blocks                        Fresh  { hash, node }    in memory, in no map object yet
//! ```
//! Owns: the tree's shape and its hash, updates, lookups, differences. A [`Tree`] is a value: cloning it costs one
//! reference count, and changing the clone leaves the original as it was, which is what makes a recovery point or a
//! branch free. The depth follows from the volume's size alone, and the hash from content alone.
//!
//! Refuses: a stored node whose content doesn't hash to what its parent says ([`NodeStore`] checks every load).
//!
//! Memory: stored nodes live in the node store's bounded cache and nowhere else; only fresh nodes are held by the tree,
//! until a map object holds them ([`Tree::store`]). A crash loses fresh nodes, and the log has what is needed to make
//! them again.

mod changes;
mod diff;
mod node;
mod store;
#[cfg(test)]
pub(crate) mod tests;
mod update;

use std::sync::Arc;

use async_trait::async_trait;
use futures::future::try_join_all;
use lifeboat_format::hash::{BlockHasher, blocks_under, tree_levels};
use lifeboat_model::{Extent, RootHash, VolumeId};

use crate::error::{EngineError, ErrorKind, Result};

pub use changes::Changes;
pub use diff::Diff;
pub use node::{Child, Inner, Leaf, Location, Node, NodeRef, Slot};
pub(crate) use node::{from_stored, to_stored};
pub(crate) use store::STAGES;
pub use update::{Change, To};

/// Leaves of one lookup whose nodes are read at a time.
const LEAVES_PARALLEL: u64 = 8;

/// What names a stored node and proves it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct NodeAt {
    /// The volume whose tree it belongs to.
    pub volume: VolumeId,
    /// Its level; 0 is a leaf.
    pub level: u8,
    /// Where it is stored, and the hash that its parent holds for it.
    pub node: NodeRef,
}

/// Where stored nodes come from. Implementations keep a bounded cache and give out verified nodes only.
#[async_trait]
pub trait NodeStore: Send + Sync + std::fmt::Debug {
    /// The node, proven to have the level and the hash asked for.
    ///
    /// # Errors
    /// `Retry` when the vault can't be reached, `Tampered` when the node is not what its parent says.
    async fn load(&self, node: &NodeAt) -> Result<Arc<Node>>;
}

/// Where a node stands in the tree of a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Spot {
    /// The volume.
    pub volume: VolumeId,
    /// The level; 0 is a leaf.
    pub level: u8,
    /// The first block under it.
    pub base: u64,
}

/// Takes the fresh nodes of a tree, children before their parents.
pub trait NodeSink {
    /// Keeps the node and says where it will be found. Every child of it is stored by then.
    ///
    /// # Errors
    /// When the map object has no room for it.
    fn put(&mut self, hasher: &BlockHasher, spot: Spot, node: Arc<Node>) -> Result<NodeRef>;
}

/// Refuses a node that is not what its parent says it is.
///
/// # Errors
/// `Tampered` when level or hash differ.
pub fn verify_node(hasher: &BlockHasher, wanted: &NodeAt, node: &Node) -> Result<()> {
    let level_matches = matches!(node, Node::Leaf(_)) == (wanted.level == 0);
    if level_matches && node.hash(hasher, wanted.level) == wanted.node.hash {
        return Ok(());
    }
    Err(EngineError::new(
        ErrorKind::Tampered,
        format!(
            "a map node of {} (level {}, in {}) is not the one its parent names: the vault's data was altered; \
             run `lifeboat vault check` and restore the object from a copy",
            wanted.volume, wanted.level, wanted.node.object.id
        ),
    ))
}

/// One stretch of a volume, as [`Tree::lookup`] gives it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Run {
    /// Zeroes.
    Zero(Extent),
    /// One block with content.
    Block {
        /// Its address.
        lba: u64,
        /// Its hash and place.
        slot: Slot,
    },
}

/// The map of one volume at one moment.
#[derive(Clone, Debug)]
pub struct Tree {
    volume: VolumeId,
    hasher: Arc<BlockHasher>,
    blocks: u64,
    levels: u8,
    root: Child,
}

impl Tree {
    /// A volume of `blocks` zero blocks.
    #[must_use]
    pub fn empty(volume: VolumeId, hasher: Arc<BlockHasher>, blocks: u64) -> Self {
        Self { volume, hasher, blocks, levels: tree_levels(blocks), root: Child::Empty }
    }

    /// The tree that a map object names: `root` is `None` for a volume of zeroes.
    #[must_use]
    pub fn stored(volume: VolumeId, hasher: Arc<BlockHasher>, blocks: u64, root: Option<NodeRef>) -> Self {
        let root = root.map_or(Child::Empty, Child::Stored);
        Self { volume, hasher, blocks, levels: tree_levels(blocks), root }
    }

    /// The volume.
    #[must_use]
    pub const fn volume(&self) -> VolumeId {
        self.volume
    }

    /// Its size in blocks.
    #[must_use]
    pub const fn blocks(&self) -> u64 {
        self.blocks
    }

    /// What hashes its blocks and nodes.
    #[must_use]
    pub const fn hasher(&self) -> &Arc<BlockHasher> {
        &self.hasher
    }

    /// The hash of the volume's whole content.
    #[must_use]
    pub fn root_hash(&self) -> RootHash {
        self.root.hash()
    }

    /// Levels of inner nodes.
    pub(crate) const fn levels(&self) -> u8 {
        self.levels
    }

    /// The topmost node.
    pub(crate) const fn root(&self) -> &Child {
        &self.root
    }

    /// The root as a map object stores it: `None` for zeroes. Meaningful once [`Self::store`] has run.
    #[must_use]
    pub const fn root_ref(&self) -> Option<&NodeRef> {
        match &self.root {
            Child::Stored(node) => Some(node),
            Child::Empty | Child::Fresh { .. } => None,
        }
    }

    /// Whether any node is in memory only.
    #[must_use]
    pub const fn is_fresh(&self) -> bool {
        matches!(self.root, Child::Fresh { .. })
    }

    /// Bytes of the nodes that are in memory only.
    #[must_use]
    pub fn fresh_memory(&self) -> usize {
        fresh_memory(&self.root)
    }

    /// Changes the volume's size. Growing adds zeroes, and levels where the size needs them; shrinking drops what is
    /// past the new end, so that growing again finds zeroes there.
    ///
    /// # Errors
    /// As [`NodeStore::load`]: shrinking opens the nodes on the new edge.
    pub async fn resize(&mut self, store: &dyn NodeStore, blocks: u64) -> Result<()> {
        if blocks < self.blocks {
            let past =
                Change { extent: Extent { lba: blocks, blocks: self.blocks.saturating_sub(blocks) }, to: To::Zero };
            self.update(store, &[past]).await?;
        }
        let levels = tree_levels(blocks);
        while self.levels > levels {
            self.root = self.first_child(store).await?;
            self.levels = self.levels.saturating_sub(1);
        }
        self.raise(levels);
        self.blocks = blocks;
        Ok(())
    }

    /// Wraps the root until the tree has so many levels.
    fn raise(&mut self, levels: u8) {
        while self.levels < levels {
            self.levels = self.levels.saturating_add(1);
            let below = std::mem::replace(&mut self.root, Child::Empty);
            self.root = Inner::with_first(below).into_child(&self.hasher, self.levels);
        }
    }

    async fn first_child(&self, store: &dyn NodeStore) -> Result<Child> {
        Ok(match self.open(store, &self.root, self.levels).await? {
            None => Child::Empty,
            Some(node) => node.children().first().cloned().unwrap_or(Child::Empty),
        })
    }

    /// The node behind a child; `None` when it is empty.
    async fn open(&self, store: &dyn NodeStore, child: &Child, level: u8) -> Result<Option<Arc<Node>>> {
        open_child(store, self.volume, level, child).await
    }

    /// What the blocks of `extent` hold, in address order, without gaps. Blocks past the end are left out.
    ///
    /// # Errors
    /// As [`NodeStore::load`].
    pub async fn lookup(&self, store: &dyn NodeStore, extent: Extent) -> Result<Vec<Run>> {
        let end = extent.end().min(self.blocks);
        let mut runs = Vec::new();
        let mut lba = extent.lba;
        while lba < end {
            // Several leaves at a time: their nodes are read side by side. The first one alone tells whether a large
            // stretch is empty, so that a sparse volume isn't walked leaf by leaf.
            let first = self.leaf_at(store, lba).await?;
            let mut at = push_run(&mut runs, &first, lba, end);
            if first.leaf.is_some() && at < end {
                let step = blocks_under(0);
                let starts: Vec<u64> = (0..LEAVES_PARALLEL)
                    .map(|index| at.saturating_add(index.saturating_mul(step)))
                    .take_while(|start| *start < end)
                    .collect();
                let mut leaves = Vec::with_capacity(starts.len());
                for start in &starts {
                    leaves.push(self.leaf_at(store, *start));
                }
                let found = try_join_all(leaves).await?;
                for (start, found) in starts.into_iter().zip(&found) {
                    // A stretch of zeroes may reach over the next ones.
                    if start >= at {
                        at = push_run(&mut runs, found, start, end);
                    }
                }
            }
            lba = at;
        }
        Ok(runs)
    }

    /// The leaf that holds `lba`, or nothing inside an empty subtree.
    async fn leaf_at(&self, store: &dyn NodeStore, lba: u64) -> Result<Found> {
        let (child, level, base) = self.descend(store, lba).await?;
        let until = base.saturating_add(blocks_under(level));
        Ok(Found { leaf: self.open(store, &child, level).await?, base, until })
    }

    /// The hash of the leaf that holds `lba`. The leaf itself isn't loaded.
    ///
    /// # Errors
    /// As [`NodeStore::load`].
    pub async fn leaf_hash(&self, store: &dyn NodeStore, lba: u64) -> Result<RootHash> {
        Ok(self.descend(store, lba).await?.0.hash())
    }

    /// The leaf that holds `lba`, or the empty subtree that does; its level and its first block.
    async fn descend(&self, store: &dyn NodeStore, lba: u64) -> Result<(Child, u8, u64)> {
        let (mut child, mut level, mut base) = (self.root.clone(), self.levels, 0_u64);
        while level > 0 {
            let Some(node) = self.open(store, &child, level).await? else { break };
            level = level.saturating_sub(1);
            let step = blocks_under(level);
            let index = lba.saturating_sub(base).checked_div(step).unwrap_or(0);
            base = base.saturating_add(index.saturating_mul(step));
            let below = usize::try_from(index).ok().and_then(|index| node.children().get(index)).cloned();
            child = below.unwrap_or(Child::Empty);
        }
        Ok((child, level, base))
    }

    /// Hands every fresh node to `sink`, children first. Afterwards the tree holds no node: its memory is given back,
    /// and every node is found through its reference. On an error the tree is as it was.
    ///
    /// # Errors
    /// As [`NodeSink::put`].
    pub fn store(&mut self, sink: &mut dyn NodeSink) -> Result<()> {
        let mut stored = self.clone();
        for stage in STAGES {
            stored.store_stage(stage, sink)?;
        }
        *self = stored;
        Ok(())
    }

    /// The blocks whose content differs between `self` and `target`, in address order, within `target`'s size. Subtrees
    /// that are equal are skipped unread.
    #[must_use]
    pub fn diff(&self, target: &Tree) -> Diff {
        let (mut from, mut to) = (self.clone(), target.clone());
        let levels = from.levels.max(to.levels);
        from.raise(levels);
        to.raise(levels);
        Diff::new(&from, &to)
    }
}

/// The node behind a child of that level; `None` when it is empty.
async fn open_child(store: &dyn NodeStore, volume: VolumeId, level: u8, child: &Child) -> Result<Option<Arc<Node>>> {
    match child {
        Child::Empty => Ok(None),
        Child::Fresh { node, .. } => Ok(Some(Arc::clone(node))),
        Child::Stored(node) => store.load(&NodeAt { volume, level, node: node.clone() }).await.map(Some),
    }
}

/// Bytes of the nodes under `child` that are in memory only.
fn fresh_memory(child: &Child) -> usize {
    match child {
        Child::Fresh { node, .. } => {
            node.children().iter().map(fresh_memory).fold(node.memory(), usize::saturating_add)
        }
        Child::Empty | Child::Stored(_) => 0,
    }
}

fn push_zero(runs: &mut Vec<Run>, extent: Extent) {
    if let Some(Run::Zero(last)) = runs.last_mut()
        && last.end() == extent.lba
    {
        last.blocks = last.blocks.saturating_add(extent.blocks);
        return;
    }
    if extent.blocks > 0 {
        runs.push(Run::Zero(extent));
    }
}

/// What [`Tree::leaf_at`] found: a leaf or an empty subtree, and the blocks that it covers.
struct Found {
    leaf: Option<Arc<Node>>,
    base: u64,
    until: u64,
}

/// Adds the blocks from `lba` to `end` that were found, and says where they stop.
fn push_run(runs: &mut Vec<Run>, found: &Found, lba: u64, end: u64) -> u64 {
    let stop = found.until.min(end);
    match &found.leaf {
        None => push_zero(runs, Extent { lba, blocks: stop.saturating_sub(lba) }),
        Some(node) => push_leaf(runs, node, found.base, lba, stop),
    }
    stop
}

fn push_leaf(runs: &mut Vec<Run>, node: &Node, base: u64, lba: u64, stop: u64) {
    let Node::Leaf(leaf) = node else { return };
    for lba in lba..stop {
        match leaf.get(lba.saturating_sub(base)) {
            None => push_zero(runs, Extent { lba, blocks: 1 }),
            Some(slot) => runs.push(Run::Block { lba, slot }),
        }
    }
}
