//! The FUSE shell: turns `fuser`'s requests into calls of [`ExportFs`], and its answers into replies. It decides nothing but
//! the protocol's settings.
//!
//! - Some threads read requests, each from its own copy of the connection, and begin to serve them at once. A request that
//!   has to wait (for the journal, the disk, the vault) goes on as a task and is answered from there. For the local disk a thread
//!   waits itself as long as another one is there for the next request: on a fast disk, waking two others takes longer than that.
//! - `max_write` 1 MiB and 64 requests in the background.
//! - Volume files are opened `DIRECT_IO | PARALLEL_DIRECT_WRITES`: without the second the kernel lets one write at a time
//!   into a file. MAP_SHARED on them fails with ENODEV.
//! - Point files are opened `KEEP_CACHE`.
//! - `flush` (close), `lseek` and `access` answer ENOSYS once: the kernel then no longer asks. Nothing is held back on a close,
//!   there are no holes to report, and `default_permissions` checks access.
//! - Listings give names without attributes, so that listing opens no recovery point, and the kernel takes no references that
//!   it might drop unseen.
//! - Once the [`Gate`] is closed, every request gets ENOTCONN, as if nobody served the mount.

use std::ffi::OsStr;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Waker};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use fuser::{
    AccessFlags, BsdFileFlags, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, InitFlags,
    KernelConfig, LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyEmpty,
    ReplyEntry, ReplyLseek, ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};
use futures::FutureExt;
use tokio::runtime::Handle;
use tokio_util::task::TaskTracker;

use crate::errno::Errno;
use crate::fs::{Attr, Change, ExportFs};
use crate::tree::NAME_BYTES_MAX;

/// The largest write that the kernel sends at once, in bytes; also the largest read.
const WRITE_BYTES_MAX: u32 = 1 << 20;
const BACKGROUND_MAX: u16 = 64;
const CONGESTION_AT: u16 = 48;
/// Unit of `st_blksize` and of `df`.
const BLOCK_BYTES: u32 = 4096;
/// What we ask of the kernel besides what is asked always, where it can: asynchronous direct I/O, parallel lookups, O_TRUNC
/// as part of an open, and dropping cached pages when a file's time or size changes.
const WANTED: [InitFlags; 4] = [
    InitFlags::FUSE_ASYNC_DIO,
    InitFlags::FUSE_PARALLEL_DIROPS,
    InitFlags::FUSE_ATOMIC_O_TRUNC,
    InitFlags::FUSE_AUTO_INVAL_DATA,
];

/// Lets requests in, and knows which are under way.
#[derive(Clone, Debug, Default)]
pub(crate) struct Gate(TaskTracker);

impl Gate {
    /// No request gets in any more.
    pub(crate) fn close(&self) {
        self.0.close();
    }

    /// Waits for those that got in. To be called when it is closed.
    pub(crate) async fn emptied(&self) {
        self.0.wait().await;
    }
}

/// What the session calls.
#[derive(Debug)]
pub(crate) struct Shell {
    fs: Arc<ExportFs>,
    gate: Gate,
    runtime: Handle,
    /// Threads that read requests, and those of them that are serving one.
    readers: usize,
    serving: AtomicUsize,
}

impl Shell {
    pub(crate) const fn new(fs: Arc<ExportFs>, gate: Gate, runtime: Handle, readers: usize) -> Self {
        Self { fs, gate, runtime, readers, serving: AtomicUsize::new(0) }
    }

    /// Serves one request: here as far as it goes without waiting, then as a task.
    fn serve<R, F, A>(&self, reply: R, work: F)
    where
        R: Refuse,
        F: FnOnce(Arc<ExportFs>, R) -> A,
        A: Future<Output = ()> + Send + 'static,
    {
        if self.gate.0.is_closed() {
            return reply.refuse(libc::ENOTCONN);
        }
        let request = self.gate.0.track_future(work(Arc::clone(&self.fs), reply));
        // A panic drops the reply, which answers EIO; the thread has other requests to read.
        let mut request = Box::pin(AssertUnwindSafe(request).catch_unwind());
        let _context = self.runtime.enter();
        let mut begin = || request.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        // As long as another thread is there for the next request, this one may wait for the disk itself.
        let alone = self.serving.fetch_add(1, Ordering::AcqRel) + 1 >= self.readers;
        let begun = if alone { begin() } else { lifeboat_engine::blocking::may_wait(begin) };
        self.serving.fetch_sub(1, Ordering::AcqRel);
        if begun.is_pending() {
            self.runtime.spawn(request);
        }
    }

