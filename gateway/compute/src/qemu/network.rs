//! A machine's interfaces: taps on the host's bridges, and networks of its own behind QEMU's user-mode stack.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::Stdio;
use std::time::Duration;

use lifeboat_model::Cidr;

use crate::{Interface, Join, RunId};

/// Longest that `ip` may take.
const IP_LIMIT: Duration = Duration::from_secs(10);

/// The addresses of a network of the machine's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct UserNetwork {
    pub(super) network: Cidr,
    pub(super) router: Ipv4Addr,
    pub(super) names: Ipv4Addr,
    /// What the machine gets by DHCP.
    pub(super) machine: Ipv4Addr,
    pub(super) isolated: bool,
}

impl UserNetwork {
    /// The network that an interface is plugged into, if it is one of the machine's own.
    pub(super) fn of(interface: &Interface) -> Option<Result<Self, String>> {
        let Join::User { network, router, isolated } = &interface.join else { return None };
        Some(Self::plan(*network, *router, interface.address, *isolated))
    }

    fn plan(network: Cidr, router: Option<IpAddr>, machine: Option<IpAddr>, isolated: bool) -> Result<Self, String> {
        let of_version_4 = |address: IpAddr| match address {
            IpAddr::V4(address) => Ok(address),
            IpAddr::V6(_) => Err(format!("{address}: a network of a machine's own has addresses of version 4 only")),
        };
        let first = u32::from(of_version_4(network.first())?);
        let mut taken: Vec<Ipv4Addr> =
            [router, machine].into_iter().flatten().map(of_version_4).collect::<Result<_, _>>()?;
        // Three are needed, and at most two are taken before.
        let mut free = move |given: Option<IpAddr>| {
            if let Some(IpAddr::V4(given)) = given {
                return Ok(given);
            }
            let hosts = (1..8).map(|n| Ipv4Addr::from(first.saturating_add(n)));
            let found = hosts.into_iter().find(|host| network.has_host(IpAddr::V4(*host)) && !taken.contains(host));
            let found =
                found.ok_or_else(|| format!("{network} has no room for a machine, a router and a name server"))?;
            taken.push(found);
            Ok::<_, String>(found)
        };
        Ok(Self { network, router: free(router)?, machine: free(machine)?, names: free(None)?, isolated })
    }
}

