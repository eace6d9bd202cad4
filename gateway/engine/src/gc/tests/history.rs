//! A group's random life, with a model of every byte and a clock of its own.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use lifeboat_model::{BranchId, GatewayId, Lsn, PointId, Timestamp};
use lifeboat_vault::{Clock, VaultOptions};

use crate::branch::{Origin, drop_branch, fence, log_end};
use crate::error::Result;
use crate::gc::{GcReport, GcSettings, Memory, RebuildRule, Runner, run};
use crate::marks::{Pin, pin, unpin};
use crate::points::{PointInfo, PointRetention, list_points};
use crate::segments::{Reader, ReaderLimits};
use crate::ship::tests::harness::{Bench, Model, Script, gateway, same};
use crate::ship::{BranchWriter, Open};
use crate::tree::tests::Dice;
use crate::view::PointView;

/// Nothing but the newest point.
pub(super) static ONLY_THE_NEWEST: PointRetention = PointRetention { tiers: Vec::new(), max: 1000 };

/// All points for half a minute, one every 20 s for two minutes.
pub(super) fn retention() -> PointRetention {
    let tier = |within, every| (Duration::from_secs(within), Duration::from_secs(every));
    PointRetention { tiers: vec![tier(30, 0), tier(120, 20)], max: 1000 }
}

/// All points.
pub(super) fn everything() -> PointRetention {
    PointRetention { tiers: vec![(Duration::from_secs(1_000_000_000), Duration::ZERO)], max: 65_536 }
}

pub(super) fn settings(grace: Duration) -> GcSettings {
    GcSettings { retention: retention(), grace, dry_run: false, ..GcSettings::default() }
}

/// Whatever has a dead block is rebuilt.
pub(super) static EAGERLY: RebuildRule =
    RebuildRule { always: 100, at_most: 100, space: 100, freed_min: 1, bytes_max: u64::MAX, segments_max: 1000 };

struct Line {
    id: BranchId,
    gateway: GatewayId,
    writer: Option<BranchWriter>,
    script: Script,
    forgotten: bool,
    /// Where it forked.
    origin: Option<PointInfo>,
}

/// A group's life so far.
pub(super) struct History {
    pub(super) bench: Arc<Bench>,
    dice: Dice,
    clock: Arc<AtomicI64>,
    lines: Vec<Line>,
    /// The line that holds the group's active tenure.
    active: usize,
    models: HashMap<PointId, Model>,
    pinned: Vec<PointInfo>,
    memory: Memory,
    pub(super) rebuild: RebuildRule,
    pub(super) deleted: u64,
    pub(super) rebuilt: u64,
}

impl History {
    pub(super) async fn new(seed: u64) -> Self {
        let clock = Arc::new(AtomicI64::new(1_700_000_000_000_000));
        let shared = Arc::clone(&clock);
        let options = VaultOptions {
            clock: Clock::new(move || Timestamp::from_micros(shared.load(Ordering::Relaxed))),
            ..VaultOptions::for_tests()
        };
        let bench = Arc::new(Bench::with(options).await);
        let mut history = Self {
            dice: Dice(seed),
            clock,
            lines: Vec::new(),
            active: 0,
            models: HashMap::new(),
            pinned: Vec::new(),
            memory: Memory::default(),
            rebuild: RebuildRule::default(),
            deleted: 0,
            rebuilt: 0,
            bench,
        };
        history.begin(history.bench.branch, Script::new(seed), Open::New { origin: None }).await.unwrap();
        history
    }

    async fn begin(&mut self, id: BranchId, mut script: Script, open: Open) -> Result<usize> {
        let number = u8::try_from(self.lines.len() % 200).unwrap() + 1;
        script.start = self.clock.load(Ordering::Relaxed);
        let (mut writer, _) = self.bench.open_on(id, gateway(number), open).await?;
        writer.set_retention(retention());
        self.lines.push(Line {
            id,
            gateway: gateway(number),
            writer: Some(writer),
            script,
            forgotten: false,
            origin: None,
        });
        Ok(self.lines.len() - 1)
    }

    /// Seconds of its clock.
    pub(super) fn now(&self) -> u64 {
        u64::try_from(self.clock.load(Ordering::Relaxed) / 1_000_000).unwrap()
    }

    pub(super) fn pass(&self, time: Duration) {
        self.clock.fetch_add(i64::try_from(time.as_micros()).unwrap(), Ordering::Relaxed);
    }

    pub(super) fn branch(&self, line: usize) -> BranchId {
        self.lines[line].id
    }

    pub(super) fn lsn(&self, line: usize) -> Lsn {
        self.lines[line].script.lsn
    }

    pub(super) fn model(&self, point: PointId) -> &Model {
        &self.models[&point]
    }

    pub(super) async fn points(&self, line: usize) -> Vec<PointInfo> {
        list_points(&self.bench.vault, self.bench.group, self.branch(line)).await.unwrap()
    }

    pub(super) async fn objects(&self) -> Vec<String> {
        let found = self.bench.vault.store().list("groups").await.unwrap();
        found.into_iter().map(|object| object.key).collect()
    }

