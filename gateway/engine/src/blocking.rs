//! Work that computes for long or waits for a disk, away from the threads that serve requests.
//!
//! A simulation runs everything on one thread: there ([`stay_on_this_thread`]) the work is done where it was asked for, after
//! everybody who is ready has had a turn, so that one seed gives one order of events.

use std::cell::Cell;
use std::marker::PhantomData;

use tokio::task::JoinError;

thread_local! {
    static STAYS: Cell<bool> = const { Cell::new(false) };
}

/// Until it is dropped, work that is asked for on this thread is done on this thread.
#[derive(Debug)]
pub struct OneThread {
    before: bool,
    /// It is about the thread that it was made on.
    _stays: PhantomData<*const ()>,
}

/// For simulations, on the thread of a runtime that has no other: blocks it for as long as each piece of work takes.
#[must_use]
pub fn stay_on_this_thread() -> OneThread {
    OneThread { before: STAYS.replace(true), _stays: PhantomData }
}

impl Drop for OneThread {
    fn drop(&mut self) {
        STAYS.set(self.before);
    }
}

/// Does the work and gives what it comes to; dropping the future lets work that was begun run to its end.
pub(crate) async fn run<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, JoinError> {
    if STAYS.get() {
        tokio::task::yield_now().await;
        return Ok(work());
    }
    tokio::task::spawn_blocking(work).await
}
