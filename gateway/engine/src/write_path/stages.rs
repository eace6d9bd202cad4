//! The stages of a write: into the journal, made durable, taken to the images, its records given back.

use super::*;

impl WritePath {
    /// Takes the next batch to the journal and acknowledges it, or leaves that to the next sync; false when there was none.
    ///
    /// # Errors
    /// What the disk says; the group is poisoned then.
    pub fn commit(&self) -> Result<bool> {
        self.commit_with(self.journal.lock(), false)
    }

    /// The same. `here`: whoever calls may wait for the disk, also for a sync that the batch needs.
    pub(super) fn commit_with(&self, mut journal: MutexGuard<'_, Journal>, here: bool) -> Result<bool> {
        let (mut queued, durable) = {
            let mut core = self.core.lock();
            core.refuse_poisoned(self)?;
            let next = core
                .sealed
                .pop_front()
                .or_else(|| (!core.open.batch.is_empty()).then(|| std::mem::replace(&mut core.open, Queued::new())));
            match next {
                Some(queued) => (queued, core.durable),
                None => return Ok(false),
            }
        };
        let bytes = queued.batch.bytes() as u64;
        let epoch = *self.epoch.lock();
        if let Err(error) = journal.append(&mut queued.batch, epoch, durable, self.disk.now()) {
            // Under the lock: the next batch would be appended in this one's place.
            self.poison(&error);
            drop(journal);
            for ack in queued.acks {
                let _ = ack.send(Err(poisoned(self.group, &error.to_string())));
            }
            return Err(error);
        }
        let mut core = self.core.lock();
        core.written = journal.next_lsn().previous();
        core.queued_bytes = core.queued_bytes.saturating_sub(bytes);
        core.spare_ready = journal.spare_bytes() > 0;
        core.file_room = journal.file_room();
        core.journal_bytes = journal.written_bytes();
        core.follow.batch(queued.acks.len());
        // Behind one that waits, so that records are acknowledged in order.
        // No sync comes any more to a group that was poisoned meanwhile; what is in the kernel may be acknowledged.
        let acks = if !core.is_poisoned() && (core.follow.waits() || !core.waiting.is_empty()) {
            let upto = core.written;
            core.waiting.push_back((upto, queued.acks));
            Vec::new()
        } else {
            core.acknowledged = core.written;
            queued.acks
        };
        let wake_upkeep = !core.spare_ready;
        let wake_sync = core.sync_due();
        let wake_commit = here && core.commit_due();
        drop(core);
        drop(journal);
        self.acknowledge(acks);
        if wake_commit {
            self.commit_wanted.notify_one();
        }
        if wake_sync && !(here && self.sync_here()) {
            self.sync_wanted.notify_one();
        }
        if wake_upkeep {
            self.upkeep_wanted.notify_one();
        }
        self.room.notify_waiters();
        Ok(true)
    }

    /// Makes everything committed so far durable, and answers the flushes that waited for it.
    ///
    /// # Errors
    /// What the disk says; the group is poisoned then.
    pub fn sync(&self) -> Result<Lsn> {
        self.sync_with(self.syncing.lock())
    }

    /// The same on this thread if no other is at it; false if one is.
    pub(super) fn sync_here(&self) -> bool {
        let Some(serial) = self.syncing.try_lock() else { return false };
        // What fails is in the group's state, and everybody who waits is told.
        let _ = self.sync_with(serial);
        let due = self.core.lock().sync_due();
        if due {
            self.sync_wanted.notify_one();
        }
        true
    }

