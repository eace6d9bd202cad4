//! What of a group is garbage, and why.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use lifeboat_format::gc::{Doomed, INTENT_OBJECTS_MAX, Reason};
use lifeboat_model::{BranchId, Epoch, MapId, PointId, SegmentId, Timestamp};

use super::intents::Intents;
use super::live::Live;
use super::sources::Sources;
use super::world::{Branch, Positions, World};
use super::{Count, GcReport, Planted, planted};

/// A map object is sparse if less than this share of it is needed: numerator, denominator.
const SPARSE: (u64, u64) = (1, 2);
/// Map objects smaller than this are not worth the trouble.
const SPARSE_MIN: u64 = 64 << 10;

/// Rebuilt segments that one run reads back for the sake of an earlier one.
const UNCONFIRMED_MAX: usize = 4096;

/// The garbage of a group.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// By whole name.
    pub(super) garbage: BTreeMap<String, Reason>,
    /// Segments that stay, as they are needed as a whole or say where a log ends.
    pub(super) held: HashSet<SegmentId>,
    /// Segments that a rebuilt one stands for, and its generation.
    covered: BTreeMap<SegmentId, u64>,
    total: Count,
    needed: Count,
    sparse: Vec<MapId>,
}

impl Plan {
    pub(super) fn new(
        world: &World,
        (live, sources): (&Live, &Sources),
        positions: &Positions,
        intents: &Intents,
        now: Timestamp,
    ) -> Self {
        let mut plan = Self::default();
        for (id, branch) in &world.branches {
            plan.segments(branch, live, sources);
            plan.rebuilt(branch, live, sources);
            plan.maps(world, branch, live);
            if branch.log.dropped && !positions.branches.contains_key(id) && !is_ancestor(world, *id) {
                plan.epochs(branch);
            }
        }
        plan.garbage.extend(world.leftovers.iter().map(|key| (key.clone(), Reason::Orphan)));
        let newest = world.kept.revision();
        let old = world.kept_objects.range(..newest).map(|(_, key)| (key.clone(), Reason::Superseded));
        plan.garbage.extend(old);
        plan.marks(world, positions, now);
        for (key, size) in &world.objects {
            plan.total.add(*size);
            if !plan.garbage.contains_key(key) && !intents.is_intent(key) {
                plan.needed.add(*size);
            }
        }
        plan
    }

    fn segments(&mut self, branch: &Branch, live: &Live, sources: &Sources) {
        let mut last: HashMap<Epoch, SegmentId> = HashMap::new();
        for id in branch.segments.keys() {
            last.insert(id.epoch, *id);
        }
        for (id, key) in &branch.segments {
            let cut = branch.log.cut_of(id.epoch);
            let reason = if cut.is_some_and(|cut| id.seq > cut.last_seq) {
                Reason::Orphan
            } else {
                let after = (id.epoch, id.seq) > (branch.end.epoch, branch.end.seq);
                // The last one of a tenure that isn't over says where the log ends, should no map be readable.
                let says_the_end = cut.is_none() && last.get(&id.epoch) == Some(id);
                let forgotten = planted(Planted::RebuildsReplayed) && live.slots.contains_key(id);
                if (live.replayed.contains(id) && !forgotten) || (!branch.log.dropped && (after || says_the_end)) {
                    self.held.insert(*id);
                    continue;
                }
                match live.slots.get(id).map(|needed| sources.cover(*id, 0, needed)) {
                    Some(None) => continue,
                    Some(Some(generation)) => {
                        self.covered.insert(*id, generation);
                        Reason::Packed
                    }
                    None if branch.log.dropped => Reason::Dropped,
                    None => Reason::Unreferenced,
                }
            };
            self.garbage.insert(key.clone(), reason);
        }
    }

    /// A rebuilt segment goes when nothing of the segment is needed, or when a newer one stands for it: never on account of
    /// an older one, nor of the segment itself, whatever these hold.
    fn rebuilt(&mut self, branch: &Branch, live: &Live, sources: &Sources) {
        for (id, all) in &branch.rebuilt {
            for (generation, key) in all {
                let in_segment = branch.segments.contains_key(id) && planted(Planted::ForgetsTheOrder);
                let reason = match live.slots.get(id).map(|needed| sources.cover(*id, *generation, needed)) {
                    Some(None) if in_segment => Reason::Unreferenced,
                    Some(None) => continue,
                    Some(Some(newer)) => {
                        self.covered.insert(*id, newer);
                        Reason::Packed
                    }
                    None if live.replayed.contains(id) => continue,
                    None if branch.log.dropped => Reason::Dropped,
                    None => Reason::Unreferenced,
                };
                self.garbage.insert(key.clone(), reason);
            }
        }
    }

