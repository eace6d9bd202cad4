//! Consistency groups, their recovery points and how well they are protected.

use lifeboat_model::{
    BranchId, GatewayId, GroupId, JobId, PointId, PointKind, PolicyId, SiteId, Timestamp, VaultId, VolumeId,
    state::Health,
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::resource;

/// A consistency group as declared.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct GroupSpec {
    /// The vault it is shipped to. Cannot be changed.
    #[schema(value_type = String)]
    pub vault_id: VaultId,
    /// The site where it is at home. Cannot be changed.
    #[schema(value_type = String)]
    pub site_id: SiteId,
    /// Letters, digits, `.`, `_`, `-`, at most 63 characters; unique in the vault.
    pub name: String,
    /// The policy that governs it.
    #[schema(value_type = String)]
    pub policy_id: PolicyId,
    /// How applications are quieted for application-consistent points; none are taken when absent.
    #[serde(default)]
    pub app_consistency: Option<AppConsistency>,
    /// The points that it takes together with groups of other gateways and agents; none when absent.
    #[serde(default)]
    pub shared_points: Option<SharedPoints>,
}

/// Points that several groups take at one moment, with the same id in each.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SharedPoints {
    /// Name of the replication group: all groups of the same vault and site that name it take these points together. Letters,
    /// digits, `.`, `_`, `-`, at most 63 characters.
    pub replication_group: String,
    /// Time between two: 5s to 24h. The shortest that a member says counts.
    #[serde(default = "default_shared_every")]
    pub every: String,
}

/// Default of `shared_points.every`.
#[must_use]
pub fn default_shared_every() -> String {
    "1m".to_owned()
}

/// What runs around an application-consistent point, at the gateway that serves the group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AppConsistency {
    /// File name of a program in the gateway's directory of hooks that makes the applications hold still, such as one that
    /// freezes a file system; an exit code but 0 means that there is no point.
    #[serde(default)]
    pub pre_script: Option<String>,
    /// File name of the program that lets them go on; runs after every attempt.
    #[serde(default)]
    pub post_script: Option<String>,
    /// How long each may take: 1s to 10m.
    #[serde(default = "default_hook_timeout")]
    pub timeout: String,
}

/// Default of `app_consistency.timeout`.
#[must_use]
pub fn default_hook_timeout() -> String {
    "30s".to_owned()
}

/// Where a group stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ProtectionState {
    /// Declared; its gateway hasn't begun.
    #[default]
    Pending,
    /// Being set up.
    Creating,
    /// Active at home, shipped to the vault.
    Protected,
    /// Moving to another site.
    FailingOver,
    /// Active at another site, shipped to the vault from there.
    FailedOver,
    /// Moving back home.
    FailingBack,
    /// Being removed.
    Deleting,
    /// Setting it up failed; see the job.
    Failed,
}

impl ProtectionState {
    /// The word on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Creating => "creating",
            Self::Protected => "protected",
            Self::FailingOver => "failing-over",
            Self::FailedOver => "failed-over",
            Self::FailingBack => "failing-back",
            Self::Deleting => "deleting",
            Self::Failed => "failed",
        }
    }
}

impl std::fmt::Display for ProtectionState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A group as observed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct GroupStatus {
    /// Where it stands.
    pub state: ProtectionState,
    /// Made for a single volume that has a policy and no group; not to be changed by itself.
    pub implicit: bool,
    /// Its volumes.
    #[schema(value_type = Vec<String>)]
    pub volume_ids: Vec<VolumeId>,
    /// The gateway where it is at home: that of its volumes.
    #[schema(value_type = Option<String>)]
    pub home_gateway_id: Option<GatewayId>,
    /// The gateway that serves it now.
    #[schema(value_type = Option<String>)]
    pub active_gateway_id: Option<GatewayId>,
    /// That gateway's site.
    #[schema(value_type = Option<String>)]
    pub active_site_id: Option<SiteId>,
    /// That site's name.
    pub active_site: Option<String>,
    /// The branch that is written now.
    #[schema(value_type = Option<String>)]
    pub active_branch_id: Option<BranchId>,
    /// Whether the last failover was committed: its point can no longer be changed.
    pub committed: bool,
    /// Whether its gateway gave it up in order, by `:release`, and it can't be written until `:resume` or a failover.
    pub released: bool,
    /// The recovery point that the last failover started from.
    pub failover: Option<FailoverView>,
    /// Test failovers that are up.
    pub tests: Vec<TestView>,
    /// Its health.
    #[schema(value_type = String)]
    pub health: Health,
    /// Why it isn't healthy, and anything else worth knowing.
    pub reasons: Vec<String>,
    /// The job that works on it now, or that failed last.
    #[schema(value_type = Option<String>)]
    pub job_id: Option<JobId>,
}

