//! The journal of a group: its write order on local disk.
//!
//! Order of writing, which is what makes recovery sound:
//! 1. a file is zero-filled and synced before any batch goes into it, so that an append changes no metadata and can't
//!    run out of space;
//! 2. batches are appended in LSN order, each naming the checksum of the one before;
//! 3. [`Journal::begin_sync`] … [`SyncTicket::finish`] make every batch appended before it durable;
//! 4. a file is taken back for reuse, oldest first, once nobody needs its records ([`Journal::reclaim`]).
//!
//! Opening walks the chain from the oldest record that is needed. Where it breaks, the log ends: if a later batch claims
//! that the missing record was durable the disk has lost data, and opening is refused (`Damaged`); otherwise it is the torn
//! tail of a crash, and it is cut. Batches that an earlier run left beyond a cut can't come back: their incarnation is
//! lower than that of the batches written since, for a run takes one above everything it finds, leftovers too.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use lifeboat_format::journal::{
    BatchHeader, EntryOp, FileHeader, JOURNAL_BLOCK, JOURNAL_VERSION, JournalFormatError, check_payload, decode_point,
    version_of,
};
use lifeboat_model::{Extent, GroupId, Lsn, PointId, PointKind, Timestamp, VolumeId};

use crate::disk::{AlignedBuf, Disk, DiskFile, Io};
use crate::error::{EngineError, ErrorKind, Result};
use crate::record::{LogRecord, Op, PointMark};

mod batch;
#[cfg(test)]
mod tests;

pub(crate) use batch::{BATCH_ENTRIES, OpenBatch};

const FILE_PREFIX: &str = "journal-";
/// Files kept ready for reuse once they are free, as long as they are within half of the journal's limit; the rest is deleted. A new one
/// is written twice: filled with zeroes, then with batches. But a restart reads all of those that are kept.
const SPARE_FILES: u64 = 6;
const ZERO_CHUNK: usize = 1 << 20;
const SCAN_CHUNK: usize = 1 << 20;
/// How far the incarnation of a leftover may be above the log's: runs whose batches were all lost raise it by one each.
/// What is further away is no batch, but a block of a volume made to look like one, and must not use the numbers up.
const INCARNATION_LEAP: u32 = 1 << 16;

/// Sizes of a journal.
#[derive(Clone, Copy, Debug)]
pub struct JournalSizes {
    /// Length of each file, bytes; a multiple of the block size, at least one full batch and two blocks.
    pub file_bytes: u64,
    /// Bytes of all files in use, at most.
    pub limit_bytes: u64,
}

/// The journal, as its one appender sees it.
#[derive(Debug)]
pub(crate) struct Journal {
    disk: Arc<dyn Disk>,
    group: GroupId,
    sizes: JournalSizes,
    incarnation: u32,
    /// Oldest first; the last one is being written.
    files: VecDeque<LogFile>,
    free: Vec<Spare>,
    next_number: u64,
    next_name: u64,
    next_lsn: Lsn,
    previous_checksum: u32,
    /// Files written since the last sync began.
    unsynced: Vec<Arc<dyn DiskFile>>,
}

#[derive(Debug, Clone)]
struct LogFile {
    name: String,
    file: Arc<dyn DiskFile>,
    number: u64,
    first_lsn: Lsn,
    /// Newest record in it; `first_lsn - 1` while it is empty.
    last_lsn: Lsn,
    /// Where the next batch goes.
    end: u64,
    length: u64,
    /// Begun by an older version: nothing is appended to it, so that the older version refuses what it can't read instead
    /// of taking it for the end of the log.
    closed: bool,
}

#[derive(Debug)]
struct Spare {
    name: String,
    file: Arc<dyn DiskFile>,
    length: u64,
}

/// A sync under way: the files to sync, and what is durable once they are.
#[derive(Debug)]
pub(crate) struct SyncTicket {
    files: Vec<Arc<dyn DiskFile>>,
    upto: Lsn,
}

