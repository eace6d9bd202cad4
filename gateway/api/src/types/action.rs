//! Bodies of the verbs: `POST /v1/groups/{id}:verb`. Each answers 202 and a job.

use lifeboat_model::{GatewayId, GroupId, NetworkId, Timestamp, VaultId, VolumeId};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// How a failover treats the side that is lost or left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum FailoverKind {
    /// A writable copy beside the running one; nothing else changes.
    Test,
    /// The active gateway stops and ships everything first: nothing is lost.
    Planned,
    /// The active gateway is taken to be lost, and fenced.
    Unplanned,
}

impl FailoverKind {
    /// The word on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Test => "test",
            Self::Planned => "planned",
            Self::Unplanned => "unplanned",
        }
    }
}

/// `:failover`. The gateway that gets the request becomes the recovery gateway.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FailoverRequest {
    /// How.
    pub kind: FailoverKind,
    /// `latest`, `latest-processed`, `latest-app-consistent`, `latest-shared`, `latest-shared-app-consistent`, a time (the newest
    /// point not after it) or a point's id.
    /// A planned failover takes none but `latest`.
    #[serde(default = "default_point")]
    pub point: String,
    /// Test: the branch whose point it is, such as that of another test or the one that keeps a primary's tail; the active
    /// one when absent.
    #[serde(default)]
    pub branch_id: Option<String>,
}

/// `:failover` of a plan, or of a machine as if it were a plan of its own. The gateway that gets the request leads: it is of
/// the site where everything is to come up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PlanFailoverRequest {
    /// How.
    pub kind: FailoverKind,
    /// `latest`, `latest-processed`, `latest-app-consistent` or a time: for each group the newest point not after it.
    /// `latest-shared`, `latest-shared-app-consistent` or the id of a shared point: one that all of its groups took together. A
    /// planned failover takes none but `latest`.
    #[serde(default = "default_point")]
    pub point: String,
    /// Test: after how long it is cleaned up by itself, 1m to 30d.
    #[serde(default = "default_test_ttl")]
    pub ttl: String,
    /// Test: the network of the target site that every interface joins, instead of those for tests that the mappings name.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    pub test_network_id: Option<NetworkId>,
}

/// Default of `ttl`.
#[must_use]
pub fn default_test_ttl() -> String {
    "24h".to_owned()
}

/// `:cleanup` of a plan or machine: ends its tests, switches their machines off, drops what was written in them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PlanCleanupRequest {
    /// What is worth remembering of the test; at most 4096 characters.
    #[serde(default)]
    pub notes: Option<String>,
}

/// `:reprotect`: brings the home copy forward while the recovery side runs. Nothing stops.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ReprotectRequest {}

/// `:start` of a machine, where its volumes are active. Any gateway takes the request.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StartRequest {}

/// `:stop` of a machine. Any gateway takes the request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StopRequest {
    /// How long it may take to stop by itself before it is switched off: 1s to 24h.
    #[serde(default = "super::default_shutdown_timeout")]
    pub timeout: String,
}

/// `:retry` of a job that failed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RetryRequest {
    /// Leaves the action out that failed, instead of doing it again. Goes with actions only.
    #[serde(default)]
    pub skip: bool,
}

/// `:continue` of a job that waits for a person.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ContinueRequest {
    /// What was done; kept with the step. At most 4096 characters.
    #[serde(default)]
    pub note: Option<String>,
}

/// `:change-point`: after a failover that isn't committed, goes on from another recovery point. What was written since the
/// failover stays on a branch of its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ChangePointRequest {
    /// `latest`, `latest-app-consistent`, `latest-shared`, a time (the newest point not after it) or a point's id: one of the points that
    /// the failover could have chosen.
    pub point: String,
}

/// Default of `point`.
#[must_use]
pub fn default_point() -> String {
    "latest".to_owned()
}

/// `:commit`: the failover stands; its point can no longer be changed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CommitRequest {}

/// `:cleanup`: ends test failovers and drops what was written in them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CleanupRequest {
    /// The branch of one test; all tests of the group when absent.
    #[serde(default)]
    pub branch_id: Option<String>,
}

/// `:release`: the active gateway stops writing, ships everything and gives its place up in order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ReleaseRequest {}

/// `:resume`: after a release, the same gateway starts again.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ResumeRequest {}

/// How a failback brings the primary's disk forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum FailbackMode {
    /// Moves only the blocks that differ, while the recovery side runs; then a short stop.
    MinimizeDowntime,
    /// Fetches everything.
    FullDownload,
    /// Begins on a new disk, writable at once after a short stop; blocks are fetched as they are read, and in the background.
    Create,
}

impl FailbackMode {
    /// The word on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::MinimizeDowntime => "minimize-downtime",
            Self::FullDownload => "full-download",
            Self::Create => "create",
        }
    }
}

/// `:failback`: the group goes back to its home gateway, or to another one that becomes its home. Any gateway takes the request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FailbackRequest {
    /// How.
    #[serde(default = "default_failback_mode")]
    pub mode: FailbackMode,
    /// The gateway that it goes to, of the same site as its home; its home when absent. It is at home there from then on, and
    /// everything is fetched unless that gateway has held the group before.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    pub gateway_id: Option<GatewayId>,
    /// Of a plan or a machine: several master targets of the home site, each of which receives some of the groups at the same time. A
    /// group that none of them names goes to that which has the least to receive, or stays where it is at home when all name groups.
    #[serde(default)]
    pub targets: Vec<FailbackTarget>,
    /// Disks of the gateway that receives them, on which volumes are built, whatever those hold; the others get images in its state
    /// directory. With the mode `create`.
    #[serde(default)]
    pub disks: Vec<FailbackDisk>,
}

