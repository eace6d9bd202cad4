//! What is asked of a group, decided: from a request to a job's spec and its steps.
//!
//! Everything that can be refused is refused here, before a job is written down. Requests come from people, and from the
//! jobs of plans, which ask the same of each of their groups.

use std::sync::Arc;

use lifeboat_api::{
    ChangePointRequest, CleanupRequest, FailbackMode, FailbackRequest, FailoverKind, FailoverRequest, GatewayRole,
    GatewaySpec, GroupSpec, JobKind, MoveGroupRequest, PointRequest, ResyncRequest,
};
use lifeboat_model::{BranchId, GatewayId, GroupId, JobId, PointKind, SiteId, Timestamp, VolumeId};

use super::{beside, plan};
use crate::barriers::sharing;
use crate::context::Context;
use crate::http::error::{ApiError, ApiResult};
use crate::port::PointFact;
use crate::records::{ActiveRecord, GatewayRecord, GroupRecord, JobSpec, Step, StepRecord, TestRecord, kind, status};
use crate::vaults::{AttachedVault, Snapshot};
use crate::view::{self, GroupFacts};

/// What a job is to do, and its steps.
pub(crate) type Decided = (JobSpec, Vec<StepRecord>);

/// A group, and the job that is to be about it.
#[derive(Debug)]
pub(crate) struct Asked<'a> {
    pub(crate) context: &'a Context,
    pub(crate) attached: &'a AttachedVault,
    pub(crate) facts: &'a GroupFacts,
    pub(crate) job: JobId,
}

