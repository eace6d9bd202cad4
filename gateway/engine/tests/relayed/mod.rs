//! Process servers in memory for tests: lines that are cut at a message, servers that die at a message or at a request to the
//! vault and come back with what they had cached or without, and an agent that goes from one to the other.

#![allow(dead_code, reason = "each test program uses a part of it")]

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use lifeboat_engine::machine::Host;
use lifeboat_engine::relay::{Admission, Admitted, Declare, Line, ProcessServer, ProcessServerConfig, Relay};
use lifeboat_engine::ship::ShipSettings;
use lifeboat_engine::{EngineError, ErrorKind, GroupConfig, Reach, RetrySettings};
use lifeboat_model::{GatewayId, GroupId, VolumeId};
use lifeboat_vault::{KeySource, ObjectMeta, Store, StoreError, Vault, VaultOptions};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};
use tokio::task::JoinHandle;

use crate::lab::Lab;

/// Short pauses: a test waits for conditions, not for them.
pub(crate) fn retry() -> RetrySettings {
    RetrySettings {
        pauses: vec![Duration::from_millis(5), Duration::from_millis(20)],
        probe: Duration::from_millis(50),
    }
}

/// What strikes at a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Strike {
    /// The line breaks; the message has not arrived.
    CutBefore,
    /// The line breaks; the message has arrived.
    CutAfter,
    /// The process server dies and comes back with its cache.
    Kill,
    /// It dies with its disk; the next one takes its place.
    Lose,
}

#[derive(Debug)]
struct Server {
    running: Option<Arc<ProcessServer>>,
    connections: Vec<JoinHandle<()>>,
    dir: PathBuf,
}

/// Some process servers, and the way of one agent to them.
#[derive(Debug)]
pub(crate) struct Yard {
    me: Weak<Self>,
    store: Arc<dyn Store>,
    group: GroupId,
    agent: GatewayId,
    volume: VolumeId,
    root: PathBuf,
    cache_bytes: u64,
    servers: Mutex<BTreeMap<usize, Server>>,
    next_dir: AtomicUsize,
    /// The process server that is tried next.
    prefers: AtomicUsize,
    /// Messages until the strike, over all lines.
    left: Arc<AtomicI64>,
    strike: Mutex<Option<Strike>>,
    struck: AtomicBool,
    pub(crate) lines: AtomicUsize,
    /// How often the agent was asked to go to another one.
    pub(crate) sent_away: AtomicUsize,
}

impl Yard {
    pub(crate) async fn new(lab: &Lab, servers: usize, cache_bytes: u64) -> Arc<Self> {
        let this = Arc::new_cyclic(|me| Self {
            me: Weak::clone(me),
            store: Arc::clone(&lab.store) as Arc<dyn Store>,
            group: lab.group,
            agent: lab.primary,
            volume: lab.volume,
            root: lab.dir.path().to_owned(),
            cache_bytes,
            servers: Mutex::default(),
            next_dir: AtomicUsize::new(0),
            prefers: AtomicUsize::new(0),
            left: Arc::new(AtomicI64::new(i64::MAX)),
            strike: Mutex::new(None),
            struck: AtomicBool::new(false),
            lines: AtomicUsize::new(0),
            sent_away: AtomicUsize::new(0),
        });
        for number in 0..servers {
            let dir = this.new_dir();
            this.servers
                .lock()
                .expect("no test panicked with it")
                .insert(number, Server { running: None, connections: Vec::new(), dir });
            this.start(number).await;
        }
        this
    }

    fn new_dir(&self) -> PathBuf {
        self.root.join(format!("process-server-{}", self.next_dir.fetch_add(1, Ordering::Relaxed)))
    }

    /// An agent's group, behind these servers.
    pub(crate) fn config(self: &Arc<Self>, lab: &Lab) -> GroupConfig {
        let mut config = lab.config(lab.primary);
        config.reach = Reach::Relay(Arc::<Self>::clone(self));
        config.settings.retry = retry();
        config
    }

    /// At the n-th message from now something strikes.
    pub(crate) fn strike_at(&self, message: i64, strike: Strike) {
        *self.strike.lock().expect("no test panicked with it") = Some(strike);
        self.struck.store(false, Ordering::SeqCst);
        self.left.store(message, Ordering::SeqCst);
    }

    pub(crate) fn has_struck(&self) -> bool {
        self.struck.load(Ordering::SeqCst)
    }

    pub(crate) fn prefer(&self, number: usize) {
        self.prefers.store(number, Ordering::SeqCst);
    }

    /// Starts a process server over what is in its directory.
    pub(crate) async fn start(&self, number: usize) {
        self.start_with(number, None).await;
    }

