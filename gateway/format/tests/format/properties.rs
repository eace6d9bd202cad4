//! Generated content round-trips; generated damage never panics.

use std::collections::{BTreeMap, BTreeSet};

use lifeboat_format::FormatError;
use lifeboat_format::epoch::{EpochCut, EpochIntent};
use lifeboat_format::inspect::describe;
use lifeboat_format::local::{GroupState, PresenceHeader, newest_state};
use lifeboat_format::map::{
    BlockLocation, Child, InnerNode, LeafEditor, MapBuilder, MapFooter, MapHeader, MapKeys, MapObject, MapParams,
    MapTrailer, Node,
};
use lifeboat_format::segment::{
    FrameBlock, FrameNo, Operation, SegmentHeader, SegmentObject, SegmentTrailer, TRAILER_LEN, prepare_frame,
};
use lifeboat_format::stream::recall::{
    Begin, Blocks, Dirty, Fetch, Fetched, OwnEnd, Reached, Recall, Target, decode_own_end_is,
};
use lifeboat_format::stream::{
    Answer, Ask, Attend, Declare, End, FRAME_HEAD_LEN, FrameHead, Open, Opened, Progress, Records, Report, Tenure,
};
use lifeboat_model::{BLOCK_SIZE, BlockHash, Epoch, Extent, Lsn, SegmentId, SegmentSeq};
use proptest::prelude::*;

use crate::fixture::*;

#[derive(Debug, Clone)]
enum Step {
    Frame(BTreeSet<u16>, bool),
    Zero(u16, u16),
    Trim(u16, u16),
    Grow(u16),
    Point,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        (proptest::collection::btree_set(0_u16..1000, 1..=16), any::<bool>())
            .prop_map(|(at, noise)| Step::Frame(at, noise)),
        (0_u16..500, 1_u16..500).prop_map(|(lba, blocks)| Step::Zero(lba, blocks)),
        (0_u16..500, 1_u16..500).prop_map(|(lba, blocks)| Step::Trim(lba, blocks)),
        (1000_u16..2000).prop_map(Step::Grow),
        Just(Step::Point),
    ];
    proptest::collection::vec(step, 1..12)
}

