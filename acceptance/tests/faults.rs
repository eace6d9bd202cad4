//! What is around a gateway misbehaves while applications write: storage that is ended and started again, that crawls, that has no room, and
//! a disk of the gateway's own that somebody else has filled.
//!
//! Writes stall or fail as the architecture says, nothing that was acknowledged is lost, health says what is wrong in words, and once it is well
//! again everything goes on by itself: no test here restarts a gateway to make it work.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use jiff::Timestamp;
use lifeboat_acceptance::command::Run;
use lifeboat_acceptance::estate::{Api, Estate, GROUP, Place};
use lifeboat_acceptance::scratch::Scratch;
use lifeboat_acceptance::stamps::{History, Writer};
use lifeboat_acceptance::volatile::Disk;
use lifeboat_acceptance::{binaries, content, eventually};
use lifeboat_api::types::Group;
use lifeboat_lab::{Azurite, Fault, FaultProxy, Moto};

const SIZE: u64 = 16 << 20;
const SETTLES_WITHIN: Duration = Duration::from_secs(90);

/// Servers and lines to them are asynchronous; the tests themselves are not.
fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime")
}

/// An estate under writes.
struct Scene {
    estate: Estate,
    writer: Writer,
}

impl Scene {
    fn new(mut estate: Estate) -> Result<Self> {
        estate.add_standby()?;
        estate.open_vault_at_standby()?;
        let writer = Writer::start()?;
        writer.resume(&[estate.primary.volume("data")]);
        writer.write(100)?;
        Ok(Self { estate, writer })
    }

    fn file(&self) -> PathBuf {
        self.estate.primary.volume("data")
    }

    /// Waits until the group's health says something that has all of these words.
    fn says(&self, words: &[&str]) -> Result<String> {
        let api = Api::of(&self.estate.primary)?;
        let mut last = Vec::new();
        eventually(&format!("the group's health to speak of {words:?}"), SETTLES_WITHIN, || {
            let group = api.call(async |client| client.find_by_name::<Group>(GROUP).await)?;
            last = group.context("the group is gone")?.status.reasons;
            Ok(last.iter().find(|reason| words.iter().all(|word| reason.contains(word))).cloned())
        })
        .with_context(|| format!("it says {last:?}\n{}", self.estate.primary.log_tail()))
    }

    /// Waits until the group is as it should be.
    fn recovers(&self) -> Result<()> {
        let api = Api::of(&self.estate.primary)?;
        let mut last = String::new();
        eventually("the group to be healthy again", SETTLES_WITHIN, || {
            let group = api.call(async |client| client.find_by_name::<Group>(GROUP).await)?;
            let status = group.context("the group is gone")?.status;
            last = format!("{status:?}");
            Ok((status.health.to_string() == "healthy" && status.state.to_string() == "protected").then_some(()))
        })
        .with_context(|| format!("{last}\n{}", self.estate.primary.log_tail()))
    }

    /// Writes some more, and holds the volume, and a point of it at the other gateway, against every write that was acknowledged.
    fn nothing_is_lost(&self) -> Result<()> {
        self.writer.write(50)?;
        self.is_in_the_vault().map(drop)
    }

    /// The same without writing more: everything that was acknowledged.
    fn is_in_the_vault(&self) -> Result<History> {
        self.writer.pause()?;
        let mut history = self.writer.history();
        let volume = content::content(&self.file())?;
        history.check(std::slice::from_ref(&volume)).context("the volume")?;
        let since = Timestamp::now();
        self.estate.take_point(&self.estate.primary, "afterwards")?;
        let standby = self.estate.standby()?;
        let point = self.estate.point_after(standby, since)?;
        let path = Path::new(&point.path.context("a point that isn't served")?).join("data.img");
        ensure!(content::content(&path)? == volume, "the newest point isn't the volume");
        Ok(history)
    }

    /// Has the vault checked.
    fn vault_is_sound(&self, environment: &[(String, String)]) -> Result<()> {
        let key = self.estate.key_file().display().to_string();
        let check =
            Run::new(binaries::lifeboat()?).args(["vault", "check", self.estate.vault_url(), "--key-file", &key]);
        let check = environment.iter().fold(check, |run, (name, value)| run.env(name, value));
        check.within(SETTLES_WITHIN).ok().map(drop)
    }
}

#[test]
fn storage_that_is_ended_and_started_again_while_it_is_shipped_to() {
    let runtime = runtime();
    let mut azurite = runtime.block_on(Azurite::start(&["vaults"])).unwrap();
    let mut environment: Vec<(String, String)> =
        Azurite::CREDENTIALS.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
    environment.push(("LIFEBOAT_ALLOW_HTTP_STORAGE".into(), "1".into()));
    environment.push(("AZURE_STORAGE_ENDPOINT".into(), azurite.endpoint()));
    let estate = Estate::protect_remotely("ended", "az://vaults/acme", environment.clone(), &[("data", SIZE)]).unwrap();
    let scene = Scene::new(estate).unwrap();
    for _ in 0..3 {
        // In the middle of requests: there is one a second at least, and what it can't answer any more it drops.
        scene.writer.write(150).unwrap();
        azurite.restart().unwrap();
        scene.writer.write(50).unwrap();
    }
    scene.recovers().unwrap();
    scene.nothing_is_lost().unwrap();
    scene.vault_is_sound(&environment).unwrap();
}

