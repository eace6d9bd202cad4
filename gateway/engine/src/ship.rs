//! Shipping: one writer's tenure on a branch, from its claim to its end.
//!
//! ```text
//! interval of durable records ─merge overwrites─> hash ─> frames of 16 blocks ─zstd, AES-GCM (workers)─> segment
//!     └─> working tree ─root─> recovery point ─────────────────────────────────────────────────────────────┘ │ put
//!                                                                                     newer epoch? ─no─> shipped
//! ```
//! # Consistency
//! A segment is a prefix: it holds every record from where the one before it ended up to its own last position, merged
//! within itself only, and a recovery point ends it. An interval that is too large for one segment becomes several, cut
//! between records, so that each end is a true state of the group. The root hashes in a point come from the working
//! tree, which is the state at the last shipped position and nothing else.
//!
//! # Retries
//! A segment that was built and didn't verifiably land stays pending: the next [`BranchWriter::append`] puts the *same
//! bytes* under the same name, and an object found there is ours if its nonce is. So an attempt that landed without an
//! answer counts once, and no (key, nonce) pair is used for two contents. The interval may have grown in the meantime;
//! records up to [`BranchWriter::shipped`] are skipped.
//!
//! # Cancellation
//! Dropping the future of any method is like a lost answer: what was pending stays pending. Work on the blocking pool
//! runs to its end and its result is dropped.
//!
//! # Completion
//! A put counts once it has landed *and* no newer epoch was seen after it. If one is seen the tenure is over: the
//! method answers [`ShipError::Fenced`], and so does every later call, whether the segment is within the successor's
//! cut or not. What really is in the history, [`crate::branch::end_of_tenure`] says.
//!
//! # Maps
//! A map is written by a task of its own, from clones of the trees, while segments go on being shipped (see `ship/map.rs`).
//!
//! # Crashes
//! The next tenure starts from the vault alone: [`Opened::end`] is what the log holds, the segment included that landed
//! just before the crash. Records after it are shipped again, none before it. A map that wasn't finished is garbage
//! under a name of its own.

mod build;
mod carry;
mod map;
mod open;
mod sample;
#[cfg(test)]
pub(crate) mod tests;

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use lifeboat_format::segment::{SEGMENT_HEADER_LEN, SegmentHash, SegmentHeader};
use lifeboat_model::{BranchId, Epoch, GatewayId, GroupId, Lsn, SegmentId, SegmentSeq, VolumeId};
use lifeboat_vault::{Landed, StoreError, create_once};
use serde::{Deserialize, Serialize};

use crate::branch::{self, Origin, Position, VolumeState};
use crate::cause;
use crate::error::{EngineError, ErrorKind, Result};
use crate::insight::{Measure, PointInsight};
use crate::pace::Pace;
use crate::planted::{self, Bug};
use crate::points::{PointInfo, PointRetention};
use crate::record::LogRecord;
use crate::segments::{Reader, names};
use crate::tree::Tree;
pub use carry::CarriedBlock;
use map::Maps;
pub(crate) use open::refuse_unkept;

/// How frames are compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Compression {
    /// zstd 1; -3 for a large interval, which means that there is a backlog.
    #[default]
    Auto,
    /// As little as zstd can do.
    Off,
    /// That zstd level, -7 … 22.
    Level(i32),
}

/// When a map is due: any of these since the last one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MapPolicy {
    /// Segments put.
    pub segments: u64,
    /// Bytes put.
    pub log_bytes: u64,
    /// Time passed, if anything was put.
    pub after: Duration,
    /// Bytes of map nodes held in memory.
    pub fresh_bytes: usize,
}

impl Default for MapPolicy {
    fn default() -> Self {
        Self { segments: 128, log_bytes: 512 << 20, after: Duration::from_secs(300), fresh_bytes: 64 << 20 }
    }
}

