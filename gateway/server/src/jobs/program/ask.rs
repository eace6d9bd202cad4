//! What is asked of a plan or a machine, decided: from a request to a program and its steps.
//!
//! Everything is decided here, once: which groups move and by which jobs, where interfaces come out, which machines are
//! stopped where, which actions fit. A plan that is changed while its job runs doesn't change the job.
//!
//! ```text
//! failover   check · [before shutdown · stop machines, last boot group first · after shutdown] · move the volumes
//!            · for each boot group: before · start machines · after · write down
//! test       write down when it is cleaned up · check · test branches · for each boot group: before · start · after
//! failback   check · bring the home copies forward · shutdown as above · move the volumes · boot groups · write down
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use lifeboat_api::validate::parse_duration;
use lifeboat_api::{
    BootGroup, ChangePointRequest, FailbackMode, FailbackRequest, FailoverKind, GatewaySpec, JobKind, MachineSpec,
    PlanAction, PlanCleanupRequest, PlanDirection, PlanFailoverRequest, PlanShutdown, PlanSpec, StopRequest,
    default_point, default_shutdown_timeout,
};
use lifeboat_model::{GatewayId, GroupId, JobId, MachineId, NetworkId, PointId, SiteId, VolumeId};
use lifeboat_vault::{Document, VaultError};

use crate::context::Context;
use crate::http::error::{ApiError, ApiResult};
use crate::jobs;
use crate::jobs::ask::{
    Asked, chosen_from, disks_fit, find_point, keeps_its_disks, may_be_home, newest_shared, none_shared, own,
    points_of, receives,
};
use crate::jobs::program::spread;
use crate::placement::{Destination, Places};
use crate::records::{
    ActionPlace, Member, Mover, Part, ProgramSpec, RecoveryFailover, RecoveryRecord, Step, StepRecord, Subject, kind,
    status,
};
use crate::vaults::{AttachedVault, Snapshot};
use crate::view::{self, GroupFacts};

const MINUTE: Duration = Duration::from_secs(60);
const MONTH: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// What a job is to do, and its steps.
pub(crate) type Decided = (ProgramSpec, Vec<StepRecord>);

/// A plan, or a machine as a plan of its own, and the job that is to be about it.
#[derive(Debug)]
pub(crate) struct AskedOf<'a> {
    context: &'a Context,
    attached: &'a AttachedVault,
    snapshot: std::sync::Arc<Snapshot>,
    subject: Subject,
    name: String,
    record: RecoveryRecord,
    job: JobId,
    source_site: SiteId,
    /// A machine alone may go anywhere.
    target_site: Option<SiteId>,
    shutdown: Option<PlanShutdown>,
    boot_group: Vec<BootGroup>,
    groups: BTreeMap<GroupId, GroupFacts>,
    machines: Vec<(MachineId, MachineSpec)>,
}

/// A job of a group, that every try makes the same.
fn derived(job: JobId, what: &str, group: GroupId) -> JobId {
    jobs::derived(&[b"lifeboat/v1/job\0", what.as_bytes(), &job.to_bytes(), &group.to_bytes()])
}

/// The job that ends a member's test.
pub(super) fn cleanup_job(job: JobId, member: &Member) -> JobId {
    derived(job, &member.job.to_string(), member.group)
}

/// The job that brings a member's home copy forward, before the job that moves it.
pub(super) fn reprotect_job(member: &Member) -> JobId {
    derived(member.job, "reprotect", member.group)
}

