//! The journal's bytes: file header and batches.
//!
//! ```text
//! file   [header 4096][batch][batch]…[stale bytes of an earlier use, or zeroes]
//! batch  [header block 4096: header 96 | up to 83 entries of 48][payload of entry 0, padded to 4096][payload of entry 1]…
//! ```
//! A batch's header block comes first and has a fixed size, so that a writer fills the payload of a batch in place while
//! it is still open, and a reader learns a batch's whole length from one read. Each entry carries the checksum of its own
//! payload, the header block's checksum covers the entries, and every batch names the checksum of the one before it:
//! a batch can neither be taken for another nor follow the wrong one.
//!
//! This module encodes and decodes; which batch belongs to the log, where the log ends and what damage means is decided by
//! the journal in the engine.

use lifeboat_model::{BLOCK_SIZE, Epoch, GroupId, Lsn, Timestamp, VolumeId};

/// Version of the journal's format. Version 1 has neither copies nor points of a resync, and is still read.
pub const JOURNAL_VERSION: u16 = 2;
/// Length of a file header and of a batch's header block, bytes.
pub const JOURNAL_BLOCK: usize = BLOCK_SIZE;
/// Entries in one batch, at most.
pub const BATCH_ENTRIES_MAX: usize = (JOURNAL_BLOCK - BATCH_HEADER) / ENTRY;
/// Payload of one batch, at most, bytes.
pub const BATCH_PAYLOAD_MAX: usize = 16 << 20;

const FILE_MAGIC: [u8; 4] = *b"LBJF";
const BATCH_MAGIC: [u8; 4] = *b"LBJB";
const FILE_HEADER: usize = 64;
const BATCH_HEADER: usize = 96;
const ENTRY: usize = 48;

/// Why bytes are not a journal file header or a batch.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JournalFormatError {
    /// The bytes don't begin like one.
    #[error("no {0} here")]
    NotThisKind(&'static str),
    /// Written by a newer version of Lifeboat.
    #[error(
        "journal format {found} is newer than this version understands ({JOURNAL_VERSION}): run the newer version again"
    )]
    Newer {
        /// The version found.
        found: u16,
    },
    /// The bytes begin like one, and then fail a check.
    #[error("damaged {0}")]
    Damaged(&'static str),
}

/// What stands at the head of a journal file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileHeader {
    /// The group whose log it holds.
    pub group: GroupId,
    /// Number of this use of the file; each use of a recycled file gets a new, higher one.
    pub number: u64,
    /// LSN of the first record that may stand in it.
    pub first_lsn: Lsn,
    /// Run of the gateway that began it.
    pub incarnation: u32,
    /// Length of the file, bytes, header included.
    pub length: u64,
    /// When it was begun.
    pub time: Timestamp,
}

/// The version that the head of a journal file or a batch names, whatever else is there.
#[must_use]
pub fn version_of(bytes: &[u8]) -> Option<u16> {
    Reader { bytes }.u16(4)
}

