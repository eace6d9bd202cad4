//! `lifeboat failover`, `commit`, `cleanup`, `release`, `resume`, `failback`: moving groups between sites.
//!
//! The gateway that gets a failover becomes the recovery gateway: name it alone, or first. Each verb begins a job and
//! waits for it; interrupting the wait leaves the job running.

use clap::{Args, Subcommand, ValueEnum};
use lifeboat_api::{
    ChangePointRequest, CleanupRequest, CommitRequest, FailbackMode, FailbackRequest, FailoverKind, FailoverRequest,
    ReleaseRequest, ResumeRequest,
};
use serde::Serialize;

use crate::connect::ConnectionArgs;
use crate::failure::Result;
use crate::output::Output;
use crate::progress::settle;
use crate::resolve;

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

/// Bring a group up at the gateway that is asked.
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
    Planned(OnGroup),
    /// The active gateway is taken to be lost, and is fenced
    Unplanned(FailoverFrom),
}

#[derive(Args, Debug)]
struct FailoverFrom {
    #[command(flatten)]
    on: OnGroup,
    /// latest, latest-processed, latest-app-consistent, a time (the newest point not after it) or a point's id
    #[arg(long, default_value_t = lifeboat_api::default_point())]
    point: String,
}

#[derive(Args, Debug)]
struct TestFrom {
    #[command(flatten)]
    from: FailoverFrom,
    /// The branch whose point it is: that of another test, or the one that keeps a primary's tail; the active one when left out
    #[arg(long, value_name = "ID")]
    branch: Option<String>,
}

/// Go on from another recovery point after a failover that isn't committed.
#[derive(Args, Debug)]
pub(crate) struct ChangePointArgs {
    #[command(flatten)]
    connection: ConnectionArgs,
    #[command(flatten)]
    on: OnGroup,
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
    on: OnGroup,
}

/// End test failovers and drop what was written in them.
#[derive(Args, Debug)]
pub(crate) struct CleanupArgs {
    #[command(flatten)]
    connection: ConnectionArgs,
    #[command(flatten)]
    on: OnGroup,
    /// The branch of one test; all tests of the group when left out
    #[arg(long, value_name = "ID")]
    branch: Option<String>,
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

/// Bring a group back to its home gateway.
#[derive(Args, Debug)]
pub(crate) struct FailbackArgs {
    #[command(flatten)]
    connection: ConnectionArgs,
    #[command(flatten)]
    on: OnGroup,
    /// How the home disk is brought forward
    #[arg(long, value_enum, default_value_t = Mode::MinimizeDowntime)]
    mode: Mode,
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

pub(crate) async fn failover(args: FailoverArgs, output: Output) -> Result<()> {
    let (on, kind, point, branch_id) = match args.kind {
        FailoverVerb::Test(TestFrom { from, branch }) => (from.on, FailoverKind::Test, from.point, branch),
        FailoverVerb::Planned(on) => (on, FailoverKind::Planned, lifeboat_api::default_point(), None),
        FailoverVerb::Unplanned(from) => (from.on, FailoverKind::Unplanned, from.point, None),
    };
    begin(&args.connection, output, &on, "failover", &FailoverRequest { kind, point, branch_id }).await
}

pub(crate) async fn change_point(args: ChangePointArgs, output: Output) -> Result<()> {
    begin(&args.connection, output, &args.on, "change-point", &ChangePointRequest { point: args.point }).await
}

pub(crate) async fn commit(args: CommitArgs, output: Output) -> Result<()> {
    begin(&args.connection, output, &args.on, "commit", &CommitRequest {}).await
}

pub(crate) async fn cleanup(args: CleanupArgs, output: Output) -> Result<()> {
    let body = CleanupRequest { branch_id: args.branch };
    begin(&args.connection, output, &args.on, "cleanup", &body).await
}

pub(crate) async fn release(args: ReleaseArgs, output: Output) -> Result<()> {
    begin(&args.connection, output, &args.on, "release", &ReleaseRequest {}).await
}

pub(crate) async fn resume(args: ResumeArgs, output: Output) -> Result<()> {
    begin(&args.connection, output, &args.on, "resume", &ResumeRequest {}).await
}

pub(crate) async fn failback(args: FailbackArgs, output: Output) -> Result<()> {
    let body = FailbackRequest { mode: args.mode.into() };
    begin(&args.connection, output, &args.on, "failback", &body).await
}
