//! Serving a group from the vault alone: volumes that are writable at once, whose blocks come from the vault as they are
//! read, and in the background.
//!
//! ```text
//! fail over         fence the old branch ─> fork at a point ─┐
//! take over lazily  keep the own tail ─> next epoch ─────────┴─> lazy images ─> state file ─> Active, hydrating
//! ```
//! The state file is written last: a crash before it leaves nothing that counts here, and the same call is repeated under the
//! same names. What was here before is given up only once the vault has all of it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use lifeboat_model::state::GroupState;
use lifeboat_model::{BLOCK_SIZE_U64, BranchId, Epoch, Lsn, VolumeId};
use lifeboat_vault::{TRACE_TARGET, traced};
use tracing::field::Empty;

use super::adoption::{Wanted, hold_all};
use super::running::view_at_position;
use super::{
    FailOver, Group, GroupConfig, Phase, State, StateVolume, VolumeSpec, limits, local_disk, place, ship_settings,
};
use crate::branch::{self, Ahead, BranchInfo, BranchLog, Origin, Position, State as Replayed, Target};
use crate::disk::Disk;
use crate::error::{EngineError, ErrorKind, Result};
use crate::gc::Kept;
use crate::image::Image;
use crate::marks::Marks;
use crate::planted::{self, Bug};
use crate::points::{self, PointInfo};
use crate::segments::{Reader, ReaderLimits};
use crate::ship::{self, BranchWriter, Open, Opened};
use crate::state::StateFile;
use crate::view::PointView;
use crate::write_path::WritePath;

impl Group {
    /// At a recovery site: fences the branch's writer (unless it is a test), forks a branch at the point, and makes the
    /// volumes writable at once; their blocks come from the vault as they are read, and in the background.
    ///
    /// Safe to repeat with the same `branch` after a crash or an error at any place.
    ///
    /// # Errors
    /// `NotFound` when there is no such point; `Invalid` when the directory holds another branch that is active here; what
    /// the vault or the disk says.
    pub async fn fail_over(config: GroupConfig, request: FailOver) -> Result<Arc<Self>> {
        Self::fail_over_on(config, request, BTreeMap::new()).await
    }

    /// [`Group::fail_over`] at a gateway that may have the disks which the lost one had adopted. A disk that is recognised as its
    /// volume's is taken with what it holds: only blocks that differ from the point are fetched, and those it had beyond the point are
    /// replaced. What isn't there, is in use, too small, or holds something else is left alone, and the volume gets an image of our
    /// own: see [`Group::volumes`].
    ///
    /// # Errors
    /// As [`Group::fail_over`].
    pub async fn fail_over_on(
        config: GroupConfig,
        request: FailOver,
        disks: BTreeMap<VolumeId, PathBuf>,
    ) -> Result<Arc<Self>> {
        let span = tracing::info_span!(
            target: TRACE_TARGET, "group.fail_over", lifeboat.group = %config.group, lifeboat.branch = %request.branch,
            lifeboat.test = request.test, otel.status_message = Empty,
        );
        traced(span, Self::failed_over(config, request, disks)).await
    }

