//! SIGKILL of the gateway under load: what was acknowledged is there after the next start.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lifeboat_acceptance::device::LoopFs;
use lifeboat_acceptance::estate::Estate;
use lifeboat_acceptance::eventually;
use lifeboat_acceptance::ledger::{self, Writer};

const BLOCK: usize = 4096;
const BLOCKS: u64 = 512;
const SIZE: u64 = BLOCKS * 4096;

/// A block that names its own address and the write that it came from; a mixture of two shows.
fn block(lba: u64, sequence: u64) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(BLOCK);
    while bytes.len() < BLOCK {
        bytes.extend_from_slice(&lba.to_le_bytes());
        bytes.extend_from_slice(&sequence.to_le_bytes());
    }
    bytes
}

/// Writes numbered blocks one after the other until a write fails.
struct Load {
    /// Number of the last write that returned.
    acknowledged: Arc<AtomicU64>,
    /// Every write that was begun: its number and its address.
    begun: Arc<Mutex<Vec<(u64, u64)>>>,
    thread: JoinHandle<()>,
}

impl Load {
    fn start(path: &Path, first: u64) -> Result<Self> {
        let file = File::options().read(true).write(true).open(path).context("open the volume")?;
        let acknowledged = Arc::new(AtomicU64::new(first - 1));
        let begun = Arc::new(Mutex::new(Vec::new()));
        let (done, log) = (Arc::clone(&acknowledged), Arc::clone(&begun));
        let thread = std::thread::spawn(move || {
            for sequence in first.. {
                let lba = sequence.wrapping_mul(0x9e37_79b9_7f4a_7c15) % BLOCKS;
                log.lock().expect("nobody panics with the log").push((sequence, lba));
                if file.write_all_at(&block(lba, sequence), lba * 4096).is_err() {
                    return;
                }
                done.store(sequence, Ordering::SeqCst);
                // Now and then a flush: the path through fdatasync runs under the kill as well.
                if sequence % 64 == 0 && file.sync_data().is_err() {
                    return;
                }
            }
        });
        Ok(Self { acknowledged, begun, thread })
    }

    fn reach(&self, sequence: u64) -> Result<()> {
        eventually(&format!("write {sequence}"), Duration::from_secs(60), || {
            Ok((self.acknowledged.load(Ordering::SeqCst) >= sequence).then_some(()))
        })
    }
}

/// What the volume must hold: the last write to each block up to `last`.
fn apply(model: &mut BTreeMap<u64, u64>, begun: &[(u64, u64)], last: u64) {
    for (sequence, lba) in begun.iter().filter(|(sequence, _)| *sequence <= last) {
        model.insert(*lba, *sequence);
    }
}

fn verify(path: &Path, model: &BTreeMap<u64, u64>, in_flight: Option<(u64, u64)>) -> Result<()> {
    let file = File::open(path).context("open the volume")?;
    let mut bytes = vec![0; BLOCK];
    for lba in 0..BLOCKS {
        file.read_exact_at(&mut bytes, lba * 4096).with_context(|| format!("read block {lba}"))?;
        let must = model.get(&lba).map_or_else(|| vec![0; BLOCK], |sequence| block(lba, *sequence));
        let may = in_flight.filter(|(_, address)| *address == lba).map(|(sequence, _)| block(lba, sequence));
        ensure!(
            bytes == must || Some(&bytes) == may.as_ref(),
            "block {lba} should hold write {:?}, and begins with {:?}",
            model.get(&lba),
            &bytes[..16]
        );
    }
    Ok(())
}

#[test]
fn acknowledged_writes_survive_sigkill_again_and_again() {
    let mut estate = Estate::protect("crash", &[("victim", SIZE)]).unwrap();
    let path = estate.primary.volume("victim");
    let mut model = BTreeMap::new();
    let mut next = 1;
    for round in 0..6u64 {
        let load = Load::start(&path, next).unwrap();
        load.reach(next + 100 + 173 * round).unwrap();
        estate.primary.kill9().unwrap();
        load.thread.join().unwrap();
        let acknowledged = load.acknowledged.load(Ordering::SeqCst);
        let begun = load.begun.lock().unwrap().clone();
        apply(&mut model, &begun, acknowledged);
        let in_flight = begun.last().copied().filter(|(sequence, _)| *sequence > acknowledged);
        estate.primary.restart().unwrap();
        eventually("the volume to be served again", Duration::from_secs(30), || {
            Ok(File::options().write(true).open(&path).is_ok().then_some(()))
        })
        .unwrap();
        verify(&path, &model, in_flight).with_context(|| format!("round {round}")).unwrap();
        // Whether the write in flight took effect is open, once: from now on the volume's word counts.
        if let Some((sequence, lba)) = in_flight {
            let mut bytes = vec![0; BLOCK];
            File::open(&path).unwrap().read_exact_at(&mut bytes, lba * 4096).unwrap();
            if bytes == block(lba, sequence) {
                model.insert(lba, sequence);
            }
        }
        next = begun.last().unwrap().0 + 1;
    }
    // The vault agrees: the newest point equals the model too.
    let point = estate.take_point(&estate.primary, "after the crashes").unwrap().result.point_id.unwrap();
    let points = estate.points(&estate.primary).unwrap();
    let dir = points.into_iter().find(|candidate| candidate.id == point).unwrap().path.unwrap();
    verify(&Path::new(&dir).join("victim.img"), &model, None).unwrap();
}

#[test]
fn a_database_keeps_every_transaction_over_sigkill() {
    let mut estate = Estate::protect("crash-database", &[("disk", 96 << 20)]).unwrap();
    let image = estate.primary.volume("disk");
    let mount = estate.dir().join("disk");
    let mut done = 0;
    for round in 0..3 {
        let fs = if round == 0 { LoopFs::format(&image, &mount) } else { LoopFs::open(&image, &mount) }.unwrap();
        let database = mount.join("ledger.db");
        if round == 0 {
            ledger::create(&database).unwrap();
            fs.sync().unwrap();
        }
        let found = ledger::verify(&database).unwrap().transactions;
        assert!(found == done || found == done + 1, "{done} were acknowledged, {found} are there");
        let writer = Writer::start(&database, found + 1).unwrap();
        writer.reach(found + 40, Duration::from_secs(60)).unwrap();
        estate.primary.kill9().unwrap();
        done = writer.abandon().last().unwrap().number;
        drop(fs);
        estate.primary.restart().unwrap();
        eventually("the volume to be served again", Duration::from_secs(30), || {
            Ok(File::options().write(true).open(&image).is_ok().then_some(()))
        })
        .unwrap();
    }
    let fs = LoopFs::open(&image, &mount).unwrap();
    let found = ledger::verify(&mount.join("ledger.db")).unwrap().transactions;
    assert!(found == done || found == done + 1, "{done} were acknowledged, {found} are there");
    fs.close().unwrap();
}
