//! Two separate master targets at the home site receive the two groups of a failback at the same time, one of them on a disk of its own.
//! A gateway that isn't declared as one refuses. The groups are at home where they came to, until they are moved.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lifeboat_acceptance::content::{content, scribble};
use lifeboat_acceptance::estate::{Api, Estate};
use lifeboat_acceptance::eventually;
use lifeboat_acceptance::gateway::Gateway;
use lifeboat_api::types::{BootGroup, Gateway as GatewayView, Plan, PlanSpec, Site, Volume};

const VOLUMES: [(&str, u64); 2] = [("data", 32 << 20), ("log", 16 << 20)];
const ARCHIVE: u64 = 24 << 20;
const NAMES: [&str; 3] = ["data", "log", "archive"];
const WITHIN: Duration = Duration::from_secs(90);

fn volume(gateway: &Gateway, name: &str) -> Result<Volume> {
    let found = Api::of(gateway)?.call(async |client| client.find_by_name::<Volume>(name).await)?;
    found.with_context(|| format!("the volume {name}"))
}

fn gateway(asked: &Gateway, name: &str) -> Result<GatewayView> {
    let found = Api::of(asked)?.call(async |client| client.find_by_name::<GatewayView>(name).await)?;
    found.with_context(|| format!("the gateway {name}"))
}

/// What a gateway serves under these names, once it does.
fn served(gateway: &Gateway, names: &[&str]) -> Result<Vec<Vec<u8>>> {
    let paths: Vec<PathBuf> = names.iter().map(|name| gateway.volume(name)).collect();
    eventually("the volumes to be open", WITHIN, || {
        Ok(paths.iter().map(|path| content(path)).collect::<Result<Vec<_>>>().ok())
    })
    .with_context(|| gateway.log_tail())
}

/// Another gateway of the home site, declared with these roles, with the vault open.
fn another(estate: &Estate, name: &str, roles: &[&str]) -> Result<Gateway> {
    let standby = estate.standby()?;
    let mut create = vec!["gateway", "create", "--name", name, "--site", "onprem"];
    create.extend(roles.iter().flat_map(|role| ["--role", role]));
    standby.run(&create)?.ok()?;
    let started = Gateway::start("onprem", name, &estate.dir().join(name))?;
    let key = estate.key_file().display().to_string();
    started.run(&["vault", "open", estate.vault_url(), "--key-file", &key])?.ok()?;
    eventually("it to take up its declaration", WITHIN, || Ok(gateway(standby, name)?.status.registered.then_some(())))
        .with_context(|| started.log_tail())?;
    Ok(started)
}

/// A plan over everything.
fn plan(estate: &Estate) -> Result<()> {
    let api = Api::of(&estate.primary)?;
    let volumes = NAMES.iter().map(|name| volume(&estate.primary, name)).collect::<Result<Vec<_>>>()?;
    api.call(async |client| {
        let source = client.find_by_name::<Site>("onprem").await?.expect("declared with the estate");
        let target = client.find_by_name::<Site>("recovery").await?.expect("declared with the standby");
        let spec = PlanSpec {
            vault_id: source.spec.vault_id,
            name: "all".into(),
            source_site_id: source.id,
            target_site_id: target.id,
            shutdown: None,
            boot_group: vec![BootGroup {
                name: None,
                machine_ids: Vec::new(),
                volume_ids: volumes.iter().map(|volume| volume.id).collect(),
                pre_action: Vec::new(),
                post_action: Vec::new(),
            }],
        };
        client.create::<Plan>(&spec).await.map(drop)
    })?;
    let standby = estate.standby()?;
    eventually("the plan to be known at the recovery site", WITHIN, || {
        let plans = standby.json(&["plan", "list"])?;
        Ok(plans.as_array().is_some_and(|plans| !plans.is_empty()).then_some(()))
    })
    .with_context(|| standby.log_tail())
}

fn succeeded(gateway: &Gateway, args: &[&str]) -> Result<serde_json::Value> {
    let done = gateway.json(args)?;
    ensure!(done["state"] == "succeeded", "{done}\n{}", gateway.log_tail());
    Ok(done)
}

fn home_of(asked: &Gateway, name: &str) -> Result<String> {
    let home = volume(asked, name)?.status.home_gateway_id.context("it has a home")?;
    Ok(Api::of(asked)?.call(async |client| client.read::<GatewayView>(&home.to_string()).await)?.spec.name)
}

fn write(gateway: &Gateway, names: &[&str], seed: u64) -> Result<()> {
    names.iter().zip(seed..).try_for_each(|(name, seed)| scribble(&gateway.volume(name), seed, 200))
}

