//! `lifeboat vault gc` against a vault that the engine wrote: what it says, what it deletes, and what it leaves alone.

mod shipped;

use shipped::{Shipped, report};

#[tokio::test]
async fn garbage_is_announced_found_and_deleted_by_a_later_run_and_everything_else_stays() {
    let shipped = Shipped::new().await;
    let url = shipped.url();
    let group = shipped.group.to_string();
    let gc = |more: &[&str]| {
        let mut args = vec!["vault", "gc", &url, "--group", &group];
        args.extend(more);
        report(&shipped.ask(&args), 0)
    };
    let clean = gc(&["--dry-run"]);
    assert_eq!((&clean["garbage"]["objects"], &clean["groups"][0]["points"]), (&0.into(), &1.into()));

    // What a gateway left that died before it had claimed a branch of its own.
    let lost = shipped.dir.path().join(format!("vault/groups/{group}/br-07070707070707070707070707070707/map"));
    std::fs::create_dir_all(&lost).expect("made");
    let lost = lost.join("00000000000000000005-map-07070707070707070707070707070707");
    std::fs::write(&lost, [7; 5000]).expect("written");
    let dry = gc(&["--dry-run"]);
    assert_eq!(dry["garbage"], serde_json::json!({"objects": 1, "bytes": 5000}));
    assert_eq!(dry["deleted"]["objects"], 0);

    let found = gc(&[]);
    assert_eq!(found["groups"][0]["doomed"]["bytes"], 5000);
    let waits = gc(&[]);
    assert_eq!((&waits["groups"][0]["waiting"]["bytes"], &waits["deleted"]["objects"]), (&5000.into(), &0.into()));
    assert!(lost.exists(), "it was deleted within its grace");
    let done = gc(&["--grace", "0s"]);
    assert_eq!(done["deleted"], serde_json::json!({"objects": 1, "bytes": 5000}));
    assert!(!lost.exists(), "it is still there");
    let checked = report(&shipped.ask(&["vault", "check", &url, "--read-data"]), 0);
    assert_eq!(checked["groups"][0]["branches"][0]["points_sound"], 1);
}

#[tokio::test]
async fn what_is_not_there_is_3_and_a_misspelt_time_is_2() {
    let shipped = Shipped::new().await;
    let url = shipped.url();
    let code = |args: &[&str]| shipped.ask(args).status.code();
    assert_eq!(code(&["vault", "gc", &url, "--group", "nothing"]), Some(3));
    assert_eq!(code(&["vault", "gc", &format!("{url}/nothing")]), Some(3));
    assert_eq!(code(&["vault", "gc", &url, "--grace", "soon"]), Some(2));
}
