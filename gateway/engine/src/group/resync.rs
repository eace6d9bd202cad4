//! Resync: what becomes of a group whose journal fills while the vault takes nothing, and how the vault catches up.
//!
//! ```text
//! journal full, vault away ─collapse─> resync needed ─vault back, window open─> copying ─> all copied
//!                                           ^                                     │            │ consistent point landed
//!                                           └──────────── journal full again ─────┘            └──> none
//! ```
//! The collapse runs on the destage thread: no writer waits for it that would not wait anyway. The copier is a task beside the
//! one that ships, for one tenure. It takes no lock that writers need, goes on only while the vault takes what it
//! copies, and never fills the journal by itself. After a crash it goes on from the map on disk, which may name blocks
//! that were copied already; what is reported as done comes from that map and so never goes back.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use lifeboat_format::local::{Resync, ResyncCause};
use lifeboat_model::state::Health;
use lifeboat_model::{BLOCK_SIZE_U64, Extent, Lsn, Timestamp, VolumeId};
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::running::{self, Running};
use super::shipping::Command;
use super::{Group, Phase, Progress};
use crate::error::{EngineError, ErrorKind, Result};
use crate::write_path::{Ack, CopyStep, WritePath};

/// Blocks read and placed at a time: 1 MiB.
const COPY_BLOCKS: u64 = 256;
/// Bytes copied between two flushes.
const FLUSH_EVERY: u64 = 16 << 20;
/// Bytes copied between two saves of the map.
const SAVE_EVERY: u64 = 64 << 20;
/// Share of the journal, percent, beyond which copies wait for the vault. Beyond where writers are slowed: copies have to get
/// their share beside writers who take everything.
const JOURNAL_SHARE: u64 = 85;
/// How often a copier that waits looks again.
const LOOK_AGAIN: Duration = Duration::from_millis(500);
/// Failed tries in a row after which a vault counts as away.
const FAILURES: usize = 2;

/// What is shared between a group's tasks about its resync.
#[derive(Debug, Default)]
pub(super) struct ResyncControl {
    /// There may be something to copy.
    wake: Arc<Notify>,
    /// A resync ended, or its requests changed.
    changed: Notify,
    /// Somebody wants it now, whatever the window says.
    requested: AtomicBool,
}

/// A resync as it can be seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResyncStatus {
    /// Since when the vault lacks blocks.
    pub since: Timestamp,
    /// Why.
    pub cause: ResyncCause,
    /// Newest record whose block the log does not bring; zero when there is none.
    pub collapsed: Lsn,
    /// How far it is: bytes that a restart would not copy again.
    pub progress: Progress,
    /// What it waits for; none while it copies.
    pub waits_for: Option<String>,
}

impl Group {
    /// Whether the vault lacks blocks, and how far it is from having them.
    #[must_use]
    pub fn resync_status(&self) -> Option<ResyncStatus> {
        let resync = self.state.lock().state.resync?;
        let saved = self.running.lock().as_ref().map_or(0, |running| running.path.saved_dirty_blocks());
        let total = resync.total_blocks.max(saved);
        Some(ResyncStatus {
            since: resync.since,
            cause: resync.cause,
            collapsed: resync.collapsed,
            progress: Progress { done_bytes: (total - saved) * BLOCK_SIZE_U64, total_bytes: total * BLOCK_SIZE_U64 },
            waits_for: self.observed.lock().resync_waits.clone(),
        })
    }

    /// Begins the resync that is needed now, whatever its window says; nothing happens without one.
    pub fn resync_now(&self) {
        self.resync.requested.store(true, Ordering::Release);
        self.resync.wake.notify_one();
    }

    /// More is dirty.
    pub(super) fn resync_wanted(&self) {
        self.resync.wake.notify_one();
    }

    /// Takes [`Group::resync_now`] back: the window counts again.
    pub fn resync_in_window(&self) {
        self.resync.requested.store(false, Ordering::Release);
    }

    /// Waits until the vault has everything that the log does not bring, and a consistent point says so.
    ///
    /// # Errors
    /// `Retry` when that takes longer than `patience`; it goes on all the same.
    pub async fn resynced(&self, patience: Duration) -> Result<()> {
        let deadline = Instant::now() + patience;
        loop {
            let changed = self.resync.changed.notified();
            if self.state.lock().state.resync.is_none() {
                return Ok(());
            }
            if tokio::time::timeout_at(deadline, changed).await.is_err() {
                return Err(self.in_resync("wait until it is done"));
            }
        }
    }

    /// Why something can't be done while a resync is under way.
    pub(super) fn in_resync(&self, what_to_do: &str) -> EngineError {
        let progress = self.resync_status().map_or_else(String::new, |status| {
            let Progress { done_bytes, total_bytes } = status.progress;
            let waits = status.waits_for.map_or_else(String::new, |why| format!("; it waits: {why}"));
            format!(": {} of {} MiB copied{waits}", done_bytes >> 20, total_bytes.div_ceil(1 << 20))
        });
        EngineError::new(
            ErrorKind::Retry,
            format!(
                "{} is being resynced, and the vault lacks blocks until then{progress}: {what_to_do}",
                self.config.group
            ),
        )
    }

