//! Finds out whether a backend keeps the promises that a vault is built on, and refuses one that doesn't.
//!
//! Some S3 work-alikes accept the create-only condition and overwrite silently; some listings lag behind writes. On
//! either, two gateways would both believe that they own a branch. The probe writes a few small objects under
//! `probe/<random>/` and deletes them. Interrupted, it leaves them: they mean nothing and nobody reads them.

use bytes::Bytes;

use crate::ambient::Entropy;
use crate::error::{StoreClass, StoreError, VaultError, VaultErrorKind};
use crate::store::Store;

/// How often a racer asks before an outage is an outage.
const RACER_ATTEMPTS: u32 = 4;

/// Probes the backend. [`VaultErrorKind::Unsafe`] with the reason if it can't hold a vault; the store's own error
/// if it can't be reached.
pub async fn probe(store: &dyn Store, entropy: &Entropy) -> Result<(), VaultError> {
    let tag = u128::from_le_bytes(entropy.array()?);
    let name = format!("{tag:032x}");
    let prefix = format!("probe/{name}");
    let result = run(store, entropy, &name, &prefix).await;
    for object in ["single", "raced"] {
        if let Err(error) = store.delete(&format!("{prefix}/{object}")).await {
            tracing::warn!(%error, "a probe object stays behind; it is harmless");
        }
    }
    result
}

async fn run(store: &dyn Store, entropy: &Entropy, name: &str, prefix: &str) -> Result<(), VaultError> {
    let refuse = |why: &str| {
        let url = store.url();
        VaultError::new(
            VaultErrorKind::Unsafe,
            format!(
                "the storage at {url} can't hold a vault: {why}; choose another storage service, or fix its settings"
            ),
        )
    };
    let ours = Bytes::copy_from_slice(&entropy.array::<64>()?);
    let theirs = Bytes::copy_from_slice(&entropy.array::<64>()?);
    let key = format!("{prefix}/single");

    if store.create(&key, ours.clone()).await.found_taken()? {
        return Err(refuse("it says that a name never used before is taken"));
    }
    let listed = store.list(prefix).await?;
    match listed.iter().find(|object| object.key == key) {
        None => return Err(refuse("its listing does not show an object that was just written")),
        Some(object) if object.size != 64 => return Err(refuse("its listing shows a wrong size")),
        Some(_) => {}
    }
    if !store.list_dirs("probe").await?.iter().any(|found| found == name) {
        return Err(refuse("its listing by directory does not show an object that was just written"));
    }
    if !store.create(&key, theirs.clone()).await.found_taken()? {
        return Err(refuse("it silently lets a second create-only write of the same name succeed"));
    }
    let stored = store.get(&key, 4096).await?;
    if stored == theirs {
        return Err(refuse("it reports that a name is taken and overwrites it all the same"));
    }
    if stored != ours {
        return Err(refuse("it returns other bytes than were written"));
    }
    for range in [0..1_usize, 5..17, 63..64, 0..64] {
        let (start, end) = (range.start as u64, range.end as u64);
        match store.get_range(&key, start..end).await {
            Ok(part) if part == ours.slice(range) => {}
            Err(error) if matches!(error.class(), StoreClass::Retry | StoreClass::Denied | StoreClass::NoBucket) => {
                return Err(error.into());
            }
            _ => return Err(refuse("it does not read exact ranges of an object")),
        }
    }
    if store.head(&key).await?.size != 64 {
        return Err(refuse("it reports a wrong size"));
    }
    race(store, prefix, &ours, &theirs).await?.map_err(refuse)?;

    store.delete(&key).await?;
    match store.get(&key, 4096).await {
        Err(error) if error.is_not_found() => {}
        Err(error) => return Err(error.into()),
        Ok(_) => return Err(refuse("it still returns an object after deleting it")),
    }
    if store.list(prefix).await?.iter().any(|object| object.key == key) {
        return Err(refuse("its listing still shows an object after deleting it"));
    }
    Ok(())
}

/// Two creates of one name at once: one wins, and its bytes are what is there.
async fn race(store: &dyn Store, prefix: &str, a: &Bytes, b: &Bytes) -> Result<Result<(), &'static str>, VaultError> {
    let key = format!("{prefix}/raced");
    let (first, second) = futures::join!(racer(store, &key, a), racer(store, &key, b));
    let winner = match (first?, second?) {
        (false, true) => a,
        (true, false) => b,
        (false, false) => return Ok(Err("it lets two create-only writes at the same time both succeed")),
        (true, true) => return Ok(Err("of two create-only writes at the same time it refuses both")),
    };
    let stored = store.get(&key, 4096).await?;
    Ok(if stored == *winner { Ok(()) } else { Err("of two create-only writes at the same time the refused one stays") })
}

/// One of them: whether the name was taken by the other. A lost reply or a conflict with a write that is under way
/// decides nothing, so it asks again; when its own earlier attempt had landed, it is the winner.
async fn racer(store: &dyn Store, key: &str, bytes: &Bytes) -> Result<bool, StoreError> {
    let mut asked_before = false;
    for _ in 1..RACER_ATTEMPTS {
        match store.create(key, bytes.clone()).await.found_taken() {
            Ok(true) if asked_before => return Ok(store.get(key, 4096).await? != *bytes),
            Err(error) if error.is_retry() => asked_before = true,
            done => return done,
        }
    }
    match store.create(key, bytes.clone()).await.found_taken() {
        Ok(true) => Ok(store.get(key, 4096).await? != *bytes),
        done => done,
    }
}

trait Taken {
    /// Whether the name was taken; other errors pass through.
    fn found_taken(self) -> Result<bool, StoreError>;
}

impl Taken for Result<(), StoreError> {
    fn found_taken(self) -> Result<bool, StoreError> {
        match self {
            Ok(()) => Ok(false),
            Err(error) if error.is_already_exists() => Ok(true),
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests;
