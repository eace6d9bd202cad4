//! The write path of a group: LSNs, acknowledgement, group commit, overlay, destaging. Everything here is synchronous and
//! is driven in steps, so that tests can put a crash between any two of them.
//!
//! ```text
//! submit ─LSN, overlay─> open batch ──commit──> journal ──sync──> durable ──spill──> images ──settle──> state, reclaim
//!    ack after commit ────────┘   flush: ack after sync ──┘              (frozen layer only)   (their sync)
//! ```
//! Locks, always taken in this order: dirty → settling → destage → reading → journal → sync → core. `core` is held for memory operations only.
//!
//! - An acknowledged record is in the kernel; a flushed one is durable. Records are acknowledged in LSN order. Where each write
//!   is flushed anyway, it is acknowledged when it is durable ([`follow`]).
//! - Only durable records reach an image (the frozen layer waits for its sync) or a reader of [`WritePath::durable`].
//! - What an image was given leaves the overlay at once, and counts as there ([`Figures::image`]) once the image is synced, which
//!   is put off for as long as there is something to gain: what is written again meanwhile reaches the disk once. A restart
//!   takes the records since then from the journal again.
//! - Space for a batch exists, zero-filled, before its records get an LSN: a full disk refuses a write, it never
//!   loses one that was accepted.
//! - While the vault lacks blocks that the journal no longer brings (`resync`), every point is placed as not consistent.
//! - A failed journal write or sync, or a failed image sync, *poisons* the group: nothing is acknowledged any more, what is
//!   there stays readable. The kernel forgets what it could not write, so that trying again would be a lie.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Condvar, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use lifeboat_format::journal::EntryOp;
use lifeboat_model::{BLOCK_SIZE, BLOCK_SIZE_U64, Epoch, Extent, GroupId, Lsn, PointId, Timestamp, VolumeId};
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use crate::dirty::DirtyFile;
use crate::disk::Disk;
use crate::error::{EngineError, ErrorKind, Result};
use crate::image::Image;
use crate::journal::{BATCH_ENTRIES, Journal, JournalSizes, LogReader, OpenBatch};
use crate::overlay::{Content, Overlay, Run};
use crate::planted::{self, Bug};
use crate::record::{LogRecord, Op, PointMark};
use crate::sync::Lock;

mod follow;
mod hold;
mod loops;
mod resync;
mod settle;
mod stages;
#[cfg(test)]
mod tests;
mod throttle;

use follow::Follow;
pub use loops::{Due, Upkeep};
use resync::Missing;
pub use resync::{CopyStep, LogChunk};
use settle::Unsettled;
use throttle::Throttle;

/// What images may have been given since they were synced, at most: what a restart reads again.
const UNSETTLED_BYTES: u64 = 256 << 20;

/// So many acknowledgements a thread of the journal gives itself: each of them wakes another thread.
const ACKS_HERE: usize = 4;

/// Bounds of a write path.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of data that may wait for the images, in memory.
    pub overlay_bytes: u64,
    /// Bytes that images may have been given since they were synced; some more while that is under way.
    pub unsettled_bytes: u64,
    /// Bytes of one batch, at most.
    pub batch_bytes: usize,
    /// Bytes accepted and not yet in the kernel, at most.
    pub queue_bytes: u64,
    /// Files of the journal.
    pub journal: JournalSizes,
}

impl Limits {
    /// Limits for a journal of that many bytes.
    pub fn for_journal(limit_bytes: u64, overlay_bytes: u64) -> Self {
        let file_bytes = (limit_bytes / 8).clamp(1 << 20, 64 << 20).next_multiple_of(BLOCK_SIZE_U64);
        let batch_bytes = usize::try_from(file_bytes / 4).unwrap_or(usize::MAX).min(4 << 20);
        Self {
            overlay_bytes,
            unsettled_bytes: (limit_bytes / 8).min(UNSETTLED_BYTES),
            batch_bytes,
            queue_bytes: file_bytes / 4,
            journal: JournalSizes { file_bytes, limit_bytes },
        }
    }

