//! Golden bytes. Each file under `vectors/v<n>` was written once, from the fixed inputs in `fixture.rs`; n is the version
//! of its structure.
//!
//! To add a vector, or to take over bytes after the version was raised (into a new folder `vectors/v<n>`; the old ones
//! stay and must still decode): `LIFEBOAT_BLESS=1 cargo nextest run -p lifeboat-format vectors`, then look at what changed.

use std::path::PathBuf;

use lifeboat_format::at_rest::{Marker, open_text};
use lifeboat_format::dirty::DirtyMap;
use lifeboat_format::epoch::{EpochCut, EpochIntent};
use lifeboat_format::inspect::describe;
use lifeboat_format::journal::{BatchHeader, FileHeader, check_payload, decode_point};
use lifeboat_format::local::{GroupState, PresenceHeader, STATE_SLOT, newest_state};
use lifeboat_format::map::MapObject;
use lifeboat_format::rebuilt::RebuiltObject;
use lifeboat_format::segment::{FIRST_KEY, SegmentObject};
use lifeboat_format::stream::compare::{Compare, Keyed, Leaf, Leaves, Unequal};
use lifeboat_format::stream::recall::{
    Begin, Blocks, Dirty, Fetch, Fetched, OwnEnd, Reached, Recall, Target, decode_own_end_is,
};
use lifeboat_format::stream::{
    Answer, Ask, Attend, Declare, End, FRAME_HEAD_LEN, FrameHead, FrameKind, Open, Opened, Progress, Records, Report,
    Standing, Tenure, beat, declared, look, survey,
};
use lifeboat_model::PointKind;

use crate::fixture::*;

fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("vectors").join(name)
}

fn golden(name: &str) -> Vec<u8> {
    std::fs::read(path(name)).unwrap_or_else(|error| panic!("read the golden vector {name}: {error}"))
}

fn built() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("v2/segment.bin", segment(true).bytes),
        ("v1/rebuilt.bin", rebuilt(true).bytes),
        ("v1/map.bin", map().bytes),
        ("v1/epoch-intent-branch.bin", intent(true).encode(&group_key())),
        ("v1/epoch-intent-fence.bin", intent(false).encode(&group_key())),
        ("v1/epoch-cut.bin", cut().encode(&group_key())),
        ("v2/group-state.bin", state_file()),
        ("v1/presence-header.bin", presence().encode()),
        ("v1/dirty-map.bin", dirty().encode().expect("within the limits")),
        ("v2/journal-file-header.bin", journal_file_header().encode().to_vec()),
        ("v2/journal-batch.bin", journal_batch()),
        ("v1/at-rest-marker.bin", at_rest_marker().encode()),
        ("v1/at-rest-text.bin", at_rest_text()),
        ("v1/at-rest-file.bin", at_rest_file()),
        ("v1/stream-look.bin", look()),
        ("v1/stream-beat.bin", beat()),
        ("v1/stream-declared.bin", declared()),
        ("v1/stream-survey.bin", survey()),
    ]
    .into_iter()
    .chain(stream_frames().into_iter().map(|(name, frame)| {
        let name = match name {
            "open" => "v1/stream-open.bin",
            "opened" => "v1/stream-opened.bin",
            "records" => "v1/stream-records.bin",
            "progress" => "v1/stream-progress.bin",
            "end" => "v1/stream-end.bin",
            "declare" => "v1/stream-declare.bin",
            "attend" => "v1/stream-attend.bin",
            "attend-able" => "v1/stream-attend-able.bin",
            "report" => "v1/stream-report.bin",
            "ask-point" => "v1/stream-ask-point.bin",
            "ask-release" => "v1/stream-ask-release.bin",
            "ask-resume" => "v1/stream-ask-resume.bin",
            "ask-resync" => "v1/stream-ask-resync.bin",
            "ask-doubt" => "v1/stream-ask-doubt.bin",
            "ask-rehydrate" => "v1/stream-ask-rehydrate.bin",
            "ask-take-over" => "v1/stream-ask-take-over.bin",
            "ask-barrier-quiet" => "v1/stream-ask-barrier-quiet.bin",
            "ask-barrier-hold" => "v1/stream-ask-barrier-hold.bin",
            "ask-barrier-mark" => "v1/stream-ask-barrier-mark.bin",
            "ask-barrier-let-go" => "v1/stream-ask-barrier-let-go.bin",
            "ask-rules" => "v1/stream-ask-rules.bin",
            "ask-compare" => "v1/stream-ask-compare.bin",
            "compare" => "v1/stream-compare.bin",
            "keyed" => "v1/stream-keyed.bin",
            "leaves" => "v1/stream-leaves.bin",
            "unequal" => "v1/stream-unequal.bin",
            "leaf" => "v1/stream-leaf.bin",
            "begin-fork" => "v1/stream-begin-fork.bin",
            "begin-fork-at-point" => "v1/stream-begin-fork-at-point.bin",
            "begin-on" => "v1/stream-begin-on.bin",
            "recall" => "v1/stream-recall.bin",
            "own-end" => "v1/stream-own-end.bin",
            "own-end-is" => "v1/stream-own-end-is.bin",
            "dirty" => "v1/stream-dirty.bin",
            "fetch" => "v1/stream-fetch.bin",
            "fetch-full" => "v1/stream-fetch-full.bin",
            "target" => "v1/stream-target.bin",
            "blocks" => "v1/stream-blocks.bin",
            "blocks-zero" => "v1/stream-blocks-zero.bin",
            "reached" => "v1/stream-reached.bin",
            "fetched" => "v1/stream-fetched.bin",
            "standing" => "v1/stream-standing.bin",
            "answer-point" => "v1/stream-answer-point.bin",
            "answer-done" => "v1/stream-answer-done.bin",
            "answer-refused" => "v1/stream-answer-refused.bin",
            _ => "v1/stream-tenure.bin",
        };
        (name, frame)
    }))
    .collect()
}

