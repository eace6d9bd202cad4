//! The write path's promises one by one, on real files and on a disk that counts, waits and fails. Crashes are the
//! simulation's (lifeboat-sim).

use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use lifeboat_model::{PointId, PointKind, Timestamp};

use super::*;
use crate::disk::{DiskFile, Io, LocalDisk};

const BLOCKS: u64 = 64;

fn limits() -> Limits {
    Limits {
        overlay_bytes: 32 * BLOCK_SIZE_U64,
        unsettled_bytes: 16 * BLOCK_SIZE_U64,
        batch_bytes: 8 * BLOCK_SIZE,
        queue_bytes: 8 * BLOCK_SIZE_U64,
        journal: JournalSizes { file_bytes: 20 * BLOCK_SIZE_U64, limit_bytes: 60 * BLOCK_SIZE_U64 },
    }
}

/// A directory with a disk over it that can be made to fail.
struct Bench {
    _dir: tempfile::TempDir,
    disk: Arc<TestDisk>,
    path: Arc<WritePath>,
}

impl Bench {
    fn new() -> Self {
        Self::with(limits())
    }

    fn with(limits: Limits) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let disk = Arc::new(TestDisk { below: LocalDisk::open(dir.path()).expect("opens"), switch: Arc::default() });
        let as_disk: Arc<dyn Disk> = Arc::<TestDisk>::clone(&disk);
        let path = WritePath::create(&as_disk, group(), Epoch(1), limits, Lsn(1)).expect("creates");
        let image = Image::create(&as_disk, volume(), BLOCKS, false).expect("creates");
        path.add_volume(volume(), Arc::new(image));
        Self { _dir: dir, disk, path: Arc::new(path) }
    }

    fn switch(&self) -> &Switch {
        &self.disk.switch
    }

    fn accept(&self, op: &Op) -> (Lsn, Ack) {
        match self.path.submit(op).expect("is no error") {
            Submitted::Accepted(lsn, ack) => (lsn, ack),
            Submitted::Wait => panic!("has to wait: {:?}", self.path.figures()),
        }
    }

    fn waits(&self, op: &Op) -> bool {
        matches!(self.path.submit(op).expect("is no error"), Submitted::Wait)
    }

    /// The first byte of each block, as a front end reads it.
    fn read(&self, lba: u64, blocks: u64) -> Vec<u8> {
        let (image, pieces) = self.path.locate(volume(), Extent { lba, blocks }).expect("the volume is there");
        let mut found = Vec::new();
        for piece in pieces {
            match piece {
                Piece::Memory(_, Some(data)) => found.extend(data.iter().step_by(BLOCK_SIZE)),
                Piece::Memory(part, None) => found.extend((0..part.blocks).map(|_| 0)),
                Piece::Image(part) => {
                    let mut bytes = vec![0; usize::try_from(part.blocks).expect("small") * BLOCK_SIZE];
                    image.read(part.lba, &mut bytes).expect("reads");
                    found.extend(bytes.iter().step_by(BLOCK_SIZE));
                }
                Piece::Absent(part) => panic!("{part:?} is absent"),
            }
        }
        found
    }

    fn image_byte(&self, lba: u64) -> u8 {
        let mut block = vec![0; BLOCK_SIZE];
        self.path.image(volume()).expect("is open").read(lba, &mut block).expect("reads");
        block[0]
    }
}

fn group() -> GroupId {
    GroupId::from_bytes([1; 16])
}

fn volume() -> VolumeId {
    VolumeId::from_bytes([2; 16])
}

fn write(lba: u64, blocks: usize, byte: u8) -> Op {
    Op::Write { volume: volume(), lba, data: Bytes::from(vec![byte; blocks * BLOCK_SIZE]) }
}

fn trim(lba: u64, blocks: u64) -> Op {
    Op::Trim { volume: volume(), extent: Extent { lba, blocks } }
}

fn point() -> Op {
    Op::Point(PointMark {
        id: PointId::from_bytes([3; 16]),
        time: Timestamp::from_micros(1),
        kind: PointKind::Manual,
        label: String::new(),
        consistent: true,
    })
}

/// The answer, if it has come.
fn answer(ack: &mut Ack) -> Option<Result<()>> {
    match ack.try_recv() {
        Ok(answer) => Some(answer),
        Err(oneshot::error::TryRecvError::Empty) => None,
        Err(oneshot::error::TryRecvError::Closed) => panic!("the answer was dropped, or was taken already"),
    }
}

