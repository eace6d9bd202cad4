//! `lifeboat_network_mapping`: what becomes of an interface when its machine fails over.

use lifeboat_api::{AddressRule, NetworkMapping, NetworkMappingSpec, SubnetMapping};
use tf_provider_sdk::{Attribute, Block, NestedBlock, Object, PlanChange, Schema, async_trait};

use super::{REPLACES, anchor, mention, short_timeouts};
use crate::declared::Kind;
use crate::link::Link;
use crate::mentions::Mention;
use crate::values::Values;

#[derive(Debug)]
pub(crate) struct NetworkMappingKind;

const RULES: [(&str, AddressRule); 2] = [
    (AddressRule::KeepOrNextFree.as_str(), AddressRule::KeepOrNextFree),
    (AddressRule::NextFree.as_str(), AddressRule::NextFree),
];

fn subnet_block() -> NestedBlock {
    let body = Block::new()
        .description(
            "Which subnet becomes which. A subnet of the source network that isn't named becomes the target's subnet of the same \
             name, which must be there. The order is kept.",
        )
        .attribute(
            Attribute::string("source")
                .required()
                .description("Name of a subnet of the source network, each at most once."),
        )
        .attribute(Attribute::string("target").required().description("Name of a subnet of the target network."));
    NestedBlock::list("subnet", body)
}

fn address_rule(values: &Values<'_>) -> AddressRule {
    let path = "address_rule";
    let text = values.required(path, AddressRule::default().as_str().to_owned());
    values.word(path, &text, &RULES).unwrap_or_default()
}

#[async_trait]
impl Kind for NetworkMappingKind {
    type Spec = NetworkMappingSpec;
    type View = NetworkMapping;
    const TYPE: &'static str = "lifeboat_network_mapping";
    const NOUN: &'static str = "network mapping";

    fn schema() -> Schema {
        Schema::new()
            .description(
                "What becomes of an interface in one network when its machine fails over to another site: the network that it \
                 joins there, and its address. A mapping is for one direction; a failback needs another, the other way round. A \
                 pair of networks has one mapping.",
            )
            .attribute(Attribute::id())
            .attribute(anchor("source_network_id", "The network that is left.", REPLACES))
            .attribute(anchor("target_network_id", "The network of another site that is joined.", REPLACES))
            .attribute(Attribute::string("test_network_id").optional().description(
                "The network at the target's site that tests join, an isolated one. A test is without a network when left out.",
            ))
            .attribute(Attribute::string("address_rule").default(AddressRule::default().as_str()).description(
                "Which address an interface gets: `keep-or-next-free`, the same host in the target subnet where the two are \
                 equally large and it is free, else the next free one; or `next-free`. Default: `keep-or-next-free`.",
            ))
            .block(subnet_block())
            .timeouts(short_timeouts())
    }

    fn spec(values: &Values<'_>) -> NetworkMappingSpec {
        let subnet = |block: &Values<'_>| SubnetMapping { source: block.name("source"), target: block.name("target") };
        NetworkMappingSpec {
            source_network_id: values.id("source_network_id", "net"),
            target_network_id: values.id("target_network_id", "net"),
            test_network_id: values.optional_id("test_network_id", "net"),
            subnet: values.blocks("subnet").iter().map(subnet).collect(),
            address_rule: address_rule(values),
        }
    }

    fn names(planned: &Object) -> Vec<Mention> {
        mention(planned, "test_network_id".to_owned()).into_iter().collect()
    }

    /// A recovery plan that is planned later finds where the network leads.
    fn announce(link: &Link, plan: &PlanChange) {
        if let (Some(_), Ok(source)) = (plan.planned(), plan.get::<String>("source_network_id")) {
            link.expect_mapping(source, plan.get("target_network_id").ok());
        }
    }

    fn describe(mapping: &NetworkMapping, state: &mut Object) {
        let spec = &mapping.spec;
        state.set("source_network_id", spec.source_network_id.to_string());
        state.set("target_network_id", spec.target_network_id.to_string());
        state.set("test_network_id", spec.test_network_id.map(|id| id.to_string()));
        state.set("address_rule", spec.address_rule.as_str());
        let subnets = spec.subnet.iter();
        let subnets = subnets.map(|subnet| Object::new().with("source", &subnet.source).with("target", &subnet.target));
        state.set("subnet", subnets.collect::<Vec<Object>>());
    }
}
