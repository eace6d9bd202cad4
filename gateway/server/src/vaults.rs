//! The vaults that this gateway is attached to, and its copy of their catalogs.
//!
//! The copy is what is served while a vault can't be reached, and what reconciliation works from. It is replaced as a
//! whole, so that one look sees one moment.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use anyhow::Context;
use futures::future::try_join_all;
use lifeboat_api::{EncryptionKey, KeySourceKind};
use lifeboat_identity::Authority;
use lifeboat_model::VaultId;
use lifeboat_vault::{
    Access, Credentials, Document, KeySource, KmsKey, MeteredStore, StorageTarget, StoreClass, StoreError, Vault,
    VaultError, VaultErrorKind, VaultOptions, open_storage,
};
use secrecy::SecretString;

use crate::records::{Documents, kind};
use crate::state_dir::Attachment;

/// How long a request to a vault may take before it counts as unreachable.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(20);

/// A gateway's copy of a catalog at one moment.
#[derive(Debug, Default)]
pub(crate) struct Snapshot {
    kinds: HashMap<&'static str, Documents>,
}

impl Snapshot {
    /// Whether the catalog was read at all.
    pub(crate) fn is_read(&self) -> bool {
        !self.kinds.is_empty()
    }

    /// A copy of a catalog with these documents, by kind.
    #[cfg(test)]
    pub(crate) fn with(kinds: impl IntoIterator<Item = (&'static str, Documents)>) -> Self {
        Self { kinds: kinds.into_iter().collect() }
    }

    pub(crate) fn of(&self, kind: &str) -> &[Arc<Document>] {
        self.kinds.get(kind).map_or(&[], Vec::as_slice)
    }

    pub(crate) fn get(&self, kind: &str, id: &str) -> Option<&Arc<Document>> {
        self.of(kind).iter().find(|document| document.id == id)
    }
}

/// A vault that this gateway is attached to.
#[derive(Debug)]
pub(crate) struct AttachedVault {
    pub(crate) attachment: Attachment,
    opened: RwLock<Option<Vault>>,
    snapshot: RwLock<Arc<Snapshot>>,
    /// The vault's authority over machines, once it was needed here.
    authority: RwLock<Option<Arc<Authority>>>,
    /// One at a time takes a copy, so that an older one never replaces a newer.
    refreshing: tokio::sync::Mutex<()>,
    /// Number of the copy that was begun last.
    begun: AtomicU64,
    /// Number of the copy that is served.
    taken: AtomicU64,
    /// One at a time declares what must not clash with what others declare, or deletes what others may need.
    declaring: tokio::sync::Mutex<()>,
    /// One at a time finishes a rotation of the master key.
    rewrapping: tokio::sync::Mutex<()>,
    /// When it was last tidied up.
    tidied: std::sync::Mutex<Option<Instant>>,
    /// Why it couldn't be reached when it was last tried.
    trouble: RwLock<Option<String>>,
}

impl AttachedVault {
    pub(crate) fn new(attachment: Attachment, opened: Option<Vault>) -> Self {
        Self {
            attachment,
            opened: RwLock::new(opened),
            snapshot: RwLock::default(),
            authority: RwLock::default(),
            refreshing: tokio::sync::Mutex::default(),
            begun: AtomicU64::new(0),
            taken: AtomicU64::new(0),
            declaring: tokio::sync::Mutex::default(),
            rewrapping: tokio::sync::Mutex::default(),
            tidied: std::sync::Mutex::default(),
            trouble: RwLock::default(),
        }
    }

    pub(crate) fn id(&self) -> VaultId {
        self.attachment.id
    }

    /// The open vault; a `Retry` error when it couldn't be opened yet.
    pub(crate) fn vault(&self) -> Result<Vault, VaultError> {
        let opened = self.opened.read().unwrap_or_else(PoisonError::into_inner).clone();
        opened.ok_or_else(|| {
            trouble(
                StoreClass::Retry,
                format!(
                    "the vault {} at {} can't be reached: {}",
                    self.attachment.name,
                    self.attachment.url,
                    self.trouble().unwrap_or_else(|| "it wasn't tried yet".to_owned())
                ),
            )
        })
    }