fn is_done(ack: &mut Ack) -> bool {
    answer(ack).is_some_and(|answer| answer.is_ok())
}

/// What the disk is told to do.
#[derive(Debug, Default)]
struct Switch {
    /// Syncs of journal files that began.
    journal_syncs: AtomicU64,
    fail_journal_sync: AtomicBool,
    fail_journal_write: AtomicBool,
    fail_image_write: AtomicBool,
    fail_image_sync: AtomicBool,
    /// Every new byte is refused.
    full: AtomicBool,
    /// A journal sync reports here, then waits for a word.
    gate: Lock<Option<(SyncSender<()>, Receiver<()>)>>,
    /// The same for a journal write.
    write_gate: Lock<Option<(SyncSender<()>, Receiver<()>)>>,
}

impl Switch {
    fn set(flag: &AtomicBool) {
        flag.store(true, Ordering::SeqCst);
    }

    fn clear(flag: &AtomicBool) {
        flag.store(false, Ordering::SeqCst);
    }
}

#[derive(Debug)]
struct TestDisk {
    below: Arc<LocalDisk>,
    switch: Arc<Switch>,
}

impl Disk for TestDisk {
    fn open(&self, name: &str, create: bool, io: Io) -> io::Result<Arc<dyn DiskFile>> {
        let below = self.below.open(name, create, io)?;
        Ok(Arc::new(TestFile { below, journal: name.starts_with("journal-"), switch: Arc::clone(&self.switch) }))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        self.below.list()
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.below.remove(name)
    }

    fn sync_names(&self) -> io::Result<()> {
        self.below.sync_names()
    }

    fn path(&self) -> PathBuf {
        self.below.path()
    }
}

#[derive(Debug)]
struct TestFile {
    below: Arc<dyn DiskFile>,
    journal: bool,
    switch: Arc<Switch>,
}

/// Reports at a gate, if there is one, and waits for a word.
fn pass(gate: &Lock<Option<(SyncSender<()>, Receiver<()>)>>) {
    let gate = gate.lock().take();
    if let Some((arrived, go)) = gate {
        arrived.send(()).expect("somebody listens");
        go.recv().expect("somebody answers");
    }
}

fn device_failed() -> io::Error {
    io::Error::other("the device failed")
}

impl DiskFile for TestFile {
    fn len(&self) -> io::Result<u64> {
        self.below.len()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.below.set_len(len)
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.below.read_at(buf, offset)
    }

    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        let fail = if self.journal { &self.switch.fail_journal_write } else { &self.switch.fail_image_write };
        if self.journal {
            pass(&self.switch.write_gate);
        }
        if fail.load(Ordering::SeqCst) {
            return Err(device_failed());
        }
        if self.switch.full.load(Ordering::SeqCst) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.below.write_at(data, offset)
    }

    fn punch(&self, offset: u64, len: u64) -> io::Result<()> {
        self.below.punch(offset, len)
    }

    fn sync(&self) -> io::Result<()> {
        if !self.journal {
            let fail = self.switch.fail_image_sync.load(Ordering::SeqCst);
            return if fail { Err(device_failed()) } else { self.below.sync() };
        }
        self.switch.journal_syncs.fetch_add(1, Ordering::SeqCst);
        pass(&self.switch.gate);
        if self.switch.fail_journal_sync.load(Ordering::SeqCst) { Err(device_failed()) } else { self.below.sync() }
    }
}

#[test]
fn records_are_acknowledged_in_order_once_their_batch_is_in_the_kernel() {
    let bench = Bench::new();
    let mut acks: Vec<(Lsn, Ack)> = (0..5_u8).map(|at| bench.accept(&write(u64::from(at), 1, at + 1))).collect();
    assert_eq!(acks.iter().map(|(lsn, _)| lsn.0).collect::<Vec<_>>(), (1..=5).collect::<Vec<_>>());
    assert!(acks.iter_mut().all(|(_, ack)| answer(ack).is_none()), "nothing is in the kernel yet");
    assert!(bench.path.commit().expect("commits"));
    assert!(acks.iter_mut().all(|(_, ack)| is_done(ack)));
    assert!(!bench.path.commit().expect("is no error"), "nothing is left");

    // Two full batches and an open one.
    let limits = Limits { queue_bytes: 18 * BLOCK_SIZE_U64, batch_bytes: 4 * BLOCK_SIZE, ..limits() };
    let bench = Bench::with(limits);
    let mut acks: Vec<Ack> = (0..7_u8).map(|at| bench.accept(&write(u64::from(at), 1, at + 1)).1).collect();
    let mut done = 0;
    while bench.path.commit().expect("commits") {
        let now = acks[done..].iter_mut().map(is_done).collect::<Vec<_>>();
        let count = now.iter().take_while(|done| **done).count();
        assert!(count > 0 && now[count..].iter().all(|done| !done), "a batch is answered whole and in order: {now:?}");
        done += count;
    }
    assert_eq!(done, 7);
}