impl<'a> AskedOf<'a> {
    /// Everything that is known of a plan or machine.
    pub(crate) fn new(
        context: &'a Context,
        attached: &'a AttachedVault,
        document: &Document,
        subject: Subject,
        job: JobId,
    ) -> Result<Self, VaultError> {
        let snapshot = attached.snapshot();
        let (plan, machines) = match subject {
            Subject::Plan(_) => {
                let plan: PlanSpec = document.spec_as()?;
                let wanted: Vec<MachineId> = plan.machines().map(|(_, _, machine)| machine).collect();
                let machines = view::machines(&snapshot).filter(|(id, _)| wanted.contains(id)).collect();
                (Some(plan), machines)
            }
            Subject::Machine(id) => (None, vec![(id, document.spec_as::<MachineSpec>()?)]),
            // Its replacement is decided elsewhere: it moves what it had, whatever that is.
            Subject::Gateway(_) => (None, Vec::new()),
        };
        let (source_site, target_site, shutdown, boot_group, volumes) = match (plan, machines.as_slice()) {
            (Some(plan), _) => {
                let volumes = view::volumes_of_plan(&snapshot, &plan);
                (plan.source_site_id, Some(plan.target_site_id), plan.shutdown, plan.boot_group, volumes)
            }
            (None, machines) => {
                let alone = machines.first().map(|(id, _)| *id);
                let boot = BootGroup {
                    name: None,
                    machine_ids: alone.into_iter().collect(),
                    volume_ids: Vec::new(),
                    pre_action: Vec::new(),
                    post_action: Vec::new(),
                };
                let site =
                    machines.first().map(|(_, spec)| spec.site_id).unwrap_or_else(|| SiteId::from_bytes([0; 16]));
                (site, None, None, vec![boot], Vec::new())
            }
        };
        let members: BTreeSet<GroupId> = volumes
            .iter()
            .map(|(id, spec)| view::group_of(*id, spec))
            .chain(machines.iter().map(|(_, spec)| spec.group_id))
            .collect();
        let mut groups = BTreeMap::new();
        for group in members {
            if let Some(document) = snapshot.get(kind::GROUPS, &group.to_string()) {
                groups.insert(group, view::group_facts(context, attached, document)?);
            }
        }
        let record: RecoveryRecord = status(document);
        Ok(Self {
            context,
            attached,
            snapshot,
            subject,
            name: document.name.clone(),
            record,
            job,
            source_site,
            target_site,
            shutdown,
            boot_group,
            groups,
            machines,
        })
    }

    /// For people: `the plan shop`.
    fn it(&self) -> String {
        format!("the {} {}", self.subject.what(), self.name)
    }

    fn site_name(&self, site: SiteId) -> String {
        view::site_name(&self.snapshot, site).unwrap_or_else(|| site.to_string())
    }

    fn site_of(&self, gateway: GatewayId) -> Option<SiteId> {
        let document = self.snapshot.get(kind::GATEWAYS, &gateway.to_string())?;
        document.spec_as::<GatewaySpec>().ok().map(|spec| spec.site_id)
    }

    fn program(&self, kind: JobKind, gateway: GatewayId, direction: PlanDirection) -> ProgramSpec {
        let patience =
            self.shutdown.as_ref().map_or_else(default_shutdown_timeout, |shutdown| shutdown.timeout.clone());
        let members = self.groups.values().map(|facts| Member {
            group: facts.id,
            name: facts.spec.name.clone(),
            job: derived(self.job, "group", facts.id),
            gateway: None,
        });
        ProgramSpec {
            kind,
            subject: self.subject,
            name: self.name.clone(),
            gateway,
            direction,
            failover: None,
            point: None,
            mode: None,
            ttl_seconds: 0,
            patience_seconds: parse_duration(&patience).unwrap_or(5 * MINUTE).as_secs(),
            notes: None,
            tests: Vec::new(),
            warnings: Vec::new(),
            remarks: Vec::new(),
            leave_disks: false,
            disks: Vec::new(),
            shutdown: self.shutdown.clone(),
            boot_group: self.boot_group.clone(),
            groups: members.collect(),
            machines: self.movers_at_home(),
            parent: None,
        }
    }

    fn movers_at_home(&self) -> Vec<Mover> {
        let machines = self.machines.iter();
        machines.map(|(id, spec)| Mover { id: *id, spec: spec.clone(), interfaces: Vec::new() }).collect()
    }

