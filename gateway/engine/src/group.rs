//! A consistency group at one gateway: its volumes, its journal, its shipping, and its way through the states.
//!
//! ```text
//!              create, fail_over                     rehydrate…             take_over
//!   (nothing) ──────────────────> Active ──fenced──> Fenced ──> Rehydrating ─────────> Active
//!                                  │  ^                            ^
//!                           release│  │resume                     │rehydrate
//!                                  v  │                            │
//!                                Standby ──────────────────────────┘
//! ```
//! What a state holds here: `Active` a write path, a tenure in the vault and the task that ships; `Fenced` and `Standby` a
//! write path that refuses writes; `Rehydrating` only images, which nothing may read as volumes.
//!
//! Failure routes. The vault is away: writes go on, the journal grows, health says so. Another gateway opened the branch:
//! the next seal finds out, the group is `Fenced`, its unshipped tail stays in the journal. The disk fails: the write path
//! is poisoned, reads go on. The process dies anywhere: [`Group::open`] finds the state file and goes on from there; every
//! step that changes the vault is repeated under the same names.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use lifeboat_model::state::{GroupState, Health};
use lifeboat_model::{BLOCK_SIZE_U64, BranchId, Epoch, GroupId, Lsn, PointKind, Timestamp, VolumeId};
use tokio::time::Instant;

use crate::branch;
use crate::disk::Disk;
use crate::error::{EngineError, ErrorKind, Result};
use crate::image::{Image, image_name};
use crate::machine::{Host, Machine};
use crate::planted::{self, Bug};
use crate::points::PointInfo;
use crate::reach::{Reach, Writer};
use crate::record::Op;
use crate::ship::{Open, ShipError, ShipSettings};
use crate::state::{self, Phase, Place, Rehydrate, State, StateFile, StateVolume};
use crate::sync::Lock;
use crate::volume::BlockVolume;
use crate::write_path::{Figures, Limits, Mode, Recovered, WritePath};

pub use crate::ship::Compression;

/// How long a restart waits for the vault before it serves without it.
const OPEN_PATIENCE: Duration = Duration::from_secs(10);

mod adoption;
mod app_points;
mod barrier;
mod collect;
mod compare;
mod failback;
mod flow;
mod hydrate;
mod insight;
mod recovery;
mod resync;
mod running;
mod shipping;
mod types;
mod volume;

pub use failback::{RehydrateMode, Rehydrated};
pub(crate) use flow::Flow;
pub use flow::FlowStatus;
use flow::Unshipped;
pub use lifeboat_format::local::ResyncCause;
use resync::ResyncControl;
pub use resync::ResyncStatus;
use running::Running;
use shipping::{Command, Shipping};
pub use types::{
    FailOver, GroupConfig, GroupSettings, GroupStatus, Progress, ResyncSettings, RetrySettings, VolumeSpec,
};

/// A consistency group at this gateway.
#[derive(Debug)]
pub struct Group {
    config: GroupConfig,
    disk: Arc<dyn Disk>,
    settings: Lock<GroupSettings>,
    state: Lock<Saved>,
    running: Lock<Option<Arc<Running>>>,
    shipping: Lock<Option<Shipping>>,
    observed: Arc<Lock<Observed>>,
    steady: Steady,
    /// One round of hooks at a time.
    quiescing: tokio::sync::Mutex<()>,
    /// The barrier that it takes part in.
    barrier: Lock<Option<barrier::Round>>,
    /// One comparison with the vault at a time, and whoever ends it.
    comparing: tokio::sync::Mutex<()>,
    comparison_ended: tokio::sync::Notify,
    resync: ResyncControl,
    /// One change of state at a time.
    change: tokio::sync::Mutex<()>,
    /// What the last pass of a rehydration read the history with, for the next one or the takeover.
    history: Lock<Option<Arc<crate::segments::Reader>>>,
    /// One collection of garbage at a time, and what it remembers for the next one.
    collecting: tokio::sync::Mutex<crate::gc::Memory>,
    /// What the last collection found worth writing again, until the shipping task takes it.
    to_carry: Lock<Option<Vec<crate::ship::CarriedBlock>>>,
    /// What its writes look like.
    insight: Lock<insight::Insight>,
}

