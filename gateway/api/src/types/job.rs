//! Jobs and events: what was done, is being done, went wrong.

use lifeboat_model::{
    BranchId, DrillId, EventId, GatewayId, GroupId, JobId, MachineId, NetworkId, PlanId, PointId, Timestamp, VaultId,
    VolumeId,
    state::{Health, JobState},
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What a job does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum JobKind {
    /// Sets a group up at its home gateway.
    EnableProtection,
    /// Takes a recovery point.
    TakePoint,
    /// A writable copy beside the running one.
    TestFailover,
    /// Moves in order, loses nothing.
    PlannedFailover,
    /// Moves after a disaster.
    UnplannedFailover,
    /// Goes on from another recovery point after a failover.
    ChangePoint,
    /// Makes a failover final.
    Commit,
    /// Ends test failovers.
    Cleanup,
    /// Stops in order.
    Release,
    /// Starts again after a release.
    Resume,
    /// Moves back home.
    Failback,
    /// Copies what the vault lacks.
    Resync,
    /// Brings the home copy forward while the recovery side runs, so that a failback has little left to do.
    Reprotect,
    /// Starts a machine where its volumes are.
    StartMachine,
    /// Stops a machine.
    StopMachine,
    /// Tests a plan, holds what is asserted against it, cleans up and writes evidence.
    Drill,
    /// Another gateway takes over what a lost one had.
    ReplaceGateway,
    /// A group gets its home at another gateway of its site.
    MoveGroup,
}

impl JobKind {
    /// The word on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::EnableProtection => "enable-protection",
            Self::TakePoint => "take-point",
            Self::TestFailover => "test-failover",
            Self::PlannedFailover => "planned-failover",
            Self::UnplannedFailover => "unplanned-failover",
            Self::ChangePoint => "change-point",
            Self::Commit => "commit",
            Self::Cleanup => "cleanup",
            Self::Release => "release",
            Self::Resume => "resume",
            Self::Failback => "failback",
            Self::Resync => "resync",
            Self::Reprotect => "reprotect",
            Self::StartMachine => "start-machine",
            Self::StopMachine => "stop-machine",
            Self::Drill => "drill",
            Self::ReplaceGateway => "replace-gateway",
            Self::MoveGroup => "move-group",
        }
    }
}

impl std::fmt::Display for JobKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A job. It survives the end of every process that works on it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Job {
    /// Opaque, unique.
    #[schema(value_type = String)]
    pub id: JobId,
    /// Raised by everything that happens to it; send it as `since` to wait for the next change.
    pub revision: u64,
    /// What it does.
    pub kind: JobKind,
    /// What it is about, by name: a group, a plan, a machine or a drill.
    #[serde(default, alias = "group")]
    pub name: String,
    /// The group that it is about.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    pub group_id: Option<GroupId>,
    /// The plan that it carries out.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    pub plan_id: Option<PlanId>,
    /// The machine that it is about.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    pub machine_id: Option<MachineId>,
    /// The drill that it is a run of.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    pub drill_id: Option<DrillId>,
    /// The job of a plan, a machine or a drill that began this one.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    pub parent_id: Option<JobId>,
    /// The gateway that leads it.
    #[schema(value_type = String)]
    pub gateway_id: GatewayId,
    /// `queued`, `running`, `succeeded`, `failed` or `cancelled`.
    #[schema(value_type = String)]
    pub state: JobState,
    /// When it was asked for.
    #[schema(value_type = String, format = DateTime)]
    pub created: Timestamp,
    /// When its first step began.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub started: Option<Timestamp>,
    /// When it ended.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub finished: Option<Timestamp>,
    /// Its steps, in order.
    pub steps: Vec<JobStep>,
    /// Why it failed: what happened, to what, what to do.
    pub cause: Option<String>,
    /// What it found and did.
    pub result: JobResult,
}

impl Job {
    /// Whether nothing more will happen to it.
    #[must_use]
    pub fn is_over(&self) -> bool {
        matches!(self.state, JobState::Succeeded | JobState::Failed | JobState::Cancelled)
    }
}

/// One step of a job, done by one gateway.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct JobStep {
    /// What it does.
    pub name: String,
    /// Who does it.
    #[schema(value_type = String)]
    pub gateway_id: GatewayId,
    /// `queued`, `running`, `succeeded`, `failed` or `cancelled`.
    #[schema(value_type = String)]
    pub state: JobState,
    /// When it began, the last time it was begun.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub started: Option<Timestamp>,
    /// When it ended.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub finished: Option<Timestamp>,
    /// What it is doing, for people.
    pub message: String,
    /// How far it is.
    pub progress: Option<StepProgress>,
    /// What a person has to do before it goes on; absent unless it waits for one. `:continue` on the job says that it is done.
    #[serde(default)]
    pub waits_for: Option<String>,
}

/// How far a step is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StepProgress {
    /// Bytes done.
    pub done_bytes: u64,
    /// Bytes in all, as far as is known now.
    pub total_bytes: u64,
}

