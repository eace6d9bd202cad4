//! Machines and recovery plans: what they need, what is theirs alone, what is in the way, and what their status says.

use http::StatusCode;
use serde_json::{Value, json};

use super::{Api, blamed, problem};
use crate::testing::policy_spec;

/// Two sites with networks and a mapping; at the first a gateway that nobody runs, two groups and three volumes.
pub(super) struct World {
    pub(super) api: Api,
    vault: Value,
    east: Value,
    west: Value,
    servers: Value,
    mapping: Value,
    group: Value,
    other_group: Value,
    volumes: Vec<Value>,
    files: Value,
}

pub(super) async fn world() -> World {
    let api = Api::start().await;
    let vault = api.vault().await;
    let site = async |name: &str| api.declare("/v1/sites", &json!({"vault_id": vault["id"], "name": name})).await;
    let (east, west) = (site("east").await, site("west").await);
    let network = async |site: &Value, name: &str, range: &str, router: Value| {
        let subnet = json!([{"name": "web", "cidr": range, "gateway": router}]);
        api.declare("/v1/networks", &json!({"site_id": site["id"], "name": name, "subnet": subnet})).await
    };
    let servers = network(&east, "servers", "10.20.0.0/24", json!("10.20.0.1")).await;
    let target = network(&west, "servers", "10.30.0.0/24", Value::Null).await;
    let isolated = network(&west, "isolated", "10.40.0.0/24", Value::Null).await;
    let mapping = json!({
        "source_network_id": servers["id"], "target_network_id": target["id"], "test_network_id": isolated["id"],
    });
    let mapping = api.declare("/v1/network-mappings", &mapping).await;
    let gateway = api.declare("/v1/gateways", &json!({"site_id": east["id"], "name": "elsewhere"})).await;
    let policy = policy_spec(&serde_json::from_value(vault.clone()).expect("a vault"));
    let policy = api.declare("/v1/policies", &serde_json::to_value(policy).expect("plain")).await;
    let group = async |name: &str| {
        let body = json!({"vault_id": vault["id"], "site_id": east["id"], "name": name, "policy_id": policy["id"]});
        api.declare("/v1/groups", &body).await
    };
    let (first, second) = (group("erp").await, group("mail").await);
    let volume = async |name: &str, group: &Value| {
        let body = json!({"name": name, "gateway_id": gateway["id"], "size_bytes": 1 << 20, "group_id": group["id"]});
        api.declare("/v1/volumes", &body).await
    };
    let mut volumes = Vec::new();
    for name in ["a", "b", "c"] {
        volumes.push(volume(name, &first).await);
    }
    let files = volume("files", &second).await;
    World { api, vault, east, west, servers, mapping, group: first, other_group: second, volumes, files }
}

impl World {
    /// A machine with one disk and one interface.
    pub(super) fn machine(&self, name: &str, disk: usize, address: &str) -> Value {
        json!({
            "site_id": self.east["id"], "name": name, "group_id": self.group["id"], "cpus": 2, "memory_mib": 2048,
            "disk": [{"volume_id": self.volumes[disk]["id"]}],
            "network_interface": [{"network_id": self.servers["id"], "address": address}],
        })
    }

    fn plan(&self, groups: Value) -> Value {
        json!({
            "vault_id": self.vault["id"], "name": "erp", "source_site_id": self.east["id"],
            "target_site_id": self.west["id"], "boot_group": groups,
        })
    }
}

fn changed(body: &Value, pointer: &str, value: Value) -> Value {
    let mut body = body.clone();
    let (parent, name) = pointer.rsplit_once('/').expect("a pointer");
    body.pointer_mut(parent).expect("is there")[name] = value;
    body
}

