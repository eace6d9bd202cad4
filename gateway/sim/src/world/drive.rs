//! Scenarios from a seed, and the scripted run that faults are walked through.

use std::panic::{AssertUnwindSafe, catch_unwind};

use lifeboat_engine::{RehydrateMode, blocking};

use super::*;
use crate::disk::{Errno, Fault};
use crate::store::{PlannedTrouble, Trouble};

pub(super) const HOME: usize = 0;
pub(super) const RECO: usize = 1;

/// What a run is about. A seed has one life; most are short.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    /// Minutes: writes, crashes, switches between the gateways.
    Short,
    /// Days: points are pinned and thinned, garbage is collected.
    Collecting,
    /// The vault lacks blocks: journals that are given up, disks that are adopted, and changed behind the gateway's back.
    Resyncing,
    /// Data keys are replaced, bits rot, some garbage is collected.
    Decaying,
}

impl Life {
    /// The life that a seed stands for: one in four is long.
    #[must_use]
    pub const fn of(seed: u64) -> Self {
        match (seed % 4, seed / 12 % 3) {
            (3, 0) => Self::Collecting,
            (3, 1) => Self::Resyncing,
            (3, _) => Self::Decaying,
            _ => Self::Short,
        }
    }

    /// Whether points are dropped by their age.
    pub(super) const fn thins(self) -> bool {
        matches!(self, Self::Collecting | Self::Decaying)
    }
}

/// What a run is made of.
#[derive(Clone, Copy, Debug)]
pub struct Profile {
    /// Steps, at most.
    pub steps: u64,
}

impl Default for Profile {
    fn default() -> Self {
        Self { steps: 24 }
    }
}

/// Figures of runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EngineTally {
    /// Runs.
    pub runs: u64,
    /// Operations of applications.
    pub operations: u64,
    /// Points that somebody was told are safe.
    pub points: u64,
    /// Points that a blank reader compared with the model.
    pub points_compared: u64,
    /// Crashes.
    pub crashes: u64,
    /// Failovers.
    pub failovers: u64,
    /// Passes of failbacks.
    pub passes: u64,
    /// Branches that were taken over.
    pub takeovers: u64,
    /// Collections of garbage.
    pub collections: u64,
    /// Objects that they deleted.
    pub deleted: u64,
    /// Segments that they rebuilt.
    pub rebuilt: u64,
    /// Points that were pinned.
    pub pins: u64,
    /// Data keys that were replaced.
    pub rotations: u64,
    /// Journals that were given up.
    pub collapses: u64,
    /// Resyncs that were waited for.
    pub resyncs: u64,
    /// Comparisons with the vault.
    pub compares: u64,
    /// Disks that were adopted.
    pub adopted: u64,
    /// Rotten files and objects that were refused.
    pub rot_refused: u64,
    /// Rotten files and objects that changed nothing.
    pub rot_harmless: u64,
    /// Requests to the store.
    pub requests: u64,
    /// Hash over all of them.
    pub log_hash: u64,
}

impl EngineTally {
    /// Adds another run's figures.
    pub const fn add(&mut self, other: Self) {
        self.runs += other.runs;
        self.operations += other.operations;
        self.points += other.points;
        self.points_compared += other.points_compared;
        self.crashes += other.crashes;
        self.failovers += other.failovers;
        self.passes += other.passes;
        self.takeovers += other.takeovers;
        self.collections += other.collections;
        self.deleted += other.deleted;
        self.rebuilt += other.rebuilt;
        self.pins += other.pins;
        self.rotations += other.rotations;
        self.collapses += other.collapses;
        self.resyncs += other.resyncs;
        self.compares += other.compares;
        self.adopted += other.adopted;
        self.rot_refused += other.rot_refused;
        self.rot_harmless += other.rot_harmless;
        self.requests += other.requests;
        self.log_hash ^= other.log_hash;
    }
}

