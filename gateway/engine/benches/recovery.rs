//! Recovery: the first byte of any point, failing back, rehydration, and finding out that nothing differs (R1, R3, R4, R5).
//!
//! `make bench BENCH=recovery`, or `cargo bench --bench recovery -- image` for one part (`first_byte`, `far`, `refill`, `image`). Every look at the vault is through a reader of its own, as a gateway's first one.

#![allow(clippy::unwrap_used, reason = "a benchmark that can't measure ends with a panic")]

#[path = "support/pipe.rs"]
mod pipe;
mod support;

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use lifeboat_engine::points::{PointInfo, PointRetention};
use lifeboat_engine::rehydrate::{Cursor, ImageReader, ImageSink, RehydrateLimits, RehydrateStats, Source, rehydrate};
use lifeboat_engine::ship::ShipSettings;
use lifeboat_engine::view::PointView;
use lifeboat_engine::{EngineError, Group, GroupSettings, RehydrateMode};
use lifeboat_model::{BLOCK_SIZE, BLOCK_SIZE_U64, Extent, ExtentSet, VolumeId};
use support::log::{Dice, Log};

use support::rig::{At, Rig};
use support::store::HeldStore;
use support::{Report, Row, disk_like, mib_per_second, quantile, rounds, row, timed};

const TIB_BLOCKS: u64 = 1 << 28;
const POINTS: u32 = 10_000;
/// What is rehydrated and compared.
const IMAGE_BLOCKS: usize = 96 << 10;
/// One request to the store, when round trips are counted by the clock.
const TRIP: Duration = Duration::from_millis(50);

#[tokio::main]
async fn main() {
    let mut report = Report::new("recovery");
    if support::wanted("first_byte") {
        first_byte(&mut report).await;
    }
    if support::wanted("far") {
        far(&mut report).await;
    }
    if support::wanted("refill") {
        refill(&mut report).await;
    }
    if support::wanted("image") {
        image(&mut report).await;
    }
    report.finish();
}

/// R1: a volume of 1 TiB with 10,000 points.
async fn first_byte(report: &mut Report) {
    let rig = Rig::new(At::Memory).await;
    // Every point stays: the list is as long as it gets.
    let retention = PointRetention { tiers: vec![(Duration::from_secs(15 * 24 * 3600), Duration::ZERO)], max: 65_536 };
    let settings = ShipSettings { retention, ..ShipSettings::default() };
    let mut log = Log::new(&rig.vault, TIB_BLOCKS, settings).await;
    let mut dice = Dice(4711);
    let data = Bytes::from(disk_like(5, 4096));
    let mut written = vec![0];
    log.write(0, data.slice(..BLOCK_SIZE));
    let started = Instant::now();
    for number in 0..POINTS {
        for _ in 0..2 {
            let lba = dice.below(TIB_BLOCKS);
            written.push(lba);
            let from = usize::try_from(dice.below(4096)).unwrap() * BLOCK_SIZE;
            log.write(lba, data.slice(from..from + BLOCK_SIZE));
        }
        let interval = log.cut(i64::from(number) * 5);
        log.ship(&interval).await;
    }
    log.writer.write_map().await.unwrap();
    report.note("seconds to ship 10,000 points", started.elapsed().as_secs_f64());
    let points = log.points().await;
    report.note("points that can be mounted", points.len());
    let (mut first, mut other, mut trips, mut trips_other) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for round in 0..40 {
        let point = &points[usize::try_from(dice.below(points.len() as u64)).unwrap()];
        // The last ones with a store far away: what passes is round trips, and little else.
        let far = round >= 30;
        rig.store.set_latency(if far { TRIP } else { Duration::ZERO });
        let lba = written[usize::try_from(dice.below(written.len() as u64)).unwrap()];
        let started = Instant::now();
        let view = PointView::open(Arc::clone(&log.vault), log.group, point).await.unwrap();
        let volume = view.volume(log.volume).unwrap();
        volume.read(0, 512).await.unwrap();
        let to_first = started.elapsed();
        volume.read(lba * BLOCK_SIZE_U64, 512).await.unwrap();
        let to_other = started.elapsed();
        if far {
            trips.push((to_first.as_secs_f64() / TRIP.as_secs_f64()).floor());
            trips_other.push((to_other.as_secs_f64() / TRIP.as_secs_f64()).floor());
        } else {
            first.push(to_first.as_secs_f64());
            other.push(to_other.as_secs_f64());
        }
    }
    rig.store.set_latency(Duration::ZERO);
    let row = |what: &str, figure: f64, unit, wanted| Row {
        target: "R1",
        what: what.to_owned(),
        ours: vec![figure],
        beside: Vec::new(),
        baseline: "",
        unit,
        wanted,
    };
    report.row(row("round trips to the first byte, median", support::median(&trips), "", "<= 4"));
    report.row(row("round trips to the first byte and one anywhere, median", support::median(&trips_other), "", ""));
    report.row(row("first byte of any point, p99", quantile(&first, 0.99), "s", "< 0.3"));
    report.row(row("first byte and one anywhere, p99", quantile(&other, 0.99), "s", "< 0.3"));
}

