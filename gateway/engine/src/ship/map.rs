//! Writing maps beside shipping.
//!
//! ```text
//! shipping   ──segment──segment──segment──segment──segment──>        trees ──clone──┐            ┌─adopt──> trees
//! the task            renew, encode, encrypt ── put the head ── newer epoch?  <─────┘────────────┘
//! ```
//! Trees are values: a map is written from clones that nothing changes any more, so that neither side waits for the other.
//! There is at most one such task. When it is done, the working trees take over what it stored ([`Tree::adopt`]); what was
//! changed meanwhile stays in memory for the next map.
//!
//! # Consistency
//! The clones are those of the shipped position: every segment that their nodes name had landed, and counted, before the
//! task began. All nodes and the footer are one object, put by one request: it is there as a whole or not at all.
//!
//! # Memory
//! Nodes in memory are bounded by the policy in the usual case, as a map is due when they reach it. When the vault takes
//! segments but no maps, shipping stops at [`FRESH_FACTOR_MAX`] times that and waits for one.
//!
//! # Failure, cancellation, crash
//! A map that failed is tried again after a pause, from newer trees; the log is complete without it. Dropping the writer
//! ends the task, whose put may still land: a whole map, true to its position, which readers may use or not.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use lifeboat_format::hash::BlockHasher;
use lifeboat_format::map::{
    Child, LogPosition, MapBuilder, MapFooter, MapParams, MapPlace, Node as StoredNode, NodeRef, RetainedPoint,
    VolumeRoot,
};
use lifeboat_model::{Lsn, MapId, Timestamp, VolumeId};
use lifeboat_vault::create_exact;
use tokio_util::task::AbortOnDropHandle;

use super::{BranchWriter, Fenced, MapWritten, ShipError, Working, length, newer_epoch, not_ready};
use crate::branch;
use crate::cause;
use crate::error::{EngineError, ErrorKind, Result};
use crate::pace::Pace;
use crate::points::PointInfo;
use crate::segments::{Reader, names};
use crate::tree::{Node, NodeSink, STAGES, Spot, Tree, to_stored};

/// How far the memory of changed nodes may go past the policy before [`BranchWriter::append`] waits for a map.
const FRESH_FACTOR_MAX: usize = 4;
/// Pause after a map that failed.
const PAUSE_FIRST: Duration = Duration::from_secs(5);
/// Longest pause after maps that failed one after the other.
const PAUSE_MAX: Duration = Duration::from_secs(300);
/// Nodes of older maps that a map holds again for the sake of readers, at least and at most: the way to the first block of one
/// large volume, or of a dozen and the tops of their trees.
const RENEWED: (usize, usize) = (4, 48);
/// One more for so many bytes that were shipped since the last map, which keeps their share of the vault small.
const RENEWED_PER_BYTES: u64 = 512 << 10;

/// What a writer knows of its maps.
#[derive(Debug)]
pub(super) struct Maps {
    since: SinceMap,
    running: Option<Running>,
    /// Maps that failed one after the other, and when the last did.
    failures: u32,
    pub(super) failed: Option<Timestamp>,
    /// Positions for which there are maps: points there are the ones worth keeping. Read from the vault by the first map.
    mapped: Option<HashSet<Lsn>>,
}

/// What was put since the last map.
#[derive(Clone, Copy, Debug)]
struct SinceMap {
    time: Timestamp,
    segments: u64,
    bytes: u64,
    fresh_bytes: usize,
}

/// A map that is being written.
#[derive(Debug)]
struct Running {
    task: AbortOnDropHandle<Result<Done>>,
    /// What is accounted for by it.
    begun: SinceMap,
}

/// A map that landed.
#[derive(Debug)]
struct Done {
    written: MapWritten,
    nodes: HashMap<Spot, NodeRef>,
    /// A newer epoch was seen after it had landed.
    fenced: Option<Fenced>,
}