    /// Longest payload of one record.
    pub fn record_bytes_max(&self) -> usize {
        (self.batch_bytes / 2).min(1 << 20) / BLOCK_SIZE * BLOCK_SIZE
    }
}

/// Records that were found when a journal was opened, change a volume, and come after those that nobody needs: the vault may lack them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recovered {
    /// The last of them.
    pub newest: Lsn,
    /// When the first of them was written.
    pub since: Timestamp,
}

/// One acknowledgement to come.
pub type Ack = oneshot::Receiver<Result<()>>;
type AckSender = oneshot::Sender<Result<()>>;

/// What a submission came to.
#[derive(Debug)]
pub enum Submitted {
    /// It has this LSN; the acknowledgement follows.
    Accepted(Lsn, Ack),
    /// No room just now: wait for [`WritePath::room`], then submit again.
    Wait,
}

/// Why a group accepts no writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mode {
    Writable,
    ReadOnly(String),
    Poisoned(String),
}

/// Figures for status.
#[derive(Clone, Debug)]
pub struct Figures {
    pub last: Lsn,
    pub durable: Lsn,
    pub image: Lsn,
    pub overlay_bytes: u64,
    pub journal_bytes: u64,
    pub mode: Mode,
    pub journal_full: Option<String>,
    /// Why the images can't take what waits for them; they are tried again and again.
    pub images_full: Option<String>,
    /// Bytes of the journal that hold records, or will.
    pub journal_written: u64,
    pub bytes_accepted: u64,
    /// Blocks that the vault lacks and that no record brings.
    pub dirty_blocks: u64,
    /// Records up to here that were not shipped are no longer needed.
    pub collapsed: Lsn,
}

#[derive(Debug)]
pub struct WritePath {
    group: GroupId,
    disk: Arc<dyn Disk>,
    limits: Limits,
    epoch: Lock<Epoch>,
    dirty: Lock<DirtyFile>,
    settling: Lock<()>,
    destaging: Lock<()>,
    /// Held while records are read back, and while their files are given back.
    reading: Lock<()>,
    journal: Lock<Journal>,
    syncing: Lock<()>,
    core: Lock<Core>,
    commit_wanted: Condvar,
    sync_wanted: Condvar,
    upkeep_wanted: Condvar,
    settle_wanted: Condvar,
    room: tokio::sync::Notify,
    syncs: crate::meter::Histogram,
    recovered: Option<Recovered>,
    /// Where many acknowledgements at once are given from.
    runtime: OnceLock<Handle>,
}

#[derive(Debug)]
struct Core {
    mode: Mode,
    stopping: bool,
    next: Lsn,
    open: Queued,
    sealed: VecDeque<Queued>,
    queued_bytes: u64,
    written: Lsn,
    durable: Lsn,
    flushes: Vec<(Lsn, AckSender)>,
    /// Newest acknowledged record.
    acknowledged: Lsn,
    /// Batches that are in the kernel, by their last record, and are acknowledged when they are durable.
    waiting: VecDeque<(Lsn, Vec<AckSender>)>,
    follow: Follow,
    volumes: BTreeMap<VolumeId, VolumeEntry>,
    frozen_at: Option<Lsn>,
    /// Records up to here were given to the images.
    spilled: Lsn,
    /// Records up to here are durable in the images.
    image: Lsn,
    unsettled: Unsettled,
    /// Images are being synced for records up to `spilled` as it was when that began.
    settling: bool,
    /// A free journal file is ready.
    spare_ready: bool,
    /// Bytes left in the journal's current file.
    file_room: u64,
    /// Why no further file could be prepared.
    journal_full: Option<EngineErrorNote>,
    /// Why the images could not take what waits for them: their disk has no room.
    images_full: Option<EngineErrorNote>,
    /// Bytes that records take up in the journal's files.
    journal_bytes: u64,
    bytes_accepted: u64,
    missing: Missing,
    throttle: Throttle,
    /// Writes wait for this point to get its place.
    held: Option<PointId>,
}

