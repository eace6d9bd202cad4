//! Somebody encrypts the files of a protected file system: the gateway says so, and which point is older; the point holds the
//! files as they were. Real ext4 on a loop device on the mount, files changed through the kernel.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use lifeboat_acceptance::device::LoopFs;
use lifeboat_acceptance::documents::Documents;
use lifeboat_acceptance::estate::{Api, Estate};
use lifeboat_acceptance::eventually;
use lifeboat_acceptance::terraform::{Tier, Workspace};
use lifeboat_api::types::{Event, Page, Point};
use serde_json::Value;

const MIB: u64 = 1 << 20;
const FILES: u64 = 240;
const FILE_BYTES: usize = 96 << 10;

const CONFIGURATION: &str = r#"
terraform {
  required_providers {
    lifeboat = {
      source = "lifeboat-dr/lifeboat"
    }
  }
}

data "lifeboat_clean_point" "of" {
  group_id = "GROUP"
}

output "clean" {
  value = {
    point      = data.lifeboat_clean_point.of.point
    suspicions = [for one in data.lifeboat_clean_point.of.suspicions : { volume = one.volume, since = one.since }]
  }
}
"#;

/// Random bytes, as a cipher gives them.
fn cipher() -> Result<impl FnMut(usize) -> Result<Vec<u8>>> {
    let mut source = File::open("/dev/urandom").context("open /dev/urandom")?;
    Ok(move |len| {
        let mut bytes = vec![0; len];
        source.read_exact(&mut bytes).context("read random bytes")?;
        Ok(bytes)
    })
}

/// Letters and invoices, about.
fn letter(number: u64) -> Vec<u8> {
    (0_u64..)
        .flat_map(|line| {
            format!("{line:06} customer {} owes {} for order {number}\n", line * 7919 % 4001, line * number % 977)
                .into_bytes()
        })
        .take(FILE_BYTES)
        .collect()
}

fn paths(dir: &Path) -> Vec<PathBuf> {
    (0..FILES).map(|number| dir.join(format!("letter-{number:03}.txt"))).collect()
}

/// Encrypts files where they are, as far as `most` bytes of each.
fn in_place(files: &[PathBuf], most: usize) -> Result<()> {
    let mut cipher = cipher()?;
    for path in files {
        let mut file = File::options().read(true).write(true).open(path).context("open a file")?;
        let len = usize::try_from(file.metadata()?.len())?.min(most);
        file.seek(SeekFrom::Start(0))?;
        file.write_all(&cipher(len)?)?;
        file.sync_all()?;
        drop(file);
        std::fs::rename(path, path.with_extension("locked"))?;
    }
    Ok(())
}

fn suggestion(estate: &Estate) -> Result<Value> {
    estate.primary.json(&["point", "suggest", "ledger"])
}

fn points_of(estate: &Estate, group: &str) -> Result<Vec<Point>> {
    let group = ("group", group.to_owned());
    let api = Api::of(&estate.primary)?;
    Ok(api.call(async |client| client.list("/v1/points", std::slice::from_ref(&group)).await)?)
}

/// How much of what was written before a point looks random, where it was measured.
fn random_share(estate: &Estate, group: &str, point: &str) -> Result<Option<f64>> {
    let path = format!("/v1/points/{point}");
    let group = ("group", group.to_owned());
    let point: Point =
        Api::of(&estate.primary)?.call(async |client| client.get(&path, std::slice::from_ref(&group)).await)?;
    let volume = point.volumes.unwrap_or_default().into_iter().next();
    Ok(volume.and_then(|volume| volume.written).map(|written| written.random))
}

fn suspicious_events(estate: &Estate) -> Result<Vec<Event>> {
    let page: Page<Event> = Api::of(&estate.primary)?
        .call(async |client| client.get("/v1/events", &[("limit", "100".to_owned())]).await)?;
    Ok(page.items.into_iter().filter(|event| event.kind == "volume.suspicious").collect())
}

