//! QEMU's command line for an order: pure, so that a test sees all of it.
//!
//! The machine is a plain PC of the `q35` kind with virtio disks and interfaces, a VGA screen, and its first serial
//! port in a file. Whatever holds text of others (paths, export names) is given as JSON, in which a comma means nothing.
//! Paths of the run's own are relative: QEMU works in the run's directory.
//!
//! A disk whose storage fails or is full stops the machine (`werror=stop,rerror=stop`), for files and NBD alike: a
//! guest that is told of an error makes its file system read-only or gives the data up, one that stands still goes on
//! when the storage is back. An NBD server may be away for [`RECONNECT_SECONDS`] before that, in which requests wait.

use std::ffi::OsString;
use std::net::Ipv4Addr;

use serde_json::{Value, json};

use super::host::{Acceleration, UefiFiles};
use super::network::{UserNetwork, tap};
use super::process::PID_FILE;
use super::qmp::SOCKET;
use crate::{DiskSource, Join, Order};

/// In a run's directory: what the machine says on its serial port.
pub(super) const CONSOLE: &str = "console.log";
/// In a run's directory: the machine's own UEFI variables.
pub(super) const VARIABLES: &str = "uefi-variables.fd";
/// How long requests wait for an NBD server that went away: longer than a restart of the gateway takes.
const RECONNECT_SECONDS: u32 = 300;

/// What was found out about one disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct DiskFacts {
    /// A block device, not a file.
    pub(super) device: bool,
    /// It can be read past the page cache.
    pub(super) direct: bool,
}

/// What else the command line depends on.
#[derive(Debug)]
pub(super) struct Facts<'a> {
    pub(super) acceleration: Acceleration,
    /// For a machine with UEFI.
    pub(super) uefi: Option<&'a UefiFiles>,
    /// For each disk that is a file, by its place.
    pub(super) disks: &'a [Option<DiskFacts>],
}

/// Processors that a machine gets: an emulated one gets one, because two crash now and then.
pub(super) const fn processors(order: &Order, acceleration: Acceleration) -> u32 {
    match acceleration {
        Acceleration::Kvm => order.cpus,
        Acceleration::Emulated => 1,
    }
}

/// The network device's name, for QEMU's commands.
pub(super) fn netdev(interface: usize) -> String {
    format!("net{interface}")
}

/// The device's name.
pub(super) fn nic(interface: usize) -> String {
    format!("nic{interface}")
}

/// All arguments. The machine waits for a command before it runs.
///
/// # Errors
/// A sentence about an interface that can't be made.
pub(super) fn arguments(order: &Order, facts: &Facts<'_>) -> Result<Vec<OsString>, String> {
    let mut line = Line::default();
    line.option("-name", format!("guest={}", order.name.replace(',', ",,")));
    line.option("-pidfile", PID_FILE);
    let (accel, cpu) = match facts.acceleration {
        Acceleration::Kvm => ("kvm", "host"),
        Acceleration::Emulated => ("tcg,tb-size=512", "max"),
    };
    line.option("-accel", accel);
    line.option("-cpu", cpu);
    line.option("-smp", processors(order, facts.acceleration).to_string());
    line.option("-m", format!("size={}M", order.memory_mib));
    let machine = if let Some(uefi) = facts.uefi {
        line.blockdev(&json!({"driver": "file", "node-name": "uefi-code", "filename": uefi.code, "read-only": true}));
        line.blockdev(&json!({"driver": "file", "node-name": "uefi-variables", "filename": VARIABLES}));
        "q35,pflash0=uefi-code,pflash1=uefi-variables"
    } else {
        "q35"
    };
    line.option("-machine", machine);
    for flag in ["-nodefaults", "-no-user-config", "-S"] {
        line.0.push(flag.into());
    }
    line.option("-display", "none");
    line.option("-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny");
    line.option("-msg", "timestamp=on");
    line.option("-rtc", "base=utc");
    // Nobody would wake it.
    line.option("-global", "ICH9-LPC.disable_s3=1");
    line.option("-global", "ICH9-LPC.disable_s4=1");
    line.option("-boot", "strict=on");
    line.option("-chardev", format!("socket,id=qmp,path={SOCKET},server=on,wait=off"));
    line.option("-mon", "chardev=qmp,mode=control");
    line.option("-chardev", format!("file,id=console,path={CONSOLE},append=on"));
    line.option("-serial", "chardev:console");
    line.option("-device", "VGA");
    line.option("-object", "rng-random,id=rng,filename=/dev/urandom");
    line.option("-device", "virtio-rng-pci,rng=rng");
    let mut boot = 0;
    for (n, disk) in order.disks.iter().enumerate() {
        let known = facts.disks.get(n).copied().flatten();
        let (from, node) = (format!("source{n}"), format!("disk{n}"));
        line.blockdev(&source(&from, &disk.source, known));
        line.blockdev(&self::disk(&node, &from));
        let mut device = format!("virtio-blk-pci,id={},drive={node},werror=stop,rerror=stop", device(n));
        if disk.boot {
            device.push_str(&format!(",bootindex={boot}"));
            boot += 1;
        }
        line.option("-device", device);
    }
    for (n, interface) in order.interfaces.iter().enumerate() {
        let mut device = format!("virtio-net-pci,id={},mac={},romfile=", nic(n), interface.mac);
        if let Some(network) = UserNetwork::of(interface) {
            let network = network.map_err(|error| format!("machine {}, interface {n}: {error}", order.name))?;
            line.option("-netdev", user_netdev(n, &network));
            device.push_str(&format!(",netdev={}", netdev(n)));
        } else if let Join::Bridge { .. } = &interface.join {
            let tap = tap(&order.id, n);
            line.option("-netdev", format!("tap,id={},ifname={tap},script=no,downscript=no", netdev(n)));
            device.push_str(&format!(",netdev={}", netdev(n)));
        }
        line.option("-device", device);
    }
    Ok(line.0)
}

