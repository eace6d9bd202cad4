//! Shipping: its rate beside zstd and AES-GCM alone, how old what has landed is under load, and what it asks of the vault (S1
//! to S3); lag against churn as a curve, and how long it takes to catch up after the vault was away.
//!
//! `make bench BENCH=shipping`. The vault is a directory in memory, which stands for storage elsewhere. The curve's picture is
//! `bench/lag.svg` in the build directory. The vault is away for ten minutes, or `LIFEBOAT_BENCH_AWAY` seconds.

#![allow(clippy::unwrap_used, reason = "a benchmark that can't measure ends with a panic")]

#[path = "support/pipe.rs"]
mod pipe;
mod support;

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use lifeboat_engine::ship::{Compression, ShipSettings};
use lifeboat_engine::{BlockVolume, Group};
use lifeboat_model::{BLOCK_SIZE, BLOCK_SIZE_U64};
use support::log::{Dice, Log};

use support::rig::{At, Rig, reached, settled};
use support::store::HeldStore;
use support::{Report, Row, disk_like, mib, mib_per_second, quantile, rounds};

const INTERVAL_BLOCKS: usize = 8192;
const INTERVALS: usize = 8;

#[tokio::main]
async fn main() {
    let mut report = Report::new("shipping");
    if support::wanted("rate") {
        rate(&mut report).await;
    }
    if support::wanted("requests_and_bytes") {
        requests_and_bytes(&mut report).await;
    }
    if support::wanted("under_load") {
        under_load(&mut report).await;
    }
    if support::wanted("curve") {
        curve(&mut report).await;
    }
    if support::wanted("away") {
        away(&mut report).await;
    }
    report.finish();
}

/// S1: raw bytes for a second of one processor, segments of 32 MiB.
async fn rate(report: &mut Report) {
    let data = Bytes::from(disk_like(7, INTERVAL_BLOCKS * INTERVALS));
    for (level, compression) in [(-3, Compression::Auto), (1, Compression::Level(1))] {
        let mut row = Row {
            target: "S1",
            what: format!("shipping, raw bytes for a second of processor, zstd {level}"),
            ours: Vec::new(),
            beside: Vec::new(),
            baseline: "zstd + AES-256-GCM, same level",
            unit: "MiB/s",
            wanted: ">= 0.9",
        };
        for _ in 0..rounds(3) {
            let rig = Rig::new(At::Memory).await;
            let settings = ShipSettings { compression, ..ShipSettings::default() };
            let mut log = Log::new(&rig.vault, 1 << 22, settings).await;
            let started = pipe::cpu_time();
            for (number, part) in (0..).zip(data.chunks(INTERVAL_BLOCKS * BLOCK_SIZE)) {
                for (index, blocks) in (0..).zip(part.chunks(16 * BLOCK_SIZE)) {
                    log.write(number * 8192 + index * 16, data.slice_ref(blocks));
                }
                let interval = log.cut(number.try_into().unwrap_or(0));
                log.ship(&interval).await;
            }
            row.ours.push(mib_per_second(data.len() as u64, pipe::cpu_time() - started));
            let started = pipe::cpu_time();
            std::hint::black_box(pipe::seal(&data, level));
            row.beside.push(mib_per_second(data.len() as u64, pipe::cpu_time() - started));
        }
        report.row(row);
    }
}

