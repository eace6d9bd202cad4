//! What a group's volumes have to hold: every record by LSN, and one stamp for each block.
//!
//! Every block ever written gets a stamp of its own, never used again, and its bytes are that stamp repeated: a block that
//! is read back says which write it comes from, and a torn one says so too. Stamp 0 stands for zeroes. After a crash the
//! model is cut to what was recovered, once that has been compared.

use std::collections::HashMap;

use bytes::Bytes;
use lifeboat_engine::Op;
use lifeboat_model::{BLOCK_SIZE, Extent, Lsn, VolumeId};

/// Stamps of base content (a branch's fork point) have this bit.
const BASE: u64 = 1 << 63;

/// A promise that was broken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Violation(pub String);

/// What a check comes to.
pub type Checked<T = ()> = Result<T, Violation>;

/// Ends with a [`Violation`] unless the condition holds.
#[macro_export]
macro_rules! promise {
    ($condition:expr, $($text:tt)+) => {
        if !$condition {
            return Err($crate::model::Violation(format!($($text)+)));
        }
    };
}

/// A volume of the model.
#[derive(Clone, Debug)]
pub struct ModelVolume {
    /// Its identifier.
    pub id: VolumeId,
    /// Its blocks at the beginning.
    pub blocks: u64,
    /// Whether its image is filled lazily from base content.
    pub lazy: bool,
}

/// One stamp for each block of each volume.
pub type Stamps = Vec<Vec<u64>>;

#[derive(Clone, Debug)]
struct Past {
    op: Op,
    /// The stamp of the first block, for a write.
    stamp: u64,
}

/// The model of a group.
#[derive(Clone, Debug)]
pub struct Model {
    volumes: Vec<ModelVolume>,
    /// Record with LSN n is at n - 1.
    history: Vec<Past>,
    next_stamp: u64,
    /// LSN by stamp, of records in the history.
    lsn_of: HashMap<u64, u64>,
    /// State at a record that can't be lost any more.
    floor: (u64, Stamps),
}

fn index(value: u64) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
}

/// The bytes of blocks with these stamps, one after the other.
#[must_use]
pub fn bytes_of(stamps: &[u64]) -> Vec<u8> {
    stamps.iter().map(|stamp| stamp.to_le_bytes().repeat(BLOCK_SIZE / 8)).collect::<Vec<_>>().concat()
}

/// The stamp of a block.
///
/// # Errors
/// When the block is a mixture.
pub fn stamp_of(block: &[u8]) -> Checked<u64> {
    let (head, tail) = (block.get(..BLOCK_SIZE - 8), block.get(8..));
    let first: Option<[u8; 8]> = block.first_chunk().copied();
    match first {
        Some(first) if head == tail => Ok(u64::from_le_bytes(first)),
        _ => Err(Violation("a block is a mixture of two writes".into())),
    }
}

impl Model {
    /// Volumes that nothing has been written to.
    #[must_use]
    pub fn new(volumes: Vec<ModelVolume>) -> Self {
        let floor = volumes.iter().enumerate().map(|(at, volume)| base_stamps(at, volume, 0..volume.blocks)).collect();
        Self { volumes, history: Vec::new(), next_stamp: 1, lsn_of: HashMap::new(), floor: (0, floor) }
    }

    /// Its volumes.
    #[must_use]
    pub fn volumes(&self) -> &[ModelVolume] {
        &self.volumes
    }

    /// Newest record.
    #[must_use]
    pub fn last(&self) -> Lsn {
        Lsn(self.history.len() as u64)
    }

    /// Content that a volume has where nothing was written.
    #[must_use]
    pub fn base(&self, volume: usize, extent: Extent) -> Vec<u64> {
        base_stamps(volume, &self.volumes[volume], extent.lba..extent.end())
    }

    /// A write whose blocks nobody has written before.
    pub fn new_write(&mut self, volume: usize, extent: Extent) -> Op {
        let stamps: Vec<u64> = (0..extent.blocks).map(|at| self.next_stamp + at).collect();
        self.next_stamp += extent.blocks;
        Op::Write { volume: self.volumes[volume].id, lba: extent.lba, data: Bytes::from(bytes_of(&stamps)) }
    }

    /// Notes a record that has its place in the write order now.
    ///
    /// # Errors
    /// When it is not the next one.
    pub fn accept(&mut self, lsn: Lsn, op: Op) -> Checked {
        promise!(lsn == self.last().next(), "record {lsn} follows {}", self.last());
        let mut stamp = 0;
        if let Op::Write { data, .. } = &op {
            for (at, block) in data.chunks(BLOCK_SIZE).enumerate() {
                let found = stamp_of(block)?;
                if at == 0 {
                    stamp = found;
                }
                self.lsn_of.insert(found, lsn.0);
            }
        }
        self.history.push(Past { op, stamp });
        Ok(())
    }

    /// The record with that LSN.
    #[must_use]
    pub fn record(&self, lsn: Lsn) -> Option<&Op> {
        self.history.get(index(lsn.0.checked_sub(1)?)).map(|past| &past.op)
    }

