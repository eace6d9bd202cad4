//! The instances of groups that are open at this gateway.
//!
//! A group has one at its home gateway (`home`), and one for each failover or test that runs here, named after the job
//! that made it. Opening one is tried again after a while when it fails.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use lifeboat_model::GroupId;

use crate::port::Instance;

/// Which instance of which group.
pub(crate) type Key = (GroupId, String);

/// An instance that is open.
#[derive(Clone, Debug)]
pub(crate) struct Open {
    pub(crate) instance: Arc<dyn Instance>,
}

#[derive(Debug)]
struct Failure {
    message: String,
    retry_at: Instant,
    tries: u32,
}

#[derive(Debug, Default)]
pub(crate) struct Instances {
    open: RwLock<BTreeMap<Key, Open>>,
    failures: RwLock<BTreeMap<Key, Failure>>,
    /// Held while an instance of a group is opened, made or dropped.
    locks: Mutex<HashMap<GroupId, Arc<tokio::sync::Mutex<()>>>>,
}

impl Instances {
    /// The lock under which a group's instances are opened, made and dropped.
    pub(crate) fn lock(&self, group: GroupId) -> Arc<tokio::sync::Mutex<()>> {
        Arc::clone(self.locks.lock().unwrap_or_else(PoisonError::into_inner).entry(group).or_default())
    }

    pub(crate) fn get(&self, group: GroupId, name: &str) -> Option<Open> {
        self.open.read().unwrap_or_else(PoisonError::into_inner).get(&(group, name.to_owned())).cloned()
    }

    pub(crate) fn all(&self) -> Vec<(Key, Open)> {
        let open = self.open.read().unwrap_or_else(PoisonError::into_inner);
        open.iter().map(|(key, open)| (key.clone(), open.clone())).collect()
    }

    pub(crate) fn of(&self, group: GroupId) -> Vec<(String, Open)> {
        self.all().into_iter().filter(|((id, _), _)| *id == group).map(|((_, name), open)| (name, open)).collect()
    }

    pub(crate) fn insert(&self, key: Key, open: Open) {
        self.failures.write().unwrap_or_else(PoisonError::into_inner).remove(&key);
        self.open.write().unwrap_or_else(PoisonError::into_inner).insert(key, open);
    }

    pub(crate) fn remove(&self, key: &Key) -> Option<Open> {
        self.failures.write().unwrap_or_else(PoisonError::into_inner).remove(key);
        self.open.write().unwrap_or_else(PoisonError::into_inner).remove(key)
    }

    /// Opening it failed; returns whether that is news.
    pub(crate) fn failed(&self, key: Key, message: String) -> bool {
        let mut failures = self.failures.write().unwrap_or_else(PoisonError::into_inner);
        let before = failures.get(&key);
        let news = before.is_none_or(|before| before.message != message);
        let tries = before.map_or(0, |before| before.tries).saturating_add(1);
        let wait = Duration::from_secs(1 << tries.min(5));
        failures.insert(key, Failure { message, retry_at: Instant::now() + wait, tries });
        news
    }

    /// Whether opening it failed so lately that it isn't tried now.
    pub(crate) fn is_waiting(&self, key: &Key) -> bool {
        let failures = self.failures.read().unwrap_or_else(PoisonError::into_inner);
        failures.get(key).is_some_and(|failure| failure.retry_at > Instant::now())
    }

    /// Why instances of a group can't be opened.
    pub(crate) fn failures(&self, group: GroupId) -> Vec<String> {
        let failures = self.failures.read().unwrap_or_else(PoisonError::into_inner);
        failures.iter().filter(|((id, _), _)| *id == group).map(|(_, failure)| failure.message.clone()).collect()
    }
}
