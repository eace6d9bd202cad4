//! The steps of a resync on request: what the vault lacks is found by comparing, and copied at once, whatever the policy's window
//! says.
//!
//! Run again after a crash, a comparison begins anew and finds what is still to be copied; the copying goes on where the group's map
//! on disk is. A job that is cancelled leaves the rest to the window.

use std::sync::Arc;
use std::time::Duration;

use lifeboat_engine::ResyncStatus;
use lifeboat_model::BLOCK_SIZE_U64;
use lifeboat_model::state::GroupState;

use super::{Done, Failure, PROGRESS_INTERVAL, Work, report_progress};
use crate::port::Instance;
use crate::records::Step;

/// How soon the end of a resync is looked for: small ones are over in no time.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

impl Work<'_> {
    /// Compares the volumes with the vault; what differs is dirty from then on.
    pub(super) async fn compare(&self) -> Result<Done, Failure> {
        let (_, instance) = self.active().await?;
        // Whatever is known to be missing would only be found once more.
        self.copied(&instance).await?;
        let size: u64 = instance.volumes().iter().map(|volume| volume.size_bytes).sum();
        let blocks =
            self.watched(&instance, Step::Compare, "comparing the volumes with the vault", instance.compare()).await?;
        let differing = blocks.saturating_mul(BLOCK_SIZE_U64);
        Ok(Done::with(format!("{differing} bytes differ"), move |record| {
            record.result.bytes_volume = Some(size);
            record.result.bytes_compared = Some(size);
            record.result.bytes_changed = Some(differing);
        }))
    }

    /// Has everything copied that the vault lacks.
    pub(super) async fn resync(&self) -> Result<Done, Failure> {
        let (_, instance) = self.active().await?;
        let copied = self.copied(&instance).await?;
        Ok(Done::new(match copied {
            0 => "the vault lacks nothing".to_owned(),
            bytes => format!("{bytes} bytes were copied: recovery points are offered again"),
        }))
    }

    /// Waits until the vault has everything; gives the bytes that it lacked.
    async fn copied(&self, instance: &Arc<dyn Instance>) -> Result<u64, Failure> {
        let mut total = 0;
        let mut told = tokio::time::Instant::now().checked_sub(PROGRESS_INTERVAL);
        loop {
            if self.is_agents() && !self.context.tells(self.own) {
                let why =
                    format!("the agent of the group {} isn't connected to this process server", self.spec.group_name);
                return Err(Failure::Passing(why));
            }
            let found = instance.status();
            let Some(resync) = found.resync else { return Ok(total) };
            if found.state != GroupState::Active {
                return Err(Failure::Final(format!(
                    "the group {} is {} here: what the vault lacks of it stays here until it is failed back",
                    self.spec.group_name, found.state
                )));
            }
            instance.resync_now();
            let ResyncStatus { progress, waits_for, .. } = resync;
            total = total.max(progress.total_bytes);
            if told.is_none_or(|told| told.elapsed() >= PROGRESS_INTERVAL) {
                told = Some(tokio::time::Instant::now());
                let what = waits_for
                    .map_or_else(|| "copying what the vault lacks".to_owned(), |why| format!("waiting: {why}"));
                if report_progress(self.attached, self.id, &what, Some((progress.done_bytes, progress.total_bytes)))
                    .await
                {
                    instance.resync_in_window();
                    return Err(Failure::Cancelled);
                }
                self.context.notify_watchers();
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }
}
