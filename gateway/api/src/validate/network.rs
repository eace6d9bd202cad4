//! Rules of networks and mappings that need nothing but the body.

use std::net::IpAddr;

use lifeboat_model::Cidr;

use super::{Errors, Validate, fault, title};
use crate::types::{NetworkMappingSpec, NetworkSpec, Subnet};

/// Most subnets of a network.
pub const SUBNETS_MAX: usize = 64;

/// A subnet's range and router; `None` for a range that can't be read.
fn subnet(prefix: &str, subnet: &Subnet, errors: &mut Errors) -> Option<Cidr> {
    title(&format!("{prefix}name"), &subnet.name, errors);
    let range: Cidr = match subnet.cidr.parse() {
        Ok(range) => range,
        Err(error) => {
            fault(errors, format!("{prefix}cidr"), error.to_string());
            return None;
        }
    };
    if let Some(text) = &subnet.gateway {
        let field = format!("{prefix}gateway");
        match text.parse::<IpAddr>() {
            Err(_) => fault(errors, field, format!("{text:?} is no address, for example 10.20.0.1")),
            Ok(address) if !range.has_host(address) => {
                fault(errors, field, format!("must be the address of a host in {range}, not {address}"));
            }
            Ok(_) => {}
        }
    }
    Some(range)
}

impl Validate for NetworkSpec {
    fn check(&self, prefix: &str, errors: &mut Errors) {
        title(&format!("{prefix}name"), &self.name, errors);
        if let Some(bridge) = &self.bridge {
            let plain = |b: u8| b.is_ascii_graphic() && !matches!(b, b'/' | b':');
            if !(1..=15).contains(&bridge.len()) || !bridge.bytes().all(plain) || matches!(bridge.as_str(), "." | "..")
            {
                let message =
                    format!("{bridge:?} can't be a bridge: use 1 to 15 characters without spaces, `/` and `:`");
                fault(errors, format!("{prefix}bridge"), message);
            }
        }
        if self.subnet.len() > SUBNETS_MAX {
            fault(errors, format!("{prefix}subnet"), format!("can't have more than {SUBNETS_MAX} entries"));
        }
        let mut ranges: Vec<(&str, Cidr)> = Vec::new();
        for (index, one) in self.subnet.iter().enumerate() {
            let prefix = format!("{prefix}subnet[{index}].");
            if self.subnet.iter().take(index).any(|earlier| earlier.name == one.name) {
                fault(errors, format!("{prefix}name"), format!("names a subnet twice: {:?}", one.name));
            }
            let Some(range) = subnet(&prefix, one, errors) else { continue };
            if let Some((name, other)) = ranges.iter().find(|(_, other)| other.overlaps(&range)) {
                fault(errors, format!("{prefix}cidr"), format!("{range} overlaps {other} of the subnet {name:?}"));
            }
            ranges.push((&one.name, range));
        }
    }
}

impl NetworkSpec {
    /// Its subnet with this address.
    #[must_use]
    pub fn subnet_of(&self, address: IpAddr) -> Option<&Subnet> {
        self.subnet.iter().find(|subnet| subnet.cidr.parse::<Cidr>().is_ok_and(|range| range.contains(address)))
    }
}

impl Validate for NetworkMappingSpec {
    fn check(&self, prefix: &str, errors: &mut Errors) {
        if self.source_network_id == self.target_network_id {
            fault(errors, format!("{prefix}target_network_id"), "must be another network than source_network_id");
        }
        if self.test_network_id == Some(self.target_network_id) {
            let message = "must be another network than target_network_id: a test would run beside what it tests";
            fault(errors, format!("{prefix}test_network_id"), message);
        }
        for (index, one) in self.subnet.iter().enumerate() {
            if self.subnet.iter().take(index).any(|earlier| earlier.source == one.source) {
                let message = format!("names a subnet twice: {:?}", one.source);
                fault(errors, format!("{prefix}subnet[{index}].source"), message);
            }
        }
    }
}
