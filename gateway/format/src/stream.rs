//! The stream of a mobility agent: what an agent and a process server say to each other, and what the process server
//! keeps of it on its disk.
//!
//! ```text
//! frame  magic, version │ kind │ reserved │ length of the body │ CRC of all of it │ body
//!
//! agent           ─ Declare ───────>            what is to be protected, under which policy
//!                 <──────── Declared ─
//!                 ─ Open ──────────>            begins the stream: which group, which branch, what the agent knows
//!                 <──────── Opened ─            the tenure, where the log ends, up to where records are here already
//!                 ─ Records ───────>            a stretch of the write order; again and again
//!                 <────── Progress ─            cached up to here, in the vault up to there
//!                 ─ Look, Beat ────>            is somebody else writing the branch? I am still here
//!                 <─────────── End ─            why the line ends
//! ```
//! A second line, beside the stream and longer than any tenure, is for what an agent is told ([`control`]):
//!
//! ```text
//! agent           ─ Attend ────────>            begins it: whose group this is
//!                 ─ Report ────────>            how the group is, whenever that changes
//!                 <─────────── Ask ─            take a point, stop in order, go on, copy what the vault lacks
//!                 ─ Answer ────────>            what came of it
//! ```
//! A third kind is for the way back after a failover ([`recall`]). In version 2 of the protocol any of them may begin with a question:
//!
//! ```text
//! agent           ─ Survey ────────>            how are you?
//!                 <──────── Standing ─          agents, cache, health; which process servers there are
//! ```
//!
//! In version 3 an agent says in Attend what it can do, is told by an Ask what its policy wants of it, and may open a fourth kind of line
//! for having its disks compared with the vault ([`compare`]).
//!
//! The process server writes a Records frame into a file as it came, and a Tenure frame beside them that says whose they are.
//! The checksum finds what a line, a disk or a crash damaged; who may say something is decided by TLS below and by the
//! process server above. Each frame is bounded by its kind, so that a length is refused before anything is allocated.

use lifeboat_model::{
    BLOCK_SIZE_U64, BranchId, Epoch, GatewayId, GroupId, Lsn, PointId, PointKind, SegmentSeq, Timestamp,
    VOLUME_BLOCKS_MAX, VolumeId,
};

use crate::journal::{BATCH_PAYLOAD_MAX, EntryOp, decode_point};
use crate::map::RetainedPoint;
use crate::wire::{Kind, Put, Reader, len32, len64};
use crate::{FORMAT_VERSION, FormatError, GROUP_VOLUMES_MAX, LABEL_BYTES_MAX};

/// Length of a frame's head, bytes.
pub const FRAME_HEAD_LEN: usize = 16;
/// Records of one frame, at most.
pub const FRAME_RECORDS_MAX: usize = 1 << 16;
/// Payload at which whoever makes frames begins another one, bytes. One record may go beyond it.
pub const FRAME_PAYLOAD: usize = 4 << 20;
/// Length of the body of a Records frame, at most, bytes.
pub const RECORDS_BYTES_MAX: usize = FRAME_PAYLOAD + BATCH_PAYLOAD_MAX + FRAME_RECORDS_MAX * RECORD_LEN + RECORDS_HEAD;
/// Recovery points of one Progress or Opened frame, at most.
pub const FRAME_POINTS_MAX: usize = 1024;
/// Longest text for people, bytes.
pub const TEXT_BYTES_MAX: usize = 2048;

/// Disks of one agent's group, at most.
pub const DISKS_MAX: usize = 32;
/// Longest name of a group, a policy or a volume, bytes.
pub const NAME_BYTES_MAX: usize = 63;
/// Longest path of a disk, bytes.
pub const PATH_BYTES_MAX: usize = 4096;

pub mod compare;
mod control;
pub mod recall;
mod standing;

pub use standing::{ADDRESS_BYTES_MAX, KnownServer, SERVERS_MAX, Standing};

pub use control::{
    Abilities, Answer, Ask, Asked, Attend, Done, Part, REASONS_MAX, Refusal, Report, Reported, ReportedResync, Rules,
    Window,
};

