//! Jobs: long operations as documents in the catalog, carried out step by step by the gateways that they name.
//!
//! ```text
//! queued ──> running ──step, step, …──> succeeded
//!               ├── a step fails for good ──> failed ──retry──> queued
//!               └── a person cancels ──> cancelled (before the next step, or in the middle of one that can be left)
//! ```
//! **One at a time.** A group's document names the job that has it (`status.job`); the claim is a compare-and-swap. A job
//! that doesn't hold its group is never run.
//!
//! **Two gateways** meet in the document only: each step names who does it, and a gateway runs the first unfinished step
//! when that step is its own. So nothing is lost when either is killed: after a restart the step is simply run again, and
//! every step comes to the same however often it is run.
//!
//! **Errors.** What may pass (the vault is away) is tried again for [`PATIENCE`]; everything else fails the job with its
//! cause. After a failure the group stays where its document says it is active; that gateway's reconciler resumes it.

pub(crate) mod ask;
pub(crate) mod beside;
pub(crate) mod drill;
mod perform;
pub(crate) mod plan;
pub(crate) mod program;
pub(crate) mod replace;
pub(crate) mod request;
mod trace;

#[cfg(test)]
mod brake;
#[cfg(test)]
mod fake;
#[cfg(test)]
mod fake_host;
#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aws_lc_rs::digest;
use lifeboat_api::{JobKind, ProblemCode, StepProgress};
use lifeboat_model::state::{Health, JobState};
use lifeboat_model::{DrillId, GatewayId, GroupId, JobId, Timestamp};
use lifeboat_vault::{Document, VaultError, VaultErrorKind, traced};

use crate::context::{Context, Happening};
use crate::http::error::{ApiError, ApiResult};
use crate::records::{
    Answer, AnySpec, DrillRecord, GatewayRecord, GroupRecord, JobRecord, JobSpec, JobStateRecord, RecoveryRecord, Step,
    StepRecord, Subject, kind, status,
};
use crate::vaults::{AttachedVault, Snapshot};
use crate::view;
use perform::{Done, Failure};

/// How long a step is tried again while its failure may pass.
const PATIENCE: Duration = Duration::from_secs(15 * 60);
/// A gateway that is not heard of for so long isn't waited for.
pub(crate) const SILENCE: Duration = Duration::from_secs(60);
/// A job that was written down and never got its group is given up after this.
const UNCLAIMED: Duration = Duration::from_secs(60);

/// Steps that run in this process.
#[derive(Debug, Default)]
pub(crate) struct Running(Mutex<HashSet<JobId>>);

impl Running {
    fn begin(&self, job: JobId) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(job)
    }

    fn end(&self, job: JobId) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&job);
    }
}

/// A step that runs; when it ends, however it ends, the next look may run the job again.
struct Run {
    context: Arc<Context>,
    job: JobId,
}

impl Drop for Run {
    fn drop(&mut self) {
        self.context.running.end(self.job);
        self.context.wake.notify_one();
    }
}

/// An id that is the same on every try, made of what the job is for.
pub(crate) fn derived(parts: &[&[u8]]) -> JobId {
    let mut hash = digest::Context::new(&digest::SHA256);
    parts.iter().for_each(|part| hash.update(part));
    let mut bytes = [0; 16];
    if let Some(part) = hash.finish().as_ref().get(..bytes.len()) {
        bytes.copy_from_slice(part);
    }
    JobId::from_bytes(bytes)
}

