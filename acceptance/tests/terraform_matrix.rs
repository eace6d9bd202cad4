//! Every resource × every behaviour, through the real `terraform`: a table of the kinds, and one test for each behaviour that goes
//! through it. `docs/testing.md` has the table of behaviours; what is particular to one kind is in `terraform.rs`,
//! `terraform_recovery.rs` and `drill.rs`.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lifeboat_acceptance::bench::{blames, changed_elsewhere, deleted_elsewhere};
use lifeboat_acceptance::binaries::repository;
use lifeboat_acceptance::estate::Api;
use lifeboat_acceptance::eventually;
use lifeboat_acceptance::everything::{Everything, HEAD};
use lifeboat_acceptance::gateway::Gateway;
use lifeboat_acceptance::go_between::{GoBetween, Treatment};
use lifeboat_acceptance::terraform::{Plan, State, Tier, Workspace};
use lifeboat_api::client::Collection;
use lifeboat_api::types::{
    Drill, Gateway as GatewayView, Group, Machine, Network, NetworkMapping, Plan as RecoveryPlan, Policy, Resource,
    Site, Vault, Volume,
};
use serde_json::{Value, json};

const SETTLES_WITHIN: Duration = Duration::from_secs(60);

/// One of the provider's resources, and what the behaviours need to know of it.
struct Subject {
    /// Where it stands in the configuration of [`Everything`].
    address: &'static str,
    /// Where the API has its kind.
    path: &'static str,
    /// A change in place: a text of the configuration and what comes in its stead.
    change: (&'static str, &'static str),
    /// What somebody else makes of it, behind Terraform's back.
    elsewhere: fn() -> Value,
    patch: fn(&Api, &str, &Value) -> Result<()>,
    delete: fn(&Api, &str) -> Result<()>,
    /// Attributes that an older provider didn't write into its state.
    newer: &'static [&'static str],
    /// What can't be: a text, what comes in its stead, and what is said of the line where that is.
    refused: (&'static str, &'static str, &'static str),
}

impl Subject {
    fn kind(&self) -> &'static str {
        self.address.split('.').next().unwrap_or_default()
    }
}

const fn of<R: Resource + Collection>(
    address: &'static str,
    change: (&'static str, &'static str),
    elsewhere: fn() -> Value,
    newer: &'static [&'static str],
    refused: (&'static str, &'static str, &'static str),
) -> Subject {
    Subject {
        address,
        path: R::PATH,
        change,
        elsewhere,
        patch: changed_elsewhere::<R>,
        delete: deleted_elsewhere::<R>,
        newer,
        refused,
    }
}

