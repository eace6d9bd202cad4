//! Looking at a recovery point, or at any other position: its volumes, read only, read lazily.
//!
//! Opening reads the newest map's footer and the indexes of the segments after it; no node of a tree, no frame. A read
//! looks its blocks up (first in what came after the map, then in the tree), fetches the frames that hold them, side by
//! side, and holds every block against its hash. Frames, indexes and nodes stay in the [`Reader`]'s bounded caches.
//! Nothing is ever written; there is nothing that a crash could leave behind.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Read as _;
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use lifeboat_format::hash::{BlockHasher, RootHasher};
use lifeboat_format::segment::RecoveryPoint;
use lifeboat_model::{BLOCK_SIZE, BLOCK_SIZE_U64, Extent, GroupId, RootHash, SegmentId, VOLUME_BLOCKS_MAX, VolumeId};
use lifeboat_vault::Vault;
use tokio::sync::OnceCell;

use crate::branch::{Ahead, Position, State, Target, VolumeState};
use crate::cause;
use crate::disk::DiskFile;
use crate::error::{EngineError, ErrorKind, Result};
use crate::points::PointInfo;
use crate::segments::{Frames, Reader, ReaderLimits};
use crate::tree::{Run, Slot, Tree};
use crate::volume::BlockVolume;

/// Blocks read at a time: 4 MiB. Bounds the memory of one large read.
const READ_BLOCKS: u64 = 1024;
/// Blocks that are taken out of their frames where they are wanted: hashing more is work for another thread.
const GATHER_HERE: usize = 64;
/// Frames decrypted at a time for one read: 8 MiB. Scattered blocks may each be in a frame of their own.
const FRAMES_MAX: usize = 128;

/// A volume as it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VolumeAtPoint {
    /// The volume.
    pub id: VolumeId,
    /// Its size in blocks.
    pub size_blocks: u64,
    /// The hash of its content; always known at recovery points.
    pub root: Option<RootHash>,
}

/// A stretch of a volume's content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BlockRun {
    /// Zeroes.
    Zero(Extent),
    /// Content.
    Data {
        /// First block.
        lba: u64,
        /// A whole number of blocks.
        data: Bytes,
    },
}

impl BlockRun {
    /// The blocks that it covers.
    #[must_use]
    pub fn extent(&self) -> Extent {
        match self {
            Self::Zero(extent) => *extent,
            Self::Data { lba, data } => {
                Extent { lba: *lba, blocks: u64::try_from(data.len() / BLOCK_SIZE).unwrap_or(u64::MAX) }
            }
        }
    }
}

/// A group at one position of its history.
#[derive(Debug)]
pub struct PointView {
    reader: Arc<Reader>,
    position: Position,
    point: Option<PointInfo>,
    recorded: Option<RecoveryPoint>,
    volumes: BTreeMap<VolumeId, ViewedVolume>,
    erased: BTreeSet<VolumeId>,
}

#[derive(Debug)]
struct ViewedVolume {
    state: VolumeState,
    tree: OnceCell<Tree>,
}

/// Stretches of a volume in which a disk is looked at to know whether it is the volume's, and their blocks: two megabytes.
const SAMPLE_WINDOWS: u64 = 64;
const SAMPLE_WINDOW_BLOCKS: u64 = 512;
/// Of the blocks with content in a stretch, every how manieth is looked at.
const SAMPLE_STEP: usize = 8;

/// What reads found and cost.
#[derive(Debug, Default)]
pub(crate) struct Blocks {
    pub(crate) runs: Vec<BlockRun>,
    /// Bytes read from the vault.
    pub(crate) fetched: u64,
}

impl PointView {
    /// The group at a recovery point.
    ///
    /// # Errors
    /// `NotFound` when the point is in no history (any more), `Retry` when the vault can't be reached, `Tampered` when
    /// the history fails its checks.
    pub async fn open(vault: Arc<Vault>, group: GroupId, point: &PointInfo) -> Result<Arc<Self>> {
        let reader = Reader::open(&vault, group, ReaderLimits::default()).await?;
        Self::open_point(&reader, point).await
    }

