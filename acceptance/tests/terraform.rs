//! The provider through the real `terraform`: the life of every resource, in both tiers.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, ensure};
use lifeboat_acceptance::bench::Bench;
use lifeboat_acceptance::binaries::{lifeboat, repository};
use lifeboat_acceptance::gateway::Gateway;
use lifeboat_acceptance::scratch::Scratch;
use lifeboat_acceptance::terraform::{Tier, Workspace};
use lifeboat_api::types::{Agent, Event, Group, Policy, RegistrationKey, Site, Token, Vault, Volume};

/// A configuration of the kinds that volumes need.
trait Declared {
    /// A vault, a site, a gateway, a policy, a group and a volume, with the parts that tests change.
    fn configuration(&self, interval: &str, size_gib: u32, retention: &str, more: &str) -> String;

    fn standard(&self) -> String {
        self.configuration("2s", 1, RETENTION, "")
    }
}

impl Declared for Bench {
    fn configuration(&self, interval: &str, size_gib: u32, retention: &str, more: &str) -> String {
        let dir = self.scratch.path().display();
        format!(
            r#"
terraform {{
  required_providers {{
    lifeboat = {{
      source = "lifeboat-dr/lifeboat"
    }}
  }}
}}

resource "lifeboat_vault" "main" {{
  name        = "main"
  storage_url = "file://{dir}/vault"
  encryption {{
    key_source = "key_file"
    key_file   = "{dir}/vault.key"
  }}
}}

resource "lifeboat_site" "onprem" {{
  vault_id = lifeboat_vault.main.id
  name     = "onprem"
}}

resource "lifeboat_gateway" "primary" {{
  site_id = lifeboat_site.onprem.id
  name    = "primary"
}}

resource "lifeboat_replication_policy" "standard" {{
  vault_id                = lifeboat_vault.main.id
  name                    = "standard"
  recovery_point_interval = "{interval}"
{retention}
}}

resource "lifeboat_consistency_group" "erp" {{
  vault_id  = lifeboat_vault.main.id
  site_id   = lifeboat_site.onprem.id
  name      = "erp"
  policy_id = lifeboat_replication_policy.standard.id
}}

resource "lifeboat_volume" "data" {{
  group_id   = lifeboat_consistency_group.erp.id
  gateway_id = lifeboat_gateway.primary.id
  name       = "data"
  size_gib   = {size_gib}
}}
{more}
"#
        )
    }
}

const RETENTION: &str = "  retention {\n    every = \"all\"\n    for   = \"1h\"\n  }\n  retention {\n    every = \"5m\"\n    for   = \"24h\"\n  }";

const RESOURCES: [&str; 6] = [
    "lifeboat_vault.main",
    "lifeboat_site.onprem",
    "lifeboat_gateway.primary",
    "lifeboat_replication_policy.standard",
    "lifeboat_consistency_group.erp",
    "lifeboat_volume.data",
];

#[test]
fn everything_is_created_changed_in_place_imported_and_destroyed() {
    let bench = Bench::new("tf-life", Tier::Attached).unwrap();
    let workspace = &bench.workspace;
    workspace
        .step(
            &bench.standard(),
            |plan| {
                for address in RESOURCES {
                    ensure!(plan.actions(address)? == ["create"], "{address} should be created");
                }
                Ok(())
            },
            |state| {
                let path = state.text("lifeboat_volume.data", "path")?;
                ensure!(Path::new(path).exists(), "{path} is not there");
                let rules = &state.attributes("lifeboat_replication_policy.standard")?["retention"];
                ensure!(rules[0]["every"] == "all" && rules[1]["every"] == "5m", "order of the rules: {rules}");
                Ok(())
            },
        )
        .unwrap();

    // Growing and a shorter interval happen in place.
    workspace
        .step(
            &bench.configuration("1s", 2, RETENTION, ""),
            |plan| {
                ensure!(plan.actions("lifeboat_volume.data")? == ["update"], "growing is in place");
                ensure!(plan.actions("lifeboat_replication_policy.standard")? == ["update"], "so is the interval");
                ensure!(plan.changes() == 2, "{} changes", plan.changes());
                Ok(())
            },
            |state| {
                let path = state.text("lifeboat_volume.data", "path")?;
                ensure!(std::fs::metadata(path)?.len() == 2 << 30, "the volume has not grown");
                Ok(())
            },
        )
        .unwrap();

    // Forgotten and imported by id: nothing differs.
    let state = workspace.state().unwrap();
    for address in RESOURCES.iter().rev() {
        let id = state.text(address, "id").unwrap();
        workspace.forget(address).unwrap();
        workspace.import(address, id).with_context(|| format!("import {address}")).unwrap();
    }
    workspace.destroy().unwrap();
    let left = bench.api().unwrap().call(async |client| client.list::<serde_json::Value>("/v1/volumes", &[]).await);
    assert!(left.unwrap().is_empty());
}

