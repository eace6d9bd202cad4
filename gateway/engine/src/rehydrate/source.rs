//! Where the differences come from: two trees, the whole volume, or the local image itself.

use std::collections::VecDeque;
use std::sync::Arc;

use futures::future::try_join_all;
use lifeboat_format::hash::{BlockHasher, LEAF_SLOTS};
use lifeboat_model::{BLOCK_SIZE, BlockHash, Extent, LEAF_BLOCKS, RootHash, VolumeId};

use super::{ImageReader, Source};
use crate::error::{EngineError, ErrorKind, Result};
use crate::segments::Reader;
use crate::tree::{Diff, Run, Tree};
use crate::view::{PointView, VolumeAtPoint};

/// Leaves (2 MiB each) that are read and hashed at a time.
const LEAVES_PARALLEL: u64 = 4;

/// The blocks of one volume that have to be moved, in address order.
pub(super) struct Differences {
    reader: Arc<Reader>,
    kind: Kind,
    /// Everything before it was given out, or needs no move.
    done: u64,
}

enum Kind {
    /// Two trees, and extents that differ anyhow (the next one first).
    Delta { diff: Box<Diff>, ahead: Option<Extent>, dirty: VecDeque<Extent> },
    /// All of it.
    Full { end: u64 },
    /// The local image.
    Compare(Box<Compare>),
}

struct Compare {
    image: Arc<dyn ImageReader>,
    tree: Tree,
    local_blocks: u64,
    found: VecDeque<Extent>,
    /// The next block to compare.
    at: u64,
}

/// What `base` shows of the volume that `target` is a tree of: a volume of zeroes if it doesn't show it.
pub(super) async fn base_tree(base: &Arc<PointView>, target: &Tree) -> Result<Tree> {
    let known = base.volumes().iter().any(|volume| volume.id == target.volume());
    if known {
        base.tree(target.volume()).await
    } else {
        Ok(Tree::empty(target.volume(), Arc::clone(target.hasher()), target.blocks()))
    }
}

impl Differences {
    pub(super) async fn open(
        target: &Arc<PointView>,
        source: &Source,
        volume: VolumeAtPoint,
        start: u64,
    ) -> Result<Self> {
        let reader = Arc::clone(target.reader());
        let end = volume.size_blocks;
        let kind = match source {
            Source::Full => Kind::Full { end },
            // An image that never had the volume may hold anything under its name.
            Source::Delta { base, .. } if base.volumes().iter().all(|known| known.id != volume.id) => {
                Kind::Full { end }
            }
            Source::Delta { base, dirty } => {
                let tree = target.tree(volume.id).await?;
                let mut diff = base_tree(base, &tree).await?.diff(&tree);
                diff.skip_to(start);
                let dirty = dirty.get(&volume.id).into_iter().flat_map(|set| set.iter());
                let dirty = dirty
                    .map(|extent| Extent { lba: extent.lba, blocks: extent.end().min(end).saturating_sub(extent.lba) })
                    .filter(|extent| extent.blocks > 0)
                    .collect();
                Kind::Delta { diff: Box::new(diff), ahead: None, dirty }
            }
            Source::Compare(image) => {
                let tree = target.tree(volume.id).await?;
                let local_blocks = image.blocks(volume.id).await?;
                let at = start;
                Kind::Compare(Box::new(Compare {
                    image: Arc::clone(image),
                    tree,
                    local_blocks,
                    found: VecDeque::new(),
                    at,
                }))
            }
        };
        Ok(Self { reader, kind, done: start })
    }

    /// Whether unchanged blocks are found out without being moved.
    pub(super) const fn compares(&self) -> bool {
        !matches!(self.kind, Kind::Full { .. })
    }

    /// Every block before it was given out, or needs no move.
    pub(super) const fn position(&self) -> u64 {
        self.done
    }

    /// The next extent to move.
    pub(super) async fn next(&mut self) -> Result<Option<Extent>> {
        loop {
            let next = match &mut self.kind {
                Kind::Full { end } => {
                    let extent = Extent { lba: self.done, blocks: end.saturating_sub(self.done) };
                    (extent.blocks > 0).then_some(extent)
                }
                Kind::Delta { diff, ahead, dirty } => {
                    if ahead.is_none() {
                        *ahead = diff.next(&*self.reader).await?;
                    }
                    let diff_first = match (&ahead, dirty.front()) {
                        (Some(ahead), Some(dirty)) => ahead.lba <= dirty.lba,
                        (Some(_), None) => true,
                        (None, _) => false,
                    };
                    if diff_first { ahead.take() } else { dirty.pop_front() }
                }
                Kind::Compare(compare) => compare.next(&self.reader).await?,
            };
            let Some(extent) = next else { return Ok(None) };
            // Both lists ascend, so what was given out of one is at most the beginning of the other's next.
            let lba = extent.lba.max(self.done);
            let blocks = extent.end().saturating_sub(lba);
            if blocks > 0 {
                self.done = extent.end();
                return Ok(Some(Extent { lba, blocks }));
            }
        }
    }
}

