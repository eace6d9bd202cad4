//! The keys of volumes and groups, and of the vault's authority over machines: `keys/<owner>/<number>`, each wrapped under a
//! master key.
//!
//! ```text
//! 1 ── rotate_volume_key ──> 2 ── rewrap (new master key) ──> 3 ── erase ──> 4, an erasure; 1 to 3 are deleted
//! {hash, data 1}             {hash, data 1, data 2}           the same        nothing opens the volume any more
//! ```
//! The object with the highest number counts: it holds all keys of its owner, so a reader needs one listing and one
//! read. A change is the next number, create-only; of two at once one wins and the other goes again on top of it. The
//! wrapping key is derived for that one object and the ciphertext is bound to its name, so a key that was copied to
//! another owner's place does not open. Making keys is create-or-open: two gateways, or a job that runs again after a
//! crash, end up with the same keys.
//!
//! An erasure is the last number there is: it is written first and the keys below it are deleted after it. Broken off in
//! between, the volume counts as erased, and erasing again deletes what is left.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lifeboat_format::keys;
use lifeboat_model::{GroupId, Timestamp, VaultId, VolumeId};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::ambient::VaultOptions;
use crate::envelope::{Binary, Blob};
use crate::error::{VaultError, VaultErrorKind, invalid, tampered};
use crate::masters::Masters;
use crate::once::create_exact;
use crate::secret::Secret;
use crate::store::Store;
use crate::vault::Proved;

const LABEL_MAC: &[u8] = b"lifeboat/v1/key-mac";
/// Room for [`DATA_KEYS_MAX`] keys in base64.
const KEY_OBJECT_BYTES_MAX: u64 = 65_536;
/// Most data keys of a volume.
const DATA_KEYS_MAX: usize = 1024;
/// Changes of others that one change goes on top of, or listings that are overtaken, before it gives up.
const ATTEMPTS: u32 = 16;
/// Longest statement of who erased a volume, in bytes.
const WHO_BYTES_MAX: usize = 255;
const KEY_LEN: usize = keys::KEY_LEN;

/// The keys of a volume and the number of its data key.
#[derive(Clone, Debug)]
pub struct VolumeKeys {
    /// Number of the data key, from 1: what segments name.
    pub key_id: u32,
    /// The keys; the data key is the newest.
    pub keys: keys::VolumeKeys,
}

/// That a volume's keys were destroyed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Erasure {
    /// The volume.
    pub volume: VolumeId,
    /// When.
    pub erased: Timestamp,
    /// Who did it, as far as the caller said.
    pub by: String,
    /// Names of key objects that the storage didn't let go of. Empty as a rule.
    pub left_behind: Vec<String>,
}

/// What rewrapping did to one owner's keys.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Rewrapped {
    /// Whether a new object was written.
    pub(crate) written: bool,
    /// Old objects that the storage didn't let go of.
    pub(crate) left_behind: u64,
}

