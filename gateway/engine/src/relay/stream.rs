//! The process server's end of one group's stream: the cache, the tenure on the branch, and the task that ships.
//!
//! ```text
//! restored ── unchallenged? ──> open ──newer epoch──> ended (superseded: another process server; fenced: for good)
//! (nothing) ── attach ────────> open <── attach ───── ended (superseded)
//! ```
//! `restored` holds cached records and no tenure; `open` a [`BranchWriter`] under the agent's name; `ended` records
//! that belong to no history any more: given up where the same agent has them shipped by another process server, kept
//! otherwise until the agent opens another tenure here.
//!
//! Locks, in this order: `writer` (across the vault's requests; the task that ships, and who opens a tenure), `accepting` (across a
//! write of the cache), `state` (never across an await).
//!
//! Cancellation: a connection may go at any await. What was cached and not noted is written again under the same name.

use std::collections::{BTreeSet, VecDeque};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use lifeboat_format::journal::EntryOp;
use lifeboat_format::map::RetainedPoint;
use lifeboat_format::stream::recall::Begin;
use lifeboat_format::stream::{FRAME_HEAD_LEN, FRAME_POINTS_MAX, Open as OpenFrame, Opened, Progress, Records, Tenure};
use lifeboat_model::{BranchId, Epoch, GatewayId, GroupId, Lsn, Timestamp, VolumeId};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use super::cache::{Cache, Entry};
use super::{Admission, Admitted, wire};
use crate::branch::{self, Origin, Position};
use crate::error::{EngineError, ErrorKind, Result};
use crate::group::{Flow, FlowStatus, RetrySettings};
use crate::points::PointInfo;
use crate::ship::{BranchWriter, Fenced, Interval, Open, ShipError};
use crate::sync::Lock;

/// Cached bytes that are shipped together, at most, unless one frame has more.
const BATCH_BYTES: u64 = 32 << 20;
/// How often a process server looks after a map that is on its way.
const MAPS: Duration = Duration::from_secs(5);
/// How often it looks whether records that no agent is here for are another one's to ship by now.
const ALONE: Duration = Duration::from_secs(15);

/// Space for cached records, shared by the streams of a process server.
#[derive(Debug)]
pub(super) struct Budget {
    limit: u64,
    used: AtomicU64,
    /// How many wait for room.
    waiting: AtomicUsize,
    freed: Notify,
}

impl Budget {
    pub(super) fn new(limit: u64) -> Self {
        Self { limit, used: AtomicU64::new(0), waiting: AtomicUsize::new(0), freed: Notify::new() }
    }

    /// Takes space, if there is any; somebody who has nothing may have one frame, however large.
    fn take(&self, bytes: u64) -> bool {
        let taken = self.used.fetch_update(Ordering::AcqRel, Ordering::Acquire, |used| {
            (used == 0 || used.saturating_add(bytes) <= self.limit).then(|| used.saturating_add(bytes))
        });
        taken.is_ok()
    }

    fn force(&self, bytes: u64) {
        self.used.fetch_add(bytes, Ordering::AcqRel);
    }

    fn free(&self, bytes: u64) {
        self.used.fetch_sub(bytes, Ordering::AcqRel);
        self.freed.notify_waiters();
    }

    /// Whether somebody waits for room.
    pub(super) fn is_short(&self) -> bool {
        self.waiting.load(Ordering::Acquire) > 0
    }

    pub(super) fn used(&self) -> u64 {
        self.used.load(Ordering::Acquire)
    }
}

/// Somebody who waits for room, until it is dropped.
struct Waiting<'a>(&'a Budget);

impl<'a> Waiting<'a> {
    fn begin(budget: &'a Budget) -> Self {
        budget.waiting.fetch_add(1, Ordering::AcqRel);
        Self(budget)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Room that was taken for a frame, given back unless it was kept: its line may go at any moment.
struct Taken<'a> {
    budget: &'a Budget,
    bytes: u64,
}

impl Taken<'_> {
    fn keep(mut self) {
        self.bytes = 0;
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.budget.free(self.bytes);
        }
    }
}

