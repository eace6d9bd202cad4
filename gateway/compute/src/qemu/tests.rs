//! What needs the inside of the driver: crashes at chosen moments. Whole machines are in `tests/machines.rs`.

use super::*;
use crate::order::tests::order;
use crate::{Disk, ErrorKind};

/// Ends what a test that failed leaves running.
struct Ending(PathBuf);

impl Drop for Ending {
    fn drop(&mut self) {
        for run in fs::read_dir(&self.0).into_iter().flatten().flatten() {
            if let Some(process) = Process::find(&run.path()) {
                process.kill();
            }
        }
    }
}

/// A machine with an empty disk: it runs, and finds nothing to boot.
fn blank(dir: &Path) -> (QemuDriver, Order) {
    let disk = dir.join("disk.img");
    fs::File::create(&disk).and_then(|file| file.set_len(1 << 20)).expect("a disk");
    let mut order = order("mach_1");
    order.memory_mib = 64;
    order.disks = vec![Disk { source: DiskSource::File { path: disk }, boot: true }];
    order.interfaces.retain(|interface| !matches!(interface.join, Join::Bridge { .. }));
    let settings = QemuSettings { acceleration: Some(Acceleration::Emulated), ..QemuSettings::default() };
    (QemuDriver::new(dir.join("runs"), settings), order)
}

#[tokio::test]
async fn a_start_that_a_crash_cut_short_is_begun_anew() {
    let dir = tempfile::tempdir().expect("tempdir");
    let (driver, order) = blank(dir.path());
    let _ending = Ending(dir.path().join("runs"));
    // As far as a gateway comes that dies before it lets the machine run.
    let run = driver.runs.begin(&order).expect("begun");
    let found: Vec<_> = order.disks.iter().map(|disk| disks::facts(&disk.source)).collect();
    let facts = Facts { acceleration: Acceleration::Emulated, uefi: None, disks: &found };
    let arguments = line::arguments(&order, &facts).expect("sound");
    let mut left = process::spawn(&driver.program().expect("installed"), &arguments, &run).expect("spawned");
    let deadline = Instant::now() + Duration::from_secs(30);
    while Qmp::connect(&run).await.is_err() {
        assert!(Instant::now() < deadline, "QEMU doesn't listen: {}", last_words(&run));
        tokio::time::sleep(PAUSE).await;
    }
    let state = driver.state(&order.id).await.expect("it answers");
    assert!(matches!(&state, RunState::Paused { reason } if reason.contains("not finished")), "{state:?}");

    let error = driver.resume(&order.id).await.expect_err("it never ran");
    assert!(error.kind() == ErrorKind::Refused && error.to_string().contains("begin anew"), "{error}");
    let busy = driver.turns.take(&order.id).await;
    assert_eq!(driver.resume(&order.id).await.expect_err("busy").kind(), ErrorKind::Retry);
    drop(busy);
    driver.start(&order).await.expect("begun anew");
    let ended = tokio::time::timeout(Duration::from_secs(30), left.wait()).await.expect("the old one has ended");
    ended.expect("waited");
    assert_eq!(driver.state(&order.id).await, Ok(RunState::Running));
    let process = driver.process(&order.id).await.expect("looked").expect("it runs");
    // Paused by hand: it hears no button, and goes on with a start.
    driver.command(&order.id, "stop", json!({})).await.expect("paused");
    assert!(matches!(driver.state(&order.id).await, Ok(RunState::Paused { .. })));
    assert_eq!(driver.resume(&order.id).await.expect_err("somebody wants it so").kind(), ErrorKind::Refused);
    driver.start(&order).await.expect("goes on");
    assert_eq!(driver.state(&order.id).await, Ok(RunState::Running));
    let refused = driver.forget(&order.id).await.expect_err("it runs");
    assert_eq!(refused.kind(), ErrorKind::Refused);

    process.kill();
    assert!(in_time(Duration::from_secs(30), &process).await, "it goes");
    let state = driver.state(&order.id).await.expect("looked");
    assert!(matches!(&state, RunState::Stopped { how } if how.contains("killed or crashed")), "{state:?}");
    driver.resume(&order.id).await.expect("nothing to do");
    driver.start(&order).await.expect("once more");
    assert_eq!(driver.stop(&order.id, Duration::ZERO).await, Ok(StopOutcome::Forced));
    assert_eq!(driver.stop(&order.id, Duration::ZERO).await, Ok(StopOutcome::WasOff));
    driver.forget(&order.id).await.expect("forgotten");
    assert_eq!(driver.state(&order.id).await, Ok(RunState::Absent));
    assert!(!run.exists());
}

