//! What is declared of a recovery, through the real `terraform`: networks and mappings, machines, recovery plans, from create to
//! destroy.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lifeboat_acceptance::bench::{Bench, blames, changed_elsewhere, deleted_elsewhere};
use lifeboat_acceptance::binaries::repository;
use lifeboat_acceptance::command::Outcome;
use lifeboat_acceptance::eventually;
use lifeboat_acceptance::gateway::Gateway;
use lifeboat_acceptance::terraform::{Plan, Tier, Workspace};
use lifeboat_api::client::Collection;
use lifeboat_api::types::{Machine, Network, NetworkMapping, Plan as RecoveryPlan, Readiness};

/// A bench whose provider is one process for all commands.
fn bench(label: &str) -> Result<Bench> {
    Bench::new(label, Tier::Attached)
}

trait Declared {
    /// The provider, a vault and two sites, before `parts`.
    fn configuration(&self, parts: &[&str]) -> String;
}

impl Declared for Bench {
    fn configuration(&self, parts: &[&str]) -> String {
        let dir = self.scratch.path().display().to_string();
        FOUNDATION.replace("DIR", &dir) + &parts.concat()
    }
}

const FOUNDATION: &str = r#"
terraform {
  required_providers {
    lifeboat = {
      source = "lifeboat-dr/lifeboat"
    }
  }
}

resource "lifeboat_vault" "main" {
  name        = "main"
  storage_url = "file://DIR/vault"
  encryption {
    key_source = "key_file"
    key_file   = "DIR/vault.key"
  }
}

resource "lifeboat_site" "onprem" {
  vault_id = lifeboat_vault.main.id
  name     = "onprem"
}

resource "lifeboat_site" "recovery" {
  vault_id = lifeboat_vault.main.id
  name     = "recovery"
}
"#;

const NETWORKS: &str = r#"
resource "lifeboat_network" "source" {
  site_id = lifeboat_site.onprem.id
  name    = "servers"
  bridge  = "br-servers"
  subnet {
    name    = "web"
    cidr    = "10.20.0.0/24"
    gateway = "10.20.0.1"
  }
  subnet {
    name = "db"
    cidr = "10.20.1.0/24"
  }
}

resource "lifeboat_network" "target" {
  site_id = lifeboat_site.recovery.id
  name    = "servers"
  subnet {
    name = "data"
    cidr = "10.30.1.0/24"
  }
  subnet {
    name = "web"
    cidr = "10.30.0.0/24"
  }
}

resource "lifeboat_network" "isolated" {
  site_id = lifeboat_site.recovery.id
  name    = "isolated"
}
"#;

const MAPPING: &str = r#"
resource "lifeboat_network_mapping" "out" {
  source_network_id = lifeboat_network.source.id
  target_network_id = lifeboat_network.target.id
  test_network_id   = lifeboat_network.isolated.id
  subnet {
    source = "db"
    target = "data"
  }
}
"#;

const OF_NETWORKS: [&str; 4] =
    ["lifeboat_network.source", "lifeboat_network.target", "lifeboat_network.isolated", "lifeboat_network_mapping.out"];

/// Everything of a plan that is imported by blocks, with the configuration that Terraform generates for it.
fn imported_by_blocks(workspace: &Workspace, head: &str, addresses: &[&str]) -> Result<()> {
    let state = workspace.state()?;
    let mut configuration = head.to_owned();
    let mut ids = Vec::new();
    for address in addresses {
        let id = state.text(address, "id")?.to_owned();
        configuration += &format!("import {{\n  to = {address}\n  id = \"{id}\"\n}}\n");
        ids.push(id);
        workspace.forget(address)?;
    }
    workspace.write(&configuration)?;
    let generate = ["plan", "-no-color", "-out=plan.bin", "-generate-config-out=generated.tf"];
    workspace.run(&generate)?.ok()?;
    let text = workspace.run(&["show", "-json", "plan.bin"])?.ok()?;
    let plan = Plan { document: serde_json::from_str(&text)? };
    for (address, id) in addresses.iter().zip(&ids) {
        ensure!(plan.actions(address)? == ["no-op"], "{address} should be imported as it is: {}", plan.document);
        ensure!(plan.importing(address) == Some(id), "{address} is not imported");
    }
    workspace.apply()?;
    workspace.plan_is_empty(false)?;
    workspace.plan_is_empty(true)
}

