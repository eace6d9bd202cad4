//! A data path that is a few maps in memory and one small file for each instance, and that can be killed in the middle
//! of everything it does.
//!
//! What it keeps of the engine's contract: one writer for a branch, by epoch; a failover fences; a test doesn't; an image
//! takes over only at its branch's newest point; what was written before a point is what whoever opens that point reads.
//! A kill leaves what was done before it, and the call never returns. Cut off from the vault, a call waits.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use lifeboat_engine::gc::GcReport;
use lifeboat_engine::{BlockVolume, EngineError, ErrorKind, Progress, ResyncCause, ResyncStatus};
use lifeboat_model::state::{GroupState, Health};
use lifeboat_model::{
    BLOCK_SIZE_U64, BranchId, Epoch, GatewayId, GroupId, Lsn, PointId, PointKind, SegmentSeq, Timestamp, VolumeId,
};
use lifeboat_vault::Vault;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::port::{
    DataPath, EngineResult, FailOverTo, HeldVolume, Instance, InstanceStatus, MarkPoint, Pass, Place, PointFact,
    PointVolumes, Settings,
};

/// Blocks that a comparison finds to differ.
const COMPARED: u64 = 5;

/// What was written to a group's volume: stamps by block.
pub(super) type Data = BTreeMap<u64, u64>;

/// What would be in the vault.
#[derive(Debug, Default)]
pub(super) struct World {
    branches: BTreeMap<BranchId, Branch>,
    /// Places where a kill is still to come; each once.
    kills: BTreeSet<&'static str>,
    pub(super) killed: Vec<&'static str>,
    /// What each point holds.
    contents: BTreeMap<PointId, Data>,
    /// The disks that the last lazy take-over was to build volumes on.
    built_on: Vec<PathBuf>,
}

#[derive(Debug, Default)]
struct Branch {
    epoch: u64,
    points: Vec<PointFact>,
    origin: Option<PointFact>,
    promoted_to: Option<BranchId>,
    dropped: bool,
}

#[derive(Debug, Clone, Default)]
pub(super) struct Fake(Arc<Mutex<World>>, Arc<watch::Sender<bool>>);

/// What an instance's file holds.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Local {
    group: GroupId,
    branch: BranchId,
    epoch: u64,
    phase: GroupState,
    volumes: Vec<HeldVolume>,
    image: Option<PointId>,
    /// Blocks that the vault lacks.
    #[serde(default)]
    missing: u64,
    data: Data,
}

fn refuse(kind: ErrorKind, message: &str) -> EngineError {
    EngineError::new(kind, message)
}

impl Fake {
    /// Dies once at each of these places.
    pub(super) fn kill_at(&self, places: &[&'static str]) {
        self.0.lock().expect("sound").kills.extend(places);
    }

    /// Whether a branch was given up.
    pub(super) fn is_dropped(&self, branch: BranchId) -> bool {
        self.change(branch, |branch| branch.dropped)
    }

    pub(super) fn built_on(&self) -> Vec<PathBuf> {
        self.0.lock().expect("sound").built_on.clone()
    }

    pub(super) fn killed(&self) -> Vec<&'static str> {
        self.0.lock().expect("sound").killed.clone()
    }

    /// Cuts both gateways off from the vault, or lets them reach it again.
    pub(super) fn cut(&self, cut: bool) {
        self.1.send_replace(cut);
    }

    async fn reach(&self) {
        // The sender is never dropped.
        let _ = self.1.subscribe().wait_for(|cut| !cut).await;
    }

    /// An application's write to an instance; whether it was taken.
    pub(super) fn write(&self, dir: &Path, block: u64, stamp: u64) -> bool {
        let instance = FakeInstance { fake: self.clone(), dir: dir.to_owned(), wanted: AtomicBool::new(false) };
        let mut active = false;
        instance.set(|local| {
            active = local.phase == GroupState::Active;
            if active {
                local.data.insert(block, stamp);
            }
        });
        active
    }

    /// What an instance holds.
    pub(super) fn data(&self, dir: &Path) -> Option<Data> {
        read(dir).map(|local| local.data)
    }

    fn content(&self, point: PointId) -> Data {
        self.0.lock().expect("sound").contents.get(&point).cloned().expect("the point was taken")
    }

