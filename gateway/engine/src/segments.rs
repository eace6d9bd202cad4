//! Reading a group's objects from the vault: segment indexes, frames, map nodes, epochs; each verified, each cached
//! within a bound. Frames of a segment that is gone come from its rebuilt ones (`segments/rebuilt.rs`).
//!
//! A [`Reader`] belongs to one group of one vault and is shared by everything that reads it: views of points, writers,
//! rehydration. All it caches is immutable (objects are written once), so nothing is ever invalidated. It holds at most
//! [`ReaderLimits`] bytes and has at most so many requests under way; it writes nothing. Dropping a future of it leaves
//! nothing half done.

mod cache;
mod maps;
pub(crate) mod names;
mod rebuilt;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures::stream::{self, StreamExt, TryStreamExt};
use lifeboat_format::hash::BlockHasher;
use lifeboat_format::keys::{DataKey, GroupKey};
use lifeboat_format::segment::{
    FrameNo, SEGMENT_HEADER_LEN, SEGMENT_LEN_MAX, SegmentHash, SegmentHeader, SegmentIndex, SegmentObject,
    SegmentPlace, SegmentTrailer, TRAILER_LEN, open_frame_with,
};
use lifeboat_model::{BLOCK_SIZE, GroupId, MapId, SegmentId, VolumeId};
use lifeboat_vault::{Vault, VaultErrorKind, VolumeKeys};
use tokio::sync::Semaphore;

use crate::cause;
use crate::error::{EngineError, ErrorKind, Result};
use crate::tree::Node;
use cache::Cache;

pub(crate) use maps::{MapHead, MapListing};
pub(crate) use rebuilt::Rebuilt;

/// What is read from the end of a segment: the whole of a small one, and its frames come along; of a longer one the index,
/// which nearly always fits.
const TAIL_LEN: u64 = 256 << 10;
/// Bytes of map footers, and of the nodes next to them, kept.
const HEADS_BYTES: usize = 8 << 20;
/// Frames less than this apart are read by one request.
const GAP_MAX: u64 = 64 << 10;
/// Longest read of frames by one request.
const SPAN_MAX: u64 = 4 << 20;
/// Reads of frames under way for one caller.
const SPANS_PARALLEL: usize = 8;

/// Bounds of a [`Reader`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReaderLimits {
    /// Bytes of segment indexes (and of small segments as a whole) kept.
    pub index_bytes: usize,
    /// Bytes of decrypted frames kept.
    pub frame_bytes: usize,
    /// Bytes of map nodes kept.
    pub node_bytes: usize,
    /// Requests to the vault under way.
    pub requests: usize,
}

impl Default for ReaderLimits {
    fn default() -> Self {
        Self { index_bytes: 32 << 20, frame_bytes: 32 << 20, node_bytes: 32 << 20, requests: 128 }
    }
}

/// One of a volume's data keys: the volume, and the number that segments name.
type KeyName = (VolumeId, u32);

/// A segment whose header, index and trailer are proved.
#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) id: SegmentId,
    pub(crate) header: SegmentHeader,
    pub(crate) index: SegmentIndex,
    pub(crate) hash: SegmentHash,
    /// The whole object, if it is small.
    body: Option<Bytes>,
}

/// The blocks of a frame that are there: all of them, or those that were needed when its segment was rebuilt.
#[derive(Clone, Debug)]
struct FrameBlocks {
    /// A bit for each slot that is there.
    mask: u16,
    /// Their blocks, one after the other.
    data: Bytes,
}

impl FrameBlocks {
    fn whole(data: Bytes) -> Self {
        let slots = u32::try_from(data.len() / BLOCK_SIZE).unwrap_or(u32::MAX);
        Self { mask: 1_u16.checked_shl(slots).map_or(u16::MAX, |next| next.wrapping_sub(1)), data }
    }

    fn block(&self, slot: u8) -> Option<Bytes> {
        let bit = 1_u16.checked_shl(u32::from(slot)).filter(|bit| self.mask & bit != 0)?;
        let before = usize::try_from((self.mask & bit.wrapping_sub(1)).count_ones()).ok()?;
        let start = before.saturating_mul(BLOCK_SIZE);
        let end = start.saturating_add(BLOCK_SIZE);
        (end <= self.data.len()).then(|| self.data.slice(start..end))
    }
}

/// Decrypted frames, and what getting them cost.
#[derive(Debug, Default)]
pub(crate) struct Frames {
    frames: HashMap<(SegmentId, u32), FrameBlocks>,
    /// Bytes of frames that were not in the cache.
    pub(crate) fetched: u64,
}

