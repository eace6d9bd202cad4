//! The index behind its encryption: hostile plain text must be refused, never believed or panicked over.

use lifeboat_model::{BlockHash, VolumeId};
use proptest::prelude::*;

use super::*;
use crate::segment::FrameNo;

fn block(frame: u32, slot: u8) -> RebuiltBlock {
    RebuiltBlock { frame: FrameNo(frame), slot, hash: BlockHash([slot + 1; 16]) }
}

/// Two frames of two volumes; the segment's frame 7 is split over both objects' frames of the first volume.
fn index() -> RebuiltIndex {
    let volume = |byte| RebuiltVolume { volume: VolumeId::from_bytes([byte; 16]), key: u32::from(byte) };
    let frame = |offset, volume_index, blocks: Vec<RebuiltBlock>| RebuiltFrame {
        offset,
        stored_len: 40,
        flags: seal::FLAG_ZSTD,
        volume_index,
        blocks,
    };
    RebuiltIndex::new(
        vec![volume(4), volume(5)],
        vec![
            frame(172, 0, vec![block(2, 15), block(7, 0)]),
            frame(212, 0, vec![block(7, 3), block(9, 1)]),
            frame(252, 1, vec![block(3, 2)]),
        ],
    )
}

#[test]
fn a_good_index_passes_its_own_rules_and_finds_every_block() {
    let index = index();
    let raw = index.encode().expect("within the limits");
    assert_eq!(RebuiltIndex::decode(&raw).expect("decodes"), index);
    index.check(292).expect("keeps the rules");
    let found: Vec<SlotAt> = index.slots_of(FrameNo(7)).collect();
    assert_eq!(found, [SlotAt { slot: 0, number: 0, nth: 1 }, SlotAt { slot: 3, number: 1, nth: 0 }]);
    assert_eq!(index.block(found[1]), Some(block(7, 3)));
    assert_eq!(index.slots_of(FrameNo(8)).count(), 0);
    let all: Vec<(u32, u8)> = index.blocks().map(|block| (block.frame.0, block.slot)).collect();
    assert_eq!(all, [(2, 15), (3, 2), (7, 0), (7, 3), (9, 1)]);
}

/// Each rule between the lists, broken once.
#[test]
fn broken_rules_are_named() {
    type Change = fn(&mut Vec<RebuiltVolume>, &mut Vec<RebuiltFrame>);
    let breaks: [(&str, Change); 6] = [
        ("numbered from 1", |volumes, _| volumes[0].key = 0),
        ("table twice", |volumes, _| volumes[1] = volumes[0]),
        ("isn't in the table", |_, frames| frames[2].volume_index = 2),
        ("index begins", |_, frames| drop(frames.pop())),
        ("there twice", |_, frames| frames[1].blocks[0] = frames[0].blocks[1]),
        ("zeroes", |_, frames| frames[1].blocks[0].hash = BlockHash([0; 16])),
    ];
    for (expected, change) in breaks {
        let RebuiltIndex { mut volumes, mut frames, .. } = index();
        change(&mut volumes, &mut frames);
        let error = RebuiltIndex::new(volumes, frames).check(292).expect_err(expected).to_string();
        assert!(error.contains(expected), "{expected:?} is not in {error:?}");
    }
}

/// A count that the bytes can't hold is refused before memory is taken for it.
#[test]
fn a_huge_count_is_refused() {
    for at in [0, 44] {
        let mut raw = index().encode().expect("within the limits");
        raw[at..at + 4].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(matches!(RebuiltIndex::decode(&raw), Err(FormatError::TooLarge { .. })));
        raw[at..at + 4].copy_from_slice(&200_u32.to_le_bytes());
        assert!(matches!(RebuiltIndex::decode(&raw), Err(FormatError::Truncated { .. })));
    }
}

proptest! {
    #[test]
    fn hostile_plain_text_never_panics(raw in proptest::collection::vec(any::<u8>(), 0..600)) {
        if let Ok(index) = RebuiltIndex::decode(&raw) {
            let _ = index.check(292);
        }
    }

    #[test]
    fn an_altered_index_decodes_to_itself_or_not_at_all(at in 0_usize..400, byte: u8, cut in 0_usize..400) {
        let mut raw = index().encode().expect("within the limits");
        let at = at % raw.len();
        raw[at] = byte;
        raw.truncate(raw.len() - cut.min(raw.len()) % 7);
        if let Ok(index) = RebuiltIndex::decode(&raw) {
            // One content has one encoding: what decodes encodes to the same bytes.
            if index.check(292).is_ok() {
                prop_assert_eq!(index.encode().expect("within the limits"), raw);
            }
        }
    }
}
