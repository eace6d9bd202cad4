//! Map objects: every node of each is decrypted and decoded; every node that a head reaches is held against its hash, and
//! every leaf against what the log gives.
//!
//! A head is walked beside the tree that the log gives at its position: what both have under the same reference was
//! walked with an older head, and is skipped. So each node is come to once, and memory is a path and the nodes of one
//! object. Where the log gives nothing (behind a damage), each block of a leaf is looked up in the index of its segment.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures::stream::{self, StreamExt};
use lifeboat_format::FormatError;
use lifeboat_format::hash::{BlockHasher, blocks_under};
use lifeboat_format::map::{
    Child as StoredChild, MAP_HEADER_LEN, MAP_LEN_MAX, MapFooter, MapHeader, MapKeys, MapPlace, MapTrailer, NodeEntry,
    TRAILER_LEN, VolumeRoot, open_footer,
};
use lifeboat_format::segment::FrameNo;
use lifeboat_model::{Extent, Lsn, MapId, RootHash, VolumeId};

use super::history::{VolumeStanding, Walk};
use super::lost::Lost;
use super::report::{Verdict, of_engine, of_format};
use super::{Fault, Found};
use crate::cause;
use crate::error::{ErrorKind, Result};
use crate::segments::{Segment, names};
use crate::tree::{Child, Leaf, Node, NodeAt, NodeRef, NodeStore, Slot, Tree, from_stored, verify_node};

pub(super) const MAP: &str = "map object";
/// Objects up to this length are read as a whole.
const WHOLE_MAX: u64 = 8 << 20;
/// What is read at a time of longer ones.
const CHUNK: u64 = 4 << 20;
/// Bytes of an object's nodes that are kept for the walk.
const NODES_MAX: usize = 64 << 20;
/// Nodes read at a time.
const PARALLEL: usize = 16;

/// A map object, proved, and its nodes as far as they fit.
struct Object {
    footer: MapFooter,
    id: MapId,
    nodes: HashMap<u32, Arc<Node>>,
}

/// Checks the map object at `lsn`, and goes on from it if it is a head.
pub(super) async fn check(walk: &mut Walk<'_>, lsn: Lsn, id: MapId, len: u64) -> Result<()> {
    let key = names::map(walk.reader.group(), walk.branch.id, lsn, id);
    let place =
        MapPlace { vault: walk.inquiry.vault.id(), group: walk.reader.group(), branch: walk.branch.id, lsn, id };
    let object = match read(walk, &key, place, len).await? {
        Ok(object) => object,
        Err(verdict) => {
            let found = Found::verdict(&key, MAP, verdict);
            walk.inquiry.damage(found.costs(
                "blocks that are found through it alone, charged below; points after it are read from an older map and a longer log once it is moved out of the way",
            ));
            return Ok(());
        }
    };
    let at = object.footer.position;
    if !object.footer.is_head() || !walk.branch.counts(at.epoch, at.seq) {
        return Ok(());
    }
    if let Some(hash) = walk.standing.hash.filter(|_| walk.standing.broken.is_none())
        && (walk.standing.lsn != at.lsn || hash != at.segment_hash || at.lsn != lsn)
    {
        let why = format!(
            "it stands at position {} after the seal hash {}, and the log is at {} with {hash}",
            at.lsn, at.segment_hash, walk.standing.lsn
        );
        walk.inquiry.damage(Found::new(&key, MAP, Fault::Contradiction, why));
        return Ok(());
    }
    go_on_from(walk, &key, &object).await
}

/// Makes the head the standing, once it is compared with what the log gives.
async fn go_on_from(walk: &mut Walk<'_>, key: &str, object: &Object) -> Result<()> {
    let mut before = std::mem::take(&mut walk.standing.volumes);
    let broken = walk.standing.broken.is_some();
    let mut volumes: BTreeMap<VolumeId, VolumeStanding> = BTreeMap::new();
    for root in &object.footer.roots {
        let was = before.remove(&root.volume);
        let standing = volume(walk, key, object, root, was, broken).await?;
        volumes.insert(root.volume, standing);
    }
    // A volume that was erased is in no map any more, and nothing is known of its tree.
    before.retain(|_, standing| standing.tree.is_some());
    if !broken && let Some(left) = before.keys().next() {
        let why = format!("the log has {left} at this position, and the map hasn't");
        walk.inquiry.damage(Found::new(key, MAP, Fault::Contradiction, why));
    }
    walk.standing.volumes = volumes;
    walk.standing.broken = None;
    walk.standing.lsn = object.footer.position.lsn;
    walk.standing.hash = Some(object.footer.position.segment_hash);
    Ok(())
}

