//! The agent's end of a line: what takes the place of a [`BranchWriter`](crate::ship::BranchWriter) where there is no vault.
//!
//! [`RelayedWriter::append`] hands records over and waits for neither disk nor vault of the other side; how far those are
//! is heard by a task, which wakes the one that ships. At most [`WINDOW`] bytes are on their way to the process server's disk.
//!
//! A line that broke, or was ended by the other side, is over: [`RelayedWriter::landed`] says why, once and again, and the next
//! tenure is opened over another line. A frame whose writing was cancelled counts as a broken line.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use lifeboat_format::stream::recall::{Begin, BranchPlace};
use lifeboat_format::stream::{self, End, FrameKind, Opened as OpenedFrame, Progress};
use lifeboat_model::{BranchId, Epoch, GatewayId, GroupId, Lsn};
use tokio::io::{ReadHalf, WriteHalf};
use tokio::sync::Notify;
use tokio_util::task::AbortOnDropHandle;

use super::{Line, Relay, line, wire};
use crate::branch::{Origin, Position};
use crate::error::{EngineError, ErrorKind, Result};
use crate::points::PointInfo;
use crate::ship::{Appended, Interval, Open, Opened, ShipError};
use crate::sync::Lock;

/// Bytes that may be on their way to the process server's disk.
const WINDOW: u64 = 8 << 20;
/// How long a process server may take to open the tenure: it asks the vault.
const OPEN_PATIENCE: Duration = Duration::from_secs(60);

/// One tenure, opened and written by a process server for this agent.
#[derive(Debug)]
pub struct RelayedWriter {
    server: String,
    shipped: Position,
    /// Handed over.
    sent: Lsn,
    /// What was handed over and is on no disk over there, and its bytes.
    on_their_way: VecDeque<(Lsn, u64)>,
    heard: Arc<Heard>,
    out: Arc<tokio::sync::Mutex<Out>>,
    _tasks: [AbortOnDropHandle<()>; 2],
}

struct Out {
    line: WriteHalf<Line>,
    /// A frame is half written: nothing may follow it.
    amid: bool,
}

impl std::fmt::Debug for Out {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Out").field("amid", &self.amid).finish_non_exhaustive()
    }
}

/// What the other side said.
#[derive(Debug)]
struct Heard {
    said: Lock<Said>,
    wake: Arc<Notify>,
}

#[derive(Debug)]
struct Said {
    cached: Lsn,
    shipped: Position,
    points: Vec<PointInfo>,
    trouble: String,
    over: Option<Over>,
    news: bool,
}

/// Why a line is over.
#[derive(Clone, Debug)]
enum Over {
    Broken(String),
    Ended(End),
}

impl RelayedWriter {
    /// Opens a tenure through a process server; `known`: records up to here were in the vault as far as is known here.
    /// `wake` is told whenever the other side has said something.
    ///
    /// # Errors
    /// As [`BranchWriter::open`](crate::ship::BranchWriter::open); `Retry` when no process server answers.
    pub async fn open(
        relay: &Arc<dyn Relay>,
        group: GroupId,
        branch: BranchId,
        agent: GatewayId,
        open: Open,
        known: Lsn,
    ) -> Result<(Self, Opened), ShipError> {
        let first = |epoch, durable| stream::Open { group, branch, agent, epoch, durable, shipped: known }.encode();
        let begin = |origin| Begin { group, branch, agent, origin, at: known }.encode();
        let hello = match open {
            Open::New { origin: None } => first(None, Lsn::ZERO),
            Open::Resume { epoch, durable_lsn } => first(Some(epoch), durable_lsn),
            Open::New { origin: Some(Origin { at, point }) } => {
                begin(Some((BranchPlace { branch: at.branch, place: wire::place(at) }, point)))
            }
            Open::Continue => begin(None),
            Open::Unchallenged { .. } => {
                let why = format!("{group} is reached through a process server, which looks for itself who writes");
                return Err(EngineError::new(ErrorKind::Invalid, why).into());
            }
        };
        let hello = hello.map_err(wire::refused)?;
        let (line, server) = relay.connect().await?;
        let (mut input, mut output) = tokio::io::split(line);
        line::write(&mut output, &server, &hello).await?;
        let answered = tokio::time::timeout(OPEN_PATIENCE, answer(&mut input, &server)).await;
        let found = answered.unwrap_or_else(|_| {
            let why = format!("{server} did not open the tenure within {} s", OPEN_PATIENCE.as_secs());
            Err(EngineError::new(ErrorKind::Retry, why).into())
        })?;
        let points: Vec<PointInfo> =
            found.points.iter().map(|point| PointInfo::retained(group, branch, point)).collect();
        let end = wire::position(branch, found.end);
        let opened =
            Opened { epoch: found.epoch, end, last_point: points.last().cloned(), volumes: found.volumes.clone() };
        let said = Said { cached: found.cached, shipped: end, points, trouble: String::new(), over: None, news: true };
        let heard = Arc::new(Heard { said: Lock::new(said), wake: Arc::default() });
        let out = Arc::new(tokio::sync::Mutex::new(Out { line: output, amid: false }));
        let place = (group, branch, found.epoch);
        let listening = listen(input, (Arc::clone(relay), server.clone()), place, Arc::clone(&heard));
        let beating = beat(Arc::clone(&out), server.clone());
        let writer = Self {
            server,
            shipped: end,
            sent: found.cached,
            on_their_way: VecDeque::new(),
            heard,
            out,
            _tasks: [AbortOnDropHandle::new(tokio::spawn(listening)), AbortOnDropHandle::new(tokio::spawn(beating))],
        };
        Ok((writer, opened))
    }

