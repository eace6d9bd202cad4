//! What a vault document says: `vault/<revision>.json`, in its versions.
//!
//! Version 2 adds what rotation needs: the master keys before the newest, each wrapped under the newest, and whether
//! objects are still being brought under the newest. Its slots are kept as they stand, so that a slot of a kind that this
//! build doesn't know survives a change. A document of version 1 is read as one that was never rotated; whatever is
//! written is version 2.

use std::collections::BTreeMap;

use lifeboat_model::{Timestamp, VaultId};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::ambient::Entropy;
use crate::envelope::{self, Binary};
use crate::error::{VaultError, invalid, tampered};
use crate::masters::Master;
use crate::secret::{Kdf, Secret, SourceWord, derive, unwrap, wrap};

pub(super) const LABEL_MAC: &[u8] = b"lifeboat/v1/vault-mac";
const LABEL_PREVIOUS: &[u8] = b"lifeboat/v2/previous-master";
pub(super) const DOCUMENT_BYTES_MAX: u64 = 65_536;
/// Each slot costs a derivation when a vault is opened.
pub(super) const SLOTS_MAX: usize = 8;
/// Rotations that were begun and not finished keep the master keys before them; there is no need for so many.
const PREVIOUS_MAX: usize = 16;

/// A vault document.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Content {
    pub(super) vault_id: VaultId,
    pub(super) revision: u32,
    pub(super) name: String,
    pub(super) created: Timestamp,
    pub(super) updated: Timestamp,
    pub(super) soft_delete_days: u32,
    /// Highest number that a slot ever had.
    pub(super) slots_made: u32,
    pub(super) slots: Vec<Box<RawValue>>,
    /// Master keys before the newest, by number.
    pub(super) previous: Vec<Previous>,
    /// Whether a rotation still has objects to bring under the newest master key.
    pub(super) rewrapping: bool,
    /// Tells the revisions of two writers apart that say the same.
    pub(super) nonce: Binary<16>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ContentV1 {
    vault_id: VaultId,
    revision: u32,
    name: String,
    created: Timestamp,
    updated: Timestamp,
    soft_delete_days: u32,
    slots: Vec<Slot>,
    nonce: Binary<16>,
}

/// An earlier master key, wrapped under the newest.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Previous {
    pub(super) master: u32,
    nonce: Binary<12>,
    wrapped: Binary<48>,
}

/// A slot of a kind that this build knows.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Slot {
    pub(super) slot: u32,
    pub(super) source: SourceWord,
    pub(super) created: Timestamp,
    pub(super) kdf: Kdf,
    pub(super) salt: Binary<32>,
    pub(super) check: Binary<32>,
    pub(super) nonce: Binary<12>,
    pub(super) wrapped: Binary<48>,
}

/// What every slot says of itself, whatever its kind.
#[derive(Clone, Deserialize)]
pub(super) struct SlotHead {
    pub(super) slot: u32,
    pub(super) source: String,
    pub(super) created: Timestamp,
}

impl Content {
    /// What an opened document says. Proven only once its MAC is.
    pub(super) fn of(opened: &envelope::Opened<'_>, object: &str) -> Result<Self, VaultError> {
        let content: Self = if opened.version == 1 {
            let old: ContentV1 = opened.content(object)?;
            let slots_made = old.slots.iter().map(|slot| slot.slot).max().unwrap_or(0);
            let slots: Result<Vec<_>, _> = old.slots.iter().map(raw).collect();
            Self {
                vault_id: old.vault_id,
                revision: old.revision,
                name: old.name,
                created: old.created,
                updated: old.updated,
                soft_delete_days: old.soft_delete_days,
                slots_made,
                slots: slots?,
                previous: Vec::new(),
                rewrapping: false,
                nonce: old.nonce,
            }
        } else {
            opened.content(object)?
        };
        if content.slots.len() > SLOTS_MAX || content.previous.len() > PREVIOUS_MAX {
            return Err(tampered(format!("{object} has too many key slots or master keys; restore the object")));
        }
        Ok(content)
    }

    /// Number, kind and age of every slot.
    pub(super) fn heads(&self) -> Result<Vec<SlotHead>, VaultError> {
        self.slots.iter().map(|slot| serde_json::from_str(slot.get()).map_err(|error| self.misfit(error))).collect()
    }

    /// The slots of kinds that this build knows.
    pub(super) fn known_slots(&self) -> Result<Vec<Slot>, VaultError> {
        let mut known = Vec::new();
        for (head, slot) in self.heads()?.iter().zip(&self.slots) {
            if SourceWord::of(&head.source).is_some() {
                known.push(serde_json::from_str(slot.get()).map_err(|error| self.misfit(error))?);
            }
        }
        Ok(known)
    }

    pub(super) fn push(&mut self, slot: &Slot) -> Result<(), VaultError> {
        self.slots.push(raw(slot)?);
        self.slots_made = self.slots_made.max(slot.slot);
        Ok(())
    }

    /// The master keys before `newest`, and it.
    pub(super) fn masters(&self, newest: &Master) -> Result<BTreeMap<u32, Secret>, VaultError> {
        let mut keys = BTreeMap::from([(newest.number, newest.key.clone())]);
        for previous in &self.previous {
            let opened = unwrap(
                &self.previous_key(newest),
                previous.nonce.0,
                &self.previous_aad(newest.number, previous.master),
                &previous.wrapped.0,
            );
            let secret = opened.and_then(|bytes| bytes.as_slice().try_into().ok()).map(Secret::new);
            let secret = secret.filter(|_| previous.master < newest.number).ok_or_else(|| {
                tampered(format!(
                    "master key {} of {} does not open; restore the vault document",
                    previous.master, self.vault_id
                ))
            })?;
            keys.insert(previous.master, secret);
        }
        Ok(keys)
    }

    /// Keeps these master keys, wrapped under `newest`.
    pub(super) fn keep(
        &mut self,
        keys: &BTreeMap<u32, Secret>,
        newest: &Master,
        entropy: &Entropy,
    ) -> Result<(), VaultError> {
        if keys.len() > PREVIOUS_MAX {
            return Err(invalid(format!("{} has too many master keys that something still depends on", self.vault_id)));
        }
        self.previous.clear();
        for (number, key) in keys {
            let nonce = entropy.array()?;
            let aad = self.previous_aad(newest.number, *number);
            let wrapped = wrap(&self.previous_key(newest), nonce, &aad, key.as_slice())?;
            let wrapped = wrapped.try_into().map_err(|_| tampered("a wrapped key has a wrong length"))?;
            self.previous.push(Previous { master: *number, nonce: Binary(nonce), wrapped: Binary(wrapped) });
        }
        Ok(())
    }

    fn previous_key(&self, newest: &Master) -> Secret {
        derive(newest.key.as_slice(), &self.vault_id.to_bytes(), &[LABEL_PREVIOUS])
    }

    fn previous_aad(&self, newest: u32, previous: u32) -> Vec<u8> {
        [LABEL_PREVIOUS, &self.vault_id.to_bytes(), &newest.to_le_bytes(), &previous.to_le_bytes()].concat()
    }

    fn misfit(&self, error: serde_json::Error) -> VaultError {
        tampered(format!("a key slot of {} can't be read: {error}; restore the vault document", self.vault_id))
            .with_source(error)
    }
}

fn raw(slot: &Slot) -> Result<Box<RawValue>, VaultError> {
    serde_json::value::to_raw_value(slot)
        .map_err(|error| invalid(format!("a key slot can't be written as JSON: {error}")).with_source(error))
}
