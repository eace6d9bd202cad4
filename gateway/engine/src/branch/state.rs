//! The state of a group at a position: the newest map at or before it, and what was shipped after that map.
//!
//! Segments are read in order, many ahead, and folded at once: memory grows with the blocks touched since the map, not
//! with the log. Every link of the chain is checked on the way.
//!
//! Three round trips to the store, if a map is not far: the epochs and the maps are listed; the epochs and the map's footer
//! are read; then every segment after the map. Nothing here lists the log, which may be very long.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use futures::stream::{self, StreamExt, TryStreamExt};
use lifeboat_format::map::Child;
use lifeboat_format::segment::{Operation, RecoveryPoint, SegmentHash, SegmentIndex};
use lifeboat_model::{Epoch, Extent, Lsn, PointId, SegmentId, SegmentSeq, VolumeId};

use super::{BranchLog, LINEAGE_MAX, PARALLEL, Position};
use crate::cause;
use crate::error::{EngineError, ErrorKind, Result};
use crate::points::PointInfo;
use crate::segments::{MapHead, MapListing, Reader, Segment};
use crate::tree::{Change, Changes, Location, Run, Slot, To, Tree};

/// Segments read at a time: as many as there usually are between two maps.
const SEGMENTS_PARALLEL: usize = 128;

/// Which state is wanted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Target {
    pub(crate) position: Position,
    /// Stop at this point of the last segment instead of at its end.
    pub(crate) point: Option<PointId>,
}

/// What is read on the way although the state doesn't need it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ahead {
    /// Nothing.
    Nothing,
    /// What reading the first block of each volume needs: somebody will look at it.
    FirstBlocks,
}

/// One volume: its tree in the newest map, and what was shipped after it.
#[derive(Clone, Debug)]
pub(crate) struct VolumeState {
    pub(crate) base: Tree,
    pub(crate) changes: Changes<Slot>,
}

impl VolumeState {
    /// A volume that no map knows yet.
    fn new(base: Tree) -> Self {
        let changes = Changes::new(base.blocks());
        Self { base, changes }
    }

    /// The tree with the changes in it.
    pub(crate) async fn tree(&self, reader: &Reader) -> Result<Tree> {
        let mut tree = self.base.clone();
        apply(reader, &mut tree, &self.changes).await?;
        Ok(tree)
    }
}

/// Puts changes into a tree, its size included.
pub(crate) async fn apply(reader: &Reader, tree: &mut Tree, changes: &Changes<Slot>) -> Result<()> {
    if changes.blocks() != tree.blocks() {
        tree.resize(reader, changes.blocks()).await?;
    }
    let changes: Vec<Change> = changes
        .iter()
        .map(|(extent, slot)| Change { extent, to: slot.map_or(To::Zero, |slot| To::Block(*slot)) })
        .collect();
    tree.update(reader, &changes).await
}

/// A group at a position.
#[derive(Clone, Debug)]
pub(crate) struct State {
    /// Chain value of the last segment of the target's branch; zero when it has none.
    pub(crate) hash: SegmentHash,
    pub(crate) volumes: BTreeMap<VolumeId, VolumeState>,
    /// Volumes that were there and whose keys were destroyed since: nothing of them can be read.
    pub(crate) erased: BTreeSet<VolumeId>,
    /// Points of the target's branch, up to the position.
    pub(crate) points: Vec<PointInfo>,
    /// The recovery point at the very end, with its roots.
    pub(crate) at_point: Option<RecoveryPoint>,
    /// Segments read after that map.
    pub(crate) segments: u64,
}

impl State {
    /// Reads the state at `target`.
    pub(crate) async fn load(reader: &Reader, target: Target, ahead: Ahead) -> Result<Self> {
        let spans = lineage(reader, target).await?;
        let mut state = Self {
            hash: SegmentHash::ZERO,
            volumes: BTreeMap::new(),
            erased: BTreeSet::new(),
            points: Vec::new(),
            at_point: None,
            segments: 0,
        };
        for span in spans {
            state.fold(reader, span, ahead).await?;
        }
        Ok(state)
    }

    /// Lays one branch's part over what its parents left.
    async fn fold(&mut self, reader: &Reader, span: Span, ahead: Ahead) -> Result<()> {
        let Span { log, head, until, stop_at } = span;
        self.points.clear();
        let mut chain = match &head {
            Some(head) => {
                let at = head.footer.position;
                Chain { previous: at.segment_hash, lsn: at.lsn }
            }
            None => {
                let lsn = log.origin().map_or(Lsn::ZERO, |origin| origin.at.lsn);
                Chain { previous: SegmentHash::ZERO, lsn }
            }
        };
        let from = head
            .as_ref()
            .map_or((Epoch(1), SegmentSeq(0)), |head| (head.footer.position.epoch, head.footer.position.seq));
        let ids = expected(&log, from, &until)?;
        let mut segments =
            stream::iter(ids).map(|id| async move { reader.segment(id, None).await }).buffered(SEGMENTS_PARALLEL);
        // The map's volumes are looked at while the first segments are under way.
        let mut next = match &head {
            Some(head) => futures::try_join!(self.start(reader, &log, head, ahead), segments.try_next())?.1,
            None => segments.try_next().await?,
        };
        while let Some(segment) = next {
            chain.check(&segment)?;
            let is_last = segment.id.epoch == until.epoch && segment.id.seq == until.seq;
            self.take(reader, &segment, stop_at.filter(|_| is_last)).await?;
            next = segments.try_next().await?;
        }
        self.hash = chain.previous;
        if chain.lsn != until.lsn && stop_at.is_none() {
            return Err(cause::tampered(format!(
                "branch {} ends at position {} where {} was expected",
                log.branch, chain.lsn, until.lsn
            )));
        }
        Ok(())
    }

