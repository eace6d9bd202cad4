//! The task that places recovery points and ships the log, one for each tenure.
//!
//! - *Points*: at every interval in which something was written, a point record takes its place in the write order. An idle
//!   group places none and sends no request.
//! - *Shipping*: what is durable, up to the newest point, interval by interval, in order.
//! - *The journal is full*: what is durable is shipped without a point, which would need room itself. A collapse gives records
//!   up, and with them the points among them: whoever waits for one is told.
//! - *The vault is away*: points are still placed (the history keeps its grain), shipping is tried again with growing
//!   pauses, health says so.
//! - *Another gateway has the branch*: the group becomes `Fenced`, the task ends, the tail stays in the journal.
//! - *Cancellation*: the task may be dropped at any await; whatever had landed is found again when the tenure is resumed.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};
use std::time::Duration;

use lifeboat_model::{GatewayId, Lsn, PointId, PointKind};
use lifeboat_vault::{TRACE_TARGET, traced};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::field::Empty;

use super::running::{self, Running};
use super::{Group, Phase, closed, place, ship_settings};
use crate::error::{EngineError, ErrorKind, Result};
use crate::journal::ReadHint;
use crate::planted::{self, Bug};
use crate::points::PointInfo;
use crate::reach::Writer;
use crate::record::{Op, PointMark};
use crate::ship::{Appended, Fenced, Interval, Open, ShipError};
use crate::write_path::Submitted;
use lifeboat_model::state::Health;

/// Payload read from the journal at a time: an interval may be larger than memory.
const READ_BYTES: usize = 32 << 20;
/// Points that may wait to be placed or to land, at most.
const COMMANDS_MAX: usize = 64;
/// How soon a point is tried again for which the journal has no room.
const NO_ROOM_PAUSE: Duration = Duration::from_millis(100);
/// Failures after which health is more than a warning.
const PATIENT_FAILURES: usize = 8;

pub(super) type Reply = oneshot::Sender<Result<PointInfo>>;

#[derive(Debug)]
pub(super) enum Command {
    Point {
        kind: PointKind,
        label: String,
        /// Told the point's place in the write order once it has it.
        placed: Option<oneshot::Sender<Lsn>>,
        reply: Reply,
    },
    Release {
        reply: Reply,
    },
    /// A point now, for whoever has placed records of its own. The reply is dropped.
    Ship {
        reply: Reply,
    },
    /// Look for a newer epoch. The reply is dropped: what is found shows in the group's state.
    Doubt {
        reply: Reply,
    },
}

/// The handle of the task.
#[derive(Debug)]
pub(super) struct Shipping {
    commands: mpsc::Sender<Command>,
    wake: Arc<Notify>,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
    copier: tokio::task::JoinHandle<()>,
}

impl Shipping {
    pub(super) fn wake(&self) {
        self.wake.notify_one();
    }
}

impl Group {
    /// Starts the task; without a writer it claims the tenure first, as soon as the vault is there.
    pub(super) fn start_shipping(self: &Arc<Self>, writer: Option<Writer>) {
        self.begin_insight();
        let (commands, inbox) = mpsc::channel(COMMANDS_MAX);
        let wake = Arc::new(Notify::new());
        let stop = CancellationToken::new();
        let shipper = Shipper {
            group: Arc::downgrade(self),
            writer,
            inbox,
            wake: Arc::clone(&wake),
            stop: stop.clone(),
            wanted: VecDeque::new(),
            waiting: Vec::new(),
            releasing: None,
            no_room: false,
            hint: None,
            doubted: false,
            failures: 0,
            next_point: Instant::now(),
            next_try: Instant::now(),
        };
        let task = tokio::spawn(shipper.run());
        self.start_app_points(stop.clone());
        let copier = self.start_copier(stop.clone());
        *self.shipping.lock() = Some(Shipping { commands, wake, stop, task, copier });
    }

    /// Ends the task at its next await.
    pub(super) async fn stop_shipping(&self) {
        let Some(shipping) = self.shipping.lock().take() else { return };
        shipping.stop.cancel();
        let _ = shipping.task.await;
        let _ = shipping.copier.await;
    }

