//! Reading what is left of segments that are gone: their rebuilt ones.
//!
//! A segment that was rebuilt stays for the time of grace, and is read for as long as it is there: it has every block. Once
//! it is gone its generations are listed and read, the oldest first, since an older one that waits for its own grace may
//! hold a block that a newer one lacks. The listing is kept until an object of it turns out to be gone.
//!
//! What proves a rebuilt segment is the group key: who holds it made index and trailer, and the name is in the header. What
//! proves each block is its hash, in the leaf that led here.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use lifeboat_format::rebuilt::{
    REBUILT_HEADER_LEN, RebuiltHeader, RebuiltIndex, RebuiltObject, RebuiltPlace, RebuiltTrailer, SlotAt,
    open_rebuilt_frame,
};
use lifeboat_format::segment::{FrameNo, SEGMENT_LEN_MAX, SegmentPlace, TRAILER_LEN};
use lifeboat_model::{BLOCK_SIZE, SegmentId};

use super::{Decrypted, FrameBlocks, KeyName, Reader, gather_near, names};
use crate::cause;
use crate::error::{EngineError, ErrorKind, Result};

/// Times that a listing is made anew because an object of it is gone.
const LOOKS: usize = 4;

/// A rebuilt segment whose header, index and trailer are proved.
#[derive(Debug)]
pub(crate) struct Rebuilt {
    pub(crate) id: SegmentId,
    pub(crate) generation: u64,
    pub(crate) header: RebuiltHeader,
    pub(crate) index: RebuiltIndex,
}

impl Rebuilt {
    /// Bytes that it takes in memory, about.
    fn memory(&self) -> usize {
        self.index.block_count().saturating_mul(64).saturating_add(512)
    }

    pub(crate) fn key(&self, reader: &Reader) -> String {
        names::rebuilt(reader.group(), self.id, self.generation)
    }
}

/// A slot of a segment's frame, and its content.
type Found = BTreeMap<u32, BTreeMap<u8, Bytes>>;

impl Reader {
    /// The rebuilt ones of a segment, the oldest first; at least one.
    pub(crate) async fn rebuilt(&self, id: SegmentId) -> Result<Arc<Vec<Rebuilt>>> {
        let weigh = |all: &Arc<Vec<Rebuilt>>| all.iter().map(Rebuilt::memory).sum::<usize>().saturating_add(64);
        self.rebuilt.get_or_load(&id, weigh, async { self.load_rebuilt(id).await.map(Arc::new) }).await
    }

    async fn load_rebuilt(&self, id: SegmentId) -> Result<Vec<Rebuilt>> {
        let mut last = None;
        for _ in 0..LOOKS {
            let prefix = names::rebuilt_of(self.group(), id);
            let found = {
                let _permit = self.permit().await?;
                self.vault().store().list(&prefix).await.map_err(cause::store)?
            };
            let mut all = Vec::new();
            for object in &found {
                let Some((.., generation)) = names::parse_rebuilt(&object.key) else { continue };
                match self.read_rebuilt(id, generation, object.size).await {
                    Ok(rebuilt) => all.push(rebuilt),
                    Err(error) => last = Some(error),
                }
            }
            match &last {
                // One that was listed has gone: a newer one is there.
                Some(error) if cause::is_gone(error) && all.is_empty() => {}
                Some(error) if error.kind().is_unanswered() || error.kind() == ErrorKind::Closed => break,
                // A damaged one costs nothing where another holds the same.
                _ if !all.is_empty() => return Ok(all),
                _ => break,
            }
        }
        match last {
            Some(error) if error.kind() != ErrorKind::NotFound => Err(error),
            _ => Err(missing(self, id)),
        }
    }

