//! Bringing this gateway's images to another branch's newest point, and taking the branch over.
//!
//! ```text
//! Fenced | Standby ─ keep the tail ─ hydrate ─> Rehydrating{base: own end + own tail}
//!      pass: target := newest point ─ move what differs ─ sync ─ base := target      (as often as wanted)
//!      take over: base is the branch's end ─ next epoch ─ empty journal ─> Active
//! ```
//! What this gateway wrote and the new history does not have (its *tail*) goes to an orphan branch of its own first, where
//! it can be mounted; only then is the image touched. A pass writes down its base and its target before it moves anything:
//! after a crash the image is somewhere between the two, and the same pass is done again from its cursor. A newer target is
//! chosen only when the pass is complete.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use lifeboat_model::{BLOCK_SIZE_U64, BranchId, Extent, ExtentSet, Lsn, PointId, PointKind, VolumeId};
use lifeboat_vault::{TRACE_TARGET, traced};
use tokio::task::JoinHandle;
use tracing::field::Empty;

use super::{
    Group, Image, Phase, Progress, Rehydrate, State, StateVolume, closed, limits, place, position, ship_settings,
};
use crate::branch::{self, Origin};
use crate::error::{EngineError, ErrorKind, Result};
use crate::planted::{self, Bug};
use crate::points::PointInfo;
use crate::reach::{Reach, Writer};
use crate::record::{LogRecord, Op, PointMark};
use crate::rehydrate::{Aimed, Cursor, ImageSink, Pass, RehydrateLimits, RehydrateStats, rehydrate};
use crate::relay::{Aim, Piece, Recalling, Relay};
use crate::segments::{Reader, ReaderLimits};
use crate::ship::{BranchWriter, Interval, Open};
use crate::sync::Lock;
use crate::write_path::WritePath;

/// Payload of the tail read at a time.
const TAIL_BYTES: usize = 32 << 20;
/// Blocks of one record of what a resync had still to copy.
const TAIL_BLOCKS: u64 = 256;
/// Bytes moved between two syncs of the images, each of which ends with a saved cursor.
const CURSOR_EVERY: u64 = 32 << 20;

/// How a rehydration finds what to move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RehydrateMode {
    /// Only blocks that differ, by the history that both sides share.
    Delta,
    /// Every block, without comparing.
    Full,
}

/// What one pass of [`Group::rehydrate`] did.
#[derive(Clone, Debug)]
pub struct Rehydrated {
    /// The point that the images stand at now.
    pub point: PointInfo,
    /// Blocks looked at.
    pub blocks_compared: u64,
    /// Blocks written to the images.
    pub blocks_moved: u64,
    /// Bytes read from the vault for them.
    pub bytes_fetched: u64,
    /// The branch that keeps what this gateway wrote and the new history doesn't have.
    pub orphan: Option<BranchId>,
}

impl Group {
    /// One pass to the newest point of `branch`; call again for newer points. Safe to repeat after a crash at any place.
    ///
    /// # Errors
    /// `Fenced` while the group is active here; `Retry` while the vault is away; `NotFound` when the branch has no point.
    pub async fn rehydrate(self: &Arc<Self>, branch: BranchId, mode: RehydrateMode) -> Result<Rehydrated> {
        let span = tracing::info_span!(
            target: TRACE_TARGET, "group.rehydrate", lifeboat.group = %self.config.group, lifeboat.branch = %branch,
            lifeboat.blocks = Empty, lifeboat.bytes = Empty, otel.status_message = Empty,
        );
        let passed = traced(span.clone(), self.rehydrated(branch, mode)).await?;
        span.record("lifeboat.blocks", passed.blocks_moved).record("lifeboat.bytes", passed.bytes_fetched);
        Ok(passed)
    }

    async fn rehydrated(self: &Arc<Self>, branch: BranchId, mode: RehydrateMode) -> Result<Rehydrated> {
        let _change = self.change.lock().await;
        let phase = self.state.lock().state.phase;
        match phase {
            Phase::Active => {
                return Err(EngineError::new(
                    ErrorKind::Fenced,
                    format!("{} is active at this gateway: there is nothing to bring back", self.config.group),
                ));
            }
            Phase::Fenced | Phase::Standby => self.begin_rehydrating(branch, mode, phase).await?,
            Phase::Rehydrating => {}
        }
        let followed = self.rehydrate_state()?.branch;
        if followed != branch {
            return Err(EngineError::new(
                ErrorKind::Invalid,
                format!("{} is being brought to {followed}, not to {branch}: finish that first", self.config.group),
            ));
        }
        let passed = match &self.config.reach {
            Reach::Vault(_) => {
                let reader = self.history().await?;
                let passed = self.pass(&reader).await?;
                reader.rest();
                *self.history.lock() = Some(reader);
                passed
            }
            Reach::Relay(relay) => self.pass_over(&**relay).await?,
        };
        Ok(passed)
    }

