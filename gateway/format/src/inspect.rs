//! Saying what a file or object is, from its clear text alone: for `lifeboat inspect`.
//!
//! Needs no key and proves nothing but checksums: what it says of a vault object is what the object *claims*.

use std::fmt;

use crate::FormatError;
use crate::at_rest::{MARKER, Marker, is_sealed_text};
use crate::dirty::{DIRTY, DirtyMap};
use crate::epoch::{CUT, EpochCut, EpochIntent, EpochPlace, INTENT};
use crate::journal::{
    BatchHeader, Entry, FileHeader, JOURNAL_BLOCK, JOURNAL_VERSION, JournalFormatError, check_payload,
};
use crate::local::{GroupState, PRESENCE, PRESENCE_HEADER_LEN, Place, PresenceHeader, STATE, STATE_SLOT, newest_state};
use crate::map::{self, MAP_HEADER_LEN, MapHeader, MapTrailer};
use crate::rebuilt::{self, REBUILT_HEADER_LEN, RebuiltHeader, RebuiltTrailer};
use crate::segment::{self, SEGMENT_HEADER_LEN, SegmentHeader, SegmentTrailer, TRAILER_LEN};
use crate::stream::{FRAME_HEAD_LEN, FrameHead, FrameKind, Records, STREAM, Tenure};
use crate::wire::len64;

/// What bytes claim to be: a kind, and named values in the order of the format.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Description {
    /// The kind, in words.
    pub kind: &'static str,
    /// Field names and values.
    pub fields: Vec<(&'static str, String)>,
    /// Parts that could not be read, and why: a damaged trailer doesn't hide an intact header.
    pub problems: Vec<FormatError>,
}

impl Description {
    fn new(kind: &'static str) -> Self {
        Self { kind, fields: Vec::new(), problems: Vec::new() }
    }

    fn field(&mut self, name: &'static str, value: impl fmt::Display) {
        self.fields.push((name, value.to_string()));
    }
}

impl fmt::Display for Description {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.kind)?;
        for (name, value) in &self.fields {
            writeln!(f, "  {name:<18} {value}")?;
        }
        for problem in &self.problems {
            writeln!(f, "  problem: {problem}")?;
        }
        Ok(())
    }
}

/// Describes a whole file or object.
pub fn describe(bytes: &[u8]) -> Result<Description, FormatError> {
    let magic: [u8; 4] = match bytes.first_chunk() {
        Some(magic) => *magic,
        None => return Err(FormatError::Truncated { what: "file", needed: 4, available: len64(bytes.len()) }),
    };
    // A state file whose slot A was never written begins with zeroes.
    let state_file = bytes.len() == STATE_SLOT.saturating_mul(2) && magic == [0; 4];
    match magic {
        _ if state_file || magic == STATE.magic => describe_state(bytes),
        _ if magic == segment::HEADER.magic => describe_segment(bytes),
        _ if magic == rebuilt::HEADER.magic => describe_rebuilt(bytes),
        _ if magic == map::HEADER.magic => describe_map(bytes),
        _ if magic == INTENT.magic => describe_intent(bytes),
        _ if magic == CUT.magic => describe_cut(bytes),
        _ if crate::gc::is_record(magic) => describe_record(bytes),
        _ if magic == PRESENCE.magic => describe_presence(bytes),
        _ if magic == MARKER.magic => describe_marker(bytes),
        _ if is_sealed_text(bytes) => Ok(Description::new("encrypted text")),
        _ if magic == DIRTY.magic => describe_dirty(bytes),
        _ if magic == STREAM.magic => describe_stream(bytes),
        _ if &magic == b"LBJF" => describe_journal_file(bytes),
        _ if &magic == b"LBJB" => describe_journal_batch(bytes),
        _ => Err(FormatError::NotThisKind { what: "file or object of lifeboat", magic }),
    }
}

fn tail(bytes: &[u8]) -> &[u8] {
    bytes.get(bytes.len().saturating_sub(TRAILER_LEN)..).unwrap_or_default()
}