#[test]
fn networks_are_created_changed_in_place_imported_and_destroyed() {
    let bench = bench("tf-networks").unwrap();
    let workspace = &bench.workspace;
    let configuration = bench.configuration(&[NETWORKS, MAPPING]);
    workspace
        .step(
            &configuration,
            |plan| {
                for address in OF_NETWORKS {
                    ensure!(plan.actions(address)? == ["create"], "{address} should be created");
                }
                Ok(())
            },
            |state| {
                let subnets = &state.attributes("lifeboat_network.target")?["subnet"];
                ensure!(subnets[0]["name"] == "data" && subnets[1]["name"] == "web", "order of the subnets: {subnets}");
                ensure!(state.text("lifeboat_network_mapping.out", "address_rule")? == "keep-or-next-free");
                Ok(())
            },
        )
        .unwrap();

    // Names, bridges, subnets and what a test joins change in place.
    let changed = configuration
        .replace("bridge  = \"br-servers\"", "bridge  = \"br0\"")
        .replace("name    = \"isolated\"", "name    = \"quarantine\"")
        .replace("10.30.1.0/24", "10.31.0.0/16")
        .replace("  test_network_id   = lifeboat_network.isolated.id\n", "  address_rule = \"next-free\"\n");
    workspace
        .step(
            &changed,
            |plan| {
                for address in OF_NETWORKS {
                    ensure!(plan.actions(address)? == ["update"], "{address} should be changed in place");
                }
                Ok(())
            },
            |state| {
                ensure!(state.attributes("lifeboat_network.target")?["subnet"][0]["cidr"] == "10.31.0.0/16");
                ensure!(state.attributes("lifeboat_network_mapping.out")?["test_network_id"].is_null());
                Ok(())
            },
        )
        .unwrap();
    let other = changed.replace(
        "site_id = lifeboat_site.recovery.id\n  name    = \"quarantine\"",
        "site_id = lifeboat_site.onprem.id\n  name    = \"quarantine\"",
    );
    workspace.write(&other).unwrap();
    assert_eq!(workspace.plan().unwrap().actions("lifeboat_network.isolated").unwrap(), ["delete", "create"]);

    workspace.write(&changed).unwrap();
    let state = workspace.state().unwrap();
    for address in OF_NETWORKS.iter().rev() {
        let id = state.text(address, "id").unwrap();
        workspace.forget(address).unwrap();
        workspace.import(address, id).with_context(|| format!("import {address}")).unwrap();
    }
    imported_by_blocks(workspace, &bench.configuration(&[]), &OF_NETWORKS).unwrap();
    workspace.destroy().unwrap();
    let left = bench.api().unwrap().call(async |client| client.list::<Network>(Network::PATH, &[]).await).unwrap();
    assert!(left.is_empty());
}

#[test]
fn networks_that_were_changed_or_deleted_elsewhere_are_planned_again() {
    let bench = bench("tf-networks-drift").unwrap();
    let workspace = &bench.workspace;
    let configuration = bench.configuration(&[NETWORKS, MAPPING]);
    workspace.step(&configuration, |_| Ok(()), |_| Ok(())).unwrap();
    let api = bench.api().unwrap();
    let state = workspace.state().unwrap();
    let id = |address: &str| state.text(address, "id").unwrap().to_owned();
    let (source, mapping) = (id("lifeboat_network.source"), id("lifeboat_network_mapping.out"));

    changed_elsewhere::<Network>(&api, &source, &serde_json::json!({"bridge": "br9"})).unwrap();
    deleted_elsewhere::<NetworkMapping>(&api, &mapping).unwrap();
    deleted_elsewhere::<Network>(&api, &id("lifeboat_network.isolated")).unwrap();
    let plan = workspace.plan().unwrap();
    assert_eq!(plan.actions("lifeboat_network.source").unwrap(), ["update"]);
    assert_eq!(plan.actions("lifeboat_network.isolated").unwrap(), ["create"]);
    assert_eq!(plan.actions("lifeboat_network_mapping.out").unwrap(), ["create"]);
    assert_eq!(plan.changes(), 3);
    workspace.apply().unwrap();
    workspace.plan_is_empty(true).unwrap();

    // Someone is faster between plan and apply: what was planned is so all the same.
    let wanted = configuration
        .replace("br-servers", "br1")
        .replace("  test_network_id   = lifeboat_network.isolated.id\n", "  address_rule = \"next-free\"\n");
    workspace.write(&wanted).unwrap();
    assert_eq!(workspace.plan().unwrap().changes(), 2);
    changed_elsewhere::<Network>(&api, &source, &serde_json::json!({"bridge": "br9"})).unwrap();
    let mapping = workspace.state().unwrap().text("lifeboat_network_mapping.out", "id").unwrap().to_owned();
    changed_elsewhere::<NetworkMapping>(&api, &mapping, &serde_json::json!({"test_network_id": null})).unwrap();
    workspace.apply().unwrap();
    workspace.plan_is_empty(true).unwrap();
    let found = api.call(async |client| client.read::<Network>(&source).await).unwrap();
    assert_eq!(found.spec.bridge.as_deref(), Some("br1"));

    // What someone else made of a network is in the way of its destruction, and is named.
    let guest = serde_json::json!({
        "source_network_id": id("lifeboat_network.target"), "target_network_id": source,
        "subnet": [{"source": "data", "target": "db"}],
    });
    let guest: NetworkMapping = api.call(async |client| client.post(NetworkMapping::PATH, &guest).await).unwrap();
    let outcome = workspace.run(&["destroy", "-no-color", "-auto-approve"]).unwrap();
    let said = format!("{}{}", outcome.stdout, outcome.stderr);
    assert!(!outcome.status.success() && said.contains(&format!("({})", guest.id)), "{said}");
    assert!(said.contains("network mapping recovery/servers to onprem/servers"), "{said}");
    deleted_elsewhere::<NetworkMapping>(&api, &guest.id.to_string()).unwrap();
    workspace.destroy().unwrap();
}

