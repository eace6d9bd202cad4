//! Verbs on groups and jobs: `POST /v1/groups/{id}:verb`. Each decides what is to be done, writes it down as a job and
//! answers 202.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, Request, State};
use axum::response::{IntoResponse, Response};
use http::{StatusCode, header};
use lifeboat_api::{
    ChangePointRequest, CleanupRequest, CommitRequest, FailbackMode, FailbackRequest, FailoverKind, FailoverRequest,
    JobKind, PointRequest, ProblemCode, ReleaseRequest, ResumeRequest, ResyncRequest,
};
use lifeboat_model::{BranchId, GatewayId, GroupId, JobId, PointKind, Timestamp};
use lifeboat_vault::Document;
use serde_json::Value;

use super::Shared;
use super::body;
use super::error::{ApiError, ApiResult};
use super::undelete;
use crate::context::Context;
use crate::jobs::{self, plan};
use crate::port::PointFact;
use crate::records::{ActiveRecord, JobSpec, Step, StepRecord, kind};
use crate::vaults::AttachedVault;
use crate::view::{self, GroupFacts};

/// Splits `id:verb`.
pub(super) fn split(segment: &str) -> ApiResult<(&str, &str)> {
    segment.split_once(':').ok_or_else(|| {
        ApiError::new(
            ProblemCode::MethodNotAllowed,
            "POST on an object needs a verb, such as {id}:failover; see /v1/openapi.json",
        )
    })
}

/// A group and who asks for what.
struct Asked {
    context: Arc<Context>,
    attached: Arc<AttachedVault>,
    facts: GroupFacts,
    body: Value,
    job: JobId,
}

pub(crate) async fn group(
    State(context): Shared,
    Path(segment): Path<String>,
    request: Request,
) -> ApiResult<Response> {
    let (id, verb) = split(&segment)?;
    let (bytes, repeatable) = body::new_id(request.headers(), &format!("group:{verb}:{id}"))?;
    let job = JobId::from_bytes(bytes);
    let (verb, id) = (verb.to_owned(), id.to_owned());
    let body = body::json(request).await?;
    if verb == "undelete" {
        let document = undelete::group(&context, &id, job, repeatable, &body).await?;
        return accepted(&document);
    }
    let (attached, document) = context.require(kind::GROUPS, "group", &id).await?;
    if repeatable && let Some((_, document)) = context.find(kind::JOBS, &job.to_string()).await {
        return accepted(&document);
    }
    attached.refresh().await?;
    let document = attached.snapshot().get(kind::GROUPS, &id).cloned().unwrap_or(document);
    let facts = view::group_facts(&context, &attached, &document)?;
    let asked = Asked { context, attached, facts, body, job };
    match verb.as_str() {
        "failover" => asked.failover().await,
        "change-point" => asked.change_point().await,
        "commit" => asked.commit().await,
        "cleanup" => asked.cleanup().await,
        "release" => asked.release().await,
        "resume" => asked.resume().await,
        "failback" => asked.failback().await,
        "point" => asked.point().await,
        "resync" => asked.resync().await,
        other => Err(ApiError::new(
            ProblemCode::NotFound,
            format!(
                "a group has no verb {other:?}; there are failover, change-point, commit, cleanup, release, resume, failback, \
                 point, resync and undelete"
            ),
        )),
    }
}

fn accepted(document: &Document) -> ApiResult<Response> {
    let job = view::job(document)?;
    let location = format!("/v1/jobs/{}", job.id);
    Ok((StatusCode::ACCEPTED, [(header::LOCATION, location)], Json(job)).into_response())
}

impl Asked {
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

    async fn begin(&self, spec: JobSpec, steps: Vec<StepRecord>) -> ApiResult<Response> {
        let document = jobs::begin(&self.context, &self.attached, self.job, spec, steps).await?;
        accepted(&document)
    }

