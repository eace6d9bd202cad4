//! The mount and NBD: volumes, recovery points and branches of this gateway as a tree of names.
//!
//! ```text
//! volumes/NAME.img            the group's active instance here, or its home instance (read-only) when it is active elsewhere
//! points/GROUP/TIME/NAME.img  every group of every attached vault; trees are opened when they are looked at
//! branches/BRANCH/NAME.img    tests and failovers that run here
//! ```
//! Names are looked up at every request in what is open now; nothing is kept. A name that two vaults share is served
//! from the vault attached first. Losing the mount never stops a group: it is started again.

use std::path::PathBuf;
use std::sync::{Arc, OnceLock, PoisonError, RwLock, Weak};

use async_trait::async_trait;
use lifeboat_api::{GroupSpec, VolumeSpec};
use lifeboat_engine::{BlockVolume, EngineError, ErrorKind};
use lifeboat_export::{Dir, DirStat, ExportTree, File, FileStat, Space};
use lifeboat_model::{BranchId, GroupId, VolumeId};
use lifeboat_vault::Vault;

use crate::context::Context;
use crate::port::{HeldVolume, PointFact};
use crate::records::{GroupRecord, HOME_INSTANCE, kind, status};
use crate::vaults::AttachedVault;
use crate::view::group_of;

type Result<T> = std::result::Result<T, EngineError>;

/// Where the mount is, while there is one, and where NBD listens.
#[derive(Debug, Default)]
pub(crate) struct Exported {
    path: RwLock<Option<PathBuf>>,
    nbd: OnceLock<String>,
}

impl Exported {
    pub(crate) fn path(&self) -> Option<PathBuf> {
        self.path.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn set(&self, path: Option<PathBuf>) {
        *self.path.write().unwrap_or_else(PoisonError::into_inner) = path;
    }

    /// What NBD listens on; a path for a unix socket.
    pub(crate) fn nbd(&self) -> Option<String> {
        self.nbd.get().cloned()
    }

    /// Told once, at the start.
    pub(crate) fn set_nbd(&self, address: String) {
        let _ = self.nbd.set(address);
    }
}

/// The tree behind the mount. Holds the context weakly: a mount that outlives its gateway serves nothing.
#[derive(Debug)]
pub(crate) struct Tree {
    context: Weak<Context>,
}

/// A volume that is served here.
struct Served {
    name: String,
    id: VolumeId,
    file: Readable,
}

fn missing(what: &str, name: &str) -> EngineError {
    EngineError::new(ErrorKind::NotFound, format!("there is no {what} {name:?} in this mount"))
}

impl Tree {
    pub(crate) fn new(context: &Arc<Context>) -> Self {
        Self { context: Arc::downgrade(context) }
    }

    fn context(&self) -> Result<Arc<Context>> {
        self.context.upgrade().ok_or_else(|| EngineError::new(ErrorKind::Closed, "the gateway is stopping"))
    }
}

/// The volumes in `volumes/`.
fn volumes(context: &Context) -> Vec<Served> {
    let mut served: Vec<Served> = Vec::new();
    for attached in context.vaults.all() {
        let snapshot = attached.snapshot();
        let own = context.own_gateway(&attached);
        for document in snapshot.of(kind::GROUPS) {
            let Ok(group) = document.id.parse::<GroupId>() else { continue };
            let record: GroupRecord = status(document);
            let Some(open) = context.instances.get(group, record.shown_at(own)) else { continue };
            for volume in open.instance.volumes() {
                // The declared name counts; the one that the group holds dates from when the volume was made.
                let name = snapshot.get(kind::VOLUMES, &volume.id.to_string()).map_or(volume.name, |d| d.name.clone());
                if served.iter().all(|other| other.name != name) {
                    served.push(Served { name, id: volume.id, file: open.instance.volume(volume.id) });
                }
            }
        }
    }
    served
}

/// A volume's content, while it can be read.
type Readable = Option<Arc<dyn BlockVolume>>;

/// The instance in `branches/BRANCH/`: a test, or a failover.
fn branches(context: &Context) -> Vec<(BranchId, GroupId, String)> {
    context
        .instances
        .all()
        .into_iter()
        .filter(|((_, name), _)| name != HOME_INSTANCE)
        .map(|((group, name), open)| (open.instance.status().branch, group, name))
        .collect()
}

fn branch_volumes(context: &Context, branch: &str) -> Result<Vec<(HeldVolume, Readable)>> {
    let (_, group, name) = branches(context)
        .into_iter()
        .find(|(id, _, _)| id.to_string() == branch)
        .ok_or_else(|| missing("branch", branch))?;
    let open = context.instances.get(group, &name).ok_or_else(|| missing("branch", branch))?;
    Ok(open
        .instance
        .volumes()
        .into_iter()
        .map(|volume| {
            let file = open.instance.volume(volume.id);
            (volume, file)
        })
        .collect())
}

/// Whose content a file of the tree is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Owner {
    /// A volume's.
    Volume(VolumeId),
    /// Nobody's: there is no such file.
    Nobody,
    /// That can't be said yet: catalogs are still to be read, or several volumes of that name may be meant.
    Unsure,
}

