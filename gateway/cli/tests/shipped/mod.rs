//! A vault that the engine wrote, and the binary asked about it.

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
        let shipped = Self { dir, group: GroupId::new(), volume: VolumeId::new(), point: PointId::new() };
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
        let open = Open::New { origin: None };
        let (mut writer, _) =
            BranchWriter::open(&vault, shipped.group, BranchId::new(), GatewayId::new(), open, ShipSettings::default())
                .await
                .expect("a writer");
        writer.append(&Interval { records, last_lsn: Lsn(3), ..Interval::default() }).await.expect("shipped");
        shipped
    }

    pub(crate) fn disk(&self) -> PathBuf {
        self.dir.path().join("disk.img")
    }

    pub(crate) fn url(&self) -> String {
        format!("file://{}/vault", self.dir.path().display())
    }

    /// Runs the binary with the vault's key.
    pub(crate) fn ask(&self, args: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_lifeboat"))
            .args(["--output", "json"])
            .args(args)
            .arg("--key-file")
            .arg(self.dir.path().join("vault.key"))
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

pub(crate) fn report(outcome: &Output, code: i32) -> Value {
    let said = String::from_utf8_lossy(&outcome.stderr);
    assert_eq!(outcome.status.code(), Some(code), "{said}");
    serde_json::from_slice(&outcome.stdout).unwrap_or_else(|error| panic!("{error}: {said}"))
}