    /// What reads the history for a pass or the takeover: that of the pass before, which knows what it has read. One that
    /// failed isn't kept: what it was told may be why, and the vault is asked anew.
    async fn history(&self) -> Result<Arc<Reader>> {
        let kept = self.history.lock().take();
        match kept {
            Some(reader) => Ok(reader),
            None => Reader::open(self.config.reach.vault()?, self.config.group, ReaderLimits::default()).await,
        }
    }

    /// Rehydrating → Active: this gateway writes the branch from here on; its last writer is fenced.
    ///
    /// # Errors
    /// `Invalid` when the branch has gone on since the last pass: do another one.
    pub async fn take_over(self: &Arc<Self>) -> Result<()> {
        let span = tracing::info_span!(
            target: TRACE_TARGET, "group.take_over", lifeboat.group = %self.config.group, otel.status_message = Empty,
        );
        traced(span, self.taken_over()).await
    }

    async fn taken_over(self: &Arc<Self>) -> Result<()> {
        let _change = self.change.lock().await;
        if self.state.lock().state.phase == Phase::Active {
            return Ok(());
        }
        self.expect_phase(Phase::Rehydrating, "taken over")?;
        let following = self.rehydrate_state()?;
        let group = self.config.group;
        let brought = {
            let saved = self.state.lock();
            saved.state.resync.is_none().then_some(saved.state.image_lsn)
        };
        let settings = ship_settings(&self.settings.lock());
        let (branch, gateway) = (following.branch, self.config.gateway);
        let at = |end: Lsn| {
            let there =
                |base: &super::Place| following.target.is_none() && base.lsn == end && brought == Some(base.lsn);
            following.base.filter(|base| there(base) || planted::is(Bug::TakesOverBehind)).ok_or_else(|| behind(self))
        };
        let (base, writer, opened) = match &self.config.reach {
            Reach::Vault(_) => {
                let reader = self.history().await?;
                let base = at(branch::log_end_with(&reader, branch).await?.lsn)?;
                let (writer, opened) =
                    BranchWriter::open_with(reader, branch, gateway, Open::Continue, settings).await?;
                (base, Writer::from(writer), opened)
            }
            // The process server refuses when the log doesn't end there.
            Reach::Relay(_) => {
                let base = at(following.base.map_or(Lsn::ZERO, |base| base.lsn))?;
                let open = self.config.reach.open(group, branch, gateway, Open::Continue, settings, base.lsn);
                let (writer, opened) = open.await?;
                (base, writer, opened)
            }
        };
        if opened.end.lsn != base.lsn && !planted::is(Bug::TakesOverBehind) {
            return Err(behind(self));
        }
        self.stop_running().await;
        let first = opened.end.lsn.next();
        let path = Arc::new(WritePath::create(&self.disk, group, opened.epoch, limits(&self.settings.lock()), first)?);
        for volume in &self.state.lock().state.volumes {
            path.add_volume(volume.id, Arc::new(Image::open(&self.disk, volume.id, volume.blocks)?));
        }
        self.change_state(|state| {
            state.phase = Phase::Active;
            state.branch = following.branch;
            state.epoch = opened.epoch;
            state.journal_first = first;
            state.image_lsn = opened.end.lsn;
            state.shipped = place(opened.end);
            state.origin = None;
            state.rehydrate = None;
        })?;
        {
            let mut observed = self.observed.lock();
            observed.last_point = opened.last_point;
            observed.fenced_by = None;
            // It may have been released in this life: a full journal would never be given up.
            observed.release_wanted = false;
            observed.progress = None;
            observed.open_points.clear();
            observed.placed = None;
            observed.recovered = None;
            // Another write path counts from the beginning.
            observed.bytes_seen = 0;
            observed.bytes_landed = 0;
        }
        self.start(path, None);
        self.start_shipping(Some(writer));
        Ok(())
    }