/// Writes a job down, or finds what an earlier try wrote. It does nothing before it has its group, plan or machine, and is
/// given up if it gets none.
pub(crate) async fn write_down(
    attached: &AttachedVault,
    id: JobId,
    spec: &AnySpec,
    steps: Vec<StepRecord>,
) -> ApiResult<Arc<Document>> {
    let vault = attached.vault()?;
    let catalog = vault.catalog();
    let text = id.to_string();
    let record = JobRecord { steps, ..JobRecord::default() };
    let internal = |error: serde_json::Error| ApiError::new(ProblemCode::Internal, error.to_string());
    let (spec_value, status_value) =
        (serde_json::to_value(spec).map_err(internal)?, serde_json::to_value(&record).map_err(internal)?);
    let made = catalog.create(kind::JOBS, &text, spec.kind().as_str(), spec_value, status_value).await;
    match made {
        Ok(document) => Ok(document),
        // An earlier try wrote it, with the same idempotency key or for the same step.
        Err(error) if error.kind() == VaultErrorKind::Conflict => match catalog.get(kind::JOBS, &text).await {
            // It was refused what it is about then, and deleted.
            Err(error) if error.kind() == VaultErrorKind::NotFound => {
                let anew = serde_json::to_value(&record).map_err(internal)?;
                let restored = catalog.restore(kind::JOBS, &text, &mut |_| anew.clone()).await?;
                let spec_value = serde_json::to_value(spec).map_err(internal)?;
                Ok(catalog
                    .update_spec(kind::JOBS, &text, restored.generation, spec.kind().as_str(), spec_value)
                    .await?)
            }
            found => Ok(found?),
        },
        Err(error) => Err(error.into()),
    }
}

/// Writes a job down and gives it its group, plan or machine.
pub(crate) async fn begin(
    context: &Context,
    attached: &AttachedVault,
    id: JobId,
    spec: AnySpec,
    steps: Vec<StepRecord>,
) -> ApiResult<Arc<Document>> {
    let document = write_down(attached, id, &spec, steps).await?;
    let text = id.to_string();
    let record: JobRecord = status(&document);
    if !record.is_over()
        && let Err(error) = claim(attached, id, &spec).await
    {
        // It holds nothing and never ran: nobody has to look at it. The same may be asked for again.
        if let Err(error) = attached.vault()?.catalog().delete(kind::JOBS, &text, None).await {
            tracing::debug!(%error, "job that got no group can't be deleted; it is given up later");
        }
        return Err(error);
    }
    context.wrote(attached).await;
    tracing::info!(job = text, kind = %spec.kind(), of = spec.name(), "job begun");
    Ok(document)
}

/// Makes the group, plan or machine name this job, unless another one that isn't over has it.
async fn claim(attached: &AttachedVault, id: JobId, spec: &AnySpec) -> ApiResult<()> {
    let vault = attached.vault()?;
    // A job that is over and has it still: the process died in between.
    let mut left = None;
    for _ in 0..8 {
        let holder = change_holder(attached, spec, |job, _| {
            let free = job.is_none() || *job == left;
            if free {
                *job = Some(id);
            }
            free
        })
        .await?;
        let Some(other) = holder.filter(|holder| *holder != id) else { return Ok(()) };
        if let Ok(document) = vault.catalog().get(kind::JOBS, &other.to_string()).await {
            let other_record: JobRecord = status(&document);
            if !other_record.is_over() {
                return Err(ApiError::conflict(format!(
                    "the {} {} is busy with the job {other} ({}): wait for it, or cancel it",
                    spec.what(),
                    spec.name(),
                    document.name
                )));
            }
        }
        left = Some(other);
    }
    Err(ApiError::conflict(format!("the {} {} is being changed by others: try again", spec.what(), spec.name())))
}

/// The job that a document names.
fn holder_of(kind: &str, document: &Document) -> Option<JobId> {
    match kind {
        kind::GROUPS => status::<GroupRecord>(document).job,
        kind::DRILLS => status::<DrillRecord>(document).job,
        _ => status::<RecoveryRecord>(document).job,
    }
}

/// Whether a job still has what it is about.
pub(crate) fn is_held(snapshot: &Snapshot, job: JobId) -> bool {
    let Some(document) = snapshot.get(kind::JOBS, &job.to_string()) else { return false };
    let Ok(spec) = document.spec_as::<AnySpec>() else { return false };
    let (kind, id) = spec.holder();
    snapshot.get(kind, &id).is_some_and(|holder| holder_of(kind, holder) == Some(job))
}

