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
    /// The network that every interface joins in a test, whatever the mappings say.
    test_network: Option<NetworkId>,
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
        Self { snapshot, taken, test_network: None }
    }

    /// In a test every interface joins this network, whatever the mappings say.
    pub(crate) const fn testing_in(mut self, network: Option<NetworkId>) -> Self {
        self.test_network = network;
        self
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
        let mapping = match self.test_network.filter(|_| test) {
            Some(joins) => Some(into_test(one.network_id, joins)),
            None => self.mapping(one.network_id, site),
        };
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

/// A mapping for tests that nobody declared: from a network to another, subnets by their names.
fn into_test(from: NetworkId, joins: NetworkId) -> NetworkMappingSpec {
    NetworkMappingSpec {
        source_network_id: from,
        target_network_id: joins,
        test_network_id: Some(joins),
        subnet: Vec::new(),
        address_rule: AddressRule::default(),
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use lifeboat_api::{Firmware, InterfaceRun, MachineRun, SubnetMapping};
    use lifeboat_model::{GatewayId, GroupId, NetworkMappingId, Timestamp};
    use lifeboat_vault::Document;
    use serde::Serialize;

    use super::*;

    fn document(kind: &str, id: String, spec: &impl Serialize, status: &impl Serialize) -> Arc<Document> {
        Arc::new(Document {
            kind: kind.to_owned(),
            id,
            revision: 1,
            generation: 1,
            name: kind.to_owned(),
            created: Timestamp::now(),
            updated: Timestamp::now(),
            deleted: false,
            spec: serde_json::to_value(spec).expect("plain"),
            status: serde_json::to_value(status).expect("plain"),
        })
    }

    /// Two sites, networks at both, a mapping, and machines at the first.
    struct World {
        home: SiteId,
        away: SiteId,
        source: NetworkId,
        target: NetworkId,
        networks: Vec<Arc<Document>>,
        mappings: Vec<Arc<Document>>,
        machines: Vec<Arc<Document>>,
    }

    fn network(site: SiteId, name: &str, subnets: &[(&str, &str, Option<&str>)]) -> (NetworkId, Arc<Document>) {
        let id = NetworkId::new();
        let subnet = |(name, cidr, gateway): &(&str, &str, Option<&str>)| Subnet {
            name: (*name).to_owned(),
            cidr: (*cidr).to_owned(),
            gateway: gateway.map(str::to_owned),
        };
        let spec = NetworkSpec {
            site_id: site,
            name: name.to_owned(),
            bridge: None,
            subnet: subnets.iter().map(subnet).collect(),
        };
        (id, document(kind::NETWORKS, id.to_string(), &spec, &serde_json::json!({})))
    }

    impl World {
        fn new(target: &[(&str, &str, Option<&str>)], rule: AddressRule, subnet: Vec<SubnetMapping>) -> Self {
            let (home, away) = (SiteId::new(), SiteId::new());
            let (source, from) = network(home, "servers", &[("web", "10.20.0.0/24", Some("10.20.0.1"))]);
            let (target, to) = network(away, "servers", target);
            let (tests, isolated) = network(away, "tests", &[("only", "10.40.0.0/29", None)]);
            let mapping = NetworkMappingSpec {
                source_network_id: source,
                target_network_id: target,
                test_network_id: Some(tests),
                subnet,
                address_rule: rule,
            };
            let id = NetworkMappingId::new().to_string();
            let mapping = document(kind::MAPPINGS, id, &mapping, &serde_json::json!({}));
            let networks = vec![from, to, isolated];
            Self { home, away, source, target, networks, mappings: vec![mapping], machines: Vec::new() }
        }

        fn machine(&mut self, address: Option<&str>, run: Option<(NetworkId, &str)>) -> (MachineId, MachineSpec) {
            let id = MachineId::new();
            let spec = MachineSpec {
                site_id: self.home,
                name: "web".into(),
                group_id: GroupId::new(),
                cpus: 1,
                memory_mib: 64,
                firmware: Firmware::Bios,
                disk: Vec::new(),
                network_interface: vec![NetworkInterface {
                    network_id: self.source,
                    mac: None,
                    address: address.map(str::to_owned),
                    test_address: None,
                }],
                target: None,
            };
            let run = run.map(|(network, address)| MachineRun {
                machine_id: id,
                name: "web".into(),
                gateway_id: GatewayId::new(),
                since: Timestamp::now(),
                interfaces: vec![InterfaceRun {
                    network_id: Some(network),
                    mac: "02:00:00:00:00:01".into(),
                    address: Some(address.to_owned()),
                }],
            });
            let record = RecoveryRecord { run, ..RecoveryRecord::default() };
            self.machines.push(document(kind::MACHINES, id.to_string(), &spec, &record));
            (id, spec)
        }

        fn snapshot(&self) -> Snapshot {
            Snapshot::with([
                (kind::NETWORKS, self.networks.clone()),
                (kind::MAPPINGS, self.mappings.clone()),
                (kind::MACHINES, self.machines.clone()),
            ])
        }
    }

    /// The addresses that machines get one after the other; what is missing where they get none.
    fn addresses(world: &World, machines: &[&(MachineId, MachineSpec)], to: Destination) -> Vec<String> {
        let snapshot = world.snapshot();
        let mut places = Places::new(&snapshot, &machines.iter().map(|(id, _)| *id).collect());
        let mut found = Vec::new();
        for (id, spec) in machines {
            let (placed, missing) = places.of(*id, spec, to);
            found.push(missing.first().cloned().or_else(|| placed[0].address.clone()).unwrap_or_default());
        }
        found
    }

    #[test]
    fn an_address_keeps_its_place_where_it_can_and_is_never_given_twice() {
        let subnets = [("web", "10.30.0.0/24", Some("10.30.0.1"))];
        let mut world = World::new(&subnets, AddressRule::KeepOrNextFree, Vec::new());
        let target = world.target;
        let kept = world.machine(Some("10.20.0.15"), None);
        let router = world.machine(Some("10.20.0.1"), None);
        // Another machine runs where this one would come out.
        world.machine(None, Some((target, "10.30.0.16")));
        let taken = world.machine(Some("10.20.0.16"), None);
        let silent = world.machine(None, None);
        let found = addresses(&world, &[&kept, &router, &taken, &silent], Destination::Site(world.away));
        assert_eq!(found, ["10.30.0.15", "10.30.0.2", "10.30.0.3", ""]);
        assert_eq!(addresses(&world, &[&kept], Destination::Home), ["10.20.0.15"]);
    }

    #[test]
    fn a_smaller_subnet_gives_what_is_free_until_nothing_is() {
        let subnets = [("dmz", "10.30.0.0/30", None), ("web", "10.31.0.0/24", None)];
        let to = vec![SubnetMapping { source: "web".into(), target: "dmz".into() }];
        let mut world = World::new(&subnets, AddressRule::NextFree, to);
        let machines: Vec<_> = (11..14).map(|host| world.machine(Some(&format!("10.20.0.{host}")), None)).collect();
        let found = addresses(&world, &machines.iter().collect::<Vec<_>>(), Destination::Site(world.away));
        assert_eq!(found[..2], ["10.30.0.1", "10.30.0.2"]);
        assert!(found[2].contains("every address of the subnet dmz"), "{found:?}");
    }

    #[test]
    fn a_machine_that_moves_again_may_have_its_own_address_again() {
        let mut world = World::new(&[("web", "10.30.0.0/24", None)], AddressRule::KeepOrNextFree, Vec::new());
        let target = world.target;
        let away = world.machine(Some("10.20.0.15"), Some((target, "10.30.0.15")));
        assert_eq!(addresses(&world, &[&away], Destination::Site(world.away)), ["10.30.0.15"]);
    }

    #[test]
    fn what_leads_nowhere_is_said_and_joins_nothing() {
        let mut world = World::new(&[("db", "10.30.0.0/24", None)], AddressRule::KeepOrNextFree, Vec::new());
        let machine = world.machine(Some("10.20.0.15"), None);
        let found = addresses(&world, &[&machine], Destination::Site(world.away));
        assert!(found[0].contains("the subnet web") && found[0].contains("name one in the mapping"), "{found:?}");
        // A test's only subnet needs no name.
        assert_eq!(addresses(&world, &[&machine], Destination::Test(world.away)), ["10.40.0.1"]);
        world.mappings.clear();
        let found = addresses(&world, &[&machine], Destination::Site(world.away));
        assert!(found[0].contains("no mapping to a network of the site"), "{found:?}");
        let snapshot = world.snapshot();
        let (placed, missing) =
            Places::new(&snapshot, &BTreeSet::new()).of(machine.0, &machine.1, Destination::Test(world.away));
        assert_eq!((placed[0].network, missing.len()), (None, 0), "a test without a network has none");
    }
}
