//! The index of a segment: its volumes, its frame directory, and its operations in write order.
//!
//! ```text
//! volumes     count, {volume, size in blocks when the segment begins, number of its data key (from version 2)}
//! frames      count, {number, offset, stored length, raw length, flags, volume, runs {address, count}}
//! hashes      16 bytes a block, in frame and slot order
//! operations  count, {tag, fields}
//! ```

use std::collections::HashSet;
use std::ops::Range;

use lifeboat_model::{BLOCK_SIZE_U64, BlockHash, Extent, VOLUME_BLOCKS_MAX, VolumeId};

use super::frame::FLAG_ZSTD;
use super::{
    FIRST_KEY, FRAME_BLOCKS_MAX, FrameNo, RecoveryPoint, SEGMENT_FRAMES_MAX, SEGMENT_HEADER_LEN, SEGMENT_INDEX_LEN_MAX,
    SEGMENT_OPERATIONS_MAX, SegmentHeader, SegmentTrailer, TRAILER,
};
use crate::keys::{GroupKey, LABEL_INDEX, SealKey};
use crate::seal;
use crate::wire::{Put, Reader, len64};
use crate::{FormatError, GROUP_VOLUMES_MAX};

const WHAT: &str = "segment index";
const VOLUME_LEN_V1: usize = 24;
const VOLUME_LEN: usize = 28;
const FRAME_LEN_MIN: usize = 33;
const OPERATION_LEN_MIN: usize = 5;

const TAG_FRAME: u8 = 1;
const TAG_ZERO: u8 = 2;
const TAG_TRIM: u8 = 3;
const TAG_RESIZE: u8 = 4;
const TAG_POINT: u8 = 5;

/// A volume that the segment writes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentVolume {
    /// The volume.
    pub volume: VolumeId,
    /// Its size when the segment begins.
    pub size_blocks: u64,
    /// Number of the data key that its frames are encrypted under, from 1.
    pub key: u32,
}

/// Blocks at consecutive addresses in consecutive slots of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockRun {
    /// First address.
    pub lba: u64,
    /// Number of blocks, 1 to 16.
    pub count: u8,
}

impl BlockRun {
    /// First address after the run.
    #[must_use]
    pub const fn end(self) -> u64 {
        self.lba.saturating_add(self.count as u64)
    }
}

/// A frame's entry in the directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FrameEntry {
    /// Its number. Numbers ascend and may have gaps.
    pub frame: FrameNo,
    /// Where it begins in the object.
    pub offset: u64,
    /// Bytes that it takes there, tag included.
    pub stored_len: u32,
    /// Bytes of its blocks: 4096 a slot.
    pub raw_len: u32,
    pub(super) flags: u8,
    pub(super) volume_index: u16,
    /// Addresses of its slots, ascending.
    pub runs: Vec<BlockRun>,
    /// Hashes of its slots.
    pub hashes: Vec<BlockHash>,
}

impl FrameEntry {
    /// Where in the object its bytes are.
    #[must_use]
    pub fn range(&self) -> Range<u64> {
        self.offset..self.offset.saturating_add(u64::from(self.stored_len))
    }

    /// Its blocks: (address, slot, hash), addresses ascending.
    pub fn blocks(&self) -> impl Iterator<Item = (u64, u8, BlockHash)> + '_ {
        let addresses = self.runs.iter().flat_map(|run| run.lba..run.end());
        addresses.zip(0_u8..).zip(&self.hashes).map(|((lba, slot), hash)| (lba, slot, *hash))
    }

    /// Whether its blocks are compressed.
    #[must_use]
    pub fn is_compressed(&self) -> bool {
        self.flags & FLAG_ZSTD != 0
    }
}

/// One step of the log, in write order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    /// The blocks of a frame were written.
    Frame(FrameNo),
    /// Blocks were overwritten with zeroes.
    Zero {
        /// The volume.
        volume: VolumeId,
        /// The blocks.
        extent: Extent,
    },
    /// Blocks were given up; they read as zeroes.
    Trim {
        /// The volume.
        volume: VolumeId,
        /// The blocks.
        extent: Extent,
    },
    /// The volume has another size from here on.
    Resize {
        /// The volume.
        volume: VolumeId,
        /// The new size.
        size_blocks: u64,
    },
    /// The state after everything before it is a recovery point.
    Point(Box<RecoveryPoint>),
}

/// What a segment holds. Its lists are as they were sealed; nothing in them is taken on trust after [`Self::open`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentIndex {
    /// The volumes that it writes to.
    pub volumes: Vec<SegmentVolume>,
    /// The frame directory, by ascending number and offset.
    pub frames: Vec<FrameEntry>,
    /// Frames, zero runs, trims, resizes and recovery points, in write order.
    pub operations: Vec<Operation>,
}

