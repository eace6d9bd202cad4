//! What rebuilt segments hold, and how full the objects are that blocks are read from.
//!
//! What an index says is as good as the object that it is in: it is sealed with the group key. What is remembered of it from
//! one run to the next spares reading it again; of objects that a run may delete on account of others it is read again.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use futures::stream::{self, StreamExt, TryStreamExt};
use lifeboat_model::{BLOCK_SIZE, SegmentId, Timestamp};

use super::live::{Live, Memory};
use super::plan::Plan;
use super::world::World;
use super::{Planted, planted};
use crate::error::{EngineError, ErrorKind, Result};
use crate::segments::Reader;

/// Indexes read at a time.
const PARALLEL: usize = 32;
/// Frames of rebuilt segments that are remembered from run to run: 16 bytes each, about.
const MEMORY_FRAMES_MAX: usize = 4 << 20;

/// Slots, by frame: a bit each.
pub(super) type Slots = HashMap<u32, u16>;

/// Number of slots.
pub(super) fn count(slots: &Slots) -> usize {
    slots.values().map(|mask| usize::try_from(mask.count_ones()).unwrap_or(0)).sum()
}

/// Whether everything that is needed is there.
fn within(needed: &Slots, slots: &Slots) -> bool {
    needed.iter().all(|(frame, mask)| slots.get(frame).is_some_and(|there| mask & !there == 0))
}

/// A rebuilt segment.
#[derive(Clone, Debug)]
pub(super) struct Source {
    pub(super) slots: Arc<Slots>,
    time: Timestamp,
}

/// How much an object holds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Filling {
    pub(super) blocks: usize,
    pub(super) time: Timestamp,
}

/// The rebuilt segments of a group of which something is needed.
#[derive(Debug, Default)]
pub(super) struct Sources {
    by: HashMap<SegmentId, BTreeMap<u64, Source>>,
}

impl Sources {
    /// Reads them. `named` are those that a due intent names: nothing is taken from memory for them.
    pub(super) async fn read(
        reader: &Reader,
        world: &World,
        live: &Live,
        named: &HashSet<SegmentId>,
        memory: &mut Memory,
    ) -> Result<Self> {
        let rebuilt = world.branches.values().flat_map(|branch| &branch.rebuilt);
        let wanted: Vec<(SegmentId, u64, u64)> = rebuilt
            .filter(|(id, _)| live.slots.contains_key(id))
            .flat_map(|(id, all)| all.iter().map(|(generation, key)| (*id, *generation, world.size(key))))
            .collect();
        let there: HashSet<(SegmentId, u64)> = wanted.iter().map(|(id, generation, _)| (*id, *generation)).collect();
        memory.rebuilt.retain(|key, _| there.contains(key) && !named.contains(&key.0));
        let mut unknown = wanted;
        unknown.retain(|(id, generation, _)| !memory.rebuilt.contains_key(&(*id, *generation)));
        let read = load(reader, unknown).await?;
        let mut sources = Self::default();
        let mut frames: usize = memory.rebuilt.values().map(|source| source.slots.len()).sum();
        for ((id, generation), source) in &memory.rebuilt {
            sources.by.entry(*id).or_default().insert(*generation, source.clone());
        }
        for ((id, generation), source) in read {
            frames = frames.saturating_add(source.slots.len());
            if frames <= MEMORY_FRAMES_MAX {
                memory.rebuilt.insert((id, generation), source.clone());
            }
            sources.by.entry(id).or_default().insert(generation, source);
        }
        Ok(sources)
    }

    /// Those of segments that are gone.
    pub(super) async fn of_gone(reader: &Reader, world: &World) -> Result<Self> {
        let rebuilt = world.branches.values().flat_map(|branch| &branch.rebuilt);
        let wanted: Vec<(SegmentId, u64, u64)> = rebuilt
            .filter(|(id, _)| world.segment(**id).is_none())
            .flat_map(|(id, all)| all.iter().map(|(generation, key)| (*id, *generation, world.size(key))))
            .collect();
        let mut sources = Self::default();
        for ((id, generation), source) in load(reader, wanted).await? {
            sources.by.entry(id).or_default().insert(generation, source);
        }
        Ok(sources)
    }

    /// The newest generation above `below` that holds everything that is needed of the segment.
    pub(super) fn cover(&self, id: SegmentId, below: u64, needed: &Slots) -> Option<u64> {
        let all = self.by.get(&id)?;
        let holds = |source: &Source| within(needed, &source.slots) || planted(Planted::TrustsRebuilt);
        let newer = all.iter().rev().take_while(|(generation, _)| **generation > below);
        newer.filter(|(_, source)| holds(source)).map(|(generation, _)| *generation).next()
    }

    fn filling(&self, id: SegmentId, generation: u64) -> Option<Filling> {
        let source = self.by.get(&id)?.get(&generation)?;
        Some(Filling { blocks: count(&source.slots), time: source.time })
    }
}

