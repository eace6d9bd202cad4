//! `GET` and `POST /v1/registration`: this gateway's own registration by key. What happens is in [`crate::registration`].

use axum::Json;
use axum::extract::{Request, State};
use lifeboat_api::validate::Validate;
use lifeboat_api::{RegisterRequest, Registration};

use super::error::ApiResult;
use super::{Shared, body};
use crate::registration;

pub(crate) async fn read(State(context): Shared) -> Json<Registration> {
    Json(registration::shown(&context))
}

pub(crate) async fn create(State(context): Shared, request: Request) -> ApiResult<Json<Registration>> {
    let wanted: RegisterRequest = body::typed(&body::json(request).await?)?;
    wanted.validate()?;
    registration::register(&context, wanted).await.map(Json)
}