#[test]
fn networks_that_cannot_be_are_refused_where_it_stands() {
    let bench = bench("tf-networks-refused").unwrap();
    let cases = [
        ("10.20.1.0/24", "10.20.0.128/25", "10.20.0.128/25", "overlaps 10.20.0.0/24"),
        ("gateway = \"10.20.0.1\"", "gateway = \"10.21.0.1\"", "gateway = \"10.21.0.1\"", "10.20.0.0/24"),
        ("10.20.1.0/24", "10.20.1.7/24", "10.20.1.7/24", "the range is 10.20.1.0/24"),
        (
            "source = \"db\"\n    target = \"data\"\n  }",
            "source = \"db\"\n    target = \"data\"\n  }\n  address_rule = \"keep\"",
            "address_rule = \"keep\"",
            "next-free",
        ),
    ];
    for (there, instead, line, part) in cases {
        let configuration = bench.configuration(&[NETWORKS, MAPPING]).replace(there, instead);
        let said = bench.refused(&configuration).unwrap();
        assert!(blames(&said, &configuration, line, part), "{line}: {said:#?}");
    }
}

const MACHINES: &str = r#"
resource "lifeboat_gateway" "primary" {
  site_id = lifeboat_site.onprem.id
  name    = "primary"
}

resource "lifeboat_replication_policy" "standard" {
  vault_id                = lifeboat_vault.main.id
  name                    = "standard"
  recovery_point_interval = "1s"
  retention {
    every = "all"
    for   = "1h"
  }
}

resource "lifeboat_consistency_group" "erp" {
  vault_id  = lifeboat_vault.main.id
  site_id   = lifeboat_site.onprem.id
  name      = "erp"
  policy_id = lifeboat_replication_policy.standard.id
}

resource "lifeboat_volume" "disk" {
  count      = 3
  group_id   = lifeboat_consistency_group.erp.id
  gateway_id = lifeboat_gateway.primary.id
  name       = "disk${count.index}"
  size_gib   = 0.0625
}

resource "lifeboat_machine" "db" {
  site_id    = lifeboat_site.onprem.id
  name       = "db"
  group_id   = lifeboat_consistency_group.erp.id
  cpus       = 2
  memory_mib = 2048
  disk {
    volume_id = lifeboat_volume.disk[1].id
  }
  disk {
    volume_id = lifeboat_volume.disk[0].id
    boot      = true
  }
  network_interface {
    network_id = lifeboat_network.source.id
    address    = "10.20.1.11"
  }
  target {
    memory_mib = 1024
  }
}

resource "lifeboat_machine" "web" {
  site_id    = lifeboat_site.onprem.id
  name       = "web"
  group_id   = lifeboat_consistency_group.erp.id
  cpus       = 1
  memory_mib = 512
  firmware   = "uefi"
  disk {
    volume_id = lifeboat_volume.disk[2].id
  }
  network_interface {
    network_id = lifeboat_network.source.id
    mac        = "52:54:00:AA:00:01"
    address    = "10.20.0.11"
  }
}
"#;

