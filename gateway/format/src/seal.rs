//! What segments and maps share: the trailer that closes an object, and bounded compression.
//!
//! ```text
//! header │ payload … │ stored index │ trailer
//!    └──────── seal hash = BLAKE3(header ‖ stored index ‖ trailer fields) ; MAC = HMAC(end magic ‖ seal hash)
//! ```
//! The payload needs no place in the seal hash: each part of it is encrypted and authenticated by itself, under a key
//! and number that the authenticated index names.

use std::cell::RefCell;
use std::ops::Range;

use aws_lc_rs::hmac;
use lifeboat_model::BlockHash;

use crate::FormatError;
use crate::keys::{GroupKey, Salt, TAG_LEN, mac_key};
use crate::wire::{Put, Reader, len32, len64};

/// Bytes of the trailer of a segment and of a map.
pub const TRAILER_LEN: usize = 100;
const FIELDS_LEN: usize = 28;

/// One kind of trailer: its end magic, its name, and the limits of the object that it closes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TrailerKind {
    pub(crate) magic: [u8; 4],
    pub(crate) what: &'static str,
    pub(crate) header_len: usize,
    pub(crate) object_len_max: u64,
    pub(crate) index_raw_len_max: u32,
}

/// The last bytes of an object: where its index is, and the proof of everything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Trailer {
    pub(crate) index_offset: u64,
    pub(crate) index_stored_len: u32,
    pub(crate) index_raw_len: u32,
    pub(crate) count: u32,
    pub(crate) total_len: u64,
    pub(crate) seal_hash: [u8; 32],
    pub(crate) mac: [u8; 32],
}

impl Trailer {
    /// Appends index and trailer to `object`, which begins with its header and holds its payload.
    pub(crate) fn append(
        kind: &TrailerKind,
        key: &GroupKey,
        salt: &Salt,
        object: &mut Vec<u8>,
        stored_index: &[u8],
        raw_len: u32,
        count: u32,
    ) -> Result<Self, FormatError> {
        let index_offset = len64(object.len());
        let index_stored_len = len32(kind.what, stored_index.len())?;
        let total_len = index_offset.saturating_add(u64::from(index_stored_len)).saturating_add(len64(TRAILER_LEN));
        if total_len > kind.object_len_max {
            return Err(FormatError::TooLarge { what: kind.what, found: total_len, limit: kind.object_len_max });
        }
        let mut trailer = Self {
            index_offset,
            index_stored_len,
            index_raw_len: raw_len,
            count,
            total_len,
            seal_hash: [0; 32],
            mac: [0; 32],
        };
        let header = object.get(..kind.header_len).unwrap_or_default();
        trailer.seal_hash = trailer.hash(header, stored_index);
        let mac = hmac::sign(&mac_key(key, salt), &trailer.mac_input(kind));
        trailer.mac.copy_from_slice(mac.as_ref());
        object.put(stored_index);
        object.put(&trailer.encode(kind));
        Ok(trailer)
    }

    fn fields(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(TRAILER_LEN);
        out.put_u64(self.index_offset);
        out.put_u32(self.index_stored_len);
        out.put_u32(self.index_raw_len);
        out.put_u32(self.count);
        out.put_u64(self.total_len);
        out
    }

    fn encode(&self, kind: &TrailerKind) -> Vec<u8> {
        let mut out = self.fields();
        out.put(&self.seal_hash);
        out.put(&self.mac);
        out.put_crc();
        out.put(&kind.magic);
        out
    }

    /// Decodes the last [`TRAILER_LEN`] bytes of an object of `object_len` bytes.
    pub(crate) fn decode(kind: &TrailerKind, bytes: &[u8], object_len: u64) -> Result<Self, FormatError> {
        let Some((body, end)) = bytes.split_at_checked(TRAILER_LEN.saturating_sub(8)) else {
            return Err(FormatError::Truncated {
                what: kind.what,
                needed: len64(TRAILER_LEN),
                available: len64(bytes.len()),
            });
        };
        let (mut reader, mut end) = (Reader::new(kind.what, body), Reader::new(kind.what, end));
        let sum = end.u32()?;
        let magic: [u8; 4] = end.array()?;
        end.finish()?;
        if magic != kind.magic {
            return Err(FormatError::NotThisKind { what: kind.what, magic });
        }
        if sum != crc32c::crc32c(body) {
            return Err(reader.corrupt("the checksum differs"));
        }
        let trailer = Self {
            index_offset: reader.u64()?,
            index_stored_len: reader.u32()?,
            index_raw_len: reader.u32()?,
            count: reader.u32()?,
            total_len: reader.u64()?,
            seal_hash: reader.array()?,
            mac: reader.array()?,
        };
        trailer.check_lengths(kind, object_len, &reader)?;
        Ok(trailer)
    }

    fn check_lengths(&self, kind: &TrailerKind, object_len: u64, reader: &Reader<'_>) -> Result<(), FormatError> {
        if self.total_len > kind.object_len_max {
            return Err(FormatError::TooLarge { what: kind.what, found: self.total_len, limit: kind.object_len_max });
        }
        if self.index_raw_len > kind.index_raw_len_max {
            return Err(FormatError::TooLarge {
                what: kind.what,
                found: u64::from(self.index_raw_len),
                limit: u64::from(kind.index_raw_len_max),
            });
        }
        if self.total_len != object_len {
            return Err(reader.corrupt("the object's length is not the one it was sealed with"));
        }
        let index_end = self.index_offset.checked_add(u64::from(self.index_stored_len));
        // An end past the largest number is no end, also of an object that is shorter than a trailer.
        let ends = index_end.is_some() && index_end == object_len.checked_sub(len64(TRAILER_LEN));
        if self.index_offset < len64(kind.header_len) || !ends {
            return Err(reader.corrupt("the index is not between payload and trailer"));
        }
        Ok(())
    }

