//! Moves of long lives: days pass, points are thinned and pinned, garbage is collected, data keys change; the journal fills
//! while the vault is away, disks are changed behind the gateway's back and compared.
//!
//! A life has a part of them only ([`Life`]): with every move in each, seeds took ten times as long, and collections came too
//! seldom to delete anything.

use lifeboat_engine::gc::{self, GcReport, GcSettings, RebuildRule};
use lifeboat_engine::marks::Pin;
use lifeboat_engine::points::list_points;
use lifeboat_engine::segments::{Reader, ReaderLimits};
use lifeboat_engine::view::PointView;

use super::check::readable;
use super::*;

/// Time between finding that something is garbage and deleting it.
pub(super) const GRACE: Duration = Duration::from_secs(3600);
/// A point younger than this is on the list, whatever the gateways' clocks say: the first age, less the time between two clocks.
pub(super) const YOUNG: Duration = Duration::from_secs(500);
const MINUTE: u64 = 60;
const HOUR: u64 = 3600;
const DAY: u64 = 24 * HOUR;
/// Blocks that fill a journal of a long life, and some more.
const JOURNAL_WRITES: u64 = 90;
/// Tries until what has to come about must have.
const TRIES: u64 = 40;

/// All points for ten minutes, then fewer and fewer for three days.
pub(super) fn retention() -> PointRetention {
    let tier = |within, every| (Duration::from_secs(within), Duration::from_secs(every));
    let tiers = vec![tier(10 * MINUTE, 0), tier(6 * HOUR, 20 * MINUTE), tier(3 * DAY, 2 * HOUR)];
    PointRetention { tiers, max: 10_000 }
}

/// Whatever has a dead block is rebuilt: the volumes of a simulation are small.
const EAGERLY: RebuildRule =
    RebuildRule { always: 100, at_most: 100, space: 100, freed_min: 1, bytes_max: u64::MAX, segments_max: 1000 };

impl World {
    pub(super) async fn long_step(&self, gateway: usize) -> Checked {
        match (self.life, self.below(12)) {
            (Life::Collecting, 0..=2) | (Life::Decaying, 0) => self.collect_beside(gateway).await,
            (Life::Collecting, 3) => self.pin_one(gateway).await,
            (Life::Collecting, 4) => self.unpin_one(gateway).await,
            (Life::Collecting, 5) => self.hold_one().await,
            (Life::Collecting, 6 | 7) | (Life::Decaying, 1) => self.days_pass(gateway).await,
            (Life::Collecting, 8) | (Life::Decaying, 2 | 3) => self.rotate_key(gateway).await,
            (Life::Decaying, 4..=6) => self.rot(gateway).await,
            (Life::Resyncing, 0..=2) => self.collapse(gateway).await,
            (Life::Resyncing, 3 | 4) => self.scribble_and_compare(gateway).await,
            _ => self.step().await,
        }
    }

    /// Days or hours go by with a write now and then, so that there are points of all ages.
    pub(super) async fn days_pass(&self, gateway: usize) -> Checked {
        for _ in 0..=self.below(4) {
            self.pass([20 * MINUTE, 3 * HOUR, DAY][usize::try_from(self.below(3)).unwrap_or(0)]);
            if self.is_down(gateway) {
                return Ok(());
            }
            let _ = self.write_at_random(gateway, 24).await?;
            self.burst(gateway, 1 + self.below(4)).await?;
            let _ = self.take_point(gateway).await?;
        }
        // The map that is due by now has time to land.
        tokio::time::sleep(Duration::from_secs(self.below(20))).await;
        Ok(())
    }

    fn pass(&self, seconds: u64) {
        let time = Duration::from_secs(1 + self.below(seconds));
        self.note(format!("{time:?} pass"));
        store::leap(time);
    }

