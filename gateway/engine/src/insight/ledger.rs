//! Figures over time, in bounded space: the newest an entry a point, older ones several in one. What looks suspicious is merged
//! last, so that the point before it can still be told. It is kept as JSON; what a later version adds is read past.

use lifeboat_model::{Lsn, PointId, Timestamp, VolumeId};
use serde::{Deserialize, Serialize};

use super::detect::is_sign;
use super::{Measure, PointInsight};

/// Most entries: the newest hours one by one.
const ENTRIES_MAX: usize = 2048;
/// Most figures in all of them, of one volume each: a document holds a megabyte.
const MEASURES_MAX: usize = 4096;
/// Entries that are left alone when others are merged, while there are as many older ones.
const NEWEST: usize = 1024;

/// What was written between two moments.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The point before: its time, or when measuring began.
    pub from: Timestamp,
    /// The time of the point at the end.
    pub until: Timestamp,
    /// That point.
    pub point: PointId,
    /// Its place in the write order.
    pub lsn: Lsn,
    /// What was written of each volume.
    pub volumes: Vec<(VolumeId, Measure)>,
}

/// The figures of a branch.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ledger {
    /// Ascending.
    entries: Vec<Entry>,
}

impl Ledger {
    /// The entries, the oldest first.
    #[must_use]
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Since when there are figures.
    #[must_use]
    pub fn since(&self) -> Option<Timestamp> {
        self.entries.first().map(|entry| entry.from)
    }

    /// Takes the figures up to a point in; `begun` is when measuring began, for the first. Older ones than the newest are
    /// known already.
    pub fn push(&mut self, insight: PointInsight, begun: Timestamp) {
        let PointInsight { point, lsn, time, volumes } = insight;
        let last = self.entries.last();
        if last.is_some_and(|last| last.lsn >= lsn) {
            return;
        }
        // After a gap (nobody measured, or nothing was kept) the interval begins where the measuring did.
        let from = last.map_or(begun, |last| last.until.max(begun)).min(time);
        self.entries.push(Entry { from, until: time, point, lsn, volumes });
        self.bound();
    }

    /// Puts what was kept before what was measured since; what both have counts once.
    pub fn put_before(&mut self, mut kept: Self) {
        let end = kept.entries.last().map_or(Lsn::ZERO, |last| last.lsn);
        self.entries.retain(|entry| entry.lsn > end);
        kept.entries.append(&mut self.entries);
        self.entries = kept.entries;
        self.bound();
    }

    fn bound(&mut self) {
        let measures = |entries: &[Entry]| entries.iter().map(|entry| entry.volumes.len()).sum::<usize>();
        while self.entries.len() > 1 && (self.entries.len() > ENTRIES_MAX || measures(&self.entries) > MEASURES_MAX) {
            self.merge();
        }
    }

    /// Leaves out what lies behind a place in the write order.
    pub fn cut(&mut self, after: Lsn) {
        self.entries.retain(|entry| entry.lsn <= after);
    }

    /// Makes one of every two neighbours among the older entries where both are quiet, and of the oldest two if none are.
    fn merge(&mut self) {
        let before = self.entries.len();
        let newest = self.entries.split_off(before.saturating_sub(NEWEST.min(before / 2)));
        let mut merged: Vec<Entry> = Vec::with_capacity(before);
        let mut open = false;
        for entry in self.entries.drain(..) {
            let quiet = is_quiet(&entry);
            match merged.last_mut() {
                Some(last) if open && quiet => {
                    join(last, entry);
                    open = false;
                }
                _ => {
                    merged.push(entry);
                    open = quiet;
                }
            }
        }
        merged.extend(newest);
        if merged.len() >= before && merged.len() > 1 {
            let first = merged.remove(0);
            if let Some(second) = merged.first_mut() {
                let mut joined = first;
                join(&mut joined, second.clone());
                *second = joined;
            }
        }
        self.entries = merged;
    }
}

fn is_quiet(entry: &Entry) -> bool {
    !entry.volumes.iter().any(|(_, measure)| is_sign(measure))
}