#[derive(Debug, Clone)]
struct EngineErrorNote {
    kind: ErrorKind,
    text: String,
}

impl EngineErrorNote {
    fn error(&self) -> EngineError {
        EngineError::new(self.kind, self.text.clone())
    }
}

#[derive(Debug)]
struct Queued {
    batch: OpenBatch,
    acks: Vec<AckSender>,
}

impl Queued {
    fn new() -> Self {
        Self { batch: OpenBatch::new(), acks: Vec::new() }
    }
}

#[derive(Debug)]
struct VolumeEntry {
    image: Arc<Image>,
    overlay: Overlay,
}

/// A piece of a volume's content.
#[derive(Debug)]
pub enum Piece {
    /// From the overlay.
    Memory(Extent, Option<Bytes>),
    /// To be read from the image.
    Image(Extent),
    /// Absent at this gateway: to be read from the point that the branch forked from.
    Absent(Extent),
}

impl WritePath {
    /// A write path over an empty journal whose first record will be `first`.
    pub fn create(disk: &Arc<dyn Disk>, group: GroupId, epoch: Epoch, limits: Limits, first: Lsn) -> Result<Self> {
        let journal = Journal::create(disk, group, limits.journal, first)?;
        DirtyFile::new(disk, group).remove()?;
        Ok(Self::assemble(disk, group, epoch, limits, journal, first.previous(), BTreeMap::new()))
    }

    /// Opens the journal after a stop or a crash: records after `image_lsn` go to the overlay again.
    ///
    /// `needed_after`: the older of what the images hold and what was shipped.
    pub fn open(
        disk: &Arc<dyn Disk>,
        group: GroupId,
        epoch: Epoch,
        limits: Limits,
        images: Vec<(VolumeId, Arc<Image>)>,
        image_lsn: Lsn,
        needed_after: Lsn,
    ) -> Result<Self> {
        let mut volumes: BTreeMap<VolumeId, VolumeEntry> =
            images.into_iter().map(|(id, image)| (id, VolumeEntry { image, overlay: Overlay::default() })).collect();
        let mut all = true;
        let mut recovered: Option<Recovered> = None;
        let journal = Journal::open(disk, group, limits.journal, needed_after.min(image_lsn), &mut |record, time| {
            all = all && overlay_bytes(&volumes) < limits.overlay_bytes;
            if record.lsn > needed_after && record.op.target().is_some() {
                let since = recovered.map_or(time, |recovered| recovered.since);
                recovered = Some(Recovered { newest: record.lsn, since });
            }
            if all && record.lsn > image_lsn { replay(&mut volumes, record) } else { Ok(()) }
        })?;
        if journal.next_lsn() <= image_lsn {
            return Err(EngineError::new(
                ErrorKind::Damaged,
                format!(
                    "the journal of {group} ends before record {}, and its images hold record {image_lsn}: the disk has lost data. \
                     Check the disk; then recover the volumes from the vault",
                    journal.next_lsn()
                ),
            ));
        }
        let mut path = Self::assemble(disk, group, epoch, limits, journal, image_lsn, volumes);
        path.recovered = recovered;
        if !all {
            path.replay_in_steps(image_lsn)?;
        }
        Ok(path)
    }

