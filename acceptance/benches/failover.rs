//! Failing over and back as whoever gives the command sees it (R2, R3): ten volumes with the vault beside the gateways and 50 ms away,
//! and a machine beside the same one booted from a local copy of its disk.
//!
//! Real binaries of the release profile. `make bench BENCH=failover`; root, as mounting takes it. `volumes`, `far` and `guest` as
//! arguments run a part.

#![allow(clippy::unwrap_used, reason = "a benchmark that can't measure ends with a panic")]

#[path = "../../gateway/engine/benches/support/report.rs"]
mod report;

use std::fs::File;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use lifeboat_acceptance::command::Daemon;
use lifeboat_acceptance::content::scribble;
use lifeboat_acceptance::estate::{Estate, Place};
use lifeboat_acceptance::gateway::{Gateway, free_address};
use lifeboat_acceptance::guest::{image, install};
use lifeboat_acceptance::retry_until;
use lifeboat_acceptance::scratch::Scratch;
use lifeboat_lab::{Fault, FaultProxy, GUEST_READY, GcsDouble, Seen};
use report::{Report, Row, rounds, wanted};

const VOLUMES: usize = 10;
const SIZE: u64 = 64 << 20;
/// Blocks that are written into each volume before, and away.
const BEFORE: u64 = 1024;
const AWAY: u64 = 256;
const FAR: Duration = Duration::from_millis(50);
const LIMIT: Duration = Duration::from_secs(300);

fn absolute(what: String, ours: Vec<f64>, unit: &'static str, wanted: &'static str) -> Row {
    Row { target: "R2", what, ours, beside: Vec::new(), baseline: "", unit, wanted }
}

/// Seconds from the command until every volume has taken a write.
fn fail_over(gateway: &Gateway, names: &[String]) -> f64 {
    let started = Instant::now();
    gateway.run(&["failover", "unplanned", "--group", "ledger"]).unwrap().ok().unwrap();
    for name in names {
        let path = gateway.volume(name);
        retry_until("the volume to take a write", LIMIT, || {
            let file = File::options().write(true).open(&path)?;
            file.write_all_at(&[7; 4096], 0)?;
            Ok(())
        })
        .unwrap();
    }
    started.elapsed().as_secs_f64()
}

fn volumes(report: &mut Report, label: &str, url: &str, places: [Place; 2], wanted: &'static str) {
    let names: Vec<String> = (0..VOLUMES).map(|number| format!("v{number}")).collect();
    let sized: Vec<(&str, u64)> = names.iter().map(|name| (name.as_str(), SIZE)).collect();
    let mut estate = Estate::protect_between("bench-failover", url, places, &sized).unwrap();
    estate.add_standby().unwrap();
    estate.open_vault_at_standby().unwrap();
    for (seed, name) in (1..).zip(&names) {
        scribble(&estate.primary.volume(name), seed, BEFORE).unwrap();
    }
    let (mut over, mut back, mut down, mut moved, mut changed) = (vec![], vec![], vec![], vec![], vec![]);
    for round in 0..rounds(3) {
        estate.take_point(&estate.primary, "before").unwrap();
        let standby = estate.standby().unwrap();
        over.push(fail_over(standby, &names));
        for (seed, name) in (100 * (round as u64 + 1)..).zip(&names) {
            scribble(&standby.volume(name), seed, AWAY).unwrap();
        }
        let started = Instant::now();
        let job = standby.json(&["failback", "--group", "ledger", "--mode", "minimize-downtime"]).unwrap();
        back.push(started.elapsed().as_secs_f64());
        let figure = |name: &str| job["result"][name].as_f64().unwrap();
        down.push(figure("downtime_seconds"));
        moved.push(figure("bytes_moved"));
        changed.push(figure("bytes_changed"));
    }
    report.row(absolute(format!("{label}: failover of {VOLUMES} volumes, command to writable"), over, "s", wanted));
    report.row(absolute(format!("{label}: failback, command to its end"), back, "s", ""));
    report.row(absolute(format!("{label}: failback, neither side writable"), down, "s", ""));
    report.row(Row {
        target: "R3",
        what: format!("{label}: failback, bytes fetched"),
        ours: moved,
        beside: changed,
        baseline: "bytes changed, incompressible",
        unit: "B",
        wanted: "<= 1.05",
    });
}

/// A vault whose every request takes 50 ms more.
fn far(report: &mut Report) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let storage = runtime.block_on(GcsDouble::start("vaults")).unwrap();
    let began = Instant::now();
    let lines = ["primary", "standby"].map(|name| {
        let line = runtime.block_on(FaultProxy::start(storage.address())).unwrap();
        line.plan(move |seen| {
            trace(name, began, seen);
            Fault::Late(FAR)
        });
        line
    });
    let environment = GcsDouble::CREDENTIALS.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
    let places = lines.each_ref().map(|line| Place {
        environment: environment.clone(),
        storage_endpoint: Some(line.endpoint()),
        ..Place::default()
    });
    volumes(report, "vault 50 ms away", "gs://vaults/far", places, "< 10 s");
}

/// Notes a request in the file that `LIFEBOAT_BENCH_TRACE` names: which gateway, when, what.
fn trace(gateway: &str, began: Instant, seen: &Seen) {
    let Some(path) = std::env::var_os("LIFEBOAT_BENCH_TRACE") else { return };
    let line = format!(
        "{:9.3} {gateway} {} {} {}\n",
        began.elapsed().as_secs_f64(),
        seen.method,
        seen.target,
        seen.body.len()
    );
    let mut file = File::options().append(true).create(true).open(path).unwrap();
    file.write_all(line.as_bytes()).unwrap();
}