#[tokio::test]
async fn what_qemu_says_against_a_start_comes_out_of_it() {
    let dir = tempfile::tempdir().expect("tempdir");
    let (driver, mut order) = blank(dir.path());
    let missing = dir.path().join("a, b.img");
    order.disks[0].source = DiskSource::File { path: missing.clone() };
    let error = driver.start(&order).await.expect_err("no disk");
    assert_eq!(error.kind(), ErrorKind::Refused, "{error}");
    assert!(error.to_string().contains("a, b.img': No such file"), "{error}");
    assert_eq!(driver.check(&order).await, Vec::<String>::new(), "its disks may come to be later");
    let state = driver.state(&order.id).await.expect("looked");
    assert!(matches!(&state, RunState::Stopped { how } if how.contains("No such file")), "{state:?}");

    order.disks[0].source = DiskSource::Nbd { socket: dir.path().join("no.sock"), export: "web".to_owned() };
    let error = driver.start(&order).await.expect_err("no server");
    assert!(error.to_string().contains("no.sock"), "{error}");
    let program = Some(PathBuf::from("qemu-system-nowhere"));
    let nowhere = QemuDriver::new(dir.path().join("runs"), QemuSettings { program, ..QemuSettings::default() });
    let error = nowhere.start(&order).await.expect_err("no QEMU");
    assert!(error.kind() == ErrorKind::Refused && error.to_string().contains("apt-get install"), "{error}");
    assert!(nowhere.check(&order).await.iter().any(|why| why.contains("qemu-system-nowhere is not installed")));
}

#[tokio::test]
async fn a_bridge_that_is_not_there_is_named() {
    let dir = tempfile::tempdir().expect("tempdir");
    let (driver, mut order) = blank(dir.path());
    order.interfaces[1].join = Join::Bridge { name: "lb-nowhere".to_owned() };
    assert!(driver.check(&order).await.iter().any(|why| why.contains("bridge lb-nowhere")));
    let error = driver.start(&order).await.expect_err("no bridge");
    assert!(error.kind() == ErrorKind::Refused && error.to_string().contains("into lb-nowhere"), "{error}");
    assert!(driver.process(&order.id).await.expect("looked").is_none(), "nothing of it is left");
    // The loopback device is no bridge.
    order.interfaces[1].join = Join::Bridge { name: "lo".to_owned() };
    assert!(
        driver.check(&order).await.iter().any(|why| why.contains("lo is no bridge")),
        "{:?}",
        driver.check(&order).await
    );
}

#[test]
fn a_long_console_gives_its_head_back() {
    use std::os::unix::fs::MetadataExt;
    let dir = tempfile::tempdir().expect("tempdir");
    let path = dir.path().join(CONSOLE);
    let mut text = vec![b'.'; 20 << 20];
    text.extend(b"the end");
    fs::write(&path, &text).expect("written");
    bound(&path);
    let metadata = fs::metadata(&path).expect("there");
    assert!(metadata.blocks() * 512 <= KEPT_BYTES + (64 << 10), "{} blocks", metadata.blocks());
    assert_eq!(tail(&path, 9).expect("read"), b"..the end");
    assert_eq!(tail(&path, 1 << 30).expect("read").len(), text.len());
}
