//! The whole engine under simulation: two gateways on one vault, groups as a gateway runs them, crashes, bad networks, and
//! a model of what each writer did beside it.
//!
//! ```text
//! seed ─> drive: steps ─┬─> Gateway "home" ─ Group ─ SimMachine (disks)      History (what was asked, acknowledged,
//!                       ├─> Gateway "reco" ─ Group ─ SimMachine               flushed), one for each writer of a branch
//!                       │          └──────── Link ── SimStore (one vault)
//!                       └─> check: a blank reader with vault and key only: every point of every branch against a History
//! ```
//! Everything runs on one thread with the runtime's paused clock; ids, salts, pauses and troubles come from the seed. One seed
//! is one run, request by request ([`SimStore::log_hash`]).

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use lifeboat_engine::at_rest::{Encrypted, LocalKey};
use lifeboat_engine::branch::Position;
use lifeboat_engine::disk::Disk;
use lifeboat_engine::machine::Machine;
use lifeboat_engine::points::{PointInfo, PointRetention};
use lifeboat_engine::{BlockVolume, EngineError, ErrorKind, Group, GroupConfig, GroupSettings, VolumeSpec};
use lifeboat_format::at_rest::{MARKER_LEN, MARKER_NAME, Marker};
use lifeboat_model::state::GroupState;
use lifeboat_model::{BLOCK_SIZE, BLOCK_SIZE_U64, BranchId, GatewayId, GroupId, Lsn, PointKind, Timestamp, VolumeId};
use lifeboat_vault::{Clock, Entropy, KdfStrength, KeySource, Store, Vault, VaultOptions, VaultSettings};

use crate::disk::{CrashKind, SimDisk};
use crate::machine::SimMachine;
use crate::model::{Checked, Stamps, Violation, bytes_of, stamp_of};
use crate::promise;
use crate::random::Random;
use crate::store::{self, Link, SimStore, Weather};

mod check;
mod cuts;
mod drive;
mod history;
mod long;
mod moves;
mod rot;
mod story;

pub use cuts::{CutTally, cuts_run};
pub use drive::{ERRNOS, EngineTally, Life, Profile, Wrong, engine_run, life_run, scripted_run};
pub use history::{Change, History};
pub use story::{Story, story_run};

/// The volumes of the simulated group.
pub const VOLUMES: usize = 2;
/// What the files of every third world are encrypted with.
const LOCAL_KEY: LocalKey = LocalKey::from_bytes([7; 32]);
const GROUP: GroupId = GroupId::from_bytes([9; 16]);
const PASSPHRASE: &str = "a passphrase for simulations";

fn volume_id(volume: usize) -> VolumeId {
    VolumeId::from_bytes([u8::try_from(volume + 1).unwrap_or(1); 16])
}

/// One gateway, in its present life.
#[derive(Debug)]
pub struct Gateway {
    name: &'static str,
    id: GatewayId,
    machine: Arc<SimMachine>,
    link: Arc<Link>,
    vault: Arc<Vault>,
    group: Option<Arc<Group>>,
    /// What it writes, or wrote last.
    local: Option<usize>,
    /// The branch that a failover here is to make, until it has.
    making: Option<BranchId>,
    /// The branch that it is on, as far as its driver knows.
    on_branch: Option<BranchId>,
    /// It serves a test: a branch that nobody goes on with.
    testing: bool,
    clock_skew_micros: i64,
    lives: u64,
}

/// A recovery point that somebody was told is safe.
#[derive(Clone, Debug)]
struct Confirmed {
    branch: BranchId,
    point: lifeboat_model::PointId,
    lsn: Lsn,
    /// When it was.
    at: Timestamp,
}

#[derive(Debug)]
struct Known {
    histories: Vec<History>,
    /// Whose history a branch has.
    of_branch: BTreeMap<BranchId, usize>,
    confirmed: Vec<Confirmed>,
    /// Points that are pinned until somebody unpins them.
    pinned: Vec<PointInfo>,
    held: Vec<Held>,
    next_stamp: u64,
    trace: Vec<String>,
}

/// A point that a third party is reading: what it needs stays for the grace of collections, also if the point is dropped.
#[derive(Clone, Debug)]
struct Held {
    at: Position,
    since: Timestamp,
    stamps: Stamps,
}