impl Frames {
    /// One block of a frame.
    pub(crate) fn block(&self, segment: SegmentId, frame: u32, slot: u8) -> Result<Bytes> {
        self.frames
            .get(&(segment, frame))
            .and_then(|blocks| blocks.block(slot))
            .ok_or_else(|| cause::tampered(format!("frame {frame} of segment {segment} has no slot {slot}")))
    }
}

/// Reads the objects of one group.
#[derive(Debug)]
pub struct Reader {
    vault: Arc<Vault>,
    group: GroupId,
    key: GroupKey,
    segments: Cache<SegmentId, Arc<Segment>>,
    /// The rebuilt ones of segments that are gone.
    rebuilt: Cache<SegmentId, Arc<Vec<Rebuilt>>>,
    frames: Cache<(SegmentId, u32), FrameBlocks>,
    nodes: Cache<(MapId, u32), Arc<Node>>,
    heads: Cache<MapId, Arc<MapHead>>,
    epochs: Cache<String, Bytes>,
    hashers: Mutex<HashMap<VolumeId, Arc<BlockHasher>>>,
    data_keys: Mutex<HashMap<KeyName, DataKey>>,
    /// Volumes whose keys were found destroyed. They never come back.
    erased: Mutex<BTreeSet<VolumeId>>,
    requests: Semaphore,
}

impl Reader {
    /// A reader of the group. Makes no key and writes nothing.
    ///
    /// # Errors
    /// `NotFound` when the vault has no such group, `Retry` when it can't be reached, `WrongKey`.
    pub async fn open(vault: &Arc<Vault>, group: GroupId, limits: ReaderLimits) -> Result<Arc<Self>> {
        let key = vault.existing_group_key(group).await.map_err(cause::vault)?;
        Ok(Arc::new(Self {
            vault: Arc::clone(vault),
            group,
            key,
            segments: Cache::new(limits.index_bytes),
            rebuilt: Cache::new(limits.index_bytes / 2),
            frames: Cache::new(limits.frame_bytes),
            nodes: Cache::new(limits.node_bytes),
            heads: Cache::new(HEADS_BYTES),
            epochs: Cache::new(1 << 20),
            hashers: Mutex::default(),
            data_keys: Mutex::default(),
            erased: Mutex::default(),
            requests: Semaphore::new(limits.requests.max(1)),
        }))
    }

    /// Gives the memory back that content takes; what says where content is stays. For a reader that is used again later.
    pub(crate) fn rest(&self) {
        self.frames.clear();
        self.nodes.clear();
    }

    /// The vault.
    #[must_use]
    pub const fn vault(&self) -> &Arc<Vault> {
        &self.vault
    }

    /// The group.
    #[must_use]
    pub const fn group(&self) -> GroupId {
        self.group
    }

    pub(crate) const fn key(&self) -> &GroupKey {
        &self.key
    }

    /// A volume's keys, for writing; none when they were destroyed. What was kept of such a volume is forgotten here.
    pub(crate) async fn newest_keys(&self, volume: VolumeId) -> Result<Option<VolumeKeys>> {
        match self.vault.volume_keys(volume).await {
            Ok(keys) => Ok(Some(keys)),
            Err(error) if error.kind() == VaultErrorKind::Erased => {
                self.erased.lock().unwrap_or_else(PoisonError::into_inner).insert(volume);
                self.hashers.lock().unwrap_or_else(PoisonError::into_inner).remove(&volume);
                self.data_keys.lock().unwrap_or_else(PoisonError::into_inner).retain(|name, _| name.0 != volume);
                Ok(None)
            }
            Err(error) => Err(cause::vault(error)),
        }
    }