impl SegmentIndex {
    /// Proves header, trailer and `stored` (the bytes of [`SegmentTrailer::index_range`]), then decodes the index.
    pub fn open(
        header: &SegmentHeader,
        trailer: &SegmentTrailer,
        stored: &[u8],
        key: &GroupKey,
    ) -> Result<Self, FormatError> {
        header.check_key(key)?;
        let header_bytes = header.encode();
        trailer.0.verify(&TRAILER, key, &header.salt, &header_bytes, stored)?;
        let aad = aad(&header_bytes, trailer.0.index_raw_len, trailer.0.count);
        let compressed = index_key(header, key).open(WHAT, 0, &aad, stored)?;
        let raw = seal::decompress(WHAT, &compressed, trailer.0.index_raw_len)?;
        let index = Self::decode(header.version, &raw)?;
        index.check(header, trailer.0.index_offset)?;
        if len64(index.frames.len()) != u64::from(trailer.0.count) {
            return Err(FormatError::Corrupt {
                what: WHAT,
                at: 0,
                why: "it has another number of frames than the trailer",
            });
        }
        Ok(index)
    }

    /// The directory entry of a frame.
    pub fn frame(&self, frame: FrameNo) -> Result<&FrameEntry, FormatError> {
        self.frames
            .binary_search_by_key(&frame, |entry| entry.frame)
            .ok()
            .and_then(|at| self.frames.get(at))
            .ok_or(FormatError::Corrupt { what: WHAT, at: 0, why: "it has no frame with that number" })
    }

    /// The volume that a frame belongs to.
    pub fn volume_of(&self, entry: &FrameEntry) -> Result<&SegmentVolume, FormatError> {
        self.volumes.get(usize::from(entry.volume_index)).ok_or(FormatError::Corrupt {
            what: WHAT,
            at: 0,
            why: "a frame names a volume that isn't in the table",
        })
    }

    /// The recovery points, in order.
    pub fn points(&self) -> impl Iterator<Item = &RecoveryPoint> {
        self.operations.iter().filter_map(|operation| match operation {
            Operation::Point(point) => Some(point.as_ref()),
            _ => None,
        })
    }

    /// (sealed bytes, raw length).
    pub(super) fn seal(&self, header: &SegmentHeader, key: &GroupKey) -> Result<(Vec<u8>, u32), FormatError> {
        let raw = self.encode(header.version)?;
        let raw_len =
            u32::try_from(raw.len()).ok().filter(|len| *len <= SEGMENT_INDEX_LEN_MAX).ok_or(FormatError::TooLarge {
                what: WHAT,
                found: len64(raw.len()),
                limit: u64::from(SEGMENT_INDEX_LEN_MAX),
            })?;
        let count = crate::wire::len32(WHAT, self.frames.len())?;
        // Level 1: two thirds of an index are hashes, which no level makes smaller.
        let mut stored = seal::compress(WHAT, 1, &raw)?;
        index_key(header, key).seal(WHAT, 0, &aad(&header.encode(), raw_len, count), &mut stored)?;
        Ok((stored, raw_len))
    }

    pub(super) fn encode(&self, version: u16) -> Result<Vec<u8>, FormatError> {
        let mut out = Vec::new();
        out.put_count(WHAT, self.volumes.len(), GROUP_VOLUMES_MAX)?;
        for volume in &self.volumes {
            out.put(&volume.volume.to_bytes());
            out.put_u64(volume.size_blocks);
            if version > 1 {
                out.put_u32(volume.key);
            } else if volume.key != FIRST_KEY {
                return Err(FormatError::Refused {
                    what: WHAT,
                    why: "version 1 can't name another key than the first",
                });
            }
        }
        out.put_count(WHAT, self.frames.len(), SEGMENT_FRAMES_MAX)?;
        for entry in &self.frames {
            out.put_u32(entry.frame.0);
            out.put_u64(entry.offset);
            out.put_u32(entry.stored_len);
            out.put_u32(entry.raw_len);
            out.put_u8(entry.flags);
            out.put_u16(entry.volume_index);
            out.put_u8(u8::try_from(entry.runs.len()).unwrap_or(u8::MAX));
            for run in &entry.runs {
                out.put_u64(run.lba);
                out.put_u8(run.count);
            }
        }
        self.frames.iter().for_each(|entry| seal::put_hashes(&mut out, &entry.hashes));
        out.put_count(WHAT, self.operations.len(), SEGMENT_OPERATIONS_MAX)?;
        for operation in &self.operations {
            self.put_operation(operation, &mut out)?;
        }
        Ok(out)
    }