/// A world.
#[derive(Debug)]
pub struct World {
    seed: u64,
    store: Arc<SimStore>,
    random: RefCell<Random>,
    gateways: [RefCell<Gateway>; 2],
    known: RefCell<Known>,
    settings: GroupSettings,
    life: Life,
    /// Reads may come back changed on their way, so that "tampered" may be a matter of trying again.
    dirty_network: bool,
    /// The store or the disk breaks its promises: nothing wrong may be shown, and nothing more is asked.
    lenient: bool,
    tally: RefCell<EngineTally>,
}

/// Opens or makes the vault on a thread of its own, which is waited for: key derivation goes to other threads, and nothing
/// may happen meanwhile.
fn vault_at(store: Arc<dyn Store>, make: bool, seed: u64, skew: i64) -> Result<Arc<Vault>, EngineError> {
    let random = Mutex::new(Random::new(seed));
    let entropy = Entropy::new(move |bytes| {
        let mut random = random.lock().unwrap_or_else(PoisonError::into_inner);
        bytes.chunks_mut(8).for_each(|part| {
            let drawn = random.next().to_le_bytes();
            part.copy_from_slice(&drawn[..part.len()]);
        });
        Ok(())
    });
    let clock = Clock::new(move || Timestamp::from_micros(store::now().as_micros() + skew));
    let options = VaultOptions { clock, entropy, kdf: KdfStrength::WEAKEST };
    let opened = std::thread::spawn(move || {
        let key = KeySource::Passphrase(PASSPHRASE.to_owned().into());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| EngineError::new(ErrorKind::Closed, error.to_string()))?;
        let vault = runtime.block_on(async {
            match make {
                true => Vault::create(store, VaultSettings::new("simulated"), &key, options).await,
                false => Vault::open(store, &key, options).await,
            }
        });
        vault.map(Arc::new).map_err(|error| EngineError::new(ErrorKind::Retry, error.to_string()))
    });
    opened.join().unwrap_or_else(|_| Err(EngineError::new(ErrorKind::Closed, "opening the vault panicked")))
}

/// A vault handle whose own reading happens over a perfect way, and everything after it over the gateway's link.
///
/// Opening reads one document; what a gateway does when that fails is the server's business, not the engine's.
#[derive(Debug)]
struct Switch {
    perfect: Arc<dyn Store>,
    link: Arc<Link>,
    opened: std::sync::atomic::AtomicBool,
}

impl Switch {
    fn way(&self) -> &dyn Store {
        if self.opened.load(std::sync::atomic::Ordering::Relaxed) { &*self.link } else { &*self.perfect }
    }
}

#[async_trait::async_trait]
impl Store for Switch {
    fn url(&self) -> &str {
        self.link.url()
    }
    async fn create(&self, key: &str, bytes: Bytes) -> Result<(), lifeboat_vault::StoreError> {
        self.way().create(key, bytes).await
    }
    async fn get(&self, key: &str, max_bytes: u64) -> Result<Bytes, lifeboat_vault::StoreError> {
        self.way().get(key, max_bytes).await
    }
    async fn get_range(&self, key: &str, range: std::ops::Range<u64>) -> Result<Bytes, lifeboat_vault::StoreError> {
        self.way().get_range(key, range).await
    }
    async fn list(&self, prefix: &str) -> Result<Vec<lifeboat_vault::ObjectMeta>, lifeboat_vault::StoreError> {
        self.way().list(prefix).await
    }
    async fn list_after(
        &self,
        prefix: &str,
        after: &str,
    ) -> Result<Vec<lifeboat_vault::ObjectMeta>, lifeboat_vault::StoreError> {
        self.way().list_after(prefix, after).await
    }
    async fn list_dirs(&self, prefix: &str) -> Result<Vec<String>, lifeboat_vault::StoreError> {
        self.way().list_dirs(prefix).await
    }
    async fn head(&self, key: &str) -> Result<lifeboat_vault::ObjectMeta, lifeboat_vault::StoreError> {
        self.way().head(key).await
    }
    async fn delete(&self, key: &str) -> Result<(), lifeboat_vault::StoreError> {
        self.way().delete(key).await
    }
}