/// Changes which job has what a job is about, and which one failed last; `change` says whether it did. Returns the job
/// that has it then.
async fn change_holder(
    attached: &AttachedVault,
    spec: &AnySpec,
    mut change: impl FnMut(&mut Option<JobId>, &mut Option<JobId>) -> bool + Send,
) -> Result<Option<JobId>, VaultError> {
    match spec {
        AnySpec::Group(spec) => {
            let record = change_group(attached, spec, |record| change(&mut record.job, &mut record.failed_job)).await?;
            Ok(record.job)
        }
        AnySpec::Drill(spec) => {
            let changed = change_drill(attached, spec.drill, |record| change(&mut record.job, &mut record.failed_job));
            Ok(changed.await?.job)
        }
        AnySpec::Program(program) if matches!(program.subject, Subject::Gateway(_)) => {
            let (_, id) = spec.holder();
            let changed = change_gateway(attached, &id, |record| change(&mut record.job, &mut record.failed_job));
            Ok(changed.await?.job)
        }
        AnySpec::Program(_) => {
            let (kind, id) = spec.holder();
            let changed =
                change_recovery(attached, kind, &id, |record| change(&mut record.job, &mut record.failed_job));
            Ok(changed.await?.job)
        }
    }
}

/// Changes the record of a plan or a machine; `change` says whether it did. Returns the record as it is then.
pub(crate) async fn change_recovery(
    attached: &AttachedVault,
    kind: &str,
    id: &str,
    mut change: impl FnMut(&mut RecoveryRecord) -> bool + Send,
) -> Result<RecoveryRecord, VaultError> {
    let vault = attached.vault()?;
    let document = vault
        .catalog()
        .update_status(kind, id, &mut |document| {
            let mut record: RecoveryRecord = status(document);
            if change(&mut record) { serde_json::to_value(&record).ok() } else { None }
        })
        .await?;
    Ok(status(&document))
}

/// Changes the record of a gateway; `change` says whether it did. Returns the record as it is then.
pub(crate) async fn change_gateway(
    attached: &AttachedVault,
    id: &str,
    mut change: impl FnMut(&mut GatewayRecord) -> bool + Send,
) -> Result<GatewayRecord, VaultError> {
    let vault = attached.vault()?;
    let document = vault
        .catalog()
        .update_status(kind::GATEWAYS, id, &mut |document| {
            let mut record: GatewayRecord = status(document);
            if change(&mut record) { serde_json::to_value(&record).ok() } else { None }
        })
        .await?;
    Ok(status(&document))
}

/// Changes the record of a drill; `change` says whether it did. Returns the record as it is then.
pub(crate) async fn change_drill(
    attached: &AttachedVault,
    id: DrillId,
    mut change: impl FnMut(&mut DrillRecord) -> bool + Send,
) -> Result<DrillRecord, VaultError> {
    let vault = attached.vault()?;
    let document = vault
        .catalog()
        .update_status(kind::DRILLS, &id.to_string(), &mut |document| {
            let mut record: DrillRecord = status(document);
            if change(&mut record) { serde_json::to_value(&record).ok() } else { None }
        })
        .await?;
    Ok(status(&document))
}

/// Changes a group's record; `change` says whether it did. Returns the record as it is then.
pub(crate) async fn change_group(
    attached: &AttachedVault,
    spec: &JobSpec,
    change: impl FnMut(&mut GroupRecord) -> bool + Send,
) -> Result<GroupRecord, VaultError> {
    change_group_by_id(attached, spec.group, change).await
}

/// The same, of a group that no job has.
pub(crate) async fn change_group_by_id(
    attached: &AttachedVault,
    group: GroupId,
    mut change: impl FnMut(&mut GroupRecord) -> bool + Send,
) -> Result<GroupRecord, VaultError> {
    let vault = attached.vault()?;
    let document = vault
        .catalog()
        .update_status(kind::GROUPS, &group.to_string(), &mut |document| {
            let mut record: GroupRecord = status(document);
            if change(&mut record) { serde_json::to_value(&record).ok() } else { None }
        })
        .await?;
    Ok(status(&document))
}