    /// Begins from a map.
    async fn start(&mut self, reader: &Reader, log: &BranchLog, head: &MapHead, ahead: Ahead) -> Result<()> {
        self.at_point = None;
        let volumes = stream::iter(head.footer.roots.clone())
            .map(|root| async move {
                let Some(hasher) = reader.hasher_unless_erased(root.volume).await? else {
                    return Ok((root.volume, None));
                };
                let node = match root.root {
                    Child::Zero => None,
                    Child::Node(node) => Some(node),
                };
                let tree = Tree::stored(root.volume, hasher, root.size_blocks, node);
                if ahead == Ahead::FirstBlocks {
                    look_ahead(reader, &tree).await;
                }
                Ok::<_, EngineError>((root.volume, Some(VolumeState::new(tree))))
            })
            .buffered(PARALLEL);
        let volumes: Vec<(VolumeId, Option<VolumeState>)> = volumes.try_collect().await?;
        (self.volumes, self.erased) = (BTreeMap::new(), BTreeSet::new());
        for (volume, state) in volumes {
            match state {
                Some(state) => drop(self.volumes.insert(volume, state)),
                None => drop(self.erased.insert(volume)),
            }
        }
        self.points = head
            .footer
            .points
            .iter()
            .filter(|point| point.consistent)
            .map(|point| PointInfo::retained(reader.group(), log.branch, point))
            .collect();
        Ok(())
    }

    /// Takes one segment in, up to a point of it if one is named.
    async fn take(&mut self, reader: &Reader, segment: &Segment, stop_at: Option<PointId>) -> Result<()> {
        self.segments = self.segments.saturating_add(1);
        self.at_point = None;
        for volume in &segment.index.volumes {
            if let Entry::Vacant(slot) = self.volumes.entry(volume.volume) {
                match reader.hasher_unless_erased(volume.volume).await? {
                    Some(hasher) => {
                        slot.insert(VolumeState::new(Tree::empty(volume.volume, hasher, volume.size_blocks)));
                    }
                    None => drop(self.erased.insert(volume.volume)),
                }
            }
        }
        let mut found = false;
        let last = apply_index(segment.id, &segment.index, stop_at, &mut self.volumes, &self.erased)?;
        for point in segment.index.points() {
            if point.consistent {
                self.points.push(PointInfo::recorded(reader.group(), segment.id, point));
            }
            if Some(point.id) == stop_at {
                found = true;
                break;
            }
        }
        if let Some(wanted) = stop_at
            && !found
        {
            return Err(EngineError::new(
                ErrorKind::NotFound,
                format!("segment {} records no recovery point {wanted}", segment.id),
            ));
        }
        self.at_point = last;
        Ok(())
    }
}

/// Folds a segment's operations into the changes of its volumes; gives the point at the end, if it ends with one.
fn apply_index(
    id: SegmentId,
    index: &SegmentIndex,
    stop_at: Option<PointId>,
    volumes: &mut BTreeMap<VolumeId, VolumeState>,
    erased: &BTreeSet<VolumeId>,
) -> Result<Option<RecoveryPoint>> {
    let unknown = || cause::tampered(format!("segment {id} names a volume that it doesn't declare"));
    let refused = |error| cause::object(&id.to_string(), error);
    let mut last = None;
    for operation in &index.operations {
        last = None;
        match operation {
            Operation::Frame(frame) => {
                let entry = index.frame(*frame).map_err(refused)?;
                let volume = index.volume_of(entry).map_err(refused)?.volume;
                if erased.contains(&volume) {
                    continue;
                }
                let changes = &mut volumes.get_mut(&volume).ok_or_else(unknown)?.changes;
                for (lba, slot, hash) in entry.blocks() {
                    changes.set(lba, Slot { hash, at: Location { segment: id, frame: frame.0, slot } });
                }
            }
            Operation::Zero { volume, .. } | Operation::Trim { volume, .. } | Operation::Resize { volume, .. }
                if erased.contains(volume) => {}
            Operation::Zero { volume, extent } | Operation::Trim { volume, extent } => {
                volumes.get_mut(volume).ok_or_else(unknown)?.changes.zero(*extent);
            }
            Operation::Resize { volume, size_blocks } => {
                volumes.get_mut(volume).ok_or_else(unknown)?.changes.resize(*size_blocks);
            }
            Operation::Point(point) => {
                last = Some(RecoveryPoint::clone(point));
                if Some(point.id) == stop_at {
                    break;
                }
            }
        }
    }
    Ok(last)
}

