//! Local files of a gateway: what it knows of a group across restarts, and which blocks of a branch volume it holds.
//!
//! ```text
//! group state   0 slot A (16 KiB)   16384 slot B (16 KiB)      generation n is written to slot n mod 2
//! presence      0 header (4 KiB)    4096 one bit a block       bit set = the local file holds the block
//! ```
//! A state is written to the slot that the newest one is *not* in, then synced: a crash in between tears only the slot
//! that nobody needs. A reader takes the newest slot whose checksum is right. A slot of a newer format stops it: falling
//! back to the older slot would undo what a newer release has promised.

use lifeboat_model::state::GroupState;
use lifeboat_model::{BranchId, Epoch, GroupId, Lsn, VOLUME_BLOCKS_MAX, VaultId, VolumeId};

use crate::map::LogPosition;
use crate::wire::{Kind, Put, Reader, len64};
use crate::{FORMAT_VERSION, FormatError, GROUP_VOLUMES_MAX};

/// Bytes of one slot of a state file.
pub const STATE_SLOT_LEN: usize = 16 << 10;
/// Bytes of a state file: slot A, slot B.
pub const STATE_FILE_LEN: usize = 2 * STATE_SLOT_LEN;
/// Bytes before the bits of a presence file.
pub const PRESENCE_HEADER_LEN: usize = 4096;

const VOLUME_LEN: usize = 25;

pub(crate) const STATE: Kind = Kind { magic: *b"LBGS", what: "group state", version: FORMAT_VERSION };
pub(crate) const PRESENCE: Kind = Kind { magic: *b"LBPB", what: "presence file", version: FORMAT_VERSION };

/// What a gateway does with a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    /// Nothing is open.
    Idle,
    /// Holds the epoch, serves writes, ships.
    Active,
    /// Lost its epoch to another gateway.
    Fenced,
    /// Gave its epoch up in order.
    Standby,
    /// Its image is between two points: nothing may read it as a volume.
    Rehydrating {
        /// The branch whose point the image is brought to.
        branch: BranchId,
        /// Position of that point.
        lsn: Lsn,
    },
}

impl Phase {
    /// The state that it stands for.
    #[must_use]
    pub fn state(self) -> GroupState {
        match self {
            Self::Idle => GroupState::Idle,
            Self::Active => GroupState::Active,
            Self::Fenced => GroupState::Fenced,
            Self::Standby => GroupState::Standby,
            Self::Rehydrating { .. } => GroupState::Rehydrating,
        }
    }
}

/// One volume of a group, locally.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LocalVolume {
    /// The volume.
    pub volume: VolumeId,
    /// Its size.
    pub size_blocks: u64,
    /// Whether its local file is filled lazily: then a presence file stands beside it.
    pub lazy: bool,
}

/// What a gateway knows of a group across restarts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalState {
    /// Number of this state: one more than the last one written.
    pub generation: u64,
    /// The vault.
    pub vault: VaultId,
    /// The group.
    pub group: GroupId,
    /// The branch that the image holds.
    pub branch: BranchId,
    /// The epoch that this gateway held last on that branch; 0 for none.
    pub epoch: Epoch,
    /// How often the group was opened here: tells the journal's batches of two runs apart.
    pub incarnation: u32,
    /// Every record up to here is durably in the image: the journal is replayed from the next one.
    pub image_lsn: Lsn,
    /// How far the vault has the log: after that segment.
    pub shipped: LogPosition,
    /// What the gateway does with the group.
    pub phase: Phase,
    /// Whether the journal overflowed and a dirty map stands for what the vault lacks: a resync is needed.
    pub map_dirty: bool,
    /// The group's volumes.
    pub volumes: Vec<LocalVolume>,
}

/// The state that a file gives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChosenState {
    /// The newest intact state.
    pub state: LocalState,
    /// Whether the other slot holds neither an older state nor nothing: a write was torn there, or it is damaged. The
    /// state may then be one generation older than the last one written.
    pub other_damaged: bool,
}

impl LocalState {
    /// Where in the file this generation is written.
    #[must_use]
    pub fn offset(&self) -> u64 {
        if self.generation & 1 == 0 { 0 } else { len64(STATE_SLOT_LEN) }
    }

    /// The slot's bytes: [`STATE_SLOT_LEN`] of them.
    pub fn encode(&self) -> Result<Vec<u8>, FormatError> {
        let mut out = STATE.start();
        out.put_u16(0);
        out.put_u64(self.generation);
        out.put(&self.vault.to_bytes());
        out.put(&self.group.to_bytes());
        out.put(&self.branch.to_bytes());
        out.put_u64(self.epoch.0);
        out.put_u32(self.incarnation);
        out.put_u64(self.image_lsn.0);
        self.shipped.put(&mut out);
        let (code, branch, lsn) = match self.phase {
            Phase::Idle => (0, [0; 16], Lsn::ZERO),
            Phase::Active => (1, [0; 16], Lsn::ZERO),
            Phase::Fenced => (2, [0; 16], Lsn::ZERO),
            Phase::Standby => (3, [0; 16], Lsn::ZERO),
            Phase::Rehydrating { branch, lsn } => (4, branch.to_bytes(), lsn),
        };
        out.put_u8(code);
        out.put(&branch);
        out.put_u64(lsn.0);
        out.put_flag(self.map_dirty);
        out.put_count(STATE.what, self.volumes.len(), GROUP_VOLUMES_MAX)?;
        for volume in &self.volumes {
            out.put(&volume.volume.to_bytes());
            out.put_u64(volume.size_blocks);
            out.put_flag(volume.lazy);
        }
        out.resize(STATE_SLOT_LEN.saturating_sub(4), 0);
        out.put_crc();
        Ok(out)
    }

