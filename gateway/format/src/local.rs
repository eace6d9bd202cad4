//! Local files of a gateway: what it knows of a group across restarts, and which blocks of a lazy volume it holds.
//!
//! ```text
//! group state   0 slot A (64 KiB)   65536 slot B (64 KiB)      generation n is written to slot n mod 2, A for 0
//! presence      0 header (4 KiB)    4096 one bit a block       bit set = the local file holds the block
//! ```
//! A state is written to the slot that the newest one is *not* in, then synced: a crash in between tears only the slot
//! that nobody needs. A reader takes the newest slot whose checksum is right. A slot of a newer format stops it: falling
//! back to the older slot would undo what a newer release has promised.

use lifeboat_model::{
    BranchId, Epoch, GatewayId, GroupId, Lsn, SegmentSeq, Timestamp, VOLUME_BLOCKS_MAX, VolumeId, state,
};

use crate::wire::{Kind, Put, Reader, len32, len64};
use crate::{FORMAT_VERSION, FormatError, GROUP_VOLUMES_MAX};

/// Bytes of one slot of a state file. The file is slot A, slot B.
pub const STATE_SLOT: usize = 64 << 10;
/// Longest name of a volume, in bytes of UTF-8.
pub const NAME_BYTES_MAX: usize = 255;
/// Bytes before the bits of a presence file.
pub const PRESENCE_HEADER_LEN: usize = 4096;

const PAGE: usize = 4096;
const VOLUME_LEN_MIN: usize = 27;
/// Bytes of a state without its volumes, every optional field there.
const FIXED_LEN_MAX: usize = 416;
const _: () = assert!(
    FIXED_LEN_MAX + GROUP_VOLUMES_MAX * (VOLUME_LEN_MIN + NAME_BYTES_MAX) <= STATE_SLOT,
    "the largest group must fit in a slot"
);

/// Version of the group state. Version 1 knows no resync, and is still read.
pub const STATE_VERSION: u16 = 2;

pub(crate) const STATE: Kind = Kind { magic: *b"LBGS", what: "group state", version: STATE_VERSION };
pub(crate) const PRESENCE: Kind = Kind { magic: *b"LBPB", what: "presence file", version: FORMAT_VERSION };

/// What a gateway does with a group that it has on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    /// Holds the epoch, serves writes, ships.
    Active,
    /// Lost its epoch to another gateway.
    Fenced,
    /// Gave its epoch up in order.
    Standby,
    /// Its image is being brought to a point of another history: nothing may read it as a volume.
    Rehydrating,
}

impl Phase {
    /// The state of the group that it stands for.
    #[must_use]
    pub fn state(self) -> state::GroupState {
        match self {
            Self::Active => state::GroupState::Active,
            Self::Fenced => state::GroupState::Fenced,
            Self::Standby => state::GroupState::Standby,
            Self::Rehydrating => state::GroupState::Rehydrating,
        }
    }

    const fn code(self) -> u8 {
        match self {
            Self::Active => 1,
            Self::Fenced => 2,
            Self::Standby => 3,
            Self::Rehydrating => 4,
        }
    }
}

/// A place in a group's history between two segments: after segment `seq` of `epoch` of `branch`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Place {
    /// The branch.
    pub branch: BranchId,
    /// The tenure.
    pub epoch: Epoch,
    /// The last segment; 0 before the tenure's first.
    pub seq: SegmentSeq,
    /// The last position of the log.
    pub lsn: Lsn,
}

impl Place {
    fn put(&self, out: &mut Vec<u8>) {
        out.put(&self.branch.to_bytes());
        out.put_u64(self.epoch.0);
        out.put_u64(self.seq.0);
        out.put_u64(self.lsn.0);
    }

    fn take(reader: &mut Reader<'_>) -> Result<Self, FormatError> {
        Ok(Self {
            branch: BranchId::from_bytes(reader.array()?),
            epoch: Epoch(reader.u64()?),
            seq: SegmentSeq(reader.u64()?),
            lsn: Lsn(reader.u64()?),
        })
    }
}

/// One volume of a group, locally.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct StateVolume {
    /// The volume.
    pub id: VolumeId,
    /// Its name; at most [`NAME_BYTES_MAX`] bytes.
    pub name: String,
    /// Its size, in blocks.
    pub blocks: u64,
    /// Whether its local file is filled lazily: then a presence file stands beside it.
    pub lazy: bool,
}