/// What can be seen of a stream.
#[derive(Clone, Debug, PartialEq)]
pub struct StreamStatus {
    /// The group.
    pub group: GroupId,
    /// The branch.
    pub branch: BranchId,
    /// The agent.
    pub agent: GatewayId,
    /// Its tenure's epoch; zero while there is none.
    pub epoch: Epoch,
    /// Records up to here are in the cache.
    pub cached: Lsn,
    /// Records up to here are in the vault.
    pub shipped: Lsn,
    /// Bytes in the cache.
    pub cached_bytes: u64,
    /// When the oldest record came that could be in the vault and isn't: a point ends its stretch, or its room is wanted. After a restart
    /// of this process it counts from there.
    pub oldest: Option<Timestamp>,
    /// Why nothing is shipped; empty while all is well.
    pub trouble: String,
    /// Whether an agent is connected.
    pub attached: bool,
    /// For how long it has been; nothing while none is.
    pub attached_for: Option<Duration>,
    /// Whether the tenure is open here, and not over.
    pub open: bool,
    /// The newest recovery point in the vault.
    pub last_point: Option<PointInfo>,
    /// What this process puts into the vault of it; nothing of the journal, which is the agent's.
    pub flow: FlowStatus,
}

/// A tenure, and what it may write.
#[derive(Debug)]
struct Held {
    writer: BranchWriter,
    admitted: Admitted,
    /// Volumes that are known to have keys.
    keyed: BTreeSet<VolumeId>,
}

/// How a tenure ended.
#[derive(Clone, Debug)]
enum Ended {
    /// The branch is somebody else's.
    Fenced(Fenced),
    /// Another process server writes it for the same agent.
    Superseded(Epoch),
}

#[derive(Debug)]
struct State {
    tenure: Option<Tenure>,
    /// The tenure was opened by this process.
    open: bool,
    shipped: Position,
    cached: Lsn,
    entries: VecDeque<Entry>,
    volumes: Vec<(VolumeId, u64)>,
    /// Points that landed, the newest ones, and how many there were before those.
    points: VecDeque<RetainedPoint>,
    points_before: u64,
    trouble: String,
    ended: Option<Ended>,
    /// The connection that has the stream.
    connection: u64,
    attached: bool,
    /// When the line came that is attached now, or was last.
    since: Option<Instant>,
    /// The connection whose agent was asked to go elsewhere, and why.
    sent_away: Option<(u64, String)>,
    /// When it was looked last whether a stream that its agent has left goes on elsewhere.
    looked: Instant,
    look: bool,
    /// Somebody waits for room in the cache.
    pressed: bool,
    flow: Flow,
}

impl State {
    fn has_to_look(&mut self) -> bool {
        let alone = !self.attached && !self.entries.is_empty() && self.looked.elapsed() >= ALONE;
        let look = std::mem::take(&mut self.look) || alone;
        if look {
            self.looked = Instant::now();
        }
        look
    }
}

/// A line's place in a stream.
#[derive(Debug)]
pub(super) struct Attached {
    pub(super) connection: u64,
    pub(super) opened: Opened,
    /// Points that it was told of.
    pub(super) points_told: u64,
}

/// One group's stream.
#[derive(Debug)]
pub(super) struct Stream {
    group: GroupId,
    admission: Arc<dyn Admission>,
    cache: Arc<Cache>,
    budget: Arc<Budget>,
    retry: RetrySettings,
    writer: tokio::sync::Mutex<Option<Held>>,
    accepting: tokio::sync::Mutex<()>,
    state: Lock<State>,
    work: Notify,
    changed: watch::Sender<()>,
    task: Lock<Option<AbortOnDropHandle<()>>>,
}

