//! The way back of an agent's disks: a process server that has the vault reads the history, and the agent writes what differs.
//!
//! ```text
//! agent: Group::rehydrate ══ OwnEnd, Dirty, Fetch ══> process server: history in the vault, by hashes
//!                        <══ Target, Blocks, Reached, Fetched ══
//! ```
//! The agent drives: what its disks hold, which pass was broken off and how far that was, is in its own state. The process server
//! remembers nothing and is given no more than lists of blocks; it sends no block that the trees of the two points don't tell apart. A
//! line that breaks ends the pass; the next one goes on from the cursor that the disks have durably, through any process server.
//!
//! Back-pressure is the line's: blocks are read from the vault as fast as the agent's disk takes them.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use lifeboat_format::stream::recall::{
    Blocks, BranchPlace, Dirty, FRAME_CONTENT_MAX, FRAME_EXTENTS_MAX, Fetch, Fetched, OwnEnd, Reached, Recall, Target,
    decode_own_end_is, own_end_is,
};
use lifeboat_format::stream::{self, FrameKind};
use lifeboat_model::{BLOCK_SIZE, BranchId, Epoch, Extent, ExtentSet, GatewayId, GroupId, VolumeId};
use lifeboat_vault::Vault;
use tokio::io::{ReadHalf, WriteHalf};
use tokio::sync::mpsc;

use super::{Line, Relay, line, wire};
use crate::branch::{self, Position};
use crate::error::{EngineError, ErrorKind, Result};
use crate::points::PointInfo;
use crate::rehydrate::{Cursor, ImageSink, Pass, RehydrateLimits, RehydrateStats, rehydrate};
use crate::segments::{Reader, ReaderLimits};

/// Extents of one pass that an agent may name as written by itself, at most: beyond that every block is fetched.
const EXTENTS_MAX: usize = 1 << 20;
/// Frames that wait for the line.
pub(super) const AHEAD: usize = 4;

/// The agent's end of a line for the way back.
pub(crate) struct Recalling {
    line: line::Asking,
    group: GroupId,
}

/// What a process server sends in a pass.
pub(crate) enum Piece {
    /// Content.
    Data(VolumeId, u64, Bytes),
    /// Zeroes.
    Zero(VolumeId, Extent),
    /// Everything before it was sent.
    Reached(Cursor),
    /// The pass is complete.
    Done(RehydrateStats),
}

/// The point that a pass goes to.
#[derive(Debug)]
pub(crate) struct Aim {
    pub(crate) point: PointInfo,
    /// Whether it is the one that was broken off.
    pub(crate) begun: bool,
    /// Whether every block comes.
    pub(crate) full: bool,
    pub(crate) volumes: Vec<(VolumeId, u64)>,
}

impl Recalling {
    /// A line for the way back.
    ///
    /// # Errors
    /// `Retry` when no process server answers.
    pub(crate) async fn open(relay: &dyn Relay, group: GroupId, agent: GatewayId) -> Result<Self> {
        let mut line = line::Asking::new(relay.connect().await?);
        line.write(&Recall { group, agent }.encode().map_err(wire::refused)?).await?;
        Ok(Self { line, group })
    }

    /// Where what this agent wrote ends in the vault, on a branch that was taken over.
    ///
    /// # Errors
    /// `Retry` when the line breaks or the vault is away; `Invalid` while nobody has taken it over.
    pub(crate) async fn own_end(&mut self, branch: BranchId, epoch: Epoch) -> Result<Position> {
        self.line.write(&OwnEnd { branch, epoch }.encode().map_err(wire::refused)?).await?;
        let (_, body) = self.line.read(|kind| kind == FrameKind::OwnEndIs).await?;
        let end = decode_own_end_is(&body).map_err(wire::refused)?;
        Ok(wire::position(end.branch, end.place))
    }

