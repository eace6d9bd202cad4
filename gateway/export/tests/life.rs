//! A mount's life: started, refused, replaced after its process was killed, taken down while in use.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test fails by panicking, and a child tells its parent through its output"
)]

use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use lifeboat_export::{MountError, Unmounted};
use rustix::mount::{UnmountFlags, unmount};
use served::{Served, open, start, until};
use support::{MemoryTree, MemoryVolume, volume};

#[path = "support/served.rs"]
mod served;
mod support;

const SERVE_AT: &str = "LIFEBOAT_EXPORT_TEST_SERVE_AT";

fn mount_lines(path: &Path) -> usize {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    mounts.lines().filter(|line| line.split(' ').nth(1) == path.to_str()).count()
}

#[test]
fn an_unused_mount_goes_cleanly() {
    let served = Served::new();
    let lines = std::fs::read_to_string("/proc/self/mounts").unwrap();
    let line = lines.lines().find(|line| line.contains(served.dir.to_str().unwrap())).unwrap();
    assert!(line.starts_with("lifeboat ") && line.contains(" fuse.lifeboat "), "{line}");
    assert!(served.mount().is_serving());
    let unmount = |grace| served.runtime.block_on(served.mount().unmount(grace));
    assert_eq!(unmount(Duration::from_secs(5)), Unmounted::Clean);
    assert_eq!(mount_lines(&served.dir), 0);
    assert!(!served.mount().is_serving());
    assert_eq!(unmount(Duration::ZERO), Unmounted::AlreadyGone);
    // The place can be used again.
    let again = served.runtime.block_on(start(&served.dir, &served.tree)).unwrap();
    assert_eq!(served.runtime.block_on(again.unmount(Duration::from_secs(5))), Unmounted::Clean);
}

#[test]
fn an_unmount_waits_for_its_users() {
    let served = Served::new();
    served.tree.put(volume("db"), 1, &MemoryVolume::new(4096));
    let file = open(&served.path("volumes/db.img"), libc::O_RDWR).unwrap();
    let answer = served.runtime.block_on(async {
        let unmount = served.mount().unmount(Duration::from_secs(30));
        tokio::pin!(unmount);
        tokio::select! {
            answer = &mut unmount => panic!("it did not wait: {answer:?}"),
            () = tokio::time::sleep(Duration::from_millis(200)) => {}
        }
        tokio::task::spawn_blocking(move || file.write_all_at(b"last", 0).unwrap()).await.unwrap();
        unmount.await
    });
    assert_eq!(answer, Unmounted::Clean);
}

#[test]
fn a_mount_in_use_is_flushed_and_detached() {
    let served = Served::new();
    let db = MemoryVolume::new(4096);
    served.tree.put(volume("db"), 1, &db);
    let file = open(&served.path("volumes/db.img"), libc::O_RDWR).unwrap();
    file.write_all_at(b"kept", 0).unwrap();
    let answer = served.runtime.block_on(served.mount().unmount(Duration::from_millis(100)));
    assert_eq!(answer, Unmounted::Detached { open_files: 1 });
    assert_eq!(db.flushes.load(Ordering::SeqCst), 1);
    assert_eq!(mount_lines(&served.dir), 0);
    let error = file.read_at(&mut [0; 4], 0).unwrap_err().raw_os_error();
    assert!(matches!(error, Some(libc::ENOTCONN | libc::ECONNABORTED)), "{error:?}");
    // The name space is free although the old file is still open.
    let again = served.runtime.block_on(start(&served.dir, &served.tree)).unwrap();
    open(&served.path("volumes/db.img"), libc::O_RDWR).unwrap().write_all_at(b"new", 0).unwrap();
    assert_eq!(served.runtime.block_on(again.unmount(Duration::from_secs(5))), Unmounted::Clean);
}

#[test]
fn an_unmount_by_someone_else_is_noticed() {
    let served = Served::new();
    unmount(&served.dir, UnmountFlags::empty()).unwrap();
    served.runtime.block_on(async { tokio::time::timeout(served::DEADLINE, served.mount().ended()).await.unwrap() });
    assert!(!served.mount().is_serving());
    assert_eq!(served.runtime.block_on(served.mount().unmount(Duration::ZERO)), Unmounted::AlreadyGone);
}

#[test]
fn a_dropped_mount_leaves_nothing() {
    let mut served = Served::new();
    drop(served.mount.take());
    assert_eq!(mount_lines(&served.dir), 0);
    let again = served.runtime.block_on(start(&served.dir, &served.tree)).unwrap();
    assert_eq!(served.runtime.block_on(again.unmount(Duration::from_secs(5))), Unmounted::Clean);
}

