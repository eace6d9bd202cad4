//! `lifeboat registration-key`: list, create, show, delete.
//!
//! `create` prints the key's text alone on one line of standard output, as `token create` does a secret.

use clap::{Args, Subcommand};
use lifeboat_api::{
    MachineRole, NewRegistrationKey, RegistrationKey, RegistrationKeyCreate, Site, default_registration_key_name,
    default_registration_key_ttl,
};

use super::declared::{self, Listed, Named, Names};
use crate::connect::ConnectionArgs;
use crate::failure::Result;
use crate::output::{Output, note};
use crate::render::maybe;
use crate::resolve::find;

/// Registration keys: what a machine enrols with, once.
#[derive(Args, Debug)]
pub(crate) struct RegistrationKeyArgs {
    #[command(flatten)]
    connection: ConnectionArgs,
    #[command(subcommand)]
    verb: RegistrationKeyVerb,
}

#[derive(Subcommand, Debug)]
enum RegistrationKeyVerb {
    /// List the registration keys, without their texts
    List,
    /// Make a registration key and print its text, this once
    Create {
        /// The site that the machine is at, by id or name
        #[arg(long)]
        site: String,
        /// What the machine is to be: agent, or for a gateway configuration_server, process_server, master_target, separated by
        /// commas
        #[arg(long = "role", alias = "roles", value_name = "ROLE,…", default_value = "agent", value_delimiter = ',')]
        roles: Vec<MachineRole>,
        /// What the key is for; agent or gateway when left out
        #[arg(long)]
        name: Option<String>,
        /// How long it can be used, an hour at most
        #[arg(long, value_name = "DURATION", default_value_t = default_registration_key_ttl())]
        ttl: String,
    },
    /// Show a registration key, without its text
    Show(Named),
    /// Delete a registration key: no machine enrols with it any more
    Delete(Named),
}

impl Listed for RegistrationKey {
    const HEAD: &'static [&'static str] = &["NAME", "ROLES", "SITE", "EXPIRES", "USED BY", "ID"];
    const NAMED_BY: Option<&'static str> = Some("/v1/sites");

    fn cells(&self, names: &Names) -> Vec<String> {
        let expires = match self.status.expired {
            true => format!("{} (expired)", self.status.expires),
            false => self.status.expires.to_string(),
        };
        vec![
            self.spec.name.clone(),
            roles(&self.spec.roles),
            names.of(self.spec.site_id),
            expires,
            maybe(
                self.status.used_by.map(|id| id.to_string()).or(self.status.used_by_gateway.map(|id| id.to_string())),
            ),
            self.id.to_string(),
        ]
    }
}

fn roles(roles: &[MachineRole]) -> String {
    roles.iter().map(|role| role.as_str()).collect::<Vec<_>>().join(", ")
}

pub(crate) async fn run(args: RegistrationKeyArgs, output: Output) -> Result<()> {
    let client = args.connection.client()?;
    match args.verb {
        RegistrationKeyVerb::List => {
            declared::list::<RegistrationKey>(&client, output, "there is no registration key").await
        }
        RegistrationKeyVerb::Show(named) => declared::show::<RegistrationKey>(&client, output, &named).await,
        RegistrationKeyVerb::Create { site, roles, name, ttl } => {
            let site_id = find::<Site>(&client, &site).await?.id;
            let kind = if roles.contains(&MachineRole::Agent) {
                default_registration_key_name()
            } else {
                "gateway".to_owned()
            };
            let name = name.unwrap_or(kind);
            let request = RegistrationKeyCreate { site_id, roles, name, ttl };
            hand_over(&client.create_registration_key(&request).await?, output)
        }
        RegistrationKeyVerb::Delete(named) => {
            declared::delete::<RegistrationKey>(&client, output, &named, "deleted").await
        }
    }
}

/// The text alone on standard output, and beside it what it is.
fn hand_over(made: &NewRegistrationKey, output: Output) -> Result<()> {
    output.show(made, || made.key.expose().to_owned())?;
    let key = &made.registration_key;
    note(&format!(
        "registration key {} ({}): for one machine ({}), until {}; its text is shown this once",
        key.spec.name,
        key.id,
        roles(&key.spec.roles),
        key.status.expires
    ));
    Ok(())
}