fn describe_segment(bytes: &[u8]) -> Result<Description, FormatError> {
    let header = SegmentHeader::decode_any(bytes.get(..SEGMENT_HEADER_LEN).unwrap_or(bytes))?;
    let mut text = Description::new("segment");
    text.field("vault", header.place.vault);
    text.field("group", header.place.group);
    text.field("branch", header.place.id.branch);
    text.field("epoch", header.place.id.epoch);
    text.field("number", header.place.id.seq);
    text.field("first position", header.first_lsn);
    text.field("last position", header.last_lsn);
    text.field("sealed at", header.time);
    text.field("salt", hex(&header.salt));
    text.field("writer nonce", hex(&header.writer_nonce));
    text.field("key commitment", hex(&header.commitment));
    text.field("previous segment", header.previous);
    match SegmentTrailer::decode(tail(bytes), len64(bytes.len())) {
        Ok(trailer) => {
            let range = trailer.index_range();
            text.field("length", trailer.total_len());
            text.field("frames", trailer.frame_count());
            text.field("index", format_args!("bytes {}..{}", range.start, range.end));
            text.field("index unpacked", trailer.index_raw_len());
            text.field("seal hash", trailer.hash());
        }
        Err(error) => text.problems.push(error),
    }
    Ok(text)
}

fn describe_rebuilt(bytes: &[u8]) -> Result<Description, FormatError> {
    let header = RebuiltHeader::decode_any(bytes.get(..REBUILT_HEADER_LEN).unwrap_or(bytes))?;
    let place = header.place.segment;
    let mut text = Description::new("rebuilt segment");
    text.field("vault", place.vault);
    text.field("group", place.group);
    text.field("branch", place.id.branch);
    text.field("epoch", place.id.epoch);
    text.field("number", place.id.seq);
    text.field("generation", header.place.generation);
    text.field("sealed at", header.time);
    text.field("salt", hex(&header.salt));
    text.field("key commitment", hex(&header.commitment));
    text.field("seal hash of segment", header.segment_hash);
    match RebuiltTrailer::decode(tail(bytes), len64(bytes.len())) {
        Ok(trailer) => {
            let range = trailer.index_range();
            text.field("length", trailer.total_len());
            text.field("frames", trailer.frame_count());
            text.field("index", format_args!("bytes {}..{}", range.start, range.end));
        }
        Err(error) => text.problems.push(error),
    }
    Ok(text)
}

fn describe_map(bytes: &[u8]) -> Result<Description, FormatError> {
    let header = MapHeader::decode_any(bytes.get(..MAP_HEADER_LEN).unwrap_or(bytes))?;
    let mut text = Description::new("map");
    text.field("vault", header.place.vault);
    text.field("group", header.place.group);
    text.field("branch", header.place.branch);
    text.field("position", header.place.lsn);
    text.field("id", header.place.id);
    text.field("salt", hex(&header.salt));
    text.field("key commitment", hex(&header.commitment));
    match MapTrailer::decode(tail(bytes), len64(bytes.len())) {
        Ok(trailer) => {
            let range = trailer.footer_range();
            text.field("length", trailer.total_len());
            text.field("nodes", trailer.node_count());
            text.field("footer", format_args!("bytes {}..{}", range.start, range.end));
        }
        Err(error) => text.problems.push(error),
    }
    Ok(text)
}

fn describe_record(bytes: &[u8]) -> Result<Description, FormatError> {
    let header = crate::gc::RecordHeader::decode_any(bytes)?;
    let mut text = Description::new(header.kind);
    text.field("vault", header.place.vault);
    text.field("group", header.place.group);
    text.field("name", header.place.name);
    text.field("salt", hex(&header.salt));
    text.field("key commitment", hex(&header.commitment));
    text.field("body unpacked", header.raw_len);
    Ok(text)
}

fn epoch_place(text: &mut Description, place: &EpochPlace) {
    text.field("vault", place.vault);
    text.field("group", place.group);
    text.field("branch", place.branch);
    text.field("epoch", place.epoch);
}

fn describe_intent(bytes: &[u8]) -> Result<Description, FormatError> {
    let intent = EpochIntent::decode_any(bytes)?;
    let mut text = Description::new("epoch intent");
    epoch_place(&mut text, &intent.place);
    text.field("writer", intent.writer);
    text.field("nonce", hex(&intent.nonce));
    text.field("claimed at", intent.time);
    text.field("purpose", intent.purpose);
    match intent.origin {
        Some(origin) => {
            text.field("parent branch", origin.branch);
            text.field("forked at point", origin.point);
            text.field("forked at position", origin.lsn);
            text.field("parent segment", format_args!("epoch {} number {}", origin.epoch, origin.seq));
        }
        None => text.field("parent branch", "none"),
    }
    if let Some(branch) = intent.promoted_to {
        text.field("promoted to", branch);
    }
    Ok(text)
}

