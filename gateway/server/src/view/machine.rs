//! Machines: what of them fits to what else is declared, and how the API shows them.
//!
//! The rules across objects are looked at twice: before a machine is written down, and each time it is shown. Two gateways at
//! once may write down what clashes, and what was there may have changed.

use std::collections::BTreeSet;
use std::net::IpAddr;

use aws_lc_rs::digest;
use lifeboat_api::{
    FieldError, GroupSpec, Machine, MachineSpec, MachineStatus, NetworkInterface, NetworkMappingSpec, NetworkSpec,
    RecoveryState, VolumeSpec,
};
use lifeboat_model::state::Health;
use lifeboat_model::{Cidr, Mac, MachineId, NetworkId, VolumeId};
use lifeboat_vault::{Document, VaultError};

use super::{declared_network, group_facts, group_of, id, spec, volume_status};
use crate::context::Context;
use crate::records::{RecoveryRecord, kind};
use crate::vaults::{AttachedVault, Snapshot};

/// The declared machines.
pub(crate) fn machines(snapshot: &Snapshot) -> impl Iterator<Item = (MachineId, MachineSpec)> {
    snapshot
        .of(kind::MACHINES)
        .iter()
        .filter_map(|document| Some((document.id.parse().ok()?, document.spec_as().ok()?)))
}

/// The hardware addresses of a machine's interfaces. One that wasn't given comes of the machine, the network and the how
/// manieth of that network the interface is, so that it stays when other interfaces come and go.
pub(crate) fn macs(machine: MachineId, spec: &MachineSpec) -> Vec<Mac> {
    let interfaces = spec.network_interface.iter().enumerate();
    interfaces
        .map(|(index, one)| {
            let given = one.mac.as_ref().and_then(|text| text.parse().ok());
            given.unwrap_or_else(|| {
                let same = |earlier: &&NetworkInterface| earlier.network_id == one.network_id;
                let nth = spec.network_interface.iter().take(index).filter(same).count();
                made_up(machine, one.network_id, nth)
            })
        })
        .collect()
}

fn made_up(machine: MachineId, network: NetworkId, nth: usize) -> Mac {
    let mut hash = digest::Context::new(&digest::SHA256);
    hash.update(b"lifeboat/v1/mac\0");
    hash.update(&machine.to_bytes());
    hash.update(&network.to_bytes());
    hash.update(&u64::try_from(nth).unwrap_or(u64::MAX).to_le_bytes());
    let mut bits = [0; 5];
    if let Some(part) = hash.finish().as_ref().get(..bits.len()) {
        bits.copy_from_slice(part);
    }
    Mac::local(bits)
}

/// What of a machine doesn't fit to what else is declared.
#[derive(Debug, Default)]
pub(crate) struct Misfits {
    /// What can't be so.
    pub(crate) wrong: Vec<FieldError>,
    /// What something else has already.
    pub(crate) taken: Vec<FieldError>,
}

impl Misfits {
    fn wrong(&mut self, field: impl Into<String>, message: impl Into<String>) {
        self.wrong.push(FieldError { field: field.into(), message: message.into() });
    }

    fn taken(&mut self, field: impl Into<String>, message: impl Into<String>) {
        self.taken.push(FieldError { field: field.into(), message: message.into() });
    }
}

/// Holds a machine against everything else that is declared.
pub(crate) fn misfits(snapshot: &Snapshot, machine: MachineId, spec: &MachineSpec) -> Misfits {
    let mut found = Misfits::default();
    let others: Vec<(MachineId, MachineSpec)> = machines(snapshot).filter(|(id, _)| *id != machine).collect();
    let group = snapshot.get(kind::GROUPS, &spec.group_id.to_string());
    match group.and_then(|group| Some((group, group.spec_as::<GroupSpec>().ok()?))) {
        None => found.wrong("group_id", format!("there is no group {}", spec.group_id)),
        Some((group, declared)) if declared.site_id != spec.site_id => {
            found.wrong("group_id", format!("must be a group of the machine's site, and {} is of another", group.name));
        }
        Some(_) => {}
    }
    disks(snapshot, spec, &others, &mut found);
    for (index, one) in spec.network_interface.iter().enumerate() {
        interface(snapshot, spec, &format!("network_interface[{index}]."), one, &others, &mut found);
    }
    let own = macs(machine, spec);
    for (id, other) in &others {
        let theirs = macs(*id, other);
        for (index, mac) in own.iter().enumerate().filter(|(_, mac)| theirs.contains(mac)) {
            let message = format!("{mac} is the hardware address of the machine {} already", other.name);
            found.taken(format!("network_interface[{index}].mac"), message);
        }
    }
    found
}