/// What a job found and did. What doesn't apply to its kind is absent.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct JobResult {
    /// The recovery point taken, or started from.
    #[schema(value_type = Option<String>)]
    pub point_id: Option<PointId>,
    /// That point's time.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub point_time: Option<Timestamp>,
    /// The branch made, or gone back to.
    #[schema(value_type = Option<String>)]
    pub branch_id: Option<BranchId>,
    /// Failover: seconds between the recovery point and the request; what was written in them is lost at most. 0 when
    /// planned.
    pub rpo_seconds: Option<f64>,
    /// Failover: seconds from the request until the volumes were writable at the recovery site.
    pub rto_seconds: Option<f64>,
    /// Failback: seconds during which neither side could be written.
    pub downtime_seconds: Option<f64>,
    /// Failback, resync: size of the volumes, bytes.
    pub bytes_volume: Option<u64>,
    /// Failback, resync: bytes that were compared.
    pub bytes_compared: Option<u64>,
    /// Failback: bytes that differed between the two sides. Resync: between the volumes and the vault.
    pub bytes_changed: Option<u64>,
    /// Failback: bytes fetched from the vault.
    pub bytes_moved: Option<u64>,
    /// Failback: passes over the data.
    pub passes: Option<u32>,
    /// Failback: the branch that keeps what the primary had written and not shipped.
    #[schema(value_type = Option<String>)]
    pub orphan_branch_id: Option<BranchId>,
    /// Failover: the volumes' files in the recovery gateway's mount.
    pub paths: Vec<String>,
    /// Plans and machines: the machines that run because of it.
    #[serde(default)]
    pub machines: Vec<MachineRun>,
    /// Plans: the jobs of their groups.
    #[serde(default)]
    #[schema(value_type = Vec<String>)]
    pub jobs: Vec<JobId>,
    /// Clean-up of a test: what a person noted about it.
    #[serde(default)]
    pub notes: Option<String>,
    /// Drill: how it came out.
    #[serde(default)]
    pub drill: Option<super::DrillOutcome>,
}

/// A machine that runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MachineRun {
    /// Which.
    #[schema(value_type = String)]
    pub machine_id: MachineId,
    /// Its name.
    pub name: String,
    /// The gateway that runs it.
    #[schema(value_type = String)]
    pub gateway_id: GatewayId,
    /// Since when.
    #[schema(value_type = String, format = DateTime)]
    pub since: Timestamp,
    /// Its interfaces, in their order.
    pub interfaces: Vec<InterfaceRun>,
}

/// Where an interface of a machine that runs has come out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct InterfaceRun {
    /// The network that it joined; absent where it joined none.
    #[schema(value_type = Option<String>)]
    pub network_id: Option<NetworkId>,
    /// Its hardware address.
    pub mac: String,
    /// The address that is its own there.
    pub address: Option<String>,
}

/// Something worth remembering.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Event {
    /// Opaque, unique; later events sort later.
    #[schema(value_type = String)]
    pub id: EventId,
    /// When.
    #[schema(value_type = String, format = DateTime)]
    pub time: Timestamp,
    /// `healthy` for information, `warning`, `critical`.
    #[schema(value_type = String)]
    pub severity: Health,
    /// What kind of event, for programs: `group.fenced`, `job.failed`, …
    pub kind: String,
    /// For people.
    pub message: String,
    /// The vault it is kept in.
    #[schema(value_type = String)]
    pub vault_id: VaultId,
    /// The gateway that saw it.
    #[schema(value_type = Option<String>)]
    pub gateway_id: Option<GatewayId>,
    /// The group it is about.
    #[schema(value_type = Option<String>)]
    pub group_id: Option<GroupId>,
    /// The volume it is about.
    #[schema(value_type = Option<String>)]
    pub volume_id: Option<VolumeId>,
    /// The job it is about.
    #[schema(value_type = Option<String>)]
    pub job_id: Option<JobId>,
}

/// The answering gateway's own account of itself: `GET /v1/status`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct GatewayReport {
    /// Version of the process.
    pub version: String,
    /// Identity of the process; kept in its state directory.
    pub process_id: String,
    /// The name it was started with.
    pub name: String,
    /// The site it was started with.
    pub site: Option<String>,
    /// The declarations it took up, one for each vault at most.
    #[schema(value_type = Vec<String>)]
    pub gateway_ids: Vec<GatewayId>,
    /// Where it mounts its volumes.
    pub mount_path: Option<String>,
    /// Whether it has looked at every vault once since it started, and opened what it serves there: what `/readyz` says. A vault
    /// that was out of reach counts as looked at; `health` says so.
    #[serde(default)]
    pub ready: bool,
    /// Its health.
    #[schema(value_type = String)]
    pub health: Health,
    /// Why it isn't healthy.
    pub reasons: Vec<String>,
    /// Its vaults.
    pub vaults: Vec<super::Vault>,
    /// How well each group is protected.
    pub protection: Vec<super::ProtectionStatus>,
    /// When the authority of this gateway's own certificate ends, and the certificate with it.
    #[schema(value_type = Option<String>, format = DateTime)]
    #[serde(default)]
    pub certificate_expires: Option<Timestamp>,
    /// The channels through which it tells people what happens.
    #[serde(default)]
    pub notices: Vec<super::NoticeChannel>,
    /// Whether everything is protected, in one sentence; absent from gateways of an older version.
    #[serde(default)]
    pub summary: Option<crate::summary::Summary>,
}
