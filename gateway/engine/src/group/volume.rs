//! A volume of a group as a front end sees it: bytes at any offset, over blocks in the write path.
//!
//! Writes of whole blocks go straight into the write order. The blocks at unaligned edges are read, changed and written as
//! whole blocks; such a write is alone on its volume from the read to its place in the write order, so that nothing
//! that is written in between is lost. A writer is answered late when the journal is nearly full.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use lifeboat_model::{BLOCK_SIZE_U64, Extent, VolumeId};
use tokio::time::Instant;

use super::Group;
use super::running::{self, Running};
use crate::error::{EngineError, ErrorKind, Result};
use crate::image::Image;
use crate::record::Op;
use crate::view::BlockRun;
use crate::volume::BlockVolume;
use crate::write_path::{Ack, Piece, Submitted, WritePath};

#[derive(Debug)]
pub(super) struct GroupVolume {
    group: Arc<Group>,
    id: VolumeId,
}

impl GroupVolume {
    pub(super) fn new(group: &Arc<Group>, id: VolumeId) -> Self {
        Self { group: Arc::clone(group), id }
    }

    fn open(&self) -> Result<(Arc<Running>, Arc<Image>)> {
        let running = self.group.running.lock().clone().ok_or_else(|| self.closed())?;
        let image = running.path.image(self.id).ok_or_else(|| self.closed())?;
        Ok((running, image))
    }

    fn closed(&self) -> EngineError {
        EngineError::new(ErrorKind::Closed, format!("{} is not open at this gateway just now", self.id))
    }

    fn check(&self, image: &Image, offset: u64, len: u64) -> Result<()> {
        let size = image.blocks() * BLOCK_SIZE_U64;
        if offset.checked_add(len).is_some_and(|end| end <= size) {
            return Ok(());
        }
        Err(EngineError::new(
            ErrorKind::Invalid,
            format!("{len} bytes at {offset} lie past the end of {} at {size}", self.id),
        ))
    }

    /// Content of whole blocks.
    async fn read_blocks(&self, running: &Running, extent: Extent) -> Result<Bytes> {
        let (image, pieces) = running.path.locate(self.id, extent)?;
        self.read_pieces(running, extent, image, pieces).await
    }

    /// The same, where its pieces are known already. They end with the volume.
    async fn read_pieces(
        &self,
        running: &Running,
        extent: Extent,
        image: Arc<Image>,
        pieces: Vec<Piece>,
    ) -> Result<Bytes> {
        if let [Piece::Memory(_, Some(data))] = pieces.as_slice() {
            return Ok(data.clone());
        }
        let mut out = BytesMut::zeroed(bytes(extent.blocks));
        let mut local: Vec<Extent> = Vec::new();
        for piece in pieces {
            match piece {
                Piece::Memory(part, Some(data)) => place(&mut out, extent.lba, part.lba, &data),
                Piece::Memory(_, None) => {}
                Piece::Image(part) => {
                    let from = bytes(part.lba - extent.lba);
                    if !image.read_at_once(part.lba, &mut out[from..from + bytes(part.blocks)])? {
                        local.push(part);
                    }
                }
                Piece::Absent(part) => self.fetch(running, &image, part, extent.lba, &mut out).await?,
            }
        }
        if local.is_empty() {
            return Ok(out.freeze());
        }
        crate::blocking::run(move || {
            for part in local {
                let from = bytes(part.lba - extent.lba);
                image.read(part.lba, &mut out[from..from + bytes(part.blocks)])?;
            }
            Ok(out.freeze())
        })
        .await
        .map_err(|_| running::gone())?
    }

    /// Reads blocks that are not here yet from the vault, and keeps them.
    async fn fetch(
        &self,
        running: &Running,
        image: &Arc<Image>,
        part: Extent,
        origin: u64,
        out: &mut BytesMut,
    ) -> Result<()> {
        for run in fetch(running, &self.group, self.id, part).await? {
            if let BlockRun::Data { lba, data } = &run {
                place(out, origin, *lba, data);
            }
            let image = Arc::clone(image);
            crate::blocking::run(move || fill(&image, &run)).await.map_err(|_| running::gone())??;
        }
        Ok(())
    }

    /// Puts the bytes of a range into the write order, block by block; gives the acknowledgements to wait for.
    async fn queue(&self, path: &WritePath, lba: u64, data: Bytes, acks: &mut Vec<Ack>) -> Result<()> {
        let step = path.limits().record_bytes_max();
        let mut at = 0;
        while at < data.len() {
            let end = data.len().min(at + step);
            let op = Op::Write { volume: self.id, lba: lba + at as u64 / BLOCK_SIZE_U64, data: data.slice(at..end) };
            acks.push(queue(path, &op).await?);
            at = end;
        }
        Ok(())
    }

    async fn write_unaligned(
        &self,
        running: &Running,
        image: &Image,
        offset: u64,
        data: &[u8],
        acks: &mut Vec<Ack>,
    ) -> Result<()> {
        let _alone = image.edges.write().await;
        let first = offset / BLOCK_SIZE_U64;
        let end = (offset + data.len() as u64).div_ceil(BLOCK_SIZE_U64);
        let mut blocks = BytesMut::zeroed(bytes(end - first));
        let head = self.read_blocks(running, Extent { lba: first, blocks: 1 }).await?;
        place(&mut blocks, first, first, &head);
        if end - first > 1 {
            let tail = self.read_blocks(running, Extent { lba: end - 1, blocks: 1 }).await?;
            place(&mut blocks, first, end - 1, &tail);
        }
        let from = usize::try_from(offset % BLOCK_SIZE_U64).unwrap_or(0);
        blocks[from..from + data.len()].copy_from_slice(data);
        self.queue(&running.path, first, blocks.freeze(), acks).await
    }
}