/// A failover that is in force.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct FailoverView {
    /// `planned` or `unplanned`.
    pub kind: String,
    /// The job that did it.
    #[schema(value_type = String)]
    pub job_id: JobId,
    /// The recovery point it started from.
    #[schema(value_type = String)]
    pub point_id: PointId,
    /// That point's time.
    #[schema(value_type = String, format = DateTime)]
    pub point_time: Timestamp,
}

/// A test failover that is up.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct TestView {
    /// The job that made it.
    #[schema(value_type = String)]
    pub job_id: JobId,
    /// Its branch.
    #[schema(value_type = String)]
    pub branch_id: BranchId,
    /// The gateway where it runs.
    #[schema(value_type = String)]
    pub gateway_id: GatewayId,
    /// The recovery point it started from.
    #[schema(value_type = String)]
    pub point_id: PointId,
    /// That point's time.
    #[schema(value_type = String, format = DateTime)]
    pub point_time: Timestamp,
    /// The directory of its volumes in the mount; absent at other gateways.
    pub path: Option<String>,
}

resource! {
    /// A consistency group: volumes that share one write order.
    Group, GroupId, GroupSpec, GroupStatus
}

/// A recovery point.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Point {
    /// Opaque, unique.
    #[schema(value_type = String)]
    pub id: PointId,
    /// Its group.
    #[schema(value_type = String)]
    pub group_id: GroupId,
    /// The branch it lies on.
    #[schema(value_type = String)]
    pub branch_id: BranchId,
    /// When it was taken.
    #[schema(value_type = String, format = DateTime)]
    pub time: Timestamp,
    /// `crash-consistent`, `app-consistent`, `manual` or `final`.
    #[schema(value_type = String)]
    pub kind: PointKind,
    /// A label; empty for none.
    pub label: String,
    /// Whether it is pinned: no retention schedule drops it.
    #[serde(default)]
    pub pinned: bool,
    /// Whether groups of several machines took it together: its id is the same in each of them.
    #[serde(default)]
    pub shared: bool,
    /// Its position in the group's write order.
    pub lsn: u64,
    /// The tenure in which it was taken.
    pub epoch: u64,
    /// The directory in the answering gateway's mount where its volumes can be read; absent without a mount.
    pub path: Option<String>,
    /// Its volumes; only when the point is read by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volumes: Option<Vec<PointVolume>>,
}

/// A volume as a recovery point holds it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PointVolume {
    /// The volume.
    #[schema(value_type = String)]
    pub id: VolumeId,
    /// Its name, when the volume still exists.
    pub name: Option<String>,
    /// Its size, bytes; 0 for one that was erased.
    pub size_bytes: u64,
    /// Whether its keys were destroyed since: nobody can read what it held.
    #[serde(default)]
    pub erased: bool,
    /// The root hash of its content, 64 hexadecimal digits: the same for the same content, wherever it is computed.
    pub root: Option<String>,
    /// What was written of it before the point; absent where it wasn't measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub written: Option<WrittenBefore>,
}

/// What was written of a volume in an interval that ends with a recovery point, by a sample.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct WrittenBefore {
    /// The point before; figures of points long ago are kept together.
    #[schema(value_type = String, format = DateTime)]
    pub since: Timestamp,
    /// The last point that they are about.
    #[schema(value_type = String, format = DateTime)]
    pub until: Timestamp,
    /// Bytes that were written, with content.
    pub bytes: u64,
    /// Share of the sample that looks random, as what is encrypted does: 0 to 1.
    pub random: f64,
    /// Share of the sample that is compressed or random: 0 to 1.
    pub dense: f64,
    /// Share of the sample that had other content before: 0 to 1.
    pub rewritten: f64,
}

/// Why a vault lacks blocks that the log does not bring.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ResyncCause {
    /// The journal was full while the vault took nothing.
    JournalFull,
    /// A volume was adopted with its content.
    Initial,
    /// A comparison found them to differ.
    Compared,
    /// The list of blocks to copy was lost: every block counts.
    ListLost,
}

impl ResyncCause {
    /// The word on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::JournalFull => "journal-full",
            Self::Initial => "initial",
            Self::Compared => "compared",
            Self::ListLost => "list-lost",
        }
    }
}

/// Whether a resync goes on just now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ResyncState {
    /// For its window or the vault; see `waits_for`.
    Waiting,
    /// It copies, or ships what it has copied.
    Copying,
}