fn disk(path: &Path) -> Result<String> {
    let file = std::fs::File::create_new(path)?;
    file.set_len(ARCHIVE)?;
    Ok(format!("archive={}", path.display()))
}

#[test]
fn a_failback_is_spread_over_master_targets_and_homes_are_moved_where_they_are_wanted() {
    let mut estate = Estate::protect("targets", &VOLUMES).unwrap();
    let archive = ["volume", "create", "--name", "archive", "--size", "24MiB", "--gateway", "primary"];
    estate.primary.run(&[&archive[..], &["--policy", "standard"][..]].concat()).unwrap().ok().unwrap();
    estate.add_standby().unwrap();
    estate.open_vault_at_standby().unwrap();
    plan(&estate).unwrap();
    write(&estate.primary, &NAMES, 1).unwrap();
    let standby = estate.standby().unwrap();
    succeeded(standby, &["failover", "planned", "all"]).unwrap();
    write(standby, &NAMES, 10).unwrap();
    let written = served(standby, &NAMES).unwrap();

    let first = another(&estate, "mt1", &["master_target"]).unwrap();
    let second = another(&estate, "mt2", &["master_target"]).unwrap();
    let desk = another(&estate, "desk", &["configuration_server"]).unwrap();
    // Who isn't a master target receives nothing, by whatever way it is named.
    for target in [&["--to", "desk"][..], &["--to", "mt1", "--to", "desk"], &["--to", "mt1", "--to", "archive=desk"]] {
        let refused = standby.run(&[&["failback", "all"][..], target].concat()).unwrap();
        assert!(
            refused.code() != 0 && refused.stderr.contains("desk isn't declared as a master target"),
            "{refused:?}"
        );
    }
    let path = estate.dir().join("archive.raw");
    let on_disk = disk(&path).unwrap();
    let spread = ["failback", "all", "--to", "mt1", "--to", "archive=mt2", "--disk", &on_disk];
    let refused = standby.run(&spread).unwrap();
    assert!(refused.code() != 0 && refused.stderr.contains("goes with the mode create"), "{refused:?}");
    succeeded(standby, &[&spread[..], &["--mode", "create"][..]].concat()).unwrap();
    assert_eq!(served(&first, &NAMES[..2]).unwrap(), written[..2], "the group at the first master target");
    assert_eq!(served(&second, &NAMES[2..]).unwrap(), written[2..], "the group at the second one");
    let homes: Vec<String> = NAMES.iter().map(|name| home_of(standby, name).unwrap()).collect();
    assert_eq!(homes, ["mt1", "mt1", "mt2"]);
    write(&first, &NAMES[..2], 20).unwrap();
    write(&second, &NAMES[2..], 30).unwrap();
    let archived = served(&second, &NAMES[2..]).unwrap();
    eventually("the disk to hold the volume", WITHIN, || Ok((content(&path)? == archived[0]).then_some(())))
        .with_context(|| second.log_tail())
        .unwrap();

    // Away and back again, several at a time and by size this time, with what differs only.
    succeeded(standby, &["failover", "planned", "all"]).unwrap();
    write(standby, &NAMES, 40).unwrap();
    let written = served(standby, &NAMES).unwrap();
    succeeded(standby, &["failback", "all", "--to", "mt1", "--to", "mt2"]).unwrap();
    let homes: Vec<String> = NAMES.iter().map(|name| home_of(standby, name).unwrap()).collect();
    assert!(homes[0] == homes[1] && homes[0] != homes[2], "{homes:?}");
    let at = |name: &str| if name == "mt1" { &first } else { &second };
    assert_eq!(served(at(&homes[0]), &NAMES[..2]).unwrap(), written[..2]);
    assert_eq!(served(at(&homes[2]), &NAMES[2..]).unwrap(), written[2..]);

    // The work is done: the groups are to be at home at the appliance, which may even be a gateway that receives no failbacks.
    for (group, names, from) in [("ledger", &NAMES[..2], at(&homes[0])), ("archive", &NAMES[2..], at(&homes[2]))] {
        write(from, names, 50).unwrap();
        let expected = served(from, names).unwrap();
        succeeded(standby, &["group", "move", group, "--to", "desk"]).unwrap();
        assert_eq!(served(&desk, names).unwrap(), expected, "{group}");
        assert_eq!(home_of(standby, names[0]).unwrap(), "desk");
        write(&desk, names, 60).unwrap();
        assert!(!from.volume(names[0]).exists(), "its copy was removed");
    }
    estate.take_point(&desk, "still protected").unwrap();
}
