//! The journal against real files: chains, recycling, torn tails, lost records.

use lifeboat_model::{Epoch, VolumeId};

use super::*;
use crate::disk::LocalDisk;

const SIZES: JournalSizes = JournalSizes { file_bytes: 256 << 10, limit_bytes: 4 << 20 };

struct Bench {
    dir: tempfile::TempDir,
    group: GroupId,
    volume: VolumeId,
}

impl Bench {
    fn new() -> Self {
        Self {
            dir: tempfile::tempdir().expect("a directory"),
            group: GroupId::from_bytes([1; 16]),
            volume: VolumeId::from_bytes([2; 16]),
        }
    }

    fn disk(&self) -> Arc<dyn Disk> {
        LocalDisk::open(self.dir.path()).expect("opens")
    }

    fn create(&self) -> Journal {
        Journal::create(&self.disk(), self.group, SIZES, Lsn(1)).expect("creates")
    }

    fn open(&self, after: u64) -> Result<(Journal, Vec<LogRecord>)> {
        let mut found = Vec::new();
        let journal = Journal::open(&self.disk(), self.group, SIZES, Lsn(after), &mut |record, _| {
            found.push(record);
            Ok(())
        })?;
        Ok((journal, found))
    }

    /// Appends one batch of `count` one-block writes; each block holds its LSN.
    fn append(&self, journal: &mut Journal, count: u64, durable: Lsn) {
        let mut batch = OpenBatch::new();
        for index in 0..count {
            let lsn = journal.next_lsn().plus(index);
            batch.push(self.volume, EntryOp::Write, lsn.0, 1, &block(lsn)).expect("fits");
        }
        journal.append(&mut batch, Epoch(1), durable, Timestamp::from_micros(1)).expect("appends");
    }
}

fn block(lsn: Lsn) -> Vec<u8> {
    lsn.0.to_le_bytes().repeat(512)
}

fn check(records: &[LogRecord], first: u64, last: u64) {
    assert_eq!(records.iter().map(|record| record.lsn.0).collect::<Vec<_>>(), (first..=last).collect::<Vec<_>>());
    for record in records {
        assert!(
            matches!(&record.op, Op::Write { lba, data, .. } if *lba == record.lsn.0 && data[..] == block(record.lsn)[..])
        );
    }
}

/// Changes bytes of the journal file that holds them.
fn damage(bench: &Bench, find: &[u8]) {
    for entry in std::fs::read_dir(bench.dir.path()).expect("lists") {
        let path = entry.expect("an entry").path();
        let mut bytes = std::fs::read(&path).expect("reads");
        if let Some(at) = bytes.windows(find.len()).position(|window| window == find) {
            bytes[at] ^= 0xff;
            std::fs::write(&path, bytes).expect("writes");
            return;
        }
    }
    panic!("nothing to damage");
}

#[test]
fn records_come_back_in_order_over_many_files() {
    let bench = Bench::new();
    let mut journal = bench.create();
    for _ in 0..40 {
        bench.append(&mut journal, 7, Lsn::ZERO);
    }
    assert!(journal.used_bytes() > SIZES.file_bytes * 3);
    drop(journal);
    let (journal, found) = bench.open(0).expect("opens");
    check(&found, 1, 280);
    assert_eq!(journal.next_lsn(), Lsn(281));
    let (_, found) = bench.open(100).expect("opens");
    check(&found, 101, 280);
}

#[test]
fn reclaimed_files_are_used_again_and_their_old_records_stay_away() {
    let bench = Bench::new();
    let mut journal = bench.create();
    let mut last = 0;
    for round in 0..60 {
        bench.append(&mut journal, 9, Lsn(last));
        last += 9;
        if round % 5 == 4 {
            journal.reclaim(Lsn(last - 20));
        }
    }
    let files = std::fs::read_dir(bench.dir.path()).expect("lists").count();
    assert!(files <= 5, "{files} files");
    drop(journal);
    let (mut journal, found) = bench.open(last - 20).expect("opens");
    check(&found, last - 19, last);
    bench.append(&mut journal, 3, Lsn(last));
    drop(journal);
    let (_, found) = bench.open(last - 20).expect("opens");
    check(&found, last - 19, last + 3);
}

