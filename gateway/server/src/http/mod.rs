//! The HTTP side: routes, authentication, limits, problem documents.
//!
//! Handlers read the gateway's copy of the catalog and write intent; the reconciler and the jobs act on it (I-12).
//! Everything but `/livez`, `/readyz`, the web console's files and enrolments needs a token or a machine's certificate, unknown paths too; what its roles have to be says the table in
//! [`operations`]. Every error is a problem document.

mod access;
mod agents;
mod approvals;
mod audit;
mod audited;
pub(crate) mod body;
mod clean_point;
mod console;
mod drills;
pub(crate) mod error;
mod gateway_enrolments;
mod keys;
pub(crate) mod listen;
mod machine_run;
mod manners;
pub(crate) mod metrics;
mod notices;
pub(crate) mod openapi;
mod operations;
mod points;
mod reads;
mod registration;
mod registration_keys;
mod resources;
mod support_bundle;
pub(crate) mod tokens;
pub(crate) mod undelete;
mod vaults;
mod verbs;
mod volume_keys;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{MatchedPath, Request, State};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::{Json, Router};
use http::{HeaderValue, StatusCode, header};
use lifeboat_api::ProblemCode;
use lifeboat_vault::TRACE_TARGET;
use tracing::field::Empty;
use tracing::{Instrument, Span};

use crate::context::Context;
pub(crate) use keys::admit as admit_key;
pub(crate) use vaults::attach;

use access::Routes;
use error::ApiError;
use resources::{Drills, Gateways, Groups, Machines, Mappings, Networks, Plans, Policies, Sites, Volumes};

/// How long a request may take, besides what it asked to wait.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);

/// What handlers share.
pub(crate) type Shared = State<Arc<Context>>;

/// The whole API.
pub(crate) fn router(context: Arc<Context>) -> Router {
    routes()
        .into_router()
        .fallback(unknown)
        .method_not_allowed_fallback(wrong_method)
        .layer(middleware::from_fn_with_state(Arc::clone(&context), guard))
        .layer(middleware::from_fn(console::serve))
        .layer(middleware::from_fn(manners::keep))
        .with_state(context)
}

