//! Comparing an agent's disks with a point in the vault, by hashes: nothing of what is on them goes over the line.
//!
//! ```text
//! agent   ─ Compare ───────>              begins a line for this: which point
//!         <────────── Keyed ─             its volumes, and what their blocks are hashed with
//!         ─ Leaves ────────>              hashes of the disk, each of 512 blocks
//!         <──────── Unequal ─             which of them are others at the point
//!         ─ Leaf ──────────>              for each of those: the hashes of its blocks
//!         <────────── Dirty ─             the blocks that differ
//! ```
//! Neither side remembers anything: a line that breaks ends the comparison, and another one begins anew.

use lifeboat_model::{BlockHash, GatewayId, GroupId, LEAF_BLOCKS, RootHash, VOLUME_BLOCKS_MAX, VolumeId};

use super::recall::BranchPlace;
use super::{FrameKind, STREAM, frame};
use crate::hash::LEAF_SLOTS;
use crate::keys::{HashKey, KEY_LEN};
use crate::wire::{Put, Reader};
use crate::{FormatError, GROUP_VOLUMES_MAX};

/// Leaves of one frame, at most.
pub const FRAME_LEAVES_MAX: usize = 1024;

const WHAT: &str = STREAM.what;
const LEAF_LEN: usize = 32;

/// Opens a line on which an agent has its disks compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Compare {
    /// The group.
    pub group: GroupId,
    /// The agent.
    pub agent: GatewayId,
    /// The point.
    pub at: BranchPlace,
}

impl Compare {
    /// The frame.
    ///
    /// # Errors
    /// None: the length is fixed.
    pub fn encode(&self) -> Result<Vec<u8>, FormatError> {
        let mut body = Vec::new();
        body.put(&self.group.to_bytes());
        body.put(&self.agent.to_bytes());
        self.at.put(&mut body);
        frame(FrameKind::Compare, &body)
    }

    /// What a body says.
    ///
    /// # Errors
    /// `Truncated`, `Corrupt`.
    pub fn decode(body: &[u8]) -> Result<Self, FormatError> {
        let mut reader = Reader::new(WHAT, body);
        let compare = Self {
            group: GroupId::from_bytes(reader.array()?),
            agent: GatewayId::from_bytes(reader.array()?),
            at: BranchPlace::take(&mut reader)?,
        };
        reader.finish()?;
        Ok(compare)
    }
}

/// A volume at the point.
#[derive(Clone, Debug)]
pub struct KeyedVolume {
    /// The volume.
    pub volume: VolumeId,
    /// Its size, blocks.
    pub blocks: u64,
    /// What its blocks are hashed with. It opens nothing.
    pub key: HashKey,
}

/// The volumes at the point.
#[derive(Clone, Debug)]
pub struct Keyed {
    /// The volumes.
    pub volumes: Vec<KeyedVolume>,
}

impl Keyed {
    /// The frame.
    ///
    /// # Errors
    /// `TooLarge` beyond the limits.
    pub fn encode(&self) -> Result<Vec<u8>, FormatError> {
        let mut body = Vec::new();
        body.put_count(WHAT, self.volumes.len(), GROUP_VOLUMES_MAX)?;
        for volume in &self.volumes {
            body.put(&volume.volume.to_bytes());
            body.put_u64(volume.blocks);
            body.put(volume.key.expose());
        }
        frame(FrameKind::Keyed, &body)
    }

    /// What a body says.
    ///
    /// # Errors
    /// `Truncated`, `Corrupt`, `TooLarge`.
    pub fn decode(body: &[u8]) -> Result<Self, FormatError> {
        let mut reader = Reader::new(WHAT, body);
        let mut volumes = Vec::new();
        for _ in 0..reader.count(GROUP_VOLUMES_MAX, 24 + KEY_LEN)? {
            let (volume, blocks) = (VolumeId::from_bytes(reader.array()?), reader.u64()?);
            if blocks > VOLUME_BLOCKS_MAX {
                return Err(reader.corrupt("more blocks than a volume has"));
            }
            volumes.push(KeyedVolume { volume, blocks, key: HashKey::from_bytes(reader.array()?) });
        }
        reader.finish()?;
        Ok(Self { volumes })
    }
}