    /// A collection, beside which other things happen or not; then one that may delete.
    async fn collect_beside(&self, gateway: usize) -> Checked {
        if self.one_in(2) {
            self.days_pass(gateway).await?;
        }
        let own = self.one_in(2);
        match self.below(4) {
            0 => {
                let (collected, written) = tokio::join!(self.collect(gateway, own), self.burst(gateway, 6));
                collected?;
                written?;
            }
            1 => {
                let (one, other) = tokio::join!(self.collect(gateway, own), self.collect(gateway, false));
                one?;
                other?;
            }
            2 => {
                let (collected, pinned) = tokio::join!(self.collect(gateway, own), self.pin_one(gateway));
                collected?;
                pinned?;
            }
            _ => self.collect(gateway, own).await?,
        }
        if self.is_down(gateway) {
            return Ok(());
        }
        self.grace_passes();
        self.collect(gateway, self.one_in(2)).await
    }

    fn grace_passes(&self) {
        self.note("the grace passes");
        store::leap(GRACE * 3 / 2);
    }

    /// A collection that rebuilds as well, and one that may delete what it named.
    pub(super) async fn collect_twice(&self, gateway: usize) -> Checked {
        self.grace_passes();
        self.collect(gateway, false).await?;
        self.grace_passes();
        self.collect(gateway, true).await
    }

    /// A collection by the group itself, or by somebody who doesn't hold its tenure; everything kept reads as before.
    pub(super) async fn collect(&self, gateway: usize, own: bool) -> Checked {
        let outcome = if own { self.collect_own(gateway).await } else { self.collect_as_stranger(gateway).await };
        match outcome {
            None => return Ok(()),
            Some(Ok(report)) => {
                self.note(format!(
                    "{} collected: {} dropped, {} doomed, {} rebuilt, {} deleted, {} rescued",
                    self.name(gateway),
                    report.dropped_points,
                    report.doomed.objects,
                    report.rebuilt.objects,
                    report.deleted.objects,
                    report.rescued.objects
                ));
                let mut tally = self.tally.borrow_mut();
                tally.collections += 1;
                tally.deleted += report.deleted.objects;
                tally.rebuilt += report.rebuilt.objects;
            }
            Some(Err(error)) => self.excuse(gateway, "a collection", &error)?,
        }
        self.check_vault().await
    }

    async fn collect_own(&self, gateway: usize) -> Option<Result<GcReport, EngineError>> {
        let group = self.group(gateway)?;
        Some(group.collect_garbage(GRACE, false).await)
    }

    async fn collect_as_stranger(&self, gateway: usize) -> Option<Result<GcReport, EngineError>> {
        let vault = Arc::clone(&self.gateways[gateway].borrow().vault);
        let settings = GcSettings {
            retention: self.settings.retention.clone(),
            grace: GRACE,
            rebuild: EAGERLY,
            ..GcSettings::default()
        };
        Some(match gc::newest_tenure(&vault, GROUP).await {
            Ok(runner) => gc::run(&vault, GROUP, runner, &settings, &mut gc::Memory::default()).await,
            Err(error) => Err(error),
        })
    }

    /// A point of the branch that a gateway is on, as a third party sees them.
    async fn some_point(&self, gateway: usize) -> Checked<Option<PointInfo>> {
        let Some(branch) = self.gateways[gateway].borrow().on_branch else { return Ok(None) };
        let vault = readable!(self, self.blank_reader(), None, "the vault");
        let mut points = match list_points(&vault, GROUP, branch).await {
            Err(error) if matches!(error.kind(), ErrorKind::Retry | ErrorKind::NotFound) => return Ok(None),
            points => readable!(self, points, None, "the points of {branch}"),
        };
        points.retain(|point| self.known.borrow().of_branch.contains_key(&point.branch));
        let pick = usize::try_from(self.below(points.len() as u64)).unwrap_or(0);
        Ok((!points.is_empty()).then(|| points.swap_remove(pick)))
    }

    async fn pin_one(&self, gateway: usize) -> Checked {
        let Some(point) = self.some_point(gateway).await? else { return Ok(()) };
        self.pin(gateway, &point).await
    }

