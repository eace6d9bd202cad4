//! The life of a token, and that its secret is in one answer and nowhere else.

use axum::body::Body;
use http::{Request, StatusCode};
use lifeboat_api::Role;
use serde_json::{Value, json};

use super::{Answer, Api, blamed, problem};
use crate::Gateway;
use crate::testing::{client, config, eventually, vault_create};

impl Api {
    /// Asks as the holder of this token.
    async fn by(&self, token: &str, method: &str, path: &str, body: &Value) -> Answer {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("authorization", format!("Bearer {token}"))
            .header("content-type", "application/json")
            .header("if-match", "\"1\"");
        let body = if method == "GET" { Body::empty() } else { Body::from(body.to_string()) };
        self.send(request.body(body).expect("sound")).await
    }

    async fn status_of(&self, token: &str) -> u16 {
        self.by(token, "GET", "/v1/whoami", &json!({})).await.status.as_u16()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_says_who_it_is_and_is_shown_without_its_secret() {
    let api = Api::start().await;
    let body = json!({"name": "ci", "roles": ["operator", "recovery"], "ttl": "2h"});
    problem(&api.post("/v1/tokens", &body).await, 409, "conflict");
    let vault = api.vault().await;
    let made = api.post("/v1/tokens", &body).await;
    assert_eq!((made.status, made.etag.as_str()), (StatusCode::CREATED, "\"1\""), "{}", made.body);
    let secret = made.body["secret"].as_str().expect("a secret").to_owned();
    let token = &made.body["token"];
    assert_eq!((&token["spec"]["vault_id"], &token["spec"]["roles"]), (&vault["id"], &json!(["operator", "recovery"])));
    assert_eq!(token["status"]["created_by"], json!({"kind": "administrator", "id": null, "name": "a"}));

    let who = api.by(&secret, "GET", "/v1/whoami", &json!({})).await.body;
    assert_eq!(who["principal"], json!({"kind": "token", "id": token["id"], "name": "ci"}));
    assert_eq!((&who["roles"], &who["expires"]), (&token["spec"]["roles"], &token["status"]["expires"]));
    assert_eq!(who["gateway"], "a");
    let admin = api.get("/v1/whoami").await.body;
    assert_eq!(admin["roles"], json!(Role::ALL));

    // That it was used is written down, beside the request.
    let path = format!("/v1/tokens/{}", token["id"].as_str().expect("id"));
    eventually("its use is noted", async || {
        let seen = api.get(&path).await;
        assert_eq!(seen.etag, "\"1\"", "what is noted changes nothing that anybody declared");
        (!seen.body["status"]["last_used"].is_null()).then_some(())
    })
    .await;

    let mut seen = api.get(&path).await.body.to_string();
    for path in ["/v1/tokens", "/v1/events", "/v1/status", "/v1/openapi.json"] {
        seen.push_str(&api.get(path).await.body.to_string());
    }
    assert!(seen.contains("made the token ci"), "it is an event");
    let hash = crate::auth::hash(&secret).iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    assert!(!seen.contains(&secret) && !seen.contains(&hash));
    let part = secret.splitn(3, '_').nth(2).expect("the secret part").as_bytes().to_owned();
    let mut stack = vec![api.dir.path().to_owned()];
    while let Some(path) = stack.pop() {
        if path.is_dir() {
            stack.extend(std::fs::read_dir(&path).expect("readable").flatten().map(|entry| entry.path()));
        } else if path.is_file() {
            let bytes = std::fs::read(&path).expect("readable");
            assert!(!bytes.windows(part.len()).any(|window| window == part), "{}", path.display());
        }
    }
    api.gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_raises_their_own_roles() {
    let api = Api::start().await;
    api.vault().await;
    for role in [Role::Reader, Role::Operator, Role::Recovery] {
        let (token, id) = api.token("plain", &[role]).await;
        for (method, path, body) in [
            ("POST", "/v1/tokens".to_owned(), json!({"name": "more", "roles": Role::ALL})),
            ("POST", format!("/v1/tokens/{id}:rotate"), json!({})),
            ("POST", format!("/v1/tokens/{id}:renew"), json!({"ttl": "1d"})),
            ("DELETE", format!("/v1/tokens/{id}"), json!({})),
        ] {
            problem(&api.by(&token, method, &path, &body).await, 403, "forbidden");
        }
        problem(
            &api.by(&token, "PATCH", &format!("/v1/tokens/{id}"), &json!({"roles": Role::ALL})).await,
            405,
            "method-not-allowed",
        );
    }
    for (wrong, field) in [
        (json!({"name": "x", "roles": []}), "roles"),
        (json!({"name": "x", "roles": ["god"]}), "roles[0]"),
        (json!({"name": "x", "roles": ["reader", "reader"]}), "roles[1]"),
        (json!({"name": "", "roles": ["reader"]}), "name"),
        (json!({"name": "x", "roles": ["reader"], "ttl": "1s"}), "ttl"),
        (json!({"name": "x", "roles": ["reader"], "secret": "mine"}), "secret"),
        (json!({"name": "x", "roles": ["reader"], "vault_id": "vlt-00000000000000000000000000000000"}), "vault_id"),
    ] {
        blamed(&api.post("/v1/tokens", &wrong).await, 422, "invalid", field);
    }
    api.gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_request_never_loses_a_secret_silently() {
    let api = Api::start().await;
    api.vault().await;
    let body = json!({"name": "ci", "roles": ["reader"]});
    let post = async || {
        let request = api.request("POST", "/v1/tokens").header("idempotency-key", "one");
        api.send(request.body(Body::from(body.to_string())).expect("sound")).await
    };
    let first = post().await;
    assert_eq!(first.status, StatusCode::CREATED);
    let id = first.body["token"]["id"].as_str().expect("id");
    let again = post().await;
    problem(&again, 409, "conflict");
    let detail = again.body["detail"].as_str().expect("a sentence");
    assert!(detail.contains(&format!("lifeboat token rotate {id}")), "{detail}");
    assert_eq!(api.get("/v1/tokens").await.body["items"].as_array().map(Vec::len), Some(1));
    assert_eq!(api.status_of(first.body["secret"].as_str().expect("a secret")).await, 200);
    let path = format!("/v1/tokens/{id}");
    assert_eq!(api.change("DELETE", &path, "\"1\"", &json!({})).await.status, StatusCode::NO_CONTENT);
    let after = post().await;
    problem(&after, 409, "conflict");
    assert!(after.body["detail"].as_str().expect("a sentence").contains("use a new key"));
    api.gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotation_leaves_the_old_secret_its_grace_and_an_expired_token_dead() {
    let api = Api::start().await;
    api.vault().await;
    let (first, id) = api.token("ci", &[Role::Reader]).await;
    let rotate = async |body: Value| api.post(&format!("/v1/tokens/{id}:rotate"), &body).await;
    let second = rotate(json!({})).await;
    assert_eq!(second.status, StatusCode::OK, "{}", second.body);
    let secrets = second.body["token"]["status"]["secrets"].as_array().expect("a list").clone();
    assert_eq!((secrets.len(), secrets[0]["ends"].is_null(), secrets[1]["ends"].is_null()), (2, true, false));
    let second = second.body["secret"].as_str().expect("a secret").to_owned();
    assert_eq!((api.status_of(&first).await, api.status_of(&second).await), (200, 200));
    let third = rotate(json!({"grace": "0s"})).await.body;
    let third = third["secret"].as_str().expect("a secret").to_owned();
    assert_eq!(
        (api.status_of(&first).await, api.status_of(&second).await, api.status_of(&third).await),
        (401, 401, 200)
    );
    for turn in 1..8 {
        assert_eq!(rotate(json!({"grace": "1d"})).await.status, StatusCode::OK, "{turn}");
    }
    problem(&rotate(json!({"grace": "1d"})).await, 409, "conflict");
    assert_eq!(rotate(json!({"grace": "0s"})).await.status, StatusCode::OK);
    blamed(&rotate(json!({"grace": "31d"})).await, 422, "invalid", "grace");

    let renewed = api.post(&format!("/v1/tokens/{id}:renew"), &json!({"ttl": "1h"})).await;
    assert!(renewed.status == StatusCode::OK && !renewed.body["status"]["expires"].is_null(), "{}", renewed.body);
    api.expire(&id).await;
    problem(&rotate(json!({})).await, 409, "conflict");
    problem(&api.post(&format!("/v1/tokens/{id}:renew"), &json!({"ttl": "1h"})).await, 409, "conflict");
    assert_eq!(api.get(&format!("/v1/tokens/{id}")).await.body["status"]["expired"], true);
    api.gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_holds_at_every_gateway_of_its_vault_and_so_does_its_end() {
    let api = Api::start().await;
    api.vault().await;
    let (token, id) = api.token("ci", &[Role::Reader]).await;
    let b = Gateway::start(config(&api.dir.path().join("b"), "b", "west")).await.expect("starts");
    let there = Api { token: String::new(), gateway: b, dir: tempfile::tempdir().expect("tempdir") };
    assert_eq!(there.status_of(&token).await, 401, "it knows no vault yet");
    client(&there.gateway).create_vault(&vault_create(&api.dir.path().join("vault"), true)).await.expect("attached");
    let who = there.by(&token, "GET", "/v1/whoami", &json!({})).await;
    assert_eq!((who.status, &who.body["gateway"]), (StatusCode::OK, &json!("b")), "{}", who.body);

    let path = format!("/v1/tokens/{id}");
    assert_eq!(api.change("DELETE", &path, "\"1\"", &json!({})).await.status, StatusCode::NO_CONTENT);
    assert_eq!(api.status_of(&token).await, 401, "at once where it was asked for");
    eventually("revoked there too", async || (there.status_of(&token).await == 401).then_some(())).await;

    // A gateway that starts while its vault is away can't know its tokens, and says so instead of calling them wrong.
    let (token, _) = api.token("later", &[Role::Reader]).await;
    there.gateway.stop().await;
    let (vault, away) = (api.dir.path().join("vault"), api.dir.path().join("away"));
    std::fs::rename(&vault, &away).expect("renamed");
    let b = Gateway::start(config(&api.dir.path().join("b"), "b", "west")).await.expect("starts");
    let there = Api { token: String::new(), gateway: b, dir: tempfile::tempdir().expect("tempdir") };
    problem(&there.by(&token, "GET", "/v1/whoami", &json!({})).await, 503, "unavailable");
    assert_eq!(there.status_of("lbt_nonsense").await, 401);
    std::fs::rename(&away, &vault).expect("renamed");
    eventually("known again", async || (there.status_of(&token).await == 200).then_some(())).await;
    there.gateway.stop().await;
    api.gateway.stop().await;
}
