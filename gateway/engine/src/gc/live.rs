//! What the kept positions need: the walk through their trees.
//!
//! Nodes that several trees share are visited once. The memory of an earlier run spares reading leaves again; a run that is
//! about to delete doesn't use it.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use futures::future::try_join_all;
use lifeboat_format::gc::KeptPosition;
use lifeboat_format::map::{Child as StoredChild, NodeRef, VolumeRoot};
use lifeboat_model::{BranchId, Epoch, MapId, SegmentId, SegmentSeq, VolumeId};

use super::sources::{Filling, Slots, Source, Sources};
use super::world::{Branch, MapIds, Positions, World};
use super::{Planted, planted};
use crate::branch::{Position, expected};
use crate::cause;
use crate::error::{ErrorKind, Result};
use crate::segments::{MapListing, Reader};
use crate::tree::{Child, Node, NodeAt, NodeStore};

/// Maps of a writer's own tenure that it may be working from.
const BASES_OWN: usize = 2;
/// Maps that it may be working from in all.
const BASES_MAX: usize = 5;
/// Nodes read at a time.
const PARALLEL: usize = 32;
/// Places in leaves that are remembered from run to run: 16 bytes each, about.
const MEMORY_PLACES_MAX: usize = 4 << 20;

/// Where a leaf's blocks are: segment, frame, and a bit for each slot.
type Places = Arc<Vec<(SegmentId, u32, u16)>>;

/// What leaves name, kept from one run to the next by whoever runs collections. Only ever a shortcut: it is rebuilt by
/// walking, and no delete relies on it.
#[derive(Debug, Default)]
pub struct Memory {
    leaves: HashMap<(MapId, u32), Places>,
    places: usize,
    /// How much segments hold.
    pub(super) fillings: HashMap<SegmentId, Filling>,
    /// What rebuilt ones hold.
    pub(super) rebuilt: HashMap<(SegmentId, u64), Source>,
}

impl Memory {
    fn keep(&mut self, key: (MapId, u32), places: &Places) {
        if self.places.saturating_add(places.len()) <= MEMORY_PLACES_MAX {
            self.places = self.places.saturating_add(places.len());
            self.leaves.insert(key, Arc::clone(places));
        }
    }

    fn forget_unseen(&mut self, seen: &HashSet<(MapId, u32)>) {
        self.leaves.retain(|key, _| seen.contains(key));
        self.places = self.leaves.values().map(|places| places.len()).sum();
    }
}

/// What is needed.
#[derive(Debug, Default)]
pub(super) struct Live {
    /// Slots that leaves name, by segment and frame.
    pub(super) slots: HashMap<SegmentId, Slots>,
    /// Segments that are replayed, hence needed as a whole.
    pub(super) replayed: HashSet<SegmentId>,
    /// Maps from which kept positions are read.
    pub(super) heads: MapIds,
    /// Bytes of nodes that are needed, by map object.
    pub(super) nodes: HashMap<MapId, u64>,
    /// Segments that are needed for good, as far as anybody can tell: carrying frees nothing there.
    pub(super) lasting: HashSet<SegmentId>,
    /// The roots of the newest map of each branch that somebody may be writing.
    pub(super) newest: HashMap<BranchId, Vec<VolumeRoot>>,
}

/// One walk.
pub(super) struct Walk<'a> {
    reader: &'a Reader,
    world: &'a World,
    memory: Option<&'a mut Memory>,
    heads: HashMap<MapId, Option<Head>>,
    seen: HashSet<(MapId, u32)>,
    live: Live,
}

#[derive(Clone, Debug)]
struct Head {
    epoch: Epoch,
    seq: SegmentSeq,
    roots: Vec<VolumeRoot>,
}

impl<'a> Walk<'a> {
    pub(super) fn new(reader: &'a Reader, world: &'a World, memory: Option<&'a mut Memory>) -> Self {
        Self { reader, world, memory, heads: HashMap::new(), seen: HashSet::new(), live: Live::default() }
    }

