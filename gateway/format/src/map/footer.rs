//! The footer of a map object: roots, the position of the log that they cover, the retained points, the nodes' lengths.

use std::sync::Arc;

use lifeboat_model::{Epoch, Lsn, PointId, PointKind, RootHash, SegmentSeq, Timestamp, VOLUME_BLOCKS_MAX, VolumeId};

use super::node::{Child, MapObjectRef, NodeRef};
use super::{MAP_NODES_MAX, MAP_POINTS_MAX};
use crate::hash::tree_levels;
use crate::segment::{SegmentHash, take_point_kind};
use crate::wire::{Put, Reader};
use crate::{FormatError, GROUP_VOLUMES_MAX, LABEL_BYTES_MAX};

const WHAT: &str = "map footer";
const ROOT_LEN_MIN: usize = 26;
const POINT_LEN_MIN: usize = 52;
const NODE_LEN: usize = 8;

/// A position in a branch's log: after that segment. `seq` 0 is before the first segment of the epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogPosition {
    /// Tenure.
    pub epoch: Epoch,
    /// Last segment.
    pub seq: SegmentSeq,
    /// Last position of the log.
    pub lsn: Lsn,
    /// Seal hash of the last segment of the branch; zero when there is none.
    pub segment_hash: SegmentHash,
}

impl LogPosition {
    pub(crate) fn put(&self, out: &mut Vec<u8>) {
        out.put_u64(self.epoch.0);
        out.put_u64(self.seq.0);
        out.put_u64(self.lsn.0);
        out.put(&self.segment_hash.0);
    }

    pub(crate) fn take(reader: &mut Reader<'_>) -> Result<Self, FormatError> {
        Ok(Self {
            epoch: Epoch(reader.u64()?),
            seq: SegmentSeq(reader.u64()?),
            lsn: Lsn(reader.u64()?),
            segment_hash: SegmentHash(reader.array()?),
        })
    }
}

/// A volume's tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeRoot {
    /// The volume.
    pub volume: VolumeId,
    /// Its size: gives the tree's depth.
    pub size_blocks: u64,
    /// The topmost node.
    pub root: Child,
}

impl VolumeRoot {
    /// Levels of inner nodes: 0 when the root is a leaf.
    #[must_use]
    pub fn levels(&self) -> u8 {
        tree_levels(self.size_blocks)
    }

    /// The root's Merkle hash.
    #[must_use]
    pub fn hash(&self) -> RootHash {
        self.root.hash()
    }
}

/// A recovery point that is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetainedPoint {
    /// The point.
    pub id: PointId,
    /// Its position.
    pub lsn: Lsn,
    /// When it was taken.
    pub time: Timestamp,
    /// How it came to be.
    pub kind: PointKind,
    /// Whether it is one cut through the write order.
    pub consistent: bool,
    /// What a person called it; may be empty.
    pub label: String,
    /// Tenure of the segment that records it.
    pub epoch: Epoch,
    /// Number of that segment.
    pub seq: SegmentSeq,
}

/// The lengths of a node; its offset follows from those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeEntry {
    /// Bytes in the object.
    pub stored_len: u32,
    /// Bytes before compression.
    pub raw_len: u32,
}

/// What a map object says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MapFooter {
    /// How far into the log the roots go.
    pub position: LogPosition,
    /// One root a volume; empty in a part.
    pub roots: Vec<VolumeRoot>,
    /// The retained points of the branch, positions ascending; empty in a part.
    pub points: Vec<RetainedPoint>,
}

impl MapFooter {
    /// Whether a reader may start here.
    #[must_use]
    pub fn is_head(&self) -> bool {
        !self.roots.is_empty()
    }

