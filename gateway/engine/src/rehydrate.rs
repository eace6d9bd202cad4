//! Rehydration: bringing a local image to a recovery point, moving only what differs.
//!
//! ```text
//! Delta    tree of what the image holds ─diff─┐
//!          extents it wrote since ────────────┴─union─> extents ─> batches ─frames, side by side─> ImageSink
//! Full     every block ───────────────────────────────> extents
//! Compare  local blocks ─hash, leaf by leaf, against the tree ─> extents
//! ```
//! Works without a disk of its own: content goes to an [`ImageSink`]. Extents come in address order, volume by volume;
//! a bounded number of batches is under way; a frame that several blocks share is fetched once as long as the reader's
//! cache holds it. After a crash or an error the same call goes on from the last [`Cursor`] that the sink kept, with
//! the same source and target; without one it starts over, which is correct as well: moving a block twice is harmless.

mod source;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::future::{Either, select};
use futures::stream::{FuturesOrdered, StreamExt};
use lifeboat_model::{BranchId, Extent, ExtentSet, Lsn, VolumeId};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use crate::branch::{Origin, Position};
use crate::error::{EngineError, ErrorKind, Result};
use crate::gc::Kept;
use crate::points::{PointInfo, list_points_with};
use crate::segments::Reader;
use crate::tree::Diff;
use crate::view::{BlockRun, Blocks, PointView, VolumeAtPoint};
use source::Differences;
pub(crate) use source::{local_leaf, unequal_blocks};

/// Takes the content. Calls come one after the other, in address order within a volume.
#[async_trait]
pub trait ImageSink: Send + Sync {
    /// The volume has this many blocks from here on; comes before anything else of it. Blocks that this adds read as
    /// zeroes.
    ///
    /// # Errors
    /// Any; ends the rehydration.
    async fn resize(&self, volume: VolumeId, blocks: u64) -> Result<()>;

    /// Content from block `lba` on; whole blocks.
    ///
    /// # Errors
    /// Any; ends the rehydration.
    async fn write(&self, volume: VolumeId, lba: u64, data: Bytes) -> Result<()>;

    /// Zeroes.
    ///
    /// # Errors
    /// Any; ends the rehydration.
    async fn zero(&self, volume: VolumeId, extent: Extent) -> Result<()>;

    /// Everything before the cursor has been handed over. A sink that wants to go on here after a crash makes what it
    /// got durable, then keeps the cursor.
    ///
    /// # Errors
    /// Any; ends the rehydration.
    async fn progress(&self, cursor: Cursor) -> Result<()>;
}

/// Reads the local image, to compare it.
#[async_trait]
pub trait ImageReader: Send + Sync {
    /// The volume's size in blocks as the image has it; 0 if it hasn't got the volume.
    ///
    /// # Errors
    /// `Damaged` when the disk fails.
    async fn blocks(&self, volume: VolumeId) -> Result<u64>;

    /// Exactly these blocks.
    ///
    /// # Errors
    /// `Damaged` when the disk fails.
    async fn read(&self, volume: VolumeId, extent: Extent) -> Result<Bytes>;
}

/// What is known about the image.
#[derive(Clone)]
pub enum Source {
    /// It holds what `base` shows, but for the blocks in `dirty`.
    Delta {
        /// What it holds.
        base: Arc<PointView>,
        /// Where it holds something else, nobody knows what.
        dirty: BTreeMap<VolumeId, ExtentSet>,
    },
    /// Nothing: every block is fetched.
    Full,
    /// Nothing, but it can be read: it is hashed, and what differs is fetched.
    Compare(Arc<dyn ImageReader>),
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Delta { base, .. } => f.debug_struct("Delta").field("base", &base.position()).finish_non_exhaustive(),
            Self::Full => f.write_str("Full"),
            Self::Compare(_) => f.write_str("Compare"),
        }
    }
}

/// One pass towards a branch's newest point, as whoever has the disks knows it.
#[derive(Clone, Debug)]
pub(crate) struct Pass {
    /// The branch.
    pub(crate) branch: BranchId,
    /// What the disks hold, but for what is dirty; none: nobody knows.
    pub(crate) base: Option<Position>,
    /// The point of a pass that was broken off.
    pub(crate) target: Option<Lsn>,
    /// How far that pass was.
    pub(crate) cursor: Option<Cursor>,
    /// Every block, whatever the base is.
    pub(crate) full: bool,
    /// Where the disks hold something else than the base, nobody knows what.
    pub(crate) dirty: BTreeMap<VolumeId, ExtentSet>,
}

/// A pass that knows where it goes.
pub(crate) struct Aimed {
    /// The point.
    pub(crate) point: PointInfo,
    /// What it shows.
    pub(crate) view: Arc<PointView>,
    /// What there is to start from.
    pub(crate) source: Source,
    /// Whether it is the point of the pass that was broken off.
    pub(crate) begun: bool,
    /// Whether every block is fetched until it is complete.
    pub(crate) full: bool,
}

