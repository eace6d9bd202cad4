//! The network as a person sets it at the console, and whether it counts.
//!
//! Two may speak of the network: the hypervisor's properties, which stand there at every boot, and a person at the console. The last
//! change counts. What the console set is kept with what the properties said at that moment: as long as they say the same, or nothing,
//! the console's word holds; once they say something else, somebody has changed them since, and theirs holds again.

use std::fmt::Write as _;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::properties::{Address, Settings};

/// The version of the file.
pub const VERSION: u32 = 1;
/// Servers for names that can be given.
const SERVERS_MAX: usize = 4;

/// How the appliance is on the network.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Network {
    /// The fixed address; DHCP where there is none.
    pub address: Option<Address>,
    /// The router, with a fixed address.
    pub gateway: Option<IpAddr>,
    /// Where names are looked up; what DHCP says when empty.
    pub dns: Vec<IpAddr>,
}

/// What the properties of a boot said of the network.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Said {
    /// The network.
    pub network: Network,
    /// Whether DHCP was asked for by its name.
    pub dhcp: bool,
}

/// What the console set, as it is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chosen {
    /// [`VERSION`].
    pub version: u32,
    /// The network.
    pub network: Network,
    /// What the properties said then.
    pub said: Said,
}

impl Network {
    /// The network of settings.
    #[must_use]
    pub fn of(settings: &Settings) -> Self {
        Self { address: settings.address, gateway: settings.gateway, dns: settings.dns.clone() }
    }

    /// Settings with this network.
    #[must_use]
    pub fn within(&self, settings: Settings) -> Settings {
        Settings { address: self.address, gateway: self.gateway, dns: self.dns.clone(), ..settings }
    }

    /// Whether its parts fit each other.
    ///
    /// # Errors
    /// A sentence: what doesn't fit, and what would.
    pub fn check(&self) -> Result<(), String> {
        if self.dns.len() > SERVERS_MAX {
            return Err(format!("{SERVERS_MAX} DNS servers at most"));
        }
        match (self.address, self.gateway) {
            (None, Some(_)) => Err("a router comes with a fixed address; with DHCP the network says it".into()),
            (Some(address), Some(gateway)) if address.ip.is_ipv4() != gateway.is_ipv4() => {
                Err("address and router must be of one family, IPv4 or IPv6".into())
            }
            (Some(address), Some(gateway)) if address.ip == gateway => {
                Err("the router is another machine: its address can't be this one's".into())
            }
            // A router of IPv6 mostly stands with its link-local address.
            (Some(address), Some(gateway)) if !is_link_local(gateway) && !shares_network(address, gateway) => {
                Err(format!("the router {gateway} isn't in the network of {address}: it couldn't be reached"))
            }
            _ => Ok(()),
        }
    }

    /// One line for people.
    #[must_use]
    pub fn line(&self) -> String {
        let mut text = self.address.map_or("DHCP".to_owned(), |address| address.to_string());
        if let Some(gateway) = self.gateway {
            let _ = write!(text, ", router {gateway}");
        }
        if !self.dns.is_empty() {
            let _ = write!(text, ", DNS {}", list(&self.dns));
        }
        text
    }
}

impl Said {
    /// What settings that were just said say of it.
    #[must_use]
    pub fn of(settings: &Settings) -> Self {
        Self { network: Network::of(settings), dhcp: settings.dhcp }
    }

    /// Whether they say nothing.
    #[must_use]
    pub fn is_silent(&self) -> bool {
        *self == Self::default()
    }
}

impl Chosen {
    /// Whether it counts over what properties say now.
    #[must_use]
    pub fn counts(&self, said: &Said) -> bool {
        said.is_silent() || *said == self.said
    }
}

/// Addresses as a person types them: separated by commas or spaces.
///
/// # Errors
/// A sentence: which isn't one.
pub fn addresses(text: &str) -> Result<Vec<IpAddr>, String> {
    let words = text.split([',', ' ']).map(str::trim).filter(|word| !word.is_empty());
    words.map(|word| word.parse().map_err(|_| "must be IP addresses, separated by commas".to_owned())).collect()
}

/// Addresses in a row.
#[must_use]
pub fn list(addresses: &[IpAddr]) -> String {
    addresses.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(", ")
}

fn is_link_local(ip: IpAddr) -> bool {
    matches!(ip, IpAddr::V6(ip) if ip.segments()[0] & 0xffc0 == 0xfe80)
}

fn shares_network(address: Address, other: IpAddr) -> bool {
    let bits = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => u128::from(u32::from(ip)) << 96,
        IpAddr::V6(ip) => u128::from(ip),
    };
    let differing = bits(address.ip) ^ bits(other);
    differing.leading_zeros() >= u32::from(address.prefix)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(address: &str, gateway: &str, dns: &str) -> Network {
        Network {
            address: (!address.is_empty()).then(|| Address::try_from(address.to_owned()).unwrap()),
            gateway: (!gateway.is_empty()).then(|| gateway.parse().unwrap()),
            dns: addresses(dns).unwrap(),
        }
    }

    #[test]
    fn the_last_change_counts() {
        let properties = |address: &str| Said { network: network(address, "", ""), dhcp: false };
        let chosen =
            Chosen { version: VERSION, network: network("192.0.2.20/24", "", ""), said: properties("192.0.2.10/24") };
        assert!(chosen.counts(&properties("192.0.2.10/24")), "they stand there at every boot");
        assert!(chosen.counts(&Said::default()), "the CD was taken away");
        assert!(!chosen.counts(&properties("192.0.2.11/24")), "somebody changed them");
        assert!(!chosen.counts(&Said { dhcp: true, ..Said::default() }));
        let silent = Chosen { said: Said::default(), ..chosen };
        assert!(!silent.counts(&properties("192.0.2.10/24")), "they are new");
        let text = serde_json::to_string(&silent).unwrap();
        assert_eq!(serde_json::from_str::<Chosen>(&text).unwrap(), silent, "{text}");
    }

    #[test]
    fn parts_have_to_fit_each_other() {
        for (sound, line) in [
            (network("", "", ""), "DHCP"),
            (network("", "", "192.0.2.53"), "DHCP, DNS 192.0.2.53"),
            (network("192.0.2.10/24", "192.0.2.1", ""), "192.0.2.10/24, router 192.0.2.1"),
            (network("2001:db8::7/64", "fe80::1", ""), "2001:db8::7/64, router fe80::1"),
        ] {
            assert_eq!((sound.check(), sound.line().as_str()), (Ok(()), line));
        }
        for (broken, part) in [
            (network("", "192.0.2.1", ""), "fixed address"),
            (network("192.0.2.10/24", "192.0.3.1", ""), "isn't in the network"),
            (network("192.0.2.10/24", "192.0.2.10", ""), "another machine"),
            (network("192.0.2.10/24", "2001:db8::1", ""), "one family"),
            (network("", "", "192.0.2.1,192.0.2.2,192.0.2.3,192.0.2.4,192.0.2.5"), "at most"),
        ] {
            assert!(broken.check().expect_err(part).contains(part));
        }
        assert!(addresses("192.0.2.53 nowhere").is_err());
    }
}
