//! Nodes and footers behind their encryption: hostile plain text must be refused, never believed or panicked over.

use std::sync::Arc;

use lifeboat_model::{
    BlockHash, BranchId, Epoch, Lsn, MapId, PointId, PointKind, RootHash, SegmentId, SegmentSeq, Timestamp, VolumeId,
};
use proptest::prelude::*;

use super::*;
use crate::segment::{FrameNo, SegmentHash};

fn reference(node: u32) -> NodeRef {
    let object = MapObjectRef {
        branch: BranchId::from_bytes([1; 16]),
        lsn: Lsn(7),
        id: MapId::from_bytes([2; 16]),
        salt: [3; 16],
    };
    NodeRef { object: Arc::new(object), node, offset: 132, stored_len: 100, raw_len: 200, hash: RootHash([9; 32]) }
}

fn leaf() -> LeafNode {
    let mut editor = LeafEditor::default();
    for (slot, frame, frame_slot, seq) in [(0, 4, 0, 1), (1, 4, 1, 1), (2, 4, 2, 1), (9, 4, 2, 2), (511, 0, 15, 1)] {
        let segment = SegmentId { branch: BranchId::from_bytes([1; 16]), epoch: Epoch(2), seq: SegmentSeq(seq) };
        let location = BlockLocation { segment, frame: FrameNo(frame), slot: frame_slot };
        editor.set(slot, location, BlockHash([u8::try_from(slot % 200).expect("small") + 1; 16]));
    }
    editor.freeze()
}

fn inner() -> InnerNode {
    let mut inner = InnerNode::new(2);
    inner.set_child(0, Child::Node(reference(4)));
    inner.set_child(255, Child::Node(reference(5)));
    inner
}

fn footer() -> Vec<u8> {
    let footer = MapFooter {
        position: LogPosition { epoch: Epoch(1), seq: SegmentSeq(2), lsn: Lsn(7), segment_hash: SegmentHash([5; 32]) },
        roots: vec![
            VolumeRoot { volume: VolumeId::from_bytes([8; 16]), size_blocks: 1 << 20, root: Child::Node(reference(5)) },
            VolumeRoot { volume: VolumeId::from_bytes([9; 16]), size_blocks: 1, root: Child::Zero },
        ],
        points: vec![RetainedPoint {
            id: PointId::from_bytes([6; 16]),
            lsn: Lsn(7),
            time: Timestamp::from_micros(3),
            kind: PointKind::AppConsistent,
            consistent: true,
            label: "nightly".to_owned(),
            epoch: Epoch(1),
            seq: SegmentSeq(2),
        }],
    };
    footer.encode(&[NodeEntry { stored_len: 100, raw_len: 200 }]).expect("within the limits")
}

#[test]
fn leaves_use_the_fewest_runs_and_find_their_blocks() {
    let leaf = leaf();
    assert_eq!(leaf.runs().len(), 3);
    assert_eq!(leaf.segments().len(), 2);
    let (location, hash) = leaf.get(2).expect("there");
    assert_eq!((location.frame, location.slot, hash), (FrameNo(4), 2, BlockHash([3; 16])));
    assert_eq!(leaf.get(3), None);
    assert_eq!(leaf.get(511).expect("there").0.slot, 15);
    assert_eq!(leaf.edit().freeze(), leaf);
    for (slot, location, hash) in leaf.blocks() {
        assert_eq!(leaf.get(slot), Some((location, hash)));
    }
}

#[test]
fn nodes_round_trip() {
    for node in [Node::Leaf(leaf()), Node::Inner(inner())] {
        assert_eq!(Node::decode(&node.encode().expect("within the limits")), Ok(node));
    }
    let raw = footer();
    let (decoded, nodes) = MapFooter::decode(&raw).expect("decodes");
    assert_eq!(decoded.encode(&nodes), Ok(raw));
    assert!(decoded.is_head());
}

/// Empty nodes are never written, so one that is read was not written by us.
#[test]
fn empty_nodes_are_refused() {
    for node in [Node::Leaf(LeafNode::default()), Node::Inner(InnerNode::new(1))] {
        assert!(matches!(Node::decode(&node.encode().expect("encodes")), Err(crate::FormatError::Corrupt { .. })));
    }
}

proptest! {
    #[test]
    fn hostile_plain_text_never_panics(tag in 0_u8..4, raw in proptest::collection::vec(any::<u8>(), 0..600)) {
        let mut raw = raw;
        raw.insert(0, tag);
        if let Ok(node) = Node::decode(&raw) {
            prop_assert!(node.level() <= 4);
        }
        let _ = MapFooter::decode(&raw);
    }

    #[test]
    fn altered_nodes_and_footers_decode_to_themselves_or_not_at_all(at: usize, byte: u8) {
        for node in [Node::Leaf(leaf()), Node::Inner(inner())] {
            let mut raw = node.encode().expect("within the limits");
            let at = at % raw.len();
            raw[at] = byte;
            if let Ok(node) = Node::decode(&raw) {
                prop_assert_eq!(node.encode().expect("within the limits").len(), raw.len());
                if let Node::Leaf(leaf) = node {
                    for (slot, location, _) in leaf.blocks() {
                        prop_assert!(slot < 512 && location.slot < 16);
                    }
                }
            }
        }
        let mut raw = footer();
        let at = at % raw.len();
        raw[at] = byte;
        if let Ok((footer, nodes)) = MapFooter::decode(&raw) {
            prop_assert_eq!(footer.encode(&nodes).expect("within the limits"), raw);
        }
    }
}
