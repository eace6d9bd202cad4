//! Changing a tree: one sorted batch at a time, each node copied and hashed once a batch.

use std::sync::Arc;

use futures::future::BoxFuture;
use futures::stream::{self, StreamExt, TryStreamExt};
use lifeboat_format::hash::{BlockHasher, blocks_under};
use lifeboat_model::{Extent, MAP_FANOUT};

use super::node::{Child, Inner, Leaf, Node, Slot};
use super::{NodeStore, Tree, open_child};
use crate::error::{EngineError, ErrorKind, Result};

/// Children of one node that are worked on at a time: hides the latency of the vault. The node store bounds the
/// requests, whatever the depth multiplies this to.
const PARALLEL_CHILDREN: usize = 8;

/// What an extent becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum To {
    /// Zeroes.
    Zero,
    /// Content; the extent is one block.
    Block(Slot),
}

/// A change to a tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// The blocks.
    pub extent: Extent,
    /// What they become.
    pub to: To,
}

impl Change {
    /// One block gets content.
    #[must_use]
    pub const fn block(lba: u64, slot: Slot) -> Self {
        Self { extent: Extent { lba, blocks: 1 }, to: To::Block(slot) }
    }

    /// The blocks become zero.
    #[must_use]
    pub const fn zero(extent: Extent) -> Self {
        Self { extent, to: To::Zero }
    }
}

impl Tree {
    /// Applies changes, which stand in address order and don't overlap. Nodes are loaded only where they are changed in
    /// part: what is overwritten or zeroed as a whole is not. On an error the tree is as it was.
    ///
    /// # Errors
    /// As [`NodeStore::load`]; `Invalid` for changes out of order or past the end of the volume.
    pub async fn update(&mut self, store: &dyn NodeStore, changes: &[Change]) -> Result<()> {
        self.check(changes)?;
        if changes.is_empty() {
            return Ok(());
        }
        let batch = Batch { tree: self, store };
        self.root = batch.child(self.levels, 0, self.root.clone(), changes).await?;
        Ok(())
    }

    fn check(&self, changes: &[Change]) -> Result<()> {
        let mut free = 0;
        for change in changes {
            let single = matches!(change.to, To::Zero) || change.extent.blocks == 1;
            if change.extent.lba < free || change.extent.end() > self.blocks || !single {
                return Err(EngineError::new(
                    ErrorKind::Invalid,
                    format!(
                        "a change of {} at block {} ({} blocks) is out of order or past the volume's {} blocks",
                        self.volume, change.extent.lba, change.extent.blocks, self.blocks
                    ),
                ));
            }
            free = change.extent.end();
        }
        Ok(())
    }
}

/// One update on its way through the tree.
#[derive(Clone, Copy)]
struct Batch<'a> {
    tree: &'a Tree,
    store: &'a dyn NodeStore,
}

impl<'a> Batch<'a> {
    /// `child` (at `level`, from block `base`) with `changes`, all of which touch it.
    fn child(self, level: u8, base: u64, child: Child, changes: &'a [Change]) -> BoxFuture<'a, Result<Child>> {
        Box::pin(async move {
            let until = base.saturating_add(blocks_under(level)).min(self.tree.blocks);
            if let [only] = changes
                && matches!(only.to, To::Zero)
                && only.extent.lba <= base
                && only.extent.end() >= until
            {
                return Ok(Child::Empty);
            }
            let replaced = level == 0 && covers(changes, base, until);
            let node = if replaced { None } else { open_child(self.store, self.tree.volume, level, &child).await? };
            if level == 0 {
                return Ok(change_leaf(&self.tree.hasher, base, until, node, changes));
            }
            self.inner(level, base, node, changes).await
        })
    }

    async fn inner(self, level: u8, base: u64, node: Option<Arc<Node>>, changes: &'a [Change]) -> Result<Child> {
        let step = blocks_under(level.saturating_sub(1));
        let old = node.as_deref().map_or(&[][..], Node::children);
        // A list of futures, because a closure over borrowed changes gives futures that aren't provably `Send`.
        let mut places = Vec::new();
        let mut work = Vec::new();
        let mut from = base;
        for index in 0..MAP_FANOUT {
            let touching = touching(changes, from, from.saturating_add(step));
            if !touching.is_empty() {
                places.push(index);
                let child = old.get(index).cloned().unwrap_or(Child::Empty);
                work.push(self.child(level.saturating_sub(1), from, child, touching));
            }
            from = from.saturating_add(step);
        }
        let changed: Vec<Child> = stream::iter(work).buffered(PARALLEL_CHILDREN).try_collect().await?;
        let mut inner = match node.as_deref() {
            Some(Node::Inner(inner)) => inner.clone(),
            Some(Node::Leaf(_)) | None => Inner::default(),
        };
        places.into_iter().zip(changed).for_each(|(index, child)| inner.set(index, child));
        Ok(inner.into_child(&self.tree.hasher, level))
    }
}

/// The changes that touch blocks `from … until`.
fn touching(changes: &[Change], from: u64, until: u64) -> &[Change] {
    let first = changes.partition_point(|change| change.extent.end() <= from);
    let rest = changes.get(first..).unwrap_or_default();
    let count = rest.partition_point(|change| change.extent.lba < until);
    rest.get(..count).unwrap_or_default()
}

/// Whether the changes leave no block of `from … until` as it was.
fn covers(changes: &[Change], from: u64, until: u64) -> bool {
    let blocks: u64 =
        changes.iter().map(|change| change.extent.end().min(until).saturating_sub(change.extent.lba.max(from))).sum();
    blocks == until.saturating_sub(from)
}

fn change_leaf(hasher: &BlockHasher, base: u64, until: u64, node: Option<Arc<Node>>, changes: &[Change]) -> Child {
    let mut leaf = match node.as_deref() {
        Some(Node::Leaf(leaf)) => leaf.clone(),
        Some(Node::Inner(_)) | None => Leaf::default(),
    };
    for change in changes {
        let slot = match change.to {
            To::Zero => None,
            To::Block(slot) => Some(slot),
        };
        for lba in change.extent.lba.max(base)..change.extent.end().min(until) {
            leaf.set(lba.saturating_sub(base), slot);
        }
    }
    Node::Leaf(leaf).into_child(hasher, 0)
}
