//! A vault as a whole: making one, opening one, its settings and the slots that hold its master key.
//!
//! Owns `vault/<revision>.json`, create-only; the highest revision counts. It names the vault and holds the master
//! key once for each slot, wrapped under what a passphrase or a key file gives, and it carries a MAC under the master
//! key. Opening writes nothing. A change writes the next revision; of two at once one wins and the other goes again
//! on top of it. A crash leaves a revision there or not, never half of one.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use lifeboat_format::keys::{DataKey, GroupKey};
use lifeboat_model::{GroupId, Timestamp, VaultId, VolumeId};
use serde::{Deserialize, Serialize};

use crate::ambient::{Entropy, VaultOptions};
use crate::catalog::Catalog;
use crate::envelope::{Binary, FORMAT_VERSION, Position, decode, decode_unverified, encode};
use crate::error::{VaultError, VaultErrorKind, invalid, tampered};
use crate::keyring::{Keyring, VolumeKeys};
use crate::once::create_exact;
use crate::probe;
use crate::secret::{
    Kdf, KeySource, LABEL_SLOT_CHECK, LABEL_SLOT_KEY, Secret, SourceWord, check_new_source, derive, same, slot_secret,
    unwrap, wrap,
};
use crate::store::Store;

const LABEL_MAC: &[u8] = b"lifeboat/v1/vault-mac";
const DOCUMENT_BYTES_MAX: u64 = 65_536;
/// Each slot costs a derivation when a vault is opened.
const SLOTS_MAX: usize = 8;
const NAME_BYTES_MAX: usize = 255;
/// Changes of other gateways that one change goes on top of before it gives up.
const CHANGE_ATTEMPTS: u32 = 16;

/// What the owner of a vault decides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VaultSettings {
    /// What people call it; 1 to 255 bytes.
    pub name: String,
    /// Days that deleted things can be brought back.
    pub soft_delete_days: u32,
}

impl VaultSettings {
    /// These with a soft-delete time of 14 days.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), soft_delete_days: 14 }
    }

    fn check(&self) -> Result<(), VaultError> {
        let len = self.name.len();
        if self.name.trim().is_empty() || len > NAME_BYTES_MAX || self.name.chars().any(char::is_control) {
            return Err(invalid(format!(
                "a vault's name must have 1 to {NAME_BYTES_MAX} bytes and no control characters, this one has {len}"
            )));
        }
        Ok(())
    }
}

/// What a vault says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VaultInfo {
    /// Its id.
    pub id: VaultId,
    /// What people call it.
    pub name: String,
    /// When it was made.
    pub created: Timestamp,
    /// Version of its format.
    pub format_version: u32,
    /// Revision of its document, from 1.
    pub revision: u32,
    /// Days that deleted things can be brought back.
    pub soft_delete_days: u32,
    /// What opens it.
    pub keys: Vec<KeySlot>,
}

