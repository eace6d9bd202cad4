//! What an agent is told: a line beside its stream, for as long as the agent runs, whatever state its group is in.
//!
//! ```text
//! agent: attend(group) ══ Attend, Report, Answer ══> Attendant: status, ask
//!                     <══════════ Ask, Beat ═══════
//! ```
//! The agent reports how its group is whenever that changes. What it is asked is done by its own group, with the group's own rules:
//! [`Group::release`] stops writes, drains and says so, or serves writes again when its time is up. What was begun goes on when the
//! line breaks, and asking again waits for it; a point, and a comparison, that nobody waits for any more is let go. So nothing has
//! to be remembered about what was asked, on either side, and a process server that dies forgets nothing.
//!
//! What an agent does by itself, it does by its policy's rules as it was told them last, and by the settings of its own machine: those are
//! [`Ruled`]'s to bring together. Programs that hold applications are of that machine too. No name of one comes over a line.
//!
//! One line counts for each group: a newer one takes an older one's place. What was asked on a line that is over is answered with
//! `Retry`: whether it was done shows in the next report.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use lifeboat_format::local::ResyncCause;
use lifeboat_format::map::RetainedPoint;
use lifeboat_format::stream::{
    self, Abilities, Answer, Ask, Asked, Attend, Done, End, FrameKind, Part, Refusal, Report, Reported, ReportedResync,
    Rules,
};
use lifeboat_model::state::{GroupState, Health};
use lifeboat_model::{BranchId, GatewayId, GroupId, PointId, PointKind};
use tokio::io::{ReadHalf, WriteHalf};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{Line, line, wire};
use crate::error::{EngineError, ErrorKind, Result};
use crate::group::{Group, GroupStatus, Progress, RehydrateMode, Rehydrated, ResyncStatus};
use crate::points::PointInfo;
use crate::sync::Lock;

/// What may be under way on one line, and how many answers may wait to be written.
const ASKS_MAX: usize = 64;
/// How often an agent looks whether there is something to report.
const LOOK: Duration = Duration::from_millis(200);

/// What is done for whoever is at the other end of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Duty {
    /// Everything but barriers.
    Agent,
    /// Parts of barriers, and nothing else.
    Barriers,
}

impl Duty {
    fn covers(self, what: &Asked) -> bool {
        matches!(what, Asked::Barrier { .. }) == (self == Self::Barriers)
    }
}

/// The settings of an agent's own machine, which go before its policy's rules.
pub trait Ruled: Send + Sync + fmt::Debug {
    /// What the agent can do.
    fn abilities(&self) -> Abilities;

    /// Goes by these rules from now on, and remembers them over restarts.
    fn follow(&self, group: &Group, rules: Rules);
}

/// Reports how `group` is, and does what a process server asks, until the line is over. Gives why it is. `ruled`: on a line that speaks
/// [`PROTOCOL_RULED`](super::PROTOCOL_RULED).
pub async fn attend(
    group: &Arc<Group>,
    agent: GatewayId,
    line: Line,
    server: &str,
    ruled: Option<Arc<dyn Ruled>>,
) -> EngineError {
    listen(group, agent, line, server, (Duty::Agent, ruled)).await
}

/// Takes part in the barriers of whoever is at the other end, until the line is over; gives why it is. `machine`: the agent or
/// gateway that has the group.
pub async fn take_part(group: &Arc<Group>, machine: GatewayId, line: Line, coordinator: &str) -> EngineError {
    let over = listen(group, machine, line, coordinator, (Duty::Barriers, None)).await;
    group.leave_barriers();
    over
}

async fn listen(
    group: &Arc<Group>,
    machine: GatewayId,
    line: Line,
    server: &str,
    (duty, ruled): (Duty, Option<Arc<dyn Ruled>>),
) -> EngineError {
    let (mut input, mut output) = tokio::io::split(line);
    let (answers, mut answered) = mpsc::channel(ASKS_MAX);
    let abilities = ruled.as_ref().map(|ruled| ruled.abilities());
    let hearing = hear(group, &mut input, server, (duty, ruled), answers);
    let speaking = async {
        let attend = Attend { group: group.id(), agent: machine, abilities };
        line::write(&mut output, server, &attend.encode().map_err(wire::refused)?).await?;
        report(group, &mut output, server, duty, &mut answered).await
    };
    let never: Result<std::convert::Infallible> = tokio::select! {
        over = hearing => over,
        over = speaking => over,
    };
    match never {
        Err(error) => error,
    }
}

