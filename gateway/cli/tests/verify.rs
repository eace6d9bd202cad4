//! `lifeboat point verify` against a vault that the engine wrote: what is equal, what differs, what is damaged.

mod shipped;

use std::process::Output;

use lifeboat_engine::ship::Open;
use lifeboat_engine::{LogRecord, Op, PointMark};
use lifeboat_model::{BLOCK_SIZE, Lsn, PointId, PointKind, Timestamp, VolumeId};
use lifeboat_vault::{KeySource, KmsKey};
use serde_json::Value;

use shipped::{BLOCKS, Shipped, report, ship};

fn verify(shipped: &Shipped, more: &[&str]) -> Output {
    verify_with(shipped, &["--key-file", &shipped.key_file()], more)
}

fn verify_with(shipped: &Shipped, key: &[&str], more: &[&str]) -> Output {
    let (url, group) = (shipped.url(), shipped.group.to_string());
    shipped.ask_with(key, &[&["point", "verify", "--group", &group, "--vault", &url], more].concat())
}

#[tokio::test]
async fn a_disk_is_equal_until_one_byte_changes() {
    let shipped = Shipped::new().await;
    let disk = shipped.disk().display().to_string();
    let found = report(&verify(&shipped, &["--source", &disk]), 0);
    assert_eq!(found["equal"], true);
    assert_eq!(found["point_id"], shipped.point.to_string());
    assert_eq!(found["volumes"][0]["size_bytes"], BLOCKS * 4096);
    assert_eq!(found["volumes"][0]["root_found"], found["volumes"][0]["root_recorded"]);

    let mut content = std::fs::read(&disk).expect("the disk");
    content[130 * BLOCK_SIZE + 17] ^= 1;
    std::fs::write(&disk, content).expect("written");
    let by_id = [&shipped.point.to_string(), "--volume", &shipped.volume.to_string(), "--source", &disk];
    let found = report(&verify(&shipped, &by_id), 1);
    assert_eq!(found["equal"], false);
    assert_ne!(found["volumes"][0]["root_found"], found["volumes"][0]["root_recorded"]);
}

#[tokio::test]
async fn a_point_is_read_back_from_the_vault_and_damage_is_found() {
    let shipped = Shipped::new().await;
    let found = report(&verify(&shipped, &[]), 0);
    assert_eq!(found["equal"], true);
    assert_eq!(found["volumes"][0]["source"], Value::Null);

    let segments = shipped.segments();
    assert_eq!(segments.len(), 1, "{segments:?}");
    let mut bytes = std::fs::read(&segments[0]).expect("a segment");
    // Behind the header: the first frame's ciphertext.
    bytes[300] ^= 1;
    std::fs::remove_file(&segments[0]).expect("removed");
    std::fs::write(&segments[0], bytes).expect("written");
    let outcome = verify(&shipped, &[]);
    assert_eq!(outcome.status.code(), Some(1), "{outcome:?}");
    assert!(!outcome.stderr.is_empty());
}

#[tokio::test]
async fn what_is_not_there_is_3_and_what_makes_no_sense_is_2() {
    let shipped = Shipped::new().await;
    let code = |more: &[&str]| verify(&shipped, more).status.code();
    assert_eq!(code(&[&PointId::new().to_string()]), Some(3));
    assert_eq!(code(&["2001-01-01T00:00:00Z"]), Some(3));
    assert_eq!(code(&["--volume", "nothing"]), Some(3));
    assert_eq!(code(&["--volume", &VolumeId::new().to_string()]), Some(3));
    assert_eq!(code(&["--source", "/nonexistent"]), Some(3));
    assert_eq!(code(&["newest"]), Some(2));
    std::fs::write(shipped.disk(), [0; 100]).expect("written");
    assert_eq!(code(&["--source", &shipped.disk().display().to_string()]), Some(2));
}