    /// Is told whenever the other side has said something.
    #[must_use]
    pub fn wake(&self) -> Arc<Notify> {
        Arc::clone(&self.heard.wake)
    }

    /// The process server, for people.
    #[must_use]
    pub fn server(&self) -> &str {
        &self.server
    }

    /// How far the log goes in the vault, as far as was heard and told by [`Self::landed`].
    #[must_use]
    pub const fn shipped(&self) -> Position {
        self.shipped
    }

    /// How far it was handed over.
    #[must_use]
    pub const fn sent(&self) -> Lsn {
        self.sent
    }

    /// How far it is on the process server's disk.
    #[must_use]
    pub fn cached(&self) -> Lsn {
        self.heard.said.lock().cached
    }

    /// Why the other side ships nothing just now.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        let said = self.heard.said.lock();
        (!said.trouble.is_empty()).then(|| format!("{}: {}", self.server, said.trouble))
    }

    /// Whether more may be handed over.
    pub fn has_room(&mut self) -> bool {
        let cached = self.cached();
        while self.on_their_way.front().is_some_and(|(lsn, _)| *lsn <= cached) {
            self.on_their_way.pop_front();
        }
        self.on_their_way.iter().map(|(_, bytes)| bytes).sum::<u64>() < WINDOW
    }

    /// What has landed since the last call.
    ///
    /// # Errors
    /// Why the line is over; `Fenced` when the branch is somebody else's.
    pub fn landed(&mut self) -> Result<Option<Appended>, ShipError> {
        let mut said = self.heard.said.lock();
        if std::mem::take(&mut said.news) {
            self.shipped = said.shipped;
            let points = std::mem::take(&mut said.points);
            return Ok(Some(Appended {
                shipped: self.shipped,
                segments: 0,
                payload_bytes: 0,
                raw_bytes: 0,
                carried_bytes: 0,
                point: points.last().cloned(),
                points,
                insights: Vec::new(),
            }));
        }
        match &said.over {
            None => Ok(None),
            Some(over) => Err(over.error(&self.server)),
        }
    }

    /// Whether the line is over.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.heard.said.lock().over.is_some()
    }

    /// Hands records over: everything of `interval` after [`Self::sent`]. `push`: they are to be shipped although no point
    /// ends them.
    ///
    /// # Errors
    /// `Retry` when the line is over.
    pub async fn append(&mut self, interval: &Interval, push: bool) -> Result<(), ShipError> {
        if interval.last_lsn <= self.sent {
            return Ok(());
        }
        for (last, frame) in wire::frames(self.sent, interval, push)? {
            self.write(&frame).await?;
            self.on_their_way.push_back((last, frame.len() as u64));
            self.sent = last;
        }
        Ok(())
    }

    /// Hands records over, and waits until the vault has them.
    ///
    /// # Errors
    /// `Retry` when the line is over; `Fenced` when the branch is somebody else's.
    pub async fn land(&mut self, interval: &Interval) -> Result<(), ShipError> {
        self.append(interval, true).await?;
        let wake = self.wake();
        while self.shipped.lsn < interval.last_lsn {
            if self.landed()?.is_none() {
                wake.notified().await;
            }
        }
        Ok(())
    }

    /// Has the other side look for a newer epoch. What it finds is told by [`Self::landed`].
    ///
    /// # Errors
    /// `Retry` when the line is over.
    pub async fn look(&mut self) -> Result<(), ShipError> {
        self.write(&stream::look()).await
    }

    async fn write(&self, frame: &[u8]) -> Result<(), ShipError> {
        let over = self.heard.said.lock().over.clone();
        if let Some(over) = over {
            return Err(over.error(&self.server));
        }
        match write(&self.out, &self.server, frame).await {
            Ok(()) => Ok(()),
            Err(error) => {
                // What the other side said last says more than that it no longer listens.
                let mut said = self.heard.said.lock();
                let over = said.over.get_or_insert_with(|| Over::Broken(error.to_string())).clone();
                Err(over.error(&self.server))
            }
        }
    }
}