/// Finds by the same rules as files are opened which volume a file is of; nothing is opened.
pub(crate) fn owner(context: &Context, file: &File) -> Owner {
    let found = match file {
        File::Volume { volume } => {
            let served = volumes(context).into_iter().find(|served| served.name == *volume);
            if served.is_none() && is_declared_here(context, volume) {
                return Owner::Unsure;
            }
            served.map(|served| served.id)
        }
        File::Point { group, volume, .. } => context
            .vaults
            .all()
            .iter()
            .find_map(|attached| {
                let snapshot = attached.snapshot();
                snapshot.of(kind::GROUPS).iter().find(|document| document.name == *group)?.id.parse::<GroupId>().ok()
            })
            .and_then(|group| volume_named(context, group, volume)),
        File::Branch { branch, volume } => branch_volumes(context, branch).ok().and_then(|volumes| {
            volumes.into_iter().map(|(held, _)| held.id).find(|id| name_of(context, *id) == *volume)
        }),
    };
    match found {
        Some(volume) => Owner::Volume(volume),
        None if is_catalog_unknown(context) => Owner::Unsure,
        None => Owner::Nobody,
    }
}

/// A group's points on its active branch.
async fn points(context: &Context, group: &str) -> Result<(Vault, GroupId, Arc<Vec<PointFact>>)> {
    for attached in context.vaults.all() {
        let snapshot = attached.snapshot();
        let Some(document) = snapshot.of(kind::GROUPS).iter().find(|document| document.name == group) else { continue };
        let Ok(id) = document.id.parse::<GroupId>() else { continue };
        let record: GroupRecord = status(document);
        let vault = attached
            .vault()
            .map_err(|error| EngineError::new(ErrorKind::Retry, error.to_string()).with_source(error))?;
        let list = match record.active {
            Some(active) => context.points.list(context.engine.as_ref(), &vault, id, active.branch).await?,
            None => Arc::default(),
        };
        return Ok((vault, id, list));
    }
    Err(missing("group", group))
}

async fn point(context: &Context, group: &str, time: &str) -> Result<(Vault, GroupId, PointFact)> {
    let (vault, id, list) = points(context, group).await?;
    let found = match time.parse::<lifeboat_model::Timestamp>() {
        // Any spelling of the very time.
        Ok(time) => list.iter().rev().find(|point| point.time == time),
        Err(_) if time == "latest" => list.last(),
        Err(_) => list.iter().find(|point| point.id.to_string() == time),
    };
    let point = found.cloned().ok_or_else(|| missing("recovery point", time))?;
    Ok((vault, id, point))
}

/// The id of a volume with that name in that group, as the catalog knows it; deleted volumes go by their id.
fn volume_named(context: &Context, group: GroupId, name: &str) -> Option<VolumeId> {
    for attached in context.vaults.all() {
        for document in attached.snapshot().of(kind::VOLUMES) {
            if document.name != name {
                continue;
            }
            let (Ok(id), Ok(spec)) = (document.id.parse::<VolumeId>(), document.spec_as::<VolumeSpec>()) else {
                continue;
            };
            if group_of(id, &spec) == group {
                return Some(id);
            }
        }
    }
    name.parse().ok()
}