impl Stream {
    /// The stream of a group: with what an earlier process cached, if it did.
    pub(super) async fn open(
        group: GroupId,
        admission: Arc<dyn Admission>,
        cache: Cache,
        budget: Arc<Budget>,
        retry: RetrySettings,
    ) -> Result<Arc<Self>> {
        let cache = Arc::new(cache);
        let restored = {
            let cache = Arc::clone(&cache);
            blocking(move || cache.restore()).await?
        };
        let (tenure, entries) = match restored {
            Some((tenure, entries)) => (Some(tenure), VecDeque::from(entries)),
            None => (None, VecDeque::new()),
        };
        entries.iter().for_each(|entry| budget.force(entry.bytes));
        let branch = tenure.map_or(BranchId::from_bytes([0; 16]), |tenure| tenure.branch);
        let end = tenure.map_or(Lsn::ZERO, |tenure| tenure.end);
        let state = State {
            tenure,
            open: false,
            shipped: wire::position(branch, lifeboat_format::stream::Place { lsn: end, ..Default::default() }),
            cached: entries.back().map_or(end, |entry| entry.last),
            entries,
            volumes: Vec::new(),
            points: VecDeque::new(),
            points_before: 0,
            trouble: String::new(),
            ended: None,
            connection: 0,
            attached: false,
            since: None,
            sent_away: None,
            looked: Instant::now(),
            look: false,
            pressed: false,
            flow: Flow::default(),
        };
        let this = Arc::new(Self {
            group,
            admission,
            cache,
            budget,
            retry,
            writer: tokio::sync::Mutex::new(None),
            accepting: tokio::sync::Mutex::new(()),
            state: Lock::new(state),
            work: Notify::new(),
            changed: watch::Sender::new(()),
            task: Lock::new(None),
        });
        let task = tokio::spawn(work(Arc::downgrade(&this)));
        *this.task.lock() = Some(AbortOnDropHandle::new(task));
        this.work.notify_one();
        Ok(this)
    }

    /// A connection takes the stream; the one that had it has it no longer. Opens a tenure unless there is one that goes on.
    pub(super) async fn attach(&self, open: &OpenFrame) -> Result<Attached, ShipError> {
        if let Some(attached) = self.reattach(open).await {
            self.note();
            return Ok(attached);
        }
        let mut held = self.writer.lock().await;
        let restored = {
            let state = self.state.lock();
            state.tenure.is_some() && !state.open && state.ended.is_none()
        };
        if restored {
            match self.reopen(&mut held).await {
                // Whoever is ahead of what is cached here is told by the vault.
                Ok(()) | Err(ShipError::Fenced(_)) => {}
                Err(error) => return Err(error),
            }
        }
        if let Some(attached) = self.reattach(open).await {
            self.note();
            return Ok(attached);
        }
        let how = match open.epoch {
            None => Open::New { origin: None },
            Some(epoch) => Open::Resume { epoch, durable_lsn: open.durable },
        };
        self.open_tenure(&mut held, open.branch, open.agent, how, open.shipped).await
    }

    /// A connection takes the stream with a tenure that nobody had: a fork, or one that goes on with a branch whose writer was
    /// released. Begun again, it comes to the same.
    pub(super) async fn attach_anew(&self, begin: &Begin) -> Result<Attached, ShipError> {
        let mut held = self.writer.lock().await;
        let how = match begin.origin {
            Some((at, point)) => Open::New { origin: Some(Origin { at: wire::position(at.branch, at.place), point }) },
            None => {
                let vault = self.admission.admit(begin.agent, self.group).await?.vault;
                let end = branch::log_end(&vault, self.group, begin.branch).await?;
                if end.lsn != begin.at {
                    let why = format!(
                        "the log of {} ends at {}, and the agent's disks are at {}: bring them forward once more",
                        begin.branch, end.lsn, begin.at
                    );
                    return Err(EngineError::new(ErrorKind::Invalid, why).into());
                }
                Open::Continue
            }
        };
        self.open_tenure(&mut held, begin.branch, begin.agent, how, begin.at).await
    }

    /// The tenure that is open goes on, if it is one that the agent knows.
    async fn reattach(&self, open: &OpenFrame) -> Option<Attached> {
        let _accepting = self.accepting.lock().await;
        let mut state = self.state.lock();
        let tenure = state.tenure?;
        let known = open.epoch.is_none_or(|epoch| epoch <= tenure.epoch);
        let same = tenure.branch == open.branch && tenure.agent == open.agent;
        if !(state.open && same && known && state.ended.is_none() && state.cached <= open.durable) {
            return None;
        }
        // Who was away, or released, may not be alone with the branch any more: found out soon, and waited for by nobody.
        state.look = true;
        self.work.notify_one();
        let newest = state.points.back().cloned();
        let mut points: Vec<RetainedPoint> =
            state.points.iter().filter(|point| point.lsn > open.shipped).cloned().collect();
        if points.is_empty() {
            points.extend(newest);
        }
        let opened = Opened {
            epoch: tenure.epoch,
            end: wire::place(state.shipped),
            cached: state.cached,
            points,
            volumes: state.volumes.clone(),
        };
        Some(attached(&mut state, opened))
    }

