//! Nothing is believed that was not written: every bit of every object, every length, every other place.

use lifeboat_format::dirty::DirtyMap;
use lifeboat_format::epoch::{EpochCut, EpochIntent};
use lifeboat_format::keys::GroupKey;
use lifeboat_format::local::{GroupState, PresenceHeader, STATE_SLOT, STATE_VERSION, newest_state};
use lifeboat_format::map::MapObject;
use lifeboat_format::rebuilt::RebuiltObject;
use lifeboat_format::segment::{SEGMENT_VERSION, SegmentObject, TRAILER_LEN};
use lifeboat_format::stream::{FRAME_HEAD_LEN, FrameHead};
use lifeboat_format::{FORMAT_VERSION, FormatError};
use lifeboat_model::{BranchId, Epoch, GroupId, Lsn, MapId, SegmentSeq, VaultId};

use crate::fixture::*;

type Check = fn(&[u8]) -> Result<(), FormatError>;

fn check_segment(bytes: &[u8]) -> Result<(), FormatError> {
    let keys = volume_keys();
    SegmentObject::open(bytes, &segment_place(), &group_key())?.verify(|_| Some(&keys))
}

fn check_rebuilt(bytes: &[u8]) -> Result<(), FormatError> {
    let keys = volume_keys();
    RebuiltObject::open(bytes, &rebuilt_place(), &group_key())?.verify(|_| Some(&keys))
}

fn check_map(bytes: &[u8]) -> Result<(), FormatError> {
    MapObject::open(bytes, &map_place(), &group_key())?.read_all().try_for_each(|node| node.map(drop))
}

fn check_intent(bytes: &[u8]) -> Result<(), FormatError> {
    EpochIntent::decode(bytes, &epoch_place(), &group_key()).map(drop)
}

fn check_cut(bytes: &[u8]) -> Result<(), FormatError> {
    EpochCut::decode(bytes, &epoch_place(), &group_key()).map(drop)
}

fn objects() -> Vec<(&'static str, Vec<u8>, Check)> {
    vec![
        ("segment", segment(false).bytes, check_segment),
        ("segment of version 1", segment_v1(), check_segment),
        ("rebuilt segment", rebuilt(false).bytes, check_rebuilt),
        ("map", map().bytes, check_map),
        ("intent of a branch", intent(true).encode(&group_key()), check_intent),
        ("intent of a fence", intent(false).encode(&group_key()), check_intent),
        ("cut", cut().encode(&group_key()), check_cut),
    ]
}

/// A segment as the release before data-key epochs wrote it.
fn segment_v1() -> Vec<u8> {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("vectors/v1/segment.bin");
    std::fs::read(path).expect("the golden vector")
}

#[test]
fn untouched_objects_pass() {
    for (name, bytes, check) in objects() {
        check(&bytes).unwrap_or_else(|error| panic!("{name}: {error}"));
    }
    check_segment(&segment(true).bytes).expect("a segment with a raw frame");
}

#[test]
fn every_flipped_bit_is_found() {
    for (name, mut bytes, check) in objects() {
        for at in 0..bytes.len() {
            for bit in 0..8 {
                bytes[at] ^= 1 << bit;
                assert!(check(&bytes).is_err(), "{name}: bit {bit} of byte {at} of {} flipped unseen", bytes.len());
                bytes[at] ^= 1 << bit;
            }
        }
    }
}

/// A raw frame is 4 KiB of payload: one bit a byte is enough, the tag doesn't know bits.
#[test]
fn every_changed_byte_of_a_raw_frame_is_found() {
    let objects: [(Vec<u8>, Check); 2] = [(segment(true).bytes, check_segment), (rebuilt(true).bytes, check_rebuilt)];
    for (mut bytes, check) in objects {
        for at in 0..bytes.len() {
            bytes[at] ^= 0x40;
            assert!(check(&bytes).is_err(), "byte {at}");
            bytes[at] ^= 0x40;
        }
    }
}

