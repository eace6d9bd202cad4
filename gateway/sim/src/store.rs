//! An object store in memory that fails as a seed or a plan says, and the links that gateways reach it by.
//!
//! ```text
//! gateway ─ Link ─ request ─> pause ─> carried out, or not ─> pause ─> reply, or none
//!            │ partition, power                └ a create may land later, after its caller has given up
//! ```
//! It keeps what no real store could say: which names were ever given to two contents, which salt was used twice, and a
//! running hash of all requests, so that two runs can be held against each other. What is done wrong is noted as a
//! violation at once.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use lifeboat_format::segment::{SEGMENT_HEADER_LEN, SegmentHeader};
use lifeboat_model::Timestamp;
use lifeboat_vault::{ObjectMeta, Store, StoreClass, StoreError};
use tokio::time::Instant;

use crate::random::Random;

/// What happens to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// The backend asks to slow down.
    Throttle,
    /// No answer, and it was not carried out.
    Timeout,
    /// It was carried out, and the reply is lost.
    LostReply,
    /// A create whose caller gets no answer lands some time later.
    Late,
    /// A read gives half of the bytes.
    Truncated,
    /// A read gives the bytes with one bit changed.
    Corrupt,
    /// A listing leaves out the newest objects.
    StaleList,
    /// The newest objects are gone, as after the store was put back to an older state.
    RolledBack,
    /// It takes minutes.
    Slow,
    /// 403.
    Forbidden,
    /// 404, whether the object is there or not.
    Missing,
}

/// Every kind of trouble.
pub const TROUBLES: [Trouble; 11] = [
    Trouble::Throttle,
    Trouble::Timeout,
    Trouble::LostReply,
    Trouble::Late,
    Trouble::Truncated,
    Trouble::Corrupt,
    Trouble::StaleList,
    Trouble::RolledBack,
    Trouble::Slow,
    Trouble::Forbidden,
    Trouble::Missing,
];

impl Trouble {
    /// Whether a store that does this still keeps its promises, as stores with bad networks do.
    #[must_use]
    pub const fn is_honest(self) -> bool {
        !matches!(self, Self::StaleList | Self::RolledBack | Self::Missing)
    }
}

/// A failure to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlannedTrouble {
    /// The request, counted from 1 over all gateways.
    pub at: u64,
    /// How it fails.
    pub trouble: Trouble,
    /// Every later request fails in the same way, until it is taken back.
    pub for_good: bool,
}

/// How likely requests fail by themselves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Weather {
    /// Requests that fail, in a thousand.
    pub trouble: u64,
    /// Longest pause on the way there and back, milliseconds.
    pub latency_ms: u64,
    /// Reads may come back changed on their way.
    pub dirty: bool,
}

#[derive(Clone, Debug)]
struct Object {
    bytes: Bytes,
    modified: Timestamp,
    order: u64,
}

#[derive(Debug)]
struct Late {
    key: String,
    bytes: Bytes,
    at: Instant,
}

#[derive(Debug)]
struct State {
    objects: BTreeMap<String, Object>,
    /// Contents that were sent under a name of the log or of a map, by hash.
    sent: BTreeMap<String, u64>,
    salts: BTreeMap<[u8; 16], u64>,
    late: Vec<Late>,
    /// Creates of names with this in them are on their way until they are let land.
    held_back: Option<&'static str>,
    on_hold: Vec<(String, Bytes)>,
    random: Random,
    weather: Weather,
    planned: Option<PlannedTrouble>,
    requests: u64,
    order: u64,
    log: u64,
    trace: Option<Vec<String>>,
    violations: Vec<String>,
    trouble_met: BTreeSet<&'static str>,
}

/// The store.
#[derive(Debug)]
pub struct SimStore {
    state: Mutex<State>,
}