    /// Refuses what would change a directory.
    fn refuse_change<R: Refuse>(&self, parent: INodeNo, reply: R) {
        reply.refuse(self.fs.refuse_change(parent.0).code());
    }
}

/// Any reply can be an error.
trait Refuse: Send + 'static {
    fn refuse(self, errno: i32);
}

macro_rules! refuse {
    ($($reply:ty),*) => {
        $(impl Refuse for $reply {
            fn refuse(self, errno: i32) {
                self.error(fuser::Errno::from_i32(errno));
            }
        })*
    };
}

refuse!(ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyStatfs, ReplyWrite);

/// Answers with what came out.
fn answer<R: Refuse, T>(reply: R, outcome: Result<T, Errno>, good: impl FnOnce(R, T)) {
    match outcome {
        Ok(value) => good(reply, value),
        Err(errno) => reply.refuse(errno.code()),
    }
}

fn attr(attr: Attr) -> FileAttr {
    let micros = attr.modified.as_micros();
    let age = Duration::from_micros(micros.unsigned_abs());
    let time = if micros < 0 { SystemTime::UNIX_EPOCH - age } else { SystemTime::UNIX_EPOCH + age };
    FileAttr {
        ino: INodeNo(attr.inode),
        size: attr.size_bytes,
        blocks: attr.size_bytes.div_ceil(512),
        atime: time,
        mtime: time,
        ctime: time,
        crtime: time,
        kind: kind(attr.is_dir),
        perm: attr.mode,
        nlink: if attr.is_dir { 2 } else { 1 },
        uid: attr.uid,
        gid: attr.gid,
        rdev: 0,
        blksize: BLOCK_BYTES,
        flags: 0,
    }
}

const fn kind(is_dir: bool) -> FileType {
    if is_dir { FileType::Directory } else { FileType::RegularFile }
}

