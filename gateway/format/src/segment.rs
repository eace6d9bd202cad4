//! Segments: sealed, shipped runs of a group's log. A segment *is* the log entry: one object, written once.
//!
//! ```text
//! 0            196                index_offset              total_len - 100     total_len
//! │ header     │ frame │ frame │ … │ index (zstd, AES-GCM)   │ trailer           │
//! ```
//! The header comes first so that a reader that streams knows whose bytes these are; frames follow in the order in
//! which a worker pool finishes them; the index comes last because only then is it known; the trailer has a fixed
//! length, so that whoever knows the object's length (a listing says it) reads header, trailer, index and any frame by
//! ranges. Every byte is covered: header, index and trailer by the seal hash and the MAC, each frame by its own tag.
//!
//! The index keeps *order*: its operations (frames, zero runs, trims, resizes, recovery points) stand in write order, so
//! that the state at a point is what the operations before it give. Between two points a writer may have merged
//! overwrites; across a point it never does.

mod build;
mod frame;
mod index;
mod read;
#[cfg(test)]
mod tests;

use lifeboat_model::{
    BranchId, Epoch, GroupId, Lsn, PointId, PointKind, RootHash, SegmentId, SegmentSeq, Timestamp, VaultId, VolumeId,
};

use crate::keys::{GroupKey, Salt, check_commitment};
use crate::seal::{Trailer, TrailerKind};
use crate::wire::{Kind, Put, Reader};
use crate::{FormatError, GROUP_VOLUMES_MAX, LABEL_BYTES_MAX};

pub use build::{SealedSegment, SegmentBuilder, SegmentParams};
pub use frame::{FrameBlock, FrameContext, FrameKey, PreparedFrame, prepare_frame};
pub use index::{BlockRun, FrameEntry, Operation, SegmentIndex, SegmentVolume};
pub use read::{SegmentObject, open_frame, open_frame_with};

pub use crate::seal::TRAILER_LEN;

/// Newest version of a segment. Version 2 says under which of its data keys each volume's frames stand; in version 1 that
/// is key 1.
pub const SEGMENT_VERSION: u16 = 2;
/// The data key of frames in segments of version 1: they don't name it.
pub const FIRST_KEY: u32 = 1;
/// Bytes of a segment's header.
pub const SEGMENT_HEADER_LEN: usize = 196;
/// Longest segment, in bytes. A writer cuts far earlier (32 MiB).
pub const SEGMENT_LEN_MAX: u64 = 256 << 20;
/// Longest index of a segment before compression, in bytes.
pub const SEGMENT_INDEX_LEN_MAX: u32 = 128 << 20;
/// Most frames of a segment.
pub const SEGMENT_FRAMES_MAX: usize = 1 << 20;
/// Most operations of a segment.
pub const SEGMENT_OPERATIONS_MAX: usize = 1 << 22;
/// Most blocks of a frame: 64 KiB.
pub const FRAME_BLOCKS_MAX: usize = 16;

pub(crate) const HEADER: Kind = Kind { magic: *b"LBSG", what: "segment header", version: SEGMENT_VERSION };
pub(crate) const TRAILER: TrailerKind = TrailerKind {
    magic: *b"LBSE",
    what: "segment trailer",
    header_len: SEGMENT_HEADER_LEN,
    object_len_max: SEGMENT_LEN_MAX,
    index_raw_len_max: SEGMENT_INDEX_LEN_MAX,
};

/// Seal hash of a segment: what the next segment's header names as the one before it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct SegmentHash(pub [u8; 32]);

impl SegmentHash {
    /// Before the first segment of a branch.
    pub const ZERO: SegmentHash = SegmentHash([0; 32]);
}

impl std::fmt::Display for SegmentHash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl std::fmt::Debug for SegmentHash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(self, f)
    }
}

/// Number of a frame within its segment, from 0. Also its encryption number: never used twice under one salt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FrameNo(pub u32);

/// Where a segment belongs: what its object's name says, which its header must repeat.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SegmentPlace {
    /// The vault.
    pub vault: VaultId,
    /// The group.
    pub group: GroupId,
    /// Branch, epoch, number.
    pub id: SegmentId,
}