    async fn failed_over(
        config: GroupConfig,
        request: FailOver,
        disks: BTreeMap<VolumeId, PathBuf>,
    ) -> Result<Arc<Self>> {
        if let Some(active) = Self::give_up(&config, request.branch).await?.active {
            return Ok(active);
        }
        let (vault, group) = (config.reach.vault()?, config.group);
        let disk = room(&config)?;
        // One reader for all of it: what one step has read, the next ones know.
        let reader = Reader::open(vault, group, ReaderLimits::default()).await?;
        let fence = async {
            if request.test || planted::is(Bug::FailsOverWithoutFence) {
                return Ok(None);
            }
            branch::fence_with(&reader, request.from_branch, config.gateway, request.branch).await.map(Some)
        };
        // Which point was asked for, or chosen by an earlier try, doesn't depend on the fence; which is the newest does.
        let (fence, chosen) = futures::try_join!(fence, Self::chosen(&reader, &request))?;
        let (point, state) = match (chosen, fence) {
            (Some(point), _) => at_point(&reader, point).await?,
            (None, Some(fence)) => at_newest(&reader, request.from_branch, Some(fence.cut)).await?,
            (None, None) => at_newest(&reader, request.from_branch, None).await?,
        };
        let view = PointView::of(&reader, point.position(), state.clone(), Some(point.clone()));
        let held = recognised(&disk, &view, disks).await?;
        let origin = Origin { at: point.position(), point: Some(point.id) };
        let settings = ship_settings(&config.settings);
        let (writer, opened) =
            BranchWriter::fork(Arc::clone(&reader), request.branch, config.gateway, origin, state, settings).await?;
        if opened.end.lsn != point.lsn {
            // A crash of an earlier attempt came after the branch had been written to: only local state can go on
            // there, and it is gone.
            return Err(EngineError::new(
                ErrorKind::Invalid,
                format!(
                    "{} was written to already, and its local state is gone: fail over again from its newest point",
                    request.branch
                ),
            ));
        }
        let this = Self::begin_lazily(config, disk, view, writer, &opened, Some(point), held)?;
        if !request.test {
            this.start_hydration();
        }
        Ok(this)
    }

    /// At the home site, on a new disk: takes a branch over where its log ends, with volumes that are usable at once while
    /// their blocks come from the vault. Gives the branch that keeps what this gateway had not shipped, if there was
    /// anything.
    ///
    /// The branch's writer is to be released before: what it has not shipped stays with it as its tail. Safe to repeat after
    /// a crash or an error at any place.
    ///
    /// `disks`: files or block devices that volumes are built on, whatever those hold; the other volumes get images of our own.
    ///
    /// # Errors
    /// `Invalid` when another branch is active here, and for a disk that can't be had or is too small; `Retry` while one is in use;
    /// `NotFound` without such a branch; what the vault or the disk says.
    pub async fn take_over_lazily(
        config: GroupConfig,
        branch: BranchId,
        disks: BTreeMap<VolumeId, PathBuf>,
    ) -> Result<(Arc<Self>, Option<BranchId>)> {
        let span = tracing::info_span!(
            target: TRACE_TARGET, "group.take_over_lazily", lifeboat.group = %config.group, lifeboat.branch = %branch,
            otel.status_message = Empty,
        );
        traced(span, Self::taken_over_lazily(config, branch, disks)).await
    }

    async fn taken_over_lazily(
        config: GroupConfig,
        branch: BranchId,
        disks: BTreeMap<VolumeId, PathBuf>,
    ) -> Result<(Arc<Self>, Option<BranchId>)> {
        let before = Self::give_up(&config, branch).await?;
        if let Some(active) = before.active {
            return Ok((active, before.orphan));
        }
        let disk = room(&config)?;
        let held = hold_disks(&disk, disks).await?;
        let settings = ship_settings(&config.settings);
        let (writer, opened) =
            BranchWriter::open(config.reach.vault()?, config.group, branch, config.gateway, Open::Continue, settings)
                .await?;
        let view = view_at_position(config.reach.vault()?, config.group, opened.end).await?;
        let last_point = opened.last_point.clone();
        let this = Self::begin_lazily(config, disk, view, writer, &opened, last_point, held)?;
        this.start_hydration();
        Ok((this, before.orphan))
    }

    /// Makes way for a branch; an instance that has taken it over already stays.
    async fn give_up(config: &GroupConfig, branch: BranchId) -> Result<Before> {
        if Self::exists_at(config) {
            let disk = local_disk(config)?;
            if !StateFile::is_begun_only(&disk)? {
                let (_, saved) = StateFile::open(&disk, config.group)?;
                if saved.branch == branch && saved.phase == Phase::Active {
                    return Ok(Before { active: Some(Self::open(config.clone()).await?), orphan: None });
                }
            }
        }
        Ok(Before { active: None, orphan: Self::leave(config.clone()).await? })
    }