#[test]
fn vectors_are_written_byte_for_byte() {
    let bless = std::env::var_os("LIFEBOAT_BLESS").is_some();
    for (name, bytes) in built() {
        if bless {
            std::fs::create_dir_all(path(name).parent().expect("a folder")).expect("make the folder");
            std::fs::write(path(name), &bytes).expect("write the golden vector");
        }
        let golden = golden(name);
        let differs = golden.iter().zip(&bytes).position(|(old, new)| old != new);
        assert!(
            golden == bytes,
            "{name}: {} bytes were {}, and byte {differs:?} differs.\n\
             The format changed: existing vaults and journals hold the old bytes. Raise the version, keep reading the old \
             one, and write the new vectors beside the old (see the head of this file). If nothing but zstd's choices \
             changed (a new release of the library), the old vectors still decode: then bless them anew.",
            bytes.len(),
            golden.len(),
        );
    }
}

/// What holds whatever happens to the writers: every version is read for ever.
#[test]
fn segments_of_every_version_decode_to_what_was_written() {
    let keys = volume_keys();
    for (name, version, data_keys) in [("v1/segment.bin", 1, [FIRST_KEY; 2]), ("v2/segment.bin", 2, [DATA_KEY, 1])] {
        let bytes = golden(name);
        let object = SegmentObject::open(&bytes, &segment_place(), &group_key()).expect("opens");
        object.verify(|_| Some(&keys)).expect("every block equals its hash");
        let mut written = segment(true);
        written.header.version = version;
        assert_eq!(object.header, written.header, "{name}");
        assert_eq!(object.index.operations, written.index.operations, "{name}");
        let found: Vec<u32> = object.index.volumes.iter().map(|volume| volume.key).collect();
        assert_eq!(found, data_keys, "{name}");
        let raw = object.frame(object.index.frames[0].frame, &keys.data).expect("a frame");
        assert_eq!(raw, [text_block(1), text_block(2), text_block(3)].concat(), "{name}");
    }
}

