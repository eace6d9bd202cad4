//! Collecting garbage: what no kept position of a group needs is deleted, and nothing else.
//!
//! ```text
//! list everything ─> kept positions ─> walk their trees ─> garbage ─> list of kept points (R) ─> rebuild ─> delete intent (I)
//!                                                             └── older intents past their grace: what is garbage
//!                                                                 now too is deleted, everything else is rescued
//! ```
//! # What is kept
//! A position of a branch: each point that the retention schedule leaves, each pinned point, the end of each branch's log,
//! each place where a branch forks, and where a tenure was ended by another gateway (its writer may still come and
//! keep its tail there). A position needs the nearest map at or before it with every node of its trees, every block that
//! their leaves name, and every segment between that map and the position as a whole.
//!
//! # Why nothing needed is ever deleted (I-6)
//! 1. R lists every kept position, with the end of each branch at that time. An object in the intent I of the same revision
//!    was needed by no position in R. Whatever is needed by a position *after* such an end is needed by that end, or is
//!    younger than I. So I can only harm positions that were dropped before R, at whatever time its deletes happen: a
//!    collector that stalled and wakes up late, or two that run at once, do no more than one would.
//! 2. Whoever begins to need an old position (a fork, a pin) first writes so, then reads R, and gives up if the position
//!    isn't in it. Whoever deletes has written R first, and lists forks and pins afterwards, right before it deletes. Of two
//!    that write first and then read, at least one sees the other: either R is seen, and the fork is given up; or the
//!    fork is seen, and what it needs is rescued. Positions never come back into R, except while no intent was written
//!    without them ([`run`] looks for pins once more between R and I).
//! 3. Between I and the deletes lies the grace: for readers that hold a point which was dropped under them.
//! 4. Nothing that is remembered from one run to the next ([`Memory`]) decides a delete: what an intent names is compared with
//!    a walk that reads everything from the vault again and proves it.
//!
//! # Why a rebuilt segment lacks nothing (I-6 again)
//! A segment that nobody replays, and of which little is needed, is rebuilt (`rebuild.rs`): *generation* n holds some of its
//! blocks, the segment itself is generation 0. A block of it that is needed somewhere was valid there, hence at every
//! position of that history between the segment and there: carrying a block moves it away and never back. So a position after an end in R needs
//! of an older segment no block that the end doesn't need, and what R needs holds for everything that R allows.
//! 1. A generation g is named by I, as something that another stands for, only when a generation above g was read back and
//!    holds every block that R needs; and deleted only when a walk that was begun after I was read finds all that is needed *then*
//!    in some generation above g, whose index is proved anew. Without need of a block both are as above.
//! 2. Take a position that is kept now, or forked or pinned later. If R allows it, the generation by which g was named has its
//!    blocks. If not, it was let in before R was written, so the walk saw it, and the generation that the walk found has
//!    them. That generation is above g; should it be gone by now, the same holds for what it was deleted on account of, and so
//!    on upwards. Generations are finite: some object that is there has every block. Nothing is ever deleted on account of a
//!    lower generation, which would close a circle.
//! 3. What is replayed is needed as a whole, so a segment that some kept position replays is not named. A position after an
//!    end in R replays nothing older than the map that the end is read from.
//!
//! Refuses: to decide or to delete once a newer epoch of the runner's branch exists; to delete anything while something that
//! must be there for a kept position is not, or fails its checks (`Tampered`): then a person has to look first.
//!
//! A crash leaves an R without an I (the points are dropped, the objects stay until the next run, and what was rebuilt is read
//! back by it), or an I of which
//! some objects are gone: the next run goes on with it. Deletes that are denied (object lock, permissions) are counted and
//! tried again by each run.

mod carry;
mod intents;
mod kept;
mod live;
mod plan;
mod rebuild;
pub(crate) mod repair;
mod sources;
#[cfg(test)]
mod tests;
mod world;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use lifeboat_format::gc::{Doomed, INTENT_OBJECTS_MAX, Reason, RecordPlace};
use lifeboat_model::{BranchId, Epoch, GatewayId, GroupId, MapId, Timestamp};
use lifeboat_vault::Vault;
use serde::{Deserialize, Serialize};

