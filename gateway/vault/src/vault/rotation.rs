//! A new master key, and everything brought under it.
//!
//! ```text
//! master key n ──one vault document──> n + 1 in new slots, n kept under n + 1, "rewrapping"
//!     each owner's keys: the next object, wrapped under n + 1; those before it are deleted
//!     each document of the catalog: the next revision, sealed with n + 1
//! ──another vault document──> master keys before n are dropped, "rewrapping" ends
//! ```
//! The first document is the rotation: before it the old key opens everything, from it on the new one does, and there is
//! no moment in between. What follows takes away what the old key alone could still open or forge. Each step can be done
//! again; broken off anywhere, the vault is whole and [`Vault::finish_rotation`] goes on. Key n itself stays, so that what
//! a gateway wrote before it noticed can be read; the next rotation brings that over and drops n.

use std::collections::BTreeMap;

use super::document::Content;
use super::slots::{new_slot, opened_by};
use super::{CHANGE_ATTEMPTS, Vault};
use crate::error::{VaultError, VaultErrorKind, invalid};
use crate::masters::Master;
use crate::secret::{KeySource, Secret};

/// What a rotation of the master key did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyRotation {
    /// Number of the master key now.
    pub master: u32,
    /// Whether this call made that key, or found that it was there and brought the rest under it.
    pub made: bool,
    /// Slots that are gone because nobody gave their key.
    pub dropped: Vec<u32>,
    /// Volumes and groups whose keys were wrapped anew.
    pub rewrapped: u64,
    /// Documents of the catalog that were sealed anew.
    pub resealed: u64,
    /// Key objects of before that the storage didn't delete: under an object lock they stay, readable with the old key.
    pub left_behind: u64,
}

impl Vault {
    /// Replaces master key number `from`. Every slot is made anew, with the key that this vault was opened with and with
    /// `others`; a slot that none of them opens stands in the way, unless `drop_others` gives it up. A rotation that was
    /// broken off is finished instead of beginning another, and one that was done (the number is higher) is left alone.
    ///
    /// [`VaultErrorKind::Conflict`] naming the slots that no given key opens; [`VaultErrorKind::InvalidInput`] for a
    /// key that opens no slot.
    pub async fn rotate_master(
        &self,
        from: u32,
        others: &[KeySource],
        drop_others: bool,
    ) -> Result<KeyRotation, VaultError> {
        for _ in 0..CHANGE_ATTEMPTS {
            let content = self.shared.load().await?;
            let old = self.shared.masters.newest();
            if content.rewrapping || old.number > from {
                return self.finish_rotation().await;
            }
            if old.number < from {
                return Err(invalid(format!(
                    "the vault's master key has the number {}, not {from}: read it again",
                    old.number
                )));
            }
            let mut key = Secret::default();
            self.shared.options.entropy.fill(key.as_mut_slice())?;
            let new = Master::new(self.id().to_bytes(), old.number + 1, key);
            let (next, dropped) = self.under(&content, &new, others, drop_others).await?;
            match self.write(&next, &new).await {
                Ok(()) => {}
                Err(error) if error.kind() == VaultErrorKind::AlreadyExists => continue,
                Err(error) => return Err(error),
            }
            self.shared.masters.replace(new.number, next.masters(&new)?);
            self.shared.replace(next);
            tracing::info!(vault = %self.id(), master = new.number, "the master key was replaced");
            return Ok(KeyRotation { made: true, dropped, ..self.finish_rotation().await? });
        }
        Err(self.contended())
    }

    /// The document with every slot made anew for `new`, and the slots that are given up.
    async fn under(
        &self,
        content: &Content,
        new: &Master,
        others: &[KeySource],
        drop_others: bool,
    ) -> Result<(Content, Vec<u32>), VaultError> {
        let own = self.shared.source();
        let mut sources: BTreeMap<u32, &KeySource> = BTreeMap::new();
        for source in std::iter::once(&own).chain(others) {
            let opened = opened_by(content, source).await?;
            if opened.is_empty() {
                return Err(invalid(format!(
                    "a {} was given that opens no key slot of this vault: leave it out, or add it as a key first",
                    source.word().as_str().replace('-', " ")
                )));
            }
            for (slot, _) in opened {
                sources.entry(slot.slot).or_insert(source);
            }
        }
        let heads = content.heads()?;
        let missing: Vec<_> = heads.iter().filter(|head| !sources.contains_key(&head.slot)).collect();
        if !missing.is_empty() && !drop_others {
            let named: Vec<_> = missing.iter().map(|head| format!("{} ({})", head.slot, head.source)).collect();
            return Err(VaultError::new(
                VaultErrorKind::Conflict,
                format!(
                    "a new master key needs the key of every slot, and none was given for slot {}: give them, or drop \
                     these slots; nothing was changed",
                    named.join(", ")
                ),
            ));
        }
        let dropped = missing.iter().map(|head| head.slot).collect();
        let mut next = content.clone();
        next.slots.clear();
        for source in sources.into_values() {
            let slot = new_slot(self.id(), next.slots_made + 1, source, &new.key, &self.shared.options).await?;
            next.push(&slot)?;
        }
        let old = self.shared.masters.newest();
        next.keep(&content.masters(&old)?, new, &self.shared.options.entropy)?;
        next.rewrapping = true;
        self.advance(&mut next)?;
        Ok((next, dropped))
    }

    /// Brings under the newest master key what isn't yet. Worth calling when [`super::VaultInfo::rewrapping`] says so;
    /// otherwise it changes nothing.
    ///
    /// An object that is damaged doesn't keep the others from being done; its error is given when they are.
    pub async fn finish_rotation(&self) -> Result<KeyRotation, VaultError> {
        let content = self.shared.load().await?;
        let master = self.shared.masters.newest().number;
        let mut done = KeyRotation { master, ..KeyRotation::default() };
        if !content.rewrapping {
            return Ok(done);
        }
        let mut damaged = None;
        for owner in self.shared.keyring.owners().await? {
            match self.shared.keyring.rewrap(&owner).await {
                Ok(rewrapped) => {
                    done.rewrapped += u64::from(rewrapped.written);
                    done.left_behind += rewrapped.left_behind;
                }
                Err(error) if error.kind() == VaultErrorKind::Tampered => damaged = Some(error),
                Err(error) => return Err(error),
            }
        }
        match self.shared.catalog.reseal().await {
            Ok(count) => done.resealed = count,
            Err(error) if error.kind() == VaultErrorKind::Tampered => damaged = Some(error),
            Err(error) => return Err(error),
        }
        if let Some(error) = damaged {
            return Err(error);
        }
        self.change(|content, newest| {
            let unfinished = content.rewrapping && newest == master;
            if unfinished {
                content.rewrapping = false;
                content.previous.retain(|previous| previous.master + 1 >= newest);
            }
            Ok(unfinished)
        })
        .await?;
        Ok(done)
    }
}
