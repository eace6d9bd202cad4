//! Rebuilding sparse segments: what is needed of one is written again as an object of its own, and the segment is doomed.
//!
//! ```text
//! segment, a third needed ─> blocks, each held against its hash ─> create generation n+1 ─> read it back, every block ─┐
//!                    everything below that generation is named by the delete intent of this run  <────────────────────┘
//! ```
//! Why that is safe is in `gc.rs`. Frame and slot keep their numbers, so no map changes, no writer takes part, and a group that
//! nobody writes to is rebuilt as any other, whether kept points, pins or forks need the blocks.
//!
//! # Which
//! With blocks that die with equal chances, an object that is rebuilt when the share t of it is needed takes on average
//! ln(1/t) / (1-t) of what is needed of it, and each byte that was written is written again t / (1-t) times: 1.28 and 1.5 at
//! t = 0.60, 1.25 and 1.7 at 0.63, 1.22 and 2.0 at 0.67. So below half the price is less than one write for one, and it is
//! always done. Between that and three quarters the sparsest go first, and only for as long as the group's objects together
//! take more than 1.2 times what is needed of them: what is overwritten in turn dies by whole segments by itself, and a cold
//! disk with a little that is hot is left in peace ([`RebuildRule`]).
//!
//! An object that is younger than the grace is left alone: what takes its place would stand beside it for that long, and what
//! is hot will have died by then.
//!
//! # Bounds
//! One run writes at most so many bytes in so many objects and says that it isn't done; at most [`BATCH_BYTES`] of them are
//! in memory at a time, and a few frames of each. What it did not come to, or died over, the next one finds: objects
//! that were created and not named by an intent are read back then.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use bytes::Bytes;
use futures::future::join_all;
use lifeboat_format::gc::{Doomed, Reason};
use lifeboat_format::keys::VolumeKeys;
use lifeboat_format::rebuilt::{RebuiltBuilder, RebuiltObject, RebuiltParams, RebuiltVolume};
use lifeboat_format::segment::{FRAME_BLOCKS_MAX, FrameNo, SEGMENT_LEN_MAX, SegmentHash};
use lifeboat_model::{BLOCK_SIZE, BlockHash, SegmentId, VolumeId};
use lifeboat_vault::create_exact;

use super::live::Live;
use super::plan::Plan;
use super::sources::{Fill, Slots, count, passed_over};
use super::world::World;
use super::{GcReport, GcSettings, Planted, Run, planted};
use crate::branch;
use crate::cause;
use crate::error::{EngineError, ErrorKind, Result};
use crate::segments::names;

/// Which segments one collection rebuilds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RebuildRule {
    /// A segment of which less than this is needed is rebuilt in any case; percent.
    pub always: u8,
    /// And one of which less than this is, while the group takes more than `space`; percent.
    pub at_most: u8,
    /// What the objects that blocks are read from may take of what is needed of them; percent.
    pub space: u16,
    /// Fewer bytes than that are not worth an object: small segments are the writer's to carry.
    pub freed_min: u64,
    /// Most bytes that one run writes, but for its first segment.
    pub bytes_max: u64,
    /// Most segments that one run rebuilds.
    pub segments_max: usize,
}

impl Default for RebuildRule {
    fn default() -> Self {
        Self { always: 50, at_most: 75, space: 120, freed_min: 32 << 10, bytes_max: 4 << 30, segments_max: 4096 }
    }
}

/// Rebuilt at a time: so many bytes, or one segment, and so many segments.
const BATCH_BYTES: u64 = 32 << 20;
const BATCH: usize = 8;
/// Frames of a segment in memory at a time: 4 MiB of blocks.
const FRAMES: usize = 64;
/// zstd level: nobody waits for it.
const LEVEL: i32 = 3;

/// A segment to rebuild.
#[derive(Clone, Copy, Debug)]
pub(super) struct Candidate {
    id: SegmentId,
    /// Bytes that are needed, about.
    bytes: u64,
}

/// Segments to rebuild, the sparsest first.
#[derive(Debug, Default)]
pub(super) struct Choice {
    candidates: Vec<Candidate>,
    /// More than one run takes.
    more: bool,
}