    pub(crate) fn trouble(&self) -> Option<String> {
        self.trouble.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.snapshot.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The vault's authority over machines, made if there is none yet: two gateways that make it at once have the same one.
    pub(crate) async fn authority(&self) -> Result<Arc<Authority>, VaultError> {
        if let Some(known) = self.known_authority() {
            return Ok(known);
        }
        let secret = self.vault()?.authority_secret().await?;
        self.remember_authority(&secret)
    }

    /// The same without asking the vault: known at a gateway that has registration keys or agents in its copy of the catalog.
    pub(crate) fn known_authority(&self) -> Option<Arc<Authority>> {
        self.authority.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn remember_authority(&self, secret: &[u8; 32]) -> Result<Arc<Authority>, VaultError> {
        let authority = Authority::new(self.id(), secret).map_err(|error| trouble(StoreClass::Fatal, error))?;
        let authority = Arc::new(authority);
        *self.authority.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&authority));
        Ok(authority)
    }

    /// Takes the authority over that another gateway made, when there is one that machines may ask for here.
    async fn learn_authority(&self, vault: &Vault, snapshot: &Snapshot) {
        let needed = [kind::REGISTRATION_KEYS, kind::AGENTS].iter().any(|kind| !snapshot.of(kind).is_empty());
        if !needed || self.known_authority().is_some() {
            return;
        }
        let learnt = match vault.existing_authority_secret().await {
            Ok(secret) => self.remember_authority(&secret).map(drop),
            Err(error) => Err(error),
        };
        if let Err(error) = learnt {
            tracing::warn!(vault = %self.id(), %error, "the vault's authority can't be read: machines can't connect");
        }
    }

    /// Whether it is time to tidy up; the caller then does.
    pub(crate) fn is_untidy(&self, after: Duration) -> bool {
        let mut tidied = self.tidied.lock().unwrap_or_else(PoisonError::into_inner);
        let due = tidied.is_none_or(|when| when.elapsed() >= after);
        if due {
            *tidied = Some(Instant::now());
        }
        due
    }

    /// Goes on with a rotation of the master key that was broken off, here or at another gateway.
    pub(crate) async fn finish_rotation(&self) {
        let Ok(_one) = self.rewrapping.try_lock() else { return };
        let Ok(vault) = self.vault() else { return };
        match vault.finish_rotation().await {
            Ok(done) => {
                tracing::info!(vault = %self.id(), master = done.master, "a rotation of the master key is complete")
            }
            Err(error) => {
                tracing::warn!(vault = %self.id(), %error, "a rotation of the master key can't be completed yet")
            }
        }
    }

    /// Alone among those at this gateway who declare what must not clash, with a copy of the catalog that has what the
    /// others declared. Two gateways at once can still let a clash pass: who shows the objects looks for it.
    pub(crate) async fn alone(&self) -> Result<tokio::sync::MutexGuard<'_, ()>, VaultError> {
        let one = self.declaring.lock().await;
        self.refresh().await?;
        Ok(one)
    }

    fn set_trouble(&self, trouble: Option<String>) {
        *self.trouble.write().unwrap_or_else(PoisonError::into_inner) = trouble;
    }

    /// Opens the vault if it isn't open, and takes a new copy of its catalog. Callers that wait for one another share a copy:
    /// it was begun after all of them asked.
    pub(crate) async fn refresh(&self) -> Result<Arc<Snapshot>, VaultError> {
        let asked = self.begun.load(Ordering::SeqCst);
        let _one = self.refreshing.lock().await;
        if self.taken.load(Ordering::SeqCst) > asked {
            return Ok(self.snapshot());
        }
        let number = self.begun.fetch_add(1, Ordering::SeqCst).saturating_add(1);
        let refreshed = tokio::time::timeout(REQUEST_TIMEOUT, self.read()).await.unwrap_or_else(|_| {
            Err(trouble(
                StoreClass::Retry,
                format!("the vault at {} gave no answer within {REQUEST_TIMEOUT:?}", self.attachment.url),
            ))
        });
        match refreshed {
            Ok(snapshot) => {
                self.set_trouble(None);
                let snapshot = Arc::new(snapshot);
                *self.snapshot.write().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&snapshot);
                self.taken.store(number, Ordering::SeqCst);
                Ok(snapshot)
            }
            Err(error) => {
                self.set_trouble(Some(error.to_string()));
                Err(error)
            }
        }
    }

    async fn read(&self) -> Result<Snapshot, VaultError> {
        let opened = self.opened.read().unwrap_or_else(PoisonError::into_inner).clone();
        let vault = match opened {
            Some(vault) => vault,
            None => {
                let vault = open(&self.attachment).await?;
                *self.opened.write().unwrap_or_else(PoisonError::into_inner) = Some(vault.clone());
                vault
            }
        };
        // Side by side: a vault may be far away, and one kind after the other would cost a round trip each.
        let kinds = kind::ALL.map(|kind| {
            let vault = &vault;
            async move {
                let (documents, damaged) = vault.catalog().list_with_damage(kind).await?;
                for error in damaged {
                    tracing::error!(vault = %vault.id(), %error, "document is damaged");
                }
                Ok::<_, VaultError>((kind, documents))
            }
        });
        let snapshot = Snapshot { kinds: try_join_all(kinds).await?.into_iter().collect() };
        self.learn_authority(&vault, &snapshot).await;
        Ok(snapshot)
    }
}

