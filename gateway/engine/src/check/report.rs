//! What a check says: every damage with the place and the cost, and what is still recoverable.
//!
//! A report is bounded whatever a vault holds: past [`LISTED_MAX`] entries a list only counts.

use std::collections::BTreeSet;

use lifeboat_format::FormatError;
use lifeboat_model::{BranchId, Extent, GroupId, Lsn, PointId, Timestamp, VaultId, VolumeId};
use serde::Serialize;

use crate::error::{EngineError, ErrorKind};

/// Entries of one list of a report; more are counted.
pub const LISTED_MAX: usize = 10_000;
/// Extents listed for one cost; more are counted.
pub const EXTENTS_MAX: usize = 64;

/// The kinds of objects that [`crate::gc::repair()`] puts right.
pub(super) const KEPT: &str = "list of kept points";
pub(super) const DELETE_INTENT: &str = "delete intent";

/// What is wrong with an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fault {
    /// Something refers to it, and it isn't there.
    Missing,
    /// It ends too early, or goes on past its end.
    Length,
    /// A checksum, a hash or a rule of its format is broken.
    Damaged,
    /// Its MAC or its tag fails: altered, or moved here from elsewhere.
    Authentication,
    /// Intact, and of another place: swapped, or put back from an older copy.
    Misplaced,
    /// Intact, and sealed with another key.
    WrongKey,
    /// Intact, and not what another object says that it is.
    Contradiction,
    /// Written by a newer release: nothing is known to be wrong with it.
    NewerVersion,
    /// The storage doesn't give it back, time and again: a bad disk, a missing permission.
    Unreadable,
}

/// Something that is not as it was written.
#[derive(Clone, Debug, Serialize)]
pub struct Damage {
    /// Its number in the report, from 0: the order in which it was found.
    pub number: usize,
    /// The object's name in the vault, or the file's path.
    pub object: String,
    /// What kind of object it is, in words.
    pub kind: &'static str,
    /// What is wrong, for programs.
    pub fault: Fault,
    /// The part of the object, where it is known.
    pub part: Option<String>,
    /// Where the part begins in the object, bytes.
    pub offset: Option<u64>,
    /// What is wrong, for people.
    pub detail: String,
    /// What it costs. Empty: nothing that can be recovered is lost by it.
    pub costs: Vec<Cost>,
    /// What the cost is, in one sentence, where it isn't blocks of points.
    pub consequence: Option<String>,
}

/// A recovery point, as a report names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct PointName {
    /// The point.
    pub id: PointId,
    /// When it was taken.
    pub time: Timestamp,
    /// Its position.
    pub lsn: Lsn,
}

/// What a damage takes from the recovery points of one branch.
#[derive(Clone, Debug, Serialize)]
pub struct Cost {
    /// The group.
    pub group: GroupId,
    /// The branch whose points it takes from.
    pub branch: BranchId,
    /// The volume; none: the points can't be opened at all.
    pub volume: Option<VolumeId>,
    /// Number of points.
    pub points: u64,
    /// The oldest of them.
    pub first: PointName,
    /// The newest of them.
    pub last: PointName,
    /// Most blocks that any of these points lacks; 0 when the points can't be opened.
    pub blocks: u64,
    /// The blocks, of all of these points together, at most [`EXTENTS_MAX`] runs.
    pub extents: Vec<Extent>,
    /// Number of runs.
    pub extents_total: u64,
}

/// Something worth knowing that is no damage.
#[derive(Clone, Debug, Serialize)]
pub struct Note {
    /// The object or file.
    pub object: String,
    /// What is to be said of it.
    pub text: String,
}

/// A branch, as it was found.
#[derive(Clone, Debug, Serialize)]
pub struct BranchReport {
    /// The branch.
    pub branch: BranchId,
    /// Segments that count.
    pub segments: u64,
    /// Segments past a cut: a fenced writer's tail.
    pub segments_beyond: u64,
    /// Map objects.
    pub maps: u64,
    /// Points that are offered.
    pub points: u64,
    /// Those of them that are whole.
    pub points_sound: u64,
    /// The newest point.
    pub newest: Option<PointName>,
    /// The newest point that is whole.
    pub newest_sound: Option<PointName>,
}