    pub(super) fn encode(&self, nodes: &[NodeEntry]) -> Result<Vec<u8>, FormatError> {
        let mut out = Vec::new();
        self.position.put(&mut out);
        out.put_count(WHAT, self.roots.len(), GROUP_VOLUMES_MAX)?;
        for root in &self.roots {
            out.put(&root.volume.to_bytes());
            out.put_u64(root.size_blocks);
            out.put_u8(root.levels());
            match &root.root {
                Child::Zero => out.put_u8(0),
                Child::Node(node) => {
                    out.put_u8(1);
                    node.object.put(&mut out);
                    node.put(&mut out);
                }
            }
        }
        out.put_count(WHAT, self.points.len(), MAP_POINTS_MAX)?;
        for point in &self.points {
            out.put(&point.id.to_bytes());
            out.put_u64(point.lsn.0);
            out.put_i64(point.time.as_micros());
            out.put_u8(point.kind.code());
            out.put_flag(point.consistent);
            out.put_text(WHAT, &point.label, LABEL_BYTES_MAX)?;
            out.put_u64(point.epoch.0);
            out.put_u64(point.seq.0);
        }
        out.put_count(WHAT, nodes.len(), MAP_NODES_MAX)?;
        for node in nodes {
            out.put_u32(node.stored_len);
            out.put_u32(node.raw_len);
        }
        Ok(out)
    }

    pub(super) fn decode(raw: &[u8]) -> Result<(Self, Vec<NodeEntry>), FormatError> {
        let mut reader = Reader::new(WHAT, raw);
        let position = LogPosition::take(&mut reader)?;
        let count = reader.count(GROUP_VOLUMES_MAX, ROOT_LEN_MIN)?;
        let mut roots: Vec<VolumeRoot> = Vec::with_capacity(count);
        for _ in 0..count {
            let root = take_root(&mut reader)?;
            if roots.iter().any(|known| known.volume == root.volume) {
                return Err(reader.corrupt("a volume has two roots"));
            }
            roots.push(root);
        }
        let count = reader.count(MAP_POINTS_MAX, POINT_LEN_MIN)?;
        let mut points: Vec<RetainedPoint> = Vec::with_capacity(count);
        for _ in 0..count {
            let point = take_point(&mut reader)?;
            if points.last().is_some_and(|last| point.lsn < last.lsn) {
                return Err(reader.corrupt("the retained points don't ascend"));
            }
            points.push(point);
        }
        let count = reader.count(MAP_NODES_MAX, NODE_LEN)?;
        let mut nodes = Vec::with_capacity(count);
        for _ in 0..count {
            nodes.push(NodeEntry { stored_len: reader.u32()?, raw_len: reader.u32()? });
        }
        reader.finish()?;
        Ok((Self { position, roots, points }, nodes))
    }
}

fn take_root(reader: &mut Reader<'_>) -> Result<VolumeRoot, FormatError> {
    let volume = VolumeId::from_bytes(reader.array()?);
    let size_blocks = reader.u64()?;
    if size_blocks == 0 || size_blocks > VOLUME_BLOCKS_MAX {
        return Err(reader.corrupt("a volume has an impossible size"));
    }
    if reader.u8()? != tree_levels(size_blocks) {
        return Err(reader.corrupt("a tree's depth isn't the one of its volume's size"));
    }
    let root = if reader.flag()? {
        let object = Arc::new(MapObjectRef::take(reader)?);
        Child::Node(NodeRef::take(reader, object)?)
    } else {
        Child::Zero
    };
    Ok(VolumeRoot { volume, size_blocks, root })
}

fn take_point(reader: &mut Reader<'_>) -> Result<RetainedPoint, FormatError> {
    Ok(RetainedPoint {
        id: PointId::from_bytes(reader.array()?),
        lsn: Lsn(reader.u64()?),
        time: Timestamp::from_micros(reader.i64()?),
        kind: take_point_kind(reader)?,
        consistent: reader.flag()?,
        label: reader.text(LABEL_BYTES_MAX)?,
        epoch: Epoch(reader.u64()?),
        seq: SegmentSeq(reader.u64()?),
    })
}