    /// Sends a command to the task.
    pub(super) fn command(&self, make: impl FnOnce(Reply) -> Command) -> Result<oneshot::Receiver<Result<PointInfo>>> {
        let (reply, answer) = oneshot::channel();
        self.expect_phase(Phase::Active, "given a point")?;
        let shipping = self.shipping.lock();
        let shipping = shipping.as_ref().ok_or_else(|| closed(self.config.group))?;
        match shipping.commands.try_send(make(reply)) {
            Ok(()) => Ok(answer),
            Err(mpsc::error::TrySendError::Closed(_)) => Err(closed(self.config.group)),
            Err(mpsc::error::TrySendError::Full(_)) => Err(EngineError::new(
                ErrorKind::Retry,
                format!(
                    "{} has {COMMANDS_MAX} points waiting for the vault already: try again when it has caught up",
                    self.config.group
                ),
            )),
        }
    }

    pub(super) fn want_release(&self, wanted: bool) {
        self.observed.lock().release_wanted = wanted;
    }
}

struct Shipper {
    group: Weak<Group>,
    writer: Option<Writer>,
    inbox: mpsc::Receiver<Command>,
    wake: Arc<Notify>,
    stop: CancellationToken,
    /// Points that were asked for and have no place yet.
    wanted: VecDeque<Wanted>,
    /// Who waits for a point to land: LSN of its record.
    waiting: Vec<(Lsn, Reply)>,
    /// The journal had no room for a point: only shipping makes some.
    no_room: bool,
    releasing: Option<(Lsn, Reply)>,
    hint: Option<ReadHint>,
    doubted: bool,
    failures: usize,
    next_point: Instant,
    next_try: Instant,
}

/// A point that was asked for.
struct Wanted {
    kind: PointKind,
    label: String,
    /// Is told the point's place.
    placed: Option<oneshot::Sender<Lsn>>,
    reply: Reply,
}

enum Round {
    GoOn,
    End,
}

impl Shipper {
    async fn run(mut self) {
        let stop = self.stop.clone();
        tokio::select! {
            biased;
            () = stop.cancelled() => {}
            () = self.work() => {}
        }
        let group = self.group.upgrade().map(|group| group.config.group);
        for reply in self.replies() {
            if let Some(group) = group {
                let _ = reply.send(Err(closed(group)));
            }
        }
    }

    /// Everybody who waits for an answer.
    fn replies(&mut self) -> impl Iterator<Item = Reply> {
        let wanted = self.wanted.drain(..).map(|wanted| wanted.reply);
        wanted.chain(self.waiting.drain(..).chain(self.releasing.take()).map(|(_, reply)| reply))
    }

    async fn work(&mut self) {
        loop {
            let command = self.next_event().await;
            let Some(group) = self.group.upgrade() else { return };
            let Some(running) = group.running.lock().clone() else { return };
            if let Err(error) = self.place_points(&group, &running, command).await {
                // The write path is poisoned or closed: nothing more will be written, what is durable still ships.
                tracing::warn!(group = %group.config.group, %error, "no recovery point could be placed");
            }
            self.give_up_collapsed(&group, &running);
            if Instant::now() < self.next_try {
                continue;
            }
            match self.ship(&group, &running).await {
                Ok(Round::GoOn) => self.succeeded(&group),
                Ok(Round::End) => return,
                Err(ShipError::Fenced(fenced)) => {
                    self.fenced(&group, &running, &fenced);
                    return;
                }
                Err(ShipError::Engine(error)) => self.failed(&group, error),
            }
        }
    }

    /// Waits for the next interval, command or attempt.
    async fn next_event(&mut self) -> Option<Command> {
        let behind = self.failures > 0;
        let until = if behind { self.next_point.min(self.next_try) } else { self.next_point };
        tokio::select! {
            biased;
            command = self.inbox.recv() => command,
            () = self.wake.notified() => None,
            () = heard(self.writer.as_ref()) => None,
            () = tokio::time::sleep_until(until) => None,
        }
    }

