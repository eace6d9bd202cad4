//! A gateway is lost, and another one of its site takes its place.
//!
//! ```text
//! mark it · end what waits for it ─> each group, by a job of its own: fence · fork at the newest point · home ─> start its machines
//! ```
//! The one that takes over does all of it, so that nothing waits for the one that is lost. Should that come back, it finds that it
//! was fenced: it shows its volumes as they were, for reading, and keeps what it had not shipped in the vault.

use std::collections::BTreeSet;

use lifeboat_api::{
    BootGroup, GatewayRole, GatewaySpec, JobKind, MachineRun, MachineSpec, PlanDirection, ReplaceGatewayRequest,
};
use lifeboat_model::{BranchId, GatewayId, GroupId, JobId, MachineId, Timestamp};
use lifeboat_vault::Document;

use super::ask::{Asked, Decided};
use super::perform::{Done, Failure};
use super::program::Run;
use super::{Ending, change_gateway, change_group_by_id, change_job, change_recovery, end, plan};
use crate::http::error::{ApiError, ApiResult};
use crate::placement::{Destination, Places};
use crate::records::{
    AnySpec, GatewayRecord, GroupRecord, JobRecord, JobSpec, Member, Mover, Part, ProgramSpec, RecoveryRecord,
    ReplacedRecord, Step, StepRecord, Subject, kind, status,
};
use crate::vaults::{AttachedVault, Snapshot};
use crate::view;

/// Plans and machines.
const PROGRAMS: [&str; 2] = [kind::PLANS, kind::MACHINES];

/// A gateway that is to be replaced.
#[derive(Debug)]
pub(crate) struct Replacement<'a> {
    pub(crate) attached: &'a AttachedVault,
    /// The lost gateway's document.
    pub(crate) document: &'a Document,
    pub(crate) lost: GatewayId,
    pub(crate) wanted: &'a ReplaceGatewayRequest,
}