/// Waits until the guest says on its console that it serves, then until it answers with its data. Not by asking it all along: a
/// connection that is made before it listens is offered to it by QEMU's own network again only after many seconds.
fn until_it_answers(address: &str, console: impl Fn() -> std::io::Result<String>) {
    retry_until("the guest to serve", LIMIT, || {
        anyhow::ensure!(console()?.contains(GUEST_READY), "it boots");
        Ok(())
    })
    .unwrap();
    retry_until("the guest to answer", LIMIT, || {
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(Duration::from_secs(2)))?;
        stream.write_all(b"GET /data/log HTTP/1.0\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        anyhow::ensure!(answer.contains("made"), "{answer}");
        Ok(())
    })
    .unwrap();
}

/// What a file holds; firmware doesn't keep to UTF-8.
fn text_of(file: &Path) -> std::io::Result<String> {
    std::fs::read(file).map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
}

/// The console of the one machine that runs at a gateway.
fn console_at(gateway: &Gateway) -> std::io::Result<String> {
    let runs = std::fs::read_dir(gateway.state().join("compute"))?;
    runs.map(|run| text_of(&run?.path().join("console.log"))).collect()
}

/// Seconds until a guest that is booted from a copy of its image answers; with the processors that the gateway's machines have.
fn boot_locally(dir: &Path, number: usize, kvm: bool) -> f64 {
    let processors = if kvm { "-accel kvm -cpu host" } else { "-accel tcg,tb-size=512 -cpu max" };
    let (copy, port) = (dir.join(format!("copy-{number}.img")), free_address().unwrap().port());
    std::fs::write(&copy, image().unwrap()).unwrap();
    let args = format!(
        "{processors} -smp 1 -m size=256M -machine q35 -nodefaults -no-user-config -display none -device VGA \
         -serial file:{dir}/console-{number} -object rng-random,id=rng,filename=/dev/urandom -device virtio-rng-pci,rng=rng \
         -drive if=none,id=disk,file={copy},format=raw -device virtio-blk-pci,drive=disk,bootindex=1 \
         -netdev user,id=net,hostfwd=tcp:127.0.0.1:{port}-:80 -device virtio-net-pci,netdev=net,romfile=",
        dir = dir.display(),
        copy = copy.display()
    );
    let args: Vec<_> = args.split_whitespace().map(Into::into).collect();
    let started = Instant::now();
    let guest = Daemon::start("guest", Path::new("qemu-system-x86_64"), &args, &[], &dir.join("qemu.log")).unwrap();
    let console = dir.join(format!("console-{number}"));
    until_it_answers(&format!("127.0.0.1:{port}"), || text_of(&console));
    let took = started.elapsed().as_secs_f64();
    guest.kill9().unwrap();
    took
}

fn guest(report: &mut Report) {
    let scratch = Scratch::new("bench-guest").unwrap();
    let url = format!("file://{}", scratch.path().join("vault").display());
    let place = Place { environment: vec![("LIFEBOAT_COMPUTE".into(), "qemu".into())], ..Place::default() };
    let size = image().unwrap().len() as u64;
    let places = [place.clone(), place];
    let mut estate = Estate::protect_between("bench-guest", &url, places, &[("system", size)]).unwrap();
    install(&mut estate, None).unwrap();
    let (mut ordered, mut recovered, mut local) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..rounds(3) {
        estate.take_point(&estate.primary, "before").unwrap();
        estate.primary.kill9().unwrap();
        let standby = estate.standby().unwrap();
        let started = Instant::now();
        standby.run(&["failover", "unplanned", "shop"]).unwrap().ok().unwrap();
        ordered.push(started.elapsed().as_secs_f64());
        let reach = ["machine", "reach", "web", "--port", "80"];
        let address = retry_until("the guest's port", LIMIT, || standby.run(&reach)?.ok()).unwrap();
        until_it_answers(address.trim(), || console_at(standby));
        recovered.push(started.elapsed().as_secs_f64());
        estate.primary.restart().unwrap();
        estate.standby().unwrap().run(&["failback", "shop", "--mode", "create"]).unwrap().ok().unwrap();
        let said = std::fs::read_to_string(estate.standby().unwrap().log()).unwrap();
        local.push(boot_locally(scratch.path(), round, said.contains("\"Kvm\"")));
    }
    report.row(absolute("a plan with a machine: command to its end".into(), ordered, "s", ""));
    report.row(Row {
        target: "R2",
        what: "a plan with a machine: command to its answer".into(),
        ours: recovered,
        beside: local,
        baseline: "QEMU on a local copy of the image",
        unit: "s",
        wanted: "<= 1.2",
    });
}

fn main() {
    let mut report = Report::new("failover");
    if wanted("volumes") {
        let vault = Scratch::new("bench-vault").unwrap();
        let url = format!("file://{}", vault.path().join("vault").display());
        volumes(&mut report, "local vault", &url, [Place::default(), Place::default()], "< 2 s");
    }
    if wanted("far") {
        far(&mut report);
    }
    if wanted("guest") {
        guest(&mut report);
    }
    report.finish();
}