#[test]
fn what_was_changed_or_deleted_elsewhere_is_planned_again() {
    let bench = Bench::new("tf-drift", Tier::Attached).unwrap();
    let workspace = &bench.workspace;
    workspace.step(&bench.standard(), |_| Ok(()), |_| Ok(())).unwrap();
    let api = bench.api().unwrap();
    api.call(async |client| {
        let policy: Policy = client.find_by_name("standard").await?.expect("the policy exists");
        let change = serde_json::json!({"recovery_point_interval": "9s"});
        client.patch::<Policy>(&policy.id.to_string(), policy.generation, &change).await?;
        let volume: Volume = client.find_by_name("data").await?.expect("the volume exists");
        client.delete::<Volume>(&volume.id.to_string(), volume.generation).await
    })
    .unwrap();
    let plan = workspace.plan().unwrap();
    assert_eq!(plan.actions("lifeboat_replication_policy.standard").unwrap(), ["update"]);
    assert_eq!(plan.actions("lifeboat_volume.data").unwrap(), ["create"]);
    assert_eq!(plan.changes(), 2);
    workspace.apply().unwrap();
    workspace.plan_is_empty(true).unwrap();
    let interval = api.call(async |client| client.find_by_name::<Policy>("standard").await).unwrap().unwrap();
    assert_eq!(interval.spec.recovery_point_interval, "2s");
    workspace.destroy().unwrap();
}

/// A volume with a policy of its own, in the words of a person.
const SINGLE: &str = r#"
resource "lifeboat_volume" "single" {
  policy_id  = lifeboat_replication_policy.standard.id
  gateway_id = lifeboat_gateway.primary.id
  name       = "single"
  size_gib   = 0.0625
}
"#;

#[test]
fn what_is_imported_by_blocks_needs_no_configuration_by_hand() {
    let bench = Bench::new("tf-import", Tier::Attached).unwrap();
    let workspace = &bench.workspace;
    let limits = "  bandwidth_limit {\n    mbps  = 900\n    days  = [\"sat\", \"mon\"]\n    start = \"08:00\"\n    end   = \
                  \"18:00\"\n  }\n  bandwidth_limit {\n    mbps = 1000\n  }";
    let everything = bench.configuration("2s", 1, &format!("{RETENTION}\n{limits}"), SINGLE);
    workspace.step(&everything, |_| Ok(()), |_| Ok(())).unwrap();
    let state = workspace.state().unwrap();
    let addresses: Vec<&str> = RESOURCES.into_iter().chain(["lifeboat_volume.single"]).collect();
    let ids: Vec<&str> = addresses.iter().map(|address| state.text(address, "id").unwrap()).collect();
    for address in &addresses {
        workspace.forget(address).unwrap();
    }
    let head = everything.split("resource ").next().unwrap().to_owned();
    let imports: String = addresses
        .iter()
        .zip(&ids)
        .map(|(address, id)| format!("import {{\n  to = {address}\n  id = \"{id}\"\n}}\n"))
        .collect();
    workspace.write(&(head + &imports)).unwrap();
    workspace
        .run(&["plan", "-no-color", "-out=plan.bin", "-generate-config-out=generated.tf"])
        .and_then(lifeboat_acceptance::command::Outcome::ok)
        .unwrap();
    let plan = workspace.run(&["show", "-json", "plan.bin"]).unwrap().ok().unwrap();
    let plan = lifeboat_acceptance::terraform::Plan { document: serde_json::from_str(&plan).unwrap() };
    for (address, id) in addresses.iter().zip(&ids) {
        assert_eq!(plan.actions(address).unwrap(), ["no-op"], "{address}: {}", plan.document);
        assert_eq!(plan.importing(address), Some(*id));
    }
    workspace.apply().unwrap();
    workspace.plan_is_empty(false).unwrap();
    workspace.plan_is_empty(true).unwrap();
    let generated = std::fs::read_to_string(workspace.dir().join("generated.tf")).unwrap();
    let order: Vec<usize> = ["900", "1000"].iter().map(|mbps| generated.find(mbps).unwrap()).collect();
    assert!(order[0] < order[1], "{generated}");
    workspace.destroy().unwrap();
}

