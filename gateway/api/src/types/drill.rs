//! Drills: recovery plans that are tested, what is asserted of them, and the evidence of how it came out.

use lifeboat_model::{DrillId, GatewayId, Hours, JobId, MachineId, PlanId, Timestamp, VolumeId};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::resource;

/// A drill as declared. Declaring it runs nothing: `:run` does, and its schedule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DrillSpec {
    /// The plan that is tested. Cannot be changed.
    #[schema(value_type = String)]
    pub plan_id: PlanId,
    /// Letters, digits, `.`, `_`, `-`, at most 63 characters; unique in the vault.
    pub name: String,
    /// The point that it starts from: `latest`, `latest-processed`, `latest-app-consistent`, `latest-shared`, `latest-shared-app-consistent` or a time.
    #[serde(default = "super::default_point")]
    pub point: String,
    /// What the machines join: `isolated`, the networks for tests that the mappings name; or the id of a network of the
    /// target site.
    #[serde(default = "default_drill_network")]
    pub network: String,
    /// What has to hold, at most 256; all of it is looked at side by side.
    #[serde(default)]
    pub assertion: Vec<Assertion>,
    /// Longest time from the start of the test until everything that is asserted of its machines holds.
    #[serde(default)]
    pub max_rto: Option<String>,
    /// Longest time before the start of the test that may be lost.
    #[serde(default)]
    pub max_rpo: Option<String>,
    /// How long a run that passed is worth something: 1h to 3650d.
    #[serde(default = "default_valid_for")]
    pub valid_for: String,
    /// Leaves the test up, for at most 30 days: `:cleanup` ends it.
    #[serde(default)]
    pub keep: bool,
    /// When it runs by itself.
    #[serde(default)]
    pub schedule: Option<DrillSchedule>,
}

/// When a drill runs by itself: begun by a gateway of the plan's target site.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DrillSchedule {
    /// Time from the start of one run to the next, whoever began it; before the first, from the declaration: 1h to 365d.
    pub every: String,
    /// Only on these days, `mon` to `sun`; on all when empty.
    #[serde(default)]
    pub days: Vec<String>,
    /// `HH:MM`; together with `end`. A window past midnight belongs to the day on which it begins.
    #[serde(default)]
    pub start: Option<String>,
    /// `HH:MM`; together with `start`.
    #[serde(default)]
    pub end: Option<String>,
    /// IANA name; UTC when absent.
    #[serde(default)]
    pub timezone: Option<String>,
}

impl DrillSchedule {
    /// When a run may begin by itself.
    ///
    /// # Errors
    /// What is wrong with its days, times or time zone.
    pub fn hours(&self) -> Result<Hours, String> {
        super::policy::hours(&self.days, self.start.as_deref(), self.end.as_deref(), self.timezone.as_deref())
    }
}

/// Something that has to hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Assertion {
    /// What is looked at.
    #[serde(rename = "type")]
    pub kind: AssertionType,
    /// `boots`, `tcp`, `http`, `screen`: a machine of the plan.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    pub machine_id: Option<MachineId>,
    /// `file_hash`: a volume of the plan.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    pub volume_id: Option<VolumeId>,
    /// How long it may take from when it is looked at first, which is once everything is up: 1s to 24h.
    #[serde(default = "default_within")]
    pub within: String,
    /// `boots`: what stands on the machine's console then; `login:` when absent. `http`: what stands in the answer.
    #[serde(default)]
    pub contains: Option<String>,
    /// `tcp`, `http`: the port; 80 for `http` when absent, 443 with `tls`.
    #[serde(default)]
    pub port: Option<u16>,
    /// `tcp`, `http`: the interface of the machine, counted from 0; the first when absent.
    #[serde(default)]
    pub interface: Option<u32>,
    /// `http`: what is asked for, `/` when absent. `file_hash`: the file, from the root of the volume's file system.
    #[serde(default)]
    pub path: Option<String>,
    /// `http`: the answer's status; any of the 2xx kind when absent.
    #[serde(default)]
    pub status: Option<u16>,
    /// `http`: over TLS. Nobody's certificate is right in a network for tests: it isn't checked.
    #[serde(default)]
    pub tls: bool,
    /// `http`: the answer's SHA-256. `file_hash`: the file's. 64 hexadecimal digits.
    #[serde(default)]
    pub sha256: Option<String>,
    /// `file_hash`: the partition that the file system is in, counted from 1; the whole volume when absent.
    #[serde(default)]
    pub partition: Option<u32>,
    /// `script`: file name of a program in the directory of hooks of the gateway that runs the drill.
    #[serde(default)]
    pub script: Option<String>,
    /// `screen`: what the screen looks like, 16 hexadecimal digits as an earlier run's evidence gives them; anything but a
    /// blank screen when absent.
    #[serde(default)]
    pub picture: Option<String>,
}

