//! Map objects: header, building, opening.
//!
//! Dropping a builder leaves nothing behind. As with segments, an object that has to be built again is built under a
//! fresh salt and a fresh id.

use std::sync::Arc;

use lifeboat_model::{BranchId, GroupId, Lsn, MapId, VaultId};

use super::footer::{MapFooter, NodeEntry};
use super::node::{Child, InnerNode, LeafNode, MapObjectRef, Node, NodeRef};
use super::{MAP_FOOTER_LEN_MAX, MAP_HEADER_LEN, MAP_LEN_MAX, MAP_NODE_LEN_MAX, MAP_NODES_MAX, TRAILER_LEN};
use crate::hash::BlockHasher;
use crate::keys::{GroupKey, LABEL_MAP, Salt, SealKey, check_commitment, commitment};
use crate::seal::{self, Trailer, TrailerKind};
use crate::wire::{Kind, Put, len32, len64, slice};
use crate::{FORMAT_VERSION, FormatError};

const NODE: &str = "map node";
const FOOTER: &str = "map footer";
/// zstd level of nodes and footers: mostly hashes, which no level makes smaller.
const LEVEL: i32 = 1;
/// Encryption number of the footer: no node has it.
const FOOTER_NUMBER: u64 = u64::MAX;

pub(crate) const HEADER: Kind = Kind { magic: *b"LBMP", what: "map header", version: FORMAT_VERSION };
pub(crate) const TRAILER: TrailerKind = TrailerKind {
    magic: *b"LBME",
    what: "map trailer",
    header_len: MAP_HEADER_LEN,
    object_len_max: MAP_LEN_MAX,
    index_raw_len_max: MAP_FOOTER_LEN_MAX,
};

/// Where a map object belongs: what its name says, which its header must repeat.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MapPlace {
    /// The vault.
    pub vault: VaultId,
    /// The group.
    pub group: GroupId,
    /// The branch.
    pub branch: BranchId,
    /// The log position that it covers.
    pub lsn: Lsn,
    /// Its id.
    pub id: MapId,
}

/// The cleartext header of a map object. Authentic once [`open_footer`] has accepted it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MapHeader {
    /// Where it belongs.
    pub place: MapPlace,
    /// Salt of every key derived for it.
    pub salt: Salt,
    /// Commitment to the group key.
    pub commitment: [u8; 32],
}

impl MapHeader {
    /// Decodes the first [`MAP_HEADER_LEN`] bytes of the object found under the name that says `expected`.
    pub fn decode(bytes: &[u8], expected: &MapPlace) -> Result<Self, FormatError> {
        let header = Self::decode_any(bytes)?;
        crate::place::same(HEADER.what, "vault", header.place.vault, expected.vault)?;
        crate::place::same(HEADER.what, "group", header.place.group, expected.group)?;
        crate::place::same(HEADER.what, "branch", header.place.branch, expected.branch)?;
        crate::place::same(HEADER.what, "position", header.place.lsn, expected.lsn)?;
        crate::place::same(HEADER.what, "id", header.place.id, expected.id)?;
        Ok(header)
    }

    /// Decodes a header wherever it was found: for inspection only.
    pub fn decode_any(bytes: &[u8]) -> Result<Self, FormatError> {
        let mut reader = HEADER.begin(bytes)?;
        let header_len = reader.u16()?;
        let header = Self {
            place: MapPlace {
                vault: VaultId::from_bytes(reader.array()?),
                group: GroupId::from_bytes(reader.array()?),
                branch: BranchId::from_bytes(reader.array()?),
                lsn: Lsn(reader.u64()?),
                id: MapId::from_bytes(reader.array()?),
            },
            salt: reader.array()?,
            commitment: reader.array()?,
        };
        reader.checksum(bytes.get(..MAP_HEADER_LEN.saturating_sub(4)).unwrap_or_default())?;
        if usize::from(header_len) != MAP_HEADER_LEN {
            return Err(reader.corrupt("the header has another length than its version gives it"));
        }
        reader.finish()?;
        Ok(header)
    }

