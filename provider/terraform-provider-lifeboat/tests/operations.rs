//! What happens at apply and refresh when the gateway is slow, changes its mind, refuses, or is another one.

mod fake_gateway;
mod session;

use fake_gateway::{FakeGateway, problem};
use serde_json::{Value as Json, json};
use session::Session;
use tf_provider_sdk::{Object, Value, tfplugin5 as pb};

const SITE: &str = "lifeboat_site";
const VOLUME: &str = "lifeboat_volume";
const GIB: u64 = 1 << 30;

fn id(prefix: &str, last: u8) -> String {
    format!("{prefix}-{last:032x}")
}

fn view(id: &str, generation: u64, spec: Json, status: Json) -> Json {
    let time = "2026-11-20T10:05:00Z";
    json!({"id": id, "generation": generation, "created": time, "updated": time, "spec": spec, "status": status})
}

fn site_view(generation: u64, description: &str) -> Json {
    let spec = json!({"vault_id": id("vlt", 1), "name": "onprem", "description": description});
    view(&id("site", 1), generation, spec, json!({"gateway_ids": []}))
}

fn site(description: &str) -> Object {
    Object::new().with("vault_id", id("vlt", 1)).with("name", "onprem").with("description", description)
}

fn site_state(description: &str) -> Object {
    site(description).with("id", id("site", 1)).with("gateway_ids", Vec::<String>::new())
}

fn volume() -> Object {
    Object::new()
        .with("name", "db")
        .with("gateway_id", id("gw", 1))
        .with("policy_id", id("pol", 1))
        .with("size_gib", 1_u64)
}

fn volume_view(state: &str, reasons: &[&str]) -> Json {
    let spec = json!({"name": "db", "gateway_id": id("gw", 1), "size_bytes": GIB, "policy_id": id("pol", 1)});
    let protected = state == "protected";
    let status = json!({
        "state": state, "group_id": id("grp", 1), "path": protected.then_some("/mnt/volumes/db.img"),
        "nbd_url": protected.then_some("nbd://127.0.0.1:10809/db"),
        "size_bytes": protected.then_some(GIB), "active_gateway_id": null, "active_site_id": null,
        "active_site": protected.then_some("onprem"), "health": if protected { "healthy" } else { "warning" },
        "reasons": reasons, "landed_rpo_seconds": null, "latest_recovery_point": null, "latest_recovery_point_id": null,
        "job_id": null,
    });
    view(&id("vol", 1), 1, spec, status)
}

fn empty_page() -> Json {
    json!({"items": []})
}

async fn started(extra: &[&str]) -> (FakeGateway, Session) {
    let gateway = FakeGateway::start().await;
    let mut session = Session::start().await;
    session.configure(gateway.block(extra)).await;
    (gateway, session)
}

#[track_caller]
fn assert_one(said: &[String], parts: &[&str]) {
    assert_eq!(said.len(), 1, "{said:#?}");
    for part in parts {
        assert!(said[0].contains(part), "{part:?} not in {:?}", said[0]);
    }
}

#[tokio::test]
async fn a_volume_is_there_when_it_is_protected() {
    let (gateway, mut session) = started(&[]).await;
    let item = format!("GET /v1/volumes/{}", id("vol", 1));
    gateway
        .answers("GET /v1/volumes", 200, empty_page())
        .answers("POST /v1/volumes", 201, volume_view("pending", &["the gateway primary has not registered"]))
        .answers(&item, 200, volume_view("creating", &[]))
        .answers(&item, 200, volume_view("protected", &[]));
    let created = session.create(VOLUME, &volume()).await;
    assert!(created.said.is_empty(), "{:?}", created.said);
    let state = created.state.unwrap();
    assert_eq!(state.get::<String>("state").unwrap(), "protected");
    assert_eq!(state.get::<String>("path").unwrap(), "/mnt/volumes/db.img");
    assert_eq!(state.get::<String>("group_id").unwrap(), id("grp", 1));
    let sent = gateway.asked("POST /v1/volumes").concat();
    assert!(sent.contains(&format!("\"size_bytes\":{GIB}")) && sent.contains("\"group_id\":null"), "{sent}");
    session.end().await;
}

