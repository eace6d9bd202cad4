//! Recovery points: what they are, listing and finding them.
//!
//! The newest map of a branch lists the points that are kept; the segments after that map record the newer ones. A list
//! costs one map footer, those segments' indexes, the list of kept points and the marks that people set, whatever the
//! branch's age. Points that the retention schedule has thinned out of the map, or that the list of kept points has dropped,
//! are no longer offered, unless they are pinned. Reads only.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use lifeboat_format::map::RetainedPoint;
use lifeboat_format::segment::RecoveryPoint;
use lifeboat_model::{BranchId, Epoch, GroupId, Lsn, PointId, PointKind, SegmentId, SegmentSeq, Timestamp};
use lifeboat_vault::Vault;
use serde::{Deserialize, Serialize};

use crate::branch::{Ahead, BranchLog, Position, State, Target, list_branches_with};
use crate::error::{EngineError, ErrorKind, Result};
use crate::gc::Kept;
use crate::marks::Marks;
use crate::segments::{Reader, ReaderLimits};

/// A recovery point: where in which history, and when.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PointInfo {
    /// The point.
    pub id: PointId,
    /// Its group.
    pub group: GroupId,
    /// The branch whose log records it.
    pub branch: BranchId,
    /// The tenure.
    pub epoch: Epoch,
    /// The segment that records it.
    pub seq: SegmentSeq,
    /// Its place in the write order: the state after this record.
    pub lsn: Lsn,
    /// When it was taken.
    pub time: Timestamp,
    /// How it came to be.
    pub kind: PointKind,
    /// What a person called it; may be empty.
    pub label: String,
    /// Whether it is pinned: no retention schedule drops it.
    #[serde(default)]
    pub pinned: bool,
    /// Whether it is one cut through the write order. One that was taken while a resync was under way is not: it is in no
    /// list, and nothing can be recovered from it.
    #[serde(default = "consistent")]
    pub consistent: bool,
}

const fn consistent() -> bool {
    true
}

impl PointInfo {
    /// Where it stands.
    #[must_use]
    pub const fn position(&self) -> Position {
        Position { branch: self.branch, epoch: self.epoch, seq: self.seq, lsn: self.lsn }
    }

    pub(crate) fn retained(group: GroupId, branch: BranchId, point: &RetainedPoint) -> Self {
        let RetainedPoint { id, lsn, time, kind, label, epoch, seq, consistent } = point.clone();
        Self { id, group, branch, epoch, seq, lsn, time, kind, label, pinned: false, consistent }
    }

    pub(crate) fn recorded(group: GroupId, segment: SegmentId, point: &RecoveryPoint) -> Self {
        let SegmentId { branch, epoch, seq } = segment;
        let RecoveryPoint { id, lsn, time, kind, label, consistent, .. } = point.clone();
        Self { id, group, branch, epoch, seq, lsn, time, kind, label, pinned: false, consistent }
    }

    pub(crate) fn to_retained(&self) -> RetainedPoint {
        let Self { id, lsn, time, kind, label, epoch, seq, consistent, .. } = self.clone();
        RetainedPoint { id, lsn, time, kind, consistent, label, epoch, seq }
    }
}

/// The points of a branch, the oldest first, its parents' up to the fork included.
///
/// # Errors
/// `NotFound` without such a branch, `Retry` when the vault can't be reached, `Tampered` when the history fails its
/// checks.
pub async fn list_points(vault: &Arc<Vault>, group: GroupId, branch: BranchId) -> Result<Vec<PointInfo>> {
    list_points_with(&*Reader::open(vault, group, ReaderLimits::default()).await?, branch).await
}

/// [`list_points`] through a reader, which remembers what it has read.
///
/// # Errors
/// As [`list_points`].
pub async fn list_points_with(reader: &Reader, branch: BranchId) -> Result<Vec<PointInfo>> {
    let (kept, marks, stretches) =
        futures::try_join!(Kept::read(reader), Marks::read(reader), recorded_points(reader, branch))?;
    let now = reader.vault().now();
    let mut points = Vec::new();
    for (of, until, mut stretch) in stretches.into_iter().rev() {
        stretch.retain(|point| kept.offers(point));
        marks.lay_over(&kept, now, of, until, &mut stretch);
        points.append(&mut stretch);
    }
    Ok(points)
}

/// What the maps and segments of a branch and its parents record, each with the place up to which it counts; the branch
/// itself first. Parents that were given up record nothing any more.
pub(crate) async fn recorded_points(
    reader: &Reader,
    branch: BranchId,
) -> Result<Vec<(BranchId, Position, Vec<PointInfo>)>> {
    let log = BranchLog::read(reader, branch).await?;
    if log.dropped {
        return Err(given_up(branch));
    }
    let mut end = log.end(reader, log.newest()).await?.position;
    let (mut origin, mut dropped) = (log.origin(), false);
    let mut stretches = Vec::new();
    let mut seen = HashSet::from([branch]);
    loop {
        if !dropped {
            let state = State::load(reader, Target { position: end, point: None }, Ahead::Nothing).await?;
            let points = state.points.into_iter().filter(|point| point.lsn <= end.lsn).collect();
            stretches.push((end.branch, end, points));
        }
        let Some(fork) = origin else { break };
        if !seen.insert(fork.at.branch) {
            return Err(crate::cause::tampered(format!("branch {branch} descends from itself")));
        }
        end = fork.at;
        let parent = BranchLog::read(reader, fork.at.branch).await?;
        (origin, dropped) = (parent.origin(), parent.dropped);
    }
    Ok(stretches)
}

