//! The way back: how an agent whose group was taken over has its disks brought to another branch's point, and goes on there.
//!
//! ```text
//! agent   ─ Recall ────────>              begins a line for this
//!         ─ OwnEnd ────────>              where does what this agent wrote end in the vault?
//!         <─────── OwnEndIs ─
//!         ─ Dirty*, Fetch ─>              one pass: what its disks hold, and which branch they are to be brought to
//!         <───────── Target ─             the point
//!         <─ Blocks, Reached ─            what differs, in order, and how far that is; again and again
//!         <──────── Fetched ─
//! ```
//! What the agent remembers between two passes is its own: a line that breaks is begun anew with the cursor that its disks have
//! durably. A tenure that forks from another branch (what was not shipped) or goes on with it (the takeover) begins with
//! [`Begin`] in place of [`Open`](super::Open).

use lifeboat_model::{
    BLOCK_SIZE_U64, BranchId, Epoch, Extent, GatewayId, GroupId, Lsn, PointId, VOLUME_BLOCKS_MAX, VolumeId,
};

use super::{FRAME_PAYLOAD, FrameKind, Place, STREAM, frame, put_points, put_sizes, take_points, take_sizes};
use crate::FormatError;
use crate::map::RetainedPoint;
use crate::wire::{Put, Reader, len64};

/// Extents of one Dirty frame, at most.
pub const FRAME_EXTENTS_MAX: usize = 8192;
/// Content of one Blocks frame, at most, bytes.
pub const FRAME_CONTENT_MAX: usize = FRAME_PAYLOAD;

const EXTENT_LEN: usize = 16;
pub(super) const BLOCKS_BYTES_MAX: usize = FRAME_CONTENT_MAX + 64;
const WHAT: &str = STREAM.what;

/// A place in the log of a branch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BranchPlace {
    /// The branch.
    pub branch: BranchId,
    /// Where on it.
    pub place: Place,
}

impl BranchPlace {
    pub(super) fn put(&self, out: &mut Vec<u8>) {
        out.put(&self.branch.to_bytes());
        self.place.put(out);
    }

    pub(super) fn take(reader: &mut Reader<'_>) -> Result<Self, FormatError> {
        Ok(Self { branch: BranchId::from_bytes(reader.array()?), place: Place::take(reader)? })
    }
}

fn optional<T>(
    reader: &mut Reader<'_>,
    take: impl FnOnce(&mut Reader<'_>) -> Result<T, FormatError>,
) -> Result<Option<T>, FormatError> {
    match reader.flag()? {
        false => Ok(None),
        true => take(reader).map(Some),
    }
}

/// How a tenure begins that is neither a new group's nor goes on from the agent's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Begin {
    /// The group.
    pub group: GroupId,
    /// The branch to be written.
    pub branch: BranchId,
    /// The agent, in whose name it is written.
    pub agent: GatewayId,
    /// Where it forks from; none for a branch whose log ends at `at`, and that goes on there.
    pub origin: Option<(BranchPlace, Option<PointId>)>,
    /// The last record that the agent has.
    pub at: Lsn,
}

impl Begin {
    /// The frame.
    ///
    /// # Errors
    /// None: the length is bounded.
    pub fn encode(&self) -> Result<Vec<u8>, FormatError> {
        let mut body = Vec::new();
        body.put(&self.group.to_bytes());
        body.put(&self.branch.to_bytes());
        body.put(&self.agent.to_bytes());
        body.put_flag(self.origin.is_some());
        if let Some((at, point)) = &self.origin {
            at.put(&mut body);
            body.put_flag(point.is_some());
            if let Some(point) = point {
                body.put(&point.to_bytes());
            }
        }
        body.put_u64(self.at.0);
        frame(FrameKind::Begin, &body)
    }

