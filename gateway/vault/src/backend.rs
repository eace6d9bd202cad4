//! [`Store`] over the `object_store` crate: a directory, memory, or a service over HTTP.
//!
//! ```text
//! cloud      S3, Azure, Google: settings and credentials      transport   one attempt over HTTP
//! endpoint   which addresses are talked to                    failure     what an error means for the caller
//! ```
//! Writes are `PutMode::Create`, one request each, and never repeated here: whether one landed is for the caller to find
//! out ([`crate::create_once`]). What changes nothing by being repeated (reads, listings, deletes) is tried up to
//! [`ATTEMPTS`] times on a remote service: the only retries there are. Every request has a time limit, so that a hung
//! network mount becomes an error instead of a hung gateway; the request itself may still finish later, as on any
//! network.

pub(crate) mod cloud;
pub(crate) mod endpoint;
pub(crate) mod failure;
mod transport;

use std::fmt;
use std::future::Future;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures::{StreamExt, TryStreamExt};
use lifeboat_model::Timestamp;
use object_store::local::LocalFileSystem;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    GetOptions, GetRange, GetResult, GetResultPayload, ObjectStore, ObjectStoreExt, PutMode, PutOptions,
};
use tracing::field::Empty;
use tracing::{Instrument, Span};

use crate::directory::Directory;
use crate::error::{StoreClass, StoreError};
use crate::storage::{Provider, StorageTarget};
use crate::store::{Access, ObjectMeta, Store, is_key, is_prefix};
use crate::traced::{TRACE_TARGET, traced};
use cloud::Place;
use failure::{Asked, translate, verb};

/// Longest that one request may take, besides the time for its bytes.
const REQUEST_LIMIT: Duration = Duration::from_secs(60);
/// The slowest line that a vault works over, in bytes a second.
const SLOWEST_LINE: u64 = 32 << 10;
/// How often a remote service is asked for what can be asked again.
const ATTEMPTS: u32 = 3;
/// The pause after the first attempt; four times as long after the second.
const PAUSE: Duration = Duration::from_millis(100);
/// Longest pause that a service may ask for here; for a longer one the caller decides.
const PAUSE_MAX: Duration = Duration::from_secs(2);
/// Most objects that one listing returns: a vault of a thousand volumes has far fewer under one prefix.
const LISTED_MAX: usize = 10_000_000;
/// Longest that a listing may take: it is many requests on a remote backend.
const LIST_LIMIT: Duration = Duration::from_secs(300);

pub(crate) struct Backend {
    inner: Arc<dyn ObjectStore>,
    url: String,
    directory: Option<Arc<Directory>>,
    /// Of a service over HTTP.
    provider: Option<Provider>,
}

impl Backend {
    pub(crate) fn memory(url: &str) -> Self {
        Self { inner: Arc::new(InMemory::new()), url: url.to_owned(), directory: None, provider: None }
    }

    pub(crate) async fn directory(path: PathBuf, access: Access) -> Result<Self, StoreError> {
        let url = format!("file://{}", path.display());
        let directory = blocking(&url, move || Directory::open(&path, access)).await?;
        let files = LocalFileSystem::new_with_prefix(directory.root())
            .map_err(|error| translate(error, Asked { verb: "open", key: "", url: &url, provider: None }))?
            .with_fsync(true)
            .with_automatic_cleanup(true);
        Ok(Self { inner: Arc::new(files), url, directory: Some(Arc::new(directory)), provider: None })
    }

    /// A bucket or container. Whether it can be reached shows with the first request.
    pub(crate) async fn remote(place: Place, target: StorageTarget) -> Result<Self, StoreError> {
        let (url, provider) = (target.url.clone(), place.provider);
        let inner = blocking(&url, move || cloud::open(&place, &target)).await?;
        Ok(Self { inner, url, directory: None, provider: Some(provider) })
    }