use crate::branch::{list_branches, written_last};
use crate::cause;
use crate::error::{EngineError, ErrorKind, Result};
use crate::marks::Marks;
use crate::pace::Pace;
#[cfg(not(test))]
use crate::planted::{self, Bug};
use crate::points::PointRetention;
use crate::segments::{Reader, ReaderLimits};
use crate::ship::{self, CarriedBlock};
use intents::Intents;
pub(crate) use kept::Kept;
pub use live::Memory;
use live::Walk;
use plan::Plan;
pub use rebuild::RebuildRule;
use rebuild::{Choice, Rebuilding};
pub use repair::{Repaired, RepairedList, repair};
use sources::Sources;
use world::World;

/// Nothing is rebuilt while garbage that can't be deleted is more than this part of what is needed.
const LOCKED: u64 = 4;

/// So many lists and marks that newer ones have replaced wait for something else to go.
const LISTS_WAIT: usize = 16;

/// How a collection is run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GcSettings {
    /// Which points are kept.
    pub retention: PointRetention,
    /// Time between deciding that an object is garbage and deleting it.
    pub grace: Duration,
    /// How much longer an intent may wait for others to be due with it: a run that deletes reads every node of every kept tree,
    /// whatever it remembers.
    pub gather: Duration,
    /// Writes nothing and deletes nothing: the report says what would be done.
    pub dry_run: bool,
    /// How fast rebuilt segments may be sent to the vault.
    pub pace: Arc<Pace>,
    /// Which segments are rebuilt.
    pub rebuild: RebuildRule,
}

impl Default for GcSettings {
    /// The default retention, a day of grace, every intent carried out as soon as it is due.
    fn default() -> Self {
        Self {
            retention: PointRetention::default(),
            grace: Duration::from_secs(24 * 3600),
            gather: Duration::ZERO,
            dry_run: false,
            pace: Arc::default(),
            rebuild: RebuildRule::default(),
        }
    }
}

/// Who collects: the holder of the group's active tenure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Runner {
    /// The gateway.
    pub gateway: GatewayId,
    /// The branch that it writes.
    pub branch: BranchId,
    /// Its tenure.
    pub epoch: Epoch,
}

/// Objects and their bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Count {
    /// Objects.
    pub objects: u64,
    /// Bytes.
    pub bytes: u64,
}

impl Count {
    const fn add(&mut self, bytes: u64) {
        self.objects = self.objects.saturating_add(1);
        self.bytes = self.bytes.saturating_add(bytes);
    }
}

/// What a collection found and did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GcReport {
    /// Everything of the group in the vault when the run began.
    pub total: Count,
    /// Of it, what kept positions need.
    pub needed: Count,
    /// Garbage that was found by this run and waits for its grace to pass.
    pub doomed: Count,
    /// Garbage of earlier runs whose grace has not passed.
    pub waiting: Count,
    /// Deleted.
    pub deleted: Count,
    /// Named by an earlier intent, and needed now: left alone.
    pub rescued: Count,
    /// The store refused to delete them: tried again by the next run.
    pub denied: Count,
    /// Points that are kept.
    pub points: u64,
    /// Points that were dropped by this run.
    pub dropped_points: u64,
    /// Sparse segments that were found, and what is needed of them: bytes to write again, about.
    pub to_rebuild: Count,
    /// Segments that were rebuilt, and the bytes written for them.
    pub rebuilt: Count,
    /// There is more to rebuild than one run does.
    pub unfinished: bool,
    /// Map objects most of whose nodes nobody needs.
    pub sparse_maps: Vec<MapId>,
    /// Blocks of the runner's branch that keep mostly dead segments and map objects: for the writer to write again.
    #[serde(skip)]
    pub carry: Vec<CarriedBlock>,
}