const PLAN: &str = r#"
resource "lifeboat_recovery_plan" "erp" {
  vault_id       = lifeboat_vault.main.id
  name           = "erp"
  source_site_id = lifeboat_site.onprem.id
  target_site_id = lifeboat_site.recovery.id

  shutdown {
    pre_action {
      name        = "warn"
      type        = "manual"
      instruction = "Tell the users."
      kinds       = ["planned"]
    }
  }

  boot_group {
    name        = "second in the alphabet"
    machine_ids = [lifeboat_machine.db.id]
    post_action {
      name   = "z"
      type   = "script"
      script = "check-database"
    }
    post_action {
      name       = "a"
      type       = "http"
      url        = "https://monitoring.example/hook"
      directions = ["failover"]
      timeout    = "90s"
    }
  }
  boot_group {
    name        = "first in the alphabet"
    machine_ids = [lifeboat_machine.web.id]
  }

  depends_on = [lifeboat_network_mapping.out]
}
"#;

/// What others may ask.
const OBSERVED: &str = r#"
data "lifeboat_recovery_plan" "erp" {
  id = lifeboat_recovery_plan.erp.id
}

data "lifeboat_protection_status" "db" {
  machine_id = lifeboat_machine.db.id
}
"#;

const OF_MACHINES: [&str; 2] = ["lifeboat_machine.db", "lifeboat_machine.web"];
const OF_PLANS: [&str; 1] = ["lifeboat_recovery_plan.erp"];

#[test]
fn machines_are_created_changed_in_place_imported_and_destroyed() {
    let bench = bench("tf-machines").unwrap();
    let workspace = &bench.workspace;
    let configuration = bench.configuration(&[NETWORKS, MACHINES]);
    workspace
        .step(
            &configuration,
            |plan| {
                for address in OF_MACHINES {
                    ensure!(plan.actions(address)? == ["create"], "{address} should be created");
                }
                Ok(())
            },
            |state| {
                let db = state.attributes("lifeboat_machine.db")?;
                ensure!(db["state"] == "protected" && db["active_site"] == "onprem", "{db}");
                ensure!(db["disk"][0]["boot"].is_null() && db["disk"][1]["boot"] == true, "order of the disks: {db}");
                ensure!(db["mac_addresses"][0].as_str().is_some_and(|mac| mac.starts_with("02:")), "{db}");
                ensure!(db["network_interface"][0]["mac"].is_null(), "{db}");
                let web = state.attributes("lifeboat_machine.web")?;
                ensure!(web["network_interface"][0]["mac"] == "52:54:00:AA:00:01", "as it was written: {web}");
                ensure!(web["mac_addresses"][0] == "52:54:00:aa:00:01", "{web}");
                Ok(())
            },
        )
        .unwrap();
    let state = workspace.state().unwrap();
    let given = state.attributes("lifeboat_machine.db").unwrap()["mac_addresses"][0].clone();

    // Everything but site and group changes in place. An address can pass from one machine to another in one run.
    let changed = configuration
        .replace("address    = \"10.20.1.11\"", "address    = \"10.20.0.11\"")
        .replace("mac        = \"52:54:00:AA:00:01\"\n    address    = \"10.20.0.11\"", "address    = \"10.20.0.12\"")
        .replace("memory_mib = 2048", "memory_mib = 4096")
        .replace("name       = \"web\"", "name       = \"www\"");
    workspace
        .step(
            &changed,
            |plan| {
                for address in OF_MACHINES {
                    ensure!(plan.actions(address)? == ["update"], "{address} should be changed in place");
                }
                ensure!(plan.changes() == 2, "{} changes", plan.changes());
                Ok(())
            },
            |state| {
                let db = state.attributes("lifeboat_machine.db")?;
                ensure!(db["mac_addresses"][0] == given, "a hardware address that was given stays: {db}");
                ensure!(state.attributes("lifeboat_machine.web")?["mac_addresses"][0] != "52:54:00:aa:00:01");
                Ok(())
            },
        )
        .unwrap();

    let state = workspace.state().unwrap();
    for address in OF_MACHINES {
        let id = state.text(address, "id").unwrap();
        workspace.forget(address).unwrap();
        workspace.import(address, id).with_context(|| format!("import {address}")).unwrap();
    }

    // Changed and deleted elsewhere, and changed between plan and apply.
    let api = bench.api().unwrap();
    let id = |address: &str| state.text(address, "id").unwrap().to_owned();
    changed_elsewhere::<Machine>(&api, &id("lifeboat_machine.db"), &serde_json::json!({"cpus": 7})).unwrap();
    deleted_elsewhere::<Machine>(&api, &id("lifeboat_machine.web")).unwrap();
    let plan = workspace.plan().unwrap();
    assert_eq!(plan.actions("lifeboat_machine.db").unwrap(), ["update"]);
    assert_eq!(plan.actions("lifeboat_machine.web").unwrap(), ["create"]);
    assert_eq!(plan.changes(), 2);
    changed_elsewhere::<Machine>(&api, &id("lifeboat_machine.db"), &serde_json::json!({"cpus": 9})).unwrap();
    workspace.apply().unwrap();
    workspace.plan_is_empty(true).unwrap();
    let db = api.call(async |client| client.read::<Machine>(&id("lifeboat_machine.db")).await).unwrap();
    assert_eq!(db.spec.cpus, 2);

    let kept = bench.configuration(&[
        NETWORKS,
        changed
            .split_once("resource \"lifeboat_gateway\"")
            .map(|(_, rest)| {
                "resource \"lifeboat_gateway\"".to_owned() + rest.split("resource \"lifeboat_machine\"").next().unwrap()
            })
            .unwrap()
            .as_str(),
    ]);
    imported_by_blocks(workspace, &kept, &OF_MACHINES).unwrap();
    workspace.destroy().unwrap();
}

