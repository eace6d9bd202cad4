//! A store that fails as planned: the same plan over the same requests fails the same way, so that a test can walk
//! through every request of a run and every way it can go wrong.
//!
//! Wraps any store. Rules are tried in the order they were added; the first that applies decides. All requests are
//! counted, so that a test can say "idle costs nothing". It holds no data of its own and changes none in the store
//! below, except by letting a request land whose caller is told that it failed.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use crate::error::{StoreClass, StoreError};
use crate::store::{ObjectMeta, Store};

/// Newest requests kept for [`FaultyStore::requests`].
const HISTORY: usize = 65_536;

/// Kinds of requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OpKind {
    /// [`Store::create`]
    Create,
    /// [`Store::get`]
    Get,
    /// [`Store::get_range`], [`Store::get_tail`]
    GetRange,
    /// [`Store::list`], [`Store::list_after`], [`Store::list_dirs`]
    List,
    /// [`Store::head`]
    Head,
    /// [`Store::delete`]
    Delete,
}

/// What happens to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// The connection fails before the request gets there. Class: retry.
    FailBefore,
    /// The request is carried out, the reply is lost. Class: retry.
    FailAfter,
    /// No answer, and it was not carried out. Class: retry.
    TimeoutBefore,
    /// No answer, but it was carried out. Class: retry.
    TimeoutAfter,
    /// The backend asks to slow down. Class: retry.
    Throttle,
    /// The backend refuses: 403. Class: fatal.
    Forbidden,
    /// The object is said not to be there: 404. A create is not carried out.
    Missing,
    /// A read returns the first half; a range read fails as it does when the object is too short.
    Truncate,
    /// A read returns the bytes with one bit of the middle byte flipped.
    Corrupt,
    /// A create overwrites silently, as backends without conditional writes do.
    Overwrite,
    /// A listing leaves out this many of the newest creates made through this store.
    StaleList(usize),
    /// The request takes so much longer.
    Delay(Duration),
}

/// When something happens, and what. `Rule::new(Effect::FailAfter).on(OpKind::Create).key("/log/").nth(3).times(1)`:
/// the third create of a segment lands but its reply is lost.
#[derive(Clone, Debug)]
pub struct Rule {
    effect: Effect,
    op: Option<OpKind>,
    key: Option<String>,
    request: Option<u64>,
    first: u64,
    times: u64,
    seen: u64,
}

impl Rule {
    /// A rule that applies to every request, for good.
    #[must_use]
    pub const fn new(effect: Effect) -> Self {
        Self { effect, op: None, key: None, request: None, first: 1, times: u64::MAX, seen: 0 }
    }

    /// Only requests of this kind.
    #[must_use]
    pub const fn on(mut self, op: OpKind) -> Self {
        self.op = Some(op);
        self
    }

    /// Only requests whose key or prefix contains this text.
    #[must_use]
    pub fn key(mut self, part: impl Into<String>) -> Self {
        self.key = Some(part.into());
        self
    }

    /// Only the request with this number, counted from 1 over all requests since the counts were last reset.
    #[must_use]
    pub const fn at_request(mut self, number: u64) -> Self {
        self.request = Some(number);
        self
    }

    /// From the `n`-th request on that the rule would apply to, counted from 1.
    #[must_use]
    pub const fn nth(mut self, n: u64) -> Self {
        self.first = n;
        self
    }

    /// Only so many times.
    #[must_use]
    pub const fn times(mut self, times: u64) -> Self {
        self.times = times;
        self
    }

    fn applies(&mut self, request: &Request) -> bool {
        let matches = self.op.is_none_or(|op| op == request.op)
            && self.key.as_deref().is_none_or(|part| request.key.contains(part))
            && self.request.is_none_or(|number| number == request.number);
        if matches {
            self.seen += 1;
        }
        matches && self.seen >= self.first && self.seen - self.first < self.times
    }
}

/// A request that was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// From 1.
    pub number: u64,
    /// Its kind.
    pub op: OpKind,
    /// Its key or prefix.
    pub key: String,
}

/// Requests by kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// [`OpKind::Create`]
    pub create: u64,
    /// [`OpKind::Get`]
    pub get: u64,
    /// [`OpKind::GetRange`]
    pub get_range: u64,
    /// [`OpKind::List`]
    pub list: u64,
    /// [`OpKind::Head`]
    pub head: u64,
    /// [`OpKind::Delete`]
    pub delete: u64,
    /// Bytes handed to creates.
    pub bytes_created: u64,
    /// Bytes returned by reads.
    pub bytes_read: u64,
}

