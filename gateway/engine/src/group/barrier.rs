//! A group's part in a barrier: a point that several groups take at one moment, asked for part by part by whoever coordinates them.
//!
//! ```text
//!           ┌─ Quiet ─> hooks hold applications ─┐
//! nothing ──┤                                    ├─ Hold ─> writes wait ─ Mark ─> the point has its place, all goes on
//!           └────────────────────────────────────┘             └─ LetGo, or the time is up ─> no point, all goes on
//! ```
//! One barrier at a time. Every wait ends by this group's own clock, whatever becomes of whoever asked: writes wait for no longer than
//! the limit that came with [`Part::Hold`], applications for no longer than their hooks may take. A part that comes too late is
//! refused, and changes nothing. A process that dies amid it leaves no point or one: writes that waited were never acknowledged, and
//! applications that were held are let go at the next start (see `quiesce.rs`).
//!
//! The point's id is the barrier's; its time is by this group's own clock, so that its points stay in the order of their times.

use std::sync::Arc;
use std::time::Duration;

use lifeboat_format::stream::Part;
use lifeboat_model::{PointId, PointKind};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout_at};

use super::{Group, Phase, running};
use crate::error::{EngineError, ErrorKind, Result};
use crate::points::PointInfo;
use crate::record::PointMark;
use crate::sync::Lock;
use crate::write_path::WritePath;

/// The longest that writes may be held, whatever is asked for.
const HOLD_MAX: Duration = Duration::from_secs(10);

type Reply = oneshot::Sender<Result<Option<PointInfo>>>;

/// A barrier that the group takes part in, as those see it who bring its next part.
#[derive(Debug)]
pub(super) struct Round {
    point: PointId,
    parts: mpsc::Sender<(Part, Reply)>,
}

impl Group {
    /// Does this group's part in the barrier for a point with this id; the point, once it has its place. It need not be in the vault
    /// then: that it is shows in the list of points.
    ///
    /// # Errors
    /// `Fenced` unless active; `Invalid` when a hook fails; `Retry` when the part comes too late or out of turn, when another barrier is
    /// under way, and when the group can have no consistent point just now.
    pub async fn barrier(self: &Arc<Self>, point: PointId, part: Part) -> Result<Option<PointInfo>> {
        if part == Part::LetGo {
            self.end_barrier(point);
            return Ok(None);
        }
        let (reply, answer) = oneshot::channel();
        let parts = {
            let mut barrier = self.barrier.lock();
            match barrier.as_ref() {
                Some(round) if round.point == point => round.parts.clone(),
                Some(_) => return Err(self.no_part("another barrier is under way")),
                None if part == Part::Mark => return Err(self.no_part("its time was up, and its writes went on")),
                None => {
                    self.expect_phase(Phase::Active, "given a point")?;
                    let (parts, asked) = mpsc::channel(1);
                    *barrier = Some(Round { point, parts: parts.clone() });
                    // A task of its own: nobody who goes away leaves writes or applications held.
                    tokio::spawn(round(Arc::clone(self), point, asked));
                    parts
                }
            }
        };
        let late = || self.no_part("its time was up, and its writes went on");
        parts.send((part, reply)).await.map_err(|_| late())?;
        answer.await.map_err(|_| late())?
    }

    /// Lets everything go on that a barrier holds.
    pub(crate) fn leave_barriers(&self) {
        let point = self.barrier.lock().as_ref().map(|round| round.point);
        point.into_iter().for_each(|point| self.end_barrier(point));
    }

    fn end_barrier(&self, point: PointId) {
        self.barrier.lock().take_if(|round| round.point == point);
        if let Ok(path) = self.running_path() {
            path.let_go(point);
        }
    }

    fn no_part(&self, why: &str) -> EngineError {
        EngineError::new(ErrorKind::Retry, format!("{} takes no part in the barrier: {why}", self.config.group))
    }

    /// From a hold to the point's place.
    async fn hold_and_mark(
        &self,
        point: PointId,
        kind: PointKind,
        limit: Duration,
        held: Reply,
        parts: &mut mpsc::Receiver<(Part, Reply)>,
    ) -> Result<()> {
        let until = Instant::now() + limit.min(HOLD_MAX);
        let hold = match Hold::of(self, point) {
            Ok(hold) => hold,
            Err(error) => return refuse(held, error),
        };
        let _ = held.send(Ok(None));
        match timeout_at(until, parts.recv()).await {
            Ok(Some((Part::Mark, reply))) => {
                let marked = self.mark(&hold, kind).await;
                // Before anybody hears of it: the next barrier may begin then.
                self.end_barrier(point);
                let _ = reply.send(marked.map(Some));
                Ok(())
            }
            Ok(Some((_, reply))) => refuse(reply, self.no_part("that part has no place now")),
            Ok(None) | Err(_) => Err(self.no_part("nobody had it take its point in time")),
        }
    }

