//! A protected volume through the mount, beside a plain file of the same disk and beside the mount alone (V1 to V5).
//!
//! fio with direct I/O; shipping is on, one point a second, the vault is a directory in memory, which stands for storage
//! elsewhere. Rounds alternate. `make bench BENCH=volume`; root, as mounting takes it.

#![allow(clippy::unwrap_used, reason = "a benchmark that can't measure ends with a panic")]

#[path = "../../engine/benches/support/mod.rs"]
mod support;
#[path = "support/mod.rs"]
mod volumes;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use lifeboat_engine::volume::BlockVolume;
use lifeboat_engine::{Group, GroupStatus};
use lifeboat_export::Mount;
use support::rig::{At, Rig, reached, settled};
use support::{Report, Row, fio, rounds, row};
use tokio::runtime::Runtime;
use volumes::{Loop, NullVolume, PlainVolume, mounted};

const SIZE: u64 = 512 << 20;
const JOURNAL: u64 = 3 << 30;
/// What waits for shipping while V5 is measured.
const BACKLOG: &str = "1g";

struct Bench {
    runtime: Runtime,
    rig: Rig,
    group: Arc<Group>,
    /// The protected volume, the null volume and the plain file, each through a mount of its own.
    ours: PathBuf,
    null: PathBuf,
    passed: PathBuf,
    plain: PathBuf,
    mounts: Vec<Mount>,
    report: Report,
}