/// Runs the scenario that a seed stands for.
///
/// # Errors
/// The promise that was broken, with the seed and the steps that led there.
pub fn engine_run(seed: u64, profile: Profile) -> Checked<EngineTally> {
    life_run(seed, Life::of(seed), profile)
}

/// The same with a life that may be another one than the seed's.
///
/// # Errors
/// As [`engine_run`].
pub fn life_run(seed: u64, life: Life, profile: Profile) -> Checked<EngineTally> {
    let dirty = seed.is_multiple_of(3);
    run((seed, life), dirty, Strictness::Strict, move |world| async move { world.random_run(profile).await })
}

/// Whether the store keeps its promises in a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Strictness {
    Strict,
    /// It doesn't: then nothing wrong may be shown, and nothing more is asked.
    Lenient,
}

pub(super) fn run<F: Future<Output = Checked>>(
    (seed, life): (u64, Life),
    dirty_network: bool,
    strictness: Strictness,
    drive: impl FnOnce(Rc<World>) -> F,
) -> Checked<EngineTally> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
    let runtime = runtime.map_err(|error| Violation(format!("no runtime: {error}")))?;
    let mut trace = Vec::new();
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        let _one_thread = blocking::stay_on_this_thread();
        runtime.block_on(async {
            let world = World::new(seed, life, dirty_network, strictness == Strictness::Lenient);
            let world = world.map_err(|error| Violation(error.to_string()))?;
            let outcome = drive(Rc::clone(&world)).await;
            trace = world.trace();
            outcome?;
            let mut tally = *world.tally.borrow();
            (tally.runs, tally.requests, tally.log_hash) = (1, world.store.requests(), world.store.log_hash());
            Ok(tally)
        })
    }));
    let outcome = outcome.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default();
        Err(Violation(format!("panic: {text}")))
    });
    outcome.map_err(|Violation(why)| Violation(format!("seed {seed:#x}, {life:?}: {why}\n  {}", trace.join("\n  "))))
}

impl World {
    async fn random_run(&self, profile: Profile) -> Checked {
        self.calm(self.one_in(3));
        while !self.create(HOME).await? {
            self.calm(true);
        }
        self.gateways[HOME].borrow_mut().on_branch = self.group(HOME).map(|group| group.status().branch);
        let steps = 4 + self.below(profile.steps);
        for _ in 0..steps {
            let trapped = self.trap();
            match self.life {
                Life::Short => self.step().await?,
                _ => self.long_step(self.writer()).await?,
            }
            self.spring(trapped).await?;
            if self.one_in(8) {
                self.check_vault().await?;
            }
        }
        self.finish().await
    }

    /// Everything is well again: what was promised must be there, and work must go on.
    pub(super) async fn finish(&self) -> Checked {
        self.store.plan(None);
        self.calm(true);
        for gateway in [HOME, RECO] {
            let making = self.gateways[gateway].borrow().making;
            if making.is_some() {
                self.fail_over_to(gateway, false).await?;
            } else if self.group(gateway).is_none() {
                self.reopen(gateway, None).await?;
            }
        }
        // The longest pause between two tries.
        tokio::time::sleep(Duration::from_secs(90)).await;
        for gateway in [HOME, RECO] {
            if self.state(gateway) == Some(GroupState::Active) {
                self.burst(gateway, 3).await?;
                let _ = self.take_point(gateway).await?;
                if self.life.thins() {
                    self.days_pass(gateway).await?;
                    self.collect_twice(gateway).await?;
                }
            }
        }
        self.must_come_home().await?;
        self.check_vault().await?;
        for gateway in [HOME, RECO] {
            let group = self.gateways[gateway].borrow_mut().group.take();
            if let Some(group) = group {
                group.close(Duration::from_secs(60)).await;
                drop(group);
                self.reopen(gateway, None).await?;
            }
        }
        self.check_vault().await?;
        for gateway in [HOME, RECO] {
            let group = self.gateways[gateway].borrow_mut().group.take();
            if let Some(group) = group {
                group.close(Duration::ZERO).await;
            }
        }
        Ok(())
    }