    /// Volumes that were found erased.
    pub(crate) fn erased(&self) -> BTreeSet<VolumeId> {
        self.erased.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What hashes a volume's blocks: the same over all of its data keys, so that hashes and roots stay comparable. None
    /// for a volume that was erased.
    pub(crate) async fn hasher_unless_erased(&self, volume: VolumeId) -> Result<Option<Arc<BlockHasher>>> {
        let known = || self.hashers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = known().get(&volume) {
            return Ok(Some(Arc::clone(found)));
        }
        let Some(keys) = self.newest_keys(volume).await? else { return Ok(None) };
        let found = Arc::new(BlockHasher::new(&keys.keys.hash));
        known().insert(volume, Arc::clone(&found));
        Ok(Some(found))
    }

    /// [`Self::hasher_unless_erased`] for a volume that must not be.
    pub(crate) async fn hasher(&self, volume: VolumeId) -> Result<Arc<BlockHasher>> {
        self.hasher_unless_erased(volume).await?.ok_or_else(|| {
            EngineError::new(
                ErrorKind::NotFound,
                format!("{volume} was erased: its keys were destroyed, and nobody can read what it held any more"),
            )
        })
    }

    /// The data key under which segments name it.
    pub(crate) async fn data_key(&self, name: KeyName) -> Result<DataKey> {
        let known = || self.data_keys.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = known().get(&name) {
            return Ok(found.clone());
        }
        let found = self.vault.data_key(name.0, name.1).await.map_err(cause::vault)?;
        known().insert(name, found.clone());
        Ok(found)
    }

    /// Reads a whole object.
    pub(crate) async fn get(&self, key: &str, max_bytes: u64) -> Result<Bytes> {
        let _permit = self.permit().await?;
        self.vault.store().get(key, max_bytes).await.map_err(cause::store)
    }

    /// Reads part of an object.
    pub(crate) async fn get_range(&self, key: &str, range: Range<u64>) -> Result<Bytes> {
        let _permit = self.permit().await?;
        self.vault.store().get_range(key, range).await.map_err(cause::store)
    }

    /// Reads the end of an object, and says how long it is.
    async fn get_tail(&self, key: &str, max_bytes: u64) -> Result<(Bytes, u64)> {
        let _permit = self.permit().await?;
        self.vault.store().get_tail(key, max_bytes).await.map_err(cause::store)
    }

    async fn permit(&self) -> Result<tokio::sync::SemaphorePermit<'_>> {
        self.requests.acquire().await.map_err(|_| EngineError::new(ErrorKind::Closed, "the reader is closed"))
    }

    /// A small object that never changes, cached.
    pub(crate) async fn small(&self, key: &str, max_bytes: u64) -> Result<Bytes> {
        self.epochs.get_or_load(&key.to_owned(), Bytes::len, self.get(key, max_bytes)).await
    }

    /// The index of a segment that must be there; `len` is its length where a listing said it.
    pub(crate) async fn segment(&self, id: SegmentId, len: Option<u64>) -> Result<Arc<Segment>> {
        self.original(id, len).await.map_err(|error| match error.kind() {
            ErrorKind::NotFound => {
                let key = names::segment(self.group, id);
                cause::tampered(format!("segment {key} is not in the vault")).with_source(error)
            }
            _ => error,
        })
    }

    /// The index of a segment; `NotFound` where it is gone.
    pub(crate) async fn original(&self, id: SegmentId, len: Option<u64>) -> Result<Arc<Segment>> {
        let weigh = |segment: &Arc<Segment>| segment.memory();
        self.segments.get_or_load(&id, weigh, async { self.load_segment(id, len, TAIL_LEN).await.map(Arc::new) }).await
    }

    /// The index of a segment of that length, without anything else of it, and not kept.
    pub(crate) async fn bare_index(&self, id: SegmentId, len: u64) -> Result<Segment> {
        // Blocks that don't compress have 25 bytes each in the index.
        self.load_segment(id, Some(len), (len / 96).clamp(4096, TAIL_LEN)).await
    }

    /// Reads at least `tail_len` bytes of its end, and all of it if it isn't longer.
    async fn load_segment(&self, id: SegmentId, len: Option<u64>, tail_len: u64) -> Result<Segment> {
        let key = names::segment(self.group, id);
        let place = SegmentPlace { vault: self.vault.id(), group: self.group, id };
        let refused = |error| cause::object(&key, error);
        // Everything in one round trip, whatever is known: a short object's header is asked for in vain.
        let (header, tail, len) = match len {
            Some(len) if len <= tail_len => (None, self.get(&key, len).await?, len),
            _ => {
                let header_len = u64::try_from(SEGMENT_HEADER_LEN).unwrap_or(u64::MAX);
                let both = futures::join!(self.get_range(&key, 0..header_len), self.get_tail(&key, tail_len));
                let (tail, len) = both.1?;
                (Some(both.0), tail, len)
            }
        };
        if len > SEGMENT_LEN_MAX {
            return Err(cause::tampered(format!("segment {key} is {len} bytes long, longer than any was written")));
        }
        let tail_at = len.saturating_sub(u64::try_from(tail.len()).unwrap_or(u64::MAX));
        let header = match header {
            Some(header) if tail_at > 0 => header?,
            Some(_) | None => {
                let object = SegmentObject::open(&tail, &place, &self.key).map_err(refused)?;
                let (header, index, hash) = (object.header, object.index, object.trailer.hash());
                return Ok(Segment { id, header, index, hash, body: Some(tail) });
            }
        };
        let header = SegmentHeader::decode(&header, &place).map_err(refused)?;
        let trailer_at = tail.len().saturating_sub(TRAILER_LEN);
        let trailer = SegmentTrailer::decode(tail.get(trailer_at..).unwrap_or_default(), len).map_err(refused)?;
        let range = trailer.index_range();
        let index = match range.start.checked_sub(tail_at).and_then(|skip| usize::try_from(skip).ok()) {
            Some(skip) => tail.slice(skip.min(trailer_at)..trailer_at),
            None => self.get_range(&key, range).await?,
        };
        let (index, hash) =
            (SegmentIndex::open(&header, &trailer, &index, &self.key).map_err(refused)?, trailer.hash());
        Ok(Segment { id, header, index, hash, body: None })
    }

