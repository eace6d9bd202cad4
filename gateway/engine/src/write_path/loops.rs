//! The threads of a write path: what each waits for, and what it does when it has its turn.

use super::*;

/// Between two tries on a full disk.
const NO_SPACE_PAUSE: Duration = Duration::from_secs(1);

/// What a round of upkeep came to.
#[derive(Clone, Copy, Debug)]
pub struct Upkeep {
    /// The images were given something.
    pub destaged: bool,
    /// The disk had failed, or the journal was full: trying again at once would change nothing.
    pub failing: bool,
    /// The disk is full: only somebody else changes that, whoever waits.
    pub no_space: bool,
}

/// What the loops of a write path would do now.
#[derive(Clone, Copy, Debug)]
pub struct Due {
    /// They end.
    pub stopping: bool,
    /// A batch waits to be committed.
    pub commit: bool,
    /// A flush waits for a sync.
    pub sync: bool,
    /// Upkeep can't wait for its next turn.
    pub upkeep: bool,
    /// The images are to be synced.
    pub settle: bool,
}

impl WritePath {
    /// Ends the loops below.
    pub fn stop(&self) {
        self.core.lock().stopping = true;
        self.commit_wanted.notify_all();
        self.sync_wanted.notify_all();
        self.upkeep_wanted.notify_all();
        self.settle_wanted.notify_all();
    }

    /// Commits batches as they come, until [`WritePath::stop`].
    pub fn commit_loop(&self) {
        loop {
            let mut core = self.core.lock();
            while !core.stopping && !core.commit_due() {
                core = wait(&self.commit_wanted, core, Duration::from_secs(1));
            }
            if core.stopping {
                return;
            }
            drop(core);
            // The cause is in the group's state, and everybody who waited was told.
            let _ = self.commit();
        }
    }

    /// Syncs when a flush wants it, until [`WritePath::stop`].
    pub fn sync_loop(&self) {
        loop {
            let mut core = self.core.lock();
            while !core.stopping && !core.sync_due() {
                core = wait(&self.sync_wanted, core, Duration::from_secs(1));
            }
            if core.stopping {
                return;
            }
            drop(core);
            let _ = self.sync();
        }
    }

    /// Syncs the images when upkeep wants it, until [`WritePath::stop`].
    pub fn settle_loop(&self) {
        loop {
            let mut core = self.core.lock();
            while !core.stopping && !core.unsettled.is_wanted() {
                core = wait(&self.settle_wanted, core, Duration::from_secs(1));
            }
            if core.stopping {
                return;
            }
            drop(core);
            if let Err(error) = self.settle() {
                tracing::warn!(group = %self.group, %error, "syncing the images failed");
            }
            // Files of the journal may be given back now, and somebody may wait for one.
            if !self.core.lock().spare_ready {
                self.upkeep_wanted.notify_one();
            }
        }
    }

    /// Prepares journal files and gives the images what waits for them: when the overlay is a quarter full, when a writer waits, and
    /// every `interval` otherwise; until [`WritePath::stop`]. `after` runs after each round, with whether they were given anything.
    pub fn upkeep_loop(&self, interval: Duration, mut after: impl FnMut(bool)) {
        loop {
            let mut core = self.core.lock();
            if !core.stopping && !core.wants_upkeep(&self.limits) {
                core = wait(&self.upkeep_wanted, core, interval);
            }
            if core.stopping {
                return;
            }
            drop(core);
            let done = self.upkeep();
            after(done.destaged);
            if done.no_space && !done.destaged {
                if !self.rest(NO_SPACE_PAUSE) {
                    return;
                }
            } else if done.failing && !done.destaged {
                let core = self.core.lock();
                if core.stopping {
                    return;
                }
                drop(wait(&self.upkeep_wanted, core, interval));
            }
        }
    }

    /// One round of [`WritePath::upkeep_loop`].
    pub fn upkeep(&self) -> Upkeep {
        let failing = {
            let core = self.core.lock();
            core.is_poisoned() || core.journal_full.is_some()
        };
        if let Err(error) = self.prepare() {
            tracing::warn!(group = %self.group, %error, "no further journal file could be prepared");
        }
        let destaged = match self.spill() {
            Ok(destaged) => destaged,
            Err(error) => {
                tracing::warn!(group = %self.group, %error, "writing to the images failed");
                false
            }
        };
        self.want_settling(!destaged);
        let no_space = self.core.lock().no_space();
        Upkeep { destaged, failing, no_space }
    }

    /// Lets so much time pass, however many ask for upkeep meanwhile: each of them would have a journal file begun, or an image. False when
    /// the loops end.
    fn rest(&self, pause: Duration) -> bool {
        let begun = std::time::Instant::now();
        let mut core = self.core.lock();
        while !core.stopping && core.no_space() {
            let Some(left) = pause.checked_sub(begun.elapsed()).filter(|left| !left.is_zero()) else { break };
            core = wait(&self.upkeep_wanted, core, left);
        }
        !core.stopping
    }

    /// What the loops would do now, for whoever drives them in steps.
    pub fn due(&self) -> Due {
        let core = self.core.lock();
        Due {
            stopping: core.stopping,
            commit: core.commit_due(),
            sync: core.sync_due(),
            upkeep: core.wants_upkeep(&self.limits),
            settle: core.unsettled.is_wanted(),
        }
    }
}

fn wait<'a>(condvar: &Condvar, guard: MutexGuard<'a, Core>, timeout: Duration) -> MutexGuard<'a, Core> {
    condvar.wait_timeout(guard, timeout).unwrap_or_else(PoisonError::into_inner).0
}
