//! Everything of a group in the vault, by one listing, and the positions that are kept of it.
//!
//! The listing comes first, everything else is read after it: what is younger than the listing is never classified, and
//! what is read later can only add needs.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use lifeboat_format::epoch::Purpose;
use lifeboat_format::gc::{KeptBranch, KeptPosition, PointMark};
use lifeboat_model::{BranchId, Epoch, Lsn, MapId, PointId, SegmentId, SegmentSeq, Timestamp};
use lifeboat_vault::ObjectMeta;

use super::{GcSettings, Kept, Objects, Planted, planted};
use crate::branch::{BranchLog, Position, complete_cuts};
use crate::cause;
use crate::error::{EngineError, ErrorKind, Result};
use crate::marks::Marks;
use crate::points::{PointInfo, recorded_points};
use crate::segments::{MapListing, Reader, names};

/// A group as the vault holds it.
#[derive(Debug)]
pub(super) struct World {
    pub(super) objects: Objects,
    pub(super) branches: BTreeMap<BranchId, Branch>,
    /// Objects of branches without a single epoch.
    pub(super) leftovers: Vec<String>,
    /// Lists of kept points, by revision; and marks.
    pub(super) kept_objects: BTreeMap<u64, String>,
    pub(super) mark_objects: BTreeMap<PointId, BTreeMap<u64, String>>,
    pub(super) kept: Kept,
    pub(super) marks: Marks,
}

/// One branch.
#[derive(Debug)]
pub(super) struct Branch {
    pub(super) log: BranchLog,
    /// The end of its log, read after the listing.
    pub(super) end: Position,
    pub(super) segments: BTreeMap<SegmentId, String>,
    /// By generation.
    pub(super) rebuilt: BTreeMap<SegmentId, BTreeMap<u64, String>>,
    /// The newest first.
    pub(super) maps: Vec<(MapListing, String)>,
    pub(super) epochs: Vec<String>,
}

impl Branch {
    /// Whether somebody may be writing it.
    pub(super) fn is_written(&self) -> bool {
        let written = |entry: &crate::branch::EpochEntry| entry.intent.purpose == Purpose::Write;
        !self.log.dropped && self.log.epochs.last().is_some_and(written)
    }
}

#[derive(Debug, Default)]
struct Listed {
    segments: BTreeMap<SegmentId, String>,
    rebuilt: BTreeMap<SegmentId, BTreeMap<u64, String>>,
    maps: Vec<(MapListing, String)>,
    epochs: Vec<String>,
    all: Vec<String>,
}

impl World {
    /// `complete`: cuts that a gateway didn't live to write are written; without them nobody can say what counts.
    pub(super) async fn read(reader: &Reader, complete: bool) -> Result<Self> {
        Self::read_with(reader, complete, None).await
    }