#[tokio::test]
async fn an_adopted_disk_is_declared_by_its_path_and_the_next_plan_is_empty() {
    let (gateway, mut session) = started(&[]).await;
    let adopted = |state: &str| {
        let mut view = volume_view(state, &[]);
        view["spec"]["source"] = json!({"path": "/dev/vg0/db"});
        view
    };
    gateway.answers("GET /v1/volumes", 200, empty_page()).answers("POST /v1/volumes", 201, adopted("pending")).answers(
        &format!("GET /v1/volumes/{}", id("vol", 1)),
        200,
        adopted("protected"),
    );
    let config = volume().with("source", Object::new().with("path", "/dev/vg0/db"));
    let created = session.create(VOLUME, &config).await;
    assert!(created.said.is_empty(), "{:?}", created.said);
    let sent = gateway.asked("POST /v1/volumes").concat();
    assert!(sent.contains("\"source\":{\"path\":\"/dev/vg0/db\"}"), "{sent}");
    let state = created.state.unwrap();
    let again = session.plan(VOLUME, Some(&state), Some(&config)).await;
    assert_eq!((again.said.len(), again.planned.as_ref()), (0, Some(&state)), "{:?}", again.said);
    let elsewhere = volume().with("source", Object::new().with("path", "/dev/vg0/other"));
    let moved = session.plan(VOLUME, Some(&state), Some(&elsewhere)).await;
    assert_one(&moved.said, &["source", "allow_replace"]);
    // While it is failed over another disk is a change in place; none at all isn't.
    let away = state.clone().with("state", "failed-over");
    let moved = session.plan(VOLUME, Some(&away), Some(&elsewhere)).await;
    assert_eq!((moved.said.len(), moved.replaces.len()), (0, 0), "{:?}", moved.said);
    assert_one(&session.plan(VOLUME, Some(&away), Some(&volume())).await.said, &["source", "allow_replace"]);
    session.end().await;
}

#[tokio::test]
async fn a_volume_that_failed_stays_in_state_with_its_reasons_told() {
    let (gateway, mut session) = started(&[]).await;
    gateway
        .answers("GET /v1/volumes", 200, empty_page())
        .answers("POST /v1/volumes", 201, volume_view("pending", &[]))
        .answers(
            &format!("GET /v1/volumes/{}", id("vol", 1)),
            200,
            volume_view("failed", &["no space left at primary"]),
        );
    let created = session.create(VOLUME, &volume()).await;
    assert_one(&created.said, &["The volume db can't be protected", "No space left at primary."]);
    assert_eq!(created.state.unwrap().get::<String>("id").unwrap(), id("vol", 1));
    session.end().await;
}

#[tokio::test]
async fn the_time_that_is_set_ends_a_wait_and_says_what_for() {
    let (gateway, mut session) = started(&[]).await;
    let waiting = volume_view("pending", &["the gateway primary has not registered"]);
    gateway.answers("GET /v1/volumes", 200, empty_page()).answers("POST /v1/volumes", 201, waiting.clone()).answers(
        &format!("GET /v1/volumes/{}", id("vol", 1)),
        200,
        waiting,
    );
    let config = volume().with("timeouts", Object::new().with("create", "700ms"));
    let created = session.create(VOLUME, &config).await;
    assert_one(&created.said, &["did not finish within 700ms", "the gateway primary has not registered"]);
    assert!(created.state.is_some(), "what was created is not lost");
    session.end().await;
}

#[tokio::test]
async fn a_name_that_is_taken_comes_with_the_id_to_import() {
    let (gateway, mut session) = started(&[]).await;
    let taken = problem("conflict", 409, "there is a site named \"onprem\" already", json!({}));
    gateway.answers("POST /v1/sites", 409, taken).answers("GET /v1/sites", 200, json!({"items": [site_view(1, "x")]}));
    let created = session.create(SITE, &site("x")).await;
    assert_one(
        &created.said,
        &["There is a site named", &format!("terraform import lifeboat_site.NAME {}", id("site", 1))],
    );
    assert!(created.state.is_none());
    session.end().await;
}