    /// Decrypts frames, reading those that are near each other by one request. The caller bounds how many.
    pub(crate) async fn frames(&self, wanted: &BTreeSet<(SegmentId, u32)>) -> Result<Frames> {
        let mut out = Frames::default();
        let mut missing: BTreeMap<SegmentId, Vec<u32>> = BTreeMap::new();
        for &(segment, frame) in wanted {
            match self.frames.get(&(segment, frame)) {
                Some(blocks) => {
                    out.frames.insert((segment, frame), blocks);
                }
                None => missing.entry(segment).or_default().push(frame),
            }
        }
        let reads: Vec<Vec<Span>> = stream::iter(missing)
            .map(|(segment, frames)| self.plan_reads(segment, frames))
            .buffered(SPANS_PARALLEL)
            .try_collect()
            .await?;
        let mut read =
            stream::iter(reads.into_iter().flatten()).map(|span| self.read(span)).buffer_unordered(SPANS_PARALLEL);
        while let Some((frames, fetched)) = read.try_next().await? {
            out.fetched = out.fetched.saturating_add(fetched);
            for (key, blocks) in frames {
                self.frames.insert(&key, blocks.clone(), blocks.data.len());
                out.frames.insert(key, blocks);
            }
        }
        Ok(out)
    }

    /// By which requests frames of a segment are read: where its index says, or as its rebuilt ones have them.
    async fn plan_reads(&self, id: SegmentId, frames: Vec<u32>) -> Result<Vec<Span>> {
        let gone = self.rebuilt.get(&id).is_some();
        match if gone { None } else { Some(self.original(id, None).await) } {
            Some(Ok(segment)) => spans(&segment, &frames),
            Some(Err(error)) if !cause::is_gone(&error) => Err(error),
            Some(Err(_)) | None => Ok(vec![Span { id, segment: None, frames, range: 0..0 }]),
        }
    }

    async fn read(&self, span: Span) -> Result<(Vec<Decrypted>, u64)> {
        let (id, frames) = (span.id, span.frames.clone());
        let Some(segment) = span.segment.clone() else { return self.rebuilt_frames(id, &frames).await };
        match self.read_span(segment, span).await {
            // It was there a moment ago, or its index is in memory.
            Err(error) if cause::is_gone(&error) => self.rebuilt_frames(id, &frames).await,
            done => done,
        }
    }

    async fn read_span(&self, segment: Arc<Segment>, span: Span) -> Result<(Vec<Decrypted>, u64)> {
        let Span { frames, range, .. } = span;
        let fetched = range.end.saturating_sub(range.start);
        let frames: Arc<[u32]> = frames.into();
        if let Some(body) = &segment.body {
            match self.decrypt(&segment, &frames, range.start, part_of(body, &range)).await {
                Ok(decrypted) => return Ok((decrypted, fetched)),
                // Only the index was proved when the segment came: its frames may have changed on their way, and what is
                // kept in memory would be refused for good. The vault is asked again; what it says now counts.
                Err(error) if error.kind() == ErrorKind::Tampered => self.segments.forget(&segment.id),
                Err(error) => return Err(error),
            }
        }
        let bytes = self.get_range(&names::segment(self.group, segment.id), range.clone()).await?;
        Ok((self.decrypt(&segment, &frames, range.start, bytes).await?, fetched))
    }

    /// Decrypts frames out of `bytes`, which begin at `start` in their segment.
    async fn decrypt(
        &self,
        segment: &Arc<Segment>,
        frames: &Arc<[u32]>,
        start: u64,
        bytes: Bytes,
    ) -> Result<Vec<Decrypted>> {
        let key = names::segment(self.group, segment.id);
        let mut keys: HashMap<KeyName, DataKey> = HashMap::new();
        for &frame in frames.iter() {
            let name = key_of(segment, frame).map_err(|error| cause::object(&key, error))?;
            if let std::collections::hash_map::Entry::Vacant(slot) = keys.entry(name) {
                slot.insert(self.data_key(name).await?);
            }
        }
        let (segment, frames) = (Arc::clone(segment), Arc::clone(frames));
        let task = move || decode_span(&segment, &frames, start, &bytes, &keys);
        let decoded = crate::blocking::run(task)
            .await
            .map_err(|error| EngineError::new(ErrorKind::Closed, format!("decrypting {key} was given up: {error}")))?;
        decoded.map_err(|error| cause::object(&key, error))
    }
}