    /// Opens the branch's next epoch for the agent. What was cached under another one is the agent's to send again.
    async fn open_tenure(
        &self,
        held: &mut Option<Held>,
        branch: BranchId,
        agent: GatewayId,
        how: Open,
        known: Lsn,
    ) -> Result<Attached, ShipError> {
        let admitted = self.admission.admit(agent, self.group).await?;
        let settings = admitted.settings.clone();
        let opened = BranchWriter::open(&admitted.vault, self.group, branch, agent, how, settings).await;
        let (writer, found) = opened.map_err(|error| match error {
            // At the same moment, for the same agent: who comes again finds out who was faster.
            ShipError::Fenced(fenced) if fenced.gateway == agent && fenced.promoted_to.is_none() => {
                self.superseded(fenced.by_epoch).into()
            }
            error => error,
        })?;
        let tenure = Tenure { group: self.group, branch, agent, epoch: found.epoch, end: found.end.lsn };
        let _accepting = self.accepting.lock().await;
        {
            let cache = Arc::clone(&self.cache);
            blocking(move || cache.begin(&tenure)).await?;
        }
        let points: VecDeque<RetainedPoint> = newest_points(&writer, known);
        *held = Some(Held { writer, admitted, keyed: BTreeSet::new() });
        let mut state = self.state.lock();
        let freed = state.entries.drain(..).map(|entry| entry.bytes).sum();
        state.tenure = Some(tenure);
        state.open = true;
        state.ended = None;
        state.trouble = String::new();
        state.shipped = found.end;
        state.cached = found.end.lsn;
        state.volumes = found.volumes;
        state.points_before += state.points.len() as u64;
        state.points = points.clone();
        let opened = Opened {
            epoch: found.epoch,
            end: wire::place(found.end),
            cached: found.end.lsn,
            points: points.into(),
            volumes: state.volumes.clone(),
        };
        let attached = attached(&mut state, opened);
        drop(state);
        self.budget.free(freed);
        self.note();
        Ok(attached)
    }

    /// Takes the tenure of an earlier process up again, with what it cached: as long as nobody has opened another one.
    async fn reopen(&self, held: &mut Option<Held>) -> Result<(), ShipError> {
        let Some(tenure) = self.state.lock().tenure else { return Ok(()) };
        let admitted = self.admission.admit(tenure.agent, self.group).await?;
        let how = Open::Unchallenged { epoch: tenure.epoch };
        let settings = admitted.settings.clone();
        let opened = BranchWriter::open(&admitted.vault, self.group, tenure.branch, tenure.agent, how, settings).await;
        let (writer, found) = match opened {
            Ok(opened) => opened,
            Err(ShipError::Fenced(fenced)) => {
                self.end(&fenced);
                return Err(ShipError::Fenced(fenced));
            }
            Err(error) => return Err(error),
        };
        let renewed = Tenure { epoch: found.epoch, ..tenure };
        {
            let cache = Arc::clone(&self.cache);
            blocking(move || cache.renew(&renewed)).await?;
        }
        let points = newest_points(&writer, found.end.lsn);
        *held = Some(Held { writer, admitted, keyed: BTreeSet::new() });
        let gone: Vec<Entry> = {
            let mut state = self.state.lock();
            state.tenure = Some(renewed);
            state.open = true;
            state.shipped = found.end;
            state.volumes = found.volumes;
            state.points = points;
            // A crash may have brought back names of what was shipped.
            let shipped = state.entries.iter().take_while(|entry| entry.last <= found.end.lsn).count();
            let mut gone: Vec<Entry> = state.entries.drain(..shipped).collect();
            if state.entries.front().is_some_and(|entry| entry.after > found.end.lsn) {
                tracing::error!(group = %self.group, "cached records don't go on where the vault's log ends: given up");
                gone.extend(state.entries.drain(..));
            }
            state.cached = state.entries.back().map_or(found.end.lsn, |entry| entry.last);
            gone
        };
        self.forget(gone).await
    }

