//! Attributes and API fields, there and back.

use std::cell::RefCell;

use lifeboat_api::{Gateway, Group, Policy, Site, Vault, Volume};
use serde_json::{Value as Json, json};
use tf_provider_sdk::{Object, Value};

use super::*;
use crate::declared::Kind;
use crate::values::Values;

fn id(prefix: &str, last: u8) -> String {
    format!("{prefix}-{last:032x}")
}

/// What a GET of an object answers.
fn view<K: Kind>(prefix: &str, spec: Json, status: Json) -> K::View {
    let time = "2026-11-20T10:05:00Z";
    let body = json!({
        "id": id(prefix, 1), "generation": 3, "created": time, "updated": time, "spec": spec, "status": status,
    });
    serde_json::from_value(body).unwrap()
}

/// The state after a read, in its schema's shape: nothing missing, nothing unknown.
fn state_of<K: Kind>(found: &K::View, before: Object) -> Object {
    let mut state = K::schema().conform(before).unwrap();
    state.set("id", lifeboat_api::Resource::id(found));
    K::describe(found, &mut state);
    K::schema().conform(state).unwrap()
}

fn spec_of<K: Kind>(state: &Object, config: &Object) -> Json {
    let faults = RefCell::default();
    let spec = K::spec(&Values::planned(state, config, &faults));
    assert!(faults.borrow().is_empty(), "{}", faults.borrow());
    serde_json::to_value(spec).unwrap()
}

/// A spec becomes a state, and the state the same spec.
fn round_trip<K: Kind>(prefix: &str, spec: Json, status: Json) -> Object {
    let found = view::<K>(prefix, spec.clone(), status);
    let state = state_of::<K>(&found, Object::new());
    assert_eq!(spec_of::<K>(&state, &state), spec);
    assert_eq!(state_of::<K>(&found, state.clone()), state, "a second read changes nothing");
    state
}

#[test]
fn a_policy_keeps_the_order_of_its_rules() {
    let spec = json!({
        "vault_id": id("vlt", 1), "name": "gold", "recovery_point_interval": "10s", "app_consistent_interval": "1h",
        "retention": [
            {"every": "all", "for": "1h"}, {"every": "5m", "for": "24h"}, {"every": "1h", "for": "15d"},
            {"every": "24h", "for": "90d"},
        ],
        "rpo_threshold": "300s",
        "resync": {"at_log_percent": 70, "window_start": "22:00", "window_end": "06:00", "timezone": "Europe/Zurich"},
        "bandwidth_limit": [
            {"mbps": 500, "days": ["sun", "mon"], "start": "08:00", "end": "18:00", "timezone": "Europe/Zurich"},
            {"mbps": 100, "days": [], "start": null, "end": null, "timezone": null},
        ],
        "compression": "zstd:7",
    });
    let state = round_trip::<PolicyKind>("pol", spec, json!({"group_ids": []}));
    assert_eq!(state.at("retention[3].for").and_then(Value::as_str), Some("90d"));
    assert_eq!(state.at("rpo_threshold").and_then(Value::as_str), Some("300s"), "as it was written");
    assert_eq!(state.at("bandwidth_limit[1].days"), Some(&Value::Null));
}

#[test]
fn an_empty_list_that_was_written_stays_one() {
    let spec = json!({
        "vault_id": id("vlt", 1), "name": "gold", "retention": [{"every": "all", "for": "1h"}],
        "bandwidth_limit": [{"mbps": 500}],
    });
    let found: Policy = view::<PolicyKind>("pol", spec, json!({"group_ids": []}));
    let limit = Object::new().with("mbps", 500_u64).with("days", Vec::<String>::new());
    let state = state_of::<PolicyKind>(&found, Object::new().with("bandwidth_limit", vec![limit]));
    assert_eq!(state.at("bandwidth_limit[0].days"), Some(&Value::List(Vec::new())));
}

#[test]
fn a_site_and_a_group_come_back_as_declared() {
    let site = json!({"vault_id": id("vlt", 1), "name": "onprem", "description": null});
    let state = round_trip::<SiteKind>("site", site, json!({"gateway_ids": [id("gw", 2), id("gw", 1)]}));
    assert_eq!(state.get::<Vec<String>>("gateway_ids").unwrap().len(), 2);
    let _: (Option<Site>, Option<Group>) = (None, None);
    let group = json!({"vault_id": id("vlt", 1), "site_id": id("site", 1), "name": "erp", "policy_id": id("pol", 1), "app_consistency": {"pre_script": "freeze", "post_script": null, "timeout": "45s"}, "shared_points": {"replication_group": "shop", "every": "2m"}});
    let found: Group = {
        let mut status = serde_json::to_value(lifeboat_api::GroupStatus::default()).unwrap();
        status["state"] = json!("failed-over");
        view::<GroupKind>("grp", group.clone(), status)
    };
    let state = state_of::<GroupKind>(&found, Object::new());
    assert_eq!(spec_of::<GroupKind>(&state, &state), group);
}