impl SyncTicket {
    /// Syncs, outside every lock; gives the newest LSN that is durable now.
    pub(crate) fn finish(self) -> std::io::Result<Lsn> {
        self.files.iter().try_for_each(|file| file.sync())?;
        Ok(self.upto)
    }
}

impl Journal {
    /// Begins an empty journal whose first record will be `first`; whatever journal files are there are deleted.
    pub(crate) fn create(disk: &Arc<dyn Disk>, group: GroupId, sizes: JournalSizes, first: Lsn) -> Result<Self> {
        for name in journal_files(disk)? {
            disk.remove(&name)
                .map_err(|error| EngineError::io(format!("delete the old journal file {name}"), error))?;
        }
        let mut journal = Self::empty(disk, group, sizes, first);
        journal.prepare_spare()?;
        journal.roll()?;
        journal.begin_sync().finish().map_err(|error| EngineError::io("write the new journal", error))?;
        Ok(journal)
    }

    fn empty(disk: &Arc<dyn Disk>, group: GroupId, sizes: JournalSizes, first: Lsn) -> Self {
        Self {
            disk: Arc::clone(disk),
            group,
            sizes,
            incarnation: 1,
            files: VecDeque::new(),
            free: Vec::new(),
            next_number: 1,
            next_name: 1,
            next_lsn: first,
            previous_checksum: 0,
            unsynced: Vec::new(),
        }
    }

    /// Opens a journal after a stop or a crash. Records after `needed_after` are needed by somebody; every record found
    /// after it is handed to `each`, in order, with the time at which it was written. Everything that was found is durable when this returns.
    ///
    /// # Errors
    /// `Damaged` when needed or durable records are missing, `NewerFormat`, what the disk says.
    pub(crate) fn open(
        disk: &Arc<dyn Disk>,
        group: GroupId,
        sizes: JournalSizes,
        needed_after: Lsn,
        each: &mut dyn FnMut(LogRecord, Timestamp) -> Result<()>,
    ) -> Result<Self> {
        let mut journal = Self::empty(disk, group, sizes, needed_after.next());
        let found = journal.read_headers()?;
        let start = found
            .iter()
            .rposition(|file| file.first_lsn <= needed_after.next())
            .ok_or_else(|| journal.missing(needed_after.next(), "no file holds it"))?;
        let mut walk = Walk::new(&journal, &found, start);
        walk.run(needed_after, each)?;
        if walk.expected <= needed_after {
            return Err(journal.missing(walk.expected, "the journal ends before it"));
        }
        // A run whose first batch was lost has left others with its incarnation, and the same records may be written again.
        let newest = journal.look_beyond(&found, &walk)?;
        let Walk { used, expected, checksum, .. } = walk;
        journal.incarnation = newest.saturating_add(1);
        journal.next_lsn = expected;
        journal.previous_checksum = checksum;
        journal.unsynced = used.iter().map(|file| Arc::clone(&file.file)).collect();
        journal.free = found
            .into_iter()
            .filter(|file| used.iter().all(|one| one.number != file.number))
            .map(|file| Spare { name: file.name, file: file.file, length: file.length })
            .chain(std::mem::take(&mut journal.free))
            .collect();
        journal.files = used.into();
        // A file prepared just before a crash may have no durable name yet.
        disk.sync_names()
            .and_then(|()| journal.begin_sync().finish())
            .map_err(|error| EngineError::io("sync the journal after a restart", error))?;
        journal.wipe_leftovers().map_err(|error| EngineError::io("clear what a crash left of the journal", error))?;
        Ok(journal)
    }