async fn volume(
    walk: &mut Walk<'_>,
    key: &str,
    object: &Object,
    root: &VolumeRoot,
    was: Option<VolumeStanding>,
    broken: bool,
) -> Result<VolumeStanding> {
    let blocks = root.size_blocks;
    let hasher = match walk.known.hasher(walk.inquiry, walk.reader, root.volume).await? {
        Ok(hasher) => hasher,
        Err(damage) => {
            let mut standing = VolumeStanding::new(blocks, None, Lost::default());
            standing.doubt = damage;
            return Ok(standing);
        }
    };
    // The map before this one has a tree that can't be read as a whole, as where collecting garbage took parts of it.
    let unknown = was.as_ref().is_some_and(|was| was.tree.is_none());
    let (tree, lost, doubt) = was.map_or_else(Default::default, |was| (was.tree, was.lost, was.doubt));
    let known = tree.filter(|tree| tree.blocks() == blocks || broken);
    let node = match &root.root {
        StoredChild::Zero => None,
        StoredChild::Node(node) => Some(node.clone()),
    };
    let stored = Tree::stored(root.volume, Arc::clone(&hasher), blocks, node);
    let mut standing = VolumeStanding::new(blocks, None, lost);
    let differs = known.as_ref().is_none_or(|tree| tree.root_hash() != stored.root_hash());
    if !broken && !unknown && differs && doubt.is_none() {
        let found = known.as_ref().map_or_else(|| "nothing".to_owned(), |tree| tree.root_hash().to_string());
        let why =
            format!("its tree of {} has the root hash {}, and the log gives {found}", root.volume, stored.root_hash());
        standing.doubt = Some(walk.inquiry.damage(Found::new(key, MAP, Fault::Contradiction, why)));
    } else if !broken {
        standing.doubt = doubt;
    }
    // Where both trees are as deep, what they have under the same reference is skipped.
    let before = known.as_ref().filter(|tree| tree.levels() == stored.levels()).map(|tree| tree.root().clone());
    if before.is_none() {
        standing.lost = Lost::default();
    }
    let pair = Pair { level: stored.levels(), base: 0, before, child: stored.root().clone() };
    let mut beside =
        Beside { walk, object, volume: root.volume, hasher: &hasher, key, standing, sound: true, last: None };
    beside.run(pair).await?;
    let Beside { mut standing, sound, .. } = beside;
    // A tree whose nodes are damaged can't be changed: the one that the log gives can.
    standing.tree = if sound { Some(stored) } else { known.filter(|_| !broken) };
    Ok(standing)
}

/// A subtree of a head, beside what was there before it.
struct Pair {
    level: u8,
    base: u64,
    before: Option<Child>,
    child: Child,
}

impl Pair {
    fn extent(&self) -> Extent {
        Extent { lba: self.base, blocks: blocks_under(self.level) }
    }
}

/// A walk over one volume's tree in a head.
struct Beside<'w, 'a> {
    walk: &'w mut Walk<'a>,
    object: &'w Object,
    volume: VolumeId,
    hasher: &'w BlockHasher,
    key: &'w str,
    standing: VolumeStanding,
    sound: bool,
    /// The segment that was looked into last.
    last: Option<Arc<Segment>>,
}

impl Beside<'_, '_> {
    async fn run(&mut self, root: Pair) -> Result<()> {
        let mut pairs = vec![root];
        while !pairs.is_empty() {
            let mut wanted: Vec<(Pair, NodeRef)> = Vec::new();
            while let Some(pair) = pairs.pop() {
                match (&pair.child, &pair.before) {
                    (Child::Stored(node), Some(Child::Stored(before))) if node == before => {}
                    (Child::Stored(node), _) => {
                        let node = node.clone();
                        wanted.push((pair, node));
                    }
                    (Child::Empty | Child::Fresh { .. }, _) => self.standing.lost.clear(pair.extent()),
                }
                if wanted.len() >= PARALLEL {
                    break;
                }
            }
            let loaded = self.load_all(wanted).await?;
            for (pair, node, before) in loaded {
                match node {
                    Ok(node) => self.open(&pair, &node, before.as_deref(), &mut pairs).await?,
                    Err(damage) => {
                        self.sound = false;
                        // A node covers more than a volume has; what is past its end reads as zeroes without it.
                        let blocks = self.standing.blocks.saturating_sub(pair.base).min(pair.extent().blocks);
                        self.standing.lost.set(Extent { lba: pair.base, blocks }, damage);
                    }
                }
            }
        }
        Ok(())
    }

