//! What gateways do: writes, points, switches, and coming back after a crash. Each move keeps the model beside it and says
//! what is not as promised; an error that the world may cause is no violation.

use std::time::Duration;

use lifeboat_engine::branch;
use lifeboat_engine::{FailOver, RehydrateMode};

use super::check::readable;
use super::*;

/// How often a move is tried before the weather is made calm, and after.
const TRIES: (u32, u32) = (4, 40);
/// The longest that a write may wait, however full the journal is.
const WRITE_PATIENCE: Duration = Duration::from_secs(600);

impl World {
    /// Whether an error is one that bad networks, crashes and other gateways cause.
    fn excusable(&self, gateway: usize, error: &EngineError) -> bool {
        self.lenient
            || match error.kind() {
                ErrorKind::Retry | ErrorKind::Denied | ErrorKind::Fenced | ErrorKind::Closed | ErrorKind::NotFound => {
                    true
                }
                ErrorKind::Tampered => self.dirty_network,
                ErrorKind::Damaged | ErrorKind::NoSpace => self.is_down(gateway),
                ErrorKind::Invalid | ErrorKind::WrongKey | ErrorKind::NewerFormat => self.is_down(gateway),
            }
    }

    /// Whether something may stay undone for now: the trouble goes on, or the store has broken its promises.
    pub(super) fn forgiven(&self) -> bool {
        self.lenient || self.store.has_lasting_trouble()
    }

    pub(super) fn excuse(&self, gateway: usize, what: &str, error: &EngineError) -> Checked {
        self.note(format!("{} {what}: {:?}: {error}", self.name(gateway), error.kind()));
        promise!(
            self.excusable(gateway, error),
            "{}: {what} failed for no good reason: {:?}: {error}",
            self.name(gateway),
            error.kind()
        );
        Ok(())
    }

    /// A new group at a gateway.
    pub(super) async fn create(&self, gateway: usize) -> Checked<bool> {
        let sizes: Vec<u64> = (0..VOLUMES).map(|_| 16 + self.below(48)).collect();
        let volumes = (0..VOLUMES)
            .map(|at| VolumeSpec {
                id: volume_id(at),
                name: format!("v{at}"),
                size_bytes: sizes[at] * BLOCK_SIZE_U64,
                source: None,
            })
            .collect();
        let mut volumes: Vec<VolumeSpec> = volumes;
        let mut base: Stamps = sizes.iter().map(|blocks| vec![0; usize::try_from(*blocks).unwrap_or(0)]).collect();
        if self.life == Life::Resyncing && self.one_in(2) {
            (volumes[1].source, base[1]) = self.put_source(gateway, sizes[1])?;
        }
        match Group::create(self.config(gateway), volumes).await {
            Ok(group) => {
                self.note(format!("{} created the group, volumes of {sizes:?} blocks", self.name(gateway)));
                let history = self.add_history(History::new(base));
                let branch = group.status().branch;
                self.known.borrow_mut().of_branch.insert(branch, history);
                let mut one = self.gateways[gateway].borrow_mut();
                (one.group, one.local) = (Some(group), Some(history));
                Ok(true)
            }
            Err(error) => {
                self.excuse(gateway, "create", &error)?;
                // What it got as far as may be in the vault: a branch of its own that holds what was asked for, and that nobody
                // was told of.
                self.add_history(History::new(base));
                Ok(false)
            }
        }
    }

    /// A disk with content that is to become a volume: where it is, and what it holds.
    fn put_source(&self, gateway: usize, blocks: u64) -> Checked<(Option<PathBuf>, Vec<u64>)> {
        let config = self.config(gateway);
        let opened = config.machine.open(&config.dir);
        opened.map_err(|error| Violation(format!("no disk: {error}")))?;
        let disk = self.gateways[gateway].borrow().machine.disk(&config.dir);
        let Some(disk) = disk else { return Err(Violation("there is no disk".into())) };
        let mut stamps: Vec<u64> = (self.new_stamps(blocks)..).take(usize::try_from(blocks).unwrap_or(0)).collect();
        stamps.iter_mut().skip(3).step_by(5).for_each(|stamp| *stamp = 0);
        let path = PathBuf::from("/simulated/source");
        disk.add_source(&path, &bytes_of(&stamps));
        self.note(format!("{} is to adopt a disk of {blocks} blocks", self.name(gateway)));
        self.tally.borrow_mut().adopted += 1;
        Ok((Some(path), stamps))
    }