async fn hear(
    group: &Arc<Group>,
    input: &mut ReadHalf<Line>,
    server: &str,
    (duty, ruled): (Duty, Option<Arc<dyn Ruled>>),
    answers: mpsc::Sender<Answer>,
) -> Result<std::convert::Infallible> {
    let mut under_way = JoinSet::new();
    loop {
        let allowed = |kind| matches!(kind, FrameKind::Ask | FrameKind::Beat | FrameKind::End);
        let received = line::read(input, server, allowed).await?;
        while under_way.try_join_next().is_some() {}
        match received.kind {
            FrameKind::Ask => {
                let Ask { number, what } = Ask::decode(&received.body()).map_err(wire::refused)?;
                if duty == Duty::Agent {
                    tracing::info!(group = %group.id(), server, ?what, "a process server asks");
                }
                let (group, answer, ruled) = (Arc::clone(group), answers.clone(), ruled.clone());
                let outlives = !matches!(what, Asked::Point { .. } | Asked::Barrier { .. } | Asked::Compare { .. });
                let doing = async move {
                    let outcome = if duty.covers(&what) {
                        perform(&group, what, ruled.as_deref()).await
                    } else {
                        Err(EngineError::new(ErrorKind::Denied, "that isn't asked for on this line"))
                    };
                    let outcome = outcome.map_err(|error| refusal(&error));
                    let _ = answer.send(Answer { number, outcome }).await;
                };
                if outlives {
                    // Half released it would refuse writes, and nobody would be there to say so; a pass is left in no write.
                    tokio::spawn(doing);
                } else if under_way.len() < ASKS_MAX {
                    under_way.spawn(doing);
                } else {
                    let text = format!("{ASKS_MAX} things are under way already: try again");
                    let refusal = Refusal { kind: wire::code(ErrorKind::Retry), text };
                    let _ = answers.send(Answer { number, outcome: Err(refusal) }).await;
                }
            }
            FrameKind::End => {
                let end = End::decode(&received.body()).map_err(wire::refused)?;
                return Err(EngineError::new(wire::kind(end.kind), format!("{server}: {}", end.text)));
            }
            _ => {}
        }
    }
}

async fn perform(group: &Arc<Group>, what: Asked, ruled: Option<&dyn Ruled>) -> Result<Done> {
    match what {
        Asked::Point { kind, label } => group.take_point(kind, &label).await.map(|point| at(&point)),
        Asked::Release { patience_ms } => {
            group.release(Duration::from_millis(patience_ms)).await.map(|point| at(&point))
        }
        Asked::Resume => group.resume().await.map(|()| Done::default()),
        Asked::Resync { now } => {
            if now {
                group.resync_now();
            } else {
                group.resync_in_window();
            }
            Ok(Done::default())
        }
        Asked::Doubt => group.doubt().map(|()| Done::default()),
        Asked::Rehydrate { branch, full } => {
            let mode = if full { RehydrateMode::Full } else { RehydrateMode::Delta };
            let Rehydrated { point, blocks_compared, blocks_moved, bytes_fetched, orphan } =
                group.rehydrate(branch, mode).await?;
            Ok(Done { orphan, blocks_compared, blocks_moved, bytes_fetched, ..at(&point) })
        }
        Asked::TakeOver => group.take_over().await.map(|()| Done::default()),
        Asked::Barrier { point, part } => {
            let placed = group.barrier(point, part).await?;
            Ok(placed.map_or_else(Done::default, |point| at(&point)))
        }
        Asked::Compare { begin: true } => {
            let blocks_moved = group.compare().await?;
            Ok(Done { blocks_moved, ..Done::default() })
        }
        Asked::Compare { begin: false } => {
            group.end_comparison();
            Ok(Done::default())
        }
        Asked::Rules(rules) => {
            let why = "this agent said nothing of rules that it would go by";
            ruled.ok_or_else(|| EngineError::new(ErrorKind::Invalid, why))?.follow(group, rules);
            Ok(Done::default())
        }
    }
}