fn content(lba: u16, noise: bool) -> [u8; BLOCK_SIZE] {
    if noise { noise_block(u64::from(lba)) } else { text_block(lba.to_le_bytes()[0]) }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn segments_round_trip(steps in steps()) {
        let (keys, hasher) = (volume_keys(), hasher());
        let mut builder = segment_builder();
        builder.add_volume(VOLUME, 1000, DATA_KEY).expect("a volume");
        let context = builder.context();
        let frame_key = context.frame_key(&keys.data);
        let mut expected = BTreeMap::new();
        let mut lsn = 1001;
        for step in &steps {
            match step {
                Step::Frame(addresses, noise) => {
                    let data: Vec<_> = addresses.iter().map(|lba| (*lba, content(*lba, *noise))).collect();
                    let blocks: Vec<_> = data
                        .iter()
                        .map(|(lba, data)| FrameBlock { lba: u64::from(*lba), data, hash: hasher.block(data) })
                        .collect();
                    let frame = builder.reserve_frame();
                    let prepared = prepare_frame(&context, frame, VOLUME, &frame_key, &blocks).expect("prepares");
                    builder.push_prepared(prepared).expect("pushes");
                    expected.insert(frame, data);
                }
                Step::Zero(lba, blocks) => builder
                    .push_zero(VOLUME, Extent { lba: u64::from(*lba), blocks: u64::from(*blocks) })
                    .expect("a run"),
                Step::Trim(lba, blocks) => builder
                    .push_trim(VOLUME, Extent { lba: u64::from(*lba), blocks: u64::from(*blocks) })
                    .expect("a run"),
                Step::Grow(size) => builder.push_resize(VOLUME, u64::from(*size)).expect("a size"),
                Step::Point => {
                    lsn += 1;
                    builder.push_point(point(lsn)).expect("a point");
                }
            }
        }
        let estimate = builder.bytes_so_far();
        let sealed = builder.seal(Lsn(lsn), TIME).expect("seals");
        prop_assert!(u64::try_from(sealed.bytes.len()).expect("small") <= estimate + 64);

        let opened = SegmentObject::open(&sealed.bytes, &segment_place(), &group_key()).expect("opens");
        prop_assert_eq!(&opened.header, &sealed.header);
        prop_assert_eq!(&opened.index, &sealed.index);
        prop_assert_eq!(opened.trailer.hash(), sealed.hash);
        prop_assert_eq!(opened.index.operations.len(), steps.len());
        for (frame, data) in &expected {
            let raw = opened.frame(*frame, &keys.data).expect("a frame");
            let addresses: Vec<_> = opened.index.frame(*frame).expect("listed").blocks().collect();
            prop_assert_eq!(addresses.len(), data.len());
            for ((lba, block), (found, slot, hash)) in data.iter().zip(addresses) {
                prop_assert_eq!(u64::from(*lba), found);
                let at = usize::from(slot) * BLOCK_SIZE;
                prop_assert!(raw[at..at + BLOCK_SIZE] == block[..]);
                prop_assert_eq!(hash, hasher.block(block));
            }
        }
        opened.verify(|_| Some(&keys)).expect("every block equals its hash");
    }

    #[test]
    fn maps_round_trip(
        slots in proptest::collection::btree_map(0_u16..512, (1_u64..4, 0_u32..3, 0_u8..16, any::<u8>()), 0..200),
        children in proptest::collection::btree_set(any::<u8>(), 0..20),
    ) {
        let hasher = hasher();
        let mut editor = LeafEditor::default();
        for (slot, (seq, frame, frame_slot, byte)) in &slots {
            let segment = SegmentId { branch: BRANCH, epoch: Epoch(1), seq: SegmentSeq(*seq) };
            let location = BlockLocation { segment, frame: FrameNo(*frame), slot: *frame_slot };
            editor.set(*slot, location, BlockHash([*byte; 16]));
        }
        let leaf = editor.freeze();
        for slot in 0..512 {
            prop_assert_eq!(leaf.get(slot), editor.get(slot));
        }
        let mut builder = MapBuilder::new(MapParams { place: map_place(), salt: [5; 16] }, &group_key());
        let child = builder.push_leaf(leaf.clone(), &hasher).expect("pushes");
        prop_assert_eq!(child == Child::Zero, leaf.is_empty());
        let mut inner = InnerNode::new(1);
        children.iter().for_each(|at| inner.set_child(*at, child.clone()));
        let root = builder.push_inner(inner.clone(), &hasher).expect("pushes");
        let sealed = builder.seal(MapFooter::default()).expect("seals");

        let opened = MapObject::open(&sealed.bytes, &map_place(), &group_key()).expect("opens");
        prop_assert!(!opened.footer.is_head());
        prop_assert_eq!(opened.read_all().count(), opened.nodes.len());
        if let Child::Node(reference) = &root {
            prop_assert_eq!(opened.node(reference), Ok(Node::Inner(inner)));
        }
        if let Child::Node(reference) = &child {
            // By range, as from a vault: nothing but the reference is known.
            let keys = MapKeys::new(VAULT, GROUP, &reference.object, &group_key());
            let range = usize::try_from(reference.range().start).expect("small")..usize::try_from(reference.range().end).expect("small");
            prop_assert_eq!(keys.open_proved(reference, &sealed.bytes[range.clone()], &hasher), Ok(Node::Leaf(leaf)));
            let other = lifeboat_format::hash::BlockHasher::new(&lifeboat_format::keys::HashKey::from_bytes([0; 32]));
            prop_assert!(keys.open_proved(reference, &sealed.bytes[range], &other).is_err());
        }
    }

    #[test]
    fn hostile_bytes_never_panic(magic in 0_usize..10, bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let magics: [&[u8]; 10] = [b"", b"LBDM\x01\0", b"LBSG\x01\0", b"LBMP\x01\0", b"LBEI\x01\0", b"LBEC\x01\0", b"LBGS\x01\0", b"LBPB\x01\0", b"LBJF\x01\0", b"LBJB\x01\0"];
        let mut hostile = magics[magic].to_vec();
        hostile.extend(bytes);
        decode_everything(&hostile);
    }

    /// Damage behind a checksum that was put right: what a clever liar sends.
    #[test]
    fn damage_behind_a_right_checksum_never_panics(at: usize, byte: u8, kind in 0_usize..6) {
        let (mut bytes, sum_at) = match kind {
            0 => (segment(false).bytes, 192),
            1 => (map().bytes, 128),
            2 => (intent(true).encode(&group_key()), intent(true).encode(&group_key()).len() - 36),
            3 => (state_file(), 4092),
            4 => (dirty().encode().expect("encodes"), dirty().encode().expect("encodes").len() - 4),
            _ => (presence().encode(), 4092),
        };
        bytes[at % sum_at] = byte;
        let sum = crc32c::crc32c(&bytes[..sum_at]).to_le_bytes();
        bytes[sum_at..sum_at + 4].copy_from_slice(&sum);
        decode_everything(&bytes);
    }

    /// A frame of a liar who gets the checksum right.
    #[test]
    fn a_changed_body_of_a_frame_never_panics(at: usize, byte: u8, kind in 0_usize..33) {
        let mut body = stream_frames()[kind].1.split_off(FRAME_HEAD_LEN);
        let len = body.len();
        body[at % len] = byte;
        decode_bodies(&body);
    }

    /// A trailer that lies about where things are, behind a right checksum.
    #[test]
    fn a_lying_trailer_never_panics(at in 0_usize..92, byte: u8) {
        for mut bytes in [segment(false).bytes, map().bytes] {
            let trailer_at = bytes.len() - TRAILER_LEN;
            bytes[trailer_at + at] = byte;
            let sum = crc32c::crc32c(&bytes[trailer_at..trailer_at + 92]).to_le_bytes();
            bytes[trailer_at + 92..trailer_at + 96].copy_from_slice(&sum);
            decode_everything(&bytes);
        }
    }
}

