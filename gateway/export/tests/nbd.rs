//! NBD with the clients that people use (QEMU's tools, libnbd's), and with one that says what none of them would.

#[path = "support/mod.rs"]
mod support;

#[path = "support/nbd.rs"]
mod nbd;

use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use lifeboat_engine::ErrorKind;
use lifeboat_export::nbd::NbdOptions;
use nbd::{Served, outcome, run};
use support::{MemoryVolume, branch, point, volume};

const MIB: usize = 1 << 20;

fn served(bytes: usize) -> (Served, Arc<MemoryVolume>) {
    let served = Served::new();
    let db = MemoryVolume::new(bytes);
    served.tree.put(volume_file(), 1, &db);
    (served, db)
}

fn volume_file() -> lifeboat_export::File {
    volume("db")
}

/// Bytes that no two places have in common.
fn content(len: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let words = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    words.flatten().take(len).collect()
}

#[test]
fn qemu_reads_back_what_it_wrote_zeroed_and_trimmed() {
    let (served, db) = served(4 * MIB);
    let commands = [
        "write -P 0x5a 1000 5000",
        "read -P 0x5a 1000 5000",
        "write -f -P 7 64k 1M",
        "write -z 128k 64k",
        "discard 256k 128k",
        "flush",
        "read -P 0 128k 64k",
        "read -P 0 256k 128k",
        "read -P 7 64k 64k",
    ];
    let uri = served.uri("db");
    let mut args = vec!["-t", "none", "-f", "raw", &uri];
    args.extend(commands.iter().flat_map(|command| ["-c", *command]));
    let said = run("qemu-io", &args);
    assert!(!said.contains("failed") && !said.contains("Pattern verification"), "{said}");
    let bytes = db.bytes.lock().unwrap();
    assert!(bytes[1000..6000].iter().all(|byte| *byte == 0x5a) && bytes[999] == 0 && bytes[6000] == 0);
    assert!(bytes[128 << 10..192 << 10].iter().all(|byte| *byte == 0));
    assert!(db.flushes.load(Ordering::SeqCst) >= 2, "FUA and flush reach the volume");
    let zeroed = db.zeroed.lock().unwrap();
    assert!(zeroed.contains(&(256 << 10, 128 << 10, true)), "a discard gives space back: {zeroed:?}");
}

#[test]
fn images_are_copied_in_and_out_over_several_connections() {
    let (served, db) = served(16 * MIB);
    let bytes = content(16 * MIB);
    let (source, copy) = (served.dir.path().join("source"), served.dir.path().join("copy"));
    std::fs::write(&source, &bytes).unwrap();
    let (from, to, uri) = (source.to_str().unwrap(), copy.to_str().unwrap(), served.uri("db"));
    run("nbdcopy", &["--connections=4", "--requests=16", "--flush", from, &uri]);
    assert!(*db.bytes.lock().unwrap() == bytes, "what nbdcopy wrote is not what it read");
    run("nbdcopy", &["--connections=4", &uri, to]);
    assert!(std::fs::read(&copy).unwrap() == bytes, "what nbdcopy read is not what is there");
    run("qemu-img", &["compare", "-f", "raw", "-F", "raw", from, &uri]);
    db.bytes.lock().unwrap().fill(1);
    run("qemu-img", &["convert", "-n", "-W", "-m", "8", "-f", "raw", "-O", "raw", from, &uri]);
    assert!(*db.bytes.lock().unwrap() == bytes, "what qemu-img wrote is not what it read");
}

