//! `lifeboat failover`, `change-point`, `commit`, `cleanup`, `reprotect`, `failback`: moving plans, machines and groups
//! between sites; `release` and `resume` of groups.
//!
//! The gateway that gets a failover becomes the recovery gateway: name it alone, or first. Each verb begins a job and
//! waits for it; interrupting the wait leaves the job running.

use clap::{Args, Subcommand, ValueEnum};
use lifeboat_api::{
    ChangePointRequest, CleanupRequest, CommitRequest, FailbackDisk, FailbackMode, FailbackRequest, FailbackTarget,
    FailoverKind, FailoverRequest, Gateway, Machine, Plan, PlanCleanupRequest, PlanFailoverRequest, ReleaseRequest,
    ReprotectRequest, ResumeRequest, Volume,
};
use lifeboat_model::{GatewayId, ParseIdError};
use serde::Serialize;

use super::guide;
use crate::connect::ConnectionArgs;
use crate::failure::{Failure, Result};
use crate::output::Output;
use crate::progress::settle;
use crate::resolve;

/// What a verb is about: one of the three.
#[derive(Args, Debug)]
#[group(required = true, multiple = false)]
pub(super) struct Of {
    /// The recovery plan, by id or name
    #[arg(value_name = "PLAN")]
    pub(super) plan: Option<String>,
    /// A group alone, without machines, by id or name, or by one of its volumes
    #[arg(long, value_name = "ID|NAME")]
    pub(super) group: Option<String>,
    /// A machine alone, by id or name
    #[arg(long, value_name = "ID|NAME")]
    pub(super) machine: Option<String>,
}

/// A verb on a plan, a machine or a group.
#[derive(Args, Debug)]
struct On {
    #[command(flatten)]
    of: Of,
    /// Print the job and don't wait for it
    #[arg(long)]
    no_wait: bool,
}

/// A verb on a group.
#[derive(Args, Debug)]
pub(crate) struct OnGroup {
    /// The group, by id or name, or by one of its volumes
    #[arg(long, value_name = "ID|NAME")]
    group: String,
    /// Print the job and don't wait for it
    #[arg(long)]
    no_wait: bool,
}

/// Bring a plan, a machine or a group up at the gateway that is asked.
#[derive(Args, Debug)]
pub(crate) struct FailoverArgs {
    #[command(flatten)]
    connection: ConnectionArgs,
    #[command(subcommand)]
    kind: FailoverVerb,
}

#[derive(Subcommand, Debug)]
enum FailoverVerb {
    /// A writable copy beside the running one; nothing else changes
    Test(TestFrom),
    /// The active gateway stops and ships everything first: nothing is lost
    Planned(On),
    /// The active gateway is taken to be lost, and is fenced
    Unplanned(FailoverFrom),
}

#[derive(Args, Debug)]
struct FailoverFrom {
    #[command(flatten)]
    on: On,
    /// latest, latest-processed, latest-app-consistent, a time (the newest point not after it) or a point's id
    #[arg(long, default_value_t = lifeboat_api::default_point())]
    point: String,
}

#[derive(Args, Debug)]
struct TestFrom {
    #[command(flatten)]
    from: FailoverFrom,
    /// Of a group: the branch whose point it is, that of another test or the one that keeps a primary's tail; the active one
    /// when left out
    #[arg(long, value_name = "ID", requires = "group")]
    branch: Option<String>,
    /// Of a plan or a machine: after how long it is cleaned up by itself
    #[arg(long, value_name = "DURATION", default_value_t = lifeboat_api::default_test_ttl())]
    ttl: String,
    /// Of a plan or a machine: the network that its machines join instead of the mappings' test networks
    #[arg(long, value_name = "ID|NAME|SITE/NAME", conflicts_with = "group")]
    network: Option<String>,
}

/// Go on from another recovery point after a failover that isn't committed.
#[derive(Args, Debug)]
pub(crate) struct ChangePointArgs {
    #[command(flatten)]
    connection: ConnectionArgs,
    #[command(flatten)]
    on: On,
    /// latest, latest-app-consistent, a time (the newest point not after it) or a point's id
    #[arg(long)]
    point: String,
}

/// Make the last failover final.
#[derive(Args, Debug)]
pub(crate) struct CommitArgs {
    #[command(flatten)]
    connection: ConnectionArgs,
    #[command(flatten)]
    on: On,
}