    /// A frame of records from a connection: on disk when this returns. Waits while the cache is full.
    pub(super) async fn accept(&self, connection: u64, frame: Bytes) -> Result<(), ShipError> {
        let bytes = frame.len() as u64;
        let entry = {
            let body = frame.slice(FRAME_HEAD_LEN.min(frame.len())..);
            let records = Records::decode(&body).map_err(wire::refused)?;
            self.refuse_foreign(&records).await?;
            Entry::of(&records, bytes, self.cache.now())
        };
        let mut waiting = None;
        let taken = loop {
            let freed = self.budget.freed.notified();
            tokio::pin!(freed);
            freed.as_mut().enable();
            self.expect_place(connection, &entry)?;
            if self.budget.take(bytes) {
                break Taken { budget: &self.budget, bytes };
            }
            waiting.get_or_insert_with(|| Waiting::begin(&self.budget));
            self.state.lock().pressed = true;
            self.work.notify_one();
            // A line that is gone is noticed by its other half.
            let mut changed = self.changed.subscribe();
            tokio::select! {
                () = freed => {}
                _ = changed.changed() => {}
            }
        };
        drop(waiting);
        let kept = self.keep(connection, entry, frame).await;
        if matches!(kept, Ok(true)) {
            taken.keep();
        }
        kept.map(drop)
    }

    /// Whether it was kept: not what is there already.
    async fn keep(&self, connection: u64, entry: Entry, frame: Bytes) -> Result<bool, ShipError> {
        let _accepting = self.accepting.lock().await;
        if !self.expect_place(connection, &entry)? {
            return Ok(false);
        }
        {
            let cache = Arc::clone(&self.cache);
            blocking(move || cache.put(entry.after, &frame)).await?;
        }
        let mut state = self.state.lock();
        state.entries.push_back(entry);
        state.cached = entry.last;
        drop(state);
        self.note();
        self.work.notify_one();
        Ok(true)
    }

    /// Whether records are the next ones; false for those that are here already.
    fn expect_place(&self, connection: u64, entry: &Entry) -> Result<bool, ShipError> {
        self.expect_connection(connection)?;
        let cached = self.state.lock().cached;
        if entry.last <= cached {
            return Ok(false);
        }
        if entry.after == cached {
            return Ok(true);
        }
        let why = format!("records after {} of {} came, those after {cached} are next", entry.after, self.group);
        Err(EngineError::new(ErrorKind::Retry, why).into())
    }

    /// An agent writes the volumes that are its own.
    async fn refuse_foreign(&self, records: &Records<'_>) -> Result<(), ShipError> {
        let (agent, known) = {
            let state = self.state.lock();
            (state.tenure.map(|tenure| tenure.agent), state.volumes.iter().map(|(id, _)| *id).collect::<Vec<_>>())
        };
        let named = records.records.iter().filter(|record| !record.is_point()).map(|record| record.volume);
        let mut foreign = named.chain(records.sizes.iter().map(|(id, _)| *id)).filter(|id| !known.contains(id));
        let (Some(first), Some(agent)) = (foreign.next(), agent) else { return Ok(()) };
        let admitted = self.admission.admit(agent, self.group).await?;
        match std::iter::once(first).chain(foreign).find(|id| !admitted.volumes.contains(id)) {
            None => Ok(()),
            Some(id) => {
                let why = format!("{agent} may not write {id} in {}: it is not declared as its volume", self.group);
                Err(EngineError::new(ErrorKind::Denied, why).into())
            }
        }
    }

    /// Looks for a newer epoch soon.
    pub(super) fn look(&self) {
        self.state.lock().look = true;
        self.work.notify_one();
    }

    /// Asks the agent that is connected to go to another process server. False where none is.
    pub(super) fn send_away(&self, why: &str) -> bool {
        let mut state = self.state.lock();
        if !state.attached || state.ended.is_some() {
            return false;
        }
        state.sent_away = Some((state.connection, why.to_owned()));
        drop(state);
        self.note();
        true
    }

