//! What destroys needs a second person where a vault says so, once for each act; and what an immutable vault lets nobody do.

use axum::body::Body;
use http::{Request, StatusCode};
use serde_json::{Value, json};

use super::{Answer, Api, blamed, problem};
use crate::testing::policy_spec;

impl Api {
    /// Asks as the holder of this token, about an object as it is now.
    async fn ask(&self, token: &str, method: &str, path: &str, body: &Value) -> Answer {
        let object = path.rsplit_once(':').filter(|(_, verb)| !verb.contains('/')).map_or(path, |(object, _)| object);
        let etag = self.get(object).await.etag;
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("authorization", format!("Bearer {token}"))
            .header("content-type", "application/json")
            .header("if-match", etag);
        self.send(request.body(Body::from(body.to_string())).expect("sound")).await
    }

    /// Makes a token and gives its secret and its path.
    async fn person(&self, name: &str, role: &str) -> (String, String) {
        let made = self.post("/v1/tokens", &json!({"name": name, "roles": [role]})).await;
        assert_eq!(made.status, StatusCode::CREATED, "{}", made.body);
        let id = made.body["token"]["id"].as_str().expect("id");
        (made.body["secret"].as_str().expect("a secret").to_owned(), format!("/v1/tokens/{id}"))
    }
}

/// The approval that a refusal names.
#[track_caller]
fn needed(answer: &Answer) -> String {
    problem(answer, 409, "approval-required");
    format!("/v1/approvals/{}", answer.body["approval"].as_str().expect("an approval"))
}

struct World {
    api: Api,
    vault: String,
    policy: String,
    ci: String,
    bob: String,
    bobs: String,
}

/// A vault with a policy, an operator and a second security administrator, that wants approvals.
async fn guarded() -> World {
    let api = Api::start().await;
    let vault = api.vault().await;
    let path = format!("/v1/vaults/{}", vault["id"].as_str().expect("id"));
    let on = json!({"second_approval": true});
    blamed(&api.patch("vaults", &vault, &on).await, 422, "invalid", "second_approval");
    let (bob, bobs) = api.person("bob", "security_administrator").await;
    let (ci, _) = api.person("ci", "operator").await;
    let policy = policy_spec(&serde_json::from_value(vault.clone()).expect("a vault"));
    let policy = api.declare("/v1/policies", &serde_json::to_value(&policy).expect("plain")).await;
    let policy = format!("/v1/policies/{}", policy["id"].as_str().expect("id"));
    assert_eq!(api.patch("vaults", &vault, &on).await.status, StatusCode::OK);
    World { api, vault: path, policy, ci, bob, bobs }
}

