//! The nodes of a volume's tree, and how they are laid out before compression.
//!
//! ```text
//! leaf    tag 1, segment table {branch, epoch, seq}, runs {slot, count, segment, frame, frame slot}, hashes
//! inner   tag 2, level, object table {branch, LSN, id, salt}, 256 children {0} | {1, object, node, offset, lengths, hash}
//! ```

use std::sync::Arc;

use lifeboat_model::{BlockHash, BranchId, Epoch, Lsn, MAP_FANOUT, MapId, RootHash, SegmentId, SegmentSeq};

use super::MAP_NODE_LEN_MAX;
use crate::FormatError;
use crate::hash::{BlockHasher, LEAF_SLOTS};
use crate::keys::Salt;
use crate::seal;
use crate::segment::{FRAME_BLOCKS_MAX, FrameNo};
use crate::wire::{Put, Reader, len64};

const WHAT: &str = "map node";
const TAG_LEAF: u8 = 1;
const TAG_INNER: u8 = 2;
const SEGMENT_LEN: usize = 32;
const RUN_LEN: usize = 11;
const OBJECT_LEN: usize = 56;
/// Highest level of an inner node: 256^4 leaves cover more than the largest volume.
const LEVEL_MAX: u8 = 4;

/// Where one block is in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BlockLocation {
    /// The segment.
    pub segment: SegmentId,
    /// The frame in it.
    pub frame: FrameNo,
    /// The block's slot in the frame, 0 to 15.
    pub slot: u8,
}

/// Consecutive slots of a leaf that are consecutive slots of one frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeafRun {
    /// First slot in the leaf.
    pub slot: u16,
    /// Number of slots, 1 to 16.
    pub count: u16,
    /// Place of the segment in the leaf's table.
    pub segment: u16,
    /// The frame.
    pub frame: FrameNo,
    /// First slot in the frame.
    pub frame_slot: u8,
}

/// The locations and hashes of 512 blocks. A slot without a run is a block of zeroes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LeafNode {
    segments: Vec<SegmentId>,
    runs: Vec<LeafRun>,
    /// Hashes of the slots that the runs cover, in order.
    hashes: Vec<BlockHash>,
}

impl LeafNode {
    /// Whether every block is zero. Such a leaf is never written: its parent says [`Child::Zero`].
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// Location and hash of a block; none for a block of zeroes.
    #[must_use]
    pub fn get(&self, slot: u16) -> Option<(BlockLocation, BlockHash)> {
        let mut before = 0_usize;
        for run in &self.runs {
            if let Some(step) = slot.checked_sub(run.slot).filter(|step| *step < run.count) {
                let location = BlockLocation {
                    segment: *self.segments.get(usize::from(run.segment))?,
                    frame: run.frame,
                    slot: run.frame_slot.saturating_add(u8::try_from(step).ok()?),
                };
                return Some((location, *self.hashes.get(before.saturating_add(usize::from(step)))?));
            }
            before = before.saturating_add(usize::from(run.count));
        }
        None
    }

