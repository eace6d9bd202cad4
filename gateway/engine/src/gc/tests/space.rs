//! Whether a vault's size follows what retained points need, and what that costs in writes.
//!
//! Blocks of a working set are overwritten at random with content that doesn't compress, so that bytes can be compared with
//! a count of the different blocks that the retained points hold.

use std::collections::HashSet;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use lifeboat_model::{BLOCK_SIZE, Lsn, PointId, PointKind, Timestamp};
use lifeboat_vault::{Clock, Effect, OpKind, Rule, VaultOptions};

use crate::gc::{GcReport, GcSettings, Memory, Runner, run};
use crate::points::{PointInfo, PointRetention, list_points};
use crate::record::{LogRecord, Op, PointMark};
use crate::ship::tests::harness::{Bench, gateway, volume};
use crate::ship::{BranchWriter, Interval, Open};
use crate::tree::tests::Dice;
use crate::view::{BlockRun, PointView};

/// Blocks of the working set: 16 MiB.
const BLOCKS: usize = 4096;
/// Seconds from point to point.
const STEP: i64 = 5;

/// Content of a block, by number; none is compressible, nor are two of them together.
fn content(number: u64) -> Bytes {
    static NOISE: OnceLock<Vec<u64>> = OnceLock::new();
    let noise = NOISE.get_or_init(|| {
        let mut dice = Dice(7);
        (0..BLOCK_SIZE / 8).map(|_| dice.below(u64::MAX)).collect()
    });
    let key = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    noise.iter().flat_map(|word| (word ^ key).to_le_bytes()).collect()
}

/// Every block of the set.
fn all() -> Vec<usize> {
    (0..BLOCKS).collect()
}

/// A volume that is overwritten, and what it held at each point.
struct Overwritten {
    bench: Bench,
    clock: Arc<AtomicI64>,
    writer: BranchWriter,
    dice: Dice,
    lsn: Lsn,
    numbers: Vec<u64>,
    next: u64,
    points: Vec<(PointId, Vec<u64>)>,
    memory: Memory,
    retention: PointRetention,
    /// Blocks that were written by the application, and again by the writer.
    written: u64,
    carried: u64,
    /// Bytes of rebuilt segments.
    rebuilt: u64,
}

impl Overwritten {
    async fn new(seed: u64) -> Self {
        let clock = Arc::new(AtomicI64::new(1_700_000_000_000_000));
        let shared = Arc::clone(&clock);
        let options = VaultOptions {
            clock: Clock::new(move || Timestamp::from_micros(shared.load(Ordering::Relaxed))),
            ..VaultOptions::for_tests()
        };
        let bench = Bench::with(options).await;
        let (mut writer, _) = bench.open(gateway(1), Open::New { origin: None }).await.unwrap();
        // All points for a minute, one every half a minute for two.
        let second = Duration::from_secs;
        let tiers = vec![(second(60), Duration::ZERO), (second(120), second(30))];
        let retention = PointRetention { tiers, max: 1000 };
        writer.set_retention(retention.clone());
        Self {
            bench,
            clock,
            writer,
            dice: Dice(seed),
            lsn: Lsn::ZERO,
            numbers: vec![0; BLOCKS],
            next: 1,
            points: Vec::new(),
            memory: Memory::default(),
            retention,
            written: 0,
            carried: 0,
            rebuilt: 0,
        }
    }

    fn record(&mut self, records: &mut Vec<LogRecord>, op: Op) {
        self.lsn = self.lsn.next();
        records.push(LogRecord { lsn: self.lsn, op });
    }

    fn write(&mut self, records: &mut Vec<LogRecord>, lba: usize) {
        self.numbers[lba] = self.next;
        self.next += 1;
        self.written += 1;
        let data = content(self.numbers[lba]);
        self.record(records, Op::Write { volume: volume(1), lba: u64::try_from(lba).unwrap(), data });
    }

    fn any_block(&mut self) -> usize {
        usize::try_from(self.dice.below(u64::try_from(BLOCKS).unwrap())).unwrap()
    }

