//! Making a segment out of records: merge, hash, pack, compress, encrypt; the roots of the point at its end.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use futures::stream::{self, StreamExt, TryStreamExt};
use lifeboat_format::hash::BlockHasher;
use lifeboat_format::keys::DataKey;
use lifeboat_format::segment::{
    FRAME_BLOCKS_MAX, FrameBlock, FrameContext, FrameNo, PointVolume, PreparedFrame, RecoveryPoint, SegmentBuilder,
    SegmentParams, SegmentPlace, prepare_frame,
};
use lifeboat_format::{FormatError, GROUP_VOLUMES_MAX};
use lifeboat_model::{BLOCK_SIZE, BLOCK_SIZE_U64, BlockHash, Extent, Lsn, SegmentId, VOLUME_BLOCKS_MAX, VolumeId};
use lifeboat_vault::VolumeKeys;

use super::carry::Load;
use super::{BranchWriter, Compression, Interval, Pending, Working, not_ready, sample};
use crate::branch;
use crate::cause;
use crate::error::{EngineError, ErrorKind, Result};
use crate::insight::Measure;
use crate::planted::{self, Bug};
use crate::points::PointInfo;
use crate::record::{LogRecord, Op, PointMark};
use crate::tree::{Change, Changes, Location, Slot, To, Tree};

/// Blocks of one segment: 32 MiB.
const SEGMENT_BLOCKS: usize = 8192;
/// Least blocks of a full segment where the pace asks for small ones: 1 MiB.
const PACED_BLOCKS_MIN: usize = 256;
/// Seconds of the line that one segment may take at a limited pace. An object goes out as fast as the line allows:
/// smaller ones keep what shares the line from standing still.
const PACED_SECONDS: u64 = 4;
/// Runs of zeroes of one segment.
const SEGMENT_RUNS: usize = 1 << 18;
/// Blocks that one worker hashes, or packs, at a time: 1 MiB.
const WORK_BLOCKS: usize = 256;
/// More raw bytes than this in one segment mean a backlog.
const BACKLOG_BLOCKS: usize = SEGMENT_BLOCKS / 2;

/// What one segment will hold of one volume.
#[derive(Debug)]
struct VolumePart {
    /// Its size before; none for a volume that the segment introduces.
    before: Option<u64>,
    changes: Changes<Bytes>,
}

/// What one segment will hold.
#[derive(Debug)]
struct Part {
    volumes: BTreeMap<VolumeId, VolumePart>,
    first_lsn: Lsn,
    last_lsn: Lsn,
    point: Option<(Lsn, PointMark)>,
}

impl Part {
    fn blocks(&self) -> usize {
        self.volumes.values().map(|part| part.changes.contents()).sum()
    }
}

/// A block with content, hashed.
#[derive(Clone, Debug)]
pub(super) struct Hashed {
    pub(super) lba: u64,
    pub(super) data: Bytes,
    pub(super) hash: BlockHash,
}