    /// Loads nodes side by side, and what was there before them.
    async fn load_all(
        &mut self,
        wanted: Vec<(Pair, NodeRef)>,
    ) -> Result<Vec<(Pair, Result<Arc<Node>, usize>, Option<Arc<Node>>)>> {
        let (reader, inquiry, object, volume, hasher) =
            (self.walk.reader, self.walk.inquiry, self.object, self.volume, self.hasher);
        let known = &self.walk.known.nodes;
        let loads = wanted.into_iter().map(|(pair, node)| {
            let wanted = NodeAt { volume, level: pair.level, node };
            let bad =
                [wanted.node.node, WHOLE].iter().find_map(|node| known.get(&(wanted.node.object.id, *node))).copied();
            async move {
                let found = match (bad, object.node(&wanted)) {
                    (Some(damage), _) => Ok(Err(Bad::Known(damage))),
                    (None, Some(node)) => match verify_node(hasher, &wanted, node) {
                        Ok(()) => Ok(Ok(Arc::clone(node))),
                        Err(error) => Ok(Err(Bad::New(of_engine(&error)))),
                    },
                    (None, None) => match inquiry.patiently(async || reader.load(&wanted).await).await {
                        Ok(node) => Ok(Ok(node)),
                        Err(error) if error.kind() == ErrorKind::Closed => Err(error),
                        Err(error) => Ok(Err(Bad::New(of_engine(&error)))),
                    },
                };
                let before = match &pair.before {
                    Some(Child::Fresh { node, .. }) => Some(Arc::clone(node)),
                    Some(Child::Stored(node)) => {
                        let wanted = NodeAt { volume, level: pair.level, node: node.clone() };
                        reader.load(&wanted).await.ok()
                    }
                    Some(Child::Empty) | None => None,
                };
                found.map(|found| (pair, wanted, found, before))
            }
        });
        let loaded: Vec<Result<_>> = stream::iter(loads).buffered(PARALLEL).collect().await;
        let mut out = Vec::with_capacity(loaded.len());
        for one in loaded {
            let (pair, wanted, found, before) = one?;
            let found = found.map_err(|bad| match bad {
                Bad::Known(damage) => damage,
                Bad::New(verdict) => self.bad_node(&wanted.node, verdict),
            });
            out.push((pair, found, before));
        }
        Ok(out)
    }

    fn bad_node(&mut self, node: &NodeRef, verdict: Verdict) -> usize {
        let whole = verdict.fault == Fault::Missing;
        let name = (node.object.id, if whole { WHOLE } else { node.node });
        if let Some(damage) = self.walk.known.nodes.get(&name) {
            return *damage;
        }
        let key = names::map_of(self.walk.reader.group(), &node.object);
        let found = Found::verdict(&key, MAP, verdict);
        let found = if whole {
            found
        } else {
            Found { part: Some(format!("node {}", node.node)), offset: Some(node.offset), ..found }
        };
        let damage = self.walk.inquiry.damage(found);
        self.walk.known.nodes.insert(name, damage);
        damage
    }

    async fn open(&mut self, pair: &Pair, node: &Node, before: Option<&Node>, pairs: &mut Vec<Pair>) -> Result<()> {
        match node {
            Node::Leaf(leaf) => {
                let before = match before {
                    Some(Node::Leaf(before)) => Some(before),
                    Some(Node::Inner(_)) | None => None,
                };
                self.leaf(pair.base, leaf, before).await
            }
            Node::Inner(inner) => {
                let level = pair.level.saturating_sub(1);
                let mut base = pair.base;
                for (index, child) in inner.children().iter().enumerate() {
                    let before = match before {
                        Some(node) => node.children().get(index).cloned(),
                        None => None,
                    };
                    if base < self.standing.blocks {
                        pairs.push(Pair { level, base, before, child: child.clone() });
                    }
                    base = base.saturating_add(blocks_under(level));
                }
                Ok(())
            }
        }
    }

