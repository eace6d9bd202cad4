//! The way home as one command in three phases: it stops before the second one until somebody says to go on, and what is done already
//! isn't done again.

use std::time::Duration;

use lifeboat_acceptance::content::{content, scribble};
use lifeboat_acceptance::estate::Estate;
use lifeboat_acceptance::eventually;
use lifeboat_api::types::FailoverKind;

#[test]
fn the_way_home_is_guided_in_three_phases() {
    let mut estate = Estate::protect("guided", &[("data", 32 << 20)]).unwrap();
    estate.add_standby().unwrap();
    estate.open_vault_at_standby().unwrap();
    scribble(&estate.primary.volume("data"), 1, 2000).unwrap();
    estate.take_point(&estate.primary, "known").unwrap();
    estate.fail_over(FailoverKind::Planned, "latest").unwrap();
    let standby = estate.standby().unwrap();
    let away = standby.volume("data");
    scribble(&away, 2, 500).unwrap();
    let guide = ["failback", "--guided", "--group", "ledger"];
    let with_yes = [&guide[..], &["--yes"]].concat();

    let asked = standby.run(&guide).unwrap();
    assert_eq!(asked.status.code(), Some(4), "{}", asked.stderr);
    assert!(asked.stderr.contains("phase 1 of 3") && asked.stderr.contains("left to move"), "{}", asked.stderr);
    assert!(asked.stderr.contains("stopped before phase 2") && asked.stderr.contains("--yes"), "{}", asked.stderr);
    // Nothing has stopped.
    scribble(&away, 3, 100).unwrap();
    let written = content(&away).unwrap();

    let done = standby.json(&with_yes).unwrap();
    assert_eq!(done["reprotect"]["state"], "succeeded", "{done}");
    assert_eq!(done["failback"]["state"], "succeeded", "{done}");
    let changed = done["failback"]["result"]["bytes_changed"].as_u64().unwrap();
    assert!(changed < 500 * 4096, "the failback moved {changed} bytes: the first phase had moved most");
    assert_eq!(done["points"].as_array().map(Vec::len), Some(1), "{done}");
    let home = estate.primary.volume("data");
    let found =
        eventually("the volume to be open at home", Duration::from_secs(30), || Ok(content(&home).ok())).unwrap();
    assert!(found == written, "the volume at home is another");
    scribble(&home, 4, 10).unwrap();

    // Begun again, it is at the third phase.
    let again = standby.run(&guide).unwrap();
    assert!(again.status.success(), "{}", again.stderr);
    assert!(again.stderr.contains("at home already") && !again.stderr.contains("phase 1"), "{}", again.stderr);
    assert!(again.stdout.contains("replication runs again") && again.stdout.contains("ledger"), "{}", again.stdout);
}