    /// One operation of an application; false when the gateway takes no more of them.
    pub(super) async fn operate(&self, gateway: usize) -> Checked<bool> {
        let (Some(group), Some(local)) = (self.group(gateway), self.gateways[gateway].borrow().local) else {
            return Ok(false);
        };
        let volume = usize::try_from(self.below(VOLUMES as u64)).unwrap_or(0);
        let Some(front) = group.volume(volume_id(volume)) else { return Ok(false) };
        let size = front.size_bytes() / BLOCK_SIZE_U64;
        if size == 0 {
            return Ok(false);
        }
        let lba = self.below(size);
        let few = (1 + self.below(3)).min(size - lba);
        let many = (1 + self.below(32)).min(size - lba);
        let after = self.last_lsn(gateway);
        let (change, outcome) = match self.below(40) {
            0..=19 => self.write(&front, local, volume, (lba, few), after).await,
            20..=23 => self.write(&front, local, volume, (lba, many), after).await,
            24..=27 => {
                let change = Change::Zero { volume, lba, blocks: many };
                self.history(local, |history| history.ask(change.clone(), after));
                let trim = self.one_in(2);
                (Some(change), front.zero(lba * BLOCK_SIZE_U64, many * BLOCK_SIZE_U64, trim).await)
            }
            28 => return self.grow(gateway, volume, size + 1 + self.below(3)).await,
            29..=32 => return self.flush(gateway, volume).await,
            33..=35 => return self.read_and_compare(gateway, local).await,
            _ => return self.take_point(gateway).await,
        };
        self.settle(gateway, local, change.as_ref(), outcome)
    }

    /// Writes blocks that nobody has written before; false when the gateway takes no more of them.
    pub(super) async fn write_blocks(&self, gateway: usize, volume: usize, place: (u64, u64)) -> Checked<bool> {
        let (Some(group), Some(local)) = (self.group(gateway), self.gateways[gateway].borrow().local) else {
            return Ok(false);
        };
        let Some(front) = group.volume(volume_id(volume)) else { return Ok(false) };
        let (change, outcome) = self.write(&front, local, volume, place, self.last_lsn(gateway)).await;
        self.settle(gateway, local, change.as_ref(), outcome)
    }

    /// Makes a volume longer; false when the gateway takes no more operations.
    pub(super) async fn grow(&self, gateway: usize, volume: usize, blocks: u64) -> Checked<bool> {
        let (Some(group), Some(local)) = (self.group(gateway), self.gateways[gateway].borrow().local) else {
            return Ok(false);
        };
        let change = Change::Grow { volume, blocks };
        let after = self.last_lsn(gateway);
        self.history(local, |history| history.ask(change.clone(), after));
        let outcome = group.grow_volume(volume_id(volume), blocks * BLOCK_SIZE_U64).await;
        self.settle(gateway, local, Some(&change), outcome)
    }

    /// Flushes; false when the gateway takes no more operations.
    pub(super) async fn flush(&self, gateway: usize, volume: usize) -> Checked<bool> {
        let (Some(group), Some(local)) = (self.group(gateway), self.gateways[gateway].borrow().local) else {
            return Ok(false);
        };
        let Some(front) = group.volume(volume_id(volume)) else { return Ok(false) };
        let acked = self.history(local, |history| history.acked);
        let done = front.flush().await;
        if done.is_ok() {
            self.history(local, |history| history.flushed = history.flushed.max(acked));
        }
        self.note(format!("{} flush: {}", self.name(gateway), outcome_word(&done)));
        self.settle(gateway, local, None, done)
    }

