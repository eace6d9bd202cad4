//! A store on which everything can be held up, and which counts.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use lifeboat_vault::{ObjectMeta, Store, StoreError};
use tokio::sync::watch;

/// Passes requests on, each after the same time, and writes only while the gate is open.
#[derive(Debug)]
pub struct HeldStore {
    inner: Arc<dyn Store>,
    latency: AtomicU64,
    open: watch::Sender<bool>,
    pub requests: AtomicU64,
    pub puts: AtomicU64,
    pub bytes_put: AtomicU64,
    pub bytes_read: AtomicU64,
}

impl HeldStore {
    pub fn new(inner: Arc<dyn Store>) -> Arc<Self> {
        Arc::new(Self {
            inner,
            latency: AtomicU64::new(0),
            open: watch::channel(true).0,
            requests: AtomicU64::new(0),
            puts: AtomicU64::new(0),
            bytes_put: AtomicU64::new(0),
            bytes_read: AtomicU64::new(0),
        })
    }

    /// Every request takes so much longer.
    pub fn set_latency(&self, latency: Duration) {
        self.latency.store(u64::try_from(latency.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Lets writes through, or makes them wait.
    pub fn set_open(&self, open: bool) {
        self.open.send_replace(open);
    }

    pub fn figure(counter: &AtomicU64) -> u64 {
        counter.load(Ordering::Relaxed)
    }

    async fn step(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
        let latency = self.latency.load(Ordering::Relaxed);
        if latency > 0 {
            tokio::time::sleep(Duration::from_micros(latency)).await;
        }
    }

    fn read(&self, bytes: &Bytes) {
        self.bytes_read.fetch_add(bytes.len() as u64, Ordering::Relaxed);
    }
}

#[async_trait]
impl Store for HeldStore {
    fn url(&self) -> &str {
        self.inner.url()
    }

    async fn create(&self, key: &str, bytes: Bytes) -> Result<(), StoreError> {
        self.step().await;
        let mut open = self.open.subscribe();
        let _ = open.wait_for(|open| *open).await;
        self.puts.fetch_add(1, Ordering::Relaxed);
        self.bytes_put.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        self.inner.create(key, bytes).await
    }

    async fn get(&self, key: &str, max_bytes: u64) -> Result<Bytes, StoreError> {
        self.step().await;
        let bytes = self.inner.get(key, max_bytes).await?;
        self.read(&bytes);
        Ok(bytes)
    }

    async fn get_range(&self, key: &str, range: Range<u64>) -> Result<Bytes, StoreError> {
        self.step().await;
        let bytes = self.inner.get_range(key, range).await?;
        self.read(&bytes);
        Ok(bytes)
    }

    async fn get_tail(&self, key: &str, max_bytes: u64) -> Result<(Bytes, u64), StoreError> {
        self.step().await;
        let (bytes, len) = self.inner.get_tail(key, max_bytes).await?;
        self.read(&bytes);
        Ok((bytes, len))
    }

    async fn list(&self, prefix: &str) -> Result<Vec<ObjectMeta>, StoreError> {
        self.step().await;
        self.inner.list(prefix).await
    }

    async fn list_after(&self, prefix: &str, after: &str) -> Result<Vec<ObjectMeta>, StoreError> {
        self.step().await;
        self.inner.list_after(prefix, after).await
    }

    async fn list_dirs(&self, prefix: &str) -> Result<Vec<String>, StoreError> {
        self.step().await;
        self.inner.list_dirs(prefix).await
    }

    async fn head(&self, key: &str) -> Result<ObjectMeta, StoreError> {
        self.step().await;
        self.inner.head(key).await
    }

    async fn delete(&self, key: &str) -> Result<(), StoreError> {
        self.step().await;
        self.inner.delete(key).await
    }
}
