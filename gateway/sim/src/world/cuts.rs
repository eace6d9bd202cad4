//! Replication groups: groups on machines of their own, with clocks of their own, applications that write to all of them, and
//! points that they share.
//!
//! ```text
//! applications: write n, wait for it, write n + 1 somewhere else ─> group 0 ─ machine 0 ─┐ line, slow, stalled, cut
//!                                                                  group 1 ─ machine 1 ─┼──────────────────────────> Barriers
//!                                                                  group 2 ─ machine 2 ─┘                            (killed, too)
//! ```
//! What must hold: wherever several groups have a point with the same id, what they hold there is the beginning of what every
//! application did, without a gap; and no write waits for longer than a barrier may hold it, whoever is away. The clocks are up to an hour apart.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use lifeboat_engine::blocking;
use lifeboat_engine::points::list_points;
use lifeboat_engine::relay::{Barriers, Line, Members, take_part};
use lifeboat_engine::view::PointView;
use lifeboat_model::PointId;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;

use super::*;

/// Blocks of each group's volume: one for each application.
const APPLICATIONS: u64 = 3;
/// How long writes may be held.
const LIMIT: Duration = Duration::from_secs(2);
/// What a write may take without a barrier: the loops of the write path take turns of their own.
const WRITE_TAKES: Duration = Duration::from_secs(4);

/// What came about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CutTally {
    /// Runs.
    pub runs: u64,
    /// Barriers after which all groups had the point.
    pub shared: u64,
    /// Barriers that came to nothing, or not for all.
    pub missed: u64,
    /// Points in the vault that several groups have.
    pub compared: u64,
    /// Of these, points that some group of the run doesn't have.
    pub partial: u64,
    /// Writes.
    pub writes: u64,
    /// Crashes of members.
    pub crashes: u64,
}

impl CutTally {
    /// Adds another run's.
    pub fn add(&mut self, other: Self) {
        self.runs += other.runs;
        self.shared += other.shared;
        self.missed += other.missed;
        self.compared += other.compared;
        self.partial += other.partial;
        self.writes += other.writes;
        self.crashes += other.crashes;
    }
}

/// A line's state, for whoever spoils it.
#[derive(Debug, Default)]
struct Wire {
    cut: AtomicBool,
    /// Microseconds that every message takes at least.
    slow: AtomicU64,
}

#[derive(Debug)]
struct Member {
    number: u8,
    machine: Mutex<Arc<SimMachine>>,
    vault: Arc<Vault>,
    group: Mutex<Option<Arc<Group>>>,
    wire: Wire,
    random: Mutex<Random>,
}

#[derive(Debug)]
struct Anybody;

#[async_trait::async_trait]
impl Members for Anybody {
    async fn admit(&self, _: GatewayId, _: GroupId) -> Result<(), EngineError> {
        Ok(())
    }
}

#[derive(Debug)]
struct Cuts {
    members: Vec<Arc<Member>>,
    coordinator: Mutex<Option<Arc<Barriers>>>,
    /// For each application what it did, in order: the group that write n + 1 went to.
    done: Vec<Mutex<Vec<usize>>>,
    over: AtomicBool,
    slowest: Mutex<Duration>,
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Member {
    fn group_id(&self) -> GroupId {
        GroupId::from_bytes([0x60 + self.number; 16])
    }

    fn machine_id(&self) -> GatewayId {
        GatewayId::from_bytes([0x70 + self.number; 16])
    }

    fn volume_id(&self) -> VolumeId {
        VolumeId::from_bytes([0x50 + self.number; 16])
    }

    fn below(&self, below: u64) -> u64 {
        locked(&self.random).below(below)
    }

    fn config(&self) -> GroupConfig {
        GroupConfig {
            reach: Arc::clone(&self.vault).into(),
            group: self.group_id(),
            gateway: self.machine_id(),
            machine: Arc::<SimMachine>::clone(&locked(&self.machine)),
            dir: PathBuf::from("/simulated/group"),
            settings: GroupSettings {
                point_interval: Duration::from_millis(1500),
                journal_bytes: 8 << 20,
                cache_bytes: 512 << 10,
                retention: PointRetention::everything(),
                ..GroupSettings::default()
            },
        }
    }

    fn volume(&self) -> Option<Arc<dyn BlockVolume>> {
        locked(&self.group).as_ref().and_then(|group| group.volume(self.volume_id()))
    }
}

/// Runs one such estate.
///
/// # Errors
/// What isn't as it must be.
pub fn cuts_run(seed: u64) -> Checked<CutTally> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
    let runtime = runtime.map_err(|error| Violation(format!("no runtime: {error}")))?;
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        let _one_thread = blocking::stay_on_this_thread();
        runtime.block_on(run(seed))
    }));
    let outcome = outcome.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        Err(Violation(text.unwrap_or_else(|| "it panicked".to_owned())))
    });
    outcome.map_err(|Violation(text)| Violation(format!("seed {seed:#x} (cuts): {text}")))
}

