//! `lifeboat group`: list, show, create, move, delete, undelete. Moving a group is in [`super::failover`].

use clap::{Args, Subcommand};
use lifeboat_api::{
    AppConsistency, Client, DeletedGroup, DeletedVolume, Gateway, Group, GroupSpec, MoveGroupRequest, Policy,
    SharedPoints, Site, UndeleteRequest, default_hook_timeout, default_shared_every,
};

use super::declared::{self, Listed, Named, Names};
use crate::connect::ConnectionArgs;
use crate::failure::{Failure, Result};
use crate::output::Output;
use crate::progress::settle;
use crate::render::{self, Table, maybe};
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
    List {
        /// Those that were deleted and can come back
        #[arg(long)]
        deleted: bool,
    },
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
        /// Take points together with all groups of the site that name this replication group
        #[arg(long, value_name = "NAME")]
        replication_group: Option<String>,
        /// Time between two of them
        #[arg(long, value_name = "DURATION", default_value_t = default_shared_every(), requires = "replication_group")]
        shared_every: String,
    },
    /// Change with whom a group takes points together, also one of an agent
    Share {
        #[command(flatten)]
        named: Named,
        /// All groups of the site that name this replication group
        #[arg(long, value_name = "NAME", required_unless_present = "alone")]
        replication_group: Option<String>,
        /// Time between two such points
        #[arg(long, value_name = "DURATION", default_value_t = default_shared_every())]
        shared_every: String,
        /// With nobody any more
        #[arg(long, conflicts_with = "replication_group")]
        alone: bool,
    },
    /// Change the programs that run around a group's application-consistent points
    SetHooks {
        #[command(flatten)]
        named: Named,
        /// Program in the gateways' directory of hooks that runs before such a point
        #[arg(long, value_name = "FILE", required_unless_present_any = ["post_script", "none"])]
        pre_script: Option<String>,
        /// Program that runs after it
        #[arg(long, value_name = "FILE")]
        post_script: Option<String>,
        /// How long each may take
        #[arg(long, value_name = "DURATION", default_value_t = default_hook_timeout())]
        hook_timeout: String,
        /// None: no such points are taken any more
        #[arg(long, conflicts_with_all = ["pre_script", "post_script"])]
        none: bool,
    },
    /// Give a group its home at another gateway of its site: everything is shipped first, and nothing is lost
    Move {
        #[command(flatten)]
        named: Named,
        /// The gateway that it goes to, by id or name
        #[arg(long, value_name = "GATEWAY")]
        to: String,
        /// Fetch everything from the vault, also what stands on adopted disks that the other gateway sees
        #[arg(long)]
        leave_disks: bool,
        /// Print the job and don't wait for it
        #[arg(long)]
        no_wait: bool,
    },
    /// Delete a group that has no volumes
    Delete(Named),
    /// Take the deletion of a group, or of a single volume, back: it is served by the gateway that is asked
    Undelete {
        #[command(flatten)]
        named: Named,
        /// A time (the newest point not after it) or a point's id; the newest point from before the deletion when left out
        #[arg(long)]
        point: Option<String>,
        /// Print the job and don't wait for it
        #[arg(long)]
        no_wait: bool,
    },
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

const DELETED: &str = "/v1/deleted-groups";

async fn list_deleted(client: &Client, output: Output) -> Result<()> {
    let all: Vec<DeletedGroup> = client.list(DELETED, &[]).await?;
    output.show(&all, || {
        let mut table = Table::new(&["NAME", "DELETED", "KEPT UNTIL", "VOLUMES", "ID"]);
        for group in &all {
            let volumes: Vec<String> = group.volumes.iter().map(|volume| volume.name.clone()).collect();
            let (deleted, kept) = (group.deleted.to_string(), group.kept_until.to_string());
            table.row(vec![group.name.clone(), deleted, kept, declared::joined(&volumes), group.id.to_string()]);
        }
        table.or("no deleted group can come back")
    })
}

/// The deleted group with this id or name, or with a volume of this id or name; of several the one that was deleted last.
async fn find_deleted(client: &Client, text: &str) -> Result<DeletedGroup> {
    let mut all: Vec<DeletedGroup> = client.list(DELETED, &[]).await?;
    let is_named = |group: &DeletedGroup| {
        let volume = |volume: &DeletedVolume| volume.name == text || volume.id.to_string() == text;
        group.name == text || group.id.to_string() == text || group.volumes.iter().any(volume)
    };
    all.retain(is_named);
    all.into_iter().max_by_key(|group| group.deleted).ok_or_else(|| {
        Failure::not_found(format!(
            "no deleted group {text:?} can come back: `lifeboat group list --deleted` shows those that can"
        ))
    })
}

pub(crate) async fn run(args: GroupArgs, output: Output) -> Result<()> {
    let client = args.connection.client()?;
    match args.verb {
        GroupVerb::List { deleted: true } => list_deleted(&client, output).await,
        GroupVerb::List { deleted: false } => declared::list::<Group>(&client, output, "no group is declared").await,
        GroupVerb::Show(named) => show(&client, output, &named).await,
        GroupVerb::Share { named, replication_group, shared_every, alone: _ } => {
            let group: Group = client.read(&resolve::group(&client, &named.target).await?).await?;
            let shared_points =
                replication_group.map(|replication_group| SharedPoints { replication_group, every: shared_every });
            let spec = GroupSpec { shared_points, ..group.spec };
            let changed: Group = client.update(&group.id.to_string(), group.generation, &spec).await?;
            output.show(&changed, || render::resource(&changed))
        }
        GroupVerb::SetHooks { named, pre_script, post_script, hook_timeout, none } => {
            let group: Group = client.read(&resolve::group(&client, &named.target).await?).await?;
            let hooks = AppConsistency { pre_script, post_script, timeout: hook_timeout };
            let spec = GroupSpec { app_consistency: (!none).then_some(hooks), ..group.spec };
            let changed: Group = client.update(&group.id.to_string(), group.generation, &spec).await?;
            output.show(&changed, || render::resource(&changed))
        }
        GroupVerb::Create {
            name,
            site,
            policy,
            pre_script,
            post_script,
            hook_timeout,
            replication_group,
            shared_every,
        } => {
            let site: Site = find(&client, &site).await?;
            let policy_id = find::<Policy>(&client, &policy).await?.id;
            let hooks = pre_script.is_some() || post_script.is_some();
            let app_consistency = hooks.then_some(AppConsistency { pre_script, post_script, timeout: hook_timeout });
            let shared_points =
                replication_group.map(|replication_group| SharedPoints { replication_group, every: shared_every });
            let (vault_id, site_id) = (site.spec.vault_id, site.id);
            let spec = GroupSpec { vault_id, site_id, name, policy_id, app_consistency, shared_points };
            declared::create::<Group>(&client, output, &spec).await
        }
        GroupVerb::Move { named, to, leave_disks, no_wait } => {
            let group = resolve::group(&client, &named.target).await?;
            let gateway_id = find::<Gateway>(&client, &to).await?.id;
            let job = client.group_verb(&group, "move", &MoveGroupRequest { gateway_id, leave_disks }).await?;
            settle(&client, output, job, !no_wait).await
        }
        GroupVerb::Delete(named) => declared::delete::<Group>(&client, output, &named, "deleted").await,
        GroupVerb::Undelete { named, point, no_wait } => {
            let group = find_deleted(&client, &named.target).await?;
            let job = client.group_verb(&group.id.to_string(), "undelete", &UndeleteRequest { point }).await?;
            settle(&client, output, job, !no_wait).await
        }
    }
}