impl BranchWriter {
    /// Builds the next segment of `interval`. Changes nothing of the writer.
    pub(super) async fn build(&self, interval: &Interval, load: Load) -> Result<Pending> {
        let Working::Ready(trees) = &self.working else { return Err(not_ready()) };
        let mut trees = trees.clone();
        let keys = self.writing_keys(interval, &load).await?;
        // What was erased is shipped no more, and what was known of it is dropped.
        let erased = self.reader.erased();
        trees.retain(|volume, _| !erased.contains(volume));
        let mut part = collect(interval, self.shipped.lsn, &trees, &erased, self.segment_blocks())?;
        let carried = part.carry(load, &trees);
        let id = self.next_id();
        let nonce = branch::random(self.reader.vault())?;
        let place = SegmentPlace { vault: self.reader.vault().id(), group: self.group(), id };
        let params = SegmentParams {
            place,
            first_lsn: part.first_lsn,
            previous: self.hash,
            salt: match planted::is(Bug::ReusesSalt) {
                true => [7; 16],
                false => branch::random(self.reader.vault())?,
            },
            writer_nonce: nonce,
            level: level(self.settings.compression, part.blocks()),
        };
        let mut builder = SegmentBuilder::new(params, self.reader.key());
        let mut measures = Vec::with_capacity(part.volumes.len());
        for (volume, volume_part) in &part.volumes {
            let Some(keys) = keys.get(volume) else { return Err(not_ready()) };
            let measure = self.pack(&mut builder, &mut trees, (*volume, keys), volume_part, id).await?;
            measures.push((*volume, measure));
        }
        let refused = |error| cause::object(&id.to_string(), error);
        let mut point = None;
        if let Some((lsn, mark)) = &part.point {
            let recorded = recovery_point(*lsn, mark, &trees);
            point = Some(PointInfo::recorded(self.group(), id, &recorded));
            builder.push_point(recorded).map_err(refused)?;
        }
        let sealed = builder.seal(part.last_lsn, self.reader.vault().now()).map_err(refused)?;
        Ok(Pending {
            id,
            bytes: Bytes::from(sealed.bytes),
            nonce,
            hash: sealed.hash,
            last_lsn: part.last_lsn,
            raw_bytes: measures.iter().map(|(_, one)| one.written.saturating_mul(BLOCK_SIZE_U64)).sum(),
            carried_bytes: u64::try_from(carried.saturating_mul(BLOCK_SIZE)).unwrap_or(u64::MAX),
            landed: false,
            trees,
            point,
            measures,
        })
    }

    /// The keys of the volumes that an interval changes. Asked anew for each segment: from here on their frames stand under
    /// the newest data key there is. The reader notes which are erased.
    async fn writing_keys(&self, interval: &Interval, load: &Load) -> Result<BTreeMap<VolumeId, VolumeKeys>> {
        // Behind a gap a volume may be in the segment for its size alone.
        let sized = interval.sizes.iter().map(|(volume, _)| *volume);
        let carried = load.iter().map(|(volume, _, _)| *volume);
        let changed: BTreeSet<VolumeId> =
            interval.records.iter().filter_map(|record| volume_of(&record.op)).chain(sized).chain(carried).collect();
        let mut keys = BTreeMap::new();
        for volume in changed {
            if let Some(found) = self.reader.newest_keys(volume).await? {
                keys.insert(volume, found);
            }
        }
        Ok(keys)
    }

    /// Blocks of a full segment at the present pace.
    pub(super) fn segment_blocks(&self) -> usize {
        let Some(rate) = self.settings.pace.rate(self.reader.vault().now()) else { return SEGMENT_BLOCKS };
        let blocks = rate.saturating_mul(PACED_SECONDS) / BLOCK_SIZE_U64;
        usize::try_from(blocks).unwrap_or(SEGMENT_BLOCKS).clamp(PACED_BLOCKS_MIN, SEGMENT_BLOCKS)
    }

