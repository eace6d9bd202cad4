//! A vault as a whole: making one, opening one, its settings and the slots that hold its master key.
//!
//! Owns `vault/<revision>.json`, create-only; the highest revision counts. It names the vault and holds the master
//! key once for each slot, wrapped under what a passphrase, a key file or a key management service gives, and it carries
//! a MAC under the master key. Opening writes nothing. A change writes the next revision; of two at once one wins and the
//! other goes again on top of it. A crash leaves a revision there or not, never half of one.
//!
//! ```text
//! document   what a vault document says, in its versions        slots   ways to the master key
//! rotation   a new master key, and everything brought under it
//! ```

mod document;
mod proof;
mod rotation;
mod slots;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock, Weak};

use async_trait::async_trait;
use lifeboat_format::keys::{DataKey, GroupKey};
use lifeboat_model::{GroupId, Timestamp, VaultId, VolumeId};

use zeroize::Zeroizing;

use crate::ambient::{Entropy, VaultOptions};
use crate::audit::AuditLog;
use crate::catalog::Catalog;
use crate::envelope::{self, Binary, FORMAT_VERSION};
use crate::error::{VaultError, VaultErrorKind, invalid, tampered};
use crate::keyring::{Erasure, Keyring, VolumeKeys};
use crate::masters::{Master, Masters, Renew};
use crate::once::create_exact;
use crate::probe;
use crate::secret::{KeySource, Secret, check_new_source};
use crate::store::Store;
use document::{Content, DOCUMENT_BYTES_MAX, LABEL_MAC, SLOTS_MAX};
pub use proof::Proved;
pub use rotation::KeyRotation;
use slots::{new_slot, opened_by, unlock};

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
    /// Number of its master key: 1, and one more for each rotation.
    pub master: u32,
    /// Whether a rotation was begun and still has objects to bring under that key.
    pub rewrapping: bool,
}

/// One way to open a vault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeySlot {
    /// Number of the slot, from 1.
    pub slot: u32,
    /// `passphrase`, `key-file`, `kms`, or what a newer version knows.
    pub source: String,
    /// When the slot was made.
    pub created: Timestamp,
}

