//! One group on a simulated disk, driven in steps, with the model beside it.
//!
//! The rig stands for what surrounds the write path in a gateway: front ends that wait for acknowledgements, the task that
//! saves how far the images are (the state file: atomic here, and saved or not before a crash as the script has it), the
//! shipper and its vault, hydration. It may call the write path's steps in any order that their contracts allow; whatever
//! order that is, the promises hold:
//!
//! - recovery finds exactly the state after a prefix of the write order, the same one for all volumes: at least what
//!   was acknowledged (kill) or flushed (power loss);
//! - no image and no vault ever holds a record that a crash can take away (I-3), and whatever is still needed can be
//!   read back (I-4);
//! - acknowledgements come in LSN order, and none comes after the group was poisoned.

use std::collections::VecDeque;
use std::sync::Arc;

use lifeboat_engine::disk::Disk;
use lifeboat_engine::image::{Image, image_name};
use lifeboat_engine::journal::ReadHint;
use lifeboat_engine::write_path::{Ack, Limits, Mode, Piece, Submitted, WritePath};
use lifeboat_engine::{EngineError, Op, PointMark};
use lifeboat_model::{BLOCK_SIZE, BLOCK_SIZE_U64, Epoch, Extent, GroupId, Lsn, PointId, PointKind, Timestamp};
use tokio::sync::oneshot::error::TryRecvError;

use crate::disk::{CrashKind, SimDisk};
use crate::model::{Checked, Model, ModelVolume, Violation, bytes_of, stamp_of};
use crate::promise;
use crate::random::Random;

mod restart;

/// What a rig is made of.
#[derive(Clone, Debug)]
pub struct Setup {
    /// The group's volumes.
    pub volumes: Vec<ModelVolume>,
    /// The write path's bounds.
    pub limits: Limits,
}

/// A mistake of what surrounds the write path; the harness has to catch each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Planted {
    /// None.
    Nothing,
    /// Journal files are given back without asking how far images and vault are.
    ReclaimsEverything,
    /// Journal files are given back without asking how far the vault is.
    ReclaimsUnshipped,
    /// The watermark is saved before the images are durable.
    SavesWatermarkEarly,
    /// Writes go to the image at once.
    DestagesBeforeDurable,
    /// Records are shipped once they are in the kernel.
    ShipsBeforeDurable,
    /// Writes are acknowledged before they are in the kernel.
    AcknowledgesEarly,
    /// Flushes are answered without a sync.
    FlushesWithoutSync,
    /// Replay begins one record too late.
    SkipsARecord,
    /// Blocks that come from the vault replace what was written meanwhile.
    FillOverwrites,
    /// The sizes that growth gave are not saved with the watermark.
    ForgetsSizes,
}

/// One thing that a script does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Submits a write of new content.
    Write(usize, Extent),
    /// Submits a zeroing.
    Zero(usize, Extent),
    /// Submits a trim.
    Trim(usize, Extent),
    /// Grows a volume by so many blocks.
    Grow(usize, u64),
    /// Submits a recovery point.
    Point,
    /// Commits one batch.
    Commit,
    /// Syncs the journal.
    Sync,
    /// Asks for a flush, and goes on.
    AskFlush,
    /// Asks for a flush, and does what it takes to have it answered.
    Flush,
    /// Takes the overlay to the images.
    Destage,
    /// Saves how far images and vault are.
    Save,
    /// Prepares a journal file.
    Prepare,
    /// Ships what is durable.
    Ship,
    /// Gives journal files back.
    Reclaim,
    /// Puts base content into a lazy image.
    Fill(usize, Extent),
    /// Reads and compares.
    Read(usize, Extent),
}

/// The state file.
#[derive(Clone, Debug)]
struct Saved {
    image: Lsn,
    shipped: Lsn,
    blocks: Vec<u64>,
}

