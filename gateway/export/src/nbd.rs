//! Volumes over NBD: the same names as in the mount, for whoever speaks the protocol (QEMU, `nbd-client`, `nbdcopy`).
//!
//! ```text
//! client ─> listener ─> session: negotiation ─> transmission ─> engine's BlockVolume
//!           (unix, TCP)     wire (bytes, no I/O)   └ one task a request, one writer of replies
//! ```
//! The protocol is that of `doc/proto.md` in the NetworkBlockDevice/nbd repository: fixed newstyle negotiation with GO, INFO,
//! LIST, ABORT and, for old clients, EXPORT_NAME; then simple replies, in any order. Structured replies and block status are
//! refused as not supported, which every client takes.
//!
//! - **Names**: [`name`]. Volumes and branches are listed; recovery points are only opened, as there may be ten thousands.
//! - **Others than this machine** are served with TLS alone ([`Admission`]): they see and get what the certificate that they
//!   show may have, and lose it soon after it may no longer. On this machine, who can open the socket may have everything, and
//!   TLS is refused as not supported.
//! - **Durability**: a write is answered when the engine has acknowledged it; FLUSH, and FUA on a write, a trim or a write of
//!   zeroes, wait for the same shared sync as fsync does in the mount. A flush covers what other connections were
//!   acknowledged, so that clients may use several (CAN_MULTI_CONN).
//! - **Bounds**: connections, requests and bytes in flight, of each connection and of all; a client that stops in the middle
//!   of a request, or takes no replies, is cut off after [`NbdOptions::stall_for`].
//! - **A volume that goes away** answers ESHUTDOWN, and the connection ends after the replies that are under way. When the
//!   gateway stops, connections are drained and closed without such an answer: a client that reconnects goes on later.
//! - **A volume that is declared but not open yet** (the gateway has just started) holds the negotiation for
//!   [`NbdOptions::wait_for_volume`], then is refused; QEMU's `reconnect-delay` tries again after that too.
//!
//! Nothing here outlives the process. A connection that is cut leaves nothing but writes that were not answered: each is
//! there whole by blocks, or not.

mod guest;
mod listener;
pub mod name;
mod session;
mod transmission;
pub mod wire;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;

pub use guest::{Admission, Admitted};
pub use listener::{NbdListener, bind_unix};

use crate::tree::ExportTree;

/// Connections at a time; more wait in the kernel's queue. A recovery site has one for each disk of each machine.
const CONNECTIONS_MAX: usize = 1024;
/// Clients that have taken no export yet, of others than this machine. One more, and who has been at it for longest is shown the
/// door: strangers keep nobody out.
const STRANGERS_MAX: usize = 64;
/// Data of requests under way, for all connections, in units of [`BYTES_UNIT`].
const UNITS_MAX: usize = 256 << 10;
/// What bytes under way are counted in.
const BYTES_UNIT: u32 = 1 << 10;

/// Settings of the NBD server. [`Default`] gives what a gateway needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NbdOptions {
    /// How long a request waits, trying again, while the engine answers `Retry` (vault unreachable, cache full); then EIO.
    pub retry_for: Duration,
    /// How long a negotiation waits for a volume that is declared but not open yet.
    pub wait_for_volume: Duration,
    /// How long a whole negotiation may take, waiting included.
    pub negotiate_within: Duration,
    /// How long a client may send nothing of a write that it has begun, or take nothing of the replies to it.
    pub stall_for: Duration,
    /// How long requests under way get when the server stops.
    pub drain_for: Duration,
}

impl Default for NbdOptions {
    fn default() -> Self {
        Self {
            retry_for: Duration::from_secs(30),
            wait_for_volume: Duration::from_secs(10),
            negotiate_within: Duration::from_secs(60),
            stall_for: Duration::from_secs(60),
            drain_for: Duration::from_secs(5),
        }
    }
}

/// A server over a tree; it may listen in several places at once.
pub struct NbdServer {
    tree: Arc<dyn ExportTree>,
    options: NbdOptions,
    connections: Arc<Semaphore>,
    units: Arc<Semaphore>,
    /// Who else than this machine may come: everybody who comes is asked.
    admission: Option<Arc<dyn Admission>>,
}

impl std::fmt::Debug for NbdServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NbdServer").field("options", &self.options).finish_non_exhaustive()
    }
}

impl NbdServer {
    /// A server that nobody uses yet.
    #[must_use]
    pub fn new(tree: Arc<dyn ExportTree>, options: NbdOptions) -> Self {
        Self {
            tree,
            options,
            connections: Arc::new(Semaphore::new(CONNECTIONS_MAX)),
            units: Arc::new(Semaphore::new(UNITS_MAX)),
            admission: None,
        }
    }
}

/// How many units so many bytes take; at least one, so that nothing is free.
fn units(bytes: u32) -> u32 {
    bytes.div_ceil(BYTES_UNIT).max(1)
}
