//! The file system: what each request of the kernel means for a volume. It knows errno, inodes and handles; it knows nothing
//! of `/dev/fuse`, so that it is tested without a mount.
//!
//! - A volume file has a fixed size. A write that starts at or past the end gets EFBIG (not ENOSPC, which means that the
//!   gateway's disk is full and needs a person); one that crosses the end is cut short, as on a block device. Truncating
//!   to another size, and opening with O_TRUNC, get EPERM: taking them for a no-op as a block device does would leave old
//!   bytes where `cp` of a sparse file expects zeroes. Use `dd conv=notrunc` or `qemu-img convert -n`.
//! - Volumes and branches bypass the page cache, so that what is acknowledged is what the engine acknowledged; points are
//!   immutable and use it.
//! - `Retry` from the engine is waited for, up to [`MountOptions::retry_for`]; a mount that is being taken down stops waiting.
//! - A volume that goes away while it is open keeps its attributes, and its I/O gets ESTALE.
//!
//! Nothing here outlives the process: after a crash the mount is replaced by a new, empty one. A request that is dropped
//! half-way (the session ended) leaves at most a handle, which goes with the file system.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use bytes::Bytes;
use lifeboat_engine::{BlockVolume, EngineError, ErrorKind};
use lifeboat_model::Timestamp;

use crate::errno::{Errno, Named};
use crate::inode::{self, Inodes, Node};
use crate::options::MountOptions;
use crate::tree::{Dir, ExportTree, FILE_SUFFIX, File, Space};
use crate::trouble::{Logged, Patience, report};

/// Attributes of a file or directory, as the kernel needs them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attr {
    /// Inode number.
    pub inode: u64,
    /// Whether it is a directory.
    pub is_dir: bool,
    /// Size in bytes; 0 for a directory.
    pub size_bytes: u64,
    /// Permission bits.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Modification time.
    pub modified: Timestamp,
    /// How long the kernel may believe this.
    pub ttl: Duration,
}

/// Changes asked of an inode; times are ignored and not listed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// New size in bytes.
    pub size_bytes: Option<u64>,
    /// New permission bits.
    pub mode: Option<u32>,
    /// New owner.
    pub uid: Option<u32>,
    /// New group.
    pub gid: Option<u32>,
}

/// An opened file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opened {
    /// The handle.
    pub handle: u64,
    /// Whether the kernel may keep the file's pages, also from an earlier open; otherwise every read and write comes here.
    pub cached: bool,
}

/// One name in a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedName {
    /// The name, with its suffix.
    pub name: String,
    /// The number shown for it.
    pub inode: u64,
    /// Whether it is a directory.
    pub is_dir: bool,
}

#[derive(Debug)]
struct OpenFile {
    inode: u64,
    file: File,
    volume: Arc<dyn BlockVolume>,
    writable: bool,
    logged: Logged,
}

/// The file system over a tree.
pub struct ExportFs {
    tree: Arc<dyn ExportTree>,
    options: MountOptions,
    uid: u32,
    gid: u32,
    started: Timestamp,
    inodes: Mutex<Inodes>,
    files: RwLock<HashMap<u64, Arc<OpenFile>>>,
    listings: Mutex<HashMap<u64, Arc<[ListedName]>>>,
    next_handle: AtomicU64,
    patience: Patience,
}

impl std::fmt::Debug for ExportFs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ExportFs").field("options", &self.options).finish_non_exhaustive()
    }
}

impl ExportFs {
    /// A file system that nobody uses yet.
    #[must_use]
    pub fn new(tree: Arc<dyn ExportTree>, options: MountOptions) -> Self {
        let patience = Patience::new(options.retry_for);
        Self {
            uid: options.uid.unwrap_or_else(|| rustix::process::geteuid().as_raw()),
            gid: options.gid.unwrap_or_else(|| rustix::process::getegid().as_raw()),
            tree,
            options,
            started: Timestamp::now(),
            inodes: Mutex::default(),
            files: RwLock::default(),
            listings: Mutex::default(),
            next_handle: AtomicU64::new(1),
            patience,
        }
    }

    /// The entry `name` of a directory; the kernel holds one more reference to its inode.
    ///
    /// # Errors
    /// ENOENT when there is no such name; ESTALE when the directory has gone.
    pub async fn lookup(&self, parent: u64, name: &OsStr) -> Result<Attr, Errno> {
        let dir = self.dir(parent)?;
        let node = name.to_str().and_then(|name| Node::child(&dir, name)).ok_or(Errno::ENOENT)?;
        let (identity, mut attr) = self.stat(&node, Named::ByName).await?;
        attr.inode = lock(&self.inodes).enter(&node, identity);
        Ok(attr)
    }