/// The clock that ages are told by: the machine's as it was when the group was opened, and the time that has passed since. Whoever sets the
/// machine's clock by an hour makes no write an hour older.
#[derive(Clone, Copy, Debug)]
struct Steady {
    opened: Timestamp,
    since: Instant,
}

impl Steady {
    fn now(self) -> Timestamp {
        self.opened.plus(self.since.elapsed())
    }
}

#[derive(Debug)]
struct Saved {
    file: StateFile,
    state: State,
    /// `state.shipped` is ahead of the file.
    shipped_moved: bool,
}

/// A point that was placed and hasn't landed.
#[derive(Clone, Copy, Debug)]
struct OpenPoint {
    lsn: Lsn,
    /// Since when it has had something to hold.
    since: Timestamp,
    /// Bytes accepted when it had its place.
    bytes_accepted: u64,
}

/// What the tasks report for status.
#[derive(Debug, Default)]
struct Observed {
    last_point: Option<PointInfo>,
    /// Points placed and not landed, in order.
    open_points: std::collections::VecDeque<OpenPoint>,
    /// The newest point placed, and when.
    placed: Option<(Lsn, Timestamp)>,
    /// Writes found in the journal at the start, which the vault may lack.
    recovered: Option<Recovered>,
    shipping_trouble: Option<(Health, String)>,
    hydration_trouble: Option<String>,
    app_trouble: Option<String>,
    fenced_by: Option<String>,
    progress: Option<Progress>,
    churn: f64,
    /// Bytes accepted at the last interval.
    bytes_seen: u64,
    /// Bytes accepted when the newest landed point was placed.
    bytes_landed: u64,
    flow: Flow,
    release_wanted: bool,
    /// Tries to ship that failed in a row.
    failures: usize,
    /// Since when the journal has been full with nothing shipped since: when, and the newest record shipped.
    full_since: Option<(Instant, Lsn)>,
    /// What the resync waits for.
    resync_waits: Option<String>,
}

impl Observed {
    /// A point has got its place. Two that are placed at the same time may be told in either order.
    fn note_placed(&mut self, lsn: Lsn, time: Timestamp, bytes_accepted: u64) {
        let since = self.placed.map_or(time, |(_, at)| at);
        let at = self.open_points.partition_point(|before| before.lsn < lsn);
        self.open_points.insert(at, OpenPoint { lsn, since, bytes_accepted });
        if self.placed.is_none_or(|(newest, _)| newest < lsn) {
            self.placed = Some((lsn, time));
        }
    }

    /// Since when there has been a write that no landed point holds; `last` is the newest record.
    fn uncovered_since(&self, last: Lsn) -> Option<Timestamp> {
        let open = self.open_points.front().map(|point| point.since);
        let placed = self.placed.filter(|(lsn, _)| last > *lsn).map(|(_, at)| at);
        self.recovered_since().or(open).or(placed)
    }

    /// Since when there have been the writes found at the start, until a landed point holds them.
    fn recovered_since(&self) -> Option<Timestamp> {
        let landed = self.last_point.as_ref().map_or(Lsn::ZERO, |point| point.lsn);
        self.recovered.filter(|recovered| recovered.newest > landed).map(|recovered| recovered.since)
    }

    /// There was nothing at `now` that the newest point doesn't hold: what is written next is no older.
    fn note_idle(&mut self, now: Timestamp, last: Lsn) {
        if let Some((lsn, at)) = self.placed.as_mut()
            && *lsn >= last
        {
            *at = now.max(*at);
        }
    }

    /// Since when there has been a write that the vault lacks, at least as early as it was.
    fn unshipped_since(&self, figures: &Figures, shipped: Lsn) -> Unshipped {
        // What was given up with a full journal comes later, and no point until then.
        let after = if figures.dirty_blocks > 0 { Lsn::ZERO } else { shipped };
        if figures.last <= after {
            return Unshipped::Nothing;
        }
        if let Some(recovered) = self.recovered.filter(|recovered| recovered.newest > after) {
            return Unshipped::Since(recovered.since);
        }
        let point = self.open_points.iter().find(|point| point.lsn > after).map(|point| point.since);
        match (point, self.placed) {
            (Some(since), _) => Unshipped::Since(since),
            (None, Some((lsn, at))) if figures.last > lsn => Unshipped::Since(at),
            _ => Unshipped::Unknown,
        }
    }
}

