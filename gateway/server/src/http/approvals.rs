//! Approvals: listed, read, granted, rejected. They are read from the vault when somebody asks: what another gateway has
//! written a moment ago counts.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, Request, State};
use axum::response::Response;
use http::StatusCode;
use lifeboat_api::{Approval, ApprovalState, DecideRequest, Page, ProblemCode};
use lifeboat_model::Timestamp;
use lifeboat_vault::{Document, VaultErrorKind};

use super::Shared;
use super::body::{self, PAGING, Query};
use super::error::{ApiError, ApiResult};
use super::tokens::identity;
use crate::approvals::{is_same, later};
use crate::context::Context;
use crate::records::{ApprovalRecord, ApprovalSpecRecord, kind};
use crate::vaults::AttachedVault;
use crate::view;

pub(crate) async fn list(State(context): Shared, request: Request) -> ApiResult<Json<Page<Approval>>> {
    let query = Query::of(request.uri().query(), &[PAGING[0], PAGING[1], "name"])?;
    let mut approvals = Vec::new();
    for attached in context.vaults.all() {
        for document in attached.vault()?.catalog().list(kind::APPROVALS).await? {
            if query.text("name").is_none_or(|name| name == document.name) {
                approvals.push(view::approval(&attached, &document)?);
            }
        }
    }
    approvals.sort_by_key(|approval| std::cmp::Reverse((approval.created, approval.id)));
    body::page(&query, approvals, |approval| approval.id.to_string()).map(Json)
}

pub(crate) async fn read(State(context): Shared, Path(id): Path<String>) -> ApiResult<Response> {
    let (attached, document) = find(&context, &id).await?;
    let approval = view::approval(&attached, &document)?;
    Ok(body::with_etag(StatusCode::OK, approval.generation, &approval))
}

async fn find(context: &Context, id: &str) -> ApiResult<(Arc<AttachedVault>, Arc<Document>)> {
    for attached in context.vaults.all() {
        match attached.vault()?.catalog().get(kind::APPROVALS, id).await {
            Ok(document) => return Ok((attached, document)),
            Err(error) if matches!(error.kind(), VaultErrorKind::NotFound | VaultErrorKind::InvalidInput) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(ApiError::not_found("approval", id))
}

pub(crate) async fn verb(State(context): Shared, Path(segment): Path<String>, request: Request) -> ApiResult<Response> {
    let by = identity(&request)?.principal.clone();
    let (id, verb) = super::verbs::split(&segment)?;
    let decided = match verb {
        "approve" => ApprovalState::Approved,
        "reject" => ApprovalState::Rejected,
        other => {
            return Err(ApiError::new(
                ProblemCode::NotFound,
                format!("an approval has no verb {other:?}; there are approve and reject"),
            ));
        }
    };
    let id = id.to_owned();
    let DecideRequest { comment } = body::typed(&body::json(request).await?)?;
    let comment = super::points::checked("comment", comment)?;
    let (attached, document) = find(&context, &id).await?;
    let spec: ApprovalSpecRecord = document.spec_as()?;
    // Who asked may take it back.
    if is_same(&spec.requested_by, &by) && decided == ApprovalState::Approved {
        return Err(ApiError::conflict(format!(
            "{by} asked for this, and somebody else has to decide: another security administrator's token"
        )));
    }
    let now = Timestamp::now();
    let mut refused = None;
    let mut change = |document: &Document| {
        refused = None;
        let mut record: ApprovalRecord = document.status_as().ok()?;
        let state = record.state_at(now);
        if state != ApprovalState::Pending {
            // The same word from the same person, sent again, is no second one.
            let again = state == decided && record.decided_by.as_ref().is_some_and(|before| is_same(before, &by));
            refused = (!again).then_some(state);
            return None;
        }
        record.state = decided;
        record.decided_by = Some(by.clone());
        record.decided = Some(now);
        record.comment.clone_from(&comment);
        record.expires = later(now);
        serde_json::to_value(&record).ok()
    };
    let document = attached.vault()?.catalog().update_status(kind::APPROVALS, &id, &mut change).await?;
    if let Some(state) = refused {
        return Err(ApiError::conflict(format!(
            "the approval {id} can't be decided any more: it is {}",
            state.as_str()
        )));
    }
    tracing::info!(approval = id, state = decided.as_str(), %by, "decided");
    let approval = view::approval(&attached, &document)?;
    Ok(body::with_etag(StatusCode::OK, approval.generation, &approval))
}
