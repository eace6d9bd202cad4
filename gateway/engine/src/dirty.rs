//! Blocks that the vault lacks and that no record of the journal brings to it: the dirty map, in memory and on disk.
//!
//! Bounded whatever happens: at most [`RUNS_MAX`] runs over all volumes. Beyond that the map gets coarser, so that it names
//! blocks that the vault has; it never fails to name one that the vault lacks. The files are two, written in turn and
//! whole, so that a crash leaves the map before or the map after. Whoever saves a map has made every record durable that took
//! a block out of it: a map on disk never lacks a block whose record a loss of power could undo.

use std::collections::BTreeMap;
use std::sync::Arc;

use lifeboat_format::FormatError;
use lifeboat_format::dirty::{DIRTY_BYTES_MAX, DIRTY_RUNS_MAX, DirtyMap as Stored, DirtyVolume};
use lifeboat_model::{Extent, ExtentSet, GroupId, Lsn, VOLUME_BLOCKS_MAX, VolumeId};

use crate::disk::{Disk, Io};
use crate::error::{EngineError, ErrorKind, Result, format_error};

pub(crate) const NAMES: [&str; 2] = ["dirty-a", "dirty-b"];
/// Runs of a map, at most: some MiB in memory, 1 MiB on disk.
pub const RUNS_MAX: usize = 1 << 16;
const _: () = assert!(RUNS_MAX <= DIRTY_RUNS_MAX, "the format has a list that long");

/// Dirty blocks by volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirtyMap {
    volumes: BTreeMap<VolumeId, ExtentSet>,
    runs: usize,
    runs_max: usize,
}

impl Default for DirtyMap {
    fn default() -> Self {
        Self::bounded(RUNS_MAX)
    }
}

impl DirtyMap {
    /// An empty map of at most so many runs.
    #[must_use]
    pub fn bounded(runs_max: usize) -> Self {
        Self { volumes: BTreeMap::new(), runs: 0, runs_max: runs_max.clamp(1, RUNS_MAX) }
    }

    /// Whether no block is dirty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.runs == 0
    }

    /// Dirty blocks; a coarse map may count a few past a volume's end.
    #[must_use]
    pub fn blocks(&self) -> u64 {
        self.volumes.values().map(ExtentSet::blocks).sum()
    }

    /// Runs over all volumes.
    #[must_use]
    pub const fn runs(&self) -> usize {
        self.runs
    }

    /// The dirty blocks of each volume that has some.
    pub fn volumes(&self) -> impl Iterator<Item = (VolumeId, &ExtentSet)> {
        self.volumes.iter().map(|(id, dirty)| (*id, dirty))
    }

    /// Adds blocks.
    pub fn insert(&mut self, volume: VolumeId, extent: Extent) {
        let set = self.volumes.entry(volume).or_default();
        let before = set.runs();
        set.insert(extent);
        self.runs = self.runs + set.runs() - before;
        if self.runs > self.runs_max {
            self.coarsen();
        }
    }

    /// Adds every block of another map.
    pub fn merge(&mut self, other: &Self) {
        for (volume, dirty) in other.volumes() {
            dirty.iter().for_each(|extent| self.insert(volume, extent));
        }
    }

    /// Takes blocks out; they stay when that would make more runs than there may be.
    pub fn remove(&mut self, volume: VolumeId, extent: Extent) {
        let Some(set) = self.volumes.get_mut(&volume) else { return };
        let before = set.runs();
        set.remove(extent);
        if self.runs + set.runs() - before > self.runs_max {
            set.insert(extent);
        }
        self.runs = self.runs + set.runs() - before;
        if set.is_empty() {
            self.volumes.remove(&volume);
        }
    }

    /// Forgets a volume.
    pub fn remove_volume(&mut self, volume: VolumeId) {
        if let Some(set) = self.volumes.remove(&volume) {
            self.runs -= set.runs();
        }
    }

    /// The next dirty blocks from (`volume`, `lba`) on in address order, at most `blocks` of them.
    #[must_use]
    pub fn next(&self, (volume, lba): (VolumeId, u64), blocks: u64) -> Option<(VolumeId, Extent)> {
        self.volumes.range(volume..).find_map(|(id, set)| {
            let next = set.next(if *id == volume { lba } else { 0 })?;
            Some((*id, Extent { lba: next.lba, blocks: next.blocks.min(blocks) }))
        })
    }

    /// Rounds runs outward to ever larger grains until half as many are left as there may be, so that it pays.
    fn coarsen(&mut self) {
        let mut grain = 2_u64;
        while self.runs > (self.runs_max / 2).max(1) && grain <= VOLUME_BLOCKS_MAX {
            for set in self.volumes.values_mut() {
                *set = set
                    .iter()
                    .map(|run| {
                        let lba = run.lba / grain * grain;
                        let end = run.end().div_ceil(grain).saturating_mul(grain).min(VOLUME_BLOCKS_MAX);
                        Extent { lba, blocks: end - lba }
                    })
                    .collect();
            }
            self.runs = self.volumes.values().map(ExtentSet::runs).sum();
            grain *= 2;
        }
    }
}