    /// The record that wrote a stamp: `None` for zeroes and base content.
    ///
    /// # Errors
    /// When no record in the history did.
    pub fn writer_of(&self, stamp: u64) -> Checked<Option<Lsn>> {
        if stamp == 0 || stamp & BASE != 0 {
            return Ok(None);
        }
        match self.lsn_of.get(&stamp) {
            Some(&lsn) => Ok(Some(Lsn(lsn))),
            None => Err(Violation(format!("stamp {stamp} belongs to no record of the history"))),
        }
    }

    /// Stamps of every block after the records up to `lsn`, which is not below the floor.
    #[must_use]
    pub fn at(&self, lsn: Lsn) -> Stamps {
        let mut stamps = self.floor.1.clone();
        for past in self.history.get(index(self.floor.0)..index(lsn.0)).unwrap_or_default() {
            self.apply(&mut stamps, past);
        }
        stamps
    }

    /// Records up to `lsn` can't be lost any more.
    pub fn raise_floor(&mut self, lsn: Lsn) {
        if lsn.0 > self.floor.0 {
            self.floor = (lsn.0, self.at(lsn));
        }
    }

    /// Forgets every record after `lsn`: a crash has taken them.
    pub fn cut(&mut self, lsn: Lsn) {
        for past in self.history.drain(index(lsn.0)..) {
            if let Op::Write { data, .. } = &past.op {
                for at in 0..(data.len() / BLOCK_SIZE) as u64 {
                    self.lsn_of.remove(&(past.stamp + at));
                }
            }
        }
    }

    fn apply(&self, stamps: &mut Stamps, past: &Past) {
        let position = |id: &VolumeId| self.volumes.iter().position(|volume| volume.id == *id);
        let mut put = |id: &VolumeId, extent: Extent, stamp: &dyn Fn(u64) -> u64| {
            let Some(blocks) = position(id).map(|at| &mut stamps[at]) else { return };
            for (at, cell) in blocks.iter_mut().enumerate().skip(index(extent.lba)).take(index(extent.blocks)) {
                *cell = stamp(at as u64 - extent.lba);
            }
        };
        match &past.op {
            Op::Write { volume, lba, data } => {
                let extent = Extent { lba: *lba, blocks: (data.len() / BLOCK_SIZE) as u64 };
                put(volume, extent, &|at| past.stamp + at);
            }
            Op::Zero { volume, extent } | Op::Trim { volume, extent } => put(volume, *extent, &|_| 0),
            Op::Resize { volume, blocks } => {
                if let Some(cells) = position(volume).map(|at| &mut stamps[at]) {
                    let size = index(*blocks).max(cells.len());
                    cells.resize(size, 0);
                }
            }
            Op::Copy { .. } | Op::Point(_) => {}
        }
    }
}

/// Base content: a third of a lazy volume is zero, the rest has stamps of its own.
fn base_stamps(volume: usize, of: &ModelVolume, blocks: std::ops::Range<u64>) -> Vec<u64> {
    let stamp = |block: u64| {
        let filled = of.lazy && block < of.blocks && block % 3 != 1;
        if filled { BASE | ((volume as u64) << 32) | (block + 1) } else { 0 }
    };
    blocks.map(stamp).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model() -> Model {
        let id = VolumeId::from_bytes([1; 16]);
        Model::new(vec![ModelVolume { id, blocks: 4, lazy: false }])
    }

    #[test]
    fn a_prefix_is_the_state_after_its_records() {
        let mut model = model();
        let id = model.volumes()[0].id;
        let write = model.new_write(0, Extent { lba: 1, blocks: 2 });
        model.accept(Lsn(1), write).expect("next");
        model.accept(Lsn(2), Op::Trim { volume: id, extent: Extent { lba: 2, blocks: 1 } }).expect("next");
        model.accept(Lsn(3), Op::Resize { volume: id, blocks: 5 }).expect("next");
        assert_eq!(model.at(Lsn(0)), [[0, 0, 0, 0]]);
        assert_eq!(model.at(Lsn(1)), [[0, 1, 2, 0]]);
        assert_eq!(model.at(Lsn(2)), [[0, 1, 0, 0]]);
        assert_eq!(model.at(Lsn(3)), [vec![0, 1, 0, 0, 0]]);
        model.raise_floor(Lsn(1));
        model.cut(Lsn(2));
        assert_eq!(model.at(Lsn(2)), [[0, 1, 0, 0]]);
        assert_eq!(model.writer_of(2), Ok(Some(Lsn(1))));
        assert!(model.accept(Lsn(4), Op::Resize { volume: id, blocks: 9 }).is_err(), "3 is next");
    }

    #[test]
    fn a_mixed_block_is_seen() {
        let mut block = bytes_of(&[7]);
        assert_eq!(stamp_of(&block), Ok(7));
        block[512..1024].fill(0);
        assert!(stamp_of(&block).is_err());
        let mut model = model();
        let write = model.new_write(0, Extent { lba: 0, blocks: 1 });
        model.accept(Lsn(1), write).expect("next");
        model.cut(Lsn(0));
        assert!(model.writer_of(1).is_err(), "the record was cut away");
    }
}
