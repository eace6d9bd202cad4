//! Agents that can be told something through this process server: their groups as instances for jobs, and what follows from what
//! they report.
//!
//! ```text
//! job's step of an agent ─> AgentInstance ─> Attendant ══ line ══> agent's group
//! report ─> group and gateway in the catalog; ─> resumed after a switch that was given up, doubted after a failover
//! policy ─> Rules ══ line ══> agent: intervals, size of the journal, hours for resyncs
//! ```
//! A step of an agent is run by whichever gateway has the agent's line just then. Two that both believe so ask the agent the same,
//! which comes to the same, and meet in the job's document. A line that breaks leaves the step where it is, for the gateway that
//! gets the next one; a step whose agent isn't heard of fails its job (see [`crate::jobs`]).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use lifeboat_api::validate::{parse_duration, parse_time_of_day};
use lifeboat_api::{GroupSpec, PolicySpec, default_at_log_percent};
use lifeboat_engine::gc::GcReport;
use lifeboat_engine::relay::{Attendant, Rules, Window};
use lifeboat_engine::{BlockVolume, EngineError, ErrorKind, GroupStatus, RehydrateMode};
use lifeboat_model::state::GroupState;
use lifeboat_model::{BranchId, GroupId, PointKind, Timestamp, VolumeId};
use lifeboat_vault::{Document, VaultError};
use tokio::task::JoinHandle;

use super::REPORT_INTERVAL;
use crate::context::Context;
use crate::data_path;
use crate::port::{EngineResult, HeldVolume, Instance, InstanceStatus, Pass, PointFact, Settings};
use crate::records::{GatewayRecord, GroupRecord, kind, status};
use crate::vaults::Snapshot;
use crate::view;

/// How long an agent may take to ship its last writes before it serves writes again.
const RELEASE_PATIENCE: Duration = Duration::from_secs(300);

/// The group of an agent, as far as its line reaches.
#[derive(Debug)]
pub(crate) struct AgentInstance {
    attendant: Arc<Attendant>,
    volumes: Vec<HeldVolume>,
    resync_wanted: AtomicBool,
}

impl AgentInstance {
    /// The group, if its agent's line is here and has said how the group is.
    pub(crate) fn find(context: &Context, group: GroupId, volumes: Vec<HeldVolume>) -> EngineResult<Arc<Self>> {
        let attendant = context.process_server.get().and_then(|server| server.attendant(group));
        let attendant = attendant.filter(|attendant| attendant.status().is_some()).ok_or_else(|| {
            EngineError::new(ErrorKind::Retry, format!("the agent of {group} isn't connected to this process server"))
        })?;
        Ok(Arc::new(Self { attendant, volumes, resync_wanted: AtomicBool::new(false) }))
    }

    fn refused<T>(&self, what: &str) -> EngineResult<T> {
        let why = format!("the agent of {} {what}: a gateway that has the group could", self.attendant.group());
        Err(EngineError::new(ErrorKind::Invalid, why))
    }

    fn resync(&self, now: bool) {
        if self.resync_wanted.swap(now, Ordering::AcqRel) == now {
            return;
        }
        let attendant = Arc::clone(&self.attendant);
        tokio::spawn(async move {
            if let Err(error) = attendant.resync(now).await {
                tracing::debug!(group = %attendant.group(), %error, "an agent wasn't told of a resync");
            }
        });
    }
}

#[async_trait]
impl Instance for AgentInstance {
    fn status(&self) -> InstanceStatus {
        // It had said something when this was made, and takes nothing back.
        self.attendant.status().map_or_else(nothing_known, data_path::instance_status)
    }

    fn volumes(&self) -> Vec<HeldVolume> {
        self.volumes.clone()
    }

    fn volume(&self, _: VolumeId) -> Option<Arc<dyn BlockVolume>> {
        None
    }

    async fn add_volume(&self, _: HeldVolume) -> EngineResult<()> {
        self.refused("takes its disks from its own settings")
    }

    async fn grow_volume(&self, _: VolumeId, _: u64) -> EngineResult<()> {
        self.refused("can't grow a disk")
    }

    async fn remove_volume(&self, _: VolumeId) -> EngineResult<()> {
        self.refused("takes its disks from its own settings")
    }

    fn set_settings(&self, _: Settings) {}

    async fn take_point(&self, kind: PointKind, label: &str) -> EngineResult<PointFact> {
        Ok(data_path::fact(&self.attendant.take_point(kind, label).await?))
    }

    async fn release(&self) -> EngineResult<PointFact> {
        Ok(data_path::fact(&self.attendant.release(RELEASE_PATIENCE).await?))
    }