    /// Puts one volume's part into the segment and its tree; gives what it looks like.
    async fn pack(
        &self,
        builder: &mut SegmentBuilder,
        trees: &mut BTreeMap<VolumeId, Tree>,
        (volume, keys): (VolumeId, &VolumeKeys),
        part: &VolumePart,
        id: SegmentId,
    ) -> Result<Measure> {
        let hasher = self.reader.hasher(volume).await?;
        let refused = |error| cause::object(&id.to_string(), error);
        let size = part.changes.blocks();
        let named = if planted::is(Bug::NamesFirstKey) { 1 } else { keys.key_id };
        builder.add_volume(volume, part.before.unwrap_or(size), named).map_err(refused)?;
        if part.before != Some(size) {
            builder.push_resize(volume, size).map_err(refused)?;
        }

        let mut changes: Vec<Change> = Vec::new();
        let mut contents: Vec<(u64, Bytes)> = Vec::with_capacity(part.changes.contents());
        for (extent, content) in part.changes.iter() {
            match content {
                Some(data) => contents.push((extent.lba, data.clone())),
                None => changes.push(Change::zero(extent)),
            }
        }
        let hashed = hash_blocks(&hasher, contents).await?;
        let (content, zeroes): (Vec<Hashed>, Vec<Hashed>) = hashed.into_iter().partition(|block| !block.hash.is_zero());
        changes.extend(zeroes.iter().map(|block| Change::zero(Extent { lba: block.lba, blocks: 1 })));
        changes.sort_unstable_by_key(|change| change.extent.lba);
        let freed = joined(&changes);
        for &extent in &freed {
            if planted::is(Bug::ForgetsZeroes) {
                continue;
            }
            builder.push_zero(volume, extent).map_err(refused)?;
        }

        let mut work: Vec<(Vec<Hashed>, Vec<FrameNo>)> = Vec::new();
        for blocks in content.chunks(WORK_BLOCKS) {
            let mut frames = Vec::new();
            for packed in blocks.chunks(FRAME_BLOCKS_MAX) {
                let frame = builder.reserve_frame();
                frames.push(frame);
                changes.extend(packed.iter().zip(0_u8..).map(|(block, slot)| {
                    let at = Location { segment: id, frame: frame.0, slot };
                    Change::block(block.lba, Slot { hash: block.hash, at })
                }));
            }
            work.push((blocks.to_vec(), frames));
        }
        let context = builder.context();
        let mut prepared = stream::iter(work)
            .map(|(blocks, frames)| prepare(context, volume, keys.keys.data.clone(), blocks, frames))
            .buffered(workers());
        while let Some(frames) = prepared.try_next().await? {
            for frame in frames {
                builder.push_prepared(frame).map_err(refused)?;
            }
        }

        changes.sort_unstable_by_key(|change| change.extent.lba);
        let tree = trees
            .entry(volume)
            .or_insert_with(|| Tree::empty(volume, Arc::clone(&hasher), part.before.unwrap_or(size)));
        if tree.blocks() != size {
            tree.resize(&*self.reader, size).await?;
        }
        let measure = sample::measure(&self.reader, &self.checks, tree, &content, &freed).await;
        tree.update(&*self.reader, &changes).await?;
        Ok(measure)
    }
}

fn volume_of(op: &Op) -> Option<VolumeId> {
    match op {
        Op::Write { volume, .. }
        | Op::Zero { volume, .. }
        | Op::Trim { volume, .. }
        | Op::Copy { volume, .. }
        | Op::Resize { volume, .. } => Some(*volume),
        Op::Point(_) => None,
    }
}

/// The records that the next segment takes: up to its size, or to the first point.
fn collect(
    interval: &Interval,
    shipped: Lsn,
    trees: &BTreeMap<VolumeId, Tree>,
    erased: &BTreeSet<VolumeId>,
    limit: usize,
) -> Result<Part> {
    let mut part =
        Part { volumes: BTreeMap::new(), first_lsn: shipped.next(), last_lsn: interval.last_lsn, point: None };
    for (volume, blocks) in interval.sizes.iter().filter(|(volume, _)| !erased.contains(volume)) {
        let changes = &mut part.introduce(*volume, *blocks, trees)?.changes;
        if changes.blocks() < *blocks {
            changes.resize(*blocks);
        }
    }
    let start = interval.records.partition_point(|record| record.lsn <= shipped);
    let records = interval.records.get(start..).unwrap_or_default();
    let mut previous = shipped;
    let mut blocks = 0_usize;
    for (index, record) in records.iter().enumerate() {
        if record.lsn <= previous || record.lsn > interval.last_lsn {
            return Err(invalid(format!("record {} is out of order after {previous}", record.lsn)));
        }
        previous = record.lsn;
        let added = match volume_of(&record.op) {
            Some(volume) if erased.contains(&volume) => 0,
            _ => part.take(record, trees)?,
        };
        blocks = blocks.saturating_add(added);
        let more = index.saturating_add(1) < records.len();
        // `blocks` counts overwritten ones again: only when it is reached is the true number worth counting.
        let full = blocks >= limit && part.is_full(limit);
        if part.point.is_some() || (full && more) {
            part.last_lsn = if more { record.lsn } else { interval.last_lsn };
            return Ok(part);
        }
    }
    Ok(part)
}