/// A state as an older provider left it: attributes and blocks that were added since aren't in it, and one that was removed is.
#[test]
fn a_state_of_an_older_provider_plans_empty() {
    let bench = Bench::new("tf-upgrade", Tier::Attached).unwrap();
    let workspace = &bench.workspace;
    workspace.step(&bench.standard(), |_| Ok(()), |_| Ok(())).unwrap();
    let pulled = workspace.run(&["state", "pull"]).unwrap().ok().unwrap();
    let mut state: serde_json::Value = serde_json::from_str(&pulled).unwrap();
    let newer = [
        ("lifeboat_vault", "storage_credentials_version"),
        ("lifeboat_replication_policy", "compression"),
        ("lifeboat_replication_policy", "bandwidth_limit"),
        ("lifeboat_replication_policy", "resync"),
        ("lifeboat_consistency_group", "app_consistency"),
        ("lifeboat_volume", "source"),
        ("lifeboat_volume", "cache_gib"),
        ("lifeboat_volume", "allow_replace"),
    ];
    for resource in state["resources"].as_array_mut().unwrap() {
        let kind = resource["type"].as_str().unwrap().to_owned();
        let attributes = resource["instances"][0]["attributes"].as_object_mut().unwrap();
        for (_, name) in newer.iter().filter(|(of, _)| *of == kind) {
            assert!(attributes.remove(*name).is_some(), "{kind} has no {name}: {attributes:?}");
        }
        attributes.insert("of_another_time".to_owned(), "gone".into());
    }
    state["serial"] = (state["serial"].as_u64().unwrap() + 1).into();
    let older = workspace.dir().join("older.tfstate");
    std::fs::write(&older, state.to_string()).unwrap();
    workspace.run(&["state", "push", "older.tfstate"]).unwrap().ok().unwrap();
    workspace.plan_is_empty(true).unwrap();
    // What a refresh wrote is a state of today.
    workspace.run(&["apply", "-no-color", "-auto-approve", "-refresh-only"]).unwrap().ok().unwrap();
    let state = workspace.run(&["state", "pull"]).unwrap().ok().unwrap();
    assert!(!state.contains("of_another_time") && state.contains("\"allow_replace\""), "{state}");
    workspace.destroy().unwrap();
}