impl Replacement<'_> {
    /// Whether the one that is to be replaced was heard of so lately that it may well be at work.
    pub(crate) fn is_heard(&self) -> bool {
        view::is_alive(&status::<GatewayRecord>(self.document), super::SILENCE)
    }

    /// Refuses what can't be: a gateway that isn't lost, one that can't take its place.
    pub(crate) fn admit(&self) -> ApiResult<()> {
        let (name, record): (_, GatewayRecord) = (&self.document.name, status(self.document));
        if record.agent {
            return Err(ApiError::conflict(format!(
                "{name} is an agent: fail its group over, and back to a gateway of its site or to the agent on a new machine"
            )));
        }
        self.may_take_over()?;
        if self.is_heard() && !self.wanted.force {
            let seen = record.last_seen.map_or_else(String::new, |seen| format!(" ({seen})"));
            return Err(ApiError::conflict(format!(
                "the gateway {name} was heard of less than {:?} ago{seen} and may be serving: stop it and ask again, or move its groups \
                 in order with planned failovers; if it can't be stopped, force it (--force): it is fenced, and what it has acknowledged \
                 and not shipped stays with it",
                super::SILENCE
            )));
        }
        Ok(())
    }

    fn may_take_over(&self) -> ApiResult<()> {
        let snapshot = self.attached.snapshot();
        let refused = |why: String| Err(ApiError::field("gateway_id", why));
        let by = self.wanted.gateway_id;
        let Some(document) = snapshot.get(kind::GATEWAYS, &by.to_string()) else {
            return refused(format!("there is no gateway {by}"));
        };
        let (name, record): (_, GatewayRecord) = (&document.name, status(document));
        if by == self.lost {
            return refused(format!("{name} is the gateway that is to be replaced: name the one that takes its place"));
        }
        if record.agent {
            return refused(format!("{name} is an agent: name a gateway"));
        }
        let (lost, new): (GatewaySpec, GatewaySpec) = (self.document.spec_as()?, document.spec_as()?);
        if lost.site_id != new.site_id {
            let at = view::site_name(&snapshot, lost.site_id).unwrap_or_else(|| lost.site_id.to_string());
            return refused(format!(
                "must be a gateway of the same site, {at}, and {name} is of another: to run there, fail over"
            ));
        }
        if record.process_id.is_none() {
            return refused(format!(
                "no process has registered as the gateway {name}: start it and open this vault with it"
            ));
        }
        if !view::is_alive(&record, super::SILENCE) {
            return refused(format!("{name} was not heard of for more than {:?}: start it", super::SILENCE));
        }
        if record.replaced.is_some() {
            return refused(format!("{name} was replaced itself: name a gateway that wasn't"));
        }
        let has = |role: &GatewayRole| new.roles.as_ref().is_none_or(|roles| roles.contains(role));
        let roles = lost.roles.unwrap_or_else(|| GatewayRole::ALL.to_vec());
        match roles.iter().find(|role| !has(role)) {
            None => Ok(()),
            Some(role) => refused(format!(
                "{name} isn't declared as a {}, which {} is: add the role to its roles, or name another gateway",
                role.as_str().replace('_', " "),
                self.document.name
            )),
        }
    }

    /// What the job is to do, and its steps.
    pub(crate) fn decide(&self, job: JobId) -> ApiResult<(ProgramSpec, Vec<StepRecord>)> {
        let snapshot = self.attached.snapshot();
        let (lost, by) = (self.lost, self.wanted.gateway_id);
        let mut groups = Vec::new();
        for document in snapshot.of(kind::GROUPS) {
            let Ok(group) = document.id.parse::<GroupId>() else { continue };
            if !concerns(&snapshot, document, group, lost) {
                continue;
            }
            groups.push(Member {
                group,
                name: document.name.clone(),
                job: super::derived(&[b"lifeboat/v1/replace\0", &job.to_bytes(), &group.to_bytes()]),
                gateway: None,
            });
        }
        let moved: Vec<GroupId> = groups.iter().map(|member| member.group).collect();
        self.refuse_hindered(&snapshot, &moved)?;
        let (machines, remarks) = self.machines(&snapshot);
        let mut steps = vec![StepRecord::new(Step::StandIn, by), StepRecord::new(Step::Groups, by)];
        let boot = BootGroup {
            name: None,
            machine_ids: machines.iter().map(|mover| mover.id).collect(),
            volume_ids: Vec::new(),
            pre_action: Vec::new(),
            post_action: Vec::new(),
        };
        if !machines.is_empty() {
            steps.push(StepRecord::of(Step::StartMachines, by, Part::BootGroup(0), "those that ran there"));
        }
        let spec = ProgramSpec {
            kind: JobKind::ReplaceGateway,
            subject: Subject::Gateway(lost),
            name: self.document.name.clone(),
            gateway: by,
            direction: PlanDirection::Failover,
            failover: None,
            point: None,
            mode: None,
            ttl_seconds: 0,
            patience_seconds: 0,
            notes: None,
            tests: Vec::new(),
            warnings: Vec::new(),
            remarks,
            shutdown: None,
            boot_group: vec![boot],
            groups,
            machines,
            parent: None,
            leave_disks: self.wanted.leave_disks,
            disks: Vec::new(),
        };
        Ok((spec, steps))
    }

    /// The machines that ran at the lost gateway and can run at the one that takes its place; why others can't.
    fn machines(&self, snapshot: &Snapshot) -> (Vec<Mover>, Vec<String>) {
        let by = self.wanted.gateway_id.to_string();
        let new = snapshot.get(kind::GATEWAYS, &by);
        let runs_machines = new.is_some_and(|document| status::<GatewayRecord>(document).compute.is_some());
        let site = view::site_of(snapshot, self.wanted.gateway_id).map(|(site, _)| site);
        let ran: Vec<(MachineId, MachineSpec)> = view::machines(snapshot)
            .filter(|(id, _)| run_of(snapshot, *id).is_some_and(|run| run.gateway_id == self.lost))
            .collect();
        let (mut movers, mut remarks) = (Vec::new(), Vec::new());
        let mut places = Places::new(snapshot, &ran.iter().map(|(id, _)| *id).collect::<BTreeSet<_>>());
        for (id, spec) in ran {
            if !runs_machines {
                remarks.push(format!("the machine {} ran there and has to be started elsewhere", spec.name));
                continue;
            }
            let to = match site {
                Some(site) if site != spec.site_id => Destination::Site(site),
                _ => Destination::Home,
            };
            let (interfaces, missing) = places.of(id, &spec, to);
            match missing.into_iter().next() {
                Some(why) => remarks.push(format!("not started: {why}")),
                None => movers.push(Mover { id, spec, interfaces }),
            }
        }
        (movers, remarks)
    }

    /// Refuses while something moves one of the groups that doesn't wait for the lost gateway: it is to come to its end first.
    fn refuse_hindered(&self, snapshot: &Snapshot, groups: &[GroupId]) -> ApiResult<()> {
        for document in snapshot.of(kind::JOBS) {
            let record: JobRecord = status(document);
            let Ok(spec) = document.spec_as::<AnySpec>() else { continue };
            let Ok(id) = document.id.parse::<JobId>() else { continue };
            if record.is_over() || waits_for(&record, self.lost) || !super::is_held(snapshot, id) {
                continue;
            }
            let concerned = match &spec {
                AnySpec::Group(spec) => groups.contains(&spec.group),
                AnySpec::Program(spec) => spec.groups.iter().any(|member| groups.contains(&member.group)),
                AnySpec::Drill(_) => false,
            };
            if concerned && !matches!(spec.kind(), JobKind::TestFailover | JobKind::Cleanup) {
                return Err(ApiError::conflict(format!(
                    "a {} of the {} {} runs ({id}) and doesn't wait for the lost gateway: wait for it with `lifeboat job watch {id}`, \
                     or cancel it",
                    spec.kind(),
                    spec.what(),
                    spec.name()
                )));
            }
        }
        Ok(())
    }
}