    /// The blocks that are not zero: (slot, location, hash), slots ascending.
    pub fn blocks(&self) -> impl Iterator<Item = (u16, BlockLocation, BlockHash)> + '_ {
        let placed = self.runs.iter().flat_map(|run| {
            let segment = self.segments.get(usize::from(run.segment)).copied();
            (0..run.count).zip(run.frame_slot..).filter_map(move |(step, slot)| {
                let location = BlockLocation { segment: segment?, frame: run.frame, slot };
                Some((run.slot.saturating_add(step), location))
            })
        });
        placed.zip(&self.hashes).map(|((slot, location), hash)| (slot, location, *hash))
    }

    /// The segments that hold a block of it.
    #[must_use]
    pub fn segments(&self) -> &[SegmentId] {
        &self.segments
    }

    /// Its runs, slots ascending.
    #[must_use]
    pub fn runs(&self) -> &[LeafRun] {
        &self.runs
    }

    /// The hashes of all 512 blocks.
    #[must_use]
    pub fn block_hashes(&self) -> Box<[BlockHash; LEAF_SLOTS]> {
        let mut all = Box::new([BlockHash::ZERO; LEAF_SLOTS]);
        for (slot, _, hash) in self.blocks() {
            if let Some(place) = all.get_mut(usize::from(slot)) {
                *place = hash;
            }
        }
        all
    }

    /// Its Merkle hash.
    #[must_use]
    pub fn hash(&self, hasher: &BlockHasher) -> RootHash {
        hasher.leaf(&self.block_hashes())
    }

    /// A copy to change.
    #[must_use]
    pub fn edit(&self) -> LeafEditor {
        let mut editor = LeafEditor::default();
        for (slot, location, hash) in self.blocks() {
            editor.set(slot, location, hash);
        }
        editor
    }

    fn put(&self, out: &mut Vec<u8>) -> Result<(), FormatError> {
        out.put_u8(TAG_LEAF);
        out.put_count(WHAT, self.segments.len(), LEAF_SLOTS)?;
        for segment in &self.segments {
            out.put(&segment.branch.to_bytes());
            out.put_u64(segment.epoch.0);
            out.put_u64(segment.seq.0);
        }
        out.put_count(WHAT, self.runs.len(), LEAF_SLOTS)?;
        for run in &self.runs {
            out.put_u16(run.slot);
            out.put_u16(run.count);
            out.put_u16(run.segment);
            out.put_u32(run.frame.0);
            out.put_u8(run.frame_slot);
        }
        seal::put_hashes(out, &self.hashes);
        Ok(())
    }

    fn take(reader: &mut Reader<'_>) -> Result<Self, FormatError> {
        let count = reader.count(LEAF_SLOTS, SEGMENT_LEN)?;
        let mut segments = Vec::with_capacity(count);
        for _ in 0..count {
            segments.push(SegmentId {
                branch: BranchId::from_bytes(reader.array()?),
                epoch: Epoch(reader.u64()?),
                seq: SegmentSeq(reader.u64()?),
            });
        }
        let count = reader.count(LEAF_SLOTS, RUN_LEN)?;
        let mut runs = Vec::with_capacity(count);
        let mut covered = 0_usize;
        let mut next_slot = 0_u16;
        for _ in 0..count {
            let run = LeafRun {
                slot: reader.u16()?,
                count: reader.u16()?,
                segment: reader.u16()?,
                frame: FrameNo(reader.u32()?),
                frame_slot: reader.u8()?,
            };
            let end = run.slot.saturating_add(run.count);
            let frame_end = usize::from(run.frame_slot).saturating_add(usize::from(run.count));
            if run.count == 0 || run.slot < next_slot || usize::from(end) > LEAF_SLOTS {
                return Err(reader.corrupt("the runs of a leaf are empty, overlap or don't ascend"));
            }
            if frame_end > FRAME_BLOCKS_MAX || usize::from(run.segment) >= segments.len() {
                return Err(reader.corrupt("a run of a leaf reaches past its frame or names no segment"));
            }
            next_slot = end;
            covered = covered.saturating_add(usize::from(run.count));
            runs.push(run);
        }
        let mut hashes = Vec::with_capacity(covered);
        for _ in 0..covered {
            let hash = BlockHash(reader.array()?);
            if hash.is_zero() {
                return Err(reader.corrupt("a block of zeroes has a location"));
            }
            hashes.push(hash);
        }
        if runs.is_empty() {
            return Err(reader.corrupt("a leaf without blocks is never written"));
        }
        Ok(Self { segments, runs, hashes })
    }
}

/// A leaf that is being changed: one entry a block.
#[derive(Clone, Debug)]
pub struct LeafEditor {
    slots: Vec<Option<(BlockLocation, BlockHash)>>,
}

impl Default for LeafEditor {
    fn default() -> Self {
        Self { slots: vec![None; LEAF_SLOTS] }
    }
}

impl LeafEditor {
    /// Puts a block at a slot below 512. A zero hash makes it a block of zeroes.
    pub fn set(&mut self, slot: u16, location: BlockLocation, hash: BlockHash) {
        debug_assert!(usize::from(slot) < LEAF_SLOTS && usize::from(location.slot) < FRAME_BLOCKS_MAX);
        if let Some(place) = self.slots.get_mut(usize::from(slot)) {
            *place = if hash.is_zero() { None } else { Some((location, hash)) };
        }
    }

    /// Makes a block zero.
    pub fn clear(&mut self, slot: u16) {
        if let Some(place) = self.slots.get_mut(usize::from(slot)) {
            *place = None;
        }
    }

    /// Location and hash of a block; none for a block of zeroes.
    #[must_use]
    pub fn get(&self, slot: u16) -> Option<(BlockLocation, BlockHash)> {
        self.slots.get(usize::from(slot)).copied().flatten()
    }

