//! The interface that every driver keeps.
//!
//! ```text
//!              start                        the guest, a failure, stop
//!  Absent ───────────────> Running ────────────────────────────────────> Stopped
//!    ^                      │   ^                                          │  │
//!    │       a disk is away │   │ resume                             start │  │ forget
//!    │                      v   │                                          │  │
//!    │                     Paused        Running <─────────────────────────┘  │
//!    └───────────────────────────────────────────────────────────────────────┘
//! ```
//! A run that is `Absent` holds nothing on this host. `Running` and `Paused` hold memory and the machine's disks.
//! `Stopped` holds its directory: the order and what the machine said. Only [`Driver::forget`] lets go of that.

use std::fmt::Debug;
use std::net::SocketAddr;
use std::time::Duration;

use async_trait::async_trait;

use crate::{ComputeError, Order, RunId};

/// Longest that a connection may take to be taken.
pub(crate) const LISTENS_WITHIN: Duration = Duration::from_secs(5);

/// What a machine is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RunState {
    /// Nothing is known of it here.
    Absent,
    /// It runs.
    Running,
    /// It stands still, with everything in its memory, until [`Driver::resume`] or [`Driver::start`] lets it go on.
    Paused {
        /// Why, for a person.
        reason: String,
    },
    /// It was started here and runs no more.
    Stopped {
        /// What ended it, for a person.
        how: String,
    },
}

/// How [`Driver::stop`] ended a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopOutcome {
    /// It didn't run.
    WasOff,
    /// It went down by itself when it was asked to.
    Graceful,
    /// It was switched off.
    Forced,
}

/// Starts and stops machines on this host or through it.
///
/// Calls for one run take turns; calls for different runs don't wait for each other.
#[async_trait]
pub trait Driver: Send + Sync + Debug {
    /// The driver's name in declarations, for example `script`.
    fn name(&self) -> &'static str;

    /// Finds out what the first [`check`](Self::check) or [`start`](Self::start) would have to find out first, so that nobody waits
    /// for it in a disaster. Changes nothing, and may be left in the middle.
    async fn prepare(&self) {}

    /// What speaks against starting this here: a missing program, a bridge that isn't there, too little memory. A
    /// sentence each; empty when nothing does. Changes nothing. Disks aren't looked at: they may be made only when it comes
    /// to a start.
    async fn check(&self, order: &Order) -> Vec<String>;

    /// Starts the machine, and returns when it runs; its operating system may still be booting.
    ///
    /// One that runs already under this id is left as it is, also when it was ordered differently. One that is paused
    /// goes on, or is left paused and told of as to be tried again while what it waits for is away; one that can't go on
    /// any more is switched off and started anew. Its disks have to be what they were: whoever changes what is under
    /// their paths or names stops the machine before. What a crash left of an earlier start is cleaned away first.
    ///
    /// # Errors
    /// It doesn't run. Unless it was paused and still is, nothing but its directory is left of it then.
    async fn start(&self, order: &Order) -> Result<(), ComputeError>;

    /// Lets a machine that stands still go on, if what it waits for is there again. One that runs or is off is left as it
    /// is. Waits for no other call of the same run.
    ///
    /// # Errors
    /// It goes on standing still: another call is busy with it, what it waits for is away, or it can only begin anew
    /// with [`start`](Self::start).
    async fn resume(&self, id: &RunId) -> Result<(), ComputeError>;

    /// Asks the machine to go down, waits for that at most for `patience`, then switches it off.
    ///
    /// # Errors
    /// It may still run.
    async fn stop(&self, id: &RunId, patience: Duration) -> Result<StopOutcome, ComputeError>;

    /// What the machine is doing.
    ///
    /// # Errors
    /// That can't be found out: it may run or not.
    async fn state(&self, id: &RunId) -> Result<RunState, ComputeError>;

    /// Every run that was started here and not forgotten, in no order, by this process or an earlier one.
    ///
    /// # Errors
    /// The driver's directory can't be read.
    async fn list(&self) -> Result<Vec<RunId>, ComputeError>;

    /// The last bytes of the serial console, oldest first; empty when there is none. Also of a machine that has stopped.
    ///
    /// # Errors
    /// It can't be read.
    async fn console(&self, id: &RunId, last_bytes: usize) -> Result<Vec<u8>, ComputeError>;

    /// What the machine's screen shows, as a PNG; nothing when it has none or doesn't run.
    ///
    /// # Errors
    /// It runs and its screen can't be read.
    async fn screen(&self, id: &RunId) -> Result<Option<Vec<u8>>, ComputeError>;

    /// An address at which this TCP port of the machine's interface (counted from 0) answers from here, whether
    /// something listens there or not. It holds while the machine runs.
    ///
    /// # Errors
    /// The machine doesn't run, has no such interface, or that one has no link or no known address.
    async fn reach(&self, id: &RunId, interface: usize, port: u16) -> Result<SocketAddr, ComputeError>;

    /// Whether something in the machine listens at this TCP port of its interface (counted from 0): a connection that the
    /// machine itself has taken is the proof.
    ///
    /// # Errors
    /// As [`reach`](Self::reach).
    async fn listens(&self, id: &RunId, interface: usize, port: u16) -> Result<bool, ComputeError> {
        let address = self.reach(id, interface, port).await?;
        let taken = tokio::time::timeout(LISTENS_WITHIN, tokio::net::TcpStream::connect(address)).await;
        Ok(taken.is_ok_and(|taken| taken.is_ok()))
    }

    /// Removes what is left of a machine that has stopped. Forgetting what isn't known is done already.
    ///
    /// # Errors
    /// It still runs, or its directory can't be removed.
    async fn forget(&self, id: &RunId) -> Result<(), ComputeError>;
}