/// What stands under a number.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Entry {
    Keys(KeyObject),
    Erased(Tombstone),
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyObject {
    owner: String,
    number: u32,
    created: Timestamp,
    nonce: Binary<12>,
    wrapped: Blob,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Tombstone {
    owner: String,
    number: u32,
    erased: Timestamp,
    by: String,
    nonce: Binary<16>,
}

/// The newest object of an owner.
enum Newest {
    None,
    Keys { number: u32, master: u32, secret: Zeroizing<Vec<u8>> },
    Erased { master: u32, tombstone: Tombstone },
}

/// All keys of a volume: the secret is the hash key, then the data keys by their numbers.
struct Ring {
    secret: Zeroizing<Vec<u8>>,
}

pub(crate) struct Keyring {
    store: Arc<dyn Store>,
    masters: Arc<Masters>,
    options: VaultOptions,
    volumes: Mutex<HashMap<VolumeId, Arc<Ring>>>,
    groups: Mutex<HashMap<GroupId, keys::GroupKey>>,
}

impl Ring {
    fn new(volume: VolumeId, secret: Zeroizing<Vec<u8>>) -> Result<Arc<Self>, VaultError> {
        let keys = secret.len() / KEY_LEN;
        if !secret.len().is_multiple_of(KEY_LEN) || keys < 2 || keys - 1 > DATA_KEYS_MAX {
            return Err(tampered(format!("the keys of {volume} have a wrong length; restore their object")));
        }
        Ok(Arc::new(Self { secret }))
    }

    fn at(&self, index: usize) -> Option<[u8; KEY_LEN]> {
        self.secret.chunks_exact(KEY_LEN).nth(index)?.try_into().ok()
    }

    /// Number of the newest data key.
    fn newest(&self) -> u32 {
        u32::try_from(self.secret.len() / KEY_LEN - 1).unwrap_or(u32::MAX)
    }

    fn data(&self, number: u32) -> Option<keys::DataKey> {
        let index = usize::try_from(number).ok().filter(|number| *number > 0)?;
        self.at(index).map(keys::DataKey::from_bytes)
    }

    fn keys(&self) -> VolumeKeys {
        let key_id = self.newest();
        let hash = keys::HashKey::from_bytes(self.at(0).unwrap_or_default());
        let data = self.data(key_id).unwrap_or(keys::DataKey::from_bytes([0; KEY_LEN]));
        VolumeKeys { key_id, keys: keys::VolumeKeys { data, hash } }
    }
}

impl fmt::Debug for Ring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} data keys", self.newest())
    }
}

impl Keyring {
    pub(crate) fn new(store: Arc<dyn Store>, masters: Arc<Masters>, options: VaultOptions) -> Self {
        Self { store, masters, options, volumes: Mutex::default(), groups: Mutex::default() }
    }

    pub(crate) async fn create_volume_keys(&self, volume: VolumeId) -> Result<VolumeKeys, VaultError> {
        if let Some(known) = lock(&self.volumes).get(&volume) {
            return Ok(known.keys());
        }
        let secret = self.create_or_open(&volume.to_string(), 2 * KEY_LEN).await?;
        Ok(self.remember_volume(volume, secret)?.keys())
    }

    pub(crate) async fn volume_keys(&self, volume: VolumeId) -> Result<VolumeKeys, VaultError> {
        if let Some(known) = lock(&self.volumes).get(&volume) {
            return Ok(known.keys());
        }
        Ok(self.read_volume(volume).await?.keys())
    }

    /// One data key of a volume. A number that isn't known is looked for in the vault: another gateway may have made it.
    pub(crate) async fn data_key(&self, volume: VolumeId, number: u32) -> Result<keys::DataKey, VaultError> {
        let known = lock(&self.volumes).get(&volume).and_then(|ring| ring.data(number));
        if let Some(key) = known {
            return Ok(key);
        }
        self.read_volume(volume).await?.data(number).ok_or_else(|| {
            let url = self.store.url();
            tampered(format!(
                "the vault at {url} has no data key {number} of {volume}: restore the objects in keys/{volume}/"
            ))
        })
    }

    pub(crate) fn known_data_key(&self, volume: VolumeId) -> Option<u32> {
        lock(&self.volumes).get(&volume).map(|ring| ring.newest())
    }

    /// Reads a volume's keys anew: another gateway may have made one. Gives the number of the newest.
    pub(crate) async fn reload(&self, volume: VolumeId) -> Result<u32, VaultError> {
        match self.read_volume(volume).await {
            Ok(ring) => Ok(ring.newest()),
            Err(error) => {
                if error.kind() == VaultErrorKind::Erased {
                    lock(&self.volumes).remove(&volume);
                }
                Err(error)
            }
        }
    }

