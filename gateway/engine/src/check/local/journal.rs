//! A journal, as a start would read it: the chain of batches from the oldest record that is still needed, and what stands
//! behind its end.

use std::path::PathBuf;
use std::sync::Arc;

use lifeboat_format::journal::{
    BATCH_PAYLOAD_MAX, BatchHeader, EntryOp, FileHeader, JOURNAL_BLOCK, JournalFormatError, check_payload, decode_point,
};
use lifeboat_format::local::GroupState;
use lifeboat_model::Lsn;
use serde::Serialize;

use super::LocalReport;
use crate::check::report::Fault;
use crate::disk::{Disk, DiskFile, Io};

const KIND: &str = "journal file";
const BLOCK: u64 = 4096;

/// A journal, as it was found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct JournalReport {
    /// Files with a header.
    pub files: u64,
    /// Batches of the chain, from the oldest that is needed.
    pub batches: u64,
    /// Records in them.
    pub records: u64,
    /// The first record of the chain.
    pub first_lsn: Lsn,
    /// The last one: a start goes on after it.
    pub last_lsn: Lsn,
    /// Whether a torn batch follows, which a start cuts off.
    pub torn: bool,
}

#[derive(Debug)]
struct Journal {
    path: PathBuf,
    file: Arc<dyn DiskFile>,
    header: FileHeader,
    length: u64,
}

/// Where the chain is.
#[derive(Debug, Default)]
struct Chain {
    expected: Lsn,
    checksum: Option<u32>,
    incarnation: u32,
}

pub(super) fn check(disk: &Arc<dyn Disk>, state: &GroupState, report: &mut LocalReport) -> Option<JournalReport> {
    let files = open(disk, state, report);
    // What a collapse gave up is in the dirty map, and no longer in the journal.
    let given_up = state.resync.map_or(Lsn::ZERO, |resync| resync.collapsed);
    let needed = state.image_lsn.min(state.shipped.lsn.max(given_up)).next();
    let mut found = JournalReport { files: u64::try_from(files.len()).unwrap_or(u64::MAX), ..JournalReport::default() };
    let Some(start) = files.iter().rposition(|file| file.header.first_lsn <= needed) else {
        let detail = format!("no journal file holds record {needed}, the oldest that is still needed");
        let costs = lost(state, needed, None);
        report.damaged(&disk.path(), "journal", Fault::Missing, detail, costs);
        return None;
    };
    let mut chain = Chain { expected: files.get(start)?.header.first_lsn, ..Chain::default() };
    found.first_lsn = chain.expected;
    let mut at = files.get(start)?;
    let (mut offset, mut broken) = (BLOCK, None);
    loop {
        match batch(at, offset, &chain, state) {
            Ok(Some((header, checksum))) => {
                found.batches = found.batches.saturating_add(1);
                found.records = found.records.saturating_add(u64::try_from(header.entries.len()).unwrap_or(0));
                offset = offset.saturating_add(u64::try_from(header.total_len()).unwrap_or(u64::MAX));
                chain = Chain {
                    expected: header.last_lsn().next(),
                    checksum: Some(checksum),
                    incarnation: header.incarnation,
                };
                continue;
            }
            Ok(None) => {}
            Err(why) => broken = Some(why),
        }
        // The log may go on in a younger file that begins with the very next record.
        let next = files.iter().rfind(|next| {
            next.header.number > at.header.number
                && next.header.first_lsn == chain.expected
                && matches!(batch(next, BLOCK, &chain, state), Ok(Some(_)))
        });
        let Some(next) = next else { break };
        (at, offset, broken) = (next, BLOCK, None);
    }
    found.last_lsn = chain.expected.previous();
    end(&files, at, offset, (&chain, needed), broken, state, report, &mut found);
    Some(found)
}

/// Judges the end of the chain: the end of the log, a torn tail, or a disk that has lost data.
#[expect(clippy::too_many_arguments, reason = "what a walk knows when it ends")]
fn end(
    files: &[Journal],
    at: &Journal,
    offset: u64,
    (chain, needed): (&Chain, Lsn),
    broken: Option<String>,
    state: &GroupState,
    report: &mut LocalReport,
    found: &mut JournalReport,
) {
    let why = broken.clone().unwrap_or_else(|| "no batch of this log follows here".to_owned());
    if let Some(durable) = durable_beyond(files, at, offset, chain, state) {
        let detail =
            format!("record {} was durable, says a later batch, and the log ends before it: {why}", chain.expected);
        let place = (Fault::Damaged, Some("batch".to_owned()), Some(offset));
        report.push(&at.path, KIND, place, detail, lost(state, chain.expected, Some(durable)));
        return;
    }
    if chain.expected < needed {
        let detail = format!("the log ends at record {}, and record {needed} is still needed: {why}", found.last_lsn);
        let place = (Fault::Damaged, Some("batch".to_owned()), Some(offset));
        report.push(&at.path, KIND, place, detail, lost(state, chain.expected, None));
        return;
    }
    if let Some(why) = broken {
        found.torn = true;
        let text = format!("a torn batch at byte {offset}, as a crash leaves it: the next start cuts it off ({why})");
        report.note(&at.path, text);
    }
}