/// The name of a disk's device.
pub(super) fn device(n: usize) -> String {
    format!("vd{n}")
}

/// A disk as a node of QEMU's, over the node that its bytes come from.
pub(super) fn disk(name: &str, source: &str) -> Value {
    json!({"driver": "raw", "node-name": name, "file": source, "discard": "unmap", "detect-zeroes": "off"})
}

/// Where a disk's bytes come from, as a node of QEMU's.
pub(super) fn source(name: &str, from: &DiskSource, known: Option<DiskFacts>) -> Value {
    match from {
        DiskSource::File { path } => {
            let known = known.unwrap_or(DiskFacts { device: false, direct: false });
            let driver = if known.device { "host_device" } else { "file" };
            json!({"driver": driver, "node-name": name, "filename": path, "aio": "threads", "discard": "unmap",
                "cache": {"direct": known.direct}})
        }
        DiskSource::Nbd { socket, export } => json!({"driver": "nbd", "node-name": name,
            "server": {"type": "unix", "path": socket}, "export": export, "reconnect-delay": RECONNECT_SECONDS,
            "discard": "unmap"}),
    }
}

fn user_netdev(n: usize, network: &UserNetwork) -> String {
    let UserNetwork { network, router, names, machine, isolated } = network;
    let [router, names, machine]: [&Ipv4Addr; 3] = [router, names, machine];
    let restrict = if *isolated { "on" } else { "off" };
    let id = netdev(n);
    format!("user,id={id},ipv6=off,net={network},host={router},dns={names},dhcpstart={machine},restrict={restrict}")
}

/// A command line that grows.
#[derive(Debug, Default)]
struct Line(Vec<OsString>);

impl Line {
    fn option(&mut self, name: &str, value: impl Into<OsString>) {
        self.0.extend([name.into(), value.into()]);
    }

    fn blockdev(&mut self, node: &Value) {
        self.option("-blockdev", node.to_string());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Firmware;
    use crate::order::tests::order;

    fn line(order: &Order, facts: &Facts<'_>) -> Vec<String> {
        let arguments = arguments(order, facts).expect("sound");
        arguments.into_iter().map(|argument| argument.into_string().expect("text")).collect()
    }

    #[test]
    fn an_order_becomes_the_machine_that_it_describes() {
        let mut order = order("mach_1");
        order.name = "web, 2".to_owned();
        let disks = [Some(DiskFacts { device: false, direct: true }), None];
        let line = line(&order, &Facts { acceleration: Acceleration::Kvm, uefi: None, disks: &disks });
        let after = |option: &str| -> Vec<&str> {
            let pairs = line.windows(2).filter(|pair| pair[0] == option);
            pairs.map(|pair| pair[1].as_str()).collect()
        };
        assert_eq!(after("-smp"), ["2"]);
        assert_eq!(after("-m"), ["size=512M"]);
        assert_eq!(after("-name"), ["guest=web,, 2"]);
        assert_eq!(after("-machine"), ["q35"]);
        let tap = tap(&order.id, 1);
        assert_eq!(
            after("-netdev"),
            [
                "user,id=net0,ipv6=off,net=10.20.0.0/24,host=10.20.0.1,dns=10.20.0.2,dhcpstart=10.20.0.5,restrict=on",
                &format!("tap,id=net1,ifname={tap},script=no,downscript=no"),
            ]
        );
        let devices = after("-device");
        let disks: Vec<_> = devices.iter().filter(|device| device.starts_with("virtio-blk")).collect();
        assert_eq!(
            disks,
            [
                &"virtio-blk-pci,id=vd0,drive=disk0,werror=stop,rerror=stop,bootindex=0",
                &"virtio-blk-pci,id=vd1,drive=disk1,werror=stop,rerror=stop"
            ]
        );
        assert_eq!(devices.last(), Some(&"virtio-net-pci,id=nic2,mac=02:00:00:00:00:03,romfile="), "no link");
        let nodes: Vec<Value> =
            after("-blockdev").iter().map(|node| serde_json::from_str(node).expect("JSON")).collect();
        assert_eq!(nodes[0]["cache"]["direct"], true);
        assert_eq!(nodes[2]["server"]["path"], "/run/nbd.sock");
        assert_eq!(nodes[2]["reconnect-delay"], 300);
    }

    #[test]
    fn uefi_brings_its_flash_and_emulation_has_one_processor() {
        let mut order = order("mach_1");
        order.firmware = Firmware::Uefi;
        let uefi = UefiFiles { code: "/code.fd".into(), variables: "/vars.fd".into() };
        let line = line(&order, &Facts { acceleration: Acceleration::Emulated, uefi: Some(&uefi), disks: &[] });
        assert!(line.iter().any(|argument| argument.contains("pflash0=uefi-code")), "{line:?}");
        assert!(
            line.iter().any(|argument| argument.contains("/code.fd") && argument.contains("read-only")),
            "{line:?}"
        );
        assert!(line.windows(2).any(|pair| pair == ["-smp", "1"]), "{line:?}");
    }
}
