//! `GET /v1/clean-point?group=…`: the newest recovery point before anything that looks like an encryption.

use axum::Json;
use axum::extract::Request;
use axum::extract::State;
use lifeboat_api::{CleanPoint, SuspicionView};
use lifeboat_engine::insight::Suggestion;
use lifeboat_model::BranchId;

use super::Shared;
use super::body::Query;
use super::error::ApiResult;
use crate::insight;
use crate::port::PointFact;
use crate::records::{GroupRecord, status};
use crate::view;

pub(crate) async fn read(State(context): Shared, request: Request) -> ApiResult<Json<CleanPoint>> {
    let query = Query::of(request.uri().query(), &["group", "branch"])?;
    let (attached, group, document) = super::reads::group_of(&context, &query).await?;
    let record: GroupRecord = status(&document);
    let branch = query.parsed::<BranchId>("branch")?.or(record.active.map(|active| active.branch));
    let vault = attached.vault()?;
    let points = match branch {
        Some(branch) => context.points.list(context.engine.as_ref(), &vault, group, branch).await?,
        None => Default::default(),
    };
    let found = insight::suggestion(&context, &vault, group, &points).await?;
    Ok(Json(CleanPoint {
        group_id: group,
        reason: reason(&found),
        point: found.point.as_ref().map(|point| view::point(&context, group, &document.name, point)),
        confidence: found.confidence.as_str().to_owned(),
        measured_since: found.measured_since,
        suspicions: found
            .suspicions
            .iter()
            .map(|one| SuspicionView {
                volume_id: one.volume,
                volume: insight::volume_name(&attached, one.volume),
                since: one.since,
                until: one.until,
                bytes: one.bytes,
                confidence: one.confidence.as_str().to_owned(),
            })
            .collect(),
    }))
}

fn reason(found: &Suggestion<PointFact>) -> String {
    match (found.suspicions.first(), &found.point, found.measured_since) {
        (Some(first), Some(_), _) => {
            format!(
                "it is the newest point before {}, when a volume began to look as if it was being encrypted",
                first.since
            )
        }
        (Some(first), None, _) => format!(
            "a volume began to look as if it was being encrypted at {}, and no point is that old: retention has dropped them",
            first.since
        ),
        (None, Some(point), Some(since)) if since <= point.time => {
            format!("it is the newest point, and nothing that was written since {since} looks like an encryption")
        }
        (None, Some(_), _) => {
            "it is the newest point; what was written before it was not measured, so nothing is said about it"
                .to_owned()
        }
        (None, None, _) => "the group has no recovery point yet".to_owned(),
    }
}
