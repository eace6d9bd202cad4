//! Round trips, and nothing believed that was not written: every bit, every length, every other place.

use lifeboat_model::{BranchId, Epoch, GatewayId, GroupId, Lsn, PointId, PointKind, SegmentSeq, Timestamp, VaultId};

use super::*;
use crate::FormatError;
use crate::keys::GroupKey;

type Check = Box<dyn Fn(&[u8], &RecordPlace, &GroupKey) -> Result<(), FormatError>>;

fn key() -> GroupKey {
    GroupKey::from_bytes([0xa1; 32])
}

fn place(name: &str) -> RecordPlace {
    RecordPlace {
        vault: VaultId::from_bytes([0x11; 16]),
        group: GroupId::from_bytes([0x22; 16]),
        name: name.to_owned(),
    }
}

fn at(epoch: u64, seq: u64, lsn: u64) -> KeptPosition {
    KeptPosition { epoch: Epoch(epoch), seq: SegmentSeq(seq), lsn: Lsn(lsn) }
}

fn kept() -> KeptPoints {
    let branch = KeptBranch {
        branch: BranchId::from_bytes([0x33; 16]),
        until: at(3, 14, 1005),
        points: vec![
            (PointId::from_bytes([0x66; 16]), at(2, 7, 900)),
            (PointId::from_bytes([0x67; 16]), at(3, 14, 1005)),
        ],
        others: vec![at(2, 9, 910)],
    };
    KeptPoints { revision: 7, time: Timestamp::from_micros(1_795_082_700_000_000), branches: vec![branch] }
}

fn intent() -> DeleteIntent {
    let doomed = |name: &str, reason| Doomed { name: name.to_owned(), size: 4711, reason };
    DeleteIntent {
        revision: 7,
        gateway: GatewayId::from_bytes([0x44; 16]),
        time: Timestamp::from_micros(1_795_082_700_000_001),
        objects: vec![
            doomed("br-1/log/00000001-000000000001", Reason::Unreferenced),
            doomed("br-1/log/00000001-000000000002", Reason::Orphan),
            doomed("br-2/epoch/00000001", Reason::Dropped),
            doomed("br-1/log/00000001-000000000003", Reason::Packed),
            doomed("gc/kept/000000000006", Reason::Superseded),
        ],
    }
}

fn mark() -> PointMark {
    PointMark {
        revision: 2,
        gateway: GatewayId::from_bytes([0x44; 16]),
        time: Timestamp::from_micros(5),
        point: PointId::from_bytes([0x66; 16]),
        branch: BranchId::from_bytes([0x33; 16]),
        at: at(2, 7, 900),
        taken: Timestamp::from_micros(4),
        kind: PointKind::Manual,
        label: "before the naïve upgrade".to_owned(),
        pinned: true,
        until: Some(Timestamp::from_micros(6)),
        reason: "audit".to_owned(),
    }
}

fn dropped() -> BranchDrop {
    BranchDrop {
        branch: BranchId::from_bytes([0x33; 16]),
        gateway: GatewayId::from_bytes([0x44; 16]),
        time: Timestamp::from_micros(9),
    }
}

fn records() -> Vec<(&'static str, &'static str, Vec<u8>, Check)> {
    let salt = [0x88; 16];
    vec![
        (
            "kept-points.bin",
            "gc/kept/000000000007",
            kept().encode(&place("gc/kept/000000000007"), salt, &key()).expect("encodes"),
            Box::new(|bytes, place, key| KeptPoints::decode(bytes, place, key).map(|found| assert_eq!(found, kept()))),
        ),
        (
            "delete-intent.bin",
            "gc/intent/000000000007",
            intent().encode(&place("gc/intent/000000000007"), salt, &key()).expect("encodes"),
            Box::new(|bytes, place, key| {
                DeleteIntent::decode(bytes, place, key).map(|found| assert_eq!(found, intent()))
            }),
        ),
        (
            "point-mark.bin",
            "marks/pt-66-000002",
            mark().encode(&place("marks/pt-66-000002"), salt, &key()).expect("encodes"),
            Box::new(|bytes, place, key| PointMark::decode(bytes, place, key).map(|found| assert_eq!(found, mark()))),
        ),
        (
            "branch-drop.bin",
            "br-33/epoch/dropped",
            dropped().encode(&place("br-33/epoch/dropped"), salt, &key()).expect("encodes"),
            Box::new(|bytes, place, key| {
                BranchDrop::decode(bytes, place, key).map(|found| assert_eq!(found, dropped()))
            }),
        ),
    ]
}

/// Golden bytes, as those in `tests/format/vectors.rs`: `LIFEBOAT_BLESS=1` writes new ones.
#[test]
fn records_are_written_byte_for_byte_and_read_for_ever() {
    for (file, name, bytes, check) in records() {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("vectors/v1").join(file);
        if std::env::var_os("LIFEBOAT_BLESS").is_some() {
            std::fs::write(&path, &bytes).expect("write the golden vector");
        }
        let golden = std::fs::read(&path).expect("the golden vector");
        assert!(golden == bytes, "{file} differs: raise the version of the structure and keep the old vector");
        check(&golden, &place(name), &key()).expect(file);
        let header = RecordHeader::decode_any(&golden).expect(file);
        assert_eq!(header.place, place(name));
    }
}

#[test]
fn every_changed_bit_and_every_cut_is_found() {
    for (file, name, bytes, check) in records() {
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut changed = bytes.clone();
                changed[at] ^= 1 << bit;
                assert!(check(&changed, &place(name), &key()).is_err(), "{file}: bit {bit} of byte {at}");
                // A repaired checksum is no proof.
                let end = changed.len() - 4;
                let sum = crc32c::crc32c(&changed[..end]).to_le_bytes();
                if at < end {
                    changed[end..].copy_from_slice(&sum);
                    assert!(check(&changed, &place(name), &key()).is_err(), "{file}: bit {bit} of byte {at}, repaired");
                }
            }
            assert!(check(&bytes[..at], &place(name), &key()).is_err(), "{file}: cut at {at}");
        }
        let mut longer = bytes.clone();
        longer.push(0);
        assert!(check(&longer, &place(name), &key()).is_err(), "{file}: a byte too many");
    }
}

#[test]
fn a_record_counts_only_in_its_own_place_and_under_its_own_key() {
    for (file, name, bytes, check) in records() {
        let other_group = RecordPlace { group: GroupId::from_bytes([1; 16]), ..place(name) };
        let other_vault = RecordPlace { vault: VaultId::from_bytes([1; 16]), ..place(name) };
        for elsewhere in [other_group, other_vault, place("gc/kept/000000000008")] {
            let error = check(&bytes, &elsewhere, &key()).expect_err(file);
            assert!(matches!(error, FormatError::Misplaced { .. }), "{file}: {error}");
        }
        let error = check(&bytes, &place(name), &GroupKey::from_bytes([1; 32])).expect_err(file);
        assert!(matches!(error, FormatError::WrongKey { .. }), "{file}: {error}");
        let mut newer = bytes.clone();
        newer[4] = 2;
        let error = check(&newer, &place(name), &key()).expect_err(file);
        assert!(matches!(error, FormatError::NewerVersion { found: 2, .. }), "{file}: {error}");
    }
}