#[test]
fn many_flushes_share_one_sync() {
    let bench = Bench::new();
    let before = bench.switch().journal_syncs.load(Ordering::SeqCst);
    let mut flushes = Vec::new();
    for at in 0..5_u8 {
        let (_, _ack) = bench.accept(&write(u64::from(at), 1, 7));
        flushes.push(bench.path.flush().expect("asks").expect("is not durable yet"));
    }
    bench.path.sync().expect("syncs");
    assert!(flushes.iter_mut().all(|flush| answer(flush).is_none()), "what was not committed is not durable");
    let mid = bench.switch().journal_syncs.load(Ordering::SeqCst);
    while bench.path.commit().expect("commits") {}
    assert_eq!(bench.path.sync().expect("syncs"), Lsn(5));
    assert!(flushes.iter_mut().all(is_done));
    assert_eq!(bench.switch().journal_syncs.load(Ordering::SeqCst) - mid, 1);
    assert!(mid - before <= 1);
    assert!(bench.path.flush().expect("asks").is_none(), "it is durable already");
}

#[test]
fn a_flush_is_answered_only_by_a_sync_that_began_after_its_records() {
    let bench = Bench::new();
    bench.accept(&write(0, 1, 1));
    bench.path.commit().expect("commits");
    let mut first = bench.path.flush().expect("asks").expect("waits");
    let (arrived, wait) = sync_channel(1);
    let (go, gate) = sync_channel(1);
    *bench.switch().gate.lock() = Some((arrived, gate));
    let path = Arc::clone(&bench.path);
    let syncing = std::thread::spawn(move || path.sync());
    wait.recv().expect("the sync is under way");
    bench.accept(&write(1, 1, 2));
    bench.path.commit().expect("commits beside the sync");
    let mut second = bench.path.flush().expect("asks").expect("waits");
    go.send(()).expect("the sync waits");
    assert_eq!(syncing.join().expect("ends").expect("syncs"), Lsn(1));
    assert!(is_done(&mut first));
    assert!(answer(&mut second).is_none());
    assert_eq!(bench.path.sync().expect("syncs"), Lsn(2));
    assert!(is_done(&mut second));
}

#[test]
fn a_full_overlay_makes_writers_wait_until_it_is_destaged() {
    let bench = Bench::new();
    let mut lba = 0;
    while !bench.waits(&write(lba % BLOCKS, 2, 9)) {
        lba += 2;
        while bench.path.commit().expect("commits") {}
        bench.path.prepare().expect("prepares");
        assert!(lba < 200, "it never waits");
    }
    let figures = bench.path.figures();
    assert!(figures.overlay_bytes > 20 * BLOCK_SIZE_U64 && figures.overlay_bytes <= 32 * BLOCK_SIZE_U64, "{figures:?}");
    assert!(bench.path.destage().expect("destages"));
    assert_eq!(bench.path.figures().overlay_bytes, 0);
    bench.path.reclaim(bench.path.figures().image);
    bench.path.prepare().expect("prepares");
    bench.accept(&write(0, 2, 9));
}

#[test]
fn a_journal_at_its_limit_makes_writers_wait_until_it_is_reclaimed() {
    let bench = Bench::new();
    let mut written = 0_u64;
    while !bench.waits(&write(written % BLOCKS, 2, 9)) {
        written += 2;
        while bench.path.commit().expect("commits") {}
        bench.path.destage().expect("destages");
        bench.path.prepare().expect("a limit is no error");
        assert!(written < 200, "it never waits");
    }
    let figures = bench.path.figures();
    assert!(figures.journal_bytes <= limits().journal.limit_bytes, "{figures:?}");
    assert!(figures.journal_full.is_some_and(|why| why.contains("limit")));
    bench.path.reclaim(Lsn::ZERO);
    assert!(bench.waits(&write(0, 2, 9)), "the vault has nothing yet");
    bench.path.reclaim(figures.durable);
    bench.accept(&write(0, 2, 9));
}

