//! Readers and writers at once, on a protected volume: what they see must be what one disk could have shown them.
//!
//! Threads use the volume through a real mount, others by the interface that NBD and the agent use, both at overlapping places of
//! any alignment to a sector; recovery points are taken meanwhile, and what they hold counts as read when they were taken. Now and
//! then the group is closed and opened again. `CASES` histories from `SEED` on; the seed of one that fails is printed, and says
//! again what the threads do (when they do it is the machine's).

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod registers;

#[path = "../../../engine/tests/lab/mod.rs"]
mod lab;
#[path = "../../benches/support/mod.rs"]
mod volumes;

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use lab::{Lab, Random, SIZE};
use lifeboat_engine::error::Result;
use lifeboat_engine::{BlockVolume, Group};
use lifeboat_export::Mount;
use lifeboat_model::PointKind;
use registers::{NEVER, Operation, linearizable};
use tokio::runtime::Runtime;

const SECTOR: usize = 512;
/// The part of the volume that one history is about.
const SECTORS: usize = 96;
const OPERATIONS: usize = 40;
const THREADS: usize = 3;
const TASKS: usize = 2;
/// A restart after so many histories.
const RESTART: u64 = 16;

/// What one operation did to the sectors from `first` on.
struct Event {
    first: usize,
    begun: u64,
    ended: u64,
    write: bool,
    values: Vec<u64>,
}

/// What is in a sector: one number, from its first byte to its last.
fn values(data: &[u8]) -> std::result::Result<Vec<u64>, String> {
    data.chunks(SECTOR)
        .map(|sector| {
            let words: Vec<u64> = sector.chunks(8).map(|word| u64::from_le_bytes(word.try_into().unwrap())).collect();
            match words.iter().all(|word| *word == words[0]) {
                true => Ok(words[0]),
                false => Err(format!("a sector holds parts of several writes: {words:?}")),
            }
        })
        .collect()
}

/// What is to happen next.
enum Step {
    Write { first: usize, value: u64, data: Vec<u8> },
    Read { first: usize, sectors: usize },
    Flush,
}

/// Numbers no two writes share, and the clock of all.
struct Common {
    next: AtomicU64,
    started: Instant,
}

impl Common {
    fn now(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_nanos()).unwrap()
    }

    fn step(&self, random: &mut Random) -> Step {
        let most = [1, 8, 40][random.below(3)];
        let sectors = 1 + random.below(most);
        let first = random.below(SECTORS - sectors + 1);
        match random.below(16) {
            0 => Step::Flush,
            1..=8 => {
                let value = self.next.fetch_add(1, Ordering::Relaxed);
                Step::Write { first, value, data: value.to_le_bytes().repeat(sectors * SECTOR / 8) }
            }
            _ => Step::Read { first, sectors },
        }
    }
}

type Seen = std::result::Result<Vec<Event>, String>;

fn by_mount(file: &File, base: u64, common: &Common, mut random: Random) -> Seen {
    let mut events = Vec::new();
    for _ in 0..OPERATIONS {
        let step = common.step(&mut random);
        let begun = common.now();
        match step {
            Step::Flush => file.sync_data().unwrap(),
            Step::Write { first, value, data } => {
                file.write_all_at(&data, base + (first * SECTOR) as u64).unwrap();
                let values = vec![value; data.len() / SECTOR];
                events.push(Event { first, begun, ended: common.now(), write: true, values });
            }
            Step::Read { first, sectors } => {
                let mut data = vec![0; sectors * SECTOR];
                file.read_exact_at(&mut data, base + (first * SECTOR) as u64).unwrap();
                let ended = common.now();
                events.push(Event { first, begun, ended, write: false, values: values(&data)? });
            }
        }
    }
    Ok(events)
}

async fn directly(volume: Arc<dyn BlockVolume>, base: u64, common: Arc<Common>, mut random: Random) -> Seen {
    let mut events = Vec::new();
    for _ in 0..OPERATIONS {
        let step = common.step(&mut random);
        let begun = common.now();
        match step {
            Step::Flush => volume.flush().await.unwrap(),
            Step::Write { first, value, data } => {
                let values = vec![value; data.len() / SECTOR];
                volume.write(base + (first * SECTOR) as u64, Bytes::from(data)).await.unwrap();
                events.push(Event { first, begun, ended: common.now(), write: true, values });
            }
            Step::Read { first, sectors } => {
                let len = u32::try_from(sectors * SECTOR).unwrap();
                let data = volume.read(base + (first * SECTOR) as u64, len).await.unwrap();
                let ended = common.now();
                events.push(Event { first, begun, ended, write: false, values: values(&data)? });
            }
        }
    }
    Ok(events)
}