    /// Gives the machines of a program their places; what can't have one is said.
    fn place(&self, program: &mut ProgramSpec, to: Destination) -> Vec<String> {
        self.place_in(program, to, None)
    }

    /// The same; a test in that network, where one is given.
    fn place_in(&self, program: &mut ProgramSpec, to: Destination, network: Option<NetworkId>) -> Vec<String> {
        let movers: BTreeSet<MachineId> = self.machines.iter().map(|(id, _)| *id).collect();
        let mut places = Places::new(&self.snapshot, &movers).testing_in(network);
        let mut problems = Vec::new();
        for mover in &mut program.machines {
            let (interfaces, missing) = places.of(mover.id, &mover.spec, to);
            mover.interfaces = interfaces;
            problems.extend(missing);
        }
        problems
    }

    /// Sends groups to where `at` says.
    fn send(&self, program: &mut ProgramSpec, at: impl Fn(&GroupFacts) -> Option<GatewayId>) {
        for member in &mut program.groups {
            member.gateway = self.groups.get(&member.group).and_then(&at);
        }
    }

    /// Sends groups to the hosts of the site, so that machines are kept apart that are to be.
    fn spread(&self, program: &mut ProgramSpec, site: SiteId) {
        let hosts = spread::hosts(&self.snapshot, site, Some(program.gateway));
        // With none to choose from it is the one that was asked.
        let hosts = if hosts.len() > 1 { hosts } else { vec![program.gateway] };
        let machines: Vec<&MachineSpec> = self.machines.iter().map(|(_, spec)| spec).collect();
        let is_test = program.kind == JobKind::TestFailover;
        // A test runs beside everything: what runs already is no matter to it.
        let others = if is_test { Vec::new() } else { spread::others(&self.snapshot, machines.iter().copied()) };
        let settled = self.groups.values().filter(|_| !is_test).filter_map(|facts| {
            let active = facts.record.active.as_ref()?;
            Some((facts.id, active.gateway))
        });
        let found = spread::spread(&machines, &hosts, &settled.collect(), &others);
        self.send(program, |facts| found.at.get(&facts.id).copied());
        program.remarks = found.together;
    }

    /// The gateways that run machines of a boot group which don't stay there, by what the machines' documents say.
    fn runs(&self, spec: &ProgramSpec, at: usize) -> BTreeSet<GatewayId> {
        let runs = spec.machines_of(at).into_iter().filter_map(|mover| {
            let record: RecoveryRecord = status(self.snapshot.get(kind::MACHINES, &mover.id.to_string())?);
            record.run.map(|run| run.gateway_id).filter(|gateway| !spec.stays(mover, *gateway))
        });
        runs.collect()
    }

    /// The steps that stop what runs, the last boot group first.
    fn stops(&self, spec: &ProgramSpec) -> Vec<StepRecord> {
        (0..self.boot_group.len())
            .rev()
            .flat_map(|at| {
                let step = move |gateway| {
                    StepRecord::of(Step::StopMachines, gateway, Part::BootGroup(at), spec.boot_group_name(at))
                };
                self.runs(spec, at).into_iter().map(step)
            })
            .collect()
    }

    /// Shutdown with the actions around it.
    fn shutdown_steps(&self, spec: &ProgramSpec, stops: Vec<StepRecord>) -> Vec<StepRecord> {
        let Some(shutdown) = &self.shutdown else { return stops };
        let before = acts(spec, ActionPlace::BeforeShutdown, &shutdown.pre_action);
        let after = acts(spec, ActionPlace::AfterShutdown, &shutdown.post_action);
        before.into_iter().chain(stops).chain(after).collect()
    }

    /// The boot groups, one after the other; each gateway starts the machines whose volumes it has.
    fn boot_steps(&self, spec: &ProgramSpec) -> Vec<StepRecord> {
        let mut steps = Vec::new();
        for (index, group) in self.boot_group.iter().enumerate() {
            steps.extend(acts(spec, ActionPlace::Before(index), &group.pre_action));
            steps.extend(spec.hosts_of(index).into_iter().map(|gateway| {
                let name = spec.boot_group_name(index);
                StepRecord::of(Step::StartMachines, gateway, Part::BootGroup(index), name)
            }));
            steps.extend(acts(spec, ActionPlace::After(index), &group.post_action));
        }
        steps
    }

