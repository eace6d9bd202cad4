//! The file system without a mount: what each request answers.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::time::Instant;

use super::*;
use crate::errno::errno_of;
use support::{MemoryTree, MemoryVolume, branch, point, volume};

#[path = "../../tests/support/mod.rs"]
mod support;

const TIME: &str = "2026-11-20T10:05:00Z";

struct Bench {
    tree: Arc<MemoryTree>,
    db: Arc<MemoryVolume>,
    fs: ExportFs,
}

impl Bench {
    fn new() -> Self {
        let tree = Arc::new(MemoryTree::default());
        let db = MemoryVolume::new(64 << 10);
        tree.put(volume("db"), 1, &db);
        tree.put(point("crm", TIME, "db"), 2, &MemoryVolume::new(8192));
        tree.put(branch("drill", "db"), 3, &MemoryVolume::new(4096));
        let fs = ExportFs::new(Arc::clone(&tree) as Arc<dyn ExportTree>, MountOptions::default());
        Self { tree, db, fs }
    }

    async fn walk(&self, path: &str) -> Result<Attr, Errno> {
        let mut attr = self.fs.getattr(inode::ROOT).await?;
        for name in path.split('/').filter(|name| !name.is_empty()) {
            attr = self.fs.lookup(attr.inode, OsStr::new(name)).await?;
        }
        Ok(attr)
    }

    async fn open(&self, path: &str, flags: i32) -> Result<Opened, Errno> {
        self.fs.open(self.walk(path).await?.inode, flags).await
    }

    async fn names(&self, path: &str) -> Vec<String> {
        let inode = self.walk(path).await.unwrap().inode;
        let handle = self.fs.opendir(inode).await.unwrap();
        let names = self.fs.readdir(handle).unwrap().iter().map(|listed| listed.name.clone()).collect();
        self.fs.releasedir(handle);
        assert_eq!(self.fs.readdir(handle), Err(Errno::EBADF));
        names
    }
}

#[tokio::test]
async fn the_name_space_has_three_parts() {
    let b = Bench::new();
    assert_eq!(b.names("/").await, ["branches", "points", "volumes"]);
    assert_eq!(b.names("volumes").await, ["db.img"]);
    assert_eq!(b.names("points").await, ["crm"]);
    assert_eq!(b.names("points/crm").await, [TIME]);
    assert_eq!(b.names(&format!("points/crm/{TIME}")).await, ["db.img"]);
    assert_eq!(b.names("branches/drill").await, ["db.img"]);
    for missing in
        ["x", "volumes/db", "volumes/.img", "volumes/x.img", "points/x", "points/crm/x", "branches/drill/x.img"]
    {
        assert_eq!(b.walk(missing).await.unwrap_err(), Errno::ENOENT, "{missing}");
    }
    let file = b.walk("volumes/db.img").await.unwrap();
    assert_eq!((file.size_bytes, file.mode, file.is_dir), (64 << 10, 0o600, false));
    let file = b.walk(&format!("points/crm/{TIME}/db.img")).await.unwrap();
    assert_eq!((file.size_bytes, file.mode), (8192, 0o400));
    assert_eq!(b.fs.opendir(file.inode).await, Err(Errno::ENOTDIR));
    assert_eq!(b.walk("volumes").await.unwrap().mode, 0o500);
}

#[tokio::test]
async fn names_that_are_no_file_names_are_left_out() {
    let b = Bench::new();
    for name in ["", "a/b", "..", &"x".repeat(252)] {
        b.tree.put(branch("drill", name), 3, &b.db);
    }
    b.tree.put(branch("drill", &"x".repeat(251)), 3, &b.db);
    // `...img` is a file name: the name of the volume is `..`.
    assert_eq!(b.names("branches/drill").await, ["...img".to_owned(), "db.img".to_owned(), "x".repeat(251) + ".img"]);
}

