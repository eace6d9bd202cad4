//! `lifeboat vault key`: list, add, remove, verify, rotate.
//!
//! A vault opens with the key of any of its slots. Rotating makes a new master key, for which each slot's key is needed
//! once more: the gateway has its own, the others are given here, and slots whose key nobody gives are dropped only when
//! that is asked for. Every one of these can be repeated.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use lifeboat_api::{
    AddKeyRequest, Client, EncryptionKey, KeyRotation, KeySourceKind, RemoveKeyRequest, RotateKeyRequest, Vault,
    VaultKeys, VerifiedKey, VerifyKeyRequest,
};

use super::declared::Named;
use super::key::{KeyArgs, passphrase_from};
use crate::failure::{Exit, Failure, Result};
use crate::output::Output;
use crate::render::{Table, clean};
use crate::resolve::find;

/// The ways to open a vault.
#[derive(Args, Debug)]
pub(crate) struct VaultKeyArgs {
    #[command(subcommand)]
    verb: VaultKeyVerb,
}

#[derive(Subcommand, Debug)]
enum VaultKeyVerb {
    /// List the key slots
    List(Named),
    /// Make another key open the vault; those that do go on doing so
    Add {
        #[command(flatten)]
        vault: Named,
        #[command(flatten)]
        key: KeyArgs,
        /// This gateway opens the vault with it from now on
        #[arg(long = "use")]
        use_it: bool,
    },
    /// Make a key open the vault no more; never the last one
    Remove {
        #[command(flatten)]
        vault: Named,
        /// Number of its slot
        slot: u32,
    },
    /// Say whether a key opens the vault
    Verify {
        #[command(flatten)]
        vault: Named,
        #[command(flatten)]
        key: KeyArgs,
    },
    /// Replace the master key; everything that it protects is brought under the new one
    Rotate(Rotate),
}

#[derive(Args, Debug)]
struct Rotate {
    #[command(flatten)]
    vault: Named,
    /// File that holds the passphrase of another slot; may be given several times
    #[arg(long, value_name = "FILE")]
    with_key: Vec<PathBuf>,
    /// Key file of another slot, on the gateway's machine; may be given several times
    #[arg(long, value_name = "FILE")]
    with_key_file: Vec<PathBuf>,
    /// KMS key of another slot; may be given several times
    #[arg(long, value_name = "NAME")]
    with_kms_key: Vec<String>,
    /// Drop the slots whose key isn't given: what they were made with opens the vault no more
    #[arg(long)]
    drop_others: bool,
}

async fn slots(client: &Client, vault: &Vault) -> Result<VaultKeys> {
    Ok(client.get(&format!("/v1/vaults/{}/keys", vault.id), &[]).await?)
}

fn show(keys: &VaultKeys) -> String {
    let mut slots = Table::new(&["SLOT", "SOURCE", "CREATED"]);
    for slot in &keys.slots {
        slots.row([slot.slot.to_string(), slot.source.clone(), slot.created.to_string()]);
    }
    let state = if keys.rewrapping { ", a rotation is still bringing objects under it" } else { "" };
    format!("{}\nmaster key {}{state}", slots.or("nothing opens it"), keys.master_key)
}

fn other(key_source: KeySourceKind) -> EncryptionKey {
    EncryptionKey { key_source, passphrase: None, key_file: None, kms_key: None }
}

impl Rotate {
    fn keys(&self) -> Result<Vec<EncryptionKey>> {
        let mut keys = Vec::new();
        for path in &self.with_key {
            let passphrase = Some(passphrase_from(path)?);
            keys.push(EncryptionKey { passphrase, ..other(KeySourceKind::Passphrase) });
        }
        for path in &self.with_key_file {
            let key_file = Some(path.display().to_string());
            keys.push(EncryptionKey { key_file, ..other(KeySourceKind::KeyFile) });
        }
        for name in &self.with_kms_key {
            keys.push(EncryptionKey { kms_key: Some(name.clone()), ..other(KeySourceKind::Kms) });
        }
        Ok(keys)
    }
}

pub(crate) async fn run(client: &Client, args: VaultKeyArgs, output: Output) -> Result<()> {
    match args.verb {
        VaultKeyVerb::List(vault) => {
            let keys = slots(client, &find(client, &vault.target).await?).await?;
            output.show(&keys, || show(&keys))
        }
        VaultKeyVerb::Add { vault, key, use_it } => {
            let vault: Vault = find(client, &vault.target).await?;
            let wanted = AddKeyRequest { key: key.for_gateway()?, r#use: use_it };
            let keys: VaultKeys = client.post(&format!("/v1/vaults/{}:add-key", vault.id), &wanted).await?;
            output.show(&keys, || show(&keys))
        }
        VaultKeyVerb::Remove { vault, slot } => {
            let vault: Vault = find(client, &vault.target).await?;
            let path = format!("/v1/vaults/{}:remove-key", vault.id);
            let keys: VaultKeys = client.post(&path, &RemoveKeyRequest { slot }).await?;
            output.show(&keys, || show(&keys))
        }
        VaultKeyVerb::Verify { vault, key } => {
            let vault: Vault = find(client, &vault.target).await?;
            let path = format!("/v1/vaults/{}:verify-key", vault.id);
            let found: VerifiedKey = client.post(&path, &VerifyKeyRequest { key: key.for_gateway()? }).await?;
            let numbers: Vec<String> = found.slots.iter().map(u32::to_string).collect();
            output.show(&found, || match found.slots.is_empty() {
                true => clean(&format!("this key does not open the vault {}", vault.spec.name)),
                false => clean(&format!("this key opens the vault {}: slot {}", vault.spec.name, numbers.join(", "))),
            })?;
            match found.slots.is_empty() {
                true => Err(Failure::new(Exit::Failed, "the key isn't one of the vault's")),
                false => Ok(()),
            }
        }
        VaultKeyVerb::Rotate(rotate) => {
            let vault: Vault = find(client, &rotate.vault.target).await?;
            let wanted = RotateKeyRequest {
                from: slots(client, &vault).await?.master_key,
                keys: rotate.keys()?,
                drop_others: rotate.drop_others,
            };
            let done: KeyRotation = client.post(&format!("/v1/vaults/{}:rotate-key", vault.id), &wanted).await?;
            output.show(&done, || {
                let mut text = format!(
                    "vault {} has master key {}: {} keys wrapped anew, {} documents sealed anew",
                    vault.spec.name, done.master_key, done.rewrapped, done.resealed
                );
                for slot in &done.dropped_slots {
                    text.push_str(&format!("\nslot {slot} was dropped: its key opens the vault no more"));
                }
                if done.left_behind > 0 {
                    text.push_str(&format!(
                        "\nthe storage kept {} old key objects, which the old master key still opens",
                        done.left_behind
                    ));
                }
                text
            })
        }
    }
}