    /// Refuses a point's id where several groups move.
    fn goes_for_all(&self, point: &str) -> ApiResult<()> {
        let shared = point.parse().is_ok_and(PointId::is_shared);
        if point.starts_with("pt-") && !shared && self.groups.len() > 1 {
            let message = "a point's id is of one group, and several move: give a time, or a word such as latest";
            return Err(ApiError::field("point", message));
        }
        Ok(())
    }

    /// The point that a text means for all groups: one that they took together has one id, and that is what goes on to each.
    async fn point_for_all(&self, text: &str) -> ApiResult<String> {
        let app_consistent = text == "latest-shared-app-consistent";
        if !(app_consistent || text == "latest-shared") || self.groups.len() < 2 {
            return Ok(text.to_owned());
        }
        let mut lists = Vec::new();
        for facts in self.groups.values() {
            let Some(branch) = chosen_from(&facts.record) else { continue };
            lists.push(points_of(self.context, self.attached, &(facts.id, branch)).await?);
        }
        Ok(newest_shared(&lists, app_consistent).ok_or_else(none_shared)?.id.to_string())
    }

    /// Refuses a text that means no point of some group, before anything is stopped.
    async fn points_are_there(&self, text: &str, after_failover: bool) -> ApiResult<()> {
        for facts in self.groups.values() {
            let asked = Asked { context: self.context, attached: self.attached, facts, job: self.job };
            let Some(active) = &facts.record.active else { continue };
            let found = if after_failover {
                asked.other_point(text).await
            } else {
                find_point(self.context, self.attached, facts.id, active.branch, text).await
            };
            if let Err(mut error) = found {
                error.0.detail = format!("the group {}: {}", facts.spec.name, error.0.detail);
                return Err(error);
            }
        }
        Ok(())
    }

    /// Refuses a network that no test at a site can join.
    fn takes_tests(&self, network: NetworkId, site: SiteId, kind: FailoverKind) -> ApiResult<()> {
        let field = "test_network_id";
        if kind != FailoverKind::Test {
            return Err(ApiError::field(field, "goes with a test only; leave it out"));
        }
        match view::declared_network(&self.snapshot, network) {
            None => Err(ApiError::field(field, format!("there is no network {network}"))),
            Some(found) if found.site_id != site => {
                let message = format!("must be a network of the site {}, not {}", self.site_name(site), found.name);
                Err(ApiError::field(field, message))
            }
            Some(_) => Ok(()),
        }
    }

