//! `lifeboat_network`: a network of a site, with its ranges of addresses.
//!
//! Subnets are ordered: the order of the blocks is the order in the API, both ways.

use lifeboat_api::{Client, ClientError, Machine, Network, NetworkMapping, NetworkSpec, Subnet};
use tf_provider_sdk::{Attribute, Block, NestedBlock, Object, Schema, async_trait};

use super::{REPLACES, anchor, short_timeouts};
use crate::declared::{Dependent, Kind, all};
use crate::values::Values;

#[derive(Debug)]
pub(crate) struct NetworkKind;

fn subnet_block() -> NestedBlock {
    let body = Block::new()
        .description("A range of addresses of the network. No two overlap; the order is kept.")
        .attribute(Attribute::string("name").required().description("1 to 64 characters, unique in the network."))
        .attribute(Attribute::string("cidr").required().description(
            "The range: its first address, a slash, and the bits that all of its addresses share, such as `10.20.0.0/24`.",
        ))
        .attribute(
            Attribute::string("gateway").optional().description("The address of the router, a host inside the range."),
        );
    NestedBlock::list("subnet", body)
}

fn subnet((index, block): (usize, &Values<'_>)) -> Subnet {
    // No range that anybody has, and another one for each block.
    let neutral = format!("2001:db8:{index:x}::/48");
    Subnet {
        name: block.name("name"),
        cidr: block.required("cidr", neutral),
        gateway: if block.is_unknown("cidr") { None } else { block.optional("gateway") },
    }
}

#[async_trait]
impl Kind for NetworkKind {
    type Spec = NetworkSpec;
    type View = Network;
    const TYPE: &'static str = "lifeboat_network";
    const NOUN: &'static str = "network";

    fn schema() -> Schema {
        Schema::new()
            .description(
                "A network of a site, which the interfaces of machines join. Where they come out when a machine fails over is said \
                 by a `lifeboat_network_mapping`.",
            )
            .attribute(Attribute::id())
            .attribute(anchor("site_id", "The site that the network is in.", REPLACES))
            .attribute(Attribute::string("name").required().description("1 to 64 characters, unique in the site."))
            .attribute(
                Attribute::string("bridge")
                    .optional()
                    .description("The bridge that interfaces join on the hosts of the site: 1 to 15 characters."),
            )
            .block(subnet_block())
            .timeouts(short_timeouts())
    }

    fn spec(values: &Values<'_>) -> NetworkSpec {
        NetworkSpec {
            site_id: values.id("site_id", "site"),
            name: values.name("name"),
            bridge: values.optional("bridge"),
            subnet: values.blocks("subnet").iter().enumerate().map(subnet).collect(),
        }
    }

    fn describe(network: &Network, state: &mut Object) {
        let spec = &network.spec;
        state.set("site_id", spec.site_id.to_string());
        state.set("name", &spec.name);
        state.set("bridge", spec.bridge.clone());
        let subnets = spec.subnet.iter().map(|subnet| {
            Object::new().with("name", &subnet.name).with("cidr", &subnet.cidr).with("gateway", subnet.gateway.clone())
        });
        state.set("subnet", subnets.collect::<Vec<Object>>());
    }

    const GOES_WHILE_NAMED: bool = true;

    async fn dependents(api: &Client, id: &str) -> Result<Vec<Dependent>, ClientError> {
        let mappings: Vec<NetworkMapping> = all(api).await?;
        let ends = |mapping: &&NetworkMapping| {
            [mapping.spec.source_network_id, mapping.spec.target_network_id].iter().any(|end| end.to_string() == id)
        };
        Ok(mappings.iter().filter(ends).map(|mapping| Dependent::new("network mapping", mapping)).collect())
    }

    async fn namers(api: &Client, id: &str) -> Result<Vec<Dependent>, ClientError> {
        let mappings: Vec<NetworkMapping> = all(api).await?;
        let machines: Vec<Machine> = all(api).await?;
        let tests = |mapping: &&NetworkMapping| mapping.spec.test_network_id.is_some_and(|test| test.to_string() == id);
        let inside =
            |machine: &&Machine| machine.spec.network_interface.iter().any(|one| one.network_id.to_string() == id);
        Ok(mappings
            .iter()
            .filter(tests)
            .map(|mapping| Dependent::new("network mapping", mapping))
            .chain(machines.iter().filter(inside).map(|machine| Dependent::new("machine", machine)))
            .collect())
    }
}
