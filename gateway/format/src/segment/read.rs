//! Reading segments: one frame by its range, or a whole object at once.

use lifeboat_model::BLOCK_SIZE;

use super::frame::{FrameKey, WHAT};
use super::{
    FrameContext, FrameNo, SEGMENT_HEADER_LEN, SegmentHeader, SegmentIndex, SegmentPlace, SegmentTrailer,
    SegmentVolume, TRAILER_LEN,
};
use crate::FormatError;
use crate::hash::BlockHasher;
use crate::keys::{DataKey, GroupKey, VolumeKeys};
use crate::seal;
use crate::wire::{len64, slice};

/// Decrypts a frame: `stored` are the bytes of [`super::FrameEntry::range`]. Gives its blocks, 4096 bytes a slot.
pub fn open_frame(
    header: &SegmentHeader,
    index: &SegmentIndex,
    frame: FrameNo,
    stored: &[u8],
    key: &DataKey,
) -> Result<Vec<u8>, FormatError> {
    let context = header.frame_context(0);
    open_frame_with(&context, index, frame, stored, &context.frame_key(key))
}

/// [`open_frame`] with a key that was derived before.
pub fn open_frame_with(
    context: &FrameContext,
    index: &SegmentIndex,
    frame: FrameNo,
    stored: &[u8],
    key: &FrameKey,
) -> Result<Vec<u8>, FormatError> {
    let entry = index.frame(frame)?;
    if len64(stored.len()) != u64::from(entry.stored_len) {
        return Err(FormatError::Truncated {
            what: WHAT,
            needed: u64::from(entry.stored_len),
            available: len64(stored.len()),
        });
    }
    let volume = index.volume_of(entry)?.volume;
    let aad = context.aad(frame, volume, entry.raw_len, entry.flags);
    let plain = key.0.open(WHAT, u64::from(frame.0), &aad, stored)?;
    seal::unpack(WHAT, plain, entry.flags, entry.raw_len)
}

/// A whole segment in memory, its header, index and trailer proved.
#[derive(Debug)]
pub struct SegmentObject<'a> {
    bytes: &'a [u8],
    /// The header.
    pub header: SegmentHeader,
    /// The index.
    pub index: SegmentIndex,
    /// The trailer.
    pub trailer: SegmentTrailer,
}

impl<'a> SegmentObject<'a> {
    /// Opens the object found under the name that says `expected`.
    pub fn open(bytes: &'a [u8], expected: &SegmentPlace, key: &GroupKey) -> Result<Self, FormatError> {
        let header = SegmentHeader::decode(slice("segment header", bytes, 0, len64(SEGMENT_HEADER_LEN))?, expected)?;
        let object_len = len64(bytes.len());
        let trailer_at = object_len.saturating_sub(len64(TRAILER_LEN));
        let trailer =
            SegmentTrailer::decode(slice("segment trailer", bytes, trailer_at, len64(TRAILER_LEN))?, object_len)?;
        let range = trailer.index_range();
        let stored = slice("segment index", bytes, range.start, range.end.saturating_sub(range.start))?;
        let index = SegmentIndex::open(&header, &trailer, stored, key)?;
        Ok(Self { bytes, header, index, trailer })
    }

    /// Decrypts one frame.
    pub fn frame(&self, frame: FrameNo, key: &DataKey) -> Result<Vec<u8>, FormatError> {
        let range = self.index.frame(frame)?.range();
        let stored = slice(WHAT, self.bytes, range.start, range.end.saturating_sub(range.start))?;
        open_frame(&self.header, &self.index, frame, stored, key)
    }

    /// Decrypts every frame and holds every block against its hash. `keys` gives a volume's keys, the data key being the
    /// one that the segment names.
    pub fn verify<'k>(&self, keys: impl Fn(&SegmentVolume) -> Option<&'k VolumeKeys>) -> Result<(), FormatError> {
        for entry in &self.index.frames {
            let volume = self.index.volume_of(entry)?;
            let keys = keys(volume).ok_or(FormatError::WrongKey { what: WHAT })?;
            let raw = self.frame(entry.frame, &keys.data)?;
            verify_blocks(entry, &raw, &BlockHasher::new(&keys.hash))?;
        }
        Ok(())
    }
}

/// Holds a decrypted frame's blocks against the hashes in its directory entry.
fn verify_blocks(entry: &super::FrameEntry, raw: &[u8], hasher: &BlockHasher) -> Result<(), FormatError> {
    let (blocks, rest) = raw.as_chunks::<BLOCK_SIZE>();
    let whole = rest.is_empty() && blocks.len() == entry.hashes.len();
    let equal = blocks.iter().zip(&entry.hashes).all(|(block, hash)| hasher.block(block) == *hash);
    if whole && equal {
        Ok(())
    } else {
        Err(FormatError::Corrupt { what: WHAT, at: 0, why: "a block's hash differs from the one in the index" })
    }
}
