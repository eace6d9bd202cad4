//! The keys of volumes and groups: `keys/<owner>/<number>`, each wrapped under the master key.
//!
//! The wrapping key is derived for that one object and the ciphertext is bound to its name, so a key that was copied
//! to another owner's place does not open. Making keys is create-or-open: two gateways, or a job that runs again after
//! a crash, end up with the same keys. Destroying an owner's keys makes everything that they encrypt unreadable.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lifeboat_format::keys;
use lifeboat_model::{GroupId, Timestamp, VolumeId};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::ambient::VaultOptions;
use crate::envelope::{Binary, Position, decode, encode};
use crate::error::{VaultError, VaultErrorKind, tampered};
use crate::once::create_exact;
use crate::secret::{Secret, derive, unwrap, wrap};
use crate::store::Store;

const LABEL_MAC: &[u8] = b"lifeboat/v1/key-mac";
const LABEL_WRAP: &[u8] = b"lifeboat/v1/key-wrap";
/// Far more than a key object has.
const KEY_OBJECT_BYTES_MAX: u64 = 4096;

/// The keys of a volume and the number under which they stand in the vault.
#[derive(Clone, Debug)]
pub struct VolumeKeys {
    /// From 1.
    pub key_id: u32,
    /// The keys.
    pub keys: keys::VolumeKeys,
}

/// `N` is the length of the secret and its tag: 80 for a volume (data key, hash key), 48 for a group.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyObject<const N: usize> {
    owner: String,
    number: u32,
    created: Timestamp,
    nonce: Binary<12>,
    wrapped: Binary<N>,
}

const VOLUME: usize = 80;
const GROUP: usize = 48;

pub(crate) struct Keyring {
    store: Arc<dyn Store>,
    vault: [u8; 16],
    master: Secret,
    mac: Secret,
    options: VaultOptions,
    volumes: Mutex<HashMap<VolumeId, VolumeKeys>>,
    groups: Mutex<HashMap<GroupId, keys::GroupKey>>,
}

impl Keyring {
    pub(crate) fn new(store: Arc<dyn Store>, vault: [u8; 16], master: Secret, options: VaultOptions) -> Self {
        let mac = derive(master.as_slice(), &vault, &[LABEL_MAC]);
        Self { store, vault, master, mac, options, volumes: Mutex::default(), groups: Mutex::default() }
    }

    pub(crate) async fn create_volume_keys(&self, volume: VolumeId) -> Result<VolumeKeys, VaultError> {
        if let Some(known) = lock(&self.volumes).get(&volume) {
            return Ok(known.clone());
        }
        let (number, secret) = self.create_or_open::<VOLUME>(&volume.to_string()).await?;
        self.remember_volume(volume, number, &secret)
    }

    pub(crate) async fn volume_keys(&self, volume: VolumeId) -> Result<VolumeKeys, VaultError> {
        if let Some(known) = lock(&self.volumes).get(&volume) {
            return Ok(known.clone());
        }
        let (number, secret) = self.open_newest::<VOLUME>(&volume.to_string()).await?;
        self.remember_volume(volume, number, &secret)
    }

    /// One data key of a volume. A number that isn't known is looked for in the vault: another gateway may have made it.
    pub(crate) async fn data_key(&self, volume: VolumeId, number: u32) -> Result<keys::DataKey, VaultError> {
        let known = self.volume_keys(volume).await?;
        if known.key_id == number {
            return Ok(known.keys.data);
        }
        Err(VaultError::new(
            VaultErrorKind::NotFound,
            format!("the vault at {} has no data key {number} of {volume}: was it deleted?", self.store.url()),
        ))
    }

    pub(crate) async fn group_key(&self, group: GroupId) -> Result<keys::GroupKey, VaultError> {
        if let Some(known) = lock(&self.groups).get(&group) {
            return Ok(known.clone());
        }
        let (_, secret) = self.create_or_open::<GROUP>(&group.to_string()).await?;
        self.remember_group(group, &secret)
    }

    pub(crate) async fn existing_group_key(&self, group: GroupId) -> Result<keys::GroupKey, VaultError> {
        if let Some(known) = lock(&self.groups).get(&group) {
            return Ok(known.clone());
        }
        let (_, secret) = self.open_newest::<GROUP>(&group.to_string()).await?;
        self.remember_group(group, &secret)
    }

    pub(crate) async fn destroy_volume_keys(&self, volume: VolumeId) -> Result<(), VaultError> {
        lock(&self.volumes).remove(&volume);
        self.destroy(&volume.to_string()).await
    }

    pub(crate) async fn destroy_group_key(&self, group: GroupId) -> Result<(), VaultError> {
        lock(&self.groups).remove(&group);
        self.destroy(&group.to_string()).await
    }

