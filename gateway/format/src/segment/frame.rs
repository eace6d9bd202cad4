//! Frames: up to 16 blocks of one volume, packed across scattered addresses, compressed and encrypted together.
//!
//! [`prepare_frame`] is pure, so that a worker pool can prepare frames while the builder hands out numbers.

use lifeboat_model::{BLOCK_SIZE, BlockHash, VOLUME_BLOCKS_MAX, VolumeId};

use super::index::BlockRun;
use super::{FRAME_BLOCKS_MAX, FrameNo, SegmentPlace};
use crate::FormatError;
use crate::keys::{DataKey, LABEL_FRAME, Salt, SealKey};
use crate::seal;
use crate::wire::{Put, len32, len64};

pub(super) const WHAT: &str = "segment frame";
pub(super) use crate::seal::FLAG_ZSTD;

/// Identity of the segment that a frame belongs to, and how to compress.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameContext {
    /// Where the segment belongs.
    pub place: SegmentPlace,
    /// The segment's salt.
    pub salt: Salt,
    /// zstd level: -7 … 22.
    pub level: i32,
}

impl FrameContext {
    /// The key of one volume's frames in this segment.
    #[must_use]
    pub fn frame_key(&self, key: &DataKey) -> FrameKey {
        FrameKey(SealKey::derive(key.expose(), &self.salt, LABEL_FRAME))
    }

    pub(super) fn aad(&self, frame: FrameNo, volume: VolumeId, raw_len: u32, flags: u8) -> Vec<u8> {
        let mut aad = Vec::with_capacity(128);
        aad.put(&self.place.vault.to_bytes());
        aad.put(&self.place.group.to_bytes());
        aad.put(&self.place.id.branch.to_bytes());
        aad.put_u64(self.place.id.epoch.0);
        aad.put_u64(self.place.id.seq.0);
        aad.put(&self.salt);
        aad.put_u32(frame.0);
        aad.put(&volume.to_bytes());
        aad.put_u32(raw_len);
        aad.put_u8(flags);
        aad
    }
}

/// Encrypts the frames of one volume in one segment. Derive it once and keep it while the segment is worked on.
#[derive(Debug)]
pub struct FrameKey(pub(super) SealKey);

/// A block that goes into a frame.
#[derive(Clone, Copy)]
pub struct FrameBlock<'a> {
    /// Its address.
    pub lba: u64,
    /// Its content; not all zero.
    pub data: &'a [u8; BLOCK_SIZE],
    /// Its keyed hash.
    pub hash: BlockHash,
}

impl std::fmt::Debug for FrameBlock<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FrameBlock").field("lba", &self.lba).field("hash", &self.hash).finish_non_exhaustive()
    }
}

/// A frame that is compressed and encrypted, ready for its segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PreparedFrame {
    pub(super) place: SegmentPlace,
    pub(super) salt: Salt,
    pub(super) frame: FrameNo,
    pub(super) volume: VolumeId,
    pub(super) raw_len: u32,
    pub(super) flags: u8,
    pub(super) runs: Vec<BlockRun>,
    pub(super) hashes: Vec<BlockHash>,
    pub(super) stored: Vec<u8>,
}

impl PreparedFrame {
    /// Its number.
    #[must_use]
    pub fn frame(&self) -> FrameNo {
        self.frame
    }

    /// Bytes that it takes in the segment.
    #[must_use]
    pub fn stored_len(&self) -> usize {
        self.stored.len()
    }
}

/// Packs 1 to 16 blocks with strictly ascending addresses into frame `frame`.
///
/// The number must come from the builder of the same segment and be used once: it is the encryption nonce.
pub fn prepare_frame(
    context: &FrameContext,
    frame: FrameNo,
    volume: VolumeId,
    key: &FrameKey,
    blocks: &[FrameBlock<'_>],
) -> Result<PreparedFrame, FormatError> {
    if blocks.is_empty() {
        return Err(FormatError::Refused { what: WHAT, why: "it has no block" });
    }
    if blocks.len() > FRAME_BLOCKS_MAX {
        return Err(FormatError::TooLarge { what: WHAT, found: len64(blocks.len()), limit: len64(FRAME_BLOCKS_MAX) });
    }
    if blocks.iter().any(|block| block.hash.is_zero()) {
        return Err(FormatError::Refused { what: WHAT, why: "zero blocks are recorded as zero runs" });
    }
    let runs = runs_of(blocks)?;
    let mut raw = Vec::with_capacity(blocks.len().saturating_mul(BLOCK_SIZE).saturating_add(64));
    blocks.iter().for_each(|block| raw.put(block.data));
    let raw_len = len32(WHAT, raw.len())?;

    let (mut stored, flags) = seal::pack(WHAT, context.level, raw)?;
    key.0.seal(WHAT, u64::from(frame.0), &context.aad(frame, volume, raw_len, flags), &mut stored)?;
    Ok(PreparedFrame {
        place: context.place,
        salt: context.salt,
        frame,
        volume,
        raw_len,
        flags,
        runs,
        hashes: blocks.iter().map(|block| block.hash).collect(),
        stored,
    })
}

fn runs_of(blocks: &[FrameBlock<'_>]) -> Result<Vec<BlockRun>, FormatError> {
    let mut runs: Vec<BlockRun> = Vec::new();
    for block in blocks {
        if block.lba >= VOLUME_BLOCKS_MAX {
            return Err(FormatError::TooLarge { what: WHAT, found: block.lba, limit: VOLUME_BLOCKS_MAX });
        }
        match runs.last_mut() {
            Some(run) if block.lba < run.end() => {
                return Err(FormatError::Refused { what: WHAT, why: "block addresses must ascend strictly" });
            }
            Some(run) if block.lba == run.end() => run.count = run.count.saturating_add(1),
            _ => runs.push(BlockRun { lba: block.lba, count: 1 }),
        }
    }
    Ok(runs)
}