    fn doubt(&self) {
        let attendant = Arc::clone(&self.attendant);
        tokio::spawn(async move { attendant.doubt().await });
    }

    fn resync_now(&self) {
        self.resync(true);
    }

    fn resync_in_window(&self) {
        self.resync(false);
    }

    async fn compare(&self) -> EngineResult<u64> {
        self.attendant.compare().await
    }

    async fn resume(&self) -> EngineResult<()> {
        self.attendant.resume().await
    }

    async fn rehydrate(&self, branch: BranchId, full: bool) -> EngineResult<Pass> {
        if self.status().state == GroupState::Active {
            // Nobody writes there who could find out. It may have found out by now: then it has nothing to look for.
            if let Err(error) = self.attendant.doubt().await {
                tracing::debug!(group = %self.attendant.group(), %error, "an agent didn't look who writes its branch");
            }
            let why =
                format!("the agent of {} has not noticed yet that its group is elsewhere", self.attendant.group());
            return Err(EngineError::new(ErrorKind::Retry, why));
        }
        let mode = if full { RehydrateMode::Full } else { RehydrateMode::Delta };
        Ok(data_path::pass(&self.attendant.rehydrate(branch, mode).await?))
    }

    async fn take_over(&self) -> EngineResult<()> {
        self.attendant.take_over().await
    }

    async fn collect_garbage(&self, _: Duration, _: bool) -> EngineResult<GcReport> {
        self.refused("has no vault")
    }

    async fn close(&self, _: Duration) {}
}

fn nothing_known() -> InstanceStatus {
    InstanceStatus {
        state: GroupState::Idle,
        branch: BranchId::from_bytes([0; 16]),
        epoch: Default::default(),
        backlog_bytes: 0,
        journal_bytes_used: 0,
        last_point: None,
        landed_rpo_seconds: None,
        health: Default::default(),
        reasons: Vec::new(),
        progress: None,
        churn_bytes_per_second: 0.0,
        flow: Default::default(),
        hydrated_bytes: None,
        resync: None,
        suspicions: Vec::new(),
    }
}

/// What is asked of agents by itself, one thing for each group at a time.
#[derive(Debug, Default)]
pub(super) struct Upkeep(BTreeMap<GroupId, JoinHandle<()>>);

impl Upkeep {
    /// Brings what agents do in line with what the catalog says, and writes down that they can be told something.
    pub(super) async fn look(&mut self, context: &Arc<Context>, attendants: Vec<Arc<Attendant>>) {
        self.0.retain(|_, asking| !asking.is_finished());
        for attendant in attendants {
            let Some(seen) = attendant.status() else { continue };
            if let Err(error) = note_heard(context, &attendant).await {
                tracing::debug!(group = %attendant.group(), %error, "it can't be told that an agent is heard");
            }
            self.ask(context, attendant, &seen).await;
        }
    }

    async fn ask(&mut self, context: &Arc<Context>, attendant: Arc<Attendant>, seen: &GroupStatus) {
        let group = attendant.group();
        if self.0.contains_key(&group) {
            return;
        }
        let Some((attached, document)) = context.find(kind::GROUPS, &group.to_string()).await else { return };
        let record: GroupRecord = status(&document);
        let rules = attendant.abilities().and_then(|_| rules(&attached.snapshot(), &document));
        if let Some(rules) = rules.filter(|rules| !attendant.follows(rules)) {
            let telling = tokio::spawn(async move {
                if let Err(error) = attendant.rule(rules).await {
                    tracing::debug!(%group, %error, "an agent wasn't told what its policy says");
                }
            });
            self.0.insert(group, telling);
            return;
        }
        let Some(active) = &record.active else { return };
        let own = active.gateway == attendant.agent();
        let asking = match seen.state {
            // A switch that was begun and given up: the group is still the agent's.
            GroupState::Standby if own && record.job.is_none() && !record.released => tokio::spawn(async move {
                match attendant.resume().await {
                    Ok(()) => tracing::info!(%group, "an agent resumed after an abandoned switch"),
                    Err(error) => tracing::warn!(%group, %error, "an agent can't be resumed yet"),
                }
            }),
            // The group is active elsewhere: an idle agent would find out late.
            GroupState::Active if !own => tokio::spawn(async move {
                if let Err(error) = attendant.doubt().await {
                    tracing::debug!(%group, %error, "an agent wasn't told to look who writes its branch");
                }
            }),
            _ => return,
        };
        self.0.insert(group, asking);
    }
}

/// What the policy of a group says that its agent has to do itself; nothing while the policy isn't known.
fn rules(snapshot: &Snapshot, group: &Document) -> Option<Rules> {
    let spec: GroupSpec = group.spec_as().ok()?;
    rules_of(&spec, &view::policy_of(snapshot, &spec, &status(group))?)
}