/// Changes a job's record; `change` says whether it did.
async fn change_job(
    attached: &AttachedVault,
    id: JobId,
    mut change: impl FnMut(&mut JobRecord) -> bool + Send,
) -> Result<JobRecord, VaultError> {
    let vault = attached.vault()?;
    let document = vault
        .catalog()
        .update_status(kind::JOBS, &id.to_string(), &mut |document| {
            let mut record: JobRecord = status(document);
            if change(&mut record) { serde_json::to_value(&record).ok() } else { None }
        })
        .await?;
    Ok(status(&document))
}

/// Asks a job to stop.
pub(crate) async fn cancel(context: &Context, attached: &AttachedVault, id: JobId) -> ApiResult<()> {
    let record = change_job(attached, id, |record| {
        let open = !record.is_over() && !record.cancel;
        record.cancel |= open;
        open
    })
    .await?;
    if record.is_over() {
        return Err(ApiError::conflict(format!(
            "the job {id} is over ({}): there is nothing to cancel",
            record.state.0
        )));
    }
    context.wrote(attached).await;
    Ok(())
}

/// Tries a failed job again, from the step that failed; or from the one after it, which goes with an action only.
pub(crate) async fn retry(
    context: &Context,
    attached: &AttachedVault,
    id: JobId,
    spec: &AnySpec,
    skip: bool,
) -> ApiResult<()> {
    let vault = attached.vault()?;
    let document = vault.catalog().get(kind::JOBS, &id.to_string()).await?;
    let record: JobRecord = status(&document);
    record.state.0.to(JobState::Queued).map_err(|_| {
        ApiError::conflict(format!("the job {id} is {}: only one that failed can be tried again", record.state.0))
    })?;
    if skip && record.current().is_none_or(|(_, step)| step.step != Step::Act) {
        return Err(ApiError::field(
            "skip",
            "goes with an action that failed only: everything else has to succeed; leave it out",
        ));
    }
    // First the job, then what it is about: a job that is over and has something is made to let go of it.
    change_job(attached, id, |record| {
        let Ok(state) = record.state.0.to(JobState::Queued) else { return false };
        record.state = JobStateRecord(state);
        record.finished = None;
        let cause = record.cause.take();
        record.cancel = false;
        if skip
            && let Some((index, _)) = record.current()
            && let Some(step) = record.steps.get_mut(index)
        {
            step.state = JobState::Succeeded;
            step.message = format!("left out by a person: {}", cause.unwrap_or_default());
        }
        for step in record.steps.iter_mut().filter(|step| step.state != JobState::Succeeded) {
            step.state = JobState::Queued;
            step.message.clear();
            step.waits_for = None;
        }
        true
    })
    .await?;
    if let Err(refused) = claim(attached, id, spec).await {
        let undone = change_job(attached, id, |found| {
            let untouched = found.state.0 == JobState::Queued;
            if untouched {
                *found = record.clone();
            }
            untouched
        });
        if let Err(error) = undone.await {
            tracing::debug!(job = %id, %error, "a job that got nothing can't be written back; it is given up later");
        }
        return Err(refused);
    }
    context.wrote(attached).await;
    Ok(())
}

/// Tells a job that waits for a person that the task is done.
pub(crate) async fn go_on(
    context: &Context,
    attached: &AttachedVault,
    id: JobId,
    note: Option<String>,
) -> ApiResult<()> {
    let mut waited = false;
    change_job(attached, id, |record| {
        let over = record.is_over();
        let current = record.current().map(|(index, _)| index).filter(|_| !over);
        let Some(step) = current.and_then(|index| record.steps.get_mut(index)) else { return false };
        waited = step.waits_for.is_some();
        if !waited || step.answer.is_some() {
            return false;
        }
        step.answer = Some(Answer { time: Timestamp::now(), note: note.clone() });
        true
    })
    .await?;
    if !waited {
        return Err(ApiError::conflict(format!("the job {id} waits for nobody: there is nothing to go on with")));
    }
    context.wrote(attached).await;
    Ok(())
}