impl Bench {
    fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        let report = Report::new("volume");
        let (rig, group, volume) = runtime.block_on(async {
            let rig = Rig::new(At::Memory).await;
            let (group, volumes) = rig.group(Duration::from_secs(1), JOURNAL, &[SIZE]).await;
            let volume = group.volume(volumes[0]).unwrap();
            (rig, group, volume)
        });
        let plain = rig.dir.path().join("plain");
        std::fs::write(&plain, support::disk_like(1, usize::try_from(SIZE / 4096).unwrap())).unwrap();
        std::fs::File::open(&plain).unwrap().sync_all().unwrap();
        let mut mounts = Vec::new();
        let mut at = Vec::new();
        let disks: [(&str, Arc<dyn BlockVolume>); 3] =
            [("ours", volume), ("null", NullVolume::new(SIZE)), ("passed", PlainVolume::new(&plain))];
        for (name, disk) in disks {
            let (mount, file) = runtime.block_on(mounted(&rig.dir.path().join(name), disk));
            mounts.push(mount);
            at.push(file);
        }
        let [ours, null, passed] = at.try_into().unwrap();
        Self { runtime, rig, group, ours, null, passed, plain, mounts, report }
    }

    fn settle(&self) {
        self.runtime.block_on(settled(&self.group));
    }

    fn status(&self) -> GroupStatus {
        self.group.status()
    }

    /// The same job on both, round by round.
    fn compare(&mut self, row: Row, args: &[&str], ours: &Path, beside: &Path, operations: bool) {
        let mut row = row;
        for _ in 0..rounds(3) {
            row.ours.push(fio::figure(ours, args, operations));
            self.settle();
            row.beside.push(fio::figure(beside, args, operations));
        }
        self.report.row(row);
    }

    fn large_writes(&mut self) {
        let args = ["rw=write", "bs=1m", "iodepth=4", "ioengine=libaio", "size=512m", "end_fsync=1"];
        let (ours, plain) = (self.ours.clone(), self.plain.clone());
        let row = row("V3", "1M sequential write, fsync at the end", "MiB/s", ">= 0.5", "plain file, same disk");
        self.compare(row, &args, &ours, &plain, false);
    }

    fn durable_writes(&mut self) {
        for jobs in ["1", "32"] {
            let jobs_arg = format!("numjobs={jobs}");
            let args = [
                "rw=randwrite",
                "bs=4k",
                "fsync=1",
                "ioengine=psync",
                "size=512m",
                "time_based=1",
                "runtime=2",
                &jobs_arg,
            ];
            let (ours, plain) = (self.ours.clone(), self.plain.clone());
            let row_of = |how: &str| {
                let what = format!("4K random write + fsync, {jobs} jobs{how}");
                row("V1", &what, "/s", ">= 1.0", "plain file, same disk")
            };
            self.compare(row_of(""), &args, &ours, &plain, true);
            let device = Loop::over(&ours);
            self.compare(row_of(", by a loop device"), &args, &device.0, &plain, true);
        }
    }

    fn small_writes(&mut self) {
        let args = ["rw=randwrite", "bs=4k", "iodepth=32", "ioengine=libaio", "size=512m", "time_based=1", "runtime=2"];
        let (ours, null) = (self.ours.clone(), self.null.clone());
        let row = row("V2", "4K random write, depth 32, no fsync", "/s", ">= 0.8", "the same mount, null volume");
        self.compare(row, &args, &ours, &null, true);
    }

    fn reads(&mut self) {
        let (ours, passed) = (self.ours.clone(), self.passed.clone());
        // From memory on both sides: the disk would be measured otherwise, and on one side only.
        for file in [&ours, &passed] {
            fio::run(file, &["rw=read", "bs=1m", "iodepth=1", "ioengine=psync", "size=512m"]);
        }
        for (what, block, depth, operations) in
            [("4K random read, depth 32", "bs=4k", "iodepth=32", true), ("1M read", "bs=1m", "iodepth=4", false)]
        {
            let rw = if operations { "rw=randread" } else { "rw=read" };
            let args = [rw, block, depth, "ioengine=libaio", "size=512m", "time_based=1", "runtime=2"];
            let unit = if operations { "/s" } else { "MiB/s" };
            let row = row("V4", &format!("{what}, local data"), unit, ">= 0.95", "plain file through the same mount");
            self.compare(row, &args, &ours, &passed, operations);
        }
    }

    /// The vault is held up until much waits for it; then fsync is timed, first while it still is, then while all of it is
    /// shipped as fast as it goes.
    fn fsync_while_shipping(&mut self) {
        let fill_size = format!("io_size={BACKLOG}");
        let fill = ["rw=write", "bs=1m", "iodepth=4", "ioengine=libaio", "size=512m", fill_size.as_str()];
        let timed = [
            "rw=randwrite",
            "bs=4k",
            "fsync=1",
            "ioengine=psync",
            "size=512m",
            "time_based=1",
            "runtime=2",
            "rate_iops=500",
        ];
        let mut row = row("V5", "fsync p99 while shipping at full speed", "ms", "<= 1.5", "the same without shipping");
        for _ in 0..rounds(3) {
            self.settle();
            self.rig.store.set_open(false);
            fio::run(&self.ours, &fill);
            let group = Arc::clone(&self.group);
            self.runtime.block_on(reached(|| group.status().image_lsn >= group.status().last_lsn));
            row.beside.push(fio::run(&self.ours, &timed).sync_p99_ms);
            self.rig.store.set_open(true);
            row.ours.push(fio::run(&self.ours, &timed).sync_p99_ms);
            let left = self.status().backlog_bytes;
            self.report.note("bytes still to be shipped when V5 ended", left);
        }
        self.report.row(row);
        self.settle();
    }

    fn finish(self) {
        self.runtime.block_on(async {
            for mount in &self.mounts {
                mount.unmount(Duration::from_secs(5)).await;
            }
            self.group.close(Duration::from_secs(10)).await;
        });
        self.report.finish();
    }
}

type Part = fn(&mut Bench);

fn main() {
    let mut bench = Bench::new();
    let parts: [(&str, Part); 5] = [
        ("large_writes", Bench::large_writes),
        ("durable_writes", Bench::durable_writes),
        ("small_writes", Bench::small_writes),
        ("reads", Bench::reads),
        ("fsync_while_shipping", Bench::fsync_while_shipping),
    ];
    for (name, part) in parts {
        if support::wanted(name) {
            part(&mut bench);
        }
    }
    bench.finish();
}
