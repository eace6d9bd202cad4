//! Comparing an agent's disks with a point in the vault: the agent hashes what it has, a process server knows the point's tree.
//!
//! ```text
//! agent: Group::compare ══ Compare, Leaves, Leaf ══> process server: the point's trees in the vault
//!                      <══ Keyed, Unequal, Dirty ══
//! ```
//! No content goes over the line, in either direction, and of the history the agent learns no more than which of the blocks that it has
//! are others at that point. What the blocks of its volumes are hashed with it is told for this: that opens nothing. Whether it may ask is
//! its admission's to say: only while somebody has the group compared.
//!
//! Neither side remembers anything. A line that breaks ends the comparison.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use futures::stream::{StreamExt, TryStreamExt, iter};
use lifeboat_format::hash::BlockHasher;
use lifeboat_format::stream::compare::{Compare, Keyed, KeyedVolume, Leaf, Leaves, Unequal};
use lifeboat_format::stream::recall::{BranchPlace, Dirty};
use lifeboat_format::stream::{self, FrameKind};
use lifeboat_model::{Extent, GatewayId, GroupId, LEAF_BLOCKS, VolumeId};
use lifeboat_vault::Vault;
use tokio::io::{ReadHalf, WriteHalf};
use tokio::sync::mpsc;

use super::recall::{AHEAD, LineSink, speak};
use super::{Line, Relay, line, wire};
use crate::branch::Position;
use crate::error::{EngineError, ErrorKind, Result};
use crate::rehydrate::{ImageReader, local_leaf, unequal_blocks};
use crate::segments::{Reader, ReaderLimits};
use crate::tree::Tree;
use crate::view::PointView;

/// Leaves (2 MiB each) that one question is about, and how many of them are read at a time.
const LEAVES: u64 = 16;
const LEAVES_PARALLEL: usize = 4;

/// The agent's end of a line for comparing.
pub(crate) struct Comparing {
    line: line::Asking,
}

/// A volume at the point that is compared with.
#[derive(Clone, Debug)]
pub(crate) struct AtPoint {
    pub(crate) volume: VolumeId,
    pub(crate) blocks: u64,
    hasher: Arc<BlockHasher>,
}

impl Comparing {
    /// A line for comparing with this point, and the volumes that it shows.
    ///
    /// # Errors
    /// `Retry` when no process server answers or the vault is away, and while nobody has the group compared.
    pub(crate) async fn open(
        relay: &dyn Relay,
        group: GroupId,
        agent: GatewayId,
        at: Position,
    ) -> Result<(Self, Vec<AtPoint>)> {
        let mut this = Self { line: line::Asking::new(relay.connect_beside().await?) };
        let at = BranchPlace { branch: at.branch, place: wire::place(at) };
        this.line.write(&Compare { group, agent, at }.encode().map_err(wire::refused)?).await?;
        let keyed = Keyed::decode(&this.body(FrameKind::Keyed).await?).map_err(wire::refused)?;
        let volumes = keyed.volumes.into_iter().map(|one| AtPoint {
            volume: one.volume,
            blocks: one.blocks,
            hasher: Arc::new(BlockHasher::new(&one.key)),
        });
        Ok((this, volumes.collect()))
    }

