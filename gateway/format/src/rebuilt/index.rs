//! The index of a rebuilt segment: its volumes, its frames, and which slot of the segment each block is.
//!
//! ```text
//! volumes  count, {volume, number of its data key}
//! frames   count, {stored length, flags, volume, number of blocks, {frame and slot in the segment}}
//! hashes   16 bytes a block, in that order
//! ```

use std::collections::HashSet;
use std::ops::Range;

use lifeboat_model::{BLOCK_SIZE, BlockHash, VolumeId};

use super::{REBUILT_HEADER_LEN, RebuiltHeader, RebuiltTrailer, TRAILER};
use crate::keys::{GroupKey, LABEL_INDEX, SealKey};
use crate::seal::{self, FLAG_ZSTD};
use crate::segment::{FRAME_BLOCKS_MAX, FrameNo, SEGMENT_FRAMES_MAX, SEGMENT_INDEX_LEN_MAX};
use crate::wire::{Put, Reader, len64};
use crate::{FormatError, GROUP_VOLUMES_MAX};

const WHAT: &str = "rebuilt segment index";
const VOLUME_LEN: usize = 20;
const FRAME_LEN_MIN: usize = 13;

/// A volume that it holds blocks of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RebuiltVolume {
    /// The volume.
    pub volume: VolumeId,
    /// Number of the data key that its frames are encrypted under, from 1.
    pub key: u32,
}

/// A block, by its place in the segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RebuiltBlock {
    /// Frame of the segment.
    pub frame: FrameNo,
    /// Slot in that frame, below 16.
    pub slot: u8,
    /// Its keyed hash.
    pub hash: BlockHash,
}

/// A frame of the object. Its number is its place in the list, from 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RebuiltFrame {
    /// Where it begins in the object.
    pub offset: u64,
    /// Bytes that it takes there, tag included.
    pub stored_len: u32,
    pub(super) flags: u8,
    pub(super) volume_index: u16,
    /// Its blocks, ascending by frame and slot of the segment; all of one volume.
    pub blocks: Vec<RebuiltBlock>,
}

impl RebuiltFrame {
    /// Where in the object its bytes are.
    #[must_use]
    pub fn range(&self) -> Range<u64> {
        self.offset..self.offset.saturating_add(u64::from(self.stored_len))
    }

    /// Bytes of its blocks.
    #[must_use]
    pub fn raw_len(&self) -> u32 {
        u32::try_from(self.blocks.len().saturating_mul(BLOCK_SIZE)).unwrap_or(u32::MAX)
    }
}

/// Where a block of the segment is in the object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotAt {
    /// Slot in the segment's frame.
    pub slot: u8,
    /// Frame of the object.
    pub number: u32,
    /// The how manieth block of that frame it is, from 0.
    pub nth: u8,
}

/// What a rebuilt segment holds; nothing in it is taken on trust after [`Self::open`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RebuiltIndex {
    /// The volumes.
    pub volumes: Vec<RebuiltVolume>,
    /// The frames.
    pub frames: Vec<RebuiltFrame>,
    /// Blocks by their place in the segment, ascending.
    places: Vec<(FrameNo, SlotAt)>,
}

impl RebuiltIndex {
    /// Proves header, trailer and `stored` (the bytes of [`RebuiltTrailer::index_range`]), then decodes the index.
    pub fn open(
        header: &RebuiltHeader,
        trailer: &RebuiltTrailer,
        stored: &[u8],
        key: &GroupKey,
    ) -> Result<Self, FormatError> {
        header.check_key(key)?;
        let header_bytes = header.encode();
        trailer.0.verify(&TRAILER, key, &header.salt, &header_bytes, stored)?;
        let aad = aad(&header_bytes, trailer.0.index_raw_len, trailer.0.count);
        let compressed = index_key(header, key).open(WHAT, 0, &aad, stored)?;
        let raw = seal::decompress(WHAT, &compressed, trailer.0.index_raw_len)?;
        let index = Self::decode(&raw)?;
        index.check(trailer.0.index_offset)?;
        if len64(index.frames.len()) != u64::from(trailer.0.count) {
            let why = "it has another number of frames than the trailer";
            return Err(FormatError::Corrupt { what: WHAT, at: 0, why });
        }
        Ok(index)
    }

