//! Networks of sites, and what becomes of an interface when its machine moves from one site to another.

use lifeboat_model::{NetworkId, NetworkMappingId, SiteId};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::resource;

/// A network as declared.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NetworkSpec {
    /// The site it is in. Cannot be changed.
    #[schema(value_type = String)]
    pub site_id: SiteId,
    /// 1 to 64 characters, unique in the site.
    pub name: String,
    /// The bridge that the interfaces of machines join, on the hosts of the site: 1 to 15 characters, as the kernel takes
    /// them.
    #[serde(default)]
    pub bridge: Option<String>,
    /// Its ranges of addresses; no two overlap. The order is kept.
    #[serde(default)]
    pub subnet: Vec<Subnet>,
}

/// A range of addresses of a network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Subnet {
    /// 1 to 64 characters, unique in the network.
    pub name: String,
    /// The range: its first address, a slash, and the bits that all of its addresses share, as in `10.20.0.0/24`.
    pub cidr: String,
    /// The address of the router, inside the range.
    #[serde(default)]
    pub gateway: Option<String>,
}

/// A network as observed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NetworkStatus {
    /// The name of its site.
    pub site: Option<String>,
    /// The mappings that begin or end at it, or test in it.
    #[schema(value_type = Vec<String>)]
    pub mapping_ids: Vec<NetworkMappingId>,
}

resource! {
    /// A network of a site.
    Network, NetworkId, NetworkSpec, NetworkStatus
}

/// Which address an interface gets in the target network.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum AddressRule {
    /// The same host in the target subnet, where the two are equally large; else, or where it is taken, the next free one.
    #[default]
    KeepOrNextFree,
    /// The next free one.
    NextFree,
}

impl AddressRule {
    /// Every rule.
    pub const ALL: [Self; 2] = [Self::KeepOrNextFree, Self::NextFree];

    /// The word on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::KeepOrNextFree => "keep-or-next-free",
            Self::NextFree => "next-free",
        }
    }
}

/// A mapping as declared: an interface in the source network joins the target network when its machine fails over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NetworkMappingSpec {
    /// The network that is left. Cannot be changed.
    #[schema(value_type = String)]
    pub source_network_id: NetworkId,
    /// The network of another site that is joined; a pair has one mapping. Cannot be changed.
    #[schema(value_type = String)]
    pub target_network_id: NetworkId,
    /// The network at the target site that is joined by tests; a test without is without a network.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    pub test_network_id: Option<NetworkId>,
    /// Which subnet becomes which. A subnet of the source that isn't named becomes the target's subnet of the same name.
    /// The order is kept.
    #[serde(default)]
    pub subnet: Vec<SubnetMapping>,
    /// Which address an interface gets.
    #[serde(default)]
    pub address_rule: AddressRule,
}

/// A subnet of the source network and what it becomes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SubnetMapping {
    /// Name of a subnet of the source network; each at most once.
    pub source: String,
    /// Name of a subnet of the target network.
    pub target: String,
}

/// A mapping as observed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NetworkMappingStatus {
    /// What people call it: the two networks with their sites, as in `onprem/servers to recovery/servers`.
    pub name: String,
    /// The site that is left.
    #[schema(value_type = Option<String>)]
    pub source_site_id: Option<SiteId>,
    /// The site that is reached.
    #[schema(value_type = Option<String>)]
    pub target_site_id: Option<SiteId>,
}

resource! {
    /// What becomes of a network's interfaces at another site.
    NetworkMapping, NetworkMappingId, NetworkMappingSpec, NetworkMappingStatus, status
}