    /// A failover to the site of this gateway.
    pub(crate) async fn failover(&self, wanted: &PlanFailoverRequest) -> ApiResult<Decided> {
        let here = own(self.context, self.attached)?;
        let site = self
            .site_of(here)
            .ok_or_else(|| ApiError::conflict("this gateway is of no declared site: declare one for it"))?;
        if self.target_site.is_some_and(|target| target != site) || site == self.source_site {
            let target = self.target_site.map(|target| format!(" {}", self.site_name(target)));
            return Err(ApiError::conflict(format!(
                "{} comes up at {}, and this gateway is of the site {}: ask one there (LIFEBOAT_ENDPOINT)",
                self.it(),
                target.map_or_else(|| "another site".to_owned(), |target| format!("the site{target}")),
                self.site_name(site)
            )));
        }
        if let Some(group) = self.groups.values().find(|facts| facts.record.active.is_none()) {
            return Err(ApiError::conflict(format!(
                "the group {} isn't protected yet ({}): wait until it is",
                group.spec.name, group.state
            )));
        }
        let kind = match wanted.kind {
            FailoverKind::Test => JobKind::TestFailover,
            FailoverKind::Planned => JobKind::PlannedFailover,
            FailoverKind::Unplanned => JobKind::UnplannedFailover,
        };
        let latest = matches!(wanted.point.as_str(), "latest" | "latest-processed");
        if kind == JobKind::PlannedFailover && !latest {
            return Err(ApiError::field("point", "a planned failover goes on from the last write; leave it out"));
        }
        let point = self.point_for_all(&wanted.point).await?;
        self.goes_for_all(&point)?;
        // A site that is lost may still have shipped more: its newest point is found once it is fenced.
        if kind == JobKind::TestFailover || !latest {
            self.points_are_there(&point, false).await?;
        }
        let mut spec = self.program(kind, here, PlanDirection::Failover);
        spec.failover = Some(wanted.kind);
        spec.point = Some(point);
        let destination = match wanted.kind {
            FailoverKind::Test => Destination::Test(site),
            _ => Destination::Site(site),
        };
        if let Some(network) = wanted.test_network_id {
            self.takes_tests(network, site, wanted.kind)?;
        }
        let problems = self.place_in(&mut spec, destination, wanted.test_network_id);
        match (wanted.kind, problems.first()) {
            // When a site is lost, what can come up comes up.
            (FailoverKind::Unplanned, _) => spec.warnings = problems,
            (_, Some(problem)) => return Err(ApiError::conflict(format!("{}: {problem}", self.it()))),
            (_, None) => {}
        }
        if wanted.kind == FailoverKind::Test {
            let ttl = parse_duration(&wanted.ttl).map_err(|error| ApiError::field("ttl", error.to_string()))?;
            if !(MINUTE..=MONTH).contains(&ttl) {
                return Err(ApiError::field("ttl", "must be 1m to 30d"));
            }
            spec.ttl_seconds = ttl.as_secs();
        } else if let Some(failover) = &self.record.failover {
            return Err(ApiError::conflict(format!(
                "{} is failed over already ({}, {}): change its point, commit it, or fail back",
                self.it(),
                failover.kind.as_str(),
                failover.job
            )));
        }
        self.spread(&mut spec, site);
        let leader = |step| StepRecord::new(step, here);
        let boot = self.boot_steps(&spec);
        let mut checks = vec![leader(Step::Check)];
        if wanted.kind != FailoverKind::Unplanned {
            // After a disaster it goes on with what there is, so nobody else is asked.
            let hosts: BTreeSet<GatewayId> = (0..self.boot_group.len()).flat_map(|at| spec.hosts_of(at)).collect();
            let others = hosts.into_iter().filter(|host| *host != here);
            checks.extend(others.map(|host| StepRecord::new(Step::Check, host)));
        }
        let steps = match wanted.kind {
            FailoverKind::Test => [vec![leader(Step::OpenTest)], checks, vec![leader(Step::Groups)], boot].concat(),
            kind => {
                // A site that is lost stops nothing. When its gateways come back they learn of it, and do.
                let stops = if kind == FailoverKind::Planned { self.stops(&spec) } else { Vec::new() };
                let shutdown = self.shutdown_steps(&spec, stops);
                [checks, shutdown, vec![leader(Step::Groups)], boot, vec![leader(Step::RecordPlan)]].concat()
            }
        };
        Ok((spec, steps))
    }

    /// The failover that it is in.
    fn failed_over(&self, what: &str) -> ApiResult<&RecoveryFailover> {
        self.record
            .failover
            .as_ref()
            .ok_or_else(|| ApiError::conflict(format!("{} isn't failed over: there is {what}", self.it())))
    }