    /// A connection is gone.
    pub(super) fn detach(&self, connection: u64) {
        let mut state = self.state.lock();
        if state.connection == connection {
            state.attached = false;
        }
    }

    /// Is told whenever something of the stream changes.
    pub(super) fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// How far the stream is, with the points after the first `told` ones, and how many those are then.
    ///
    /// # Errors
    /// Why it is over for this connection.
    pub(super) fn progress(&self, connection: u64, told: u64) -> Result<(Progress, u64), ShipError> {
        self.expect_connection(connection)?;
        let state = self.state.lock();
        let skip = usize::try_from(told.saturating_sub(state.points_before)).unwrap_or(usize::MAX);
        let points = state.points.iter().skip(skip).cloned().collect();
        let progress = Progress {
            cached: state.cached,
            shipped: wire::place(state.shipped),
            points,
            trouble: state.trouble.clone(),
        };
        Ok((progress, state.points_before + state.points.len() as u64))
    }

    fn expect_connection(&self, connection: u64) -> Result<(), ShipError> {
        let state = self.state.lock();
        match &state.ended {
            Some(Ended::Fenced(fenced)) => Err(ShipError::Fenced(*fenced)),
            Some(Ended::Superseded(epoch)) => Err(self.superseded(*epoch).into()),
            None if state.sent_away.as_ref().is_some_and(|(one, _)| *one == connection) => {
                let why = state.sent_away.as_ref().map_or("", |(_, why)| why);
                let why = format!("{}: go to another process server: {why}", self.group);
                Err(EngineError::new(ErrorKind::Retry, why).with_source(wire::Elsewhere).into())
            }
            None if state.connection != connection => {
                let why = format!("another line has the stream of {}", self.group);
                Err(EngineError::new(ErrorKind::Retry, why).into())
            }
            None => Ok(()),
        }
    }

    fn superseded(&self, epoch: Epoch) -> EngineError {
        let why = format!("another process server has opened epoch {epoch} of {}", self.group);
        EngineError::new(ErrorKind::Retry, why)
    }

    pub(super) fn is_attached(&self) -> bool {
        self.state.lock().attached
    }

    pub(super) fn status(&self) -> Option<StreamStatus> {
        let mut state = self.state.lock();
        let tenure = state.tenure?;
        Some(StreamStatus {
            group: self.group,
            branch: tenure.branch,
            agent: tenure.agent,
            epoch: tenure.epoch,
            cached: state.cached,
            shipped: state.shipped.lsn,
            cached_bytes: state.entries.iter().map(|entry| entry.bytes).sum(),
            oldest: (state.ended.is_none() && (state.pressed || state.entries.iter().any(|entry| entry.complete)))
                .then(|| state.entries.front().map(|entry| entry.since))
                .flatten(),
            trouble: match &state.ended {
                Some(Ended::Fenced(fenced)) => ShipError::Fenced(*fenced).to_string(),
                Some(Ended::Superseded(epoch)) => format!("another process server has opened epoch {epoch}"),
                None => state.trouble.clone(),
            },
            attached: state.attached,
            attached_for: state.since.filter(|_| state.attached).map(|since| since.elapsed()),
            open: state.open && state.ended.is_none(),
            flow: state.flow.outward(),
            last_point: state
                .points
                .iter()
                .rfind(|point| point.consistent)
                .map(|point| PointInfo::retained(self.group, tenure.branch, point)),
        })
    }

    /// Stops shipping; what is cached stays.
    pub(super) async fn close(&self) {
        let task = self.task.lock().take();
        if let Some(task) = task {
            task.abort();
            let _ = task.await;
        }
        self.end_connections();
    }

    /// Its process server is gone: nothing is shipped or removed any more.
    pub(super) fn abandon(&self) {
        drop(self.task.lock().take());
    }

    fn end_connections(&self) {
        self.state.lock().connection += 1;
        self.note();
    }

    fn note(&self) {
        self.changed.send_replace(());
    }

