//! Rebuilt segments: what is still needed of a segment of which most is not, in an object of its own.
//!
//! ```text
//! 0            172                index_offset              total_len - 100     total_len
//! │ header     │ frame │ frame │ … │ index (zstd, AES-GCM)   │ trailer           │
//! ```
//! It holds blocks of one segment under the numbers that they have there, frame and slot, so that no map has to change when
//! the segment goes. It is no part of the log: it has no operations, and nothing can be replayed from it.
//!
//! A segment may be rebuilt several times, each time under the next *generation*, each with a salt of its own: the same
//! blocks are encrypted again under another key, and no (key, number) comes twice. Place, generation and salt are in the
//! additional data of every frame. The seal hash of the segment is in the header, so that what was made of another attempt to
//! write that number is told apart.

mod build;
mod index;
#[cfg(test)]
mod tests;

use lifeboat_model::{BLOCK_SIZE, BranchId, Epoch, GroupId, SegmentId, SegmentSeq, Timestamp, VaultId};

use crate::FormatError;
use crate::hash::BlockHasher;
use crate::keys::{DataKey, GroupKey, LABEL_REBUILT, Salt, SealKey, VolumeKeys, check_commitment};
use crate::seal::{self, Trailer, TrailerKind};
use crate::segment::{SEGMENT_INDEX_LEN_MAX, SEGMENT_LEN_MAX, SegmentHash, SegmentPlace};
use crate::wire::{Kind, Put, len64, slice};

pub use build::{RebuiltBuilder, RebuiltParams, SealedRebuilt};
pub use index::{RebuiltBlock, RebuiltFrame, RebuiltIndex, RebuiltVolume, SlotAt};

/// Newest version of a rebuilt segment.
pub const REBUILT_VERSION: u16 = 1;
/// Bytes of its header.
pub const REBUILT_HEADER_LEN: usize = 172;

pub(crate) const HEADER: Kind = Kind { magic: *b"LBRS", what: "rebuilt segment header", version: REBUILT_VERSION };
pub(crate) const TRAILER: TrailerKind = TrailerKind {
    magic: *b"LBRE",
    what: "rebuilt segment trailer",
    header_len: REBUILT_HEADER_LEN,
    object_len_max: SEGMENT_LEN_MAX,
    index_raw_len_max: SEGMENT_INDEX_LEN_MAX,
};
const FRAME: &str = "rebuilt frame";

/// Where a rebuilt segment belongs: what its object's name says, which its header must repeat.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RebuiltPlace {
    /// The segment whose blocks it holds.
    pub segment: SegmentPlace,
    /// The how manieth rebuilding of it this is, from 1.
    pub generation: u64,
}

/// The cleartext header of a rebuilt segment. Authentic once [`RebuiltIndex::open`] has accepted it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RebuiltHeader {
    /// Where it belongs.
    pub place: RebuiltPlace,
    /// When it was sealed.
    pub time: Timestamp,
    /// Salt of every key derived for it.
    pub salt: Salt,
    /// Commitment to the group key.
    pub commitment: [u8; 32],
    /// Seal hash of the segment.
    pub segment_hash: SegmentHash,
}

impl RebuiltHeader {
    /// Decodes the first [`REBUILT_HEADER_LEN`] bytes of the object found under the name that says `expected`.
    pub fn decode(bytes: &[u8], expected: &RebuiltPlace) -> Result<Self, FormatError> {
        let header = Self::decode_any(bytes)?;
        let (found, wanted) = (&header.place.segment, &expected.segment);
        crate::place::same(HEADER.what, "vault", found.vault, wanted.vault)?;
        crate::place::same(HEADER.what, "group", found.group, wanted.group)?;
        crate::place::same(HEADER.what, "segment", found.id, wanted.id)?;
        crate::place::same(HEADER.what, "generation", header.place.generation, expected.generation)?;
        Ok(header)
    }