impl Maps {
    /// For a tenure that begins so many segments after the newest map.
    pub(super) const fn new(now: Timestamp, segments: u64) -> Self {
        let since = SinceMap { time: now, segments, bytes: 0, fresh_bytes: 0 };
        Self { since, running: None, failures: 0, failed: None, mapped: None }
    }

    pub(super) fn segment_landed(&mut self, bytes: u64, trees: &BTreeMap<VolumeId, Tree>) {
        self.since.segments = self.since.segments.saturating_add(1);
        self.since.bytes = self.since.bytes.saturating_add(bytes);
        self.since.fresh_bytes = trees.values().map(Tree::fresh_memory).sum();
    }
}

impl BranchWriter {
    /// Whether a map should be begun now.
    #[must_use]
    pub fn map_due(&self) -> bool {
        let (since, policy) = (&self.maps.since, &self.settings.map);
        let now = self.reader.vault().now();
        let pause = PAUSE_FIRST.saturating_mul(1 << self.maps.failures.clamp(1, 10).saturating_sub(1)).min(PAUSE_MAX);
        let paused = self.maps.failed.is_some_and(|failed| now.seconds_since(failed) < pause.as_secs_f64());
        if self.maps.running.is_some() || paused {
            return false;
        }
        let old = now.seconds_since(since.time) >= policy.after.as_secs_f64();
        since.segments >= policy.segments
            || since.bytes >= policy.log_bytes
            || since.fresh_bytes >= policy.fresh_bytes
            || (since.segments > 0 && old)
    }

    /// Takes over a map that has landed, and begins one if it is due. Doesn't wait for either; to be called between
    /// appends, and now and then without any. `Some` is the map that landed.
    ///
    /// # Errors
    /// `Fenced` ends the tenure. Anything else: a map failed, and will be tried again after a pause; nothing else is
    /// the matter.
    pub async fn drive_map(&mut self) -> Result<Option<MapWritten>, ShipError> {
        self.refuse_fenced()?;
        let mut landed = None;
        if let Some(running) = self.maps.running.take_if(|running| running.task.is_finished()) {
            landed = Some(self.finish_map(running).await?);
        }
        if self.map_due() {
            self.begin_map().await?;
        }
        Ok(landed)
    }

    /// Takes over a map that has landed, and begins one if it is due; one that failed is logged and left for later, since the
    /// log is complete without it: mounting replays a little more until the next one succeeds.
    ///
    /// # Errors
    /// `Fenced` ends the tenure.
    pub(crate) async fn drive_map_or_later(&mut self) -> Result<(), ShipError> {
        match self.drive_map().await {
            Ok(_) => Ok(()),
            Err(fenced @ ShipError::Fenced(_)) => Err(fenced),
            Err(ShipError::Engine(error)) => {
                tracing::warn!(group = %self.group(), %error, "the map was not written: it is tried again later");
                Ok(())
            }
        }
    }

    /// Writes a map of the shipped state and waits for it: from then on reading that state needs no earlier segment's index,
    /// and the memory of the changed nodes is given back.
    ///
    /// # Errors
    /// As [`Self::append`]; after an error the next call writes another map.
    pub async fn write_map(&mut self) -> Result<MapWritten, ShipError> {
        self.refuse_fenced()?;
        if let Some(running) = self.maps.running.take() {
            // Whatever became of it, the one below is newer.
            let _ = self.finish_map(running).await;
            self.refuse_fenced()?;
        }
        self.begin_map().await?;
        match self.maps.running.take() {
            Some(running) => self.finish_map(running).await,
            None => Ok(MapWritten { lsn: self.shipped.lsn, bytes: 0, nodes: 0 }),
        }
    }

    /// Makes room for more changed nodes, if there are far too many.
    pub(super) async fn bound_memory(&mut self) -> Result<(), ShipError> {
        let limit = self.settings.map.fresh_bytes.saturating_mul(FRESH_FACTOR_MAX);
        if self.maps.since.fresh_bytes < limit {
            return Ok(());
        }
        if let Some(running) = self.maps.running.take() {
            self.finish_map(running).await?;
        }
        // What was changed while it was written may be too much again.
        if self.maps.since.fresh_bytes >= limit {
            self.write_map().await?;
        }
        Ok(())
    }

