//! Which blocks are worth writing again: the current ones of small segments and of map objects most of which nobody needs.
//!
//! What is sparse and large is rebuilt (`rebuild.rs`). Of what is small an object of its own would be left for a few blocks, and
//! of a rebuilt segment too in the end: the writer carries such blocks into its next segments (`ship/carry.rs`), and the rest
//! goes as any garbage does once no kept position names it. Only a proposal: a block that is missed or named in vain costs
//! space, nothing else.

use std::collections::{BTreeMap, HashMap, HashSet};

use futures::future::try_join_all;
use lifeboat_format::hash::blocks_under;
use lifeboat_format::map::Child as StoredChild;
use lifeboat_model::{BranchId, MapId, SegmentId, VolumeId};

use super::live::Live;
use super::sources::Fill;
use crate::error::Result;
use crate::segments::Reader;
use crate::ship::CarriedBlock;
use crate::tree::{Child, Location, Node, NodeAt, NodeRef, NodeStore};

/// A small segment is sparse if less than this share of its blocks is needed: numerator, denominator.
const SPARSE: (usize, usize) = (3, 5);
/// Blocks of a small segment, at most: 128 KiB.
const SMALL: usize = 32;
/// Blocks of a rebuilt segment for which it isn't kept.
const LEFT: usize = 16;
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
    (live, fills): (&Live, &HashMap<SegmentId, Fill>),
    sparse_maps: &[MapId],
    branch: BranchId,
) -> Result<Vec<CarriedBlock>> {
    let Some(roots) = live.newest.get(&branch) else { return Ok(Vec::new()) };
    let sparse = small_ones(live, fills);
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

/// Small segments that little is needed of, with the number of their blocks that are. None of them is held, or needed for the
/// sake of a pin, a fork or a branch that nobody writes: it would stay, and what was carried would be there twice.
fn small_ones(live: &Live, fills: &HashMap<SegmentId, Fill>) -> HashMap<SegmentId, usize> {
    let is_small = |fill: &Fill| {
        let little = fill.generation > 0 && fill.needed <= LEFT;
        little || (fill.blocks <= SMALL && fill.is_under(SPARSE))
    };
    let free = fills.iter().filter(|(id, fill)| !fill.held && !live.lasting.contains(id));
    free.filter(|(_, fill)| is_small(fill)).map(|(id, fill)| (*id, fill.needed)).collect()
}
