//! What is too much: from measures to levels, with nothing that asks a clock or a machine.
//!
//! ```text
//! healthy ──at or over the line for as long as it takes──> warning ──the same for the upper line──> critical
//!    ^                                                        │ ^                                     │
//!    └──────────── under the line by a margin, for CLEAR_AFTER ┘ └──────────────────────────────────────┘
//! ```
//! Each measure has two lines. A level that goes up and down every few seconds would be noise at night: a line counts as passed once
//! it was for a while, and as left once the measure has been clearly below it for a while.

use std::fmt;
use std::time::Duration;

use lifeboat_model::state::Health;

/// How long a measure has to be clearly below a line before the level is taken back.
const CLEAR_AFTER: Duration = Duration::from_secs(30);

/// What is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Measure {
    /// Share of its processors' time that is used.
    Processor,
    /// Share of its memory.
    Memory,
    /// Share of the file system of its state directory that is used.
    Space,
    /// Share of what cached records may take.
    Cache,
    /// Age of the oldest record that could be in the vault and isn't, against what the policy of its group bears.
    Backlog,
}

impl Measure {
    pub(crate) const ALL: [Self; 5] = [Self::Processor, Self::Memory, Self::Space, Self::Cache, Self::Backlog];

    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Processor => "processor",
            Self::Memory => "memory",
            Self::Space => "disk space",
            Self::Cache => "cache",
            Self::Backlog => "backlog age",
        }
    }

    const fn lines(self) -> Lines {
        match self {
            // Compressing takes what there is: a burst of that is work, minutes of it are a lack of processors.
            Self::Processor => Lines { warning: 80.0, critical: 95.0, margin: 5.0, after: Duration::from_secs(120) },
            Self::Memory => Lines { warning: 80.0, critical: 95.0, margin: 3.0, after: Duration::from_secs(30) },
            // A quarter of the space free, a tenth of it: the cache is a share of what is free, and journals stop at none.
            Self::Space => Lines { warning: 75.0, critical: 90.0, margin: 2.0, after: Duration::from_secs(10) },
            // The rest of a cache fills within seconds once a vault is away; beyond it agents wait.
            Self::Cache => Lines { warning: 60.0, critical: 85.0, margin: 20.0, after: Duration::from_secs(4) },
            // What the policy bears, and twice that.
            Self::Backlog => Lines { warning: 100.0, critical: 200.0, margin: 10.0, after: Duration::ZERO },
        }
    }
}

impl fmt::Display for Measure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Where a measure becomes too much, percent.
#[derive(Clone, Copy, Debug)]
struct Lines {
    warning: f64,
    critical: f64,
    /// How far below a line it has to fall.
    margin: f64,
    /// How long it has to be over a line.
    after: Duration,
}

/// One line of a measure.
#[derive(Clone, Copy, Debug, Default)]
struct Latch {
    passed: bool,
    /// Since when the measure has been on the other side of it.
    turning: Option<Duration>,
}

impl Latch {
    fn look(&mut self, at: Duration, over: bool, below: bool, after: Duration) {
        let (turns, after) = if self.passed { (below, CLEAR_AFTER) } else { (over, after) };
        if !turns {
            self.turning = None;
            return;
        }
        let since = *self.turning.get_or_insert(at);
        if at.saturating_sub(since) >= after {
            *self = Self { passed: !self.passed, turning: None };
        }
    }
}

/// A level that has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) measure: Measure,
    pub(crate) from: Health,
    pub(crate) to: Health,
}

/// What has been too much, and for how long.
#[derive(Debug, Default)]
pub(crate) struct Judge([(Latch, Latch); Measure::ALL.len()]);

