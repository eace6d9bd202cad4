//! Bugs planted on purpose, for the simulation that has to catch each of them.
//!
//! There is nothing here in a product: the feature `planted` is the simulation's, and builds without debug assertions, which
//! all releases are, leave the bugs out even then. Where they are compiled in, they sleep until [`plant`] wakes one, on the
//! calling thread only.

use std::cell::Cell;
use std::marker::PhantomData;

/// A mistake that somebody could make in this crate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// A flush is answered once its records are in the kernel, before `fdatasync`.
    AcknowledgesBeforeSync,
    /// A segment counts without a look for a newer epoch.
    SkipsFenceLook,
    /// A segment counts before it is known to have landed.
    CountsBeforeLanding,
    /// A segment's salt is that of the one before it.
    ReusesSalt,
    /// A cut names one segment too few.
    CutsOneTooFew,
    /// Trims are left out of segments.
    ForgetsZeroes,
    /// A point holds one record less than it says.
    PointMissesARecord,
    /// Presence is noted for blocks that were not fetched.
    PresentBeforeData,
    /// A failover doesn't fence.
    FailsOverWithoutFence,
    /// A pass moves what differs between two points and forgets what this gateway wrote besides.
    ForgetsOwnTail,
    /// Journal files are given back before the vault has their records.
    ReclaimsUnshipped,
    /// A reader takes what lies behind an epoch's cut for history.
    IgnoresCuts,
    /// An orphan branch ends one record before the tail does.
    TailOneShort,
    /// The images count as written up to a record before they are synced.
    ImageMarkAhead,
    /// A pass counts as done before its images are synced.
    PassBeforeSync,
    /// A grown volume's size is not written to the group's state.
    ForgetsGrownSize,
    /// Segments name a volume's first data key, whichever they are written under.
    NamesFirstKey,
    /// Points that are taken while the vault lacks blocks are offered.
    OffersPointsInResync,
    /// A branch is taken over although it went on since the last pass.
    TakesOverBehind,
    /// A collection doesn't look at pins.
    DropsPinned,
    /// A collection takes what a kept point replays for garbage.
    DeletesLive,
    /// What a collection finds to be garbage is deleted by the next one, whenever that is.
    DeletesWithoutGrace,
    /// A barrier's point is placed without that writes were held.
    MarksWithoutHold,
}

/// Every one.
pub const BUGS: [Bug; 23] = [
    Bug::AcknowledgesBeforeSync,
    Bug::SkipsFenceLook,
    Bug::CountsBeforeLanding,
    Bug::ReusesSalt,
    Bug::CutsOneTooFew,
    Bug::ForgetsZeroes,
    Bug::PointMissesARecord,
    Bug::PresentBeforeData,
    Bug::ForgetsOwnTail,
    Bug::FailsOverWithoutFence,
    Bug::ReclaimsUnshipped,
    Bug::IgnoresCuts,
    Bug::TailOneShort,
    Bug::ImageMarkAhead,
    Bug::PassBeforeSync,
    Bug::ForgetsGrownSize,
    Bug::NamesFirstKey,
    Bug::OffersPointsInResync,
    Bug::TakesOverBehind,
    Bug::DropsPinned,
    Bug::DeletesLive,
    Bug::DeletesWithoutGrace,
    Bug::MarksWithoutHold,
];

thread_local! {
    static AWAKE: Cell<Option<Bug>> = const { Cell::new(None) };
}

/// Until it is dropped, a bug is awake on its thread.
#[derive(Debug)]
pub struct Awake(PhantomData<*const ()>);

/// Wakes a bug on this thread.
#[must_use]
pub fn plant(bug: Bug) -> Awake {
    AWAKE.set(Some(bug));
    Awake(PhantomData)
}

impl Drop for Awake {
    fn drop(&mut self) {
        AWAKE.set(None);
    }
}

/// Whether a bug is awake here; never, in a product.
#[inline]
pub(crate) fn is(bug: Bug) -> bool {
    cfg!(all(feature = "planted", debug_assertions)) && AWAKE.get() == Some(bug)
}