#[test]
fn exports_are_listed_and_say_what_they_can_do() {
    let (served, db) = served(MIB);
    served.tree.put(branch("b1", "db"), 2, &db);
    served.tree.put(point("crm", "2026-11-20T10:05:00Z", "db"), 3, &db);
    let list = run("nbdinfo", &["--list", &served.uri("")]);
    assert!(list.contains("export=\"db\"") && list.contains("export=\"branches/b1/db\""), "{list}");
    assert!(!list.contains("points"), "points are too many to list: {list}");
    let about = run("nbdinfo", &[&served.uri("db")]);
    for fact in
        ["export-size: 1048576", "is_read_only: false", "can_multi_conn: true", "can_fua: true", "can_flush: true"]
    {
        assert!(about.contains(fact), "{fact} is missing in {about}");
    }
    for fact in ["can_trim: true", "can_zero: true", "can_fast_zero: true", "block_size_preferred: 4096"] {
        assert!(about.contains(fact), "{fact} is missing in {about}");
    }
    let about = run("nbdinfo", &[&served.uri("points/crm/2026-11-20T10:05:00Z/db")]);
    assert!(about.contains("is_read_only: true") && about.contains("can_trim: false"), "{about}");
}

#[test]
fn what_is_read_only_stays_as_it_is() {
    let (served, db) = served(MIB);
    db.read_only.store(true, Ordering::SeqCst);
    let (ok, said) = outcome("qemu-io", &["-f", "raw", &served.uri("db"), "-c", "write 0 4k"]);
    assert!(!ok, "{said}");
    // A client that ignores the flag.
    let mut client = served.taken("db");
    client.request(1, 0, 9, (0, 4096), &[1; 4096]);
    assert_eq!(client.reply(), (1, 9));
    client.request(6, 0, 10, (0, 4096), &[]);
    assert_eq!(client.reply(), (1, 10));
    client.request(0, 0, 11, (0, 2), &[]);
    assert_eq!((client.reply(), client.bytes(2)), ((0, 11), vec![0, 0]), "reading goes on");
}

#[test]
fn requests_of_one_connection_run_at_the_same_time() {
    let (served, db) = served(MIB);
    *db.meet.lock().unwrap() = Some(Arc::new(tokio::sync::Barrier::new(3)));
    let mut client = served.taken("db");
    for cookie in 0..3 {
        client.request(1, 0, cookie, (cookie * 4096, 4096), &[1; 4096]);
    }
    let mut replies = [client.reply(), client.reply(), client.reply()];
    replies.sort_unstable();
    assert_eq!(replies, [(0, 0), (0, 1), (0, 2)], "each waited for the others");
}

#[test]
fn wrong_requests_are_answered_and_the_connection_goes_on() {
    let (served, db) = served(MIB);
    let end = MIB as u64;
    let mut client = served.taken("db");
    let mut refused = |command, flags, range: (u64, u32), data: &[u8], error| {
        client.request(command, flags, 5, range, data);
        assert_eq!(client.reply(), (error, 5), "command {command}, flags {flags}, {range:?}");
    };
    refused(0, 0, (end - 1, 2), &[], 22);
    refused(0, 0, (u64::MAX, 2), &[], 22);
    refused(0, 0, (0, 33 << 20), &[], 22);
    refused(1, 0, (end - 1, 2), &[1, 2], 28);
    refused(6, 0, (end, 1), &[], 28);
    refused(4, 0, (0, u32::MAX), &[], 22);
    refused(7, 0, (0, 4096), &[], 22);
    refused(3, 1 << 9, (0, 0), &[], 22);
    db.fail(ErrorKind::Damaged, 1);
    refused(1, 0, (0, 1), &[1], 5);
    db.fail(ErrorKind::NoSpace, 1);
    refused(1, 0, (0, 1), &[1], 28);
    refused(1, 0, (0, 1), &[1], 0);
    assert_eq!(db.writes.load(Ordering::SeqCst), 1);
}

#[test]
fn a_write_without_end_ends_the_connection() {
    let (served, _) = served(MIB);
    let mut client = served.taken("db");
    client.request(1, 0, 5, (0, u32::MAX), &[]);
    client.ended();
}

#[test]
fn an_old_client_takes_its_export_by_name() {
    let (served, _) = served(MIB);
    let mut client = served.client();
    client.flags(1);
    client.option(1, b"db");
    assert_eq!(client.bytes(8), (MIB as u64).to_be_bytes());
    assert_eq!(client.bytes(2 + 124)[2..], [0; 124]);
    client.request(3, 0, 1, (0, 0), &[]);
    assert_eq!(client.reply(), (0, 1));
    let mut client = served.client();
    client.flags(1);
    client.option(1, b"other");
    client.ended();
}

