//! An appliance is lost, with its machine. Another one of its site opens the vault and takes over what it had: a group in images of its
//! own, and one on a disk that the new machine sees, too. What had landed is there, applications write on, Terraform's configuration
//! names the new gateway and plans nothing, and the old machine is fenced when it is back.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lifeboat_acceptance::content::{content, scribble};
use lifeboat_acceptance::estate::{Api, Estate};
use lifeboat_acceptance::eventually;
use lifeboat_acceptance::gateway::Gateway;
use lifeboat_acceptance::stamps::Writer;
use lifeboat_acceptance::terraform::{Tier, Workspace};
use lifeboat_api::types::{Gateway as GatewayView, Policy, Volume};

const VOLUMES: [(&str, u64); 2] = [("data", 32 << 20), ("log", 16 << 20)];
const DISK: u64 = 64 << 20;
const WITHIN: Duration = Duration::from_secs(90);

fn paths(gateway: &Gateway) -> Vec<PathBuf> {
    VOLUMES.iter().map(|(name, _)| gateway.volume(name)).collect()
}

fn read_all(paths: &[PathBuf]) -> Result<Vec<Vec<u8>>> {
    paths.iter().map(|path| content(path)).collect()
}

fn volume(gateway: &Gateway, name: &str) -> Result<Volume> {
    let found = Api::of(gateway)?.call(async |client| client.find_by_name::<Volume>(name).await)?;
    found.with_context(|| format!("the volume {name}"))
}

/// A volume by itself on a disk image that holds something already.
fn adopt(estate: &Estate, disk: &Path) -> Result<()> {
    File::create_new(disk)?.set_len(DISK)?;
    scribble(disk, 11, 3000)?;
    let source = disk.to_str().context("a path in UTF-8")?;
    let create = ["volume", "create", "--name", "machine", "--source", source, "--gateway", "primary"];
    estate.primary.run(&[&create[..], &["--size", "64MiB", "--policy", "standard"][..]].concat())?.ok()?;
    // Points begin once the vault has all of it.
    eventually("the disk to be in the vault", WITHIN, || {
        Ok(volume(&estate.primary, "machine")?.status.latest_recovery_point.map(drop))
    })
    .with_context(|| estate.primary.log_tail())
}

/// Another machine of the home site: it knows nothing but the vault and its key.
fn spare(estate: &Estate) -> Result<Gateway> {
    let spare = Gateway::start("onprem", "spare", &estate.dir().join("spare"))?;
    let key = estate.key_file().display().to_string();
    spare.run(&["vault", "open", estate.vault_url(), "--key-file", &key])?.ok()?;
    spare.run(&["gateway", "create", "--name", "spare", "--site", "onprem"])?.ok()?;
    eventually("the spare gateway to take up its declaration", WITHIN, || {
        Ok(gateway(&spare, "spare")?.status.registered.then_some(()))
    })
    .with_context(|| spare.log_tail())?;
    Ok(spare)
}

fn gateway(asked: &Gateway, name: &str) -> Result<GatewayView> {
    let found = Api::of(asked)?.call(async |client| client.find_by_name::<GatewayView>(name).await)?;
    found.with_context(|| format!("the gateway {name}"))
}

fn configuration(home: &str, volumes: &[Volume], policy: &Policy) -> String {
    let mut text = String::from(
        "terraform {\n  required_providers {\n    lifeboat = { source = \"lifeboat-dr/lifeboat\" }\n  }\n}\n",
    );
    for volume in volumes {
        let (name, id) = (&volume.spec.name, volume.id);
        // Whole blocks, and powers of two: exact.
        let gib = volume.spec.size_bytes as f64 / f64::from(1 << 30);
        let by = match volume.spec.group_id {
            Some(group) => format!("group_id = \"{group}\""),
            None => format!("policy_id = \"{}\"", policy.id),
        };
        let source =
            volume.spec.source.as_ref().map(|source| format!("  source {{\n    path = {:?}\n  }}\n", source.path));
        let source = source.unwrap_or_default();
        text.push_str(&format!(
            "import {{\n  to = lifeboat_volume.{name}\n  id = \"{id}\"\n}}\n\
             resource \"lifeboat_volume\" \"{name}\" {{\n  name = \"{name}\"\n  gateway_id = \"{home}\"\n  {by}\n  size_gib = \
             {gib}\n{source}}}\n"
        ));
    }
    text
}