const DISK_LEN_MIN: usize = 28;
const RECORD_LEN: usize = 45;
const RECORDS_HEAD: usize = 25 + GROUP_VOLUMES_MAX * SIZE_LEN;
const SIZE_LEN: usize = 24;
const POINT_LEN_MIN: usize = 52;
/// Length of every other body, at most.
const SMALL_BYTES_MAX: usize =
    FRAME_POINTS_MAX * (POINT_LEN_MIN + LABEL_BYTES_MAX) + GROUP_VOLUMES_MAX * SIZE_LEN + TEXT_BYTES_MAX + 256;

pub(crate) const STREAM: Kind = Kind { magic: *b"LBST", what: "stream frame", version: FORMAT_VERSION };

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameKind {
    /// [`Open`].
    Open,
    /// [`Opened`].
    Opened,
    /// [`Records`].
    Records,
    /// [`Progress`].
    Progress,
    /// Asks whether somebody else writes the branch; no body. It shows in Progress or End.
    Look,
    /// Says that the agent is there; no body.
    Beat,
    /// [`End`].
    End,
    /// [`Tenure`].
    Tenure,
    /// [`Declare`].
    Declare,
    /// What was declared stands in the catalog; no body.
    Declared,
    /// [`Attend`].
    Attend,
    /// [`Report`].
    Report,
    /// [`Ask`].
    Ask,
    /// [`Answer`].
    Answer,
    /// [`recall::Begin`].
    Begin,
    /// [`recall::Recall`].
    Recall,
    /// [`recall::OwnEnd`].
    OwnEnd,
    /// The answer to it: [`recall::own_end_is`].
    OwnEndIs,
    /// [`recall::Dirty`].
    Dirty,
    /// [`recall::Fetch`].
    Fetch,
    /// [`recall::Target`].
    Target,
    /// [`recall::Blocks`].
    Blocks,
    /// [`recall::Reached`].
    Reached,
    /// [`recall::Fetched`].
    Fetched,
    /// Asks how a process server is doing; no body.
    Survey,
    /// The answer to it: [`Standing`].
    Standing,
    /// [`compare::Compare`].
    Compare,
    /// [`compare::Keyed`].
    Keyed,
    /// [`compare::Leaves`].
    Leaves,
    /// [`compare::Unequal`].
    Unequal,
    /// [`compare::Leaf`].
    Leaf,
}

impl FrameKind {
    const fn code(self) -> u8 {
        match self {
            Self::Open => 1,
            Self::Opened => 2,
            Self::Records => 3,
            Self::Progress => 4,
            Self::Look => 5,
            Self::Beat => 6,
            Self::End => 7,
            Self::Tenure => 8,
            Self::Declare => 9,
            Self::Declared => 10,
            Self::Attend => 11,
            Self::Report => 12,
            Self::Ask => 13,
            Self::Answer => 14,
            Self::Begin => 15,
            Self::Recall => 16,
            Self::OwnEnd => 17,
            Self::OwnEndIs => 18,
            Self::Dirty => 19,
            Self::Fetch => 20,
            Self::Target => 21,
            Self::Blocks => 22,
            Self::Reached => 23,
            Self::Fetched => 24,
            Self::Survey => 25,
            Self::Standing => 26,
            Self::Compare => 27,
            Self::Keyed => 28,
            Self::Leaves => 29,
            Self::Unequal => 30,
            Self::Leaf => 31,
        }
    }

    const fn from_code(code: u8) -> Option<Self> {
        match code {
            1 => Some(Self::Open),
            2 => Some(Self::Opened),
            3 => Some(Self::Records),
            4 => Some(Self::Progress),
            5 => Some(Self::Look),
            6 => Some(Self::Beat),
            7 => Some(Self::End),
            8 => Some(Self::Tenure),
            9 => Some(Self::Declare),
            10 => Some(Self::Declared),
            11 => Some(Self::Attend),
            12 => Some(Self::Report),
            13 => Some(Self::Ask),
            14 => Some(Self::Answer),
            15 => Some(Self::Begin),
            16 => Some(Self::Recall),
            17 => Some(Self::OwnEnd),
            18 => Some(Self::OwnEndIs),
            19 => Some(Self::Dirty),
            20 => Some(Self::Fetch),
            21 => Some(Self::Target),
            22 => Some(Self::Blocks),
            23 => Some(Self::Reached),
            24 => Some(Self::Fetched),
            25 => Some(Self::Survey),
            26 => Some(Self::Standing),
            27 => Some(Self::Compare),
            28 => Some(Self::Keyed),
            29 => Some(Self::Leaves),
            30 => Some(Self::Unequal),
            31 => Some(Self::Leaf),
            _ => None,
        }
    }

