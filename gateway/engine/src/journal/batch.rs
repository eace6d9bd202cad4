//! A batch while it is open: entries gathered, payload copied once into the aligned buffer that goes to the disk.

use lifeboat_format::journal::{BATCH_ENTRIES_MAX, Entry, EntryOp, JOURNAL_BLOCK, JournalFormatError};
use lifeboat_model::VolumeId;

use crate::disk::AlignedBuf;

/// Entries that fit into one batch.
pub(crate) const BATCH_ENTRIES: usize = BATCH_ENTRIES_MAX;

/// A batch that is being filled.
#[derive(Debug)]
pub(crate) struct OpenBatch {
    /// Header block, then payload.
    buffer: AlignedBuf,
    entries: Vec<Entry>,
}

impl OpenBatch {
    pub(crate) fn new() -> Self {
        let mut buffer = AlignedBuf::with_capacity(64 << 10);
        buffer.extend(&[0; JOURNAL_BLOCK]);
        Self { buffer, entries: Vec::new() }
    }

    /// Number of entries.
    pub(crate) fn entries(&self) -> usize {
        self.entries.len()
    }

    /// Bytes that it takes in the journal so far.
    pub(crate) fn bytes(&self) -> usize {
        self.buffer.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Adds an entry with a payload.
    pub(crate) fn push(
        &mut self,
        volume: VolumeId,
        op: EntryOp,
        lba: u64,
        blocks: u64,
        payload: &[u8],
    ) -> Result<(), JournalFormatError> {
        let entry = if payload.is_empty() {
            Entry::bare(volume, op, lba, blocks)
        } else {
            Entry::with_payload(volume, op, lba, blocks, payload)?
        };
        self.entries.push(entry);
        self.buffer.extend(payload);
        self.buffer.pad();
        Ok(())
    }

    pub(super) fn take_entries(&mut self) -> Vec<Entry> {
        std::mem::take(&mut self.entries)
    }

    /// The whole batch with its header block in place.
    pub(super) fn seal(&mut self, header: &[u8; JOURNAL_BLOCK]) -> &[u8] {
        self.buffer.as_mut_slice()[..JOURNAL_BLOCK].copy_from_slice(header);
        self.buffer.as_slice()
    }
}
