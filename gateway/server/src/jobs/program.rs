//! Jobs over plans and machines: what each step of a program does. Every one may be run again after a crash at any point and
//! comes to the same, but for actions: a program of the administrator's that was running when the gateway died is run
//! again.
//!
//! The data of each group is moved by a job of its own, with an id that is derived from the program's. So a program
//! that is run again finds the jobs that it began, and whoever watches sees both.

mod act;
pub(crate) mod ask;
mod machines;
pub(crate) mod spread;

pub(crate) use machines::{run_id, run_of};

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use lifeboat_api::{
    ChangePointRequest, FailbackDisk, FailbackMode, FailbackRequest, FailoverKind, FailoverRequest, JobKind,
    ProblemCode,
};
use lifeboat_model::state::JobState;
use lifeboat_model::{BranchId, JobId, Timestamp};
use lifeboat_vault::VaultErrorKind;

use super::ask::{Asked, Decided};
use super::perform::{Done, Failure};
use super::{change_job, change_recovery, report_progress};
use crate::context::{Context, Happening};
use crate::http::error::ApiError;
use crate::records::{
    AnySpec, JobRecord, Member, ProgramSpec, RecoveryFailover, RecoveryTest, Step, StepRecord, Subject, kind, status,
};
use crate::vaults::AttachedVault;
use crate::view::{self, GroupFacts};

/// Time between two looks at the jobs of the groups.
const LOOK: Duration = Duration::from_millis(300);

/// A program at one of its steps.
pub(super) struct Run<'a> {
    pub(super) context: &'a Arc<Context>,
    pub(super) attached: &'a Arc<AttachedVault>,
    pub(super) id: JobId,
    pub(super) spec: &'a ProgramSpec,
    pub(super) record: &'a JobRecord,
    pub(super) index: usize,
    pub(super) step: &'a StepRecord,
}

pub(super) async fn perform(run: &Run<'_>) -> Result<Done, Failure> {
    match run.step.step {
        Step::Check => run.check().await,
        Step::OpenTest => run.open_test().await,
        Step::Act => run.act().await,
        Step::StopMachines => run.stop_machines().await,
        Step::StartMachines => run.start_machines().await,
        Step::EndTests => run.end_test_machines().await,
        Step::Reprotect => run.groups(true).await,
        Step::Groups => run.groups(false).await,
        Step::RecordPlan => run.record().await,
        Step::StandIn => super::replace::stand_in(run).await,
        other => Err(Failure::Final(format!("a step that no {} has: {}", run.spec.subject.what(), other.title()))),
    }
}

/// Whether a refusal may pass: somebody else is at work, or the vault is away.
pub(super) fn refusal(error: ApiError) -> Failure {
    let text = error.0.detail.clone();
    match error.0.code {
        ProblemCode::Conflict | ProblemCode::Unavailable | ProblemCode::Timeout => Failure::Passing(text),
        _ => Failure::Final(text),
    }
}