    async fn mark(&self, hold: &Hold, kind: PointKind) -> Result<PointInfo> {
        let (time, label) = (self.config.reach.now(), String::new());
        let placed = self.steady.now();
        let (lsn, ack) =
            hold.path.mark(PointMark { id: hold.point, time, kind, label: label.clone(), consistent: true })?;
        ack.await.map_err(|_| running::gone())??;
        let accepted = hold.path.figures().bytes_accepted;
        self.observed.lock().note_placed(lsn, placed, accepted);
        if let Some(shipping) = self.shipping.lock().as_ref() {
            shipping.wake();
        }
        let (branch, epoch) = {
            let saved = self.state.lock();
            (saved.state.branch, saved.state.epoch)
        };
        Ok(PointInfo {
            id: hold.point,
            group: self.config.group,
            branch,
            epoch,
            // Which segment brings it shows when that has landed.
            seq: Default::default(),
            lsn,
            time,
            kind,
            label,
            pinned: false,
            consistent: true,
        })
    }
}

/// Writes wait, until this is dropped or marked.
struct Hold {
    path: Arc<WritePath>,
    point: PointId,
}

impl Hold {
    fn of(group: &Group, point: PointId) -> Result<Self> {
        let path = group.active_path()?;
        path.hold(point)?;
        Ok(Self { path, point })
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.path.let_go(self.point);
    }
}

fn refuse(reply: Reply, error: EngineError) -> Result<()> {
    let told = EngineError::new(error.kind(), error.to_string());
    let _ = reply.send(Err(error));
    Err(told)
}

async fn round(group: Arc<Group>, point: PointId, mut parts: mpsc::Receiver<(Part, Reply)>) {
    let done = match parts.recv().await {
        Some((Part::Hold { limit_ms }, held)) => {
            let limit = Duration::from_millis(limit_ms);
            group.hold_and_mark(point, PointKind::CrashConsistent, limit, held, &mut parts).await
        }
        Some((Part::Quiet { limit_ms }, quiet)) => {
            quiet_and_hold(&group, point, Duration::from_millis(limit_ms), quiet, parts).await
        }
        Some((Part::Mark | Part::LetGo, _)) | None => Ok(()),
    };
    group.end_barrier(point);
    if let Err(error) = done {
        tracing::info!(group = %group.config.group, %point, %error, "no part in a barrier");
    }
}

/// Holds applications first, if there are hooks that can.
async fn quiet_and_hold(
    group: &Arc<Group>,
    point: PointId,
    limit: Duration,
    quiet: Reply,
    mut parts: mpsc::Receiver<(Part, Reply)>,
) -> Result<()> {
    let app = group.settings.lock().app_points.clone();
    let quiet = Arc::new(Lock::new(Some(quiet)));
    let is_quiet = Arc::clone(&quiet);
    let until = Instant::now() + limit;
    let this = Arc::clone(group);
    let place = async move {
        if let Some(quiet) = is_quiet.lock().take() {
            let _ = quiet.send(Ok(None));
        }
        match timeout_at(until, parts.recv()).await {
            Ok(Some((Part::Hold { limit_ms }, held))) => {
                let limit = Duration::from_millis(limit_ms);
                this.hold_and_mark(point, PointKind::AppConsistent, limit, held, &mut parts).await
            }
            Ok(Some((_, reply))) => refuse(reply, this.no_part("that part has no place now")),
            Ok(None) | Err(_) => Err(this.no_part("nobody had it hold its writes in time")),
        }
    };
    let done = match app {
        // Nobody to ask: nothing of it disagrees.
        None => place.await,
        Some(app) => {
            let Ok(_one_at_a_time) = group.quiescing.try_lock() else {
                return match quiet.lock().take() {
                    Some(quiet) => refuse(quiet, group.no_part("its applications are being held for another point")),
                    None => Ok(()),
                };
            };
            app.hold(&group.disk, &group.config.group.to_string(), place).await
        }
    };
    match (done, quiet.lock().take()) {
        (Err(error), Some(quiet)) => refuse(quiet, error),
        (done, _) => done,
    }
}
