//! `lifeboat vault`: open, create, list, show, check, gc, detach, key.
//!
//! `open` is all that a blank gateway needs for recovery. `detach` forgets a vault that nothing refers to any more; its
//! objects stay where they are.

use clap::{Args, Subcommand};
use lifeboat_api::{Client, EncryptionKey, ImmutabilityMode, Vault, VaultCreate};

use super::check::CheckArgs;
use super::declared::{self, Listed, Named, Names};
use super::gc::GcArgs;
use super::key::KeyArgs;
use super::storage::StorageArgs;
use super::vault_key::{self, VaultKeyArgs};
use crate::connect::ConnectionArgs;
use crate::failure::{Failure, Result};
use crate::output::Output;
use crate::render::{clean, maybe, size};
use crate::resolve;

/// Open, create and look at vaults.
#[derive(Args, Debug)]
pub(crate) struct VaultArgs {
    #[command(flatten)]
    connection: ConnectionArgs,
    #[command(subcommand)]
    verb: VaultVerb,
}

#[derive(Subcommand, Debug)]
enum VaultVerb {
    /// Attach the vault that is at URL: all that recovery needs
    Open {
        /// Where it is, as the gateway sees it: file:///absolute/directory, s3://bucket/prefix, az://container/prefix,
        /// gs://bucket/prefix; where the gateway's registration said when left out
        url: Option<String>,
        #[command(flatten)]
        key: KeyArgs,
        #[command(flatten)]
        storage: Box<StorageArgs>,
    },
    /// Make a new vault at URL and attach it
    Create {
        /// Where to make it, as the gateway sees it: file:///absolute/directory, s3://bucket/prefix,
        /// az://container/prefix, gs://bucket/prefix
        url: String,
        /// Its name
        #[arg(long)]
        name: String,
        /// Days for which data is kept after it is deleted
        #[arg(long, value_name = "DAYS", default_value_t = lifeboat_api::default_soft_delete_days())]
        soft_delete_days: u32,
        #[command(flatten)]
        key: KeyArgs,
        #[command(flatten)]
        storage: Box<StorageArgs>,
    },
    /// Change how a vault protects what it holds from people
    Protect(ProtectArgs),
    /// List the vaults that the gateway is attached to
    List,
    /// Prove everything in the vault at URL, and say what damage costs; needs no gateway
    Check(CheckArgs),
    /// Delete what no recovery point and no branch needs from the vault at URL; needs no gateway
    Gc(GcArgs),
    /// Show one
    Show(Named),
    /// See and change what opens a vault
    Key(VaultKeyArgs),
    /// Forget a vault that nothing refers to; its objects stay in storage
    Detach(Named),
}

/// What is left out stays as it is.
#[derive(Args, Debug)]
struct ProtectArgs {
    #[command(flatten)]
    named: Named,
    /// Days that deletions can be taken back
    #[arg(long, value_name = "DAYS")]
    soft_delete_days: Option<u32>,
    /// Days for which nothing that the vault holds can be destroyed; 0 ends it, unless it is locked
    #[arg(long, value_name = "DAYS")]
    immutable_days: Option<u32>,
    /// From now on nobody can shorten or end it: there is no way back
    #[arg(long, requires = "immutable_days")]
    lock: bool,
    /// Whether what destroys needs a second person's approval
    #[arg(long, value_name = "true|false")]
    second_approval: Option<bool>,
}