fn routes() -> Routes {
    Routes::default()
        .get("/livez", || async { Json(serde_json::json!({"status": "alive"})) })
        .get("/readyz", ready)
        .get("/metrics", metrics::metrics)
        .get("/v1/support-bundles/{id}", support_bundle::read)
        .get("/v1/openapi.json", openapi::serve)
        .get("/v1/whoami", tokens::whoami)
        .get("/v1/tokens", tokens::list)
        .post("/v1/tokens", tokens::create)
        .get("/v1/tokens/{id}", tokens::read)
        .delete("/v1/tokens/{id}", tokens::delete)
        .post("/v1/tokens/{id}", tokens::verb)
        .get("/v1/registration-keys", registration_keys::list)
        .post("/v1/registration-keys", registration_keys::create)
        .get("/v1/registration-keys/{id}", registration_keys::read)
        .delete("/v1/registration-keys/{id}", registration_keys::delete)
        .post("/v1/enrolments", agents::enrol)
        .post("/v1/gateway-enrolments", gateway_enrolments::enrol)
        .get("/v1/registration", registration::read)
        .post("/v1/registration", registration::create)
        .get("/v1/agents", agents::list)
        .get("/v1/agents/{id}", agents::read)
        .get("/v1/agents/{id}/process-servers", agents::process_servers)
        .delete("/v1/agents/{id}", agents::delete)
        .post("/v1/agents/{id}", agents::verb)
        .get("/v1/status", reads::report)
        .get("/v1/vaults", vaults::list)
        .post("/v1/vaults", vaults::create)
        .get("/v1/vaults/{id}", vaults::read)
        .patch("/v1/vaults/{id}", vaults::update)
        .delete("/v1/vaults/{id}", vaults::delete)
        .post("/v1/vaults/{id}", keys::verb)
        .get("/v1/vaults/{id}/keys", keys::list)
        .collection::<Sites>("/v1/sites", "/v1/sites/{id}")
        .collection::<Gateways>("/v1/gateways", "/v1/gateways/{id}")
        .post("/v1/gateways/{id}", verbs::gateway)
        .collection::<Policies>("/v1/policies", "/v1/policies/{id}")
        .collection::<Volumes>("/v1/volumes", "/v1/volumes/{id}")
        .post("/v1/volumes/{id}", volume_keys::verb)
        .collection::<Groups>("/v1/groups", "/v1/groups/{id}")
        .post("/v1/groups/{id}", verbs::group)
        .get("/v1/machines/{id}/run", machine_run::look)
        .collection::<Networks>("/v1/networks", "/v1/networks/{id}")
        .collection::<Mappings>("/v1/network-mappings", "/v1/network-mappings/{id}")
        .collection::<Machines>("/v1/machines", "/v1/machines/{id}")
        .post("/v1/machines/{id}", verbs::machine)
        .collection::<Plans>("/v1/plans", "/v1/plans/{id}")
        .post("/v1/plans/{id}", verbs::plan)
        .collection::<Drills>("/v1/drills", "/v1/drills/{id}")
        .post("/v1/drills/{id}", drills::verb)
        .get("/v1/drills/{id}/evidence", drills::evidence)
        .get("/v1/drills/{id}/report", drills::report)
        .post("/v1/groups/{id}/points/{point}", points::verb)
        .get("/v1/deleted-groups", undelete::list)
        .get("/v1/deleted", undelete::declared::list)
        .post("/v1/deleted/{id}", undelete::declared::verb)
        .get("/v1/clean-point", clean_point::read)
        .get("/v1/points", reads::points)
        .get("/v1/points/{id}", reads::point)
        .get("/v1/jobs", reads::jobs)
        .get("/v1/jobs/{id}", reads::job)
        .post("/v1/jobs/{id}", verbs::job)
        .get("/v1/approvals", approvals::list)
        .get("/v1/approvals/{id}", approvals::read)
        .post("/v1/approvals/{id}", approvals::verb)
        .get("/v1/audit", audit::list)
        .get("/v1/events", reads::events)
        .post("/v1/notice-tests", notices::test)
        .get("/v1/protection-status", reads::protection)
        .get("/v1/protection-history", reads::history)
}

/// Authentication, time-out and headers, in front of everything. What the caller may do is asked route by route.
async fn guard(State(context): Shared, request: Request, next: Next) -> Response {
    let method = request.method().clone();
    let route = request.extensions().get::<MatchedPath>().cloned();
    let span = span(&request, route.as_ref().map(MatchedPath::as_str));
    let response = guarded(&context, request, next).instrument(span.clone()).await;
    let status = response.status();
    span.record("http.response.status_code", status.as_u16());
    if status.is_server_error() {
        span.record("otel.status_message", status.canonical_reason());
    }
    context.counters.request(&method, route.as_ref().map(MatchedPath::as_str), status);
    response
}

/// The span of a request of the API, within the caller's where its header `traceparent` names one. What looks after the gateway itself
/// (probes, metrics) and the web console's files have none. The path isn't told, its pattern is: nobody knows what is typed there.
fn span(request: &Request, route: Option<&str>) -> Span {
    if !request.uri().path().starts_with("/v1/") {
        return Span::none();
    }
    let method = request.method().as_str();
    let above = request.headers().get("traceparent").and_then(|value| value.to_str().ok());
    tracing::info_span!(
        target: TRACE_TARGET, "api.request", otel.kind = "server", otel.status_message = Empty, trace.parent = above,
        otel.name = route.map(|route| display(format!("{method} {route}"))), http.request.method = method,
        http.route = route, http.response.status_code = Empty,
    )
}

async fn guarded(context: &Arc<Context>, mut request: Request, next: Next) -> Response {
    if !access::is_open(request.uri().path()) {
        match access::authenticate(context, &request) {
            Ok(identity) => drop(request.extensions_mut().insert(identity)),
            Err(refused) => return audited::refused(context, &request, refused).into_response(),
        }
        request.extensions_mut().insert(Arc::clone(context));
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