    /// Starts the task; there is none before, and none after if there is nothing to write.
    async fn begin_map(&mut self) -> Result<()> {
        self.make_ready().await?;
        let Working::Ready(trees) = &self.working else { return Err(not_ready()) };
        if trees.is_empty() {
            return Ok(());
        }
        if self.maps.mapped.is_none() {
            let maps = self.reader.list_maps(self.branch()).await?;
            self.maps.mapped = Some(maps.into_iter().map(|map| map.lsn).collect());
        }
        let mut points = self.points.clone();
        self.thin(&mut points);
        let renewed = usize::try_from(self.maps.since.bytes / RENEWED_PER_BYTES).unwrap_or(usize::MAX);
        // A map that failed may have landed all the same, with copies that nobody here knows of: the next one must name
        // the nodes where this writer goes on looking for them, so that they stay in use.
        let renewed = if self.maps.failures > 0 { 0 } else { renewed.clamp(RENEWED.0, RENEWED.1) };
        let job = MapJob {
            reader: Arc::clone(&self.reader),
            place: MapPlace {
                vault: self.reader.vault().id(),
                group: self.group(),
                branch: self.branch(),
                lsn: self.shipped.lsn,
                id: MapId::from_bytes(self.reader.vault().new_id().map_err(cause::vault)?),
            },
            position: LogPosition {
                epoch: self.shipped.epoch,
                seq: self.shipped.seq,
                lsn: self.shipped.lsn,
                segment_hash: self.hash,
            },
            trees: trees.clone(),
            points: points.iter().map(PointInfo::to_retained).collect(),
            renewed,
            pace: Arc::clone(&self.settings.pace),
        };
        let begun = SinceMap { time: self.reader.vault().now(), ..self.maps.since };
        self.maps.running = Some(Running { task: AbortOnDropHandle::new(tokio::spawn(job.run())), begun });
        Ok(())
    }

    /// Waits for the map, and takes over what it stored.
    async fn finish_map(&mut self, running: Running) -> Result<MapWritten, ShipError> {
        let Running { task, begun } = running;
        let done = task
            .await
            .unwrap_or_else(|error| Err(EngineError::new(ErrorKind::Closed, format!("a map was given up: {error}"))));
        let done = match done {
            Ok(done) => done,
            Err(error) => {
                self.maps.failures = self.maps.failures.saturating_add(1);
                self.maps.failed = Some(self.reader.vault().now());
                return Err(error.into());
            }
        };
        (self.maps.failures, self.maps.failed) = (0, None);
        self.take_over(&done.nodes);
        self.maps.mapped.get_or_insert_default().insert(done.written.lsn);
        let mut points = std::mem::take(&mut self.points);
        self.thin(&mut points);
        self.points = points;
        let since = &mut self.maps.since;
        since.time = begun.time;
        since.segments = since.segments.saturating_sub(begun.segments);
        since.bytes = since.bytes.saturating_sub(begun.bytes);
        match done.fenced {
            None => Ok(done.written),
            Some(fenced) => {
                self.fenced = Some(fenced);
                Err(ShipError::Fenced(fenced))
            }
        }
    }

    /// Thins a list of this branch's points.
    fn thin(&self, points: &mut Vec<PointInfo>) {
        let Some(newest) = points.last().map(|point| point.time) else { return };
        let mapped = |point: &PointInfo| self.maps.mapped.as_ref().is_some_and(|mapped| mapped.contains(&point.lsn));
        self.settings.retention.thin_at(points, newest, mapped);
    }

    /// Gives back the memory of the nodes that are in a map now.
    fn take_over(&mut self, nodes: &HashMap<Spot, NodeRef>) {
        if let Working::Ready(trees) = &mut self.working {
            trees.values_mut().for_each(|tree| tree.adopt(nodes));
            self.maps.since.fresh_bytes = trees.values().map(Tree::fresh_memory).sum();
        }
        // A segment that is about to land brings trees that were made before.
        if let Some(pending) = &mut self.pending {
            pending.trees.values_mut().for_each(|tree| tree.adopt(nodes));
        }
    }
}