    /// Decodes a header wherever it was found: for inspection only.
    pub fn decode_any(bytes: &[u8]) -> Result<Self, FormatError> {
        let mut reader = HEADER.begin(bytes)?;
        let header_len = reader.u16()?;
        let header = Self {
            place: RebuiltPlace {
                segment: SegmentPlace {
                    vault: VaultId::from_bytes(reader.array()?),
                    group: GroupId::from_bytes(reader.array()?),
                    id: SegmentId {
                        branch: BranchId::from_bytes(reader.array()?),
                        epoch: Epoch(reader.u64()?),
                        seq: SegmentSeq(reader.u64()?),
                    },
                },
                generation: reader.u64()?,
            },
            time: Timestamp::from_micros(reader.i64()?),
            salt: reader.array()?,
            commitment: reader.array()?,
            segment_hash: SegmentHash(reader.array()?),
        };
        reader.checksum(bytes.get(..REBUILT_HEADER_LEN.saturating_sub(4)).unwrap_or_default())?;
        if usize::from(header_len) != REBUILT_HEADER_LEN {
            return Err(reader.corrupt("the header has another length than its version gives it"));
        }
        let RebuiltPlace { segment, generation } = &header.place;
        if segment.id.epoch.0 == 0 || segment.id.seq.0 == 0 || *generation == 0 {
            return Err(reader.corrupt("epochs, segments and generations are numbered from 1"));
        }
        reader.finish()?;
        Ok(header)
    }

    /// The header's bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let RebuiltPlace { segment, generation } = &self.place;
        let mut out = HEADER.start();
        out.put_u16(u16::try_from(REBUILT_HEADER_LEN).unwrap_or_default());
        out.put(&segment.vault.to_bytes());
        out.put(&segment.group.to_bytes());
        out.put(&segment.id.branch.to_bytes());
        out.put_u64(segment.id.epoch.0);
        out.put_u64(segment.id.seq.0);
        out.put_u64(*generation);
        out.put_i64(self.time.as_micros());
        out.put(&self.salt);
        out.put(&self.commitment);
        out.put(&self.segment_hash.0);
        out.put_crc();
        out
    }

    /// The key of one volume's frames in this object.
    #[must_use]
    pub fn frame_key(&self, key: &DataKey) -> RebuiltFrameKey {
        RebuiltFrameKey(SealKey::derive(key.expose(), &self.salt, LABEL_REBUILT))
    }

    fn check_key(&self, key: &GroupKey) -> Result<(), FormatError> {
        check_commitment("rebuilt segment", key, &self.salt, &self.commitment)
    }

    /// What a frame is bound to.
    fn frame_aad(&self, number: u32, volume: &RebuiltVolume, raw_len: u32, flags: u8) -> Vec<u8> {
        let RebuiltPlace { segment, generation } = &self.place;
        let mut aad = Vec::with_capacity(128);
        aad.put(&segment.vault.to_bytes());
        aad.put(&segment.group.to_bytes());
        aad.put(&segment.id.branch.to_bytes());
        aad.put_u64(segment.id.epoch.0);
        aad.put_u64(segment.id.seq.0);
        aad.put_u64(*generation);
        aad.put(&self.salt);
        aad.put_u32(number);
        aad.put(&volume.volume.to_bytes());
        aad.put_u32(raw_len);
        aad.put_u8(flags);
        aad
    }
}

/// Encrypts the frames of one volume in one rebuilt segment.
#[derive(Debug)]
pub struct RebuiltFrameKey(SealKey);

/// The fixed-length end of a rebuilt segment. Authentic once [`RebuiltIndex::open`] has accepted it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RebuiltTrailer(Trailer);

impl RebuiltTrailer {
    /// Decodes the last [`crate::segment::TRAILER_LEN`] bytes of an object that is `object_len` bytes long.
    pub fn decode(bytes: &[u8], object_len: u64) -> Result<Self, FormatError> {
        Trailer::decode(&TRAILER, bytes, object_len).map(Self)
    }