#[tokio::test]
async fn a_change_is_made_on_what_is_there_now() {
    let (gateway, mut session) = started(&[]).await;
    let item = id("site", 1);
    gateway
        .answers(&format!("GET /v1/sites/{item}"), 200, site_view(4, "old"))
        .answers(&format!("GET /v1/sites/{item}"), 200, site_view(5, "old"))
        .answers(
            &format!("PATCH /v1/sites/{item}"),
            412,
            problem("precondition-failed", 412, "changed since", json!({})),
        )
        .answers(&format!("PATCH /v1/sites/{item}"), 200, site_view(6, "new"));
    let updated = session.update(SITE, &site_state("old"), &site("new")).await;
    assert!(updated.said.is_empty(), "{:?}", updated.said);
    assert_eq!(updated.state.unwrap().get::<String>("description").unwrap(), "new");
    let patches = gateway.asked(&format!("PATCH /v1/sites/{item}"));
    assert!(patches[0].contains("\"4\"") && patches[1].contains("\"5\""), "{patches:?}");
    session.end().await;
}

#[tokio::test]
async fn what_is_gone_leaves_the_state() {
    let (_gateway, mut session) = started(&[]).await;
    let read = session.read(SITE, &site_state("x")).await;
    assert!(read.said.is_empty() && read.state.is_none(), "{:?}", read.said);
    session.end().await;
}

#[tokio::test]
async fn everything_has_an_identity_that_it_can_be_imported_by() {
    let (gateway, mut session) = started(&[]).await;
    let schemas = session
        .client
        .get_resource_identity_schemas(pb::get_resource_identity_schemas::Request {})
        .await
        .unwrap()
        .into_inner();
    let schema = session.client.get_schema(pb::get_provider_schema::Request {}).await.unwrap().into_inner();
    for name in schema.resource_schemas.keys() {
        let attributes = &schemas.identity_schemas[name].identity_attributes;
        assert!(attributes.len() == 1 && attributes[0].name == "id", "{name}: {attributes:?}");
    }
    let item = id("site", 1);
    let identity = Some(pb::ResourceIdentityData {
        identity_data: Some(pb::DynamicValue::encode(&Value::Object(Object::new().with("id", item.as_str())))),
    });
    let imported = session
        .client
        .import_resource_state(pb::import_resource_state::Request {
            type_name: SITE.into(),
            identity: identity.clone(),
            ..Default::default()
        })
        .await
        .unwrap()
        .into_inner();
    assert!(imported.diagnostics.is_empty(), "{:?}", imported.diagnostics);
    gateway.answers(&format!("GET /v1/sites/{item}"), 200, site_view(1, "at home"));
    let read = session
        .client
        .read_resource(pb::read_resource::Request {
            type_name: SITE.into(),
            current_state: imported.imported_resources[0].state.clone(),
            ..Default::default()
        })
        .await
        .unwrap()
        .into_inner();
    assert!(read.diagnostics.is_empty(), "{:?}", read.diagnostics);
    assert_eq!(read.new_identity, identity);
    session.end().await;
}

#[tokio::test]
async fn a_gateway_without_the_vault_makes_nothing_gone() {
    let elsewhere = ["https://127.0.0.1:9"];
    let (gateway, mut session) = started(&elsewhere).await;
    gateway.answers("GET /v1/vaults", 200, empty_page());
    let read = session.read(SITE, &site_state("x")).await;
    assert_one(&read.said, &["Cannot read the site onprem", "does not have its vault attached", "lifeboat vault open"]);
    assert!(read.state.is_some());
    session.end().await;

    // Where it has the vault, what isn't there is gone.
    let (gateway, mut session) = started(&elsewhere).await;
    let spec = json!({
        "name": "main", "storage_url": "file:///srv/vault", "soft_delete_days": 14, "encryption": {"key_source": "key_file"},
    });
    let status = json!({
        "vault_uuid": id("vlt", 1), "format_version": 1, "health": "healthy", "reasons": [], "bytes_stored": null,
        "attached_url": "file:///srv/vault",
    });
    gateway.answers("GET /v1/vaults", 200, json!({"items": [view(&id("vlt", 1), 1, spec, status)]}));
    let read = session.read(SITE, &site_state("x")).await;
    assert!(read.said.is_empty() && read.state.is_none(), "{:?}", read.said);
    session.end().await;
}