    /// What a body says.
    ///
    /// # Errors
    /// `Truncated`, `Corrupt`.
    pub fn decode(body: &[u8]) -> Result<Self, FormatError> {
        let mut reader = Reader::new(WHAT, body);
        let begin = Self {
            group: GroupId::from_bytes(reader.array()?),
            branch: BranchId::from_bytes(reader.array()?),
            agent: GatewayId::from_bytes(reader.array()?),
            origin: optional(&mut reader, |reader| {
                let at = BranchPlace::take(reader)?;
                Ok((at, optional(reader, |reader| Ok(PointId::from_bytes(reader.array()?)))?))
            })?,
            at: Lsn(reader.u64()?),
        };
        reader.finish()?;
        Ok(begin)
    }
}

/// Opens a line on which an agent asks for history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recall {
    /// The group.
    pub group: GroupId,
    /// The agent.
    pub agent: GatewayId,
}

impl Recall {
    /// The frame.
    ///
    /// # Errors
    /// None: the length is fixed.
    pub fn encode(&self) -> Result<Vec<u8>, FormatError> {
        let mut body = Vec::new();
        body.put(&self.group.to_bytes());
        body.put(&self.agent.to_bytes());
        frame(FrameKind::Recall, &body)
    }

    /// What a body says.
    ///
    /// # Errors
    /// `Truncated`, `Corrupt`.
    pub fn decode(body: &[u8]) -> Result<Self, FormatError> {
        let mut reader = Reader::new(WHAT, body);
        let recall =
            Self { group: GroupId::from_bytes(reader.array()?), agent: GatewayId::from_bytes(reader.array()?) };
        reader.finish()?;
        Ok(recall)
    }
}

/// Asks where what the agent wrote on a branch ends in the vault, now that somebody else has taken it over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OwnEnd {
    /// The branch.
    pub branch: BranchId,
    /// The newest epoch that the agent knows as its own.
    pub epoch: Epoch,
}

impl OwnEnd {
    /// The frame.
    ///
    /// # Errors
    /// None: the length is fixed.
    pub fn encode(&self) -> Result<Vec<u8>, FormatError> {
        let mut body = Vec::new();
        body.put(&self.branch.to_bytes());
        body.put_u64(self.epoch.0);
        frame(FrameKind::OwnEnd, &body)
    }

    /// What a body says.
    ///
    /// # Errors
    /// `Truncated`, `Corrupt`.
    pub fn decode(body: &[u8]) -> Result<Self, FormatError> {
        let mut reader = Reader::new(WHAT, body);
        let asked = Self { branch: BranchId::from_bytes(reader.array()?), epoch: Epoch(reader.u64()?) };
        reader.finish()?;
        Ok(asked)
    }
}

/// The answer to [`OwnEnd`].
///
/// # Errors
/// None: the length is fixed.
pub fn own_end_is(end: &BranchPlace) -> Result<Vec<u8>, FormatError> {
    let mut body = Vec::new();
    end.put(&mut body);
    frame(FrameKind::OwnEndIs, &body)
}

/// What the body of the answer to [`OwnEnd`] says.
///
/// # Errors
/// `Truncated`, `Corrupt`.
pub fn decode_own_end_is(body: &[u8]) -> Result<BranchPlace, FormatError> {
    let mut reader = Reader::new(WHAT, body);
    let end = BranchPlace::take(&mut reader)?;
    reader.finish()?;
    Ok(end)
}

/// Blocks of a volume that the agent wrote after what the vault has: whatever is there is to be fetched. In a comparison: blocks that differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dirty {
    /// The volume.
    pub volume: VolumeId,
    /// The blocks.
    pub extents: Vec<Extent>,
}

impl Dirty {
    /// The frame.
    ///
    /// # Errors
    /// `TooLarge` beyond the limits.
    pub fn encode(&self) -> Result<Vec<u8>, FormatError> {
        let mut body = Vec::new();
        body.put(&self.volume.to_bytes());
        body.put_count(WHAT, self.extents.len(), FRAME_EXTENTS_MAX)?;
        for extent in &self.extents {
            body.put_u64(extent.lba);
            body.put_u64(extent.blocks);
        }
        frame(FrameKind::Dirty, &body)
    }