    /// [`Self::open`] through a reader, whose caches it then shares.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub async fn open_point(reader: &Arc<Reader>, point: &PointInfo) -> Result<Arc<Self>> {
        let target = Target { position: point.position(), point: Some(point.id) };
        Self::load(reader, target, Some(point.clone())).await
    }

    /// The group at any position of its history.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub async fn open_at(reader: &Arc<Reader>, position: Position) -> Result<Arc<Self>> {
        Self::load(reader, Target { position, point: None }, None).await
    }

    async fn load(reader: &Arc<Reader>, target: Target, point: Option<PointInfo>) -> Result<Arc<Self>> {
        let state = State::load(reader, target, Ahead::FirstBlocks).await?;
        Ok(Self::of(reader, target.position, state, point))
    }

    /// The group in a state that was read already.
    pub(crate) fn of(reader: &Arc<Reader>, position: Position, state: State, point: Option<PointInfo>) -> Arc<Self> {
        let wanted = point.as_ref().map(|point| point.id);
        let recorded = state.at_point.filter(|recorded| wanted.is_none_or(|id| id == recorded.id));
        let volumes =
            state.volumes.into_iter().map(|(id, state)| (id, ViewedVolume { state, tree: OnceCell::new() })).collect();
        let erased = state.erased;
        Arc::new(Self { reader: Arc::clone(reader), position, point, recorded, volumes, erased })
    }

    /// Where it looks.
    #[must_use]
    pub const fn position(&self) -> Position {
        self.position
    }

    /// The recovery point, if it was opened at one.
    #[must_use]
    pub const fn point(&self) -> Option<&PointInfo> {
        self.point.as_ref()
    }

    /// What reads it.
    #[must_use]
    pub const fn reader(&self) -> &Arc<Reader> {
        &self.reader
    }

    /// Volumes that the group had here and whose keys were destroyed since. They are in no other list of this view: what
    /// they held can't be read by anybody.
    #[must_use]
    pub const fn erased(&self) -> &BTreeSet<VolumeId> {
        &self.erased
    }

    /// The volumes, by id.
    #[must_use]
    pub fn volumes(&self) -> Vec<VolumeAtPoint> {
        self.volumes
            .iter()
            .map(|(id, volume)| VolumeAtPoint {
                id: *id,
                size_blocks: volume.state.changes.blocks(),
                root: self.recorded_root(*id),
            })
            .collect()
    }

    /// A volume, to be read like any other.
    #[must_use]
    pub fn volume(self: &Arc<Self>, id: VolumeId) -> Option<Arc<dyn BlockVolume>> {
        let size_blocks = self.volumes.get(&id)?.state.changes.blocks();
        Some(Arc::new(VolumeView { view: Arc::clone(self), id, size_blocks }))
    }

    /// The root that the recovery point records, or that of the map that stands at this very position.
    fn recorded_root(&self, id: VolumeId) -> Option<RootHash> {
        if let Some(recorded) = &self.recorded {
            return recorded.volumes.iter().find(|volume| volume.volume == id)?.root;
        }
        let VolumeState { base, changes } = &self.volumes.get(&id)?.state;
        (changes.is_empty() && changes.blocks() == base.blocks()).then(|| base.root_hash())
    }

    fn viewed(&self, id: VolumeId) -> Result<&ViewedVolume> {
        self.volumes.get(&id).ok_or_else(|| {
            let lsn = self.position.lsn;
            let what = match self.erased.contains(&id) {
                true => format!(
                    "{id} was erased: its keys were destroyed, and what it held at position {lsn} can't be read"
                ),
                false => format!("{id} didn't exist at position {lsn}"),
            };
            EngineError::new(ErrorKind::NotFound, what)
        })
    }

    /// What the blocks hold, in order, without gaps, up to the volume's end. Every block is authentic.
    ///
    /// # Errors
    /// `NotFound` for another group's volume, `Retry` when the vault can't be reached, `Tampered`.
    pub async fn read_blocks(&self, id: VolumeId, lba: u64, blocks: u64) -> Result<Vec<BlockRun>> {
        let end = lba.saturating_add(blocks).min(self.viewed(id)?.state.changes.blocks());
        let mut runs = Vec::new();
        let mut at = lba;
        while at < end {
            let count = READ_BLOCKS.min(end.saturating_sub(at));
            runs.extend(self.fetch(id, &[Extent { lba: at, blocks: count }]).await?.runs);
            at = at.saturating_add(count);
        }
        Ok(runs)
    }

    /// The blocks of several extents (ascending, a bounded number of blocks altogether), each frame fetched once.
    pub(crate) async fn fetch(&self, id: VolumeId, extents: &[Extent]) -> Result<Blocks> {
        let mut found: Vec<Run> = Vec::new();
        for extent in extents {
            found.extend(self.lookup(id, *extent).await?);
        }
        let hasher = self.reader.hasher(id).await?;
        let mut blocks = Blocks::default();
        let mut rest = &found[..];
        while !rest.is_empty() {
            let (wanted, count) = frames_of(rest);
            let (now, later) = rest.split_at(count);
            rest = later;
            let frames = self.reader.frames(&wanted).await?;
            blocks.fetched = blocks.fetched.saturating_add(frames.fetched);
            blocks.runs.extend(gather(&hasher, id, now, frames).await?);
        }
        Ok(blocks)
    }

    /// What the blocks of an extent are: what came after the map, and the tree where nothing did.
    async fn lookup(&self, id: VolumeId, extent: Extent) -> Result<Vec<Run>> {
        let volume = self.viewed(id)?;
        if let Some(tree) = volume.tree.get() {
            return tree.lookup(&*self.reader, extent).await;
        }
        let end = extent.end().min(volume.state.changes.blocks());
        let mut runs = Vec::new();
        let mut at = extent.lba;
        let over: Vec<(Extent, Option<Slot>)> =
            volume.state.changes.within(extent).map(|(extent, slot)| (extent, slot.copied())).collect();
        for (changed, slot) in over {
            if changed.lba >= end {
                break;
            }
            self.lookup_base(volume, Extent { lba: at, blocks: changed.lba.saturating_sub(at) }, &mut runs).await?;
            runs.push(match slot {
                None => Run::Zero(Extent { blocks: changed.end().min(end).saturating_sub(changed.lba), ..changed }),
                Some(slot) => Run::Block { lba: changed.lba, slot },
            });
            at = changed.end().min(end);
        }
        self.lookup_base(volume, Extent { lba: at, blocks: end.saturating_sub(at) }, &mut runs).await?;
        Ok(runs)
    }

    async fn lookup_base(&self, volume: &ViewedVolume, extent: Extent, runs: &mut Vec<Run>) -> Result<()> {
        if extent.blocks == 0 {
            return Ok(());
        }
        runs.extend(volume.state.base.lookup(&*self.reader, extent).await?);
        // The volume has grown since the map: what is past the tree's end is zero.
        let known = volume.state.base.blocks().max(extent.lba);
        if known < extent.end() {
            runs.push(Run::Zero(Extent { lba: known, blocks: extent.end().saturating_sub(known) }));
        }
        Ok(())
    }

    /// Looks at blocks with content that are spread over a volume: how many a disk has the same, and at how many it looked.
    ///
    /// # Errors
    /// `Retry` when the vault can't be reached, `Tampered`. A disk that can't be read has nothing the same.
    pub(crate) async fn sample(&self, volume: VolumeAtPoint, disk: &Arc<dyn DiskFile>) -> Result<(u64, u64)> {
        let hasher = self.reader.hasher(volume.id).await?;
        let apart = volume.size_blocks.div_ceil(SAMPLE_WINDOWS).max(SAMPLE_WINDOW_BLOCKS);
        let mut looks = Vec::new();
        let mut at = 0;
        while at < volume.size_blocks {
            looks.push(self.lookup(volume.id, Extent { lba: at, blocks: SAMPLE_WINDOW_BLOCKS }));
            at = at.saturating_add(apart);
        }
        let mut wanted = Vec::new();
        for runs in futures::future::try_join_all(looks).await? {
            let blocks = runs.into_iter().filter_map(|run| match run {
                Run::Block { lba, slot } => Some((lba, slot.hash)),
                Run::Zero(_) => None,
            });
            wanted.extend(blocks.step_by(SAMPLE_STEP));
        }
        let disk = Arc::clone(disk);
        let look = move || {
            let mut block = [0; BLOCK_SIZE];
            let mut equal = 0_u64;
            for (lba, hash) in &wanted {
                let read = disk.read_at(&mut block, lba.saturating_mul(BLOCK_SIZE_U64));
                equal = equal.saturating_add(u64::from(read.is_ok() && hasher.block(&block) == *hash));
            }
            (equal, u64::try_from(wanted.len()).unwrap_or(u64::MAX))
        };
        crate::blocking::run(look)
            .await
            .map_err(|error| EngineError::new(ErrorKind::Closed, format!("looking at a disk was given up: {error}")))
    }

    /// The volume's tree, with everything in it that came after the map. At a recovery point its root must be the one
    /// that the point records.
    ///
    /// # Errors
    /// `NotFound` for another group's volume, `Retry`, `Tampered`.
    pub async fn tree(&self, id: VolumeId) -> Result<Tree> {
        let volume = self.viewed(id)?;
        let tree = volume
            .tree
            .get_or_try_init(|| async {
                let tree = volume.state.tree(&self.reader).await?;
                match self.recorded_root(id) {
                    Some(root) if root != tree.root_hash() => Err(cause::tampered(format!(
                        "{id} at position {} has the root hash {}, its recovery point says {root}",
                        self.position.lsn,
                        tree.root_hash()
                    ))),
                    _ => Ok(tree),
                }
            })
            .await?;
        Ok(tree.clone())
    }
}