/// Looks at every job of a vault: runs what is this gateway's, gives up what nobody will do. Returns whether any job
/// that isn't over concerns this gateway.
pub(crate) async fn tick(context: &Arc<Context>, attached: &Arc<AttachedVault>) -> bool {
    let snapshot = attached.snapshot();
    let Some(own) = context.own_gateway(attached) else { return false };
    let mut busy = false;
    for document in snapshot.of(kind::JOBS) {
        let record: JobRecord = status(document);
        if record.is_over() {
            continue;
        }
        let (Ok(id), Ok(spec)) = (document.id.parse::<JobId>(), document.spec_as::<AnySpec>()) else { continue };
        let acts = |gateway| gateway == own || context.tells(gateway);
        busy |= acts(spec.gateway()) || record.steps.iter().any(|step| acts(step.gateway));
        let holds = is_held(&snapshot, id);
        if !holds {
            let age = Timestamp::now().seconds_since(document.updated);
            let leads = spec.gateway() == own || is_agent(&snapshot, spec.gateway());
            if leads && age > UNCLAIMED.as_secs_f64() {
                let cause =
                    format!("it never got its {}: another job had it, or the gateway stopped; ask again", spec.what());
                end(context, attached, id, &spec, Ending::Failed(cause)).await;
            }
            continue;
        }
        match record.current() {
            None => end(context, attached, id, &spec, Ending::Succeeded).await,
            Some((_, step)) if acts(step.gateway) => start_step(context, attached, id, &spec, step.gateway),
            Some((_, step)) => watch_other(context, attached, id, &spec, &record, step, own).await,
        }
    }
    busy
}

fn is_agent(snapshot: &Snapshot, gateway: GatewayId) -> bool {
    let document = snapshot.get(kind::GATEWAYS, &gateway.to_string());
    document.is_some_and(|document| status::<GatewayRecord>(document).agent)
}

/// The current step is another gateway's: give up when that gateway is silent.
async fn watch_other(
    context: &Arc<Context>,
    attached: &AttachedVault,
    id: JobId,
    spec: &AnySpec,
    record: &JobRecord,
    step: &StepRecord,
    own: GatewayId,
) {
    let snapshot = attached.snapshot();
    let document = snapshot.get(kind::GATEWAYS, &step.gateway.to_string());
    let other: GatewayRecord = document.map(|document| status(document)).unwrap_or_default();
    let there = match other.agent {
        true => is_heard(&other),
        false => view::is_alive(&other, SILENCE),
    };
    if there {
        return;
    }
    let name = document.map_or_else(|| step.gateway.to_string(), |document| document.name.clone());
    if record.cancel {
        end(context, attached, id, spec, Ending::Cancelled).await;
        return;
    }
    let since = record.steps.iter().filter_map(|step| step.finished).max().or(record.started);
    let waited = since.map_or(f64::INFINITY, |since| Timestamp::now().seconds_since(since));
    // A group's job of a plan is given up by the gateway that leads the plan, too: its own may be the one that is lost.
    // An agent's own jobs are led by no gateway: whoever sees it first ends them.
    let leads = spec.gateway() == own
        || leader_above(&snapshot, spec) == Some(own)
        || (other.agent && spec.gateway() == step.gateway);
    if matches!(spec, AnySpec::Drill(_)) {
        // What is asserted there can't be known; the clean-up doesn't wait for it.
        let silent = other.last_seen.map_or(f64::INFINITY, |seen| Timestamp::now().seconds_since(seen));
        if leads && waited.min(silent) > SILENCE.as_secs_f64() {
            drill::go_past(context, attached, id, step, &name).await;
        }
        return;
    }
    // A step that was begun is left to the gateway that began it: it goes on when that gateway is back. An agent's isn't: its group
    // serves writes again by itself, and is told to.
    if (step.state == JobState::Queued || other.agent) && leads && waited > SILENCE.as_secs_f64() {
        let advice = match spec.kind() {
            JobKind::PlannedFailover => "; if it is lost, fail over unplanned",
            _ => "; start it and try again",
        };
        let what = if other.agent { "agent" } else { "gateway" };
        let cause =
            format!("the {what} {name} was not heard of for more than {SILENCE:?}, and this step is its own{advice}");
        end(context, attached, id, spec, Ending::Failed(cause)).await;
    }
}