    /// What a body says.
    ///
    /// # Errors
    /// `Truncated`, `Corrupt`, `TooLarge`.
    pub fn decode(body: &[u8]) -> Result<Self, FormatError> {
        let mut reader = Reader::new(WHAT, body);
        let volume = VolumeId::from_bytes(reader.array()?);
        let mut extents = Vec::new();
        for _ in 0..reader.count(FRAME_EXTENTS_MAX, EXTENT_LEN)? {
            extents.push(take_extent(&mut reader)?);
        }
        reader.finish()?;
        Ok(Self { volume, extents })
    }
}

fn take_extent(reader: &mut Reader<'_>) -> Result<Extent, FormatError> {
    let extent = Extent { lba: reader.u64()?, blocks: reader.u64()? };
    let inside = extent.lba.checked_add(extent.blocks).is_some_and(|end| end <= VOLUME_BLOCKS_MAX);
    if !inside || extent.blocks == 0 {
        return Err(reader.corrupt("blocks that no volume has"));
    }
    Ok(extent)
}

/// How far a pass is: volumes before this one, and this one before the block, are done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reached {
    /// The volume.
    pub volume: VolumeId,
    /// Its first block that isn't done.
    pub lba: u64,
}

impl Reached {
    fn put(&self, out: &mut Vec<u8>) {
        out.put(&self.volume.to_bytes());
        out.put_u64(self.lba);
    }

    fn take(reader: &mut Reader<'_>) -> Result<Self, FormatError> {
        Ok(Self { volume: VolumeId::from_bytes(reader.array()?), lba: reader.u64()? })
    }

    /// The frame.
    ///
    /// # Errors
    /// None: the length is fixed.
    pub fn encode(&self) -> Result<Vec<u8>, FormatError> {
        let mut body = Vec::new();
        self.put(&mut body);
        frame(FrameKind::Reached, &body)
    }

    /// What a body says.
    ///
    /// # Errors
    /// `Truncated`, `Corrupt`.
    pub fn decode(body: &[u8]) -> Result<Self, FormatError> {
        let mut reader = Reader::new(WHAT, body);
        let reached = Self::take(&mut reader)?;
        reader.finish()?;
        Ok(reached)
    }
}

/// Asks for one pass. The [`Dirty`] frames before it belong to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fetch {
    /// The branch whose newest point is wanted.
    pub branch: BranchId,
    /// What the disks hold, but for what is dirty; none: nobody knows.
    pub base: Option<BranchPlace>,
    /// The point of a pass that was broken off.
    pub target: Option<Lsn>,
    /// How far that pass was.
    pub cursor: Option<Reached>,
    /// Every block, whatever the base is.
    pub full: bool,
}

impl Fetch {
    /// The frame.
    ///
    /// # Errors
    /// None: the length is bounded.
    pub fn encode(&self) -> Result<Vec<u8>, FormatError> {
        let mut body = Vec::new();
        body.put(&self.branch.to_bytes());
        body.put_flag(self.base.is_some());
        if let Some(base) = &self.base {
            base.put(&mut body);
        }
        body.put_flag(self.target.is_some());
        if let Some(target) = self.target {
            body.put_u64(target.0);
        }
        body.put_flag(self.cursor.is_some());
        if let Some(cursor) = &self.cursor {
            cursor.put(&mut body);
        }
        body.put_flag(self.full);
        frame(FrameKind::Fetch, &body)
    }

    /// What a body says.
    ///
    /// # Errors
    /// `Truncated`, `Corrupt`.
    pub fn decode(body: &[u8]) -> Result<Self, FormatError> {
        let mut reader = Reader::new(WHAT, body);
        let fetch = Self {
            branch: BranchId::from_bytes(reader.array()?),
            base: optional(&mut reader, BranchPlace::take)?,
            target: optional(&mut reader, |reader| Ok(Lsn(reader.u64()?)))?,
            cursor: optional(&mut reader, Reached::take)?,
            full: reader.flag()?,
        };
        reader.finish()?;
        Ok(fetch)
    }
}

/// The point that a pass goes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The branch whose log has the point.
    pub branch: BranchId,
    /// The point.
    pub point: RetainedPoint,
    /// Whether it is the one that was broken off.
    pub begun: bool,
    /// Whether every block is fetched.
    pub full: bool,
    /// The volumes there, and their sizes in blocks.
    pub volumes: Vec<(VolumeId, u64)>,
}

