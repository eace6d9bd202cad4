//! What opens a vault, as it is given on the command line.
//!
//! A passphrase is read from a file, from standard input or from the environment, never from an argument: arguments show
//! in lists of processes. It is wiped when it was used.

use std::io::Read;
use std::path::{Path, PathBuf};

use clap::Args;
use lifeboat_api::{EncryptionKey, KeySourceKind, Secret};
use lifeboat_vault::{KeySource, KmsKey};
use secrecy::SecretString;

use crate::connect::environment;
use crate::failure::{Failure, Result};

/// The variable that may hold the passphrase.
const VARIABLE: &str = "LIFEBOAT_VAULT_PASSPHRASE";
/// A longer passphrase is a mistake: a wrong file.
const PASSPHRASE_BYTES_MAX: u64 = 4096;

/// The key of a vault.
#[derive(Args, Clone, Debug, Default)]
#[group(id = "vault-key", multiple = false)]
#[command(next_help_heading = "Key of the vault (or its passphrase in LIFEBOAT_VAULT_PASSPHRASE)")]
pub(crate) struct KeyArgs {
    /// File that holds the passphrase, on this machine
    #[arg(long = "key", visible_alias = "passphrase-file", value_name = "FILE")]
    passphrase_file: Option<PathBuf>,
    /// Key file; on the gateway's machine, an absolute path
    #[arg(long, value_name = "FILE")]
    key_file: Option<PathBuf>,
    /// Key in a key management service, for example command:/usr/local/bin/my-kms?key=NAME
    #[arg(long, value_name = "NAME")]
    kms_key: Option<String>,
    /// Read the passphrase from standard input
    #[arg(long)]
    passphrase_stdin: bool,
}

impl KeyArgs {
    /// The key as it is sent to a gateway.
    ///
    /// # Errors
    /// None was given, or the passphrase can't be read.
    pub(crate) fn for_gateway(&self) -> Result<EncryptionKey> {
        let mut key = EncryptionKey {
            key_source: KeySourceKind::Passphrase,
            passphrase: None,
            key_file: self.key_file.as_ref().map(|path| path.display().to_string()),
            kms_key: self.kms_key.clone(),
        };
        match (&key.key_file, &key.kms_key) {
            (Some(_), _) => key.key_source = KeySourceKind::KeyFile,
            (None, Some(_)) => key.key_source = KeySourceKind::Kms,
            (None, None) => key.passphrase = Some(self.passphrase(environment)?),
        }
        Ok(key)
    }

    /// The key for opening the vault from this machine.
    ///
    /// # Errors
    /// As for [`Self::for_gateway`].
    pub(crate) fn for_here(&self) -> Result<KeySource> {
        Ok(match (&self.key_file, &self.kms_key) {
            (Some(path), _) => KeySource::KeyFile(path.clone()),
            (None, Some(name)) => KeySource::Kms(KmsKey::parse(name)?),
            (None, None) => {
                KeySource::Passphrase(SecretString::from(self.passphrase(environment)?.expose().to_owned()))
            }
        })
    }

    fn passphrase(&self, variable: impl Fn(&str) -> Option<String>) -> Result<Secret> {
        if self.passphrase_stdin {
            return passphrase_from_input();
        }
        if let Some(path) = &self.passphrase_file {
            return passphrase_from(path);
        }
        variable(VARIABLE).map(Secret::new).ok_or_else(|| {
            Failure::usage(format!(
                "no key is given: name the passphrase's file with --key, the key file with --key-file or the KMS key \
                 with --kms-key, or use --passphrase-stdin or {VARIABLE}"
            ))
        })
    }
}

/// The passphrase on standard input.
///
/// # Errors
/// It can't be read, or is empty.
pub(crate) fn passphrase_from_input() -> Result<Secret> {
    let mut text = String::new();
    std::io::stdin()
        .lock()
        .take(PASSPHRASE_BYTES_MAX)
        .read_to_string(&mut text)
        .map_err(|error| Failure::failed(format!("the passphrase can't be read from standard input: {error}")))?;
    trimmed(text, "standard input")
}

/// The passphrase in a file.
///
/// # Errors
/// It can't be read, or is empty or too long.
pub(crate) fn passphrase_from(path: &Path) -> Result<Secret> {
    trimmed(read(path)?, &path.display().to_string())
}

fn read(path: &Path) -> Result<String> {
    let unreadable = |error| Failure::unreadable("the passphrase's file", path, &error);
    let length = std::fs::metadata(path).map_err(unreadable)?.len();
    if length > PASSPHRASE_BYTES_MAX {
        return Err(Failure::usage(format!("{} is too large for a passphrase: {length} bytes", path.display())));
    }
    std::fs::read_to_string(path).map_err(unreadable)
}

/// Without the line end that editors leave.
fn trimmed(mut text: String, origin: &str) -> Result<Secret> {
    text.truncate(text.trim_end_matches(['\r', '\n']).len());
    if text.is_empty() {
        return Err(Failure::usage(format!("the passphrase from {origin} is empty")));
    }
    Ok(Secret::new(text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::Exit;

    #[test]
    fn a_passphrase_comes_without_its_line_end_and_keeps_its_spaces() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("passphrase");
        std::fs::write(&path, " correct horse \r\n").expect("written");
        let args = KeyArgs { passphrase_file: Some(path.clone()), ..KeyArgs::default() };
        let key = args.for_gateway().expect("a key");
        assert_eq!(key.passphrase.as_ref().map(Secret::expose), Some(" correct horse "));
        assert!(!format!("{key:?}").contains("horse"));
        std::fs::write(&path, "\n").expect("written");
        assert_eq!(args.for_gateway().expect_err("empty").exit(), Exit::Usage);
        std::fs::remove_file(&path).expect("removed");
        assert_eq!(args.for_gateway().expect_err("absent").exit(), Exit::NotFound);
    }

    #[test]
    fn the_environment_comes_last_and_nothing_is_wrong_usage() {
        let args = KeyArgs::default();
        let found = args.passphrase(|name| (name == VARIABLE).then(|| "from the environment".into())).expect("set");
        assert_eq!(found.expose(), "from the environment");
        let failure = args.passphrase(|_| None).expect_err("nothing");
        assert_eq!(failure.exit(), Exit::Usage);
        assert!(failure.to_string().contains("--key-file"), "{failure}");
    }
}