#[tokio::test]
async fn inodes_are_kept_until_the_kernel_forgets_them() {
    let b = Bench::new();
    let first = b.walk("volumes/db.img").await.unwrap().inode;
    assert_eq!(b.walk("volumes/db.img").await.unwrap().inode, first);
    assert_eq!(b.fs.known_inodes(), 2);
    b.fs.forget(first, 1);
    assert!(b.fs.getattr(first).await.is_ok());
    b.fs.forget(first, 1);
    assert_eq!(b.fs.getattr(first).await, Err(Errno::ESTALE));
    b.fs.forget(inode::ROOT, 9);
    assert!(b.fs.getattr(inode::ROOT).await.is_ok());
    assert_eq!(b.fs.known_inodes(), 1);
    assert_eq!(b.walk("volumes/db.img").await.unwrap().inode, first);
}

#[tokio::test]
async fn reads_and_writes_end_at_the_end_of_the_volume() {
    let b = Bench::new();
    let size = 64 << 10;
    let handle = b.open("volumes/db.img", libc::O_RDWR).await.unwrap().handle;
    assert_eq!(b.fs.write(handle, 5, Bytes::from_static(b"hello"), 0).await, Ok(5));
    assert_eq!(b.fs.read(handle, 4, 7).await.unwrap().as_ref(), b"\0hello\0");
    assert_eq!(b.fs.write(handle, size - 2, Bytes::from_static(b"abcd"), 0).await, Ok(2));
    assert_eq!(b.fs.read(handle, size - 2, 100).await.unwrap().as_ref(), b"ab");
    for offset in [size, size + 1, u64::MAX] {
        assert_eq!(b.fs.write(handle, offset, Bytes::from_static(b"a"), 0).await, Err(Errno::EFBIG));
        assert!(b.fs.read(handle, offset, 100).await.unwrap().is_empty());
    }
    assert_eq!(b.fs.write(handle, size, Bytes::new(), 0).await, Ok(0));
    b.db.grow(128 << 10);
    assert_eq!(b.fs.write(handle, size, Bytes::from_static(b"grown"), 0).await, Ok(5));
    assert_eq!(b.walk("volumes/db.img").await.unwrap().size_bytes, 128 << 10);
    b.fs.release(handle);
    assert_eq!(b.fs.read(handle, 0, 1).await, Err(Errno::EBADF));
}

#[tokio::test]
async fn a_short_answer_of_the_engine_is_an_error() {
    let b = Bench::new();
    let handle = b.open("volumes/db.img", libc::O_RDONLY).await.unwrap().handle;
    b.db.short_reads.store(true, Ordering::SeqCst);
    assert_eq!(b.fs.read(handle, 0, 4096).await, Err(Errno::EIO));
    assert_eq!(b.fs.write(handle, 0, Bytes::from_static(b"x"), 0).await, Err(Errno::EBADF));
    assert_eq!(b.fs.fallocate(handle, 0, 1, 0).await, Err(Errno::EBADF));
}

#[tokio::test]
async fn sizes_modes_and_owners_stay() {
    let b = Bench::new();
    let attr = b.walk("volumes/db.img").await.unwrap();
    let set = |change| b.fs.setattr(attr.inode, change);
    assert!(set(Change::default()).await.is_ok());
    assert!(set(Change { size_bytes: Some(64 << 10), ..Change::default() }).await.is_ok());
    for size in [0, 4096, (64 << 10) + 1] {
        assert_eq!(set(Change { size_bytes: Some(size), ..Change::default() }).await, Err(Errno::EPERM));
    }
    assert!(set(Change { mode: Some(0o100_600), uid: Some(attr.uid), ..Change::default() }).await.is_ok());
    assert_eq!(set(Change { mode: Some(0o644), ..Change::default() }).await, Err(Errno::EPERM));
    assert_eq!(set(Change { uid: Some(attr.uid + 1), ..Change::default() }).await, Err(Errno::EPERM));
    assert_eq!(b.open("volumes/db.img", libc::O_RDWR | libc::O_TRUNC).await, Err(Errno::EPERM));
    let dir = b.walk("volumes").await.unwrap().inode;
    assert_eq!(b.fs.setattr(dir, Change { size_bytes: Some(0), ..Change::default() }).await, Err(Errno::EISDIR));
    assert_eq!(b.fs.open(dir, libc::O_RDONLY).await, Err(Errno::EISDIR));
    assert_eq!(b.fs.refuse_change(dir), Errno::EPERM);
    assert_eq!(b.fs.refuse_change(b.walk("points/crm").await.unwrap().inode), Errno::EROFS);
}