fn told(error: impl std::fmt::Display) -> Violation {
    Violation(error.to_string())
}

async fn run(seed: u64) -> Checked<CutTally> {
    store::start_clock();
    let mut random = Random::new(seed ^ 0xc075);
    let store = SimStore::new(random.next());
    store.set_weather(Weather { trouble: 0, latency_ms: 30, dirty: false });
    vault_at(store.perfect_link(), true, random.next(), 0).map_err(told)?;
    let mut members = Vec::new();
    for number in 0..u8::try_from(2 + random.below(3)).unwrap_or(2) {
        let skew = i64::try_from(random.below(7_200_000_000)).unwrap_or(0) - 3_600_000_000;
        let vault = vault_at(store.perfect_link(), false, random.next(), skew).map_err(told)?;
        let member = Member {
            number,
            machine: Mutex::new(SimMachine::new(random.next())),
            vault,
            group: Mutex::default(),
            wire: Wire::default(),
            random: Mutex::new(Random::new(random.next())),
        };
        let spec = VolumeSpec {
            id: member.volume_id(),
            name: "data".into(),
            size_bytes: APPLICATIONS * BLOCK_SIZE_U64,
            source: None,
        };
        let group = Group::create(member.config(), vec![spec]).await.map_err(told)?;
        *locked(&member.group) = Some(group);
        members.push(Arc::new(member));
    }
    let applications = 1 + random.below(APPLICATIONS);
    let cuts = Arc::new(Cuts {
        members,
        coordinator: Mutex::new(Some(Barriers::new(Arc::new(Anybody)))),
        done: (0..applications).map(|_| Mutex::default()).collect(),
        over: AtomicBool::new(false),
        slowest: Mutex::default(),
    });
    for member in &cuts.members {
        tokio::spawn(takes_part(Arc::clone(&cuts), Arc::clone(member)));
    }
    let applications: Vec<_> = (0..cuts.done.len())
        .map(|at| tokio::spawn(application(Arc::clone(&cuts), at, Random::new(random.next()))))
        .collect();
    let mut tally = CutTally { runs: 1, ..CutTally::default() };
    for _ in 0..12 + random.below(20) {
        barrier(&cuts, &mut random, &mut tally).await?;
    }
    cuts.over.store(true, Ordering::SeqCst);
    for application in applications {
        application.await.map_err(told)?;
    }
    for member in &cuts.members {
        let group = locked(&member.group).take();
        if let Some(group) = group {
            group.take_point(lifeboat_model::PointKind::Manual, "the end").await.map_err(told)?;
            group.close(Duration::from_secs(60)).await;
        }
    }
    let slowest = *locked(&cuts.slowest);
    promise!(slowest <= LIMIT + WRITE_TAKES, "a write took {slowest:?}: a barrier may hold it for {LIMIT:?}");
    tally.writes = cuts.done.iter().map(|done| locked(done).len() as u64).sum();
    compare(&cuts, &store, seed, &mut tally).await?;
    Ok(tally)
}