    const fn bytes_max(self) -> usize {
        match self {
            Self::Records => RECORDS_BYTES_MAX,
            Self::Blocks => recall::BLOCKS_BYTES_MAX,
            Self::Look | Self::Beat | Self::Declared | Self::Survey => 0,
            Self::Open
            | Self::Opened
            | Self::Progress
            | Self::End
            | Self::Tenure
            | Self::Declare
            | Self::Attend
            | Self::Report
            | Self::Ask
            | Self::Answer
            | Self::Begin
            | Self::Recall
            | Self::OwnEnd
            | Self::OwnEndIs
            | Self::Dirty
            | Self::Fetch
            | Self::Target
            | Self::Reached
            | Self::Fetched
            | Self::Standing
            | Self::Compare
            | Self::Keyed
            | Self::Leaves
            | Self::Unequal
            | Self::Leaf => SMALL_BYTES_MAX,
        }
    }
}

/// The head of a frame: enough to know how much follows, before anything of it is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHead {
    /// What it is.
    pub kind: FrameKind,
    /// Length of the body, bytes.
    pub body_len: usize,
    checksum: u32,
}

impl FrameHead {
    /// Reads the [`FRAME_HEAD_LEN`] bytes of a head.
    ///
    /// # Errors
    /// `NotThisKind`, `NewerVersion`, `Truncated`, `Corrupt`, `TooLarge` for a body that no frame of the kind has.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let mut reader = STREAM.begin(bytes)?;
        let code = reader.u8()?;
        let kind = FrameKind::from_code(code).ok_or_else(|| reader.corrupt("a kind of frame that there isn't"))?;
        if reader.u8()? != 0 {
            return Err(reader.corrupt("a reserved byte is not zero"));
        }
        let found = reader.u32()?;
        let body_len = usize::try_from(found).unwrap_or(usize::MAX);
        if body_len > kind.bytes_max() {
            let limit = len64(kind.bytes_max());
            return Err(FormatError::TooLarge { what: STREAM.what, found: u64::from(found), limit });
        }
        Ok(Self { kind, body_len, checksum: reader.u32()? })
    }

    /// Whether head and body are as they were sent.
    ///
    /// # Errors
    /// `Truncated`, `Corrupt`.
    pub fn verify(&self, body: &[u8]) -> Result<(), FormatError> {
        if body.len() != self.body_len {
            let (needed, available) = (len64(self.body_len), len64(body.len()));
            return Err(FormatError::Truncated { what: STREAM.what, needed, available });
        }
        if checksum(self.kind, self.body_len, body) == Some(self.checksum) {
            Ok(())
        } else {
            Err(FormatError::Corrupt { what: STREAM.what, at: 12, why: "the checksum differs" })
        }
    }
}

fn head(kind: FrameKind, body_len: usize) -> Option<Vec<u8>> {
    let mut head = STREAM.start();
    head.put_u8(kind.code());
    head.put_u8(0);
    head.put_u32(u32::try_from(body_len).ok()?);
    Some(head)
}

fn checksum(kind: FrameKind, body_len: usize, body: &[u8]) -> Option<u32> {
    Some(crc32c::crc32c_append(crc32c::crc32c(&head(kind, body_len)?), body))
}

fn frame(kind: FrameKind, body: &[u8]) -> Result<Vec<u8>, FormatError> {
    if body.len() > kind.bytes_max() {
        let (found, limit) = (len64(body.len()), len64(kind.bytes_max()));
        return Err(FormatError::TooLarge { what: STREAM.what, found, limit });
    }
    len32(STREAM.what, body.len())?;
    let mut out = head(kind, body.len()).unwrap_or_default();
    out.put_u32(checksum(kind, body.len(), body).unwrap_or_default());
    out.put(body);
    Ok(out)
}

