//! What shipping and recovery are held against: the same work on the bytes by the same libraries, without a product around.

#![allow(dead_code, unreachable_pub, reason = "each benchmark uses its own part")]
#![allow(clippy::unwrap_used, reason = "a benchmark that can't measure ends with a panic")]

use std::time::{Duration, Instant};

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};

/// Raw bytes of a frame.
const FRAME: usize = 64 << 10;

fn key() -> LessSafeKey {
    LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &[7; 32]).unwrap())
}

fn nonce(number: usize) -> Nonce {
    let mut bytes = [0; 12];
    bytes[..8].copy_from_slice(&(number as u64).to_le_bytes());
    Nonce::assume_unique_for_key(bytes)
}

/// Compresses and encrypts, frame by frame, on this thread.
pub fn seal(data: &[u8], level: i32) -> Vec<Vec<u8>> {
    let key = key();
    let mut compressor = zstd::bulk::Compressor::new(level).unwrap();
    data.chunks(FRAME)
        .enumerate()
        .map(|(number, frame)| {
            let mut stored = compressor.compress(frame).unwrap();
            key.seal_in_place_append_tag(nonce(number), Aad::empty(), &mut stored).unwrap();
            stored
        })
        .collect()
}

/// Decrypts and decompresses on so many threads; gives the time.
pub fn open(frames: &[Vec<u8>], threads: usize) -> Duration {
    let started = Instant::now();
    std::thread::scope(|scope| {
        for thread in 0..threads {
            scope.spawn(move || {
                let key = key();
                let mut decompressor = zstd::bulk::Decompressor::new().unwrap();
                for (number, frame) in frames.iter().enumerate().skip(thread).step_by(threads) {
                    let mut stored = frame.clone();
                    let plain = key.open_in_place(nonce(number), Aad::empty(), &mut stored).unwrap();
                    std::hint::black_box(decompressor.decompress(plain, FRAME).unwrap());
                }
            });
        }
    });
    started.elapsed()
}

/// Hashes 4 KiB blocks on so many threads; gives the time.
pub fn hash(data: &[u8], threads: usize) -> Duration {
    let started = Instant::now();
    std::thread::scope(|scope| {
        for part in data.chunks(data.len().div_ceil(threads).next_multiple_of(4096)) {
            scope.spawn(move || {
                for block in part.chunks(4096) {
                    std::hint::black_box(blake3::keyed_hash(&[9; 32], block));
                }
            });
        }
    });
    started.elapsed()
}

/// Processor time that this process has used, all threads.
pub fn cpu_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    // Fields after the name, which may hold anything: user and system time are the 14th and 15th of the line.
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    Duration::from_millis(ticks * 10)
}