impl Content {
    fn info(&self, master: u32) -> VaultInfo {
        let heads = self.heads().unwrap_or_default().into_iter();
        VaultInfo {
            id: self.vault_id,
            name: self.name.clone(),
            created: self.created,
            format_version: FORMAT_VERSION,
            revision: self.revision,
            soft_delete_days: self.soft_delete_days,
            keys: heads.map(|head| KeySlot { slot: head.slot, source: head.source, created: head.created }).collect(),
            master,
            rewrapping: self.rewrapping,
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
    /// What it was opened with: another gateway may rotate the master key, and this opens the new one.
    source: RwLock<KeySource>,
    masters: Arc<Masters>,
    content: RwLock<Content>,
    keyring: Keyring,
    catalog: Catalog,
    audit: AuditLog,
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
        let mut content = Content {
            vault_id,
            revision: 1,
            name: settings.name,
            created: now,
            updated: now,
            soft_delete_days: settings.soft_delete_days,
            slots_made: 0,
            slots: Vec::new(),
            previous: Vec::new(),
            rewrapping: false,
            nonce: Binary(options.entropy.array()?),
        };
        content.push(&slot)?;
        let vault = Self::assemble(store, content, 1, BTreeMap::from([(1, master)]), key, options);
        let content = vault.shared.content();
        match vault.write(&content, &vault.shared.masters.newest()).await {
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
        Self::open_at(store, revision, &bytes, key, options).await
    }

    async fn open_at(
        store: Arc<dyn Store>,
        revision: u32,
        bytes: &[u8],
        key: &KeySource,
        options: VaultOptions,
    ) -> Result<Self, VaultError> {
        check_ranges(&*store, revision, bytes).await?;
        let object = object_key(revision);
        let opened = envelope::open(bytes, &object)?;
        let content = Content::of(&opened, &object)?;
        let (newest, keys) = prove(&opened, &object, &content, key, store.url()).await?;
        if content.revision != revision {
            return Err(tampered(format!("{object} is another revision's document; restore the object")));
        }
        Ok(Self::assemble(store, content, newest, keys, key, options))
    }

    /// What the vault in a store says of itself, without a key and so without proof.
    pub async fn inspect(store: &dyn Store) -> Result<VaultInfo, VaultError> {
        let (revision, bytes) = read_newest(store).await?;
        let object = object_key(revision);
        let opened = envelope::open(&bytes, &object)?;
        Ok(Content::of(&opened, &object)?.info(opened.master))
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
        self.shared.content().info(self.shared.masters.newest().number)
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

    /// Who asked for what.
    #[must_use]
    pub fn audit(&self) -> &AuditLog {
        &self.shared.audit
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
    /// [`VaultErrorKind::Erased`] if they were destroyed.
    pub async fn create_volume_keys(&self, volume: VolumeId) -> Result<VolumeKeys, VaultError> {
        self.shared.keyring.create_volume_keys(volume).await
    }

    /// The keys of a volume. Cached: the first call takes two requests. [`VaultErrorKind::NotFound`] if it has none,
    /// [`VaultErrorKind::Erased`] if they were destroyed.
    pub async fn volume_keys(&self, volume: VolumeId) -> Result<VolumeKeys, VaultError> {
        self.shared.keyring.volume_keys(volume).await
    }

    /// One of a volume's data keys, by the number that a segment names.
    pub async fn data_key(&self, volume: VolumeId, number: u32) -> Result<DataKey, VaultError> {
        self.shared.keyring.data_key(volume, number).await
    }

    /// Makes the data key after number `from`, which new segments then use; the old ones go on reading what they wrote.
    /// Gives the number of the newest, which is higher already if this was done before.
    pub async fn rotate_volume_key(&self, volume: VolumeId, from: u32) -> Result<u32, VaultError> {
        self.shared.keyring.rotate_volume_key(volume, from).await
    }

    /// Reads a volume's keys anew, since another gateway may have made one or destroyed them all. Gives the number of the
    /// newest.
    pub async fn reload_volume_keys(&self, volume: VolumeId) -> Result<u32, VaultError> {
        self.shared.keyring.reload(volume).await
    }

    /// Number of the newest data key of a volume as far as it is known here; none if its keys weren't needed so far.
    #[must_use]
    pub fn known_data_key(&self, volume: VolumeId) -> Option<u32> {
        self.shared.keyring.known_data_key(volume)
    }

    /// The key of a group, made if there is none yet. Any number of calls, anywhere, give the same key.
    pub async fn group_key(&self, group: GroupId) -> Result<GroupKey, VaultError> {
        self.shared.keyring.group_key(group).await
    }

    /// The key of a group, which is never made here: for reading. [`VaultErrorKind::NotFound`] if it has none.
    pub async fn existing_group_key(&self, group: GroupId) -> Result<GroupKey, VaultError> {
        self.shared.keyring.existing_group_key(group).await
    }

    /// The secret of the vault's authority over machines, made if there is none yet. Any number of calls, anywhere, give the
    /// same one: whoever opens the vault can vouch for machines, and nobody else.
    pub async fn authority_secret(&self) -> Result<Zeroizing<[u8; 32]>, VaultError> {
        self.shared.keyring.authority_secret(self.id()).await
    }

    /// The same, which is never made here. [`VaultErrorKind::NotFound`] if there is none.
    pub async fn existing_authority_secret(&self) -> Result<Zeroizing<[u8; 32]>, VaultError> {
        self.shared.keyring.existing_authority_secret(self.id()).await
    }

    /// Destroys a volume's keys, and with them all its data in the vault, for good. What remains is a record that says
    /// when, and by whom. Doing it again deletes what was left and changes nothing.
    ///
    /// [`VaultErrorKind::NotFound`] if there never were any.
    pub async fn erase_volume(&self, volume: VolumeId, by: &str) -> Result<Erasure, VaultError> {
        self.shared.keyring.erase_volume(volume, by).await
    }

    /// Whether a volume's keys were destroyed.
    pub async fn erasure(&self, volume: VolumeId) -> Result<Option<Erasure>, VaultError> {
        self.shared.keyring.erasure(volume).await
    }

    /// Destroys a group's key, and with it every index and map of the group, for good.
    pub async fn destroy_group_key(&self, group: GroupId) -> Result<(), VaultError> {
        self.shared.keyring.destroy_group_key(group).await
    }

    /// Reads the vault's document again. One listing and one read; a new master key is opened with the key that this vault
    /// was opened with, and is [`VaultErrorKind::WrongKey`] if that opens it no more.
    pub async fn refresh(&self) -> Result<VaultInfo, VaultError> {
        self.shared.load().await?;
        Ok(self.info())
    }

    /// Changes name and soft-delete time.
    pub async fn update_settings(&self, settings: VaultSettings) -> Result<VaultInfo, VaultError> {
        settings.check()?;
        self.change(|content, _| {
            content.name.clone_from(&settings.name);
            content.soft_delete_days = settings.soft_delete_days;
            Ok(true)
        })
        .await
    }

    /// Adds another passphrase, key file or KMS key that opens the vault. Those that are there go on working. A key that
    /// opens it already changes nothing.
    pub async fn add_key(&self, key: &KeySource) -> Result<VaultInfo, VaultError> {
        check_new_source(key)?;
        // The slot's number is bound to what it wraps, so it can't be chosen after the derivation.
        for _ in 0..CHANGE_ATTEMPTS {
            let content = self.shared.load().await?;
            let there = match opened_by(&content, key).await {
                Ok(there) => !there.is_empty(),
                // A service that refuses all the slots there are opens none of them.
                Err(error) if error.kind() == VaultErrorKind::WrongKey => false,
                Err(error) => return Err(error),
            };
            if there {
                return Ok(self.info());
            }
            if content.slots.len() >= SLOTS_MAX {
                return Err(invalid(format!("a vault takes at most {SLOTS_MAX} keys: remove one first")));
            }
            let master = self.shared.masters.newest();
            let number = content.slots_made + 1;
            let slot = new_slot(self.id(), number, key, &master.key, &self.shared.options).await?;
            let changed = self.change(|now, newest| {
                if now.slots_made >= number || newest != master.number || now.slots.len() >= SLOTS_MAX {
                    return Err(VaultError::new(VaultErrorKind::Conflict, "the keys were changed at the same time"));
                }
                now.push(&slot)?;
                Ok(true)
            });
            match changed.await {
                Err(error) if error.kind() == VaultErrorKind::Conflict => {}
                result => return result,
            }
        }
        Err(self.contended())
    }

    /// Numbers of the slots that a key opens; none if it isn't one of this vault's.
    pub async fn slots_of(&self, key: &KeySource) -> Result<Vec<u32>, VaultError> {
        let content = self.shared.load().await?;
        match opened_by(&content, key).await {
            Ok(slots) => Ok(slots.into_iter().map(|(slot, _)| slot.slot).collect()),
            Err(error) if error.kind() == VaultErrorKind::WrongKey => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    /// Removes a key slot: what it was made with opens the vault no more. One that was removed before changes nothing.
    ///
    /// [`VaultErrorKind::Conflict`] for the last slot, and for the last one that this vault itself was opened with.
    pub async fn remove_key(&self, slot: u32) -> Result<VaultInfo, VaultError> {
        let own = self.slots_of(&self.shared.source()).await?;
        let name = self.info().name;
        self.change(|content, _| {
            let heads = content.heads()?;
            let Some(at) = heads.iter().position(|head| head.slot == slot) else {
                if slot > 0 && slot <= content.slots_made {
                    return Ok(false);
                }
                return Err(VaultError::new(
                    VaultErrorKind::NotFound,
                    format!("the vault {name:?} never had a key slot {slot}: look at its list of keys"),
                ));
            };
            let refuse = |why: &str| {
                Err(VaultError::new(VaultErrorKind::Conflict, format!("key slot {slot} of the vault {name:?} {why}")))
            };
            if heads.len() == 1 {
                return refuse("is the only one: without it nobody could open the vault; add another key first");
            }
            if own.iter().all(|own| *own == slot) && own.contains(&slot) {
                return refuse("is the one that this gateway opens the vault with; let it use another key first");
            }
            content.slots.remove(at);
            Ok(true)
        })
        .await
    }

    /// From now on this key is what opens the vault here, should its master key be replaced.
    ///
    /// [`VaultErrorKind::WrongKey`] if it doesn't open the vault.
    pub async fn use_key(&self, key: &KeySource) -> Result<(), VaultError> {
        let content = self.shared.load().await?;
        unlock(&content, key, self.shared.store.url()).await?;
        *self.shared.source.write().unwrap_or_else(PoisonError::into_inner) = key.clone();
        Ok(())
    }

    /// Applies a change to the newest document and writes it as the next revision, unless the change says that there is
    /// nothing to write.
    async fn change(
        &self,
        apply: impl Fn(&mut Content, u32) -> Result<bool, VaultError> + Send + Sync,
    ) -> Result<VaultInfo, VaultError> {
        for _ in 0..CHANGE_ATTEMPTS {
            let mut next = self.shared.load().await?;
            let master = self.shared.masters.newest();
            if !apply(&mut next, master.number)? {
                return Ok(self.info());
            }
            self.advance(&mut next)?;
            match self.write(&next, &master).await {
                Ok(()) => {
                    self.shared.replace(next);
                    return Ok(self.info());
                }
                Err(error) if error.kind() == VaultErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
        Err(self.contended())
    }

    fn advance(&self, content: &mut Content) -> Result<(), VaultError> {
        content.revision += 1;
        content.updated = self.now();
        content.nonce = Binary(self.shared.options.entropy.array()?);
        Ok(())
    }

    fn contended(&self) -> VaultError {
        let url = self.shared.store.url();
        VaultError::new(
            VaultErrorKind::Retry,
            format!("the vault at {url} is being changed by others all the time: try again"),
        )
    }

    async fn write(&self, content: &Content, master: &Master) -> Result<(), VaultError> {
        let key = object_key(content.revision);
        let bytes = master.seal(LABEL_MAC, &key, content, DOCUMENT_BYTES_MAX)?;
        create_exact(&*self.shared.store, &key, bytes).await?;
        Ok(())
    }

    fn assemble(
        store: Arc<dyn Store>,
        content: Content,
        newest: u32,
        keys: BTreeMap<u32, Secret>,
        source: &KeySource,
        options: VaultOptions,
    ) -> Self {
        let id = content.vault_id;
        let masters = Arc::new(Masters::new(id.to_bytes(), newest, keys));
        let keyring = Keyring::new(Arc::clone(&store), Arc::clone(&masters), options.clone());
        let catalog = Catalog::new(Arc::clone(&store), Arc::clone(&masters), options.clone());
        let audit = AuditLog::new(Arc::clone(&store), Arc::clone(&masters), options.entropy.clone());
        let (content, source) = (RwLock::new(content), RwLock::new(source.clone()));
        let shared = Arc::new(Shared { store, id, source, masters, content, keyring, catalog, audit, options });
        let renew: Weak<Shared> = Arc::downgrade(&shared);
        shared.masters.renewed_by(renew);
        Self { shared }
    }
}

impl Shared {
    /// Reads the newest document, verifies it and takes it over; gives the newest that is known then.
    async fn load(&self) -> Result<Content, VaultError> {
        // What was known before the listing has to be in it. What others here learn meanwhile hasn't.
        let known = self.content().revision;
        let (revision, bytes) = read_newest(&*self.store).await?;
        if revision >= known {
            let newer = self.content();
            if newer.revision > revision {
                return Ok(newer);
            }
        }
        let object = object_key(revision);
        let opened = envelope::open(&bytes, &object)?;
        let content = Content::of(&opened, &object)?;
        let back = || {
            let url = self.store.url();
            tampered(format!(
                "the vault document in {url} went back from revision {known} to {revision}: restore the newer objects"
            ))
        };
        if opened.master > self.masters.newest().number && content.vault_id == self.id {
            let (newest, keys) = prove(&opened, &object, &content, &self.source(), self.store.url()).await?;
            self.masters.replace(newest, keys);
        } else {
            let master = self.masters.get(opened.master).ok_or_else(back)?;
            master.verify(LABEL_MAC, &object, &opened)?;
        }
        if content.revision != revision || revision < known || content.vault_id != self.id {
            return Err(back());
        }
        Ok(self.replace(content))
    }

    fn content(&self) -> Content {
        self.content.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn source(&self) -> KeySource {
        self.source.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Keeps the newer of this and what is known, and returns it.
    fn replace(&self, content: Content) -> Content {
        let mut known = self.content.write().unwrap_or_else(PoisonError::into_inner);
        if content.revision >= known.revision {
            *known = content;
        }
        known.clone()
    }
}

#[async_trait]
impl Renew for Shared {
    async fn renew(&self) -> Result<(), VaultError> {
        self.load().await.map(drop)
    }
}

/// Opens the newest master key with `source` and holds the document against it: its number, and all the keys that the
/// document has.
async fn prove(
    opened: &envelope::Opened<'_>,
    object: &str,
    content: &Content,
    source: &KeySource,
    url: &str,
) -> Result<(u32, BTreeMap<u32, Secret>), VaultError> {
    let (_, master) = unlock(content, source, url).await?;
    let newest = Master::new(content.vault_id.to_bytes(), opened.master, master);
    newest.verify(LABEL_MAC, object, opened)?;
    Ok((newest.number, content.masters(&newest)?))
}

impl fmt::Debug for Vault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Vault").field("id", &self.shared.id).field("store", &self.shared.store).finish_non_exhaustive()
    }
}

fn object_key(revision: u32) -> String {
    format!("vault/{revision:08}.json")
}

/// The newest revision and its bytes. Revisions are never deleted, so what was listed can be read.
async fn read_newest(store: &dyn Store) -> Result<(u32, bytes::Bytes), VaultError> {
    let Some(newest) = revisions(store).await?.into_iter().next_back() else { return Err(no_vault(store)) };
    Ok((newest, store.get(&object_key(newest), DOCUMENT_BYTES_MAX).await?))
}

fn no_vault(store: &dyn Store) -> VaultError {
    VaultError::new(
        VaultErrorKind::NotFound,
        format!("there is no vault at {}: check the storage URL, or make a vault there", store.url()),
    )
}

/// The revisions of the vault's document that are there, ascending.
async fn revisions(store: &dyn Store) -> Result<Vec<u32>, VaultError> {
    let found = store.list("vault").await?;
    let mut revisions: Vec<u32> = found.iter().filter_map(|object| revision_of(&object.key)).collect();
    revisions.sort_unstable();
    Ok(revisions)
}

fn revision_of(key: &str) -> Option<u32> {
    let number: u32 = key.strip_prefix("vault/")?.strip_suffix(".json")?.parse().ok()?;
    (number > 0 && object_key(number) == key).then_some(number)
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
            match remains.iter().find(|name| matches!(name.as_str(), "keys" | "catalog" | "groups" | "audit")) {
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

#[cfg(test)]
mod tests;