/// All of them, each after what it needs.
fn subjects() -> [Subject; 11] {
    [
        of::<Vault>(
            "lifeboat_vault.main",
            ("soft_delete_days = 14", "soft_delete_days = 30"),
            || json!({"soft_delete_days": 21}),
            &["storage_credentials_version", "second_approval", "immutability"],
            ("soft_delete_days = 14", "soft_delete_days = 5000", "3650"),
        ),
        of::<Site>(
            "lifeboat_site.onprem",
            ("description = \"at home\"", "description = \"by the sea\""),
            || json!({"description": "inland"}),
            &["gateway_ids"],
            ("name        = \"onprem\"", "name        = \"\"", "1 to 64 characters"),
        ),
        of::<GatewayView>(
            "lifeboat_gateway.standby",
            ("roles   = [\"master_target\"]", "roles   = [\"master_target\", \"configuration_server\"]"),
            || json!({"roles": ["process_server"]}),
            &["mount_path", "last_seen"],
            ("roles   = [\"master_target\"]", "roles   = [\"king\"]", "must be one of"),
        ),
        of::<Policy>(
            "lifeboat_replication_policy.standard",
            ("rpo_threshold           = \"5m\"", "rpo_threshold           = \"10m\""),
            || json!({"rpo_threshold": "7m"}),
            &["compression", "bandwidth_limit", "resync"],
            ("rpo_threshold           = \"5m\"", "rpo_threshold           = \"9y\"", "9y"),
        ),
        of::<Group>(
            "lifeboat_consistency_group.erp",
            ("name      = \"erp\" # group", "name      = \"finance\" # group"),
            || json!({"name": "sales"}),
            &["app_consistency", "shared_points"],
            ("name      = \"erp\" # group", "name      = \"e/p\" # group", "1 to 63"),
        ),
        of::<Network>(
            "lifeboat_network.source",
            ("bridge  = \"br-servers\"", "bridge  = \"br0\""),
            || json!({"bridge": "br9"}),
            &["bridge"],
            ("cidr = \"10.20.0.0/24\"", "cidr = \"10.20.0.7/24\"", "the range is 10.20.0.0/24"),
        ),
        of::<NetworkMapping>(
            "lifeboat_network_mapping.out",
            ("address_rule      = \"keep-or-next-free\"", "address_rule      = \"next-free\""),
            || json!({"test_network_id": null}),
            &["test_network_id", "address_rule"],
            ("address_rule      = \"keep-or-next-free\"", "address_rule      = \"keep\"", "next-free"),
        ),
        of::<Volume>(
            "lifeboat_volume.data",
            ("cache_gib  = 1", "cache_gib  = 2"),
            || json!({"cache_bytes": 3_u64 << 30}),
            &["source", "allow_replace", "home_gateway_id"],
            ("size_gib   = 0.0625", "size_gib   = 0.1", "no whole number of bytes"),
        ),
        of::<Machine>(
            "lifeboat_machine.db",
            ("memory_mib = 512", "memory_mib = 1024"),
            || json!({"cpus": 7}),
            &["target", "firmware", "mac_addresses"],
            ("memory_mib = 512", "memory_mib = 32", "between 64"),
        ),
        of::<RecoveryPlan>(
            "lifeboat_recovery_plan.erp",
            ("name           = \"erp\" # plan", "name           = \"all\" # plan"),
            || json!({"shutdown": {"timeout": "9m"}}),
            &["warnings", "reasons"],
            ("script     = \"verify\"", "script     = \"../verify\"", "can't be a name"),
        ),
        of::<Drill>(
            "lifeboat_drill.probe",
            ("valid_for = \"90d\"", "valid_for = \"180d\""),
            || json!({"valid_for": "30d"}),
            &["keep", "schedule", "evidence_public_key"],
            ("valid_for = \"90d\"", "valid_for = \"1s\"", "1h"),
        ),
    ]
}

/// What the table makes of [`Everything`].
trait Subjected {
    /// The configuration with the change in place of every kind.
    fn changed(&self) -> Result<String>;

    /// Somebody else changes something of every kind.
    fn change_elsewhere(&self, state: &State) -> Result<()>;
}

impl Subjected for Everything {
    fn changed(&self) -> Result<String> {
        let mut configuration = self.configuration();
        for subject in subjects() {
            let (there, instead) = subject.change;
            ensure!(configuration.matches(there).count() == 1, "{there:?} should stand there once");
            configuration = configuration.replace(there, instead);
        }
        Ok(configuration)
    }

    fn change_elsewhere(&self, state: &State) -> Result<()> {
        let api = self.bench.api()?;
        for subject in subjects() {
            (subject.patch)(&api, state.text(subject.address, "id")?, &(subject.elsewhere)())?;
        }
        Ok(())
    }
}

/// What a plan does with each kind.
fn each_is(plan: &Plan, action: &str) -> Result<()> {
    for subject in subjects() {
        let planned = plan.actions(subject.address)?;
        ensure!(planned == [action], "{} should be {action}, and is {planned:?}", subject.address);
    }
    Ok(())
}

/// Plans with the configuration that Terraform writes for imports.
fn generated(workspace: &Workspace) -> Result<Plan> {
    let generate = ["plan", "-no-color", "-out=plan.bin", "-generate-config-out=generated.tf"];
    workspace.run(&generate)?.ok()?;
    let text = workspace.run(&["show", "-json", "plan.bin"])?.ok()?;
    Ok(Plan { document: serde_json::from_str(&text)? })
}

#[test]
fn every_resource_is_in_the_table() {
    let dir = repository().join("provider/terraform-provider-lifeboat/docs/resources");
    let mut there: Vec<String> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| format!("lifeboat_{}", entry.unwrap().path().file_stem().unwrap().to_str().unwrap()))
        .collect();
    there.sort();
    let mut here: Vec<&str> = subjects().iter().map(Subject::kind).collect();
    here.sort_unstable();
    assert_eq!(here, there);
}

