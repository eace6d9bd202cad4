//! Nodes in memory: what they hold and what they hash to.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use lifeboat_format::hash::{BlockHasher, LEAF_SLOTS};
use lifeboat_format::map::{self, BlockLocation, InnerNode, LeafEditor};
use lifeboat_format::segment::FrameNo;
use lifeboat_model::{BlockHash, MAP_FANOUT, RootHash, SegmentId};

pub use lifeboat_format::map::NodeRef;

/// Where a block's content is: a slot of a frame of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Location {
    /// The segment.
    pub segment: SegmentId,
    /// Number of the frame in it.
    pub frame: u32,
    /// Which block of the frame, 0 … 15.
    pub slot: u8,
}

/// A block that isn't zero: its hash and its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    /// Keyed hash of the content; never zero.
    pub hash: BlockHash,
    /// Where the content is.
    pub at: Location,
}

/// Where a block of a leaf is; the segment is a position in the leaf's own table, which makes it 8 bytes instead of 48.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Packed {
    segment: u16,
    slot: u8,
    frame: u32,
}

/// 512 blocks. One of which few blocks are known to hold something takes little memory: a volume that is written to all
/// over has nearly only such leaves.
#[derive(Clone, Debug)]
pub struct Leaf {
    blocks: Blocks,
    segments: Vec<SegmentId>,
}

/// A block that isn't zero.
#[derive(Clone, Copy, Debug)]
struct Known {
    index: u16,
    hash: BlockHash,
    place: Packed,
}

#[derive(Clone, Debug)]
enum Blocks {
    /// Those that aren't zero, by index, at most [`FEW`].
    Few(Vec<Known>),
    All {
        hashes: Box<[BlockHash; LEAF_SLOTS]>,
        places: Box<[Packed; LEAF_SLOTS]>,
    },
}

/// Blocks that are listed: more stand in an array, which takes as much memory as a list of twice as many.
const FEW: usize = 128;

impl Default for Leaf {
    fn default() -> Self {
        Self { blocks: Blocks::Few(Vec::new()), segments: Vec::new() }
    }
}