/// Whether a gateway has a group: serves it, is its home, or is named by its volumes.
fn concerns(snapshot: &Snapshot, document: &Document, group: GroupId, gateway: GatewayId) -> bool {
    let record: GroupRecord = status(document);
    let volumes = view::volumes_of(snapshot, group);
    record.active.as_ref().is_some_and(|active| active.gateway == gateway)
        || view::home_of(&record, &volumes) == Some(gateway)
        || volumes.iter().any(|(_, spec)| spec.gateway_id == gateway)
}

fn run_of(snapshot: &Snapshot, machine: MachineId) -> Option<MachineRun> {
    status::<RecoveryRecord>(snapshot.get(kind::MACHINES, &machine.to_string())?).run
}

/// Whether a job has something left that a gateway is to do.
fn waits_for(record: &JobRecord, gateway: GatewayId) -> bool {
    let left = record.steps.iter().filter(|step| step.state != lifeboat_model::state::JobState::Succeeded);
    !record.is_over() && left.into_iter().any(|step| step.gateway == gateway)
}

/// What is asked of one group; nothing where the lost gateway has no part in it any more.
pub(super) fn of_group(
    asked: &Asked<'_>,
    lost: GatewayId,
    here: GatewayId,
    leave_disks: bool,
) -> ApiResult<Option<Decided>> {
    let facts = asked.facts;
    let active = facts.record.active.as_ref();
    let named = facts.volumes.iter().any(|(_, spec)| spec.gateway_id == lost);
    let base = JobSpec::new(JobKind::ReplaceGateway, facts.id, &facts.spec.name, here);
    let spec = JobSpec { source: Some(lost), leave_disks, ..base };
    Ok(match active.filter(|active| active.gateway == lost) {
        Some(active) => {
            let spec = JobSpec {
                source_instance: Some(active.instance.clone()),
                from_branch: Some(active.branch),
                // Derived from the job, so that every try makes the same branch.
                new_branch: Some(BranchId::from_bytes(asked.job.to_bytes())),
                // Only a home has adopted disks.
                leave_disks: leave_disks || facts.home != Some(lost),
                ..spec
            };
            Some((spec, plan::take_over(here)))
        }
        None if facts.home == Some(lost) || (named && facts.home == Some(here)) => Some((spec, plan::move_home(here))),
        None => None,
    })
}

/// Marks the gateway as replaced, and ends what waits for it.
pub(super) async fn stand_in(run: &Run<'_>) -> Result<Done, Failure> {
    let Subject::Gateway(lost) = run.spec.subject else {
        return Err(Failure::Final("the job says nothing of the lost gateway".to_owned()));
    };
    let by = run.spec.gateway;
    let since = run.record.started.unwrap_or_else(Timestamp::now);
    change_gateway(run.attached, &lost.to_string(), |record| {
        let news = record.replaced.is_none_or(|replaced| replaced.by != by);
        if news {
            record.replaced = Some(ReplacedRecord { by, since });
        }
        news
    })
    .await?;
    run.attached.refresh().await?;
    let snapshot = run.attached.snapshot();
    let tests = move_tests(run.attached, &snapshot, lost, by).await?;
    let ended = end_waiting(run, &snapshot, lost, by).await?;
    // What is ended gives its groups free.
    run.attached.refresh().await?;
    let mut said = format!("{ended} jobs that waited for it were ended");
    if tests > 0 {
        said.push_str(&format!("; {tests} tests are cleaned up here"));
    }
    run.spec.remarks.iter().for_each(|remark| said.push_str(&format!("; {remark}")));
    Ok(Done::new(said))
}

