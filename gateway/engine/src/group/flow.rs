//! How fast data comes into a group and how fast it gets away: figures over the last minute, for status alone.
//!
//! A sample is taken with each round of upkeep, also while the vault doesn't answer. Nothing is kept over a restart.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use lifeboat_model::Lsn;

use super::{Group, Observed};
use crate::meter::Durations;
use crate::ship::Totals;
use crate::write_path::{Figures, WritePath};

/// What rates are taken over.
const WINDOW: Duration = Duration::from_secs(60);
/// Least time between two samples.
const SPACING: Duration = Duration::from_secs(1);
/// No rate is told over less.
const WINDOW_MIN: Duration = Duration::from_secs(4);

/// How data flows through a group.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FlowStatus {
    /// Bytes that the journal may take. `None` where the journal is not this machine's.
    pub journal_bytes_limit: Option<u64>,
    /// Seconds until the journal is full if all goes on as in the last minute; 0 when it is. `None` while it does not fill.
    pub journal_full_in_seconds: Option<f64>,
    /// Age of the oldest write that is not in the vault, at most; 0 when there is none. `None` when it isn't known.
    pub oldest_unshipped_seconds: Option<f64>,
    /// Bytes of segments put into the vault a second, over the last minute. `None` where somebody else puts them.
    pub shipped_bytes_per_second: Option<f64>,
    /// What was put into the vault since the group was opened here. `None` where somebody else does.
    pub shipped: Option<Totals>,
    /// Tries to ship that failed since the group was opened here, by the name of the kind of error.
    pub failures: BTreeMap<&'static str, u64>,
    /// How long each `fdatasync` of the journal took.
    pub syncs: Durations,
}

impl FlowStatus {
    /// Bytes of blocks for each byte of segments, over what was shipped since the group was opened. `None` before that.
    #[must_use]
    pub fn compression_ratio(&self) -> Option<f64> {
        let shipped = self.shipped.filter(|shipped| shipped.payload_bytes > 0)?;
        Some(as_f64(shipped.raw_bytes) / as_f64(shipped.payload_bytes))
    }
}

#[derive(Clone, Copy, Debug)]
struct Sample {
    at: Instant,
    accepted: u64,
    landed: u64,
    put: u64,
}

/// Samples of the last minute.
#[derive(Debug, Default)]
pub(crate) struct Flow {
    samples: VecDeque<Sample>,
    pub(crate) totals: Totals,
    pub(crate) failures: BTreeMap<&'static str, u64>,
}

impl Flow {
    fn sample(&mut self, now: Instant, accepted: u64, landed: u64) {
        let sample = Sample { at: now, accepted, landed, put: self.totals.payload_bytes };
        if self.samples.back().is_some_and(|last| now.duration_since(last.at) < SPACING) {
            return;
        }
        // Another write path counts from the beginning.
        if self.samples.back().is_some_and(|last| accepted < last.accepted || landed < last.landed) {
            self.samples.clear();
        }
        self.samples.push_back(sample);
        while self.samples.get(1).is_some_and(|second| now.duration_since(second.at) >= WINDOW) {
            self.samples.pop_front();
        }
    }

    /// What a process server knows of the flow of an agent's group: what it puts into the vault. The journal is the agent's.
    pub(crate) fn outward(&mut self) -> FlowStatus {
        self.sample(Instant::now(), 0, 0);
        FlowStatus {
            shipped_bytes_per_second: self.rates().map(|(_, _, put)| put),
            shipped: Some(self.totals),
            failures: self.failures.clone(),
            ..FlowStatus::default()
        }
    }

    /// Per second over the window: bytes accepted, bytes landed, bytes of segments put.
    fn rates(&self) -> Option<(f64, f64, f64)> {
        let (first, last) = (self.samples.front()?, self.samples.back()?);
        let over = last.at.duration_since(first.at);
        let rate = |of: fn(&Sample) -> u64| as_f64(of(last).saturating_sub(of(first))) / over.as_secs_f64();
        (over >= WINDOW_MIN).then(|| (rate(|s| s.accepted), rate(|s| s.landed), rate(|s| s.put)))
    }
}

impl Group {
    /// With each round of upkeep.
    pub(super) fn note_flow(&self, path: &WritePath) {
        let accepted = path.figures().bytes_accepted;
        let mut observed = self.observed.lock();
        let landed = observed.bytes_landed.min(accepted);
        observed.flow.sample(Instant::now(), accepted, landed);
    }

    /// Something was put into the vault.
    pub(super) fn note_put(&self, put: Totals) {
        self.observed.lock().flow.totals.add(put);
    }