impl Group {
    /// Whether `dir` holds local state of a group.
    #[must_use]
    pub fn exists(dir: &Path) -> bool {
        state::exists(&Host, dir)
    }

    /// Whether there is local state of the group where its configuration says.
    #[must_use]
    pub fn exists_at(config: &GroupConfig) -> bool {
        state::exists(&*config.machine, &config.dir)
    }

    /// A new protected group: branch, keys, first tenure, local files. Active at once.
    ///
    /// Called again after it failed it begins anew, on a branch of its own.
    ///
    /// # Errors
    /// What the vault or the disk says; `Invalid` for a size that is no multiple of the block size.
    pub async fn create(config: GroupConfig, volumes: Vec<VolumeSpec>) -> Result<Arc<Self>> {
        volumes
            .iter()
            .filter(|volume| volume.source.is_none() || volume.size_bytes != 0)
            .try_for_each(|volume| blocks_of(volume).map(|_| ()))?;
        let (machine, dir) = (Arc::clone(&config.machine), config.dir.clone());
        let created = Self::create_at(config, volumes).await;
        if created.is_err() && !state::exists(&*machine, &dir) {
            // Nothing refers to what was begun there.
            let _ = machine.remove(&dir);
        }
        created
    }

    async fn create_at(config: GroupConfig, volumes: Vec<VolumeSpec>) -> Result<Arc<Self>> {
        let group = config.group;
        let branch = BranchId::from_bytes(config.reach.new_id()?);
        // The disk first: one that is full is found out before anything is in the vault.
        let disk = local_disk(&config)?;
        let volumes = adoption::hold_all(&disk, volumes).await?;
        let path = Arc::new(WritePath::create(&disk, group, Epoch(0), limits(&config.settings), Lsn(1))?);
        for volume in &volumes {
            config.reach.make_keys(group, Some(volume.spec.id)).await?;
        }
        config.reach.make_keys(group, None).await?;
        let settings = ship_settings(&config.settings);
        let open = Open::New { origin: None };
        let (writer, opened) = config.reach.open(group, branch, config.gateway, open, settings, Lsn::ZERO).await?;
        path.set_epoch(opened.epoch);
        let saved = State {
            group,
            gateway: config.gateway,
            generation: 0,
            phase: Phase::Active,
            branch,
            epoch: opened.epoch,
            journal_first: Lsn(1),
            image_lsn: Lsn::ZERO,
            shipped: place(opened.end),
            volumes: Vec::new(),
            origin: None,
            rehydrate: None,
            resync: None,
        };
        let this = Self::begin(config, disk, saved, None)?;
        this.start(Arc::clone(&path), None);
        // Before anything is shipped: the first recovery point has every volume, or there is none.
        for volume in volumes {
            if let Err(error) = this.take_in(&path, volume).await {
                this.stop_running().await;
                return Err(error);
            }
        }
        this.start_shipping(Some(writer));
        Ok(this)
    }

    /// Writes the first state file: from here on the group exists at this gateway.
    fn begin(
        config: GroupConfig,
        disk: Arc<dyn Disk>,
        mut state: State,
        last_point: Option<PointInfo>,
    ) -> Result<Arc<Self>> {
        let file = StateFile::create(&disk, &mut state)?;
        Ok(Self::assemble(config, disk, Saved { file, state, shipped_moved: false }, last_point))
    }

    /// Opens a group that has local state here, after a stop or a crash.
    ///
    /// With the vault in reach it finds out whether another gateway took over; without, it serves what it served before
    /// and finds out later.
    ///
    /// # Errors
    /// `Damaged`, `NewerFormat`, `WrongKey`, `NotFound`, what the disk says.
    pub async fn open(config: GroupConfig) -> Result<Arc<Self>> {
        let disk = local_disk(&config)?;
        let (file, saved) = StateFile::open(&disk, config.group)?;
        let phase = saved.phase;
        let group = Self::assemble(config, disk, Saved { file, state: saved, shipped_moved: false }, None);
        if phase == Phase::Rehydrating {
            group.let_applications_go();
            return Ok(group);
        }
        let path = group.open_write_path()?;
        if phase != Phase::Active {
            let why = if phase == Phase::Fenced { group.fenced_message() } else { group.standby_message() };
            path.set_read_only(Some(why));
            group.start(path, None);
            group.let_applications_go();
            return Ok(group);
        }
        group.observed.lock().recovered = path.recovered();
        let tenure = tokio::time::timeout(OPEN_PATIENCE, group.resume_tenure(path.durable()))
            .await
            .unwrap_or(Ok(Tenure::Unknown))?;
        path.set_epoch(group.state.lock().state.epoch);
        group.start(Arc::clone(&path), None);
        let writer = match tenure {
            Tenure::Lost => {
                group.observed.lock().recovered = None;
                path.set_read_only(Some(group.fenced_message()));
                group.let_applications_go();
                return Ok(group);
            }
            Tenure::Held(writer) => Some(*writer),
            Tenure::Unknown => None,
        };
        if let Err(error) = group.introduce_volumes(&path).await {
            // Whoever tries again opens the same files: nobody else may be at work on them.
            group.stop_running().await;
            return Err(error);
        }
        group.start_shipping(writer);
        group.start_hydration();
        Ok(group)
    }