impl FileHeader {
    /// The header as one block of [`JOURNAL_BLOCK`] bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; JOURNAL_BLOCK] {
        let mut block = [0; JOURNAL_BLOCK];
        let mut out = Writer { bytes: &mut block };
        out.put(0, &FILE_MAGIC);
        out.put(4, &JOURNAL_VERSION.to_le_bytes());
        out.put(8, &self.group.to_bytes());
        out.put(24, &self.number.to_le_bytes());
        out.put(32, &self.first_lsn.0.to_le_bytes());
        out.put(40, &self.incarnation.to_le_bytes());
        out.put(44, &self.length.to_le_bytes());
        out.put(52, &self.time.as_micros().to_le_bytes());
        let crc = crc32c::crc32c(block.get(..FILE_HEADER - 4).unwrap_or_default());
        Writer { bytes: &mut block }.put(FILE_HEADER - 4, &crc.to_le_bytes());
        block
    }

    /// Reads a header from the first bytes of a file.
    ///
    /// # Errors
    /// `NotThisKind` for a file that was never begun, `Newer`, `Damaged`.
    pub fn decode(bytes: &[u8]) -> Result<Self, JournalFormatError> {
        let input = Reader { bytes };
        if input.array::<4>(0) != Some(FILE_MAGIC) {
            return Err(JournalFormatError::NotThisKind("journal file header"));
        }
        let damaged = JournalFormatError::Damaged("journal file header");
        let crc = bytes.get(..FILE_HEADER - 4).map(crc32c::crc32c).ok_or_else(|| damaged.clone())?;
        let version = input.u16(4).ok_or_else(|| damaged.clone())?;
        if version > JOURNAL_VERSION {
            return Err(JournalFormatError::Newer { found: version });
        }
        if input.u32(FILE_HEADER - 4) != Some(crc) || version == 0 {
            return Err(damaged);
        }
        let read = || {
            Some(Self {
                group: GroupId::from_bytes(input.array(8)?),
                number: input.u64(24)?,
                first_lsn: Lsn(input.u64(32)?),
                incarnation: input.u32(40)?,
                length: input.u64(44)?,
                time: Timestamp::from_micros(input.i64(52)?),
            })
        };
        read().ok_or(damaged)
    }
}

/// What an entry does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryOp {
    /// Replaces `blocks` blocks from `lba` on with the payload.
    Write,
    /// The blocks read as zeroes.
    Zero,
    /// The blocks are unused, and read as zeroes.
    Trim,
    /// A recovery point; the payload is a [`PointPayload`](crate::journal::encode_point).
    Point,
    /// The volume has `blocks` blocks from here on.
    Resize,
    /// What the blocks hold at this place of the write order already: the payload, or zeroes without one. For the vault,
    /// which lacks it; an image has it. Since version 2.
    Copy,
    /// A recovery point like [`Self::Point`], taken while the vault lacked blocks: it is not offered for recovery. Since
    /// version 2.
    PointInResync,
}

impl EntryOp {
    pub(crate) const fn code(self) -> u8 {
        match self {
            Self::Write => 1,
            Self::Zero => 2,
            Self::Trim => 3,
            Self::Point => 4,
            Self::Resize => 5,
            Self::Copy => 6,
            Self::PointInResync => 7,
        }
    }

    /// The first version of the format that has it.
    const fn since(self) -> u16 {
        match self {
            Self::Write | Self::Zero | Self::Trim | Self::Point | Self::Resize => 1,
            Self::Copy | Self::PointInResync => 2,
        }
    }

    pub(crate) const fn from_code(code: u8) -> Option<Self> {
        match code {
            1 => Some(Self::Write),
            2 => Some(Self::Zero),
            3 => Some(Self::Trim),
            4 => Some(Self::Point),
            5 => Some(Self::Resize),
            6 => Some(Self::Copy),
            7 => Some(Self::PointInResync),
            _ => None,
        }
    }
}

/// One entry of a batch: a record of the log, but for its payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// The volume; all zero for a point.
    pub volume: VolumeId,
    /// What it does.
    pub op: EntryOp,
    /// First block.
    pub lba: u64,
    /// Number of blocks.
    pub blocks: u64,
    /// Length of the payload, bytes, without padding.
    pub payload_len: u32,
    /// CRC-32C of the payload, without padding.
    pub payload_crc: u32,
}

impl Entry {
    /// An entry without a payload.
    #[must_use]
    pub const fn bare(volume: VolumeId, op: EntryOp, lba: u64, blocks: u64) -> Self {
        Self { volume, op, lba, blocks, payload_len: 0, payload_crc: 0 }
    }

