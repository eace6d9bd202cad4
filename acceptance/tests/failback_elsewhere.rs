//! A primary is lost, and another machine at its site takes its place: the group comes home there. When the old primary is back it
//! finds that it was left.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use lifeboat_acceptance::content::{content, scribble};
use lifeboat_acceptance::estate::{Api, Estate};
use lifeboat_acceptance::eventually;
use lifeboat_acceptance::gateway::Gateway;
use lifeboat_api::types::{FailoverKind, Gateway as GatewayView, GatewaySpec, Group, Site, Volume, VolumeSpec};

const VOLUMES: [(&str, u64); 2] = [("data", 32 << 20), ("log", 16 << 20)];
const WITHIN: Duration = Duration::from_secs(60);

/// The volumes as a gateway serves them, once it does.
fn served(gateway: &Gateway) -> Result<Vec<Vec<u8>>> {
    let paths: Vec<PathBuf> = VOLUMES.iter().map(|(name, _)| gateway.volume(name)).collect();
    eventually("the volumes to be open", WITHIN, || {
        Ok(paths.iter().map(|path| content(path)).collect::<Result<Vec<_>>>().ok())
    })
}

/// Declares another gateway at the home site, and starts it with the vault.
fn add_spare(estate: &Estate) -> Result<Gateway> {
    let api = Api::of(estate.standby()?)?;
    api.call(async |client| {
        let site = client.find_by_name::<Site>("onprem").await?.expect("declared with the estate");
        let spec = GatewaySpec { site_id: site.id, name: "spare".into(), roles: None, mount_path: None };
        client.create::<GatewayView>(&spec).await
    })?;
    let spare = Gateway::start("onprem", "spare", &estate.dir().join("spare"))?;
    let key = estate.key_file().display().to_string();
    spare.run(&["vault", "open", estate.vault_url(), "--key-file", &key])?.ok()?;
    eventually("the spare gateway to take up its declaration", WITHIN, || {
        let found = api.call(async |client| client.find_by_name::<GatewayView>("spare").await)?;
        Ok(found.filter(|gateway| gateway.status.registered).map(drop))
    })
    .with_context(|| spare.log_tail())?;
    Ok(spare)
}

fn group_dir(gateway: &Gateway, group: &Group) -> PathBuf {
    gateway.state().join("groups").join(group.id.to_string())
}

#[test]
fn another_machine_takes_the_place_of_a_lost_primary() {
    for mode in ["minimize-downtime", "create"] {
        come_home_elsewhere(mode).with_context(|| mode.to_owned()).unwrap();
    }
}

fn come_home_elsewhere(mode: &str) -> Result<()> {
    let mut estate = Estate::protect(&format!("elsewhere-{mode}"), &VOLUMES)?;
    estate.add_standby()?;
    estate.open_vault_at_standby()?;
    scribble(&estate.primary.volume("data"), 1, 2000)?;
    scribble(&estate.primary.volume("log"), 2, 500)?;
    estate.take_point(&estate.primary, "known")?;
    estate.primary.kill9()?;
    estate.fail_over(FailoverKind::Unplanned, "latest")?;
    let spare = add_spare(&estate)?;
    let standby = estate.standby()?;
    scribble(&standby.volume("data"), 3, 300)?;
    let written = served(standby)?;

    let done = standby.json(&["failback", "--group", "ledger", "--mode", mode, "--to-gateway", "spare"])?;
    anyhow::ensure!(done["state"] == "succeeded", "{done}");
    anyhow::ensure!(served(&spare)? == written, "the volumes at the new home are others");
    scribble(&spare.volume("log"), 4, 100)?;
    estate.take_point(&spare, "at the new home")?;
    let written = served(&spare)?;

    // The declaration still names the lost gateway, and can be brought in line in place.
    let api = Api::of(&spare)?;
    let group = api.call(async |client| client.find_by_name::<Group>("ledger").await)?.context("the group")?;
    for (name, _) in VOLUMES {
        let volume = api.call(async |client| client.find_by_name::<Volume>(name).await)?.context("the volume")?;
        let home = volume.status.home_gateway_id.context("it has a home")?;
        anyhow::ensure!(home != volume.spec.gateway_id && Some(home) == volume.status.active_gateway_id, "{volume:?}");
        let spec = VolumeSpec { gateway_id: home, ..volume.spec.clone() };
        let id = volume.id.to_string();
        api.call(async |client| client.update::<Volume>(&id, volume.generation, &spec).await)?;
    }

    // The old primary comes back: fenced, it keeps what it hadn't shipped in the vault and gives its copy up.
    anyhow::ensure!(group_dir(&estate.primary, &group).join("home").exists(), "it was killed with its copy");
    estate.primary.restart()?;
    eventually("the old primary to give its copy up", WITHIN, || {
        Ok((!group_dir(&estate.primary, &group).join("home").exists()).then_some(()))
    })
    .with_context(|| estate.primary.log_tail())?;
    let events = eventually("it to say so", WITHIN, || {
        let events = estate.primary.json(&["event", "list"])?;
        let events = events.as_array().cloned().unwrap_or_default();
        Ok(events.into_iter().find(|event| event["kind"] == "group.left"))
    })?;
    let message = events["message"].as_str().unwrap_or_default();
    anyhow::ensure!(message.contains("at home at the gateway spare"), "{message}");
    anyhow::ensure!(!estate.primary.volume("data").exists(), "what it gave up isn't served");
    anyhow::ensure!(served(&spare)? == written, "the new home was disturbed");
    scribble(&spare.volume("data"), 5, 10)?;
    estate.take_point(&spare, "still protected")?;
    Ok(())
}
