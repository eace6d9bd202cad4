//! Checked reading and writing of little-endian fields: the only place where this crate takes bytes apart.
//!
//! A [`Reader`] knows the name of the part it reads and how far it is, so that each error says what and where.

use crate::FormatError;

/// A kind of object or file: the first four bytes, its name in errors, the newest version.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Kind {
    pub(crate) magic: [u8; 4],
    pub(crate) what: &'static str,
    pub(crate) version: u16,
}

impl Kind {
    /// Reads magic and version; the version counts before anything else, since a newer one may lay out the rest anew.
    pub(crate) fn begin<'a>(&self, bytes: &'a [u8]) -> Result<Reader<'a>, FormatError> {
        let mut reader = Reader::new(self.what, bytes);
        let magic: [u8; 4] = reader.array()?;
        if magic != self.magic {
            return Err(FormatError::NotThisKind { what: self.what, magic });
        }
        let found = reader.u16()?;
        if found > self.version {
            return Err(FormatError::NewerVersion { what: self.what, found, supported: self.version });
        }
        if found == 0 {
            return Err(reader.corrupt("version 0 was never written"));
        }
        Ok(reader)
    }

    /// As [`Kind::begin`], for a kind whose older versions have other fields: gives the version too.
    pub(crate) fn begin_any<'a>(&self, bytes: &'a [u8]) -> Result<(Reader<'a>, u16), FormatError> {
        let reader = self.begin(bytes)?;
        let mut version = Reader::new(self.what, bytes.get(self.magic.len()..).unwrap_or_default());
        Ok((reader, version.u16()?))
    }

    /// Starts a buffer with magic and version.
    pub(crate) fn start(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(256);
        out.extend_from_slice(&self.magic);
        out.put_u16(self.version);
        out
    }
}

/// A cursor over bytes that nothing is known about.
#[derive(Debug, Clone)]
pub(crate) struct Reader<'a> {
    what: &'static str,
    rest: &'a [u8],
    at: u64,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(what: &'static str, bytes: &'a [u8]) -> Self {
        Self { what, rest: bytes, at: 0 }
    }

    /// Bytes read so far.
    pub(crate) fn at(&self) -> u64 {
        self.at
    }

    pub(crate) fn corrupt(&self, why: &'static str) -> FormatError {
        FormatError::Corrupt { what: self.what, at: self.at, why }
    }

    pub(crate) fn take(&mut self, len: usize) -> Result<&'a [u8], FormatError> {
        let Some((taken, rest)) = self.rest.split_at_checked(len) else {
            return Err(FormatError::Truncated {
                what: self.what,
                needed: self.at.saturating_add(len64(len)),
                available: self.at.saturating_add(len64(self.rest.len())),
            });
        };
        self.rest = rest;
        self.at = self.at.saturating_add(len64(len));
        Ok(taken)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], FormatError> {
        let taken = self.take(N)?;
        taken.try_into().map_err(|_| self.corrupt("a field has another length"))
    }

    pub(crate) fn u8(&mut self) -> Result<u8, FormatError> {
        self.array().map(u8::from_le_bytes)
    }

    pub(crate) fn u16(&mut self) -> Result<u16, FormatError> {
        self.array().map(u16::from_le_bytes)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, FormatError> {
        self.array().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Result<u64, FormatError> {
        self.array().map(u64::from_le_bytes)
    }

    pub(crate) fn i64(&mut self) -> Result<i64, FormatError> {
        self.array().map(i64::from_le_bytes)
    }

    pub(crate) fn flag(&mut self) -> Result<bool, FormatError> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(self.corrupt("a yes-or-no field is neither")),
        }
    }

    /// A 32-bit count of items that take at least `item_bytes` each: so a list can't be announced longer than the
    /// bytes that are left could hold, and allocating for it is safe.
    pub(crate) fn count(&mut self, max: usize, item_bytes: usize) -> Result<usize, FormatError> {
        let found = self.u32()?;
        let count = usize::try_from(found).unwrap_or(usize::MAX);
        if count > max {
            return Err(FormatError::TooLarge { what: self.what, found: u64::from(found), limit: len64(max) });
        }
        let needed = count.saturating_mul(item_bytes);
        if needed > self.rest.len() {
            return Err(FormatError::Truncated {
                what: self.what,
                needed: self.at.saturating_add(len64(needed)),
                available: self.at.saturating_add(len64(self.rest.len())),
            });
        }
        Ok(count)
    }

    /// A text of at most `max` bytes behind a 16-bit length.
    pub(crate) fn text(&mut self, max: usize) -> Result<String, FormatError> {
        let len = usize::from(self.u16()?);
        if len > max {
            return Err(FormatError::TooLarge { what: self.what, found: len64(len), limit: len64(max) });
        }
        let bytes = self.take(len)?;
        std::str::from_utf8(bytes).map(str::to_owned).map_err(|_| self.corrupt("a text is not UTF-8"))
    }

    /// Nothing may follow.
    pub(crate) fn finish(self) -> Result<(), FormatError> {
        if self.rest.is_empty() { Ok(()) } else { Err(self.corrupt("bytes follow the end")) }
    }

    /// Reads a CRC-32C and holds it against that of `covered`.
    pub(crate) fn checksum(&mut self, covered: &[u8]) -> Result<(), FormatError> {
        if self.u32()? == crc32c::crc32c(covered) { Ok(()) } else { Err(self.corrupt("the checksum differs")) }
    }
}