#[test]
fn a_gateway_without_roles_has_no_roles_in_its_state() {
    let status = json!({"registered": false, "health": "critical", "reasons": [], "addresses": []});
    for roles in [Json::Null, json!(["process_server", "master_target"])] {
        let spec = json!({"site_id": id("site", 1), "name": "primary", "roles": roles, "mount_path": null});
        let found: Gateway = view::<GatewayKind>("gw", spec, status.clone());
        let state = state_of::<GatewayKind>(&found, Object::new());
        assert_eq!(state.is_null("roles"), roles.is_null());
        let mut back = spec_of::<GatewayKind>(&state, &state)["roles"].clone();
        if let Some(list) = back.as_array_mut() {
            list.sort_by_key(|role| std::cmp::Reverse(role.to_string()));
        }
        assert_eq!(back, roles);
    }
}

fn vault_status() -> Json {
    json!({
        "vault_uuid": id("vlt", 1), "format_version": 1, "health": "healthy", "reasons": [], "bytes_stored": null,
        "attached_url": "file:///elsewhere",
    })
}

#[test]
fn a_vault_is_read_without_its_key_and_patched_without_it() {
    let spec = json!({
        "name": "main", "storage_url": "file:///srv/vault", "soft_delete_days": 30,
        "encryption": {"key_source": "passphrase", "key_file": null},
    });
    let found: Vault = view::<VaultKind>("vlt", spec, vault_status());
    let imported = state_of::<VaultKind>(&found, Object::new());
    assert_eq!(imported.at("encryption.passphrase_version"), Some(&Value::Number(1.into())));
    assert_eq!(imported.at("storage_url").and_then(Value::as_str), Some("file:///srv/vault"));

    let mut raised = imported.clone();
    if let Some(Value::Object(block)) = raised.value_mut("encryption") {
        block.set("passphrase_version", 5_u64);
    }
    let read = state_of::<VaultKind>(&found, raised.clone());
    assert_eq!(read, raised, "the version is the configuration's");

    let mut config = raised.clone();
    if let Some(Value::Object(block)) = config.value_mut("encryption") {
        block.set("passphrase", "correct horse");
    }
    assert_eq!(spec_of::<VaultKind>(&raised, &config)["encryption"]["passphrase"], "correct horse");
    let faults = RefCell::default();
    let spec = VaultKind::spec(&Values::planned(&raised, &config, &faults));
    assert_eq!(
        VaultKind::patch(&spec).unwrap(),
        json!({"soft_delete_days": 30, "immutability": null, "second_approval": false})
    );
}

#[test]
fn a_vault_with_a_key_file_has_no_passphrase_version() {
    let spec = json!({
        "name": "main", "storage_url": "file:///srv/vault", "soft_delete_days": 14,
        "encryption": {"key_source": "key_file", "key_file": "/etc/lifeboat/vault.key"},
    });
    let found: Vault = view::<VaultKind>("vlt", spec, vault_status());
    let state = state_of::<VaultKind>(&found, Object::new());
    assert_eq!(state.at("encryption.passphrase_version"), Some(&Value::Null));
    let sent = spec_of::<VaultKind>(&state, &state);
    assert_eq!(sent["encryption"]["key_file"], "/etc/lifeboat/vault.key");
    assert_eq!(sent["encryption"]["passphrase"], Json::Null);
}

