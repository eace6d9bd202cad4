//! What stands in the catalog's documents beside the specs of the API: the status of groups and gateways, jobs, events.
//!
//! Documents are written by several gateways of possibly different versions, so every field has a default and unknown
//! ones are left alone when a document is read.

mod approval;
mod drill;
mod identity;
mod recovery;
mod token;

pub(crate) use approval::{ApprovalRecord, ApprovalSpecRecord};
pub(crate) use drill::{AssertionResult, DrillJobSpec, DrillRecord, EvidenceRecord, Findings, Picture, PointUsed};
pub(crate) use identity::{
    AgentRecord, AgentSpecRecord, CertificateRecord, RegistrationKeyRecord, RegistrationKeySpecRecord, UseRecord,
};
pub(crate) use recovery::{
    ActionPlace, Answer, AnySpec, Member, Mover, Part, Placed, ProgramSpec, RecoveryFailover, RecoveryRecord,
    RecoveryTest, Subject,
};
pub(crate) use token::{SecretRecord, TokenRecord, TokenSpecRecord};

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use lifeboat_api::{ExportStatus, FailbackMode, JobKind, JobResult, JobStep, PolicySpec, ResyncStatus, StepProgress};
use lifeboat_model::state::{Health, JobState};
use lifeboat_model::{
    BranchId, Epoch, GatewayId, GroupId, JobId, Lsn, PointId, PointKind, PolicyId, SegmentSeq, Timestamp, VolumeId,
};
use lifeboat_vault::Document;
use serde::{Deserialize, Serialize};

use crate::port::{HeldVolume, PointFact};

/// Kinds of documents in the catalog.
pub(crate) mod kind {
    pub(crate) const VAULTS: &str = "vaults";
    pub(crate) const SITES: &str = "sites";
    pub(crate) const GATEWAYS: &str = "gateways";
    pub(crate) const POLICIES: &str = "policies";
    pub(crate) const GROUPS: &str = "groups";
    pub(crate) const VOLUMES: &str = "volumes";
    pub(crate) const NETWORKS: &str = "networks";
    pub(crate) const MAPPINGS: &str = "network-mappings";
    pub(crate) const MACHINES: &str = "machines";
    pub(crate) const PLANS: &str = "plans";
    pub(crate) const DRILLS: &str = "drills";
    pub(crate) const JOBS: &str = "jobs";
    pub(crate) const EVENTS: &str = "events";
    pub(crate) const TOKENS: &str = "tokens";
    pub(crate) const REGISTRATION_KEYS: &str = "registration-keys";
    pub(crate) const AGENTS: &str = "agents";
    /// Read when somebody asks: no gateway keeps a copy.
    pub(crate) const APPROVALS: &str = "approvals";
    /// Evidence of the runs of drills; read when it is asked for.
    pub(crate) const EVIDENCE: &str = "drill-evidence";
    /// Pictures that go with it.
    pub(crate) const PICTURES: &str = "drill-pictures";
    /// Those that a gateway keeps a copy of.
    pub(crate) const ALL: [&str; 15] = [
        VAULTS,
        SITES,
        GATEWAYS,
        POLICIES,
        GROUPS,
        VOLUMES,
        NETWORKS,
        MAPPINGS,
        MACHINES,
        PLANS,
        DRILLS,
        JOBS,
        TOKENS,
        REGISTRATION_KEYS,
        AGENTS,
    ];
}

/// The directory of a group's instance at its home gateway.
pub(crate) const HOME_INSTANCE: &str = "home";