    /// Makes the data key after `from`, unless it is there already. Gives the number of the newest.
    pub(crate) async fn rotate_volume_key(&self, volume: VolumeId, from: u32) -> Result<u32, VaultError> {
        let owner = volume.to_string();
        for _ in 0..ATTEMPTS {
            let (number, mut secret) = self.open_newest(&owner).await?;
            let ring = Ring::new(volume, secret.clone())?;
            if ring.newest() != from {
                let newest = ring.newest();
                lock(&self.volumes).insert(volume, ring);
                if newest > from {
                    return Ok(newest);
                }
                return Err(invalid(format!("{volume} has {newest} data keys, not {from}: read its number again")));
            }
            if secret.len() / KEY_LEN > DATA_KEYS_MAX {
                return Err(invalid(format!("{volume} has {DATA_KEYS_MAX} data keys: more are not possible")));
            }
            // Room for all of it at once: a vector that grows would leave an unwiped copy behind.
            let mut longer = Zeroizing::new(Vec::with_capacity(secret.len() + KEY_LEN));
            longer.append(&mut secret);
            let mut fresh = Zeroizing::new([0; KEY_LEN]);
            self.options.entropy.fill(fresh.as_mut_slice())?;
            longer.extend_from_slice(fresh.as_slice());
            if self.write(&owner, number + 1, &longer).await? {
                return Ok(self.remember_volume(volume, longer)?.newest());
            }
        }
        Err(self.contended(&owner))
    }

    pub(crate) async fn group_key(&self, group: GroupId) -> Result<keys::GroupKey, VaultError> {
        if let Some(known) = lock(&self.groups).get(&group) {
            return Ok(known.clone());
        }
        let secret = self.create_or_open(&group.to_string(), KEY_LEN).await?;
        self.remember_group(group, &secret)
    }

    pub(crate) async fn existing_group_key(&self, group: GroupId) -> Result<keys::GroupKey, VaultError> {
        if let Some(known) = lock(&self.groups).get(&group) {
            return Ok(known.clone());
        }
        let (_, secret) = self.open_newest(&group.to_string()).await?;
        self.remember_group(group, &secret)
    }

    /// The secret of the vault's authority over machines, which the vault's own id owns; made if there is none yet.
    pub(crate) async fn authority_secret(&self, vault: VaultId) -> Result<Secret, VaultError> {
        let secret = self.create_or_open(&vault.to_string(), KEY_LEN).await?;
        authority_secret(vault, &secret)
    }

    /// The same, which is never made here.
    pub(crate) async fn existing_authority_secret(&self, vault: VaultId) -> Result<Secret, VaultError> {
        let (_, secret) = self.open_newest(&vault.to_string()).await?;
        authority_secret(vault, &secret)
    }

    pub(crate) async fn destroy_group_key(&self, group: GroupId) -> Result<(), VaultError> {
        lock(&self.groups).remove(&group);
        for object in self.store.list(&format!("keys/{group}")).await? {
            self.store.delete(&object.key).await?;
        }
        Ok(())
    }

    /// Destroys a volume's keys: writes the erasure, then deletes every key below it.
    pub(crate) async fn erase_volume(&self, volume: VolumeId, by: &str) -> Result<Erasure, VaultError> {
        if by.len() > WHO_BYTES_MAX {
            return Err(invalid(format!("who erases a volume must be said in at most {WHO_BYTES_MAX} bytes")));
        }
        let owner = volume.to_string();
        for _ in 0..ATTEMPTS {
            let number = match self.newest(&owner).await {
                Ok(Newest::None) => return Err(self.missing(&owner)),
                Ok(Newest::Erased { tombstone, .. }) => {
                    lock(&self.volumes).remove(&volume);
                    let left_behind = self.delete_below(&owner, tombstone.number).await?;
                    return Ok(Erasure { volume, erased: tombstone.erased, by: tombstone.by, left_behind });
                }
                Ok(Newest::Keys { number, .. }) => number,
                // Keys that can't be read any more can be destroyed all the same.
                Err(error) if error.kind() == VaultErrorKind::Tampered => self.highest(&owner).await?.unwrap_or(0),
                Err(error) => return Err(error),
            };
            self.write_tombstone(&owner, number + 1, self.options.clock.now(), by).await?;
        }
        Err(self.contended(&owner))
    }

