//! Putting right what collections keep in the vault: the list of kept points, and delete intents. Never data.
//!
//! - **A damaged list** is replaced by the next revision. It offers what the newest sound list before it does, and without
//!   one every recorded point, but for points of which objects are *not there*: those were dropped, and collected since. A point
//!   whose objects are there and damaged stays on the list, as do forks, pins and the ends of branches, whatever became of them.
//! - **A damaged intent** is deleted: what it named is found to be garbage again by the next collection.
//!
//! Refuses: a list or an intent of a newer release, or sealed with another key; a vault that doesn't answer. A crash leaves
//! the new list, or not; two repairs at once come to one list.

use std::sync::Arc;
use std::time::Duration;

use lifeboat_format::gc::{KeptPoints, KeptPosition, RECORD_LEN_MAX};
use lifeboat_model::{BranchId, GroupId, PointId};
use lifeboat_vault::Vault;
use serde::Serialize;

use super::live::Walk;
use super::sources::Sources;
use super::world::World;
use super::{GcSettings, Kept, intents, kept};
use crate::cause;
use crate::error::{EngineError, ErrorKind, Result};
use crate::points::PointRetention;
use crate::segments::{Reader, ReaderLimits, names};

/// What was put right in one group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Repaired {
    /// The group.
    pub group: GroupId,
    /// The list of kept points that was written, if it had to be.
    pub list: Option<RepairedList>,
    /// Delete intents that were taken away, by name.
    pub intents: Vec<String>,
}

/// A list of kept points that takes the place of a damaged one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RepairedList {
    /// The damaged object.
    pub damaged: String,
    /// The list that was written.
    pub written: String,
    /// The list that it goes by; none: every recorded point.
    pub from: Option<String>,
    /// Points on it.
    pub points: u64,
    /// Points that are not, since objects that they need are not there.
    pub left_out: Vec<PointId>,
}

/// Puts right what is damaged of a group's lists and intents; nothing is written where nothing is damaged.
///
/// # Errors
/// `NotFound` when the vault has no such group, `Retry` when it can't be reached or another gateway was faster; `NewerFormat`,
/// `WrongKey`; `Tampered` when something else is damaged that has to be put back first, such as an epoch.
pub async fn repair(vault: &Arc<Vault>, group: GroupId) -> Result<Repaired> {
    let reader = Reader::open(vault, group, ReaderLimits::default()).await?;
    let mut repaired = Repaired { group, list: None, intents: Vec::new() };
    for (key, fault) in intents(&reader).await? {
        if fault.kind() != ErrorKind::Tampered {
            return Err(fault);
        }
        match vault.store().delete(&key).await {
            Err(error) if !error.is_not_found() => return Err(cause::store(error)),
            Ok(()) | Err(_) => repaired.intents.push(key),
        }
    }
    match Kept::read(&reader).await {
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::Tampered => repaired.list = Some(replace_list(&reader).await?),
        Err(error) => return Err(error),
    }
    Ok(repaired)
}

/// Delete intents that can't be used, and why.
pub(crate) async fn intents(reader: &Reader) -> Result<Vec<(String, EngineError)>> {
    let standing = intents::standing(reader).await?;
    Ok(standing.into_iter().filter_map(|(key, intent)| Some((key, intent.err()?))).collect())
}

/// Writes the list that follows the damaged newest one.
async fn replace_list(reader: &Reader) -> Result<RepairedList> {
    let group = reader.group();
    let found = reader.vault().store().list(&names::kept(group)).await.map_err(cause::store)?;
    let mut revisions: Vec<u64> = found.iter().filter_map(|object| names::parse_revision(&object.key)).collect();
    revisions.sort_unstable();
    let newest = revisions.pop().ok_or_else(|| {
        EngineError::new(
            ErrorKind::Retry,
            format!("the list of kept points of {group} was replaced just now: check again"),
        )
    })?;
    let mut before = None;
    while let Some(revision) = revisions.pop() {
        if let Some(list) = sound_list(reader, revision).await? {
            before = Some((names::kept_revision(group, revision), list));
            break;
        }
    }
    let (from, list) = before.unzip();
    let kept = Kept::standing_in(group, newest, list);
    let now = reader.vault().now();
    let retention = PointRetention { tiers: vec![(Duration::MAX, Duration::ZERO)], max: usize::MAX };
    let settings = GcSettings { retention, ..GcSettings::default() };
    let world = World::read_with(reader, true, Some(kept)).await?;
    let mut positions = world.positions(reader, &settings, now).await?;
    let mut walk = Walk::new(reader, &world, None);
    // What stands for a segment that is gone may have been made when the point was dropped already.
    let rebuilt = Sources::of_gone(reader, &world).await?;
    let mut left_out = Vec::new();
    for (branch, at, point) in positions.listed() {
        if lacks_objects(&mut walk, &rebuilt, branch, at).await? {
            positions.leave_out(branch, at, point);
            left_out.push(point);
        }
    }
    let points = positions.points();
    let revision = world.kept.next_revision();
    kept::write(reader, revision, now, positions.to_kept(&[])).await?;
    Ok(RepairedList {
        damaged: names::kept_revision(group, newest),
        written: names::kept_revision(group, revision),
        from,
        points,
        left_out,
    })
}

async fn sound_list(reader: &Reader, revision: u64) -> Result<Option<KeptPoints>> {
    let key = names::kept_revision(reader.group(), revision);
    let bytes = match reader.get(&key, RECORD_LEN_MAX).await {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        bytes => bytes?,
    };
    match kept::decode(reader, revision, &bytes) {
        Ok(list) => Ok(Some(list)),
        Err(error) if error.kind() == ErrorKind::Tampered => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whether something that the position needs is not in the vault; what is there and damaged doesn't count.
async fn lacks_objects(walk: &mut Walk<'_>, rebuilt: &Sources, branch: BranchId, at: KeptPosition) -> Result<bool> {
    match walk.is_there(branch, at, rebuilt).await {
        Ok(there) => Ok(!there),
        Err(error) if error.kind().is_unanswered() => Err(error),
        Err(error) => Ok(is_missing(&error)),
    }
}

fn is_missing(error: &EngineError) -> bool {
    let source = std::error::Error::source(error).and_then(|source| source.downcast_ref::<EngineError>());
    error.kind() == ErrorKind::NotFound || source.is_some_and(is_missing)
}