    /// Wipes what earlier runs left where the log may go on, so that no later start takes it for a part of the log: the
    /// head of every free file (by its header a walk might begin there; a first batch could follow this log's last one),
    /// and the batch at the cut (what this run writes over it may restore the sectors that it lacked).
    ///
    /// Only after the files in use are durable: one of the free files may be the only other witness of where the log ends.
    fn wipe_leftovers(&self) -> std::io::Result<()> {
        let zeroes = AlignedBuf::zeroed(2 * JOURNAL_BLOCK);
        for spare in &self.free {
            spare.file.write_at(zeroes.as_slice(), 0)?;
            spare.file.sync()?;
        }
        let cut = self.files.back().filter(|file| !file.closed && file.end + JOURNAL_BLOCK as u64 <= file.length);
        cut.map_or(Ok(()), |file| {
            file.file.write_at(&zeroes.as_slice()[..JOURNAL_BLOCK], file.end)?;
            file.file.sync()
        })
    }

    /// LSN of the next record.
    pub(crate) const fn next_lsn(&self) -> Lsn {
        self.next_lsn
    }

    /// Bytes of the files in use.
    pub(crate) fn used_bytes(&self) -> u64 {
        self.files.iter().map(|file| file.length).sum()
    }

    /// Bytes that the free files hold.
    pub(crate) fn spare_bytes(&self) -> u64 {
        self.free.iter().map(|spare| spare.length.saturating_sub(JOURNAL_BLOCK as u64)).sum()
    }

    /// Bytes left in the current file.
    pub(crate) fn file_room(&self) -> u64 {
        self.files.back().filter(|file| !file.closed).map_or(0, |file| file.length.saturating_sub(file.end))
    }

    /// Bytes that records take up in the files in use.
    pub(crate) fn written_bytes(&self) -> u64 {
        self.used_bytes().saturating_sub(self.file_room())
    }

    /// Whether another file may be prepared under the limit.
    pub(crate) fn may_grow(&self) -> bool {
        let free: u64 = self.free.iter().map(|spare| spare.length).sum();
        self.used_bytes() + free + self.sizes.file_bytes <= self.sizes.limit_bytes.max(2 * self.sizes.file_bytes)
    }

    /// Makes sure that a free file is ready, zero-filled and durable.
    ///
    /// # Errors
    /// `NoSpace` when the disk is full.
    pub(crate) fn prepare_spare(&mut self) -> Result<()> {
        if self.free.is_empty() {
            let spare = self.reserve_name();
            self.add_spare(Self::fill_spare(&self.disk, spare.0, spare.1)?);
        }
        Ok(())
    }

    /// Name and length of a file to be prepared outside the lock, by [`Journal::fill_spare`].
    pub(crate) fn reserve_name(&mut self) -> (String, u64) {
        let name = format!("{FILE_PREFIX}{:06}", self.next_name);
        self.next_name += 1;
        (name, self.sizes.file_bytes)
    }

    /// Writes a file full of zeroes: an append into it changes no metadata, and can't find the disk full.
    pub(crate) fn fill_spare(disk: &Arc<dyn Disk>, name: String, length: u64) -> Result<SpareFile> {
        let fill = || {
            let file = disk.open(&name, true, Io::Direct)?;
            let zeroes = AlignedBuf::zeroed(ZERO_CHUNK);
            let mut at = 0;
            while at < length {
                let step = ZERO_CHUNK.min(usize::try_from(length - at).unwrap_or(ZERO_CHUNK));
                file.write_at(&zeroes.as_slice()[..step], at)?;
                at += step as u64;
            }
            file.sync()?;
            disk.sync_names()?;
            Ok(file)
        };
        match fill() {
            Ok(file) => Ok(SpareFile(Spare { name, file, length })),
            Err(error) => {
                // A half-written file is worth nothing, and its space may be what the caller lacks.
                let _ = disk.remove(&name);
                Err(EngineError::io(format!("prepare the journal file {}", disk.path().join(&name).display()), error))
            }
        }
    }

    /// Takes a file made by [`Journal::fill_spare`].
    pub(crate) fn add_spare(&mut self, spare: SpareFile) {
        self.free.push(spare.0);
    }