    /// Intervals with a point each, shipped.
    pub(super) async fn ship(&mut self, line: usize, count: usize) {
        for _ in 0..count {
            let of = &mut self.lines[line];
            let Some(writer) = &mut of.writer else { return };
            of.script.start = self.clock.load(Ordering::Relaxed)
                - i64::try_from(of.script.points.len()).unwrap() * 5_000_000
                + 5_000_000;
            of.script.interval();
            self.clock.fetch_add(5_000_000, Ordering::Relaxed);
            let interval = of.script.intervals.pop().unwrap();
            writer.append(&interval).await.unwrap();
            let (_, id, model) = of.script.points.last().unwrap().clone();
            self.models.insert(id, model);
        }
    }

    /// So many more points on the line's list, all where its newest point is.
    pub(super) async fn many_points(&mut self, line: usize, count: usize) {
        let newest = self.points(line).await.pop().unwrap();
        let writer = self.lines[line].writer.as_mut().unwrap();
        writer.set_retention(everything());
        let more = std::iter::repeat_with(|| PointInfo { id: PointId::new(), ..newest.clone() });
        writer.list_points_for_tests(more.take(count).collect());
    }

    pub(super) async fn write_map(&mut self, line: usize) {
        if let Some(writer) = &mut self.lines[line].writer {
            writer.write_map().await.unwrap();
        }
    }

    /// A new branch at one of a line's points.
    pub(super) async fn fork(&mut self, line: usize) -> usize {
        let points = self.points(line).await;
        let pick = usize::try_from(self.dice.below(u64::try_from(points.len()).unwrap())).unwrap();
        self.fork_from(&points[pick].clone()).await
    }

    /// A new branch at that point of a line.
    pub(super) async fn fork_at(&mut self, line: usize, number: usize) -> usize {
        let point = self.points(line).await[number].clone();
        self.fork_from(&point).await
    }

    /// Pins that point of a line for good.
    pub(super) async fn pin(&mut self, line: usize, number: usize) {
        let points = self.points(line).await;
        let forever = Pin { until: None, reason: "model".to_owned() };
        let id = points[number].id;
        let point = pin(&self.bench.vault, self.bench.group, id, gateway(9), &forever).await.unwrap();
        self.pinned.retain(|known| known.id != point.id);
        self.pinned.push(point);
    }

    async fn fork_from(&mut self, point: &PointInfo) -> usize {
        let number = u8::try_from(self.lines.len()).unwrap();
        let script = Script::from(self.dice.below(u64::MAX), point.lsn, self.models[&point.id].clone());
        let open = Open::New { origin: Some(Origin { at: point.position(), point: Some(point.id) }) };
        let line = self.begin(BranchId::from_bytes([100 + number; 16]), script, open).await.unwrap();
        self.lines[line].origin = Some(point.clone());
        line
    }

    /// Another gateway goes on with a line.
    pub(super) async fn take_over(&mut self, line: usize) {
        let other = gateway(u8::try_from(self.dice.below(100)).unwrap() + 100);
        let id = self.branch(line);
        let (mut writer, _) = self.bench.open_on(id, other, Open::Continue).await.unwrap();
        writer.set_retention(retention());
        self.lines[line].writer = Some(writer);
        self.lines[line].gateway = other;
    }

    /// The active line is fenced; a fork of its newest point goes on.
    async fn fail_over(&mut self) {
        let Some(newest) = self.points(self.active).await.pop() else { return };
        let old = self.active;
        let new = self.fork_from(&newest).await;
        let promoted = self.branch(new);
        let (vault, group) = (&self.bench.vault, self.bench.group);
        fence(vault, group, self.branch(old), self.lines[new].gateway, promoted).await.unwrap();
        self.lines[old].writer = None;
        self.active = new;
    }

    pub(super) fn forget(&mut self, line: usize) {
        self.lines[line].writer = None;
        self.lines[line].forgotten = true;
    }

    fn some_line(&mut self) -> usize {
        let lines: Vec<usize> = (0..self.lines.len()).filter(|line| !self.lines[*line].forgotten).collect();
        lines[usize::try_from(self.dice.below(u64::try_from(lines.len()).unwrap())).unwrap()]
    }

    /// Something happens.
    pub(super) async fn step(&mut self) {
        let active = self.active;
        let line = self.some_line();
        match self.dice.below(16) {
            0..=4 => self.ship(active, 3).await,
            5 | 6 => self.ship(line, 2).await,
            7 | 8 => self.write_map(active).await,
            9 => self.write_map(line).await,
            10 if self.lines.len() < 12 && !self.points(line).await.is_empty() => drop(self.fork(line).await),
            11 if line != active && line != 0 => {
                drop_branch(&self.bench.vault, self.bench.group, self.branch(line), gateway(9)).await.unwrap();
                self.forget(line);
                let gone = self.branch(line);
                self.pinned.retain(|point| point.branch != gone);
            }
            12 => {
                if !self.points(line).await.is_empty() {
                    self.pin(line, 0).await;
                }
            }
            13 if !self.pinned.is_empty() => {
                let point = self.pinned.swap_remove(0);
                unpin(&self.bench.vault, self.bench.group, point.id, gateway(9)).await.unwrap();
            }
            14 if self.lines.len() < 12 => self.fail_over().await,
            15 if self.lines[line].writer.is_some() => self.take_over(line).await,
            _ => self.pass(Duration::from_secs(30)),
        }
        let idle = Duration::from_secs(self.dice.below(2400));
        self.pass(idle);
    }

