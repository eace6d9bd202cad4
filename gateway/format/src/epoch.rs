//! Epoch objects: who writes a branch, since when, and where the tenure before ended.
//!
//! ```text
//! epoch/<e>       intent   magic "LBEI" … the writer of tenure e, or the fence that ends tenure e - 1
//! epoch/<e>.cut   cut      magic "LBEC" … the last segment of tenure e - 1, written by the opener of e
//! ```
//! Both are created once and never changed; whoever creates `epoch/<e>` first is the holder of tenure e. Both are small,
//! in clear text, and authenticated with the group's MAC key under the writer's nonce as salt.

use std::fmt;

use aws_lc_rs::hmac;
use lifeboat_model::{BranchId, Epoch, GatewayId, GroupId, Lsn, PointId, SegmentSeq, Timestamp, VaultId};

use crate::keys::{GroupKey, Salt, check_commitment, commitment, mac_key};
use crate::segment::SegmentHash;
use crate::wire::{Kind, Put, Reader};
use crate::{FORMAT_VERSION, FormatError};

/// Longest epoch object, in bytes.
pub const EPOCH_LEN_MAX: u64 = 512;
const MAC_LEN: usize = 32;

pub(crate) const INTENT: Kind = Kind { magic: *b"LBEI", what: "epoch intent", version: FORMAT_VERSION };
pub(crate) const CUT: Kind = Kind { magic: *b"LBEC", what: "epoch cut", version: FORMAT_VERSION };

/// Where an epoch object belongs: what its name says. For a cut, `epoch` is the one in its name, which opened after
/// the epoch that it cuts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct EpochPlace {
    /// The vault.
    pub vault: VaultId,
    /// The group.
    pub group: GroupId,
    /// The branch.
    pub branch: BranchId,
    /// The epoch in the object's name.
    pub epoch: Epoch,
}

/// What an epoch is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Purpose {
    /// Its writer appends to the branch.
    Write,
    /// Nobody appends any more: the epoch only ends the one before.
    Fence,
}

impl Purpose {
    fn code(self) -> u8 {
        match self {
            Self::Write => 1,
            Self::Fence => 2,
        }
    }
}

impl fmt::Display for Purpose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Write => "write",
            Self::Fence => "fence",
        })
    }
}

/// Where a branch forked from its parent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Origin {
    /// The parent branch.
    pub branch: BranchId,
    /// The recovery point at the fork; all zero for an orphan branch, which forks where its writer was cut off.
    pub point: PointId,
    /// Its position: the branch shares the parent's log up to here.
    pub lsn: Lsn,
    /// Tenure of the parent's segment that records the point.
    pub epoch: Epoch,
    /// Number of that segment.
    pub seq: SegmentSeq,
}

/// The claim of an epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EpochIntent {
    /// Where it belongs.
    pub place: EpochPlace,
    /// The gateway that claims it.
    pub writer: GatewayId,
    /// Fresh random bytes: tells whose claim landed when a reply was lost.
    pub nonce: Salt,
    /// When it was claimed, by the writer's clock.
    pub time: Timestamp,
    /// What for.
    pub purpose: Purpose,
    /// Where the branch forked; none for a group's first branch.
    pub origin: Option<Origin>,
    /// The branch that goes on in this one's place, said by a fence of a failover.
    pub promoted_to: Option<BranchId>,
}

impl EpochIntent {
    /// The object's bytes.
    #[must_use]
    pub fn encode(&self, key: &GroupKey) -> Vec<u8> {
        let mut out = INTENT.start();
        put_place(&self.place, &mut out);
        out.put(&self.writer.to_bytes());
        out.put(&self.nonce);
        out.put_i64(self.time.as_micros());
        out.put_u8(self.purpose.code());
        out.put_flag(self.origin.is_some());
        if let Some(origin) = &self.origin {
            out.put(&origin.branch.to_bytes());
            out.put(&origin.point.to_bytes());
            out.put_u64(origin.lsn.0);
            out.put_u64(origin.epoch.0);
            out.put_u64(origin.seq.0);
        }
        out.put_flag(self.promoted_to.is_some());
        if let Some(branch) = &self.promoted_to {
            out.put(&branch.to_bytes());
        }
        close(out, key, &self.nonce)
    }