    /// One interval that writes those blocks and ends with a point.
    async fn interval(&mut self, lbas: &[usize]) {
        let now = self.clock.fetch_add(STEP * 1_000_000, Ordering::Relaxed) + STEP * 1_000_000;
        let mut records = Vec::new();
        if self.lsn == Lsn::ZERO {
            let blocks = u64::try_from(BLOCKS).unwrap();
            self.record(&mut records, Op::Resize { volume: volume(1), blocks });
        }
        lbas.iter().for_each(|lba| self.write(&mut records, *lba));
        let mark = PointMark {
            id: PointId::new(),
            time: Timestamp::from_micros(now),
            kind: PointKind::CrashConsistent,
            label: String::new(),
            consistent: true,
        };
        self.points.push((mark.id, self.numbers.clone()));
        self.record(&mut records, Op::Point(mark));
        let done = self.writer.append(&Interval { records, last_lsn: self.lsn, ..Interval::default() }).await.unwrap();
        self.carried += done.carried_bytes / 4096;
    }

    /// One interval that writes so many blocks at random.
    async fn some_written(&mut self, count: usize) {
        let lbas: Vec<usize> = (0..count).map(|_| self.any_block()).collect();
        self.interval(&lbas).await;
    }

    async fn collect(&mut self, grace: Duration) -> GcReport {
        let runner = Runner { gateway: gateway(1), branch: self.bench.branch, epoch: self.writer.epoch() };
        let settings = GcSettings { retention: self.retention.clone(), grace, dry_run: false, ..GcSettings::default() };
        let report = run(&self.bench.vault, self.bench.group, runner, &settings, &mut self.memory).await.unwrap();
        self.writer.carry(report.carry.clone());
        self.rebuilt += report.rebuilt.bytes;
        report
    }

    /// Bytes that collecting wrote over bytes that the application wrote.
    fn written_again(&self) -> f64 {
        ratio(self.carried * 4096 + self.rebuilt, self.written * 4096)
    }

    async fn retained(&self) -> Vec<PointInfo> {
        list_points(&self.bench.vault, self.bench.group, self.bench.branch).await.unwrap()
    }

    fn numbers_at(&self, point: PointId) -> &[u64] {
        &self.points.iter().find(|(id, _)| *id == point).expect("a point of ours").1
    }

    /// Bytes of the different blocks that the retained points hold.
    async fn needed(&self) -> u64 {
        let mut different: HashSet<u64> = HashSet::new();
        for point in self.retained().await {
            different.extend(self.numbers_at(point.id).iter().filter(|number| **number > 0));
        }
        u64::try_from(different.len() * BLOCK_SIZE).unwrap()
    }

    async fn stored(&self) -> u64 {
        let objects = self.bench.vault.store().list("groups").await.unwrap();
        objects.iter().map(|object| object.size).sum()
    }

    /// Where the vault's bytes are: log, rebuilt segments, maps, everything else; in KiB.
    async fn where_it_is(&self) -> String {
        let mut parts = [("log", 0), ("rebuilt", 0), ("maps", 0), ("rest", 0)];
        for object in self.bench.vault.store().list("groups").await.unwrap() {
            let part = ["/log/", "/rebuilt/", "/map/"].iter().position(|part| object.key.contains(part));
            parts[part.unwrap_or(3)].1 += object.size;
        }
        parts.map(|(part, bytes)| format!("{part} {}", bytes / 1024)).join(", ")
    }

    /// Every retained point, byte for byte.
    async fn check(&self) {
        for point in self.retained().await {
            let view = PointView::open(self.bench.vault.clone(), self.bench.group, &point).await.unwrap();
            let mut lba = 0;
            for run in view.read_blocks(volume(1), 0, u64::MAX).await.unwrap() {
                let BlockRun::Data { data, .. } = run else { panic!("every block was written") };
                for block in data.chunks(BLOCK_SIZE) {
                    assert!(block == content(self.numbers_at(point.id)[lba]), "block {lba} at {}", point.lsn);
                    lba += 1;
                }
            }
            assert_eq!(lba, BLOCKS);
            assert_eq!(Some(view.tree(volume(1)).await.unwrap().root_hash()), view.volumes()[0].root);
        }
    }
}

