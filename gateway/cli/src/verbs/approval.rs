//! `lifeboat approval`: list, show, approve, reject.
//!
//! Who asked for something that destroys is told an approval's id; a second person looks at what exactly would be done, and
//! decides here; then the first one asks again.

use clap::{Args, Subcommand};
use lifeboat_api::{Approval, DecideRequest};

use super::declared::{self, Listed, Named, Names};
use crate::connect::ConnectionArgs;
use crate::failure::Result;
use crate::output::Output;

/// A second person's word for what destroys.
#[derive(Args, Debug)]
pub(crate) struct ApprovalArgs {
    #[command(flatten)]
    connection: ConnectionArgs,
    #[command(subcommand)]
    verb: ApprovalVerb,
}

#[derive(Subcommand, Debug)]
enum ApprovalVerb {
    /// List what was asked for, the newest first
    List,
    /// Show one: exactly what would be done, who asked, how it stands
    Show(Named),
    /// Let who asked do it, once, within a day
    Approve(Decision),
    /// Refuse it; who asked can take it back in the same way
    Reject(Decision),
}

#[derive(Args, Debug)]
struct Decision {
    /// Which, by id; several may be named
    #[arg(value_name = "ID", required = true)]
    ids: Vec<String>,
    /// Why
    #[arg(long, value_name = "TEXT", default_value = "")]
    comment: String,
}

impl Listed for Approval {
    const HEAD: &'static [&'static str] = &["STATE", "WHAT", "ASKED BY", "UNTIL", "ID"];

    fn cells(&self, _: &Names) -> Vec<String> {
        vec![
            self.status.state.as_str().to_owned(),
            self.spec.name.clone(),
            self.spec.requested_by.to_string(),
            self.status.expires.to_string(),
            self.id.to_string(),
        ]
    }
}

pub(crate) async fn run(args: ApprovalArgs, output: Output) -> Result<()> {
    let client = args.connection.client()?;
    match args.verb {
        ApprovalVerb::List => declared::list::<Approval>(&client, output, "nobody has asked for anything").await,
        ApprovalVerb::Show(named) => declared::show::<Approval>(&client, output, &named).await,
        ApprovalVerb::Approve(decision) => decide(&client, output, "approve", decision).await,
        ApprovalVerb::Reject(decision) => decide(&client, output, "reject", decision).await,
    }
}

async fn decide(client: &lifeboat_api::Client, output: Output, verb: &str, decision: Decision) -> Result<()> {
    for id in &decision.ids {
        let request = DecideRequest { comment: decision.comment.clone() };
        let approval = client.decide(id, verb, &request).await?;
        output.show(&approval, || {
            format!("{} {}: {}", approval.id, approval.status.state.as_str(), approval.spec.name)
        })?;
    }
    Ok(())
}