/// One way to open a vault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeySlot {
    /// Number of the slot, from 1.
    pub slot: u32,
    /// `passphrase` or `key-file`.
    pub source: &'static str,
    /// When the slot was made.
    pub created: Timestamp,
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Content {
    vault_id: VaultId,
    revision: u32,
    name: String,
    created: Timestamp,
    updated: Timestamp,
    soft_delete_days: u32,
    slots: Vec<Slot>,
    /// Tells the revisions of two writers apart that say the same.
    nonce: Binary<16>,
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Slot {
    slot: u32,
    source: SourceWord,
    created: Timestamp,
    kdf: Kdf,
    salt: Binary<32>,
    check: Binary<32>,
    nonce: Binary<12>,
    wrapped: Binary<48>,
}

impl Content {
    fn info(&self) -> VaultInfo {
        let slot = |slot: &Slot| KeySlot { slot: slot.slot, source: slot.source.as_str(), created: slot.created };
        VaultInfo {
            id: self.vault_id,
            name: self.name.clone(),
            created: self.created,
            format_version: FORMAT_VERSION,
            revision: self.revision,
            soft_delete_days: self.soft_delete_days,
            keys: self.slots.iter().map(slot).collect(),
        }
    }
}

/// An open vault. A handle: clones are the same vault.
#[derive(Clone)]
pub struct Vault {
    shared: Arc<Shared>,
}

struct Shared {
    store: Arc<dyn Store>,
    id: VaultId,
    master: Secret,
    mac: Secret,
    content: RwLock<Content>,
    keyring: Keyring,
    catalog: Catalog,
    options: VaultOptions,
}

impl Vault {
    /// Makes a vault in an empty store, after probing the backend.
    ///
    /// [`VaultErrorKind::AlreadyExists`] naming the vault that is there; [`VaultErrorKind::Unsafe`] for a backend
    /// that can't hold one; [`VaultErrorKind::InvalidInput`] for a name or key that won't do, or a store that holds
    /// the remains of another vault.
    pub async fn create(
        store: Arc<dyn Store>,
        settings: VaultSettings,
        key: &KeySource,
        options: VaultOptions,
    ) -> Result<Self, VaultError> {
        settings.check()?;
        check_new_source(key)?;
        refuse_occupied(&*store).await?;
        let mut master = Secret::default();
        options.entropy.fill(master.as_mut_slice())?;
        let now = options.clock.now();
        let vault_id = VaultId::from_bytes(mint_id(&options.entropy, now)?);
        let slot = new_slot(vault_id, 1, key, &master, &options).await?;
        probe::probe(&*store, &options.entropy).await?;
        let content = Content {
            vault_id,
            revision: 1,
            name: settings.name,
            created: now,
            updated: now,
            soft_delete_days: settings.soft_delete_days,
            slots: vec![slot],
            nonce: Binary(options.entropy.array()?),
        };
        let vault = Self::assemble(store, content, master, options);
        let content = vault.content();
        match vault.write(&content).await {
            Ok(()) => Ok(vault),
            Err(error) if error.kind() == VaultErrorKind::AlreadyExists => {
                refuse_occupied(&*vault.shared.store).await?;
                Err(error)
            }
            Err(error) => Err(error),
        }
    }

    /// Opens the vault in a store. Writes nothing.
    ///
    /// [`VaultErrorKind::NotFound`] where there is none, [`VaultErrorKind::WrongKey`],
    /// [`VaultErrorKind::NewerFormat`], [`VaultErrorKind::Tampered`], [`VaultErrorKind::Unsafe`].
    pub async fn open(store: Arc<dyn Store>, key: &KeySource, options: VaultOptions) -> Result<Self, VaultError> {
        let (revision, bytes) = read_newest(&*store).await?;
        check_ranges(&*store, revision, &bytes).await?;
        let object = object_key(revision);
        let claimed: Content = decode_unverified(&bytes, &object)?;
        let master = unlock(&claimed, key, store.url()).await?;
        let mac = mac_key(&master, claimed.vault_id);
        let content: Content = decode(&bytes, &position(&object, claimed.vault_id), &mac)?;
        if content.revision != revision {
            return Err(tampered(format!("{object} is another revision's document; restore the object")));
        }
        Ok(Self::assemble(store, content, master, options))
    }

    /// What the vault in a store says of itself, without a key and so without proof.
    pub async fn inspect(store: &dyn Store) -> Result<VaultInfo, VaultError> {
        let (revision, bytes) = read_newest(store).await?;
        let content: Content = decode_unverified(&bytes, &object_key(revision))?;
        Ok(content.info())
    }

    /// Probes the backend as [`Vault::create`] does: writes and deletes a few small objects. Worth doing before a
    /// gateway starts to write, since a backend's settings can change.
    pub async fn probe(&self) -> Result<(), VaultError> {
        probe::probe(&*self.shared.store, &self.shared.options.entropy).await
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> VaultId {
        self.shared.id
    }

    /// What it says of itself, as last read or written here.
    #[must_use]
    pub fn info(&self) -> VaultInfo {
        self.content().info()
    }

    /// The objects.
    #[must_use]
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.shared.store
    }

    /// The control plane's documents.
    #[must_use]
    pub fn catalog(&self) -> &Catalog {
        &self.shared.catalog
    }

    /// The time by the vault's clock.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.shared.options.clock.now()
    }

    /// Random bytes from the vault's source: salts, nonces, whatever nobody may have drawn before.
    pub fn random<const N: usize>(&self) -> Result<[u8; N], VaultError> {
        self.shared.options.entropy.array()
    }

    /// The bytes of a new identifier, by the vault's clock and source: unique everywhere, later ones sort later.
    pub fn new_id(&self) -> Result<[u8; 16], VaultError> {
        mint_id(&self.shared.options.entropy, self.now())
    }

    /// The keys of a volume, made if there are none yet. Any number of calls, anywhere, give the same keys.
    pub async fn create_volume_keys(&self, volume: VolumeId) -> Result<VolumeKeys, VaultError> {
        self.shared.keyring.create_volume_keys(volume).await
    }

    /// The keys of a volume. Cached: the first call takes two requests. [`VaultErrorKind::NotFound`] if it has none.
    pub async fn volume_keys(&self, volume: VolumeId) -> Result<VolumeKeys, VaultError> {
        self.shared.keyring.volume_keys(volume).await
    }

    /// One of a volume's data keys, by the number that a segment names. [`VaultErrorKind::NotFound`] if there is none.
    pub async fn data_key(&self, volume: VolumeId, number: u32) -> Result<DataKey, VaultError> {
        self.shared.keyring.data_key(volume, number).await
    }

    /// The key of a group, made if there is none yet. Any number of calls, anywhere, give the same key.
    pub async fn group_key(&self, group: GroupId) -> Result<GroupKey, VaultError> {
        self.shared.keyring.group_key(group).await
    }

    /// The key of a group, which is never made here: for reading. [`VaultErrorKind::NotFound`] if it has none.
    pub async fn existing_group_key(&self, group: GroupId) -> Result<GroupKey, VaultError> {
        self.shared.keyring.existing_group_key(group).await
    }

    /// Destroys a volume's keys, and with them all its data in the vault, for good.
    pub async fn destroy_volume_keys(&self, volume: VolumeId) -> Result<(), VaultError> {
        self.shared.keyring.destroy_volume_keys(volume).await
    }

    /// Destroys a group's key, and with it every index and map of the group, for good.
    pub async fn destroy_group_key(&self, group: GroupId) -> Result<(), VaultError> {
        self.shared.keyring.destroy_group_key(group).await
    }

    /// Reads the vault's document again. One listing, and one read if it changed.
    pub async fn refresh(&self) -> Result<VaultInfo, VaultError> {
        let (revision, bytes) = read_newest(&*self.shared.store).await?;
        let content = self.verify(revision, &bytes)?;
        Ok(self.replace(content).info())
    }

    /// Changes name and soft-delete time.
    pub async fn update_settings(&self, settings: VaultSettings) -> Result<VaultInfo, VaultError> {
        settings.check()?;
        self.change(|content| {
            content.name.clone_from(&settings.name);
            content.soft_delete_days = settings.soft_delete_days;
            Ok(())
        })
        .await
    }

    /// Adds another passphrase or key file that opens the vault. Those that are there go on working.
    pub async fn add_key(&self, key: &KeySource) -> Result<VaultInfo, VaultError> {
        check_new_source(key)?;
        // The slot's number is bound to what it wraps, so it can't be chosen after the derivation.
        for _ in 0..CHANGE_ATTEMPTS {
            let number = self.content().slots.iter().map(|slot| slot.slot).max().unwrap_or(0) + 1;
            let slot = new_slot(self.id(), number, key, &self.shared.master, &self.shared.options).await?;
            let changed = self.change(|content| {
                if content.slots.len() >= SLOTS_MAX {
                    return Err(invalid(format!("a vault takes at most {SLOTS_MAX} keys")));
                }
                if content.slots.iter().any(|there| there.slot == number) {
                    return Err(VaultError::new(VaultErrorKind::Conflict, "another key was added at the same time"));
                }
                content.slots.push(slot.clone());
                Ok(())
            });
            match changed.await {
                Err(error) if error.kind() == VaultErrorKind::Conflict => {}
                result => return result,
            }
        }
        Err(self.contended())
    }

    async fn change(
        &self,
        apply: impl Fn(&mut Content) -> Result<(), VaultError> + Send + Sync,
    ) -> Result<VaultInfo, VaultError> {
        for _ in 0..CHANGE_ATTEMPTS {
            let (revision, bytes) = read_newest(&*self.shared.store).await?;
            let mut next = self.replace(self.verify(revision, &bytes)?);
            apply(&mut next)?;
            next.revision += 1;
            next.updated = self.now();
            next.nonce = Binary(self.shared.options.entropy.array()?);
            match self.write(&next).await {
                Ok(()) => return Ok(self.replace(next).info()),
                Err(error) if error.kind() == VaultErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
        Err(self.contended())
    }

    fn contended(&self) -> VaultError {
        let url = self.shared.store.url();
        VaultError::new(
            VaultErrorKind::Retry,
            format!("the vault at {url} is being changed by others all the time: try again"),
        )
    }

    async fn write(&self, content: &Content) -> Result<(), VaultError> {
        let key = object_key(content.revision);
        let bytes = encode(content, &position(&key, self.shared.id), &self.shared.mac, DOCUMENT_BYTES_MAX)?;
        create_exact(&*self.shared.store, &key, bytes).await?;
        Ok(())
    }

    fn verify(&self, revision: u32, bytes: &[u8]) -> Result<Content, VaultError> {
        let key = object_key(revision);
        let content: Content = decode(bytes, &position(&key, self.shared.id), &self.shared.mac)?;
        let known = self.content().revision;
        if content.revision != revision || revision < known {
            let url = self.shared.store.url();
            return Err(tampered(format!(
                "the vault document in {url} went back from revision {known} to {revision}: restore the newer objects"
            )));
        }
        Ok(content)
    }

    fn content(&self) -> Content {
        self.shared.content.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Keeps the newer of this and what is known, and returns it.
    fn replace(&self, content: Content) -> Content {
        let mut known = self.shared.content.write().unwrap_or_else(PoisonError::into_inner);
        if content.revision >= known.revision {
            *known = content;
        }
        known.clone()
    }

    fn assemble(store: Arc<dyn Store>, content: Content, master: Secret, options: VaultOptions) -> Self {
        let id = content.vault_id;
        let keyring = Keyring::new(Arc::clone(&store), id.to_bytes(), master.clone(), options.clone());
        let catalog = Catalog::new(Arc::clone(&store), id.to_bytes(), &master, options.clone());
        let mac = mac_key(&master, id);
        let content = RwLock::new(content);
        Self { shared: Arc::new(Shared { store, id, master, mac, content, keyring, catalog, options }) }
    }
}

impl fmt::Debug for Vault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Vault").field("id", &self.shared.id).field("store", &self.shared.store).finish_non_exhaustive()
    }
}

fn object_key(revision: u32) -> String {
    format!("vault/{revision:08}.json")
}

fn position(key: &str, vault: VaultId) -> Position<'_> {
    Position { label: LABEL_MAC, key, vault: vault.to_bytes() }
}

