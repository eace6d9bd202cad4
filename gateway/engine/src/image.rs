//! The local image of one volume: a sparse file (several for one of many TiB: [`parts`]), and for a branch volume the map of
//! what it holds already. Or a file or block
//! device that was there before and was adopted in place: the image's name is a link to it then.
//!
//! A *whole* image holds every block. A *lazy* one belongs to a branch volume at a recovery site: blocks that are not
//! present yet are those of the point the branch forked from, and are read from the vault. Its presence bitmap has one
//! bit a block. Order on disk: data, sync, bits, sync. A bit that is lost costs a second read from the vault when the
//! block was fetched; when it was written here, the journal still has the record, because the image watermark moves only
//! after the bits are durable.

mod parts;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use lifeboat_format::local::PresenceHeader;
use lifeboat_model::{BLOCK_SIZE_U64, Extent, VolumeId};

use crate::disk::{Disk, DiskFile, Io};
use crate::error::{EngineError, ErrorKind, Result};
use crate::planted::{self, Bug};
use crate::sync::Lock;
use parts::{PART_BYTES, Parts};

/// Where the bits begin in a presence file.
const BITS_AT: u64 = 4096;
/// Unit in which bits are written back.
const PAGE: u64 = 4096;

/// Name of a volume's image file.
pub fn image_name(volume: VolumeId) -> String {
    format!("{volume}.img")
}

fn presence_name(volume: VolumeId) -> String {
    format!("{volume}.present")
}

#[derive(Debug)]
pub struct Image {
    volume: VolumeId,
    file: Arc<dyn DiskFile>,
    blocks: AtomicU64,
    presence: Option<Lock<Presence>>,
    /// A source of somebody's, not a file of our own.
    adopted: bool,
    sync_failed: AtomicBool,
    /// One sync of the bits at a time.
    syncing: Lock<()>,
    /// Held shared by writes of whole blocks, alone by those that read the blocks at their edges first.
    pub(crate) edges: tokio::sync::RwLock<()>,
}

#[derive(Debug)]
struct Presence {
    file: Arc<dyn DiskFile>,
    bits: Vec<u8>,
    /// Pages of bits that differ from the file.
    dirty: std::collections::BTreeSet<u64>,
    present: u64,
    /// Of those, the ones whose bits were synced.
    kept: u64,
}

impl Image {
    fn new(
        volume: VolumeId,
        file: Arc<dyn DiskFile>,
        blocks: u64,
        presence: Option<Lock<Presence>>,
        adopted: bool,
    ) -> Self {
        Self {
            volume,
            file,
            blocks: AtomicU64::new(blocks),
            presence,
            adopted,
            sync_failed: AtomicBool::new(false),
            syncing: Lock::new(()),
            edges: tokio::sync::RwLock::new(()),
        }
    }

    /// Makes an empty image of that many blocks, replacing one that is there. `lazy`: every block is absent.
    pub fn create(disk: &Arc<dyn Disk>, volume: VolumeId, blocks: u64, lazy: bool) -> Result<Self> {
        let context = |error| EngineError::io(format!("create the image of {volume}"), error);
        Self::remove(disk, volume)?;
        let file = open_own(disk, volume, true).map_err(context)?;
        file.set_len(blocks * BLOCK_SIZE_U64).map_err(context)?;
        file.sync().map_err(context)?;
        let presence = if lazy { Some(Lock::new(Presence::create(disk, volume, blocks)?)) } else { None };
        disk.sync_names().map_err(context)?;
        Ok(Self::new(volume, file, blocks, presence, false))
    }

    /// Makes a source that is held the image of a volume, replacing an image that is there: its content is the volume's, up to
    /// `blocks`. It grows to them if it may. Nobody sees a block before [`Image::show`].
    ///
    /// # Errors
    /// `Invalid` for a source that has more blocks, or can't have as many; what the disk says.
    pub fn adopt(
        disk: &Arc<dyn Disk>,
        volume: VolumeId,
        source: &Path,
        file: Arc<dyn DiskFile>,
        blocks: u64,
    ) -> Result<Self> {
        let invalid = |why: String| {
            EngineError::new(ErrorKind::Invalid, format!("{} can't be {volume}: {why}", source.display()))
        };
        let context = |error| EngineError::io(format!("adopt {} as {volume}", source.display()), error);
        let bytes = blocks * BLOCK_SIZE_U64;
        let len = file.len().map_err(context)?;
        if len > bytes {
            return Err(invalid(format!(
                "it has {len} bytes, and the volume is to have {bytes}: declare a size of {len}"
            )));
        }
        file.set_len(bytes).map_err(|error| match error.kind() {
            std::io::ErrorKind::InvalidInput => invalid(error.to_string()),
            _ => context(error),
        })?;
        file.sync().map_err(context)?;
        Self::remove(disk, volume)?;
        disk.adopt(&image_name(volume), source).map_err(context)?;
        disk.sync_names().map_err(context)?;
        Ok(Self::new(volume, file, 0, None, true))
    }