impl Choice {
    /// Chooses.
    pub(super) fn new(run: &Run<'_>, settings: &GcSettings, fills: &HashMap<SegmentId, Fill>) -> Self {
        let mut taken: u64 = fills.values().map(|fill| fill.size).sum();
        let needed: u64 = fills.values().map(Fill::needed_bytes).sum();
        let settled = |fill: &&Fill| run.now.seconds_since(fill.time) >= settings.grace.as_secs_f64();
        let rule = settings.rebuild;
        let percent = |of: u8| (usize::from(of), 100);
        let mut sparse: Vec<(SegmentId, &Fill)> = fills
            .iter()
            .map(|(id, fill)| (*id, fill))
            .filter(|(_, fill)| {
                !fill.held && fill.is_under(percent(rule.at_most)) && freed(fill) >= rule.freed_min && settled(fill)
            })
            .collect();
        let share = |fill: &Fill| (fill.needed_bytes().saturating_mul(1 << 16)) / fill.size.max(1);
        sparse.sort_by_key(|(id, fill)| (share(fill), *id));
        let mut choice = Self::default();
        let mut bytes = 0_u64;
        for (id, fill) in sparse {
            let tight = taken.saturating_mul(100) > needed.saturating_mul(u64::from(rule.space));
            if !tight && !fill.is_under(percent(rule.always)) {
                break;
            }
            bytes = bytes.saturating_add(fill.needed_bytes());
            let first = choice.candidates.is_empty();
            if choice.candidates.len() >= rule.segments_max || (bytes > rule.bytes_max && !first) {
                choice.more = true;
                break;
            }
            taken = taken.saturating_sub(freed(fill));
            choice.candidates.push(Candidate { id, bytes: fill.needed_bytes() });
        }
        choice
    }

    pub(super) fn is_empty(&self) -> bool {
        self.candidates.is_empty()
    }

    /// What is to be written.
    pub(super) fn count_into(&self, report: &mut GcReport) {
        for candidate in &self.candidates {
            report.to_rebuild.add(candidate.bytes);
        }
        report.unfinished |= self.more;
    }
}

fn freed(fill: &Fill) -> u64 {
    fill.size.saturating_sub(fill.needed_bytes())
}

/// A block of a segment, by its place there.
#[derive(Clone, Copy, Debug)]
struct Wanted {
    frame: u32,
    slot: u8,
    hash: BlockHash,
}

/// What is needed of a segment, as its indexes have it.
#[derive(Debug)]
struct Origin {
    segment_hash: SegmentHash,
    /// Ascending by frame and slot.
    blocks: BTreeMap<VolumeId, Vec<Wanted>>,
}

/// The rebuilding of one run.
pub(super) struct Rebuilding<'a> {
    pub(super) run: &'a Run<'a>,
    pub(super) settings: &'a GcSettings,
    pub(super) world: &'a World,
    pub(super) live: &'a Live,
    pub(super) plan: &'a Plan,
}