    fn assemble(
        disk: &Arc<dyn Disk>,
        group: GroupId,
        epoch: Epoch,
        limits: Limits,
        journal: Journal,
        image: Lsn,
        volumes: BTreeMap<VolumeId, VolumeEntry>,
    ) -> Self {
        let next = journal.next_lsn();
        let core = Core {
            mode: Mode::Writable,
            stopping: false,
            next,
            open: Queued::new(),
            sealed: VecDeque::new(),
            queued_bytes: 0,
            written: next.previous(),
            durable: next.previous(),
            flushes: Vec::new(),
            acknowledged: next.previous(),
            waiting: VecDeque::new(),
            follow: Follow::default(),
            volumes,
            frozen_at: None,
            spilled: image,
            image,
            unsettled: Unsettled::default(),
            settling: false,
            spare_ready: journal.spare_bytes() > 0,
            file_room: journal.file_room(),
            journal_full: None,
            images_full: None,
            journal_bytes: journal.written_bytes(),
            bytes_accepted: 0,
            missing: Missing::default(),
            throttle: Throttle::default(),
            held: None,
        };
        Self {
            group,
            disk: Arc::clone(disk),
            limits,
            epoch: Lock::new(epoch),
            dirty: Lock::new(DirtyFile::new(disk, group)),
            settling: Lock::new(()),
            destaging: Lock::new(()),
            reading: Lock::new(()),
            journal: Lock::new(journal),
            syncing: Lock::new(()),
            core: Lock::new(core),
            commit_wanted: Condvar::new(),
            sync_wanted: Condvar::new(),
            upkeep_wanted: Condvar::new(),
            settle_wanted: Condvar::new(),
            room: tokio::sync::Notify::new(),
            syncs: crate::meter::Histogram::default(),
            recovered: None,
            runtime: OnceLock::new(),
        }
    }

    /// Has many acknowledgements at once given by a task there, so that the journal's threads go on meanwhile.
    pub fn acknowledge_from(&self, runtime: Handle) {
        let _ = self.runtime.set(runtime);
    }

    fn acknowledge(&self, acks: Vec<AckSender>) {
        let give = |acks: Vec<AckSender>| {
            for ack in acks {
                let _ = ack.send(Ok(()));
            }
        };
        match self.runtime.get().filter(|_| acks.len() > ACKS_HERE) {
            Some(runtime) => drop(runtime.spawn(async move { give(acks) })),
            None => give(acks),
        }
    }

    /// How long each `fdatasync` of the journal took.
    pub fn syncs(&self) -> crate::meter::Durations {
        self.syncs.read()
    }

    /// What was found when the journal was opened.
    pub const fn recovered(&self) -> Option<Recovered> {
        self.recovered
    }

    pub const fn limits(&self) -> &Limits {
        &self.limits
    }

    /// The tenure that batches are marked with from now on.
    pub fn set_epoch(&self, epoch: Epoch) {
        *self.epoch.lock() = epoch;
    }

    /// Adds a volume with its image; the caller submits the [`Op::Resize`] that introduces it.
    pub fn add_volume(&self, id: VolumeId, image: Arc<Image>) {
        self.core.lock().volumes.insert(id, VolumeEntry { image, overlay: Overlay::default() });
    }

    /// Forgets a volume; its records stay in the journal.
    pub fn remove_volume(&self, id: VolumeId) {
        let _no_destage = self.destaging.lock();
        let mut core = self.core.lock();
        core.volumes.remove(&id);
        core.unsettled.forget(id);
        core.missing.forget(id);
    }

    pub fn image(&self, id: VolumeId) -> Option<Arc<Image>> {
        self.core.lock().volumes.get(&id).map(|entry| Arc::clone(&entry.image))
    }

    /// Refuses writes from now on (`None`: accepts them again). A poisoned group stays poisoned.
    pub fn set_read_only(&self, why: Option<String>) {
        let mut core = self.core.lock();
        if !matches!(core.mode, Mode::Poisoned(_)) {
            core.mode = why.map_or(Mode::Writable, Mode::ReadOnly);
        }
        drop(core);
        self.room.notify_waiters();
    }

    pub fn figures(&self) -> Figures {
        let journal_bytes = self.journal.lock().used_bytes();
        let core = self.core.lock();
        Figures {
            last: core.next.previous(),
            durable: core.durable,
            image: core.image,
            overlay_bytes: core.overlay_bytes(),
            journal_bytes,
            mode: core.mode.clone(),
            journal_full: core.journal_full.as_ref().map(|note| note.text.clone()),
            images_full: core.images_full.as_ref().map(|note| note.text.clone()),
            journal_written: core.journal_bytes + core.queued_bytes,
            bytes_accepted: core.bytes_accepted,
            dirty_blocks: core.missing.blocks(),
            collapsed: core.missing.collapsed(),
        }
    }