/// The bodies of frames, whatever their head says.
fn decode_bodies(body: &[u8]) {
    let _ = Open::decode(body);
    let _ = Opened::decode(body);
    let _ = Records::decode(body);
    let _ = Progress::decode(body);
    let _ = End::decode(body);
    let _ = Tenure::decode(body);
    let _ = Declare::decode(body);
    let _ = Attend::decode(body);
    let _ = Report::decode(body);
    let _ = Ask::decode(body);
    let _ = Answer::decode(body);
    let _ = Begin::decode(body);
    let _ = Recall::decode(body);
    let _ = OwnEnd::decode(body);
    let _ = decode_own_end_is(body);
    let _ = Dirty::decode(body);
    let _ = Fetch::decode(body);
    let _ = Target::decode(body);
    let _ = Blocks::decode(body);
    let _ = Reached::decode(body);
    let _ = Fetched::decode(body);
    let _ = lifeboat_format::stream::Standing::decode(body);
}

fn decode_everything(bytes: &[u8]) {
    let key = group_key();
    let len = u64::try_from(bytes.len()).expect("small");
    let _ = SegmentHeader::decode_any(bytes);
    let _ = SegmentTrailer::decode(&bytes[bytes.len().saturating_sub(TRAILER_LEN)..], len);
    let _ = SegmentObject::open(bytes, &segment_place(), &key);
    let _ = MapHeader::decode_any(bytes);
    let _ = MapTrailer::decode(&bytes[bytes.len().saturating_sub(TRAILER_LEN)..], len);
    let _ = MapObject::open(bytes, &map_place(), &key);
    let _ = EpochIntent::decode(bytes, &epoch_place(), &key);
    let _ = EpochCut::decode(bytes, &epoch_place(), &key);
    let _ = newest_state(bytes, bytes);
    let _ = GroupState::decode(bytes);
    let _ = PresenceHeader::decode(bytes);
    let _ = lifeboat_format::dirty::DirtyMap::decode(bytes);
    let _ = lifeboat_format::journal::FileHeader::decode(bytes);
    if let Ok((header, _)) = lifeboat_format::journal::BatchHeader::decode(bytes) {
        let _ = lifeboat_format::journal::check_payload(&header, bytes);
    }
    let _ = lifeboat_format::journal::decode_point(bytes);
    let _ = FrameHead::decode(bytes);
    decode_bodies(bytes);
    if let Ok(description) = describe(bytes) {
        assert!(!description.to_string().is_empty());
    }
}

