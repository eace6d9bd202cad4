//! One branch, walked along its log: chain, cuts and indexes; every volume's tree replayed and held against the roots that
//! the recovery points recorded; the blocks that damage took, at every point that is offered.
//!
//! A [`Standing`] is the group at a position. It is *broken* from a segment that can't be read until the next sound map:
//! nobody can open a point in between. Where a map stands, the walk goes on from the map, as a reader would.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use futures::stream::{self, StreamExt};
use lifeboat_format::epoch::Origin;
use lifeboat_format::hash::BlockHasher;
use lifeboat_format::map::RetainedPoint;
use lifeboat_format::segment::{Operation, RecoveryPoint, SegmentHash};
use lifeboat_model::{BranchId, Epoch, Extent, Lsn, MapId, PointId, SegmentId, SegmentSeq, VolumeId};

use super::data::{self, Loaded};
use super::group::{self, Branch, Forks};
use super::lost::Lost;
use super::report::{Verdict, of_engine};
use super::{BranchReport, Fault, Found, Inquiry, PointName, maps};
use crate::branch::apply;
use crate::error::{EngineError, ErrorKind, Result};
use crate::gc::Kept;
use crate::points::PointInfo;
use crate::segments::{MapListing, Reader, Segment, names};
use crate::tree::{Changes, Location, Slot, Tree};

/// Segments read ahead.
const PARALLEL: usize = 8;
pub(super) const SEGMENT: &str = "segment";

/// What is known of a group across its branches.
#[derive(Debug)]
pub(super) struct Known {
    pub(super) branches: HashSet<BranchId>,
    /// What the newest list of kept points says; none when it can't be read.
    kept: Option<Kept>,
    forks: Forks,
    /// How a branch's parent stood at the fork.
    pub(super) forked: HashMap<BranchId, Standing>,
    /// Segments that can't be read.
    pub(super) segments: HashMap<SegmentId, usize>,
    /// Frames that can't be read, or aren't what a leaf says.
    pub(super) frames: HashMap<(SegmentId, u32), usize>,
    /// Nodes that can't be read.
    pub(super) nodes: HashMap<(MapId, u32), usize>,
    /// What hashes a volume's blocks; none when its keys are gone, with the damage if that is one.
    hashers: HashMap<VolumeId, Result<Arc<BlockHasher>, Option<usize>>>,
    /// Data keys, by volume and number, with the damage of those that aren't there.
    data_keys: HashMap<(VolumeId, u32), Option<usize>>,
}

impl Known {
    pub(super) fn new(branches: &[Branch], kept: Option<Kept>) -> Self {
        Self {
            branches: branches.iter().map(|branch| branch.id).collect(),
            kept,
            forks: group::forks(branches),
            forked: HashMap::new(),
            segments: HashMap::new(),
            frames: HashMap::new(),
            nodes: HashMap::new(),
            hashers: HashMap::new(),
            data_keys: HashMap::new(),
        }
    }

    /// What hashes a volume's blocks.
    pub(super) async fn hasher(
        &mut self,
        inquiry: &Inquiry,
        reader: &Reader,
        volume: VolumeId,
    ) -> Result<Result<Arc<BlockHasher>, Option<usize>>> {
        if let Some(known) = self.hashers.get(&volume) {
            return Ok(known.clone());
        }
        let damaged = inquiry.findings().keys.get(&volume.to_string()).copied();
        let found = match inquiry.patiently(async || reader.hasher_unless_erased(volume).await).await {
            Ok(Some(hasher)) => Ok(hasher),
            Ok(None) => {
                let text = format!("{volume} was erased: its keys were destroyed, and its content with them");
                inquiry.note(&format!("keys/{volume}"), text);
                Err(None)
            }
            Err(error) if error.kind() == ErrorKind::Closed => return Err(error),
            Err(error) => Err(Some(damaged.unwrap_or_else(|| without_keys(inquiry, volume, &error)))),
        };
        self.hashers.insert(volume, found.clone());
        Ok(found)
    }
}

