//! Runs of drills: a plan is tested, what is asserted of it is looked at, the test is cleaned up, evidence is signed.
//!
//! ```text
//! test the plan ─> look at what is asserted, at each gateway that runs machines ─> look at files ─> clean up ─> sign
//!      │                                                                                              ^
//!      └── it can't be tested, an assertion doesn't hold, a person breaks it off: noted, and on ──────┘
//! ```
//! A drill that finds something isn't a job that failed: the job succeeds, and the evidence says what was found. What fails
//! the job is that it can't be carried out at all, as when the vault stays away; the test has a time after which it is
//! cleaned up then as well. Every step may be run again after a crash at any point and comes to the same, but for programs
//! of the administrator's, which are run again.
//!
//! The test and its clean-up are jobs of the plan, with ids that are derived from the run's.

pub(crate) mod ask;
mod assertions;
pub(crate) mod evidence;
mod files;
mod looks;
mod partitions;
pub(crate) mod schedule;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use lifeboat_api::{PlanCleanupRequest, PlanFailoverRequest, ProblemCode};
use lifeboat_model::state::JobState;
use lifeboat_model::{GatewayId, JobId, Timestamp};
use lifeboat_vault::VaultErrorKind;
use tokio::time::Instant;

use super::perform::{Done, Failure};
use super::program::ask::AskedOf;
use super::program::run_id;
use super::{change_drill, change_job, derived, report_progress};
use crate::context::Context;
use crate::http::error::ApiError;
use crate::records::{
    AnySpec, DrillJobSpec, Findings, GroupRecord, JobRecord, Picture, PointUsed, RecoveryRecord, Step, StepRecord,
    Subject, kind, status,
};
use crate::vaults::AttachedVault;

/// Time between two looks at a job that was begun.
const LOOK: Duration = Duration::from_millis(300);
/// How long a plan that is busy is waited for.
const BUSY_PATIENCE: Duration = Duration::from_secs(5 * 60);
/// How long a clean-up is tried again. After that the end of the test's time does it.
const CLEAN_PATIENCE: Duration = Duration::from_secs(10 * 60);
/// Largest picture that is kept, bytes: it goes into a document.
const PICTURE_BYTES: usize = 700 << 10;

/// What is asked of the plan.
enum Wanted {
    Test(PlanFailoverRequest),
    Cleanup(PlanCleanupRequest, JobId),
}

/// A run at one of its steps.
pub(super) struct Run<'a> {
    pub(super) context: &'a Arc<Context>,
    pub(super) attached: &'a Arc<AttachedVault>,
    pub(super) id: JobId,
    pub(super) spec: &'a DrillJobSpec,
    pub(super) record: &'a JobRecord,
    pub(super) step: &'a StepRecord,
}

pub(super) async fn perform(run: &Run<'_>) -> Result<Done, Failure> {
    match run.step.step {
        Step::TestPlan => run.test_plan().await,
        Step::Assert => run.assert().await,
        Step::HashFiles => run.hash_files().await,
        Step::EndTest => run.end_test().await,
        Step::Attest => run.attest().await,
        other => Err(Failure::Final(format!("a step that no drill has: {}", other.title()))),
    }
}

/// Gives up the looks of a gateway that isn't heard of: that nobody looked is what was found, and the run goes on to its
/// clean-up.
pub(super) async fn go_past(context: &Context, attached: &AttachedVault, id: JobId, step: &StepRecord, gateway: &str) {
    let why = format!(
        "the gateway {gateway} was not heard of for more than {:?}: nobody looked at what runs there",
        super::SILENCE
    );
    let (step, at) = (step.step, step.gateway);
    let gone = change_job(attached, id, |record| {
        let current = record.current().map(|(index, _)| index).filter(|_| !record.is_over());
        let Some(current) = current.and_then(|index| record.steps.get_mut(index)) else { return false };
        if (current.step, current.gateway) != (step, at) {
            return false;
        }
        current.state = JobState::Succeeded;
        current.finished = Some(Timestamp::now());
        current.message.clone_from(&why);
        record.findings.get_or_insert_default().troubles.push(why.clone());
        true
    });
    match gone.await {
        Ok(_) => context.wrote(attached).await,
        Err(error) => {
            tracing::warn!(job = %id, %error, "a gateway that is silent can't be gone past; it is tried again")
        }
    }
}