impl Target {
    /// The frame.
    ///
    /// # Errors
    /// `TooLarge` beyond the limits.
    pub fn encode(&self) -> Result<Vec<u8>, FormatError> {
        let mut body = Vec::new();
        body.put(&self.branch.to_bytes());
        put_points(&mut body, std::slice::from_ref(&self.point))?;
        body.put_flag(self.begun);
        body.put_flag(self.full);
        put_sizes(&mut body, &self.volumes)?;
        frame(FrameKind::Target, &body)
    }

    /// What a body says.
    ///
    /// # Errors
    /// `Truncated`, `Corrupt`, `TooLarge`.
    pub fn decode(body: &[u8]) -> Result<Self, FormatError> {
        let mut reader = Reader::new(WHAT, body);
        let branch = BranchId::from_bytes(reader.array()?);
        let mut points = take_points(&mut reader)?;
        let point = points.pop().filter(|_| points.is_empty());
        let point = point.ok_or_else(|| reader.corrupt("not one point"))?;
        let (begun, full) = (reader.flag()?, reader.flag()?);
        let volumes = take_sizes(&mut reader)?;
        reader.finish()?;
        Ok(Self { branch, point, begun, full, volumes })
    }
}

/// Content of a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Blocks<'a> {
    /// The volume.
    pub volume: VolumeId,
    /// Which blocks.
    pub extent: Extent,
    /// What is in them; nothing for zeroes.
    pub data: Option<&'a [u8]>,
}

impl<'a> Blocks<'a> {
    /// The frame.
    ///
    /// # Errors
    /// `Refused` for content of another length, `TooLarge` beyond the limits.
    pub fn encode(&self) -> Result<Vec<u8>, FormatError> {
        let mut body = Vec::new();
        body.put(&self.volume.to_bytes());
        body.put_u64(self.extent.lba);
        body.put_u64(self.extent.blocks);
        body.put_flag(self.data.is_some());
        if let Some(data) = self.data {
            if self.extent.blocks.checked_mul(BLOCK_SIZE_U64) != Some(len64(data.len())) {
                return Err(FormatError::Refused { what: WHAT, why: "content of another length than its blocks have" });
            }
            body.put(data);
        }
        frame(FrameKind::Blocks, &body)
    }

    /// What a body says.
    ///
    /// # Errors
    /// `Truncated`, `Corrupt`.
    pub fn decode(body: &'a [u8]) -> Result<Self, FormatError> {
        let mut reader = Reader::new(WHAT, body);
        let volume = VolumeId::from_bytes(reader.array()?);
        let extent = take_extent(&mut reader)?;
        let len = extent.blocks.checked_mul(BLOCK_SIZE_U64).and_then(|len| usize::try_from(len).ok());
        let data = match reader.flag()? {
            false => None,
            true => Some(reader.take(len.unwrap_or(usize::MAX))?),
        };
        reader.finish()?;
        Ok(Self { volume, extent, data })
    }
}

/// What a pass did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fetched {
    /// Blocks of which it is known whether they differ.
    pub blocks_compared: u64,
    /// Blocks that were sent, zeroes included.
    pub blocks_moved: u64,
    /// Bytes read from the vault for them.
    pub bytes_fetched: u64,
}

impl Fetched {
    /// The frame.
    ///
    /// # Errors
    /// None: the length is fixed.
    pub fn encode(&self) -> Result<Vec<u8>, FormatError> {
        let mut body = Vec::new();
        for number in [self.blocks_compared, self.blocks_moved, self.bytes_fetched] {
            body.put_u64(number);
        }
        frame(FrameKind::Fetched, &body)
    }

    /// What a body says.
    ///
    /// # Errors
    /// `Truncated`, `Corrupt`.
    pub fn decode(body: &[u8]) -> Result<Self, FormatError> {
        let mut reader = Reader::new(WHAT, body);
        let fetched =
            Self { blocks_compared: reader.u64()?, blocks_moved: reader.u64()?, bytes_fetched: reader.u64()? };
        reader.finish()?;
        Ok(fetched)
    }
}
