//! For tests: holds a job before its next step. So a test that kills gateways in every step does, however fast the machine
//! is.

use std::sync::LazyLock;

use lifeboat_model::JobId;
use tokio::sync::watch;

#[derive(Clone, Copy, Debug)]
enum Brake {
    Off,
    /// No job does any step.
    All,
    /// This one goes no further than this step.
    After(JobId, usize),
}

static BRAKE: LazyLock<watch::Sender<Brake>> = LazyLock::new(|| watch::Sender::new(Brake::Off));

/// Holds every job, from before it is asked for.
pub(super) fn hold() {
    BRAKE.send_replace(Brake::All);
}

/// Holds this job after a step, and no other.
pub(super) fn hold_after(job: JobId, step: usize) {
    BRAKE.send_replace(Brake::After(job, step));
}

pub(super) fn release() {
    BRAKE.send_replace(Brake::Off);
}

/// Waits until this step may be done.
pub(super) async fn pass(job: JobId, step: usize) {
    let may = |brake: &Brake| match *brake {
        Brake::Off => true,
        Brake::All => false,
        Brake::After(held, last) => held != job || step <= last,
    };
    // The sender is never dropped.
    let _ = BRAKE.subscribe().wait_for(may).await;
}
