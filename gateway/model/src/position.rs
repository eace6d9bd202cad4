//! Positions in a group's history: log sequence numbers, epochs, segments.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::BranchId;

/// A position in a group's write order. The first record of a group has LSN 1; 0 stands before every record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Lsn(pub u64);

impl Lsn {
    /// Before every record.
    pub const ZERO: Lsn = Lsn(0);

    /// The position after this one. A group that writes a million records a second takes half a million years to get
    /// to the end, so the arithmetic saturates instead of failing.
    #[must_use]
    pub const fn next(self) -> Lsn {
        Lsn(self.0.saturating_add(1))
    }

    /// The position `count` records later.
    #[must_use]
    pub const fn plus(self, count: u64) -> Lsn {
        Lsn(self.0.saturating_add(count))
    }

    /// The position before this one; [`Lsn::ZERO`] stays.
    #[must_use]
    pub const fn previous(self) -> Lsn {
        Lsn(self.0.saturating_sub(1))
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One writer's tenure on a branch. The first is 1; a higher epoch fences every lower one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Epoch(pub u64);

impl Epoch {
    /// The epoch after this one.
    #[must_use]
    pub const fn next(self) -> Epoch {
        Epoch(self.0.saturating_add(1))
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Number of a segment within its epoch. The first is 1; 0 stands before every segment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SegmentSeq(pub u64);

impl SegmentSeq {
    /// The number after this one.
    #[must_use]
    pub const fn next(self) -> SegmentSeq {
        SegmentSeq(self.0.saturating_add(1))
    }
}

impl fmt::Display for SegmentSeq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A segment within its group: which branch, whose tenure, which number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SegmentId {
    /// The branch whose log it belongs to.
    pub branch: BranchId,
    /// The tenure in which it was written.
    pub epoch: Epoch,
    /// Its number in that tenure.
    pub seq: SegmentSeq,
}

impl fmt::Display for SegmentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{:08}-{:012}", self.branch, self.epoch.0, self.seq.0)
    }
}