    /// Notes what became of an operation; false when the gateway takes no more of them.
    fn settle(
        &self,
        gateway: usize,
        local: usize,
        change: Option<&Change>,
        outcome: Result<(), EngineError>,
    ) -> Checked<bool> {
        if let Some(change) = change {
            self.note(format!("{} {change:?}: {}", self.name(gateway), outcome_word(&outcome)));
        }
        self.tally.borrow_mut().operations += 1;
        match outcome {
            Ok(()) => {
                if change.is_some() {
                    let upto = self.last_lsn(gateway);
                    self.history(local, |history| history.done(upto));
                }
                Ok(true)
            }
            Err(error) => {
                // Refused before it had a place in the write order, or nobody can say.
                if change.is_some() && error.kind() == ErrorKind::Fenced && !self.is_down(gateway) {
                    self.history(local, History::refused);
                }
                self.excuse(gateway, "an operation", &error)?;
                Ok(false)
            }
        }
    }

    async fn write(
        &self,
        front: &Arc<dyn BlockVolume>,
        local: usize,
        volume: usize,
        (lba, blocks): (u64, u64),
        after: Lsn,
    ) -> (Option<Change>, Result<(), EngineError>) {
        let stamp = self.new_stamps(blocks);
        let change = Change::Write { volume, lba, blocks, stamp };
        self.history(local, |history| history.ask(change.clone(), after));
        let stamps: Vec<u64> = (stamp..stamp + blocks).collect();
        // A journal that is full waits for the vault or for its collapse, and on a machine that has stopped for neither.
        let done = front.write(lba * BLOCK_SIZE_U64, Bytes::from(bytes_of(&stamps)));
        let done = tokio::time::timeout(WRITE_PATIENCE, done).await.unwrap_or_else(|_| {
            let why = format!("a write waited longer than {WRITE_PATIENCE:?}");
            Err(EngineError::new(ErrorKind::Invalid, why))
        });
        (Some(change), done)
    }

    /// The first of so many stamps that no block has had.
    pub(super) fn new_stamps(&self, blocks: u64) -> u64 {
        let mut known = self.known.borrow_mut();
        known.next_stamp += blocks;
        known.next_stamp - blocks
    }

    async fn read_and_compare(&self, gateway: usize, local: usize) -> Checked<bool> {
        match self.contents(gateway).await {
            Ok(found) => {
                let expected = self.history(local, |history| history.state(history.len()));
                promise!(
                    found == expected,
                    "{} reads {} and wrote {}",
                    self.name(gateway),
                    shown(&found),
                    shown(&expected)
                );
                Ok(true)
            }
            Err(error) => {
                self.excuse(gateway, "reading", &error)?;
                Ok(true)
            }
        }
    }

    /// Asks for a point and waits until it is in the vault.
    pub(super) async fn take_point(&self, gateway: usize) -> Checked<bool> {
        let Some(group) = self.group(gateway) else { return Ok(false) };
        let branch = group.status().branch;
        // What a person asked for is kept as long as anything is: then little would be garbage.
        let kind = match self.life.thins() && !self.one_in(3) {
            true => PointKind::CrashConsistent,
            false => PointKind::Manual,
        };
        let taken = tokio::time::timeout(Duration::from_secs(600), group.take_point(kind, "asked")).await;
        match taken {
            Ok(Ok(point)) => {
                self.note(format!("{} point at {} landed", self.name(gateway), point.lsn));
                self.confirm(branch, &point);
                Ok(true)
            }
            Ok(Err(error)) => {
                self.excuse(gateway, "a point", &error)?;
                Ok(false)
            }
            Err(_) => {
                self.note(format!("{} gave up waiting for a point", self.name(gateway)));
                Ok(true)
            }
        }
    }

    pub(super) fn confirm(&self, branch: BranchId, point: &PointInfo) {
        if self.lenient {
            return;
        }
        self.tally.borrow_mut().points += 1;
        self.known.borrow_mut().confirmed.push(Confirmed { branch, point: point.id, lsn: point.lsn, at: store::now() });
    }