    /// Appends a batch; it is in the kernel when this returns, and durable after the next sync.
    ///
    /// # Errors
    /// What the disk says: the journal must be taken as broken then.
    pub(crate) fn append(
        &mut self,
        batch: &mut OpenBatch,
        epoch: lifeboat_model::Epoch,
        durable: Lsn,
        time: Timestamp,
    ) -> Result<()> {
        let header = BatchHeader {
            group: self.group,
            incarnation: self.incarnation,
            epoch,
            first_lsn: self.next_lsn,
            previous_checksum: self.previous_checksum,
            durable_lsn: durable,
            time,
            entries: batch.take_entries(),
        };
        let (block, checksum) = header.encode().map_err(damaged)?;
        let bytes = batch.seal(&block);
        if self.files.back().is_none_or(|file| file.closed || file.end + bytes.len() as u64 > file.length) {
            self.roll()?;
        }
        let file =
            self.files.back_mut().ok_or_else(|| EngineError::new(ErrorKind::Damaged, "the journal has no file"))?;
        file.file
            .write_at(bytes, file.end)
            .map_err(|error| EngineError::io(format!("write the journal file {}", file.name), error))?;
        file.end += bytes.len() as u64;
        file.last_lsn = header.last_lsn();
        if !self.unsynced.iter().any(|one| Arc::ptr_eq(one, &file.file)) {
            self.unsynced.push(Arc::clone(&file.file));
        }
        self.next_lsn = header.last_lsn().next();
        self.previous_checksum = checksum;
        Ok(())
    }

    /// Begins a sync of everything appended so far.
    pub(crate) fn begin_sync(&mut self) -> SyncTicket {
        SyncTicket { files: std::mem::take(&mut self.unsynced), upto: self.next_lsn.previous() }
    }

    /// Takes files back whose records are all below `upto`, which is durable.
    pub(crate) fn reclaim(&mut self, upto: Lsn) {
        // `upto` is durable. A record of it in the next file says that this file's header is durable too: until then, the
        // older file is what a restart finds the end of the log by.
        while self.files.get(1).is_some_and(|next| next.first_lsn <= upto) {
            let Some(file) = self.files.pop_front() else { break };
            let spares = (self.sizes.limit_bytes / 2 / self.sizes.file_bytes.max(1)).clamp(2, SPARE_FILES);
            if (self.free.len() as u64) < spares && file.length == self.sizes.file_bytes {
                self.free.push(Spare { name: file.name, file: file.file, length: file.length });
            } else if let Err(error) = self.disk.remove(&file.name) {
                tracing::warn!(file = file.name, %error, "a journal file that is no longer needed could not be deleted");
            }
        }
    }

    /// What is needed to read records after `after`, outside every lock.
    pub(crate) fn reader(&self, after: Lsn) -> LogReader {
        let start = self.files.iter().rposition(|file| file.first_lsn <= after.next()).unwrap_or(0);
        LogReader { group: self.group, files: self.files.iter().skip(start).cloned().collect() }
    }

    /// Begins the next file.
    fn roll(&mut self) -> Result<()> {
        self.prepare_spare()?;
        let Some(spare) = self.free.pop() else {
            return Err(EngineError::new(ErrorKind::NoSpace, "the journal has no file to go on in"));
        };
        let header = FileHeader {
            group: self.group,
            number: self.next_number,
            first_lsn: self.next_lsn,
            incarnation: self.incarnation,
            length: spare.length,
            time: self.disk.now(),
        };
        let mut block = AlignedBuf::with_capacity(JOURNAL_BLOCK);
        block.extend(&header.encode());
        spare
            .file
            .write_at(block.as_slice(), 0)
            .map_err(|error| EngineError::io(format!("begin the journal file {}", spare.name), error))?;
        self.unsynced.push(Arc::clone(&spare.file));
        self.files.push_back(LogFile {
            name: spare.name,
            file: spare.file,
            number: header.number,
            first_lsn: self.next_lsn,
            last_lsn: self.next_lsn.previous(),
            end: JOURNAL_BLOCK as u64,
            length: spare.length,
            closed: false,
        });
        self.next_number += 1;
        Ok(())
    }