#[test]
fn trims_and_points_take_no_more_of_the_queue_than_their_batch() {
    let bench = Bench::new();
    for round in 0..300 {
        for lba in 0..5 {
            bench.accept(&trim(lba, 3));
        }
        bench.accept(&point());
        while bench.path.commit().expect("commits") {}
        bench.path.destage().expect("destages");
        bench.path.reclaim(bench.path.figures().image);
        bench.path.prepare().expect("prepares");
        assert_eq!(bench.path.core.lock().queued_bytes, 0, "round {round}");
    }
}

#[test]
fn a_full_disk_is_told_before_a_record_has_its_place() {
    let bench = Bench::new();
    let mut lsn = Lsn::ZERO;
    let error = loop {
        match bench.path.submit(&write(lsn.0 % BLOCKS, 1, 5)) {
            Ok(Submitted::Accepted(next, _)) => lsn = next,
            Ok(Submitted::Wait) => {
                Switch::set(&bench.switch().full);
                let error = bench.path.prepare().expect_err("the disk is full");
                assert_eq!(error.kind(), ErrorKind::NoSpace);
                Switch::clear(&bench.switch().full);
            }
            Err(error) => break error,
        }
        while bench.path.commit().expect("what was accepted finds its place") {}
        bench.path.sync().expect("syncs");
        bench.path.destage().expect("destages");
        assert!(lsn.0 < 100, "the disk never fills");
    };
    assert_eq!(error.kind(), ErrorKind::NoSpace);
    assert_eq!(bench.path.figures().last, lsn, "the refused write has no LSN");
    assert_eq!(bench.path.durable(), lsn);
    assert_eq!(bench.path.figures().mode, Mode::Writable);
    // Files that nobody gave back are no space, and health says so all the time.
    bench.path.reclaim(Lsn::ZERO);
    let full = bench.path.figures().journal_full.expect("no room for the journal");
    assert!(full.contains("no room for the journal") && full.contains("free some space"), "{full}");
    assert_eq!(bench.path.submit(&write(0, 1, 6)).expect_err("still full").kind(), ErrorKind::NoSpace);
    // A point fits in behind the writes, so that everything that was acknowledged can be recovered from the vault.
    let Ok(Submitted::Accepted(marked, _)) = bench.path.submit_control(&point()) else {
        panic!("the point has no place")
    };
    assert_eq!(marked, lsn.next());
    // So does what a restart says of its volumes: it is no reason to stay away.
    let told = bench.path.submit_control(&Op::Resize { volume: volume(), blocks: BLOCKS });
    assert!(matches!(told, Ok(Submitted::Accepted(_, _))), "{told:?}");
    let marked = marked.next();
    while bench.path.commit().expect("finds its place") {}
    bench.path.prepare().expect("there is space again");
    assert_eq!(bench.path.figures().journal_full, None);
    assert_eq!(bench.accept(&write(0, 1, 6)).0, marked.next());
}

#[test]
fn a_full_image_disk_loses_nothing_and_is_tried_again() {
    // A journal that has room for more than memory has.
    let journal = JournalSizes { limit_bytes: 400 * BLOCK_SIZE_U64, ..limits().journal };
    let bench = Bench::with(Limits { journal, ..limits() });
    bench.accept(&write(3, 2, 8));
    while bench.path.commit().expect("commits") {}
    bench.path.sync().expect("syncs");
    Switch::set(&bench.switch().full);
    assert_eq!(bench.path.destage().expect_err("is full").kind(), ErrorKind::NoSpace);
    assert_eq!(bench.read(3, 2), [8, 8]);
    assert_eq!(bench.path.figures().image, Lsn::ZERO);
    let full = bench.path.figures().images_full.expect("no room for the images");
    assert!(full.contains("no room for the volumes") && full.contains("free some space"), "{full}");
    // Memory takes some more, with room for the journal, and then writes are told: they don't hang.
    Switch::clear(&bench.switch().full);
    let mut last = Lsn(1);
    let error = loop {
        match bench.path.submit(&write(last.0 % BLOCKS, 1, 9)) {
            Ok(Submitted::Accepted(lsn, _)) => last = lsn,
            Ok(Submitted::Wait) => panic!("waits with {:?}", bench.path.figures()),
            Err(error) => break error,
        }
        while bench.path.commit().expect("commits") {}
        bench.path.sync().expect("syncs");
        bench.path.prepare().expect("the journal has room");
        assert!(last.0 < 100, "memory never fills");
    };
    assert_eq!((error.kind(), error.to_string()), (ErrorKind::NoSpace, full));
    Switch::set(&bench.switch().full);
    assert!(bench.path.upkeep().no_space);
    Switch::clear(&bench.switch().full);
    // What had been given up with first, then the rest.
    while bench.path.destage().expect("destages") {}
    assert_eq!((bench.path.figures().image, bench.image_byte(4)), (last, 9));
    assert_eq!(bench.path.figures().images_full, None);
    assert!(!bench.path.upkeep().no_space);
    bench.accept(&write(0, 1, 6));
}