fn rules_of(spec: &GroupSpec, policy: &PolicySpec) -> Option<Rules> {
    let ms = |text: &str| parse_duration(text).ok().and_then(|found| u64::try_from(found.as_millis()).ok());
    let minutes = |text: &Option<String>| text.as_deref().and_then(|text| parse_time_of_day(text).ok());
    let resync = policy.resync.as_ref();
    let window = resync.and_then(|resync| {
        let minutes = (minutes(&resync.window_start)?, minutes(&resync.window_end)?);
        Some(Window { minutes, zone: resync.timezone.clone().unwrap_or_default() })
    });
    Some(Rules {
        point_ms: ms(&policy.recovery_point_interval)?,
        // Whoever coordinates its replication group has them taken by all of it at once.
        app_point_ms: policy.app_consistent_interval.as_deref().filter(|_| spec.shared_points.is_none()).and_then(ms),
        journal_percent: resync
            .map_or_else(default_at_log_percent, |resync| resync.at_log_percent)
            .try_into()
            .unwrap_or(u8::MAX),
        resync: window,
    })
}

/// Writes down that an agent can be told something, as often as gateways say that they are there, and what it can do.
async fn note_heard(context: &Context, attendant: &Attendant) -> Result<(), VaultError> {
    let Some((attached, _)) = context.find(kind::GROUPS, &attendant.group().to_string()).await else { return Ok(()) };
    let id = attendant.agent().to_string();
    let abilities = attendant.abilities();
    let (follows_policy, hooks_ms) = (abilities.is_some(), abilities.and_then(|abilities| abilities.hooks_ms));
    let compares = abilities.is_some_and(|abilities| abilities.compares);
    let Some(record) = attached.snapshot().get(kind::GATEWAYS, &id).map(|document| status::<GatewayRecord>(document))
    else {
        return Ok(());
    };
    let due = |heard: Timestamp| Timestamp::now().seconds_since(heard) >= REPORT_INTERVAL.as_secs_f64();
    let known = (record.follows_policy, record.hooks_ms, record.compares) == (follows_policy, hooks_ms, compares);
    if known && !record.heard.is_none_or(due) {
        return Ok(());
    }
    let vault = attached.vault()?;
    let now = Timestamp::now();
    vault
        .catalog()
        .update_status(kind::GATEWAYS, &id, &mut |found| {
            let mut found: GatewayRecord = status(found);
            (found.heard, found.last_seen) = (Some(now), Some(now));
            (found.follows_policy, found.hooks_ms, found.compares) = (follows_policy, hooks_ms, compares);
            serde_json::to_value(&found).ok()
        })
        .await?;
    attached.refresh().await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use lifeboat_api::{Resync, SharedPoints};
    use lifeboat_model::{PolicyId, SiteId, VaultId};

    use super::*;

    #[test]
    fn a_policy_is_told_as_what_the_agent_has_to_do_itself() {
        let policy = PolicySpec {
            vault_id: VaultId::new(),
            name: "gold".into(),
            recovery_point_interval: "10s".into(),
            app_consistent_interval: Some("4h".into()),
            retention: Vec::new(),
            rpo_threshold: "5m".into(),
            resync: Some(Resync {
                at_log_percent: 20,
                window_start: Some("22:00".into()),
                window_end: Some("06:00".into()),
                timezone: None,
            }),
            bandwidth_limit: Vec::new(),
            compression: "auto".into(),
        };
        let group = GroupSpec {
            vault_id: policy.vault_id,
            site_id: SiteId::new(),
            name: "erp".into(),
            policy_id: PolicyId::new(),
            app_consistency: None,
            shared_points: None,
        };
        let rules = rules_of(&group, &policy).expect("known");
        let window = Window { minutes: (22 * 60, 6 * 60), zone: String::new() };
        assert_eq!((rules.point_ms, rules.app_point_ms), (10_000, Some(14_400_000)));
        assert_eq!((rules.journal_percent, rules.resync), (20, Some(window)));
        // Whoever coordinates has them taken.
        let shared = SharedPoints { replication_group: "shop".into(), every: "1m".into() };
        let together = GroupSpec { shared_points: Some(shared), ..group.clone() };
        assert_eq!(rules_of(&together, &policy).expect("known").app_point_ms, None);
        let plain = PolicySpec { resync: None, app_consistent_interval: None, ..policy };
        let rules = rules_of(&group, &plain).expect("known");
        assert_eq!((rules.app_point_ms, rules.journal_percent, rules.resync), (None, 50, None));
    }
}
