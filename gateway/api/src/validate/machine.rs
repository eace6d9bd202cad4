//! Rules of machines that need nothing but the body.

use std::net::IpAddr;

use lifeboat_model::Mac;

use super::{Errors, Validate, fault, file_name};
use crate::types::{MachineSpec, NetworkInterface};

/// Most disks of a machine.
pub const DISKS_MAX: usize = 64;
/// Most interfaces of a machine.
pub const INTERFACES_MAX: usize = 32;
const CPUS: std::ops::RangeInclusive<u32> = 1..=512;
const MEMORY_MIB: std::ops::RangeInclusive<u64> = 64..=16 << 20;

fn cpus(field: String, count: u32, errors: &mut Errors) {
    if !CPUS.contains(&count) {
        fault(errors, field, format!("must lie between 1 and 512, not {count}"));
    }
}

fn memory(field: String, mib: u64, errors: &mut Errors) {
    if !MEMORY_MIB.contains(&mib) {
        fault(errors, field, format!("must lie between 64 and 16777216 (16 TiB), not {mib}"));
    }
}

fn disks(prefix: &str, machine: &MachineSpec, errors: &mut Errors) {
    let disks = &machine.disk;
    if disks.is_empty() || disks.len() > DISKS_MAX {
        fault(errors, format!("{prefix}disk"), format!("needs 1 to {DISKS_MAX} entries, and has {}", disks.len()));
        return;
    }
    let mut boot: Option<usize> = None;
    for (index, disk) in disks.iter().enumerate() {
        if let Some(other) = disks.iter().take(index).position(|earlier| earlier.volume_id == disk.volume_id) {
            let message = format!("is the volume of disk[{other}] already: a volume is one disk");
            fault(errors, format!("{prefix}disk[{index}].volume_id"), message);
        }
        if disk.boot == Some(true) {
            match boot {
                Some(first) => {
                    let message = format!("can't be true: the machine boots from disk[{first}] already");
                    fault(errors, format!("{prefix}disk[{index}].boot"), message);
                }
                None => boot = Some(index),
            }
        }
    }
    if machine.boot_disk().is_none() {
        fault(
            errors,
            format!("{prefix}disk[0].boot"),
            "can't be false for every disk: a machine boots from one of them",
        );
    }
}

/// An interface's addresses, as far as they can be read.
fn interface(
    prefix: &str,
    one: &NetworkInterface,
    errors: &mut Errors,
) -> (Option<Mac>, Option<IpAddr>, Option<IpAddr>) {
    let mac = one.mac.as_ref().and_then(|text| {
        let read = text.parse::<Mac>();
        read.map_err(|error| fault(errors, format!("{prefix}mac"), error.to_string())).ok()
    });
    let mut address = |name: &str, text: Option<&String>| {
        let text = text?;
        let read = text.parse::<IpAddr>();
        if read.is_err() {
            fault(errors, format!("{prefix}{name}"), format!("{text:?} is no address, for example 10.20.0.11"));
        }
        read.ok()
    };
    let home = address("address", one.address.as_ref());
    let test = address("test_address", one.test_address.as_ref());
    (mac, home, test)
}

fn interfaces(prefix: &str, machine: &MachineSpec, errors: &mut Errors) {
    let interfaces = &machine.network_interface;
    if interfaces.len() > INTERFACES_MAX {
        fault(errors, format!("{prefix}network_interface"), format!("can't have more than {INTERFACES_MAX} entries"));
        return;
    }
    let mut seen = Vec::new();
    for (index, one) in interfaces.iter().enumerate() {
        let at = format!("{prefix}network_interface[{index}].");
        let (mac, home, test) = interface(&at, one, errors);
        for (other, (other_mac, network, other_home, other_test)) in seen.iter().enumerate() {
            let mut clash = |field: &str, what: String| {
                let message = format!("{what} is that of network_interface[{other}] already");
                fault(errors, format!("{at}{field}"), message);
            };
            if let Some(mac) = mac.filter(|mac| *other_mac == Some(*mac)) {
                clash("mac", mac.to_string());
            }
            if let Some(address) = home.filter(|address| *other_home == Some(*address) && *network == one.network_id) {
                clash("address", address.to_string());
            }
            if let Some(address) = test.filter(|address| *other_test == Some(*address)) {
                clash("test_address", address.to_string());
            }
        }
        seen.push((mac, one.network_id, home, test));
    }
}

impl Validate for MachineSpec {
    fn check(&self, prefix: &str, errors: &mut Errors) {
        let field = |name: &str| format!("{prefix}{name}");
        file_name(&field("name"), &self.name, errors);
        cpus(field("cpus"), self.cpus, errors);
        memory(field("memory_mib"), self.memory_mib, errors);
        disks(prefix, self, errors);
        interfaces(prefix, self, errors);
        let Some(target) = &self.target else { return };
        if let Some(count) = target.cpus {
            cpus(field("target.cpus"), count, errors);
        }
        if let Some(mib) = target.memory_mib {
            memory(field("target.memory_mib"), mib, errors);
        }
        if let Some(group) = &target.anti_affinity_group {
            file_name(&field("target.anti_affinity_group"), group, errors);
        }
    }
}