#[test]
fn every_kind_is_created_changed_in_place_imported_and_destroyed() {
    let all = Everything::new("matrix-life", Tier::Attached).unwrap();
    let workspace = &all.bench.workspace;
    workspace.write(&all.configuration()).unwrap();
    each_is(&workspace.plan().unwrap(), "create").unwrap();
    workspace.run(&["apply", "-no-color", "-auto-approve", "-target=lifeboat_vault.main"]).unwrap().ok().unwrap();
    all.open_vault().unwrap();
    workspace.step(&all.configuration(), |_| Ok(()), |_| Ok(())).unwrap();
    workspace
        .step(
            &all.changed().unwrap(),
            |plan| {
                ensure!(plan.changes() == subjects().len(), "{} changes", plan.changes());
                each_is(plan, "update")
            },
            |_| Ok(()),
        )
        .unwrap();

    // Forgotten, and imported by id.
    let state = workspace.state().unwrap();
    for subject in subjects() {
        workspace.forget(subject.address).unwrap();
        let id = state.text(subject.address, "id").unwrap();
        workspace.import(subject.address, id).with_context(|| subject.address).unwrap();
    }
    // By blocks, without any configuration by hand.
    let addresses = workspace.run(&["state", "list"]).unwrap().ok().unwrap();
    let addresses: Vec<&str> = addresses.lines().collect();
    let mut imports = HEAD.to_owned();
    for address in &addresses {
        let id = state.text(address, "id").unwrap();
        imports += &format!("import {{\n  to = {address}\n  id = \"{id}\"\n}}\n");
        workspace.forget(address).unwrap();
    }
    workspace.write(&imports).unwrap();
    let plan = generated(workspace).unwrap();
    each_is(&plan, "no-op").unwrap();
    assert_eq!(plan.changes(), 0, "{}", plan.document["resource_changes"]);
    assert!(addresses.iter().all(|address| plan.importing(address).is_some()));
    workspace.apply().unwrap();
    workspace.plan_is_empty(false).unwrap();
    workspace.plan_is_empty(true).unwrap();
    workspace.destroy().unwrap();
}