    /// Every journal file with a sound header, by number; the others become spare files if they have the right length.
    fn read_headers(&mut self) -> Result<Vec<LogFile>> {
        let mut found = Vec::new();
        for name in journal_files(&self.disk)? {
            let context = |error| EngineError::io(format!("open the journal file {name}"), error);
            let number: u64 = name.trim_start_matches(FILE_PREFIX).parse().unwrap_or(0);
            self.next_name = self.next_name.max(number + 1);
            let file = self.disk.open(&name, false, Io::Direct).map_err(context)?;
            let length = file.len().map_err(context)?;
            if length < 2 * JOURNAL_BLOCK as u64 {
                // Creation was interrupted before anything was written.
                self.disk.remove(&name).map_err(context)?;
                continue;
            }
            let mut block = AlignedBuf::zeroed(JOURNAL_BLOCK);
            file.read_at(block.as_mut_slice(), 0).map_err(context)?;
            match FileHeader::decode(block.as_slice()) {
                Ok(header) if header.group != self.group => {
                    return Err(EngineError::new(
                        ErrorKind::Damaged,
                        format!(
                            "the journal file {} belongs to {}, not to {}: put the right file back",
                            self.disk.path().join(&name).display(),
                            header.group,
                            self.group
                        ),
                    ));
                }
                Ok(header) => {
                    self.next_number = self.next_number.max(header.number + 1);
                    found.push(LogFile {
                        name,
                        file,
                        number: header.number,
                        first_lsn: header.first_lsn,
                        last_lsn: header.first_lsn.previous(),
                        end: JOURNAL_BLOCK as u64,
                        length: length.min(header.length),
                        closed: version_of(block.as_slice()) != Some(JOURNAL_VERSION),
                    });
                }
                Err(JournalFormatError::Newer { found }) => {
                    return Err(EngineError::new(
                        ErrorKind::NewerFormat,
                        format!(
                            "the journal of {} has format {found}, newer than this version of Lifeboat: start the newer version again",
                            self.group
                        ),
                    ));
                }
                // Never begun, or its header was torn while it was being begun. If it held needed records, the walk
                // misses them and says so.
                Err(_) if length == self.sizes.file_bytes => self.free.push(Spare { name, file, length }),
                Err(_) => self.disk.remove(&name).map_err(context)?,
            }
        }
        found.sort_by_key(|file| (file.first_lsn, file.number));
        Ok(found)
    }

    /// Looks beyond the end of the log, and into files that are free, for batches: one that was written when a record now
    /// missing was durable already is refused. Gives the newest incarnation there is, in the log and beyond.
    fn look_beyond(&self, found: &[LogFile], walk: &Walk<'_>) -> Result<u32> {
        let end = walk.expected;
        let (torn_number, torn_offset) = walk.torn_at.unwrap_or((0, JOURNAL_BLOCK as u64));
        let mut newest = walk.incarnation;
        let unused = found.iter().filter(|file| walk.used.iter().all(|used| used.number != file.number));
        let unused = unused.map(|file| (&file.name, &file.file, JOURNAL_BLOCK as u64, file.length, file.number));
        let torn = found.iter().filter(|file| file.number == torn_number);
        let torn = torn.map(|file| (&file.name, &file.file, torn_offset, file.length, file.number));
        // Their numbers are gone with their headers: what they hold is older than the log.
        let free = self.free.iter().map(|file| (&file.name, &file.file, 0, file.length, 0));
        for (name, file, from, length, number) in unused.chain(torn).chain(free) {
            each_batch(name, file, from..length, |header| {
                if header.group != self.group {
                    return Ok(());
                }
                if header.incarnation <= walk.incarnation.saturating_add(INCARNATION_LEAP) {
                    newest = newest.max(header.incarnation);
                }
                let later = header.incarnation >= walk.incarnation && header.first_lsn > end;
                match number >= torn_number && later && header.durable_lsn >= end {
                    true => {
                        Err(self
                            .missing(end, &format!("record {} was durable, says a later batch", header.durable_lsn)))
                    }
                    false => Ok(()),
                }
            })?;
        }
        Ok(newest)
    }