    /// Going on from another point. Its machines stop and start again; actions aren't done again.
    pub(crate) async fn change_point(&self, wanted: &ChangePointRequest) -> ApiResult<Decided> {
        let failover = self.failed_over("no point to change")?;
        if failover.committed {
            return Err(ApiError::conflict(format!(
                "the failover of {} was committed: its point can't be changed any more",
                self.it()
            )));
        }
        let point = self.point_for_all(&wanted.point).await?;
        self.goes_for_all(&point)?;
        self.points_are_there(&point, true).await?;
        let here = failover.gateway;
        let site = self.site_of(here).unwrap_or(self.source_site);
        let mut spec = self.program(JobKind::ChangePoint, here, PlanDirection::Failover);
        spec.failover = Some(failover.kind);
        spec.point = Some(point);
        spec.warnings = self.place(&mut spec, Destination::Site(site));
        self.send(&mut spec, |facts| facts.record.active.as_ref().map(|active| active.gateway));
        let starts = self.boot_steps(&spec);
        let starts = starts.into_iter().filter(|step| step.step == Step::StartMachines);
        let steps = self.stops(&spec).into_iter().chain([StepRecord::new(Step::Groups, here)]).chain(starts).collect();
        Ok((spec, steps))
    }

    /// Making the failover final.
    pub(crate) fn commit(&self) -> ApiResult<Decided> {
        let failover = self.failed_over("nothing to commit")?;
        let mut spec = self.program(JobKind::Commit, failover.gateway, PlanDirection::Failover);
        spec.failover = Some(failover.kind);
        let steps = [Step::Groups, Step::RecordPlan].map(|step| StepRecord::new(step, failover.gateway));
        Ok((spec, steps.into()))
    }

    /// The end of tests, all of them or those that are named.
    pub(crate) fn cleanup(&self, wanted: &PlanCleanupRequest, only: Option<JobId>) -> ApiResult<Decided> {
        let tests: Vec<_> = self.record.tests.iter().filter(|test| only.is_none_or(|only| test.job == only)).collect();
        let Some(lead) = tests.first().map(|test| test.gateway) else {
            return Err(ApiError::conflict(format!("{} has no test to clean up", self.it())));
        };
        let mut spec = self.program(JobKind::Cleanup, lead, PlanDirection::Failover);
        spec.failover = Some(FailoverKind::Test);
        spec.notes.clone_from(&wanted.notes);
        spec.tests = tests.iter().map(|test| test.job).collect();
        // One job for each test of each group, whatever the plan says by now.
        let groups = tests.iter().flat_map(|test| &test.groups);
        spec.groups = groups.map(|member| Member { job: cleanup_job(self.job, member), ..member.clone() }).collect();
        let gateways: BTreeSet<GatewayId> = tests.iter().flat_map(|test| test.gateways()).collect();
        let ends = gateways.into_iter().map(|gateway| StepRecord::new(Step::EndTests, gateway));
        let rest = [Step::Groups, Step::RecordPlan].map(|step| StepRecord::new(step, lead));
        let steps = ends.chain(rest).collect();
        Ok((spec, steps))
    }

    /// The gateways where everything is at home; the first leads.
    fn homes(&self) -> ApiResult<GatewayId> {
        let mut homes = self.groups.values().filter_map(|facts| facts.home);
        homes.next().ok_or_else(|| ApiError::conflict(format!("{} has no volumes", self.it())))
    }

    fn must_be_away(&self) -> ApiResult<()> {
        let away = |facts: &GroupFacts| facts.record.active.as_ref().map(|active| active.gateway) != facts.home;
        if self.groups.values().any(away) {
            return Ok(());
        }
        Err(ApiError::conflict(format!("{} is at home: there is nothing to fail back", self.it())))
    }

    fn keep_their_disks(&self, mode: FailbackMode) -> ApiResult<()> {
        self.groups.values().try_for_each(|facts| keeps_its_disks(&self.snapshot, facts, mode))
    }

    /// The first half of the way home, while the recovery side runs.
    pub(crate) fn reprotect(&self) -> ApiResult<Decided> {
        self.must_be_away()?;
        self.keep_their_disks(FailbackMode::MinimizeDowntime)?;
        let home = self.homes()?;
        let mut spec = self.program(JobKind::Reprotect, home, PlanDirection::Failback);
        self.send(&mut spec, |facts| facts.home);
        Ok((spec, vec![StepRecord::new(Step::Reprotect, home)]))
    }

