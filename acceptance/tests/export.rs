//! `lifeboat terraform export`: the repository went down with the site, and the recovery site writes it anew.

use std::time::Duration;

use anyhow::Result;
use lifeboat_acceptance::command::Run;
use lifeboat_acceptance::estate::{Api, Estate};
use lifeboat_acceptance::eventually;
use lifeboat_acceptance::terraform::{Tier, Workspace};
use lifeboat_api::types::{Gateway as GatewayView, Group, Policy, Site, Volume, VolumeSpec};

const MIB: u64 = 1 << 20;

/// What the estate doesn't have of itself: every block, order that counts, text that looks like Terraform's language.
fn enrich(api: &Api) -> Result<()> {
    api.call(async |client| {
        let policy: Policy = client.find_by_name("standard").await?.expect("the policy is declared");
        let change = serde_json::json!({
            "app_consistent_interval": "15m",
            "retention": [{"every": "all", "for": "1h"}, {"every": "5m", "for": "24h"}, {"every": "1h", "for": "15d"}],
            "resync": {"at_log_percent": 40, "window_start": "22:00", "window_end": "04:00", "timezone": "Europe/Zurich"},
            "bandwidth_limit": [
                {"mbps": 900, "days": ["sat", "mon"], "start": "08:00", "end": "18:00"},
                {"mbps": 1000},
            ],
        });
        client.patch::<Policy>(&policy.id.to_string(), policy.generation, &change).await?;
        let group: Group = client.find_by_name("ledger").await?.expect("the group is declared");
        let change = serde_json::json!({
            "app_consistency": {"pre_script": "freeze", "timeout": "10s"},
            "shared_points": {"replication_group": "shop", "every": "30s"},
        });
        client.patch::<Group>(&group.id.to_string(), group.generation, &change).await?;
        let site: Site = client.find_by_name("onprem").await?.expect("the site is declared");
        let change = serde_json::json!({"description": "\"at home\", ${not.a.reference} %{ nor this }"});
        client.patch::<Site>(&site.id.to_string(), site.generation, &change).await?;
        let gateway: GatewayView = client.find_by_name("primary").await?.expect("the gateway is declared");
        let spec = VolumeSpec {
            name: "scratch.1".into(),
            gateway_id: gateway.id,
            size_bytes: 3 * MIB + 4096,
            group_id: None,
            policy_id: Some(policy.id),
            cache_bytes: Some(96 * MIB),
            source: None,
            export: None,
        };
        client.create::<Volume>(&spec).await
    })?;
    eventually("the volume to be protected", Duration::from_secs(60), || {
        let found = api.call(async |client| client.find_by_name::<Volume>("scratch.1").await)?;
        Ok(found.filter(|volume| volume.status.latest_recovery_point.is_some()).map(drop))
    })
}

#[test]
fn a_lost_repository_is_written_anew_at_the_recovery_site() {
    let mut estate = Estate::protect("export", &[("data", 64 * MIB), ("log", 16 * MIB)]).unwrap();
    estate.add_standby().unwrap();
    enrich(&Api::of(&estate.primary).unwrap()).unwrap();
    estate.open_vault_at_standby().unwrap();
    estate.primary.kill9().unwrap();

    let standby = estate.standby().unwrap();
    let workspace =
        Workspace::new(&estate.dir().join("terraform"), Tier::Attached, standby.client_environment()).unwrap();
    let out = workspace.dir().display().to_string();
    let written = standby.json(&["terraform", "export", "--out", &out]).unwrap();
    // A vault, two sites, two gateways, a policy, a group, three volumes; not the group that a single volume has for itself.
    assert_eq!(written["resources"], 10, "{written}");
    Run::new("terraform").args(["fmt", "-check", "-diff"]).dir(workspace.dir()).ok().unwrap();

    let plan = workspace.plan().unwrap();
    assert_eq!(plan.changes(), 0, "{}", plan.document["resource_changes"]);
    let ids = ["lifeboat_vault.main", "lifeboat_site.recovery", "lifeboat_volume.scratch_1"];
    for address in ids {
        assert_eq!(plan.actions(address).unwrap(), ["no-op"]);
        assert!(plan.importing(address).is_some(), "{address} is not imported");
    }
    workspace.apply().unwrap();
    workspace.plan_is_empty(false).unwrap();
    workspace.plan_is_empty(true).unwrap();
    let main = std::fs::read_to_string(workspace.dir().join("main.tf")).unwrap();
    assert!(main.contains("vault_id    = lifeboat_vault.main.id"), "what is exported is referred to:\n{main}");

    // Nothing of it is overwritten, and standard output says the same.
    let refused = standby.run(&["terraform", "export", "--out", &out]).unwrap();
    assert_eq!(refused.code(), 4, "{}", refused.stderr);
    let printed = standby.run(&["terraform", "export", "--vault", "main"]).unwrap().ok().unwrap();
    assert!(printed.contains(main.trim_end()), "{printed}");
}
