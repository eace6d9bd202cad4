//! Drills beside their declaration: runs, clean-ups, evidence, reports.

mod report;

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, Request, State};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderValue, Uri, header};
use lifeboat_api::{DrillEvidence, DrillRunRequest, PlanCleanupRequest, ProblemCode};
use lifeboat_model::JobId;
use lifeboat_vault::VaultErrorKind;

use super::Shared;
use super::body::{self, Query};
use super::error::{ApiError, ApiResult};
use super::verbs::{accepted, split};
use crate::context::Context;
use crate::jobs;
use crate::jobs::drill::{ask, evidence as kept};
use crate::records::{DrillRecord, EvidenceRecord, kind, status};
use crate::vaults::AttachedVault;

/// `POST /v1/drills/{id}:verb`.
pub(crate) async fn verb(State(context): Shared, Path(segment): Path<String>, request: Request) -> ApiResult<Response> {
    let (id, verb) = split(&segment)?;
    let (bytes, repeatable) = body::new_id(request.headers(), &format!("drill:{verb}:{id}"))?;
    let job = JobId::from_bytes(bytes);
    let (verb, id) = (verb.to_owned(), id.to_owned());
    let body = body::json(request).await?;
    let (attached, _) = context.require(kind::DRILLS, "drill", &id).await?;
    if repeatable && let Some((_, document)) = context.find(kind::JOBS, &job.to_string()).await {
        return accepted(&document);
    }
    attached.refresh().await?;
    let drill = attached.snapshot().get(kind::DRILLS, &id).cloned().ok_or_else(|| ApiError::not_found("drill", &id))?;
    match verb.as_str() {
        "run" => {
            let DrillRunRequest {} = body::typed(&body)?;
            let (spec, steps) = ask::run(&context, &attached, &drill, job, false).await?;
            accepted(&*jobs::begin(&context, &attached, job, spec, steps).await?)
        }
        "cleanup" => {
            let wanted = body::typed::<PlanCleanupRequest>(&body)?;
            accepted(&*ask::cleanup(&context, &attached, &drill, job, wanted).await?)
        }
        other => Err(ApiError::new(
            ProblemCode::NotFound,
            format!("a drill has no verb {other:?}; there are run and cleanup"),
        )),
    }
}

/// The evidence of a run: of the newest, unless one is named.
async fn evidence_of(
    context: &Context,
    id: &str,
    query: Option<&str>,
) -> ApiResult<(Arc<AttachedVault>, JobId, EvidenceRecord)> {
    let query = Query::of(query, &["run"])?;
    let (attached, document) = context.require(kind::DRILLS, "drill", id).await?;
    let record: DrillRecord = status(&document);
    let newest = record.runs.first().map(|run| run.job_id);
    let run = query.parsed::<JobId>("run")?.or(newest);
    let run = run.ok_or_else(|| {
        ApiError::new(ProblemCode::NotFound, format!("the drill {} has no run that came to an end", document.name))
    })?;
    let missing = || ApiError::not_found("run of the drill", &run.to_string());
    let found = match attached.vault()?.catalog().get(kind::EVIDENCE, &run.to_string()).await {
        Ok(found) => found,
        Err(error) if error.kind() == VaultErrorKind::NotFound => return Err(missing()),
        Err(error) => return Err(error.into()),
    };
    let found: EvidenceRecord = found.spec_as()?;
    if found.drill.to_string() != document.id {
        return Err(missing());
    }
    Ok((attached, run, found))
}

pub(crate) async fn evidence(
    State(context): Shared,
    Path(id): Path<String>,
    uri: Uri,
) -> ApiResult<Json<DrillEvidence>> {
    let (_, job_id, found) = evidence_of(&context, &id, uri.query()).await?;
    let EvidenceRecord { evidence, signature, public_key, .. } = found;
    Ok(Json(DrillEvidence { job_id, evidence, signature, public_key }))
}

/// The evidence for people: one page that needs nothing else.
pub(crate) async fn report(State(context): Shared, Path(id): Path<String>, uri: Uri) -> ApiResult<Response> {
    let (attached, _, found) = evidence_of(&context, &id, uri.query()).await?;
    let vault = attached.vault()?;
    let mut pictures = BTreeMap::new();
    for document in &found.pictures {
        if let Some(png) = kept::picture(&vault, document).await? {
            pictures.insert(kept::sha256(&png), STANDARD.encode(png));
        }
    }
    let page = report::page(&found, &pictures);
    let mut response = ([(header::CONTENT_TYPE, "text/html; charset=utf-8")], page).into_response();
    // Whatever stands in it is text: nothing is loaded, nothing runs.
    let policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; sandbox";
    response.headers_mut().insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(policy));
    Ok(response)
}