/// Appending little-endian fields to a buffer.
pub(crate) trait Put {
    fn put(&mut self, bytes: &[u8]);

    fn put_u8(&mut self, value: u8) {
        self.put(&[value]);
    }
    fn put_u16(&mut self, value: u16) {
        self.put(&value.to_le_bytes());
    }
    fn put_u32(&mut self, value: u32) {
        self.put(&value.to_le_bytes());
    }
    fn put_u64(&mut self, value: u64) {
        self.put(&value.to_le_bytes());
    }
    fn put_i64(&mut self, value: i64) {
        self.put(&value.to_le_bytes());
    }
    fn put_flag(&mut self, value: bool) {
        self.put_u8(u8::from(value));
    }

    /// A 32-bit count.
    fn put_count(&mut self, what: &'static str, count: usize, max: usize) -> Result<(), FormatError> {
        let too_large = FormatError::TooLarge { what, found: len64(count), limit: len64(max) };
        if count > max {
            return Err(too_large);
        }
        self.put_u32(u32::try_from(count).map_err(|_| too_large)?);
        Ok(())
    }

    /// A text behind a 16-bit length.
    fn put_text(&mut self, what: &'static str, text: &str, max: usize) -> Result<(), FormatError> {
        let too_large = FormatError::TooLarge { what, found: len64(text.len()), limit: len64(max) };
        if text.len() > max {
            return Err(too_large);
        }
        self.put_u16(u16::try_from(text.len()).map_err(|_| too_large)?);
        self.put(text.as_bytes());
        Ok(())
    }

    /// CRC-32C of everything before it.
    fn put_crc(&mut self);
}

impl Put for Vec<u8> {
    fn put(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }

    fn put_crc(&mut self) {
        let sum = crc32c::crc32c(self);
        self.put_u32(sum);
    }
}

/// A length in memory as the formats' 64-bit length.
pub(crate) fn len64(len: usize) -> u64 {
    u64::try_from(len).unwrap_or(u64::MAX)
}

/// A length in memory as a 32-bit field.
pub(crate) fn len32(what: &'static str, len: usize) -> Result<u32, FormatError> {
    u32::try_from(len).map_err(|_| FormatError::TooLarge { what, found: len64(len), limit: u64::from(u32::MAX) })
}

/// The part of `bytes` that a range of an object names.
pub(crate) fn slice<'a>(what: &'static str, bytes: &'a [u8], start: u64, len: u64) -> Result<&'a [u8], FormatError> {
    let end = start.saturating_add(len);
    let range = usize::try_from(start).unwrap_or(usize::MAX)..usize::try_from(end).unwrap_or(usize::MAX);
    bytes.get(range).ok_or(FormatError::Truncated { what, needed: end, available: len64(bytes.len()) })
}
