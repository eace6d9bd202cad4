//! Replication policies: how often, how long, how fast.

use lifeboat_model::{Day, GroupId, Hours, PolicyId, VaultId};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::resource;
use crate::validate::parse_time_of_day;

/// A replication policy as declared. Durations are a number and a unit: `5s`, `15m`, `24h`, `15d`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PolicySpec {
    /// The vault it belongs to. Cannot be changed.
    #[schema(value_type = String)]
    pub vault_id: VaultId,
    /// 1 to 64 characters, unique in the vault.
    pub name: String,
    /// Time between recovery points: 1s to 1h.
    #[serde(default = "default_interval")]
    pub recovery_point_interval: String,
    /// Time between application-consistent points: at least the interval, at most 7d.
    #[serde(default)]
    pub app_consistent_interval: Option<String>,
    /// What is kept, from the newest points to the oldest; at least one rule. The order is kept.
    pub retention: Vec<RetentionRule>,
    /// A landed recovery point older than this makes a group unhealthy: at least the interval, at most 7d.
    #[serde(default = "default_rpo_threshold")]
    pub rpo_threshold: String,
    /// When a group that has lost its log is compared afresh.
    #[serde(default)]
    pub resync: Option<Resync>,
    /// Limits on what is sent to the vault. The order is kept; the first that applies counts.
    #[serde(default)]
    pub bandwidth_limit: Vec<BandwidthLimit>,
    /// `auto`, `off`, or `zstd:1` to `zstd:19`.
    #[serde(default = "default_compression")]
    pub compression: String,
}

/// One rule of a retention schedule: of the points younger than `for`, one every `every` is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RetentionRule {
    /// `all`, or a duration not shorter than the recovery point interval.
    pub every: String,
    /// Age up to which the rule counts; each rule reaches further back than the one before.
    #[serde(rename = "for")]
    pub keep_for: String,
}

/// When a resync may run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Resync {
    /// Size of a group's journal, percent of its volumes' size: 10 to 95. When it is full, the unshipped log is collapsed.
    #[serde(default = "default_at_log_percent")]
    pub at_log_percent: u32,
    /// `HH:MM`; together with `window_end`.
    #[serde(default)]
    pub window_start: Option<String>,
    /// `HH:MM`; together with `window_start`.
    #[serde(default)]
    pub window_end: Option<String>,
    /// IANA name, for example `Europe/Zurich`; UTC when absent.
    #[serde(default)]
    pub timezone: Option<String>,
}

/// A limit on what is sent to the vault.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BandwidthLimit {
    /// Megabits per second: 1 to 100000.
    pub mbps: u32,
    /// Days on which it counts, `mon` to `sun`; every day when empty.
    #[serde(default)]
    pub days: Vec<String>,
    /// `HH:MM`; together with `end`. The whole day when absent.
    #[serde(default)]
    pub start: Option<String>,
    /// `HH:MM`; together with `start`. A window past midnight belongs to the day on which it begins.
    #[serde(default)]
    pub end: Option<String>,
    /// IANA name, for example `Europe/Zurich`; UTC when absent.
    #[serde(default)]
    pub timezone: Option<String>,
}

impl BandwidthLimit {
    /// When it counts.
    ///
    /// # Errors
    /// What is wrong with its days, times or time zone.
    pub fn hours(&self) -> Result<Hours, String> {
        hours(&self.days, self.start.as_deref(), self.end.as_deref(), self.timezone.as_deref())
    }
}

impl Resync {
    /// When a resync may run by itself.
    ///
    /// # Errors
    /// What is wrong with its times or time zone.
    pub fn hours(&self) -> Result<Hours, String> {
        hours(&[], self.window_start.as_deref(), self.window_end.as_deref(), self.timezone.as_deref())
    }
}

/// Hours of the week, from their fields.
pub(super) fn hours(
    days: &[String],
    start: Option<&str>,
    end: Option<&str>,
    zone: Option<&str>,
) -> Result<Hours, String> {
    let days: Option<Vec<Day>> = days.iter().map(|day| Day::parse(day)).collect();
    let days = days.ok_or("days must be mon, tue, wed, thu, fri, sat or sun")?;
    let window = match (start, end) {
        (Some(start), Some(end)) => Some((parse_time_of_day(start)?, parse_time_of_day(end)?)),
        _ => None,
    };
    Hours::new(&days, window, zone).map_err(|error| error.to_string())
}

/// A policy as observed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PolicyStatus {
    /// The groups that it governs, also those of single volumes.
    #[schema(value_type = Vec<String>)]
    pub group_ids: Vec<GroupId>,
}

resource! {
    /// A replication policy.
    Policy, PolicyId, PolicySpec, PolicyStatus
}

/// Default of `recovery_point_interval`.
#[must_use]
pub fn default_interval() -> String {
    "5s".to_owned()
}

/// Default of `rpo_threshold`.
#[must_use]
pub fn default_rpo_threshold() -> String {
    "5m".to_owned()
}

/// Default of `compression`.
#[must_use]
pub fn default_compression() -> String {
    "auto".to_owned()
}

/// Default of `resync.at_log_percent`.
#[must_use]
pub const fn default_at_log_percent() -> u32 {
    50
}
