//! Application-consistent points of a group: on request, and by a task at the policy's interval.
//!
//! A failed round takes no point and says so in the group's health until one succeeds; crash-consistent points go on
//! meanwhile. An idle group is left alone: its last application-consistent point still stands for what it holds.

use std::sync::Arc;
use std::time::Duration;

use lifeboat_model::{Lsn, PointKind};
use tokio::sync::oneshot;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::shipping::Command;
use super::{Group, closed};
use crate::error::{EngineError, ErrorKind, Result};
use crate::points::PointInfo;
use crate::quiesce::AppPoints;

/// How soon changed settings are noticed while no point is due.
const LOOK: Duration = Duration::from_secs(5);

impl Group {
    /// A point between the applications' hooks; returns once it is in the vault.
    pub(super) async fn take_app_point(self: &Arc<Self>, label: &str) -> Result<PointInfo> {
        let app = self.settings.lock().app_points.clone().ok_or_else(|| {
            EngineError::new(
                ErrorKind::Invalid,
                format!(
                    "{} has no hooks that could quiet its applications: declare app_consistency for the group",
                    self.config.group
                ),
            )
        })?;
        let (_, landed) = self.place_app_point(&app, label).await?;
        landed.await.map_err(|_| closed(self.config.group))?
    }

    /// Gives the point its place, and says which; what comes back with it tells when the point has landed.
    async fn place_app_point(
        self: &Arc<Self>,
        app: &AppPoints,
        label: &str,
    ) -> Result<(Lsn, oneshot::Receiver<Result<PointInfo>>)> {
        // Hooks are not made to be nested.
        let _one_at_a_time = self.quiescing.lock().await;
        let (group, label) = (Arc::clone(self), label.to_owned());
        let place = async move {
            let (placed, at_its_place) = oneshot::channel();
            let landed = group.command(|reply| Command::Point {
                kind: PointKind::AppConsistent,
                label,
                placed: Some(placed),
                reply,
            })?;
            let lsn = at_its_place.await.map_err(|_| {
                EngineError::new(ErrorKind::Retry, format!("{} could place no point just now", group.config.group))
            })?;
            Ok((lsn, landed))
        };
        app.hold(&self.disk, &self.config.group.to_string(), place).await
    }

    /// Takes points at their interval until `stop`; first lets applications go that an earlier process held.
    pub(super) fn start_app_points(self: &Arc<Self>, stop: CancellationToken) {
        let group = Arc::downgrade(self);
        tokio::spawn(async move {
            let mut last: Option<(Instant, Lsn)> = None;
            let mut settled = false;
            loop {
                let Some(group) = group.upgrade() else { return };
                let app = group.settings.lock().app_points.clone();
                if let Some(app) = app {
                    if !settled {
                        settled = group.settle_applications(&app).await;
                    }
                    let newest = group.last_lsn();
                    let due = app.every.is_some_and(|every| match last {
                        None => true,
                        Some((at, lsn)) => at.elapsed() >= every && newest > lsn,
                    });
                    if due {
                        let round = group.place_app_point(&app, "").await.map(|(lsn, _)| lsn);
                        // One that failed is tried again at the next interval, whatever was written.
                        last = Some((Instant::now(), round.as_ref().map_or(Lsn::ZERO, |lsn| *lsn)));
                        group.note_app_points(round.map(drop));
                    }
                }
                let pause = {
                    let settings = group.settings.lock();
                    settings.app_points.as_ref().and_then(|app| app.every).map_or(LOOK, |every| every.min(LOOK))
                };
                drop(group);
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = tokio::time::sleep(pause) => {}
                }
            }
        });
    }

    /// Lets applications go that an earlier process held, in a group that takes no points: it was taken over, or released, since.
    pub(super) fn let_applications_go(self: &Arc<Self>) {
        if self.settings.lock().app_points.is_none() {
            return;
        }
        let group = Arc::downgrade(self);
        tokio::spawn(async move {
            loop {
                let Some(group) = group.upgrade() else { return };
                let app = group.settings.lock().app_points.clone();
                let Some(app) = app else { return };
                if group.settle_applications(&app).await {
                    return;
                }
                drop(group);
                tokio::time::sleep(LOOK).await;
            }
        });
    }

    /// Whether nobody is held any more by an earlier process.
    async fn settle_applications(&self, app: &AppPoints) -> bool {
        // Not beside a round that is on its way: its mark is there too, and its hold must last.
        let _no_round = self.quiescing.lock().await;
        self.note_app_points(app.let_go(&self.disk, &self.config.group.to_string()).await)
    }

    fn last_lsn(&self) -> Lsn {
        self.running_path().map_or(Lsn::ZERO, |path| path.figures().last)
    }

    /// Shows what became of a round; whether it went well.
    fn note_app_points(&self, round: Result<()>) -> bool {
        let trouble = round.err().filter(|error| error.kind() != ErrorKind::Closed);
        if let Some(error) = &trouble {
            tracing::warn!(group = %self.config.group, %error, "application-consistent point");
        }
        let well = trouble.is_none();
        self.observed.lock().app_trouble = trouble.map(|error| error.to_string());
        well
    }
}
