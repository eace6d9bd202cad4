//! `lifeboat network-mapping`: list, show, create, delete.

use std::str::FromStr;

use clap::{Args, Subcommand};
use lifeboat_api::{AddressRule, NetworkMapping, NetworkMappingSpec, SubnetMapping};

use super::declared::{self, Listed, Named, Names};
use crate::connect::ConnectionArgs;
use crate::failure::Result;
use crate::output::Output;
use crate::resolve;

/// Declare what becomes of a network's interfaces at another site.
#[derive(Args, Debug)]
pub(crate) struct NetworkMappingArgs {
    #[command(flatten)]
    connection: ConnectionArgs,
    #[command(subcommand)]
    verb: MappingVerb,
}

#[derive(Subcommand, Debug)]
enum MappingVerb {
    /// List the mappings
    List,
    /// Show one
    Show(Named),
    /// Declare a mapping, for one direction
    Create {
        /// The network that is left, by id, name or SITE/NAME
        #[arg(long, value_name = "NETWORK")]
        source: String,
        /// The network of another site that is joined
        #[arg(long, value_name = "NETWORK")]
        target: String,
        /// The network that tests join
        #[arg(long, value_name = "NETWORK")]
        test: Option<String>,
        /// A subnet of the source and what it becomes, where the names differ; may be repeated
        #[arg(long = "subnet", value_name = "SOURCE=TARGET")]
        subnets: Vec<Pair>,
        /// Which address an interface gets: keep-or-next-free or next-free
        #[arg(long, value_name = "RULE", default_value = "keep-or-next-free", value_parser = address_rule)]
        address_rule: AddressRule,
    },
    /// Delete a mapping
    Delete(Named),
}

/// Two subnets: `SOURCE=TARGET`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Pair(SubnetMapping);

impl FromStr for Pair {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('=') {
            Some((source, target)) if !source.is_empty() && !target.is_empty() => {
                Ok(Self(SubnetMapping { source: source.to_owned(), target: target.to_owned() }))
            }
            _ => Err("expected SOURCE=TARGET, the names of two subnets, for example db=data".to_owned()),
        }
    }
}

fn address_rule(text: &str) -> Result<AddressRule, String> {
    let found = AddressRule::ALL.into_iter().find(|rule| rule.as_str() == text);
    found.ok_or_else(|| "expected keep-or-next-free or next-free".to_owned())
}

impl Listed for NetworkMapping {
    const HEAD: &'static [&'static str] = &["NETWORKS", "TEST NETWORK", "SUBNETS", "ADDRESS", "ID"];
    const NAMED_BY: Option<&'static str> = Some("/v1/networks");

    fn cells(&self, names: &Names) -> Vec<String> {
        let spec = &self.spec;
        let subnets = spec.subnet.iter().map(|pair| format!("{} to {}", pair.source, pair.target));
        vec![
            self.status.name.clone(),
            spec.test_network_id.map(|id| names.of(id)).unwrap_or_default(),
            declared::joined(&subnets.collect::<Vec<_>>()),
            spec.address_rule.as_str().to_owned(),
            self.id.to_string(),
        ]
    }
}

pub(crate) async fn run(args: NetworkMappingArgs, output: Output) -> Result<()> {
    let client = args.connection.client()?;
    match args.verb {
        MappingVerb::List => declared::list::<NetworkMapping>(&client, output, "no network mapping is declared").await,
        MappingVerb::Show(named) => declared::show::<NetworkMapping>(&client, output, &named).await,
        MappingVerb::Create { source, target, test, subnets, address_rule } => {
            let test_network_id = match test {
                Some(test) => Some(resolve::network(&client, &test).await?.id),
                None => None,
            };
            let spec = NetworkMappingSpec {
                source_network_id: resolve::network(&client, &source).await?.id,
                target_network_id: resolve::network(&client, &target).await?.id,
                test_network_id,
                subnet: subnets.into_iter().map(|Pair(pair)| pair).collect(),
                address_rule,
            };
            declared::create::<NetworkMapping>(&client, output, &spec).await
        }
        MappingVerb::Delete(named) => declared::delete::<NetworkMapping>(&client, output, &named, "deleted").await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pair_is_source_and_target() {
        let pair = SubnetMapping { source: "db".into(), target: "data".into() };
        assert_eq!("db=data".parse(), Ok(Pair(pair)));
        for wrong in ["db", "=data", "db="] {
            assert!(wrong.parse::<Pair>().is_err(), "{wrong:?}");
        }
        assert_eq!(address_rule("next-free"), Ok(AddressRule::NextFree));
        assert!(address_rule("keep").is_err());
    }
}