#[test]
fn every_resource_that_disappears_is_planned_again() {
    let bench = Bench::new("tf-gone", Tier::Attached).unwrap();
    let workspace = &bench.workspace;
    workspace.step(&bench.standard(), |_| Ok(()), |_| Ok(())).unwrap();
    let api = bench.api().unwrap();
    api.call(async |client| {
        let volume: Volume = client.find_by_name("data").await?.expect("the volume exists");
        client.delete::<Volume>(&volume.id.to_string(), volume.generation).await
    })
    .unwrap();
    // A group goes once its gateway has let go of it.
    lifeboat_acceptance::eventually("the group, policy, gateway and site to go", Duration::from_secs(60), || {
        let gone = api.call(async |client| {
            if let Some(group) = client.find_by_name::<Group>("erp").await? {
                client.delete::<Group>(&group.id.to_string(), group.generation).await?;
            }
            if let Some(policy) = client.find_by_name::<Policy>("standard").await? {
                client.delete::<Policy>(&policy.id.to_string(), policy.generation).await?;
            }
            if let Some(gateway) = client.find_by_name::<lifeboat_api::Gateway>("primary").await? {
                client.delete::<lifeboat_api::Gateway>(&gateway.id.to_string(), gateway.generation).await?;
            }
            if let Some(site) = client.find_by_name::<Site>("onprem").await? {
                client.delete::<Site>(&site.id.to_string(), site.generation).await?;
            }
            Ok(())
        });
        Ok(gone.ok())
    })
    .unwrap();
    let plan = workspace.plan().unwrap();
    for address in RESOURCES.into_iter().filter(|address| *address != "lifeboat_vault.main") {
        assert_eq!(plan.actions(address).unwrap(), ["create"], "{address}");
    }
    assert_eq!(plan.changes(), 5);
    workspace.apply().unwrap();
    workspace.plan_is_empty(true).unwrap();
    workspace.destroy().unwrap();
}

#[test]
fn what_someone_else_changed_since_the_plan_is_as_planned_after_the_apply() {
    let bench = Bench::new("tf-stale", Tier::Attached).unwrap();
    let workspace = &bench.workspace;
    workspace.step(&bench.standard(), |_| Ok(()), |_| Ok(())).unwrap();
    let changed = bench
        .configuration("1s", 2, RETENTION, "")
        .replace("  name        = \"main\"", "  name = \"main\"\n  soft_delete_days = 30")
        .replace("  name     = \"onprem\"", "  name = \"onprem\"\n  description = \"by the sea\"")
        .replace("  name      = \"erp\"", "  name = \"finance\"");
    workspace.write(&changed).unwrap();
    assert_eq!(workspace.plan().unwrap().changes(), 5);
    // Every generation that the plan saw is an old one now.
    let api = bench.api().unwrap();
    api.call(async |client| {
        let policy: Policy = client.find_by_name("standard").await?.expect("the policy exists");
        let change = serde_json::json!({"recovery_point_interval": "9s", "rpo_threshold": "10m"});
        client.patch::<Policy>(&policy.id.to_string(), policy.generation, &change).await?;
        let volume: Volume = client.find_by_name("data").await?.expect("the volume exists");
        let change = serde_json::json!({"cache_bytes": 1_u64 << 30});
        client.patch::<Volume>(&volume.id.to_string(), volume.generation, &change).await?;
        let vault: Vault = client.find_by_name("main").await?.expect("the vault exists");
        let change = serde_json::json!({"soft_delete_days": 20});
        client.patch::<Vault>(&vault.id.to_string(), vault.generation, &change).await?;
        let site: Site = client.find_by_name("onprem").await?.expect("the site exists");
        let change = serde_json::json!({"description": "inland"});
        client.patch::<Site>(&site.id.to_string(), site.generation, &change).await?;
        let group: Group = client.find_by_name("erp").await?.expect("the group exists");
        let change = serde_json::json!({"name": "sales"});
        client.patch::<Group>(&group.id.to_string(), group.generation, &change).await.map(drop)
    })
    .unwrap();
    workspace.apply().unwrap();
    workspace.plan_is_empty(true).unwrap();
    let (vault, site, group) = api
        .call(async |client| {
            let vault: Option<Vault> = client.find_by_name("main").await?;
            let site: Option<Site> = client.find_by_name("onprem").await?;
            Ok((vault, site, client.find_by_name::<Group>("finance").await?))
        })
        .unwrap();
    assert_eq!(vault.map(|vault| vault.spec.soft_delete_days), Some(30));
    assert_eq!(site.and_then(|site| site.spec.description).as_deref(), Some("by the sea"));
    assert!(group.is_some());
    let policy = api.call(async |client| client.find_by_name::<Policy>("standard").await).unwrap().unwrap();
    assert_eq!(policy.spec.recovery_point_interval, "1s");
    workspace.destroy().unwrap();
}

