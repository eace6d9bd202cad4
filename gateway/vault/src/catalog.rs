//! The control plane's documents: `catalog/<kind>/<id>/<revision>.json`.
//!
//! A document has an intent (`spec`) and what was observed of it (`status`). Each change is the next revision,
//! create-only: of two writers one gets the name, the other sees what was written and goes again (status) or is told
//! (spec). `generation` counts changes of the intent only, so a status update never invalidates an ETag.
//!
//! ```text
//! absent ──create──> revision 1 ──update_spec──> revision + 1, generation + 1 ──delete──> tombstone ──purge──> absent
//!                                                                                    └──restore──> revision + 1, generation + 1
//!                        └──update_status──> revision + 1, same generation
//! ```
//! **Integrity.** Every revision carries a MAC over its content, its name and the vault. A document that was edited,
//! swapped, renumbered or rolled back behind a gateway that knew a newer one is refused by name.
//!
//! **Consistency.** Reads list first, so they see every change that was confirmed before they began. What was read
//! is cached by revision and never goes back.
//!
//! **Pruning.** Writers delete old revisions now and then: never one of the newest [`Tuning::keep`], and none younger
//! than [`Tuning::keep_for`] by the backend's own clock. A writer whose view is older than [`Tuning::fresh_for`] reads
//! again before it writes. So the name that it tries to take was free when it looked and can't have been used and
//! pruned since, which would let it "win" far below the newest revision.
//!
//! **Crashes and cancellation.** A revision is there or not. A lost reply is settled by reading back.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use lifeboat_model::Timestamp;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::time::Instant;

use crate::ambient::VaultOptions;
use crate::envelope::Binary;
use crate::error::{VaultError, VaultErrorKind, invalid, tampered};
use crate::masters::Masters;
use crate::once::create_exact;
use crate::store::{ObjectMeta, Store};
use crate::vault::Proved;

const LABEL_MAC: &[u8] = b"lifeboat/v1/catalog";
/// Largest document.
const DOCUMENT_BYTES_MAX: u64 = 1 << 20;
/// Reads in flight while a kind is listed.
const READS: usize = 8;
/// Writers that one change loses against before it gives up.
const WRITE_ATTEMPTS: u32 = 64;
/// Listings that are overtaken by pruning before a read gives up.
const READ_ATTEMPTS: u32 = 8;

#[derive(Clone, Copy, Debug)]
struct Tuning {
    keep: usize,
    keep_for: Duration,
    fresh_for: Duration,
}

impl Tuning {
    const DEFAULT: Tuning = Tuning { keep: 8, keep_for: Duration::from_secs(600), fresh_for: Duration::from_secs(120) };
}

/// One revision of a document.
#[derive(Clone, Debug, PartialEq)]
pub struct Document {
    /// What it describes, such as `volume`.
    pub kind: String,
    /// Its id, unique among its kind and never used again.
    pub id: String,
    /// Counts all changes, from 1.
    pub revision: u64,
    /// Counts changes of name and spec, from 1: what an ETag guards.
    pub generation: u64,
    /// What people call it. Unique or not is the caller's business.
    pub name: String,
    /// When it was created.
    pub created: Timestamp,
    /// When this revision was written.
    pub updated: Timestamp,
    /// Whether this is a tombstone. It keeps the last spec and status.
    pub deleted: bool,
    /// Intent.
    pub spec: Value,
    /// What was observed.
    pub status: Value,
}

impl Document {
    /// The spec as `T`.
    pub fn spec_as<T: DeserializeOwned>(&self) -> Result<T, VaultError> {
        T::deserialize(&self.spec).map_err(|error| self.misfit("spec", error))
    }

    /// The status as `T`.
    pub fn status_as<T: DeserializeOwned>(&self) -> Result<T, VaultError> {
        T::deserialize(&self.status).map_err(|error| self.misfit("status", error))
    }