impl GcReport {
    /// Bytes in the vault for each byte that kept positions need; 1 when nothing is needed.
    #[must_use]
    pub fn space_ratio(&self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "a ratio for people")]
        let (total, needed) = (self.total.bytes.saturating_sub(self.deleted.bytes) as f64, self.needed.bytes as f64);
        if needed > 0.0 { total / needed } else { 1.0 }
    }
}

/// Collects the garbage of a group, once. To be called by the holder of the group's active tenure, at any interval.
///
/// # Errors
/// `Fenced` when the tenure is over, `Retry` when the vault can't be reached or another collector was faster, `Tampered`
/// when something that is needed is missing or fails its checks: nothing is deleted then.
pub async fn run(
    vault: &Arc<Vault>,
    group: GroupId,
    runner: Runner,
    settings: &GcSettings,
    memory: &mut Memory,
) -> Result<GcReport> {
    let reader = Reader::open(vault, group, ReaderLimits::default()).await?;
    let run = Run { reader: &reader, runner, now: vault.now() };
    run.check_fence().await?;
    let mut intents = Intents::read(&reader).await?;
    let due = intents.find_due(vault.now(), settings);
    let world = World::read(&reader, !settings.dry_run).await?;
    let positions = world.positions(&reader, settings, run.now).await?;
    let live = Walk::new(&reader, &world, if due { None } else { Some(&mut *memory) }).run(&positions).await?;
    let sources = Sources::read(&reader, &world, &live, &intents.due_segments(), memory).await?;
    let plan = Plan::new(&world, (&live, &sources), &positions, &intents, run.now);
    let fills = sources::fills(&reader, &world, &live, (&sources, &plan), memory).await?;
    let mut choice = Choice::new(&run, settings, &fills);

    let mut report = plan.report();
    report.points = positions.points();
    report.dropped_points = positions.dropped;
    choice.count_into(&mut report);
    if settings.dry_run {
        intents.count_waiting(&world, &mut report);
        return Ok(report);
    }
    if due {
        run.check_fence().await?;
        intents.execute(&run, &world, &plan, &mut report).await?;
        // Where deletes are denied, what is rebuilt comes on top of what stays.
        if report.denied.bytes > report.needed.bytes / LOCKED {
            choice = Choice::default();
        }
    }
    let rebuilding = Rebuilding { run: &run, settings, world: &world, live: &live, plan: &plan };
    run.decide(&rebuilding, &choice, &positions, &intents, &mut report).await?;
    report.carry = carry::find(&reader, (&live, &fills), &report.sparse_maps, runner.branch).await?;
    intents.count_waiting(&world, &mut report);
    Ok(report)
}

/// The tenure to collect under without holding it, for a group that may be written elsewhere: the newest one that there is.
/// Should a newer one begin meanwhile, its holder collects.
///
/// # Errors
/// `NotFound` for a group without a history; otherwise as [`list_branches`].
pub async fn newest_tenure(vault: &Arc<Vault>, group: GroupId) -> Result<Runner> {
    let branches = list_branches(vault, group).await?;
    let newest = written_last(&branches).and_then(|branch| {
        let head = branches.iter().find(|info| info.id == branch)?.head()?;
        Some(Runner { gateway: head.gateway, branch, epoch: head.epoch })
    });
    newest.ok_or_else(|| {
        EngineError::new(ErrorKind::NotFound, format!("the group {group} has no history in the vault yet"))
    })
}

/// One collection.
struct Run<'a> {
    reader: &'a Reader,
    runner: Runner,
    now: Timestamp,
}