#[test]
fn the_group_of_a_single_volume_is_not_declared() {
    let spec = json!({
        "name": "files", "gateway_id": id("gw", 1), "size_bytes": (5_u64 << 30) + (64 << 20), "group_id": null,
        "policy_id": id("pol", 1), "cache_bytes": 64_u64 << 20, "export": null,
    });
    let mut status = serde_json::to_value(lifeboat_api::VolumeStatus::default()).unwrap();
    status["group_id"] = json!(id("grp", 1));
    let found: Volume = view::<VolumeKind>("vol", spec.clone(), status);
    let state = state_of::<VolumeKind>(&found, Object::new());
    assert_eq!(state.get::<String>("group_id").unwrap(), id("grp", 1));
    assert_eq!(state.at("size_gib").unwrap(), &Value::Number("5.0625".parse().unwrap()));
    assert_eq!(state.at("cache_gib").unwrap(), &Value::Number("0.0625".parse().unwrap()));
    assert_eq!(state.at("allow_replace"), Some(&Value::Bool(false)), "an import leaves nothing to plan");
    // The configuration names the policy only.
    let config = state.clone().with("group_id", Value::Null);
    assert_eq!(spec_of::<VolumeKind>(&state, &config), spec);
}

#[test]
fn a_volumes_export_is_declared_as_it_was_read() {
    let spec = json!({
        "name": "files", "gateway_id": id("gw", 1), "size_bytes": 5_u64 << 30, "group_id": null, "policy_id": id("pol", 1),
        "cache_bytes": null,
        "export": {
            "nbd": {"client_certificates": ["-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n"]},
            "iscsi": {"initiators": ["iqn.1998-01.com.vmware:esx1"]},
        },
    });
    let mut status = serde_json::to_value(lifeboat_api::VolumeStatus::default()).unwrap();
    status["export"] = json!({
        "nbd_url": "nbds://192.0.2.10:10809/files", "iscsi_target": "iqn.2026-01.io.lifeboat:01",
        "iscsi_portal": "192.0.2.10:3260", "reasons": [],
    });
    let found: Volume = view::<VolumeKind>("vol", spec.clone(), status);
    let state = state_of::<VolumeKind>(&found, Object::new());
    assert_eq!(state.at("iscsi_portal").and_then(Value::as_str), Some("192.0.2.10:3260"));
    assert_eq!(state.at("export.iscsi.initiators[0]").and_then(Value::as_str), Some("iqn.1998-01.com.vmware:esx1"));
    let config = state.clone().with("group_id", Value::Null);
    assert_eq!(spec_of::<VolumeKind>(&state, &config), spec);
}

#[test]
fn a_network_and_its_mapping_keep_the_order_of_their_subnets() {
    let spec = json!({
        "site_id": id("site", 1), "name": "servers", "bridge": null,
        "subnet": [
            {"name": "web", "cidr": "10.20.0.0/24", "gateway": "10.20.0.1"},
            {"name": "db", "cidr": "10.20.1.0/24", "gateway": null},
        ],
    });
    let state = round_trip::<NetworkKind>("net", spec, json!({"site": "onprem", "mapping_ids": []}));
    assert_eq!(state.at("subnet[1].name").and_then(Value::as_str), Some("db"));
    let spec = json!({
        "source_network_id": id("net", 1), "target_network_id": id("net", 2), "test_network_id": null,
        "subnet": [{"source": "db", "target": "data"}, {"source": "web", "target": "dmz"}], "address_rule": "next-free",
    });
    let status = json!({"name": "a/x to b/y", "source_site_id": id("site", 1), "target_site_id": id("site", 2)});
    round_trip::<NetworkMappingKind>("nmap", spec, status);
}

#[test]
fn a_machine_comes_back_as_declared_with_what_it_was_given() {
    let interface = |mac: Json, address: Json| json!({"network_id": id("net", 1), "mac": mac, "address": address, "test_address": null});
    let spec = json!({
        "site_id": id("site", 1), "name": "web", "group_id": id("grp", 1), "cpus": 2, "memory_mib": 4096,
        "firmware": "uefi",
        "disk": [{"volume_id": id("vol", 2), "boot": null}, {"volume_id": id("vol", 1), "boot": true}],
        "network_interface": [
            interface(json!("52:54:00:AA:bb:cc"), json!("10.20.0.11")), interface(Json::Null, Json::Null),
        ],
        "target": {"cpus": 1, "memory_mib": null, "anti_affinity_group": "web"},
    });
    let status = json!({
        "state": "protected", "active_site_id": id("site", 1), "active_site": "onprem", "health": "healthy", "reasons": [],
        "mac_addresses": ["52:54:00:aa:bb:cc", "02:01:02:03:04:05"],
    });
    let state = round_trip::<MachineKind>("mch", spec, status);
    assert_eq!(state.at("network_interface[0].mac").and_then(Value::as_str), Some("52:54:00:AA:bb:cc"), "as written");
    assert_eq!(state.at("network_interface[1].mac"), Some(&Value::Null), "what was given is not declared");
    assert_eq!(state.at("mac_addresses[1]").and_then(Value::as_str), Some("02:01:02:03:04:05"));
    assert_eq!(state.at("disk[0].volume_id").and_then(Value::as_str), Some(id("vol", 2).as_str()));
}

