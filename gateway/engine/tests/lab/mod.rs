//! A vault in memory with faults to order, gateways with real files, and a plain byte array to compare with.

#![allow(dead_code, reason = "each test program uses a part of it")]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use lifeboat_engine::check::local::{LocalReport, ReadOnlyDisk, check_group};
use lifeboat_engine::disk::Disk;
use lifeboat_engine::machine::Host;
use lifeboat_engine::points::PointInfo;
use lifeboat_engine::view::PointView;
use lifeboat_engine::{BlockVolume, FailOver, Group, GroupConfig, GroupSettings, VolumeSpec};
use lifeboat_model::{BranchId, GatewayId, GroupId, VolumeId};
use lifeboat_vault::{Access, FaultyStore, KeySource, Store, Vault, VaultOptions, VaultSettings, open_store};

pub(crate) const SIZE: usize = 8 << 20;
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A small generator, so that a failure names its seed and repeats.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn below(&mut self, below: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % u64::try_from(below.max(1)).expect("small")).expect("small")
    }
}

pub(crate) struct Lab {
    pub(crate) vault: Arc<Vault>,
    pub(crate) store: Arc<FaultyStore>,
    pub(crate) dir: tempfile::TempDir,
    pub(crate) group: GroupId,
    pub(crate) volume: VolumeId,
    pub(crate) primary: GatewayId,
    pub(crate) recovery: GatewayId,
}

impl Lab {
    pub(crate) async fn new() -> Self {
        let store: Arc<dyn Store> = open_store("memory:", Access::Create).await.expect("opens");
        let store = FaultyStore::new(store);
        let key = KeySource::Passphrase("correct horse battery".to_owned().into());
        let vault = Vault::create(
            Arc::clone(&store) as Arc<dyn Store>,
            VaultSettings::new("lab"),
            &key,
            VaultOptions::for_tests(),
        )
        .await
        .expect("creates a vault");
        Self {
            vault: Arc::new(vault),
            store,
            dir: tempfile::tempdir().expect("a directory"),
            group: GroupId::new(),
            volume: VolumeId::new(),
            primary: GatewayId::new(),
            recovery: GatewayId::new(),
        }
    }

    pub(crate) fn config(&self, gateway: GatewayId) -> GroupConfig {
        let settings = GroupSettings {
            point_interval: Duration::from_secs(3600),
            journal_bytes: 32 << 20,
            cache_bytes: 4 << 20,
            ..GroupSettings::default()
        };
        let dir: PathBuf = self.dir.path().join(gateway.to_string());
        GroupConfig {
            reach: Arc::clone(&self.vault).into(),
            group: self.group,
            gateway,
            machine: Arc::new(Host),
            dir,
            settings,
        }
    }

    pub(crate) fn specs(&self) -> Vec<VolumeSpec> {
        vec![VolumeSpec { id: self.volume, name: "db".into(), size_bytes: SIZE as u64, source: None }]
    }

    pub(crate) async fn create(&self) -> Arc<Group> {
        Group::create(self.config(self.primary), self.specs()).await.expect("creates the group")
    }

    pub(crate) async fn fail_over(&self, from: BranchId, test: bool) -> Arc<Group> {
        let request = FailOver { from_branch: from, point: None, test, branch: BranchId::new() };
        Group::fail_over(self.config(self.recovery), request).await.expect("fails over")
    }

    pub(crate) async fn content_at(&self, point: &PointInfo) -> Vec<u8> {
        let view = PointView::open(Arc::clone(&self.vault), self.group, point).await.expect("mounts the point");
        content(&view.volume(self.volume).expect("the volume is in the point")).await
    }
}

pub(crate) fn volume(group: &Arc<Group>, lab: &Lab) -> Arc<dyn BlockVolume> {
    group.volume(lab.volume).expect("the volume is open")
}

pub(crate) async fn content(volume: &Arc<dyn BlockVolume>) -> Vec<u8> {
    let mut all = Vec::new();
    let step = 1 << 20;
    while (all.len() as u64) < volume.size_bytes() {
        all.extend_from_slice(&volume.read(all.len() as u64, step).await.expect("reads"));
    }
    all
}

/// Waits until something holds.
pub(crate) async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = std::time::Instant::now() + PATIENCE;
    while !holds() {
        assert!(std::time::Instant::now() < deadline, "{what}: not within {PATIENCE:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

pub(crate) fn assert_same(found: &[u8], expected: &[u8], what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}: length");
    if let Some(at) = (0..found.len()).find(|&at| found[at] != expected[at]) {
        panic!("{what}: byte {at} (block {}) is {:#x}, expected {:#x}", at / 4096, found[at], expected[at]);
    }
}

/// Some generated writes, zeroes and trims of any alignment, also to the model.
pub(crate) async fn scribble(volume: &Arc<dyn BlockVolume>, model: &mut [u8], random: &mut Random, operations: usize) {
    for _ in 0..operations {
        let at = random.below(model.len());
        let scale = 1 + random.below(18);
        let mut len = (1 + random.below(1 << scale)).min(model.len() - at);
        let mut at = at;
        if random.below(2) == 0 {
            at = at / 4096 * 4096;
            len = len.next_multiple_of(4096).min(model.len() - at);
        }
        match random.below(6) {
            0 => {
                volume.zero(at as u64, len as u64, random.below(2) == 0).await.expect("zeroes");
                model[at..at + len].fill(0);
            }
            _ => {
                let fill = u8::try_from(random.below(256)).expect("a byte");
                let data: Vec<u8> =
                    (0..len).map(|index| fill.wrapping_add(u8::try_from(index % 251).expect("a byte"))).collect();
                volume.write(at as u64, Bytes::from(data.clone())).await.expect("writes");
                model[at..at + len].copy_from_slice(&data);
            }
        }
        if random.below(8) == 0 {
            volume.flush().await.expect("flushes");
        }
    }
}

/// What a check says of the local files of one group.
pub(crate) fn checked(dir: &Path) -> LocalReport {
    let disk: Arc<dyn Disk> = Arc::new(ReadOnlyDisk::new(dir));
    let mut report = LocalReport::default();
    check_group(&disk, &mut report);
    report
}
