//! [`Store`] over the `object_store` crate: a directory, or memory.
//!
//! Owns the translation of that crate's errors, the only place where it is made. Writes are `PutMode::Create`, one
//! request each; nothing is retried here. Every request has a time limit, so that a hung network mount becomes an
//! error instead of a hung gateway; the request itself may still finish later, as on any network.

use std::error::Error;
use std::fmt;
use std::future::Future;
use std::io;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures::TryStreamExt;
use lifeboat_model::Timestamp;
use object_store::local::LocalFileSystem;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    GetOptions, GetRange, GetResult, GetResultPayload, ObjectStore, ObjectStoreExt, PutMode, PutOptions,
};

use crate::directory::Directory;
use crate::error::{StoreClass, StoreError};
use crate::store::{Access, ObjectMeta, Store, is_key, is_prefix};

/// Longest that one request may take.
const REQUEST_LIMIT: Duration = Duration::from_secs(60);
/// Longest that a listing may take: it is many requests on a remote backend.
const LIST_LIMIT: Duration = Duration::from_secs(300);

pub(crate) struct Backend {
    inner: Arc<dyn ObjectStore>,
    url: String,
    directory: Option<Arc<Directory>>,
}

impl Backend {
    pub(crate) fn memory(url: &str) -> Self {
        Self { inner: Arc::new(InMemory::new()), url: url.to_owned(), directory: None }
    }

    pub(crate) async fn directory(path: PathBuf, access: Access) -> Result<Self, StoreError> {
        let url = format!("file://{}", path.display());
        let directory = blocking(&url, move || Directory::open(&path, access)).await?;
        let files = LocalFileSystem::new_with_prefix(directory.root())
            .map_err(|error| translate(error, "open", "", &url))?
            .with_fsync(true)
            .with_automatic_cleanup(true);
        Ok(Self { inner: Arc::new(files), url, directory: Some(Arc::new(directory)) })
    }

    fn path(&self, key: &str) -> Result<Path, StoreError> {
        if is_key(key) {
            Ok(Path::from(key))
        } else {
            let url = &self.url;
            Err(StoreError::new(StoreClass::Fatal, format!("{key:?} can't be the name of an object in {url}")))
        }
    }

    fn prefix(&self, prefix: &str) -> Result<Path, StoreError> {
        if is_prefix(prefix) {
            Ok(Path::from(prefix))
        } else {
            let url = &self.url;
            Err(StoreError::new(StoreClass::Fatal, format!("{prefix:?} can't be listed in {url}: it is no prefix")))
        }
    }

