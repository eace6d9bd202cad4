//! What an agent protects: the ids that stand for its group and its disks, made once and kept in `protects.json`.
//!
//! Written under a temporary name, synced, renamed: a crash leaves the old file or the new one. Without it nobody would know
//! whose the journal is; with another one, a disk would be taken for another volume.

use std::fs::{self, File};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use lifeboat_engine::VolumeSpec;
use lifeboat_engine::relay::{Declare, DeclaredDisk};
use lifeboat_model::{GatewayId, GroupId, VolumeId};
use serde::{Deserialize, Serialize};

use crate::AgentConfig;

const FILE: &str = "protects.json";

/// A disk, and the volume that it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Protected {
    pub(crate) id: VolumeId,
    pub(crate) name: String,
    pub(crate) path: PathBuf,
    pub(crate) size_bytes: u64,
}

/// Everything that an agent protects.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Protects {
    pub(crate) group: GroupId,
    pub(crate) disks: Vec<Protected>,
}

impl Protects {
    /// What is kept, with the disks that were added since.
    ///
    /// # Errors
    /// The file can't be read or written; a disk can't be looked at; one that was protected is no longer named.
    pub(crate) fn load_or_make(config: &AgentConfig) -> anyhow::Result<Self> {
        let path = config.state.join(FILE);
        let before: Option<Self> = match fs::read(&path) {
            Ok(bytes) => {
                Some(serde_json::from_slice(&bytes).with_context(|| format!("{} is damaged", path.display()))?)
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(error) => return Err(error).with_context(|| format!("read {}", path.display())),
        };
        let mut protects = before.clone().unwrap_or_else(|| Self { group: GroupId::new(), disks: Vec::new() });
        if let Some(gone) =
            protects.disks.iter().find(|disk| config.disks.iter().all(|wanted| wanted.path != disk.path))
        {
            bail!(
                "{} is protected by this agent and not named any more: name it, or begin with another state directory",
                gone.path.display()
            );
        }
        for wanted in &config.disks {
            if protects.disks.iter().any(|disk| disk.path == wanted.path) {
                continue;
            }
            let name = match &wanted.name {
                Some(name) => name.clone(),
                None => format!("{}-{}", config.group_name(), stem(&wanted.path)),
            };
            let size_bytes = size(&wanted.path)?;
            protects.disks.push(Protected { id: VolumeId::new(), name, path: wanted.path.clone(), size_bytes });
        }
        if before.as_ref() != Some(&protects) {
            protects.save(&path)?;
        }
        Ok(protects)
    }

    fn save(&self, path: &Path) -> anyhow::Result<()> {
        let write = || -> std::io::Result<()> {
            let new = path.with_extension("new");
            let mut file = File::create(&new)?;
            file.write_all(&serde_json::to_vec_pretty(self)?)?;
            file.sync_all()?;
            fs::rename(&new, path)?;
            path.parent().map_or(Ok(()), |parent| File::open(parent)?.sync_all())
        };
        write().with_context(|| format!("write {}", path.display()))
    }

    pub(crate) fn size_bytes(&self) -> u64 {
        self.disks.iter().map(|disk| disk.size_bytes).sum()
    }

    /// The disks as the engine takes them: adopted, as long as they are.
    pub(crate) fn specs(&self) -> Vec<VolumeSpec> {
        let spec = |disk: &Protected| VolumeSpec {
            id: disk.id,
            name: disk.name.clone(),
            size_bytes: 0,
            source: Some(disk.path.clone()),
        };
        self.disks.iter().map(spec).collect()
    }

    /// The same for the process server.
    pub(crate) fn declare(&self, agent: GatewayId, config: &AgentConfig) -> Declare {
        let disk = |disk: &Protected| DeclaredDisk {
            id: disk.id,
            size_bytes: disk.size_bytes,
            name: disk.name.clone(),
            path: disk.path.display().to_string(),
        };
        Declare {
            group: self.group,
            agent,
            name: config.group_name(),
            policy: config.policy.clone(),
            disks: self.disks.iter().map(disk).collect(),
        }
    }
}

impl AgentConfig {
    /// The group's name.
    pub(crate) fn group_name(&self) -> String {
        let host = || fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned();
        self.group.clone().unwrap_or_else(host)
    }
}

fn stem(path: &Path) -> String {
    let stem = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
    stem.chars().map(|one| if one.is_ascii_alphanumeric() || "._-".contains(one) { one } else { '-' }).collect()
}

/// The length of a file or block device.
fn size(path: &Path) -> anyhow::Result<u64> {
    let measure = || File::open(path)?.seek(SeekFrom::End(0));
    measure().with_context(|| format!("the disk {} can't be looked at", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_made_once_disks_are_added_and_none_is_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["data 1.raw", "log.raw"] {
            File::create(dir.path().join(name)).unwrap().set_len(1 << 20).unwrap();
        }
        let first = Protects::load_or_make(&AgentConfig::of_tests(dir.path(), &["data 1.raw"])).unwrap();
        assert_eq!((first.disks[0].name.as_str(), first.size_bytes()), ("erp-data-1", 1 << 20));
        assert_eq!(Protects::load_or_make(&AgentConfig::of_tests(dir.path(), &["data 1.raw"])).unwrap(), first);
        let second = Protects::load_or_make(&AgentConfig::of_tests(dir.path(), &["log.raw", "data 1.raw"])).unwrap();
        assert_eq!((second.group, &second.disks[0], second.disks.len()), (first.group, &first.disks[0], 2));
        let error = Protects::load_or_make(&AgentConfig::of_tests(dir.path(), &["log.raw"])).unwrap_err();
        assert!(error.to_string().contains("data 1.raw"), "{error}");
        let error =
            Protects::load_or_make(&AgentConfig::of_tests(dir.path(), &["data 1.raw", "log.raw", "none"])).unwrap_err();
        assert!(error.to_string().contains("none"), "{error}");
        fs::write(dir.path().join(FILE), b"{").unwrap();
        assert!(
            Protects::load_or_make(&AgentConfig::of_tests(dir.path(), &["data 1.raw"])).is_err(),
            "a damaged file is named"
        );
    }
}