/// Whether an agent can be told what to do by some gateway.
pub(crate) fn is_heard(agent: &GatewayRecord) -> bool {
    agent.heard.is_some_and(|heard| Timestamp::now().seconds_since(heard) <= SILENCE.as_secs_f64())
}

/// The gateway that leads the job of a plan or a machine which began this one.
fn leader_above(snapshot: &Snapshot, spec: &AnySpec) -> Option<GatewayId> {
    let AnySpec::Group(spec) = spec else { return None };
    let parent = snapshot.get(kind::JOBS, &spec.parent?.to_string())?;
    parent.spec_as::<AnySpec>().ok().map(|parent| parent.gateway())
}

/// Runs a step that is this gateway's, or that of an agent whose line it has: `own`.
fn start_step(context: &Arc<Context>, attached: &Arc<AttachedVault>, id: JobId, spec: &AnySpec, own: GatewayId) {
    if !context.running.begin(id) {
        return;
    }
    let (context, attached, spec) = (Arc::clone(context), Arc::clone(attached), spec.clone());
    let run = Run { context: Arc::clone(&context), job: id };
    context.tasks.clone().spawn(async move {
        let _run = run;
        let stop = context.stop.clone();
        tokio::select! {
            // The process is stopping: as after a crash, the step is run again by the next one.
            () = stop.cancelled() => {}
            () = run_step(&context, &attached, id, &spec, own) => {}
        }
    });
}

/// Runs the current step to its end and writes that down, then the steps after it that are this gateway's, too.
async fn run_step(context: &Arc<Context>, attached: &Arc<AttachedVault>, id: JobId, spec: &AnySpec, own: GatewayId) {
    let mut begun = None;
    let (mut started, mut tries) = (Timestamp::now(), 0_u32);
    loop {
        match try_step(context, attached, id, spec, own, started, begun.take()).await {
            Ok(None) => return,
            Ok(next) => {
                begun = next;
                (started, tries) = (Timestamp::now(), 0);
                continue;
            }
            Err(Failure::Cancelled) => return end(context, attached, id, spec, Ending::Cancelled).await,
            Err(Failure::Final(cause)) => return end(context, attached, id, spec, Ending::Failed(cause)).await,
            Err(Failure::Passing(cause)) => {
                // The agent's line went: its step is for the gateway that has the next one.
                if context.own_gateway(attached) != Some(own) && !context.tells(own) {
                    tracing::info!(job = %id, of = spec.name(), cause, "an agent's step is left to whoever hears it next");
                    return;
                }
                if Timestamp::now().seconds_since(started) > PATIENCE.as_secs_f64() {
                    let cause = format!("{cause} (tried for {PATIENCE:?})");
                    return end(context, attached, id, spec, Ending::Failed(cause)).await;
                }
                tracing::warn!(job = %id, of = spec.name(), cause, "step will be tried again");
                let told = change_job(attached, id, |record| {
                    let Some(index) = record.current_of(Some(own)) else { return false };
                    let message = format!("will be tried again: {cause}");
                    match record.steps.get_mut(index) {
                        Some(step) if step.message != message => step.message = message,
                        _ => return false,
                    }
                    true
                });
                if told.await.is_ok_and(|record| record.cancel) {
                    return end(context, attached, id, spec, Ending::Cancelled).await;
                }
            }
        }
        tries = tries.saturating_add(1);
        tokio::time::sleep(Duration::from_millis(250 << tries.min(5))).await;
    }
}

