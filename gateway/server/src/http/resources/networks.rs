//! Networks and network mappings.
//!
//! A mapping is kept whole: a network doesn't lose a subnet that a mapping names, and a mapping has a target for every
//! subnet of its source.

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;

use async_trait::async_trait;
use lifeboat_api::{MachineSpec, Network, NetworkMapping, NetworkMappingSpec, NetworkSpec};
use lifeboat_model::{MachineId, NetworkId, NetworkMappingId};
use lifeboat_vault::{Document, VaultError};

use super::{ApiError, ApiResult, Kind, fixed, machines, referred, same_vault};
use crate::context::Context;
use crate::records::kind;
use crate::vaults::{AttachedVault, Snapshot};
use crate::view;

/// See [`Network`].
#[derive(Debug)]
pub(crate) struct Networks;

/// The mappings that begin or end at a network, or test in it.
fn mappings_at<'a>(
    snapshot: &'a Snapshot,
    network: &'a str,
) -> impl Iterator<Item = (&'a Arc<Document>, NetworkMappingSpec)> {
    let mappings = snapshot.of(kind::MAPPINGS).iter();
    mappings.filter_map(|document| Some((document, document.spec_as::<NetworkMappingSpec>().ok()?))).filter(
        move |(_, spec)| {
            let ends = [Some(spec.source_network_id), Some(spec.target_network_id), spec.test_network_id];
            ends.iter().flatten().any(|end| end.to_string() == network)
        },
    )
}

/// The machines that have an interface in a network.
fn machines_in(snapshot: &Snapshot, network: &str) -> impl Iterator<Item = (MachineId, MachineSpec)> {
    view::machines(snapshot)
        .filter(move |(_, machine)| machine.network_interface.iter().any(|one| one.network_id.to_string() == network))
}

/// The addresses that machines have in a network, with the machine's name.
fn addresses_in(snapshot: &Snapshot, network: &str) -> Vec<(String, IpAddr)> {
    let mut found = Vec::new();
    for (_, machine) in machines_in(snapshot, network) {
        let here = machine.network_interface.iter().filter(|one| one.network_id.to_string() == network);
        let addresses = here.filter_map(|one| one.address.as_ref()?.parse().ok());
        found.extend(addresses.map(|address| (machine.name.clone(), address)));
    }
    found
}

#[async_trait]
impl Kind for Networks {
    const KIND: &'static str = kind::NETWORKS;
    const WHAT: &'static str = "network";
    const CLASHES: bool = true;
    type Spec = NetworkSpec;
    type View = Network;

