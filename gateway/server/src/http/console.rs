//! The web console's files, in front of the API: everybody may read them, since they say nothing about this gateway.
//!
//! They are no operations: the API's table and description don't have them. What a page shows it asks of the API, with the token of
//! whoever signed in.

use axum::extract::Request;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};

/// Where the console is.
const PREFIX: &str = "/console/";

/// Answers for the console's paths, and for who comes without one; hands on everything else.
pub(super) async fn serve(request: Request, next: Next) -> Response {
    let path = request.uri().path();
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return next.run(request).await;
    }
    if matches!(path, "/" | "/console") {
        return (StatusCode::SEE_OTHER, [(header::LOCATION, PREFIX)], headers()).into_response();
    }
    let Some(wanted) = path.strip_prefix(PREFIX) else { return next.run(request).await };
    match lifeboat_web::file(wanted) {
        Some(file) => (headers(), [(header::CONTENT_TYPE, file.content_type)], file.content).into_response(),
        None => {
            let text = format!("There is no {path}. The console is at {PREFIX}\n");
            (StatusCode::NOT_FOUND, headers(), [(header::CONTENT_TYPE, "text/plain; charset=utf-8")], text)
                .into_response()
        }
    }
}

/// What keeps a page to itself, and the page of the version that runs.
fn headers() -> HeaderMap {
    [
        (header::CONTENT_SECURITY_POLICY, lifeboat_web::CONTENT_SECURITY_POLICY),
        (header::CACHE_CONTROL, "no-store"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::REFERRER_POLICY, "no-referrer"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
        (HeaderName::from_static("permissions-policy"), "camera=(), geolocation=(), microphone=(), usb=()"),
    ]
    .into_iter()
    .map(|(name, value)| (name, HeaderValue::from_static(value)))
    .collect()
}