#[test]
fn machines_that_clash_are_refused_where_it_stands() {
    let bench = bench("tf-machines-refused").unwrap();
    let workspace = &bench.workspace;
    // What is known without a gateway's help.
    let boot = "volume_id = lifeboat_volume.disk[1].id";
    let cases = [
        (
            boot,
            "volume_id = lifeboat_volume.disk[1].id\n    boot      = true",
            "volume_id = lifeboat_volume.disk[0].id",
            "boots from disk[0]",
        ),
        ("address    = \"10.20.1.11\"", "address    = \"10.20.1\"", "address    = \"10.20.1\"", "is no address"),
        ("memory_mib = 1024", "memory_mib = 32", "memory_mib = 32", "between 64"),
    ];
    for (there, instead, line, part) in cases {
        let configuration = bench.configuration(&[NETWORKS, MACHINES]).replacen(there, instead, 1);
        let said = bench.refused(&configuration).unwrap();
        assert!(blames(&said, &configuration, line, part), "{line}: {said:#?}");
    }
    // Of two that want the same, one is refused: which of them is planned first isn't known.
    let same = "mac        = \"52:54:00:aa:00:01\"";
    let configuration = bench.configuration(&[NETWORKS, MACHINES]).replace("address    = \"10.20.1.11\"", same);
    let said = bench.refused(&configuration).unwrap();
    let found = blames(&said, &configuration, same, "is the machine web's already")
        || blames(&said, &configuration, "52:54:00:AA:00:01", "is the machine db's already");
    assert!(found, "{said:#?}");

    // What is known once the networks are there: an address that another machine has.
    workspace.step(&bench.configuration(&[NETWORKS]), |_| Ok(()), |_| Ok(())).unwrap();
    let clash = bench.configuration(&[NETWORKS, MACHINES]).replace("10.20.1.11", "10.20.0.11");
    let said = bench.refused(&clash).unwrap();
    let clashes = said.iter().filter(|said| said.detail.contains("10.20.0.11 is the machine"));
    assert_eq!(clashes.count(), 1, "{said:#?}");
    assert!(said.iter().any(|said| said.summary.contains("clashes with another")), "{said:#?}");

    // What only the gateway knows is refused by it, under the attribute.
    let router = bench.configuration(&[NETWORKS, MACHINES]).replace("10.20.0.11", "10.20.0.1");
    workspace.write(&router).unwrap();
    let outcome = workspace.run(&["apply", "-no-color", "-auto-approve"]).unwrap();
    let said = format!("{}{}", outcome.stdout, outcome.stderr).replace(['\n', '\u{2502}'], " ");
    let said = said.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(
        !outcome.status.success() && said.contains("10.20.0.1 is the address of the router of the subnet web"),
        "{said}"
    );
    workspace.destroy().unwrap();
}

