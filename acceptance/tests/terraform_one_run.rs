//! What takes one run of Terraform and no second one: what others name is replaced, and what is removed goes together with the places
//! where it was named. Terraform destroys first and changes what named it last, so that in between something lacks it.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lifeboat_acceptance::command::Outcome;
use lifeboat_acceptance::eventually;
use lifeboat_acceptance::everything::Everything;
use lifeboat_acceptance::terraform::{State, Tier, Workspace};
use lifeboat_api::types::{Group, Machine, Plan as RecoveryPlan, Policy};

/// Beside the configuration of everything: what it is replaced by, or removed with.
const MORE: &str = r#"
resource "lifeboat_replication_policy" "next" {
  vault_id                = lifeboat_vault.main.id
  name                    = "next"
  recovery_point_interval = "2s"
  retention {
    every = "all"
    for   = "2h"
  }
}

resource "lifeboat_network" "spare" {
  site_id = lifeboat_site.onprem.id
  name    = "spare"
}

resource "lifeboat_network_mapping" "spare" {
  source_network_id = lifeboat_network.spare.id
  target_network_id = lifeboat_network.target.id
}

resource "lifeboat_volume" "files" {
  policy_id     = lifeboat_replication_policy.standard.id # files
  gateway_id    = lifeboat_gateway.primary.id
  name          = "files"
  size_gib      = 0.0625
  allow_replace = true
}

resource "lifeboat_volume" "web" {
  group_id   = lifeboat_consistency_group.erp.id
  gateway_id = lifeboat_gateway.primary.id
  name       = "web"
  size_gib   = 0.0625
}

resource "lifeboat_volume" "scratch" {
  group_id   = lifeboat_consistency_group.erp.id
  gateway_id = lifeboat_gateway.primary.id
  name       = "scratch"
  size_gib   = 0.0625
}

resource "lifeboat_machine" "web" {
  site_id    = lifeboat_site.onprem.id
  name       = "web"
  group_id   = lifeboat_consistency_group.erp.id
  cpus       = 1
  memory_mib = 512
  disk {
    volume_id = lifeboat_volume.web.id
  }
  disk {
    volume_id = lifeboat_volume.scratch.id
  }
  network_interface {
    network_id = lifeboat_network.source.id
    address    = "10.20.0.12"
  }
  network_interface {
    network_id = lifeboat_network.spare.id
  }
}
"#;

const MEMBERS: &str = "    machine_ids = [lifeboat_machine.db.id]\n";

/// The configuration of everything with [`MORE`], all of it in the plan, and volumes that may be replaced.
fn configuration(all: &Everything) -> String {
    let members = "    machine_ids = [lifeboat_machine.db.id, lifeboat_machine.web.id]\n    volume_ids  = [lifeboat_volume.files.id]\n";
    let mapped = "depends_on = [lifeboat_network_mapping.out, lifeboat_network_mapping.spare]";
    let whole = all.configuration().replace(MEMBERS, members) + MORE;
    whole
        .replace("depends_on = [lifeboat_network_mapping.out]", mapped)
        .replace("  cache_gib  = 1\n", "  cache_gib  = 1\n  allow_replace = true\n")
}

/// A configuration without a resource.
fn without(configuration: &str, kind: &str, name: &str) -> String {
    let head = format!("resource \"lifeboat_{kind}\" \"{name}\" {{\n");
    let (before, rest) = configuration.split_once(&head).expect("it is declared");
    let (_, after) = rest.split_once("\n}\n").expect("a resource ends");
    format!("{before}{after}")
}

/// With a text in the place of another, which has to be there.
fn with(configuration: &str, there: &str, instead: &str) -> String {
    assert_eq!(configuration.matches(there).count(), 1, "{there:?} should stand there once");
    configuration.replace(there, instead)
}

fn id(state: &State, address: &str) -> String {
    state.text(address, "id").expect("it is in the state").to_owned()
}