impl Judge {
    /// Takes a sample in: percent of each measure, nothing where it can't be told, and the time by a clock that never goes back. Gives what has changed.
    pub(crate) fn look(&mut self, at: Duration, percent: impl Fn(Measure) -> Option<f64>) -> Vec<Change> {
        let mut changes = Vec::new();
        for (measure, latches) in Measure::ALL.into_iter().zip(&mut self.0) {
            let from = level(latches);
            let Some(value) = percent(measure) else { continue };
            let lines = measure.lines();
            for (latch, line) in [(&mut latches.0, lines.warning), (&mut latches.1, lines.critical)] {
                latch.look(at, value >= line, value < line - lines.margin, lines.after);
            }
            let to = level(latches);
            if from != to {
                changes.push(Change { measure, from, to });
            }
        }
        changes
    }

    /// The level of a measure.
    pub(crate) fn level(&self, measure: Measure) -> Health {
        Measure::ALL
            .into_iter()
            .zip(&self.0)
            .find(|(one, _)| *one == measure)
            .map_or(Health::Healthy, |(_, found)| level(found))
    }
}

fn level((warning, critical): &(Latch, Latch)) -> Health {
    match (warning.passed, critical.passed) {
        (_, true) => Health::Critical,
        (true, false) => Health::Warning,
        (false, false) => Health::Healthy,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Samples every two seconds; the changes, with their times.
    fn play(
        judge: &mut Judge,
        measure: Measure,
        begin: u64,
        values: impl IntoIterator<Item = f64>,
    ) -> Vec<(u64, Health)> {
        let mut changes = Vec::new();
        for (at, value) in (begin..).step_by(2).zip(values) {
            let of = |one| (one == measure).then_some(value);
            changes.extend(judge.look(Duration::from_secs(at), of).into_iter().map(|change| (at, change.to)));
        }
        changes
    }

    #[test]
    fn processors_may_be_busy_for_a_while() {
        let mut judge = Judge::default();
        let burst = std::iter::repeat_n(100.0, 50).chain(std::iter::repeat_n(40.0, 5));
        assert_eq!(play(&mut judge, Measure::Processor, 0, burst), []);
        let busy = std::iter::repeat_n(85.0, 70).chain(std::iter::repeat_n(97.0, 70));
        let levels: Vec<Health> = play(&mut judge, Measure::Processor, 200, busy).iter().map(|(_, to)| *to).collect();
        assert_eq!(levels, [Health::Warning, Health::Critical]);
    }

    #[test]
    fn a_level_goes_up_once_and_comes_down_once_however_the_measure_trembles() {
        let mut judge = Judge::default();
        let trembling = |around: f64| (0..100).map(move |step| around + if step % 2 == 0 { 2.0 } else { -2.0 });
        assert_eq!(play(&mut judge, Measure::Memory, 0, trembling(80.0)), [], "never over the line for long");
        assert_eq!(play(&mut judge, Measure::Memory, 200, std::iter::repeat_n(82.0, 30)), [(230, Health::Warning)]);
        assert_eq!(play(&mut judge, Measure::Memory, 260, trembling(78.0)), [], "nor below it by the margin");
        assert_eq!(play(&mut judge, Measure::Memory, 460, std::iter::repeat_n(50.0, 60)), [(488, Health::Healthy)]);
    }

    #[test]
    fn what_fills_at_once_is_critical_at_once_and_one_change() {
        let mut judge = Judge::default();
        let changes = play(&mut judge, Measure::Cache, 0, std::iter::repeat_n(99.0, 10));
        assert_eq!(changes, [(4, Health::Critical)]);
        assert_eq!(judge.level(Measure::Cache), Health::Critical);
        // Emptied to 50 %: below both lines, but by the margin below the upper one only.
        assert_eq!(play(&mut judge, Measure::Cache, 100, std::iter::repeat_n(50.0, 40)), [(130, Health::Warning)]);
        assert_eq!(play(&mut judge, Measure::Cache, 300, std::iter::repeat_n(10.0, 40)), [(330, Health::Healthy)]);
    }

    #[test]
    fn what_cannot_be_told_changes_nothing() {
        let mut judge = Judge::default();
        play(&mut judge, Measure::Space, 0, std::iter::repeat_n(95.0, 10));
        assert!(judge.look(Duration::from_secs(1000), |_| None).is_empty());
        assert_eq!(judge.level(Measure::Space), Health::Critical);
    }
}
