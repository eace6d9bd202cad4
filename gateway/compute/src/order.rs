//! What to start: an order says everything that a driver needs to know of a machine.
//!
//! Orders are kept on disk and given to the administrator's programs as JSON, so their fields are an interface: a field
//! may be added, none changes its meaning.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;

use lifeboat_model::{Cidr, Mac};
use serde::{Deserialize, Serialize};

/// Names one run of a machine on this host: a text that is safe as a file's name, made by the caller.
///
/// The machine's id for a failover, the machine's and the job's for a test: what must not run twice has one id.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RunId(String);

/// A text that can't name a run.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} can't name a run: expected 1 to 100 of the characters A-Z a-z 0-9 . _ -, the first of them no dot")]
pub struct ParseRunIdError(String);

impl RunId {
    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for RunId {
    type Error = ParseRunIdError;

    fn try_from(text: String) -> Result<Self, ParseRunIdError> {
        let safe = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
        let sound = (1..=100).contains(&text.len()) && !text.starts_with('.') && text.bytes().all(safe);
        if sound { Ok(Self(text)) } else { Err(ParseRunIdError(text)) }
    }
}

impl FromStr for RunId {
    type Err = ParseRunIdError;

    fn from_str(text: &str) -> Result<Self, ParseRunIdError> {
        text.to_owned().try_into()
    }
}

impl From<RunId> for String {
    fn from(id: RunId) -> Self {
        id.0
    }
}

impl fmt::Display for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a machine starts with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Firmware {
    /// A PC's BIOS.
    Bios,
    /// UEFI, without Secure Boot.
    Uefi,
}

/// Where a disk's raw bytes are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum DiskSource {
    /// A file or a block device on this host.
    File {
        /// Its absolute path.
        path: PathBuf,
    },
    /// An export of an NBD server on this host.
    Nbd {
        /// The absolute path of the server's unix socket.
        socket: PathBuf,
        /// The export's name.
        export: String,
    },
}

/// A disk of a machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disk {
    /// Its bytes.
    pub source: DiskSource,
    /// Whether the machine starts from it. Several are tried in their order.
    pub boot: bool,
}

/// What an interface is plugged into.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Join {
    /// A bridge of this host's.
    Bridge {
        /// The bridge's name.
        name: String,
    },
    /// A network of the machine's own behind this host's address: it reaches out, and is reached by
    /// [`reach`](crate::Driver::reach) alone. Machines don't see each other there.
    User {
        /// The addresses in it, of version 4.
        #[serde(with = "text")]
        network: Cidr,
        /// The router's address in it; any free one when it is not given.
        router: Option<IpAddr>,
        /// The machine reaches nothing outside.
        isolated: bool,
    },
    /// Nothing: the interface is there and has no link.
    Nothing,
}

/// A network interface of a machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interface {
    /// Its hardware address.
    #[serde(with = "text")]
    pub mac: Mac,
    /// The address that the machine has there: given to it by DHCP where the driver can, known to whoever reaches it.
    pub address: Option<IpAddr>,
    /// What it is plugged into.
    pub join: Join,
}

/// A machine to start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    /// The run's name.
    pub id: RunId,
    /// The machine's name, for people.
    pub name: String,
    /// Virtual processors.
    pub cpus: u32,
    /// Memory.
    pub memory_mib: u64,
    /// What it starts with.
    pub firmware: Firmware,
    /// Its disks, in the order in which the machine sees them.
    pub disks: Vec<Disk>,
    /// Its interfaces, in the order in which the machine sees them.
    pub interfaces: Vec<Interface>,
}

impl Order {
    /// What is wrong with the order itself, whatever host it is for: a sentence each.
    #[must_use]
    pub fn faults(&self) -> Vec<String> {
        let name = &self.name;
        let mut faults = Vec::new();
        if self.cpus == 0 || self.memory_mib == 0 {
            faults.push(format!("machine {name}: it has no processor or no memory: give it at least one and 1 MiB"));
        }
        if !self.disks.iter().any(|disk| disk.boot) {
            faults.push(format!("machine {name}: it has no disk to boot from: mark one"));
        }
        for disk in &self.disks {
            let (DiskSource::File { path } | DiskSource::Nbd { socket: path, .. }) = &disk.source;
            if !path.is_absolute() || path.to_str().is_none() {
                let shown = path.display();
                faults.push(format!("machine {name}: the disk's path {shown} is not absolute, or no text in UTF-8"));
            }
        }
        let mut seen = BTreeSet::new();
        for (n, interface) in self.interfaces.iter().enumerate() {
            if !seen.insert(interface.mac) {
                faults.push(format!("machine {name}: two interfaces have the hardware address {}", interface.mac));
            }
            faults.extend(interface.faults().map(|fault| format!("machine {name}, interface {n}: {fault}")));
        }
        faults
    }
}