#[test]
fn a_volume_that_goes_away_ends_the_connection_after_its_answer() {
    let (served, db) = served(MIB);
    let mut client = served.taken("db");
    db.fail(ErrorKind::Closed, 1);
    client.request(0, 0, 3, (0, 4096), &[]);
    assert_eq!(client.reply(), (108, 3));
    client.ended();
    served.tree.remove(&volume_file());
    let mut client = served.client();
    client.flags(3);
    assert_eq!(client.go("db").unwrap_err(), (0x8000_0006, "no volumes/db.img".to_owned()));
}

#[test]
fn a_volume_that_is_to_come_is_waited_for() {
    let served = Served::new();
    served.tree.expecting.store(true, Ordering::SeqCst);
    let mut client = served.client();
    client.flags(3);
    let taken = std::thread::spawn(move || client.go("db").map(|(size, _)| size));
    served.tree.put(volume_file(), 1, &MemoryVolume::new(MIB));
    assert_eq!(taken.join().unwrap(), Ok(MIB as u64));

    let served = Served::with(NbdOptions { wait_for_volume: Duration::from_millis(50), ..NbdOptions::default() });
    served.tree.expecting.store(true, Ordering::SeqCst);
    let mut client = served.client();
    client.flags(3);
    let (refusal, words) = client.go("db").unwrap_err();
    assert!(refusal == 0x8000_0006 && words.contains("not open at this gateway yet"), "{words}");
}

#[test]
fn a_stop_answers_what_is_under_way_and_leaves_nothing_behind() {
    let (mut served, db) = served(MIB);
    let meet = Arc::new(tokio::sync::Barrier::new(2));
    *db.meet.lock().unwrap() = Some(Arc::clone(&meet));
    let mut client = served.taken("db");
    client.request(1, 1, 8, (0, 4096), &[1; 4096]);
    let end = Instant::now() + Duration::from_secs(20);
    while db.arrived.load(Ordering::SeqCst) == 0 {
        assert!(Instant::now() < end, "the write does not arrive");
        std::thread::yield_now();
    }
    served.stop.cancel();
    served.runtime.block_on(meet.wait());
    assert_eq!(client.reply(), (0, 8));
    client.ended();
    served.stop();
    assert_eq!(Arc::strong_count(&db), 2, "only the tree and the test hold the volume");
}

#[test]
fn a_client_that_stops_in_the_middle_is_cut_off() {
    let quick = Duration::from_millis(50);
    let served = Served::with(NbdOptions { negotiate_within: quick, ..NbdOptions::default() });
    served.client().ended();

    let served = Served::with(NbdOptions { stall_for: quick, ..NbdOptions::default() });
    served.tree.put(volume_file(), 1, &MemoryVolume::new(64 * MIB));
    let mut half = served.taken("db");
    half.request(1, 0, 1, (0, 4096), &[1; 100]);
    half.ended();
    // One that asks for more than the socket holds, and takes none of it.
    let mut deaf = served.taken("db");
    for cookie in 0..2 {
        deaf.request(0, 0, cookie, (0, 32 << 20), &[]);
    }
    let end = Instant::now() + Duration::from_secs(20);
    let db = served.tree.get(&volume_file()).unwrap().1;
    // The tree, this, and nobody else.
    while Arc::strong_count(&db) > 2 {
        assert!(Instant::now() < end, "the deaf client still holds the volume");
        std::thread::yield_now();
    }
}

#[test]
fn the_socket_is_its_owners_and_replaces_a_dead_one() {
    let (mut served, _) = served(MIB);
    let mode = std::fs::metadata(&served.socket).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    served.stop();
    assert!(served.socket.exists(), "as after a crash");
    let entered = served.runtime.enter();
    lifeboat_export::nbd::bind_unix(served.dir.path(), "nbd.sock").unwrap();
    drop(entered);
    assert_eq!(std::fs::read_dir(served.dir.path()).unwrap().count(), 1);
}