/// Takes a later neighbour in.
fn join(entry: &mut Entry, later: Entry) {
    (entry.until, entry.point, entry.lsn) = (later.until, later.point, later.lsn);
    for (volume, measure) in later.volumes {
        match entry.volumes.iter_mut().find(|(known, _)| *known == volume) {
            Some((_, sum)) => sum.add(&measure),
            None => entry.volumes.push((volume, measure)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn insight(number: u64, measure: Measure) -> PointInsight {
        let mut id = [0; 16];
        id[..8].copy_from_slice(&number.to_le_bytes());
        PointInsight {
            point: PointId::from_bytes(id),
            lsn: Lsn(number),
            time: Timestamp::from_micros(i64::try_from(number * 5_000_000).unwrap()),
            volumes: vec![(VolumeId::from_bytes([1; 16]), measure)],
        }
    }

    fn quiet() -> Measure {
        Measure { written: 10, sampled: 10, ..Measure::default() }
    }

    fn loud() -> Measure {
        let counts =
            Measure { written: 512, sampled: 128, dense: 128, random: 128, rewritten: 128, ..Measure::default() };
        Measure { rewritten_dense: 128, rewritten_random: 128, checked: 8, turned: 8, ..counts }
    }

    #[test]
    fn it_stays_small_and_forgets_no_sum_and_no_sign() {
        let begun = Timestamp::from_micros(0);
        let mut ledger = Ledger::default();
        for number in 1..=20_000_u64 {
            ledger.push(insight(number, if number == 1000 { loud() } else { quiet() }), begun);
        }
        assert!(ledger.entries().len() <= ENTRIES_MAX);
        let written: u64 = ledger.entries().iter().flat_map(|entry| &entry.volumes).map(|(_, one)| one.written).sum();
        assert_eq!(written, 10 * 19_999 + 512);
        let sign = ledger.entries().iter().find(|entry| !is_quiet(entry)).unwrap();
        assert_eq!(
            (sign.lsn, sign.from.as_micros()),
            (Lsn(1000), 999 * 5_000_000),
            "it can be told what was before it"
        );
        let pairs = ledger.entries().windows(2);
        assert!(pairs.map(|pair| (&pair[0], &pair[1])).all(|(a, b)| a.until == b.from && a.lsn < b.lsn));
        let text = serde_json::to_vec(&ledger).unwrap();
        assert!(text.len() < 900 << 10, "{} bytes are too many for a document", text.len());
        assert_eq!(serde_json::from_slice::<Ledger>(&text).unwrap(), ledger);
    }

    #[test]
    fn a_group_of_many_volumes_has_fewer_entries() {
        let mut ledger = Ledger::default();
        for number in 1..=200_u64 {
            let mut of_all = insight(number, quiet());
            of_all.volumes = (0..=255).map(|volume| (VolumeId::from_bytes([volume; 16]), quiet())).collect();
            ledger.push(of_all, Timestamp::from_micros(0));
        }
        let entries = ledger.entries();
        assert!(entries.len() <= 16 && entries.iter().all(|entry| entry.volumes.len() == 256), "{}", entries.len());
        let written: u64 = entries.iter().flat_map(|entry| &entry.volumes).map(|(_, one)| one.written).sum();
        assert_eq!(written, 200 * 256 * 10);
    }

    #[test]
    fn signs_alone_are_merged_too_in_the_end() {
        let begun = Timestamp::from_micros(0);
        let mut ledger = Ledger::default();
        for number in 1..=5000_u64 {
            ledger.push(insight(number, loud()), begun);
        }
        assert!(ledger.entries().len() <= ENTRIES_MAX);
        assert_eq!(ledger.entries()[0].from, begun);
    }

    #[test]
    fn what_was_kept_goes_before_what_was_measured_since() {
        let begun = Timestamp::from_micros(7_000_000);
        let (mut kept, mut ledger) = (Ledger::default(), Ledger::default());
        for number in 1..=3 {
            kept.push(insight(number, quiet()), Timestamp::from_micros(0));
        }
        for number in 3..=5 {
            ledger.push(insight(number, loud()), begun);
        }
        ledger.put_before(kept);
        let lsns: Vec<u64> = ledger.entries().iter().map(|entry| entry.lsn.0).collect();
        assert_eq!(lsns, [1, 2, 3, 4, 5]);
        assert_eq!(ledger.entries()[2].volumes[0].1, quiet(), "what was kept counts");
        ledger.cut(Lsn(2));
        assert_eq!(ledger.entries().len(), 2);
    }
}