#[tokio::test]
async fn a_destroy_names_what_is_in_the_way_and_keeps_the_state() {
    let (gateway, mut session) = started(&[]).await;
    let item = id("site", 1);
    let blocked = problem("conflict", 409, "in use", json!({"blockers": ["gateway primary (gw-1)"]}));
    gateway.answers(&format!("GET /v1/sites/{item}"), 200, site_view(1, "x")).answers(
        &format!("DELETE /v1/sites/{item}"),
        409,
        blocked,
    );
    let state = site_state("x");
    let destroyed = session.apply(SITE, Some(&state), None, &site("x")).await;
    assert_one(&destroyed.said, &["Cannot destroy the site onprem", "gateway primary (gw-1)"]);
    assert!(destroyed.state.is_some());
    session.end().await;
}

#[tokio::test]
async fn a_destroy_waits_for_a_job_that_runs() {
    let (gateway, mut session) = started(&[]).await;
    let item = id("vol", 1);
    let blocked = problem("conflict", 409, "in use", json!({"blockers": ["job job-1, which is running"]}));
    gateway
        .answers(&format!("GET /v1/volumes/{item}"), 200, volume_view("creating", &[]))
        .answers(&format!("DELETE /v1/volumes/{item}"), 409, blocked)
        .answers(&format!("DELETE /v1/volumes/{item}"), 204, Json::Null);
    let state = volume().with("id", &item).with("allow_replace", false);
    let destroyed = session.apply(VOLUME, Some(&state), None, &volume()).await;
    assert!(destroyed.said.is_empty() && destroyed.state.is_none(), "{:?}", destroyed.said);
    assert_eq!(gateway.asked(&format!("DELETE /v1/volumes/{item}")).len(), 2);
    session.end().await;
}

#[tokio::test]
async fn a_plan_of_a_destroy_names_what_it_does_not_destroy() {
    let (gateway, mut session) = started(&[]).await;
    let gateway_view = |name: &str, last: u8| {
        let spec = json!({"site_id": id("site", 1), "name": name});
        let status = json!({
            "registered": true, "version": null, "health": "healthy", "reasons": [], "addresses": [], "last_seen": null,
            "process_id": null, "mount_path": null,
        });
        view(&id("gw", last), 1, spec, status)
    };
    gateway
        .answers("GET /v1/gateways", 200, json!({"items": [gateway_view("mine", 1), gateway_view("other", 2)]}))
        .answers("GET /v1/groups", 200, empty_page())
        .answers("GET /v1/volumes", 200, empty_page());
    let mine = Object::new().with("id", id("gw", 1)).with("name", "mine").with("site_id", id("site", 1));
    let plan = session.plan("lifeboat_gateway", Some(&mine), None).await;
    assert!(plan.said.is_empty(), "{:?}", plan.said);
    let plan = session.plan(SITE, Some(&site_state("x")), None).await;
    assert_one(&plan.said, &["The site onprem is still in use", "gateway other"]);
    assert!(!plan.said[0].contains("mine"), "{}", plan.said[0]);
    session.end().await;
}

#[tokio::test]
async fn a_tainted_volume_that_may_hold_data_is_not_made_anew() {
    let (gateway, mut session) = started(&[]).await;
    gateway.answers("GET /v1/volumes", 200, json!({"items": [volume_view("protected", &[])]}));
    let plan = session.plan(VOLUME, None, Some(&volume())).await;
    assert_one(&plan.said, &["name: A volume of this name exists", "terraform untaint"]);
    let allowed = volume().with("allow_replace", true);
    let plan = session.plan(VOLUME, None, Some(&allowed)).await;
    assert!(plan.said.is_empty(), "{:?}", plan.said);
    session.end().await;
}