    /// A volume that was added just before a crash may be in the state file and not in the log; one that was grown just
    /// before may be longer in the log than in the state file, and must not shrink.
    async fn introduce_volumes(&self, path: &WritePath) -> Result<()> {
        let volumes = self.state.lock().state.volumes.clone();
        for volume in volumes {
            let blocks = path.image(volume.id).map_or(volume.blocks, |image| volume.blocks.max(image.blocks()));
            running::submit(path, &Op::Resize { volume: volume.id, blocks }).await?;
        }
        Ok(())
    }

    /// Claims the tenure again after a restart.
    async fn resume_tenure(&self, durable_lsn: Lsn) -> Result<Tenure> {
        let (branch, epoch, known) = {
            let saved = self.state.lock();
            (saved.state.branch, saved.state.epoch, saved.state.shipped.lsn)
        };
        let settings = ship_settings(&self.settings.lock());
        let open = Open::Resume { epoch, durable_lsn };
        let (reach, group, gateway) = (&self.config.reach, self.config.group, self.config.gateway);
        match reach.open(group, branch, gateway, open, settings, known).await {
            Ok((writer, opened)) => {
                self.tenure_opened(&opened)?;
                Ok(Tenure::Held(Box::new(writer)))
            }
            Err(ShipError::Fenced(fenced)) => {
                self.note_fenced(&fenced)?;
                Ok(Tenure::Lost)
            }
            Err(ShipError::Engine(error)) if error.kind().is_unanswered() => {
                tracing::warn!(group = %self.config.group, %error, "the vault is out of reach: serving, and trying again");
                Ok(Tenure::Unknown)
            }
            Err(ShipError::Engine(error)) => Err(error),
        }
    }

    fn tenure_opened(&self, opened: &crate::ship::Opened) -> Result<()> {
        let shipped = self.state.lock().state.shipped;
        if opened.end.lsn < shipped.lsn {
            return Err(EngineError::new(
                ErrorKind::Tampered,
                format!(
                    "the log of {} ends at record {} in the vault, and record {} had been shipped: the vault was rolled back or has lost \
                     objects. Restore it from a copy; nothing is given up here",
                    self.config.group, opened.end.lsn, shipped.lsn
                ),
            ));
        }
        if let Some(running) = self.running.lock().as_ref() {
            running.path.set_epoch(opened.epoch);
        }
        self.observed.lock().last_point.clone_from(&opened.last_point);
        self.change_state(|state| {
            state.epoch = opened.epoch;
            state.shipped = place(opened.end);
        })
    }

    fn note_fenced(&self, fenced: &crate::ship::Fenced) -> Result<()> {
        tracing::error!(group = %self.config.group, by = %fenced.gateway, "another gateway has taken over: read-only from here on");
        self.observed.lock().fenced_by = Some(fenced.gateway.to_string());
        self.change_state(|state| state.phase = Phase::Fenced)
    }

    fn assemble(config: GroupConfig, disk: Arc<dyn Disk>, saved: Saved, last_point: Option<PointInfo>) -> Arc<Self> {
        Arc::new(Self {
            settings: Lock::new(config.settings.clone()),
            steady: Steady { opened: config.reach.now(), since: Instant::now() },
            config,
            disk,
            state: Lock::new(saved),
            running: Lock::new(None),
            shipping: Lock::new(None),
            observed: Arc::new(Lock::new(Observed { last_point, ..Observed::default() })),
            quiescing: tokio::sync::Mutex::new(()),
            barrier: Lock::default(),
            comparing: tokio::sync::Mutex::new(()),
            comparison_ended: tokio::sync::Notify::new(),
            resync: ResyncControl::default(),
            change: tokio::sync::Mutex::new(()),
            history: Lock::new(None),
            collecting: tokio::sync::Mutex::default(),
            to_carry: Lock::default(),
            insight: Lock::default(),
        })
    }

