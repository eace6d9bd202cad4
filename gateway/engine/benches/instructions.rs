//! How many instructions the hot paths take, counted and not timed: the same on a busy machine, so that CI can hold them to what they
//! were.
//!
//! ```text
//! instructions            each path under callgrind, with and without its work; what the difference is for one unit of it
//! instructions run PATH N does a path's work N times; this is what callgrind runs
//! ```
//! `make instructions` compares with `instructions.json` beside this file, and ends with 1 where a path takes more than [`TOLERANCE`]
//! above that. `LIFEBOAT_BLESS=1` writes the file anew. Counts depend on the compiler and on what the processor can do; where those
//! differ from the file's, nothing is compared, and that is said.

#![allow(clippy::unwrap_used, reason = "a benchmark that can't measure ends with a panic")]
#![expect(clippy::print_stdout, reason = "a benchmark prints its figures")]

mod support;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::sync::Arc;

use bytes::Bytes;
use lifeboat_engine::Op;
use lifeboat_engine::disk::{Disk, LocalDisk};
use lifeboat_engine::image::Image;
use lifeboat_engine::ship::ShipSettings;
use lifeboat_engine::view::PointView;
use lifeboat_engine::write_path::{Limits, Submitted, WritePath};
use lifeboat_format::hash::{BlockHasher, RootHasher};
use lifeboat_format::keys::HashKey;
use lifeboat_model::{BLOCK_SIZE, Epoch, Extent, GroupId, Lsn, VolumeId};
use serde::{Deserialize, Serialize};
use support::disk_like;
use support::log::{Dice, Log};
use support::rig::{At, Rig};
use tokio::runtime::Runtime;

/// What a path may take more than it did: above what one count differs from the next.
const TOLERANCE: f64 = 0.02;
const BLOCKS: u64 = 4096;

/// A hot path.
struct Hot {
    name: &'static str,
    /// What one unit of its work is.
    unit: &'static str,
    /// How many are counted.
    count: u64,
    run: fn(u64),
}

const PATHS: [Hot; 5] = [
    Hot { name: "write", unit: "4 KiB write: journaled, and given to its image", count: 2048, run: write },
    Hot { name: "read", unit: "4 KiB read: found in memory or in the image", count: 8192, run: read },
    Hot { name: "ship", unit: "4 KiB block: compressed, encrypted, hashed, put, mapped", count: 2048, run: ship },
    Hot { name: "recover", unit: "4 KiB block of a point: located, fetched, opened", count: 2048, run: recover },
    Hot { name: "hash", unit: "4 KiB block of a root hash", count: 8192, run: hash },
];

/// A write path of one volume in memory, which nothing drives but the caller.
fn write_path(dir: &Path) -> (Arc<WritePath>, VolumeId) {
    let disk: Arc<dyn Disk> = LocalDisk::open(&dir.join("group")).unwrap();
    let volume = VolumeId::from_bytes([2; 16]);
    let group = GroupId::from_bytes([1; 16]);
    let limits = Limits::for_journal(64 << 20, 16 << 20);
    let path = Arc::new(WritePath::create(&disk, group, Epoch(1), limits, Lsn(1)).unwrap());
    path.add_volume(volume, Arc::new(Image::create(&disk, volume, BLOCKS, false).unwrap()));
    (path, volume)
}

fn memory() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").unwrap()
}

/// Eight writes share a commit and a sync, 256 of them a round of upkeep.
fn writes(path: &WritePath, volume: VolumeId, count: u64) {
    let data = Bytes::from(disk_like(7, 256));
    let mut dice = Dice(11);
    for number in 0..count {
        let from = usize::try_from(number % 256).unwrap() * BLOCK_SIZE;
        let op = Op::Write { volume, lba: dice.below(BLOCKS), data: data.slice(from..from + BLOCK_SIZE) };
        assert!(matches!(path.submit(&op).unwrap(), Submitted::Accepted(..)), "{:?}", path.figures());
        if number % 8 == 7 {
            while path.commit().unwrap() {}
            path.sync().unwrap();
        }
        if number % 256 == 255 {
            path.upkeep();
            path.settle().unwrap();
            path.reclaim(path.figures().image);
        }
    }
}

fn write(count: u64) {
    let dir = memory();
    let (path, volume) = write_path(dir.path());
    writes(&path, volume, count);
}

