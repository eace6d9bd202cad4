//! `lifeboat plan`: list, show, create, delete.
//!
//! The command line declares the order in which things come up; actions in between are Terraform's.

use std::str::FromStr;

use clap::{Args, Subcommand};
use lifeboat_api::{BootGroup, Client, Machine, Plan, PlanSpec, Site, Volume};

use super::declared::{self, Listed, Named, Names};
use crate::connect::ConnectionArgs;
use crate::failure::Result;
use crate::output::Output;
use crate::render::maybe;
use crate::resolve::find;

/// Declare recovery plans: what comes up at another site, and in what order.
#[derive(Args, Debug)]
pub(crate) struct PlanArgs {
    #[command(flatten)]
    connection: ConnectionArgs,
    #[command(subcommand)]
    verb: PlanVerb,
}

#[derive(Subcommand, Debug)]
enum PlanVerb {
    /// List the plans
    List,
    /// Show one
    Show(Named),
    /// Declare a plan
    Create {
        /// Its name, unique in the vault
        #[arg(long)]
        name: String,
        /// The site where everything in it is at home, by id or name
        #[arg(long, value_name = "SITE")]
        source: String,
        /// The site where it comes up, by id or name
        #[arg(long, value_name = "SITE")]
        target: String,
        /// What comes up side by side, separated by commas: machines, and volumes as volume:NAME; repeated, one group after
        /// the other
        #[arg(long = "boot", value_name = "MACHINE,…", required = true)]
        boot: Vec<Members>,
    },
    /// Delete a plan; what is in it stays
    Delete(Named),
}

/// A boot group: `MACHINE,volume:VOLUME,…`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Members {
    machines: Vec<String>,
    volumes: Vec<String>,
}

impl FromStr for Members {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut members = Self { machines: Vec::new(), volumes: Vec::new() };
        for part in text.split(',') {
            match part.strip_prefix("volume:") {
                Some("") => return Err("expected the name of a volume after volume:".to_owned()),
                Some(volume) => members.volumes.push(volume.to_owned()),
                None if part.is_empty() => {
                    return Err("expected names of machines, or volume:NAME, separated by commas".to_owned());
                }
                None => members.machines.push(part.to_owned()),
            }
        }
        Ok(members)
    }
}

impl Listed for Plan {
    const HEAD: &'static [&'static str] =
        &["NAME", "FROM", "TO", "STATE", "ACTIVE SITE", "READINESS", "MACHINES", "VOLUMES", "ID"];
    const NAMED_BY: Option<&'static str> = Some("/v1/sites");

    fn cells(&self, names: &Names) -> Vec<String> {
        let (spec, status) = (&self.spec, &self.status);
        vec![
            spec.name.clone(),
            names.of(spec.source_site_id),
            names.of(spec.target_site_id),
            status.state.to_string(),
            maybe(status.active_site.as_ref()),
            status.readiness.as_str().to_owned(),
            spec.machines().count().to_string(),
            spec.volumes().count().to_string(),
            self.id.to_string(),
        ]
    }
}

async fn boot_group(client: &Client, members: Members) -> Result<BootGroup> {
    let mut group = BootGroup {
        name: None,
        machine_ids: Vec::new(),
        volume_ids: Vec::new(),
        pre_action: Vec::new(),
        post_action: Vec::new(),
    };
    for machine in &members.machines {
        group.machine_ids.push(find::<Machine>(client, machine).await?.id);
    }
    for volume in &members.volumes {
        group.volume_ids.push(find::<Volume>(client, volume).await?.id);
    }
    Ok(group)
}

pub(crate) async fn run(args: PlanArgs, output: Output) -> Result<()> {
    let client = args.connection.client()?;
    match args.verb {
        PlanVerb::List => declared::list::<Plan>(&client, output, "no recovery plan is declared").await,
        PlanVerb::Show(named) => declared::show::<Plan>(&client, output, &named).await,
        PlanVerb::Create { name, source, target, boot } => {
            let source: Site = find(&client, &source).await?;
            let target_site_id = find::<Site>(&client, &target).await?.id;
            let mut boot_groups = Vec::new();
            for members in boot {
                boot_groups.push(boot_group(&client, members).await?);
            }
            let spec = PlanSpec {
                vault_id: source.spec.vault_id,
                name,
                source_site_id: source.id,
                target_site_id,
                shutdown: None,
                boot_group: boot_groups,
            };
            declared::create::<Plan>(&client, output, &spec).await
        }
        PlanVerb::Delete(named) => declared::delete::<Plan>(&client, output, &named, "deleted").await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_boot_group_has_machines_and_volumes() {
        let members = Members { machines: vec!["web1".into(), "web2".into()], volumes: vec!["share".into()] };
        assert_eq!("web1,volume:share,web2".parse(), Ok(members));
        for wrong in ["", "web1,", "volume:"] {
            assert!(wrong.parse::<Members>().is_err(), "{wrong:?}");
        }
    }
}