    /// Segments that a rebuilt one stands for, with its generation, which no standing intent says yet: before one does, the
    /// rebuilt one is read back.
    pub(super) fn unconfirmed(&self, world: &World, intents: &Intents) -> Vec<(SegmentId, u64)> {
        let prefix = format!("groups/{}/", world.kept.group());
        let known: BTreeSet<&str> = intents.names().collect();
        let is_new = |key: &str| key.strip_prefix(&prefix).is_some_and(|name| !known.contains(name));
        let of = |id: &SegmentId, generation: u64| {
            let rebuilt = world.branches.get(&id.branch).and_then(|branch| branch.rebuilt.get(id));
            let older = rebuilt.into_iter().flat_map(move |all| all.range(..generation)).map(|(_, key)| key.as_str());
            world.segment(*id).into_iter().chain(older).any(|key| self.garbage.contains_key(key) && is_new(key))
        };
        let new = self.covered.iter().filter(|(id, generation)| of(id, **generation));
        new.map(|(id, generation)| (*id, *generation)).take(UNCONFIRMED_MAX).collect()
    }

    fn maps(&mut self, world: &World, branch: &Branch, live: &Live) {
        // What is above the newest map that anybody reads may be a map that lands just now.
        let newest = branch.maps.iter().map(|(map, _)| map).find(|map| live.heads.contains(&map.id)).map(|map| map.lsn);
        for (map, key) in &branch.maps {
            if live.heads.contains(&map.id) {
                continue;
            }
            match live.nodes.get(&map.id) {
                Some(bytes) => {
                    let size = world.size(key);
                    if size >= SPARSE_MIN && bytes.saturating_mul(SPARSE.1) < size.saturating_mul(SPARSE.0) {
                        self.sparse.push(map.id);
                    }
                }
                None if branch.log.dropped => drop(self.garbage.insert(key.clone(), Reason::Dropped)),
                None if newest.is_some_and(|newest| map.lsn <= newest)
                    || map.lsn > branch.end.lsn && !branch.is_written() =>
                {
                    self.garbage.insert(key.clone(), Reason::Unreferenced);
                }
                None => {}
            }
        }
    }

    /// A branch that was given up, and that nothing needs: once its data is gone its epochs go, the mark last.
    fn epochs(&mut self, branch: &Branch) {
        if !branch.segments.is_empty() || !branch.maps.is_empty() {
            return;
        }
        let is_mark = |key: &&String| key.ends_with("/dropped");
        let others: Vec<&String> = branch.epochs.iter().filter(|key| !is_mark(key)).collect();
        let doomed = if others.is_empty() { branch.epochs.iter().collect() } else { others };
        self.garbage.extend(doomed.into_iter().map(|key| (key.clone(), Reason::Dropped)));
    }

    fn marks(&mut self, world: &World, positions: &Positions, now: Timestamp) {
        let pins: BTreeSet<PointId> = world.marks.pins(now).map(|mark| mark.point).collect();
        for (point, revisions) in &world.mark_objects {
            let newest = world.marks.marks.get(point);
            let in_use = pins.contains(point) || positions.keeps_point(*point);
            for (revision, key) in revisions {
                if newest.is_some_and(|mark| *revision < mark.revision) {
                    self.garbage.insert(key.clone(), Reason::Superseded);
                } else if newest.is_some_and(|mark| *revision == mark.revision) && !in_use {
                    self.garbage.insert(key.clone(), Reason::Unreferenced);
                }
            }
        }
    }

    pub(super) fn report(&self) -> GcReport {
        GcReport { total: self.total, needed: self.needed, sparse_maps: self.sparse.clone(), ..GcReport::default() }
    }

    /// Garbage that no standing intent names, bounded to what one intent takes; without what rebuilt segments stand for, of
    /// which [`Self::unconfirmed`] speaks.
    pub(super) fn doomed(&self, world: &World, intents: &Intents) -> Vec<Doomed> {
        let prefix = format!("groups/{}/", world.kept.group());
        let known: BTreeSet<&str> = intents.names().collect();
        self.garbage
            .iter()
            .filter_map(|(key, reason)| {
                let name = key.strip_prefix(&prefix)?;
                let said = *reason != Reason::Packed;
                let new = said && !known.contains(name) && world.objects.contains_key(key);
                new.then(|| Doomed { name: name.to_owned(), size: world.size(key), reason: *reason })
            })
            .take(INTENT_OBJECTS_MAX)
            .collect()
    }
}

/// Whether a branch that isn't given up descends from it.
fn is_ancestor(world: &World, id: BranchId) -> bool {
    world.branches.values().any(|branch| branch.log.origin().is_some_and(|origin| origin.at.branch == id))
}