fn read(count: u64) {
    let dir = memory();
    let (path, volume) = write_path(dir.path());
    writes(&path, volume, 1152);
    let mut dice = Dice(13);
    let mut block = vec![0; BLOCK_SIZE];
    for _ in 0..count {
        let extent = Extent { lba: dice.below(BLOCKS), blocks: 1 };
        std::hint::black_box(path.read_here(volume, extent, &mut block).unwrap());
    }
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

async fn log() -> (Rig, Log) {
    let rig = Rig::new(At::Memory).await;
    let log = Log::new(&rig.vault, BLOCKS, ShipSettings::default()).await;
    (rig, log)
}

/// Intervals of 2 MiB.
async fn shipped(log: &mut Log, count: u64) {
    let data = Bytes::from(disk_like(7, 512));
    for number in 0..count / 512 {
        for part in 0..32 {
            let from = usize::try_from(part).unwrap() * 16 * BLOCK_SIZE;
            log.write((number * 512 + part * 16) % BLOCKS, data.slice(from..from + 16 * BLOCK_SIZE));
        }
        let interval = log.cut(i64::try_from(number).unwrap());
        log.ship(&interval).await;
    }
}

fn ship(count: u64) {
    runtime().block_on(async {
        let (_rig, mut log) = log().await;
        shipped(&mut log, count).await;
    });
}

fn recover(count: u64) {
    runtime().block_on(async {
        let (rig, mut log) = log().await;
        shipped(&mut log, 2048).await;
        let point = log.points().await.pop().unwrap();
        let view = PointView::open(Arc::clone(&rig.vault), log.group, &point).await.unwrap();
        for lba in (0..count).step_by(16) {
            std::hint::black_box(view.read_blocks(log.volume, lba % 2048, 16).await.unwrap());
        }
    });
}

fn hash(count: u64) {
    let data = disk_like(7, 256);
    let mut root = RootHasher::new(BlockHasher::new(&HashKey::from_bytes([7; 32])), count.max(1));
    for block in data.chunks(BLOCK_SIZE).cycle().take(usize::try_from(count.max(1)).unwrap()) {
        root.push(block.try_into().unwrap()).unwrap();
    }
    std::hint::black_box(root.finish().unwrap());
}

/// What was counted, and where.
#[derive(Debug, Serialize, Deserialize)]
struct Counts {
    compiler: String,
    /// What callgrind's processor can do, of what our libraries ask for.
    processor: String,
    instructions: BTreeMap<String, u64>,
}

fn compiler() -> String {
    let output = Command::new(std::env::var_os("RUSTC").unwrap_or("rustc".into())).arg("--version").output().unwrap();
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

fn processor() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap();
    let flags = info.lines().find(|line| line.starts_with("flags")).unwrap_or_default();
    let has: Vec<&str> = flags.split_whitespace().collect();
    let wanted = ["aes", "avx2", "bmi2", "pclmulqdq", "sse4_2"];
    format!(
        "{} {}",
        std::env::consts::ARCH,
        wanted.into_iter().filter(|flag| has.contains(flag)).collect::<Vec<_>>().join(" ")
    )
}

/// Instructions of a whole process.
fn counted(path: &Hot, count: u64) -> u64 {
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(std::env::current_exe().unwrap())
        .args(["run", path.name, &count.to_string()])
        .stdin(Stdio::null())
        .output()
        .expect("valgrind is installed: `make deps` does that");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {said}", path.name);
    let collected = said.lines().find_map(|line| line.split_once("Collected :"));
    collected.and_then(|(_, number)| number.trim().parse().ok()).unwrap_or_else(|| panic!("no count: {said}"))
}

#[expect(clippy::cast_precision_loss, reason = "a figure to print")]
fn ratio(now: u64, before: u64) -> f64 {
    now as f64 / before as f64
}

fn compare() -> ExitCode {
    let place = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/instructions.json");
    let before: Option<Counts> = std::fs::read(&place).ok().map(|text| serde_json::from_slice(&text).unwrap());
    let mut now = Counts { compiler: compiler(), processor: processor(), instructions: BTreeMap::new() };
    let same = before.as_ref().filter(|before| before.compiler == now.compiler && before.processor == now.processor);
    let mut slower = Vec::new();
    println!("{:<10} {:>12} {:>12} {:>7}  one is a", "path", "instructions", "before", "ratio");
    for path in &PATHS {
        let each = counted(path, path.count).saturating_sub(counted(path, 0)) / path.count;
        now.instructions.insert(path.name.to_owned(), each);
        let was = same.and_then(|before| before.instructions.get(path.name)).copied();
        let shown = was.map_or("-".to_owned(), |was| was.to_string());
        let grown = was.map(|was| ratio(each, was));
        let by = grown.map_or("-".to_owned(), |grown| format!("{grown:.3}"));
        println!("{:<10} {each:>12} {shown:>12} {by:>7}  {}", path.name, path.unit);
        if grown.is_some_and(|grown| grown > 1.0 + TOLERANCE) {
            slower.push(path.name);
        }
    }
    if std::env::var_os("LIFEBOAT_BLESS").is_some() {
        std::fs::write(&place, serde_json::to_string_pretty(&now).unwrap() + "\n").unwrap();
        println!("written to {}", place.display());
        return ExitCode::SUCCESS;
    }
    let Some(_) = same else {
        println!(
            "nothing to compare with: counts are kept for {before:?}, and this is {} on {}",
            now.compiler, now.processor
        );
        return ExitCode::SUCCESS;
    };
    if slower.is_empty() {
        return ExitCode::SUCCESS;
    }
    println!(
        "more than {:.0} % above what it was: {}. Mend it; where it has to be so, say why in the commit and write the counts anew with \
         `LIFEBOAT_BLESS=1 make instructions`",
        TOLERANCE * 100.0,
        slower.join(", ")
    );
    ExitCode::FAILURE
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["run", name, count] => {
            let path = PATHS.iter().find(|path| path.name == name).unwrap();
            (path.run)(count.parse().unwrap());
            ExitCode::SUCCESS
        }
        _ => compare(),
    }
}
