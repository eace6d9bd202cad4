//! Map objects: finding them, their footers, and their nodes as a [`NodeStore`].
//!
//! A footer is read together with the end of the nodes before it. Writers put there what readers open first (see
//! `ship/map.rs`), so that the way to a volume's first block costs no request of its own.

use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use lifeboat_format::map::{
    MAP_HEADER_LEN, MapFooter, MapHeader, MapKeys, MapObject, MapPlace, MapTrailer, TRAILER_LEN, open_footer,
};
use lifeboat_model::{BranchId, Lsn, MapId};

use super::{Reader, names};
use crate::cause;
use crate::error::{EngineError, ErrorKind, Result};
use crate::tree::{Node, NodeAt, NodeRef, NodeStore, from_stored, verify_node};

/// A map object as a listing names it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MapListing {
    pub(crate) branch: BranchId,
    pub(crate) lsn: Lsn,
    pub(crate) id: MapId,
    pub(crate) len: u64,
}

impl MapListing {
    pub(crate) const fn new(branch: BranchId, lsn: Lsn, id: MapId, len: u64) -> Self {
        Self { branch, lsn, id, len }
    }
}

/// What is read from the end of a map object, or all of it: the footer, and the nodes next to it, which are those that
/// readers open first.
const MAP_TAIL_LEN: u64 = 1 << 20;

/// What a map object says of itself, proved, and the nodes that came along.
#[derive(Debug)]
pub(crate) struct MapHead {
    pub(crate) footer: MapFooter,
    /// Where in the object `nodes` begin.
    nodes_at: u64,
    /// Nodes as they are stored, up to the footer; the first may be cut.
    nodes: Bytes,
}

impl MapHead {
    /// A node that came along with the footer.
    fn stored(&self, range: &Range<u64>) -> Option<Bytes> {
        let from = usize::try_from(range.start.checked_sub(self.nodes_at)?).ok()?;
        let to = usize::try_from(range.end.checked_sub(self.nodes_at)?).ok()?;
        (from <= to && to <= self.nodes.len()).then(|| self.nodes.slice(from..to))
    }

    fn memory(&self) -> usize {
        let lists =
            self.footer.points.len().saturating_mul(96).saturating_add(self.footer.roots.len().saturating_mul(160));
        lists.saturating_add(self.nodes.len())
    }
}

impl Reader {
    /// The map objects of a branch, the newest first.
    pub(crate) async fn list_maps(&self, branch: BranchId) -> Result<Vec<MapListing>> {
        let prefix = names::maps(self.group(), branch);
        let found = self.vault().store().list(&prefix).await.map_err(cause::store)?;
        let mut maps: Vec<MapListing> = found
            .iter()
            .filter_map(|object| {
                let (lsn, id) = names::parse_map(&object.key)?;
                Some(MapListing { branch, lsn, id, len: object.size })
            })
            .collect();
        maps.reverse();
        Ok(maps)
    }

    /// The footer of a map object.
    pub(crate) async fn map_head(&self, map: &MapListing) -> Result<Arc<MapHead>> {
        let weigh = |head: &Arc<MapHead>| head.memory();
        self.heads.get_or_load(&map.id, weigh, async { self.load_head(map).await.map(Arc::new) }).await
    }

    async fn load_head(&self, map: &MapListing) -> Result<MapHead> {
        let MapListing { branch, lsn, id, len } = *map;
        let key = names::map(self.group(), branch, lsn, id);
        let place = MapPlace { vault: self.vault().id(), group: self.group(), branch, lsn, id };
        let refused = |error| cause::object(&key, error);
        if len <= MAP_TAIL_LEN {
            let body = self.get(&key, len).await?;
            let object = MapObject::open(&body, &place, self.key()).map_err(refused)?;
            let footer_at = usize::try_from(object.trailer.footer_range().start).unwrap_or(0);
            let nodes = body.slice(..footer_at.min(body.len()));
            return Ok(MapHead { footer: object.footer, nodes_at: 0, nodes });
        }
        let tail_at = len.saturating_sub(MAP_TAIL_LEN);
        let header_len = u64::try_from(MAP_HEADER_LEN).unwrap_or(u64::MAX);
        let (header, tail) =
            futures::try_join!(self.get_range(&key, 0..header_len), self.get_range(&key, tail_at..len))?;
        let header = MapHeader::decode(&header, &place).map_err(refused)?;
        let trailer_at = tail.len().saturating_sub(TRAILER_LEN);
        let trailer = MapTrailer::decode(tail.get(trailer_at..).unwrap_or_default(), len).map_err(refused)?;
        let range = trailer.footer_range();
        let (stored, nodes) = match range.start.checked_sub(tail_at).and_then(|skip| usize::try_from(skip).ok()) {
            Some(skip) => (tail.slice(skip.min(trailer_at)..trailer_at), tail.slice(..skip.min(trailer_at))),
            None => (self.get_range(&key, range).await?, Bytes::new()),
        };
        let (footer, _) = open_footer(&header, &trailer, &stored, self.key()).map_err(refused)?;
        Ok(MapHead { footer, nodes_at: tail_at, nodes })
    }