/// [`FrameKind::Look`].
#[must_use]
pub fn look() -> Vec<u8> {
    frame(FrameKind::Look, &[]).unwrap_or_default()
}

/// [`FrameKind::Beat`].
#[must_use]
pub fn beat() -> Vec<u8> {
    frame(FrameKind::Beat, &[]).unwrap_or_default()
}

/// [`FrameKind::Declared`].
#[must_use]
pub fn declared() -> Vec<u8> {
    frame(FrameKind::Declared, &[]).unwrap_or_default()
}

/// [`FrameKind::Survey`].
#[must_use]
pub fn survey() -> Vec<u8> {
    frame(FrameKind::Survey, &[]).unwrap_or_default()
}

/// A disk that is to be protected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeclaredDisk {
    /// The volume that it is.
    pub id: VolumeId,
    /// Its size, bytes.
    pub size_bytes: u64,
    /// The volume's name.
    pub name: String,
    /// Where it is on the agent's machine.
    pub path: String,
}

/// What an agent protects. Said before the stream begins; said again it changes nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Declare {
    /// The group.
    pub group: GroupId,
    /// The agent.
    pub agent: GatewayId,
    /// The group's name.
    pub name: String,
    /// The name of its policy.
    pub policy: String,
    /// Its disks.
    pub disks: Vec<DeclaredDisk>,
}

impl Declare {
    /// The frame.
    ///
    /// # Errors
    /// `TooLarge` beyond the limits.
    pub fn encode(&self) -> Result<Vec<u8>, FormatError> {
        let mut body = Vec::new();
        body.put(&self.group.to_bytes());
        body.put(&self.agent.to_bytes());
        body.put_text(STREAM.what, &self.name, NAME_BYTES_MAX)?;
        body.put_text(STREAM.what, &self.policy, NAME_BYTES_MAX)?;
        body.put_count(STREAM.what, self.disks.len(), DISKS_MAX)?;
        for disk in &self.disks {
            body.put(&disk.id.to_bytes());
            body.put_u64(disk.size_bytes);
            body.put_text(STREAM.what, &disk.name, NAME_BYTES_MAX)?;
            body.put_text(STREAM.what, &disk.path, PATH_BYTES_MAX)?;
        }
        frame(FrameKind::Declare, &body)
    }

    /// What a body says.
    ///
    /// # Errors
    /// `Truncated`, `Corrupt`, `TooLarge`.
    pub fn decode(body: &[u8]) -> Result<Self, FormatError> {
        let mut reader = Reader::new(STREAM.what, body);
        let mut declare = Self {
            group: GroupId::from_bytes(reader.array()?),
            agent: GatewayId::from_bytes(reader.array()?),
            name: reader.text(NAME_BYTES_MAX)?,
            policy: reader.text(NAME_BYTES_MAX)?,
            disks: Vec::new(),
        };
        for _ in 0..reader.count(DISKS_MAX, DISK_LEN_MIN)? {
            declare.disks.push(DeclaredDisk {
                id: VolumeId::from_bytes(reader.array()?),
                size_bytes: reader.u64()?,
                name: reader.text(NAME_BYTES_MAX)?,
                path: reader.text(PATH_BYTES_MAX)?,
            });
        }
        reader.finish()?;
        Ok(declare)
    }
}

/// How a stream begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Open {
    /// The group.
    pub group: GroupId,
    /// Its branch.
    pub branch: BranchId,
    /// The agent, in whose name the branch is written.
    pub agent: GatewayId,
    /// The newest epoch that the agent knows as its own; none for a branch that is to be made.
    pub epoch: Option<Epoch>,
    /// The last record that it has durably.
    pub durable: Lsn,
    /// Records up to here were in the vault as far as it knows: it wants to hear of the points after it.
    pub shipped: Lsn,
}

impl Open {
    /// The frame.
    ///
    /// # Errors
    /// None: the length is fixed.
    pub fn encode(&self) -> Result<Vec<u8>, FormatError> {
        let mut body = Vec::new();
        body.put(&self.group.to_bytes());
        body.put(&self.branch.to_bytes());
        body.put(&self.agent.to_bytes());
        body.put_flag(self.epoch.is_some());
        body.put_u64(self.epoch.unwrap_or_default().0);
        body.put_u64(self.durable.0);
        body.put_u64(self.shipped.0);
        frame(FrameKind::Open, &body)
    }