    /// The reasons that a resync gives for a group's health.
    pub(super) fn resync_reason(&self, status: &ResyncStatus) -> (Health, String) {
        let Progress { done_bytes, total_bytes } = status.progress;
        let how_far = format!("{} of {} MiB copied", done_bytes >> 20, total_bytes.div_ceil(1 << 20));
        let why = match status.cause {
            ResyncCause::JournalFull => "the journal was full while the vault took nothing",
            ResyncCause::Initial => "a volume was taken in with its content",
            ResyncCause::Compared => "blocks differed from the vault's",
            ResyncCause::ListLost => "the list of blocks to copy was lost, so every block counts",
        };
        let text = match &status.waits_for {
            None => format!(
                "resync under way, since {why}: {how_far}; recovery points taken before its end are not offered"
            ),
            Some(waits) => format!("resync needed, since {why}: {how_far}; it waits: {waits}"),
        };
        (Health::Warning, text)
    }

    /// On the destage thread: gives the unshipped part of the journal up when writers wait for a vault that takes nothing.
    pub(super) fn collapse_when_due(&self, path: &WritePath) {
        let full = path.journal_is_full() && self.is_active();
        let shipped = self.state.lock().state.shipped.lsn;
        let due = {
            let patience = self.settings.lock().resync.collapse_after;
            let mut observed = self.observed.lock();
            let since = match observed.full_since.filter(|(_, at)| full && *at == shipped) {
                Some((since, _)) => since,
                None => Instant::now(),
            };
            observed.full_since = full.then_some((since, shipped));
            full && (observed.failures >= FAILURES || since.elapsed() >= patience)
        };
        // Space comes free only behind what the images hold.
        if due
            && path.figures().image > shipped.max(path.collapsed())
            && let Err(error) = self.collapse(path)
        {
            tracing::error!(group = %self.config.group, %error, "the full journal could not be collapsed: writes wait");
        }
    }

    fn is_active(&self) -> bool {
        self.state.lock().state.phase == Phase::Active && !self.observed.lock().release_wanted
    }

    /// Gives the unshipped part of the journal up as a log; its blocks are copied later.
    fn collapse(&self, path: &WritePath) -> Result<()> {
        let shipped = self.state.lock().state.shipped.lsn;
        let before = path.saved_dirty_blocks();
        let upto = path.collapse(shipped, &mut |upto, dirty| {
            self.begin_resync(ResyncCause::JournalFull, Some(upto), before, dirty)
        })?;
        tracing::warn!(
            group = %self.config.group, %shipped, %upto, blocks = path.saved_dirty_blocks(),
            "the journal was full and the vault took nothing: writes go on, and a resync is needed"
        );
        self.checkpoint(path);
        self.resync.wake.notify_one();
        if let Some(shipping) = self.shipping.lock().as_ref() {
            shipping.wake();
        }
        Ok(())
    }

    /// Makes the state say that a resync is needed. `before`: dirty blocks of the map before this.
    pub(super) fn begin_resync(
        &self,
        cause: ResyncCause,
        collapsed: Option<Lsn>,
        before: u64,
        dirty: u64,
    ) -> Result<()> {
        let mut refused = false;
        self.change_state(|state| {
            // Under the state's lock, as is a release that is just finishing.
            refused = state.phase != Phase::Active || collapsed.is_some() && self.observed.lock().release_wanted;
            if refused {
                return;
            }
            let old = state.resync;
            let done = old.map_or(0, |old| old.total_blocks.saturating_sub(before));
            state.resync = Some(Resync {
                since: old.map_or_else(|| self.config.reach.now(), |old| old.since),
                cause: if collapsed.is_some() { cause } else { old.map_or(cause, |old| old.cause) },
                collapsed: collapsed.or(old.map(|old| old.collapsed)).unwrap_or(Lsn::ZERO),
                total_blocks: done + dirty,
            });
        })?;
        if refused {
            return Err(EngineError::new(
                ErrorKind::Fenced,
                format!("{} is no longer written to at this gateway", self.config.group),
            ));
        }
        Ok(())
    }

    /// A consistent point has landed: perhaps the resync is over.
    pub(super) async fn end_resync(self: &Arc<Self>, running: &Arc<Running>, landed: Lsn) -> Result<()> {
        if self.state.lock().state.resync.is_none() {
            return Ok(());
        }
        let (group, running) = (Arc::clone(self), Arc::clone(running));
        let ended = crate::blocking::run(move || {
            running.path.finish_resync(landed, &mut || group.change_state(|state| state.resync = None))
        })
        .await
        .map_err(|_| running::gone())??;
        if ended {
            self.observed.lock().resync_waits = None;
            self.resync_in_window();
            self.resync.changed.notify_waiters();
            tracing::info!(group = %self.config.group, "the resync is done: recovery points are offered again");
        }
        Ok(())
    }

