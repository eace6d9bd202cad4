//! `lifeboat network`: list, show, create, delete.

use std::str::FromStr;

use clap::{Args, Subcommand};
use lifeboat_api::{Network, NetworkSpec, Site, Subnet};

use super::declared::{self, Listed, Named, Names};
use crate::connect::ConnectionArgs;
use crate::failure::Result;
use crate::output::Output;
use crate::render::{self, maybe};
use crate::resolve::{self, find};

/// Declare networks: what the interfaces of machines join.
#[derive(Args, Debug)]
pub(crate) struct NetworkArgs {
    #[command(flatten)]
    connection: ConnectionArgs,
    #[command(subcommand)]
    verb: NetworkVerb,
}

#[derive(Subcommand, Debug)]
enum NetworkVerb {
    /// List the networks
    List,
    /// Show one, by id, name or SITE/NAME
    Show(Named),
    /// Declare a network
    Create {
        /// Its name, unique in the site
        #[arg(long)]
        name: String,
        /// The site it is in, by id or name
        #[arg(long)]
        site: String,
        /// The bridge that interfaces join on the hosts of the site
        #[arg(long)]
        bridge: Option<String>,
        /// A range of addresses and its router: web=10.20.0.0/24 or web=10.20.0.0/24,10.20.0.1; may be repeated
        #[arg(long = "subnet", value_name = "NAME=CIDR[,ROUTER]")]
        subnets: Vec<Range>,
    },
    /// Delete a network that no mapping and no machine uses
    Delete(Named),
}

/// A subnet: `NAME=CIDR[,ROUTER]`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Range(Subnet);

impl FromStr for Range {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('=') {
            Some((name, rest)) if !name.is_empty() && !rest.is_empty() => {
                let (cidr, gateway) = match rest.split_once(',') {
                    Some((cidr, router)) => (cidr, Some(router.to_owned())),
                    None => (rest, None),
                };
                Ok(Self(Subnet { name: name.to_owned(), cidr: cidr.to_owned(), gateway }))
            }
            _ => Err("expected NAME=CIDR or NAME=CIDR,ROUTER, for example web=10.20.0.0/24,10.20.0.1".to_owned()),
        }
    }
}

impl Listed for Network {
    const HEAD: &'static [&'static str] = &["NAME", "SITE", "BRIDGE", "SUBNETS", "ID"];

    fn cells(&self, _: &Names) -> Vec<String> {
        let spec = &self.spec;
        let subnets: Vec<String> =
            spec.subnet.iter().map(|subnet| format!("{} {}", subnet.name, subnet.cidr)).collect();
        vec![
            spec.name.clone(),
            maybe(self.status.site.as_ref()),
            maybe(spec.bridge.as_ref()),
            declared::joined(&subnets),
            self.id.to_string(),
        ]
    }
}

pub(crate) async fn run(args: NetworkArgs, output: Output) -> Result<()> {
    let client = args.connection.client()?;
    match args.verb {
        NetworkVerb::List => declared::list::<Network>(&client, output, "no network is declared").await,
        NetworkVerb::Show(named) => {
            let network = resolve::network(&client, &named.target).await?;
            output.show(&network, || render::resource(&network))
        }
        NetworkVerb::Create { name, site, bridge, subnets } => {
            let site_id = find::<Site>(&client, &site).await?.id;
            let subnet = subnets.into_iter().map(|Range(subnet)| subnet).collect();
            declared::create::<Network>(&client, output, &NetworkSpec { site_id, name, bridge, subnet }).await
        }
        NetworkVerb::Delete(named) => {
            let target = resolve::network(&client, &named.target).await?.id.to_string();
            declared::delete::<Network>(&client, output, &Named { target }, "deleted").await
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subnet_may_have_a_router() {
        let subnet = |gateway| Range(Subnet { name: "web".into(), cidr: "10.20.0.0/24".into(), gateway });
        assert_eq!("web=10.20.0.0/24".parse(), Ok(subnet(None)));
        assert_eq!("web=10.20.0.0/24,10.20.0.1".parse(), Ok(subnet(Some("10.20.0.1".into()))));
        for wrong in ["10.20.0.0/24", "=10.20.0.0/24", "web=", ""] {
            assert!(wrong.parse::<Range>().is_err(), "{wrong:?}");
        }
    }
}
