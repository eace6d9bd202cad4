//! What a vault asks of an object store, and how a storage URL becomes one.
//!
//! The contract is small on purpose, so that any backend can keep it: single-shot create-only writes under fresh
//! names, exact reads, strongly consistent listings, deletes. There is no update, no rename, no copy, no lock.
//! Refuses keys outside `[A-Za-z0-9._-]` segments: what is valid here is valid on every backend.

use std::collections::HashMap;
use std::fmt;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use lifeboat_model::Timestamp;

use crate::backend::Backend;
use crate::backend::cloud::Place;
use crate::error::{StoreClass, StoreError};
use crate::storage::{Provider, StorageTarget};

/// With the longest key it stays below the 1,024 bytes that the services take as a name.
const PREFIX_BYTES_MAX: usize = 500;

/// What a listing says about an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectMeta {
    /// The whole key.
    pub key: String,
    /// Bytes.
    pub size: u64,
    /// When the backend says that it was written.
    pub modified: Timestamp,
}

/// An object store. Keys are `/`-separated; a prefix is whole segments without a trailing `/`, `""` is everything.
///
/// Dropping a future may leave its request running: a create then may land later, a delete may happen later.
#[async_trait]
pub trait Store: fmt::Debug + Send + Sync + 'static {
    /// Where this is, for messages. Holds no secret.
    fn url(&self) -> &str;

    /// How many requests were made, where that is counted.
    fn counts(&self) -> Option<Arc<crate::StoreCounts>> {
        None
    }

    /// Writes a new object. When it returns, the object is durable.
    ///
    /// [`StoreClass::AlreadyExists`] if the name is taken (the object there is left alone and is durable);
    /// [`StoreClass::Retry`] leaves open whether it landed.
    async fn create(&self, key: &str, bytes: Bytes) -> Result<(), StoreError>;

    /// Reads a whole object of at most `max_bytes` bytes; a larger one is [`StoreClass::Fatal`].
    async fn get(&self, key: &str, max_bytes: u64) -> Result<Bytes, StoreError>;

    /// Reads exactly these bytes; a range that goes past the end is [`StoreClass::Fatal`].
    async fn get_range(&self, key: &str, range: Range<u64>) -> Result<Bytes, StoreError>;

    /// Reads the last `max_bytes` bytes of an object, all of it if it is shorter, and tells its whole length: for a reader
    /// who needs the end and hasn't seen a listing. Two requests, or one where the backend can.
    async fn get_tail(&self, key: &str, max_bytes: u64) -> Result<(Bytes, u64), StoreError> {
        let len = self.head(key).await?.size;
        let bytes = self.get_range(key, len.saturating_sub(max_bytes)..len).await?;
        Ok((bytes, len))
    }

    /// All objects under `prefix` at any depth, sorted by key.
    async fn list(&self, prefix: &str) -> Result<Vec<ObjectMeta>, StoreError>;

    /// Those whose key sorts after `after` (a whole key).
    async fn list_after(&self, prefix: &str, after: &str) -> Result<Vec<ObjectMeta>, StoreError>;

    /// The distinct next segments under `prefix` that have objects below them, sorted.
    async fn list_dirs(&self, prefix: &str) -> Result<Vec<String>, StoreError>;

    /// Size and time of one object.
    async fn head(&self, key: &str) -> Result<ObjectMeta, StoreError>;

    /// Deletes an object; one that isn't there is fine.
    async fn delete(&self, key: &str) -> Result<(), StoreError>;

    /// Deletes what interrupted writes left behind, where the backend has such a thing, if it is older than
    /// `older_than`. Returns the number of leftovers deleted. Costs nothing on backends without leftovers.
    async fn sweep_leftovers(&self, older_than: Duration) -> Result<u64, StoreError> {
        let _ = older_than;
        Ok(0)
    }
}

/// What opening a store may do to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Make the last directory of a `file:` URL if it is missing.
    Create,
    /// Change nothing.
    Open,
}

/// Opens the store at a storage URL, everything else from the environment of this process.
///
/// As [`open_storage`].
pub async fn open_store(url: &str, access: Access) -> Result<Arc<dyn Store>, StoreError> {
    open_storage(&StorageTarget::new(url), access).await
}

/// Opens the store at a target.
///
/// - `file:///absolute/directory`
/// - `s3://bucket/prefix`, `az://container/prefix`, `gs://bucket/prefix`: nothing is asked of the network yet, so a
///   bucket that isn't there and credentials that are wrong show with the first request
/// - `memory:` a new empty store; `memory:NAME` the store of that name in this process (for tests)
///
/// [`StoreClass::Fatal`] for a target that can't be used, [`StoreClass::Denied`] where credentials are missing,
/// [`StoreClass::NotFound`] for a directory that isn't there.
pub async fn open_storage(target: &StorageTarget, access: Access) -> Result<Arc<dyn Store>, StoreError> {
    let location = parse(&target.url)?;
    if !matches!(location, Location::Remote(_)) {
        refuse_remote_settings(target)?;
    }
    match location {
        Location::Directory(path) => Ok(Arc::new(Backend::directory(path, access).await?)),
        Location::Memory(name) if name.is_empty() => Ok(Arc::new(Backend::memory(&target.url))),
        Location::Memory(name) => {
            static SHARED: LazyLock<Mutex<HashMap<String, Arc<dyn Store>>>> = LazyLock::new(Mutex::default);
            let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
            Ok(Arc::clone(shared.entry(name).or_insert_with(|| Arc::new(Backend::memory(&target.url)))))
        }
        Location::Remote(place) => Ok(Arc::new(Backend::remote(place, target.clone()).await?)),
    }
}