impl Asked<'_> {
    fn name(&self) -> &str {
        &self.facts.spec.name
    }

    fn active(&self) -> ApiResult<&ActiveRecord> {
        self.facts.record.active.as_ref().ok_or_else(|| {
            ApiError::conflict(format!(
                "the group {} isn't protected yet ({}): wait until it is",
                self.name(),
                self.facts.state
            ))
        })
    }

    fn spec(&self, kind: JobKind, gateway: GatewayId) -> JobSpec {
        JobSpec::new(kind, self.facts.id, &self.facts.spec.name, gateway)
    }

    /// A failover to this gateway.
    pub(crate) async fn failover(&self, wanted: &FailoverRequest) -> ApiResult<Decided> {
        self.failover_to(own(self.context, self.attached)?, wanted).await
    }

    /// A failover to a gateway; a plan may send its groups to several.
    pub(crate) async fn failover_to(&self, here: GatewayId, wanted: &FailoverRequest) -> ApiResult<Decided> {
        let is_own = self.context.own_gateway(self.attached) == Some(here);
        let active = self.active()?.clone();
        // What it held locally may be lost: then the group comes back from the vault.
        let lost =
            wanted.kind == FailoverKind::Unplanned && is_own && !self.context.holds(self.facts.id, &active.instance);
        if active.gateway == here && wanted.kind != FailoverKind::Test && !lost {
            return Err(ApiError::conflict(format!(
                "the group {} is active at this gateway already: ask the gateway that it is to go to (LIFEBOAT_ENDPOINT)",
                self.name()
            )));
        }
        let kind = match wanted.kind {
            FailoverKind::Test => JobKind::TestFailover,
            FailoverKind::Planned => JobKind::PlannedFailover,
            FailoverKind::Unplanned => JobKind::UnplannedFailover,
        };
        let mut spec = self.spec(kind, here);
        spec.source = Some(active.gateway);
        spec.source_instance = Some(active.instance.clone());
        spec.from_branch = Some(active.branch);
        // Derived from the job, so that every try makes the same branch.
        spec.new_branch = Some(BranchId::from_bytes(self.job.to_bytes()));
        if kind == JobKind::PlannedFailover {
            self.is_heard(active.gateway, "fail over unplanned if it is lost")?;
            if !matches!(wanted.point.as_str(), "latest" | "latest-processed") {
                return Err(ApiError::field("point", "a planned failover goes on from the last write; leave it out"));
            }
        } else {
            let branch = match &wanted.branch_id {
                None => active.branch,
                Some(_) if kind != JobKind::TestFailover => {
                    return Err(ApiError::field("branch_id", "goes with a test failover only; leave it out"));
                }
                Some(text) => {
                    text.parse().map_err(|_| ApiError::field("branch_id", format!("{text:?} is no branch")))?
                }
            };
            spec.from_branch = Some(branch);
            // The old writer may ship more until it is fenced: its newest point is known only then. That there is one is
            // known where its gateway said so.
            let newest_then =
                kind == JobKind::UnplannedFailover && matches!(wanted.point.as_str(), "latest" | "latest-processed");
            if !(newest_then && self.is_known_to_have_points(branch)) {
                let point = find_point(self.context, self.attached, self.facts.id, branch, &wanted.point).await?;
                if !newest_then {
                    spec.point = Some(point.id);
                    spec.point_time = Some(point.time);
                }
            }
        }
        let steps = plan::failover(kind, here, Some(active.gateway));
        Ok((spec, steps))
    }

    /// Whether the gateway that serves the group told of a point on a branch. The newest one always stays.
    fn is_known_to_have_points(&self, branch: BranchId) -> bool {
        let told = self.facts.record.observed.as_ref().and_then(|observed| observed.latest_point.as_ref());
        told.is_some_and(|point| point.branch == branch)
    }

    /// Going on from another point.
    pub(crate) async fn change_point(&self, wanted: &ChangePointRequest) -> ApiResult<Decided> {
        let active = self.active()?.clone();
        let record = &self.facts.record;
        let failover = record.failover.as_ref().ok_or_else(|| {
            ApiError::conflict(format!("the group {} isn't failed over: there is no point to change", self.name()))
        })?;
        if record.committed {
            return Err(ApiError::conflict(format!(
                "the failover of the group {} was committed: its point can't be changed any more",
                self.name()
            )));
        }
        let point = self.other_point(&wanted.point).await?;
        if point.id == failover.point {
            return Err(ApiError::field("point", format!("the group {} runs from that point already", self.name())));
        }
        let mut spec = self.spec(JobKind::ChangePoint, active.gateway);
        spec.source = Some(active.gateway);
        spec.source_instance = Some(active.instance.clone());
        spec.from_branch = Some(active.branch);
        spec.new_branch = Some(BranchId::from_bytes(self.job.to_bytes()));
        spec.point = Some(point.id);
        spec.point_time = Some(point.time);
        Ok((spec, plan::change_point(active.gateway)))
    }

    /// The point that is meant by a text after a failover: one of those that the failover could have chosen.
    pub(crate) async fn other_point(&self, text: &str) -> ApiResult<PointFact> {
        let branch = chosen_from(&self.facts.record).unwrap_or(self.active()?.branch);
        find_point(self.context, self.attached, self.facts.id, branch, text).await
    }

    /// Making a failover final.
    pub(crate) fn commit(&self) -> ApiResult<Decided> {
        if self.facts.record.failover.is_none() {
            return Err(ApiError::conflict(format!(
                "the group {} isn't failed over: there is nothing to commit",
                self.name()
            )));
        }
        let gateway = self.active()?.gateway;
        let spec = self.spec(JobKind::Commit, gateway);
        Ok((spec, vec![StepRecord::new(Step::Commit, gateway)]))
    }

    /// The end of the group's own tests; those of plans and machines end with the whole of them.
    pub(crate) fn cleanup(&self, wanted: &CleanupRequest) -> ApiResult<Decided> {
        let of_programs = beside::tests_of_programs(&self.attached.snapshot(), self.facts.id);
        let tests = &self.facts.record.tests;
        let whose = |test: &TestRecord| of_programs.iter().find(|(branch, _)| *branch == test.branch);
        let branches: Vec<BranchId> = match &wanted.branch_id {
            Some(text) => {
                let test = tests.iter().find(|test| test.branch.to_string() == *text).ok_or_else(|| {
                    ApiError::field("branch_id", format!("{text} is no test of the group {}", self.name()))
                })?;
                if let Some((_, whose)) = whose(test) {
                    return Err(ApiError::conflict(format!(
                        "{text} is part of the test of {whose}, whose machines use it: clean that up as a whole"
                    )));
                }
                vec![test.branch]
            }
            None => tests.iter().filter(|test| whose(test).is_none()).map(|test| test.branch).collect(),
        };
        match (branches.is_empty(), of_programs.first()) {
            (false, _) => self.end_tests(&branches),
            (true, None) => {
                Err(ApiError::conflict(format!("the group {} has no test failover to clean up", self.name())))
            }
            (true, Some((_, whose))) => Err(ApiError::conflict(format!(
                "the group {} has no test of its own to clean up: it is in the test of {whose}, which is cleaned up as a \
                 whole",
                self.name()
            ))),
        }
    }

    /// The end of these tests.
    pub(crate) fn end_tests(&self, branches: &[BranchId]) -> ApiResult<Decided> {
        let tests: Vec<_> = self.facts.record.tests.iter().filter(|test| branches.contains(&test.branch)).collect();
        let mut gateways: Vec<GatewayId> = tests.iter().map(|test| test.gateway).collect();
        gateways.sort_unstable();
        gateways.dedup();
        let lead = gateways.first().copied().ok_or_else(|| ApiError::conflict("there is no test"))?;
        let mut spec = self.spec(JobKind::Cleanup, lead);
        spec.branches = tests.iter().map(|test| test.branch).collect();
        let steps = gateways.into_iter().map(|gateway| StepRecord::new(Step::EndTests, gateway)).collect();
        Ok((spec, steps))
    }

    /// A stop in order.
    pub(crate) fn release(&self) -> ApiResult<Decided> {
        let gateway = self.active()?.gateway;
        self.is_heard(gateway, "stop it there")?;
        let spec = self.spec(JobKind::Release, gateway);
        Ok((spec, vec![StepRecord::new(Step::Release, gateway)]))
    }

    /// A start after that.
    pub(crate) fn resume(&self) -> ApiResult<Decided> {
        if !self.facts.record.released {
            return Err(ApiError::conflict(format!(
                "the group {} isn't released: there is nothing to resume",
                self.name()
            )));
        }
        let gateway = self.active()?.gateway;
        self.is_heard(gateway, "or fail over unplanned")?;
        let spec = self.spec(JobKind::Resume, gateway);
        Ok((spec, vec![StepRecord::new(Step::Resume, gateway)]))
    }

    /// The way home, or to another gateway that becomes its home.
    pub(crate) fn failback(&self, wanted: &FailbackRequest) -> ApiResult<Decided> {
        let (active, home) = self.away(wanted.gateway_id)?;
        self.keeps_its_disks(wanted.mode)?;
        if wanted.mode == FailbackMode::Create {
            self.refuse_agent(home, "keeps its disks: fail back with another mode, or to a gateway of its site")?;
        }
        let mut spec = self.spec(JobKind::Failback, home);
        spec.source = Some(active.gateway);
        spec.source_instance = Some(active.instance.clone());
        spec.from_branch = Some(active.branch);
        spec.mode = Some(wanted.mode);
        if !wanted.targets.is_empty() {
            return Err(ApiError::field(
                "targets",
                "goes with a plan or a machine, whose groups are spread; name the gateway of a group by gateway_id",
            ));
        }
        let of = |id: VolumeId| self.facts.volumes.iter().any(|(volume, _)| *volume == id);
        disks_fit(wanted, of, &format!("the group {}", self.name()))?;
        if !wanted.disks.is_empty() {
            self.refuse_agent(home, "is told its disks by its own command line")?;
        }
        spec.disks = wanted.disks.iter().map(|disk| (disk.volume_id, disk.path.clone().into())).collect();
        let steps = match wanted.mode {
            FailbackMode::Create => plan::failback_to_new_disk(home, active.gateway),
            FailbackMode::MinimizeDowntime | FailbackMode::FullDownload => plan::failback(home, active.gateway),
        };
        Ok((spec, steps))
    }

    /// Another home at the same site, in order.
    pub(crate) fn move_to(&self, wanted: &MoveGroupRequest) -> ApiResult<Decided> {
        let active = self.active()?.clone();
        let to = wanted.gateway_id;
        if self.facts.home != Some(active.gateway) {
            return Err(ApiError::conflict(format!(
                "the group {} is failed over: fail it back to the gateway that it is to be at home at",
                self.name()
            )));
        }
        if active.gateway == to {
            return Err(ApiError::field("gateway_id", format!("the group {} is at home there", self.name())));
        }
        self.refuse_agent(active.gateway, "has it at home, with its disks: fail over and back to move it")?;
        stands_at(&self.attached.snapshot(), self.facts.spec.site_id, to)?;
        let spec = JobSpec {
            source: Some(active.gateway),
            source_instance: Some(active.instance),
            from_branch: Some(active.branch),
            new_branch: Some(BranchId::from_bytes(self.job.to_bytes())),
            leave_disks: wanted.leave_disks,
            ..self.spec(JobKind::MoveGroup, to)
        };
        Ok((spec, plan::move_group(to, active.gateway)))
    }

    /// A copy of what the vault lacks.
    pub(crate) fn resync(&self, wanted: &ResyncRequest) -> ApiResult<Decided> {
        let gateway = self.active()?.gateway;
        if wanted.compare {
            self.compares(gateway)?;
        }
        self.is_heard(gateway, "it resyncs by itself when it has to")?;
        Ok((self.spec(JobKind::Resync, gateway), plan::resync(gateway, wanted.compare)))
    }

    /// A recovery point.
    pub(crate) fn point(&self, wanted: &PointRequest) -> ApiResult<Decided> {
        if wanted.label.len() > 255 {
            return Err(ApiError::field("label", "can't have more than 255 bytes"));
        }
        let gateway = self.active()?.gateway;
        if wanted.app_consistent {
            self.has_hooks(gateway)?;
        }
        self.is_heard(gateway, "it takes points by its own interval")?;
        let mut spec = self.spec(JobKind::TakePoint, gateway);
        spec.label.clone_from(&wanted.label);
        spec.app_consistent = wanted.app_consistent;
        Ok((spec, vec![StepRecord::new(Step::TakePoint, gateway)]))
    }

    /// Refuses to have an agent compare that can't.
    fn compares(&self, gateway: GatewayId) -> ApiResult<()> {
        let snapshot = self.attached.snapshot();
        let document = snapshot.get(kind::GATEWAYS, &gateway.to_string());
        if document.is_some_and(|document| status::<GatewayRecord>(document).compares) {
            return Ok(());
        }
        self.refuse_agent(gateway, "is of an older version, which can't compare its disks with the vault: bring it up to date, or leave that out")
    }

    /// Refuses a point for which nothing could hold the applications where the group is: an agent's hooks are its own machine's.
    fn has_hooks(&self, gateway: GatewayId) -> ApiResult<()> {
        let snapshot = self.attached.snapshot();
        let document = snapshot.get(kind::GATEWAYS, &gateway.to_string());
        let agent = document.map(|document| (document, status::<GatewayRecord>(document)));
        match agent.filter(|(_, record)| record.agent) {
            Some((_, record)) if record.hooks_ms.is_some() => Ok(()),
            Some((document, _)) => Err(ApiError::conflict(format!(
                "the agent {} of the group {} has no hooks for its applications: name them in its settings (pre_script, post_script), or \
                 take a point without",
                document.name,
                self.name()
            ))),
            None if self.facts.spec.app_consistency.is_some() => Ok(()),
            None => Err(ApiError::field(
                "app_consistent",
                format!("the group {} has no hooks: declare app_consistency for it", self.name()),
            )),
        }
    }

    /// The first half of the way home, while the recovery side runs.
    pub(crate) fn reprotect(&self, to: Option<GatewayId>) -> ApiResult<Decided> {
        let (active, home) = self.away(to)?;
        self.keeps_its_disks(FailbackMode::MinimizeDowntime)?;
        let mut spec = self.spec(JobKind::Reprotect, home);
        spec.source = Some(active.gateway);
        spec.from_branch = Some(active.branch);
        Ok((spec, vec![StepRecord::new(Step::Rehydrate, home)]))
    }

    /// Refuses what an agent would have to be told that nobody can tell anything just now; `advice`: what else there is.
    fn is_heard(&self, gateway: GatewayId, advice: &str) -> ApiResult<()> {
        let snapshot = self.attached.snapshot();
        let Some(document) = snapshot.get(kind::GATEWAYS, &gateway.to_string()) else { return Ok(()) };
        let record: GatewayRecord = status(document);
        if !record.agent || super::is_heard(&record) {
            return Ok(());
        }
        let since = match record.heard {
            Some(heard) => format!("was last connected to a process server at {heard}: start it"),
            None => {
                "can't be told what to do: it, or its process server, is of an older version, or wasn't connected yet"
                    .to_owned()
            }
        };
        Err(ApiError::conflict(format!("the agent {} of the group {} {since}; {advice}", document.name, self.name())))
    }

    /// Refuses what only a gateway can do for a group that a mobility agent has.
    fn refuse_agent(&self, gateway: GatewayId, why: &str) -> ApiResult<()> {
        let snapshot = self.attached.snapshot();
        match snapshot.get(kind::GATEWAYS, &gateway.to_string()) {
            Some(document) if status::<GatewayRecord>(document).agent => {
                Err(ApiError::conflict(format!("the agent {} of the group {} {why}", document.name, self.name())))
            }
            _ => Ok(()),
        }
    }

    /// Refuses to bring disks forward that are to be others: those are filled once they are in use.
    fn keeps_its_disks(&self, mode: FailbackMode) -> ApiResult<()> {
        keeps_its_disks(&self.attached.snapshot(), self.facts, mode)
    }

    /// Where a group that isn't at home is active, and where its home is, or is to be.
    fn away(&self, to: Option<GatewayId>) -> ApiResult<(ActiveRecord, GatewayId)> {
        let active = self.active()?.clone();
        let home =
            self.facts.home.ok_or_else(|| ApiError::conflict(format!("the group {} has no volumes", self.name())))?;
        if let Some(to) = to.filter(|to| *to != home) {
            may_be_home(&self.attached.snapshot(), self.facts.spec.site_id, to)?;
            if active.gateway == to {
                return Err(ApiError::field(
                    "gateway_id",
                    format!("the group {} is active at this gateway: name another one, or leave it out", self.name()),
                ));
            }
            return Ok((active, to));
        }
        if active.gateway == home {
            return Err(ApiError::conflict(format!(
                "the group {} is at home: there is nothing to fail back",
                self.name()
            )));
        }
        self.is_heard(home, "or name a gateway of its site that becomes the group's home")?;
        receives(&self.attached.snapshot(), home)?;
        Ok((active, home))
    }
}