    /// An entry with this payload.
    ///
    /// # Errors
    /// `Damaged` when the payload is longer than [`BATCH_PAYLOAD_MAX`].
    pub fn with_payload(
        volume: VolumeId,
        op: EntryOp,
        lba: u64,
        blocks: u64,
        payload: &[u8],
    ) -> Result<Self, JournalFormatError> {
        let payload_len = u32::try_from(payload.len())
            .ok()
            .filter(|_| payload.len() <= BATCH_PAYLOAD_MAX)
            .ok_or(JournalFormatError::Damaged("journal entry: payload too long"))?;
        Ok(Self { volume, op, lba, blocks, payload_len, payload_crc: crc32c::crc32c(payload) })
    }

    /// Bytes that the payload takes in the batch: its length, rounded up to whole blocks.
    #[must_use]
    pub const fn stored_len(&self) -> usize {
        (self.payload_len as usize).next_multiple_of(BLOCK_SIZE)
    }
}

/// What stands at the head of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BatchHeader {
    /// The group whose log it belongs to.
    pub group: GroupId,
    /// Run of the gateway that wrote it: never lower than that of the batch before.
    pub incarnation: u32,
    /// The writer's tenure on its branch.
    pub epoch: Epoch,
    /// LSN of entry 0; the others follow one by one.
    pub first_lsn: Lsn,
    /// Checksum of the batch before it; 0 for the first batch after the log was begun.
    pub previous_checksum: u32,
    /// Newest LSN known to be durable when it was written.
    pub durable_lsn: Lsn,
    /// When it was sealed.
    pub time: Timestamp,
    /// Its entries, 1 to [`BATCH_ENTRIES_MAX`].
    pub entries: Vec<Entry>,
}

impl BatchHeader {
    /// LSN of the last entry.
    #[must_use]
    pub fn last_lsn(&self) -> Lsn {
        Lsn(self.first_lsn.0.saturating_add(self.entries.len() as u64).saturating_sub(1))
    }

    /// Length of the whole batch, bytes: a multiple of [`JOURNAL_BLOCK`].
    #[must_use]
    pub fn total_len(&self) -> usize {
        self.entries.iter().fold(JOURNAL_BLOCK, |sum, entry| sum.saturating_add(entry.stored_len()))
    }

    /// The header block, and the batch's checksum, which the next batch names.
    ///
    /// # Errors
    /// `Damaged` for no entries, or more than [`BATCH_ENTRIES_MAX`].
    pub fn encode(&self) -> Result<([u8; JOURNAL_BLOCK], u32), JournalFormatError> {
        let count = u32::try_from(self.entries.len())
            .ok()
            .filter(|_| (1..=BATCH_ENTRIES_MAX).contains(&self.entries.len()))
            .ok_or(JournalFormatError::Damaged("journal batch: number of entries"))?;
        let mut block = [0; JOURNAL_BLOCK];
        let mut out = Writer { bytes: &mut block };
        out.put(0, &BATCH_MAGIC);
        out.put(4, &JOURNAL_VERSION.to_le_bytes());
        out.put(8, &self.group.to_bytes());
        out.put(24, &self.incarnation.to_le_bytes());
        out.put(28, &count.to_le_bytes());
        out.put(32, &self.epoch.0.to_le_bytes());
        out.put(40, &self.first_lsn.0.to_le_bytes());
        out.put(48, &self.previous_checksum.to_le_bytes());
        out.put(56, &(self.total_len() as u64).to_le_bytes());
        out.put(64, &self.durable_lsn.0.to_le_bytes());
        out.put(72, &self.time.as_micros().to_le_bytes());
        for (index, entry) in self.entries.iter().enumerate() {
            let at = BATCH_HEADER.saturating_add(index.saturating_mul(ENTRY));
            out.put(at, &entry.volume.to_bytes());
            out.put(at.saturating_add(16), &[entry.op.code()]);
            out.put(at.saturating_add(20), &entry.payload_crc.to_le_bytes());
            out.put(at.saturating_add(24), &entry.lba.to_le_bytes());
            out.put(at.saturating_add(32), &entry.blocks.to_le_bytes());
            out.put(at.saturating_add(40), &entry.payload_len.to_le_bytes());
        }
        let crc = batch_checksum(&block);
        Writer { bytes: &mut block }.put(BATCH_HEADER - 4, &crc.to_le_bytes());
        Ok((block, crc))
    }