/// Settings of a tenure.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ShipSettings {
    /// How frames are compressed.
    pub compression: Compression,
    /// When a map is due.
    pub map: MapPolicy,
    /// Which points stay on the list that maps carry.
    pub retention: PointRetention,
    /// How fast objects may be sent.
    pub pace: Arc<Pace>,
}

/// How a tenure begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Open {
    /// Epoch 1 of a branch that has a fresh id. Called again after a crash of the same gateway it goes on with a new
    /// epoch.
    New {
        /// Where the branch forks; none for a group's first.
        origin: Option<Origin>,
    },
    /// The epoch after the newest, whoever wrote last: taking over, or coming back after a release.
    Continue,
    /// The same gateway after a restart. Nothing is written if another gateway has claimed the branch since (`Fenced`),
    /// or if the vault's log is ahead of what this gateway has durably (its disks were rolled back: `Damaged`).
    Resume {
        /// The newest epoch that it knows as its own.
        epoch: Epoch,
        /// The last record that it has durably.
        durable_lsn: Lsn,
    },
    /// The same writer after a restart, if nobody at all has opened an epoch since, under whatever name; `Fenced` otherwise.
    /// For who writes in another's name, and isn't the only one.
    Unchallenged {
        /// Its epoch.
        epoch: Epoch,
    },
}

/// What a tenure found when it began.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opened {
    /// The tenure.
    pub epoch: Epoch,
    /// What the log holds: records after `end.lsn` have to be shipped.
    pub end: Position,
    /// The newest recovery point of the branch.
    pub last_point: Option<PointInfo>,
    /// The volumes and their sizes in blocks.
    pub volumes: Vec<(VolumeId, u64)>,
}

/// Durable records in order, up to `last_lsn`. A point, if there is one, is the last record. Positions that no record has were
/// given up by a collapse: what they held comes later, as copies.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Interval {
    /// The records.
    pub records: Vec<LogRecord>,
    /// The position that shipping it reaches.
    pub last_lsn: Lsn,
    /// Where records were given up before the first one: the volumes that are there, and the least sizes that they have, in
    /// blocks. The records that introduced them may be among those.
    pub sizes: Vec<(VolumeId, u64)>,
}

/// What shipping an interval did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Appended {
    /// How far the log goes now.
    pub shipped: Position,
    /// Segments that were put.
    pub segments: u32,
    /// Their bytes.
    pub payload_bytes: u64,
    /// Bytes of the blocks in them, after overwrites were merged and zeroes left out.
    pub raw_bytes: u64,
    /// Of them, those of blocks that were written again to free old segments.
    pub carried_bytes: u64,
    /// The newest recovery point that landed.
    pub point: Option<PointInfo>,
    /// All of them, in order.
    pub points: Vec<PointInfo>,
    /// What was written up to each of them.
    pub insights: Vec<PointInsight>,
}

/// What was put into the vault.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Bytes of segments.
    pub payload_bytes: u64,
    /// Bytes of the blocks in them, after overwrites were merged and zeroes left out.
    pub raw_bytes: u64,
}

impl Totals {
    /// Adds what came later.
    pub const fn add(&mut self, more: Self) {
        self.payload_bytes = self.payload_bytes.saturating_add(more.payload_bytes);
        self.raw_bytes = self.raw_bytes.saturating_add(more.raw_bytes);
    }
}

/// What writing a map did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapWritten {
    /// The position that it stands for.
    pub lsn: Lsn,
    /// Its bytes.
    pub bytes: u64,
    /// Its nodes.
    pub nodes: u64,
}

/// The tenure is over: another gateway has claimed the branch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fenced {
    /// The newer epoch.
    pub by_epoch: Epoch,
    /// Who claimed it.
    pub gateway: GatewayId,
    /// The branch that goes on in this one's place.
    pub promoted_to: Option<BranchId>,
}

/// Why a tenure could not go on.
#[derive(Debug)]
pub enum ShipError {
    /// Another gateway has the branch. Nothing will ever be shipped by this tenure again.
    Fenced(Fenced),
    /// Anything else; with kind `Retry`, the same call again may work.
    Engine(EngineError),
}