/// Status of a gateway's document.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct GatewayRecord {
    pub(crate) process_id: Option<String>,
    pub(crate) version: Option<String>,
    pub(crate) addresses: Vec<String>,
    pub(crate) last_seen: Option<Timestamp>,
    pub(crate) mount_path: Option<String>,
    /// What machines are run with here; nothing where none can be.
    pub(crate) compute: Option<String>,
    /// The public key that goes with the evidence it signs, base64.
    pub(crate) evidence_key: Option<String>,
    /// It has a port for members of replication groups.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(crate) coordinates: bool,
    /// An agent stands here, whom no process of a gateway replaces.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(crate) agent: bool,
    /// When a process server last had a line on which the agent can be told what to do; never for one that is too old for that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) heard: Option<Timestamp>,
    /// The agent goes by what its policy says; one of before goes by its own settings alone.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(crate) follows_policy: bool,
    /// The agent has its disks compared with the vault when it is asked to.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(crate) compares: bool,
    /// How long each of an agent's hooks may take, milliseconds, as it said last; absent for one without hooks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) hooks_ms: Option<u64>,
    /// How it is doing as a process server; absent where it is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) process_server: Option<ProcessServerRecord>,
    /// How bad its silence was when another gateway told of it; its own next report ends that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) silence: Option<Health>,
    pub(crate) health: Health,
    pub(crate) reasons: Vec<String>,
    /// The job that replaces it; no other may begin.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) job: Option<JobId>,
    /// The last one that failed, until one succeeds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) failed_job: Option<JobId>,
    /// Another gateway took its place, as long as no other machine has taken its name up.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) replaced: Option<ReplacedRecord>,
}

/// Who took a gateway's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ReplacedRecord {
    pub(crate) by: GatewayId,
    pub(crate) since: Timestamp,
}

/// How a gateway was doing as a process server when it reported last. Sizes in bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct ProcessServerRecord {
    /// `host:port` at which agents reach it.
    pub(crate) address: String,
    pub(crate) measured: Option<Timestamp>,
    pub(crate) health: Health,
    pub(crate) reasons: Vec<String>,
    /// Nothing but its processors is critical: others may send agents there.
    pub(crate) takes_more: bool,
    pub(crate) agents: u32,
    pub(crate) processor_percent: Option<u32>,
    pub(crate) memory_bytes_used: Option<u64>,
    pub(crate) memory_bytes_total: Option<u64>,
    pub(crate) disk_bytes_free: u64,
    pub(crate) disk_bytes_total: u64,
    pub(crate) cache_bytes_used: u64,
    pub(crate) cache_bytes_limit: u64,
    pub(crate) backlog_age_seconds: Option<u64>,
}

/// Status of a volume's document: what the gateway that serves it has to know of its keys.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct VolumeRecord {
    /// Number of the data key that new segments are to use; 0 until one was made on request.
    pub(crate) data_key: u32,
    /// When its keys were destroyed.
    pub(crate) erased: Option<Timestamp>,
    /// The disk that the next failback builds it on: its source was changed while its group was away.
    pub(crate) disk: Option<String>,
    /// When it was deleted, if that was taken back since: what its group comes back to, should the gateway stop in between.
    pub(crate) deleted: Option<Timestamp>,
}

/// Status of a group's document.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct GroupRecord {
    /// Made for a single volume.
    pub(crate) implicit: bool,
    /// Which gateway serves it, on which branch, from which instance; `None` until it was set up.
    pub(crate) active: Option<ActiveRecord>,
    /// The instance that a failback goes to.
    pub(crate) home_instance: Option<String>,
    /// Where it is at home since a failback went to another gateway than its volumes declare.
    pub(crate) home: Option<GatewayId>,
    /// Copies at gateways where it was at home before, to be given up when those are there.
    pub(crate) left: Vec<LeftRecord>,
    pub(crate) committed: bool,
    pub(crate) released: bool,
    pub(crate) failover: Option<FailoverRecord>,
    pub(crate) tests: Vec<TestRecord>,
    /// The job that has the group; no other may begin.
    pub(crate) job: Option<JobId>,
    /// The last job that failed, until one succeeds.
    pub(crate) failed_job: Option<JobId>,
    pub(crate) observed: Option<Observed>,
    /// The policy that it named last and that was deleted: its settings count until the group names another.
    pub(crate) last_policy: Option<LastPolicy>,
    /// It was to take points together with others, and they haven't for a while.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) unshared: Option<UnsharedRecord>,
}

