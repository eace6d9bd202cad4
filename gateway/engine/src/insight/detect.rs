//! What in the figures looks like an encryption, and the newest recovery point before it.
//!
//! Two signs, summed over [`WINDOW_SECONDS`]:
//! - *In place*: blocks are rewritten with random bytes, and what they held before was not random (looked up for a sample).
//!   Space that a file system gives to another file counts as rewritten too, so that copying and deleting shows as soon as
//!   space is used again.
//! - *Copied*: random bytes go where nothing was, and about as much that was not random is given up (trimmed).
//!
//! What is honest and doesn't count: databases and logs (not random), archives and pictures (compressed, not random
//! throughout), videos and downloads in space that was free (nothing was there), volumes that were encrypted from the start
//! (random before). What is taken for an encryption although it is none: LZMA archives, or files that somebody encrypted on
//! purpose, in space that other files had. Hence a warning, and a person who decides.

use std::collections::VecDeque;

use lifeboat_model::{BLOCK_SIZE_U64, Timestamp, VolumeId};
use serde::{Deserialize, Serialize};

use super::{Entry, Ledger, Measure};

/// Signs so far apart, at most, belong together.
pub const WINDOW_SECONDS: f64 = 600.0;
/// Blocks rewritten, or freshly written, with random bytes in one interval that are a sign: 64 KiB.
const SIGN_BLOCKS: u64 = 16;
/// Blocks rewritten with random bytes within the window that are an encryption: 4 MiB.
const IN_PLACE_BLOCKS: u64 = 1024;
/// The same of blocks that are fresh, while as many are freed: 16 MiB.
const COPIED_BLOCKS: u64 = 4096;
/// Old blocks that must have been looked at.
const CHECKED_MIN: u64 = 4;

/// How sure it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Confidence {
    /// Copied and given up; or nothing was measured in all the time.
    Low,
    /// Rewritten in place, a little.
    Medium,
    /// Rewritten in place, much.
    High,
}

impl Confidence {
    /// The word for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Low => "low",
            Self::Medium => "medium",
            Self::High => "high",
        }
    }
}

/// A volume that looks as if somebody encrypted it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Suspicion {
    /// The volume.
    pub volume: VolumeId,
    /// When the first interval with signs begins: points up to here are clean.
    pub since: Timestamp,
    /// When the last one ends.
    pub until: Timestamp,
    /// Bytes that turned random, about.
    pub bytes: u64,
    /// How sure it is.
    pub confidence: Confidence,
}

/// The point to recover from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Suggestion<P> {
    /// The newest point before anything suspicious; none when no point is that old.
    pub point: Option<P>,
    /// How sure it is that this point is clean and newer ones are not.
    pub confidence: Confidence,
    /// What speaks for it.
    pub suspicions: Vec<Suspicion>,
    /// Since when there are figures.
    pub measured_since: Option<Timestamp>,
}

/// Whether figures have one of the signs.
pub(super) fn is_sign(measure: &Measure) -> bool {
    is_in_place(measure) || is_copied(measure)
}

fn is_in_place(measure: &Measure) -> bool {
    let was_random = measure.checked > 0 && measure.turned.saturating_mul(2) < measure.checked;
    measure.in_place() >= SIGN_BLOCKS && measure.is_pure_in_place() && !was_random
}

fn is_copied(measure: &Measure) -> bool {
    let fresh = measure.fresh() >= SIGN_BLOCKS && measure.is_pure_fresh();
    fresh || (measure.freed >= SIGN_BLOCKS && measure.freed_plain.saturating_mul(2) > measure.freed_checked)
}

/// What looks encrypted in a ledger, in order of its beginning.
#[must_use]
pub fn suspicions(ledger: &Ledger) -> Vec<Suspicion> {
    let mut volumes: Vec<VolumeId> =
        ledger.entries().iter().flat_map(|entry| &entry.volumes).map(|(volume, _)| *volume).collect();
    volumes.sort_unstable();
    volumes.dedup();
    let mut found: Vec<Suspicion> =
        volumes.into_iter().flat_map(|volume| of_volume(ledger.entries(), volume)).collect();
    found.sort_by_key(|suspicion| suspicion.since);
    found
}

/// Whether there is at least a trace of rewriting with random bytes: too little for a sign, and what one begins with.
fn is_trace(measure: &Measure) -> bool {
    let was_random = measure.checked > 0 && measure.turned.saturating_mul(2) < measure.checked;
    measure.rewritten_random > 0 && !was_random
}

/// Signs of one kind that are near each other, each with the time where its traces begin.
#[derive(Default)]
struct Window<'a>(VecDeque<(&'a Entry, &'a Measure, Timestamp)>);