    /// Dies here, if it is to: the call never returns.
    async fn place(&self, name: &'static str) {
        self.reach().await;
        let dies = {
            let mut world = self.0.lock().expect("sound");
            let dies = world.kills.remove(name);
            if dies {
                world.killed.push(name);
            }
            dies
        };
        if dies {
            std::future::pending::<()>().await;
        }
    }

    fn change<T>(&self, id: BranchId, change: impl FnOnce(&mut Branch) -> T) -> T {
        change(self.0.lock().expect("sound").branches.entry(id).or_default())
    }

    fn point(&self, id: BranchId, kind: PointKind, label: &str, data: Data) -> PointFact {
        let point = self.change(id, |branch| {
            let lsn = branch.points.last().map_or(0, |point| point.lsn.0) + 1;
            let point = PointFact {
                id: PointId::new(),
                branch: id,
                epoch: Epoch(branch.epoch),
                seq: SegmentSeq(lsn),
                lsn: Lsn(lsn),
                time: Timestamp::now(),
                kind,
                label: label.to_owned(),
                pinned: false,
            };
            branch.points.push(point.clone());
            point
        });
        self.0.lock().expect("sound").contents.insert(point.id, data);
        point
    }

    /// One more point on a branch, as if it had been there all the time; of what the instance holds.
    pub(super) fn another_point(&self, branch: BranchId, dir: &Path) -> PointId {
        self.point(branch, PointKind::CrashConsistent, "", self.data(dir).expect("an instance")).id
    }

    fn instance(&self, dir: &Path) -> Arc<dyn Instance> {
        Arc::new(FakeInstance { fake: self.clone(), dir: dir.to_owned(), wanted: AtomicBool::new(false) })
    }
}

/// Jobs and the reconciler's looks change the files of the same instances.
static FILES: Mutex<()> = Mutex::new(());

fn write(dir: &Path, local: &Local) {
    let files = FILES.lock().expect("sound");
    write_held(&files, dir, local);
}

fn write_held(_: &MutexGuard<'_, ()>, dir: &Path, local: &Local) {
    std::fs::create_dir_all(dir).expect("made");
    std::fs::write(dir.join("new"), serde_json::to_vec(local).expect("plain")).expect("written");
    std::fs::rename(dir.join("new"), dir.join("state")).expect("renamed");
}

fn remove(dir: &Path) {
    let _files = FILES.lock().expect("sound");
    std::fs::remove_dir_all(dir).expect("removed");
}

/// `None` once it was forgotten.
fn read(dir: &Path) -> Option<Local> {
    let text = std::fs::read(dir.join("state")).ok()?;
    Some(serde_json::from_slice(&text).expect("sound"))
}

#[async_trait]
impl DataPath for Fake {
    fn exists(&self, dir: &Path) -> bool {
        dir.join("state").exists()
    }

    async fn create(&self, place: Place, volumes: Vec<HeldVolume>) -> EngineResult<Arc<dyn Instance>> {
        assert!(!self.exists(&place.dir), "created over what is there");
        self.place("create: begins").await;
        let branch = BranchId::new();
        self.change(branch, |branch| branch.epoch = 1);
        self.point(branch, PointKind::CrashConsistent, "", Data::new());
        self.place("create: the vault has it").await;
        let local = Local {
            group: place.group,
            branch,
            epoch: 1,
            phase: GroupState::Active,
            volumes,
            image: None,
            missing: 0,
            data: Data::new(),
        };
        write(&place.dir, &local);
        self.place("create: done").await;
        Ok(self.instance(&place.dir))
    }

    async fn open(&self, place: Place) -> EngineResult<Arc<dyn Instance>> {
        assert!(self.exists(&place.dir), "opened what isn't there");
        Ok(self.instance(&place.dir))
    }

    async fn blank(&self, place: Place, branch: BranchId) -> EngineResult<Arc<dyn Instance>> {
        let local = Local {
            group: place.group,
            branch,
            epoch: 0,
            phase: GroupState::Idle,
            volumes: vec![],
            image: None,
            missing: 0,
            data: Data::new(),
        };
        write(&place.dir, &local);
        self.place("blank: done").await;
        Ok(self.instance(&place.dir))
    }