/// The cleartext header of a segment. Authentic once [`SegmentIndex::open`] has accepted it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentHeader {
    /// Version of the segment: of this header and of its index.
    pub version: u16,
    /// Where it belongs.
    pub place: SegmentPlace,
    /// First position of the log that it holds.
    pub first_lsn: Lsn,
    /// Last position of the log that it holds.
    pub last_lsn: Lsn,
    /// When it was sealed.
    pub time: Timestamp,
    /// Salt of every key derived for it.
    pub salt: Salt,
    /// Tells two attempts to write the same number apart.
    pub writer_nonce: [u8; 16],
    /// Commitment to the group key.
    pub commitment: [u8; 32],
    /// Seal hash of the segment before it, across epochs; zero for the first of a branch.
    pub previous: SegmentHash,
}

impl SegmentHeader {
    /// Decodes the first [`SEGMENT_HEADER_LEN`] bytes of the object found under the name that says `expected`.
    pub fn decode(bytes: &[u8], expected: &SegmentPlace) -> Result<Self, FormatError> {
        let header = Self::decode_any(bytes)?;
        crate::place::same(HEADER.what, "vault", header.place.vault, expected.vault)?;
        crate::place::same(HEADER.what, "group", header.place.group, expected.group)?;
        crate::place::same(HEADER.what, "segment", header.place.id, expected.id)?;
        Ok(header)
    }

    /// Decodes a header wherever it was found: for inspection only.
    pub fn decode_any(bytes: &[u8]) -> Result<Self, FormatError> {
        let mut reader = HEADER.begin(bytes)?;
        let version = bytes.get(4..6).and_then(|bytes| bytes.try_into().ok()).map_or(0, u16::from_le_bytes);
        let header_len = reader.u16()?;
        let header = Self {
            version,
            place: SegmentPlace {
                vault: VaultId::from_bytes(reader.array()?),
                group: GroupId::from_bytes(reader.array()?),
                id: SegmentId {
                    branch: BranchId::from_bytes(reader.array()?),
                    epoch: Epoch(reader.u64()?),
                    seq: SegmentSeq(reader.u64()?),
                },
            },
            first_lsn: Lsn(reader.u64()?),
            last_lsn: Lsn(reader.u64()?),
            time: Timestamp::from_micros(reader.i64()?),
            salt: reader.array()?,
            writer_nonce: reader.array()?,
            commitment: reader.array()?,
            previous: SegmentHash(reader.array()?),
        };
        reader.checksum(bytes.get(..SEGMENT_HEADER_LEN.saturating_sub(4)).unwrap_or_default())?;
        if usize::from(header_len) != SEGMENT_HEADER_LEN {
            return Err(reader.corrupt("the header has another length than its version gives it"));
        }
        if header.place.id.epoch.0 == 0 || header.place.id.seq.0 == 0 {
            return Err(reader.corrupt("epochs and segments are numbered from 1"));
        }
        if header.first_lsn.0 == 0 || header.first_lsn > header.last_lsn {
            return Err(reader.corrupt("the positions are not in order"));
        }
        reader.finish()?;
        Ok(header)
    }

    /// The header's bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(SEGMENT_HEADER_LEN);
        out.put(&HEADER.magic);
        out.put_u16(self.version);
        out.put_u16(u16::try_from(SEGMENT_HEADER_LEN).unwrap_or_default());
        out.put(&self.place.vault.to_bytes());
        out.put(&self.place.group.to_bytes());
        out.put(&self.place.id.branch.to_bytes());
        out.put_u64(self.place.id.epoch.0);
        out.put_u64(self.place.id.seq.0);
        out.put_u64(self.first_lsn.0);
        out.put_u64(self.last_lsn.0);
        out.put_i64(self.time.as_micros());
        out.put(&self.salt);
        out.put(&self.writer_nonce);
        out.put(&self.commitment);
        out.put(&self.previous.0);
        out.put_crc();
        out
    }

    /// What encrypting or decrypting a frame of this segment needs besides a key.
    #[must_use]
    pub fn frame_context(&self, level: i32) -> FrameContext {
        FrameContext { place: self.place, salt: self.salt, level }
    }

    /// Whether the segment was sealed with that group key. [`FormatError::WrongKey`] when not.
    pub fn check_key(&self, key: &GroupKey) -> Result<(), FormatError> {
        check_commitment("segment", key, &self.salt, &self.commitment)
    }
}

