//! What stands in front of the engine: volumes, recovery points and branches as files of a FUSE mount, and as exports of an
//! NBD server.
//!
//! ```text
//! application ─> kernel ─> fuse (shell) ─> fs (what a request means) ─┬─> engine's BlockVolume
//! QEMU, nbdcopy ─────────> nbd (negotiation, transmission) ───────────┤
//!                                                                     └─> tree (the server's names)
//! mount: start, replace a dead one, unmount
//! ```
//! The only place that knows errno and kernel requests. It never knows groups, vaults or policies: the server lends it an
//! [`ExportTree`].

mod device;
pub mod errno;
pub mod fs;
mod fuse;
pub mod inode;
mod mount;
mod mountinfo;
pub mod nbd;
mod options;
mod tree;
mod trouble;

pub use mount::{Mount, MountError, Unmounted};
pub use options::MountOptions;
pub use tree::{Dir, DirStat, ExportTree, FILE_SUFFIX, File, FileStat, NAME_BYTES_MAX, Space};
pub use trouble::failed_requests;

#[cfg(test)]
extern crate self as lifeboat_export;