fn name_of(context: &Context, volume: VolumeId) -> String {
    let id = volume.to_string();
    context
        .vaults
        .all()
        .iter()
        .find_map(|attached| attached.snapshot().get(kind::VOLUMES, &id).map(|document| document.name.clone()))
        .unwrap_or(id)
}

async fn point_file(
    context: &Context,
    group: &str,
    time: &str,
    volume: &str,
) -> Result<(PointFact, Arc<dyn BlockVolume>)> {
    let (vault, id, point) = point(context, group, time).await?;
    let view = context.points.view(context.engine.as_ref(), &vault, id, &point).await?;
    let file = volume_named(context, id, volume)
        .and_then(|volume| view.volume(volume))
        .ok_or_else(|| missing("volume at this point", volume))?;
    Ok((point, file))
}

fn file_stat(id: VolumeId, file: &dyn BlockVolume) -> FileStat {
    FileStat { identity: id.to_bytes(), size_bytes: file.size_bytes(), read_only: file.read_only(), modified: None }
}

#[async_trait]
impl ExportTree for Tree {
    async fn list(&self, dir: &Dir) -> Result<Vec<String>> {
        let context = self.context()?;
        match dir {
            Dir::Root => Ok(Vec::new()),
            Dir::Volumes => Ok(volumes(&context)
                .into_iter()
                .filter(|served| served.file.is_some())
                .map(|served| served.name)
                .collect()),
            Dir::Points => {
                let mut names: Vec<String> = Vec::new();
                for attached in context.vaults.all() {
                    for document in attached.snapshot().of(kind::GROUPS) {
                        if document.spec_as::<GroupSpec>().is_ok() && !names.contains(&document.name) {
                            names.push(document.name.clone());
                        }
                    }
                }
                Ok(names)
            }
            Dir::PointGroup { group } => {
                let (_, _, list) = points(&context, group).await?;
                let mut times: Vec<String> = list.iter().map(|point| point.time.to_string()).collect();
                times.dedup();
                Ok(times)
            }
            Dir::Point { group, time } => {
                let (vault, id, point) = point(&context, group, time).await?;
                let view = context.points.view(context.engine.as_ref(), &vault, id, &point).await?;
                Ok(view.volumes().into_iter().map(|(volume, _, _)| name_of(&context, volume)).collect())
            }
            Dir::Branches => Ok(branches(&context).into_iter().map(|(branch, _, _)| branch.to_string()).collect()),
            Dir::Branch { branch } => Ok(branch_volumes(&context, branch)?
                .into_iter()
                .filter(|(_, file)| file.is_some())
                .map(|(volume, _)| name_of(&context, volume.id))
                .collect()),
        }
    }

    async fn stat_dir(&self, dir: &Dir) -> Result<DirStat> {
        let context = self.context()?;
        match dir {
            Dir::PointGroup { group } => {
                let (_, id, list) = points(&context, group).await?;
                Ok(DirStat { identity: id.to_bytes(), modified: list.last().map(|point| point.time) })
            }
            Dir::Point { group, time } => {
                let (_, _, point) = point(&context, group, time).await?;
                Ok(DirStat { identity: point.id.to_bytes(), modified: Some(point.time) })
            }
            Dir::Branch { branch } => {
                let (id, _, _) = branches(&context)
                    .into_iter()
                    .find(|(id, _, _)| id.to_string() == *branch)
                    .ok_or_else(|| missing("branch", branch))?;
                Ok(DirStat { identity: id.to_bytes(), modified: None })
            }
            Dir::Root | Dir::Volumes | Dir::Points | Dir::Branches => Err(missing("directory", "")),
        }
    }

