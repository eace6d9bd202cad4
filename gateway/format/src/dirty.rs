//! The dirty map: which blocks of a group's volumes the vault lacks although no record of the journal brings them.
//!
//! ```text
//! 0 magic, version │ length │ generation │ group │ collapsed │ volumes, each with its runs of blocks │ CRC
//! ```
//! A gateway has two such files and writes the one that holds the older generation, whole, then syncs it: a crash in
//! between leaves the other. Refuses what is torn, and runs that are out of order: a list that is wrong in one place is
//! worth nothing, since a block that it should name and doesn't would never reach the vault.

use lifeboat_model::{Extent, ExtentSet, GroupId, Lsn, VOLUME_BLOCKS_MAX, VolumeId};

use crate::wire::{Kind, Put, Reader, len64};
use crate::{FORMAT_VERSION, FormatError, GROUP_VOLUMES_MAX};

/// Most runs of blocks of one map, over all volumes.
pub const DIRTY_RUNS_MAX: usize = 1 << 18;
/// Length of a dirty map, at most, bytes.
pub const DIRTY_BYTES_MAX: usize = HEAD + GROUP_VOLUMES_MAX * VOLUME_LEN_MIN + DIRTY_RUNS_MAX * RUN_LEN + CHECKSUM_LEN;

const HEAD: usize = 52;
const VOLUME_LEN_MIN: usize = 28;
const RUN_LEN: usize = 16;
const CHECKSUM_LEN: usize = 4;

pub(crate) const DIRTY: Kind = Kind { magic: *b"LBDM", what: "dirty map", version: FORMAT_VERSION };

/// The dirty blocks of one volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirtyVolume {
    /// The volume.
    pub id: VolumeId,
    /// Its size when the map was made, in blocks.
    pub blocks: u64,
    /// The blocks.
    pub dirty: ExtentSet,
}

/// A dirty map as a file holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirtyMap {
    /// The group.
    pub group: GroupId,
    /// Number of this map: one more than the last one written.
    pub generation: u64,
    /// Records up to here that were not shipped are in the map.
    pub collapsed: Lsn,
    /// Its volumes.
    pub volumes: Vec<DirtyVolume>,
}

impl DirtyMap {
    /// The map's bytes.
    ///
    /// # Errors
    /// `TooLarge` for more than [`DIRTY_RUNS_MAX`] runs or [`GROUP_VOLUMES_MAX`] volumes.
    pub fn encode(&self) -> Result<Vec<u8>, FormatError> {
        let mut body = Vec::new();
        body.put_u64(self.generation);
        body.put(&self.group.to_bytes());
        body.put_u64(self.collapsed.0);
        body.put_count(DIRTY.what, self.volumes.len(), GROUP_VOLUMES_MAX)?;
        let mut runs_left = DIRTY_RUNS_MAX;
        for volume in &self.volumes {
            body.put(&volume.id.to_bytes());
            body.put_u64(volume.blocks);
            let runs = volume.dirty.iter().count();
            body.put_count(DIRTY.what, runs, runs_left)?;
            runs_left = runs_left.saturating_sub(runs);
            for run in volume.dirty.iter() {
                body.put_u64(run.lba);
                body.put_u64(run.blocks);
            }
        }
        let mut out = DIRTY.start();
        out.put_u16(0);
        let len = out.len().saturating_add(8).saturating_add(body.len()).saturating_add(CHECKSUM_LEN);
        out.put_u64(len64(len));
        out.put(&body);
        out.put_crc();
        Ok(out)
    }

    /// Length of the map that begins with these bytes, 16 of them at least; the rest of a file means nothing.
    ///
    /// # Errors
    /// `NotThisKind`, `NewerVersion`, `Corrupt` for a length that no map has.
    pub fn length(head: &[u8]) -> Result<usize, FormatError> {
        let mut reader = DIRTY.begin(head)?;
        let reserved = reader.u16()?;
        let len = usize::try_from(reader.u64()?).unwrap_or(usize::MAX);
        if reserved != 0 || !(HEAD.saturating_sub(4)..=DIRTY_BYTES_MAX).contains(&len) {
            return Err(reader.corrupt("the length is impossible"));
        }
        Ok(len)
    }

    /// Decodes the map at the start of `bytes`; more may follow it.
    ///
    /// # Errors
    /// `NotThisKind`, `NewerVersion`, `Truncated`, `Corrupt`, `TooLarge`.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let len = Self::length(bytes)?;
        let whole = Reader::new(DIRTY.what, bytes).take(len)?;
        let (covered, sum) = whole.split_at_checked(len.saturating_sub(CHECKSUM_LEN)).unwrap_or((whole, &[]));
        Reader::new(DIRTY.what, sum).checksum(covered)?;
        let mut reader = DIRTY.begin(covered)?;
        reader.take(10)?;
        let mut map = Self {
            generation: reader.u64()?,
            group: GroupId::from_bytes(reader.array()?),
            collapsed: Lsn(reader.u64()?),
            volumes: Vec::new(),
        };
        let volumes = reader.count(GROUP_VOLUMES_MAX, VOLUME_LEN_MIN)?;
        for _ in 0..volumes {
            map.volumes.push(take_volume(&mut reader)?);
        }
        reader.finish()?;
        Ok(map)
    }
}

fn take_volume(reader: &mut Reader<'_>) -> Result<DirtyVolume, FormatError> {
    let id = VolumeId::from_bytes(reader.array()?);
    let blocks = reader.u64()?;
    if blocks == 0 || blocks > VOLUME_BLOCKS_MAX {
        return Err(reader.corrupt("a volume has an impossible size"));
    }
    let runs = reader.count(DIRTY_RUNS_MAX, RUN_LEN)?;
    let mut dirty = ExtentSet::new();
    let mut free_from = 0;
    for index in 0..runs {
        let run = Extent { lba: reader.u64()?, blocks: reader.u64()? };
        let apart = if index == 0 { run.lba >= free_from } else { run.lba > free_from };
        if !apart || run.blocks == 0 || run.lba.checked_add(run.blocks).is_none_or(|end| end > VOLUME_BLOCKS_MAX) {
            return Err(reader.corrupt("runs are out of order, touch, or lie past the end"));
        }
        free_from = run.end();
        dirty.insert(run);
    }
    Ok(DirtyVolume { id, blocks, dirty })
}