/// The test failover of a run.
fn test_job(run: JobId) -> JobId {
    derived(&[b"lifeboat/v1/drill-test\0", &run.to_bytes()])
}

/// A step that is done, and what it found.
fn found(message: impl Into<String>, change: impl Fn(&mut Findings) + Send + Sync + 'static) -> Done {
    Done::with(message, move |record| change(record.findings.get_or_insert_default()))
}

fn why(failure: Failure) -> Result<String, Failure> {
    match failure {
        Failure::Final(why) => Ok(why),
        other => Err(other),
    }
}

impl Run<'_> {
    fn findings(&self) -> Findings {
        self.record.findings.as_deref().cloned().unwrap_or_default()
    }

    fn own(&self) -> Result<GatewayId, Failure> {
        let own = self.context.own_gateway(self.attached);
        own.ok_or_else(|| Failure::Passing("this gateway isn't registered".to_owned()))
    }

    /// Whether a person has broken the run off.
    async fn is_broken_off(&self) -> Result<bool, Failure> {
        Ok(change_job(self.attached, self.id, |_| false).await?.cancel)
    }

    /// A job, if it was begun; one that was written down and never got its holder gets it.
    async fn begun(&self, id: JobId) -> Result<Option<(AnySpec, JobRecord)>, Failure> {
        let found = self.attached.vault()?.catalog().get(kind::JOBS, &id.to_string()).await;
        let document = match found {
            Ok(document) => document,
            Err(error) if error.kind() == VaultErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let spec = document.spec_as::<AnySpec>()?;
        let record: JobRecord = status(&document);
        if !record.is_over() && super::claim(self.attached, id, &spec).await.is_err() {
            return Ok(None);
        }
        Ok(Some((spec, record)))
    }

    /// Until a job is over, telling how far it is. With `may_end`, breaking the run off ends it.
    async fn over(&self, id: JobId, may_end: bool) -> Result<(AnySpec, JobRecord), Failure> {
        let mut changes = self.context.watch();
        let mut ended = false;
        loop {
            changes.borrow_and_update();
            let document = self.attached.vault()?.catalog().get(kind::JOBS, &id.to_string()).await?;
            let record: JobRecord = status(&document);
            if record.is_over() {
                return Ok((document.spec_as()?, record));
            }
            let doing = record.current().map(|(_, step)| match step.message.as_str() {
                "" => step.view().name,
                message => format!("{}: {message}", step.view().name),
            });
            let broken_off = report_progress(self.attached, self.id, &doing.unwrap_or_default(), None).await;
            self.context.notify_watchers();
            if broken_off && may_end && !ended {
                ended = true;
                // One that is over by now goes its way.
                let _ = super::cancel(self.context, self.attached, id).await;
            }
            let _ = tokio::time::timeout(LOOK, changes.changed()).await;
        }
    }

    /// What is asked of the plan, decided by its document as it is now, and begun.
    async fn ask(&self, id: JobId, wanted: &Wanted) -> Result<(), ApiError> {
        self.attached.refresh().await?;
        let plan = self.attached.snapshot().get(kind::PLANS, &self.spec.plan.to_string()).cloned();
        let plan = plan.ok_or_else(|| ApiError::not_found("plan", &self.spec.plan_name))?;
        let asked = AskedOf::new(self.context, self.attached, &plan, Subject::Plan(self.spec.plan), id)?;
        let (mut spec, steps) = match wanted {
            Wanted::Test(wanted) => asked.failover(wanted).await?,
            Wanted::Cleanup(wanted, test) => asked.cleanup(wanted, Some(*test))?,
        };
        spec.parent = Some(self.id);
        super::begin(self.context, self.attached, id, AnySpec::Program(Box::new(spec)), steps).await.map(drop)
    }

    /// Begins a job of the plan, unless it was begun; a plan that is busy is waited for. A test is waited for no longer once a
    /// person breaks the run off.
    async fn begin(&self, id: JobId, patience: Duration, wanted: &Wanted) -> Result<(), Failure> {
        let until = Instant::now() + patience;
        loop {
            if self.begun(id).await?.is_some() {
                return Ok(());
            }
            let Err(error) = self.ask(id, wanted).await else { return Ok(()) };
            let may_pass =
                matches!(error.0.code, ProblemCode::Conflict | ProblemCode::Unavailable | ProblemCode::Timeout);
            if !may_pass || Instant::now() >= until {
                return Err(Failure::Final(error.0.detail));
            }
            let message = format!("waits: {}", error.0.detail);
            let broken_off = report_progress(self.attached, self.id, &message, None).await;
            if broken_off && matches!(wanted, Wanted::Test(_)) {
                return Err(Failure::Final("it was broken off".to_owned()));
            }
            self.context.notify_watchers();
            tokio::time::sleep(4 * LOOK).await;
        }
    }

    /// The test of the plan, up or not.
    async fn test_plan(&self) -> Result<Done, Failure> {
        let id = test_job(self.id);
        let begun = self.record.started.unwrap_or_else(Timestamp::now);
        change_drill(self.attached, self.spec.drill, |drill| {
            let news = drill.begun.is_none_or(|before| before < begun);
            if news {
                drill.begun = Some(begun);
            }
            news
        })
        .await?;
        let wanted = Wanted::Test(ask::test_request(&self.spec.spec));
        if let Err(failure) = self.begin(id, BUSY_PATIENCE, &wanted).await {
            let why = why(failure)?;
            let broken_off = self.is_broken_off().await?;
            return Ok(found(format!("there is no test: {why}"), move |findings| {
                findings.broken_off = broken_off;
                findings.troubles.push(format!("the plan can't be tested: {why}"));
            }));
        }
        change_drill(self.attached, self.spec.drill, |drill| drill.test.replace(id) != Some(id)).await?;
        let (spec, test) = self.over(id, true).await?;
        let points = self.points(&spec, test.started.unwrap_or(begun)).await?;
        let broken_off = self.is_broken_off().await?;
        let (up, trouble) = match test.state.0 {
            JobState::Succeeded => (test.finished, None),
            JobState::Cancelled => (None, None),
            _ => (None, Some(format!("the test failed: {}", test.cause.clone().unwrap_or_default()))),
        };
        let message = match (&trouble, up) {
            (Some(trouble), _) => trouble.clone(),
            (None, Some(_)) => format!("{} machines are up", test.result.machines.len()),
            (None, None) => "it was broken off".to_owned(),
        };
        // What runs elsewhere is looked at there.
        let others: BTreeSet<GatewayId> = test.result.machines.iter().map(|run| run.gateway_id).collect();
        let leader = self.spec.gateway;
        Ok(Done::with(message, move |record| {
            let findings = record.findings.get_or_insert_default();
            findings.test = Some(id);
            (findings.started, findings.up) = (test.started, up);
            findings.rpo_seconds = points.iter().filter_map(|point| point.lost_seconds).reduce(f64::max);
            findings.points.clone_from(&points);
            findings.machines.clone_from(&test.result.machines);
            findings.broken_off = broken_off;
            findings.troubles = trouble.iter().cloned().collect();
            let after = record.steps.iter().position(|step| step.step == Step::Assert).map_or(0, |at| at + 1);
            let known: Vec<GatewayId> =
                record.steps.iter().filter(|step| step.step == Step::Assert).map(|step| step.gateway).collect();
            let more = others.iter().filter(|one| **one != leader && !known.contains(one));
            let more: Vec<StepRecord> = more.map(|one| StepRecord::new(Step::Assert, *one)).collect();
            record.steps.splice(after..after, more);
        }))
    }

    /// The recovery points that the groups of a test started from, and what a disaster when it began would have lost.
    async fn points(&self, test: &AnySpec, begun: Timestamp) -> Result<Vec<PointUsed>, Failure> {
        let AnySpec::Program(program) = test else { return Ok(Vec::new()) };
        let mut points = Vec::new();
        for member in &program.groups {
            let moved = self.begun(member.job).await?;
            let (point_id, point_time) =
                moved.map(|(_, job)| (job.result.point_id, job.result.point_time)).unwrap_or_default();
            let document = self.attached.snapshot().get(kind::GROUPS, &member.group.to_string()).cloned();
            let observed = document.and_then(|document| status::<GroupRecord>(&document).observed);
            points.push(PointUsed {
                group_id: member.group,
                group: member.name.clone(),
                point_id,
                point_time,
                lost_seconds: point_time.map(|time| crate::view::lost(begun, (point_id, time), observed.as_ref())),
            });
        }
        Ok(points)
    }

    /// Looks at what is asserted of what runs here, then takes pictures of it.
    async fn assert(&self) -> Result<Done, Failure> {
        let findings = self.findings();
        let (Some(test), Some(_)) = (findings.test, findings.up) else {
            return Ok(Done::new("nothing came up to look at"));
        };
        if findings.broken_off {
            return Ok(Done::new("it was broken off"));
        }
        let (results, broken_off) = self.look_at_all(&findings, test).await?;
        let (pictures, troubles) = self.take_pictures(&findings, test).await?;
        let held = results.iter().filter(|result| result.passed).count();
        let message = format!("{held} of {} hold", results.len());
        Ok(found(message, move |findings| {
            findings.results.retain(|old| results.iter().all(|new| new.index != old.index));
            findings.results.extend(results.iter().cloned());
            findings.results.sort_by_key(|result| result.index);
            findings.pictures.retain(|old| pictures.iter().all(|new| new.machine != old.machine));
            findings.pictures.extend(pictures.iter().cloned());
            findings.notes.extend(troubles.iter().cloned());
            findings.broken_off |= broken_off;
        }))
    }

    /// Pictures of the screens of the machines that run here; what can't be had is said, and nothing else comes of it.
    async fn take_pictures(&self, findings: &Findings, test: JobId) -> Result<(Vec<Picture>, Vec<String>), Failure> {
        let (mut pictures, mut notes) = (Vec::new(), Vec::new());
        let own = self.own()?;
        let Some(driver) = &self.context.compute else { return Ok((pictures, notes)) };
        for (index, machine) in findings.machines.iter().enumerate().filter(|(_, run)| run.gateway_id == own) {
            let Some(run) = run_id(machine.machine_id, Some(test)) else { continue };
            let png = match driver.screen(&run).await {
                Ok(Some(png)) if png.len() <= PICTURE_BYTES => png,
                Ok(Some(png)) => {
                    let length = png.len();
                    notes.push(format!("the picture of {} is too large to be kept ({length} bytes)", machine.name));
                    continue;
                }
                Ok(None) => continue,
                Err(error) => {
                    notes.push(format!("no picture of {}: {error}", machine.name));
                    continue;
                }
            };
            let document = format!("{}-{index}", self.id);
            let catalog = self.attached.vault()?;
            let kept = serde_json::json!({"machine": machine.name, "png": STANDARD.encode(&png)});
            let made = catalog.catalog().create(kind::PICTURES, &document, &machine.name, kept, serde_json::json!({}));
            let png = match made.await {
                Ok(_) => png,
                // An earlier try took one: that one is kept.
                Err(error) if error.kind() == VaultErrorKind::Conflict => {
                    evidence::picture(&catalog, &document).await?.unwrap_or(png)
                }
                Err(error) => return Err(error.into()),
            };
            pictures.push(Picture {
                machine: machine.name.clone(),
                document,
                sha256: evidence::sha256(&png),
                looks: looks::Looks::of(&png).ok().map(|looks| looks.to_string()),
            });
        }
        Ok((pictures, notes))
    }

    /// Has the test cleaned up, unless it is to be kept.
    async fn end_test(&self) -> Result<Done, Failure> {
        let findings = self.findings();
        let Some(test) = findings.test else { return Ok(Done::new("there is nothing to clean up")) };
        if self.spec.spec.keep && !findings.broken_off && findings.up.is_some() && !self.is_broken_off().await? {
            return Ok(Done::new("it stays up, as it was declared: lifeboat drill cleanup ends it"));
        }
        let since = self.step.started.unwrap_or_else(Timestamp::now);
        match self.clean_up(test).await {
            Ok(message) => Ok(found(message, |findings| findings.cleaned = true)),
            Err(Failure::Final(why) | Failure::Passing(why)) => {
                if Timestamp::now().seconds_since(since) < CLEAN_PATIENCE.as_secs_f64() {
                    return Err(Failure::Passing(format!("the test isn't cleaned up yet: {why}")));
                }
                let why = format!("the test couldn't be cleaned up, and is once its time is over: {why}");
                Ok(found(why.clone(), move |findings| findings.troubles.push(why.clone())))
            }
            Err(Failure::Cancelled) => Err(Failure::Cancelled),
        }
    }

    async fn clean_up(&self, test: JobId) -> Result<String, Failure> {
        let plan = self.attached.vault()?.catalog().get(kind::PLANS, &self.spec.plan.to_string()).await;
        let plan = match plan {
            Ok(plan) => plan,
            Err(error) if error.kind() == VaultErrorKind::NotFound => return Ok("the plan is gone".to_owned()),
            Err(error) => return Err(error.into()),
        };
        let record: RecoveryRecord = status(&plan);
        if record.tests.iter().all(|one| one.job != test) {
            return Ok("nothing is left of the test".to_owned());
        }
        let id = derived(&[b"lifeboat/v1/drill-end\0", &self.id.to_bytes()]);
        let notes = Some(format!("the drill {} of {}", self.spec.spec.name, self.id));
        let wanted = Wanted::Cleanup(PlanCleanupRequest { notes }, test);
        if let Some((spec, record)) = self.begun(id).await?
            && record.state.0 == JobState::Failed
        {
            super::retry(self.context, self.attached, id, &spec, false)
                .await
                .map_err(|error| Failure::Passing(error.0.detail))?;
        }
        self.begin(id, CLEAN_PATIENCE, &wanted).await?;
        let (_, record) = self.over(id, false).await?;
        match record.state.0 {
            JobState::Succeeded => Ok("nothing is left of the test".to_owned()),
            _ => Err(Failure::Passing(record.cause.unwrap_or_else(|| "its clean-up was broken off".to_owned()))),
        }
    }

    /// Writes down what was found, signed, and how it came out.
    async fn attest(&self) -> Result<Done, Failure> {
        let mut findings = self.findings();
        findings.broken_off |= self.is_broken_off().await?;
        let run = evidence::attest(self, &findings).await?;
        if findings.broken_off {
            return Err(Failure::Cancelled);
        }
        let outcome = run.outcome;
        let message = match outcome.failures.first() {
            None => "it passed".to_owned(),
            Some(first) => format!("it didn't pass: {first}"),
        };
        let machines = findings.machines;
        Ok(Done::with(message, move |record| {
            record.result.rto_seconds = outcome.rto_seconds;
            record.result.rpo_seconds = outcome.rpo_seconds;
            record.result.machines.clone_from(&machines);
            record.result.jobs = findings.test.into_iter().collect();
            record.result.drill = Some(outcome.clone());
        }))
    }
}

