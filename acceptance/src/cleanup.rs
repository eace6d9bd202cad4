//! What must be undone, whatever happens.
//!
//! Owns a process-wide list of undo actions. [`defer`] adds one and gives a [`Guard`]; dropping the guard (at the end of
//! a scope, or while a panic unwinds) runs the action. On SIGINT, SIGTERM or SIGHUP a thread of its own runs every action
//! still listed, latest first, and ends the process with 128 + the signal's number, as a shell would report it.
//!
//! Register an action before acquiring what it undoes where the name is known beforehand; actions therefore accept
//! that there is nothing to undo. SIGKILL can't be answered: children are started so that they die with their parent
//! ([`crate::command::Daemon`]), and the next start of a gateway replaces its own stale mount.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, Once, PoisonError};

type Action = Box<dyn FnOnce() + Send>;

static ACTIONS: Mutex<BTreeMap<u64, (String, Action)>> = Mutex::new(BTreeMap::new());
static STOPPING: AtomicBool = AtomicBool::new(false);
static WATCH: Once = Once::new();
const SIGNAL_THREAD: &str = "signals";

/// Runs its action once, when dropped, unless a signal ran it before.
#[must_use = "dropping the guard at once undoes what it guards"]
#[derive(Debug)]
pub struct Guard {
    id: u64,
}

impl Drop for Guard {
    fn drop(&mut self) {
        let action = actions().remove(&self.id);
        if let Some((_, action)) = action {
            action();
        }
    }
}

/// Adds an action that undoes something; `label` names it in messages.
pub fn defer(label: impl Into<String>, action: impl FnOnce() + Send + 'static) -> Guard {
    WATCH.call_once(watch_signals);
    if stopping() {
        action();
        park();
    }
    let mut actions = actions();
    let id = actions.last_key_value().map_or(0, |(id, _)| id + 1);
    actions.insert(id, (label.into(), Box::new(action)));
    Guard { id }
}

/// Whether a signal asked the process to end; whoever would go on, or report a failure, waits for that end instead.
/// Always false for the actions that run because of it: they have to go on.
#[must_use]
pub fn stopping() -> bool {
    STOPPING.load(Ordering::SeqCst) && std::thread::current().name() != Some(SIGNAL_THREAD)
}

/// Waits for the signal thread to end the process.
pub fn park() -> ! {
    loop {
        std::thread::park();
    }
}

fn actions() -> MutexGuard<'static, BTreeMap<u64, (String, Action)>> {
    // A panic in an action leaves the list itself whole.
    ACTIONS.lock().unwrap_or_else(PoisonError::into_inner)
}

fn watch_signals() {
    let started = std::thread::Builder::new().name(SIGNAL_THREAD.into()).spawn(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let Ok(runtime) = runtime else { return };
        let signal = runtime.block_on(async {
            use tokio::signal::unix::{SignalKind, signal};
            let (Ok(mut interrupt), Ok(mut terminate), Ok(mut hangup)) =
                (signal(SignalKind::interrupt()), signal(SignalKind::terminate()), signal(SignalKind::hangup()))
            else {
                return None;
            };
            tokio::select! {
                _ = interrupt.recv() => Some(libc::SIGINT),
                _ = terminate.recv() => Some(libc::SIGTERM),
                _ = hangup.recv() => Some(libc::SIGHUP),
            }
        });
        if let Some(signal) = signal {
            STOPPING.store(true, Ordering::SeqCst);
            undo_everything();
            std::process::exit(128 + signal);
        }
    });
    if let Err(error) = started {
        eprintln!("cleanup: no thread for signals ({error}): Ctrl-C will leave mounts behind");
    }
}

fn undo_everything() {
    loop {
        // The lock is not held while an action runs: actions may drop guards of their own.
        let Some((_, (label, action))) = actions().pop_last() else { return };
        eprintln!("cleaning up: {label}");
        if std::panic::catch_unwind(std::panic::AssertUnwindSafe(action)).is_err() {
            eprintln!("cleaning up: {label}: failed, going on");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn a_panic_runs_the_actions_of_its_scope_latest_first() {
        let order = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&order);
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || {
            let first = Arc::clone(&seen);
            let _mount = defer("mount", move || first.lock().unwrap().push("mount"));
            let _file_system = defer("file system", move || seen.lock().unwrap().push("file system"));
            panic!("as planned");
        }));
        assert!(result.is_err());
        assert_eq!(*order.lock().unwrap(), ["file system", "mount"]);
    }

    #[test]
    fn a_guard_runs_its_action_once() {
        let count = Arc::new(Mutex::new(0));
        let counted = Arc::clone(&count);
        drop(defer("count", move || *counted.lock().unwrap() += 1));
        assert_eq!(*count.lock().unwrap(), 1);
    }
}
