//! Verbs on recovery points: `POST /v1/groups/{id}/points/{point}:pin`, `:unpin` and `:label`.
//!
//! What a person says of a point is a record in the vault, which every gateway and every collector of garbage reads: writing
//! it down is all that there is to do, at whatever gateway is asked. It can be repeated; a crash leaves the record or not.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, Request, State};
use lifeboat_api::{LabelRequest, PinRequest, Point, ProblemCode, UnpinRequest};
use lifeboat_model::state::Health;
use lifeboat_model::{PointId, Timestamp};
use serde_json::Value;

use super::Shared;
use super::body;
use super::error::{ApiError, ApiResult};
use crate::approvals::{self, Act};
use crate::context::{Context, Happening};
use crate::port::MarkPoint;
use crate::records::kind;
use crate::view;

/// Longest reason or label, bytes.
const TEXT_BYTES_MAX: usize = 255;

pub(crate) async fn verb(
    State(context): Shared,
    Path((group, segment)): Path<(String, String)>,
    request: Request,
) -> ApiResult<Json<Point>> {
    let who = super::tokens::identity(&request)?;
    let (point, verb) = super::verbs::split(&segment)?;
    let (point, verb) = (point.to_owned(), verb.to_owned());
    let body = body::json(request).await?;
    let mark = match verb.as_str() {
        "pin" => pin(&body)?,
        "unpin" => {
            let UnpinRequest {} = body::typed(&body)?;
            MarkPoint::Unpin
        }
        "label" => {
            let LabelRequest { label } = body::typed(&body)?;
            MarkPoint::Label(checked("label", label)?)
        }
        other => {
            return Err(ApiError::new(
                ProblemCode::NotFound,
                format!("a recovery point has no verb {other:?}; there are pin, unpin and label"),
            ));
        }
    };
    if matches!(mark, MarkPoint::Unpin) {
        let (attached, document) = context.require(kind::GROUPS, "group", &group).await?;
        let exact = format!("POST /v1/groups/{group}/points/{point}:unpin");
        let name = format!("leave the pinned recovery point {point} of the group {} to its schedule", document.name);
        approvals::demand(&context, &attached, &who, Act { exact, name }).await?;
    }
    set(&context, &group, &point, mark).await
}

fn pin(body: &Value) -> ApiResult<MarkPoint> {
    let PinRequest { until, reason } = body::typed(body)?;
    let until = until
        .map(|text| {
            let until: Timestamp = text
                .parse()
                .map_err(|_| ApiError::field("until", format!("{text:?} is no time such as 2026-11-20T10:05:00Z")))?;
            if until <= Timestamp::now() {
                return Err(ApiError::field("until", format!("{until} is over: choose a later time, or leave it out")));
            }
            Ok(until)
        })
        .transpose()?;
    Ok(MarkPoint::Pin { until, reason: checked("reason", reason)? })
}

pub(super) fn checked(field: &str, text: String) -> ApiResult<String> {
    if text.len() > TEXT_BYTES_MAX || text.chars().any(char::is_control) {
        let message = format!("can have {TEXT_BYTES_MAX} bytes at most and no control characters");
        return Err(ApiError::field(field, message));
    }
    Ok(text)
}

async fn set(context: &Arc<Context>, group: &str, point: &str, mark: MarkPoint) -> ApiResult<Json<Point>> {
    let (attached, document) = context.require(kind::GROUPS, "group", group).await?;
    let id: PointId = point.parse().map_err(|_| ApiError::not_found("recovery point", point))?;
    let own = context.own_gateway(&attached).ok_or_else(|| {
        ApiError::conflict("this gateway isn't declared in the vault: declare it first, or ask another one".to_owned())
    })?;
    let (vault, group) = (attached.vault()?, view::id(&document)?);
    let said = match &mark {
        MarkPoint::Pin { until: Some(until), .. } => Some(format!("is pinned until {until}")),
        MarkPoint::Pin { until: None, .. } => Some("is pinned".to_owned()),
        MarkPoint::Unpin => Some("is left to the retention schedule again".to_owned()),
        MarkPoint::Label(_) => None,
    };
    let marked = context.engine.mark_point(&vault, group, id, own, mark).await?;
    context.points.stale(group);
    if let Some(said) = said {
        let event = Happening {
            severity: Health::Healthy,
            kind: "point.pin",
            message: format!("the recovery point of {} of the group {} {said}", marked.time, document.name),
            group: Some(group),
            ..Happening::default()
        };
        context.event(&attached, event).await;
    }
    Ok(Json(view::point(context, group, &document.name, &marked)))
}
