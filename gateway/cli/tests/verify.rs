//! `lifeboat point verify` against a vault that the engine wrote: what is equal, what differs, what is damaged.

mod shipped;

use std::process::Output;

use lifeboat_model::{BLOCK_SIZE, PointId, VolumeId};
use serde_json::Value;

use shipped::{BLOCKS, Shipped, report};

fn verify(shipped: &Shipped, more: &[&str]) -> Output {
    let (url, group) = (shipped.url(), shipped.group.to_string());
    shipped.ask(&[&["point", "verify", "--group", &group, "--vault", &url], more].concat())
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
