//! The engine behind [`crate::port`]: calls are passed through, types are translated, nothing is decided.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use lifeboat_engine::gc::GcReport;
use lifeboat_engine::group::Compression;
use lifeboat_engine::insight::Ledger;
use lifeboat_engine::marks::{self, Pin};
use lifeboat_engine::points::PointInfo;
use lifeboat_engine::relay::{Coordinators, follow};
use lifeboat_engine::ship::ShipSettings;
use lifeboat_engine::view::PointView;
use lifeboat_engine::{
    BlockVolume, EngineError, FailOver, Group, GroupConfig, GroupSettings, GroupStatus, RehydrateMode, Rehydrated,
    ResyncSettings, RetrySettings, VolumeSpec, branch, points,
};
use lifeboat_model::{BLOCK_SIZE_U64, BranchId, GatewayId, GroupId, PointId, PointKind, RootHash, VolumeId};
use lifeboat_vault::Vault;

use crate::port::{
    CompressionChoice, DataPath, EngineResult, FailOverTo, HeldVolume, Instance, InstanceStatus, MarkPoint, Pass,
    Place, PointFact, PointVolumes, Settings,
};

/// How long a release waits for the vault before it gives up.
const RELEASE_PATIENCE: Duration = Duration::from_secs(300);
/// Data in memory that waits for the images, bytes.
const CACHE_BYTES: u64 = 64 << 20;

/// The engine.
#[derive(Debug, Default)]
pub struct Engine;

fn settings(settings: &Settings) -> GroupSettings {
    GroupSettings {
        point_interval: settings.point_interval,
        compression: match settings.compression {
            CompressionChoice::Auto => Compression::Auto,
            CompressionChoice::Off => Compression::Off,
            CompressionChoice::Level(level) => Compression::Level(level),
        },
        retention: points::PointRetention { tiers: settings.retention.clone(), ..points::PointRetention::default() },
        journal_bytes: settings.journal_bytes,
        cache_bytes: CACHE_BYTES,
        app_points: settings.app_points.clone(),
        pace: Arc::clone(&settings.pace),
        resync: ResyncSettings {
            hours: settings.resync_hours.clone(),
            pace: Arc::clone(&settings.resync_pace),
            ..ResyncSettings::default()
        },
        retry: RetrySettings::default(),
    }
}

/// How what an agent streams is shipped.
pub(crate) fn ship_settings(of: &Settings) -> ShipSettings {
    let GroupSettings { compression, retention, pace, .. } = settings(of);
    ShipSettings { compression, retention, pace, ..ShipSettings::default() }
}

fn config(place: Place) -> EngineResult<GroupConfig> {
    if let Some(parent) = place.dir.parent() {
        std::fs::create_dir_all(parent)
            .map_err(|error| EngineError::io(format_args!("{} can't be made", parent.display()), error))?;
    }
    Ok(GroupConfig {
        machine: place.machine,
        reach: Arc::new(place.vault).into(),
        group: place.group,
        gateway: place.gateway,
        dir: place.dir,
        settings: settings(&place.settings),
    })
}

fn spec(volume: HeldVolume) -> VolumeSpec {
    VolumeSpec { id: volume.id, name: volume.name, size_bytes: volume.size_bytes, source: volume.source }
}

pub(crate) fn fact(point: &PointInfo) -> PointFact {
    PointFact {
        id: point.id,
        branch: point.branch,
        epoch: point.epoch,
        seq: point.seq,
        lsn: point.lsn,
        time: point.time,
        kind: point.kind,
        label: point.label.clone(),
        pinned: point.pinned,
    }
}

/// What a group says about itself, here or at its agent.
pub(crate) fn instance_status(found: GroupStatus) -> InstanceStatus {
    InstanceStatus {
        state: found.state,
        branch: found.branch,
        epoch: found.epoch,
        backlog_bytes: found.backlog_bytes,
        journal_bytes_used: found.journal_bytes_used,
        last_point: found.last_point.as_ref().map(fact),
        landed_rpo_seconds: found.landed_rpo_seconds,
        health: found.health,
        reasons: found.reasons,
        progress: found.progress.map(|progress| (progress.done_bytes, progress.total_bytes)),
        churn_bytes_per_second: found.churn_bytes_per_second,
        flow: found.flow,
        hydrated_bytes: found.hydrated_bytes,
        resync: found.resync,
        suspicions: found.suspicions,
    }
}