/// Why groups that are to share points don't.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct UnsharedRecord {
    pub(crate) since: Timestamp,
    pub(crate) why: String,
}

/// A policy that was deleted while a group named it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct LastPolicy {
    pub(crate) id: PolicyId,
    pub(crate) spec: PolicySpec,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ActiveRecord {
    pub(crate) gateway: GatewayId,
    pub(crate) branch: BranchId,
    pub(crate) instance: String,
}

/// A copy of a group at a gateway where it isn't at home any more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LeftRecord {
    pub(crate) gateway: GatewayId,
    pub(crate) instance: String,
    /// That gateway was replaced: the copy isn't given up but shown as it is, to be looked into.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) shown: bool,
    /// Of a copy that is shown: what wasn't shipped of it is in the vault.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) kept: bool,
}

impl LeftRecord {
    /// A copy that is to be given up.
    pub(crate) const fn new(gateway: GatewayId, instance: String) -> Self {
        Self { gateway, instance, shown: false, kept: false }
    }

    /// A copy that a gateway which was replaced shows if it comes back.
    pub(crate) const fn shown(gateway: GatewayId, instance: String) -> Self {
        Self { gateway, instance, shown: true, kept: false }
    }
}

impl GroupRecord {
    /// The instance whose volumes a gateway shows under their names: that which it serves, the home's, or one that it had when it was
    /// replaced.
    pub(crate) fn shown_at(&self, gateway: Option<GatewayId>) -> &str {
        if let Some(active) = self.active.as_ref().filter(|active| gateway == Some(active.gateway)) {
            return &active.instance;
        }
        let left = self.left.iter().find(|left| left.shown && gateway == Some(left.gateway));
        left.map(|left| left.instance.as_str()).or(self.home_instance.as_deref()).unwrap_or(HOME_INSTANCE)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FailoverRecord {
    pub(crate) kind: String,
    pub(crate) job: JobId,
    pub(crate) point: PointId,
    pub(crate) point_time: Timestamp,
    /// The branch that was left: its points are the ones to choose from.
    #[serde(default)]
    pub(crate) from_branch: Option<BranchId>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TestRecord {
    pub(crate) job: JobId,
    pub(crate) gateway: GatewayId,
    pub(crate) branch: BranchId,
    pub(crate) point: PointId,
    pub(crate) point_time: Timestamp,
}

/// What the active gateway last told about a group, for the others.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Observed {
    pub(crate) gateway: GatewayId,
    pub(crate) time: Timestamp,
    pub(crate) health: Health,
    pub(crate) reasons: Vec<String>,
    pub(crate) landed_rpo_seconds: Option<f64>,
    pub(crate) latest_point: Option<PointRecord>,
    pub(crate) backlog_bytes: u64,
    pub(crate) journal_bytes_used: u64,
    pub(crate) churn_bytes_per_second: f64,
    #[serde(default)]
    pub(crate) flow: FlowRecord,
    pub(crate) hydrated_bytes: Option<u64>,
    #[serde(default)]
    pub(crate) resync: Option<ResyncStatus>,
    pub(crate) mount_path: Option<String>,
    /// What NBD listens on there; a path for a unix socket.
    #[serde(default)]
    pub(crate) nbd_address: Option<String>,
    /// Where other hosts find volumes there that have an export.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) exports: BTreeMap<VolumeId, ExportStatus>,
    pub(crate) volumes: Vec<HeldVolume>,
}

/// How data flows through a group; nothing in documents of older versions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct FlowRecord {
    pub(crate) journal_bytes_limit: Option<u64>,
    pub(crate) journal_full_in_seconds: Option<f64>,
    pub(crate) oldest_unshipped_seconds: Option<f64>,
    pub(crate) shipped_bytes_per_second: Option<f64>,
    pub(crate) compression_ratio: Option<f64>,
}

impl From<&lifeboat_engine::FlowStatus> for FlowRecord {
    fn from(flow: &lifeboat_engine::FlowStatus) -> Self {
        Self {
            journal_bytes_limit: flow.journal_bytes_limit,
            journal_full_in_seconds: flow.journal_full_in_seconds,
            oldest_unshipped_seconds: flow.oldest_unshipped_seconds,
            shipped_bytes_per_second: flow.shipped_bytes_per_second,
            compression_ratio: flow.compression_ratio(),
        }
    }
}

/// A point as documents hold it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PointRecord {
    pub(crate) id: PointId,
    pub(crate) branch: BranchId,
    pub(crate) epoch: u64,
    #[serde(default)]
    pub(crate) seq: u64,
    pub(crate) lsn: u64,
    pub(crate) time: Timestamp,
    pub(crate) kind: PointKind,
    pub(crate) label: String,
}