/// What to say of a branch that was given up.
pub(crate) fn given_up(branch: BranchId) -> EngineError {
    EngineError::new(
        ErrorKind::NotFound,
        format!("branch {branch} was given up, and what it held is being deleted: choose another branch"),
    )
}

/// The point with this id, on whichever branch records it.
///
/// # Errors
/// `NotFound` when no branch records it (any more); otherwise as [`list_points`].
pub async fn find_point(vault: &Arc<Vault>, group: GroupId, id: PointId) -> Result<PointInfo> {
    find_point_with(&*Reader::open(vault, group, ReaderLimits::default()).await?, id).await
}

/// [`find_point`] through a reader, which remembers what it has read.
///
/// # Errors
/// As [`find_point`].
pub async fn find_point_with(reader: &Reader, id: PointId) -> Result<PointInfo> {
    let (kept, marks) = futures::try_join!(Kept::read(reader), Marks::read(reader))?;
    let now = reader.vault().now();
    let mut branches = list_branches_with(reader).await?;
    branches.reverse();
    for branch in branches {
        let log = BranchLog::read(reader, branch.id).await?;
        let position = log.end(reader, log.newest()).await?.position;
        let state = State::load(reader, Target { position, point: None }, Ahead::Nothing).await?;
        let mut points = state.points;
        points.retain(|point| point.id == id && kept.offers(point));
        marks.lay_over(&kept, now, branch.id, position, &mut points);
        if let Some(point) = points.into_iter().find(|point| point.id == id) {
            return Ok(point);
        }
    }
    Err(EngineError::new(
        ErrorKind::NotFound,
        format!("group {} has no recovery point {id}: list the points; retention may have dropped it", reader.group()),
    ))
}

/// Which points stay on the list: all within the first age, then one a period within each later one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PointRetention {
    /// (age up to which it holds, one point a so long; zero for all), ages ascending.
    pub tiers: Vec<(Duration, Duration)>,
    /// Most points of a branch; the oldest go first. At most 65,536.
    pub max: usize,
}

impl Default for PointRetention {
    /// All for an hour, then every 5 minutes for a day, then hourly for 15 days.
    fn default() -> Self {
        const HOUR: u64 = 3600;
        Self {
            tiers: vec![
                (Duration::from_secs(HOUR), Duration::ZERO),
                (Duration::from_secs(24 * HOUR), Duration::from_secs(300)),
                (Duration::from_secs(15 * 24 * HOUR), Duration::from_secs(HOUR)),
            ],
            max: 8192,
        }
    }
}

impl PointRetention {
    /// All of them, as far as a map can list them: where nothing says what may go.
    #[must_use]
    pub fn everything() -> Self {
        Self { tiers: vec![(Duration::MAX, Duration::ZERO)], max: lifeboat_format::map::MAP_POINTS_MAX }
    }

    /// Thins a list (positions ascending), ages counted from its newest point.
    pub fn thin(&self, points: &mut Vec<PointInfo>) {
        if let Some(newest) = points.last().map(|point| point.time) {
            self.thin_at(points, newest, |_| false);
        }
    }

    /// Thins a list (positions ascending), ages counted from `now`. In each period the last point of the best kind stays:
    /// one that an application agreed to before one taken by the clock, among those one that is shared with other groups, and then one
    /// for whose position there is a map, since keeping it takes no segment as a whole. Those that a person asked for stay up to the last
    /// age; pinned ones and the newest point always do. A shared point's period and age go by the time that is the same in all of its
    /// groups: what they keep of them is the same too, as long as their schedules are.
    pub(crate) fn thin_at(&self, points: &mut Vec<PointInfo>, now: Timestamp, mapped: impl Fn(&PointInfo) -> bool) {
        let Some(newest) = points.last().map(|point| point.id) else { return };
        // Agreed to, shared, with a map.
        type Rank = (bool, bool, bool, Lsn, PointId);
        let mut keep: BTreeMap<(usize, i64), Rank> = BTreeMap::new();
        let mut kept: HashSet<PointId> = HashSet::from([newest]);
        for point in points.iter() {
            let shared = point.id.shared_at();
            let taken = shared.unwrap_or(point.time);
            let age = Duration::try_from_secs_f64(now.seconds_since(taken)).unwrap_or_default();
            let tier = self.tiers.iter().position(|(within, _)| age <= *within);
            if point.pinned {
                kept.insert(point.id);
                continue;
            }
            let Some(tier) = tier else { continue };
            let every = self.tiers.get(tier).map_or(Duration::ZERO, |(_, every)| *every);
            let period = i64::try_from(every.as_micros()).ok();
            // What a person asked for stays as long as anything of its age does.
            let Some(period) = period.filter(|period| *period > 0 && point.kind != PointKind::Manual) else {
                kept.insert(point.id);
                continue;
            };
            let slot = taken.as_micros().div_euclid(period);
            let (agreed, shared) = (point.kind != PointKind::CrashConsistent, shared.is_some());
            // Where maps are differs between groups.
            let rank = (agreed, shared, !shared && mapped(point), point.lsn, point.id);
            let best = keep.entry((tier, slot)).or_insert(rank);
            *best = rank.max(*best);
        }
        kept.extend(keep.into_values().map(|(.., id)| id));
        points.retain(|point| kept.contains(&point.id));
        let mut excess = points.len().saturating_sub(self.max.clamp(1, lifeboat_format::map::MAP_POINTS_MAX));
        points.retain(|point| {
            let drop = excess > 0 && !point.pinned && point.id != newest;
            excess = excess.saturating_sub(usize::from(drop));
            !drop
        });
    }