    /// One rebuilt segment, of that length.
    pub(crate) async fn read_rebuilt(&self, id: SegmentId, generation: u64, len: u64) -> Result<Rebuilt> {
        let key = names::rebuilt(self.group(), id, generation);
        let place = self.rebuilt_place(id, generation);
        let refused = |error| cause::object(&key, error);
        if len > SEGMENT_LEN_MAX {
            return Err(cause::tampered(format!("{key} is {len} bytes long, longer than any was written")));
        }
        let header_len = u64::try_from(REBUILT_HEADER_LEN).unwrap_or(u64::MAX);
        // Blocks that don't compress have 21 bytes each in the index.
        let tail_at = len.saturating_sub((len / 128).saturating_add(4096));
        if tail_at <= header_len {
            let bytes = self.get(&key, len).await?;
            let object = RebuiltObject::open(&bytes, &place, self.key()).map_err(refused)?;
            return Ok(Rebuilt { id, generation, header: object.header, index: object.index });
        }
        let (header, tail) =
            futures::try_join!(self.get_range(&key, 0..header_len), self.get_range(&key, tail_at..len))?;
        let header = RebuiltHeader::decode(&header, &place).map_err(refused)?;
        let trailer_at = tail.len().saturating_sub(TRAILER_LEN);
        let trailer = RebuiltTrailer::decode(tail.get(trailer_at..).unwrap_or_default(), len).map_err(refused)?;
        let range = trailer.index_range();
        let stored = match range.start.checked_sub(tail_at).and_then(|skip| usize::try_from(skip).ok()) {
            Some(skip) => tail.slice(skip.min(trailer_at)..trailer_at),
            None => self.get_range(&key, range).await?,
        };
        let index = RebuiltIndex::open(&header, &trailer, &stored, self.key()).map_err(refused)?;
        Ok(Rebuilt { id, generation, header, index })
    }

    pub(crate) fn rebuilt_place(&self, id: SegmentId, generation: u64) -> RebuiltPlace {
        let segment = SegmentPlace { vault: self.vault().id(), group: self.group(), id };
        RebuiltPlace { segment, generation }
    }

    /// What the rebuilt ones of a segment hold of its frames. A frame none of whose blocks is there comes out empty.
    pub(super) async fn rebuilt_frames(&self, id: SegmentId, frames: &[u32]) -> Result<(Vec<Decrypted>, u64)> {
        for _ in 0..LOOKS {
            let sources = self.rebuilt(id).await?;
            match self.read_sources(&sources, frames).await {
                Err(error) if cause::is_gone(&error) => self.rebuilt.forget(&id),
                done => return done,
            }
        }
        Err(missing(self, id))
    }

    async fn read_sources(&self, sources: &[Rebuilt], frames: &[u32]) -> Result<(Vec<Decrypted>, u64)> {
        let (mut found, mut fetched) = (Found::new(), 0_u64);
        for source in sources {
            let lacks = |frame: u32, at: &SlotAt| {
                !found.get(&frame).is_some_and(|slots: &BTreeMap<u8, Bytes>| slots.contains_key(&at.slot))
            };
            let mut wanted: BTreeMap<u32, Vec<(u32, SlotAt)>> = BTreeMap::new();
            for &frame in frames {
                for at in source.index.slots_of(FrameNo(frame)).filter(|at| lacks(frame, at)) {
                    wanted.entry(at.number).or_default().push((frame, at));
                }
            }
            fetched = fetched.saturating_add(self.read_wanted(source, &wanted, &mut found).await?);
        }
        let id = sources.first().map(|source| source.id);
        let joined = frames.iter().zip(std::iter::repeat(id)).filter_map(|(&frame, id)| {
            let slots = found.remove(&frame).unwrap_or_default();
            Some(((id?, frame), FrameBlocks::of_slots(&slots)))
        });
        Ok((joined.collect(), fetched))
    }