    /// The group.
    #[must_use]
    pub const fn id(&self) -> GroupId {
        self.config.group
    }

    /// Its volumes. A name is empty where only the vault was asked: names are the catalog's.
    #[must_use]
    pub fn volumes(&self) -> Vec<VolumeSpec> {
        let saved = self.state.lock();
        saved
            .state
            .volumes
            .iter()
            .map(|volume| VolumeSpec {
                id: volume.id,
                name: volume.name.clone(),
                size_bytes: volume.blocks * BLOCK_SIZE_U64,
                source: self.disk.adopted(&image_name(volume.id)).ok().flatten(),
            })
            .collect()
    }

    /// A volume for a front end; read-only while `Fenced` or `Standby`, none while `Rehydrating`.
    #[must_use]
    pub fn volume(self: &Arc<Self>, id: VolumeId) -> Option<Arc<dyn BlockVolume>> {
        let open = self.running.lock().as_ref().is_some_and(|running| running.path.image(id).is_some());
        open.then(|| Arc::new(volume::GroupVolume::new(self, id)) as Arc<dyn BlockVolume>)
    }

    /// Grows a volume in place, in use; an adopted file with it.
    ///
    /// # Errors
    /// `Invalid` when it would shrink, or when it is a block device that isn't as large; `NotFound`, `Fenced`.
    pub async fn grow_volume(&self, id: VolumeId, size_bytes: u64) -> Result<()> {
        let _change = self.change.lock().await;
        let spec = VolumeSpec { id, name: String::new(), size_bytes, source: None };
        let blocks = blocks_of(&spec)?;
        let path = self.active_path()?;
        let image = path
            .image(id)
            .ok_or_else(|| EngineError::new(ErrorKind::NotFound, format!("{id} is not in {}", self.config.group)))?;
        match blocks.cmp(&image.blocks()) {
            std::cmp::Ordering::Less => Err(EngineError::new(
                ErrorKind::Invalid,
                format!(
                    "{id} has {} bytes and can't shrink to {size_bytes}: make a smaller volume and copy",
                    image.blocks() * BLOCK_SIZE_U64
                ),
            )),
            std::cmp::Ordering::Equal => Ok(()),
            std::cmp::Ordering::Greater => {
                image.extend(blocks)?;
                running::submit(&path, &Op::Resize { volume: id, blocks }).await?;
                running::flush(&path).await?;
                if planted::is(Bug::ForgetsGrownSize) {
                    return Ok(());
                }
                self.change_state(|state| {
                    state.volumes.iter_mut().filter(|volume| volume.id == id).for_each(|volume| volume.blocks = blocks);
                })
            }
        }
    }

    /// Takes a volume out of the group and deletes its image, but not one that was adopted; the vault keeps its points.
    ///
    /// # Errors
    /// `Fenced` unless active, what the disk says.
    pub async fn remove_volume(&self, id: VolumeId) -> Result<()> {
        let _change = self.change.lock().await;
        let path = self.active_path()?;
        path.remove_volume(id);
        self.change_state(|state| state.volumes.retain(|volume| volume.id != id))?;
        Image::remove(&self.disk, id)
    }

    /// Changes how the group is run, from the next interval on; the journal's size from the next start.
    pub fn set_settings(&self, settings: GroupSettings) {
        if std::mem::replace(&mut *self.settings.lock(), settings.clone()) == settings {
            return;
        }
        if let Some(shipping) = self.shipping.lock().as_ref() {
            shipping.wake();
        }
    }