    /// Starts the copier of a tenure.
    pub(super) fn start_copier(self: &Arc<Self>, stop: CancellationToken) -> tokio::task::JoinHandle<()> {
        let copier = Copier { group: Arc::downgrade(self), wake: Arc::clone(&self.resync.wake), unsaved: 0 };
        tokio::spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = copier.work() => {}
            }
        })
    }

    /// Why nothing may be copied just now.
    fn copy_waits(&self, path: &WritePath) -> Option<String> {
        if !self.is_active() {
            return Some("the group is not written to at this gateway".to_owned());
        }
        if let Some((_, why)) = &self.observed.lock().shipping_trouble {
            return Some(why.clone());
        }
        if self.state.lock().state.shipped.lsn < path.collapsed() {
            return Some("for the vault to take what was written since".to_owned());
        }
        let settings = self.settings.lock();
        let open = settings.resync.hours.as_ref().is_none_or(|hours| hours.contains(self.config.reach.now()));
        (!open && !self.resync.requested.load(Ordering::Acquire))
            .then(|| "for its window; `lifeboat resync` begins it at once".to_owned())
    }

    /// Asks for a point, and that everything is shipped.
    fn ship_now(&self) {
        let _ = self.command(|reply| Command::Ship { reply });
    }
}

/// Copies what the vault lacks.
struct Copier {
    group: Weak<Group>,
    wake: Arc<Notify>,
    /// Bytes copied since the map was saved.
    unsaved: u64,
}

impl Copier {
    async fn work(mut self) {
        loop {
            let Some(group) = self.group.upgrade() else { return };
            let Some(running) = group.running.lock().clone() else { return };
            if running.path.is_complete() {
                drop((group, running));
                self.wake.notified().await;
                continue;
            }
            let waits = group.copy_waits(&running.path);
            let done = match &waits {
                Some(_) => Ok(()),
                None => self.copy_some(&group, &running).await,
            };
            let waits = waits.or_else(|| done.as_ref().err().map(ToString::to_string));
            if let Err(error) = &done {
                tracing::warn!(group = %group.config.group, %error, "copying for the resync failed: trying again");
            }
            let pause = waits.is_some();
            group.observed.lock().resync_waits = waits;
            drop((group, running));
            if pause {
                let _ = tokio::time::timeout(LOOK_AGAIN, self.wake.notified()).await;
            }
        }
    }

    /// Copies some MiB, and makes them durable.
    async fn copy_some(&mut self, group: &Arc<Group>, running: &Arc<Running>) -> Result<()> {
        let path = &running.path;
        if path.journal_percent() > JOURNAL_SHARE {
            group.ship_now();
            path.room().await;
            return Ok(());
        }
        let mut copied = 0;
        while copied < FLUSH_EVERY && path.journal_percent() <= JOURNAL_SHARE {
            let start = (VolumeId::from_bytes([0; 16]), 0);
            // A small journal is not to be filled by one run.
            let blocks = (path.limits().journal.limit_bytes / BLOCK_SIZE_U64 / 64).clamp(1, COPY_BLOCKS);
            let Some((volume, extent)) = path.watch_dirty(start, blocks) else {
                if copied == 0 && !path.is_complete() {
                    // What is left belongs to a volume that is just being taken in.
                    let _ = tokio::time::timeout(LOOK_AGAIN, self.wake.notified()).await;
                }
                break;
            };
            let pace = Arc::clone(&group.settings.lock().resync.pace);
            pace.take(extent.blocks * BLOCK_SIZE_U64, || group.config.reach.now()).await;
            copied += copy_run(running, volume, extent).await? * BLOCK_SIZE_U64;
        }
        running::flush(path).await?;
        self.unsaved += copied;
        let complete = path.is_complete();
        if complete || self.unsaved >= SAVE_EVERY {
            self.unsaved = 0;
            let running = Arc::clone(running);
            crate::blocking::run(move || running.path.save_dirty()).await.map_err(|_| running::gone())??;
        }
        if complete {
            group.ship_now();
        }
        Ok(())
    }
}

/// Copies one run of watched blocks; gives the number of blocks that were placed.
async fn copy_run(running: &Arc<Running>, volume: VolumeId, extent: Extent) -> Result<u64> {
    let content = {
        let running = Arc::clone(running);
        crate::blocking::run(move || read_run(&running.path, volume, extent)).await.map_err(|_| running::gone())??
    };
    let path = &running.path;
    let mut acks: Vec<Ack> = Vec::new();
    let mut placed = 0;
    loop {
        match path.copy(&content)? {
            CopyStep::Copied(_, blocks, ack) => {
                placed += blocks;
                acks.push(ack);
            }
            CopyStep::Wait => path.room().await,
            CopyStep::Done => break,
        }
    }
    for ack in acks {
        ack.await.map_err(|_| running::gone())??;
    }
    Ok(placed)
}

/// Content of watched blocks. Those that a branch has not fetched are its origin's, and the vault has them.
fn read_run(path: &WritePath, volume: VolumeId, extent: Extent) -> Result<Vec<u8>> {
    let mut content = vec![0; usize::try_from(extent.blocks * BLOCK_SIZE_U64).unwrap_or(usize::MAX)];
    for absent in path.read_here(volume, extent, &mut content)? {
        path.brought(volume, absent);
    }
    Ok(content)
}