    /// Makes a source that is held the image of a volume, replacing an image that is there, with every block absent: what it holds
    /// counts only where it is recognised later as what the vault has. It may be longer than the volume, and grows to its blocks if
    /// it may.
    ///
    /// # Errors
    /// `Invalid` for a source that can't have as many blocks; what the disk says.
    pub fn overwrite(
        disk: &Arc<dyn Disk>,
        volume: VolumeId,
        source: &Path,
        file: Arc<dyn DiskFile>,
        blocks: u64,
    ) -> Result<Self> {
        let context = |error| EngineError::io(format!("build {volume} on {}", source.display()), error);
        file.set_len(blocks * BLOCK_SIZE_U64).map_err(|error| match error.kind() {
            std::io::ErrorKind::InvalidInput => EngineError::new(
                ErrorKind::Invalid,
                format!("{volume} can't be built on {}: {error}", source.display()),
            ),
            _ => context(error),
        })?;
        file.sync().map_err(context)?;
        Self::remove(disk, volume)?;
        // Before the link: with it and without the map, what the source holds would be the volume's content.
        let presence = Presence::create(disk, volume, blocks)?;
        disk.sync_names().map_err(context)?;
        disk.adopt(&image_name(volume), source).map_err(context)?;
        disk.sync_names().map_err(context)?;
        Ok(Self::new(volume, file, blocks, Some(Lock::new(presence)), true))
    }

    /// Tells the blocks outside of which the file reads as zeroes.
    ///
    /// # Errors
    /// What the disk says.
    pub fn each_data(&self, each: &mut dyn FnMut(Extent)) -> Result<()> {
        self.file
            .each_data(&mut |offset, len| {
                let lba = offset / BLOCK_SIZE_U64;
                each(Extent { lba, blocks: (offset + len).div_ceil(BLOCK_SIZE_U64) - lba });
            })
            .map_err(|error| EngineError::io(format!("look for the data in the image of {}", self.volume), error))
    }