    /// Keeps a node that was written a moment ago, so that the next change of it needs no read.
    pub(crate) fn keep_node(&self, at: &NodeRef, node: Arc<Node>) {
        let weight = node.memory();
        self.nodes.insert(&(at.object.id, at.node), node, weight);
    }

    /// The nodes that are in memory: for looking ahead without waiting for the vault.
    pub(crate) const fn at_hand(&self) -> AtHand<'_> {
        AtHand(self)
    }

    /// The stored node, if its object's footer was read and the node is next to it.
    fn came_along(&self, wanted: &NodeAt) -> Option<Bytes> {
        self.heads.get(&wanted.node.object.id)?.stored(&wanted.node.range())
    }

    async fn load_node(&self, wanted: &NodeAt) -> Result<Arc<Node>> {
        if let Some(stored) = self.came_along(wanted) {
            match self.open_node(wanted, &stored).await {
                // Only the footer was proved when they came: a node next to it may have changed on its way, and would be
                // refused for good. The vault is asked again; what it says now counts.
                Err(error) if error.kind() == ErrorKind::Tampered => self.heads.forget(&wanted.node.object.id),
                opened => return opened,
            }
        }
        let key = names::map_of(self.group(), &wanted.node.object);
        let stored = self.get_range(&key, wanted.node.range()).await.map_err(|error| match error.kind() {
            ErrorKind::NotFound => cause::tampered(format!("map object {key} is not in the vault")).with_source(error),
            _ => error,
        })?;
        self.open_node(wanted, &stored).await
    }

    async fn open_node(&self, wanted: &NodeAt, stored: &[u8]) -> Result<Arc<Node>> {
        let key = names::map_of(self.group(), &wanted.node.object);
        let keys = MapKeys::new(self.vault().id(), self.group(), &wanted.node.object, self.key());
        let node = keys.open_node(&wanted.node, stored).map_err(|error| cause::object(&key, error))?;
        let level = node.level();
        let node = from_stored(&node);
        if level != wanted.level {
            return Err(cause::tampered(format!("{key}: node {} stands at another level", wanted.node.node)));
        }
        verify_node(&*self.hasher(wanted.volume).await?, wanted, &node)?;
        Ok(Arc::new(node))
    }
}

#[async_trait]
impl NodeStore for Reader {
    async fn load(&self, wanted: &NodeAt) -> Result<Arc<Node>> {
        // The cache's key names an object and a number in it; the reference's hash was proved when it was loaded, and a
        // reference is as authentic as the node or footer that it came from.
        let key = (wanted.node.object.id, wanted.node.node);
        self.nodes.get_or_load(&key, |node| node.memory(), self.load_node(wanted)).await
    }
}

/// A reader's nodes, as far as no request is needed for them.
#[derive(Debug)]
pub(crate) struct AtHand<'a>(&'a Reader);

#[async_trait]
impl NodeStore for AtHand<'_> {
    async fn load(&self, wanted: &NodeAt) -> Result<Arc<Node>> {
        let known = self.0.nodes.get(&(wanted.node.object.id, wanted.node.node)).is_some();
        if known || self.0.came_along(wanted).is_some() {
            return self.0.load(wanted).await;
        }
        Err(EngineError::new(ErrorKind::NotFound, format!("node {} is not in memory", wanted.node.node)))
    }
}
