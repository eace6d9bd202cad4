//! Who answers on a bridge when a machine asks for its address.
//!
//! Where the host itself has an address on a bridge, the gateway gives the machines that it started there the addresses
//! that their orders say: one listener for each bridge, which knows no other clients and keeps nothing. What a machine
//! gets is read from its order at each question, so a gateway that was restarted answers as the one before. Who has
//! no listener on a bridge (no address there, somebody else's server on its port) leaves addresses to that network.
//!
//! The router that a machine is told of is the host's own, when the host's default route leads over that bridge, and the
//! host, when that forwards; otherwise none.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use lifeboat_model::{Cidr, Mac};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::UdpSocket;
use tokio::task::AbortHandle;

use super::dhcp::{Lease, Question};
use super::network::ip;
use crate::runs::Runs;
use crate::{Join, Order};

const SERVER_PORT: u16 = 67;
const CLIENT_PORT: u16 = 68;
/// Longer than any message that is worth reading.
const MESSAGE_BYTES: usize = 2048;

/// The listeners of one driver, by bridge. They end with it.
#[derive(Debug, Default)]
pub(super) struct Leases(Arc<Mutex<HashMap<String, AbortHandle>>>);

impl Leases {
    /// Listens on the bridges of this order, unless that was tried already; `again` tries those that failed once more.
    pub(super) fn serve(&self, order: &Order, runs: &Runs, again: bool) {
        let mut served = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for interface in &order.interfaces {
            let (Join::Bridge { name }, Some(IpAddr::V4(_))) = (&interface.join, interface.address) else { continue };
            if served.get(name).is_some_and(|task| !(again && task.is_finished())) {
                continue;
            }
            let (bridge, runs) = (name.clone(), runs.clone());
            let task = tokio::spawn(async move {
                let Err(error) = listen(&bridge, &runs).await;
                tracing::info!(bridge, %error, "machines on this bridge get no addresses from this gateway");
            });
            served.insert(name.clone(), task.abort_handle());
        }
    }
}

impl Drop for Leases {
    fn drop(&mut self) {
        for (_, task) in self.0.lock().unwrap_or_else(PoisonError::into_inner).drain() {
            task.abort();
        }
    }
}

/// Answers on a bridge until that can't be done any more.
async fn listen(bridge: &str, runs: &Runs) -> io::Result<std::convert::Infallible> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
    // Before the port: on each bridge there may be another.
    socket.bind_device(Some(bridge.as_bytes()))?;
    socket.set_broadcast(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, SERVER_PORT)).into())?;
    let socket = UdpSocket::from_std(socket.into())?;
    let mut message = vec![0; MESSAGE_BYTES];
    loop {
        let (length, _) = socket.recv_from(&mut message).await?;
        let Some(question) = message.get(..length).and_then(Question::read) else { continue };
        let Some(address) = address_of(runs.clone(), bridge.to_owned(), question.mac).await else { continue };
        let Some(lease) = lease(bridge, address).await else { continue };
        let Some((answer, to)) = question.answer(&lease) else { continue };
        match socket.send_to(&answer, (to, CLIENT_PORT)).await {
            Ok(_) => tracing::debug!(bridge, mac = %question.mac, %address, "a machine was told its address"),
            Err(error) => tracing::warn!(bridge, mac = %question.mac, %error, "a machine can't be told its address"),
        }
    }
}

/// The address of the interface on this bridge that has this hardware address, if one of our machines has it.
async fn address_of(runs: Runs, bridge: String, mac: Mac) -> Option<Ipv4Addr> {
    let look = move || {
        let orders = runs.list().ok()?.into_iter().filter_map(|id| runs.order(&id).ok().flatten());
        let interfaces = orders.flat_map(|order| order.interfaces);
        let mut own = interfaces.filter(|one| one.mac == mac && one.join == Join::Bridge { name: bridge.clone() });
        match own.next()?.address? {
            IpAddr::V4(address) => Some(address),
            IpAddr::V6(_) => None,
        }
    };
    tokio::task::spawn_blocking(look).await.ok().flatten()
}

/// What a machine with this address needs to know of the bridge's network; nothing when the host isn't in it.
async fn lease(bridge: &str, address: Ipv4Addr) -> Option<Lease> {
    let addresses = ip(&["-4", "-o", "addr", "show", "dev", bridge]).await.ok()?;
    let (server, mask) = network_of(&addresses, address)?;
    let routes = ip(&["-4", "-o", "route", "show", "default", "dev", bridge]).await.unwrap_or_default();
    let forwards = std::fs::read_to_string("/proc/sys/net/ipv4/ip_forward").is_ok_and(|text| text.trim() == "1");
    let router = default_router(&routes).or(forwards.then_some(server));
    Some(Lease { address, mask, router, server })
}

/// The host's address and the mask in the network that a machine's address lies in.
fn network_of(addresses: &str, machine: Ipv4Addr) -> Option<(Ipv4Addr, Ipv4Addr)> {
    for line in addresses.lines() {
        let mut words = line.split_whitespace().skip_while(|word| *word != "inet").skip(1);
        let Some((host, prefix)) = words.next().and_then(|word| word.split_once('/')) else { continue };
        let (Ok(host), Ok(prefix)) = (host.parse::<Ipv4Addr>(), prefix.parse::<u32>()) else { continue };
        let mask = Ipv4Addr::from(u32::MAX.checked_shl(32_u32.saturating_sub(prefix)).unwrap_or(0));
        let first = Ipv4Addr::from(u32::from(host) & u32::from(mask));
        let network: Option<Cidr> = format!("{first}/{prefix}").parse().ok();
        if machine != host && network.is_some_and(|network| network.has_host(IpAddr::V4(machine))) {
            return Some((host, mask));
        }
    }
    None
}

/// The router of a default route, as `ip` shows it.
fn default_router(routes: &str) -> Option<Ipv4Addr> {
    let mut words = routes.lines().next()?.split_whitespace().skip_while(|word| *word != "via").skip(1);
    words.next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_is_in_the_network_that_the_host_has_there() {
        let shown = "5: br0    inet 192.168.7.1/30 brd 192.168.7.3 scope global br0\\       valid_lft forever\n\
                     5: br0    inet 10.30.1.1/20 scope global secondary br0\\       valid_lft forever\n";
        let find = |machine: &str| network_of(shown, machine.parse().expect("sound"));
        let expected = ("10.30.1.1".parse().expect("sound"), "255.255.240.0".parse().expect("sound"));
        assert_eq!(find("10.30.15.17"), Some(expected));
        for outside in ["10.30.16.17", "10.30.1.1", "10.30.15.255", "192.168.7.3"] {
            assert_eq!(find(outside), None, "{outside}");
        }
        assert_eq!(network_of("", Ipv4Addr::LOCALHOST), None);
        assert_eq!(default_router("default via 10.30.0.254 proto static \n"), "10.30.0.254".parse().ok());
        assert_eq!(default_router("default scope link\n"), None);
        assert_eq!(default_router(""), None);
    }
}