#[tokio::test]
async fn a_gateway_waits_for_the_group_that_goes_at_the_same_time() {
    let (gateway, mut session) = started(&[]).await;
    let item = id("gw", 1);
    let spec = json!({"site_id": id("site", 1), "name": "primary"});
    let status = json!({
        "registered": true, "version": null, "health": "healthy", "reasons": [], "addresses": [], "last_seen": null,
        "process_id": null, "mount_path": null,
    });
    let blocked = problem("conflict", 409, "in use", json!({"blockers": ["group ledger (grp-1), which it serves"]}));
    gateway
        .answers(&format!("GET /v1/gateways/{item}"), 200, view(&item, 1, spec, status))
        .answers(&format!("DELETE /v1/gateways/{item}"), 409, blocked)
        .answers(&format!("DELETE /v1/gateways/{item}"), 204, Json::Null);
    let state = Object::new().with("id", &item).with("name", "primary").with("site_id", id("site", 1));
    let destroyed = session.apply("lifeboat_gateway", Some(&state), None, &state).await;
    assert!(destroyed.said.is_empty() && destroyed.state.is_none(), "{:?}", destroyed.said);
    session.end().await;
}

const MACHINE: &str = "lifeboat_machine";
const PLAN: &str = "lifeboat_recovery_plan";

fn machine_spec() -> Json {
    json!({
        "site_id": id("site", 1), "name": "web", "group_id": id("grp", 1), "cpus": 1, "memory_mib": 512,
        "firmware": "bios", "disk": [{"volume_id": id("vol", 1), "boot": null}],
        "network_interface": [
            {"network_id": id("net", 1), "mac": null, "address": "10.20.0.11", "test_address": null},
        ],
        "target": null,
    })
}

fn machine_view() -> Json {
    let status = json!({
        "state": "protected", "active_site_id": id("site", 1), "active_site": "onprem", "health": "healthy",
        "reasons": [], "mac_addresses": ["02:01:02:03:04:05"],
    });
    view(&id("mch", 1), 1, machine_spec(), status)
}

fn machine() -> Object {
    let interface = Object::new().with("network_id", id("net", 1)).with("address", "10.20.0.11");
    Object::new()
        .with("site_id", id("site", 1))
        .with("name", "web")
        .with("group_id", id("grp", 1))
        .with("cpus", 1_u64)
        .with("memory_mib", 512_u64)
        .with("disk", vec![Object::new().with("volume_id", id("vol", 1))])
        .with("network_interface", vec![interface])
}

fn taken() -> Json {
    let field = json!([{"field": "network_interface[0].address", "message": "10.20.0.11 is the machine db's already"}]);
    problem("conflict", 409, "10.20.0.11 is the machine db's already", json!({"errors": field}))
}

#[tokio::test]
async fn an_address_that_the_same_run_gives_up_is_waited_for() {
    let (gateway, mut session) = started(&[]).await;
    gateway.answers("POST /v1/machines", 409, taken()).answers("POST /v1/machines", 409, taken()).answers(
        "POST /v1/machines",
        201,
        machine_view(),
    );
    let created = session.create(MACHINE, &machine()).await;
    assert!(created.said.is_empty(), "{:?}", created.said);
    assert_eq!(gateway.asked("POST /v1/machines").len(), 3);
    session.end().await;
}

#[tokio::test]
async fn an_address_that_stays_taken_is_refused_under_its_attribute() {
    let (gateway, mut session) = started(&[]).await;
    gateway.answers("POST /v1/machines", 409, taken());
    let refused = session.create(MACHINE, &machine()).await;
    assert_one(
        &refused.said,
        &["network_interface[0].address: Cannot create the machine web", "the machine db's already"],
    );
    assert!(refused.state.is_none() && gateway.asked("POST /v1/machines").len() > 1);
    session.end().await;
}

