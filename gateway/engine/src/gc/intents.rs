//! Standing delete intents: reading them, carrying them out, writing the next.

use std::collections::{BTreeSet, HashSet};
use std::time::Duration;

use bytes::Bytes;
use lifeboat_format::gc::{DeleteIntent, Doomed, RECORD_LEN_MAX};
use lifeboat_model::{GatewayId, SegmentId, Timestamp};
use lifeboat_vault::create_exact;

use super::plan::Plan;
use super::world::World;
use super::{GcReport, GcSettings, Planted, Run, damaged, record_place};
use crate::branch;
use crate::cause;
use crate::error::{ErrorKind, Result};
use crate::planted::{Bug, is};
use crate::segments::{Reader, names};

/// Deletes between two looks for a newer epoch.
const DELETES_PER_LOOK: usize = 256;

/// The intents that stand, the oldest first, by name: each as it was read, or why it can't be used.
pub(super) async fn standing(reader: &Reader) -> Result<Vec<(String, Result<DeleteIntent>)>> {
    let found = reader.vault().store().list(&names::delete_intents(reader.group())).await.map_err(cause::store)?;
    let mut standing = Vec::new();
    for object in found {
        let Some(revision) = names::parse_revision(&object.key) else { continue };
        let bytes = match reader.get(&object.key, RECORD_LEN_MAX).await {
            // Another collector has finished it.
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            bytes => bytes?,
        };
        let intent = DeleteIntent::decode(&bytes, &record_place(reader, &object.key), reader.key());
        let intent = match intent.map_err(damaged(&object.key)) {
            Ok(intent) if intent.revision != revision => {
                Err(cause::tampered(format!("{} is another revision", object.key)))
            }
            intent => intent,
        };
        standing.push((object.key, intent));
    }
    Ok(standing)
}

/// The intents of a group, the oldest first.
#[derive(Debug)]
pub(super) struct Intents {
    standing: Vec<(String, DeleteIntent)>,
    now_due: Vec<usize>,
}

impl Intents {
    pub(super) async fn read(reader: &Reader) -> Result<Self> {
        let found = standing(reader).await?;
        let standing = found.into_iter().map(|(key, intent)| Ok((key, intent?))).collect::<Result<_>>()?;
        Ok(Self { standing, now_due: Vec::new() })
    }

    /// Finds those whose grace has passed, once one of them has waited long enough for others; whether there are any.
    pub(super) fn find_due(&mut self, now: Timestamp, settings: &GcSettings) -> bool {
        let aged = |intent: &DeleteIntent, age: Duration| {
            now.seconds_since(intent.time) >= age.as_secs_f64() || is(Bug::DeletesWithoutGrace)
        };
        let pressing = settings.grace.saturating_add(settings.gather);
        if !self.standing.iter().any(|(_, intent)| aged(intent, pressing)) {
            return false;
        }
        let due = |intent: &DeleteIntent| aged(intent, settings.grace);
        self.now_due = self.standing.iter().enumerate().filter(|(_, (_, one))| due(one)).map(|(at, _)| at).collect();
        !self.now_due.is_empty()
    }

