//! Syncing the images, and what was given to them since: how much, since when.
//!
//! It is put off: a block that is written again until then reaches the disk once, and blocks far from one another are written in the
//! disk's order. It is wanted when images were given [`Limits::unsettled_bytes`], when the first of it is [`AGE_MAX`] old, when
//! nothing more comes, and when the journal would otherwise be held for it.

use lifeboat_model::Timestamp;

use super::stages::write_runs;
use super::*;

/// How long what was given to an image may be without a sync, microseconds.
const AGE_MAX: u64 = 5_000_000;
/// Share of the journal's limit, percent, from which its files are given back as soon as may be.
const JOURNAL_PERCENT: u64 = 50;

/// What images were given since they were synced.
#[derive(Debug, Default)]
pub(super) struct Unsettled {
    images: BTreeMap<VolumeId, Arc<Image>>,
    bytes: u64,
    since: Option<Timestamp>,
    wanted: bool,
}

impl Unsettled {
    pub(super) fn given(&mut self, id: VolumeId, image: &Arc<Image>, runs: &[Run], now: Timestamp) {
        self.images.insert(id, Arc::clone(image));
        self.bytes += runs.iter().map(Run::data_bytes).sum::<u64>();
        self.since.get_or_insert(now);
    }

    pub(super) fn forget(&mut self, id: VolumeId) {
        self.images.remove(&id);
    }

    pub(super) const fn is_wanted(&self) -> bool {
        self.wanted
    }
}

impl Core {
    /// Records that no image has to be synced for are in the images.
    pub(super) fn settled_if_nothing_waits(&mut self) {
        if self.unsettled.images.is_empty() && !self.settling {
            self.image = self.image.max(self.spilled);
        }
    }
}

impl WritePath {
    /// Makes what was given to the images durable there; false when there was nothing.
    ///
    /// # Errors
    /// `NoSpace` when a presence map doesn't fit: nothing is lost, try again. Anything else poisons the group.
    pub fn settle(&self) -> Result<bool> {
        let _alone = self.settling.lock();
        let (upto, given) = {
            let mut core = self.core.lock();
            core.refuse_poisoned(self)?;
            let given = std::mem::take(&mut core.unsettled);
            if given.images.is_empty() {
                return Ok(false);
            }
            core.settling = true;
            (core.spilled, given)
        };
        let synced = given.images.values().try_for_each(|image| match planted::is(Bug::ImageMarkAhead) {
            true => Ok(()),
            false => image.sync(),
        });
        if let Err(error) = &synced
            && error.kind() != ErrorKind::NoSpace
        {
            self.poison(error);
        }
        let mut core = self.core.lock();
        core.settling = false;
        if let Err(error) = synced {
            core.take_back(given);
            return Err(error);
        }
        core.image = core.image.max(upto);
        core.settled_if_nothing_waits();
        Ok(true)
    }

    /// Asks for a sync of the images if it is time. `quiet`: they were given nothing just now.
    pub(super) fn want_settling(&self, quiet: bool) {
        let now = self.disk.now();
        let mut core = self.core.lock();
        let Some(since) = core.unsettled.since else { return };
        // A clock that was set back counts as time that passed.
        let age = now.as_micros().abs_diff(since.as_micros());
        core.unsettled.wanted = quiet
            || age >= AGE_MAX
            || core.unsettled.bytes >= self.limits.unsettled_bytes
            || core.journal_percent(&self.limits) >= JOURNAL_PERCENT;
        if core.unsettled.wanted {
            drop(core);
            self.settle_wanted.notify_one();
        }
    }

    /// Takes records found in the journal to the images, a part at a time: more of them than memory is meant for.
    pub(super) fn replay_in_steps(&self, image_lsn: Lsn) -> Result<()> {
        let last = {
            let mut core = self.core.lock();
            core.volumes.values_mut().for_each(|entry| entry.overlay = Overlay::default());
            core.next.previous()
        };
        let (mut at, mut hint) = (image_lsn, None);
        while at < last {
            let records = self.reader(at).read(at, last, self.limits.batch_bytes, &mut hint)?;
            let mut core = self.core.lock();
            for record in records {
                at = record.lsn;
                replay(&mut core.volumes, record)?;
            }
            if core.overlay_bytes() < self.limits.overlay_bytes / 2 {
                continue;
            }
            let now = self.disk.now();
            let Core { volumes, unsettled, .. } = &mut *core;
            for (id, entry) in volumes {
                let runs = entry.overlay.freeze_at(at);
                write_runs(&entry.image, &runs)?;
                if !runs.is_empty() {
                    unsettled.given(*id, &entry.image, &runs, now);
                }
                entry.overlay.thaw();
            }
            core.spilled = at;
        }
        Ok(())
    }
}

impl Core {
    /// What could not be synced waits as before, beside what came meanwhile.
    fn take_back(&mut self, given: Unsettled) {
        let Unsettled { images, bytes, since, .. } = given;
        for (id, image) in images {
            if self.volumes.contains_key(&id) {
                self.unsettled.images.entry(id).or_insert(image);
            }
        }
        self.unsettled.bytes += bytes;
        self.unsettled.since = since.or(self.unsettled.since);
    }
}
