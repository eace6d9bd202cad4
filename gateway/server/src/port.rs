//! What the control plane asks of the data path: the boundary behind which the engine stands.
//!
//! Jobs and reconciliation know these traits only. The real implementation passes calls through to the engine; the tests
//! of the job state machines bring one that is a few maps in memory, so that every crash point can be tried.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use lifeboat_engine::gc::GcReport;
use lifeboat_engine::insight::{Ledger, Suspicion};
use lifeboat_engine::machine::Machine;
use lifeboat_engine::pace::Pace;
use lifeboat_engine::quiesce::AppPoints;
use lifeboat_engine::relay::Coordinators;
use lifeboat_engine::{BlockVolume, EngineError, FlowStatus, ResyncStatus};
use lifeboat_model::state::{GroupState, Health};
use lifeboat_model::{
    BranchId, Epoch, GatewayId, GroupId, Hours, Lsn, PointId, PointKind, RootHash, SegmentSeq, Timestamp, VolumeId,
};
use lifeboat_vault::Vault;
use serde::{Deserialize, Serialize};

/// The engine's results.
pub type EngineResult<T> = Result<T, EngineError>;

/// A volume as a group holds it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldVolume {
    /// Its id.
    pub id: VolumeId,
    /// Its name, for messages.
    pub name: String,
    /// Its size, a multiple of the block size; 0 for one that is to be as long as its source.
    pub size_bytes: u64,
    /// The file or block device that it is made of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<PathBuf>,
}

/// How a group's data is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CompressionChoice {
    /// By content and backlog.
    Auto,
    /// Not at all.
    Off,
    /// zstd at this level.
    Level(i32),
}

/// What a policy and a gateway say about a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Time between recovery points.
    pub point_interval: Duration,
    /// Compression.
    pub compression: CompressionChoice,
    /// Which recovery points stay on the list: (age up to which it holds, one a so long; zero for all).
    pub retention: Vec<(Duration, Duration)>,
    /// Limit of the journal, bytes.
    pub journal_bytes: u64,
    /// How applications are quieted.
    pub app_points: Option<AppPoints>,
    /// How fast data may be sent; groups of one policy share it.
    pub pace: Arc<Pace>,
    /// When a resync may run by itself; at once without.
    pub resync_hours: Option<Hours>,
    /// How fast a resync may read volumes; groups of one policy share it.
    pub resync_pace: Arc<Pace>,
}

/// Where an instance of a group lives: its vault, who runs it, its local directory.
#[derive(Clone, Debug)]
pub struct Place {
    /// The vault it ships to.
    pub vault: Vault,
    /// The group.
    pub group: GroupId,
    /// The gateway that runs it.
    pub gateway: GatewayId,
    /// The machine that its local state is on.
    pub machine: Arc<dyn Machine>,
    /// Its local state.
    pub dir: PathBuf,
    /// How it runs.
    pub settings: Settings,
}

/// A recovery point.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PointFact {
    /// Its id.
    pub id: PointId,
    /// The branch it lies on.
    pub branch: BranchId,
    /// The tenure in which it was taken.
    pub epoch: Epoch,
    /// The segment that holds it.
    pub seq: SegmentSeq,
    /// Its position.
    pub lsn: Lsn,
    /// When it was taken.
    pub time: Timestamp,
    /// How it came to be.
    pub kind: PointKind,
    /// A label; empty for none.
    pub label: String,
    /// Whether it is pinned.
    pub pinned: bool,
}

/// What a person says of a point.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MarkPoint {
    /// No retention schedule drops it before that time, if there is one.
    Pin {
        /// Until when.
        until: Option<Timestamp>,
        /// Why.
        reason: String,
    },
    /// The retention schedule decides again.
    Unpin,
    /// It is called that from now on.
    Label(String),
}