    fn misfit(&self, part: &str, error: serde_json::Error) -> VaultError {
        let Self { kind, id, .. } = self;
        invalid(format!("the {part} of {kind} {id} is not what this version expects: {error}")).with_source(error)
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Content {
    kind: String,
    id: String,
    revision: u64,
    generation: u64,
    name: String,
    created: Timestamp,
    updated: Timestamp,
    deleted: bool,
    /// Tells the revisions of two writers apart that say the same.
    nonce: Binary<16>,
    spec: Value,
    status: Value,
}

/// The documents of one vault. A handle: clones share the cache.
#[derive(Clone)]
pub struct Catalog {
    shared: Arc<Shared>,
}

struct Shared {
    store: Arc<dyn Store>,
    masters: Arc<Masters>,
    options: VaultOptions,
    tuning: Tuning,
    cache: Mutex<HashMap<Name, Known>>,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Name {
    kind: String,
    id: String,
}

#[derive(Clone)]
struct Known {
    document: Arc<Document>,
    /// A time at which there was no newer revision.
    newest_at: Instant,
    /// Number of the master key that it is sealed with.
    master: u32,
}

/// The parts of a document that a change decides.
struct Next {
    name: String,
    spec: Value,
    status: Value,
    deleted: bool,
    new_generation: bool,
}

impl Catalog {
    pub(crate) fn new(store: Arc<dyn Store>, masters: Arc<Masters>, options: VaultOptions) -> Self {
        Self::tuned(store, masters, options, Tuning::DEFAULT)
    }

    fn tuned(store: Arc<dyn Store>, masters: Arc<Masters>, options: VaultOptions, tuning: Tuning) -> Self {
        Self { shared: Arc::new(Shared { store, masters, options, tuning, cache: Mutex::default() }) }
    }

    /// The documents of a kind that are not deleted, by id. One listing, and a read for each that changed.
    ///
    /// [`VaultErrorKind::Tampered`] if any of them is damaged.
    pub async fn list(&self, kind: &str) -> Result<Vec<Arc<Document>>, VaultError> {
        let (documents, damaged) = self.list_with_damage(kind).await?;
        match damaged.into_iter().next() {
            None => Ok(documents),
            Some(error) => Err(error),
        }
    }

    /// Like [`Catalog::list`], but damaged documents are reported beside those that are fine.
    pub async fn list_with_damage(&self, kind: &str) -> Result<(Vec<Arc<Document>>, Vec<VaultError>), VaultError> {
        let (documents, damaged) = self.read_kind(kind).await?;
        Ok((documents.into_iter().filter(|document| !document.deleted).collect(), damaged))
    }

    /// The tombstones of a kind, by id.
    pub async fn list_deleted(&self, kind: &str) -> Result<Vec<Arc<Document>>, VaultError> {
        let (documents, _) = self.read_kind(kind).await?;
        Ok(documents.into_iter().filter(|document| document.deleted).collect())
    }

    /// A document. One listing, and a read if it changed. [`VaultErrorKind::NotFound`] also when it was deleted.
    pub async fn get(&self, kind: &str, id: &str) -> Result<Arc<Document>, VaultError> {
        let name = Name::new(kind, id)?;
        live(self.newest(&name).await?, &name)
    }

    /// The document of a kind with this name; the one with the lowest id if there are several.
    pub async fn find_by_name(&self, kind: &str, name: &str) -> Result<Option<Arc<Document>>, VaultError> {
        Ok(self.list(kind).await?.into_iter().find(|document| document.name == name))
    }

    /// What is known of a document without asking the vault.
    #[must_use]
    pub fn cached(&self, kind: &str, id: &str) -> Option<Arc<Document>> {
        let name = Name { kind: kind.to_owned(), id: id.to_owned() };
        self.known(&name).map(|known| known.document).filter(|document| !document.deleted)
    }

    /// Creates a document: revision 1, generation 1. [`VaultErrorKind::Conflict`] if there is or was one with the id.
    pub async fn create(
        &self,
        kind: &str,
        id: &str,
        name: &str,
        spec: Value,
        status: Value,
    ) -> Result<Arc<Document>, VaultError> {
        let at = Name::new(kind, id)?;
        let looked = Instant::now();
        if self.newest(&at).await?.is_some() {
            return Err(used(&at));
        }
        self.make(&at, name, spec, status, looked).await
    }

    /// [`Catalog::create`] under an id that was drawn just now, so that nobody can have used it: without looking for it.
    pub async fn create_new(
        &self,
        kind: &str,
        id: &str,
        name: &str,
        spec: Value,
        status: Value,
    ) -> Result<Arc<Document>, VaultError> {
        self.make(&Name::new(kind, id)?, name, spec, status, Instant::now()).await
    }

    async fn make(
        &self,
        at: &Name,
        name: &str,
        spec: Value,
        status: Value,
        looked: Instant,
    ) -> Result<Arc<Document>, VaultError> {
        let next = Next { name: name.to_owned(), spec, status, deleted: false, new_generation: true };
        self.write(at, None, next, looked).await?.ok_or_else(|| used(at))
    }

    /// Changes name and spec if the generation is still `if_generation`, which then goes up by one. Equal to what is
    /// there, it writes nothing. [`VaultErrorKind::Conflict`] if somebody else changed them first.
    pub async fn update_spec(
        &self,
        kind: &str,
        id: &str,
        if_generation: u64,
        name: &str,
        spec: Value,
    ) -> Result<Arc<Document>, VaultError> {
        self.change(kind, id, &mut |now| {
            guard(now, Some(if_generation))?;
            if now.name == name && now.spec == spec {
                return Ok(None);
            }
            Ok(Some(Next {
                name: name.to_owned(),
                spec: spec.clone(),
                status: now.status.clone(),
                deleted: false,
                new_generation: true,
            }))
        })
        .await
    }

    /// Changes the status to what `change` makes of the newest document. `None`, or what is there already, writes
    /// nothing. When somebody else writes first, `change` runs again on what they wrote.
    pub async fn update_status(
        &self,
        kind: &str,
        id: &str,
        change: &mut (dyn FnMut(&Document) -> Option<Value> + Send),
    ) -> Result<Arc<Document>, VaultError> {
        self.change(kind, id, &mut |now| {
            let status = change(now).filter(|status| *status != now.status);
            Ok(status.map(|status| Next {
                name: now.name.clone(),
                spec: now.spec.clone(),
                status,
                deleted: false,
                new_generation: false,
            }))
        })
        .await
    }

    /// Replaces a document by a tombstone, which is returned. [`VaultErrorKind::Conflict`] unless the generation is
    /// `if_generation`, where that is given.
    pub async fn delete(&self, kind: &str, id: &str, if_generation: Option<u64>) -> Result<Arc<Document>, VaultError> {
        self.change(kind, id, &mut |now| {
            guard(now, if_generation)?;
            Ok(Some(Next {
                name: now.name.clone(),
                spec: now.spec.clone(),
                status: now.status.clone(),
                deleted: true,
                new_generation: true,
            }))
        })
        .await
    }

    /// Takes a deletion back: the document is there again with its name and spec, and the status that `change` makes of the
    /// tombstone, under a new generation. One that is there is given as it is. [`VaultErrorKind::NotFound`] if there is no
    /// trace of it.
    pub async fn restore(
        &self,
        kind: &str,
        id: &str,
        change: &mut (dyn FnMut(&Document) -> Value + Send),
    ) -> Result<Arc<Document>, VaultError> {
        let name = Name::new(kind, id)?;
        for _ in 0..WRITE_ATTEMPTS {
            let looked = Instant::now();
            let now = self.newest(&name).await?.ok_or_else(|| missing(&name))?;
            if !now.deleted {
                return Ok(now);
            }
            let next = Next {
                name: now.name.clone(),
                spec: now.spec.clone(),
                status: change(&now),
                deleted: false,
                new_generation: true,
            };
            if let Some(written) = self.write(&name, Some(&now), next, looked).await? {
                self.prune(&name, written.revision).await;
                return Ok(written);
            }
        }
        Err(busy(&name))
    }

    /// Deletes every trace of a document that is a tombstone; one that is gone is fine. [`VaultErrorKind::Conflict`]
    /// if it is not deleted.
    pub async fn purge(&self, kind: &str, id: &str) -> Result<(), VaultError> {
        let name = Name::new(kind, id)?;
        match self.newest(&name).await? {
            None => return Ok(()),
            Some(document) if !document.deleted => {
                return Err(VaultError::new(
                    VaultErrorKind::Conflict,
                    format!("{name} is not deleted: delete it first"),
                ));
            }
            Some(_) => {}
        }
        // Oldest first: broken off, the tombstone is still the newest.
        for object in self.shared.store.list(&name.prefix()).await? {
            self.shared.store.delete(&object.key).await?;
        }
        self.cache().remove(&name);
        Ok(())
    }

    /// Writes every document that isn't sealed with the newest master key once more, tombstones included. Gives their
    /// number. What is damaged is reported when the others are done.
    pub(crate) async fn reseal(&self) -> Result<u64, VaultError> {
        let (mut resealed, mut first) = (0, None);
        for kind in self.shared.store.list_dirs("catalog").await? {
            if !is_name(&kind) {
                continue;
            }
            let (documents, damaged) = self.read_kind(&kind).await?;
            first = first.or(damaged.into_iter().next());
            for document in documents {
                resealed += u64::from(self.reseal_one(&Name { kind: kind.clone(), id: document.id.clone() }).await?);
            }
        }
        first.map_or(Ok(resealed), Err)
    }

    async fn reseal_one(&self, name: &Name) -> Result<bool, VaultError> {
        for _ in 0..WRITE_ATTEMPTS {
            let looked = Instant::now();
            let Some(document) = self.newest(name).await? else { return Ok(false) };
            let sealed = self.known(name).filter(|known| known.document.revision == document.revision);
            if sealed.is_some_and(|known| known.master >= self.shared.masters.newest().number) {
                return Ok(false);
            }
            let next = Next {
                name: document.name.clone(),
                spec: document.spec.clone(),
                status: document.status.clone(),
                deleted: document.deleted,
                new_generation: false,
            };
            if self.write(name, Some(&document), next, looked).await?.is_some() {
                return Ok(true);
            }
        }
        Err(busy(name))
    }

    /// Whether a document of the catalog may have such a name.
    pub(crate) fn is_document(&self, key: &str) -> bool {
        named(key).is_some()
    }

    /// Proves the object `key`. None when no document of the catalog has such a name.
    pub(crate) async fn check(&self, key: &str, bytes: &[u8]) -> Result<Option<Proved>, VaultError> {
        let Some((name, revision)) = named(key) else { return Ok(None) };
        let (content, _) = self.prove(&name, revision, bytes).await?;
        let Content { generation, created, deleted, .. } = content;
        Ok(Some(Proved::Catalog { revision, generation, created, deleted }))
    }

    /// The content, and the number of the master key that it is sealed with.
    async fn prove(&self, name: &Name, revision: u64, bytes: &[u8]) -> Result<(Content, u32), VaultError> {
        let key = name.object(revision);
        let read = self.shared.masters.open::<Content>(LABEL_MAC, &key, bytes).await?;
        let content = read.content;
        if content.kind != name.kind || content.id != name.id || content.revision != revision {
            return Err(tampered(format!("{key} holds another document; restore the object")));
        }
        Ok((content, read.master.number))
    }

    async fn change(
        &self,
        kind: &str,
        id: &str,
        decide: &mut (dyn FnMut(&Document) -> Result<Option<Next>, VaultError> + Send),
    ) -> Result<Arc<Document>, VaultError> {
        let name = Name::new(kind, id)?;
        // A fresh view spares a listing: if it is behind, the write finds its name taken. Nothing is refused by it.
        let fresh = self.known(&name).filter(|known| self.is_fresh(known.newest_at));
        let mut view = fresh.map(|known| (known.document, known.newest_at));
        for _ in 0..WRITE_ATTEMPTS {
            let from_cache = view.is_some();
            let (document, looked) = match view.take() {
                Some(view) => view,
                None => {
                    let looked = Instant::now();
                    (self.newest(&name).await?.ok_or_else(|| missing(&name))?, looked)
                }
            };
            let next = match live(Some(Arc::clone(&document)), &name).and_then(|now| decide(&now)) {
                Ok(Some(next)) => next,
                // Nothing to change, by a view that may be behind: look before saying so.
                Ok(None) if !from_cache => return Ok(document),
                Err(error) if !from_cache => return Err(error),
                _ => continue,
            };
            if let Some(written) = self.write(&name, Some(&document), next, looked).await? {
                self.prune(&name, written.revision).await;
                return Ok(written);
            }
        }
        Err(busy(&name))
    }

    /// Writes the revision after `before`. `None`: somebody else has its name.
    async fn write(
        &self,
        name: &Name,
        before: Option<&Document>,
        next: Next,
        looked: Instant,
    ) -> Result<Option<Arc<Document>>, VaultError> {
        if !self.is_fresh(looked) {
            return Ok(None);
        }
        let now = self.shared.options.clock.now();
        let content = Content {
            kind: name.kind.clone(),
            id: name.id.clone(),
            revision: before.map_or(0, |document| document.revision) + 1,
            generation: before.map_or(0, |document| document.generation) + u64::from(next.new_generation),
            name: next.name,
            created: before.map_or(now, |document| document.created),
            updated: now,
            deleted: next.deleted,
            nonce: Binary(self.shared.options.entropy.array()?),
            spec: next.spec,
            status: next.status,
        };
        let key = name.object(content.revision);
        let master = self.shared.masters.newest();
        let bytes = master.seal(LABEL_MAC, &key, &content, DOCUMENT_BYTES_MAX)?;
        let started = Instant::now();
        match create_exact(&*self.shared.store, &key, bytes).await {
            Ok(_) => Ok(Some(self.remember(name, content, started, master.number))),
            Err(error) if error.is_already_exists() => {
                // Theirs is known to be there, whatever a listing says. It may be gone again only if it was pruned.
                match self.read(name, before.map_or(0, |document| document.revision) + 1, looked).await {
                    Err(error) if error.kind() != VaultErrorKind::NotFound => Err(error),
                    _ => Ok(None),
                }
            }
            Err(error) => Err(error.into()),
        }
    }

    /// The newest revision, tombstones included.
    async fn newest(&self, name: &Name) -> Result<Option<Arc<Document>>, VaultError> {
        for _ in 0..READ_ATTEMPTS {
            let looked = Instant::now();
            let listed = self.shared.store.list(&name.prefix()).await?;
            let newest = listed.iter().filter_map(|object| name.revision_of(&object.key)).max();
            match self.settle(name, newest, looked).await {
                // Pruned between the listing and the read: there are newer ones.
                Err(error) if error.kind() == VaultErrorKind::NotFound => {}
                result => return result,
            }
        }
        Err(VaultError::new(VaultErrorKind::Retry, format!("{name} changes faster than it can be read: try again")))
    }

    /// The newest document, given the newest revision that a listing which began at `looked` showed.
    async fn settle(
        &self,
        name: &Name,
        listed: Option<u64>,
        looked: Instant,
    ) -> Result<Option<Arc<Document>>, VaultError> {
        let known = self.known(name).map(|known| known.document);
        match (listed, known) {
            (None, None) => Ok(None),
            (Some(listed), Some(known)) if listed == known.revision => {
                self.confirm(name, &known, looked);
                Ok(Some(known))
            }
            (listed, Some(known)) if listed.unwrap_or(0) < known.revision => {
                self.explain_older(name, listed, known).await
            }
            (Some(listed), _) => self.read(name, listed, looked).await.map(Some),
            (None, Some(_)) => Ok(None),
        }
    }

    /// A listing shows less than was known here: it lags, the tombstone was purged, or somebody took objects away.
    async fn explain_older(
        &self,
        name: &Name,
        listed: Option<u64>,
        known: Arc<Document>,
    ) -> Result<Option<Arc<Document>>, VaultError> {
        match self.shared.store.head(&name.object(known.revision)).await {
            Ok(_) => Ok(Some(known)),
            Err(error) if error.is_not_found() && known.deleted && listed.is_none() => {
                self.cache().remove(name);
                Ok(None)
            }
            Err(error) if error.is_not_found() => Err(tampered(format!(
                "{name} went back from revision {} to {}: objects were deleted from the vault; restore them",
                known.revision,
                listed.unwrap_or(0)
            ))),
            Err(error) => Err(error.into()),
        }
    }

    async fn read_kind(&self, kind: &str) -> Result<(Vec<Arc<Document>>, Vec<VaultError>), VaultError> {
        Name::new(kind, "any")?;
        let looked = Instant::now();
        let mut newest: BTreeMap<String, Option<u64>> = BTreeMap::new();
        for name in self.cache().keys().filter(|name| name.kind == kind) {
            newest.insert(name.id.clone(), None);
        }
        for object in self.shared.store.list(&format!("catalog/{kind}")).await? {
            if let Some((name, revision)) = Name::of(kind, &object.key) {
                let entry = newest.entry(name.id).or_default();
                *entry = (*entry).max(Some(revision));
            }
        }
        let reads = newest.into_iter().map(|(id, listed)| {
            let this = self.clone();
            let name = Name { kind: kind.to_owned(), id };
            async move {
                match this.settle(&name, listed, looked).await {
                    Err(error) if error.kind() == VaultErrorKind::NotFound => this.newest(&name).await,
                    result => result,
                }
            }
        });
        let results: Vec<_> = futures::stream::iter(reads).buffered(READS).collect().await;
        let (mut documents, mut damaged) = (Vec::with_capacity(results.len()), Vec::new());
        for result in results {
            match result {
                Ok(document) => documents.extend(document),
                Err(error) if matches!(error.kind(), VaultErrorKind::Tampered | VaultErrorKind::NewerFormat) => {
                    damaged.push(error);
                }
                Err(error) => return Err(error),
            }
        }
        Ok((documents, damaged))
    }

    /// Reads a revision that was found by following a view from `looked`: whatever is newer was written after that.
    async fn read(&self, name: &Name, revision: u64, looked: Instant) -> Result<Arc<Document>, VaultError> {
        let bytes = self.shared.store.get(&name.object(revision), DOCUMENT_BYTES_MAX).await?;
        let (content, master) = self.prove(name, revision, &bytes).await?;
        Ok(self.remember(name, content, looked, master))
    }

    /// Deletes old revisions, now and then, as far as that works.
    async fn prune(&self, name: &Name, newest: u64) {
        let Tuning { keep, keep_for, .. } = self.shared.tuning;
        if u64::try_from(keep).is_ok_and(|keep| !newest.is_multiple_of(keep)) {
            return;
        }
        let result = async {
            let mut revisions: Vec<ObjectMeta> = self.shared.store.list(&name.prefix()).await?;
            revisions.retain(|object| name.revision_of(&object.key).is_some());
            let Some(newest) = revisions.last().map(|object| object.modified.as_micros()) else { return Ok(()) };
            let keep_for = i64::try_from(keep_for.as_micros()).unwrap_or(i64::MAX);
            let old = revisions.len().saturating_sub(keep);
            for object in revisions.iter().take(old) {
                if newest.saturating_sub(object.modified.as_micros()) >= keep_for {
                    self.shared.store.delete(&object.key).await?;
                }
            }
            Ok::<(), crate::StoreError>(())
        };
        if let Err(error) = result.await {
            tracing::debug!(%error, document = %name, "old revisions stay behind for now");
        }
    }

    fn remember(&self, name: &Name, content: Content, newest_at: Instant, master: u32) -> Arc<Document> {
        let document = Arc::new(Document {
            kind: content.kind,
            id: content.id,
            revision: content.revision,
            generation: content.generation,
            name: content.name,
            created: content.created,
            updated: content.updated,
            deleted: content.deleted,
            spec: content.spec,
            status: content.status,
        });
        let mut cache = self.cache();
        if cache.get(name).is_none_or(|known| known.document.revision < document.revision) {
            cache.insert(name.clone(), Known { document: Arc::clone(&document), newest_at, master });
        }
        document
    }

    fn confirm(&self, name: &Name, document: &Document, looked: Instant) {
        if let Some(known) = self.cache().get_mut(name)
            && known.document.revision == document.revision
            && known.newest_at < looked
        {
            known.newest_at = looked;
        }
    }

    fn is_fresh(&self, looked: Instant) -> bool {
        looked.elapsed() < self.shared.tuning.fresh_for
    }

    fn known(&self, name: &Name) -> Option<Known> {
        self.cache().get(name).cloned()
    }

    fn cache(&self) -> MutexGuard<'_, HashMap<Name, Known>> {
        self.shared.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Catalog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Catalog").field("store", &self.shared.store).finish_non_exhaustive()
    }
}

impl Name {
    fn new(kind: &str, id: &str) -> Result<Self, VaultError> {
        if is_name(kind) && is_name(id) {
            Ok(Self { kind: kind.to_owned(), id: id.to_owned() })
        } else {
            Err(invalid(format!(
                "{kind:?} {id:?} can't be a document: kind and id are 1 to 64 lower-case letters, digits and hyphens"
            )))
        }
    }

    /// The name and revision of an object under `catalog/<kind>`.
    fn of(kind: &str, key: &str) -> Option<(Self, u64)> {
        let id = key.strip_prefix("catalog/")?.strip_prefix(kind)?.strip_prefix('/')?.split('/').next()?;
        let name = Self::new(kind, id).ok()?;
        let revision = name.revision_of(key)?;
        Some((name, revision))
    }

    fn prefix(&self) -> String {
        format!("catalog/{}/{}", self.kind, self.id)
    }

    fn object(&self, revision: u64) -> String {
        format!("{}/{revision:012}.json", self.prefix())
    }

    fn revision_of(&self, key: &str) -> Option<u64> {
        let number: u64 = key.rsplit_once('/')?.1.strip_suffix(".json")?.parse().ok()?;
        (number > 0 && self.object(number) == key).then_some(number)
    }
}

/// Name and revision of any object of the catalog.
fn named(key: &str) -> Option<(Name, u64)> {
    Name::of(key.strip_prefix("catalog/")?.split('/').next()?, key)
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind, self.id)
    }
}

pub(crate) fn is_name(text: &str) -> bool {
    (1..=64).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
}

fn used(name: &Name) -> VaultError {
    VaultError::new(VaultErrorKind::Conflict, format!("the id of {name} is in use, or was"))
}

fn busy(name: &Name) -> VaultError {
    VaultError::new(VaultErrorKind::Retry, format!("{name} is being changed by others all the time: try again"))
}

fn missing(name: &Name) -> VaultError {
    VaultError::new(VaultErrorKind::NotFound, format!("there is no {name}"))
}

fn live(document: Option<Arc<Document>>, name: &Name) -> Result<Arc<Document>, VaultError> {
    document.filter(|document| !document.deleted).ok_or_else(|| missing(name))
}

fn guard(now: &Document, if_generation: Option<u64>) -> Result<(), VaultError> {
    match if_generation {
        Some(expected) if expected != now.generation => {
            let Document { kind, id, generation, .. } = now;
            Err(VaultError::new(
                VaultErrorKind::Conflict,
                format!(
                    "{kind} {id} is at generation {generation}, not {expected}: read it again and repeat the change"
                ),
            ))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
