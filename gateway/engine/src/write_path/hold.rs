//! Holding writes back, so that a point stands at one moment in the write orders of several groups.
//!
//! From [`WritePath::hold`] on no write gets a place in the write order, and none is refused: writers wait. What has a place is
//! acknowledged as ever. [`WritePath::mark`] gives the point its place and ends the hold in one step; it refuses when the hold has
//! ended in the meantime. So a point that was marked has before it every write that had a place at *any* moment of the hold, and
//! none that came later. Holds of several groups that have a moment in common make one cut through all of them.

use lifeboat_model::{Lsn, PointId};

use super::{Ack, Bug, EngineError, ErrorKind, Mode, Op, PointMark, Result, Submitted, WritePath, planted, poisoned};

impl WritePath {
    /// Holds writes back, for the point with this id, until [`Self::mark`] or [`Self::let_go`]: whoever holds bounds the time.
    ///
    /// # Errors
    /// `Fenced` unless writes are accepted; `Damaged` when poisoned; `Retry` while another point holds them, and while the vault lacks
    /// blocks that the log doesn't bring: no point is consistent then.
    pub fn hold(&self, point: PointId) -> Result<()> {
        let mut core = self.core.lock();
        core.accepts_writes(self.group)?;
        if !core.missing.is_empty() {
            return Err(self.no_barrier("it is being resynchronised, and has no consistent point until that is done"));
        }
        if core.held.is_some_and(|held| held != point) {
            return Err(self.no_barrier("another one holds its writes"));
        }
        if !planted::is(Bug::MarksWithoutHold) {
            core.held = Some(point);
        }
        Ok(())
    }

    /// Gives the point that writes are held for its place, and lets them go on. They go on too when it gets none.
    ///
    /// # Errors
    /// `Retry` when they aren't held for it any more, or there is no room; `Fenced`, `Damaged`.
    pub fn mark(&self, mark: PointMark) -> Result<(Lsn, Ack)> {
        let placed = {
            let mut core = self.core.lock();
            if core.held != Some(mark.id) && !planted::is(Bug::MarksWithoutHold) {
                return Err(self.no_barrier("its writes had waited for too long and went on"));
            }
            core.held = None;
            match core.mode.clone() {
                Mode::Poisoned(why) => Err(poisoned(self.group, &why)),
                Mode::ReadOnly(why) => Err(EngineError::new(ErrorKind::Fenced, why)),
                Mode::Writable if !core.missing.is_empty() => Err(self.no_barrier("it has to be resynchronised")),
                Mode::Writable => self.place(core, &Op::Point(mark)),
            }
        };
        self.room.notify_waiters();
        match placed? {
            Submitted::Accepted(lsn, ack) => Ok((lsn, ack)),
            Submitted::Wait => Err(self.no_barrier("its journal has no room just now")),
        }
    }

    /// Lets writes go on that are held for a point. Whether they were.
    pub fn let_go(&self, point: PointId) -> bool {
        let was = self.core.lock().held.take_if(|held| *held == point).is_some();
        if was {
            self.room.notify_waiters();
        }
        was
    }

    fn no_barrier(&self, why: &str) -> EngineError {
        EngineError::new(ErrorKind::Retry, format!("{} takes no part in the barrier: {why}", self.group))
    }
}