    /// The header's bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = HEADER.start();
        out.put_u16(u16::try_from(MAP_HEADER_LEN).unwrap_or_default());
        out.put(&self.place.vault.to_bytes());
        out.put(&self.place.group.to_bytes());
        out.put(&self.place.branch.to_bytes());
        out.put_u64(self.place.lsn.0);
        out.put(&self.place.id.to_bytes());
        out.put(&self.salt);
        out.put(&self.commitment);
        out.put_crc();
        out
    }

    /// How references name this object.
    #[must_use]
    pub fn reference(&self) -> MapObjectRef {
        MapObjectRef { branch: self.place.branch, lsn: self.place.lsn, id: self.place.id, salt: self.salt }
    }

    /// Whether the object was sealed with that group key. [`FormatError::WrongKey`] when not.
    pub fn check_key(&self, key: &GroupKey) -> Result<(), FormatError> {
        check_commitment("map", key, &self.salt, &self.commitment)
    }
}

/// The fixed-length end of a map object. Authentic once [`open_footer`] has accepted it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MapTrailer(pub(crate) Trailer);

impl MapTrailer {
    /// Decodes the last [`TRAILER_LEN`] bytes of an object that is `object_len` bytes long.
    pub fn decode(bytes: &[u8], object_len: u64) -> Result<Self, FormatError> {
        Trailer::decode(&TRAILER, bytes, object_len).map(Self)
    }

    /// Where in the object the stored footer is.
    #[must_use]
    pub fn footer_range(&self) -> std::ops::Range<u64> {
        self.0.index_range()
    }

    /// Number of nodes.
    #[must_use]
    pub fn node_count(&self) -> u32 {
        self.0.count
    }

    /// Length of the whole object, in bytes.
    #[must_use]
    pub fn total_len(&self) -> u64 {
        self.0.total_len
    }
}

/// Decrypts the nodes of one map object.
#[derive(Debug)]
pub struct MapKeys {
    key: SealKey,
    aad: Vec<u8>,
}

impl MapKeys {
    /// The keys for the object that a reference names; nothing of the object is needed.
    #[must_use]
    pub fn new(vault: VaultId, group: GroupId, object: &MapObjectRef, key: &GroupKey) -> Self {
        let mut aad = Vec::with_capacity(96);
        aad.put(&vault.to_bytes());
        aad.put(&group.to_bytes());
        object.put(&mut aad);
        Self { key: SealKey::derive(key.expose(), &object.salt, LABEL_MAP), aad }
    }

    /// Decrypts the node that `node` names: `stored` are the bytes of [`NodeRef::range`]. Its hash is proved by
    /// [`MapKeys::open_proved`], which needs the volume's hash key.
    pub fn open_node(&self, node: &NodeRef, stored: &[u8]) -> Result<Node, FormatError> {
        self.open_entry(node.node, NodeEntry { stored_len: node.stored_len, raw_len: node.raw_len }, stored)
    }

    /// [`MapKeys::open_node`], and the node's Merkle hash must be the one that the reference names.
    pub fn open_proved(&self, node: &NodeRef, stored: &[u8], hasher: &BlockHasher) -> Result<Node, FormatError> {
        let opened = self.open_node(node, stored)?;
        if opened.hash(hasher) == node.hash {
            Ok(opened)
        } else {
            Err(FormatError::Corrupt { what: NODE, at: 0, why: "its hash differs from the one its parent names" })
        }
    }

    fn open_entry(&self, number: u32, entry: NodeEntry, stored: &[u8]) -> Result<Node, FormatError> {
        if len64(stored.len()) != u64::from(entry.stored_len) {
            return Err(FormatError::Truncated {
                what: NODE,
                needed: u64::from(entry.stored_len),
                available: len64(stored.len()),
            });
        }
        if entry.raw_len > MAP_NODE_LEN_MAX {
            return Err(FormatError::TooLarge {
                what: NODE,
                found: u64::from(entry.raw_len),
                limit: u64::from(MAP_NODE_LEN_MAX),
            });
        }
        let compressed = self.key.open(NODE, u64::from(number), &self.node_aad(number, entry.raw_len), stored)?;
        Node::decode(&seal::decompress(NODE, &compressed, entry.raw_len)?)
    }

    fn node_aad(&self, number: u32, raw_len: u32) -> Vec<u8> {
        let mut aad = self.aad.clone();
        aad.put_u32(number);
        aad.put_u32(raw_len);
        aad
    }