#[test]
fn storage_that_crawls_and_then_refuses() {
    let runtime = runtime();
    let moto = runtime.block_on(Moto::start(&["vaults"])).unwrap();
    let line = runtime.block_on(FaultProxy::start(moto.address())).unwrap();
    let environment = [
        ("AWS_ACCESS_KEY_ID", "AKLAB".to_owned()),
        ("AWS_SECRET_ACCESS_KEY", "canary-bucket-secret".to_owned()),
        ("AWS_ENDPOINT_URL_S3", line.endpoint()),
        ("LIFEBOAT_ALLOW_HTTP_STORAGE", "1".to_owned()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .to_vec();
    let estate =
        Estate::protect_remotely("crawls", "s3://vaults/acme", environment.clone(), &[("data", SIZE)]).unwrap();
    let scene = Scene::new(estate).unwrap();

    // Every request takes seconds: the vault falls behind, the application doesn't.
    line.plan(|_| Fault::Late(Duration::from_secs(3)));
    let before = line.seen();
    scene.writer.write(200).unwrap();
    eventually("requests that crawl", SETTLES_WITHIN, || Ok((line.seen() > before + 2).then_some(()))).unwrap();
    scene.writer.write(50).unwrap();

    // It has too much to do, and says so.
    line.plan(|_| Fault::Status(503, Some(1)));
    let said = scene.says(&["shipping waits, writes go on"]).unwrap();
    scene.writer.write(100).unwrap();

    line.plan(|_| Fault::Pass);
    scene.recovers().with_context(|| said).unwrap();
    scene.nothing_is_lost().unwrap();
    scene.vault_is_sound(&environment).unwrap();
}

#[test]
fn a_vault_without_room() {
    let disk = Disk::memory("vault", 96 << 20).unwrap();
    let url = format!("file://{}", disk.path().join("vault").display());
    let estate = Estate::protect_between("full-vault", &url, [Place::default(), Place::default()], &[("data", SIZE)]);
    let scene = Scene::new(estate.unwrap()).unwrap();
    disk.fill().unwrap();
    // The application writes on, and whoever asks is told what to do.
    let said = scene.says(&["shipping waits, writes go on", "full", "free some space"]).unwrap();
    scene.writer.write(200).unwrap();
    disk.grow(192 << 20).unwrap();
    scene.recovers().with_context(|| said).unwrap();
    scene.nothing_is_lost().unwrap();
    scene.vault_is_sound(&[]).unwrap();
}

#[test]
fn a_gateway_whose_disk_somebody_else_has_filled() {
    let disk = Disk::ext4("home", 256 << 20).unwrap();
    let place = Place { state: Some(disk.path().join("state")), ..Place::default() };
    let scratch = Scratch::new("full-home-vault").unwrap();
    let url = format!("file://{}", scratch.path().join("vault").display());
    let volumes = [("data", 64 << 20), ("other", SIZE)];
    let mut scene =
        Scene::new(Estate::protect_between("full-home", &url, [place, Place::default()], &volumes).unwrap()).unwrap();
    disk.fill().unwrap();
    let said = scene.says(&["no room", "free some space in"]).unwrap();

    // Writes fail once there is no room for them, and don't hang; what was acknowledged can be flushed.
    let other = File::options().write(true).open(scene.estate.primary.volume("other")).unwrap();
    let error = eventually("a write to be refused", SETTLES_WITHIN, || Ok(other.write_all_at(&[0x11; 65536], 0).err()))
        .unwrap();
    assert_eq!(error.raw_os_error(), Some(libc::ENOSPC), "{error}");
    other.sync_data().unwrap();
    drop(other);
    let said = [said, scene.says(&["journal", "no room", "free some space in"]).unwrap()];
    // With the vault there, all of it can be recovered elsewhere.
    let mut history = scene.is_in_the_vault().unwrap();

    // A gateway that dies meanwhile comes back and has everything, with the disk still full.
    scene.estate.primary.kill9().unwrap();
    scene.estate.primary.restart().unwrap();
    eventually("the volume to be served again", SETTLES_WITHIN, || Ok(scene.file().exists().then_some(())))
        .with_context(|| scene.estate.primary.log_tail())
        .unwrap();
    history.check(&[content::content(&scene.file()).unwrap()]).unwrap();
    scene.says(&["no room", "free some space in"]).unwrap();

    disk.free().unwrap();
    scene.writer.resume(&[scene.file()]);
    scene.recovers().with_context(|| format!("{said:?}")).unwrap();
    scene.nothing_is_lost().unwrap();
    scene.vault_is_sound(&[]).unwrap();
}