    /// The same, with a list of kept points that stands in for one that can't be read.
    pub(super) async fn read_with(reader: &Reader, complete: bool, kept: Option<Kept>) -> Result<Self> {
        let group = names::group(reader.group());
        let found = reader.vault().store().list(&group).await.map_err(cause::store)?;
        let mut listed: BTreeMap<BranchId, Listed> = BTreeMap::new();
        let (mut kept_objects, mut mark_objects) = (BTreeMap::new(), BTreeMap::<PointId, BTreeMap<u64, String>>::new());
        for object in &found {
            let Some(name) = object.key.strip_prefix(&group).and_then(|rest| rest.strip_prefix('/')) else { continue };
            let Some((first, rest)) = name.split_once('/') else { continue };
            if let Ok(branch) = first.parse::<BranchId>() {
                take(listed.entry(branch).or_default(), branch, rest, object);
            } else if name.starts_with("gc/kept/") {
                kept_objects.extend(names::parse_revision(name).map(|revision| (revision, object.key.clone())));
            } else if first == "marks"
                && let Some((point, revision)) = names::parse_mark(name)
            {
                mark_objects.entry(point).or_default().insert(revision, object.key.clone());
            }
        }
        let (mut branches, mut leftovers) = (BTreeMap::new(), Vec::new());
        for (branch, mut listed) in listed {
            let mut claims = listed.epochs.iter().filter_map(|key| Some((names::parse_epoch(key)?.0, key)));
            let log = match BranchLog::read(reader, branch).await {
                Err(error) if error.kind() == ErrorKind::NotFound => match claims.next() {
                    Some((_, key)) => return Err(unsettled(key)),
                    None => {
                        leftovers.append(&mut listed.all);
                        continue;
                    }
                },
                log => log?,
            };
            let missed = claims.find(|(epoch, _)| *epoch > log.newest()).map(|(_, key)| key);
            if let Some(key) = missed {
                return Err(unsettled(key));
            }
            let open = log.epochs.iter().any(|entry| entry.cut.is_none() && entry.intent.place.epoch.0 > 1);
            let log = if open && complete { complete_cuts(reader, branch, log.newest()).await? } else { log };
            let end = log.end(reader, log.newest()).await?.position;
            listed.maps.reverse();
            let Listed { segments, rebuilt, maps, epochs, .. } = listed;
            branches.insert(branch, Branch { log, end, segments, rebuilt, maps, epochs });
        }
        let kept = match kept {
            Some(kept) => kept,
            None => Kept::read(reader).await?,
        };
        let marks = Marks::read(reader).await?;
        let newest = |revisions: &BTreeMap<u64, String>| revisions.last_key_value().map(|(at, key)| (*at, key.clone()));
        if let Some((revision, key)) = newest(&kept_objects)
            && revision > kept.revision()
        {
            return Err(unsettled(&key));
        }
        for (point, revisions) in &mark_objects {
            let known = marks.marks.get(point).map_or(0, |mark| mark.revision);
            if let Some((_, key)) = newest(revisions).filter(|(revision, _)| *revision > known) {
                return Err(unsettled(&key));
            }
        }
        let objects = found.into_iter().map(|object| (object.key, object.size)).collect();
        Ok(Self { objects, branches, leftovers, kept_objects, mark_objects, kept, marks })
    }

    /// The segment itself, by its whole name, if it is there.
    pub(super) fn segment(&self, id: SegmentId) -> Option<&str> {
        self.branches.get(&id.branch)?.segments.get(&id).map(String::as_str)
    }

    /// The number that the next rebuilding of a segment takes.
    pub(super) fn next_generation(&self, id: SegmentId) -> u64 {
        let rebuilt = self.branches.get(&id.branch).and_then(|branch| branch.rebuilt.get(&id));
        rebuilt.and_then(|all| all.last_key_value()).map_or(0, |(newest, _)| *newest).saturating_add(1)
    }

    pub(super) fn size(&self, key: &str) -> u64 {
        self.objects.get(key).copied().unwrap_or(0)
    }

    /// The kept positions as of now.
    pub(super) async fn positions(&self, reader: &Reader, settings: &GcSettings, now: Timestamp) -> Result<Positions> {
        let mut positions = Positions::default();
        let mut lines: Vec<Vec<PointInfo>> = Vec::new();
        let mut recorded: HashSet<PointId> = HashSet::new();
        for (id, branch) in self.branches.iter().filter(|(_, branch)| !branch.log.dropped) {
            if planted(Planted::ForgetsForks) && branch.log.origin().is_some() {
                continue;
            }
            let mut line = Vec::new();
            for (of, until, mut stretch) in recorded_points(reader, *id).await?.into_iter().rev() {
                stretch.retain(|point| self.kept.offers(point));
                if !planted(Planted::ForgetsPins) {
                    self.marks.lay_over(&self.kept, now, of, until, &mut stretch);
                }
                line.append(&mut stretch);
            }
            recorded.extend(line.iter().map(|point| point.id));
            lines.push(line);
            positions.end(branch);
            self.keep_origins(branch, &mut positions);
            self.keep_ends(branch, settings, now, &mut positions);
        }
        let group_time = lines.iter().filter_map(|line| line.last()).map(|point| point.time).max().unwrap_or(now);
        for mut line in lines {
            settings.retention.thin_at(&mut line, group_time, |point| self.is_mapped(point));
            line.iter().for_each(|point| positions.point(point));
        }
        // A pin protects its point whatever the lists say of it.
        let pins = self.marks.pins(now).filter(|mark| self.branches.contains_key(&mark.branch));
        for mark in pins.filter(|_| !planted(Planted::ForgetsPins)) {
            positions.pinned(mark, &self.kept);
        }
        let kept: HashSet<PointId> =
            positions.branches.values().flat_map(|of| of.points.iter().map(|(_, id)| *id)).collect();
        positions.dropped = u64::try_from(recorded.difference(&kept).count()).unwrap_or(u64::MAX);
        for (branch, of) in &mut positions.branches {
            of.until = self.branches.get(branch).map(|branch| to_kept(branch.end));
        }
        Ok(positions)
    }