    /// Opens an image; `blocks` is the size that the group's state gives it, which an interrupted growth may not have
    /// reached on disk.
    pub fn open(disk: &Arc<dyn Disk>, volume: VolumeId, blocks: u64) -> Result<Self> {
        let context =
            |error| EngineError::io(format!("open the image of {volume} in {}", disk.path().display()), error);
        let source = disk.adopted(&image_name(volume)).map_err(context)?;
        let adopted = source.is_some();
        let file = match source {
            Some(source) => open_adopted(disk, volume, &source, blocks)?,
            None => open_own(disk, volume, false).map_err(context)?,
        };
        if file.len().map_err(context)? < blocks * BLOCK_SIZE_U64 {
            file.set_len(blocks * BLOCK_SIZE_U64).map_err(context)?;
        }
        let presence = match disk.open(&presence_name(volume), false, Io::Buffered) {
            Ok(file) => Some(Lock::new(Presence::open(file, volume, blocks)?)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(error) => return Err(context(error)),
        };
        Ok(Self::new(volume, file, blocks, presence, adopted))
    }

    pub fn blocks(&self) -> u64 {
        self.blocks.load(Ordering::Acquire)
    }

    /// Grows the image; the new blocks are zero, and present.
    pub fn grow(&self, blocks: u64) -> Result<()> {
        self.extend(blocks)?;
        self.show(blocks);
        Ok(())
    }

    /// Makes the file long enough for so many blocks; nobody sees them before [`Image::show`].
    pub fn extend(&self, blocks: u64) -> Result<()> {
        let old = self.blocks();
        if blocks <= old {
            return Ok(());
        }
        self.file
            .set_len(blocks * BLOCK_SIZE_U64)
            // A source may be longer than its volume, and what it holds there is anything.
            .and_then(|()| match self.adopted {
                true => self.file.punch(old * BLOCK_SIZE_U64, (blocks - old) * BLOCK_SIZE_U64),
                false => Ok(()),
            })
            // Durable before the group's state can say so: a source that is shorter than that is refused.
            .and_then(|()| self.file.sync())
            .map_err(|error| EngineError::io(format!("grow the image of {}", self.volume), error))?;
        if let Some(presence) = &self.presence {
            presence.lock().grow(old, blocks);
        }
        Ok(())
    }

    /// Gives the volume so many blocks, for which there is room already; never fewer than it has.
    pub fn show(&self, blocks: u64) {
        self.blocks.fetch_max(blocks, Ordering::AcqRel);
    }

    /// Makes the image exactly that long; what is cut off is gone, but for an adopted one's, where it is no part of the volume any
    /// more. Only for images that nobody serves.
    pub fn set_blocks(&self, blocks: u64) -> Result<()> {
        self.file
            .set_len(blocks * BLOCK_SIZE_U64)
            .map_err(|error| EngineError::io(format!("set the size of the image of {}", self.volume), error))?;
        self.blocks.store(blocks, Ordering::Release);
        Ok(())
    }

    /// Whether blocks may be absent.
    pub fn is_lazy(&self) -> bool {
        self.presence.is_some()
    }

    /// Blocks that are present and stay so over a crash: as many or more are found when the image is opened again.
    pub fn kept_blocks(&self) -> u64 {
        self.presence.as_ref().map_or_else(|| self.blocks(), |presence| presence.lock().kept)
    }

    /// Splits an extent into runs that are present (`true`) and runs that must come from the vault.
    pub fn presence_of(&self, extent: Extent) -> Vec<(Extent, bool)> {
        match &self.presence {
            None => vec![(extent, true)],
            Some(presence) => presence.lock().runs(extent),
        }
    }

    /// The next blocks from `lba` on that are absent, at most `max` in one run.
    pub fn next_absent(&self, lba: u64, max: u64) -> Option<Extent> {
        let presence = self.presence.as_ref()?.lock();
        let end = self.blocks();
        let mut at = lba;
        while at < end {
            if at.is_multiple_of(8) && presence.bits.get(index(at / 8)) == Some(&0xff) {
                at += 8;
                continue;
            }
            if !presence.is_set(at) {
                let run = (at..end.min(at + max)).take_while(|&block| !presence.is_set(block)).count() as u64;
                return Some(Extent { lba: at, blocks: run });
            }
            at += 1;
        }
        None
    }

    /// Reads whole blocks that are present.
    pub fn read(&self, lba: u64, buf: &mut [u8]) -> Result<()> {
        self.file
            .read_at(buf, lba * BLOCK_SIZE_U64)
            .map_err(|error| EngineError::io(format!("read the image of {} at block {lba}", self.volume), error))
    }

    /// Reads whole blocks that are present and in the page cache; false when the device would have to be waited for.
    pub fn read_at_once(&self, lba: u64, buf: &mut [u8]) -> Result<bool> {
        self.file
            .read_at_once(buf, lba * BLOCK_SIZE_U64)
            .map_err(|error| EngineError::io(format!("read the image of {} at block {lba}", self.volume), error))
    }

    /// Writes blocks of durable records.
    pub fn write(&self, lba: u64, data: &[u8]) -> Result<()> {
        let extent = Extent { lba, blocks: data.len() as u64 / BLOCK_SIZE_U64 };
        // Under the lock, so that a fill can't look at the bits before and write its older data after.
        let mut presence = self.presence.as_ref().map(Lock::lock);
        self.file
            .write_at(data, lba * BLOCK_SIZE_U64)
            .map_err(|error| EngineError::io(format!("write the image of {} at block {lba}", self.volume), error))?;
        if let Some(presence) = presence.as_mut() {
            presence.set(extent);
        }
        Ok(())
    }

    /// Zeroes blocks of durable records.
    pub fn zero(&self, extent: Extent) -> Result<()> {
        let mut presence = self.presence.as_ref().map(Lock::lock);
        self.file.punch(extent.lba * BLOCK_SIZE_U64, extent.blocks * BLOCK_SIZE_U64).map_err(|error| {
            EngineError::io(format!("zero {} blocks of the image of {}", extent.blocks, self.volume), error)
        })?;
        if let Some(presence) = presence.as_mut() {
            presence.set(extent);
        }
        Ok(())
    }

    /// Puts blocks that came from the vault into the image, but for those that are present by now.
    pub fn fill(&self, lba: u64, data: Option<&[u8]>, blocks: u64) -> Result<()> {
        let Some(presence) = &self.presence else { return Ok(()) };
        let mut presence = presence.lock();
        for (extent, present) in presence.runs(Extent { lba, blocks }) {
            if present {
                continue;
            }
            let at = extent.lba * BLOCK_SIZE_U64;
            let filled = match data.filter(|_| !planted::is(Bug::PresentBeforeData)) {
                Some(data) => {
                    let from = index((extent.lba - lba) * BLOCK_SIZE_U64);
                    self.file.write_at(&data[from..from + index(extent.blocks * BLOCK_SIZE_U64)], at)
                }
                // An image of our own is empty there; a source holds what it held before.
                None if self.adopted => self.file.punch(at, extent.blocks * BLOCK_SIZE_U64),
                None => Ok(()),
            };
            filled.map_err(|error| {
                EngineError::io(format!("fill the image of {} at block {}", self.volume, extent.lba), error)
            })?;
            presence.set(extent);
        }
        Ok(())
    }

    /// Whether it is a source of somebody's with blocks that may be absent: it may hold them all the same.
    pub fn may_hold_more(&self) -> bool {
        self.adopted && self.is_lazy()
    }

    /// Says of blocks that they are here: what the source holds was found to be what the vault would give.
    pub fn recognise(&self, extent: Extent) {
        if let Some(presence) = &self.presence {
            presence.lock().set(extent);
        }
    }

    /// Makes data and bits durable, in this order.
    ///
    /// # Errors
    /// `NoSpace` when the bits don't fit: nothing is lost, try again. `Damaged` when a sync fails, and from then on: the
    /// kernel forgets what it could not write, and a later sync would set the bits of blocks that were lost.
    pub fn sync(&self) -> Result<()> {
        let damaged =
            |what: &str| EngineError::new(ErrorKind::Damaged, format!("sync the image of {}: {what}", self.volume));
        if self.sync_failed.load(Ordering::Acquire) {
            return Err(damaged("an earlier sync failed; restart the gateway once the disk is sound"));
        }
        let sync = |file: &Arc<dyn DiskFile>| {
            file.sync().map_err(|error| {
                self.sync_failed.store(true, Ordering::Release);
                damaged(&error.to_string()).with_source(error)
            })
        };
        let _alone = self.presence.as_ref().map(|_| self.syncing.lock());
        // Bits that are set while the data is being synced belong to data that may not be durable: they wait.
        let (pages, present) = self
            .presence
            .as_ref()
            .map(|presence| {
                let mut presence = presence.lock();
                (presence.take_dirty(), presence.present)
            })
            .unwrap_or_default();
        sync(&self.file)?;
        let Some(presence) = self.presence.as_ref().filter(|_| !pages.is_empty()) else { return Ok(()) };
        let file = Arc::clone(&presence.lock().file);
        pages.iter().try_for_each(|(at, page)| file.write_at(page, BITS_AT + at * PAGE)).map_err(|error| {
            presence.lock().dirty.extend(pages.iter().map(|(at, _)| *at));
            EngineError::io(format!("write the presence map of {}", self.volume), error)
        })?;
        sync(&file)?;
        presence.lock().kept = present;
        Ok(())
    }

    /// Once every block is present the image is whole: the bitmap goes.
    pub fn drop_presence(disk: &Arc<dyn Disk>, volume: VolumeId) -> Result<()> {
        disk.remove(&presence_name(volume))
            .and_then(|()| disk.sync_names())
            .map_err(|error| EngineError::io(format!("drop the presence map of {volume}"), error))
    }

    /// Deletes the files of a volume; of an adopted one only the link.
    pub fn remove(disk: &Arc<dyn Disk>, volume: VolumeId) -> Result<()> {
        Parts::remove(disk, &image_name(volume))
            .and_then(|()| disk.remove(&presence_name(volume)))
            .map_err(|error| EngineError::io(format!("delete the image of {volume}"), error))
    }
}

/// An image that is no adopted source.
fn open_own(disk: &Arc<dyn Disk>, volume: VolumeId, create: bool) -> std::io::Result<Arc<dyn DiskFile>> {
    Ok(Arc::new(Parts::open(disk, &image_name(volume), create, PART_BYTES)?.mend()?))
}

/// Bytes of an image, which is left as it is.
pub(crate) fn image_len(disk: &Arc<dyn Disk>, volume: VolumeId) -> std::io::Result<u64> {
    Parts::open(disk, &image_name(volume), false, PART_BYTES)?.len()
}

/// An adopted source grows before its volume does: one that is shorter now was cut short by somebody else.
fn open_adopted(disk: &Arc<dyn Disk>, volume: VolumeId, source: &Path, blocks: u64) -> Result<Arc<dyn DiskFile>> {
    let file = disk.hold(&image_name(volume), source)?;
    let len = file.len().map_err(|error| EngineError::io(format!("open the image of {volume}"), error))?;
    if len >= blocks * BLOCK_SIZE_U64 {
        return Ok(file);
    }
    Err(EngineError::new(
        ErrorKind::Damaged,
        format!(
            "{} is {volume}, which has {} bytes, and has only {len} itself: put the right one back, or recover the volume from the vault",
            source.display(),
            blocks * BLOCK_SIZE_U64
        ),
    ))
}

impl Presence {
    fn create(disk: &Arc<dyn Disk>, volume: VolumeId, blocks: u64) -> Result<Self> {
        let context = |error| EngineError::io(format!("create the presence map of {volume}"), error);
        let file = disk.open(&presence_name(volume), true, Io::Buffered).map_err(context)?;
        let bytes = blocks.div_ceil(8).next_multiple_of(PAGE);
        file.set_len(BITS_AT + bytes).map_err(context)?;
        file.write_at(&PresenceHeader { volume, size_blocks: blocks, generation: 1 }.encode(), 0).map_err(context)?;
        file.sync().map_err(context)?;
        Ok(Self { file, bits: vec![0; index(bytes)], dirty: std::collections::BTreeSet::new(), present: 0, kept: 0 })
    }