/// What [`Everything`] lacks: every block and argument that nothing else needs, and order that counts. By kind and name.
fn enrich(all: &Everything, state: &State) -> Result<()> {
    let api = all.bench.api()?;
    let id = |address: &str| state.text(address, "id").map(str::to_owned);
    let (machine, volume) = (id("lifeboat_machine.db")?, id("lifeboat_volume.data")?);
    let (source, isolated) = (id("lifeboat_network.source")?, id("lifeboat_network.isolated")?);
    changed_elsewhere::<Policy>(
        &api,
        &id("lifeboat_replication_policy.standard")?,
        &json!({
            "app_consistent_interval": "15m", "compression": "zstd:3",
            "retention": [{"every": "all", "for": "1h"}, {"every": "5m", "for": "24h"}],
            "resync": {"at_log_percent": 40, "window_start": "22:00", "window_end": "04:00", "timezone": "Europe/Zurich"},
            "bandwidth_limit": [{"mbps": 900, "days": ["sat", "mon"], "start": "08:00", "end": "18:00"}, {"mbps": 1000}],
        }),
    )?;
    let hooks = json!({
        "app_consistency": {"pre_script": "freeze", "post_script": "thaw", "timeout": "10s"},
        "shared_points": {"replication_group": "shop", "every": "30s"},
    });
    changed_elsewhere::<Group>(&api, &id("lifeboat_consistency_group.erp")?, &hooks)?;
    // A mapping has a target for each subnet of its source: the target's come first.
    let target = json!({"subnet": [{"name": "data", "cidr": "10.30.1.0/24"}, {"name": "web", "cidr": "10.30.0.0/24"}]});
    changed_elsewhere::<Network>(&api, &id("lifeboat_network.target")?, &target)?;
    let subnets = json!({"subnet": [
        {"name": "web", "cidr": "10.20.0.0/24", "gateway": "10.20.0.1"}, {"name": "data", "cidr": "10.20.1.0/24"},
    ]});
    changed_elsewhere::<Network>(&api, &source, &subnets)?;
    let crossed = json!({"subnet": [{"source": "web", "target": "data"}, {"source": "data", "target": "web"}]});
    changed_elsewhere::<NetworkMapping>(&api, &id("lifeboat_network_mapping.out")?, &crossed)?;
    changed_elsewhere::<Machine>(
        &api,
        &machine,
        &json!({
            "firmware": "uefi", "disk": [{"volume_id": volume, "boot": true}],
            "network_interface": [
                {"network_id": source, "mac": "52:54:00:AA:00:01", "address": "10.20.0.12", "test_address": "10.40.0.9"},
                {"network_id": source, "address": "10.20.0.11"},
            ],
            "target": {"cpus": 1, "memory_mib": 256, "anti_affinity_group": "db"},
        }),
    )?;
    changed_elsewhere::<RecoveryPlan>(
        &api,
        &id("lifeboat_recovery_plan.erp")?,
        &json!({
            "shutdown": {
                "timeout": "2m",
                "pre_action": [{"name": "warn", "type": "manual", "instruction": "Tell ${everybody} of \"it\".", "kinds": ["planned"]}],
                "post_action": [{"name": "gone", "type": "script", "script": "verify"}],
            },
            "boot_group": [{
                "name": "second in the alphabet", "machine_ids": [machine],
                "pre_action": [{"name": "z", "type": "script", "script": "check", "directions": ["failback", "failover"]}],
                "post_action": [
                    {"name": "y", "type": "http", "url": "https://monitoring.example/hook", "kinds": ["unplanned", "test"]},
                    {"name": "a", "type": "script", "script": "verify", "timeout": "90s"},
                ],
            }],
        }),
    )?;
    let hash = "0".repeat(64);
    changed_elsewhere::<Drill>(
        &api,
        &id("lifeboat_drill.probe")?,
        &json!({
            "max_rto": "30m", "max_rpo": "10m", "point": "latest-processed", "network": isolated,
            "assertion": [
                {"type": "tcp", "machine_id": machine, "port": 22, "interface": 1},
                {"type": "http", "machine_id": machine, "path": "/up", "status": 204, "tls": true, "contains": "ok", "within": "10m"},
                {"type": "boots", "machine_id": machine, "contains": "login:"},
                {"type": "screen", "machine_id": machine},
                {"type": "file_hash", "volume_id": volume, "path": "/log", "sha256": hash, "partition": 2},
                {"type": "script", "script": "check"},
            ],
            "schedule": {"every": "6d", "days": ["sun", "sat"], "start": "22:00", "end": "04:00", "timezone": "Europe/Zurich"},
        }),
    )
}

#[test]
fn every_kind_is_written_anew_by_the_export_and_by_terraform_with_everything_that_it_can_say() {
    let all = Everything::applied("matrix-export", Tier::Attached).unwrap();
    enrich(&all, &all.bench.workspace.state().unwrap()).unwrap();
    let addresses = all.bench.workspace.run(&["state", "list"]).unwrap().ok().unwrap();
    let dir = all.bench.scratch.path();
    // Written by the gateway at the recovery site, once it has heard of all that: the other may be lost.
    let declared = |gateway: &Gateway| -> Result<Vec<Value>> {
        let api = Api::of(gateway)?;
        let mut found = Vec::new();
        for subject in subjects() {
            let objects: Vec<Value> = api.call(async |client| client.list(subject.path, &[]).await)?;
            found.extend(objects.into_iter().map(|object| object["spec"].clone()));
        }
        Ok(found)
    };
    let wanted = declared(&all.bench.gateway).unwrap();
    let knows = || Ok((declared(&all.standby)? == wanted).then_some(()));
    eventually("the gateway at the recovery site to know", SETTLES_WITHIN, knows).unwrap();
    let (environment, export) = (all.standby.client_environment(), dir.join("export"));
    let written = all.standby.json(&["terraform", "export", "--out", &export.display().to_string()]).unwrap();
    assert_eq!(written["resources"], addresses.lines().count(), "{written}");
    let anew = Workspace::new(&export, Tier::Attached, environment.clone()).unwrap();
    let plan = anew.plan().unwrap();
    assert_eq!(plan.changes(), 0, "{}", plan.document["resource_changes"]);
    anew.apply().unwrap();
    anew.plan_is_empty(false).unwrap();
    anew.plan_is_empty(true).unwrap();

    // The same imports, and what Terraform itself writes for them.
    let generated_at = dir.join("generated");
    let by_terraform = Workspace::new(&generated_at, Tier::Attached, environment).unwrap();
    for file in ["versions.tf", "imports.tf"] {
        std::fs::copy(export.join(file), generated_at.join(file)).unwrap();
    }
    let plan = generated(&by_terraform).unwrap();
    assert_eq!(plan.changes(), 0, "{}", plan.document["resource_changes"]);
    by_terraform.apply().unwrap();
    by_terraform.plan_is_empty(false).unwrap();
    by_terraform.plan_is_empty(true).unwrap();

    // What has an order keeps it.
    let machine = anew.state().unwrap().attributes("lifeboat_machine.db").unwrap().clone();
    assert_eq!(machine["network_interface"][0]["address"], "10.20.0.12", "{machine}");
    let plan = by_terraform.state().unwrap().attributes("lifeboat_recovery_plan.erp").unwrap().clone();
    let actions = &plan["boot_group"][0]["post_action"];
    assert!(actions[0]["name"] == "y" && actions[1]["name"] == "a", "{actions}");
    assert_eq!(plan["boot_group"][0]["pre_action"][0]["directions"], json!(["failback", "failover"]));
    let drill = by_terraform.state().unwrap().attributes("lifeboat_drill.probe").unwrap().clone();
    let types: Vec<&Value> = drill["assertion"].as_array().unwrap().iter().map(|one| &one["type"]).collect();
    assert_eq!(types, ["tcp", "http", "boots", "screen", "file_hash", "script"]);
}