/// What a map on disk says.
#[derive(Clone, Debug, Default)]
pub(crate) struct SavedMap {
    pub(crate) dirty: DirtyMap,
    /// Records up to here that were not shipped are in it.
    pub(crate) collapsed: Lsn,
    /// Sizes of the volumes when those records were given up, blocks.
    pub(crate) sizes: BTreeMap<VolumeId, u64>,
}

/// What one of the files holds; none when it isn't there.
pub(crate) fn read_file(disk: &Arc<dyn Disk>, name: &str) -> std::io::Result<Option<Result<Stored, FormatError>>> {
    let file = match disk.open(name, false, Io::Buffered) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        file => file?,
    };
    let length = usize::try_from(file.len()?).unwrap_or(usize::MAX).min(DIRTY_BYTES_MAX);
    let mut bytes = vec![0; length];
    file.read_at(&mut bytes, 0)?;
    Ok(Some(Stored::decode(&bytes)))
}

/// The files.
#[derive(Debug)]
pub(crate) struct DirtyFile {
    disk: Arc<dyn Disk>,
    group: GroupId,
    generation: u64,
}

impl DirtyFile {
    /// For a group whose directory may hold a map.
    pub(crate) fn new(disk: &Arc<dyn Disk>, group: GroupId) -> Self {
        Self { disk: Arc::clone(disk), group, generation: 0 }
    }

    /// The newest sound map; none when there is none. Always called before the first [`Self::save`]: the next map has to be
    /// newer than whatever is there.
    ///
    /// # Errors
    /// `NewerFormat`, what the disk says.
    pub(crate) fn load(&mut self) -> Result<Option<SavedMap>> {
        let mut newest: Option<Stored> = None;
        for name in NAMES {
            if let Some(map) = self.read(name)?
                && newest.as_ref().is_none_or(|newest| map.generation > newest.generation)
            {
                newest = Some(map);
            }
        }
        let Some(map) = newest else { return Ok(None) };
        self.generation = map.generation;
        let mut saved = SavedMap { collapsed: map.collapsed, ..SavedMap::default() };
        for DirtyVolume { id, blocks, dirty } in map.volumes {
            saved.sizes.insert(id, blocks);
            dirty.iter().for_each(|extent| saved.dirty.insert(id, extent));
        }
        Ok(Some(saved))
    }

    fn read(&self, name: &str) -> Result<Option<Stored>> {
        let context = |error| EngineError::io(format!("read {}", self.disk.path().join(name).display()), error);
        let Some(read) = read_file(&self.disk, name).map_err(context)? else { return Ok(None) };
        match read {
            Ok(map) if map.group == self.group => Ok(Some(map)),
            Ok(map) => Err(EngineError::new(
                ErrorKind::Damaged,
                format!(
                    "the dirty map in {} belongs to {}: put the right file back",
                    self.disk.path().display(),
                    map.group
                ),
            )),
            Err(error @ FormatError::NewerVersion { .. }) => Err(format_error("the dirty map")(error)),
            // Torn by a crash while it was written, or damaged: the other one counts.
            Err(_) => Ok(None),
        }
    }

    /// Writes the next map, durably.
    ///
    /// # Errors
    /// `NoSpace`, what the disk says: then the map before counts.
    pub(crate) fn save(&mut self, dirty: &DirtyMap, collapsed: Lsn, sizes: &BTreeMap<VolumeId, u64>) -> Result<()> {
        let mut volumes: BTreeMap<VolumeId, DirtyVolume> =
            sizes.iter().map(|(&id, &blocks)| (id, DirtyVolume { id, blocks, dirty: ExtentSet::new() })).collect();
        for (id, set) in dirty.volumes() {
            let end = set.iter().last().map_or(1, Extent::end);
            let volume = volumes.entry(id).or_insert(DirtyVolume { id, blocks: end, dirty: ExtentSet::new() });
            volume.dirty = set.clone();
        }
        let generation = self.generation + 1;
        let map = Stored { group: self.group, generation, collapsed, volumes: volumes.into_values().collect() };
        let bytes = map.encode().map_err(format_error("the dirty map"))?;
        let name = NAMES[usize::from(generation % 2 == 1)];
        let context = |error| EngineError::io(format!("write {}", self.disk.path().join(name).display()), error);
        let file = self.disk.open(name, true, Io::Buffered).map_err(context)?;
        file.write_at(&bytes, 0).map_err(context)?;
        file.sync().map_err(context)?;
        self.disk.sync_names().map_err(context)?;
        self.generation = generation;
        Ok(())
    }