fn mac_key(master: &Secret, vault: VaultId) -> Secret {
    derive(master.as_slice(), &vault.to_bytes(), &[LABEL_MAC])
}

/// The newest revision and its bytes. Revisions are never deleted, so what was listed can be read.
async fn read_newest(store: &dyn Store) -> Result<(u32, bytes::Bytes), VaultError> {
    let found = store.list("vault").await?;
    let revision = |key: &str| {
        let number: u32 = key.strip_prefix("vault/")?.strip_suffix(".json")?.parse().ok()?;
        (number > 0 && object_key(number) == key).then_some(number)
    };
    let Some(newest) = found.iter().filter_map(|object| revision(&object.key)).max() else {
        return Err(VaultError::new(
            VaultErrorKind::NotFound,
            format!("there is no vault at {}: check the storage URL, or make a vault there", store.url()),
        ));
    };
    Ok((newest, store.get(&object_key(newest), DOCUMENT_BYTES_MAX).await?))
}

/// The part of the probe that a vault can be opened with: it writes nothing.
async fn check_ranges(store: &dyn Store, revision: u32, bytes: &[u8]) -> Result<(), VaultError> {
    let len = bytes.len();
    let middle = len / 3..len / 2;
    let range = u64::try_from(middle.start).unwrap_or(0)..u64::try_from(middle.end).unwrap_or(0);
    if store.get_range(&object_key(revision), range).await? == bytes.get(middle).unwrap_or_default() {
        return Ok(());
    }
    Err(VaultError::new(
        VaultErrorKind::Unsafe,
        format!(
            "the storage at {} does not read exact ranges of an object: a vault can't be used on it; use a storage \
             service that does",
            store.url()
        ),
    ))
}

