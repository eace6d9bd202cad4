//! A cache after crashes: what counts, what is cut, what is given up.

use std::sync::Arc;

use lifeboat_format::journal::EntryOp;
use lifeboat_format::stream::{Record, Records, Tenure};
use lifeboat_model::{BranchId, Epoch, GatewayId, GroupId, Lsn, VolumeId};

use super::*;
use crate::disk::LocalDisk;

fn tenure(epoch: u64) -> Tenure {
    Tenure {
        group: GroupId::from_bytes([1; 16]),
        branch: BranchId::from_bytes([2; 16]),
        agent: GatewayId::from_bytes([3; 16]),
        epoch: Epoch(epoch),
        end: Lsn(10),
    }
}

fn frame(after: u64, last: u64) -> Vec<u8> {
    let block = vec![7; 4096];
    let volume = VolumeId::from_bytes([4; 16]);
    let record = Record { lsn: Lsn(last), op: EntryOp::Write, volume, lba: 1, blocks: 1, payload: &block };
    let records = Records { after: Lsn(after), last: Lsn(last), records: vec![record], ..Records::default() };
    records.encode().unwrap()
}

/// A cache with three frames, and its files.
fn cache() -> (tempfile::TempDir, Cache) {
    let dir = tempfile::tempdir().unwrap();
    let cache = Cache::new(LocalDisk::open(dir.path()).unwrap());
    cache.begin(&tenure(4)).unwrap();
    for after in [10, 20, 30] {
        cache.put(Lsn(after), &frame(after, after + 10)).unwrap();
    }
    (dir, cache)
}

fn places(cache: &Cache) -> Vec<(u64, u64)> {
    let (_, entries) = cache.restore().unwrap().unwrap();
    entries.iter().map(|entry| (entry.after.0, entry.last.0)).collect()
}

#[test]
fn what_was_cached_is_there_again_in_order_until_it_is_removed() {
    let (_dir, cache) = cache();
    assert_eq!(cache.restore().unwrap().unwrap().0, tenure(4));
    assert_eq!(places(&cache), [(10, 20), (20, 30), (30, 40)]);
    cache.remove(Lsn(10)).unwrap();
    cache.renew(&tenure(5)).unwrap();
    assert_eq!(cache.restore().unwrap().unwrap().0, tenure(5), "under another epoch");
    assert_eq!(places(&cache), [(20, 30), (30, 40)]);
    assert_eq!(cache.get(Lsn(20)).unwrap(), frame(20, 30)[FRAME_HEAD_LEN..]);
    cache.begin(&tenure(6)).unwrap();
    assert_eq!(places(&cache), [], "another tenure begins without records");
}

/// The last file, cut anywhere: whoever wrote it told nobody.
#[test]
fn a_torn_last_file_is_cut_off_and_its_name_is_free() {
    let whole = frame(30, 40);
    for len in (0..64).chain((64..whole.len()).step_by(397)) {
        let (dir, cache) = cache();
        let file = std::fs::File::options().write(true).open(dir.path().join(records_name(Lsn(30)))).unwrap();
        file.set_len(u64::try_from(len).unwrap()).unwrap();
        assert_eq!(places(&cache), [(10, 20), (20, 30)], "cut to {len} bytes");
        assert!(!dir.path().join(records_name(Lsn(30))).exists());
        cache.put(Lsn(30), &whole).unwrap();
        assert_eq!(places(&cache), [(10, 20), (20, 30), (30, 40)]);
    }
}

#[test]
fn damage_before_sound_files_is_named_and_nothing_behind_it_counts() {
    let (dir, cache) = cache();
    let path = dir.path().join(records_name(Lsn(20)));
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[1000] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let error = cache.get(Lsn(20)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Damaged);
    assert!(error.to_string().contains("records-0000000000000014"), "{error}");
    assert_eq!(places(&cache), [(10, 20)]);
    assert_eq!(places(&cache), [(10, 20)], "and what was given up doesn't come back");

    let (dir, cache) = self::cache();
    std::fs::remove_file(dir.path().join(records_name(Lsn(20)))).unwrap();
    assert_eq!(places(&cache), [(10, 20)], "a gap");
    let (dir, cache) = self::cache();
    std::fs::copy(dir.path().join(records_name(Lsn(10))), dir.path().join(records_name(Lsn(20)))).unwrap();
    assert_eq!(places(&cache), [(10, 20)], "another file's content");
}

/// A crash between a new tenure and the end of the old one's file.
#[test]
fn the_newest_sound_tenure_counts_and_without_one_there_is_nothing() {
    let (dir, cache) = cache();
    let old = std::fs::read(dir.path().join("tenure-0000000000000004")).unwrap();
    cache.renew(&tenure(5)).unwrap();
    std::fs::write(dir.path().join("tenure-0000000000000004"), &old).unwrap();
    assert_eq!(cache.restore().unwrap().unwrap().0, tenure(5));
    std::fs::write(dir.path().join("tenure-0000000000000006"), b"LBST").unwrap();
    assert_eq!(cache.restore().unwrap().unwrap().0, tenure(5), "a torn one is none");
    for name in ["tenure-0000000000000004", "tenure-0000000000000005"] {
        std::fs::remove_file(dir.path().join(name)).unwrap();
    }
    assert_eq!(cache.restore().unwrap(), None);
    let empty = tempfile::tempdir().unwrap();
    let disk: Arc<dyn Disk> = LocalDisk::open(empty.path()).unwrap();
    assert_eq!(Cache::new(disk).restore().unwrap(), None);
}