fn fold(hash: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(hash, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

impl SimStore {
    /// An empty store whose chances come from `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Arc<Self> {
        let state = State {
            objects: BTreeMap::new(),
            sent: BTreeMap::new(),
            salts: BTreeMap::new(),
            late: Vec::new(),
            held_back: None,
            on_hold: Vec::new(),
            random: Random::new(seed),
            weather: Weather::default(),
            planned: None,
            requests: 0,
            order: 0,
            log: 0xcbf2_9ce4_8422_2325,
            trace: None,
            violations: Vec::new(),
            trouble_met: BTreeSet::new(),
        };
        Arc::new(Self { state: Mutex::new(state) })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets requests fail by themselves from now on.
    pub fn set_weather(&self, weather: Weather) {
        self.state().weather = weather;
    }

    /// Plans a failure; `None` takes one back.
    pub fn plan(&self, planned: Option<PlannedTrouble>) {
        self.state().planned = planned;
    }

    /// Whether a planned trouble goes on until it is taken back.
    #[must_use]
    pub fn has_lasting_trouble(&self) -> bool {
        let state = self.state();
        state.planned.is_some_and(|planned| planned.for_good && state.requests >= planned.at)
    }

    /// From now on creates of names with this in them get no answer, and land once they are let.
    pub fn hold_back(&self, part: &'static str) {
        self.state().held_back = Some(part);
    }

    /// What was held back lands now; gives the number of objects.
    pub fn let_land(&self) -> usize {
        let mut state = self.state();
        state.held_back = None;
        let held = std::mem::take(&mut state.on_hold);
        held.into_iter().map(|(key, bytes)| usize::from(state.put(&key, bytes))).sum()
    }

    /// Requests so far.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.state().requests
    }

    /// A hash over every request so far: who, what, which name, which bytes, in which order.
    #[must_use]
    pub fn log_hash(&self) -> u64 {
        self.state().log
    }

    /// Writes requests down from now on.
    pub fn trace(&self) {
        self.state().trace = Some(Vec::new());
    }

    /// What was written down.
    #[must_use]
    pub fn traced(&self) -> Vec<String> {
        self.state().trace.clone().unwrap_or_default()
    }

    /// What was done wrong so far.
    #[must_use]
    pub fn violations(&self) -> Vec<String> {
        self.state().violations.clone()
    }

    /// Kinds of trouble that requests have met.
    #[must_use]
    pub fn trouble_met(&self) -> Vec<&'static str> {
        self.state().trouble_met.iter().copied().collect()
    }

    /// Names of all objects.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        self.state().objects.keys().cloned().collect()
    }

    /// Length of an object.
    #[must_use]
    pub fn length(&self, key: &str) -> Option<usize> {
        self.state().objects.get(key).map(|object| object.bytes.len())
    }

    /// Changes one bit of an object, as a medium that rots does.
    pub fn flip(&self, key: &str, bit: usize) {
        if let Some(object) = self.state().objects.get_mut(key) {
            let mut bytes = object.bytes.to_vec();
            if let Some(byte) = bytes.get_mut(bit / 8) {
                *byte ^= 1 << (bit % 8);
            }
            object.bytes = bytes.into();
        }
    }

    /// A copy with the same objects, which nothing happens to.
    #[must_use]
    pub fn copy(&self, seed: u64) -> Arc<Self> {
        let copy = Self::new(seed);
        copy.state().objects = self.state().objects.clone();
        copy
    }

    /// A way to the store, for one life of one gateway.
    #[must_use]
    pub fn link(self: &Arc<Self>, name: &str) -> Arc<Link> {
        let url = format!("sim:{name}");
        Arc::new(Link::new(self, url, false))
    }

    /// A way that nothing goes wrong on and that takes no time: for checks.
    #[must_use]
    pub fn perfect_link(self: &Arc<Self>) -> Arc<dyn Store> {
        let url = "sim:check".to_owned();
        Arc::new(Link::new(self, url, true))
    }
}

impl State {
    /// Creates that are still on their way land when their time has come.
    fn land(&mut self) {
        let now = Instant::now();
        let mut at = 0;
        while at < self.late.len() {
            if self.late[at].at <= now {
                let late = self.late.remove(at);
                self.put(&late.key, late.bytes);
            } else {
                at += 1;
            }
        }
    }

    fn put(&mut self, key: &str, bytes: Bytes) -> bool {
        if self.objects.contains_key(key) {
            return false;
        }
        self.order += 1;
        let modified = now();
        self.objects.insert(key.to_owned(), Object { bytes, modified, order: self.order });
        true
    }

    /// What a create gives away: a name has one content (I-7), a salt one too (I-9).
    fn watch(&mut self, key: &str, bytes: &Bytes) {
        let hash = fold(7, bytes);
        let (log, map) = (key.contains("/log/"), key.contains("/map/"));
        if (log || map) && self.sent.insert(key.to_owned(), hash).is_some_and(|before| before != hash) {
            self.violations.push(format!("{key} was sent with two contents"));
        }
        if log {
            let header = bytes.get(..SEGMENT_HEADER_LEN).map(SegmentHeader::decode_any);
            match header {
                Some(Ok(header)) => {
                    let salt: [u8; 16] = header.salt.first_chunk().copied().unwrap_or_default();
                    if self.salts.insert(salt, hash).is_some_and(|before| before != hash) {
                        self.violations.push(format!("{key} has the salt of another segment"));
                    }
                }
                _ => self.violations.push(format!("{key} is no segment")),
            }
        }
    }