/// S3: requests a seal, bytes in the vault beside the compressed payload, and what an idle group asks for.
async fn requests_and_bytes(report: &mut Report) {
    for (what, random) in [("1M sequential writes", false), ("4K random writes over 1 GiB of content", true)] {
        let rig = Rig::new(At::Memory).await;
        let mut log = Log::new(&rig.vault, 1 << 20, ShipSettings::default()).await;
        let data = Bytes::from(disk_like(3, 8192));
        if random {
            for number in 0..32_u64 {
                log.write(number * 8192, data.clone());
                let interval = log.cut(0);
                log.ship(&interval).await;
            }
            log.writer.write_map().await.unwrap();
        }
        let before = (
            HeldStore::figure(&rig.store.puts),
            HeldStore::figure(&rig.store.requests),
            HeldStore::figure(&rig.store.bytes_put),
        );
        let (mut dice, mut seals, mut payload) = (Dice(99), 0_u64, 0_u64);
        for number in 0..256_u64 {
            let mut raw = Vec::new();
            for _ in 0..if random { 256 } else { 1 } {
                let lba = if random { dice.below(1 << 18) } else { number * 256 };
                let blocks = if random { 1 } else { 256 };
                let from = usize::try_from(dice.below(8192 - blocks)).unwrap() * BLOCK_SIZE;
                let part = data.slice(from..from + usize::try_from(blocks).unwrap() * BLOCK_SIZE);
                raw.extend_from_slice(&part);
                log.write(lba, part);
            }
            payload += pipe::seal(&raw, 1).iter().map(|frame| frame.len() as u64).sum::<u64>();
            let interval = log.cut(i64::try_from(number).unwrap());
            seals += u64::from(log.writer.append(&interval).await.unwrap().segments);
            log.writer.drive_map().await.unwrap();
        }
        log.writer.write_map().await.unwrap();
        let puts = HeldStore::figure(&rig.store.puts) - before.0;
        let requests = HeldStore::figure(&rig.store.requests) - before.1;
        let bytes = HeldStore::figure(&rig.store.bytes_put) - before.2;
        let row = |what: String, ours: u64, beside: u64, unit, wanted, baseline| Row {
            target: "S3",
            what,
            ours: vec![float(ours)],
            beside: vec![float(beside)],
            baseline,
            unit,
            wanted,
        };
        report.row(row(format!("puts, maps included, {what}"), puts, seals, "", "1", "seals"));
        report.row(row(format!("requests, {what}"), requests, seals, "", "2", "seals"));
        report.row(row(format!("bytes in the vault, {what}"), bytes, payload, "B", "<= 1.05", "compressed frames"));
    }
    let rig = Rig::new(At::Memory).await;
    let (group, volumes) = rig.group(Duration::from_millis(200), 1 << 30, &[64 << 20]).await;
    let volume = group.volume(volumes[0]).unwrap();
    volume.write(0, Bytes::from(disk_like(1, 1))).await.unwrap();
    settled(&group).await;
    let before = HeldStore::figure(&rig.store.requests);
    tokio::time::sleep(Duration::from_secs(3)).await;
    let requests = HeldStore::figure(&rig.store.requests) - before;
    report.row(Row {
        target: "S3",
        what: "requests of an idle group in 15 intervals".to_owned(),
        ours: vec![float(requests)],
        beside: Vec::new(),
        baseline: "",
        unit: "",
        wanted: "0",
    });
    group.close(Duration::from_secs(5)).await;
}

/// A group under load, and how fast it ships: 256 MiB at once, held up until all of them wait, then let go.
struct Loaded {
    rig: Rig,
    group: Arc<Group>,
    volume: Arc<dyn BlockVolume>,
    data: Bytes,
    limit: f64,
}

impl Loaded {
    async fn new(report: &mut Report) -> Self {
        let rig = Rig::new(At::Memory).await;
        let (group, volumes) = rig.group(Duration::from_secs(1), 2 << 30, &[1 << 30]).await;
        let volume = group.volume(volumes[0]).unwrap();
        let data = Bytes::from(disk_like(11, 65_536));
        rig.store.set_open(false);
        for at in (0..data.len()).step_by(1 << 20) {
            volume.write(at as u64, data.slice(at..at + (1 << 20))).await.unwrap();
        }
        let waiting = Arc::clone(&group);
        reached(|| waiting.status().image_lsn >= waiting.status().last_lsn).await;
        rig.store.set_open(true);
        let started = Instant::now();
        settled(&group).await;
        let limit = mib_per_second(data.len() as u64, started.elapsed());
        report.note("shipping limit of a group, MiB/s", limit);
        Self { rig, group, volume, data, limit }
    }

    async fn ages(&self, share: f64, time: Duration) -> Vec<f64> {
        load(&self.group, &self.volume, &self.data, self.limit * share, time).await
    }

    async fn close(self) {
        settled(&self.group).await;
        self.group.close(Duration::from_secs(5)).await;
    }
}

/// S2: the age of the oldest write that no landed point holds, while as much is written as 80 % of what can be shipped.
async fn under_load(report: &mut Report) {
    let loaded = Loaded::new(report).await;
    let ages = loaded.ages(0.8, Duration::from_secs(10)).await;
    report.row(Row {
        target: "S2",
        what: "landed RPO p99 at 80 % of the shipping limit, 1 s interval".to_owned(),
        ours: vec![quantile(&ages, 0.99)],
        beside: Vec::new(),
        baseline: "interval + 1 s",
        unit: "s",
        wanted: "<= 2",
    });
    loaded.close().await;
}

/// Lag against churn: the landed RPO while more and more is written, up to more than can be shipped.
async fn curve(report: &mut Report) {
    let loaded = Loaded::new(report).await;
    let mut points = Vec::new();
    for percent in [10_u32, 20, 40, 60, 70, 80, 90, 100, 120] {
        let ages = loaded.ages(f64::from(percent) / 100.0, Duration::from_secs(10)).await;
        let (usual, most) = (quantile(&ages, 0.5), quantile(&ages, 0.99));
        for (what, figure) in [("median", usual), ("p99", most)] {
            report.row(Row {
                target: "S2",
                what: format!("landed RPO, {what}, at {percent} % of the shipping limit, 1 s interval"),
                ours: vec![figure],
                beside: Vec::new(),
                baseline: "",
                unit: "s",
                wanted: "",
            });
        }
        points.push((f64::from(percent), usual, most));
        settled(&loaded.group).await;
    }
    report.picture("lag", &drawn(&points, loaded.limit));
    loaded.close().await;
}