    /// Runs a step that only a directory needs, off the async threads.
    async fn on_disk<T: Default + Send + 'static>(
        &self,
        step: impl FnOnce(&Directory) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        match &self.directory {
            None => Ok(T::default()),
            Some(directory) => {
                let directory = Arc::clone(directory);
                blocking(&self.url, move || step(&directory)).await
            }
        }
    }

    async fn limited<T>(
        &self,
        limit: Duration,
        verb: &str,
        key: &str,
        request: impl Future<Output = Result<T, StoreError>> + Send,
    ) -> Result<T, StoreError> {
        tokio::time::timeout(limit, request).await.unwrap_or_else(|_| {
            let seconds = limit.as_secs();
            let what = describe(verb, key, &self.url);
            Err(StoreError::new(
                StoreClass::Retry,
                format!("{what}: no answer in {seconds} s; check the network and the storage"),
            ))
        })
    }

    async fn read(&self, key: &str, options: GetOptions, max_bytes: u64) -> Result<Bytes, StoreError> {
        let path = self.path(key)?;
        let wanted = options.range.is_some();
        let result = self.inner.get_opts(&path, options).await.map_err(|e| translate(e, "read", key, &self.url))?;
        let len = result.range.end.saturating_sub(result.range.start);
        if len > max_bytes {
            let what = describe("read", key, &self.url);
            return Err(StoreError::new(
                StoreClass::Fatal,
                format!("{what}: it has {len} bytes and at most {max_bytes} were expected; it is damaged or not ours"),
            ));
        }
        let size = result.meta.size;
        let bytes = collect(result, max_bytes).await.map_err(|e| translate(e, "read", key, &self.url))?;
        let got = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        if got != len || (wanted && len != max_bytes) {
            // Short although the object is long enough: the transfer was cut. Otherwise the object itself is short.
            let cut = got != len;
            let what = describe("read", key, &self.url);
            return Err(StoreError::new(
                if cut { StoreClass::Retry } else { StoreClass::Fatal },
                format!("{what}: {got} bytes came where {max_bytes} were expected (the object has {size})"),
            ));
        }
        Ok(bytes)
    }

    /// The end of an object by one request; `None` where the backend has no ranges that count from the end.
    async fn read_tail(&self, key: &str, max_bytes: u64) -> Result<Option<(Bytes, u64)>, StoreError> {
        let path = self.path(key)?;
        let options = GetOptions { range: Some(GetRange::Suffix(max_bytes)), ..GetOptions::default() };
        let result = match self.inner.get_opts(&path, options).await {
            Err(object_store::Error::NotSupported { .. } | object_store::Error::NotImplemented { .. }) => {
                return Ok(None);
            }
            result => result.map_err(|error| translate(error, "read", key, &self.url))?,
        };
        let size = result.meta.size;
        let wanted = size.min(max_bytes);
        let bytes = collect(result, wanted).await.map_err(|error| translate(error, "read", key, &self.url))?;
        if u64::try_from(bytes.len()).unwrap_or(u64::MAX) != wanted {
            let what = describe("read", key, &self.url);
            return Err(StoreError::new(
                StoreClass::Retry,
                format!("{what}: {} bytes came where {wanted} were expected (the object has {size})", bytes.len()),
            ));
        }
        Ok(Some((bytes, size)))
    }

    async fn listing(&self, prefix: &str, after: Option<&str>) -> Result<Vec<ObjectMeta>, StoreError> {
        let path = self.prefix(prefix)?;
        let path = (!prefix.is_empty()).then_some(&path);
        self.on_disk(Directory::check).await?;
        let stream = match after {
            None => self.inner.list(path),
            Some(after) => self.inner.list_with_offset(path, &self.path(after)?),
        };
        let found = stream.map_ok(meta).try_collect::<Vec<_>>();
        let mut found = found.await.map_err(|e| translate(e, "list", prefix, &self.url))?;
        // What isn't ours (editor leftovers, lost+found) can't be named by us, and doesn't concern us.
        found.retain(|object| is_key(&object.key));
        found.sort_unstable_by(|a, b| a.key.cmp(&b.key));
        // A directory that was unmounted under the listing looks empty: ask again before believing it.
        self.on_disk(Directory::check).await?;
        Ok(found)
    }
}

#[async_trait]
impl Store for Backend {
    fn url(&self) -> &str {
        &self.url
    }

    async fn create(&self, key: &str, bytes: Bytes) -> Result<(), StoreError> {
        let path = self.path(key)?;
        let request = async {
            self.on_disk(Directory::check).await?;
            let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
            let put = self.inner.put_opts(&path, bytes.into(), options).await;
            let put = put.map(drop).map_err(|error| translate(error, "write", key, &self.url));
            let taken = put.as_ref().is_err_and(StoreError::is_already_exists);
            if put.is_ok() || taken {
                let key = key.to_owned();
                self.on_disk(move |directory| directory.settle(&key, taken)).await?;
            }
            put
        };
        self.limited(REQUEST_LIMIT, "write", key, request).await
    }

    async fn get(&self, key: &str, max_bytes: u64) -> Result<Bytes, StoreError> {
        let request = async {
            self.on_disk(Directory::check).await?;
            self.read(key, GetOptions::default(), max_bytes).await
        };
        self.limited(REQUEST_LIMIT, "read", key, request).await
    }

