//! Which blocks are worth writing again: the current ones of segments and map objects most of which nobody needs.
//!
//! The writer carries them (`ship/carry.rs`), and the rest goes as any garbage does once no kept position names it. Only a
//! proposal: a block that is missed or named in vain costs space, nothing else.
//!
//! Each block that is carried out of a segment of which so much is needed frees the rest of it, so what is written again
//! stays below 3/2 of what applications wrote, and what is kept in vain below 2/3 of what is needed.

use std::collections::{BTreeMap, HashMap, HashSet};

use futures::future::try_join_all;
use futures::stream::{self, StreamExt, TryStreamExt};
use lifeboat_format::hash::blocks_under;
use lifeboat_format::map::Child as StoredChild;
use lifeboat_model::{BLOCK_SIZE, BranchId, MapId, SegmentId, VolumeId};

use super::live::{Live, Memory};
use super::world::World;
use crate::error::Result;
use crate::segments::Reader;
use crate::ship::CarriedBlock;
use crate::tree::{Child, Location, Node, NodeAt, NodeRef, NodeStore};

/// A segment is sparse if less than this share of its blocks is needed: numerator, denominator.
const SPARSE: (usize, usize) = (3, 5);
/// Blocks that one collection proposes at most: 1 GiB.
const BLOCKS_MAX: usize = 1 << 18;
/// Indexes and nodes read at a time.
const PARALLEL: usize = 32;

/// A node of the newest tree, and the first block below it.
struct Spot {
    volume: VolumeId,
    level: u8,
    base: u64,
    node: NodeRef,
}

/// The blocks of `branch` that are worth writing again.
pub(super) async fn find(
    reader: &Reader,
    world: &World,
    live: &Live,
    sparse_maps: &[MapId],
    branch: BranchId,
    memory: &mut Memory,
) -> Result<Vec<CarriedBlock>> {
    let Some(roots) = live.newest.get(&branch) else { return Ok(Vec::new()) };
    let sparse = sparse_segments(reader, world, live, memory).await?;
    let maps: HashSet<MapId> = sparse_maps.iter().copied().collect();
    if sparse.is_empty() && maps.is_empty() {
        return Ok(Vec::new());
    }
    let mut found: BTreeMap<SegmentId, Vec<CarriedBlock>> = BTreeMap::new();
    // One block of a leaf is enough to bring the whole leaf into the next map.
    let mut moved: Vec<CarriedBlock> = Vec::new();
    let mut stack: Vec<Spot> = Vec::new();
    for root in roots {
        if let StoredChild::Node(node) = &root.root
            && reader.hasher_unless_erased(root.volume).await?.is_some()
        {
            stack.push(Spot { volume: root.volume, level: root.levels(), base: 0, node: node.clone() });
        }
    }
    while !stack.is_empty() {
        let batch = stack.split_off(stack.len().saturating_sub(PARALLEL));
        let wanted: Vec<NodeAt> = batch
            .iter()
            .map(|spot| NodeAt { volume: spot.volume, level: spot.level, node: spot.node.clone() })
            .collect();
        let nodes = try_join_all(wanted.iter().map(|at| reader.load(at))).await?;
        for (spot, node) in batch.into_iter().zip(nodes) {
            match &*node {
                Node::Leaf(leaf) => {
                    let mut blocks = leaf
                        .iter()
                        .map(|(index, slot)| (spot.base.saturating_add(u64::from(index)), slot.at))
                        .map(|(lba, at): (u64, Location)| CarriedBlock { volume: spot.volume, lba, at })
                        .peekable();
                    if maps.contains(&spot.node.object.id) {
                        moved.extend(blocks.peek());
                    }
                    for block in blocks.filter(|block| sparse.contains_key(&block.at.segment)) {
                        found.entry(block.at.segment).or_default().push(block);
                    }
                }
                Node::Inner(inner) => {
                    let level = spot.level.saturating_sub(1);
                    let mut base = spot.base;
                    for child in inner.children() {
                        if let Child::Stored(node) = child {
                            stack.push(Spot { volume: spot.volume, level, base, node: node.clone() });
                        }
                        base = base.saturating_add(blocks_under(level));
                    }
                }
            }
        }
    }
    Ok(chosen(&sparse, found, moved))
}

/// The emptiest segments first.
fn chosen(
    sparse: &HashMap<SegmentId, usize>,
    found: BTreeMap<SegmentId, Vec<CarriedBlock>>,
    moved: Vec<CarriedBlock>,
) -> Vec<CarriedBlock> {
    let mut by_need: Vec<(usize, Vec<CarriedBlock>)> =
        found.into_iter().filter_map(|(id, blocks)| sparse.get(&id).map(|needed| (*needed, blocks))).collect();
    by_need.sort_by_key(|(needed, _)| *needed);
    let mut all: Vec<CarriedBlock> = moved;
    for (_, blocks) in by_need {
        if all.len() >= BLOCKS_MAX {
            break;
        }
        all.extend(blocks);
    }
    all.truncate(BLOCKS_MAX);
    // In address order, so that neighbours share leaves and frames.
    all.sort_unstable();
    all.dedup();
    all
}

/// Segments that little is needed of, with the number of their blocks that are. None of them is replayed, or needed for the
/// sake of a pin, a fork or a branch that nobody writes: it would stay, and what was carried would be there twice.
async fn sparse_segments(
    reader: &Reader,
    world: &World,
    live: &Live,
    memory: &mut Memory,
) -> Result<HashMap<SegmentId, usize>> {
    let needed: HashMap<SegmentId, usize> = live
        .slots
        .iter()
        .filter(|(id, _)| !live.replayed.contains(id) && !live.lasting.contains(id))
        .map(|(id, frames)| {
            let ones = frames.values().map(|mask| usize::try_from(mask.count_ones()).unwrap_or(0));
            (*id, ones.sum())
        })
        .collect();
    memory.totals.retain(|id, _| needed.contains_key(id));
    let unknown: Vec<SegmentId> =
        needed.keys().filter(|id| !memory.totals.contains_key(id) && world.has_segment(**id)).copied().collect();
    let totals: Vec<(SegmentId, usize)> = stream::iter(unknown)
        .map(|id| async move {
            let segment = reader.segment(id, None).await?;
            let raw = segment.index.frames.iter().map(|frame| usize::try_from(frame.raw_len).unwrap_or(0));
            Ok::<_, crate::error::EngineError>((id, raw.sum::<usize>() / BLOCK_SIZE))
        })
        .buffer_unordered(PARALLEL)
        .try_collect()
        .await?;
    memory.totals.extend(totals);
    let is_sparse = |id: &SegmentId, needed: usize| {
        memory.totals.get(id).is_some_and(|total| needed.saturating_mul(SPARSE.1) < total.saturating_mul(SPARSE.0))
    };
    Ok(needed.into_iter().filter(|(id, needed)| is_sparse(id, *needed)).collect())
}
