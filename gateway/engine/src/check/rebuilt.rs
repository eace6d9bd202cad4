//! Rebuilt segments: each one's index, and with `read_data` every frame decrypted and every block held against its hash.
//!
//! They are looked at before the log of their branch is walked, so that the walk knows of every damage before it comes to a
//! leaf that leads there. While the segment itself is there, it is what readers read, and a damaged rebuilt one costs nothing.

use std::sync::Arc;

use futures::stream::{self, StreamExt};
use lifeboat_model::{BLOCK_SIZE, Epoch, SegmentId, SegmentSeq};

use super::data::without_key;
use super::group::Branch;
use super::history::Known;
use super::report::{Verdict, of_engine};
use super::{Fault, Found, Inquiry};
use crate::error::{EngineError, ErrorKind, Result};
use crate::segments::{Reader, Rebuilt, names};

const REBUILT: &str = "rebuilt segment";
/// Frames read at a time.
const PARALLEL: usize = 16;

/// Checks all of a branch.
pub(super) async fn check(inquiry: &Inquiry, reader: &Arc<Reader>, branch: &Branch, known: &mut Known) -> Result<()> {
    for (&(epoch, seq), all) in &branch.rebuilt {
        let whole = branch.segments.contains_key(&(epoch, seq));
        check_all(inquiry, reader, (of(branch, epoch, seq), whole), all, known).await?;
    }
    Ok(())
}

fn of(branch: &Branch, epoch: Epoch, seq: SegmentSeq) -> SegmentId {
    SegmentId { branch: branch.id, epoch, seq }
}

async fn check_all(
    inquiry: &Inquiry,
    reader: &Arc<Reader>,
    (id, whole): (SegmentId, bool),
    all: &std::collections::BTreeMap<u64, u64>,
    known: &mut Known,
) -> Result<()> {
    let (mut sound, mut unusable) = (false, None);
    for (&generation, &len) in all {
        let key = names::rebuilt(reader.group(), id, generation);
        inquiry.looked_at(len);
        let charge = |found: Found<'_>| match whole {
            true => inquiry.damage(found.costs("nothing: the segment that it was made of is still there")),
            false => inquiry.damage(found),
        };
        let rebuilt = match inquiry.patiently(async || reader.read_rebuilt(id, generation, len).await).await {
            Ok(rebuilt) => rebuilt,
            Err(error) if error.kind() == ErrorKind::Closed => return Err(error),
            // Deleted since it was listed: a newer one stands for it, or nothing of it is needed.
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            Err(error) => {
                unusable = Some(charge(Found::verdict(&key, REBUILT, of_engine(&error))));
                continue;
            }
        };
        sound = true;
        if !inquiry.options.read_data {
            continue;
        }
        let numbers = 0..u32::try_from(rebuilt.index.frames.len()).unwrap_or(u32::MAX);
        let mut verdicts = stream::iter(numbers)
            .map(|number| {
                let rebuilt = &rebuilt;
                async move { (number, frame(inquiry, reader, rebuilt, number).await) }
            })
            .buffered(PARALLEL);
        while let Some((number, verdict)) = verdicts.next().await {
            let Some(verdict) = verdict? else { continue };
            let Ok((entry, _)) = rebuilt.index.frame(number) else { continue };
            let part = Some(format!("frame {number}"));
            let damage = charge(Found { offset: Some(entry.offset), part, ..Found::verdict(&key, REBUILT, verdict) });
            if !whole {
                known.frames.extend(entry.blocks.iter().map(|block| ((id, block.frame.0), damage)));
            }
        }
    }
    if let Some(damage) = unusable.filter(|_| !sound && !whole) {
        known.segments.insert(id, damage);
    }
    Ok(())
}

/// What is wrong with a frame.
async fn frame(inquiry: &Inquiry, reader: &Arc<Reader>, rebuilt: &Rebuilt, number: u32) -> Result<Option<Verdict>> {
    let wrong = |detail: String| Ok(Some(Verdict { fault: Fault::Contradiction, part: None, detail }));
    let Ok((entry, volume)) = rebuilt.index.frame(number) else {
        return wrong(format!("the index has no frame {number}"));
    };
    let raw = match inquiry.patiently(async || reader.rebuilt_frame(rebuilt, number).await).await {
        Ok(raw) => raw,
        Err(error) => return verdict_of(error),
    };
    let hasher = match inquiry.patiently(async || reader.hasher(volume.volume).await).await {
        Ok(hasher) => hasher,
        Err(error) => return verdict_of(error),
    };
    let blocks = raw.as_chunks::<BLOCK_SIZE>().0;
    let equal = blocks.len() == entry.blocks.len()
        && blocks.iter().zip(&entry.blocks).all(|(block, of)| hasher.block(block) == of.hash);
    if equal { Ok(None) } else { wrong(format!("a block of {} isn't the one that the index names", volume.volume)) }
}

/// Keys that are gone are said once, of the keys.
fn verdict_of(error: EngineError) -> Result<Option<Verdict>> {
    match error.kind() {
        ErrorKind::Closed => Err(error),
        ErrorKind::NotFound => Ok(None),
        _ if without_key(&error) => Ok(None),
        _ => Ok(Some(of_engine(&error))),
    }
}
