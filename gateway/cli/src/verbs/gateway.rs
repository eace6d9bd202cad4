//! `lifeboat gateway`: list, show, create, delete, replace; enrol, on the new gateway itself.
//!
//! Declares which process serves volumes at a site. The process whose `--name` (and `--site`) match takes the
//! declaration up by itself.

pub(crate) mod enrol;

use clap::{Args, Subcommand, ValueEnum};
use lifeboat_api::client::Collection as _;
use lifeboat_api::{Gateway, GatewayRole, GatewaySpec, ReplaceGatewayRequest, Site};

use super::declared::{self, Listed, Named, Names, joined};
use crate::connect::ConnectionArgs;
use crate::failure::Result;
use crate::output::Output;
use crate::progress::settle;
use crate::render::maybe;
use crate::resolve::find;

/// Declare gateways: the processes that serve volumes.
#[derive(Args, Debug)]
pub(crate) struct GatewayArgs {
    #[command(flatten)]
    connection: ConnectionArgs,
    #[command(subcommand)]
    verb: GatewayVerb,
}

#[derive(Subcommand, Debug)]
enum GatewayVerb {
    /// List the gateways
    List,
    /// Show one
    Show(Named),
    /// Declare a gateway
    Create {
        /// The name that its process was started with
        #[arg(long)]
        name: String,
        /// The site it stands in, by id or name
        #[arg(long)]
        site: String,
        /// What it does; may be repeated; everything when left out
        #[arg(long = "role", value_enum, value_name = "ROLE")]
        roles: Vec<Role>,
        /// Where it mounts its volumes, when its process wasn't started with --mount
        #[arg(long, value_name = "DIR")]
        mount_path: Option<String>,
    },
    /// Delete a gateway that has no volumes
    Delete(Named),
    /// Have another gateway of the site take over what a lost one had
    Replace(ReplaceArgs),
    /// Register the gateway on this machine, which has no vault yet, with a registration key
    ///
    /// --state says which gateway it is, whether it runs or not, and --endpoint the gateways that have the vault. It is told where
    /// the vault is, and opens it with a key of its own.
    #[command(visible_alias = "enroll")]
    Enrol(enrol::EnrolArgs),
}

#[derive(Args, Debug)]
struct ReplaceArgs {
    /// The gateway that is lost, by id or name
    #[arg(value_name = "LOST")]
    lost: String,
    /// The gateway that takes its place, by id or name: of the same site, with this vault open
    #[arg(long, value_name = "GATEWAY")]
    by: String,
    /// Also when it was heard of within the last minute: it is fenced, and what it has acknowledged and not shipped stays with it
    #[arg(long)]
    force: bool,
    /// Fetch everything from the vault, also what stands on disks that the lost gateway had adopted and the new one sees
    #[arg(long)]
    leave_disks: bool,
    /// Don't wait until it is done
    #[arg(long)]
    no_wait: bool,
}

/// What a gateway does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
enum Role {
    /// Answers the API
    ConfigurationServer,
    /// Ships writes to the vault
    ProcessServer,
    /// Receives a failback
    MasterTarget,
}

impl From<Role> for GatewayRole {
    fn from(role: Role) -> Self {
        match role {
            Role::ConfigurationServer => Self::ConfigurationServer,
            Role::ProcessServer => Self::ProcessServer,
            Role::MasterTarget => Self::MasterTarget,
        }
    }
}

impl Listed for Gateway {
    const HEAD: &'static [&'static str] =
        &["NAME", "SITE", "REGISTERED", "HEALTH", "PROCESS SERVER", "LAST SEEN", "ADDRESSES", "ID"];
    const NAMED_BY: Option<&'static str> = Some(Site::PATH);

    fn cells(&self, sites: &Names) -> Vec<String> {
        let (spec, status) = (&self.spec, &self.status);
        vec![
            spec.name.clone(),
            sites.of(spec.site_id),
            if status.registered { "yes" } else { "no" }.to_owned(),
            status.health.to_string(),
            maybe(status.process_server.as_ref().map(|server| format!("{}, {} agents", server.health, server.agents))),
            maybe(status.last_seen),
            joined(&status.addresses),
            self.id.to_string(),
        ]
    }
}

pub(crate) async fn run(args: GatewayArgs, output: Output) -> Result<()> {
    if let GatewayVerb::Enrol(enrol) = args.verb {
        return enrol::run(&args.connection, enrol, output).await;
    }
    let client = args.connection.client()?;
    match args.verb {
        GatewayVerb::Enrol(_) => Ok(()),
        GatewayVerb::List => declared::list::<Gateway>(&client, output, "no gateway is declared").await,
        GatewayVerb::Show(named) => declared::show::<Gateway>(&client, output, &named).await,
        GatewayVerb::Create { name, site, roles, mount_path } => {
            let site_id = find::<Site>(&client, &site).await?.id;
            let roles = (!roles.is_empty()).then(|| roles.into_iter().map(GatewayRole::from).collect());
            declared::create::<Gateway>(&client, output, &GatewaySpec { site_id, name, roles, mount_path }).await
        }
        GatewayVerb::Delete(named) => declared::delete::<Gateway>(&client, output, &named, "deleted").await,
        GatewayVerb::Replace(ReplaceArgs { lost, by, force, leave_disks, no_wait }) => {
            let lost = find::<Gateway>(&client, &lost).await?.id.to_string();
            let gateway_id = find::<Gateway>(&client, &by).await?.id;
            let body = ReplaceGatewayRequest { gateway_id, force, leave_disks };
            let job = client.verb::<Gateway>(&lost, "replace", &body).await?;
            settle(&client, output, job, !no_wait).await
        }
    }
}