fn disks(snapshot: &Snapshot, spec: &MachineSpec, others: &[(MachineId, MachineSpec)], found: &mut Misfits) {
    for (index, disk) in spec.disk.iter().enumerate() {
        let field = format!("disk[{index}].volume_id");
        let document = snapshot.get(kind::VOLUMES, &disk.volume_id.to_string());
        let Some((document, volume)) = document.and_then(|doc| Some((doc, doc.spec_as::<VolumeSpec>().ok()?))) else {
            found.wrong(field, format!("there is no volume {}", disk.volume_id));
            continue;
        };
        if group_of(disk.volume_id, &volume) != spec.group_id {
            found.wrong(&field, format!("must be a volume of the machine's group, and {} is not", document.name));
        }
        let has_it = |other: &&(MachineId, MachineSpec)| other.1.disk.iter().any(|d| d.volume_id == disk.volume_id);
        if let Some((_, other)) = others.iter().find(has_it) {
            found.taken(field, format!("the volume {} is a disk of the machine {} already", document.name, other.name));
        }
    }
}

fn interface(
    snapshot: &Snapshot,
    spec: &MachineSpec,
    at: &str,
    one: &NetworkInterface,
    others: &[(MachineId, MachineSpec)],
    found: &mut Misfits,
) {
    let Some(network) = declared_network(snapshot, one.network_id) else {
        found.wrong(format!("{at}network_id"), format!("there is no network {}", one.network_id));
        return;
    };
    if network.site_id != spec.site_id {
        let message = format!("must be a network of the machine's site, and {} is of another", network.name);
        found.wrong(format!("{at}network_id"), message);
    }
    if let Some(address) = one.address.as_ref().and_then(|text| text.parse::<IpAddr>().ok()) {
        if let Err(message) = place(&network, address) {
            found.wrong(format!("{at}address"), message);
        }
        let same = |other: &NetworkInterface| {
            other.network_id == one.network_id && is_address(other.address.as_deref(), address)
        };
        if let Some((_, other)) = others.iter().find(|(_, other)| other.network_interface.iter().any(same)) {
            let message = format!("{address} in the network {} is the machine {}'s already", network.name, other.name);
            found.taken(format!("{at}address"), message);
        }
    }
    if let Some(address) = one.test_address.as_ref().and_then(|text| text.parse::<IpAddr>().ok()) {
        let tests = test_networks(snapshot, one.network_id);
        let declared: Vec<NetworkSpec> = tests.iter().filter_map(|id| declared_network(snapshot, *id)).collect();
        let refused = declared.iter().map(|network| place(network, address)).collect::<Result<Vec<()>, String>>();
        if let Some(message) = refused.err() {
            found.wrong(format!("{at}test_address"), message);
        }
        let meets = |other: &NetworkInterface| {
            other.network_id == one.network_id || !test_networks(snapshot, other.network_id).is_disjoint(&tests)
        };
        let same = |other: &NetworkInterface| is_address(other.test_address.as_deref(), address) && meets(other);
        if let Some((_, other)) = others.iter().find(|(_, other)| other.network_interface.iter().any(same)) {
            found.taken(
                format!("{at}test_address"),
                format!("{address} is the machine {}'s in tests already", other.name),
            );
        }
    }
}

fn is_address(text: Option<&str>, address: IpAddr) -> bool {
    text.and_then(|text| text.parse::<IpAddr>().ok()) == Some(address)
}

/// Where tests of what is in a network are, by its mappings.
fn test_networks(snapshot: &Snapshot, network: NetworkId) -> BTreeSet<NetworkId> {
    let mappings =
        snapshot.of(kind::MAPPINGS).iter().filter_map(|document| document.spec_as::<NetworkMappingSpec>().ok());
    mappings
        .filter(|mapping| mapping.source_network_id == network)
        .filter_map(|mapping| mapping.test_network_id)
        .collect()
}

