//! A write path at work: its four threads, and the point that absent blocks are read from.

use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

use lifeboat_model::{GroupId, Lsn};
use lifeboat_vault::Vault;
use tokio::time::Instant;

use super::{Group, Place, ResyncCause, State, limits, position};
use crate::branch::Position;
use crate::error::{EngineError, ErrorKind, Result};
use crate::image::Image;
use crate::machine::Drive;
use crate::planted::{self, Bug};
use crate::record::Op;
use crate::segments::{Reader, ReaderLimits};
use crate::sync::Lock;
use crate::view::PointView;
use crate::write_path::{Due, Submitted, WritePath};

/// How often the images are brought up to date when nothing presses.
const UPKEEP: Duration = Duration::from_millis(500);
/// How often the state file is brought up to date, and journal files given back.
const CHECKPOINT: Duration = Duration::from_secs(1);
/// Pauses of a loop that is driven in steps grow to this power of two while it has nothing to do.
const STEPS_IDLE_MAX: u32 = 6;

#[derive(Debug)]
pub(super) struct Running {
    pub(super) path: Arc<WritePath>,
    origin: Option<Place>,
    base: tokio::sync::OnceCell<Arc<PointView>>,
    threads: Lock<Vec<JoinHandle<()>>>,
}

impl Group {
    /// Opens images and journal as the state file has them.
    pub(super) fn open_write_path(&self) -> Result<Arc<WritePath>> {
        let state = self.state.lock().state.clone();
        let images = state
            .volumes
            .iter()
            .map(|volume| Ok((volume.id, Arc::new(Image::open(&self.disk, volume.id, volume.blocks)?))))
            .collect::<Result<Vec<_>>>()?;
        let path = WritePath::open(
            &self.disk,
            self.config.group,
            state.epoch,
            limits(&self.settings.lock()),
            images,
            state.image_lsn,
            needed_after(&state),
        )?;
        let lost = path.restore_dirty(state.resync.map(|resync| resync.collapsed))?;
        if lost {
            tracing::warn!(group = %self.config.group, "the list of blocks that the vault lacks is lost: all are copied");
            let dirty = path.save_dirty()?;
            self.change_state(|state| {
                if let Some(resync) = state.resync.as_mut() {
                    resync.cause = ResyncCause::ListLost;
                    resync.total_blocks = dirty;
                }
            })?;
        }
        Ok(Arc::new(path))
    }

    /// Starts the threads of a write path.
    pub(super) fn start(self: &Arc<Self>, path: Arc<WritePath>, base: Option<Arc<PointView>>) {
        let origin = self.state.lock().state.origin;
        let upkept = {
            let group = Arc::downgrade(self);
            let mut last = Instant::now();
            move |path: &WritePath| {
                let Some(group) = group.upgrade() else { return };
                checkpoint_when_due(&group, path, &mut last);
                group.note_flow(path);
                group.collapse_when_due(path);
            }
        };
        let threads = match self.config.machine.drive() {
            Drive::Threads => self.start_threads(&path, upkept),
            Drive::Steps(pause) => {
                start_steps(&path, &pause, upkept);
                Vec::new()
            }
        };
        let base = tokio::sync::OnceCell::new_with(base);
        *self.running.lock() = Some(Arc::new(Running { path, origin, base, threads: Lock::new(threads) }));
    }

    fn start_threads(
        &self,
        path: &Arc<WritePath>,
        mut upkept: impl FnMut(&WritePath) + Send + 'static,
    ) -> Vec<JoinHandle<()>> {
        path.acknowledge_from(tokio::runtime::Handle::current());
        let [commit, sync, settle, upkeep] = [(); 4].map(|()| Arc::clone(path));
        let spawn = |name: &str, body: Box<dyn FnOnce() + Send>| {
            std::thread::Builder::new().name(name.to_owned()).spawn(body).ok()
        };
        let threads: Vec<JoinHandle<()>> = [
            spawn("journal-commit", Box::new(move || commit.commit_loop())),
            spawn("journal-sync", Box::new(move || sync.sync_loop())),
            spawn("image-sync", Box::new(move || settle.settle_loop())),
            spawn("destage", Box::new(move || upkeep.upkeep_loop(UPKEEP, |_| upkept(&upkeep)))),
        ]
        .into_iter()
        .flatten()
        .collect();
        if threads.len() < 4 {
            path.set_read_only(Some(format!("{}: the system gives this process no more threads", self.config.group)));
        }
        threads
    }

    /// Brings the images up to date, ends the threads, and closes the write path.
    pub(super) async fn stop_running(&self) {
        let Some(running) = self.running.lock().take() else { return };
        let _ = crate::blocking::run(move || {
            running.path.stop();
            let threads = std::mem::take(&mut *running.threads.lock());
            for thread in threads {
                let _ = thread.join();
            }
            if let Err(error) = running.path.make_durable(running.path.figures().last).and_then(|()| running.path.destage()) {
                tracing::warn!(%error, "the images were not brought up to date before the stop; the journal has the rest");
            }
            running
        })
        .await
        .map(|running| self.checkpoint(&running.path));
    }

