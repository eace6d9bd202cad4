//! `lifeboat machine`: list, show, create, delete, start, stop, look at and reach.
//!
//! The command line declares what most machines need; what is different at another site is Terraform's.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use base64::Engine as _;
use clap::{Args, Subcommand};
use lifeboat_api::{
    Client, Firmware, Group, Machine, MachineDisk, MachineLook, MachineSpec, NetworkInterface, ReachAnswer,
    ReachRequest, StartRequest, StopRequest, Volume,
};
use serde::Serialize;

use super::declared::{self, Listed, Named, Names};
use crate::connect::ConnectionArgs;
use crate::failure::{Failure, Result};
use crate::output::Output;
use crate::progress::settle;
use crate::render::{clean, maybe, parse_size, size};
use crate::resolve::{self, find};

const MIB: u64 = 1 << 20;

/// Declare machines: what boots from protected volumes.
#[derive(Args, Debug)]
pub(crate) struct MachineArgs {
    #[command(flatten)]
    connection: ConnectionArgs,
    #[command(subcommand)]
    verb: MachineVerb,
}

#[derive(Subcommand, Debug)]
enum MachineVerb {
    /// List the machines
    List,
    /// Show one
    Show(Named),
    /// Declare a machine
    Create(Wanted),
    /// Delete a machine that is in no plan; its volumes stay
    Delete(Named),
    /// Start one where its volumes are
    Start {
        #[command(flatten)]
        machine: Named,
        /// Print the job and don't wait for it
        #[arg(long)]
        no_wait: bool,
    },
    /// Show the end of the serial console of one that runs, at the gateway that runs it
    Console {
        #[command(flatten)]
        machine: Named,
        /// The job of the test that it runs in
        #[arg(long, value_name = "JOB")]
        test: Option<String>,
        /// How much of it
        #[arg(long, value_name = "COUNT", default_value_t = 16384)]
        bytes: usize,
    },
    /// Save a picture of the screen of one that runs, at the gateway that runs it
    Screen {
        #[command(flatten)]
        machine: Named,
        /// The job of the test that it runs in
        #[arg(long, value_name = "JOB")]
        test: Option<String>,
        /// The file for the picture, a PNG; it must not be there yet
        #[arg(long, value_name = "FILE")]
        to: PathBuf,
    },
    /// Say where a TCP port of one that runs answers, from the host of the gateway that runs it
    Reach {
        #[command(flatten)]
        machine: Named,
        /// The job of the test that it runs in
        #[arg(long, value_name = "JOB")]
        test: Option<String>,
        /// The port
        #[arg(long)]
        port: u16,
        /// Which interface, counted from 0
        #[arg(long, default_value_t = 0)]
        interface: usize,
    },
    /// Stop one where it runs
    Stop {
        #[command(flatten)]
        machine: Named,
        /// How long it may take to stop by itself before it is switched off
        #[arg(long, value_name = "DURATION", default_value_t = lifeboat_api::default_shutdown_timeout())]
        timeout: String,
        /// Print the job and don't wait for it
        #[arg(long)]
        no_wait: bool,
    },
}

#[derive(Args, Debug)]
struct Wanted {
    /// Its name, unique in the vault
    #[arg(long)]
    name: String,
    /// The consistency group of its volumes, by id or name; the machine is of its site
    #[arg(long)]
    group: String,
    /// Processors
    #[arg(long, default_value_t = 1)]
    cpus: u32,
    /// Memory, for example 4GiB
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    memory: u64,
    /// What starts it: bios or uefi
    #[arg(long, default_value = "bios", value_parser = firmware)]
    firmware: Firmware,
    /// A volume that is a disk, by id or name, in the order in which the machine sees them; it boots from the first
    #[arg(long = "disk", value_name = "VOLUME", required = true)]
    disks: Vec<String>,
    /// A network that an interface joins, by id, name or SITE/NAME, and its address; may be repeated
    #[arg(long = "interface", value_name = "NETWORK[=ADDRESS]")]
    interfaces: Vec<Interface>,
}

fn firmware(text: &str) -> Result<Firmware, String> {
    [Firmware::Bios, Firmware::Uefi]
        .into_iter()
        .find(|firmware| firmware.as_str() == text)
        .ok_or_else(|| "expected bios or uefi".to_owned())
}

/// An interface: `NETWORK` or `NETWORK=ADDRESS`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Interface {
    network: String,
    address: Option<String>,
}

impl FromStr for Interface {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (network, address) = match text.split_once('=') {
            Some((network, address)) => (network, Some(address.to_owned())),
            None => (text, None),
        };
        if network.is_empty() || address.as_deref() == Some("") {
            return Err("expected NETWORK or NETWORK=ADDRESS, for example servers=10.20.0.11".to_owned());
        }
        Ok(Self { network: network.to_owned(), address })
    }
}

impl Listed for Machine {
    const HEAD: &'static [&'static str] =
        &["NAME", "STATE", "HEALTH", "ACTIVE SITE", "RUNS AT", "CPUS", "MEMORY", "DISKS", "INTERFACES", "ID"];
    const NAMED_BY: Option<&'static str> = Some("/v1/gateways");

    fn cells(&self, names: &Names) -> Vec<String> {
        let (spec, status) = (&self.spec, &self.status);
        vec![
            spec.name.clone(),
            status.state.to_string(),
            status.health.to_string(),
            maybe(status.active_site.as_ref()),
            maybe(status.run.as_ref().map(|run| names.of(run.gateway_id))),
            spec.cpus.to_string(),
            size(spec.memory_mib.saturating_mul(MIB)),
            spec.disk.len().to_string(),
            spec.network_interface.len().to_string(),
            self.id.to_string(),
        ]
    }
}