    /// Reads a batch's header block, and its checksum. The payload is checked by [`check_payload`].
    ///
    /// # Errors
    /// `NotThisKind` where no batch begins, `Newer`, `Damaged`.
    pub fn decode(block: &[u8]) -> Result<(Self, u32), JournalFormatError> {
        let input = Reader { bytes: block };
        if input.array::<4>(0) != Some(BATCH_MAGIC) {
            return Err(JournalFormatError::NotThisKind("journal batch"));
        }
        let damaged = || JournalFormatError::Damaged("journal batch header");
        let block: &[u8; JOURNAL_BLOCK] =
            block.get(..JOURNAL_BLOCK).and_then(|b| b.try_into().ok()).ok_or_else(damaged)?;
        let crc = batch_checksum(block);
        if input.u32(BATCH_HEADER - 4) != Some(crc) {
            return Err(damaged());
        }
        let version = match input.u16(4) {
            Some(found) if found > JOURNAL_VERSION => return Err(JournalFormatError::Newer { found }),
            Some(found) if found > 0 => found,
            _ => return Err(damaged()),
        };
        let header = Self::read_fields(&input, version).ok_or_else(damaged)?;
        let payload = header.total_len().saturating_sub(JOURNAL_BLOCK);
        if payload > BATCH_PAYLOAD_MAX || input.u64(56) != u64::try_from(header.total_len()).ok() {
            return Err(damaged());
        }
        Ok((header, crc))
    }

    fn read_fields(input: &Reader<'_>, version: u16) -> Option<Self> {
        let count = usize::try_from(input.u32(28)?).ok().filter(|count| (1..=BATCH_ENTRIES_MAX).contains(count))?;
        let entries = (0..count)
            .map(|index| {
                let at = BATCH_HEADER.saturating_add(index.saturating_mul(ENTRY));
                let entry = Entry {
                    volume: VolumeId::from_bytes(input.array(at)?),
                    op: EntryOp::from_code(input.array::<1>(at.saturating_add(16))?[0])?,
                    payload_crc: input.u32(at.saturating_add(20))?,
                    lba: input.u64(at.saturating_add(24))?,
                    blocks: input.u64(at.saturating_add(32))?,
                    payload_len: input.u32(at.saturating_add(40))?,
                };
                let write_len = entry.blocks.checked_mul(BLOCK_SIZE as u64)?;
                let fits = match entry.op {
                    EntryOp::Write => u64::from(entry.payload_len) == write_len && entry.blocks > 0,
                    EntryOp::Copy => entry.blocks > 0 && [0, write_len].contains(&u64::from(entry.payload_len)),
                    EntryOp::Point | EntryOp::PointInResync => entry.payload_len > 0,
                    EntryOp::Zero | EntryOp::Trim | EntryOp::Resize => entry.payload_len == 0,
                };
                (fits && entry.op.since() <= version).then_some(entry)
            })
            .collect::<Option<Vec<_>>>()?;
        Some(Self {
            group: GroupId::from_bytes(input.array(8)?),
            incarnation: input.u32(24)?,
            epoch: Epoch(input.u64(32)?),
            first_lsn: Lsn(input.u64(40)?),
            previous_checksum: input.u32(48)?,
            durable_lsn: Lsn(input.u64(64)?),
            time: Timestamp::from_micros(input.i64(72)?),
            entries,
        })
    }
}