    /// The way home.
    pub(crate) fn failback(&self, wanted: &FailbackRequest) -> ApiResult<Decided> {
        let targets = self.targets(wanted)?;
        for to in targets.values().copied().collect::<BTreeSet<GatewayId>>() {
            let there = |facts: &GroupFacts| facts.record.active.as_ref().is_some_and(|active| active.gateway == to);
            // Groups that are at home elsewhere don't move from there by a failback: they are where they are written.
            let goes = |facts: &GroupFacts| targets.get(&facts.id) == Some(&to);
            if let Some(group) =
                self.groups.values().find(|facts| goes(facts) && there(facts) && facts.home != Some(to))
            {
                return Err(ApiError::field(
                    "gateway_id",
                    format!(
                        "the group {} is active at this gateway: name another one, or leave it out",
                        group.spec.name
                    ),
                ));
            }
        }
        self.must_be_away()?;
        self.keep_their_disks(wanted.mode)?;
        for facts in self.groups.values().filter(|facts| !targets.contains_key(&facts.id)) {
            facts.home.map_or(Ok(()), |home| receives(&self.snapshot, home))?;
        }
        let home = targets.values().next().map_or_else(|| self.homes(), |first| Ok(*first))?;
        let mut spec = self.program(JobKind::Failback, home, PlanDirection::Failback);
        spec.failover = Some(FailoverKind::Planned);
        spec.mode = Some(wanted.mode);
        let of = |id: VolumeId| self.groups.values().any(|facts| facts.volumes.iter().any(|(volume, _)| *volume == id));
        disks_fit(wanted, of, &self.it())?;
        spec.disks.clone_from(&wanted.disks);
        let problems = self.place(&mut spec, Destination::Home);
        if let Some(problem) = problems.first() {
            return Err(ApiError::conflict(format!("{}: {problem}", self.it())));
        }
        let is_home = |facts: &GroupFacts| facts.record.active.as_ref().map(|active| active.gateway) == facts.home;
        // What is at home already stays there.
        self.send(&mut spec, |facts| targets.get(&facts.id).copied().filter(|_| !is_home(facts)).or(facts.home));
        let shutdown = self.shutdown_steps(&spec, self.stops(&spec));
        let boot = self.boot_steps(&spec);
        let forward = match wanted.mode {
            FailbackMode::Create => Vec::new(),
            FailbackMode::MinimizeDowntime | FailbackMode::FullDownload => vec![StepRecord::new(Step::Reprotect, home)],
        };
        let steps = [
            forward,
            shutdown,
            vec![StepRecord::new(Step::Groups, home)],
            boot,
            vec![StepRecord::new(Step::RecordPlan, home)],
        ];
        Ok((spec, steps.concat()))
    }

    /// Which gateway each group goes to that doesn't simply go home.
    fn targets(&self, wanted: &FailbackRequest) -> ApiResult<BTreeMap<GroupId, GatewayId>> {
        if let Some(to) = wanted.gateway_id {
            if !wanted.targets.is_empty() {
                return Err(ApiError::field("targets", "goes without gateway_id: name one or the other"));
            }
            may_be_home(&self.snapshot, self.source_site, to)?;
            return Ok(self.groups.keys().map(|group| (*group, to)).collect());
        }
        let mut found = BTreeMap::new();
        for target in &wanted.targets {
            may_be_home(&self.snapshot, self.source_site, target.gateway_id)?;
            for group in &target.group_ids {
                if !self.groups.contains_key(group) {
                    return Err(ApiError::field("targets", format!("{group} is no group of {}", self.it())));
                }
                if found.insert(*group, target.gateway_id).is_some_and(|other| other != target.gateway_id) {
                    return Err(ApiError::field("targets", format!("{group} is to go to two gateways: name one")));
                }
            }
        }
        let bytes = |facts: &GroupFacts| facts.volumes.iter().map(|(_, spec)| spec.size_bytes).sum::<u64>();
        let mut shares: BTreeMap<GatewayId, u64> = BTreeMap::new();
        for target in wanted.targets.iter().filter(|target| target.group_ids.is_empty()) {
            shares.insert(target.gateway_id, 0);
        }
        for (group, gateway) in &found {
            if let (Some(share), Some(facts)) = (shares.get_mut(gateway), self.groups.get(group)) {
                *share = share.saturating_add(bytes(facts));
            }
        }
        // The largest first: then the rest evens out.
        let mut rest: Vec<&GroupFacts> = self.groups.values().filter(|facts| !found.contains_key(&facts.id)).collect();
        rest.sort_by_key(|facts| std::cmp::Reverse((bytes(facts), facts.id)));
        for facts in rest {
            let Some((gateway, share)) = shares.iter_mut().min_by_key(|(gateway, share)| (**share, **gateway)) else {
                break;
            };
            *share = share.saturating_add(bytes(facts));
            found.insert(facts.id, *gateway);
        }
        Ok(found)
    }