/// What an assertion looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum AssertionType {
    /// A text on the machine's console.
    Boots,
    /// A port of the machine takes a connection.
    Tcp,
    /// A web server of the machine answers.
    Http,
    /// A file on a volume has the right content.
    FileHash,
    /// A program of the administrator's ends well.
    Script,
    /// The machine's screen shows something.
    Screen,
}

impl AssertionType {
    /// Every type.
    pub const ALL: [Self; 6] = [Self::Boots, Self::Tcp, Self::Http, Self::FileHash, Self::Script, Self::Screen];

    /// The word on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Boots => "boots",
            Self::Tcp => "tcp",
            Self::Http => "http",
            Self::FileHash => "file_hash",
            Self::Script => "script",
            Self::Screen => "screen",
        }
    }

    /// Whether it is about a machine.
    #[must_use]
    pub const fn is_of_machine(self) -> bool {
        matches!(self, Self::Boots | Self::Tcp | Self::Http | Self::Screen)
    }
}

/// How a drill stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum DrillState {
    /// It never came to an end.
    #[default]
    NeverRun,
    /// It runs.
    Running,
    /// The last run passed, and is worth something still.
    Passed,
    /// The last run didn't pass.
    Failed,
    /// The last run passed, too long ago.
    Expired,
}

impl DrillState {
    /// The word on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NeverRun => "never-run",
            Self::Running => "running",
            Self::Passed => "passed",
            Self::Failed => "failed",
            Self::Expired => "expired",
        }
    }
}

/// How a run came out.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct DrillOutcome {
    /// Whether everything was as it has to be.
    pub passed: bool,
    /// Seconds from the start of the test until everything that is asserted of its machines held; absent when it didn't.
    pub rto_seconds: Option<f64>,
    /// Seconds between the recovery point and the start of the test; absent when there was no test.
    pub rpo_seconds: Option<f64>,
    /// What wasn't as it has to be.
    pub failures: Vec<String>,
}

/// A run of a drill that came to an end.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct DrillRun {
    /// The job that it was.
    #[schema(value_type = String)]
    pub job_id: JobId,
    /// The gateway that led it.
    #[schema(value_type = String)]
    pub gateway_id: GatewayId,
    /// When it began.
    #[schema(value_type = String, format = DateTime)]
    pub started: Timestamp,
    /// When its evidence was signed.
    #[schema(value_type = String, format = DateTime)]
    pub finished: Timestamp,
    /// How it came out.
    pub outcome: DrillOutcome,
}

/// A drill as observed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct DrillStatus {
    /// How it stands.
    pub state: DrillState,
    /// The name of its plan.
    pub plan: Option<String>,
    /// The job that has it, else the last one that failed.
    #[schema(value_type = Option<String>)]
    pub job_id: Option<JobId>,
    /// Its last runs, the newest first.
    pub runs: Vec<DrillRun>,
    /// When the last run is worth nothing any more, if it passed.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub expires: Option<Timestamp>,
    /// When it runs by itself next, if the hours allow; absent without a schedule.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub next_run: Option<Timestamp>,
    /// The job of its test that is up.
    #[schema(value_type = Option<String>)]
    pub test_job_id: Option<JobId>,
}

resource! {
    /// A drill.
    Drill, DrillId, DrillSpec, DrillStatus
}

/// The evidence of a run: `GET /v1/drills/{id}/evidence`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct DrillEvidence {
    /// The run.
    #[schema(value_type = String)]
    pub job_id: JobId,
    /// What was found, a JSON document. What is signed are the bytes of this text.
    pub evidence: String,
    /// Signature by Ed25519, base64.
    pub signature: String,
    /// The public key that goes with it, base64: that of the gateway that led the run.
    pub public_key: String,
}

/// `:run` of a drill. Any gateway takes it; one of the plan's target site leads.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DrillRunRequest {}

/// Default of `network`.
#[must_use]
pub fn default_drill_network() -> String {
    "isolated".to_owned()
}

/// Default of `valid_for`.
#[must_use]
pub fn default_valid_for() -> String {
    "90d".to_owned()
}

/// Default of `assertion.within`.
#[must_use]
pub fn default_within() -> String {
    "5m".to_owned()
}