    fn draw(&mut self, who: &str, verb: &str, key: &str, bytes: &[u8]) -> (Option<Trouble>, Duration, Duration) {
        self.requests += 1;
        self.log = fold(fold(fold(fold(self.log, who.as_bytes()), verb.as_bytes()), key.as_bytes()), bytes);
        let weather = self.weather;
        let pause = |random: &mut Random| Duration::from_micros(random.below(weather.latency_ms * 1000 + 1));
        let (before, after) = (pause(&mut self.random), pause(&mut self.random));
        let planned = self
            .planned
            .filter(|planned| self.requests == planned.at || (planned.for_good && self.requests > planned.at));
        let honest = [
            Trouble::Throttle,
            Trouble::Timeout,
            Trouble::Timeout,
            Trouble::LostReply,
            Trouble::LostReply,
            Trouble::Late,
            Trouble::Slow,
            Trouble::Forbidden,
            Trouble::Truncated,
            Trouble::Corrupt,
        ];
        let chance = self.random.chance(weather.trouble, 1000);
        let pick =
            usize::try_from(self.random.below(honest.len() as u64 - if weather.dirty { 0 } else { 2 })).unwrap_or(0);
        let trouble = planned.map(|planned| planned.trouble).or(chance.then_some(honest[pick]));
        if let Some(trouble) = trouble {
            self.trouble_met.insert(word(trouble));
        }
        if let Some(trace) = &mut self.trace {
            trace.push(format!("{} {who} {verb} {key} {} {trouble:?}", self.requests, bytes.len()));
        }
        (trouble, before, after)
    }

    fn newest(&self, count: usize) -> BTreeSet<String> {
        let mut by_order: Vec<(u64, &String)> = self.objects.iter().map(|(key, object)| (object.order, key)).collect();
        by_order.sort_unstable();
        by_order.into_iter().rev().take(count).map(|(_, key)| key.clone()).collect()
    }
}

const fn word(trouble: Trouble) -> &'static str {
    match trouble {
        Trouble::Throttle => "throttle",
        Trouble::Timeout => "time-out",
        Trouble::LostReply => "lost reply",
        Trouble::Late => "late",
        Trouble::Truncated => "truncated",
        Trouble::Corrupt => "corrupt",
        Trouble::StaleList => "stale list",
        Trouble::RolledBack => "rolled back",
        Trouble::Slow => "slow",
        Trouble::Forbidden => "403",
        Trouble::Missing => "404",
    }
}

thread_local! {
    static START: std::cell::Cell<Option<Instant>> = const { std::cell::Cell::new(None) };
    static LEAPT: std::cell::Cell<Duration> = const { std::cell::Cell::new(Duration::ZERO) };
}

/// Begins a run: its clock starts at a fixed moment.
pub fn start_clock() {
    START.set(Some(Instant::now()));
    LEAPT.set(Duration::ZERO);
}

/// Sets the clock forward without anything happening meanwhile, as if every machine had slept. Timers go on as they were.
pub fn leap(time: Duration) {
    LEAPT.set(LEAPT.get() + time);
}

/// The simulation's clock: the runtime's, from a fixed moment on, and what was leapt over.
#[must_use]
pub fn now() -> Timestamp {
    let passed = START.get().map_or(Duration::ZERO, |start| Instant::now().saturating_duration_since(start));
    let passed = passed + LEAPT.get();
    Timestamp::from_micros(1_700_000_000_000_000 + i64::try_from(passed.as_micros()).unwrap_or(i64::MAX))
}

/// A gateway's way to the store.
#[derive(Debug)]
pub struct Link {
    store: Arc<SimStore>,
    url: String,
    up: AtomicBool,
    halt_at: AtomicU64,
    cut: AtomicBool,
    made: AtomicU64,
    faultless: bool,
}

/// A create that is on its way when its caller goes away: it may land all the same.
struct OnItsWay<'a> {
    store: &'a SimStore,
    create: Option<(String, Bytes)>,
}

impl Drop for OnItsWay<'_> {
    fn drop(&mut self) {
        if let Some((key, bytes)) = self.create.take() {
            let mut state = self.store.state();
            if state.random.one_in(2) {
                let at = Instant::now() + Duration::from_millis(state.random.below(30_000));
                state.late.push(Late { key, bytes, at });
            }
        }
    }
}