impl ShipError {
    /// Whether the same call again may work.
    #[must_use]
    pub fn is_retry(&self) -> bool {
        matches!(self, Self::Engine(error) if error.kind() == ErrorKind::Retry)
    }
}

impl fmt::Display for ShipError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fenced(fenced) => write!(
                f,
                "{} has taken the branch over with epoch {}: this gateway ships nothing more to it; \
                 fail back, or rehydrate from the branch that goes on",
                fenced.gateway, fenced.by_epoch
            ),
            Self::Engine(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for ShipError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Fenced(_) => None,
            Self::Engine(error) => error.source(),
        }
    }
}

impl From<EngineError> for ShipError {
    fn from(error: EngineError) -> Self {
        Self::Engine(error)
    }
}

impl From<ShipError> for EngineError {
    fn from(error: ShipError) -> Self {
        match error {
            ShipError::Engine(error) => error,
            ShipError::Fenced(_) => EngineError::new(ErrorKind::Fenced, error.to_string()),
        }
    }
}

/// A segment that was built and hasn't verifiably landed.
#[derive(Clone, Debug)]
struct Pending {
    id: SegmentId,
    bytes: Bytes,
    nonce: [u8; 16],
    hash: SegmentHash,
    last_lsn: Lsn,
    raw_bytes: u64,
    carried_bytes: u64,
    /// The put is known to have landed: only the look for a newer epoch is missing.
    landed: bool,
    /// The working trees once it counts.
    trees: BTreeMap<VolumeId, Tree>,
    point: Option<PointInfo>,
    /// What it writes of each volume.
    measures: Vec<(VolumeId, Measure)>,
}

/// The working trees: lazily, because opening a branch must not wait for them.
#[derive(Debug)]
enum Working {
    /// As read from the vault.
    Loaded(BTreeMap<VolumeId, VolumeState>),
    /// Ready to be changed.
    Ready(BTreeMap<VolumeId, Tree>),
}

/// One writer's tenure on a branch. Owned by one task.
#[derive(Debug)]
pub struct BranchWriter {
    reader: Arc<Reader>,
    settings: ShipSettings,
    gateway: GatewayId,
    shipped: Position,
    hash: SegmentHash,
    working: Working,
    pending: Option<Pending>,
    points: Vec<PointInfo>,
    maps: Maps,
    fenced: Option<Fenced>,
    /// Blocks to be written again, see `ship/carry.rs`.
    to_carry: VecDeque<CarriedBlock>,
    /// What was written since the newest point.
    measures: BTreeMap<VolumeId, Measure>,
    checks: sample::Checks,
    totals: Totals,
}

impl BranchWriter {
    /// The group.
    #[must_use]
    pub fn group(&self) -> GroupId {
        self.reader.group()
    }

    /// The branch.
    #[must_use]
    pub const fn branch(&self) -> BranchId {
        self.shipped.branch
    }

    /// The tenure.
    #[must_use]
    pub const fn epoch(&self) -> Epoch {
        self.shipped.epoch
    }

    /// The gateway whose tenure it is.
    #[must_use]
    pub const fn gateway(&self) -> GatewayId {
        self.gateway
    }

    /// How far the log goes. May advance inside a call that fails: an interval can be several segments.
    #[must_use]
    pub const fn shipped(&self) -> Position {
        self.shipped
    }

    /// How far the segment goes that was built and hasn't verifiably landed, if there is one.
    #[must_use]
    pub fn pending(&self) -> Option<Lsn> {
        self.pending.as_ref().map(|pending| pending.last_lsn)
    }

    /// The newest recovery point of the branch.
    #[must_use]
    pub fn last_point(&self) -> Option<&PointInfo> {
        self.points.last()
    }