    fn missing(&self, lsn: Lsn, why: &str) -> EngineError {
        EngineError::new(
            ErrorKind::Damaged,
            format!(
                "the journal of {} in {} has lost record {lsn} ({why}): the disk has lost data. Nothing was changed. Check the disk; \
                 then recover the volumes from the vault",
                self.group,
                self.disk.path().display()
            ),
        )
    }
}

/// A prepared file on its way from [`Journal::fill_spare`] to [`Journal::add_spare`].
#[derive(Debug)]
pub(crate) struct SpareFile(Spare);

fn journal_files(disk: &Arc<dyn Disk>) -> Result<Vec<String>> {
    let names = disk.list().map_err(|error| EngineError::io(format!("list {}", disk.path().display()), error))?;
    Ok(names.into_iter().filter(|name| name.starts_with(FILE_PREFIX)).collect())
}

fn damaged(error: JournalFormatError) -> EngineError {
    EngineError::new(ErrorKind::Damaged, format!("the journal: {error}")).with_source(error)
}

/// Everything that looks like the head of a batch in a part of a file, in chunks.
fn each_batch(
    name: &str,
    file: &Arc<dyn DiskFile>,
    part: std::ops::Range<u64>,
    mut each: impl FnMut(BatchHeader) -> Result<()>,
) -> Result<()> {
    let mut chunk = AlignedBuf::zeroed(SCAN_CHUNK);
    let mut at = part.start;
    while at + JOURNAL_BLOCK as u64 <= part.end {
        let length = usize::try_from(part.end - at).map_or(SCAN_CHUNK, |left| left.min(SCAN_CHUNK));
        let bytes = &mut chunk.as_mut_slice()[..length - length % JOURNAL_BLOCK];
        file.read_at(bytes, at).map_err(|error| EngineError::io(format!("read the journal file {name}"), error))?;
        for block in bytes.chunks_exact(JOURNAL_BLOCK) {
            if let Ok((header, _)) = BatchHeader::decode(block) {
                each(header)?;
            }
        }
        at += bytes.len() as u64;
    }
    Ok(())
}

/// Follows the chain of batches from file to file.
struct Walk<'a> {
    group: GroupId,
    found: &'a [LogFile],
    used: Vec<LogFile>,
    expected: Lsn,
    checksum: u32,
    incarnation: u32,
    /// File number and offset at which the chain broke.
    torn_at: Option<(u64, u64)>,
}

impl<'a> Walk<'a> {
    fn new(journal: &Journal, found: &'a [LogFile], start: usize) -> Self {
        let first = found[start].clone();
        Self {
            group: journal.group,
            found,
            expected: first.first_lsn,
            used: vec![first],
            checksum: 0,
            incarnation: 0,
            torn_at: None,
        }
    }

    fn run(&mut self, after: Lsn, each: &mut dyn FnMut(LogRecord, Timestamp) -> Result<()>) -> Result<()> {
        let mut first_batch = true;
        while let Some(file) = self.used.last().cloned() {
            let mut at = file.end;
            while let Some((header, checksum, batch)) = read_batch(&file, at)? {
                let chained = header.group == self.group
                    && header.first_lsn == self.expected
                    && header.incarnation >= self.incarnation
                    && (first_batch || header.previous_checksum == self.checksum);
                let payload = match chained.then(|| check_payload(&header, &batch)) {
                    Some(Ok(payload)) => payload,
                    _ => break,
                };
                for record in records(&header, &payload, &batch)? {
                    if record.lsn > after {
                        each(record, header.time)?;
                    }
                }
                first_batch = false;
                at += batch.len() as u64;
                self.expected = header.last_lsn().next();
                self.checksum = checksum;
                self.incarnation = header.incarnation;
            }
            self.torn_at = Some((file.number, at));
            if let Some(last) = self.used.last_mut() {
                last.end = at;
                last.last_lsn = self.expected.previous();
            }
            // Of two files that begin with the same record, the younger one is the one that was written last.
            let next = self.found.iter().rfind(|next| next.number > file.number && next.first_lsn == self.expected);
            match next {
                Some(next) if self.continues_in(next, first_batch)? => self.used.push(next.clone()),
                _ => break,
            }
        }
        Ok(())
    }