fn at(point: &PointInfo) -> Done {
    Done { point: Some((point.branch, point.to_retained())), ..Done::default() }
}

/// Writes answers as they come, and a report whenever there is something new to say, or nothing was said for a while.
async fn report(
    group: &Arc<Group>,
    output: &mut WriteHalf<Line>,
    server: &str,
    duty: Duty,
    answers: &mut mpsc::Receiver<Answer>,
) -> Result<std::convert::Infallible> {
    let (mut said, mut at) = (None, Instant::now());
    loop {
        let due = at.elapsed() >= line::BEAT;
        // For barriers it is a sign of life.
        let now = (said.is_none() || due || duty == Duty::Agent).then(|| reported(&group.status()));
        if let Some(now) = now.filter(|now| due || said.as_ref() != Some(now)) {
            line::write(output, server, &now.encode().map_err(wire::refused)?).await?;
            (said, at) = (Some(now), Instant::now());
        }
        let answer = tokio::select! {
            answer = answers.recv() => answer,
            () = tokio::time::sleep(LOOK) => None,
        };
        if let Some(answer) = answer {
            // What it did shows before it is said to be done: whoever asked goes on by both.
            let now = (duty == Duty::Agent).then(|| reported(&group.status()));
            if let Some(now) = now.filter(|now| said.as_ref() != Some(now)) {
                line::write(output, server, &now.encode().map_err(wire::refused)?).await?;
                (said, at) = (Some(now), Instant::now());
            }
            line::write(output, server, &answer.encode().map_err(wire::refused)?).await?;
        }
    }
}

fn refusal(error: &EngineError) -> Refusal {
    Refusal { kind: wire::code(error.kind()), text: error.to_string() }
}

fn reported(status: &GroupStatus) -> Report {
    let churn = Duration::try_from_secs_f64(status.churn_bytes_per_second).unwrap_or_default().as_secs();
    let rpo = status.landed_rpo_seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    Report {
        state: match status.state {
            GroupState::Active | GroupState::Idle => Reported::Active,
            GroupState::Fenced => Reported::Fenced,
            GroupState::Standby => Reported::Standby,
            GroupState::Rehydrating => Reported::Rehydrating,
        },
        branch: status.branch,
        epoch: status.epoch,
        last: status.last_lsn,
        durable: status.durable_lsn,
        shipped: status.shipped_lsn,
        backlog_bytes: status.backlog_bytes,
        journal_bytes: status.journal_bytes_used,
        churn_bytes_per_second: churn,
        rpo_ms: rpo.map(|rpo| u64::try_from(rpo.as_millis()).unwrap_or(u64::MAX)),
        health: match status.health {
            Health::Healthy => 0,
            Health::Warning => 1,
            Health::Critical => 2,
        },
        reasons: status.reasons.clone(),
        point: status.last_point.as_ref().map(PointInfo::to_retained),
        resync: status.resync.as_ref().map(|resync| ReportedResync {
            since: resync.since,
            cause: match resync.cause {
                ResyncCause::JournalFull => 1,
                ResyncCause::Initial => 2,
                ResyncCause::Compared => 3,
                ResyncCause::ListLost => 4,
            },
            done_bytes: resync.progress.done_bytes,
            total_bytes: resync.progress.total_bytes,
            waits_for: resync.waits_for.clone().unwrap_or_default(),
        }),
        progress: status.progress.map(|progress| (progress.done_bytes, progress.total_bytes)),
    }
}