/// The frames that the first runs need, at most [`FRAMES_MAX`] of them, and the number of those runs: at least one.
fn frames_of(runs: &[Run]) -> (BTreeSet<(SegmentId, u32)>, usize) {
    let mut wanted = BTreeSet::new();
    for (count, run) in runs.iter().enumerate() {
        let Run::Block { slot, .. } = run else { continue };
        let frame = (slot.at.segment, slot.at.frame);
        if wanted.len() >= FRAMES_MAX && !wanted.contains(&frame) {
            return (wanted, count);
        }
        wanted.insert(frame);
    }
    (wanted, runs.len())
}

/// Takes the blocks out of their frames, each held against its hash: many of them away from the threads that serve requests.
async fn gather(hasher: &Arc<BlockHasher>, id: VolumeId, found: &[Run], frames: Frames) -> Result<Vec<BlockRun>> {
    if found.len() <= GATHER_HERE {
        return take_out(hasher, id, found, &frames);
    }
    let (hasher, found) = (Arc::clone(hasher), found.to_vec());
    let task = move || take_out(&hasher, id, &found, &frames);
    crate::blocking::run(task)
        .await
        .map_err(|error| EngineError::new(ErrorKind::Closed, format!("reading {id} was given up: {error}")))?
}

fn take_out(hasher: &BlockHasher, id: VolumeId, found: &[Run], frames: &Frames) -> Result<Vec<BlockRun>> {
    let mut runs = Vec::new();
    // One piece of memory for all of them, however many runs they become.
    let blocks = found.iter().filter(|run| matches!(run, Run::Block { .. })).count();
    let mut data = BytesMut::with_capacity(blocks.saturating_mul(BLOCK_SIZE));
    let mut data_lba = 0;
    for run in found {
        match *run {
            Run::Zero(extent) => {
                flush(&mut runs, data_lba, &mut data);
                runs.push(BlockRun::Zero(extent));
            }
            Run::Block { lba, slot } => {
                let block = frames.block(slot.at.segment, slot.at.frame, slot.at.slot)?;
                verify(hasher, id, lba, slot, &block)?;
                if data_lba.saturating_add(length_in_blocks(&data)) != lba {
                    flush(&mut runs, data_lba, &mut data);
                }
                if data.is_empty() {
                    data_lba = lba;
                }
                data.extend_from_slice(&block);
            }
        }
    }
    flush(&mut runs, data_lba, &mut data);
    Ok(runs)
}

