//! `lifeboat agent`: list, show, delete at a gateway; enrol, run and look at on the machine itself; push onto another one.
//!
//! The registration key is never an argument, which everybody on the machine could read: it comes from a file, from standard
//! input, or from `LIFEBOAT_REGISTRATION_KEY`.

mod protect;
mod push;

use std::io::Read;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use lifeboat_api::Agent;
use lifeboat_identity::{Machine, MachineError};
use serde_json::json;

use super::declared::{self, Listed, Named, Names};
use crate::connect::{ConnectionArgs, environment};
use crate::failure::{Exit, Failure, Result};
use crate::output::Output;
use crate::render;

/// Longest text that is read for a registration key: one has 157 characters.
const KEY_BYTES_MAX: u64 = 4096;

/// Agents: machines that prove who they are by certificates.
#[derive(Args, Debug)]
pub(crate) struct AgentArgs {
    #[command(subcommand)]
    verb: AgentVerb,
}

#[derive(Subcommand, Debug)]
enum AgentVerb {
    /// List the agents
    List(ConnectionArgs),
    /// Show one
    Show {
        #[command(flatten)]
        connection: ConnectionArgs,
        #[command(flatten)]
        named: Named,
    },
    /// Revoke an agent: no gateway believes its certificate any more
    Delete {
        #[command(flatten)]
        connection: ConnectionArgs,
        #[command(flatten)]
        named: Named,
    },
    /// Enrol this machine with a registration key, and keep its identity
    #[command(visible_alias = "enroll")]
    Enrol(EnrolArgs),
    /// Protect disks of this machine: mount them, and stream what is written to a process server
    Run(Box<protect::RunArgs>),
    /// How the agent of this machine is doing
    Status(protect::StatusArgs),
    /// Put the agent on a server over SSH, enrol it, and leave its settings there
    Push(Box<push::PushArgs>),
}

#[derive(Args, Debug)]
struct EnrolArgs {
    /// The directory that holds this machine's key and certificate
    #[arg(long, value_name = "DIR")]
    state: PathBuf,
    /// Gateways, tried in order: https://HOST:PORT, separated by commas [env: LIFEBOAT_ENDPOINT]
    #[arg(long, value_name = "URL,…")]
    endpoint: Option<String>,
    /// File of the registration key, - for standard input [env: LIFEBOAT_REGISTRATION_KEY for the key itself]
    #[arg(long, value_name = "FILE")]
    key_file: Option<PathBuf>,
    /// What people call this machine; its host name when left out
    #[arg(long)]
    name: Option<String>,
}

impl Listed for Agent {
    const HEAD: &'static [&'static str] = &["NAME", "SITE", "CERTIFICATE UNTIL", "ID"];
    const NAMED_BY: Option<&'static str> = Some("/v1/sites");

    fn cells(&self, names: &Names) -> Vec<String> {
        let until = match self.status.expired {
            true => format!("{} (expired)", self.status.expires),
            false => self.status.expires.to_string(),
        };
        vec![self.spec.name.clone(), names.of(self.spec.site_id), until, self.id.to_string()]
    }
}

impl From<MachineError> for Failure {
    fn from(error: MachineError) -> Self {
        let exit = match error {
            MachineError::Asking(error) => return error.into(),
            MachineError::Key => Exit::Usage,
            MachineError::NotEnrolled(_) => Exit::NotFound,
            MachineError::Enrolled { .. } => Exit::Conflict,
            MachineError::Files(_) | MachineError::Answer(_) | MachineError::Crypto(_) => Exit::Failed,
        };
        Self::new(exit, error.to_string())
    }
}

pub(crate) async fn run(args: AgentArgs, output: Output) -> Result<()> {
    match args.verb {
        AgentVerb::List(connection) => {
            declared::list::<Agent>(&connection.client()?, output, "no agent has enrolled").await
        }
        AgentVerb::Show { connection, named } => declared::show::<Agent>(&connection.client()?, output, &named).await,
        AgentVerb::Delete { connection, named } => {
            declared::delete::<Agent>(&connection.client()?, output, &named, "revoked").await
        }
        AgentVerb::Enrol(args) => enrol(args, output).await,
        AgentVerb::Run(args) => protect::run(*args).await,
        AgentVerb::Status(args) => protect::status(&args, output),
        AgentVerb::Push(args) => push::run(&args, output),
    }
}

async fn enrol(args: EnrolArgs, output: Output) -> Result<()> {
    let endpoints = endpoints(args.endpoint)?;
    let key = registration_key(args.key_file.as_deref())?;
    let name = args.name.unwrap_or_else(lifeboat_server::host_name);
    let machine = Machine::enrol(&args.state, &key, &endpoints, &name).await?;
    let peer = machine.certificate();
    let document = json!({
        "id": peer.name.id,
        "vault_id": peer.name.vault,
        "name": name,
        "state": args.state.display().to_string(),
        "expires": peer.not_after,
    });
    output.show(&document, || {
        render::clean(&format!("agent {name} enrolled: {} (certificate until {})", peer.name.id, peer.not_after))
    })
}

/// The gateways that are named, by the flag or in the environment.
///
/// # Errors
/// None is.
pub(super) fn endpoints(given: Option<String>) -> Result<Vec<String>> {
    let endpoints = given.or_else(|| environment("LIFEBOAT_ENDPOINT")).unwrap_or_default();
    let endpoints: Vec<String> =
        endpoints.split(',').map(str::trim).filter(|text| !text.is_empty()).map(str::to_owned).collect();
    if endpoints.is_empty() {
        return Err(Failure::usage("no gateway is named: set LIFEBOAT_ENDPOINT or give --endpoint https://HOST:PORT"));
    }
    Ok(endpoints)
}

/// The registration key in a file, on standard input, or in the environment.
///
/// # Errors
/// There is none, or it can't be read.
pub(super) fn registration_key(file: Option<&Path>) -> Result<String> {
    match file {
        Some(file) => read_key(file),
        None => environment("LIFEBOAT_REGISTRATION_KEY").ok_or_else(|| {
            Failure::usage(
                "no registration key: give --key-file FILE (- for standard input), or set LIFEBOAT_REGISTRATION_KEY",
            )
        }),
    }
}

fn read_key(file: &Path) -> Result<String> {
    let mut text = String::new();
    let read = if file == Path::new("-") {
        std::io::stdin().take(KEY_BYTES_MAX).read_to_string(&mut text)
    } else {
        std::fs::File::open(file).and_then(|open| open.take(KEY_BYTES_MAX).read_to_string(&mut text))
    };
    read.map_err(|error| Failure::unreadable("the registration key", file, &error))?;
    Ok(text)
}
