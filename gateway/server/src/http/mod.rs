//! The HTTP side: routes, authentication, limits, problem documents.
//!
//! Handlers read the gateway's copy of the catalog and write intent; the reconciler and the jobs act on it (I-12).
//! Everything but `/livez` and `/readyz` needs the token, unknown paths too. Every error is a problem document.

pub(crate) mod body;
mod clean_point;
mod drills;
pub(crate) mod error;
mod keys;
pub(crate) mod listen;
mod machine_run;
mod manners;
mod metrics;
pub(crate) mod openapi;
mod points;
mod reads;
mod resources;
mod undelete;
mod vaults;
mod verbs;
mod volume_keys;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get, post};
use axum::{Json, Router};
use http::{HeaderValue, StatusCode, header};
use lifeboat_api::ProblemCode;

use crate::context::Context;
use error::ApiError;
use resources::{Drills, Gateways, Groups, Machines, Mappings, Networks, Plans, Policies, Sites, Volumes};

/// How long a request may take, besides what it asked to wait.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);

/// What handlers share.
pub(crate) type Shared = State<Arc<Context>>;

/// The whole API.
pub(crate) fn router(context: Arc<Context>) -> Router {
    Router::new()
        .route("/livez", get(|| async { Json(serde_json::json!({"status": "alive"})) }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics::metrics))
        .route("/v1/openapi.json", get(openapi::serve))
        .route("/v1/status", get(reads::report))
        .route("/v1/vaults", get(vaults::list).post(vaults::create))
        .route("/v1/vaults/{id}", get(vaults::read).patch(vaults::update).delete(vaults::delete).post(keys::verb))
        .route("/v1/vaults/{id}/keys", get(keys::list))
        .merge(collection::<Sites>("/v1/sites"))
        .merge(collection::<Gateways>("/v1/gateways"))
        .merge(collection::<Policies>("/v1/policies"))
        .merge(collection_with::<Volumes>("/v1/volumes", |item| item.post(volume_keys::verb)))
        .merge(collection_with::<Groups>("/v1/groups", |item| item.post(verbs::group)))
        .route("/v1/machines/{id}/run", get(machine_run::look))
        .merge(collection::<Networks>("/v1/networks"))
        .merge(collection::<Mappings>("/v1/network-mappings"))
        .merge(collection_with::<Machines>("/v1/machines", |item| item.post(verbs::machine)))
        .merge(collection_with::<Plans>("/v1/plans", |item| item.post(verbs::plan)))
        .merge(collection_with::<Drills>("/v1/drills", |item| item.post(drills::verb)))
        .route("/v1/drills/{id}/evidence", get(drills::evidence))
        .route("/v1/drills/{id}/report", get(drills::report))
        .route("/v1/groups/{id}/points/{point}", post(points::verb))
        .route("/v1/deleted-groups", get(undelete::list))
        .route("/v1/clean-point", get(clean_point::read))
        .route("/v1/points", get(reads::points))
        .route("/v1/points/{id}", get(reads::point))
        .route("/v1/jobs", get(reads::jobs))
        .route("/v1/jobs/{id}", get(reads::job).post(verbs::job))
        .route("/v1/events", get(reads::events))
        .route("/v1/protection-status", get(reads::protection))
        .fallback(unknown)
        .method_not_allowed_fallback(wrong_method)
        .layer(middleware::from_fn_with_state(Arc::clone(&context), guard))
        .layer(middleware::from_fn(manners::keep))
        .with_state(context)
}

fn collection<K: resources::Kind>(path: &str) -> Router<Arc<Context>> {
    collection_with::<K>(path, |item| item)
}

fn collection_with<K: resources::Kind>(
    path: &str,
    extend: impl FnOnce(MethodRouter<Arc<Context>>) -> MethodRouter<Arc<Context>>,
) -> Router<Arc<Context>> {
    let item = get(resources::read::<K>).patch(resources::update::<K>).delete(resources::delete::<K>);
    Router::new()
        .route(path, get(resources::list::<K>).post(resources::create::<K>))
        .route(&format!("{path}/{{id}}"), extend(item))
}

/// Authentication, time-out and headers, in front of everything.
async fn guard(State(context): Shared, request: Request, next: Next) -> Response {
    let open = matches!(request.uri().path(), "/livez" | "/readyz");
    if !open && !context.gate.admits(request.headers().get(header::AUTHORIZATION)) {
        return ApiError::new(
            ProblemCode::Unauthorized,
            "this needs `Authorization: Bearer` with the gateway's token: see admin.token in its state directory",
        )
        .into_response();
    }
    let mut response = match tokio::time::timeout(REQUEST_TIMEOUT, next.run(request)).await {
        Ok(response) => response,
        Err(_) => ApiError::new(
            ProblemCode::Timeout,
            format!("the request wasn't done within {REQUEST_TIMEOUT:?}; look at the object before trying again"),
        )
        .into_response(),
    };
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

async fn ready(State(context): Shared) -> Response {
    let mounted = context.exported.path().is_some() || context.settings.mount.is_none();
    let (health, reasons) = context.health();
    let ready = context.is_ready() && mounted;
    let body = serde_json::json!({
        "status": if ready { "ready" } else { "starting" },
        "health": health,
        // Reasons name paths and vaults; they are for those who have the token.
        "degraded": !reasons.is_empty(),
    });
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(body)).into_response()
}

async fn unknown(request: Request) -> ApiError {
    ApiError::new(
        ProblemCode::NotFound,
        format!("there is no {} in this API; see /v1/openapi.json", request.uri().path()),
    )
}

async fn wrong_method(request: Request) -> ApiError {
    ApiError::new(
        ProblemCode::MethodNotAllowed,
        format!("{} isn't possible on {}; see /v1/openapi.json", request.method(), request.uri().path()),
    )
}