    /// Opens a gateway's group again, and compares what it finds with what must be there.
    ///
    /// `kept`: operations that no crash of this kind may take.
    pub(super) async fn reopen(&self, gateway: usize, kind: Option<CrashKind>) -> Checked {
        let kept = self.gateways[gateway].borrow().local.filter(|_| !self.lenient).map_or(0, |local| {
            self.history(local, |history| if kind == Some(CrashKind::Power) { history.flushed } else { history.acked })
        });
        if !Group::exists_at(&self.config(gateway)) {
            return Ok(());
        }
        for attempt in 0..TRIES.1 {
            if attempt == TRIES.0 {
                self.calm(true);
            }
            match Group::open(self.config(gateway)).await {
                Ok(group) => {
                    self.gateways[gateway].borrow_mut().group = Some(group);
                    self.note(format!("{} open again: {:?}", self.name(gateway), self.state(gateway)));
                    return self.compare_after_restart(gateway, kept).await;
                }
                Err(error) => self.excuse(gateway, "opening", &error)?,
            }
            if self.is_down(gateway) {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_secs(2)).await;
        }
        promise!(self.forgiven(), "{} can't be opened", self.name(gateway));
        Ok(())
    }

    async fn compare_after_restart(&self, gateway: usize, kept: usize) -> Checked {
        let Some(local) = self.gateways[gateway].borrow().local else { return Ok(()) };
        let branch = self.group(gateway).map(|group| group.status().branch);
        let on_branch = self.gateways[gateway].borrow().on_branch;
        if self.state(gateway) == Some(GroupState::Active) && branch != on_branch {
            // The crash came when a takeover was as good as done.
            self.gateways[gateway].borrow_mut().on_branch = branch;
            return match branch {
                Some(branch) => self.took_over(gateway, branch).await.map(drop),
                None => Ok(()),
            };
        }
        if matches!(self.state(gateway), None | Some(GroupState::Rehydrating)) {
            return Ok(());
        }
        for attempt in 0..TRIES.1 {
            if attempt == TRIES.0 {
                self.calm(true);
            }
            match self.contents(gateway).await {
                Ok(found) => {
                    let most = self.history(local, |history| history.len());
                    let count = self.history(local, |history| history.find(&found, kept, most));
                    let Some(count) = count else {
                        let expected = self.history(local, |history| history.state(most));
                        return Err(Violation(format!(
                            "{} holds {} after a restart, no state after {kept} to {most} operations; the last is {}",
                            self.name(gateway),
                            shown(&found),
                            shown(&expected)
                        )));
                    };
                    let last = self.last_lsn(gateway);
                    self.history(local, |history| history.cut(count, last));
                    self.note(format!("{} has {count} of {most} operations", self.name(gateway)));
                    return Ok(());
                }
                Err(error) => self.excuse(gateway, "reading after a restart", &error)?,
            }
            if self.is_down(gateway) {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_secs(2)).await;
        }
        promise!(self.forgiven(), "{} can't be read after a restart", self.name(gateway));
        Ok(())
    }

    /// Fails over to a gateway; false when it did not come about.
    pub(super) async fn fail_over(&self, to: usize, from_branch: BranchId, test: bool) -> Checked<bool> {
        let making = self.gateways[to].borrow().making;
        let branch = making.unwrap_or_else(|| BranchId::from_bytes(self.new_id()));
        // What is asked for again is the same: a branch that was forked for a test has fenced nobody.
        let test = if making.is_some() { self.gateways[to].borrow().testing } else { test };
        {
            let mut one = self.gateways[to].borrow_mut();
            (one.making, one.testing) = (Some(branch), test);
        }
        self.note(format!("{} fails over from {from_branch} to {branch}, test: {test}", self.name(to)));
        let request = FailOver { from_branch, point: None, test, branch };
        let group = match Group::fail_over(self.config(to), request).await {
            Ok(group) => group,
            Err(error) => {
                self.excuse(to, "the failover", &error)?;
                return Ok(false);
            }
        };
        {
            let mut one = self.gateways[to].borrow_mut();
            (one.group, one.making) = (Some(group), None);
        }
        self.began_on(to, branch, from_branch, test).await
    }