    /// The kernel dropped `lookups` references to an inode.
    pub fn forget(&self, inode: u64, lookups: u64) {
        lock(&self.inodes).forget(inode, lookups);
    }

    /// Attributes of an inode. A volume that was removed keeps its attributes while it is open.
    ///
    /// # Errors
    /// ESTALE when it has gone, or when another volume has taken its name.
    pub async fn getattr(&self, inode: u64) -> Result<Attr, Errno> {
        let (node, known) = self.node(inode)?;
        let gone = match self.stat(&node, Named::ByInode).await {
            Ok((identity, attr)) if identity == known => return Ok(Attr { inode, ..attr }),
            Ok(_) => Errno::ESTALE,
            Err(errno) => errno,
        };
        let open = self.files().values().find(|open| open.inode == inode).cloned();
        match open {
            Some(open) if gone == Errno::ESTALE => {
                Ok(self.file_attr(inode, &node, open.volume.size_bytes(), open.volume.read_only(), None))
            }
            _ => Err(gone),
        }
    }

    /// Changes attributes: only what changes nothing is allowed. Times are ignored.
    ///
    /// # Errors
    /// EPERM for another size, mode or owner; EROFS for the size of a read-only file; EISDIR for the size of a directory.
    pub async fn setattr(&self, inode: u64, change: Change) -> Result<Attr, Errno> {
        let attr = self.getattr(inode).await?;
        if let Some(size) = change.size_bytes {
            if attr.is_dir {
                return Err(Errno::EISDIR);
            }
            if attr.mode & 0o222 == 0 {
                return Err(Errno::EROFS);
            }
            if size != attr.size_bytes {
                return Err(Errno::EPERM);
            }
        }
        let same_mode = change.mode.is_none_or(|mode| mode & 0o7777 == u32::from(attr.mode));
        let same_owner = change.uid.is_none_or(|uid| uid == attr.uid) && change.gid.is_none_or(|gid| gid == attr.gid);
        if same_mode && same_owner { Ok(attr) } else { Err(Errno::EPERM) }
    }

    /// Opens a file with open(2)'s flags.
    ///
    /// # Errors
    /// EROFS for writing a read-only file, EPERM with O_TRUNC, EISDIR, ESTALE when it has gone.
    pub async fn open(&self, inode: u64, flags: i32) -> Result<Opened, Errno> {
        let (node, _) = self.node(inode)?;
        let cached = node.is_point();
        let Node::File(file) = node else { return Err(Errno::EISDIR) };
        let writable = flags & libc::O_ACCMODE != libc::O_RDONLY;
        if cached && writable {
            return Err(Errno::EROFS);
        }
        let volume = self
            .patience
            .retry(|| self.tree.open(&file))
            .await
            .map_err(|error| report(&file, &error, None, Named::ByInode))?;
        if writable && volume.read_only() {
            return Err(Errno::EROFS);
        }
        if flags & libc::O_TRUNC != 0 {
            return Err(Errno::EPERM);
        }
        let handle = self.next_handle();
        let open = Arc::new(OpenFile { inode, file, volume, writable, logged: Logged::default() });
        self.files.write().unwrap_or_else(PoisonError::into_inner).insert(handle, open);
        Ok(Opened { handle, cached })
    }

    /// The last close of a handle.
    pub fn release(&self, handle: u64) {
        self.files.write().unwrap_or_else(PoisonError::into_inner).remove(&handle);
    }

    /// Reads `len` bytes at `offset`; fewer only at the end of the volume.
    ///
    /// # Errors
    /// EBADF, EIO, ESTALE as [`crate::errno`] says.
    pub async fn read(&self, handle: u64, offset: u64, len: u32) -> Result<Bytes, Errno> {
        let open = self.file(handle)?;
        let left = open.volume.size_bytes().saturating_sub(offset);
        let len = u32::try_from(left).map_or(len, |left| len.min(left));
        if len == 0 {
            return Ok(Bytes::new());
        }
        let data = self.patience.retry(|| open.volume.read(offset, len)).await.map_err(|error| open.report(&error))?;
        if data.len() == len as usize {
            return Ok(data);
        }
        // A short read would reach the page cache as zeroes.
        let message = format!("the volume answered {} bytes of {len} at {offset}", data.len());
        Err(open.report(&EngineError::new(ErrorKind::Damaged, message)))
    }