/// Refuses any mode but `create` for a group with volumes whose disk was changed while it was away.
pub(crate) fn keeps_its_disks(snapshot: &Snapshot, facts: &GroupFacts, mode: FailbackMode) -> ApiResult<()> {
    let disks = view::new_disks(snapshot, &facts.volumes);
    let Some((id, path)) = disks.first_key_value().filter(|_| mode != FailbackMode::Create) else { return Ok(()) };
    let name = facts.volumes.iter().find(|(volume, _)| volume == id).map(|(_, spec)| spec.name.as_str());
    Err(ApiError::conflict(format!(
        "the volume {} of the group {} is to be built on another disk ({}), which is filled once it is in use: fail back with the mode \
         create",
        name.unwrap_or_default(),
        facts.spec.name,
        path.display()
    )))
}

/// Refuses a gateway that isn't declared to receive failbacks. An agent has its own disks.
pub(crate) fn receives(snapshot: &Snapshot, gateway: GatewayId) -> ApiResult<()> {
    let Some(document) = snapshot.get(kind::GATEWAYS, &gateway.to_string()) else { return Ok(()) };
    let spec: GatewaySpec = document.spec_as()?;
    let receives = spec.roles.as_ref().is_none_or(|roles| roles.contains(&GatewayRole::MasterTarget));
    if receives || status::<GatewayRecord>(document).agent {
        return Ok(());
    }
    Err(ApiError::field(
        "gateway_id",
        format!(
            "{} isn't declared as a master target, and receives no failback: name one that is, or add master_target to its roles",
            document.name
        ),
    ))
}