    /// Whether writes are accepted.
    pub fn is_writable(&self) -> bool {
        self.core.lock().mode == Mode::Writable
    }

    /// Newest durable record.
    pub fn durable(&self) -> Lsn {
        self.core.lock().durable
    }

    /// Gives a record its place in the write order, makes it readable, and queues it for the journal.
    ///
    /// The check and the place in the write order are one step: a write that is accepted after a group was made read-only
    /// would come behind its final point, and be lost by the switch that follows.
    ///
    /// # Errors
    /// `Invalid` outside the volume, `NotFound` for an unknown volume, `Fenced`, `Damaged` when poisoned, `NoSpace`.
    pub fn submit(&self, op: &Op) -> Result<Submitted> {
        let core = self.core.lock();
        core.accepts_writes(self.group)?;
        if core.held.is_some() {
            return Ok(Submitted::Wait);
        }
        self.place(core, op)
    }

    /// The same for records of the group itself (points, sizes), which a read-only group takes too.
    ///
    /// # Errors
    /// As [`WritePath::submit`], but for `Fenced`.
    pub fn submit_control(&self, op: &Op) -> Result<Submitted> {
        let core = self.core.lock();
        core.refuse_poisoned(self)?;
        self.place(core, op)
    }

    /// Gives a record its place, and has it taken to the journal: on this thread if it may wait and nobody else is at it, so that no
    /// other has to be woken.
    fn place(&self, mut core: MutexGuard<'_, Core>, op: &Op) -> Result<Submitted> {
        let placed = self.put(&mut core, op)?;
        if matches!(placed, Submitted::Wait) {
            return Ok(placed);
        }
        let here = core.sealed.is_empty() && core.open.batch.entries() == 1 && crate::blocking::waits_here();
        drop(core);
        match here.then(|| self.journal.try_lock()).flatten() {
            // What fails is in the group's state, and everybody who waits is told.
            Some(journal) => {
                let _ = self.commit_with(journal, true);
            }
            None => self.commit_wanted.notify_one(),
        }
        Ok(placed)
    }

    fn put(&self, core: &mut Core, op: &Op) -> Result<Submitted> {
        let entry = EntryParts::of(op, core.missing.is_empty() || planted::is(Bug::OffersPointsInResync));
        if entry.payload.len() > self.limits.record_bytes_max() {
            return Err(EngineError::new(ErrorKind::Invalid, "a record longer than a batch holds: split the write"));
        }
        core.check_target(op)?;
        let need = (entry.payload.len() + 2 * BLOCK_SIZE) as u64;
        if !core.has_room(op, need, &self.limits)? {
            self.upkeep_wanted.notify_one();
            return Ok(Submitted::Wait);
        }
        if core.open.batch.entries() >= BATCH_ENTRIES
            || core.open.batch.bytes() + entry.payload.len() > self.limits.batch_bytes
        {
            let full = std::mem::replace(&mut core.open, Queued::new());
            core.sealed.push_back(full);
        }
        // An empty batch brings its header block along.
        let before = if core.open.batch.is_empty() { 0 } else { core.open.batch.bytes() };
        core.open
            .batch
            .push(entry.volume, entry.op, entry.lba, entry.blocks, &entry.payload)
            .map_err(|error| EngineError::new(ErrorKind::Invalid, error.to_string()))?;
        core.queued_bytes += (core.open.batch.bytes() - before) as u64;
        if !matches!(op, Op::Copy { .. }) {
            core.bytes_accepted += entry.payload.len() as u64;
        }
        let lsn = core.next;
        core.next = lsn.next();
        let (sender, ack) = oneshot::channel();
        core.open.acks.push(sender);
        core.apply(lsn, op);
        Ok(Submitted::Accepted(lsn, ack))
    }

    /// Waits, at most for a while, until there may be room again.
    pub async fn room(&self) {
        // A wake-up between the refusal and this call is not remembered: the bound makes it harmless.
        let _ = tokio::time::timeout(Duration::from_millis(20), self.room.notified()).await;
    }