/// How long recovery takes by the size of the volume, the number of its points and how far away the storage is: to the first byte of a
/// point, and until all of its content is here, proved and durable. Each volume has 64 MiB of content; each point two blocks anywhere besides.
async fn far(report: &mut Report) {
    const CONTENT: usize = 16_384;
    for (size, blocks) in [("1 GiB", 1_u64 << 18), ("1 TiB", TIB_BLOCKS)] {
        for count in [1_u32, 100, POINTS] {
            let rig = Rig::new(At::Memory).await;
            let retention =
                PointRetention { tiers: vec![(Duration::from_secs(15 * 24 * 3600), Duration::ZERO)], max: 65_536 };
            let mut log = Log::new(&rig.vault, blocks, ShipSettings { retention, ..ShipSettings::default() }).await;
            let mut dice = Dice(4711);
            let data = Bytes::from(disk_like(5, CONTENT));
            for (index, part) in (0..).zip(data.chunks(16 * BLOCK_SIZE)) {
                log.write(index * 16, data.slice_ref(part));
            }
            for number in 0..count {
                for _ in 0..2 {
                    let from = usize::try_from(dice.below(CONTENT as u64)).unwrap() * BLOCK_SIZE;
                    log.write(dice.below(blocks), data.slice(from..from + BLOCK_SIZE));
                }
                let interval = log.cut(i64::from(number) * 5);
                log.ship(&interval).await;
            }
            log.writer.write_map().await.unwrap();
            let points = log.points().await;
            for delay in [0, 50, 150] {
                rig.store.set_latency(Duration::from_millis(delay));
                let mut row = |what: &str, ours: Vec<f64>| {
                    report.row(Row {
                        target: "R1",
                        what: format!("{size}, points {count}, every request {delay} ms later: {what}"),
                        ours,
                        beside: Vec::new(),
                        baseline: "",
                        unit: "s",
                        wanted: "",
                    });
                };
                let mut first = Vec::new();
                for _ in 0..3 {
                    let point = &points[usize::try_from(dice.below(points.len() as u64)).unwrap()];
                    let started = Instant::now();
                    let view = PointView::open(Arc::clone(&log.vault), log.group, point).await.unwrap();
                    view.volume(log.volume).unwrap().read(0, 512).await.unwrap();
                    first.push(started.elapsed().as_secs_f64());
                }
                row("first byte", first);
                let newest = points.iter().max_by_key(|point| point.lsn).unwrap();
                let mut all = Vec::new();
                for round in 0..rounds(1) {
                    let path = rig.dir.path().join(format!("far-{delay}-{round}"));
                    let started = Instant::now();
                    let view = PointView::open(Arc::clone(&log.vault), log.group, newest).await.unwrap();
                    let sink = FileImage::new(&path, log.volume, blocks);
                    rehydrate(&view, Source::Full, &sink, None, RehydrateLimits::default()).await.unwrap();
                    sink.file.sync_data().unwrap();
                    all.push(started.elapsed().as_secs_f64());
                    std::fs::remove_file(&path).unwrap();
                }
                row("all of its content", all);
            }
        }
    }
}

/// A file on the disk that is measured.
struct FileImage {
    file: Arc<File>,
    volume: VolumeId,
    blocks: u64,
}

impl FileImage {
    fn new(path: &Path, volume: VolumeId, blocks: u64) -> Self {
        let file = File::options().read(true).write(true).create(true).truncate(false).open(path).unwrap();
        Self { file: Arc::new(file), volume, blocks }
    }
}

#[async_trait]
impl ImageSink for FileImage {
    async fn resize(&self, _: VolumeId, blocks: u64) -> Result<(), EngineError> {
        self.file.set_len(blocks * BLOCK_SIZE_U64).unwrap();
        Ok(())
    }

