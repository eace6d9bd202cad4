//! What a crash leaves of a disk.

use super::content::Content;
use super::{NameChange, Node, Pending, State};
use crate::random::Random;

/// How a run of the gateway ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CrashKind {
    /// SIGKILL: what is in the kernel stays, synced or not.
    Kill,
    /// The power goes: what was not synced survives in part.
    Power,
}

/// A pattern in which unsynced operations survive.
#[derive(Clone, Copy, Debug)]
enum Pattern {
    Nothing,
    Everything,
    /// Whole operations, so many in eight.
    Operations(u64),
    /// Single sectors, so many in 32.
    Sectors(u64),
    /// Everything before an operation; that one is torn, the rest is lost.
    TornAt(u64),
    /// Everything but one operation, which is torn.
    AllBut(u64),
    /// Only what came after an operation.
    After(u64),
}

/// Draws what survives.
#[derive(Debug)]
pub(super) struct Draw {
    random: Random,
    pattern: Pattern,
}

impl Draw {
    /// A draw over these queues of operations.
    pub(super) fn new(seed: u64, queues: &[&Vec<Pending>]) -> Self {
        let mut random = Random::new(seed);
        let pending: usize = queues.iter().map(|queue| queue.len()).sum();
        let nth = random.below(pending as u64);
        let mut orders: Vec<u64> = queues.iter().flat_map(|queue| queue.iter().map(|one| one.order)).collect();
        orders.sort_unstable();
        let chosen = usize::try_from(nth).ok().and_then(|nth| orders.get(nth)).copied().unwrap_or(0);
        let pattern = match random.below(12) {
            0 => Pattern::Nothing,
            1 => Pattern::Everything,
            2 => Pattern::Operations(4),
            3 => Pattern::Operations(7),
            4 => Pattern::Sectors(16),
            5 => Pattern::Sectors(31),
            6..=8 => Pattern::TornAt(chosen),
            9 | 10 => Pattern::AllBut(chosen),
            _ => Pattern::After(chosen),
        };
        Self { random, pattern }
    }

    /// Calls back with how the sectors of one operation survive.
    fn apply(&mut self, content: &mut Content, one: &Pending) {
        let random = &mut self.random;
        match self.pattern {
            Pattern::Nothing => {}
            Pattern::Everything => content.apply(&one.change),
            Pattern::Operations(eighths) => {
                if random.chance(eighths, 8) {
                    content.apply(&one.change);
                }
            }
            Pattern::Sectors(part) => content.apply_sectors(&one.change, || random.chance(part, 32)),
            Pattern::TornAt(at) if one.order < at => content.apply(&one.change),
            Pattern::AllBut(at) if one.order != at => content.apply(&one.change),
            Pattern::TornAt(at) | Pattern::AllBut(at) if one.order == at => {
                content.apply_sectors(&one.change, || random.chance(1, 2));
            }
            Pattern::After(at) if one.order > at => content.apply(&one.change),
            Pattern::TornAt(_) | Pattern::AllBut(_) | Pattern::After(_) => {}
        }
    }
}

/// Durable content of a file with those of its pending operations that survive.
pub(super) fn survivors(node: &Node, draw: &mut Draw) -> Content {
    let mut content = node.durable.clone();
    node.pending.iter().for_each(|one| draw.apply(&mut content, one));
    content
}

/// The state that the next start finds.
pub(super) fn after(state: &State, seed: u64, kind: CrashKind) -> State {
    let mut next = state.clone();
    let mut random = Random::new(seed);
    next.random = Random::new(random.next());
    next.calls = 0;
    next.fault = None;
    next.halt_at = None;
    next.halted = false;
    next.fault_hit = false;
    next.failed_syncs = 0;
    if kind == CrashKind::Kill {
        return next;
    }
    let queues: Vec<&Vec<Pending>> = state.nodes.iter().map(|node| &node.pending).collect();
    let mut draw = Draw::new(random.next(), &queues);
    for node in &mut next.nodes {
        if node.pending.is_empty() && !node.diverged {
            continue;
        }
        node.durable = survivors(node, &mut draw);
        node.view = node.durable.clone();
        node.pending.clear();
        node.diverged = false;
    }
    // Changes of names survive one by one, as they like: POSIX promises no order among them.
    let likely = [0, 1, 1, 2][usize::try_from(random.below(4)).unwrap_or(0)];
    for change in std::mem::take(&mut next.pending_names) {
        if !random.chance(likely, 2) {
            continue;
        }
        match change {
            NameChange::Create(name, node) => drop(next.durable_names.insert(name, node)),
            NameChange::Remove(name) => drop(next.durable_names.remove(&name)),
        }
    }
    next.names = next.durable_names.clone();
    next
}