    async fn get_range(&self, key: &str, range: Range<u64>) -> Result<Bytes, StoreError> {
        if range.start >= range.end {
            return Ok(Bytes::new());
        }
        let len = range.end - range.start;
        let options = GetOptions { range: Some(range.into()), ..GetOptions::default() };
        let request = async {
            self.on_disk(Directory::check).await?;
            self.read(key, options, len).await
        };
        self.limited(REQUEST_LIMIT, "read", key, request).await
    }

    async fn get_tail(&self, key: &str, max_bytes: u64) -> Result<(Bytes, u64), StoreError> {
        let request = async {
            self.on_disk(Directory::check).await?;
            if let Some(found) = self.read_tail(key, max_bytes).await? {
                return Ok(found);
            }
            let len = self.head(key).await?.size;
            let bytes = self.get_range(key, len.saturating_sub(max_bytes)..len).await?;
            Ok((bytes, len))
        };
        self.limited(REQUEST_LIMIT, "read", key, request).await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<ObjectMeta>, StoreError> {
        self.limited(LIST_LIMIT, "list", prefix, self.listing(prefix, None)).await
    }

    async fn list_after(&self, prefix: &str, after: &str) -> Result<Vec<ObjectMeta>, StoreError> {
        self.limited(LIST_LIMIT, "list", prefix, self.listing(prefix, Some(after))).await
    }

    async fn list_dirs(&self, prefix: &str) -> Result<Vec<String>, StoreError> {
        let path = self.prefix(prefix)?;
        let request = async {
            self.on_disk(Directory::check).await?;
            let path = (!prefix.is_empty()).then_some(&path);
            let found = self.inner.list_with_delimiter(path).await;
            let found = found.map_err(|e| translate(e, "list", prefix, &self.url))?;
            let mut names: Vec<_> = found
                .common_prefixes
                .iter()
                .filter_map(|path| path.filename())
                .filter(|name| is_key(name))
                .map(str::to_owned)
                .collect();
            names.sort_unstable();
            self.on_disk(Directory::check).await?;
            Ok(names)
        };
        self.limited(LIST_LIMIT, "list", prefix, request).await
    }

    async fn head(&self, key: &str) -> Result<ObjectMeta, StoreError> {
        let path = self.path(key)?;
        let request = async {
            self.on_disk(Directory::check).await?;
            self.inner.head(&path).await.map(meta).map_err(|e| translate(e, "look at", key, &self.url))
        };
        self.limited(REQUEST_LIMIT, "look at", key, request).await
    }

    async fn delete(&self, key: &str) -> Result<(), StoreError> {
        let path = self.path(key)?;
        let request = async {
            self.on_disk(Directory::check).await?;
            match self.inner.delete(&path).await {
                Ok(()) => {
                    let key = key.to_owned();
                    self.on_disk(move |directory| directory.settle_delete(&key)).await
                }
                Err(object_store::Error::NotFound { .. }) => Ok(()),
                Err(error) => Err(translate(error, "delete", key, &self.url)),
            }
        };
        self.limited(REQUEST_LIMIT, "delete", key, request).await
    }

    async fn sweep_leftovers(&self, older_than: Duration) -> Result<u64, StoreError> {
        let sweep = self.on_disk(move |directory| directory.sweep(older_than));
        self.limited(LIST_LIMIT, "sweep", "", sweep).await
    }
}

impl fmt::Debug for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Store({})", self.url)
    }
}

/// Reads the body, trusting its length no more than its declared length.
async fn collect(result: GetResult, max_bytes: u64) -> object_store::Result<Bytes> {
    if matches!(result.payload, GetResultPayload::File(..)) {
        return result.bytes().await;
    }
    let mut stream = result.into_stream();
    let mut first: Option<Bytes> = None;
    let mut rest = BytesMut::new();
    let mut len = 0_u64;
    while let Some(chunk) = stream.try_next().await? {
        len = len.saturating_add(u64::try_from(chunk.len()).unwrap_or(u64::MAX));
        if len > max_bytes {
            break;
        }
        match &first {
            None => first = Some(chunk),
            Some(start) => {
                if rest.is_empty() {
                    rest.extend_from_slice(start);
                }
                rest.extend_from_slice(&chunk);
            }
        }
    }
    Ok(if rest.is_empty() { first.unwrap_or_default() } else { rest.freeze() })
}