/// A group under test.
#[derive(Debug)]
pub struct Rig {
    setup: Setup,
    planted: Planted,
    disk: Arc<SimDisk>,
    path: WritePath,
    model: Model,
    saved: Saved,
    shipped: Lsn,
    /// Newest record in the vault.
    vault: Lsn,
    hint: Option<ReadHint>,
    acks: VecDeque<(Lsn, Ack)>,
    flushes: Vec<(Lsn, Ack)>,
    acked: Lsn,
    flushed: Lsn,
    points: u128,
    /// Submissions that were told to wait.
    pub waits: u64,
}

const GROUP: [u8; 16] = [7; 16];

impl Rig {
    /// A new group on an empty disk.
    ///
    /// # Errors
    /// What the disk says.
    pub fn new(setup: Setup, planted: Planted, disk: Arc<SimDisk>) -> Result<Self, EngineError> {
        let as_disk: Arc<dyn Disk> = Arc::<SimDisk>::clone(&disk);
        let path = WritePath::create(&as_disk, GroupId::from_bytes(GROUP), Epoch(1), setup.limits, Lsn(1))?;
        for volume in &setup.volumes {
            path.add_volume(volume.id, Arc::new(Image::create(&as_disk, volume.id, volume.blocks, volume.lazy)?));
        }
        let blocks = setup.volumes.iter().map(|volume| volume.blocks).collect();
        Ok(Self {
            model: Model::new(setup.volumes.clone()),
            setup,
            planted,
            disk,
            path,
            saved: Saved { image: Lsn::ZERO, shipped: Lsn::ZERO, blocks },
            shipped: Lsn::ZERO,
            vault: Lsn::ZERO,
            hint: None,
            acks: VecDeque::new(),
            flushes: Vec::new(),
            acked: Lsn::ZERO,
            flushed: Lsn::ZERO,
            points: 0,
            waits: 0,
        })
    }

    /// The disk.
    #[must_use]
    pub fn disk(&self) -> &Arc<SimDisk> {
        &self.disk
    }

    /// Its write path.
    #[must_use]
    pub fn path(&self) -> &WritePath {
        &self.path
    }

    /// Does one step, and checks everything that can be seen from outside.
    ///
    /// # Errors
    /// The promise that was broken.
    pub fn step(&mut self, step: &Step) -> Checked {
        let poisoned = self.poisoned();
        let failed_syncs = self.disk.failed_syncs();
        let done = self.act(step);
        let done = match done {
            Err(Trouble::Engine(_)) if self.in_trouble() || poisoned => Ok(()),
            Err(Trouble::Engine(error)) => Err(Violation(format!("{step:?} failed on a sound disk: {error}"))),
            Err(Trouble::Broken(violation)) => Err(Violation(format!("{step:?}: {violation}"))),
            Ok(done) => {
                let must_fail = poisoned
                    && matches!(step, Step::Sync | Step::Commit | Step::AskFlush | Step::Flush | Step::Point)
                    && done;
                promise!(!must_fail, "{step:?} succeeded after the group was poisoned");
                Ok(())
            }
        };
        done?;
        if *step == Step::Sync && self.disk.failed_syncs() > failed_syncs {
            promise!(self.poisoned(), "the journal's sync failed, and the group goes on");
        }
        self.poll(poisoned)
    }

    /// Whether the group takes no more writes.
    #[must_use]
    pub fn poisoned(&self) -> bool {
        matches!(self.path.figures().mode, Mode::Poisoned(_))
    }

    fn in_trouble(&self) -> bool {
        self.disk.fault_hit() || self.disk.halted()
    }

    /// Whether the step did something.
    fn act(&mut self, step: &Step) -> Result<bool, Trouble> {
        match step {
            Step::Write(volume, extent) => {
                let op = self.model.new_write(*volume, *extent);
                self.submit(op)
            }
            Step::Zero(volume, extent) => {
                self.submit(Op::Zero { volume: self.setup.volumes[*volume].id, extent: *extent })
            }
            Step::Trim(volume, extent) => {
                self.submit(Op::Trim { volume: self.setup.volumes[*volume].id, extent: *extent })
            }
            Step::Grow(volume, by) => self.grow(*volume, *by),
            Step::Point => self.point(),
            Step::Commit => Ok(self.path.commit()?),
            Step::Sync => {
                self.path.sync()?;
                Ok(true)
            }
            Step::AskFlush => self.ask_flush(),
            Step::Flush => self.flush(),
            Step::Destage => Ok(self.path.destage()?),
            Step::Save => {
                self.save();
                Ok(true)
            }
            Step::Prepare => {
                self.path.prepare()?;
                Ok(true)
            }
            Step::Ship => self.ship(),
            Step::Reclaim => {
                self.path.reclaim(match self.planted {
                    Planted::ReclaimsEverything => self.path.figures().last,
                    Planted::ReclaimsUnshipped => self.saved.image,
                    _ => self.saved.image.min(self.saved.shipped),
                });
                Ok(true)
            }
            Step::Fill(volume, extent) => self.fill(*volume, *extent),
            Step::Read(volume, extent) => self.read(*volume, *extent),
        }
    }