/// What a report says, as a gateway sees a group of its own. What only the agent's machine knows is left empty.
fn seen(group: GroupId, report: Report) -> GroupStatus {
    let branch: BranchId = report.branch;
    let progress =
        |resync: &ReportedResync| Progress { done_bytes: resync.done_bytes, total_bytes: resync.total_bytes };
    let resync = report.resync.map(|resync| ResyncStatus {
        since: resync.since,
        cause: match resync.cause {
            2 => ResyncCause::Initial,
            3 => ResyncCause::Compared,
            4 => ResyncCause::ListLost,
            _ => ResyncCause::JournalFull,
        },
        collapsed: Default::default(),
        progress: progress(&resync),
        waits_for: (!resync.waits_for.is_empty()).then_some(resync.waits_for),
    });
    GroupStatus {
        state: match report.state {
            Reported::Active => GroupState::Active,
            Reported::Fenced => GroupState::Fenced,
            Reported::Standby => GroupState::Standby,
            Reported::Rehydrating => GroupState::Rehydrating,
        },
        branch,
        epoch: report.epoch,
        last_lsn: report.last,
        durable_lsn: report.durable,
        image_lsn: Default::default(),
        shipped_lsn: report.shipped,
        backlog_bytes: report.backlog_bytes,
        journal_bytes_used: report.journal_bytes,
        last_point: report.point.as_ref().map(|point| PointInfo::retained(group, branch, point)),
        landed_rpo_seconds: report.rpo_ms.map(|ms| Duration::from_millis(ms).as_secs_f64()),
        health: match report.health {
            0 => Health::Healthy,
            1 => Health::Warning,
            _ => Health::Critical,
        },
        reasons: report.reasons,
        progress: report.progress.map(|(done_bytes, total_bytes)| Progress { done_bytes, total_bytes }),
        resync,
        churn_bytes_per_second: f64::from(u32::try_from(report.churn_bytes_per_second).unwrap_or(u32::MAX)),
        flow: Default::default(),
        hydrated_bytes: None,
        size_bytes: 0,
        suspicions: Vec::new(),
    }
}

/// An agent that can be told something, at the process server where its line is.
#[derive(Debug)]
pub struct Attendant {
    group: GroupId,
    agent: GatewayId,
    abilities: Option<Abilities>,
    /// What it has said that it goes by.
    rules: Lock<Option<Rules>>,
    seen: watch::Sender<Option<GroupStatus>>,
    pending: Lock<Pending>,
    asks: mpsc::Sender<Ask>,
    /// A newer line has taken this one's place, or this one is over.
    over: CancellationToken,
}

#[derive(Debug, Default)]
struct Pending {
    number: u64,
    answers: BTreeMap<u64, oneshot::Sender<Result<Done>>>,
}

/// Ends a comparison that nobody waits for any more; nothing is left of one that came to its end.
struct EndComparison<'a>(&'a Attendant);

impl Drop for EndComparison<'_> {
    fn drop(&mut self) {
        self.0.tell(Asked::Compare { begin: false });
    }
}

/// The attendants of a process server, one for each group.
#[derive(Debug, Default)]
pub(super) struct Attendants(Lock<BTreeMap<GroupId, Arc<Attendant>>>);

impl Attendants {
    pub(super) fn of(&self, group: GroupId) -> Option<Arc<Attendant>> {
        self.0.lock().get(&group).cloned()
    }

    pub(super) fn all(&self) -> Vec<Arc<Attendant>> {
        self.0.lock().values().cloned().collect()
    }

    /// Speaks with an agent until its line is over.
    pub(super) async fn serve(
        &self,
        attend: Attend,
        peer: &str,
        input: &mut ReadHalf<Line>,
        output: &mut WriteHalf<Line>,
    ) -> EngineError {
        let (asks, mut asked) = mpsc::channel(ASKS_MAX);
        let attendant = Arc::new(Attendant {
            group: attend.group,
            agent: attend.agent,
            abilities: attend.abilities,
            rules: Lock::new(None),
            seen: watch::Sender::new(None),
            pending: Lock::new(Pending::default()),
            asks,
            over: CancellationToken::new(),
        });
        let _place = Place::take(self, &attendant);
        let hearing = async {
            loop {
                let received = line::read(input, peer, |kind| matches!(kind, FrameKind::Report | FrameKind::Answer));
                let received = received.await?;
                match received.kind {
                    FrameKind::Report => {
                        let report = Report::decode(&received.body()).map_err(wire::refused)?;
                        attendant.seen.send_replace(Some(seen(attendant.group, report)));
                    }
                    _ => attendant.answered(Answer::decode(&received.body()).map_err(wire::refused)?),
                }
            }
        };
        let speaking = async {
            loop {
                let ask = tokio::time::timeout(line::BEAT, asked.recv()).await;
                let frame = match ask {
                    Ok(Some(ask)) => ask.encode().map_err(wire::refused)?,
                    Ok(None) | Err(_) => stream::beat(),
                };
                line::write(output, peer, &frame).await?;
            }
        };
        let never: Result<std::convert::Infallible> = tokio::select! {
            over = hearing => over,
            over = speaking => over,
            () = attendant.over.cancelled() => Err(attendant.gone()),
        };
        match never {
            Err(error) => error,
        }
    }