#[test]
fn writers_are_held_to_the_readers_rules() {
    let hasher = hasher();
    let keys = volume_keys();
    let block = text_block(1);
    let good = |lba| FrameBlock { lba, data: &block, hash: hasher.block(&block) };
    let mut builder = segment_builder();
    assert!(builder.push_frame(VOLUME, &keys.data, &[good(1)]).is_err(), "a volume that wasn't declared");
    builder.add_volume(VOLUME, 100, DATA_KEY).expect("a volume");
    assert!(builder.add_volume(VOLUME, 101, DATA_KEY).is_err());
    assert!(builder.add_volume(VOLUME, 100, 8).is_err());
    assert!(builder.add_volume(OTHER_VOLUME, 100, 0).is_err());
    assert!(builder.push_frame(VOLUME, &keys.data, &[]).is_err(), "no block");
    assert!(builder.push_frame(VOLUME, &keys.data, &[good(2), good(2)]).is_err(), "an address twice");
    assert!(builder.push_frame(VOLUME, &keys.data, &[good(2), good(1)]).is_err(), "descending addresses");
    let seventeen: Vec<_> = (0..17).map(good).collect();
    assert!(builder.push_frame(VOLUME, &keys.data, &seventeen).is_err(), "17 blocks");
    let zero = FrameBlock { lba: 0, data: &[0; BLOCK_SIZE], hash: BlockHash::ZERO };
    assert!(builder.push_frame(VOLUME, &keys.data, &[zero]).is_err(), "a zero block");
    assert!(builder.is_empty());

    let context = builder.context();
    let (first, second) = (builder.reserve_frame(), builder.reserve_frame());
    let prepare = |frame| prepare_frame(&context, frame, VOLUME, &context.frame_key(&keys.data), &[good(1)]);
    builder.push_prepared(prepare(second).expect("prepares")).expect("pushes");
    assert!(builder.push_prepared(prepare(first).expect("prepares")).is_err(), "out of order");
    assert!(builder.push_prepared(prepare(FrameNo(77)).expect("prepares")).is_err(), "not reserved");

    builder.push_trim(VOLUME, Extent { lba: 99, blocks: 2 }).expect("the size is looked at when it is sealed");
    let error = builder.seal(Lsn(1001), TIME).expect_err("past the end of the volume");
    assert!(matches!(error, FormatError::Refused { .. }), "{error}");
    let error = segment_builder().seal(Lsn(1000), TIME).expect_err("ends before it begins");
    assert!(matches!(error, FormatError::Refused { .. }), "{error}");
}

#[test]
fn order_is_kept() {
    let kinds: Vec<_> = segment(true)
        .index
        .operations
        .iter()
        .map(|operation| match operation {
            Operation::Frame(frame) => format!("frame {}", frame.0),
            Operation::Zero { extent, .. } => format!("zero {}+{}", extent.lba, extent.blocks),
            Operation::Trim { extent, .. } => format!("trim {}+{}", extent.lba, extent.blocks),
            Operation::Resize { size_blocks, .. } => format!("resize {size_blocks}"),
            Operation::Point(point) => format!("point {}", point.lsn),
        })
        .collect();
    assert_eq!(kinds, ["frame 0", "zero 8+2", "trim 0+1048576", "resize 2048", "frame 2", "point 1005"]);
}

#[test]
fn presence_bits_have_their_places() {
    assert_eq!(presence().file_len(), 4096 + 16384);
    assert_eq!(PresenceHeader::bit(0), (4096, 1));
    assert_eq!(PresenceHeader::bit(99_999), (4096 + 12499, 0x80));
}
