//! The web console's files: what everybody gets, and what nobody gets by them.

use axum::body::Body;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::BodyExt;
use tower::ServiceExt;

use super::Api;

impl Api {
    /// What somebody without a token gets.
    async fn stranger(&self, method: &str, path: &str) -> (StatusCode, HeaderMap, Vec<u8>) {
        let router = crate::http::router(std::sync::Arc::clone(&self.gateway.context));
        let request = Request::builder().method(method).uri(path).body(Body::empty()).expect("sound");
        let response = router.oneshot(request).await.expect("infallible");
        let (status, headers) = (response.status(), response.headers().clone());
        (status, headers, response.into_body().collect().await.expect("a body").to_bytes().to_vec())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_consoles_files_are_for_everybody_and_nothing_else_is() {
    let api = Api::start().await;
    for path in ["/", "/console"] {
        let (status, headers, _) = api.stranger("GET", path).await;
        assert_eq!((status, headers["location"].as_bytes()), (StatusCode::SEE_OTHER, &b"/console/"[..]), "{path}");
    }
    for file in lifeboat_web::FILES {
        let (status, headers, body) = api.stranger("GET", &format!("/console/{}", file.path)).await;
        assert_eq!((status, body.as_slice()), (StatusCode::OK, file.content), "{}", file.path);
        assert_eq!(headers["content-type"], file.content_type);
        assert_eq!(headers["content-security-policy"], lifeboat_web::CONTENT_SECURITY_POLICY);
        for (name, value) in
            [("x-frame-options", "DENY"), ("x-content-type-options", "nosniff"), ("cache-control", "no-store")]
        {
            assert_eq!(headers[name], value, "{}", file.path);
        }
    }
    let (status, _, body) = api.stranger("GET", "/console/").await;
    assert!(status.is_success() && body.starts_with(b"<!doctype html>"));

    for path in [
        "/console/nothing.js",
        "/console/../v1/status",
        "/console/%2e%2e/ca.key",
        "/console/pages/",
        "/console//v1/status",
    ] {
        let (status, headers, _) = api.stranger("GET", path).await;
        assert_eq!(status, StatusCode::NOT_FOUND, "{path}");
        assert!(headers.contains_key("content-security-policy"), "{path}");
    }
    // It is read and nothing else; what isn't the console's needs a token as ever.
    for (method, path) in
        [("POST", "/console/"), ("DELETE", "/"), ("GET", "/v1/status"), ("GET", "/consoles/x"), ("GET", "/metrics")]
    {
        assert_eq!(api.stranger(method, path).await.0, StatusCode::UNAUTHORIZED, "{method} {path}");
    }
    let (status, headers, body) = api.stranger("HEAD", "/console/app.js").await;
    assert!(status.is_success() && body.is_empty(), "{headers:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_hour_of_every_group_is_there_as_long_as_the_group_is() {
    let api = Api::start().await;
    api.vault().await;
    let answer = api.get("/v1/protection-history").await;
    assert_eq!((answer.status, &answer.body["items"]), (StatusCode::OK, &serde_json::json!([])));
    let answer = api.get("/v1/protection-history?group=grp-0198f2c0000070008000000000000002").await;
    super::problem(&answer, 404, "not-found");
}