    pub(super) async fn pin(&self, gateway: usize, point: &PointInfo) -> Checked {
        let Some(group) = self.group(gateway) else { return Ok(()) };
        let until = self.one_in(4).then(|| Timestamp::from_micros(store::now().as_micros() + 86_400_000_000));
        match group.pin_point(point.id, &Pin { until, reason: "simulated".to_owned() }).await {
            Ok(pinned) => {
                promise!(pinned.id == point.id, "another point was pinned");
                self.note(format!("{} pinned the point at {}, until {until:?}", self.name(gateway), point.lsn));
                let mut known = self.known.borrow_mut();
                known.pinned.retain(|known| known.id != point.id);
                known.pinned.extend(until.is_none().then_some(pinned));
                self.tally.borrow_mut().pins += 1;
            }
            Err(error) => self.excuse(gateway, "a pin", &error)?,
        }
        Ok(())
    }

    async fn unpin_one(&self, gateway: usize) -> Checked {
        let Some(group) = self.group(gateway) else { return Ok(()) };
        let point = {
            let pick = self.below(self.known.borrow().pinned.len() as u64);
            let mut known = self.known.borrow_mut();
            if known.pinned.is_empty() {
                return Ok(());
            }
            known.pinned.swap_remove(usize::try_from(pick).unwrap_or(0))
        };
        self.note(format!("{} unpins the point at {}", self.name(gateway), point.lsn));
        match group.unpin_point(point.id).await {
            Ok(_) => Ok(()),
            Err(error) => self.excuse(gateway, "taking a pin back", &error),
        }
    }

    /// A third party begins to read a point.
    async fn hold_one(&self) -> Checked {
        match self.some_point(usize::from(self.one_in(2))).await? {
            Some(point) => self.hold(&point).await,
            None => Ok(()),
        }
    }

    pub(super) async fn hold(&self, point: &PointInfo) -> Checked {
        let vault = readable!(self, self.blank_reader(), (), "the vault");
        let reader = Reader::open(&vault, GROUP, ReaderLimits::default()).await;
        let reader = readable!(self, reader, (), "the group's keys");
        let view = readable!(self, PointView::open_point(&reader, point).await, (), "the point at {}", point.lsn);
        let stamps = readable!(self, self.view_stamps(&view).await, (), "the content of the point at {}", point.lsn);
        self.note(format!("a third party reads the point at {}", point.lsn));
        self.known.borrow_mut().held.push(Held { at: view.position(), since: store::now(), stamps });
        Ok(())
    }

    /// New segments are written under another data key from here on.
    async fn rotate_key(&self, gateway: usize) -> Checked {
        let volume = usize::try_from(self.below(VOLUMES as u64)).unwrap_or(0);
        let _ = self.rotate_key_of(gateway, volume).await?;
        self.burst(gateway, 1 + self.below(4)).await
    }

    /// The same for one volume; the number of its newest key, or none when it didn't come about.
    pub(super) async fn rotate_key_of(&self, gateway: usize, volume: usize) -> Checked<Option<u32>> {
        let vault = Arc::clone(&self.gateways[gateway].borrow().vault);
        let from = match vault.reload_volume_keys(volume_id(volume)).await {
            Ok(from) => from,
            Err(error) => return self.excuse_vault(gateway, &error).map(|()| None),
        };
        match vault.rotate_volume_key(volume_id(volume), from).await {
            Ok(number) => {
                promise!(number > from, "the key after number {from} of volume {volume} has number {number}");
                self.note(format!("{} made key {number} of volume {volume}", self.name(gateway)));
                self.tally.borrow_mut().rotations += 1;
                Ok(Some(number))
            }
            Err(error) => self.excuse_vault(gateway, &error).map(|()| None),
        }
    }

    fn excuse_vault(&self, gateway: usize, error: &lifeboat_vault::VaultError) -> Checked {
        use lifeboat_vault::VaultErrorKind as Kind;
        self.note(format!("{} keys: {:?}: {error}", self.name(gateway), error.kind()));
        let excusable = match error.kind() {
            Kind::Retry | Kind::Conflict | Kind::Denied | Kind::NotFound | Kind::Fatal => true,
            Kind::Tampered => self.dirty_network,
            _ => false,
        };
        promise!(self.lenient || excusable, "{}: keys failed for no good reason: {error}", self.name(gateway));
        Ok(())
    }

