//! `lifeboat token`: show. The only verb that prints a secret, because that is what it is asked for.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::json;

use crate::connect::environment;
use crate::failure::{Exit, Failure, Result};
use crate::output::Output;

/// The administrator's token of the gateway on this machine.
#[derive(Args, Debug)]
pub(crate) struct TokenArgs {
    #[command(subcommand)]
    verb: TokenVerb,
}

#[derive(Subcommand, Debug)]
enum TokenVerb {
    /// Print it
    Show {
        /// The gateway's state directory [env: LIFEBOAT_STATE]
        #[arg(long, value_name = "DIR")]
        state: Option<PathBuf>,
    },
}

pub(crate) fn run(args: TokenArgs, output: Output) -> Result<()> {
    let TokenVerb::Show { state } = args.verb;
    let state = state
        .or_else(|| environment("LIFEBOAT_STATE").map(PathBuf::from))
        .ok_or_else(|| Failure::usage("no state directory is named: give --state DIR, or set LIFEBOAT_STATE"))?;
    let path = state.join("admin.token");
    let text = std::fs::read_to_string(&path).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => Failure::not_found(format!(
            "there is no token at {}: the first `lifeboat serve` with this state directory makes it",
            path.display()
        )),
        std::io::ErrorKind::PermissionDenied => {
            Failure::new(Exit::Conflict, format!("{} may be read by the gateway's user only", path.display()))
        }
        _ => Failure::unreadable("the token", &path, &error),
    })?;
    let token = text.trim();
    output.show(&json!({ "token": token }), || token.to_owned())
}