#[test]
fn a_lost_gateway_is_replaced_by_another_one_of_its_site() {
    let mut estate = Estate::protect("replace", &VOLUMES).unwrap();
    let disk = estate.dir().join("machine.raw");
    adopt(&estate, &disk).unwrap();
    let names = ["data", "log", "machine"];
    let volumes: Vec<Volume> = names.iter().map(|name| volume(&estate.primary, name).unwrap()).collect();
    let api = Api::of(&estate.primary).unwrap();
    let policy = api.call(async |client| client.find_by_name::<Policy>("standard").await).unwrap().unwrap();
    let old = volumes[0].spec.gateway_id.to_string();
    let terraform =
        Workspace::new(&estate.dir().join("terraform"), Tier::Installed, estate.primary.client_environment()).unwrap();
    terraform.write(&configuration(&old, &volumes, &policy)).unwrap();
    terraform.init().unwrap();
    terraform.plan().unwrap();
    terraform.apply().unwrap();
    terraform.plan_is_empty(true).unwrap();

    // Under load. Some of it lands; then the vault is away, so that there is something that never does.
    let writer = Writer::start().unwrap();
    writer.resume(&paths(&estate.primary));
    writer.write(100).unwrap();
    scribble(&estate.primary.volume("machine"), 12, 500).unwrap();
    let on_disk = content(&estate.primary.volume("machine")).unwrap();
    let group = volumes[2].status.group_id.unwrap().to_string();
    estate.primary.run(&["point", "take", "--group", &group]).unwrap().ok().unwrap();
    let landed = writer.history().last();
    estate.take_point(&estate.primary, "landed").unwrap();
    let away = estate.dir().join("vault.away");
    std::fs::rename(estate.vault_dir(), &away).unwrap();
    writer.write(100).unwrap();
    scribble(&estate.primary.volume("machine"), 13, 50).unwrap();
    estate.primary.kill9().unwrap();
    writer.pause().unwrap();
    let _ = std::fs::remove_dir_all(estate.vault_dir());
    std::fs::rename(&away, estate.vault_dir()).unwrap();
    let (state, lost) = (estate.primary.state(), estate.dir().join("state.lost"));
    std::fs::rename(&state, &lost).unwrap();

    let spare = spare(&estate).unwrap();
    let replace = ["gateway", "replace", "primary", "--by", "spare"];
    let done = spare.run(&replace).unwrap();
    if done.code() != 0 {
        // It was heard of within the last minute.
        assert!(done.code() == 4 && done.stderr.contains("was heard of less than"), "{done:?}");
        let forced = spare.json(&[&replace[..], &["--force"][..]].concat()).unwrap();
        assert_eq!(forced["state"], "succeeded", "{forced}\n{}", spare.log_tail());
        assert!(forced["result"]["rpo_seconds"].as_f64().is_some_and(|seconds| seconds > 0.0), "{forced}");
    }

    // What had landed is there, and nothing that is neither that nor after it.
    let mut history = writer.history();
    let found = read_all(&paths(&spare)).unwrap();
    history.check_prefix(&found, landed).unwrap();
    assert_eq!(content(&spare.volume("machine")).unwrap(), on_disk, "the disk is at the point that landed");
    let machine = volume(&spare, "machine").unwrap();
    assert_eq!(machine.spec.gateway_id.to_string(), gateway(&spare, "spare").unwrap().id.to_string());
    eventually("the disk to be compared", WITHIN, || {
        let log = std::fs::read_to_string(spare.log()).unwrap_or_default();
        Ok(log.contains("only the blocks that differ are fetched").then_some(()))
    })
    .with_context(|| spare.log_tail())
    .unwrap();

    // Applications write on.
    writer.go_on_from(history).unwrap();
    writer.resume(&paths(&spare));
    writer.write(100).unwrap();
    scribble(&spare.volume("machine"), 14, 100).unwrap();
    estate.take_point(&spare, "after").unwrap();

    // Terraform: with the new gateway nothing is to be done, and the old one explains itself.
    let terraform = terraform.through(spare.client_environment());
    let new = gateway(&spare, "spare").unwrap().id.to_string();
    terraform.write(&configuration(&new, &volumes, &policy)).unwrap();
    terraform.plan_is_empty(true).unwrap();
    terraform.write(&configuration(&old, &volumes, &policy)).unwrap();
    let said = terraform.plan_diagnostics().unwrap();
    let explained = |one: &lifeboat_acceptance::terraform::Diagnostic| {
        one.summary == "The gateway was replaced" && one.detail.contains(&new)
    };
    assert!(said.iter().any(explained), "{said:?}");

    // The old machine is back: fenced, for reading only, and what it had not shipped is kept.
    std::fs::rename(&lost, &state).unwrap();
    estate.primary.restart().unwrap();
    let said = eventually("the old gateway to keep its tail", WITHIN, || {
        let events = estate.primary.json(&["event", "list"])?;
        let events = events.as_array().cloned().unwrap_or_default();
        Ok(events.into_iter().find(|event| event["kind"] == "group.left"))
    })
    .with_context(|| estate.primary.log_tail())
    .unwrap();
    let message = said["message"].as_str().unwrap_or_default();
    assert!(message.contains("served by the gateway spare") && message.contains("is kept on the branch"), "{message}");
    refused_to_write(&estate.primary).unwrap();
    let status = estate.primary.json(&["status"]).unwrap();
    assert!(status["reasons"].to_string().contains("was replaced by the gateway spare"), "{status}");

    // Nothing of that disturbed anybody.
    writer.write(50).unwrap();
    writer.pause().unwrap();
    let mut history = writer.history();
    history.check(&read_all(&paths(&spare)).unwrap()).unwrap();
    // Nothing names it any more: it can go.
    estate.primary.stop().unwrap();
    spare.run(&["gateway", "delete", "primary"]).unwrap().ok().unwrap();
}

/// The volumes of a gateway that was replaced can be read and not written.
fn refused_to_write(gateway: &Gateway) -> Result<()> {
    let path = gateway.volume("data");
    eventually("its volumes to be shown", WITHIN, || Ok(content(&path).is_ok().then_some(())))
        .with_context(|| gateway.log_tail())?;
    let written = scribble(&path, 15, 1);
    ensure!(written.is_err(), "a gateway that was replaced was written to");
    Ok(())
}