    /// Reads frames of one rebuilt segment, and takes the blocks that are wanted out of them.
    async fn read_wanted(
        &self,
        source: &Rebuilt,
        wanted: &BTreeMap<u32, Vec<(u32, SlotAt)>>,
        found: &mut Found,
    ) -> Result<u64> {
        let key = source.key(self);
        let refused = |error| cause::object(&key, error);
        let mut ranges = Vec::with_capacity(wanted.len());
        for &number in wanted.keys() {
            ranges.push((number, source.index.frame(number).map_err(refused)?.0.range()));
        }
        let (mut fetched, mut keys) = (0_u64, HashMap::<KeyName, _>::new());
        for (numbers, range) in gather_near(ranges) {
            let start = range.start;
            fetched = fetched.saturating_add(range.end.saturating_sub(start));
            let bytes = self.get_range(&key, range).await?;
            for number in numbers {
                let (entry, volume) = source.index.frame(number).map_err(refused)?;
                let name = (volume.volume, volume.key);
                if let std::collections::hash_map::Entry::Vacant(slot) = keys.entry(name) {
                    slot.insert(source.header.frame_key(&self.data_key(name).await?));
                }
                let range = entry.range();
                let bounds = usize::try_from(range.start.saturating_sub(start))
                    .ok()
                    .zip(usize::try_from(range.end.saturating_sub(start)).ok());
                let stored = bounds.and_then(|(from, to)| bytes.get(from..to)).unwrap_or_default();
                let Some(frame_key) = keys.get(&name) else { continue };
                let raw = open_rebuilt_frame(&source.header, &source.index, number, stored, frame_key);
                let raw = Bytes::from(raw.map_err(refused)?);
                for (frame, at) in wanted.get(&number).into_iter().flatten() {
                    let from = usize::from(at.nth).saturating_mul(BLOCK_SIZE);
                    if let Some(end) = from.checked_add(BLOCK_SIZE).filter(|end| *end <= raw.len()) {
                        found.entry(*frame).or_default().insert(at.slot, raw.slice(from..end));
                    }
                }
            }
        }
        Ok(fetched)
    }

    /// Decrypts one frame of a rebuilt segment.
    pub(crate) async fn rebuilt_frame(&self, source: &Rebuilt, number: u32) -> Result<Vec<u8>> {
        let key = source.key(self);
        let refused = |error| cause::object(&key, error);
        let (entry, volume) = source.index.frame(number).map_err(refused)?;
        let data_key = self.data_key((volume.volume, volume.key)).await?;
        let stored = self.get_range(&key, entry.range()).await?;
        let frame_key = source.header.frame_key(&data_key);
        open_rebuilt_frame(&source.header, &source.index, number, &stored, &frame_key).map_err(refused)
    }

    /// Reads the index of whatever holds a segment's blocks: for whoever will read them in a moment.
    pub(crate) async fn look_at(&self, id: SegmentId) -> Result<()> {
        match self.original(id, None).await {
            Err(error) if cause::is_gone(&error) => self.rebuilt(id).await.map(drop),
            found => found.map(drop),
        }
    }

    /// Whether the rebuilt ones of a segment hold that slot with that hash: where a leaf says that a block is, when the
    /// segment itself is gone.
    pub(crate) async fn rebuilt_holds(
        &self,
        id: SegmentId,
        (frame, slot): (u32, u8),
        hash: lifeboat_model::BlockHash,
    ) -> Result<bool> {
        let sources = self.rebuilt(id).await?;
        let mut blocks = sources.iter().filter_map(|source| {
            let at = source.index.slots_of(FrameNo(frame)).find(|at| at.slot == slot)?;
            source.index.block(at)
        });
        Ok(blocks.any(|block| block.hash == hash))
    }
}

impl FrameBlocks {
    fn of_slots(slots: &BTreeMap<u8, Bytes>) -> Self {
        let mut data = BytesMut::with_capacity(slots.len().saturating_mul(BLOCK_SIZE));
        let mut mask = 0;
        for (slot, block) in slots {
            mask |= 1_u16.checked_shl(u32::from(*slot)).unwrap_or(0);
            data.extend_from_slice(block);
        }
        Self { mask, data: data.freeze() }
    }
}

fn missing(reader: &Reader, id: SegmentId) -> EngineError {
    let key = names::segment(reader.group(), id);
    cause::tampered(format!("segment {key} is not in the vault, and no rebuilt one stands for it"))
}