    /// An empty local state on which [`Group::rehydrate`] works: a gateway that lost its disk, or never had the group.
    ///
    /// # Errors
    /// What the disk says.
    pub async fn blank(config: super::GroupConfig, branch: BranchId) -> Result<Arc<Self>> {
        if Self::exists_at(&config) {
            return Self::open(config).await;
        }
        config.reach.vault()?;
        let disk = super::local_disk(&config)?;
        let saved = State {
            group: config.group,
            gateway: config.gateway,
            generation: 0,
            phase: Phase::Rehydrating,
            branch,
            epoch: lifeboat_model::Epoch(0),
            journal_first: Lsn(1),
            image_lsn: Lsn::ZERO,
            shipped: super::Place {
                branch,
                epoch: lifeboat_model::Epoch(0),
                seq: lifeboat_model::SegmentSeq(0),
                lsn: Lsn::ZERO,
            },
            volumes: Vec::new(),
            origin: None,
            rehydrate: Some(Rehydrate { branch, orphan: None, base: None, target: None, cursor: None, full: true }),
            resync: None,
        };
        Self::begin(config, disk, saved, None)
    }

    /// Of a group that was fenced: keeps in the vault, on a branch of its own, what this gateway had acknowledged and not shipped, and
    /// goes on showing the volumes as they were. None when there was nothing. Done again, it comes to the same.
    ///
    /// # Errors
    /// `Invalid` unless fenced; `Retry` while the vault is away.
    pub async fn keep_unshipped(self: &Arc<Self>) -> Result<Option<BranchId>> {
        let _change = self.change.lock().await;
        let phase = self.state.lock().state.phase;
        if phase != Phase::Fenced {
            let why = format!("{} wasn't fenced at this gateway: there is no tail to keep", self.config.group);
            return Err(EngineError::new(ErrorKind::Invalid, why));
        }
        self.keep_tail().await
    }

    /// Keeps what this gateway wrote and the history doesn't have on a branch of its own; none when there is nothing.
    ///
    /// # Errors
    /// `Retry` while the vault is away, or the gateway that took over has not finished doing so.
    pub(super) async fn keep_tail(&self) -> Result<Option<BranchId>> {
        let state = self.state.lock().state.clone();
        if state.phase != Phase::Fenced {
            return Ok(state.rehydrate.and_then(|one| one.orphan));
        }
        let (end, tail_end) = self.own_end(&state).await?;
        let path = self.running_path()?;
        if tail_end <= end.lsn && path.is_complete() {
            return Ok(None);
        }
        let orphan = match state.rehydrate.and_then(|one| one.orphan) {
            Some(orphan) => orphan,
            None => {
                let orphan = BranchId::from_bytes(self.new_id()?);
                self.change_state(|state| {
                    state.rehydrate = Some(Rehydrate {
                        branch: state.branch,
                        orphan: Some(orphan),
                        base: None,
                        target: None,
                        cursor: None,
                        full: false,
                    });
                })?;
                orphan
            }
        };
        let settings = ship_settings(&self.settings.lock());
        let open = Open::New { origin: Some(Origin { at: end, point: None }) };
        let (reach, group, gateway) = (&self.config.reach, self.config.group, self.config.gateway);
        let (mut writer, opened) = reach.open(group, orphan, gateway, open, settings, end.lsn).await?;
        let last = opened.last_point.as_ref();
        if !last.is_some_and(|point| point.kind == PointKind::Final && point.lsn == writer.shipped().lsn) {
            self.ship_tail(&path, &mut writer, tail_end).await?;
        }
        Ok(Some(orphan))
    }

