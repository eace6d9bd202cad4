//! Machines at this gateway beside the jobs: the driver, what runs although nothing says that it may, tests whose time is
//! over.
//!
//! A gateway that was left (its site was lost, the machines run elsewhere by now) learns of it when it sees the catalog
//! again, and switches its own off: their disks are fenced, and their addresses belong to others. A test is written down
//! before anything of it begins, so its end comes also when the gateway was killed in the middle of its beginning.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use lifeboat_compute::{ComputeError, Driver, QemuDriver, QemuSettings, RunId, RunState, ScriptDriver, ScriptLimits};
use lifeboat_model::Timestamp;
use lifeboat_model::state::{Health, JobState};
use lifeboat_vault::Document;

use crate::context::{ComputeConfig, Context, Happening, ServeConfig};
use crate::jobs;
use crate::jobs::program::ask::AskedOf;
use crate::jobs::program::{run_id, run_of};
use crate::records::{AnySpec, JobRecord, Mover, RecoveryRecord, RecoveryTest, Subject, kind, status};
use crate::state_dir::StateDir;
use crate::vaults::AttachedVault;

/// How long a machine that was left may take to stop by itself.
const LEFT_PATIENCE: Duration = Duration::from_secs(30);

/// How long after a test's end its machines may still run: until then its clean-up is left to the gateway that leads it.
const OVERDUE: Duration = Duration::from_secs(600);

/// What machines are run with, by the settings.
pub(crate) fn driver(settings: &ServeConfig, state: &StateDir) -> Option<Arc<dyn Driver>> {
    let runs = state.path().join("compute");
    match &settings.compute {
        ComputeConfig::None => None,
        ComputeConfig::Qemu => Some(Arc::new(QemuDriver::new(runs, QemuSettings::default()))),
        ComputeConfig::Script(programs) => {
            Some(Arc::new(ScriptDriver::new(programs.clone(), runs, ScriptLimits::default())))
        }
    }
}

/// The plans and machines of a vault, with their records.
fn subjects(attached: &AttachedVault) -> Vec<(Subject, Arc<Document>, RecoveryRecord)> {
    let snapshot = attached.snapshot();
    let plans = snapshot.of(kind::PLANS).iter().filter_map(|one| Some((Subject::Plan(one.id.parse().ok()?), one)));
    let machines =
        snapshot.of(kind::MACHINES).iter().filter_map(|one| Some((Subject::Machine(one.id.parse().ok()?), one)));
    plans.chain(machines).map(|(subject, one)| (subject, Arc::clone(one), status(one))).collect()
}

/// Begins the clean-up of tests of this gateway whose time is over.
pub(crate) async fn expire(context: &Context, attached: &AttachedVault) {
    let Some(own) = context.own_gateway(attached) else { return };
    let now = Timestamp::now();
    for (subject, document, record) in subjects(attached) {
        let over = record.tests.iter().find(|test| test.gateway == own && test.expires <= now);
        let (Some(test), None) = (over, record.job) else { continue };
        // One that failed is tried again with another id.
        let id = jobs::derived(&[b"lifeboat/v1/expired\0", &test.job.to_bytes(), &document.revision.to_le_bytes()]);
        let begun = async {
            let asked = AskedOf::new(context, attached, &document, subject, id)?;
            let (spec, steps) = asked.expire(test.job)?;
            jobs::begin(context, attached, id, AnySpec::Program(Box::new(spec)), steps).await
        };
        if let Err(error) = begun.await {
            tracing::warn!(
                of = document.name,
                error = error.0.detail,
                "a test whose time is over can't be cleaned up; it is tried again"
            );
        }
    }
}

/// What may run here: by the documents of machines and tests, and by the jobs that aren't over.
fn wanted(context: &Context, attached: &AttachedVault, wanted: &mut HashSet<RunId>) {
    let own = context.own_gateway(attached);
    let snapshot = attached.snapshot();
    for (subject, _, record) in subjects(attached) {
        if let Subject::Machine(machine) = subject
            && record.run.is_some_and(|run| Some(run.gateway_id) == own)
        {
            wanted.extend(run_id(machine, None));
        }
        let is_here = |test: &RecoveryTest| own.is_some_and(|own| test.gateways().contains(&own));
        // A test that nobody has ended, since the gateway that leads it is lost, holds nothing here for ever.
        let overdue = |test: &RecoveryTest| Timestamp::now().seconds_since(test.expires) > OVERDUE.as_secs_f64();
        for test in record.tests.into_iter().filter(|test| is_here(test) && !overdue(test)) {
            // Any machine of the test: it may just be starting.
            let machines = snapshot.of(kind::MACHINES).iter().filter_map(|one| one.id.parse().ok());
            wanted.extend(machines.filter_map(|machine| run_id(machine, Some(test.job))));
        }
    }
    for document in snapshot.of(kind::JOBS) {
        let record: JobRecord = status(document);
        // One that failed may be tried again, and finds what it has started.
        if record.is_over() && record.state.0 != JobState::Failed {
            continue;
        }
        let Ok(AnySpec::Program(spec)) = document.spec_as::<AnySpec>() else { continue };
        let holds = snapshot.get(spec.subject.kind(), &spec.subject.id()).is_some_and(|holder| {
            let record: RecoveryRecord = status(holder);
            record.job.or(record.failed_job).map(|job| job.to_string()) == Some(document.id.clone())
        });
        let starts = |mover: &&Mover| Some(spec.gateway_of(mover.spec.group_id)) == own;
        let elsewhere = |mover: &&Mover| {
            let document = snapshot.get(kind::MACHINES, &mover.id.to_string());
            let record: RecoveryRecord = document.map(|document| status(document)).unwrap_or_default();
            record.run.is_some_and(|run| Some(run.gateway_id) != own)
        };
        if holds {
            // What runs elsewhere by now is no more of a job that failed here.
            let movers = spec.machines.iter().filter(starts).filter(|mover| !record.is_over() || !elsewhere(mover));
            wanted.extend(movers.filter_map(|mover| run_id(mover.id, None)));
        }
    }
}

