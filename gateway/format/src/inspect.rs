//! Saying what a file or object is, from its clear text alone: for `lifeboat inspect`.
//!
//! Needs no key and proves nothing but checksums: what it says of a vault object is what the object *claims*.

use std::fmt;

use crate::FormatError;
use crate::epoch::{CUT, EpochCut, EpochIntent, EpochPlace, INTENT};
use crate::local::{LocalState, PRESENCE, PRESENCE_HEADER_LEN, Phase, PresenceHeader, STATE, STATE_FILE_LEN};
use crate::map::{self, MAP_HEADER_LEN, MapHeader, MapTrailer};
use crate::segment::{self, SEGMENT_HEADER_LEN, SegmentHeader, SegmentTrailer, TRAILER_LEN};
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
    let state_file = bytes.len() == STATE_FILE_LEN && magic == [0; 4];
    match magic {
        _ if state_file || magic == STATE.magic => describe_state(bytes),
        _ if magic == segment::HEADER.magic => describe_segment(bytes),
        _ if magic == map::HEADER.magic => describe_map(bytes),
        _ if magic == INTENT.magic => describe_intent(bytes),
        _ if magic == CUT.magic => describe_cut(bytes),
        _ if magic == PRESENCE.magic => describe_presence(bytes),
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
    let Some(chosen) = LocalState::choose(bytes)? else {
        text.field("state", "never written");
        return Ok(text);
    };
    let state = chosen.state;
    text.field("generation", state.generation);
    text.field("vault", state.vault);
    text.field("group", state.group);
    text.field("branch", state.branch);
    text.field("epoch", state.epoch);
    text.field("incarnation", state.incarnation);
    text.field("image position", state.image_lsn);
    text.field(
        "shipped",
        format_args!("position {}, epoch {} number {}", state.shipped.lsn, state.shipped.epoch, state.shipped.seq),
    );
    text.field("last seal hash", state.shipped.segment_hash);
    text.field("phase", state.phase.state());
    if let Phase::Rehydrating { branch, lsn } = state.phase {
        text.field("target", format_args!("{branch} at position {lsn}"));
    }
    text.field("resync needed", if state.map_dirty { "yes" } else { "no" });
    for volume in &state.volumes {
        let lazy = if volume.lazy { ", filled lazily" } else { "" };
        text.field("volume", format_args!("{}: {} blocks{lazy}", volume.volume, volume.size_blocks));
    }
    if chosen.other_damaged {
        text.field("other slot", "torn or damaged");
    }
    Ok(text)
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

fn hex(bytes: &[u8]) -> String {
    use fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string can't fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
