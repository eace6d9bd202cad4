//! Points that groups share: members that are quiet first, refuse, are late, leave, or are in another barrier. Whatever happens, writes
//! and applications go on.

mod lab;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use lab::{Lab, PATIENCE, until};
use lifeboat_engine::points::{PointInfo, list_points};
use lifeboat_engine::quiesce::{AppPoints, Quiesce};
use lifeboat_engine::relay::{Barriers, Members, Missed, SharedPoint, take_part};
use lifeboat_engine::{EngineError, ErrorKind, Group, VolumeSpec};
use lifeboat_format::stream::Part;
use lifeboat_model::{GatewayId, GroupId, PointId, PointKind, Timestamp, VolumeId};
use tokio::task::JoinHandle;

const LIMIT: Duration = Duration::from_secs(10);

#[derive(Debug, Default)]
struct Hooks {
    refuses: AtomicBool,
    hangs: AtomicBool,
    held: AtomicBool,
    rounds: AtomicUsize,
}

#[async_trait]
impl Quiesce for Hooks {
    async fn freeze(&self) -> Result<(), String> {
        self.held.store(true, Ordering::SeqCst);
        self.rounds.fetch_add(1, Ordering::SeqCst);
        if self.hangs.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
        if self.refuses.load(Ordering::SeqCst) { Err("the database says no".to_owned()) } else { Ok(()) }
    }

    async fn thaw(&self) -> Result<(), String> {
        self.held.store(false, Ordering::SeqCst);
        Ok(())
    }
}

#[derive(Debug)]
struct Known(GatewayId);

#[async_trait]
impl Members for Known {
    async fn admit(&self, machine: GatewayId, group: GroupId) -> Result<(), EngineError> {
        if machine == self.0 {
            return Ok(());
        }
        Err(EngineError::new(ErrorKind::Denied, format!("{group} isn't {machine}'s")))
    }
}

struct Member {
    group: Arc<Group>,
    volume: VolumeId,
    hooks: Arc<Hooks>,
    line: JoinHandle<EngineError>,
}

impl Member {
    async fn write(&self, byte: u8) -> Result<(), EngineError> {
        let volume = self.group.volume(self.volume).expect("the volume is open");
        volume.write(0, vec![byte; 4096].into()).await
    }

    /// What it is about to hold doesn't hold it any more.
    async fn goes_on(&self) {
        until("applications go on", || !self.hooks.held.load(Ordering::SeqCst)).await;
        tokio::time::timeout(PATIENCE, self.write(9)).await.expect("writes go on").expect("writes");
    }
}

/// Two groups with hooks, and whoever has them take points.
struct Pair {
    lab: Lab,
    barriers: Arc<Barriers>,
    members: [Member; 2],
    number: u8,
}

impl Pair {
    async fn new() -> Self {
        let lab = Lab::new().await;
        let barriers = Barriers::new(Arc::new(Known(lab.primary)));
        let members = [member(&lab, &barriers, 1).await, member(&lab, &barriers, 2).await];
        until("both are here", || barriers.here().len() == 2).await;
        Self { lab, barriers, members, number: 0 }
    }

    async fn take(&mut self, quiet: Option<Duration>, limit: Duration) -> Result<SharedPoint, Missed> {
        self.number += 1;
        let groups = self.members.each_ref().map(|member| member.group.id());
        self.barriers.take(&groups, quiet, limit, (Timestamp::now(), [self.number; 8])).await
    }

    /// The points of each that are in the vault once another one of its own is.
    async fn landed(&self) -> Vec<Vec<PointInfo>> {
        let mut all = Vec::new();
        for member in &self.members {
            member.group.take_point(PointKind::Manual, "look").await.expect("lands");
            let (vault, branch) = (&self.lab.vault, member.group.status().branch);
            all.push(list_points(vault, member.group.id(), branch).await.expect("lists"));
        }
        all
    }

    async fn nothing_is_shared(&self) {
        for points in self.landed().await {
            assert!(points.iter().all(|point| !point.id.is_shared()), "{points:?}");
        }
    }

    async fn goes_on(&self) {
        for member in &self.members {
            member.goes_on().await;
        }
    }
}

async fn member(lab: &Lab, barriers: &Arc<Barriers>, number: u8) -> Member {
    let hooks = Arc::new(Hooks::default());
    let mut config = lab.config(lab.primary);
    config.group = GroupId::from_bytes([number; 16]);
    config.dir = lab.dir.path().join(format!("group-{number}"));
    config.settings.app_points =
        Some(AppPoints { every: None, timeout: Duration::from_secs(30), hooks: Arc::<Hooks>::clone(&hooks) });
    let volume = VolumeId::from_bytes([number; 16]);
    let spec = VolumeSpec { id: volume, name: "data".into(), size_bytes: 1 << 20, source: None };
    let group = Group::create(config, vec![spec]).await.expect("creates the group");
    let line = joined(&group, barriers, lab.primary);
    Member { group, volume, hooks, line }
}