/// Whether an interface can have the address in a network; why not.
pub(crate) fn place(network: &NetworkSpec, address: IpAddr) -> Result<(), String> {
    let Some(subnet) = network.subnet_of(address) else {
        return Err(format!("{address} lies in no subnet of the network {}", network.name));
    };
    if is_address(subnet.gateway.as_deref(), address) {
        return Err(format!("{address} is the address of the router of the subnet {}", subnet.name));
    }
    if !subnet.cidr.parse::<Cidr>().is_ok_and(|range| range.has_host(address)) {
        return Err(format!("{address} is the address of no host in {}", subnet.cidr));
    }
    Ok(())
}

/// The declared machine that has a volume as a disk.
pub(crate) fn machine_with(snapshot: &Snapshot, volume: VolumeId) -> Option<(MachineId, MachineSpec)> {
    machines(snapshot).find(|(_, machine)| machine.disk.iter().any(|disk| disk.volume_id == volume))
}

pub(crate) fn machine(context: &Context, attached: &AttachedVault, document: &Document) -> Result<Machine, VaultError> {
    let snapshot = attached.snapshot();
    let own: MachineSpec = spec(document)?;
    let machine: MachineId = id(document)?;
    let group = snapshot.get(kind::GROUPS, &own.group_id.to_string());
    let facts = group.map(|group| group_facts(context, attached, group)).transpose()?;
    let record: RecoveryRecord = super::status(document);
    let mut status = MachineStatus {
        run: record.run,
        job_id: record.job.or(record.failed_job),
        failover: record.failover.map(|failover| super::plan::shown_failover(&failover)),
        tests: record.tests.into_iter().map(super::plan::shown_test).collect(),
        mac_addresses: macs(machine, &own).iter().map(ToString::to_string).collect(),
        ..MachineStatus::default()
    };
    if let Some(facts) = facts {
        let states = own.disk.iter().map(|disk| {
            let volume = facts.volumes.iter().find(|(id, _)| *id == disk.volume_id);
            volume.map(|(id, spec)| volume_status(&facts, *id, spec).state).unwrap_or_default()
        });
        status.state = RecoveryState::of(states);
        status.active_site_id = facts.active_site.as_ref().map(|(id, _)| *id);
        status.active_site = facts.active_site.as_ref().map(|(_, name)| name.clone());
        (status.health, status.reasons) = (facts.health, facts.reasons);
    }
    let Misfits { wrong, taken } = misfits(&snapshot, machine, &own);
    for misfit in wrong.iter().chain(&taken) {
        status.health = status.health.max(Health::Warning);
        status.reasons.push(misfit.to_string());
    }
    Ok(Machine {
        id: machine,
        generation: document.generation,
        created: document.created,
        updated: document.updated,
        spec: own,
        status,
    })
}

#[cfg(test)]
mod tests {
    use lifeboat_api::MachineDisk;
    use lifeboat_model::{GroupId, SiteId};

    use super::*;

    #[test]
    fn a_made_up_hardware_address_stays_when_other_interfaces_come_and_go() {
        let (machine, front, back) = (MachineId::new(), NetworkId::new(), NetworkId::new());
        let interface = |network_id| NetworkInterface { network_id, mac: None, address: None, test_address: None };
        let spec = |network_interface| MachineSpec {
            site_id: SiteId::new(),
            name: "web".into(),
            group_id: GroupId::new(),
            cpus: 1,
            memory_mib: 512,
            firmware: lifeboat_api::Firmware::Bios,
            disk: vec![MachineDisk { volume_id: VolumeId::new(), boot: None }],
            network_interface,
            target: None,
        };
        let both = macs(machine, &spec(vec![interface(front), interface(back), interface(back)]));
        assert_eq!(both.iter().collect::<BTreeSet<_>>().len(), 3, "{both:?}");
        assert_eq!(macs(machine, &spec(vec![interface(back), interface(front)])), [both[1], both[0]]);
        assert_ne!(macs(MachineId::new(), &spec(vec![interface(front)]))[0], both[0]);
        let given = NetworkInterface { mac: Some("52:54:00:00:00:01".into()), ..interface(front) };
        assert_eq!(macs(machine, &spec(vec![given]))[0].to_string(), "52:54:00:00:00:01");
    }
}