    fn id(bytes: [u8; 16]) -> String {
        NetworkId::from_bytes(bytes).to_string()
    }
    fn name(spec: &NetworkSpec) -> Cow<'_, str> {
        (&spec.name).into()
    }
    fn view(_: &Context, vault: &AttachedVault, document: &Document) -> Result<Network, VaultError> {
        view::network(vault, document)
    }

    /// A name is taken within its site.
    async fn namesake(vault: &AttachedVault, id: &str, spec: &NetworkSpec) -> ApiResult<Option<Arc<Document>>> {
        let snapshot = vault.snapshot();
        let site = spec.site_id.to_string();
        let mut of_site = view::referring(&snapshot, kind::NETWORKS, "site_id", &site);
        Ok(of_site.find(|other| other.name == spec.name && other.id != id).cloned())
    }

    async fn admit(context: &Context, spec: &NetworkSpec) -> ApiResult<Arc<AttachedVault>> {
        Ok(referred(context, kind::SITES, "site_id", "site", &spec.site_id).await?.0)
    }

    async fn admit_change(
        _: &Context,
        vault: &AttachedVault,
        id: &str,
        old: &NetworkSpec,
        new: &NetworkSpec,
    ) -> ApiResult<()> {
        fixed("site_id", &old.site_id, &new.site_id)?;
        let snapshot = vault.snapshot();
        for (_, mapping) in mappings_at(&snapshot, id) {
            let end = |network: NetworkId| {
                if network.to_string() == id { Some(new.clone()) } else { view::declared_network(&snapshot, network) }
            };
            let (Some(source), Some(target)) = (end(mapping.source_network_id), end(mapping.target_network_id)) else {
                continue;
            };
            if let Err((_, message)) = whole(&mapping, &source, &target) {
                let name = view::mapping_name(&snapshot, &mapping);
                let message = format!("can't be so while the mapping {name} needs it otherwise: {message}");
                return Err(ApiError::conflict_at("subnet", message));
            }
        }
        for (machine, address) in addresses_in(&snapshot, id) {
            if let Err(message) = view::place(new, address) {
                let message = format!("can't be so while the machine {machine} is there: {message}");
                return Err(ApiError::conflict_at("subnet", message));
            }
        }
        Ok(())
    }

    /// Machines that nothing is under way with, and mappings whose tests join it, lack it and say so.
    const WHILE_NAMED: Option<fn(&AttachedVault, &Document) -> Vec<String>> = Some(|vault, document| {
        let snapshot = vault.snapshot();
        let ends = mappings_at(&snapshot, &document.id).filter(|(_, mapping)| {
            [mapping.source_network_id, mapping.target_network_id].iter().any(|end| end.to_string() == document.id)
        });
        let moving = machines::within(&snapshot, &document.id).filter(|found| machines::moves(&snapshot, found));
        ends.map(|(mapping, spec)| format!("network mapping {} ({})", view::mapping_name(&snapshot, &spec), mapping.id))
            .chain(moving.map(|one| format!("machine {} ({}), which is under way or away from home", one.name, one.id)))
            .chain(super::drills::that_need(&snapshot, &document.id))
            .collect()
    });

    fn blockers(vault: &AttachedVault, document: &Document) -> Vec<String> {
        let snapshot = vault.snapshot();
        let mappings = mappings_at(&snapshot, &document.id);
        mappings
            .map(|(mapping, spec)| format!("network mapping {} ({})", view::mapping_name(&snapshot, &spec), mapping.id))
            .chain(machines_in(&snapshot, &document.id).map(|(id, machine)| format!("machine {} ({id})", machine.name)))
            .chain(super::drills::that_need(&snapshot, &document.id))
            .collect()
    }
}

/// See [`NetworkMapping`].
#[derive(Debug)]
pub(crate) struct Mappings;

/// Whether every subnet of the source has its subnet of the target: else the field that is to blame, and why.
fn whole(mapping: &NetworkMappingSpec, source: &NetworkSpec, target: &NetworkSpec) -> Result<(), (String, String)> {
    let has = |network: &NetworkSpec, name: &str| network.subnet.iter().any(|subnet| subnet.name == name);
    let names = |network: &NetworkSpec| {
        let names: Vec<&str> = network.subnet.iter().map(|subnet| subnet.name.as_str()).collect();
        if names.is_empty() { "it has none".to_owned() } else { format!("there are {}", names.join(", ")) }
    };
    for (index, pair) in mapping.subnet.iter().enumerate() {
        for (field, name, network) in [("source", &pair.source, source), ("target", &pair.target, target)] {
            if !has(network, name) {
                let message = format!("{name:?} is no subnet of the network {}; {}", network.name, names(network));
                return Err((format!("subnet[{index}].{field}"), message));
            }
        }
    }
    let missing = source
        .subnet
        .iter()
        .find(|subnet| !mapping.subnet.iter().any(|pair| pair.source == subnet.name) && !has(target, &subnet.name));
    match missing {
        None => Ok(()),
        Some(subnet) => {
            let message = format!(
                "must say what becomes of the subnet {:?}: the network {} has none of that name; {}",
                subnet.name,
                target.name,
                names(target)
            );
            Err(("subnet".to_owned(), message))
        }
    }
}