#[test]
fn a_read_only_group_reads_flushes_and_takes_only_its_own_records() {
    let bench = Bench::new();
    bench.accept(&write(0, 1, 1));
    bench.path.set_read_only(Some("another gateway has taken over".into()));
    let error = bench.path.submit(&write(0, 1, 2)).expect_err("is refused");
    assert_eq!((error.kind(), error.to_string().as_str()), (ErrorKind::Fenced, "another gateway has taken over"));
    assert!(matches!(bench.path.submit_control(&point()), Ok(Submitted::Accepted(Lsn(2), _))));
    bench.path.make_durable(Lsn(2)).expect("what was accepted goes on");
    assert_eq!(bench.read(0, 1), [1]);
    bench.path.set_read_only(None);
    assert_eq!(bench.accept(&write(0, 1, 3)).0, Lsn(3));
}

#[test]
fn what_is_no_record_of_the_volume_is_refused() {
    let bench = Bench::new();
    let kind = |op: &Op| bench.path.submit(op).expect_err("is refused").kind();
    assert_eq!(kind(&write(BLOCKS - 1, 2, 1)), ErrorKind::Invalid);
    assert_eq!(kind(&write(u64::MAX, 1, 1)), ErrorKind::Invalid);
    assert_eq!(kind(&trim(BLOCKS, 1)), ErrorKind::Invalid);
    assert_eq!(kind(&write(0, 5, 1)), ErrorKind::Invalid, "longer than a record may be");
    assert_eq!(kind(&Op::Write { volume: volume(), lba: 0, data: Bytes::from_static(&[1; 100]) }), ErrorKind::Invalid);
    assert_eq!(
        kind(&Op::Write { volume: VolumeId::from_bytes([9; 16]), lba: 0, data: Bytes::from(vec![0; 4096]) }),
        ErrorKind::NotFound
    );
    assert_eq!(bench.path.figures().last, Lsn::ZERO);
}

/// After the failure nothing is acknowledged, everything is readable, and trying again is no way out.
fn is_poisoned(bench: &Bench, mut open: Vec<Ack>) {
    for ack in &mut open {
        assert_eq!(answer(ack).expect("everybody is told").expect_err("it failed").kind(), ErrorKind::Damaged);
    }
    assert!(matches!(bench.path.figures().mode, Mode::Poisoned(_)));
    for flag in [
        &bench.switch().fail_journal_sync,
        &bench.switch().fail_journal_write,
        &bench.switch().fail_image_write,
        &bench.switch().fail_image_sync,
    ] {
        Switch::clear(flag);
    }
    let durable = bench.path.durable();
    assert_eq!(bench.path.submit(&write(0, 1, 9)).expect_err("poisoned").kind(), ErrorKind::Damaged);
    assert_eq!(bench.path.commit().expect_err("poisoned").kind(), ErrorKind::Damaged);
    assert_eq!(bench.path.sync().expect_err("poisoned").kind(), ErrorKind::Damaged);
    assert_eq!(bench.path.flush().expect_err("poisoned").kind(), ErrorKind::Damaged);
    assert_eq!(bench.path.destage().expect_err("poisoned").kind(), ErrorKind::Damaged);
    bench.path.set_read_only(None);
    assert!(matches!(bench.path.figures().mode, Mode::Poisoned(_)));
    assert_eq!(bench.path.durable(), durable);
}

#[test]
fn a_failed_sync_poisons_the_group() {
    let bench = Bench::new();
    let (_, mut written) = bench.accept(&write(0, 1, 1));
    bench.path.commit().expect("commits");
    assert!(is_done(&mut written));
    let flush = bench.path.flush().expect("asks").expect("waits");
    let (_, queued) = bench.accept(&write(1, 1, 2));
    Switch::set(&bench.switch().fail_journal_sync);
    assert_eq!(bench.path.sync().expect_err("fails").kind(), ErrorKind::Damaged);
    is_poisoned(&bench, vec![flush, queued]);
    assert_eq!(bench.read(0, 2), [1, 2], "reads go on");
    assert_eq!(bench.path.durable(), Lsn::ZERO);
}