/// One barrier, perhaps with trouble before it or amid it.
async fn barrier(cuts: &Arc<Cuts>, random: &mut Random, tally: &mut CutTally) -> Checked {
    tokio::time::sleep(Duration::from_millis(200 + random.below(2500))).await;
    let member = random.below(cuts.members.len() as u64);
    let member = Arc::clone(&cuts.members[usize::try_from(member).unwrap_or(0)]);
    let trouble = random.below(8);
    let after = Duration::from_micros(random.below(200_000));
    let spoiling = async {
        tokio::time::sleep(after).await;
        match trouble {
            0 => member.wire.cut.store(true, Ordering::SeqCst),
            1 => member.wire.slow.store(200_000 + random.below(4_000_000), Ordering::SeqCst),
            2 => {
                // The coordinator's process is killed, and another one is there.
                let before = locked(&cuts.coordinator).replace(Barriers::new(Arc::new(Anybody)));
                if let Some(before) = before {
                    before.close();
                }
            }
            3 => {
                tally.crashes += 1;
                crash(&member).await?;
            }
            _ => {}
        }
        Checked::Ok(())
    };
    let coordinator = locked(&cuts.coordinator).clone();
    let taking = async {
        let groups: Vec<GroupId> = cuts.members.iter().map(|member| member.group_id()).collect();
        let quiet = member.number.is_multiple_of(2).then_some(LIMIT);
        let id = (store::now(), member.below(u64::MAX).to_le_bytes());
        Some(coordinator?.take(&groups, quiet, LIMIT, id).await)
    };
    let (taken, spoilt) = tokio::join!(taking, spoiling);
    spoilt?;
    match taken {
        Some(Ok(_)) => tally.shared += 1,
        Some(Err(_)) | None => tally.missed += 1,
    }
    if trouble <= 3 {
        tokio::time::sleep(Duration::from_millis(500)).await;
        member.wire.slow.store(0, Ordering::SeqCst);
        member.wire.cut.store(false, Ordering::SeqCst);
    }
    Ok(())
}

/// SIGKILL: what was acknowledged is in the kernel.
async fn crash(member: &Arc<Member>) -> Checked {
    member.wire.cut.store(true, Ordering::SeqCst);
    let seed = locked(&member.random).next();
    {
        let mut machine = locked(&member.machine);
        let after = machine.crash(seed, CrashKind::Kill);
        machine.power_off();
        *machine = after;
    }
    *locked(&member.group) = None;
    let opened = Group::open(member.config()).await.map_err(told)?;
    *locked(&member.group) = Some(opened);
    Ok(())
}

/// A member's line to the coordinator, again and again.
async fn takes_part(cuts: Arc<Cuts>, member: Arc<Member>) {
    loop {
        let (group, coordinator) = (locked(&member.group).clone(), locked(&cuts.coordinator).clone());
        if let (Some(group), Some(coordinator), false) = (group, coordinator, member.wire.cut.load(Ordering::SeqCst)) {
            let (here, near) = tokio::io::duplex(1 << 16);
            let (far, there) = tokio::io::duplex(1 << 16);
            let id = member.machine_id();
            let serving = tokio::spawn(async move { coordinator.serve(Box::new(there), id).await });
            let here: Line = Box::new(here);
            tokio::select! {
                _ = take_part(&group, id, here, "coordinator") => {}
                () = carry(&member, near, far) => {}
            }
            serving.abort();
        }
        tokio::time::sleep(Duration::from_millis(20 + member.below(300))).await;
    }
}