#[test]
fn ctrl_c_in_an_apply_loses_nothing() {
    let bench = Bench::new("tf-ctrl-c", Tier::Installed).unwrap();
    let workspace = &bench.workspace;
    // A gateway that nobody starts: its volume is made, and never ready.
    let never = r#"
resource "lifeboat_gateway" "late" {
  site_id = lifeboat_site.onprem.id
  name    = "late"
}

resource "lifeboat_volume" "waiting" {
  policy_id  = lifeboat_replication_policy.standard.id
  gateway_id = lifeboat_gateway.late.id
  name       = "waiting"
  size_gib   = 1
}
"#;
    workspace.write(&bench.configuration("2s", 1, RETENTION, never)).unwrap();
    workspace.init().unwrap();
    let api = bench.api().unwrap();
    let made = || {
        let volumes = api.call(async |client| {
            Ok((client.find_by_name::<Volume>("waiting").await?, client.find_by_name::<Volume>("data").await?))
        });
        // Before the first apply has got so far there is nothing to ask.
        let Ok((Some(_), Some(data))) = volumes else { return Ok(false) };
        Ok(data.status.path.is_some())
    };
    let printed = workspace.interrupted_apply(&[], "both volumes", made, || ()).unwrap();
    assert!(printed.contains("The volume waiting was not waited for"), "{printed}");
    let state = workspace.state().unwrap();
    for address in RESOURCES.into_iter().chain(["lifeboat_gateway.late", "lifeboat_volume.waiting"]) {
        assert!(state.text(address, "id").is_ok(), "{address} is lost:\n{printed}");
    }
    // Nothing is to be made again: what was only waited for is not tainted.
    let plan = workspace.plan().unwrap();
    assert_eq!(plan.changes(), 0, "{}", plan.document["resource_changes"]);
}

#[test]
fn what_cannot_work_is_refused_at_plan_time_where_it_stands() {
    let bench = Bench::new("tf-refused", Tier::Attached).unwrap();
    let workspace = &bench.workspace;
    let backwards = "  retention {\n    every = \"all\"\n    for   = \"24h\"\n  }\n  retention {\n    every = \"5m\"\n    for   = \"1h\"\n  }";
    let cases = [
        (bench.configuration("0s", 1, RETENTION, ""), "recovery_point_interval = \"0s\""),
        (bench.configuration("2s", 1, backwards, ""), "for   = \"1h\""),
        (
            bench.configuration(
                "2s",
                1,
                RETENTION,
                "resource \"lifeboat_volume\" \"lost\" {\n  gateway_id = lifeboat_gateway.primary.id\n  name = \"lost\"\n  size_gib = 1\n}\n",
            ),
            "resource \"lifeboat_volume\" \"lost\"",
        ),
    ];
    for (configuration, blamed) in cases {
        workspace.write(&configuration).unwrap();
        let diagnostics = workspace.plan_diagnostics().unwrap();
        let line = configuration.lines().position(|line| line.contains(blamed)).unwrap() as u64 + 1;
        let found = diagnostics.iter().any(|diagnostic| {
            let at = diagnostic.range.as_ref().map(|range| range.start.line);
            // An error inside a block may be shown at the block's first line.
            diagnostic.severity == "error" && at.is_some_and(|at| at == line || at + 1 == line || at + 2 == line)
        });
        assert!(found, "line {line} ({blamed}) should be blamed: {diagnostics:#?}");
    }
}

/// A policy that is judged by figures that somebody stands by.
const JUDGED: &str = r#"
data "lifeboat_feasibility" "standard" {
  policy_id              = lifeboat_replication_policy.standard.id
  churn_bytes_per_second = 10000000
  mbps                   = MBPS
}

resource "terraform_data" "judged" {
  lifecycle {
    precondition {
      condition     = data.lifeboat_feasibility.standard.feasible
      error_message = join(" ", data.lifeboat_feasibility.standard.reasons)
    }
  }
}
"#;