    /// A failback that was begun goes on, whatever interrupted it and whatever was collected since.
    async fn must_come_home(&self) -> Checked {
        let branch = self.gateways[RECO].borrow().on_branch;
        let (Some(branch), Some(GroupState::Rehydrating)) = (branch, self.state(HOME)) else { return Ok(()) };
        for _ in 0..3 {
            if self.rehydrate(HOME, branch, RehydrateMode::Delta).await? {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_secs(60)).await;
        }
        promise!(self.lenient, "home can't be brought to the newest point although everything is well again");
        Ok(())
    }

    /// Lets a machine stop at some call of what comes next.
    fn trap(&self) -> Option<usize> {
        if !self.one_in(3) {
            return None;
        }
        let gateway = usize::from(self.one_in(2));
        let config = self.config(gateway);
        let one = self.gateways[gateway].borrow();
        match one.machine.disk(&config.dir).filter(|_| self.one_in(2)) {
            Some(disk) => disk.halt_at(disk.calls() + 1 + self.below(80)),
            None => one.link.halt_at(one.link.made() + 1 + self.below(24)),
        }
        Some(gateway)
    }

    /// A machine that stopped is started again; one that didn't is left alone.
    async fn spring(&self, trapped: Option<usize>) -> Checked {
        let Some(gateway) = trapped else { return Ok(()) };
        if self.is_down(gateway) {
            return self.crash_and_reopen(gateway).await;
        }
        let config = self.config(gateway);
        let one = self.gateways[gateway].borrow();
        one.link.halt_at(u64::MAX);
        if let Some(disk) = one.machine.disk(&config.dir) {
            disk.halt_at(u64::MAX);
        }
        Ok(())
    }

    pub(super) async fn crash_and_reopen(&self, gateway: usize) -> Checked {
        let kind = if self.one_in(2) { CrashKind::Kill } else { CrashKind::Power };
        self.note(format!("{} crashes: {kind:?}", self.name(gateway)));
        self.crash(gateway, kind)?;
        tokio::time::sleep(Duration::from_millis(self.below(20_000))).await;
        if self.gateways[gateway].borrow().making.is_some() {
            // The failover is simply asked for again.
            return Ok(());
        }
        self.reopen(gateway, Some(kind)).await?;
        if self.is_down(gateway) && !self.lenient {
            return Err(Violation(format!("{} stops in its start without a reason", self.name(gateway))));
        }
        Ok(())
    }

    pub(super) async fn burst(&self, gateway: usize, operations: u64) -> Checked {
        for _ in 0..operations {
            if !self.operate(gateway).await? || self.is_down(gateway) {
                break;
            }
            if self.one_in(3) {
                tokio::time::sleep(Duration::from_millis(self.below(3000))).await;
            }
        }
        Ok(())
    }

    /// A gateway that is written at.
    fn writer(&self) -> usize {
        if self.state(RECO) == Some(GroupState::Active) { usize::from(!self.one_in(3)) } else { HOME }
    }

    pub(super) async fn step(&self) -> Checked {
        let gateway = self.writer();
        match self.below(20) {
            0..=8 => self.burst(gateway, 1 + self.below(14)).await,
            9 => {
                let pause = if self.one_in(4) { 310_000 } else { self.below(20_000) };
                tokio::time::sleep(Duration::from_millis(pause)).await;
                Ok(())
            }
            10 => {
                let pause = Duration::from_millis(self.below(40_000));
                self.note(format!("{} is cut off for {pause:?}", self.name(gateway)));
                let link = Arc::clone(&self.gateways[gateway].borrow().link);
                link.set_cut(true);
                tokio::spawn(async move {
                    tokio::time::sleep(pause).await;
                    link.set_cut(false);
                });
                self.burst(gateway, 1 + self.below(8)).await
            }
            11 => {
                self.calm(self.one_in(3));
                Ok(())
            }
            12 | 13 => self.crash_and_reopen(gateway).await,
            14 => {
                let group = self.gateways[gateway].borrow_mut().group.take();
                if let Some(group) = group {
                    self.note(format!("{} stops in good order", self.name(gateway)));
                    group.close(Duration::from_secs(self.below(20))).await;
                    drop(group);
                    self.reopen(gateway, None).await?;
                }
                Ok(())
            }
            _ => self.switch().await,
        }
    }