async fn create(client: &Client, output: Output, wanted: Wanted) -> Result<()> {
    if !wanted.memory.is_multiple_of(MIB) {
        return Err(Failure::usage("--memory must be a whole number of MiB, for example 512MiB or 4GiB"));
    }
    let group: Group = client.read(&resolve::group(client, &wanted.group).await?).await?;
    let mut disk = Vec::new();
    for volume in &wanted.disks {
        disk.push(MachineDisk { volume_id: find::<Volume>(client, volume).await?.id, boot: None });
    }
    let mut network_interface = Vec::new();
    for Interface { network, address } in wanted.interfaces {
        let network_id = resolve::network(client, &network).await?.id;
        network_interface.push(NetworkInterface { network_id, mac: None, address, test_address: None });
    }
    let spec = MachineSpec {
        site_id: group.spec.site_id,
        name: wanted.name,
        group_id: group.id,
        cpus: wanted.cpus,
        memory_mib: wanted.memory / MIB,
        firmware: wanted.firmware,
        disk,
        network_interface,
        target: None,
    };
    declared::create::<Machine>(client, output, &spec).await
}

/// A console's text without what a terminal would obey.
fn clean_lines(text: &str) -> String {
    text.lines().map(clean).collect::<Vec<_>>().join("\n")
}

/// What a machine is doing.
async fn look(client: &Client, machine: &Named, query: Vec<(&str, Option<String>)>) -> Result<MachineLook> {
    let machine: Machine = find(client, &machine.target).await?;
    let query: Vec<(&str, String)> = query.into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
    Ok(client.get(&format!("/v1/machines/{}/run", machine.id), &query).await?)
}

async fn screen(client: &Client, output: Output, machine: &Named, test: Option<String>, to: &Path) -> Result<()> {
    let seen = look(client, machine, vec![("test", test), ("screen", Some("true".to_owned()))]).await?;
    let Some(picture) = seen.screen_png else {
        return Err(Failure::failed(format!("{} has no screen now: it is {}", machine.target, seen.state)));
    };
    let bytes = base64::engine::general_purpose::STANDARD
        .decode(picture)
        .map_err(|error| Failure::failed(format!("the gateway's picture can't be read: {error}")))?;
    let written = File::create_new(to).and_then(|mut file| file.write_all(&bytes));
    written.map_err(|error| Failure::failed(format!("{} can't be written: {error}", to.display())))?;
    output.show(&serde_json::json!({"path": to, "bytes": bytes.len()}), || {
        format!("{}: {}", to.display(), size(u64::try_from(bytes.len()).unwrap_or(u64::MAX)))
    })
}

/// Begins a verb's job on a machine, and waits for it.
async fn begin(
    client: &Client,
    output: Output,
    machine: &Named,
    (verb, body): (&str, &impl Serialize),
    no_wait: bool,
) -> Result<()> {
    let machine: Machine = find(client, &machine.target).await?;
    let job = client.verb::<Machine>(&machine.id.to_string(), verb, body).await?;
    settle(client, output, job, !no_wait).await
}

pub(crate) async fn run(args: MachineArgs, output: Output) -> Result<()> {
    let client = args.connection.client()?;
    match args.verb {
        MachineVerb::List => declared::list::<Machine>(&client, output, "no machine is declared").await,
        MachineVerb::Show(named) => declared::show::<Machine>(&client, output, &named).await,
        MachineVerb::Create(wanted) => create(&client, output, wanted).await,
        MachineVerb::Start { machine, no_wait } => {
            begin(&client, output, &machine, ("start", &StartRequest {}), no_wait).await
        }
        MachineVerb::Console { machine, test, bytes } => {
            let query = vec![("test", test), ("console_bytes", Some(bytes.to_string()))];
            let seen = look(&client, &machine, query).await?;
            output.show(&seen, || {
                let reason = seen.reason.as_ref().map(|reason| format!(" ({reason})")).unwrap_or_default();
                format!("{}\n{}: {}{reason}", clean_lines(&seen.console), machine.target, seen.state)
            })
        }
        MachineVerb::Screen { machine, test, to } => screen(&client, output, &machine, test, &to).await,
        MachineVerb::Reach { machine, test, port, interface } => {
            let machine: Machine = find(&client, &machine.target).await?;
            let wanted = ReachRequest { port, interface, test };
            let answer: ReachAnswer = client.post(&format!("/v1/machines/{}:reach", machine.id), &wanted).await?;
            output.show(&answer, || answer.address.clone())
        }
        MachineVerb::Stop { machine, timeout, no_wait } => {
            begin(&client, output, &machine, ("stop", &StopRequest { timeout }), no_wait).await
        }
        MachineVerb::Delete(named) => declared::delete::<Machine>(&client, output, &named, "deleted").await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interface_may_have_an_address() {
        let interface = |address: Option<&str>| Interface {
            network: "onprem/servers".into(),
            address: address.map(ToOwned::to_owned),
        };
        assert_eq!("onprem/servers".parse(), Ok(interface(None)));
        assert_eq!("onprem/servers=10.20.0.11".parse(), Ok(interface(Some("10.20.0.11"))));
        for wrong in ["", "=10.20.0.11", "servers="] {
            assert!(wrong.parse::<Interface>().is_err(), "{wrong:?}");
        }
        assert_eq!(firmware("uefi"), Ok(Firmware::Uefi));
        assert!(firmware("UEFI").is_err());
    }
}