    /// Saves how far images and vault are, and gives back the journal files that neither needs.
    pub(super) fn checkpoint(&self, path: &WritePath) {
        let image = path.figures().image;
        let saved = self.change_state(|state| {
            state.image_lsn = state.image_lsn.max(image);
            // The record that grew a volume may be behind the watermark from here on: its size must be in the state.
            for volume in state.volumes.iter_mut().filter(|_| !planted::is(Bug::ForgetsGrownSize)) {
                volume.blocks = path.image(volume.id).map_or(volume.blocks, |image| volume.blocks.max(image.blocks()));
            }
        });
        match saved {
            Ok(()) => {
                let state = self.state.lock();
                let shipped = needed_after(&state.state);
                let shipped = if planted::is(Bug::ReclaimsUnshipped) { state.state.image_lsn } else { shipped };
                let upto = state.state.image_lsn.min(shipped);
                drop(state);
                path.reclaim(upto);
            }
            Err(error) => tracing::warn!(group = %self.config.group, %error, "the state file could not be written"),
        }
    }
}

/// Records up to here are no longer needed for the vault: it has them, or they were given up in a collapse.
fn needed_after(state: &State) -> Lsn {
    state.shipped.lsn.max(state.resync.map_or(Lsn::ZERO, |resync| resync.collapsed))
}

impl Drop for Running {
    /// Threads hold the write path, and would go on for ever with a group that nobody has any more.
    fn drop(&mut self) {
        self.path.stop();
    }
}

impl Running {
    /// The point that absent blocks are read from.
    pub(super) async fn base(&self, group: &Group) -> Result<&Arc<PointView>> {
        self.base
            .get_or_try_init(|| async {
                let origin = self.origin.ok_or_else(|| {
                    EngineError::new(
                        ErrorKind::Damaged,
                        format!("{} lacks blocks and has no point to read them from", group.config.group),
                    )
                })?;
                view_at(group, position(origin)).await
            })
            .await
    }
}

/// A view of the group at a position, with caches of its own.
pub(super) async fn view_at(group: &Group, at: Position) -> Result<Arc<PointView>> {
    view_at_position(group.config.reach.vault()?, group.config.group, at).await
}

/// The same for a group that isn't open.
pub(super) async fn view_at_position(vault: &Arc<Vault>, group: GroupId, at: Position) -> Result<Arc<PointView>> {
    let reader = Reader::open(vault, group, ReaderLimits::default()).await?;
    PointView::open_at(&reader, at).await
}

/// Runs the loops of a write path as tasks, a step at a time, until it is stopped or dropped.
fn start_steps(
    path: &Arc<WritePath>,
    pause: &Arc<dyn Fn() -> Duration + Send + Sync>,
    mut upkept: impl FnMut(&WritePath) + Send + 'static,
) {
    // What fails is in the group's state, and everybody who waited was told.
    tokio::spawn(steps(Arc::downgrade(path), Arc::clone(pause), |path, due| due.commit && path.commit().is_ok()));
    tokio::spawn(steps(Arc::downgrade(path), Arc::clone(pause), |path, due| due.sync && path.sync().is_ok()));
    tokio::spawn(steps(Arc::downgrade(path), Arc::clone(pause), |path, due| due.settle && path.settle().is_ok()));
    let mut next = Instant::now() + UPKEEP;
    tokio::spawn(steps(Arc::downgrade(path), Arc::clone(pause), move |path, due| {
        if !due.upkeep && Instant::now() < next {
            return false;
        }
        next = Instant::now() + UPKEEP;
        let done = path.upkeep();
        upkept(path);
        done.destaged
    }));
}

async fn steps(
    path: Weak<WritePath>,
    pause: Arc<dyn Fn() -> Duration + Send + Sync>,
    mut step: impl FnMut(&WritePath, Due) -> bool,
) {
    let mut idle = 0;
    loop {
        tokio::time::sleep(pause() * (1 << idle)).await;
        let Some(path) = path.upgrade() else { return };
        let due = path.due();
        if due.stopping {
            return;
        }
        idle = if step(&path, due) { 0 } else { (idle + 1).min(STEPS_IDLE_MAX) };
    }
}

fn checkpoint_when_due(group: &Group, path: &WritePath, last: &mut Instant) {
    if last.elapsed() < CHECKPOINT {
        return;
    }
    let figures = path.figures();
    let moved = {
        let mut saved = group.state.lock();
        let shipped_moved = std::mem::take(&mut saved.shipped_moved);
        figures.image > saved.state.image_lsn || shipped_moved
    };
    if moved {
        *last = Instant::now();
        group.checkpoint(path);
    }
}

/// Submits one record of the group itself and waits until it is acknowledged; gives its place in the write order.
pub(super) async fn submit(path: &WritePath, op: &Op) -> Result<Lsn> {
    loop {
        match path.submit_control(op)? {
            Submitted::Accepted(lsn, ack) => {
                ack.await.map_err(|_| gone())??;
                return Ok(lsn);
            }
            Submitted::Wait => path.room().await,
        }
    }
}

/// Waits until everything submitted so far is durable.
pub(super) async fn flush(path: &WritePath) -> Result<()> {
    match path.flush()? {
        None => Ok(()),
        Some(ack) => ack.await.map_err(|_| gone())?,
    }
}

/// The same for everything acknowledged so far, for an application that asks.
pub(super) async fn flush_acknowledged(path: &WritePath) -> Result<()> {
    match path.flush_acknowledged()? {
        None => Ok(()),
        Some(ack) => ack.await.map_err(|_| gone())?,
    }
}

/// The write path went away with a request in its hands.
pub(super) fn gone() -> EngineError {
    EngineError::new(ErrorKind::Closed, "the group was closed while the request was waiting")
}