impl Link {
    fn new(store: &Arc<SimStore>, url: String, faultless: bool) -> Self {
        Self {
            store: Arc::clone(store),
            url,
            up: AtomicBool::new(true),
            halt_at: AtomicU64::new(u64::MAX),
            cut: AtomicBool::new(false),
            made: AtomicU64::new(0),
            faultless,
        }
    }

    /// The machine at this end has no power any more: nothing goes out, nothing comes back.
    pub fn power_off(&self) {
        self.up.store(false, Ordering::Relaxed);
    }

    /// Whether the machine at this end runs.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.up.load(Ordering::Relaxed)
    }

    /// Requests made over this link.
    #[must_use]
    pub fn made(&self) -> u64 {
        self.made.load(Ordering::Relaxed)
    }

    /// The machine at this end stops with its request of this number.
    pub fn halt_at(&self, number: u64) {
        self.halt_at.store(number, Ordering::Relaxed);
    }

    /// The network is cut, or there again.
    pub fn set_cut(&self, cut: bool) {
        self.cut.store(cut, Ordering::Relaxed);
    }

    fn fail<T>(&self, class: StoreClass, key: &str, why: &str) -> Result<T, StoreError> {
        Err(StoreError::new(class, format!("request for {key:?} in {} failed: {why} (simulated)", self.url)))
    }

    async fn request<T>(
        &self,
        verb: &str,
        key: &str,
        body: Option<&Bytes>,
        act: impl FnOnce(&mut State, Option<Trouble>) -> Result<T, StoreError> + Send,
    ) -> Result<T, StoreError> {
        if self.faultless {
            let mut state = self.store.state();
            state.land();
            return act(&mut state, None);
        }
        let number = self.made.fetch_add(1, Ordering::Relaxed) + 1;
        let drawn = {
            let mut state = self.store.state();
            state.land();
            if let Some(bytes) = body {
                state.watch(key, bytes);
            }
            state.draw(&self.url, verb, key, body.map_or(&[], |bytes| &bytes[..]))
        };
        let (trouble, before, after) = drawn;
        let mut way = OnItsWay { store: &self.store, create: body.map(|bytes| (key.to_owned(), bytes.clone())) };
        if !before.is_zero() {
            tokio::time::sleep(before).await;
        }
        if number >= self.halt_at.load(Ordering::Relaxed) {
            self.power_off();
        }
        if !self.is_up() {
            // What was sent may get there.
            drop(way);
            return self.fail(StoreClass::Retry, key, "the machine has stopped");
        }
        if self.cut.load(Ordering::Relaxed) {
            way.create = None;
            tokio::time::sleep(Duration::from_secs(2)).await;
            return self.fail(StoreClass::Retry, key, "no route to the store");
        }
        match trouble {
            Some(Trouble::Throttle) => {
                way.create = None;
                return self.fail(StoreClass::Retry, key, "503 slow down");
            }
            Some(Trouble::Timeout) => {
                way.create = None;
                tokio::time::sleep(Duration::from_secs(20)).await;
                return self.fail(StoreClass::Retry, key, "no answer");
            }
            Some(Trouble::Forbidden) => {
                way.create = None;
                return self.fail(StoreClass::Fatal, key, "403 forbidden");
            }
            Some(Trouble::Missing) => {
                way.create = None;
                return self.fail(StoreClass::NotFound, key, "404 not found");
            }
            Some(Trouble::Late) => {
                if let Some((key, bytes)) = way.create.take() {
                    let mut state = self.store.state();
                    let at = Instant::now() + Duration::from_millis(state.random.below(60_000));
                    state.late.push(Late { key, bytes, at });
                }
                tokio::time::sleep(Duration::from_secs(5)).await;
                return self.fail(StoreClass::Retry, key, "connection reset");
            }
            Some(Trouble::Slow) => tokio::time::sleep(Duration::from_secs(90)).await,
            _ => {}
        }
        if let Some((key, bytes)) = way.create.take() {
            let mut state = self.store.state();
            if state.held_back.is_some_and(|part| key.contains(part)) {
                state.on_hold.push((key.clone(), bytes));
                drop(state);
                return self.fail(StoreClass::Retry, &key, "connection reset");
            }
        }
        let done = {
            let mut state = self.store.state();
            state.land();
            if trouble == Some(Trouble::RolledBack) {
                let gone = state.newest(2);
                state.objects.retain(|key, _| !gone.contains(key));
            }
            act(&mut state, trouble)
        };
        if !after.is_zero() {
            tokio::time::sleep(after).await;
        }
        if !self.is_up() {
            return self.fail(StoreClass::Retry, key, "the machine has stopped");
        }
        if trouble == Some(Trouble::LostReply) {
            done?;
            return self.fail(StoreClass::Retry, key, "connection reset");
        }
        done
    }

    fn object(&self, state: &State, key: &str) -> Result<Object, StoreError> {
        match state.objects.get(key) {
            Some(object) => Ok(object.clone()),
            None => self.fail(StoreClass::NotFound, key, "404 not found"),
        }
    }

    fn listed(state: &State, prefix: &str, trouble: Option<Trouble>) -> Vec<(String, Object)> {
        let hidden = if trouble == Some(Trouble::StaleList) { state.newest(2) } else { BTreeSet::new() };
        let below = |key: &str| prefix.is_empty() || key.strip_prefix(prefix).is_some_and(|rest| rest.starts_with('/'));
        state
            .objects
            .iter()
            .filter(|(key, _)| below(key) && !hidden.contains(*key))
            .map(|(key, object)| (key.clone(), object.clone()))
            .collect()
    }
}