    /// Asks that everything submitted so far becomes durable; `None` when it is already.
    ///
    /// # Errors
    /// `Damaged` when poisoned.
    pub fn flush(&self) -> Result<Option<Ack>> {
        self.flush_up_to(|core| core.next.previous())
    }

    /// Asks that everything acknowledged so far becomes durable, as applications do; `None` when it is already.
    ///
    /// # Errors
    /// As [`WritePath::flush`].
    pub fn flush_acknowledged(&self) -> Result<Option<Ack>> {
        self.flush_up_to(|core| {
            core.follow.flush();
            core.acknowledged
        })
    }

    fn flush_up_to(&self, upto: impl FnOnce(&mut Core) -> Lsn) -> Result<Option<Ack>> {
        let mut core = self.core.lock();
        core.refuse_poisoned(self)?;
        let upto = upto(&mut core);
        if core.durable >= upto || planted::is(Bug::AcknowledgesBeforeSync) {
            return Ok(None);
        }
        let (sender, ack) = oneshot::channel();
        core.flushes.push((upto, sender));
        let written = core.written >= upto;
        drop(core);
        if written && crate::blocking::waits_here() && self.sync_here() {
            return Ok(Some(ack));
        }
        self.commit_wanted.notify_one();
        self.sync_wanted.notify_one();
        Ok(Some(ack))
    }

    /// Where the blocks of an extent are to be read.
    ///
    /// # Errors
    /// `NotFound` for an unknown volume.
    pub fn locate(&self, volume: VolumeId, extent: Extent) -> Result<(Arc<Image>, Vec<Piece>)> {
        let (image, _, pieces) = self.locate_within(volume, extent)?;
        Ok((image, pieces))
    }

    /// The same for the part of an extent that the volume has, which is told.
    ///
    /// # Errors
    /// As [`WritePath::locate`].
    pub fn locate_within(&self, volume: VolumeId, extent: Extent) -> Result<(Arc<Image>, Extent, Vec<Piece>)> {
        let core = self.core.lock();
        let entry = core.volumes.get(&volume).ok_or_else(|| no_volume(volume))?;
        let image = Arc::clone(&entry.image);
        let blocks = extent.end().min(image.blocks()).saturating_sub(extent.lba);
        let extent = Extent { lba: extent.lba, blocks };
        let runs = entry.overlay.within(extent);
        drop(core);
        if runs.is_empty() && !image.is_lazy() {
            return Ok((image, extent, vec![Piece::Image(extent)]));
        }
        let mut pieces = Vec::with_capacity(runs.len() * 2 + 1);
        let mut at = extent.lba;
        let gap = |from: u64, to: u64, pieces: &mut Vec<Piece>| {
            if from < to {
                for (part, present) in image.presence_of(Extent { lba: from, blocks: to - from }) {
                    pieces.push(if present { Piece::Image(part) } else { Piece::Absent(part) });
                }
            }
        };
        for run in runs {
            gap(at, run.extent.lba, &mut pieces);
            at = run.extent.end();
            pieces.push(match run.content {
                Content::Data(data) => Piece::Memory(run.extent, Some(data)),
                Content::Zero => Piece::Memory(run.extent, None),
            });
        }
        gap(at, extent.end(), &mut pieces);
        Ok((image, extent, pieces))
    }

    /// For reading records after `after` back.
    pub fn reader(&self, after: Lsn) -> LogReader {
        self.journal.lock().reader(after)
    }
}

impl Core {
    fn overlay_bytes(&self) -> u64 {
        overlay_bytes(&self.volumes)
    }

    fn is_poisoned(&self) -> bool {
        matches!(self.mode, Mode::Poisoned(_))
    }

    fn refuse_poisoned(&self, path: &WritePath) -> Result<()> {
        match &self.mode {
            Mode::Poisoned(why) => Err(poisoned(path.group, why)),
            Mode::Writable | Mode::ReadOnly(_) => Ok(()),
        }
    }