/// What a history of overwriting came to.
struct Figures {
    space: f64,
    again: f64,
}

/// Which blocks an interval overwrites.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    /// One after the other, from the first to the last and again.
    InTurn,
    /// Any, with equal chances: what is worst for segments.
    AtRandom,
}

/// The working set `times` over, `1/parts` of it an interval; a collection every sixth interval, without grace.
async fn overwrite(seed: u64, order: Order, times: usize, parts: usize, tiers: &[(u64, u64)]) -> Figures {
    let mut disk = Overwritten::new(seed).await;
    let second = Duration::from_secs;
    disk.retention.tiers = tiers.iter().map(|(within, every)| (second(*within), second(*every))).collect();
    disk.writer.set_retention(disk.retention.clone());
    disk.interval(&all()).await;
    for step in 1..=times * parts {
        let count = BLOCKS / parts;
        let lbas: Vec<usize> = match order {
            Order::InTurn => (0..count).map(|index| (step * count + index) % BLOCKS).collect(),
            Order::AtRandom => (0..count).map(|_| disk.any_block()).collect(),
        };
        disk.interval(&lbas).await;
        if step % 6 == 0 {
            disk.writer.write_map().await.unwrap();
            disk.collect(Duration::ZERO).await;
        }
    }
    disk.writer.write_map().await.unwrap();
    // The first finds what is garbage by now, the second deletes it.
    for _ in 0..2 {
        disk.collect(Duration::ZERO).await;
    }
    disk.check().await;
    let options = crate::check::CheckOptions { read_data: true, ..Default::default() };
    let report = crate::check::check_vault(&disk.bench.vault, &[], &options, &Arc::default()).await;
    assert!(report.sound && report.complete, "{report:?}");
    let figures = Figures { space: ratio(disk.stored().await, disk.needed().await), again: disk.written_again() };
    println!(
        "{order:?}, 1/{parts} of the set an interval, points {tiers:?}, {} MiB written: vault {} KiB ({}), retained points need \
         {} KiB: {:.2}; collecting wrote {:.2} for each byte written (carried {:.2})",
        disk.written * 4 / 1024,
        disk.stored().await / 1024,
        disk.where_it_is().await,
        disk.needed().await / 1024,
        figures.space,
        figures.again,
        ratio(disk.carried, disk.written),
    );
    figures
}

/// What is overwritten in turn leaves whole segments behind.
#[tokio::test]
async fn a_working_set_overwritten_in_turn_takes_the_space_that_its_points_need() {
    for tiers in [&[(30, 0)][..], &[(60, 0), (120, 30)]] {
        let figures = overwrite(40, Order::InTurn, 12, 16, tiers).await;
        assert!(figures.space <= 1.3, "the vault takes {:.2} times what retained points need", figures.space);
        assert!(figures.again <= 0.1, "{:.2} times what was written is written again", figures.again);
    }
}

/// Points reach back over a fraction of the time in which the working set is overwritten once.
#[tokio::test]
async fn a_working_set_overwritten_again_and_again_takes_little_more_than_its_points_need() {
    let figures = overwrite(41, Order::AtRandom, 8, 64, &[(30, 0)]).await;
    assert!(figures.space <= 1.3, "the vault takes {:.2} times what retained points need", figures.space);
    assert!(figures.again <= 2.0, "{:.2} times what was written is written again", figures.again);
}

/// Points reach back over more than that time: what only older points need holds its segments until it is dropped.
#[tokio::test]
async fn points_that_reach_far_back_keep_segments_for_their_time_and_no_longer() {
    let figures = overwrite(44, Order::AtRandom, 12, 16, &[(60, 0), (120, 30)]).await;
    assert!(figures.space <= 1.3, "the vault takes {:.2} times what retained points need", figures.space);
    assert!(figures.again <= 2.0, "{:.2} times what was written is written again", figures.again);
}

#[expect(clippy::cast_precision_loss, reason = "figures for people")]
fn ratio(of: u64, to: u64) -> f64 {
    of as f64 / to as f64
}

