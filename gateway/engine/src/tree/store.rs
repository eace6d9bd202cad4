//! Giving a tree's fresh nodes to a map object, and forgetting them once it holds them.
//!
//! # Order
//! Whoever opens a volume reads its root, the few nodes below it, and most likely its first block. Those nodes come last in
//! the object, whatever else it holds, so that one read of its end brings them together with the footer. Hence the stages:
//! leaves and the nodes right above them first, then the way to block 0, then level by level up to the root. Children are
//! always stored before their parents. [`Tree::renew`] puts nodes of that kind into the object that are in an older one.
//!
//! # Beside changes
//! A map is written from a clone while the tree goes on changing. [`Tree::adopt`] then takes over what was stored: each fresh
//! node with a stored twin (the same hash in the same place, which means the same content) becomes a reference; what was changed since
//! stays fresh. Nothing waits for anything.

use std::collections::HashMap;
use std::sync::Arc;

use futures::future::BoxFuture;
use lifeboat_format::hash::blocks_under;

use super::node::{Child, Inner, Node, NodeRef};
use super::{NodeSink, NodeStore, Spot, Tree, open_child};
use crate::error::Result;

/// Every stage, in order.
pub(crate) const STAGES: std::ops::RangeInclusive<u8> = 0..=5;

/// The stage in which a node is stored. A child's is never after its parent's.
const fn stage_of(level: u8, base: u64) -> u8 {
    match (level, base) {
        (0, 0) => 1,
        (1, 0) => 2,
        (0 | 1, _) => 0,
        (level, _) => level.saturating_add(1),
    }
}

impl Tree {
    /// Hands the fresh nodes of one stage to `sink`. All earlier stages must have been stored.
    pub(crate) fn store_stage(&mut self, stage: u8, sink: &mut dyn NodeSink) -> Result<()> {
        self.root = self.store_child(self.levels, 0, &self.root, stage, sink)?;
        Ok(())
    }

    fn store_child(&self, level: u8, base: u64, child: &Child, stage: u8, sink: &mut dyn NodeSink) -> Result<Child> {
        let Child::Fresh { hash, node } = child else { return Ok(child.clone()) };
        let own = stage_of(level, base);
        let stored = match &**node {
            Node::Inner(inner) => {
                let below = level.saturating_sub(1);
                let step = blocks_under(below);
                let mut children = Vec::with_capacity(inner.children().len());
                let mut at = base;
                for child in inner.children() {
                    children.push(self.store_child(below, at, child, stage, sink)?);
                    at = at.saturating_add(step);
                }
                Arc::new(Node::Inner(Inner::new(children)))
            }
            Node::Leaf(_) => Arc::clone(node),
        };
        if own == stage {
            return Ok(Child::Stored(sink.put(&self.hasher, self.spot(level, base), stored)?));
        }
        Ok(Child::Fresh { hash: *hash, node: stored })
    }

    /// Takes stored nodes that readers open first back into memory, so that the next map object holds them again: the way to
    /// block 0, then whatever is above the two lowest levels; at most `budget` of them, which is reduced by their number.
    ///
    /// # Errors
    /// As [`NodeStore::load`].
    pub(crate) async fn renew(&mut self, store: &dyn NodeStore, budget: &mut usize) -> Result<()> {
        for wanted in [Renewed::FirstBlock, Renewed::Top] {
            self.root = self.renew_child(store, self.levels, self.root.clone(), wanted, budget).await?;
        }
        Ok(())
    }

    fn renew_child<'a>(
        &'a self,
        store: &'a dyn NodeStore,
        level: u8,
        child: Child,
        wanted: Renewed,
        budget: &'a mut usize,
    ) -> BoxFuture<'a, Result<Child>> {
        Box::pin(async move {
            let stored = matches!(child, Child::Stored(_));
            if stored && *budget == 0 {
                return Ok(child);
            }
            let Some(node) = open_child(store, self.volume, level, &child).await? else { return Ok(child) };
            *budget = budget.saturating_sub(usize::from(stored));
            let hash = child.hash();
            let Node::Inner(inner) = &*node else { return Ok(Child::Fresh { hash, node }) };
            let below = level.saturating_sub(1);
            let reach = match wanted {
                Renewed::FirstBlock => 1,
                Renewed::Top if below >= 2 => inner.children().len(),
                Renewed::Top => 0,
            };
            let mut renewed = inner.clone();
            for (index, child) in inner.children().iter().enumerate().take(reach) {
                if !child.is_empty() {
                    renewed.set(index, self.renew_child(store, below, child.clone(), wanted, budget).await?);
                }
            }
            Ok(Child::Fresh { hash, node: Arc::new(Node::Inner(renewed)) })
        })
    }

    /// Replaces fresh nodes by references to their stored twins: `written` says what stands where.
    pub(crate) fn adopt(&mut self, written: &HashMap<Spot, NodeRef>) {
        if let Some(root) = self.adopted(self.levels, 0, &self.root, written) {
            self.root = root;
        }
    }

    /// The child with references for what is stored; `None` when nothing of it is.
    fn adopted(&self, level: u8, base: u64, child: &Child, written: &HashMap<Spot, NodeRef>) -> Option<Child> {
        let Child::Fresh { hash, node } = child else { return None };
        if let Some(stored) = written.get(&self.spot(level, base)).filter(|stored| stored.hash == *hash) {
            return Some(Child::Stored(stored.clone()));
        }
        let Node::Inner(inner) = &**node else { return None };
        let below = level.saturating_sub(1);
        let mut changed: Option<Inner> = None;
        let mut at = base;
        for (index, child) in inner.children().iter().enumerate() {
            if let Some(child) = self.adopted(below, at, child, written) {
                changed.get_or_insert_with(|| inner.clone()).set(index, child);
            }
            at = at.saturating_add(blocks_under(below));
        }
        changed.map(|inner| Child::Fresh { hash: *hash, node: Arc::new(Node::Inner(inner)) })
    }

    const fn spot(&self, level: u8, base: u64) -> Spot {
        Spot { volume: self.volume, level, base }
    }
}

/// Which nodes are renewed.
#[derive(Clone, Copy)]
enum Renewed {
    FirstBlock,
    Top,
}
