//! What each step does. Every one may be run again after a crash at any point and comes to the same.

mod protection;
mod replace;
mod resync;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use lifeboat_api::{FailbackMode, JobKind};
use lifeboat_engine::{EngineError, ErrorKind};
use lifeboat_model::state::GroupState;
use lifeboat_model::{BLOCK_SIZE_U64, GatewayId, JobId, PointKind, Timestamp};
use lifeboat_vault::{VaultError, VaultErrorKind};

use super::{change_group, change_job, report_progress};
use crate::adoption;
use crate::context::Context;
use crate::port::{EngineResult, FailOverTo, Instance, Pass, PointFact};
use crate::reconcile::{ensure_open, place};
use crate::records::{
    ActiveRecord, FailoverRecord, GroupRecord, HOME_INSTANCE, JobRecord, JobSpec, LeftRecord, Step, TestRecord,
    VolumeRecord, kind, status,
};
use crate::streams::AgentInstance;
use crate::vaults::AttachedVault;
use crate::view;

/// Passes of a rehydration before the rest is left to the last one.
const PASSES_MAX: u32 = 8;
/// A pass that moved no more than this leaves little enough for the stop.
const SMALL_PASS_BLOCKS: u64 = (64 << 20) / BLOCK_SIZE_U64;
/// Tries to reach the final point once nothing is written any more.
const LAST_PASSES_MAX: u32 = 5;
const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);
const CLOSE_DEADLINE: Duration = Duration::from_secs(10);

/// What a step changes in its job's record.
type Apply = Box<dyn Fn(&mut JobRecord) + Send + Sync>;

/// A step that is done.
pub(super) struct Done {
    pub(super) message: String,
    pub(super) apply: Apply,
}

impl Done {
    pub(super) fn new(message: impl Into<String>) -> Self {
        Self::with(message, |_| {})
    }

    pub(super) fn with(message: impl Into<String>, apply: impl Fn(&mut JobRecord) + Send + Sync + 'static) -> Self {
        Self { message: message.into(), apply: Box::new(apply) }
    }
}

/// A step that isn't.
#[derive(Debug)]
pub(super) enum Failure {
    /// It may go away by itself.
    Passing(String),
    /// It won't.
    Final(String),
    /// A person asked for it.
    Cancelled,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Passing(cause) | Self::Final(cause) => f.write_str(cause),
            Self::Cancelled => f.write_str("a person asked for the job to stop"),
        }
    }
}

impl From<EngineError> for Failure {
    fn from(error: EngineError) -> Self {
        match error.kind() {
            ErrorKind::Retry => Self::Passing(error.to_string()),
            _ => Self::Final(error.to_string()),
        }
    }
}

impl From<VaultError> for Failure {
    fn from(error: VaultError) -> Self {
        match error.kind() {
            // Writers that are faster than we are, or a vault that is away.
            VaultErrorKind::Retry | VaultErrorKind::Conflict => Self::Passing(error.to_string()),
            _ => Self::Final(error.to_string()),
        }
    }
}

/// What a step works on.
pub(super) struct Work<'a> {
    pub(super) context: &'a Arc<Context>,
    pub(super) attached: &'a Arc<AttachedVault>,
    pub(super) id: JobId,
    pub(super) spec: &'a JobSpec,
    pub(super) record: &'a JobRecord,
    /// Whose step it is: this gateway, or an agent whose line it has.
    pub(super) own: GatewayId,
}

pub(super) async fn perform(work: &Work<'_>, step: Step) -> Result<Done, Failure> {
    match step {
        Step::Prerequisites => work.prerequisites(),
        Step::SetUp => work.set_up().await,
        Step::Finalize => Ok(work.finalize()),
        Step::TakePoint => work.take_point().await,
        Step::Release => work.release().await,
        Step::Resume => work.resume().await,
        Step::Branch => work.branch(false).await,
        Step::TestBranch => work.test_branch().await,
        Step::RecordFailover => work.record_failover().await,
        Step::Commit => work.commit().await,
        Step::EndTests => work.end_tests().await,
        Step::Rehydrate => work.rehydrate().await,
        Step::LastDelta => work.last_delta().await,
        Step::TakeOver => work.take_over().await,
        Step::TakeOverLazily => work.take_over_lazily().await,
        Step::Retire => work.retire().await,
        Step::Compare => work.compare().await,
        Step::Resync => work.resync().await,
        Step::MoveHome => work.move_home().await,
        other => Err(Failure::Final(format!("a step that no group has: {}", other.title()))),
    }
}