    fn put_operation(&self, operation: &Operation, out: &mut Vec<u8>) -> Result<(), FormatError> {
        match operation {
            Operation::Frame(frame) => {
                out.put_u8(TAG_FRAME);
                out.put_u32(frame.0);
            }
            Operation::Zero { volume, extent } => self.put_extent(TAG_ZERO, *volume, *extent, out)?,
            Operation::Trim { volume, extent } => self.put_extent(TAG_TRIM, *volume, *extent, out)?,
            Operation::Resize { volume, size_blocks } => {
                out.put_u8(TAG_RESIZE);
                out.put_u16(self.volume_index(*volume)?);
                out.put_u64(*size_blocks);
            }
            Operation::Point(point) => {
                out.put_u8(TAG_POINT);
                point.put(WHAT, out)?;
            }
        }
        Ok(())
    }

    fn put_extent(&self, tag: u8, volume: VolumeId, extent: Extent, out: &mut Vec<u8>) -> Result<(), FormatError> {
        out.put_u8(tag);
        out.put_u16(self.volume_index(volume)?);
        out.put_u64(extent.lba);
        out.put_u64(extent.blocks);
        Ok(())
    }

    /// Place of a volume in the table.
    pub(super) fn volume_index(&self, volume: VolumeId) -> Result<u16, FormatError> {
        self.volumes
            .iter()
            .position(|known| known.volume == volume)
            .and_then(|at| u16::try_from(at).ok())
            .ok_or(FormatError::Refused { what: WHAT, why: "the volume wasn't declared to the builder" })
    }

    pub(super) fn decode(version: u16, raw: &[u8]) -> Result<Self, FormatError> {
        let mut reader = Reader::new(WHAT, raw);
        let count = reader.count(GROUP_VOLUMES_MAX, if version > 1 { VOLUME_LEN } else { VOLUME_LEN_V1 })?;
        let mut volumes = Vec::with_capacity(count);
        for _ in 0..count {
            volumes.push(SegmentVolume {
                volume: VolumeId::from_bytes(reader.array()?),
                size_blocks: reader.u64()?,
                key: if version > 1 { reader.u32()? } else { FIRST_KEY },
            });
        }
        let count = reader.count(SEGMENT_FRAMES_MAX, FRAME_LEN_MIN)?;
        let mut frames = Vec::with_capacity(count);
        for _ in 0..count {
            frames.push(take_frame(&mut reader)?);
        }
        for entry in &mut frames {
            let blocks = entry.runs.iter().map(|run| usize::from(run.count)).sum::<usize>();
            entry.hashes = Vec::with_capacity(blocks);
            for _ in 0..blocks {
                entry.hashes.push(BlockHash(reader.array()?));
            }
        }
        let count = reader.count(SEGMENT_OPERATIONS_MAX, OPERATION_LEN_MIN)?;
        let mut operations = Vec::with_capacity(count);
        for _ in 0..count {
            operations.push(take_operation(&mut reader, &volumes)?);
        }
        reader.finish()?;
        Ok(Self { volumes, frames, operations })
    }

    /// The rules that hold between the lists.
    pub(super) fn check(&self, header: &SegmentHeader, index_offset: u64) -> Result<(), FormatError> {
        let corrupt = |why| Err(FormatError::Corrupt { what: WHAT, at: 0, why });
        let mut sizes: Vec<u64> = self.volumes.iter().map(|volume| volume.size_blocks).collect();
        if sizes.iter().any(|size| *size == 0 || *size > VOLUME_BLOCKS_MAX) {
            return corrupt("a volume has an impossible size");
        }
        if self.volumes.iter().any(|volume| volume.key == 0) {
            return corrupt("data keys are numbered from 1");
        }
        let distinct: HashSet<VolumeId> = self.volumes.iter().map(|volume| volume.volume).collect();
        if distinct.len() != self.volumes.len() {
            return corrupt("a volume is in the table twice");
        }

        let mut at = len64(SEGMENT_HEADER_LEN);
        let mut last: Option<FrameNo> = None;
        for entry in &self.frames {
            if last.is_some_and(|last| entry.frame <= last) {
                return corrupt("frame numbers don't ascend");
            }
            if entry.offset != at {
                return corrupt("frames leave a gap or overlap");
            }
            last = Some(entry.frame);
            at = entry.range().end;
        }
        if at != index_offset {
            return corrupt("the last frame doesn't end where the index begins");
        }

        let mut pending = self.frames.iter();
        let mut position = header.first_lsn;
        for operation in &self.operations {
            match operation {
                Operation::Frame(frame) => {
                    let Some(entry) = pending.next().filter(|entry| entry.frame == *frame) else {
                        return corrupt("operations don't name every frame once and in order");
                    };
                    let size = sizes.get(usize::from(entry.volume_index)).copied().unwrap_or(0);
                    if entry.runs.last().is_none_or(|run| run.end() > size) {
                        return corrupt("a frame reaches past the end of its volume");
                    }
                }
                Operation::Zero { volume, extent } | Operation::Trim { volume, extent } => {
                    let size = sizes.get(usize::from(self.volume_index(*volume)?)).copied().unwrap_or(0);
                    let end = extent.lba.checked_add(extent.blocks);
                    if extent.blocks == 0 || end.is_none_or(|end| end > size) {
                        return corrupt("a run is empty or reaches past the end of its volume");
                    }
                }
                Operation::Resize { volume, size_blocks } => {
                    if *size_blocks == 0 || *size_blocks > VOLUME_BLOCKS_MAX {
                        return corrupt("a volume is resized to an impossible size");
                    }
                    if let Some(size) = sizes.get_mut(usize::from(self.volume_index(*volume)?)) {
                        *size = *size_blocks;
                    }
                }
                Operation::Point(point) => {
                    if point.lsn < position || point.lsn > header.last_lsn {
                        return corrupt("a recovery point is outside the segment's positions or out of order");
                    }
                    position = point.lsn;
                }
            }
        }
        if pending.next().is_some() {
            return corrupt("a frame has no operation");
        }
        Ok(())
    }
}

