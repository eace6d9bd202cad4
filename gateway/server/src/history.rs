//! How well each group was protected in the last hour: a sample every half a minute, kept in memory.
//!
//! For people who look: a line tells more than a number. Whoever wants it longer has a monitoring system read `/metrics`. Nothing is
//! kept over a restart, and a group that is gone takes its samples along.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use lifeboat_api::{ProtectionHistory, ProtectionSample, ProtectionStatus};
use lifeboat_model::{GroupId, Timestamp};

use crate::context::Context;
use crate::view;

/// Time between two samples.
const EVERY: Duration = Duration::from_secs(30);
/// Samples of a group that are kept: an hour's.
const KEPT: usize = 120;

/// The samples of every group.
#[derive(Debug, Default)]
pub(crate) struct History(RwLock<HashMap<GroupId, VecDeque<Sample>>>);

#[derive(Clone, Copy, Debug)]
struct Sample {
    time: Timestamp,
    landed: Option<f32>,
    applied: Option<f32>,
    backlog: u64,
    journal: u64,
}

impl History {
    /// Notes how all groups are now. Those that aren't among them are forgotten.
    fn note(&self, now: Timestamp, groups: &[ProtectionStatus]) {
        let mut all = self.0.write().unwrap_or_else(PoisonError::into_inner);
        all.retain(|id, _| groups.iter().any(|group| group.group_id == *id));
        for group in groups {
            let samples = all.entry(group.group_id).or_default();
            if samples.len() >= KEPT {
                samples.pop_front();
            }
            #[expect(
                clippy::cast_possible_truncation,
                reason = "a line of some hundred points: seven digits are plenty"
            )]
            let short = |seconds: f64| seconds as f32;
            samples.push_back(Sample {
                time: now,
                landed: group.landed_rpo_seconds.map(short),
                applied: group.applied_rpo_seconds.map(short),
                backlog: group.backlog_bytes,
                journal: group.journal_bytes_used,
            });
        }
    }

    /// What is known of a group, oldest first.
    pub(crate) fn of(&self, group: GroupId) -> ProtectionHistory {
        let all = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let samples = all.get(&group).into_iter().flatten();
        ProtectionHistory {
            group_id: group,
            interval_seconds: EVERY.as_secs(),
            samples: samples
                .map(|sample| ProtectionSample {
                    time: sample.time,
                    landed_rpo_seconds: sample.landed.map(f64::from),
                    applied_rpo_seconds: sample.applied.map(f64::from),
                    backlog_bytes: sample.backlog,
                    journal_bytes_used: sample.journal,
                })
                .collect(),
        }
    }
}

/// Samples until the gateway stops. The first ones come sooner, so that who set something up sees a line.
pub(crate) async fn watch(context: Arc<Context>) {
    let mut pause = Duration::from_secs(2);
    while context.stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_some() {
        context.history.note(Timestamp::now(), &view::protection_of_all(&context));
        pause = (pause * 2).min(EVERY);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(id: &str, backlog: u64) -> ProtectionStatus {
        serde_json::from_value(serde_json::json!({
            "group_id": id, "group": "ledger", "state": "protected", "active_gateway_id": null, "active_site": "onprem",
            "health": "healthy", "reasons": [], "landed_rpo_seconds": 1.5, "rpo_threshold_seconds": 300.0,
            "latest_recovery_point": null, "backlog_bytes": backlog, "journal_bytes_used": 7, "churn_bytes_per_second": 0.0,
            "hydrated_bytes": null, "observed": "2026-11-20T10:05:00Z"
        }))
        .expect("a status")
    }

    #[test]
    fn an_hour_is_kept_and_what_is_gone_is_forgotten() {
        let (one, other) = ("grp-0198f2c0000070008000000000000002", "grp-0198f2c0000070008000000000000003");
        let history = History::default();
        for at in 0..200_u64 {
            history.note(Timestamp::now(), &[group(one, at), group(other, 0)]);
        }
        let known = history.of(one.parse().expect("an id"));
        let backlogs: Vec<u64> = known.samples.iter().map(|sample| sample.backlog_bytes).collect();
        assert_eq!(backlogs, (80..200).collect::<Vec<u64>>());
        assert_eq!(known.samples.first().and_then(|sample| sample.landed_rpo_seconds), Some(1.5));
        history.note(Timestamp::now(), &[group(one, 0)]);
        assert!(history.of(other.parse().expect("an id")).samples.is_empty());
        assert_eq!(history.of(one.parse().expect("an id")).samples.len(), KEPT);
    }
}
