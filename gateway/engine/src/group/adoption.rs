//! Taking volumes into a group: empty ones, and adopted ones with the content that they have.
//!
//! ```text
//! hold the source ─> image is a link to it ─> its data is dirty, durably ─> state has the volume ─> RESIZE record ─> copied
//! ```
//! An adopted volume can be used at once. The vault has its content once the resync has copied it inside the write order; until
//! then no point of the group is consistent, and none is offered. The order above makes a crash harmless anywhere: before the
//! state has the volume, what is dirty of it is forgotten with it, and the call is repeated; after it, the resync goes on where
//! the map on disk is.

use std::path::Path;
use std::sync::Arc;

use lifeboat_model::BLOCK_SIZE_U64;

use super::{Group, ResyncCause, StateVolume, VolumeSpec, blocks_of, closed, running};
use crate::dirty::DirtyMap;
use crate::disk::{Disk, DiskFile};
use crate::error::{EngineError, ErrorKind, Result};
use crate::image::{Image, image_name};
use crate::record::Op;
use crate::write_path::WritePath;

/// A volume that is to be taken in, and the hold on its source.
pub(super) struct Wanted {
    pub(super) spec: VolumeSpec,
    source: Option<Arc<dyn DiskFile>>,
}

impl Wanted {
    /// Its source, and the hold on it.
    pub(super) fn held(&self) -> Option<(&Path, Arc<dyn DiskFile>)> {
        Some((self.spec.source.as_deref()?, Arc::clone(self.source.as_ref()?)))
    }
}

/// Takes hold of the sources of volumes: one that can't be had is found out before anything is made.
pub(super) async fn hold_all(disk: &Arc<dyn Disk>, volumes: Vec<VolumeSpec>) -> Result<Vec<Wanted>> {
    if volumes.iter().all(|spec| spec.source.is_none()) {
        return Ok(volumes.into_iter().map(|spec| Wanted { spec, source: None }).collect());
    }
    let disk = Arc::clone(disk);
    crate::blocking::run(move || volumes.into_iter().map(|spec| hold(&disk, spec)).collect()).await.map_err(|_| {
        EngineError::new(ErrorKind::Closed, "the gateway is being stopped: the volumes are taken in at its next start")
    })?
}

fn hold(disk: &Arc<dyn Disk>, mut spec: VolumeSpec) -> Result<Wanted> {
    let Some(path) = &spec.source else { return Ok(Wanted { spec, source: None }) };
    if !path.is_absolute() {
        return Err(EngineError::new(
            ErrorKind::Invalid,
            format!("{} can't be adopted: name it by its absolute path", path.display()),
        ));
    }
    let file = disk.hold(&image_name(spec.id), path)?;
    if spec.size_bytes == 0 {
        spec.size_bytes =
            file.len().map_err(|error| EngineError::io(format!("ask for the size of {}", path.display()), error))?;
    }
    Ok(Wanted { spec, source: Some(file) })
}

impl Group {
    /// Adds a volume. One that is there already is left alone.
    ///
    /// # Errors
    /// `Fenced` unless active; `Invalid` for a size that is no multiple of the block size, and for a source that can't be
    /// adopted; `NotFound` without the source, `Retry` while it is in use; what disk and vault say.
    pub async fn add_volume(self: &Arc<Self>, volume: VolumeSpec) -> Result<()> {
        let _change = self.change.lock().await;
        let path = self.active_path()?;
        if path.image(volume.id).is_some() {
            return Ok(());
        }
        for volume in hold_all(&self.disk, vec![volume]).await? {
            self.take_in(&path, volume).await?;
        }
        Ok(())
    }

    /// The same with its source in hand.
    pub(super) async fn take_in(self: &Arc<Self>, path: &Arc<WritePath>, volume: Wanted) -> Result<()> {
        let blocks = blocks_of(&volume.spec)?;
        let id = volume.spec.id;
        self.config.reach.make_keys(self.config.group, Some(id)).await?;
        let adopted = volume.source.is_some();
        let taken = if adopted {
            let (this, on) = (Arc::clone(self), Arc::clone(path));
            // A large source is looked through for its data.
            crate::blocking::run(move || this.take_in_image(&on, volume, blocks))
                .await
                .map_err(|_| closed(self.config.group))?
        } else {
            self.take_in_image(path, volume, blocks)
        };
        if let Err(error) = taken {
            path.remove_volume(id);
            return Err(error);
        }
        running::submit(path, &Op::Resize { volume: id, blocks }).await?;
        running::flush(path).await?;
        if adopted {
            self.resync_wanted();
        }
        Ok(())
    }

    fn take_in_image(&self, path: &WritePath, Wanted { spec, source }: Wanted, blocks: u64) -> Result<()> {
        let id = spec.id;
        let image = match (&spec.source, source) {
            (Some(at), Some(file)) => {
                let image = Image::adopt(&self.disk, id, at, file, blocks)?;
                self.mark_content(path, &spec, &image)?;
                image
            }
            _ => Image::create(&self.disk, id, blocks, false)?,
        };
        path.add_volume(id, Arc::new(image));
        self.change_state(|state| {
            state.volumes.retain(|one| one.id != id);
            state.volumes.push(StateVolume { id, name: spec.name.clone(), blocks, lazy: false });
        })
    }

    /// The vault lacks everything that the source holds.
    fn mark_content(&self, path: &WritePath, spec: &VolumeSpec, image: &Image) -> Result<()> {
        let mut dirty = DirtyMap::default();
        image.each_data(&mut |extent| dirty.insert(spec.id, extent))?;
        if dirty.is_empty() {
            return Ok(());
        }
        let before = path.saved_dirty_blocks();
        path.mark_dirty(&dirty, &mut |total| self.begin_resync(ResyncCause::Initial, None, before, total))?;
        tracing::info!(
            group = %self.config.group, volume = %spec.id, bytes = dirty.blocks() * BLOCK_SIZE_U64,
            "a volume was taken in with its content: no recovery points until the vault has all of it"
        );
        Ok(())
    }
}
