//! Work that computes for long or waits for a disk, away from the threads that serve requests.
//!
//! A simulation runs everything on one thread: there ([`stay_on_this_thread`]) the work is done where it was asked for, after
//! everybody who is ready has had a turn, so that one seed gives one order of events.
//!
//! Handing work to another thread costs two wake-ups, which a fast disk's answer takes no longer than. A thread that has nothing
//! better to do while it waits for a disk says so ([`may_wait`]), and does such work itself.

use std::cell::Cell;
use std::marker::PhantomData;
use std::sync::OnceLock;

use rustix::process::{getpriority_process, setpriority_process};
use tokio::task::JoinError;

thread_local! {
    static STAYS: Cell<bool> = const { Cell::new(false) };
    static MAY_WAIT: Cell<bool> = const { Cell::new(false) };
}

/// Does something on this thread, which may wait for a disk meanwhile, because others are there for what comes.
pub fn may_wait<T>(work: impl FnOnce() -> T) -> T {
    struct Until(bool);
    impl Drop for Until {
        fn drop(&mut self) {
            MAY_WAIT.set(self.0);
        }
    }
    let _until = Until(MAY_WAIT.replace(true));
    work()
}

/// Whether this thread may wait for a disk.
pub(crate) fn waits_here() -> bool {
    MAY_WAIT.get()
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
    if waits_here() {
        return Ok(work());
    }
    tokio::task::spawn_blocking(work).await
}

/// Work that nobody waits for: shipping, maps, collections. It has less of a claim on the processors ([`NICE`]) than what applications
/// wait for: a burst of writes is taken as fast as it comes, and shipped when there is time, which there is by the journal's bounds.
pub(crate) async fn run_behind<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, JoinError> {
    run(move || match usual_niceness() {
        Some(usual) if !STAYS.get() => {
            let _until = Behind::begin(usual);
            work()
        }
        _ => work(),
    })
    .await
}

/// A third of what a thread of the usual priority has, where both want all of a processor.
const NICE: i32 = 5;
const NICE_MAX: i32 = 19;

/// A thread that has stepped back until this is dropped.
struct Behind(i32);

impl Behind {
    fn begin(usual: i32) -> Self {
        let _ = setpriority_process(None, (usual + NICE).min(NICE_MAX));
        Self(usual)
    }
}

impl Drop for Behind {
    fn drop(&mut self) {
        let _ = setpriority_process(None, self.0);
    }
}

/// The niceness of this process's threads; none where a thread that stepped back could not come forward again, which takes a right.
fn usual_niceness() -> Option<i32> {
    static USUAL: OnceLock<Option<i32>> = OnceLock::new();
    // Tried on a thread that ends thereafter. Zero to the calls means the calling thread.
    let look = || {
        let usual = getpriority_process(None).ok()?;
        setpriority_process(None, (usual + 1).min(NICE_MAX)).ok()?;
        setpriority_process(None, usual).ok().map(|()| usual)
    };
    *USUAL.get_or_init(|| std::thread::spawn(look).join().ok().flatten())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_thread_that_steps_back_comes_forward_again() {
        let now = || getpriority_process(None).expect("is told");
        let usual = now();
        let behind = run_behind(now).await.expect("runs");
        match usual_niceness() {
            Some(found) => {
                assert_eq!(found, usual);
                assert_eq!(behind, (usual + NICE).min(NICE_MAX));
            }
            None => assert_eq!(behind, usual),
        }
        for _ in 0..20 {
            assert_eq!(run(now).await.expect("runs"), usual);
            assert!(run_behind(|| panic!("as planned")).await.is_err());
        }
    }

    #[test]
    fn a_thread_may_wait_only_within() {
        assert!(!waits_here());
        assert!(may_wait(|| waits_here() && may_wait(waits_here) && waits_here()));
        let _ = std::panic::catch_unwind(|| may_wait(|| panic!("as planned")));
        assert!(!waits_here());
    }
}