    fn is_mapped(&self, point: &PointInfo) -> bool {
        self.branches.get(&point.branch).is_some_and(|branch| branch.maps.iter().any(|(map, _)| map.lsn == point.lsn))
    }

    /// Where the branch forks, and where its parents do that have no map of their own before that.
    fn keep_origins(&self, branch: &Branch, positions: &mut Positions) {
        let Some(origin) = branch.log.origin() else { return };
        // A fork that has to be given up, since its position was dropped before it: what is left is protected all the same.
        positions.other(origin.at, self.kept.allows(&origin));
    }

    /// Where another gateway ended a tenure: its writer may still come and fork its tail from there.
    fn keep_ends(&self, branch: &Branch, settings: &GcSettings, now: Timestamp, positions: &mut Positions) {
        for pair in branch.log.epochs.windows(2) {
            let [before, after] = pair else { continue };
            let foreign = before.intent.writer != after.intent.writer;
            let young = now.seconds_since(after.intent.time) <= settings.retention.longest().as_secs_f64();
            if let Some(cut) = after.cut.as_ref().filter(|_| foreign && young) {
                let at = branch.log.cut_position(cut);
                let known = self.kept.allows(&crate::branch::Origin { at, point: None });
                positions.other(at, known);
            }
        }
    }
}

/// What was listed a moment ago is said not to be there. Another collector may have deleted it, or the storage errs: decided
/// upon that, a pin or a whole branch would be forgotten.
fn unsettled(key: &str) -> EngineError {
    EngineError::new(
        ErrorKind::Retry,
        format!("{key} was listed and is not there any more: collecting begins anew later"),
    )
}

fn take(listed: &mut Listed, branch: BranchId, rest: &str, object: &ObjectMeta) {
    listed.all.push(object.key.clone());
    if rest.starts_with("log/") {
        if let Some((epoch, seq)) = names::parse_segment(rest) {
            listed.segments.insert(SegmentId { branch, epoch, seq }, object.key.clone());
        }
    } else if rest.starts_with("rebuilt/") {
        if let Some((epoch, seq, generation)) = names::parse_rebuilt(rest) {
            let of = listed.rebuilt.entry(SegmentId { branch, epoch, seq }).or_default();
            of.insert(generation, object.key.clone());
        }
    } else if rest.starts_with("map/") {
        if let Some((lsn, id)) = names::parse_map(rest) {
            listed.maps.push((MapListing::new(branch, lsn, id, object.size), object.key.clone()));
        }
    } else if rest.starts_with("epoch/") {
        listed.epochs.push(object.key.clone());
    }
}

fn to_kept(at: Position) -> KeptPosition {
    KeptPosition { epoch: at.epoch, seq: at.seq, lsn: at.lsn }
}

/// The kept positions of a group.
#[derive(Debug, Default)]
pub(super) struct Positions {
    pub(super) branches: BTreeMap<BranchId, OfBranch>,
    /// Points that were offered before, and are not kept.
    pub(super) dropped: u64,
}