    async fn fail_over(&self, place: Place, to: FailOverTo) -> EngineResult<Arc<dyn Instance>> {
        self.place("fail over: begins").await;
        self.0.lock().expect("sound").built_on = to.disks.values().cloned().collect();
        if !to.test {
            let fenced = self.change(to.from, |branch| match branch.promoted_to {
                Some(other) if other != to.branch => false,
                Some(_) => true,
                None => {
                    branch.epoch += 1;
                    branch.promoted_to = Some(to.branch);
                    true
                }
            });
            if !fenced {
                return Err(refuse(ErrorKind::Fenced, "another gateway was faster"));
            }
            self.place("fail over: fenced").await;
        }
        let origin = {
            let world = self.0.lock().expect("sound");
            match to.point {
                Some(id) => {
                    world.branches.values().flat_map(|branch| &branch.points).find(|point| point.id == id).cloned()
                }
                None => world.branches.get(&to.from).and_then(|branch| branch.points.last().cloned()),
            }
        };
        let origin = origin.ok_or_else(|| refuse(ErrorKind::NotFound, "no such point"))?;
        let data = self.content(origin.id);
        self.change(to.branch, |branch| {
            if branch.origin.is_none() {
                *branch = Branch {
                    epoch: 1,
                    points: vec![origin.clone()],
                    origin: Some(origin),
                    promoted_to: None,
                    dropped: false,
                };
            }
        });
        self.place("fail over: the branch is there").await;
        let volumes = vec![HeldVolume {
            id: VolumeId::from_bytes(place.group.to_bytes()),
            name: "db".into(),
            size_bytes: 16 << 20,
            source: None,
        }];
        let local = Local {
            group: place.group,
            branch: to.branch,
            epoch: 1,
            phase: GroupState::Active,
            volumes,
            image: None,
            missing: 0,
            data,
        };
        write(&place.dir, &local);
        self.place("fail over: done").await;
        Ok(self.instance(&place.dir))
    }

    async fn take_over_lazily(
        &self,
        place: Place,
        branch: BranchId,
        disks: BTreeMap<VolumeId, PathBuf>,
    ) -> EngineResult<(Arc<dyn Instance>, Option<BranchId>)> {
        self.place("take over lazily: begins").await;
        self.0.lock().expect("sound").built_on = disks.into_values().collect();
        if read(&place.dir).is_some_and(|local| local.branch == branch && local.phase == GroupState::Active) {
            return Ok((self.instance(&place.dir), None));
        }
        let epoch = self.change(branch, |branch| {
            branch.epoch += 1;
            branch.epoch
        });
        self.place("take over lazily: the epoch is open").await;
        let volumes = vec![HeldVolume {
            id: VolumeId::from_bytes(place.group.to_bytes()),
            name: "db".into(),
            size_bytes: 16 << 20,
            source: None,
        }];
        let newest = self.change(branch, |branch| branch.points.last().map(|point| point.id));
        let data = self.content(newest.ok_or_else(|| refuse(ErrorKind::NotFound, "the branch has no point"))?);
        let local = Local {
            group: place.group,
            branch,
            epoch,
            phase: GroupState::Active,
            volumes,
            image: None,
            missing: 0,
            data,
        };
        write(&place.dir, &local);
        self.place("take over lazily: done").await;
        Ok((self.instance(&place.dir), None))
    }

    async fn leave(&self, place: Place) -> EngineResult<Option<BranchId>> {
        self.place("leave: begins").await;
        let Some(local) = read(&place.dir) else { return Ok(None) };
        let newest = self.change(local.branch, |branch| (branch.epoch, branch.promoted_to));
        if local.phase == GroupState::Active && newest == (local.epoch, None) {
            return Err(refuse(ErrorKind::Invalid, "it is active here"));
        }
        remove(&place.dir);
        self.place("leave: done").await;
        // An orderly switch leaves no tail.
        Ok((local.phase == GroupState::Active).then(|| BranchId::from_bytes(place.group.to_bytes())))
    }

    async fn forget(&self, dir: &Path) -> EngineResult<()> {
        if !dir.exists() {
            return Ok(());
        }
        self.place("forget: begins").await;
        // As the engine does it: what opens an instance goes first.
        let _ = std::fs::remove_file(dir.join("state"));
        self.place("forget: the state is gone").await;
        remove(dir);
        self.place("forget: done").await;
        Ok(())
    }

