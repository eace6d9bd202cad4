//! What is declared of a recovery, through the real `terraform`: networks and mappings, from create to destroy.

use anyhow::{Context, Result, ensure};
use lifeboat_acceptance::estate::Api;
use lifeboat_acceptance::gateway::Gateway;
use lifeboat_acceptance::scratch::Scratch;
use lifeboat_acceptance::terraform::{Diagnostic, Plan, Tier, Workspace};
use lifeboat_api::client::Collection;
use lifeboat_api::types::{Network, NetworkMapping, Resource};

/// A gateway that Terraform talks to, and a workspace.
struct Bench {
    // Dropped in this order: Terraform's provider, the gateway, the files.
    workspace: Workspace,
    gateway: Gateway,
    scratch: Scratch,
}

impl Bench {
    fn new(label: &str) -> Result<Self> {
        let scratch = Scratch::new(label)?;
        scratch.write_key("vault.key")?;
        let gateway = Gateway::start("onprem", "primary", &scratch.path().join("onprem"))?;
        let environment = gateway.client_environment();
        let workspace = Workspace::new(&scratch.path().join("terraform"), Tier::Attached, environment)?;
        Ok(Self { workspace, gateway, scratch })
    }

    fn api(&self) -> Result<Api> {
        Api::of(&self.gateway)
    }

    /// The provider, a vault and two sites, before `parts`.
    fn configuration(&self, parts: &[&str]) -> String {
        let dir = self.scratch.path().display().to_string();
        FOUNDATION.replace("DIR", &dir) + &parts.concat()
    }

    /// Writes a configuration that can't be planned; what is said of it.
    fn refused(&self, configuration: &str) -> Result<Vec<Diagnostic>> {
        self.workspace.write(configuration)?;
        self.workspace.plan_diagnostics()
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

/// Changes an object behind Terraform's back.
fn changed_elsewhere<R: Resource + Collection>(api: &Api, id: &str, patch: &serde_json::Value) -> Result<()> {
    api.call(async |client| {
        let now: R = client.read(id).await?;
        client.patch::<R>(id, now.generation(), patch).await.map(drop)
    })
    .context("change it elsewhere")
}

/// Deletes an object behind Terraform's back.
fn deleted_elsewhere<R: Resource + Collection>(api: &Api, id: &str) -> Result<()> {
    api.call(async |client| {
        let now: R = client.read(id).await?;
        client.delete::<R>(id, now.generation()).await
    })
    .context("delete it elsewhere")
}

/// Whether an error is said of this line of the configuration, or of the block that it begins or stands in.
fn blames(diagnostics: &[Diagnostic], configuration: &str, line: &str, part: &str) -> bool {
    let wanted = configuration.lines().position(|found| found.contains(line)).map(|at| at as u64 + 1);
    diagnostics.iter().any(|said| {
        let at = said.range.as_ref().map(|range| range.start.line);
        let near = at.zip(wanted).is_some_and(|(at, wanted)| (at..=at + 3).contains(&wanted));
        said.severity == "error" && near && format!("{} {}", said.summary, said.detail).contains(part)
    })
}

#[test]
fn networks_are_created_changed_in_place_imported_and_destroyed() {
    let bench = Bench::new("tf-networks").unwrap();
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
    let bench = Bench::new("tf-networks-drift").unwrap();
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
    workspace.write(&configuration.replace("br-servers", "br1")).unwrap();
    assert_eq!(workspace.plan().unwrap().changes(), 1);
    changed_elsewhere::<Network>(&api, &source, &serde_json::json!({"bridge": "br9"})).unwrap();
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
    let bench = Bench::new("tf-networks-refused").unwrap();
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