impl Leaf {
    /// The hashes of its blocks.
    #[must_use]
    pub fn hashes(&self) -> Cow<'_, [BlockHash; LEAF_SLOTS]> {
        match &self.blocks {
            Blocks::All { hashes, .. } => Cow::Borrowed(&**hashes),
            Blocks::Few(few) => {
                let mut hashes = [BlockHash::ZERO; LEAF_SLOTS];
                for known in few {
                    if let Some(to) = hashes.get_mut(usize::from(known.index)) {
                        *to = known.hash;
                    }
                }
                Cow::Owned(hashes)
            }
        }
    }

    /// The block at `index`, counted from the leaf's first; `None` when it is zero or past the leaf.
    #[must_use]
    pub fn get(&self, index: u64) -> Option<Slot> {
        let index = u16::try_from(index).ok()?;
        let (hash, place) = match &self.blocks {
            Blocks::Few(few) => {
                let known = few.get(few.binary_search_by_key(&index, |known| known.index).ok()?)?;
                (known.hash, known.place)
            }
            Blocks::All { hashes, places } => (*hashes.get(usize::from(index))?, *places.get(usize::from(index))?),
        };
        self.slot(hash, place)
    }

    fn slot(&self, hash: BlockHash, place: Packed) -> Option<Slot> {
        if hash.is_zero() {
            return None;
        }
        let segment = *self.segments.get(usize::from(place.segment))?;
        Some(Slot { hash, at: Location { segment, frame: place.frame, slot: place.slot } })
    }

    /// Blocks that aren't zero, with their index, in order.
    pub fn iter(&self) -> impl Iterator<Item = (u16, Slot)> + '_ {
        let (few, all) = match &self.blocks {
            Blocks::Few(few) => (&few[..], None),
            Blocks::All { hashes, places } => (&[][..], Some((hashes, places))),
        };
        let few = few.iter().map(|known| (known.index, known.hash, known.place));
        let all = all.into_iter().flat_map(|(hashes, places)| {
            (0_u16..).zip(hashes.iter().zip(places.iter())).map(|(index, (hash, place))| (index, *hash, *place))
        });
        few.chain(all).filter_map(|(index, hash, place)| Some((index, self.slot(hash, place)?)))
    }

    /// Replaces the block at `index`.
    pub fn set(&mut self, index: u64, slot: Option<Slot>) {
        let Some(index) = u16::try_from(index).ok().filter(|index| usize::from(*index) < LEAF_SLOTS) else { return };
        let slot = slot.filter(|slot| !slot.hash.is_zero());
        let known = slot.map(|Slot { hash, at }| Known {
            index,
            hash,
            place: Packed { segment: self.segment_index(at.segment), slot: at.slot, frame: at.frame },
        });
        if matches!(&self.blocks, Blocks::Few(few) if few.len() >= FEW && known.is_some()) {
            self.spread();
        }
        match &mut self.blocks {
            Blocks::Few(few) => match (few.binary_search_by_key(&index, |known| known.index), known) {
                (Ok(at), Some(known)) => few.splice(at..=at, [known]).for_each(drop),
                (Ok(at), None) => drop(few.remove(at)),
                (Err(at), Some(known)) => few.insert(at, known),
                (Err(_), None) => {}
            },
            Blocks::All { hashes, places } => {
                let (hash, place) =
                    known.map_or((BlockHash::ZERO, Packed::default()), |known| (known.hash, known.place));
                if let (Some(to_hash), Some(to_place)) =
                    (hashes.get_mut(usize::from(index)), places.get_mut(usize::from(index)))
                {
                    *to_hash = hash;
                    *to_place = place;
                }
            }
        }
    }

    /// Gives every block its place in an array.
    fn spread(&mut self) {
        let Blocks::Few(few) = &self.blocks else { return };
        let mut hashes = Box::new([BlockHash::ZERO; LEAF_SLOTS]);
        let mut places = Box::new([Packed::default(); LEAF_SLOTS]);
        for known in few {
            let at = usize::from(known.index);
            if let (Some(to_hash), Some(to_place)) = (hashes.get_mut(at), places.get_mut(at)) {
                *to_hash = known.hash;
                *to_place = known.place;
            }
        }
        self.blocks = Blocks::All { hashes, places };
    }

    /// Whether every block is zero.
    #[must_use]
    pub fn is_zero(&self) -> bool {
        match &self.blocks {
            Blocks::Few(few) => few.is_empty(),
            Blocks::All { hashes, .. } => hashes.iter().all(BlockHash::is_zero),
        }
    }

    /// Position of a segment in the table, which is cleaned of segments no longer named before it grows past twice
    /// what a leaf can name, or a listed leaf does.
    fn segment_index(&mut self, segment: SegmentId) -> u16 {
        // Changes come segment by segment, so it is nearly always the last one.
        if let Some(index) = self.segments.iter().rposition(|known| *known == segment) {
            return u16::try_from(index).unwrap_or(u16::MAX);
        }
        let named = match &self.blocks {
            Blocks::Few(few) => few.len().max(8),
            Blocks::All { .. } => LEAF_SLOTS,
        };
        if self.segments.len() >= named.saturating_mul(2) {
            self.forget_unnamed();
        }
        let index = u16::try_from(self.segments.len()).unwrap_or(u16::MAX);
        self.segments.push(segment);
        index
    }

    fn forget_unnamed(&mut self) {
        let mut renamed: HashMap<u16, u16> = HashMap::new();
        let mut kept: Vec<SegmentId> = Vec::new();
        let segments = &self.segments;
        let mut rename = |place: &mut Packed| {
            let old = place.segment;
            place.segment = *renamed.entry(old).or_insert_with(|| {
                let index = u16::try_from(kept.len()).unwrap_or(u16::MAX);
                kept.extend(segments.get(usize::from(old)).copied());
                index
            });
        };
        match &mut self.blocks {
            Blocks::Few(few) => few.iter_mut().for_each(|known| rename(&mut known.place)),
            Blocks::All { hashes, places } => {
                let named = hashes.iter().zip(places.iter_mut()).filter(|(hash, _)| !hash.is_zero());
                named.for_each(|(_, place)| rename(place));
            }
        }
        self.segments = kept;
    }

    /// Bytes that it takes in memory, about.
    fn memory(&self) -> usize {
        let blocks = match &self.blocks {
            Blocks::Few(few) => few.capacity().saturating_mul(size_of::<Known>()),
            Blocks::All { .. } => LEAF_SLOTS.saturating_mul(size_of::<BlockHash>().saturating_add(size_of::<Packed>())),
        };
        blocks.saturating_add(self.segments.capacity().saturating_mul(size_of::<SegmentId>()))
    }
}

/// A child of an inner node, or a tree's root.
#[derive(Clone, Debug)]
pub enum Child {
    /// Zeroes only.
    Empty,
    /// In a map object of the vault.
    Stored(NodeRef),
    /// In memory, in no map object yet.
    Fresh {
        /// Its hash.
        hash: RootHash,
        /// The node.
        node: Arc<Node>,
    },
}

impl Child {
    /// Hash of the subtree.
    #[must_use]
    pub fn hash(&self) -> RootHash {
        match self {
            Self::Empty => RootHash::ZERO,
            Self::Stored(node) => node.hash,
            Self::Fresh { hash, .. } => *hash,
        }
    }