impl<'a> Window<'a> {
    fn push(&mut self, entry: &'a Entry, measure: &'a Measure, begin: Timestamp) {
        while self.0.front().is_some_and(|(old, _, _)| entry.from.seconds_since(old.until) > WINDOW_SECONDS) {
            self.0.pop_front();
        }
        self.0.push_back((entry, measure, begin));
    }

    fn sum(&self, figure: impl Fn(&Measure) -> u64) -> u64 {
        self.0.iter().map(|(_, measure, _)| figure(measure)).sum()
    }

    /// Where it begins and ends, and how many blocks turned, if it is an encryption in place.
    fn in_place(&self) -> Option<u64> {
        let (checked, turned) = (self.sum(|one| one.checked), self.sum(|one| one.turned));
        let blocks = self.sum(Measure::in_place);
        let turned_random = checked >= CHECKED_MIN && turned.saturating_mul(4) >= checked.saturating_mul(3);
        (blocks >= IN_PLACE_BLOCKS && turned_random).then_some(blocks)
    }

    fn copied(&self) -> Option<u64> {
        let (checked, plain) = (self.sum(|one| one.freed_checked), self.sum(|one| one.freed_plain));
        let pure = |one: &Measure| if one.is_pure_fresh() { one.fresh() } else { 0 };
        let (fresh, freed) = (self.sum(pure), self.sum(|one| one.freed));
        let as_much = freed.saturating_mul(2) >= fresh && freed <= fresh.saturating_mul(2);
        let was_plain = checked >= CHECKED_MIN && plain.saturating_mul(4) >= checked.saturating_mul(3);
        (fresh >= COPIED_BLOCKS && as_much && was_plain).then_some(fresh)
    }

    fn begin(&self) -> Option<Timestamp> {
        self.0.front().map(|(_, _, begin)| *begin)
    }
}

fn of_volume(entries: &[Entry], volume: VolumeId) -> Vec<Suspicion> {
    let (mut in_place, mut copied) = (Window::default(), Window::default());
    let mut found: Vec<Suspicion> = Vec::new();
    // Where the intervals with traces begin that this one ends: the first files that are encrypted are few.
    let mut traced: Option<Timestamp> = None;
    for entry in entries {
        let Some((_, measure)) = entry.volumes.iter().find(|(id, _)| *id == volume) else { continue };
        traced = is_trace(measure).then(|| traced.unwrap_or(entry.from));
        let begin = traced.filter(|at| entry.from.seconds_since(*at) <= WINDOW_SECONDS).unwrap_or(entry.from);
        let mut seen = None;
        if is_in_place(measure) {
            in_place.push(entry, measure, begin);
            seen = in_place.in_place().map(|blocks| (in_place.begin(), blocks, measure.in_place()));
        }
        if is_copied(measure) {
            copied.push(entry, measure, entry.from);
            seen = seen.or_else(|| copied.copied().map(|blocks| (copied.begin(), blocks, measure.fresh())));
        }
        let Some((Some(since), sum, more)) = seen else { continue };
        let confidence = match in_place.in_place() {
            Some(blocks) if blocks >= 4 * IN_PLACE_BLOCKS => Confidence::High,
            Some(_) => Confidence::Medium,
            None => Confidence::Low,
        };
        match found.last_mut() {
            Some(open) if entry.from.seconds_since(open.until) <= WINDOW_SECONDS => {
                open.since = open.since.min(since);
                open.until = entry.until;
                open.bytes = open.bytes.saturating_add(more.saturating_mul(BLOCK_SIZE_U64));
                open.confidence = open.confidence.max(confidence);
            }
            _ => {
                let bytes = sum.saturating_mul(BLOCK_SIZE_U64);
                found.push(Suspicion { volume, since, until: entry.until, bytes, confidence });
            }
        }
    }
    found
}

/// The newest of the points (the oldest first, `time` tells their times) before anything suspicious.
#[must_use]
pub fn suggest<P: Clone>(points: &[P], time: impl Fn(&P) -> Timestamp, ledger: &Ledger) -> Suggestion<P> {
    let suspicions = suspicions(ledger);
    let measured_since = ledger.since();
    let first = suspicions.iter().min_by_key(|suspicion| suspicion.since);
    let clean = |point: &&P| first.is_none_or(|first| time(point) <= first.since);
    let point = points.iter().rev().find(clean).cloned();
    let measured = |point: &P| measured_since.is_some_and(|since| since <= time(point));
    let confidence = match (first, &point) {
        (Some(_), _) => suspicions.iter().map(|one| one.confidence).max().unwrap_or(Confidence::Low),
        (None, Some(point)) if measured(point) => Confidence::Medium,
        (None, _) => Confidence::Low,
    };
    Suggestion { point, confidence, suspicions, measured_since }
}

#[cfg(test)]
mod tests;
