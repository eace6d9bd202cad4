//! Compute: starts and stops machines at a recovery site.
//!
//! Owns what an order for a machine says ([`Order`]), what every driver does with one ([`Driver`]), and the drivers:
//!
//! ```text
//! order     what to start: processors, memory, disks, interfaces; names of runs
//! driver    the interface that every driver keeps, and what each call promises
//! qemu      a QEMU process for each machine on this host, which outlives the gateway
//! script    programs of the administrator's: any hypervisor, any cloud
//! runs      a directory for each run: what was ordered, found again after a restart
//! turns     one call at a time that changes a run
//! error     what a caller does about a failure
//! ```
//! It knows nothing of vaults, groups, plans or the API: a disk is a file or an NBD export of raw bytes, and which one,
//! when and why is the caller's business. Machines outlive the process that started them. After a crash or a restart a
//! new driver over the same directory finds them all, and every call can be repeated: what was done already is found
//! done. A call that is given up (its future dropped) leaves a run that the same call takes further.

mod blocking;
mod driver;
mod error;
mod order;
mod qemu;
mod runs;
mod script;
mod turns;

pub use driver::{Driver, RunState, StopOutcome};
pub use error::{ComputeError, ErrorKind};
pub use order::{Disk, DiskSource, Firmware, Interface, Join, Order, ParseRunIdError, RunId};
pub use qemu::{Acceleration, QemuDriver, QemuSettings, UefiFiles};
pub use script::{ScriptDriver, ScriptLimits};