    fn remember_volume(&self, volume: VolumeId, number: u32, secret: &[u8]) -> Result<VolumeKeys, VaultError> {
        let [data, hash] = split::<2>(secret)?;
        let keys = keys::VolumeKeys { data: keys::DataKey::from_bytes(*data), hash: keys::HashKey::from_bytes(*hash) };
        let keys = VolumeKeys { key_id: number, keys };
        lock(&self.volumes).insert(volume, keys.clone());
        Ok(keys)
    }

    fn remember_group(&self, group: GroupId, secret: &[u8]) -> Result<keys::GroupKey, VaultError> {
        let [key] = split::<1>(secret)?;
        let key = keys::GroupKey::from_bytes(*key);
        lock(&self.groups).insert(group, key.clone());
        Ok(key)
    }

    async fn create_or_open<const N: usize>(&self, owner: &str) -> Result<(u32, Zeroizing<Vec<u8>>), VaultError> {
        match self.open_newest::<N>(owner).await {
            Err(error) if error.kind() == VaultErrorKind::NotFound => {}
            found => return found,
        }
        let key = object_key(owner, 1);
        let mut secret = Zeroizing::new(vec![0; N - 16]);
        self.options.entropy.fill(&mut secret)?;
        let nonce = self.options.entropy.array()?;
        let wrapped = wrap(&self.wrapping_key(&key), nonce, &self.aad(&key), &secret)?;
        let wrapped = wrapped.try_into().map_err(|_| tampered("a wrapped key has a wrong length"))?;
        let object = KeyObject::<N> {
            owner: owner.to_owned(),
            number: 1,
            created: self.options.clock.now(),
            nonce: Binary(nonce),
            wrapped: Binary(wrapped),
        };
        let bytes = encode(&object, &self.position(&key), &self.mac, KEY_OBJECT_BYTES_MAX)?;
        match create_exact(&*self.store, &key, bytes).await {
            Ok(_) => Ok((1, secret)),
            Err(error) if error.is_already_exists() => self.open_newest::<N>(owner).await,
            Err(error) => Err(error.into()),
        }
    }

    async fn open_newest<const N: usize>(&self, owner: &str) -> Result<(u32, Zeroizing<Vec<u8>>), VaultError> {
        let found = self.store.list(&format!("keys/{owner}")).await?;
        let newest = found.iter().filter_map(|object| number_of(owner, &object.key)).max();
        let Some(number) = newest else {
            return Err(VaultError::new(
                VaultErrorKind::NotFound,
                format!("the vault at {} has no key of {owner}: was it deleted?", self.store.url()),
            ));
        };
        let key = object_key(owner, number);
        let bytes = self.store.get(&key, KEY_OBJECT_BYTES_MAX).await?;
        let object: KeyObject<N> = decode(&bytes, &self.position(&key), &self.mac)?;
        let wrapping = self.wrapping_key(&key);
        match unwrap(&wrapping, object.nonce.0, &self.aad(&key), &object.wrapped.0) {
            Some(secret) if object.owner == owner && object.number == number => Ok((number, secret)),
            _ => Err(tampered(format!("the key {key} does not open: it was swapped or damaged; restore the object"))),
        }
    }

    async fn destroy(&self, owner: &str) -> Result<(), VaultError> {
        for object in self.store.list(&format!("keys/{owner}")).await? {
            self.store.delete(&object.key).await?;
        }
        Ok(())
    }

    fn position<'a>(&self, key: &'a str) -> Position<'a> {
        Position { label: LABEL_MAC, key, vault: self.vault }
    }

    fn wrapping_key(&self, key: &str) -> Secret {
        derive(self.master.as_slice(), &self.vault, &[LABEL_WRAP, key.as_bytes()])
    }

    fn aad(&self, key: &str) -> Vec<u8> {
        [LABEL_WRAP, &self.vault, key.as_bytes()].concat()
    }
}

fn object_key(owner: &str, number: u32) -> String {
    format!("keys/{owner}/{number:08}")
}

fn number_of(owner: &str, key: &str) -> Option<u32> {
    let number: u32 = key.rsplit_once('/')?.1.parse().ok()?;
    (number > 0 && object_key(owner, number) == key).then_some(number)
}

/// The secret as `N` keys of 32 bytes.
fn split<const N: usize>(secret: &[u8]) -> Result<[Zeroizing<[u8; 32]>; N], VaultError> {
    if secret.len() != N * 32 {
        return Err(tampered("a key of the vault has a wrong length; restore its object"));
    }
    let mut parts = std::array::from_fn(|_| Zeroizing::new([0; 32]));
    for (part, bytes) in parts.iter_mut().zip(secret.chunks_exact(32)) {
        part.copy_from_slice(bytes);
    }
    Ok(parts)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