/// What holds whatever happens to the writers: version 1 is read for ever.
#[test]
fn vectors_decode_to_what_was_written() {
    let bytes = golden("v1/rebuilt.bin");
    let object = RebuiltObject::open(&bytes, &rebuilt_place(), &group_key()).expect("opens");
    let keys = volume_keys();
    object.verify(|_| Some(&keys)).expect("every block equals its hash");
    assert_eq!((&object.header, &object.index), (&rebuilt(true).header, &rebuilt(true).index));
    assert_eq!(object.frame(1, &volume_keys().data).expect("a frame"), noise_block(5));

    let bytes = golden("v1/map.bin");
    let object = MapObject::open(&bytes, &map_place(), &group_key()).expect("opens");
    assert_eq!(object.header, map().header);
    assert_eq!(object.footer.points, map().footer.points);
    assert_eq!(object.footer.roots[0].hash(), map().footer.roots[0].hash());
    assert_eq!(object.read_all().filter(Result::is_ok).count(), 2);

    let place = epoch_place();
    let key = group_key();
    assert_eq!(EpochIntent::decode(&golden("v1/epoch-intent-branch.bin"), &place, &key), Ok(intent(true)));
    assert_eq!(EpochIntent::decode(&golden("v1/epoch-intent-fence.bin"), &place, &key), Ok(intent(false)));
    assert_eq!(EpochCut::decode(&golden("v1/epoch-cut.bin"), &place, &key), Ok(cut()));
    for (name, newest, other) in [
        ("v1/group-state.bin", state_v1(6, true), state_v1(5, false)),
        ("v2/group-state.bin", state(6, true), state(5, false)),
    ] {
        let file = golden(name);
        assert_eq!(newest_state(&file[..STATE_SLOT], &file[STATE_SLOT..]), Ok(Some(newest)));
        assert_eq!(GroupState::decode(&file[STATE_SLOT..]), Ok(other));
    }
    assert_eq!(PresenceHeader::decode(&golden("v1/presence-header.bin")), Ok(presence()));

    assert_eq!(DirtyMap::decode(&golden("v1/dirty-map.bin")), Ok(dirty()));

    assert_eq!(Marker::decode(&golden("v1/at-rest-marker.bin")), Ok(at_rest_marker()));
    let text = open_text(&local_key(), "vaults.json", &golden("v1/at-rest-text.bin")).expect("opens");
    assert_eq!(text.as_slice(), b"[]");
    let mut file = golden("v1/at-rest-file.bin");
    at_rest_marker().open(&local_key()).expect("its key").file("dirty-a").decrypt(0, &mut file);
    assert_eq!(DirtyMap::decode(&file), Ok(dirty()));

    let body = |name: &str, kind: FrameKind| {
        let frame = golden(name);
        let (head, body) = frame.split_at(FRAME_HEAD_LEN);
        let head = FrameHead::decode(head).expect("a head");
        assert_eq!((head.kind, head.verify(body)), (kind, Ok(())));
        body.to_vec()
    };
    assert_eq!(Open::decode(&body("v1/stream-open.bin", FrameKind::Open)), Ok(stream_open()));
    assert_eq!(Opened::decode(&body("v1/stream-opened.bin", FrameKind::Opened)), Ok(stream_opened()));
    let (block, point) = (text_block(1), journal_point());
    let records = body("v1/stream-records.bin", FrameKind::Records);
    assert_eq!(Records::decode(&records), Ok(stream_records(&block, &point)));
    assert_eq!(Progress::decode(&body("v1/stream-progress.bin", FrameKind::Progress)), Ok(stream_progress()));
    assert_eq!(End::decode(&body("v1/stream-end.bin", FrameKind::End)), Ok(stream_end()));
    assert_eq!(Tenure::decode(&body("v1/stream-tenure.bin", FrameKind::Tenure)), Ok(stream_tenure()));

    assert_eq!(Declare::decode(&body("v1/stream-declare.bin", FrameKind::Declare)), Ok(stream_declare()));
    assert_eq!(Attend::decode(&body("v1/stream-attend.bin", FrameKind::Attend)), Ok(stream_attend()));
    assert_eq!(Attend::decode(&body("v1/stream-attend-able.bin", FrameKind::Attend)), Ok(stream_attend_able()));
    assert_eq!(Compare::decode(&body("v1/stream-compare.bin", FrameKind::Compare)), Ok(stream_compare()));
    let keyed = Keyed::decode(&body("v1/stream-keyed.bin", FrameKind::Keyed)).expect("decodes");
    for (found, written) in keyed.volumes.iter().zip(stream_keyed().volumes) {
        assert_eq!((found.volume, found.blocks), (written.volume, written.blocks));
        assert_eq!(found.key.expose(), written.key.expose());
    }
    assert_eq!(Leaves::decode(&body("v1/stream-leaves.bin", FrameKind::Leaves)), Ok(stream_leaves()));
    assert_eq!(Unequal::decode(&body("v1/stream-unequal.bin", FrameKind::Unequal)), Ok(stream_unequal()));
    assert_eq!(Leaf::decode(&body("v1/stream-leaf.bin", FrameKind::Leaf)), Ok(stream_leaf()));
    assert_eq!(Report::decode(&body("v1/stream-report.bin", FrameKind::Report)), Ok(stream_report()));
    for (name, ask) in stream_asks() {
        assert_eq!(Ask::decode(&body(&format!("v1/stream-{name}.bin"), FrameKind::Ask)), Ok(ask));
    }
    for (name, begin) in stream_begins() {
        assert_eq!(Begin::decode(&body(&format!("v1/stream-{name}.bin"), FrameKind::Begin)), Ok(begin));
    }
    for (name, fetch) in stream_fetches() {
        assert_eq!(Fetch::decode(&body(&format!("v1/stream-{name}.bin"), FrameKind::Fetch)), Ok(fetch));
    }
    assert_eq!(Recall::decode(&body("v1/stream-recall.bin", FrameKind::Recall)), Ok(stream_recall()));
    assert_eq!(OwnEnd::decode(&body("v1/stream-own-end.bin", FrameKind::OwnEnd)), Ok(stream_own_end()));
    let own_end_is = decode_own_end_is(&body("v1/stream-own-end-is.bin", FrameKind::OwnEndIs));
    assert_eq!(own_end_is, Ok(stream_branch_place()));
    assert_eq!(Dirty::decode(&body("v1/stream-dirty.bin", FrameKind::Dirty)), Ok(stream_dirty()));
    assert_eq!(Target::decode(&body("v1/stream-target.bin", FrameKind::Target)), Ok(stream_target()));
    assert_eq!(Blocks::decode(&body("v1/stream-blocks.bin", FrameKind::Blocks)), Ok(stream_blocks(Some(&block))));
    assert_eq!(Blocks::decode(&body("v1/stream-blocks-zero.bin", FrameKind::Blocks)), Ok(stream_blocks(None)));
    assert_eq!(Reached::decode(&body("v1/stream-reached.bin", FrameKind::Reached)), Ok(stream_reached()));
    assert_eq!(Fetched::decode(&body("v1/stream-fetched.bin", FrameKind::Fetched)), Ok(stream_fetched()));
    assert_eq!(Standing::decode(&body("v1/stream-standing.bin", FrameKind::Standing)), Ok(stream_standing()));
    for (name, answer) in stream_answers() {
        assert_eq!(Answer::decode(&body(&format!("v1/stream-{name}.bin"), FrameKind::Answer)), Ok(answer));
    }

    for (version, written) in [("v1", journal_batch_header_v1()), ("v2", journal_batch_header())] {
        let file = golden(&format!("{version}/journal-file-header.bin"));
        assert_eq!(FileHeader::decode(&file), Ok(journal_file_header()));
        let batch = golden(&format!("{version}/journal-batch.bin"));
        let (header, _) = BatchHeader::decode(&batch).expect("decodes");
        assert_eq!(header, written);
        let places = check_payload(&header, &batch).expect("intact");
        assert_eq!(batch[places[0].0..][..places[0].1], text_block(1));
        let point = decode_point(&batch[places[4].0..][..places[4].1]).expect("a point");
        assert_eq!(point, (POINT.to_bytes(), TIME, PointKind::Manual.code(), "before the upgrade".to_owned()));
    }
}

