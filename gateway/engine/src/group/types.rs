//! What callers give a group and what they see of it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use lifeboat_model::state::{GroupState, Health};
use lifeboat_model::{BranchId, Epoch, GatewayId, GroupId, Hours, Lsn, PointId, VolumeId};

use super::resync::ResyncStatus;
use crate::machine::Machine;
use crate::pace::Pace;
use crate::points::{PointInfo, PointRetention};
use crate::quiesce::AppPoints;
use crate::reach::Reach;
use crate::ship::Compression;

/// A volume of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeSpec {
    /// Its identifier.
    pub id: VolumeId,
    /// Its name, unique in the vault.
    pub name: String,
    /// Its size, bytes; a multiple of the block size. 0 with a source: as long as that is.
    pub size_bytes: u64,
    /// A file or block device that is the volume from now on, with its content and in its place; an empty volume without.
    pub source: Option<PathBuf>,
}

/// How a group is run; may change at any time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupSettings {
    /// Time between recovery points while there are writes.
    pub point_interval: Duration,
    /// How frames are compressed.
    pub compression: Compression,
    /// Which recovery points stay on the list.
    pub retention: PointRetention,
    /// Bytes of the journal on disk, at most.
    pub journal_bytes: u64,
    /// Bytes of data in memory that wait for the images, at most.
    pub cache_bytes: u64,
    /// How applications are quieted for application-consistent points; none are taken without.
    pub app_points: Option<AppPoints>,
    /// How fast data may be sent to the vault; groups that share it share the limit.
    pub pace: Arc<Pace>,
    /// When and how what the vault lacks is copied.
    pub resync: ResyncSettings,
    /// Pauses between tries to ship.
    pub retry: RetrySettings,
}

/// When and how what the vault lacks is copied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResyncSettings {
    /// When it may run by itself; none: at once.
    pub hours: Option<Hours>,
    /// How fast it reads the local volumes; what it sends counts towards [`GroupSettings::pace`] too.
    pub pace: Arc<Pace>,
    /// How long a full journal waits for a vault that takes nothing, but does not fail either, before its unshipped part
    /// is given up as a log.
    pub collapse_after: Duration,
}

impl Default for ResyncSettings {
    fn default() -> Self {
        Self { hours: None, pace: Arc::default(), collapse_after: Duration::from_secs(30) }
    }
}

/// Pauses between tries to ship.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetrySettings {
    /// After failures that may pass, one after the other; the last one counts from there on.
    pub pauses: Vec<Duration>,
    /// After a failure that needs a person (a wrong key, data that fails its checks): only to see whether somebody came.
    pub probe: Duration,
}

impl Default for RetrySettings {
    fn default() -> Self {
        let pauses = [500, 1000, 2000, 5000, 15_000, 60_000].map(Duration::from_millis);
        Self { pauses: pauses.to_vec(), probe: Duration::from_secs(300) }
    }
}

impl Default for GroupSettings {
    fn default() -> Self {
        Self {
            point_interval: Duration::from_secs(5),
            compression: Compression::Auto,
            retention: PointRetention::default(),
            journal_bytes: 1 << 30,
            cache_bytes: 64 << 20,
            app_points: None,
            pace: Arc::default(),
            resync: ResyncSettings::default(),
            retry: RetrySettings::default(),
        }
    }
}

/// Where a group lives.
#[derive(Clone, Debug)]
pub struct GroupConfig {
    /// How its history is reached.
    pub reach: Reach,
    /// The group.
    pub group: GroupId,
    /// This gateway.
    pub gateway: GatewayId,
    /// The machine that this gateway runs on.
    pub machine: Arc<dyn Machine>,
    /// Local state of this group at this gateway; its parent exists.
    pub dir: PathBuf,
    /// How it is run.
    pub settings: GroupSettings,
}

/// What [`Group::fail_over`] is to do.
#[derive(Clone, Copy, Debug)]
pub struct FailOver {
    /// The branch whose history is recovered.
    pub from_branch: BranchId,
    /// The point; `None` is the newest one that is in the history once the old writer is fenced.
    pub point: Option<PointId>,
    /// Leaves the old writer alone: a test failover.
    pub test: bool,
    /// Identifier of the branch to be made: the same at every attempt.
    pub branch: BranchId,
}

/// How far some long work is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Bytes done.
    pub done_bytes: u64,
    /// Bytes in all, as far as known.
    pub total_bytes: u64,
}

/// What can be seen of a group.
#[derive(Clone, Debug)]
pub struct GroupStatus {
    /// Its state at this gateway.
    pub state: GroupState,
    /// The branch that it is on.
    pub branch: BranchId,
    /// The tenure that this gateway holds, or held last.
    pub epoch: Epoch,
    /// Newest record.
    pub last_lsn: Lsn,
    /// Newest record that survives the loss of power.
    pub durable_lsn: Lsn,
    /// Newest record up to which the images are complete.
    pub image_lsn: Lsn,
    /// Newest record in the vault.
    pub shipped_lsn: Lsn,
    /// Bytes written and not yet in the vault, roughly.
    pub backlog_bytes: u64,
    /// Bytes of the journal's files.
    pub journal_bytes_used: u64,
    /// Newest recovery point in the vault.
    pub last_point: Option<PointInfo>,
    /// Age of the oldest write that no landed point holds, seconds; 0 when there is none. `None` before the first point.
    pub landed_rpo_seconds: Option<f64>,
    /// How well it is.
    pub health: Health,
    /// Why it isn't better.
    pub reasons: Vec<String>,
    /// Long work under way.
    pub progress: Option<Progress>,
    /// What the vault lacks although the log does not bring it.
    pub resync: Option<ResyncStatus>,
    /// Bytes written a second, over the last intervals.
    pub churn_bytes_per_second: f64,
    /// How data flows through it.
    pub flow: super::FlowStatus,
    /// For a branch at a recovery site: bytes that are here already, and still are after a crash.
    pub hydrated_bytes: Option<u64>,
    /// Sum of the volumes' sizes, bytes.
    pub size_bytes: u64,
    /// What looks as if it was being encrypted, in order of its beginning: advice, and no reason to be less than healthy.
    pub suspicions: Vec<crate::insight::Suspicion>,
}