    /// The gateway is active on a branch that it has just forked: what it shows must be the fork's state.
    async fn began_on(&self, to: usize, branch: BranchId, from: BranchId, test: bool) -> Checked<bool> {
        let before = self.known.borrow().of_branch.get(&branch).copied();
        if let Some(history) = before {
            // An earlier attempt had come that far.
            self.gateways[to].borrow_mut().local = Some(history);
            return Ok(true);
        }
        let vault = readable!(self, self.blank_reader(), false, "the vault");
        let info = branch::branch_info(&vault, GROUP, branch).await;
        let info = readable!(self, info, false, "the branch that was forked");
        let Some(origin) = info.origin else { return Err(Violation("a fork has no origin".into())) };
        let parent = self.known.borrow().of_branch.get(&origin.at.branch).copied();
        let Some(parent) = parent else { return Err(Violation(format!("a fork of {} of all", origin.at.branch))) };
        let newest = {
            let known = self.known.borrow();
            known.confirmed.iter().filter(|one| one.branch == from).map(|one| one.lsn).max()
        };
        promise!(
            test || newest.is_none_or(|newest| origin.at.lsn >= newest),
            "the failover chose record {}, and the point at {newest:?} had landed",
            origin.at.lsn
        );
        let (least, most) = self.history(parent, |history| history.held_at(origin.at.lsn));
        let mut attempt = 0;
        let found = loop {
            match self.contents(to).await {
                Ok(found) => break found,
                Err(error) => self.excuse(to, "reading the fork", &error)?,
            }
            attempt += 1;
            if attempt == TRIES.0 {
                self.calm(true);
            }
            if self.is_down(to) || attempt > TRIES.1 {
                promise!(self.forgiven() || self.is_down(to), "{}: the fork can't be read", self.name(to));
                // The base is known by the point all the same.
                let Some(found) = self.stamps_at_end(branch).await? else { return Ok(false) };
                break found;
            }
            tokio::time::sleep(Duration::from_secs(2)).await;
        };
        let count = self.history(parent, |history| history.find(&found, least, most));
        promise!(
            count.is_some(),
            "{} shows {} after a failover at record {}: no state after {least} to {most} operations",
            self.name(to),
            shown(&found),
            origin.at.lsn
        );
        let base = self.history(parent, |history| history.state(count.unwrap_or(0)));
        let history = self.add_history(History::new(base));
        self.known.borrow_mut().of_branch.insert(branch, history);
        self.gateways[to].borrow_mut().local = Some(history);
        self.tally.borrow_mut().failovers += 1;
        Ok(true)
    }

    fn new_id(&self) -> [u8; 16] {
        let (first, second) = (self.next_seed(), self.next_seed());
        ((u128::from(first) << 64) | u128::from(second)).to_be_bytes()
    }

    /// Gives the branch up in good order; true when the gateway is in standby.
    pub(super) async fn release(&self, gateway: usize) -> Checked<bool> {
        let (Some(group), Some(local)) = (self.group(gateway), self.gateways[gateway].borrow().local) else {
            return Ok(false);
        };
        let branch = group.status().branch;
        match group.release(Duration::from_secs(300)).await {
            Ok(point) => {
                self.note(format!("{} released with a final point at {}", self.name(gateway), point.lsn));
                self.confirm(branch, &point);
                let (_, most) = self.history(local, |history| history.held_at(point.lsn));
                let acked = self.history(local, |history| history.acked);
                promise!(most >= acked, "a release left {} operations behind", acked - most);
                self.history(local, |history| history.flushed = history.acked);
                Ok(true)
            }
            Err(error) => {
                self.excuse(gateway, "the release", &error)?;
                Ok(false)
            }
        }
    }

    /// One pass of a failback; true when it was complete.
    pub(super) async fn rehydrate(&self, gateway: usize, branch: BranchId, mode: RehydrateMode) -> Checked<bool> {
        let (Some(group), local) = (self.group(gateway), self.gateways[gateway].borrow().local) else {
            return Ok(false);
        };
        match group.rehydrate(branch, mode).await {
            Ok(done) => {
                self.note(format!(
                    "{} rehydrated to {}, {} blocks moved, tail on {:?}",
                    self.name(gateway),
                    done.point.lsn,
                    done.blocks_moved,
                    done.orphan
                ));
                if let Some(local) = local {
                    self.check_tail(gateway, local, done.orphan).await?;
                }
                self.tally.borrow_mut().passes += 1;
                Ok(true)
            }
            Err(error) => {
                self.excuse(gateway, "a pass", &error)?;
                Ok(false)
            }
        }
    }