impl World {
    /// Two gateways, a vault, and no group yet.
    ///
    /// # Errors
    /// When the vault can't be made.
    pub fn new(seed: u64, life: Life, dirty_network: bool, lenient: bool) -> Result<Rc<Self>, EngineError> {
        store::start_clock();
        let mut random = Random::new(seed);
        let store = SimStore::new(random.next());
        vault_at(store.perfect_link(), true, random.next(), 0)?;
        let gateway = |name: &'static str, number: u8, random: &mut Random| -> Result<RefCell<Gateway>, EngineError> {
            // Where points are dropped by their age, the model has to know that age.
            let within = if life.thins() { 40_000_000 } else { 7_200_000_000 };
            let skew = i64::try_from(random.below(within)).unwrap_or(0) - i64::try_from(within / 2).unwrap_or(0);
            let machine = SimMachine::new(random.next());
            let (link, vault) = connect(&store, name, random.next(), skew)?;
            Ok(RefCell::new(Gateway {
                name,
                id: GatewayId::from_bytes([number; 16]),
                machine,
                link,
                vault,
                group: None,
                local: None,
                making: None,
                on_branch: None,
                testing: false,
                clock_skew_micros: skew,
                lives: 1,
            }))
        };
        let gateways = [gateway("home", 0xa1, &mut random)?, gateway("reco", 0xb2, &mut random)?];
        let mut settings = GroupSettings {
            point_interval: Duration::from_millis(2000 + random.below(8000)),
            journal_bytes: (4 + random.below(5)) << 20,
            cache_bytes: 512 << 10 << random.below(2),
            retention: PointRetention { tiers: vec![(Duration::from_secs(1 << 30), Duration::ZERO)], max: 100_000 },
            ..GroupSettings::default()
        };
        if life.thins() {
            settings.retention = long::retention();
        }
        if life == Life::Resyncing {
            settings.journal_bytes = 4 << 20;
        }
        let known = Known {
            histories: Vec::new(),
            of_branch: BTreeMap::new(),
            confirmed: Vec::new(),
            pinned: Vec::new(),
            held: Vec::new(),
            next_stamp: 1,
            trace: Vec::new(),
        };
        Ok(Rc::new(Self {
            seed,
            store,
            random: RefCell::new(random),
            gateways,
            known: RefCell::new(known),
            settings,
            life,
            dirty_network,
            lenient,
            tally: RefCell::default(),
        }))
    }

    /// The store.
    #[must_use]
    pub fn store(&self) -> &Arc<SimStore> {
        &self.store
    }

    /// The steps so far.
    #[must_use]
    pub fn trace(&self) -> Vec<String> {
        self.known.borrow().trace.clone()
    }

    fn note(&self, text: impl Into<String>) {
        let at = store::now().as_micros() - 1_700_000_000_000_000;
        let text = format!("{:>10.3} s  {}", Duration::from_micros(at.unsigned_abs()).as_secs_f64(), text.into());
        self.known.borrow_mut().trace.push(text);
    }

    fn below(&self, below: u64) -> u64 {
        self.random.borrow_mut().below(below)
    }

    fn one_in(&self, out_of: u64) -> bool {
        self.random.borrow_mut().one_in(out_of)
    }

    fn next_seed(&self) -> u64 {
        self.random.borrow_mut().next()
    }

    fn config(&self, gateway: usize) -> GroupConfig {
        let one = self.gateways[gateway].borrow();
        let dir = PathBuf::from(if one.testing { "/simulated/test" } else { "/simulated/group" });
        GroupConfig {
            reach: Arc::clone(&one.vault).into(),
            group: GROUP,
            gateway: one.id,
            machine: self.local(Arc::<SimMachine>::clone(&one.machine)),
            dir,
            settings: self.settings.clone(),
        }
    }

    /// How the gateways use a machine: in every third world its files are encrypted.
    fn local(&self, machine: Arc<SimMachine>) -> Arc<dyn Machine> {
        if !self.seed.is_multiple_of(3) {
            return machine;
        }
        let salt = u128::from(self.seed).to_le_bytes();
        Arc::new(Encrypted::new(machine, LOCAL_KEY.clone(), Arc::new(move || Ok(salt))))
    }

    /// Bytes of a file as they lie on a disk; those of an adopted one are never encrypted.
    fn as_on_disk(&self, disk: &SimDisk, name: &str, offset: u64, mut bytes: Vec<u8>) -> Vec<u8> {
        let Some(marker) = disk.peek(MARKER_NAME, 0, MARKER_LEN) else { return bytes };
        if matches!(disk.adopted(name), Ok(None))
            && let Ok(marker) = Marker::decode(&marker)
            && let Ok(key) = marker.open(&LOCAL_KEY)
        {
            key.file(name).encrypt(offset, &mut bytes);
        }
        bytes
    }

    fn name(&self, gateway: usize) -> &'static str {
        self.gateways[gateway].borrow().name
    }

    fn group(&self, gateway: usize) -> Option<Arc<Group>> {
        self.gateways[gateway].borrow().group.clone()
    }

    fn state(&self, gateway: usize) -> Option<GroupState> {
        self.group(gateway).map(|group| group.status().state)
    }

    /// Whether the gateway's machine has stopped in the middle of something.
    fn is_down(&self, gateway: usize) -> bool {
        let one = self.gateways[gateway].borrow();
        one.machine.halted() || !one.link.is_up()
    }

    fn last_lsn(&self, gateway: usize) -> Lsn {
        self.group(gateway).map_or(Lsn::ZERO, |group| group.status().last_lsn)
    }

    fn history<T>(&self, index: usize, look: impl FnOnce(&mut History) -> T) -> T {
        look(&mut self.known.borrow_mut().histories[index])
    }

    fn add_history(&self, history: History) -> usize {
        let mut known = self.known.borrow_mut();
        known.histories.push(history);
        known.histories.len() - 1
    }

    fn calm(&self, calm: bool) {
        let weather = match calm {
            true => Weather { trouble: 0, latency_ms: 20, dirty: false },
            false => Weather { trouble: 40, latency_ms: 300, dirty: self.dirty_network },
        };
        self.store.set_weather(weather);
        if calm {
            self.gateways.iter().for_each(|one| one.borrow().link.set_cut(false));
        }
    }

    /// Contents of all volumes of a group as a front end reads them.
    async fn contents(&self, gateway: usize) -> Result<Stamps, EngineError> {
        let Some(group) = self.group(gateway) else {
            return Err(EngineError::new(ErrorKind::Closed, "there is no group here"));
        };
        let mut stamps = Vec::new();
        for volume in 0..VOLUMES {
            stamps.push(match group.volume(volume_id(volume)) {
                Some(volume) => stamps_of(&volume).await?,
                None => Vec::new(),
            });
        }
        Ok(stamps)
    }

    /// Ends a gateway's life and begins the next one, without opening its group.
    fn crash(&self, gateway: usize, kind: CrashKind) -> Checked {
        let seed = self.next_seed();
        let mut one = self.gateways[gateway].borrow_mut();
        one.link.power_off();
        let machine = one.machine.crash(seed, kind);
        one.machine.power_off();
        one.group = None;
        one.machine = machine;
        one.lives += 1;
        let opened = connect(&self.store, one.name, seed ^ one.lives, one.clock_skew_micros);
        match opened {
            Ok((link, vault)) => (one.link, one.vault) = (link, vault),
            // The store has lost the vault: the gateway stays without one.
            Err(error) => promise!(self.lenient, "the vault can't be opened: {error}"),
        }
        self.tally.borrow_mut().crashes += 1;
        Ok(())
    }
}