    /// The points of the branch after a record, the oldest first, as far as they are on its list.
    pub(crate) fn points_after(&self, lsn: Lsn) -> &[PointInfo] {
        let from = self.points.partition_point(|point| point.lsn <= lsn);
        self.points.get(from..).unwrap_or_default()
    }

    /// What reads this group's objects; shared with views so that its caches are.
    #[must_use]
    pub const fn reader(&self) -> &Arc<Reader> {
        &self.reader
    }

    /// Compresses differently from now on.
    pub fn set_compression(&mut self, compression: Compression) {
        self.settings.compression = compression;
    }

    /// What was put since the last call, also within calls that failed.
    pub fn take_totals(&mut self) -> Totals {
        std::mem::take(&mut self.totals)
    }

    /// Puts points on the list as if they had been shipped.
    #[cfg(test)]
    pub(crate) fn list_points_for_tests(&mut self, mut points: Vec<PointInfo>) {
        self.points.append(&mut points);
    }

    /// Sends at another pace from the next object on.
    pub fn set_pace(&mut self, pace: Arc<Pace>) {
        self.settings.pace = pace;
    }

    /// Keeps other points on the list from the next map on.
    pub fn set_retention(&mut self, retention: PointRetention) {
        self.settings.retention = retention;
    }

    /// Ships durable records: everything of `interval` after [`Self::shipped`]. When it returns, all of it is in the
    /// branch's history for good.
    ///
    /// # Errors
    /// `Fenced` ends the tenure. `Retry`: call again with the same interval, or with a longer one that begins with it.
    pub async fn append(&mut self, interval: &Interval) -> Result<Appended, ShipError> {
        self.refuse_fenced()?;
        let mut done = Appended {
            shipped: self.shipped,
            segments: 0,
            payload_bytes: 0,
            raw_bytes: 0,
            carried_bytes: 0,
            point: None,
            points: Vec::new(),
            insights: Vec::new(),
        };
        loop {
            if self.pending.is_none() {
                if self.shipped.lsn >= interval.last_lsn {
                    done.shipped = self.shipped;
                    return Ok(done);
                }
                self.make_ready().await?;
                self.bound_memory().await?;
                let load = self.next_load().await;
                self.pending = Some(self.build(interval, load).await?);
            }
            let landed = self.settle().await?;
            done.segments = done.segments.saturating_add(1);
            done.payload_bytes = done.payload_bytes.saturating_add(length(&landed.bytes));
            done.raw_bytes = done.raw_bytes.saturating_add(landed.raw_bytes);
            done.carried_bytes = done.carried_bytes.saturating_add(landed.carried_bytes);
            done.insights.extend(self.measured(&landed));
            done.points.extend(landed.point.clone());
            done.point = landed.point.or(done.point);
        }
    }

    /// Looks for a newer epoch: one small request. For an idle writer, and before journal space is given back.
    ///
    /// # Errors
    /// `Fenced` ends the tenure; `Retry` when the vault can't be reached.
    pub async fn check_fence(&mut self) -> Result<(), ShipError> {
        self.refuse_fenced()?;
        self.fenced = newer_epoch(&self.reader, self.branch(), self.epoch()).await?;
        self.refuse_fenced()
    }

    fn refuse_fenced(&self) -> Result<(), ShipError> {
        self.fenced.map_or(Ok(()), |fenced| Err(ShipError::Fenced(fenced)))
    }

    /// Makes the working trees. Needs the vault once, after opening.
    async fn make_ready(&mut self) -> Result<()> {
        let Working::Loaded(volumes) = &self.working else { return Ok(()) };
        let mut trees = BTreeMap::new();
        for (volume, state) in volumes {
            trees.insert(*volume, state.tree(&self.reader).await?);
        }
        self.working = Working::Ready(trees);
        Ok(())
    }

