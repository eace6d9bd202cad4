//! A bounded cache of what was read and verified: least recently used goes first, and readers that want the same thing
//! at the same time load it once.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::OnceCell;

use crate::error::Result;

/// What an entry weighs before its value is there, in bytes: bounds the number of loads that failed or were given up.
const EMPTY_WEIGHT: usize = 256;

/// Values by key, of at most so many bytes together.
#[derive(Debug)]
pub(crate) struct Cache<K, V> {
    limit: usize,
    state: Mutex<State<K, V>>,
}

#[derive(Debug)]
struct State<K, V> {
    entries: HashMap<K, Entry<V>>,
    /// When each was last used → key.
    order: BTreeMap<u64, K>,
    clock: u64,
    weight: usize,
}

#[derive(Debug)]
struct Entry<V> {
    cell: Arc<OnceCell<V>>,
    used: u64,
    weight: usize,
}

impl<K: Hash + Eq + Clone, V: Clone> Cache<K, V> {
    /// An empty cache for at most `limit` bytes.
    pub(crate) fn new(limit: usize) -> Self {
        let state = State { entries: HashMap::new(), order: BTreeMap::new(), clock: 0, weight: 0 };
        Self { limit, state: Mutex::new(state) }
    }

    /// The value, loaded if it isn't there. `weigh` gives its bytes.
    pub(crate) async fn get_or_load(
        &self,
        key: &K,
        weigh: impl FnOnce(&V) -> usize,
        load: impl Future<Output = Result<V>>,
    ) -> Result<V> {
        let cell = self.state().touch(key);
        if let Some(value) = cell.get() {
            return Ok(value.clone());
        }
        match cell.get_or_try_init(|| load).await {
            Ok(value) => {
                self.state().settle(key, &cell, weigh(value).max(EMPTY_WEIGHT), self.limit);
                Ok(value.clone())
            }
            Err(error) => {
                self.state().forget_empty(key);
                Err(error)
            }
        }
    }

    /// The value if it is there.
    pub(crate) fn get(&self, key: &K) -> Option<V> {
        let mut state = self.state();
        if !state.entries.contains_key(key) {
            return None;
        }
        state.touch(key).get().cloned()
    }

    /// Puts a value in that was loaded otherwise.
    pub(crate) fn insert(&self, key: &K, value: V, weight: usize) {
        let mut state = self.state();
        let cell = state.touch(key);
        // Already there means that another reader was faster: the same verified content.
        if cell.set(value).is_ok() {
            state.settle(key, &cell, weight.max(EMPTY_WEIGHT), self.limit);
        }
    }

    /// Drops a value that turned out to be no good: whoever wants it next loads it again.
    pub(crate) fn forget(&self, key: &K) {
        self.state().remove(key);
    }

    /// Drops everything. Loads that are under way come to their end, and are not kept.
    pub(crate) fn clear(&self) {
        let mut state = self.state();
        state.entries.clear();
        state.order.clear();
        state.weight = 0;
    }

    fn state(&self) -> MutexGuard<'_, State<K, V>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Hash + Eq + Clone, V> State<K, V> {
    fn touch(&mut self, key: &K) -> Arc<OnceCell<V>> {
        self.clock = self.clock.saturating_add(1);
        let now = self.clock;
        self.order.insert(now, key.clone());
        if let Some(entry) = self.entries.get_mut(key) {
            self.order.remove(&entry.used);
            entry.used = now;
            return Arc::clone(&entry.cell);
        }
        let cell = Arc::new(OnceCell::new());
        self.entries.insert(key.clone(), Entry { cell: Arc::clone(&cell), used: now, weight: EMPTY_WEIGHT });
        self.weight = self.weight.saturating_add(EMPTY_WEIGHT);
        cell
    }

    fn settle(&mut self, key: &K, cell: &Arc<OnceCell<V>>, weight: usize, limit: usize) {
        if let Some(entry) = self.entries.get_mut(key)
            && Arc::ptr_eq(&entry.cell, cell)
        {
            self.weight = self.weight.saturating_sub(entry.weight).saturating_add(weight);
            entry.weight = weight;
        }
        while self.weight > limit
            && let Some((_, oldest)) = self.order.pop_first()
        {
            if let Some(entry) = self.entries.remove(&oldest) {
                self.weight = self.weight.saturating_sub(entry.weight);
            }
        }
    }

    fn forget_empty(&mut self, key: &K) {
        if self.entries.get(key).is_some_and(|entry| !entry.cell.initialized()) {
            self.remove(key);
        }
    }

    fn remove(&mut self, key: &K) {
        if let Some(entry) = self.entries.remove(key) {
            self.order.remove(&entry.used);
            self.weight = self.weight.saturating_sub(entry.weight);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::error::{EngineError, ErrorKind};

    #[tokio::test]
    async fn loads_once_for_everybody_keeps_what_is_used_and_stays_within_its_limit() {
        let cache: Cache<u32, Arc<u32>> = Cache::new(10_000);
        let loads = AtomicUsize::new(0);
        let load = |key: u32| {
            let (cache, loads) = (&cache, &loads);
            async move {
                let value = cache
                    .get_or_load(&key, |_| 1000, async move {
                        loads.fetch_add(1, Ordering::Relaxed);
                        tokio::task::yield_now().await;
                        Ok(Arc::new(key))
                    })
                    .await
                    .expect("the load succeeds");
                assert_eq!(*value, key);
            }
        };
        futures::join!(load(1), load(1), load(1));
        assert_eq!(loads.load(Ordering::Relaxed), 1);
        for key in 2..50 {
            load(1).await;
            load(key).await;
            assert!(cache.state().weight <= 10_000);
        }
        assert_eq!(loads.load(Ordering::Relaxed), 49, "what was used between all the others was never dropped");
        load(2).await;
        assert_eq!(loads.load(Ordering::Relaxed), 50, "the least recently used was");
    }

    #[tokio::test]
    async fn a_failed_load_leaves_nothing_behind() {
        let cache: Cache<u32, u32> = Cache::new(10_000);
        let failed = cache.get_or_load(&1, |_| 1, async { Err(EngineError::new(ErrorKind::Retry, "no answer")) }).await;
        assert!(failed.is_err());
        assert!(cache.state().entries.is_empty() && cache.state().order.is_empty());
        assert_eq!(cache.get_or_load(&1, |_| 1, async { Ok(7) }).await.expect("loads"), 7);
    }

    #[tokio::test]
    async fn what_is_forgotten_is_loaded_again() {
        let cache: Cache<u32, u32> = Cache::new(10_000);
        assert_eq!(cache.get_or_load(&1, |_| 1, async { Ok(7) }).await.expect("loads"), 7);
        cache.forget(&1);
        assert!(cache.get(&1).is_none());
        assert!(cache.state().entries.is_empty() && cache.state().order.is_empty());
        assert_eq!(cache.get_or_load(&1, |_| 1, async { Ok(8) }).await.expect("loads"), 8);
        cache.clear();
        assert!(cache.get(&1).is_none());
        assert_eq!(cache.state().weight, 0);
        assert_eq!(cache.get_or_load(&1, |_| 300, async { Ok(9) }).await.expect("loads"), 9);
        assert_eq!(cache.state().weight, 300);
    }
}