fn meta((key, object): (String, Object)) -> ObjectMeta {
    ObjectMeta { key, size: object.bytes.len() as u64, modified: object.modified }
}

fn changed(bytes: Bytes, trouble: Option<Trouble>) -> Bytes {
    match trouble {
        Some(Trouble::Truncated) => bytes.slice(..bytes.len() / 2),
        Some(Trouble::Corrupt) => {
            let mut changed = bytes.to_vec();
            let middle = changed.len() / 2;
            if let Some(byte) = changed.get_mut(middle) {
                *byte ^= 1;
            }
            changed.into()
        }
        _ => bytes,
    }
}

#[async_trait]
impl Store for Link {
    fn url(&self) -> &str {
        &self.url
    }

    async fn create(&self, key: &str, bytes: Bytes) -> Result<(), StoreError> {
        let body = bytes.clone();
        self.request("create", key, Some(&body), |state, _| {
            if state.put(key, bytes) { Ok(()) } else { self.fail(StoreClass::AlreadyExists, key, "the name is taken") }
        })
        .await
    }

    async fn get(&self, key: &str, max_bytes: u64) -> Result<Bytes, StoreError> {
        self.request("get", key, None, |state, trouble| {
            let object = self.object(state, key)?;
            if object.bytes.len() as u64 > max_bytes {
                return self.fail(StoreClass::Fatal, key, "it is longer than expected");
            }
            Ok(changed(object.bytes, trouble))
        })
        .await
    }

    async fn get_range(&self, key: &str, range: Range<u64>) -> Result<Bytes, StoreError> {
        self.request("range", key, None, |state, trouble| {
            let object = self.object(state, key)?;
            let bounds = usize::try_from(range.start).ok().zip(usize::try_from(range.end).ok());
            let part = bounds.filter(|(start, end)| start <= end && *end <= object.bytes.len());
            match part {
                Some(_) if trouble == Some(Trouble::Truncated) => {
                    self.fail(StoreClass::Retry, key, "the transfer was cut")
                }
                Some((start, end)) => Ok(changed(object.bytes.slice(start..end), trouble)),
                None => self.fail(StoreClass::Fatal, key, "the object is shorter than expected"),
            }
        })
        .await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<ObjectMeta>, StoreError> {
        self.request("list", prefix, None, |state, trouble| {
            Ok(Self::listed(state, prefix, trouble).into_iter().map(meta).collect())
        })
        .await
    }

    async fn list_after(&self, prefix: &str, after: &str) -> Result<Vec<ObjectMeta>, StoreError> {
        self.request("list", prefix, None, |state, trouble| {
            let found = Self::listed(state, prefix, trouble).into_iter();
            Ok(found.filter(|(key, _)| key.as_str() > after).map(meta).collect())
        })
        .await
    }

    async fn list_dirs(&self, prefix: &str) -> Result<Vec<String>, StoreError> {
        self.request("dirs", prefix, None, |state, trouble| {
            let skip = if prefix.is_empty() { 0 } else { prefix.len() + 1 };
            let next = |key: &str| key.get(skip..)?.split_once('/').map(|(first, _)| first.to_owned());
            let dirs: BTreeSet<String> =
                Self::listed(state, prefix, trouble).iter().filter_map(|(key, _)| next(key)).collect();
            Ok(dirs.into_iter().collect())
        })
        .await
    }

    async fn head(&self, key: &str) -> Result<ObjectMeta, StoreError> {
        self.request("head", key, None, |state, _| Ok(meta((key.to_owned(), self.object(state, key)?)))).await
    }

    async fn delete(&self, key: &str) -> Result<(), StoreError> {
        self.request("delete", key, None, |state, _| {
            state.objects.remove(key);
            Ok(())
        })
        .await
    }
}
