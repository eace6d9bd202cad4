//! The connection to the kernel: opens it, and mounts it at a directory.
//!
//! Root mounts with mount(2); everybody else asks `fusermount3`, which hands the connection over a socket that it gets as its
//! standard input. Either way no child of ours ever inherits it: a process that holds it open would keep a dead gateway's
//! mount waiting for an answer, instead of ENOTCONN, and the next gateway could not replace it.
//!
//! A failure leaves nothing mounted. What this process leaves behind when it is killed is a mount without a server.

use std::ffi::CString;
use std::io::{Error, ErrorKind, IoSliceMut, Read as _, Result};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::MountFlags;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use rustix::process::{getegid, geteuid};

/// Name and subtype of every mount of ours: `lifeboat on DIR type fuse.lifeboat`.
const FS_NAME: &str = "lifeboat";
/// The type of a mount of ours as /proc/self/mountinfo tells it.
pub(crate) const FS_KIND: &str = "fuse.lifeboat";

/// Mounts at `path`, an existing directory, and returns the connection. Blocks, but never on the mount itself.
pub(crate) fn mount(path: &Path, allow_other: bool) -> Result<OwnedFd> {
    let device = rustix::fs::open("/dev/fuse", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    let other = if allow_other { ",allow_other" } else { "" };
    let options = format!(
        "fd={},rootmode=40000,user_id={},group_id={},default_permissions{other}",
        device.as_raw_fd(),
        geteuid().as_raw(),
        getegid().as_raw()
    );
    let options = CString::new(options).map_err(Error::other)?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    match rustix::mount::mount(FS_NAME, path, FS_KIND, flags, options.as_c_str()) {
        Ok(()) => Ok(device),
        Err(Errno::PERM) => by_fusermount(path, allow_other),
        Err(error) => Err(error.into()),
    }
}

fn by_fusermount(path: &Path, allow_other: bool) -> Result<OwnedFd> {
    let (ours, theirs) = UnixStream::pair()?;
    let other = if allow_other { ",allow_other" } else { "" };
    let mut child = Command::new("fusermount3")
        .arg("-o")
        .arg(format!("fsname={FS_NAME},subtype={FS_NAME},default_permissions{other}"))
        .arg("--")
        .arg(path)
        .env("_FUSE_COMMFD", "0")
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .stderr(Stdio::piped())
        .spawn()?;
    let device = receive(&ours);
    drop(ours);
    let mut message = String::new();
    if let Some(mut stderr) = child.stderr.take() {
        stderr.read_to_string(&mut message)?;
    }
    let status = child.wait()?;
    match device? {
        Some(device) if status.success() => Ok(device),
        _ => Err(Error::new(ErrorKind::PermissionDenied, format!("fusermount3: {}", message.trim()))),
    }
}

/// The descriptor that comes over the socket; none when the sender went without sending one.
fn receive(socket: &UnixStream) -> Result<Option<OwnedFd>> {
    let mut byte = [0_u8];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let message = loop {
        match recvmsg(socket, &mut [IoSliceMut::new(&mut byte)], &mut control, RecvFlags::CMSG_CLOEXEC) {
            Err(Errno::INTR) => {}
            message => break message?,
        }
    };
    if message.bytes == 0 {
        return Ok(None);
    }
    Ok(control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    }))
}