    pub(super) fn flow_status(
        &self,
        observed: &Observed,
        path: Option<&WritePath>,
        figures: Option<&Figures>,
        shipped: Lsn,
    ) -> FlowStatus {
        let (Some(path), Some(figures)) = (path, figures) else { return FlowStatus::default() };
        let now = self.steady.now();
        let oldest = match observed.unshipped_since(figures, shipped) {
            Unshipped::Nothing => Some(0.0),
            Unshipped::Since(since) => Some(now.seconds_since(since).max(0.0)),
            Unshipped::Unknown => None,
        };
        let sizes = path.limits().journal;
        let limit = sizes.limit_bytes.max(2 * sizes.file_bytes);
        let rates = observed.flow.rates();
        let full_in = if figures.journal_full.is_some() {
            Some(0.0)
        } else {
            // Points land one by one: what they bring in the meantime is no journal that fills.
            let usual = self.settings.lock().point_interval.as_secs_f64().mul_add(3.0, 1.0);
            let behind = oldest.is_none_or(|oldest| oldest > usual) && figures.collapsed <= shipped;
            rates
                .map(|(accepted, landed, _)| accepted - landed)
                .filter(|growth| behind && *growth >= 1.0)
                .map(|growth| as_f64(limit.saturating_sub(figures.journal_written)) / growth)
        };
        let own = self.config.reach.vault().is_ok();
        FlowStatus {
            journal_bytes_limit: Some(limit),
            journal_full_in_seconds: full_in,
            oldest_unshipped_seconds: oldest,
            shipped_bytes_per_second: rates.filter(|_| own).map(|(_, _, put)| put),
            shipped: own.then_some(observed.flow.totals),
            failures: observed.flow.failures.clone(),
            syncs: path.syncs(),
        }
    }
}

/// Since when there has been a write that the vault lacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unshipped {
    Nothing,
    Since(lifeboat_model::Timestamp),
    /// It was written before this process looked.
    Unknown,
}

#[expect(clippy::cast_precision_loss, reason = "figures for people: 53 bits are enough")]
const fn as_f64(number: u64) -> f64 {
    number as f64
}

#[cfg(test)]
mod tests {
    use lifeboat_model::{BranchId, Epoch, GroupId, PointId, PointKind, SegmentSeq};

    use super::*;
    use crate::points::PointInfo;
    use crate::write_path::Recovered;

    #[test]
    fn rates_are_those_of_the_last_minute() {
        let start = Instant::now();
        let mut flow = Flow::default();
        assert_eq!(flow.rates(), None);
        for second in 0..200 {
            flow.totals.payload_bytes = 50 * second;
            // The vault stands still from the 100th second on.
            flow.sample(start + Duration::from_secs(second), 1000 * second, 1000 * second.min(100));
        }
        assert_eq!(flow.rates(), Some((1000.0, 0.0, 50.0)));
        assert!(flow.samples.len() <= 61, "{}", flow.samples.len());
    }

    fn at(seconds: i64) -> lifeboat_model::Timestamp {
        lifeboat_model::Timestamp::from_micros(seconds * 1_000_000)
    }

    #[test]
    fn the_first_write_after_an_idle_hour_is_no_hour_old() {
        let mut observed = Observed::default();
        observed.note_placed(Lsn(5), at(0), 100);
        observed.open_points.clear();
        observed.note_idle(at(3600), Lsn(5));
        assert_eq!(observed.uncovered_since(Lsn(5)), None);
        assert_eq!(observed.uncovered_since(Lsn(6)), Some(at(3600)));
        observed.note_idle(at(3700), Lsn(6));
        assert_eq!(observed.uncovered_since(Lsn(6)), Some(at(3600)), "there is something to hold since then");
    }

    #[test]
    fn writes_found_at_a_start_are_as_old_as_they_are_until_a_point_holds_them() {
        let mut observed =
            Observed { recovered: Some(Recovered { newest: Lsn(9), since: at(100) }), ..Observed::default() };
        assert_eq!(observed.uncovered_since(Lsn(9)), Some(at(100)));
        observed.note_placed(Lsn(12), at(200), 0);
        assert_eq!(observed.uncovered_since(Lsn(12)), Some(at(100)), "the new point holds them and has not landed");
        let point = |lsn| PointInfo {
            id: PointId::new(),
            group: GroupId::new(),
            branch: BranchId::new(),
            epoch: Epoch(1),
            seq: SegmentSeq(1),
            lsn,
            time: at(0),
            kind: PointKind::Manual,
            label: String::new(),
            pinned: false,
            consistent: true,
        };
        observed.last_point = Some(point(Lsn(8)));
        assert_eq!(observed.uncovered_since(Lsn(12)), Some(at(100)));
        observed.last_point = Some(point(Lsn(12)));
        observed.open_points.clear();
        assert_eq!(observed.uncovered_since(Lsn(12)), None);
        assert_eq!(observed.uncovered_since(Lsn(13)), Some(at(200)));
    }

    #[test]
    fn a_new_write_path_begins_anew() {
        let start = Instant::now();
        let mut flow = Flow::default();
        flow.sample(start, 5000, 5000);
        flow.sample(start + Duration::from_secs(5), 10, 10);
        assert_eq!(flow.rates(), None);
    }

    #[test]
    fn the_ratio_is_known_once_something_was_shipped() {
        let mut status = FlowStatus { shipped: Some(Totals::default()), ..FlowStatus::default() };
        assert_eq!(status.compression_ratio(), None);
        status.shipped = Some(Totals { payload_bytes: 100, raw_bytes: 250 });
        assert_eq!(status.compression_ratio(), Some(2.5));
    }
}