/// How a volume goes wrong, so that the test has something to find.
#[derive(Clone, Copy, Debug)]
enum Wrong {
    /// A write is answered before it took place.
    AnswersFirst,
    /// A read finds what another one found before.
    ReadsOld,
    /// A write is answered and forgotten.
    Forgets,
    /// A write takes place in two steps.
    Tears,
}

/// A volume with a mistake; one operation in eight meets it.
#[derive(Debug)]
struct Mistaken {
    inner: Arc<dyn BlockVolume>,
    wrong: Wrong,
    count: AtomicU64,
    old: std::sync::Mutex<std::collections::HashMap<(u64, u32), Bytes>>,
}

#[async_trait]
impl BlockVolume for Mistaken {
    fn size_bytes(&self) -> u64 {
        self.inner.size_bytes()
    }

    fn read_only(&self) -> bool {
        false
    }

    async fn read(&self, offset: u64, len: u32) -> Result<Bytes> {
        let data = self.inner.read(offset, len).await?;
        let mut old = self.old.lock().unwrap();
        Ok(match matches!(self.wrong, Wrong::ReadsOld).then(|| old.get(&(offset, len)).cloned()).flatten() {
            Some(before) => before,
            None => {
                old.insert((offset, len), data.clone());
                data
            }
        })
    }

    async fn write(&self, offset: u64, data: Bytes) -> Result<()> {
        let inner = Arc::clone(&self.inner);
        if self.count.fetch_add(1, Ordering::Relaxed) % 8 != 7 {
            return inner.write(offset, data).await;
        }
        match self.wrong {
            Wrong::AnswersFirst => {
                tokio::spawn(async move {
                    tokio::time::sleep(Duration::from_millis(3)).await;
                    inner.write(offset, data).await.unwrap();
                });
                Ok(())
            }
            Wrong::Forgets => Ok(()),
            Wrong::Tears => {
                let half = data.len() / 2 + 8;
                inner.write(offset, data.slice(..half)).await?;
                tokio::time::sleep(Duration::from_millis(3)).await;
                inner.write(offset + half as u64, data.slice(half..)).await
            }
            Wrong::ReadsOld => inner.write(offset, data).await,
        }
    }

    async fn flush(&self) -> Result<()> {
        self.inner.flush().await
    }

    async fn zero(&self, offset: u64, len: u64, trim: bool) -> Result<()> {
        self.inner.zero(offset, len, trim).await
    }
}

/// A group of one volume, mounted.
struct Stand {
    runtime: Runtime,
    lab: Lab,
    wrong: Option<Wrong>,
    common: Arc<Common>,
    open: Option<Opened>,
}

struct Opened {
    group: Arc<Group>,
    volume: Arc<dyn BlockVolume>,
    mount: Mount,
    file: File,
}