/// Carries bytes both ways until the line is cut, each message after a while of its own.
async fn carry(member: &Arc<Member>, near: tokio::io::DuplexStream, far: tokio::io::DuplexStream) {
    let (mut from_near, mut to_near) = tokio::io::split(near);
    let (mut from_far, mut to_far) = tokio::io::split(far);
    let one_way = async |from: &mut tokio::io::ReadHalf<_>, to: &mut tokio::io::WriteHalf<tokio::io::DuplexStream>| {
        let mut bytes = vec![0; 1 << 16];
        loop {
            let Ok(count @ 1..) = from.read(&mut bytes).await else { return };
            let slow = member.wire.slow.load(Ordering::SeqCst);
            tokio::time::sleep(Duration::from_micros(slow + member.below(40_000))).await;
            if to.write_all(&bytes[..count]).await.is_err() {
                return;
            }
        }
    };
    let cut = async {
        while !member.wire.cut.load(Ordering::SeqCst) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::select! {
        () = one_way(&mut from_near, &mut to_far) => {}
        () = one_way(&mut from_far, &mut to_near) => {}
        () = cut => {}
    }
}

/// Writes its number n + 1 once n was acknowledged, each to some group.
async fn application(cuts: Arc<Cuts>, at: usize, mut random: Random) {
    let mut stamp = 0;
    while !cuts.over.load(Ordering::SeqCst) {
        let to = usize::try_from(random.below(cuts.members.len() as u64)).unwrap_or(0);
        stamp += 1;
        // Before it is written: it may be there from now on.
        locked(&cuts.done[at]).push(to);
        let begun = Instant::now();
        let mut disturbed = false;
        loop {
            let written = match cuts.members[to].volume() {
                Some(volume) => volume.write(at as u64 * BLOCK_SIZE_U64, bytes_of(&[stamp]).into()).await.is_ok(),
                None => false,
            };
            if written {
                break;
            }
            // Its member was killed: the same again, until it is acknowledged.
            disturbed = true;
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        if !disturbed {
            let mut slowest = locked(&cuts.slowest);
            *slowest = (*slowest).max(begun.elapsed());
        }
        tokio::time::sleep(Duration::from_micros(random.below(30_000))).await;
    }
}

/// With the vault alone: every id that several groups have is one cut through what the applications did to them.
async fn compare(cuts: &Cuts, store: &Arc<SimStore>, seed: u64, tally: &mut CutTally) -> Checked {
    let vault = vault_at(store.perfect_link(), false, seed ^ 0xb1a4, 0).map_err(told)?;
    let mut shared: BTreeMap<PointId, Vec<(usize, PointInfo)>> = BTreeMap::new();
    for (at, member) in cuts.members.iter().enumerate() {
        let group = member.group_id();
        let branches = lifeboat_engine::branch::list_branches(&vault, group).await.map_err(told)?;
        let Some(branch) = branches.first() else { continue };
        for point in list_points(&vault, group, branch.id).await.map_err(told)? {
            if point.id.is_shared() {
                shared.entry(point.id).or_default().push((at, point));
            }
        }
    }
    for (id, points) in shared.into_iter().filter(|(_, points)| points.len() > 1) {
        tally.compared += 1;
        tally.partial += u64::from(points.len() < cuts.members.len());
        let mut found = BTreeMap::new();
        for (at, point) in &points {
            let member = &cuts.members[*at];
            let view = PointView::open(Arc::clone(&vault), member.group_id(), point).await.map_err(told)?;
            let volume = view.volume(member.volume_id()).ok_or_else(|| told("the volume is not in its point"))?;
            found.insert(*at, stamps_of(&volume).await.map_err(told)?);
        }
        for (application, done) in cuts.done.iter().enumerate() {
            let done = locked(done);
            let held: BTreeMap<usize, u64> = found.iter().map(|(at, stamps)| (*at, stamps[application])).collect();
            let newest = held.values().copied().max().unwrap_or(0);
            for (at, stamp) in &held {
                let upto = done.iter().take(usize::try_from(newest).unwrap_or(usize::MAX)).enumerate();
                let last = upto.filter(|(_, to)| *to == at).map(|(n, _)| n as u64 + 1).next_back().unwrap_or(0);
                promise!(
                    *stamp == last,
                    "at {id} application {application} had done write {newest}, and group {at} has its write {stamp} where {last} \
                     belongs: an effect without its cause"
                );
            }
        }
    }
    Ok(())
}
