//! Short scripted lives, each the shortest way to one promise: planted bugs are caught by them at once, where a random life
//! would come to the place now and then.

use lifeboat_engine::RehydrateMode;
use lifeboat_engine::points::list_points;

use super::drive::{HOME, RECO, Strictness, run};
use super::*;

/// What is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Story {
    /// The vault is away while more than a journal file is written; all of it ships in the end.
    Backlog,
    /// A segment lands after another gateway has cut its writer off.
    LateSegment,
    /// A fenced gateway keeps what it had not shipped.
    KeptTail,
    /// The power goes some time after writes were taken to the images.
    PowerAfterDestage,
    /// The power goes right after a pass of a failback.
    PowerAfterPass,
    /// A volume grows, and its gateway is killed.
    GrownVolume,
    /// A data key is replaced under a running writer.
    ReplacedKey,
    /// The journal is given up, and somebody looks at the points before the vault has everything.
    LookDuringResync,
    /// A gateway is asked to take over a branch that went on.
    BranchWentOn,
    /// Home finds out that another gateway goes on.
    FoundOut,
    /// A pinned point outlives its schedule.
    PinnedPoint,
    /// Garbage goes, and what is kept stays readable.
    CollectedGarbage,
    /// Somebody reads a point that is dropped and collected meanwhile.
    ReadWhileDropped,
}

/// Tells a story.
///
/// # Errors
/// The promise that was broken, with the seed and the steps that led there.
pub fn story_run(seed: u64, story: Story) -> Checked<EngineTally> {
    let life = match story {
        Story::LookDuringResync => Life::Resyncing,
        Story::PinnedPoint | Story::CollectedGarbage | Story::ReadWhileDropped => Life::Collecting,
        _ => Life::Short,
    };
    run((seed, life), false, Strictness::Strict, move |world| async move {
        world.begin().await?;
        world.tell(story).await?;
        world.check_vault().await?;
        world.finish().await
    })
}

impl World {
    /// A group at home with something in it and a point, in fair weather.
    async fn begin(&self) -> Checked {
        self.store.set_weather(Weather { trouble: 0, latency_ms: 20, dirty: false });
        promise!(self.create(HOME).await?, "the group can't be made");
        self.gateways[HOME].borrow_mut().on_branch = self.group(HOME).map(|group| group.status().branch);
        promise!(self.resynced(HOME).await?, "what was adopted does not reach the vault");
        self.must_write(HOME, 0, 0, 16).await?;
        self.must_land(HOME).await
    }

    async fn tell(&self, story: Story) -> Checked {
        match story {
            Story::Backlog => self.backlog().await,
            Story::LateSegment => self.late_segment().await,
            Story::KeptTail => self.kept_tail().await,
            Story::PowerAfterDestage => self.power_after_destage().await,
            Story::PowerAfterPass => self.power_after_pass().await,
            Story::GrownVolume => self.grown_volume().await,
            Story::ReplacedKey => self.replaced_key().await,
            Story::LookDuringResync => self.look_during_resync().await,
            Story::BranchWentOn => self.branch_went_on().await,
            Story::FoundOut => {
                self.leave_home_cut_off().await?;
                self.find_out().await
            }
            Story::PinnedPoint => self.pinned_point().await,
            Story::CollectedGarbage => self.collected_garbage().await,
            Story::ReadWhileDropped => self.read_while_dropped().await,
        }
    }

    async fn must_write(&self, gateway: usize, volume: usize, lba: u64, blocks: u64) -> Checked {
        let written = self.write_blocks(gateway, volume, (lba, blocks)).await?;
        promise!(written, "{} takes no write", self.name(gateway));
        Ok(())
    }

    async fn must_flush(&self, gateway: usize) -> Checked {
        promise!(self.flush(gateway, 0).await?, "{} can't flush", self.name(gateway));
        Ok(())
    }

    async fn must_land(&self, gateway: usize) -> Checked {
        promise!(self.take_point(gateway).await?, "a point of {} does not land", self.name(gateway));
        Ok(())
    }

    fn cut(&self, gateway: usize, cut: bool) {
        self.gateways[gateway].borrow().link.set_cut(cut);
    }