async fn refuse_occupied(store: &dyn Store) -> Result<(), VaultError> {
    let url = store.url();
    match Vault::inspect(store).await {
        Ok(info) => Err(VaultError::new(
            VaultErrorKind::AlreadyExists,
            format!(
                "there is a vault at {url} already, {} named {:?}: open it, or choose another URL",
                info.id, info.name
            ),
        )),
        Err(error) if error.kind() == VaultErrorKind::NotFound => {
            let remains = store.list_dirs("").await?;
            match remains.iter().find(|name| matches!(name.as_str(), "keys" | "catalog" | "groups")) {
                None => Ok(()),
                Some(name) => Err(invalid(format!(
                    "{url} has no vault document but holds {name}/ of some vault: restore vault/ there, or choose an \
                     empty place"
                ))),
            }
        }
        Err(error) => Err(error),
    }
}

/// A version 7 UUID from the injected clock and randomness.
/// A version 7 UUID.
fn mint_id(entropy: &Entropy, now: Timestamp) -> Result<[u8; 16], VaultError> {
    let mut bytes: [u8; 16] = entropy.array()?;
    let millis = (now.as_micros().max(0) / 1000).to_be_bytes();
    bytes[..6].copy_from_slice(&millis[2..]);
    bytes[6] = 0x70 | (bytes[6] & 0x0f);
    bytes[8] = 0x80 | (bytes[8] & 0x3f);
    Ok(bytes)
}

