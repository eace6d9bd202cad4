//! The master keys of an open vault: what documents are sealed with and keys are wrapped under.
//!
//! ```text
//! master key n (newest) ── seals, wraps ──> everything written from now on
//! master keys 1 … n−1   ── prove ─────────> what was written before the last rotations, until it was written again
//! ```
//! Every document names the number of its master key. One that names a newer one than is known here was written by a
//! gateway that rotated: the vault document is read again, and only then is it decided whether the document is good.
//! Owns these keys in memory, wiped on drop and never shown.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{OnceLock, PoisonError, RwLock, Weak};

use async_trait::async_trait;
use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;
use zeroize::Zeroizing;

use crate::envelope::{self, Position};
use crate::error::{VaultError, tampered};
use crate::secret::{Secret, derive, unwrap, wrap};

const LABEL_WRAP: &[u8] = b"lifeboat/v1/key-wrap";

/// Reads the vault document again and gives what it says to the [`Masters`].
#[async_trait]
pub(crate) trait Renew: Send + Sync {
    async fn renew(&self) -> Result<(), VaultError>;
}

/// One master key.
#[derive(Clone)]
pub(crate) struct Master {
    /// From 1; each rotation makes the next.
    pub(crate) number: u32,
    pub(crate) key: Secret,
    vault: [u8; 16],
}

/// A document that was read, and what vouched for it.
pub(crate) struct Read<T> {
    pub(crate) content: T,
    /// Version of its format.
    pub(crate) version: u32,
    pub(crate) master: Master,
}

impl Master {
    pub(crate) fn new(vault: [u8; 16], number: u32, key: Secret) -> Self {
        Self { number, key, vault }
    }

    /// Encodes and authenticates the document `object`.
    pub(crate) fn seal<T: Serialize>(
        &self,
        label: &[u8],
        object: &str,
        content: &T,
        max_bytes: u64,
    ) -> Result<Bytes, VaultError> {
        envelope::encode(content, &self.position(label, object), self.number, &self.mac_key(label), max_bytes)
    }

    /// Whether the document `object` was sealed with this key.
    pub(crate) fn verify(&self, label: &[u8], object: &str, opened: &envelope::Opened<'_>) -> Result<(), VaultError> {
        opened.verify(&self.position(label, object), &self.mac_key(label))
    }

    /// Wraps the secret of a key object.
    pub(crate) fn wrap(&self, object: &str, nonce: [u8; 12], secret: &[u8]) -> Result<Vec<u8>, VaultError> {
        wrap(&self.wrapping_key(object), nonce, &self.aad(envelope::FORMAT_VERSION, object), secret)
    }

    /// Unwraps what [`Self::wrap`] gave, or an older version of it; `None` if it isn't that.
    pub(crate) fn unwrap(
        &self,
        version: u32,
        object: &str,
        nonce: [u8; 12],
        wrapped: &[u8],
    ) -> Option<Zeroizing<Vec<u8>>> {
        unwrap(&self.wrapping_key(object), nonce, &self.aad(version, object), wrapped)
    }

    fn wrapping_key(&self, object: &str) -> Secret {
        derive(self.key.as_slice(), &self.vault, &[LABEL_WRAP, object.as_bytes()])
    }

    fn aad(&self, version: u32, object: &str) -> Vec<u8> {
        match version {
            1 => [LABEL_WRAP, &self.vault, object.as_bytes()].concat(),
            _ => [LABEL_WRAP, &self.vault, &self.number.to_le_bytes(), object.as_bytes()].concat(),
        }
    }

    fn mac_key(&self, label: &[u8]) -> Secret {
        derive(self.key.as_slice(), &self.vault, &[label])
    }

    fn position<'a>(&self, label: &'a [u8], key: &'a str) -> Position<'a> {
        Position { label, key, vault: self.vault }
    }
}

/// The master keys of one vault.
pub(crate) struct Masters {
    vault: [u8; 16],
    known: RwLock<Known>,
    renew: OnceLock<Weak<dyn Renew>>,
}

struct Known {
    newest: u32,
    keys: BTreeMap<u32, Secret>,
}

impl Masters {
    pub(crate) fn new(vault: [u8; 16], newest: u32, keys: BTreeMap<u32, Secret>) -> Self {
        Self { vault, known: RwLock::new(Known { newest, keys }), renew: OnceLock::new() }
    }

    /// Who is asked when a document names a key that isn't known here.
    pub(crate) fn renewed_by(&self, renew: Weak<dyn Renew>) {
        self.renew.get_or_init(|| renew);
    }

    pub(crate) fn newest(&self) -> Master {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let key = known.keys.get(&known.newest).cloned().expect("the newest master key is among them");
        Master::new(self.vault, known.newest, key)
    }

    pub(crate) fn get(&self, number: u32) -> Option<Master> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        known.keys.get(&number).map(|key| Master::new(self.vault, number, key.clone()))
    }

    /// Takes over what a vault document says; never goes back to an older newest key.
    pub(crate) fn replace(&self, newest: u32, keys: BTreeMap<u32, Secret>) {
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        if newest >= known.newest {
            *known = Known { newest, keys };
        }
    }

    /// Verifies the document `object`, then decodes it.
    pub(crate) async fn open<T: DeserializeOwned>(
        &self,
        label: &[u8],
        object: &str,
        bytes: &[u8],
    ) -> Result<Read<T>, VaultError> {
        let opened = envelope::open(bytes, object)?;
        let number = opened.master;
        let newest = self.newest().number;
        if number > newest
            && let Some(renew) = self.renew.get().and_then(Weak::upgrade)
        {
            renew.renew().await?;
        }
        let Some(master) = self.get(number) else {
            let why = match number < newest {
                true => "was replaced long ago, and nothing vouches for it any more",
                false => "the vault document knows nothing of",
            };
            return Err(tampered(format!(
                "{object} was sealed with master key {number}, which {why}: an old copy was put back, or the object was \
                 edited; restore it"
            )));
        };
        master.verify(label, object, &opened)?;
        Ok(Read { content: opened.content(object)?, version: opened.version, master })
    }
}

impl fmt::Debug for Masters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        f.debug_struct("Masters").field("newest", &known.newest).field("known", &known.keys.len()).finish()
    }
}
