//! `lifeboat gateway enrol`: the gateway on this machine registers by key.
//!
//! One that runs is asked to do it itself; for one that doesn't, it is done here, and its next start goes on. Neither the registration
//! key nor what opens the vault is ever an argument.

use std::path::{Path, PathBuf};

use clap::Args;
use lifeboat_api::{Client, EncryptionKey, GatewayReport, KeySourceKind, RegisterRequest, Registration, Secret};
use lifeboat_server::registration::enrol_stopped;
use lifeboat_server::state_dir::StateDir;

use crate::connect::{self, ConnectionArgs, environment};
use crate::failure::{Exit, Failure, Result};
use crate::output::Output;
use crate::render::clean;
use crate::verbs::agent::{endpoints, registration_key};
use crate::verbs::key::passphrase_from;
use crate::verbs::storage::StorageArgs;

#[derive(Args, Debug)]
pub(crate) struct EnrolArgs {
    /// File of the registration key, - for standard input [env: LIFEBOAT_REGISTRATION_KEY for the key itself]
    #[arg(long, value_name = "FILE")]
    key_file: Option<PathBuf>,
    /// The name that the gateway is started with, where it doesn't run; its host name when left out
    #[arg(long)]
    name: Option<String>,
    /// The name of the site that it is started with, where it doesn't run
    #[arg(long)]
    site: Option<String>,
    /// The vault's key file on this machine, an absolute path; where the other gateway has it, or what this one was started with,
    /// when no key is given
    #[arg(long, value_name = "FILE", group = "opens")]
    vault_key_file: Option<PathBuf>,
    /// File that holds the vault's passphrase
    #[arg(long, value_name = "FILE", group = "opens")]
    vault_passphrase_file: Option<PathBuf>,
    /// The vault's key in a key management service
    #[arg(long, value_name = "NAME", group = "opens")]
    vault_kms_key: Option<String>,
    /// File with credentials of the vault's storage, one NAME=VALUE a line; those of the gateway's environment when left out
    #[arg(long, value_name = "FILE")]
    credentials_file: Option<PathBuf>,
}

impl EnrolArgs {
    fn vault_key(&self) -> Result<Option<EncryptionKey>> {
        let key = |key_source| EncryptionKey { key_source, passphrase: None, key_file: None, kms_key: None };
        Ok(match (&self.vault_key_file, &self.vault_passphrase_file, &self.vault_kms_key) {
            (Some(path), _, _) => {
                Some(EncryptionKey { key_file: Some(path.display().to_string()), ..key(KeySourceKind::KeyFile) })
            }
            (_, Some(path), _) => {
                Some(EncryptionKey { passphrase: Some(passphrase_from(path)?), ..key(KeySourceKind::Passphrase) })
            }
            (_, _, Some(name)) => Some(EncryptionKey { kms_key: Some(name.clone()), ..key(KeySourceKind::Kms) }),
            (None, None, None) => None,
        })
    }
}

pub(super) async fn run(connection: &ConnectionArgs, args: EnrolArgs, output: Output) -> Result<()> {
    let state = connection.state().ok_or_else(|| {
        Failure::usage("which gateway registers isn't said: give --state DIR, its state directory on this machine")
    })?;
    let vault_key = args.vault_key()?;
    let credentials = StorageArgs::of_file(args.credentials_file).gather(environment)?;
    let request = RegisterRequest {
        endpoints: endpoints(connection.endpoint())?,
        key: Secret::new(registration_key(args.key_file.as_deref())?.trim().to_owned()),
        vault_key,
        storage_credentials: (!credentials.is_empty()).then_some(credentials),
    };
    let registration = enrol(&state, args.name, args.site.as_deref(), request).await?;
    output.show(&registration, || clean(&registration.message))
}

/// Has the gateway that runs with this state directory, and has no vault yet, register at the first of the request's endpoints that
/// answers. The text of the key is wiped afterwards.
///
/// # Errors
/// `Conflict` for a key or a gateway that is refused, `Unreachable` when no endpoint answers or no gateway runs here, `Usage` for what
/// makes no sense: in a sentence that says what to do.
pub(crate) async fn register(state: &Path, request: &RegisterRequest) -> Result<Registration> {
    Ok(Client::new(&connect::local(state)?)?.register(request).await?)
}

/// The same whether it runs or not.
async fn enrol(
    state: &Path,
    name: Option<String>,
    site: Option<&str>,
    request: RegisterRequest,
) -> Result<Registration> {
    match refuse_other(state, name.as_deref(), site).await {
        Ok(()) => register(state, &request).await,
        // The file with its address outlives a gateway that was killed; its lock doesn't.
        Err(error) if error.exit() == Exit::Unreachable && StateDir::refuse_unusable(state).is_ok() => {
            let name = name.unwrap_or_else(lifeboat_server::host_name);
            let enrolled = enrol_stopped(state, &name, site, request).await;
            enrolled.map_err(|error| Failure::failed(format!("{error:#}")))
        }
        Err(error) => Err(error),
    }
}

/// Asks the gateway that runs here whether it is the one that is meant.
async fn refuse_other(state: &Path, name: Option<&str>, site: Option<&str>) -> Result<()> {
    let report: GatewayReport = Client::new(&connect::local(state)?)?.get("/v1/status", &[]).await?;
    let named = name.is_none_or(|name| name == report.name);
    if named && site.is_none_or(|site| report.site.as_deref() == Some(site)) {
        return Ok(());
    }
    Err(Failure::usage(format!(
        "the gateway that runs with the state directory {} is {}{}: leave out --name and --site, or start it with them",
        state.display(),
        report.name,
        report.site.map_or_else(|| ", of no site in particular".to_owned(), |site| format!(" at the site {site}"))
    )))
}