    pub(super) fn close(&self) {
        std::mem::take(&mut *self.0.lock()).into_values().for_each(|attendant| attendant.end());
    }
}

/// A line's place among the attendants. Whichever way the line ends, also by a task that is dropped amid it, nobody waits for an
/// answer any more.
struct Place<'a> {
    all: &'a Attendants,
    attendant: Arc<Attendant>,
}

impl<'a> Place<'a> {
    fn take(all: &'a Attendants, attendant: &Arc<Attendant>) -> Self {
        if let Some(before) = all.0.lock().insert(attendant.group, Arc::clone(attendant)) {
            before.end();
        }
        Self { all, attendant: Arc::clone(attendant) }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut all = self.all.0.lock();
        if all.get(&self.attendant.group).is_some_and(|there| Arc::ptr_eq(there, &self.attendant)) {
            all.remove(&self.attendant.group);
        }
        drop(all);
        self.attendant.end();
    }
}

impl Attendant {
    /// The group.
    #[must_use]
    pub const fn group(&self) -> GroupId {
        self.group
    }

    /// The agent.
    #[must_use]
    pub const fn agent(&self) -> GatewayId {
        self.agent
    }

    /// What the agent can do; none for one of before, which goes by no rules either.
    #[must_use]
    pub const fn abilities(&self) -> Option<Abilities> {
        self.abilities
    }

    /// Whether the agent goes by these rules, as far as it said on this line.
    #[must_use]
    pub fn follows(&self, rules: &Rules) -> bool {
        self.rules.lock().as_ref() == Some(rules)
    }

    /// Has the agent go by these rules from now on.
    ///
    /// # Errors
    /// `Invalid` for an agent of before; what the agent says; `Retry` when the line breaks.
    pub async fn rule(&self, rules: Rules) -> Result<()> {
        if self.abilities.is_none() {
            let why = format!("the agent of {} is of an older version, and goes by its own settings alone", self.group);
            return Err(EngineError::new(ErrorKind::Invalid, why));
        }
        self.ask(Asked::Rules(rules.clone())).await?;
        *self.rules.lock() = Some(rules);
        Ok(())
    }

    /// What the agent said last of its group; nothing before it has said anything. What only its machine knows is left out.
    #[must_use]
    pub fn status(&self) -> Option<GroupStatus> {
        self.seen.borrow().clone()
    }

    /// Takes a recovery point, as [`Group::take_point`].
    ///
    /// # Errors
    /// What the agent says; `Retry` when the line breaks.
    pub async fn take_point(&self, kind: PointKind, label: &str) -> Result<PointInfo> {
        let done = self.ask(Asked::Point { kind, label: label.to_owned() }).await?;
        self.point(done.point)
    }

    /// Stops in order, as [`Group::release`].
    ///
    /// # Errors
    /// What the agent says; `Retry` when the line breaks: the agent may be about to be released all the same.
    pub async fn release(&self, patience: Duration) -> Result<PointInfo> {
        let patience_ms = u64::try_from(patience.as_millis()).unwrap_or(u64::MAX);
        let done = self.ask(Asked::Release { patience_ms }).await?;
        self.point(done.point)
    }

    /// Serves writes again, as [`Group::resume`].
    ///
    /// # Errors
    /// What the agent says; `Retry` when the line breaks.
    pub async fn resume(&self) -> Result<()> {
        self.ask(Asked::Resume).await.map(drop)
    }

    /// Copies what the vault lacks at once, or when the agent likes.
    ///
    /// # Errors
    /// `Retry` when the line breaks.
    pub async fn resync(&self, now: bool) -> Result<()> {
        self.ask(Asked::Resync { now }).await.map(drop)
    }

    /// Looks whether somebody else writes the branch.
    ///
    /// # Errors
    /// What the agent says; `Retry` when the line breaks.
    pub async fn doubt(&self) -> Result<()> {
        self.ask(Asked::Doubt).await.map(drop)
    }

