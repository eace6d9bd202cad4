//! What opens the key that this machine's own files are encrypted with, as it is given to `serve`, `agent run` and whatever
//! reads those files: a key file, or a file that holds a passphrase. Never the passphrase itself, which lists of processes
//! would show.

use std::path::{Path, PathBuf};

use clap::Args;
use lifeboat_engine::at_rest::LocalKey;
use lifeboat_vault::KeySource;
use secrecy::SecretString;

use crate::connect::environment;
use crate::failure::{Failure, Result};
use crate::verbs::key::{passphrase_from, passphrase_from_input};

/// Variables in place of the flags.
pub(crate) const KEY_FILE: &str = "LIFEBOAT_LOCAL_KEY_FILE";
pub(crate) const PASSPHRASE_FILE: &str = "LIFEBOAT_LOCAL_PASSPHRASE_FILE";

/// What opens the local key.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Key of this machine's own files, where they are encrypted")]
pub(crate) struct LocalKeyArgs {
    /// Key file that opens the local key [env: LIFEBOAT_LOCAL_KEY_FILE]
    #[arg(long, value_name = "FILE")]
    pub(crate) local_key_file: Option<PathBuf>,
    /// File of the passphrase that opens the local key, - for standard input [env: LIFEBOAT_LOCAL_PASSPHRASE_FILE]
    #[arg(long, value_name = "FILE", conflicts_with = "local_key_file")]
    pub(crate) local_passphrase_file: Option<PathBuf>,
}

impl LocalKeyArgs {
    /// What was given, by flags or else by variables.
    ///
    /// # Errors
    /// Both kinds are given; the passphrase can't be read.
    pub(crate) fn source(&self) -> Result<Option<KeySource>> {
        let given = (self.local_key_file.clone(), self.local_passphrase_file.clone());
        let given = match given {
            (None, None) => (environment(KEY_FILE).map(PathBuf::from), environment(PASSPHRASE_FILE).map(PathBuf::from)),
            given => given,
        };
        source(given.0, given.1)
    }

    /// The key of the state directory that a path lies in; none when it has none.
    ///
    /// # Errors
    /// It has one, and nothing that opens it was given.
    pub(crate) async fn of(&self, path: &Path) -> Result<Option<LocalKey>> {
        let Some(state) = path.ancestors().find(|dir| dir.join(lifeboat_server::local_key::NAME).is_file()) else {
            return Ok(None);
        };
        open(state, self.source()?.as_ref()).await
    }
}

/// The key of a state directory.
///
/// # Errors
/// What is in the way.
pub(crate) async fn open(state: &Path, source: Option<&KeySource>) -> Result<Option<LocalKey>> {
    let opened = lifeboat_server::local_key::unlock(state, source).await;
    opened.map_err(|error| Failure::failed(format!("{error:#}")))
}

/// The one that is given.
///
/// # Errors
/// Both are; the passphrase can't be read, or is empty.
pub(crate) fn source(key_file: Option<PathBuf>, passphrase_file: Option<PathBuf>) -> Result<Option<KeySource>> {
    let passphrase = match (key_file, passphrase_file) {
        (None, None) => return Ok(None),
        (Some(_), Some(_)) => {
            return Err(Failure::usage("a local key opens with a key file or a passphrase: give one of the two"));
        }
        (Some(path), None) => return Ok(Some(KeySource::KeyFile(path))),
        (None, Some(path)) if path == Path::new("-") => passphrase_from_input()?,
        (None, Some(path)) => passphrase_from(&path)?,
    };
    Ok(Some(KeySource::Passphrase(SecretString::from(passphrase.expose().to_owned()))))
}