#[tokio::test]
async fn what_is_read_only_is_not_opened_for_writing() {
    let b = Bench::new();
    let file = format!("points/crm/{TIME}/db.img");
    assert_eq!(b.open(&file, libc::O_WRONLY).await, Err(Errno::EROFS));
    assert!(b.open(&file, libc::O_RDONLY).await.unwrap().cached);
    let inode = b.walk(&file).await.unwrap().inode;
    let change = Change { size_bytes: Some(8192), ..Change::default() };
    assert_eq!(b.fs.setattr(inode, change).await, Err(Errno::EROFS));

    let open = b.open("volumes/db.img", libc::O_RDWR).await.unwrap();
    assert!(!open.cached);
    b.db.read_only.store(true, Ordering::SeqCst);
    assert_eq!(b.open("volumes/db.img", libc::O_RDWR).await, Err(Errno::EROFS));
    assert!(!b.open("volumes/db.img", libc::O_RDONLY).await.unwrap().cached);
    assert_eq!(b.walk("volumes/db.img").await.unwrap().mode, 0o400);
    assert_eq!(b.fs.write(open.handle, 0, Bytes::from_static(b"x"), 0).await, Err(Errno::EROFS));
    assert_eq!(b.fs.fallocate(open.handle, 0, 1, 0).await, Err(Errno::EROFS));
    assert_eq!(b.fs.fallocate(open.handle, 0, 1, libc::FALLOC_FL_ZERO_RANGE).await, Err(Errno::EROFS));
}

#[tokio::test]
async fn fallocate_zeroes_inside_and_never_grows() {
    const PUNCH: i32 = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    const ZERO: i32 = libc::FALLOC_FL_ZERO_RANGE;
    let b = Bench::new();
    let size = 64 << 10;
    let handle = b.open("volumes/db.img", libc::O_RDWR).await.unwrap().handle;
    let all = |offset, len, mode| b.fs.fallocate(handle, offset, len, mode);
    assert_eq!(all(0, size, 0).await, Ok(()));
    assert_eq!(all(10, 20, PUNCH).await, Ok(()));
    assert_eq!(all(size - 10, 20, PUNCH).await, Ok(()));
    assert_eq!(all(size + 10, 20, PUNCH).await, Ok(()));
    assert_eq!(all(30, 20, ZERO).await, Ok(()));
    assert_eq!(all(size - 5, 20, ZERO | libc::FALLOC_FL_KEEP_SIZE).await, Ok(()));
    assert_eq!(
        *b.db.zeroed.lock().unwrap(),
        [(10, 20, true), (size - 10, 10, true), (30, 20, false), (size - 5, 5, false)]
    );
    assert_eq!(all(0, size + 1, 0).await, Err(Errno::EFBIG));
    assert_eq!(all(0, size + 1, libc::FALLOC_FL_KEEP_SIZE).await, Err(Errno::EFBIG));
    assert_eq!(all(0, size + 1, ZERO).await, Err(Errno::EFBIG));
    assert_eq!(all(u64::MAX, 1, PUNCH).await, Err(Errno::EFBIG));
    assert_eq!(all(0, 0, PUNCH).await, Err(Errno::EINVAL));
    assert_eq!(all(0, 1, libc::FALLOC_FL_COLLAPSE_RANGE).await, Err(Errno::EOPNOTSUPP));
}