    /// Takes the branch over that was rehydrated; true when the gateway is active on it.
    pub(super) async fn take_over(&self, gateway: usize, branch: BranchId) -> Checked<bool> {
        let Some(group) = self.group(gateway) else { return Ok(false) };
        match group.take_over().await {
            Ok(()) => {
                self.note(format!("{} took {branch} over", self.name(gateway)));
                self.took_over(gateway, branch).await
            }
            Err(error) if error.kind() == ErrorKind::Invalid => {
                self.note(format!("{} can't take over yet: {error}", self.name(gateway)));
                Ok(false)
            }
            Err(error) => {
                self.excuse(gateway, "the takeover", &error)?;
                Ok(false)
            }
        }
    }

    /// The gateway writes a branch that another one wrote: it shows a true state of it, with every confirmed point.
    pub(super) async fn took_over(&self, gateway: usize, branch: BranchId) -> Checked<bool> {
        let before = self.known.borrow().of_branch.get(&branch).copied();
        let Some(before) = before else {
            return Err(Violation(format!("{branch} was taken over, and nobody wrote it")));
        };
        let at = self.group(gateway).map_or(Lsn::ZERO, |group| group.status().shipped_lsn);
        let newest = {
            let known = self.known.borrow();
            known.confirmed.iter().filter(|one| one.branch == branch).map(|one| one.lsn).max()
        };
        promise!(
            newest.is_none_or(|newest| at >= newest),
            "the takeover begins at record {at}, and the point at {newest:?} had landed"
        );
        let mut attempt = 0;
        let found = loop {
            match self.contents(gateway).await {
                Ok(found) => break found,
                Err(error) => self.excuse(gateway, "reading what was taken over", &error)?,
            }
            attempt += 1;
            if attempt == TRIES.0 {
                self.calm(true);
            }
            if self.is_down(gateway) {
                let Some(found) = self.stamps_at_end(branch).await? else { return Ok(false) };
                break found;
            }
            if attempt == TRIES.1 {
                promise!(self.forgiven(), "{}: what was taken over can't be read", self.name(gateway));
                return Ok(false);
            }
            tokio::time::sleep(Duration::from_secs(2)).await;
        };
        let (least, most) = self.history(before, |history| history.held_at(at));
        let count = self.history(before, |history| history.find(&found, least, most));
        let Some(count) = count else {
            let expected = self.history(before, |history| history.state(most));
            return Err(Violation(format!(
                "{} took over at record {at} with {}, no state after {least} to {most} operations; the last is {}",
                self.name(gateway),
                shown(&found),
                shown(&expected)
            )));
        };
        let mut history = self.history(before, |history| history.clone());
        history.cut(count, at);
        let history = self.add_history(history);
        self.known.borrow_mut().of_branch.insert(branch, history);
        self.gateways[gateway].borrow_mut().local = Some(history);
        self.tally.borrow_mut().takeovers += 1;
        Ok(true)
    }

    /// Forgets a gateway's copy.
    pub(super) async fn forget(&self, gateway: usize) -> Checked {
        let group = self.gateways[gateway].borrow_mut().group.take();
        if let Some(group) = group {
            group.close(Duration::ZERO).await;
        }
        let config = self.config(gateway);
        if let Err(error) = Group::forget_at(&config) {
            self.excuse(gateway, "forgetting", &error)?;
            return Ok(());
        }
        self.note(format!("{} forgot the group", self.name(gateway)));
        let mut one = self.gateways[gateway].borrow_mut();
        (one.local, one.making, one.testing) = (None, None, false);
        Ok(())
    }
}

fn outcome_word(outcome: &Result<(), EngineError>) -> String {
    outcome.as_ref().map_or_else(|error| format!("{:?}", error.kind()), |()| "done".to_owned())
}