impl Stand {
    fn new(wrong: Option<Wrong>) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let lab = runtime.block_on(Lab::new());
        let group = runtime.block_on(lab.create());
        let common = Arc::new(Common { next: AtomicU64::new(1), started: Instant::now() });
        let mut stand = Self { runtime, lab, wrong, common, open: None };
        stand.mount(group);
        stand
    }

    fn mount(&mut self, group: Arc<Group>) {
        let volume = lab::volume(&group, &self.lab);
        let volume: Arc<dyn BlockVolume> = match self.wrong {
            Some(wrong) => {
                Arc::new(Mistaken { inner: volume, wrong, count: AtomicU64::new(0), old: std::sync::Mutex::default() })
            }
            None => volume,
        };
        let dir = self.lab.dir.path().join("mount");
        let (mount, path) = self.runtime.block_on(volumes::mounted(&dir, Arc::clone(&volume)));
        let file = File::options().read(true).write(true).open(path).unwrap();
        self.open = Some(Opened { group, volume, mount, file });
    }

    fn close(&mut self) {
        if let Some(Opened { group, volume, mount, file }) = self.open.take() {
            drop((volume, file));
            self.runtime.block_on(async {
                mount.unmount(Duration::from_secs(5)).await;
                group.close(Duration::from_secs(20)).await;
            });
        }
    }

    fn restart(&mut self) {
        self.close();
        let group = self.runtime.block_on(Group::open(self.lab.config(self.lab.primary))).unwrap();
        self.mount(group);
    }

    /// One history, judged; a recovery point of it too, where wanted.
    fn history(&self, seed: u64, with_point: bool) -> std::result::Result<(), String> {
        let open = self.open.as_ref().unwrap();
        let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        random.below(2);
        let base = (random.below((SIZE - SECTORS * SECTOR) / SECTOR + 1) * SECTOR) as u64;
        let mut before = vec![0; SECTORS * SECTOR];
        open.file.read_exact_at(&mut before, base).unwrap();
        let before = values(&before)?;
        let mut seeds = (0..THREADS + TASKS).map(|_| Random(random.below(usize::MAX) as u64 | 1)).collect::<Vec<_>>();
        let tasks: Vec<_> = seeds
            .split_off(THREADS)
            .into_iter()
            .map(|random| {
                self.runtime.spawn(directly(Arc::clone(&open.volume), base, Arc::clone(&self.common), random))
            })
            .collect();
        let point = with_point.then(|| {
            let (group, common) = (Arc::clone(&open.group), Arc::clone(&self.common));
            self.runtime.spawn(async move {
                let begun = common.now();
                let point = group.take_point(PointKind::Manual, "meanwhile").await.unwrap();
                (begun, common.now(), point)
            })
        });
        let mut seen: Vec<Seen> = std::thread::scope(|scope| {
            let threads: Vec<_> = seeds
                .into_iter()
                .map(|random| scope.spawn(|| by_mount(&open.file, base, &self.common, random)))
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        seen.extend(tasks.into_iter().map(|task| self.runtime.block_on(task).unwrap()));
        let mut events = Vec::new();
        for part in seen {
            events.extend(part?);
        }
        if let Some(point) = point {
            let (begun, ended, info) = self.runtime.block_on(point).unwrap();
            let all = self.runtime.block_on(self.lab.content_at(&info));
            let here = usize::try_from(base).unwrap();
            let values = values(&all[here..here + SECTORS * SECTOR])?;
            events.push(Event { first: 0, begun, ended, write: false, values });
        }
        let begun = self.common.now();
        let mut after = vec![0; SECTORS * SECTOR];
        open.file.read_exact_at(&mut after, base).unwrap();
        events.push(Event { first: 0, begun, ended: NEVER - 1, write: false, values: values(&after)? });
        (0..SECTORS).try_for_each(|sector| {
            let operations: Vec<Operation> = events
                .iter()
                .filter_map(|event| {
                    let value = *event.values.get(sector.checked_sub(event.first)?)?;
                    Some(Operation { begun: event.begun, ended: event.ended, value, write: event.write })
                })
                .collect();
            linearizable(before[sector], &operations)
                .map_err(|what| format!("sector {sector} of those from byte {base} on: {what}\n{operations:#?}"))
        })
    }
}

impl Drop for Stand {
    fn drop(&mut self) {
        self.close();
    }
}

/// A number from the environment, also in hexadecimal.
fn asked(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok().filter(|text| !text.is_empty())?;
    let number = match text.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16),
        None => text.parse(),
    };
    Some(number.unwrap_or_else(|_| panic!("{name} is {text:?}: it must be a number")))
}

#[test]
fn a_volume_behaves_as_one_disk() {
    let (first, cases) = (asked("SEED").unwrap_or(1), asked("CASES").unwrap_or(200));
    let mut stand = Stand::new(None);
    for seed in first..first + cases {
        if seed % RESTART == RESTART - 1 {
            stand.restart();
        }
        if let Err(what) = stand.history(seed, seed % 4 == 0) {
            panic!("SEED={seed} CASES=1: {what}");
        }
    }
    eprintln!("{cases} histories from {first} on, each of {} operations: linearizable", (THREADS + TASKS) * OPERATIONS);
}

#[test]
fn volumes_with_mistakes_are_found() {
    for wrong in [Wrong::AnswersFirst, Wrong::ReadsOld, Wrong::Forgets, Wrong::Tears] {
        let stand = Stand::new(Some(wrong));
        let found = (1..=50).find(|seed| stand.history(*seed, false).is_err());
        assert!(found.is_some(), "{wrong:?} was not found in 50 histories");
        eprintln!("{wrong:?}: found by history {}", found.unwrap());
    }
}