impl Part {
    fn is_full(&self, limit: usize) -> bool {
        let runs: usize = self.volumes.values().map(|part| part.changes.len()).sum();
        self.blocks() >= limit || runs >= SEGMENT_RUNS
    }

    /// Takes blocks in that are written again, where the interval says nothing of them; gives their number. None when the
    /// interval fills much of a segment: there may be more behind it.
    fn carry(&mut self, load: Load, trees: &BTreeMap<VolumeId, Tree>) -> usize {
        let mut taken = 0_usize;
        if self.blocks() > BACKLOG_BLOCKS {
            return taken;
        }
        for (volume, lba, data) in load {
            let Some(tree) = trees.get(&volume) else { continue };
            let before = tree.blocks();
            let part = self
                .volumes
                .entry(volume)
                .or_insert_with(|| VolumePart { before: Some(before), changes: Changes::new(before) });
            let touched = part.changes.within(Extent { lba, blocks: 1 }).next().is_some();
            if !touched && lba < before.min(part.changes.blocks()) {
                part.changes.set(lba, data);
                taken = taken.saturating_add(1);
            }
        }
        taken
    }

    /// Takes one record in; gives the number of blocks or runs that it added.
    fn take(&mut self, record: &LogRecord, trees: &BTreeMap<VolumeId, Tree>) -> Result<usize> {
        match &record.op {
            Op::Write { volume, lba, data } | Op::Copy { volume, extent: Extent { lba, .. }, data: Some(data) } => {
                let changes = &mut self.volume(*volume, trees)?.changes;
                let count = data.len() / BLOCK_SIZE;
                check_extent(changes, *volume, *lba, count)?;
                if data.len() % BLOCK_SIZE != 0 {
                    return Err(invalid(format!("record {} is no whole number of blocks", record.lsn)));
                }
                for (lba, index) in (*lba..).zip(0..count) {
                    let start = index.saturating_mul(BLOCK_SIZE);
                    changes.set(lba, data.slice(start..start.saturating_add(BLOCK_SIZE)));
                }
                Ok(count)
            }
            Op::Zero { volume, extent } | Op::Trim { volume, extent } | Op::Copy { volume, extent, data: None } => {
                let changes = &mut self.volume(*volume, trees)?.changes;
                check_extent(changes, *volume, extent.end(), 0)?;
                changes.zero(*extent);
                Ok(1)
            }
            Op::Resize { volume, blocks } => {
                if *blocks == 0 || *blocks > VOLUME_BLOCKS_MAX {
                    return Err(invalid(format!("{volume} can't have {blocks} blocks")));
                }
                self.introduce(*volume, *blocks, trees)?.changes.resize(*blocks);
                Ok(1)
            }
            Op::Point(mark) => {
                self.point = Some((record.lsn, mark.clone()));
                Ok(0)
            }
        }
    }

    fn volume(&mut self, volume: VolumeId, trees: &BTreeMap<VolumeId, Tree>) -> Result<&mut VolumePart> {
        if !self.volumes.contains_key(&volume) && !trees.contains_key(&volume) {
            return Err(invalid(format!("{volume} was written before a record introduced it")));
        }
        self.introduce(volume, 0, trees)
    }

    fn introduce(
        &mut self,
        volume: VolumeId,
        blocks: u64,
        trees: &BTreeMap<VolumeId, Tree>,
    ) -> Result<&mut VolumePart> {
        let known = self.volumes.keys().filter(|volume| !trees.contains_key(volume)).count();
        let before = trees.get(&volume).map(Tree::blocks);
        if before.is_none()
            && !self.volumes.contains_key(&volume)
            && known.saturating_add(trees.len()) >= GROUP_VOLUMES_MAX
        {
            return Err(invalid(format!("a group has at most {GROUP_VOLUMES_MAX} volumes: {volume} is one too many")));
        }
        Ok(self
            .volumes
            .entry(volume)
            .or_insert_with(|| VolumePart { before, changes: Changes::new(before.unwrap_or(blocks)) }))
    }
}