    async fn backlog(&self) -> Checked {
        self.cut(HOME, true);
        // Three files of a journal that has four at least.
        for at in 0..40 {
            self.must_write(HOME, 0, at % 2, 14).await?;
        }
        // Everything is in the images, and the group's state says so.
        tokio::time::sleep(Duration::from_secs(10)).await;
        self.cut(HOME, false);
        self.must_land(HOME).await
    }

    async fn late_segment(&self) -> Checked {
        self.store.hold_back("/log/");
        self.must_write(HOME, 0, 3, 1).await?;
        let switch = async {
            tokio::time::sleep(Duration::from_secs(5)).await;
            self.cut(HOME, true);
            let switched = self.fail_over_to(RECO, false).await?;
            promise!(switched, "the failover does not come about");
            promise!(self.store.let_land() > 0, "nothing was on its way");
            self.check_vault().await?;
            self.cut(HOME, false);
            Ok(())
        };
        let (point, switched) = tokio::join!(self.take_point(HOME), switch);
        point?;
        switched
    }

    /// Fails over while home is cut off; home has not found out.
    async fn leave_home_cut_off(&self) -> Checked<BranchId> {
        self.cut(HOME, true);
        promise!(self.fail_over_to(RECO, false).await?, "the failover does not come about");
        self.must_write(RECO, 0, 1, 2).await?;
        self.must_land(RECO).await?;
        self.cut(HOME, false);
        let branch = self.gateways[RECO].borrow().on_branch;
        branch.ok_or_else(|| Violation("the failover made no branch".into()))
    }

    async fn find_out(&self) -> Checked {
        for _ in 0..20 {
            if self.state(HOME) == Some(GroupState::Fenced) {
                return Ok(());
            }
            let _ = self.group(HOME).map(|group| group.doubt());
            tokio::time::sleep(Duration::from_secs(5)).await;
        }
        Err(Violation("home does not find out that it was fenced".into()))
    }

    async fn kept_tail(&self) -> Checked {
        let branch = self.leave_home_cut_off().await?;
        // The last record is a write, not a point: time for one comes seconds later.
        self.must_write(HOME, 0, 5, 2).await?;
        self.must_flush(HOME).await?;
        self.find_out().await?;
        promise!(self.rehydrate(HOME, branch, RehydrateMode::Delta).await?, "home can't be brought back");
        Ok(())
    }

    async fn power_after_destage(&self) -> Checked {
        for round in 0..3 {
            self.must_write(HOME, 0, round * 4, 3).await?;
            self.must_write(HOME, 1, round * 2, 2).await?;
            self.must_flush(HOME).await?;
            tokio::time::sleep(Duration::from_secs(6)).await;
            self.crash(HOME, CrashKind::Power)?;
            self.reopen(HOME, Some(CrashKind::Power)).await?;
        }
        Ok(())
    }

    async fn power_after_pass(&self) -> Checked {
        let branch = self.leave_home_cut_off().await?;
        for at in 0..4 {
            self.must_write(RECO, 0, at * 4, 3).await?;
            self.must_write(RECO, 1, at * 3, 2).await?;
        }
        self.must_land(RECO).await?;
        self.find_out().await?;
        promise!(self.rehydrate(HOME, branch, RehydrateMode::Delta).await?, "home can't be brought back");
        self.crash(HOME, CrashKind::Power)?;
        self.reopen(HOME, Some(CrashKind::Power)).await?;
        promise!(self.release(RECO).await?, "the recovery side can't be released");
        promise!(self.rehydrate(HOME, branch, RehydrateMode::Delta).await?, "home can't be brought back");
        self.must_take_over(branch).await
    }

    async fn must_take_over(&self, branch: BranchId) -> Checked {
        promise!(self.take_over(HOME, branch).await?, "home can't take {branch} over");
        self.gateways[HOME].borrow_mut().on_branch = Some(branch);
        Ok(())
    }