    fn submit(&mut self, op: Op) -> Result<bool, Trouble> {
        match self.path.submit(&op)? {
            Submitted::Wait => {
                self.waits += 1;
                Ok(false)
            }
            Submitted::Accepted(lsn, ack) => {
                self.acks.push_back((lsn, ack));
                if self.planted == Planted::AcknowledgesEarly {
                    self.acked = lsn;
                }
                if self.planted == Planted::DestagesBeforeDurable
                    && let Op::Write { volume, lba, data } = &op
                    && let Some(image) = self.path.image(*volume)
                {
                    image.write(*lba, data)?;
                }
                self.model.accept(lsn, op)?;
                Ok(true)
            }
        }
    }

    /// As a group does it: the image first, then the record.
    fn grow(&mut self, volume: usize, by: u64) -> Result<bool, Trouble> {
        let id = self.setup.volumes[volume].id;
        let Some(image) = self.path.image(id) else { return Ok(false) };
        let blocks = image.blocks() + by;
        image.grow(blocks)?;
        self.submit_size(volume, blocks)
    }

    /// A size has to be in the log before anything behind the old end can be written.
    fn submit_size(&mut self, volume: usize, blocks: u64) -> Result<bool, Trouble> {
        let op = Op::Resize { volume: self.setup.volumes[volume].id, blocks };
        for _ in 0..100 {
            if self.submit(op.clone())? {
                return Ok(true);
            }
            self.make_room()?;
        }
        Err(Trouble::Broken(Violation("no room comes free for a size".into())))
    }

    fn point(&mut self) -> Result<bool, Trouble> {
        self.points += 1;
        self.submit(Op::Point(PointMark {
            id: PointId::from_bytes(self.points.to_le_bytes()),
            time: Timestamp::from_micros(1),
            kind: PointKind::Manual,
            label: format!("point {}", self.points),
            consistent: true,
        }))
    }

    fn ask_flush(&mut self) -> Result<bool, Trouble> {
        let upto = self.model.last();
        match self.path.flush()? {
            None => self.flushed = self.flushed.max(upto),
            Some(_) if self.planted == Planted::FlushesWithoutSync => self.flushed = upto,
            Some(ack) => self.flushes.push((upto, ack)),
        }
        Ok(true)
    }

    fn flush(&mut self) -> Result<bool, Trouble> {
        let upto = self.model.last();
        self.ask_flush()?;
        while self.path.commit()? {}
        if self.planted == Planted::FlushesWithoutSync {
            return Ok(true);
        }
        self.path.sync()?;
        self.poll(false)?;
        if self.flushed < upto {
            return Err(Trouble::Broken(Violation(format!("a flush of {upto} was not answered by a sync"))));
        }
        Ok(true)
    }

    fn save(&mut self) {
        let figures = self.path.figures();
        self.saved.image = if self.planted == Planted::SavesWatermarkEarly { figures.durable } else { figures.image };
        self.saved.shipped = self.shipped;
        if self.planted != Planted::ForgetsSizes {
            let size = |volume: &ModelVolume| self.path.image(volume.id).map_or(volume.blocks, |image| image.blocks());
            self.saved.blocks = self.setup.volumes.iter().map(size).collect();
        }
    }