impl Run<'_> {
    async fn check_fence(&self) -> Result<()> {
        let Runner { branch, epoch, .. } = self.runner;
        match ship::newer_epoch(self.reader, branch, epoch).await? {
            None => Ok(()),
            Some(fenced) => Err(EngineError::new(
                ErrorKind::Fenced,
                format!(
                    "{} has taken branch {branch} over with epoch {}: this gateway collects no garbage of it any more",
                    fenced.gateway, fenced.by_epoch
                ),
            )),
        }
    }

    /// Writes down what is kept, rebuilds, and writes down what is to be deleted for it.
    async fn decide(
        &self,
        rebuilding: &Rebuilding<'_>,
        choice: &Choice,
        positions: &world::Positions,
        intents: &Intents,
        report: &mut GcReport,
    ) -> Result<()> {
        let (world, plan) = (rebuilding.world, rebuilding.plan);
        let mut doomed = plan.doomed(world, intents);
        let unconfirmed = plan.unconfirmed(world, intents);
        // Each list replaces one: alone they aren't worth the next list.
        let lists = |object: &Doomed| object.reason == Reason::Superseded;
        let few = doomed.len() <= LISTS_WAIT && doomed.iter().all(lists);
        if few && positions.dropped == 0 && choice.is_empty() && unconfirmed.is_empty() {
            return Ok(());
        }
        self.check_fence().await?;
        let revision = world.kept.next_revision();
        let listed = kept::write(self.reader, revision, self.now, positions.to_kept(&[])).await?;
        // A pin that was set while the list was made: its point stays on the list, and nothing is decided without it.
        let marks = Marks::read(self.reader).await?;
        let pins = marks.pins(self.now).filter(|_| !planted(Planted::ForgetsPins));
        let missed: Vec<_> =
            pins.filter(|mark| world.kept.offers_mark(mark) && !listed.offers_mark(mark)).cloned().collect();
        if !missed.is_empty() {
            kept::write(self.reader, revision.saturating_add(1), self.now, positions.to_kept(&missed)).await?;
            return Ok(());
        }
        doomed.extend(rebuilding.run(choice, &unconfirmed, report).await?);
        doomed.truncate(INTENT_OBJECTS_MAX);
        if !doomed.is_empty() {
            for object in &doomed {
                report.doomed.add(object.size);
            }
            intents::write(self.reader, self.runner.gateway, revision, self.now, doomed).await?;
        }
        Ok(())
    }
}

/// Where a record belongs, by its object's name.
pub(crate) fn record_place(reader: &Reader, key: &str) -> RecordPlace {
    let prefix = format!("groups/{}/", reader.group());
    let name = key.strip_prefix(&prefix).unwrap_or(key).to_owned();
    RecordPlace { vault: reader.vault().id(), group: reader.group(), name }
}

/// An object by its whole name.
type Objects = HashMap<String, u64>;

fn damaged(key: &str) -> impl Fn(lifeboat_format::FormatError) -> EngineError + '_ {
    move |error| cause::object(key, error)
}

/// Bugs that tests plant, to see that they are noticed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Planted {
    /// What an intent names is deleted, whatever is needed by then.
    TrustsIntents,
    /// Pins are not looked at.
    ForgetsPins,
    /// Branches that forked from a point need nothing.
    ForgetsForks,
    /// Segments that are replayed count as garbage once no map names them.
    ForgetsReplay,
    /// Nodes of trees that are shared are taken for the newest tree's.
    ForgetsOlderMaps,
    /// A rebuilt segment stands for everything, whatever it holds.
    TrustsRebuilt,
    /// Segments that are replayed are rebuilt, and go.
    RebuildsReplayed,
    /// A rebuilt segment goes on account of the segment that it was made of.
    ForgetsTheOrder,
    /// What was created counts as written, whatever the store made of it.
    ReadsNothingBack,
}

#[cfg(test)]
thread_local! {
    static PLANTED: std::cell::Cell<Option<Planted>> = const { std::cell::Cell::new(None) };
}

#[cfg(test)]
fn planted(bug: Planted) -> bool {
    PLANTED.get() == Some(bug)
}

/// The simulation wakes some of them as well.
#[cfg(not(test))]
fn planted(bug: Planted) -> bool {
    match bug {
        Planted::ForgetsPins => planted::is(Bug::DropsPinned),
        Planted::ForgetsReplay => planted::is(Bug::DeletesLive),
        _ => false,
    }
}