fn joined(group: &Arc<Group>, barriers: &Arc<Barriers>, machine: GatewayId) -> JoinHandle<EngineError> {
    let (here, there) = tokio::io::duplex(1 << 16);
    let (group, barriers) = (Arc::clone(group), Arc::clone(barriers));
    tokio::spawn(async move {
        tokio::join!(
            take_part(&group, machine, Box::new(here), "coordinator"),
            barriers.serve(Box::new(there), machine)
        )
        .0
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn groups_take_a_point_together_and_with_their_applications_quiet() {
    let mut pair = Pair::new().await;
    let plain = pair.take(None, LIMIT).await.expect("taken");
    let quiet = pair.take(Some(PATIENCE), LIMIT).await.expect("taken");
    for (taken, kind) in [(&plain, PointKind::CrashConsistent), (&quiet, PointKind::AppConsistent)] {
        assert_eq!(taken.points.len(), 2);
        assert!(taken.id.is_shared() && taken.points.iter().all(|point| point.id == taken.id && point.kind == kind));
    }
    for (points, member) in pair.landed().await.into_iter().zip(&pair.members) {
        let shared: Vec<_> = points.iter().filter(|point| point.id.is_shared()).map(|point| point.id).collect();
        assert_eq!(shared, [plain.id, quiet.id]);
        assert_eq!(
            member.hooks.rounds.load(Ordering::SeqCst),
            1,
            "hooks run when applications are to be quiet, and only then"
        );
    }
    pair.goes_on().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_application_that_will_not_be_quiet_keeps_all_from_a_point_and_none_is_left_held() {
    let mut pair = Pair::new().await;
    pair.members[1].hooks.refuses.store(true, Ordering::SeqCst);
    let missed = pair.take(Some(PATIENCE), LIMIT).await.expect_err("refused");
    let refused = pair.members[1].group.id();
    assert_eq!(missed.why.keys().collect::<Vec<_>>(), [&refused], "{missed}");
    assert!(missed.to_string().contains("the database says no"), "{missed}");
    pair.goes_on().await;
    pair.nothing_is_shared().await;

    pair.members[1].hooks.refuses.store(false, Ordering::SeqCst);
    pair.members[1].hooks.hangs.store(true, Ordering::SeqCst);
    let missed = pair.take(Some(Duration::from_millis(200)), LIMIT).await.expect_err("late");
    assert!(missed.to_string().contains("has not answered within 200 ms"), "{missed}");
    until("the other one goes on", || !pair.members[0].hooks.held.load(Ordering::SeqCst)).await;
    pair.nothing_is_shared().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_is_away_or_leaves_keeps_all_from_a_point() {
    let mut pair = Pair::new().await;
    pair.members[0].line.abort();
    until("it is gone", || pair.barriers.here().len() == 1).await;
    let missed = pair.take(None, LIMIT).await.expect_err("away");
    assert_eq!(missed.to_string(), format!("{}: it isn't connected", pair.members[0].group.id()));
    pair.nothing_is_shared().await;

    // A stranger in its place isn't let in.
    let stranger = joined(&pair.members[0].group, &pair.barriers, GatewayId::new()).await.expect("ends");
    assert_eq!(stranger.kind(), ErrorKind::Denied, "{stranger}");

    pair.members[0].line = joined(&pair.members[0].group, &pair.barriers, pair.lab.primary);
    until("it is back", || pair.barriers.here().len() == 2).await;
    pair.take(None, LIMIT).await.expect("taken");
    pair.goes_on().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_holds_for_no_longer_than_it_may_and_marks_nothing_afterwards() {
    let pair = Pair::new().await;
    let group = &pair.members[0].group;
    let point = PointId::shared(Timestamp::now(), [1; 8]);
    let short = Part::Hold { limit_ms: 50 };
    group.barrier(point, short).await.expect("holds");
    pair.members[0].goes_on().await;
    let late = group.barrier(point, Part::Mark).await.expect_err("late");
    assert_eq!(late.kind(), ErrorKind::Retry, "{late}");

    // While it holds, writes wait, another barrier is refused, and letting go ends it.
    let long = Part::Hold { limit_ms: 10_000 };
    group.barrier(point, long).await.expect("holds");
    let waiting = tokio::spawn({
        let volume = group.volume(pair.members[0].volume).expect("open");
        async move { volume.write(4096, vec![1; 4096].into()).await }
    });
    let other = PointId::shared(Timestamp::now(), [2; 8]);
    let refused = group.barrier(other, long).await.expect_err("busy");
    assert!(refused.to_string().contains("another barrier"), "{refused}");
    assert!(!waiting.is_finished());
    group.barrier(other, Part::LetGo).await.expect("isn't its business");
    assert!(!waiting.is_finished(), "only its own barrier is let go");
    let marked = group.barrier(point, Part::Mark).await.expect("marks").expect("a point");
    assert_eq!((marked.id, marked.kind), (point, PointKind::CrashConsistent));
    tokio::time::timeout(PATIENCE, waiting).await.expect("goes on").expect("ends").expect("writes");
    assert!(group.status().last_lsn > marked.lsn, "what waited comes after the point");

    group.barrier(other, long).await.expect("holds");
    group.barrier(other, Part::LetGo).await.expect("lets go");
    pair.members[0].goes_on().await;

    // One that doesn't write takes no part.
    group.release(PATIENCE).await.expect("released");
    let refused = group.barrier(other, long).await.expect_err("released");
    assert_eq!(refused.kind(), ErrorKind::Fenced, "{refused}");
}