#[test]
fn an_encryption_is_noticed_and_the_point_before_it_holds_the_files() {
    let mut estate = Estate::protect("clean-point", &[("files", 96 * MIB)]).unwrap();
    let image = estate.primary.volume("files");
    let fs = LoopFs::format(&image, &estate.dir().join("files")).unwrap();
    let letters = fs.path().join("letters");
    std::fs::create_dir(&letters).unwrap();
    for (number, path) in paths(&letters).iter().enumerate() {
        std::fs::write(path, letter(number as u64)).unwrap();
    }
    fs.sync().unwrap();
    let manifest = Documents::record(&letters).unwrap();
    estate.take_point(&estate.primary, "clean").unwrap();
    let calm = suggestion(&estate).unwrap();
    assert_eq!(calm["suspicions"], serde_json::json!([]), "{calm}");

    in_place(&paths(&letters), 64 << 10).unwrap();
    fs.sync().unwrap();
    let found = eventually("the encryption to be noticed", Duration::from_secs(60), || {
        let found = suggestion(&estate)?;
        Ok((found["suspicions"] != serde_json::json!([])).then_some(found))
    })
    .unwrap();
    assert_eq!(found["suspicions"][0]["volume"], "files", "{found}");
    let dir = found["point"]["path"].as_str().expect("a point with files").to_owned();
    eventually("the event", Duration::from_secs(30), || Ok((suspicious_events(&estate)?.len() == 1).then_some(())))
        .unwrap();
    let status = estate.primary.json(&["group", "show", "ledger"]).unwrap();
    assert_eq!(status["status"]["health"], "warning", "{status}");

    // The figures stand with the points.
    let (group, point) = (found["group_id"].as_str().unwrap(), found["point"]["id"].as_str().unwrap());
    let before = random_share(&estate, group, point).unwrap();
    assert!(before.is_none_or(|share| share < 0.1), "before the encryption: {before:?}");
    // A list of points is a moment old at times.
    eventually("a point that holds what looks random", Duration::from_secs(30), || {
        let points = points_of(&estate, group)?;
        let share = |point: &Point| random_share(&estate, group, &point.id.to_string());
        let shares: Vec<Option<f64>> = points.iter().map(share).collect::<Result<_>>()?;
        Ok(shares.iter().flatten().any(|share| *share > 0.5).then_some(()))
    })
    .unwrap();

    // Terraform reads the same.
    let workspace =
        Workspace::new(&estate.dir().join("terraform"), Tier::Attached, estate.primary.client_environment()).unwrap();
    workspace.write(&CONFIGURATION.replace("GROUP", found["group_id"].as_str().expect("an id"))).unwrap();
    workspace.plan().unwrap();
    workspace.apply().unwrap();
    let read = workspace.outputs().unwrap();
    assert_eq!(read["clean"]["point"]["id"], found["point"]["id"], "{read}");
    assert_eq!(read["clean"]["suspicions"][0]["volume"], "files", "{read}");
    workspace.plan_is_empty(true).unwrap();
    drop(workspace);

    // What was measured outlives the gateway, and nothing is said twice.
    fs.close().unwrap();
    estate.primary.kill9().unwrap();
    estate.primary.restart().unwrap();
    let again = eventually("the gateway to know it again", Duration::from_secs(60), || {
        let found = suggestion(&estate)?;
        Ok((found["suspicions"] != serde_json::json!([])).then_some(found))
    })
    .unwrap();
    assert_eq!(again["point"]["id"], found["point"]["id"], "{again}");
    assert_eq!(suspicious_events(&estate).unwrap().len(), 1);

    // The suggested point holds every file as it was.
    let copy = estate.dir().join("copy.img");
    std::fs::copy(Path::new(&dir).join("files.img"), &copy).unwrap();
    let clean = LoopFs::open(&copy, &estate.dir().join("clean")).unwrap();
    assert_eq!(manifest.verify(&clean.path().join("letters")).unwrap(), usize::try_from(FILES).unwrap());
}
