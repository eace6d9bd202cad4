//! Durable 4 KiB writes: the write path with its group commit beside a plain file of the same disk.
//!
//! Both sides write random blocks and make each one durable before the next (write + flush; pwrite + fdatasync), from 1
//! thread and from 32. Rounds alternate (A, B, A, B, …) in one run, and the ratio of the medians is printed: above 1.00 the
//! write path is faster. `cargo bench -p lifeboat-engine` runs it; the directory is TMPDIR's.

#![expect(clippy::print_stdout, reason = "a benchmark prints its figures")]

use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use lifeboat_engine::disk::{Disk, LocalDisk};
use lifeboat_engine::image::Image;
use lifeboat_engine::write_path::{Limits, Submitted, WritePath};
use lifeboat_engine::{EngineError, Op};
use lifeboat_model::{Epoch, GroupId, Lsn, VolumeId};

const BLOCKS: u64 = 16 << 10;
const ROUND: Duration = Duration::from_millis(800);
const ROUNDS: usize = 5;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = tempfile::tempdir()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_time().build()?;
    let disk: Arc<dyn Disk> = LocalDisk::open(&dir.path().join("group"))?;
    let volume = VolumeId::new();
    let path =
        Arc::new(WritePath::create(&disk, GroupId::new(), Epoch(1), Limits::for_journal(1 << 30, 64 << 20), Lsn(1))?);
    path.add_volume(volume, Arc::new(Image::create(&disk, volume, BLOCKS, false)?));
    let loops: Vec<_> = [0, 1, 2]
        .into_iter()
        .map(|which| {
            let path = Arc::clone(&path);
            std::thread::spawn(move || match which {
                0 => path.commit_loop(),
                1 => path.sync_loop(),
                _ => path.upkeep_loop(Duration::from_millis(500), |_| path.reclaim(path.figures().image)),
            })
        })
        .collect();
    let plain = Arc::new(std::fs::File::create_new(dir.path().join("plain"))?);
    plain.write_all_at(&vec![1; usize::try_from(BLOCKS * 4096)?], 0)?;
    plain.sync_all()?;

    println!("{:<28} {:>12} {:>12} {:>7}", "4 KiB write, each durable", "write path/s", "plain file/s", "ratio");
    for tasks in [1_u64, 32] {
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            ours.push(runtime.block_on(write_path_round(&path, volume, tasks))?);
            theirs.push(plain_round(&plain, tasks)?);
        }
        let (a, b) = (median(ours), median(theirs));
        println!("{:<28} {a:>12.0} {b:>12.0} {:>7.2}", format!("{tasks} at a time"), a / b);
    }
    path.stop();
    loops.into_iter().try_for_each(|thread| thread.join().map_err(|_| "a loop of the write path panicked"))?;
    Ok(())
}

fn median(mut rates: Vec<f64>) -> f64 {
    rates.sort_by(f64::total_cmp);
    rates[rates.len() / 2]
}

fn rate(count: u64, time: Duration) -> f64 {
    f64::from(u32::try_from(count).unwrap_or(u32::MAX)) / time.as_secs_f64()
}

fn scattered(seed: &mut u64) -> u64 {
    *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    (*seed >> 33) % BLOCKS
}

async fn write_path_round(path: &Arc<WritePath>, volume: VolumeId, tasks: u64) -> Result<f64, EngineError> {
    let started = Instant::now();
    let mut running = Vec::new();
    for task in 0..tasks {
        let path = Arc::clone(path);
        running.push(tokio::spawn(async move {
            let (mut seed, mut count) = (task + 1, 0);
            let data = Bytes::from(vec![u8::try_from(task).unwrap_or(0); 4096]);
            while started.elapsed() < ROUND {
                let op = Op::Write { volume, lba: scattered(&mut seed), data: data.clone() };
                let ack = loop {
                    match path.submit(&op)? {
                        Submitted::Accepted(_, ack) => break ack,
                        Submitted::Wait => path.room().await,
                    }
                };
                if let Some(flushed) = path.flush()? {
                    let _ = flushed.await;
                }
                let _ = ack.await;
                count += 1;
            }
            Ok::<u64, EngineError>(count)
        }));
    }
    let mut count = 0;
    for task in running {
        count += task.await.unwrap_or(Ok(0))?;
    }
    Ok(rate(count, started.elapsed()))
}

fn plain_round(file: &Arc<std::fs::File>, threads: u64) -> std::io::Result<f64> {
    let started = Instant::now();
    let running: Vec<_> = (0..threads)
        .map(|thread| {
            let file = Arc::clone(file);
            std::thread::spawn(move || -> std::io::Result<u64> {
                let (mut seed, mut count) = (thread + 1, 0);
                let data = vec![u8::try_from(thread).unwrap_or(0); 4096];
                while started.elapsed() < ROUND {
                    file.write_all_at(&data, scattered(&mut seed) * 4096)?;
                    file.sync_data()?;
                    count += 1;
                }
                Ok(count)
            })
        })
        .collect();
    let mut count = 0;
    for thread in running {
        count += thread.join().unwrap_or(Ok(0))?;
    }
    Ok(rate(count, started.elapsed()))
}