    async fn drop_branch(&self, _: &Vault, _: GroupId, branch: BranchId, _: GatewayId) -> EngineResult<()> {
        self.place("drop: begins").await;
        self.change(branch, |branch| branch.dropped = true);
        self.place("drop: done").await;
        Ok(())
    }

    async fn mark_point(
        &self,
        _: &Vault,
        _: GroupId,
        point: PointId,
        _: GatewayId,
        _: MarkPoint,
    ) -> EngineResult<PointFact> {
        Err(refuse(ErrorKind::NotFound, &format!("this data path marks no points: {point}")))
    }

    async fn points(&self, _: &Vault, _: GroupId, branch: BranchId) -> EngineResult<Vec<PointFact>> {
        self.reach().await;
        Ok(self.change(branch, |branch| branch.points.clone()))
    }

    async fn origin(&self, _: &Vault, _: GroupId, branch: BranchId) -> EngineResult<Option<PointFact>> {
        self.reach().await;
        Ok(self.change(branch, |branch| branch.origin.clone()))
    }

    async fn view(&self, _: &Vault, _: GroupId, _: &PointFact) -> EngineResult<Arc<dyn PointVolumes>> {
        Err(refuse(ErrorKind::NotFound, "this data path holds no data"))
    }
}

#[derive(Debug)]
struct FakeInstance {
    fake: Fake,
    dir: PathBuf,
    /// A resync was asked for; forgotten by a kill.
    wanted: AtomicBool,
}

impl FakeInstance {
    /// Its state, as the vault knows it.
    fn local(&self) -> Local {
        let none = BranchId::from_bytes([0; 16]);
        let gone = Local {
            group: GroupId::from_bytes([0; 16]),
            branch: none,
            epoch: 0,
            phase: GroupState::Idle,
            volumes: vec![],
            image: None,
            missing: 0,
            data: Data::new(),
        };
        self.known().unwrap_or(gone)
    }

    /// The same; `None` once it was forgotten.
    fn known(&self) -> Option<Local> {
        let mut local = read(&self.dir)?;
        if local.phase == GroupState::Active && self.fake.change(local.branch, |branch| branch.epoch) != local.epoch {
            local.phase = GroupState::Fenced;
        }
        Some(local)
    }

    /// What was forgotten stays so.
    fn set(&self, change: impl FnOnce(&mut Local)) {
        let files = FILES.lock().expect("sound");
        let Some(mut local) = self.known() else { return };
        change(&mut local);
        write_held(&files, &self.dir, &local);
    }
}

#[async_trait]
impl Instance for FakeInstance {
    fn status(&self) -> InstanceStatus {
        // A look copies a block.
        if self.wanted.load(Ordering::Acquire) {
            self.set(|local| local.missing = local.missing.saturating_sub(1));
        }
        let local = self.local();
        InstanceStatus {
            state: local.phase,
            branch: local.branch,
            epoch: Epoch(local.epoch),
            backlog_bytes: 0,
            journal_bytes_used: 0,
            last_point: self.fake.change(local.branch, |branch| branch.points.last().cloned()),
            landed_rpo_seconds: Some(0.0),
            suspicions: Vec::new(),
            health: Health::Healthy,
            reasons: vec![],
            progress: None,
            churn_bytes_per_second: 0.0,
            flow: Default::default(),
            hydrated_bytes: None,
            resync: (local.missing > 0).then(|| ResyncStatus {
                since: Timestamp::from_micros(0),
                cause: ResyncCause::Compared,
                collapsed: Lsn(0),
                progress: Progress {
                    done_bytes: (COMPARED - local.missing) * BLOCK_SIZE_U64,
                    total_bytes: COMPARED * BLOCK_SIZE_U64,
                },
                waits_for: None,
            }),
        }
    }

    fn volumes(&self) -> Vec<HeldVolume> {
        self.local().volumes
    }

    fn volume(&self, _: VolumeId) -> Option<Arc<dyn BlockVolume>> {
        None
    }

    async fn add_volume(&self, volume: HeldVolume) -> EngineResult<()> {
        self.set(|local| local.volumes.push(volume));
        Ok(())
    }