/// What an instance says about itself.
#[derive(Clone, Debug)]
pub struct InstanceStatus {
    /// Its state.
    pub state: GroupState,
    /// The branch it is on.
    pub branch: BranchId,
    /// Its tenure.
    pub epoch: Epoch,
    /// Bytes acknowledged and not in the vault yet.
    pub backlog_bytes: u64,
    /// Bytes of the journal in use.
    pub journal_bytes_used: u64,
    /// The newest point that has landed.
    pub last_point: Option<PointFact>,
    /// Seconds of acknowledged writes that a disaster now would lose.
    pub landed_rpo_seconds: Option<f64>,
    /// Its health.
    pub health: Health,
    /// Why it isn't healthy.
    pub reasons: Vec<String>,
    /// How far the operation under way is: bytes done, bytes in all.
    pub progress: Option<(u64, u64)>,
    /// Bytes written per second.
    pub churn_bytes_per_second: f64,
    /// How data flows through it.
    pub flow: FlowStatus,
    /// Bytes already fetched from the vault.
    pub hydrated_bytes: Option<u64>,
    /// What the vault lacks although the log does not bring it.
    pub resync: Option<ResyncStatus>,
    /// What looks as if it was being encrypted.
    pub suspicions: Vec<Suspicion>,
}

/// What a pass of a rehydration did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pass {
    /// The point that the image now equals.
    pub point: PointFact,
    /// Blocks compared.
    pub blocks_compared: u64,
    /// Blocks that differed and were replaced.
    pub blocks_moved: u64,
    /// Bytes fetched from the vault.
    pub bytes_fetched: u64,
    /// The branch that keeps the primary's unshipped tail.
    pub orphan: Option<BranchId>,
}

/// What to fail over to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailOverTo {
    /// The branch that is left.
    pub from: BranchId,
    /// The point to start from; `None` is the newest one in the history once its writer is fenced.
    pub point: Option<PointId>,
    /// The new branch's id; the same on every try.
    pub branch: BranchId,
    /// Without fencing the branch that is left.
    pub test: bool,
    /// Disks that the gateway which is left had adopted, and that may be here: each is taken if it holds its volume.
    pub disks: BTreeMap<VolumeId, PathBuf>,
}

/// A recovery point whose volumes can be read.
pub trait PointVolumes: Send + Sync + fmt::Debug {
    /// Its volumes: id, size in bytes, root hash where the point records it.
    fn volumes(&self) -> Vec<(VolumeId, u64, Option<RootHash>)>;
    /// Those that it had and that were erased since: nothing of them can be read.
    fn erased(&self) -> Vec<VolumeId>;
    /// One of them, read-only.
    fn volume(&self, id: VolumeId) -> Option<Arc<dyn BlockVolume>>;
}

/// The data path as a whole.
#[async_trait]
pub trait DataPath: Send + Sync + fmt::Debug + 'static {
    /// Whether a directory holds an instance.
    fn exists(&self, dir: &Path) -> bool;
    /// A brand-new protected group, active at once. Called again after a crash, it comes to the same.
    async fn create(&self, place: Place, volumes: Vec<HeldVolume>) -> EngineResult<Arc<dyn Instance>>;
    /// An instance that is there, after a restart.
    async fn open(&self, place: Place) -> EngineResult<Arc<dyn Instance>>;
    /// An empty instance at a gateway that has lost its state, to be rehydrated to that branch.
    async fn blank(&self, place: Place, branch: BranchId) -> EngineResult<Arc<dyn Instance>>;
    /// A new branch at a point, writable at once. Called again after a crash, it comes to the same.
    async fn fail_over(&self, place: Place, to: FailOverTo) -> EngineResult<Arc<dyn Instance>>;
    /// A branch whose writer was released, taken over on a new disk and writable at once; with it the branch that keeps
    /// what the instance that was there had not shipped. `disks`: what volumes are built on, whatever it holds; the others get
    /// images of the gateway's own. Called again after a crash, it comes to the same.
    async fn take_over_lazily(
        &self,
        place: Place,
        branch: BranchId,
        disks: BTreeMap<VolumeId, PathBuf>,
    ) -> EngineResult<(Arc<dyn Instance>, Option<BranchId>)>;
    /// Gives up an instance that another gateway has taken over for good, and removes its local files; it must be closed. Returns
    /// the branch that keeps what it had not shipped. Called again after a crash, it comes to the same.
    async fn leave(&self, place: Place) -> EngineResult<Option<BranchId>>;
    /// Removes an instance's local files, also what a crash within an earlier call left of them; it must be closed.
    async fn forget(&self, dir: &Path) -> EngineResult<()>;
    /// Gives up a branch that forked from another: its points are offered no more, and its data is deleted in time.
    async fn drop_branch(
        &self,
        vault: &Vault,
        group: GroupId,
        branch: BranchId,
        gateway: GatewayId,
    ) -> EngineResult<()>;
    /// Pins a point, takes a pin back, or calls a point by another name.
    async fn mark_point(
        &self,
        vault: &Vault,
        group: GroupId,
        point: PointId,
        gateway: GatewayId,
        mark: MarkPoint,
    ) -> EngineResult<PointFact>;
    /// The points of a branch, with its ancestors' up to the fork, oldest first.
    async fn points(&self, vault: &Vault, group: GroupId, branch: BranchId) -> EngineResult<Vec<PointFact>>;
    /// The point that a branch started from; `None` for a group's first branch.
    async fn origin(&self, vault: &Vault, group: GroupId, branch: BranchId) -> EngineResult<Option<PointFact>>;
    /// The volumes at a point.
    async fn view(&self, vault: &Vault, group: GroupId, point: &PointFact) -> EngineResult<Arc<dyn PointVolumes>>;
}

