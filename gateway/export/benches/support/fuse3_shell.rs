//! The shell around `fuse3` that was the front end before: kept to be measured beside the present one, on the same
//! [`ExportFs`]. Settings and semantics are those of `src/fuse.rs`.

use std::ffi::{OsStr, OsString};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use fuse3::raw::reply::{
    DirectoryEntry, DirectoryEntryPlus, FileAttr, ReplyAttr, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEntry,
    ReplyInit, ReplyOpen, ReplyStatFs, ReplyWrite,
};
use fuse3::raw::{Filesystem, Request};
use fuse3::{FileType, Inode, Result, SetAttr, Timestamp};
use futures::stream::{self, Stream};

use lifeboat_export::NAME_BYTES_MAX;
use lifeboat_export::errno::Errno;
use lifeboat_export::fs::{Attr, Change, ExportFs, ListedName};

/// The largest write that the kernel sends at once, in bytes; also the largest read.
const WRITE_BYTES_MAX: NonZeroU32 = NonZeroU32::new(1 << 20).expect("not zero");
const BACKGROUND_MAX: u16 = 64;
const CONGESTION_AT: u16 = 48;
/// Unit of `st_blksize` and of `df`.
const BLOCK_BYTES: u32 = 4096;

/// Open flags of the protocol, in `include/uapi/linux/fuse.h`.
const FOPEN_DIRECT_IO: u32 = 1 << 0;
const FOPEN_KEEP_CACHE: u32 = 1 << 1;
const FOPEN_PARALLEL_DIRECT_WRITES: u32 = 1 << 6;

/// What the session calls.
#[derive(Debug)]
pub(crate) struct Shell(pub(crate) Arc<ExportFs>);

fn refused(errno: Errno) -> fuse3::Errno {
    errno.code().into()
}

fn attr(attr: Attr) -> FileAttr {
    let micros = attr.modified.as_micros();
    let nsec = u32::try_from(micros.rem_euclid(1_000_000) * 1000).unwrap_or(0);
    let time = Timestamp::new(micros.div_euclid(1_000_000), nsec);
    FileAttr {
        ino: attr.inode,
        size: attr.size_bytes,
        blocks: attr.size_bytes.div_ceil(512),
        atime: time,
        mtime: time,
        ctime: time,
        kind: kind(attr.is_dir),
        perm: attr.mode,
        nlink: if attr.is_dir { 2 } else { 1 },
        uid: attr.uid,
        gid: attr.gid,
        rdev: 0,
        blksize: BLOCK_BYTES,
    }
}

const fn kind(is_dir: bool) -> FileType {
    if is_dir { FileType::Directory } else { FileType::RegularFile }
}

/// The entries of a listing from a position on, with `.` and `..` first, made as they are asked for: a reply takes some
/// hundred of them. The position after an entry is its index plus one.
fn entries(
    parent: Inode,
    listing: Arc<[ListedName]>,
    offset: u64,
) -> impl Iterator<Item = DirectoryEntry> + Send + 'static {
    const DOTS: [&str; 2] = [".", ".."];
    let first = usize::try_from(offset).unwrap_or(usize::MAX);
    (first..listing.len() + DOTS.len()).map(move |index| {
        let (inode, is_dir, name) = match DOTS.get(index) {
            Some(dots) => (parent, true, *dots),
            None => {
                let listed = &listing[index - DOTS.len()];
                (listed.inode, listed.is_dir, listed.name.as_str())
            }
        };
        let offset = i64::try_from(index).map_or(i64::MAX, |index| index + 1);
        DirectoryEntry { inode, kind: kind(is_dir), name: OsString::from(name), offset }
    })
}

impl Filesystem for Shell {
    async fn init(&self, _: Request) -> Result<ReplyInit> {
        let mut reply = ReplyInit::new(WRITE_BYTES_MAX);
        reply.max_background = Some(BACKGROUND_MAX);
        reply.congestion_threshold = Some(CONGESTION_AT);
        Ok(reply)
    }

    async fn destroy(&self, _: Request) {
        self.0.close();
    }

    async fn lookup(&self, _: Request, parent: Inode, name: &OsStr) -> Result<ReplyEntry> {
        let found = self.0.lookup(parent, name).await.map_err(refused)?;
        Ok(ReplyEntry { ttl: found.ttl, attr: attr(found), generation: 0 })
    }

    async fn forget(&self, _: Request, inode: Inode, nlookup: u64) {
        self.0.forget(inode, nlookup);
    }

    async fn batch_forget(&self, _: Request, inodes: &[(Inode, u64)]) {
        for (inode, nlookup) in inodes {
            self.0.forget(*inode, *nlookup);
        }
    }

    async fn getattr(&self, _: Request, inode: Inode, _: Option<u64>, _: u32) -> Result<ReplyAttr> {
        let found = self.0.getattr(inode).await.map_err(refused)?;
        Ok(ReplyAttr { ttl: found.ttl, attr: attr(found) })
    }

    async fn setattr(&self, _: Request, inode: Inode, _: Option<u64>, set: SetAttr) -> Result<ReplyAttr> {
        let change = Change { size_bytes: set.size, mode: set.mode, uid: set.uid, gid: set.gid };
        let found = self.0.setattr(inode, change).await.map_err(refused)?;
        Ok(ReplyAttr { ttl: found.ttl, attr: attr(found) })
    }

    async fn open(&self, _: Request, inode: Inode, flags: u32) -> Result<ReplyOpen> {
        let opened = self.0.open(inode, flags.cast_signed()).await.map_err(refused)?;
        let flags = if opened.cached { FOPEN_KEEP_CACHE } else { FOPEN_DIRECT_IO | FOPEN_PARALLEL_DIRECT_WRITES };
        Ok(ReplyOpen { fh: opened.handle, flags })
    }

