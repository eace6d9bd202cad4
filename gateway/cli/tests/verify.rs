//! `lifeboat point verify` against a vault that the engine wrote: what is equal, what differs, what is damaged.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;

use lifeboat_engine::ship::{BranchWriter, Interval, Open, ShipSettings};
use lifeboat_engine::{LogRecord, Op, PointMark};
use lifeboat_model::{BLOCK_SIZE, BranchId, GatewayId, GroupId, Lsn, PointId, PointKind, Timestamp, VolumeId};
use lifeboat_vault::{Access, KeySource, Vault, VaultOptions, VaultSettings, open_store};
use serde_json::Value;

const BLOCKS: u64 = 1024;

/// A vault with one point of one volume, and the disk that the point was taken of.
struct Shipped {
    dir: tempfile::TempDir,
    group: GroupId,
    volume: VolumeId,
    point: PointId,
}

impl Shipped {
    async fn new() -> Self {
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

        let mark = PointMark { id: shipped.point, time: Timestamp::now(), kind: PointKind::Manual, label: "x".into() };
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
        writer.append(&Interval { records, last_lsn: Lsn(3) }).await.expect("shipped");
        shipped
    }

    fn disk(&self) -> PathBuf {
        self.dir.path().join("disk.img")
    }

    fn verify(&self, more: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_lifeboat"))
            .args(["point", "verify", "--output", "json", "--group", &self.group.to_string()])
            .args(["--vault", &format!("file://{}/vault", self.dir.path().display())])
            .arg("--key-file")
            .arg(self.dir.path().join("vault.key"))
            .args(more)
            .env_clear()
            .stdin(Stdio::null())
            .output()
            .expect("the binary runs")
    }

    fn segments(&self) -> Vec<PathBuf> {
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

fn report(outcome: &Output, code: i32) -> Value {
    let said = String::from_utf8_lossy(&outcome.stderr);
    assert_eq!(outcome.status.code(), Some(code), "{said}");
    serde_json::from_slice(&outcome.stdout).unwrap_or_else(|error| panic!("{error}: {said}"))
}

#[tokio::test]
async fn a_disk_is_equal_until_one_byte_changes() {
    let shipped = Shipped::new().await;
    let disk = shipped.disk().display().to_string();
    let found = report(&shipped.verify(&["--source", &disk]), 0);
    assert_eq!(found["equal"], true);
    assert_eq!(found["point_id"], shipped.point.to_string());
    assert_eq!(found["volumes"][0]["size_bytes"], BLOCKS * 4096);
    assert_eq!(found["volumes"][0]["root_found"], found["volumes"][0]["root_recorded"]);

    let mut content = std::fs::read(&disk).expect("the disk");
    content[130 * BLOCK_SIZE + 17] ^= 1;
    std::fs::write(&disk, content).expect("written");
    let by_id = [&shipped.point.to_string(), "--volume", &shipped.volume.to_string(), "--source", &disk];
    let found = report(&shipped.verify(&by_id), 1);
    assert_eq!(found["equal"], false);
    assert_ne!(found["volumes"][0]["root_found"], found["volumes"][0]["root_recorded"]);
}

#[tokio::test]
async fn a_point_is_read_back_from_the_vault_and_damage_is_found() {
    let shipped = Shipped::new().await;
    let found = report(&shipped.verify(&[]), 0);
    assert_eq!(found["equal"], true);
    assert_eq!(found["volumes"][0]["source"], Value::Null);

    let segments = shipped.segments();
    assert_eq!(segments.len(), 1, "{segments:?}");
    let mut bytes = std::fs::read(&segments[0]).expect("a segment");
    // Behind the header: the first frame's ciphertext.
    bytes[300] ^= 1;
    std::fs::remove_file(&segments[0]).expect("removed");
    std::fs::write(&segments[0], bytes).expect("written");
    let outcome = shipped.verify(&[]);
    assert_eq!(outcome.status.code(), Some(1), "{outcome:?}");
    assert!(!outcome.stderr.is_empty());
}

#[tokio::test]
async fn what_is_not_there_is_3_and_what_makes_no_sense_is_2() {
    let shipped = Shipped::new().await;
    let code = |more: &[&str]| shipped.verify(more).status.code();
    assert_eq!(code(&[&PointId::new().to_string()]), Some(3));
    assert_eq!(code(&["2001-01-01T00:00:00Z"]), Some(3));
    assert_eq!(code(&["--volume", "nothing"]), Some(3));
    assert_eq!(code(&["--volume", &VolumeId::new().to_string()]), Some(3));
    assert_eq!(code(&["--source", "/nonexistent"]), Some(3));
    assert_eq!(code(&["newest"]), Some(2));
    std::fs::write(shipped.disk(), [0; 100]).expect("written");
    assert_eq!(code(&["--source", &shipped.disk().display().to_string()]), Some(2));
}