impl From<&PointFact> for PointRecord {
    fn from(point: &PointFact) -> Self {
        Self {
            id: point.id,
            branch: point.branch,
            epoch: point.epoch.0,
            seq: point.seq.0,
            lsn: point.lsn.0,
            time: point.time,
            kind: point.kind,
            label: point.label.clone(),
        }
    }
}

impl From<&PointRecord> for PointFact {
    fn from(point: &PointRecord) -> Self {
        Self {
            id: point.id,
            branch: point.branch,
            epoch: Epoch(point.epoch),
            seq: SegmentSeq(point.seq),
            lsn: Lsn(point.lsn),
            time: point.time,
            kind: point.kind,
            label: point.label.clone(),
            pinned: false,
        }
    }
}

/// Spec of a job's document: what was asked for, decided once.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct JobSpec {
    pub(crate) kind: JobKind,
    pub(crate) group: GroupId,
    pub(crate) group_name: String,
    /// The gateway that leads: the recovery gateway of a failover, the home gateway of a failback.
    pub(crate) gateway: GatewayId,
    /// The gateway that is left.
    #[serde(default)]
    pub(crate) source: Option<GatewayId>,
    /// Its instance there.
    #[serde(default)]
    pub(crate) source_instance: Option<String>,
    /// The branch that is left.
    #[serde(default)]
    pub(crate) from_branch: Option<BranchId>,
    /// The branch that is made.
    #[serde(default)]
    pub(crate) new_branch: Option<BranchId>,
    /// The point to start from; the final point of a planned failover is in the result instead.
    #[serde(default)]
    pub(crate) point: Option<PointId>,
    #[serde(default)]
    pub(crate) point_time: Option<Timestamp>,
    #[serde(default)]
    pub(crate) mode: Option<FailbackMode>,
    #[serde(default)]
    pub(crate) label: String,
    /// The point is to be taken between the group's hooks.
    #[serde(default)]
    pub(crate) app_consistent: bool,
    /// Cleanup: the branches of the tests to end.
    #[serde(default)]
    pub(crate) branches: Vec<BranchId>,
    /// The job of a plan or a machine that began this one.
    #[serde(default)]
    pub(crate) parent: Option<JobId>,
    /// Of a gateway that is replaced: disks that it had adopted are left alone.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) leave_disks: bool,
    /// Of a failback to a new disk: what volumes are built on.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) disks: BTreeMap<VolumeId, PathBuf>,
}

impl JobSpec {
    /// A job on a group, led by `gateway`, that asks for nothing more; what a kind needs beyond that is set on it.
    pub(crate) fn new(kind: JobKind, group: GroupId, group_name: &str, gateway: GatewayId) -> Self {
        Self {
            kind,
            group,
            group_name: group_name.to_owned(),
            gateway,
            source: None,
            source_instance: None,
            from_branch: None,
            new_branch: None,
            point: None,
            point_time: None,
            mode: None,
            label: String::new(),
            app_consistent: false,
            branches: Vec::new(),
            parent: None,
            leave_disks: false,
            disks: BTreeMap::new(),
        }
    }
}

/// Status of a job's document.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct JobRecord {
    pub(crate) state: JobStateRecord,
    pub(crate) started: Option<Timestamp>,
    pub(crate) finished: Option<Timestamp>,
    pub(crate) steps: Vec<StepRecord>,
    pub(crate) cause: Option<String>,
    pub(crate) cancel: bool,
    pub(crate) result: JobResult,
    /// What a run of a drill has found so far.
    pub(crate) findings: Option<Box<Findings>>,
    /// When neither side could be written any more, for the downtime.
    pub(crate) stopped: Option<Timestamp>,
}