/// The fixed-length end of a segment. Authentic once [`SegmentIndex::open`] has accepted it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentTrailer(pub(crate) Trailer);

impl SegmentTrailer {
    /// Decodes the last [`TRAILER_LEN`] bytes of an object that is `object_len` bytes long.
    pub fn decode(bytes: &[u8], object_len: u64) -> Result<Self, FormatError> {
        Trailer::decode(&TRAILER, bytes, object_len).map(Self)
    }

    /// Where in the object the stored index is.
    #[must_use]
    pub fn index_range(&self) -> std::ops::Range<u64> {
        self.0.index_range()
    }

    /// Bytes of the index once it is decompressed.
    #[must_use]
    pub fn index_raw_len(&self) -> u32 {
        self.0.index_raw_len
    }

    /// Number of frames.
    #[must_use]
    pub fn frame_count(&self) -> u32 {
        self.0.count
    }

    /// Length of the whole object, in bytes.
    #[must_use]
    pub fn total_len(&self) -> u64 {
        self.0.total_len
    }

    /// The seal hash: the chain value that the next segment names.
    #[must_use]
    pub fn hash(&self) -> SegmentHash {
        SegmentHash(self.0.seal_hash)
    }
}

/// A recovery point as its segment records it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecoveryPoint {
    /// The point.
    pub id: PointId,
    /// Its position: the state after this record.
    pub lsn: Lsn,
    /// When it was taken.
    pub time: Timestamp,
    /// How it came to be.
    pub kind: PointKind,
    /// Whether it is one cut through the write order. False only while a resync is under way: such a point is kept for
    /// the record, and never offered for recovery.
    pub consistent: bool,
    /// What a person called it; may be empty.
    pub label: String,
    /// Every volume of the group at that moment.
    pub volumes: Vec<PointVolume>,
}

/// One volume at a recovery point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PointVolume {
    /// The volume.
    pub volume: VolumeId,
    /// Its size.
    pub size_blocks: u64,
    /// Root of its Merkle map; none where the writer didn't have it at hand.
    pub root: Option<RootHash>,
}

/// Fewest bytes of an encoded [`PointVolume`].
const POINT_VOLUME_LEN_MIN: usize = 25;

impl RecoveryPoint {
    pub(crate) fn put(&self, what: &'static str, out: &mut Vec<u8>) -> Result<(), FormatError> {
        out.put(&self.id.to_bytes());
        out.put_u64(self.lsn.0);
        out.put_i64(self.time.as_micros());
        out.put_u8(self.kind.code());
        out.put_flag(self.consistent);
        out.put_text(what, &self.label, LABEL_BYTES_MAX)?;
        out.put_count(what, self.volumes.len(), GROUP_VOLUMES_MAX)?;
        for volume in &self.volumes {
            out.put(&volume.volume.to_bytes());
            out.put_u64(volume.size_blocks);
            out.put_flag(volume.root.is_some());
            if let Some(root) = volume.root {
                out.put(&root.0);
            }
        }
        Ok(())
    }

    pub(crate) fn take(reader: &mut Reader<'_>) -> Result<Self, FormatError> {
        let id = PointId::from_bytes(reader.array()?);
        let lsn = Lsn(reader.u64()?);
        let time = Timestamp::from_micros(reader.i64()?);
        let kind = take_point_kind(reader)?;
        let consistent = reader.flag()?;
        let label = reader.text(LABEL_BYTES_MAX)?;
        let count = reader.count(GROUP_VOLUMES_MAX, POINT_VOLUME_LEN_MIN)?;
        let mut volumes = Vec::with_capacity(count);
        for _ in 0..count {
            volumes.push(PointVolume {
                volume: VolumeId::from_bytes(reader.array()?),
                size_blocks: reader.u64()?,
                root: if reader.flag()? { Some(RootHash(reader.array()?)) } else { None },
            });
        }
        Ok(Self { id, lsn, time, kind, consistent, label, volumes })
    }
}

pub(crate) fn take_point_kind(reader: &mut Reader<'_>) -> Result<PointKind, FormatError> {
    PointKind::from_code(reader.u8()?).ok_or_else(|| reader.corrupt("no such kind of recovery point"))
}