#[test]
fn a_torn_tail_is_cut_and_what_follows_it_never_returns() {
    let bench = Bench::new();
    let mut journal = bench.create();
    bench.append(&mut journal, 4, Lsn::ZERO);
    bench.append(&mut journal, 4, Lsn::ZERO);
    bench.append(&mut journal, 4, Lsn(4));
    drop(journal);
    damage(&bench, &block(Lsn(6)));
    let (mut journal, found) = bench.open(0).expect("a torn tail is no damage");
    check(&found, 1, 4);
    // The batch with records 9 to 12 of the earlier run still lies behind the cut.
    bench.append(&mut journal, 4, Lsn(4));
    drop(journal);
    let (_, found) = bench.open(0).expect("opens");
    check(&found, 1, 8);
}

#[test]
fn the_same_records_written_again_don_t_bring_a_lost_tail_back() {
    // The clock says the same in both runs, so that the batch written again is the lost one to the last byte.
    for opens in [1, 3] {
        let bench = Bench::new();
        let mut journal = bench.create();
        bench.append(&mut journal, 9, Lsn::ZERO);
        drop(journal);
        let (mut journal, _) = bench.open(0).expect("opens");
        bench.append(&mut journal, 1, Lsn(9));
        bench.append(&mut journal, 1, Lsn(9));
        drop(journal);
        damage(&bench, &block(Lsn(10)));
        // Runs that write nothing must not forget what they have seen.
        for _ in 1..opens {
            drop(bench.open(0).expect("opens"));
        }
        let (mut journal, found) = bench.open(0).expect("opens");
        check(&found, 1, 9);
        bench.append(&mut journal, 1, Lsn(9));
        drop(journal);
        let (_, found) = bench.open(0).expect("opens");
        check(&found, 1, 10);
    }
}

#[test]
fn a_lost_record_that_was_durable_is_refused_and_nothing_is_changed() {
    let bench = Bench::new();
    let mut journal = bench.create();
    bench.append(&mut journal, 4, Lsn::ZERO);
    bench.append(&mut journal, 4, Lsn(4));
    bench.append(&mut journal, 4, Lsn(8));
    drop(journal);
    damage(&bench, &block(Lsn(6)));
    for _ in 0..2 {
        let error = bench.open(0).expect_err("record 6 was durable");
        assert_eq!(error.kind(), ErrorKind::Damaged);
        assert!(error.to_string().contains("lost record 5"), "{error}");
    }
}

#[test]
fn needed_records_that_are_not_there_are_refused() {
    let bench = Bench::new();
    let mut journal = bench.create();
    bench.append(&mut journal, 4, Lsn::ZERO);
    drop(journal);
    let error = bench.open(9).expect_err("the journal ends at 4");
    assert_eq!(error.kind(), ErrorKind::Damaged);
    std::fs::remove_dir_all(bench.dir.path()).expect("removes");
    std::fs::create_dir(bench.dir.path()).expect("creates");
    assert_eq!(bench.open(3).expect_err("no journal").kind(), ErrorKind::Damaged);
}

#[test]
fn a_reader_stops_at_points_and_goes_on_behind_them() {
    let bench = Bench::new();
    let mut journal = bench.create();
    bench.append(&mut journal, 5, Lsn::ZERO);
    let mut batch = OpenBatch::new();
    let mark = PointMark {
        id: PointId::from_bytes([3; 16]),
        time: Timestamp::from_micros(8),
        kind: PointKind::Manual,
        label: "before".into(),
        consistent: true,
    };
    let payload = lifeboat_format::journal::encode_point(mark.id.to_bytes(), mark.time, mark.kind.code(), &mark.label);
    batch.push(VolumeId::from_bytes([0; 16]), EntryOp::Point, 0, 0, &payload).expect("fits");
    journal.append(&mut batch, Epoch(1), Lsn(5), Timestamp::from_micros(1)).expect("appends");
    for _ in 0..30 {
        bench.append(&mut journal, 5, Lsn(6));
    }
    let mut hint = None;
    let first = journal.reader(Lsn::ZERO).read(Lsn::ZERO, Lsn(156), 1 << 30, &mut hint).expect("reads");
    assert_eq!(first.len(), 6);
    assert_eq!(first[5].op, Op::Point(mark));
    let mut at = Lsn(6);
    while at < Lsn(156) {
        let next = journal.reader(at).read(at, Lsn(156), 64 << 10, &mut hint).expect("reads");
        check(&next, at.0 + 1, next.last().expect("records").lsn.0);
        at = next.last().expect("records").lsn;
    }
    assert_eq!(at, Lsn(156));
}

#[test]
fn another_groups_journal_is_refused() {
    let bench = Bench::new();
    drop(bench.create());
    let other = Bench { group: GroupId::from_bytes([9; 16]), ..bench };
    assert!(other.open(0).expect_err("not ours").to_string().contains("belongs to"));
}