    /// Writes `data` at `offset` and returns how many bytes were taken: fewer when it crosses the end of the volume.
    /// `flags` are those of the open file, with O_DSYNC or O_SYNC also when this one write asked for it (RWF_DSYNC): with
    /// direct I/O the kernel sends no fsync after such a write, so that the flush is ours to do before we answer.
    ///
    /// # Errors
    /// EFBIG when it starts at or past the end; EBADF, EROFS, ENOSPC, EIO, ESTALE as [`crate::errno`] says.
    pub async fn write(&self, handle: u64, offset: u64, data: Bytes, flags: i32) -> Result<usize, Errno> {
        let open = self.writable(handle)?;
        let left = open.volume.size_bytes().saturating_sub(offset);
        if left == 0 {
            return if data.is_empty() { Ok(0) } else { Err(Errno::EFBIG) };
        }
        let len = usize::try_from(left).map_or(data.len(), |left| data.len().min(left));
        if len == 0 {
            return Ok(0);
        }
        let data = data.slice(..len);
        self.patience.retry(|| open.volume.write(offset, data.clone())).await.map_err(|error| open.report(&error))?;
        // O_SYNC contains the bit of O_DSYNC.
        if flags & libc::O_DSYNC != 0 {
            self.patience.retry(|| open.volume.flush()).await.map_err(|error| open.report(&error))?;
        }
        Ok(len)
    }

    /// Waits until every write acknowledged so far survives the loss of power.
    ///
    /// # Errors
    /// EIO when the journal's disk failed; ESTALE when the volume has gone.
    pub async fn fsync(&self, handle: u64) -> Result<(), Errno> {
        let open = self.file(handle)?;
        if matches!(open.file, File::Point { .. }) {
            return Ok(());
        }
        self.patience.retry(|| open.volume.flush()).await.map_err(|error| open.report(&error))
    }

    /// fallocate(2): punching a hole and zeroing a range make zeroes; plain allocation inside the volume does nothing, as
    /// space is accounted for elsewhere.
    ///
    /// # Errors
    /// EFBIG when the file would have to grow, EOPNOTSUPP for modes that move bytes, EINVAL for a length of 0.
    pub async fn fallocate(&self, handle: u64, offset: u64, len: u64, mode: i32) -> Result<(), Errno> {
        const KNOWN: i32 = libc::FALLOC_FL_KEEP_SIZE | libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_ZERO_RANGE;
        let open = self.writable(handle)?;
        if mode & !KNOWN != 0 {
            return Err(Errno::EOPNOTSUPP);
        }
        let end = offset.checked_add(len).ok_or(Errno::EFBIG)?;
        if len == 0 {
            return Err(Errno::EINVAL);
        }
        let size = open.volume.size_bytes();
        let trim = mode & libc::FALLOC_FL_PUNCH_HOLE != 0;
        let zero = trim || mode & libc::FALLOC_FL_ZERO_RANGE != 0;
        // Zeroing past the end without growing is allowed and does nothing there; everything else past it would grow the file.
        if end > size && !(zero && (trim || mode & libc::FALLOC_FL_KEEP_SIZE != 0)) {
            return Err(Errno::EFBIG);
        }
        let len = end.min(size).saturating_sub(offset);
        if !zero || len == 0 {
            return if open.volume.read_only() { Err(Errno::EROFS) } else { Ok(()) };
        }
        self.patience.retry(|| open.volume.zero(offset, len, trim)).await.map_err(|error| open.report(&error))
    }

    /// Opens a directory and reads all its names.
    ///
    /// # Errors
    /// ENOTDIR, ESTALE when it has gone.
    pub async fn opendir(&self, inode: u64) -> Result<u64, Errno> {
        let dir = self.dir(inode)?;
        let names = match dir {
            Dir::Root => ["volumes", "points", "branches"].map(str::to_owned).to_vec(),
            _ => self
                .patience
                .retry(|| self.tree.list(&dir))
                .await
                .map_err(|error| report(&dir, &error, None, Named::ByInode))?,
        };
        let suffix = if inode::holds_files(&dir) { FILE_SUFFIX } else { "" };
        let mut listing: Vec<ListedName> = names
            .into_iter()
            .filter_map(|name| {
                let name = name + suffix;
                let Some(node) = Node::child(&dir, &name) else {
                    tracing::warn!(%dir, name, "left out of the mount: not a file name");
                    return None;
                };
                Some(ListedName { name, inode: inode::number_in_listing(&node), is_dir: matches!(node, Node::Dir(_)) })
            })
            .collect();
        listing.sort_by(|a, b| a.name.cmp(&b.name));
        let handle = self.next_handle();
        lock(&self.listings).insert(handle, listing.into());
        Ok(handle)
    }

    /// The names of an opened directory, sorted, without `.` and `..`.
    ///
    /// # Errors
    /// EBADF.
    pub fn readdir(&self, handle: u64) -> Result<Arc<[ListedName]>, Errno> {
        lock(&self.listings).get(&handle).cloned().ok_or(Errno::EBADF)
    }

    /// Closes a directory.
    pub fn releasedir(&self, handle: u64) {
        lock(&self.listings).remove(&handle);
    }