    /// Takes a recovery point, and returns once it is in the vault. One that is to be application-consistent is placed between
    /// the group's hooks.
    ///
    /// # Errors
    /// `Invalid` for an application-consistent point without hooks, or when a hook fails;
    /// `Fenced` unless active; `Closed` when the group is closed meanwhile; `Retry` while a resync is under way, and when the
    /// point was given up with a full journal. While the vault is away it waits.
    pub async fn take_point(self: &Arc<Self>, kind: PointKind, label: &str) -> Result<PointInfo> {
        if self.state.lock().state.resync.is_some() && self.running_path().is_ok_and(|path| !path.is_complete()) {
            return Err(self.in_resync("take the point again once it is done"));
        }
        if kind == PointKind::AppConsistent {
            return self.take_app_point(label).await;
        }
        let answer = self.command(|reply| Command::Point { kind, label: label.to_owned(), placed: None, reply })?;
        answer.await.map_err(|_| closed(self.config.group))?
    }

    /// Asks the vault whether another gateway has taken over: one small request. An idle group finds out only at its next
    /// write otherwise; for a caller that has a reason to doubt.
    ///
    /// # Errors
    /// `Fenced` unless active; `Retry` when it can't be asked just now.
    pub fn doubt(&self) -> Result<()> {
        self.command(|reply| Command::Doubt { reply }).map(drop)
    }

    /// Active → Standby: a resync is finished first, then no write is accepted any more, everything is shipped, and a final
    /// point says so. Zero loss.
    ///
    /// # Errors
    /// `Fenced` unless active. When the vault can't be reached within `patience` the group is active again, and the error
    /// is `Retry`.
    pub async fn release(&self, patience: Duration) -> Result<PointInfo> {
        let _change = self.change.lock().await;
        if self.state.lock().state.phase == Phase::Standby {
            return self.observed.lock().last_point.clone().ok_or_else(|| closed(self.config.group));
        }
        let path = self.active_path()?;
        let begun = Instant::now();
        self.resync_now();
        self.resynced(patience).await?;
        let patience = patience.saturating_sub(begun.elapsed());
        path.set_read_only(Some(self.standby_message()));
        self.want_release(true);
        let answer = self.command(|reply| Command::Release { reply })?;
        match tokio::time::timeout(patience, answer).await {
            Ok(Ok(Ok(point))) => Ok(point),
            Ok(Ok(Err(error))) => {
                if error.kind() != ErrorKind::Fenced {
                    self.want_release(false);
                    path.set_read_only(None);
                }
                Err(error)
            }
            Ok(Err(_)) => Err(closed(self.config.group)),
            Err(_) => {
                // The task may be just about to finish: one of the two decides, under the state's lock.
                let saved = self.state.lock();
                if saved.state.phase == Phase::Standby {
                    drop(saved);
                    return self.observed.lock().last_point.clone().ok_or_else(|| closed(self.config.group));
                }
                self.want_release(false);
                path.set_read_only(None);
                drop(saved);
                Err(EngineError::new(
                    ErrorKind::Retry,
                    format!(
                        "{} could not ship its last writes within {} s: it is active again; see why the vault is slow",
                        self.config.group,
                        patience.as_secs()
                    ),
                ))
            }
        }
    }

    /// Standby → Active again on the same branch: a switch that was called off.
    ///
    /// # Errors
    /// `Fenced` when another gateway has the branch now.
    pub async fn resume(self: &Arc<Self>) -> Result<()> {
        let _change = self.change.lock().await;
        if self.state.lock().state.phase == Phase::Active {
            return Ok(());
        }
        self.expect_phase(Phase::Standby, "resumed")?;
        let path = self.running_path()?;
        let (branch, epoch, shipped) = {
            let saved = self.state.lock();
            (saved.state.branch, saved.state.epoch, saved.state.shipped)
        };
        let settings = ship_settings(&self.settings.lock());
        // Behind a line only this gateway's own process servers write the branch; opening refuses when anybody else did.
        if let Reach::Vault(vault) = &self.config.reach
            && branch::log_end(vault, self.config.group, branch).await?.lsn != shipped.lsn
        {
            return Err(EngineError::new(
                ErrorKind::Fenced,
                format!(
                    "{} was written by another gateway since it was released here: fail back instead",
                    self.config.group
                ),
            ));
        }
        // Refuses when anybody has claimed the branch since, also a fence that this gateway made for a branch of its own.
        let open = Open::Resume { epoch, durable_lsn: path.durable() };
        let (reach, group, gateway) = (&self.config.reach, self.config.group, self.config.gateway);
        let (writer, opened) = reach.open(group, branch, gateway, open, settings, shipped.lsn).await?;
        path.set_epoch(opened.epoch);
        self.change_state(|state| {
            state.phase = Phase::Active;
            state.epoch = opened.epoch;
            state.shipped = place(opened.end);
        })?;
        self.want_release(false);
        path.set_read_only(None);
        self.start_shipping(Some(writer));
        Ok(())
    }

