//! Where the interfaces of machines come out: at home, at another site, in a test.
//!
//! At home an interface is where its declaration says. At another site the mapping of its network says which network it
//! joins, which subnet its subnet becomes, and whether it keeps its place there; an address that something else has already is never
//! given twice. A test joins the mapping's network for tests, or none.
//!
//! It is decided once, when a job is written down: what comes up again after a crash is the same.

use std::collections::BTreeSet;
use std::net::IpAddr;

use lifeboat_api::{AddressRule, MachineSpec, NetworkInterface, NetworkMappingSpec, NetworkSpec, Subnet};
use lifeboat_model::{Cidr, MachineId, NetworkId, SiteId};

use crate::records::{Placed, RecoveryRecord, kind, status};
use crate::vaults::Snapshot;
use crate::view;

/// Where machines are to come up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Destination {
    /// Where they are declared.
    Home,
    /// In the networks of another site.
    Site(SiteId),
    /// In its networks for tests.
    Test(SiteId),
}

/// Gives places to the interfaces of machines, so that no two have the same address.
#[derive(Debug)]
pub(crate) struct Places<'a> {
    snapshot: &'a Snapshot,
    taken: BTreeSet<(NetworkId, IpAddr)>,
}

impl<'a> Places<'a> {
    /// Everything that has an address already, but for the machines that are to move.
    pub(crate) fn new(snapshot: &'a Snapshot, movers: &BTreeSet<MachineId>) -> Self {
        let mut taken = BTreeSet::new();
        let parsed = |text: &Option<String>| text.as_ref().and_then(|text| text.parse::<IpAddr>().ok());
        for (_, spec) in view::machines(snapshot) {
            let declared = spec.network_interface.iter();
            taken.extend(declared.filter_map(|one| Some((one.network_id, parsed(&one.address)?))));
        }
        for document in [kind::MACHINES, kind::PLANS].into_iter().flat_map(|kind| snapshot.of(kind)) {
            let record: RecoveryRecord = status(document);
            let tests = record.tests.into_iter().flat_map(|test| test.machines);
            let runs = record.run.into_iter().filter(|run| !movers.contains(&run.machine_id)).chain(tests);
            taken.extend(runs.flat_map(|run| run.interfaces).filter_map(|one| {
                let address = parsed(&one.address)?;
                Some((one.network_id?, address))
            }));
        }
        Self { snapshot, taken }
    }

    /// Where a machine's interfaces come out, in their order, and what is missing for that: a mapping, a subnet, an address
    /// that is free. An interface that can't be placed joins nothing.
    pub(crate) fn of(&mut self, machine: MachineId, spec: &MachineSpec, to: Destination) -> (Vec<Placed>, Vec<String>) {
        let mut missing = Vec::new();
        let mut placed = Vec::new();
        for (one, mac) in spec.network_interface.iter().zip(view::macs(machine, spec)) {
            let mac = mac.to_string();
            let found = match to {
                Destination::Home => self.at_home(one, mac.clone()),
                Destination::Site(site) => self.away(one, mac.clone(), site, false),
                Destination::Test(site) => self.away(one, mac.clone(), site, true),
            };
            placed.push(found.unwrap_or_else(|why| {
                missing.push(format!("the machine {}: {why}", spec.name));
                nowhere(mac)
            }));
        }
        (placed, missing)
    }

    fn at_home(&self, one: &NetworkInterface, mac: String) -> Result<Placed, String> {
        let network = self.network(one.network_id)?;
        Ok(joined(one.network_id, &network, mac, one.address.as_ref().and_then(|text| text.parse().ok())))
    }