#[test]
fn every_truncation_and_an_appended_byte_are_found() {
    for (name, mut bytes, check) in objects() {
        for len in 0..bytes.len() {
            assert!(check(&bytes[..len]).is_err(), "{name} cut to {len} bytes");
        }
        for extra in [0, 1, 0xff] {
            bytes.push(extra);
            assert!(check(&bytes).is_err(), "{name} with a byte {extra} appended");
            bytes.pop();
        }
        bytes.insert(0, 0);
        assert!(matches!(check(&bytes), Err(FormatError::NotThisKind { .. })), "{name} shifted by a byte");
    }
}

#[test]
fn a_segment_under_another_name_is_found() {
    let bytes = segment(false).bytes;
    let mut places = vec![segment_place(); 5];
    places[0].vault = VaultId::from_bytes([9; 16]);
    places[1].group = GroupId::from_bytes([9; 16]);
    places[2].id.branch = BranchId::from_bytes([9; 16]);
    places[3].id.epoch = Epoch(2);
    places[4].id.seq = SegmentSeq(15);
    for place in places {
        let error = SegmentObject::open(&bytes, &place, &group_key()).expect_err("another place");
        assert!(matches!(error, FormatError::Misplaced { .. }), "{error}");
    }
}

#[test]
fn a_rebuilt_segment_under_another_name_is_found() {
    let bytes = rebuilt(false).bytes;
    let mut places = vec![rebuilt_place(); 6];
    places[0].segment.vault = VaultId::from_bytes([9; 16]);
    places[1].segment.group = GroupId::from_bytes([9; 16]);
    places[2].segment.id.branch = BranchId::from_bytes([9; 16]);
    places[3].segment.id.epoch = Epoch(2);
    places[4].segment.id.seq = SegmentSeq(15);
    places[5].generation = 1;
    for place in places {
        let error = RebuiltObject::open(&bytes, &place, &group_key()).expect_err("another place");
        assert!(matches!(error, FormatError::Misplaced { .. }), "{error}");
    }
}

#[test]
fn a_map_under_another_name_is_found() {
    let bytes = map().bytes;
    let mut places = vec![map_place(); 5];
    places[0].vault = VaultId::from_bytes([9; 16]);
    places[1].group = GroupId::from_bytes([9; 16]);
    places[2].branch = BranchId::from_bytes([9; 16]);
    places[3].lsn = Lsn(1);
    places[4].id = MapId::from_bytes([9; 16]);
    for place in places {
        let error = MapObject::open(&bytes, &place, &group_key()).expect_err("another place");
        assert!(matches!(error, FormatError::Misplaced { .. }), "{error}");
    }
}

#[test]
fn an_epoch_under_another_name_is_found() {
    let mut places = vec![epoch_place(); 4];
    places[0].vault = VaultId::from_bytes([9; 16]);
    places[1].group = GroupId::from_bytes([9; 16]);
    places[2].branch = BranchId::from_bytes([9; 16]);
    places[3].epoch = Epoch(5);
    for place in places {
        let error = EpochIntent::decode(&intent(true).encode(&group_key()), &place, &group_key());
        assert!(matches!(error, Err(FormatError::Misplaced { .. })), "{error:?}");
        let error = EpochCut::decode(&cut().encode(&group_key()), &place, &group_key());
        assert!(matches!(error, Err(FormatError::Misplaced { .. })), "{error:?}");
    }
}

/// Somebody who can compute checksums and hashes, but holds no key, moves an object to another place.
#[test]
fn a_repaired_checksum_is_no_proof() {
    let mut bytes = segment(false).bytes;
    bytes[64] ^= 1; // the segment's number, in the header
    let crc = crc32c::crc32c(&bytes[..192]).to_le_bytes();
    bytes[192..196].copy_from_slice(&crc);
    let trailer_at = bytes.len() - TRAILER_LEN;
    let index_at = usize::try_from(segment(false).trailer.index_range().start).expect("small");
    let mut sealed = bytes[..196].to_vec();
    sealed.extend_from_slice(&bytes[index_at..trailer_at + 28]);
    bytes[trailer_at + 28..trailer_at + 60].copy_from_slice(blake3::hash(&sealed).as_bytes());
    let crc = crc32c::crc32c(&bytes[trailer_at..trailer_at + 92]).to_le_bytes();
    bytes[trailer_at + 92..trailer_at + 96].copy_from_slice(&crc);

    let mut place = segment_place();
    place.id.seq = SegmentSeq(15);
    let error = SegmentObject::open(&bytes, &place, &group_key()).expect_err("no key, no proof");
    assert_eq!(error, FormatError::Authentication { what: "segment trailer" });
}