impl Work<'_> {
    fn dir(&self, instance: &str) -> PathBuf {
        self.context.state.group(self.spec.group).join(instance)
    }

    /// The name of the instance that this job makes.
    fn name(&self) -> String {
        self.id.to_string()
    }

    async fn group(&self) -> Result<GroupRecord, Failure> {
        let vault = self.attached.vault()?;
        let document = vault.catalog().get(kind::GROUPS, &self.spec.group.to_string()).await?;
        Ok(status(&document))
    }

    async fn open(&self, instance: &str) -> Result<Arc<dyn Instance>, Failure> {
        let opened = ensure_open(self.context, self.attached, self.spec.group, instance).await?;
        opened.ok_or_else(|| {
            Failure::Final(format!(
                "this gateway has no local state of the group {} ({}): its state directory was lost or replaced",
                self.spec.group_name,
                self.dir(instance).display()
            ))
        })
    }

    /// Whether the step is an agent's, who is told what to do.
    fn is_agents(&self) -> bool {
        self.context.own_gateway(self.attached) != Some(self.own)
    }

    /// The group at the agent whose step this is.
    fn agents(&self) -> Result<Arc<dyn Instance>, Failure> {
        let volumes = view::held(&view::volumes_of(&self.attached.snapshot(), self.spec.group));
        Ok(AgentInstance::find(self.context, self.spec.group, volumes)?)
    }

    /// The instance through which this gateway, or the agent whose step it is, serves the group.
    async fn active(&self) -> Result<(ActiveRecord, Arc<dyn Instance>), Failure> {
        let record = self.group().await?;
        let active = record.active.filter(|active| self.own == active.gateway).ok_or_else(|| {
            Failure::Final(format!("the group {} isn't active at this gateway any more", self.spec.group_name))
        })?;
        if self.is_agents() {
            return Ok((active, self.agents()?));
        }
        let instance = self.open(&active.instance).await?;
        Ok((active, instance))
    }

    async fn set_up(&self) -> Result<Done, Failure> {
        let lock = self.context.instances.lock(self.spec.group);
        let guard = lock.lock().await;
        let snapshot = self.attached.snapshot();
        let volumes = view::volumes_of(&snapshot, self.spec.group);
        if volumes.is_empty() {
            return Err(Failure::Final("its volumes were deleted before it was set up".to_owned()));
        }
        let dir = self.dir(HOME_INSTANCE);
        let place = place(self.context, self.attached, self.spec.group, dir.clone())?;
        let instance = match self.context.instances.get(self.spec.group, HOME_INSTANCE) {
            Some(open) => open.instance,
            None if self.context.engine.exists(&dir) => self.context.engine.open(place).await?,
            None => {
                let held = view::held(&volumes);
                let home = view::home_of(&self.group().await?, &volumes).unwrap_or(self.spec.gateway);
                for volume in &held {
                    adoption::admit(self.context, self.spec.gateway, home, volume)?;
                }
                self.context.engine.create(place, held).await?
            }
        };
        self.context.keep(self.spec.group, HOME_INSTANCE, Arc::clone(&instance));
        drop(guard);
        let branch = instance.status().branch;
        change_group(self.attached, self.spec, |record| {
            if record.active.is_some() {
                return false;
            }
            record.active =
                Some(ActiveRecord { gateway: self.spec.gateway, branch, instance: HOME_INSTANCE.to_owned() });
            record.home_instance = Some(HOME_INSTANCE.to_owned());
            true
        })
        .await?;
        Ok(Done::with(format!("{} volumes are protected", volumes.len()), move |record| {
            record.result.branch_id = Some(branch);
        }))
    }

    async fn take_point(&self) -> Result<Done, Failure> {
        let (_, instance) = self.active().await?;
        let kind = if self.spec.app_consistent { PointKind::AppConsistent } else { PointKind::Manual };
        let point = instance.take_point(kind, &self.spec.label).await?;
        Ok(Done::with(format!("took {}", point.time), move |record| found_point(record, &point)))
    }

    async fn release(&self) -> Result<Done, Failure> {
        let (active, instance) = self.active().await?;
        let found = instance.status();
        let point = match found.state {
            // An earlier try got as far as this: the final point is the branch's last.
            GroupState::Standby => match found.last_point {
                Some(point) => point,
                None => self.last_point(&active).await?,
            },
            GroupState::Active => instance.release().await?,
            state => {
                return Err(Failure::Final(format!(
                    "the group {} is {state} here and can't be given up in order; if this gateway was left, fail over unplanned",
                    self.spec.group_name
                )));
            }
        };
        if self.spec.kind == JobKind::Release {
            change_group(self.attached, self.spec, |record| !std::mem::replace(&mut record.released, true)).await?;
        }
        let stopped = Timestamp::now();
        Ok(Done::with(format!("everything is in the vault; final point {}", point.time), move |record| {
            found_point(record, &point);
            record.stopped.get_or_insert(stopped);
        }))
    }

    async fn last_point(&self, active: &ActiveRecord) -> Result<PointFact, Failure> {
        let vault = self.attached.vault()?;
        let points = self.context.engine.points(&vault, self.spec.group, active.branch).await?;
        points.into_iter().next_back().ok_or_else(|| Failure::Final("its branch has no recovery point".to_owned()))
    }

    async fn resume(&self) -> Result<Done, Failure> {
        let (_, instance) = self.active().await?;
        if instance.status().state == GroupState::Standby {
            instance.resume().await?;
        }
        change_group(self.attached, self.spec, |record| std::mem::replace(&mut record.released, false)).await?;
        Ok(Done::new("it can be written again"))
    }

    /// The new branch, open at this gateway.
    async fn branch(&self, test: bool) -> Result<Done, Failure> {
        let name = self.name();
        let missing = |what: &str| Failure::Final(format!("the job says nothing of the {what}"));
        let wanted = self.spec.point.or(self.record.result.point_id);
        let from = self.spec.from_branch.ok_or_else(|| missing("branch to leave"))?;
        let branch = self.spec.new_branch.ok_or_else(|| missing("branch to make"))?;
        let lock = self.context.instances.lock(self.spec.group);
        let guard = lock.lock().await;
        // What was made just now stands at its origin still, unless it took a point of its own already: asking the vault
        // costs many requests.
        let mut origin = None;
        if self.context.instances.get(self.spec.group, &name).is_none() {
            let dir = self.dir(&name);
            let place = place(self.context, self.attached, self.spec.group, dir.clone())?;
            let instance = if self.context.engine.exists(&dir) {
                self.context.engine.open(place).await?
            } else {
                let to = FailOverTo { from, point: wanted, branch, test, disks: self.disks() };
                let made = self.context.engine.fail_over(place, to).await?;
                origin = made.status().last_point.filter(|point| point.branch != branch);
                made
            };
            self.context.keep(self.spec.group, &name, instance);
        }
        drop(guard);
        if origin.is_none() {
            let vault = self.attached.vault()?;
            origin = self.context.engine.origin(&vault, self.spec.group, branch).await?;
        }
        let origin = origin.ok_or_else(|| missing("recovery point that it started from"))?;
        Ok(Done::with(format!("branch {branch} begins at {}", origin.time), move |record| {
            record.result.branch_id = Some(branch);
            found_point(record, &origin);
        }))
    }

    async fn test_branch(&self) -> Result<Done, Failure> {
        let done = self.branch(true).await?;
        let (Some(branch), Some(point), Some(point_time)) =
            (self.spec.new_branch, self.spec.point, self.spec.point_time)
        else {
            return Err(Failure::Final("the job says nothing of its recovery point".to_owned()));
        };
        let test = TestRecord { job: self.id, gateway: self.spec.gateway, branch, point, point_time };
        change_group(self.attached, self.spec, |record| {
            if record.tests.contains(&test) {
                return false;
            }
            record.tests.push(test.clone());
            true
        })
        .await?;
        let paths = self.paths(&format!("branches/{branch}"), &self.name());
        let measures = self.measures(point_time);
        Ok(Done::with(done.message, move |record| {
            record.result.branch_id = Some(branch);
            record.result.point_id = Some(point);
            record.result.point_time = Some(point_time);
            (record.result.rpo_seconds, record.result.rto_seconds) = measures;
            record.result.paths.clone_from(&paths);
        }))
    }

    /// Seconds that were lost, and seconds until now.
    fn measures(&self, point_time: Timestamp) -> (Option<f64>, Option<f64>) {
        let asked = self.record.started.unwrap_or_else(Timestamp::now);
        let rpo = match self.spec.kind {
            JobKind::PlannedFailover | JobKind::MoveGroup => Some(0.0),
            // What was lost was decided by the failover before, and by whoever chose the point.
            JobKind::ChangePoint => None,
            _ => Some(asked.seconds_since(point_time)),
        };
        (rpo, Some(Timestamp::now().seconds_since(asked)))
    }

    /// The files of an instance's volumes in this gateway's mount.
    fn paths(&self, directory: &str, instance: &str) -> Vec<String> {
        let Some(mount) = self.context.exported.path() else { return Vec::new() };
        let Some(open) = self.context.instances.get(self.spec.group, instance) else { return Vec::new() };
        let snapshot = self.attached.snapshot();
        open.instance
            .volumes()
            .into_iter()
            .map(|volume| {
                // The vault's log knows ids only: the name is the declaration's.
                let declared = snapshot.get(kind::VOLUMES, &volume.id.to_string());
                let name = declared.map_or(volume.name, |document| document.name.clone());
                mount.join(directory).join(format!("{name}.img")).display().to_string()
            })
            .collect()
    }

    async fn record_failover(&self) -> Result<Done, Failure> {
        let name = self.name();
        let instance = self.open(&name).await?;
        let branch = instance.status().branch;
        let (Some(point), Some(point_time)) =
            (self.spec.point.or(self.record.result.point_id), self.spec.point_time.or(self.record.result.point_time))
        else {
            return Err(Failure::Final("the job says nothing of its recovery point".to_owned()));
        };
        let before = self.group().await?.failover.filter(|_| self.spec.kind == JobKind::ChangePoint);
        let kind = match (&before, self.spec.kind) {
            (Some(before), _) => before.kind.clone(),
            (None, JobKind::PlannedFailover) => "planned".to_owned(),
            (None, _) => "unplanned".to_owned(),
        };
        let from_branch = before.map_or(self.spec.from_branch, |before| before.from_branch);
        let active = ActiveRecord { gateway: self.spec.gateway, branch, instance: name.clone() };
        let volumes = view::volumes_of(&self.attached.snapshot(), self.spec.group);
        change_group(self.attached, self.spec, |record| {
            if record.active.as_ref() == Some(&active) {
                return false;
            }
            record.active = Some(active.clone());
            record.failover = Some(FailoverRecord { kind: kind.clone(), job: self.id, point, point_time, from_branch });
            record.committed = false;
            record.released = false;
            record.observed = view::observe(self.context, self.spec.group, &active);
            if view::home_of(record, &volumes) == Some(self.spec.gateway) {
                record.home_instance = Some(name.clone());
            }
            true
        })
        .await?;
        let paths = self.paths("volumes", &name);
        let measures = self.measures(point_time);
        Ok(Done::with("the volumes can be written here", move |record| {
            record.result.point_id = Some(point);
            record.result.point_time = Some(point_time);
            record.result.branch_id = Some(branch);
            (record.result.rpo_seconds, record.result.rto_seconds) = measures;
            record.result.paths.clone_from(&paths);
        }))
    }

    async fn commit(&self) -> Result<Done, Failure> {
        change_group(self.attached, self.spec, |record| !std::mem::replace(&mut record.committed, true)).await?;
        Ok(Done::new("the failover is final"))
    }

    async fn end_tests(&self) -> Result<Done, Failure> {
        let own = self.context.own_gateway(self.attached);
        let record = self.group().await?;
        let mut ended = 0_usize;
        for test in &record.tests {
            if Some(test.gateway) != own || !self.spec.branches.contains(&test.branch) {
                continue;
            }
            self.drop_instance(&test.job.to_string()).await?;
            let vault = self.attached.vault()?;
            match self.context.engine.drop_branch(&vault, self.spec.group, test.branch, test.gateway).await {
                // It never came to be, or is gone already.
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                done => done?,
            }
            change_group(self.attached, self.spec, |record| {
                let before = record.tests.len();
                record.tests.retain(|other| other.branch != test.branch);
                record.tests.len() != before
            })
            .await?;
            ended += 1;
        }
        Ok(Done::new(format!("{ended} tests ended")))
    }

    /// Closes an instance and removes its local files.
    async fn drop_instance(&self, name: &str) -> Result<(), Failure> {
        let lock = self.context.instances.lock(self.spec.group);
        let _guard = lock.lock().await;
        if let Some(open) = self.context.instances.remove(&(self.spec.group, name.to_owned())) {
            open.instance.close(CLOSE_DEADLINE).await;
        }
        // Whether or not there is an instance to open: of one that was half deleted, or half made, files are left.
        Ok(self.context.engine.forget(&self.dir(name)).await?)
    }

    /// The home that a group has, if it has volumes.
    fn home_before(&self, record: &GroupRecord) -> Option<GatewayId> {
        view::home_of(record, &view::volumes_of(&self.attached.snapshot(), self.spec.group))
    }

    /// The name of the instance that a failback makes the home.
    fn home_name(&self, record: &GroupRecord) -> String {
        let known = record.home_instance.clone().filter(|_| self.home_before(record) == Some(self.spec.gateway));
        known.unwrap_or_else(|| HOME_INSTANCE.to_owned())
    }

    /// The home gateway's instance; an empty one when its state was lost, or when the group has never been at home there.
    async fn home(&self) -> Result<Arc<dyn Instance>, Failure> {
        if self.is_agents() {
            return self.agents();
        }
        let name = self.home_name(&self.group().await?);
        if let Some(instance) = ensure_open(self.context, self.attached, self.spec.group, &name).await? {
            return Ok(instance);
        }
        let lock = self.context.instances.lock(self.spec.group);
        let _guard = lock.lock().await;
        let place = place(self.context, self.attached, self.spec.group, self.dir(&name))?;
        let branch = self.spec.from_branch.ok_or_else(|| Failure::Final("the job names no branch".to_owned()))?;
        let instance = self.context.engine.blank(place, branch).await?;
        self.context.keep(self.spec.group, &name, Arc::clone(&instance));
        Ok(instance)
    }

    /// One pass, telling how far it is; left in the middle when the job is cancelled.
    async fn pass(&self, instance: &Arc<dyn Instance>, full: bool, what: &str) -> Result<Pass, Failure> {
        let branch = self.spec.from_branch.ok_or_else(|| Failure::Final("the job names no branch".to_owned()))?;
        self.watched(instance, Step::Rehydrate, what, instance.rehydrate(branch, full)).await
    }

    /// Waits for an instance's work, telling how far it is; leaves it in the middle when the job is cancelled.
    async fn watched<T>(
        &self,
        instance: &Arc<dyn Instance>,
        step: Step,
        what: &str,
        work: impl Future<Output = EngineResult<T>>,
    ) -> Result<T, Failure> {
        let mut work = std::pin::pin!(work);
        let mut tick = tokio::time::interval(PROGRESS_INTERVAL);
        tick.tick().await;
        loop {
            tokio::select! {
                done = work.as_mut() => return Ok(done?),
                _ = tick.tick() => {
                    let progress = instance.status().progress;
                    if report_progress(self.attached, self.id, what, progress).await
                        && super::plan::may_cancel(self.spec.kind, step)
                    {
                        return Err(Failure::Cancelled);
                    }
                    self.context.notify_watchers();
                }
            }
        }
    }

    /// Writes down what a pass did, at once: after a crash the passes before it still count.
    async fn count(&self, pass: &Pass) -> Result<(), Failure> {
        change_job(self.attached, self.id, |record| {
            let add = |total: &mut Option<u64>, more: u64| *total = Some(total.unwrap_or(0).saturating_add(more));
            add(&mut record.result.bytes_compared, pass.blocks_compared.saturating_mul(BLOCK_SIZE_U64));
            add(&mut record.result.bytes_changed, pass.blocks_moved.saturating_mul(BLOCK_SIZE_U64));
            add(&mut record.result.bytes_moved, pass.bytes_fetched);
            record.result.passes = Some(record.result.passes.unwrap_or(0).saturating_add(1));
            record.result.orphan_branch_id = record.result.orphan_branch_id.or(pass.orphan);
            true
        })
        .await?;
        Ok(())
    }

    async fn rehydrate(&self) -> Result<Done, Failure> {
        let instance = self.home().await?;
        let full = self.spec.mode == Some(FailbackMode::FullDownload);
        let mut before = u64::MAX;
        let mut pass_number = 0;
        loop {
            // Only the first pass fetches everything; what was written meanwhile is a difference again.
            let full_pass = full && pass_number == 0;
            pass_number += 1;
            let pass = self.pass(&instance, full_pass, &format!("pass {pass_number}")).await?;
            self.count(&pass).await?;
            let shrinks = pass.blocks_moved < before / 5 * 4;
            if pass.blocks_moved <= SMALL_PASS_BLOCKS || !shrinks || pass_number >= PASSES_MAX {
                let volume_bytes = instance.volumes().iter().map(|volume| volume.size_bytes).sum();
                return Ok(Done::with(format!("the home copy equals {}", pass.point.time), move |record| {
                    record.result.bytes_volume = Some(volume_bytes);
                }));
            }
            before = pass.blocks_moved;
        }
    }

    async fn last_delta(&self) -> Result<Done, Failure> {
        let instance = self.home().await?;
        let last = self.record.result.point_id;
        for _ in 0..LAST_PASSES_MAX {
            let pass = self.pass(&instance, false, "last difference").await?;
            self.count(&pass).await?;
            if Some(pass.point.id) == last {
                return Ok(Done::new(format!("the home copy equals the final point {}", pass.point.time)));
            }
        }
        Err(Failure::Passing("the final point isn't to be seen in the vault yet".to_owned()))
    }

    async fn take_over(&self) -> Result<Done, Failure> {
        let instance = self.home().await?;
        if instance.status().state != GroupState::Active {
            instance.take_over().await?;
        }
        self.serve_at_home(&instance).await
    }

    /// Home begins anew, with a disk that is filled while it is in use.
    async fn take_over_lazily(&self) -> Result<Done, Failure> {
        let name = self.home_name(&self.group().await?);
        let branch = self.spec.from_branch.ok_or_else(|| Failure::Final("the job names no branch".to_owned()))?;
        let snapshot = self.attached.snapshot();
        let volumes = view::volumes_of(&snapshot, self.spec.group);
        let mut disks = view::new_disks(&snapshot, &volumes);
        disks.extend(self.spec.disks.clone());
        for mut volume in view::held(&volumes) {
            let Some(path) = disks.get(&volume.id) else { continue };
            volume.source = Some(path.clone());
            adoption::admit(self.context, self.spec.gateway, self.spec.gateway, &volume)?;
            // Before anything is given up for it.
            adoption::is_large_enough(&volume)?;
        }
        let lock = self.context.instances.lock(self.spec.group);
        let guard = lock.lock().await;
        let open = self.context.instances.get(self.spec.group, &name).map(|open| open.instance);
        let instance = match open {
            Some(open) if open.status().state == GroupState::Active && open.status().branch == branch => open,
            _ => {
                if let Some(open) = self.context.instances.remove(&(self.spec.group, name.clone())) {
                    open.instance.close(CLOSE_DEADLINE).await;
                }
                let place = place(self.context, self.attached, self.spec.group, self.dir(&name))?;
                let (instance, orphan) = self.context.engine.take_over_lazily(place, branch, disks.clone()).await?;
                self.context.keep(self.spec.group, &name, Arc::clone(&instance));
                change_job(self.attached, self.id, |record| {
                    let news = orphan.is_some() && record.result.orphan_branch_id != orphan;
                    record.result.orphan_branch_id = orphan.or(record.result.orphan_branch_id);
                    news
                })
                .await?;
                instance
            }
        };
        drop(guard);
        let done = self.serve_at_home(&instance).await?;
        // Built on them, they are its disks like any other.
        for id in disks.keys() {
            let catalog = self.attached.vault()?;
            let mut forget = |document: &lifeboat_vault::Document| {
                let mut record: VolumeRecord = status(document);
                record.disk.take()?;
                serde_json::to_value(&record).ok()
            };
            catalog.catalog().update_status(kind::VOLUMES, &id.to_string(), &mut forget).await?;
        }
        Ok(done)
    }

    /// Writes down that the group is active at home again.
    async fn serve_at_home(&self, instance: &Arc<dyn Instance>) -> Result<Done, Failure> {
        let record = self.group().await?;
        let active = ActiveRecord {
            gateway: self.spec.gateway,
            branch: instance.status().branch,
            instance: self.home_name(&record),
        };
        // At home elsewhere from now on: what is at the old home is given up once that gateway is there.
        let moves = self.home_before(&record).filter(|before| *before != active.gateway);
        change_group(self.attached, self.spec, |record| {
            if record.active.as_ref() == Some(&active) {
                return false;
            }
            record.active = Some(active.clone());
            let before = record.home_instance.replace(active.instance.clone());
            if let Some(gateway) = moves {
                let instance = before.unwrap_or_else(|| HOME_INSTANCE.to_owned());
                record.home = Some(active.gateway);
                record.left.push(LeftRecord::new(gateway, instance));
            }
            record.left.retain(|left| left.gateway != active.gateway || left.instance != active.instance);
            record.failover = None;
            record.committed = false;
            record.released = false;
            record.observed = view::observe(self.context, self.spec.group, &active);
            true
        })
        .await?;
        let paths = self.paths("volumes", &active.instance);
        let now = Timestamp::now();
        Ok(Done::with("the volumes can be written at home", move |record| {
            record.result.branch_id = Some(active.branch);
            record.result.rpo_seconds = Some(0.0);
            if record.result.downtime_seconds.is_none() {
                record.result.downtime_seconds = record.stopped.map(|stopped| now.seconds_since(stopped));
            }
            record.result.paths.clone_from(&paths);
        }))
    }

    async fn retire(&self) -> Result<Done, Failure> {
        let own = self.context.own_gateway(self.attached);
        let Some(name) = &self.spec.source_instance else { return Ok(Done::new("there was nothing to remove")) };
        let record = self.group().await?;
        if record.active.as_ref().is_some_and(|active| own == Some(active.gateway) && active.instance == *name) {
            return Err(Failure::Final("the group is active here again; its local copy stays".to_owned()));
        }
        self.drop_instance(name).await?;
        Ok(Done::new("the recovery copy was removed; the vault keeps its history"))
    }
}

fn found_point(record: &mut JobRecord, point: &PointFact) {
    record.result.point_id = Some(point.id);
    record.result.point_time = Some(point.time);
}