/// Part of a segment that is in memory; nothing, which no frame decrypts from, where it ends before.
fn part_of(body: &Bytes, range: &Range<u64>) -> Bytes {
    let bounds = usize::try_from(range.start).ok().zip(usize::try_from(range.end).ok());
    bounds.filter(|(_, end)| *end <= body.len()).map(|(start, end)| body.slice(start..end)).unwrap_or_default()
}

/// A frame's name and its blocks.
type Decrypted = ((SegmentId, u32), FrameBlocks);

/// Frames of one segment that one request reads; without the segment, those that its rebuilt ones have to give.
#[derive(Debug)]
struct Span {
    id: SegmentId,
    segment: Option<Arc<Segment>>,
    frames: Vec<u32>,
    range: Range<u64>,
}

/// Groups frames (numbers ascending) into reads.
fn spans(segment: &Arc<Segment>, frames: &[u32]) -> Result<Vec<Span>> {
    let mut ranges = Vec::with_capacity(frames.len());
    for &frame in frames {
        let entry =
            segment.index.frame(FrameNo(frame)).map_err(|error| cause::object(&segment.id.to_string(), error))?;
        ranges.push((frame, entry.range()));
    }
    let span = |(frames, range)| Span { id: segment.id, segment: Some(Arc::clone(segment)), frames, range };
    Ok(gather_near(ranges).into_iter().map(span).collect())
}

/// Groups frames, by ascending offset, that one request may read.
fn gather_near(ranges: Vec<(u32, Range<u64>)>) -> Vec<(Vec<u32>, Range<u64>)> {
    let mut spans: Vec<(Vec<u32>, Range<u64>)> = Vec::new();
    for (frame, range) in ranges {
        match spans.last_mut() {
            Some((frames, last))
                if range.start <= last.end.saturating_add(GAP_MAX)
                    && range.end.saturating_sub(last.start) <= SPAN_MAX =>
            {
                last.end = range.end;
                frames.push(frame);
            }
            _ => spans.push((vec![frame], range)),
        }
    }
    spans
}

/// The data key of a frame.
fn key_of(segment: &Segment, frame: u32) -> Result<KeyName, lifeboat_format::FormatError> {
    let volume = segment.index.volume_of(segment.index.frame(FrameNo(frame))?)?;
    Ok((volume.volume, volume.key))
}

/// Decrypts frames out of `bytes`, which begin at `start` in their segment.
fn decode_span(
    segment: &Segment,
    frames: &[u32],
    start: u64,
    bytes: &Bytes,
    keys: &HashMap<KeyName, DataKey>,
) -> Result<Vec<Decrypted>, lifeboat_format::FormatError> {
    let what = "segment frame";
    let context = segment.header.frame_context(0);
    let frame_keys: HashMap<KeyName, _> = keys.iter().map(|(name, key)| (*name, context.frame_key(key))).collect();
    frames
        .iter()
        .map(|&frame| {
            let range = segment.index.frame(FrameNo(frame))?.range();
            let bounds = usize::try_from(range.start.saturating_sub(start))
                .ok()
                .zip(usize::try_from(range.end.saturating_sub(start)).ok());
            let stored = bounds.and_then(|(from, to)| bytes.get(from..to)).unwrap_or_default();
            let key =
                frame_keys.get(&key_of(segment, frame)?).ok_or(lifeboat_format::FormatError::WrongKey { what })?;
            let raw = open_frame_with(&context, &segment.index, FrameNo(frame), stored, key)?;
            Ok(((segment.id, frame), FrameBlocks::whole(Bytes::from(raw))))
        })
        .collect()
}

impl Segment {
    /// Bytes that it takes in memory, about.
    fn memory(&self) -> usize {
        let frames = self.index.frames.iter().map(|frame| {
            frame.runs.capacity().saturating_mul(16).saturating_add(frame.hashes.capacity().saturating_mul(16))
        });
        frames
            .sum::<usize>()
            .saturating_add(self.index.frames.capacity().saturating_mul(96))
            .saturating_add(self.index.operations.capacity().saturating_mul(40))
            .saturating_add(self.body.as_ref().map_or(0, Bytes::len))
            .saturating_add(1024)
    }
}