/// Refuses disks that a failback can't build volumes on; `of`: whether a volume is part of `what`.
pub(crate) fn disks_fit(wanted: &FailbackRequest, of: impl Fn(VolumeId) -> bool, what: &str) -> ApiResult<()> {
    let refused = |why: String| Err(ApiError::field("disks", why));
    if !wanted.disks.is_empty() && wanted.mode != FailbackMode::Create {
        return refused("goes with the mode create, which fills a disk while it is in use".to_owned());
    }
    let mut seen = std::collections::BTreeSet::new();
    for disk in &wanted.disks {
        if !of(disk.volume_id) {
            return refused(format!("{} is no volume of {what}", disk.volume_id));
        }
        if !disk.path.starts_with('/') || disk.path.len() > 4096 || disk.path.contains('\0') {
            return refused(format!("{:?} is no absolute path", disk.path));
        }
        if !seen.insert(disk.volume_id) {
            return refused(format!("{} has two disks: name one", disk.volume_id));
        }
    }
    Ok(())
}

/// Refuses a gateway that can't receive a failback of what is at home at a site.
pub(crate) fn may_be_home(snapshot: &Snapshot, site: SiteId, gateway: GatewayId) -> ApiResult<()> {
    stands_at(snapshot, site, gateway)?;
    receives(snapshot, gateway)
}

