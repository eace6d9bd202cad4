//! Networks and mappings as the API shows them.

use lifeboat_api::{Network, NetworkMapping, NetworkMappingSpec, NetworkMappingStatus, NetworkSpec, NetworkStatus};
use lifeboat_model::{NetworkId, SiteId};
use lifeboat_vault::{Document, VaultError};

use super::{id, ids, spec};
use crate::records::kind;
use crate::vaults::{AttachedVault, Snapshot};

/// A network by its id, as declared.
pub(crate) fn declared(snapshot: &Snapshot, network: NetworkId) -> Option<NetworkSpec> {
    snapshot.get(kind::NETWORKS, &network.to_string())?.spec_as().ok()
}

/// The name of a site.
pub(crate) fn site_name(snapshot: &Snapshot, site: SiteId) -> Option<String> {
    Some(snapshot.get(kind::SITES, &site.to_string())?.name.clone())
}

pub(crate) fn network(attached: &AttachedVault, document: &Document) -> Result<Network, VaultError> {
    let snapshot = attached.snapshot();
    let own: NetworkSpec = spec(document)?;
    let network: NetworkId = id(document)?;
    let touches = |mapping: &NetworkMappingSpec| {
        mapping.source_network_id == network
            || mapping.target_network_id == network
            || mapping.test_network_id == Some(network)
    };
    let mappings = snapshot.of(kind::MAPPINGS).iter();
    Ok(Network {
        id: network,
        generation: document.generation,
        created: document.created,
        updated: document.updated,
        status: NetworkStatus {
            site: site_name(&snapshot, own.site_id),
            mapping_ids: ids(mappings.filter(|mapping| mapping.spec_as().is_ok_and(|spec| touches(&spec)))),
        },
        spec: own,
    })
}

/// A network with its site, as in `onprem/servers`; its id when it isn't there.
fn with_site(snapshot: &Snapshot, network: NetworkId) -> String {
    let Some(spec) = declared(snapshot, network) else { return network.to_string() };
    let site = site_name(snapshot, spec.site_id).unwrap_or_else(|| spec.site_id.to_string());
    format!("{site}/{}", spec.name)
}

/// What people call a mapping.
pub(crate) fn mapping_name(snapshot: &Snapshot, spec: &NetworkMappingSpec) -> String {
    format!("{} to {}", with_site(snapshot, spec.source_network_id), with_site(snapshot, spec.target_network_id))
}

pub(crate) fn mapping(attached: &AttachedVault, document: &Document) -> Result<NetworkMapping, VaultError> {
    let snapshot = attached.snapshot();
    let own: NetworkMappingSpec = spec(document)?;
    let site = |network| declared(&snapshot, network).map(|spec| spec.site_id);
    Ok(NetworkMapping {
        id: id(document)?,
        generation: document.generation,
        created: document.created,
        updated: document.updated,
        status: NetworkMappingStatus {
            name: mapping_name(&snapshot, &own),
            source_site_id: site(own.source_network_id),
            target_site_id: site(own.target_network_id),
        },
        spec: own,
    })
}