/// A job's state, queued when nothing is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct JobStateRecord(pub(crate) JobState);

impl Default for JobStateRecord {
    fn default() -> Self {
        Self(JobState::Queued)
    }
}

/// What a step does. The order of a job's steps is fixed when the job is written down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Step {
    /// Finds out, before anything is begun, whether what protection needs is there.
    Prerequisites,
    /// Sets the group up: local files, keys, first branch.
    SetUp,
    /// Says what a recovery still needs: gateways, networks, plans.
    Finalize,
    /// Takes a recovery point.
    TakePoint,
    /// Stops writes, ships everything.
    Release,
    /// Starts again after a release.
    Resume,
    /// Fences the branch that is left and starts a new one.
    Branch,
    /// Starts a new branch beside the running one.
    TestBranch,
    /// Writes down that the group is active at the recovery gateway.
    RecordFailover,
    /// Makes a failover final.
    Commit,
    /// Ends tests at this gateway.
    EndTests,
    /// Brings the home gateway's image forward while the recovery side runs.
    Rehydrate,
    /// The last difference.
    LastDelta,
    /// Opens the next epoch at home.
    TakeOver,
    /// Opens the next epoch at home, on a new disk that is filled in the background.
    TakeOverLazily,
    /// Removes the recovery side's local copy.
    Retire,
    /// Finds out by hashes what the vault lacks.
    Compare,
    /// Copies what the vault lacks.
    Resync,
    /// Finds out whether a plan can be carried out.
    Check,
    /// Writes a test down, so that it is cleaned up whatever happens.
    OpenTest,
    /// Does an action of a plan.
    Act,
    /// Stops the machines of a boot group.
    StopMachines,
    /// Starts the machines of a boot group.
    StartMachines,
    /// Has each group's part of a plan done by a job of its own.
    Groups,
    /// Brings each group's home copy forward by a job of its own, while the recovery side runs.
    Reprotect,
    /// Writes down where a plan or a machine is.
    RecordPlan,
    /// Drill: has the plan tested by a job of its own.
    TestPlan,
    /// Drill: looks at what is asserted of what runs at this gateway.
    Assert,
    /// Drill: looks at files on copies of the volumes of their own.
    HashFiles,
    /// Drill: has the test cleaned up by a job of its own.
    EndTest,
    /// Drill: writes the evidence down and signs it.
    Attest,
    /// Writes down that a gateway is replaced, and ends what waits for it.
    StandIn,
    /// Writes down that the gateway which takes another one's place has the group.
    MoveHome,
}