    async fn grown_volume(&self) -> Checked {
        let size = self.blocks(HOME, 0);
        promise!(self.grow(HOME, 0, size + 3).await?, "the volume can't grow");
        self.must_write(HOME, 0, size, 3).await?;
        self.must_flush(HOME).await?;
        tokio::time::sleep(Duration::from_secs(6)).await;
        self.crash(HOME, CrashKind::Kill)?;
        self.reopen(HOME, Some(CrashKind::Kill)).await
    }

    async fn replaced_key(&self) -> Checked {
        for volume in 0..VOLUMES {
            promise!(self.rotate_key_of(HOME, volume).await?.is_some(), "the key can't be replaced");
            self.must_write(HOME, volume, 2, 3).await?;
            self.must_land(HOME).await?;
        }
        Ok(())
    }

    async fn look_during_resync(&self) -> Checked {
        promise!(self.fill_journal(HOME).await?, "the journal is never full");
        self.must_write(HOME, 0, 1, 1).await?;
        self.cut(HOME, false);
        for _ in 0..8 {
            tokio::time::sleep(Duration::from_millis(400)).await;
            self.check_vault().await?;
        }
        promise!(self.resynced(HOME).await?, "the resync does not end");
        self.must_land(HOME).await
    }

    async fn branch_went_on(&self) -> Checked {
        let branch = self.leave_home_cut_off().await?;
        self.find_out().await?;
        promise!(self.rehydrate(HOME, branch, RehydrateMode::Delta).await?, "home can't be brought back");
        self.must_write(RECO, 1, 4, 6).await?;
        self.must_land(RECO).await?;
        promise!(!self.take_over(HOME, branch).await?, "home takes over behind the branch's end");
        Ok(())
    }

    /// Days in which everything is written again and again, with a point each.
    async fn overwrite_for_days(&self) -> Checked {
        for round in 0..5 {
            store::leap(Duration::from_secs(86_400));
            self.must_write(HOME, 0, round % 2, 14).await?;
            self.must_write(HOME, 1, round % 3, 12).await?;
            self.must_land(HOME).await?;
        }
        // What is due is shipped, and the map that is due then has time to land.
        tokio::time::sleep(Duration::from_secs(30)).await;
        Ok(())
    }

    /// Collects twice, with the grace between, so that what is garbage goes.
    async fn collect_all(&self, own: bool) -> Checked {
        self.collect(HOME, own).await?;
        store::leap(long::GRACE * 2);
        let before = self.tally.borrow().deleted;
        self.collect(HOME, own).await?;
        let deleted = self.tally.borrow().deleted - before;
        promise!(deleted > 0, "there was garbage, and nothing was deleted");
        Ok(())
    }

    async fn newest_point(&self) -> Checked<PointInfo> {
        let Some(group) = self.group(HOME) else { return Err(Violation("there is no group".into())) };
        let vault = self.blank_reader()?;
        let points = list_points(&vault, GROUP, group.status().branch).await;
        let points = points.map_err(|error| Violation(format!("the points can't be read: {error}")))?;
        points.into_iter().next_back().ok_or_else(|| Violation("there is no point".into()))
    }

    async fn pinned_point(&self) -> Checked {
        let point = self.newest_point().await?;
        while self.known.borrow().pinned.is_empty() {
            self.pin(HOME, &point).await?;
        }
        self.overwrite_for_days().await?;
        self.collect_all(true).await
    }

    async fn collected_garbage(&self) -> Checked {
        self.overwrite_for_days().await?;
        // Behind the newest map, and of the first segment no block is left: whoever reads the second has to read both.
        for _ in 0..2 {
            self.must_write(HOME, 0, 7, 2).await?;
            self.must_land(HOME).await?;
        }
        // Nobody writes another map.
        let group = self.gateways[HOME].borrow_mut().group.take();
        if let Some(group) = group {
            group.close(Duration::ZERO).await;
        }
        store::leap(Duration::from_secs(4 * 86_400));
        self.collect_all(false).await
    }

    async fn read_while_dropped(&self) -> Checked {
        let point = self.newest_point().await?;
        self.overwrite_for_days().await?;
        self.hold(&point).await?;
        for _ in 0..3 {
            self.collect(HOME, true).await?;
            store::leap(long::GRACE / 6);
        }
        Ok(())
    }
}