    /// Share of the journal's limit that is used, percent.
    fn journal_percent(&self, limits: &Limits) -> u64 {
        (self.journal_bytes + self.queued_bytes) * 100 / limits.journal.limit_bytes.max(1)
    }

    fn accepts_writes(&self, group: GroupId) -> Result<()> {
        match &self.mode {
            Mode::Writable => Ok(()),
            Mode::ReadOnly(why) => Err(EngineError::new(ErrorKind::Fenced, why.clone())),
            Mode::Poisoned(why) => Err(poisoned(group, why)),
        }
    }

    /// Whether the disk is full for the journal or the images.
    fn no_space(&self) -> bool {
        let full = |note: &Option<EngineErrorNote>| note.as_ref().is_some_and(|note| note.kind == ErrorKind::NoSpace);
        full(&self.journal_full) || full(&self.images_full)
    }

    fn commit_due(&self) -> bool {
        !self.is_poisoned() && (!self.sealed.is_empty() || !self.open.batch.is_empty())
    }

    /// Upkeep can't wait for its next turn.
    fn wants_upkeep(&self, limits: &Limits) -> bool {
        !self.spare_ready || self.overlay_bytes() >= limits.overlay_bytes / 4
    }

    fn sync_due(&self) -> bool {
        !self.is_poisoned()
            && (!self.waiting.is_empty()
                || self.flushes.iter().any(|(upto, _)| *upto <= self.written && *upto > self.durable))
    }

    fn check_target(&self, op: &Op) -> Result<()> {
        let (volume, extent) = match op {
            Op::Write { volume, lba, data } => {
                if data.is_empty() || data.len() % BLOCK_SIZE != 0 {
                    return Err(EngineError::new(ErrorKind::Invalid, "a record's data is a whole number of blocks"));
                }
                (volume, Extent { lba: *lba, blocks: (data.len() / BLOCK_SIZE) as u64 })
            }
            Op::Zero { volume, extent } | Op::Trim { volume, extent } | Op::Copy { volume, extent, .. } => {
                (volume, *extent)
            }
            Op::Resize { volume, .. } => (volume, Extent { lba: 0, blocks: 0 }),
            Op::Point(_) => return Ok(()),
        };
        let entry = self.volumes.get(volume).ok_or_else(|| no_volume(*volume))?;
        if extent.end() > entry.image.blocks() {
            return Err(EngineError::new(
                ErrorKind::Invalid,
                format!(
                    "blocks {} to {} of {volume} lie past its end at {}",
                    extent.lba,
                    extent.end(),
                    entry.image.blocks()
                ),
            ));
        }
        Ok(())
    }

    fn has_room(&self, op: &Op, need: u64, limits: &Limits) -> Result<bool> {
        // What leaves nothing in memory doesn't wait for the images.
        let stays = !matches!(op, Op::Point(_) | Op::Resize { .. } | Op::Copy { .. });
        let overlay = self.overlay_bytes();
        if stays && overlay > 0 && overlay + need > limits.overlay_bytes.max(2 * need) {
            return self.images_full.as_ref().map_or(Ok(false), |note| Err(note.error()));
        }
        if self.queued_bytes > 0 && self.queued_bytes + need > limits.queue_bytes {
            return Ok(false);
        }
        let in_file = self.file_room >= self.queued_bytes + need + limits.batch_bytes as u64;
        if in_file || self.spare_ready {
            return Ok(true);
        }
        match &self.journal_full {
            // What has no content has what writes leave of the file: points, so that everything that was acknowledged is in the vault and can
            // be recovered, and what a restart says of its volumes.
            Some(note) if note.kind != ErrorKind::Retry => {
                let bare = matches!(op, Op::Point(_) | Op::Resize { .. });
                let fits = bare && self.file_room >= self.queued_bytes + need;
                if fits { Ok(true) } else { Err(note.error()) }
            }
            _ => Ok(false),
        }
    }

