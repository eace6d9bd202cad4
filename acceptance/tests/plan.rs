//! A recovery plan with a real guest: it is tested, moved to the recovery site and back, lost and recovered, and its data is
//! there each time, at the address that the mapping says.

use std::path::Path;

use anyhow::Result;
use lifeboat_acceptance::estate::{Estate, Place};
use lifeboat_acceptance::gateway::Gateway;
use lifeboat_acceptance::guest::{append, ask, ask_from, boots, image, install, log, no_machine_runs, serves};
use lifeboat_acceptance::hosts::Host;
use lifeboat_acceptance::scratch::Scratch;

/// The state that a plan shows at a gateway.
fn state(gateway: &Gateway) -> Result<String> {
    let plan = gateway.json(&["plan", "show", "shop"])?;
    Ok(plan["status"]["state"].as_str().unwrap_or_default().to_owned())
}

/// Puts the guest's image into the volume, and makes everything that a plan needs.
fn set_up(vault: &Path) -> Result<Estate> {
    let size = u64::try_from(image()?.len())?;
    let with_qemu = vec![("LIFEBOAT_COMPUTE".to_owned(), "qemu".to_owned())];
    let url = format!("file://{}", vault.join("vault").display());
    let mut estate = Estate::protect_remotely("plan", &url, with_qemu, &[("system", size)])?;
    install(&mut estate, None)?;
    Ok(estate)
}

#[test]
fn a_real_machine_goes_over_and_comes_back_with_its_data() {
    let vault = Scratch::new("plan-vault").unwrap();
    let mut estate = set_up(vault.path()).unwrap();
    estate.primary.run(&["machine", "start", "web"]).unwrap().ok().unwrap();
    serves(&estate.primary, &[], "10.20.0.11").unwrap();
    append(&estate.primary, "at home").unwrap();
    estate.take_point(&estate.primary, "before the test").unwrap();

    // A test beside it, in a network of its own; it can write, and none of that stays.
    let standby = estate.standby().unwrap();
    let test = standby.json(&["failover", "test", "shop", "--ttl", "1h"]).unwrap();
    let test = ["--test", test["id"].as_str().unwrap()];
    serves(standby, &test, "10.40.0.11").unwrap();
    assert_eq!(log(standby, &test).unwrap(), "at home\n");
    let picture = estate.dir().join("screen.png");
    let saved = [&["machine", "screen", "web", "--to", picture.to_str().unwrap()], &test[..]].concat();
    standby.run(&saved).unwrap().ok().unwrap();
    assert!(std::fs::read(&picture).unwrap().starts_with(b"\x89PNG\r\n\x1a\n"));
    ask(standby, &test, "POST", "/cgi-bin/append", "in a test\n").unwrap();
    assert_eq!(log(&estate.primary, &[]).unwrap(), "at home\n", "it runs on, untouched");
    standby.run(&["cleanup", "shop", "--notes", "the log was there"]).unwrap().ok().unwrap();
    no_machine_runs(standby).unwrap();

    // A planned move: the machine stops, everything goes along.
    append(&estate.primary, "before the move").unwrap();
    let standby = estate.standby().unwrap();
    let moved = standby.json(&["failover", "planned", "shop"]).unwrap();
    assert_eq!(moved["result"]["rpo_seconds"], 0.0, "{moved}");
    no_machine_runs(&estate.primary).unwrap();
    serves(standby, &[], "10.30.0.11").unwrap();
    assert_eq!(log(standby, &[]).unwrap(), "at home\nbefore the move\n");
    append(standby, "away").unwrap();
    standby.run(&["commit", "shop"]).unwrap().ok().unwrap();
    assert_eq!(state(standby).unwrap(), "failed-over");
    standby.run(&["reprotect", "shop"]).unwrap().ok().unwrap();
    standby.run(&["failback", "shop"]).unwrap().ok().unwrap();
    no_machine_runs(standby).unwrap();
    serves(&estate.primary, &[], "10.20.0.11").unwrap();
    assert_eq!(log(&estate.primary, &[]).unwrap(), "at home\nbefore the move\naway\n");
    assert_eq!(state(standby).unwrap(), "protected");

    // The site is lost, with the machine in the middle of its work.
    append(&estate.primary, "before the loss").unwrap();
    estate.take_point(&estate.primary, "the last one").unwrap();
    estate.primary.kill9().unwrap();
    let standby = estate.standby().unwrap();
    standby.run(&["failover", "unplanned", "shop"]).unwrap().ok().unwrap();
    serves(standby, &[], "10.30.0.11").unwrap();
    assert_eq!(log(standby, &[]).unwrap(), "at home\nbefore the move\naway\nbefore the loss\n");
    // A gateway that is killed and started again is waited for by the machines that it runs.
    let standby = estate.standby_mut().unwrap();
    let before = boots(standby).unwrap();
    standby.kill9().unwrap();
    standby.restart().unwrap();
    append(standby, "away again").unwrap();
    assert_eq!(boots(standby).unwrap(), before, "it was not started anew");
    // The old site learns of it when it is back, and switches its own machine off.
    estate.primary.restart().unwrap();
    no_machine_runs(&estate.primary).unwrap();
    let standby = estate.standby().unwrap();
    standby.run(&["failback", "shop", "--mode", "create"]).unwrap().ok().unwrap();
    serves(&estate.primary, &[], "10.20.0.11").unwrap();
    assert_eq!(log(&estate.primary, &[]).unwrap(), "at home\nbefore the move\naway\nbefore the loss\naway again\n");

    // Once more over in order, and home with everything fetched anew.
    standby.run(&["failover", "planned", "shop"]).unwrap().ok().unwrap();
    serves(standby, &[], "10.30.0.11").unwrap();
    append(standby, "away once more").unwrap();
    standby.run(&["failback", "shop", "--mode", "full-download"]).unwrap().ok().unwrap();
    serves(&estate.primary, &[], "10.20.0.11").unwrap();
    assert_eq!(
        log(&estate.primary, &[]).unwrap(),
        "at home\nbefore the move\naway\nbefore the loss\naway again\naway once more\n"
    );
    estate.primary.run(&["machine", "stop", "web"]).unwrap().ok().unwrap();
    no_machine_runs(&estate.primary).unwrap();
}