    /// Decodes one slot.
    pub fn decode(slot: &[u8]) -> Result<Self, FormatError> {
        let mut reader = STATE.begin(slot)?;
        check_block(&STATE, slot, STATE_SLOT_LEN)?;
        if reader.u16()? != 0 {
            return Err(reader.corrupt("a reserved field is not zero"));
        }
        let mut state = Self {
            generation: reader.u64()?,
            vault: VaultId::from_bytes(reader.array()?),
            group: GroupId::from_bytes(reader.array()?),
            branch: BranchId::from_bytes(reader.array()?),
            epoch: Epoch(reader.u64()?),
            incarnation: reader.u32()?,
            image_lsn: Lsn(reader.u64()?),
            shipped: LogPosition::take(&mut reader)?,
            phase: take_phase(&mut reader)?,
            map_dirty: reader.flag()?,
            volumes: Vec::new(),
        };
        let count = reader.count(GROUP_VOLUMES_MAX, VOLUME_LEN)?;
        for _ in 0..count {
            let volume = LocalVolume {
                volume: VolumeId::from_bytes(reader.array()?),
                size_blocks: reader.u64()?,
                lazy: reader.flag()?,
            };
            if volume.size_blocks == 0 || volume.size_blocks > VOLUME_BLOCKS_MAX {
                return Err(reader.corrupt("a volume has an impossible size"));
            }
            state.volumes.push(volume);
        }
        finish_block(reader, STATE_SLOT_LEN)?;
        Ok(state)
    }

    /// The newest intact state of a whole state file; none when nothing was ever written to it.
    pub fn choose(file: &[u8]) -> Result<Option<ChosenState>, FormatError> {
        let (slots, rest) = file.as_chunks::<STATE_SLOT_LEN>();
        let [a, b] = slots else {
            return Err(FormatError::Truncated {
                what: STATE.what,
                needed: len64(STATE_FILE_LEN),
                available: len64(file.len()),
            });
        };
        if !rest.is_empty() {
            return Err(FormatError::TooLarge {
                what: STATE.what,
                found: len64(file.len()),
                limit: len64(STATE_FILE_LEN),
            });
        }
        match (Self::slot(a, 0)?, Self::slot(b, 1)?) {
            (Slot::Intact(a), Slot::Intact(b)) => {
                let state = if a.generation > b.generation { a } else { b };
                Ok(Some(ChosenState { state: *state, other_damaged: false }))
            }
            (Slot::Intact(state), other) | (other, Slot::Intact(state)) => {
                let other_damaged = !matches!(other, Slot::Blank);
                Ok(Some(ChosenState { state: *state, other_damaged }))
            }
            (Slot::Blank, Slot::Blank) => Ok(None),
            (Slot::Damaged(error), _) | (_, Slot::Damaged(error)) => Err(error),
        }
    }

    fn slot(bytes: &[u8], parity: u64) -> Result<Slot, FormatError> {
        if crate::hash::is_zero(bytes) {
            return Ok(Slot::Blank);
        }
        match Self::decode(bytes) {
            Ok(state) if state.generation & 1 == parity => Ok(Slot::Intact(Box::new(state))),
            Ok(_) => Ok(Slot::Damaged(FormatError::Corrupt {
                what: STATE.what,
                at: 8,
                why: "a generation is in the other generation's slot",
            })),
            Err(error @ FormatError::NewerVersion { .. }) => Err(error),
            Err(error) => Ok(Slot::Damaged(error)),
        }
    }
}

enum Slot {
    Blank,
    Intact(Box<LocalState>),
    Damaged(FormatError),
}

fn take_phase(reader: &mut Reader<'_>) -> Result<Phase, FormatError> {
    let code = reader.u8()?;
    let branch: [u8; 16] = reader.array()?;
    let lsn = Lsn(reader.u64()?);
    let plain = match code {
        0 => Phase::Idle,
        1 => Phase::Active,
        2 => Phase::Fenced,
        3 => Phase::Standby,
        4 => return Ok(Phase::Rehydrating { branch: BranchId::from_bytes(branch), lsn }),
        _ => return Err(reader.corrupt("no such phase")),
    };
    if branch == [0; 16] && lsn == Lsn::ZERO {
        Ok(plain)
    } else {
        Err(reader.corrupt("a phase without a target has one"))
    }
}

/// Header of the file that says which blocks of a lazily filled volume are there.
///
/// The bits that follow are not covered by a checksum: they change in place, one page at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PresenceHeader {
    /// The volume.
    pub volume: VolumeId,
    /// Its size: the number of bits.
    pub size_blocks: u64,
    /// Number of the filling that the bits are of; a new one starts from an empty local file.
    pub generation: u64,
}

impl PresenceHeader {
    /// Bytes of the whole file: header and bits, the bits rounded up to 4 KiB.
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