    /// Ships the records after the writer's end, then what the volumes hold of the blocks that a resync had still to copy
    /// (nobody writes any more, so that all of it together is one state), then a final point. After an earlier attempt it
    /// goes on where the records end, and copies all of those blocks again.
    async fn ship_tail(&self, path: &Arc<WritePath>, writer: &mut Writer, tail_end: Lsn) -> Result<()> {
        let tail_end = if planted::is(Bug::TailOneShort) { tail_end.previous() } else { tail_end };
        let mut hint = None;
        while writer.shipped().lsn < tail_end {
            let after = writer.shipped().lsn;
            let chunk = path.read_log(after, tail_end, TAIL_BYTES, &mut hint)?;
            // A collapse can have given up everything there was.
            let last_lsn = chunk.records.last().map_or(tail_end, |record| record.lsn);
            writer.land(&Interval { records: chunk.records, last_lsn, sizes: chunk.sizes }).await?;
        }
        // A record that is not durable may have taken blocks out of the map in memory.
        let dirty = if path.durable() == path.figures().last { path.dirty() } else { path.dirty_on_disk()? };
        let mut lsn = writer.shipped().lsn;
        let mut at = (VolumeId::from_bytes([0; 16]), 0);
        loop {
            let (mut records, mut bytes) = (Vec::new(), 0);
            while bytes < TAIL_BYTES
                && let Some((volume, extent)) = dirty.next(at, TAIL_BLOCKS)
            {
                at = (volume, extent.end());
                for (extent, data) in present_content(path, volume, extent).await? {
                    lsn = lsn.next();
                    bytes += data.as_ref().map_or(0, Bytes::len);
                    records.push(LogRecord { lsn, op: Op::Copy { volume, extent, data } });
                }
            }
            if records.is_empty() {
                break;
            }
            writer.land(&Interval { records, last_lsn: lsn, ..Interval::default() }).await?;
        }
        let mark = PointMark {
            id: PointId::from_bytes(self.new_id()?),
            time: self.config.reach.now(),
            kind: PointKind::Final,
            label: format!("unshipped writes of {}", self.config.gateway),
            consistent: true,
        };
        let lsn = lsn.next();
        let records = vec![LogRecord { lsn, op: Op::Point(mark) }];
        writer.land(&Interval { records, last_lsn: lsn, ..Interval::default() }).await?;
        Ok(())
    }

    /// Where this gateway's history ends in the vault, and its newest record.
    async fn own_end(&self, state: &State) -> Result<(branch::Position, Lsn)> {
        let group = self.config.group;
        let end = match &self.config.reach {
            Reach::Vault(vault) => match branch::end_of_tenure(vault, group, state.branch, state.epoch).await? {
                Some(end) => end,
                // The gateway that took over is about to say where, or died before it could: whoever says it first counts.
                None => branch::settle_tenure(vault, group, state.branch, state.epoch).await?,
            },
            Reach::Relay(relay) => {
                let mut line = Recalling::open(&**relay, group, self.config.gateway).await?;
                line.own_end(state.branch, state.epoch).await?
            }
        };
        let path = self.running_path()?;
        // What was acknowledged belongs to the tail as well; a poisoned journal keeps what it has.
        if let Err(error) = super::running::flush(&path).await {
            tracing::warn!(group = %self.config.group, %error, "the last writes are not durable: the tail ends before them");
        }
        Ok((end, path.durable()))
    }

    async fn begin_rehydrating(self: &Arc<Self>, branch: BranchId, mode: RehydrateMode, from: Phase) -> Result<()> {
        let state = self.state.lock().state.clone();
        let orphan = self.keep_tail().await?;
        let base = if from == Phase::Fenced { self.own_end(&state).await?.0 } else { position(state.shipped) };
        if mode == RehydrateMode::Delta {
            self.hydrate_fully().await?;
        }
        let path = self.running_path()?;
        let last = path.figures().last;
        let in_resync = state.resync.is_some();
        crate::blocking::run(move || {
            path.make_durable(last)?;
            path.destage()?;
            // From here on the map on disk is what is known of the image.
            if in_resync { path.save_dirty().map(drop) } else { Ok(()) }
        })
        .await
        .map_err(|_| closed(self.config.group))??;
        self.change_state(|state| {
            state.phase = Phase::Rehydrating;
            state.rehydrate = Some(Rehydrate {
                branch,
                orphan,
                base: (mode == RehydrateMode::Delta).then(|| place(base)),
                target: None,
                cursor: None,
                full: mode == RehydrateMode::Full,
            });
            state.image_lsn = last;
            state.volumes.iter_mut().for_each(|volume| volume.lazy = false);
        })?;
        self.stop_running().await;
        self.state.lock().state.volumes.iter().try_for_each(|volume| Image::drop_presence(&self.disk, volume.id))
    }

    fn rehydrate_state(&self) -> Result<Rehydrate> {
        self.state.lock().state.rehydrate.ok_or_else(|| {
            EngineError::new(
                ErrorKind::Damaged,
                format!("the state of {} says rehydrating and not from where", self.config.group),
            )
        })
    }

