//! The `qemu` driver with a real operating system in its machines: see `lifeboat_lab::guest_image`.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use lifeboat_compute::{
    Acceleration, Disk, DiskSource, Driver, ErrorKind, Firmware, Interface, Join, Order, QemuDriver, QemuSettings,
    RunId, RunState, StopOutcome,
};
use lifeboat_lab::{GUEST_READY, guest_data_disk, guest_image};
use rustix::process::{Pid, Signal};
use tempfile::TempDir;

/// Longest wait for anything: a guest starts in some 10 s alone on a core.
const LIMIT: Duration = Duration::from_secs(100);
/// Set in a process that a test starts of itself: the directory that it works in.
const INNER: &str = "LIFEBOAT_TEST_INNER";

/// A recovery site in a directory; its machines end with it.
struct Site {
    dir: TempDir,
    driver: QemuDriver,
}

impl Site {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let driver = driver(dir.path());
        Self { dir, driver }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A machine that starts from a copy of the guest's image.
    fn order(&self, id: &str) -> Order {
        let disk = self.path(&format!("{id}.img"));
        fs::copy(guest_image().unwrap(), &disk).unwrap();
        Order {
            id: id.parse().unwrap(),
            name: id.to_owned(),
            cpus: 2,
            // GRUB with UEFI finds too little in less.
            memory_mib: 256,
            firmware: Firmware::Bios,
            disks: vec![file(&disk, true)],
            interfaces: vec![Interface {
                mac: "52:54:00:11:22:33".parse().unwrap(),
                address: "10.20.0.17".parse().ok(),
                join: Join::User { network: "10.20.0.0/24".parse().unwrap(), router: None, isolated: true },
            }],
        }
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        for pid in pids(self.dir.path()) {
            // It may have ended.
            let _ = rustix::process::kill_process(pid, Signal::KILL);
        }
    }
}

fn driver(dir: &Path) -> QemuDriver {
    let settings = QemuSettings { acceleration: Some(Acceleration::Emulated), ..QemuSettings::default() };
    QemuDriver::new(dir.join("runs"), settings)
}

fn file(path: &Path, boot: bool) -> Disk {
    Disk { source: DiskSource::File { path: path.to_owned() }, boot }
}

/// The machines that run in a site's directory.
fn pids(dir: &Path) -> Vec<Pid> {
    let runs = fs::read_dir(dir.join("runs")).into_iter().flatten().flatten();
    let texts = runs.filter_map(|run| fs::read_to_string(run.path().join("pid")).ok());
    texts.filter_map(|text| Pid::from_raw(text.trim().parse().ok()?)).collect()
}