    /// Proves header, stored index and trailer against each other and against the key.
    pub(crate) fn verify(
        &self,
        kind: &TrailerKind,
        key: &GroupKey,
        salt: &Salt,
        header: &[u8],
        stored_index: &[u8],
    ) -> Result<(), FormatError> {
        if len64(stored_index.len()) != u64::from(self.index_stored_len) {
            return Err(FormatError::Truncated {
                what: kind.what,
                needed: u64::from(self.index_stored_len),
                available: len64(stored_index.len()),
            });
        }
        if self.hash(header, stored_index) != self.seal_hash {
            return Err(FormatError::Corrupt {
                what: kind.what,
                at: len64(FIELDS_LEN),
                why: "the seal hash differs: header, index or trailer was altered",
            });
        }
        hmac::verify(&mac_key(key, salt), &self.mac_input(kind), &self.mac)
            .map_err(|_| FormatError::Authentication { what: kind.what })
    }

    pub(crate) fn index_range(&self) -> Range<u64> {
        self.index_offset..self.index_offset.saturating_add(u64::from(self.index_stored_len))
    }

    fn hash(&self, header: &[u8], stored_index: &[u8]) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new();
        hasher.update(header).update(stored_index).update(&self.fields());
        *hasher.finalize().as_bytes()
    }

    fn mac_input(&self, kind: &TrailerKind) -> Vec<u8> {
        let mut input = kind.magic.to_vec();
        input.put(&self.seal_hash);
        input
    }
}

thread_local! {
    // A compression context is some hundred KiB: one a thread instead of one a frame.
    static COMPRESSOR: RefCell<Option<(i32, zstd::bulk::Compressor<'static>)>> = const { RefCell::new(None) };
    static DECOMPRESSOR: RefCell<Option<zstd::bulk::Decompressor<'static>>> = const { RefCell::new(None) };
}

/// One zstd frame of `raw`.
pub(crate) fn compress(what: &'static str, level: i32, raw: &[u8]) -> Result<Vec<u8>, FormatError> {
    let refused = |_| FormatError::Refused { what, why: "zstd has no memory or no such level" };
    COMPRESSOR.with_borrow_mut(|slot| {
        if slot.as_ref().is_none_or(|(current, _)| *current != level) {
            *slot = Some((level, zstd::bulk::Compressor::new(level).map_err(refused)?));
        }
        match slot {
            Some((_, compressor)) => compressor.compress(raw).map_err(refused),
            None => Err(FormatError::Refused { what, why: "zstd gave no context" }),
        }
    })
}

/// Undoes [`compress`]. The raw length must be authentic and bounded by the caller: so much memory is taken, and the
/// bytes must give exactly that.
pub(crate) fn decompress(what: &'static str, stored: &[u8], raw_len: u32) -> Result<Vec<u8>, FormatError> {
    let corrupt = |why| FormatError::Corrupt { what, at: 0, why };
    let capacity = usize::try_from(raw_len).map_err(|_| corrupt("longer than memory"))?;
    let raw = DECOMPRESSOR.with_borrow_mut(|slot| {
        if slot.is_none() {
            *slot = Some(zstd::bulk::Decompressor::new().map_err(|_| corrupt("zstd gave no context"))?);
        }
        match slot {
            Some(decompressor) => {
                let mut raw = vec![0; capacity];
                let len = decompressor
                    .decompress_to_buffer(stored, raw.as_mut_slice())
                    .map_err(|_| corrupt("zstd can't decompress it to its length"))?;
                raw.truncate(len);
                Ok(raw)
            }
            None => Err(corrupt("zstd gave no context")),
        }
    })?;
    if raw.len() == capacity { Ok(raw) } else { Err(corrupt("it decompresses to another length")) }
}

/// The blocks are compressed.
pub(crate) const FLAG_ZSTD: u8 = 1;

/// A frame's blocks, compressed where that saves 5 %: less isn't worth a decompression at every read. Gives the flags too.
pub(crate) fn pack(what: &'static str, level: i32, raw: Vec<u8>) -> Result<(Vec<u8>, u8), FormatError> {
    let compressed = compress(what, level, &raw)?;
    let worth = compressed.len().saturating_mul(20) <= raw.len().saturating_mul(19);
    Ok(if worth { (compressed, FLAG_ZSTD) } else { (raw, 0) })
}

/// Undoes [`pack`].
pub(crate) fn unpack(what: &'static str, plain: Vec<u8>, flags: u8, raw_len: u32) -> Result<Vec<u8>, FormatError> {
    if flags & FLAG_ZSTD != 0 {
        return decompress(what, &plain, raw_len);
    }
    if len64(plain.len()) == u64::from(raw_len) {
        Ok(plain)
    } else {
        Err(FormatError::Corrupt { what, at: 0, why: "it has another length than its directory entry" })
    }
}

/// Whether a frame of `raw_len` bytes can have that stored length, tag included.
pub(crate) fn frame_fits(stored_len: u32, raw_len: u32, flags: u8) -> bool {
    match u64::from(stored_len).checked_sub(len64(TAG_LEN)) {
        Some(len) if flags & FLAG_ZSTD != 0 => len > 0 && len < u64::from(raw_len),
        Some(len) => len == u64::from(raw_len),
        None => false,
    }
}

/// Sixteen bytes a hash.
pub(crate) fn put_hashes<'a>(out: &mut Vec<u8>, hashes: impl IntoIterator<Item = &'a BlockHash>) {
    hashes.into_iter().for_each(|hash| out.put(&hash.0));
}