    /// What a body says.
    ///
    /// # Errors
    /// `Truncated`, `Corrupt`.
    pub fn decode(body: &[u8]) -> Result<Self, FormatError> {
        let mut reader = Reader::new(STREAM.what, body);
        let (group, branch, agent) = (reader.array()?, reader.array()?, reader.array()?);
        let known = reader.flag()?;
        let epoch = Epoch(reader.u64()?);
        if !known && epoch != Epoch(0) {
            return Err(reader.corrupt("an epoch of a branch that there isn't"));
        }
        let open = Self {
            group: GroupId::from_bytes(group),
            branch: BranchId::from_bytes(branch),
            agent: GatewayId::from_bytes(agent),
            epoch: known.then_some(epoch),
            durable: Lsn(reader.u64()?),
            shipped: Lsn(reader.u64()?),
        };
        reader.finish()?;
        Ok(open)
    }
}

/// A place in the log of the line's branch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// The tenure.
    pub epoch: Epoch,
    /// The last segment.
    pub seq: SegmentSeq,
    /// The last record.
    pub lsn: Lsn,
}

impl Place {
    fn put(&self, out: &mut Vec<u8>) {
        out.put_u64(self.epoch.0);
        out.put_u64(self.seq.0);
        out.put_u64(self.lsn.0);
    }

    fn take(reader: &mut Reader<'_>) -> Result<Self, FormatError> {
        Ok(Self { epoch: Epoch(reader.u64()?), seq: SegmentSeq(reader.u64()?), lsn: Lsn(reader.u64()?) })
    }
}

/// What the process server found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Opened {
    /// The tenure.
    pub epoch: Epoch,
    /// Where the log ends in the vault.
    pub end: Place,
    /// Records up to here are on the process server's disk: the next ones are wanted.
    pub cached: Lsn,
    /// The newest points of the branch after what the agent knew, the oldest first.
    pub points: Vec<RetainedPoint>,
    /// The volumes and their sizes in blocks.
    pub volumes: Vec<(VolumeId, u64)>,
}

impl Opened {
    /// The frame.
    ///
    /// # Errors
    /// `TooLarge` beyond the limits.
    pub fn encode(&self) -> Result<Vec<u8>, FormatError> {
        let mut body = Vec::new();
        body.put_u64(self.epoch.0);
        self.end.put(&mut body);
        body.put_u64(self.cached.0);
        put_points(&mut body, &self.points)?;
        put_sizes(&mut body, &self.volumes)?;
        frame(FrameKind::Opened, &body)
    }

    /// What a body says.
    ///
    /// # Errors
    /// `Truncated`, `Corrupt`, `TooLarge`.
    pub fn decode(body: &[u8]) -> Result<Self, FormatError> {
        let mut reader = Reader::new(STREAM.what, body);
        let opened = Self {
            epoch: Epoch(reader.u64()?),
            end: Place::take(&mut reader)?,
            cached: Lsn(reader.u64()?),
            points: take_points(&mut reader)?,
            volumes: take_sizes(&mut reader)?,
        };
        if opened.cached < opened.end.lsn {
            return Err(reader.corrupt("records are in the vault that were never taken"));
        }
        reader.finish()?;
        Ok(opened)
    }
}

/// One record of the write order, but for its payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// Its position.
    pub lsn: Lsn,
    /// What it does.
    pub op: EntryOp,
    /// The volume; all zero for a point.
    pub volume: VolumeId,
    /// First block.
    pub lba: u64,
    /// Number of blocks.
    pub blocks: u64,
    /// Content, or a point as [`crate::journal::encode_point`] writes it.
    pub payload: &'a [u8],
}