impl ResyncState {
    /// The word on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Copying => "copying",
        }
    }
}

/// A resync that is needed or under way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ResyncStatus {
    /// Why.
    pub cause: ResyncCause,
    /// Whether it goes on.
    pub state: ResyncState,
    /// Since when the vault lacks blocks.
    #[schema(value_type = String, format = DateTime)]
    pub since: Timestamp,
    /// Bytes still to copy, as a restart would find them: it never rises but for more that the vault lacks.
    pub bytes_left: u64,
    /// Bytes to copy in all.
    pub bytes_total: u64,
    /// What it waits for.
    pub waits_for: Option<String>,
}

/// How well a group is protected, as the gateway that answers knows it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ProtectionStatus {
    /// The group.
    #[schema(value_type = String)]
    pub group_id: GroupId,
    /// Its name.
    pub group: String,
    /// Where it stands.
    pub state: ProtectionState,
    /// The gateway that serves it.
    #[schema(value_type = Option<String>)]
    pub active_gateway_id: Option<GatewayId>,
    /// The name of its site.
    pub active_site: Option<String>,
    /// Its health.
    #[schema(value_type = String)]
    pub health: Health,
    /// Why it isn't healthy, and anything else worth knowing.
    pub reasons: Vec<String>,
    /// Seconds of acknowledged writes that a disaster now would lose.
    pub landed_rpo_seconds: Option<f64>,
    /// Seconds of acknowledged writes that a failover to the newest recovery point would lose at most, by what the gateway that
    /// answers knows: at the gateway that serves the group the landed RPO; at others that and the time since it was told,
    /// and never more than the point's age. Null while no point is known.
    #[serde(default)]
    pub applied_rpo_seconds: Option<f64>,
    /// Age of the oldest acknowledged write that is not in the vault, seconds, at most; 0 while there is none. Null when it isn't
    /// known, as for the disks of an agent.
    #[serde(default)]
    pub oldest_unshipped_seconds: Option<f64>,
    /// The policy's limit for the landed RPO, seconds.
    pub rpo_threshold_seconds: f64,
    /// The newest recovery point in the vault.
    pub latest_recovery_point: Option<Point>,
    /// Bytes acknowledged and not yet in the vault.
    pub backlog_bytes: u64,
    /// Bytes of the journal in use.
    pub journal_bytes_used: u64,
    /// Bytes that the journal may take. Null when it isn't known, as for an agent's.
    #[serde(default)]
    pub journal_bytes_limit: Option<u64>,
    /// Seconds until the journal is full if writing and shipping go on as in the last minute; 0 when it is full. Null while it does
    /// not fill, or when it isn't known.
    #[serde(default)]
    pub journal_full_in_seconds: Option<f64>,
    /// Bytes written per second, averaged over about a minute.
    pub churn_bytes_per_second: f64,
    /// Bytes put into the vault per second, over the last minute; for the disks of an agent by its process server. Null when it isn't known.
    #[serde(default)]
    pub shipped_bytes_per_second: Option<f64>,
    /// Bytes of blocks for each byte put into the vault, since the gateway (an agent's process server) opened the group. Null before anything was shipped.
    #[serde(default)]
    pub compression_ratio: Option<f64>,
    /// On a recovery gateway: bytes already fetched from the vault.
    pub hydrated_bytes: Option<u64>,
    /// What the vault lacks although the log does not bring it; until it is copied, no new recovery point is offered.
    #[serde(default)]
    pub resync: Option<ResyncStatus>,
    /// When this was observed; the present unless another gateway serves the group.
    #[schema(value_type = String, format = DateTime)]
    pub observed: Timestamp,
}

/// How well a group was protected lately, as the answering gateway saw it: kept in memory, and lost when it restarts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ProtectionHistory {
    /// The group.
    #[schema(value_type = String)]
    pub group_id: GroupId,
    /// Seconds between two samples; the first ones after a start follow sooner.
    pub interval_seconds: u64,
    /// The last hour, oldest first.
    pub samples: Vec<ProtectionSample>,
}

/// How well a group was protected at one moment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ProtectionSample {
    /// When.
    #[schema(value_type = String, format = DateTime)]
    pub time: Timestamp,
    /// Seconds of acknowledged writes that a disaster would have lost.
    pub landed_rpo_seconds: Option<f64>,
    /// Seconds of acknowledged writes that a failover to the newest recovery point would have lost at most, by what the gateway knew.
    pub applied_rpo_seconds: Option<f64>,
    /// Bytes acknowledged and not in the vault.
    pub backlog_bytes: u64,
    /// Bytes of the journal in use.
    pub journal_bytes_used: u64,
}