#[test]
fn plans_are_created_changed_in_place_imported_and_destroyed() {
    let bench = bench("tf-plans").unwrap();
    let workspace = &bench.workspace;
    let foundation = bench.configuration(&[NETWORKS, MAPPING, MACHINES]);
    let configuration = foundation.clone() + PLAN + OBSERVED;
    let alphabet = |state: &serde_json::Value| {
        let groups = &state["boot_group"];
        ensure!(groups[0]["name"] == "second in the alphabet", "order of the boot groups: {groups}");
        let actions = &groups[0]["post_action"];
        ensure!(actions[0]["name"] == "z" && actions[1]["name"] == "a", "order of the actions: {actions}");
        Ok(())
    };
    workspace
        .step(
            &configuration,
            |plan| {
                ensure!(plan.actions(OF_PLANS[0])? == ["create"], "the plan should be created");
                Ok(())
            },
            |state| {
                let plan = state.attributes(OF_PLANS[0])?;
                ensure!(plan["shutdown"]["timeout"] == "5m", "{plan}");
                ensure!(plan["readiness"] == "not-ready", "nobody is at the recovery site: {plan}");
                ensure!(
                    plan["reasons"].to_string().contains("no gateway of the site recovery has registered"),
                    "{plan}"
                );
                let read = state.attributes("data.lifeboat_recovery_plan.erp")?;
                ensure!(read["readiness"] == "not-ready", "{read}");
                ensure!(read["boot_groups"][1]["name"] == "first in the alphabet", "{read}");
                let status = state.attributes("data.lifeboat_protection_status.db")?;
                ensure!(status["state"] == "protected", "{status}");
                alphabet(plan)
            },
        )
        .unwrap();

    // Groups, actions and the name change in place.
    let changed = configuration
        .replace("machine_ids = [lifeboat_machine.web.id]", "volume_ids  = [lifeboat_volume.disk[2].id]")
        .replace("timeout    = \"90s\"", "kinds      = [\"unplanned\"]")
        .replace("  name           = \"erp\"\n  source", "  name           = \"all\"\n  source");
    workspace
        .step(
            &changed,
            |plan| {
                ensure!(plan.actions(OF_PLANS[0])? == ["update"], "the plan should be changed in place");
                ensure!(plan.changes() == 1, "{} changes", plan.changes());
                Ok(())
            },
            |state| {
                let plan = state.attributes(OF_PLANS[0])?;
                ensure!(plan["name"] == "all" && plan["boot_group"][1]["machine_ids"].is_null(), "{plan}");
                alphabet(plan)
            },
        )
        .unwrap();

    // A machine is replaced in one run: its plan waits for the other.
    let machine = || workspace.state().unwrap().text("lifeboat_machine.db", "id").unwrap().to_owned();
    let replaced = machine();
    let replace = ["apply", "-no-color", "-auto-approve", "-replace=lifeboat_machine.db"];
    workspace.run(&replace).and_then(Outcome::ok).unwrap();
    workspace.plan_is_empty(true).unwrap();
    assert_ne!(machine(), replaced);

    let state = workspace.state().unwrap();
    let id = state.text(OF_PLANS[0], "id").unwrap().to_owned();
    workspace.forget(OF_PLANS[0]).unwrap();
    workspace.import(OF_PLANS[0], &id).unwrap();

    // Deletions that were made elsewhere are taken back, and Terraform finds everything as it was.
    let api = bench.api().unwrap();
    deleted_elsewhere::<RecoveryPlan>(&api, &id).unwrap();
    deleted_elsewhere::<Machine>(&api, &machine()).unwrap();
    let listed = bench.gateway.json(&["deleted", "list"]).unwrap().to_string();
    assert!(listed.contains(&id) && listed.contains(&machine()), "{listed}");
    let back = bench.gateway.json(&["deleted", "undelete", "all", "--kind", "plan"]).unwrap();
    assert_eq!(back["objects"].as_array().map(Vec::len), Some(2), "{back}");
    workspace.plan_is_empty(true).unwrap();

    changed_elsewhere::<RecoveryPlan>(&api, &id, &serde_json::json!({"shutdown": null})).unwrap();
    assert_eq!(workspace.plan().unwrap().actions(OF_PLANS[0]).unwrap(), ["update"]);
    changed_elsewhere::<RecoveryPlan>(&api, &id, &serde_json::json!({"name": "between"})).unwrap();
    workspace.apply().unwrap();
    workspace.plan_is_empty(true).unwrap();
    deleted_elsewhere::<RecoveryPlan>(&api, &id).unwrap();
    assert_eq!(workspace.plan().unwrap().actions(OF_PLANS[0]).unwrap(), ["create"]);
    workspace.apply().unwrap();
    workspace.plan_is_empty(true).unwrap();
    imported_by_blocks(workspace, &foundation, &OF_PLANS).unwrap();
    workspace.destroy().unwrap();
}

