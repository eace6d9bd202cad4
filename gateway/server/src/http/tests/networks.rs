//! Networks and mappings: what fits together, what is refused and under which field, what is in the way.

use http::StatusCode;
use serde_json::{Value, json};

use super::{Api, blamed, problem};

struct Sites {
    api: Api,
    east: Value,
    west: Value,
}

async fn two_sites() -> Sites {
    let api = Api::start().await;
    let vault = api.vault().await;
    let east = api.declare("/v1/sites", &json!({"vault_id": vault["id"], "name": "east"})).await;
    let west = api.declare("/v1/sites", &json!({"vault_id": vault["id"], "name": "west"})).await;
    Sites { api, east, west }
}

fn network(site: &Value, name: &str, subnets: &[(&str, &str)]) -> Value {
    let subnet: Vec<Value> = subnets.iter().map(|(name, cidr)| json!({"name": name, "cidr": cidr})).collect();
    json!({"site_id": site["id"], "name": name, "subnet": subnet})
}

#[tokio::test(flavor = "multi_thread")]
async fn a_networks_name_is_its_own_within_its_site() {
    let Sites { api, east, west } = two_sites().await;
    let made = api.declare("/v1/networks", &network(&east, "servers", &[("web", "10.20.0.0/24")])).await;
    assert_eq!(made["status"]["site"], "east");
    assert!(made["id"].as_str().expect("id").starts_with("net-"));
    blamed(&api.post("/v1/networks", &network(&east, "servers", &[])).await, 409, "conflict", "name");
    let other = api.declare("/v1/networks", &network(&west, "servers", &[])).await;
    let second = api.declare("/v1/networks", &network(&east, "guests", &[])).await;
    blamed(&api.patch("networks", &second, &json!({"name": "servers"})).await, 409, "conflict", "name");
    blamed(&api.patch("networks", &second, &json!({"site_id": west["id"]})).await, 422, "invalid", "site_id");
    let overlapping = json!({"subnet": [{"name": "a", "cidr": "10.0.0.0/8"}, {"name": "b", "cidr": "10.1.0.0/16"}]});
    blamed(&api.patch("networks", &second, &overlapping).await, 422, "invalid", "subnet[1].cidr");
    let nowhere = json!({"site_id": "site-00000000000000000000000000000000", "name": "x"});
    blamed(&api.post("/v1/networks", &nowhere).await, 422, "invalid", "site_id");
    // Both of that name are listed, a page at a time.
    let page = api.get("/v1/networks?name=servers&limit=1").await.body;
    let token = page["next_page_token"].as_str().expect("there is more");
    let rest = api.get(&format!("/v1/networks?name=servers&page_token={token}")).await.body;
    let found = [&page["items"][0]["id"], &rest["items"][0]["id"]];
    assert!(found.contains(&&made["id"]) && found.contains(&&other["id"]) && rest.get("next_page_token").is_none());
    let refused = api.delete("sites", &west).await;
    problem(&refused, 409, "conflict");
    assert!(refused.body["blockers"][0].as_str().expect("text").starts_with("network servers (net-"));
    for network in [&made, &other, &second] {
        assert_eq!(api.delete("networks", network).await.status, StatusCode::NO_CONTENT);
    }
    assert_eq!(api.delete("sites", &west).await.status, StatusCode::NO_CONTENT);
    api.gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mapping_has_a_target_for_every_subnet() {
    let Sites { api, east, west } = two_sites().await;
    let subnets = [("web", "10.20.0.0/24"), ("db", "10.20.1.0/24")];
    let source = api.declare("/v1/networks", &network(&east, "servers", &subnets)).await;
    let subnets = [("web", "10.30.0.0/24"), ("data", "10.30.1.0/24")];
    let target = api.declare("/v1/networks", &network(&west, "recovery", &subnets)).await;
    let test = api.declare("/v1/networks", &network(&west, "isolated", &[])).await;
    let beside = api.declare("/v1/networks", &network(&east, "beside", &[])).await;
    let mapping = |change: Value| {
        let mut body = json!({
            "source_network_id": source["id"], "target_network_id": target["id"], "test_network_id": test["id"],
            "subnet": [{"source": "db", "target": "data"}],
        });
        for (name, value) in change.as_object().expect("an object") {
            body[name] = value.clone();
        }
        body
    };
    let post = async |change: Value| api.post("/v1/network-mappings", &mapping(change)).await;
    for (change, field) in [
        (json!({"subnet": []}), "subnet"),
        (json!({"subnet": [{"source": "dbs", "target": "data"}]}), "subnet[0].source"),
        (json!({"subnet": [{"source": "db", "target": "db"}]}), "subnet[0].target"),
        (json!({"target_network_id": beside["id"], "test_network_id": null, "subnet": []}), "target_network_id"),
        (json!({"target_network_id": source["id"]}), "target_network_id"),
        (json!({"test_network_id": beside["id"]}), "test_network_id"),
        (json!({"test_network_id": target["id"]}), "test_network_id"),
        (json!({"source_network_id": "net-00000000000000000000000000000000"}), "source_network_id"),
        (json!({"address_rule": "keep"}), "address_rule"),
    ] {
        blamed(&post(change).await, 422, "invalid", field);
    }
    let made = api.declare("/v1/network-mappings", &mapping(json!({}))).await;
    assert_eq!(made["status"]["name"], "east/servers to west/recovery");
    assert_eq!(made["status"]["target_site_id"], west["id"]);
    assert_eq!(made["spec"]["address_rule"], "keep-or-next-free");
    blamed(&post(json!({})).await, 409, "conflict", "target_network_id");
    let found = api.get("/v1/network-mappings?name=east/servers%20to%20west/recovery").await.body;
    assert_eq!(found["items"][0]["id"], made["id"]);
    assert_eq!(api.get("/v1/networks?name=isolated").await.body["items"][0]["status"]["mapping_ids"][0], made["id"]);

    // Neither end loses what the mapping names, and the networks outlive it.
    let kept = api.patch("networks", &target, &json!({"subnet": [{"name": "web", "cidr": "10.30.0.0/24"}]})).await;
    blamed(&kept, 409, "conflict", "subnet");
    assert!(kept.body["detail"].as_str().expect("text").contains("east/servers to west/recovery"), "{}", kept.body);
    let more = json!({"subnet": [{"name": "web", "cidr": "10.20.0.0/24"}, {"name": "new", "cidr": "10.20.2.0/24"}]});
    blamed(&api.patch("networks", &source, &more).await, 409, "conflict", "subnet");
    for network in [&source, &target, &test] {
        let refused = api.delete("networks", network).await;
        problem(&refused, 409, "conflict");
        let blocker = refused.body["blockers"][0].as_str().expect("text");
        assert!(blocker.starts_with("network mapping east/servers to west/recovery (nmap-"), "{blocker}");
    }
    let changed = api.patch("network-mappings", &made, &json!({"address_rule": "next-free"})).await;
    assert_eq!((changed.status, changed.etag.as_str()), (StatusCode::OK, "\"2\""));
    let moved = json!({"target_network_id": test["id"], "test_network_id": null, "subnet": []});
    blamed(&api.patch("network-mappings", &made, &moved).await, 422, "invalid", "target_network_id");
    assert_eq!(api.delete("network-mappings", &made).await.status, StatusCode::NO_CONTENT);
    for network in [&source, &target, &test, &beside] {
        assert_eq!(api.delete("networks", network).await.status, StatusCode::NO_CONTENT);
    }
    api.gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_who_declare_the_same_at_once_one_is_refused() {
    let Sites { api, east, .. } = two_sites().await;
    let body = network(&east, "servers", &[]);
    let answers = futures::future::join_all((0..4).map(|_| api.post("/v1/networks", &body))).await;
    let made = answers.iter().filter(|answer| answer.status == StatusCode::CREATED).count();
    assert_eq!(made, 1, "{:?}", answers.iter().map(|answer| answer.status).collect::<Vec<_>>());
    api.gateway.stop().await;
}
