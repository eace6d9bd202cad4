//! What stands in the catalog about drills: the runs of each, and what a run under way has found.

use lifeboat_api::{AssertionType, DrillRun, DrillSpec, MachineRun};
use lifeboat_model::{DrillId, GatewayId, GroupId, JobId, PlanId, PointId, Timestamp};
use serde::{Deserialize, Serialize};

/// Status of a drill's document.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct DrillRecord {
    /// The job that has it; no other may begin.
    pub(crate) job: Option<JobId>,
    /// The last job that failed, until one succeeds.
    pub(crate) failed_job: Option<JobId>,
    /// The runs that came to an end, the newest first.
    pub(crate) runs: Vec<DrillRun>,
    /// When a run began last, by a person or by itself.
    pub(crate) begun: Option<Timestamp>,
    /// The test failover of the newest run.
    pub(crate) test: Option<JobId>,
    /// The run of which it was said that it is worth nothing any more.
    pub(crate) expiry_told: Option<JobId>,
}

/// Spec of a job that is a run of a drill: what was declared when it was asked for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct DrillJobSpec {
    pub(crate) drill: DrillId,
    pub(crate) plan: PlanId,
    pub(crate) plan_name: String,
    /// The gateway that leads.
    pub(crate) gateway: GatewayId,
    pub(crate) spec: DrillSpec,
    /// Whether it began by itself.
    #[serde(default)]
    pub(crate) scheduled: bool,
}

/// What a run has found so far; part of its job's document.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Findings {
    /// The test failover of the plan.
    pub(crate) test: Option<JobId>,
    /// When that began.
    pub(crate) started: Option<Timestamp>,
    /// When everything of it was up.
    pub(crate) up: Option<Timestamp>,
    /// Seconds that a disaster would have lost.
    pub(crate) rpo_seconds: Option<f64>,
    /// Where each group started from.
    pub(crate) points: Vec<PointUsed>,
    /// The machines that ran.
    pub(crate) machines: Vec<MachineRun>,
    /// What became of the assertions, by their place in the declaration.
    pub(crate) results: Vec<AssertionResult>,
    /// What the screens looked like at the end.
    pub(crate) pictures: Vec<Picture>,
    /// Whether nothing is left of the test.
    pub(crate) cleaned: bool,
    /// What is worth knowing and counts for nothing.
    pub(crate) notes: Vec<String>,
    /// What went wrong beside the assertions.
    pub(crate) troubles: Vec<String>,
    /// A person broke it off.
    pub(crate) broken_off: bool,
}

/// The recovery point that a group started from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct PointUsed {
    pub(crate) group_id: GroupId,
    pub(crate) group: String,
    pub(crate) point_id: Option<PointId>,
    pub(crate) point_time: Option<Timestamp>,
    /// Seconds of writes that a disaster at the start of the test would have lost, at most.
    #[serde(default)]
    pub(crate) lost_seconds: Option<f64>,
}

/// What became of an assertion.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct AssertionResult {
    /// Its place in the declaration.
    pub(crate) index: usize,
    #[serde(rename = "type")]
    pub(crate) kind: AssertionType,
    /// What it is about, by name.
    pub(crate) of: String,
    /// What has to be.
    pub(crate) wanted: String,
    /// What is.
    pub(crate) found: String,
    pub(crate) passed: bool,
    /// When it held, or was given up.
    pub(crate) at: Timestamp,
}

/// A picture of a machine's screen; the picture itself is a document of its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Picture {
    pub(crate) machine: String,
    /// Id of its document.
    pub(crate) document: String,
    /// Of the PNG.
    pub(crate) sha256: String,
    /// What it looks like, for comparisons: 16 hexadecimal digits.
    pub(crate) looks: Option<String>,
}

/// Spec of the document that keeps a run's evidence.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct EvidenceRecord {
    pub(crate) drill: DrillId,
    pub(crate) evidence: String,
    pub(crate) signature: String,
    pub(crate) public_key: String,
    /// Ids of the documents of its pictures.
    #[serde(default)]
    pub(crate) pictures: Vec<String>,
}