#[test]
fn a_policy_that_churn_and_bandwidth_cannot_meet_is_refused_at_plan() {
    let bench = Bench::new("tf-feasible", Tier::Attached).unwrap();
    let workspace = &bench.workspace;
    let judged = |mbps: &str| bench.configuration("2s", 1, RETENTION, &JUDGED.replace("MBPS", mbps));
    workspace.step(&judged("100"), |_| Ok(()), |_| Ok(())).unwrap();
    let said = bench.refused(&judged("50")).unwrap();
    assert!(said.iter().all(|one| one.summary == "Resource precondition failed"), "{said:#?}");
    assert!(
        said.iter().any(|one| one.detail.contains("80 Mbit/s are needed")),
        "the bandwidth that it takes is named: {said:#?}"
    );
    workspace.write(&judged("100")).unwrap();
    workspace.destroy().unwrap();
}

#[test]
fn a_vault_in_a_volume_is_refused() {
    let bench = Bench::new("tf-vault-inside", Tier::Attached).unwrap();
    let workspace = &bench.workspace;
    // Before there is a volume only the gateway knows of its mount.
    let inside = format!("file://{}/volumes/vault", bench.gateway.mount().display());
    let outside = format!("file://{}/vault", bench.scratch.path().display());
    workspace.write(&bench.standard().replace(&outside, &inside)).unwrap();
    let outcome = workspace.run(&["apply", "-no-color", "-auto-approve"]).unwrap();
    let said = outcome.stderr.replace(['\n', '\u{2502}'], " ");
    let said = said.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(!outcome.status.success() && said.contains("lies in the gateway's own mount"), "{said}");

    workspace.step(&bench.standard(), |_| Ok(()), |_| Ok(())).unwrap();
    let second = format!(
        "resource \"lifeboat_vault\" \"second\" {{\n  name = \"second\"\n  storage_url = \"{inside}\"\n  encryption {{\n    \
         key_source = \"key_file\"\n    key_file = \"{}/vault.key\"\n  }}\n}}\n",
        bench.scratch.path().display()
    );
    let said = bench.refused(&bench.configuration("2s", 1, RETENTION, &second)).unwrap();
    assert!(said.iter().any(|one| one.summary == "A vault in a volume"), "{said:#?}");
    workspace.write(&bench.standard()).unwrap();
    workspace.destroy().unwrap();
}

#[test]
fn data_is_never_thrown_away_in_silence() {
    let bench = Bench::new("tf-guard", Tier::Attached).unwrap();
    let workspace = &bench.workspace;
    workspace.step(&bench.configuration("2s", 2, RETENTION, ""), |_| Ok(()), |_| Ok(())).unwrap();
    // Shrinking, and what would replace the volume.
    for configuration in [
        bench.configuration("2s", 1, RETENTION, ""),
        bench.configuration("2s", 2, RETENTION, "").replace("name       = \"data\"", "name       = \"other\""),
    ] {
        workspace.write(&configuration).unwrap();
        let diagnostics = workspace.plan_diagnostics().unwrap();
        assert!(
            diagnostics.iter().any(|diagnostic| diagnostic.address.as_deref() == Some("lifeboat_volume.data")),
            "{diagnostics:#?}"
        );
    }
    workspace.write(&bench.configuration("2s", 2, RETENTION, "")).unwrap();
    workspace.plan_is_empty(true).unwrap();
    let names = bench
        .api()
        .unwrap()
        .call(async |client| {
            let site = client.find_by_name::<Site>("onprem").await?;
            let group = client.find_by_name::<Group>("erp").await?;
            Ok((site.is_some(), group.is_some()))
        })
        .unwrap();
    assert_eq!(names, (true, true));
    workspace.destroy().unwrap();
}