/// What a pass of a rehydration did, here or at the group's agent.
pub(crate) fn pass(done: &Rehydrated) -> Pass {
    Pass {
        point: fact(&done.point),
        blocks_compared: done.blocks_compared,
        blocks_moved: done.blocks_moved,
        bytes_fetched: done.bytes_fetched,
        orphan: done.orphan,
    }
}

fn info(group: GroupId, point: &PointFact) -> PointInfo {
    PointInfo {
        id: point.id,
        group,
        branch: point.branch,
        epoch: point.epoch,
        seq: point.seq,
        lsn: point.lsn,
        time: point.time,
        kind: point.kind,
        label: point.label.clone(),
        consistent: true,
        pinned: point.pinned,
    }
}

#[async_trait]
impl DataPath for Engine {
    fn exists(&self, dir: &Path) -> bool {
        Group::exists(dir)
    }

    async fn create(&self, place: Place, volumes: Vec<HeldVolume>) -> EngineResult<Arc<dyn Instance>> {
        let group = Group::create(config(place)?, volumes.into_iter().map(spec).collect()).await?;
        Ok(Arc::new(EngineInstance(group)))
    }

    async fn open(&self, place: Place) -> EngineResult<Arc<dyn Instance>> {
        Ok(Arc::new(EngineInstance(Group::open(config(place)?).await?)))
    }

    async fn blank(&self, place: Place, branch: BranchId) -> EngineResult<Arc<dyn Instance>> {
        Ok(Arc::new(EngineInstance(Group::blank(config(place)?, branch).await?)))
    }

    async fn fail_over(&self, place: Place, to: FailOverTo) -> EngineResult<Arc<dyn Instance>> {
        let request = FailOver { from_branch: to.from, point: to.point, test: to.test, branch: to.branch };
        Ok(Arc::new(EngineInstance(Group::fail_over_on(config(place)?, request, to.disks).await?)))
    }

    async fn take_over_lazily(
        &self,
        place: Place,
        branch: BranchId,
        disks: BTreeMap<VolumeId, PathBuf>,
    ) -> EngineResult<(Arc<dyn Instance>, Option<BranchId>)> {
        let (group, orphan) = Group::take_over_lazily(config(place)?, branch, disks).await?;
        Ok((Arc::new(EngineInstance(group)), orphan))
    }

    async fn leave(&self, place: Place) -> EngineResult<Option<BranchId>> {
        Group::leave(config(place)?).await
    }

    async fn forget(&self, dir: &Path) -> EngineResult<()> {
        Group::forget(dir).await
    }

    async fn drop_branch(
        &self,
        vault: &Vault,
        group: GroupId,
        branch: BranchId,
        gateway: GatewayId,
    ) -> EngineResult<()> {
        branch::drop_branch(&Arc::new(vault.clone()), group, branch, gateway).await
    }

    async fn mark_point(
        &self,
        vault: &Vault,
        group: GroupId,
        point: PointId,
        gateway: GatewayId,
        mark: MarkPoint,
    ) -> EngineResult<PointFact> {
        let vault = Arc::new(vault.clone());
        let marked = match mark {
            MarkPoint::Pin { until, reason } => {
                marks::pin(&vault, group, point, gateway, &Pin { until, reason }).await?
            }
            MarkPoint::Unpin => marks::unpin(&vault, group, point, gateway).await?,
            MarkPoint::Label(label) => marks::relabel(&vault, group, point, gateway, &label).await?,
        };
        Ok(fact(&marked))
    }

    async fn points(&self, vault: &Vault, group: GroupId, branch: BranchId) -> EngineResult<Vec<PointFact>> {
        let vault = Arc::new(vault.clone());
        Ok(points::list_points(&vault, group, branch).await?.iter().map(fact).collect())
    }

    async fn origin(&self, vault: &Vault, group: GroupId, branch: BranchId) -> EngineResult<Option<PointFact>> {
        let vault = Arc::new(vault.clone());
        let origin = branch::branch_info(&vault, group, branch).await?.origin;
        match origin.and_then(|origin| origin.point) {
            Some(point) => Ok(Some(fact(&points::find_point(&vault, group, point).await?))),
            None => Ok(None),
        }
    }