    async fn write(&self, _: VolumeId, lba: u64, data: Bytes) -> Result<(), EngineError> {
        let file = Arc::clone(&self.file);
        tokio::task::spawn_blocking(move || file.write_all_at(&data, lba * BLOCK_SIZE_U64).unwrap()).await.unwrap();
        Ok(())
    }

    async fn zero(&self, _: VolumeId, _: Extent) -> Result<(), EngineError> {
        Ok(())
    }

    async fn progress(&self, _: Cursor) -> Result<(), EngineError> {
        Ok(())
    }
}

#[async_trait]
impl ImageReader for FileImage {
    async fn blocks(&self, volume: VolumeId) -> Result<u64, EngineError> {
        Ok(if volume == self.volume { self.blocks } else { 0 })
    }

    async fn read(&self, _: VolumeId, extent: Extent) -> Result<Bytes, EngineError> {
        let file = Arc::clone(&self.file);
        let read = move || {
            let mut data = vec![0; usize::try_from(extent.blocks).unwrap() * BLOCK_SIZE];
            file.read_exact_at(&mut data, extent.lba * BLOCK_SIZE_U64).unwrap();
            Bytes::from(data)
        };
        Ok(tokio::task::spawn_blocking(read).await.unwrap())
    }
}

struct Images {
    rig: Rig,
    log: Log,
    data: Bytes,
    path: PathBuf,
    threads: usize,
}

impl Images {
    async fn view(&self, point: &PointInfo) -> Arc<PointView> {
        PointView::open(Arc::clone(&self.log.vault), self.log.group, point).await.unwrap()
    }

    async fn bring(&self, point: &PointInfo, source: Source) -> (RehydrateStats, Duration, u64) {
        let before = HeldStore::figure(&self.rig.store.bytes_read);
        let started = Instant::now();
        let target = self.view(point).await;
        let sink = FileImage::new(&self.path, self.log.volume, IMAGE_BLOCKS as u64);
        let done = rehydrate(&target, source, &sink, None, RehydrateLimits::default()).await.unwrap();
        sink.file.sync_data().unwrap();
        (done, started.elapsed(), HeldStore::figure(&self.rig.store.bytes_read) - before)
    }

    fn disk_read(&self) -> Duration {
        let file = File::open(&self.path).unwrap();
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
        let mut buffer = vec![0; 1 << 20];
        timed(|| {
            (0..self.data.len() as u64).step_by(1 << 20).for_each(|at| file.read_exact_at(&mut buffer, at).unwrap())
        })
        .1
    }
}

/// R4: a gateway that has lost everything brings a group back: images written, made durable, and the group's state with them.
async fn refill(report: &mut Report) {
    let rig = Rig::new(At::Memory).await;
    let data = Bytes::from(disk_like(21, IMAGE_BLOCKS));
    let size = data.len() as u64;
    let (group, volumes) = rig.group(Duration::from_secs(3600), 1 << 30, &[size]).await;
    let volume = group.volume(volumes[0]).unwrap();
    for (chunk, at) in data.chunks(1 << 20).zip((0..).step_by(1 << 20)) {
        volume.write(at, data.slice_ref(chunk)).await.unwrap();
    }
    let point = group.take_point(lifeboat_model::PointKind::Manual, "").await.unwrap();
    let frames = pipe::seal(&data, 1);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let mut filled = row("R4", "rehydration of an empty image", "MiB/s", ">= 0.8", "min(disk write, zstd + GCM)");
    for _ in 0..rounds(3) {
        let config = rig.config(point.group, GroupSettings::default());
        let dir = config.dir.clone();
        let blank = Group::blank(config, point.branch).await.unwrap();
        let started = Instant::now();
        let pass = blank.rehydrate(point.branch, RehydrateMode::Full).await.unwrap();
        filled.ours.push(mib_per_second(size, started.elapsed()));
        assert_eq!(pass.blocks_moved, size / BLOCK_SIZE_U64);
        blank.close(Duration::ZERO).await;
        std::fs::remove_dir_all(&dir).unwrap();
        let decode = pipe::open(&frames, threads);
        let plain = disk_write(&rig.dir.path().join("plain"), &data);
        filled.beside.push(mib_per_second(size, plain.max(decode)));
    }
    report.row(filled);
    group.close(Duration::from_secs(5)).await;
}