#[test]
fn the_quick_start_works_as_written_with_the_installed_provider() {
    let scratch = Scratch::new("tf-quickstart").unwrap();
    let key = scratch.write_key("vault.key").unwrap();
    let gateway = Gateway::start("onprem", "primary", &scratch.path().join("onprem")).unwrap();
    let workspace =
        Workspace::new(&scratch.path().join("terraform"), Tier::Installed, gateway.client_environment()).unwrap();
    workspace.copy(&repository().join("examples/quickstart")).unwrap();
    let variables = format!(
        "vault_url = \"file://{}\"\nvault_key_file = \"{}\"\n",
        scratch.path().join("vault").display(),
        key.display()
    );
    std::fs::write(workspace.dir().join("terraform.tfvars"), variables).unwrap();
    workspace.init().unwrap();
    assert!(workspace.plan().unwrap().changes() >= 7);
    workspace.apply().unwrap();
    workspace.plan_is_empty(false).unwrap();
    workspace.plan_is_empty(true).unwrap();
    let outputs = workspace.outputs().unwrap();
    assert!(outputs["group_id"].as_str().unwrap().starts_with("grp-"), "{outputs}");
    let state = workspace.state().unwrap();
    let status = state.attributes("data.lifeboat_protection_status.ledger").unwrap();
    assert!(status["health"].is_string(), "{status}");
    workspace.destroy().unwrap();
}

/// A second provider block with a token that lives as long as the run.
const WATCHER: &str = r#"
ephemeral "lifeboat_token" "watch" {
  name  = "watch"
  roles = ["reader"]
  ttl   = "10m"
}

provider "lifeboat" {
  alias = "watcher"
  token = ephemeral.lifeboat_token.watch.token
}

data "lifeboat_site" "seen" {
  provider = lifeboat.watcher
  name     = lifeboat_site.onprem.name
}

output "seen" {
  value = data.lifeboat_site.seen.id
}
"#;

#[test]
fn a_token_lives_as_long_as_the_run_and_may_do_what_its_roles_say() {
    // A process for each provider block: the two are different callers.
    let bench = Bench::new("tf-token", Tier::Installed).unwrap();
    let workspace = &bench.workspace;
    workspace.step(&bench.standard(), |_| Ok(()), |_| Ok(())).unwrap();
    workspace.step(&bench.configuration("2s", 1, RETENTION, WATCHER), |_| Ok(()), |_| Ok(())).unwrap();
    assert_eq!(
        workspace.outputs().unwrap()["seen"],
        workspace.state().unwrap().text("lifeboat_site.onprem", "id").unwrap()
    );
    let api = bench.api().unwrap();
    let left = || api.call(async |client| client.list::<Token>("/v1/tokens", &[]).await).unwrap();
    assert_eq!(left(), []);
    let events: Vec<Event> = api.call(async |client| client.list("/v1/events", &[]).await).unwrap();
    let count = |kind: &str| events.iter().filter(|event| event.kind == kind).count();
    assert!(count("token.created") >= 2, "made at plan and at apply");
    assert_eq!(count("token.created"), count("token.revoked"));

    let site = "resource \"lifeboat_site\" \"other\" {\n  provider = lifeboat.watcher\n  vault_id = lifeboat_vault.main.id\n  name     = \"other\"\n}\n";
    let refused = bench.configuration("2s", 1, RETENTION, &format!("{WATCHER}{site}"));
    workspace.write(&refused).unwrap();
    let outcome = workspace.run(&["apply", "-no-color", "-auto-approve"]).unwrap();
    assert_ne!(outcome.code(), 0);
    let printed = format!("{}{}", outcome.stdout, outcome.stderr);
    assert!(printed.contains("Cannot create the site other") && printed.contains("operator"), "{printed}");
    // Terraform closes nothing that something that failed depended on: what it leaves ends by itself.
    let ends = left().iter().map(|token| token.status.expires).collect::<Vec<_>>();
    assert!(ends.iter().all(Option::is_some), "{ends:?}");
    for entry in std::fs::read_dir(workspace.dir()).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            let bytes = std::fs::read(&path).unwrap();
            assert!(!bytes.windows(4).any(|window| window == b"lbt_"), "{} has a token in it", path.display());
        }
    }
    workspace.write(&bench.standard()).unwrap();
    workspace.destroy().unwrap();
}