#[tokio::test]
async fn a_plan_counts_on_a_mapping_that_the_same_run_makes() {
    let (gateway, mut session) = started(&[]).await;
    let network = |last: u8, site: u8| {
        let spec = json!({"site_id": id("site", site), "name": "servers", "bridge": null, "subnet": []});
        view(&id("net", last), 1, spec, json!({"site": null, "mapping_ids": []}))
    };
    gateway
        .answers("GET /v1/machines", 200, json!({"items": [machine_view()]}))
        .answers("GET /v1/networks", 200, json!({"items": [network(1, 1), network(2, 2), network(3, 3)]}))
        .answers("GET /v1/network-mappings", 200, empty_page());
    let plan = Object::new()
        .with("vault_id", id("vlt", 1))
        .with("name", "erp")
        .with("source_site_id", id("site", 1))
        .with("target_site_id", id("site", 2))
        .with("boot_group", vec![Object::new().with("machine_ids", vec![id("mch", 1)])]);
    let refused = session.plan(PLAN, None, Some(&plan)).await;
    let at = "boot_group[0].machine_ids[0]: A network leads nowhere";
    assert_one(&refused.said, &[at, "The network servers of the machine web", "depends_on"]);

    let mapping =
        |target: u8| Object::new().with("source_network_id", id("net", 1)).with("target_network_id", id("net", target));
    let elsewhere = session.plan("lifeboat_network_mapping", None, Some(&mapping(3))).await;
    assert!(elsewhere.said.is_empty(), "{:?}", elsewhere.said);
    assert_one(&session.plan(PLAN, None, Some(&plan)).await.said, &[at]);
    session.plan("lifeboat_network_mapping", None, Some(&mapping(2))).await;
    let accepted = session.plan(PLAN, None, Some(&plan)).await;
    assert!(accepted.said.is_empty(), "{:?}", accepted.said);
    session.end().await;
}

#[tokio::test]
async fn machines_that_can_never_be_kept_apart_are_warned_of_at_plan() {
    let (gateway, mut session) = started(&[]).await;
    let member = |last: u8, group: u8| {
        let mut spec = machine_spec();
        spec["name"] = json!(format!("web{last}"));
        spec["group_id"] = json!(id("grp", group));
        spec["network_interface"] = json!([]);
        spec["target"] = json!({"cpus": null, "memory_mib": null, "anti_affinity_group": "web"});
        view(&id("mch", last), 1, spec, machine_view()["status"].clone())
    };
    gateway
        .answers("GET /v1/machines", 200, json!({"items": [member(1, 1), member(2, 1), member(3, 2)]}))
        .answers("GET /v1/networks", 200, empty_page())
        .answers("GET /v1/network-mappings", 200, empty_page());
    let plan = |machines: &[u8]| {
        let ids: Vec<String> = machines.iter().map(|last| id("mch", *last)).collect();
        Object::new()
            .with("vault_id", id("vlt", 1))
            .with("name", "erp")
            .with("source_site_id", id("site", 1))
            .with("target_site_id", id("site", 2))
            .with("boot_group", vec![Object::new().with("machine_ids", ids)])
    };
    let warned = session.plan(PLAN, None, Some(&plan(&[1, 3, 2]))).await;
    let at = "boot_group[0].machine_ids[2]: Machines come up on one host";
    assert_one(&warned.said, &[at, "web1 and web2", "one consistency group"]);
    let apart = session.plan(PLAN, None, Some(&plan(&[1, 3]))).await;
    assert!(apart.said.is_empty(), "{:?}", apart.said);
    session.end().await;
}