    /// Whether the log goes on in that file, or it was only begun (or is left from an earlier run).
    fn continues_in(&self, next: &LogFile, first_batch: bool) -> Result<bool> {
        Ok(read_batch(next, next.end)?.is_some_and(|(header, _, batch)| {
            header.group == self.group
                && header.first_lsn == self.expected
                && header.incarnation >= self.incarnation
                && (first_batch || header.previous_checksum == self.checksum)
                && check_payload(&header, &batch).is_ok()
        }))
    }
}

/// The batch at `at`, if one begins there and lies within the file.
fn read_batch(file: &LogFile, at: u64) -> Result<Option<(BatchHeader, u32, Bytes)>> {
    let context = |error| EngineError::io(format!("read the journal file {}", file.name), error);
    if at + JOURNAL_BLOCK as u64 > file.length {
        return Ok(None);
    }
    let mut block = AlignedBuf::zeroed(JOURNAL_BLOCK);
    file.file.read_at(block.as_mut_slice(), at).map_err(context)?;
    let (header, checksum) = match BatchHeader::decode(block.as_slice()) {
        Ok(found) => found,
        // A newer version too: the file's header said which version its batches have, and a block that only looks like a
        // batch is what somebody wrote into a volume.
        Err(_) => return Ok(None),
    };
    let total = header.total_len();
    if at + total as u64 > file.length {
        return Ok(None);
    }
    let mut batch = AlignedBuf::zeroed(total);
    file.file.read_at(batch.as_mut_slice(), at).map_err(context)?;
    Ok(Some((header, checksum, Bytes::copy_from_slice(batch.as_slice()))))
}

/// The records of a batch whose payload was checked.
fn records(header: &BatchHeader, payload: &[(usize, usize)], batch: &Bytes) -> Result<Vec<LogRecord>> {
    let mut lsn = header.first_lsn;
    let mut records = Vec::with_capacity(header.entries.len());
    for (entry, (start, length)) in header.entries.iter().zip(payload) {
        let extent = Extent { lba: entry.lba, blocks: entry.blocks };
        let data = batch.slice(*start..*start + *length);
        let op = match entry.op {
            EntryOp::Write => Op::Write { volume: entry.volume, lba: entry.lba, data },
            EntryOp::Zero => Op::Zero { volume: entry.volume, extent },
            EntryOp::Trim => Op::Trim { volume: entry.volume, extent },
            EntryOp::Resize => Op::Resize { volume: entry.volume, blocks: entry.blocks },
            EntryOp::Copy => Op::Copy { volume: entry.volume, extent, data: (length > &0).then_some(data) },
            EntryOp::Point | EntryOp::PointInResync => {
                let (id, time, kind, label) = decode_point(&data).map_err(damaged)?;
                let kind = PointKind::from_code(kind)
                    .ok_or_else(|| damaged(JournalFormatError::Damaged("kind of a recovery point")))?;
                let consistent = entry.op == EntryOp::Point;
                Op::Point(PointMark { id: PointId::from_bytes(id), time, kind, label, consistent })
            }
        };
        records.push(LogRecord { lsn, op });
        lsn = lsn.next();
    }
    Ok(records)
}

/// Reads records from the journal's files, outside its lock. Valid as long as nobody reclaims what it reads.
#[derive(Debug)]
pub struct LogReader {
    group: GroupId,
    files: Vec<LogFile>,
}