    /// Holds the places of a leaf's blocks against the log.
    async fn leaf(&mut self, base: u64, leaf: &Leaf, before: Option<&Leaf>) -> Result<()> {
        for index in 0..blocks_under(0) {
            let slot = leaf.get(index);
            let block = Extent { lba: base.saturating_add(index), blocks: 1 };
            let damage = match slot {
                // As the log gave it: what is wrong there is known.
                Some(slot) if before.is_some_and(|before| before.get(index) == Some(slot)) => self.known(&slot),
                Some(slot) => self.place(block.lba, &slot).await?,
                None => None,
            };
            self.standing.lose(block, damage);
        }
        Ok(())
    }

    /// The damage that is known of a place.
    fn known(&self, slot: &Slot) -> Option<usize> {
        let (id, frame) = (slot.at.segment, slot.at.frame);
        self.walk.known.segments.get(&id).or_else(|| self.walk.known.frames.get(&(id, frame))).copied()
    }

    /// The damage because of which a block can't be read where a leaf says that it is.
    async fn place(&mut self, lba: u64, slot: &Slot) -> Result<Option<usize>> {
        let (id, frame) = (slot.at.segment, slot.at.frame);
        if let Some(damage) = self.known(slot) {
            return Ok(Some(damage));
        }
        let segment = match self.last.clone().filter(|last| last.id == id) {
            Some(segment) => segment,
            None => {
                let (inquiry, reader) = (self.walk.inquiry, self.walk.reader);
                match inquiry.patiently(async || reader.original(id, None).await).await {
                    Ok(segment) => segment,
                    Err(error) if error.kind() == ErrorKind::Closed => return Err(error),
                    Err(error) if cause::is_gone(&error) => return self.rebuilt_place(lba, slot).await,
                    Err(error) => {
                        let key = names::segment(reader.group(), id);
                        let damage = inquiry.damage(super::data::found(&key, of_engine(&error), None));
                        self.walk.known.segments.insert(id, damage);
                        return Ok(Some(damage));
                    }
                }
            }
        };
        self.last = Some(Arc::clone(&segment));
        let is_there = segment.index.frame(FrameNo(frame)).is_ok_and(|entry| {
            segment.index.volume_of(entry).is_ok_and(|volume| volume.volume == self.volume)
                && entry.blocks().any(|block| block == (lba, slot.at.slot, slot.hash))
        });
        if is_there {
            return Ok(None);
        }
        Ok(Some(self.is_not_there(lba, slot)))
    }

    /// The same for a segment that is gone.
    async fn rebuilt_place(&mut self, lba: u64, slot: &Slot) -> Result<Option<usize>> {
        let (inquiry, reader) = (self.walk.inquiry, self.walk.reader);
        let (id, frame) = (slot.at.segment, slot.at.frame);
        let held = inquiry.patiently(async || reader.rebuilt_holds(id, (frame, slot.at.slot), slot.hash).await).await;
        match held {
            Ok(true) => Ok(None),
            Ok(false) => Ok(Some(self.is_not_there(lba, slot))),
            Err(error) if error.kind() == ErrorKind::Closed => Err(error),
            Err(error) => {
                let key = names::segment(reader.group(), id);
                let damage = inquiry.damage(super::data::found(&key, of_engine(&error), None));
                self.walk.known.segments.insert(id, damage);
                Ok(Some(damage))
            }
        }
    }

    fn is_not_there(&mut self, lba: u64, slot: &Slot) -> usize {
        let (id, frame) = (slot.at.segment, slot.at.frame);
        let why = format!(
            "it says that block {lba} of {} is in slot {} of frame {frame} of segment {id}, and that isn't so",
            self.volume, slot.at.slot
        );
        let damage = self.walk.inquiry.damage(Found::new(self.key, MAP, Fault::Contradiction, why));
        self.walk.known.frames.insert((id, frame), damage);
        damage
    }
}

/// Stands for all nodes of an object that is gone.
const WHOLE: u32 = u32::MAX;

/// A node that can't be used.
enum Bad {
    Known(usize),
    New(Verdict),
}

impl Object {
    fn node(&self, wanted: &NodeAt) -> Option<&Arc<Node>> {
        self.nodes.get(&wanted.node.node).filter(|_| wanted.node.object.id == self.id)
    }
}