async fn protect(client: &Client, args: ProtectArgs, output: Output) -> Result<()> {
    let vault: Vault = resolve::find(client, &args.named.target).await?;
    let was_locked = vault.spec.immutability.is_some_and(|now| now.mode == ImmutabilityMode::Locked);
    let mode = if args.lock || was_locked { ImmutabilityMode::Locked } else { ImmutabilityMode::Unlocked };
    let mut patch = serde_json::Map::new();
    if let Some(days) = args.soft_delete_days {
        patch.insert("soft_delete_days".to_owned(), days.into());
    }
    if let Some(days) = args.immutable_days {
        let wanted =
            if days == 0 { serde_json::Value::Null } else { serde_json::json!({ "mode": mode, "days": days }) };
        patch.insert("immutability".to_owned(), wanted);
    }
    if let Some(wanted) = args.second_approval {
        patch.insert("second_approval".to_owned(), wanted.into());
    }
    let vault: Vault = client.patch(&vault.id.to_string(), vault.generation, &patch).await?;
    output.show(&vault, || {
        let immutable = vault.spec.immutability.map_or_else(
            || "not immutable".to_owned(),
            |now| format!("immutable for {} days ({})", now.days, now.mode.as_str()),
        );
        let second =
            if vault.spec.second_approval { "what destroys needs a second person" } else { "one person can destroy" };
        clean(&format!(
            "vault {}: deletions can be taken back for {} days; {immutable}; {second}",
            vault.spec.name, vault.spec.soft_delete_days
        ))
    })
}

impl Listed for Vault {
    const HEAD: &'static [&'static str] = &["NAME", "HEALTH", "STORED", "URL", "ID"];

    fn cells(&self, _: &Names) -> Vec<String> {
        let (spec, status) = (&self.spec, &self.status);
        vec![
            spec.name.clone(),
            status.health.to_string(),
            maybe(status.bytes_stored.map(size)),
            status.attached_url.clone(),
            self.id.to_string(),
        ]
    }
}

/// What is sent to attach the vault at a place: its name and settings are its own.
fn attach(storage_url: String, encryption: EncryptionKey) -> VaultCreate {
    VaultCreate {
        name: "vault".to_owned(),
        storage_url,
        storage_endpoint: None,
        storage_region: None,
        storage_credentials: None,
        storage_proxy: None,
        encryption,
        soft_delete_days: lifeboat_api::default_soft_delete_days(),
        immutability: None,
        second_approval: false,
        attach: true,
    }
}

pub(crate) async fn run(args: VaultArgs, output: Output) -> Result<()> {
    let connection = args.connection;
    let client = || connection.client();
    match args.verb {
        VaultVerb::Check(check) => super::check::run(check, output).await,
        VaultVerb::Gc(gc) => super::gc::run(gc, output).await,
        VaultVerb::Open { url, key, storage } => {
            let client = client()?;
            let place = match url {
                Some(_) => None,
                None => Some(client.registration().await?.vault.ok_or_else(|| {
                    Failure::usage(
                        "where the vault is isn't known: no registration has told this gateway; give its URL",
                    )
                })?),
            };
            let url = url.or_else(|| place.as_ref().map(|place| place.storage_url.clone())).unwrap_or_default();
            let mut wanted = attach(url, key.for_gateway()?);
            storage.put_into(&mut wanted)?;
            if let Some(place) = place {
                wanted.storage_endpoint = wanted.storage_endpoint.or(place.storage_endpoint);
                wanted.storage_region = wanted.storage_region.or(place.storage_region);
            }
            let vault = client.create_vault(&wanted).await?;
            output.show(&vault, || {
                clean(&format!("vault {} is open at {}: {}", vault.spec.name, vault.status.attached_url, vault.id))
            })
        }
        VaultVerb::Create { url, name, soft_delete_days, key, storage } => {
            let mut wanted = VaultCreate { name, soft_delete_days, attach: false, ..attach(url, key.for_gateway()?) };
            storage.put_into(&mut wanted)?;
            let vault = client()?.create_vault(&wanted).await?;
            output.show(&vault, || {
                clean(&format!("vault {} made at {}: {}", vault.spec.name, vault.status.attached_url, vault.id))
            })
        }
        VaultVerb::Protect(protect_args) => protect(&client()?, protect_args, output).await,
        VaultVerb::List => declared::list::<Vault>(&client()?, output, "no vault is attached").await,
        VaultVerb::Show(named) => declared::show::<Vault>(&client()?, output, &named).await,
        VaultVerb::Key(key) => vault_key::run(&client()?, key, output).await,
        VaultVerb::Detach(named) => declared::delete::<Vault>(&client()?, output, &named, "detached").await,
    }
}
