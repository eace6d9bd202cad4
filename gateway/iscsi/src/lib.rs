//! Volumes over iSCSI: the kernel's target (LIO) over the files of the mount, set up by a helper with the rights for that.
//!
//! ```text
//! gateway (no rights) ── line: all targets, then a report ──> helper (root) ──configfs──> kernel: target, port 3260
//!        └──────── mount: volumes/NAME.img <───────── reads and writes, by the kernel ────────────┘
//! ```
//! The gateway says each time which targets there are to be, all of them; the helper makes the kernel have these and no others of
//! ours ([`lio`]). It takes names of volumes and never paths: files are those of one mount, and have to lie on FUSE. When the line
//! ends, for whatever reason, every target goes: initiators then hold their requests until one of that name is back, whereas a
//! target whose file's server has died would answer them with errors.
//!
//! Nothing is kept on disk. What a helper that was killed leaves in the kernel is removed when the next one starts.

pub mod helper;
mod line;
pub mod lio;
mod order;

pub use line::{Line, LineError};
pub use order::{MESSAGE_BYTES_MAX, Order, Report, Target, TargetReport, serial, target_name};
