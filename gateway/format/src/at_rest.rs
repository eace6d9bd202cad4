//! Local files that are encrypted on their way to the disk: a thief who has the disk and not the key has nothing.
//!
//! ```text
//! local key (32 bytes, one for each gateway; wrapped by what the operator gives at start)
//!    ├─HKDF(salt of the directory, "directory")──> directory key ──HKDF(name of the file)──> the file's two XTS keys
//!    └─HKDF(salt of the text, "text")────────────> AES-256-GCM for small files of secrets (certificates, credentials)
//! ```
//! A directory that is encrypted has a *marker*, written before anything else in it: its salt, and a commitment that tells a
//! wrong key from damage. Every other file of it is AES-256-XTS in sectors of 4 KiB, numbered from 0: offsets and lengths stay
//! what they were, and a write touches no byte but its own 16-byte units. Units that are zero on the disk are zero: a hole
//! stays a hole. XTS keeps content secret; it doesn't tell whether somebody changed it, which is left to the checksums of the
//! files' own formats. Who has two copies of a disk, from two days, sees which units differ.

mod xts;

use lifeboat_model::BLOCK_SIZE;
use zeroize::Zeroizing;

use crate::FormatError;
use crate::keys::{KEY_LEN, LocalKey, SALT_LEN, Salt, SealKey, TAG_LEN, derive};
use crate::wire::{Kind, Put};
use xts::Xts;

/// Bytes that are encrypted as one: offsets and lengths of what is encrypted are multiples of it.
pub const UNIT: usize = 16;
/// Bytes of a sector, which has a number of its own in the cipher.
pub const SECTOR: usize = BLOCK_SIZE;
/// Bytes of a directory's marker: less than a disk writes at once, so that it is there whole or not at all.
pub const MARKER_LEN: usize = 4 + 2 + 2 + SALT_LEN + KEY_LEN + 4;
/// Name of a directory's marker.
pub const MARKER_NAME: &str = "at-rest";
/// Longest text that is sealed, in bytes.
pub const TEXT_BYTES_MAX: usize = 1 << 20;

pub(crate) const MARKER: Kind = Kind { magic: *b"LBAR", what: "marker of an encrypted directory", version: 1 };
const TEXT: Kind = Kind { magic: *b"LBAT", what: "encrypted text", version: 1 };
/// AES-256-XTS, sectors of 4 KiB.
const CIPHER_XTS: u16 = 1;

const LABEL_DIRECTORY: &[u8] = b"lifeboat/v1/at-rest/directory";
const LABEL_COMMIT: &[u8] = b"lifeboat/v1/at-rest/commit";
const LABEL_DATA: &[u8] = b"lifeboat/v1/at-rest/file-data/";
const LABEL_TWEAK: &[u8] = b"lifeboat/v1/at-rest/file-tweak/";
const LABEL_TEXT: &[u8] = b"lifeboat/v1/at-rest/text";

/// What an encrypted directory says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Marker {
    salt: Salt,
    commitment: [u8; KEY_LEN],
}

impl Marker {
    /// The marker of a new directory: its salt is fresh random bytes.
    #[must_use]
    pub fn new(key: &LocalKey, salt: Salt) -> Self {
        Self { salt, commitment: derive(key.expose(), &salt, LABEL_COMMIT) }
    }

    /// Its bytes: [`MARKER_LEN`] of them.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = MARKER.start();
        out.put_u16(CIPHER_XTS);
        out.put(&self.salt);
        out.put(&self.commitment);
        out.put_crc();
        out
    }

    /// Decodes the bytes of a marker.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let mut reader = MARKER.begin(bytes)?;
        let cipher = reader.u16()?;
        let marker = Self { salt: reader.array()?, commitment: reader.array()? };
        reader.checksum(bytes.get(..MARKER_LEN.saturating_sub(4)).unwrap_or_default())?;
        if cipher != CIPHER_XTS {
            return Err(reader.corrupt("it names a cipher that was never used"));
        }
        reader.finish()?;
        Ok(marker)
    }

    /// The key of its directory.
    ///
    /// # Errors
    /// `WrongKey`: the directory was encrypted with another local key.
    pub fn open(&self, key: &LocalKey) -> Result<DirectoryKey, FormatError> {
        let own = derive(key.expose(), &self.salt, LABEL_COMMIT);
        aws_lc_rs::constant_time::verify_slices_are_equal(&own, &self.commitment)
            .map_err(|_| FormatError::WrongKey { what: MARKER.what })?;
        Ok(DirectoryKey(Zeroizing::new(derive(key.expose(), &self.salt, LABEL_DIRECTORY))))
    }
}

/// The key of one directory, from which those of its files come.
#[derive(Clone)]
pub struct DirectoryKey(Zeroizing<[u8; KEY_LEN]>);

impl std::fmt::Debug for DirectoryKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("DirectoryKey(..)")
    }
}

impl DirectoryKey {
    /// What encrypts the file of that name.
    #[must_use]
    pub fn file(&self, name: &str) -> FileCipher {
        let part = |label: &[u8]| Zeroizing::new(derive(&self.0, &[], &[label, name.as_bytes()].concat()));
        FileCipher { xts: Xts::new(&part(LABEL_DATA), &part(LABEL_TWEAK)) }
    }
}

