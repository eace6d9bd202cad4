//! Background hydration of a branch at a recovery site: every block that is not here yet is fetched from the vault, until
//! the images are whole and the vault is needed for reading no more.
//!
//! An adopted source may hold most of it already, as when a disk moved from a machine that was lost to the one that takes its place. It
//! is hashed first, leaf by leaf, against the point: what is equal is here, and only the rest is fetched. A crash in the middle has it
//! hashed again.
//!
//! A crash forgets nothing but the last few blocks; they are fetched again, and were not told as done: progress never goes back. While the vault is away it waits and tries
//! again; reads of absent blocks fail meanwhile, writes don't.

use std::sync::{Arc, Weak};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use lifeboat_model::{BLOCK_SIZE_U64, Extent, VolumeId};
use lifeboat_vault::{TRACE_TARGET, traced};
use tracing::field::Empty;

use super::running::Running;
use super::volume::{fetch, fill};
use super::{Group, Phase, Progress};
use crate::error::{EngineError, ErrorKind, Result};
use crate::image::Image;
use crate::rehydrate::{ImageReader, differing};
use crate::view::PointView;

/// Blocks fetched at a time: 4 MiB.
const STEP_BLOCKS: u64 = 1024;
/// Blocks between two syncs of an image.
const SYNC_BLOCKS: u64 = 16 * STEP_BLOCKS;
const PATIENCE: Duration = Duration::from_secs(5);

impl Group {
    /// Starts hydration in the background, when there is something to hydrate.
    pub(super) fn start_hydration(self: &Arc<Self>) {
        if !self.state.lock().state.volumes.iter().any(|volume| volume.lazy) {
            return;
        }
        let group = Arc::downgrade(self);
        tokio::spawn(async move {
            loop {
                match hydrate_once(&group).await {
                    Ok(()) => return,
                    Err(error) => {
                        let Some(group) = group.upgrade() else { return };
                        group.observed.lock().hydration_trouble = Some(format!("hydration waits: {error}"));
                        drop(group);
                    }
                }
                tokio::time::sleep(PATIENCE).await;
            }
        });
    }

    /// Fetches every absent block now.
    ///
    /// # Errors
    /// What vault or disk say; `Closed` when the group is closed meanwhile.
    pub(super) async fn hydrate_fully(self: &Arc<Self>) -> Result<()> {
        hydrate_once(&Arc::downgrade(self)).await
    }
}

async fn hydrate_once(group: &Weak<Group>) -> Result<()> {
    let id = group.upgrade().map(|group| group.config.group);
    let span = tracing::info_span!(
        target: TRACE_TARGET, "group.hydrate", lifeboat.group = id.map(tracing::field::display),
        otel.status_message = Empty,
    );
    traced(span, hydrate(group)).await
}

async fn hydrate(group: &Weak<Group>) -> Result<()> {
    let volumes: Vec<VolumeId> = {
        let Some(group) = group.upgrade() else { return Ok(()) };
        let saved = group.state.lock();
        saved.state.volumes.iter().filter(|volume| volume.lazy).map(|volume| volume.id).collect()
    };
    for id in volumes {
        recognise(group, id).await?;
        let mut at = 0;
        let mut unsynced = 0;
        loop {
            // The group is held for one step only, so that it can be closed in between.
            let Some(group) = group.upgrade() else { return Ok(()) };
            let Some(running) = group.running.lock().clone() else { return Ok(()) };
            let Some(image) = running.path.image(id) else { break };
            let next = {
                let image = Arc::clone(&image);
                blocking(move || Ok(image.next_absent(at, STEP_BLOCKS))).await?
            };
            let Some(part) = next else {
                finish(&group, &image, id).await?;
                break;
            };
            step(&group, &running, &image, id, part).await?;
            at = part.end();
            unsynced += part.blocks;
            if unsynced >= SYNC_BLOCKS {
                unsynced = 0;
                let image = Arc::clone(&image);
                blocking(move || image.sync()).await?;
            }
            report(&group, &running);
        }
    }
    if let Some(group) = group.upgrade() {
        let mut observed = group.observed.lock();
        observed.hydration_trouble = None;
        observed.progress = None;
    }
    Ok(())
}