    /// A start of a machine where its volumes are.
    pub(crate) fn start(&self) -> ApiResult<Decided> {
        let active = self.groups.values().find_map(|facts| facts.record.active.as_ref().map(|active| active.gateway));
        let Some(gateway) = active else {
            return Err(ApiError::conflict(format!("{} has volumes that aren't protected yet: wait", self.it())));
        };
        let mut spec = self.program(JobKind::StartMachine, gateway, PlanDirection::Failover);
        let site = self.site_of(gateway).unwrap_or(self.source_site);
        let to = if site == self.source_site { Destination::Home } else { Destination::Site(site) };
        let problems = self.place(&mut spec, to);
        if let Some(problem) = problems.first() {
            return Err(ApiError::conflict(format!("{}: {problem}", self.it())));
        }
        let name = spec.name.clone();
        let step = StepRecord::of(Step::StartMachines, gateway, Part::BootGroup(0), name);
        Ok((spec, vec![step]))
    }

    /// A stop of a machine where it runs.
    pub(crate) fn stop(&self, wanted: &StopRequest) -> ApiResult<Decided> {
        let Some(run) = &self.record.run else {
            return Err(ApiError::conflict(format!("{} isn't run by a gateway: there is nothing to stop", self.it())));
        };
        let patience =
            parse_duration(&wanted.timeout).map_err(|error| ApiError::field("timeout", error.to_string()))?;
        let mut spec = self.program(JobKind::StopMachine, run.gateway_id, PlanDirection::Failover);
        spec.patience_seconds = patience.as_secs();
        let name = spec.name.clone();
        let step = StepRecord::of(Step::StopMachines, run.gateway_id, Part::BootGroup(0), name);
        Ok((spec, vec![step]))
    }

    /// A clean-up of a test whose time is over.
    pub(crate) fn expire(&self, test: JobId) -> ApiResult<Decided> {
        let notes = Some("its time was over".to_owned());
        self.cleanup(&PlanCleanupRequest { notes }, Some(test))
    }
}

/// Whether an action is done in a program.
fn fits(spec: &ProgramSpec, action: &PlanAction) -> bool {
    let direction = action.directions.is_empty() || action.directions.contains(&spec.direction);
    direction && (action.kinds.is_empty() || spec.failover.is_some_and(|kind| action.kinds.contains(&kind)))
}

/// The steps of a row of actions: those that fit.
fn acts(spec: &ProgramSpec, place: ActionPlace, all: &[PlanAction]) -> Vec<StepRecord> {
    let fitting = all.iter().enumerate().filter(|(_, action)| fits(spec, action));
    fitting
        .map(|(index, action)| StepRecord::of(Step::Act, spec.gateway, Part::Action(place, index), action.name.clone()))
        .collect()
}

/// What a child's point is, for a group: that of the program.
pub(super) fn point_of(spec: &ProgramSpec) -> String {
    spec.point.clone().unwrap_or_else(default_point)
}
