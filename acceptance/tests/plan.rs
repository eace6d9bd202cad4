//! A recovery plan with a real guest: it is tested, moved to the recovery site and back, lost and recovered, and its data is
//! there each time, at the address that the mapping says.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lifeboat_acceptance::estate::{Api, Estate};
use lifeboat_acceptance::eventually;
use lifeboat_acceptance::gateway::Gateway;
use lifeboat_acceptance::scratch::Scratch;
use lifeboat_api::types::{
    AddressRule, BootGroup, Firmware, Group, Machine, MachineDisk, MachineSpec, Network, NetworkInterface,
    NetworkMapping, NetworkMappingSpec, NetworkSpec, Plan, PlanSpec, Site, Subnet, Volume,
};
use lifeboat_lab::{GUEST_READY, guest_image};

/// Emulated processors are slow, and other tests run beside it.
const BOOTS_WITHIN: Duration = Duration::from_secs(240);

/// Declares networks at both sites, a mapping, the machine `web` and the plan `shop`.
fn declare(estate: &Estate) -> Result<()> {
    let api = Api::of(&estate.primary)?;
    api.call(async |client| {
        let site = async |name: &str| client.find_by_name::<Site>(name).await.map(|site| site.expect("declared"));
        let (home, away) = (site("onprem").await?, site("recovery").await?);
        let network = async |site: &Site, name: &str, range: &str, router: &str| {
            let subnet = Subnet { name: "web".into(), cidr: range.into(), gateway: Some(router.into()) };
            let spec = NetworkSpec { site_id: site.id, name: name.into(), bridge: None, subnet: vec![subnet] };
            client.create::<Network>(&spec).await
        };
        let servers = network(&home, "servers", "10.20.0.0/24", "10.20.0.1").await?;
        let target = network(&away, "servers", "10.30.0.0/24", "10.30.0.1").await?;
        let tests = network(&away, "tests", "10.40.0.0/24", "10.40.0.1").await?;
        let mapping = |source: &Network, target: &Network, test: Option<&Network>| NetworkMappingSpec {
            source_network_id: source.id,
            target_network_id: target.id,
            test_network_id: test.map(|test| test.id),
            subnet: Vec::new(),
            address_rule: AddressRule::KeepOrNextFree,
        };
        client.create::<NetworkMapping>(&mapping(&servers, &target, Some(&tests))).await?;
        let volume = client.find_by_name::<Volume>("system").await?.expect("declared");
        let group: Group = client.read(&volume.status.group_id.expect("it has a group").to_string()).await?;
        let interface = NetworkInterface {
            network_id: servers.id,
            mac: None,
            address: Some("10.20.0.11".into()),
            test_address: None,
        };
        let machine = MachineSpec {
            site_id: home.id,
            name: "web".into(),
            group_id: group.id,
            cpus: 1,
            memory_mib: 256,
            firmware: Firmware::Bios,
            disk: vec![MachineDisk { volume_id: volume.id, boot: None }],
            network_interface: vec![interface],
            target: None,
        };
        let machine = client.create::<Machine>(&machine).await?;
        let boot = BootGroup {
            name: None,
            machine_ids: vec![machine.id],
            volume_ids: Vec::new(),
            pre_action: Vec::new(),
            post_action: Vec::new(),
        };
        let plan = PlanSpec {
            vault_id: group.spec.vault_id,
            name: "shop".into(),
            source_site_id: home.id,
            target_site_id: away.id,
            shutdown: None,
            boot_group: vec![boot],
        };
        client.create::<Plan>(&plan).await.map(drop)
    })?;
    Ok(())
}

/// Waits until the guest serves at this gateway, with that address.
fn serves(gateway: &Gateway, test: &[&str], address: &str) -> Result<()> {
    let ready = format!("{GUEST_READY} {address}/24");
    let args = [&["machine", "console", "web"], test].concat();
    eventually(&format!("{ready:?} on the console at {}", gateway.name()), BOOTS_WITHIN, || {
        let outcome = gateway.run(&args)?;
        Ok(outcome.stdout.contains(&ready).then_some(()))
    })
    .with_context(|| format!("{:?}", gateway.run(&args).map(|outcome| (outcome.stdout, outcome.stderr))))
}

/// Asks the guest over HTTP.
fn ask(gateway: &Gateway, test: &[&str], method: &str, path: &str, body: &str) -> Result<String> {
    let args = [&["machine", "reach", "web", "--port", "80"], test].concat();
    let address = gateway.run(&args)?.ok()?;
    let mut stream = TcpStream::connect(address.trim()).with_context(|| format!("connect to {address}"))?;
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    let length = body.len();
    write!(stream, "{method} {path} HTTP/1.0\r\nHost: web\r\nContent-Length: {length}\r\n\r\n{body}")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, content) = answer.split_once("\r\n\r\n").with_context(|| format!("no answer: {answer:?}"))?;
    ensure!(head.contains(" 200"), "{answer}");
    Ok(content.to_owned())
}

/// Adds a line to the guest's log; it is synced when this returns.
fn append(gateway: &Gateway, line: &str) -> Result<()> {
    let log = ask(gateway, &[], "POST", "/cgi-bin/append", &format!("{line}\n"))?;
    ensure!(log.ends_with(&format!("{line}\n")), "{log:?}");
    Ok(())
}

/// What was appended to the guest's log, after the line that it is made with.
fn log(gateway: &Gateway, test: &[&str]) -> Result<String> {
    let log = ask(gateway, test, "GET", "/data/log", "")?;
    Ok(log.strip_prefix("made\n").with_context(|| format!("{log:?}"))?.to_owned())
}

fn no_machine_runs(gateway: &Gateway) -> Result<()> {
    eventually(&format!("no machine to run at {}", gateway.name()), Duration::from_secs(120), || {
        let runs = gateway.state().join("compute");
        let left = std::fs::read_dir(&runs)
            .map_or(0, |entries| entries.flatten().filter(|entry| entry.path().join("order.json").exists()).count());
        Ok((left == 0).then_some(()))
    })
}

/// How often the guest has booted in this run of the machine, by its console.
fn boots(gateway: &Gateway) -> Result<usize> {
    let console = gateway.run(&["machine", "console", "web", "--bytes", "1000000"])?.ok()?;
    Ok(console.matches(GUEST_READY).count())
}

/// The state that a plan shows at a gateway.
fn state(gateway: &Gateway) -> Result<String> {
    let plan = gateway.json(&["plan", "show", "shop"])?;
    Ok(plan["status"]["state"].as_str().unwrap_or_default().to_owned())
}

/// Puts the guest's image into the volume, and makes everything that a plan needs.
fn set_up(vault: &Path) -> Result<Estate> {
    let image = std::fs::read(guest_image()?)?;
    let size = u64::try_from(image.len())?;
    let with_qemu = vec![("LIFEBOAT_COMPUTE".to_owned(), "qemu".to_owned())];
    let url = format!("file://{}", vault.join("vault").display());
    let mut estate = Estate::protect_remotely("plan", &url, with_qemu, &[("system", size)])?;
    estate.add_standby()?;
    estate.open_vault_at_standby()?;
    let mut volume = std::fs::OpenOptions::new().write(true).open(estate.primary.volume("system"))?;
    volume.write_all(&image)?;
    volume.sync_all()?;
    declare(&estate)?;
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
    estate.primary.run(&["machine", "stop", "web"]).unwrap().ok().unwrap();
    no_machine_runs(&estate.primary).unwrap();
}