/// A segment passed off as one of version 1, whose frames would all be read with the first key: the version is under the
/// seal hash and the MAC like every other byte of the header.
#[test]
fn a_version_can_not_be_lowered() {
    let mut bytes = segment(false).bytes;
    bytes[4..6].copy_from_slice(&1_u16.to_le_bytes());
    let crc = crc32c::crc32c(&bytes[..192]).to_le_bytes();
    bytes[192..196].copy_from_slice(&crc);
    let error = check_segment(&bytes).expect_err("another version");
    assert!(matches!(error, FormatError::Corrupt { what: "segment trailer", .. }), "{error}");
}

#[test]
fn another_key_says_so() {
    let other = GroupKey::from_bytes([1; 32]);
    let segment = segment(false).bytes;
    let map = map().bytes;
    let errors = [
        SegmentObject::open(&segment, &segment_place(), &other).map(drop),
        MapObject::open(&map, &map_place(), &other).map(drop),
        EpochIntent::decode(&intent(true).encode(&group_key()), &epoch_place(), &other).map(drop),
        EpochCut::decode(&cut().encode(&group_key()), &epoch_place(), &other).map(drop),
    ];
    for error in errors {
        assert!(matches!(error, Err(FormatError::WrongKey { .. })), "{error:?}");
    }
    let mut keys = volume_keys();
    keys.data = lifeboat_format::keys::DataKey::from_bytes([1; 32]);
    let opened = SegmentObject::open(&segment, &segment_place(), &group_key()).expect("the group's key is right");
    assert_eq!(opened.verify(|_| Some(&keys)), Err(FormatError::Authentication { what: "segment frame" }));
}

/// Nothing is damaged when a newer release wrote it, and the message must say what to do.
#[test]
fn a_newer_version_is_one_clear_error() {
    let mut files = objects();
    files.push(("state", state_file(), |bytes| newest(bytes).map(drop)));
    files.push(("dirty map", dirty().encode().expect("encodes"), |bytes| DirtyMap::decode(bytes).map(drop)));
    files.push(("presence", presence().encode(), |bytes| PresenceHeader::decode(bytes).map(drop)));
    files.push(("stream", stream_tenure().encode().expect("encodes"), |bytes| FrameHead::decode(bytes).map(drop)));
    for (name, mut bytes, check) in files {
        let known = match name {
            "state" => STATE_VERSION,
            _ if name.starts_with("segment") => SEGMENT_VERSION,
            _ => FORMAT_VERSION,
        };
        bytes[4..6].copy_from_slice(&(known + 1).to_le_bytes());
        let error = check(&bytes).expect_err(name);
        assert!(
            matches!(error, FormatError::NewerVersion { found, supported, .. } if found == known + 1 && supported == known),
            "{name}: {error}"
        );
        assert!(error.to_string().contains("use a newer release"), "{error}");
    }
}