    /// Of these lists; what they must be to each other is [`Self::check`]'s.
    pub(super) fn new(volumes: Vec<RebuiltVolume>, frames: Vec<RebuiltFrame>) -> Self {
        let mut places: Vec<(FrameNo, SlotAt)> = Vec::new();
        for (number, frame) in (0_u32..).zip(&frames) {
            let at = |(nth, block): (u8, &RebuiltBlock)| (block.frame, SlotAt { slot: block.slot, number, nth });
            places.extend((0_u8..).zip(&frame.blocks).map(at));
        }
        places.sort_unstable_by_key(|(frame, at)| (*frame, at.slot));
        Self { volumes, frames, places }
    }

    /// A frame of the object, and its volume.
    pub fn frame(&self, number: u32) -> Result<(&RebuiltFrame, &RebuiltVolume), FormatError> {
        let entry = usize::try_from(number).ok().and_then(|at| self.frames.get(at));
        entry
            .and_then(|entry| Some((entry, self.volumes.get(usize::from(entry.volume_index))?)))
            .ok_or(FormatError::Corrupt { what: WHAT, at: 0, why: "it has no frame with that number" })
    }

    /// The blocks of one of the segment's frames, by ascending slot; none if none of them is here.
    pub fn slots_of(&self, frame: FrameNo) -> impl Iterator<Item = SlotAt> + '_ {
        let from = self.places.partition_point(|(known, _)| *known < frame);
        let rest = self.places.get(from..).unwrap_or_default();
        rest.iter().take_while(move |(known, _)| *known == frame).map(|(_, at)| *at)
    }

    /// Every block, by ascending frame and slot of the segment, with its hash.
    pub fn blocks(&self) -> impl Iterator<Item = RebuiltBlock> + '_ {
        self.places.iter().filter_map(|(_, at)| self.block(*at))
    }

    /// The block there.
    #[must_use]
    pub fn block(&self, at: SlotAt) -> Option<RebuiltBlock> {
        let frame = usize::try_from(at.number).ok().and_then(|number| self.frames.get(number))?;
        frame.blocks.get(usize::from(at.nth)).copied()
    }

    /// Number of blocks.
    #[must_use]
    pub fn block_count(&self) -> usize {
        self.places.len()
    }

    /// (sealed bytes, raw length).
    pub(super) fn seal(&self, header: &RebuiltHeader, key: &GroupKey) -> Result<(Vec<u8>, u32), FormatError> {
        let raw = self.encode()?;
        let raw_len =
            u32::try_from(raw.len()).ok().filter(|len| *len <= SEGMENT_INDEX_LEN_MAX).ok_or(FormatError::TooLarge {
                what: WHAT,
                found: len64(raw.len()),
                limit: u64::from(SEGMENT_INDEX_LEN_MAX),
            })?;
        let count = crate::wire::len32(WHAT, self.frames.len())?;
        let mut stored = seal::compress(WHAT, 1, &raw)?;
        index_key(header, key).seal(WHAT, 0, &aad(&header.encode(), raw_len, count), &mut stored)?;
        Ok((stored, raw_len))
    }

    pub(super) fn encode(&self) -> Result<Vec<u8>, FormatError> {
        let mut out = Vec::new();
        out.put_count(WHAT, self.volumes.len(), GROUP_VOLUMES_MAX)?;
        for volume in &self.volumes {
            out.put(&volume.volume.to_bytes());
            out.put_u32(volume.key);
        }
        out.put_count(WHAT, self.frames.len(), SEGMENT_FRAMES_MAX)?;
        for entry in &self.frames {
            out.put_u32(entry.stored_len);
            out.put_u8(entry.flags);
            out.put_u16(entry.volume_index);
            out.put_u8(u8::try_from(entry.blocks.len()).unwrap_or(u8::MAX));
            for block in &entry.blocks {
                out.put_u32(block.frame.0);
                out.put_u8(block.slot);
            }
        }
        let blocks = self.frames.iter().flat_map(|entry| &entry.blocks);
        seal::put_hashes(&mut out, blocks.map(|block| &block.hash));
        Ok(out)
    }

    pub(super) fn decode(raw: &[u8]) -> Result<Self, FormatError> {
        let mut reader = Reader::new(WHAT, raw);
        let count = reader.count(GROUP_VOLUMES_MAX, VOLUME_LEN)?;
        let mut volumes = Vec::with_capacity(count);
        for _ in 0..count {
            volumes.push(RebuiltVolume { volume: VolumeId::from_bytes(reader.array()?), key: reader.u32()? });
        }
        let count = reader.count(SEGMENT_FRAMES_MAX, FRAME_LEN_MIN)?;
        let mut frames: Vec<RebuiltFrame> = Vec::with_capacity(count);
        let mut offset = len64(REBUILT_HEADER_LEN);
        for _ in 0..count {
            let entry = take_frame(&mut reader, offset)?;
            offset = entry.range().end;
            frames.push(entry);
        }
        for block in frames.iter_mut().flat_map(|entry| &mut entry.blocks) {
            block.hash = BlockHash(reader.array()?);
        }
        reader.finish()?;
        Ok(Self::new(volumes, frames))
    }

    /// The rules that hold between the lists.
    pub(super) fn check(&self, index_offset: u64) -> Result<(), FormatError> {
        let corrupt = |why| Err(FormatError::Corrupt { what: WHAT, at: 0, why });
        if self.volumes.iter().any(|volume| volume.key == 0) {
            return corrupt("data keys are numbered from 1");
        }
        let distinct: HashSet<VolumeId> = self.volumes.iter().map(|volume| volume.volume).collect();
        if distinct.len() != self.volumes.len() {
            return corrupt("a volume is in the table twice");
        }
        if self.frames.iter().any(|entry| usize::from(entry.volume_index) >= self.volumes.len()) {
            return corrupt("a frame names a volume that isn't in the table");
        }
        let end = self.frames.last().map_or(len64(REBUILT_HEADER_LEN), |entry| entry.range().end);
        if end != index_offset {
            return corrupt("the last frame doesn't end where the index begins");
        }
        let twice = self.places.windows(2).any(|pair| match pair {
            [(one, at), (other, next)] => (one, at.slot) == (other, next.slot),
            _ => false,
        });
        if twice {
            return corrupt("a block is there twice");
        }
        if self.frames.iter().flat_map(|entry| &entry.blocks).any(|block| block.hash.is_zero()) {
            return corrupt("a block of zeroes is never in a frame");
        }
        Ok(())
    }
}