/// One apply, and nothing is left to do.
fn in_one_run(workspace: &Workspace, what: &str, configuration: &str) -> Result<()> {
    workspace.write(configuration)?;
    let run = || -> Result<()> {
        workspace.plan()?;
        workspace.apply()?;
        workspace.plan_is_empty(false)?;
        workspace.plan_is_empty(true)
    };
    run().with_context(|| format!("in one run: {what}"))
}

#[test]
fn what_machines_and_plans_name_is_replaced_in_one_run() {
    let all = Everything::applied_as("one-run-replaced", Tier::Attached, configuration).unwrap();
    let workspace = &all.bench.workspace;
    let before = workspace.state().unwrap();
    let named = configuration(&all);
    let named = with(&named, "name       = \"data\"", "name       = \"data2\"");
    let named = with(&named, "name          = \"files\"", "name          = \"files2\"");
    in_one_run(workspace, "volumes under other names", &named).unwrap();
    let state = workspace.state().unwrap();
    for address in ["lifeboat_volume.data", "lifeboat_volume.files"] {
        assert_ne!(id(&before, address), id(&state, address), "{address} is another one");
    }
    for address in ["lifeboat_machine.db", "lifeboat_recovery_plan.erp"] {
        assert_eq!(id(&before, address), id(&state, address), "{address} is the same");
    }
    let api = all.bench.api().unwrap();
    let (machine, plan) = api
        .call(async |client| {
            let machine: Option<Machine> = client.find_by_name("db").await?;
            let plan: Option<RecoveryPlan> = client.find_by_name("erp").await?;
            Ok((machine.expect("it is declared"), plan.expect("it is declared")))
        })
        .unwrap();
    assert_eq!(machine.spec.disk[0].volume_id.to_string(), id(&state, "lifeboat_volume.data"));
    assert_eq!(plan.spec.boot_group[0].volume_ids[0].to_string(), id(&state, "lifeboat_volume.files"));
    assert_eq!(plan.status.reasons, Vec::<String>::new());

    // The same names again, because somebody says so.
    let replace = ["-replace=lifeboat_volume.data", "-replace=lifeboat_volume.files", "-replace=lifeboat_machine.web"];
    let args = [&["apply", "-no-color", "-auto-approve"][..], &replace].concat();
    workspace.run(&args).and_then(Outcome::ok).unwrap();
    workspace.plan_is_empty(true).unwrap();
    let again = workspace.state().unwrap();
    assert_ne!(id(&state, "lifeboat_volume.data"), id(&again, "lifeboat_volume.data"));
    workspace.destroy().unwrap();
}

#[test]
fn what_is_removed_goes_with_the_places_where_it_was_named_in_one_run() {
    let all = Everything::applied_as("one-run-removed", Tier::Attached, configuration).unwrap();
    let workspace = &all.bench.workspace;
    let mut now = configuration(&all);

    now = with(&without(&now, "network", "isolated"), "  test_network_id   = lifeboat_network.isolated.id\n", "");
    in_one_run(workspace, "a network for tests, with its mention in a mapping", &now).unwrap();

    let spare = "  network_interface {\n    network_id = lifeboat_network.spare.id\n  }\n";
    now = with(&without(&without(&now, "network", "spare"), "network_mapping", "spare"), spare, "");
    now = with(&now, ", lifeboat_network_mapping.spare]", "]");
    in_one_run(workspace, "a network, with its mapping and a machine's interface", &now).unwrap();

    now = without(&now, "replication_policy", "standard")
        .replace("lifeboat_replication_policy.standard.id", "lifeboat_replication_policy.next.id");
    in_one_run(workspace, "a policy, with its use by a group and by a volume", &now).unwrap();
    let api = all.bench.api().unwrap();
    let (policies, group) = api
        .call(async |client| {
            let policies: Vec<Policy> = client.list("/v1/policies", &[]).await?;
            Ok((policies, client.find_by_name::<Group>("erp").await?.expect("it is declared")))
        })
        .unwrap();
    assert_eq!(policies.iter().map(|policy| policy.spec.name.as_str()).collect::<Vec<_>>(), ["next"]);
    assert!(!group.status.reasons.iter().any(|reason| reason.contains("policy")), "{:?}", group.status.reasons);

    let disk = "  disk {\n    volume_id = lifeboat_volume.scratch.id\n  }\n";
    now = with(&without(&now, "volume", "scratch"), disk, "");
    in_one_run(workspace, "a volume, with the disk that it was", &now).unwrap();

    now = without(&without(&now, "machine", "web"), "volume", "web");
    now = with(&now, ", lifeboat_machine.web.id]", "]");
    in_one_run(workspace, "a machine and its volume, with its place in a plan", &now).unwrap();

    now = without(&without(&without(&now, "machine", "db"), "volume", "data"), "consistency_group", "erp");
    now = with(&now, MEMBERS, "");
    in_one_run(workspace, "a group with its volume and machine, and its place in a plan", &now).unwrap();
    workspace.destroy().unwrap();
}