/// Refuses a gateway that can't become a home of what is at home at a site.
fn stands_at(snapshot: &Snapshot, site: SiteId, gateway: GatewayId) -> ApiResult<()> {
    let refused = |why: String| Err(ApiError::field("gateway_id", why));
    let Some(document) = snapshot.get(kind::GATEWAYS, &gateway.to_string()) else {
        return refused(format!("there is no gateway {gateway}"));
    };
    let name = &document.name;
    if document.spec_as::<GatewaySpec>()?.site_id != site {
        let at = view::site_name(snapshot, site).unwrap_or_else(|| site.to_string());
        return refused(format!(
            "must be a gateway of the home site {at}, and {name} is of another: to run there, fail over"
        ));
    }
    let record: GatewayRecord = status(document);
    if record.agent {
        return refused(format!("{name} is an agent: name a gateway"));
    }
    if record.process_id.is_none() {
        return refused(format!("no process has registered as the gateway {name}: start it with this vault"));
    }
    Ok(())
}

/// This gateway, as it is declared in the vault.
pub(crate) fn own(context: &Context, attached: &AttachedVault) -> ApiResult<GatewayId> {
    context.own_gateway(attached).ok_or_else(|| {
        ApiError::conflict(format!(
            "this gateway ({}{}) isn't declared in the vault: declare a gateway of this name{} first",
            context.settings.name,
            context.settings.site.as_ref().map(|site| format!(" at {site}")).unwrap_or_default(),
            if context.settings.site.is_some() { " and site" } else { "" },
        ))
    })
}