/// Frames can't change places within a segment either.
#[test]
fn frames_are_bound_to_their_numbers() {
    let mut builder = segment_builder();
    builder.add_volume(VOLUME, 1024, DATA_KEY).expect("a volume");
    push_blocks(&mut builder, VOLUME, &[(3, text_block(1))]);
    push_blocks(&mut builder, VOLUME, &[(3, text_block(1))]);
    let mut sealed = builder.seal(Lsn(1002), TIME).expect("seals");
    let (first, second) = (sealed.index.frames[0].range(), sealed.index.frames[1].range());
    let range = |range: std::ops::Range<u64>| {
        usize::try_from(range.start).expect("small")..usize::try_from(range.end).expect("small")
    };
    let (a, b) = (sealed.bytes[range(first.clone())].to_vec(), sealed.bytes[range(second.clone())].to_vec());
    assert_eq!(a.len(), b.len());
    assert_ne!(a, b, "the same content under two numbers must not show as the same");
    sealed.bytes[range(first)].copy_from_slice(&b);
    sealed.bytes[range(second)].copy_from_slice(&a);
    assert_eq!(check_segment(&sealed.bytes), Err(FormatError::Authentication { what: "segment frame" }));
}

fn newest(file: &[u8]) -> Result<Option<GroupState>, FormatError> {
    newest_state(&file[..STATE_SLOT], &file[STATE_SLOT..])
}

#[test]
fn a_torn_slot_leaves_the_other_state() {
    let file = state_file();
    assert_eq!(newest(&file), Ok(Some(state(6, true))));
    for at in 0..4096 {
        let mut torn = file.clone();
        torn[at] ^= 0x20;
        match newest(&torn) {
            Ok(Some(chosen)) => assert_eq!(chosen, state(5, false), "byte {at}"),
            Err(FormatError::NewerVersion { .. }) => assert!((4..6).contains(&at), "byte {at}"),
            other => panic!("byte {at}: {other:?}"),
        }
    }
    let mut stale = file.clone();
    stale[4096..STATE_SLOT].fill(0x77);
    assert_eq!(newest(&stale), Ok(Some(state(6, true))), "what an older, longer state left behind is not read");

    let mut blank = file.clone();
    blank[STATE_SLOT..].fill(0);
    assert_eq!(newest(&blank), Ok(Some(state(6, true))));
    blank[7] ^= 1;
    assert!(newest(&blank).is_err(), "no intact state is an error, never an empty group");
    blank.fill(0);
    assert_eq!(newest(&blank), Ok(None));
    let mut misplaced = file;
    misplaced.rotate_left(STATE_SLOT);
    assert!(newest(&misplaced).is_err());
}

#[test]
fn the_largest_group_fits_in_a_slot() {
    let mut state = state(8, true);
    let mut volume = state.volumes[0].clone();
    volume.name = "n".repeat(255);
    state.volumes = vec![volume; lifeboat_format::GROUP_VOLUMES_MAX];
    let bytes = state.encode().expect("fits");
    assert!(bytes.len() <= STATE_SLOT && bytes.len().is_multiple_of(4096));
    assert_eq!(GroupState::decode(&bytes), Ok(state.clone()));
    state.volumes.push(state.volumes[0].clone());
    assert!(matches!(state.encode(), Err(FormatError::TooLarge { .. })));
    state.volumes.truncate(1);
    state.volumes[0].name.push('n');
    assert!(matches!(state.encode(), Err(FormatError::TooLarge { .. })));
}

#[test]
fn keys_never_show() {
    let shown = format!("{:?} {:?} {:?} {:?}", group_key(), volume_keys(), hasher(), segment_builder());
    assert!(!shown.contains("161") && !shown.contains("a1a1"), "{shown}");
}

/// No bit of a frame can change without being noticed.
#[test]
fn a_changed_bit_of_a_frame_is_noticed() {
    for (name, frame) in stream_frames() {
        for at in 0..frame.len() {
            for bit in 0..8 {
                let mut changed = frame.clone();
                changed[at] ^= 1 << bit;
                let (head, body) = changed.split_at(FRAME_HEAD_LEN);
                let read = FrameHead::decode(head).and_then(|head| head.verify(body));
                assert!(read.is_err(), "{name}: bit {bit} of byte {at}");
            }
        }
        for len in 0..frame.len() {
            let (head, body) = frame[..len].split_at(len.min(FRAME_HEAD_LEN));
            let read = FrameHead::decode(head).and_then(|head| head.verify(body));
            assert!(read.is_err(), "{name}: cut to {len} bytes");
        }
    }
}