    async fn stat_file(&self, file: &File) -> Result<FileStat> {
        let context = self.context()?;
        match file {
            File::Volume { volume } => {
                let served = volumes(&context)
                    .into_iter()
                    .find(|served| served.name == *volume)
                    .ok_or_else(|| missing("volume", volume))?;
                let open = served.file.ok_or_else(|| missing("volume", volume))?;
                Ok(file_stat(served.id, open.as_ref()))
            }
            File::Point { group, time, volume } => {
                let (point, open) = point_file(&context, group, time, volume).await?;
                Ok(FileStat {
                    identity: point.id.to_bytes(),
                    size_bytes: open.size_bytes(),
                    read_only: true,
                    modified: Some(point.time),
                })
            }
            File::Branch { branch, volume } => {
                let (id, open) = branch_file(&context, branch, volume)?;
                Ok(file_stat(id, open.as_ref()))
            }
        }
    }

    async fn open(&self, file: &File) -> Result<Arc<dyn BlockVolume>> {
        let context = self.context()?;
        match file {
            File::Volume { volume } => volumes(&context)
                .into_iter()
                .find(|served| served.name == *volume)
                .and_then(|served| served.file)
                .ok_or_else(|| missing("volume", volume)),
            File::Point { group, time, volume } => {
                point_file(&context, group, time, volume).await.map(|(_, file)| file)
            }
            File::Branch { branch, volume } => branch_file(&context, branch, volume).map(|(_, file)| file),
        }
    }

    fn expects(&self, file: &File) -> bool {
        self.context().is_ok_and(|context| match file {
            File::Volume { volume } => is_declared_here(&context, volume),
            File::Branch { branch, .. } => is_recorded_here(&context, branch),
            File::Point { .. } => false,
        })
    }

    fn space(&self) -> Space {
        self.context().map_or_else(
            |_| Space::default(),
            |context| Space { total_bytes: context.state.total_bytes(), free_bytes: context.state.free_bytes() },
        )
    }
}

/// Whether what a catalog says is not known yet: what it doesn't have may be there.
fn is_catalog_unknown(context: &Context) -> bool {
    !context.is_ready() || context.vaults.all().iter().any(|attached| attached.trouble().is_some())
}

/// Whether this gateway is a volume's home or serves it, so that it is opened here sooner or later.
fn is_declared_here(context: &Context, volume: &str) -> bool {
    let in_vault = |attached: &AttachedVault| {
        let snapshot = attached.snapshot();
        let own = context.own_gateway(attached)?;
        let document = snapshot.of(kind::VOLUMES).iter().find(|document| document.name == volume)?;
        let spec: VolumeSpec = document.spec_as().ok()?;
        let group = group_of(document.id.parse().ok()?, &spec);
        let record: GroupRecord = snapshot.get(kind::GROUPS, &group.to_string()).map(|found| status(found))?;
        let serves = record.active.as_ref().is_some_and(|active| active.gateway == own)
            || record.left.iter().any(|left| left.shown && left.gateway == own);
        Some(serves || record.home.unwrap_or(spec.gateway_id) == own)
    };
    is_catalog_unknown(context) || context.vaults.all().iter().any(|attached| in_vault(attached) == Some(true))
}

/// Whether a test or a failover on this branch is to run here.
fn is_recorded_here(context: &Context, branch: &str) -> bool {
    let in_vault = |attached: &AttachedVault| {
        let own = context.own_gateway(attached);
        attached.snapshot().of(kind::GROUPS).iter().any(|document| {
            let record: GroupRecord = status(document);
            let tests = record.tests.iter().map(|test| (test.gateway, test.branch));
            let active = record.active.iter().map(|active| (active.gateway, active.branch));
            tests.chain(active).any(|(gateway, id)| own == Some(gateway) && id.to_string() == branch)
        })
    };
    is_catalog_unknown(context) || context.vaults.all().iter().any(|attached| in_vault(attached))
}

fn branch_file(context: &Context, branch: &str, volume: &str) -> Result<(VolumeId, Arc<dyn BlockVolume>)> {
    branch_volumes(context, branch)?
        .into_iter()
        .find(|(held, _)| name_of(context, held.id) == volume)
        .and_then(|(held, file)| file.map(|file| (held.id, file)))
        .ok_or_else(|| missing("volume on this branch", volume))
}