    fn footer_aad(&self, raw_len: u32, count: u32) -> Vec<u8> {
        let mut aad = self.aad.clone();
        aad.put(b"footer");
        aad.put_u32(raw_len);
        aad.put_u32(count);
        aad
    }
}

/// What a map object is given at its start. Salt and id are fresh.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MapParams {
    /// Where it belongs.
    pub place: MapPlace,
    /// Salt of every key derived for it.
    pub salt: Salt,
}

/// A finished map object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SealedMap {
    /// The object.
    pub bytes: Vec<u8>,
    /// Its header.
    pub header: MapHeader,
    /// Its footer.
    pub footer: MapFooter,
    /// Its trailer.
    pub trailer: MapTrailer,
}

/// Builds one map object: children before parents, then the footer.
#[derive(Debug)]
pub struct MapBuilder {
    key: GroupKey,
    keys: MapKeys,
    header: MapHeader,
    object: Arc<MapObjectRef>,
    bytes: Vec<u8>,
    nodes: Vec<NodeEntry>,
}

impl MapBuilder {
    /// An empty object.
    #[must_use]
    pub fn new(params: MapParams, key: &GroupKey) -> Self {
        let header = MapHeader { place: params.place, salt: params.salt, commitment: commitment(key, &params.salt) };
        let object = Arc::new(header.reference());
        Self {
            key: key.clone(),
            keys: MapKeys::new(params.place.vault, params.place.group, &object, key),
            bytes: header.encode(),
            header,
            object,
            nodes: Vec::new(),
        }
    }

    /// Adds a leaf and gives what its parent says of it: [`Child::Zero`], and nothing is added, when it is empty.
    pub fn push_leaf(&mut self, leaf: LeafNode, hasher: &BlockHasher) -> Result<Child, FormatError> {
        if leaf.is_empty() {
            return Ok(Child::Zero);
        }
        self.push(&Node::Leaf(leaf), hasher)
    }

    /// Adds an inner node and gives what its parent says of it: [`Child::Zero`], and nothing is added, when all its
    /// children are zero.
    pub fn push_inner(&mut self, inner: InnerNode, hasher: &BlockHasher) -> Result<Child, FormatError> {
        if inner.is_empty() {
            return Ok(Child::Zero);
        }
        self.push(&Node::Inner(inner), hasher)
    }

    fn push(&mut self, node: &Node, hasher: &BlockHasher) -> Result<Child, FormatError> {
        if self.nodes.len() >= MAP_NODES_MAX {
            let limit = len64(MAP_NODES_MAX);
            return Err(FormatError::TooLarge { what: "map", found: limit.saturating_add(1), limit });
        }
        let number = len32(NODE, self.nodes.len())?;
        let raw = node.encode()?;
        let raw_len = len32(NODE, raw.len())?;
        let mut stored = seal::compress(NODE, LEVEL, &raw)?;
        self.keys.key.seal(NODE, u64::from(number), &self.keys.node_aad(number, raw_len), &mut stored)?;
        let entry = NodeEntry { stored_len: len32(NODE, stored.len())?, raw_len };
        let reference = NodeRef {
            object: Arc::clone(&self.object),
            node: number,
            offset: len64(self.bytes.len()),
            stored_len: entry.stored_len,
            raw_len,
            hash: node.hash(hasher),
        };
        self.nodes.push(entry);
        self.bytes.put(&stored);
        Ok(Child::Node(reference))
    }

    /// Bytes of header and nodes so far; the footer comes on top.
    #[must_use]
    pub fn bytes_so_far(&self) -> u64 {
        len64(self.bytes.len())
    }

    /// How references name this object.
    #[must_use]
    pub fn reference(&self) -> &Arc<MapObjectRef> {
        &self.object
    }

    /// Finishes the object.
    pub fn seal(mut self, footer: MapFooter) -> Result<SealedMap, FormatError> {
        let raw = footer.encode(&self.nodes)?;
        // What can't be read must not be written: the reader's own rules.
        MapFooter::decode(&raw).map_err(|error| match error {
            FormatError::Corrupt { why, .. } => FormatError::Refused { what: FOOTER, why },
            other => other,
        })?;
        let raw_len = len32(FOOTER, raw.len())?;
        if raw_len > MAP_FOOTER_LEN_MAX {
            let limit = u64::from(MAP_FOOTER_LEN_MAX);
            return Err(FormatError::TooLarge { what: FOOTER, found: u64::from(raw_len), limit });
        }
        let count = len32(FOOTER, self.nodes.len())?;
        let mut stored = seal::compress(FOOTER, LEVEL, &raw)?;
        self.keys.key.seal(FOOTER, FOOTER_NUMBER, &self.keys.footer_aad(raw_len, count), &mut stored)?;
        let trailer =
            Trailer::append(&TRAILER, &self.key, &self.header.salt, &mut self.bytes, &stored, raw_len, count)?;
        Ok(SealedMap { bytes: self.bytes, header: self.header, footer, trailer: MapTrailer(trailer) })
    }
}