    /// Gives up what another gateway has taken over for good: what is here and in no vault goes to an orphan branch, which is
    /// returned, then the local files go. An adopted source stays. Safe to repeat after a crash or an error at any place.
    ///
    /// # Errors
    /// `Invalid` while the group is active here; what the vault or the disk says.
    pub async fn leave(config: GroupConfig) -> Result<Option<BranchId>> {
        if !Self::exists_at(&config) {
            // A crash may have come when the state was deleted and nothing else was.
            Self::forget_at(&config)?;
            return Ok(None);
        }
        let disk = local_disk(&config)?;
        if StateFile::is_begun_only(&disk)? {
            // Of an earlier attempt that a crash ended: it has made nothing that counts here.
            Self::forget_at(&config)?;
            return Ok(None);
        }
        drop(disk);
        // Opening asks the vault: a gateway that was away learns only now that another one has taken over.
        let old = Self::open(config.clone()).await?;
        if old.status().state == GroupState::Active {
            old.close(Duration::ZERO).await;
            return Err(EngineError::new(
                ErrorKind::Invalid,
                format!(
                    "{} is active at this gateway on {}: release it, or fail over at another gateway",
                    config.group,
                    old.status().branch
                ),
            ));
        }
        let orphan = old.keep_tail().await?;
        old.close(Duration::ZERO).await;
        drop(old);
        Self::forget_at(&config)?;
        Ok(orphan)
    }

    /// Active on a branch whose blocks are all in the vault.
    fn begin_lazily(
        config: GroupConfig,
        disk: Arc<dyn Disk>,
        view: Arc<PointView>,
        writer: BranchWriter,
        opened: &Opened,
        last_point: Option<PointInfo>,
        disks: Vec<Wanted>,
    ) -> Result<Arc<Self>> {
        let first = opened.end.lsn.next();
        let path = Arc::new(WritePath::create(&disk, config.group, opened.epoch, limits(&config.settings), first)?);
        let mut volumes = Vec::new();
        for volume in view.volumes() {
            let on = disks.iter().find(|wanted| wanted.spec.id == volume.id).and_then(Wanted::held);
            let image = match on {
                Some((path, file)) => Image::overwrite(&disk, volume.id, path, file, volume.size_blocks)?,
                None => Image::create(&disk, volume.id, volume.size_blocks, true)?,
            };
            path.add_volume(volume.id, Arc::new(image));
            volumes.push(StateVolume { id: volume.id, name: String::new(), blocks: volume.size_blocks, lazy: true });
        }
        let saved = State {
            group: config.group,
            gateway: config.gateway,
            generation: 0,
            phase: Phase::Active,
            branch: writer.branch(),
            epoch: opened.epoch,
            journal_first: first,
            image_lsn: opened.end.lsn,
            shipped: place(opened.end),
            volumes,
            origin: Some(place(view.position())),
            rehydrate: None,
            resync: None,
        };
        let this = Self::begin(config, disk, saved, last_point)?;
        this.start(path, Some(view));
        this.start_shipping(Some(writer.into()));
        Ok(this)
    }