impl Record<'_> {
    /// Whether it is a recovery point.
    #[must_use]
    pub const fn is_point(&self) -> bool {
        matches!(self.op, EntryOp::Point | EntryOp::PointInResync)
    }

    fn fits(&self) -> bool {
        let len = len64(self.payload.len());
        let exact = self.blocks.checked_mul(BLOCK_SIZE_U64) == Some(len);
        let inside = self.lba.checked_add(self.blocks).is_some_and(|end| end <= VOLUME_BLOCKS_MAX);
        match self.op {
            EntryOp::Write => exact && inside && self.blocks > 0,
            EntryOp::Copy => (exact || len == 0) && inside && self.blocks > 0,
            EntryOp::Zero | EntryOp::Trim => len == 0 && inside && self.blocks > 0,
            EntryOp::Resize => len == 0 && self.lba == 0 && (1..=VOLUME_BLOCKS_MAX).contains(&self.blocks),
            EntryOp::Point | EntryOp::PointInResync => {
                let point = decode_point(self.payload);
                self.lba == 0
                    && self.blocks == 0
                    && self.volume == VolumeId::from_bytes([0; 16])
                    && point.is_ok_and(|(_, _, kind, _)| PointKind::from_code(kind).is_some())
            }
        }
    }
}

/// A stretch of the write order: every record after `after` up to `last`, but for those that a collapse gave up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Records<'a> {
    /// The record before the first.
    pub after: Lsn,
    /// The position that having it reaches.
    pub last: Lsn,
    /// Whether it is to be shipped although it does not end with a point: the agent's journal needs the room.
    pub push: bool,
    /// As in an interval: where records were given up before the first one, the volumes and the least sizes that they have.
    pub sizes: Vec<(VolumeId, u64)>,
    /// The records. A point is the last of its frame.
    pub records: Vec<Record<'a>>,
}

impl<'a> Records<'a> {
    /// Whether it ends with a recovery point.
    #[must_use]
    pub fn ends_with_point(&self) -> bool {
        self.records.last().is_some_and(Record::is_point)
    }

    /// The frame.
    ///
    /// # Errors
    /// `Refused` for records that don't follow one another or fit nothing; `TooLarge` beyond the limits.
    pub fn encode(&self) -> Result<Vec<u8>, FormatError> {
        if let Err(why) = self.check() {
            return Err(FormatError::Refused { what: STREAM.what, why });
        }
        let mut body = Vec::new();
        body.put_u64(self.after.0);
        body.put_u64(self.last.0);
        body.put_flag(self.push);
        put_sizes(&mut body, &self.sizes)?;
        body.put_count(STREAM.what, self.records.len(), FRAME_RECORDS_MAX)?;
        for record in &self.records {
            body.put_u64(record.lsn.0);
            body.put_u8(record.op.code());
            body.put(&record.volume.to_bytes());
            body.put_u64(record.lba);
            body.put_u64(record.blocks);
            body.put_u32(len32(STREAM.what, record.payload.len())?);
            body.put(record.payload);
        }
        frame(FrameKind::Records, &body)
    }

    /// What a body says.
    ///
    /// # Errors
    /// `Truncated`, `Corrupt`, `TooLarge`.
    pub fn decode(body: &'a [u8]) -> Result<Self, FormatError> {
        let mut reader = Reader::new(STREAM.what, body);
        let mut read = Self {
            after: Lsn(reader.u64()?),
            last: Lsn(reader.u64()?),
            push: reader.flag()?,
            sizes: take_sizes(&mut reader)?,
            records: Vec::new(),
        };
        let count = reader.count(FRAME_RECORDS_MAX, RECORD_LEN)?;
        read.records.reserve(count);
        for _ in 0..count {
            let lsn = Lsn(reader.u64()?);
            let code = reader.u8()?;
            let op = EntryOp::from_code(code).ok_or_else(|| reader.corrupt("a record that does nothing known"))?;
            let volume = VolumeId::from_bytes(reader.array()?);
            let (lba, blocks) = (reader.u64()?, reader.u64()?);
            let len = usize::try_from(reader.u32()?).unwrap_or(usize::MAX);
            read.records.push(Record { lsn, op, volume, lba, blocks, payload: reader.take(len)? });
        }
        if let Err(why) = read.check() {
            return Err(reader.corrupt(why));
        }
        reader.finish()?;
        Ok(read)
    }

