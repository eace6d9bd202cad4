//! Recovery plans: what comes up at another site, in what order, and what is done in between.

use lifeboat_model::{GatewayId, JobId, MachineId, PlanId, SiteId, Timestamp, VaultId, VolumeId};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{FailoverKind, MachineRun, RecoveryState, resource};

/// A recovery plan as declared.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PlanSpec {
    /// The vault it belongs to. Cannot be changed.
    #[schema(value_type = String)]
    pub vault_id: VaultId,
    /// Letters, digits, `.`, `_`, `-`, at most 63 characters; unique in the vault.
    pub name: String,
    /// The site where everything in it is at home. Cannot be changed.
    #[schema(value_type = String)]
    pub source_site_id: SiteId,
    /// The site where it comes up. Cannot be changed.
    #[schema(value_type = String)]
    pub target_site_id: SiteId,
    /// How the source's machines are stopped, where they can be.
    #[serde(default)]
    pub shutdown: Option<PlanShutdown>,
    /// What comes up, at least one group; each once the one before is up. The order is kept.
    pub boot_group: Vec<BootGroup>,
}

/// How the machines of the side that is left are stopped: in the reverse order of the boot groups.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PlanShutdown {
    /// How long a machine may take before it is switched off: 1s to 24h.
    #[serde(default = "default_shutdown_timeout")]
    pub timeout: String,
    /// What is done before, in order.
    #[serde(default)]
    pub pre_action: Vec<PlanAction>,
    /// What is done after, in order.
    #[serde(default)]
    pub post_action: Vec<PlanAction>,
}

/// Machines and volumes that come up side by side: at least one of either.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BootGroup {
    /// For people; 1 to 64 characters, unique in the plan.
    #[serde(default)]
    pub name: Option<String>,
    /// Machines of the source site; each in one group at most.
    #[serde(default)]
    #[schema(value_type = Vec<String>)]
    pub machine_ids: Vec<MachineId>,
    /// Volumes of the source site that are no disk of one of these machines; each in one group at most.
    #[serde(default)]
    #[schema(value_type = Vec<String>)]
    pub volume_ids: Vec<VolumeId>,
    /// What is done before, in order.
    #[serde(default)]
    pub pre_action: Vec<PlanAction>,
    /// What is done after, in order.
    #[serde(default)]
    pub post_action: Vec<PlanAction>,
}

/// Something that is done on the way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PlanAction {
    /// 1 to 64 characters, unique among the actions beside it.
    pub name: String,
    /// What kind of action it is.
    #[serde(rename = "type")]
    pub kind: ActionType,
    /// `script`: file name of a program in the directory of hooks of the gateway that carries the plan out.
    #[serde(default)]
    pub script: Option<String>,
    /// `http`: the address that is asked, `https://…` or `http://…`; any answer of the 2xx kind is a success.
    #[serde(default)]
    pub url: Option<String>,
    /// `manual`: what a person has to do before it goes on; at most 4096 characters.
    #[serde(default)]
    pub instruction: Option<String>,
    /// Only in these directions; in both when empty.
    #[serde(default)]
    pub directions: Vec<PlanDirection>,
    /// Only in failovers of these kinds; in all when empty.
    #[serde(default)]
    pub kinds: Vec<FailoverKind>,
    /// How long it may take: 1s to 24h; 5m when absent, and for a person as long as it takes.
    #[serde(default)]
    pub timeout: Option<String>,
}

/// What kind of action it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ActionType {
    /// A program is run.
    Script,
    /// A person does something and says so.
    Manual,
    /// A request is made.
    Http,
}

impl ActionType {
    /// Every type.
    pub const ALL: [Self; 3] = [Self::Script, Self::Manual, Self::Http];

    /// The word on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Script => "script",
            Self::Manual => "manual",
            Self::Http => "http",
        }
    }
}

/// Which way a plan is carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum PlanDirection {
    /// From the source site to the target site.
    Failover,
    /// Back.
    Failback,
}

impl PlanDirection {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Failover, Self::Failback];

    /// The word on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Failover => "failover",
            Self::Failback => "failback",
        }
    }
}

/// Whether a plan could be carried out now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Readiness {
    /// Something is missing: see the reasons.
    #[default]
    NotReady,
    /// Nothing that can be known speaks against it.
    Ready,
}

impl Readiness {
    /// The word on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NotReady => "not-ready",
            Self::Ready => "ready",
        }
    }
}

/// A plan as observed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PlanStatus {
    /// Where its volumes stand.
    pub state: RecoveryState,
    /// The site where they are active; absent while they are not all at one.
    #[schema(value_type = Option<String>)]
    pub active_site_id: Option<SiteId>,
    /// The name of that site.
    pub active_site: Option<String>,
    /// Whether it could be carried out now.
    pub readiness: Readiness,
    /// Why it couldn't.
    pub reasons: Vec<String>,
    /// What would not be as it was wished for, and stops nothing: machines that are to be kept apart and can't be.
    #[serde(default)]
    pub warnings: Vec<String>,
    /// The job that has it, else the last one that failed.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    pub job_id: Option<JobId>,
    /// The failover that it is in.
    #[serde(default)]
    pub failover: Option<PlanFailover>,
    /// Its tests that weren't cleaned up yet.
    #[serde(default)]
    pub tests: Vec<PlanTest>,
}

/// A failover that a plan is in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PlanFailover {
    /// `planned` or `unplanned`.
    pub kind: FailoverKind,
    /// The job that did it.
    #[schema(value_type = String)]
    pub job_id: JobId,
    /// The gateway that led it.
    #[schema(value_type = String)]
    pub gateway_id: GatewayId,
    /// Whether it is final.
    pub committed: bool,
}

/// A test of a plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PlanTest {
    /// The job that began it.
    #[schema(value_type = String)]
    pub job_id: JobId,
    /// The gateway that leads it; each machine says where it runs.
    #[schema(value_type = String)]
    pub gateway_id: GatewayId,
    /// When it was begun.
    #[schema(value_type = String, format = DateTime)]
    pub started: Timestamp,
    /// When it is cleaned up by itself.
    #[schema(value_type = String, format = DateTime)]
    pub expires: Timestamp,
    /// Its machines that run.
    pub machines: Vec<MachineRun>,
}

resource! {
    /// A recovery plan.
    Plan, PlanId, PlanSpec, PlanStatus
}

impl PlanSpec {
    /// Every machine in it, with the place where it stands: (boot group, index, machine).
    pub fn machines(&self) -> impl Iterator<Item = (usize, usize, MachineId)> {
        let groups = self.boot_group.iter().enumerate();
        groups.flat_map(|(group, boot)| boot.machine_ids.iter().enumerate().map(move |(at, id)| (group, at, *id)))
    }

    /// Every volume in it that stands for itself, with its place: (boot group, index, volume).
    pub fn volumes(&self) -> impl Iterator<Item = (usize, usize, VolumeId)> {
        let groups = self.boot_group.iter().enumerate();
        groups.flat_map(|(group, boot)| boot.volume_ids.iter().enumerate().map(move |(at, id)| (group, at, *id)))
    }
}

/// Default of `shutdown.timeout`.
#[must_use]
pub fn default_shutdown_timeout() -> String {
    "5m".to_owned()
}
