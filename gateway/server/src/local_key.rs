//! Whether, and with what, the files of a state directory are encrypted: a gateway's or an agent's.
//!
//! `STATE/local.key` holds the key, wrapped by what its operator gives at each start: a passphrase or a key file. It is made at the first
//! start that is given one. From then on nothing starts without: what is there would not be served, and what comes would not
//! be encrypted. The key is written down before anything is encrypted with it.

use std::fs;
use std::path::Path;

use anyhow::{Context, bail};
use lifeboat_engine::at_rest::LocalKey;
use lifeboat_vault::{KeySource, VaultOptions, create_local_key, open_local_key, rewrap_local_key};

use crate::state_dir::replace;

/// Its name in the state directory.
pub const NAME: &str = "local.key";

fn read(state: &Path) -> anyhow::Result<Option<Vec<u8>>> {
    let path = state.join(NAME);
    match fs::read(&path) {
        Ok(document) => Ok(Some(document)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => bail!("{} can't be read: {error}", path.display()),
    }
}

/// The local key of a state directory, made when there is none yet; none where none is wanted.
///
/// # Errors
/// The directory has one and nothing was given to open it, or what was given doesn't; it can't be read or written.
pub async fn unlock(state: &Path, source: Option<&KeySource>) -> anyhow::Result<Option<LocalKey>> {
    match (read(state)?, source) {
        (None, None) => Ok(None),
        (Some(_), None) => bail!(
            "the state directory {} is encrypted: give what opens its key, --local-key-file or --local-passphrase-file",
            state.display()
        ),
        (Some(document), Some(source)) => {
            let opened = open_local_key(document.trim_ascii_end(), source).await;
            opened.map(Some).with_context(|| format!("the state directory {} stays closed", state.display()))
        }
        (None, Some(source)) => {
            let made = create_local_key(source, &VaultOptions::default()).await;
            let (document, key) = made.context("a local key can't be made")?;
            replace(state, NAME, &document, 0o600)?;
            tracing::info!(state = %state.display(), "local key made: what is written here from now on is encrypted");
            Ok(Some(key))
        }
    }
}

/// Lets another passphrase or key file open the local key; the old one doesn't from then on.
///
/// # Errors
/// There is none, the old one doesn't open it, it can't be written.
pub async fn change(state: &Path, old: &KeySource, new: &KeySource) -> anyhow::Result<()> {
    let Some(document) = read(state)? else {
        bail!("{} has no local key to change: run `lifeboat encrypt` without --new-…", state.display())
    };
    let changed = rewrap_local_key(document.trim_ascii_end(), old, new, &VaultOptions::default()).await;
    replace(state, NAME, &changed.context("the local key is as it was")?, 0o600)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_directory_with_a_key_opens_with_it_alone() {
        let directory = tempfile::tempdir().unwrap();
        let (first, second) =
            (KeySource::Passphrase("one two three".into()), KeySource::Passphrase("four five".into()));
        assert!(unlock(directory.path(), None).await.unwrap().is_none(), "none is wanted");
        let key = unlock(directory.path(), Some(&first)).await.unwrap().unwrap();
        let again = unlock(directory.path(), Some(&first)).await.unwrap().unwrap();
        assert_eq!(key.expose(), again.expose());
        let none = unlock(directory.path(), None).await.unwrap_err().to_string();
        assert!(none.contains("is encrypted: give what opens its key"), "{none}");
        let wrong = format!("{:#}", unlock(directory.path(), Some(&second)).await.unwrap_err());
        assert!(wrong.contains("this passphrase does not open the local key"), "{wrong}");

        change(directory.path(), &first, &second).await.unwrap();
        let changed = unlock(directory.path(), Some(&second)).await.unwrap().unwrap();
        assert_eq!(key.expose(), changed.expose());
        assert!(unlock(directory.path(), Some(&first)).await.is_err());
        assert!(change(directory.path(), &first, &second).await.is_err());
    }
}
