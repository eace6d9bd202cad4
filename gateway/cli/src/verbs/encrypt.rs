//! `lifeboat encrypt`: encrypts what a gateway or an agent that is stopped keeps on its disk, or lets another passphrase or key file
//! open it.
//!
//! One directory after the other, each whole or not at all; interrupted, it goes on where it was when it is run again. A gateway that
//! is started with a key for the first time encrypts what it writes into new directories; this is for those that were there before.

use std::path::{Path, PathBuf};

use clap::Args;
use lifeboat_engine::at_rest::{Conversion, LocalKey, convert, encrypted_now, system_salts};
use lifeboat_server::state_dir::StateDir;
use serde::Serialize;

use crate::failure::{Failure, Result};
use crate::local_key::{LocalKeyArgs, open, source};
use crate::output::{Output, is_watched, note};
use crate::progress::Amount;
use crate::render::{clean, size};

/// Directories of a state directory that hold data, a gateway's and an agent's.
const DATA: [&str; 3] = ["groups", "streams", "group"];

/// What to encrypt.
#[derive(Args, Debug)]
pub(crate) struct EncryptArgs {
    /// The state directory of a gateway or an agent that is stopped
    #[arg(long, value_name = "DIR")]
    state: PathBuf,
    #[command(flatten)]
    key: LocalKeyArgs,
    /// Key file that opens the local key from now on, in place of what does now
    #[arg(long, value_name = "FILE")]
    new_local_key_file: Option<PathBuf>,
    /// File of the passphrase that opens the local key from now on, in place of what does now
    #[arg(long, value_name = "FILE", conflicts_with = "new_local_key_file")]
    new_local_passphrase_file: Option<PathBuf>,
}

/// What was done.
#[derive(Debug, Default, Serialize)]
struct Done {
    /// Directories that are encrypted now.
    encrypted: Vec<String>,
    /// Directories that were before.
    already: usize,
    /// Bytes copied.
    bytes: u64,
    /// Whether something else opens the local key from now on.
    key_changed: bool,
}

pub(crate) async fn run(args: EncryptArgs, output: Output) -> Result<()> {
    let failed = |error: anyhow::Error| Failure::failed(format!("{error:#}"));
    let given = args.key.source()?.ok_or_else(|| {
        Failure::usage(
            "nothing is given to encrypt with: name a key file with --local-key-file, or a passphrase's file \
                        with --local-passphrase-file",
        )
    })?;
    let new = source(args.new_local_key_file, args.new_local_passphrase_file)?;
    let mut held = hold(&args.state)?;
    let mut done = Done::default();
    if let Some(new) = new {
        lifeboat_server::local_key::change(&args.state, &given, &new).await.map_err(failed)?;
        done.key_changed = true;
    } else {
        let key = open(&args.state, Some(&given)).await?.ok_or_else(|| Failure::failed("there is no local key"))?;
        if let Held::Gateway(state) = &mut held {
            state.use_key(Some(key.clone())).map_err(failed)?;
        }
        let (state, shown) = (args.state.clone(), args.state.display().to_string());
        let converted = tokio::task::spawn_blocking(move || directories(&state, &key)).await;
        done = converted.map_err(|error| Failure::failed(format!("encrypting {shown} was broken off: {error}")))??;
    }
    drop(held);
    output.show(&done, || shown(&done))
}

/// What keeps a gateway or an agent from starting meanwhile.
enum Held {
    Gateway(StateDir),
    Agent(#[expect(dead_code, reason = "held, not looked at")] std::fs::File),
}

fn hold(state: &Path) -> Result<Held> {
    let failed = |error: anyhow::Error| Failure::failed(format!("{error:#}"));
    if state.join("process.id").exists() {
        return StateDir::take(state).map(Held::Gateway).map_err(failed);
    }
    if state.join("identity.pem").exists() {
        return lifeboat_agent::hold(state).map(Held::Agent).map_err(failed);
    }
    Err(Failure::failed(format!("{} is the state directory of no gateway and of no agent", state.display())))
}

fn directories(state: &Path, key: &LocalKey) -> Result<Done> {
    let mut done = Done::default();
    let salts = system_salts();
    for root in DATA.iter().map(|name| state.join(name)).filter(|root| root.is_dir()) {
        let found = encrypted_now(&root)
            .map_err(|error| Failure::failed(format!("{} can't be looked through: {error}", root.display())))?;
        for (directory, _) in found {
            let shown = directory.display().to_string();
            let mut encrypted = Amount::new(is_watched(), format!("{shown}: encrypted"));
            let converted =
                convert(&directory, key, &salts, &mut |so_far, all| encrypted.reached(so_far, all.max(so_far)));
            drop(encrypted);
            match converted.map_err(|error| Failure::failed(error.to_string()))? {
                Conversion::Already => done.already = done.already.saturating_add(1),
                Conversion::Encrypted(bytes) => {
                    note(&format!("{shown}: encrypted, {}", size(bytes)));
                    done.bytes = done.bytes.saturating_add(bytes);
                    done.encrypted.push(shown);
                }
            }
        }
    }
    Ok(done)
}

fn shown(done: &Done) -> String {
    if done.key_changed {
        return "the local key opens with what was given new, and no more with the old".to_owned();
    }
    let mut text =
        format!("{} directories encrypted ({}), {} were before", done.encrypted.len(), size(done.bytes), done.already);
    if !done.encrypted.is_empty() {
        text += "\nwhat stood there in clear is deleted, not overwritten: where that matters, trim or wipe the disk's free space";
    }
    clean(&text)
}