impl Run<'_> {
    /// Writes the record of the plan or machine.
    async fn change_subject(
        &self,
        change: impl FnMut(&mut crate::records::RecoveryRecord) -> bool + Send,
    ) -> Result<crate::records::RecoveryRecord, Failure> {
        let subject = self.spec.subject;
        Ok(change_recovery(self.attached, subject.kind(), &subject.id(), change).await?)
    }

    /// What can be known now speaks for it. A failover after a disaster goes on with what it has.
    async fn check(&self) -> Result<Done, Failure> {
        // The gateway that leads speaks for all, the others for what they are to run.
        let leads = self.step.gateway == self.spec.gateway;
        let (mut found, remarks) =
            if leads { (self.spec.warnings.clone(), self.spec.remarks.join("; ")) } else { Default::default() };
        found.extend(self.check_machines().await);
        let Some(first) = found.first() else {
            let but = if remarks.is_empty() { String::new() } else { format!(", but: {remarks}") };
            return Ok(Done::new(format!("nothing speaks against it{but}")));
        };
        if self.spec.failover == Some(FailoverKind::Unplanned) {
            found.extend((!remarks.is_empty()).then_some(remarks));
            return Ok(Done::new(format!("goes on although: {}", found.join("; "))));
        }
        let more = match found.len() {
            1 => String::new(),
            more => format!(" (and {} more)", more - 1),
        };
        Err(Failure::Final(format!("{first}{more}")))
    }

    /// From here on the test is cleaned up, whatever happens.
    async fn open_test(&self) -> Result<Done, Failure> {
        let started = self.record.started.unwrap_or_else(Timestamp::now);
        let expires = started.plus(Duration::from_secs(self.spec.ttl_seconds));
        let test = RecoveryTest {
            job: self.id,
            gateway: self.spec.gateway,
            started,
            expires,
            groups: self.spec.groups.clone(),
            machines: Vec::new(),
        };
        self.change_subject(|record| {
            if record.tests.iter().any(|other| other.job == self.id) {
                return false;
            }
            record.tests.push(test.clone());
            true
        })
        .await?;
        Ok(Done::new(format!("it is cleaned up at {expires} at the latest")))
    }

    /// Has each group moved by a job of its own.
    async fn groups(&self, forward: bool) -> Result<Done, Failure> {
        let mut children = Vec::new();
        let mut there = 0_usize;
        for member in &self.spec.groups {
            let id = if forward { ask::reprotect_job(member) } else { member.job };
            match self.child(member, id, forward).await? {
                Some(id) => children.push((id, member)),
                None => there += 1,
            }
        }
        self.wait_for(&children).await?;
        let moved = children.len();
        let message = match (forward, there) {
            (true, _) => format!("{moved} home copies were brought forward"),
            (false, 0) => format!("{moved} groups are done"),
            (false, there) => format!("{moved} groups are done; {there} had nothing to do"),
        };
        let results = join_all(children.iter().map(|(id, _)| self.job_record(*id))).await;
        let results: Vec<JobRecord> = results.into_iter().collect::<Result<_, _>>()?;
        let (ids, moving) = (children.iter().map(|(id, _)| *id).collect::<Vec<_>>(), !forward);
        let begun = self.record.started;
        Ok(Done::with(message, move |record| {
            let jobs = &mut record.result.jobs;
            jobs.extend(ids.iter().filter(|id| !jobs.contains(id)).copied().collect::<Vec<_>>());
            for child in &results {
                add_up(record, child, moving);
            }
            if moving && record.result.rto_seconds.is_some() {
                record.result.rto_seconds = begun.map(|begun| Timestamp::now().seconds_since(begun));
            }
        }))
    }

    /// The job of a group: begun now, found, or tried again. None where there is nothing to do for it.
    async fn child(&self, member: &Member, id: JobId, forward: bool) -> Result<Option<JobId>, Failure> {
        let vault = self.attached.vault()?;
        match vault.catalog().get(kind::JOBS, &id.to_string()).await {
            Ok(document) => {
                let record: JobRecord = status(&document);
                let spec = document.spec_as::<AnySpec>()?;
                if record.state.0 == JobState::Failed {
                    super::retry(self.context, self.attached, id, &spec, false).await.map_err(refusal)?;
                } else if !record.is_over() {
                    // A gateway may have been killed between writing it down and giving it its group.
                    super::claim(self.attached, id, &spec).await.map_err(refusal)?;
                }
                return Ok(Some(id));
            }
            Err(error) if error.kind() == VaultErrorKind::NotFound => {}
            Err(error) => return Err(error.into()),
        }
        self.attached.refresh().await?;
        let snapshot = self.attached.snapshot();
        let document = snapshot
            .get(kind::GROUPS, &member.group.to_string())
            .ok_or_else(|| Failure::Final(format!("the group {} was deleted", member.name)))?;
        let facts = view::group_facts(self.context, self.attached, document)?;
        let asked = Asked { context: self.context, attached: self.attached, facts: &facts, job: id };
        let Some((mut spec, steps)) = self.decide(&asked, &facts, member, forward).await? else { return Ok(None) };
        spec.parent = Some(self.id);
        if forward && self.spec.mode == Some(FailbackMode::FullDownload) {
            spec.mode = self.spec.mode;
        }
        let spec = AnySpec::Group(Box::new(spec));
        super::begin(self.context, self.attached, id, spec, steps).await.map_err(refusal)?;
        Ok(Some(id))
    }

    /// What is asked of a group; nothing where it stands as it is to stand already.
    async fn decide(
        &self,
        asked: &Asked<'_>,
        facts: &GroupFacts,
        member: &Member,
        forward: bool,
    ) -> Result<Option<Decided>, Failure> {
        let active = facts.record.active.as_ref().map(|active| active.gateway);
        let there = self.spec.gateway_of(member.group);
        let is_home = active.is_some() && active == facts.home && active == Some(there);
        if forward {
            return if is_home { Ok(None) } else { asked.reprotect(Some(there)).map(Some).map_err(refusal) };
        }
        let point = ask::point_of(self.spec);
        let decided = match self.spec.kind {
            JobKind::PlannedFailover | JobKind::UnplannedFailover if active == Some(there) => return Ok(None),
            JobKind::TestFailover | JobKind::PlannedFailover | JobKind::UnplannedFailover => {
                let kind = self.spec.failover.unwrap_or(FailoverKind::Test);
                asked.failover_to(there, &FailoverRequest { kind, point, branch_id: None }).await
            }
            JobKind::ChangePoint => {
                let wanted = asked.other_point(&point).await.map_err(refusal)?;
                if facts.record.failover.as_ref().is_some_and(|failover| failover.point == wanted.id) {
                    return Ok(None);
                }
                asked.change_point(&ChangePointRequest { point: wanted.id.to_string() }).await
            }
            JobKind::Commit if facts.record.failover.is_none() || facts.record.committed => return Ok(None),
            JobKind::Commit => asked.commit(),
            JobKind::Cleanup => {
                let branch = self.test_branch_of(member);
                let Some(test) = facts.record.tests.iter().find(|test| Some(test.branch) == branch) else {
                    return Ok(None);
                };
                asked.end_tests(&[test.branch])
            }
            JobKind::ReplaceGateway => {
                let Subject::Gateway(lost) = self.spec.subject else {
                    return Err(Failure::Final("the job says nothing of the lost gateway".to_owned()));
                };
                let decided = super::replace::of_group(asked, lost, there, self.spec.leave_disks);
                return decided.map_err(refusal);
            }
            JobKind::Failback if is_home => return Ok(None),
            JobKind::Failback => {
                let mode = self.spec.mode.unwrap_or(FailbackMode::MinimizeDowntime);
                // What is to be fetched in full was fetched while the recovery side ran.
                let mode = if mode == FailbackMode::FullDownload { FailbackMode::MinimizeDowntime } else { mode };
                let its = |disk: &&FailbackDisk| facts.volumes.iter().any(|(volume, _)| *volume == disk.volume_id);
                let disks = self.spec.disks.iter().filter(its).cloned().collect();
                asked.failback(&FailbackRequest { disks, ..FailbackRequest::to(mode, there) })
            }
            other => return Err(Failure::Final(format!("a job over groups that is none: {other}"))),
        };
        decided.map(Some).map_err(refusal)
    }

    /// The branch of a group in the test that ends.
    fn test_branch_of(&self, member: &Member) -> Option<BranchId> {
        let subject = self.spec.subject;
        let document = self.attached.snapshot().get(subject.kind(), &subject.id()).cloned()?;
        let record: crate::records::RecoveryRecord = status(&document);
        let tests = record.tests.into_iter().filter(|test| self.spec.tests.contains(&test.job));
        let mut members = tests.flat_map(|test| test.groups).filter(|one| one.group == member.group);
        members
            .find(|one| ask::cleanup_job(self.id, one) == member.job)
            .map(|one| BranchId::from_bytes(one.job.to_bytes()))
    }

    async fn job_record(&self, id: JobId) -> Result<JobRecord, Failure> {
        let document = self.attached.vault()?.catalog().get(kind::JOBS, &id.to_string()).await?;
        Ok(status(&document))
    }

    /// Until all are over, telling how far they are. A request to cancel is passed on.
    async fn wait_for(&self, children: &[(JobId, &Member)]) -> Result<(), Failure> {
        let mut changes = self.context.watch();
        let mut passed_on = false;
        loop {
            changes.borrow_and_update();
            let records = join_all(children.iter().map(|(id, _)| self.job_record(*id))).await;
            let records: Vec<JobRecord> = records.into_iter().collect::<Result<_, _>>()?;
            let over = records.iter().filter(|record| record.is_over()).count();
            let progress = records
                .iter()
                .filter_map(|record| record.current().and_then(|(_, step)| step.progress))
                .map(|progress| (progress.done_bytes, progress.total_bytes))
                .reduce(|one, other| (one.0.saturating_add(other.0), one.1.saturating_add(other.1)));
            let doing = records.iter().zip(children).find(|(record, _)| !record.is_over());
            let doing = doing.and_then(|(record, (_, member))| {
                let (_, step) = record.current()?;
                Some(format!(", {}: {}", member.name, step.step.title().to_lowercase()))
            });
            let message = format!("{over} of {} groups{}", children.len(), doing.unwrap_or_default());
            let cancel = report_progress(self.attached, self.id, &message, progress).await;
            self.context.notify_watchers();
            if over == children.len() {
                return self.outcome(&records, children);
            }
            if cancel && !passed_on {
                passed_on = true;
                for (id, _) in children {
                    // One that is over, or too far to be left, goes its way.
                    let _ = super::cancel(self.context, self.attached, *id).await;
                }
            }
            let _ = tokio::time::timeout(LOOK, changes.changed()).await;
        }
    }

    fn outcome(&self, records: &[JobRecord], children: &[(JobId, &Member)]) -> Result<(), Failure> {
        let of = |state: JobState| records.iter().zip(children).filter(move |(record, _)| record.state.0 == state);
        if let Some((record, (id, member))) = of(JobState::Failed).next() {
            let cause = record.cause.clone().unwrap_or_default();
            return Err(Failure::Final(format!("the group {} ({id}): {cause}", member.name)));
        }
        match of(JobState::Cancelled).next() {
            Some(_) => Err(Failure::Cancelled),
            None => Ok(()),
        }
    }

    /// Writes down how the plan or machine stands.
    async fn record(&self) -> Result<Done, Failure> {
        let spec = self.spec;
        match spec.kind {
            JobKind::PlannedFailover | JobKind::UnplannedFailover => {
                let kind = spec.failover.unwrap_or(FailoverKind::Planned);
                let failover = RecoveryFailover { kind, job: self.id, gateway: spec.gateway, committed: false };
                self.change_subject(|record| {
                    let news = record.failover.as_ref() != Some(&failover);
                    record.failover = Some(failover.clone());
                    news
                })
                .await?;
                Ok(Done::new("it is failed over; change its point, commit it, or fail back"))
            }
            JobKind::Commit => {
                self.change_subject(|record| {
                    record.failover.as_mut().is_some_and(|one| !std::mem::replace(&mut one.committed, true))
                })
                .await?;
                Ok(Done::new("the failover is final"))
            }
            JobKind::Failback => {
                self.change_subject(|record| record.failover.take().is_some()).await?;
                Ok(Done::new("it is at home"))
            }
            JobKind::Cleanup => {
                self.change_subject(|record| {
                    let before = record.tests.len();
                    record.tests.retain(|test| !spec.tests.contains(&test.job));
                    record.tests.len() != before
                })
                .await?;
                self.tell_notes().await;
                let notes = spec.notes.clone();
                Ok(Done::with("nothing is left of the test", move |record| record.result.notes.clone_from(&notes)))
            }
            other => Err(Failure::Final(format!("nothing is written down of a {other}"))),
        }
    }

    async fn tell_notes(&self) {
        let Some(notes) = &self.spec.notes else { return };
        let message = format!("test of the {} {} cleaned up: {notes}", self.spec.subject.what(), self.spec.name);
        let event = Happening { kind: "test.noted", message, job: Some(self.id), ..Happening::default() };
        self.context.event(self.attached, event).await;
    }

    /// Whether a person has asked for the job to stop.
    async fn is_cancelled(&self) -> bool {
        change_job(self.attached, self.id, |_| false).await.is_ok_and(|record| record.cancel)
    }
}

/// Adds what a group's job found and did to what the program did.
fn add_up(record: &mut JobRecord, child: &JobRecord, moving: bool) {
    let add = |total: &mut Option<u64>, more: Option<u64>| {
        if let Some(more) = more {
            *total = Some(total.unwrap_or(0).saturating_add(more));
        }
    };
    let most = |total: &mut Option<f64>, other: Option<f64>| {
        if let Some(other) = other {
            *total = Some(total.map_or(other, |total| total.max(other)));
        }
    };
    let (result, found) = (&mut record.result, &child.result);
    add(&mut result.bytes_compared, found.bytes_compared);
    add(&mut result.bytes_changed, found.bytes_changed);
    add(&mut result.bytes_moved, found.bytes_moved);
    if moving {
        add(&mut result.bytes_volume, found.bytes_volume);
        most(&mut result.rpo_seconds, found.rpo_seconds);
        most(&mut result.rto_seconds, found.rto_seconds);
        most(&mut result.downtime_seconds, found.downtime_seconds);
        let known = &mut result.paths;
        known.extend(found.paths.iter().filter(|path| !known.contains(path)).cloned().collect::<Vec<_>>());
    }
}