/// The point that a text names: `latest…`, a time, or an id.
pub(crate) async fn find_point(
    context: &Context,
    attached: &AttachedVault,
    group: GroupId,
    branch: BranchId,
    text: &str,
) -> ApiResult<PointFact> {
    let vault = attached.vault()?;
    context.points.stale(group);
    let points = context.points.list(context.engine.as_ref(), &vault, group, branch).await?;
    let found = match text {
        "latest-shared" | "latest-shared-app-consistent" => {
            let others = replicated_with(attached, group)?;
            let mut lists = vec![Arc::clone(&points)];
            for other in others {
                lists.push(points_of(context, attached, &other).await?);
            }
            return newest_shared(&lists, text == "latest-shared-app-consistent").ok_or_else(none_shared);
        }
        "latest" | "latest-processed" => points.last(),
        "latest-app-consistent" => points.iter().rev().find(|point| point.kind == PointKind::AppConsistent),
        id if id.starts_with("pt-") => points.iter().find(|point| point.id.to_string() == id),
        time => {
            let time: Timestamp = time.parse().map_err(|_| {
                ApiError::field(
                    "point",
                    format!(
                        "{time:?} is none of latest, latest-processed, latest-app-consistent, latest-shared, \
                         latest-shared-app-consistent, a time (RFC 3339) or a point's id"
                    ),
                )
            })?;
            points.iter().rev().find(|point| point.time <= time)
        }
    };
    found.cloned().ok_or_else(|| {
        let message = match (points.first(), points.last()) {
            (Some(first), Some(last)) => {
                format!(
                    "no recovery point fits {text:?}; there are {} from {} to {}",
                    points.len(),
                    first.time,
                    last.time
                )
            }
            _ => "the group has no recovery point in the vault yet".to_owned(),
        };
        ApiError::field("point", message)
    })
}