    /// The age up to which anything is kept.
    pub(crate) fn longest(&self) -> Duration {
        self.tiers.iter().map(|(within, _)| *within).max().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(lsn: u64, seconds: i64, kind: PointKind) -> PointInfo {
        PointInfo {
            id: PointId::new(),
            group: GroupId::from_bytes([1; 16]),
            branch: BranchId::from_bytes([2; 16]),
            epoch: Epoch(1),
            seq: SegmentSeq(lsn),
            lsn: Lsn(lsn),
            time: Timestamp::from_micros(seconds * 1_000_000),
            kind,
            label: String::new(),
            consistent: true,
            pinned: false,
        }
    }

    #[test]
    fn fifteen_days_of_points_every_five_seconds_become_a_list_of_the_schedules_length() {
        let retention = PointRetention::default();
        let mut points = Vec::new();
        let mut manual = None;
        for step in 0..15 * 24 * 720_i64 {
            let kind = if step == 7777 { PointKind::Manual } else { PointKind::CrashConsistent };
            points.push(point(u64::try_from(step).unwrap() + 1, step * 5, kind));
            if kind == PointKind::Manual {
                manual = points.last().cloned();
            }
            if step % 500 == 0 {
                retention.thin(&mut points);
            }
        }
        retention.thin(&mut points);
        let expected = 720 + 23 * 12 + 14 * 24;
        assert!((expected - 10..=expected + 10).contains(&points.len()), "{}", points.len());
        assert!(
            points.contains(&manual.unwrap()),
            "the one that a person asked for gave way to one taken by the clock"
        );
        assert!(points.windows(2).all(|pair| pair[0].lsn < pair[1].lsn));
        assert_eq!(points.last().unwrap().lsn, Lsn(15 * 24 * 720));
    }

    /// Two groups whose clocks are 40 s apart, with points of their own in between: hours later they still share what they keep.
    #[test]
    fn groups_keep_the_same_of_the_points_that_they_share() {
        let retention = PointRetention::default();
        let shared = |minute: i64| {
            let at = Timestamp::from_micros((1_764_000_000 + minute * 60) * 1_000_000);
            PointId::shared(at, minute.to_le_bytes())
        };
        let kept = |skew: i64, own_every: i64, maps: u64| {
            let (mut points, mut lsn) = (Vec::new(), 0);
            for second in 0..6 * 3600 {
                if second % 60 == 30 || second % own_every == 0 {
                    lsn += 1;
                    let mut one = point(lsn, 1_764_000_000 + second + skew, PointKind::CrashConsistent);
                    if second % 60 == 30 {
                        one.id = shared(second / 60);
                    }
                    points.push(one);
                }
                if second % 600 == 0 && !points.is_empty() {
                    let now = points.last().expect("some").time;
                    retention.thin_at(&mut points, now, |one| one.lsn.0 % maps == 0);
                }
            }
            points.into_iter().filter(|one| one.id.is_shared()).map(|one| one.id).collect::<Vec<_>>()
        };
        let (first, second) = (kept(0, 7, 3), kept(40, 11, 5));
        assert!((115..=135).contains(&first.len()), "{}", first.len());
        // What has left the first hour in both.
        let old = |kept: &[PointId]| kept.iter().filter(|id| **id < shared(4 * 60)).copied().collect::<Vec<_>>();
        assert_eq!(old(&first).len(), 4 * 12);
        assert_eq!(old(&first), old(&second));
    }

    #[test]
    fn no_list_is_longer_than_its_limit_and_the_newest_point_always_stays() {
        let retention = PointRetention { tiers: vec![(Duration::from_secs(10), Duration::ZERO)], max: 5 };
        let mut points: Vec<PointInfo> = (1..100).map(|n| point(n, 0, PointKind::CrashConsistent)).collect();
        points.push(point(100, -1000, PointKind::CrashConsistent));
        retention.thin(&mut points);
        assert_eq!(points.len(), 5);
        assert_eq!(points.last().unwrap().lsn, Lsn(100));
    }
}