impl Rebuilding<'_> {
    /// Rebuilds what was chosen, reads back what an earlier run created and didn't come to name, and gives what the rebuilt
    /// ones stand for. An error of the store ends it early; what was done until then counts.
    pub(super) async fn run(
        &self,
        choice: &Choice,
        waiting: &[(SegmentId, u64)],
        report: &mut GcReport,
    ) -> Result<Vec<Doomed>> {
        let mut doomed = Vec::new();
        for batch in waiting.chunks(BATCH) {
            self.run.check_fence().await?;
            let done = join_all(batch.iter().map(|(id, generation)| self.confirm(*id, *generation))).await;
            for ((id, generation), confirmed) in batch.iter().zip(done) {
                if confirmed.or_else(|error| passed_over(error).map(|()| false))? {
                    self.name(*id, *generation, &mut doomed);
                }
            }
        }
        let mut rest = &choice.candidates[..];
        while !rest.is_empty() {
            let (batch, later) = rest.split_at(batch_of(rest));
            rest = later;
            self.run.check_fence().await?;
            let done = join_all(batch.iter().map(|candidate| self.rebuild(candidate.id))).await;
            for (candidate, rebuilt) in batch.iter().zip(done) {
                match rebuilt {
                    Ok(Some((generation, bytes))) => {
                        report.rebuilt.add(bytes);
                        self.name(candidate.id, generation, &mut doomed);
                    }
                    Ok(None) => {}
                    Err(error) if error.kind().is_unanswered() && !doomed.is_empty() => {
                        tracing::info!(%error, "rebuilding goes on another time");
                        report.unfinished = true;
                        return Ok(doomed);
                    }
                    Err(error) => passed_over(error)?,
                }
            }
        }
        Ok(doomed)
    }

    /// Everything that the generation stands for.
    fn name(&self, id: SegmentId, generation: u64, doomed: &mut Vec<Doomed>) {
        let prefix = format!("{}/", names::group(self.run.reader.group()));
        let whole = self.world.segment(id).filter(|_| !self.plan.held.contains(&id));
        let rebuilt = self.world.branches.get(&id.branch).and_then(|branch| branch.rebuilt.get(&id));
        let older = rebuilt.into_iter().flat_map(|all| all.range(..generation)).map(|(_, key)| key.as_str());
        for key in whole.into_iter().chain(older) {
            if let Some(name) = key.strip_prefix(&prefix) {
                doomed.push(Doomed { name: name.to_owned(), size: self.world.size(key), reason: Reason::Packed });
            }
        }
    }

    fn needed(&self, id: SegmentId) -> Option<&Slots> {
        self.live.slots.get(&id)
    }

    /// Rebuilds one; gives its generation and its bytes. None when another collector made that generation: its object is
    /// looked at by the next run.
    async fn rebuild(&self, id: SegmentId) -> Result<Option<(u64, u64)>> {
        let (reader, now) = (self.run.reader, self.run.now);
        let Some(needed) = self.needed(id) else { return Ok(None) };
        let origin = self.origin(id, needed).await?;
        let generation = self.world.next_generation(id);
        let params = RebuiltParams {
            place: reader.rebuilt_place(id, generation),
            segment_hash: origin.segment_hash,
            salt: branch::random(reader.vault())?,
            level: LEVEL,
        };
        let mut builder = RebuiltBuilder::new(params, reader.key());
        for (volume, wanted) in &origin.blocks {
            builder = self.push(builder, id, *volume, wanted).await?;
        }
        let key = names::rebuilt(reader.group(), id, generation);
        let sealed =
            crate::blocking::run_behind(move || builder.seal(now)).await.map_err(|error| given_up(id, &error))?;
        let bytes = Bytes::from(sealed.map_err(|error| cause::object(&key, error))?.bytes);
        let len = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        self.settings.pace.take(len, || reader.vault().now()).await;
        match create_exact(&**reader.vault().store(), &key, bytes).await {
            Err(error) if error.is_already_exists() => return Ok(None),
            done => done.map_err(cause::store)?,
        };
        Ok(self.read_back(id, generation, &origin).await?.then_some((generation, len)))
    }

    /// The blocks that are needed, with the hashes that the segment's own index gives them, or that of its rebuilt ones.
    async fn origin(&self, id: SegmentId, needed: &Slots) -> Result<Origin> {
        let reader = self.run.reader;
        let is_needed = |frame: u32, slot: u8| {
            let mask = needed.get(&frame).copied().unwrap_or(0);
            mask & 1_u16.checked_shl(u32::from(slot)).unwrap_or(0) != 0
        };
        let mut found: BTreeMap<(u32, u8), (VolumeId, BlockHash)> = BTreeMap::new();
        let segment_hash = if let Some(key) = self.world.segment(id) {
            let segment = reader.segment(id, Some(self.world.size(key))).await?;
            for entry in &segment.index.frames {
                let frame = entry.frame.0;
                let volume = segment.index.volume_of(entry).map_err(|error| cause::object(key, error))?.volume;
                let wanted = entry.blocks().filter(|(_, slot, _)| is_needed(frame, *slot));
                found.extend(wanted.map(|(_, slot, hash)| ((frame, slot), (volume, hash))));
            }
            segment.hash
        } else {
            let sources = reader.rebuilt(id).await?;
            for source in sources.iter() {
                for number in 0..u32::try_from(source.index.frames.len()).unwrap_or(u32::MAX) {
                    let (entry, volume) =
                        source.index.frame(number).map_err(|error| cause::object(&source.key(reader), error))?;
                    let wanted = entry.blocks.iter().filter(|block| is_needed(block.frame.0, block.slot));
                    found.extend(wanted.map(|block| ((block.frame.0, block.slot), (volume.volume, block.hash))));
                }
            }
            sources.last().map_or(SegmentHash::ZERO, |source| source.header.segment_hash)
        };
        if found.len() != count(needed) {
            return Err(cause::tampered(format!("segment {id} lacks blocks that maps say are in it")));
        }
        let mut blocks: BTreeMap<VolumeId, Vec<Wanted>> = BTreeMap::new();
        for ((frame, slot), (volume, hash)) in found {
            blocks.entry(volume).or_default().push(Wanted { frame, slot, hash });
        }
        Ok(Origin { segment_hash, blocks })
    }

    /// Reads the blocks, holds each against its hash, and packs them into frames of the object.
    async fn push(
        &self,
        mut builder: RebuiltBuilder,
        id: SegmentId,
        volume: VolumeId,
        wanted: &[Wanted],
    ) -> Result<RebuiltBuilder> {
        let reader = self.run.reader;
        let gone = || EngineError::new(ErrorKind::NotFound, format!("{volume} was erased"));
        let keys = reader.newest_keys(volume).await?.ok_or_else(gone)?;
        let hasher = reader.hasher(volume).await?;
        let mut packed: Vec<(Wanted, Bytes)> = Vec::new();
        let mut rest = wanted;
        while !rest.is_empty() {
            let mut frames = BTreeSet::new();
            let fits = |block: &&Wanted| {
                frames.insert((id, block.frame));
                frames.len() <= FRAMES
            };
            let (now, later) = rest.split_at(rest.iter().take_while(fits).count());
            rest = later;
            let read = reader.frames(&now.iter().map(|block| (id, block.frame)).collect()).await?;
            for block in now {
                let data = read.block(id, block.frame, block.slot)?;
                if <&[u8; BLOCK_SIZE]>::try_from(data.as_ref()).is_ok_and(|data| hasher.block(data) == block.hash) {
                    packed.push((*block, data));
                } else {
                    return Err(cause::tampered(format!(
                        "frame {} of segment {id} isn't what its index says",
                        block.frame
                    )));
                }
            }
            let whole = if rest.is_empty() { packed.len() } else { packed.len() / FRAME_BLOCKS_MAX * FRAME_BLOCKS_MAX };
            let ready: Vec<(Wanted, Bytes)> = packed.drain(..whole).collect();
            let (number, key) = (keys.key_id, keys.keys.data.clone());
            let task = move || {
                for frame in ready.chunks(FRAME_BLOCKS_MAX) {
                    let blocks: Vec<_> = frame
                        .iter()
                        .filter_map(|(block, data)| {
                            let data = <&[u8; BLOCK_SIZE]>::try_from(data.as_ref()).ok()?;
                            Some((FrameNo(block.frame), block.slot, block.hash, data))
                        })
                        .collect();
                    builder.push_frame(volume, (number, &key), &blocks)?;
                }
                Ok::<_, lifeboat_format::FormatError>(builder)
            };
            let pushed = crate::blocking::run_behind(task).await.map_err(|error| given_up(id, &error))?;
            builder = pushed.map_err(|error| cause::object(&id.to_string(), error))?;
        }
        Ok(builder)
    }

    /// Whether an object that is there already, made by a run that didn't come to say so, or by another collector, stands for
    /// what is needed.
    async fn confirm(&self, id: SegmentId, generation: u64) -> Result<bool> {
        let Some(needed) = self.needed(id) else { return Ok(false) };
        let origin = self.origin(id, needed).await?;
        self.read_back(id, generation, &origin).await
    }

    /// Reads the object as the store has it, and holds every block that is needed against the hash it had.
    async fn read_back(&self, id: SegmentId, generation: u64, origin: &Origin) -> Result<bool> {
        let reader = self.run.reader;
        let key = names::rebuilt(reader.group(), id, generation);
        if planted(Planted::ReadsNothingBack) {
            return Ok(true);
        }
        let bytes = reader.get(&key, SEGMENT_LEN_MAX).await?;
        let (place, group_key) = (reader.rebuilt_place(id, generation), reader.key().clone());
        let volumes = {
            let object = RebuiltObject::open(&bytes, &place, &group_key).map_err(|error| cause::object(&key, error))?;
            object.index.volumes.clone()
        };
        let mut keys: HashMap<(VolumeId, u32), VolumeKeys> = HashMap::new();
        for RebuiltVolume { volume, key } in volumes {
            let Some(newest) = reader.newest_keys(volume).await? else { return Ok(false) };
            let data = reader.data_key((volume, key)).await?;
            keys.insert((volume, key), VolumeKeys { data, hash: newest.keys.hash.clone() });
        }
        let task = move || {
            let object = RebuiltObject::open(&bytes, &place, &group_key)?;
            object.verify(|volume| keys.get(&(volume.volume, volume.key)))?;
            let there = object.index.blocks().map(|block| ((block.frame.0, block.slot), block.hash));
            Ok::<HashMap<_, _>, lifeboat_format::FormatError>(there.collect())
        };
        let there = crate::blocking::run_behind(task).await.map_err(|error| given_up(id, &error))?;
        let there = there.map_err(|error| cause::object(&key, error))?;
        let mut wanted = origin.blocks.values().flatten();
        Ok(wanted.all(|block| there.get(&(block.frame, block.slot)) == Some(&block.hash)))
    }
}

/// How many of these are rebuilt at a time: one, or as many as stay within the bounds.
fn batch_of(candidates: &[Candidate]) -> usize {
    let mut bytes = 0_u64;
    let fits = |candidate: &&Candidate| {
        bytes = bytes.saturating_add(candidate.bytes);
        bytes <= BATCH_BYTES
    };
    candidates.iter().take(BATCH).take_while(fits).count().max(1)
}

fn given_up(id: SegmentId, error: &tokio::task::JoinError) -> EngineError {
    EngineError::new(ErrorKind::Closed, format!("rebuilding segment {id} was given up: {error}"))
}