impl Compare {
    async fn next(&mut self, reader: &Reader) -> Result<Option<Extent>> {
        while self.found.is_empty() && self.at < self.tree.blocks() {
            let first = self.at / LEAF_BLOCKS;
            let mut work = Vec::new();
            for leaf in first..first.saturating_add(LEAVES_PARALLEL) {
                work.push(self.leaf(reader, leaf));
            }
            let found = try_join_all(work).await?;
            self.found = found.into_iter().flatten().filter(|extent| extent.end() > self.at).collect();
            self.at = first.saturating_add(LEAVES_PARALLEL).saturating_mul(LEAF_BLOCKS);
        }
        Ok(self.found.pop_front())
    }

    /// The extents of one leaf that differ. The tree's leaf is read only if its hash does.
    async fn leaf(&self, reader: &Reader, leaf: u64) -> Result<Vec<Extent>> {
        let base = leaf.saturating_mul(LEAF_BLOCKS);
        let blocks = LEAF_BLOCKS.min(self.tree.blocks().saturating_sub(base));
        if blocks == 0 {
            return Ok(Vec::new());
        }
        let volume = self.tree.volume();
        let local = local_leaf(&self.image, self.tree.hasher(), volume, self.local_blocks, base, blocks).await?;
        if self.tree.leaf_hash(reader, base).await? == local.leaf {
            return Ok(Vec::new());
        }
        unequal_blocks(&self.tree, reader, base, &local.blocks).await
    }
}

/// The blocks of one leaf, from block `base` on, whose hashes are others in the tree.
pub(crate) async fn unequal_blocks(
    tree: &Tree,
    reader: &Reader,
    base: u64,
    blocks: &[BlockHash; LEAF_SLOTS],
) -> Result<Vec<Extent>> {
    let count = LEAF_BLOCKS.min(tree.blocks().saturating_sub(base));
    if count == 0 {
        return Ok(Vec::new());
    }
    let mut wanted = Box::new([BlockHash::ZERO; LEAF_SLOTS]);
    for run in tree.lookup(reader, Extent { lba: base, blocks: count }).await? {
        if let Run::Block { lba, slot } = run
            && let Some(place) = usize::try_from(lba.saturating_sub(base)).ok().and_then(|at| wanted.get_mut(at))
        {
            *place = slot.hash;
        }
    }
    let mut extents: Vec<Extent> = Vec::new();
    for ((local, wanted), lba) in blocks.iter().zip(wanted.iter()).zip(base..base.saturating_add(count)) {
        if local == wanted {
            continue;
        }
        match extents.last_mut() {
            Some(last) if last.end() == lba => last.blocks = last.blocks.saturating_add(1),
            _ => extents.push(Extent { lba, blocks: 1 }),
        }
    }
    Ok(extents)
}

/// The hashes of one leaf of an image that has `there` blocks: of `blocks` blocks from `base` on, zeroes where it has none.
pub(crate) async fn local_leaf(
    image: &Arc<dyn ImageReader>,
    hasher: &Arc<BlockHasher>,
    volume: VolumeId,
    there: u64,
    base: u64,
    blocks: u64,
) -> Result<LocalLeaf> {
    let there = there.saturating_sub(base).min(blocks);
    if there == 0 {
        return Ok(LocalLeaf { blocks: Box::new([BlockHash::ZERO; LEAF_SLOTS]), leaf: RootHash::ZERO });
    }
    let data = image.read(volume, Extent { lba: base, blocks: there }).await?;
    let complete = u64::try_from(data.len() / BLOCK_SIZE).is_ok_and(|read| read == there);
    if !complete {
        return Err(EngineError::new(
            ErrorKind::Damaged,
            format!("the image of {volume} ends early: {there} blocks from block {base} were asked for"),
        ));
    }
    let hasher = Arc::clone(hasher);
    crate::blocking::run(move || hash_leaf(&hasher, &data))
        .await
        .map_err(|error| EngineError::new(ErrorKind::Closed, format!("hashing was given up: {error}")))
}

/// What one leaf of a local image hashes to.
pub(crate) struct LocalLeaf {
    pub(crate) blocks: Box<[BlockHash; LEAF_SLOTS]>,
    pub(crate) leaf: RootHash,
}

fn hash_leaf(hasher: &BlockHasher, data: &[u8]) -> LocalLeaf {
    let mut blocks = Box::new([BlockHash::ZERO; LEAF_SLOTS]);
    for (place, block) in blocks.iter_mut().zip(data.as_chunks::<BLOCK_SIZE>().0) {
        *place = hasher.block(block);
    }
    let leaf = hasher.leaf(&blocks);
    LocalLeaf { blocks, leaf }
}
