//! Building a segment.
//!
//! The builder keeps the whole object in memory (32 MiB, cut by its caller) and gives it out only when it is sealed:
//! dropping it leaves nothing behind. A segment whose put failed is put again with the same bytes; if it has to be
//! *built* again, it is built under a fresh salt, since other content under the same frame numbers would use a
//! (key, nonce) pair twice.

use lifeboat_model::{Extent, Lsn, Timestamp, VOLUME_BLOCKS_MAX, VolumeId};

use super::{
    FrameBlock, FrameContext, FrameEntry, FrameNo, Operation, PreparedFrame, RecoveryPoint, SEGMENT_FRAMES_MAX,
    SEGMENT_HEADER_LEN, SEGMENT_OPERATIONS_MAX, SEGMENT_VERSION, SegmentHash, SegmentHeader, SegmentIndex,
    SegmentPlace, SegmentTrailer, SegmentVolume, TRAILER, TRAILER_LEN, prepare_frame,
};
use crate::keys::{DataKey, GroupKey, Salt, commitment};
use crate::seal::Trailer;
use crate::wire::{Put, len64};
use crate::{FormatError, GROUP_VOLUMES_MAX};

const WHAT: &str = "segment";

/// What a segment is given at its start. Salt and nonce are fresh random bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentParams {
    /// Where it belongs.
    pub place: SegmentPlace,
    /// First position of the log that it will hold.
    pub first_lsn: Lsn,
    /// Seal hash of the segment before it.
    pub previous: SegmentHash,
    /// Salt of every key derived for it.
    pub salt: Salt,
    /// Tells two attempts to write the same number apart.
    pub writer_nonce: [u8; 16],
    /// zstd level of its frames: -7 … 22.
    pub level: i32,
}

/// A finished segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SealedSegment {
    /// The object.
    pub bytes: Vec<u8>,
    /// Its header.
    pub header: SegmentHeader,
    /// Its index.
    pub index: SegmentIndex,
    /// Its trailer.
    pub trailer: SegmentTrailer,
    /// Its seal hash: what the next segment names as the one before it.
    pub hash: SegmentHash,
}

/// Builds one segment. Operations are recorded in the order of the calls.
#[derive(Debug)]
pub struct SegmentBuilder {
    key: GroupKey,
    context: FrameContext,
    header: SegmentHeader,
    bytes: Vec<u8>,
    index: SegmentIndex,
    index_len: u64,
    next_frame: u32,
}

impl SegmentBuilder {
    /// An empty segment.
    #[must_use]
    pub fn new(params: SegmentParams, key: &GroupKey) -> Self {
        let header = SegmentHeader {
            version: SEGMENT_VERSION,
            place: params.place,
            first_lsn: params.first_lsn,
            last_lsn: params.first_lsn,
            time: Timestamp::default(),
            salt: params.salt,
            writer_nonce: params.writer_nonce,
            commitment: commitment(key, &params.salt),
            previous: params.previous,
        };
        Self {
            key: key.clone(),
            context: FrameContext { place: params.place, salt: params.salt, level: params.level },
            header,
            bytes: vec![0; SEGMENT_HEADER_LEN],
            index: SegmentIndex { volumes: Vec::new(), frames: Vec::new(), operations: Vec::new() },
            index_len: 12,
            next_frame: 0,
        }
    }

    /// What [`prepare_frame`] needs to work for this segment on another thread.
    #[must_use]
    pub fn context(&self) -> FrameContext {
        self.context
    }

    /// Declares a volume, with its size when the segment begins and the number of the data key that its frames are
    /// prepared with. Needed before its first operation; a second call with the same values changes nothing.
    pub fn add_volume(&mut self, volume: VolumeId, size_blocks: u64, key: u32) -> Result<(), FormatError> {
        let declared = SegmentVolume { volume, size_blocks, key };
        if let Some(known) = self.index.volumes.iter().find(|known| known.volume == volume) {
            return if *known == declared {
                Ok(())
            } else {
                Err(FormatError::Refused { what: WHAT, why: "the volume was declared with another size or key" })
            };
        }
        if key == 0 {
            return Err(FormatError::Refused { what: WHAT, why: "data keys are numbered from 1" });
        }
        if size_blocks == 0 || size_blocks > VOLUME_BLOCKS_MAX {
            return Err(FormatError::TooLarge { what: WHAT, found: size_blocks, limit: VOLUME_BLOCKS_MAX });
        }
        limit(self.index.volumes.len(), GROUP_VOLUMES_MAX)?;
        self.index.volumes.push(declared);
        self.index_len = self.index_len.saturating_add(28);
        Ok(())
    }

    /// The number of the next frame to prepare. Frames are pushed in the order of their numbers; a number whose frame is
    /// never pushed leaves a gap, which is allowed.
    pub fn reserve_frame(&mut self) -> FrameNo {
        let frame = FrameNo(self.next_frame);
        self.next_frame = self.next_frame.saturating_add(1);
        frame
    }