fn describe_cut(bytes: &[u8]) -> Result<Description, FormatError> {
    let cut = EpochCut::decode_any(bytes)?;
    let mut text = Description::new("epoch cut");
    epoch_place(&mut text, &cut.place);
    text.field("ends epoch", cut.epoch);
    text.field("last segment", cut.last_seq);
    text.field("last position", cut.last_lsn);
    text.field("last seal hash", cut.last_hash);
    text.field("nonce", hex(&cut.nonce));
    Ok(text)
}

fn describe_state(bytes: &[u8]) -> Result<Description, FormatError> {
    let mut text = Description::new("group state of a gateway");
    let (a, b) = bytes.split_at_checked(STATE_SLOT).unwrap_or((bytes, &[]));
    let Some(state) = newest_state(a, b)? else {
        text.field("state", "never written");
        return Ok(text);
    };
    text.field("generation", state.generation);
    text.field("group", state.group);
    text.field("gateway", state.gateway);
    text.field("phase", state.phase.state());
    text.field("branch", state.branch);
    text.field("epoch", state.epoch);
    text.field("journal begins at", state.journal_first);
    text.field("image position", state.image_lsn);
    text.field("shipped", place(&state.shipped));
    if let Some(origin) = &state.origin {
        text.field("forked from", place(origin));
    }
    if let Some(rehydrate) = &state.rehydrate {
        text.field("follows", rehydrate.branch);
        text.field("fetches", if rehydrate.full { "everything" } else { "what differs" });
        text.field("image equals", rehydrate.base.as_ref().map_or_else(|| "unknown".to_owned(), place));
        if let Some(target) = &rehydrate.target {
            text.field("pass leads to", place(target));
        }
        if let Some((volume, lba)) = &rehydrate.cursor {
            text.field("pass is at", format_args!("{volume} block {lba}"));
        }
        if let Some(orphan) = &rehydrate.orphan {
            text.field("own tail kept in", orphan);
        }
    }
    if let Some(resync) = &state.resync {
        text.field("resync since", resync.since);
        text.field("resync because", format_args!("{:?}", resync.cause));
        text.field("collapsed up to", resync.collapsed);
        text.field("blocks to copy", resync.total_blocks);
    }
    for volume in &state.volumes {
        let lazy = if volume.lazy { ", filled lazily" } else { "" };
        text.field("volume", format_args!("{} {:?}: {} blocks{lazy}", volume.id, volume.name, volume.blocks));
    }
    for slot in [a, b] {
        // A torn slot is what a crash leaves; it is worth a word all the same.
        if let (false, Err(error)) = (crate::hash::is_zero(slot), GroupState::decode(slot)) {
            text.problems.push(error);
        }
    }
    Ok(text)
}

fn place(place: &Place) -> String {
    format!("position {} of {}, after segment {} of epoch {}", place.lsn, place.branch, place.seq, place.epoch)
}

fn describe_presence(bytes: &[u8]) -> Result<Description, FormatError> {
    let header = PresenceHeader::decode(bytes.get(..PRESENCE_HEADER_LEN).unwrap_or(bytes))?;
    let mut text = Description::new("presence file");
    text.field("volume", header.volume);
    text.field("blocks", header.size_blocks);
    text.field("generation", header.generation);
    let bits = bytes.get(PRESENCE_HEADER_LEN..).unwrap_or_default();
    let present: u64 = bits.iter().map(|byte| u64::from(byte.count_ones())).sum();
    text.field("blocks present", present);
    Ok(text)
}

fn describe_marker(bytes: &[u8]) -> Result<Description, FormatError> {
    Marker::decode(bytes)?;
    let mut text = Description::new(MARKER.what);
    text.field("cipher", "AES-256-XTS");
    Ok(text)
}