    /// One pass: to the target that an interrupted pass had, or to the newest point.
    async fn pass(self: &Arc<Self>, reader: &Arc<Reader>) -> Result<Rehydrated> {
        let pass = self.next_pass()?;
        let cursor = pass.cursor;
        let Aimed { point, view, source, begun, full } = pass.aim(reader).await?;
        let cursor = cursor.filter(|_| begun);
        let sizes = view.volumes().iter().map(|volume| (volume.id, volume.size_blocks)).collect();
        let sink = self.begin_pass(&point, sizes, begun, full, cursor)?;
        let done = rehydrate(&view, source, &sink, cursor, RehydrateLimits::default()).await;
        self.end_pass(sink, point, done).await
    }

    /// One pass for which a process server reads the history.
    async fn pass_over(self: &Arc<Self>, relay: &dyn Relay) -> Result<Rehydrated> {
        let pass = self.next_pass()?;
        let mut line = Recalling::open(relay, self.config.group, self.config.gateway).await?;
        let Aim { point, begun, full, volumes } = line.fetch(&pass).await?;
        let cursor = pass.cursor.filter(|_| begun);
        let sink = self.begin_pass(&point, volumes.clone(), begun, full, cursor)?;
        let done = receive(&mut line, &volumes, &sink).await;
        self.end_pass(sink, point, done).await
    }

    /// What the next pass has to know.
    fn next_pass(&self) -> Result<Pass> {
        let following = self.rehydrate_state()?;
        let base = following.base.filter(|_| !following.full);
        Ok(Pass {
            branch: following.branch,
            base: base.map(position),
            target: following.target.map(|target| target.lsn),
            cursor: following.cursor.map(|(volume, lba)| Cursor { volume, lba }),
            full: following.full,
            dirty: base.map(|base| self.own_tail(base.lsn)).transpose()?.unwrap_or_default(),
        })
    }

    /// Writes down where a pass goes, before it moves anything.
    fn begin_pass(
        self: &Arc<Self>,
        point: &PointInfo,
        sizes: Vec<(VolumeId, u64)>,
        begun: bool,
        full: bool,
        cursor: Option<Cursor>,
    ) -> Result<Sink> {
        if !begun {
            self.change_state(|state| {
                if let Some(one) = state.rehydrate.as_mut() {
                    one.target = Some(place(point.position()));
                    one.cursor = None;
                    one.full = full;
                }
            })?;
        }
        let sink = Sink::open(self, sizes)?;
        sink.tell(cursor);
        Ok(sink)
    }

    /// Makes durable what a pass moved, and its point the base of the next one, if it is complete.
    async fn end_pass(&self, sink: Sink, point: PointInfo, done: Result<RehydrateStats>) -> Result<Rehydrated> {
        // What a sync under way makes durable counts for the next pass, whatever has ended this one. It ends before the last one
        // begins: what failed in it would not fail again.
        let synced = sink.end_sync().await;
        let stats = done?;
        synced?;
        if !planted::is(Bug::PassBeforeSync) {
            sink.start_sync().await.map_err(|_| closed(self.config.group))??;
        }
        self.settle(&sink.sizes, &point)?;
        Ok(Rehydrated {
            point,
            blocks_compared: stats.blocks_compared,
            blocks_moved: stats.blocks_moved,
            bytes_fetched: stats.bytes_fetched,
            orphan: self.rehydrate_state()?.orphan,
        })
    }

    /// Extents that this gateway wrote after its history in the vault ends. The journal holds them until the first pass
    /// is complete, and is deleted then.
    fn own_tail(&self, after: Lsn) -> Result<BTreeMap<VolumeId, ExtentSet>> {
        let state = self.state.lock().state.clone();
        let mut dirty: BTreeMap<VolumeId, ExtentSet> = BTreeMap::new();
        let nothing = state.image_lsn <= after && state.resync.is_none();
        if nothing || planted::is(Bug::ForgetsOwnTail) {
            return Ok(dirty);
        }
        let path = self.open_write_path()?;
        for (volume, extents) in path.dirty().volumes() {
            dirty.insert(volume, extents.clone());
        }
        let (mut at, mut hint) = (after.max(path.collapsed()), None);
        while at < state.image_lsn {
            for record in path.read_log(at, state.image_lsn, TAIL_BYTES, &mut hint)?.records {
                at = record.lsn;
                if let Some((volume, extent)) = record.op.target() {
                    dirty.entry(volume).or_default().insert(extent);
                }
            }
        }
        Ok(dirty)
    }