    /// The next move of a failover or a failback, whatever it is.
    async fn switch(&self) -> Checked {
        let making = self.gateways[RECO].borrow().making.is_some();
        if making {
            let test = self.gateways[RECO].borrow().testing;
            return self.fail_over_to(RECO, test).await.map(drop);
        }
        if self.gateways[RECO].borrow().testing {
            return self.forget(RECO).await;
        }
        match (self.state(HOME), self.state(RECO)) {
            (Some(GroupState::Active), None) => self.leave_home().await,
            (Some(GroupState::Standby), None) if self.one_in(2) => self.resume(HOME).await,
            (Some(_), None) => self.fail_over_to(RECO, false).await.map(drop),
            (Some(GroupState::Active), Some(GroupState::Standby | GroupState::Fenced)) if self.one_in(2) => {
                if self.state(RECO) == Some(GroupState::Standby) { self.forget(RECO).await } else { Ok(()) }
            }
            (Some(GroupState::Active), Some(GroupState::Standby | GroupState::Fenced)) => {
                let group = self.gateways[RECO].borrow_mut().group.take();
                if let Some(group) = group {
                    group.close(Duration::ZERO).await;
                }
                self.fail_over_to(RECO, false).await.map(drop)
            }
            (Some(GroupState::Fenced | GroupState::Standby | GroupState::Rehydrating), Some(_)) => {
                self.come_home().await
            }
            _ => Ok(()),
        }
    }

    async fn leave_home(&self) -> Checked {
        match self.below(6) {
            0 => self.fail_over_to(RECO, true).await.map(drop),
            1 | 2 => {
                if self.release(HOME).await? {
                    if self.one_in(4) {
                        return self.resume(HOME).await;
                    }
                    self.fail_over_to(RECO, false).await?;
                }
                Ok(())
            }
            3 => {
                // Both at once: the home gateway goes on writing, and finds out.
                let (writing, switching) = tokio::join!(self.burst(HOME, 12), self.fail_over_to(RECO, false));
                writing?;
                switching.map(drop)
            }
            4 => {
                let link = Arc::clone(&self.gateways[HOME].borrow().link);
                link.set_cut(true);
                let (writing, switching) = tokio::join!(self.burst(HOME, 8), self.fail_over_to(RECO, false));
                link.set_cut(false);
                writing?;
                switching.map(drop)
            }
            _ => self.fail_over_to(RECO, false).await.map(drop),
        }
    }

    pub(super) async fn fail_over_to(&self, to: usize, test: bool) -> Checked<bool> {
        let from = self.gateways[HOME].borrow().on_branch;
        let Some(from) = from else { return Ok(false) };
        let done = self.fail_over(to, from, test).await?;
        if done {
            self.gateways[to].borrow_mut().on_branch = self.group(to).map(|group| group.status().branch);
        }
        Ok(done)
    }

    async fn resume(&self, gateway: usize) -> Checked {
        let Some(group) = self.group(gateway) else { return Ok(()) };
        match group.resume().await {
            Ok(()) => self.note(format!("{} resumed", self.name(gateway))),
            Err(error) => self.excuse(gateway, "resuming", &error)?,
        }
        Ok(())
    }

