//! Keeps children from inheriting the mount's connection to the kernel: the crate's only unsafe code.
//!
//! `fuse3` receives its `/dev/fuse` descriptor without close-on-exec. A child that the gateway starts later (a hook, QEMU)
//! would hold it open; after a SIGKILL of the gateway the kernel would then wait for that child to serve the mount, and every
//! process that touches it would hang instead of getting ENOTCONN, and the next gateway could not replace the mount.

use std::os::fd::BorrowedFd;
use std::path::Path;

use rustix::io::{FdFlags, fcntl_getfd, fcntl_setfd};

/// Sets close-on-exec on every descriptor of this process that is open on `/dev/fuse`, and returns how many lacked it.
///
/// # Errors
/// When /proc/self/fd can't be read.
pub(crate) fn close_fuse_on_exec() -> std::io::Result<usize> {
    let mut changed = 0;
    for entry in std::fs::read_dir("/proc/self/fd")? {
        let entry = entry?;
        // A descriptor may be closed while we read: then there is nothing to keep.
        let Ok(target) = std::fs::read_link(entry.path()) else { continue };
        let Some(fd) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        if target != Path::new("/dev/fuse") {
            continue;
        }
        #[allow(unsafe_code, reason = "the descriptor belongs to fuse3, which gives no access to it")]
        // SAFETY: the number comes from /proc/self/fd and is not negative, so it isn't -1. The borrow lasts for two fcntl
        // calls, which neither close nor keep it. Should another thread close it meanwhile, they answer EBADF, or set
        // close-on-exec on what took the number, as every descriptor opened by Rust's library has it anyway.
        let fd = unsafe { BorrowedFd::borrow_raw(fd) };
        let Ok(flags) = fcntl_getfd(fd) else { continue };
        if !flags.contains(FdFlags::CLOEXEC) && fcntl_setfd(fd, flags | FdFlags::CLOEXEC).is_ok() {
            changed += 1;
        }
    }
    Ok(changed)
}
