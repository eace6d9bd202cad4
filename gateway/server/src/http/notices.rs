//! Notices: a test of the channels of the gateway that answers.

use axum::Json;
use axum::extract::State;
use lifeboat_api::NoticeTests;

use super::Shared;

pub(crate) async fn test(State(context): Shared) -> Json<NoticeTests> {
    Json(NoticeTests { results: context.notices.test(&context).await })
}