/// Writes the bytes to a new file and makes them durable.
fn disk_write(path: &Path, data: &[u8]) -> Duration {
    let ((), time) = timed(|| {
        let file = File::create(path).unwrap();
        for (chunk, at) in data.chunks(1 << 20).zip((0..).step_by(1 << 20)) {
            file.write_all_at(chunk, at).unwrap();
        }
        file.sync_data().unwrap();
    });
    std::fs::remove_file(path).unwrap();
    time
}

/// R5, R3: an image compared, and brought forward.
async fn image(report: &mut Report) {
    let rig = Rig::new(At::Memory).await;
    let mut log = Log::new(&rig.vault, IMAGE_BLOCKS as u64, ShipSettings::default()).await;
    let data = Bytes::from(disk_like(21, IMAGE_BLOCKS));
    for (number, part) in (0_u64..).zip(data.chunks(8192 * BLOCK_SIZE)) {
        for (index, blocks) in (0..).zip(part.chunks(16 * BLOCK_SIZE)) {
            log.write(number * 8192 + index * 16, data.slice_ref(blocks));
        }
        let interval = log.cut(i64::try_from(number).unwrap());
        log.ship(&interval).await;
    }
    log.writer.write_map().await.unwrap();
    let full = log.points().await.pop().unwrap();
    let path = rig.dir.path().join("image");
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let mut images = Images { rig, log, data, path, threads };
    images.bring(&full, Source::Full).await;
    equal(report, &images, &full).await;
    forward(report, &mut images, &full).await;
}

async fn equal(report: &mut Report, images: &Images, full: &PointInfo) {
    let size = images.data.len() as u64;
    let mut equal = row("R5", "finding an image equal", "MiB/s", ">= 0.9", "min(disk read, BLAKE3)");
    let mut moved = row("R5", "bytes read from the vault for it", "B", "<= 0.005", "bytes of the volume");
    for _ in 0..rounds(3) {
        let local = FileImage::new(&images.path, images.log.volume, IMAGE_BLOCKS as u64);
        rustix::fs::fadvise(&*local.file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
        let (done, time, read) = images.bring(full, Source::Compare(Arc::new(local))).await;
        assert_eq!(done.blocks_moved, 0);
        equal.ours.push(mib_per_second(size, time));
        equal.beside.push(mib_per_second(size, images.disk_read().max(pipe::hash(&images.data, images.threads))));
        moved.ours.push(float(read));
        moved.beside.push(float(size));
    }
    report.row(equal);
    report.row(moved);
}

/// R3: what has changed since the point, in blocks all over the volume, or in stretches.
async fn forward(report: &mut Report, images: &mut Images, full: &PointInfo) {
    let mut base = full.clone();
    for (what, step, run) in [("stretches of 1 MiB", 2048_usize, 256_usize), ("single blocks", 40, 1)] {
        let changed = Bytes::from(disk_like(77 + run as u64, IMAGE_BLOCKS));
        let mut raw = Vec::new();
        for at in (0..IMAGE_BLOCKS - run).step_by(step) {
            let part = changed.slice(at * BLOCK_SIZE..(at + run) * BLOCK_SIZE);
            raw.extend_from_slice(&part);
            images.log.write(at as u64, part);
            // Intervals small enough to be compressed as well as the bytes that they are held against.
            if raw.len().is_multiple_of(2048 * BLOCK_SIZE) {
                let interval = images.log.cut(1_000_000);
                images.log.ship(&interval).await;
            }
        }
        let interval = images.log.cut(1_000_000);
        images.log.ship(&interval).await;
        images.log.writer.write_map().await.unwrap();
        let target = images.log.points().await.pop().unwrap();
        let compressed: u64 = pipe::seal(&raw, 1).iter().map(|frame| frame.len() as u64).sum();
        let source = Source::Delta { base: images.view(&base).await, dirty: BTreeMap::<VolumeId, ExtentSet>::new() };
        let (done, _, read) = images.bring(&target, source).await;
        assert_eq!(done.blocks_moved, (raw.len() / BLOCK_SIZE) as u64);
        let mut frames =
            row("R3", &format!("failback, bytes of frames, {what}"), "B", "<= 1.05", "changed bytes, compressed");
        frames.ours.push(float(done.bytes_fetched));
        frames.beside.push(float(compressed));
        let mut all = row("R3", &format!("failback, all bytes read, {what}"), "B", "", "changed bytes, compressed");
        all.ours.push(float(read));
        all.beside.push(float(compressed));
        report.row(frames);
        report.row(all);
        base = target;
    }
}

#[expect(clippy::cast_precision_loss, reason = "a figure to print")]
fn float(figure: u64) -> f64 {
    figure as f64
}
