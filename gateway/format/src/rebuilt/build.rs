//! Building a rebuilt segment.
//!
//! The builder keeps the object in memory, which is smaller than the segment, and gives it out only when it is sealed. Built
//! again, it is built under a fresh salt.

use lifeboat_model::{BLOCK_SIZE, BlockHash, Timestamp, VolumeId};

use super::{
    HEADER, REBUILT_HEADER_LEN, RebuiltBlock, RebuiltFrame, RebuiltHeader, RebuiltIndex, RebuiltPlace, RebuiltVolume,
    TRAILER,
};
use crate::FormatError;
use crate::keys::{DataKey, GroupKey, Salt, commitment};
use crate::seal::{self, Trailer};
use crate::segment::{FRAME_BLOCKS_MAX, FrameNo, SEGMENT_FRAMES_MAX, SegmentHash};
use crate::wire::{Put, len32, len64};

const WHAT: &str = "rebuilt segment";

/// What a rebuilt segment is given at its start. The salt is fresh random bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RebuiltParams {
    /// Where it belongs.
    pub place: RebuiltPlace,
    /// Seal hash of the segment.
    pub segment_hash: SegmentHash,
    /// Salt of every key derived for it.
    pub salt: Salt,
    /// zstd level of its frames: -7 … 22.
    pub level: i32,
}

/// A finished rebuilt segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SealedRebuilt {
    /// The object.
    pub bytes: Vec<u8>,
    /// Its header.
    pub header: RebuiltHeader,
    /// Its index.
    pub index: RebuiltIndex,
}

/// Builds one rebuilt segment.
#[derive(Debug)]
pub struct RebuiltBuilder {
    key: GroupKey,
    header: RebuiltHeader,
    level: i32,
    bytes: Vec<u8>,
    volumes: Vec<RebuiltVolume>,
    frames: Vec<RebuiltFrame>,
}

impl RebuiltBuilder {
    /// An empty one.
    #[must_use]
    pub fn new(params: RebuiltParams, key: &GroupKey) -> Self {
        let RebuiltParams { place, segment_hash, salt, level } = params;
        let header =
            RebuiltHeader { place, time: Timestamp::default(), salt, commitment: commitment(key, &salt), segment_hash };
        Self {
            key: key.clone(),
            header,
            level,
            bytes: vec![0; REBUILT_HEADER_LEN],
            volumes: Vec::new(),
            frames: Vec::new(),
        }
    }

    /// Adds a frame of 1 to 16 blocks of one volume: frame and slot that they have in the segment, ascending; hash; content.
    /// `key` is the volume's data key of that number.
    pub fn push_frame(
        &mut self,
        volume: VolumeId,
        (number, key): (u32, &DataKey),
        blocks: &[(FrameNo, u8, BlockHash, &[u8; BLOCK_SIZE])],
    ) -> Result<(), FormatError> {
        if blocks.is_empty() || blocks.len() > FRAME_BLOCKS_MAX {
            return Err(FormatError::TooLarge {
                what: WHAT,
                found: len64(blocks.len()),
                limit: len64(FRAME_BLOCKS_MAX),
            });
        }
        if self.frames.len() >= SEGMENT_FRAMES_MAX {
            let found = len64(self.frames.len()).saturating_add(1);
            return Err(FormatError::TooLarge { what: WHAT, found, limit: len64(SEGMENT_FRAMES_MAX) });
        }
        let declared = RebuiltVolume { volume, key: number };
        let known = self.volumes.iter().position(|known| *known == declared);
        let at = known.unwrap_or(self.volumes.len());
        if known.is_none() {
            self.volumes.push(declared);
        }
        let frame_number = len32(WHAT, self.frames.len())?;
        let mut raw = Vec::with_capacity(blocks.len().saturating_mul(BLOCK_SIZE).saturating_add(64));
        blocks.iter().for_each(|(.., data)| raw.put(*data));
        let raw_len = len32(WHAT, raw.len())?;
        let (mut stored, flags) = seal::pack(WHAT, self.level, raw)?;
        let aad = self.header.frame_aad(frame_number, &declared, raw_len, flags);
        self.header.frame_key(key).0.seal(WHAT, u64::from(frame_number), &aad, &mut stored)?;
        self.frames.push(RebuiltFrame {
            offset: len64(self.bytes.len()),
            stored_len: len32(WHAT, stored.len())?,
            flags,
            volume_index: u16::try_from(at).unwrap_or(u16::MAX),
            blocks: blocks
                .iter()
                .map(|(frame, slot, hash, _)| RebuiltBlock { frame: *frame, slot: *slot, hash: *hash })
                .collect(),
        });
        self.bytes.put(&stored);
        Ok(())
    }

    /// Finishes the object.
    pub fn seal(mut self, time: Timestamp) -> Result<SealedRebuilt, FormatError> {
        self.header.time = time;
        // What can't be read must not be written: the reader's own rules, on the header and on the index.
        let header_bytes = self.header.encode();
        let header = RebuiltHeader::decode(&header_bytes, &self.header.place).map_err(refused)?;
        let index = RebuiltIndex::new(self.volumes, self.frames);
        let index = RebuiltIndex::decode(&index.encode()?).map_err(refused)?;
        index.check(len64(self.bytes.len())).map_err(refused)?;
        if let Some(space) = self.bytes.get_mut(..REBUILT_HEADER_LEN) {
            space.copy_from_slice(&header_bytes);
        }
        let (stored, raw_len) = index.seal(&header, &self.key)?;
        let count = len32(HEADER.what, index.frames.len())?;
        Trailer::append(&TRAILER, &self.key, &header.salt, &mut self.bytes, &stored, raw_len, count)?;
        Ok(SealedRebuilt { bytes: self.bytes, header, index })
    }
}

/// A rule of the format that the caller broke is the caller's defect, not damage.
fn refused(error: FormatError) -> FormatError {
    match error {
        FormatError::Corrupt { why, .. } => FormatError::Refused { what: WHAT, why },
        other => other,
    }
}