/// A setting that changes nothing is a misunderstanding, and better said than passed over.
fn refuse_remote_settings(target: &StorageTarget) -> Result<(), StoreError> {
    let given = [
        ("an endpoint", target.endpoint.is_some()),
        ("a region", target.region.is_some()),
        ("credentials", !target.credentials.is_empty()),
        ("a proxy", target.proxy.is_some()),
    ];
    match given.iter().find(|(_, given)| *given) {
        None => Ok(()),
        Some((what, _)) => Err(StoreError::new(
            StoreClass::Fatal,
            format!("{} is not reached over a network, so {what} makes no sense for it: leave that away", target.url),
        )),
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Location {
    Directory(PathBuf),
    Memory(String),
    Remote(Place),
}

fn parse(url: &str) -> Result<Location, StoreError> {
    let bad = |why: &str| {
        // A URL may carry credentials by mistake: only its scheme is repeated when it isn't a plain path.
        let shown = if url.starts_with("file:") { url } else { url.split(':').next().unwrap_or_default() };
        StoreError::new(
            StoreClass::Fatal,
            format!(
                "storage URL {shown:?} can't be used: {why}; give one such as file:///var/lib/vault or \
                 s3://bucket/prefix"
            ),
        )
    };
    let (scheme, rest) = url.split_once(':').ok_or_else(|| bad("it has no scheme"))?;
    let remote = |provider| remote(provider, rest).map(Location::Remote).map_err(|why| bad(&why));
    match scheme {
        "memory" => Ok(Location::Memory(rest.trim_start_matches('/').to_owned())),
        "file" => {
            let path = rest.strip_prefix("//").ok_or_else(|| bad("file: needs three slashes"))?;
            let path = path.strip_prefix("localhost").unwrap_or(path);
            if !path.starts_with('/') {
                return Err(bad("the directory must be absolute"));
            }
            let path = percent_decode(path).ok_or_else(|| bad("its % escapes are broken"))?;
            if path.contains('\0') || path.split('/').any(|part| part == "..") {
                return Err(bad("`..` and NUL are not allowed in it"));
            }
            let path = path.trim_end_matches('/');
            if path.is_empty() {
                return Err(bad("the root directory can't be a vault"));
            }
            Ok(Location::Directory(PathBuf::from(path)))
        }
        "s3" => remote(Provider::S3),
        "az" => remote(Provider::Azure),
        "gs" => remote(Provider::Gcs),
        "s3a" | "s3n" => Err(bad("S3 is written s3://bucket/prefix")),
        "azure" | "adl" | "abfs" | "abfss" | "wasb" | "wasbs" => {
            Err(bad("Azure Blob Storage is written az://container/prefix"))
        }
        "gcs" => Err(bad("Google Cloud Storage is written gs://bucket/prefix")),
        "http" | "https" => Err(bad("the address of the service is the endpoint, not the storage URL")),
        _ => Err(bad("no backend has that scheme")),
    }
}

/// `//bucket/prefix`, or why it can't be used.
fn remote(provider: Provider, rest: &str) -> Result<Place, String> {
    let rest = rest.strip_prefix("//").ok_or("two slashes come after the scheme")?;
    let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    let name = provider.bucket();
    let good = (3..=222).contains(&bucket.len())
        && bucket.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
        && bucket.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric())
        && !bucket.contains("..");
    if !good {
        return Err(format!(
            "it has no {name}'s name of 3 or more letters, digits, `-`, `_` and `.` after the slashes"
        ));
    }
    let prefix = prefix.trim_end_matches('/');
    if !is_prefix(prefix) || prefix.len() > PREFIX_BYTES_MAX {
        return Err(format!(
            "what comes after the {name} must be at most {PREFIX_BYTES_MAX} letters, digits, `.`, `_`, `-` and single `/`"
        ));
    }
    Ok(Place { provider, bucket: bucket.to_owned(), prefix: prefix.to_owned() })
}

fn percent_decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let high = char::from(rest.next()?).to_digit(16)?;
            let low = char::from(rest.next()?).to_digit(16)?;
            bytes.push(u8::try_from(high * 16 + low).ok()?);
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok()
}

/// Whether `key` can be an object's name on every backend.
pub(crate) fn is_key(key: &str) -> bool {
    key.len() <= 512 && is_prefix(key) && !key.is_empty()
}

/// Whether `prefix` can be listed: empty, or like a key.
pub(crate) fn is_prefix(prefix: &str) -> bool {
    let segment = |part: &str| {
        !matches!(part, "" | "." | "..")
            && part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
    };
    prefix.is_empty() || prefix.split('/').all(segment)
}

#[cfg(test)]
mod tests;
