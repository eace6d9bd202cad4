//! What the blocks of a segment look like, by a sample, while it is built.
//!
//! The cost is bounded whatever is written: [`SAMPLE_BLOCKS`] blocks of a volume and segment are looked at and looked up in
//! the working tree, whose nodes the segment changes anyway. Only when what is rewritten looks random are some of the blocks
//! read that were there before, at most [`CHECKS_MAX`] and within [`CHECK_WITHIN`]; where they turn out to have been random
//! too (a volume that was encrypted from the start), that is done less and less often. Nothing here can fail a segment.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use lifeboat_model::{BLOCK_SIZE, Extent, VolumeId};

use super::build::Hashed;
use crate::insight::{Measure, Texture, texture};
use crate::segments::Reader;
use crate::sync::Lock;
use crate::tree::{Location, Run, Tree};

/// Blocks of a volume that are looked at in one segment.
const SAMPLE_BLOCKS: usize = 128;
/// Old blocks that are read for one volume and segment.
const CHECKS_MAX: usize = 12;
const CHECK_WITHIN: Duration = Duration::from_secs(2);
/// Blocks, about, from which rewriting with random bytes is worth a look at what was there.
const WORTH_A_CHECK: u64 = 16;
/// Most blocks that are looked up for what a segment frees.
const FREED_BLOCKS_MAX: u64 = 64 << 10;
/// Segments that are passed over, at most, between two looks that find nothing.
const PAUSE_MAX: u32 = 64;

/// How often old blocks are worth reading, by volume.
#[derive(Debug, Default)]
pub(super) struct Checks(Lock<BTreeMap<VolumeId, Pause>>);

#[derive(Clone, Copy, Debug, Default)]
struct Pause {
    /// Segments to pass over from now on.
    left: u32,
    /// How many it was the last time.
    length: u32,
}

impl Checks {
    fn is_due(&self, volume: VolumeId) -> bool {
        let mut all = self.0.lock();
        let pause = all.entry(volume).or_default();
        if pause.left == 0 {
            return true;
        }
        pause.left = pause.left.saturating_sub(1);
        false
    }

    /// Takes down what a look found.
    fn note(&self, volume: VolumeId, found: bool) {
        let length = |pause: Pause| if found { 0 } else { pause.length.saturating_mul(2).clamp(1, PAUSE_MAX) };
        let mut all = self.0.lock();
        let pause = all.entry(volume).or_default();
        let length = length(*pause);
        *pause = Pause { left: length, length };
    }
}

/// What a segment does to one volume, before its tree is changed.
pub(super) async fn measure(
    reader: &Reader,
    checks: &Checks,
    tree: &Tree,
    content: &[Hashed],
    zeroes: &[Extent],
) -> Measure {
    let mut measure = Measure { written: u64::try_from(content.len()).unwrap_or(u64::MAX), ..Measure::default() };
    let mut before: Vec<Location> = Vec::new();
    let stride = content.len().div_ceil(SAMPLE_BLOCKS).max(1);
    for block in content.iter().step_by(stride) {
        let Ok(bytes) = <&[u8; BLOCK_SIZE]>::try_from(block.data.as_ref()) else { continue };
        let Ok(found) = tree.lookup(reader, Extent { lba: block.lba, blocks: 1 }).await else { return measure };
        measure.sampled += 1;
        let old = found.into_iter().find_map(|run| match run {
            // The same again says nothing: a copy of a resync, or a block that is carried.
            Run::Block { slot, .. } if slot.hash == block.hash => Some(None),
            Run::Block { slot, .. } => Some(Some(slot.at)),
            Run::Zero(_) => None,
        });
        let old = match old {
            Some(None) => continue,
            Some(at) => at,
            None => None,
        };
        let look = texture(bytes);
        let (dense, random) = (u64::from(look != Texture::Plain), u64::from(look == Texture::Random));
        measure.dense += dense;
        measure.random += random;
        if let Some(at) = old {
            measure.rewritten += 1;
            measure.rewritten_dense += dense;
            measure.rewritten_random += random;
            before.extend((random == 1).then_some(at));
        }
    }
    let freed = freed(reader, tree, zeroes, &mut measure).await;
    let in_place = measure.in_place() >= WORTH_A_CHECK && measure.is_pure_in_place();
    if (in_place || measure.freed >= WORTH_A_CHECK) && checks.is_due(tree.volume()) {
        if in_place {
            (measure.checked, measure.turned) = look_up(reader, &before).await;
        }
        (measure.freed_checked, measure.freed_plain) = look_up(reader, &freed).await;
        let looked = measure.checked + measure.freed_checked > 0;
        if looked && in_place {
            checks.note(tree.volume(), measure.turned + measure.freed_plain > 0);
        }
    }
    measure
}

/// Counts the blocks that had content in what becomes zero; gives some of their places.
async fn freed(reader: &Reader, tree: &Tree, zeroes: &[Extent], measure: &mut Measure) -> Vec<Location> {
    let mut places = Vec::new();
    let mut budget = FREED_BLOCKS_MAX;
    for extent in zeroes {
        let blocks = extent.blocks.min(budget);
        budget = budget.saturating_sub(blocks);
        if blocks == 0 {
            break;
        }
        let Ok(runs) = tree.lookup(reader, Extent { lba: extent.lba, blocks }).await else { break };
        for run in runs {
            if let Run::Block { slot, .. } = run {
                measure.freed += 1;
                places.push(slot.at);
            }
        }
    }
    places
}

/// How many of the blocks at these places could be read, a few of them, and how many of those are not random.
async fn look_up(reader: &Reader, places: &[Location]) -> (u64, u64) {
    let stride = places.len().div_ceil(CHECKS_MAX).max(1);
    let chosen: Vec<Location> = places.iter().copied().step_by(stride).collect();
    if chosen.is_empty() {
        return (0, 0);
    }
    let wanted: BTreeSet<_> = chosen.iter().map(|at| (at.segment, at.frame)).collect();
    let Ok(Ok(frames)) = tokio::time::timeout(CHECK_WITHIN, reader.frames(&wanted)).await else { return (0, 0) };
    let (mut checked, mut plain) = (0, 0);
    for at in chosen {
        let Ok(block) = frames.block(at.segment, at.frame, at.slot) else { continue };
        let Ok(bytes) = <&[u8; BLOCK_SIZE]>::try_from(block.as_ref()) else { continue };
        checked += 1;
        plain += u64::from(texture(bytes) != Texture::Random);
    }
    (checked, plain)
}