    /// Puts the pending segment until it is known to count.
    async fn settle(&mut self) -> Result<Pending, ShipError> {
        let Some(pending) = &mut self.pending else { return Err(not_ready().into()) };
        if !pending.landed {
            let key = names::segment(self.reader.group(), pending.id);
            let nonce = pending.nonce;
            let ours = move |found: &[u8]| nonce_of(found) == Some(nonce);
            self.settings.pace.take(length(&pending.bytes), || self.reader.vault().now()).await;
            let store = self.reader.vault().store();
            let put = create_once(&**store, &key, pending.bytes.clone(), &ours).await;
            pending.landed = planted::is(Bug::CountsBeforeLanding) || settled(put, &key)?;
        }
        if !planted::is(Bug::SkipsFenceLook) {
            self.check_fence().await?;
        }
        let Some(landed) = self.pending.take() else { return Err(not_ready().into()) };
        self.totals.add(Totals { payload_bytes: length(&landed.bytes), raw_bytes: landed.raw_bytes });
        self.shipped =
            Position { branch: landed.id.branch, epoch: landed.id.epoch, seq: landed.id.seq, lsn: landed.last_lsn };
        self.hash = landed.hash;
        self.points.extend(landed.point.clone().filter(|point| point.consistent));
        // Maps carry the list, but a vault that takes no maps must not make it grow for ever.
        if self.points.len() > self.settings.retention.max.saturating_mul(2) {
            self.settings.retention.thin(&mut self.points);
        }
        self.maps.segment_landed(length(&landed.bytes), &landed.trees);
        self.working = Working::Ready(landed.trees.clone());
        Ok(landed)
    }

    /// Adds up what segments write; gives the sum when a point ends it.
    fn measured(&mut self, landed: &Pending) -> Option<PointInsight> {
        for (volume, measure) in &landed.measures {
            self.measures.entry(*volume).or_default().add(measure);
        }
        let point = landed.point.as_ref()?;
        let volumes = std::mem::take(&mut self.measures).into_iter().collect();
        Some(PointInsight { point: point.id, lsn: point.lsn, time: point.time, volumes })
    }

    /// The segment after the last one.
    fn next_id(&self) -> SegmentId {
        let Position { branch, epoch, seq, .. } = self.shipped;
        SegmentId { branch, epoch, seq: SegmentSeq(seq.0.saturating_add(1)) }
    }
}

fn settled(put: Result<Landed, StoreError>, key: &str) -> Result<bool> {
    match put {
        Ok(Landed::Now | Landed::Before) => Ok(true),
        Err(error) if error.is_already_exists() => Err(EngineError::new(
            ErrorKind::Fenced,
            format!(
                "{key} was written by somebody else under this gateway's own epoch: a copy of this gateway is running; \
                 stop one of them and restart the other"
            ),
        )
        .with_source(error)),
        Err(error) => Err(cause::store(error)),
    }
}

fn nonce_of(object: &[u8]) -> Option<[u8; 16]> {
    SegmentHeader::decode_any(object.get(..SEGMENT_HEADER_LEN)?).ok().map(|header| header.writer_nonce)
}

/// Who has claimed the epoch after this one, if anybody has: one small request.
pub(crate) async fn newer_epoch(reader: &Reader, branch: BranchId, epoch: Epoch) -> Result<Option<Fenced>> {
    let next = epoch.next();
    match reader.vault().store().head(&names::intent(reader.group(), branch, next)).await {
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(cause::store(error)),
        Ok(_) => fenced_by(reader, branch, next).await.map(Some),
    }
}

/// Who has an epoch.
pub(crate) async fn fenced_by(reader: &Reader, branch: BranchId, epoch: Epoch) -> Result<Fenced> {
    let intent = branch::read_intent(reader, branch, epoch).await?;
    Ok(Fenced { by_epoch: epoch, gateway: intent.writer, promoted_to: intent.promoted_to })
}

fn not_ready() -> EngineError {
    EngineError::new(
        ErrorKind::Closed,
        "the writer is in the middle of another call: this is a defect of lifeboat, report it",
    )
}

fn length(bytes: &Bytes) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}