/// The other groups of a group's replication group that were set up.
fn replicated_with(attached: &AttachedVault, group: GroupId) -> ApiResult<Vec<(GroupId, BranchId)>> {
    let all = sharing(&attached.snapshot());
    let of =
        |spec: &GroupSpec| (spec.site_id, spec.shared_points.as_ref().map(|shared| shared.replication_group.clone()));
    let own = all.iter().find(|(id, ..)| *id == group).map(|(_, spec, _)| of(spec)).ok_or_else(|| {
        let message = "the group shares no points with others: declare shared_points for it, or name another point";
        ApiError::field("point", message)
    })?;
    let others = all.iter().filter(|(id, spec, _)| *id != group && of(spec) == own);
    Ok(others.filter_map(|(id, _, record)| Some((*id, chosen_from(record)?))).collect())
}

/// The branch whose points a failover of a group chooses from, or chose from.
pub(crate) fn chosen_from(record: &GroupRecord) -> Option<BranchId> {
    let left = record.failover.as_ref().and_then(|failover| failover.from_branch);
    left.or_else(|| record.active.as_ref().map(|active| active.branch))
}

/// The points of a branch, read anew.
pub(crate) async fn points_of(
    context: &Context,
    attached: &AttachedVault,
    (group, branch): &(GroupId, BranchId),
) -> ApiResult<Arc<Vec<PointFact>>> {
    let vault = attached.vault()?;
    context.points.stale(*group);
    Ok(context.points.list(context.engine.as_ref(), &vault, *group, *branch).await?)
}

/// The newest point that is in all of these lists, as the first one has it.
pub(crate) fn newest_shared(lists: &[Arc<Vec<PointFact>>], app_consistent: bool) -> Option<PointFact> {
    let (first, others) = lists.split_first()?;
    let fits = |point: &&PointFact| point.id.is_shared() && (!app_consistent || point.kind == PointKind::AppConsistent);
    let in_all =
        |point: &&PointFact| others.iter().all(|list| list.iter().filter(fits).any(|other| other.id == point.id));
    first.iter().rev().filter(fits).find(in_all).cloned()
}

pub(crate) fn none_shared() -> ApiError {
    let message = "there is no recovery point that all of the groups took together: see the events on shared points, or name another \
                   point";
    ApiError::field("point", message)
}

#[cfg(test)]
mod tests {
    use lifeboat_model::{Epoch, Lsn, PointId, SegmentSeq};

    use super::*;

    fn point(id: PointId, kind: PointKind) -> PointFact {
        PointFact {
            id,
            branch: BranchId::from_bytes([1; 16]),
            epoch: Epoch(1),
            seq: SegmentSeq(1),
            lsn: Lsn(1),
            time: Timestamp::from_micros(0),
            kind,
            label: String::new(),
            pinned: false,
        }
    }

    #[test]
    fn groups_share_the_newest_point_that_all_of_them_have() {
        let shared = |second: i64| PointId::shared(Timestamp::from_micros(second * 1_000_000), [0; 8]);
        let (crash, app) = (PointKind::CrashConsistent, PointKind::AppConsistent);
        let list = |points: &[(PointId, PointKind)]| -> Arc<Vec<PointFact>> {
            Arc::new(points.iter().map(|(id, kind)| point(*id, *kind)).collect())
        };
        let own = PointId::new();
        let lists = [
            list(&[(shared(1), app), (shared(2), crash), (own, crash), (shared(3), crash), (shared(4), crash)]),
            // The point of the fourth second was lost here, or never marked.
            list(&[(shared(1), app), (shared(2), crash), (own, crash), (shared(3), crash)]),
            list(&[(shared(1), app), (shared(2), crash), (own, crash), (shared(4), crash)]),
        ];
        let newest = |lists: &[Arc<Vec<PointFact>>], app| newest_shared(lists, app).map(|point| point.id);
        assert_eq!(newest(&lists, false), Some(shared(2)), "a point of their own isn't shared, whatever its id");
        assert_eq!(newest(&lists, true), Some(shared(1)));
        assert_eq!(newest(&lists[..2], false), Some(shared(3)));
        assert_eq!(newest(&[list(&[(shared(1), app)]), list(&[(shared(1), crash)])], true), None);
        assert_eq!(newest(&[list(&[(shared(1), crash)]), list(&[])], false), None);
        assert_eq!(newest(&[], false), None);
    }
}