fn check_extent(changes: &Changes<Bytes>, volume: VolumeId, lba: u64, count: usize) -> Result<()> {
    let end = u64::try_from(count).ok().and_then(|count| lba.checked_add(count));
    if end.is_some_and(|end| end <= changes.blocks()) {
        Ok(())
    } else {
        Err(invalid(format!("a record reaches past the {} blocks of {volume}", changes.blocks())))
    }
}

fn invalid(what: String) -> EngineError {
    EngineError::new(ErrorKind::Invalid, format!("the interval can't be shipped: {what}; this is a defect, report it"))
}

fn level(compression: Compression, blocks: usize) -> i32 {
    match compression {
        Compression::Auto if blocks >= BACKLOG_BLOCKS => -3,
        Compression::Auto => 1,
        Compression::Off => -7,
        Compression::Level(level) => level.clamp(-7, 22),
    }
}

/// Worker threads that one writer keeps busy.
fn workers() -> usize {
    std::thread::available_parallelism().map_or(2, usize::from).clamp(1, 16)
}

async fn hash_blocks(hasher: &Arc<BlockHasher>, blocks: Vec<(u64, Bytes)>) -> Result<Vec<Hashed>> {
    let work: Vec<Vec<(u64, Bytes)>> = blocks.chunks(WORK_BLOCKS).map(<[(u64, Bytes)]>::to_vec).collect();
    let hashed: Vec<Vec<Hashed>> = stream::iter(work)
        .map(|blocks| {
            let hasher = Arc::clone(hasher);
            on_worker(move || {
                Ok(blocks
                    .into_iter()
                    .map(|(lba, data)| {
                        let hash = <&[u8; BLOCK_SIZE]>::try_from(data.as_ref())
                            .map_or(BlockHash::ZERO, |block| hasher.block(block));
                        Hashed { lba, data, hash }
                    })
                    .collect())
            })
        })
        .buffered(workers())
        .try_collect()
        .await?;
    Ok(hashed.into_iter().flatten().collect())
}

async fn prepare(
    context: FrameContext,
    volume: VolumeId,
    data: DataKey,
    blocks: Vec<Hashed>,
    frames: Vec<FrameNo>,
) -> Result<Vec<PreparedFrame>> {
    on_worker(move || {
        let key = context.frame_key(&data);
        blocks
            .chunks(FRAME_BLOCKS_MAX)
            .zip(frames)
            .map(|(blocks, frame)| {
                let blocks: Vec<FrameBlock<'_>> = blocks
                    .iter()
                    .filter_map(|block| {
                        let data = block.data.as_ref().try_into().ok()?;
                        Some(FrameBlock { lba: block.lba, data, hash: block.hash })
                    })
                    .collect();
                prepare_frame(&context, frame, volume, &key, &blocks)
            })
            .collect()
    })
    .await
}

async fn on_worker<T: Send + 'static>(work: impl FnOnce() -> Result<T, FormatError> + Send + 'static) -> Result<T> {
    crate::blocking::run_behind(work)
        .await
        .map_err(|error| EngineError::new(ErrorKind::Closed, format!("building a segment was given up: {error}")))?
        .map_err(|error| cause::object("segment", error))
}

/// Zero runs, those that touch made one.
fn joined(changes: &[Change]) -> Vec<Extent> {
    let mut extents: Vec<Extent> = Vec::new();
    for change in changes.iter().filter(|change| change.to == To::Zero) {
        match extents.last_mut() {
            Some(last) if last.end() == change.extent.lba => {
                last.blocks = last.blocks.saturating_add(change.extent.blocks);
            }
            _ => extents.push(change.extent),
        }
    }
    extents
}

fn recovery_point(lsn: Lsn, mark: &PointMark, trees: &BTreeMap<VolumeId, Tree>) -> RecoveryPoint {
    RecoveryPoint {
        id: mark.id,
        lsn,
        time: mark.time,
        kind: mark.kind,
        consistent: mark.consistent,
        label: mark.label.clone(),
        volumes: trees
            .values()
            .map(|tree| PointVolume { volume: tree.volume(), size_blocks: tree.blocks(), root: Some(tree.root_hash()) })
            .collect(),
    }
}