#[test]
fn every_kind_that_was_changed_or_deleted_elsewhere_is_planned_again() {
    let all = Everything::applied("matrix-drift", Tier::Attached).unwrap();
    let workspace = &all.bench.workspace;
    let state = workspace.state().unwrap();
    all.change_elsewhere(&state).unwrap();
    let plan = workspace.plan().unwrap();
    each_is(&plan, "update").unwrap();
    assert_eq!(plan.changes(), subjects().len());
    workspace.apply().unwrap();
    workspace.plan_is_empty(true).unwrap();

    // All of it disappears, the last first. What was made for it goes on first: gateways let go of what they served.
    let api = all.bench.api().unwrap();
    let addresses = workspace.run(&["state", "list"]).unwrap().ok().unwrap();
    for subject in subjects().iter().rev() {
        for address in addresses.lines().filter(|address| address.split('.').next() == Some(subject.kind())) {
            let id = state.text(address, "id").unwrap();
            eventually(&format!("{address} to go"), SETTLES_WITHIN, || Ok((subject.delete)(&api, id).ok())).unwrap();
        }
    }
    let plan = workspace.plan().unwrap();
    each_is(&plan, "create").unwrap();
    assert_eq!(plan.changes(), addresses.lines().count());
    // A vault that was detached holds what it held: it is opened, and not made again.
    let outcome = workspace.run(&["apply", "-no-color", "plan.bin"]).unwrap();
    assert!(!outcome.status.success() && outcome.stderr.contains("The vault exists already"), "{}", outcome.stderr);
    let dir = all.bench.scratch.path().display();
    let (url, key) = (format!("file://{dir}/vault"), format!("{dir}/vault.key"));
    all.bench.gateway.run(&["vault", "open", &url, "--key-file", &key]).unwrap().ok().unwrap();
    let id = state.text("lifeboat_vault.main", "id").unwrap();
    workspace.run(&["import", "-no-color", "lifeboat_vault.main", id]).unwrap().ok().unwrap();
    workspace.plan().unwrap();
    workspace.apply().unwrap();
    workspace.plan_is_empty(true).unwrap();
    workspace.destroy().unwrap();
}

#[test]
fn every_kind_that_someone_changed_since_the_plan_is_as_planned_after_the_apply() {
    let all = Everything::applied("matrix-stale", Tier::Attached).unwrap();
    let workspace = &all.bench.workspace;
    workspace.write(&all.changed().unwrap()).unwrap();
    each_is(&workspace.plan().unwrap(), "update").unwrap();
    all.change_elsewhere(&workspace.state().unwrap()).unwrap();
    workspace.apply().unwrap();
    workspace.plan_is_empty(true).unwrap();
}