/// Proves header, trailer and `stored` (the bytes of [`MapTrailer::footer_range`]), then decodes the footer.
pub fn open_footer(
    header: &MapHeader,
    trailer: &MapTrailer,
    stored: &[u8],
    key: &GroupKey,
) -> Result<(MapFooter, Vec<NodeEntry>), FormatError> {
    let corrupt = |why| Err(FormatError::Corrupt { what: FOOTER, at: 0, why });
    header.check_key(key)?;
    trailer.0.verify(&TRAILER, key, &header.salt, &header.encode(), stored)?;
    let keys = MapKeys::new(header.place.vault, header.place.group, &header.reference(), key);
    let aad = keys.footer_aad(trailer.0.index_raw_len, trailer.0.count);
    let compressed = keys.key.open(FOOTER, FOOTER_NUMBER, &aad, stored)?;
    let raw = seal::decompress(FOOTER, &compressed, trailer.0.index_raw_len)?;
    let (footer, nodes) = MapFooter::decode(&raw)?;
    if len64(nodes.len()) != u64::from(trailer.0.count) {
        return corrupt("it has another number of nodes than the trailer");
    }
    let nodes_len = nodes.iter().map(|node| u64::from(node.stored_len)).sum::<u64>();
    if nodes_len.saturating_add(len64(MAP_HEADER_LEN)) != trailer.0.index_offset {
        return corrupt("the nodes don't fill the object up to the footer");
    }
    Ok((footer, nodes))
}

/// A whole map object in memory, its header, footer and trailer proved.
#[derive(Debug)]
pub struct MapObject<'a> {
    bytes: &'a [u8],
    keys: MapKeys,
    /// The header.
    pub header: MapHeader,
    /// The footer.
    pub footer: MapFooter,
    /// The trailer.
    pub trailer: MapTrailer,
    /// The lengths of its nodes, by number.
    pub nodes: Vec<NodeEntry>,
}

impl<'a> MapObject<'a> {
    /// Opens the object found under the name that says `expected`.
    pub fn open(bytes: &'a [u8], expected: &MapPlace, key: &GroupKey) -> Result<Self, FormatError> {
        let header = MapHeader::decode(slice("map header", bytes, 0, len64(MAP_HEADER_LEN))?, expected)?;
        let object_len = len64(bytes.len());
        let trailer_at = object_len.saturating_sub(len64(TRAILER_LEN));
        let trailer = MapTrailer::decode(slice("map trailer", bytes, trailer_at, len64(TRAILER_LEN))?, object_len)?;
        let range = trailer.footer_range();
        let stored = slice(FOOTER, bytes, range.start, range.end.saturating_sub(range.start))?;
        let (footer, nodes) = open_footer(&header, &trailer, stored, key)?;
        let keys = MapKeys::new(header.place.vault, header.place.group, &header.reference(), key);
        Ok(Self { bytes, keys, header, footer, trailer, nodes })
    }

    /// Reads the node that a reference to this object names.
    pub fn node(&self, node: &NodeRef) -> Result<Node, FormatError> {
        self.keys.open_node(node, slice(NODE, self.bytes, node.offset, u64::from(node.stored_len))?)
    }

    /// Decrypts and decodes every node, in the order of their numbers.
    pub fn read_all(&self) -> impl Iterator<Item = Result<Node, FormatError>> + '_ {
        let mut offset = len64(MAP_HEADER_LEN);
        (0_u32..).zip(&self.nodes).map(move |(number, entry)| {
            let stored = slice(NODE, self.bytes, offset, u64::from(entry.stored_len));
            offset = offset.saturating_add(u64::from(entry.stored_len));
            self.keys.open_entry(number, *entry, stored?)
        })
    }
}