    async fn place_points(&mut self, group: &Group, running: &Running, command: Option<Command>) -> Result<()> {
        match command {
            Some(Command::Point { kind, label, placed, reply }) => {
                self.wanted.push_back(Wanted { kind, label, placed, reply });
                self.next_try = Instant::now();
            }
            Some(Command::Release { reply }) => {
                let (kind, label) = (PointKind::Final, String::new());
                self.wanted.push_back(Wanted { kind, label, placed: None, reply });
                self.next_try = Instant::now();
            }
            Some(Command::Ship { reply }) => {
                drop(reply);
                self.next_point = Instant::now();
            }
            Some(Command::Doubt { reply }) => {
                drop(reply);
                self.doubted = true;
                self.next_try = Instant::now();
            }
            None => {}
        }
        self.no_room = false;
        while let Some(wanted) = self.wanted.pop_front() {
            // Whoever asked has given up waiting, and the group is written to again.
            if wanted.kind == PointKind::Final && !group.observed.lock().release_wanted {
                continue;
            }
            let Some(lsn) = self.place(group, running, wanted.kind, &wanted.label).await? else {
                self.wanted.push_front(wanted);
                break;
            };
            if let Some(placed) = wanted.placed {
                let _ = placed.send(lsn);
            }
            if wanted.kind == PointKind::Final {
                self.releasing = Some((lsn, wanted.reply));
            } else {
                self.waiting.push((lsn, wanted.reply));
            }
        }
        if Instant::now() >= self.next_point {
            let interval = group.settings.lock().point_interval;
            self.next_point = Instant::now() + interval;
            self.note_churn(group, running, interval);
            let now = group.steady.now();
            if point_due(group, running) {
                self.place(group, running, PointKind::CrashConsistent, "").await?;
            } else {
                let last = running.path.figures().last;
                group.observed.lock().note_idle(now, last);
            }
        }
        if self.no_room {
            self.next_point = self.next_point.min(Instant::now() + NO_ROOM_PAUSE);
        }
        Ok(())
    }

    /// Gives a point its place in the write order; none when the journal has no room for it just now.
    async fn place(&mut self, group: &Group, running: &Running, kind: PointKind, label: &str) -> Result<Option<Lsn>> {
        let (time, placed) = (group.config.reach.now(), group.steady.now());
        let id = PointId::from_bytes(group.new_id()?);
        let mark = PointMark { id, time, kind, label: label.to_owned(), consistent: true };
        let lsn = match running.path.submit_control(&Op::Point(mark)) {
            Ok(Submitted::Wait) => {
                self.no_room = true;
                return Ok(None);
            }
            // The same on a full disk: what is durable need not wait for somebody to free some space.
            Err(error) if error.kind() == ErrorKind::NoSpace => {
                self.no_room = true;
                return Ok(None);
            }
            Err(error) => return Err(error),
            Ok(Submitted::Accepted(lsn, ack)) => {
                ack.await.map_err(|_| running::gone())??;
                lsn
            }
        };
        let accepted = running.path.figures().bytes_accepted;
        group.observed.lock().note_placed(lsn, placed, accepted);
        Ok(Some(lsn))
    }

    /// Tells those whose points were given up with a full journal. A segment that may have landed may hold some of them.
    fn give_up_collapsed(&mut self, group: &Group, running: &Running) {
        let collapsed = running.path.collapsed();
        let kept = self.writer.as_ref().map_or(Lsn::ZERO, Writer::may_land);
        if collapsed <= kept {
            return;
        }
        let given_up = |lsn: Lsn| lsn > kept && lsn <= collapsed;
        let (gone, rest) = std::mem::take(&mut self.waiting).into_iter().partition(|(lsn, _)| given_up(*lsn));
        self.waiting = rest;
        let gone: Vec<(Lsn, Reply)> = gone;
        for (_, reply) in gone.into_iter().chain(self.releasing.take_if(|(lsn, _)| given_up(*lsn))) {
            let _ =
                reply.send(Err(group.in_resync("the point was given up with the full journal; take another one then")));
        }
    }