/// Ends what runs here although nothing says that it may, and says what should run and doesn't. Nothing is done while a
/// vault is away: what may run can't be known then.
pub(crate) async fn look(context: &Arc<Context>, troubles: &mut Vec<(Health, String)>) {
    let Some(driver) = &context.compute else { return };
    let vaults = context.vaults.all();
    if vaults.iter().any(|attached| attached.trouble().is_some() || !attached.snapshot().is_read()) {
        context.unwanted.lock().unwrap_or_else(PoisonError::into_inner).clear();
        return;
    }
    let mut may = HashSet::new();
    vaults.iter().for_each(|attached| wanted(context, attached, &mut may));
    let found = match driver.list().await {
        Ok(found) => found,
        Err(error) => {
            troubles.push((Health::Warning, format!("what machines run here can't be found out: {error}")));
            return;
        }
    };
    let (wanted, unwanted): (Vec<RunId>, Vec<RunId>) = found.into_iter().partition(|id| may.contains(id));
    let mut states = HashMap::new();
    for id in wanted {
        let state = let_go_on(driver, &id).await;
        states.insert(id, state);
    }
    // A copy of the catalog is read kind by kind: a start may have been written down and its job have ended in between. The
    // next copy has both.
    let now: HashSet<RunId> = unwanted.into_iter().collect();
    let before = std::mem::replace(&mut *context.unwanted.lock().unwrap_or_else(PoisonError::into_inner), now.clone());
    for id in now.into_iter().filter(|id| before.contains(id)) {
        end(context, driver, id);
    }
    for attached in &vaults {
        should_run(context, attached, driver, &mut states, troubles).await;
    }
}

/// Lets a machine go on that stood still while its disks were away, as during a restart of this gateway. Gives what the
/// machine is doing then.
async fn let_go_on(driver: &Arc<dyn Driver>, id: &RunId) -> Result<RunState, ComputeError> {
    let found = driver.state(id).await?;
    let RunState::Paused { reason } = &found else { return Ok(found) };
    match driver.resume(id).await {
        Ok(()) => {
            tracing::info!(run = %id, reason, "a machine that stood still goes on");
            // It may stand still again at once.
            driver.state(id).await
        }
        Err(error) => {
            tracing::debug!(run = %id, reason, %error, "a machine stands still");
            Ok(found)
        }
    }
}

/// Ends a machine that was left, beside everything else.
fn end(context: &Arc<Context>, driver: &Arc<dyn Driver>, id: RunId) {
    if !context.leaving.lock().unwrap_or_else(PoisonError::into_inner).insert(id.clone()) {
        return;
    }
    let (context, driver) = (Arc::clone(context), Arc::clone(driver));
    let stop = context.stop.clone();
    context.tasks.clone().spawn(async move {
        let work = async {
            let ended = async {
                driver.stop(&id, LEFT_PATIENCE).await?;
                driver.forget(&id).await
            };
            match ended.await {
                Ok(()) => tell_left(&context, &id).await,
                Err(error) => {
                    tracing::warn!(run = %id, %error, "a machine that was left can't be ended; it is tried again")
                }
            }
        };
        stop.run_until_cancelled_owned(work).await;
        context.leaving.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
    });
}

async fn tell_left(context: &Context, id: &RunId) {
    let Some((machine, test)) = run_of(id) else { return };
    for attached in context.vaults.all() {
        let Some(document) = attached.snapshot().get(kind::MACHINES, &machine.to_string()).cloned() else { continue };
        let why = match test {
            Some(_) => "its test is over",
            None => "it is active elsewhere, or was stopped",
        };
        let message = format!("the machine {} ran at this gateway and was switched off: {why}", document.name);
        let event = Happening { severity: Health::Warning, kind: "machine.left", message, ..Happening::default() };
        context.event(&attached, event).await;
    }
}

/// Says which machines are to run here and don't.
async fn should_run(
    context: &Context,
    attached: &AttachedVault,
    driver: &Arc<dyn Driver>,
    states: &mut HashMap<RunId, Result<RunState, ComputeError>>,
    troubles: &mut Vec<(Health, String)>,
) {
    let own = context.own_gateway(attached);
    for (subject, document, record) in subjects(attached) {
        let (Subject::Machine(machine), Some(run)) = (subject, &record.run) else { continue };
        if Some(run.gateway_id) != own || record.job.is_some() {
            continue;
        }
        let Some(id) = run_id(machine, None) else { continue };
        let state = match states.remove(&id) {
            Some(state) => state,
            // Not known a moment ago: it may just have started.
            None => driver.state(&id).await,
        };
        let why = match state {
            Ok(RunState::Running) => continue,
            Ok(RunState::Paused { reason }) => format!("stands still: {reason}"),
            Ok(RunState::Stopped { how }) => format!("has stopped: {how}; start it with `lifeboat machine start`"),
            Ok(RunState::Absent) => "doesn't run any more; start it with `lifeboat machine start`".to_owned(),
            Err(error) => format!("may run or not: {error}"),
        };
        troubles.push((Health::Warning, format!("machine {}: {why}", document.name)));
    }
}