    /// The leaf: the fewest runs, segments in the order of their first use, so that equal content gives equal bytes.
    #[must_use]
    pub fn freeze(&self) -> LeafNode {
        let mut leaf = LeafNode::default();
        for (slot, entry) in (0_u16..).zip(&self.slots) {
            let Some((location, hash)) = entry else { continue };
            let segment = match leaf.segments.iter().rposition(|known| *known == location.segment) {
                Some(at) => at,
                None => {
                    leaf.segments.push(location.segment);
                    leaf.segments.len().saturating_sub(1)
                }
            };
            // At most 512 segments: one a slot.
            let segment = u16::try_from(segment).unwrap_or(u16::MAX);
            leaf.hashes.push(*hash);
            match leaf.runs.last_mut() {
                Some(run)
                    if run.slot.saturating_add(run.count) == slot
                        && run.segment == segment
                        && run.frame == location.frame
                        && u16::from(run.frame_slot).saturating_add(run.count) == u16::from(location.slot) =>
                {
                    run.count = run.count.saturating_add(1);
                }
                _ => leaf.runs.push(LeafRun {
                    slot,
                    count: 1,
                    segment,
                    frame: location.frame,
                    frame_slot: location.slot,
                }),
            }
        }
        leaf
    }
}

/// A map object, as references name it: with the salt, so that its nodes can be read without its header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MapObjectRef {
    /// The branch under which it is stored.
    pub branch: BranchId,
    /// The log position in its name.
    pub lsn: Lsn,
    /// The id in its name.
    pub id: MapId,
    /// Its salt.
    pub salt: Salt,
}

impl MapObjectRef {
    pub(super) fn put(&self, out: &mut Vec<u8>) {
        out.put(&self.branch.to_bytes());
        out.put_u64(self.lsn.0);
        out.put(&self.id.to_bytes());
        out.put(&self.salt);
    }

    pub(super) fn take(reader: &mut Reader<'_>) -> Result<Self, FormatError> {
        Ok(Self {
            branch: BranchId::from_bytes(reader.array()?),
            lsn: Lsn(reader.u64()?),
            id: MapId::from_bytes(reader.array()?),
            salt: reader.array()?,
        })
    }
}

/// Where a node is, and what its hash must be.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct NodeRef {
    /// The object.
    pub object: Arc<MapObjectRef>,
    /// The node's number in it.
    pub node: u32,
    /// Where in the object its bytes begin.
    pub offset: u64,
    /// Bytes that it takes there.
    pub stored_len: u32,
    /// Bytes before compression.
    pub raw_len: u32,
    /// Its Merkle hash.
    pub hash: RootHash,
}

impl NodeRef {
    /// Where in the object its bytes are.
    #[must_use]
    pub fn range(&self) -> std::ops::Range<u64> {
        self.offset..self.offset.saturating_add(u64::from(self.stored_len))
    }

    pub(super) fn put(&self, out: &mut Vec<u8>) {
        out.put_u32(self.node);
        out.put_u64(self.offset);
        out.put_u32(self.stored_len);
        out.put_u32(self.raw_len);
        out.put(&self.hash.0);
    }

    pub(super) fn take(reader: &mut Reader<'_>, object: Arc<MapObjectRef>) -> Result<Self, FormatError> {
        let node = Self {
            object,
            node: reader.u32()?,
            offset: reader.u64()?,
            stored_len: reader.u32()?,
            raw_len: reader.u32()?,
            hash: RootHash(reader.array()?),
        };
        if node.raw_len > MAP_NODE_LEN_MAX || node.stored_len > MAP_NODE_LEN_MAX.saturating_mul(2) {
            return Err(reader.corrupt("a reference names a node that is longer than any"));
        }
        if node.hash.is_zero() {
            return Err(reader.corrupt("a subtree of zeroes has a location"));
        }
        Ok(node)
    }
}

/// A child of an inner node, or the root of a tree.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Child {
    /// A subtree of zeroes.
    #[default]
    Zero,
    /// A subtree that begins with this node.
    Node(NodeRef),
}

impl Child {
    /// Its Merkle hash.
    #[must_use]
    pub fn hash(&self) -> RootHash {
        match self {
            Self::Zero => RootHash::ZERO,
            Self::Node(node) => node.hash,
        }
    }
}

/// 256 subtrees and their hashes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InnerNode {
    level: u8,
    children: Vec<Child>,
}

impl InnerNode {
    /// A node over zeroes at `level` (1 = right above the leaves).
    #[must_use]
    pub fn new(level: u8) -> Self {
        debug_assert!((1..=LEVEL_MAX).contains(&level));
        Self { level, children: vec![Child::Zero; MAP_FANOUT] }
    }

    /// Its level: 1 right above the leaves.
    #[must_use]
    pub fn level(&self) -> u8 {
        self.level
    }

    /// One child.
    #[must_use]
    pub fn child(&self, at: u8) -> &Child {
        self.children.get(usize::from(at)).unwrap_or(&Child::Zero)
    }