/// Where a reader stopped, so that the next one needn't walk the file from its head.
#[derive(Clone, Copy, Debug)]
pub struct ReadHint {
    number: u64,
    offset: u64,
    next_lsn: Lsn,
}

impl LogReader {
    /// Records after `after` up to `upto`, in order; stops early, after a whole batch, once `max_bytes` of payload were
    /// read, and after a recovery point.
    ///
    /// # Errors
    /// `Damaged` when a record that was acknowledged can't be read.
    pub fn read(&self, after: Lsn, upto: Lsn, max_bytes: usize, hint: &mut Option<ReadHint>) -> Result<Vec<LogRecord>> {
        let mut found: Vec<LogRecord> = Vec::new();
        let mut bytes = 0;
        let mut next = after.next();
        for file in &self.files {
            let mut at = match hint {
                Some(hint) if hint.number == file.number && hint.next_lsn <= after.next() => hint.offset,
                _ => JOURNAL_BLOCK as u64,
            };
            while next <= upto && at < file.end {
                let (header, _, batch) = read_batch(file, at)?
                    .filter(|(header, _, _)| header.group == self.group)
                    .ok_or_else(|| lost(next, &file.name))?;
                let payload = check_payload(&header, &batch).map_err(damaged)?;
                let length = batch.len();
                let at_batch = ReadHint { number: file.number, offset: at, next_lsn: header.first_lsn };
                at += length as u64;
                if header.last_lsn() < next {
                    continue;
                }
                for record in records(&header, &payload, &batch)? {
                    if record.lsn < next || record.lsn > upto {
                        continue;
                    }
                    if record.lsn != next {
                        return Err(lost(next, &file.name));
                    }
                    next = record.lsn.next();
                    let is_point = matches!(record.op, Op::Point(_));
                    found.push(record);
                    if is_point {
                        *hint = Some(at_batch);
                        return Ok(found);
                    }
                }
                *hint = Some(at_batch);
                bytes += length;
                if bytes >= max_bytes {
                    return Ok(found);
                }
            }
        }
        if next <= upto { Err(lost(next, "its files")) } else { Ok(found) }
    }

    /// The blocks that records after `after` up to `upto` touch, in order; their content is not read.
    ///
    /// # Errors
    /// `Damaged` when a batch's header can't be read.
    pub(crate) fn each_extent(&self, after: Lsn, upto: Lsn, each: &mut dyn FnMut(VolumeId, Extent)) -> Result<()> {
        let mut next = after.next();
        let mut block = AlignedBuf::zeroed(JOURNAL_BLOCK);
        for file in &self.files {
            let mut at = JOURNAL_BLOCK as u64;
            while next <= upto && at < file.end {
                let context = |error| EngineError::io(format!("read the journal file {}", file.name), error);
                file.file.read_at(block.as_mut_slice(), at).map_err(context)?;
                let header = BatchHeader::decode(block.as_slice())
                    .ok()
                    .map(|(header, _)| header)
                    .filter(|header| header.group == self.group && header.first_lsn <= next)
                    .ok_or_else(|| lost(next, &file.name))?;
                at += header.total_len() as u64;
                for (entry, lsn) in header.entries.iter().zip(header.first_lsn.0..) {
                    let has_blocks = match entry.op {
                        EntryOp::Write | EntryOp::Zero | EntryOp::Trim | EntryOp::Copy => true,
                        EntryOp::Point | EntryOp::PointInResync | EntryOp::Resize => false,
                    };
                    if has_blocks && (next.0..=upto.0).contains(&lsn) {
                        each(entry.volume, Extent { lba: entry.lba, blocks: entry.blocks });
                    }
                }
                next = next.max(header.last_lsn().next());
            }
        }
        if next <= upto { Err(lost(next, "its files")) } else { Ok(()) }
    }
}

fn lost(lsn: Lsn, file: &str) -> EngineError {
    EngineError::new(
        ErrorKind::Damaged,
        format!("record {lsn} can't be read back from the journal ({file}): the disk has lost data; check the disk"),
    )
}