    /// Walks everything that the positions need.
    pub(super) async fn run(mut self, positions: &Positions) -> Result<Live> {
        // Those that must be readable first: what is missing below the others must not hide anything.
        for (must, lasting) in [(true, true), (true, false), (false, true), (false, false)] {
            for (branch, of) in &positions.branches {
                let mut wanted: Vec<KeptPosition> = of
                    .all
                    .iter()
                    .filter(|(at, known)| **known == must && of.lasting.contains(at) == lasting)
                    .map(|(at, _)| *at)
                    .collect();
                wanted.sort();
                for at in wanted {
                    match self.position(*branch, at).await {
                        Err(error) if !must && matches!(error.kind(), ErrorKind::Tampered | ErrorKind::NotFound) => {}
                        done => done?,
                    }
                }
            }
            if must && lasting {
                self.live.lasting = self.live.slots.keys().copied().collect();
            }
        }
        for branch in self.world.branches.values().filter(|branch| branch.is_written()) {
            let bases = self.bases(branch).await?;
            if let Some((_, newest)) = bases.first() {
                self.live.newest.insert(branch.log.branch, newest.roots.clone());
            }
            for head in bases {
                match self.head_trees(head).await {
                    Err(error) if matches!(error.kind(), ErrorKind::Tampered | ErrorKind::NotFound) => {}
                    done => done?,
                }
            }
        }
        if let Some(memory) = self.memory {
            memory.forget_unseen(&self.seen);
        }
        Ok(self.live)
    }

    /// Whether everything that one position needs is there, in segments or in rebuilt ones. Nodes that an earlier call found
    /// whole, with all that they name, are not read again.
    pub(super) async fn is_there(&mut self, branch: BranchId, at: KeptPosition, rebuilt: &Sources) -> Result<bool> {
        let before = self.seen.clone();
        self.live = Live::default();
        let found = self.position(branch, at).await.map(|()| self.is_held(rebuilt));
        if !matches!(found, Ok(true)) {
            self.seen = before;
        }
        found
    }

    /// Whether all that was found to be needed is there.
    fn is_held(&self, rebuilt: &Sources) -> bool {
        let segment = |id: &SegmentId| self.world.segment(*id).is_some();
        let holds = |(id, needed): (&SegmentId, &Slots)| segment(id) || rebuilt.cover(*id, 0, needed).is_some();
        self.live.replayed.iter().all(segment) && self.live.slots.iter().all(holds)
    }

    /// What one position needs, through as many forks as it takes.
    async fn position(&mut self, branch: BranchId, at: KeptPosition) -> Result<()> {
        let (mut branch, mut at) = (branch, at);
        let mut met = HashSet::new();
        loop {
            let world = self.world;
            let known = world.branches.get(&branch).filter(|_| met.insert(branch));
            let known =
                known.ok_or_else(|| cause::tampered(format!("branch {branch}, which others need, is not there")))?;
            let until = Position { branch, epoch: at.epoch, seq: at.seq, lsn: at.lsn };
            let head = self.nearest(known, &until).await?;
            let from = head.as_ref().map_or((Epoch(1), SegmentSeq(0)), |(_, head)| (head.epoch, head.seq));
            if !planted(Planted::ForgetsReplay) {
                self.live.replayed.extend(expected(&known.log, from, &until)?);
            }
            if let Some(head) = head {
                return self.head_trees(head).await;
            }
            let Some(origin) = known.log.origin() else { return Ok(()) };
            branch = origin.at.branch;
            at = KeptPosition { epoch: origin.at.epoch, seq: origin.at.seq, lsn: origin.at.lsn };
        }
    }

    async fn head_trees(&mut self, (id, head): (MapId, Head)) -> Result<()> {
        let skipped = planted(Planted::ForgetsOlderMaps) && self.live.heads.len() > 1;
        if self.live.heads.insert(id) && !skipped {
            self.trees(head.roots).await?;
        }
        Ok(())
    }

    /// The maps from whose nodes a branch's writer may be working without having said so yet: its own two newest (it may not
    /// know that the newest has landed), or those that were the newest when it began. A map that lands late may be newer
    /// than the one it began from, and may hold copies of nodes that the writer still names where they were.
    async fn bases(&mut self, branch: &Branch) -> Result<Vec<(MapId, Head)>> {
        let epoch = branch.log.newest();
        let mut found = Vec::new();
        let mut own = 0_usize;
        let (mut branch, mut until) = (branch, branch.end);
        let mut met = HashSet::new();
        while met.insert(branch.log.branch) {
            for (map, _) in branch.maps.iter().filter(|(map, _)| map.lsn <= until.lsn) {
                let Some(head) = self.head(branch, map).await? else { continue };
                own = own.saturating_add(usize::from(met.len() == 1 && head.epoch == epoch));
                found.push((map.id, head));
                if own >= BASES_OWN || found.len() >= BASES_MAX {
                    return Ok(found);
                }
            }
            let Some(origin) = branch.log.origin() else { break };
            let Some(parent) = self.world.branches.get(&origin.at.branch) else { break };
            (branch, until) = (parent, origin.at);
        }
        Ok(found)
    }