    /// Makes a record readable.
    fn apply(&mut self, lsn: Lsn, op: &Op) {
        if let Some((volume, extent)) = op.target() {
            self.missing.brought(volume, extent);
        }
        if let Op::Resize { volume, blocks } = op
            && let Some(entry) = self.volumes.get(volume)
        {
            // Here, and not before: a write behind the old end must come after the record that says so.
            entry.image.show(*blocks);
        }
        if let Some((volume, run)) = run_of(lsn, op)
            && let Some(entry) = self.volumes.get_mut(&volume)
        {
            entry.overlay.insert(run);
        }
    }
}

fn overlay_bytes(volumes: &BTreeMap<VolumeId, VolumeEntry>) -> u64 {
    volumes.values().map(|entry| entry.overlay.data_bytes()).sum()
}

/// The overlay run that a record stands for; none for points and sizes, nor for copies of what is there.
fn run_of(lsn: Lsn, op: &Op) -> Option<(VolumeId, Run)> {
    match op {
        Op::Write { volume, lba, data } => {
            let extent = Extent { lba: *lba, blocks: (data.len() / BLOCK_SIZE) as u64 };
            Some((*volume, Run { extent, lsn, content: Content::Data(data.clone()) }))
        }
        Op::Zero { volume, extent } | Op::Trim { volume, extent } => {
            Some((*volume, Run { extent: *extent, lsn, content: Content::Zero }))
        }
        Op::Copy { .. } | Op::Resize { .. } | Op::Point(_) => None,
    }
}

/// Puts a record found in the journal into the overlay again. Records of volumes that are gone are passed over.
fn replay(volumes: &mut BTreeMap<VolumeId, VolumeEntry>, record: LogRecord) -> Result<()> {
    if let Op::Resize { volume, blocks } = &record.op {
        return volumes.get(volume).map_or(Ok(()), |entry| entry.image.grow(*blocks));
    }
    if let Some((volume, run)) = run_of(record.lsn, &record.op)
        && let Some(entry) = volumes.get_mut(&volume)
    {
        entry.overlay.insert(run);
    }
    Ok(())
}

/// A record as the journal's format has it.
struct EntryParts {
    volume: VolumeId,
    op: EntryOp,
    lba: u64,
    blocks: u64,
    payload: Bytes,
}

impl EntryParts {
    /// `complete`: the vault lacks nothing but what the log brings.
    fn of(op: &Op, complete: bool) -> Self {
        let bare = |volume: VolumeId, op, extent: Extent| Self {
            volume,
            op,
            lba: extent.lba,
            blocks: extent.blocks,
            payload: Bytes::new(),
        };
        match op {
            Op::Write { volume, lba, data } => Self {
                volume: *volume,
                op: EntryOp::Write,
                lba: *lba,
                blocks: (data.len() / BLOCK_SIZE) as u64,
                payload: data.clone(),
            },
            Op::Zero { volume, extent } => bare(*volume, EntryOp::Zero, *extent),
            Op::Trim { volume, extent } => bare(*volume, EntryOp::Trim, *extent),
            Op::Resize { volume, blocks } => bare(*volume, EntryOp::Resize, Extent { lba: 0, blocks: *blocks }),
            Op::Copy { volume, extent, data } => {
                Self { payload: data.clone().unwrap_or_default(), ..bare(*volume, EntryOp::Copy, *extent) }
            }
            Op::Point(PointMark { id, time, kind, label, consistent }) => Self {
                volume: VolumeId::from_bytes([0; 16]),
                op: if *consistent && complete { EntryOp::Point } else { EntryOp::PointInResync },
                lba: 0,
                blocks: 0,
                payload: lifeboat_format::journal::encode_point(id.to_bytes(), *time, kind.code(), label).into(),
            },
        }
    }
}

fn poisoned(group: GroupId, why: &str) -> EngineError {
    EngineError::new(
        ErrorKind::Damaged,
        format!(
            "{group} takes no more writes, because its disk failed ({why}): replace the disk and recover the volumes from the vault"
        ),
    )
}

fn no_volume(volume: VolumeId) -> EngineError {
    EngineError::new(ErrorKind::NotFound, format!("{volume} is not open at this gateway"))
}