    /// Whether and when a volume was erased.
    pub(crate) async fn erasure(&self, volume: VolumeId) -> Result<Option<Erasure>, VaultError> {
        match self.newest(&volume.to_string()).await? {
            Newest::Erased { tombstone: Tombstone { erased, by, .. }, .. } => {
                Ok(Some(Erasure { volume, erased, by, left_behind: Vec::new() }))
            }
            _ => Ok(None),
        }
    }

    /// Everybody who has keys.
    pub(crate) async fn owners(&self) -> Result<BTreeSet<String>, VaultError> {
        let owners = self.store.list_dirs("keys").await?;
        Ok(owners.into_iter().filter(|owner| is_owner(owner)).collect())
    }

    /// Brings an owner's keys under the newest master key, and deletes what stood under older ones.
    pub(crate) async fn rewrap(&self, owner: &str) -> Result<Rewrapped, VaultError> {
        let mut written = false;
        for _ in 0..ATTEMPTS {
            let wanted = self.masters.newest().number;
            let number = match self.newest(owner).await? {
                Newest::None => return Ok(Rewrapped::default()),
                Newest::Keys { number, master, secret } if master < wanted => {
                    written |= self.write(owner, number + 1, &secret).await?;
                    continue;
                }
                Newest::Erased { master, tombstone } if master < wanted => {
                    let Tombstone { number, erased, by, .. } = tombstone;
                    written |= self.write_tombstone(owner, number + 1, erased, &by).await?;
                    continue;
                }
                Newest::Keys { number, .. } | Newest::Erased { tombstone: Tombstone { number, .. }, .. } => number,
            };
            let left_behind = self.delete_below(owner, number).await?.len();
            return Ok(Rewrapped { written, left_behind: u64::try_from(left_behind).unwrap_or(u64::MAX) });
        }
        Err(self.contended(owner))
    }

    async fn read_volume(&self, volume: VolumeId) -> Result<Arc<Ring>, VaultError> {
        let (_, secret) = self.open_newest(&volume.to_string()).await?;
        self.remember_volume(volume, secret)
    }

    /// Keeps the ring with more keys: a slow read must not take a new key away.
    fn remember_volume(&self, volume: VolumeId, secret: Zeroizing<Vec<u8>>) -> Result<Arc<Ring>, VaultError> {
        let ring = Ring::new(volume, secret)?;
        let mut volumes = lock(&self.volumes);
        let known = volumes.entry(volume).or_insert_with(|| Arc::clone(&ring));
        if known.newest() < ring.newest() {
            *known = ring;
        }
        Ok(Arc::clone(known))
    }

    fn remember_group(&self, group: GroupId, secret: &[u8]) -> Result<keys::GroupKey, VaultError> {
        let bytes: Option<[u8; KEY_LEN]> = secret.try_into().ok();
        let bytes =
            bytes.ok_or_else(|| tampered(format!("the key of {group} has a wrong length; restore its object")))?;
        let key = keys::GroupKey::from_bytes(bytes);
        lock(&self.groups).insert(group, key.clone());
        Ok(key)
    }

    async fn create_or_open(&self, owner: &str, len: usize) -> Result<Zeroizing<Vec<u8>>, VaultError> {
        match self.open_newest(owner).await {
            Err(error) if error.kind() == VaultErrorKind::NotFound => {}
            found => return found.map(|(_, secret)| secret),
        }
        let mut secret = Zeroizing::new(vec![0; len]);
        self.options.entropy.fill(&mut secret)?;
        if self.write(owner, 1, &secret).await? {
            return Ok(secret);
        }
        self.open_newest(owner).await.map(|(_, secret)| secret)
    }