    /// Whether the subtree is zero.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        matches!(self, Self::Empty)
    }
}

/// 256 children, each covering the same number of blocks.
#[derive(Clone, Debug)]
pub struct Inner {
    children: Box<[Child]>,
}

impl Default for Inner {
    fn default() -> Self {
        Self { children: vec![Child::Empty; MAP_FANOUT].into_boxed_slice() }
    }
}

impl Inner {
    /// A node with these children; missing ones are zero, and none past the 256th is kept.
    #[must_use]
    pub fn new(mut children: Vec<Child>) -> Self {
        children.resize(MAP_FANOUT, Child::Empty);
        Self { children: children.into_boxed_slice() }
    }

    pub(super) fn with_first(first: Child) -> Self {
        Self::new(vec![first])
    }

    /// The children, always 256.
    #[must_use]
    pub fn children(&self) -> &[Child] {
        &self.children
    }

    pub(super) fn set(&mut self, index: usize, child: Child) {
        if let Some(slot) = self.children.get_mut(index) {
            *slot = child;
        }
    }

    pub(super) fn into_child(self, hasher: &BlockHasher, level: u8) -> Child {
        Node::Inner(self).into_child(hasher, level)
    }
}

/// A node of the tree.
#[derive(Clone, Debug)]
pub enum Node {
    /// Level 0.
    Leaf(Leaf),
    /// Any level above.
    Inner(Inner),
}

impl Node {
    /// The children; none for a leaf.
    #[must_use]
    pub fn children(&self) -> &[Child] {
        match self {
            Self::Leaf(_) => &[],
            Self::Inner(inner) => inner.children(),
        }
    }

    /// Hash of its content.
    #[must_use]
    pub fn hash(&self, hasher: &BlockHasher, level: u8) -> RootHash {
        match self {
            Self::Leaf(leaf) => hasher.leaf(&leaf.hashes()),
            Self::Inner(inner) => {
                let mut hashes = [RootHash::ZERO; MAP_FANOUT];
                hashes.iter_mut().zip(inner.children()).for_each(|(hash, child)| *hash = child.hash());
                hasher.inner(level, &hashes)
            }
        }
    }

    /// Bytes that it takes in memory, about.
    #[must_use]
    pub fn memory(&self) -> usize {
        match self {
            Self::Leaf(leaf) => leaf.memory().saturating_add(size_of::<Self>()),
            Self::Inner(_) => MAP_FANOUT.saturating_mul(size_of::<Child>()).saturating_add(size_of::<Self>()),
        }
    }

    pub(super) fn into_child(self, hasher: &BlockHasher, level: u8) -> Child {
        let hash = self.hash(hasher, level);
        if hash.is_zero() { Child::Empty } else { Child::Fresh { hash, node: Arc::new(self) } }
    }
}

/// A node as a map object holds it. Every child of an inner node must be stored.
/// `None` for an inner node with a child that is in no map object.
pub(crate) fn to_stored(node: &Node, level: u8) -> Option<map::Node> {
    Some(match node {
        Node::Leaf(leaf) => {
            let mut editor = LeafEditor::default();
            for (index, slot) in leaf.iter() {
                let Location { segment, frame, slot: frame_slot } = slot.at;
                editor.set(index, BlockLocation { segment, frame: FrameNo(frame), slot: frame_slot }, slot.hash);
            }
            map::Node::Leaf(editor.freeze())
        }
        Node::Inner(inner) => {
            let mut stored = InnerNode::new(level);
            for (at, child) in (0..=u8::MAX).zip(inner.children()) {
                match child {
                    Child::Empty => {}
                    Child::Stored(node) => stored.set_child(at, map::Child::Node(node.clone())),
                    Child::Fresh { .. } => return None,
                }
            }
            map::Node::Inner(stored)
        }
    })
}

/// The node that a map object holds.
pub(crate) fn from_stored(node: &map::Node) -> Node {
    match node {
        map::Node::Leaf(stored) => {
            let mut leaf = Leaf::default();
            for (index, place, hash) in stored.blocks() {
                let at = Location { segment: place.segment, frame: place.frame.0, slot: place.slot };
                leaf.set(u64::from(index), Some(Slot { hash, at }));
            }
            Node::Leaf(leaf)
        }
        map::Node::Inner(stored) => Node::Inner(Inner::new(
            stored
                .children()
                .iter()
                .map(|child| match child {
                    map::Child::Zero => Child::Empty,
                    map::Child::Node(node) => Child::Stored(node.clone()),
                })
                .collect(),
        )),
    }
}
