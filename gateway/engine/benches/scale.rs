//! How it grows: memory, a thousand volumes, a volume of 64 TiB, fifteen days of points (M1, M2).
//!
//! `make bench BENCH=scale`. Memory is the resident set of this process, which holds nothing else.

#![allow(clippy::unwrap_used, reason = "a benchmark that can't measure ends with a panic")]

mod support;

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use lifeboat_engine::machine::Host;
use lifeboat_engine::points::{PointRetention, list_points};
use lifeboat_engine::ship::ShipSettings;
use lifeboat_engine::view::PointView;
use lifeboat_engine::{Group, GroupConfig, GroupSettings, VolumeSpec};
use lifeboat_model::{BLOCK_SIZE, BLOCK_SIZE_U64, GatewayId, GroupId, VolumeId};
use support::log::{Dice, Log};
use support::rig::{At, Rig, settled};
use support::{Report, Row, disk_like};

const TIB: u64 = 1 << 40;

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let mut report = Report::new("scale");
    runtime.block_on(async {
        if support::wanted("memory") {
            memory(&mut report).await;
        }
        if support::wanted("sparse") {
            sparse(&mut report).await;
        }
        if support::wanted("fifteen_days") {
            fifteen_days(&mut report).await;
        }
        if support::wanted("thousand_volumes") {
            thousand_volumes(&mut report).await;
        }
    });
    report.finish();
}

fn resident_mib() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() / 1024.0
}

fn row(target: &'static str, what: &str, figure: f64, unit: &'static str, wanted: &'static str) -> Row {
    Row { target, what: what.to_owned(), ours: vec![figure], beside: Vec::new(), baseline: "", unit, wanted }
}

/// M1: groups that nothing is asked of, a small one and one of 1 TiB; then the same two, written to all over.
async fn memory(report: &mut Report) {
    let base = idle(64 << 20).await;
    report.row(row("M1", "resident, an idle group of 64 MiB", base, "MiB", "< 60"));
    let large = idle(TIB).await;
    report.row(row("M1", "more for an idle group of 1 TiB", large - base, "MiB", "< 64"));
    let base = written_all_over(64 << 20).await;
    report.row(row("M1", "resident, a group of 64 MiB under random writes", base, "MiB", ""));
    let large = written_all_over(TIB).await;
    report.row(row("M1", "more for a group of 1 TiB under random writes", large - base, "MiB", "< 64"));
}

/// The resident set with a group that was written to once, some points ago.
async fn idle(size: u64) -> f64 {
    let rig = Rig::new(At::Memory).await;
    let (group, volumes) = rig.group(Duration::from_secs(1), 1 << 30, &[size]).await;
    let volume = group.volume(volumes[0]).unwrap();
    volume.write(0, Bytes::from(disk_like(3, 16))).await.unwrap();
    group.take_point(lifeboat_model::PointKind::Manual, "").await.unwrap();
    let resident = resident_mib();
    group.close(Duration::from_secs(5)).await;
    resident
}

/// The resident set after 100,000 random writes of 4 KiB, the largest that was seen.
async fn written_all_over(size: u64) -> f64 {
    let rig = Rig::new(At::Memory).await;
    let (group, volumes) = rig.group(Duration::from_secs(1), 1 << 30, &[size]).await;
    let volume = group.volume(volumes[0]).unwrap();
    let data = Bytes::from(disk_like(3, 1024));
    let (mut dice, mut most) = (Dice(17), 0.0_f64);
    for number in 0..100_000_u64 {
        let from = usize::try_from(dice.below(1024)).unwrap() * BLOCK_SIZE;
        volume
            .write(dice.below(size / BLOCK_SIZE_U64) * BLOCK_SIZE_U64, data.slice(from..from + BLOCK_SIZE))
            .await
            .unwrap();
        if number % 1000 == 0 {
            most = most.max(resident_mib());
        }
    }
    settled(&group).await;
    group.close(Duration::from_secs(5)).await;
    most
}

/// M2: 64 TiB, of which little is written.
async fn sparse(report: &mut Report) {
    let rig = Rig::new(At::Memory).await;
    let started = Instant::now();
    let (group, volumes) = rig.group(Duration::from_secs(3600), 256 << 20, &[64 * TIB]).await;
    let volume = group.volume(volumes[0]).unwrap();
    let data = Bytes::from(disk_like(9, 256));
    let places: Vec<u64> = (0..64).map(|tib| tib * TIB).chain([64 * TIB - data.len() as u64]).collect();
    for at in &places {
        volume.write(*at, data.clone()).await.unwrap();
    }
    let point = group.take_point(lifeboat_model::PointKind::Manual, "all").await.unwrap();
    let view = PointView::open(Arc::clone(&rig.vault), point.group, &point).await.unwrap();
    let shown = view.volume(volumes[0]).unwrap();
    for at in &places {
        assert_eq!(shown.read(*at, u32::try_from(data.len()).unwrap()).await.unwrap(), data);
    }
    assert!(shown.read(TIB / 2, 4096).await.unwrap().iter().all(|byte| *byte == 0));
    report.row(row(
        "M2",
        "64 TiB: made, written in 65 places, shipped, read back",
        started.elapsed().as_secs_f64(),
        "s",
        "works",
    ));
    group.close(Duration::from_secs(5)).await;
}