    fn check(&self) -> Result<(), &'static str> {
        let mut previous = self.after;
        for (index, record) in self.records.iter().enumerate() {
            if record.lsn <= previous {
                return Err("records are out of order");
            }
            if record.is_point() && index.saturating_add(1) != self.records.len() {
                return Err("records follow a point");
            }
            if !record.fits() {
                return Err("a record whose parts don't fit together");
            }
            previous = record.lsn;
        }
        if self.last < previous || self.last == self.after {
            return Err("the end is before the last record");
        }
        Ok(())
    }
}

/// How far the process server is. Sent when that changes, and every few seconds when it doesn't.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Records up to here survive the loss of power at the process server.
    pub cached: Lsn,
    /// Records up to here are in the vault, under the line's epoch: the agent may give their journal back.
    pub shipped: Place,
    /// Points that landed since the Progress before, in order.
    pub points: Vec<RetainedPoint>,
    /// Why nothing is shipped just now; empty while all is well.
    pub trouble: String,
}

impl Progress {
    /// The frame.
    ///
    /// # Errors
    /// `TooLarge` beyond the limits.
    pub fn encode(&self) -> Result<Vec<u8>, FormatError> {
        let mut body = Vec::new();
        body.put_u64(self.cached.0);
        self.shipped.put(&mut body);
        put_points(&mut body, &self.points)?;
        body.put_text(STREAM.what, bounded(&self.trouble), TEXT_BYTES_MAX)?;
        frame(FrameKind::Progress, &body)
    }

    /// What a body says.
    ///
    /// # Errors
    /// `Truncated`, `Corrupt`, `TooLarge`.
    pub fn decode(body: &[u8]) -> Result<Self, FormatError> {
        let mut reader = Reader::new(STREAM.what, body);
        let progress = Self {
            cached: Lsn(reader.u64()?),
            shipped: Place::take(&mut reader)?,
            points: take_points(&mut reader)?,
            trouble: reader.text(TEXT_BYTES_MAX)?,
        };
        if progress.cached < progress.shipped.lsn {
            return Err(reader.corrupt("records are in the vault that were never taken"));
        }
        reader.finish()?;
        Ok(progress)
    }
}

/// Somebody else writes the branch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FencedBy {
    /// The newer epoch.
    pub epoch: Epoch,
    /// Who claimed it.
    pub gateway: GatewayId,
    /// The branch that goes on in this one's place.
    pub promoted_to: Option<BranchId>,
}

/// Why a line ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct End {
    /// What the agent has to do: a number that the engine gives its kinds of errors.
    pub kind: u8,
    /// What happened, to what, what to do.
    pub text: String,
    /// The branch is somebody else's for good.
    pub fenced: Option<FencedBy>,
}

impl End {
    /// The frame.
    ///
    /// # Errors
    /// None: a text that is too long is cut.
    pub fn encode(&self) -> Result<Vec<u8>, FormatError> {
        let mut body = Vec::new();
        body.put_u8(self.kind);
        body.put_text(STREAM.what, bounded(&self.text), TEXT_BYTES_MAX)?;
        body.put_flag(self.fenced.is_some());
        if let Some(fenced) = self.fenced {
            body.put_u64(fenced.epoch.0);
            body.put(&fenced.gateway.to_bytes());
            body.put_flag(fenced.promoted_to.is_some());
            if let Some(branch) = fenced.promoted_to {
                body.put(&branch.to_bytes());
            }
        }
        frame(FrameKind::End, &body)
    }

    /// What a body says.
    ///
    /// # Errors
    /// `Truncated`, `Corrupt`, `TooLarge`.
    pub fn decode(body: &[u8]) -> Result<Self, FormatError> {
        let mut reader = Reader::new(STREAM.what, body);
        let (kind, text) = (reader.u8()?, reader.text(TEXT_BYTES_MAX)?);
        let fenced = match reader.flag()? {
            false => None,
            true => {
                let (epoch, gateway) = (Epoch(reader.u64()?), GatewayId::from_bytes(reader.array()?));
                let promoted_to = match reader.flag()? {
                    false => None,
                    true => Some(BranchId::from_bytes(reader.array()?)),
                };
                Some(FencedBy { epoch, gateway, promoted_to })
            }
        };
        reader.finish()?;
        Ok(Self { kind, text, fenced })
    }
}