/// The name of a run's tap: at most 15 bytes, the same at every start.
pub(super) fn tap(id: &RunId, interface: usize) -> String {
    // FNV-1a: short, the same for ever, and nobody gains by a collision, which the kernel refuses.
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for byte in id.as_str().bytes().chain([b'/']).chain(interface.to_string().into_bytes()) {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    format!("lb{:012x}", hash & 0xffff_ffff_ffff)
}

/// Plugs a tap into a bridge and takes it up. QEMU's end of a tap goes with QEMU, and the tap and its place in the
/// bridge with it: there is nothing to clean up.
pub(super) async fn plug(tap: &str, bridge: &str) -> Result<(), String> {
    ip(&["link", "set", "dev", tap, "master", bridge]).await?;
    ip(&["link", "set", "dev", tap, "up"]).await.map(|_| ())
}

/// Whether there is a bridge of that name, and why not.
pub(super) async fn bridge(name: &str) -> Result<(), String> {
    let found = ip(&["-o", "link", "show", "dev", name, "type", "bridge"]).await;
    let make = format!("make it (ip link add {name} type bridge) or name another one");
    match found {
        Ok(line) if line.trim().is_empty() => Err(format!("{name} is no bridge: {make}")),
        Ok(_) => Ok(()),
        Err(error) => Err(format!("the bridge {name} can't be used ({error}): {make}")),
    }
}

/// Runs `ip`, and returns what it prints.
pub(super) async fn ip(arguments: &[&str]) -> Result<String, String> {
    let shown = arguments.join(" ");
    let run = tokio::process::Command::new("ip").args(arguments).stdin(Stdio::null()).kill_on_drop(true).output();
    let ended = tokio::time::timeout(IP_LIMIT, run).await;
    let ended = ended.map_err(|_| format!("ip {shown} took longer than {IP_LIMIT:?}"))?;
    let ended = ended.map_err(|error| format!("ip can't be run: {error}: install iproute2"))?;
    if ended.status.success() {
        return Ok(String::from_utf8_lossy(&ended.stdout).into_owned());
    }
    Err(format!("ip {shown}: {}", String::from_utf8_lossy(&ended.stderr).trim()))
}

/// Where a forward to a port of a machine listens, in what `info usernet` says.
pub(super) fn forwarded(said: &str, netdev: &str, machine: Ipv4Addr, port: u16) -> Option<SocketAddr> {
    let mut of_netdev = false;
    for line in said.lines() {
        if line.starts_with("Hub ") {
            of_netdev = line.contains(&format!("({netdev})"));
        }
        let fields: Vec<&str> = line.split_whitespace().collect();
        if let ["TCP[HOST_FORWARD]", _, from, from_port, to, to_port, ..] = fields[..]
            && of_netdev
            && to.parse() == Ok(machine)
            && to_port.parse() == Ok(port)
        {
            return Some(SocketAddr::new(from.parse().ok()?, from_port.parse().ok()?));
        }
    }
    None
}

/// Whether a connection through the forward at `there` to a port of a machine was taken by the machine. QEMU takes it itself
/// before it asks the machine.
pub(super) fn taken(said: &str, there: SocketAddr, machine: Ipv4Addr, port: u16) -> bool {
    said.lines().any(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        matches!(fields[..], ["TCP[ESTABLISHED]", _, from, from_port, to, to_port, ..]
            if from.parse() == Ok(there.ip())
                && from_port.parse() == Ok(there.port())
                && to.parse() == Ok(machine)
                && to_port.parse() == Ok(port))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(network: &str, router: &str, machine: &str) -> Result<[String; 3], String> {
        let network = network.parse().expect(network);
        let plan = UserNetwork::plan(network, router.parse().ok(), machine.parse().ok(), false)?;
        Ok([plan.router, plan.machine, plan.names].map(|address| address.to_string()))
    }

    #[test]
    fn a_network_of_its_own_has_an_address_for_each() {
        for (network, router, machine, expected) in [
            ("10.20.0.0/24", "10.20.0.254", "10.20.0.1", ["10.20.0.254", "10.20.0.1", "10.20.0.2"]),
            ("10.20.0.0/24", "", "10.20.0.1", ["10.20.0.2", "10.20.0.1", "10.20.0.3"]),
            ("10.20.0.0/29", "", "", ["10.20.0.1", "10.20.0.2", "10.20.0.3"]),
        ] {
            assert_eq!(plan(network, router, machine), Ok(expected.map(str::to_owned)), "{network} {router} {machine}");
        }
        assert!(plan("10.20.0.0/30", "", "").expect_err("two hosts").contains("no room"));
        assert!(plan("fd00::/64", "", "").expect_err("version 6").contains("version 4 only"));
    }

    #[test]
    fn taps_have_names_that_the_kernel_takes() {
        let id: RunId = "x".repeat(100).parse().expect("sound");
        let names = [tap(&id, 0), tap(&id, 1), tap(&"y".parse().expect("sound"), 0)];
        assert!(names.iter().all(|name| name.len() <= 15), "{names:?}");
        assert!(names[0] != names[1] && names[0] != names[2], "{names:?}");
    }

    #[test]
    fn a_forward_is_found_in_what_qemu_says() {
        let said = "Hub -1 (net0):\r\n  Protocol[State]    FD  Source Address  Port   Dest. Address  Port RecvQ SendQ\r\n  \
                    TCP[HOST_FORWARD]  14       127.0.0.1 40013       10.0.2.15    80     0     0\r\nHub -1 (net1):\r\n  \
                    TCP[HOST_FORWARD]  15       127.0.0.1 40014       10.0.2.15    22     0     0\r\n  \
                    TCP[ESTABLISHED]   16       127.0.0.1 40014       10.0.2.15    81     0     0\r\n";
        let find = |netdev, port| forwarded(said, netdev, Ipv4Addr::new(10, 0, 2, 15), port);
        assert_eq!(find("net0", 80), "127.0.0.1:40013".parse().ok());
        assert_eq!(find("net1", 22), "127.0.0.1:40014".parse().ok());
        assert_eq!([find("net1", 80), find("net0", 22), find("net1", 81)], [None; 3]);
    }

    #[test]
    fn a_connection_counts_once_the_machine_has_taken_it() {
        let there = "127.0.0.1:36873".parse().expect("an address");
        let machine = Ipv4Addr::new(10, 20, 0, 17);
        let line = |state: &str| format!("Hub 0 (n0):\n  {state}  12  127.0.0.1 36873  10.20.0.17  80  0  0\n");
        assert!(taken(&line("TCP[ESTABLISHED]"), there, machine, 80));
        for state in ["TCP[HOST_FORWARD]", "TCP[SYN_SENT]", "TCP[CLOSED]"] {
            assert!(!taken(&line(state), there, machine, 80), "{state}");
        }
        assert!(!taken(&line("TCP[ESTABLISHED]"), there, machine, 22));
    }
}