async fn new_slot(
    vault: VaultId,
    number: u32,
    source: &KeySource,
    master: &Secret,
    options: &VaultOptions,
) -> Result<Slot, VaultError> {
    let kdf = match source {
        KeySource::Passphrase(_) => Kdf::Argon2id(options.kdf),
        KeySource::KeyFile(_) => Kdf::HkdfSha256 {},
    };
    let salt = options.entropy.array()?;
    let nonce = options.entropy.array()?;
    let secret = slot_secret(source, kdf, salt).await?;
    let mut slot = Slot {
        slot: number,
        source: source.word(),
        created: options.clock.now(),
        kdf,
        salt: Binary(salt),
        check: Binary(*derive(secret.as_slice(), &salt, &[LABEL_SLOT_CHECK])),
        nonce: Binary(nonce),
        wrapped: Binary([0; 48]),
    };
    let key = derive(secret.as_slice(), &salt, &[LABEL_SLOT_KEY]);
    let wrapped = wrap(&key, nonce, &slot_aad(vault, &slot), master.as_slice())?;
    slot.wrapped = Binary(wrapped.try_into().map_err(|_| tampered("a wrapped key has a wrong length"))?);
    Ok(slot)
}

fn slot_aad(vault: VaultId, slot: &Slot) -> Vec<u8> {
    [LABEL_SLOT_KEY, &vault.to_bytes(), &slot.slot.to_le_bytes(), slot.source.as_str().as_bytes()].concat()
}

async fn unlock(content: &Content, key: &KeySource, url: &str) -> Result<Secret, VaultError> {
    let vault = content.vault_id;
    let name = &content.name;
    if content.slots.len() > SLOTS_MAX {
        return Err(tampered(format!("the vault document in {url} has too many key slots; restore the object")));
    }
    let word = key.word();
    for slot in content.slots.iter().filter(|slot| slot.source == word) {
        let secret = slot_secret(key, slot.kdf, slot.salt.0).await?;
        let check = derive(secret.as_slice(), &slot.salt.0, &[LABEL_SLOT_CHECK]);
        if !same(check.as_slice(), &slot.check.0) {
            continue;
        }
        let slot_key = derive(secret.as_slice(), &slot.salt.0, &[LABEL_SLOT_KEY]);
        let opened = unwrap(&slot_key, slot.nonce.0, &slot_aad(vault, slot), &slot.wrapped.0);
        let mut master = Secret::default();
        match opened {
            Some(bytes) if bytes.len() == master.len() => master.copy_from_slice(&bytes),
            _ => {
                return Err(tampered(format!(
                    "the key is right but the master key of {vault} in {url} does not open: the vault document was \
                     edited or damaged; restore it"
                )));
            }
        }
        return Ok(master);
    }
    let sources: Vec<_> = content.slots.iter().map(|slot| slot.source.as_str()).collect();
    Err(VaultError::new(
        VaultErrorKind::WrongKey,
        format!(
            "this {} does not open the vault {name:?} ({vault}) at {url}: give the right one; it opens with: {}",
            word.as_str().replace('-', " "),
            sources.join(", ").replace('-', " ")
        ),
    ))
}

#[cfg(test)]
mod tests;