#[tokio::test(start_paused = true)]
async fn retry_is_waited_for_and_then_an_error() {
    let b = Bench::new();
    let handle = b.open("volumes/db.img", libc::O_RDWR).await.unwrap().handle;
    b.db.fail(ErrorKind::Retry, 7);
    assert_eq!(b.fs.write(handle, 0, Bytes::from_static(b"late"), 0).await, Ok(4));
    assert_eq!(b.fs.read(handle, 0, 4).await.unwrap().as_ref(), b"late");

    b.db.fail(ErrorKind::Retry, u64::MAX);
    let before = Instant::now();
    assert_eq!(b.fs.fsync(handle).await, Err(Errno::EIO));
    assert_eq!(before.elapsed().as_secs(), 30);

    b.fs.close();
    let before = Instant::now();
    assert_eq!(b.fs.read(handle, 0, 4).await, Err(Errno::EIO));
    assert_eq!(before.elapsed(), Duration::ZERO);
}

#[tokio::test]
async fn fsync_flushes_the_volume_and_tells_its_failure() {
    let b = Bench::new();
    let handle = b.open("volumes/db.img", libc::O_RDWR).await.unwrap().handle;
    b.fs.fsync(handle).await.unwrap();
    assert_eq!(b.db.flushes.load(Ordering::SeqCst), 1);
    let written = |flags| b.fs.write(handle, 0, Bytes::from_static(b"x"), flags);
    assert_eq!(written(libc::O_RDWR).await, Ok(1));
    assert_eq!(b.db.flushes.load(Ordering::SeqCst), 1);
    assert_eq!(written(libc::O_RDWR | libc::O_DSYNC).await, Ok(1));
    assert_eq!(written(libc::O_RDWR | libc::O_SYNC).await, Ok(1));
    assert_eq!(b.db.flushes.swap(1, Ordering::SeqCst), 3);
    b.db.fail(ErrorKind::Damaged, 1);
    assert_eq!(b.fs.fsync(handle).await, Err(Errno::EIO));
    assert_eq!(b.fs.flush_open_files().await, 0);
    assert_eq!(b.db.flushes.load(Ordering::SeqCst), 2);
    b.db.fail(ErrorKind::Damaged, 1);
    assert_eq!(b.fs.flush_open_files().await, 1);
}

#[tokio::test]
async fn a_volume_that_goes_away_while_open_is_stale() {
    let b = Bench::new();
    let inode = b.walk("volumes/db.img").await.unwrap().inode;
    let handle = b.fs.open(inode, libc::O_RDWR).await.unwrap().handle;
    b.tree.remove(&volume("db"));
    assert_eq!(b.fs.getattr(inode).await.unwrap().size_bytes, 64 << 10);
    assert_eq!(b.fs.open(inode, libc::O_RDONLY).await, Err(Errno::ESTALE));
    b.db.fail(ErrorKind::Closed, u64::MAX);
    assert_eq!(b.fs.read(handle, 0, 1).await, Err(Errno::ESTALE));
    assert_eq!(b.fs.write(handle, 0, Bytes::from_static(b"x"), 0).await, Err(Errno::ESTALE));
    b.db.fail(ErrorKind::NotFound, u64::MAX);
    assert_eq!(b.fs.fsync(handle).await, Err(Errno::ESTALE));
    b.fs.release(handle);
    assert_eq!(b.fs.getattr(inode).await, Err(Errno::ESTALE));

    // Another volume under the old name is another inode.
    b.tree.put(volume("db"), 9, &MemoryVolume::new(4096));
    assert_eq!(b.fs.getattr(inode).await, Err(Errno::ESTALE));
    let new = b.walk("volumes/db.img").await.unwrap();
    assert_ne!(new.inode, inode);
    assert_eq!(new.size_bytes, 4096);
}

#[test]
fn every_kind_has_its_number() {
    use ErrorKind::*;
    let table = [
        (Retry, libc::EIO),
        (Invalid, libc::EINVAL),
        (NotFound, libc::ESTALE),
        (Fenced, libc::EROFS),
        (NoSpace, libc::ENOSPC),
        (Damaged, libc::EIO),
        (Tampered, libc::EIO),
        (WrongKey, libc::ENOKEY),
        (NewerFormat, libc::EOPNOTSUPP),
        (Closed, libc::ESTALE),
    ];
    for (kind, code) in table {
        assert_eq!(errno_of(kind, Named::ByInode).code(), code, "{kind:?}");
    }
    assert_eq!(errno_of(NotFound, Named::ByName).code(), libc::ENOENT);
}