/// Tests, failovers and runs of machines that name the lost gateway name this one.
async fn move_tests(
    attached: &AttachedVault,
    snapshot: &Snapshot,
    lost: GatewayId,
    by: GatewayId,
) -> Result<usize, Failure> {
    let mut moved = 0;
    for document in snapshot.of(kind::GROUPS) {
        let Ok(group) = document.id.parse::<GroupId>() else { continue };
        let record: GroupRecord = status(document);
        let there = record.tests.iter().filter(|test| test.gateway == lost).count();
        if there == 0 {
            continue;
        }
        moved += there;
        change_group_by_id(attached, group, |record| {
            let tests = record.tests.iter_mut().filter(|test| test.gateway == lost);
            tests.map(|test| test.gateway = by).count() > 0
        })
        .await?;
    }
    for of in PROGRAMS {
        for document in snapshot.of(of) {
            if !follow(&mut status(document), lost, by) {
                continue;
            }
            change_recovery(attached, of, &document.id, |record| follow(record, lost, by)).await?;
        }
    }
    Ok(moved)
}

/// A plan or a machine after its gateway was replaced; whether that changes anything.
fn follow(record: &mut RecoveryRecord, lost: GatewayId, by: GatewayId) -> bool {
    let before = record.clone();
    for test in &mut record.tests {
        if test.gateway == lost {
            test.gateway = by;
        }
        test.groups.iter_mut().filter(|member| member.gateway == Some(lost)).for_each(|one| one.gateway = Some(by));
        test.machines.retain(|run| run.gateway_id != lost);
    }
    if let Some(failover) = record.failover.as_mut().filter(|failover| failover.gateway == lost) {
        failover.gateway = by;
    }
    // It ran on a machine that is gone; where it is not, it has no disks any more.
    record.run.take_if(|run| run.gateway_id == lost);
    *record != before
}

/// Ends the jobs that have something left for the lost gateway to do; those that clean up are left to this one.
async fn end_waiting(run: &Run<'_>, snapshot: &Snapshot, lost: GatewayId, by: GatewayId) -> Result<usize, Failure> {
    let mut ended = 0;
    for document in snapshot.of(kind::JOBS) {
        let record: JobRecord = status(document);
        let (Ok(id), Ok(spec)) = (document.id.parse::<JobId>(), document.spec_as::<AnySpec>()) else { continue };
        if id == run.id || !waits_for(&record, lost) {
            continue;
        }
        ended += 1;
        if matches!(spec.kind(), JobKind::Cleanup | JobKind::Drill) {
            change_job(run.attached, id, |record| {
                if !waits_for(record, lost) {
                    return false;
                }
                record.steps.iter_mut().filter(|step| step.gateway == lost).for_each(|step| step.gateway = by);
                true
            })
            .await?;
            continue;
        }
        let cause = format!(
            "the gateway {} was replaced, and this job had something left for it to do: ask again for what is still wanted",
            run.spec.name
        );
        end(run.context, run.attached, id, &spec, Ending::Failed(cause)).await;
    }
    Ok(ended)
}

#[cfg(test)]
mod tests {
    use lifeboat_api::FailoverKind;

    use super::*;
    use crate::records::{RecoveryFailover, RecoveryTest};

    #[test]
    fn plans_and_machines_follow_the_gateway_that_takes_over_and_only_that_one() {
        let (lost, by, other) = (GatewayId::new(), GatewayId::new(), GatewayId::new());
        let run = |gateway| MachineRun {
            machine_id: MachineId::new(),
            name: "web".into(),
            gateway_id: gateway,
            since: Timestamp::now(),
            interfaces: Vec::new(),
        };
        let member =
            |gateway| Member { group: GroupId::new(), name: "g".into(), job: JobId::new(), gateway: Some(gateway) };
        let test = RecoveryTest {
            job: JobId::new(),
            gateway: lost,
            started: Timestamp::now(),
            expires: Timestamp::now(),
            groups: vec![member(lost), member(other)],
            machines: vec![run(lost), run(other)],
        };
        let failover =
            RecoveryFailover { kind: FailoverKind::Planned, job: JobId::new(), gateway: lost, committed: true };
        let mut record = RecoveryRecord {
            failover: Some(failover),
            tests: vec![test],
            run: Some(run(lost)),
            ..RecoveryRecord::default()
        };
        assert!(follow(&mut record, lost, by));
        assert_eq!(record.failover.as_ref().map(|one| (one.gateway, one.committed)), Some((by, true)));
        assert_eq!(record.run, None);
        let test = &record.tests[0];
        assert_eq!(test.gateway, by);
        assert_eq!(test.groups.iter().map(|one| one.gateway).collect::<Vec<_>>(), [Some(by), Some(other)]);
        assert_eq!(test.machines.iter().map(|one| one.gateway_id).collect::<Vec<_>>(), [other]);
        assert!(!follow(&mut record, lost, by), "done again, nothing changes");
    }
}