    fn sync_with(&self, serial: MutexGuard<'_, ()>) -> Result<Lsn> {
        let ticket = self.journal.lock().begin_sync();
        let begun = std::time::Instant::now();
        let finished = ticket.finish();
        self.syncs.note(begun.elapsed());
        let durable = match finished {
            Ok(durable) => durable,
            Err(error) => {
                // Before the next sync may begin: it would find no file to sync, and succeed.
                let error = EngineError::io(format!("sync the journal of {}", self.group), error);
                self.poison(&error);
                return Err(error);
            }
        };
        let mut core = self.core.lock();
        core.refuse_poisoned(self)?;
        core.durable = core.durable.max(durable);
        let durable = core.durable;
        let (done, waiting) = std::mem::take(&mut core.flushes).into_iter().partition(|(upto, _)| *upto <= durable);
        core.flushes = waiting;
        let mut acks: Vec<AckSender> = Vec::new();
        while let Some((upto, batch)) = core.waiting.pop_front_if(|(upto, _)| *upto <= durable) {
            core.acknowledged = upto;
            acks.extend(batch);
        }
        drop(core);
        drop(serial);
        let done: Vec<(Lsn, AckSender)> = done;
        acks.extend(done.into_iter().map(|(_, ack)| ack));
        self.acknowledge(acks);
        Ok(durable)
    }

    /// Commits and syncs until `upto` is durable.
    ///
    /// # Errors
    /// As [`WritePath::commit`] and [`WritePath::sync`].
    pub fn make_durable(&self, upto: Lsn) -> Result<()> {
        while self.core.lock().written < upto {
            if !self.commit()? && self.core.lock().written < upto {
                // Another thread has the batch in its hands.
                std::thread::yield_now();
            }
        }
        if self.core.lock().durable < upto {
            self.sync()?;
        }
        Ok(())
    }

    /// Takes everything submitted so far to the images and makes it durable there; false when there was nothing.
    ///
    /// # Errors
    /// `NoSpace` when an image can't grow into a full disk: nothing is lost, try again. Anything else poisons the group.
    pub fn destage(&self) -> Result<bool> {
        let spilled = self.spill()?;
        Ok(self.settle()? || spilled)
    }

    /// Gives everything submitted so far to the images, and frees its memory; false when there was nothing.
    ///
    /// # Errors
    /// As [`WritePath::destage`].
    pub fn spill(&self) -> Result<bool> {
        let _serial = self.destaging.lock();
        let (frozen_at, work) = {
            let mut core = self.core.lock();
            core.refuse_poisoned(self)?;
            if core.frozen_at.is_none() && core.volumes.values().all(|entry| entry.overlay.is_empty()) {
                // Points and sizes alone leave nothing for the images.
                core.spilled = core.spilled.max(core.durable);
                core.settled_if_nothing_waits();
                return Ok(false);
            }
            let frozen_at = core.frozen_at.unwrap_or(core.next.previous());
            core.frozen_at = Some(frozen_at);
            let work: Vec<Work> = core
                .volumes
                .iter_mut()
                .map(|(id, entry)| (*id, Arc::clone(&entry.image), entry.overlay.freeze_at(frozen_at)))
                .filter(|(_, _, runs)| !runs.is_empty())
                .collect();
            (frozen_at, work)
        };
        self.make_durable(frozen_at)?;
        if let Err(error) = write_images(&work) {
            if error.kind() == ErrorKind::NoSpace {
                let text = format!(
                    "the gateway's disk has no room for the volumes of {}: free some space in {}. Writes go on until {} MiB wait in memory, \
                     and fail then ({error})",
                    self.group,
                    self.disk.path().display(),
                    self.limits.overlay_bytes >> 20
                );
                self.core.lock().images_full = Some(EngineErrorNote { kind: ErrorKind::NoSpace, text });
            } else {
                self.poison(&error);
            }
            return Err(error);
        }
        let mut core = self.core.lock();
        core.images_full = None;
        core.volumes.values_mut().for_each(|entry| entry.overlay.thaw());
        core.frozen_at = None;
        core.spilled = frozen_at;
        let now = self.disk.now();
        for (id, image, runs) in work {
            // One that was removed meanwhile has nothing to be kept.
            if core.volumes.contains_key(&id) {
                core.unsettled.given(id, &image, &runs, now);
            }
        }
        core.settled_if_nothing_waits();
        drop(core);
        self.room.notify_waiters();
        Ok(true)
    }