#[test]
fn every_kind_that_someone_changes_between_the_read_and_the_change_is_changed_all_the_same() {
    let all = Everything::applied("matrix-412", Tier::Installed).unwrap();
    let state = all.bench.workspace.state().unwrap();
    let between = GoBetween::start(&all.bench.gateway, all.bench.scratch.path()).unwrap();
    let workspace = all.bench.workspace.through(between.client_environment());
    workspace.write(&all.changed().unwrap()).unwrap();
    each_is(&workspace.plan().unwrap(), "update").unwrap();

    // The provider has read the object, and its change is on the way: someone else is faster, once for each.
    let ids: Vec<(String, Subject)> = subjects()
        .into_iter()
        .map(|subject| (state.text(subject.address, "id").unwrap().to_owned(), subject))
        .collect();
    let left = Arc::new(Mutex::new(ids));
    let (api, waiting) = (Mutex::new(all.bench.api().unwrap()), Arc::clone(&left));
    between.treat(move |method, path| {
        let mut waiting = waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let of_it = |(id, subject): &(String, Subject)| *path == format!("{}/{id}", subject.path);
        if method == http::Method::PATCH
            && let Some(at) = waiting.iter().position(of_it)
        {
            let (id, subject) = waiting.swap_remove(at);
            let api = api.lock().unwrap_or_else(PoisonError::into_inner);
            (subject.patch)(&api, &id, &(subject.elsewhere)()).unwrap();
        }
        Treatment::Pass
    });
    drop(between.answered());
    workspace.apply().unwrap();
    assert_eq!(left.lock().unwrap().len(), 0, "every kind was struck");
    let answered = between.answered();
    for subject in subjects() {
        let path = format!("{}/{}", subject.path, state.text(subject.address, "id").unwrap());
        let patches = answered.iter().filter(|one| one.method == http::Method::PATCH && one.path == path);
        let statuses: Vec<u16> = patches.map(|one| one.status.as_u16()).collect();
        assert_eq!(statuses, [412, 200], "{}", subject.address);
    }
    workspace.plan_is_empty(true).unwrap();

    // Who is always faster is named in the end, and nothing is lost.
    let site = state.text("lifeboat_site.onprem", "id").unwrap().to_owned();
    let (api, path) = (Mutex::new(all.bench.api().unwrap()), format!("/v1/sites/{site}"));
    let mut turn = 0;
    between.treat(move |method, asked| {
        if method == http::Method::PATCH && asked == path {
            turn += 1;
            let api = api.lock().unwrap_or_else(PoisonError::into_inner);
            changed_elsewhere::<Site>(&api, &site, &json!({"description": format!("{turn}")})).unwrap();
        }
        Treatment::Pass
    });
    let again = all.changed().unwrap().replace("by the sea", "in the hills");
    workspace.write(&again).unwrap();
    let outcome = workspace.run(&["apply", "-no-color", "-auto-approve"]).unwrap();
    assert!(!outcome.status.success(), "{}", outcome.stdout);
    assert!(outcome.stderr.contains("Someone else is changing it"), "{}", outcome.stderr);
    between.treat(|_, _| Treatment::Pass);
    workspace.plan().unwrap();
    workspace.apply().unwrap();
    workspace.plan_is_empty(true).unwrap();

    // And a deletion meets a change in the same way.
    let isolated = state.text("lifeboat_network.isolated", "id").unwrap().to_owned();
    let (api, path) = (Mutex::new(all.bench.api().unwrap()), format!("/v1/networks/{isolated}"));
    let mut struck = false;
    between.treat(move |method, asked| {
        if method == http::Method::DELETE && asked == path && !std::mem::replace(&mut struck, true) {
            let api = api.lock().unwrap_or_else(PoisonError::into_inner);
            changed_elsewhere::<Network>(&api, &isolated, &json!({"bridge": "br7"})).unwrap();
        }
        Treatment::Pass
    });
    drop(between.answered());
    workspace.destroy().unwrap();
    let refused = between.answered().into_iter().filter(|one| one.method == http::Method::DELETE && one.status == 412);
    assert_eq!(refused.count(), 1);
}