fn describe_dirty(bytes: &[u8]) -> Result<Description, FormatError> {
    let map = DirtyMap::decode(bytes)?;
    let mut text = Description::new("dirty map");
    text.field("group", map.group);
    text.field("generation", map.generation);
    text.field("stands for up to", map.collapsed);
    for volume in &map.volumes {
        let (blocks, runs) = (volume.dirty.blocks(), volume.dirty.iter().count());
        text.field("volume", format_args!("{}: {blocks} of {} blocks, in {runs} runs", volume.id, volume.blocks));
    }
    Ok(text)
}

fn describe_stream(bytes: &[u8]) -> Result<Description, FormatError> {
    let head = FrameHead::decode(bytes)?;
    let body = bytes.get(FRAME_HEAD_LEN..).unwrap_or_default();
    let mut text = Description::new("stream frame");
    text.field("holds", format_args!("{:?}", head.kind).to_string().to_lowercase());
    if let Err(problem) = head.verify(body) {
        text.problems.push(problem);
        return Ok(text);
    }
    match head.kind {
        FrameKind::Records => {
            let records = Records::decode(body)?;
            text.field("after position", records.after);
            text.field("last position", records.last);
            text.field("records", records.records.len());
            text.field("ends with a point", records.ends_with_point());
        }
        FrameKind::Tenure => {
            let tenure = Tenure::decode(body)?;
            text.field("group", tenure.group);
            text.field("branch", tenure.branch);
            text.field("agent", tenure.agent);
            text.field("epoch", tenure.epoch);
            text.field("began after", tenure.end);
        }
        _ => {}
    }
    Ok(text)
}

fn describe_journal_file(bytes: &[u8]) -> Result<Description, FormatError> {
    let header = FileHeader::decode(bytes).map_err(journal_error)?;
    let mut text = Description::new("journal file");
    text.field("group", header.group);
    text.field("use", header.number);
    text.field("first position", header.first_lsn);
    text.field("incarnation", header.incarnation);
    text.field("length", header.length);
    text.field("begun at", header.time);
    let mut rest = bytes.get(JOURNAL_BLOCK..).unwrap_or_default();
    let (mut batches, mut records) = (0_u64, 0_u64);
    let mut last = None;
    // Batches of an earlier use may follow the last one of this use: they begin before its first position.
    while let Ok((batch, _)) = BatchHeader::decode(rest) {
        let stale = batch.first_lsn < header.first_lsn || last.is_some_and(|last| batch.first_lsn <= last);
        if stale || check_payload(&batch, rest).is_err() {
            break;
        }
        batches = batches.saturating_add(1);
        records = records.saturating_add(len64(batch.entries.len()));
        last = Some(batch.last_lsn());
        rest = rest.get(batch.total_len()..).unwrap_or_default();
    }
    text.field("intact batches", batches);
    text.field("records in them", records);
    if let Some(last) = last {
        text.field("last position", last);
    }
    Ok(text)
}

fn describe_journal_batch(bytes: &[u8]) -> Result<Description, FormatError> {
    let (batch, checksum) = BatchHeader::decode(bytes).map_err(journal_error)?;
    let mut text = Description::new("journal batch");
    text.field("group", batch.group);
    text.field("incarnation", batch.incarnation);
    text.field("epoch", batch.epoch);
    text.field("first position", batch.first_lsn);
    text.field("last position", batch.last_lsn());
    text.field("durable position", batch.durable_lsn);
    text.field("sealed at", batch.time);
    text.field("length", batch.total_len());
    text.field("checksum", format_args!("{checksum:08x}"));
    text.field("previous checksum", format_args!("{:08x}", batch.previous_checksum));
    for entry in &batch.entries {
        let Entry { volume, op, lba, blocks, payload_len, .. } = entry;
        text.field("record", format_args!("{op:?} {volume} block {lba} count {blocks}, {payload_len} bytes"));
    }
    if let Err(error) = check_payload(&batch, bytes) {
        text.problems.push(journal_error(error));
    }
    Ok(text)
}

fn journal_error(error: JournalFormatError) -> FormatError {
    match error {
        JournalFormatError::NotThisKind(what) => FormatError::NotThisKind { what, magic: [0; 4] },
        JournalFormatError::Newer { found } => {
            FormatError::NewerVersion { what: "journal", found, supported: JOURNAL_VERSION }
        }
        JournalFormatError::Damaged(why) => FormatError::Corrupt { what: "journal", at: 0, why },
    }
}

fn hex(bytes: &[u8]) -> String {
    use fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string can't fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
