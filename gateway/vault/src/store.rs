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
use crate::error::{StoreClass, StoreError};

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

/// Opens the store at a storage URL.
///
/// - `file:///absolute/directory`
/// - `memory:` a new empty store; `memory:NAME` the store of that name in this process (for tests)
///
/// [`StoreClass::Fatal`] for a URL that can't be used, [`StoreClass::NotFound`] for a directory that isn't there.
pub async fn open_store(url: &str, access: Access) -> Result<Arc<dyn Store>, StoreError> {
    match parse(url)? {
        Location::Directory(path) => Ok(Arc::new(Backend::directory(path, access).await?)),
        Location::Memory(name) if name.is_empty() => Ok(Arc::new(Backend::memory(url))),
        Location::Memory(name) => {
            static SHARED: LazyLock<Mutex<HashMap<String, Arc<dyn Store>>>> = LazyLock::new(Mutex::default);
            let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
            Ok(Arc::clone(shared.entry(name).or_insert_with(|| Arc::new(Backend::memory(url)))))
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Location {
    Directory(PathBuf),
    Memory(String),
}

fn parse(url: &str) -> Result<Location, StoreError> {
    let bad = |why: &str| {
        // A URL may carry credentials by mistake: only its scheme is repeated when it isn't a plain path.
        let shown = if url.starts_with("file:") { url } else { url.split(':').next().unwrap_or_default() };
        StoreError::new(
            StoreClass::Fatal,
            format!("storage URL {shown:?} can't be used: {why}; give one such as file:///var/lib/vault"),
        )
    };
    let (scheme, rest) = url.split_once(':').ok_or_else(|| bad("it has no scheme"))?;
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
        "s3" | "s3a" => Err(bad("this build has no S3 backend")),
        "az" | "azure" | "abfs" | "abfss" => Err(bad("this build has no Azure Blob backend")),
        "gs" => Err(bad("this build has no Google Cloud Storage backend")),
        _ => Err(bad("no backend has that scheme")),
    }
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
