//! Verbs on groups, plans, machines, gateways and jobs: `POST /v1/groups/{id}:verb`. Each decides what is to be done, writes it down as a job and
//! answers 202.

use axum::Json;
use axum::extract::{Path, Request, State};
use axum::response::{IntoResponse, Response};
use http::{StatusCode, header};
use lifeboat_api::{
    ChangePointRequest, CleanupRequest, CommitRequest, ContinueRequest, FailbackRequest, FailoverRequest,
    MoveGroupRequest, PlanCleanupRequest, PlanFailoverRequest, PointRequest, ProblemCode, ReleaseRequest,
    ReplaceGatewayRequest, ReprotectRequest, ResumeRequest, ResyncRequest, RetryRequest, StartRequest, StopRequest,
};
use lifeboat_model::{GroupId, JobId};
use lifeboat_vault::Document;

use super::Shared;
use super::body;
use super::error::{ApiError, ApiResult};
use super::machine_run;
use super::undelete;
use crate::approvals::{self, Act};
use crate::context::Context;
use crate::jobs;
use crate::jobs::ask::Asked;
use crate::jobs::beside;
use crate::jobs::program::ask::AskedOf;
use crate::jobs::replace::Replacement;
use crate::records::{AnySpec, Subject, kind};
use crate::view;

/// Splits `id:verb`.
pub(super) fn split(segment: &str) -> ApiResult<(&str, &str)> {
    segment.split_once(':').ok_or_else(|| {
        ApiError::new(
            ProblemCode::MethodNotAllowed,
            "POST on an object needs a verb, such as {id}:failover; see /v1/openapi.json",
        )
    })
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
    let asked = Asked { context: &context, attached: &attached, facts: &facts, job };
    let (spec, steps) = match verb.as_str() {
        "failover" => asked.failover(&body::typed::<FailoverRequest>(&body)?).await?,
        "change-point" => asked.change_point(&body::typed::<ChangePointRequest>(&body)?).await?,
        "commit" => {
            let CommitRequest {} = body::typed(&body)?;
            asked.commit()?
        }
        "cleanup" => asked.cleanup(&body::typed::<CleanupRequest>(&body)?)?,
        "release" => {
            let ReleaseRequest {} = body::typed(&body)?;
            asked.release()?
        }
        "resume" => {
            let ResumeRequest {} = body::typed(&body)?;
            asked.resume()?
        }
        "reprotect" => {
            let ReprotectRequest {} = body::typed(&body)?;
            asked.reprotect(None)?
        }
        "failback" => asked.failback(&body::typed::<FailbackRequest>(&body)?)?,
        "move" => asked.move_to(&body::typed::<MoveGroupRequest>(&body)?)?,
        "point" => asked.point(&body::typed::<PointRequest>(&body)?)?,
        "resync" => asked.resync(&body::typed::<ResyncRequest>(&body)?)?,
        other => {
            return Err(ApiError::new(
                ProblemCode::NotFound,
                format!(
                    "a group has no verb {other:?}; there are failover, change-point, commit, cleanup, release, resume, \
                     reprotect, failback, move, point, resync and undelete"
                ),
            ));
        }
    };
    beside::refuse_to_move(&attached.snapshot(), spec.kind, &[facts.id], None)?;
    let document = jobs::begin(&context, &attached, job, AnySpec::Group(Box::new(spec)), steps).await?;
    accepted(&document)
}

pub(super) fn accepted(document: &Document) -> ApiResult<Response> {
    let job = view::job(document)?;
    let location = format!("/v1/jobs/{}", job.id);
    Ok((StatusCode::ACCEPTED, [(header::LOCATION, location)], Json(job)).into_response())
}

pub(crate) async fn plan(State(context): Shared, Path(segment): Path<String>, request: Request) -> ApiResult<Response> {
    subject(&context, kind::PLANS, "plan", &segment, request).await
}

pub(crate) async fn machine(
    State(context): Shared,
    Path(segment): Path<String>,
    request: Request,
) -> ApiResult<Response> {
    subject(&context, kind::MACHINES, "machine", &segment, request).await
}