/// The curve as SVG: both figures over the share of the shipping limit.
fn drawn(points: &[(f64, f64, f64)], limit: f64) -> String {
    let top = points.iter().map(|(_, _, most)| *most).fold(2.0, f64::max).ceil();
    let place =
        |percent: f64, seconds: f64| format!("{:.1},{:.1}", 60.0 + percent * 4.0, 260.0 - seconds / top * 220.0);
    let line = |of: fn(&(f64, f64, f64)) -> f64| {
        points.iter().map(|point| place(point.0, of(point))).collect::<Vec<_>>().join(" ")
    };
    let mut marks = String::new();
    for percent in (0..=120).step_by(20) {
        let x = 60 + percent * 4;
        marks += &format!("<text x=\"{x}\" y=\"278\" text-anchor=\"middle\">{percent} %</text>\n");
    }
    for part in 0..=4 {
        let seconds = top * f64::from(part) / 4.0;
        let y = 260 - part * 55;
        marks += &format!(
            "<path d=\"M60 {y}H540\" stroke=\"#ccc\"/><text x=\"52\" y=\"{}\" text-anchor=\"end\">{seconds:.1} s</text>\n",
            y + 4
        );
    }
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 600 310\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"600\" height=\"310\" fill=\"#fff\"/>\n{marks}\
         <polyline points=\"{}\" fill=\"none\" stroke=\"#06c\" stroke-width=\"2\"/>\n\
         <polyline points=\"{}\" fill=\"none\" stroke=\"#c30\" stroke-width=\"2\"/>\n\
         <text x=\"70\" y=\"30\" fill=\"#c30\">landed RPO, p99</text><text x=\"190\" y=\"30\" fill=\"#06c\">median</text>\n\
         <text x=\"300\" y=\"300\" text-anchor=\"middle\">written, of the {limit:.0} MiB/s that can be shipped</text>\n</svg>\n",
        line(|point| point.1),
        line(|point| point.2)
    )
}

/// The vault is away for minutes while 2 MiB a second are written; how long until what has landed is as young as it was.
async fn away(report: &mut Report) {
    let loaded = Loaded::new(report).await;
    let seconds = std::env::var("LIFEBOAT_BENCH_AWAY").ok().and_then(|text| text.parse().ok()).unwrap_or(600);
    let share = 2.0 / loaded.limit;
    loaded.rig.store.set_open(false);
    let ages = loaded.ages(share, Duration::from_secs(seconds)).await;
    let waiting = mib(loaded.group.status().backlog_bytes);
    loaded.rig.store.set_open(true);
    let back = Instant::now();
    let mut after: Vec<f64> = Vec::new();
    while after.last().is_none_or(|age| *age > 2.0) {
        assert!(back.elapsed() < Duration::from_secs(300), "it doesn't catch up: {:?}", loaded.group.status());
        after.extend(loaded.ages(share, Duration::from_millis(100)).await.last());
    }
    let row = |what: String, figure: f64, unit| Row {
        target: "S2",
        what,
        ours: vec![figure],
        beside: Vec::new(),
        baseline: "",
        unit,
        wanted: "",
    };
    let oldest = ages.iter().copied().fold(0.0, f64::max);
    report.row(row(format!("vault away for {seconds} s, 2 MiB/s written: landed RPO at its worst"), oldest, "s"));
    report.row(row("the same: what waits when it is back".to_owned(), waiting, "MiB"));
    report.row(row(
        "the same: until what has landed is younger than 2 s".to_owned(),
        back.elapsed().as_secs_f64(),
        "s",
    ));
    loaded.close().await;
}

/// Writes so many MiB a second, and gives the ages seen every 20 ms.
async fn load(group: &Arc<Group>, volume: &Arc<dyn BlockVolume>, data: &Bytes, rate: f64, time: Duration) -> Vec<f64> {
    let started = Instant::now();
    let (mut written, mut ages, mut dice) = (0_u64, Vec::new(), Dice(5));
    let mut next = started;
    while started.elapsed() < time {
        while mib(written) < rate * started.elapsed().as_secs_f64() {
            let from = usize::try_from(dice.below(65_536 - 16)).unwrap() * BLOCK_SIZE;
            let at = dice.below((1 << 18) - 16) * BLOCK_SIZE_U64;
            let part = data.slice(from..from + 16 * BLOCK_SIZE);
            written += part.len() as u64;
            volume.write(at, part).await.unwrap();
        }
        if Instant::now() >= next {
            next += Duration::from_millis(20);
            ages.extend(group.status().landed_rpo_seconds);
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    ages
}

#[expect(clippy::cast_precision_loss, reason = "a figure to print")]
fn float(figure: u64) -> f64 {
    figure as f64
}