fn flush(runs: &mut Vec<BlockRun>, lba: u64, data: &mut BytesMut) {
    if !data.is_empty() {
        runs.push(BlockRun::Data { lba, data: data.split().freeze() });
    }
}

fn length_in_blocks(data: &BytesMut) -> u64 {
    u64::try_from(data.len() / BLOCK_SIZE).unwrap_or(u64::MAX)
}

fn verify(hasher: &BlockHasher, id: VolumeId, lba: u64, slot: Slot, block: &Bytes) -> Result<()> {
    let matches = <&[u8; BLOCK_SIZE]>::try_from(block.as_ref()).is_ok_and(|block| hasher.block(block) == slot.hash);
    if matches {
        return Ok(());
    }
    Err(cause::tampered(format!(
        "block {lba} of {id} in frame {} of segment {} is not the one that was written",
        slot.at.frame, slot.at.segment
    )))
}

/// One volume of a view.
#[derive(Debug)]
struct VolumeView {
    view: Arc<PointView>,
    id: VolumeId,
    size_blocks: u64,
}

#[async_trait]
impl BlockVolume for VolumeView {
    fn size_bytes(&self) -> u64 {
        self.size_blocks.saturating_mul(BLOCK_SIZE_U64)
    }

    fn read_only(&self) -> bool {
        true
    }

