//! A simulated machine: directories that are simulated disks, and loops that take a step when the seed says so.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lifeboat_engine::disk::Disk;
use lifeboat_engine::machine::{Drive, Machine};

use crate::disk::{CrashKind, Fault, SimDisk};
use crate::random::Random;

/// A machine and its disks.
#[derive(Debug)]
pub struct SimMachine {
    disks: Mutex<BTreeMap<PathBuf, Directory>>,
    random: Arc<Mutex<Random>>,
    /// What the next disk that is made fails with.
    planned: Mutex<Option<Fault>>,
}

#[derive(Clone, Debug)]
struct Directory {
    disk: Arc<SimDisk>,
    /// It was deleted, and a power loss may bring some of its files back.
    deleted: bool,
}

impl SimMachine {
    /// A machine with nothing on it.
    #[must_use]
    pub fn new(seed: u64) -> Arc<Self> {
        Arc::new(Self {
            disks: Mutex::default(),
            random: Arc::new(Mutex::new(Random::new(seed))),
            planned: Mutex::default(),
        })
    }

    fn disks(&self) -> MutexGuard<'_, BTreeMap<PathBuf, Directory>> {
        self.disks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The machine as it is after a crash; this one is left to whoever still holds it.
    #[must_use]
    pub fn crash(&self, seed: u64, kind: CrashKind) -> Arc<Self> {
        let mut random = Random::new(seed);
        let crashed = |one: &Directory, seed| Directory { disk: one.disk.crash(seed, kind), deleted: one.deleted };
        let disks = self.disks().iter().map(|(dir, one)| (dir.clone(), crashed(one, random.next()))).collect();
        Arc::new(Self { disks: Mutex::new(disks), random: Arc::new(Mutex::new(random)), planned: Mutex::default() })
    }

    /// The disk at a directory, if there ever was one.
    #[must_use]
    pub fn disk(&self, dir: &Path) -> Option<Arc<SimDisk>> {
        self.disks().get(dir).map(|one| Arc::clone(&one.disk))
    }

    /// From now on nothing that this machine does has an effect.
    pub fn power_off(&self) {
        self.disks().values().for_each(|one| one.disk.halt_at(0));
    }

    /// Lets a call to a disk fail that is yet to be made.
    pub fn plan(&self, fault: Fault) {
        *self.planned.lock().unwrap_or_else(PoisonError::into_inner) = Some(fault);
    }

    /// From now on the disks work.
    pub fn clear(&self) {
        self.planned.lock().unwrap_or_else(PoisonError::into_inner).take();
        self.disks().values().for_each(|one| one.disk.set_fault(None));
    }

    /// Whether one of its disks has stopped.
    #[must_use]
    pub fn halted(&self) -> bool {
        self.disks().values().any(|one| one.disk.halted())
    }
}

impl Machine for SimMachine {
    fn open(&self, dir: &Path) -> io::Result<Arc<dyn Disk>> {
        let mut disks = self.disks();
        let seed = self.random.lock().unwrap_or_else(PoisonError::into_inner).next();
        let one = disks.entry(dir.to_owned()).or_insert_with(|| {
            let disk = SimDisk::new(seed);
            disk.set_fault(self.planned.lock().unwrap_or_else(PoisonError::into_inner).take());
            Directory { disk, deleted: false }
        });
        if std::mem::take(&mut one.deleted) {
            // A new directory of that name is durable: the old one is gone for good.
            one.disk.sync_names()?;
        }
        let disk: Arc<dyn Disk> = Arc::<SimDisk>::clone(&one.disk);
        Ok(disk)
    }

    fn has(&self, dir: &Path) -> bool {
        self.disks().get(dir).is_some_and(|one| !one.deleted || one.disk.list().is_ok_and(|names| !names.is_empty()))
    }

    fn holds(&self, dir: &Path, name: &str) -> bool {
        self.disks().get(dir).is_some_and(|one| one.disk.peek(name, 0, 1).is_some())
    }

    fn remove(&self, dir: &Path) -> io::Result<()> {
        let mut disks = self.disks();
        let Some(one) = disks.get_mut(dir) else { return Err(io::ErrorKind::NotFound.into()) };
        one.deleted = true;
        one.disk.list()?.iter().try_for_each(|name| one.disk.remove(name))
    }

    fn drive(&self) -> Drive {
        let random = Arc::clone(&self.random);
        Drive::Steps(Arc::new(move || {
            let mut random = random.lock().unwrap_or_else(PoisonError::into_inner);
            let longest = [300, 3000, 20_000][usize::try_from(random.below(3)).unwrap_or(0)];
            Duration::from_micros(1 + random.below(longest))
        }))
    }
}