/// Encrypts and decrypts parts of one file.
#[derive(Debug)]
pub struct FileCipher {
    xts: Xts,
}

impl FileCipher {
    /// Encrypts what is to be written at `offset`, in place.
    ///
    /// # Panics
    /// Offset or length is no multiple of [`UNIT`]: the caller's promise.
    pub fn encrypt(&self, offset: u64, bytes: &mut [u8]) {
        self.sectors(offset, bytes, |xts, sector, bytes| xts.encrypt(sector, bytes));
    }

    /// Decrypts what was read at `offset`, in place. Units that are zero stay so.
    ///
    /// # Panics
    /// Offset or length is no multiple of [`UNIT`]: the caller's promise.
    pub fn decrypt(&self, offset: u64, bytes: &mut [u8]) {
        self.sectors(offset, bytes, |xts, sector, bytes| {
            // A unit that happens to be encrypted to zeroes is not to be expected before the sun goes out: 1 in 2^128.
            let holes: Vec<usize> = bytes
                .chunks_exact(UNIT)
                .enumerate()
                .filter_map(|(unit, bytes)| bytes.iter().all(|byte| *byte == 0).then_some(unit))
                .collect();
            if holes.len().saturating_mul(UNIT) == bytes.len() {
                return;
            }
            xts.decrypt(sector, bytes);
            for unit in holes {
                if let Some(bytes) = bytes.chunks_exact_mut(UNIT).nth(unit) {
                    bytes.fill(0);
                }
            }
        });
    }

    /// Calls `each` for every sector of a range, with the whole of it: what isn't in the range is made up, and thrown away.
    fn sectors(&self, offset: u64, bytes: &mut [u8], each: impl Fn(&Xts, u64, &mut [u8])) {
        let (sector, unit) = (SECTOR as u64, UNIT as u64);
        assert!(
            offset.is_multiple_of(unit) && bytes.len().is_multiple_of(UNIT),
            "encrypted files are read and written in units of {UNIT} bytes"
        );
        let (mut at, mut rest) = (offset, bytes);
        while !rest.is_empty() {
            let inside = usize::try_from(at.checked_rem(sector).unwrap_or(0)).unwrap_or(0);
            let number = at.checked_div(sector).unwrap_or(0);
            let len = rest.len().min(SECTOR.saturating_sub(inside));
            let Some((part, after)) = rest.split_at_mut_checked(len) else { return };
            if len == SECTOR {
                each(&self.xts, number, part);
            } else {
                let mut whole = Zeroizing::new([0; SECTOR]);
                if let Some(place) = whole.get_mut(inside..inside.saturating_add(len)) {
                    place.copy_from_slice(part);
                }
                each(&self.xts, number, whole.as_mut_slice());
                part.copy_from_slice(whole.get(inside..inside.saturating_add(len)).unwrap_or_default());
            }
            at = at.saturating_add(len as u64);
            rest = after;
        }
    }
}

/// Whether bytes claim to be a text that [`seal_text`] made.
#[must_use]
pub fn is_sealed_text(bytes: &[u8]) -> bool {
    bytes.starts_with(&TEXT.magic)
}

/// Encrypts a small file of secrets, for the name that it has. The salt is fresh random bytes.
///
/// # Errors
/// `Refused`: longer than [`TEXT_BYTES_MAX`].
pub fn seal_text(key: &LocalKey, name: &str, salt: Salt, plain: &[u8]) -> Result<Vec<u8>, FormatError> {
    if plain.len() > TEXT_BYTES_MAX {
        return Err(FormatError::Refused { what: TEXT.what, why: "it is too long" });
    }
    let mut sealed = Vec::with_capacity(plain.len().saturating_add(TAG_LEN));
    sealed.extend_from_slice(plain);
    SealKey::derive(key.expose(), &salt, LABEL_TEXT).seal(TEXT.what, 0, name.as_bytes(), &mut sealed)?;
    let mut out = TEXT.start();
    out.put(&salt);
    out.put(&sealed);
    Ok(out)
}

/// Decrypts what [`seal_text`] made.
///
/// # Errors
/// `Authentication`: another key, another name, or not the bytes that were written.
pub fn open_text(key: &LocalKey, name: &str, bytes: &[u8]) -> Result<Zeroizing<Vec<u8>>, FormatError> {
    let mut reader = TEXT.begin(bytes)?;
    let salt: Salt = reader.array()?;
    let head = usize::try_from(reader.at()).unwrap_or(usize::MAX);
    let sealed = bytes.get(head..).unwrap_or_default();
    if sealed.len() > TEXT_BYTES_MAX.saturating_add(TAG_LEN) {
        return Err(reader.corrupt("it is too long"));
    }
    let key = SealKey::derive(key.expose(), &salt, LABEL_TEXT);
    key.open(TEXT.what, 0, name.as_bytes(), sealed).map(Zeroizing::new)
}

#[cfg(test)]
mod tests;