/// Proves an object and reads all of its nodes; those that are damaged are reported, and known from then on.
async fn read(walk: &mut Walk<'_>, key: &str, place: MapPlace, len: u64) -> Result<Result<Object, Verdict>> {
    let (inquiry, reader) = (walk.inquiry, walk.reader);
    let fetch = async |range: Range<u64>| inquiry.patiently(async || reader.get_range(key, range.clone()).await).await;
    inquiry.looked_at(len);
    let refused = |error: &FormatError| Ok(Err(of_format(error)));
    if len > MAP_LEN_MAX {
        return refused(&FormatError::TooLarge { what: "map", found: len, limit: MAP_LEN_MAX });
    }
    let whole = if len <= WHOLE_MAX {
        match inquiry.patiently(async || reader.get(key, len).await).await {
            Ok(bytes) => Some(bytes),
            Err(error) if error.kind() == ErrorKind::Closed => return Err(error),
            Err(error) => return Ok(Err(of_engine(&error))),
        }
    } else {
        None
    };
    let part = async |range: Range<u64>| match &whole {
        Some(bytes) => Ok(cut(bytes, range)),
        None => fetch(range).await,
    };
    macro_rules! given {
        ($read:expr) => {
            match $read {
                Ok(bytes) => bytes,
                Err(error) if error.kind() == ErrorKind::Closed => return Err(error),
                Err(error) => return Ok(Err(of_engine(&error))),
            }
        };
    }
    let header = given!(part(0..len64(MAP_HEADER_LEN).min(len)).await);
    let trailer = given!(part(len.saturating_sub(len64(TRAILER_LEN))..len).await);
    let header = match MapHeader::decode(&header, &place) {
        Ok(header) => header,
        Err(error) => return refused(&error),
    };
    let trailer = match MapTrailer::decode(&trailer, len) {
        Ok(trailer) => trailer,
        Err(error) => return refused(&error),
    };
    let stored = given!(part(trailer.footer_range()).await);
    let (footer, entries) = match open_footer(&header, &trailer, &stored, reader.key()) {
        Ok(found) => found,
        Err(error) => return refused(&error),
    };
    let object = Arc::new(header.reference());
    let keys = MapKeys::new(place.vault, place.group, &object, reader.key());
    let mut nodes = HashMap::new();
    let mut room = NODES_MAX;
    for chunk in chunks(&entries) {
        let bytes = given!(part(chunk.range.clone()).await);
        for (node, entry, offset) in chunk.nodes {
            let at = NodeRef {
                object: Arc::clone(&object),
                node,
                offset,
                stored_len: entry.stored_len,
                raw_len: entry.raw_len,
                hash: RootHash::ZERO,
            };
            let start = offset.saturating_sub(chunk.range.start);
            let stored = cut(&bytes, start..start.saturating_add(u64::from(entry.stored_len)));
            match keys.open_node(&at, &stored) {
                Ok(node_found) => {
                    let found = from_stored(&node_found);
                    room = room.saturating_sub(found.memory());
                    if room > 0 {
                        nodes.insert(node, Arc::new(found));
                    }
                }
                Err(error) => {
                    let part = Some(format!("node {node}"));
                    let found = Found { part, offset: Some(offset), ..Found::verdict(key, MAP, of_format(&error)) };
                    walk.known.nodes.insert((place.id, node), inquiry.damage(found));
                }
            }
        }
    }
    Ok(Ok(Object { footer, id: place.id, nodes }))
}

/// Nodes that are read by one request: number, lengths, offset.
struct Chunk {
    range: Range<u64>,
    nodes: Vec<(u32, NodeEntry, u64)>,
}

fn chunks(entries: &[NodeEntry]) -> Vec<Chunk> {
    let mut chunks: Vec<Chunk> = Vec::new();
    let mut offset = len64(MAP_HEADER_LEN);
    for (number, entry) in (0_u32..).zip(entries) {
        let end = offset.saturating_add(u64::from(entry.stored_len));
        match chunks.last_mut() {
            Some(chunk) if end.saturating_sub(chunk.range.start) <= CHUNK => {
                chunk.range.end = end;
                chunk.nodes.push((number, *entry, offset));
            }
            _ => chunks.push(Chunk { range: offset..end, nodes: vec![(number, *entry, offset)] }),
        }
        offset = end;
    }
    chunks
}

fn cut(bytes: &Bytes, range: Range<u64>) -> Bytes {
    let index = |at: u64| usize::try_from(at).unwrap_or(usize::MAX).min(bytes.len());
    bytes.slice(index(range.start).min(index(range.end))..index(range.end))
}

fn len64(len: usize) -> u64 {
    u64::try_from(len).unwrap_or(u64::MAX)
}
