//! A disk that forgets what was not synced, fails when it is told to, and lies when a test plants a lie in it.
//!
//! ```text
//! file    view: what the kernel shows        durable: what survives the loss of power
//!         pending: operations since the last sync, in order, each tagged with its place in the order of all
//! names   view, durable, pending in the same way; only `sync_names` makes them durable
//! ```
//! [`SimDisk::crash`] gives the disk as a restart finds it. After a *kill* that is the view, and what was pending still is.
//! After a *power loss* every 512-byte sector of every pending operation survives or not; how they are drawn is one of
//! several patterns, because independent coins alone tear nearly every batch and leave the interesting states out.
//!
//! A failed sync settles its file: a part of what was pending survives, the rest never will, and a later sync that
//! "succeeds" brings nothing back. Buffered files go on showing the lost data (the kernel marks pages clean that it could
//! not write), direct ones show what the device has.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lifeboat_engine::disk::{Disk, DiskFile, Io};
use lifeboat_engine::{EngineError, ErrorKind};
use lifeboat_model::Timestamp;

use crate::random::Random;

mod content;
mod survival;

use content::{Content, index};
pub use survival::CrashKind;

/// Unit that a disk writes whole or not at all.
pub const SECTOR: u64 = 512;

/// The error that a failing call gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Errno {
    /// The device failed.
    Io,
    /// The file system is full.
    NoSpace,
}

impl Errno {
    fn error(self) -> io::Error {
        io::Error::from_raw_os_error(match self {
            Self::Io => 5,
            Self::NoSpace => 28,
        })
    }
}

/// A failure to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The call that fails, counted from 1 since the disk was made or crashed.
    pub at: u64,
    /// How it fails.
    pub errno: Errno,
    /// Every later call that changes something fails too.
    pub for_good: bool,
    /// A write that fails leaves a part of its data behind.
    pub short: bool,
}