#[test]
fn plans_that_cannot_work_are_refused_where_it_stands() {
    let bench = bench("tf-plans-refused").unwrap();
    let workspace = &bench.workspace;
    let foundation = bench.configuration(&[NETWORKS, MACHINES]);
    let cases = [
        ("script = \"check-database\"", "script = \"../check\"", "script = \"../check\"", "can't be a name"),
        (
            "      url        = \"https://monitoring.example/hook\"\n",
            "",
            "name       = \"a\"",
            "is required when type is `http`",
        ),
        ("machine_ids = [lifeboat_machine.web.id]", "", "name        = \"first in the alphabet\"", "needs 1 to"),
    ];
    for (there, instead, line, part) in cases {
        let plan = PLAN.replace(there, instead);
        assert_ne!(plan, PLAN, "{there} is not there");
        let configuration = bench.configuration(&[NETWORKS, MAPPING, MACHINES]) + &plan;
        let said = bench.refused(&configuration).unwrap();
        assert!(blames(&said, &configuration, line, part), "{line}: {said:#?}");
    }

    // The machines are there, and their network leads nowhere.
    workspace.step(&foundation, |_| Ok(()), |_| Ok(())).unwrap();
    let plan = PLAN.replace("  depends_on = [lifeboat_network_mapping.out]\n", "");
    let unmapped = foundation.clone() + &plan;
    let said = bench.refused(&unmapped).unwrap();
    assert!(blames(&said, &unmapped, "machine_ids = [lifeboat_machine.db.id]", "has no mapping"), "{said:#?}");
    let same =
        unmapped.replace("target_site_id = lifeboat_site.recovery.id", "target_site_id = lifeboat_site.onprem.id");
    let said = bench.refused(&same).unwrap();
    assert!(blames(&said, &same, "target_site_id = lifeboat_site.onprem.id", "must be another site"), "{said:#?}");

    // With its mapping it works, and is in the way of whoever takes away what it boots.
    workspace.step(&bench.configuration(&[NETWORKS, MAPPING, MACHINES, PLAN]), |_| Ok(()), |_| Ok(())).unwrap();
    workspace.forget(OF_PLANS[0]).unwrap();
    let outcome =
        workspace.run(&["plan", "-destroy", "-no-color", "-target=lifeboat_machine.db"]).unwrap().ok().unwrap();
    assert!(outcome.contains("recovery plan erp (plan-"), "{outcome}");
    let api = bench.api().unwrap();
    let plan = api.call(async |client| client.find_by_name::<RecoveryPlan>("erp").await).unwrap().unwrap();
    deleted_elsewhere::<RecoveryPlan>(&api, &plan.id.to_string()).unwrap();
    workspace.destroy().unwrap();
}