#[test]
fn what_stays_named_by_the_same_configuration_is_not_destroyed() {
    let all = Everything::applied_as("one-run-named", Tier::Attached, configuration).unwrap();
    let workspace = &all.bench.workspace;
    let state = workspace.state().unwrap();
    let literal = format!("\"{}\"", id(&state, "lifeboat_machine.web"));
    let named = with(&configuration(&all), "lifeboat_machine.web.id]", &format!("{literal}]"));
    in_one_run(workspace, "an id in the place of a reference", &named).unwrap();
    let said = all.bench.refused(&without(&named, "machine", "web")).unwrap();
    let found = said.iter().any(|said| {
        said.severity == "error"
            && said.to_string().contains("boot_group[0].machine_ids[1]")
            && said.to_string().contains("machine")
    });
    assert!(found, "{said:#?}");

    // What nobody but the gateway knows of is warned of, and lacks it afterwards.
    workspace.write(&named).unwrap();
    workspace.forget("lifeboat_drill.probe").unwrap();
    workspace.forget("lifeboat_recovery_plan.erp").unwrap();
    let gone = without(&without(&without(&named, "drill", "probe"), "recovery_plan", "erp"), "machine", "web");
    workspace.write(&gone).unwrap();
    let planned = workspace.run(&["plan", "-no-color", "-out=plan.bin"]).unwrap().ok().unwrap();
    assert!(planned.contains("The machine web is still named"), "{planned}");
    assert!(planned.contains("recovery plan erp (plan-"), "{planned}");
    workspace.apply().unwrap();
    workspace.plan_is_empty(true).unwrap();
    let api = all.bench.api().unwrap();
    let plan = api.call(async |client| client.find_by_name::<RecoveryPlan>("erp").await).unwrap().unwrap();
    assert!(
        plan.status.reasons.iter().any(|reason| reason.contains("there is no machine")),
        "{:?}",
        plan.status.reasons
    );
}

/// A second group and site for machines to move to.
const ELSEWHERE: &str = r#"
resource "lifeboat_consistency_group" "crm" {
  vault_id  = lifeboat_vault.main.id
  site_id   = lifeboat_site.onprem.id
  name      = "crm"
  policy_id = lifeboat_replication_policy.standard.id
}

resource "lifeboat_volume" "crm" {
  group_id   = lifeboat_consistency_group.crm.id
  gateway_id = lifeboat_gateway.primary.id
  name       = "crm"
  size_gib   = 0.0625
}

resource "lifeboat_consistency_group" "away" {
  vault_id  = lifeboat_vault.main.id
  site_id   = lifeboat_site.recovery.id
  name      = "away"
  policy_id = lifeboat_replication_policy.standard.id
}

resource "lifeboat_volume" "away" {
  group_id   = lifeboat_consistency_group.away.id
  gateway_id = lifeboat_gateway.standby.id
  name       = "away"
  size_gib   = 0.0625
}
"#;