    /// Orderly stop: a last point and its shipping, as far as `deadline` allows; then the files are closed. The state stays
    /// as it is.
    pub async fn close(self: &Arc<Self>, deadline: Duration) {
        if deadline > Duration::ZERO && self.active_path().is_ok() {
            let unshipped = {
                let status = self.status();
                status.last_lsn > status.shipped_lsn
            };
            if unshipped {
                let _ = tokio::time::timeout(deadline, self.take_point(PointKind::CrashConsistent, "")).await;
            }
        }
        self.stop_shipping().await;
        self.stop_running().await;
    }

    /// Deletes the local files of a closed group, also what is left of them where a crash ended an earlier try. Nothing there is
    /// nothing to do. The vault is untouched.
    ///
    /// # Errors
    /// What the disk says.
    pub async fn forget(dir: &Path) -> Result<()> {
        Self::forget_on(&Host, dir)
    }

    /// The same where the group's configuration says.
    ///
    /// # Errors
    /// What the disk says.
    pub fn forget_at(config: &GroupConfig) -> Result<()> {
        Self::forget_on(&*config.machine, &config.dir)
    }

    fn forget_on(machine: &dyn Machine, dir: &Path) -> Result<()> {
        if !machine.has(dir) {
            return Ok(());
        }
        let failed = |error| EngineError::io(format!("delete {}", dir.display()), error);
        state::remove(&machine.raw(dir).map_err(failed)?)?;
        machine.remove(dir).map_err(failed)
    }

    /// What can be seen of the group.
    #[must_use]
    pub fn status(&self) -> GroupStatus {
        let (state, branch, epoch, shipped, volumes) = {
            let saved = self.state.lock();
            let state = &saved.state;
            (group_state(state.phase), state.branch, state.epoch, state.shipped.lsn, state.volumes.clone())
        };
        let running = self.running.lock().clone();
        let figures = running.as_ref().map(|running| running.path.figures());
        let resync = self.resync_status();
        let suspicions = self.suspicions();
        let observed = self.observed.lock();
        let mut reasons: Vec<(Health, String)> = Vec::new();
        match figures.as_ref().map(|figures| &figures.mode) {
            Some(Mode::Poisoned(why)) => reasons.push((Health::Critical, why.clone())),
            Some(Mode::ReadOnly(why)) if state == GroupState::Fenced => reasons.push((Health::Critical, why.clone())),
            _ => {}
        }
        reasons.extend(
            figures
                .iter()
                .flat_map(|figures| [&figures.journal_full, &figures.images_full])
                .filter_map(|why| Some((Health::Critical, why.clone()?))),
        );
        reasons.extend(resync.as_ref().map(|resync| self.resync_reason(resync)));
        reasons.extend(observed.shipping_trouble.clone());
        reasons.extend(observed.hydration_trouble.clone().map(|why| (Health::Warning, why)));
        reasons.extend(observed.app_trouble.clone().map(|why| (Health::Warning, why)));
        let hydrated = running.as_ref().filter(|_| volumes.iter().any(|volume| volume.lazy)).map(|running| {
            volumes
                .iter()
                .filter_map(|volume| running.path.image(volume.id))
                .map(|image| image.kept_blocks() * BLOCK_SIZE_U64)
                .sum()
        });
        let path = running.as_ref().map(|running| &*running.path);
        let flow = self.flow_status(&observed, path, figures.as_ref(), shipped);
        GroupStatus {
            state,
            branch,
            epoch,
            last_lsn: figures.as_ref().map_or(shipped, |figures| figures.last),
            durable_lsn: figures.as_ref().map_or(shipped, |figures| figures.durable),
            image_lsn: figures.as_ref().map_or(shipped, |figures| figures.image),
            shipped_lsn: shipped,
            backlog_bytes: figures.as_ref().map_or(0, |figures| {
                figures.bytes_accepted.saturating_sub(observed.bytes_landed) + figures.dirty_blocks * BLOCK_SIZE_U64
            }),
            journal_bytes_used: figures.as_ref().map_or(0, |figures| figures.journal_bytes),
            last_point: observed.last_point.clone(),
            landed_rpo_seconds: observed.last_point.as_ref().map(|_| {
                observed
                    .uncovered_since(figures.as_ref().map_or(shipped, |figures| figures.last))
                    .map_or(0.0, |since| self.steady.now().seconds_since(since))
            }),
            health: reasons.iter().map(|(health, _)| *health).max().unwrap_or_default(),
            reasons: reasons.into_iter().map(|(_, why)| why).collect(),
            progress: observed.progress.or(resync.as_ref().map(|resync| resync.progress)),
            resync,
            churn_bytes_per_second: observed.churn,
            flow,
            hydrated_bytes: hydrated,
            size_bytes: volumes.iter().map(|volume| volume.blocks * BLOCK_SIZE_U64).sum(),
            suspicions,
        }
    }

