//! `lifeboat token`: list, create, show, rotate, renew, delete.
//!
//! The only verb that prints a secret, because that is what it is asked for: alone on one line of standard output, so that it
//! can be piped into whatever keeps it; what it is stands on standard error. `show` without a name reads a file of this machine
//! and asks nobody.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use lifeboat_api::{NewToken, RenewTokenRequest, Role, RotateTokenRequest, Token, TokenCreate, default_grace};
use serde_json::json;

use super::declared::{self, Listed, Named, Names};
use crate::connect::ConnectionArgs;
use crate::failure::{Exit, Failure, Result};
use crate::output::{Output, note};
use crate::render::maybe;
use crate::resolve::{self, find};

/// Tokens with roles, and the administrator's token of the gateway on this machine.
#[derive(Args, Debug)]
pub(crate) struct TokenArgs {
    #[command(flatten)]
    connection: ConnectionArgs,
    #[command(subcommand)]
    verb: TokenVerb,
}

#[derive(Subcommand, Debug)]
enum TokenVerb {
    /// List the tokens, without their secrets
    List,
    /// Make a token and print its secret, this once
    Create {
        /// Whose it is or what for
        #[arg(long)]
        name: String,
        /// What it may do: reader, operator, recovery or security_administrator; may be repeated
        #[arg(long = "role", value_name = "ROLE", required = true)]
        roles: Vec<Role>,
        /// How long it lives, such as 90d; until it is deleted when left out
        #[arg(long, value_name = "DURATION")]
        ttl: Option<String>,
        /// The vault that keeps it, by id or name; the only one when left out
        #[arg(long)]
        vault: Option<String>,
    },
    /// Show a token, without its secret; without a name, print the administrator's token of the gateway on this machine
    Show {
        /// Its id or name
        #[arg(value_name = "ID|NAME")]
        target: Option<String>,
    },
    /// Give a token another secret and print it, this once
    Rotate {
        #[command(flatten)]
        named: Named,
        /// How long the old secret stays valid
        #[arg(long, value_name = "DURATION", default_value_t = default_grace())]
        grace: String,
    },
    /// Let a token live on from now
    Renew {
        #[command(flatten)]
        named: Named,
        /// How long
        #[arg(long, value_name = "DURATION")]
        ttl: String,
    },
    /// Revoke a token: nobody is let in with it any more
    Delete(Named),
}

impl Listed for Token {
    const HEAD: &'static [&'static str] = &["NAME", "ROLES", "EXPIRES", "LAST USED", "ID"];

    fn cells(&self, _: &Names) -> Vec<String> {
        let expires = match (self.status.expires, self.status.expired) {
            (Some(end), true) => format!("{end} (expired)"),
            (end, _) => maybe(end),
        };
        vec![
            self.spec.name.clone(),
            roles(&self.spec.roles),
            expires,
            maybe(self.status.last_used),
            self.id.to_string(),
        ]
    }
}

/// Roles in one cell.
pub(super) fn roles(roles: &[Role]) -> String {
    roles.iter().map(|role| role.as_str()).collect::<Vec<_>>().join(", ")
}

pub(crate) async fn run(args: TokenArgs, output: Output) -> Result<()> {
    let TokenArgs { connection, verb } = args;
    if let TokenVerb::Show { target: None } = verb {
        return show_administrators(connection.state(), output);
    }
    let client = connection.client()?;
    match verb {
        TokenVerb::List => declared::list::<Token>(&client, output, "there is no token but the administrators'").await,
        TokenVerb::Show { target } => {
            let named = Named { target: target.unwrap_or_default() };
            declared::show::<Token>(&client, output, &named).await
        }
        TokenVerb::Create { name, roles, ttl, vault } => {
            let vault_id = Some(resolve::vault(&client, vault.as_deref()).await?.id);
            hand_over(&client.create_token(&TokenCreate { vault_id, name, roles, ttl }).await?, output)
        }
        TokenVerb::Rotate { named, grace } => {
            let found: Token = find(&client, &named.target).await?;
            hand_over(&client.rotate_token(&found.id.to_string(), &RotateTokenRequest { grace }).await?, output)
        }
        TokenVerb::Renew { named, ttl } => {
            let found: Token = find(&client, &named.target).await?;
            let token = client.renew_token(&found.id.to_string(), &RenewTokenRequest { ttl }).await?;
            output.show(&token, || format!("token {} lives until {}", token.spec.name, maybe(token.status.expires)))
        }
        TokenVerb::Delete(named) => declared::delete::<Token>(&client, output, &named, "revoked").await,
    }
}

/// The secret alone on standard output, and beside it what it is.
fn hand_over(made: &NewToken, output: Output) -> Result<()> {
    output.show(made, || made.secret.expose().to_owned())?;
    let token = &made.token;
    let until = token.status.expires.map_or_else(|| "until it is revoked".to_owned(), |end| format!("until {end}"));
    note(&format!(
        "token {} ({}): {}, {until}; its secret is shown this once, keep it",
        token.spec.name,
        token.id,
        roles(&token.spec.roles)
    ));
    Ok(())
}

fn show_administrators(state: Option<PathBuf>, output: Output) -> Result<()> {
    let state = state.ok_or_else(|| {
        Failure::usage(
            "no token and no state directory is named: give a token's id or name, or --state DIR (or LIFEBOAT_STATE) for the \
             administrator's token of the gateway on this machine",
        )
    })?;
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
