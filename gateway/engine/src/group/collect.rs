//! Collecting a group's garbage, and marks on its points, by the gateway that holds its active tenure.
//!
//! One collection at a time; what it remembers for the next one is bounded and lost with the process.

use std::sync::Arc;
use std::time::Duration;

use lifeboat_model::{BranchId, PointId};

use super::{Group, Phase};
use crate::branch;
use crate::error::{EngineError, ErrorKind, Result};
use crate::gc::{self, GcReport, GcSettings, Runner};
use crate::marks::{self, Pin};
use crate::points::PointInfo;

impl Group {
    /// Deletes what no kept point and no branch of the group needs, `grace` after it was found to be so or up to a quarter of it
    /// later, and rebuilds sparse segments, within the pace at which the group may send. What is kept is decided by the group's retention schedule. `dry_run` changes nothing and says what would be done.
    ///
    /// # Errors
    /// `Fenced` unless the group is active here, `Retry` when the vault can't be reached or a collection is under way,
    /// `Tampered` when something that is needed is missing or damaged: nothing is deleted then.
    pub async fn collect_garbage(&self, grace: Duration, dry_run: bool) -> Result<GcReport> {
        let Ok(mut memory) = self.collecting.try_lock() else {
            return Err(EngineError::new(
                ErrorKind::Retry,
                format!("the garbage of {} is being collected already: wait until that is done", self.config.group),
            ));
        };
        let (branch, epoch) = {
            let saved = self.state.lock();
            if saved.state.phase != Phase::Active {
                return Err(EngineError::new(
                    ErrorKind::Fenced,
                    format!("{} is not active at this gateway: ask the one where it is", self.config.group),
                ));
            }
            (saved.state.branch, saved.state.epoch)
        };
        let runner = Runner { gateway: self.config.gateway, branch, epoch };
        let settings = {
            let of = self.settings.lock();
            GcSettings {
                retention: of.retention.clone(),
                grace,
                gather: grace / 4,
                dry_run,
                pace: Arc::clone(&of.pace),
                ..GcSettings::default()
            }
        };
        let mut report = gc::run(self.config.reach.vault()?, self.config.group, runner, &settings, &mut memory).await?;
        if !dry_run {
            *self.to_carry.lock() = Some(std::mem::take(&mut report.carry));
        }
        Ok(report)
    }

    /// Pins one of the group's points.
    ///
    /// # Errors
    /// As [`marks::pin`].
    pub async fn pin_point(&self, point: PointId, pin: &Pin) -> Result<PointInfo> {
        marks::pin(self.config.reach.vault()?, self.config.group, point, self.config.gateway, pin).await
    }

    /// Takes a pin back.
    ///
    /// # Errors
    /// As [`marks::unpin`].
    pub async fn unpin_point(&self, point: PointId) -> Result<PointInfo> {
        marks::unpin(self.config.reach.vault()?, self.config.group, point, self.config.gateway).await
    }

    /// Calls a point by another name.
    ///
    /// # Errors
    /// As [`marks::relabel`].
    pub async fn label_point(&self, point: PointId, label: &str) -> Result<PointInfo> {
        marks::relabel(self.config.reach.vault()?, self.config.group, point, self.config.gateway, label).await
    }

    /// Gives up a branch of the group, such as that of a test failover that is over.
    ///
    /// # Errors
    /// As [`branch::drop_branch`].
    pub async fn drop_branch(&self, branch: BranchId) -> Result<()> {
        branch::drop_branch(self.config.reach.vault()?, self.config.group, branch, self.config.gateway).await
    }
}
