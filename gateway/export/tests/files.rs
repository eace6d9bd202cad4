//! What an application sees of the files of a real mount.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::ffi::OsStr;
use std::io::{ErrorKind as IoKind, Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use lifeboat_engine::error::ErrorKind;
use rustix::fs::{FallocateFlags, fallocate};
use served::{Served, open, until};
use support::{MemoryVolume, branch, point, volume};

#[path = "support/served.rs"]
mod served;
mod support;

const MIB: usize = 1 << 20;
const TIME: &str = "2026-11-20T10:05:00Z";

/// A volume `db` of 8 MiB.
fn with_db() -> (Served, Arc<MemoryVolume>) {
    let served = Served::new();
    let db = MemoryVolume::new(8 * MIB);
    served.tree.put(volume("db"), 1, &db);
    (served, db)
}

fn pattern(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    };
    (0..len).map(|_| next()).collect()
}

fn code<T: std::fmt::Debug>(result: std::io::Result<T>) -> i32 {
    result.unwrap_err().raw_os_error().unwrap()
}

#[test]
fn bytes_written_anywhere_are_read_back() {
    let (served, db) = with_db();
    let file = open(&served.path("volumes/db.img"), libc::O_RDWR).unwrap();
    for (offset, len) in [(0, 1), (4095, 2), (4096, 4096), (12345, 100_001), (3 * MIB - 1, MIB + 2), (8 * MIB - 1, 1)] {
        let data = pattern(len, offset as u64 + 1);
        file.write_all_at(&data, offset as u64).unwrap();
        let mut back = vec![0; len];
        file.read_exact_at(&mut back, offset as u64).unwrap();
        assert_eq!(back, data, "{offset}");
        assert_eq!(db.bytes.lock().unwrap()[offset..offset + len], data, "{offset}");
    }
    let all = std::fs::read(served.path("volumes/db.img")).unwrap();
    assert!(all == *db.bytes.lock().unwrap());
}

#[test]
fn a_mebibyte_arrives_in_one_write() {
    let (served, db) = with_db();
    let file = open(&served.path("volumes/db.img"), libc::O_RDWR).unwrap();
    // Unaligned, a mebibyte would touch 257 pages, and the kernel sends 256 at most.
    let mut buffer = vec![0; 4 * MIB + 4096];
    let skip = buffer.as_ptr().align_offset(4096);
    buffer[skip..skip + 4 * MIB].copy_from_slice(&pattern(4 * MIB, 1));
    file.write_all_at(&buffer[skip..skip + 4 * MIB], 0).unwrap();
    assert_eq!(db.largest_write.load(Ordering::SeqCst), MIB as u64);
    assert_eq!(db.writes.load(Ordering::SeqCst), 4);
}

#[test]
fn direct_io_is_taken() {
    let (served, db) = with_db();
    let file = open(&served.path("volumes/db.img"), libc::O_RDWR | libc::O_DIRECT).unwrap();
    let mut buffer = vec![0; 64 << 10];
    let skip = buffer.as_ptr().align_offset(4096);
    let data = pattern(32 << 10, 5);
    buffer[skip..skip + data.len()].copy_from_slice(&data);
    file.write_all_at(&buffer[skip..skip + data.len()], 8192).unwrap();
    buffer.fill(0);
    file.read_exact_at(&mut buffer[skip..skip + data.len()], 8192).unwrap();
    assert_eq!(buffer[skip..skip + data.len()], data);
    assert_eq!(db.bytes.lock().unwrap()[8192..8192 + data.len()], data);
}