impl FailbackRequest {
    /// To the home gateway.
    #[must_use]
    pub const fn new(mode: FailbackMode) -> Self {
        Self { mode, gateway_id: None, targets: Vec::new(), disks: Vec::new() }
    }

    /// To another gateway of its site.
    #[must_use]
    pub const fn to(mode: FailbackMode, gateway: GatewayId) -> Self {
        Self { mode, gateway_id: Some(gateway), targets: Vec::new(), disks: Vec::new() }
    }
}

/// A master target of a failback.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FailbackTarget {
    /// The gateway.
    #[schema(value_type = String)]
    pub gateway_id: GatewayId,
    /// The groups that go there; its share of those that no target names, by their size, when empty.
    #[serde(default)]
    #[schema(value_type = Vec<String>)]
    pub group_ids: Vec<GroupId>,
}

/// A disk on which a failback builds a volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FailbackDisk {
    /// The volume.
    #[schema(value_type = String)]
    pub volume_id: VolumeId,
    /// The file or block device at the gateway that receives it: an absolute path.
    pub path: String,
}

/// `:move`: the group has its home at another gateway of its site from then on. In order: everything is shipped first, nothing is lost.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MoveGroupRequest {
    /// The gateway that it goes to.
    #[schema(value_type = String)]
    pub gateway_id: GatewayId,
    /// Fetch everything from the vault, also what stands on adopted disks that the other gateway sees.
    #[serde(default)]
    pub leave_disks: bool,
}

/// Default of `mode`.
#[must_use]
pub const fn default_failback_mode() -> FailbackMode {
    FailbackMode::MinimizeDowntime
}

/// `:resync`: what the vault lacks of a group is copied at once, whatever the policy's window says. Any gateway takes the
/// request.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ResyncRequest {
    /// Finds out first what the vault lacks: every volume is read and compared with it by hashes. For doubts: changes to an
    /// adopted disk behind the gateway's back, a restored vault.
    #[serde(default)]
    pub compare: bool,
}

/// `:point`: takes a recovery point now.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PointRequest {
    /// At most 255 bytes.
    #[serde(default)]
    pub label: String,
    /// Between the group's hooks, so that its applications find a state that they know.
    #[serde(default)]
    pub app_consistent: bool,
}

/// `:pin` on a recovery point: no retention schedule drops it from now on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PinRequest {
    /// Until when (RFC 3339), in the future; until it is unpinned when absent.
    #[serde(default)]
    pub until: Option<String>,
    /// Why; at most 255 bytes.
    #[serde(default)]
    pub reason: String,
}

/// `:unpin` on a recovery point: the retention schedule decides again.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct UnpinRequest {}

/// `:label` on a recovery point.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LabelRequest {
    /// What it is called from now on: at most 255 bytes; empty for nothing.
    pub label: String,
}

/// `:undelete`: takes the deletion of a group and of its volumes back. The gateway that gets the request serves them, from
/// the vault; what else they need and was deleted too (policy, site, gateways) comes back with them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct UndeleteRequest {
    /// A time (the newest point not after it) or a point's id; the newest point from before the deletion when absent.
    #[serde(default)]
    pub point: Option<String>,
}

/// `:undelete` on what was deleted and holds no data.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RestoreRequest {}

/// Something that was deleted, holds no data and can come back: a site, gateway, policy, network, network mapping, machine, plan or
/// drill.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DeletedObject {
    /// Its id.
    pub id: String,
    /// What it is, such as `machine` or `network mapping`.
    pub kind: String,
    /// Its name; of a mapping, those of its networks.
    pub name: String,
    /// The vault that it was declared in.
    #[schema(value_type = String)]
    pub vault_id: VaultId,
    /// When it was deleted.
    #[schema(value_type = String, format = DateTime)]
    pub deleted: Timestamp,
}

/// What came back.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Restored {
    /// What was asked for as the last, after what it needs and was deleted too. Empty when it was there already.
    pub objects: Vec<DeletedObject>,
}

/// A group that was deleted and can come back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DeletedGroup {
    /// Its id.
    #[schema(value_type = String)]
    pub id: GroupId,
    /// The vault that keeps its history.
    #[schema(value_type = String)]
    pub vault_id: VaultId,
    /// Its name; that of its volume, if it was made for a single one.
    pub name: String,
    /// When it was deleted, or the first of its volumes that would come back with it.
    #[schema(value_type = String, format = DateTime)]
    pub deleted: Timestamp,
    /// Until when nothing of it is collected. Its recovery points are kept longer.
    #[schema(value_type = String, format = DateTime)]
    pub kept_until: Timestamp,
    /// The volumes that come back with it.
    pub volumes: Vec<DeletedVolume>,
}

/// A volume that was deleted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DeletedVolume {
    /// Its id.
    #[schema(value_type = String)]
    pub id: VolumeId,
    /// Its name.
    pub name: String,
    /// Its size.
    pub size_bytes: u64,
}