    async fn open_newest(&self, owner: &str) -> Result<(u32, Zeroizing<Vec<u8>>), VaultError> {
        match self.newest(owner).await? {
            Newest::Keys { number, secret, .. } => Ok((number, secret)),
            Newest::None => Err(self.missing(owner)),
            Newest::Erased { tombstone: Tombstone { erased, by, .. }, .. } => Err(VaultError::new(
                VaultErrorKind::Erased,
                format!(
                    "the keys of {owner} were destroyed on {erased} by {by}: what it held can't be read by anybody any more"
                ),
            )),
        }
    }

    async fn newest(&self, owner: &str) -> Result<Newest, VaultError> {
        for _ in 0..ATTEMPTS {
            let Some(number) = self.highest(owner).await? else { return Ok(Newest::None) };
            match self.read(owner, number).await {
                // Deleted between the listing and the read: there is a higher one.
                Err(error) if error.kind() == VaultErrorKind::NotFound => {}
                result => return result,
            }
        }
        Err(self.contended(owner))
    }

    async fn highest(&self, owner: &str) -> Result<Option<u32>, VaultError> {
        let found = self.store.list(&format!("keys/{owner}")).await?;
        Ok(found.iter().filter_map(|object| number_of(owner, &object.key)).max())
    }

    async fn read(&self, owner: &str, number: u32) -> Result<Newest, VaultError> {
        let bytes = self.store.get(&object_key(owner, number), KEY_OBJECT_BYTES_MAX).await?;
        self.open(owner, number, &bytes).await
    }

    /// Whether a key may have such a name.
    pub(crate) fn is_key(&self, key: &str) -> bool {
        owner_of(key).is_some()
    }

    /// Proves the object `key` and opens what it wraps. None when no key has such a name.
    pub(crate) async fn check(&self, key: &str, bytes: &[u8]) -> Result<Option<Proved>, VaultError> {
        let Some((owner, number)) = owner_of(key) else { return Ok(None) };
        let erased = match self.open(owner, number, bytes).await? {
            Newest::Keys { secret, .. } => {
                // The rules of their lengths, without which they are of no use.
                match owner.parse::<VolumeId>() {
                    Ok(volume) => drop(Ring::new(volume, secret)?),
                    Err(_) if secret.len() == KEY_LEN => {}
                    Err(_) => return Err(tampered(format!("the key {key} has a wrong length; restore its object"))),
                }
                false
            }
            Newest::Erased { .. } | Newest::None => true,
        };
        Ok(Some(Proved::Key { owner: owner.to_owned(), number, erased }))
    }

    async fn open(&self, owner: &str, number: u32, bytes: &[u8]) -> Result<Newest, VaultError> {
        let key = object_key(owner, number);
        let read = self.masters.open::<Entry>(LABEL_MAC, &key, bytes).await?;
        let master = read.master.number;
        match read.content {
            Entry::Keys(object) if object.owner == owner && object.number == number => {
                let secret = read.master.unwrap(read.version, &key, object.nonce.0, &object.wrapped.0);
                let secret = secret.map(|secret| in_order(owner, read.version, secret));
                let secret = secret.ok_or_else(|| {
                    tampered(format!("the key {key} does not open: it was swapped or damaged; restore the object"))
                })?;
                Ok(Newest::Keys { number, master, secret })
            }
            Entry::Erased(tombstone) if tombstone.owner == owner && tombstone.number == number => {
                Ok(Newest::Erased { master, tombstone })
            }
            _ => Err(tampered(format!("{key} holds another owner's key; restore the object"))),
        }
    }

    /// Writes keys under a number. `false`: somebody else has it.
    async fn write(&self, owner: &str, number: u32, secret: &[u8]) -> Result<bool, VaultError> {
        let key = object_key(owner, number);
        let master = self.masters.newest();
        let nonce = self.options.entropy.array()?;
        let object = Entry::Keys(KeyObject {
            owner: owner.to_owned(),
            number,
            created: self.options.clock.now(),
            nonce: Binary(nonce),
            wrapped: Blob(master.wrap(&key, nonce, secret)?),
        });
        let bytes = master.seal(LABEL_MAC, &key, &object, KEY_OBJECT_BYTES_MAX)?;
        if !self.create(&key, bytes).await? {
            return Ok(false);
        }
        // Whoever listed before an erasure, and created after it, may have filled a gap below it.
        if number > 1 && self.highest(owner).await?.is_some_and(|highest| highest > number) {
            self.store.delete(&key).await?;
            return Ok(false);
        }
        Ok(true)
    }

