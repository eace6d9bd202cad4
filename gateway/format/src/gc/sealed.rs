//! One way to seal all of these records.
//!
//! ```text
//! magic, version │ vault │ group │ salt │ commitment │ raw length │ name │ zstd, AES-GCM(body; header as AAD) │ CRC
//! ```

use lifeboat_model::{GroupId, VaultId};

use crate::FormatError;
use crate::keys::{GroupKey, LABEL_GC, Salt, SealKey, check_commitment, commitment};
use crate::seal::{compress, decompress};
use crate::wire::{Kind, Put, Reader, len32, len64};

/// Longest record, and longest body before compression, in bytes.
pub const RECORD_LEN_MAX: u64 = 64 << 20;
/// Longest name of a record below its group, in bytes.
const NAME_LEN_MAX: usize = 255;
const LEVEL: i32 = 1;

pub(super) const KEPT: Kind = Kind { magic: *b"LBKP", what: "list of kept points", version: 1 };
pub(super) const INTENT: Kind = Kind { magic: *b"LBDI", what: "delete intent", version: 1 };
pub(super) const MARK: Kind = Kind { magic: *b"LBPM", what: "point mark", version: 1 };
pub(super) const DROPPED: Kind = Kind { magic: *b"LBBD", what: "dropped branch", version: 1 };
const KINDS: [&Kind; 4] = [&KEPT, &INTENT, &MARK, &DROPPED];

/// Where a record belongs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordPlace {
    /// The vault.
    pub vault: VaultId,
    /// The group.
    pub group: GroupId,
    /// The object's name below `groups/<group>/`, at most 255 bytes.
    pub name: String,
}

/// What a record says of itself in clear text. Authentic only once its body was opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordHeader {
    /// The kind, in words.
    pub kind: &'static str,
    /// Where it belongs.
    pub place: RecordPlace,
    /// Salt of its key.
    pub salt: Salt,
    /// Commitment to the group key.
    pub commitment: [u8; 32],
    /// Bytes of the body before compression.
    pub raw_len: u32,
}

impl RecordHeader {
    /// Decodes the header of a record of any of these kinds, proving its checksum only: for inspection.
    pub fn decode_any(bytes: &[u8]) -> Result<Self, FormatError> {
        let magic: [u8; 4] = bytes.first_chunk().copied().unwrap_or_default();
        let kind = KINDS.iter().find(|kind| kind.magic == magic);
        let kind = kind.ok_or(FormatError::NotThisKind { what: "record", magic })?;
        Ok(take(kind, bytes)?.0)
    }
}

/// Whether the bytes begin like one of these records.
pub(crate) fn is_record(magic: [u8; 4]) -> bool {
    KINDS.iter().any(|kind| kind.magic == magic)
}

/// Seals a body.
pub(super) fn seal(
    kind: &Kind,
    place: &RecordPlace,
    salt: Salt,
    key: &GroupKey,
    body: &[u8],
) -> Result<Vec<u8>, FormatError> {
    if len64(body.len()) > RECORD_LEN_MAX {
        return Err(FormatError::TooLarge { what: kind.what, found: len64(body.len()), limit: RECORD_LEN_MAX });
    }
    let mut out = kind.start();
    out.put(&place.vault.to_bytes());
    out.put(&place.group.to_bytes());
    out.put(&salt);
    out.put(&commitment(key, &salt));
    out.put_u32(len32(kind.what, body.len())?);
    out.put_text(kind.what, &place.name, NAME_LEN_MAX)?;
    let mut stored = compress(kind.what, LEVEL, body)?;
    SealKey::derive(key.expose(), &salt, LABEL_GC).seal(kind.what, 0, &out, &mut stored)?;
    out.put(&stored);
    out.put_crc();
    Ok(out)
}

/// Proves the record found under the name that `expected` says, and gives its body.
pub(super) fn open(kind: &Kind, bytes: &[u8], expected: &RecordPlace, key: &GroupKey) -> Result<Vec<u8>, FormatError> {
    let (header, aad, stored) = take(kind, bytes)?;
    crate::place::same(kind.what, "vault", header.place.vault, expected.vault)?;
    crate::place::same(kind.what, "group", header.place.group, expected.group)?;
    crate::place::same(kind.what, "name", header.place.name.as_str(), expected.name.as_str())?;
    check_commitment(kind.what, key, &header.salt, &header.commitment)?;
    let compressed = SealKey::derive(key.expose(), &header.salt, LABEL_GC).open(kind.what, 0, aad, stored)?;
    decompress(kind.what, &compressed, header.raw_len)
}

/// Header, the bytes that it takes, and the sealed body; the checksum is right.
fn take<'a>(kind: &Kind, bytes: &'a [u8]) -> Result<(RecordHeader, &'a [u8], &'a [u8]), FormatError> {
    let mut reader = kind.begin(bytes)?;
    if len64(bytes.len()) > RECORD_LEN_MAX {
        return Err(FormatError::TooLarge { what: kind.what, found: len64(bytes.len()), limit: RECORD_LEN_MAX });
    }
    let mut whole = Reader::new(kind.what, bytes);
    let covered = whole.take(bytes.len().saturating_sub(4))?;
    whole.checksum(covered)?;
    let (vault, group) = (VaultId::from_bytes(reader.array()?), GroupId::from_bytes(reader.array()?));
    let (salt, commitment, raw_len) = (reader.array()?, reader.array()?, reader.u32()?);
    let name = reader.text(NAME_LEN_MAX)?;
    if u64::from(raw_len) > RECORD_LEN_MAX {
        return Err(FormatError::TooLarge { what: kind.what, found: u64::from(raw_len), limit: RECORD_LEN_MAX });
    }
    let at = usize::try_from(reader.at()).unwrap_or(usize::MAX);
    let (aad, stored) = covered.split_at_checked(at).ok_or_else(|| reader.corrupt("it ends within its header"))?;
    let header = RecordHeader { kind: kind.what, place: RecordPlace { vault, group, name }, salt, commitment, raw_len };
    Ok((header, aad, stored))
}
