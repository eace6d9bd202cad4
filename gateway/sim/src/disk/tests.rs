//! What the simulated disk keeps and forgets.

use lifeboat_engine::disk::AlignedBuf;

use super::*;

fn read(disk: &SimDisk, name: &str, len: usize) -> Vec<u8> {
    disk.peek(name, 0, len).expect("the file is there")
}

#[test]
fn synced_data_survives_and_unsynced_sectors_survive_one_by_one() {
    let disk = SimDisk::new(1);
    let file = disk.open("a", true, Io::Buffered).expect("creates");
    file.write_at(&[1; 8192], 0).expect("writes");
    file.sync().expect("syncs");
    disk.sync_names().expect("syncs");
    file.write_at(&[2; 8192], 0).expect("writes");
    let (mut old, mut new, mut torn, mut inside) = (0, 0, 0, 0);
    for seed in 0..400 {
        let bytes = read(&disk.crash(seed, CrashKind::Power), "a", 8192);
        for sector in bytes.chunks(512) {
            assert!(sector == [1; 512] || sector == [2; 512], "a sector is whole");
        }
        match (bytes.contains(&1), bytes.contains(&2)) {
            (true, false) => old += 1,
            (false, true) => new += 1,
            _ => {
                torn += 1;
                inside += usize::from(bytes[..4096].contains(&1) && bytes[..4096].contains(&2));
            }
        }
        assert_eq!(read(&disk.crash(seed, CrashKind::Kill), "a", 8192), [2; 8192]);
    }
    assert!(old > 20 && new > 20 && torn > 50 && inside > 50, "{old} {new} {torn} {inside}");
}

#[test]
fn a_kill_keeps_what_is_unsynced_unsynced() {
    let disk = SimDisk::new(1);
    disk.open("a", true, Io::Buffered).expect("creates").write_at(&[1; 512], 0).expect("writes");
    disk.sync_names().expect("syncs");
    let killed = disk.crash(1, CrashKind::Kill);
    let lost = (0..50).filter(|&seed| read(&killed.crash(seed, CrashKind::Power), "a", 512) == [0; 512]).count();
    assert!(lost > 5 && lost < 45, "{lost}");
}

#[test]
fn names_need_their_own_sync() {
    let disk = SimDisk::new(1);
    disk.open("a", true, Io::Buffered).expect("creates").sync().expect("syncs");
    let there = (0..50).filter(|&seed| disk.crash(seed, CrashKind::Power).peek("a", 0, 1).is_some()).count();
    assert!(there > 5 && there < 45, "{there}");
    disk.sync_names().expect("syncs");
    disk.remove("a").expect("removes");
    let there = (0..50).filter(|&seed| disk.crash(seed, CrashKind::Power).peek("a", 0, 1).is_some()).count();
    assert!(there > 5 && there < 45, "{there}");
}

#[test]
fn a_failed_sync_is_final() {
    let mut lost = 0;
    for seed in 0..50 {
        let disk = SimDisk::new(seed);
        let file = disk.open("a", true, Io::Buffered).expect("creates");
        disk.sync_names().expect("syncs");
        file.write_at(&[7; 4096], 0).expect("writes");
        disk.set_fault(Some(Fault { at: disk.calls() + 1, errno: Errno::Io, for_good: false, short: false }));
        assert_eq!(file.sync().expect_err("fails").raw_os_error(), Some(5));
        file.sync().expect("the second one says yes");
        assert_eq!(read(&disk, "a", 4096), [7; 4096], "the kernel goes on showing it");
        lost += usize::from(read(&disk.crash(seed, CrashKind::Power), "a", 4096) != [7; 4096]);
    }
    assert!(lost > 20, "{lost}");
}

#[test]
fn direct_files_want_aligned_buffers_and_shrinking_zeroes() {
    let disk = SimDisk::new(1);
    let file = disk.open("a", true, Io::Direct).expect("creates");
    let mut ones = AlignedBuf::with_capacity(8192);
    ones.extend(&[1; 8192]);
    file.write_at(ones.as_slice(), 0).expect("writes");
    assert!(file.write_at(&ones.as_slice()[1..], 0).is_err());
    file.set_len(5000).expect("shrinks");
    file.set_len(8192).expect("grows");
    assert_eq!(read(&disk, "a", 8192)[4999..5002], [1, 0, 0]);
    file.punch(0, 4096).expect("punches");
    assert_eq!(read(&disk, "a", 4097), [vec![0; 4096], vec![1]].concat());
}

#[test]
fn one_seed_gives_one_disk() {
    let make = || {
        let disk = SimDisk::new(3);
        let file = disk.open("a", true, Io::Buffered).expect("creates");
        disk.sync_names().expect("syncs");
        (0..20_u8).for_each(|byte| file.write_at(&[byte; 1024], u64::from(byte) * 700).expect("writes"));
        (0..30).map(|seed| read(&disk.crash(seed, CrashKind::Power), "a", 20_000)).collect::<Vec<_>>()
    };
    assert_eq!(make(), make());
}

#[test]
fn a_source_is_one_names_alone_and_outlives_it() {
    let disk = SimDisk::new(5);
    let source = std::path::Path::new("/elsewhere/disk");
    disk.add_source(source, &[7; 8192]);
    assert_eq!(disk.hold("a", std::path::Path::new("/nowhere")).expect_err("missing").kind(), ErrorKind::NotFound);
    let file = disk.hold("a", source).expect("is free");
    disk.adopt("a", source).expect("links");
    disk.sync_names().expect("syncs");
    assert_eq!(disk.hold("b", source).expect_err("is taken").kind(), ErrorKind::Retry);
    assert_eq!(disk.adopted("a").expect("says"), Some(source.to_owned()));
    file.write_at(&[8; 4096], 0).expect("writes");
    file.sync().expect("syncs");
    let after = disk.crash(1, CrashKind::Power);
    after.remove("a").expect("removes the link");
    let again = after.hold("b", source).expect("is free again");
    let mut bytes = [0; 8192];
    again.read_at(&mut bytes, 0).expect("reads");
    assert_eq!((bytes[0], bytes[4095], bytes[4096]), (8, 8, 7));
}

#[test]
fn what_rots_or_is_scribbled_is_there_for_good() {
    let disk = SimDisk::new(6);
    let file = disk.open("a", true, Io::Buffered).expect("creates");
    disk.sync_names().expect("syncs");
    file.write_at(&[1; 4096], 0).expect("writes");
    file.sync().expect("syncs");
    assert!(disk.flip("a", 8 * 100 + 3) && disk.scribble("a", 200, &[9]));
    assert!(!disk.flip("a", 8 * 4096) && !disk.flip("b", 0), "there is no such bit");
    let found = read(&disk.crash(2, CrashKind::Power), "a", 4096);
    assert_eq!((found[99], found[100], found[200]), (1, 9, 9));
    assert_eq!(disk.length("a"), Some(4096));
}