/// Says that the current step runs, if it is this gateway's.
fn mark_running(record: &mut JobRecord, own: GatewayId, started: Timestamp) -> bool {
    let Some(index) = record.current_of(Some(own)).filter(|_| !record.is_over()) else { return false };
    record.state = JobStateRecord(JobState::Running);
    record.started.get_or_insert(started);
    if let Some(step) = record.steps.get_mut(index)
        && step.state != JobState::Running
    {
        step.state = JobState::Running;
        step.started = Some(started);
    }
    true
}

/// Runs the current step once. `begun`: the job as it stands, where the write that ended the step before said that this one
/// runs. Gives the same for the next step, if that is this gateway's; the end of the last step is the end of the job.
async fn try_step(
    context: &Arc<Context>,
    attached: &Arc<AttachedVault>,
    id: JobId,
    spec: &AnySpec,
    own: GatewayId,
    started: Timestamp,
    begun: Option<JobRecord>,
) -> Result<Option<JobRecord>, Failure> {
    // What was known when it was begun may be old: the answer that told of the step's end was lost, and the next step is another's.
    let record = match begun {
        Some(record) => record,
        None => change_job(attached, id, |record| mark_running(record, own, started)).await?,
    };
    let Some((index, step)) = record.current() else { return Ok(None) };
    if record.is_over() || record.current_of(Some(own)).is_none() {
        return Ok(None);
    }
    if record.cancel && plan::may_cancel(spec.kind(), step.step) {
        return Err(Failure::Cancelled);
    }
    context.notify_watchers();
    #[cfg(test)]
    brake::pass(id, index).await;
    let span = trace::step(id, spec, step);
    let performed = async {
        match spec {
            AnySpec::Group(spec) => {
                let work = perform::Work { context, attached, id, spec, record: &record, own };
                perform::perform(&work, step.step).await
            }
            AnySpec::Drill(spec) => {
                let run = drill::Run { context, attached, id, spec, record: &record, step };
                drill::perform(&run).await
            }
            AnySpec::Program(spec) => {
                let run = program::Run { context, attached, id, spec, record: &record, index, step };
                program::perform(&run).await
            }
        }
    };
    let Done { message, apply } = traced(span, performed).await?;
    let (mut done, mut over) = (false, false);
    let after = change_job(attached, id, |record| {
        (done, over) = (false, false);
        // Whoever ended the job meanwhile has the last word.
        let Some(step) = record.steps.get_mut(index).filter(|step| step.state == JobState::Running) else {
            return false;
        };
        let now = Timestamp::now();
        step.state = JobState::Succeeded;
        step.finished = Some(now);
        step.message = message.clone();
        step.progress = None;
        apply(record);
        // One write says both: what follows is begun, or the job is over.
        done = !record.is_over();
        if done && record.current().is_none() {
            over = true;
            record.state = JobStateRecord(JobState::Succeeded);
            record.finished = Some(now);
        } else if done {
            mark_running(record, own, now);
        }
        true
    })
    .await?;
    if let Some(group) = spec.group() {
        context.points.stale(group);
    }
    if over {
        trace::job(id, spec, &after, None);
        conclude(context, attached, id, spec, &Ending::Succeeded, JobState::Succeeded).await;
        return Ok(None);
    }
    context.wrote(attached).await;
    Ok((done && after.current_of(Some(own)).is_some()).then_some(after))
}

/// How a job ends.
#[derive(Debug)]
enum Ending {
    Succeeded,
    Failed(String),
    Cancelled,
}

/// Ends a job, and gives its group free. Done again after a crash in the middle, it comes to the same.
async fn end(context: &Context, attached: &AttachedVault, id: JobId, spec: &AnySpec, ending: Ending) {
    let state = match &ending {
        Ending::Succeeded => JobState::Succeeded,
        Ending::Failed(_) => JobState::Failed,
        Ending::Cancelled => JobState::Cancelled,
    };
    let now = Timestamp::now();
    let mut news = false;
    let ended = change_job(attached, id, |record| {
        news = !record.is_over();
        if !news {
            return false;
        }
        record.state = JobStateRecord(state);
        record.started.get_or_insert(now);
        record.finished = Some(now);
        if let Ending::Failed(cause) = &ending {
            record.cause = Some(cause.clone());
        }
        if state != JobState::Succeeded
            && let Some((index, _)) = record.current()
            && let Some(step) = record.steps.get_mut(index)
        {
            step.state = state;
            step.finished = Some(now);
        }
        true
    });
    let ended = match ended.await {
        Ok(record) => {
            if news {
                trace::job(id, spec, &record, record.cause.as_deref());
            }
            record.state.0
        }
        Err(error) => {
            tracing::warn!(job = %id, %error, "the end of a job can't be written; it is tried again");
            return;
        }
    };
    if news {
        conclude(context, attached, id, spec, &ending, ended).await;
    } else {
        set_free(attached, id, spec, ended).await;
        context.wrote(attached).await;
    }
}