impl Interface {
    fn faults(&self) -> impl Iterator<Item = String> {
        let mut faults = Vec::new();
        if let Join::User { network, router, .. } = &self.join {
            for address in [*router, self.address].into_iter().flatten() {
                if !network.has_host(address) {
                    faults.push(format!("{address} is no host's address in its network {network}"));
                }
            }
            if router.is_some() && *router == self.address {
                faults.push("the machine and its router have one address".to_owned());
            }
        }
        faults.into_iter()
    }
}

/// Values as the text that people write for them.
mod text {
    use std::fmt::Display;
    use std::str::FromStr;

    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<T: Display, S: Serializer>(value: &T, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(value)
    }

    pub(super) fn deserialize<'de, T: FromStr<Err: Display>, D: Deserializer<'de>>(from: D) -> Result<T, D::Error> {
        String::deserialize(from)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A machine with something of everything.
    pub(crate) fn order(id: &str) -> Order {
        Order {
            id: id.parse().expect("sound"),
            name: "web".to_owned(),
            cpus: 2,
            memory_mib: 512,
            firmware: Firmware::Bios,
            disks: vec![
                Disk { source: DiskSource::File { path: "/srv/web.img".into() }, boot: true },
                Disk {
                    source: DiskSource::Nbd { socket: "/run/nbd.sock".into(), export: "web/data".to_owned() },
                    boot: false,
                },
            ],
            interfaces: vec![
                Interface {
                    mac: Mac::local([0, 0, 0, 0, 1]),
                    address: "10.20.0.5".parse().ok(),
                    join: Join::User {
                        network: "10.20.0.0/24".parse().expect("sound"),
                        router: "10.20.0.1".parse().ok(),
                        isolated: true,
                    },
                },
                Interface {
                    mac: Mac::local([0, 0, 0, 0, 2]),
                    address: "fd00::5".parse().ok(),
                    join: Join::Bridge { name: "br0".to_owned() },
                },
                Interface { mac: Mac::local([0, 0, 0, 0, 3]), address: None, join: Join::Nothing },
            ],
        }
    }

    #[test]
    fn the_json_of_an_order_is_what_the_guide_says() {
        let order = order("mach_1");
        let expected = serde_json::json!({
            "id": "mach_1", "name": "web", "cpus": 2, "memory_mib": 512, "firmware": "bios",
            "disks": [
                {"source": {"kind": "file", "path": "/srv/web.img"}, "boot": true},
                {"source": {"kind": "nbd", "socket": "/run/nbd.sock", "export": "web/data"}, "boot": false},
            ],
            "interfaces": [
                {"mac": "02:00:00:00:00:01", "address": "10.20.0.5",
                 "join": {"kind": "user", "network": "10.20.0.0/24", "router": "10.20.0.1", "isolated": true}},
                {"mac": "02:00:00:00:00:02", "address": "fd00::5", "join": {"kind": "bridge", "name": "br0"}},
                {"mac": "02:00:00:00:00:03", "address": null, "join": {"kind": "nothing"}},
            ],
        });
        assert_eq!(serde_json::to_value(&order).expect("JSON"), expected);
        let text = serde_json::to_string(&order).expect("JSON");
        assert_eq!(serde_json::from_str::<Order>(&text).expect("read back"), order);
        assert_eq!(order.faults(), Vec::<String>::new());
    }

    #[test]
    fn a_run_has_a_name_that_is_safe_as_a_files() {
        for sound in ["a", "mach_01.job-2", &"x".repeat(100)] {
            assert_eq!(sound.parse::<RunId>().expect(sound).as_str(), sound);
        }
        for wrong in ["", ".", "..", ".hidden", "a/b", "a b", "ä", &"x".repeat(101)] {
            assert!(wrong.parse::<RunId>().is_err(), "{wrong:?}");
            let json = serde_json::to_string(wrong).expect("JSON");
            assert!(serde_json::from_str::<RunId>(&json).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn an_order_that_no_host_can_fulfil_says_what_is_wrong() {
        let mut wrong = order("mach_1");
        wrong.cpus = 0;
        wrong.disks = vec![Disk { source: DiskSource::File { path: "web.img".into() }, boot: false }];
        for interface in &mut wrong.interfaces {
            interface.mac = Mac::local([9; 5]);
        }
        let [first, ..] = &mut wrong.interfaces[..] else { panic!("it has interfaces") };
        first.address = "10.21.0.5".parse().ok();
        let faults = wrong.faults();
        for part in ["no processor", "boot from", "not absolute", "two interfaces", "10.21.0.5 is no host's"] {
            assert!(faults.iter().any(|fault| fault.contains(part)), "{part}: {faults:?}");
        }
        let [first, ..] = &mut wrong.interfaces[..] else { panic!("it has interfaces") };
        first.address = "10.20.0.1".parse().ok();
        assert!(wrong.faults().iter().any(|fault| fault.contains("have one address")));
    }
}