#[test]
fn every_kind_in_a_state_of_an_older_provider_plans_empty() {
    let all = Everything::applied("matrix-upgrade", Tier::Attached).unwrap();
    let workspace = &all.bench.workspace;
    let pulled = workspace.run(&["state", "pull"]).unwrap().ok().unwrap();
    let mut state: Value = serde_json::from_str(&pulled).unwrap();
    let subjects = subjects();
    for resource in state["resources"].as_array_mut().unwrap() {
        let kind = resource["type"].as_str().unwrap().to_owned();
        let subject = subjects.iter().find(|subject| subject.kind() == kind).expect("it is in the table");
        let attributes = resource["instances"][0]["attributes"].as_object_mut().unwrap();
        for name in subject.newer {
            assert!(attributes.remove(*name).is_some(), "{kind} has no {name}: {attributes:?}");
        }
        attributes.insert("of_another_time".to_owned(), "gone".into());
    }
    state["serial"] = (state["serial"].as_u64().unwrap() + 1).into();
    std::fs::write(workspace.dir().join("older.tfstate"), state.to_string()).unwrap();
    workspace.run(&["state", "push", "older.tfstate"]).unwrap().ok().unwrap();
    workspace.plan_is_empty(true).unwrap();
    // What a refresh wrote is a state of today.
    workspace.run(&["apply", "-no-color", "-auto-approve", "-refresh-only"]).unwrap().ok().unwrap();
    let state = workspace.run(&["state", "pull"]).unwrap().ok().unwrap();
    assert!(!state.contains("of_another_time"), "{state}");
    for name in subjects.iter().flat_map(|subject| subject.newer) {
        assert!(state.contains(&format!("\"{name}\"")), "{name} is not in the state:\n{state}");
    }
    workspace.destroy().unwrap();
}

#[test]
fn ctrl_c_while_any_kind_is_being_made_loses_nothing() {
    let all = Everything::new("matrix-ctrl-c", Tier::Installed).unwrap();
    let between = GoBetween::start(&all.bench.gateway, all.bench.scratch.path()).unwrap();
    let workspace = all.bench.workspace.through(between.client_environment());
    workspace.write(&all.configuration()).unwrap();
    workspace.init().unwrap();
    let mut made: Vec<(&str, String)> = Vec::new();
    for subject in subjects() {
        // The gateway has made it, and the provider has no answer yet.
        let mut kept = false;
        between.treat(move |method, path| {
            let is_it = method == http::Method::POST && path == subject.path && !std::mem::replace(&mut kept, true);
            if is_it { Treatment::KeepAnswer } else { Treatment::Pass }
        });
        let target = format!("-target={}", subject.address);
        let printed = workspace
            .interrupted_apply(&[&target], subject.address, || Ok(between.keeps_answer()), || between.let_go())
            .with_context(|| subject.address)
            .unwrap();
        between.treat(|_, _| Treatment::Pass);
        let state = workspace.state().unwrap();
        let id = state.text(subject.address, "id").with_context(|| format!("it is lost:\n{printed}")).unwrap();
        made.push((subject.address, id.to_owned()));
        if subject.path == Vault::PATH {
            all.open_vault().unwrap();
        }
    }
    // What is missing is made, what was interrupted is finished, and nothing is made again.
    let plan = workspace.plan().unwrap();
    for (address, _) in &made {
        let wanted = if *address == "lifeboat_drill.probe" { "update" } else { "no-op" };
        assert_eq!(plan.actions(address).unwrap(), [wanted], "{address}");
    }
    workspace.apply().unwrap();
    workspace.plan_is_empty(true).unwrap();
    let state = workspace.state().unwrap();
    for (address, id) in &made {
        assert_eq!(state.text(address, "id").unwrap(), id, "{address}");
    }
    assert_eq!(state.attributes("lifeboat_drill.probe").unwrap()["passed"], true, "the run is made up for");
    workspace.destroy().unwrap();
}

#[test]
fn every_kind_that_cannot_be_is_refused_at_plan_where_it_stands() {
    let all = Everything::new("matrix-refused", Tier::Attached).unwrap();
    for subject in subjects() {
        let (there, instead, part) = subject.refused;
        let configuration = all.configuration();
        assert_eq!(configuration.matches(there).count(), 1, "{there:?} should stand there once");
        let configuration = configuration.replace(there, instead);
        let said = all.bench.refused(&configuration).unwrap();
        assert!(blames(&said, &configuration, instead, part), "{}: {said:#?}", subject.address);
        let whose = said.iter().filter_map(|one| one.address.as_deref()).collect::<Vec<_>>();
        assert!(whose.iter().all(|address| *address == subject.address), "{whose:?}");
    }
}