    /// The point that was asked for, or that an earlier attempt which got as far as the branch has chosen: the newest one
    /// may be another by now.
    async fn chosen(reader: &Reader, request: &FailOver) -> Result<Option<PointInfo>> {
        let id = match request.point {
            Some(id) => id,
            None => match branch::branch_info_with(reader, request.branch).await {
                Ok(BranchInfo { origin: Some(Origin { point: Some(id), .. }), .. }) => id,
                Ok(_) => return Ok(None),
                Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
                Err(error) => return Err(error),
            },
        };
        // It nearly always is on the branch that is left: looking at all of the group's takes much longer.
        match points::list_points_with(reader, request.from_branch).await {
            Ok(mut points) => {
                if let Some(at) = points.iter().rposition(|point| point.id == id) {
                    return Ok(Some(points.swap_remove(at)));
                }
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        points::find_point_with(reader, id).await.map(Some)
    }
}

/// A point with the group's state there. One that retention has dropped can't be forked from.
async fn at_point(reader: &Reader, point: PointInfo) -> Result<(PointInfo, Replayed)> {
    let origin = Origin { at: point.position(), point: Some(point.id) };
    let target = Target { position: origin.at, point: origin.point };
    let ((), state) =
        futures::try_join!(ship::refuse_unkept(reader, &origin), Replayed::load(reader, target, Ahead::FirstBlocks))?;
    Ok((point, state))
}

/// The newest point of a branch with the group's state there; `end`: where the branch was found to end when it was fenced.
async fn at_newest(reader: &Reader, branch: BranchId, end: Option<Position>) -> Result<(PointInfo, Replayed)> {
    if let Some(end) = end {
        let target = Target { position: end, point: None };
        let read = Replayed::load(reader, target, Ahead::FirstBlocks);
        let (kept, marks, log, state) =
            futures::try_join!(Kept::read(reader), Marks::read(reader), BranchLog::read(reader, branch), read)?;
        if log.dropped {
            return Err(points::given_up(branch));
        }
        let mut points = state.points.clone();
        points.retain(|point| kept.offers(point));
        marks.lay_over(&kept, reader.vault().now(), branch, end, &mut points);
        // The log nearly always ends with a point: then its state is there already.
        let at_end = |point: &PointInfo| state.at_point.as_ref().is_some_and(|last| last.id == point.id);
        if let Some(point) = points.pop().filter(at_end) {
            return Ok((point, state));
        }
    }
    let point = points::list_points_with(reader, branch).await?.pop().ok_or_else(|| {
        EngineError::new(
            ErrorKind::NotFound,
            format!(
                "{} has no recovery point on {branch} yet: nothing can be recovered from the vault",
                reader.group()
            ),
        )
    })?;
    at_point(reader, point).await
}

/// Takes hold of the disks that volumes are to be built on.
async fn hold_disks(disk: &Arc<dyn Disk>, disks: BTreeMap<VolumeId, PathBuf>) -> Result<Vec<Wanted>> {
    let spec = |(id, path)| VolumeSpec { id, name: String::new(), size_bytes: 0, source: Some(path) };
    hold_all(disk, disks.into_iter().map(spec).collect()).await
}

/// Takes hold of those disks that hold their volumes.
async fn recognised(
    disk: &Arc<dyn Disk>,
    view: &Arc<PointView>,
    disks: BTreeMap<VolumeId, PathBuf>,
) -> Result<Vec<Wanted>> {
    let mut taken = Vec::new();
    for volume in view.volumes() {
        let Some(path) = disks.get(&volume.id) else { continue };
        let shown = path.display();
        let wanted = match hold_disks(disk, BTreeMap::from([(volume.id, path.clone())])).await {
            Ok(wanted) => wanted,
            Err(error) => {
                tracing::warn!(volume = %volume.id, disk = %shown, %error, "a disk isn't taken: its volume comes from the vault");
                continue;
            }
        };
        for one in wanted {
            let Some((_, file)) = one.held() else { continue };
            let bytes = volume.size_blocks.saturating_mul(BLOCK_SIZE_U64);
            let long_enough = file.len().is_ok_and(|len| len >= bytes);
            let (equal, seen) = if long_enough { view.sample(volume, &file).await? } else { (0, 0) };
            if seen > 0 && equal.saturating_mul(2) >= seen {
                tracing::info!(volume = %volume.id, disk = %shown, equal, seen, "a disk is recognised as its volume's");
                taken.push(one);
            } else {
                tracing::warn!(
                    volume = %volume.id, disk = %shown, equal, seen, long_enough,
                    "a disk doesn't hold what its volume held and is left alone: the volume comes from the vault"
                );
            }
        }
    }
    Ok(taken)
}

/// What was at a gateway before it took a branch.
#[derive(Default)]
struct Before {
    /// The branch is here already, from an earlier attempt.
    active: Option<Arc<Group>>,
    /// The branch that keeps what had not been shipped.
    orphan: Option<BranchId>,
}

/// The local disk, once it is known to have room for a journal: a full one is found out before anything is fenced.
fn room(config: &GroupConfig) -> Result<Arc<dyn Disk>> {
    let disk = local_disk(config)?;
    drop(WritePath::create(&disk, config.group, Epoch(0), limits(&config.settings), Lsn(1))?);
    Ok(disk)
}