/// Whether the ends of a mapping are where they have to be, and fit.
fn fits(snapshot: &Snapshot, spec: &NetworkMappingSpec) -> ApiResult<()> {
    let network = |field: &str, id: NetworkId| {
        view::declared_network(snapshot, id).ok_or_else(|| ApiError::field(field, format!("there is no network {id}")))
    };
    let source = network("source_network_id", spec.source_network_id)?;
    let target = network("target_network_id", spec.target_network_id)?;
    if source.site_id == target.site_id {
        return Err(ApiError::field(
            "target_network_id",
            format!("must be a network of another site: {} and {} are of the same", source.name, target.name),
        ));
    }
    if let Some(test) = spec.test_network_id {
        let test = network("test_network_id", test)?;
        if test.site_id != target.site_id {
            return Err(ApiError::field(
                "test_network_id",
                format!("must be a network of the target's site, and {} is of another", test.name),
            ));
        }
    }
    whole(spec, &source, &target).map_err(|(field, message)| ApiError::field(&field, message))
}

#[async_trait]
impl Kind for Mappings {
    const KIND: &'static str = kind::MAPPINGS;
    const WHAT: &'static str = "network mapping";
    const CLASHES: bool = true;
    type Spec = NetworkMappingSpec;
    type View = NetworkMapping;

    fn id(bytes: [u8; 16]) -> String {
        NetworkMappingId::from_bytes(bytes).to_string()
    }

    /// The pair, so that each has one mapping.
    fn name(spec: &NetworkMappingSpec) -> Cow<'_, str> {
        format!("{} {}", spec.source_network_id, spec.target_network_id).into()
    }
    fn called(vault: &AttachedVault, document: &Document) -> String {
        let spec = document.spec_as::<NetworkMappingSpec>();
        spec.map_or_else(|_| document.name.clone(), |spec| view::mapping_name(&vault.snapshot(), &spec))
    }
    fn view(_: &Context, vault: &AttachedVault, document: &Document) -> Result<NetworkMapping, VaultError> {
        view::mapping(vault, document)
    }

    async fn admit(context: &Context, spec: &NetworkMappingSpec) -> ApiResult<Arc<AttachedVault>> {
        let network = async |field: &str, id: NetworkId| referred(context, kind::NETWORKS, field, "network", &id).await;
        let (vault, _) = network("source_network_id", spec.source_network_id).await?;
        let others = [("target_network_id", Some(spec.target_network_id)), ("test_network_id", spec.test_network_id)];
        for (field, id) in others {
            if let Some(id) = id {
                same_vault(field, &vault, &network(field, id).await?.0)?;
            }
        }
        Ok(vault)
    }

    async fn prepare(vault: &AttachedVault, _: &str, spec: &NetworkMappingSpec) -> ApiResult<()> {
        fits(&vault.snapshot(), spec)
    }

    async fn namesake(vault: &AttachedVault, id: &str, spec: &NetworkMappingSpec) -> ApiResult<Option<Arc<Document>>> {
        let snapshot = vault.snapshot();
        let name = Self::name(spec);
        let Some(other) = snapshot.of(Self::KIND).iter().find(|other| other.name == name && other.id != id) else {
            return Ok(None);
        };
        let message = format!(
            "has a mapping from source_network_id already: {} ({})",
            view::mapping_name(&snapshot, spec),
            other.id
        );
        Err(ApiError::conflict_at("target_network_id", message))
    }

    async fn admit_change(
        _: &Context,
        vault: &AttachedVault,
        _: &str,
        old: &NetworkMappingSpec,
        new: &NetworkMappingSpec,
    ) -> ApiResult<()> {
        fixed("source_network_id", &old.source_network_id, &new.source_network_id)?;
        fixed("target_network_id", &old.target_network_id, &new.target_network_id)?;
        fits(&vault.snapshot(), new)
    }
}