#[derive(Debug, Default)]
pub(super) struct OfBranch {
    /// Points, with their positions.
    points: BTreeSet<(KeptPosition, PointId)>,
    /// Every position of the branch that is kept; true if it must be readable.
    pub(super) all: HashMap<KeptPosition, bool>,
    /// Those that no schedule ends: of pins, forks, and branches that nobody writes.
    pub(super) lasting: HashSet<KeptPosition>,
    until: Option<KeptPosition>,
}

impl Positions {
    fn of(&mut self, branch: BranchId) -> &mut OfBranch {
        self.branches.entry(branch).or_default()
    }

    fn keep(&mut self, branch: BranchId, at: KeptPosition, must: bool) {
        *self.of(branch).all.entry(at).or_default() |= must;
    }

    fn end(&mut self, branch: &Branch) {
        let (id, at) = (branch.log.branch, to_kept(branch.end));
        self.keep(id, at, true);
        if !branch.is_written() {
            self.of(id).lasting.insert(at);
        }
    }

    fn other(&mut self, at: Position, must: bool) {
        self.keep(at.branch, to_kept(at), must);
        self.of(at.branch).lasting.insert(to_kept(at));
    }

    fn point(&mut self, point: &PointInfo) {
        let at = to_kept(point.position());
        self.of(point.branch).points.insert((at, point.id));
        self.keep(point.branch, at, true);
    }

    fn pinned(&mut self, mark: &PointMark, kept: &Kept) {
        self.keep(mark.branch, mark.at, kept.offers_mark(mark));
        self.of(mark.branch).lasting.insert(mark.at);
    }

    pub(super) fn points(&self) -> u64 {
        let count: usize = self.branches.values().map(|of| of.points.len()).sum();
        u64::try_from(count).unwrap_or(u64::MAX)
    }

    /// Whether the point is kept.
    pub(super) fn keeps_point(&self, id: PointId) -> bool {
        self.branches.values().any(|of| of.points.iter().any(|(_, point)| *point == id))
    }

    /// The points on the list, with their positions.
    pub(super) fn listed(&self) -> Vec<(BranchId, KeptPosition, PointId)> {
        let of = |(branch, of): (&BranchId, &OfBranch)| {
            let branch = *branch;
            of.points.iter().map(move |(at, id)| (branch, *at, *id)).collect::<Vec<_>>()
        };
        self.branches.iter().flat_map(of).collect()
    }

    /// Takes a point off the list. Its position stays if something else is there: a fork, the end of the log.
    pub(super) fn leave_out(&mut self, branch: BranchId, at: KeptPosition, point: PointId) {
        let Some(of) = self.branches.get_mut(&branch) else { return };
        of.points.remove(&(at, point));
        let shared = of.points.iter().any(|(other, _)| *other == at);
        if !shared && !of.lasting.contains(&at) && of.until != Some(at) {
            of.all.remove(&at);
        }
    }

    /// As the list of kept points says it, with pins that were missed at first.
    pub(super) fn to_kept(&self, missed: &[PointMark]) -> Vec<KeptBranch> {
        let never = KeptPosition { epoch: Epoch(0), seq: SegmentSeq(0), lsn: Lsn(0) };
        self.branches
            .iter()
            .map(|(branch, of)| {
                let mut points = of.points.clone();
                points.extend(missed.iter().filter(|mark| mark.branch == *branch).map(|mark| (mark.at, mark.point)));
                let mut others: Vec<KeptPosition> =
                    of.all.iter().filter(|(_, must)| **must).map(|(at, _)| *at).collect();
                others.retain(|at| {
                    points.range((*at, PointId::from_bytes([0; 16]))..).next().is_none_or(|next| next.0 != *at)
                });
                others.sort();
                KeptBranch {
                    branch: *branch,
                    until: of.until.unwrap_or(never),
                    points: points.into_iter().map(|(at, id)| (id, at)).collect(),
                    others,
                }
            })
            .collect()
    }
}

/// Map objects by id.
pub(super) type MapIds = HashSet<MapId>;