/// What a planted disk pretends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lie {
    /// Syncs of files whose name contains this are answered and not done.
    Sync(&'static str),
    /// Names are never made durable.
    Names,
    /// One write in so many, to files whose name contains this, is answered and dropped.
    LostWrite(&'static str, u64),
    /// One write in so many lands one block further on.
    Misdirected(&'static str, u64),
    /// One write in so many has a bit flipped on its way to the disk.
    Flipped(&'static str, u64),
}

#[derive(Clone, Debug)]
struct Pending {
    order: u64,
    change: Change,
}

#[derive(Clone, Debug)]
enum Change {
    Write { offset: u64, data: Arc<[u8]> },
    Punch { offset: u64, len: u64 },
    SetLen(u64),
}

#[derive(Clone, Debug, Default)]
struct Node {
    view: Content,
    durable: Content,
    pending: Vec<Pending>,
    /// A failed sync has left the view with data that no sync can save.
    diverged: bool,
}

#[derive(Clone, Debug)]
enum NameChange {
    Create(String, usize),
    Remove(String),
}

#[derive(Clone, Debug)]
struct State {
    nodes: Vec<Node>,
    names: BTreeMap<String, usize>,
    durable_names: BTreeMap<String, usize>,
    pending_names: Vec<NameChange>,
    random: Random,
    calls: u64,
    order: u64,
    fault: Option<Fault>,
    halt_at: Option<u64>,
    halted: bool,
    failed_syncs: u64,
    fault_hit: bool,
    lies: Vec<Lie>,
    /// Files elsewhere on the machine that names can stand for.
    sources: BTreeMap<PathBuf, usize>,
}

/// A simulated directory.
#[derive(Debug)]
pub struct SimDisk {
    state: Arc<Mutex<State>>,
}

/// What a call meets before it does anything.
enum Gate {
    Pass,
    /// It fails; a write leaves so many bytes behind.
    Fail(io::Error, Partial),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Partial {
    Nothing,
    SomeBytes,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Call {
    Read,
    Change,
}

fn hold(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl SimDisk {
    /// An empty directory whose chances come from `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Arc<Self> {
        Self::of(State {
            nodes: Vec::new(),
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            pending_names: Vec::new(),
            random: Random::new(seed),
            calls: 0,
            order: 0,
            fault: None,
            halt_at: None,
            halted: false,
            failed_syncs: 0,
            fault_hit: false,
            lies: Vec::new(),
            sources: BTreeMap::new(),
        })
    }

    fn of(state: State) -> Arc<Self> {
        Arc::new(Self { state: Arc::new(Mutex::new(state)) })
    }

    /// The disk as the next start finds it. This one is left as it is, so that one moment can crash in many ways.
    #[must_use]
    pub fn crash(&self, seed: u64, kind: CrashKind) -> Arc<Self> {
        Self::of(survival::after(&hold(&self.state), seed, kind))
    }

    /// Lets the call `at` (counted as in [`Fault`]) and every later one fail without any effect, as if the machine had
    /// stopped there; a write that it stops in may leave a part behind.
    pub fn halt_at(&self, at: u64) {
        hold(&self.state).halt_at = Some(at);
    }

    /// Whether the disk has stopped.
    #[must_use]
    pub fn halted(&self) -> bool {
        hold(&self.state).halted
    }

    /// Plans a failure; `None` ends one that is under way.
    pub fn set_fault(&self, fault: Option<Fault>) {
        hold(&self.state).fault = fault;
    }

    /// Whether the planned failure has happened.
    #[must_use]
    pub fn fault_hit(&self) -> bool {
        hold(&self.state).fault_hit
    }

    /// Calls made so far.
    #[must_use]
    pub fn calls(&self) -> u64 {
        hold(&self.state).calls
    }

    /// Syncs that failed so far.
    #[must_use]
    pub fn failed_syncs(&self) -> u64 {
        hold(&self.state).failed_syncs
    }

    /// Plants a lie; it stays over crashes.
    pub fn plant(&self, lie: Lie) {
        hold(&self.state).lies.push(lie);
    }

    /// A file elsewhere on the machine, which was there before and can be adopted.
    pub fn add_source(&self, path: &Path, bytes: &[u8]) {
        let mut state = hold(&self.state);
        let mut node = Node::default();
        node.view.write(bytes, 0);
        node.durable = node.view.clone();
        state.nodes.push(node);
        let at = state.nodes.len() - 1;
        state.sources.insert(path.to_owned(), at);
    }

    /// Names of the files, past every counter and fault.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        hold(&self.state).names.keys().cloned().collect()
    }

    /// Length of a file, past every counter and fault.
    #[must_use]
    pub fn length(&self, name: &str) -> Option<u64> {
        let state = hold(&self.state);
        Some(state.nodes[*state.names.get(name)?].view.len())
    }

    /// Changes a file behind everybody's back, for good: what a person or another program does to it. False when it isn't there.
    pub fn scribble(&self, name: &str, offset: u64, bytes: &[u8]) -> bool {
        let mut state = hold(&self.state);
        let Some(&node) = state.names.get(name) else { return false };
        let node = &mut state.nodes[node];
        node.view.write(bytes, offset);
        node.durable.write(bytes, offset);
        true
    }

    /// Changes one bit of a file, as a medium that rots does. False when there is no such bit.
    pub fn flip(&self, name: &str, bit: u64) -> bool {
        let found = self.peek(name, bit / 8, 1).filter(|_| self.length(name).is_some_and(|len| bit / 8 < len));
        found.is_some_and(|byte| self.scribble(name, bit / 8, &[byte[0] ^ (1 << (bit % 8))]))
    }

    /// Bytes of a file as the kernel shows them, past every counter and fault; `None` when it isn't there.
    #[must_use]
    pub fn peek(&self, name: &str, offset: u64, len: usize) -> Option<Vec<u8>> {
        let state = hold(&self.state);
        let node = &state.nodes[*state.names.get(name)?];
        let mut bytes = vec![0; len];
        node.view.read(&mut bytes, offset);
        Some(bytes)
    }
}

impl State {
    /// Counts a call and decides its fate.
    fn enter(&mut self, call: Call) -> Gate {
        self.calls += 1;
        if self.halted || self.halt_at.is_some_and(|at| self.calls >= at) {
            let first = !std::mem::replace(&mut self.halted, true);
            return Gate::Fail(
                io::Error::other("the machine has stopped"),
                if first { Partial::SomeBytes } else { Partial::Nothing },
            );
        }
        let Some(fault) = self.fault else { return Gate::Pass };
        let hit = self.calls == fault.at || (fault.for_good && self.calls > fault.at && call == Call::Change);
        if !hit {
            return Gate::Pass;
        }
        self.fault_hit = true;
        Gate::Fail(fault.errno.error(), if fault.short { Partial::SomeBytes } else { Partial::Nothing })
    }

    fn pass(&mut self, call: Call) -> io::Result<()> {
        match self.enter(call) {
            Gate::Pass => Ok(()),
            Gate::Fail(error, _) => Err(error),
        }
    }

    fn change(&mut self, node: usize, change: Change) {
        self.order += 1;
        let node = &mut self.nodes[node];
        node.view.apply(&change);
        node.pending.push(Pending { order: self.order, change });
    }

    fn lies_about(&mut self, name: &str, pick: impl Fn(&Lie) -> Option<(&'static str, u64)>) -> bool {
        let random = &mut self.random;
        self.lies.iter().filter_map(pick).any(|(part, every)| name.contains(part) && random.one_in(every))
    }

    fn write(&mut self, file: &SimFile, data: &[u8], offset: u64) {
        if self.lies_about(
            &file.name,
            |lie| if let Lie::LostWrite(part, every) = lie { Some((*part, *every)) } else { None },
        ) {
            return;
        }
        let mut offset = offset;
        if self.lies_about(&file.name, |lie| {
            if let Lie::Misdirected(part, every) = lie { Some((*part, *every)) } else { None }
        }) {
            offset += content::PAGE;
        }
        let mut data: Arc<[u8]> = data.into();
        if self.lies_about(
            &file.name,
            |lie| if let Lie::Flipped(part, every) = lie { Some((*part, *every)) } else { None },
        ) {
            let at = index(self.random.below(data.len() as u64));
            if let Some(byte) = Arc::make_mut(&mut data).get_mut(at) {
                *byte ^= 0x10;
            }
        }
        self.change(file.node, Change::Write { offset, data });
    }

    fn sync(&mut self, node: usize) {
        let node = &mut self.nodes[node];
        let pending = std::mem::take(&mut node.pending);
        if node.diverged {
            pending.iter().for_each(|one| node.durable.apply(&one.change));
        } else if !pending.is_empty() {
            node.durable = node.view.clone();
        }
    }

    /// After a failed sync: what survived is durable, the rest is lost for good.
    fn settle(&mut self, node: usize, io: Io) {
        let seed = self.random.next();
        let node = &mut self.nodes[node];
        node.durable = survival::survivors(node, &mut survival::Draw::new(seed, &[&node.pending]));
        node.pending.clear();
        match io {
            Io::Direct => node.view = node.durable.clone(),
            Io::Buffered => node.diverged = true,
        }
        self.failed_syncs += 1;
    }
}

impl Disk for SimDisk {
    fn open(&self, name: &str, create: bool, io: Io) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = hold(&self.state);
        state.pass(if create { Call::Change } else { Call::Read })?;
        let node = match state.names.get(name) {
            Some(&node) => node,
            None if create => {
                let node = state.nodes.len();
                state.nodes.push(Node::default());
                state.names.insert(name.to_owned(), node);
                state.pending_names.push(NameChange::Create(name.to_owned(), node));
                node
            }
            None => return Err(io::ErrorKind::NotFound.into()),
        };
        Ok(Arc::new(SimFile { state: Arc::clone(&self.state), node, name: name.to_owned(), io }))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let mut state = hold(&self.state);
        state.pass(Call::Read)?;
        Ok(state.names.keys().cloned().collect())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut state = hold(&self.state);
        state.pass(Call::Change)?;
        if state.names.remove(name).is_some() {
            state.pending_names.push(NameChange::Remove(name.to_owned()));
        }
        Ok(())
    }

    fn sync_names(&self) -> io::Result<()> {
        let mut state = hold(&self.state);
        state.pass(Call::Change)?;
        if !state.lies.contains(&Lie::Names) {
            state.durable_names = state.names.clone();
            state.pending_names.clear();
        }
        Ok(())
    }

    fn path(&self) -> PathBuf {
        PathBuf::from("/simulated")
    }

    fn hold(&self, name: &str, source: &Path) -> Result<Arc<dyn DiskFile>, EngineError> {
        let state = hold(&self.state);
        let Some(&node) = state.sources.get(source) else {
            let why = format!("{} is not on this machine: put it there", source.display());
            return Err(EngineError::new(ErrorKind::NotFound, why));
        };
        if state.names.iter().any(|(other, at)| *at == node && other != name) {
            let why = format!("another volume has {}: one of them can have it", source.display());
            return Err(EngineError::new(ErrorKind::Retry, why));
        }
        Ok(Arc::new(SimFile { state: Arc::clone(&self.state), node, name: name.to_owned(), io: Io::Buffered }))
    }

    fn adopt(&self, name: &str, source: &Path) -> io::Result<()> {
        let mut state = hold(&self.state);
        state.pass(Call::Change)?;
        let node = *state.sources.get(source).ok_or(io::ErrorKind::NotFound)?;
        if state.names.contains_key(name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        state.names.insert(name.to_owned(), node);
        state.pending_names.push(NameChange::Create(name.to_owned(), node));
        Ok(())
    }

    fn adopted(&self, name: &str) -> io::Result<Option<PathBuf>> {
        let mut state = hold(&self.state);
        state.pass(Call::Read)?;
        let Some(&node) = state.names.get(name) else { return Ok(None) };
        Ok(state.sources.iter().find(|(_, at)| **at == node).map(|(path, _)| path.clone()))
    }

    /// A clock that moves with every call, and the same way in every run.
    fn now(&self) -> Timestamp {
        Timestamp::from_micros(1_700_000_000_000_000 + i64::try_from(self.calls()).unwrap_or(0))
    }
}

#[derive(Debug)]
struct SimFile {
    state: Arc<Mutex<State>>,
    node: usize,
    name: String,
    io: Io,
}

impl SimFile {
    /// What the kernel asks of direct I/O: address, offset and length on block boundaries.
    fn check_aligned(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let block = index(content::PAGE);
        let aligned = bytes.as_ptr().addr().is_multiple_of(block)
            && bytes.len().is_multiple_of(block)
            && offset.is_multiple_of(content::PAGE);
        if self.io == Io::Direct && !aligned { Err(io::ErrorKind::InvalidInput.into()) } else { Ok(()) }
    }
}

impl DiskFile for SimFile {
    fn len(&self) -> io::Result<u64> {
        let mut state = hold(&self.state);
        state.pass(Call::Read)?;
        Ok(state.nodes[self.node].view.len())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut state = hold(&self.state);
        state.pass(Call::Change)?;
        state.change(self.node, Change::SetLen(len));
        Ok(())
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.check_aligned(buf, offset)?;
        let mut state = hold(&self.state);
        state.pass(Call::Read)?;
        let view = &state.nodes[self.node].view;
        if offset + buf.len() as u64 > view.len() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        view.read(buf, offset);
        Ok(())
    }

    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        self.check_aligned(data, offset)?;
        let mut state = hold(&self.state);
        match state.enter(Call::Change) {
            Gate::Pass => {
                state.write(self, data, offset);
                Ok(())
            }
            Gate::Fail(error, partial) => {
                let done =
                    if partial == Partial::SomeBytes { index(state.random.below(data.len() as u64 + 1)) } else { 0 };
                if let Some(part) = data.get(..done).filter(|part| !part.is_empty()) {
                    state.change(self.node, Change::Write { offset, data: part.into() });
                }
                Err(error)
            }
        }
    }

    fn punch(&self, offset: u64, len: u64) -> io::Result<()> {
        let mut state = hold(&self.state);
        state.pass(Call::Change)?;
        state.change(self.node, Change::Punch { offset, len });
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = hold(&self.state);
        match state.enter(Call::Change) {
            Gate::Pass => {
                if !state.lies_about(&self.name, |lie| if let Lie::Sync(part) = lie { Some((*part, 1)) } else { None })
                {
                    state.sync(self.node);
                }
                Ok(())
            }
            Gate::Fail(error, _) => {
                // A machine that has stopped settles nothing: the crash decides.
                if !state.halted {
                    state.settle(self.node, self.io);
                }
                Err(error)
            }
        }
    }
}

#[cfg(test)]
mod tests;