    /// Names below the group that a standing intent has.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> + '_ {
        self.standing.iter().flat_map(|(_, intent)| intent.objects.iter().map(|object| object.name.as_str()))
    }

    /// Segments that a due intent names, whichever of their objects it is.
    pub(super) fn due_segments(&self) -> HashSet<SegmentId> {
        let due = self.now_due.iter().filter_map(|at| self.standing.get(*at));
        due.flat_map(|(_, intent)| &intent.objects).filter_map(|object| segment_of(&object.name)).collect()
    }

    pub(super) fn is_intent(&self, key: &str) -> bool {
        self.standing.iter().any(|(name, _)| name == key)
    }

    /// Counts what is still there of the intents that are not due.
    pub(super) fn count_waiting(&self, world: &World, report: &mut GcReport) {
        let prefix = format!("groups/{}/", world.kept.group());
        for (at, (_, intent)) in self.standing.iter().enumerate() {
            for object in intent.objects.iter().filter(|_| !self.now_due.contains(&at)) {
                if world.objects.contains_key(&format!("{prefix}{}", object.name)) {
                    report.waiting.add(object.size);
                }
            }
        }
    }

    /// Deletes what the due intents name and what is garbage now too. `plan` was made from a listing that is younger than
    /// the intents, by a walk that trusted nothing.
    pub(super) async fn execute(&self, run: &Run<'_>, world: &World, plan: &Plan, report: &mut GcReport) -> Result<()> {
        let reader = run.reader;
        let store = reader.vault().store();
        let mut since_look = 0_usize;
        for (key, intent) in self.now_due.iter().filter_map(|at| self.standing.get(*at)) {
            let mut left = 0_usize;
            let mut halted: BTreeSet<String> = BTreeSet::new();
            for object in in_order(&intent.objects) {
                let name = format!("{}/{}", names::group(reader.group()), object.name);
                if !world.objects.contains_key(&name) {
                    continue;
                }
                if !plan.garbage.contains_key(&name) && !super::planted(Planted::TrustsIntents) {
                    report.rescued.add(object.size);
                    continue;
                }
                // Epochs go from the highest down: one that stays keeps those below it.
                let branch = object.name.split_once("/epoch/").map(|(branch, _)| branch.to_owned());
                if branch.as_ref().is_some_and(|branch| halted.contains(branch)) {
                    left = left.saturating_add(1);
                    report.denied.add(object.size);
                    continue;
                }
                if since_look >= DELETES_PER_LOOK {
                    run.check_fence().await?;
                    since_look = 0;
                }
                since_look = since_look.saturating_add(1);
                match store.delete(&name).await {
                    Ok(()) => report.deleted.add(object.size),
                    Err(error) if error.is_not_found() => {}
                    Err(error) if error.is_retry() => return Err(cause::store(error)),
                    // Locked, or not allowed: nothing else depends on it, and the next run tries again.
                    Err(_) => {
                        left = left.saturating_add(1);
                        report.denied.add(object.size);
                        halted.extend(branch);
                    }
                }
            }
            if left == 0 {
                match store.delete(key).await {
                    Err(error) if error.is_retry() => return Err(cause::store(error)),
                    Ok(()) | Err(_) => {}
                }
            }
        }
        Ok(())
    }
}

/// The segment that an object, by its name below the group, is, or was made of.
fn segment_of(name: &str) -> Option<SegmentId> {
    let (branch, rest) = name.split_once('/')?;
    let branch = branch.parse().ok()?;
    let (epoch, seq) = match rest.split_once('/')? {
        ("log", _) => names::parse_segment(rest)?,
        ("rebuilt", _) => names::parse_rebuilt(rest).map(|(epoch, seq, _)| (epoch, seq))?,
        _ => return None,
    };
    Some(SegmentId { branch, epoch, seq })
}

/// Lists and maps before the segments that they name, epochs from the highest down, the mark of a dropped branch last.
fn in_order(objects: &[Doomed]) -> Vec<&Doomed> {
    let rank = |name: &str| match name.split_once('/') {
        Some(("gc" | "marks", _)) => 0,
        Some((_, rest)) if rest.starts_with("map/") => 1,
        Some((_, "epoch/dropped")) => 4,
        Some((_, rest)) if rest.starts_with("epoch/") => 3,
        _ => 2,
    };
    let mut ordered: Vec<&Doomed> = objects.iter().collect();
    ordered.sort_by(|one, other| {
        let (rank_one, rank_other) = (rank(&one.name), rank(&other.name));
        rank_one.cmp(&rank_other).then_with(|| match rank_one {
            3 => other.name.cmp(&one.name),
            _ => one.name.cmp(&other.name),
        })
    });
    ordered
}

/// Writes an intent, whose revision is that of the list that it was computed from.
pub(super) async fn write(
    reader: &Reader,
    gateway: GatewayId,
    revision: u64,
    now: Timestamp,
    objects: Vec<Doomed>,
) -> Result<()> {
    let key = names::delete_intent(reader.group(), revision);
    let intent = DeleteIntent { revision, gateway, time: now, objects };
    let bytes = intent
        .encode(&record_place(reader, &key), branch::random(reader.vault())?, reader.key())
        .map_err(damaged(&key))?;
    create_exact(&**reader.vault().store(), &key, Bytes::from(bytes)).await.map_err(cause::store)?;
    Ok(())
}