    fn open(file: Arc<dyn DiskFile>, volume: VolumeId, blocks: u64) -> Result<Self> {
        let context = |error| EngineError::io(format!("open the presence map of {volume}"), error);
        let mut header = vec![0; index(BITS_AT)];
        file.read_at(&mut header, 0).map_err(context)?;
        let found = PresenceHeader::decode(&header).map_err(crate::error::format_error("the presence map"))?;
        if found.volume != volume {
            return Err(EngineError::new(
                ErrorKind::Damaged,
                format!("the presence map of {volume} belongs to {}: put the right file back", found.volume),
            ));
        }
        let stored = file.len().map_err(context)?.saturating_sub(BITS_AT);
        let bytes = blocks.div_ceil(8).next_multiple_of(PAGE).max(stored);
        let mut bits = vec![0; index(bytes)];
        file.read_at(&mut bits[..index(stored)], BITS_AT).map_err(context)?;
        let mut presence = Self { file, bits, dirty: std::collections::BTreeSet::new(), present: 0, kept: 0 };
        // What lies behind the size at the fork was grown here, and is here, whether a crash left its bits or not.
        presence.clear_from(blocks);
        presence.present = (0..blocks).filter(|&block| presence.is_set(block)).count() as u64;
        presence.set(Extent { lba: found.size_blocks, blocks: blocks.saturating_sub(found.size_blocks) });
        // After a failed sync the kernel may show bits that are not on the disk: they are written once more.
        let page = index(PAGE);
        let used = (0..presence.bits.len() / page)
            .filter(|at| presence.bits[at * page..][..page].iter().any(|byte| *byte != 0));
        presence.dirty = used.map(|at| at as u64).collect();
        presence.kept = presence.present;
        Ok(presence)
    }

