//! A network that hosts of their own share, and what they let through on it.
//!
//! ```text
//! host ─ lan ─┐
//! host ─ lan ─┼─ bridge of this machine, with addresses of this machine's
//! host ─ lan ─┘
//! ```
//! Each host has a packet filter of its own (nftables), which drops what isn't named: see [`Rules`]. The hosts' other lines stay as
//! they are: this process reaches them by their `hand`. The network goes with its handle.

use std::fmt::Write as _;
use std::net::Ipv4Addr;

use anyhow::{Context, Result};

use crate::cleanup;
use crate::command::Run;
use crate::hosts::Host;

/// The interface of a host on the network.
const LAN: &str = "lan";

/// A network.
#[derive(Debug)]
pub struct Lan {
    bridge: String,
    network: [u8; 3],
    _remove: cleanup::Guard,
}

/// A host's place on a network.
#[derive(Debug)]
pub struct Port {
    host: Host,
    near: String,
    /// Its address there.
    pub address: Ipv4Addr,
}

/// What a host lets through on the network; everything else is dropped, both ways.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    /// TCP ports at which others may call.
    pub inbound: Vec<u16>,
    /// Whom it may call: address and TCP port.
    pub outbound: Vec<(Ipv4Addr, u16)>,
}

impl Lan {
    /// Makes one.
    ///
    /// # Errors
    /// This process may not, or `ip` is missing.
    pub fn new() -> Result<Self> {
        let [low, high, ..] = std::process::id().to_le_bytes();
        // Of the private ranges one that machines seldom have.
        let (bridge, network) = (format!("lbl{}", std::process::id()), [10, 192 | (high & 0x3f), low]);
        let doomed = bridge.clone();
        let remove = cleanup::defer(format!("remove the network {bridge}"), move || {
            if let Err(error) = ip(&["link", "del", &doomed]) {
                eprintln!("remove the network {doomed}: {error:#}");
            }
        });
        ip(&["link", "add", &bridge, "type", "bridge"])?;
        ip(&["link", "set", &bridge, "up"])?;
        Ok(Self { bridge, network, _remove: remove })
    }

    /// An address of this machine's on the network.
    ///
    /// # Errors
    /// It can't be had.
    pub fn here(&self, last: u8) -> Result<Ipv4Addr> {
        let address = self.address(last);
        ip(&["addr", "add", &format!("{address}/24"), "dev", &self.bridge])?;
        Ok(address)
    }

    /// Plugs a host in.
    ///
    /// # Errors
    /// It can't be.
    pub fn join(&self, host: &Host, last: u8) -> Result<Port> {
        let (near, address) = (format!("{}-{last}", self.bridge), self.address(last));
        ip(&["link", "add", &near, "type", "veth", "peer", "name", LAN, "netns", host.name()])?;
        ip(&["link", "set", &near, "master", &self.bridge, "up"])?;
        ip(&["-n", host.name(), "addr", "add", &format!("{address}/24"), "dev", LAN])?;
        ip(&["-n", host.name(), "link", "set", LAN, "up"])?;
        Ok(Port { host: host.clone(), near, address })
    }

    fn address(&self, last: u8) -> Ipv4Addr {
        let [one, two, three] = self.network;
        Ipv4Addr::new(one, two, three, last)
    }
}

impl Port {
    /// Has the host drop what isn't named, from now on.
    ///
    /// # Errors
    /// `nft` is missing, or this kernel filters no packets.
    pub fn filter(&self, rules: &Rules) -> Result<()> {
        let mut text = String::from(
            "table inet lifeboat {\n\
             chain inbound {\ntype filter hook input priority 0; policy drop;\n\
             iifname != \"lan\" accept\nct state established,related accept\n",
        );
        if !rules.inbound.is_empty() {
            let ports: Vec<String> = rules.inbound.iter().map(u16::to_string).collect();
            writeln!(text, "tcp dport {{ {} }} accept", ports.join(", "))?;
        }
        text.push_str(
            "}\nchain outbound {\ntype filter hook output priority 0; policy drop;\n\
             oifname != \"lan\" accept\nct state established,related accept\n",
        );
        for (address, port) in &rules.outbound {
            writeln!(text, "ip daddr {address} tcp dport {port} accept")?;
        }
        text.push_str("}\n}\n");
        let loaded = self.host.run("nft").args(["-f", "-"]).input(text).ok();
        loaded.map(drop).context("a host's packet filter needs nftables and a kernel that has it: run `make deps`")
    }

    /// Pulls the host's cable.
    ///
    /// # Errors
    /// It can't be.
    pub fn cut(&self) -> Result<()> {
        ip(&["link", "set", &self.near, "down"])
    }

    /// Plugs it in again.
    ///
    /// # Errors
    /// It can't be.
    pub fn mend(&self) -> Result<()> {
        ip(&["link", "set", &self.near, "up"])
    }

    /// Whether a connection from this host to an address comes up within a second.
    ///
    /// # Errors
    /// It can't be tried.
    pub fn reaches(&self, address: Ipv4Addr, port: u16) -> Result<bool> {
        let connect = format!("exec 3<>/dev/tcp/{address}/{port}");
        Ok(self.host.run("timeout").args(["1", "bash", "-c", &connect]).outcome()?.status.success())
    }
}

fn ip(args: &[&str]) -> Result<()> {
    Run::new("ip").args(args).ok().map(drop).context("a network of hosts needs root and iproute2: run `make deps`")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Listens on a host until it is dropped.
    struct Listener(std::process::Child);

    impl Listener {
        fn on(host: &Host, port: u16) -> Self {
            let script = format!(
                "import socket\ns=socket.create_server(('0.0.0.0',{port}))\nprint('up',flush=True)\nwhile True: s.accept()"
            );
            let (program, args) = host.inside("python3".as_ref(), vec!["-c".into(), script.into()]);
            let mut child =
                std::process::Command::new(program).args(args).stdout(std::process::Stdio::piped()).spawn().unwrap();
            let mut said = String::new();
            let output = child.stdout.as_mut().unwrap();
            std::io::BufRead::read_line(&mut std::io::BufReader::new(output), &mut said).unwrap();
            assert_eq!(said, "up\n");
            Self(child)
        }
    }

    impl Drop for Listener {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    #[test]
    fn a_host_lets_through_what_is_named_and_nothing_else() {
        let lan = Lan::new().unwrap();
        let (server, gateway) = (Host::new().unwrap(), Host::new().unwrap());
        let (server_port, gateway_port) = (lan.join(&server, 11).unwrap(), lan.join(&gateway, 12).unwrap());
        let _listeners = [Listener::on(&server, 22), Listener::on(&gateway, 9443), Listener::on(&gateway, 22)];
        assert!(gateway_port.reaches(server_port.address, 22).unwrap(), "nothing is filtered yet");
        server_port.filter(&Rules { inbound: vec![], outbound: vec![(gateway_port.address, 9443)] }).unwrap();
        assert!(!gateway_port.reaches(server_port.address, 22).unwrap(), "nobody calls a protected server");
        assert!(server_port.reaches(gateway_port.address, 9443).unwrap());
        assert!(!server_port.reaches(gateway_port.address, 22).unwrap(), "it calls no other port");
        gateway_port.filter(&Rules { inbound: vec![9443], outbound: vec![] }).unwrap();
        assert!(server_port.reaches(gateway_port.address, 9443).unwrap());
        gateway_port.cut().unwrap();
        assert!(!server_port.reaches(gateway_port.address, 9443).unwrap());
        gateway_port.mend().unwrap();
        assert!(server_port.reaches(gateway_port.address, 9443).unwrap());
    }
}
