//! A vault behind a [`HeldStore`], and groups over it, to measure.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lifeboat_engine::machine::Host;
use lifeboat_engine::{Group, GroupConfig, GroupSettings, VolumeSpec};
use lifeboat_model::{GatewayId, GroupId, VolumeId};
use lifeboat_vault::{Access, KeySource, Vault, VaultOptions, VaultSettings, open_store};

use super::store::HeldStore;

/// How long anything may take that a benchmark waits for.
const PATIENCE: Duration = Duration::from_secs(120);

pub struct Rig {
    pub store: Arc<HeldStore>,
    pub vault: Arc<Vault>,
    /// On the build directory's disk.
    pub dir: tempfile::TempDir,
    _vault_dir: tempfile::TempDir,
}

/// Where the vault is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum At {
    /// A directory in memory: stands for storage that is elsewhere, and takes nothing of the disk that is measured.
    Memory,
    /// A directory on the same disk.
    Disk,
}

impl Rig {
    pub async fn new(at: At) -> Self {
        let dir = super::scratch();
        let vault_dir = match at {
            At::Memory => tempfile::tempdir_in("/dev/shm").unwrap(),
            At::Disk => super::scratch(),
        };
        let url = format!("file://{}/vault", vault_dir.path().display());
        let store = HeldStore::new(open_store(&url, Access::Create).await.unwrap());
        let key = KeySource::Passphrase("correct horse battery".to_owned().into());
        let vault = Vault::create(store.clone(), VaultSettings::new("bench"), &key, VaultOptions::for_tests()).await;
        Self { store, vault: Arc::new(vault.unwrap()), dir, _vault_dir: vault_dir }
    }

    /// A group of volumes of that many bytes each.
    pub async fn group(&self, interval: Duration, journal_bytes: u64, sizes: &[u64]) -> (Arc<Group>, Vec<VolumeId>) {
        let settings = GroupSettings { point_interval: interval, journal_bytes, ..GroupSettings::default() };
        let config = self.config(GroupId::new(), settings);
        let specs: Vec<VolumeSpec> = (0..)
            .zip(sizes)
            .map(|(number, size)| VolumeSpec {
                id: VolumeId::new(),
                name: format!("v{number}"),
                size_bytes: *size,
                source: None,
            })
            .collect();
        let ids = specs.iter().map(|spec| spec.id).collect();
        (Group::create(config, specs).await.unwrap(), ids)
    }

    /// A group at a gateway that never had it.
    pub fn config(&self, group: GroupId, settings: GroupSettings) -> GroupConfig {
        let gateway = GatewayId::new();
        let (vault, dir) = (Arc::clone(&self.vault), self.dir_of(group, gateway));
        GroupConfig { reach: vault.into(), group, gateway, machine: Arc::new(Host), dir, settings }
    }

    pub fn dir_of(&self, group: GroupId, gateway: GatewayId) -> PathBuf {
        self.dir.path().join(format!("{group}-{gateway}"))
    }
}

/// Waits until everything written is in the images and in the vault.
pub async fn settled(group: &Group) {
    reached(|| {
        let status = group.status();
        status.image_lsn >= status.last_lsn && status.landed_rpo_seconds == Some(0.0)
    })
    .await;
}

/// Waits for a condition, and panics when it never comes.
pub async fn reached(condition: impl Fn() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < end, "not within {PATIENCE:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