    async fn come_home(&self) -> Checked {
        let branch = self.gateways[RECO].borrow().on_branch;
        let Some(branch) = branch else { return Ok(()) };
        let mode = if self.one_in(4) { RehydrateMode::Full } else { RehydrateMode::Delta };
        if !self.rehydrate(HOME, branch, mode).await? || self.is_down(HOME) {
            return Ok(());
        }
        if self.one_in(3) {
            return Ok(());
        }
        if self.state(RECO) == Some(GroupState::Active) {
            self.burst(RECO, self.below(6)).await?;
            if self.one_in(4) {
                // Without giving the other one notice: it is fenced, and keeps its tail.
                let _ = self.take_point(RECO).await?;
            } else if !self.release(RECO).await? {
                return Ok(());
            }
        }
        for _ in 0..3 {
            if !self.rehydrate(HOME, branch, mode).await? || self.is_down(HOME) {
                return Ok(());
            }
            if self.take_over(HOME, branch).await? {
                self.gateways[HOME].borrow_mut().on_branch = Some(branch);
                return self.burst(HOME, self.below(6)).await;
            }
        }
        Ok(())
    }

    /// The story once through, in the same order whatever fails; what fails is tried again, for a while.
    async fn script(&self) -> Checked {
        self.store.set_weather(Weather::default());
        for _ in 0..3 {
            if self.create(HOME).await? {
                break;
            }
        }
        if self.group(HOME).is_none() {
            return Ok(());
        }
        self.gateways[HOME].borrow_mut().on_branch = self.group(HOME).map(|group| group.status().branch);
        for round in 0..3 {
            self.burst(HOME, 4).await?;
            let _ = self.take_point(HOME).await?;
            if round == 1 {
                // Time for a map.
                tokio::time::sleep(Duration::from_secs(310)).await;
            }
        }
        self.crash_and_reopen(HOME).await?;
        self.burst(HOME, 3).await?;
        for _ in 0..3 {
            if self.fail_over_to(RECO, false).await? {
                break;
            }
        }
        self.burst(RECO, 4).await?;
        let _ = self.take_point(RECO).await?;
        tokio::time::sleep(Duration::from_secs(20)).await;
        for _ in 0..3 {
            if matches!(self.state(HOME), Some(GroupState::Fenced | GroupState::Rehydrating)) {
                self.come_home().await?;
            } else if let Some(group) = self.group(HOME) {
                let _ = group.doubt();
                tokio::time::sleep(Duration::from_secs(5)).await;
            }
        }
        Ok(())
    }
}

/// What goes wrong in a scripted run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wrong {
    /// Nothing.
    Nothing,
    /// A request.
    Store(PlannedTrouble),
    /// A call to the disk of the home gateway, counted from the beginning of its present life.
    Disk(Fault),
}

/// Runs the script with one thing going wrong, and says how many requests and disk calls it made.
///
/// # Errors
/// The promise that was broken.
pub fn scripted_run(seed: u64, wrong: Wrong) -> Checked<(u64, u64)> {
    let strictness = match wrong {
        Wrong::Store(planned) if !planned.trouble.is_honest() => Strictness::Lenient,
        Wrong::Disk(_) => Strictness::Lenient,
        _ => Strictness::Strict,
    };
    let dirty = matches!(wrong, Wrong::Store(PlannedTrouble { trouble: Trouble::Corrupt | Trouble::Truncated, .. }));
    let calls = Rc::new(std::cell::Cell::new(0));
    let seen = Rc::clone(&calls);
    let tally = run((seed, Life::Short), dirty, strictness, move |world| async move {
        match wrong {
            Wrong::Nothing => {}
            Wrong::Store(planned) => world.store.plan(Some(planned)),
            Wrong::Disk(fault) => world.gateways[HOME].borrow().machine.plan(fault),
        }
        world.script().await?;
        let config = world.config(HOME);
        let disk = world.gateways[HOME].borrow().machine.disk(&config.dir);
        seen.set(disk.as_ref().map_or(0, |disk| disk.calls()));
        world.gateways[HOME].borrow().machine.clear();
        world.finish().await
    });
    tally.map(|tally| (tally.requests, calls.get())).map_err(|Violation(why)| Violation(format!("{wrong:?}: {why}")))
}

/// The failures of disks that a scripted run is walked through.
pub const ERRNOS: [Errno; 2] = [Errno::Io, Errno::NoSpace];