    /// The map from which the position is read: the one that `branch/state.rs` chooses.
    async fn nearest(&mut self, branch: &Branch, until: &Position) -> Result<Option<(MapId, Head)>> {
        for (map, _) in branch.maps.iter().filter(|(map, _)| map.lsn <= until.lsn) {
            let head = self.head(branch, map).await?;
            if let Some(head) = head.filter(|head| (head.epoch, head.seq) <= (until.epoch, until.seq)) {
                return Ok(Some((map.id, head)));
            }
        }
        Ok(None)
    }

    async fn head(&mut self, branch: &Branch, map: &MapListing) -> Result<Option<Head>> {
        if let Some(known) = self.heads.get(&map.id) {
            return Ok(known.clone());
        }
        let found = self.reader.map_head(map).await?;
        let at = &found.footer.position;
        let usable = found.footer.is_head() && at.lsn == map.lsn && branch.log.counts(at.epoch, at.seq);
        let head = usable.then(|| Head { epoch: at.epoch, seq: at.seq, roots: found.footer.roots.clone() });
        self.heads.insert(map.id, head.clone());
        Ok(head)
    }

    /// Every node below the roots that wasn't visited yet.
    async fn trees(&mut self, roots: Vec<VolumeRoot>) -> Result<()> {
        let mut stack: Vec<NodeAt> = Vec::new();
        for root in roots {
            // What was erased can't be read by anybody: nothing of it is needed.
            if self.reader.hasher_unless_erased(root.volume).await?.is_none() {
                continue;
            }
            let level = root.levels();
            if let StoredChild::Node(node) = root.root {
                self.visit(root.volume, level, &node, &mut stack);
            }
        }
        while !stack.is_empty() {
            let batch = stack.split_off(stack.len().saturating_sub(PARALLEL));
            let nodes = try_join_all(batch.iter().map(|at| self.reader.load(at))).await?;
            for (at, node) in batch.iter().zip(nodes) {
                self.take(at, &node, &mut stack);
            }
        }
        Ok(())
    }

    /// Notes that a node is needed; what isn't known of it yet is to be read.
    fn visit(&mut self, volume: VolumeId, level: u8, node: &NodeRef, stack: &mut Vec<NodeAt>) {
        let key = (node.object.id, node.node);
        if !self.seen.insert(key) {
            return;
        }
        let bytes = self.live.nodes.entry(node.object.id).or_default();
        *bytes = bytes.saturating_add(u64::from(node.stored_len));
        let known = self.memory.as_deref().and_then(|memory| memory.leaves.get(&key)).cloned();
        match known.filter(|_| level == 0) {
            Some(places) => self.name(&places),
            None => stack.push(NodeAt { volume, level, node: node.clone() }),
        }
    }

    fn take(&mut self, at: &NodeAt, node: &Node, stack: &mut Vec<NodeAt>) {
        match node {
            Node::Leaf(leaf) => {
                let mut found: BTreeMap<(SegmentId, u32), u16> = BTreeMap::new();
                for (_, slot) in leaf.iter() {
                    let mask = found.entry((slot.at.segment, slot.at.frame)).or_default();
                    *mask |= 1_u16.checked_shl(u32::from(slot.at.slot)).unwrap_or(0);
                }
                let places: Places = Arc::new(found.into_iter().map(|((id, frame), mask)| (id, frame, mask)).collect());
                self.name(&places);
                if let Some(memory) = &mut self.memory {
                    memory.keep((at.node.object.id, at.node.node), &places);
                }
            }
            Node::Inner(inner) => {
                for child in inner.children() {
                    if let Child::Stored(node) = child {
                        self.visit(at.volume, at.level.saturating_sub(1), node, stack);
                    }
                }
            }
        }
    }

    fn name(&mut self, places: &Places) {
        for (segment, frame, mask) in places.iter() {
            *self.live.slots.entry(*segment).or_default().entry(*frame).or_default() |= mask;
        }
    }
}