/// What a collection asks of the vault: the first one of a process an index for each segment, the later ones of an unchanged
/// group next to nothing, and one that deletes the nodes of the trees besides.
#[tokio::test]
async fn a_collection_of_many_segments_takes_two_requests_for_each_once_and_hardly_any_later() {
    let mut disk = Overwritten::new(45).await;
    disk.retention.tiers.clear();
    disk.writer.set_retention(disk.retention.clone());
    disk.interval(&all()).await;
    let segments = 400;
    for _ in 0..segments {
        disk.some_written(10).await;
    }
    disk.writer.write_map().await.unwrap();
    let mut requests = Vec::new();
    for memory in [true, false, true] {
        if !memory {
            disk.memory = Memory::default();
        }
        disk.bench.faults.reset_counts();
        disk.collect(Duration::from_secs(1_000_000_000)).await;
        requests.push(disk.bench.faults.counts().total());
    }
    println!(
        "{segments} segments: first {}, without memory {}, with it {} requests",
        requests[0], requests[1], requests[2]
    );
    assert!((segments..=2 * segments + 100).contains(&requests[1]), "{requests:?}");
    assert!(requests[2] <= 60, "{requests:?}");
}

/// Carried blocks change no point, no root and nothing that is written meanwhile, whatever request fails on the way.
#[tokio::test]
async fn a_fault_at_any_request_while_blocks_are_carried_harms_nothing() {
    for (request, effect) in (1..40).step_by(4).zip([Effect::FailBefore, Effect::FailAfter].into_iter().cycle()) {
        let mut disk = Overwritten::new(42).await;
        disk.interval(&all()).await;
        disk.retention.tiers = vec![(Duration::from_secs(15), Duration::ZERO)];
        disk.writer.set_retention(disk.retention.clone());
        // Small segments of which little is left.
        for step in 1..=24 {
            let lbas: Vec<usize> = (0..24).map(|_| disk.any_block() % 96).collect();
            disk.interval(&lbas).await;
            if step % 6 == 0 {
                disk.writer.write_map().await.unwrap();
            }
        }
        disk.collect(Duration::ZERO).await;
        let waiting = disk.writer.carries();
        assert!(waiting > 0, "there is something to carry");
        disk.bench.faults.reset_counts();
        disk.bench.faults.inject(Rule::new(effect).at_request(request).times(1));
        let before = disk.carried;
        // The interval is put again until it lands, as the shipping task does.
        let (mut records, lba) = (Vec::new(), 77);
        disk.write(&mut records, lba);
        let interval = Interval { records, last_lsn: disk.lsn, ..Interval::default() };
        while let Err(error) = disk.writer.append(&interval).await {
            assert!(error.is_retry(), "{effect:?} at {request}: {error}");
        }
        let made = disk.bench.faults.counts().total();
        disk.bench.faults.clear();
        // What a fault dropped from the list is found again.
        for _ in 0..4 {
            disk.some_written(16).await;
            disk.writer.write_map().await.unwrap();
            disk.collect(Duration::ZERO).await;
        }
        disk.some_written(16).await;
        assert!(disk.carried > before, "{effect:?} at {request}: nothing was carried");
        disk.writer.write_map().await.unwrap();
        for _ in 0..2 {
            disk.collect(Duration::ZERO).await;
        }
        disk.check().await;
        if made < request {
            break;
        }
    }
}

/// Deletes are denied all the time: nothing is lost, and carrying stops by itself, since nothing current is left where it was.
#[tokio::test]
async fn a_locked_vault_is_not_filled_by_carrying() {
    let mut disk = Overwritten::new(43).await;
    disk.bench.faults.inject(Rule::new(Effect::Forbidden).on(OpKind::Delete));
    disk.interval(&all()).await;
    for step in 1..=96 {
        disk.some_written(BLOCKS / 16).await;
        if step % 6 == 0 {
            disk.writer.write_map().await.unwrap();
            disk.collect(Duration::ZERO).await;
        }
    }
    let again = disk.written_again();
    assert!(again <= 1.0, "{again:.2} times what was written is written again");
    disk.check().await;
    disk.bench.faults.clear();
    let report = disk.collect(Duration::ZERO).await;
    assert!(report.deleted.objects > 1 && report.denied.objects == 0, "{report:?}");
    disk.check().await;
}