fn keeping(time: &str) -> Value {
    json!({"retention": [{"every": "all", "for": time}]})
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_person_approves_exactly_one_act() {
    let World { api, policy, ci, bob, .. } = guarded().await;
    let cut = async |time: &str| api.ask(&ci, "PATCH", &policy, &keeping(time)).await;
    // Keeping more is nobody else's business.
    assert_eq!(cut("48h").await.status, StatusCode::OK);
    let refused = cut("1h").await;
    let approval = needed(&refused);
    let detail = refused.body["detail"].as_str().expect("a sentence");
    assert!(detail.contains("1h") && detail.contains("48h") && detail.contains("approval approve apr-"), "{detail}");
    assert_eq!(needed(&cut("1h").await), approval, "asked again, it is the same");
    let shown = api.get(&approval).await.body;
    assert_eq!((&shown["status"]["state"], &shown["spec"]["requested_by"]["name"]), (&json!("pending"), &json!("ci")));
    assert_eq!(api.get(&policy).await.body["spec"]["retention"][0]["for"], "48h", "nothing was done");

    // Not by who asked, and not without the role.
    let approve = format!("{approval}:approve");
    problem(&api.ask(&ci, "POST", &approve, &json!({})).await, 403, "forbidden");
    blamed(&api.ask(&bob, "POST", &approve, &json!({"comment": "x".repeat(300)})).await, 422, "invalid", "comment");
    let approved = api.ask(&bob, "POST", &approve, &json!({"comment": "storage is full"})).await;
    assert_eq!((approved.status, &approved.body["status"]["state"]), (StatusCode::OK, &json!("approved")));
    assert_eq!(api.ask(&bob, "POST", &approve, &json!({})).await.status, StatusCode::OK, "said again");
    problem(&api.ask(&bob, "POST", &format!("{approval}:reject"), &json!({})).await, 409, "conflict");
    problem(&api.ask(&bob, "POST", &format!("{approval}:shred"), &json!({})).await, 404, "not-found");

    // Another act, and another person's, isn't approved by it.
    let other = needed(&cut("2h").await);
    assert_ne!(other, approval);
    assert_ne!(needed(&api.ask(&api.token, "PATCH", &policy, &keeping("1h")).await), approval);
    assert_eq!(cut("1h").await.status, StatusCode::OK);
    assert_eq!(api.get(&approval).await.body["status"]["state"], "used");
    assert_eq!(cut("48h").await.status, StatusCode::OK);
    assert_ne!(needed(&cut("1h").await), approval, "an approval is for one time");

    let rejected = api.ask(&bob, "POST", &format!("{other}:reject"), &json!({"comment": "too short"})).await;
    assert_eq!(rejected.body["status"]["state"], "rejected");
    let refused = cut("2h").await;
    problem(&refused, 409, "conflict");
    assert!(refused.body["detail"].as_str().is_some_and(|detail| detail.contains("too short")), "{}", refused.body);
    let mine = needed(&cut("3h").await);
    let taken = api.ask(&bob, "POST", &format!("{mine}:reject"), &json!({})).await;
    assert_eq!(taken.status, StatusCode::OK);

    let log = api.get("/v1/audit").await.body["items"].clone();
    let approved = |record: &&Value| record["kind"] == "approved";
    let found: Vec<&Value> = log.as_array().expect("a page").iter().filter(approved).collect();
    assert!(
        matches!(found[..], [one] if one["who"]["name"] == "ci"
        && one["detail"].as_str().is_some_and(|detail| detail.contains("the token bob"))),
        "{found:?}"
    );
    api.gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_requests_at_once_one_uses_an_approval_up() {
    let World { api, bob, .. } = guarded().await;
    let body = json!({"name": "carol", "roles": ["security_administrator"]});
    let approval = needed(&api.post("/v1/tokens", &body).await);
    assert_eq!(api.ask(&bob, "POST", &format!("{approval}:approve"), &json!({})).await.status, StatusCode::OK);
    let answers = futures::future::join_all((0..8).map(|_| api.post("/v1/tokens", &body))).await;
    let made = answers.iter().filter(|answer| answer.status == StatusCode::CREATED).count();
    assert_eq!(made, 1, "{:?}", answers.iter().map(|answer| &answer.body).collect::<Vec<_>>());
    api.gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_that_destroys_asks_and_nothing_else_does() {
    let World { api, vault, policy, ci, bob, bobs } = guarded().await;
    let vault_id = vault.rsplit('/').next().expect("an id").to_owned();
    let policy_id = policy.rsplit('/').next().expect("an id").to_owned();
    let site = api.declare("/v1/sites", &json!({"vault_id": vault_id, "name": "east"})).await;
    let gateway = api.declare("/v1/gateways", &json!({"site_id": site["id"], "name": "elsewhere"})).await;
    let volume = json!({
        "name": "db", "gateway_id": gateway["id"], "size_bytes": 16 << 20, "policy_id": policy_id,
    });
    let volume = api.declare("/v1/volumes", &volume).await;
    let volume = format!("/v1/volumes/{}", volume["id"].as_str().expect("id"));
    let group = json!({"vault_id": vault_id, "site_id": site["id"], "name": "shop", "policy_id": policy_id});
    let group = api.declare("/v1/groups", &group).await;
    let group = format!("/v1/groups/{}", group["id"].as_str().expect("id"));
    let less = json!({
        "vault_id": vault_id, "name": "less", "recovery_point_interval": "1s", "retention": [{"every": "all", "for": "1h"}],
    });
    let less = api.declare("/v1/policies", &less).await["id"].clone();
    let admin = api.token.clone();
    let key = json!({"key": {"key_source": "passphrase", "passphrase": "another passphrase"}});
    let point = format!("{group}/points/pt-0198f2c0000070008000000000000001:unpin");
    for (who, method, path, body) in [
        (&ci, "DELETE", volume.as_str(), json!({})),
        (&ci, "DELETE", group.as_str(), json!({})),
        (&ci, "PATCH", policy.as_str(), keeping("1h")),
        (&ci, "PATCH", group.as_str(), json!({"policy_id": less})),
        (&ci, "PATCH", volume.as_str(), json!({"policy_id": less})),
        (&ci, "POST", point.as_str(), json!({})),
        (&admin, "PATCH", vault.as_str(), json!({"soft_delete_days": 1})),
        (&admin, "PATCH", vault.as_str(), json!({"second_approval": false})),
        (&bob, "PATCH", vault.as_str(), json!({"second_approval": false})),
        (&admin, "POST", &format!("{vault}:add-key"), key),
        (&admin, "POST", &format!("{vault}:remove-key"), json!({"slot": 1})),
        (&admin, "POST", &format!("{vault}:rotate-key"), json!({"from": 1, "drop_others": true})),
        (&admin, "POST", &format!("{volume}:erase"), json!({"confirm": "db", "force": true})),
        (&admin, "POST", "/v1/tokens", json!({"name": "me too", "roles": ["reader", "security_administrator"]})),
        (&admin, "POST", &format!("{bobs}:rotate"), json!({"grace": "0s"})),
    ] {
        let before = api.get("/v1/approvals").await.body["items"].as_array().map(Vec::len);
        let approval = needed(&api.ask(who, method, path, &body).await);
        let shown = api.get(&approval).await.body;
        let act = shown["spec"]["act"].as_str().expect("an act");
        let path = path.split(':').next().expect("a path");
        assert!(act.starts_with(&format!("{method} {path}")), "{act} for {method} {path}");
        assert!(api.get("/v1/approvals").await.body["items"].as_array().map(Vec::len) > before);
    }
    for (who, method, path, body) in [
        (&ci, "PATCH", policy.as_str(), keeping("30h")),
        (&ci, "PATCH", group.as_str(), json!({"policy_id": policy_id})),
        (&admin, "PATCH", vault.as_str(), json!({"soft_delete_days": 20})),
        (&admin, "POST", "/v1/tokens", json!({"name": "viewer", "roles": ["reader", "operator", "recovery"]})),
        (&bob, "POST", &format!("{bobs}:rotate"), json!({"grace": "1h"})),
        (&admin, "POST", &format!("{vault}:rotate-key"), json!({"from": 1})),
    ] {
        let answer = api.ask(who, method, path, &body).await;
        assert!(answer.status.is_success(), "{method} {path}: {}", answer.body);
    }
    // Detaching comes last: everything else has to be gone before.
    assert_eq!(api.get(&volume).await.status, StatusCode::OK, "nothing was done");
    api.gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vault_that_wants_no_approvals_asks_for_none_and_an_empty_one_is_detached_with_one() {
    let api = Api::start().await;
    let vault = api.vault().await;
    let (bob, _) = api.person("bob", "security_administrator").await;
    let path = format!("/v1/vaults/{}", vault["id"].as_str().expect("id"));
    assert_eq!(api.patch("vaults", &vault, &json!({"soft_delete_days": 1})).await.status, StatusCode::OK);
    assert_eq!(api.patch("vaults", &vault, &json!({"second_approval": true})).await.status, StatusCode::OK);
    let approval = needed(&api.ask(&api.token, "DELETE", &path, &json!({})).await);
    assert_eq!(api.ask(&bob, "POST", &format!("{approval}:approve"), &json!({})).await.status, StatusCode::OK);
    assert_eq!(api.ask(&api.token, "DELETE", &path, &json!({})).await.status, StatusCode::NO_CONTENT);
    assert_eq!(api.get(&path).await.status, StatusCode::NOT_FOUND);
    api.gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_immutable_vault_keeps_what_it_has_and_a_locked_one_stays_so() {
    let api = Api::start().await;
    let vault = api.vault().await;
    let policy = policy_spec(&serde_json::from_value(vault.clone()).expect("a vault"));
    let policy = api.declare("/v1/policies", &serde_json::to_value(&policy).expect("plain")).await;
    let set = async |mode: &str, days: u32| {
        api.patch("vaults", &vault, &json!({"immutability": {"mode": mode, "days": days}})).await
    };
    blamed(&set("unlocked", 0).await, 422, "invalid", "immutability.days");
    blamed(&set("unlocked", 15).await, 422, "invalid", "soft_delete_days");
    // Its policy keeps points for a day.
    let refused = set("unlocked", 7).await;
    blamed(&refused, 422, "invalid", "immutability");
    assert!(refused.body["detail"].as_str().is_some_and(|detail| detail.contains("gold")), "{}", refused.body);
    assert_eq!(api.patch("policies", &policy, &keeping("8d")).await.status, StatusCode::OK);
    assert_eq!(set("unlocked", 7).await.status, StatusCode::OK);
    blamed(&api.patch("policies", &policy, &keeping("6d")).await, 422, "invalid", "retention");
    assert_eq!(api.patch("policies", &policy, &keeping("7d")).await.status, StatusCode::OK);
    blamed(&api.patch("vaults", &vault, &json!({"soft_delete_days": 6})).await, 422, "invalid", "soft_delete_days");
    assert_eq!(set("unlocked", 3).await.status, StatusCode::OK, "unlocked, it can be shortened");
    assert_eq!(api.patch("vaults", &vault, &json!({"immutability": null})).await.status, StatusCode::OK);
    assert_eq!(set("locked", 3).await.status, StatusCode::OK);
    for weaker in [json!(null), json!({"mode": "locked", "days": 2}), json!({"mode": "unlocked", "days": 7})] {
        let answer = api.patch("vaults", &vault, &json!({"immutability": weaker})).await;
        blamed(&answer, 422, "invalid", "immutability");
    }
    assert_eq!(set("locked", 7).await.status, StatusCode::OK, "longer is possible");

    // Nothing that was there within the days is erased.
    let site = api.declare("/v1/sites", &json!({"vault_id": vault["id"], "name": "east"})).await;
    let gateway = api.declare("/v1/gateways", &json!({"site_id": site["id"], "name": "elsewhere"})).await;
    let body = json!({"name": "db", "gateway_id": gateway["id"], "size_bytes": 16 << 20, "policy_id": policy["id"]});
    let volume = api.declare("/v1/volumes", &body).await;
    let erase = format!("/v1/volumes/{}:erase", volume["id"].as_str().expect("id"));
    let wanted = json!({"confirm": "db", "force": true});
    problem(&api.post(&erase, &wanted).await, 409, "conflict");
    assert_eq!(api.delete("volumes", &volume).await.status, StatusCode::NO_CONTENT);
    let refused = api.post(&erase, &wanted).await;
    problem(&refused, 409, "conflict");
    assert!(refused.body["detail"].as_str().is_some_and(|detail| detail.contains("7 days")), "{}", refused.body);
    api.gateway.stop().await;
}
