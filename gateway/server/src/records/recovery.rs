//! What stands in the catalog about recovering plans and machines: who has them, what they are in, what runs.
//!
//! A job over a plan is a *program*: steps over several groups, machines and actions. A machine that is moved by itself is
//! the same, as a plan of its own.

use std::collections::BTreeSet;

use lifeboat_api::{
    BootGroup, FailbackDisk, FailbackMode, FailoverKind, JobKind, MachineRun, MachineSpec, PlanDirection, PlanShutdown,
};
use lifeboat_model::{GatewayId, GroupId, JobId, MachineId, NetworkId, PlanId, Timestamp};
use serde::{Deserialize, Serialize};

use super::{DrillJobSpec, JobSpec, kind};

/// Status of a plan's or a machine's document.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct RecoveryRecord {
    /// The job that has it; no other may begin.
    pub(crate) job: Option<JobId>,
    /// The last job that failed, until one succeeds.
    pub(crate) failed_job: Option<JobId>,
    /// The failover that it is in.
    pub(crate) failover: Option<RecoveryFailover>,
    /// Tests that weren't cleaned up yet. Written down before anything of a test begins, so that no crash leaves
    /// anything behind.
    pub(crate) tests: Vec<RecoveryTest>,
    /// Machines only: where it runs.
    pub(crate) run: Option<MachineRun>,
    /// Machines only: whether one of our gateways has run it at home, and is to do so again.
    pub(crate) managed: bool,
}

/// A failover that a plan or a machine is in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RecoveryFailover {
    pub(crate) kind: FailoverKind,
    pub(crate) job: JobId,
    pub(crate) gateway: GatewayId,
    #[serde(default)]
    pub(crate) committed: bool,
}

/// A test of a plan or a machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RecoveryTest {
    pub(crate) job: JobId,
    pub(crate) gateway: GatewayId,
    pub(crate) started: Timestamp,
    pub(crate) expires: Timestamp,
    pub(crate) groups: Vec<Member>,
    #[serde(default)]
    pub(crate) machines: Vec<MachineRun>,
}

impl RecoveryTest {
    /// The gateways that have a part in it.
    pub(crate) fn gateways(&self) -> BTreeSet<GatewayId> {
        self.groups.iter().filter_map(|member| member.gateway).chain([self.gateway]).collect()
    }

    /// The gateway that runs the machines of a group in it.
    pub(crate) fn gateway_of(&self, group: GroupId) -> GatewayId {
        let member = self.groups.iter().find(|member| member.group == group);
        member.and_then(|member| member.gateway).unwrap_or(self.gateway)
    }
}

/// What a program is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Subject {
    Plan(PlanId),
    Machine(MachineId),
    /// A gateway that is replaced.
    Gateway(GatewayId),
}

impl Subject {
    /// The kind of its document.
    pub(crate) const fn kind(self) -> &'static str {
        match self {
            Self::Plan(_) => kind::PLANS,
            Self::Machine(_) => kind::MACHINES,
            Self::Gateway(_) => kind::GATEWAYS,
        }
    }

    /// For people.
    pub(crate) const fn what(self) -> &'static str {
        match self {
            Self::Plan(_) => "plan",
            Self::Machine(_) => "machine",
            Self::Gateway(_) => "gateway",
        }
    }

    /// The id of its document.
    pub(crate) fn id(self) -> String {
        match self {
            Self::Plan(id) => id.to_string(),
            Self::Machine(id) => id.to_string(),
            Self::Gateway(id) => id.to_string(),
        }
    }
}

/// A group that moves in a program, and the job that moves it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Member {
    pub(crate) group: GroupId,
    pub(crate) name: String,
    /// Derived from the program's, so that every try means the same job.
    pub(crate) job: JobId,
    /// The gateway that it goes to, and its machines with it; the one that leads when absent.
    #[serde(default)]
    pub(crate) gateway: Option<GatewayId>,
}

/// A machine of a program, and where its interfaces come out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Mover {
    pub(crate) id: MachineId,
    pub(crate) spec: MachineSpec,
    pub(crate) interfaces: Vec<Placed>,
}

/// Where an interface comes out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Placed {
    /// The network that it joins; none where a test has none.
    pub(crate) network: Option<NetworkId>,
    pub(crate) mac: String,
    #[serde(default)]
    pub(crate) bridge: Option<String>,
    /// The subnet that its address is in.
    #[serde(default)]
    pub(crate) cidr: Option<String>,
    #[serde(default)]
    pub(crate) router: Option<String>,
    #[serde(default)]
    pub(crate) address: Option<String>,
}