fn reasons(object: &Value) -> String {
    object["status"]["reasons"].to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_has_what_it_needs_to_itself() {
    let world = world().await;
    let api = &world.api;
    let web = world.machine("web", 0, "10.20.0.11");
    let absent = json!("vol-00000000000000000000000000000000");
    for (pointer, value, field) in [
        ("/cpus", json!(0), "cpus"),
        ("/memory_mib", json!(1), "memory_mib"),
        ("/firmware", json!("efi"), "firmware"),
        ("/disk", json!([]), "disk"),
        ("/disk/0/boot", json!(false), "disk[0].boot"),
        ("/disk/0/volume_id", absent, "disk[0].volume_id"),
        ("/disk/0/volume_id", world.files["id"].clone(), "disk[0].volume_id"),
        ("/site_id", world.west["id"].clone(), "group_id"),
        ("/group_id", world.other_group["id"].clone(), "disk[0].volume_id"),
        ("/network_interface/0/address", json!("10.21.0.1"), "network_interface[0].address"),
        ("/network_interface/0/address", json!("10.20.0.1"), "network_interface[0].address"),
        ("/network_interface/0/address", json!("10.20.0.255"), "network_interface[0].address"),
        ("/network_interface/0/test_address", json!("10.20.0.11"), "network_interface[0].test_address"),
        ("/network_interface/0/mac", json!("01:00:5e:00:00:01"), "network_interface[0].mac"),
        ("/target", json!({"cpus": 4096}), "target.cpus"),
    ] {
        blamed(&api.post("/v1/machines", &changed(&web, pointer, value)).await, 422, "invalid", field);
    }
    let two = json!([
        {"volume_id": world.volumes[0]["id"], "boot": true}, {"volume_id": world.volumes[1]["id"], "boot": true},
    ]);
    blamed(&api.post("/v1/machines", &changed(&web, "/disk", two)).await, 422, "invalid", "disk[1].boot");

    let made = api.declare("/v1/machines", &web).await;
    assert_eq!(made["status"]["state"], "unprotected", "nobody serves its volume: {made}");
    assert!(reasons(&made).contains("has not registered"), "{made}");
    let mac = made["status"]["mac_addresses"][0].as_str().expect("one was given").to_owned();
    assert!(mac.starts_with("02:"), "{mac}");
    let again = api.get(&format!("/v1/machines/{}", made["id"].as_str().expect("id"))).await.body;
    assert_eq!(again["status"]["mac_addresses"][0], mac, "it stays");

    let second = world.machine("web2", 1, "10.20.0.12");
    for (pointer, value, field) in [
        ("/network_interface/0/address", json!("10.20.0.11"), "network_interface[0].address"),
        ("/network_interface/0/mac", json!(mac.to_uppercase()), "network_interface[0].mac"),
        ("/disk/0/volume_id", world.volumes[0]["id"].clone(), "disk[0].volume_id"),
        ("/name", json!("web"), "name"),
    ] {
        blamed(&api.post("/v1/machines", &changed(&second, pointer, value)).await, 409, "conflict", field);
    }
    let second = api.declare("/v1/machines", &second).await;
    let taken = json!({"network_interface": [{"network_id": world.servers["id"], "address": "10.20.0.11"}]});
    blamed(&api.patch("machines", &second, &taken).await, 409, "conflict", "network_interface[0].address");
    let moved = json!({"group_id": world.other_group["id"]});
    blamed(&api.patch("machines", &second, &moved).await, 422, "invalid", "group_id");
    let grown = api.patch("machines", &second, &json!({"cpus": 4, "network_interface": []})).await;
    assert_eq!(grown.status, StatusCode::OK, "{}", grown.body);

    // What it uses stays, and so does the range that its address is in.
    let shrunk = json!({"subnet": [{"name": "web", "cidr": "10.20.0.128/25"}]});
    blamed(&api.patch("networks", &world.servers, &shrunk).await, 409, "conflict", "subnet");
    for (collection, object) in [("volumes", &world.volumes[0]), ("groups", &world.group), ("networks", &world.servers)]
    {
        let refused = api.delete(collection, object).await;
        problem(&refused, 409, "conflict");
        assert!(refused.body["blockers"].to_string().contains("machine web (mch-"), "{}", refused.body);
    }
    for machine in [&made, &second] {
        assert_eq!(api.delete("machines", machine).await.status, StatusCode::NO_CONTENT);
    }
    assert_eq!(api.delete("volumes", &world.volumes[0]).await.status, StatusCode::NO_CONTENT);
    world.api.gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_machines_that_want_one_address_at_once_one_gets_it() {
    let world = world().await;
    let bodies: Vec<Value> = (0..3).map(|disk| world.machine(&format!("web{disk}"), disk, "10.20.0.11")).collect();
    let answers = futures::future::join_all(bodies.iter().map(|body| world.api.post("/v1/machines", body))).await;
    let made = answers.iter().filter(|answer| answer.status == StatusCode::CREATED).count();
    assert_eq!(made, 1, "{:?}", answers.iter().map(|answer| &answer.body).collect::<Vec<_>>());
    world.api.gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_is_of_its_source_and_says_what_it_lacks() {
    let world = world().await;
    let api = &world.api;
    let db = api.declare("/v1/machines", &world.machine("db", 0, "10.20.0.11")).await;
    let web = api.declare("/v1/machines", &world.machine("web", 1, "10.20.0.12")).await;
    let sound = world.plan(json!([
        {"name": "databases", "machine_ids": [db["id"]], "post_action": [{"name": "check", "type": "script", "script": "check"}]},
        {"volume_ids": [world.files["id"]]},
    ]));
    let action = |action: Value| json!([{"machine_ids": [db["id"]], "pre_action": [action]}]);
    for (pointer, value, field) in [
        ("/boot_group", json!([]), "boot_group"),
        ("/boot_group", json!([{}]), "boot_group[0].machine_ids"),
        ("/boot_group/1/machine_ids", json!([db["id"]]), "boot_group[1].machine_ids[0]"),
        ("/boot_group/1/volume_ids", json!([world.volumes[0]["id"]]), "boot_group[1].volume_ids[0]"),
        ("/boot_group/1/machine_ids", json!(["mch-00000000000000000000000000000000"]), "boot_group[1].machine_ids[0]"),
        ("/boot_group/1/name", json!("databases"), "boot_group[1].name"),
        ("/target_site_id", world.east["id"].clone(), "target_site_id"),
        ("/boot_group", action(json!({"name": "a", "type": "script"})), "boot_group[0].pre_action[0].script"),
        (
            "/boot_group",
            action(json!({"name": "a", "type": "manual", "script": "x", "instruction": "y"})),
            "boot_group[0].pre_action[0].script",
        ),
        (
            "/boot_group",
            action(json!({"name": "a", "type": "http", "url": "ftp://x"})),
            "boot_group[0].pre_action[0].url",
        ),
        (
            "/boot_group",
            action(json!({"name": "a", "type": "http", "url": "https://x", "timeout": "soon"})),
            "boot_group[0].pre_action[0].timeout",
        ),
        (
            "/boot_group",
            action(json!({"name": "a", "type": "http", "url": "https://x", "kinds": ["drill"]})),
            "boot_group[0].pre_action[0].kinds[0]",
        ),
        ("/shutdown", json!({"timeout": "0s"}), "shutdown.timeout"),
    ] {
        blamed(&api.post("/v1/plans", &changed(&sound, pointer, value)).await, 422, "invalid", field);
    }
    let backwards = changed(&sound, "/source_site_id", world.west["id"].clone());
    let backwards = changed(&backwards, "/target_site_id", world.east["id"].clone());
    blamed(&api.post("/v1/plans", &backwards).await, 422, "invalid", "boot_group[0].machine_ids[0]");

    let made = api.declare("/v1/plans", &sound).await;
    assert_eq!((&made["status"]["state"], &made["status"]["readiness"]), (&json!("unprotected"), &json!("not-ready")));
    let said = reasons(&made);
    for part in [
        "the machine web moves with the group erp, and is in no boot group",
        "the group erp has no recovery point",
        "the volume files is pending",
        "no gateway of the site west has registered",
    ] {
        assert!(said.contains(part), "{part:?} not in {said}");
    }
    assert!(!said.contains("has no mapping"), "{said}");
    let with_web = json!({"boot_group": [{"machine_ids": [db["id"], web["id"]]}, {"volume_ids": [world.files["id"]]}]});
    let changed_plan = api.patch("plans", &made, &with_web).await;
    assert!(changed_plan.status == StatusCode::OK && !reasons(&changed_plan.body).contains("is in no boot group"));

    // A mapping that goes is missed; while it is gone no plan is declared that needs it.
    assert_eq!(api.delete("network-mappings", &world.mapping).await.status, StatusCode::NO_CONTENT);
    let now = api.get("/v1/plans?name=erp").await.body["items"][0].clone();
    assert!(reasons(&now).contains("the network servers of the machine db has no mapping"), "{now}");
    let unmapped = api.patch("plans", &made, &json!({"name": "other"})).await;
    blamed(&unmapped, 409, "conflict", "boot_group[0].machine_ids[0]");

    for (collection, object) in [("machines", &db), ("volumes", &world.files), ("sites", &world.west)] {
        let refused = api.delete(collection, object).await;
        problem(&refused, 409, "conflict");
        assert!(refused.body["blockers"].to_string().contains("plan erp (plan-"), "{}", refused.body);
    }
    assert_eq!(api.delete("plans", &made).await.status, StatusCode::NO_CONTENT);
    assert_eq!(api.delete("machines", &db).await.status, StatusCode::NO_CONTENT);
    world.api.gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_holds_no_data_comes_back_with_what_it_needs() {
    let world = world().await;
    let api = &world.api;
    let id = |object: &Value| object["id"].as_str().expect("an id").to_owned();
    let undelete = async |id: &str| api.post(&format!("/v1/deleted/{id}:undelete"), &json!({})).await;
    let db = api.declare("/v1/machines", &world.machine("db", 0, "10.20.0.11")).await;
    let web = api.declare("/v1/machines", &world.machine("web", 1, "10.20.0.12")).await;
    let plan = world.plan(json!([{"machine_ids": [db["id"], web["id"]]}]));
    let plan = api.declare("/v1/plans", &plan).await;
    let drill = api.declare("/v1/drills", &json!({"name": "weekly", "plan_id": plan["id"]})).await;
    assert_eq!(undelete(&id(&plan)).await.body, json!({"objects": []}), "it is there");
    problem(&undelete("plan-00000000000000000000000000000000").await, 404, "not-found");
    problem(&undelete(&id(&world.group)).await, 404, "not-found");

    // Everything of the plan goes, as `terraform destroy` has it.
    for (collection, object) in [
        ("drills", &drill),
        ("plans", &plan),
        ("machines", &db),
        ("machines", &web),
        ("network-mappings", &world.mapping),
        ("networks", &world.servers),
    ] {
        let answer = api.delete(collection, object).await;
        assert_eq!(answer.status, StatusCode::NO_CONTENT, "{collection}: {}", answer.body);
    }
    let listed = api.get("/v1/deleted").await.body;
    let kinds = |list: &Value| {
        let kinds = list.as_array().expect("a list").iter().map(|object| object["kind"].as_str().expect("a kind"));
        kinds.map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(kinds(&listed["items"]).len(), 6, "{listed}");
    let named = listed["items"].as_array().expect("a list").iter().find(|object| object["id"] == web["id"]);
    assert_eq!(named.map(|object| (&object["name"], &object["kind"])), Some((&json!("web"), &json!("machine"))));

    // A name that was given away since is in the way; what came back until then is whole, and the next request goes on.
    let guest = world.machine("web", 2, "10.20.0.13");
    let back = undelete(&id(&world.servers)).await;
    assert_eq!(kinds(&back.body["objects"]), ["network"], "{}", back.body);
    let guest = api.declare("/v1/machines", &guest).await;
    let refused = undelete(&id(&drill)).await;
    problem(&refused, 409, "conflict");
    let said = refused.body["detail"].as_str().expect("a text");
    assert!(said.contains("the machine web can't come back as it was: ") && said.contains("named \"web\""), "{said}");
    assert_eq!(api.get(&format!("/v1/machines/{}", id(&db))).await.status, StatusCode::OK, "it came before");
    problem(&api.get(&format!("/v1/plans/{}", id(&plan))).await, 404, "not-found");
    assert_eq!(api.delete("machines", &guest).await.status, StatusCode::NO_CONTENT);

    let back = undelete(&id(&drill)).await;
    assert_eq!(kinds(&back.body["objects"]), ["machine", "plan", "drill"], "{}", back.body);
    for (collection, object) in [
        ("machines", &db),
        ("machines", &web),
        ("network-mappings", &world.mapping),
        ("plans", &plan),
        ("drills", &drill),
    ] {
        let now = api.get(&format!("/v1/{collection}/{}", id(object))).await;
        assert_eq!(now.body["spec"], object["spec"], "{collection}: {}", now.body);
        assert!(now.body["generation"].as_u64() > object["generation"].as_u64(), "what was read before is stale");
    }
    assert_eq!(undelete(&id(&drill)).await.body, json!({"objects": []}), "a second time there is nothing to do");

    // Without its volume there is no machine.
    for (collection, object) in
        [("drills", &drill), ("plans", &plan), ("machines", &web), ("volumes", &world.volumes[1])]
    {
        assert_eq!(api.delete(collection, object).await.status, StatusCode::NO_CONTENT);
    }
    let refused = undelete(&id(&web)).await;
    blamed(&refused, 409, "conflict", "disk[0].volume_id");
    assert!(refused.body["detail"].as_str().is_some_and(|said| said.contains("group undelete")), "{}", refused.body);
    world.api.gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_that_is_replaced_leaves_its_plan_waiting_for_the_other() {
    let world = world().await;
    let api = &world.api;
    let db = api.declare("/v1/machines", &world.machine("db", 0, "10.20.0.11")).await;
    let plan = api.declare("/v1/plans", &world.plan(json!([{"machine_ids": [db["id"]]}]))).await;
    let path = format!("/v1/machines/{}", db["id"].as_str().expect("an id"));
    problem(&api.delete("machines", &db).await, 409, "conflict");
    problem(&api.change("DELETE", &format!("{path}?while_named=perhaps"), "\"1\"", &json!({})).await, 400, "malformed");
    problem(
        &api.change("DELETE", &format!("{path}?while_named=true"), "\"9\"", &json!({})).await,
        412,
        "precondition-failed",
    );
    let gone = api.change("DELETE", &format!("{path}?while_named=true"), "\"1\"", &json!({})).await;
    assert_eq!(gone.status, StatusCode::NO_CONTENT, "{}", gone.body);
    let waiting = api.get("/v1/plans?name=erp").await.body["items"][0].clone();
    assert_eq!(waiting["status"]["readiness"], "not-ready");
    assert!(reasons(&waiting).contains("there is no machine"), "{waiting}");

    let other = api.declare("/v1/machines", &world.machine("db", 0, "10.20.0.11")).await;
    let back = api.patch("plans", &plan, &json!({"boot_group": [{"machine_ids": [other["id"]]}]})).await;
    assert_eq!(back.status, StatusCode::OK, "{}", back.body);
    assert!(!reasons(&back.body).contains("there is no machine"), "{}", back.body);
    world.api.gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_deleted_while_it_is_named_is_lacked_until_something_else_is_named() {
    let world = world().await;
    let api = &world.api;
    let web = world.machine("web", 0, "10.20.0.11");
    let web = api.declare("/v1/machines", &web).await;
    let groups = json!([{"machine_ids": [web["id"]]}, {"volume_ids": [world.files["id"]]}]);
    let plan = api.declare("/v1/plans", &world.plan(groups)).await;
    let while_named = async |path: &str, object: &Value| {
        let path = format!("/v1/{path}/{}?while_named=true", object["id"].as_str().expect("an id"));
        api.change("DELETE", &path, "\"1\"", &json!({})).await
    };

    // A disk and a volume of a plan.
    problem(&api.delete("volumes", &world.volumes[0]).await, 409, "conflict");
    for volume in [&world.volumes[0], &world.files] {
        assert_eq!(while_named("volumes", volume).await.status, StatusCode::NO_CONTENT);
    }
    let lacking = api.get("/v1/machines?name=web").await.body["items"][0].clone();
    assert!(reasons(&lacking).contains("there is no volume"), "{lacking}");
    let waiting = api.get("/v1/plans?name=erp").await.body["items"][0].clone();
    assert!(waiting["status"]["readiness"] == "not-ready" && reasons(&waiting).contains("volume_ids[0]"), "{waiting}");
    let other = api.patch("machines", &web, &json!({"disk": [{"volume_id": world.volumes[1]["id"]}]})).await;
    assert_eq!(other.status, StatusCode::OK, "{}", other.body);
    let fewer = api.patch("plans", &plan, &json!({"boot_group": [{"machine_ids": [web["id"]]}]})).await;
    assert_eq!(fewer.status, StatusCode::OK, "{}", fewer.body);
    assert!(!reasons(&fewer.body).contains("there is no volume"), "{}", fewer.body);

    // A network that a machine joins; where a mapping begins or ends there, that goes first.
    let refused = while_named("networks", &world.servers).await;
    problem(&refused, 409, "conflict");
    assert!(refused.body["blockers"][0].as_str().is_some_and(|said| said.contains("mapping")), "{}", refused.body);
    let gone = api.delete("network-mappings", &world.mapping).await;
    assert_eq!(gone.status, StatusCode::NO_CONTENT, "{}", gone.body);
    problem(&api.delete("networks", &world.servers).await, 409, "conflict");
    assert_eq!(while_named("networks", &world.servers).await.status, StatusCode::NO_CONTENT);
    let lacking = api.get("/v1/machines?name=web").await.body["items"][0].clone();
    assert!(reasons(&lacking).contains("there is no network"), "{lacking}");
    let alone = api.patch("machines", &other.body, &json!({"network_interface": []})).await;
    assert_eq!(alone.status, StatusCode::OK, "{}", alone.body);

    // A policy goes on to govern what it governed.
    let policies = api.get("/v1/policies").await.body["items"].clone();
    let policy = &policies[0];
    problem(&api.delete("policies", policy).await, 409, "conflict");
    assert_eq!(while_named("policies", policy).await.status, StatusCode::NO_CONTENT);
    let governed = api.get("/v1/groups?name=erp").await.body["items"][0].clone();
    assert!(reasons(&governed).contains("was deleted, and goes on to govern it"), "{governed}");
    assert_eq!(governed["spec"]["policy_id"], policy["id"]);
    let mut spec = policy["spec"].clone();
    spec["name"] = json!("other");
    let next = api.declare("/v1/policies", &spec).await;
    let moved = api.patch("groups", &governed, &json!({"policy_id": next["id"]})).await;
    assert_eq!(moved.status, StatusCode::OK, "{}", moved.body);
    assert!(!reasons(&moved.body).contains("was deleted"), "{}", moved.body);
    world.api.gateway.stop().await;
}