/// What follows once a job was written down as over: what it had is free, and whoever looks is told.
async fn conclude(
    context: &Context,
    attached: &AttachedVault,
    id: JobId,
    spec: &AnySpec,
    ending: &Ending,
    ended: JobState,
) {
    let (severity, message) = match ending {
        Ending::Succeeded => (Health::Healthy, format!("{} of {} succeeded", spec.kind(), spec.name())),
        Ending::Failed(cause) => (Health::Critical, format!("{} of {} failed: {cause}", spec.kind(), spec.name())),
        Ending::Cancelled => (Health::Warning, format!("{} of {} was cancelled", spec.kind(), spec.name())),
    };
    let kind = match ended {
        JobState::Succeeded => "job.succeeded",
        JobState::Failed => "job.failed",
        _ => "job.cancelled",
    };
    let event = Happening { severity, kind, message, group: spec.group(), job: Some(id), volume: None };
    futures::join!(set_free(attached, id, spec, ended), context.event(attached, event));
    context.wrote(attached).await;
}

/// Gives free what a job had.
async fn set_free(attached: &AttachedVault, id: JobId, spec: &AnySpec, ended: JobState) {
    let freed = change_holder(attached, spec, |job, failed| {
        if *job != Some(id) {
            return false;
        }
        *job = None;
        *failed = (ended == JobState::Failed).then_some(id);
        true
    });
    match freed.await {
        Ok(_) => {}
        // It was deleted under the job.
        Err(error) if error.kind() == VaultErrorKind::NotFound => {}
        Err(error) => tracing::warn!(job = %id, %error, "what a job had can't be given free; it is tried again"),
    }
}

/// A job that is over but still has what it was about: the process died in between. Gives that free.
pub(crate) async fn release_holders(context: &Context, attached: &AttachedVault) {
    let snapshot = attached.snapshot();
    let holders = [kind::GROUPS, kind::PLANS, kind::MACHINES, kind::DRILLS, kind::GATEWAYS];
    for (kind, document) in holders.into_iter().flat_map(|kind| std::iter::repeat(kind).zip(snapshot.of(kind))) {
        let Some(id) = holder_of(kind, document) else { continue };
        let Some(job) = snapshot.get(kind::JOBS, &id.to_string()) else { continue };
        let record: JobRecord = status(job);
        let Ok(spec) = job.spec_as::<AnySpec>() else { continue };
        if record.is_over() {
            let ending = match record.state.0 {
                JobState::Failed => Ending::Failed(record.cause.unwrap_or_default()),
                JobState::Succeeded => Ending::Succeeded,
                _ => Ending::Cancelled,
            };
            end(context, attached, id, &spec, ending).await;
        }
    }
}

/// Tells how far the running step is.
async fn report_progress(attached: &AttachedVault, id: JobId, message: &str, progress: Option<(u64, u64)>) -> bool {
    let told = change_job(attached, id, |record| {
        let Some((index, _)) = record.current() else { return false };
        let Some(step) = record.steps.get_mut(index) else { return false };
        let progress = progress.map(|(done_bytes, total_bytes)| StepProgress { done_bytes, total_bytes });
        if step.message == message && step.progress == progress {
            return false;
        }
        step.message = message.to_owned();
        step.progress = progress;
        true
    });
    told.await.is_ok_and(|record| record.cancel)
}