fn meta(found: object_store::ObjectMeta) -> ObjectMeta {
    ObjectMeta {
        key: found.location.as_ref().to_owned(),
        size: found.size,
        modified: Timestamp::from_micros(found.last_modified.timestamp_micros()),
    }
}

/// Runs blocking file work; a panic in it or a shutdown of the runtime shows as an error to retry.
async fn blocking<T: Send + 'static>(
    url: &str,
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| {
        Err(StoreError::new(StoreClass::Retry, format!("a request to {url} was broken off")).with_source(error))
    })
}

pub(crate) fn describe(verb: &str, key: &str, url: &str) -> String {
    if key.is_empty() { format!("can't {verb} {url}") } else { format!("can't {verb} {key} in {url}") }
}

fn translate(error: object_store::Error, verb: &str, key: &str, url: &str) -> StoreError {
    use object_store::Error as E;
    let (class, advice) = match &error {
        E::NotFound { .. } => (StoreClass::NotFound, "there is no such object"),
        // S3 answers AlreadyExists, Azure answers Precondition, when a create-only write finds the name taken.
        E::AlreadyExists { .. } | E::Precondition { .. } => (StoreClass::AlreadyExists, "the name is taken"),
        E::PermissionDenied { .. } | E::Unauthenticated { .. } => {
            (StoreClass::Fatal, "access was refused; check the credentials and their permissions")
        }
        E::NotSupported { .. } | E::NotImplemented { .. } => (StoreClass::Fatal, "the backend can't do that"),
        E::InvalidPath { .. } => (StoreClass::Fatal, "the backend doesn't take that name"),
        E::Generic { .. } => match io_kind(&error) {
            Some(kind) => classify_io(kind),
            // Of what isn't an I/O error only a range beyond the end reaches us from a directory or memory.
            None => (StoreClass::Fatal, "the object is shorter than expected, or the backend refused the request"),
        },
        _ => (StoreClass::Retry, "the request was broken off"),
    };
    let what = describe(verb, key, url);
    let message = match class {
        StoreClass::NotFound | StoreClass::AlreadyExists => format!("{what}: {advice}"),
        _ => format!("{what}: {advice} ({})", root_cause(&error)),
    };
    StoreError::new(class, message).with_source(error)
}

pub(crate) fn classify_io(kind: io::ErrorKind) -> (StoreClass, &'static str) {
    use io::ErrorKind as K;
    match kind {
        K::PermissionDenied => (StoreClass::Fatal, "access was refused; check the owner and mode of the directory"),
        K::ReadOnlyFilesystem => (StoreClass::Fatal, "the file system is read-only; mount it writable"),
        K::NotADirectory | K::IsADirectory | K::InvalidFilename | K::InvalidInput | K::Unsupported => {
            (StoreClass::Fatal, "something there is not what a vault directory holds, or the file system can't do that")
        }
        K::StorageFull | K::QuotaExceeded => (StoreClass::Retry, "the disk or quota is full; free some space"),
        K::NotFound => (StoreClass::Retry, "a directory vanished; check that the storage is mounted"),
        _ => (StoreClass::Retry, "the storage failed; check the disk or the network mount"),
    }
}

fn io_kind(error: &(dyn Error + 'static)) -> Option<io::ErrorKind> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(io) = error.downcast_ref::<io::Error>() {
            return Some(io.kind());
        }
        next = error.source();
    }
    None
}

fn root_cause(error: &(dyn Error + 'static)) -> String {
    let mut last = error;
    while let Some(next) = last.source() {
        last = next;
    }
    last.to_string()
}