/// Spec of a job over a plan or a machine: what was asked for, and everything that was decided then.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct ProgramSpec {
    pub(crate) kind: JobKind,
    pub(crate) subject: Subject,
    /// Its name.
    pub(crate) name: String,
    /// The gateway that leads: it does the actions and begins the jobs of the groups.
    pub(crate) gateway: GatewayId,
    pub(crate) direction: PlanDirection,
    /// The failover, for the filters of actions; that it is in for everything that follows one.
    #[serde(default)]
    pub(crate) failover: Option<FailoverKind>,
    #[serde(default)]
    pub(crate) point: Option<String>,
    #[serde(default)]
    pub(crate) mode: Option<FailbackMode>,
    #[serde(default)]
    pub(crate) ttl_seconds: u64,
    /// How long a machine may take to stop by itself.
    #[serde(default)]
    pub(crate) patience_seconds: u64,
    #[serde(default)]
    pub(crate) notes: Option<String>,
    /// Clean-up: the tests that end.
    #[serde(default)]
    pub(crate) tests: Vec<JobId>,
    /// What is missing, and stops all but a failover after a disaster.
    #[serde(default)]
    pub(crate) warnings: Vec<String>,
    /// What isn't as it was wished for, and stops nothing.
    #[serde(default)]
    pub(crate) remarks: Vec<String>,
    #[serde(default)]
    pub(crate) shutdown: Option<PlanShutdown>,
    #[serde(default)]
    pub(crate) boot_group: Vec<BootGroup>,
    pub(crate) groups: Vec<Member>,
    #[serde(default)]
    pub(crate) machines: Vec<Mover>,
    /// The job of a drill that began this one.
    #[serde(default)]
    pub(crate) parent: Option<JobId>,
    /// A gateway that is replaced: disks that it had adopted are left alone.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) leave_disks: bool,
    /// Failback to new disks: what volumes are built on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) disks: Vec<FailbackDisk>,
}

impl ProgramSpec {
    /// A boot group for people: its name, or its number.
    pub(crate) fn boot_group_name(&self, at: usize) -> String {
        let named = self.boot_group.get(at).and_then(|group| group.name.clone());
        named.unwrap_or_else(|| format!("boot group {}", at.saturating_add(1)))
    }

    /// The machines of a boot group.
    pub(crate) fn machines_of(&self, at: usize) -> Vec<&Mover> {
        let Some(group) = self.boot_group.get(at) else { return Vec::new() };
        group.machine_ids.iter().filter_map(|id| self.machines.iter().find(|one| one.id == *id)).collect()
    }

    /// The gateway that a group goes to.
    pub(crate) fn gateway_of(&self, group: GroupId) -> GatewayId {
        let member = self.groups.iter().find(|member| member.group == group);
        member.and_then(|member| member.gateway).unwrap_or(self.gateway)
    }

    /// The gateways that run the machines of a boot group.
    pub(crate) fn hosts_of(&self, at: usize) -> BTreeSet<GatewayId> {
        self.machines_of(at).into_iter().map(|mover| self.gateway_of(mover.spec.group_id)).collect()
    }

    /// Whether a machine that runs at a gateway stays there: an earlier try of a failover got as far as that.
    pub(crate) fn stays(&self, mover: &Mover, gateway: GatewayId) -> bool {
        matches!(self.kind, JobKind::PlannedFailover | JobKind::UnplannedFailover | JobKind::ReplaceGateway)
            && self.gateway_of(mover.spec.group_id) == gateway
    }
}

/// What a step of a program is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Part {
    /// The machines of this boot group.
    BootGroup(usize),
    /// An action: where it stands, and its index there.
    Action(ActionPlace, usize),
}

/// A row of actions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum ActionPlace {
    BeforeShutdown,
    AfterShutdown,
    Before(usize),
    After(usize),
}

/// What a person said of a task that a job waited for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Answer {
    pub(crate) time: Timestamp,
    #[serde(default)]
    pub(crate) note: Option<String>,
}

/// Spec of a job's document, whatever it is about.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub(crate) enum AnySpec {
    Drill(Box<DrillJobSpec>),
    Program(Box<ProgramSpec>),
    Group(Box<JobSpec>),
}

impl AnySpec {
    pub(crate) fn kind(&self) -> JobKind {
        match self {
            Self::Drill(_) => JobKind::Drill,
            Self::Program(spec) => spec.kind,
            Self::Group(spec) => spec.kind,
        }
    }

    /// What it is about, by name.
    pub(crate) fn name(&self) -> &str {
        match self {
            Self::Drill(spec) => &spec.spec.name,
            Self::Program(spec) => &spec.name,
            Self::Group(spec) => &spec.group_name,
        }
    }

    /// What kind of thing that is, for people.
    pub(crate) fn what(&self) -> &'static str {
        match self {
            Self::Drill(_) => "drill",
            Self::Program(spec) => spec.subject.what(),
            Self::Group(_) => "group",
        }
    }

    /// The gateway that leads it.
    pub(crate) fn gateway(&self) -> GatewayId {
        match self {
            Self::Drill(spec) => spec.gateway,
            Self::Program(spec) => spec.gateway,
            Self::Group(spec) => spec.gateway,
        }
    }

    /// The document that names the job while it has it: kind and id.
    pub(crate) fn holder(&self) -> (&'static str, String) {
        match self {
            Self::Drill(spec) => (kind::DRILLS, spec.drill.to_string()),
            Self::Program(spec) => (spec.subject.kind(), spec.subject.id()),
            Self::Group(spec) => (kind::GROUPS, spec.group.to_string()),
        }
    }

    pub(crate) fn group(&self) -> Option<GroupId> {
        match self {
            Self::Drill(_) | Self::Program(_) => None,
            Self::Group(spec) => Some(spec.group),
        }
    }
}