#[test]
fn a_volume_has_an_end() {
    let (served, _db) = with_db();
    let path = served.path("volumes/db.img");
    let file = open(&path, libc::O_RDWR).unwrap();
    let end = 8 * MIB as u64;
    assert_eq!(file.write_at(b"abcd", end - 3).unwrap(), 3);
    assert_eq!(code(file.write_at(b"a", end)), libc::EFBIG);
    assert_eq!(code(file.write_at(b"a", end + 4096)), libc::EFBIG);
    let mut back = [0; 8];
    assert_eq!(file.read_at(&mut back, end - 3).unwrap(), 3);
    assert_eq!(file.read_at(&mut back, end).unwrap(), 0);
    let mut append = std::fs::OpenOptions::new().append(true).open(&path).unwrap();
    assert_eq!(code(append.write(b"a")), libc::EFBIG);
    assert_eq!(file.metadata().unwrap().len(), end);
    file.set_len(end).unwrap();
    assert_eq!(code(file.set_len(end + 1)), libc::EPERM);
    assert_eq!(code(file.set_len(0)), libc::EPERM);
    assert_eq!(code(std::fs::OpenOptions::new().write(true).truncate(true).open(&path)), libc::EPERM);
    file.read_exact_at(&mut back[..3], end - 3).unwrap();
    assert_eq!(&back[..3], b"abc");
}

#[test]
fn fsync_waits_for_the_volume() {
    let (served, db) = with_db();
    let file = open(&served.path("volumes/db.img"), libc::O_RDWR).unwrap();
    file.write_all_at(b"x", 0).unwrap();
    assert_eq!(db.flushes.load(Ordering::SeqCst), 0);
    file.sync_all().unwrap();
    file.sync_data().unwrap();
    assert_eq!(db.flushes.load(Ordering::SeqCst), 2);
    db.fail(ErrorKind::Damaged, 1);
    assert_eq!(code(file.sync_all()), libc::EIO);
    db.fail(ErrorKind::NoSpace, 1);
    assert_eq!(code(file.write_at(b"x", 0)), libc::ENOSPC);
    db.fail(ErrorKind::Tampered, 1);
    assert_eq!(code(file.read_at(&mut [0; 10], 0)), libc::EIO);
}

#[test]
fn a_synchronous_write_is_flushed_before_it_is_answered() {
    let (served, db) = with_db();
    let path = served.path("volumes/db.img");
    for flag in [libc::O_SYNC, libc::O_DSYNC, libc::O_DSYNC | libc::O_DIRECT] {
        let before = db.flushes.load(Ordering::SeqCst);
        let file = open(&path, libc::O_RDWR | flag).unwrap();
        let buffer = vec![5; 8192];
        let skip = buffer.as_ptr().align_offset(4096);
        file.write_all_at(&buffer[skip..skip + 4096], 0).unwrap();
        assert_eq!(db.flushes.load(Ordering::SeqCst), before + 1);
    }
    let file = open(&path, libc::O_RDWR).unwrap();
    let before = db.flushes.load(Ordering::SeqCst);
    let data = [std::io::IoSlice::new(b"once")];
    rustix::io::pwritev2(&file, &data, 0, rustix::io::ReadWriteFlags::DSYNC).unwrap();
    assert_eq!(db.flushes.load(Ordering::SeqCst), before + 1);
}

#[test]
fn holes_are_punched_and_ranges_zeroed() {
    let (served, db) = with_db();
    let file = open(&served.path("volumes/db.img"), libc::O_RDWR).unwrap();
    let mut model = pattern(8 * MIB, 3);
    file.write_all_at(&model, 0).unwrap();
    let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    fallocate(&file, punch, 5000, 100_000).unwrap();
    model[5000..105_000].fill(0);
    fallocate(&file, FallocateFlags::ZERO_RANGE, MIB as u64, 4096).unwrap();
    model[MIB..MIB + 4096].fill(0);
    fallocate(&file, punch, 8 * MIB as u64 - 10, 4096).unwrap();
    model[8 * MIB - 10..].fill(0);
    fallocate(&file, FallocateFlags::empty(), 0, 8 * MIB as u64).unwrap();
    assert!(*db.bytes.lock().unwrap() == model);
    assert!(std::fs::read(served.path("volumes/db.img")).unwrap() == model);
    assert_eq!(fallocate(&file, FallocateFlags::empty(), 0, 9 * MIB as u64), Err(rustix::io::Errno::FBIG));
    assert_eq!(fallocate(&file, FallocateFlags::COLLAPSE_RANGE, 0, 4096), Err(rustix::io::Errno::OPNOTSUPP));
    assert_eq!(file.metadata().unwrap().len(), 8 * MIB as u64);
}

