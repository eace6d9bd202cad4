//! A protected volume beside what a user would pick instead: real programs, on the same disk, round by round.
//!
//! - `qemu-storage-daemon`: its FUSE export of a raw image, also with a second image that takes part in each write;
//! - `nbdkit` with `nbdfuse`: a file over NBD, mounted;
//! - `s3backer` in its test mode: blocks of 128 KiB as objects in a directory, which is its best case;
//! - `restic` and `borg`: an image that was backed up before is backed up again after a part of it changed.
//!
//! `make bench BENCH=peers`, as root; a peer that isn't installed is said to be missing, and left out. Ours ships all the while, with a
//! point a second.

#![allow(clippy::unwrap_used, reason = "a benchmark that can't measure ends with a panic")]

#[path = "../../engine/benches/support/mod.rs"]
mod support;
#[path = "support/mod.rs"]
mod volumes;

use std::os::unix::fs::FileExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use lifeboat_engine::Group;
use lifeboat_export::Mount;
use support::log::Dice;
use support::rig::{At, Rig, settled};
use support::store::HeldStore;
use support::{Report, disk_like, fio, mib, rounds, row};
use tokio::runtime::Runtime;
use volumes::{Loop, mounted};

const SIZE: u64 = 512 << 20;
const BLOCK: u64 = 4096;
const JOURNAL: u64 = 3 << 30;
const READY: Duration = Duration::from_secs(20);

struct Bench {
    runtime: Runtime,
    rig: Rig,
    group: Arc<Group>,
    mount: Mount,
    ours: PathBuf,
    report: Report,
}

/// Starts one in a directory; none where it isn't installed.
type Start = fn(&Path) -> Option<Peer>;

/// A program that serves a file, until it is dropped.
struct Peer {
    what: &'static str,
    file: PathBuf,
    /// What to unmount; none where the program does that when it ends.
    mount: Option<PathBuf>,
    children: Vec<Child>,
}

impl Drop for Peer {
    fn drop(&mut self) {
        if let Some(mount) = &self.mount {
            let _ = Command::new("umount").arg(mount).status();
        }
        for child in self.children.iter_mut().rev() {
            let pid = rustix::process::Pid::from_child(child);
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
            let _ = child.wait();
        }
    }
}

fn installed(program: &str) -> bool {
    let found = Command::new(program).arg("--version").stdin(Stdio::null()).output().is_ok();
    if !found {
        eprintln!("  {program} is not installed: left out");
    }
    found
}