impl Over {
    fn error(&self, server: &str) -> ShipError {
        match self {
            Self::Broken(why) => EngineError::new(ErrorKind::Retry, why.clone()).into(),
            Self::Ended(end) => wire::ended(server, end),
        }
    }
}

async fn write(out: &tokio::sync::Mutex<Out>, server: &str, frame: &[u8]) -> Result<()> {
    let mut out = out.lock().await;
    if std::mem::replace(&mut out.amid, true) {
        return Err(EngineError::new(ErrorKind::Retry, format!("the line to {server} was left amid a frame")));
    }
    line::write(&mut out.line, server, frame).await?;
    out.amid = false;
    Ok(())
}

async fn answer(input: &mut ReadHalf<Line>, server: &str) -> Result<OpenedFrame, ShipError> {
    loop {
        let allowed = |kind| matches!(kind, FrameKind::Opened | FrameKind::End | FrameKind::Beat);
        let received = line::read(input, server, allowed).await?;
        match received.kind {
            FrameKind::Opened => return Ok(OpenedFrame::decode(&received.body()).map_err(wire::refused)?),
            FrameKind::End => {
                return Err(wire::ended(server, &End::decode(&received.body()).map_err(wire::refused)?));
            }
            _ => {}
        }
    }
}

async fn listen(
    mut input: ReadHalf<Line>,
    (relay, server): (Arc<dyn Relay>, String),
    (group, branch, epoch): (GroupId, BranchId, Epoch),
    heard: Arc<Heard>,
) {
    loop {
        let over = match hear(&mut input, &server).await {
            Ok(Ok(progress)) if follows(&progress, epoch, &heard.said.lock()) => {
                let mut said = heard.said.lock();
                let news = progress.shipped != wire::place(said.shipped) || !progress.points.is_empty();
                said.news |= news;
                said.cached = said.cached.max(progress.cached);
                said.shipped = wire::position(branch, progress.shipped);
                said.points.extend(progress.points.iter().map(|point| PointInfo::retained(group, branch, point)));
                said.trouble = progress.trouble;
                None
            }
            Ok(Ok(_)) => Some(Over::Broken(format!("{server} takes back what it had said"))),
            Ok(Err(end)) => {
                if end.kind == wire::ELSEWHERE {
                    relay.sent_away(&server);
                }
                Some(Over::Ended(end))
            }
            Err(error) => Some(Over::Broken(error.to_string())),
        };
        let ends = over.is_some();
        if let Some(over) = over {
            heard.said.lock().over.get_or_insert(over);
        }
        heard.wake.notify_one();
        if ends {
            return;
        }
    }
}

/// Whether a Progress goes on from what was said before.
fn follows(progress: &Progress, epoch: Epoch, said: &Said) -> bool {
    progress.shipped.epoch <= epoch && progress.shipped.lsn >= said.shipped.lsn && progress.cached >= said.cached
}

async fn hear(input: &mut ReadHalf<Line>, server: &str) -> Result<Result<Progress, End>> {
    loop {
        let allowed = |kind| matches!(kind, FrameKind::Progress | FrameKind::End | FrameKind::Beat);
        let received = line::read(input, server, allowed).await?;
        match received.kind {
            FrameKind::Progress => return Progress::decode(&received.body()).map(Ok).map_err(wire::refused),
            FrameKind::End => return End::decode(&received.body()).map(Err).map_err(wire::refused),
            _ => {}
        }
    }
}

/// Tells the other side that this one is there. A line that is over is found out by who listens.
async fn beat(out: Arc<tokio::sync::Mutex<Out>>, server: String) {
    loop {
        tokio::time::sleep(line::BEAT).await;
        if write(&out, &server, &stream::beat()).await.is_err() {
            return;
        }
    }
}
