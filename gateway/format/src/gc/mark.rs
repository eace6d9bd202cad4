//! What people say of one point: that it is pinned, until when, and what it is called. The newest revision counts.

use lifeboat_model::{BranchId, Epoch, GatewayId, Lsn, PointId, PointKind, SegmentSeq, Timestamp};

use super::kept::KeptPosition;
use super::sealed::{self, MARK, RecordPlace};
use crate::keys::{GroupKey, Salt};
use crate::segment::take_point_kind;
use crate::wire::{Put, Reader};
use crate::{FormatError, LABEL_BYTES_MAX};

/// A revision of what is said of a point. It repeats what its segment records, so that a pinned point is listed whatever
/// became of the lists that it was on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PointMark {
    /// Revision, from 1: the number in the object's name.
    pub revision: u64,
    /// The gateway that wrote it.
    pub gateway: GatewayId,
    /// When.
    pub time: Timestamp,
    /// The point.
    pub point: PointId,
    /// The branch whose log records it.
    pub branch: BranchId,
    /// Where.
    pub at: KeptPosition,
    /// When it was taken.
    pub taken: Timestamp,
    /// How it came to be.
    pub kind: PointKind,
    /// What it is called; may be empty.
    pub label: String,
    /// Whether no retention schedule drops it.
    pub pinned: bool,
    /// Until when it is pinned; for good without.
    pub until: Option<Timestamp>,
    /// Why it is pinned; may be empty.
    pub reason: String,
}

impl PointMark {
    /// The object's bytes.
    pub fn encode(&self, place: &RecordPlace, salt: Salt, key: &GroupKey) -> Result<Vec<u8>, FormatError> {
        let mut out = Vec::new();
        out.put_u64(self.revision);
        out.put(&self.gateway.to_bytes());
        out.put_i64(self.time.as_micros());
        out.put(&self.point.to_bytes());
        out.put(&self.branch.to_bytes());
        out.put_u64(self.at.epoch.0);
        out.put_u64(self.at.seq.0);
        out.put_u64(self.at.lsn.0);
        out.put_i64(self.taken.as_micros());
        out.put_u8(self.kind.code());
        out.put_text(MARK.what, &self.label, LABEL_BYTES_MAX)?;
        out.put_flag(self.pinned);
        out.put_flag(self.until.is_some());
        if let Some(until) = self.until {
            out.put_i64(until.as_micros());
        }
        out.put_text(MARK.what, &self.reason, LABEL_BYTES_MAX)?;
        sealed::seal(&MARK, place, salt, key, &out)
    }

    /// Proves and decodes the object found under the name that `expected` says.
    pub fn decode(bytes: &[u8], expected: &RecordPlace, key: &GroupKey) -> Result<Self, FormatError> {
        let body = sealed::open(&MARK, bytes, expected, key)?;
        let mut reader = Reader::new(MARK.what, &body);
        let mark = Self {
            revision: reader.u64()?,
            gateway: GatewayId::from_bytes(reader.array()?),
            time: Timestamp::from_micros(reader.i64()?),
            point: PointId::from_bytes(reader.array()?),
            branch: BranchId::from_bytes(reader.array()?),
            at: KeptPosition { epoch: Epoch(reader.u64()?), seq: SegmentSeq(reader.u64()?), lsn: Lsn(reader.u64()?) },
            taken: Timestamp::from_micros(reader.i64()?),
            kind: take_point_kind(&mut reader)?,
            label: reader.text(LABEL_BYTES_MAX)?,
            pinned: reader.flag()?,
            until: if reader.flag()? { Some(Timestamp::from_micros(reader.i64()?)) } else { None },
            reason: reader.text(LABEL_BYTES_MAX)?,
        };
        reader.finish()?;
        Ok(mark)
    }
}