impl Pass {
    /// The target that an interrupted pass had, or the newest point.
    ///
    /// # Errors
    /// `NotFound` when the branch has no point; `Retry` when the vault can't be reached; `Tampered`.
    pub(crate) async fn aim(self, reader: &Arc<Reader>) -> Result<Aimed> {
        let known = list_points_with(reader, self.branch).await?;
        let target = self.target.and_then(|target| known.iter().find(|point| point.lsn == target).cloned());
        // The schedule may have dropped it since. The images stand between it and the base then, which no history tells.
        let full = self.full || (self.target.is_some() && target.is_none());
        let begun = target.is_some();
        let point = target.or_else(|| known.into_iter().next_back()).ok_or_else(|| {
            let why = format!("{} has no recovery point of {} to come back to", self.branch, reader.group());
            EngineError::new(ErrorKind::NotFound, why)
        })?;
        let base = self.base.filter(|_| !full);
        let view = PointView::open_at(reader, point.position());
        let (view, source) = futures::try_join!(view, source_of(reader, base, self.dirty))?;
        Ok(Aimed { point, view, source, begun, full })
    }
}

/// What an image holds, as far as the vault's history can say: nothing of a base that the schedule has dropped since.
async fn source_of(
    reader: &Arc<Reader>,
    base: Option<Position>,
    dirty: BTreeMap<VolumeId, ExtentSet>,
) -> Result<Source> {
    let Some(base) = base else { return Ok(Source::Full) };
    if !Kept::read(reader).await?.allows(&Origin { at: base, point: None }) {
        return Ok(Source::Full);
    }
    Ok(Source::Delta { base: PointView::open_at(reader, base).await?, dirty })
}

/// How far a rehydration is: volumes before `volume`, and this one before block `lba`, are done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Cursor {
    /// The volume at hand; volumes go by id.
    pub volume: VolumeId,
    /// Its first block that isn't done.
    pub lba: u64,
}

/// What a rehydration has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RehydrateStats {
    /// Blocks of which it is known whether they differ.
    pub blocks_compared: u64,
    /// Blocks handed to the sink, zeroes included.
    pub blocks_moved: u64,
    /// Bytes of frames read from the vault.
    pub bytes_fetched: u64,
}

/// Bounds of a rehydration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RehydrateLimits {
    /// Blocks fetched together.
    pub batch_blocks: u64,
    /// Batches under way.
    pub batches: usize,
}

impl Default for RehydrateLimits {
    /// 4 batches of 4 MiB.
    fn default() -> Self {
        Self { batch_blocks: 1024, batches: 4 }
    }
}

/// Brings an image to what `target` shows. `from`: where an earlier run with the same source and target stopped.
///
/// # Errors
/// `Retry` when the vault can't be reached: call again; `Tampered` when its data fails its checks; the sink's own.
pub async fn rehydrate(
    target: &Arc<PointView>,
    source: Source,
    sink: &dyn ImageSink,
    from: Option<Cursor>,
    limits: RehydrateLimits,
) -> Result<RehydrateStats> {
    let mut stats = RehydrateStats::default();
    for volume in target.volumes() {
        let start = match from {
            Some(cursor) if volume.id < cursor.volume => continue,
            Some(cursor) if volume.id == cursor.volume => cursor.lba,
            _ => 0,
        };
        sink.resize(volume.id, volume.size_blocks).await?;
        let differences = Differences::open(target, &source, volume, start).await?;
        move_volume(target, volume, start, differences, sink, limits, &mut stats).await?;
        let end = Cursor { volume: volume.id, lba: volume.size_blocks };
        sink.progress(end).await?;
    }
    Ok(stats)
}

/// What one batch comes to.
struct Batch {
    blocks: Blocks,
    /// Everything before this block is done with it.
    position: u64,
}

/// One volume: content is fetched ahead of the sink by as many batches as may be under way, and goes on being fetched
/// while the sink writes.
async fn move_volume(
    target: &Arc<PointView>,
    volume: VolumeAtPoint,
    start: u64,
    differences: Differences,
    sink: &dyn ImageSink,
    limits: RehydrateLimits,
    stats: &mut RehydrateStats,
) -> Result<()> {
    let before = *stats;
    let compares = differences.compares();
    let (fetched, mut batches) = mpsc::channel(1);
    let fetch = std::pin::pin!(fetch_ahead(target, volume.id, differences, limits, fetched));
    let compared = |position: u64| before.blocks_compared.saturating_add(position.saturating_sub(start));
    let hand_over = std::pin::pin!(async {
        while let Some(batch) = batches.recv().await {
            let Batch { blocks, position } = batch?;
            stats.bytes_fetched = stats.bytes_fetched.saturating_add(blocks.fetched);
            for run in blocks.runs {
                stats.blocks_moved = stats.blocks_moved.saturating_add(run.extent().blocks);
                match run {
                    BlockRun::Zero(extent) => sink.zero(volume.id, extent).await?,
                    BlockRun::Data { lba, data } => sink.write(volume.id, lba, data).await?,
                }
            }
            if compares {
                stats.blocks_compared = compared(position);
            }
            sink.progress(Cursor { volume: volume.id, lba: position }).await?;
        }
        if compares {
            stats.blocks_compared = compared(volume.size_blocks);
        }
        Ok(())
    });
    // A write that the sink has begun is always waited for, also when nothing more can be fetched: one that came to its end
    // after this call would overwrite what the next call writes.
    match select(fetch, hand_over).await {
        Either::Left(((), hand_over)) => hand_over.await,
        Either::Right((done, _)) => done,
    }
}