#[test]
fn a_sync_that_waited_for_a_failed_one_fails_too() {
    for _ in 0..50 {
        let bench = Bench::new();
        bench.accept(&write(0, 1, 1));
        bench.path.commit().expect("commits");
        let mut flush = bench.path.flush().expect("asks").expect("waits");
        let (arrived, wait) = sync_channel(1);
        let (go, gate) = sync_channel(1);
        *bench.switch().gate.lock() = Some((arrived, gate));
        Switch::set(&bench.switch().fail_journal_sync);
        let syncs: Vec<_> = (0..3)
            .map(|_| {
                let path = Arc::clone(&bench.path);
                std::thread::spawn(move || path.sync().map_err(|error| error.kind()))
            })
            .collect();
        wait.recv().expect("one sync is under way");
        go.send(()).expect("it waits");
        for sync in syncs {
            assert_eq!(sync.join().expect("ends"), Err(ErrorKind::Damaged));
        }
        assert!(answer(&mut flush).expect("is answered").is_err());
        assert_eq!(bench.path.durable(), Lsn::ZERO);
    }
}

#[test]
fn a_failed_journal_write_poisons_the_group() {
    let bench = Bench::new();
    let (_, first) = bench.accept(&write(0, 1, 1));
    let flush = bench.path.flush().expect("asks").expect("waits");
    Switch::set(&bench.switch().fail_journal_write);
    assert!(bench.path.commit().is_err());
    is_poisoned(&bench, vec![first, flush]);
    assert_eq!(bench.read(0, 1), [1]);
}

#[test]
fn a_failed_image_poisons_the_group_and_its_sync_is_not_tried_again() {
    for by_sync in [false, true] {
        let bench = Bench::new();
        bench.accept(&write(0, 1, 1));
        Switch::set(if by_sync { &bench.switch().fail_image_sync } else { &bench.switch().fail_image_write });
        assert_eq!(bench.path.destage().expect_err("fails").kind(), ErrorKind::Damaged);
        assert_eq!(bench.path.durable(), Lsn(1), "the journal has it");
        is_poisoned(&bench, Vec::new());
        assert_eq!(bench.path.figures().image, Lsn::ZERO);
        assert_eq!(bench.read(0, 1), [1]);
        if by_sync {
            assert!(bench.path.image(volume()).expect("is open").sync().is_err(), "a later sync proves nothing");
        }
    }
}

#[test]
fn only_durable_records_are_destaged_and_the_overlay_serves_reads_meanwhile() {
    let bench = Bench::new();
    bench.accept(&write(0, 3, 1));
    bench.path.make_durable(Lsn(1)).expect("is durable");
    bench.path.destage().expect("destages");
    bench.accept(&write(1, 1, 2));
    bench.accept(&trim(2, 1));
    assert_eq!(bench.read(0, 4), [1, 2, 0, 0]);

    // The destage stops at the journal's sync: what it froze is not in the image, and is read from memory.
    let (arrived, wait) = sync_channel(1);
    let (go, gate) = sync_channel(1);
    *bench.switch().gate.lock() = Some((arrived, gate));
    let path = Arc::clone(&bench.path);
    let destaging = std::thread::spawn(move || path.destage());
    wait.recv().expect("the sync is under way");
    assert_eq!(bench.read(0, 4), [1, 2, 0, 0]);
    assert_eq!([bench.image_byte(1), bench.image_byte(2)], [1, 1], "nothing that is not durable is in the image");
    bench.accept(&write(0, 2, 3));
    assert_eq!(bench.read(0, 4), [3, 3, 0, 0], "a newer write covers the frozen one");
    go.send(()).expect("the sync waits");
    assert!(destaging.join().expect("ends").expect("destages"));
    assert_eq!(bench.path.figures().image, Lsn(3));
    assert_eq!([bench.image_byte(0), bench.image_byte(1), bench.image_byte(2)], [1, 2, 0]);
    assert_eq!(bench.read(0, 4), [3, 3, 0, 0]);
    assert!(bench.path.destage().expect("destages"));
    assert!(!bench.path.destage().expect("is no error"), "nothing is left");
    assert_eq!([bench.image_byte(0), bench.image_byte(1)], [3, 3]);
}

#[test]
fn points_alone_move_the_watermark() {
    let bench = Bench::new();
    bench.accept(&point());
    bench.path.make_durable(Lsn(1)).expect("is durable");
    assert!(!bench.path.destage().expect("is no error"));
    assert_eq!(bench.path.figures().image, Lsn(1));
}