    /// Walks the blocks of a volume that `image` holds otherwise than the point shows.
    ///
    /// # Errors
    /// `Retry` when the line breaks or the vault is away; what the disk says.
    pub(crate) async fn differing(
        &mut self,
        at: &AtPoint,
        image: &Arc<dyn ImageReader>,
        each: &mut (dyn FnMut(Extent) + Send),
    ) -> Result<()> {
        let there = image.blocks(at.volume).await?;
        let leaves = at.blocks.div_ceil(LEAF_BLOCKS);
        let mut first = 0;
        while first < leaves {
            let end = first.saturating_add(LEAVES).min(leaves);
            let hashed = iter(first..end).map(|leaf| {
                let (image, at) = (Arc::clone(image), at.clone());
                async move {
                    let base = leaf.saturating_mul(LEAF_BLOCKS);
                    let blocks = LEAF_BLOCKS.min(at.blocks.saturating_sub(base));
                    local_leaf(&image, &at.hasher, at.volume, there, base, blocks).await
                }
            });
            let mut hashed = std::pin::pin!(hashed.buffered(LEAVES_PARALLEL).try_collect::<Vec<_>>());
            let local = loop {
                // A disk that is slow is no line that is dead.
                match tokio::time::timeout(line::BEAT, hashed.as_mut()).await {
                    Ok(local) => break local?,
                    Err(_) => self.line.write(&stream::beat()).await?,
                }
            };
            let hashes = local.iter().map(|leaf| leaf.leaf).collect();
            self.line.write(&Leaves { volume: at.volume, first, hashes }.encode().map_err(wire::refused)?).await?;
            let unequal = Unequal::decode(&self.body(FrameKind::Unequal).await?).map_err(wire::refused)?;
            for leaf in unequal.leaves {
                let known = leaf.checked_sub(first).and_then(|index| local.get(usize::try_from(index).ok()?));
                let known = known.ok_or_else(|| {
                    let why = format!("{} answers for blocks that it wasn't asked about", self.line.server);
                    EngineError::new(ErrorKind::Retry, why)
                })?;
                let asked = Leaf { volume: at.volume, leaf, blocks: known.blocks.clone() };
                self.line.write(&asked.encode().map_err(wire::refused)?).await?;
                let Dirty { extents, .. } =
                    Dirty::decode(&self.body(FrameKind::Dirty).await?).map_err(wire::refused)?;
                extents.into_iter().for_each(&mut *each);
            }
            first = end;
        }
        Ok(())
    }

    /// The body of the answer that is expected.
    async fn body(&mut self, wanted: FrameKind) -> Result<Bytes> {
        Ok(self.line.read(|kind| kind == wanted).await?.1)
    }
}

/// Says what differs from a point, until the line is over.
pub(super) async fn serve(
    vault: &Arc<Vault>,
    compare: Compare,
    peer: &str,
    input: &mut ReadHalf<Line>,
    output: &mut WriteHalf<Line>,
) -> EngineError {
    let (frames, written) = mpsc::channel(AHEAD);
    speak(answer(vault, compare, peer, input, frames), written, peer, output).await
}

async fn answer(
    vault: &Arc<Vault>,
    compare: Compare,
    peer: &str,
    input: &mut ReadHalf<Line>,
    frames: mpsc::Sender<Vec<u8>>,
) -> Result<std::convert::Infallible> {
    let reader = Reader::open(vault, compare.group, ReaderLimits::default()).await?;
    let view = PointView::open_at(&reader, wire::position(compare.at.branch, compare.at.place)).await?;
    let mut trees: BTreeMap<VolumeId, Tree> = BTreeMap::new();
    let mut volumes = Vec::new();
    for volume in view.volumes() {
        trees.insert(volume.id, view.tree(volume.id).await?);
        let key = vault.volume_keys(volume.id).await.map_err(crate::cause::vault)?.keys.hash.clone();
        volumes.push(KeyedVolume { volume: volume.id, blocks: volume.size_blocks, key });
    }
    let to = LineSink(frames);
    to.send(Keyed { volumes }.encode()).await?;
    let of = |volume: VolumeId| {
        let unknown =
            || EngineError::new(ErrorKind::Invalid, format!("{peer} compares {volume}, which the point hasn't"));
        trees.get(&volume).ok_or_else(unknown)
    };
    loop {
        let allowed = |kind| matches!(kind, FrameKind::Leaves | FrameKind::Leaf | FrameKind::Beat);
        let received = line::read(input, peer, allowed).await?;
        match received.kind {
            FrameKind::Leaves => {
                let Leaves { volume, first, hashes } = Leaves::decode(&received.body()).map_err(wire::refused)?;
                let tree = of(volume)?;
                let mut leaves = Vec::new();
                for (leaf, hash) in (first..).zip(&hashes) {
                    let base = leaf.saturating_mul(LEAF_BLOCKS);
                    if base < tree.blocks() && tree.leaf_hash(&*reader, base).await? != *hash {
                        leaves.push(leaf);
                    }
                }
                to.send(Unequal { leaves }.encode()).await?;
            }
            FrameKind::Leaf => {
                let Leaf { volume, leaf, blocks } = Leaf::decode(&received.body()).map_err(wire::refused)?;
                let extents = unequal_blocks(of(volume)?, &reader, leaf.saturating_mul(LEAF_BLOCKS), &blocks).await?;
                to.send(Dirty { volume, extents }.encode()).await?;
            }
            _ => {}
        }
    }
}