/// Fetches batch after batch, in order; an error is the last that is sent.
async fn fetch_ahead(
    target: &Arc<PointView>,
    volume: VolumeId,
    mut differences: Differences,
    limits: RehydrateLimits,
    fetched: mpsc::Sender<Result<Batch>>,
) {
    let mut under_way = FuturesOrdered::new();
    let mut rest: Option<Extent> = None;
    let mut exhausted = false;
    loop {
        while !exhausted && under_way.len() < limits.batches.max(1) {
            let batch = match next_batch(&mut differences, &mut rest, limits.batch_blocks.max(1)).await {
                Ok(batch) => batch,
                Err(error) => {
                    let _ = fetched.send(Err(error)).await;
                    return;
                }
            };
            exhausted = batch.is_empty();
            if !exhausted {
                let position = differences.position().min(rest.map_or(u64::MAX, |rest| rest.lba));
                under_way.push_back(async move {
                    let blocks = target.fetch(volume, &batch).await?;
                    Ok(Batch { blocks, position })
                });
            }
        }
        let Some(batch) = under_way.next().await else { return };
        let failed = batch.is_err();
        // Whoever takes them has failed when nobody is there.
        if fetched.send(batch).await.is_err() || failed {
            return;
        }
    }
}

/// Extents of together at most `blocks` blocks; what is too much of the last one goes to `rest`. None: no more.
async fn next_batch(differences: &mut Differences, rest: &mut Option<Extent>, blocks: u64) -> Result<Vec<Extent>> {
    let mut batch = Vec::new();
    let mut room = blocks;
    while room > 0 {
        let next = match rest.take() {
            Some(extent) => Some(extent),
            None => differences.next().await?,
        };
        let Some(extent) = next else { break };
        let count = extent.blocks.min(room);
        batch.push(Extent { lba: extent.lba, blocks: count });
        room = room.saturating_sub(count);
        let left = extent.blocks.saturating_sub(count);
        if left > 0 {
            *rest = Some(Extent { lba: extent.lba.saturating_add(count), blocks: left });
        }
    }
    Ok(batch)
}

/// Walks the blocks of a volume that the local image holds otherwise than `target` shows; it is hashed leaf by leaf.
pub(crate) async fn differing(
    target: &Arc<PointView>,
    image: &Arc<dyn ImageReader>,
    volume: VolumeAtPoint,
    each: &mut (dyn FnMut(Extent) + Send),
) -> Result<()> {
    let source = Source::Compare(Arc::clone(image));
    let mut differences = Differences::open(target, &source, volume, 0).await?;
    while let Some(extent) = differences.next().await? {
        each(extent);
    }
    Ok(())
}

/// The extents of one volume that differ between two views of its group.
#[derive(Debug)]
pub struct VolumeDiff {
    reader: Arc<Reader>,
    diff: Diff,
}

impl VolumeDiff {
    /// The next extent whose content differs, in address order.
    ///
    /// # Errors
    /// `Retry` when the vault can't be reached, and the walk may be gone on with; `Tampered`.
    pub async fn next(&mut self) -> Result<Option<Extent>> {
        self.diff.next(&*self.reader).await
    }
}

/// Walks the blocks of a volume that differ between two views, within the size that `to` shows. Equal subtrees are
/// skipped unread.
///
/// # Errors
/// `NotFound` when `to` doesn't show the volume, `Invalid` for views of two groups, `Retry`, `Tampered`.
pub async fn diff(from: &Arc<PointView>, to: &Arc<PointView>, volume: VolumeId) -> Result<VolumeDiff> {
    let reader = Arc::clone(to.reader());
    if from.reader().group() != reader.group() {
        return Err(EngineError::new(
            ErrorKind::Invalid,
            format!("{} and {} are two groups: their volumes can't be compared", from.reader().group(), reader.group()),
        ));
    }
    let target = to.tree(volume).await?;
    let base = source::base_tree(from, &target).await?;
    Ok(VolumeDiff { reader, diff: base.diff(&target) })
}
