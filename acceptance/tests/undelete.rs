//! What was deleted, or lost with a gateway's disk, comes back from the vault at the same gateway.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use lifeboat_acceptance::content::{content, scribble};
use lifeboat_acceptance::estate::{Api, Estate};
use lifeboat_acceptance::eventually;
use lifeboat_api::client::Collection;
use lifeboat_api::types::{Gateway as GatewayView, Group, Policy, Site, Volume, VolumeSpec};
use lifeboat_api::{Client, ClientError, Resource};

const SIZE: u64 = 16 << 20;
const SETTLES_WITHIN: Duration = Duration::from_secs(60);

async fn delete<R: Resource + Collection>(client: &Client, name: &str) -> Result<(), ClientError> {
    let found: R = client.find_by_name(name).await?.expect("it is declared");
    client.delete::<R>(&found.id(), found.generation()).await
}

/// Waits until so many groups have local files.
fn local_groups(estate: &Estate, left: usize) -> Result<()> {
    let groups = estate.primary.state().join("groups");
    eventually("local files to be removed", SETTLES_WITHIN, || {
        let there = std::fs::read_dir(&groups).map(Iterator::count).unwrap_or(0);
        Ok((there == left).then_some(()))
    })
    .with_context(|| estate.primary.log_tail())
}

fn is_served(path: &Path, wanted: &[u8]) {
    assert!(content(path).expect("can be read") == wanted, "{} isn't what it was", path.display());
}

#[test]
fn a_group_that_was_deleted_with_everything_comes_back() {
    let estate = Estate::protect("undelete", &[("data", SIZE), ("log", SIZE / 4)]).unwrap();
    let paths = ["data", "log"].map(|name| estate.primary.volume(name));
    for (seed, path) in paths.iter().enumerate() {
        scribble(path, seed as u64, 300).unwrap();
    }
    let wanted = paths.each_ref().map(|path| content(path).unwrap());
    estate.take_point(&estate.primary, "before").unwrap();
    let id = estate.primary.json(&["group", "show", "ledger"]).unwrap()["id"].clone();
    let refused = estate.primary.run(&["group", "undelete", "ledger"]).unwrap();
    assert_eq!(refused.code(), 3, "it isn't deleted: {}", refused.stderr);

    // As `terraform destroy` does it.
    Api::of(&estate.primary)
        .unwrap()
        .call(async |client| {
            delete::<Volume>(client, "data").await?;
            delete::<Volume>(client, "log").await?;
            delete::<Group>(client, "ledger").await?;
            delete::<Policy>(client, "standard").await?;
            delete::<GatewayView>(client, "primary").await?;
            delete::<Site>(client, "onprem").await
        })
        .unwrap();
    let listed = estate.primary.json(&["group", "list", "--deleted"]).unwrap();
    assert_eq!(listed[0]["id"], id, "{listed}");
    assert_eq!(listed[0]["volumes"].as_array().map(Vec::len), Some(2), "{listed}");
    assert_eq!(estate.primary.json(&["group", "list"]).unwrap().as_array().map(Vec::len), Some(0));

    local_groups(&estate, 0).unwrap();
    let job = estate.primary.json(&["group", "undelete", "ledger"]).unwrap();
    assert_eq!(job["state"], "succeeded", "{job}");
    for (path, wanted) in paths.iter().zip(&wanted) {
        is_served(path, wanted);
    }
    assert_eq!(estate.primary.json(&["group", "show", "ledger"]).unwrap()["id"], id);
    for noun in ["policy", "site", "gateway"] {
        assert_eq!(estate.primary.json(&[noun, "list"]).unwrap().as_array().map(Vec::len), Some(1), "{noun}");
    }
    // It is protected as before.
    let now = jiff::Timestamp::now();
    scribble(&paths[0], 7, 50).unwrap();
    estate.point_after(&estate.primary, now).unwrap();
    assert_eq!(estate.primary.json(&["group", "list", "--deleted"]).unwrap().as_array().map(Vec::len), Some(0));
}