impl Known {
    /// Whether a point that a map or a segment records is still offered.
    fn offers(&self, point: &PointInfo) -> bool {
        self.kept.as_ref().is_none_or(|kept| kept.offers(point))
    }

    /// The damage because of which frames under a data key can't be decrypted.
    async fn data_key(&mut self, inquiry: &Inquiry, volume: VolumeId, number: u32) -> Result<Option<usize>> {
        if let Some(known) = self.data_keys.get(&(volume, number)) {
            return Ok(*known);
        }
        let vault = &inquiry.vault;
        let found = inquiry.patiently(async || vault.data_key(volume, number).await.map_err(crate::cause::vault)).await;
        let damage = match found {
            Ok(_) => None,
            Err(error) if error.kind() == ErrorKind::Closed => return Err(error),
            Err(error) => {
                let object = format!("keys/{volume}");
                let costs = format!("what was written to {volume} under its data key {number} can't be read");
                let found = Found::verdict(&object, "wrapped key", of_engine(&error));
                Some(inquiry.damage(Found { fault: Fault::Missing, ..found.costs(costs) }))
            }
        };
        self.data_keys.insert((volume, number), damage);
        Ok(damage)
    }
}

/// A volume whose keys are gone, although nobody erased it.
fn without_keys(inquiry: &Inquiry, volume: VolumeId, error: &EngineError) -> usize {
    let Verdict { fault, detail, .. } = of_engine(error);
    let object = format!("keys/{volume}");
    let found = Found::new(&object, "wrapped key", fault, detail);
    inquiry.damage(found.costs(format!("nothing of {volume} can be read until its keys are restored")))
}

/// A volume at a position.
#[derive(Clone, Debug)]
pub(super) struct VolumeStanding {
    pub(super) blocks: u64,
    /// None when it can't be known.
    pub(super) tree: Option<Tree>,
    /// What was written since the tree.
    changes: Changes<Slot>,
    pub(super) lost: Lost,
    /// Whether `lost` changed since a point was last charged.
    changed: bool,
    /// A damage that makes its whole content doubtful.
    pub(super) doubt: Option<usize>,
}

impl VolumeStanding {
    pub(super) fn new(blocks: u64, tree: Option<Tree>, lost: Lost) -> Self {
        Self { blocks, tree, changes: Changes::new(blocks), lost, changed: true, doubt: None }
    }
}

/// A group at a position of its log.
#[derive(Clone, Debug)]
pub(super) struct Standing {
    pub(super) lsn: Lsn,
    /// Hash of the branch's last segment; none when it can't be known.
    pub(super) hash: Option<SegmentHash>,
    /// The damage because of which nobody knows how the group stands here.
    pub(super) broken: Option<usize>,
    pub(super) volumes: BTreeMap<VolumeId, VolumeStanding>,
}

impl Standing {
    pub(super) fn empty(lsn: Lsn) -> Self {
        Self { lsn, hash: Some(SegmentHash::ZERO), broken: None, volumes: BTreeMap::new() }
    }
}

pub(super) async fn check(
    inquiry: &Inquiry,
    reader: &Arc<Reader>,
    branch: &Branch,
    known: &mut Known,
) -> Result<BranchReport> {
    let standing = group::beginning(inquiry, reader, branch, known);
    super::rebuilt::check(inquiry, reader, branch, known).await?;
    let (mut retained, listed_until) = retained(inquiry, reader, branch).await?;
    retained.retain(|_, point| known.offers(&PointInfo::retained(reader.group(), branch.id, point)));
    let report = BranchReport {
        branch: branch.id,
        segments: 0,
        segments_beyond: 0,
        maps: u64::try_from(branch.maps.len()).unwrap_or(u64::MAX),
        points: 0,
        points_sound: 0,
        newest: None,
        newest_sound: None,
    };
    let forks = known.forks.remove(&branch.id).unwrap_or_default();
    let mut walk = Walk {
        inquiry,
        reader,
        branch,
        known,
        standing,
        maps_done: 0,
        gone: None,
        retained,
        listed_until,
        forks,
        report,
    };
    walk.run().await?;
    Ok(walk.report)
}