/// How far bringing the image to another history has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Rehydrate {
    /// The branch that is followed.
    pub branch: BranchId,
    /// The branch that keeps what this gateway had not shipped.
    pub orphan: Option<BranchId>,
    /// What the image equals, but for the pass under way; none when that is unknown: then blocks are compared.
    pub base: Option<Place>,
    /// Where the pass under way leads: the image is between `base` and here. None between passes.
    pub target: Option<Place>,
    /// How far the pass under way has come: volume, and first block not done.
    pub cursor: Option<(VolumeId, u64)>,
    /// Whether everything is fetched, whatever the image holds.
    pub full: bool,
}

/// Why the vault lacks blocks that the local volumes hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ResyncCause {
    /// The journal was full while the vault took nothing: what it had not shipped was given up as a log.
    JournalFull,
    /// A volume was taken in with its content.
    Initial,
    /// Blocks were compared with the vault's, and differed.
    Compared,
    /// The list of blocks was lost: every block counts as missing.
    ListLost,
}

impl ResyncCause {
    const fn code(self) -> u8 {
        match self {
            Self::JournalFull => 1,
            Self::Initial => 2,
            Self::Compared => 3,
            Self::ListLost => 4,
        }
    }
}

/// A resync: the dirty map beside this file lists blocks that the vault lacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Resync {
    /// Since when.
    pub since: Timestamp,
    /// Why.
    pub cause: ResyncCause,
    /// Records up to here that the vault does not have are no longer needed: their blocks are in the dirty map. Zero when
    /// no record was given up.
    pub collapsed: Lsn,
    /// Blocks that were to be copied when it began, or when more joined them.
    pub total_blocks: u64,
}

/// What a gateway knows of a group across restarts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupState {
    /// The group.
    pub group: GroupId,
    /// The gateway that the file belongs to.
    pub gateway: GatewayId,
    /// Number of this state: one more than the last one written.
    pub generation: u64,
    /// What the gateway does with the group.
    pub phase: Phase,
    /// The branch that the image holds.
    pub branch: BranchId,
    /// The epoch that this gateway held last on that branch.
    pub epoch: Epoch,
    /// Position with which the journal of this history began.
    pub journal_first: Lsn,
    /// Every record up to here is durably in the image: the journal is replayed from the next one.
    pub image_lsn: Lsn,
    /// How far the vault has the log.
    pub shipped: Place,
    /// The group's volumes.
    pub volumes: Vec<StateVolume>,
    /// What lazy volumes read their absent blocks from.
    pub origin: Option<Place>,
    /// How far bringing the image to another history has come.
    pub rehydrate: Option<Rehydrate>,
    /// Blocks that the vault lacks and the log does not bring.
    pub resync: Option<Resync>,
}

impl GroupState {
    /// The state's bytes: whole pages of 4096, at most [`STATE_SLOT`]. They go to the start of slot
    /// `generation % 2`; what an older, longer state left behind them in the slot is never read.
    pub fn encode(&self) -> Result<Vec<u8>, FormatError> {
        let mut out = Vec::new();
        out.put_u64(self.generation);
        out.put(&self.group.to_bytes());
        out.put(&self.gateway.to_bytes());
        out.put(&self.branch.to_bytes());
        out.put_u64(self.epoch.0);
        out.put_u64(self.journal_first.0);
        out.put_u64(self.image_lsn.0);
        self.shipped.put(&mut out);
        out.put_u8(self.phase.code());
        put_option(&mut out, self.origin.as_ref(), |out, place| place.put(out));
        put_option(&mut out, self.rehydrate.as_ref(), put_rehydrate);
        put_option(&mut out, self.resync.as_ref(), put_resync);
        out.put_count(STATE.what, self.volumes.len(), GROUP_VOLUMES_MAX)?;
        for volume in &self.volumes {
            out.put(&volume.id.to_bytes());
            out.put_text(STATE.what, &volume.name, NAME_BYTES_MAX)?;
            out.put_u64(volume.blocks);
            out.put_flag(volume.lazy);
        }
        // Magic, version and length before, the checksum after.
        let len = out.len().saturating_add(16).next_multiple_of(PAGE);
        if len > STATE_SLOT {
            return Err(FormatError::TooLarge { what: STATE.what, found: len64(len), limit: len64(STATE_SLOT) });
        }
        let mut page = STATE.start();
        page.put_u16(0);
        page.put_u32(len32(STATE.what, len)?);
        page.put(&out);
        page.resize(len.saturating_sub(4), 0);
        page.put_crc();
        Ok(page)
    }

