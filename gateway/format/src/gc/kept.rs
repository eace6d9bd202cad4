//! The list of kept points: every position of a group that nothing may be taken from.
//!
//! The newest revision counts. A point of a branch that stands at or before the branch's `until` and is not listed has
//! been dropped for good: it is offered to nobody, and never comes back. What is after `until` is not this list's business.

use lifeboat_model::{BranchId, Epoch, Lsn, PointId, SegmentSeq, Timestamp};

use super::sealed::{self, KEPT, RecordPlace};
use crate::FormatError;
use crate::keys::{GroupKey, Salt};
use crate::map::MAP_POINTS_MAX;
use crate::wire::{Put, Reader};

/// Most branches of a list.
const BRANCHES_MAX: usize = 1 << 16;
/// Most positions of a branch that are kept besides its points.
const POSITIONS_MAX: usize = 1 << 16;
const BRANCH_LEN_MIN: usize = 48;
const POSITION_LEN: usize = 24;
const POINT_LEN: usize = 40;

/// A place in a branch's log: after that segment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeptPosition {
    /// Tenure.
    pub epoch: Epoch,
    /// Last segment; 0 before the first of the tenure.
    pub seq: SegmentSeq,
    /// Last position.
    pub lsn: Lsn,
}

/// What is kept of one branch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptBranch {
    /// The branch.
    pub branch: BranchId,
    /// The end of its log when the list was made: the list says nothing of what is after it.
    pub until: KeptPosition,
    /// Points, positions ascending.
    pub points: Vec<(PointId, KeptPosition)>,
    /// Other positions that are kept: where branches fork, where tenures ended.
    pub others: Vec<KeptPosition>,
}

/// Every kept position of a group, as of a moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptPoints {
    /// Revision, from 1: the number in the object's name.
    pub revision: u64,
    /// When it was made.
    pub time: Timestamp,
    /// By branch.
    pub branches: Vec<KeptBranch>,
}

impl KeptPoints {
    /// The object's bytes.
    pub fn encode(&self, place: &RecordPlace, salt: Salt, key: &GroupKey) -> Result<Vec<u8>, FormatError> {
        let what = KEPT.what;
        let mut out = Vec::new();
        out.put_u64(self.revision);
        out.put_i64(self.time.as_micros());
        out.put_count(what, self.branches.len(), BRANCHES_MAX)?;
        for branch in &self.branches {
            out.put(&branch.branch.to_bytes());
            put_position(&branch.until, &mut out);
            out.put_count(what, branch.points.len(), MAP_POINTS_MAX)?;
            for (id, at) in &branch.points {
                out.put(&id.to_bytes());
                put_position(at, &mut out);
            }
            out.put_count(what, branch.others.len(), POSITIONS_MAX)?;
            branch.others.iter().for_each(|at| put_position(at, &mut out));
        }
        sealed::seal(&KEPT, place, salt, key, &out)
    }

    /// Proves and decodes the object found under the name that `expected` says.
    pub fn decode(bytes: &[u8], expected: &RecordPlace, key: &GroupKey) -> Result<Self, FormatError> {
        let body = sealed::open(&KEPT, bytes, expected, key)?;
        let mut reader = Reader::new(KEPT.what, &body);
        let (revision, time) = (reader.u64()?, Timestamp::from_micros(reader.i64()?));
        let count = reader.count(BRANCHES_MAX, BRANCH_LEN_MIN)?;
        let mut branches = Vec::with_capacity(count);
        for _ in 0..count {
            branches.push(take_branch(&mut reader)?);
        }
        reader.finish()?;
        Ok(Self { revision, time, branches })
    }
}

fn take_branch(reader: &mut Reader<'_>) -> Result<KeptBranch, FormatError> {
    let branch = BranchId::from_bytes(reader.array()?);
    let until = take_position(reader)?;
    let count = reader.count(MAP_POINTS_MAX, POINT_LEN)?;
    let mut points = Vec::with_capacity(count);
    for _ in 0..count {
        points.push((PointId::from_bytes(reader.array()?), take_position(reader)?));
    }
    let count = reader.count(POSITIONS_MAX, POSITION_LEN)?;
    let mut others = Vec::with_capacity(count);
    for _ in 0..count {
        others.push(take_position(reader)?);
    }
    Ok(KeptBranch { branch, until, points, others })
}

fn put_position(at: &KeptPosition, out: &mut Vec<u8>) {
    out.put_u64(at.epoch.0);
    out.put_u64(at.seq.0);
    out.put_u64(at.lsn.0);
}

fn take_position(reader: &mut Reader<'_>) -> Result<KeptPosition, FormatError> {
    Ok(KeptPosition { epoch: Epoch(reader.u64()?), seq: SegmentSeq(reader.u64()?), lsn: Lsn(reader.u64()?) })
}
