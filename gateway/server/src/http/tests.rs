//! The HTTP side as a stranger meets it: raw requests to the router, every answer looked at.

mod access;
mod approvals;
mod console;
mod garbled;
mod identity;
mod metrics;
mod networks;
mod recovery;
mod registration;
mod tokens;

use axum::body::Body;
use http::{Method, Request, StatusCode};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tower::ServiceExt;

use super::openapi::document;
use super::operations::operations;
use crate::Gateway;
use crate::testing::{config, eventually, policy_spec, vault_create};

struct Api {
    gateway: Gateway,
    token: String,
    dir: tempfile::TempDir,
}

struct Answer {
    status: StatusCode,
    content_type: String,
    etag: String,
    body: Value,
}

impl Api {
    async fn start() -> Self {
        let dir = tempfile::tempdir().expect("tempdir");
        let gateway = Gateway::start(config(&dir.path().join("state"), "a", "east")).await.expect("starts");
        let token = std::fs::read_to_string(dir.path().join("state/admin.token")).expect("made");
        Self { gateway, token: token.trim().to_owned(), dir }
    }

    fn request(&self, method: &str, path: &str) -> http::request::Builder {
        Request::builder()
            .method(method)
            .uri(path)
            .header("authorization", format!("Bearer {}", self.token))
            .header("content-type", "application/json")
    }

    async fn send(&self, request: Request<Body>) -> Answer {
        let router = super::router(std::sync::Arc::clone(&self.gateway.context));
        let response = router.oneshot(request).await.expect("infallible");
        let header =
            |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or("").to_owned();
        let (status, content_type, etag) = (response.status(), header("content-type"), header("etag"));
        let bytes = response.into_body().collect().await.expect("body").to_bytes();
        let text = || if bytes.is_empty() { Value::Null } else { String::from_utf8_lossy(&bytes).into() };
        let body = serde_json::from_slice(&bytes).unwrap_or_else(|_| text());
        Answer { status, content_type, etag, body }
    }

    async fn post(&self, path: &str, body: &Value) -> Answer {
        self.send(self.request("POST", path).body(Body::from(body.to_string())).expect("sound")).await
    }

    async fn change(&self, method: &str, path: &str, etag: &str, body: &Value) -> Answer {
        let request = self.request(method, path).header("if-match", etag);
        self.send(request.body(Body::from(body.to_string())).expect("sound")).await
    }

    async fn get(&self, path: &str) -> Answer {
        self.send(self.request("GET", path).body(Body::empty()).expect("sound")).await
    }

    /// What the answer to a POST that declares something says.
    async fn declare(&self, path: &str, body: &Value) -> Value {
        let answer = self.post(path, body).await;
        assert_eq!(answer.status, StatusCode::CREATED, "{}", answer.body);
        answer.body
    }

    /// Deletes what was declared and not changed since.
    async fn delete(&self, collection: &str, object: &Value) -> Answer {
        let path = format!("/v1/{collection}/{}", object["id"].as_str().expect("id"));
        let generation = self.get(&path).await.etag;
        self.change("DELETE", &path, &generation, &json!({})).await
    }

    /// Changes what was declared, as it is now.
    async fn patch(&self, collection: &str, object: &Value, patch: &Value) -> Answer {
        let path = format!("/v1/{collection}/{}", object["id"].as_str().expect("id"));
        let generation = self.get(&path).await.etag;
        self.change("PATCH", &path, &generation, patch).await
    }

    async fn vault(&self) -> Value {
        let create = vault_create(&self.dir.path().join("vault"), false);
        let answer = self.post("/v1/vaults", &serde_json::to_value(&create).expect("plain")).await;
        assert_eq!(answer.status, StatusCode::CREATED, "{}", answer.body);
        answer.body
    }
}