#[test]
fn children_do_not_inherit_the_connection() {
    let served = Served::new();
    let mut connections = 0;
    for entry in std::fs::read_dir("/proc/self/fd").unwrap() {
        let entry = entry.unwrap();
        if std::fs::read_link(entry.path()).is_ok_and(|target| target == Path::new("/dev/fuse")) {
            connections += 1;
            let info = std::fs::read_to_string(Path::new("/proc/self/fdinfo").join(entry.file_name())).unwrap();
            let flags = info.lines().find_map(|line| line.strip_prefix("flags:")).unwrap();
            assert_ne!(i32::from_str_radix(flags.trim(), 8).unwrap() & libc::O_CLOEXEC, 0, "{info}");
        }
    }
    assert!(connections > 0);
    drop(served);
}

#[test]
fn what_is_in_the_way_is_named() {
    let served = Served::new();
    let start = |path: &Path| served.runtime.block_on(start(path, &served.tree)).map(drop).unwrap_err();
    let above = tempfile::tempdir().unwrap();

    let error = start(&served.dir);
    assert!(matches!(error, MountError::Served { .. }), "{error}");
    assert!(served.mount().is_serving() && std::fs::read_dir(&served.dir).unwrap().count() == 3);

    let error = start(&above.path().join("a/b"));
    assert!(matches!(error, MountError::NoParent { .. }), "{error}");

    std::fs::write(above.path().join("file"), "x").unwrap();
    let error = start(&above.path().join("file"));
    assert!(matches!(error, MountError::NotADirectory { .. }), "{error}");
    let error = start(above.path());
    assert!(matches!(error, MountError::NotEmpty { .. }) && error.to_string().contains("not empty"), "{error}");

    let occupied = above.path().join("occupied");
    std::fs::create_dir(&occupied).unwrap();
    let status = Command::new("mount").args(["-t", "tmpfs", "other"]).arg(&occupied).status().unwrap();
    assert!(status.success());
    let error = start(&occupied);
    unmount(&occupied, UnmountFlags::empty()).unwrap();
    assert!(matches!(error, MountError::Occupied { .. }) && error.to_string().contains("tmpfs (other)"), "{error}");
}

/// Run in a child of this test program: serves until it is killed.
fn serve_until_killed(dir: &Path) -> ! {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let tree = Arc::new(MemoryTree::default());
    tree.put(volume("old"), 1, &MemoryVolume::new(4096));
    let mount = runtime.block_on(start(dir, &tree)).unwrap();
    println!("\nserving");
    runtime.block_on(mount.ended());
    std::process::exit(0);
}

#[test]
fn the_mount_of_a_killed_gateway_is_replaced() {
    if let Some(dir) = std::env::var_os(SERVE_AT) {
        serve_until_killed(Path::new(&dir));
    }
    let above = tempfile::tempdir().unwrap();
    let dir = above.path().join("mount");
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "the_mount_of_a_killed_gateway_is_replaced", "--nocapture"])
        .env(SERVE_AT, &dir)
        .stdout(Stdio::piped())
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    while line.trim() != "serving" {
        line.clear();
        assert_ne!(output.read_line(&mut line).unwrap(), 0, "the child ended");
    }
    let file = open(&dir.join("volumes/old.img"), libc::O_RDWR).unwrap();
    file.write_all_at(b"x", 0).unwrap();

    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let tree = Arc::new(MemoryTree::default());
    tree.put(volume("new"), 1, &MemoryVolume::new(4096));
    let error = runtime.block_on(start(&dir, &tree)).map(drop).unwrap_err();
    assert!(matches!(error, MountError::Served { .. }), "{error}");

    child.kill().unwrap();
    child.wait().unwrap();
    let _ = output.read_to_string(&mut line);
    until("the mount to die", || {
        std::fs::read_dir(&dir).is_err_and(|error| error.raw_os_error() == Some(libc::ENOTCONN))
    });
    let mount = runtime.block_on(start(&dir, &tree)).unwrap();
    assert_eq!(mount_lines(mount.path()), 1);
    open(&dir.join("volumes/new.img"), libc::O_RDWR).unwrap().write_all_at(b"y", 0).unwrap();
    assert!(!dir.join("volumes/old.img").exists());
    drop(file);
    assert_eq!(runtime.block_on(mount.unmount(Duration::from_secs(5))), Unmounted::Clean);
}
