//! Disks that existed before Lifeboat: an image with a file system and a block device, adopted where they are, served,
//! replicated while a gateway is killed, and recovered at another one.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use lifeboat_acceptance::cleanup;
use lifeboat_acceptance::command::Run;
use lifeboat_acceptance::device::{LoopFs, same_content};
use lifeboat_acceptance::documents::Documents;
use lifeboat_acceptance::estate::{Api, Estate};
use lifeboat_acceptance::eventually;
use lifeboat_acceptance::gateway::Gateway;
use lifeboat_api::types::{CommitRequest, FailoverKind, Policy};

const SIZE: u64 = 64 << 20;
const PATIENCE: Duration = Duration::from_secs(60);

/// An ext4 image with documents in it, as a machine would have left it.
fn image(path: &Path, mount: &Path) -> Result<Documents> {
    File::create_new(path)?.set_len(SIZE)?;
    let fs = LoopFs::format(path, mount)?;
    let documents = Documents::write(&fs.path().join("documents"), 60)?;
    fs.close()?;
    Ok(documents)
}

/// A block device over a file, with data here and there.
fn device(path: &Path) -> Result<(PathBuf, cleanup::Guard)> {
    let file = File::create_new(path)?;
    file.set_len(SIZE / 4)?;
    for at in (0..SIZE / 4).step_by(1 << 20) {
        file.write_all_at(&[u8::try_from(at >> 20)?.wrapping_add(1); 12_288], at)?;
    }
    let device = Run::new("losetup").args(["--find", "--show"]).arg(path).ok()?.trim().to_owned();
    let attached = device.clone();
    let detach = cleanup::defer(format!("detach {device}"), move || {
        if let Err(error) = Run::new("losetup").arg("-d").arg(&attached).within(Duration::from_secs(20)).ok() {
            eprintln!("detach {attached}: {error:#}");
        }
    });
    Ok((PathBuf::from(device), detach))
}

/// The policy's window for resyncs opens in some hours.
fn resync_tomorrow(gateway: &Gateway) -> Result<()> {
    let hour = |hours: i64| jiff::Timestamp::now() + jiff::SignedDuration::from_hours(hours);
    let time = |hours: i64| hour(hours).strftime("%H:%M").to_string();
    let resync = serde_json::json!({ "window_start": time(3), "window_end": time(4) });
    Api::of(gateway)?.call(async |client| {
        let policy = client.find_by_name::<Policy>("standard").await?.expect("the estate's policy");
        client
            .patch::<Policy>(&policy.id.to_string(), policy.generation, &serde_json::json!({ "resync": resync }))
            .await
    })?;
    Ok(())
}

/// How well the group is protected, as the command line says.
fn status(gateway: &Gateway) -> Result<serde_json::Value> {
    let all = gateway.json(&["status"])?;
    let group = all["protection"].as_array().and_then(|groups| groups.first().cloned());
    group.with_context(|| format!("no group in {all}"))
}

fn create(gateway: &Gateway, name: &str, source: &Path) -> Result<lifeboat_acceptance::command::Outcome> {
    let source = source.to_str().context("a path in UTF-8")?;
    let group = ["--gateway", "primary", "--group", "ledger", "--no-wait"];
    gateway.run(&[&["volume", "create", "--name", name, "--source", source][..], &group[..]].concat())
}

/// Waits until a volume's file is served with all of its length.
fn served(gateway: &Gateway, name: &str, size: u64) -> Result<PathBuf> {
    let path = gateway.volume(name);
    eventually(&format!("{name} to be served"), PATIENCE, || {
        Ok(std::fs::metadata(&path).is_ok_and(|found| found.len() == size).then_some(()))
    })
    .with_context(|| gateway.log_tail())?;
    Ok(path)
}

