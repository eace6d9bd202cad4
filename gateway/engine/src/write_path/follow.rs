//! Whether writes are answered when they are durable instead of when they are in the kernel, because a flush follows anyway.
//!
//! The kernel lets one fsync at a time into a file, and keeps its writers out meanwhile; a loop device does the same with its
//! flushes. Many that write and flush side by side then pay for one sync of the disk each. Where writes wait for the sync themselves
//! they share one, and the flushes that follow find nothing left to do.
//!
//! That costs one sync a batch. It is done as long as there are hardly more batches than flushes, or the batches hold what many wrote
//! at once. Somebody who writes without flushing, beside others who flush, would be slowed by it and look as if they did the
//! same; so it is left off again and again for some flushes, and taken up only if the figures are still the same without it.

/// Figures are kept in sixteenths.
const ONE: u32 = 16;
/// A new figure counts for one in eight.
const WEIGHT: u32 = 8;
/// Batches for each flush, at most, that are worth their syncs, when each holds one write.
const BATCHES: u32 = ONE * 3 / 2;
/// So many writes to a flush are worth one more batch.
const WRITES_A_BATCH: u32 = 8;
/// Batches without a flush that end it.
const UNFLUSHED: u32 = 8;
/// Flushes between two trials without it, and of such a trial.
const LOOK_EVERY: u32 = 256;
const LOOK_FOR: u32 = 24;

#[derive(Debug)]
pub(super) struct Follow {
    batches: u32,
    writes: u32,
    batches_a_flush: u32,
    writes_a_flush: u32,
    /// Flushes since the last trial began.
    flushes: u32,
}

impl Default for Follow {
    fn default() -> Self {
        Self { batches: 0, writes: 0, batches_a_flush: 4 * BATCHES, writes_a_flush: 0, flushes: LOOK_FOR }
    }
}

impl Follow {
    /// A batch of so many writes goes to the journal.
    pub(super) fn batch(&mut self, writes: usize) {
        self.batches = self.batches.saturating_add(1);
        self.writes = self.writes.saturating_add(u32::try_from(writes).unwrap_or(u32::MAX));
        if self.batches > UNFLUSHED {
            self.batches_a_flush = self.batches_a_flush.max(4 * BATCHES);
            self.writes_a_flush = 0;
        }
    }

    /// Somebody wants what was acknowledged to be durable.
    pub(super) fn flush(&mut self) {
        let average = |figure: &mut u32, new: u32| {
            *figure = (*figure * (WEIGHT - 1) + new.min(1 << 12) * ONE) / WEIGHT;
        };
        average(&mut self.batches_a_flush, std::mem::take(&mut self.batches));
        average(&mut self.writes_a_flush, std::mem::take(&mut self.writes));
        self.flushes = (self.flushes + 1) % LOOK_EVERY;
    }

    /// Whether the writes of the batch that was told last are to wait until they are durable.
    pub(super) const fn waits(&self) -> bool {
        self.flushes >= LOOK_FOR
            && self.batches <= UNFLUSHED
            && self.batches_a_flush <= BATCHES + self.writes_a_flush / WRITES_A_BATCH
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rounds of batches, each of so many writes, that end with so many flushes; how many of the batches waited.
    fn play(follow: &mut Follow, rounds: u32, batches: u32, writes: usize, flushes: u32) -> u32 {
        let mut waited = 0;
        for _ in 0..rounds {
            for _ in 0..batches {
                follow.batch(writes);
                waited += u32::from(follow.waits());
            }
            (0..flushes).for_each(|_| follow.flush());
        }
        waited
    }

    #[test]
    fn it_begins_when_each_batch_is_flushed_and_pauses_for_trials() {
        let mut follow = Follow::default();
        assert!(play(&mut follow, 8, 1, 1, 1) <= 1, "a few flushes say nothing");
        play(&mut follow, 24, 1, 1, 1);
        let waited = play(&mut follow, 4 * LOOK_EVERY, 1, 1, 1);
        assert_eq!(waited, 4 * (LOOK_EVERY - LOOK_FOR));
    }

    #[test]
    fn many_jobs_that_share_batches_and_flush_one_by_one_are_in() {
        let mut follow = Follow::default();
        play(&mut follow, 40, 1, 32, 32);
        assert!(play(&mut follow, 64, 1, 32, 32) > 40);
        // As a loop device sends them: one flush for what many wrote, which came in some batches.
        let mut follow = Follow::default();
        play(&mut follow, 60, 4, 8, 1);
        assert!(play(&mut follow, 100, 4, 8, 1) > 200);
    }

    #[test]
    fn whoever_writes_much_before_a_flush_is_not_slowed() {
        let mut follow = Follow::default();
        assert_eq!(play(&mut follow, 1000, 3, 1, 1), 0);
        assert_eq!(play(&mut follow, 1000, 100, 1, 1), 0);
        // One after the other, without a flush, after others that flushed.
        play(&mut follow, 100, 1, 1, 1);
        assert!(play(&mut follow, 1, 1000, 1, 0) <= UNFLUSHED);
    }

    #[test]
    fn a_writer_beside_a_flusher_is_found_by_the_next_trial() {
        let mut follow = Follow::default();
        play(&mut follow, 100, 1, 1, 1);
        let mut waited = 0;
        let mut rounds = 0;
        for _ in 0..4 * LOOK_EVERY {
            // Where writes wait, the writer gets one in for each of the other's.
            let (batches, writes) = if follow.waits() { (1, 2) } else { (20, 1) };
            rounds += 1;
            for _ in 0..batches {
                follow.batch(writes);
                waited += u32::from(follow.waits());
            }
            follow.flush();
        }
        assert!(waited <= LOOK_EVERY, "{waited} batches of {rounds} rounds waited");
    }
}