    async fn read(&self, offset: u64, len: u32) -> Result<Bytes> {
        let end = offset.saturating_add(u64::from(len)).min(self.size_bytes());
        if offset >= end {
            return Ok(Bytes::new());
        }
        let first = offset / BLOCK_SIZE_U64;
        let last = end.div_ceil(BLOCK_SIZE_U64);
        let runs = self.view.read_blocks(self.id, first, last.saturating_sub(first)).await?;
        let skip = usize::try_from(offset % BLOCK_SIZE_U64).unwrap_or(0);
        let wanted = usize::try_from(end.saturating_sub(offset)).unwrap_or(usize::MAX);
        if let [BlockRun::Data { data, .. }] = &runs[..]
            && let Some(all) = data.len().checked_sub(skip)
            && all >= wanted
        {
            return Ok(data.slice(skip..skip.saturating_add(wanted)));
        }
        let mut out = BytesMut::with_capacity(wanted.saturating_add(2 * BLOCK_SIZE));
        for run in runs {
            match run {
                BlockRun::Zero(extent) => {
                    let bytes = usize::try_from(extent.blocks.saturating_mul(BLOCK_SIZE_U64)).unwrap_or(0);
                    out.resize(out.len().saturating_add(bytes), 0);
                }
                BlockRun::Data { data, .. } => out.extend_from_slice(&data),
            }
        }
        let out = out.freeze();
        let stop = skip.saturating_add(wanted).min(out.len());
        Ok(out.slice(skip.min(stop)..stop))
    }

    async fn write(&self, _: u64, _: Bytes) -> Result<()> {
        Err(self.refuse())
    }

    async fn flush(&self) -> Result<()> {
        Ok(())
    }

