//! A vault that the engine wrote, and the binary asked about it.

#![allow(dead_code, reason = "each test binary uses its part")]

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;

use lifeboat_engine::ship::{BranchWriter, Interval, Open, ShipSettings};
use lifeboat_engine::{LogRecord, Op, PointMark};
use lifeboat_model::{BLOCK_SIZE, BranchId, GatewayId, GroupId, Lsn, PointId, PointKind, Timestamp, VolumeId};
use lifeboat_vault::{Access, KeySource, Vault, VaultOptions, VaultSettings, open_store};
use serde_json::Value;

pub(crate) const BLOCKS: u64 = 1024;

/// A vault with one point of one volume, and the disk that the point was taken of.
pub(crate) struct Shipped {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) group: GroupId,
    pub(crate) volume: VolumeId,
    pub(crate) branch: BranchId,
    pub(crate) point: PointId,
}

impl Shipped {
    pub(crate) async fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let key = dir.path().join("vault.key");
        std::fs::write(&key, [7; 32]).expect("written");
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).expect("ours");
        let store =
            open_store(&format!("file://{}/vault", dir.path().display()), Access::Create).await.expect("a store");
        let key = KeySource::KeyFile(key);
        let vault = Vault::create(store, VaultSettings::new("v"), &key, VaultOptions::for_tests()).await;
        let vault = Arc::new(vault.expect("a vault"));
        let (group, volume, branch, point) = (GroupId::new(), VolumeId::new(), BranchId::new(), PointId::new());
        let shipped = Self { dir, group, volume, branch, point };
        vault.create_volume_keys(shipped.volume).await.expect("keys");
        vault.group_key(shipped.group).await.expect("a key");

        let content: Vec<u8> = (0..64 * BLOCK_SIZE).map(|index| u8::try_from(index % 251).expect("small")).collect();
        let mut disk = vec![0; usize::try_from(BLOCKS).expect("small") * BLOCK_SIZE];
        disk[100 * BLOCK_SIZE..164 * BLOCK_SIZE].copy_from_slice(&content);
        std::fs::write(shipped.disk(), disk).expect("written");

        let mark = PointMark {
            id: shipped.point,
            time: Timestamp::now(),
            kind: PointKind::Manual,
            label: "x".into(),
            consistent: true,
        };
        let ops = [
            Op::Resize { volume: shipped.volume, blocks: BLOCKS },
            Op::Write { volume: shipped.volume, lba: 100, data: content.into() },
            Op::Point(mark),
        ];
        let records: Vec<LogRecord> = (1..).zip(ops).map(|(lsn, op)| LogRecord { lsn: Lsn(lsn), op }).collect();
        ship(&vault, shipped.group, shipped.branch, Open::New { origin: None }, records).await;
        shipped
    }

    /// Opens the vault with its key file.
    pub(crate) async fn vault(&self) -> Arc<Vault> {
        let store = open_store(&self.url(), Access::Open).await.expect("a store");
        let key = KeySource::KeyFile(self.key_file().into());
        Arc::new(Vault::open(store, &key, VaultOptions::for_tests()).await.expect("a vault"))
    }

    pub(crate) fn key_file(&self) -> String {
        self.dir.path().join("vault.key").display().to_string()
    }

    pub(crate) fn disk(&self) -> PathBuf {
        self.dir.path().join("disk.img")
    }

    pub(crate) fn url(&self) -> String {
        format!("file://{}/vault", self.dir.path().display())
    }

    /// Runs the binary with the vault's key file.
    pub(crate) fn ask(&self, args: &[&str]) -> Output {
        self.ask_with(&["--key-file", &self.key_file()], args)
    }

    /// Runs the binary with a key of the vault.
    pub(crate) fn ask_with(&self, key: &[&str], args: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_lifeboat"))
            .args(["--output", "json"])
            .args(args)
            .args(key)
            .env_clear()
            .stdin(Stdio::null())
            .output()
            .expect("the binary runs")
    }

    pub(crate) fn segments(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut next = vec![self.dir.path().join("vault/groups")];
        while let Some(dir) = next.pop() {
            for entry in std::fs::read_dir(dir).expect("a directory") {
                let path = entry.expect("an entry").path();
                if path.is_dir() {
                    next.push(path);
                } else if path.parent().and_then(Path::file_name).is_some_and(|name| name == "log") {
                    found.push(path);
                }
            }
        }
        found
    }
}

pub(crate) async fn ship(vault: &Arc<Vault>, group: GroupId, branch: BranchId, open: Open, records: Vec<LogRecord>) {
    let last_lsn = records.last().expect("a record").lsn;
    let (mut writer, _) = BranchWriter::open(vault, group, branch, GatewayId::new(), open, ShipSettings::default())
        .await
        .expect("a writer");
    writer.append(&Interval { records, last_lsn, ..Interval::default() }).await.expect("shipped");
}

pub(crate) fn report(outcome: &Output, code: i32) -> Value {
    let said = String::from_utf8_lossy(&outcome.stderr);
    assert_eq!(outcome.status.code(), Some(code), "{said}");
    serde_json::from_slice(&outcome.stdout).unwrap_or_else(|error| panic!("{error}: {said}"))
}
