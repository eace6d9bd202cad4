//! `lifeboat group`: list, show, create, delete. Moving a group is in [`super::failover`].

use clap::{Args, Subcommand};
use lifeboat_api::{AppConsistency, Client, Group, GroupSpec, Policy, Site, default_hook_timeout};

use super::declared::{self, Listed, Named, Names};
use crate::connect::ConnectionArgs;
use crate::failure::Result;
use crate::output::Output;
use crate::render::{self, maybe};
use crate::resolve::{self, find};

/// Declare consistency groups: volumes that share one write order.
#[derive(Args, Debug)]
pub(crate) struct GroupArgs {
    #[command(flatten)]
    connection: ConnectionArgs,
    #[command(subcommand)]
    verb: GroupVerb,
}

#[derive(Subcommand, Debug)]
enum GroupVerb {
    /// List the groups
    List,
    /// Show one, by id or name, or by one of its volumes
    Show(Named),
    /// Declare a group
    Create {
        /// Its name, unique in the vault
        #[arg(long)]
        name: String,
        /// The site where it is at home, by id or name
        #[arg(long)]
        site: String,
        /// The policy that governs it, by id or name
        #[arg(long)]
        policy: String,
        /// Program in the gateways' directory of hooks that runs before an application-consistent point
        #[arg(long, value_name = "FILE")]
        pre_script: Option<String>,
        /// Program that runs after it
        #[arg(long, value_name = "FILE")]
        post_script: Option<String>,
        /// How long each may take
        #[arg(long, value_name = "DURATION", default_value_t = default_hook_timeout())]
        hook_timeout: String,
    },
    /// Delete a group that has no volumes
    Delete(Named),
}

impl Listed for Group {
    const HEAD: &'static [&'static str] = &["NAME", "STATE", "HEALTH", "ACTIVE SITE", "VOLUMES", "TESTS", "ID"];

    fn cells(&self, _: &Names) -> Vec<String> {
        let status = &self.status;
        vec![
            self.spec.name.clone(),
            status.state.to_string(),
            status.health.to_string(),
            maybe(status.active_site.as_ref()),
            status.volume_ids.len().to_string(),
            status.tests.len().to_string(),
            self.id.to_string(),
        ]
    }
}

async fn show(client: &Client, output: Output, named: &Named) -> Result<()> {
    let group: Group = client.read(&resolve::group(client, &named.target).await?).await?;
    output.show(&group, || render::resource(&group))
}

pub(crate) async fn run(args: GroupArgs, output: Output) -> Result<()> {
    let client = args.connection.client()?;
    match args.verb {
        GroupVerb::List => declared::list::<Group>(&client, output, "no group is declared").await,
        GroupVerb::Show(named) => show(&client, output, &named).await,
        GroupVerb::Create { name, site, policy, pre_script, post_script, hook_timeout } => {
            let site: Site = find(&client, &site).await?;
            let policy_id = find::<Policy>(&client, &policy).await?.id;
            let hooks = pre_script.is_some() || post_script.is_some();
            let app_consistency = hooks.then_some(AppConsistency { pre_script, post_script, timeout: hook_timeout });
            let spec = GroupSpec { vault_id: site.spec.vault_id, site_id: site.id, name, policy_id, app_consistency };
            declared::create::<Group>(&client, output, &spec).await
        }
        GroupVerb::Delete(named) => declared::delete::<Group>(&client, output, &named, "deleted").await,
    }
}
