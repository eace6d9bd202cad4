//! What a writer did, operation by operation, and which states of it are true ones.
//!
//! The write order gives an operation its LSN out of sight; what is known is the newest LSN before it was asked for and after
//! it was acknowledged. That is enough to say which operations a recovery point must hold and which it may.

use lifeboat_model::Lsn;

use crate::model::Stamps;

/// One operation on one volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Blocks from `lba` on, with stamps from `stamp` on.
    Write {
        /// The volume's number.
        volume: usize,
        /// First block.
        lba: u64,
        /// How many.
        blocks: u64,
        /// Stamp of the first.
        stamp: u64,
    },
    /// Zeroes.
    Zero {
        /// The volume's number.
        volume: usize,
        /// First block.
        lba: u64,
        /// How many.
        blocks: u64,
    },
    /// The volume has so many blocks now.
    Grow {
        /// The volume's number.
        volume: usize,
        /// Its size.
        blocks: u64,
    },
}

/// The place of what was changed behind the write order's back, until the vault has it.
const NOT_COMPARED: Lsn = Lsn(u64::MAX - 1);

#[derive(Clone, Debug)]
struct Entry {
    change: Change,
    /// Its LSN is above this one…
    after: Lsn,
    /// …and not above this one.
    upto: Lsn,
}

/// A write order from a state on.
#[derive(Clone, Debug, Default)]
pub struct History {
    base: Stamps,
    entries: Vec<Entry>,
    /// Operations that were acknowledged.
    pub acked: usize,
    /// Operations that a power loss may not take.
    pub flushed: usize,
}

impl History {
    /// A history that begins with these contents.
    #[must_use]
    pub const fn new(base: Stamps) -> Self {
        Self { base, entries: Vec::new(), acked: 0, flushed: 0 }
    }

    /// Operations in it.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Notes an operation that is asked for now; `after` is the newest record before it.
    pub fn ask(&mut self, change: Change, after: Lsn) {
        self.entries.push(Entry { change, after, upto: Lsn(u64::MAX) });
    }

    /// The last one that was asked for has its place; `upto` is the newest record now.
    pub fn done(&mut self, upto: Lsn) {
        if let Some(last) = self.entries.last_mut() {
            last.upto = upto;
        }
        self.acked = self.entries.len();
    }

    /// Notes a change behind the write order's back: no crash takes it, and no point holds it before it was compared.
    pub fn scribbled(&mut self, change: Change, after: Lsn) {
        self.entries.push(Entry { change, after, upto: NOT_COMPARED });
        (self.acked, self.flushed) = (self.entries.len(), self.entries.len());
    }

    /// The vault has what was changed behind the write order's back.
    pub fn compared(&mut self, upto: Lsn) {
        self.entries.iter_mut().filter(|entry| entry.upto == NOT_COMPARED).for_each(|entry| entry.upto = upto);
    }

    /// The last one that was asked for was refused before it had a place.
    pub fn refused(&mut self) {
        self.entries.pop();
    }

    /// Only the first `count` operations were there after a crash; the newest record is `last` now.
    pub fn cut(&mut self, count: usize, last: Lsn) {
        self.entries.truncate(count);
        for entry in self.entries.iter_mut().rev().take_while(|entry| entry.upto == Lsn(u64::MAX)) {
            // A growth that a crash met between the saved state and its record: the next record comes after it.
            entry.upto = if matches!(entry.change, Change::Grow { .. }) { last.next() } else { last };
        }
        (self.acked, self.flushed) = (count, count);
    }

    /// How many operations a state at this record holds: at least the first number, at most the second.
    #[must_use]
    pub fn held_at(&self, lsn: Lsn) -> (usize, usize) {
        let least = self.entries.iter().take_while(|entry| entry.upto <= lsn).count();
        let most = self.entries.iter().take_while(|entry| entry.after < lsn).count();
        (least.min(most), most)
    }

    /// The contents after the first `count` operations.
    #[must_use]
    pub fn state(&self, count: usize) -> Stamps {
        let mut stamps = self.base.clone();
        self.entries.iter().take(count).for_each(|entry| apply(&mut stamps, &entry.change));
        stamps
    }

    /// The largest number of operations, from `least` to `most`, after which the contents were these.
    #[must_use]
    pub fn find(&self, found: &Stamps, least: usize, most: usize) -> Option<usize> {
        let mut stamps = self.base.clone();
        let mut at = None;
        for count in 0..=most.min(self.entries.len()) {
            if count > 0 {
                apply(&mut stamps, &self.entries[count - 1].change);
            }
            if count >= least && same(&stamps, found) {
                at = Some(count);
            }
        }
        at
    }
}

/// Volumes that are not there yet are empty.
fn same(expected: &Stamps, found: &Stamps) -> bool {
    let volumes = expected.len().max(found.len());
    let empty = Vec::new();
    (0..volumes).all(|at| {
        let (expected, found) = (expected.get(at).unwrap_or(&empty), found.get(at).unwrap_or(&empty));
        // A point from before a volume was introduced has none of it.
        expected == found || (found.is_empty() && expected.iter().all(|stamp| *stamp == 0))
    })
}

fn apply(stamps: &mut Stamps, change: &Change) {
    let index = |value: u64| usize::try_from(value).unwrap_or(usize::MAX);
    match *change {
        Change::Write { volume, lba, blocks, stamp } => {
            for (cell, at) in stamps[volume].iter_mut().skip(index(lba)).take(index(blocks)).zip(0..) {
                *cell = stamp + at;
            }
        }
        Change::Zero { volume, lba, blocks } => {
            stamps[volume].iter_mut().skip(index(lba)).take(index(blocks)).for_each(|cell| *cell = 0);
        }
        Change::Grow { volume, blocks } => stamps[volume].resize(index(blocks), 0),
    }
}