/// Reads rebuilt segments, of which a generation and a length are given; those that stand for nothing are left out.
async fn load(reader: &Reader, wanted: Vec<(SegmentId, u64, u64)>) -> Result<Vec<((SegmentId, u64), Source)>> {
    let read: Vec<Option<((SegmentId, u64), Source)>> = stream::iter(wanted)
        .map(|(id, generation, len)| async move {
            match reader.read_rebuilt(id, generation, len).await {
                Ok(rebuilt) => {
                    let mut slots = Slots::new();
                    for block in rebuilt.index.blocks() {
                        let mask = slots.entry(block.frame.0).or_default();
                        *mask |= 1_u16.checked_shl(u32::from(block.slot)).unwrap_or(0);
                    }
                    Ok(Some(((id, generation), Source { slots: Arc::new(slots), time: rebuilt.header.time })))
                }
                Err(error) => passed_over(error).map(|()| None),
            }
        })
        .buffer_unordered(PARALLEL)
        .try_collect()
        .await?;
    Ok(read.into_iter().flatten().collect())
}

/// One that is gone or damaged stands for nothing: what it would have spared stays.
pub(super) fn passed_over(error: EngineError) -> Result<()> {
    match error.kind() {
        ErrorKind::NotFound => Ok(()),
        ErrorKind::Tampered => {
            tracing::warn!(%error, "a segment is left as it is: check the vault");
            Ok(())
        }
        _ => Err(error),
    }
}

/// The object that a segment's needed blocks are read from once what is garbage has gone.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fill {
    /// 0 is the segment itself.
    pub(super) generation: u64,
    /// Its bytes.
    pub(super) size: u64,
    /// Blocks that it holds.
    pub(super) blocks: usize,
    /// Blocks that are needed.
    pub(super) needed: usize,
    /// When it was sealed.
    pub(super) time: Timestamp,
    /// It is needed as a whole, or says where a log ends: it stays.
    pub(super) held: bool,
}

impl Fill {
    /// Bytes of it that are needed, about.
    pub(super) fn needed_bytes(&self) -> u64 {
        let share = |part: usize| u128::try_from(part).unwrap_or(u128::MAX);
        let bytes = u128::from(self.size).saturating_mul(share(self.needed)) / share(self.blocks.max(1));
        u64::try_from(bytes).unwrap_or(u64::MAX).min(self.size)
    }

    /// Whether less than this share of it is needed: numerator, denominator.
    pub(super) fn is_under(&self, (over, under): (usize, usize)) -> bool {
        self.needed.saturating_mul(under) < self.blocks.saturating_mul(over)
    }
}

/// How full the objects are that something is needed of. Only ever a proposal: what is missing here stays as it is.
pub(super) async fn fills(
    reader: &Reader,
    world: &World,
    live: &Live,
    (sources, plan): (&Sources, &Plan),
    memory: &mut Memory,
) -> Result<HashMap<SegmentId, Fill>> {
    let mut unknown: Vec<(SegmentId, u64)> = Vec::new();
    memory.fillings.retain(|id, _| live.slots.contains_key(id) && world.segment(*id).is_some());
    let mut fills = HashMap::new();
    for (id, slots) in &live.slots {
        let (needed, held) = (count(slots), plan.held.contains(id));
        let whole = world.segment(*id).filter(|key| held || !plan.garbage.contains_key(*key));
        let generation = if whole.is_some() { 0 } else { sources.cover(*id, 0, slots).unwrap_or(0) };
        let rebuilt = world.branches.get(&id.branch).and_then(|branch| branch.rebuilt.get(id));
        let Some(key) = whole.or_else(|| rebuilt?.get(&generation).map(String::as_str)) else { continue };
        let size = world.size(key);
        let filling = match generation {
            0 => memory.fillings.get(id).copied(),
            generation => sources.filling(*id, generation),
        };
        if filling.is_none() && !held {
            unknown.push((*id, size));
        }
        // What is held counts as needed, all of it.
        let Filling { blocks, time } = filling.unwrap_or(Filling { blocks: needed, time: Timestamp::default() });
        fills.insert(*id, Fill { generation, size, blocks, needed, time, held });
    }
    // In one order, so that a seed replays a run.
    unknown.sort_unstable();
    let read: Vec<Option<(SegmentId, Filling)>> = stream::iter(unknown)
        .map(|(id, len)| async move {
            match reader.bare_index(id, len).await {
                Ok(segment) => {
                    let raw = segment.index.frames.iter().map(|frame| usize::try_from(frame.raw_len).unwrap_or(0));
                    let blocks = raw.sum::<usize>() / BLOCK_SIZE;
                    Ok(Some((id, Filling { blocks, time: segment.header.time })))
                }
                Err(error) => passed_over(error).map(|()| None),
            }
        })
        .buffer_unordered(PARALLEL)
        .try_collect()
        .await?;
    for (id, filling) in read.into_iter().flatten() {
        memory.fillings.insert(id, filling);
        if let Some(fill) = fills.get_mut(&id) {
            (fill.blocks, fill.time) = (filling.blocks, filling.time);
        }
    }
    Ok(fills)
}