fn connect(store: &Arc<SimStore>, name: &str, seed: u64, skew: i64) -> Result<(Arc<Link>, Arc<Vault>), EngineError> {
    let link = store.link(name);
    let switch = Arc::new(Switch {
        perfect: store.perfect_link(),
        link: Arc::clone(&link),
        opened: std::sync::atomic::AtomicBool::new(false),
    });
    let vault = vault_at(Arc::<Switch>::clone(&switch), false, seed, skew)?;
    switch.opened.store(true, std::sync::atomic::Ordering::Relaxed);
    Ok((link, vault))
}

/// The stamps of a volume's blocks. A block that is a mixture has a stamp that nobody wrote.
async fn stamps_of(volume: &Arc<dyn BlockVolume>) -> Result<Vec<u64>, EngineError> {
    let mut stamps = Vec::new();
    let mut at = 0;
    while at < volume.size_bytes() {
        let step = 64 * u32::try_from(BLOCK_SIZE).unwrap_or(4096);
        let bytes = volume.read(at, step).await?;
        stamps.extend(bytes.chunks(BLOCK_SIZE).map(|block| stamp_of(block).unwrap_or(u64::MAX)));
        at += bytes.len() as u64;
    }
    Ok(stamps)
}

/// Stamps as a reader of a violation wants them.
fn shown(stamps: &Stamps) -> String {
    stamps
        .iter()
        .map(|volume| {
            let runs: Vec<String> = volume
                .iter()
                .enumerate()
                .filter(|(_, stamp)| **stamp != 0)
                .map(|(lba, stamp)| format!("{lba}:{stamp}"))
                .collect();
            format!("[{} blocks; {}]", volume.len(), runs.join(" "))
        })
        .collect::<Vec<_>>()
        .join(" ")
}