    /// The bytes of an identifier that nobody has.
    fn new_id(&self) -> Result<[u8; 16]> {
        self.config.reach.new_id()
    }

    fn active_path(&self) -> Result<Arc<WritePath>> {
        self.expect_phase(Phase::Active, "written to")?;
        self.running_path()
    }

    fn running_path(&self) -> Result<Arc<WritePath>> {
        self.running.lock().as_ref().map(|running| Arc::clone(&running.path)).ok_or_else(|| closed(self.config.group))
    }

    fn expect_phase(&self, phase: Phase, what: &str) -> Result<()> {
        let found = self.state.lock().state.phase;
        if found == phase {
            return Ok(());
        }
        Err(EngineError::new(
            ErrorKind::Fenced,
            format!("{} is {} at this gateway and can't be {what} here", self.config.group, group_state(found)),
        ))
    }

    /// Changes the state file.
    fn change_state(&self, change: impl FnOnce(&mut State)) -> Result<()> {
        let mut saved = self.state.lock();
        let mut next = saved.state.clone();
        change(&mut next);
        saved.file.save(&mut next)?;
        saved.state = next;
        Ok(())
    }

    fn fenced_message(&self) -> String {
        let by = self.observed.lock().fenced_by.clone().unwrap_or_else(|| "another gateway".to_owned());
        format!(
            "{} is read-only here: {by} has taken over. Write there, or fail back to this gateway",
            self.config.group
        )
    }

    fn standby_message(&self) -> String {
        format!("{} is read-only here: it was released to another gateway", self.config.group)
    }
}

/// What became of the tenure that this gateway held before it stopped.
enum Tenure {
    Held(Box<Writer>),
    Unknown,
    Lost,
}

fn group_state(phase: Phase) -> GroupState {
    phase.state()
}

fn place(position: branch::Position) -> Place {
    Place { branch: position.branch, epoch: position.epoch, seq: position.seq, lsn: position.lsn }
}

fn position(place: Place) -> branch::Position {
    branch::Position { branch: place.branch, epoch: place.epoch, seq: place.seq, lsn: place.lsn }
}

fn blocks_of(volume: &VolumeSpec) -> Result<u64> {
    let blocks = volume.size_bytes / BLOCK_SIZE_U64;
    if !volume.size_bytes.is_multiple_of(BLOCK_SIZE_U64) || blocks == 0 || blocks > lifeboat_model::VOLUME_BLOCKS_MAX {
        return Err(EngineError::new(
            ErrorKind::Invalid,
            format!("{} bytes is no size for {}: a multiple of 4096 from 4096 to 64 TiB", volume.size_bytes, volume.id),
        ));
    }
    Ok(blocks)
}

fn limits(settings: &GroupSettings) -> Limits {
    Limits::for_journal(settings.journal_bytes, settings.cache_bytes)
}

fn ship_settings(settings: &GroupSettings) -> ShipSettings {
    ShipSettings {
        compression: settings.compression,
        retention: settings.retention.clone(),
        pace: Arc::clone(&settings.pace),
        ..ShipSettings::default()
    }
}

fn local_disk(config: &GroupConfig) -> Result<Arc<dyn Disk>> {
    let opened = config.machine.open(&config.dir);
    opened.map_err(|error| EngineError::io(format!("open {}", config.dir.display()), error))
}

fn closed(group: GroupId) -> EngineError {
    EngineError::new(ErrorKind::Closed, format!("{group} is not open at this gateway"))
}