    pub(super) fn runner(&self) -> Runner {
        let line = &self.lines[self.active];
        let epoch = line.writer.as_ref().expect("the active line has a writer").epoch();
        Runner { gateway: line.gateway, branch: line.id, epoch }
    }

    pub(super) async fn collect(&mut self, grace: Duration) -> Result<GcReport> {
        self.collect_with(&retention(), grace).await
    }

    pub(super) fn settings(&self, retention: &PointRetention, grace: Duration) -> GcSettings {
        GcSettings { retention: retention.clone(), grace, rebuild: self.rebuild, ..GcSettings::default() }
    }

    pub(super) async fn collect_with(&mut self, retention: &PointRetention, grace: Duration) -> Result<GcReport> {
        self.run(&self.settings(retention, grace)).await
    }

    pub(super) async fn run(&mut self, settings: &GcSettings) -> Result<GcReport> {
        let runner = self.runner();
        let report = run(&self.bench.vault, self.bench.group, runner, settings, &mut self.memory).await?;
        self.deleted += report.deleted.objects;
        self.rebuilt += report.rebuilt.objects;
        Ok(report)
    }

    /// Objects that one more look finds to be garbage, without the lists of kept points that newer ones have replaced: a few
    /// of those wait for something else to go.
    pub(super) async fn waste(&mut self) -> u64 {
        let settings = GcSettings {
            retention: ONLY_THE_NEWEST.clone(),
            grace: Duration::ZERO,
            dry_run: true,
            ..GcSettings::default()
        };
        let report = self.run(&settings).await.unwrap();
        let lists = self.objects().await.iter().filter(|key| key.contains("/gc/kept/")).count();
        report.total.objects - report.needed.objects - u64::try_from(lists.saturating_sub(1)).unwrap()
    }

    /// Every point that is offered, pinned ones among them, and the end of every branch are as the model says.
    pub(super) async fn check(&mut self, all: bool) -> Result<(), String> {
        let (vault, group) = (self.bench.vault.clone(), self.bench.group);
        let reader = Reader::open(&vault, group, ReaderLimits::default()).await.unwrap();
        for line in 0..self.lines.len() {
            let (id, forgotten) = (self.lines[line].id, self.lines[line].forgotten);
            if forgotten {
                continue;
            }
            let points = list_points(&vault, group, id).await.map_err(|error| format!("listing {id}: {error}"))?;
            for pinned in self.pinned.iter().filter(|pinned| pinned.branch == id) {
                let listed = points.iter().any(|point| point.id == pinned.id && point.pinned);
                listed.then_some(()).ok_or_else(|| format!("pinned {} is not listed", pinned.id))?;
            }
            let newest = self.lines[line].script.points.last().map(|point| point.1);
            if newest.is_some() && points.last().map(|point| point.id) != newest {
                return Err(format!("the newest point of {id} is not listed last"));
            }
            for point in &points {
                if all || self.dice.below(8) == 0 {
                    let view = PointView::open_point(&reader, point).await;
                    let view = view.map_err(|error| format!("point at {} of {id}: {error}", point.lsn))?;
                    self.compare(&view, &self.models[&point.id]).await?;
                }
            }
            if !all && self.dice.below(3) > 0 {
                continue;
            }
            if let Some(origin) = &self.lines[line].origin {
                let view = PointView::open_at(&reader, origin.position()).await;
                let view = view.map_err(|error| format!("origin of {id}: {error}"))?;
                self.compare(&view, &self.models[&origin.id]).await?;
            }
            let end = log_end(&vault, group, id).await.map_err(|error| format!("end of {id}: {error}"))?;
            let view = PointView::open_at(&reader, end).await.map_err(|error| format!("end of {id}: {error}"))?;
            self.compare(&view, &self.lines[line].script.model).await?;
        }
        Ok(())
    }

    async fn compare(&self, view: &Arc<PointView>, model: &Model) -> Result<(), String> {
        let mut found = Model::new();
        for volume in view.volumes() {
            let of = view.read_blocks(volume.id, 0, u64::MAX).await.map_err(|error| error.to_string())?;
            let mut content = Vec::new();
            for run in of {
                match run {
                    crate::view::BlockRun::Zero(extent) => {
                        content.resize(content.len() + usize::try_from(extent.blocks).unwrap() * 4096, 0);
                    }
                    crate::view::BlockRun::Data { data, .. } => content.extend_from_slice(&data),
                }
            }
            found.insert(volume.id, content);
        }
        if same(&found, model) {
            Ok(())
        } else {
            Err(format!("position {} is not what was written", view.position().lsn))
        }
    }
}
