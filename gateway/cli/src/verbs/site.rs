//! `lifeboat site`: list, show, create, delete.

use clap::{Args, Subcommand};
use lifeboat_api::{Site, SiteSpec};

use super::declared::{self, Listed, Named, Names};
use crate::connect::ConnectionArgs;
use crate::failure::Result;
use crate::output::Output;
use crate::render::maybe;
use crate::resolve;

/// Declare sites: places that can lose everything at once.
#[derive(Args, Debug)]
pub(crate) struct SiteArgs {
    #[command(flatten)]
    connection: ConnectionArgs,
    #[command(subcommand)]
    verb: SiteVerb,
}

#[derive(Subcommand, Debug)]
enum SiteVerb {
    /// List the sites
    List,
    /// Show one
    Show(Named),
    /// Declare a site
    Create {
        /// Its name, unique in the vault
        #[arg(long)]
        name: String,
        /// The vault it belongs to, by id or name; the only one when left out
        #[arg(long)]
        vault: Option<String>,
        /// A text for people
        #[arg(long, value_name = "TEXT")]
        description: Option<String>,
    },
    /// Delete a site that has no gateways and no groups
    Delete(Named),
}

impl Listed for Site {
    const HEAD: &'static [&'static str] = &["NAME", "GATEWAYS", "DESCRIPTION", "ID"];

    fn cells(&self, _: &Names) -> Vec<String> {
        let gateways = self.status.gateway_ids.len().to_string();
        vec![self.spec.name.clone(), gateways, maybe(self.spec.description.as_ref()), self.id.to_string()]
    }
}

pub(crate) async fn run(args: SiteArgs, output: Output) -> Result<()> {
    let client = args.connection.client()?;
    match args.verb {
        SiteVerb::List => declared::list::<Site>(&client, output, "no site is declared").await,
        SiteVerb::Show(named) => declared::show::<Site>(&client, output, &named).await,
        SiteVerb::Create { name, vault, description } => {
            let vault_id = resolve::vault(&client, vault.as_deref()).await?.id;
            declared::create::<Site>(&client, output, &SiteSpec { vault_id, name, description }).await
        }
        SiteVerb::Delete(named) => declared::delete::<Site>(&client, output, &named, "deleted").await,
    }
}