/// End test failovers and drop what was written in them.
#[derive(Args, Debug)]
pub(crate) struct CleanupArgs {
    #[command(flatten)]
    connection: ConnectionArgs,
    #[command(flatten)]
    on: On,
    /// Of a group: the branch of one test; all its tests when left out
    #[arg(long, value_name = "ID", requires = "group")]
    branch: Option<String>,
    /// Of a plan or a machine: what is worth remembering of the test
    #[arg(long, value_name = "TEXT")]
    notes: Option<String>,
}

/// Bring the home copies forward while the recovery side runs, so that a failback has little left to do.
#[derive(Args, Debug)]
pub(crate) struct ReprotectArgs {
    #[command(flatten)]
    connection: ConnectionArgs,
    #[command(flatten)]
    on: On,
}

/// Stop writing in order, ship everything, give the group up.
#[derive(Args, Debug)]
pub(crate) struct ReleaseArgs {
    #[command(flatten)]
    connection: ConnectionArgs,
    #[command(flatten)]
    on: OnGroup,
}

/// Start again after a release, at the same gateway.
#[derive(Args, Debug)]
pub(crate) struct ResumeArgs {
    #[command(flatten)]
    connection: ConnectionArgs,
    #[command(flatten)]
    on: OnGroup,
}

/// Bring a plan, a machine or a group back home.
#[derive(Args, Debug)]
pub(crate) struct FailbackArgs {
    #[command(flatten)]
    connection: ConnectionArgs,
    #[command(flatten)]
    on: On,
    /// How the home disk is brought forward
    #[arg(long, value_enum, default_value_t = Mode::MinimizeDowntime)]
    mode: Mode,
    /// A master target of the home site, by id or name: everything is fetched there, and it is the home from then on. Of a plan it may
    /// be repeated: its groups are spread over them by size, or, where one is named before it, that group goes there
    #[arg(long = "to", visible_alias = "to-gateway", value_name = "[GROUP=]GATEWAY")]
    to: Vec<String>,
    /// A disk of the gateway that receives it, on which a volume is built, whatever the disk holds; may be repeated
    #[arg(long = "disk", value_name = "VOLUME=PATH")]
    disks: Vec<String>,
    /// In three phases: the home copies are brought forward while everything runs; on your word it fails back; then it is seen that
    /// replication runs again from home. Interrupted and begun again, it goes on where things stand
    #[arg(long, conflicts_with_all = ["to", "disks", "no_wait"])]
    guided: bool,
    /// With --guided: fail back without asking
    #[arg(long, requires = "guided")]
    yes: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Mode {
    /// Moves only the blocks that differ while the recovery side runs, then stops shortly
    MinimizeDowntime,
    /// Fetches everything
    FullDownload,
    /// Begins on a new disk: writable after a short stop, filled while in use
    Create,
}

impl From<Mode> for FailbackMode {
    fn from(mode: Mode) -> Self {
        match mode {
            Mode::MinimizeDowntime => Self::MinimizeDowntime,
            Mode::FullDownload => Self::FullDownload,
            Mode::Create => Self::Create,
        }
    }
}

/// Begins a verb's job on a group, and waits for it.
pub(super) async fn begin(
    connection: &ConnectionArgs,
    output: Output,
    on: &OnGroup,
    verb: &str,
    body: &impl Serialize,
) -> Result<()> {
    let client = connection.client()?;
    let group = resolve::group(&client, &on.group).await?;
    let job = client.group_verb(&group, verb, body).await?;
    settle(&client, output, job, !on.no_wait).await
}

/// Begins a verb's job, and waits for it. What is asked of a plan or a machine may be another body than what is asked of a
/// group.
async fn begin_on(
    connection: &ConnectionArgs,
    output: Output,
    on: &On,
    verb: &str,
    (group, program): (&impl Serialize, &impl Serialize),
) -> Result<()> {
    let client = connection.client()?;
    let job = match (&on.of.plan, &on.of.machine, &on.of.group) {
        (Some(plan), _, _) => {
            let plan = resolve::find::<Plan>(&client, plan).await?;
            client.verb::<Plan>(&plan.id.to_string(), verb, program).await?
        }
        (_, Some(machine), _) => {
            let machine = resolve::find::<Machine>(&client, machine).await?;
            client.verb::<Machine>(&machine.id.to_string(), verb, program).await?
        }
        (_, _, named) => {
            let id = resolve::group(&client, named.as_deref().unwrap_or_default()).await?;
            client.group_verb(&id, verb, group).await?
        }
    };
    settle(&client, output, job, !on.no_wait).await
}

pub(crate) async fn failover(args: FailoverArgs, output: Output) -> Result<()> {
    let latest = lifeboat_api::default_point;
    let default_ttl = lifeboat_api::default_test_ttl;
    let mut test_network_id = None;
    let (on, kind, point, branch_id, ttl) = match args.kind {
        FailoverVerb::Test(TestFrom { from, branch, ttl, network }) => {
            if let Some(text) = &network {
                test_network_id = Some(resolve::network(&args.connection.client()?, text).await?.id);
            }
            (from.on, FailoverKind::Test, from.point, branch, ttl)
        }
        FailoverVerb::Planned(on) => (on, FailoverKind::Planned, latest(), None, default_ttl()),
        FailoverVerb::Unplanned(from) => (from.on, FailoverKind::Unplanned, from.point, None, default_ttl()),
    };
    let group = FailoverRequest { kind, point: point.clone(), branch_id };
    let program = PlanFailoverRequest { kind, point, ttl, test_network_id };
    begin_on(&args.connection, output, &on, "failover", (&group, &program)).await
}

pub(crate) async fn change_point(args: ChangePointArgs, output: Output) -> Result<()> {
    let body = ChangePointRequest { point: args.point };
    begin_on(&args.connection, output, &args.on, "change-point", (&body, &body)).await
}

pub(crate) async fn commit(args: CommitArgs, output: Output) -> Result<()> {
    let body = CommitRequest {};
    begin_on(&args.connection, output, &args.on, "commit", (&body, &body)).await
}

pub(crate) async fn cleanup(args: CleanupArgs, output: Output) -> Result<()> {
    let group = CleanupRequest { branch_id: args.branch };
    let program = PlanCleanupRequest { notes: args.notes };
    begin_on(&args.connection, output, &args.on, "cleanup", (&group, &program)).await
}

pub(crate) async fn release(args: ReleaseArgs, output: Output) -> Result<()> {
    begin(&args.connection, output, &args.on, "release", &ReleaseRequest {}).await
}

pub(crate) async fn resume(args: ResumeArgs, output: Output) -> Result<()> {
    begin(&args.connection, output, &args.on, "resume", &ResumeRequest {}).await
}

pub(crate) async fn reprotect(args: ReprotectArgs, output: Output) -> Result<()> {
    let body = ReprotectRequest {};
    begin_on(&args.connection, output, &args.on, "reprotect", (&body, &body)).await
}

pub(crate) async fn failback(args: FailbackArgs, output: Output) -> Result<()> {
    if args.guided {
        let client = args.connection.client()?;
        return guide::run(&client, output, &args.on.of, args.mode.into(), args.yes).await;
    }
    let client = args.connection.client()?;
    let (mut alone, mut named): (Vec<GatewayId>, Vec<FailbackTarget>) = (Vec::new(), Vec::new());
    for text in &args.to {
        let (group, gateway) = match text.split_once('=') {
            Some((group, gateway)) => (Some(group), gateway),
            None => (None, text.as_str()),
        };
        let gateway_id = resolve::find::<Gateway>(&client, gateway).await?.id;
        let Some(group) = group else {
            alone.push(gateway_id);
            continue;
        };
        let group = resolve::group(&client, group).await?;
        let group = group.parse().map_err(|error: ParseIdError| Failure::failed(error.to_string()))?;
        match named.iter_mut().find(|target| target.gateway_id == gateway_id) {
            Some(target) => target.group_ids.push(group),
            None => named.push(FailbackTarget { gateway_id, group_ids: vec![group] }),
        }
    }
    let mut body = FailbackRequest::new(args.mode.into());
    for text in &args.disks {
        let (volume, path) = text.split_once('=').ok_or_else(|| {
            Failure::usage(format!("--disk {text}: say which volume is built on which disk, VOLUME=PATH"))
        })?;
        let volume_id = resolve::find::<Volume>(&client, volume).await?.id;
        body.disks.push(FailbackDisk { volume_id, path: path.to_owned() });
    }
    match (alone.as_slice(), named.is_empty()) {
        ([], true) => {}
        ([one], true) => body.gateway_id = Some(*one),
        _ => {
            let shares = alone.into_iter().map(|gateway_id| FailbackTarget { gateway_id, group_ids: Vec::new() });
            body.targets = shares.chain(named).collect();
        }
    }
    begin_on(&args.connection, output, &args.on, "failback", (&body, &body)).await
}