/// M2: what is listed after fifteen days with a point every five seconds: as many as the usual retention keeps, newest last, in
/// a log of 259,200 segments.
async fn fifteen_days(report: &mut Report) {
    let rig = Rig::new(At::Memory).await;
    let mut log = Log::new(&rig.vault, 1 << 20, ShipSettings::default()).await;
    let data = Bytes::from(disk_like(2, 1));
    let end = 15 * 24 * 3600_i64;
    let mut times: Vec<i64> = (0..end).step_by(5).collect();
    let retention = PointRetention::default();
    // Times only: what the retention would leave of them.
    times.retain(|time| {
        let age = Duration::from_secs(u64::try_from(end - time).unwrap());
        let tier = retention.tiers.iter().find(|(within, _)| age <= *within);
        tier.is_some_and(|(_, every)| every.is_zero() || time % i64::try_from(every.as_secs()).unwrap() == 0)
    });
    for (number, time) in (0..).zip(&times) {
        log.write(number % (1 << 20), data.clone());
        let interval = log.cut(*time);
        log.ship(&interval).await;
    }
    // The other segments of those days, as a listing sees them: names that sort before these.
    let url = rig.vault.store().url().trim_start_matches("file://").to_owned();
    let dir = std::path::Path::new(&url).join(format!("groups/{}/{}/log", log.group, log.branch));
    for number in 0..259_200_u64 {
        std::fs::write(dir.join(format!("00000000-{number:012}")), "").unwrap();
    }
    let mut taken = Vec::new();
    let mut points = 0;
    for _ in 0..5 {
        let started = Instant::now();
        points = list_points(&rig.vault, log.group, log.branch).await.unwrap().len();
        taken.push(started.elapsed().as_secs_f64());
    }
    report.note("points listed", points);
    report.row(Row { ours: taken, ..row("M2", "listing after 15 days of 5 s points", 0.0, "s", "< 0.2") });
}

/// M2: a thousand volumes in ten groups: opened, written to, shipped.
async fn thousand_volumes(report: &mut Report) {
    const GROUPS: usize = 10;
    let rig = Rig::new(At::Memory).await;
    let gateway = GatewayId::new();
    let mut configs = Vec::new();
    let mut groups = Vec::new();
    for number in 0..GROUPS {
        let group = GroupId::new();
        let settings = GroupSettings {
            point_interval: Duration::from_secs(1),
            journal_bytes: 64 << 20,
            cache_bytes: 8 << 20,
            ..GroupSettings::default()
        };
        let config = GroupConfig {
            reach: Arc::clone(&rig.vault).into(),
            group,
            gateway,
            machine: Arc::new(Host),
            dir: rig.dir_of(group, gateway),
            settings,
        };
        let specs = (0..1000 / GROUPS).map(|volume| VolumeSpec {
            id: VolumeId::new(),
            name: format!("v{number}-{volume}"),
            size_bytes: 1 << 30,
            source: None,
        });
        groups.push(Group::create(config.clone(), specs.collect()).await.unwrap());
        configs.push(config);
    }
    let data = Bytes::from(disk_like(4, 16));
    for group in &groups {
        for spec in group.volumes() {
            group.volume(spec.id).unwrap().write(1 << 20, data.clone()).await.unwrap();
        }
    }
    for group in groups.drain(..) {
        settled(&group).await;
        group.close(Duration::from_secs(10)).await;
    }
    let started = Instant::now();
    let opened = futures::future::try_join_all(configs.into_iter().map(Group::open)).await.unwrap();
    report.row(row("M2", "1,000 volumes in 10 groups: opened", started.elapsed().as_secs_f64(), "s", "< 5"));
    let started = Instant::now();
    for group in &opened {
        for spec in group.volumes() {
            group.volume(spec.id).unwrap().write(2 << 20, data.clone()).await.unwrap();
        }
    }
    futures::future::join_all(opened.iter().map(|group| settled(group))).await;
    report.row(row("M2", "a write to each of them: in the vault", started.elapsed().as_secs_f64(), "s", "works"));
    report.note("resident with 1,000 volumes, MiB", resident_mib());
    for group in opened {
        group.close(Duration::from_secs(5)).await;
    }
}