/// Every error is a problem document that agrees with its status.
fn problem(answer: &Answer, status: u16, code: &str) {
    assert_eq!(answer.status.as_u16(), status, "{}", answer.body);
    assert_eq!(answer.content_type, "application/problem+json");
    assert_eq!(answer.body["status"], status);
    assert_eq!(answer.body["code"], code);
    assert_eq!(answer.body["type"], format!("urn:lifeboat:problem:{code}"));
    assert!(answer.body["detail"].as_str().is_some_and(|detail| !detail.is_empty()));
}

/// It is refused with this code, under this field.
#[track_caller]
fn blamed(answer: &Answer, status: u16, code: &str, field: &str) {
    problem(answer, status, code);
    assert_eq!(answer.body["errors"][0]["field"], field, "{}", answer.body);
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_are_counted_by_address_and_told_to_wait() {
    let api = Api::start().await;
    api.vault().await;
    let ask = async |address: [u8; 4], token: &str| {
        let request = Request::builder().uri("/v1/status").header("authorization", format!("Bearer {token}"));
        let mut request = request.body(Body::empty()).expect("sound");
        request.extensions_mut().insert(super::listen::Peer { address: (address, 4711).into(), is_here: false });
        api.send(request).await.status.as_u16()
    };
    let mut codes = vec![ask([192, 0, 2, 1], "guess").await];
    let (strangers, now) = (&api.gateway.context.gate.strangers, std::time::Instant::now());
    while strangers.knocked(Some([192, 0, 2, 1].into()), now) < super::audited::STRANGERS_MAX - 10 {}
    for _ in 0..20 {
        codes.push(ask([192, 0, 2, 1], "guess").await);
    }
    assert_eq!(codes.iter().filter(|code| **code == 401).count(), 11);
    assert_eq!(codes.last(), Some(&429));
    assert_eq!(ask([192, 0, 2, 2], "guess").await, 401, "another address");
    assert_eq!(ask([192, 0, 2, 1], &api.token).await, 200, "who has a token is let in all the same");
    let told = eventually("it is written down", async || {
        let found = api.get("/v1/audit").await.body["items"].clone();
        let of = |record: &&Value| record["kind"] == "refused" && record["from"] == "192.0.2.1";
        let told: Vec<Value> = found.as_array().expect("a page").iter().filter(of).cloned().collect();
        (told.len() == 1).then_some(told)
    })
    .await;
    assert!(told[0]["detail"].as_str().is_some_and(|detail| detail.starts_with("1 in this minute")), "{told:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_route_but_four_needs_the_token() {
    let api = Api::start().await;
    let paths = operations().map(|operation| {
        (operation.method.to_uppercase(), operation.path.replace("{id}", "x").replace("{point}", "y"))
    });
    let strays = [("GET", "/v1"), ("GET", "/v1/nothing"), ("DELETE", "/v1/vaults"), ("OPTIONS", "/v1/sites")];
    for (method, path) in paths.chain(strays.map(|(method, path)| (method.to_owned(), path.to_owned()))) {
        for token in [None, Some("Bearer wrong"), Some("Basic x")] {
            let mut request = Request::builder().method(method.as_str()).uri(&path);
            if let Some(token) = token {
                request = request.header("authorization", token);
            }
            let answer = api.send(request.body(Body::empty()).expect("sound")).await;
            if matches!(path.as_str(), "/livez" | "/readyz" | "/v1/enrolments" | "/v1/gateway-enrolments") {
                assert_ne!(answer.status, StatusCode::UNAUTHORIZED, "{path}");
            } else {
                problem(&answer, 401, "unauthorized");
            }
        }
    }
    api.gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_operation_described_is_served_and_nothing_panics_on_it() {
    let api = Api::start().await;
    for operation in operations() {
        let path = operation.path.replace("{id}", "x");
        let request = api.request(&operation.method.to_uppercase(), &path).header("if-match", "\"1\"");
        let answer = api.send(request.body(Body::from("{}")).expect("sound")).await;
        assert_ne!(answer.status, StatusCode::METHOD_NOT_ALLOWED, "{} {path}", operation.method);
        assert!(!answer.status.is_server_error(), "{} {path}: {}", operation.method, answer.body);
        if answer.status.is_client_error() {
            assert_eq!(answer.content_type, "application/problem+json", "{} {path}", operation.method);
        }
    }
    api.gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_served_is_refused_as_a_problem() {
    let api = Api::start().await;
    problem(&api.get("/v2/vaults").await, 404, "not-found");
    problem(&api.get("/v1/sites/site-00000000000000000000000000000000").await, 404, "not-found");
    problem(
        &api.send(api.request("PUT", "/v1/sites").body(Body::empty()).expect("sound")).await,
        405,
        "method-not-allowed",
    );
    problem(&api.get("/v1/sites?colour=red").await, 400, "malformed");
    problem(&api.get("/v1/jobs?state=odd").await, 400, "malformed");
    let raw = |body: &'static str| Body::from(body);
    problem(&api.send(api.request("POST", "/v1/sites").body(raw("{")).expect("sound")).await, 400, "malformed");
    problem(&api.send(api.request("POST", "/v1/sites").body(raw("[]")).expect("sound")).await, 400, "malformed");
    let form = Request::builder()
        .method(Method::POST)
        .uri("/v1/sites")
        .header("authorization", format!("Bearer {}", api.token))
        .header("content-type", "application/x-www-form-urlencoded");
    problem(&api.send(form.body(raw("a=b")).expect("sound")).await, 415, "unsupported-media-type");
    let huge = format!("{{\"name\": \"{}\"}}", "x".repeat(1 << 20));
    let answer = api.send(api.request("POST", "/v1/sites").body(Body::from(huge)).expect("sound")).await;
    problem(&answer, 413, "too-large");
    api.gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_field_at_fault_is_named() {
    let api = Api::start().await;
    let vault = api.vault().await;
    let post = async |body: Value| {
        let answer = api.post("/v1/policies", &body).await;
        problem(&answer, 422, "invalid");
        answer.body["errors"][0]["field"].as_str().expect("a field").to_owned()
    };
    let policy = |change: &dyn Fn(&mut Value)| {
        let mut body = json!({
            "vault_id": vault["id"], "name": "gold", "retention": [{"every": "all", "for": "1h"}],
        });
        change(&mut body);
        body
    };
    assert_eq!(post(policy(&|body| body["retention"][0]["for"] = json!("soon"))).await, "retention[0].for");
    assert_eq!(post(policy(&|body| body["retention"][0]["for"] = json!(5))).await, "retention[0].for");
    assert_eq!(post(policy(&|body| body["colour"] = json!("red"))).await, "colour");
    assert_eq!(post(policy(&|body| body["retention"][0]["until"] = json!("1h"))).await, "retention[0].until");
    assert_eq!(post(policy(&|body| drop(body.as_object_mut().expect("object").remove("name")))).await, "name");
    assert_eq!(post(policy(&|body| body["vault_id"] = json!("vlt-1"))).await, "vault_id");
    assert_eq!(
        post(policy(&|body| body["vault_id"] = json!("vlt-00000000000000000000000000000000"))).await,
        "vault_id"
    );
    let wrong = json!({"vault_id": vault["id"], "site_id": "site-00000000000000000000000000000000",
        "policy_id": "pol-00000000000000000000000000000000", "name": "g"});
    let answer = api.post("/v1/groups", &wrong).await;
    problem(&answer, 422, "invalid");
    assert_eq!(answer.body["errors"][0]["field"], "site_id");
    api.gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_needs_the_etag_that_was_read() {
    let api = Api::start().await;
    let vault = api.vault().await;
    let site = api.post("/v1/sites", &json!({"vault_id": vault["id"], "name": "east"})).await;
    assert_eq!((site.status, site.etag.as_str()), (StatusCode::CREATED, "\"1\""));
    let path = format!("/v1/sites/{}", site.body["id"].as_str().expect("id"));
    let patch = json!({"description": "by the sea"});
    let without = api.send(api.request("PATCH", &path).body(Body::from(patch.to_string())).expect("sound")).await;
    problem(&without, 428, "precondition-required");
    problem(&api.change("PATCH", &path, "\"2\"", &patch).await, 412, "precondition-failed");
    for none in ["*", "1", ""] {
        problem(&api.change("PATCH", &path, none, &patch).await, 400, "malformed");
    }
    let changed = api.change("PATCH", &path, "\"1\"", &patch).await;
    assert_eq!((changed.status, changed.etag.as_str()), (StatusCode::OK, "\"2\""));
    assert_eq!(changed.body["spec"]["description"], "by the sea");
    let same = api.change("PATCH", &path, "\"2\"", &patch).await;
    assert_eq!(same.etag, "\"2\"", "a change that changes nothing isn't one");
    let renamed = api.change("PATCH", &path, "\"2\"", &json!({"name": "west"})).await;
    problem(&renamed, 422, "invalid");
    assert_eq!(renamed.body["errors"][0]["field"], "name");
    let cleared = api.change("PATCH", &path, "\"2\"", &json!({"description": null})).await;
    assert_eq!(cleared.body["spec"]["description"], Value::Null);
    problem(&api.change("DELETE", &path, "\"2\"", &json!({})).await, 412, "precondition-failed");
    assert_eq!(api.change("DELETE", &path, "\"3\"", &json!({})).await.status, StatusCode::NO_CONTENT);
    problem(&api.get(&path).await, 404, "not-found");
    api.gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idempotency_key_acts_once() {
    let api = Api::start().await;
    let vault = api.vault().await;
    let site = json!({"vault_id": vault["id"], "name": "east"});
    let post = async |key: &str, body: &Value| {
        let request = api.request("POST", "/v1/sites").header("idempotency-key", key);
        api.send(request.body(Body::from(body.to_string())).expect("sound")).await
    };
    let first = post("one", &site).await;
    let again = post("one", &site).await;
    assert_eq!((first.status, again.status), (StatusCode::CREATED, StatusCode::CREATED));
    assert_eq!(first.body["id"], again.body["id"]);
    problem(&post("one", &json!({"vault_id": vault["id"], "name": "other"})).await, 409, "conflict");
    let taken = post("two", &site).await;
    problem(&taken, 409, "conflict");
    assert_eq!(taken.body["errors"][0]["field"], "name");
    problem(&post("", &site).await, 400, "malformed");
    let vaults = vault_create(&api.dir.path().join("vault"), false);
    let again = api.post("/v1/vaults", &serde_json::to_value(&vaults).expect("plain")).await;
    problem(&again, 409, "conflict");
    api.gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_in_use_cannot_be_deleted_and_says_by_whom() {
    let api = Api::start().await;
    let vault = api.vault().await;
    let path = format!("/v1/vaults/{}", vault["id"].as_str().expect("id"));
    let site = api.post("/v1/sites", &json!({"vault_id": vault["id"], "name": "east"})).await.body;
    let refused = api.change("DELETE", &path, "\"1\"", &json!({})).await;
    problem(&refused, 409, "conflict");
    assert_eq!(refused.body["blockers"][0], format!("site east ({})", site["id"].as_str().expect("id")));
    let gateway = api.post("/v1/gateways", &json!({"site_id": site["id"], "name": "elsewhere"})).await.body;
    let mut policy =
        serde_json::to_value(policy_spec(&serde_json::from_value(vault.clone()).expect("vault"))).expect("plain");
    policy["name"] = json!("p");
    let policy = api.post("/v1/policies", &policy).await.body;
    let volume = json!({"name": "db", "gateway_id": gateway["id"], "size_bytes": 1 << 20, "policy_id": policy["id"]});
    let volume = api.post("/v1/volumes", &volume).await;
    assert_eq!(volume.body["status"]["state"], "pending");
    let reasons = volume.body["status"]["reasons"].to_string();
    assert!(reasons.contains("elsewhere") && reasons.contains("has not registered"), "{reasons}");
    for (collection, object) in [("sites", &site), ("gateways", &gateway), ("policies", &policy)] {
        let item = format!("/v1/{collection}/{}", object["id"].as_str().expect("id"));
        let refused = api.change("DELETE", &item, "\"1\"", &json!({})).await;
        problem(&refused, 409, "conflict");
        assert!(!refused.body["blockers"].as_array().expect("list").is_empty(), "{item}");
    }
    for (collection, object) in
        [("volumes", &volume.body), ("policies", &policy), ("gateways", &gateway), ("sites", &site)]
    {
        let item = format!("/v1/{collection}/{}", object["id"].as_str().expect("id"));
        assert_eq!(api.change("DELETE", &item, "\"1\"", &json!({})).await.status, StatusCode::NO_CONTENT, "{item}");
    }
    assert_eq!(api.change("DELETE", &path, "\"1\"", &json!({})).await.status, StatusCode::NO_CONTENT);
    // Detached, not destroyed.
    let mut attach = serde_json::to_value(vault_create(&api.dir.path().join("vault"), true)).expect("plain");
    attach["encryption"]["passphrase"] = json!("not the passphrase");
    let wrong = api.post("/v1/vaults", &attach).await;
    problem(&wrong, 422, "invalid");
    assert_eq!(wrong.body["errors"][0]["field"], "encryption");
    attach["encryption"]["passphrase"] = json!("canary-correct-horse");
    let back = api.post("/v1/vaults", &attach).await;
    assert_eq!((back.status, &back.body["id"]), (StatusCode::CREATED, &vault["id"]));
    api.gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_is_ever_shown() {
    let api = Api::start().await;
    let vault = api.vault().await;
    let mut seen = vault.to_string();
    for path in ["/v1/vaults", "/v1/status", "/v1/events", "/readyz", "/metrics"] {
        let answer = api.get(path).await;
        assert_eq!(answer.status, StatusCode::OK);
        seen.push_str(&answer.body.to_string());
    }
    assert!(seen.contains("lifeboat_"), "the metrics are there");
    assert!(!seen.contains("canary") && !seen.contains(&api.token));
    let mut stack = vec![api.dir.path().join("vault")];
    while let Some(path) = stack.pop() {
        if path.is_dir() {
            stack.extend(std::fs::read_dir(&path).expect("readable").flatten().map(|entry| entry.path()));
        } else {
            let bytes = std::fs::read(&path).expect("readable");
            assert!(!bytes.windows(6).any(|window| window == b"canary"), "{}", path.display());
        }
    }
    api.gateway.stop().await;
}

/// `LIFEBOAT_BLESS=1` writes the document anew.
#[test]
fn the_description_in_the_repository_is_up_to_date() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/api/openapi-v1.json");
    let text = format!("{}\n", serde_json::to_string_pretty(&document()).expect("plain"));
    if std::env::var_os("LIFEBOAT_BLESS").is_some() {
        std::fs::create_dir_all(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/api")).expect("made");
        std::fs::write(path, &text).expect("written");
    }
    let found = std::fs::read_to_string(path).unwrap_or_default();
    assert!(found == text, "docs/api/openapi-v1.json is out of date: run the tests with LIFEBOAT_BLESS=1");
}

#[test]
fn every_reference_in_the_description_is_resolved() {
    fn references<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
        match value {
            Value::Object(fields) => fields.iter().for_each(|(name, value)| match value.as_str() {
                Some(text) if name == "$ref" => found.push(text),
                _ => references(value, found),
            }),
            Value::Array(items) => items.iter().for_each(|item| references(item, found)),
            _ => {}
        }
    }
    let document = document();
    let mut found = Vec::new();
    references(&document, &mut found);
    assert!(found.len() > 50);
    for reference in found {
        let pointer = reference.trim_start_matches('#');
        assert!(document.pointer(pointer).is_some(), "{reference} leads nowhere");
    }
}