#[async_trait]
impl BlockVolume for GroupVolume {
    fn size_bytes(&self) -> u64 {
        self.open().map_or(0, |(_, image)| image.blocks() * BLOCK_SIZE_U64)
    }

    fn read_only(&self) -> bool {
        self.open().map_or(true, |(running, _)| !running.path.is_writable())
    }

    async fn read(&self, offset: u64, len: u32) -> Result<Bytes> {
        let running = self.group.running.lock().clone().ok_or_else(|| self.closed())?;
        let first = offset / BLOCK_SIZE_U64;
        let last = offset.saturating_add(u64::from(len)).div_ceil(BLOCK_SIZE_U64);
        let extent = Extent { lba: first, blocks: last.saturating_sub(first) };
        let (image, extent, pieces) = running.path.locate_within(self.id, extent).map_err(|_| self.closed())?;
        let end = offset.saturating_add(u64::from(len)).min(extent.end() * BLOCK_SIZE_U64);
        if offset >= end {
            return Ok(Bytes::new());
        }
        let blocks = self.read_pieces(&running, extent, image, pieces).await?;
        let from = usize::try_from(offset - first * BLOCK_SIZE_U64).unwrap_or(0);
        Ok(blocks.slice(from..from + usize::try_from(end - offset).unwrap_or(0)))
    }

    async fn write(&self, offset: u64, data: Bytes) -> Result<()> {
        let (running, image) = self.open()?;
        let len = data.len() as u64;
        self.check(&image, offset, len)?;
        if data.is_empty() {
            return Ok(());
        }
        let mut acks = Vec::with_capacity(1);
        if offset.is_multiple_of(BLOCK_SIZE_U64) && (data.len() as u64).is_multiple_of(BLOCK_SIZE_U64) {
            let _shared = image.edges.read().await;
            self.queue(&running.path, offset / BLOCK_SIZE_U64, data, &mut acks).await?;
        } else {
            self.write_unaligned(&running, &image, offset, &data, &mut acks).await?;
        }
        wait(acks).await?;
        let pause = running.path.pause(Instant::now().into_std(), len);
        if !pause.is_zero() {
            tokio::time::sleep(pause).await;
        }
        Ok(())
    }

    async fn flush(&self) -> Result<()> {
        let (running, _) = self.open()?;
        running::flush_acknowledged(&running.path).await
    }

    async fn zero(&self, offset: u64, len: u64, trim: bool) -> Result<()> {
        let (running, image) = self.open()?;
        self.check(&image, offset, len)?;
        let first = offset.div_ceil(BLOCK_SIZE_U64);
        let end = (offset + len) / BLOCK_SIZE_U64;
        if first >= end {
            // Within one or two blocks: nothing whole to zero.
            return self.write(offset, Bytes::from(vec![0; usize::try_from(len).unwrap_or(0)])).await;
        }
        let head = first * BLOCK_SIZE_U64 - offset;
        let tail = offset + len - end * BLOCK_SIZE_U64;
        for (at, part) in [(offset, head), (end * BLOCK_SIZE_U64, tail)] {
            if part > 0 {
                self.write(at, Bytes::from(vec![0; usize::try_from(part).unwrap_or(0)])).await?;
            }
        }
        let extent = Extent { lba: first, blocks: end - first };
        let op = if trim { Op::Trim { volume: self.id, extent } } else { Op::Zero { volume: self.id, extent } };
        let ack = {
            let _shared = image.edges.read().await;
            queue(&running.path, &op).await?
        };
        wait(vec![ack]).await
    }
}

/// Gives a record its place in the write order.
async fn queue(path: &WritePath, op: &Op) -> Result<Ack> {
    loop {
        match path.submit(op)? {
            Submitted::Accepted(_, ack) => return Ok(ack),
            Submitted::Wait => path.room().await,
        }
    }
}

async fn wait(acks: Vec<Ack>) -> Result<()> {
    for ack in acks {
        ack.await.map_err(|_| running::gone())??;
    }
    Ok(())
}

/// Blocks of the point that the branch forked from; those beyond its end are zero.
pub(super) async fn fetch(running: &Running, group: &Group, volume: VolumeId, part: Extent) -> Result<Vec<BlockRun>> {
    let base = running.base(group).await?;
    let size = base.volumes().iter().find(|one| one.id == volume).map_or(0, |one| one.size_blocks);
    let known = part.end().min(size).saturating_sub(part.lba);
    let mut runs = if known > 0 { base.read_blocks(volume, part.lba, known).await? } else { Vec::new() };
    if known < part.blocks {
        runs.push(BlockRun::Zero(Extent { lba: part.lba + known, blocks: part.blocks - known }));
    }
    Ok(runs)
}

/// Keeps blocks that came from the vault.
pub(super) fn fill(image: &Image, run: &BlockRun) -> Result<()> {
    match run {
        BlockRun::Zero(extent) => image.fill(extent.lba, None, extent.blocks),
        BlockRun::Data { lba, data } => image.fill(*lba, Some(data), data.len() as u64 / BLOCK_SIZE_U64),
    }
}

fn place(out: &mut BytesMut, origin: u64, lba: u64, data: &[u8]) {
    let from = bytes(lba - origin);
    out[from..from + data.len()].copy_from_slice(data);
}

fn bytes(blocks: u64) -> usize {
    usize::try_from(blocks * BLOCK_SIZE_U64).unwrap_or(usize::MAX)
}