    fn ship(&mut self) -> Result<bool, Trouble> {
        let upto = if self.planted == Planted::ShipsBeforeDurable {
            while self.path.commit()? {}
            self.path.figures().last
        } else {
            self.path.durable()
        };
        let before = self.shipped;
        while self.shipped < upto {
            let reader = self.path.reader(self.shipped);
            let records = reader.read(self.shipped, upto, 3 * BLOCK_SIZE, &mut self.hint)?;
            if records.is_empty() {
                return Err(Trouble::Broken(Violation(format!("the reader gives nothing after {}", self.shipped))));
            }
            for record in records {
                let expected = self.shipped.next();
                if record.lsn != expected || self.model.record(expected) != Some(&record.op) {
                    return Err(Trouble::Broken(Violation(format!("the reader gives another record as {expected}"))));
                }
                self.shipped = expected;
                self.vault = self.vault.max(expected);
            }
        }
        Ok(self.shipped > before)
    }

    fn fill(&mut self, volume: usize, extent: Extent) -> Result<bool, Trouble> {
        let of = &self.setup.volumes[volume];
        let end = extent.end().min(of.blocks);
        let Some(image) = self.path.image(of.id).filter(|_| of.lazy && extent.lba < end) else { return Ok(false) };
        let extent = Extent { lba: extent.lba, blocks: end - extent.lba };
        let stamps = self.model.base(volume, extent);
        let data = stamps.iter().any(|stamp| *stamp != 0).then(|| bytes_of(&stamps));
        match data {
            Some(data) if self.planted == Planted::FillOverwrites => image.write(extent.lba, &data)?,
            data => image.fill(extent.lba, data.as_deref(), extent.blocks)?,
        }
        Ok(true)
    }

    fn read(&mut self, volume: usize, extent: Extent) -> Result<bool, Trouble> {
        let all = self.model.at(self.model.last());
        let from = usize::try_from(extent.lba).unwrap_or(usize::MAX);
        let expected: Vec<u64> =
            all[volume].iter().skip(from).take(usize::try_from(extent.blocks).unwrap_or(usize::MAX)).copied().collect();
        let extent = Extent { lba: extent.lba, blocks: expected.len() as u64 };
        let found = read_stamps(&self.path, &self.model, volume, extent)?;
        if found != expected {
            return Err(Trouble::Broken(Violation(format!(
                "volume {volume} from {}: {found:?}, not {expected:?}",
                extent.lba
            ))));
        }
        Ok(true)
    }

    /// Takes the answers that have come.
    fn poll(&mut self, poisoned: bool) -> Checked {
        let mut waiting = VecDeque::new();
        let mut failed = false;
        for (lsn, mut ack) in std::mem::take(&mut self.acks) {
            match ack.try_recv() {
                Ok(Ok(())) => {
                    promise!(waiting.is_empty() && !failed, "{lsn} was acknowledged before an earlier record");
                    promise!(!poisoned, "{lsn} was acknowledged after the group was poisoned");
                    self.acked = self.acked.max(lsn);
                }
                Ok(Err(error)) => {
                    promise!(self.in_trouble(), "{lsn} failed on a sound disk: {error}");
                    failed = true;
                }
                Err(TryRecvError::Empty) => waiting.push_back((lsn, ack)),
                Err(TryRecvError::Closed) => {
                    return Err(Violation(format!("the acknowledgement of {lsn} was dropped")));
                }
            }
        }
        self.acks = waiting;
        let mut waiting = Vec::new();
        for (upto, mut ack) in std::mem::take(&mut self.flushes) {
            match ack.try_recv() {
                Ok(Ok(())) => {
                    promise!(!poisoned, "a flush was answered after the group was poisoned");
                    promise!(upto <= self.path.durable(), "a flush of {upto} was answered at {}", self.path.durable());
                    self.flushed = self.flushed.max(upto);
                }
                Ok(Err(error)) => promise!(self.in_trouble(), "a flush failed on a sound disk: {error}"),
                Err(TryRecvError::Empty) => waiting.push((upto, ack)),
                Err(TryRecvError::Closed) => return Err(Violation("the answer to a flush was dropped".into())),
            }
        }
        self.flushes = waiting;
        promise!(self.flushed <= self.acked.max(self.path.durable()), "flushed {} beyond {}", self.flushed, self.acked);
        // Keeps the model's work small: a crash can't go behind a flush.
        self.model.raise_floor(self.flushed);
        Ok(())
    }