impl Filesystem for Shell {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        // None of them can be out of range, and a kernel that lacks something does without.
        let _ = config.set_max_write(WRITE_BYTES_MAX);
        let _ = config.set_max_background(BACKGROUND_MAX);
        let _ = config.set_congestion_threshold(CONGESTION_AT);
        for flag in WANTED {
            let _ = config.add_capabilities(flag);
        }
        Ok(())
    }

    fn destroy(&mut self) {
        self.fs.close();
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let name = name.to_owned();
        self.serve(reply, |fs, reply| async move {
            answer(reply, fs.lookup(parent.0, &name).await, |reply, found| {
                reply.entry(&found.ttl, &attr(found), Generation(0));
            });
        });
    }

    fn forget(&self, _: &Request, ino: INodeNo, nlookup: u64) {
        self.fs.forget(ino.0, nlookup);
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        self.serve(reply, |fs, reply| async move {
            answer(reply, fs.getattr(ino.0).await, |reply, found| reply.attr(&found.ttl, &attr(found)));
        });
    }

    fn setattr(
        &self,
        _: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        _: Option<TimeOrNow>,
        _: Option<TimeOrNow>,
        _: Option<SystemTime>,
        _: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let change = Change { size_bytes: size, mode, uid, gid };
        self.serve(reply, |fs, reply| async move {
            answer(reply, fs.setattr(ino.0, change).await, |reply, found| reply.attr(&found.ttl, &attr(found)));
        });
    }

    fn open(&self, _: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        self.serve(reply, |fs, reply| async move {
            answer(reply, fs.open(ino.0, flags.0).await, |reply, opened| {
                let flags = if opened.cached {
                    FopenFlags::FOPEN_KEEP_CACHE
                } else {
                    FopenFlags::FOPEN_DIRECT_IO | FopenFlags::FOPEN_PARALLEL_DIRECT_WRITES
                };
                reply.opened(FileHandle(opened.handle), flags);
            });
        });
    }

    fn release(
        &self,
        _: &Request,
        _: INodeNo,
        fh: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        self.fs.release(fh.0);
        reply.ok();
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        self.serve(reply, |fs, reply| async move {
            answer(reply, fs.read(fh.0, offset, size).await, |reply, data| reply.data(&data));
        });
    }

    fn write(
        &self,
        _: &Request,
        _: INodeNo,
        fh: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        flags: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        // The one copy on our side: the buffer takes the thread's next request.
        let data = Bytes::copy_from_slice(data);
        self.serve(reply, |fs, reply| async move {
            let written = fs.write(fh.0, offset, data, flags.0).await;
            let written = written.and_then(|written| u32::try_from(written).map_err(|_| Errno::EIO));
            answer(reply, written, ReplyWrite::written);
        });
    }

    fn fsync(&self, _: &Request, _: INodeNo, fh: FileHandle, _: bool, reply: ReplyEmpty) {
        self.serve(reply, |fs, reply| async move {
            answer(reply, fs.fsync(fh.0).await, |reply, ()| reply.ok());
        });
    }

    fn fsyncdir(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        reply.ok();
    }

    fn fallocate(
        &self,
        _: &Request,
        _: INodeNo,
        fh: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        self.serve(reply, |fs, reply| async move {
            answer(reply, fs.fallocate(fh.0, offset, length, mode).await, |reply, ()| reply.ok());
        });
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        self.serve(reply, |fs, reply| async move {
            let space = fs.space();
            let unit = u64::from(BLOCK_BYTES);
            let free = space.free_bytes / unit;
            let name_len = u32::try_from(NAME_BYTES_MAX).unwrap_or(u32::MAX);
            reply.statfs(space.total_bytes / unit, free, free, 0, 0, BLOCK_BYTES, name_len, BLOCK_BYTES);
        });
    }

    fn opendir(&self, _: &Request, ino: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        self.serve(reply, |fs, reply| async move {
            answer(reply, fs.opendir(ino.0).await, |reply, handle| {
                reply.opened(FileHandle(handle), FopenFlags::empty());
            });
        });
    }

    /// The position after an entry is its index plus one, `.` and `..` first.
    fn readdir(&self, _: &Request, parent: INodeNo, fh: FileHandle, offset: u64, reply: ReplyDirectory) {
        self.serve(reply, |fs, reply| async move {
            answer(reply, fs.readdir(fh.0), |mut reply, listing| {
                let dots = [".", ".."].map(|name| (parent.0, true, name));
                let names = listing.iter().map(|listed| (listed.inode, listed.is_dir, listed.name.as_str()));
                let first = usize::try_from(offset).unwrap_or(usize::MAX);
                for ((inode, is_dir, name), next) in dots.into_iter().chain(names).zip(1_u64..).skip(first) {
                    if reply.add(INodeNo(inode), next, kind(is_dir), name) {
                        break;
                    }
                }
                reply.ok();
            });
        });
    }

    fn releasedir(&self, _: &Request, _: INodeNo, fh: FileHandle, _: OpenFlags, reply: ReplyEmpty) {
        self.fs.releasedir(fh.0);
        reply.ok();
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.refuse(libc::ENOSYS);
    }

    fn lseek(&self, _: &Request, _: INodeNo, _: FileHandle, _: i64, _: i32, reply: ReplyLseek) {
        reply.error(fuser::Errno::ENOSYS);
    }

    fn access(&self, _: &Request, _: INodeNo, _: AccessFlags, reply: ReplyEmpty) {
        reply.refuse(libc::ENOSYS);
    }

    fn getxattr(&self, _: &Request, _: INodeNo, _: &OsStr, _: u32, reply: ReplyXattr) {
        reply.error(fuser::Errno::ENOSYS);
    }

    fn listxattr(&self, _: &Request, _: INodeNo, _: u32, reply: ReplyXattr) {
        reply.error(fuser::Errno::ENOSYS);
    }

    fn create(&self, _: &Request, parent: INodeNo, _: &OsStr, _: u32, _: u32, _: i32, reply: ReplyCreate) {
        self.refuse_change(parent, reply);
    }

    fn mknod(&self, _: &Request, parent: INodeNo, _: &OsStr, _: u32, _: u32, _: u32, reply: ReplyEntry) {
        self.refuse_change(parent, reply);
    }

    fn mkdir(&self, _: &Request, parent: INodeNo, _: &OsStr, _: u32, _: u32, reply: ReplyEntry) {
        self.refuse_change(parent, reply);
    }

    fn symlink(&self, _: &Request, parent: INodeNo, _: &OsStr, _: &Path, reply: ReplyEntry) {
        self.refuse_change(parent, reply);
    }

    fn link(&self, _: &Request, _: INodeNo, parent: INodeNo, _: &OsStr, reply: ReplyEntry) {
        self.refuse_change(parent, reply);
    }

    fn unlink(&self, _: &Request, parent: INodeNo, _: &OsStr, reply: ReplyEmpty) {
        self.refuse_change(parent, reply);
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, _: &OsStr, reply: ReplyEmpty) {
        self.refuse_change(parent, reply);
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        _: &OsStr,
        _: INodeNo,
        _: &OsStr,
        _: RenameFlags,
        reply: ReplyEmpty,
    ) {
        self.refuse_change(parent, reply);
    }
}