/// Whose records a process server keeps, in a file beside them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tenure {
    /// The group.
    pub group: GroupId,
    /// Its branch.
    pub branch: BranchId,
    /// The agent.
    pub agent: GatewayId,
    /// The epoch under which they are shipped.
    pub epoch: Epoch,
    /// Where the log ended when it began.
    pub end: Lsn,
}

impl Tenure {
    /// The frame.
    ///
    /// # Errors
    /// None: the length is fixed.
    pub fn encode(&self) -> Result<Vec<u8>, FormatError> {
        let mut body = Vec::new();
        body.put(&self.group.to_bytes());
        body.put(&self.branch.to_bytes());
        body.put(&self.agent.to_bytes());
        body.put_u64(self.epoch.0);
        body.put_u64(self.end.0);
        frame(FrameKind::Tenure, &body)
    }

    /// What a body says.
    ///
    /// # Errors
    /// `Truncated`, `Corrupt`.
    pub fn decode(body: &[u8]) -> Result<Self, FormatError> {
        let mut reader = Reader::new(STREAM.what, body);
        let tenure = Self {
            group: GroupId::from_bytes(reader.array()?),
            branch: BranchId::from_bytes(reader.array()?),
            agent: GatewayId::from_bytes(reader.array()?),
            epoch: Epoch(reader.u64()?),
            end: Lsn(reader.u64()?),
        };
        reader.finish()?;
        Ok(tenure)
    }
}

/// As much of a text as fits, whole characters.
fn bounded(text: &str) -> &str {
    let end = (0..=text.len().min(TEXT_BYTES_MAX)).rev().find(|&end| text.is_char_boundary(end)).unwrap_or(0);
    text.get(..end).unwrap_or_default()
}

fn put_sizes(out: &mut Vec<u8>, sizes: &[(VolumeId, u64)]) -> Result<(), FormatError> {
    out.put_count(STREAM.what, sizes.len(), GROUP_VOLUMES_MAX)?;
    for (volume, blocks) in sizes {
        out.put(&volume.to_bytes());
        out.put_u64(*blocks);
    }
    Ok(())
}

fn take_sizes(reader: &mut Reader<'_>) -> Result<Vec<(VolumeId, u64)>, FormatError> {
    let count = reader.count(GROUP_VOLUMES_MAX, SIZE_LEN)?;
    let mut sizes = Vec::with_capacity(count);
    for _ in 0..count {
        let (volume, blocks) = (VolumeId::from_bytes(reader.array()?), reader.u64()?);
        if blocks > VOLUME_BLOCKS_MAX {
            return Err(reader.corrupt("a volume larger than any"));
        }
        sizes.push((volume, blocks));
    }
    Ok(sizes)
}

fn put_points(out: &mut Vec<u8>, points: &[RetainedPoint]) -> Result<(), FormatError> {
    out.put_count(STREAM.what, points.len(), FRAME_POINTS_MAX)?;
    for point in points {
        out.put(&point.id.to_bytes());
        out.put_u64(point.lsn.0);
        out.put_i64(point.time.as_micros());
        out.put_u8(point.kind.code());
        out.put_flag(point.consistent);
        out.put_u64(point.epoch.0);
        out.put_u64(point.seq.0);
        out.put_text(STREAM.what, &point.label, LABEL_BYTES_MAX)?;
    }
    Ok(())
}

fn take_points(reader: &mut Reader<'_>) -> Result<Vec<RetainedPoint>, FormatError> {
    let count = reader.count(FRAME_POINTS_MAX, POINT_LEN_MIN)?;
    let mut points = Vec::with_capacity(count);
    for _ in 0..count {
        let (id, lsn, time) = (reader.array()?, Lsn(reader.u64()?), Timestamp::from_micros(reader.i64()?));
        let code = reader.u8()?;
        let kind = PointKind::from_code(code).ok_or_else(|| reader.corrupt("a kind of point that there isn't"))?;
        points.push(RetainedPoint {
            id: PointId::from_bytes(id),
            lsn,
            time,
            kind,
            consistent: reader.flag()?,
            epoch: Epoch(reader.u64()?),
            seq: SegmentSeq(reader.u64()?),
            label: reader.text(LABEL_BYTES_MAX)?,
        });
    }
    Ok(points)
}