    /// Decodes the state at the start of `slot`; more may follow it there.
    pub fn decode(slot: &[u8]) -> Result<Self, FormatError> {
        let (mut reader, version) = STATE.begin_any(slot)?;
        let reserved = reader.u16()?;
        let len = usize::try_from(reader.u32()?).unwrap_or(usize::MAX);
        if reserved != 0 || len == 0 || len > STATE_SLOT || len.checked_rem(PAGE) != Some(0) {
            return Err(reader.corrupt("the length is impossible"));
        }
        let page = Reader::new(STATE.what, slot).take(len)?;
        check_block(&STATE, page, len)?;
        let mut state = Self {
            generation: reader.u64()?,
            group: GroupId::from_bytes(reader.array()?),
            gateway: GatewayId::from_bytes(reader.array()?),
            branch: BranchId::from_bytes(reader.array()?),
            epoch: Epoch(reader.u64()?),
            journal_first: Lsn(reader.u64()?),
            image_lsn: Lsn(reader.u64()?),
            shipped: Place::take(&mut reader)?,
            phase: take_phase(&mut reader)?,
            origin: take_option(&mut reader, Place::take)?,
            rehydrate: take_option(&mut reader, take_rehydrate)?,
            resync: if version == 1 { None } else { take_option(&mut reader, take_resync)? },
            volumes: Vec::new(),
        };
        let count = reader.count(GROUP_VOLUMES_MAX, VOLUME_LEN_MIN)?;
        for _ in 0..count {
            let volume = StateVolume {
                id: VolumeId::from_bytes(reader.array()?),
                name: reader.text(NAME_BYTES_MAX)?,
                blocks: reader.u64()?,
                lazy: reader.flag()?,
            };
            if volume.blocks == 0 || volume.blocks > VOLUME_BLOCKS_MAX {
                return Err(reader.corrupt("a volume has an impossible size"));
            }
            state.volumes.push(volume);
        }
        finish_block(reader, len)?;
        Ok(state)
    }
}

/// The newest intact state of a state file, given slot A and slot B; none when nothing was ever written to either.
///
/// One torn slot is what a crash leaves, and not an error. Two are; so is a slot of a newer format.
pub fn newest_state(a: &[u8], b: &[u8]) -> Result<Option<GroupState>, FormatError> {
    match (read_slot(a, 0)?, read_slot(b, 1)?) {
        (Slot::Intact(a), Slot::Intact(b)) => Ok(Some(if a.generation > b.generation { *a } else { *b })),
        (Slot::Intact(state), _) | (_, Slot::Intact(state)) => Ok(Some(*state)),
        (Slot::Blank, Slot::Blank) => Ok(None),
        (Slot::Damaged(error), _) | (_, Slot::Damaged(error)) => Err(error),
    }
}

enum Slot {
    Blank,
    Intact(Box<GroupState>),
    Damaged(FormatError),
}

fn read_slot(bytes: &[u8], parity: u64) -> Result<Slot, FormatError> {
    if crate::hash::is_zero(bytes) {
        return Ok(Slot::Blank);
    }
    match GroupState::decode(bytes) {
        Ok(state) if state.generation & 1 == parity => Ok(Slot::Intact(Box::new(state))),
        Ok(_) => Ok(Slot::Damaged(FormatError::Corrupt {
            what: STATE.what,
            at: 12,
            why: "a generation is in the other generation's slot",
        })),
        Err(error @ FormatError::NewerVersion { .. }) => Err(error),
        Err(error) => Ok(Slot::Damaged(error)),
    }
}

fn take_phase(reader: &mut Reader<'_>) -> Result<Phase, FormatError> {
    match reader.u8()? {
        1 => Ok(Phase::Active),
        2 => Ok(Phase::Fenced),
        3 => Ok(Phase::Standby),
        4 => Ok(Phase::Rehydrating),
        _ => Err(reader.corrupt("no such phase")),
    }
}

fn put_rehydrate(out: &mut Vec<u8>, rehydrate: &Rehydrate) {
    out.put(&rehydrate.branch.to_bytes());
    put_option(out, rehydrate.orphan.as_ref(), |out, branch| out.put(&branch.to_bytes()));
    put_option(out, rehydrate.base.as_ref(), |out, place| place.put(out));
    put_option(out, rehydrate.target.as_ref(), |out, place| place.put(out));
    put_option(out, rehydrate.cursor.as_ref(), |out, (volume, lba)| {
        out.put(&volume.to_bytes());
        out.put_u64(*lba);
    });
    out.put_flag(rehydrate.full);
}

fn take_rehydrate(reader: &mut Reader<'_>) -> Result<Rehydrate, FormatError> {
    Ok(Rehydrate {
        branch: BranchId::from_bytes(reader.array()?),
        orphan: take_option(reader, |reader| reader.array().map(BranchId::from_bytes))?,
        base: take_option(reader, Place::take)?,
        target: take_option(reader, Place::take)?,
        cursor: take_option(reader, |reader| Ok((VolumeId::from_bytes(reader.array()?), reader.u64()?)))?,
        full: reader.flag()?,
    })
}

