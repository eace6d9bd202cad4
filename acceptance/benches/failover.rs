//! Failing over and back as whoever gives the command sees it (R2, R3): ten volumes, with the vault beside the gateways.
//!
//! Real binaries of the release profile. `make bench BENCH=failover`; root, as mounting takes it.

#![allow(clippy::unwrap_used, reason = "a benchmark that can't measure ends with a panic")]

#[path = "../../gateway/engine/benches/support/report.rs"]
mod report;

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use lifeboat_acceptance::content::scribble;
use lifeboat_acceptance::estate::{Estate, Place};
use lifeboat_acceptance::gateway::Gateway;
use lifeboat_acceptance::retry_until;
use lifeboat_acceptance::scratch::Scratch;
use report::{Report, Row, rounds};

const VOLUMES: usize = 10;
const SIZE: u64 = 64 << 20;
/// Blocks that are written into each volume before, and away.
const BEFORE: u64 = 1024;
const AWAY: u64 = 256;
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

fn volumes(report: &mut Report, label: &str, url: &str, place: &Place, wanted: &'static str) {
    let names: Vec<String> = (0..VOLUMES).map(|number| format!("v{number}")).collect();
    let sized: Vec<(&str, u64)> = names.iter().map(|name| (name.as_str(), SIZE)).collect();
    let mut estate = Estate::protect_between("bench-failover", url, [place.clone(), place.clone()], &sized).unwrap();
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

fn main() {
    let mut report = Report::new("failover");
    let vault = Scratch::new("bench-vault").unwrap();
    let url = format!("file://{}", vault.path().join("vault").display());
    volumes(&mut report, "local vault", &url, &Place::default(), "< 2 s");
    report.finish();
}