#[test]
fn a_journal_that_ends_before_its_images_is_refused() {
    let bench = Bench::new();
    bench.accept(&write(0, 1, 1));
    bench.path.make_durable(Lsn(1)).expect("is durable");
    let disk: Arc<dyn Disk> = Arc::<TestDisk>::clone(&bench.disk);
    let open = |image| {
        let images = vec![(volume(), Arc::new(Image::open(&disk, volume(), BLOCKS).expect("opens")))];
        WritePath::open(&disk, group(), Epoch(1), limits(), images, image, Lsn::ZERO)
    };
    assert_eq!(open(Lsn(2)).expect_err("record 2 is in the image").kind(), ErrorKind::Damaged);
    assert_eq!(open(Lsn(1)).expect("opens").figures().last, Lsn(1));
}

/// Writes a block, takes it to the journal, and flushes, so often.
fn write_and_flush(bench: &Bench, times: u8) {
    for at in 0..times {
        let (_, mut ack) = bench.accept(&write(u64::from(at) % BLOCKS, 1, at + 1));
        while bench.path.commit().expect("commits") {}
        if !is_done(&mut ack) {
            bench.path.sync().expect("syncs");
            assert!(is_done(&mut ack), "a sync answers what waited for it");
        }
        if let Some(mut flush) = bench.path.flush_acknowledged().expect("asks") {
            bench.path.sync().expect("syncs");
            assert!(is_done(&mut flush));
        }
        if at % 4 == 3 {
            bench.path.destage().expect("destages");
            bench.path.reclaim(bench.path.figures().image);
        }
        bench.path.prepare().expect("prepares");
    }
}

#[test]
fn where_every_write_is_flushed_writes_are_answered_durable_and_flushes_find_nothing_to_do() {
    let bench = Bench::new();
    write_and_flush(&bench, 60);
    let mut acks: Vec<Ack> = (0..3).map(|at| bench.accept(&write(at, 1, 200)).1).collect();
    while bench.path.commit().expect("commits") {}
    assert!(acks.iter_mut().all(|ack| answer(ack).is_none()), "they wait for the sync");
    assert!(bench.path.due().sync);
    assert!(bench.path.flush_acknowledged().expect("asks").is_none(), "what was acknowledged is durable");
    let last = bench.path.sync().expect("syncs");
    assert_eq!(last, bench.path.figures().last);
    assert!(acks.iter_mut().all(is_done));
    assert!(bench.path.flush_acknowledged().expect("asks").is_none());
    // A sync that fails is told to those who wait for it.
    let (_, mut ack) = bench.accept(&write(0, 1, 201));
    while bench.path.commit().expect("commits") {}
    assert!(answer(&mut ack).is_none());
    Switch::set(&bench.switch().fail_journal_sync);
    bench.path.sync().expect_err("fails");
    assert_eq!(answer(&mut ack).expect("is told").expect_err("failed").kind(), ErrorKind::Damaged);
}

#[test]
fn a_batch_that_reaches_the_journal_while_a_sync_fails_is_answered() {
    let bench = Bench::new();
    write_and_flush(&bench, 60);
    let gate = |gate: &Lock<_>| {
        let ((arrived, wait), (go, word)) = (sync_channel(1), sync_channel(1));
        *gate.lock() = Some((arrived, word));
        (wait, go)
    };
    let (_, mut first) = bench.accept(&write(0, 1, 200));
    while bench.path.commit().expect("commits") {}
    let (syncs, fail) = gate(&bench.switch().gate);
    Switch::set(&bench.switch().fail_journal_sync);
    let path = Arc::clone(&bench.path);
    let syncing = std::thread::spawn(move || path.sync());
    syncs.recv().expect("the sync is under way");
    let (_, mut second) = bench.accept(&write(1, 1, 201));
    let (writes, write_on) = gate(&bench.switch().write_gate);
    let path = Arc::clone(&bench.path);
    let committing = std::thread::spawn(move || path.commit());
    writes.recv().expect("the batch is on its way");
    fail.send(()).expect("the sync waits");
    syncing.join().expect("ends").expect_err("the disk failed");
    assert!(answer(&mut first).expect("is told").is_err());
    write_on.send(()).expect("the write waits");
    committing.join().expect("ends").expect("it is in the kernel");
    assert!(answer(&mut second).is_some(), "nobody is left waiting for a sync that never comes");
}

