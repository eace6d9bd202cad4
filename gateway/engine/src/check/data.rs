//! Segments as the walk takes them: proved, and, when the data is to be read, every frame decrypted and every block held
//! against its hash.

use std::collections::BTreeSet;
use std::sync::Arc;

use lifeboat_format::segment::{FrameEntry, TRAILER_LEN};
use lifeboat_model::{BLOCK_SIZE, SegmentId};
use lifeboat_vault::VaultError;

use super::history::SEGMENT;
use super::report::{Fault, Verdict, of_engine};
use super::{Found, Inquiry};
use crate::error::{EngineError, ErrorKind, Result};
use crate::segments::{Frames, Reader, Segment};

/// Frames decrypted at a time: 4 MiB of blocks.
const FRAMES: usize = 64;

/// A segment whose index is proved.
#[derive(Debug)]
pub(super) struct Loaded {
    pub(super) segment: Arc<Segment>,
    /// Frames that aren't what the index says, ascending.
    pub(super) bad_frames: Vec<(u32, Verdict)>,
}

/// Reads a segment; `listed` is its length where a listing showed it.
///
/// # Errors
/// The check has to end. What is wrong with the segment is a value.
pub(super) async fn load(
    inquiry: &Inquiry,
    reader: &Arc<Reader>,
    id: SegmentId,
    listed: Option<&u64>,
) -> Result<Result<Loaded, Verdict>> {
    let read = inquiry.patiently(async || reader.segment(id, listed.copied()).await).await;
    inquiry.looked_at(listed.copied().unwrap_or(0));
    let segment = match read {
        Ok(segment) => segment,
        Err(error) if error.kind() == ErrorKind::Closed => return Err(error),
        Err(error) => return Ok(Err(of_engine(&error))),
    };
    let mut loaded = Loaded { segment: Arc::clone(&segment), bad_frames: Vec::new() };
    if !inquiry.options.read_data {
        return Ok(Ok(loaded));
    }
    for entries in segment.index.frames.chunks(FRAMES) {
        let wanted = entries.iter().map(|entry| (id, entry.frame.0)).collect();
        match inquiry.patiently(async || reader.frames(&wanted).await).await {
            Ok(frames) => entries_in(reader, &segment, entries, &frames, &mut loaded.bad_frames).await,
            Err(error) if error.kind() == ErrorKind::Closed => return Err(error),
            // One of them is bad: which one is found one by one.
            Err(_) => one_by_one(inquiry, reader, &segment, entries, &mut loaded.bad_frames).await?,
        }
    }
    Ok(Ok(loaded))
}

async fn one_by_one(
    inquiry: &Inquiry,
    reader: &Arc<Reader>,
    segment: &Arc<Segment>,
    entries: &[FrameEntry],
    bad: &mut Vec<(u32, Verdict)>,
) -> Result<()> {
    for entry in entries {
        let wanted = BTreeSet::from([(segment.id, entry.frame.0)]);
        match inquiry.patiently(async || reader.frames(&wanted).await).await {
            Ok(frames) => entries_in(reader, segment, std::slice::from_ref(entry), &frames, bad).await,
            Err(error) if error.kind() == ErrorKind::Closed => return Err(error),
            Err(error) if without_key(&error) => {}
            Err(error) => bad.push((entry.frame.0, of_engine(&error))),
        }
    }
    Ok(())
}

/// Whether a frame can't be decrypted because its key is gone: said once, of the keys.
pub(super) fn without_key(error: &EngineError) -> bool {
    std::error::Error::source(error).is_some_and(|source| source.is::<VaultError>())
}

/// Holds the blocks of frames against the hashes that the index gives them.
async fn entries_in(
    reader: &Arc<Reader>,
    segment: &Arc<Segment>,
    entries: &[FrameEntry],
    frames: &Frames,
    bad: &mut Vec<(u32, Verdict)>,
) {
    for entry in entries {
        let Ok(volume) = segment.index.volume_of(entry) else { continue };
        let Ok(hasher) = reader.hasher(volume.volume).await else { continue };
        let wrong = entry.blocks().find(|(_, slot, hash)| {
            let block = frames.block(segment.id, entry.frame.0, *slot);
            let block = block.as_ref().ok().and_then(|block| <&[u8; BLOCK_SIZE]>::try_from(&block[..]).ok());
            block.is_none_or(|block| hasher.block(block) != *hash)
        });
        if let Some((lba, ..)) = wrong {
            let detail = format!("block {lba} of {} isn't the one that the index names", volume.volume);
            bad.push((entry.frame.0, Verdict { fault: Fault::Contradiction, part: None, detail }));
        }
    }
}

/// The damage of a segment as a whole.
pub(super) fn found<'a>(key: &'a str, verdict: Verdict, listed: Option<&u64>) -> Found<'a> {
    let trailer = u64::try_from(TRAILER_LEN).unwrap_or_default();
    let offset = match verdict.part {
        Some("segment header") => Some(0),
        Some("segment trailer") => listed.and_then(|len| len.checked_sub(trailer)),
        _ => None,
    };
    Found { offset, ..Found::verdict(key, SEGMENT, verdict) }
}