    fn note_churn(&self, group: &Group, running: &Running, interval: Duration) {
        let accepted = running.path.figures().bytes_accepted;
        let mut observed = group.observed.lock();
        let delta = u32::try_from(accepted.saturating_sub(observed.bytes_seen)).unwrap_or(u32::MAX);
        observed.bytes_seen = accepted;
        let now = f64::from(delta) / interval.as_secs_f64().max(0.001);
        observed.churn = if observed.churn == 0.0 { now } else { observed.churn.mul_add(0.7, now * 0.3) };
    }

    /// Ships everything up to the newest point that was placed.
    async fn ship(&mut self, group: &Arc<Group>, running: &Arc<Running>) -> Result<Round, ShipError> {
        self.take_news(group, running).await?;
        let placed = group.observed.lock().placed.map(|(lsn, _)| lsn);
        // A journal without room for a point is made room in by shipping what it holds.
        let target = if self.no_room { Some(running.path.figures().last) } else { placed };
        let target = match target {
            Some(target) => target,
            None if self.doubted => Lsn::ZERO,
            None => return Ok(Round::GoOn),
        };
        if self.writer.is_none() {
            self.writer = Some(claim(group, running).await?);
            self.take_news(group, running).await?;
        }
        let Some(writer) = self.writer.as_mut() else { return Ok(Round::GoOn) };
        writer.set(ship_settings(&group.settings.lock()));
        if let Some(blocks) = group.to_carry.lock().take() {
            writer.carry(blocks);
        }
        if std::mem::take(&mut self.doubted) {
            writer.check_fence().await?;
        }
        if writer.sent() < target {
            running::flush(&running.path).await.map_err(ShipError::Engine)?;
        }
        while writer.sent() < target
            && (target > running.path.collapsed() || writer.is_unsettled())
            && writer.has_room()
        {
            let interval =
                read_interval(running, writer.sent(), target, &mut self.hint).await.map_err(ShipError::Engine)?;
            let span = tracing::info_span!(
                target: TRACE_TARGET, "group.seal", lifeboat.group = %group.config.group,
                lifeboat.epoch = writer.shipped().epoch.0, lifeboat.records = interval.records.len(),
                lifeboat.lsn = interval.last_lsn.0, lifeboat.segments = Empty, lifeboat.bytes = Empty,
                otel.status_message = Empty,
            );
            let appended = traced(span.clone(), writer.append(&interval, self.no_room)).await;
            group.note_put(writer.take_totals());
            let appended = appended?;
            if let Some(appended) = &appended {
                span.record("lifeboat.segments", appended.segments).record("lifeboat.bytes", appended.payload_bytes);
            }
            writer.drive_map().await?;
            if let Some(appended) = appended {
                landed(&mut self.waiting, group, running, &appended).await?;
            }
        }
        if let Some(writer) = self.writer.as_mut() {
            writer.drive_map().await?;
        }
        self.finish_release(group)
    }

    /// What has landed that was handed over before. A tenure that is over is left, so that the next one is opened.
    async fn take_news(&mut self, group: &Arc<Group>, running: &Arc<Running>) -> Result<(), ShipError> {
        while let Some(writer) = self.writer.as_mut() {
            match writer.landed() {
                Ok(Some(appended)) => landed(&mut self.waiting, group, running, &appended).await?,
                Ok(None) => break,
                Err(over) => {
                    self.writer = None;
                    return Err(over);
                }
            }
        }
        Ok(())
    }