#[test]
fn a_single_volume_comes_back_and_a_name_that_was_taken_since_is_in_the_way() {
    let estate = Estate::protect("undelete-volume", &[("data", SIZE)]).unwrap();
    let api = Api::of(&estate.primary).unwrap();
    let spec = api
        .call(async |client| {
            let policy: Policy = client.find_by_name("standard").await?.expect("the policy is declared");
            let gateway: GatewayView = client.find_by_name("primary").await?.expect("the gateway is declared");
            Ok(VolumeSpec {
                name: "single".into(),
                gateway_id: gateway.id,
                size_bytes: SIZE,
                group_id: None,
                policy_id: Some(policy.id),
                cache_bytes: None,
                source: None,
                export: None,
            })
        })
        .unwrap();
    api.call(async |client| client.create::<Volume>(&spec).await).unwrap();
    let path = estate.primary.volume("single");
    eventually("the volume to be served", SETTLES_WITHIN, || Ok(path.exists().then_some(()))).unwrap();
    scribble(&path, 1, 300).unwrap();
    let wanted = content(&path).unwrap();
    estate.primary.json(&["point", "take", "--group", "single"]).unwrap();
    api.call(async |client| delete::<Volume>(client, "single").await).unwrap();
    eventually("the volume to be gone", SETTLES_WITHIN, || Ok((!path.exists()).then_some(()))).unwrap();

    api.call(async |client| client.create::<Volume>(&spec).await).unwrap();
    let refused = estate.primary.run(&["group", "undelete", "single"]).unwrap();
    assert_eq!(refused.code(), 4, "{}", refused.stderr);
    assert!(refused.stderr.contains("there is a"), "{}", refused.stderr);
    eventually("the new volume to be protected", SETTLES_WITHIN, || {
        let shown = estate.primary.json(&["volume", "show", "single"])?;
        Ok((shown["status"]["state"] == "protected").then_some(()))
    })
    .unwrap();
    api.call(async |client| delete::<Volume>(client, "single").await).unwrap();
    let listed = estate.primary.json(&["group", "list", "--deleted"]).unwrap();
    let first = listed.as_array().unwrap().iter().min_by_key(|group| group["deleted"].to_string()).unwrap();
    local_groups(&estate, 1).unwrap();
    let job = estate.primary.json(&["group", "undelete", first["id"].as_str().unwrap()]).unwrap();
    assert_eq!(job["state"], "succeeded", "{job}");
    is_served(&path, &wanted);
}

#[test]
fn a_gateway_that_lost_its_disk_brings_its_group_back_by_itself() {
    let mut estate = Estate::protect("lost-disk", &[("data", SIZE)]).unwrap();
    let path = estate.primary.volume("data");
    scribble(&path, 3, 300).unwrap();
    let wanted = content(&path).unwrap();
    estate.take_point(&estate.primary, "before").unwrap();
    let refused = estate.primary.run(&["failover", "unplanned", "--group", "ledger"]).unwrap();
    assert_eq!(refused.code(), 4, "it is here already: {}", refused.stderr);

    estate.primary.kill9().unwrap();
    std::fs::remove_dir_all(estate.primary.state().join("groups")).unwrap();
    estate.primary.restart().unwrap();
    eventually("the gateway to say what is lost", SETTLES_WITHIN, || {
        let events = estate.primary.json(&["event", "list"])?;
        Ok(events.to_string().contains("its local state is gone").then_some(()))
    })
    .unwrap();
    let job = estate.primary.json(&["failover", "unplanned", "--group", "ledger"]).unwrap();
    assert_eq!(job["state"], "succeeded", "{job}");
    is_served(&path, &wanted);
    let now = jiff::Timestamp::now();
    scribble(&path, 4, 50).unwrap();
    estate.point_after(&estate.primary, now).unwrap();
}
