//! A create whose outcome is not known, settled by reading back.
//!
//! A reply can be lost after the object landed, and a client library may retry by itself: then our own write
//! answers "already exists". The object under the name decides: if it is ours, the create succeeded. Cancelled or
//! crashed in between, nothing is lost: the caller does the same again and finds the same.

use bytes::Bytes;

use crate::error::{StoreClass, StoreError};
use crate::store::Store;

/// How a create ended well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Landed {
    /// The backend confirmed it.
    Now,
    /// An earlier attempt of ours had landed, or this one did and its reply was lost.
    Before,
}

/// Creates `key`; when the name is taken or the outcome is unknown, reads back and asks `ours` whether the object
/// is the one that we wrote (by its nonce, or whole).
///
/// [`StoreClass::AlreadyExists`]: somebody else's object has the name. [`StoreClass::Retry`]: nothing landed so far;
/// do the same again with the same bytes.
pub async fn create_once(
    store: &dyn Store,
    key: &str,
    bytes: Bytes,
    ours: &(dyn Fn(&[u8]) -> bool + Send + Sync),
) -> Result<Landed, StoreError> {
    let max_bytes = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
    let error = match store.create(key, bytes.clone()).await {
        Ok(()) => return Ok(Landed::Now),
        Err(error) if error.is_already_exists() || error.is_retry() => error,
        Err(error) => return Err(error),
    };
    let taken = |key: &str| {
        let url = store.url();
        StoreError::new(StoreClass::AlreadyExists, format!("can't write {key} in {url}: the name is taken"))
    };
    match store.get(key, max_bytes).await {
        Ok(found) if ours(&found) => {
            if error.is_retry() {
                // It is there, but was it made durable? Asking to create it again makes the backend say so.
                match store.create(key, bytes).await {
                    Ok(()) => {}
                    Err(again) if again.is_already_exists() => {}
                    Err(again) => return Err(again),
                }
            }
            Ok(Landed::Before)
        }
        Ok(_) => Err(taken(key)),
        // Larger than what we wrote: not ours.
        Err(read) if read.class() == StoreClass::Fatal && error.is_already_exists() => {
            if store.head(key).await?.size > max_bytes { Err(taken(key)) } else { Err(read) }
        }
        // Taken a moment ago and gone now, or never landed: the caller may try again.
        Err(read) if read.is_not_found() && error.is_already_exists() => Err(StoreError::new(
            StoreClass::Retry,
            format!("{key} in {} vanished between two requests: try again", store.url()),
        )),
        Err(read) if read.is_not_found() => Err(error),
        Err(read) => Err(read),
    }
}

/// [`create_once`] for an object that is ours if it has exactly these bytes: they must hold something random.
pub async fn create_exact(store: &dyn Store, key: &str, bytes: Bytes) -> Result<Landed, StoreError> {
    let ours = bytes.clone();
    create_once(store, key, bytes, &move |found| found == ours).await
}

#[cfg(test)]
mod tests;
