//! `lifeboat vault check` against a vault that the engine wrote: exit codes, and what is said.

mod shipped;

use shipped::{Shipped, report};

#[tokio::test]
async fn a_sound_vault_is_0_and_a_damaged_one_is_1_and_says_what_it_costs() {
    let shipped = Shipped::new().await;
    let url = shipped.url();
    let found = report(&shipped.ask(&["vault", "check", &url, "--read-data"]), 0);
    assert_eq!((&found["sound"], &found["complete"]), (&true.into(), &true.into()));
    assert_eq!(found["groups"][0]["branches"][0]["points_sound"], 1);

    let disk = shipped.disk();
    assert!(disk.exists(), "the check leaves everything alone");
    let segments = shipped.segments();
    let mut bytes = std::fs::read(&segments[0]).expect("a segment");
    // Behind the header: the first frame's ciphertext.
    bytes[300] ^= 1;
    std::fs::write(&segments[0], &bytes).expect("written");
    let without_data = report(&shipped.ask(&["vault", "check", &url]), 0);
    assert_eq!(without_data["read_data"], false);
    let found = report(&shipped.ask(&["vault", "check", &url, "--read-data"]), 1);
    let damage = &found["damage"][0];
    assert_eq!(damage["fault"], "authentication");
    assert_eq!(damage["part"], "frame 0");
    let cost = &damage["costs"][0];
    assert_eq!(cost["volume"], shipped.volume.to_string());
    assert_eq!(cost["first"]["id"], shipped.point.to_string());
    assert_eq!(cost["extents"][0], serde_json::json!({"lba": 100, "blocks": 16}));
    assert_eq!(found["groups"][0]["branches"][0]["points_sound"], 0);

    let only = report(&shipped.ask(&["vault", "check", &url, "--group", &shipped.group.to_string()]), 0);
    assert_eq!(only["groups"].as_array().map(Vec::len), Some(1));
}

#[tokio::test]
async fn what_is_not_there_is_3_and_a_wrong_key_is_1() {
    let shipped = Shipped::new().await;
    let url = shipped.url();
    let code = |args: &[&str]| shipped.ask(args).status.code();
    assert_eq!(code(&["vault", "check", &format!("{url}/nothing")]), Some(3));
    assert_eq!(code(&["vault", "check", &url, "--group", "nothing"]), Some(3));
    assert_eq!(code(&["vault", "check"]), Some(2));
    std::fs::write(shipped.dir.path().join("vault.key"), [8; 32]).expect("written");
    let outcome = shipped.ask(&["vault", "check", &url]);
    assert_eq!(outcome.status.code(), Some(1));
    assert!(outcome.stdout.is_empty(), "nothing was checked, so nothing is said to be sound");
}