#[test]
fn writes_to_one_file_run_in_parallel() {
    const AT_ONCE: usize = 8;
    let (served, db) = with_db();
    *db.meet.lock().unwrap() = Some(Arc::new(tokio::sync::Barrier::new(AT_ONCE)));
    let file = open(&served.path("volumes/db.img"), libc::O_RDWR).unwrap();
    std::thread::scope(|scope| {
        for index in 0..AT_ONCE {
            let file = &file;
            // Each write waits in the volume until all have come.
            scope.spawn(move || file.write_all_at(&pattern(4096, index as u64), index as u64 * 4096).unwrap());
        }
    });
    for index in 0..AT_ONCE {
        assert_eq!(db.bytes.lock().unwrap()[index * 4096..(index + 1) * 4096], pattern(4096, index as u64));
    }
}

#[test]
fn a_recovery_point_is_read_only_and_cached() {
    let served = Served::new();
    let old = MemoryVolume::new(MIB);
    *old.bytes.lock().unwrap() = pattern(MIB, 9);
    served.tree.put(point("crm", TIME, "db"), 2, &old);
    let path = served.path(&format!("points/crm/{TIME}/db.img"));
    assert_eq!(std::fs::read(&path).unwrap(), pattern(MIB, 9));
    assert_eq!(code(open(&path, libc::O_RDWR)), libc::EROFS);
    assert_eq!(code(std::fs::OpenOptions::new().append(true).open(&path)), libc::EROFS);
    let parent = path.parent().unwrap();
    assert_eq!(code(std::fs::write(parent.join("new"), "x")), libc::EROFS);
    assert_eq!(code(std::fs::remove_file(&path)), libc::EROFS);
    let metadata = std::fs::metadata(&path).unwrap();
    assert_eq!((metadata.len(), metadata.permissions().mode()), (MIB as u64, 0o100_400));
    // What was read once no longer needs the vault.
    old.fail(ErrorKind::Tampered, u64::MAX);
    assert_eq!(std::fs::read(&path).unwrap(), pattern(MIB, 9));
}

#[test]
fn a_fenced_volume_refuses_writes() {
    let (served, db) = with_db();
    let path = served.path("volumes/db.img");
    let before = open(&path, libc::O_RDWR).unwrap();
    db.read_only.store(true, Ordering::SeqCst);
    assert_eq!(code(before.write_at(b"x", 0)), libc::EROFS);
    assert_eq!(code(open(&path, libc::O_RDWR)), libc::EROFS);
    open(&path, libc::O_RDONLY).unwrap();
}

#[test]
fn nothing_is_made_removed_or_renamed() {
    let (served, _db) = with_db();
    let old = served.path("volumes/db.img");
    let new = served.path("volumes/new.img");
    assert_eq!(code(std::fs::write(&new, "x")), libc::EPERM);
    assert_eq!(code(std::fs::create_dir(served.path("branches/x"))), libc::EPERM);
    assert_eq!(code(std::fs::remove_file(&old)), libc::EPERM);
    assert_eq!(code(std::fs::remove_dir(served.path("volumes"))), libc::EPERM);
    assert_eq!(code(std::fs::rename(&old, &new)), libc::EPERM);
    assert_eq!(code(std::fs::hard_link(&old, &new)), libc::EPERM);
    assert_eq!(code(std::os::unix::fs::symlink(&old, &new)), libc::EPERM);
    assert_eq!(code(std::fs::set_permissions(&old, PermissionsExt::from_mode(0o777))), libc::EPERM);
    open(&old, libc::O_RDWR).unwrap().set_modified(std::time::SystemTime::now()).unwrap();
}