    /// Ends the tenure once the final point has landed.
    fn finish_release(&mut self, group: &Group) -> Result<Round, ShipError> {
        let shipped = self.writer.as_ref().map_or(Lsn::ZERO, |writer| writer.shipped().lsn);
        let landed = self.releasing.as_ref().is_some_and(|(lsn, _)| *lsn <= shipped);
        if !landed {
            return Ok(Round::GoOn);
        }
        let Some((lsn, reply)) = self.releasing.take() else { return Ok(Round::GoOn) };
        let point = group.observed.lock().last_point.clone().filter(|point| point.lsn >= lsn);
        if point.is_none() {
            let _ = reply.send(Err(group.in_resync("release the group again then")));
            return Ok(Round::GoOn);
        }
        let at = self.writer.as_ref().map(Writer::shipped);
        let mut released = false;
        group
            .change_state(|state| {
                // Under the state's lock, as is the caller who gives up waiting: one of the two decides.
                released = group.observed.lock().release_wanted;
                if released {
                    state.phase = Phase::Standby;
                    if let Some(at) = at {
                        state.shipped = place(at);
                    }
                }
            })
            .map_err(ShipError::Engine)?;
        if !released {
            return Ok(Round::GoOn);
        }
        let answer = point.ok_or_else(|| closed(group.config.group));
        let _ = reply.send(answer);
        Ok(Round::End)
    }

    fn succeeded(&mut self, group: &Group) {
        self.failures = 0;
        let mut observed = group.observed.lock();
        observed.failures = 0;
        // What was handed over waits at the process server.
        observed.shipping_trouble = self.writer.as_ref().and_then(Writer::trouble).map(|why| (Health::Warning, why));
    }

    fn failed(&mut self, group: &Group, error: EngineError) {
        self.writer.take_if(|writer| writer.is_over());
        let retry = group.settings.lock().retry.clone();
        let passing = may_pass(error.kind());
        let pause = if passing {
            retry.pauses.get(self.failures).or(retry.pauses.last()).copied().unwrap_or(retry.probe)
        } else {
            retry.probe
        };
        self.failures += 1;
        self.next_try = Instant::now() + pause;
        let health = match error.kind() {
            ErrorKind::Retry if self.failures <= PATIENT_FAILURES => Health::Warning,
            _ => Health::Critical,
        };
        tracing::warn!(group = %group.config.group, %error, pause_ms = pause.as_millis(), "shipping failed: trying again");
        let mut observed = group.observed.lock();
        observed.failures = self.failures;
        *observed.flow.failures.entry(error.kind().name()).or_default() += 1;
        let how = if passing {
            "shipping waits, writes go on"
        } else {
            "shipping has stopped until somebody helps, writes go on"
        };
        observed.shipping_trouble = Some((health, format!("{how}: {error}")));
        drop(observed);
        if passing {
            return;
        }
        // Nobody waits for a person who may come tomorrow. What has its place in the write order lands then all the same.
        for reply in self.replies() {
            let what = format!("nothing of {} reaches the vault until somebody helps: {error}", group.config.group);
            let _ = reply.send(Err(EngineError::new(error.kind(), what)));
        }
    }

    fn fenced(&mut self, group: &Group, running: &Running, fenced: &Fenced) {
        // Nobody may see the state and find the volumes writable.
        group.observed.lock().fenced_by = Some(fenced.gateway.to_string());
        running.path.set_read_only(Some(group.fenced_message()));
        if let Err(error) = group.note_fenced(fenced) {
            tracing::error!(group = %group.config.group, %error, "the group is fenced, and its state could not be saved");
        }
        for reply in self.replies() {
            let _ = reply.send(Err(EngineError::new(ErrorKind::Fenced, group.fenced_message())));
        }
    }
}

/// Waits until a writer to whom records were handed over has something to say.
async fn heard(writer: Option<&Writer>) {
    match writer.and_then(Writer::news) {
        Some(news) => news.notified().await,
        None => std::future::pending().await,
    }
}

/// The vault has more.
async fn landed(
    waiting: &mut Vec<(Lsn, Reply)>,
    group: &Arc<Group>,
    running: &Arc<Running>,
    appended: &Appended,
) -> Result<(), ShipError> {
    {
        let mut saved = group.state.lock();
        saved.state.shipped = place(appended.shipped);
        saved.shipped_moved = true;
    }
    note_landed(group, running, appended);
    group.note_insight(appended.shipped.branch, &appended.insights);
    answer(waiting, group, appended);
    if let Some(point) = appended.points.iter().rfind(|point| point.consistent) {
        group.end_resync(running, point.lsn).await.map_err(ShipError::Engine)?;
    }
    Ok(())
}

