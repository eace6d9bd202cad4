//! Log records: what a group's write order is made of.

use bytes::Bytes;
use lifeboat_model::{BLOCK_SIZE_U64, Extent, Lsn, PointId, PointKind, Timestamp, VolumeId};

/// One record of a group's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogRecord {
    /// Its position in the group's write order.
    pub lsn: Lsn,
    /// What it does.
    pub op: Op,
}

/// What a record does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Replaces blocks from `lba` on; `data` is a whole number of blocks.
    Write {
        /// The volume written.
        volume: VolumeId,
        /// First block.
        lba: u64,
        /// The new content.
        data: Bytes,
    },
    /// The blocks read as zeroes from here on.
    Zero {
        /// The volume written.
        volume: VolumeId,
        /// The blocks.
        extent: Extent,
    },
    /// The blocks are no longer used; they read as zeroes from here on.
    Trim {
        /// The volume written.
        volume: VolumeId,
        /// The blocks.
        extent: Extent,
    },
    /// What blocks hold at this place of the write order already, for the vault, which lacks it: `data`, or zeroes without.
    Copy {
        /// The volume.
        volume: VolumeId,
        /// The blocks.
        extent: Extent,
        /// Their content.
        data: Option<Bytes>,
    },
    /// The volume has this many blocks from here on (also the record that introduces a volume to a group).
    Resize {
        /// The volume.
        volume: VolumeId,
        /// Its size, blocks.
        blocks: u64,
    },
    /// A recovery point: the state after every record before this one.
    Point(PointMark),
}

/// A recovery point as the log holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PointMark {
    /// Its identifier, the same in every log that takes part.
    pub id: PointId,
    /// When it was taken.
    pub time: Timestamp,
    /// How it came to be.
    pub kind: PointKind,
    /// A label for people; empty for none. At most 255 bytes.
    pub label: String,
    /// Whether everything before it is in the log. A point that is placed while the vault lacks blocks is not, whatever
    /// its maker says: it is never offered for recovery.
    pub consistent: bool,
}

impl Op {
    /// The blocks that the vault has to have once the record is shipped; none for points and sizes.
    #[must_use]
    pub fn target(&self) -> Option<(VolumeId, Extent)> {
        match self {
            Self::Write { volume, lba, data } => {
                Some((*volume, Extent { lba: *lba, blocks: data.len() as u64 / BLOCK_SIZE_U64 }))
            }
            Self::Zero { volume, extent } | Self::Trim { volume, extent } | Self::Copy { volume, extent, .. } => {
                Some((*volume, *extent))
            }
            Self::Resize { .. } | Self::Point(_) => None,
        }
    }
}