impl Counts {
    /// All requests.
    #[must_use]
    pub const fn total(&self) -> u64 {
        self.create + self.get + self.get_range + self.list + self.head + self.delete
    }
}

#[derive(Debug, Default)]
struct Plan {
    rules: Vec<Rule>,
    counts: Counts,
    requests: VecDeque<Request>,
    created: Vec<String>,
}

/// A store that fails as planned; without rules, one that counts.
#[derive(Debug)]
pub struct FaultyStore {
    inner: Arc<dyn Store>,
    plan: Mutex<Plan>,
}

impl FaultyStore {
    /// Wraps `inner`.
    #[must_use]
    pub fn new(inner: Arc<dyn Store>) -> Arc<Self> {
        Arc::new(Self { inner, plan: Mutex::default() })
    }

    /// Adds a rule behind those that are there.
    pub fn inject(&self, rule: Rule) {
        self.plan().rules.push(rule);
    }

    /// Drops all rules: from now on everything works.
    pub fn clear(&self) {
        self.plan().rules.clear();
    }

    /// Requests made so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.plan().counts
    }

    /// Starts counting, and numbering requests, from the beginning.
    pub fn reset_counts(&self) {
        let mut plan = self.plan();
        plan.counts = Counts::default();
        plan.requests.clear();
    }

    /// The newest requests, oldest first.
    #[must_use]
    pub fn requests(&self) -> Vec<Request> {
        self.plan().requests.iter().cloned().collect()
    }

    /// The store below, which doesn't fail.
    #[must_use]
    pub fn inner(&self) -> &Arc<dyn Store> {
        &self.inner
    }

    fn plan(&self) -> MutexGuard<'_, Plan> {
        self.plan.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn decide(&self, op: OpKind, key: &str) -> Option<Effect> {
        let mut plan = self.plan();
        let counter = match op {
            OpKind::Create => &mut plan.counts.create,
            OpKind::Get => &mut plan.counts.get,
            OpKind::GetRange => &mut plan.counts.get_range,
            OpKind::List => &mut plan.counts.list,
            OpKind::Head => &mut plan.counts.head,
            OpKind::Delete => &mut plan.counts.delete,
        };
        *counter += 1;
        let request = Request { number: plan.counts.total(), op, key: key.to_owned() };
        // Every rule counts what it would apply to, so that one rule's count doesn't hang on another's.
        let hit = plan.rules.iter_mut().map(|rule| rule.applies(&request).then_some(rule.effect));
        let effect = hit.fold(None, Option::or);
        if plan.requests.len() == HISTORY {
            plan.requests.pop_front();
        }
        plan.requests.push_back(request);
        effect
    }

    /// Runs a request under the plan, but for what only some kinds of requests can do.
    async fn run<T>(
        &self,
        effect: Option<Effect>,
        key: &str,
        request: impl Future<Output = Result<T, StoreError>> + Send,
    ) -> Result<T, StoreError>
    where
        T: Send,
    {
        let fail = |class, why: &str| {
            let url = self.url();
            Err(StoreError::new(class, format!("request for {key:?} in {url} failed: {why} (injected)")))
        };
        match effect {
            Some(Effect::FailBefore) => fail(StoreClass::Retry, "connection refused"),
            Some(Effect::TimeoutBefore) => fail(StoreClass::Retry, "no answer"),
            Some(Effect::Throttle) => fail(StoreClass::Retry, "503 slow down"),
            Some(Effect::Forbidden) => fail(StoreClass::Denied, "403 forbidden"),
            Some(Effect::Missing) => fail(StoreClass::NotFound, "404 not found"),
            Some(Effect::FailAfter) => {
                request.await?;
                fail(StoreClass::Retry, "connection reset")
            }
            Some(Effect::TimeoutAfter) => {
                request.await?;
                fail(StoreClass::Retry, "no answer")
            }
            Some(Effect::Delay(time)) => {
                tokio::time::sleep(time).await;
                request.await
            }
            _ => request.await,
        }
    }

    async fn listing(
        &self,
        prefix: &str,
        request: impl Future<Output = Result<Vec<ObjectMeta>, StoreError>> + Send,
    ) -> Result<Vec<ObjectMeta>, StoreError> {
        let effect = self.decide(OpKind::List, prefix);
        let mut found = self.run(effect, prefix, request).await?;
        if let Some(Effect::StaleList(newest)) = effect {
            let hidden = self.newest_creates(newest);
            found.retain(|object| !hidden.contains(&object.key));
        }
        Ok(found)
    }

    fn newest_creates(&self, count: usize) -> Vec<String> {
        self.plan().created.iter().rev().take(count).cloned().collect()
    }

    /// What a read of a range answers under an effect.
    fn spoil_range(&self, effect: Option<Effect>, key: &str, bytes: Bytes) -> Result<Bytes, StoreError> {
        self.count_read(&bytes);
        match effect {
            Some(Effect::Truncate) => Err(StoreError::new(
                StoreClass::Fatal,
                format!("can't read {key} in {}: the object is shorter than expected (injected)", self.url()),
            )),
            Some(Effect::Corrupt) => Ok(flip_middle(&bytes)),
            _ => Ok(bytes),
        }
    }

    fn count_read(&self, bytes: &Bytes) {
        self.plan().counts.bytes_read += u64::try_from(bytes.len()).unwrap_or(u64::MAX);
    }
}