    /// Proves and decodes the object found under the name that says `expected`.
    pub fn decode(bytes: &[u8], expected: &EpochPlace, key: &GroupKey) -> Result<Self, FormatError> {
        let intent = Self::decode_any(bytes)?;
        prove(&INTENT, bytes, key, &intent.nonce)?;
        check_place(&INTENT, &intent.place, expected)?;
        Ok(intent)
    }

    /// Decodes an intent wherever it was found, proving nothing: for inspection only.
    pub fn decode_any(bytes: &[u8]) -> Result<Self, FormatError> {
        let mut reader = INTENT.begin(bytes)?;
        let body = checked_body(&INTENT, bytes)?;
        let place = take_place(&mut reader)?;
        let writer = GatewayId::from_bytes(reader.array()?);
        let nonce = reader.array()?;
        let time = Timestamp::from_micros(reader.i64()?);
        let purpose = match reader.u8()? {
            1 => Purpose::Write,
            2 => Purpose::Fence,
            _ => return Err(reader.corrupt("no such purpose")),
        };
        let origin = if reader.flag()? { Some(take_origin(&mut reader)?) } else { None };
        let promoted_to = if reader.flag()? { Some(BranchId::from_bytes(reader.array()?)) } else { None };
        finish(reader, body)?;
        Ok(Self { place, writer, nonce, time, purpose, origin, promoted_to })
    }
}

/// The end of an epoch, as its successor saw it: segments of that epoch past it don't count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EpochCut {
    /// Where it belongs; `place.epoch` is the epoch that opened, the name's.
    pub place: EpochPlace,
    /// The epoch that it ends.
    pub epoch: Epoch,
    /// Last segment of that epoch that counts; 0 when it has none.
    pub last_seq: SegmentSeq,
    /// Last position of the branch's log that counts, whichever epoch it is of.
    pub last_lsn: Lsn,
    /// Seal hash of the last segment of the branch that counts; zero when there is none.
    pub last_hash: SegmentHash,
    /// Nonce of the intent of `place.epoch`: the cut is of that claim's making.
    pub nonce: Salt,
}

impl EpochCut {
    /// The object's bytes.
    #[must_use]
    pub fn encode(&self, key: &GroupKey) -> Vec<u8> {
        let mut out = CUT.start();
        put_place(&self.place, &mut out);
        out.put_u64(self.epoch.0);
        out.put_u64(self.last_seq.0);
        out.put_u64(self.last_lsn.0);
        out.put(&self.last_hash.0);
        out.put(&self.nonce);
        close(out, key, &self.nonce)
    }

    /// Proves and decodes the object found under the name that says `expected`.
    pub fn decode(bytes: &[u8], expected: &EpochPlace, key: &GroupKey) -> Result<Self, FormatError> {
        let cut = Self::decode_any(bytes)?;
        prove(&CUT, bytes, key, &cut.nonce)?;
        check_place(&CUT, &cut.place, expected)?;
        Ok(cut)
    }

    /// Decodes a cut wherever it was found, proving nothing: for inspection only.
    pub fn decode_any(bytes: &[u8]) -> Result<Self, FormatError> {
        let mut reader = CUT.begin(bytes)?;
        let body = checked_body(&CUT, bytes)?;
        let cut = Self {
            place: take_place(&mut reader)?,
            epoch: Epoch(reader.u64()?),
            last_seq: SegmentSeq(reader.u64()?),
            last_lsn: Lsn(reader.u64()?),
            last_hash: SegmentHash(reader.array()?),
            nonce: reader.array()?,
        };
        if cut.epoch.next() != cut.place.epoch {
            return Err(reader.corrupt("a cut ends another epoch than the one before its own"));
        }
        finish(reader, body)?;
        Ok(cut)
    }
}