async fn until<T>(what: &str, mut found: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + LIMIT;
    loop {
        if let Some(found) = found().await {
            return found;
        }
        assert!(Instant::now() < deadline, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Waits until the guest serves, and returns what it said.
async fn ready(driver: &QemuDriver, id: &RunId) -> String {
    let said = async || String::from_utf8_lossy(&driver.console(id, 4 << 10).await.unwrap()).into_owned();
    let deadline = Instant::now() + LIMIT;
    loop {
        let text = said().await;
        if let Some((_, rest)) = text.split_once(GUEST_READY)
            && let Some((rest, _)) = rest.split_once('\n')
        {
            return rest.trim().to_owned();
        }
        assert!(Instant::now() < deadline, "the guest doesn't start: {text}\n{:?}", driver.state(id).await);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// One HTTP request in a connection of its own.
async fn http(address: SocketAddr, method: &'static str, path: &str, body: Vec<u8>) -> std::io::Result<String> {
    let head = format!("{method} {path} HTTP/1.0\r\nContent-Length: {}\r\n\r\n", body.len());
    let ask = move || {
        let mut line = TcpStream::connect_timeout(&address, Duration::from_secs(10))?;
        line.set_read_timeout(Some(LIMIT))?;
        line.write_all(head.as_bytes())?;
        line.write_all(&body)?;
        let mut answer = String::new();
        line.read_to_string(&mut answer)?;
        Ok(answer)
    };
    tokio::task::spawn_blocking(ask).await.unwrap()
}

#[tokio::test]
async fn a_machine_starts_serves_is_adopted_and_goes_down_with_its_data() {
    let site = Site::new();
    let order = site.order("web");
    let id = &order.id;
    assert_eq!(site.driver.check(&order).await, Vec::<String>::new());
    site.driver.start(&order).await.unwrap();
    site.driver.start(&order).await.unwrap();
    let one = pids(site.dir.path());
    assert_eq!(one.len(), 1, "started twice, it is one machine");
    assert!(!site.driver.listens(id, 0, 80).await.unwrap(), "it can't be up yet");
    assert_eq!(ready(&site.driver, id).await, "10.20.0.17/24", "DHCP gave it its address");
    assert!(site.driver.listens(id, 0, 80).await.unwrap());
    assert!(!site.driver.listens(id, 0, 81).await.unwrap(), "nothing serves there");
    let address = site.driver.reach(id, 0, 80).await.unwrap();
    assert_eq!(site.driver.reach(id, 0, 80).await.unwrap(), address, "the same forward");
    let answer = http(address, "POST", "/cgi-bin/append", b"written before the stop\n".to_vec()).await.unwrap();
    assert!(answer.contains("200") && answer.ends_with("made\nwritten before the stop\n"), "{answer}");
    let picture = site.driver.screen(id).await.unwrap().expect("it has a screen");
    assert!(picture.starts_with(b"\x89PNG\r\n\x1a\n") && picture.len() > 500, "{} bytes", picture.len());

    // A gateway that starts later.
    let later = driver(site.dir.path());
    assert_eq!(later.list().await.unwrap(), std::slice::from_ref(id));
    later.start(&order).await.unwrap();
    assert_eq!((later.state(id).await.unwrap(), pids(site.dir.path())), (RunState::Running, one));
    assert_eq!(later.reach(id, 0, 80).await.unwrap(), address);
    assert_eq!(later.stop(id, LIMIT).await.unwrap(), StopOutcome::Graceful);
    let state = later.state(id).await.unwrap();
    assert_eq!(state, RunState::Stopped { how: "it went down when it was asked to".to_owned() });
    assert!(String::from_utf8_lossy(&later.console(id, 400).await.unwrap()).contains("GUEST goes down"));
    assert_eq!(later.screen(id).await.unwrap(), None);
    let disk = fs::read(site.path("web.img")).unwrap();
    let written = b"written before the stop";
    assert!(disk.windows(written.len()).any(|window| window == written), "the disk has what was written");
    later.forget(id).await.unwrap();
    assert_eq!(later.state(id).await.unwrap(), RunState::Absent);
}

#[tokio::test]
async fn a_machine_with_uefi_and_a_second_disk_that_ignores_its_button_is_switched_off() {
    let site = Site::new();
    let mut order = site.order("uefi");
    order.firmware = Firmware::Uefi;
    let data = site.path("data.img");
    guest_data_disk(&data, 8 << 20, &[("log", "from the second disk\n")]).unwrap();
    // The disk to boot from is marked, not the first.
    order.disks.push(file(&data, false));
    site.driver.start(&order).await.unwrap();
    ready(&site.driver, &order.id).await;
    let address = site.driver.reach(&order.id, 0, 80).await.unwrap();
    let answer = http(address, "POST", "/cgi-bin/deaf", Vec::new()).await.unwrap();
    assert!(answer.contains("200"), "{answer}");
    let answer = http(address, "GET", "/data/log", Vec::new()).await.unwrap();
    assert!(answer.ends_with("from the second disk\n"), "{answer}");
    let began = Instant::now();
    assert_eq!(site.driver.stop(&order.id, Duration::from_secs(2)).await.unwrap(), StopOutcome::Forced);
    assert!(began.elapsed() >= Duration::from_secs(2), "it was asked first");
    let state = site.driver.state(&order.id).await.unwrap();
    assert_eq!(state, RunState::Stopped { how: "it was switched off".to_owned() });
}

#[tokio::test]
async fn a_machine_whose_disk_is_full_stands_still_and_goes_on_when_there_is_room() {
    let site = Site::new();
    let mut order = site.order("full");
    let small = Mount::tmpfs(&site.path("small"), "1m");
    let data = small.0.join("data.img");
    guest_data_disk(&data, 16 << 20, &[("log", "")]).unwrap();
    order.disks.push(file(&data, false));
    site.driver.start(&order).await.unwrap();
    ready(&site.driver, &order.id).await;
    let address = site.driver.reach(&order.id, 0, 80).await.unwrap();
    // The answer comes when everything is on the disk: not before there is room.
    let write = tokio::spawn(http(address, "POST", "/cgi-bin/append", vec![b'x'; 3 << 20]));
    let reason = until("it stands still", async || match site.driver.state(&order.id).await.unwrap() {
        RunState::Paused { reason } => Some(reason),
        _ => None,
    })
    .await;
    assert_eq!(reason, "there is no room to write disk 1");
    assert!(!write.is_finished());
    let one = pids(site.dir.path());
    let error = site.driver.start(&order).await.unwrap_err();
    assert!(error.kind() == ErrorKind::Retry && error.to_string().ends_with(&reason), "{error}");
    small.grow("32m");
    site.driver.resume(&order.id).await.unwrap();
    let answer = write.await.unwrap().unwrap();
    assert!(answer.contains("200") && answer.len() > 3 << 20, "{} bytes", answer.len());
    assert_eq!(pids(site.dir.path()), one, "nothing that it had in its memory was lost");
    assert_eq!(site.driver.stop(&order.id, LIMIT).await.unwrap(), StopOutcome::Graceful);
}

#[tokio::test]
async fn a_machine_goes_on_with_the_file_of_a_mount_that_was_made_again() {
    let site = Site::new();
    let mut order = site.order("mount");
    let behind = site.path("behind");
    fs::create_dir(&behind).unwrap();
    guest_data_disk(&behind.join("data.img"), 16 << 20, &[("log", "in a mount\n")]).unwrap();
    let mut served = Served::mount(&behind, &site.path("mnt")).await;
    order.disks.push(file(&site.path("mnt/data.img"), false));
    site.driver.start(&order).await.unwrap();
    ready(&site.driver, &order.id).await;
    let address = site.driver.reach(&order.id, 0, 80).await.unwrap();
    served.server.kill().unwrap();
    let write = tokio::spawn(http(address, "POST", "/cgi-bin/append", b"while it was away\n".to_vec()));
    let reason = until("it stands still", async || match site.driver.state(&order.id).await.unwrap() {
        RunState::Paused { reason } => Some(reason),
        _ => None,
    })
    .await;
    assert_eq!(reason, "disk 1 fails");
    let one = pids(site.dir.path());
    let error = site.driver.start(&order).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Retry, "{error}");
    drop(served);
    // Twice: the second time nothing has failed yet.
    for _ in 0..2 {
        let mut served = Served::mount(&behind, &site.path("mnt")).await;
        site.driver.start(&order).await.unwrap();
        served.server.kill().unwrap();
    }
    let _served = Served::mount(&behind, &site.path("mnt")).await;
    until("it goes on", async || site.driver.resume(&order.id).await.ok()).await;
    let answer = write.await.unwrap().unwrap();
    assert!(answer.ends_with("in a mount\nwhile it was away\n"), "{answer}");
    assert_eq!(pids(site.dir.path()), one, "it never began anew");
    let open = fs::read_dir(format!("/proc/{}/fd", one[0].as_raw_nonzero())).unwrap().flatten();
    let links = open.filter_map(|entry| fs::read_link(entry.path()).ok());
    assert_eq!(links.filter(|link| link.ends_with("data.img")).count(), 1, "it let go of the files before");
    assert_eq!(site.driver.stop(&order.id, LIMIT).await.unwrap(), StopOutcome::Graceful);
}

#[tokio::test]
async fn a_machine_waits_for_an_nbd_server_that_restarts() {
    let site = Site::new();
    let mut order = site.order("nbd");
    let data = site.path("data.img");
    guest_data_disk(&data, 16 << 20, &[("log", "over NBD\n")]).unwrap();
    let socket = site.path("nbd.sock");
    let mut server = NbdServer::start(&data, &socket);
    order
        .disks
        .push(Disk { source: DiskSource::Nbd { socket: socket.clone(), export: "web/data".to_owned() }, boot: false });
    site.driver.start(&order).await.unwrap();
    ready(&site.driver, &order.id).await;
    let address = site.driver.reach(&order.id, 0, 80).await.unwrap();
    server.kill();
    let write = tokio::spawn(http(address, "POST", "/cgi-bin/append", b"while it was away\n".to_vec()));
    // The server's end is seen by the request that waits for it.
    tokio::time::timeout(Duration::from_secs(1), async {
        while !write.is_finished() {
            tokio::task::yield_now().await
        }
    })
    .await
    .expect_err("nobody takes the write");
    assert_eq!(site.driver.state(&order.id).await.unwrap(), RunState::Running, "it waits, and isn't paused");
    let _server = NbdServer::start(&data, &socket);
    let answer = write.await.unwrap().unwrap();
    assert!(answer.ends_with("over NBD\nwhile it was away\n"), "{answer}");
    assert_eq!(site.driver.stop(&order.id, LIMIT).await.unwrap(), StopOutcome::Graceful);
}

#[tokio::test]
async fn a_machine_outlives_the_process_that_started_it() {
    if let Some(dir) = std::env::var_os(INNER) {
        // The gateway: it starts the machine and is killed.
        let order: Order = serde_json::from_str(&fs::read_to_string(Path::new(&dir).join("order")).unwrap()).unwrap();
        driver(Path::new(&dir)).start(&order).await.unwrap();
        loop {
            tokio::time::sleep(Duration::from_secs(3600)).await;
        }
    }
    let site = Site::new();
    let order = site.order("web");
    fs::write(site.path("order"), serde_json::to_string(&order).unwrap()).unwrap();
    let mut gateway = this_test("a_machine_outlives_the_process_that_started_it", site.dir.path(), &[]);
    let mut gateway = gateway.process_group(0).spawn().unwrap();
    until("it runs", async || (site.driver.state(&order.id).await == Ok(RunState::Running)).then_some(())).await;
    let group = Pid::from_raw(gateway.id().try_into().unwrap()).unwrap();
    rustix::process::kill_process_group(group, Signal::KILL).unwrap();
    gateway.wait().unwrap();
    assert_eq!(site.driver.state(&order.id).await.unwrap(), RunState::Running);
    let one = pids(site.dir.path());
    site.driver.start(&order).await.unwrap();
    assert_eq!(pids(site.dir.path()), one, "it is adopted");
    assert_eq!(site.driver.stop(&order.id, Duration::ZERO).await.unwrap(), StopOutcome::Forced);
}

#[tokio::test]
async fn a_machine_on_a_bridge_answers_at_its_address() {
    const NAME: &str = "a_machine_on_a_bridge_answers_at_its_address";
    if let Some(dir) = std::env::var_os(INNER) {
        return bridged(Path::new(&dir)).await;
    }
    let site = Site::new();
    let mut order = site.order("web");
    order.interfaces[0].address = "10.30.0.17".parse().ok();
    order.interfaces[0].join = Join::Bridge { name: "br0".to_owned() };
    fs::write(site.path("order"), serde_json::to_string(&order).unwrap()).unwrap();
    let namespace = Namespace::new();
    for line in ["link set lo up", "link add br0 type bridge", "addr add 10.30.0.1/24 dev br0", "link set br0 up"] {
        run("ip", &["netns", "exec", &namespace.0, "ip"].into_iter().chain(line.split(' ')).collect::<Vec<_>>());
    }
    let mut inner = this_test(NAME, site.dir.path(), &["ip", "netns", "exec", &namespace.0]);
    assert!(inner.status().unwrap().success(), "see above");
}

/// Within the network namespace that has the bridge.
async fn bridged(dir: &Path) {
    let order: Order = serde_json::from_str(&fs::read_to_string(dir.join("order")).unwrap()).unwrap();
    let driver = driver(dir);
    assert_eq!(driver.check(&order).await, Vec::<String>::new());
    driver.start(&order).await.unwrap();
    assert_eq!(ready(&driver, &order.id).await, "10.30.0.17/24", "the driver gave it its address");
    let address = driver.reach(&order.id, 0, 80).await.unwrap();
    assert_eq!(address, "10.30.0.17:80".parse().unwrap());
    let answer = http(address, "GET", "/data/log", Vec::new()).await.unwrap();
    assert!(answer.ends_with("made\n"), "{answer}");
    assert_eq!(driver.stop(&order.id, LIMIT).await.unwrap(), StopOutcome::Graceful);
    let left = Command::new("ip").args(["-o", "link", "show", "master", "br0"]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&left.stdout), "", "its tap went with it");
}

/// This very test in a process of its own, which knows that it is the inner one.
fn this_test(name: &str, dir: &Path, within: &[&str]) -> Command {
    let this = std::env::current_exe().unwrap();
    let mut line: Vec<std::ffi::OsString> = within.iter().map(Into::into).collect();
    line.extend([this.into(), name.into(), "--exact".into(), "--nocapture".into()]);
    let mut command = Command::new(&line[0]);
    command.args(&line[1..]).env(INNER, dir).stdin(Stdio::null());
    command
}

fn run(program: &str, arguments: &[&str]) {
    let ended = Command::new(program).args(arguments).output().unwrap();
    assert!(ended.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&ended.stderr));
}

/// A network namespace that goes with its handle.
struct Namespace(String);

impl Namespace {
    fn new() -> Self {
        let name = format!("lb-compute-{}", std::process::id());
        run("ip", &["netns", "add", &name]);
        Self(name)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // What can't be removed shows in `ip netns`.
        let _ = Command::new("ip").args(["netns", "del", &self.0]).status();
    }
}

/// A mount that goes with its handle, also while a killed machine still lets go of it.
struct Mount(PathBuf);

impl Mount {
    fn tmpfs(path: &Path, size: &str) -> Self {
        fs::create_dir(path).unwrap();
        run("mount", &["-t", "tmpfs", "-o", &format!("size={size}"), "lifeboat-test", path.to_str().unwrap()]);
        Self(path.to_owned())
    }

    fn grow(&self, size: &str) {
        run("mount", &["-o", &format!("remount,size={size}"), self.0.to_str().unwrap()]);
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// A directory served by a process under another path; the mount goes with its handle.
struct Served {
    server: std::process::Child,
    _mount: Mount,
}

impl Served {
    async fn mount(behind: &Path, at: &Path) -> Self {
        fs::create_dir_all(at).unwrap();
        let server = Command::new("bindfs").arg("-f").args([behind, at]).spawn().unwrap();
        let served = Self { server, _mount: Mount(at.to_owned()) };
        until("it is mounted", async || fs::read_dir(at).ok()?.next()).await.unwrap();
        served
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

/// An NBD server: a QEMU without a machine.
struct NbdServer(std::process::Child);

impl NbdServer {
    fn start(disk: &Path, socket: &Path) -> Self {
        let _ = fs::remove_file(socket);
        let mut command = Command::new("qemu-system-x86_64");
        command.args(["-machine", "none", "-nodefaults", "-display", "none", "-qmp", "stdio", "-blockdev"]);
        command.arg(serde_json::json!({"driver": "file", "node-name": "disk", "filename": disk}).to_string());
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let commands = child.stdin.as_mut().unwrap();
        for (name, arguments) in [
            ("qmp_capabilities", serde_json::json!({})),
            ("nbd-server-start", serde_json::json!({"addr": {"type": "unix", "data": {"path": socket}}})),
            (
                "block-export-add",
                serde_json::json!({"type": "nbd", "id": "e", "node-name": "disk", "name": "web/data", "writable": true}),
            ),
        ] {
            writeln!(commands, "{}", serde_json::json!({"execute": name, "arguments": arguments})).unwrap();
        }
        let deadline = Instant::now() + LIMIT;
        while !socket.exists() {
            assert!(Instant::now() < deadline, "the NBD server doesn't listen");
            std::thread::sleep(Duration::from_millis(10));
        }
        Self(child)
    }

    fn kill(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for NbdServer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