/// The points that the newest sound map keeps, and how far into the log it goes: later points are all kept.
async fn retained(
    inquiry: &Inquiry,
    reader: &Reader,
    branch: &Branch,
) -> Result<(HashMap<PointId, RetainedPoint>, (Epoch, SegmentSeq))> {
    for (lsn, id, len) in branch.maps.iter().rev() {
        let listing = MapListing { branch: branch.id, lsn: *lsn, id: *id, len: *len };
        let head = match inquiry.patiently(async || reader.map_head(&listing).await).await {
            Ok(head) => head,
            Err(error) if error.kind() == ErrorKind::Closed => return Err(error),
            Err(_) => continue,
        };
        let at = head.footer.position;
        if head.footer.is_head() && branch.counts(at.epoch, at.seq) {
            let points = head.footer.points.iter().filter(|point| point.consistent);
            return Ok((points.map(|point| (point.id, point.clone())).collect(), (at.epoch, at.seq)));
        }
    }
    Ok((HashMap::new(), (Epoch(0), SegmentSeq(0))))
}

pub(super) struct Walk<'a> {
    pub(super) inquiry: &'a Inquiry,
    pub(super) reader: &'a Arc<Reader>,
    pub(super) branch: &'a Branch,
    pub(super) known: &'a mut Known,
    pub(super) standing: Standing,
    maps_done: usize,
    /// The damage that stands for segments that collecting garbage may have deleted.
    gone: Option<usize>,
    /// Points that are kept and were not come to yet.
    retained: HashMap<PointId, RetainedPoint>,
    listed_until: (Epoch, SegmentSeq),
    forks: Vec<(BranchId, Origin)>,
    report: BranchReport,
}