    async fn write_tombstone(&self, owner: &str, number: u32, erased: Timestamp, by: &str) -> Result<bool, VaultError> {
        let key = object_key(owner, number);
        let nonce = Binary(self.options.entropy.array()?);
        let tombstone = Entry::Erased(Tombstone { owner: owner.to_owned(), number, erased, by: by.to_owned(), nonce });
        let bytes = self.masters.newest().seal(LABEL_MAC, &key, &tombstone, KEY_OBJECT_BYTES_MAX)?;
        self.create(&key, bytes).await
    }

    async fn create(&self, key: &str, bytes: bytes::Bytes) -> Result<bool, VaultError> {
        match create_exact(&*self.store, key, bytes).await {
            Ok(_) => Ok(true),
            Err(error) if error.is_already_exists() => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Deletes an owner's objects below a number, oldest first; gives the names of those that the storage keeps.
    async fn delete_below(&self, owner: &str, number: u32) -> Result<Vec<String>, VaultError> {
        let mut kept = Vec::new();
        for object in self.store.list(&format!("keys/{owner}")).await? {
            if number_of(owner, &object.key).is_none_or(|found| found >= number) {
                continue;
            }
            match self.store.delete(&object.key).await {
                Ok(()) => {}
                Err(error) if error.is_retry() => return Err(error.into()),
                Err(error) => {
                    tracing::warn!(object = object.key, %error, "the storage keeps a key object that was to be deleted");
                    kept.push(object.key);
                }
            }
        }
        Ok(kept)
    }

    fn missing(&self, owner: &str) -> VaultError {
        VaultError::new(
            VaultErrorKind::NotFound,
            format!("the vault at {} has no key of {owner}: was it deleted?", self.store.url()),
        )
    }

    fn contended(&self, owner: &str) -> VaultError {
        VaultError::new(
            VaultErrorKind::Retry,
            format!("the keys of {owner} are being changed by others all the time: try again"),
        )
    }
}

/// Version 1 had a volume's only data key before its hash key.
fn in_order(owner: &str, version: u32, mut secret: Zeroizing<Vec<u8>>) -> Zeroizing<Vec<u8>> {
    if version == 1 && owner.parse::<VolumeId>().is_ok() && secret.len() == 2 * KEY_LEN {
        secret.rotate_left(KEY_LEN);
    }
    secret
}

fn authority_secret(vault: VaultId, secret: &[u8]) -> Result<Secret, VaultError> {
    let bytes: Option<[u8; KEY_LEN]> = secret.try_into().ok();
    let wrong = || tampered(format!("the key of the authority of {vault} has a wrong length; restore its object"));
    bytes.map(Zeroizing::new).ok_or_else(wrong)
}

fn is_owner(text: &str) -> bool {
    text.parse::<VolumeId>().is_ok() || text.parse::<GroupId>().is_ok() || text.parse::<VaultId>().is_ok()
}

fn object_key(owner: &str, number: u32) -> String {
    format!("keys/{owner}/{number:08}")
}

/// Owner and number in the name of a key.
fn owner_of(key: &str) -> Option<(&str, u32)> {
    let (owner, _) = key.strip_prefix("keys/")?.split_once('/')?;
    Some((owner, number_of(owner, key)?)).filter(|(owner, _)| is_owner(owner))
}

fn number_of(owner: &str, key: &str) -> Option<u32> {
    let number: u32 = key.rsplit_once('/')?.1.parse().ok()?;
    (number > 0 && object_key(owner, number) == key).then_some(number)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