/// A host of the network that the guest is on, at a site.
fn neighbour(site: &Host, router: &str, address: &str) -> Result<Host> {
    let neighbour = Host::new()?;
    site.bridge("br-web", router)?;
    site.plug(&neighbour, "br-web", address)?;
    Ok(neighbour)
}

#[test]
fn a_real_machine_answers_at_its_mapped_address_in_the_network_of_each_site() {
    let vault = Scratch::new("bridges-vault").unwrap();
    let hosts = [Host::new().unwrap(), Host::new().unwrap()];
    let at_home = neighbour(&hosts[0], "10.20.0.1/24", "10.20.0.50/24").unwrap();
    let away = neighbour(&hosts[1], "10.30.0.1/24", "10.30.0.50/24").unwrap();
    let places = hosts.map(|host| Place {
        host: Some(host),
        environment: vec![("LIFEBOAT_COMPUTE".into(), "qemu".into())],
        ..Place::default()
    });
    let url = format!("file://{}", vault.path().join("vault").display());
    let size = u64::try_from(image().unwrap().len()).unwrap();
    let mut estate = Estate::protect_between("bridges", &url, places, &[("system", size)]).unwrap();
    install(&mut estate, Some("br-web")).unwrap();
    estate.primary.run(&["machine", "start", "web"]).unwrap().ok().unwrap();
    serves(&estate.primary, &[], "10.20.0.11").unwrap();
    ask_from(&at_home, "10.20.0.11", "POST", "/cgi-bin/append", "at home\n").unwrap();

    let standby = estate.standby().unwrap();
    standby.run(&["failover", "planned", "shop"]).unwrap().ok().unwrap();
    serves(standby, &[], "10.30.0.11").unwrap();
    assert_eq!(ask_from(&away, "10.30.0.11", "GET", "/data/log", "").unwrap(), "made\nat home\n");
    ask_from(&away, "10.30.0.11", "POST", "/cgi-bin/append", "away\n").unwrap();
    ask_from(&at_home, "10.20.0.11", "GET", "/data/log", "").unwrap_err();

    standby.run(&["failback", "shop"]).unwrap().ok().unwrap();
    serves(&estate.primary, &[], "10.20.0.11").unwrap();
    assert_eq!(ask_from(&at_home, "10.20.0.11", "GET", "/data/log", "").unwrap(), "made\nat home\naway\n");
    estate.primary.run(&["machine", "stop", "web"]).unwrap().ok().unwrap();
    no_machine_runs(&estate.primary).unwrap();
}
