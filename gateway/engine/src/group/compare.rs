//! Resync by hashes: the local volumes against what the vault shows of them, for whoever doubts that they are equal.
//!
//! Everything written so far ships first, so that what is merely late does not count. Then each volume is read and hashed leaf
//! by leaf against the tree of that point; leaves that are equal cost nothing but the reading. What differs is dirty
//! from there on and is copied like after a collapse: the local side counts. A crash before the dirty map is saved leaves nothing
//! behind; blocks that are written while they are compared may be copied once more, with what they hold then.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use lifeboat_model::{BLOCK_SIZE_U64, Extent, PointKind, VolumeId};

use super::running::view_at;
use super::{Group, Observed, Progress, ResyncCause, closed};
use crate::dirty::DirtyMap;
use crate::error::{EngineError, ErrorKind, Result};
use crate::reach::Reach;
use crate::rehydrate::{ImageReader, differing};
use crate::relay::Comparing;
use crate::sync::Lock;
use crate::write_path::WritePath;

impl Group {
    /// Compares every volume with the vault and has copied what differs; gives the number of blocks that do.
    ///
    /// # Errors
    /// `Fenced` unless active; `Retry` while a resync is under way already, while a volume is still being filled from the
    /// vault, and when the vault can't be reached.
    pub async fn compare(self: &Arc<Self>) -> Result<u64> {
        let path = self.active_path()?;
        let Ok(_one_at_a_time) = self.comparing.try_lock() else {
            let why = format!("{} is being compared with the vault already", self.config.group);
            return Err(EngineError::new(ErrorKind::Retry, why));
        };
        let dirty = tokio::select! {
            dirty = self.differences(&path) => dirty?,
            () = self.comparison_ended.notified() => {
                let why = format!("the comparison of {} with the vault was ended", self.config.group);
                return Err(EngineError::new(ErrorKind::Retry, why));
            }
        };
        let blocks = dirty.blocks();
        if blocks == 0 {
            return Ok(0);
        }
        let (group, before) = (Arc::clone(self), path.saved_dirty_blocks());
        crate::blocking::run(move || {
            path.mark_dirty(&dirty, &mut |total| group.begin_resync(ResyncCause::Compared, None, before, total))
        })
        .await
        .map_err(|_| closed(self.config.group))??;
        self.resync_wanted();
        Ok(blocks)
    }

    /// Ends the comparison that is under way, if any: nothing of it is left.
    pub(crate) fn end_comparison(&self) {
        self.comparison_ended.notify_waiters();
    }

    /// Where the volumes are others than the vault shows.
    async fn differences(self: &Arc<Self>, path: &Arc<WritePath>) -> Result<DirtyMap> {
        let point = self.take_point(PointKind::CrashConsistent, "").await?;
        let local = |blocks: u64| -> Arc<dyn ImageReader> {
            let progress = Lock::new(Progress { done_bytes: 0, total_bytes: blocks * BLOCK_SIZE_U64 });
            Arc::new(Local { path: Arc::clone(path), observed: Arc::clone(&self.observed), progress })
        };
        let mut dirty = DirtyMap::default();
        match &self.config.reach {
            Reach::Vault(_) => {
                let view = view_at(self, point.position()).await?;
                let local = local(view.volumes().iter().map(|volume| volume.size_blocks).sum());
                for volume in view.volumes() {
                    if path.image(volume.id).is_some() {
                        differing(&view, &local, volume, &mut |extent| dirty.insert(volume.id, extent)).await?;
                    }
                }
            }
            Reach::Relay(relay) => {
                let (group, agent) = (self.config.group, self.config.gateway);
                let (mut line, volumes) = Comparing::open(&**relay, group, agent, point.position()).await?;
                let local = local(volumes.iter().map(|volume| volume.blocks).sum());
                for volume in &volumes {
                    if path.image(volume.volume).is_some() {
                        line.differing(volume, &local, &mut |extent| dirty.insert(volume.volume, extent)).await?;
                    }
                }
            }
        }
        Ok(dirty)
    }
}

/// The volumes as they are here.
struct Local {
    path: Arc<WritePath>,
    observed: Arc<Lock<Observed>>,
    progress: Lock<Progress>,
}

impl Local {
    /// Tells that so many bytes more were read and compared.
    fn compared(&self, bytes: u64) {
        let mut progress = self.progress.lock();
        progress.done_bytes = (progress.done_bytes + bytes).min(progress.total_bytes);
        self.observed.lock().progress = Some(*progress);
    }
}

impl Drop for Local {
    fn drop(&mut self) {
        self.observed.lock().progress = None;
    }
}

#[async_trait]
impl ImageReader for Local {
    async fn blocks(&self, volume: VolumeId) -> Result<u64> {
        Ok(self.path.image(volume).map_or(0, |image| image.blocks()))
    }

    async fn read(&self, volume: VolumeId, extent: Extent) -> Result<Bytes> {
        let path = Arc::clone(&self.path);
        let (content, absent) = crate::blocking::run(move || {
            let mut content = vec![0; usize::try_from(extent.blocks * BLOCK_SIZE_U64).unwrap_or(usize::MAX)];
            let absent = path.read_here(volume, extent, &mut content)?;
            Ok::<_, EngineError>((Bytes::from(content), absent))
        })
        .await
        .map_err(|_| super::running::gone())??;
        if absent.is_empty() {
            self.compared(extent.blocks * BLOCK_SIZE_U64);
            return Ok(content);
        }
        Err(EngineError::new(
            ErrorKind::Retry,
            format!("{volume} is still being filled from the vault: compare it when all of it is here"),
        ))
    }
}