    /// Begins a pass; its content comes by [`Self::next`].
    ///
    /// # Errors
    /// `Retry` when the line breaks or the vault is away; `NotFound` when the branch has no point.
    pub(crate) async fn fetch(&mut self, pass: &Pass) -> Result<Aim> {
        let count: usize = pass.dirty.values().map(|extents| extents.iter().count()).sum();
        let full = pass.full || count > EXTENTS_MAX;
        for (volume, extents) in pass.dirty.iter().filter(|_| !full) {
            let all: Vec<Extent> = extents.iter().collect();
            for part in all.chunks(FRAME_EXTENTS_MAX) {
                let dirty = Dirty { volume: *volume, extents: part.to_vec() };
                self.line.write(&dirty.encode().map_err(wire::refused)?).await?;
            }
        }
        let fetch = Fetch {
            branch: pass.branch,
            base: pass.base.map(|at| BranchPlace { branch: at.branch, place: wire::place(at) }),
            target: pass.target,
            cursor: pass.cursor.map(|cursor| Reached { volume: cursor.volume, lba: cursor.lba }),
            full,
        };
        self.line.write(&fetch.encode().map_err(wire::refused)?).await?;
        let (_, body) = self.line.read(|kind| kind == FrameKind::Target).await?;
        let Target { branch, point, begun, full, volumes } = Target::decode(&body).map_err(wire::refused)?;
        Ok(Aim { point: PointInfo::retained(self.group, branch, &point), begun, full, volumes })
    }

    /// What comes next in a pass.
    ///
    /// # Errors
    /// `Retry` when the line breaks or the vault is away.
    pub(crate) async fn next(&mut self) -> Result<Piece> {
        let content = |kind| matches!(kind, FrameKind::Blocks | FrameKind::Reached | FrameKind::Fetched);
        let (kind, body) = self.line.read(content).await?;
        match kind {
            FrameKind::Blocks => {
                let Blocks { volume, extent, data } = Blocks::decode(&body).map_err(wire::refused)?;
                Ok(match data {
                    Some(data) => Piece::Data(volume, extent.lba, body.slice_ref(data)),
                    None => Piece::Zero(volume, extent),
                })
            }
            FrameKind::Reached => {
                let Reached { volume, lba } = Reached::decode(&body).map_err(wire::refused)?;
                Ok(Piece::Reached(Cursor { volume, lba }))
            }
            _ => {
                let Fetched { blocks_compared, blocks_moved, bytes_fetched } =
                    Fetched::decode(&body).map_err(wire::refused)?;
                Ok(Piece::Done(RehydrateStats { blocks_compared, blocks_moved, bytes_fetched }))
            }
        }
    }
}

/// Reads the history for an agent until its line is over.
pub(super) async fn serve(
    vault: &Arc<Vault>,
    recall: Recall,
    peer: &str,
    input: &mut ReadHalf<Line>,
    output: &mut WriteHalf<Line>,
) -> EngineError {
    let (frames, written) = mpsc::channel(AHEAD);
    speak(answer(vault, recall, peer, input, frames), written, peer, output).await
}

/// Answers until the line is over, and says that it is there meanwhile.
pub(super) async fn speak(
    answering: impl Future<Output = Result<std::convert::Infallible>>,
    mut written: mpsc::Receiver<Vec<u8>>,
    peer: &str,
    output: &mut WriteHalf<Line>,
) -> EngineError {
    let writing = async {
        loop {
            let frame = match tokio::time::timeout(line::BEAT, written.recv()).await {
                Ok(Some(frame)) => frame,
                Ok(None) | Err(_) => stream::beat(),
            };
            line::write(output, peer, &frame).await?;
        }
    };
    let never: Result<std::convert::Infallible> = tokio::select! {
        over = answering => over,
        over = writing => over,
    };
    match never {
        Err(error) => error,
    }
}