    /// Prepares the journal's next file when none is ready.
    pub fn prepare(&self) -> Result<()> {
        let (name, length) = {
            let mut journal = self.journal.lock();
            if journal.spare_bytes() > 0 {
                self.note_spare(&journal, None);
                return Ok(());
            }
            if !journal.may_grow() {
                let text = format!(
                    "the journal of {} is at its limit of {} MiB: writes wait until the vault has taken more of it",
                    self.group,
                    self.limits.journal.limit_bytes >> 20
                );
                self.note_spare(&journal, Some(EngineErrorNote { kind: ErrorKind::Retry, text }));
                return Ok(());
            }
            journal.reserve_name()
        };
        let made = Journal::fill_spare(&self.disk, name, length);
        let mut journal = self.journal.lock();
        match made {
            Ok(spare) => {
                journal.add_spare(spare);
                self.note_spare(&journal, None);
                Ok(())
            }
            Err(error) => {
                let text = if error.kind() == ErrorKind::NoSpace {
                    format!(
                        "the gateway's disk has no room for the journal of {}: free some space in {}. Writes fail until then ({error})",
                        self.group,
                        self.disk.path().display()
                    )
                } else {
                    error.to_string()
                };
                self.note_spare(&journal, Some(EngineErrorNote { kind: error.kind(), text }));
                Err(error)
            }
        }
    }

    fn note_spare(&self, journal: &Journal, full: Option<EngineErrorNote>) {
        let mut core = self.core.lock();
        core.spare_ready = journal.spare_bytes() > 0;
        core.file_room = journal.file_room();
        core.journal_bytes = journal.written_bytes();
        core.journal_full = full;
        drop(core);
        self.room.notify_waiters();
    }

    /// Gives journal files back whose records are in the images, and in the vault or collapsed.
    pub fn reclaim(&self, upto: Lsn) {
        let _nobody_reads = self.reading.lock();
        let mut journal = self.journal.lock();
        journal.reclaim(upto);
        // Nothing given back changes nothing about why there was no room.
        let why = self.core.lock().journal_full.take();
        let why = why.filter(|why| journal.spare_bytes() == 0 && (why.kind != ErrorKind::Retry || !journal.may_grow()));
        self.note_spare(&journal, why);
    }

    /// Takes the group out of service: nothing is acknowledged from here on.
    pub(super) fn poison(&self, error: &EngineError) {
        let mut core = self.core.lock();
        if matches!(core.mode, Mode::Poisoned(_)) {
            return;
        }
        tracing::error!(group = %self.group, %error, "the group takes no more writes: its disk failed");
        core.mode = Mode::Poisoned(error.to_string());
        let mut acks: Vec<AckSender> = core.flushes.drain(..).map(|(_, ack)| ack).collect();
        acks.extend(core.waiting.drain(..).flat_map(|(_, acks)| acks));
        acks.append(&mut core.open.acks);
        let sealed: Vec<AckSender> = core.sealed.iter_mut().flat_map(|queued| queued.acks.drain(..)).collect();
        acks.extend(sealed);
        drop(core);
        for ack in acks {
            let _ = ack.send(Err(poisoned(self.group, &error.to_string())));
        }
        self.room.notify_waiters();
    }
}

/// What the frozen layer has for one volume.
type Work = (VolumeId, Arc<Image>, Vec<Run>);

fn write_images(work: &[Work]) -> Result<()> {
    work.iter().try_for_each(|(_, image, runs)| write_runs(image, runs))
}

pub(super) fn write_runs(image: &Image, runs: &[Run]) -> Result<()> {
    runs.iter().try_for_each(|run| match &run.content {
        Content::Data(data) => image.write(run.extent.lba, data),
        Content::Zero => image.zero(run.extent),
    })
}