/// A group, as it was found.
#[derive(Clone, Debug, Serialize)]
pub struct GroupReport {
    /// The group.
    pub group: GroupId,
    /// Its branches, parents first.
    pub branches: Vec<BranchReport>,
}

/// What a check found.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Nothing that was looked at is damaged.
    pub sound: bool,
    /// Everything was looked at.
    pub complete: bool,
    /// Why not, when it wasn't.
    pub incomplete_because: Option<String>,
    /// The vault; none for a check of local files alone.
    pub vault: Option<VaultId>,
    /// Whether the content of frames was read.
    pub read_data: bool,
    /// Objects or files that were looked at.
    pub objects: u64,
    /// Bytes that were read.
    pub bytes_read: u64,
    /// The damage, in the order in which it was found.
    pub damage: Vec<Damage>,
    /// Number of damages, listed or not.
    pub damage_total: u64,
    /// What is no damage.
    pub notes: Vec<Note>,
    /// Number of notes, listed or not.
    pub notes_total: u64,
    /// The groups.
    pub groups: Vec<GroupReport>,
}

impl Report {
    /// Groups of which something is damaged that [`crate::gc::repair()`] puts right.
    #[must_use]
    pub fn repairable(&self) -> BTreeSet<GroupId> {
        let group = |damage: &Damage| damage.object.strip_prefix("groups/")?.split_once('/')?.0.parse().ok();
        let lists = self.damage.iter().filter(|damage| matches!(damage.kind, KEPT | DELETE_INTENT));
        lists
            .filter(|damage| damage.fault != Fault::NewerVersion && damage.fault != Fault::WrongKey)
            .filter_map(group)
            .collect()
    }
}

/// What an error of the engine says about an object.
#[derive(Debug)]
pub(super) struct Verdict {
    pub(super) fault: Fault,
    pub(super) part: Option<&'static str>,
    pub(super) detail: String,
}

/// What a refusal of the format crate means.
pub(super) fn of_format(error: &FormatError) -> Verdict {
    let (fault, part) = match error {
        FormatError::NotThisKind { what, .. }
        | FormatError::Corrupt { what, .. }
        | FormatError::Refused { what, .. } => (Fault::Damaged, *what),
        FormatError::TooLarge { what, .. } => (Fault::Damaged, *what),
        FormatError::NewerVersion { what, .. } => (Fault::NewerVersion, *what),
        FormatError::Truncated { what, .. } => (Fault::Length, *what),
        FormatError::Authentication { what } => (Fault::Authentication, *what),
        FormatError::WrongKey { what } => (Fault::WrongKey, *what),
        FormatError::Misplaced { what, .. } => (Fault::Misplaced, *what),
    };
    Verdict { fault, part: Some(part), detail: error.to_string() }
}

/// What an error of the engine means.
pub(super) fn of_engine(error: &EngineError) -> Verdict {
    let mut source = std::error::Error::source(error);
    let mut missing = error.kind() == ErrorKind::NotFound;
    while let Some(cause) = source {
        if let Some(format) = cause.downcast_ref::<FormatError>() {
            return of_format(format);
        }
        missing |= cause.downcast_ref::<EngineError>().is_some_and(|error| error.kind() == ErrorKind::NotFound);
        source = cause.source();
    }
    let fault = match error.kind() {
        _ if missing => Fault::Missing,
        ErrorKind::Tampered | ErrorKind::Damaged => Fault::Contradiction,
        ErrorKind::WrongKey => Fault::WrongKey,
        ErrorKind::NewerFormat => Fault::NewerVersion,
        _ => Fault::Unreadable,
    };
    Verdict { fault, part: None, detail: error.to_string() }
}