fn take_frame(reader: &mut Reader<'_>) -> Result<FrameEntry, FormatError> {
    let mut entry = FrameEntry {
        frame: FrameNo(reader.u32()?),
        offset: reader.u64()?,
        stored_len: reader.u32()?,
        raw_len: reader.u32()?,
        flags: reader.u8()?,
        volume_index: reader.u16()?,
        runs: Vec::new(),
        hashes: Vec::new(),
    };
    let runs = usize::from(reader.u8()?);
    if runs == 0 || runs > FRAME_BLOCKS_MAX {
        return Err(reader.corrupt("a frame has no run or too many"));
    }
    let mut blocks = 0_u64;
    let mut end = None;
    for _ in 0..runs {
        let run = BlockRun { lba: reader.u64()?, count: reader.u8()? };
        // A run that touches the one before would have been part of it: one content, one encoding.
        if run.count == 0 || run.lba >= VOLUME_BLOCKS_MAX || end.is_some_and(|end| run.lba <= end) {
            return Err(reader.corrupt("the runs of a frame are empty, overlap, touch or don't ascend"));
        }
        blocks = blocks.saturating_add(u64::from(run.count));
        end = Some(run.end());
        entry.runs.push(run);
    }
    if blocks > len64(FRAME_BLOCKS_MAX) || u64::from(entry.raw_len) != blocks.saturating_mul(BLOCK_SIZE_U64) {
        return Err(reader.corrupt("a frame has too many blocks or another length than its blocks"));
    }
    if entry.flags & !FLAG_ZSTD != 0 {
        return Err(reader.corrupt("a frame has an unknown flag"));
    }
    if seal::frame_fits(entry.stored_len, entry.raw_len, entry.flags) {
        Ok(entry)
    } else {
        Err(reader.corrupt("a frame's stored length is impossible"))
    }
}

fn take_operation(reader: &mut Reader<'_>, volumes: &[SegmentVolume]) -> Result<Operation, FormatError> {
    let tag = reader.u8()?;
    match tag {
        TAG_FRAME => Ok(Operation::Frame(FrameNo(reader.u32()?))),
        TAG_ZERO => Ok(Operation::Zero { volume: take_volume(reader, volumes)?, extent: take_extent(reader)? }),
        TAG_TRIM => Ok(Operation::Trim { volume: take_volume(reader, volumes)?, extent: take_extent(reader)? }),
        TAG_RESIZE => Ok(Operation::Resize { volume: take_volume(reader, volumes)?, size_blocks: reader.u64()? }),
        TAG_POINT => Ok(Operation::Point(Box::new(RecoveryPoint::take(reader)?))),
        _ => Err(reader.corrupt("no such operation")),
    }
}

fn take_volume(reader: &mut Reader<'_>, volumes: &[SegmentVolume]) -> Result<VolumeId, FormatError> {
    let at = usize::from(reader.u16()?);
    volumes
        .get(at)
        .map(|volume| volume.volume)
        .ok_or_else(|| reader.corrupt("an operation names a volume that isn't in the table"))
}

fn take_extent(reader: &mut Reader<'_>) -> Result<Extent, FormatError> {
    Ok(Extent { lba: reader.u64()?, blocks: reader.u64()? })
}

fn index_key(header: &SegmentHeader, key: &GroupKey) -> SealKey {
    SealKey::derive(key.expose(), &header.salt, LABEL_INDEX)
}

fn aad(header: &[u8], raw_len: u32, count: u32) -> Vec<u8> {
    let mut aad = header.to_vec();
    aad.put_u32(raw_len);
    aad.put_u32(count);
    aad
}