/// Everything that one map needs; belongs to its task.
#[derive(Debug)]
struct MapJob {
    reader: Arc<Reader>,
    place: MapPlace,
    position: LogPosition,
    trees: BTreeMap<VolumeId, Tree>,
    points: Vec<RetainedPoint>,
    renewed: usize,
    pace: Arc<Pace>,
}

/// A map object, and the nodes in it.
#[derive(Debug)]
struct Built {
    bytes: Bytes,
    written: Vec<(Spot, NodeRef, Arc<Node>)>,
}

impl MapJob {
    async fn run(mut self) -> Result<Done> {
        let mut budget = self.renewed;
        for tree in self.trees.values_mut() {
            tree.renew(&*self.reader, &mut budget).await?;
        }
        let (reader, place, pace) = (Arc::clone(&self.reader), self.place, Arc::clone(&self.pace));
        let key = names::map(place.group, place.branch, place.lsn, place.id);
        let epoch = self.position.epoch;
        let Built { bytes, written } = crate::blocking::run_behind(move || self.build())
            .await
            .map_err(|error| EngineError::new(ErrorKind::Closed, format!("building a map was given up: {error}")))??;
        let len = length(&bytes);
        pace.take(len, || reader.vault().now()).await;
        create_exact(&**reader.vault().store(), &key, bytes).await.map_err(cause::store)?;

        let count = u64::try_from(written.len()).unwrap_or(u64::MAX);
        let mut nodes = HashMap::with_capacity(written.len());
        for (spot, at, node) in written {
            reader.keep_node(&at, node);
            nodes.insert(spot, at);
        }
        let fenced = newer_epoch(&reader, place.branch, epoch).await?;
        Ok(Done { written: MapWritten { lsn: place.lsn, bytes: len, nodes: count }, nodes, fenced })
    }

    /// Encodes and encrypts: work for a thread of its own.
    fn build(self) -> Result<Built> {
        let Self { reader, place, position, mut trees, points, .. } = self;
        let builder = MapBuilder::new(MapParams { place, salt: branch::random(reader.vault())? }, reader.key());
        let mut nodes = MapNodes { builder, written: Vec::new() };
        for stage in STAGES {
            for tree in trees.values_mut() {
                tree.store_stage(stage, &mut nodes)?;
            }
        }
        let roots = trees
            .values()
            .map(|tree| VolumeRoot {
                volume: tree.volume(),
                size_blocks: tree.blocks(),
                root: tree.root_ref().map_or(Child::Zero, |node| Child::Node(node.clone())),
            })
            .collect();
        let MapNodes { builder, written } = nodes;
        let sealed = builder
            .seal(MapFooter { position, roots, points })
            .map_err(|error| cause::object(&format!("map {}", place.id), error))?;
        Ok(Built { bytes: Bytes::from(sealed.bytes), written })
    }
}

/// A map object that takes the nodes of trees.
#[derive(Debug)]
struct MapNodes {
    builder: MapBuilder,
    written: Vec<(Spot, NodeRef, Arc<Node>)>,
}

impl NodeSink for MapNodes {
    fn put(&mut self, hasher: &BlockHasher, spot: Spot, node: Arc<Node>) -> Result<NodeRef> {
        let defect = || EngineError::new(ErrorKind::Invalid, "a map node was stored before its children: report it");
        let child = match to_stored(&node, spot.level).ok_or_else(defect)? {
            StoredNode::Leaf(leaf) => self.builder.push_leaf(leaf, hasher),
            StoredNode::Inner(inner) => self.builder.push_inner(inner, hasher),
        };
        match child.map_err(|error| cause::object("map", error))? {
            Child::Node(at) => {
                self.written.push((spot, at.clone(), node));
                Ok(at)
            }
            Child::Zero => Err(defect()),
        }
    }
}