    async fn release(&self, _: Request, _: Inode, fh: u64, _: u32, _: u64, _: bool) -> Result<()> {
        self.0.release(fh);
        Ok(())
    }

    async fn read(&self, _: Request, _: Inode, fh: u64, offset: u64, size: u32) -> Result<ReplyData> {
        Ok(self.0.read(fh, offset, size).await.map_err(refused)?.into())
    }

    async fn write(
        &self,
        _: Request,
        _: Inode,
        fh: u64,
        offset: u64,
        data: &[u8],
        _write_flags: u32,
        flags: u32,
    ) -> Result<ReplyWrite> {
        // The one copy on our side: fuse3 only lends the bytes.
        let written =
            self.0.write(fh, offset, Bytes::copy_from_slice(data), flags.cast_signed()).await.map_err(refused)?;
        Ok(ReplyWrite { written: u32::try_from(written).map_err(|_| refused(Errno::EIO))? })
    }

    async fn fsync(&self, _: Request, _: Inode, fh: u64, _: bool) -> Result<()> {
        self.0.fsync(fh).await.map_err(refused)
    }

    async fn fsyncdir(&self, _: Request, _: Inode, _: u64, _: bool) -> Result<()> {
        Ok(())
    }

    async fn fallocate(&self, _: Request, _: Inode, fh: u64, offset: u64, length: u64, mode: u32) -> Result<()> {
        self.0.fallocate(fh, offset, length, mode.cast_signed()).await.map_err(refused)
    }

    async fn statfs(&self, _: Request, _: Inode) -> Result<ReplyStatFs> {
        let space = self.0.space();
        let free = space.free_bytes / u64::from(BLOCK_BYTES);
        Ok(ReplyStatFs {
            blocks: space.total_bytes / u64::from(BLOCK_BYTES),
            bfree: free,
            bavail: free,
            files: 0,
            ffree: 0,
            bsize: BLOCK_BYTES,
            namelen: u32::try_from(NAME_BYTES_MAX).unwrap_or(u32::MAX),
            frsize: BLOCK_BYTES,
        })
    }

    async fn opendir(&self, _: Request, inode: Inode, _: u32) -> Result<ReplyOpen> {
        Ok(ReplyOpen { fh: self.0.opendir(inode).await.map_err(refused)?, flags: 0 })
    }

    async fn readdir<'a>(
        &'a self,
        _: Request,
        parent: Inode,
        fh: u64,
        offset: i64,
    ) -> Result<ReplyDirectory<impl Stream<Item = Result<DirectoryEntry>> + Send + 'a>> {
        let listing = self.0.readdir(fh).map_err(refused)?;
        Ok(ReplyDirectory { entries: stream::iter(entries(parent, listing, offset.cast_unsigned()).map(Ok)) })
    }

    async fn readdirplus<'a>(
        &'a self,
        _: Request,
        parent: Inode,
        fh: u64,
        offset: u64,
        _: u64,
    ) -> Result<ReplyDirectoryPlus<impl Stream<Item = Result<DirectoryEntryPlus>> + Send + 'a>> {
        let listing = self.0.readdir(fh).map_err(refused)?;
        let unknown = self.0.unknown_attr();
        let entries = entries(parent, listing, offset).map(move |entry| {
            Ok(DirectoryEntryPlus {
                inode: entry.inode,
                generation: 0,
                kind: entry.kind,
                attr: attr(Attr { inode: 0, is_dir: entry.kind == FileType::Directory, ..unknown }),
                name: entry.name,
                offset: entry.offset,
                entry_ttl: Duration::ZERO,
                attr_ttl: Duration::ZERO,
            })
        });
        Ok(ReplyDirectoryPlus { entries: stream::iter(entries) })
    }

    async fn releasedir(&self, _: Request, _: Inode, fh: u64, _: u32) -> Result<()> {
        self.0.releasedir(fh);
        Ok(())
    }

    async fn create(
        &self,
        _: Request,
        parent: Inode,
        _: &OsStr,
        _: u32,
        _: u32,
    ) -> Result<fuse3::raw::reply::ReplyCreated> {
        Err(refused(self.0.refuse_change(parent)))
    }

    async fn mknod(&self, _: Request, parent: Inode, _: &OsStr, _: u32, _: u32) -> Result<ReplyEntry> {
        Err(refused(self.0.refuse_change(parent)))
    }

    async fn mkdir(&self, _: Request, parent: Inode, _: &OsStr, _: u32, _: u32) -> Result<ReplyEntry> {
        Err(refused(self.0.refuse_change(parent)))
    }

    async fn symlink(&self, _: Request, parent: Inode, _: &OsStr, _: &OsStr) -> Result<ReplyEntry> {
        Err(refused(self.0.refuse_change(parent)))
    }

    async fn link(&self, _: Request, _: Inode, parent: Inode, _: &OsStr) -> Result<ReplyEntry> {
        Err(refused(self.0.refuse_change(parent)))
    }

    async fn unlink(&self, _: Request, parent: Inode, _: &OsStr) -> Result<()> {
        Err(refused(self.0.refuse_change(parent)))
    }

    async fn rmdir(&self, _: Request, parent: Inode, _: &OsStr) -> Result<()> {
        Err(refused(self.0.refuse_change(parent)))
    }

    async fn rename(&self, _: Request, parent: Inode, _: &OsStr, _: Inode, _: &OsStr) -> Result<()> {
        Err(refused(self.0.refuse_change(parent)))
    }

    async fn rename2(&self, _: Request, parent: Inode, _: &OsStr, _: Inode, _: &OsStr, _: u32) -> Result<()> {
        Err(refused(self.0.refuse_change(parent)))
    }
}