/// `lifeboat inspect` knows every kind, and says so from clear text alone.
#[test]
fn every_kind_is_described() {
    for (name, bytes) in built().into_iter().filter(|(name, _)| *name != "v1/at-rest-file.bin") {
        let description = describe(&bytes).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(description.problems.is_empty(), "{name}: {description}");
        let text = description.to_string();
        let expected = match name {
            "v2/segment.bin" => "br-33333333333333333333333333333333",
            "v1/rebuilt.bin" => "generation         2",
            "v1/map.bin" => "map-abababababababababababababababab",
            "v1/epoch-intent-branch.bin" => "forked at position 1005",
            "v1/epoch-intent-fence.bin" => "br-45454545454545454545454545454545",
            "v1/epoch-cut.bin" => "ends epoch",
            "v2/group-state.bin" => "rehydrating",
            "v1/at-rest-marker.bin" => "AES-256-XTS",
            "v1/at-rest-text.bin" => "encrypted text",
            "v1/dirty-map.bin" => "520 of 2048 blocks, in 2 runs",
            "v1/presence-header.bin" => "vol-44444444444444444444444444444444",
            "v1/stream-tenure.bin" => "began after        950",
            "v1/stream-records.bin" => "last position      966",
            _ if name.starts_with("v1/stream-") => "holds",
            _ => "grp-22222222222222222222222222222222",
        };
        assert!(text.contains(expected), "{name}:\n{text}");
    }
}