fn put_resync(out: &mut Vec<u8>, resync: &Resync) {
    out.put_i64(resync.since.as_micros());
    out.put_u8(resync.cause.code());
    out.put_u64(resync.collapsed.0);
    out.put_u64(resync.total_blocks);
}

fn take_resync(reader: &mut Reader<'_>) -> Result<Resync, FormatError> {
    Ok(Resync {
        since: Timestamp::from_micros(reader.i64()?),
        cause: match reader.u8()? {
            1 => ResyncCause::JournalFull,
            2 => ResyncCause::Initial,
            3 => ResyncCause::Compared,
            4 => ResyncCause::ListLost,
            _ => return Err(reader.corrupt("no such cause of a resync")),
        },
        collapsed: Lsn(reader.u64()?),
        total_blocks: reader.u64()?,
    })
}

/// A flag, and the value behind it when there is one.
fn put_option<T>(out: &mut Vec<u8>, value: Option<&T>, put: impl FnOnce(&mut Vec<u8>, &T)) {
    out.put_flag(value.is_some());
    if let Some(value) = value {
        put(out, value);
    }
}

fn take_option<T>(
    reader: &mut Reader<'_>,
    take: impl FnOnce(&mut Reader<'_>) -> Result<T, FormatError>,
) -> Result<Option<T>, FormatError> {
    if reader.flag()? { take(reader).map(Some) } else { Ok(None) }
}

/// Header of the file that says which blocks of a lazily filled volume are there.
///
/// The bits that follow are not covered by a checksum: they change in place, one page at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PresenceHeader {
    /// The volume.
    pub volume: VolumeId,
    /// Its size when the file was begun. The volume may have grown since, and the file with it.
    pub size_blocks: u64,
    /// Number of the filling that the bits are of; a new one starts from an empty local file.
    pub generation: u64,
}

impl PresenceHeader {
    /// Bytes of a new file: header and bits, the bits rounded up to 4 KiB.
    #[must_use]
    pub fn file_len(&self) -> u64 {
        let bits_len = self.size_blocks.div_ceil(8).div_ceil(4096).saturating_mul(4096);
        len64(PRESENCE_HEADER_LEN).saturating_add(bits_len)
    }

    /// Where in the file a block's bit is: (byte, mask).
    #[must_use]
    pub fn bit(lba: u64) -> (u64, u8) {
        let mask = 1_u8.checked_shl(u32::try_from(lba & 7).unwrap_or(0)).unwrap_or(0);
        (len64(PRESENCE_HEADER_LEN).saturating_add(lba >> 3), mask)
    }

    /// The header's bytes: [`PRESENCE_HEADER_LEN`] of them.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = PRESENCE.start();
        out.put_u16(0);
        out.put(&self.volume.to_bytes());
        out.put_u64(self.size_blocks);
        out.put_u64(self.generation);
        out.resize(PRESENCE_HEADER_LEN.saturating_sub(4), 0);
        out.put_crc();
        out
    }

    /// Decodes the first [`PRESENCE_HEADER_LEN`] bytes of the file.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let mut reader = PRESENCE.begin(bytes)?;
        check_block(&PRESENCE, bytes, PRESENCE_HEADER_LEN)?;
        if reader.u16()? != 0 {
            return Err(reader.corrupt("a reserved field is not zero"));
        }
        let header = Self {
            volume: VolumeId::from_bytes(reader.array()?),
            size_blocks: reader.u64()?,
            generation: reader.u64()?,
        };
        if header.size_blocks == 0 || header.size_blocks > VOLUME_BLOCKS_MAX {
            return Err(reader.corrupt("the volume has an impossible size"));
        }
        finish_block(reader, PRESENCE_HEADER_LEN)?;
        Ok(header)
    }
}

/// A block of fixed length that ends with the CRC-32C of everything before.
fn check_block(kind: &Kind, block: &[u8], len: usize) -> Result<(), FormatError> {
    let mut reader = Reader::new(kind.what, block);
    let body = reader.take(len.saturating_sub(4))?;
    reader.checksum(body)?;
    reader.finish()
}

/// Nothing but zeroes between the last field and the checksum.
fn finish_block(mut reader: Reader<'_>, len: usize) -> Result<(), FormatError> {
    let body_end = len64(len.saturating_sub(4));
    let padding = usize::try_from(body_end.saturating_sub(reader.at())).unwrap_or(usize::MAX);
    if crate::hash::is_zero(reader.take(padding)?) { Ok(()) } else { Err(reader.corrupt("the padding is not zero")) }
}
