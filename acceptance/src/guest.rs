//! A small real Linux in a volume: the machine `web` of the plan `shop`, which keeps a log and serves it over HTTP.
//!
//! ```text
//! at home       network servers  10.20.0.0/24   web has 10.20.0.11
//! recovery      network servers  10.30.0.0/24   web comes up as 10.30.0.11
//!               network tests    10.40.0.0/24   and as 10.40.0.11 in a test
//! ```

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lifeboat_api::types::{
    AddressRule, BootGroup, Firmware, Group, Machine, MachineDisk, MachineSpec, Network, NetworkInterface,
    NetworkMapping, NetworkMappingSpec, NetworkSpec, Plan, PlanSpec, Site, Subnet, Volume,
};
use lifeboat_lab::{GUEST_READY, guest_image};

use crate::estate::{Api, Estate};
use crate::eventually;
use crate::gateway::Gateway;
use crate::hosts::Host;

/// Emulated processors are slow, and other tests run beside it.
const BOOTS_WITHIN: Duration = Duration::from_secs(240);
const KNOWN_WITHIN: Duration = Duration::from_secs(60);

/// The guest's image as a volume of that size.
///
/// # Errors
/// `make deps` has not unpacked what it is made of.
pub fn image() -> Result<Vec<u8>> {
    Ok(std::fs::read(guest_image()?)?)
}

/// Puts the guest's image into the volume `system`, opens the vault at the recovery site, and declares everything that the plan
/// needs. The networks are the machine's own, or this bridge at each site, but for that of tests.
///
/// # Errors
/// A step fails.
pub fn install(estate: &mut Estate, bridge: Option<&str>) -> Result<()> {
    estate.add_standby()?;
    estate.open_vault_at_standby()?;
    let mut volume = std::fs::OpenOptions::new().write(true).open(estate.primary.volume("system"))?;
    volume.write_all(&image()?)?;
    volume.sync_all()?;
    declare(estate, bridge)?;
    // The other gateway knows of it as well before anything is asked of it.
    let api = Api::of(estate.standby()?)?;
    eventually("the plan at the recovery site", KNOWN_WITHIN, || {
        Ok(api.call(async |client| client.find_by_name::<Plan>("shop").await)?.map(drop))
    })
}

/// Declares networks at both sites, a mapping, the machine `web` and the plan `shop`.
fn declare(estate: &Estate, bridge: Option<&str>) -> Result<()> {
    let api = Api::of(&estate.primary)?;
    api.call(async |client| {
        let site = async |name: &str| client.find_by_name::<Site>(name).await.map(|site| site.expect("declared"));
        let (home, away) = (site("onprem").await?, site("recovery").await?);
        let network = async |site: &Site, name: &str, range: &str, router: &str, bridge: Option<&str>| {
            let subnet = Subnet { name: "web".into(), cidr: range.into(), gateway: Some(router.into()) };
            let spec = NetworkSpec {
                site_id: site.id,
                name: name.into(),
                bridge: bridge.map(str::to_owned),
                subnet: vec![subnet],
            };
            client.create::<Network>(&spec).await
        };
        let servers = network(&home, "servers", "10.20.0.0/24", "10.20.0.1", bridge).await?;
        let target = network(&away, "servers", "10.30.0.0/24", "10.30.0.1", bridge).await?;
        let tests = network(&away, "tests", "10.40.0.0/24", "10.40.0.1", None).await?;
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

/// Waits until the guest serves at this gateway, with that address; `test` is `--test JOB` in a test.
///
/// # Errors
/// It doesn't; with the end of its console.
pub fn serves(gateway: &Gateway, test: &[&str], address: &str) -> Result<()> {
    let ready = format!("{GUEST_READY} {address}/24");
    let args = [&["machine", "console", "web"], test].concat();
    eventually(&format!("{ready:?} on the console at {}", gateway.name()), BOOTS_WITHIN, || {
        let outcome = gateway.run(&args)?;
        Ok(outcome.stdout.contains(&ready).then_some(()))
    })
    .with_context(|| format!("{:?}", gateway.run(&args).map(|outcome| (outcome.stdout, outcome.stderr))))
}

/// Asks the guest over HTTP, through the port that its gateway makes reachable.
///
/// # Errors
/// It can't be reached, or answers with a failure.
pub fn ask(gateway: &Gateway, test: &[&str], method: &str, path: &str, body: &str) -> Result<String> {
    let args = [&["machine", "reach", "web", "--port", "80"], test].concat();
    let address = gateway.run(&args)?.ok()?;
    let mut stream = TcpStream::connect(address.trim()).with_context(|| format!("connect to {address}"))?;
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    let length = body.len();
    write!(stream, "{method} {path} HTTP/1.0\r\nHost: web\r\nContent-Length: {length}\r\n\r\n{body}")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    content_of(&answer)
}

/// Asks the guest from another host of its network, as [`ask`] does.
///
/// # Errors
/// It doesn't answer, or with a failure.
pub fn ask_from(host: &Host, address: &str, method: &str, path: &str, body: &str) -> Result<String> {
    let request = format!("{method} {path} HTTP/1.0\r\nHost: web\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    let exchange = r#"exec 3<>"/dev/tcp/$0/80" && printf %s "$1" >&3 && cat <&3"#;
    let bash = host.run("timeout").args(["60", "bash", "-c", exchange, address, &request]);
    content_of(&bash.within(BOOTS_WITHIN).ok()?)
}

/// What a successful answer brings along.
fn content_of(answer: &str) -> Result<String> {
    let (head, content) = answer.split_once("\r\n\r\n").with_context(|| format!("no answer: {answer:?}"))?;
    ensure!(head.contains(" 200"), "{answer}");
    Ok(content.to_owned())
}

/// Adds a line to the guest's log; it is synced when this returns.
///
/// # Errors
/// As [`ask`].
pub fn append(gateway: &Gateway, line: &str) -> Result<()> {
    let log = ask(gateway, &[], "POST", "/cgi-bin/append", &format!("{line}\n"))?;
    ensure!(log.ends_with(&format!("{line}\n")), "{log:?}");
    Ok(())
}

/// What was appended to the guest's log, after the line that it is made with.
///
/// # Errors
/// As [`ask`].
pub fn log(gateway: &Gateway, test: &[&str]) -> Result<String> {
    let log = ask(gateway, test, "GET", "/data/log", "")?;
    Ok(log.strip_prefix("made\n").with_context(|| format!("{log:?}"))?.to_owned())
}

/// Waits until this gateway runs no machine.
///
/// # Errors
/// It goes on running one.
pub fn no_machine_runs(gateway: &Gateway) -> Result<()> {
    eventually(&format!("no machine to run at {}", gateway.name()), Duration::from_secs(120), || {
        let runs = gateway.state().join("compute");
        let left = std::fs::read_dir(&runs)
            .map_or(0, |entries| entries.flatten().filter(|entry| entry.path().join("order.json").exists()).count());
        Ok((left == 0).then_some(()))
    })
}

/// How often the guest has booted in this run of the machine, by its console.
///
/// # Errors
/// There is no console.
pub fn boots(gateway: &Gateway) -> Result<usize> {
    let console = gateway.run(&["machine", "console", "web", "--bytes", "1000000"])?.ok()?;
    Ok(console.matches(GUEST_READY).count())
}