fn start(program: &str, args: &[String]) -> Child {
    Command::new(program).args(args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

/// Waits for a file that is served, with its size.
fn served(file: &Path) {
    let end = Instant::now() + READY;
    while !std::fs::metadata(file).is_ok_and(|meta| meta.len() == SIZE) {
        assert!(Instant::now() < end, "{} is not served", file.display());
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// An image with content, on the disk that is measured.
fn image(path: &Path) {
    std::fs::write(path, disk_like(1, usize::try_from(SIZE / BLOCK).unwrap())).unwrap();
    std::fs::File::open(path).unwrap().sync_all().unwrap();
}

/// qemu-storage-daemon's FUSE export, also of two images that are both written. Its mirror job can't stand below a writable
/// FUSE export (both want to be the only one who resizes); the quorum driver takes each write to both, and waits for both.
fn qemu(dir: &Path, mirror: bool) -> Option<Peer> {
    if !installed("qemu-storage-daemon") {
        return None;
    }
    std::fs::create_dir_all(dir).unwrap();
    let at = |name: &str| dir.join(name).display().to_string();
    image(&dir.join("a.img"));
    std::fs::write(dir.join("export"), b"").unwrap();
    let file = |node: &str, name: &str| format!("driver=file,node-name={node},filename={},cache.direct=on", at(name));
    let mut nodes = vec![file("a", "a.img")];
    if mirror {
        image(&dir.join("b.img"));
        nodes.push(file("b", "b.img"));
        nodes.push("driver=quorum,node-name=disk,children.0=a,children.1=b,vote-threshold=1".to_owned());
    } else {
        nodes.push("driver=raw,node-name=disk,file=a".to_owned());
    }
    let mut args: Vec<String> = nodes.into_iter().flat_map(|node| ["--blockdev".to_owned(), node]).collect();
    args.push("--export".to_owned());
    args.push(format!("type=fuse,id=export,node-name=disk,mountpoint={},writable=on", at("export")));
    let child = start("qemu-storage-daemon", &args);
    served(&dir.join("export"));
    let what =
        if mirror { "qemu-storage-daemon's FUSE export, two copies" } else { "qemu-storage-daemon's FUSE export" };
    Some(Peer { what, file: dir.join("export"), mount: None, children: vec![child] })
}

fn nbd(dir: &Path) -> Option<Peer> {
    (installed("nbdkit") && installed("nbdfuse")).then(|| {
        std::fs::create_dir_all(dir.join("mount")).unwrap();
        image(&dir.join("a.img"));
        let socket = dir.join("socket").display().to_string();
        let server =
            ["-U", &socket, "--foreground", "file", &dir.join("a.img").display().to_string()].map(str::to_owned);
        let server = start("nbdkit", &server);
        let end = Instant::now() + READY;
        while UnixStream::connect(&socket).is_err() {
            assert!(Instant::now() < end, "nbdkit does not listen");
            std::thread::sleep(Duration::from_millis(20));
        }
        let mount = dir.join("mount");
        let client = start("nbdfuse", &[mount.display().to_string(), "--unix".to_owned(), socket]);
        served(&mount.join("nbd"));
        Peer {
            what: "nbdkit's file over NBD, by nbdfuse",
            file: mount.join("nbd"),
            mount: Some(mount),
            children: vec![server, client],
        }
    })
}

fn s3backer(dir: &Path) -> Option<Peer> {
    installed("s3backer").then(|| {
        let (objects, mount) = (dir.join("objects"), dir.join("mount"));
        std::fs::create_dir_all(&objects).unwrap();
        std::fs::create_dir_all(&mount).unwrap();
        let args = ["--test", "--size=512m", "--blockSize=128k", "--listBlocks", "--force", "-f"].map(str::to_owned);
        let places = [objects.display().to_string(), mount.display().to_string()];
        let child = start("s3backer", &[args.as_slice(), &places].concat());
        served(&mount.join("file"));
        Peer {
            what: "s3backer, blocks in a directory",
            file: mount.join("file"),
            mount: Some(mount),
            children: vec![child],
        }
    })
}

impl Bench {
    fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        let (rig, group, volume) = runtime.block_on(async {
            let rig = Rig::new(At::Memory).await;
            let (group, volumes) = rig.group(Duration::from_secs(1), JOURNAL, &[SIZE]).await;
            let volume = group.volume(volumes[0]).unwrap();
            (rig, group, volume)
        });
        let (mount, ours) = runtime.block_on(mounted(&rig.dir.path().join("ours"), volume));
        let content = disk_like(1, usize::try_from(SIZE / BLOCK).unwrap());
        let file = std::fs::File::options().write(true).open(&ours).unwrap();
        file.write_all_at(&content, 0).unwrap();
        file.sync_all().unwrap();
        let bench = Self { runtime, rig, group, mount, ours, report: Report::new("peers") };
        bench.settle();
        bench
    }

    fn settle(&self) {
        self.runtime.block_on(settled(&self.group));
    }

    /// Jobs on ours, on ours by a loop device, and on a peer, round by round.
    fn beside(&mut self, peer: &Peer) {
        let durable = ["rw=randwrite", "bs=4k", "fsync=1", "ioengine=psync", "size=512m", "time_based=1", "runtime=2"];
        let many = [durable.as_slice(), &["numjobs=32"]].concat();
        let small =
            ["rw=randwrite", "bs=4k", "iodepth=32", "ioengine=libaio", "size=512m", "time_based=1", "runtime=2"];
        let reads = ["rw=randread", "bs=4k", "iodepth=32", "ioengine=libaio", "size=512m", "time_based=1", "runtime=2"];
        let large = ["rw=write", "bs=1m", "iodepth=4", "ioengine=libaio", "size=512m", "end_fsync=1"];
        let device = Loop::over(&self.ours);
        let jobs: [(&str, &[&str], &Path, bool); 6] = [
            ("4K random write + fsync, 1 job", &durable, &self.ours, true),
            ("4K random write + fsync, 32 jobs", &many, &self.ours, true),
            ("the same, ours by a loop device", &many, &device.0, true),
            ("4K random write, depth 32", &small, &self.ours, true),
            ("4K random read, depth 32", &reads, &self.ours, true),
            ("1M sequential write, fsync at the end", &large, &self.ours, false),
        ];
        for (what, args, ours, operations) in jobs {
            let (unit, wanted) = (if operations { "/s" } else { "MiB/s" }, ">= 2");
            let mut row = row("V1", what, unit, wanted, peer.what);
            for _ in 0..rounds(3) {
                row.ours.push(fio::figure(ours, args, operations));
                self.settle();
                row.beside.push(fio::figure(&peer.file, args, operations));
            }
            self.report.row(row);
        }
    }

    fn mounts(&mut self) {
        let peers: [(&str, Start); 4] = [
            ("qemu", |dir| qemu(dir, false)),
            ("qemu-mirror", |dir| qemu(dir, true)),
            ("nbd", nbd),
            ("s3backer", s3backer),
        ];
        for (name, start) in peers {
            let dir = self.rig.dir.path().join(name);
            if let Some(peer) = start(&dir) {
                self.beside(&peer);
            }
            let _ = std::fs::remove_dir_all(&dir);
        }
    }

    /// One block in a hundred changes; how long until that is in the vault, or in the archive, and how many bytes it takes there.
    fn changes(&mut self) {
        let dir = self.rig.dir.path().join("archives");
        std::fs::create_dir_all(&dir).unwrap();
        let plain = dir.join("disk.img");
        std::fs::copy(&self.ours, &plain).unwrap();
        let at = |name: &str| dir.join(name).display().to_string();
        let image = plain.display().to_string();
        let restic = |args: &[&str]| {
            let mut command = Command::new("restic");
            command.args(["--repo", &at("restic"), "--cache-dir", &at("restic-cache"), "--quiet"]).args(args);
            command.env("RESTIC_PASSWORD", "correct horse battery");
            done(command);
        };
        let mut archive = 0;
        let mut borg = |args: &[&str]| {
            archive += 1;
            let place = format!("{}::{archive}", at("borg"));
            let mut command = Command::new("borg");
            match args {
                [] => command.args(["create", &place, &image]),
                _ => command.args(args).arg(at("borg")),
            };
            command.env("BORG_PASSPHRASE", "correct horse battery").env("BORG_BASE_DIR", at("borg-base"));
            done(command);
        };
        let with_restic = installed("restic");
        let with_borg = installed("borg");
        if with_restic {
            restic(&["init"]);
            restic(&["backup", &image]);
        }
        if with_borg {
            borg(&["init", "--encryption=repokey-blake2"]);
            borg(&[]);
        }
        let mut seconds = [("restic", with_restic), ("borg", with_borg)]
            .map(|(peer, there)| (there, row("S", "1 % of 512 MiB changed: until it is away", "s", "< 1", peer)));
        let mut bytes = [("restic", with_restic), ("borg", with_borg)]
            .map(|(peer, there)| (there, row("S", "1 % of 512 MiB changed: bytes that it takes", "MiB", "< 1", peer)));
        let mut dice = Dice(4711);
        for round in 0..rounds(3) {
            let fresh = disk_like(100 + round as u64, usize::try_from(SIZE / BLOCK / 100).unwrap());
            let blocks: Vec<u64> = (0..SIZE / BLOCK / 100).map(|_| dice.below(SIZE / BLOCK)).collect();
            let change = |path: &Path| {
                let file = std::fs::File::options().write(true).open(path).unwrap();
                for (block, data) in blocks.iter().zip(fresh.chunks(4096)) {
                    file.write_all_at(data, block * BLOCK).unwrap();
                }
                file.sync_all().unwrap();
            };
            let before = HeldStore::figure(&self.rig.store.bytes_put);
            let started = Instant::now();
            change(&self.ours);
            self.settle();
            let took = started.elapsed().as_secs_f64();
            let put = mib(HeldStore::figure(&self.rig.store.bytes_put) - before);
            change(&plain);
            for ((there, seconds), (_, bytes)) in seconds.iter_mut().zip(&mut bytes) {
                if !*there {
                    continue;
                }
                let place = dir.join(seconds.baseline);
                let before = size_of(&place);
                let started = Instant::now();
                if seconds.baseline == "restic" {
                    restic(&["backup", &image])
                } else {
                    borg(&[])
                }
                seconds.ours.push(took);
                seconds.beside.push(started.elapsed().as_secs_f64());
                bytes.ours.push(put);
                bytes.beside.push(mib(size_of(&place) - before));
            }
        }
        for (there, row) in seconds.into_iter().chain(bytes) {
            if there {
                self.report.row(row);
            }
        }
    }

    fn finish(self) {
        self.runtime.block_on(async {
            self.mount.unmount(Duration::from_secs(5)).await;
            self.group.close(Duration::from_secs(10)).await;
        });
        self.report.finish();
    }
}

fn done(mut command: Command) {
    let output = command.stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Bytes of the files below a directory.
fn size_of(dir: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(dir) else { return 0 };
    entries
        .flatten()
        .map(|entry| match entry.metadata() {
            Ok(meta) if meta.is_dir() => size_of(&entry.path()),
            Ok(meta) => meta.len(),
            Err(_) => 0,
        })
        .sum()
}

fn main() {
    let mut bench = Bench::new();
    if support::wanted("mounts") {
        bench.mounts();
    }
    if support::wanted("changes") {
        bench.changes();
    }
    bench.finish();
}
