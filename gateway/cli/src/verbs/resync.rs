//! `lifeboat resync`: has copied what the vault lacks of a group, at once, and with `--compare` finds out first what that is.
//!
//! Begins a job and waits for it; interrupting the wait leaves the job running.

use clap::Args;
use lifeboat_api::ResyncRequest;

use super::failover::{OnGroup, begin};
use crate::connect::ConnectionArgs;
use crate::failure::Result;
use crate::output::Output;

/// Copy what the vault lacks, at once.
#[derive(Args, Debug)]
pub(crate) struct ResyncArgs {
    #[command(flatten)]
    connection: ConnectionArgs,
    #[command(flatten)]
    on: OnGroup,
    /// Read every volume and compare it with the vault first: for doubts that they are equal
    #[arg(long)]
    compare: bool,
}

pub(crate) async fn run(args: ResyncArgs, output: Output) -> Result<()> {
    begin(&args.connection, output, &args.on, "resync", &ResyncRequest { compare: args.compare }).await
}