    /// What a gateway's tasks do when a writer waits.
    fn make_room(&mut self) -> Result<(), Trouble> {
        while self.path.commit()? {}
        self.path.sync()?;
        self.path.destage()?;
        self.ship()?;
        self.save();
        self.path.reclaim(self.saved.image.min(self.saved.shipped));
        self.path.prepare()?;
        Ok(())
    }

    /// Brings everything up to date, and asks for one more write: whatever happened before, it is taken.
    ///
    /// # Errors
    /// `Violation` when it is not, or when the volumes don't equal the model.
    pub fn settle(&mut self) -> Checked {
        let made = self.make_room().and_then(|()| self.make_room());
        self.broken(made, "bringing everything up to date")?;
        self.poll(false)?;
        promise!(self.path.figures().image == self.model.last(), "the images stop at {}", self.path.figures().image);
        promise!(self.acked == self.model.last() || self.acks.is_empty(), "{} were never answered", self.acks.len());
        for volume in 0..self.setup.volumes.len() {
            let read = self.read(volume, Extent { lba: 0, blocks: u64::from(u32::MAX) });
            self.broken(read, "reading")?;
        }
        let op = self.model.new_write(0, Extent { lba: 0, blocks: 1 });
        let taken = self.submit(op);
        let taken = self.broken(taken, "writing")?;
        promise!(taken, "everything is up to date, and a write still has to wait: {:?}", self.path.figures());
        Ok(())
    }

    fn broken<T>(&self, result: Result<T, Trouble>, what: &str) -> Checked<T> {
        result.map_err(|trouble| match trouble {
            Trouble::Broken(violation) => violation,
            Trouble::Engine(error) => Violation(format!("{what}: {error}")),
        })
    }
}

/// Why a step came to nothing.
#[derive(Debug)]
enum Trouble {
    Engine(EngineError),
    Broken(Violation),
}

impl From<EngineError> for Trouble {
    fn from(error: EngineError) -> Self {
        Self::Engine(error)
    }
}

impl From<Violation> for Trouble {
    fn from(violation: Violation) -> Self {
        Self::Broken(violation)
    }
}

/// Reads blocks the way a front end does.
fn read_stamps(path: &WritePath, model: &Model, volume: usize, extent: Extent) -> Result<Vec<u64>, Trouble> {
    let (image, pieces) = path.locate(model.volumes()[volume].id, extent)?;
    let mut stamps = Vec::new();
    let mut at = extent.lba;
    for piece in pieces {
        let part = match &piece {
            Piece::Memory(part, _) | Piece::Image(part) | Piece::Absent(part) => *part,
        };
        if part.lba != at {
            return Err(Trouble::Broken(Violation(format!("a read misses the blocks from {at} to {}", part.lba))));
        }
        at = part.end();
        let bytes = match piece {
            Piece::Memory(_, Some(data)) => data.to_vec(),
            Piece::Memory(part, None) => {
                stamps.extend((0..part.blocks).map(|_| 0));
                continue;
            }
            Piece::Absent(part) => {
                if part.end() > model.volumes()[volume].blocks {
                    return Err(Trouble::Broken(Violation(format!(
                        "{part:?} of volume {volume} was never in the vault, and is absent"
                    ))));
                }
                stamps.extend(model.base(volume, part));
                continue;
            }
            Piece::Image(part) => {
                let mut bytes = vec![0; usize::try_from(part.blocks * BLOCK_SIZE_U64).unwrap_or(usize::MAX)];
                image.read(part.lba, &mut bytes)?;
                bytes
            }
        };
        for block in bytes.chunks(BLOCK_SIZE) {
            stamps.push(stamp_of(block)?);
        }
    }
    if at != extent.end() {
        return Err(Trouble::Broken(Violation(format!("a read ends at {at}, not at {}", extent.end()))));
    }
    Ok(stamps)
}