/// What the loss of records costs.
fn lost(state: &GroupState, first: Lsn, last: Option<Lsn>) -> String {
    let held = state.image_lsn.max(state.shipped.lsn);
    let last_shown = last.map_or_else(|| "the end".to_owned(), |last| last.to_string());
    let unsaved = last.is_none_or(|last| last > held);
    let rest = if unsaved {
        format!("records after {held} are neither in the vault nor in the images: what they wrote is lost")
    } else {
        "all of them are in the vault or in the images".to_owned()
    };
    format!(
        "records {first} to {last_shown}; {rest}. The group refuses to start here: check the disk, then recover the \
         volumes from the vault, which has everything up to record {}",
        state.shipped.lsn
    )
}

/// The files that have a header of this group, by what they begin with.
fn open(disk: &Arc<dyn Disk>, state: &GroupState, report: &mut LocalReport) -> Vec<Journal> {
    let names = match disk.list() {
        Ok(names) => names,
        Err(error) => {
            let costs = "whether the journal is whole can't be said";
            report.damaged(&disk.path(), "directory", Fault::Unreadable, error.to_string(), costs);
            return Vec::new();
        }
    };
    let mut files = Vec::new();
    for name in names.iter().filter(|name| name.starts_with("journal-")) {
        let path = disk.path().join(name);
        report.files = report.files.saturating_add(1);
        let mut block = vec![0; JOURNAL_BLOCK];
        let read = disk.open(name, false, Io::Buffered).and_then(|file| {
            let length = file.len()?;
            file.read_at(&mut block, 0)?;
            Ok((file, length))
        });
        let costs = "if it held records that are still needed, they are reported missing below";
        match read.map(|(file, length)| (file, length, FileHeader::decode(&block))) {
            Ok((file, length, Ok(header))) if header.group == state.group => {
                files.push(Journal { path, file, length: length.min(header.length), header });
            }
            Ok((_, _, Ok(header))) => {
                let detail = format!("it belongs to {}, not to {}", header.group, state.group);
                report.damaged(&path, KIND, Fault::Misplaced, detail, "the group refuses to start while it is there");
            }
            Ok((_, _, Err(JournalFormatError::Newer { found }))) => {
                let detail = format!("it has format {found}: a newer release wrote it");
                report.damaged(&path, KIND, Fault::NewerVersion, detail, "start the newer release again");
            }
            Ok((_, _, Err(JournalFormatError::NotThisKind(_)))) => report.note(&path, "free: nothing was begun in it"),
            Ok((_, _, Err(error))) => {
                report.note(&path, format!("its header is torn, as a crash leaves it: {error}; {costs}"))
            }
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
                report.note(&path, "its creation was interrupted: the next start removes it");
            }
            Err(error) => report.damaged(&path, KIND, Fault::Unreadable, error.to_string(), costs),
        }
    }
    files.sort_by_key(|file| (file.header.first_lsn, file.header.number));
    files
}

/// The batch of the chain at `offset`: none where the log ends, an explanation where one is torn or damaged.
fn batch(file: &Journal, offset: u64, chain: &Chain, state: &GroupState) -> Result<Option<(BatchHeader, u32)>, String> {
    if offset.saturating_add(BLOCK) > file.length {
        return Ok(None);
    }
    let mut block = vec![0; JOURNAL_BLOCK];
    file.file.read_at(&mut block, offset).map_err(|error| error.to_string())?;
    let (header, checksum) = match BatchHeader::decode(&block) {
        Ok(found) => found,
        Err(JournalFormatError::NotThisKind(_)) => return Ok(None),
        Err(error) => return Err(error.to_string()),
    };
    let continues = header.group == state.group
        && header.first_lsn == chain.expected
        && header.incarnation >= chain.incarnation
        && chain.checksum.is_none_or(|checksum| header.previous_checksum == checksum);
    if !continues {
        // Left over from an earlier use of the file.
        return Ok(None);
    }
    let len = header.total_len();
    if len > JOURNAL_BLOCK.saturating_add(BATCH_PAYLOAD_MAX) || offset.saturating_add(len as u64) > file.length {
        return Err("it reaches past the end of the file".to_owned());
    }
    let mut bytes = vec![0; len];
    file.file.read_at(&mut bytes, offset).map_err(|error| error.to_string())?;
    let payloads = check_payload(&header, &bytes).map_err(|error| error.to_string())?;
    for (entry, (start, length)) in header.entries.iter().zip(payloads) {
        let payload = bytes.get(start..start.saturating_add(length)).unwrap_or_default();
        if entry.op == EntryOp::Point {
            decode_point(payload).map_err(|error| error.to_string())?;
        }
    }
    Ok(Some((header, checksum)))
}

/// The newest record that a batch beyond the end of the chain knows to be durable, if the chain lacks it.
fn durable_beyond(files: &[Journal], at: &Journal, offset: u64, chain: &Chain, state: &GroupState) -> Option<Lsn> {
    let mut newest = None;
    let mut block = vec![0; JOURNAL_BLOCK];
    for file in files.iter().filter(|file| file.header.number >= at.header.number) {
        let mut from = if file.header.number == at.header.number { offset } else { BLOCK };
        while from.saturating_add(BLOCK) <= file.length {
            if file.file.read_at(&mut block, from).is_ok()
                && let Ok((header, _)) = BatchHeader::decode(&block)
                && header.group == state.group
                && header.incarnation >= chain.incarnation
                && header.durable_lsn >= chain.expected
                && header.first_lsn > chain.expected
            {
                newest = newest.max(Some(header.durable_lsn));
            }
            from = from.saturating_add(BLOCK);
        }
    }
    newest
}