fn trouble(class: StoreClass, message: impl Into<String>) -> VaultError {
    StoreError::new(class, message).into()
}

/// The key of an attachment.
///
/// # Errors
/// The name of a KMS key can't be one.
pub(crate) fn key(attachment: &Attachment) -> Result<KeySource, VaultError> {
    key_of(&attachment.key())
}

/// A key as the vault takes it.
///
/// # Errors
/// The name of a KMS key can't be one.
pub(crate) fn key_of(key: &EncryptionKey) -> Result<KeySource, VaultError> {
    Ok(match key.key_source {
        KeySourceKind::KeyFile => KeySource::KeyFile(key.key_file.clone().unwrap_or_default().into()),
        KeySourceKind::Kms => KeySource::Kms(KmsKey::parse(key.kms_key.as_deref().unwrap_or_default())?),
        KeySourceKind::Passphrase => {
            let passphrase = key.passphrase.as_ref().map_or("", |passphrase| passphrase.expose());
            KeySource::Passphrase(SecretString::from(passphrase.to_owned()))
        }
    })
}

/// Where an attachment is and how it is reached.
pub(crate) fn target(attachment: &Attachment) -> StorageTarget {
    let secret = |secret: &lifeboat_api::Secret| SecretString::from(secret.expose().to_owned());
    let credentials = attachment.credentials.iter().flatten().map(|(name, value)| (name.clone(), secret(value)));
    StorageTarget {
        endpoint: attachment.endpoint.clone(),
        region: attachment.region.clone(),
        credentials: Credentials::of(credentials),
        proxy: attachment.proxy.as_ref().map(secret),
        ..StorageTarget::new(attachment.url.clone())
    }
}

/// How vaults are opened: in tests with the cheapest key derivation.
pub(crate) fn options() -> VaultOptions {
    if cfg!(test) { VaultOptions::for_tests() } else { VaultOptions::default() }
}

/// Opens an attached vault, and makes sure that it is the one that was attached.
pub(crate) async fn open(attachment: &Attachment) -> Result<Vault, VaultError> {
    let store = Arc::new(MeteredStore::new(open_storage(&target(attachment), Access::Open).await?));
    let vault = Vault::open(store, &key(attachment)?, options()).await?;
    if vault.id() != attachment.id {
        return Err(trouble(
            StoreClass::Fatal,
            format!(
                "{} holds the vault {} where {} was attached: put the right one back, or detach it",
                attachment.url,
                vault.id(),
                attachment.id
            ),
        ));
    }
    // A service over the network may have changed since the vault was attached: a proxy in between, another version.
    if !attachment.url.starts_with("file:") {
        vault.probe().await?;
    }
    Ok(vault)
}

/// All attached vaults.
#[derive(Debug, Default)]
pub(crate) struct Vaults {
    attached: RwLock<BTreeMap<VaultId, Arc<AttachedVault>>>,
}