/// Whether an error of shipping may pass by itself: what may is tried again soon.
const fn may_pass(kind: ErrorKind) -> bool {
    match kind {
        ErrorKind::Retry | ErrorKind::NoSpace | ErrorKind::Closed => true,
        ErrorKind::Invalid
        | ErrorKind::NotFound
        | ErrorKind::Denied
        | ErrorKind::Fenced
        | ErrorKind::Damaged
        | ErrorKind::Tampered
        | ErrorKind::WrongKey
        | ErrorKind::NewerFormat => false,
    }
}

/// Whether there is something that no point stands for yet.
fn point_due(group: &Group, running: &Running) -> bool {
    let figures = running.path.figures();
    let shipped = group.state.lock().state.shipped.lsn;
    let placed = group.observed.lock().placed.map_or(shipped, |(lsn, _)| lsn);
    // After a collapse the points before it are gone: one behind it says when the vault is back.
    figures.last > placed || (placed <= figures.collapsed && shipped < figures.collapsed)
}

/// What landed counts from here on. Only a consistent point holds what was written before it.
fn note_landed(group: &Group, running: &Running, appended: &Appended) {
    let figures = running.path.figures();
    let mut observed = group.observed.lock();
    let Some(point) = appended.points.iter().rfind(|point| point.consistent) else {
        if appended.point.is_some() && observed.placed.is_some_and(|(lsn, _)| lsn <= appended.shipped.lsn) {
            observed.bytes_landed = figures.bytes_accepted;
        }
        return;
    };
    while let Some(landed) = observed.open_points.pop_front_if(|open| open.lsn <= point.lsn) {
        observed.bytes_landed = observed.bytes_landed.max(landed.bytes_accepted);
    }
    observed.last_point = Some(point.clone());
}

/// Tells those who waited for a point that it is in the vault, or that it never will be.
fn answer(waiting: &mut Vec<(Lsn, Reply)>, group: &Group, appended: &Appended) {
    let (landed, rest): (Vec<_>, Vec<_>) =
        std::mem::take(waiting).into_iter().partition(|(lsn, _)| *lsn <= appended.shipped.lsn);
    *waiting = rest;
    for (lsn, reply) in landed {
        let point = appended.points.iter().find(|point| point.lsn == lsn && point.consistent).cloned();
        let _ = reply.send(point.ok_or_else(|| group.in_resync("take the point again once it is done")));
    }
}

/// Claims the tenure that could not be claimed when the group was opened.
async fn claim(group: &Group, running: &Running) -> Result<Writer, ShipError> {
    let (branch, epoch, known) = {
        let saved = group.state.lock();
        (saved.state.branch, saved.state.epoch, saved.state.shipped.lsn)
    };
    let open = Open::Resume { epoch, durable_lsn: running.path.durable() };
    let gateway: GatewayId = group.config.gateway;
    let settings = ship_settings(&group.settings.lock());
    let (writer, opened) = group.config.reach.open(group.config.group, branch, gateway, open, settings, known).await?;
    group.tenure_opened(&opened).map_err(ShipError::Engine)?;
    Ok(writer)
}

/// The next records after `after`: up to a point, or as much as fits into memory.
async fn read_interval(running: &Running, after: Lsn, upto: Lsn, hint: &mut Option<ReadHint>) -> Result<Interval> {
    let (path, mut at) = (Arc::clone(&running.path), *hint);
    let (chunk, at) =
        crate::blocking::run_behind(move || path.read_log(after, upto, READ_BYTES, &mut at).map(|chunk| (chunk, at)))
            .await
            .map_err(|_| running::gone())??;
    *hint = at;
    let last_lsn = chunk.records.last().map_or(after, |record| record.lsn);
    let mut records = chunk.records;
    if planted::is(Bug::PointMissesARecord) && records.len() > 2 {
        records.remove(records.len() - 2);
    }
    Ok(Interval { records, last_lsn, sizes: chunk.sizes })
}