    /// Starts one whose requests to the vault end with the n-th: carried out or not.
    pub(crate) async fn start_mortal(&self, number: usize, requests: i64, carried_out: bool) -> Arc<MortalStore> {
        let store = Arc::new(MortalStore {
            inner: Arc::clone(&self.store),
            left: AtomicI64::new(requests),
            carried_out,
            dead: tokio::sync::watch::Sender::new(false),
        });
        self.start_with(number, Some(Arc::clone(&store))).await;
        store
    }

    async fn start_with(&self, number: usize, mortal: Option<Arc<MortalStore>>) {
        let dir = self.servers.lock().expect("no test panicked with it")[&number].dir.clone();
        let key = KeySource::Passphrase("correct horse battery".to_owned().into());
        let vault = match &mortal {
            None => Vault::open(Arc::clone(&self.store), &key, VaultOptions::for_tests()).await.expect("opens"),
            Some(store) => {
                // Opening it doesn't count.
                let requests = store.left.swap(i64::MAX, Ordering::SeqCst);
                let vault = Vault::open(Arc::<MortalStore>::clone(store), &key, VaultOptions::for_tests()).await;
                store.left.store(requests, Ordering::SeqCst);
                vault.expect("opens")
            }
        };
        let admission =
            Gate { vault: Arc::new(vault), group: self.group, agent: self.agent, volumes: vec![self.volume] };
        let config = ProcessServerConfig {
            admission: Arc::new(admission),
            machine: Arc::new(Host),
            dir,
            cache_bytes: self.cache_bytes,
            retry: retry(),
        };
        let server = ProcessServer::open(config).await.expect("starts");
        let mut servers = self.servers.lock().expect("no test panicked with it");
        let entry = servers.get_mut(&number).expect("a server of the yard");
        entry.running = Some(server);
    }

    /// SIGKILL: nothing of it runs on.
    pub(crate) fn kill(&self, number: usize) {
        let mut servers = self.servers.lock().expect("no test panicked with it");
        let server = servers.get_mut(&number).expect("a server of the yard");
        server.running = None;
        server.connections.drain(..).for_each(|connection| connection.abort());
    }

    /// Kills it, and its disk is gone.
    pub(crate) fn lose(&self, number: usize) {
        self.kill(number);
        self.servers.lock().expect("no test panicked with it").get_mut(&number).expect("a server of the yard").dir =
            self.new_dir();
    }

    pub(crate) fn running(&self, number: usize) -> Option<Arc<ProcessServer>> {
        self.servers.lock().expect("no test panicked with it")[&number].running.clone()
    }

    fn line_to(self: &Arc<Self>, number: usize) -> Option<Line> {
        let mut servers = self.servers.lock().expect("no test panicked with it");
        let server = servers.get_mut(&number)?;
        let running = server.running.clone()?;
        let (here, there) = tokio::io::duplex(64 << 10);
        let end = |inner| Cut { inner, yard: Arc::clone(self), server: number, cut: false };
        let (here, there) = (end(here), end(there));
        let agent = self.agent;
        server.connections.push(tokio::spawn(async move { running.serve(Box::new(there), agent).await }));
        Some(Box::new(here))
    }

    /// A message is about to go; what becomes of it.
    fn message(self: &Arc<Self>, server: usize) -> Option<Strike> {
        if self.left.fetch_sub(1, Ordering::SeqCst) != 1 {
            return None;
        }
        let strike = self.strike.lock().expect("no test panicked with it").take()?;
        match strike {
            Strike::CutBefore | Strike::CutAfter => self.struck.store(true, Ordering::SeqCst),
            Strike::Kill | Strike::Lose => {
                let this = Arc::clone(self);
                // Not from within one of its own tasks.
                tokio::spawn(async move {
                    if strike == Strike::Kill {
                        this.kill(server);
                        this.start(server).await;
                    } else {
                        this.lose(server);
                        this.prefer(server + 1);
                    }
                    this.struck.store(true, Ordering::SeqCst);
                });
            }
        }
        Some(strike)
    }
}

#[async_trait]
impl Relay for Yard {
    async fn connect(&self) -> Result<(Line, String), EngineError> {
        self.lines.fetch_add(1, Ordering::SeqCst);
        let Some(this) = self.me.upgrade() else { return Err(EngineError::new(ErrorKind::Closed, "the test is over")) };
        let count = self.servers.lock().expect("no test panicked with it").len();
        let first = self.prefers.load(Ordering::SeqCst);
        for number in (0..count).map(|offset| (first + offset) % count) {
            if let Some(line) = this.line_to(number) {
                return Ok((line, format!("process server {number}")));
            }
        }
        Err(EngineError::new(ErrorKind::Retry, "no process server answers"))
    }

    fn sent_away(&self, server: &str) {
        let count = self.servers.lock().expect("no test panicked with it").len();
        let number: usize = server.rsplit(' ').next().and_then(|number| number.parse().ok()).expect("a server's name");
        self.sent_away.fetch_add(1, Ordering::SeqCst);
        self.prefer((number + 1) % count);
    }
}