#[test]
fn growth_becomes_visible() {
    let (served, db) = with_db();
    let path = served.path("volumes/db.img");
    let file = open(&path, libc::O_RDWR).unwrap();
    assert_eq!(file.metadata().unwrap().len(), 8 * MIB as u64);
    db.grow(16 * MIB);
    // I/O needs no attributes.
    file.write_all_at(b"grown", 12 * MIB as u64).unwrap();
    until("the new size", || file.metadata().unwrap().len() == 16 * MIB as u64);
    assert_eq!(std::fs::metadata(&path).unwrap().len(), 16 * MIB as u64);
    let mut back = [0; 5];
    file.read_exact_at(&mut back, 12 * MIB as u64).unwrap();
    assert_eq!(&back, b"grown");
}

#[test]
fn a_volume_that_goes_away_is_not_found_by_name_and_stale_when_open() {
    let (served, db) = with_db();
    let path = served.path("volumes/db.img");
    let file = open(&path, libc::O_RDWR).unwrap();
    served.tree.remove(&volume("db"));
    db.fail(ErrorKind::Closed, u64::MAX);
    until("the name to go", || std::fs::metadata(&path).is_err_and(|error| error.kind() == IoKind::NotFound));
    assert_eq!(code(file.read_at(&mut [0; 4], 0)), libc::ESTALE);
    assert_eq!(code(file.write_at(b"x", 0)), libc::ESTALE);
    // Another volume under the name is used at once.
    served.tree.put(volume("db"), 9, &MemoryVolume::new(4096));
    until("the new volume", || std::fs::metadata(&path).is_ok_and(|found| found.len() == 4096));
    assert_eq!(open(&path, libc::O_RDWR).unwrap().write_at(b"x", 0).unwrap(), 1);
    assert_eq!(code(file.write_at(b"x", 0)), libc::ESTALE);
}

#[test]
fn long_listings_are_whole_and_attributes_follow() {
    let served = Served::new();
    let file = MemoryVolume::new(4096);
    for index in 0..3000 {
        served.tree.put(point("crm", &format!("{TIME}-{index:05}"), "db"), 2, &file);
    }
    served.tree.put(branch("drill", "db"), 2, &file);
    let dir = served.path("points/crm");
    let mut names: Vec<_> = std::fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap()).collect();
    assert_eq!(served.tree.stats.load(Ordering::SeqCst), 0, "a listing asks for no attributes");
    names.sort_by_key(std::fs::DirEntry::file_name);
    assert_eq!(names.len(), 3000);
    for (index, entry) in names.iter().enumerate() {
        assert_eq!(entry.file_name(), OsStr::new(&format!("{TIME}-{index:05}")));
        assert!(entry.file_type().unwrap().is_dir());
    }
    assert!(names[7].metadata().unwrap().is_dir());
    let listed = Command::new("ls").arg("-laR").arg(served.path("branches")).output().unwrap();
    assert!(listed.status.success() && String::from_utf8_lossy(&listed.stdout).contains("4096"), "{listed:?}");
    let space = rustix::fs::statvfs(&served.dir).unwrap();
    assert_eq!((space.f_blocks * space.f_frsize, space.f_bavail * space.f_frsize), (1 << 30, 1 << 29));
}

#[test]
fn a_file_outlives_a_bounded_vault_outage() {
    let (served, db) = with_db();
    let file = open(&served.path("volumes/db.img"), libc::O_RDWR).unwrap();
    db.fail(ErrorKind::Retry, 4);
    file.write_all_at(b"late", 0).unwrap();
    let mut back = [0; 4];
    file.read_exact_at(&mut back, 0).unwrap();
    assert_eq!(&back, b"late");
}

