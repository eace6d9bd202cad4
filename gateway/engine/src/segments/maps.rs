//! Map objects: finding them, their footers, and their nodes as a [`NodeStore`].

use std::sync::Arc;

use async_trait::async_trait;
use lifeboat_format::map::{
    MAP_HEADER_LEN, MapFooter, MapHeader, MapKeys, MapObject, MapPlace, MapTrailer, TRAILER_LEN, open_footer,
};
use lifeboat_model::{BranchId, Lsn, MapId};

use super::{Reader, TAIL_LEN, WHOLE_OBJECT_MAX, names};
use crate::cause;
use crate::error::{ErrorKind, Result};
use crate::tree::{Node, NodeAt, NodeRef, NodeStore, from_stored, verify_node};

/// A map object as a listing names it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MapListing {
    pub(crate) branch: BranchId,
    pub(crate) lsn: Lsn,
    pub(crate) id: MapId,
    len: u64,
}

/// What a map object says of itself, proved.
#[derive(Debug)]
pub(crate) struct MapHead {
    pub(crate) footer: MapFooter,
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
        let weigh = |head: &Arc<MapHead>| {
            head.footer.points.len().saturating_mul(96).saturating_add(head.footer.roots.len().saturating_mul(160))
        };
        self.heads.get_or_load(&map.id, weigh, async { self.load_head(map).await.map(Arc::new) }).await
    }

    async fn load_head(&self, map: &MapListing) -> Result<MapHead> {
        let MapListing { branch, lsn, id, len } = *map;
        let key = names::map(self.group(), branch, lsn, id);
        let place = MapPlace { vault: self.vault().id(), group: self.group(), branch, lsn, id };
        let refused = |error| cause::object(&key, error);
        if len <= WHOLE_OBJECT_MAX {
            let body = self.get(&key, len).await?;
            let object = MapObject::open(&body, &place, self.key()).map_err(refused)?;
            return Ok(MapHead { footer: object.footer });
        }
        let tail_at = len.saturating_sub(TAIL_LEN);
        let header_len = u64::try_from(MAP_HEADER_LEN).unwrap_or(u64::MAX);
        let (header, tail) =
            futures::try_join!(self.get_range(&key, 0..header_len), self.get_range(&key, tail_at..len))?;
        let header = MapHeader::decode(&header, &place).map_err(refused)?;
        let trailer_at = tail.len().saturating_sub(TRAILER_LEN);
        let trailer = MapTrailer::decode(tail.get(trailer_at..).unwrap_or_default(), len).map_err(refused)?;
        let range = trailer.footer_range();
        let stored = match range.start.checked_sub(tail_at).and_then(|skip| usize::try_from(skip).ok()) {
            Some(skip) => tail.slice(skip.min(trailer_at)..trailer_at),
            None => self.get_range(&key, range).await?,
        };
        let (footer, _) = open_footer(&header, &trailer, &stored, self.key()).map_err(refused)?;
        Ok(MapHead { footer })
    }

    /// Keeps a node that was written a moment ago, so that the next change of it needs no read.
    pub(crate) fn keep_node(&self, at: &NodeRef, node: Node) {
        let weight = node.memory();
        self.nodes.insert(&(at.object.id, at.node), Arc::new(node), weight);
    }

    async fn load_node(&self, wanted: &NodeAt) -> Result<Arc<Node>> {
        let key = names::map_of(self.group(), &wanted.node.object);
        let stored = self.get_range(&key, wanted.node.range()).await.map_err(|error| match error.kind() {
            ErrorKind::NotFound => cause::tampered(format!("map object {key} is not in the vault")).with_source(error),
            _ => error,
        })?;
        let keys = MapKeys::new(self.vault().id(), self.group(), &wanted.node.object, self.key());
        let node = keys.open_node(&wanted.node, &stored).map_err(|error| cause::object(&key, error))?;
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