/// A stretch of one branch: from a map, or from its beginning, up to a position.
#[derive(Debug)]
struct Span {
    log: BranchLog,
    head: Option<Arc<MapHead>>,
    until: Position,
    stop_at: Option<PointId>,
}

/// The stretches that lead to a position, the oldest first: back to the nearest map, through as many forks as it takes.
async fn lineage(reader: &Reader, target: Target) -> Result<Vec<Span>> {
    let mut spans: Vec<Span> = Vec::new();
    let mut seen = HashSet::new();
    let Target { position: mut until, point: mut stop_at } = target;
    loop {
        if !seen.insert(until.branch) || spans.len() >= LINEAGE_MAX {
            return Err(cause::tampered(format!("branch {} descends from itself", until.branch)));
        }
        let (log, maps) = futures::try_join!(BranchLog::read(reader, until.branch), maps_until(reader, until))?;
        if !log.counts(until.epoch, until.seq) {
            return Err(EngineError::new(
                ErrorKind::NotFound,
                format!(
                    "segment {} of epoch {} is not in the history of branch {}: its writer had been fenced",
                    until.seq, until.epoch, until.branch
                ),
            ));
        }
        let mut head = None;
        for map in &maps {
            let candidate = match reader.map_head(map).await {
                // A damaged map costs time, not points: what an older one and a longer log give is the same.
                Err(error) if error.kind() == ErrorKind::Tampered => {
                    tracing::warn!(%error, "a map is damaged; an older one is used");
                    continue;
                }
                candidate => candidate?,
            };
            let at = &candidate.footer.position;
            let before = (at.epoch, at.seq) <= (until.epoch, until.seq) && at.lsn == map.lsn;
            if candidate.footer.is_head() && before && log.counts(at.epoch, at.seq) {
                head = Some(candidate);
                break;
            }
        }
        let origin = log.origin();
        let done = head.is_some();
        spans.push(Span { log, head, until, stop_at });
        match origin {
            Some(origin) if !done => (until, stop_at) = (origin.at, origin.point),
            _ => break,
        }
    }
    spans.reverse();
    Ok(spans)
}

/// The maps that may be the one to start from, the newest first. The first one's footer is read here, while the epochs
/// are: it nearly always is the one.
async fn maps_until(reader: &Reader, until: Position) -> Result<Vec<MapListing>> {
    let mut maps = reader.list_maps(until.branch).await?;
    maps.retain(|map| map.lsn <= until.lsn);
    if let Some(first) = maps.first()
        && let Err(error) = reader.map_head(first).await
        && error.kind().is_unanswered()
    {
        return Err(error);
    }
    Ok(maps)
}

/// The segments after `from` up to `until` that count, in order.
pub(crate) fn expected(log: &BranchLog, from: (Epoch, SegmentSeq), until: &Position) -> Result<Vec<SegmentId>> {
    let mut ids = Vec::new();
    for epoch in (from.0.0..=until.epoch.0).map(Epoch) {
        let first = if epoch == from.0 { from.1.next() } else { SegmentSeq(1) };
        let last = if epoch == until.epoch {
            until.seq
        } else {
            let cut = log.cut_of(epoch).ok_or_else(|| {
                EngineError::new(
                    ErrorKind::Retry,
                    format!("epoch {epoch} of branch {} is being ended by another gateway: try again", log.branch),
                )
            })?;
            cut.last_seq
        };
        ids.extend((first.0..=last.0).map(|seq| SegmentId { branch: log.branch, epoch, seq: SegmentSeq(seq) }));
    }
    Ok(ids)
}

/// Reads the index of the object that holds a volume's first block, which is what whoever mounts a volume reads first. Only
/// a convenience: what fails here fails again, and is reported, where it is needed.
async fn look_ahead(reader: &Reader, tree: &Tree) {
    let found = tree.lookup(&reader.at_hand(), Extent { lba: 0, blocks: 1 }).await;
    if let Ok([Run::Block { slot, .. }]) = found.as_deref() {
        let _ = reader.look_at(slot.at.segment).await;
    }
}

/// The links of the chain: hash and position of the segment before.
#[derive(Debug)]
struct Chain {
    previous: SegmentHash,
    lsn: Lsn,
}

impl Chain {
    fn check(&mut self, segment: &Segment) -> Result<()> {
        if self.previous != segment.header.previous {
            return Err(cause::tampered(format!("segment {} doesn't follow the one before it", segment.id)));
        }
        if self.lsn.next() != segment.header.first_lsn {
            return Err(cause::tampered(format!("segment {} leaves out positions of the log", segment.id)));
        }
        self.previous = segment.hash;
        self.lsn = segment.header.last_lsn;
        Ok(())
    }
}