#[test]
fn a_plan_keeps_the_order_of_groups_and_actions() {
    let action = |name: &str, kind: &str, argument: &str| {
        let mut action = json!({
            "name": name, "type": kind, "script": null, "url": null, "instruction": null, "directions": [], "kinds": [],
            "timeout": null,
        });
        action[argument] = json!("https://neutral");
        action
    };
    let mut script = action("b", "script", "script");
    script["directions"] = json!(["failback", "failover"]);
    script["kinds"] = json!(["unplanned", "test"]);
    script["timeout"] = json!("90s");
    let spec = json!({
        "vault_id": id("vlt", 1), "name": "erp", "source_site_id": id("site", 1), "target_site_id": id("site", 2),
        "shutdown": {"timeout": "10m", "pre_action": [action("z", "manual", "instruction")], "post_action": []},
        "boot_group": [
            {"name": "db", "machine_ids": [id("mch", 2), id("mch", 1)], "volume_ids": [], "pre_action": [],
             "post_action": [script, action("a", "http", "url")]},
            {"name": null, "machine_ids": [], "volume_ids": [id("vol", 1)], "pre_action": [], "post_action": []},
        ],
    });
    let status = json!({
        "state": "protected", "active_site_id": null, "active_site": null, "readiness": "not-ready", "reasons": ["x"],
    });
    let state = round_trip::<RecoveryPlanKind>("plan", spec, status);
    let text = |path: &str| state.at(path).and_then(Value::as_str).map(str::to_owned);
    assert_eq!(text("boot_group[0].post_action[0].name").as_deref(), Some("b"));
    assert_eq!(text("boot_group[0].post_action[0].kinds[1]").as_deref(), Some("test"));
    assert_eq!(text("boot_group[0].machine_ids[0]"), Some(id("mch", 2)));
    assert_eq!(state.at("boot_group[1].machine_ids"), Some(&Value::Null));
    assert_eq!(text("shutdown.pre_action[0].name").as_deref(), Some("z"));
}

#[test]
fn a_drill_keeps_its_assertions_and_shows_its_last_run() {
    let assertion = |kind: &str, more: Json| {
        let mut one = json!({
            "type": kind, "machine_id": null, "volume_id": null, "within": "5m", "contains": null, "port": null,
            "interface": null, "path": null, "status": null, "tls": false, "sha256": null, "partition": null,
            "script": null, "picture": null,
        });
        one.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        one
    };
    let spec = json!({
        "plan_id": id("plan", 1), "name": "weekly", "point": "latest", "network": "isolated",
        "assertion": [
            assertion("http", json!({"machine_id": id("mch", 2), "port": 8443, "tls": true, "status": 204, "path": "/up"})),
            assertion("boots", json!({"machine_id": id("mch", 1), "contains": "ready", "within": "10m"})),
            assertion("file_hash", json!({"volume_id": id("vol", 1), "path": "/a", "sha256": "0".repeat(64), "partition": 2})),
            assertion("script", json!({"script": "probe"})),
        ],
        "max_rto": "15m", "max_rpo": null, "valid_for": "30d", "keep": false,
        "schedule": {"every": "7d", "days": ["sat"], "start": "22:00", "end": "04:00", "timezone": "Europe/Zurich"},
    });
    let run = json!({
        "job_id": id("job", 2), "gateway_id": id("gw", 1), "started": "2026-11-20T10:00:00Z",
        "finished": "2026-11-20T10:05:00Z",
        "outcome": {"passed": false, "rto_seconds": null, "rpo_seconds": 1.234_567, "failures": ["boots of db: nothing"]},
    });
    let status = json!({
        "state": "failed", "plan": "erp", "job_id": null, "runs": [run], "expires": null, "next_run": null, "test_job_id": null,
    });
    let state = round_trip::<drill::DrillKind>("drill", spec, status);
    assert_eq!(state.value("passed").and_then(Value::as_bool), Some(false));
    assert_eq!(
        state.value("rpo_seconds").and_then(Value::as_number).map(ToString::to_string).as_deref(),
        Some("1.235")
    );
    assert_eq!(state.at("failures[0]").and_then(Value::as_str), Some("boots of db: nothing"));
    assert_eq!(state.value("expires_at"), Some(&Value::Null));
}