/// A group at this gateway: one local state on one branch.
#[async_trait]
pub trait Instance: Send + Sync + fmt::Debug {
    /// What it says about itself; cheap.
    fn status(&self) -> InstanceStatus;
    /// What its writes look like: the branch that it ships to, and what was measured there in this life and before.
    fn insight(&self) -> Option<(BranchId, Ledger)> {
        None
    }
    /// Puts back what was measured on a branch in an earlier life.
    fn restore_insight(&self, _branch: BranchId, _kept: Ledger) {}
    /// Its volumes.
    fn volumes(&self) -> Vec<HeldVolume>;
    /// One of them; `None` while its content is in between two points.
    fn volume(&self, id: VolumeId) -> Option<Arc<dyn BlockVolume>>;
    /// Adds a volume.
    async fn add_volume(&self, volume: HeldVolume) -> EngineResult<()>;
    /// Grows a volume.
    async fn grow_volume(&self, id: VolumeId, size_bytes: u64) -> EngineResult<()>;
    /// Takes a volume out and removes its local files.
    async fn remove_volume(&self, id: VolumeId) -> EngineResult<()>;
    /// Changes how it runs.
    fn set_settings(&self, settings: Settings);
    /// Takes a point; returns once it has landed.
    async fn take_point(&self, kind: PointKind, label: &str) -> EngineResult<PointFact>;
    /// Active → standby, everything shipped.
    async fn release(&self) -> EngineResult<PointFact>;
    /// Looks for another gateway's tenure soon: the catalog says that there is one.
    fn doubt(&self);
    /// Has copied at once what the vault lacks; nothing happens when it lacks nothing.
    fn resync_now(&self);
    /// Takes that back: the policy's window counts again.
    fn resync_in_window(&self);
    /// Compares its volumes with the vault, and has copied what differs; gives the number of blocks that do.
    async fn compare(&self) -> EngineResult<u64>;
    /// Standby → active on the same branch.
    async fn resume(&self) -> EngineResult<()>;
    /// One pass towards a branch's newest point.
    async fn rehydrate(&self, branch: BranchId, full: bool) -> EngineResult<Pass>;
    /// Rehydrating → active.
    async fn take_over(&self) -> EngineResult<()>;
    /// Of a group that was fenced: keeps in the vault what it had acknowledged and not shipped, on the branch that is returned, and goes
    /// on showing its volumes. Called again after a crash, it comes to the same.
    async fn keep_unshipped(&self) -> EngineResult<Option<BranchId>> {
        Err(EngineError::new(
            lifeboat_engine::ErrorKind::Invalid,
            "an agent keeps its own tail when it is brought back",
        ))
    }
    /// Deletes from the vault what no kept point and no branch of the group needs, `grace` after it was found to be so.
    async fn collect_garbage(&self, grace: Duration, dry_run: bool) -> EngineResult<GcReport>;
    /// Takes part in barriers for as long as it is polled, as the machine with this id. One that can't stays away.
    async fn follow(&self, _machine: GatewayId, _coordinators: &dyn Coordinators) {
        std::future::pending().await
    }
    /// Orderly stop, bounded.
    async fn close(&self, deadline: Duration);
}