#[test]
fn a_machine_enrols_in_the_run_that_makes_it_and_its_key_is_left_nowhere() {
    let bench = Bench::new("tf-agent", Tier::Attached).unwrap();
    let workspace = &bench.workspace;
    workspace.step(&bench.standard(), |_| Ok(()), |_| Ok(())).unwrap();
    let home = bench.scratch.path().join("agent");
    let enrolling = format!(
        r#"
ephemeral "lifeboat_registration_key" "web" {{
  site_id = lifeboat_site.onprem.id
  name    = "web"
  ttl     = "10m"
}}

resource "terraform_data" "web" {{
  provisioner "local-exec" {{
    command = "{} agent enrol --state {} --endpoint {} --name web"
    environment = {{
      LIFEBOAT_REGISTRATION_KEY = ephemeral.lifeboat_registration_key.web.key
    }}
  }}
}}
"#,
        lifeboat().unwrap().display(),
        home.display(),
        bench.gateway.endpoint()
    );
    let enrolled = bench.configuration("2s", 1, RETENTION, &enrolling);
    workspace.step(&enrolled, |_| Ok(()), |_| Ok(())).unwrap();
    let api = bench.api().unwrap();
    let agents: Vec<Agent> = api.call(async |client| client.list("/v1/agents", &[]).await).unwrap();
    assert_eq!(agents.iter().map(|agent| agent.spec.name.as_str()).collect::<Vec<_>>(), ["web"]);
    assert!(home.join("identity.pem").exists());
    // Those that nobody used are gone, that which was used says by whom.
    let keys: Vec<RegistrationKey> = api.call(async |client| client.list("/v1/registration-keys", &[]).await).unwrap();
    assert_eq!(keys.iter().map(|key| key.status.used_by).collect::<Vec<_>>(), [Some(agents[0].id)]);
    let events: Vec<Event> = api.call(async |client| client.list("/v1/events", &[]).await).unwrap();
    let count = |kind: &str| events.iter().filter(|event| event.kind == kind).count();
    assert!(count("registration-key.created") >= 2, "made at plan and at apply");
    assert_eq!(count("registration-key.created"), count("registration-key.deleted") + 1);
    for entry in std::fs::read_dir(workspace.dir()).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            let bytes = std::fs::read(&path).unwrap();
            assert!(!bytes.windows(4).any(|window| window == b"lbr_"), "{} has a key in it", path.display());
        }
    }
    let log = std::fs::read(bench.gateway.log()).unwrap();
    assert!(!log.windows(4).any(|window| window == b"lbr_"), "the gateway's log has a key in it");

    // The site stays as long as somebody is said to be there.
    workspace.write(&bench.standard()).unwrap();
    let outcome = workspace.run(&["destroy", "-no-color", "-auto-approve"]).unwrap();
    assert!(outcome.code() != 0 && outcome.stderr.contains("agent web"), "{}{}", outcome.stdout, outcome.stderr);
    bench.gateway.run(&["agent", "delete", "web"]).unwrap().ok().unwrap();
    workspace.destroy().unwrap();
}

#[test]
fn every_example_is_valid_together() {
    let scratch = Scratch::new("tf-examples").unwrap();
    let workspace = Workspace::new(scratch.path(), Tier::Installed, Vec::new()).unwrap();
    let examples = repository().join("examples");
    let mut count = 0;
    let mut parts = vec![examples.join("provider/provider.tf")];
    // Actions need a later Terraform than the one that has to be enough here.
    for (kind, name) in [
        ("resources", "resource.tf"),
        ("data-sources", "data-source.tf"),
        ("ephemeral-resources", "ephemeral-resource.tf"),
        ("functions", "function.tf"),
    ] {
        for entry in std::fs::read_dir(examples.join(kind)).unwrap() {
            let dir = entry.unwrap().path();
            let file = dir.join(name);
            assert!(kind != "resources" || dir.join("import.sh").exists(), "{} has no import.sh", dir.display());
            parts.push(file);
        }
    }
    for part in parts {
        std::fs::copy(&part, workspace.dir().join(format!("part{count}.tf")))
            .with_context(|| format!("copy {}", part.display()))
            .unwrap();
        count += 1;
    }
    assert!(count >= 17, "{count} examples");
    workspace.init().unwrap();
    workspace.run(&["validate", "-no-color"]).unwrap().ok().unwrap();
}
