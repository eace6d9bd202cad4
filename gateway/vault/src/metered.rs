//! A store that counts its requests, by operation and by what came of them, and tells of each in a span. Counts are of this process
//! alone.

use std::fmt;
use std::future::Future;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tracing::field::{Empty, display};
use tracing::{Instrument, Span};

use crate::error::{StoreClass, StoreError};
use crate::store::{ObjectMeta, Store};
use crate::traced::TRACE_TARGET;

const OPERATIONS: [&str; 6] = ["create", "get", "list", "head", "delete", "sweep"];
/// Names of their spans.
const SPANS: [&str; 6] = ["vault.create", "vault.get", "vault.list", "vault.head", "vault.delete", "vault.sweep"];
const OUTCOMES: [&str; 7] = ["ok", "retry", "denied", "no_bucket", "fatal", "not_found", "already_exists"];

/// Which of [`OUTCOMES`] a request came to.
fn outcome<T>(result: &Result<T, StoreError>) -> usize {
    match result.as_ref().map_err(StoreError::class) {
        Ok(_) => 0,
        Err(StoreClass::Retry) => 1,
        Err(StoreClass::Denied) => 2,
        Err(StoreClass::NoBucket) => 3,
        Err(StoreClass::Fatal) => 4,
        Err(StoreClass::NotFound) => 5,
        Err(StoreClass::AlreadyExists) => 6,
    }
}

/// How many requests were made.
#[derive(Debug, Default)]
pub struct StoreCounts([[AtomicU64; OUTCOMES.len()]; OPERATIONS.len()]);

impl StoreCounts {
    fn note<T>(&self, operation: usize, result: &Result<T, StoreError>) {
        if let Some(count) = self.0.get(operation).and_then(|row| row.get(outcome(result))) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Operation, outcome and number of requests, of every operation and each outcome that there was.
    #[must_use]
    pub fn read(&self) -> Vec<(&'static str, &'static str, u64)> {
        let rows = OPERATIONS.iter().zip(&self.0);
        let all = rows.flat_map(|(operation, row)| {
            OUTCOMES.iter().zip(row).map(|(outcome, count)| (*operation, *outcome, count.load(Ordering::Relaxed)))
        });
        all.filter(|(_, outcome, count)| *outcome == "ok" || *count > 0).collect()
    }
}

/// A store whose requests are counted.
pub struct MeteredStore {
    inner: Arc<dyn Store>,
    counts: Arc<StoreCounts>,
}

impl MeteredStore {
    /// Counts from nothing.
    #[must_use]
    pub fn new(inner: Arc<dyn Store>) -> Self {
        Self { inner, counts: Arc::default() }
    }

    /// Makes a request: `key` is what it names, `sent` the bytes that go there, `got` how many bytes or objects came of it.
    async fn noted<T>(
        &self,
        operation: usize,
        key: &str,
        sent: Option<u64>,
        request: impl Future<Output = Result<T, StoreError>> + Send,
        got: impl FnOnce(&T, &Span) + Send,
    ) -> Result<T, StoreError> {
        let span = tracing::info_span!(
            target: TRACE_TARGET, "vault.request", otel.name = SPANS.get(operation), otel.kind = "client",
            otel.status_message = Empty, lifeboat.object = key, lifeboat.bytes = sent, lifeboat.objects = Empty,
            lifeboat.outcome = Empty,
        );
        let result = request.instrument(span.clone()).await;
        self.counts.note(operation, &result);
        if !span.is_disabled() {
            span.record("lifeboat.outcome", OUTCOMES.get(outcome(&result)));
            match &result {
                Ok(answer) => got(answer, &span),
                // That there is none, or one already, is what was asked.
                Err(error) if error.is_not_found() || error.is_already_exists() => {}
                Err(error) => drop(span.record("otel.status_message", display(error))),
            }
        }
        result
    }
}

impl fmt::Debug for MeteredStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

#[async_trait]
impl Store for MeteredStore {
    fn url(&self) -> &str {
        self.inner.url()
    }

    fn counts(&self) -> Option<Arc<StoreCounts>> {
        Some(Arc::clone(&self.counts))
    }

    async fn create(&self, key: &str, bytes: Bytes) -> Result<(), StoreError> {
        let sent = Some(length(&bytes));
        self.noted(0, key, sent, self.inner.create(key, bytes), |(), _| {}).await
    }

    async fn get(&self, key: &str, max_bytes: u64) -> Result<Bytes, StoreError> {
        self.noted(1, key, None, self.inner.get(key, max_bytes), read).await
    }

    async fn get_range(&self, key: &str, range: Range<u64>) -> Result<Bytes, StoreError> {
        self.noted(1, key, None, self.inner.get_range(key, range), read).await
    }

    async fn get_tail(&self, key: &str, max_bytes: u64) -> Result<(Bytes, u64), StoreError> {
        self.noted(1, key, None, self.inner.get_tail(key, max_bytes), |(bytes, _), span| read(bytes, span)).await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<ObjectMeta>, StoreError> {
        self.noted(2, prefix, None, self.inner.list(prefix), |found, span| listed(found, span)).await
    }

    async fn list_after(&self, prefix: &str, after: &str) -> Result<Vec<ObjectMeta>, StoreError> {
        self.noted(2, prefix, None, self.inner.list_after(prefix, after), |found, span| listed(found, span)).await
    }

    async fn list_dirs(&self, prefix: &str) -> Result<Vec<String>, StoreError> {
        self.noted(2, prefix, None, self.inner.list_dirs(prefix), |found, span| listed(found, span)).await
    }

    async fn head(&self, key: &str) -> Result<ObjectMeta, StoreError> {
        self.noted(3, key, None, self.inner.head(key), |_, _| {}).await
    }

    async fn delete(&self, key: &str) -> Result<(), StoreError> {
        self.noted(4, key, None, self.inner.delete(key), |(), _| {}).await
    }

    async fn sweep_leftovers(&self, older_than: Duration) -> Result<u64, StoreError> {
        self.noted(5, "", None, self.inner.sweep_leftovers(older_than), |_, _| {}).await
    }
}

fn length(bytes: &Bytes) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}

fn read(bytes: &Bytes, span: &Span) {
    span.record("lifeboat.bytes", length(bytes));
}

fn listed<T>(found: &[T], span: &Span) {
    span.record("lifeboat.objects", u64::try_from(found.len()).unwrap_or(u64::MAX));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Access, open_store};

    #[tokio::test]
    async fn every_request_is_counted_with_what_came_of_it() {
        let store = MeteredStore::new(open_store("memory:", Access::Open).await.unwrap());
        store.create("a", Bytes::from_static(b"1")).await.unwrap();
        store.create("a", Bytes::from_static(b"2")).await.unwrap_err();
        store.get("b", 10).await.unwrap_err();
        let counts = store.counts().unwrap().read();
        assert!(counts.contains(&("create", "ok", 1)) && counts.contains(&("create", "already_exists", 1)));
        assert!(counts.contains(&("get", "not_found", 1)) && counts.contains(&("get", "ok", 0)), "{counts:?}");
    }
}