#[cfg(test)]
mod tests {
    use lifeboat_model::PointId;

    use super::*;
    use crate::records::Observed;
    use crate::view::lost;

    #[test]
    fn an_idle_group_loses_nothing_however_old_its_point_is() {
        let at = |seconds: i64| Timestamp::from_micros(1_700_000_000_000_000 + seconds * 1_000_000);
        let observed = |seen: i64, id: &PointId, landed: Option<f64>| -> Observed {
            serde_json::from_value(serde_json::json!({
                "gateway": GatewayId::from_bytes([1; 16]), "time": at(seen), "health": "healthy", "reasons": [],
                "landed_rpo_seconds": landed, "backlog_bytes": 0, "journal_bytes_used": 0, "churn_bytes_per_second": 0.0,
                "hydrated_bytes": null, "mount_path": null, "volumes": [],
                "latest_point": {
                    "id": id, "branch": lifeboat_model::BranchId::from_bytes([2; 16]), "epoch": 1, "lsn": 1, "time": at(0),
                    "kind": "crash-consistent", "label": "",
                },
            }))
            .expect("an account")
        };
        let (own, other) = (PointId::from_bytes([3; 16]), PointId::from_bytes([4; 16]));
        let point = (Some(own), at(0));
        assert_eq!(lost(at(600), point, None), 600.0);
        assert_eq!(lost(at(600), point, Some(&observed(595, &own, Some(0.0)))), 5.0, "what came since it was said");
        assert_eq!(lost(at(600), point, Some(&observed(601, &own, Some(2.0)))), 2.0);
        assert_eq!(lost(at(600), point, Some(&observed(595, &own, Some(900.0)))), 600.0, "never more than its age");
        assert_eq!(lost(at(600), point, Some(&observed(595, &other, Some(0.0)))), 600.0, "an older point was chosen");
        assert_eq!(lost(at(600), point, Some(&observed(595, &own, None))), 600.0);
    }
}
