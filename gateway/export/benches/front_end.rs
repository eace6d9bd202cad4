//! The mount's crate beside the one that was named and used before: `fuser` against `fuse3`, same file system, same settings.
//!
//! fio through the mount with direct I/O. A null volume shows what the mount costs; the plain file is on memory, so that no
//! disk blurs it. `make bench BENCH=front_end`; root, as mounting takes it.

#![allow(clippy::unwrap_used, reason = "a benchmark that can't measure ends with a panic")]

#[path = "support/fuse3_shell.rs"]
mod fuse3_shell;
#[path = "../../engine/benches/support/mod.rs"]
mod support;
#[path = "support/mod.rs"]
mod volumes;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use fuse3::raw::{MountHandle, Session};
use lifeboat_engine::volume::BlockVolume;
use lifeboat_export::fs::ExportFs;
use lifeboat_export::{Mount, MountOptions};
use support::{Report, Row, fio, mib, rounds};
use volumes::{NullVolume, OneDisk};

const SIZE: u64 = 512 << 20;
/// Name, fio's arguments, whether the figure is operations (else bytes).
const JOBS: [(&str, &[&str], bool); 5] = [
    ("4K random write, depth 32", &["rw=randwrite", "bs=4k", "iodepth=32", "ioengine=libaio"], true),
    ("4K random read, depth 32", &["rw=randread", "bs=4k", "iodepth=32", "ioengine=libaio"], true),
    (
        "4K random write, 4 threads, depth 1",
        &["rw=randwrite", "bs=4k", "numjobs=4", "thread=1", "ioengine=psync"],
        true,
    ),
    ("1M write", &["rw=write", "bs=1m", "iodepth=4", "ioengine=libaio"], false),
    ("1M read", &["rw=read", "bs=1m", "iodepth=4", "ioengine=libaio"], false),
];

fn figure(file: &Path, args: &[&str], operations: bool) -> f64 {
    let mut args = args.to_vec();
    args.extend(["time_based=1", "runtime=1", "size=512m"]);
    let found = fio::run(file, &args);
    if operations { found.iops } else { found.bytes_per_second / mib(1 << 40) }
}

async fn by_fuse3(at: &Path, volume: Arc<dyn BlockVolume>) -> MountHandle {
    std::fs::create_dir_all(at).unwrap();
    let fs = Arc::new(ExportFs::new(Arc::new(OneDisk(volume)), MountOptions::default()));
    let mut settings = fuse3::MountOptions::default();
    settings.fs_name("lifeboat-fuse3").default_permissions(true);
    Session::new(settings).mount_with_unprivileged(fuse3_shell::Shell(fs), at).await.unwrap()
}

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let above = support::scratch();
    let memory = tempfile::tempdir_in("/dev/shm").unwrap();
    let plain = memory.path().join("plain");
    std::fs::write(&plain, vec![1; usize::try_from(SIZE).unwrap()]).unwrap();
    let (ours_at, theirs_at) = (above.path().join("fuser"), above.path().join("fuse3"));
    let (ours, theirs) = runtime.block_on(async {
        let volume = NullVolume::new(SIZE);
        let ours = Mount::start(&ours_at, Arc::new(OneDisk(volume.clone())), MountOptions::default()).await.unwrap();
        (ours, by_fuse3(&theirs_at, volume).await)
    });
    let mut report = Report::new("front_end");
    for (what, args, operations) in JOBS {
        let (mut a, mut b, mut c) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..rounds(3) {
            a.push(figure(&ours_at.join("volumes/disk.img"), args, operations));
            b.push(figure(&theirs_at.join("volumes/disk.img"), args, operations));
            c.push(figure(&plain, args, operations));
        }
        let unit = if operations { "/s" } else { "MiB/s" };
        let row = |ours: &[f64], beside: &[f64], baseline| Row {
            target: "FE",
            what: what.to_owned(),
            ours: ours.to_vec(),
            beside: beside.to_vec(),
            baseline,
            unit,
            wanted: "> 1",
        };
        report.row(row(&a, &b, "fuse3, same null volume"));
        report.row(Row { wanted: "", ..row(&a, &c, "plain file in memory") });
        report.row(Row { what: format!("{what}, fuse3"), wanted: "", ..row(&b, &c, "plain file in memory") });
    }
    runtime.block_on(async {
        ours.unmount(Duration::from_secs(5)).await;
        let _ = theirs.unmount().await;
    });
    report.finish();
}