    /// Deletes the maps: nothing is dirty any more.
    pub(crate) fn remove(&mut self) -> Result<()> {
        NAMES
            .iter()
            .try_for_each(|name| self.disk.remove(name))
            .and_then(|()| self.disk.sync_names())
            .map_err(|error| EngineError::io(format!("delete the dirty map in {}", self.disk.path().display()), error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::LocalDisk;

    fn volume(n: u8) -> VolumeId {
        VolumeId::from_bytes([n; 16])
    }

    fn group() -> GroupId {
        GroupId::from_bytes([1; 16])
    }

    fn extent(lba: u64, blocks: u64) -> Extent {
        Extent { lba, blocks }
    }

    /// Whatever is inserted and removed: never too many runs, and never a block missing that was inserted last.
    #[test]
    fn a_map_stays_within_its_bound_and_names_every_dirty_block() {
        let mut seed = 7_u64;
        let mut random = move |below: u64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) % below
        };
        for _ in 0..50 {
            let mut map = DirtyMap::bounded(12);
            let mut dirty = vec![vec![false; 300]; 2];
            for _ in 0..200 {
                let (at, lba) = (random(2), random(280));
                let blocks = random(20) + 1;
                let insert = random(3) > 0;
                let id = volume(u8::try_from(at).expect("small"));
                if insert {
                    map.insert(id, extent(lba, blocks))
                } else {
                    map.remove(id, extent(lba, blocks))
                }
                for block in lba..lba + blocks {
                    dirty[usize::try_from(at).expect("small")][usize::try_from(block).expect("small")] = insert;
                }
                assert!(map.runs() <= 12);
                assert_eq!(map.runs(), map.volumes().map(|(_, set)| set.runs()).sum::<usize>());
                for (at, blocks) in dirty.iter().enumerate() {
                    let id = volume(u8::try_from(at).expect("small"));
                    let held = map.volumes().find(|(found, _)| *found == id).map(|(_, set)| set.clone());
                    for (block, _) in blocks.iter().enumerate().filter(|(_, dirty)| **dirty) {
                        let block = u64::try_from(block).expect("small");
                        assert!(held.as_ref().is_some_and(|set| set.contains(block)), "block {block} was lost");
                    }
                }
            }
            map.remove_volume(volume(0));
            map.remove_volume(volume(1));
            assert!(map.is_empty());
        }
    }

    #[test]
    fn the_walk_visits_every_dirty_block_once() {
        let mut map = DirtyMap::default();
        for (id, run) in [(1, extent(5, 10)), (1, extent(100, 1)), (3, extent(0, 4))] {
            map.insert(volume(id), run);
        }
        let mut at = (volume(0), 0);
        let mut found = Vec::new();
        while let Some((id, run)) = map.next(at, 4) {
            at = (id, run.end());
            found.push((id, run.lba, run.blocks));
        }
        let expected = [(1, 5, 4), (1, 9, 4), (1, 13, 2), (1, 100, 1), (3, 0, 4)];
        assert_eq!(found, expected.map(|(id, lba, blocks)| (volume(id), lba, blocks)));
    }

    /// A crash while a map is written leaves the one before.
    #[test]
    fn a_torn_map_leaves_the_one_before() {
        let dir = tempfile::tempdir().expect("a directory");
        let disk: Arc<dyn Disk> = LocalDisk::open(dir.path()).expect("opens");
        let mut file = DirtyFile::new(&disk, group());
        assert!(file.load().expect("reads").is_none());
        let sizes = BTreeMap::from([(volume(1), 100)]);
        let mut map = DirtyMap::default();
        map.insert(volume(1), extent(3, 5));
        file.save(&map, Lsn(7), &sizes).expect("writes");
        map.remove(volume(1), extent(3, 2));
        file.save(&map, Lsn(7), &sizes).expect("writes");

        let found = DirtyFile::new(&disk, group()).load().expect("reads").expect("is there");
        assert_eq!((found.dirty, found.collapsed, found.sizes), (map.clone(), Lsn(7), sizes.clone()));
        let newest = dir.path().join("dirty-a");
        let bytes = std::fs::read(&newest).expect("reads");
        for cut in 0..bytes.len() {
            std::fs::write(&newest, &bytes[..cut]).expect("tears");
            let found = DirtyFile::new(&disk, group()).load().expect("reads").expect("the older one is there");
            assert_eq!(found.dirty.blocks(), 5, "cut at {cut}");
        }
        let mut file = DirtyFile::new(&disk, group());
        file.load().expect("reads");
        file.save(&DirtyMap::default(), Lsn(9), &sizes).expect("goes over the torn one");
        let found = DirtyFile::new(&disk, group()).load().expect("reads").expect("is there");
        assert!(found.dirty.is_empty());
        assert_eq!(found.collapsed, Lsn(9));
        file.remove().expect("deletes");
        assert!(DirtyFile::new(&disk, group()).load().expect("reads").is_none());
    }
}