    fn asked<'a>(&'a self, verb: &'a str, key: &'a str) -> Asked<'a> {
        Asked { verb, key, url: &self.url, provider: self.provider }
    }

    /// Makes a request that can be made again: on a remote service a few times, if it fails in passing.
    async fn repeated<T, F>(&self, request: impl Fn() -> F + Send + Sync) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, StoreError>> + Send,
    {
        let mut pause = PAUSE;
        for attempt in 1..ATTEMPTS {
            match traced(self.attempt(attempt), request()).await {
                Err(error) if error.is_retry() && self.provider.is_some() => {
                    let wait = error.retry_after().unwrap_or(pause);
                    if wait > PAUSE_MAX {
                        return Err(error);
                    }
                    tracing::debug!(%error, "asked again");
                    tokio::time::sleep(wait).await;
                    pause *= 4;
                }
                done => return done,
            }
        }
        traced(self.attempt(ATTEMPTS), request()).await
    }

    /// The span of one attempt at a request; a directory has none.
    fn attempt(&self, attempt: u32) -> Span {
        match self.provider {
            None => Span::none(),
            Some(_) => tracing::info_span!(
                target: TRACE_TARGET, "storage.attempt", otel.kind = "client", otel.status_message = Empty,
                lifeboat.attempt = attempt, http.response.status_code = Empty,
            ),
        }
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

    /// What wasn't found may be missing with its whole directory, which went away after it was looked at.
    async fn unless_gone<T>(&self, key: &str, found: Result<T, StoreError>) -> Result<T, StoreError> {
        if found.as_ref().is_err_and(StoreError::is_not_found) {
            let key = key.to_owned();
            self.on_disk(move |directory| directory.confirm(&key, false)).await?;
        }
        found
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
            let what = self.asked(verb, key).describe();
            Err(StoreError::new(
                StoreClass::Retry,
                format!("{what}: no answer in {seconds} s; check the network and the storage"),
            ))
        })
    }

    async fn read(&self, key: &str, options: GetOptions, max_bytes: u64) -> Result<Bytes, StoreError> {
        let path = self.path(key)?;
        let wanted = options.range.is_some();
        let result =
            self.inner.get_opts(&path, options).await.map_err(|e| translate(e, self.asked(verb::READ, key)))?;
        let len = result.range.end.saturating_sub(result.range.start);
        if len > max_bytes {
            let what = self.asked(verb::READ, key).describe();
            return Err(StoreError::new(
                StoreClass::Fatal,
                format!("{what}: it has {len} bytes and at most {max_bytes} were expected; it is damaged or not ours"),
            ));
        }
        let size = result.meta.size;
        let bytes = collect(result, max_bytes).await.map_err(|e| translate(e, self.asked(verb::READ, key)))?;
        let got = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        if got != len || (wanted && len != max_bytes) {
            // Short although the object is long enough: the transfer was cut. Otherwise the object itself is short.
            let cut = got != len;
            let what = self.asked(verb::READ, key).describe();
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
            result => match result.map_err(|error| translate(error, self.asked(verb::READ, key))) {
                // An empty object has no last byte, which services call a range that can't be: its size says which.
                Err(error) if self.provider.is_some() && error.class() == StoreClass::Fatal => return Ok(None),
                result => result?,
            },
        };
        let size = result.meta.size;
        let wanted = size.min(max_bytes);
        let bytes = collect(result, wanted).await.map_err(|e| translate(e, self.asked(verb::READ, key)))?;
        if u64::try_from(bytes.len()).unwrap_or(u64::MAX) != wanted {
            let what = self.asked(verb::READ, key).describe();
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
        let found = stream.map_ok(meta).take(LISTED_MAX).try_collect::<Vec<_>>();
        let mut found = found.await.map_err(|e| translate(e, self.asked(verb::LIST, prefix)))?;
        if found.len() == LISTED_MAX {
            let what = self.asked(verb::LIST, prefix).describe();
            return Err(StoreError::new(StoreClass::Fatal, format!("{what}: it has {LISTED_MAX} objects or more")));
        }
        // What isn't ours (editor leftovers, lost+found) can't be named by us, and doesn't concern us. Where to begin is
        // a courtesy of the service: some begin with the given key itself, some at the start.
        found.retain(|object| is_key(&object.key) && after.is_none_or(|after| object.key.as_str() > after));
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
        let len = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        let request = async {
            self.on_disk(Directory::check).await?;
            let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
            let put = self.inner.put_opts(&path, bytes.into(), options).instrument(self.attempt(1)).await;
            let put = put.map(drop).map_err(|error| translate(error, self.asked(verb::WRITE, key)));
            let taken = put.as_ref().is_err_and(StoreError::is_already_exists);
            if put.is_ok() || taken {
                let key = key.to_owned();
                self.on_disk(move |directory| directory.settle(&key, taken)).await?;
            }
            put
        };
        self.limited(time_for(len), verb::WRITE, key, request).await
    }

    async fn get(&self, key: &str, max_bytes: u64) -> Result<Bytes, StoreError> {
        let request = self.repeated(|| async {
            self.on_disk(Directory::check).await?;
            let found = self.read(key, GetOptions::default(), max_bytes).await;
            self.unless_gone(key, found).await
        });
        self.limited(time_for(max_bytes), verb::READ, key, request).await
    }

    async fn get_range(&self, key: &str, range: Range<u64>) -> Result<Bytes, StoreError> {
        if range.start >= range.end {
            return Ok(Bytes::new());
        }
        let len = range.end - range.start;
        let options = GetOptions { range: Some(range.into()), ..GetOptions::default() };
        let request = self.repeated(|| async {
            self.on_disk(Directory::check).await?;
            let found = self.read(key, options.clone(), len).await;
            self.unless_gone(key, found).await
        });
        self.limited(time_for(len), verb::READ, key, request).await
    }

    async fn get_tail(&self, key: &str, max_bytes: u64) -> Result<(Bytes, u64), StoreError> {
        let request = async {
            self.on_disk(Directory::check).await?;
            let found = self.repeated(|| self.read_tail(key, max_bytes)).await;
            if let Some(found) = self.unless_gone(key, found).await? {
                return Ok(found);
            }
            let len = self.head(key).await?.size;
            let bytes = self.get_range(key, len.saturating_sub(max_bytes)..len).await?;
            Ok((bytes, len))
        };
        self.limited(time_for(max_bytes), verb::READ, key, request).await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<ObjectMeta>, StoreError> {
        let request = self.repeated(|| self.listing(prefix, None));
        self.limited(LIST_LIMIT, verb::LIST, prefix, request).await
    }

    async fn list_after(&self, prefix: &str, after: &str) -> Result<Vec<ObjectMeta>, StoreError> {
        let request = self.repeated(|| self.listing(prefix, Some(after)));
        self.limited(LIST_LIMIT, verb::LIST, prefix, request).await
    }

    async fn list_dirs(&self, prefix: &str) -> Result<Vec<String>, StoreError> {
        let path = self.prefix(prefix)?;
        let request = self.repeated(|| async {
            self.on_disk(Directory::check).await?;
            let path = (!prefix.is_empty()).then_some(&path);
            let found = self.inner.list_with_delimiter(path).await;
            let found = found.map_err(|e| translate(e, self.asked(verb::LIST, prefix)))?;
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
        });
        self.limited(LIST_LIMIT, verb::LIST, prefix, request).await
    }

    async fn head(&self, key: &str) -> Result<ObjectMeta, StoreError> {
        let path = self.path(key)?;
        let request = self.repeated(|| async {
            self.on_disk(Directory::check).await?;
            let found = self.inner.head(&path).await.map(meta).map_err(|e| translate(e, self.asked(verb::HEAD, key)));
            self.unless_gone(key, found).await
        });
        self.limited(REQUEST_LIMIT, verb::HEAD, key, request).await
    }

    async fn delete(&self, key: &str) -> Result<(), StoreError> {
        let path = self.path(key)?;
        let request = self.repeated(|| async {
            self.on_disk(Directory::check).await?;
            let deleted = self.inner.delete(&path).await.map_err(|e| translate(e, self.asked(verb::DELETE, key)));
            match self.unless_gone(key, deleted).await {
                Ok(()) => {
                    let key = key.to_owned();
                    self.on_disk(move |directory| directory.settle_delete(&key)).await
                }
                Err(error) if error.is_not_found() => Ok(()),
                Err(error) => Err(error),
            }
        });
        self.limited(REQUEST_LIMIT, verb::DELETE, key, request).await
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

/// How long a request for so many bytes may take.
fn time_for(bytes: u64) -> Duration {
    // A caller that doesn't know the size gives a generous limit: that is no reason to wait for a day.
    REQUEST_LIMIT + Duration::from_secs((bytes / SLOWEST_LINE).min(3600))
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