    /// Where in the object the stored index is.
    #[must_use]
    pub fn index_range(&self) -> std::ops::Range<u64> {
        self.0.index_range()
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
}

/// Decrypts frame `number` of the object: `stored` are the bytes of [`RebuiltFrame::range`]. Gives its blocks, 4096 bytes each.
pub fn open_rebuilt_frame(
    header: &RebuiltHeader,
    index: &RebuiltIndex,
    number: u32,
    stored: &[u8],
    key: &RebuiltFrameKey,
) -> Result<Vec<u8>, FormatError> {
    let (entry, volume) = index.frame(number)?;
    if len64(stored.len()) != u64::from(entry.stored_len) {
        return Err(FormatError::Truncated {
            what: FRAME,
            needed: u64::from(entry.stored_len),
            available: len64(stored.len()),
        });
    }
    let raw_len = entry.raw_len();
    let aad = header.frame_aad(number, volume, raw_len, entry.flags);
    let plain = key.0.open(FRAME, u64::from(number), &aad, stored)?;
    seal::unpack(FRAME, plain, entry.flags, raw_len)
}

/// A whole rebuilt segment in memory, its header, index and trailer proved.
#[derive(Debug)]
pub struct RebuiltObject<'a> {
    bytes: &'a [u8],
    /// The header.
    pub header: RebuiltHeader,
    /// The index.
    pub index: RebuiltIndex,
}

impl<'a> RebuiltObject<'a> {
    /// Opens the object found under the name that says `expected`.
    pub fn open(bytes: &'a [u8], expected: &RebuiltPlace, key: &GroupKey) -> Result<Self, FormatError> {
        let header = RebuiltHeader::decode(slice(HEADER.what, bytes, 0, len64(REBUILT_HEADER_LEN))?, expected)?;
        let object_len = len64(bytes.len());
        let trailer_len = len64(seal::TRAILER_LEN);
        let trailer_at = object_len.saturating_sub(trailer_len);
        let trailer = RebuiltTrailer::decode(slice(TRAILER.what, bytes, trailer_at, trailer_len)?, object_len)?;
        let range = trailer.index_range();
        let stored = slice("rebuilt segment index", bytes, range.start, range.end.saturating_sub(range.start))?;
        let index = RebuiltIndex::open(&header, &trailer, stored, key)?;
        Ok(Self { bytes, header, index })
    }

    /// Decrypts one frame.
    pub fn frame(&self, number: u32, key: &DataKey) -> Result<Vec<u8>, FormatError> {
        let range = self.index.frame(number)?.0.range();
        let stored = slice(FRAME, self.bytes, range.start, range.end.saturating_sub(range.start))?;
        open_rebuilt_frame(&self.header, &self.index, number, stored, &self.header.frame_key(key))
    }

    /// Decrypts every frame and holds every block against its hash. `keys` gives a volume's keys, the data key being the
    /// one that the object names.
    pub fn verify<'k>(&self, keys: impl Fn(&RebuiltVolume) -> Option<&'k VolumeKeys>) -> Result<(), FormatError> {
        for number in 0..crate::wire::len32(FRAME, self.index.frames.len())? {
            let (entry, volume) = self.index.frame(number)?;
            let keys = keys(volume).ok_or(FormatError::WrongKey { what: FRAME })?;
            let raw = self.frame(number, &keys.data)?;
            let hasher = BlockHasher::new(&keys.hash);
            let blocks = raw.as_chunks::<BLOCK_SIZE>().0;
            if !blocks.iter().zip(&entry.blocks).all(|(block, of)| hasher.block(block) == of.hash) {
                let why = "a block's hash differs from the one in the index";
                return Err(FormatError::Corrupt { what: FRAME, at: 0, why });
            }
        }
        Ok(())
    }
}