#[test]
fn a_flush_of_what_was_acknowledged_leaves_younger_writes_alone() {
    let bench = Bench::new();
    let (_, mut first) = bench.accept(&write(0, 1, 1));
    bench.path.commit().expect("commits");
    assert!(is_done(&mut first));
    let mut flush = bench.path.flush_acknowledged().expect("asks").expect("waits");
    // Not in the journal yet, and not acknowledged.
    let (_, _second) = bench.accept(&write(1, 1, 2));
    assert_eq!(bench.path.sync().expect("syncs"), Lsn(1));
    assert!(is_done(&mut flush));
    assert!(bench.path.flush_acknowledged().expect("asks").is_none());
}

#[test]
fn what_images_were_given_counts_once_they_are_synced() {
    let bench = Bench::new();
    bench.accept(&write(0, 2, 5));
    while bench.path.commit().expect("commits") {}
    assert!(bench.path.spill().expect("gives"));
    assert_eq!(bench.image_byte(1), 5);
    let figures = bench.path.figures();
    assert_eq!((figures.image, figures.overlay_bytes), (Lsn::ZERO, 0), "memory is free, and the records are needed");
    // A point alone doesn't make it count.
    bench.path.submit_control(&point()).expect("accepts");
    while bench.path.commit().expect("commits") {}
    bench.path.sync().expect("syncs");
    assert!(!bench.path.spill().expect("finds nothing"));
    assert_eq!(bench.path.figures().image, Lsn::ZERO);
    assert!(bench.path.settle().expect("syncs"));
    assert_eq!(bench.path.figures().image, Lsn(2));
    assert!(!bench.path.settle().expect("finds nothing"));
    // A sync that fails poisons, and nothing counts.
    bench.accept(&write(0, 1, 6));
    while bench.path.commit().expect("commits") {}
    bench.path.spill().expect("gives");
    Switch::set(&bench.switch().fail_image_sync);
    bench.path.settle().expect_err("fails");
    assert_eq!(bench.path.figures().image, Lsn(2));
    assert!(matches!(bench.path.figures().mode, Mode::Poisoned(_)));
}

#[test]
fn images_are_synced_when_it_is_time() {
    let bench = Bench::new();
    let give = |lba: u64, blocks: usize| {
        bench.accept(&write(lba, blocks, 9));
        while bench.path.commit().expect("commits") {}
    };
    give(0, 1);
    let first = bench.path.upkeep();
    assert!(first.destaged && !bench.path.due().settle, "more may come");
    assert!(!bench.path.upkeep().destaged);
    assert!(bench.path.due().settle, "nothing came");
    bench.path.settle().expect("syncs");
    assert!(!bench.path.due().settle);
    for lba in 0..4 {
        give(lba * 4, 4);
        bench.path.upkeep();
        assert_eq!(bench.path.due().settle, lba == 3, "so many bytes are enough");
    }
}

#[test]
fn a_restart_takes_more_than_memory_is_meant_for_in_steps() {
    let limits = Limits {
        overlay_bytes: 8 * BLOCK_SIZE_U64,
        unsettled_bytes: 1 << 30,
        journal: JournalSizes { file_bytes: 40 * BLOCK_SIZE_U64, limit_bytes: 400 * BLOCK_SIZE_U64 },
        ..limits()
    };
    let bench = Bench::with(limits);
    let mut last = Lsn::ZERO;
    for at in 0..40_u8 {
        last = bench.accept(&write(u64::from(at % 20) * 2, 2, at + 1)).0;
        while bench.path.commit().expect("commits") {}
        bench.path.spill().expect("gives");
        bench.path.prepare().expect("prepares");
    }
    bench.path.make_durable(last).expect("syncs");
    assert_eq!(bench.path.figures().image, Lsn::ZERO, "nothing was synced");
    let disk: Arc<dyn Disk> = Arc::<TestDisk>::clone(&bench.disk);
    let image = Arc::new(Image::create(&disk, volume(), BLOCKS, false).expect("creates: as if nothing had reached it"));
    let images = vec![(volume(), Arc::clone(&image))];
    let path = WritePath::open(&disk, group(), Epoch(1), limits, images, Lsn::ZERO, Lsn::ZERO).expect("opens");
    assert!(path.figures().overlay_bytes <= limits.overlay_bytes, "{:?}", path.figures());
    let bench = Bench { path: Arc::new(path), ..bench };
    for at in 20..40_u8 {
        assert_eq!(bench.read(u64::from(at % 20) * 2, 2), [at + 1; 2]);
    }
    assert_eq!(bench.path.figures().image, Lsn::ZERO);
    bench.path.destage().expect("destages");
    assert_eq!(bench.path.figures().image, last);
}
