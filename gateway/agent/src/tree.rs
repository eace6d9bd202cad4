//! The disks of an agent as files of its mount: `volumes/NAME.img`, and nothing else.

use std::sync::{Arc, Weak};

use async_trait::async_trait;
use lifeboat_engine::{BlockVolume, EngineError, ErrorKind, Group, VolumeSpec};
use lifeboat_export::{Dir, DirStat, ExportTree, File, FileStat};

/// The tree behind the mount. Holds the group weakly: a mount that outlives its agent serves nothing.
#[derive(Debug)]
pub(crate) struct Disks(Weak<Group>);

impl Disks {
    pub(crate) fn new(group: &Arc<Group>) -> Self {
        Self(Arc::downgrade(group))
    }

    fn find(&self, file: &File) -> Result<(Arc<Group>, VolumeSpec), EngineError> {
        let group = self.0.upgrade().ok_or_else(|| EngineError::new(ErrorKind::Closed, "the agent is stopping"))?;
        let found = match file {
            File::Volume { volume } => group.volumes().into_iter().find(|spec| spec.name == *volume),
            File::Point { .. } | File::Branch { .. } => None,
        };
        let missing = || EngineError::new(ErrorKind::NotFound, format!("{file} is not among this agent's disks"));
        found.map(|spec| (group, spec)).ok_or_else(missing)
    }
}

#[async_trait]
impl ExportTree for Disks {
    async fn list(&self, dir: &Dir) -> Result<Vec<String>, EngineError> {
        match dir {
            Dir::Volumes => {
                Ok(self.0.upgrade().iter().flat_map(|group| group.volumes()).map(|spec| spec.name).collect())
            }
            _ => Ok(Vec::new()),
        }
    }

    async fn stat_dir(&self, dir: &Dir) -> Result<DirStat, EngineError> {
        Err(EngineError::new(ErrorKind::NotFound, format!("an agent has no {dir}: ask a gateway that has the vault")))
    }

    async fn stat_file(&self, file: &File) -> Result<FileStat, EngineError> {
        let (group, spec) = self.find(file)?;
        let read_only = group.volume(spec.id).is_none_or(|volume| volume.read_only());
        Ok(FileStat { identity: spec.id.to_bytes(), size_bytes: spec.size_bytes, read_only, modified: None })
    }

    async fn open(&self, file: &File) -> Result<Arc<dyn BlockVolume>, EngineError> {
        let (group, spec) = self.find(file)?;
        let closed = || EngineError::new(ErrorKind::Closed, format!("{file} is not open at this agent"));
        group.volume(spec.id).ok_or_else(closed)
    }
}
