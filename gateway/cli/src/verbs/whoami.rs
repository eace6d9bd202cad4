//! `lifeboat whoami`: whom the gateway takes the caller for.

use clap::Args;

use super::token::roles;
use crate::connect::ConnectionArgs;
use crate::failure::Result;
use crate::output::Output;
use crate::render;

/// Say whom the gateway takes you for, and what you may do.
#[derive(Args, Debug)]
pub(crate) struct WhoamiArgs {
    #[command(flatten)]
    connection: ConnectionArgs,
}

pub(crate) async fn run(args: WhoamiArgs, output: Output) -> Result<()> {
    let who = args.connection.client()?.whoami().await?;
    output.show(&who, || {
        let mut lines = vec![
            ("you are", who.principal.to_string()),
            ("roles", roles(&who.roles)),
            ("asked", format!("gateway {}", who.gateway)),
        ];
        if let Some(end) = who.expires {
            lines.push(("until", end.to_string()));
        }
        render::fields(&lines)
    })
}