#[derive(Debug)]
struct Gate {
    vault: Arc<Vault>,
    group: GroupId,
    agent: GatewayId,
    volumes: Vec<VolumeId>,
}

#[async_trait]
impl Admission for Gate {
    async fn admit(&self, agent: GatewayId, group: GroupId) -> Result<Admitted, EngineError> {
        if (agent, group) != (self.agent, self.group) {
            return Err(EngineError::new(ErrorKind::Denied, format!("{group} is not {agent}'s")));
        }
        let settings = ShipSettings::default();
        Ok(Admitted { vault: Arc::clone(&self.vault), volumes: self.volumes.clone(), settings })
    }

    async fn recall(&self, agent: GatewayId, group: GroupId) -> Result<Admitted, EngineError> {
        self.admit(agent, group).await
    }

    async fn declare(&self, _: GatewayId, declared: &Declare) -> Result<(), EngineError> {
        let why = format!("{} is declared by the test", declared.name);
        Err(EngineError::new(ErrorKind::Invalid, why))
    }
}

/// One end of a line. A message ends with a flush.
struct Cut {
    inner: DuplexStream,
    yard: Arc<Yard>,
    server: usize,
    cut: bool,
}

fn cut() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionReset, "cut by the test")
}

impl AsyncRead for Cut {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.cut {
            return Poll::Ready(Err(cut()));
        }
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl AsyncWrite for Cut {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if self.cut {
            return Poll::Ready(Err(cut()));
        }
        let due = self.yard.left.load(Ordering::SeqCst) == 1;
        if due && *self.yard.strike.lock().expect("no test panicked with it") == Some(Strike::CutBefore) {
            let _ = self.yard.message(self.server);
            self.cut = true;
            return Poll::Ready(Err(cut()));
        }
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.cut {
            return Poll::Ready(Err(cut()));
        }
        let flushed = Pin::new(&mut self.inner).poll_flush(cx);
        if flushed.is_ready() {
            let server = self.server;
            let yard = Arc::clone(&self.yard);
            if matches!(yard.message(server), Some(Strike::CutAfter)) {
                self.cut = true;
                return Poll::Ready(Err(cut()));
            }
        }
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

/// A store whose user dies at a request: this one and all later ones are never answered.
#[derive(Debug)]
pub(crate) struct MortalStore {
    inner: Arc<dyn Store>,
    left: AtomicI64,
    carried_out: bool,
    dead: tokio::sync::watch::Sender<bool>,
}

impl MortalStore {
    /// No request is answered from here on.
    pub(crate) fn kill(&self) {
        self.left.store(0, Ordering::SeqCst);
    }

    pub(crate) async fn died(&self) {
        let mut dead = self.dead.subscribe();
        let _ = dead.wait_for(|dead| *dead).await;
    }

    pub(crate) fn is_dead(&self) -> bool {
        *self.dead.borrow()
    }

    async fn step<T>(&self, request: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
        let left = self.left.fetch_sub(1, Ordering::SeqCst);
        if left > 1 {
            return request.await;
        }
        if left == 1 && self.carried_out {
            let _ = request.await;
        }
        self.dead.send_replace(true);
        std::future::pending().await
    }
}

#[async_trait]
impl Store for MortalStore {
    fn url(&self) -> &str {
        self.inner.url()
    }
    async fn create(&self, key: &str, bytes: Bytes) -> Result<(), StoreError> {
        self.step(self.inner.create(key, bytes)).await
    }
    async fn get(&self, key: &str, max_bytes: u64) -> Result<Bytes, StoreError> {
        self.step(self.inner.get(key, max_bytes)).await
    }
    async fn get_range(&self, key: &str, range: std::ops::Range<u64>) -> Result<Bytes, StoreError> {
        self.step(self.inner.get_range(key, range)).await
    }
    async fn get_tail(&self, key: &str, max_bytes: u64) -> Result<(Bytes, u64), StoreError> {
        self.step(self.inner.get_tail(key, max_bytes)).await
    }
    async fn list(&self, prefix: &str) -> Result<Vec<ObjectMeta>, StoreError> {
        self.step(self.inner.list(prefix)).await
    }
    async fn list_after(&self, prefix: &str, after: &str) -> Result<Vec<ObjectMeta>, StoreError> {
        self.step(self.inner.list_after(prefix, after)).await
    }
    async fn list_dirs(&self, prefix: &str) -> Result<Vec<String>, StoreError> {
        self.step(self.inner.list_dirs(prefix)).await
    }
    async fn head(&self, key: &str) -> Result<ObjectMeta, StoreError> {
        self.step(self.inner.head(key)).await
    }
    async fn delete(&self, key: &str) -> Result<(), StoreError> {
        self.step(self.inner.delete(key)).await
    }
}