#[test]
fn an_image_and_a_device_become_volumes_in_place_and_are_recovered_elsewhere() {
    let mut estate = Estate::protect("adopt", &[("first", 1 << 20)]).unwrap();
    estate.add_standby().unwrap();
    estate.open_vault_at_standby().unwrap();
    let dir = estate.dir().to_owned();
    let disk = dir.join("machine.raw");
    let documents = image(&disk, &dir.join("mnt")).unwrap();
    let (block, _detach) = device(&dir.join("behind.raw")).unwrap();

    resync_tomorrow(&estate.primary).unwrap();
    let refused = create(&estate.primary, "relative", Path::new("machine.raw")).unwrap();
    assert!(refused.code() != 0 && refused.stderr.contains("absolute"), "{refused:?}");
    let _ = create(&estate.primary, "machine", &disk).unwrap().ok().unwrap();
    let _ = create(&estate.primary, "block", &block).unwrap().ok().unwrap();
    let machine = served(&estate.primary, "machine", SIZE).unwrap();

    // Used while it is replicated, and the gateway dies meanwhile.
    let fs = LoopFs::open(&machine, &dir.join("mnt")).unwrap();
    assert_eq!(documents.verify(&fs.path().join("documents")).unwrap(), 60);
    std::fs::write(fs.path().join("later"), "written while it is replicated").unwrap();
    fs.sync().unwrap();
    fs.close().unwrap();
    estate.primary.kill9().unwrap();
    estate.primary.restart().unwrap();
    let machine = served(&estate.primary, "machine", SIZE).unwrap();
    let attached = served(&estate.primary, "block", SIZE / 4).unwrap();
    same_content(&attached, &dir.join("behind.raw")).unwrap();

    // Held: neither adopted twice nor mounted besides.
    let again = create(&estate.primary, "again", &disk).unwrap();
    let _ = again.ok().unwrap();
    eventually("the second adoption to be refused", PATIENCE, || {
        let events = estate.primary.run(&["event", "list"])?;
        Ok(events.stdout.contains("is in use").then_some(()))
    })
    .with_context(|| estate.primary.log_tail())
    .unwrap();
    let _ = estate.primary.run(&["volume", "delete", "again"]).unwrap().ok().unwrap();

    // It waits for the policy's window, until somebody asks for it.
    let resync = eventually("the resync to wait", PATIENCE, || {
        let resync = status(&estate.primary)?["resync"].clone();
        Ok((resync["state"] == "waiting").then_some(resync))
    })
    .unwrap();
    assert_eq!((&resync["cause"], &resync["bytes_left"]), (&"initial".into(), &resync["bytes_total"]), "{resync}");
    assert!(resync["bytes_total"].as_u64().unwrap() < SIZE, "holes are not copied: {resync}");
    let _ = estate.primary.run(&["resync", "--group", "ledger"]).unwrap().ok().unwrap();
    assert!(status(&estate.primary).unwrap()["resync"].is_null());
    estate.take_point(&estate.primary, "whole").unwrap();

    // Changed behind the gateway's back: found by comparing, and replicated.
    estate.primary.stop().unwrap();
    let changed = File::options().write(true).open(&block).unwrap();
    changed.write_all_at(&[0xbe; 8192], 5 << 20).unwrap();
    changed.sync_all().unwrap();
    drop(changed);
    estate.primary.restart().unwrap();
    let attached = served(&estate.primary, "block", SIZE / 4).unwrap();
    let compared = estate.primary.json(&["resync", "--group", "ledger", "--compare"]).unwrap();
    assert_eq!((&compared["state"], &compared["result"]["bytes_changed"]), (&"succeeded".into(), &8192.into()));
    let job = estate.fail_over(FailoverKind::Planned, "latest").unwrap();
    let away = |name: &str| {
        let file = format!("/{name}.img");
        let found = job.result.paths.iter().find(|path| path.ends_with(&file));
        PathBuf::from(found.unwrap_or_else(|| panic!("no {name} among {:?}", job.result.paths)))
    };
    same_content(&away("machine"), &machine).unwrap();
    same_content(&away("block"), &attached).unwrap();
    let fs = LoopFs::open(&away("machine"), &dir.join("mnt")).unwrap();
    assert_eq!(documents.verify(&fs.path().join("documents")).unwrap(), 60);
    assert_eq!(std::fs::read_to_string(fs.path().join("later")).unwrap(), "written while it is replicated");
    fs.close().unwrap();
    estate.verb(estate.standby().unwrap(), "commit", &CommitRequest::default()).unwrap();

    // The home gateway goes; what it adopted stays, whole.
    estate.primary.stop().unwrap();
    LoopFs::check(&disk).unwrap();
    let fs = LoopFs::open(&disk, &dir.join("mnt")).unwrap();
    assert_eq!(documents.verify(&fs.path().join("documents")).unwrap(), 60);
    fs.close().unwrap();
}