    /// The vault is away until the journal is full and is given up as a log; then it comes back.
    async fn collapse(&self, gateway: usize) -> Checked {
        if !self.fill_journal(gateway).await? {
            return Ok(());
        }
        self.burst_of_writes(gateway, 1 + self.below(6)).await?;
        self.gateways[gateway].borrow().link.set_cut(false);
        if let Some(group) = self.group(gateway).filter(|_| self.one_in(2)) {
            group.resync_now();
        }
        self.burst(gateway, self.below(6)).await?;
        if self.one_in(3) {
            tokio::time::sleep(Duration::from_millis(self.below(8000))).await;
            self.crash_and_reopen(gateway).await?;
        }
        if self.one_in(2) {
            let _ = self.resynced(gateway).await?;
        }
        Ok(())
    }

    /// Cuts a gateway off and writes until its journal is given up; false when it doesn't come to that. The network stays cut.
    pub(super) async fn fill_journal(&self, gateway: usize) -> Checked<bool> {
        if self.state(gateway) != Some(GroupState::Active) {
            return Ok(false);
        }
        self.note(format!("{} is cut off until its journal is full", self.name(gateway)));
        self.gateways[gateway].borrow().link.set_cut(true);
        for _ in 0..JOURNAL_WRITES {
            if !self.write_at_random(gateway, 32).await? || self.is_down(gateway) {
                break;
            }
            if self.group(gateway).is_some_and(|group| group.resync_status().is_some()) {
                self.note(format!("{} gave its journal up", self.name(gateway)));
                self.tally.borrow_mut().collapses += 1;
                return Ok(true);
            }
        }
        self.gateways[gateway].borrow().link.set_cut(false);
        Ok(false)
    }

    async fn burst_of_writes(&self, gateway: usize, count: u64) -> Checked {
        for _ in 0..count {
            if !self.write_at_random(gateway, 4).await? {
                break;
            }
        }
        Ok(())
    }

    /// A write of up to so many blocks somewhere.
    async fn write_at_random(&self, gateway: usize, most: u64) -> Checked<bool> {
        let volume = usize::try_from(self.below(VOLUMES as u64)).unwrap_or(0);
        let size = self.blocks(gateway, volume);
        if size == 0 {
            return Ok(false);
        }
        let lba = self.below(size / 2);
        self.write_blocks(gateway, volume, (lba, most.min(size - lba))).await
    }

    /// Waits until the vault has everything; true when it has.
    pub(super) async fn resynced(&self, gateway: usize) -> Checked<bool> {
        let Some(group) = self.group(gateway) else { return Ok(false) };
        group.resync_now();
        match group.resynced(Duration::from_secs(600)).await {
            Ok(()) => {
                self.note(format!("{}: the vault has everything again", self.name(gateway)));
                self.tally.borrow_mut().resyncs += 1;
                Ok(true)
            }
            Err(error) => {
                self.excuse(gateway, "a resync", &error)?;
                Ok(false)
            }
        }
    }

    /// Somebody changes the home gateway's disk while it is stopped; the comparison that is asked for then finds it, whatever
    /// crashes on the way.
    async fn scribble_and_compare(&self, gateway: usize) -> Checked {
        // A gateway that somebody may have fenced already would keep what was changed, and nobody would ever compare it.
        let other = &self.gateways[1 - gateway];
        let alone = other.borrow().making.is_none() && self.state(1 - gateway) != Some(GroupState::Active);
        let settled = alone
            && self.group(gateway).is_some_and(|group| {
                let status = group.status();
                status.state == GroupState::Active && status.resync.is_none() && status.hydrated_bytes.is_none()
            });
        if !settled || self.is_down(gateway) {
            return self.step().await;
        }
        if !self.scribble(gateway).await? {
            return Ok(());
        }
        for attempt in 0..TRIES {
            if attempt == TRIES / 4 {
                self.calm(true);
            }
            if self.is_down(gateway) || (attempt < TRIES / 4 && self.one_in(6)) {
                self.crash_and_reopen(gateway).await?;
            }
            if self.compare(gateway).await? && self.resynced(gateway).await? {
                let last = self.last_lsn(gateway);
                let local = self.gateways[gateway].borrow().local;
                local.into_iter().for_each(|local| self.history(local, |history| history.compared(last)));
                return Ok(());
            }
            tokio::time::sleep(Duration::from_secs(5)).await;
        }
        promise!(self.lenient, "{} can't be compared although everything is well again", self.name(gateway));
        Ok(())
    }