    /// The images are at the point: that is the base of the next pass.
    fn settle(&self, sizes: &[(VolumeId, u64)], point: &PointInfo) -> Result<()> {
        let sizes: BTreeMap<VolumeId, u64> = sizes.iter().copied().collect();
        self.observed.lock().last_point = Some(point.clone());
        self.change_state(|state| {
            state.image_lsn = point.lsn;
            state.shipped = place(point.position());
            // The image is what the vault has there.
            state.resync = None;
            state.volumes.retain(|volume| sizes.contains_key(&volume.id));
            for (id, blocks) in sizes {
                match state.volumes.iter_mut().find(|volume| volume.id == id) {
                    Some(volume) => volume.blocks = blocks,
                    None => state.volumes.push(StateVolume { id, name: String::new(), blocks, lazy: false }),
                }
            }
            if let Some(one) = state.rehydrate.as_mut() {
                one.base = Some(place(point.position()));
                one.target = None;
                one.cursor = None;
                one.full = false;
            }
        })
    }
}

/// What is here of the blocks, in runs that are all data or all zeroes. Blocks that a branch never fetched are its origin's.
async fn present_content(
    path: &Arc<WritePath>,
    volume: VolumeId,
    extent: Extent,
) -> Result<Vec<(Extent, Option<Bytes>)>> {
    let size = path.image(volume).map_or(0, |image| image.blocks());
    let blocks = extent.end().min(size).saturating_sub(extent.lba);
    if blocks == 0 {
        return Ok(Vec::new());
    }
    let extent = Extent { lba: extent.lba, blocks };
    let path = Arc::clone(path);
    let (content, absent) = crate::blocking::run(move || {
        let mut content = vec![0; usize::try_from(blocks * BLOCK_SIZE_U64).unwrap_or(usize::MAX)];
        let absent = path.read_here(volume, extent, &mut content)?;
        Ok::<_, EngineError>((Bytes::from(content), absent))
    })
    .await
    .map_err(|_| super::running::gone())??;
    let here = {
        let mut here = ExtentSet::from_iter([extent]);
        absent.into_iter().for_each(|part| here.remove(part));
        here
    };
    let bytes = |part: Extent| {
        let at = |lba: u64| usize::try_from((lba - extent.lba) * BLOCK_SIZE_U64).unwrap_or(usize::MAX);
        content.slice(at(part.lba)..at(part.end()))
    };
    Ok(here
        .iter()
        .map(|part| {
            let data = bytes(part);
            (part, (!lifeboat_format::hash::is_zero(&data)).then_some(data))
        })
        .collect())
}

fn behind(group: &Group) -> EngineError {
    EngineError::new(
        ErrorKind::Invalid,
        format!(
            "the images of {} are not at the end of its branch yet: bring them forward once more, then take over",
            group.config.group
        ),
    )
}

/// Writes what a process server sends in a pass, until that is complete.
async fn receive(line: &mut Recalling, volumes: &[(VolumeId, u64)], sink: &Sink) -> Result<RehydrateStats> {
    for (volume, blocks) in volumes {
        sink.resize(*volume, *blocks).await?;
    }
    loop {
        match line.next().await? {
            Piece::Data(volume, lba, data) => sink.write(volume, lba, data).await?,
            Piece::Zero(volume, extent) => sink.zero(volume, extent).await?,
            Piece::Reached(cursor) => sink.progress(cursor).await?,
            Piece::Done(stats) => return Ok(stats),
        }
    }
}

/// Writes what a pass moves into the images.
///
/// Images are synced while more is written to them, one sync at a time; its cursor is saved once it is done. So the disk
/// works all along, and not only when the page cache is full.
struct Sink {
    group: Arc<Group>,
    images: Lock<BTreeMap<VolumeId, Arc<Image>>>,
    since_cursor: Lock<u64>,
    syncing: tokio::sync::Mutex<Option<(Cursor, JoinHandle<Result<()>>)>>,
    /// The volumes to be brought, in order: id and blocks.
    sizes: Vec<(VolumeId, u64)>,
}