fn take_frame(reader: &mut Reader<'_>, offset: u64) -> Result<RebuiltFrame, FormatError> {
    let (stored_len, flags, volume_index) = (reader.u32()?, reader.u8()?, reader.u16()?);
    let count = usize::from(reader.u8()?);
    if count == 0 || count > FRAME_BLOCKS_MAX {
        return Err(reader.corrupt("a frame has no block or too many"));
    }
    let mut blocks: Vec<RebuiltBlock> = Vec::with_capacity(count);
    for _ in 0..count {
        let block = RebuiltBlock { frame: FrameNo(reader.u32()?), slot: reader.u8()?, hash: BlockHash([0; 16]) };
        if usize::from(block.slot) >= FRAME_BLOCKS_MAX {
            return Err(reader.corrupt("no frame has such a slot"));
        }
        if blocks.last().is_some_and(|last| (block.frame, block.slot) <= (last.frame, last.slot)) {
            return Err(reader.corrupt("the blocks of a frame don't ascend"));
        }
        blocks.push(block);
    }
    let entry = RebuiltFrame { offset, stored_len, flags, volume_index, blocks };
    if flags & !FLAG_ZSTD != 0 {
        return Err(reader.corrupt("a frame has an unknown flag"));
    }
    if seal::frame_fits(stored_len, entry.raw_len(), flags) {
        Ok(entry)
    } else {
        Err(reader.corrupt("a frame's stored length is impossible"))
    }
}

fn index_key(header: &RebuiltHeader, key: &GroupKey) -> SealKey {
    SealKey::derive(key.expose(), &header.salt, LABEL_INDEX)
}

fn aad(header: &[u8], raw_len: u32, count: u32) -> Vec<u8> {
    let mut aad = header.to_vec();
    aad.put_u32(raw_len);
    aad.put_u32(count);
    aad
}