#[async_trait]
impl Store for FaultyStore {
    fn url(&self) -> &str {
        self.inner.url()
    }

    async fn create(&self, key: &str, bytes: Bytes) -> Result<(), StoreError> {
        let effect = self.decide(OpKind::Create, key);
        self.plan().counts.bytes_created += u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        let request = async {
            if effect == Some(Effect::Overwrite) {
                self.inner.delete(key).await?;
            }
            self.inner.create(key, bytes).await?;
            self.plan().created.push(key.to_owned());
            Ok(())
        };
        self.run(effect, key, request).await
    }

    async fn get(&self, key: &str, max_bytes: u64) -> Result<Bytes, StoreError> {
        let effect = self.decide(OpKind::Get, key);
        let bytes = self.run(effect, key, self.inner.get(key, max_bytes)).await?;
        self.count_read(&bytes);
        Ok(match effect {
            Some(Effect::Truncate) => bytes.slice(..bytes.len() / 2),
            Some(Effect::Corrupt) => flip_middle(&bytes),
            _ => bytes,
        })
    }

    async fn get_range(&self, key: &str, range: Range<u64>) -> Result<Bytes, StoreError> {
        let effect = self.decide(OpKind::GetRange, key);
        let bytes = self.run(effect, key, self.inner.get_range(key, range)).await?;
        self.spoil_range(effect, key, bytes)
    }

    async fn get_tail(&self, key: &str, max_bytes: u64) -> Result<(Bytes, u64), StoreError> {
        let effect = self.decide(OpKind::GetRange, key);
        let (bytes, len) = self.run(effect, key, self.inner.get_tail(key, max_bytes)).await?;
        Ok((self.spoil_range(effect, key, bytes)?, len))
    }

    async fn list(&self, prefix: &str) -> Result<Vec<ObjectMeta>, StoreError> {
        self.listing(prefix, self.inner.list(prefix)).await
    }

    async fn list_after(&self, prefix: &str, after: &str) -> Result<Vec<ObjectMeta>, StoreError> {
        self.listing(prefix, self.inner.list_after(prefix, after)).await
    }

    async fn list_dirs(&self, prefix: &str) -> Result<Vec<String>, StoreError> {
        let effect = self.decide(OpKind::List, prefix);
        let mut found = self.run(effect, prefix, self.inner.list_dirs(prefix)).await?;
        if let Some(Effect::StaleList(newest)) = effect {
            let hidden = self.newest_creates(newest);
            let all = self.inner.list(prefix).await?;
            let below = |key: &str, name: &str| {
                let rest = key.strip_prefix(prefix).unwrap_or_default();
                rest.trim_start_matches('/').split_once('/').is_some_and(|(first, _)| first == name)
            };
            found.retain(|name| all.iter().any(|object| below(&object.key, name) && !hidden.contains(&object.key)));
        }
        Ok(found)
    }

    async fn head(&self, key: &str) -> Result<ObjectMeta, StoreError> {
        let effect = self.decide(OpKind::Head, key);
        self.run(effect, key, self.inner.head(key)).await
    }

    async fn delete(&self, key: &str) -> Result<(), StoreError> {
        let effect = self.decide(OpKind::Delete, key);
        self.run(effect, key, self.inner.delete(key)).await
    }

    async fn sweep_leftovers(&self, older_than: Duration) -> Result<u64, StoreError> {
        self.inner.sweep_leftovers(older_than).await
    }
}

fn flip_middle(bytes: &Bytes) -> Bytes {
    let mut changed = bytes.to_vec();
    let middle = changed.len() / 2;
    if let Some(byte) = changed.get_mut(middle) {
        *byte ^= 1;
    }
    changed.into()
}
