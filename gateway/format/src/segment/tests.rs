//! The index behind its encryption: hostile plain text must be refused, never believed or panicked over.

use proptest::prelude::*;

use super::*;
use crate::keys::Salt;
use lifeboat_model::{BlockHash, Extent};

fn header() -> SegmentHeader {
    SegmentHeader {
        version: SEGMENT_VERSION,
        place: SegmentPlace {
            vault: VaultId::from_bytes([1; 16]),
            group: GroupId::from_bytes([2; 16]),
            id: SegmentId { branch: BranchId::from_bytes([3; 16]), epoch: Epoch(1), seq: SegmentSeq(1) },
        },
        first_lsn: Lsn(1),
        last_lsn: Lsn(9),
        time: Timestamp::from_micros(0),
        salt: Salt::default(),
        writer_nonce: [0; 16],
        commitment: [0; 32],
        previous: SegmentHash::ZERO,
    }
}

fn index() -> SegmentIndex {
    let volume = VolumeId::from_bytes([4; 16]);
    SegmentIndex {
        volumes: vec![SegmentVolume { volume, size_blocks: 1000, key: 3 }],
        frames: vec![FrameEntry {
            frame: FrameNo(0),
            offset: 196,
            stored_len: 40,
            raw_len: 12288,
            flags: frame::FLAG_ZSTD,
            volume_index: 0,
            runs: vec![BlockRun { lba: 5, count: 2 }, BlockRun { lba: 900, count: 1 }],
            hashes: vec![BlockHash([7; 16]), BlockHash([8; 16]), BlockHash([9; 16])],
        }],
        operations: vec![
            Operation::Zero { volume, extent: Extent { lba: 0, blocks: 5 } },
            Operation::Frame(FrameNo(0)),
            Operation::Resize { volume, size_blocks: 2000 },
            Operation::Trim { volume, extent: Extent { lba: 1999, blocks: 1 } },
            Operation::Point(Box::new(RecoveryPoint {
                id: PointId::from_bytes([5; 16]),
                lsn: Lsn(9),
                time: Timestamp::from_micros(1),
                kind: PointKind::Manual,
                consistent: true,
                label: "before the upgrade".to_owned(),
                volumes: vec![PointVolume { volume, size_blocks: 2000, root: Some(RootHash([6; 32])) }],
            })),
        ],
    }
}

#[test]
fn a_good_index_passes_its_own_rules() {
    let index = index();
    let raw = index.encode(SEGMENT_VERSION).expect("within the limits");
    assert_eq!(SegmentIndex::decode(SEGMENT_VERSION, &raw).expect("decodes"), index);
    index.check(&header(), 236).expect("keeps the rules");
}

/// Version 1 has no numbers of keys: what it holds stands under the first.
#[test]
fn version_1_means_the_first_key() {
    let mut index = index();
    assert!(matches!(index.encode(1), Err(FormatError::Refused { .. })), "version 1 can't name key 3");
    index.volumes[0].key = FIRST_KEY;
    let raw = index.encode(1).expect("within the limits");
    assert_eq!(raw.len() + 4, index.encode(SEGMENT_VERSION).expect("within the limits").len());
    assert_eq!(SegmentIndex::decode(1, &raw).expect("decodes"), index);
    assert!(SegmentIndex::decode(SEGMENT_VERSION, &raw).is_err());
}

/// Each rule between the lists, broken once.
#[test]
fn broken_rules_are_named() {
    let volume = VolumeId::from_bytes([4; 16]);
    type Change = fn(&mut SegmentIndex, VolumeId);
    let breaks: [(&str, Change); 9] = [
        ("numbered from 1", |index, _| index.volumes[0].key = 0),
        ("twice", |index, _| index.volumes.push(index.volumes[0])),
        ("gap or overlap", |index, _| index.frames[0].offset = 200),
        ("index begins", |index, _| index.frames[0].stored_len = 41),
        ("past the end of its volume", |index, _| index.frames[0].runs[1].lba = 1000),
        ("has no operation", |index, _| drop(index.operations.remove(1))),
        ("once and in order", |index, _| index.operations.insert(0, Operation::Frame(FrameNo(0)))),
        ("reaches past", |index, volume| {
            index.operations.insert(0, Operation::Trim { volume, extent: Extent { lba: u64::MAX, blocks: 2 } });
        }),
        ("out of order", |index, _| {
            if let Some(Operation::Point(point)) = index.operations.last_mut() {
                point.lsn = Lsn(10);
            }
        }),
    ];
    for (expected, change) in breaks {
        let mut index = index();
        change(&mut index, volume);
        let error = index.check(&header(), 236).expect_err(expected).to_string();
        assert!(error.contains(expected), "{expected:?} is not in {error:?}");
    }
}

/// A count that the bytes can't hold is refused before memory is taken for it.
#[test]
fn a_huge_count_is_refused() {
    for at in [0, 32] {
        let mut raw = index().encode(SEGMENT_VERSION).expect("within the limits");
        raw[at..at + 4].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(matches!(SegmentIndex::decode(SEGMENT_VERSION, &raw), Err(FormatError::TooLarge { .. })));
        raw[at..at + 4].copy_from_slice(&200_u32.to_le_bytes());
        assert!(matches!(SegmentIndex::decode(SEGMENT_VERSION, &raw), Err(FormatError::Truncated { .. })));
    }
}

proptest! {
    #[test]
    fn hostile_plain_text_never_panics(raw in proptest::collection::vec(any::<u8>(), 0..600)) {
        for version in [1, SEGMENT_VERSION] {
            if let Ok(index) = SegmentIndex::decode(version, &raw) {
                let _ = index.check(&header(), 236);
            }
        }
    }

    #[test]
    fn an_altered_index_decodes_to_itself_or_not_at_all(at in 0_usize..400, byte: u8, cut in 0_usize..400) {
        let mut raw = index().encode(SEGMENT_VERSION).expect("within the limits");
        let at = at % raw.len();
        raw[at] = byte;
        raw.truncate(raw.len() - cut.min(raw.len()) % 7);
        if let Ok(index) = SegmentIndex::decode(SEGMENT_VERSION, &raw) {
            // One content has one encoding: what decodes encodes to the same bytes.
            if index.check(&header(), 236).is_ok() {
                prop_assert_eq!(index.encode(SEGMENT_VERSION).expect("within the limits"), raw);
            }
        }
    }
}