    /// Why a name can't be made, removed or renamed in a directory: volumes come and go by configuration only.
    #[must_use]
    pub fn refuse_change(&self, parent: u64) -> Errno {
        match self.dir(parent) {
            Ok(Dir::Points | Dir::PointGroup { .. } | Dir::Point { .. }) => Errno::EROFS,
            Ok(_) => Errno::EPERM,
            Err(errno) => errno,
        }
    }

    /// What `df` shows.
    #[must_use]
    pub fn space(&self) -> Space {
        self.tree.space()
    }

    /// How many files are open.
    #[must_use]
    pub fn open_files(&self) -> usize {
        self.files().len()
    }

    /// Ends every wait for a retry: the mount is being taken down.
    pub fn close(&self) {
        self.patience.end();
    }

    /// Flushes every file that is open for writing, and returns how many could not be.
    pub async fn flush_open_files(&self) -> usize {
        let open: Vec<_> = self.files().values().filter(|open| open.writable).cloned().collect();
        let mut failed = 0;
        for open in open {
            if let Err(error) = open.volume.flush().await {
                open.report(&error);
                failed += 1;
            }
        }
        failed
    }

    /// How many inodes the kernel references.
    #[must_use]
    pub fn known_inodes(&self) -> usize {
        lock(&self.inodes).count()
    }

    /// Attributes of nothing in particular, for names whose attributes aren't told.
    #[must_use]
    pub fn unknown_attr(&self) -> Attr {
        self.attr(0, &Node::Dir(Dir::Root), None)
    }

    fn next_handle(&self) -> u64 {
        self.next_handle.fetch_add(1, Ordering::Relaxed)
    }

    fn node(&self, inode: u64) -> Result<(Node, [u8; 16]), Errno> {
        lock(&self.inodes).get(inode).ok_or(Errno::ESTALE)
    }

    fn dir(&self, inode: u64) -> Result<Dir, Errno> {
        match self.node(inode)?.0 {
            Node::Dir(dir) => Ok(dir),
            Node::File(_) => Err(Errno::ENOTDIR),
        }
    }

    fn files(&self) -> std::sync::RwLockReadGuard<'_, HashMap<u64, Arc<OpenFile>>> {
        self.files.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn file(&self, handle: u64) -> Result<Arc<OpenFile>, Errno> {
        self.files().get(&handle).cloned().ok_or(Errno::EBADF)
    }

    fn writable(&self, handle: u64) -> Result<Arc<OpenFile>, Errno> {
        self.file(handle).and_then(|open| if open.writable { Ok(open) } else { Err(Errno::EBADF) })
    }

    /// Identity and attributes (inode 0) of a node.
    async fn stat(&self, node: &Node, named: Named) -> Result<([u8; 16], Attr), Errno> {
        match node {
            Node::Dir(dir @ (Dir::PointGroup { .. } | Dir::Point { .. } | Dir::Branch { .. })) => {
                let stat = self.patience.retry(|| self.tree.stat_dir(dir)).await;
                let stat = stat.map_err(|error| report(dir, &error, None, named))?;
                Ok((stat.identity, self.dir_attr(node, stat.modified)))
            }
            Node::Dir(_) => Ok(([0; 16], self.dir_attr(node, None))),
            Node::File(file) => {
                let stat = self.patience.retry(|| self.tree.stat_file(file)).await;
                let stat = stat.map_err(|error| report(file, &error, None, named))?;
                Ok((stat.identity, self.file_attr(0, node, stat.size_bytes, stat.read_only, stat.modified)))
            }
        }
    }

    fn dir_attr(&self, node: &Node, modified: Option<Timestamp>) -> Attr {
        // Whoever may read a file has to get to it.
        let search = (self.options.file_mode & 0o444) >> 2;
        Attr { is_dir: true, mode: 0o500 | (self.options.file_mode & 0o444) | search, ..self.attr(0, node, modified) }
    }

    fn file_attr(
        &self,
        inode: u64,
        node: &Node,
        size_bytes: u64,
        read_only: bool,
        modified: Option<Timestamp>,
    ) -> Attr {
        let write = if read_only || node.is_point() { 0 } else { 0o222 };
        Attr { size_bytes, mode: self.options.file_mode & (0o444 | write), ..self.attr(inode, node, modified) }
    }

    fn attr(&self, inode: u64, node: &Node, modified: Option<Timestamp>) -> Attr {
        Attr {
            inode,
            is_dir: false,
            size_bytes: 0,
            mode: 0,
            uid: self.uid,
            gid: self.gid,
            modified: modified.unwrap_or(self.started),
            ttl: if node.is_point() { self.options.point_ttl } else { self.options.volume_ttl },
        }
    }
}

impl OpenFile {
    fn report(&self, error: &EngineError) -> Errno {
        report(&self.file, error, Some(&self.logged), Named::ByInode)
    }
}

/// The tables stay whole when a task panics between two of their operations.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