    fn away(&mut self, one: &NetworkInterface, mac: String, site: SiteId, test: bool) -> Result<Placed, String> {
        let source = self.network(one.network_id)?;
        let mapping = self.mapping(one.network_id, site);
        let joins = match (&mapping, test) {
            (Some(mapping), true) => mapping.test_network_id,
            (Some(mapping), false) => Some(mapping.target_network_id),
            (None, true) => None,
            (None, false) => {
                let site = view::site_name(self.snapshot, site).unwrap_or_else(|| site.to_string());
                return Err(format!(
                    "its network {} has no mapping to a network of the site {site}: declare one",
                    source.name
                ));
            }
        };
        let (Some(mapping), Some(joins)) = (mapping, joins) else {
            return Ok(nowhere(mac));
        };
        let target = self.network(joins)?;
        let own = one.address.as_ref().and_then(|text| text.parse::<IpAddr>().ok());
        let said = one.test_address.as_ref().filter(|_| test).and_then(|text| text.parse::<IpAddr>().ok());
        let address = match (said, own) {
            (Some(said), _) => Some(said),
            (None, Some(own)) => Some(self.address(own, &source, joins, &target, &mapping)?),
            (None, None) => None,
        };
        if let Some(address) = address {
            self.taken.insert((joins, address));
        }
        Ok(joined(joins, &target, mac, address))
    }

    /// The address in the network that is joined.
    fn address(
        &self,
        own: IpAddr,
        source: &NetworkSpec,
        joins: NetworkId,
        target: &NetworkSpec,
        mapping: &NetworkMappingSpec,
    ) -> Result<IpAddr, String> {
        let from = source
            .subnet_of(own)
            .ok_or_else(|| format!("its address {own} lies in no subnet of the network {}", source.name))?;
        let named = mapping.subnet.iter().find(|pair| pair.source == from.name).map(|pair| pair.target.as_str());
        let wanted = named.unwrap_or(&from.name);
        // A network for tests has subnets of its own; where it has only one, there is nothing to choose.
        let into = match (target.subnet.iter().find(|subnet| subnet.name == wanted), target.subnet.as_slice()) {
            (Some(subnet), _) => subnet,
            (None, [only]) if Some(joins) == mapping.test_network_id => only,
            _ => {
                return Err(format!(
                    "the subnet {} of its network {} becomes none of the network {}: name one in the mapping",
                    from.name, source.name, target.name
                ));
            }
        };
        let range = |subnet: &Subnet| subnet.cidr.parse::<Cidr>().map_err(|error| error.to_string());
        let (from, range) = (range(from)?, range(into)?);
        let router = into.gateway.as_ref().and_then(|text| text.parse::<IpAddr>().ok());
        let is_free = |address: &IpAddr| Some(*address) != router && !self.taken.contains(&(joins, *address));
        let same = range.counterpart(&from, own).filter(|address| range.has_host(*address));
        let kept = same.filter(|address| mapping.address_rule == AddressRule::KeepOrNextFree && is_free(address));
        kept.or_else(|| range.hosts().find(is_free))
            .ok_or_else(|| format!("every address of the subnet {} of the network {} is taken", into.name, target.name))
    }

    fn network(&self, id: NetworkId) -> Result<NetworkSpec, String> {
        view::declared_network(self.snapshot, id).ok_or_else(|| format!("there is no network {id} any more"))
    }

    fn mapping(&self, from: NetworkId, site: SiteId) -> Option<NetworkMappingSpec> {
        let all = self.snapshot.of(kind::MAPPINGS).iter().filter_map(|document| document.spec_as().ok());
        all.filter(|mapping: &NetworkMappingSpec| mapping.source_network_id == from).find(|mapping| {
            view::declared_network(self.snapshot, mapping.target_network_id)
                .is_some_and(|target| target.site_id == site)
        })
    }
}

/// An interface without a link.
const fn nowhere(mac: String) -> Placed {
    Placed { network: None, mac, bridge: None, cidr: None, router: None, address: None }
}

fn joined(id: NetworkId, network: &NetworkSpec, mac: String, address: Option<IpAddr>) -> Placed {
    let subnet = match address {
        Some(address) => network.subnet_of(address),
        None => network.subnet.first(),
    };
    Placed {
        network: Some(id),
        mac,
        bridge: network.bridge.clone(),
        cidr: subnet.map(|subnet| subnet.cidr.clone()),
        router: subnet.and_then(|subnet| subnet.gateway.clone()),
        address: address.map(|address| address.to_string()),
    }
}