impl Walk<'_> {
    async fn run(&mut self) -> Result<()> {
        let (inquiry, reader, branch) = (self.inquiry, self.reader, self.branch);
        inquiry.stage(format!("{}: {}", reader.group(), branch.id));
        let mut segments =
            stream::iter(branch.expected())
                .map(|id| async move {
                    (id, data::load(inquiry, reader, id, branch.segments.get(&(id.epoch, id.seq))).await)
                })
                .buffered(PARALLEL);
        let mut next = segments.next().await;
        self.maps_until(self.standing.lsn).await?;
        for epoch in (1..=branch.newest().0).map(Epoch) {
            self.fork((epoch, SegmentSeq(0)), None, self.standing.lsn);
            while let Some((id, loaded)) = next.take_if(|(id, _)| id.epoch == epoch) {
                self.segment(id, loaded?).await?;
                next = segments.next().await;
            }
            self.cut(epoch);
        }
        self.maps_until(Lsn(u64::MAX)).await?;
        drop(segments);
        self.beyond().await?;
        self.leftovers();
        Ok(())
    }

    async fn segment(&mut self, id: SegmentId, loaded: Result<Loaded, Verdict>) -> Result<()> {
        self.report.segments = self.report.segments.saturating_add(1);
        let key = names::segment(self.reader.group(), id);
        let loaded = match loaded {
            Ok(loaded) => loaded,
            Err(verdict) => {
                let listed = self.branch.segments.get(&(id.epoch, id.seq));
                // Where garbage is collected, most of an old log is gone: one entry stands for all of it.
                let gone = listed.is_none() && self.known.kept.as_ref().is_some_and(|kept| kept.revision() > 0);
                let damage = match self.gone.filter(|_| gone) {
                    Some(damage) => damage,
                    None => self.inquiry.damage(data::found(&key, verdict, listed)),
                };
                self.gone = self.gone.or(Some(damage).filter(|_| gone));
                return self.lost_segment(id, damage).await;
            }
        };
        let segment = &loaded.segment;
        self.maps_until(segment.header.first_lsn.previous()).await?;
        self.link(&key, segment);
        for (frame, verdict) in loaded.bad_frames {
            let offset = segment.index.frame(lifeboat_format::segment::FrameNo(frame)).ok().map(|entry| entry.offset);
            let part = Some(format!("frame {frame}"));
            let found = Found { offset, part, ..Found::verdict(&key, SEGMENT, verdict) };
            let damage = self.inquiry.damage(found);
            self.known.frames.insert((id, frame), damage);
        }
        self.keys_of(segment).await?;
        let at_end = self.fold(&key, segment).await?;
        self.standing.lsn = segment.header.last_lsn;
        self.standing.hash = Some(segment.hash);
        self.maps_until(segment.header.last_lsn).await?;
        for point in at_end {
            self.recorded(&key, segment.id, &point).await?;
            self.fork((id.epoch, id.seq), Some(point.id), point.lsn);
        }
        self.fork((id.epoch, id.seq), None, segment.header.last_lsn);
        Ok(())
    }

    /// Frames whose data key is gone are lost, whatever they hold.
    async fn keys_of(&mut self, segment: &Segment) -> Result<()> {
        for volume in &segment.index.volumes {
            if self.known.hasher(self.inquiry, self.reader, volume.volume).await?.is_err() {
                continue;
            }
            if let Some(damage) = self.known.data_key(self.inquiry, volume.volume, volume.key).await? {
                let frames = segment.index.frames.iter();
                let theirs = frames.filter(|entry| {
                    segment.index.volume_of(entry).is_ok_and(|declared| declared.volume == volume.volume)
                });
                self.known.frames.extend(theirs.map(|entry| ((segment.id, entry.frame.0), damage)));
            }
        }
        Ok(())
    }

    /// Goes past a segment that can't be read.
    async fn lost_segment(&mut self, id: SegmentId, damage: usize) -> Result<()> {
        // Nothing can be replayed from what was rebuilt of it, but blocks can be read.
        if !self.branch.rebuilt.contains_key(&(id.epoch, id.seq)) {
            self.known.segments.insert(id, damage);
        }
        self.standing.broken.get_or_insert(damage);
        self.standing.hash = None;
        let mut points: Vec<RetainedPoint> =
            self.retained.values().filter(|point| (point.epoch, point.seq) == (id.epoch, id.seq)).cloned().collect();
        points.sort_by_key(|point| point.lsn);
        for point in points {
            // A map that stands at the very point needs no segment.
            self.maps_until(point.lsn).await?;
            self.kept(&point);
        }
        let forks: Vec<Origin> = self
            .forks
            .iter()
            .map(|(_, origin)| *origin)
            .filter(|origin| (origin.epoch, origin.seq) == (id.epoch, id.seq))
            .collect();
        for origin in forks {
            self.maps_until(origin.lsn).await?;
            let point = Some(origin.point).filter(|point| point.to_bytes() != [0; 16]);
            self.fork((id.epoch, id.seq), point, origin.lsn);
        }
        Ok(())
    }

    /// Holds a segment against the one before it.
    fn link(&mut self, key: &str, segment: &Segment) {
        let Some(hash) = self.standing.hash else { return };
        let (previous, first) = (segment.header.previous, segment.header.first_lsn);
        let why = if hash != previous {
            format!("it follows a segment with the seal hash {previous}, and the one before it has {hash}")
        } else if self.standing.lsn.next() != first {
            format!("it begins at position {first}, and the one before it ends at {}", self.standing.lsn)
        } else {
            return;
        };
        let found = Found { part: Some("chain".to_owned()), ..Found::new(key, SEGMENT, Fault::Contradiction, why) };
        let damage = self.inquiry.damage(found);
        self.standing.broken.get_or_insert(damage);
    }

    /// Holds the end of an epoch against its cut.
    fn cut(&mut self, epoch: Epoch) {
        let (Some(cut), Some(hash)) = (self.branch.cut_of(epoch), self.standing.hash) else { return };
        if cut.last_lsn == self.standing.lsn && cut.last_hash == hash {
            return;
        }
        let key = names::cut(self.reader.group(), self.branch.id, epoch.next());
        let why = format!(
            "it says that the log ends at position {} with the seal hash {}; it ends at {} with {hash}",
            cut.last_lsn, cut.last_hash, self.standing.lsn
        );
        let costs = "no gateway can go on with the branch; its points can be read";
        self.inquiry.damage(Found::new(&key, "epoch cut", Fault::Contradiction, why).costs(costs));
    }

    /// Folds a segment's operations into the standing; gives the points at its very end, which a map may stand at.
    async fn fold(&mut self, key: &str, segment: &Segment) -> Result<Vec<RecoveryPoint>> {
        let mut at_end = Vec::new();
        for volume in &segment.index.volumes {
            let hasher = self.known.hasher(self.inquiry, self.reader, volume.volume).await?;
            if let Entry::Vacant(slot) = self.standing.volumes.entry(volume.volume) {
                let blocks = volume.size_blocks;
                slot.insert(empty_volume(volume.volume, blocks, hasher));
            }
        }
        for operation in &segment.index.operations {
            if let Operation::Point(point) = operation {
                self.settle().await?;
                if point.lsn == segment.header.last_lsn {
                    at_end.push(RecoveryPoint::clone(point));
                } else {
                    self.recorded(key, segment.id, point).await?;
                    self.fork((segment.id.epoch, segment.id.seq), Some(point.id), point.lsn);
                }
            } else if self.standing.broken.is_none() {
                self.operation(segment, operation);
            }
        }
        self.settle().await?;
        Ok(at_end)
    }

    fn operation(&mut self, segment: &Segment, operation: &Operation) {
        match operation {
            Operation::Frame(frame) => {
                // Both were proved when the index was opened.
                let Ok(entry) = segment.index.frame(*frame) else { return };
                let Ok(volume) = segment.index.volume_of(entry) else { return };
                let Some(standing) = self.standing.volumes.get_mut(&volume.volume) else { return };
                let bad = self.known.frames.get(&(segment.id, frame.0));
                for (lba, slot, hash) in entry.blocks() {
                    let at = Location { segment: segment.id, frame: frame.0, slot };
                    standing.changes.set(lba, Slot { hash, at });
                    standing.lose(Extent { lba, blocks: 1 }, bad.copied());
                }
            }
            Operation::Zero { volume, extent } | Operation::Trim { volume, extent } => {
                let Some(standing) = self.standing.volumes.get_mut(volume) else { return };
                standing.changes.zero(*extent);
                standing.lose(*extent, None);
            }
            Operation::Resize { volume, size_blocks } => {
                let Some(standing) = self.standing.volumes.get_mut(volume) else { return };
                standing.changes.resize(*size_blocks);
                let past = standing.blocks.saturating_sub(*size_blocks);
                standing.lose(Extent { lba: *size_blocks, blocks: past }, None);
                standing.blocks = *size_blocks;
            }
            Operation::Point(_) => {}
        }
    }

    /// Puts what was written into the trees.
    async fn settle(&mut self) -> Result<()> {
        let (inquiry, reader) = (self.inquiry, self.reader);
        for standing in self.standing.volumes.values_mut() {
            let changes = std::mem::replace(&mut standing.changes, Changes::new(standing.blocks));
            let Some(tree) = &standing.tree else { continue };
            if changes.is_empty() && changes.blocks() == tree.blocks() {
                continue;
            }
            let applied = inquiry.patiently(async || {
                let mut next = tree.clone();
                apply(reader, &mut next, &changes).await?;
                Ok(next)
            });
            standing.tree = match applied.await {
                Ok(next) => Some(next),
                Err(error) if error.kind() == ErrorKind::Closed => return Err(error),
                // A node on the way is damaged, which was reported when its map was looked at.
                Err(_) => None,
            };
        }
        Ok(())
    }

    async fn maps_until(&mut self, lsn: Lsn) -> Result<()> {
        while let Some((at, id, len)) = self.branch.maps.get(self.maps_done).copied().filter(|(at, ..)| *at <= lsn) {
            self.maps_done = self.maps_done.saturating_add(1);
            maps::check(self, at, id, len).await?;
            let mut here: Vec<RetainedPoint> =
                self.retained.values().filter(|point| point.lsn == at && self.standing.lsn == at).cloned().collect();
            here.sort_by_key(|point| point.lsn);
            // Those that a segment records come up with it.
            here.retain(|point| !self.branch.segments.contains_key(&(point.epoch, point.seq)));
            here.iter().for_each(|point| self.kept(point));
        }
        Ok(())
    }

    /// A point that a segment records.
    async fn recorded(&mut self, key: &str, segment: SegmentId, point: &RecoveryPoint) -> Result<()> {
        if self.standing.broken.is_none() && point.consistent {
            self.compare_roots(key, point);
        }
        let name = PointName { id: point.id, time: point.time, lsn: point.lsn };
        let kept = self.retained.remove(&point.id);
        if let Some(kept) = &kept
            && (kept.lsn, kept.time, kept.epoch, kept.seq) != (point.lsn, point.time, segment.epoch, segment.seq)
        {
            let why = format!(
                "the newest map lists the point {} at position {}, and this segment records it at {}",
                point.id, kept.lsn, point.lsn
            );
            self.inquiry.damage(Found::new(key, SEGMENT, Fault::Contradiction, why));
        }
        let info = PointInfo::recorded(self.reader.group(), segment, point);
        let newer = (segment.epoch, segment.seq) > self.listed_until && self.known.offers(&info);
        if point.consistent && (kept.is_some() || newer) {
            self.offered(name);
        }
        Ok(())
    }

    /// A point that the newest map keeps, and whose segment can't be read.
    fn kept(&mut self, point: &RetainedPoint) {
        if self.retained.remove(&point.id).is_none() {
            return;
        }
        self.offered(PointName { id: point.id, time: point.time, lsn: point.lsn });
    }

    fn compare_roots(&mut self, key: &str, point: &RecoveryPoint) {
        for recorded in &point.volumes {
            let Some(standing) = self.standing.volumes.get_mut(&recorded.volume) else {
                let why = format!("the point {} names {}, which the log never had", point.id, recorded.volume);
                self.inquiry.damage(Found::new(key, SEGMENT, Fault::Contradiction, why));
                continue;
            };
            let (Some(tree), Some(root)) = (&standing.tree, recorded.root) else { continue };
            if tree.root_hash() == root && standing.blocks == recorded.size_blocks {
                standing.doubt = None;
            } else if standing.doubt.is_none() {
                let why = format!(
                    "the point {} records for {} {} blocks with the root hash {root}, and the log gives {} blocks with {}",
                    point.id,
                    recorded.volume,
                    recorded.size_blocks,
                    standing.blocks,
                    tree.root_hash()
                );
                standing.doubt = Some(self.inquiry.damage(Found::new(key, SEGMENT, Fault::Contradiction, why)));
            }
        }
    }

    /// A point that can be chosen for recovery: counts it, and charges it to whatever spoils it.
    fn offered(&mut self, point: PointName) {
        let place = (self.reader.group(), self.branch.id);
        self.report.points = self.report.points.saturating_add(1);
        self.report.newest = self.report.newest.filter(|newest| newest.lsn > point.lsn).or(Some(point));
        if let Some(damage) = self.branch.closed_by.or(self.standing.broken) {
            self.inquiry.charge(damage, place, None, point, None);
            return;
        }
        let mut sound = true;
        for (volume, standing) in &mut self.standing.volumes {
            if let Some(damage) = standing.doubt {
                sound = false;
                let all = [Extent { lba: 0, blocks: standing.blocks }];
                self.inquiry.charge(damage, place, Some(*volume), point, Some(&all));
            }
            if standing.lost.is_empty() {
                continue;
            }
            sound = false;
            let mut by_damage: BTreeMap<usize, Vec<Extent>> = BTreeMap::new();
            for (extent, damage) in standing.lost.iter(standing.blocks) {
                by_damage.entry(damage).or_default().push(extent);
            }
            for (damage, extents) in by_damage {
                let extents = standing.changed.then_some(&extents[..]);
                self.inquiry.charge(damage, place, Some(*volume), point, extents);
            }
            standing.changed = false;
        }
        if sound {
            self.report.points_sound = self.report.points_sound.saturating_add(1);
            let newest = self.report.newest_sound.filter(|newest| newest.lsn > point.lsn);
            self.report.newest_sound = newest.or(Some(point));
        }
    }

    /// Keeps how the group stands for the branches that fork off here.
    fn fork(&mut self, at: (Epoch, SegmentSeq), point: Option<PointId>, lsn: Lsn) {
        let here = |origin: &Origin| {
            let named = Some(origin.point).filter(|point| point.to_bytes() != [0; 16]);
            (origin.epoch, origin.seq) == at && named == point && origin.lsn == lsn
        };
        let (now, later): (Vec<_>, Vec<_>) = self.forks.drain(..).partition(|(_, origin)| here(origin));
        self.forks = later;
        for (child, origin) in now {
            let mut standing = self.standing.clone();
            standing.lsn = origin.lsn;
            standing.hash = Some(SegmentHash::ZERO);
            standing.broken = standing.broken.or(self.branch.closed_by);
            standing.volumes.values_mut().for_each(|volume| volume.changed = true);
            self.known.forked.insert(child, standing);
        }
    }

    /// Segments that don't count are somebody's tail: whole or not, nothing depends on them.
    async fn beyond(&mut self) -> Result<()> {
        let (inquiry, reader) = (self.inquiry, self.reader);
        let beyond: Vec<(SegmentId, u64)> = self.branch.beyond().collect();
        for (id, len) in beyond {
            self.report.segments_beyond = self.report.segments_beyond.saturating_add(1);
            let key = names::segment(reader.group(), id);
            let loaded = data::load(inquiry, reader, id, Some(&len)).await?;
            let mut faults = Vec::new();
            match loaded {
                Err(verdict) => faults.push(data::found(&key, verdict, Some(&len))),
                Ok(loaded) => {
                    for (frame, verdict) in loaded.bad_frames {
                        let part = Some(format!("frame {frame}"));
                        faults.push(Found { part, ..Found::verdict(&key, SEGMENT, verdict) });
                    }
                }
            }
            for found in faults {
                inquiry.damage(found.costs("nothing: the segment is past its epoch's cut, in nobody's history"));
            }
        }
        Ok(())
    }

    /// Points that the newest map keeps, and that nothing led to.
    fn leftovers(&mut self) {
        let mut left: Vec<RetainedPoint> = std::mem::take(&mut self.retained).into_values().collect();
        left.sort_by_key(|point| point.lsn);
        for point in left {
            let id = SegmentId { branch: self.branch.id, epoch: point.epoch, seq: point.seq };
            let key = names::segment(self.reader.group(), id);
            let why = format!("the newest map lists the point {} in this segment, which doesn't record it", point.id);
            let damage = self.inquiry.damage(Found::new(&key, SEGMENT, Fault::Contradiction, why));
            let name = PointName { id: point.id, time: point.time, lsn: point.lsn };
            self.report.points = self.report.points.saturating_add(1);
            self.inquiry.charge(damage, (self.reader.group(), self.branch.id), None, name, None);
        }
    }
}

impl VolumeStanding {
    /// The blocks were written: readable, unless a damage is named.
    pub(super) fn lose(&mut self, extent: Extent, damage: Option<usize>) {
        match damage {
            Some(damage) => {
                self.lost.set(extent, damage);
                self.changed = true;
            }
            None if self.lost.is_empty() => {}
            None => {
                self.lost.clear(extent);
                self.changed = true;
            }
        }
    }
}

/// A volume of zeroes, as far as its keys let anybody see it.
fn empty_volume(volume: VolumeId, blocks: u64, hasher: Result<Arc<BlockHasher>, Option<usize>>) -> VolumeStanding {
    match hasher {
        Ok(hasher) => VolumeStanding::new(blocks, Some(Tree::empty(volume, hasher, blocks)), Lost::default()),
        Err(damage) => {
            let mut standing = VolumeStanding::new(blocks, None, Lost::default());
            standing.doubt = damage;
            standing
        }
    }
}