#[tokio::test]
async fn a_policy_whose_line_is_too_slow_for_what_is_written_is_warned_of_at_plan() {
    let (gateway, mut session) = started(&[]).await;
    let spec = json!({"vault_id": id("vlt", 1), "name": "standard", "retention": [{"every": "all", "for": "1h"}]});
    let found = view(&id("pol", 1), 1, spec, json!({"group_ids": [id("grp", 1)], "failback_policy_id": null}));
    let status = json!({
        "group_id": id("grp", 1), "group": "erp", "volume_ids": [], "state": "protected", "health": "healthy", "reasons": [],
        "active_gateway_id": null, "active_site_id": null, "active_site": null, "landed_rpo_seconds": 1.0,
        "latest_recovery_point": null, "latest_recovery_point_id": null, "backlog_bytes": 0, "journal_bytes_used": 0,
        "churn_bytes_per_second": 4_000_000.0, "rpo_threshold_seconds": 300.0, "resync": null, "hydrated_bytes": null,
        "observed": "2026-11-20T10:05:00Z",
    });
    gateway.answers(&format!("GET /v1/policies/{}", id("pol", 1)), 200, found).answers(
        "GET /v1/protection-status",
        200,
        json!({"items": [status]}),
    );
    let policy = |mbps: &[u64], threshold: &str| {
        let limits: Vec<Object> = mbps.iter().map(|mbps| Object::new().with("mbps", *mbps)).collect();
        Object::new()
            .with("vault_id", id("vlt", 1))
            .with("name", "standard")
            .with("recovery_point_interval", "5s")
            .with("rpo_threshold", threshold)
            .with("retention", vec![Object::new().with("every", "all").with("for", "1h")])
            .with("bandwidth_limit", limits)
    };
    let prior = policy(&[1000], "5m").with("id", id("pol", 1)).with("compression", "auto");
    let mut plan = async |mbps: &[u64], threshold: &str| {
        let planned = session.plan("lifeboat_replication_policy", Some(&prior), Some(&policy(mbps, threshold))).await;
        planned.said
    };
    // 4 MB/s are 32 Mbit/s.
    assert_one(&plan(&[100, 16], "5m").await, &["bandwidth_limit[1].mbps: The line may be too slow", "4000000 bytes"]);
    assert_one(
        &plan(&[40], "8s").await,
        &["bandwidth_limit[0].mbps", "the RPO would be 9 s, and rpo_threshold is 8 s"],
    );
    assert_eq!(plan(&[100, 40], "5m").await, Vec::<String>::new());
    session.end().await;
}

#[tokio::test]
async fn what_would_be_kept_in_itself_is_refused_at_plan() {
    let (gateway, mut session) = started(&[]).await;
    gateway.answers("GET /v1/volumes", 200, json!({"items": [volume_view("protected", &[])]})).answers(
        "GET /v1/vaults",
        200,
        empty_page(),
    );
    let adopting = |path: &str, last: u8| {
        volume()
            .with("name", "copy")
            // The list is also what the gateway answers when it is asked for a volume of that name.
            .with("allow_replace", true)
            .with("gateway_id", id("gw", last))
            .with("source", Object::new().with("path", path))
    };
    let inside = session.plan(VOLUME, None, Some(&adopting("/mnt/points/erp/db.img", 1))).await;
    assert_one(&inside.said, &["source.path: A volume in a volume", "/mnt/points/erp/db.img", "db"]);
    for (path, last) in [("/mnt/points/erp/db.img", 2), ("/mnt2/db.img", 1), ("/srv/db.img", 1)] {
        gateway.answers("GET /v1/volumes", 200, json!({"items": [volume_view("protected", &[])]}));
        let outside = session.plan(VOLUME, None, Some(&adopting(path, last))).await;
        assert!(outside.said.is_empty(), "{path}: {:?}", outside.said);
    }
    let vault = |url: &str| {
        let encryption = Object::new().with("key_source", "key_file").with("key_file", "/etc/lifeboat/vault.key");
        Object::new().with("name", "main").with("storage_url", url).with("encryption", encryption)
    };
    let inside = session.plan("lifeboat_vault", None, Some(&vault("file:///mnt/volumes/vault"))).await;
    assert_one(&inside.said, &["storage_url: A vault in a volume", "/mnt/volumes/vault"]);
    let outside = session.plan("lifeboat_vault", None, Some(&vault("file:///srv/vault"))).await;
    assert!(outside.said.is_empty(), "{:?}", outside.said);
    session.end().await;
}