    async fn failover(self) -> ApiResult<Response> {
        let wanted: FailoverRequest = body::typed(&self.body)?;
        let here = own(&self.context, &self.attached)?;
        let active = self.active()?.clone();
        // What it held locally may be lost: then the group comes back from the vault.
        let lost = wanted.kind == FailoverKind::Unplanned && !self.context.holds(self.facts.id, &active.instance);
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
            let point = find_point(&self.context, &self.attached, self.facts.id, branch, &wanted.point).await?;
            // The old writer may ship more until it is fenced: its newest point is known only then.
            if kind == JobKind::TestFailover || !matches!(wanted.point.as_str(), "latest" | "latest-processed") {
                spec.point = Some(point.id);
                spec.point_time = Some(point.time);
            }
        }
        let steps = plan::failover(kind, here, Some(active.gateway));
        self.begin(spec, steps).await
    }

    async fn change_point(self) -> ApiResult<Response> {
        let wanted: ChangePointRequest = body::typed(&self.body)?;
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
        let choice = failover.from_branch.unwrap_or(active.branch);
        let point = find_point(&self.context, &self.attached, self.facts.id, choice, &wanted.point).await?;
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
        self.begin(spec, plan::change_point(active.gateway)).await
    }

    async fn commit(self) -> ApiResult<Response> {
        let CommitRequest {} = body::typed(&self.body)?;
        if self.facts.record.failover.is_none() {
            return Err(ApiError::conflict(format!(
                "the group {} isn't failed over: there is nothing to commit",
                self.name()
            )));
        }
        let gateway = self.active()?.gateway;
        let spec = self.spec(JobKind::Commit, gateway);
        self.begin(spec, vec![StepRecord::new(Step::Commit, gateway)]).await
    }

    async fn cleanup(self) -> ApiResult<Response> {
        let wanted: CleanupRequest = body::typed(&self.body)?;
        let tests: Vec<_> = self
            .facts
            .record
            .tests
            .iter()
            .filter(|test| wanted.branch_id.as_ref().is_none_or(|branch| test.branch.to_string() == *branch))
            .collect();
        if tests.is_empty() {
            return Err(match &wanted.branch_id {
                Some(branch) => {
                    ApiError::field("branch_id", format!("{branch} is no test of the group {}", self.name()))
                }
                None => ApiError::conflict(format!("the group {} has no test failover to clean up", self.name())),
            });
        }
        let mut gateways: Vec<GatewayId> = tests.iter().map(|test| test.gateway).collect();
        gateways.sort_unstable();
        gateways.dedup();
        let lead = gateways.first().copied().ok_or_else(|| ApiError::conflict("there is no test"))?;
        let mut spec = self.spec(JobKind::Cleanup, lead);
        spec.branches = tests.iter().map(|test| test.branch).collect();
        let steps = gateways.into_iter().map(|gateway| StepRecord::new(Step::EndTests, gateway)).collect();
        self.begin(spec, steps).await
    }

    async fn release(self) -> ApiResult<Response> {
        let ReleaseRequest {} = body::typed(&self.body)?;
        let gateway = self.active()?.gateway;
        let spec = self.spec(JobKind::Release, gateway);
        self.begin(spec, vec![StepRecord::new(Step::Release, gateway)]).await
    }

    async fn resume(self) -> ApiResult<Response> {
        let ResumeRequest {} = body::typed(&self.body)?;
        if !self.facts.record.released {
            return Err(ApiError::conflict(format!(
                "the group {} isn't released: there is nothing to resume",
                self.name()
            )));
        }
        let gateway = self.active()?.gateway;
        let spec = self.spec(JobKind::Resume, gateway);
        self.begin(spec, vec![StepRecord::new(Step::Resume, gateway)]).await
    }

    async fn failback(self) -> ApiResult<Response> {
        let wanted: FailbackRequest = body::typed(&self.body)?;
        let active = self.active()?.clone();
        let home =
            self.facts.home.ok_or_else(|| ApiError::conflict(format!("the group {} has no volumes", self.name())))?;
        if active.gateway == home {
            return Err(ApiError::conflict(format!(
                "the group {} is at home: there is nothing to fail back",
                self.name()
            )));
        }
        let mut spec = self.spec(JobKind::Failback, home);
        spec.source = Some(active.gateway);
        spec.source_instance = Some(active.instance.clone());
        spec.from_branch = Some(active.branch);
        spec.mode = Some(wanted.mode);
        let steps = match wanted.mode {
            FailbackMode::Create => plan::failback_to_new_disk(home, active.gateway),
            FailbackMode::MinimizeDowntime | FailbackMode::FullDownload => plan::failback(home, active.gateway),
        };
        self.begin(spec, steps).await
    }

    async fn resync(self) -> ApiResult<Response> {
        let wanted: ResyncRequest = body::typed(&self.body)?;
        let gateway = self.active()?.gateway;
        self.begin(self.spec(JobKind::Resync, gateway), plan::resync(gateway, wanted.compare)).await
    }

    async fn point(self) -> ApiResult<Response> {
        let wanted: PointRequest = body::typed(&self.body)?;
        if wanted.label.len() > 255 {
            return Err(ApiError::field("label", "can't have more than 255 bytes"));
        }
        let gateway = self.active()?.gateway;
        let mut spec = self.spec(JobKind::TakePoint, gateway);
        if wanted.app_consistent && self.facts.spec.app_consistency.is_none() {
            return Err(ApiError::field(
                "app_consistent",
                format!("the group {} has no hooks: declare app_consistency for it", self.name()),
            ));
        }
        spec.label = wanted.label;
        spec.app_consistent = wanted.app_consistent;
        self.begin(spec, vec![StepRecord::new(Step::TakePoint, gateway)]).await
    }
}

/// This gateway, as it is declared in the vault.
pub(super) fn own(context: &Context, attached: &AttachedVault) -> ApiResult<GatewayId> {
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
pub(super) async fn find_point(
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
        "latest" | "latest-processed" => points.last(),
        "latest-app-consistent" => points.iter().rev().find(|point| point.kind == PointKind::AppConsistent),
        id if id.starts_with("pt-") => points.iter().find(|point| point.id.to_string() == id),
        time => {
            let time: Timestamp = time.parse().map_err(|_| {
                ApiError::field(
                    "point",
                    format!("{time:?} is none of latest, latest-processed, latest-app-consistent, a time (RFC 3339) or a point's id"),
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

pub(crate) async fn job(State(context): Shared, Path(segment): Path<String>, request: Request) -> ApiResult<Response> {
    let (id, verb) = split(&segment)?;
    let (id, verb) = (id.to_owned(), verb.to_owned());
    let body = body::json(request).await?;
    if body.as_object().is_none_or(|fields| !fields.is_empty()) {
        return Err(ApiError::new(ProblemCode::Malformed, "the body must be an empty object"));
    }
    let (attached, document) = context.require(kind::JOBS, "job", &id).await?;
    let job: JobId = id.parse().map_err(|_| ApiError::not_found("job", &id))?;
    match verb.as_str() {
        "cancel" => jobs::cancel(&context, &attached, job).await?,
        "retry" => jobs::retry(&context, &attached, job, &document.spec_as::<JobSpec>()?).await?,
        other => {
            return Err(ApiError::new(
                ProblemCode::NotFound,
                format!("a job has no verb {other:?}; there are cancel and retry"),
            ));
        }
    }
    let document = attached.vault()?.catalog().get(kind::JOBS, &id).await?;
    accepted(&document)
}