/// Runs a command that must succeed, and returns what it printed.
fn run(program: &str, args: &[&OsStr]) -> String {
    let output = Command::new(program).args(args).output().unwrap();
    assert!(output.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// A loop device, detached when it goes.
struct Loop(String);

impl Loop {
    fn new(file: &Path) -> Self {
        Self(run(
            "losetup",
            &["--find", "--show", "--direct-io=on"]
                .map(OsStr::new)
                .iter()
                .copied()
                .chain([file.as_os_str()])
                .collect::<Vec<_>>(),
        ))
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").arg("-d").arg(&self.0).status();
    }
}

/// A mounted file system, unmounted when it goes.
struct Mounted<'a>(&'a Path);

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(self.0, rustix::mount::UnmountFlags::DETACH);
    }
}

#[test]
fn a_file_system_lives_on_a_loop_device_over_a_volume() {
    let served = Served::new();
    let disk = MemoryVolume::new(64 * MIB);
    served.tree.put(volume("disk"), 1, &disk);
    let content = pattern(5 * MIB, 77);
    let at = tempfile::tempdir().unwrap();
    {
        let device = Loop::new(&served.path("volumes/disk.img"));
        run("mkfs.ext4", &["-q", &device.0].map(OsStr::new));
        run("mount", &[OsStr::new(&device.0), at.path().as_os_str()]);
        let mounted = Mounted(at.path());
        let mut file = std::fs::File::create(at.path().join("file")).unwrap();
        file.write_all(&content).unwrap();
        file.sync_all().unwrap();
        assert!(disk.flushes.load(Ordering::SeqCst) > 0, "the loop device's flush reaches the volume");
        std::fs::remove_file(at.path().join("file")).unwrap();
        // This file system and no other: somebody else's may wait for a server that is gone.
        rustix::fs::syncfs(&file).unwrap();
        run("fstrim", &[at.path().as_os_str()]);
        assert!(disk.zeroed.lock().unwrap().iter().any(|(_, _, trim)| *trim), "fstrim arrives as punched holes");
        std::fs::write(at.path().join("second"), &content).unwrap();
        drop(file);
        rustix::mount::unmount(at.path(), rustix::mount::UnmountFlags::empty()).unwrap();
        std::mem::forget(mounted);
    }
    // The loop device lets its file go a moment after it was detached.
    until("the loop device to let go", || served.mount().open_files() == 0);
    run(
        "e2fsck",
        &["-fn"]
            .map(OsStr::new)
            .iter()
            .copied()
            .chain([served.path("volumes/disk.img").as_os_str()])
            .collect::<Vec<_>>(),
    );
    let device = Loop::new(&served.path("volumes/disk.img"));
    run("mount", &[OsStr::new("-o"), OsStr::new("ro"), OsStr::new(&device.0), at.path().as_os_str()]);
    let mounted = Mounted(at.path());
    let mut back = Vec::new();
    std::fs::File::open(at.path().join("second")).unwrap().read_to_end(&mut back).unwrap();
    assert!(back == content);
    drop(mounted);
    drop(device);
}

#[test]
fn the_mount_answers_while_a_write_hangs() {
    let (served, db) = with_db();
    let barrier = Arc::new(tokio::sync::Barrier::new(2));
    *db.meet.lock().unwrap() = Some(Arc::clone(&barrier));
    let path = served.path("volumes/db.img");
    let file = open(&path, libc::O_RDWR).unwrap();
    let writer = std::thread::spawn(move || file.write_all_at(b"held", 0));
    until("the write to arrive", || db.arrived.load(Ordering::SeqCst) == 1);
    assert_eq!(std::fs::metadata(&path).unwrap().size(), 8 * MIB as u64);
    let mut back = [0; 4];
    open(&path, libc::O_RDONLY).unwrap().read_exact_at(&mut back, 4096).unwrap();
    served.runtime.block_on(async { tokio::time::timeout(Duration::from_secs(10), barrier.wait()).await.unwrap() });
    writer.join().unwrap().unwrap();
    assert_eq!(&db.bytes.lock().unwrap()[..4], b"held");
}