    /// All 256 children.
    #[must_use]
    pub fn children(&self) -> &[Child] {
        &self.children
    }

    /// Replaces a child.
    pub fn set_child(&mut self, at: u8, child: Child) {
        if let Some(place) = self.children.get_mut(usize::from(at)) {
            *place = child;
        }
    }

    /// Whether all children are zero. Such a node is never written.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.children.iter().all(|child| *child == Child::Zero)
    }

    /// The hashes of its children.
    #[must_use]
    pub fn child_hashes(&self) -> Box<[RootHash; MAP_FANOUT]> {
        let mut all = Box::new([RootHash::ZERO; MAP_FANOUT]);
        all.iter_mut().zip(&self.children).for_each(|(place, child)| *place = child.hash());
        all
    }

    /// Its Merkle hash.
    #[must_use]
    pub fn hash(&self, hasher: &BlockHasher) -> RootHash {
        hasher.inner(self.level, &self.child_hashes())
    }

    fn put(&self, out: &mut Vec<u8>) -> Result<(), FormatError> {
        let mut objects: Vec<&MapObjectRef> = Vec::new();
        let mut children = Vec::with_capacity(8192);
        for child in &self.children {
            let Child::Node(node) = child else {
                children.put_u8(0);
                continue;
            };
            let at = objects.iter().rposition(|known| **known == *node.object).unwrap_or_else(|| {
                objects.push(&node.object);
                objects.len().saturating_sub(1)
            });
            children.put_u8(1);
            children.put_u16(u16::try_from(at).unwrap_or(u16::MAX));
            node.put(&mut children);
        }
        out.put_u8(TAG_INNER);
        out.put_u8(self.level);
        out.put_count(WHAT, objects.len(), MAP_FANOUT)?;
        objects.iter().for_each(|object| object.put(out));
        out.put(&children);
        Ok(())
    }

    fn take(reader: &mut Reader<'_>) -> Result<Self, FormatError> {
        let level = reader.u8()?;
        if level == 0 || level > LEVEL_MAX {
            return Err(reader.corrupt("no inner node has that level"));
        }
        let count = reader.count(MAP_FANOUT, OBJECT_LEN)?;
        let mut objects = Vec::with_capacity(count);
        for _ in 0..count {
            objects.push(Arc::new(MapObjectRef::take(reader)?));
        }
        let mut children = Vec::with_capacity(MAP_FANOUT);
        for _ in 0..MAP_FANOUT {
            children.push(if reader.flag()? {
                let at = usize::from(reader.u16()?);
                let object = objects.get(at).cloned();
                let object = object.ok_or_else(|| reader.corrupt("a child names no object"))?;
                Child::Node(NodeRef::take(reader, object)?)
            } else {
                Child::Zero
            });
        }
        let node = Self { level, children };
        if node.is_empty() { Err(reader.corrupt("an inner node without children is never written")) } else { Ok(node) }
    }
}

/// A node as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Node {
    /// 512 blocks.
    Leaf(LeafNode),
    /// 256 subtrees.
    Inner(InnerNode),
}

impl Node {
    /// Its Merkle hash.
    #[must_use]
    pub fn hash(&self, hasher: &BlockHasher) -> RootHash {
        match self {
            Self::Leaf(leaf) => leaf.hash(hasher),
            Self::Inner(inner) => inner.hash(hasher),
        }
    }

    /// Its level: 0 for a leaf.
    #[must_use]
    pub fn level(&self) -> u8 {
        match self {
            Self::Leaf(_) => 0,
            Self::Inner(inner) => inner.level,
        }
    }

    pub(super) fn encode(&self) -> Result<Vec<u8>, FormatError> {
        let mut out = Vec::new();
        match self {
            Self::Leaf(leaf) => leaf.put(&mut out)?,
            Self::Inner(inner) => inner.put(&mut out)?,
        }
        let limit = u64::from(MAP_NODE_LEN_MAX);
        let found = len64(out.len());
        if found > limit { Err(FormatError::TooLarge { what: WHAT, found, limit }) } else { Ok(out) }
    }

    /// Decodes a node before compression and encryption are put on, or after they were taken off.
    pub(super) fn decode(raw: &[u8]) -> Result<Self, FormatError> {
        let mut reader = Reader::new(WHAT, raw);
        let node = match reader.u8()? {
            TAG_LEAF => Self::Leaf(LeafNode::take(&mut reader)?),
            TAG_INNER => Self::Inner(InnerNode::take(&mut reader)?),
            _ => return Err(reader.corrupt("no such kind of node")),
        };
        reader.finish()?;
        Ok(node)
    }
}