    /// Stops a gateway in good order, changes some blocks of an image, and starts it again; false when it didn't come to that.
    async fn scribble(&self, gateway: usize) -> Checked<bool> {
        let Some(local) = self.gateways[gateway].borrow().local else { return Ok(false) };
        let last = self.last_lsn(gateway);
        let group = self.gateways[gateway].borrow_mut().group.take();
        if let Some(group) = group {
            group.close(Duration::from_secs(60)).await;
        }
        let volume = usize::try_from(self.below(VOLUMES as u64)).unwrap_or(0);
        let machine = Arc::clone(&self.gateways[gateway].borrow().machine);
        let name = lifeboat_engine::image::image_name(volume_id(volume));
        let disk = machine.disk(&self.config(gateway).dir).filter(|disk| !disk.halted());
        let size = disk.as_ref().and_then(|disk| disk.length(&name)).unwrap_or(0) / BLOCK_SIZE_U64;
        let known = self.history(local, |history| history.state(history.len()));
        let size = size.min(known.get(volume).map_or(0, |stamps| stamps.len() as u64));
        let mut changed = false;
        if let Some(disk) = disk.filter(|_| size > 0) {
            let lba = self.below(size);
            let blocks = (1 + self.below(4)).min(size - lba);
            let stamp = self.new_stamps(blocks);
            let stamps: Vec<u64> = (stamp..stamp + blocks).collect();
            let offset = lba * BLOCK_SIZE_U64;
            changed = disk.scribble(&name, offset, &self.as_on_disk(&disk, &name, offset, bytes_of(&stamps)));
            if changed {
                let change = Change::Write { volume, lba, blocks, stamp };
                self.note(format!("somebody changed {}'s disk: {change:?}", self.name(gateway)));
                self.history(local, |history| history.scribbled(change, last));
            }
        }
        self.must_start(gateway).await?;
        Ok(changed)
    }

    /// Starts a gateway until it is there; it shows what was written, and what was changed.
    async fn must_start(&self, gateway: usize) -> Checked {
        for attempt in 0..TRIES {
            if attempt == TRIES / 4 {
                self.calm(true);
            }
            if self.is_down(gateway) {
                self.crash_and_reopen(gateway).await?;
            } else if self.group(gateway).is_none() {
                self.reopen(gateway, None).await?;
            } else {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_secs(2)).await;
        }
        promise!(self.forgiven(), "{} does not start although everything is well again", self.name(gateway));
        Ok(())
    }

    /// The volumes against the vault; true when that was done.
    async fn compare(&self, gateway: usize) -> Checked<bool> {
        let Some(group) = self.group(gateway) else { return Ok(false) };
        if group.resync_status().is_some() {
            // Of an attempt before.
            return Ok(true);
        }
        match group.compare().await {
            Ok(blocks) => {
                self.note(format!("{} compared: {blocks} blocks differ", self.name(gateway)));
                self.tally.borrow_mut().compares += 1;
                Ok(true)
            }
            Err(error) => {
                self.excuse(gateway, "a comparison", &error)?;
                Ok(false)
            }
        }
    }

    /// Blocks of a volume as a front end sees it.
    pub(super) fn blocks(&self, gateway: usize, volume: usize) -> u64 {
        let front = self.group(gateway).and_then(|group| group.volume(volume_id(volume)));
        front.map_or(0, |front| front.size_bytes() / BLOCK_SIZE_U64)
    }
}