/// Checks the payloads of a batch, and gives where each one lies: (start, length) from the batch's first byte.
///
/// `batch` is the whole batch, header block included.
///
/// # Errors
/// `Damaged` when a payload is cut short or fails its checksum.
pub fn check_payload(header: &BatchHeader, batch: &[u8]) -> Result<Vec<(usize, usize)>, JournalFormatError> {
    let mut at = JOURNAL_BLOCK;
    header
        .entries
        .iter()
        .map(|entry| {
            let start = at;
            let length = entry.payload_len as usize;
            let payload = batch
                .get(start..start.saturating_add(length))
                .ok_or(JournalFormatError::Damaged("journal batch: cut short"))?;
            if length > 0 && crc32c::crc32c(payload) != entry.payload_crc {
                return Err(JournalFormatError::Damaged("journal batch payload"));
            }
            at = at.saturating_add(entry.stored_len());
            Ok((start, length))
        })
        .collect()
}

/// The payload of a point's entry: id (16), time (8), kind (1), label length (1), label. A label longer than 255 bytes is
/// cut before the character that doesn't fit.
#[must_use]
pub fn encode_point(id: [u8; 16], time: Timestamp, kind: u8, label: &str) -> Vec<u8> {
    let end = (0..=label.len().min(255)).rev().find(|&end| label.is_char_boundary(end)).unwrap_or(0);
    let label = label.as_bytes().get(..end).unwrap_or_default();
    let mut bytes = Vec::with_capacity(label.len().saturating_add(26));
    bytes.extend_from_slice(&id);
    bytes.extend_from_slice(&time.as_micros().to_le_bytes());
    bytes.push(kind);
    bytes.push(u8::try_from(label.len()).unwrap_or(u8::MAX));
    bytes.extend_from_slice(label);
    bytes
}

/// What [`encode_point`] wrote: id, time, kind, label.
///
/// # Errors
/// `Damaged` when the bytes are no point.
pub fn decode_point(bytes: &[u8]) -> Result<([u8; 16], Timestamp, u8, String), JournalFormatError> {
    let input = Reader { bytes };
    let read = || {
        let label_len = usize::from(input.array::<1>(25)?[0]);
        let label = bytes.get(26..).filter(|label| label.len() == label_len)?;
        Some((
            input.array::<16>(0)?,
            Timestamp::from_micros(input.i64(16)?),
            input.array::<1>(24)?[0],
            String::from_utf8(label.to_vec()).ok()?,
        ))
    };
    read().ok_or(JournalFormatError::Damaged("recovery point in the journal"))
}

/// CRC-32C of a batch's header block with the checksum's own field left out.
fn batch_checksum(block: &[u8; JOURNAL_BLOCK]) -> u32 {
    let head = crc32c::crc32c(block.get(..BATCH_HEADER - 4).unwrap_or_default());
    crc32c::crc32c_append(head, block.get(BATCH_HEADER..).unwrap_or_default())
}

struct Writer<'a> {
    bytes: &'a mut [u8],
}

impl Writer<'_> {
    /// Every caller writes fields of fixed length at fixed places inside one block.
    fn put(&mut self, at: usize, field: &[u8]) {
        if let Some(target) = self.bytes.get_mut(at..at.saturating_add(field.len())) {
            target.copy_from_slice(field);
        }
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
}

impl Reader<'_> {
    fn array<const N: usize>(&self, at: usize) -> Option<[u8; N]> {
        self.bytes.get(at..at.checked_add(N)?)?.try_into().ok()
    }

    fn u16(&self, at: usize) -> Option<u16> {
        self.array(at).map(u16::from_le_bytes)
    }

    fn u32(&self, at: usize) -> Option<u32> {
        self.array(at).map(u32::from_le_bytes)
    }

    fn u64(&self, at: usize) -> Option<u64> {
        self.array(at).map(u64::from_le_bytes)
    }

    fn i64(&self, at: usize) -> Option<i64> {
        self.array(at).map(i64::from_le_bytes)
    }
}

#[cfg(test)]
mod tests;