impl Sink {
    fn open(group: &Arc<Group>, sizes: Vec<(VolumeId, u64)>) -> Result<Self> {
        let known = group.state.lock().state.volumes.clone();
        let mut images = BTreeMap::new();
        for volume in known {
            images.insert(volume.id, Arc::new(Image::open(&group.disk, volume.id, volume.blocks)?));
        }
        Ok(Self {
            group: Arc::clone(group),
            images: Lock::new(images),
            since_cursor: Lock::new(0),
            syncing: tokio::sync::Mutex::default(),
            sizes,
        })
    }

    /// Tells how far the pass is: up to the cursor that a restart would go on from, so that it never goes back.
    fn tell(&self, cursor: Option<Cursor>) {
        let done = |(id, blocks): &(VolumeId, u64)| match cursor {
            Some(cursor) if *id < cursor.volume => *blocks,
            Some(cursor) if *id == cursor.volume => cursor.lba.min(*blocks),
            _ => 0,
        };
        let done_bytes = self.sizes.iter().map(done).sum::<u64>() * BLOCK_SIZE_U64;
        let total_bytes = self.sizes.iter().map(|(_, blocks)| blocks).sum::<u64>() * BLOCK_SIZE_U64;
        self.group.observed.lock().progress = Some(Progress { done_bytes, total_bytes });
    }

    fn image(&self, volume: VolumeId) -> Result<Arc<Image>> {
        let found = self.images.lock().get(&volume).cloned();
        found.ok_or_else(|| EngineError::new(ErrorKind::NotFound, format!("{volume} has no image here")))
    }

    async fn blocking(&self, work: impl FnOnce() -> Result<()> + Send + 'static) -> Result<()> {
        crate::blocking::run(work).await.map_err(|_| closed(self.group.config.group))?
    }

    /// Begins to make everything durable that was written.
    fn start_sync(&self) -> JoinHandle<Result<()>> {
        let images: Vec<Arc<Image>> = self.images.lock().values().cloned().collect();
        let group = self.group.config.group;
        let work = move || images.iter().try_for_each(|image| image.sync());
        tokio::spawn(async move { crate::blocking::run(work).await.map_err(|_| closed(group))? })
    }

    /// Waits for the sync that is under way, and saves the cursor that it stands for.
    async fn end_sync(&self) -> Result<()> {
        let Some((cursor, task)) = self.syncing.lock().await.take() else { return Ok(()) };
        task.await.map_err(|_| closed(self.group.config.group))??;
        self.group.change_state(|state| {
            if let Some(one) = state.rehydrate.as_mut() {
                one.cursor = Some((cursor.volume, cursor.lba));
            }
        })?;
        self.tell(Some(cursor));
        Ok(())
    }
}

#[async_trait]
impl ImageSink for Sink {
    async fn resize(&self, volume: VolumeId, blocks: u64) -> Result<()> {
        let known = self.images.lock().get(&volume).cloned();
        match known {
            Some(image) => image.set_blocks(blocks),
            None => {
                let image = Arc::new(Image::create(&self.group.disk, volume, blocks, false)?);
                self.images.lock().insert(volume, image);
                self.group.change_state(|state| {
                    state.volumes.push(StateVolume { id: volume, name: String::new(), blocks, lazy: false });
                })
            }
        }
    }

    async fn write(&self, volume: VolumeId, lba: u64, data: Bytes) -> Result<()> {
        let image = self.image(volume)?;
        *self.since_cursor.lock() += data.len() as u64;
        self.blocking(move || image.write(lba, &data)).await
    }

    async fn zero(&self, volume: VolumeId, extent: Extent) -> Result<()> {
        let image = self.image(volume)?;
        self.blocking(move || image.zero(extent)).await
    }

    async fn progress(&self, cursor: Cursor) -> Result<()> {
        let ended = self.syncing.lock().await.as_ref().is_some_and(|(_, task)| task.is_finished());
        if ended {
            self.end_sync().await?;
        }
        if *self.since_cursor.lock() < CURSOR_EVERY {
            return Ok(());
        }
        // A disk that is slower than the vault: no more than this is ever ahead of it.
        self.end_sync().await?;
        *self.since_cursor.lock() = 0;
        *self.syncing.lock().await = Some((cursor, self.start_sync()));
        Ok(())
    }
}