#[test]
fn the_example_of_a_recovery_plan_becomes_ready_as_written() {
    let bench = bench("tf-plan-example").unwrap();
    let (workspace, dir) = (&bench.workspace, bench.scratch.path());
    let url = format!("file://{}/vault", dir.display());
    let key = dir.join("vault.key").display().to_string();
    let variables = format!("vault_url = \"{url}\"\nvault_key_file = \"{key}\"\n");
    workspace.copy(&repository().join("examples/recovery-plan")).unwrap();
    std::fs::write(workspace.dir().join("terraform.tfvars"), &variables).unwrap();
    assert!(workspace.plan().unwrap().changes() >= 15);
    workspace.apply().unwrap();
    workspace.plan_is_empty(false).unwrap();
    workspace.plan_is_empty(true).unwrap();
    let state = workspace.state().unwrap();
    assert_eq!(state.text("lifeboat_recovery_plan.shop", "readiness").unwrap(), "not-ready");

    // The gateway at the recovery site opens the vault, and nothing is missing any more.
    let mut standby = Gateway::prepare("recovery", "standby", &dir.join("recovery")).unwrap();
    let machines = dir.join("machines");
    write_programs(dir, &machines).unwrap();
    standby
        .env("LIFEBOAT_COMPUTE", "script")
        .env("LIFEBOAT_COMPUTE_PROGRAMS", dir.join("compute"))
        .env("LIFEBOAT_HOOKS", dir.join("hooks"));
    standby.restart().unwrap();
    standby.run(&["vault", "open", &url, "--key-file", &key]).unwrap().ok().unwrap();
    let api = bench.api().unwrap();
    eventually("the plan to be ready", Duration::from_secs(60), || {
        let plan = api.call(async |client| client.find_by_name::<RecoveryPlan>("shop").await)?;
        let status = plan.context("the plan is declared")?.status;
        Ok((status.readiness == Readiness::Ready && status.reasons.is_empty()).then_some(()))
    })
    .unwrap();
    let listed = bench.gateway.json(&["plan", "list"]).unwrap();
    assert_eq!(listed[0]["status"]["state"], "protected", "{listed}");
    let shown = bench.gateway.run(&["machine", "show", "shop"]).unwrap().ok().unwrap();
    assert!(shown.contains("10.20.0.11") && shown.contains("mac_addresses"), "{shown}");
    workspace.plan_is_empty(true).unwrap();

    // What was declared is written anew by the command line, and plans empty.
    let export = dir.join("export");
    let out = export.display().to_string();
    bench.gateway.json(&["terraform", "export", "--out", &out]).unwrap();
    let anew = Workspace::new(&export, Tier::Attached, bench.gateway.client_environment()).unwrap();
    assert_eq!(anew.plan().unwrap().changes(), 0);

    // It is carried out, and Terraform has nothing to do at any moment of it. Nobody answers at the address of the monitoring.
    let main = workspace.dir().join("main.tf");
    let text = std::fs::read_to_string(&main).unwrap();
    std::fs::write(&main, text.replace("https://monitoring.example", "http://127.0.0.1:9")).unwrap();
    assert_eq!(workspace.plan().unwrap().changes(), 1, "the plan changes in place");
    workspace.apply().unwrap();
    let running = || std::fs::read_dir(&machines).unwrap().count();
    let over = carry_out(&standby, &["failover", "planned", "shop"]).unwrap();
    assert!(over.contains("the action tell the monitoring"), "{over}");
    standby.run(&["job", "retry", &job_of(&over), "--skip"]).unwrap().ok().unwrap();
    assert_eq!(running(), 1, "the machine runs at the recovery site");
    workspace.plan_is_empty(true).unwrap();
    let state = standby.json(&["plan", "show", "shop"]).unwrap();
    assert_eq!(state["status"]["state"], "failed-over", "{state}");
    standby.run(&["commit", "shop"]).unwrap().ok().unwrap();
    workspace.plan_is_empty(true).unwrap();
    // At home there is no program for the check, which comes first.
    let back = carry_out(&standby, &["failback", "shop"]).unwrap();
    assert!(back.contains("the action check the shop"), "{back}");
    let again = standby.run(&["job", "retry", &job_of(&back), "--skip"]).unwrap();
    assert!(again.stderr.contains("the action tell the monitoring"), "{}", again.stderr);
    standby.run(&["job", "retry", &job_of(&back), "--skip"]).unwrap().ok().unwrap();
    assert_eq!(running(), 0);
    workspace.plan_is_empty(true).unwrap();
    workspace.destroy().unwrap();
}

/// Programs that run machines as files in a directory, and the one that the plan checks the shop with.
fn write_programs(dir: &Path, machines: &Path) -> Result<()> {
    std::fs::create_dir_all(machines)?;
    let run = format!("{}/$LIFEBOAT_RUN_ID", machines.display());
    for (directory, name, text) in [
        ("compute", "start", format!("touch {run}")),
        ("compute", "stop", format!("rm -f {run}")),
        ("compute", "status", format!("if [ -e {run} ]; then echo running; else echo absent; fi")),
        ("hooks", "check-shop", "[ \"$LIFEBOAT_DIRECTION\" = failover ]".to_owned()),
    ] {
        let path = dir.join(directory).join(name);
        std::fs::create_dir_all(dir.join(directory))?;
        std::fs::write(&path, format!("#!/bin/sh\n{text}\n"))?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755))?;
    }
    Ok(())
}

/// Begins a verb on the plan, says that its manual task is done, and waits for its end: what the command said then.
fn carry_out(gateway: &Gateway, verb: &[&str]) -> Result<String> {
    let begun = gateway.json(&[verb, &["--no-wait"]].concat())?;
    let id = begun["id"].as_str().context("a job")?.to_owned();
    eventually("the job to wait for a person", Duration::from_secs(60), || {
        let job = gateway.json(&["job", "show", &id])?;
        let steps = job["steps"].as_array().context("steps")?;
        Ok(steps.iter().any(|step| step["waits_for"].is_string()).then_some(()))
    })?;
    let outcome = gateway.run(&["job", "continue", &id, "--note", "done"])?;
    ensure!(outcome.code() == 1, "an action was to fail: {}{}", outcome.stdout, outcome.stderr);
    Ok(outcome.stderr)
}

/// The id in what a command said of a job that failed.
fn job_of(said: &str) -> String {
    let at = said.rfind("job-").unwrap_or_default();
    said[at..].chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '-').collect()
}