    /// One pass towards a branch's newest point, as [`Group::rehydrate`].
    ///
    /// # Errors
    /// What the agent says; `Retry` when the line breaks: the next pass goes on where that one was.
    pub async fn rehydrate(&self, branch: BranchId, mode: RehydrateMode) -> Result<Rehydrated> {
        let full = mode == RehydrateMode::Full;
        let Done { point, orphan, blocks_compared, blocks_moved, bytes_fetched } =
            self.ask(Asked::Rehydrate { branch, full }).await?;
        Ok(Rehydrated { point: self.point(point)?, blocks_compared, blocks_moved, bytes_fetched, orphan })
    }

    /// Goes on with the branch that the agent's disks were brought to, as [`Group::take_over`].
    ///
    /// # Errors
    /// What the agent says; `Retry` when the line breaks.
    pub async fn take_over(&self) -> Result<()> {
        self.ask(Asked::TakeOver).await?;
        // What the agent says of itself comes a moment after the answer, and whoever asked goes on by it.
        let mut seen = self.seen.subscribe();
        let active = seen.wait_for(|seen| seen.as_ref().is_some_and(|seen| seen.state == GroupState::Active));
        match tokio::time::timeout(line::SILENCE, active).await {
            Ok(Ok(_)) => Ok(()),
            _ => Err(self.gone()),
        }
    }

    /// Does its part in a barrier, as [`Group::barrier`].
    ///
    /// # Errors
    /// What the member says; `Retry` when the line breaks.
    pub(super) async fn barrier(&self, point: PointId, part: Part) -> Result<Option<PointInfo>> {
        let done = self.ask(Asked::Barrier { point, part }).await?;
        Ok(done.point.map(|(branch, point)| PointInfo::retained(self.group, branch, &point)))
    }

    /// Compares the agent's disks with the vault, as [`Group::compare`]; ended when this is given up.
    ///
    /// # Errors
    /// What the agent says; `Retry` when the line breaks.
    pub async fn compare(&self) -> Result<u64> {
        let _ends = EndComparison(self);
        Ok(self.ask(Asked::Compare { begin: true }).await?.blocks_moved)
    }

    pub(super) fn tell_to_let_go(&self, point: PointId) {
        self.tell(Asked::Barrier { point, part: Part::LetGo });
    }

    /// Asks, and waits for no answer.
    fn tell(&self, what: Asked) {
        let number = {
            let mut pending = self.pending.lock();
            pending.number += 1;
            pending.number
        };
        let _ = self.asks.try_send(Ask { number, what });
    }

    async fn ask(&self, what: Asked) -> Result<Done> {
        let (answer, answered) = oneshot::channel();
        let number = {
            let mut pending = self.pending.lock();
            // Looked at under the lock, so that no answer is waited for after the end.
            if self.over.is_cancelled() {
                return Err(self.gone());
            }
            pending.answers.retain(|_, waits| !waits.is_closed());
            pending.number += 1;
            let number = pending.number;
            pending.answers.insert(number, answer);
            number
        };
        self.asks.try_send(Ask { number, what }).map_err(|_| {
            let why = format!("the agent of {} is asked too much at once: try again", self.group);
            EngineError::new(ErrorKind::Retry, why)
        })?;
        answered.await.unwrap_or_else(|_| Err(self.gone()))
    }

    fn answered(&self, answer: Answer) {
        let waits = self.pending.lock().answers.remove(&answer.number);
        let Some(waits) = waits else { return };
        let refused = |no: Refusal| EngineError::new(wire::kind(no.kind), format!("the agent: {}", no.text));
        let _ = waits.send(answer.outcome.map_err(refused));
    }

    fn end(&self) {
        let mut pending = self.pending.lock();
        self.over.cancel();
        pending.answers.clear();
    }

    fn gone(&self) -> EngineError {
        let why = format!(
            "the line to the agent of {} is over: whether it did what it was asked shows when it is back",
            self.group
        );
        EngineError::new(ErrorKind::Retry, why)
    }

    fn point(&self, found: Option<(BranchId, RetainedPoint)>) -> Result<PointInfo> {
        let (branch, point) = found.ok_or_else(|| {
            EngineError::new(
                ErrorKind::Invalid,
                format!("the agent of {} answered without a recovery point", self.group),
            )
        })?;
        Ok(PointInfo::retained(self.group, branch, &point))
    }
}