/// A verb on a plan, or on a machine as a plan of its own.
async fn subject(
    context: &Context,
    of: &'static str,
    what: &'static str,
    segment: &str,
    request: Request,
) -> ApiResult<Response> {
    let (id, verb) = split(segment)?;
    if of == kind::MACHINES && verb == "reach" {
        let id = id.to_owned();
        let body = body::json(request).await?;
        return Ok(machine_run::reach(context, &id, &body).await?.into_response());
    }
    let (bytes, repeatable) = body::new_id(request.headers(), &format!("{what}:{verb}:{id}"))?;
    let job = JobId::from_bytes(bytes);
    let (verb, id) = (verb.to_owned(), id.to_owned());
    let body = body::json(request).await?;
    let (attached, _) = context.require(of, what, &id).await?;
    if repeatable && let Some((_, document)) = context.find(kind::JOBS, &job.to_string()).await {
        return accepted(&document);
    }
    attached.refresh().await?;
    let document = attached.snapshot().get(of, &id).cloned().ok_or_else(|| ApiError::not_found(what, &id))?;
    let subject = match of {
        kind::PLANS => Subject::Plan(view::id(&document)?),
        _ => Subject::Machine(view::id(&document)?),
    };
    let asked = AskedOf::new(context, &attached, &document, subject, job)?;
    let (spec, steps) = match (verb.as_str(), subject) {
        ("failover", _) => asked.failover(&body::typed::<PlanFailoverRequest>(&body)?).await?,
        ("change-point", _) => asked.change_point(&body::typed::<ChangePointRequest>(&body)?).await?,
        ("commit", _) => {
            let CommitRequest {} = body::typed(&body)?;
            asked.commit()?
        }
        ("cleanup", _) => {
            let wanted = body::typed::<PlanCleanupRequest>(&body)?;
            note_fits("notes", wanted.notes.as_deref())?;
            asked.cleanup(&wanted, None)?
        }
        ("reprotect", _) => {
            let ReprotectRequest {} = body::typed(&body)?;
            asked.reprotect()?
        }
        ("failback", _) => asked.failback(&body::typed::<FailbackRequest>(&body)?)?,
        ("start", Subject::Machine(_)) => {
            let StartRequest {} = body::typed(&body)?;
            asked.start()?
        }
        ("stop", Subject::Machine(_)) => asked.stop(&body::typed::<StopRequest>(&body)?)?,
        (other, _) => {
            let own = if of == kind::MACHINES { ", start, stop, reach" } else { "" };
            return Err(ApiError::new(
                ProblemCode::NotFound,
                format!(
                    "a {what} has no verb {other:?}; there are failover, change-point, commit, cleanup, reprotect, failback{own}"
                ),
            ));
        }
    };
    let groups: Vec<GroupId> = spec.groups.iter().map(|member| member.group).collect();
    beside::refuse_to_move(&attached.snapshot(), spec.kind, &groups, Some(subject))?;
    let document = jobs::begin(context, &attached, job, AnySpec::Program(Box::new(spec)), steps).await?;
    accepted(&document)
}

/// Refuses a text of a person that is too long to be kept.
fn note_fits(field: &str, text: Option<&str>) -> ApiResult<()> {
    match text {
        Some(text) if text.chars().count() > 4096 => {
            Err(ApiError::field(field, "can't have more than 4096 characters"))
        }
        _ => Ok(()),
    }
}

pub(crate) async fn gateway(
    State(context): Shared,
    Path(segment): Path<String>,
    request: Request,
) -> ApiResult<Response> {
    let who = super::tokens::identity(&request)?;
    let (id, verb) = split(&segment)?;
    if verb != "replace" {
        let why = format!("a gateway has no verb {verb:?}; there is replace");
        return Err(ApiError::new(ProblemCode::NotFound, why));
    }
    let (bytes, repeatable) = body::new_id(request.headers(), &format!("gateway:{verb}:{id}"))?;
    let (job, id) = (JobId::from_bytes(bytes), id.to_owned());
    let wanted: ReplaceGatewayRequest = body::typed(&body::json(request).await?)?;
    let (attached, _) = context.require(kind::GATEWAYS, "gateway", &id).await?;
    if repeatable && let Some((_, document)) = context.find(kind::JOBS, &job.to_string()).await {
        return accepted(&document);
    }
    attached.refresh().await?;
    let snapshot = attached.snapshot();
    let document = snapshot.get(kind::GATEWAYS, &id).cloned().ok_or_else(|| ApiError::not_found("gateway", &id))?;
    let asked = Replacement { attached: &attached, document: &document, lost: view::id(&document)?, wanted: &wanted };
    asked.admit()?;
    let (spec, steps) = asked.decide(job)?;
    if asked.is_heard() {
        // It may be serving: who is cut off by that, and what stays with it, is a second person's business too.
        let exact = format!("POST /v1/gateways/{id}:replace: by {}, forced", wanted.gateway_id);
        let name = format!("replace the gateway {}, which was heard of lately", document.name);
        approvals::demand(&context, &attached, &who, Act { exact, name }).await?;
    }
    let document = jobs::begin(&context, &attached, job, AnySpec::Program(Box::new(spec)), steps).await?;
    accepted(&document)
}

pub(crate) async fn job(State(context): Shared, Path(segment): Path<String>, request: Request) -> ApiResult<Response> {
    let (id, verb) = split(&segment)?;
    let (id, verb) = (id.to_owned(), verb.to_owned());
    let body = body::json(request).await?;
    if verb == "cancel" && body.as_object().is_none_or(|fields| !fields.is_empty()) {
        return Err(ApiError::new(ProblemCode::Malformed, "the body must be an empty object"));
    }
    let (attached, document) = context.require(kind::JOBS, "job", &id).await?;
    let job: JobId = id.parse().map_err(|_| ApiError::not_found("job", &id))?;
    match verb.as_str() {
        "cancel" => jobs::cancel(&context, &attached, job).await?,
        "retry" => {
            let RetryRequest { skip } = body::typed(&body)?;
            jobs::retry(&context, &attached, job, &document.spec_as::<AnySpec>()?, skip).await?;
        }
        "continue" => {
            let ContinueRequest { note } = body::typed(&body)?;
            note_fits("note", note.as_deref())?;
            jobs::go_on(&context, &attached, job, note).await?;
        }
        other => {
            return Err(ApiError::new(
                ProblemCode::NotFound,
                format!("a job has no verb {other:?}; there are cancel, retry and continue"),
            ));
        }
    }
    let document = attached.vault()?.catalog().get(kind::JOBS, &id).await?;
    accepted(&document)
}
