//! Generated operations through a real mount, each compared with an array of bytes.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::os::unix::fs::FileExt;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use rustix::fs::{FallocateFlags, fallocate};
use served::{Served, open};
use support::{MemoryVolume, volume};

#[path = "support/served.rs"]
mod served;
mod support;

const SIZE: usize = 3 << 20;

#[derive(Clone, Debug)]
enum Op {
    Write { offset: usize, len: usize, fill: u8 },
    Read { offset: usize, len: usize },
    Punch { offset: usize, len: usize },
    Zero { offset: usize, len: usize },
    Sync,
    Reopen { direct: bool },
}

fn op() -> impl Strategy<Value = Op> {
    // Short and long ranges, on block boundaries, beside them, and across the end.
    let offset =
        prop_oneof![0..SIZE + 5000, (0..SIZE / 4096 + 2).prop_map(|block| block * 4096), SIZE - 5000..SIZE + 10];
    let len =
        prop_oneof![4 => 1..10_000_usize, 1 => 1..2_500_000_usize, 2 => (1..64_usize).prop_map(|blocks| blocks * 4096)];
    prop_oneof![
        6 => (offset.clone(), len.clone(), any::<u8>()).prop_map(|(offset, len, fill)| Op::Write { offset, len, fill }),
        6 => (offset.clone(), len.clone()).prop_map(|(offset, len)| Op::Read { offset, len }),
        2 => (offset.clone(), len.clone()).prop_map(|(offset, len)| Op::Punch { offset, len }),
        2 => (offset, len).prop_map(|(offset, len)| Op::Zero { offset, len }),
        1 => Just(Op::Sync),
        1 => any::<bool>().prop_map(|direct| Op::Reopen { direct }),
    ]
}

#[test]
fn a_volume_file_is_an_array_of_bytes() {
    let served = Served::new();
    let cases = std::cell::Cell::new(0_u32);
    let mut runner = TestRunner::new(Config { cases: 48, failure_persistence: None, ..Config::default() });
    runner
        .run(&prop::collection::vec(op(), 1..40), |ops| {
            cases.set(cases.get() + 1);
            let name = format!("case-{}", cases.get());
            let disk = MemoryVolume::new(SIZE);
            served.tree.put(volume(&name), 1, &disk);
            let path = served.path(&format!("volumes/{name}.img"));
            let mut model = vec![0_u8; SIZE];
            let mut file = open(&path, libc::O_RDWR).unwrap();
            for op in &ops {
                match *op {
                    Op::Write { offset, len, fill } => {
                        let data: Vec<u8> = (0..251_u8).cycle().take(len).map(|step| fill.wrapping_add(step)).collect();
                        let inside = len.min(SIZE.saturating_sub(offset));
                        if inside == 0 {
                            let error = file.write_at(&data, offset as u64).unwrap_err();
                            prop_assert_eq!(error.raw_os_error(), Some(libc::EFBIG));
                        } else {
                            // write_all reports what crosses the end only after it has written what is inside.
                            prop_assert_eq!(file.write_all_at(&data, offset as u64).is_ok(), inside == len);
                            model[offset..offset + inside].copy_from_slice(&data[..inside]);
                        }
                    }
                    Op::Read { offset, len } => {
                        let mut back = vec![0xee; len];
                        let inside = len.min(SIZE.saturating_sub(offset));
                        let mut done = 0;
                        while done < len {
                            match file.read_at(&mut back[done..], (offset + done) as u64).unwrap() {
                                0 => break,
                                more => done += more,
                            }
                        }
                        prop_assert_eq!(done, inside);
                        prop_assert!(inside == 0 || back[..inside] == model[offset..offset + inside]);
                    }
                    Op::Punch { offset, len } | Op::Zero { offset, len } => {
                        let how = match op {
                            Op::Punch { .. } => FallocateFlags::PUNCH_HOLE,
                            _ => FallocateFlags::ZERO_RANGE,
                        };
                        fallocate(&file, how | FallocateFlags::KEEP_SIZE, offset as u64, len as u64).unwrap();
                        let inside = len.min(SIZE.saturating_sub(offset));
                        if inside > 0 {
                            model[offset..offset + inside].fill(0);
                        }
                    }
                    Op::Sync => file.sync_all().unwrap(),
                    Op::Reopen { direct } => {
                        file = open(&path, libc::O_RDWR | if direct { libc::O_DIRECT } else { 0 }).unwrap();
                    }
                }
            }
            prop_assert!(*disk.bytes.lock().unwrap() == model);
            prop_assert!(std::fs::read(&path).unwrap() == model);
            served.tree.remove(&volume(&name));
            Ok(())
        })
        .unwrap();
}