    async fn zero(&self, _: u64, _: u64, _: bool) -> Result<()> {
        Err(self.refuse())
    }
}

impl VolumeView {
    fn refuse(&self) -> EngineError {
        EngineError::new(
            ErrorKind::Fenced,
            format!("{} is shown as it was at a recovery point, which nothing changes: fail over to write", self.id),
        )
    }
}

/// The root hash of a local disk or image: equal to a point's if, and only if, the content is. The file's length, which
/// must be a whole number of blocks, is the volume's size. Holes cost no reading. `reached` is told how many of how many bytes are
/// done, after each mebibyte and each hole.
///
/// # Errors
/// `NotFound` without the file or the volume's keys, `Invalid` for a length that no volume has, `Damaged` when the disk
/// fails.
pub async fn root_of_file(
    vault: &Arc<Vault>,
    volume: VolumeId,
    path: &Path,
    reached: impl FnMut(u64, u64) + Send + 'static,
) -> Result<RootHash> {
    let keys = vault.volume_keys(volume).await.map_err(cause::vault)?.keys;
    let hasher = BlockHasher::new(&keys.hash);
    let path = path.to_owned();
    crate::blocking::run(move || hash_file(hasher, &path, reached))
        .await
        .map_err(|error| EngineError::new(ErrorKind::Closed, format!("hashing was given up: {error}")))?
}

fn hash_file(hasher: BlockHasher, path: &Path, mut reached: impl FnMut(u64, u64)) -> Result<RootHash> {
    const CHUNK: usize = 256 * BLOCK_SIZE;
    let shown = path.display();
    let failed = |error| EngineError::io(format_args!("can't read {shown}"), error);
    let mut file = File::open(path).map_err(failed)?;
    // Block devices say their length only to a seek.
    let len = std::io::Seek::seek(&mut file, std::io::SeekFrom::End(0)).map_err(failed)?;
    let blocks = len / BLOCK_SIZE_U64;
    if len % BLOCK_SIZE_U64 != 0 || blocks == 0 || blocks > VOLUME_BLOCKS_MAX {
        return Err(EngineError::new(
            ErrorKind::Invalid,
            format!("{shown} is {len} bytes long: a volume is a whole number of 4096-byte blocks, at least one"),
        ));
    }
    let defect = |error| cause::object("volume", error);
    let mut root = RootHasher::new(hasher, blocks);
    let mut buffer = vec![0_u8; CHUNK];
    let mut at = 0_u64;
    while at < len {
        // A file system without holes, or a device, answers that everything is data.
        let data = rustix::fs::seek(&file, rustix::fs::SeekFrom::Data(at))
            .unwrap_or_else(|error| if error == rustix::io::Errno::NXIO { len } else { at });
        let data = (data.clamp(at, len) / BLOCK_SIZE_U64).saturating_mul(BLOCK_SIZE_U64).max(at);
        root.push_zeros(data.saturating_sub(at) / BLOCK_SIZE_U64).map_err(defect)?;
        at = data;
        reached(at, len);
        let hole = rustix::fs::seek(&file, rustix::fs::SeekFrom::Hole(at)).unwrap_or(len).clamp(at, len);
        let until = hole.div_ceil(BLOCK_SIZE_U64).saturating_mul(BLOCK_SIZE_U64).min(len);
        std::io::Seek::seek(&mut file, std::io::SeekFrom::Start(at)).map_err(failed)?;
        while at < until {
            let count = usize::try_from(until.saturating_sub(at)).unwrap_or(CHUNK).min(CHUNK);
            let chunk = buffer.get_mut(..count).unwrap_or_default();
            file.read_exact(chunk).map_err(failed)?;
            for block in chunk.as_chunks::<BLOCK_SIZE>().0 {
                root.push(block).map_err(defect)?;
            }
            at = at.saturating_add(u64::try_from(count).unwrap_or(u64::MAX));
            reached(at, len);
        }
    }
    root.finish().map_err(defect)
}