impl Vaults {
    /// Opens what is remembered. One that can't be reached is tried again later; one that the key doesn't open, that was
    /// tampered with or that is too new stops the start.
    pub(crate) async fn open_all(attachments: Vec<Attachment>) -> anyhow::Result<Self> {
        let vaults = Self::default();
        for attachment in attachments {
            let opened = match open(&attachment).await {
                Ok(vault) => Some(vault),
                // What the gateway holds locally is served all the same; the vault's trouble shows in its health.
                Err(error)
                    if matches!(
                        error.kind(),
                        VaultErrorKind::Retry
                            | VaultErrorKind::NotFound
                            | VaultErrorKind::Denied
                            | VaultErrorKind::NoBucket
                            | VaultErrorKind::Unsafe
                    ) =>
                {
                    tracing::warn!(vault = %attachment.id, url = attachment.url, %error, "vault can't be reached yet");
                    None
                }
                Err(error) => {
                    return Err(error).with_context(|| {
                        format!("the vault {} at {} can't be opened", attachment.name, attachment.url)
                    });
                }
            };
            vaults.insert(Arc::new(AttachedVault::new(attachment, opened)));
        }
        Ok(vaults)
    }

    pub(crate) fn insert(&self, vault: Arc<AttachedVault>) {
        self.attached.write().unwrap_or_else(PoisonError::into_inner).insert(vault.id(), vault);
    }

    pub(crate) fn remove(&self, id: VaultId) {
        self.attached.write().unwrap_or_else(PoisonError::into_inner).remove(&id);
    }

    pub(crate) fn all(&self) -> Vec<Arc<AttachedVault>> {
        self.attached.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    pub(crate) fn get(&self, id: VaultId) -> Option<Arc<AttachedVault>> {
        self.attached.read().unwrap_or_else(PoisonError::into_inner).get(&id).cloned()
    }
}

#[cfg(test)]
mod tests {
    use futures::future::join_all;
    use lifeboat_vault::{Effect, FaultyStore, Rule, Store, VaultSettings, open_store};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn callers_that_wait_for_one_another_share_a_copy_that_was_begun_after_they_asked() {
        let memory: Arc<dyn Store> = open_store("memory:", Access::Create).await.expect("opens");
        let store = FaultyStore::new(memory);
        let key = KeySource::Passphrase(SecretString::from("correct horse".to_owned()));
        let faulty = Arc::clone(&store) as Arc<dyn Store>;
        let vault = Vault::create(faulty, VaultSettings::new("far"), &key, options()).await.expect("creates");
        let attachment = Attachment {
            id: vault.id(),
            name: "far".to_owned(),
            url: "memory:".to_owned(),
            endpoint: None,
            region: None,
            credentials: None,
            proxy: None,
            key_source: KeySourceKind::Passphrase,
            passphrase: None,
            key_file: None,
            kms_key: None,
        };
        let attached = AttachedVault::new(attachment, Some(vault.clone()));
        store.inject(Rule::new(Effect::Delay(Duration::from_secs(1))));
        let seconds = async |callers: usize| {
            let started = tokio::time::Instant::now();
            let copies = join_all((0..callers).map(|_| attached.refresh())).await;
            (started.elapsed().as_secs(), copies.into_iter().collect::<Result<Vec<_>, _>>())
        };
        // One round trip for all kinds. The first caller's copy was begun before the others asked: they share another one.
        assert_eq!(seconds(1).await.0, 1);
        let (took, copies) = seconds(10).await;
        assert_eq!(took, 2);
        assert!(copies.expect("read").iter().skip(2).all(|copy| Arc::ptr_eq(copy, &attached.snapshot())));

        // What was written before somebody asked is in what they get, whoever reads it.
        let reading = attached.refresh();
        let writing = async {
            tokio::time::sleep(Duration::from_millis(1500)).await;
            let none = serde_json::json!({});
            vault.catalog().create_new(kind::SITES, "onprem", "onprem", none.clone(), none).await.expect("written");
            attached.refresh().await
        };
        let late = async {
            tokio::time::sleep(Duration::from_millis(2600)).await;
            attached.refresh().await
        };
        let (_, written, late) = tokio::join!(reading, writing, late);
        assert!(written.expect("read").get(kind::SITES, "onprem").is_some());
        assert!(late.expect("read").get(kind::SITES, "onprem").is_some());

        // A copy that can't be taken is nobody's: the next in line takes its own.
        store.clear();
        store.inject(Rule::new(Effect::FailBefore).times(1));
        let copies = join_all((0..3).map(|_| attached.refresh())).await;
        assert_eq!(copies.iter().map(Result::is_ok).collect::<Vec<_>>(), [false, true, true]);
    }
}