    /// What is cached under a tenure that another process server has taken on for the same agent belongs to no history any more: the
    /// agent, which gives nothing up before the vault has it, has sent it there.
    async fn give_up_superseded(&self) {
        let superseded = |state: &State| matches!(state.ended, Some(Ended::Superseded(_))) && !state.entries.is_empty();
        if !superseded(&self.state.lock()) {
            return;
        }
        // Until the files are gone: another tenure's may have the same names.
        let _accepting = self.accepting.lock().await;
        let gone: Vec<Entry> = {
            let mut state = self.state.lock();
            if !superseded(&state) {
                return;
            }
            state.pressed = false;
            state.entries.drain(..).collect()
        };
        if let Err(error) = self.forget(gone).await {
            tracing::warn!(group = %self.group, %error, "cached records that belong to no history can't be removed yet");
        }
    }

    /// A newer epoch was seen. Whether that ends the tenure: one that was opened here meanwhile may be that epoch itself.
    fn end(&self, fenced: &Fenced) -> bool {
        let mut state = self.state.lock();
        let own = state.tenure.is_some_and(|tenure| tenure.agent == fenced.gateway) && fenced.promoted_to.is_none();
        if own && state.open && state.tenure.is_some_and(|tenure| tenure.epoch >= fenced.by_epoch) {
            return false;
        }
        tracing::warn!(group = %self.group, epoch = %fenced.by_epoch, by = %fenced.gateway, "the stream's tenure is over here");
        state.open = false;
        state.ended = Some(if own { Ended::Superseded(fenced.by_epoch) } else { Ended::Fenced(*fenced) });
        drop(state);
        self.note();
        true
    }

    /// One step of shipping: whether there is more.
    async fn step(&self) -> Result<bool, ShipError> {
        let mut held = self.writer.lock().await;
        {
            let state = self.state.lock();
            if state.ended.is_some() || state.tenure.is_none() {
                return Ok(false);
            }
        }
        if held.is_none() {
            self.reopen(&mut held).await?;
        }
        let Some(held) = held.as_mut() else { return Ok(false) };
        let look = self.state.lock().has_to_look();
        if look {
            held.writer.check_fence().await?;
        }
        let batch = self.batch();
        if batch.is_empty() {
            held.writer.drive_map_or_later().await?;
            self.well();
            return Ok(false);
        }
        let interval = self.interval(held, &batch).await?;
        let done = held.writer.append(&interval).await;
        self.state.lock().flow.totals.add(held.writer.take_totals());
        held.writer.drive_map_or_later().await?;
        let shipped = held.writer.shipped();
        let points: Vec<RetainedPoint> =
            done.iter().flat_map(|done| &done.points).map(PointInfo::to_retained).collect();
        let gone: Vec<Entry> = {
            let mut state = self.state.lock();
            if shipped.lsn > state.shipped.lsn {
                state.shipped = shipped;
            }
            state.points.extend(points);
            while state.points.len() > FRAME_POINTS_MAX {
                state.points.pop_front();
                state.points_before += 1;
            }
            let count = state.entries.iter().take_while(|entry| entry.last <= shipped.lsn).count();
            if done.is_ok() {
                state.trouble = String::new();
                state.pressed = false;
            }
            state.entries.drain(..count).collect()
        };
        self.note();
        self.forget(gone).await?;
        done.map(|_| true)
    }

    /// The cached frames that are shipped next, together: up to a point.
    fn batch(&self) -> Vec<Entry> {
        let state = self.state.lock();
        let mut batch: Vec<Entry> = Vec::new();
        let mut bytes = 0;
        for entry in &state.entries {
            if !batch.is_empty() && (entry.gap || bytes + entry.bytes > BATCH_BYTES) {
                return batch;
            }
            bytes += entry.bytes;
            batch.push(*entry);
            if entry.complete {
                return batch;
            }
        }
        // What no point ends waits for one, unless its room is wanted.
        if state.pressed { batch } else { Vec::new() }
    }

