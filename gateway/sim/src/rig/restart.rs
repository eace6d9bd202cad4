//! Crashes, and what a restart has to find.

use super::*;

impl Rig {
    /// Crashes a copy of the disk and compares what a restart finds with the model; the run itself goes on unharmed.
    ///
    /// # Errors
    /// The promise that was broken.
    pub fn probe(&self, seed: u64, kind: CrashKind) -> Checked<Lsn> {
        let disk = self.disk.crash(seed, kind);
        let path = self
            .open(&disk)
            .map_err(|error| Violation(format!("after a {kind:?} the group can't be opened: {error}")))?;
        self.compare(&disk, &path, self.lower_bound(kind))
    }

    /// Crashes for good and starts again. `interrupted`: the restart itself is stopped in the middle, at about that
    /// fraction of 256 of its calls, and has to be repeated.
    ///
    /// # Errors
    /// The promise that was broken.
    pub fn restart(&mut self, seed: u64, kind: CrashKind, interrupted: Option<u64>) -> Checked<Lsn> {
        let mut random = Random::new(seed);
        let mut lower = self.lower_bound(kind);
        let mut disk = self.disk.crash(random.next(), kind);
        if let Some(part) = interrupted {
            let twin = disk.crash(random.next(), CrashKind::Kill);
            drop(self.open(&twin));
            disk.halt_at(1 + twin.calls() * part / 256);
            drop(self.open(&disk));
            let kind = if random.one_in(2) { CrashKind::Kill } else { CrashKind::Power };
            lower = lower.min(self.lower_bound(kind));
            disk = disk.crash(random.next(), kind);
        }
        self.resume(disk, lower, kind)
    }

    /// Starts on a disk as it is.
    fn resume(&mut self, disk: Arc<SimDisk>, lower: Lsn, kind: CrashKind) -> Checked<Lsn> {
        let path = self
            .open(&disk)
            .map_err(|error| Violation(format!("after a {kind:?} the group can't be opened: {error}")))?;
        let last = self.compare(&disk, &path, lower)?;
        self.model.cut(last);
        self.model.raise_floor(last);
        self.disk = disk;
        self.path = path;
        self.hint = None;
        self.acks.clear();
        self.flushes.clear();
        self.acked = last;
        self.flushed = last;
        self.shipped = self.saved.shipped;
        self.introduce_sizes()?;
        Ok(last)
    }

    /// Opens with a fault on the way, at the given call; when that fails, opens again on the sound disk after another
    /// crash. Gives the number of calls that opening made.
    ///
    /// # Errors
    /// The promise that was broken.
    pub fn probe_with_fault(&self, seed: u64, kind: CrashKind, fault: crate::disk::Fault) -> Checked<u64> {
        let disk = self.disk.crash(seed, kind);
        disk.set_fault(Some(fault));
        let lower = self.lower_bound(kind);
        let opened = self.open(&disk);
        let calls = disk.calls();
        disk.set_fault(None);
        match opened {
            Ok(path) => drop(self.compare(&disk, &path, lower)?),
            Err(error) => {
                promise!(disk.fault_hit(), "opening failed on a sound disk: {error}");
                for again in [CrashKind::Kill, CrashKind::Power] {
                    let sound = again == CrashKind::Kill && disk.failed_syncs() == 0;
                    let lower = if sound { lower } else { self.flushed };
                    let again = disk.crash(seed ^ 0x55, again);
                    let path = self.open(&again).map_err(|error| {
                        Violation(format!("the disk is sound again, and the group can't be opened: {error}"))
                    })?;
                    self.compare(&again, &path, lower)?;
                }
            }
        }
        Ok(calls)
    }

    /// Newest record that the crash must not take.
    fn lower_bound(&self, kind: CrashKind) -> Lsn {
        // A disk that failed a sync has lost what was only in the kernel.
        if kind == CrashKind::Kill && self.disk.failed_syncs() == 0 {
            self.acked.max(self.flushed)
        } else {
            self.flushed
        }
    }

    fn open(&self, disk: &Arc<SimDisk>) -> Result<WritePath, EngineError> {
        let disk: Arc<dyn Disk> = Arc::<SimDisk>::clone(disk);
        let images = self
            .setup
            .volumes
            .iter()
            .zip(&self.saved.blocks)
            .map(|(volume, &blocks)| Ok((volume.id, Arc::new(Image::open(&disk, volume.id, blocks)?))))
            .collect::<Result<Vec<_>, EngineError>>()?;
        let skips = self.planted == Planted::SkipsARecord && self.flushed > self.saved.image;
        let image = if skips { self.saved.image.next() } else { self.saved.image };
        WritePath::open(
            &disk,
            GroupId::from_bytes(GROUP),
            Epoch(1),
            self.setup.limits,
            images,
            image,
            self.saved.shipped,
        )
    }

    /// Compares a group that was just opened with the model. Gives the newest record found.
    fn compare(&self, disk: &Arc<SimDisk>, path: &WritePath, lower: Lsn) -> Checked<Lsn> {
        let last = path.figures().last;
        promise!(last >= lower, "record {lower} must not be lost, and the log ends at {last}");
        promise!(last <= self.model.last(), "the log ends at {last}, and only {} were written", self.model.last());
        promise!(last >= self.vault, "the vault has {}, and the log ends at {last}", self.vault);
        promise!(last >= self.saved.image, "the images have {}, and the log ends at {last}", self.saved.image);
        let expected = self.model.at(last);
        for (at, volume) in self.setup.volumes.iter().enumerate() {
            let blocks = expected[at].len() as u64;
            let image = path.image(volume.id).map_or(0, |image| image.blocks());
            promise!(image >= blocks, "volume {at} has {image} blocks, not {blocks}");
            let found = read_stamps(path, &self.model, at, Extent { lba: 0, blocks });
            let found = self.broken(found, "reading after the restart")?;
            promise!(found == expected[at], "at {last} volume {at} holds {found:?}, not {:?}", expected[at]);
            self.check_image(disk, at, blocks, last)?;
        }
        Ok(last)
    }

    /// I-3, seen from the disk: whatever an image holds was written by a record that is in the log.
    fn check_image(&self, disk: &SimDisk, volume: usize, blocks: u64, last: Lsn) -> Checked {
        let name = image_name(self.setup.volumes[volume].id);
        let bytes =
            disk.peek(&name, 0, usize::try_from(blocks * BLOCK_SIZE_U64).unwrap_or(usize::MAX)).unwrap_or_default();
        for (lba, block) in bytes.chunks(BLOCK_SIZE).enumerate() {
            // A block torn by the crash is one that the journal still has.
            let Ok(stamp) = stamp_of(block) else { continue };
            let writer = self
                .model
                .writer_of(stamp)
                .map_err(|why| Violation(format!("block {lba} of image {volume}: {why}")))?;
            promise!(
                writer.is_none_or(|lsn| lsn <= last),
                "block {lba} of image {volume} was written by {writer:?}, and the log ends at {last}"
            );
        }
        Ok(())
    }

    /// As a group does after a restart: sizes that the state file has and the log may lack.
    fn introduce_sizes(&mut self) -> Checked {
        for volume in 0..self.setup.volumes.len() {
            let blocks = self.path.image(self.setup.volumes[volume].id).map_or(0, |image| image.blocks());
            let submitted = self.submit_size(volume, blocks);
            self.broken(submitted, "introducing the volumes")?;
        }
        Ok(())
    }
}