fn put_place(place: &EpochPlace, out: &mut Vec<u8>) {
    out.put(&place.vault.to_bytes());
    out.put(&place.group.to_bytes());
    out.put(&place.branch.to_bytes());
    out.put_u64(place.epoch.0);
}

fn take_place(reader: &mut Reader<'_>) -> Result<EpochPlace, FormatError> {
    let place = EpochPlace {
        vault: VaultId::from_bytes(reader.array()?),
        group: GroupId::from_bytes(reader.array()?),
        branch: BranchId::from_bytes(reader.array()?),
        epoch: Epoch(reader.u64()?),
    };
    if place.epoch.0 == 0 { Err(reader.corrupt("epochs are numbered from 1")) } else { Ok(place) }
}

fn take_origin(reader: &mut Reader<'_>) -> Result<Origin, FormatError> {
    Ok(Origin {
        branch: BranchId::from_bytes(reader.array()?),
        point: PointId::from_bytes(reader.array()?),
        lsn: Lsn(reader.u64()?),
        epoch: Epoch(reader.u64()?),
        seq: SegmentSeq(reader.u64()?),
    })
}

fn check_place(kind: &Kind, found: &EpochPlace, expected: &EpochPlace) -> Result<(), FormatError> {
    crate::place::same(kind.what, "vault", found.vault, expected.vault)?;
    crate::place::same(kind.what, "group", found.group, expected.group)?;
    crate::place::same(kind.what, "branch", found.branch, expected.branch)?;
    crate::place::same(kind.what, "epoch", found.epoch, expected.epoch)
}

/// Appends commitment, checksum and MAC.
fn close(mut out: Vec<u8>, key: &GroupKey, salt: &Salt) -> Vec<u8> {
    out.put(&commitment(key, salt));
    out.put_crc();
    let mac = hmac::sign(&mac_key(key, salt), &out);
    out.put(mac.as_ref());
    out
}

/// The bytes that the checksum covers, once it is found right.
fn checked_body<'a>(kind: &Kind, bytes: &'a [u8]) -> Result<&'a [u8], FormatError> {
    let mut reader = Reader::new(kind.what, bytes);
    let len = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
    if len > EPOCH_LEN_MAX {
        return Err(FormatError::TooLarge { what: kind.what, found: len, limit: EPOCH_LEN_MAX });
    }
    let body_len = bytes.len().checked_sub(MAC_LEN.saturating_add(4));
    let body = reader.take(body_len.unwrap_or(usize::MAX))?;
    reader.checksum(body)?;
    Ok(body)
}

/// The fields must end where the commitment begins.
fn finish(mut reader: Reader<'_>, body: &[u8]) -> Result<(), FormatError> {
    let _commitment: [u8; 32] = reader.array()?;
    if reader.at() != u64::try_from(body.len()).unwrap_or(u64::MAX) {
        return Err(reader.corrupt("the fields don't end where the checksum is"));
    }
    Ok(())
}

fn prove(kind: &Kind, bytes: &[u8], key: &GroupKey, salt: &Salt) -> Result<(), FormatError> {
    let truncated = FormatError::Truncated { what: kind.what, needed: 0, available: 0 };
    let (signed, mac) = bytes.split_last_chunk::<MAC_LEN>().ok_or(truncated.clone())?;
    let (body, _crc) = signed.split_last_chunk::<4>().ok_or(truncated.clone())?;
    let (_, stored) = body.split_last_chunk::<32>().ok_or(truncated)?;
    check_commitment(kind.what, key, salt, stored)?;
    hmac::verify(&mac_key(key, salt), signed, mac).map_err(|_| FormatError::Authentication { what: kind.what })
}