    fn grow(&mut self, old: u64, new: u64) {
        let bytes = new.div_ceil(8).next_multiple_of(PAGE);
        if index(bytes) > self.bits.len() {
            self.bits.resize(index(bytes), 0);
        }
        self.set(Extent { lba: old, blocks: new - old });
    }

    fn clear_from(&mut self, block: u64) {
        if let Some((byte, rest)) = self.bits.get_mut(index(block / 8)..).and_then(<[u8]>::split_first_mut) {
            *byte &= (1 << (block % 8)) - 1;
            rest.fill(0);
        }
    }

    fn is_set(&self, block: u64) -> bool {
        self.bits.get(index(block / 8)).is_some_and(|byte| byte & (1 << (block % 8)) != 0)
    }

    fn set(&mut self, extent: Extent) {
        for block in extent.lba..extent.end() {
            if let Some(byte) = self.bits.get_mut(index(block / 8)) {
                let bit = 1 << (block % 8);
                if *byte & bit == 0 {
                    *byte |= bit;
                    self.present += 1;
                    self.dirty.insert(block / 8 / PAGE);
                }
            }
        }
    }

    fn runs(&self, extent: Extent) -> Vec<(Extent, bool)> {
        let mut runs: Vec<(Extent, bool)> = Vec::new();
        for block in extent.lba..extent.end() {
            let present = self.is_set(block);
            match runs.last_mut() {
                Some((run, state)) if *state == present => run.blocks += 1,
                _ => runs.push((Extent { lba: block, blocks: 1 }, present)),
            }
        }
        runs
    }

    fn take_dirty(&mut self) -> Vec<(u64, Vec<u8>)> {
        std::mem::take(&mut self.dirty)
            .into_iter()
            .map(|page| {
                let start = index(page * PAGE);
                (page, self.bits[start..(start + index(PAGE)).min(self.bits.len())].to_vec())
            })
            .collect()
    }
}

/// Blocks and bytes of one volume fit a 64-bit address space.
fn index(value: u64) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
}