    async fn view(&self, vault: &Vault, group: GroupId, point: &PointFact) -> EngineResult<Arc<dyn PointVolumes>> {
        let view = PointView::open(Arc::new(vault.clone()), group, &info(group, point)).await?;
        Ok(Arc::new(EngineView(view)))
    }
}

#[derive(Debug)]
struct EngineView(Arc<PointView>);

impl PointVolumes for EngineView {
    fn volumes(&self) -> Vec<(VolumeId, u64, Option<RootHash>)> {
        let volumes = self.0.volumes();
        volumes.iter().map(|v| (v.id, v.size_blocks.saturating_mul(BLOCK_SIZE_U64), v.root)).collect()
    }

    fn erased(&self) -> Vec<VolumeId> {
        self.0.erased().iter().copied().collect()
    }

    fn volume(&self, id: VolumeId) -> Option<Arc<dyn BlockVolume>> {
        self.0.volume(id)
    }
}

#[derive(Debug)]
struct EngineInstance(Arc<Group>);

#[async_trait]
impl Instance for EngineInstance {
    fn status(&self) -> InstanceStatus {
        instance_status(self.0.status())
    }

    fn insight(&self) -> Option<(BranchId, Ledger)> {
        self.0.insight()
    }

    fn restore_insight(&self, branch: BranchId, kept: Ledger) {
        self.0.restore_insight(branch, kept);
    }

    fn volumes(&self) -> Vec<HeldVolume> {
        let volumes = self.0.volumes();
        volumes
            .into_iter()
            .map(|v| HeldVolume { id: v.id, name: v.name, size_bytes: v.size_bytes, source: v.source })
            .collect()
    }

    fn volume(&self, id: VolumeId) -> Option<Arc<dyn BlockVolume>> {
        self.0.volume(id)
    }

    async fn add_volume(&self, volume: HeldVolume) -> EngineResult<()> {
        self.0.add_volume(spec(volume)).await
    }

    async fn grow_volume(&self, id: VolumeId, size_bytes: u64) -> EngineResult<()> {
        self.0.grow_volume(id, size_bytes).await
    }

    async fn remove_volume(&self, id: VolumeId) -> EngineResult<()> {
        self.0.remove_volume(id).await
    }

    fn set_settings(&self, wanted: Settings) {
        self.0.set_settings(settings(&wanted));
    }

    fn doubt(&self) {
        if let Err(error) = self.0.doubt() {
            tracing::debug!(group = %self.0.id(), %error, "the vault isn't asked about another writer");
        }
    }

    async fn follow(&self, machine: GatewayId, coordinators: &dyn Coordinators) {
        follow(&self.0, machine, coordinators).await;
    }

    async fn take_point(&self, kind: PointKind, label: &str) -> EngineResult<PointFact> {
        Ok(fact(&self.0.take_point(kind, label).await?))
    }

    async fn release(&self) -> EngineResult<PointFact> {
        Ok(fact(&self.0.release(RELEASE_PATIENCE).await?))
    }

    fn resync_now(&self) {
        self.0.resync_now();
    }

    fn resync_in_window(&self) {
        self.0.resync_in_window();
    }

    async fn compare(&self) -> EngineResult<u64> {
        self.0.compare().await
    }

    async fn resume(&self) -> EngineResult<()> {
        self.0.resume().await
    }

    async fn rehydrate(&self, branch: BranchId, full: bool) -> EngineResult<Pass> {
        let mode = if full { RehydrateMode::Full } else { RehydrateMode::Delta };
        Ok(pass(&self.0.rehydrate(branch, mode).await?))
    }

    async fn take_over(&self) -> EngineResult<()> {
        self.0.take_over().await
    }

    async fn keep_unshipped(&self) -> EngineResult<Option<BranchId>> {
        self.0.keep_unshipped().await
    }

    async fn collect_garbage(&self, grace: Duration, dry_run: bool) -> EngineResult<GcReport> {
        self.0.collect_garbage(grace, dry_run).await
    }

    async fn close(&self, deadline: Duration) {
        self.0.close(deadline).await;
    }
}