    /// The records of cached frames, and keys for the volumes that they introduce.
    async fn interval(&self, held: &mut Held, batch: &[Entry]) -> Result<Interval, ShipError> {
        let mut interval = Interval::default();
        for (index, entry) in batch.iter().enumerate() {
            let (cache, after) = (Arc::clone(&self.cache), entry.after);
            let body = blocking(move || cache.get(after)).await?;
            let records = Records::decode(&body).map_err(wire::refused)?;
            if index == 0 {
                interval.sizes.clone_from(&records.sizes);
            }
            let introduced = records.records.iter().filter(|record| record.op == EntryOp::Resize);
            let named: BTreeSet<VolumeId> =
                introduced.map(|record| record.volume).chain(records.sizes.iter().map(|(id, _)| *id)).collect();
            for volume in named.difference(&held.keyed.clone()) {
                held.admitted.vault.create_volume_keys(*volume).await.map_err(crate::cause::vault)?;
                held.keyed.insert(*volume);
            }
            interval.records.extend(wire::log_records(&body, &records)?);
            interval.last_lsn = records.last;
        }
        Ok(interval)
    }

    async fn forget(&self, gone: Vec<Entry>) -> Result<(), ShipError> {
        if gone.is_empty() {
            return Ok(());
        }
        let cache = Arc::clone(&self.cache);
        let freed = gone.iter().map(|entry| entry.bytes).sum();
        let removed = blocking(move || gone.iter().try_for_each(|entry| cache.remove(entry.after))).await;
        self.budget.free(freed);
        Ok(removed?)
    }

    /// Whatever was wrong is over.
    fn well(&self) {
        let was = std::mem::take(&mut self.state.lock().trouble);
        if !was.is_empty() {
            self.note();
        }
    }

    fn failed(&self, error: &EngineError, failures: usize) -> Duration {
        let passing = matches!(error.kind(), ErrorKind::Retry | ErrorKind::NoSpace | ErrorKind::Closed);
        let pauses = &self.retry.pauses;
        let pause = match passing {
            true => pauses.get(failures).or(pauses.last()).copied().unwrap_or(self.retry.probe),
            false => self.retry.probe,
        };
        tracing::warn!(group = %self.group, %error, pause_ms = pause.as_millis(), "shipping a stream failed: trying again");
        {
            let mut state = self.state.lock();
            state.trouble = error.to_string();
            *state.flow.failures.entry(error.kind().name()).or_default() += 1;
        }
        self.note();
        pause
    }
}

/// The newest points that a line is told of when it begins.
fn newest_points(writer: &BranchWriter, after: Lsn) -> VecDeque<RetainedPoint> {
    let mut points: VecDeque<RetainedPoint> = writer.points_after(after).iter().map(PointInfo::to_retained).collect();
    if points.is_empty() {
        points.extend(writer.last_point().map(PointInfo::to_retained));
    }
    while points.len() > FRAME_POINTS_MAX {
        points.pop_front();
    }
    points
}

fn attached(state: &mut State, opened: Opened) -> Attached {
    state.connection += 1;
    state.attached = true;
    state.since = Some(Instant::now());
    let points_told = state.points_before + state.points.len() as u64;
    Attached { connection: state.connection, opened, points_told }
}

/// The task that ships, until the stream is gone.
async fn work(stream: Weak<Stream>) {
    let mut failures = 0;
    loop {
        let Some(this) = stream.upgrade() else { return };
        let pause = match this.step().await {
            Ok(true) => {
                failures = 0;
                continue;
            }
            Ok(false) => {
                // Found out by a line that came and went, for example.
                if Arc::strong_count(&this) > 1 {
                    this.give_up_superseded().await;
                }
                MAPS
            }
            Err(ShipError::Fenced(fenced)) => {
                if this.end(&fenced) {
                    *this.writer.lock().await = None;
                    // A process server that is gone leaves its files to the one that comes after it.
                    if Arc::strong_count(&this) > 1 {
                        this.give_up_superseded().await;
                    }
                }
                MAPS
            }
            Err(ShipError::Engine(error)) => {
                failures += 1;
                let pause = this.failed(&error, failures - 1);
                drop(this);
                tokio::time::sleep(pause).await;
                continue;
            }
        };
        failures = 0;
        let wait = async {
            let _ = tokio::time::timeout(pause, this.work.notified()).await;
        };
        wait.await;
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    crate::blocking::run(work)
        .await
        .map_err(|error| EngineError::new(ErrorKind::Closed, "the process server is stopping").with_source(error))?
}