    /// Prepares and pushes a frame. Addresses must ascend strictly.
    pub fn push_frame(
        &mut self,
        volume: VolumeId,
        key: &DataKey,
        blocks: &[FrameBlock<'_>],
    ) -> Result<FrameNo, FormatError> {
        let frame = self.reserve_frame();
        let prepared = prepare_frame(&self.context, frame, volume, &self.context.frame_key(key), blocks)?;
        self.push_prepared(prepared)?;
        Ok(frame)
    }

    /// Adds a frame that was prepared for this segment under a number from [`Self::reserve_frame`].
    pub fn push_prepared(&mut self, frame: PreparedFrame) -> Result<(), FormatError> {
        let refused = |why| Err(FormatError::Refused { what: WHAT, why });
        if frame.place != self.context.place || frame.salt != self.context.salt {
            return refused("the frame was prepared for another segment");
        }
        if frame.frame.0 >= self.next_frame {
            return refused("the frame's number wasn't reserved");
        }
        if self.index.frames.last().is_some_and(|last| frame.frame <= last.frame) {
            return refused("frames must be pushed in the order of their numbers");
        }
        limit(self.index.frames.len(), SEGMENT_FRAMES_MAX)?;
        let volume_index = self.index.volume_index(frame.volume)?;
        let entry = FrameEntry {
            frame: frame.frame,
            offset: len64(self.bytes.len()),
            stored_len: crate::wire::len32(WHAT, frame.stored.len())?,
            raw_len: frame.raw_len,
            flags: frame.flags,
            volume_index,
            runs: frame.runs,
            hashes: frame.hashes,
        };
        let index_len = entry.runs.len().saturating_mul(9).saturating_add(entry.hashes.len().saturating_mul(16));
        self.push(Operation::Frame(entry.frame), len64(index_len).saturating_add(29))?;
        self.bytes.put(&frame.stored);
        self.index.frames.push(entry);
        Ok(())
    }

    /// Blocks were overwritten with zeroes.
    pub fn push_zero(&mut self, volume: VolumeId, extent: Extent) -> Result<(), FormatError> {
        self.check_extent(volume, extent)?;
        self.push(Operation::Zero { volume, extent }, 14)
    }

    /// Blocks were given up.
    pub fn push_trim(&mut self, volume: VolumeId, extent: Extent) -> Result<(), FormatError> {
        self.check_extent(volume, extent)?;
        self.push(Operation::Trim { volume, extent }, 14)
    }

    /// The volume has another size from here on.
    pub fn push_resize(&mut self, volume: VolumeId, size_blocks: u64) -> Result<(), FormatError> {
        self.index.volume_index(volume)?;
        if size_blocks == 0 || size_blocks > VOLUME_BLOCKS_MAX {
            return Err(FormatError::TooLarge { what: WHAT, found: size_blocks, limit: VOLUME_BLOCKS_MAX });
        }
        self.push(Operation::Resize { volume, size_blocks }, 6)
    }

    /// The state after everything pushed so far is a recovery point.
    pub fn push_point(&mut self, point: RecoveryPoint) -> Result<(), FormatError> {
        let mut encoded = Vec::new();
        point.put(WHAT, &mut encoded)?;
        self.push(Operation::Point(Box::new(point)), len64(encoded.len()))
    }

    /// Bytes that the object will take, give or take what compressing the index saves.
    #[must_use]
    pub fn bytes_so_far(&self) -> u64 {
        len64(self.bytes.len()).saturating_add(self.index_len).saturating_add(len64(TRAILER_LEN))
    }

    /// Whether nothing was pushed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.index.operations.is_empty()
    }

    /// Finishes the object: it holds the log up to `last_lsn`.
    pub fn seal(mut self, last_lsn: Lsn, time: Timestamp) -> Result<SealedSegment, FormatError> {
        self.header.last_lsn = last_lsn;
        self.header.time = time;
        // What can't be read must not be written: the reader's own rules, on the header and on the index.
        let header_bytes = self.header.encode();
        let header = SegmentHeader::decode(&header_bytes, &self.context.place).map_err(refused)?;
        self.index.check(&header, len64(self.bytes.len())).map_err(refused)?;
        if let Some(space) = self.bytes.get_mut(..SEGMENT_HEADER_LEN) {
            space.copy_from_slice(&header_bytes);
        }
        let (stored, raw_len) = self.index.seal(&header, &self.key)?;
        let count = crate::wire::len32(WHAT, self.index.frames.len())?;
        let trailer = Trailer::append(&TRAILER, &self.key, &header.salt, &mut self.bytes, &stored, raw_len, count)?;
        let hash = SegmentHash(trailer.seal_hash);
        Ok(SealedSegment { bytes: self.bytes, header, index: self.index, trailer: SegmentTrailer(trailer), hash })
    }

    fn push(&mut self, operation: Operation, extra_len: u64) -> Result<(), FormatError> {
        limit(self.index.operations.len(), SEGMENT_OPERATIONS_MAX)?;
        self.index.operations.push(operation);
        self.index_len = self.index_len.saturating_add(5).saturating_add(extra_len);
        Ok(())
    }

    fn check_extent(&self, volume: VolumeId, extent: Extent) -> Result<(), FormatError> {
        self.index.volume_index(volume)?;
        let end = extent.lba.checked_add(extent.blocks);
        if extent.blocks == 0 || end.is_none_or(|end| end > VOLUME_BLOCKS_MAX) {
            return Err(FormatError::Refused { what: WHAT, why: "a run is empty or reaches past the largest volume" });
        }
        Ok(())
    }
}

fn limit(count: usize, max: usize) -> Result<(), FormatError> {
    if count < max {
        Ok(())
    } else {
        Err(FormatError::TooLarge { what: WHAT, found: len64(count).saturating_add(1), limit: len64(max) })
    }
}

/// A rule of the format that the caller broke is the caller's defect, not damage.
fn refused(error: FormatError) -> FormatError {
    match error {
        FormatError::Corrupt { why, .. } => FormatError::Refused { what: WHAT, why },
        other => other,
    }
}