#[test]
fn a_machine_of_another_group_or_site_is_another_one_in_one_run_and_not_while_it_is_away() {
    let whole = |all: &Everything| configuration(all) + ELSEWHERE;
    let all = Everything::applied_as("one-run-moved", Tier::Attached, whole).unwrap();
    let workspace = &all.bench.workspace;
    let first = id(&workspace.state().unwrap(), "lifeboat_machine.db");
    let machine = "  name       = \"db\"\n  group_id   = lifeboat_consistency_group.erp.id\n";
    let disk = "    volume_id = lifeboat_volume.data.id\n";
    let other = with(&whole(&all), machine, &machine.replace(".erp.", ".crm."));
    let other = with(&other, disk, &disk.replace(".data.", ".crm."));
    in_one_run(workspace, "a machine of another group", &other).unwrap();
    let second = id(&workspace.state().unwrap(), "lifeboat_machine.db");
    assert_ne!(first, second);

    // While it is away, neither a replacement nor a destroy is planned.
    all.bench.gateway.run(&["point", "take", "--group", "crm"]).unwrap().ok().unwrap();
    all.standby.run(&["failover", "planned", "erp"]).unwrap().ok().unwrap();
    let is_away =
        || Ok(all.bench.gateway.json(&["plan", "show", "erp"])?["status"]["failover"].is_object().then_some(()));
    eventually("the gateway at home to know", Duration::from_secs(60), is_away).unwrap();
    workspace.plan_is_empty(true).unwrap();
    let back = whole(&all);
    let gone = with(&without(&other, "machine", "db"), "lifeboat_machine.db.id, ", "");
    for configuration in [&back, &gone] {
        let said = all.bench.refused(configuration).unwrap();
        let found = said
            .iter()
            .any(|one| one.summary == "Cannot destroy the machine db" && one.detail.contains("lifeboat failback erp"));
        assert!(found, "{said:#?}");
    }
    // The gateway refuses as well, where Terraform can't know at plan.
    workspace.write(&other).unwrap();
    let replace = ["apply", "-no-color", "-auto-approve", "-replace=lifeboat_machine.db"];
    let outcome = workspace.run(&replace).unwrap();
    assert!(!outcome.status.success() && outcome.stderr.contains("plan erp"), "{}{}", outcome.stdout, outcome.stderr);
    workspace.plan_is_empty(true).unwrap();
    all.standby.run(&["commit", "erp"]).unwrap().ok().unwrap();
    all.standby.run(&["failback", "erp"]).unwrap().ok().unwrap();
    in_one_run(workspace, "home again, it may", &back).unwrap();

    // At another site it is in no plan of this one any more.
    let site = "  site_id    = lifeboat_site.onprem.id\n  name       = \"db\"\n  group_id   = lifeboat_consistency_group.erp.id\n";
    let moved = with(&back, site, &site.replace(".onprem.", ".recovery.").replace(".erp.", ".away."));
    let moved = with(&moved, disk, &disk.replace(".data.", ".away."));
    let interface = "    network_id = lifeboat_network.source.id\n    address    = \"10.20.0.11\"\n";
    let moved =
        with(&moved, interface, "    network_id = lifeboat_network.target.id\n    address    = \"10.30.0.11\"\n");
    let moved = with(&moved, "machine_ids = [lifeboat_machine.db.id, ", "machine_ids = [");
    let third = id(&workspace.state().unwrap(), "lifeboat_machine.db");
    in_one_run(workspace, "a machine of another site", &moved).unwrap();
    assert_ne!(id(&workspace.state().unwrap(), "lifeboat_machine.db"), third);
    let check = || -> Result<()> {
        let found = all.bench.api()?.call(async |client| client.find_by_name::<Machine>("db").await)?;
        ensure!(found.is_some_and(|machine| machine.status.active_site.as_deref() == Some("recovery")));
        Ok(())
    };
    check().unwrap();
}