impl Step {
    /// For people.
    pub(crate) const fn title(self) -> &'static str {
        match self {
            Self::Prerequisites => "Check prerequisites",
            Self::SetUp => "Set the group up",
            Self::Finalize => "Finalize protection",
            Self::TakePoint => "Take a recovery point",
            Self::Release => "Stop writes and ship everything",
            Self::Resume => "Start again",
            Self::Branch => "Fence the old branch and start a new one",
            Self::TestBranch => "Start a test branch",
            Self::RecordFailover => "Serve the volumes here",
            Self::Commit => "Make the failover final",
            Self::EndTests => "End the tests and drop their writes",
            Self::Rehydrate => "Bring the home copy forward",
            Self::LastDelta => "Bring the last difference over",
            Self::TakeOver => "Serve the volumes at home",
            Self::TakeOverLazily => "Serve the volumes at home from a new disk",
            Self::Retire => "Remove the recovery copy",
            Self::Compare => "Compare the volumes with the vault",
            Self::Resync => "Copy what the vault lacks",
            Self::Check => "Check that it can be done",
            Self::OpenTest => "Write down when it is cleaned up",
            Self::Act => "Action",
            Self::StopMachines => "Stop machines",
            Self::StartMachines => "Start machines",
            Self::Groups => "Move the volumes",
            Self::Reprotect => "Bring the home copies forward",
            Self::RecordPlan => "Write down how it stands",
            Self::TestPlan => "Test the plan",
            Self::Assert => "Look at what is asserted",
            Self::HashFiles => "Look at files",
            Self::EndTest => "Clean up",
            Self::Attest => "Sign the evidence",
            Self::StandIn => "End what waits for the lost gateway",
            Self::MoveHome => "Make it the group's gateway",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct StepRecord {
    pub(crate) step: Step,
    pub(crate) gateway: GatewayId,
    pub(crate) state: JobState,
    #[serde(default)]
    pub(crate) started: Option<Timestamp>,
    #[serde(default)]
    pub(crate) finished: Option<Timestamp>,
    #[serde(default)]
    pub(crate) message: String,
    #[serde(default)]
    pub(crate) progress: Option<StepProgress>,
    /// What of a program it is about.
    #[serde(default)]
    pub(crate) part: Option<Part>,
    /// The name of that.
    #[serde(default)]
    pub(crate) label: Option<String>,
    /// What a person has to do before it goes on.
    #[serde(default)]
    pub(crate) waits_for: Option<String>,
    /// What that person said.
    #[serde(default)]
    pub(crate) answer: Option<Answer>,
}

impl StepRecord {
    pub(crate) fn new(step: Step, gateway: GatewayId) -> Self {
        Self {
            step,
            gateway,
            state: JobState::Queued,
            started: None,
            finished: None,
            message: String::new(),
            progress: None,
            part: None,
            label: None,
            waits_for: None,
            answer: None,
        }
    }

    /// A step about a part of a program.
    pub(crate) fn of(step: Step, gateway: GatewayId, part: Part, label: impl Into<String>) -> Self {
        Self { part: Some(part), label: Some(label.into()), ..Self::new(step, gateway) }
    }

    pub(crate) fn view(&self) -> JobStep {
        JobStep {
            name: match &self.label {
                Some(label) => format!("{}: {label}", self.step.title()),
                None => self.step.title().to_owned(),
            },
            gateway_id: self.gateway,
            state: self.state,
            started: self.started,
            finished: self.finished,
            message: self.message.clone(),
            progress: self.progress,
            waits_for: self.waits_for.clone().filter(|_| self.answer.is_none() && self.state == JobState::Running),
        }
    }
}

impl JobRecord {
    pub(crate) fn is_over(&self) -> bool {
        matches!(self.state.0, JobState::Succeeded | JobState::Failed | JobState::Cancelled)
    }

    /// The first step that isn't done.
    pub(crate) fn current(&self) -> Option<(usize, &StepRecord)> {
        self.steps.iter().enumerate().find(|(_, step)| step.state != JobState::Succeeded)
    }

    /// The number of that step, if this gateway does it.
    pub(crate) fn current_of(&self, gateway: Option<GatewayId>) -> Option<usize> {
        self.current().filter(|(_, step)| gateway == Some(step.gateway)).map(|(index, _)| index)
    }
}

/// Spec of an event's document.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct EventRecord {
    pub(crate) time: Timestamp,
    pub(crate) severity: Health,
    pub(crate) kind: String,
    pub(crate) message: String,
    #[serde(default)]
    pub(crate) gateway: Option<GatewayId>,
    #[serde(default)]
    pub(crate) group: Option<GroupId>,
    #[serde(default)]
    pub(crate) volume: Option<VolumeId>,
    #[serde(default)]
    pub(crate) job: Option<JobId>,
}

/// The status of a document; its default when it can't be read, which a newer gateway's may not.
pub(crate) fn status<T: serde::de::DeserializeOwned + Default>(document: &Document) -> T {
    document.status_as().unwrap_or_else(|error| {
        tracing::warn!(kind = document.kind, id = document.id, %error, "status can't be read");
        T::default()
    })
}

/// Typed copies of the documents of one kind.
pub(crate) type Documents = Vec<Arc<Document>>;