    async fn grow_volume(&self, _: VolumeId, _: u64) -> EngineResult<()> {
        Err(refuse(ErrorKind::Invalid, "nothing grows here"))
    }

    async fn remove_volume(&self, _: VolumeId) -> EngineResult<()> {
        Err(refuse(ErrorKind::Invalid, "nothing is removed here"))
    }

    fn set_settings(&self, _: Settings) {}

    fn doubt(&self) {}

    async fn take_point(&self, kind: PointKind, label: &str) -> EngineResult<PointFact> {
        let local = self.local();
        self.fake.reach().await;
        Ok(self.fake.point(local.branch, kind, label, local.data))
    }

    async fn release(&self) -> EngineResult<PointFact> {
        self.fake.place("release: begins").await;
        let local = self.local();
        if local.phase != GroupState::Active {
            return Err(refuse(ErrorKind::Fenced, "it isn't active"));
        }
        let point = self.fake.point(local.branch, PointKind::Final, "", local.data);
        self.fake.place("release: shipped").await;
        self.set(|local| local.phase = GroupState::Standby);
        self.fake.place("release: done").await;
        Ok(point)
    }

    fn resync_now(&self) {
        self.wanted.store(true, Ordering::Release);
    }

    fn resync_in_window(&self) {
        self.wanted.store(false, Ordering::Release);
    }

    async fn compare(&self) -> EngineResult<u64> {
        self.fake.place("compare: begins").await;
        if self.local().missing > 0 {
            return Err(refuse(ErrorKind::Retry, "it is being resynced"));
        }
        self.resync_in_window();
        self.set(|local| local.missing = COMPARED);
        self.fake.place("compare: done").await;
        Ok(COMPARED)
    }

    async fn resume(&self) -> EngineResult<()> {
        let local = self.local();
        let epoch = self.fake.change(local.branch, |branch| {
            branch.epoch += 1;
            branch.epoch
        });
        self.set(|local| (local.phase, local.epoch) = (GroupState::Active, epoch));
        Ok(())
    }

    async fn rehydrate(&self, branch: BranchId, _full: bool) -> EngineResult<Pass> {
        self.fake.place("rehydrate: begins").await;
        if self.local().phase == GroupState::Active {
            return Err(refuse(ErrorKind::Fenced, "it is active"));
        }
        self.set(|local| (local.phase, local.image) = (GroupState::Rehydrating, None));
        self.fake.place("rehydrate: in between").await;
        let point = self.fake.change(branch, |branch| branch.points.last().cloned());
        let point = point.ok_or_else(|| refuse(ErrorKind::NotFound, "the branch has no point"))?;
        let data = self.fake.content(point.id);
        self.set(|local| (local.branch, local.image, local.data) = (branch, Some(point.id), data));
        self.fake.place("rehydrate: done").await;
        Ok(Pass { point, blocks_compared: 8, blocks_moved: 2, bytes_fetched: 5000, orphan: None })
    }

    async fn take_over(&self) -> EngineResult<()> {
        self.fake.place("take over: begins").await;
        let local = self.local();
        let newest = self.fake.change(local.branch, |branch| branch.points.last().map(|point| point.id));
        if local.phase != GroupState::Rehydrating || local.image != newest {
            return Err(refuse(ErrorKind::Invalid, "the image isn't at the newest point"));
        }
        let epoch = self.fake.change(local.branch, |branch| {
            branch.epoch += 1;
            branch.epoch
        });
        self.fake.place("take over: the epoch is open").await;
        self.set(|local| (local.phase, local.epoch) = (GroupState::Active, epoch));
        self.fake.place("take over: done").await;
        Ok(())
    }

    async fn keep_unshipped(&self) -> EngineResult<Option<BranchId>> {
        self.fake.place("keep: begins").await;
        if self.local().phase != GroupState::Fenced {
            return Err(refuse(ErrorKind::Invalid, "it wasn't fenced"));
        }
        self.fake.place("keep: done").await;
        Ok(Some(BranchId::from_bytes(self.local().group.to_bytes())))
    }

    async fn collect_garbage(&self, _: Duration, _: bool) -> EngineResult<GcReport> {
        Ok(GcReport::default())
    }

    async fn close(&self, _: Duration) {}
}