/// A vault that was through everything: several keys, another master key, another data key, an erased volume. Its place and
/// any of its keys give all of it back, on a machine that never saw it: nothing but the binary, no state, no environment.
#[tokio::test]
async fn any_key_gives_a_vault_back_from_its_place_alone() {
    let shipped = Shipped::new().await;
    let vault = shipped.vault().await;
    let home = shipped.dir.path();
    let passphrase = home.join("passphrase");
    std::fs::write(&passphrase, "correct horse battery\n").expect("written");
    let service = home.join("service");
    std::fs::create_dir(&service).expect("a directory");
    let program = concat!(env!("CARGO_MANIFEST_DIR"), "/../vault/testing/kms.sh");
    let kms = format!("command:{program}?key={}", service.display());
    let others = [
        KeySource::Passphrase("correct horse battery".to_owned().into()),
        KeySource::Kms(KmsKey::parse(&kms).expect("a name")),
    ];
    for key in &others {
        vault.add_key(key).await.expect("added");
    }
    vault.rotate_master(1, &others, false).await.expect("rotated");
    vault.rotate_volume_key(shipped.volume, 1).await.expect("rotated");
    let gone = VolumeId::new();
    vault.create_volume_keys(gone).await.expect("keys");

    let point = PointMark {
        id: PointId::new(),
        time: Timestamp::now(),
        kind: PointKind::Manual,
        label: "y".into(),
        consistent: true,
    };
    let ops = [
        Op::Write { volume: shipped.volume, lba: 7, data: vec![9; BLOCK_SIZE].into() },
        Op::Resize { volume: gone, blocks: 1 },
        Op::Write { volume: gone, lba: 0, data: vec![1; BLOCK_SIZE].into() },
        Op::Point(point.clone()),
    ];
    let records: Vec<LogRecord> = (4..).zip(ops).map(|(lsn, op)| LogRecord { lsn: Lsn(lsn), op }).collect();
    ship(&vault, shipped.group, shipped.branch, Open::Continue, records).await;
    let mut disk = std::fs::read(shipped.disk()).expect("the disk");
    disk[7 * BLOCK_SIZE..8 * BLOCK_SIZE].fill(9);
    let now = home.join("now.img");
    std::fs::write(&now, disk).expect("written");
    vault.erase_volume(gone, "ann").await.expect("erased");

    let (passphrase, key_file) = (passphrase.display().to_string(), home.join("vault.key").display().to_string());
    let (before, now) = (shipped.disk().display().to_string(), now.display().to_string());
    for key in [["--key", &passphrase], ["--key-file", &key_file], ["--kms-key", &kms]] {
        for (id, source) in [(shipped.point, &before), (point.id, &now)] {
            let id = id.to_string();
            let found = report(&verify_with(&shipped, &key, &[&id]), 0);
            assert_eq!(found["equal"], true, "{key:?}");
            let erased: Vec<&str> =
                found["erased"].as_array().expect("a list").iter().filter_map(Value::as_str).collect();
            let expected = if source == &now { vec![gone.to_string()] } else { vec![] };
            assert_eq!(erased, expected, "{key:?}");
            let found = report(&verify_with(&shipped, &key, &[&id, "--source", source]), 0);
            assert_eq!(found["equal"], true, "{key:?}");
            let found = report(
                &verify_with(&shipped, &key, &[&id, "--source", if source == &now { &before } else { &now }]),
                1,
            );
            assert_eq!(found["equal"], false, "{key:?}");
        }
    }
    let wrong = home.join("wrong");
    std::fs::write(&wrong, "incorrect horse battery").expect("written");
    let outcome = verify_with(&shipped, &["--key", &wrong.display().to_string()], &[]);
    assert_eq!(outcome.status.code(), Some(1), "{outcome:?}");
    let text = String::from_utf8_lossy(&outcome.stderr).into_owned();
    assert!(text.contains("does not open the vault") && !text.contains("incorrect horse"), "{text}");
    let outcome = verify_with(&shipped, &["--kms-key", &format!("command:{program}?key=exit:10")], &[]);
    assert_eq!(outcome.status.code(), Some(5), "a service that can't answer now: {outcome:?}");
}