/// Finds out what of a volume its adopted source holds already.
async fn recognise(weak: &Weak<Group>, id: VolumeId) -> Result<()> {
    let Some(group) = weak.upgrade() else { return Ok(()) };
    let Some(running) = group.running.lock().clone() else { return Ok(()) };
    let Some(image) = running.path.image(id).filter(|image| image.may_hold_more()) else { return Ok(()) };
    if image.next_absent(0, 1).is_none() {
        return Ok(());
    }
    let base: Arc<PointView> = Arc::clone(running.base(&group).await?);
    let config = group.config.group;
    // The group is held by nobody meanwhile, so that it can be closed.
    drop((group, running));
    let Some(volume) = base.volumes().into_iter().find(|one| one.id == id) else { return Ok(()) };
    let before = image.kept_blocks();
    let local: Arc<dyn ImageReader> = Arc::new(Unfilled { group: Weak::clone(weak), image: Arc::clone(&image) });
    let (mut at, mut differ) = (0, 0);
    // Ascending: everything before an extent is equal, or was given before it. A block that is written meanwhile is here anyway.
    differing(&base, &local, volume, &mut |extent| {
        image.recognise(Extent { lba: at, blocks: extent.lba.saturating_sub(at) });
        at = extent.end();
        differ += extent.blocks;
    })
    .await?;
    image.recognise(Extent { lba: at, blocks: volume.size_blocks.saturating_sub(at) });
    {
        let image = Arc::clone(&image);
        blocking(move || image.sync()).await?;
    }
    tracing::info!(
        group = %config, volume = %id, equal = image.kept_blocks().saturating_sub(before), differ,
        "a disk was compared with the vault: only the blocks that differ are fetched"
    );
    Ok(())
}

/// What a source holds, whether it counts yet or not.
struct Unfilled {
    group: Weak<Group>,
    image: Arc<Image>,
}

#[async_trait]
impl ImageReader for Unfilled {
    async fn blocks(&self, _: VolumeId) -> Result<u64> {
        Ok(self.image.blocks())
    }

    async fn read(&self, volume: VolumeId, extent: Extent) -> Result<Bytes> {
        if self.group.upgrade().is_none_or(|group| group.running.lock().is_none()) {
            let why = format!("{volume} is being closed: its disk is compared when it is open again");
            return Err(EngineError::new(ErrorKind::Closed, why));
        }
        let image = Arc::clone(&self.image);
        blocking(move || {
            let mut content = vec![0; usize::try_from(extent.blocks * BLOCK_SIZE_U64).unwrap_or(usize::MAX)];
            image.read(extent.lba, &mut content)?;
            Ok(Bytes::from(content))
        })
        .await
    }
}

async fn step(group: &Group, running: &Running, image: &Arc<Image>, id: VolumeId, part: Extent) -> Result<()> {
    let runs = fetch(running, group, id, part).await?;
    let image = Arc::clone(image);
    blocking(move || runs.iter().try_for_each(|run| fill(&image, run))).await
}

/// The image is whole: it is synced, then the state says so, then the bitmap goes.
async fn finish(group: &Arc<Group>, image: &Arc<Image>, id: VolumeId) -> Result<()> {
    let image = Arc::clone(image);
    blocking(move || image.sync()).await?;
    group.change_state(|state| {
        state.volumes.iter_mut().filter(|volume| volume.id == id).for_each(|volume| volume.lazy = false)
    })?;
    Image::drop_presence(&group.disk, id)
}

fn report(group: &Group, running: &Running) {
    let (mut done, mut total) = (0, 0);
    for volume in &group.state.lock().state.volumes {
        if let Some(image) = running.path.image(volume.id) {
            done += image.kept_blocks() * lifeboat_model::BLOCK_SIZE_U64;
            total += image.blocks() * lifeboat_model::BLOCK_SIZE_U64;
        }
    }
    let active = group.state.lock().state.phase == Phase::Active;
    let mut observed = group.observed.lock();
    observed.hydration_trouble = None;
    observed.progress = active.then_some(Progress { done_bytes: done, total_bytes: total });
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    crate::blocking::run(work)
        .await
        .map_err(|error| EngineError::new(ErrorKind::Closed, "the gateway is stopping").with_source(error))?
}
