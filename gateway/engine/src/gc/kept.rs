//! The list of kept points in the vault: reading the newest, asking it, writing the next.

use std::collections::{HashMap, HashSet};

use bytes::Bytes;
use lifeboat_format::gc::{KeptBranch, KeptPoints, KeptPosition, PointMark, RECORD_LEN_MAX};
use lifeboat_model::{BranchId, GroupId, PointId, Timestamp};
use lifeboat_vault::create_exact;

use super::{damaged, record_place};
use crate::branch::{self, Origin};
use crate::cause;
use crate::error::{EngineError, ErrorKind, Result};
use crate::points::PointInfo;
use crate::segments::{Reader, names};

/// The newest list; empty for a group whose garbage nobody has collected yet.
#[derive(Debug)]
pub(crate) struct Kept {
    group: GroupId,
    revision: u64,
    branches: HashMap<BranchId, OfBranch>,
}

#[derive(Debug)]
struct OfBranch {
    until: KeptPosition,
    points: HashSet<PointId>,
    positions: HashSet<KeptPosition>,
}

impl Kept {
    /// Reads it: one listing, and the object if it wasn't read before.
    pub(crate) async fn read(reader: &Reader) -> Result<Self> {
        for _ in 0..8 {
            let found = reader.vault().store().list(&names::kept(reader.group())).await.map_err(cause::store)?;
            let Some(revision) = found.iter().filter_map(|object| names::parse_revision(&object.key)).max() else {
                return Ok(Self { group: reader.group(), revision: 0, branches: HashMap::new() });
            };
            let key = names::kept_revision(reader.group(), revision);
            match reader.small(&key, RECORD_LEN_MAX).await {
                // A newer one has taken its place since the listing.
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(error),
                Ok(bytes) => {
                    return Ok(Self::index(reader.group(), decode(reader, revision, &bytes)?));
                }
            }
        }
        Err(EngineError::new(ErrorKind::Retry, "the list of kept points is replaced again and again: try again"))
    }

    fn index(group: GroupId, list: KeptPoints) -> Self {
        let index = |branch: KeptBranch| {
            let positions = branch.points.iter().map(|(_, at)| *at).chain(branch.others.iter().copied()).collect();
            let points = branch.points.iter().map(|(id, _)| *id).collect();
            (branch.branch, OfBranch { until: branch.until, points, positions })
        };
        Self { group, revision: list.revision, branches: list.branches.into_iter().map(index).collect() }
    }

    /// What counts while the newest list, `revision`, can't be read: the list before it, or everything.
    pub(super) fn standing_in(group: GroupId, revision: u64, before: Option<KeptPoints>) -> Self {
        let before = before.unwrap_or(KeptPoints { revision, time: Timestamp::from_micros(0), branches: Vec::new() });
        Self { revision, ..Self::index(group, before) }
    }

    pub(crate) const fn group(&self) -> GroupId {
        self.group
    }

    pub(crate) const fn revision(&self) -> u64 {
        self.revision
    }

    pub(super) const fn next_revision(&self) -> u64 {
        self.revision.saturating_add(1)
    }

    /// Whether a point that a branch records is still offered.
    pub(crate) fn offers(&self, point: &PointInfo) -> bool {
        let at = KeptPosition { epoch: point.epoch, seq: point.seq, lsn: point.lsn };
        self.knows(point.branch, point.id, at)
    }

    pub(super) fn offers_mark(&self, mark: &PointMark) -> bool {
        self.knows(mark.branch, mark.point, mark.at)
    }

    fn knows(&self, branch: BranchId, point: PointId, at: KeptPosition) -> bool {
        self.branches.get(&branch).is_none_or(|of| after(at, of.until) || of.points.contains(&point))
    }

    /// Whether a branch may fork there.
    pub(crate) fn allows(&self, origin: &Origin) -> bool {
        let at = KeptPosition { epoch: origin.at.epoch, seq: origin.at.seq, lsn: origin.at.lsn };
        self.branches.get(&origin.at.branch).is_none_or(|of| {
            let listed = origin.point.is_some_and(|point| of.points.contains(&point));
            after(at, of.until) || listed || of.positions.contains(&at)
        })
    }
}

/// Tenure and number decide: positions of a writer that was cut off may be higher than those that follow.
fn after(at: KeptPosition, until: KeptPosition) -> bool {
    (at.epoch, at.seq) > (until.epoch, until.seq)
}

/// The list that stands under a revision's name.
pub(super) fn decode(reader: &Reader, revision: u64, bytes: &[u8]) -> Result<KeptPoints> {
    let key = names::kept_revision(reader.group(), revision);
    let list = KeptPoints::decode(bytes, &record_place(reader, &key), reader.key()).map_err(damaged(&key))?;
    if list.revision == revision { Ok(list) } else { Err(cause::tampered(format!("{key} is another revision"))) }
}

/// Writes a list. Nobody else can have written one of that revision: then their run is the one that counts.
pub(super) async fn write(reader: &Reader, revision: u64, now: Timestamp, branches: Vec<KeptBranch>) -> Result<Kept> {
    let key = names::kept_revision(reader.group(), revision);
    let list = KeptPoints { revision, time: now, branches };
    let bytes = list
        .encode(&record_place(reader, &key), branch::random(reader.vault())?, reader.key())
        .map_err(damaged(&key))?;
    create_exact(&**reader.vault().store(), &key, Bytes::from(bytes)).await.map_err(|error| {
        if error.is_already_exists() {
            let what = format!("another gateway collects the garbage of group {} at the same moment", reader.group());
            return EngineError::new(ErrorKind::Retry, what).with_source(error);
        }
        cause::store(error)
    })?;
    Ok(Kept::index(reader.group(), list))
}
