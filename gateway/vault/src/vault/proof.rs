//! Proving the vault's documents one by one, for whoever checks a vault. Reads only.

use std::sync::Arc;

use lifeboat_model::Timestamp;

use super::document::{Content, DOCUMENT_BYTES_MAX, LABEL_MAC};
use super::{Vault, no_vault, object_key, revision_of, revisions};
use crate::ambient::VaultOptions;
use crate::audit::AuditLog;
use crate::envelope;
use crate::error::{VaultError, VaultErrorKind, tampered};
use crate::secret::KeySource;
use crate::store::Store;

/// What a document of the vault is, proved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Proved {
    /// The vault's own document.
    Vault {
        /// Its revision.
        revision: u32,
    },
    /// A wrapped key, which opens.
    Key {
        /// The volume or group.
        owner: String,
        /// Number of the object.
        number: u32,
        /// Whether it says that the keys were destroyed.
        erased: bool,
    },
    /// A revision of a document of the catalog.
    Catalog {
        /// Counts all changes.
        revision: u64,
        /// Counts changes of the intent.
        generation: u64,
        /// When the document was created.
        created: Timestamp,
        /// Whether it is a tombstone.
        deleted: bool,
    },
    /// Records of the audit log.
    Audit {
        /// Number of the first of them.
        first: u64,
    },
    /// Undamaged, and sealed with a master key that was replaced since: nothing vouches for who wrote it.
    Outdated {
        /// Number of that master key.
        master: u32,
    },
}

impl Vault {
    /// Opens the vault for looking at it: where its newest document doesn't open, with the newest one that does. Gives
    /// the names of those that didn't, and why. Nothing may be written through it then: it doesn't know what was decided
    /// last.
    ///
    /// # Errors
    /// As [`Vault::open`]: those of the newest document, when none of them opens.
    pub async fn open_soundest(
        store: Arc<dyn Store>,
        key: &KeySource,
        options: VaultOptions,
    ) -> Result<(Self, Vec<(String, VaultError)>), VaultError> {
        let mut damaged: Vec<(String, VaultError)> = Vec::new();
        for revision in revisions(&*store).await?.into_iter().rev() {
            let bytes = store.get(&object_key(revision), DOCUMENT_BYTES_MAX).await;
            let opened = match bytes {
                Ok(bytes) => Self::open_at(Arc::clone(&store), revision, &bytes, key, options.clone()).await,
                Err(error) => Err(error.into()),
            };
            match opened {
                Ok(vault) => return Ok((vault, damaged)),
                // An older document may have had another key; a newer format means that everything is newer.
                Err(error) if matches!(error.kind(), VaultErrorKind::Tampered | VaultErrorKind::Fatal) => {
                    damaged.push((object_key(revision), error));
                }
                Err(error) => return Err(damaged.into_iter().next().map_or(error, |(_, first)| first)),
            }
        }
        Err(damaged.into_iter().next().map_or_else(|| no_vault(&*store), |(_, first)| first))
    }

    /// Proves one document of the vault, whichever kind it is: `bytes` are what stands under `key`. None when no document
    /// has such a name.
    ///
    /// # Errors
    /// [`VaultErrorKind::Tampered`], [`VaultErrorKind::NewerFormat`].
    pub async fn check_document(&self, key: &str, bytes: &[u8]) -> Result<Option<Proved>, VaultError> {
        let shared = &self.shared;
        let known = match revision_of(key) {
            Some(_) => true,
            None => shared.keyring.is_key(key) || shared.catalog.is_document(key) || AuditLog::is_object(key),
        };
        if !known {
            return Ok(None);
        }
        let opened = envelope::open(bytes, key)?;
        let master = opened.master;
        if master < shared.masters.newest().number && shared.masters.get(master).is_none() {
            return Ok(Some(Proved::Outdated { master }));
        }
        if let Some(revision) = revision_of(key) {
            let master = shared.masters.get(master).ok_or_else(|| {
                tampered(format!("{key} was sealed with master key {master}, which isn't known; restore the object"))
            })?;
            master.verify(LABEL_MAC, key, &opened)?;
            if Content::of(&opened, key)?.revision != revision {
                return Err(tampered(format!("{key} is another revision's document; restore the object")));
            }
            return Ok(Some(Proved::Vault { revision }));
        }
        if let Some(proved) = shared.keyring.check(key, bytes).await? {
            return Ok(Some(proved));
        }
        if let Some(first) = shared.audit.check(key, bytes).await? {
            return Ok(Some(Proved::Audit { first }));
        }
        shared.catalog.check(key, bytes).await
    }
}
