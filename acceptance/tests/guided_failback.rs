//! The way home as one command in three phases: it stops before the second one until somebody says to go on, and what is done already
//! isn't done again.

use std::time::Duration;

use lifeboat_acceptance::binaries;
use lifeboat_acceptance::command::Daemon;
use lifeboat_acceptance::content::{content, scribble};
use lifeboat_acceptance::estate::Estate;
use lifeboat_acceptance::eventually;
use lifeboat_api::types::FailoverKind;
use rustix::process::Signal;

/// A volume that was failed over in order, and written to since.
fn away(label: &str) -> Estate {
    let mut estate = Estate::protect(label, &[("data", 32 << 20)]).expect("protected");
    estate.add_standby().expect("a recovery site");
    estate.open_vault_at_standby().expect("its vault");
    scribble(&estate.primary.volume("data"), 1, 2000).expect("written");
    estate.take_point(&estate.primary, "known").expect("a point");
    estate.fail_over(FailoverKind::Planned, "latest").expect("failed over");
    scribble(&estate.standby().expect("there").volume("data"), 2, 500).expect("written");
    estate
}

#[test]
fn the_way_home_is_guided_in_three_phases() {
    let estate = away("guided");
    let standby = estate.standby().unwrap();
    let away = standby.volume("data");
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

/// Broken off in each phase: what was begun goes on, and the next one takes it up.
#[test]
fn the_guide_goes_on_where_it_was_broken_off() {
    for phase in ["phase 1 of 3", "phase 2 of 3"] {
        let estate = away("broken-off");
        let standby = estate.standby().unwrap();
        let away = standby.volume("data");
        let written = content(&away).unwrap();

        let guide = ["failback", "--guided", "--group", "ledger", "--yes"];
        let args: Vec<_> = guide.iter().map(Into::into).collect();
        let log = estate.dir().join("guide.log");
        let lifeboat = binaries::lifeboat().unwrap();
        let first = Daemon::start("the guide", &lifeboat, &args, &standby.client_environment(), &log).unwrap();
        let said = |what: &str| std::fs::read_to_string(&log).unwrap_or_default().contains(what);
        eventually(phase, Duration::from_secs(60), || Ok(said(phase).then_some(()))).unwrap();
        first.signal(Signal::INT).unwrap();
        let ended = eventually("the guide to end", Duration::from_secs(30), || first.ended()).unwrap();
        assert!(!ended.success() && said("interrupted"), "{phase}: {ended}, {}", first.log_tail(20));

        let done = standby.json(&guide).unwrap();
        let home = estate.primary.volume("data");
        let found =
            eventually("the volume to be open at home", Duration::from_secs(30), || Ok(content(&home).ok())).unwrap();
        assert!(found == written, "{phase}: the volume at home is another; {done}");
        assert_eq!(done["points"].as_array().map(Vec::len), Some(1), "{phase}: {done}");
        scribble(&home, 4, 10).unwrap();
    }
}

/// Two people at it in the same night: each one's phase finds what the other one began, follows it, and both get home.
#[test]
fn two_guides_at_once_get_home_together() {
    let estate = away("guided-twice");
    let standby = estate.standby().unwrap();
    let written = content(&standby.volume("data")).unwrap();
    let guide = ["failback", "--guided", "--group", "ledger", "--yes"];
    let args: Vec<_> = guide.iter().map(Into::into).collect();
    let lifeboat = binaries::lifeboat().unwrap();
    let begun: Vec<_> = ["one", "another"]
        .iter()
        .map(|name| {
            let log = estate.dir().join(format!("{name}.log"));
            Daemon::start(name, &lifeboat, &args, &standby.client_environment(), &log).unwrap()
        })
        .collect();
    for one in &begun {
        let ended = eventually("a guide to end", Duration::from_secs(120), || one.ended()).unwrap();
        assert!(ended.success(), "{ended}: {}", one.log_tail(30));
    }
    let home = estate.primary.volume("data");
    let found =
        eventually("the volume to be open at home", Duration::from_secs(30), || Ok(content(&home).ok())).unwrap();
    assert!(found == written, "the volume at home is another");
    let failbacks = standby.json(&["job", "list"]).unwrap();
    let failbacks = failbacks.as_array().unwrap().iter().filter(|job| job["kind"] == "failback");
    assert_eq!(failbacks.count(), 1);
}