async fn answer(
    vault: &Arc<Vault>,
    recall: Recall,
    peer: &str,
    input: &mut ReadHalf<Line>,
    frames: mpsc::Sender<Vec<u8>>,
) -> Result<std::convert::Infallible> {
    let mut dirty: BTreeMap<VolumeId, ExtentSet> = BTreeMap::new();
    let mut extents = 0_usize;
    let to = LineSink(frames);
    loop {
        let allowed = |kind| matches!(kind, FrameKind::OwnEnd | FrameKind::Dirty | FrameKind::Fetch | FrameKind::Beat);
        let received = line::read(input, peer, allowed).await?;
        let body = received.body();
        match received.kind {
            FrameKind::OwnEnd => {
                let OwnEnd { branch, epoch } = OwnEnd::decode(&body).map_err(wire::refused)?;
                let end = branch::settle_tenures(vault, recall.group, branch, epoch, recall.agent).await?;
                let end = BranchPlace { branch: end.branch, place: wire::place(end) };
                to.send(own_end_is(&end)).await?;
            }
            FrameKind::Dirty => {
                let more = Dirty::decode(&body).map_err(wire::refused)?;
                extents = extents.saturating_add(more.extents.len());
                if extents > EXTENTS_MAX {
                    let why = format!("{peer} names more blocks than one pass may: fetch every block");
                    return Err(EngineError::new(ErrorKind::Invalid, why));
                }
                let known = dirty.entry(more.volume).or_default();
                more.extents.into_iter().for_each(|extent| known.insert(extent));
            }
            FrameKind::Fetch => {
                let Fetch { branch, base, target, cursor, full } = Fetch::decode(&body).map_err(wire::refused)?;
                let pass = Pass {
                    branch,
                    base: base.map(|base| wire::position(base.branch, base.place)),
                    target,
                    cursor: cursor.map(|cursor| Cursor { volume: cursor.volume, lba: cursor.lba }),
                    full,
                    dirty: std::mem::take(&mut dirty),
                };
                extents = 0;
                let done = send_pass(vault, recall.group, pass, &to).await?;
                let RehydrateStats { blocks_compared, blocks_moved, bytes_fetched } = done;
                to.send(Fetched { blocks_compared, blocks_moved, bytes_fetched }.encode()).await?;
            }
            _ => {}
        }
    }
}

async fn send_pass(vault: &Arc<Vault>, group: GroupId, pass: Pass, to: &LineSink) -> Result<RehydrateStats> {
    let reader = Reader::open(vault, group, ReaderLimits::default()).await?;
    let cursor = pass.cursor;
    let aimed = pass.aim(&reader).await?;
    let target = Target {
        branch: aimed.point.branch,
        point: aimed.point.to_retained(),
        begun: aimed.begun,
        full: aimed.full,
        volumes: aimed.view.volumes().iter().map(|volume| (volume.id, volume.size_blocks)).collect(),
    };
    to.send(target.encode()).await?;
    rehydrate(&aimed.view, aimed.source, to, cursor.filter(|_| aimed.begun), RehydrateLimits::default()).await
}

/// What a pass moves, onto the line.
pub(super) struct LineSink(pub(super) mpsc::Sender<Vec<u8>>);

impl LineSink {
    pub(super) async fn send(&self, frame: std::result::Result<Vec<u8>, lifeboat_format::FormatError>) -> Result<()> {
        let frame = frame.map_err(wire::refused)?;
        self.0.send(frame).await.map_err(|_| gone())
    }
}

fn gone() -> EngineError {
    EngineError::new(ErrorKind::Closed, "the line of the agent is over")
}

#[async_trait]
impl ImageSink for LineSink {
    /// Sizes were said before.
    async fn resize(&self, _: VolumeId, _: u64) -> Result<()> {
        Ok(())
    }

    async fn write(&self, volume: VolumeId, lba: u64, data: Bytes) -> Result<()> {
        let mut lba = lba;
        for part in data.chunks(FRAME_CONTENT_MAX) {
            let extent = Extent { lba, blocks: (part.len() / BLOCK_SIZE) as u64 };
            self.send(Blocks { volume, extent, data: Some(part) }.encode()).await?;
            lba = extent.end();
        }
        Ok(())
    }

    async fn zero(&self, volume: VolumeId, extent: Extent) -> Result<()> {
        self.send(Blocks { volume, extent, data: None }.encode()).await
    }

    async fn progress(&self, cursor: Cursor) -> Result<()> {
        self.send(Reached { volume: cursor.volume, lba: cursor.lba }.encode()).await
    }
}