/// Hashes of a disk, leaf after leaf.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leaves {
    /// The volume.
    pub volume: VolumeId,
    /// The first leaf: block 512 times this.
    pub first: u64,
    /// Their hashes.
    pub hashes: Vec<RootHash>,
}

impl Leaves {
    /// The frame.
    ///
    /// # Errors
    /// `TooLarge` beyond the limits.
    pub fn encode(&self) -> Result<Vec<u8>, FormatError> {
        let mut body = Vec::new();
        body.put(&self.volume.to_bytes());
        body.put_u64(self.first);
        body.put_count(WHAT, self.hashes.len(), FRAME_LEAVES_MAX)?;
        self.hashes.iter().for_each(|hash| body.put(&hash.0));
        frame(FrameKind::Leaves, &body)
    }

    /// What a body says.
    ///
    /// # Errors
    /// `Truncated`, `Corrupt`, `TooLarge`.
    pub fn decode(body: &[u8]) -> Result<Self, FormatError> {
        let mut reader = Reader::new(WHAT, body);
        let (volume, first) = (VolumeId::from_bytes(reader.array()?), take_leaf(&mut reader)?);
        let mut hashes = Vec::new();
        for _ in 0..reader.count(FRAME_LEAVES_MAX, LEAF_LEN)? {
            hashes.push(RootHash(reader.array()?));
        }
        reader.finish()?;
        Ok(Self { volume, first, hashes })
    }
}

/// Which of the leaves that were asked about last are others at the point.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unequal {
    /// They, in order.
    pub leaves: Vec<u64>,
}

impl Unequal {
    /// The frame.
    ///
    /// # Errors
    /// `TooLarge` beyond the limits.
    pub fn encode(&self) -> Result<Vec<u8>, FormatError> {
        let mut body = Vec::new();
        body.put_count(WHAT, self.leaves.len(), FRAME_LEAVES_MAX)?;
        self.leaves.iter().for_each(|leaf| body.put_u64(*leaf));
        frame(FrameKind::Unequal, &body)
    }

    /// What a body says.
    ///
    /// # Errors
    /// `Truncated`, `Corrupt`, `TooLarge`.
    pub fn decode(body: &[u8]) -> Result<Self, FormatError> {
        let mut reader = Reader::new(WHAT, body);
        let mut leaves = Vec::new();
        for _ in 0..reader.count(FRAME_LEAVES_MAX, 8)? {
            leaves.push(take_leaf(&mut reader)?);
        }
        reader.finish()?;
        Ok(Self { leaves })
    }
}

/// The hashes of the blocks of one leaf.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leaf {
    /// The volume.
    pub volume: VolumeId,
    /// The leaf.
    pub leaf: u64,
    /// Its blocks' hashes.
    pub blocks: Box<[BlockHash; LEAF_SLOTS]>,
}

impl Leaf {
    /// The frame.
    ///
    /// # Errors
    /// None: the length is fixed.
    pub fn encode(&self) -> Result<Vec<u8>, FormatError> {
        let mut body = Vec::new();
        body.put(&self.volume.to_bytes());
        body.put_u64(self.leaf);
        self.blocks.iter().for_each(|hash| body.put(&hash.0));
        frame(FrameKind::Leaf, &body)
    }

    /// What a body says.
    ///
    /// # Errors
    /// `Truncated`, `Corrupt`.
    pub fn decode(body: &[u8]) -> Result<Self, FormatError> {
        let mut reader = Reader::new(WHAT, body);
        let (volume, leaf) = (VolumeId::from_bytes(reader.array()?), take_leaf(&mut reader)?);
        let mut blocks = Box::new([BlockHash::ZERO; LEAF_SLOTS]);
        for hash in blocks.iter_mut() {
            *hash = BlockHash(reader.array()?);
        }
        reader.finish()?;
        Ok(Self { volume, leaf, blocks })
    }
}

fn take_leaf(reader: &mut Reader<'_>) -> Result<u64, FormatError> {
    let leaf = reader.u64()?;
    if leaf > VOLUME_BLOCKS_MAX / LEAF_BLOCKS {
        return Err(reader.corrupt("a leaf that no volume has"));
    }
    Ok(leaf)
}
